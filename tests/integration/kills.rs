//! `KILL` with the number of a greeting: the node decides, and nobody else's statement is hit.

use crate::harness::client::{Login, Printed};
use crate::harness::proxy::Spillway;
use crate::harness::server::{Make, Server};
use crate::harness::workspace::free_port;
use crate::harness::{Outcome, process, wait_for};
use crate::lab::{self, PASSWORD, Ways};
use crate::raw::{self, Credentials, Raw, Refusal, Shape, first_value};
use crate::{Verdict, ensure, mysql_trial, same, trial};
use libtest_mimic::Trial;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

pub(crate) fn trials() -> Vec<Trial> {
    vec![
        trial("kills::by_the_client_program", by_the_client_program),
        trial("kills::on_mariadb", || on_nodes(Make::MariaDb)),
        trial("kills::of_a_link_that_others_could_get", of_a_link_that_others_could_get),
        trial("kills::of_a_session_of_another_cluster", of_a_session_of_another_cluster),
        mysql_trial("kills::on_mysql", || on_nodes(Make::MySql)),
    ]
}

/// Longer than any test waits.
const SLEEP: &str = "SELECT SLEEP(30) FROM (SELECT 1) AS one";

const SOON: Duration = Duration::from_secs(5);

/// Two servers, and a Spillway that spreads sessions over both.
struct Front {
    servers: Vec<Server>,
    spillway: Spillway,
    ways: Ways,
}

impl Front {
    fn start(name: &str, make: Make) -> Outcome<Self> {
        let mut servers = Vec::new();
        for n in ["a", "b"] {
            let name = format!("{name}-{n}");
            let server = match make {
                Make::MariaDb => Server::standalone(&name, &["--skip-name-resolve"])?,
                Make::MySql => Server::mysql(&name, &["--skip-name-resolve"])?,
            };
            server.create_monitor()?;
            let admin = if make == Make::MySql { "CONNECTION_ADMIN" } else { "CONNECTION ADMIN" };
            server.sql(&format!(
                "CREATE DATABASE kills; CREATE USER ann@'%' IDENTIFIED BY '{PASSWORD}';
                 CREATE USER bob@'%' IDENTIFIED BY '{PASSWORD}'; CREATE USER root2@'%' IDENTIFIED BY '{PASSWORD}';
                 GRANT {admin} ON *.* TO root2@'%'"
            ))?;
            servers.push(server);
        }
        let port = free_port()?;
        let nodes = format!("{{ a = \"{}\", b = \"{}\" }}", servers[0].address(), servers[1].address());
        let configuration = lab::cluster_toml("lab", "static", &nodes)
            + &lab::service_toml("lab", port, "route = \"cluster:lab\"\nnode = \"any\"");
        let spillway = Spillway::start(lab::binary(), &format!("spillway-{name}"), &configuration)?;
        let ways = Ways { direct: servers[0].port, proxied: port };
        Ok(Self { servers, spillway, ways })
    }

    /// Whether a statement of `user` that sleeps runs on a node now.
    fn sleeps(&self, user: &str) -> Outcome<bool> {
        let count = format!(
            "SELECT COUNT(*) FROM information_schema.PROCESSLIST WHERE USER = '{user}' AND INFO LIKE 'SELECT SLEEP%'"
        );
        for server in &self.servers {
            if server.sql(&count)? != "0" {
                return Ok(true);
            }
        }
        Ok(false)
    }

    fn wait_asleep(&self, user: &str) -> Verdict {
        wait_for("a statement that sleeps", SOON, || {
            if self.sleeps(user)? { Ok(()) } else { Err("nobody sleeps".to_owned()) }
        })
    }
}

fn enter(port: u16, user: &str) -> Outcome<Raw> {
    raw::login(port, &Credentials::new(user, PASSWORD, None))?
        .map_err(|refusal| format!("{user}: {refusal:?}"))
}

/// What a reply says, with the number of the session that was to be killed as `N`.
fn said(packets: &[Vec<u8>], number: u32) -> Outcome<String> {
    let last = packets.last().ok_or("no reply")?;
    if last.first() != Some(&0xFF) {
        return Ok("ok".to_owned());
    }
    let error = Refusal::parse(last)?;
    let state = error.state.as_deref().unwrap_or("-");
    Ok(format!("{} {state} {}", error.code, error.message.replace(&number.to_string(), "N")))
}

fn run(session: &mut Raw, text: &str, number: u32) -> Outcome<String> {
    said(&session.query(&text.replace('#', &number.to_string()))?, number)
}

/// The value that a statement gave, or its error.
fn outcome(packets: &[Vec<u8>]) -> Outcome<String> {
    match packets.last() {
        Some(last) if last.first() == Some(&0xFF) => said(packets, 0),
        _ => first_value(packets),
    }
}

