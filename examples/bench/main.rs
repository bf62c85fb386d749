//! `make bench`: the same loads on a server directly, through HAProxy and through Spillway, in turns.
//!
//! Starts one MariaDB, one HAProxy (TCP mode) and one Spillway on loopback, lets sysbench work through each of them
//! for a few seconds, round after round, and prints the medians as a table with ratios, which is also written to
//! `target/bench/latest.md` and `target/bench/latest.json`. Everything that it started is gone afterwards.
//!
//! Environment: `SECONDS_EACH` (default 3) and `ROUNDS` (default 5); `ONLY`, names of workloads or beginnings of them,
//! separated by commas; `PEERS`, other proxies in front of a server with the same data, as `NAME=PORT:PID`
//! separated by spaces; `SERVER_PORT`, the port for the server, so that peers can be pointed at it beforehand.

#![allow(clippy::disallowed_methods, reason = "a program of its own, whose threads may block")]
#![allow(clippy::print_stdout, clippy::print_stderr, reason = "it talks to the person who started it")]
#![allow(clippy::cast_precision_loss, reason = "figures are printed with three digits")]

#[path = "../../tests/harness/mod.rs"]
mod harness;

mod gauge;
mod idle;
mod report;
mod workload;

use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};
use std::time::Duration;

use harness::process::{self, Process, RunAs};
use harness::proxy::Spillway;
use harness::server::{MONITOR_PASSWORD, MONITOR_USER, Server};
use harness::{Outcome, wait_for, workspace};
use indicatif::{ProgressBar, ProgressStyle};
use report::{Figures, Round};
use tokio::signal::unix::{SignalKind, signal};
use workload::{Account, Kind, Script, Until, WORKLOADS, Workload};

const ACCOUNT: Account<'_> = Account { user: "bench", password: "bench-secret", schema: "bench" };

#[tokio::main]
async fn main() -> ExitCode {
    let Ok(mut interrupt) = signal(SignalKind::interrupt()) else { return ExitCode::FAILURE };
    let Ok(mut terminate) = signal(SignalKind::terminate()) else { return ExitCode::FAILURE };
    let work = tokio::task::spawn_blocking(|| Settings::from_environment().and_then(|s| bench(&s)));
    let code = tokio::select! {
        _ = interrupt.recv() => 130,
        _ = terminate.recv() => 143,
        result = work => match result {
            Ok(Ok(())) => 0,
            Ok(Err(reason)) => {
                eprintln!("\nThe benchmark failed: {reason}");
                1
            }
            Err(panic) => {
                eprintln!("\nThe benchmark failed: {panic}");
                1
            }
        },
    };
    process::stop_everything();
    // Not by returning: after Ctrl-C a load may still be running on the other thread.
    std::process::exit(code)
}

struct Settings {
    seconds: u32,
    rounds: u32,
    workloads: Vec<&'static Workload>,
    peers: Vec<Target>,
    server_port: Option<u16>,
}

impl Settings {
    fn from_environment() -> Outcome<Self> {
        let variable = |name: &str| std::env::var(name).ok().filter(|value| !value.is_empty());
        let number = |name: &str, default: u32| match variable(name) {
            None => Ok(default),
            Some(text) => text.parse().map_err(|_| format!("{name}={text} is no number")),
        };
        let only = variable("ONLY").unwrap_or_default();
        let only: Vec<&str> = only.split(',').map(str::trim).filter(|name| !name.is_empty()).collect();
        if let Some(unknown) = only.iter().find(|o| !WORKLOADS.iter().any(|w| w.name.starts_with(**o))) {
            let names: Vec<&str> = WORKLOADS.iter().map(|w| w.name).collect();
            return Err(format!("ONLY={unknown}: there are {}", names.join(" ")));
        }
        let workloads =
            WORKLOADS.iter().filter(|w| only.is_empty() || only.iter().any(|o| selects(o, w.name))).collect();
        let peers = variable("PEERS").unwrap_or_default();
        Ok(Self {
            seconds: number("SECONDS_EACH", 3)?.clamp(1, 600),
            rounds: number("ROUNDS", 5)?.clamp(1, 100),
            workloads,
            peers: peers.split_whitespace().map(peer).collect::<Outcome<_>>()?,
            server_port: variable("SERVER_PORT")
                .map(|text| text.parse().map_err(|_| format!("SERVER_PORT={text} is no port")))
                .transpose()?,
        })
    }
}

/// Whether a word of `ONLY` means a workload: by its whole name, or by the beginning of names that is no name.
fn selects(word: &str, name: &str) -> bool {
    name == word || (name.starts_with(word) && !WORKLOADS.iter().any(|w| w.name == word))
}

