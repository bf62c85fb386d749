//! Hourly limits of accounts on queries and updates: counted over all nodes of a cluster, refused in the server's own words.

use crate::harness::proxy::Spillway;
use crate::harness::server::{Make, Server};
use crate::harness::workspace::free_port;
use crate::harness::{Outcome, wait_for};
use crate::lab::{self, PASSWORD, Ways};
use crate::raw::{self, Credentials, Raw, Refusal, Shape};
use crate::{Verdict, ensure, mysql_trial, same, trial};
use libtest_mimic::Trial;
use std::time::Duration;

pub(crate) fn trials() -> Vec<Trial> {
    vec![
        trial("statement_limits::of_mariadb", || of_two_servers(Make::MariaDb)),
        trial("statement_limits::a_move_begins_no_new_count", a_move_begins_no_new_count),
        trial("statement_limits::changes_of_limits_of_mariadb", || changes_of_limits(Make::MariaDb)),
        mysql_trial("statement_limits::of_mysql", || of_two_servers(Make::MySql)),
        mysql_trial("statement_limits::changes_of_limits_of_mysql", || changes_of_limits(Make::MySql)),
    ]
}

/// The limit of most accounts here. Two sessions on two nodes take turns, so that no node counts as far.
const LIMIT: usize = 5;

const INSERT: &str = "INSERT INTO quota.t VALUES (1)";

/// Two servers, and a Spillway that spreads sessions over both.
struct Front {
    servers: Vec<Server>,
    spillway: Spillway,
    ways: Ways,
    users: usize,
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
            server.sql("CREATE DATABASE quota; CREATE TABLE quota.t (a INT)")?;
            servers.push(server);
        }
        let port = free_port()?;
        let nodes = format!("{{ a = \"{}\", b = \"{}\" }}", servers[0].address(), servers[1].address());
        let configuration = lab::cluster_toml("lab", "static", &nodes)
            + &lab::service_toml("lab", port, "route = \"cluster:lab\"\nnode = \"any\"");
        let spillway = Spillway::start(lab::binary(), &format!("spillway-{name}"), &configuration)?;
        let ways = Ways { direct: servers[0].port, proxied: port };
        Ok(Self { servers, spillway, ways, users: 0 })
    }

    fn sql(&self, statements: &str) -> Verdict {
        self.servers.iter().try_for_each(|server| server.sql(statements).map(drop))
    }

    /// A new account for each way, with these limits; their names end in `d` and `p`.
    fn account(&mut self, limits: &str) -> Outcome<String> {
        self.users += 1;
        let name = format!("quota{}", self.users);
        for way in ["d", "p"] {
            self.sql(&format!(
                "CREATE USER {name}{way}@'%' IDENTIFIED BY '{PASSWORD}' WITH {limits};
                 GRANT ALL ON quota.* TO {name}{way}@'%'"
            ))?;
        }
        Ok(name)
    }

    fn user(&self, name: &str, port: u16) -> String {
        format!("{name}{}", if port == self.ways.direct { "d" } else { "p" })
    }

    /// Two sessions of an account, which Spillway gives a node each.
    fn sessions(&self, name: &str, port: u16) -> Outcome<[Raw; 2]> {
        let user = self.user(name, port);
        let login = || {
            raw::login(port, &Credentials::new(&user, PASSWORD, Some("quota")))?
                .map_err(|refusal| format!("{user}: {refusal:?}"))
        };
        if port == self.ways.direct {
            return Ok([login()?, login()?]);
        }
        // Sessions that are about to end may still be counted on their nodes.
        wait_for("sessions on both nodes", Duration::from_secs(10), || {
            let sessions = [login()?, login()?];
            let nodes = self.nodes(&user)?;
            ensure!(nodes.len() == 2 && nodes[0] != nodes[1], "{user} is on {nodes:?}");
            Ok(sessions)
        })
    }

    /// The nodes that the sessions of a user are on.
    fn nodes(&self, user: &str) -> Outcome<Vec<String>> {
        let answer = self.spillway.get("/v1/sessions")?;
        let sessions = answer["sessions"].as_array().ok_or_else(|| format!("{answer}"))?;
        let of_user = sessions.iter().filter(|session| session["user"] == user);
        Ok(of_user.map(|session| session["node"].as_str().unwrap_or("-").to_owned()).collect())
    }
}

