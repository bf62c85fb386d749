//! Changes of the writer among `MySQL` servers: planned, lost primaries, and primaries that come back.

use crate::handover::{
    Load, READ_ONLY, all_there, front, handover_toml, replication_toml, running, wait_writer, write, writer,
};
use crate::harness::cluster::{mysql_caught_up, mysql_replication, mysql_two_primaries, toml_nodes};
use crate::harness::proxy::Spillway;
use crate::harness::server::Server;
use crate::harness::workspace::free_port;
use crate::harness::{Outcome, PATIENCE, wait_for};
use crate::lab::PASSWORD;
use crate::{Verdict, ensure, mysql_trial, same};
use libtest_mimic::Trial;
use std::time::{Duration, Instant};

pub(crate) fn trials() -> Vec<Trial> {
    vec![
        mysql_trial("mysql_replication::switches_and_fails_over_by_command", switches_and_fails_over),
        mysql_trial("mysql_replication::a_lost_primary_is_replaced", lost_primary_is_replaced),
        mysql_trial("mysql_replication::a_pair_by_gtid", || pair("myg", true)),
        mysql_trial("mysql_replication::a_pair_without_gtids", || pair("myp", false)),
        mysql_trial(
            "mysql_replication::a_primary_that_lost_its_own_does_not_rejoin",
            primary_that_lost_its_own,
        ),
    ]
}

/// Clients wait for the next writer for as long as a slow machine may take.
const PATIENT: &str = "\nmoves = { hold = \"30s\" }";

/// Both in one row.
const READ_ONLY_AT_ALL: &str = "SELECT @@global.read_only, @@global.super_read_only";
const FENCED: &str = "1\t1";
const WRITABLE: &str = "0\t0";

const ROWS: &str = "SELECT COUNT(*) FROM shop.row";

/// The port of the source, and whether both threads run.
const SOURCE: &str = "SELECT c.PORT, s.SERVICE_STATE, a.SERVICE_STATE
    FROM performance_schema.replication_connection_configuration c
    JOIN performance_schema.replication_connection_status s USING (CHANNEL_NAME)
    JOIN performance_schema.replication_applier_status a USING (CHANNEL_NAME)";

/// Accounts and a table that counts rows; no unique key, so that a row that was written twice is there twice.
fn contents() -> String {
    format!(
        "CREATE DATABASE shop; CREATE TABLE shop.row (number INT NOT NULL, server INT NOT NULL);\
         CREATE USER app@'%' IDENTIFIED BY '{PASSWORD}'; GRANT ALL ON shop.* TO app@'%';\
         CREATE USER operator@'%' IDENTIFIED BY 'operator-secret';\
         GRANT SYSTEM_VARIABLES_ADMIN, REPLICATION_SLAVE_ADMIN, REPLICATION CLIENT, RELOAD, CONNECTION_ADMIN \
         ON *.* TO operator@'%'"
    )
}

/// A primary and two replicas, by GTID.
fn three(name: &str) -> Outcome<Vec<Server>> {
    let nodes = mysql_replication(name, &["r1", "r2"])?;
    nodes[0].sql(&contents())?;
    mysql_caught_up(&nodes)?;
    Ok(nodes)
}

/// From now on this primary tells nobody of a row before a replica has it. (A replica that itself waits for acknowledgements
/// would wait for them with what it applies, too.)
fn make_semi_synchronous(primary: &Server, replicas: &[&Server]) -> Verdict {
    for replica in replicas {
        replica.sql(
            "SET GLOBAL rpl_semi_sync_replica_enabled = ON; STOP REPLICA IO_THREAD; START REPLICA IO_THREAD",
        )?;
    }
    primary.sql(
        "SET GLOBAL rpl_semi_sync_source_timeout = 600000; SET GLOBAL rpl_semi_sync_source_enabled = ON",
    )?;
    let clients = "SELECT VARIABLE_VALUE FROM performance_schema.global_status \
                   WHERE VARIABLE_NAME = 'Rpl_semi_sync_source_clients'";
    primary.wait_sql(clients, &replicas.len().to_string(), PATIENCE)
}

fn follows(server: &Server, primary: &Server) -> Verdict {
    server.wait_sql(SOURCE, &format!("{}\tON\tON", primary.port), PATIENCE)
}

