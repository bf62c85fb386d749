//! Changes of the writer: planned, lost primaries, and primaries that come back.

use crate::harness::cluster::{DURABLE, Replication, TwoPrimaries, follow};
use crate::harness::proxy::Spillway;
use crate::harness::server::{AdminSession, Make, Server};
use crate::harness::workspace::free_port;
use crate::harness::{Outcome, PATIENCE, wait_for};
use crate::lab::{self, PASSWORD, cluster_with, service_toml};
use crate::raw::{self, Credentials, Raw};
use crate::{Verdict, ensure, same, trial};
use libtest_mimic::Trial;
use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

pub(crate) fn trials() -> Vec<Trial> {
    vec![
        trial("handover::a_pair_switches_by_gtid", || pair_switches("duo-gtid", true)),
        trial("handover::a_pair_switches_by_coordinates", || pair_switches("duo-log", false)),
        trial("handover::guards_refuse", guards_refuse),
        trial("handover::sessions_that_left_the_old_writer_are_told", sessions_are_told),
        trial("handover::what_fails_is_taken_back", what_fails_is_taken_back),
        trial("handover::a_replication_cluster_switches", replication_switches),
        trial("handover::a_lost_primary_is_replaced_once", lost_primary_is_replaced_once),
        trial("handover::a_pair_fails_over_by_hand", pair_fails_over_by_hand),
        trial("handover::an_errant_primary_stays_fenced", errant_primary_stays_fenced),
        trial("handover::a_primary_that_lost_its_own_does_not_rejoin", primary_that_lost_its_own),
        trial("handover::equal_server_ids_are_an_alarm", equal_server_ids),
        trial("handover::what_workers_still_apply_is_waited_for", workers_are_waited_for),
    ]
}

pub(crate) const READ_ONLY: &str = "SELECT @@global.read_only";

/// Accounts and a table that counts rows; no unique key, so that a row that was written twice is there twice.
pub(crate) fn contents() -> String {
    format!(
        "CREATE DATABASE shop; CREATE TABLE shop.row (number INT NOT NULL, server INT NOT NULL);\
         CREATE USER app@'%' IDENTIFIED BY '{PASSWORD}'; GRANT ALL ON shop.* TO app@'%';\
         CREATE USER operator@'%' IDENTIFIED BY 'operator-secret';\
         GRANT READ_ONLY ADMIN, REPLICATION SLAVE ADMIN, BINLOG MONITOR, REPLICA MONITOR, RELOAD, \
         CONNECTION ADMIN ON *.* TO operator@'%'; {}",
        crate::harness::server::monitor_statements()
    )
}

/// `handover` of a cluster, with further keys.
pub(crate) fn handover_toml(more: &str) -> String {
    format!("handover = {{ user = \"operator\", password = \"operator-secret\"{more} }}")
}

pub(crate) fn replication_toml(more: &str) -> String {
    let credentials = ", replication_user = \"replication\", replication_password = \"replication-secret\"";
    handover_toml(&format!("{credentials}{more}"))
}

pub(crate) fn front(name: &str, kind: &str, nodes: &str, handover: &str, port: u16) -> Outcome<Spillway> {
    let configuration =
        cluster_with("shop", kind, nodes, handover) + &service_toml("shop", port, "route = \"cluster:shop\"");
    let spillway = Spillway::start(lab::binary(), name, &configuration)?;
    spillway.wait_all_up()?;
    Ok(spillway)
}

pub(crate) fn session(port: u16) -> Outcome<Raw> {
    raw::login(port, &Credentials::new("app", PASSWORD, Some("shop")))?
        .map_err(|refusal| format!("{refusal:?}"))
}

/// Runs a statement that gives no rows.
pub(crate) fn execute(session: &mut Raw, statement: &str) -> Verdict {
    let answer = session.query(statement)?;
    match answer.first() {
        Some(packet) if packet.first() == Some(&0) => Ok(()),
        Some(packet) => Err(format!("{:?}", raw::Refusal::parse(packet)?)),
        None => Err("no answer".to_owned()),
    }
}

/// Writes a row by a session of its own.
pub(crate) fn write(port: u16, number: u32) -> Verdict {
    execute(&mut session(port)?, &format!("INSERT INTO shop.row VALUES ({number}, 0)"))
}

