//! Links that serve one session after another: nothing is left behind, nobody is let in who should not be, and a
//! node's limits become queues.

use crate::harness::proxy::Spillway;
use crate::harness::server::{MONITOR_PASSWORD, MONITOR_USER, Server};
use crate::harness::workspace::free_port;
use crate::harness::{Outcome, PATIENCE, process, wait_for};
use crate::lab::{self, PASSWORD};
use crate::raw::{self, Credentials, Raw, Refusal, Shape, first_value};
use crate::{Verdict, ensure, same, trial};
use libtest_mimic::Trial;
use std::collections::BTreeSet;
use std::net::Ipv4Addr;
use std::sync::OnceLock;
use std::thread;
use std::time::{Duration, Instant};

const MOMENT: Duration = PATIENCE;

pub(crate) fn trials() -> Vec<Trial> {
    vec![
        trial("links::nothing_is_left_behind", nothing_is_left_behind),
        trial("links::found_rows_of_ones_own", found_rows_of_ones_own),
        trial("links::first_commands_in_one_segment", first_commands_in_one_segment),
        trial("links::alike_logins_only", alike_logins_only),
        trial("links::without_reuse", without_reuse),
        trial("links::a_queue_instead_of_1040", a_queue_instead_of_1040),
        trial("links::a_limit_for_all_workers", a_limit_for_all_workers),
        trial("links::the_queue_is_bounded_and_fair", the_queue_is_bounded_and_fair),
        trial("links::kept_warm", kept_warm),
        trial("links::closed_with_the_account", closed_with_the_account),
        trial("links::closed_when_idle_or_drained", closed_when_idle_or_drained),
        trial("links::judged_again_by_the_node", judged_again_by_the_node),
        trial("links::sessions_of_a_user_and_an_address", sessions_of_a_user_and_an_address),
        trial("links::idle_sessions_end", idle_sessions_end),
        trial("links::thousands_of_idle_sessions", thousands_of_idle_sessions),
    ]
}

// === the set-up ===

static SERVER: OnceLock<Outcome<Server>> = OnceLock::new();

/// A server that these tests share: no other test's sessions are counted there.
fn server() -> Outcome<&'static Server> {
    SERVER.get_or_init(start_server).as_ref().map_err(Clone::clone)
}

fn start_server() -> Outcome<Server> {
    let server = Server::standalone(
        "links",
        &[
            "--skip-name-resolve",
            "--character-set-server=utf8mb4",
            "--max-connections=2600",
            // A connection that gets the thread of another one begins with that one's FOUND_ROWS().
            "--thread-cache-size=0",
        ],
    )?;
    server.create_monitor()?;
    server.sql(
        "CREATE DATABASE lab; CREATE DATABASE lab2;
         CREATE TABLE lab.counter (id INT AUTO_INCREMENT PRIMARY KEY, n INT); CREATE SEQUENCE lab.numbers;
         CREATE FUNCTION lab.leave_a_mark() RETURNS INT RETURN (@mark := 7);
         CREATE VIEW lab.marking AS SELECT lab.leave_a_mark() AS one;
         CREATE ROLE staff; GRANT SELECT ON lab.* TO staff;",
    )?;
    Ok(server)
}

/// A user of this name for one test alone.
fn create_user(name: &str) -> Outcome<()> {
    let server = server()?;
    server.sql(&format!(
        "CREATE USER {name}@'%' IDENTIFIED BY '{PASSWORD}'; GRANT ALL ON lab.* TO {name}@'%';
         GRANT ALL ON lab2.* TO {name}@'%'; GRANT PROCESS ON *.* TO {name}@'%'; GRANT staff TO {name}@'%';"
    ))?;
    Ok(())
}

/// Connections of a user on the server.
fn connections(user: &str) -> Outcome<usize> {
    let count = server()?
        .sql(&format!("SELECT COUNT(*) FROM information_schema.processlist WHERE user = '{user}'"))?;
    count.trim().parse().map_err(|_| format!("{count:?} is no number"))
}

fn wait_connections(user: &str, wanted: usize) -> Outcome<()> {
    wait_for(&format!("{wanted} connections of {user}"), MOMENT, || match connections(user)? {
        n if n == wanted => Ok(()),
        n => Err(format!("{n} connections")),
    })
}