/// The one of these nodes that is writable.
fn promoted<'a>(spillway: &Spillway, nodes: &'a [Server]) -> Outcome<&'a Server> {
    wait_for("a new primary", PATIENCE, || {
        let open = |node: &&Server| node.sql(READ_ONLY).is_ok_and(|value| value == "0");
        let writable: Vec<&Server> = nodes.iter().filter(open).collect();
        match writable[..] {
            [one] => Ok(one),
            _ => Err(format!("{} are writable", writable.len())),
        }
    })
    .map_err(|reason| format!("{reason}\n{}", spillway.log_tail(40)))
}

fn same_rows(nodes: &[Server]) -> Verdict {
    wait_for("all have the same rows", PATIENCE, || {
        let rows = nodes.iter().map(|node| node.sql(ROWS)).collect::<Outcome<Vec<_>>>()?;
        if rows.windows(2).all(|pair| pair[0] == pair[1]) { Ok(()) } else { Err(format!("{rows:?}")) }
    })
}

fn switches_and_fails_over() -> Verdict {
    let mut nodes = three("mys")?;
    let keys = replication_toml(", failover = \"manual\", freeze_timeout = \"2s\"") + PATIENT;
    let port = free_port()?;
    let spillway = front("spillway-mys", "replication", &toml_nodes(&nodes), &keys, port)?;
    let load = Load::start(port);
    let [primary, r1, r2] = &nodes[..] else { return Err("three nodes".to_owned()) };
    for (old, new, other) in [(primary, r2, r1), (r2, primary, r1)] {
        let plan = spillway.ask(&format!("switch shop {} --dry-run", new.name))?;
        ensure!(plan.contains(&format!("make {} writable", new.name)) && !plan.contains("failed"), "{plan}");
        same!(old.sql(READ_ONLY_AT_ALL)?, WRITABLE, "a dry run changes nothing");
        let start = Instant::now();
        let done = spillway.ask(&format!("switch shop {}", new.name))?;
        let took = start.elapsed();
        ensure!(!done.contains("error") && !done.contains("failed"), "{done}\n{}", spillway.log_tail(40));
        same!(old.sql(READ_ONLY_AT_ALL)?, FENCED, "{done}");
        same!(new.sql(READ_ONLY_AT_ALL)?, WRITABLE, "{done}");
        same!(new.sql("SHOW REPLICA STATUS")?, "", "the new primary has no source");
        ensure!(took < Duration::from_secs(6), "it took {took:?}:\n{done}");
        follows(old, new)?;
        follows(other, new)?;
        wait_writer(&spillway, &new.name)?;
        load.goes_on(30)?;
    }
    let (tried, mut before) = load.end()?;
    ensure!(before.len() > 50, "only {} of {tried} rows were written", before.len());
    same!(tried, u32::try_from(before.len()).unwrap_or_default(), "rows that were tried and acknowledged");
    let servers = primary.sql("SELECT COUNT(DISTINCT server) FROM shop.row WHERE server <> 0")?;
    same!(servers, "2", "servers that wrote");
    let refused = spillway.ask("failover shop")?;
    ensure!(refused.contains("no node is writable: mys-primary is"), "{refused}");
    // A statement that does not end in time: all is as it was.
    let (slow, id) = running(primary, "INSERT INTO shop.row SELECT -1 - SLEEP(600), 0")?;
    let answer = spillway.ask("switch shop")?;
    ensure!(answer.contains("did not end within 2s"), "{answer}");
    same!(primary.sql(READ_ONLY_AT_ALL)?, WRITABLE, "taken back: {answer}");
    primary.sql(&format!("KILL {id}"))?;
    drop(slow);
    let plan = spillway.ask(&format!("switch shop {} --dry-run", r1.name))?;
    ensure!(plan.contains("mys-primary waits for none: should it be lost"), "{plan}");
    // The primary is lost in the middle of the load, which has nothing but what a replica has, too.
    make_semi_synchronous(primary, &[r1, r2])?;
    let plan = spillway.ask(&format!("switch shop {} --dry-run", r1.name))?;
    ensure!(plan.contains("mys-primary waits for 1 of 2 replicas, 600000 ms at most"), "{plan}");
    let load = Load::start_after(port, tried);
    load.goes_on(30)?;
    nodes[0].kill();
    let plan = wait_for("the loss", PATIENCE, || {
        let plan = spillway.ask("failover shop --dry-run")?;
        if plan.contains("failed") { Err(plan) } else { Ok(plan) }
    })?;
    ensure!(plan.contains("mys-r1 and mys-r2 did, if the lost one waited for that"), "{plan}");
    let done = spillway.ask("failover shop")?;
    ensure!(!done.contains("error") && !done.contains("failed"), "{plan}\n{done}\n{}", spillway.log_tail(40));
    let new = promoted(&spillway, &nodes[1..])?;
    wait_writer(&spillway, &new.name)?;
    load.goes_on(30)?;
    before.append(&mut load.end()?.1);
    // Whichever of the two had more.
    let written =
        format!("SELECT COUNT(*) >= 30 FROM shop.row WHERE number > {tried} AND server = @@server_id");
    same!(new.sql(&written)?, "1", "rows that the new primary wrote");
    same_rows(&nodes[1..])?;
    nodes[1..].iter().try_for_each(|node| all_there(node, &before))
}