/// Writes numbered rows, one after the other, until it is told to stop.
pub(crate) struct Load {
    stop: Arc<AtomicBool>,
    written: Arc<AtomicU32>,
    writer: JoinHandle<(u32, BTreeSet<u32>)>,
}

impl Load {
    pub(crate) fn start(port: u16) -> Self {
        Self::start_after(port, 0)
    }

    /// The same with numbers above this one.
    pub(crate) fn start_after(port: u16, last: u32) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let until = Arc::clone(&stop);
        let written = Arc::new(AtomicU32::new(0));
        let count = Arc::clone(&written);
        let writer = std::thread::spawn(move || {
            let (mut number, mut acknowledged) = (last, BTreeSet::new());
            let mut open: Option<Raw> = None;
            while !until.load(Ordering::Relaxed) {
                number += 1;
                let session = open.take().map_or_else(|| session(port), Ok);
                let Ok(mut session) = session else {
                    std::thread::sleep(Duration::from_millis(20));
                    continue;
                };
                // What failed is not written again: whether it was done may be unknown.
                let insert = format!("INSERT INTO shop.row SELECT {number}, @@server_id");
                if execute(&mut session, &insert).is_ok() {
                    acknowledged.insert(number);
                    count.fetch_add(1, Ordering::Relaxed);
                    open = Some(session);
                }
                std::thread::sleep(Duration::from_millis(3));
            }
            (number, acknowledged)
        });
        Self { stop, written, writer }
    }

    /// Waits until so many more were acknowledged.
    pub(crate) fn goes_on(&self, rows: u32) -> Verdict {
        let wanted = self.written.load(Ordering::Relaxed) + rows;
        wait_for("rows that are written", PATIENCE, || {
            let written = self.written.load(Ordering::Relaxed);
            if written >= wanted { Ok(()) } else { Err(format!("{written} of {wanted}")) }
        })
    }

    /// How many were tried, and those that were acknowledged.
    pub(crate) fn end(self) -> Outcome<(u32, BTreeSet<u32>)> {
        self.stop.store(true, Ordering::Relaxed);
        self.writer.join().map_err(|_| "the writer panicked".to_owned())
    }
}

/// Every acknowledged row is on the server once, and none of the others twice.
pub(crate) fn all_there(server: &Server, acknowledged: &BTreeSet<u32>) -> Verdict {
    let rows = server.sql("SELECT number FROM shop.row")?;
    let rows: Vec<u32> = rows.lines().filter_map(|line| line.parse().ok()).collect();
    let distinct: BTreeSet<u32> = rows.iter().copied().collect();
    same!(rows.len(), distinct.len(), "rows that are on {} twice", server.name);
    let lost: Vec<&u32> = acknowledged.difference(&distinct).collect();
    ensure!(lost.is_empty(), "rows that were acknowledged and are not on {}: {lost:?}", server.name);
    Ok(())
}

pub(crate) fn writer(spillway: &Spillway) -> Outcome<String> {
    let clusters = spillway.get("/v1/clusters")?;
    Ok(clusters["clusters"][0]["writer"].as_str().unwrap_or_default().to_owned())
}

pub(crate) fn wait_writer(spillway: &Spillway, name: &str) -> Verdict {
    wait_for("the writer", PATIENCE, || {
        let now = writer(spillway)?;
        if now == name { Ok(()) } else { Err(format!("it is {now:?}")) }
    })
    .map_err(|reason| format!("{reason}\n{}", spillway.log_tail(40)))
}