/// A Spillway of the test's own. `links`: settings of the cluster's links; `service`: further lines of the service.
fn front(name: &str, workers: u32, links: &str, service: &str) -> Outcome<(Spillway, u16)> {
    let port = free_port()?;
    let configuration = format!(
        "[runtime]\nworkers = {workers}\n\n[cluster.lab]\nkind = \"static\"\nnodes = {{ solo = \"{}\" }}\n\
         monitor = {{ user = \"{MONITOR_USER}\", password = \"{MONITOR_PASSWORD}\", interval = \"200ms\", \
         timeout = \"1s\" }}\n\n[cluster.lab.links]\n{links}\n\n{}",
        server()?.address(),
        lab::service_toml("lab", port, &format!("route = \"cluster:lab\"\n{service}")),
    );
    Ok((Spillway::start(lab::binary(), name, &configuration)?, port))
}

fn login(port: u16, user: &str) -> Outcome<Result<Raw, Refusal>> {
    raw::login(port, &Credentials::new(user, PASSWORD, Some("lab")))
}

fn session(port: u16, user: &str) -> Outcome<Raw> {
    login(port, user)?.map_err(|refusal| format!("{user}: {refusal:?}"))
}

/// Ends a session as clients do, and waits until Spillway has.
fn leave(mut session: Raw) -> Outcome<()> {
    session.command(&[1])?;
    ensure!(session.is_closed(), "the connection stays open after COM_QUIT");
    Ok(())
}

/// Waits until so many links to the node serve a session, and as many sessions wait for one. All others are idle then: no link
/// is still on its way back.
fn wait_links(spillway: &Spillway, busy: u64, waiting: u64) -> Outcome<()> {
    wait_for(&format!("{busy} busy links, {waiting} in the queue"), MOMENT, || {
        let node = spillway.node("lab", "solo")?;
        let number = |key: &str| node[key].as_u64().ok_or_else(|| format!("no {key} in {node}"));
        let seen = (number("links")?.saturating_sub(number("idle_links")?), number("waiting")?);
        if seen == (busy, waiting) { Ok(()) } else { Err(node.to_string()) }
    })
}

/// All values of all rows, as text; errors by their number.
fn look(session: &mut Raw, sql: &str) -> Outcome<String> {
    let reply = session.query(sql)?;
    if reply[0].first() == Some(&0xff) {
        return Ok(format!("error {}", Refusal::parse(&reply[0])?.code));
    }
    Ok(reply[1..].iter().map(|packet| String::from_utf8_lossy(packet).into_owned() + "\n").collect())
}

fn connection_id(session: &mut Raw) -> Outcome<String> {
    first_value(&session.query("SELECT CONNECTION_ID()")?)
}

// === what is left behind ===

