//! The `spillway` command.

use std::io::{IsTerminal, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::{Parser, Subcommand};
use spillway::app::{self, StartError};
use spillway::config::{Config, Log, LogFormat};
use spillway::console;
use spillway::monitor::live;
use tracing::error;
use tracing_subscriber::EnvFilter;

/// A MySQL-aware TCP proxy that is never more permissive than the servers behind it.
#[derive(Debug, Parser)]
#[command(version, about)]
struct Arguments {
    #[command(subcommand)]
    command: Action,
}

#[derive(Debug, Subcommand)]
enum Action {
    /// Serve clients until SIGTERM or SIGINT; SIGHUP reads the configuration again.
    Run {
        #[command(flatten)]
        file: File,
    },
    /// Check the configuration; exit code 64 when something is wrong.
    Check {
        #[command(flatten)]
        file: File,
        /// Log in to every node as well, and tell what the monitor account lacks.
        #[arg(long)]
        live: bool,
    },
    /// Run one command of the console of the running Spillway, such as `show nodes`; exit code 1 when it was not done.
    Ctl {
        #[command(flatten)]
        file: File,
        /// The command, word by word; `help` tells which there are.
        #[arg(required = true, trailing_var_arg = true, allow_hyphen_values = true)]
        words: Vec<String>,
    },
}

#[derive(Debug, clap::Args)]
struct File {
    /// Configuration file.
    #[arg(short, long, value_name = "FILE", default_value_os_t = app::default_path().to_owned())]
    config: PathBuf,
}

fn main() -> ExitCode {
    let arguments = match Arguments::try_parse() {
        Ok(arguments) => arguments,
        Err(e) => {
            // The exit code of a wrong command line is that of a wrong configuration.
            let code = if e.use_stderr() { 64 } else { 0 };
            let _ = e.print();
            return ExitCode::from(code);
        }
    };
    let result = match arguments.command {
        Action::Run { file } => run(&file.config),
        Action::Check { file, live } => check(&file.config, live),
        Action::Ctl { file, words } => ctl(&file.config, &words),
    };
    match result {
        Ok(code) => code,
        Err(e) => {
            complain(&e.to_string());
            ExitCode::from(e.exit_code())
        }
    }
}

fn load(path: &Path) -> Result<Config, StartError> {
    Config::load(path).map_err(|e| StartError::Configuration(e.to_string().trim_end().to_owned()))
}

fn run(path: &Path) -> Result<ExitCode, StartError> {
    let config = load(path)?;
    start_log(&config.log)?;
    log_panics();
    for warning in &config.warnings {
        tracing::warn!("{warning}");
    }
    app::run(config, path.to_owned()).inspect_err(|e| error!(reason = %e, "not running"))?;
    Ok(ExitCode::SUCCESS)
}

fn check(path: &Path, live: bool) -> Result<ExitCode, StartError> {
    let config = load(path)?;
    for warning in &config.warnings {
        say(&format!("warning: {warning}"));
    }
    say(&format!("{}: the configuration is valid", path.display()));
    if !live {
        return Ok(ExitCode::SUCCESS);
    }
    let reports = runtime()?.block_on(live::check(&config));
    let mut healthy = true;
    for report in reports {
        let facts = report.facts.as_deref().unwrap_or("not reached");
        say(&format!("{}: {facts}", report.node));
        for problem in &report.problems {
            healthy = false;
            say(&format!("  problem: {problem}"));
        }
        for statement in &report.statements {
            say(&format!("  run on the cluster: {statement}"));
        }
    }
    Ok(if healthy { ExitCode::SUCCESS } else { ExitCode::from(69) })
}

fn ctl(path: &Path, words: &[String]) -> Result<ExitCode, StartError> {
    let config = load(path)?;
    let said = runtime()?.block_on(console::ctl(&config.admin, words));
    let said = said.map_err(|e| StartError::Unavailable(e.to_string()))?;
    let mut out: Box<dyn Write> =
        if said.failed { Box::new(std::io::stderr()) } else { Box::new(std::io::stdout()) };
    // Whoever closed it wants no more.
    let _ = out.write_all(said.text.as_bytes());
    Ok(ExitCode::from(u8::from(said.failed)))
}

fn runtime() -> Result<tokio::runtime::Runtime, StartError> {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|e| StartError::Internal(e.to_string()))
}

fn start_log(log: &Log) -> Result<(), StartError> {
    let filter =
        EnvFilter::try_new(&log.level).map_err(|e| StartError::Configuration(format!("log.level: {e}")))?;
    let subscriber = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr);
    match log.format {
        LogFormat::Json => subscriber.json().flatten_event(true).init(),
        LogFormat::Text => subscriber.with_ansi(std::io::stderr().is_terminal()).init(),
    }
    Ok(())
}

/// A panic ends one session; it is logged like everything else, without its payload's memory.
fn log_panics() {
    std::panic::set_hook(Box::new(|panic| {
        let place = panic.location().map(ToString::to_string).unwrap_or_default();
        let text = panic.payload_as_str().unwrap_or("no text");
        error!(place, text, "panic");
    }));
}

fn say(line: &str) {
    // A closed standard output ends nothing that matters.
    let _ = writeln!(std::io::stdout(), "{line}");
}

fn complain(line: &str) {
    let _ = writeln!(std::io::stderr(), "{line}");
}