fn pair_switches(name: &str, by_gtid: bool) -> Verdict {
    let pair = TwoPrimaries::start(name, by_gtid, &contents())?;
    let port = free_port()?;
    let proxy = format!("spillway-{name}");
    let spillway = front(&proxy, "multi-primary", &pair.toml_nodes(), &handover_toml(""), port)?;
    let load = Load::start(port);
    for round in 0..4 {
        let (old, new) = (&pair.nodes[round % 2], &pair.nodes[(round + 1) % 2]);
        let plan = spillway.ask("switch shop --dry-run")?;
        ensure!(plan.contains(&format!("make {} writable", new.name)) && !plan.contains("failed"), "{plan}");
        same!(old.sql(READ_ONLY)?, "0", "a dry run changes nothing");
        let start = Instant::now();
        let done = spillway.ask("switch shop")?;
        let took = start.elapsed();
        ensure!(!done.contains("error"), "round {round}: {done}\n{}", spillway.log_tail(40));
        ensure!(done.contains(&format!("make {} read-only", old.name)), "{done}");
        same!((old.sql(READ_ONLY)?, new.sql(READ_ONLY)?), ("1".to_owned(), "0".to_owned()), "{done}");
        ensure!(took < Duration::from_secs(5), "it took {took:?}:\n{done}");
        wait_writer(&spillway, &new.name)?;
        load.goes_on(20)?;
    }
    let (tried, acknowledged) = load.end()?;
    ensure!(acknowledged.len() > 50, "only {} of {tried} rows were written", acknowledged.len());
    let servers = pair.nodes[0].sql("SELECT COUNT(DISTINCT server) FROM shop.row")?;
    same!(servers, "2", "servers that wrote");
    let count = pair.nodes[0].sql("SELECT COUNT(*) FROM shop.row")?;
    pair.nodes[1].wait_sql("SELECT COUNT(*) FROM shop.row", &count, PATIENCE)?;
    pair.nodes.iter().try_for_each(|node| all_there(node, &acknowledged))
}

/// What becomes of the sessions on the old writer is the last step.
fn sessions_are_told() -> Verdict {
    let pair = TwoPrimaries::start("duo-told", true, &contents())?;
    let port = free_port()?;
    let nodes = pair.toml_nodes();
    let spillway = front("spillway-told", "multi-primary", &nodes, &handover_toml(""), port)?;
    let mut sessions = [session(port)?, session(port)?, session(port)?];
    for open in &mut sessions {
        open.query("SELECT 1")?;
    }
    execute(&mut sessions[2], "START TRANSACTION")?;
    let done = spillway.ask("switch shop")?;
    ensure!(done.contains("sessions leave duo-told-a"), "{done}\n{}", spillway.log_tail(20));
    ensure!(done.contains("1 not ended"), "{done}");
    ensure!(done.contains("2 moved, 1 stays: a transaction is open"), "{done}");
    let server = raw::first_value(&sessions[0].query("SELECT @@server_id")?)?;
    same!(server, pair.nodes[1].port.to_string(), "where a session is that moved");
    execute(&mut sessions[2], "COMMIT")
}

fn guards_refuse() -> Verdict {
    let pair = TwoPrimaries::start("duo-guards", true, &contents())?;
    let port = free_port()?;
    let nodes = pair.toml_nodes();
    let spillway = front("spillway-guards", "multi-primary", &nodes, &handover_toml(""), port)?;
    let (active, inactive) = (&pair.nodes[0], &pair.nodes[1]);
    let unchanged = || {
        same!(
            (active.sql(READ_ONLY)?, inactive.sql(READ_ONLY)?),
            ("0".to_owned(), "1".to_owned()),
            "nothing is changed"
        );
        Ok::<_, String>(())
    };
    let refused = spillway.ask("failover shop")?;
    ensure!(refused.contains("handover.failover is off"), "{refused}");
    inactive.sql("STOP SLAVE SQL_THREAD")?;
    let plan = spillway.ask(&format!("switch shop {} --dry-run", inactive.name))?;
    ensure!(plan.contains("failed") && plan.contains("SQL thread: No"), "{plan}");
    let refused = spillway.ask("switch shop")?;
    ensure!(refused.contains("error: nothing was changed"), "{refused}");
    let path = "/v1/clusters/shop/switch";
    same!(spillway.api("POST", path, Some("{}"))?.status, 409, "the API says no, too");
    let dry = spillway.api("POST", path, Some("{\"dry_run\": true}"))?;
    ensure!(dry.status == 200 && dry.body.contains("\"failed\""), "{}", dry.body);
    unchanged()?;
    inactive.sql("START SLAVE")?;
    // Another handover runs, somewhere.
    let mut holder = active.session()?;
    let lock = "CONCAT('spillway:', LEFT(SHA2('shop', 256), 40))";
    holder.run(&format!("SELECT GET_LOCK({lock}, 0)"))?;
    wait_for("a refusal", PATIENCE, || {
        let answer = spillway.ask("switch shop --dry-run")?;
        if answer.contains("another handover") { Ok(()) } else { Err(answer) }
    })?;
    let refused = spillway.ask("switch shop")?;
    let named = refused.contains("another handover of this cluster runs (connection ")
        && refused.contains(" of another user has the lock)");
    ensure!(named, "{refused}");
    drop(holder);
    active.wait_sql(&format!("SELECT IS_FREE_LOCK({lock})"), "1", PATIENCE)?;
    unchanged()?;
    // Both writable: nobody knows which one is right.
    inactive.sql("SET GLOBAL read_only = 0")?;
    let refused = spillway.ask("switch shop")?;
    ensure!(refused.contains("one node is writable") && refused.contains(" are"), "{refused}");
    inactive.sql("SET GLOBAL read_only = 1")?;
    // An account that may not.
    active.sql("REVOKE READ_ONLY ADMIN ON *.* FROM operator@'%'")?;
    let refused = wait_for("the revoke", PATIENCE, || {
        let answer = spillway.ask("switch shop --dry-run")?;
        if answer.contains("Access denied") { Ok(answer) } else { Err(answer) }
    })?;
    ensure!(refused.contains("read_only of"), "{refused}");
    unchanged()
}