/// What one session does, what the next one looks at, and whether that one may have the same link.
const LEFT_BEHIND: &[(&[&str], &str, bool)] = &[
    (&["SELECT 1"], "SHOW WARNINGS", true),
    (&["SELECT 1/0, CAST('x' AS INT)"], "SHOW WARNINGS", true),
    (&["SELECT no_such_column"], "SHOW WARNINGS", true),
    (&["SET @mine = 1"], "SELECT @mine", true),
    (&["SELECT @mine := 5"], "SELECT @mine", true),
    (&["SELECT one FROM marking"], "SELECT @mark", true),
    (
        &["SET NAMES latin1"],
        "SELECT @@character_set_client, @@character_set_results, @@collation_connection",
        true,
    ),
    (&["SET SESSION sql_mode = ''"], "SELECT @@sql_mode", true),
    (&["SET time_zone = '+05:00'"], "SELECT @@time_zone", true),
    (&["SET timestamp = 1"], "SELECT @@timestamp > 1000", true),
    (&["SET SESSION TRANSACTION ISOLATION LEVEL READ UNCOMMITTED"], "SELECT @@tx_isolation", true),
    (&["SET autocommit = 0"], "SELECT @@autocommit", true),
    (&["BEGIN", "INSERT INTO counter (n) VALUES (99)"], "SELECT COUNT(*) FROM counter WHERE n = 99", true),
    (&["INSERT INTO counter (n) VALUES (1)"], "SELECT LAST_INSERT_ID()", true),
    (&["INSERT INTO counter (n) VALUES (1)"], "SELECT ROW_COUNT()", true),
    (&["CREATE TEMPORARY TABLE scratch (a INT)"], "SELECT * FROM scratch", true),
    (&["SELECT GET_LOCK('links', 0)"], "SELECT IS_USED_LOCK('links') <=> CONNECTION_ID()", true),
    (&["LOCK TABLES counter READ"], "SELECT COUNT(*) FROM lab2.none", true),
    (&["USE lab2"], "SELECT DATABASE()", true),
    (&["SELECT seq FROM seq_1_to_9"], "SELECT FOUND_ROWS() IN (0, 1)", true),
    (&["SELECT SQL_CALC_FOUND_ROWS seq FROM seq_1_to_9 LIMIT 2"], "SELECT FOUND_ROWS() IN (0, 1)", true),
    (&["SELECT NEXT VALUE FOR numbers"], "SELECT LASTVAL(numbers)", true),
    (&["PREPARE p FROM 'SELECT 1'"], "EXECUTE p", false),
    (&["SET ROLE staff"], "SELECT CURRENT_ROLE()", false),
    (&["SET profiling = 1", "SELECT 1"], "SHOW PROFILES", false),
    (&["XA START 'links'", "XA END 'links'", "XA PREPARE 'links'"], "SELECT 1", false),
    (&["CALL no_such_procedure()"], "SHOW WARNINGS", false),
];

/// Whatever one session does, the next one finds a connection like a new one.
fn nothing_is_left_behind() -> Verdict {
    create_user("leaver")?;
    // Without the node's own judgement in between, which would put much of it right.
    let (_spillway, port) = front("spillway-left-behind", 1, "trust = \"1m\"", "")?;
    for (deeds, sight, reusable) in LEFT_BEHIND {
        let mut first = session(port, "leaver")?;
        let id = connection_id(&mut first)?;
        for deed in *deeds {
            first.query(deed)?;
        }
        leave(first)?;
        // A link that is tidied comes back a moment later; one that is closed never does.
        let limit = Instant::now() + if *reusable { MOMENT } else { Duration::from_millis(200) };
        let reused = loop {
            let mut next = session(port, "leaver")?;
            let sees = look(&mut next, sight)?;
            let mut fresh = session(server()?.port, "leaver")?;
            same!(sees, look(&mut fresh, sight)?, "{sight} after {deeds:?}");
            let same_link = connection_id(&mut next)? == id;
            if same_link || Instant::now() > limit {
                break same_link;
            }
            // Stays until the test ends, so that its link is not taken for the one that is waited for.
            std::mem::forget(next);
            thread::sleep(Duration::from_millis(50));
        };
        same!(reused, *reusable, "the same link serves another session after {deeds:?}");
    }
    // An empty branch may be gone already.
    let _ = server()?.sql("XA ROLLBACK 'links'");
    Ok(())
}

