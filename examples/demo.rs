//! `make demo`: two real clusters on this machine with Spillway in front of them, and what it does for them.
//!
//! Starts a Galera cluster of three nodes and a primary with a replica on loopback, connects through Spillway to a
//! schema of each, drains one node and kills another under a session that goes on, and then stays up for you to try, until Ctrl-C. With `ONCE=1`
//! in the environment it ends by itself. Whatever it started is gone afterwards, and a step that did not do what
//! it shows makes it fail.

#![allow(
    clippy::disallowed_methods,
    reason = "the demo ends without waiting for the thread that starts servers"
)]
#![allow(clippy::print_stdout, clippy::print_stderr, reason = "a demo talks to the person who started it")]

#[path = "../tests/harness/mod.rs"]
mod harness;

use harness::client::Login;
use harness::cluster::{Galera, Replication};
use harness::proxy::{API_TOKEN, CONSOLE_PASSWORD, Spillway};
use harness::server::{MONITOR_PASSWORD, MONITOR_USER};
use harness::workspace::free_port;
use harness::{Outcome, process, wait_for};
use indicatif::{ProgressBar, ProgressStyle};
use std::io::{BufRead, BufReader, Write};
use std::path::PathBuf;
use std::process::{Child, ChildStdout, ExitCode, Stdio};
use std::time::Duration;
use tokio::signal::unix::{SignalKind, signal};

/// The demo's users; each exists on the clusters that its line names.
const APP_PASSWORD: &str = "app-secret";
const CLERK_PASSWORD: &str = "clerk-secret";

#[tokio::main]
async fn main() -> ExitCode {
    let once = std::env::var("ONCE").is_ok_and(|value| !value.is_empty() && value != "0");
    let (Ok(mut interrupt), Ok(mut terminate), Ok(mut hangup)) =
        (signal(SignalKind::interrupt()), signal(SignalKind::terminate()), signal(SignalKind::hangup()))
    else {
        eprintln!("cannot listen for Ctrl-C");
        return ExitCode::FAILURE;
    };
    let shown = tokio::task::spawn_blocking(show);
    let stopped = async {
        tokio::select! {
            _ = interrupt.recv() => {}
            _ = terminate.recv() => {}
            _ = hangup.recv() => {}
        }
    };
    tokio::pin!(stopped);
    let code = tokio::select! {
        () = &mut stopped => 130,
        result = shown => match result {
            Ok(Ok(stage)) => {
                if !once {
                    println!("{}", stage.commands());
                    stopped.await;
                }
                // Ended in order: Spillway before the servers.
                drop(stage);
                0
            }
            Ok(Err(reason)) => {
                eprintln!("\nThe demo failed: {reason}");
                1
            }
            Err(panic) => {
                eprintln!("\nThe demo failed: {panic}");
                1
            }
        },
    };
    println!("\nStopping everything that was started …");
    process::stop_everything();
    // Not by returning: if Ctrl-C came early the thread that starts the servers is still at work.
    std::process::exit(code)
}

/// Everything that runs; fields are stopped in this order.
struct Stage {
    spillway: Spillway,
    galera: Galera,
    replication: Replication,
    app_port: u16,
}

/// The program that this demo shows, built beside it.
fn binary() -> Outcome<PathBuf> {
    let mine = std::env::current_exe().map_err(|e| format!("where am I? {e}"))?;
    let beside = mine.parent().and_then(|examples| examples.parent()).map(|target| target.join("spillway"));
    beside.filter(|path| path.exists()).ok_or_else(|| "build the program first: make demo".to_owned())
}

fn headline(text: &str) {
    println!("\n== {text}");
}

/// Runs one step with a moving sign of life.
fn step<T>(text: &str, work: impl FnOnce() -> Outcome<T>) -> Outcome<T> {
    let style = ProgressStyle::with_template("   {spinner} {msg} ({elapsed})").map_err(|e| e.to_string())?;
    let bar = ProgressBar::new_spinner().with_style(style).with_message(text.to_owned());
    bar.enable_steady_tick(Duration::from_millis(120));
    let start = std::time::Instant::now();
    let result = work();
    bar.finish_and_clear();
    if result.is_ok() {
        println!("   {text}: {:.1} s", start.elapsed().as_secs_f64());
    }
    result
}