fn lost_primary_is_replaced() -> Verdict {
    let mut nodes = three("myl")?;
    let (port, keys) = (free_port()?, replication_toml(", failover = \"auto\", failover_after = \"500ms\""));
    let spillway = front("spillway-myl", "replication", &toml_nodes(&nodes), &keys, port)?;
    write(port, 1)?;
    mysql_caught_up(&nodes)?;
    nodes[0].kill();
    let name = promoted(&spillway, &nodes[1..])?.name.clone();
    wait_writer(&spillway, &name)?;
    write(port, 2)?;
    // It comes back, writable as its configuration says: fenced, and a replica again.
    nodes[0].start(&[])?;
    let new = nodes.iter().position(|node| node.name == name).ok_or("no such node")?;
    nodes.swap(0, new);
    let [primary, others @ ..] = &nodes[..] else { return Err("no node".to_owned()) };
    for other in others {
        follows(other, primary)
            .and_then(|()| other.wait_sql(READ_ONLY_AT_ALL, FENCED, PATIENCE))
            .map_err(|reason| format!("{reason}\n{}", spillway.log_tail(40)))?;
    }
    same!(primary.sql(READ_ONLY_AT_ALL)?, WRITABLE, "the primary stays");
    wait_writer(&spillway, &name)?;
    write(port, 3)?;
    same!(primary.sql(ROWS)?, "3", "rows");
    same_rows(&nodes)?;
    // The new one is lost, too, with a row that nobody got.
    for replica in &nodes[1..] {
        replica.sql("STOP REPLICA IO_THREAD")?;
    }
    nodes[0].sql("INSERT INTO shop.row VALUES (7, 7)")?;
    nodes[0].kill();
    let next = promoted(&spillway, &nodes[1..])?;
    wait_writer(&spillway, &next.name)?;
    write(port, 8)?;
    nodes[0].start(&[])?;
    nodes[0].wait_sql(READ_ONLY_AT_ALL, FENCED, PATIENCE)?;
    let uuid = nodes[0].sql("SELECT @@server_uuid")?;
    wait_for("the alarm", PATIENCE, || {
        let log = spillway.log();
        let named = |line: &str| line.contains("transactions that") && line.contains(&uuid);
        if log.lines().any(named) { Ok(()) } else { Err(spillway.log_tail(20)) }
    })?;
    same!(nodes[0].sql("SHOW REPLICA STATUS")?, "", "it follows nobody");
    let rows = "SELECT GROUP_CONCAT(number ORDER BY number) FROM shop.row";
    same!(nodes[0].sql(rows)?, "1,2,3,7", "nothing reached it");
    let next = nodes.iter().find(|node| node.sql(READ_ONLY).is_ok_and(|value| value == "0"));
    same!(next.ok_or("no primary")?.sql(rows)?, "1,2,3,8", "the primary");
    Ok(())
}