/// What a link's last session left is gone, and what this session did itself is not.
fn found_rows_of_ones_own() -> Verdict {
    create_user("counter")?;
    let (_spillway, port) = front("spillway-found-rows", 1, "trust = \"1m\"", "")?;
    let used = || {
        let mut first = session(port, "counter")?;
        first.query("SELECT SQL_CALC_FOUND_ROWS seq FROM seq_1_to_9 LIMIT 2")?;
        leave(first)?;
        session(port, "counter")
    };
    let found = "SELECT FOUND_ROWS()";
    for (deeds, wanted) in [
        (&["SELECT seq FROM seq_1_to_7"][..], "7"),
        (&["SELECT SQL_CALC_FOUND_ROWS seq FROM seq_1_to_6 LIMIT 1"], "6"),
        (&["SET NAMES utf8mb4", "SELECT seq FROM seq_1_to_5"], "5"),
        (&["SET NAMES utf8mb4", "SELECT @a := seq FROM seq_1_to_3"], "3"),
        (&["BEGIN", "(SELECT 1) UNION ALL (SELECT 2)"], "2"),
        (&["SHOW DATABASES LIKE 'lab%'"], "2"),
    ] {
        let mut next = used()?;
        for deed in deeds {
            next.query(deed)?;
        }
        same!(first_value(&next.query(found)?)?, wanted, "FOUND_ROWS() after {deeds:?}");
        leave(next)?;
    }
    let mut next = used()?;
    next.query("SET NAMES utf8mb4")?;
    same!(first_value(&next.query("SELECT ROW_COUNT()")?)?, "0", "ROW_COUNT() of a SET");
    leave(next)?;
    for failing in ["SELECT no_such_column", "SELECT 1 FROM no_such_table", "no statement"] {
        let mut next = used()?;
        next.query(failing)?;
        let rows = first_value(&next.query(found)?)?;
        ensure!(rows == "0" || rows == "1", "FOUND_ROWS() of another session: {rows} after {failing:?}");
        leave(next)?;
    }
    // Both in one segment.
    let mut next = used()?;
    let mut commands = raw::frame(&raw::query("SELECT seq FROM seq_1_to_4"), &mut 0);
    commands.extend(raw::frame(&raw::query(found), &mut 0));
    next.write(&commands)?;
    next.expect_reply();
    next.reply(Shape::Results)?;
    next.expect_reply();
    same!(first_value(&next.reply(Shape::Results)?)?, "4", "FOUND_ROWS() of a pipelined SELECT");
    Ok(())
}

/// A session that gets a used link may send many commands before it reads any reply.
fn first_commands_in_one_segment() -> Verdict {
    create_user("hasty")?;
    let (spillway, port) = front("spillway-hasty", 1, "trust = \"1m\"", "")?;
    for commands in [
        &["SET @mine = 3", "SELECT @mine", "SELECT FOUND_ROWS()"][..],
        &["SELECT FOUND_ROWS()", "SELECT 1", "SELECT @mine"],
        &["USE lab2", "SELECT DATABASE()", "BEGIN", "SHOW WARNINGS"],
    ] {
        let mut first = session(port, "hasty")?;
        first.query("SET @mine = 1")?;
        leave(first)?;
        wait_links(&spillway, 0, 0)?;
        let mut answers = Vec::new();
        for port in [port, server()?.port] {
            let mut next = session(port, "hasty")?;
            let bytes: Vec<u8> =
                commands.iter().flat_map(|sql| raw::frame(&raw::query(sql), &mut 0)).collect();
            next.write(&bytes)?;
            let mut replies = Vec::new();
            for _ in commands {
                next.expect_reply();
                replies.push(next.reply(Shape::Results)?);
            }
            answers.push(replies);
        }
        if commands[0] != "SELECT FOUND_ROWS()" {
            same!(answers[0], answers[1], "{commands:?}");
        }
        same!(answers[0].len(), commands.len(), "replies to {commands:?}");
    }
    Ok(())
}

/// A link serves only sessions that the node could not tell apart.
fn alike_logins_only() -> Verdict {
    create_user("alike")?;
    create_user("alike2")?;
    let (spillway, port) = front("spillway-alike", 1, "trust = \"1m\"", "")?;
    let usual = Credentials::new("alike", PASSWORD, Some("lab"));
    let id_of = |who: &Credentials<'_>| {
        let mut session = raw::login(port, who)?.map_err(|refusal| format!("{refusal:?}"))?;
        let id = connection_id(&mut session)?;
        leave(session)?;
        wait_links(&spillway, 0, 0)?;
        Ok::<_, String>(id)
    };
    let id = id_of(&usual)?;
    same!(id_of(&usual)?, id, "the same login");
    for (what, other) in [
        ("another user", Credentials { user: "alike2", ..usual.clone() }),
        ("another schema", Credentials { schema: Some("lab2"), ..usual.clone() }),
        ("no schema", Credentials { schema: None, ..usual.clone() }),
        ("found rows", usual.clone().with(raw::capability::FOUND_ROWS)),
        ("session tracking", usual.clone().with(raw::capability::SESSION_TRACK)),
    ] {
        ensure!(id_of(&other)? != id, "a login with {what} got the link");
    }
    same!(id_of(&usual)?, id, "the first login again");
    // Nobody gets a link for a wrong password.
    let wrong = Credentials { password: "wrong", ..usual };
    match raw::login(port, &wrong)? {
        Err(refusal) => same!(refusal.code, 1045, "{refusal:?}"),
        Ok(_) => return Err("a wrong password was accepted".to_owned()),
    }
    Ok(())
}