/// Ctrl-C in the `mariadb` program: it logs in a second time and kills what the first session runs.
fn by_the_client_program() -> Verdict {
    let front = Front::start("kills-program", Make::MariaDb)?;
    let printed = front.ways.agree("Ctrl-C", |port| {
        let login = Login::new(port, "ann", PASSWORD, None);
        let mut command = login.mariadb(&["-e", SLEEP]);
        let child = command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn();
        let child = child.map_err(|e| e.to_string())?;
        front.wait_asleep("ann")?;
        let asked = Instant::now();
        process::run(Command::new("kill").args(["-INT", &child.id().to_string()]))?;
        let output = child.wait_with_output().map_err(|e| e.to_string())?;
        let took = asked.elapsed();
        ensure!(took < Duration::from_secs(2), "it took {took:?}");
        Ok(Printed {
            output: String::from_utf8_lossy(&output.stdout).into_owned(),
            errors: String::from_utf8_lossy(&output.stderr).into_owned(),
            code: output.status.code(),
        })
    })?;
    ensure!(printed.output.contains("query killed") && printed.errors.contains("1317"), "{printed:?}");
    ensure!(!front.sleeps("ann")?, "the statement goes on");
    front.spillway.wait_log("killed by a statement")
}

fn on_nodes(make: Make) -> Verdict {
    let front = Front::start(if make == Make::MySql { "kills-mysql" } else { "kills" }, make)?;
    let mut orders = vec!["KILL QUERY #", "KILL #", "kill connection #;"];
    if make == Make::MariaDb {
        orders.extend(["KILL HARD QUERY #", "KILL SOFT CONNECTION #"]);
    }
    for kill in orders {
        // Sessions take turns at the nodes: one killer is on the node of the session, and one is not.
        for by in ["ann 0", "ann 1", "root2 0"] {
            front.ways.agree(&format!("{kill} by {by}"), |port| {
                let mut session = enter(port, "ann")?;
                let number = session.number;
                ensure!(port == front.ways.direct || number >= 1 << 31, "the greeting has {number}");
                let mut strangers = [enter(port, "bob")?, enter(port, "bob")?];
                let mut killers = [enter(port, "ann")?, enter(port, "ann")?];
                if by.starts_with("root") {
                    killers[0] = enter(port, "root2")?;
                }
                session.command(&raw::query(SLEEP))?;
                front.wait_asleep("ann")?;
                let mut all = Vec::new();
                for stranger in &mut strangers {
                    all.push(run(stranger, kill, number)?);
                }
                ensure!(all[1].starts_with("1095") && front.sleeps("ann")?, "it was killed by bob: {all:?}");
                let asked = Instant::now();
                all.push(run(&mut killers[usize::from(by.ends_with('1'))], kill, number)?);
                let reply = session.reply(Shape::Results);
                ensure!(asked.elapsed() < Duration::from_secs(2), "it took {:?}", asked.elapsed());
                if kill.contains("QUERY") {
                    all.push(outcome(&reply?)?);
                    all.push(outcome(&session.query("SELECT 1")?)?);
                } else {
                    // MariaDB says why, and MySQL may close the connection without a word.
                    all.push(format!("closed: {}", session.is_closed()));
                }
                Ok(all)
            })?;
        }
    }
    // Sessions that wait for their clients.
    for kill in ["KILL #", "KILL QUERY #"] {
        front.ways.agree(&format!("{kill} of an idle session"), |port| {
            let (mut session, mut killer) = (enter(port, "ann")?, enter(port, "ann")?);
            session.query("SET @a = 1")?;
            let mut all = vec![run(&mut killer, kill, session.number)?];
            std::thread::sleep(Duration::from_millis(200));
            all.push(match kill {
                "KILL #" => format!("closed: {}", session.is_closed()),
                // The next statement is hit, or not.
                _ => session.query("SELECT 1").map(|_| "answered".to_owned())?,
            });
            Ok(all)
        })?;
    }
    for kill in ["KILL QUERY #", "KILL #"] {
        front.ways.agree(&format!("{kill} of itself"), |port| {
            let mut session = enter(port, "ann")?;
            let number = session.number;
            let mut all = vec![run(&mut session, kill, number)?];
            all.push(format!("closed: {}", session.is_closed()));
            Ok(all)
        })?;
    }
    front.ways.agree("numbers of nobody", |port| {
        let mut session = enter(port, "ann")?;
        let mut all = Vec::new();
        for number in [4_294_967_295, 4_000_000_000] {
            all.push(run(&mut session, "KILL QUERY #", number)?);
        }
        Ok(all)
    })?;
    if make == Make::MariaDb {
        front.ways.agree("COM_PROCESS_KILL", |port| {
            let (mut session, mut other) = (enter(port, "ann")?, enter(port, "bob")?);
            let (number, mut all) = (session.number, Vec::new());
            let command = [&[0x0C], &number.to_le_bytes()[..]].concat();
            all.push(said(&other.exchange(&command, Shape::Packet)?, number)?);
            let mut killer = enter(port, "ann")?;
            all.push(said(&killer.exchange(&command, Shape::Packet)?, number)?);
            all.push(format!("closed: {}", session.is_closed()));
            Ok(all)
        })?;
    }
    let log = front.spillway.log();
    ensure!(!log.contains("session moved"), "a session that was killed went on\n{log}");
    Ok(())
}