/// What a command gave: `ok` for each result, or the error with the account's name as `U`.
fn said(packets: &[Vec<u8>], user: &str) -> Outcome<String> {
    match packets.last() {
        Some(last) if last.first() == Some(&0xFF) => {
            let error = Refusal::parse(last)?;
            let state = error.state.as_deref().unwrap_or("-");
            Ok(format!("{} {state} {}", error.code, error.message.replace(user, "U")))
        }
        Some(_) => Ok("ok".to_owned()),
        None => Err("no reply".to_owned()),
    }
}

fn run(session: &mut Raw, user: &str, text: &str) -> Outcome<String> {
    said(&session.query(text)?, user)
}

/// Statements with what makes them special: how often they are counted is what the server says.
const COUNTED: &[&str] = &[
    "SELECT 1",
    "SELECT 1; SELECT 2; SELECT 3",
    "BEGIN; INSERT INTO t VALUES (1); COMMIT",
    "SELECT 1; SELEC",
    "SELEC 1",
    "-- nothing",
    "SET nosuch = 1",
    "SELECT IFNULL(1)",
    "SELECT * FROM t x, t x",
    "SELECT * FROM nosuch",
    "SELECT nosuch FROM t",
    "SELECT nosuch()",
    "USE quota",
    "SET @a = 1",
    "DROP TABLE nosuch",
    "KILL 4000000000",
    "INSERT INTO t VALUES (1)",
    "INSERT INTO t VALUES (1); UPDATE t SET a = 2; DELETE FROM t WHERE a = 3",
    "INSERT INTO nosuch VALUES (1)",
    "INSERT INT t",
    "CREATE TABLE IF NOT EXISTS t (a INT)",
    "TRUNCATE t",
    "OPTIMIZE TABLE t",
    "ANALYZE TABLE t",
    "REVOKE SELECT ON t FROM nobody",
    "CALL nosuch()",
];