fn show() -> Outcome<Stage> {
    let binary = binary()?;
    headline("Starting two clusters on 127.0.0.1");
    let replication = std::thread::spawn(start_crm);
    let galera = step("a Galera cluster of three nodes, with the schema `shop`", start_shop)?;
    let replication = step("a primary and its replica, with the schema `crm`", || {
        replication.join().map_err(|_| "the set-up panicked".to_owned())?
    })?;

    headline("Starting Spillway in front of both");
    let app_port = free_port()?;
    let configuration = configuration(app_port, &galera, &replication);
    println!("{}", indent(&configuration));
    let spillway = step("Spillway loads the accounts of both clusters and probes their nodes", || {
        Spillway::start(&binary, "spillway", &configuration)
    })?;
    let mut stage = Stage { spillway, galera, replication, app_port };

    headline("One address, two clusters: the schema decides");
    stage.connect("app", APP_PASSWORD, "shop", "SELECT name FROM item")?;
    stage.connect("app", APP_PASSWORD, "crm", "SELECT name FROM customer")?;

    headline("Never more permissive than the servers: what they refuse, Spillway refuses in the same words");
    stage.refused("app", "not the password", "shop", 1045)?;
    stage.refused("nobody", "whatever", "shop", 1045)?;
    println!("   clerk is an account of `crm` only; its password opens nothing on the other cluster:");
    stage.connect("clerk", CLERK_PASSWORD, "crm", "SELECT name FROM customer")?;
    stage.refused("clerk", CLERK_PASSWORD, "shop", 1045)?;

    headline("The operator's view: `show nodes` on the console");
    println!("{}", indent(&stage.spillway.ask("show nodes")?));

    headline("A session goes on elsewhere when its node is drained: `set node shop NODE drain`");
    let mut session = OpenSession::start(&stage)?;
    let drained = session.ask("SET @basket = 'two lamps'; SELECT @@port;")?;
    let name = stage.name_of(&drained)?.to_owned();
    println!("   SET @basket = 'two lamps';   (served by {name}, 127.0.0.1:{drained})");
    stage.spillway.ask(&format!("set node shop {name} drain"))?;
    session.wait_moved(&stage, &drained)?;
    stage.spillway.ask(&format!("set node shop {name} enabled"))?;

    headline("Killing the node that serves `shop` (kill -9)");
    let dead = stage.lose_a_node()?;
    println!("   and the session from before:");
    session.wait_moved(&stage, &dead)?;
    Ok(stage)
}

/// A `mariadb` program that stays connected.
struct OpenSession {
    client: Child,
    answers: BufReader<ChildStdout>,
}

impl OpenSession {
    fn start(stage: &Stage) -> Outcome<Self> {
        let mut command =
            stage.login("app", APP_PASSWORD, "shop").mariadb(&["--batch", "-N", "--unbuffered"]);
        let client = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn();
        let mut client = client.map_err(|e| format!("mariadb: {e}"))?;
        let answers = BufReader::new(client.stdout.take().ok_or("no output")?);
        Ok(Self { client, answers })
    }

    /// Sends statements that give one line in all.
    fn ask(&mut self, statements: &str) -> Outcome<String> {
        let input = self.client.stdin.as_mut().ok_or("no input")?;
        writeln!(input, "{statements}").map_err(|e| format!("the session has ended: {e}"))?;
        let mut line = String::new();
        match self.answers.read_line(&mut line) {
            Ok(0) => Err("the session has ended".to_owned()),
            Ok(_) => Ok(line.trim_end().to_owned()),
            Err(e) => Err(e.to_string()),
        }
    }

    /// Waits until another node than the one at `port` serves the session, which has what it had.
    fn wait_moved(&mut self, stage: &Stage, port: &str) -> Outcome<()> {
        let answer = wait_for("the session at another node", Duration::from_secs(10), || {
            let answer = self.ask("SELECT @@port, @basket;")?;
            if answer.starts_with(port) { Err(answer) } else { Ok(answer) }
        })?;
        let (port, basket) =
            answer.split_once('\t').ok_or_else(|| format!("an unexpected answer: {answer}"))?;
        let node = stage.name_of(port)?;
        println!(
            "     SELECT @basket  ->  {basket}   (the same session, served by {node}, 127.0.0.1:{port})"
        );
        if basket == "two lamps" { Ok(()) } else { Err(format!("@basket is {basket}")) }
    }
}

impl Drop for OpenSession {
    fn drop(&mut self) {
        // It ends when its input does.
        drop(self.client.stdin.take());
        let _ = self.client.wait();
    }
}

fn start_shop() -> Outcome<Galera> {
    let galera = Galera::start("shop", &["--skip-name-resolve"], 1)?;
    let node = &galera.nodes[0];
    node.create_monitor()?;
    node.sql(&format!(
        "CREATE DATABASE shop; CREATE TABLE shop.item (id INT PRIMARY KEY, name VARCHAR(40));\
         INSERT INTO shop.item VALUES (1, 'a lamp');\
         CREATE USER app@'%' IDENTIFIED BY '{APP_PASSWORD}'; GRANT ALL ON shop.* TO app@'%'"
    ))?;
    Ok(galera)
}

fn start_crm() -> Outcome<Replication> {
    let replication = Replication::start("crm", &["--skip-name-resolve"])?;
    let primary = &replication.nodes[0];
    primary.create_monitor()?;
    primary.sql(&format!(
        "CREATE DATABASE crm; CREATE TABLE crm.customer (id INT PRIMARY KEY, name VARCHAR(40));\
         INSERT INTO crm.customer VALUES (1, 'Ada');\
         CREATE USER app@'%' IDENTIFIED BY '{APP_PASSWORD}'; GRANT ALL ON crm.* TO app@'%';\
         CREATE USER clerk@'%' IDENTIFIED BY '{CLERK_PASSWORD}'; GRANT ALL ON crm.* TO clerk@'%'"
    ))?;
    replication.wait_caught_up()?;
    Ok(replication)
}