/// A statement that runs and sleeps, of a client of the administrator, and the number of its connection.
pub(crate) fn running(server: &Server, statement: &str) -> Outcome<(AdminSession, String)> {
    let mut session = server.session()?;
    let id = session.run("SELECT CONNECTION_ID()")?;
    session.begin(statement)?;
    let list = if server.make == Make::MySql { "performance_schema" } else { "information_schema" };
    let count = format!("SELECT COUNT(*) FROM {list}.processlist WHERE ID = {id} AND STATE = 'User sleep'");
    server.wait_sql(&count, "1", PATIENCE)?;
    Ok((session, id))
}

fn what_fails_is_taken_back() -> Verdict {
    let pair = TwoPrimaries::start("duo-back", true, &contents())?;
    let port = free_port()?;
    let (active, inactive) = (&pair.nodes[0], &pair.nodes[1]);
    let keys = handover_toml(", catch_up_timeout = \"3s\", freeze_timeout = \"1s\"");
    let spillway = front("spillway-back", "multi-primary", &pair.toml_nodes(), &keys, port)?;
    let as_before = |answer: &str| {
        ensure!(answer.contains("taken back, all is as it was"), "{answer}");
        same!(active.sql(READ_ONLY)?, "0", "the old writer: {answer}");
        wait_for("the topology", PATIENCE, || write(port, 0))
    };
    // A statement on the active node that does not end in time.
    let (mut slow, id) = running(active, "INSERT INTO shop.row SELECT SLEEP(600), 1")?;
    let answer = spillway.ask("switch shop")?;
    ensure!(answer.contains("did not end within 1s"), "{answer}");
    as_before(&answer)?;
    active.sql(&format!("KILL {id}"))?;
    ensure!(slow.run("DO 1").is_err(), "it is still there");
    same!(inactive.sql(READ_ONLY)?, "1", "the new writer");
    // The inactive one applies nothing, though its threads run.
    let mut holder = inactive.session()?;
    holder.run("LOCK TABLES shop.row READ")?;
    write(port, 1)?;
    let answer = spillway.ask("switch shop")?;
    ensure!(answer.contains("not within 3s"), "{answer}");
    as_before(&answer)?;
    drop(holder);
    // It stops in its tracks after the old writer was frozen.
    let count = active.sql("SELECT COUNT(*) FROM shop.row")?;
    inactive.wait_sql("SELECT COUNT(*) FROM shop.row", &count, PATIENCE)?;
    let mut holder = inactive.session()?;
    holder.run("LOCK TABLES shop.row READ")?;
    write(port, 2)?;
    let answer = std::thread::scope(|scope| {
        let switch = scope.spawn(|| spillway.ask("switch shop"));
        let frozen = active.wait_sql(READ_ONLY, "1", PATIENCE).and_then(|()| inactive.freeze(true));
        let answer = switch.join().map_err(|_| "the switch panicked".to_owned());
        inactive.freeze(false)?;
        frozen?;
        answer?
    })?;
    drop(holder);
    as_before(&answer)?;
    same!(inactive.sql(READ_ONLY)?, "1", "the new writer");
    // And when nothing is in the way, it succeeds.
    let done = wait_for("a switch", PATIENCE, || {
        let answer = spillway.ask("switch shop")?;
        if answer.contains("error") { Err(answer) } else { Ok(answer) }
    })?;
    same!(inactive.sql(READ_ONLY)?, "0", "{done}");
    Ok(())
}