fn without_reuse() -> Verdict {
    create_user("single")?;
    let (_spillway, port) = front("spillway-no-reuse", 1, "reuse = false", "")?;
    let mut ids = BTreeSet::new();
    for _ in 0..5 {
        let mut session = session(port, "single")?;
        ids.insert(connection_id(&mut session)?);
        leave(session)?;
    }
    same!(ids.len(), 5, "five sessions had the links {ids:?}");
    wait_connections("single", 0)
}

// === limits of a node ===

/// Many short sessions over a server that takes few connections.
fn a_queue_instead_of_1040() -> Verdict {
    let server = Server::standalone("links-few", &["--skip-name-resolve", "--max-connections=10"])?;
    server.create_monitor()?;
    server.sql(&format!(
        "CREATE DATABASE lab; CREATE USER crowd@'%' IDENTIFIED BY '{PASSWORD}'; GRANT ALL ON lab.* TO crowd@'%'"
    ))?;
    let crowd = |port: u16| {
        thread::scope(|scope| {
            let clients: Vec<_> = (0..40)
                .map(|_| {
                    scope.spawn(move || {
                        for _ in 0..5 {
                            match login(port, "crowd")? {
                                Ok(mut session) => {
                                    same!(first_value(&session.query("SELECT SLEEP(0.01)")?)?, "0", "slept");
                                    session.command(&[1])?;
                                }
                                Err(refusal) => return Err(format!("error {}", refusal.code)),
                            }
                        }
                        Ok(())
                    })
                })
                .collect();
            clients.into_iter().try_for_each(|client| client.join().unwrap_or(Err("panic".into())))
        })
    };
    same!(crowd(server.port), Err("error 1040".to_owned()), "40 clients at the server itself");
    let port = free_port()?;
    let nodes = format!("{{ solo = \"{}\" }}", server.address());
    let configuration = lab::cluster_toml("lab", "static", &nodes)
        + &lab::service_toml("lab", port, "route = \"cluster:lab\"");
    let _spillway = Spillway::start(lab::binary(), "spillway-queue", &configuration)?;
    crowd(port)
}

/// `max` holds for all workers together.
fn a_limit_for_all_workers() -> Verdict {
    create_user("capped")?;
    let (_spillway, port) = front("spillway-capped", 3, "max = 3", "")?;
    let most = thread::scope(|scope| {
        let clients: Vec<_> = (0..12)
            .map(|_| {
                scope.spawn(move || {
                    for _ in 0..20 {
                        let mut session = session(port, "capped")?;
                        session.query("SELECT SLEEP(0.01)")?;
                        leave(session)?;
                    }
                    Ok::<_, String>(())
                })
            })
            .collect();
        let mut most = 0;
        while clients.iter().any(|client| !client.is_finished()) {
            most = most.max(connections("capped")?);
        }
        for client in clients {
            client.join().map_err(|_| "panic")??;
        }
        Ok::<_, String>(most)
    })?;
    ensure!((1..=3).contains(&most), "{most} links at once");
    Ok(())
}