/// Whoever aims at a session does not hit the one that would have got its link.
fn of_a_link_that_others_could_get() -> Verdict {
    let front = Front::start("kills-pool", Make::MariaDb)?;
    front.spillway.ask("set node lab b drain")?;
    let connection = |session: &mut Raw| first_value(&session.query("SELECT CONNECTION_ID()")?);
    let next = |before: &str| {
        let mut session = enter(front.ways.proxied, "ann")?;
        let is_same = connection(&mut session)? == before;
        Ok::<_, String>((session, is_same))
    };
    let mut first = enter(front.ways.proxied, "ann")?;
    let before = connection(&mut first)?;
    drop(first);
    if lab::pools() {
        wait_for("the link again", SOON, || {
            let (_, is_same) = next(&before)?;
            if is_same { Ok(()) } else { Err("another link".to_owned()) }
        })?;
    }
    // One that has not said anything yet: Spillway's own reset of the link comes first, and is not to suffer.
    let mut waiting = enter(front.ways.proxied, "ann")?;
    let number = waiting.number;
    same!(run(&mut enter(front.ways.proxied, "ann")?, "KILL QUERY #", number)?, "ok", "by its own user");
    let first = outcome(&waiting.query("SELECT 1")?)?;
    ensure!(first == "1" || first.starts_with("1317"), "{first}");
    same!(outcome(&waiting.query("SELECT 1")?)?, "1", "the session goes on");
    drop(waiting);
    let mut killer = enter(front.ways.proxied, "bob")?;
    let (mut aimed, _) = next(&before)?;
    let before = connection(&mut aimed)?;
    let refused = run(&mut killer, "KILL QUERY #", aimed.number)?;
    ensure!(refused.starts_with("1095"), "{refused}");
    let number = aimed.number;
    drop(aimed);
    std::thread::sleep(Duration::from_millis(300));
    for _ in 0..3 {
        let (session, is_same) = next(&before)?;
        ensure!(!is_same, "a link that was aimed at serves another session");
        drop(session);
    }
    same!(
        run(&mut killer, "KILL QUERY #", number)?,
        "1094 HY000 Unknown thread id: N",
        "the session that is over"
    );
    Ok(())
}

/// A session may be on another cluster of the service: its own accounts decide there.
fn of_a_session_of_another_cluster() -> Verdict {
    let pair = lab::pair()?;
    let (galera, replication) = (pair.share_galera()?, pair.share_replication()?);
    let account = |way: &str| {
        format!(
            "CREATE USER killer{way}@'%' IDENTIFIED BY '{PASSWORD}'; GRANT SELECT ON *.* TO killer{way}@'%'"
        )
    };
    galera.nodes[0].sql(&account(""))?;
    galera.nodes[0].sql(&account("2"))?;
    replication.nodes[0].sql(&account(""))?;
    pair.spillway.ask("reload accounts")?;
    let enter = |user: &str, schema: &str| {
        wait_for("a login", SOON, || {
            raw::login(pair.app, &Credentials::new(user, PASSWORD, Some(schema)))?
                .map_err(|refusal| format!("{user}: {refusal:?}"))
        })
    };
    let mut session = enter("killer", "crm")?;
    let number = session.number;
    session.command(&raw::query(SLEEP))?;
    std::thread::sleep(Duration::from_millis(500));
    let mut stranger = enter("killer2", "shop")?;
    same!(
        run(&mut stranger, "KILL QUERY #", number)?,
        "1094 HY000 Unknown thread id: N",
        "who has no account there"
    );
    let mut killer = enter("killer", "shop")?;
    let asked = Instant::now();
    same!(run(&mut killer, "KILL QUERY #", number)?, "ok", "the same user");
    let reply = outcome(&session.reply(Shape::Results)?)?;
    ensure!(reply.starts_with("1317") && asked.elapsed() < Duration::from_secs(2), "{reply}");
    same!(outcome(&session.query("SELECT 1")?)?, "1", "the session goes on");
    Ok(())
}