fn pair_fails_over_by_hand() -> Verdict {
    let mut pair = TwoPrimaries::start("duo-lost", true, &contents())?;
    let port = free_port()?;
    let keys = handover_toml(", failover = \"manual\"");
    let spillway = front("spillway-lost", "multi-primary", &pair.toml_nodes(), &keys, port)?;
    let refused = spillway.ask("failover shop")?;
    ensure!(refused.contains("no node is writable: duo-lost-a is"), "{refused}");
    write(port, 1)?;
    pair.nodes[1].wait_sql("SELECT COUNT(*) FROM shop.row", "1", PATIENCE)?;
    pair.nodes[0].kill();
    let plan = wait_for("the loss", PATIENCE, || {
        let plan = spillway.ask("failover shop --dry-run")?;
        if plan.contains("failed") { Err(plan) } else { Ok(plan) }
    })?;
    ensure!(plan.contains("make duo-lost-b writable"), "{plan}");
    std::thread::sleep(Duration::from_secs(1));
    same!(pair.nodes[1].sql(READ_ONLY)?, "1", "nothing is promoted by itself");
    let done = spillway.ask("failover shop")?;
    same!(pair.nodes[1].sql(READ_ONLY)?, "0", "{done}");
    wait_writer(&spillway, "duo-lost-b")?;
    write(port, 2)?;
    // It comes back, writable as its configuration says.
    pair.nodes[0].start(&[])?;
    pair.nodes[0]
        .wait_sql(READ_ONLY, "1", PATIENCE)
        .map_err(|reason| format!("{reason}\n{}", spillway.log_tail(40)))?;
    same!(pair.nodes[1].sql(READ_ONLY)?, "0", "the writer stays");
    wait_writer(&spillway, "duo-lost-b")?;
    write(port, 3)?;
    pair.nodes[0].wait_sql("SELECT COUNT(*) FROM shop.row", "3", PATIENCE)
}

/// A primary and two replicas, which lose nothing when they are killed.
pub(crate) fn three(name: &str) -> Outcome<Replication> {
    let replication = Replication::with_replicas(name, &DURABLE, &["r1", "r2"])?;
    replication.nodes[0].sql(&contents())?;
    replication.wait_caught_up()?;
    Ok(replication)
}

fn source_port(server: &Server) -> Outcome<String> {
    const PORT: usize = 5;
    const THREADS: std::ops::RangeInclusive<usize> = 12..=13;
    let status = server.sql("SHOW ALL SLAVES STATUS")?;
    let columns: Vec<&str> = status.split('\t').collect();
    match (columns.get(PORT), columns.get(THREADS)) {
        (Some(port), Some(["Yes", "Yes"])) => Ok((*port).to_owned()),
        other => Err(format!("{}: {other:?}", server.name)),
    }
}

pub(crate) fn follows(server: &Server, primary: &Server) -> Verdict {
    wait_for(&format!("{} follows {}", server.name, primary.name), PATIENCE, || {
        let port = source_port(server)?;
        if port == primary.port.to_string() { Ok(()) } else { Err(format!("it follows {port}")) }
    })
}

fn replication_switches() -> Verdict {
    let cluster = three("tri")?;
    let port = free_port()?;
    let spillway = front("spillway-tri", "replication", &cluster.toml_nodes(), &replication_toml(""), port)?;
    let load = Load::start(port);
    let [primary, r1, r2] = &cluster.nodes[..] else { return Err("three nodes".to_owned()) };
    for (old, new, other) in [(primary, r2, r1), (r2, primary, r1), (primary, r1, r2)] {
        let done = spillway.ask(&format!("switch shop {}", new.name))?;
        ensure!(!done.contains("error") && !done.contains("failed"), "{done}\n{}", spillway.log_tail(40));
        same!((old.sql(READ_ONLY)?, new.sql(READ_ONLY)?), ("1".to_owned(), "0".to_owned()), "{done}");
        same!(new.sql("SHOW ALL SLAVES STATUS")?, "", "the new primary has no source");
        follows(old, new)?;
        follows(other, new)?;
        wait_writer(&spillway, &new.name)?;
        load.goes_on(20)?;
    }
    let (tried, acknowledged) = load.end()?;
    ensure!(acknowledged.len() > 50, "only {} of {tried} rows were written", acknowledged.len());
    let count = r1.sql("SELECT COUNT(*) FROM shop.row")?;
    for node in &cluster.nodes {
        node.wait_sql("SELECT COUNT(*) FROM shop.row", &count, PATIENCE)?;
        all_there(node, &acknowledged)?;
    }
    Ok(())
}