/// Who came first is served first; who comes when the queue is full is told so at once.
fn the_queue_is_bounded_and_fair() -> Verdict {
    create_user("patient")?;
    let links = "max = 1\nqueue = 3\nqueue_timeout = \"1m\"";
    let (spillway, port) = front("spillway-bounded", 2, links, "")?;
    let holder = session(port, "patient")?;
    let (served, order) = std::sync::mpsc::channel();
    let mut waiting = Vec::new();
    for number in 0..3 {
        let served = served.clone();
        waiting.push(thread::spawn(move || {
            let mut session = session(port, "patient")?;
            served.send(number).map_err(|e| e.to_string())?;
            session.query("SELECT 1")?;
            leave(session)
        }));
        wait_links(&spillway, 1, number + 1)?;
    }
    let asked = Instant::now();
    match login(port, "patient")? {
        Err(refusal) => same!(refusal.code, 1040, "a fourth in the queue: {refusal:?}"),
        Ok(_) => return Err("a fourth in a queue of three was served".to_owned()),
    }
    ensure!(asked.elapsed() < Duration::from_secs(20), "it was told only after {:?}", asked.elapsed());
    leave(holder)?;
    for client in waiting {
        client.join().map_err(|_| "panic")??;
    }
    same!(order.try_iter().collect::<Vec<_>>(), [0, 1, 2], "the order in which they were served");
    // Nobody waits for ever.
    let links = "max = 1\nqueue = 3\nqueue_timeout = \"2s\"";
    let (_spillway, port) = front("spillway-bounded-in-time", 2, links, "")?;
    let _holder = session(port, "patient")?;
    let asked = Instant::now();
    match login(port, "patient")? {
        Err(refusal) => same!(refusal.code, 1040, "after the queue's time: {refusal:?}"),
        Ok(_) => return Err("a second link where one may be".to_owned()),
    }
    ensure!((2..20).contains(&asked.elapsed().as_secs()), "it waited {:?}", asked.elapsed());
    Ok(())
}

// === how long links live ===

fn kept_warm() -> Verdict {
    create_user("warm")?;
    let (_spillway, port) = front("spillway-warm", 1, "warm = 3\nmax_idle = 5", "")?;
    leave(session(port, "warm")?)?;
    wait_connections("warm", 3)?;
    let mut session = session(port, "warm")?;
    same!(first_value(&session.query("SELECT 1")?)?, "1", "a warm link");
    wait_connections("warm", 4)
}

/// An idle link does not outlive its account, or its password.
fn closed_with_the_account() -> Verdict {
    create_user("mortal")?;
    let (spillway, port) = front("spillway-mortal", 1, "trust = \"1m\"", "")?;
    leave(session(port, "mortal")?)?;
    wait_connections("mortal", 1)?;
    server()?.sql("ALTER USER mortal@'%' IDENTIFIED BY 'another'")?;
    spillway.reload_accounts()?;
    wait_connections("mortal", 0)?;
    ensure!(login(port, "mortal")?.is_err(), "the old password is accepted");
    let renewed = Credentials::new("mortal", "another", Some("lab"));
    leave(raw::login(port, &renewed)?.map_err(|refusal| format!("{refusal:?}"))?)?;
    wait_connections("mortal", 1)?;
    server()?.sql("DROP USER mortal@'%'")?;
    spillway.reload_accounts()?;
    wait_connections("mortal", 0)?;
    ensure!(raw::login(port, &renewed)?.is_err(), "a dropped account is accepted");
    Ok(())
}

fn closed_when_idle_or_drained() -> Verdict {
    create_user("sleepy")?;
    let (spillway, port) = front("spillway-sleepy", 1, "", "")?;
    let open = session(port, "sleepy")?;
    leave(session(port, "sleepy")?)?;
    wait_connections("sleepy", 2)?;
    wait_links(&spillway, 1, 0)?;
    let node = spillway.node("lab", "solo")?;
    same!(
        (&node["links"], &node["idle_links"], &node["waiting"]),
        (&2.into(), &1.into(), &0.into()),
        "{node}"
    );
    let metrics = spillway.api("GET", "/metrics", None)?.body;
    let idle = "spillway_node_links_idle{cluster=\"lab\",node=\"solo\"} 1";
    ensure!(metrics.contains(idle), "no {idle} in {metrics}");
    leave(open)?;
    wait_connections("sleepy", 2)?;
    spillway.ask("set node lab solo drain")?;
    wait_connections("sleepy", 0)?;
    let (_spillway, port) = front("spillway-sleepy-2", 1, "idle_timeout = \"4s\"", "")?;
    leave(session(port, "sleepy")?)?;
    wait_connections("sleepy", 1)?;
    wait_connections("sleepy", 0)
}