/// Where a load is sent.
#[derive(Clone, Debug)]
struct Target {
    name: String,
    port: u16,
    /// The proxy's process; none where there is no proxy.
    pid: Option<u32>,
}

fn peer(text: &str) -> Outcome<Target> {
    let parsed = || {
        let (name, place) = text.split_once('=')?;
        let (port, pid) = place.split_once(':')?;
        let pid = pid.parse().ok()?;
        Some(Target { name: name.to_owned(), port: port.parse().ok()?, pid: Some(pid) })
    };
    let target = parsed().ok_or_else(|| format!("PEERS: {text:?} is not NAME=PORT:PID"))?;
    if ["direct", "haproxy", "spillway"].contains(&target.name.as_str()) {
        return Err(format!("PEERS: the name {} is taken", target.name));
    }
    Ok(target)
}

/// Everything that runs; fields are stopped in this order.
struct Stage {
    _spillway: Spillway,
    _haproxy: Process,
    _server: Server,
    targets: Vec<Target>,
    folder: PathBuf,
    about: Vec<String>,
}

fn bench(settings: &Settings) -> Outcome<()> {
    let stage = set_up(settings)?;
    let loads = settings.workloads.iter().filter(|w| matches!(w.kind, Kind::Load { .. })).count();
    let steps = loads * stage.targets.len() * settings.rounds as usize + settings.workloads.len() - loads;
    let style = ProgressStyle::with_template("{bar:40} {pos}/{len} {msg} ({elapsed}, {eta} to go)")
        .map_err(|e| e.to_string())?;
    let bar = ProgressBar::new(steps as u64).with_style(style);
    bar.enable_steady_tick(Duration::from_millis(500));
    let mut figures = Vec::new();
    for workload in &settings.workloads {
        match workload.kind {
            Kind::Idle(sessions) => {
                bar.set_message(workload.name);
                figures.extend(memory(&stage, workload, sessions)?);
                bar.inc(1);
            }
            Kind::Load { .. } => figures.extend(load(&stage, settings, workload, &bar)?),
        }
    }
    bar.set_message("system calls");
    let mut about = stage.about.clone();
    about.extend(system_calls(&stage));
    bar.finish_and_clear();
    let text = report::markdown(&figures, &about);
    println!("{text}");
    let folder = output_folder()?;
    std::fs::create_dir_all(&folder).map_err(|e| format!("{}: {e}", folder.display()))?;
    let json = serde_json::to_string_pretty(&figures).map_err(|e| e.to_string())?;
    for (name, content) in [("latest.md", text), ("latest.json", json + "\n")] {
        let path = folder.join(name);
        std::fs::write(&path, content).map_err(|e| format!("{}: {e}", path.display()))?;
        println!("written: {}", path.display());
    }
    Ok(())
}

/// Where the figures go: `bench` in cargo's target directory.
fn output_folder() -> Outcome<PathBuf> {
    let mine = std::env::current_exe().map_err(|e| format!("where am I? {e}"))?;
    let target = mine.ancestors().nth(3).ok_or("not in a target directory")?;
    Ok(target.join("bench"))
}

/// One load on all targets in turns, round after round.
fn load(stage: &Stage, settings: &Settings, workload: &Workload, bar: &ProgressBar) -> Outcome<Vec<Figures>> {
    let Kind::Load { threads, script, tls } = workload.kind else { return Ok(Vec::new()) };
    let mut runs: Vec<Vec<Round>> = vec![Vec::new(); stage.targets.len()];
    for round in 0..settings.rounds as usize {
        for n in 0..stage.targets.len() {
            // Every target is first in some round.
            let which = (n + round) % stage.targets.len();
            let target = &stage.targets[which];
            bar.set_message(format!("{} {}", workload.name, target.name));
            let before = target.pid.map(gauge::cpu_us).transpose()?;
            let until = Until::Seconds(settings.seconds);
            let ran = workload::run(target.port, threads, script, tls, until, &ACCOUNT, &stage.folder)
                .map_err(|e| format!("{} on {}: {e}", workload.name, target.name))?;
            let after = target.pid.map(gauge::cpu_us).transpose()?;
            let cpu = before.zip(after).map(|(b, a)| a.saturating_sub(b) as f64 / ran.queries.max(1) as f64);
            runs[which].push(Round { qps: ran.qps, p99_ms: ran.p99_ms, cpu_us_per_query: cpu });
            bar.inc(1);
        }
    }
    let figures = stage.targets.iter().zip(runs).map(|(target, runs)| Figures {
        workload: workload.name,
        target: target.name.clone(),
        qps: report::median(runs.iter().map(|round| round.qps).collect()),
        p99_ms: report::median(runs.iter().map(|round| round.p99_ms).collect()),
        cpu_us_per_query: report::median(runs.iter().filter_map(|round| round.cpu_us_per_query).collect()),
        rss_kb_per_session: None,
        rounds: runs,
    });
    Ok(figures.collect())
}