fn lost_primary_is_replaced_once() -> Verdict {
    let mut cluster = three("auto")?;
    let (port, second_port) = (free_port()?, free_port()?);
    let keys = replication_toml(", failover = \"auto\", failover_after = \"1s\"");
    let nodes = cluster.toml_nodes();
    let first = front("spillway-auto1", "replication", &nodes, &keys, port)?;
    let second = front("spillway-auto2", "replication", &nodes, &keys, second_port)?;
    // By hand, nothing is done to a primary that lives.
    let refused = first.ask("failover shop")?;
    ensure!(refused.contains("error: nothing was changed"), "{refused}");
    write(port, 1)?;
    cluster.wait_caught_up()?;
    cluster.nodes[0].kill();
    let replicas = || cluster.nodes[1..].iter();
    let new = wait_for("a new primary", PATIENCE, || {
        let writable: Vec<&Server> =
            replicas().filter(|node| node.sql(READ_ONLY).is_ok_and(|value| value == "0")).collect();
        match writable[..] {
            [one] => Ok(one.name.clone()),
            _ => Err(format!("{} are writable", writable.len())),
        }
    })
    .map_err(|reason| format!("{reason}\n{}\n{}", first.log_tail(40), second.log_tail(40)))?;
    wait_writer(&first, &new)?;
    wait_writer(&second, &new)?;
    for door in [port, second_port] {
        write(door, 2)?;
    }
    let index = cluster.nodes.iter().position(|node| node.name == new).ok_or("no such node")?;
    let other = 3 - index;
    follows(&cluster.nodes[other], &cluster.nodes[index])?;
    let promotions = || {
        let of = |proxy: &Spillway| proxy.log().matches("ending=\"done\"").count();
        of(&first) + of(&second)
    };
    wait_for("the promotion in a log", PATIENCE, || {
        if promotions() > 0 { Ok(()) } else { Err(first.log_tail(20) + &second.log_tail(20)) }
    })?;
    same!(promotions(), 1, "promotions by both proxies");
    // It comes back, writable as its configuration says: fenced, and a replica again.
    cluster.nodes[0].start(&[])?;
    let (old, primary) = (&cluster.nodes[0], &cluster.nodes[index]);
    old.wait_sql(READ_ONLY, "1", PATIENCE)
        .and_then(|()| follows(old, primary))
        .map_err(|reason| format!("{reason}\n{}\n{}", first.log_tail(40), second.log_tail(40)))?;
    same!(primary.sql(READ_ONLY)?, "0", "the primary stays");
    write(port, 3)?;
    let count = primary.sql("SELECT COUNT(*) FROM shop.row")?;
    same!(count, "4", "rows");
    for node in &cluster.nodes {
        node.wait_sql("SELECT COUNT(*) FROM shop.row", &count, PATIENCE)?;
    }
    wait_writer(&first, &new)?;
    wait_writer(&second, &new)?;
    same!(promotions(), 1, "promotions by both proxies in the end");
    Ok(())
}