/// The node has the last word on every login that it did not judge a moment ago, whatever Spillway knows.
fn judged_again_by_the_node() -> Verdict {
    create_user("suspect")?;
    let more = "trust = \"0s\"";
    let (_spillway, port) = front("spillway-suspect", 1, more, "")?;
    leave(session(port, "suspect")?)?;
    // Spillway looks at the accounts every few seconds; the very next login must know.
    server()?.sql("ALTER USER suspect@'%' ACCOUNT LOCK")?;
    match login(port, "suspect")? {
        Err(refusal) => ensure!(matches!(refusal.code, 4151 | 1045), "{refusal:?}"),
        Ok(_) => return Err("a locked account got an idle link".to_owned()),
    }
    wait_connections("suspect", 0)
}

// === limits of clients ===

fn sessions_of_a_user_and_an_address() -> Verdict {
    create_user("many")?;
    create_user("few")?;
    let limits = "max_sessions = 5\nmax_sessions_per_user = 3\nmax_sessions_per_address = 4";
    let (_spillway, port) = front("spillway-limits", 2, "", limits)?;
    let from = |user: &'static str, last: u8| {
        let who = Credentials::new(user, PASSWORD, Some("lab")).from(Ipv4Addr::new(127, 0, 0, last));
        raw::login(port, &who)
    };
    let code = |login: Result<Raw, Refusal>| login.err().map(|refusal| refusal.code);
    let mut open = Vec::new();
    for _ in 0..3 {
        open.push(from("many", 2)?.map_err(|refusal| format!("{refusal:?}"))?);
    }
    same!(code(from("many", 3)?), Some(1203), "a fourth session of one user");
    open.push(from("few", 2)?.map_err(|refusal| format!("{refusal:?}"))?);
    same!(code(from("few", 2)?), Some(1040), "a fifth session of one address");
    // Those that were refused have a place until they are told.
    let fifth = || from("few", 3)?.map_err(|refusal| format!("{refusal:?}"));
    open.push(wait_for("the places of those", MOMENT, fifth)?);
    same!(code(from("few", 4)?), Some(1040), "a sixth session");
    // A change of user that fails at the node changes no place.
    server()?.sql(&format!("CREATE USER barred@'%' IDENTIFIED BY '{PASSWORD}'"))?;
    let told = open[0].change_user("barred", PASSWORD, "lab")?.err().map(|refusal| refusal.code);
    same!(told, Some(1044), "a schema that is closed to the new user");
    leave(open.remove(3))?;
    wait_for("the place of that one", MOMENT, || match code(from("many", 3)?) {
        Some(1203) => Ok(()),
        other => Err(format!("a fourth session of one user: {other:?}")),
    })?;
    // Room again when one leaves.
    leave(open.remove(0))?;
    wait_for("a place", MOMENT, || from("many", 2)?.map(drop).map_err(|refusal| format!("{refusal:?}")))
}

fn idle_sessions_end() -> Verdict {
    create_user("silent")?;
    let (_spillway, port) = front("spillway-idle-end", 1, "", "idle_timeout = \"2s\"")?;
    let mut silent = session(port, "silent")?;
    let mut busy = session(port, "silent")?;
    // A statement that takes long is no idleness.
    same!(first_value(&busy.query("SELECT SLEEP(5)")?)?, "0", "a long statement");
    let last_words = silent.unasked_packet()?;
    same!(Refusal::parse(&last_words)?.code, 4031, "why the session ends");
    ensure!(silent.is_closed(), "an idle session stays open");
    same!(first_value(&busy.query("SELECT 1")?)?, "1", "the busy one");
    Ok(())
}

/// Two thousand sessions that do nothing take little memory, and each still works.
fn thousands_of_idle_sessions() -> Verdict {
    const SESSIONS: usize = 2000;
    create_user("idle")?;
    let (spillway, port) = front("spillway-thousands", 2, "", "")?;
    leave(session(port, "idle")?)?;
    let before = process::resident(spillway.pid())?;
    let mut open = Vec::with_capacity(SESSIONS);
    for _ in 0..SESSIONS {
        open.push(session(port, "idle")?);
    }
    let each = (process::resident(spillway.pid())?.saturating_sub(before)) / SESSIONS as u64;
    ensure!(each <= 8 * 1024, "{each} bytes of memory for each idle session");
    for session in open.iter_mut().step_by(97) {
        same!(first_value(&session.query("SELECT 1")?)?, "1", "an idle session");
    }
    Ok(())
}