fn of_two_servers(make: Make) -> Verdict {
    let name = if make == Make::MySql { "quota-mysql" } else { "quota" };
    let mut front = Front::start(name, make)?;
    let mut cases = Vec::new();
    for statement in COUNTED {
        for (limits, probe) in [("MAX_QUERIES_PER_HOUR", "SELECT 1"), ("MAX_UPDATES_PER_HOUR", INSERT)] {
            cases.push((front.account(&format!("{limits} {LIMIT}"))?, *statement, probe));
        }
    }
    let both = front.account("MAX_QUERIES_PER_HOUR 7 MAX_UPDATES_PER_HOUR 2")?;
    let prepared = front.account(&format!("MAX_QUERIES_PER_HOUR {LIMIT}"))?;
    let reset = front.account(&format!("MAX_QUERIES_PER_HOUR {LIMIT}"))?;
    let long = front.account("MAX_QUERIES_PER_HOUR 1")?;
    let logins = front.account("MAX_QUERIES_PER_HOUR 3")?;
    front.spillway.ask("reload accounts")?;
    for (name, statement, probe) in &cases {
        let all = front.ways.agree(&format!("{statement}, then {probe}"), |port| {
            let user = front.user(name, port);
            let mut sessions = front.sessions(name, port)?;
            let mut all = vec![run(&mut sessions[0], &user, statement)?];
            // What is left, by turns.
            for turn in 1..=2 * LIMIT {
                all.push(run(&mut sessions[turn % 2], &user, probe)?);
            }
            Ok(all)
        })?;
        let refused = all.iter().filter(|said| said.starts_with("1226 42000 User 'U' has exceeded the '"));
        ensure!(refused.count() >= LIMIT, "{statement}, then {probe}: {all:?}");
    }
    let all = front.ways.agree("queries before updates", |port| {
        let user = front.user(&both, port);
        let mut sessions = front.sessions(&both, port)?;
        let texts = [INSERT, INSERT, INSERT, "SELECT 1", INSERT, "SELECT 1", "SELECT 1", INSERT, "SELECT 1"];
        let turns = texts.iter().enumerate();
        turns.map(|(turn, text)| run(&mut sessions[turn % 2], &user, text)).collect::<Outcome<Vec<_>>>()
    })?;
    let [updates, queries] = match make {
        Make::MariaDb => ["max_updates_per_hour", "max_queries_per_hour"],
        Make::MySql => ["max_updates", "max_questions"],
    };
    ensure!(all[2].contains(updates) && all[7].contains(queries) && all[8].contains(queries), "{all:?}");
    front.ways.agree("prepared statements", |port| {
        let user = front.user(&prepared, port);
        let mut sessions = front.sessions(&prepared, port)?;
        let mut all = Vec::new();
        for turn in 0..2 * LIMIT {
            let session = &mut sessions[turn % 2];
            let answer = session.exchange(b"\x16SELECT 1", Shape::Prepare)?;
            let mut execute = vec![0x17];
            execute.extend_from_slice(&answer[0][1..5]);
            execute.extend_from_slice(&[0, 1, 0, 0, 0]);
            all.push(said(&session.exchange(&execute, Shape::Results)?, &user)?);
        }
        for turn in 0..=LIMIT {
            all.push(run(&mut sessions[turn % 2], &user, "SELECT 1")?);
        }
        Ok(all)
    })?;
    // MariaDB forgets in a session that was reset whose it is.
    front.ways.agree("COM_RESET_CONNECTION", |port| {
        let user = front.user(&reset, port);
        let mut sessions = front.sessions(&reset, port)?;
        let mut all = vec![said(&sessions[0].exchange(&[0x1F], Shape::Packet)?, &user)?];
        for session in [0, 1] {
            for _ in 0..=LIMIT {
                all.push(run(&mut sessions[session], &user, "SELECT 1")?);
            }
        }
        Ok(all)
    })?;
    let all = front.ways.agree("a long statement", |port| {
        let user = front.user(&long, port);
        let mut sessions = front.sessions(&long, port)?;
        let text = format!("SELECT LENGTH('{}')", "x".repeat(200_000));
        let mut all = vec![run(&mut sessions[0], &user, &text)?, run(&mut sessions[1], &user, &text)?];
        all.push(said(&sessions[1].exchange(&[0x0E], Shape::Packet)?, &user)?);
        all.push(run(&mut sessions[1], &user, "SELECT 1")?);
        Ok(all)
    })?;
    same!(all[2], "ok", "the session does not go on: {all:?}");
    // No query of Spillway's own counts for the client: as many logins as queries, all on one node.
    front.spillway.ask("set node lab b drain")?;
    let all = front.ways.agree("logins", |port| {
        let user = front.user(&logins, port);
        let mut all = Vec::new();
        for _ in 0..3 {
            let login = raw::login(port, &Credentials::new(&user, PASSWORD, None))?;
            all.push(run(&mut login.map_err(|refusal| format!("{refusal:?}"))?, &user, "SELECT 1")?);
        }
        let login = raw::login(port, &Credentials::new(&user, PASSWORD, None))?;
        all.push(run(&mut login.map_err(|refusal| format!("{refusal:?}"))?, &user, "SELECT 1")?);
        Ok(all)
    })?;
    ensure!(all[..3] == ["ok", "ok", "ok"] && all[3].starts_with("1226"), "{all:?}");
    let answer = front.spillway.ask(&format!("explain login {both}p 127.0.0.1"))?;
    ensure!(answer.contains("7 of 7 queries, 2 of 2 updates"), "{answer}");
    Ok(())
}