fn errant_primary_stays_fenced() -> Verdict {
    let mut cluster = three("errant")?;
    let port = free_port()?;
    let keys = replication_toml(", failover = \"auto\", failover_after = \"500ms\"");
    let spillway = front("spillway-errant", "replication", &cluster.toml_nodes(), &keys, port)?;
    for replica in &cluster.nodes[1..] {
        replica.sql("STOP SLAVE IO_THREAD")?;
    }
    // Nobody gets this.
    cluster.nodes[0].sql("INSERT INTO shop.row VALUES (7, 7)")?;
    let errant = cluster.nodes[0].sql("SELECT @@gtid_binlog_pos")?;
    cluster.nodes[0].kill();
    wait_for("a new primary", PATIENCE, || {
        let name = writer(&spillway)?;
        if cluster.nodes[1..].iter().any(|node| node.name == name) { Ok(()) } else { Err(name) }
    })
    .map_err(|reason| format!("{reason}\n{}", spillway.log_tail(40)))?;
    write(port, 8)?;
    cluster.nodes[0].start(&[])?;
    cluster.nodes[0].wait_sql(READ_ONLY, "1", PATIENCE)?;
    let number = errant.rsplit('-').next().unwrap_or_default();
    wait_for("the alarm", PATIENCE, || {
        let log = spillway.log();
        let named = log.lines().any(|line| line.contains("lacks") && line.contains(&format!(":{number}")));
        if named { Ok(()) } else { Err(format!("no word of {errant}\n{}", spillway.log_tail(20))) }
    })?;
    same!(cluster.nodes[0].sql("SHOW ALL SLAVES STATUS")?, "", "it follows nobody");
    let rows = cluster.nodes[0].sql("SELECT number FROM shop.row")?;
    same!(rows, "7", "nothing reached it");
    Ok(())
}

/// The end of its own log is gone: a server takes what others send of that for what it has.
fn primary_that_lost_its_own() -> Verdict {
    let mut cluster = three("tail")?;
    let port = free_port()?;
    let keys = replication_toml(", failover = \"auto\", failover_after = \"500ms\"");
    let spillway = front("spillway-tail", "replication", &cluster.toml_nodes(), &keys, port)?;
    let plan = spillway.ask("switch shop --dry-run")?;
    ensure!(plan.contains("tail-primary waits for none: should it be lost"), "{plan}");
    write(port, 1)?;
    cluster.wait_caught_up()?;
    // Nothing is promoted while an operator has it in hand.
    spillway.ask("set node shop tail-primary maintenance")?;
    cluster.nodes[0].stop()?;
    cluster.nodes[0].keep_data()?;
    cluster.nodes[0].start(&[])?;
    spillway.ask("set node shop tail-primary enabled")?;
    wait_writer(&spillway, "tail-primary")?;
    wait_for("a row", PATIENCE, || write(port, 2))?;
    for replica in &cluster.nodes[1..] {
        replica.wait_sql("SELECT COUNT(*) FROM shop.row", "2", PATIENCE)?;
    }
    cluster.nodes[0].kill();
    cluster.nodes[0].lose_data()?;
    let new = wait_for("a new primary", PATIENCE, || {
        let name = writer(&spillway)?;
        cluster.nodes[1..].iter().position(|node| node.name == name).ok_or(name)
    })
    .map_err(|reason| format!("{reason}\n{}", spillway.log_tail(40)))?;
    write(port, 3)?;
    spillway.wait_log("no replica did (asynchronous replication)")?;
    let (old, others) = cluster.nodes.split_at_mut(1);
    let (old, new) = (&mut old[0], &others[new]);
    old.start(&[])?;
    old.wait_sql(READ_ONLY, "1", PATIENCE)?;
    wait_for("the alarm", PATIENCE, || {
        let log = spillway.log();
        if log.contains("has lost transactions that it wrote itself") {
            Ok(())
        } else {
            Err(spillway.log_tail(20))
        }
    })?;
    same!(old.sql("SHOW ALL SLAVES STATUS")?, "", "it follows nobody");
    let rows = "SELECT GROUP_CONCAT(number ORDER BY number) FROM shop.row";
    // What would come of it: it gets what others wrote, and silently not what it wrote itself.
    old.kill();
    old.keep_data()?;
    old.start(&["--read-only=1"])?;
    old.sql("SET GLOBAL gtid_slave_pos = @@gtid_current_pos")?;
    old.sql(&(follow(new, "MASTER_USE_GTID=slave_pos") + "START SLAVE"))?;
    old.wait_sql(rows, "1,3", PATIENCE)?;
    old.kill();
    old.lose_data()?;
    old.start(&["--read-only=1"])?;
    // With this it takes them from others.
    old.sql("SET GLOBAL rpl_semi_sync_slave_enabled = ON")?;
    follows(old, new).map_err(|reason| format!("{reason}\n{}", spillway.log_tail(40)))?;
    old.wait_sql(rows, "1,2,3", PATIENCE)
}