/// Which system calls a proxy makes for one point select at 16 connections, as a note for each proxy.
fn system_calls(stage: &Stage) -> Vec<String> {
    const STATEMENTS: u32 = 5_000;
    let mut notes = Vec::new();
    for target in &stage.targets {
        let Some(pid) = target.pid else { continue };
        let load = || {
            let until = Until::Statements(STATEMENTS);
            workload::run(target.port, 16, Script::Point, false, until, &ACCOUNT, &stage.folder)
        };
        let note = match gauge::system_calls(pid, load) {
            Ok((calls, ran)) => {
                let each =
                    |(name, count): &(String, u64)| (name.clone(), *count as f64 / ran.queries.max(1) as f64);
                let most = calls.iter().map(each).filter(|(_, share)| *share >= 0.05);
                most.map(|(name, share)| format!("{share:.2} {name}")).collect::<Vec<_>>().join(", ")
            }
            Err(reason) => format!("not counted: {reason}"),
        };
        notes.push(format!("system calls of {} for a point select at 16 connections: {note}", target.name));
    }
    notes
}

/// How much memory each of many silent sessions adds to each proxy.
fn memory(stage: &Stage, workload: &Workload, sessions: usize) -> Outcome<Vec<Figures>> {
    const WARM: usize = 20;
    let mut figures = Vec::new();
    for target in &stage.targets {
        let Some(pid) = target.pid else { continue };
        let complain = |e: String| format!("{} on {}: {e}", workload.name, target.name);
        drop(idle::open(target.port, WARM, &ACCOUNT).map_err(complain)?);
        std::thread::sleep(Duration::from_millis(300));
        let before = gauge::rss_kb(pid)?;
        let open = idle::open(target.port, sessions, &ACCOUNT).map_err(complain)?;
        std::thread::sleep(Duration::from_millis(500));
        let after = gauge::rss_kb(pid)?;
        drop(open);
        // The server ends its threads before the next target fills them again.
        std::thread::sleep(Duration::from_secs(2));
        figures.push(Figures {
            workload: workload.name,
            target: target.name.clone(),
            qps: None,
            p99_ms: None,
            cpu_us_per_query: None,
            rss_kb_per_session: Some(after.saturating_sub(before) as f64 / sessions as f64),
            rounds: Vec::new(),
        });
    }
    Ok(figures)
}

fn set_up(settings: &Settings) -> Outcome<Stage> {
    println!("Starting MariaDB, HAProxy and Spillway on 127.0.0.1 …");
    let folder = workspace::directory("bench")?;
    std::fs::write(folder.join("statements.lua"), include_str!("statements.lua"))
        .map_err(|e| format!("{}: {e}", folder.display()))?;
    certificates(&folder)?;
    workspace::give_to_server_user(&folder)?;

    let server = start_server(settings.server_port, &folder)?;
    workload::prepare(server.port, &ACCOUNT, &folder)?;
    let (haproxy, haproxy_port) = start_haproxy(server.port, &folder)?;
    let (spillway, spillway_port) = start_spillway(&server, &folder)?;
    let mut targets = vec![
        Target { name: "direct".to_owned(), port: server.port, pid: None },
        Target { name: "haproxy".to_owned(), port: haproxy_port, pid: Some(haproxy.pid()) },
        Target { name: "spillway".to_owned(), port: spillway_port, pid: Some(spillway.pid()) },
    ];
    targets.extend(settings.peers.iter().cloned());
    let cores = std::thread::available_parallelism().map_or(0, std::num::NonZero::get);
    let version = |program: &str, argument: &str| {
        let text = process::run(Command::new(program).arg(argument)).unwrap_or_default();
        text.lines().next().unwrap_or_default().trim().to_owned()
    };
    let about = vec![
        format!("{cores} cores; {} rounds of {} s each, medians", settings.rounds, settings.seconds),
        format!("server: {}", version(workspace::mariadbd(), "--version")),
        format!("HAProxy in TCP mode: {}", version("haproxy", "-v")),
        format!("load: {}", version("sysbench", "--version")),
        "CPU is the proxy's own, user and system; with TLS, HAProxy passes the bytes through while Spillway \
         ends TLS and speaks plain text to the server"
            .to_owned(),
    ];
    Ok(Stage { _spillway: spillway, _haproxy: haproxy, _server: server, targets, folder, about })
}