fn a_move_begins_no_new_count() -> Verdict {
    let mut front = Front::start("quota-move", Make::MariaDb)?;
    let name = front.account("MAX_QUERIES_PER_HOUR 6")?;
    front.spillway.ask("reload accounts")?;
    let user = front.user(&name, front.ways.proxied);
    let login = raw::login(front.ways.proxied, &Credentials::new(&user, PASSWORD, Some("quota")))?;
    let mut session = login.map_err(|refusal| format!("{refusal:?}"))?;
    let three =
        |session: &mut Raw| (0..3).map(|_| run(session, &user, "SELECT 1")).collect::<Outcome<Vec<_>>>();
    same!(three(&mut session)?, ["ok", "ok", "ok"], "before the move");
    let before = front.nodes(&user)?;
    front.spillway.ask(&format!("set node lab {} drain", before[0]))?;
    let after = wait_for("the move", Duration::from_secs(10), || {
        let nodes = front.nodes(&user)?;
        if nodes == before { Err(format!("still on {nodes:?}")) } else { Ok(nodes) }
    })?;
    ensure!(after.len() == 1, "{after:?}");
    same!(three(&mut session)?, ["ok", "ok", "ok"], "after the move");
    let refusal = "1226 42000 User 'U' has exceeded the 'max_queries_per_hour' resource (current value: 6)";
    same!(run(&mut session, &user, "SELECT 1")?, refusal, "one too many");
    // A node that dies takes no count with it.
    front.spillway.ask(&format!("set node lab {} enabled", before[0]))?;
    let node = usize::from(after[0] == "b");
    front.servers[node].kill();
    wait_for("the other node", Duration::from_secs(10), || {
        let nodes = front.nodes(&user)?;
        if nodes == after { Err(format!("still on {nodes:?}")) } else { Ok(()) }
    })?;
    same!(run(&mut session, &user, "SELECT 1")?, refusal, "after the loss of its node");
    same!(front.spillway.ask("clear limits nowhere")?.contains("error"), true, "no such cluster");
    let answer = front.spillway.ask("clear limits lab")?;
    ensure!(answer.contains("the hour of 1 accounts of cluster lab"), "{answer}");
    same!(run(&mut session, &user, "SELECT 1")?, "ok", "after clear limits");
    Ok(())
}

/// Limits that operators change are those of the sessions that are there, once the accounts were read again.
fn changes_of_limits(make: Make) -> Verdict {
    let name = if make == Make::MySql { "quota-change-mysql" } else { "quota-change" };
    let mut front = Front::start(name, make)?;
    let name = front.account("MAX_QUERIES_PER_HOUR 2")?;
    let free = front.account("MAX_USER_CONNECTIONS 9")?;
    front.spillway.ask("reload accounts")?;
    let limit = |front: &Front, name: &str, limit: u32| {
        for way in ["d", "p"] {
            front.sql(&format!("ALTER USER {name}{way}@'%' WITH MAX_QUERIES_PER_HOUR {limit}"))?;
            // MariaDB has sessions that are there keep the old limit until somebody logs in.
            if make == Make::MariaDb {
                for server in &front.servers {
                    if limit == 0 {
                        server.sql("FLUSH PRIVILEGES")?;
                    }
                    drop(raw::login(
                        server.port,
                        &Credentials::new(&format!("{name}{way}"), PASSWORD, None),
                    )?);
                }
            }
        }
        front.spillway.ask("reload accounts")?;
        // The sessions that are there are told behind the answer.
        std::thread::sleep(Duration::from_millis(300));
        Ok::<_, String>(())
    };
    let (direct, proxied) = (front.ways.direct, front.ways.proxied);
    let mut ways = [direct, proxied].map(|port| (front.user(&name, port), front.sessions(&name, port)));
    let mut turns = |what: &str, count: usize| {
        let mut all = Vec::new();
        for (user, sessions) in &mut ways {
            let sessions = sessions.as_mut().map_err(|e| e.clone())?;
            let turns = 0..count;
            all.push(
                turns.map(|n| run(&mut sessions[n % 2], user, "SELECT 1")).collect::<Outcome<Vec<_>>>()?,
            );
        }
        same!(all[0], all[1], "{what}");
        Ok::<_, String>(all.swap_remove(0))
    };
    let before = turns("before", 3)?;
    ensure!(before[1] == "ok" && before[2].starts_with("1226"), "{before:?}");
    limit(&front, &name, 6)?;
    let more = turns("more are allowed", 8)?;
    ensure!(more[0] == "ok" && more[7].ends_with("(current value: 6)"), "{more:?}");
    limit(&front, &name, 1)?;
    let fewer = turns("fewer are allowed", 2)?;
    ensure!(fewer[1].ends_with("(current value: 1)"), "{fewer:?}");
    limit(&front, &name, 0)?;
    let all = turns("no limit", 9)?;
    ensure!(all.iter().all(|said| said == "ok"), "{all:?}");
    // A session that began without such a limit goes on without at Spillway; the node has its own ways.
    let mut sessions = front.sessions(&free, proxied)?;
    limit(&front, &free, 3)?;
    let user = front.user(&free, proxied);
    for turn in 0..6 {
        same!(run(&mut sessions[turn % 2], &user, "SELECT 1")?, "ok", "turn {turn}");
    }
    Ok(())
}