/// With parallel replication the SQL thread is idle while its workers have not applied what it gave to them.
fn workers_are_waited_for() -> Verdict {
    const ROWS: &str = "SELECT COUNT(*) FROM shop.row";
    let mut options = DURABLE.to_vec();
    options.push("--slave-parallel-threads=4");
    let mut cluster = Replication::with_replicas("workers", &options, &["r1", "r2"])?;
    cluster.nodes[0].sql(&contents())?;
    cluster.wait_caught_up()?;
    let keys = replication_toml(", failover = \"manual\"");
    let nodes = cluster.toml_nodes();
    let spillway = front("spillway-workers", "replication", &nodes, &keys, free_port()?)?;
    let (primary, replicas) = cluster.nodes.split_at_mut(1);
    let (primary, replicas) = (&mut primary[0], &*replicas);
    let mut holders = Vec::new();
    for replica in replicas {
        let mut holder = replica.session()?;
        holder.run("LOCK TABLES shop.row READ")?;
        holders.push(holder);
    }
    let rows = |number: u32| format!("INSERT INTO shop.row VALUES ({number}, 0);");
    primary.sql(&(0..40).map(rows).collect::<String>())?;
    let written = primary.sql("SELECT @@gtid_binlog_pos")?;
    for replica in replicas {
        wait_for("what was written is received", PATIENCE, || {
            let status = replica.sql("SHOW ALL SLAVES STATUS")?;
            if status.split('\t').any(|column| column == written) { Ok(()) } else { Err(status) }
        })?;
        same!(replica.sql(ROWS)?, "0", "rows that are applied");
    }
    primary.kill();
    wait_for("the loss", PATIENCE, || {
        let plan = spillway.ask("failover shop --dry-run")?;
        if plan.contains("failed") { Err(plan) } else { Ok(()) }
    })?;
    let done = std::thread::scope(|scope| {
        let failover = scope.spawn(|| spillway.ask("failover shop"));
        std::thread::sleep(Duration::from_secs(2));
        let waits = !failover.is_finished();
        holders.clear();
        let done = failover.join().map_err(|_| "the failover panicked")??;
        ensure!(waits, "it did not wait: {done}");
        Ok::<_, String>(done)
    })?;
    ensure!(!done.contains("error") && !done.contains("failed"), "{done}");
    let new = writer(&spillway)?;
    let new = replicas.iter().find(|node| node.name == new).ok_or("no such node")?;
    same!(new.sql(ROWS)?, "40", "rows on the new primary: {done}");
    replicas.iter().try_for_each(|replica| replica.wait_sql(ROWS, "40", PATIENCE))
}

fn equal_server_ids() -> Verdict {
    let cluster = three("ids")?;
    let port = free_port()?;
    let spillway = front("spillway-ids", "replication", &cluster.toml_nodes(), &replication_toml(""), port)?;
    let [primary, r1, r2] = &cluster.nodes[..] else { return Err("three nodes".to_owned()) };
    let alarm = || Ok::<_, String>(spillway.get("/v1/clusters")?["clusters"][0]["alarm"].clone());
    ensure!(alarm()?.is_null(), "{}", alarm()?);
    r2.sql(&format!("SET GLOBAL server_id = {}", r1.port))?;
    wait_for("the alarm", PATIENCE, || {
        let words = alarm()?.as_str().unwrap_or_default().to_owned();
        let wanted = format!("{} and {} have the same server_id {}", r1.name, r2.name, r1.port);
        if words.contains(&wanted) { Ok(()) } else { Err(words) }
    })?;
    let refused = spillway.ask(&format!("switch shop {}", r1.name))?;
    ensure!(refused.contains("nothing was changed: server ids are unique"), "{refused}");
    same!(primary.sql(READ_ONLY)?, "0", "nothing was changed");
    wait_writer(&spillway, &primary.name)?;
    r2.sql(&format!("SET GLOBAL server_id = {}", r2.port))?;
    wait_for("the end of the alarm", PATIENCE, || {
        if alarm()?.is_null() { Ok(()) } else { Err(alarm()?.to_string()) }
    })
}