fn configuration(port: u16, galera: &Galera, replication: &Replication) -> String {
    let monitor = format!("monitor = {{ user = \"{MONITOR_USER}\", password = \"{MONITOR_PASSWORD}\" }}");
    format!(
        "[cluster.shop]\nkind = \"galera\"\nnodes = {}\n{monitor}\n\n\
         [cluster.crm]\nkind = \"replication\"\nnodes = {}\n{monitor}\n\n\
         [service.app]\nlisten = [\"127.0.0.1:{port}\"]\nroute = \"by-database\"\ndefault_cluster = \"shop\"\n",
        galera.toml_nodes(),
        replication.toml_nodes()
    )
}

fn indent(text: &str) -> String {
    text.lines().map(|line| format!("   {line}").trim_end().to_owned()).collect::<Vec<_>>().join("\n")
}

impl Stage {
    fn login(&self, user: &str, password: &str, schema: &str) -> Login {
        Login::new(self.app_port, user, password, Some(schema))
    }

    fn name_of(&self, port: &str) -> Outcome<&str> {
        let nodes = self.galera.nodes.iter().chain(&self.replication.nodes);
        let node = nodes.into_iter().find(|node| node.port.to_string() == port);
        node.map(|node| node.name.as_str()).ok_or_else(|| format!("no node listens on port {port}"))
    }

    /// Connects as a user would, and says what came back and which node served; returns the node's name.
    fn connect(&self, user: &str, password: &str, schema: &str, query: &str) -> Outcome<String> {
        println!("   $ mariadb -h 127.0.0.1 -P {} -u {user} -p {schema}", self.app_port);
        let answer = self.login(user, password, schema).query(&format!("SELECT @@port; {query}"))?;
        let (port, value) =
            answer.split_once('\n').ok_or_else(|| format!("an unexpected answer: {answer}"))?;
        let node = self.name_of(port)?;
        println!("     {query}  ->  {value}   (served by {node}, 127.0.0.1:{port})");
        Ok(node.to_owned())
    }

    /// Connects where it must be refused, with this error number.
    fn refused(&self, user: &str, password: &str, schema: &str, code: u16) -> Outcome<()> {
        println!("   $ mariadb -h 127.0.0.1 -P {} -u {user} -p {schema}", self.app_port);
        let printed = self.login(user, password, schema).run(&[], "SELECT 1")?;
        println!("     {}", printed.errors.trim());
        let expected = format!("ERROR {code} ");
        if printed.code != Some(0) && printed.errors.contains(&expected) {
            Ok(())
        } else {
            Err(format!("{user} should have been refused by {expected}, but: {printed:?}"))
        }
    }

    /// Kills the node that serves new sessions; returns its port.
    fn lose_a_node(&mut self) -> Outcome<String> {
        let serving = self.login("app", APP_PASSWORD, "shop").query("SELECT @@port")?;
        let lost = self.name_of(&serving)?.to_owned();
        let node = self.galera.nodes.iter_mut().find(|node| node.name == lost).ok_or("no such node")?;
        println!("   kill -9 {} ({lost})", node.pid().unwrap_or_default());
        node.kill();
        let login = self.login("app", APP_PASSWORD, "shop");
        step("new sessions are served by another node", || {
            wait_for("a session on another node", Duration::from_secs(15), || {
                let port = login.query("SELECT @@port")?;
                if port == serving { Err(format!("still {port}")) } else { Ok(()) }
            })
        })?;
        let now = self.connect("app", APP_PASSWORD, "shop", "SELECT name FROM item")?;
        if now == lost {
            return Err(format!("{lost} is dead and serves"));
        }
        self.spillway.wait_node("shop", &lost, "is seen to be down", |entry| entry["observed"] != "up")?;
        println!("\n{}", indent(&self.spillway.ask("show nodes")?));
        Ok(serving)
    }

    /// What there is to try while everything runs.
    fn commands(&self) -> String {
        let (app, console, api) = (self.app_port, self.spillway.console_port, self.spillway.api_port);
        let dead = self.galera.nodes.iter().find(|node| node.pid().is_none());
        let alive = self.galera.nodes.iter().find(|node| node.pid().is_some());
        let names =
            |node: Option<&harness::server::Server>| node.map_or_else(String::new, |node| node.name.clone());
        format!(
            "\n== It is all yours until Ctrl-C (`{}` stays dead)\n\n   \
             A client (password {APP_PASSWORD}):\n     \
             mariadb -h 127.0.0.1 -P {app} -u app -p shop\n     \
             mariadb -h 127.0.0.1 -P {app} -u app -p crm\n\n   \
             The console (password {CONSOLE_PASSWORD}):\n     \
             nc 127.0.0.1 {console}\n       \
             help\n       show sessions\n       set node shop {} drain\n       set node shop {} enabled\n\n   \
             The HTTP API:\n     \
             curl -H 'Authorization: Bearer {API_TOKEN}' http://127.0.0.1:{api}/v1/nodes\n     \
             curl http://127.0.0.1:{api}/ready\n\n   \
             The configuration: {}",
            names(dead),
            names(alive),
            names(alive),
            self.spillway.file().display()
        )
    }
}