/// Two that replicate from each other change places, and one of them is lost.
fn pair(name: &str, by_gtid: bool) -> Verdict {
    let mut nodes = mysql_two_primaries(name, by_gtid, &contents())?;
    let (listed, proxy, second) = (toml_nodes(&nodes), format!("spillway-{name}"), nodes[1].name.clone());
    if !by_gtid {
        // As a primary with a replica it is refused: replicas could not be let follow by GTID.
        let proxy = format!("{proxy}-refused");
        let spillway = front(&proxy, "replication", &listed, &replication_toml(""), free_port()?)?;
        let refused = spillway.ask("switch shop")?;
        ensure!(refused.contains("nothing was changed") && refused.contains("GTID"), "{refused}");
    }
    let (port, keys) = (free_port()?, handover_toml(", failover = \"manual\"") + PATIENT);
    let spillway = front(&proxy, "multi-primary", &listed, &keys, port)?;
    let load = Load::start(port);
    for round in 0..2 {
        let (old, new) = (&nodes[round % 2], &nodes[(round + 1) % 2]);
        let done = spillway.ask("switch shop")?;
        ensure!(!done.contains("error") && !done.contains("failed"), "{done}\n{}", spillway.log_tail(40));
        same!(old.sql(READ_ONLY_AT_ALL)?, FENCED, "{done}");
        same!(new.sql(READ_ONLY_AT_ALL)?, WRITABLE, "{done}");
        wait_writer(&spillway, &new.name)?;
        load.goes_on(30)?;
    }
    let (tried, acknowledged) = load.end()?;
    ensure!(acknowledged.len() > 50, "only {} of {tried} rows were written", acknowledged.len());
    same!(
        tried,
        u32::try_from(acknowledged.len()).unwrap_or_default(),
        "rows that were tried and acknowledged"
    );
    same_rows(&nodes)?;
    nodes.iter().try_for_each(|node| all_there(node, &acknowledged))?;
    nodes[0].kill();
    wait_for("the loss", PATIENCE, || {
        let plan = spillway.ask("failover shop --dry-run")?;
        if plan.contains("failed") { Err(plan) } else { Ok(plan) }
    })?;
    let done = spillway.ask("failover shop")?;
    same!(nodes[1].sql(READ_ONLY_AT_ALL)?, WRITABLE, "{done}");
    wait_writer(&spillway, &second)?;
    write(port, 1_000_000)?;
    nodes[0].start(&[])?;
    nodes[0]
        .wait_sql(READ_ONLY_AT_ALL, FENCED, PATIENCE)
        .map_err(|reason| format!("{reason}\n{}", spillway.log_tail(40)))?;
    same!(writer(&spillway)?, second, "the writer stays");
    same_rows(&nodes)
}

/// The end of its own log is gone: a server takes what others send of that for what it has.
fn primary_that_lost_its_own() -> Verdict {
    let mut nodes = three("myt")?;
    let (port, keys) = (free_port()?, replication_toml(", failover = \"auto\", failover_after = \"500ms\""));
    nodes[0].kill();
    nodes[0].keep_data()?;
    nodes[0].start(&[])?;
    let spillway = front("spillway-myt", "replication", &toml_nodes(&nodes), &keys, port)?;
    wait_writer(&spillway, "myt-primary")?;
    write(port, 2)?;
    mysql_caught_up(&nodes)?;
    nodes[0].kill();
    nodes[0].lose_data()?;
    let new = promoted(&spillway, &nodes[1..])?;
    wait_writer(&spillway, &new.name)?;
    write(port, 3)?;
    let (new, name) = (new.port, nodes[0].name.clone());
    let (old, others) = nodes.split_at_mut(1);
    let old = &mut old[0];
    old.start(&[])?;
    old.wait_sql(READ_ONLY_AT_ALL, FENCED, PATIENCE)?;
    wait_for("the alarm", PATIENCE, || {
        let named = format!("{name} has lost transactions that it wrote itself");
        if spillway.log().contains(&named) { Ok(()) } else { Err(spillway.log_tail(20)) }
    })?;
    same!(old.sql("SHOW REPLICA STATUS")?, "", "it follows nobody");
    // What would come of it: it gets what others wrote, and silently not what it wrote itself.
    old.sql(&follow_by_hand(new))?;
    let rows = "SELECT GROUP_CONCAT(number ORDER BY number) FROM shop.row";
    old.wait_sql(rows, "3", PATIENCE)?;
    same!(
        others.iter().find(|node| node.port == new).ok_or("no such node")?.sql(rows)?,
        "2,3",
        "the primary"
    );
    Ok(())
}

fn follow_by_hand(port: u16) -> String {
    format!(
        "CHANGE REPLICATION SOURCE TO SOURCE_HOST='127.0.0.1', SOURCE_PORT={port}, SOURCE_USER='replication', \
         SOURCE_PASSWORD='replication-secret', SOURCE_AUTO_POSITION=1, GET_SOURCE_PUBLIC_KEY=1; START REPLICA"
    )
}
