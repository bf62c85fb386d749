//! Connections that die without a word, while the node goes on: nobody closes them, and nobody is told.

use crate::harness::network::{self, Host};
use crate::harness::process::run;
use crate::harness::proxy::Spillway;
use crate::harness::server::Server;
use crate::harness::workspace::free_port;
use crate::harness::{Outcome, PATIENCE, wait_for};
use crate::lab::{self, PASSWORD};
use crate::raw::{self, Credentials, Raw, Refusal, first_value};
use crate::{Verdict, ensure, same, trial};
use libtest_mimic::Trial;
use std::process::Command;
use std::thread;
use std::time::{Duration, Instant};

pub(crate) fn trials() -> Vec<Trial> {
    let cannot = network::missing().is_some();
    let trial = |name: &str, run: fn() -> Verdict| trial(name, run).with_ignored_flag(cannot);
    vec![trial("silence::a_dead_connection_is_noticed", a_dead_connection_is_noticed)]
}

/// Two nodes, of which the writer has a cable of its own; its probes may miss five answers.
struct Stage {
    server: Server,
    host: Host,
    spillway: Spillway,
    port: u16,
}

impl Stage {
    fn set_up(name: &str) -> Outcome<Self> {
        let host = network::hosts(1)?.remove(0);
        let mut server = Server::prepare(name, &["--skip-name-resolve"])?;
        server.run_on(&host)?;
        server.start(&[])?;
        server.create_monitor()?;
        server.sql(&format!(
            "CREATE DATABASE lab; CREATE TABLE lab.row (n INT);
             CREATE USER app@'%' IDENTIFIED BY '{PASSWORD}'; GRANT ALL ON lab.* TO app@'%';"
        ))?;
        let other = &lab::solo()?.server;
        let port = free_port()?;
        let nodes = format!(
            "{{ far = {{ address = \"{}\", priority = 9 }}, near = \"{}\" }}",
            server.address(),
            other.address()
        );
        let configuration = lab::cluster_with("lab", "static", &nodes, "")
            .replace("timeout = \"1s\"", "timeout = \"500ms\", fall = 6")
            + &lab::service_toml("lab", port, "route = \"cluster:lab\"");
        let spillway = Spillway::start(lab::binary(), &format!("spillway-{name}"), &configuration)?;
        spillway.wait_node("lab", "far", "is the writer", |row| row["role"] == "writer")?;
        Ok(Self { server, host, spillway, port })
    }

    /// A session, with its number on the node and the port of its link here.
    fn session(&self) -> Outcome<(Raw, String, u16)> {
        let login = raw::login(self.port, &Credentials::new("app", PASSWORD, None))?;
        let mut session = login.map_err(|refusal| format!("{refusal:?}"))?;
        let number = connection(&mut session)?;
        let at = self
            .server
            .sql(&format!("SELECT HOST FROM information_schema.PROCESSLIST WHERE ID = {number}"))?;
        let port = at.rsplit(':').next().and_then(|port| port.trim().parse().ok());
        Ok((session, number, port.ok_or_else(|| format!("no port in {at}"))?))
    }

    /// The node is silent for a moment, too short to be given up: a probe that got no answer makes Spillway look closely.
    fn hiccup(&self) -> Verdict {
        self.server.freeze(true)?;
        thread::sleep(Duration::from_millis(800));
        self.server.freeze(false)
    }
}

fn connection(session: &mut Raw) -> Outcome<String> {
    first_value(&session.query("SELECT CONNECTION_ID()")?)
}

/// The error that comes back for a statement.
fn error(session: &mut Raw, statement: &str) -> Outcome<Refusal> {
    let packets = session.query(statement)?;
    Refusal::parse(packets.last().ok_or("no packet")?)
}

/// When the system looks next whether the other end of the connection from this port is there.
fn keepalive(port: u16) -> Outcome<Duration> {
    let printed = run(Command::new("ss").args(["-Htno", "sport", &format!(":{port}")]))?;
    let timer = printed.split("timer:(keepalive,").nth(1).and_then(|rest| rest.split(',').next());
    let timer = timer.ok_or_else(|| format!("no keepalive: {printed}"))?;
    let parsed = match timer.strip_suffix("ms") {
        Some(milliseconds) => milliseconds.parse().map(Duration::from_millis).ok(),
        None => timer.strip_suffix("sec").and_then(|s| s.parse().ok()).map(Duration::from_secs_f64),
    };
    parsed.ok_or_else(|| format!("{timer} is no time"))
}

fn a_dead_connection_is_noticed() -> Verdict {
    let stage = Stage::set_up("silence")?;
    let (mut quiet, before, quiet_port) = stage.session()?;
    let (mut asking, asking_before, asking_port) = stage.session()?;
    let (mut writing, _, writing_port) = stage.session()?;
    let (mut pinned, _, pinned_port) = stage.session()?;
    let (mut sound, sound_before, sound_port) = stage.session()?;
    quiet.query("SET @kept = 42")?;
    pinned.query("CREATE TEMPORARY TABLE lab.mine (n INT)")?;
    // A busy machine may have been a reason.
    not_watched(sound_port)?;
    let ports = [quiet_port, asking_port, writing_port, pinned_port];
    for port in ports {
        stage.host.mute(port, true)?;
    }
    let begun = Instant::now();
    let outcome = thread::scope(|scope| -> Verdict {
        let asked = scope.spawn(|| connection(&mut asking));
        let written = scope.spawn(|| error(&mut writing, "INSERT INTO lab.row VALUES (1)"));
        stage.hiccup()?;
        wait_for("a close watch", Duration::from_secs(5), || {
            let next = keepalive(sound_port)?;
            if next <= Duration::from_secs(1) { Ok(()) } else { Err(format!("{next:?}")) }
        })?;
        let lost = error(&mut pinned, "SELECT 1")?;
        let moved = asked.join().map_err(|_| "a panic")??;
        let unknown = written.join().map_err(|_| "a panic")??;
        let took = begun.elapsed();
        ensure!(lost.code == 1927 && lost.message.contains("TEMPORARY TABLE"), "{lost:?}");
        ensure!(moved != asking_before, "the read came back on a dead connection");
        ensure!(unknown.code == 1927 && unknown.message.contains("does not answer"), "{unknown:?}");
        ensure!(took < Duration::from_secs(9), "after {took:?}");
        Ok(())
    });
    let row = first_value(&quiet.query("SELECT CONCAT(CONNECTION_ID(), ' ', @kept)")?)?;
    for port in ports {
        stage.host.mute(port, false)?;
    }
    outcome?;
    ensure!(row.ends_with(" 42") && !row.starts_with(&format!("{before} ")), "{row}, before {before}");
    same!(first_value(&sound.query("SELECT CONNECTION_ID()")?)?, sound_before, "a sound connection");
    stage.spillway.wait_log("its connection died")?;
    ensure!(!stage.spillway.log().contains("now=\"down"), "{}", stage.spillway.log_tail(20));
    not_watched(sound_port)
}

/// Waits until the connection from this port is not watched closely.
fn not_watched(port: u16) -> Verdict {
    wait_for("an end of the close watch", PATIENCE, || {
        let next = keepalive(port)?;
        if next > Duration::from_secs(2) { Ok(()) } else { Err(format!("{next:?}")) }
    })
}