/// An authority, a server's and a client's certificate under the names that sysbench looks for.
fn certificates(folder: &Path) -> Outcome<()> {
    let made = || -> Result<(), Box<dyn std::error::Error>> {
        let authority_key = rcgen::KeyPair::generate()?;
        let mut parameters = rcgen::CertificateParams::new(Vec::new())?;
        parameters.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
        parameters.distinguished_name.push(rcgen::DnType::CommonName, "the benchmark's authority");
        let authority = parameters.self_signed(&authority_key)?;
        let issuer = rcgen::Issuer::new(parameters, authority_key);
        std::fs::write(folder.join("cacert.pem"), authority.pem())?;
        for name in ["server", "client"] {
            let key = rcgen::KeyPair::generate()?;
            let names = vec!["localhost".to_owned(), "127.0.0.1".to_owned()];
            let mut parameters = rcgen::CertificateParams::new(names)?;
            parameters.distinguished_name.push(rcgen::DnType::CommonName, name);
            let certificate = parameters.signed_by(&key, &issuer)?;
            std::fs::write(folder.join(format!("{name}-cert.pem")), certificate.pem())?;
            std::fs::write(folder.join(format!("{name}-key.pem")), key.serialize_pem())?;
        }
        Ok(())
    };
    made().map_err(|e| format!("certificates: {e}"))
}

fn start_server(port: Option<u16>, folder: &Path) -> Outcome<Server> {
    let file = |name: &str| folder.join(name).display().to_string();
    let mut server = Server::prepare(
        "server",
        &[
            "--max-connections=9000",
            "--skip-name-resolve",
            "--innodb-buffer-pool-size=256M",
            "--table-open-cache=2000",
            "--open-files-limit=20000",
            "--plugin-load-add=ha_blackhole",
            &format!("--ssl-ca={}", file("cacert.pem")),
            &format!("--ssl-cert={}", file("server-cert.pem")),
            &format!("--ssl-key={}", file("server-key.pem")),
        ],
    )?;
    server.port = port.unwrap_or(server.port);
    server.start(&[])?;
    server.create_monitor()?;
    let Account { user, password, schema } = ACCOUNT;
    server.sql(&format!(
        "CREATE DATABASE {schema}; CREATE USER {user}@'%' IDENTIFIED BY '{password}';
         GRANT ALL ON {schema}.* TO {user}@'%';
         CREATE TABLE {schema}.blob16 (id INT PRIMARY KEY, content LONGBLOB);
         INSERT INTO {schema}.blob16 VALUES (1, REPEAT('x', 16 * 1024 * 1024));
         CREATE TABLE {schema}.sink (content LONGBLOB) ENGINE=BLACKHOLE;"
    ))?;
    Ok(server)
}

fn start_haproxy(server: u16, folder: &Path) -> Outcome<(Process, u16)> {
    let port = workspace::free_port()?;
    let file = folder.join("haproxy.cfg");
    let text = format!(
        "global\n  maxconn 9000\ndefaults\n  mode tcp\n  timeout connect 10s\n  timeout client 1h\n  timeout server \
         1h\nlisten mysql\n  bind 127.0.0.1:{port}\n  server db 127.0.0.1:{server}\n"
    );
    std::fs::write(&file, text).map_err(|e| format!("{}: {e}", file.display()))?;
    let program = Path::new("/usr/sbin/haproxy");
    let arguments = ["-f".to_owned(), file.display().to_string(), "-db".to_owned()];
    let log = folder.join("haproxy.log");
    let haproxy = Process::start("haproxy", program, &arguments, &[], &log, RunAs::Myself)?;
    wait_for("haproxy", Duration::from_secs(10), || idle::open(port, 1, &ACCOUNT).map(drop))
        .map_err(|e| format!("{e}\n{}", workspace::tail(&log, 20)))?;
    Ok((haproxy, port))
}

fn start_spillway(server: &Server, folder: &Path) -> Outcome<(Spillway, u16)> {
    let mine = std::env::current_exe().map_err(|e| format!("where am I? {e}"))?;
    let binary = mine.ancestors().nth(2).map(|folder| folder.join("spillway")).filter(|path| path.exists());
    let binary = binary.ok_or("build the program first: make bench")?;
    let port = workspace::free_port()?;
    let file = |name: &str| folder.join(name).display().to_string();
    let configuration = format!(
        "[cluster.bench]\nkind = \"static\"\nnodes = {{ db = \"{}\" }}\n\
         monitor = {{ user = \"{MONITOR_USER}\", password = \"{MONITOR_PASSWORD}\" }}\n\n\
         [service.bench]\nlisten = [\"127.0.0.1:{port}\"]\nroute = \"cluster:bench\"\n\
         tls = {{ certificate = \"{}\", key = \"{}\" }}\n\n[log]\nlevel = \"warn\"\n",
        server.address(),
        file("server-cert.pem"),
        file("server-key.pem"),
    );
    Ok((Spillway::start(&binary, "spillway", &configuration)?, port))
}
