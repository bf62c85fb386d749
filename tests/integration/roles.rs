//! Who may serve what: writers that are moved, promoted and doubled.

use crate::harness::cluster::{self, Galera, Replication, toml_nodes};
use crate::harness::proxy::Spillway;
use crate::harness::server::Server;
use crate::harness::workspace::{directory, free_port};
use crate::harness::{Outcome, PATIENCE, wait_for};
use crate::health::{Front, front, front_of, launched_front, served_by, session};
use crate::lab::{self, PASSWORD};
use crate::raw::{self, Credentials};
use crate::{Verdict, ensure, mysql_trial, same, trial};
use libtest_mimic::Trial;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

pub(crate) fn trials() -> Vec<Trial> {
    vec![
        trial("roles::writer_moved", writer_moved),
        trial("roles::writer_in_use", writer_in_use),
        trial("roles::writer_remembered", writer_remembered),
        trial("roles::two_primaries", two_primaries),
        trial("roles::promotion_followed", promotion_followed),
        trial("roles::galera_desynchronised", galera_desynchronised),
        trial("roles::galera_node_of_another_cluster", galera_node_of_another_cluster),
        trial("roles::several_sources_and_their_heartbeats", several_sources_and_their_heartbeats),
        mysql_trial("roles::mysql_replication", mysql_replication),
        mysql_trial("roles::mysql_group", mysql_group),
    ]
}

/// What `show clusters` says of a cluster.
fn shown(spillway: &Spillway, name: &str) -> crate::harness::Outcome<serde_json::Value> {
    let all = spillway.get("/v1/clusters")?;
    let clusters = all["clusters"].as_array().cloned().unwrap_or_default();
    clusters.into_iter().find(|entry| entry["cluster"] == name).ok_or_else(|| format!("no {name} in {all}"))
}

fn writer_moved() -> Verdict {
    let pair = lab::pair()?;
    let galera = pair.share_galera()?;
    let front = front("spillway-writer-moved", pair, &galera)?;
    // Where other tests write, it may have begun elsewhere.
    front.spillway.ask("set writer shop shop1")?;
    let mut before = session(front.shop, "shop")?;
    same!(served_by(&mut before)?, galera.nodes[0].port, "the first writer");
    let moved = front.spillway.api("PUT", "/v1/clusters/shop/writer", Some("{\"node\":\"shop2\"}"))?;
    same!(moved.status, 200, "{}", moved.body);
    same!(
        served_by(&mut session(front.shop, "shop")?)?,
        galera.nodes[1].port,
        "the writer that was asked for"
    );
    same!(shown(&front.spillway, "shop")?["writer"], "shop2", "as shown");
    // The writer in drain: the role moves at once, and does not come back.
    front.spillway.ask("set node shop shop2 drain")?;
    same!(served_by(&mut session(front.shop, "shop")?)?, galera.nodes[0].port, "while it is drained");
    front.spillway.ask("set node shop shop2 enabled")?;
    same!(served_by(&mut session(front.shop, "shop")?)?, galera.nodes[0].port, "after that");
    let events = front.spillway.ask("show events shop")?;
    for wanted in ["writer", "shop1", "shop2", "drain"] {
        ensure!(events.contains(wanted), "no {wanted} in {events}");
    }
    let other = front.spillway.ask("set writer crm crm-replica")?;
    ensure!(other.contains("not made the writer") && other.contains("replication"), "{other}");
    Ok(())
}

/// A Spillway that starts takes the writer that others use, whatever it would prefer itself.
fn writer_in_use() -> Verdict {
    let pair = lab::pair()?;
    let galera = pair.own_galera()?;
    let first = front("spillway-in-use-a", pair, &galera)?;
    first.spillway.ask("set writer shop shop3")?;
    let load = galera.nodes[2].port;
    let mut writes = session(first.shop, "shop")?;
    same!(served_by(&mut writes)?, load, "the writer that was asked for");
    writes.query("CREATE OR REPLACE TABLE shop.in_use (n INT) ENGINE=InnoDB")?;
    let (stop, until) = (Arc::new(AtomicBool::new(false)), Instant::now() + Duration::from_mins(1));
    let stopped = Arc::clone(&stop);
    let writer = std::thread::spawn(move || -> Verdict {
        while !stopped.load(Ordering::Relaxed) && Instant::now() < until {
            let answer = writes.query("INSERT INTO shop.in_use VALUES (1)")?;
            ensure!(answer.first().is_some_and(|packet| packet.first() == Some(&0)), "{answer:?}");
            std::thread::sleep(Duration::from_millis(5));
        }
        writes.query("DROP TABLE shop.in_use").map(drop)
    });
    let second = front("spillway-in-use-b", pair, &galera).and_then(|front| shown(&front.spillway, "shop"));
    stop.store(true, Ordering::Relaxed);
    writer.join().map_err(|_| "the writer panicked".to_owned())??;
    same!(second?["writer"], "shop3", "while shop3 is written to");
    // Where nobody writes, all choose alike.
    let third = front("spillway-in-use-c", pair, &galera)?;
    same!(shown(&third.spillway, "shop")?["writer"], "shop1", "while nothing is written");
    Ok(())
}

fn writer_remembered() -> Verdict {
    let pair = lab::pair()?;
    let galera = pair.share_galera()?;
    let replication = pair.share_replication()?;
    let state = directory("writer-state")?.join("state.json");
    let start = |name: &str| {
        let port = free_port()?;
        let configuration = lab::pair_clusters_toml(&galera, &replication)
            + &lab::service_toml("shop", port, "route = \"cluster:shop\"")
            + &format!("[runtime]\nstate_file = \"{}\"\n", state.display());
        Ok::<_, String>((Spillway::start(lab::binary(), name, &configuration)?, port))
    };
    let (mut spillway, _) = start("spillway-writer-state")?;
    spillway.wait_all_serve()?;
    spillway.ask("set writer shop shop3")?;
    wait_for("the writer in the state file", PATIENCE, || {
        let text = std::fs::read_to_string(&state).map_err(|e| e.to_string())?;
        if text.contains("shop3") { Ok(()) } else { Err(text) }
    })?;
    spillway.terminate()?;
    spillway.wait(PATIENCE)?;
    let (spillway, port) = start("spillway-writer-state-again")?;
    same!(served_by(&mut session(port, "shop")?)?, galera.nodes[2].port, "after the restart");
    same!(shown(&spillway, "crm")?["writer"], "crm-primary", "the other cluster");
    Ok(())
}

fn two_primaries() -> Verdict {
    let pair = lab::pair()?;
    let clusters = {
        let (galera, replication) = (pair.share_galera()?, pair.share_replication()?);
        lab::pair_clusters_toml(&galera, &replication)
    };
    let front = front_of("spillway-two-primaries", &clusters)?;
    let replication = pair.own_replication()?;
    let (primary, replica) = (replication.nodes[0].port, &replication.nodes[1]);
    // Until now others may have changed the roles.
    front.spillway.wait_node("crm", "crm-primary", "is the writer", |entry| entry["role"] == "writer")?;
    front.spillway.wait_node("crm", "crm-replica", "serves reads", |entry| entry["role"] == "reader")?;
    let mut open = session(front.crm, "crm")?;
    replica.sql("SET GLOBAL read_only = 0")?;
    let alarm = wait_for("the alarm", PATIENCE, || {
        let alarm = shown(&front.spillway, "crm")?["alarm"].clone();
        alarm.as_str().map(str::to_owned).ok_or_else(|| "none yet".to_owned())
    });
    let served = served_by(&mut session(front.crm, "crm")?);
    // One that starts now cannot know which is the right one.
    let refused = launched_front("spillway-two-primaries-late", &clusters).and_then(|late| {
        wait_for("both nodes seen", PATIENCE, || {
            let seen = late.spillway.ask("show events crm")?;
            if seen.contains("none of them was the writer before") { Ok(()) } else { Err(seen) }
        })?;
        wait_for("a greeting", PATIENCE, || {
            raw::login(late.crm, &Credentials::new("app", PASSWORD, Some("crm")))
        })
    });
    replica.sql("SET GLOBAL read_only = 1")?;
    let alarm = alarm?;
    for word in ["crm-primary", "crm-replica", "writes go to crm-primary only"] {
        ensure!(alarm.contains(word), "no {word} in {alarm}");
    }
    same!(served?, primary, "writes stay where they were");
    same!(served_by(&mut open)?, primary, "the session from before");
    let refusal = refused?.err().ok_or("a session for writes, with two primaries and no agreement")?;
    same!(refusal.code, 1040, "{refusal:?}");
    wait_for("the end of the alarm", PATIENCE, || {
        let alarm = &shown(&front.spillway, "crm")?["alarm"];
        if alarm.is_null() { Ok(()) } else { Err(alarm.to_string()) }
    })
}

fn promotion_followed() -> Verdict {
    let pair = lab::pair()?;
    let galera = pair.share_galera()?;
    let front = front("spillway-promotion", pair, &galera)?;
    drop(galera);
    let replication = pair.own_replication()?;
    front.spillway.wait_all_serve()?;
    // One interval of 200 ms with its jitter, and the probe itself; the rest is for a busy machine, which may yet be late.
    let (limit, mut seen) = (Duration::from_secs(1), Vec::new());
    while seen.iter().all(|took| *took >= limit) {
        ensure!(seen.len() < 3, "followed after {seen:?}");
        seen.push(followed(&front, &replication)?);
    }
    Ok(())
}

/// How long it takes until the replica is followed that is promoted by hand. Leaves all as it was.
fn followed(front: &Front, replication: &Replication) -> Outcome<Duration> {
    let (old, new) = (&replication.nodes[0], &replication.nodes[1]);
    same!(served_by(&mut session(front.crm, "crm")?)?, old.port, "before");
    old.sql("SET GLOBAL read_only = 1")?;
    replication.wait_caught_up()?;
    let mut promotion = new.session()?;
    promotion.run("STOP SLAVE; SET GLOBAL read_only = 0")?;
    let begun = Instant::now();
    let followed = wait_for("the promoted node", PATIENCE, || {
        match raw::login(front.crm, &Credentials::new("app", PASSWORD, Some("crm")))? {
            Ok(mut session) => match served_by(&mut session)? {
                port if port == new.port => Ok(begun.elapsed()),
                port => Err(format!("still {port}")),
            },
            Err(refusal) => Err(format!("{refusal:?}")),
        }
    });
    new.sql("SET GLOBAL read_only = 1; START SLAVE")?;
    old.sql("SET GLOBAL read_only = 0")?;
    let took = followed?;
    front
        .spillway
        .wait_node("crm", "crm-primary", "is the writer again", |entry| entry["role"] == "writer")?;
    front
        .spillway
        .wait_node("crm", "crm-replica", "serves reads again", |entry| entry["role"] == "reader")?;
    Ok(took)
}

fn galera_desynchronised() -> Verdict {
    let pair = lab::pair()?;
    let galera = pair.own_galera()?;
    let front = front("spillway-desync", pair, &galera)?;
    let first = &galera.nodes[0];
    let mut open = session(front.shop, "shop")?;
    same!(served_by(&mut open)?, first.port, "the first writer");
    first.sql("SET GLOBAL wsrep_desync = ON")?;
    let left = front.spillway.wait_node("shop", "shop1", "serves nothing new", |entry| {
        entry["role"] == "none" && entry["observed"] == "up"
    });
    let next = session(front.shop, "shop").and_then(|mut session| served_by(&mut session));
    let explained = front.spillway.ask("explain node shop shop1")?;
    first.sql("SET GLOBAL wsrep_desync = OFF")?;
    left?;
    same!(next?, galera.nodes[1].port, "the writer in its place");
    for wanted in
        ["Donor/Desynced", "wsrep_desync", "wsrep_cluster_size", "wsrep_local_recv_queue", "took", "desired"]
    {
        ensure!(explained.contains(wanted), "no {wanted} in {explained}");
    }
    front.spillway.wait_node("shop", "shop1", "serves reads again", |entry| entry["role"] == "reader")?;
    let last = &galera.nodes[2];
    last.sql("SET GLOBAL wsrep_reject_queries = ALL")?;
    let aside = front.spillway.wait_node("shop", "shop3", "is set aside", |entry| {
        entry["role"] == "none"
            && entry["reason"].as_str().is_some_and(|r| r.contains("wsrep_reject_queries is ALL"))
    });
    last.sql("SET GLOBAL wsrep_reject_queries = NONE")?;
    aside?;
    front.spillway.wait_node("shop", "shop3", "is up again", |entry| entry["role"] == "reader")
}

/// Two clusters of one node each, which the file takes for one of two.
fn galera_node_of_another_cluster() -> Verdict {
    let found = |name: &str| Galera::found(name, vec![Server::prepare(name, &["--skip-name-resolve"])?], 1);
    let (right, mut wrong) = (found("right")?, found("wrong")?);
    for galera in [&right, &wrong] {
        galera.nodes[0].create_monitor()?;
        galera.nodes[0].sql(&format!(
            "CREATE DATABASE shop; CREATE USER app@'%' IDENTIFIED BY '{PASSWORD}'; GRANT ALL ON shop.* TO app@'%'"
        ))?;
    }
    let (ours, theirs) = (&right.nodes[0], &wrong.nodes[0]);
    let uuid = "SELECT VARIABLE_VALUE FROM information_schema.GLOBAL_STATUS \
                WHERE VARIABLE_NAME = 'wsrep_cluster_state_uuid'";
    let (our_uuid, their_uuid) = (ours.sql(uuid)?, theirs.sql(uuid)?);
    ensure!(our_uuid != their_uuid, "both are {our_uuid}");
    let (writer, any) = (free_port()?, free_port()?);
    let nodes = format!("{{ right = \"{}\", wrong = \"{}\" }}", ours.address(), theirs.address());
    let configuration = lab::cluster_toml("my", "galera", &nodes)
        + &lab::service_toml("writer", writer, "route = \"cluster:my\"")
        + &lab::service_toml("any", any, "route = \"cluster:my\"\nnode = \"any\"");
    let spillway = Spillway::start(lab::binary(), "spillway-strangers", &configuration)?;
    let reason = format!("member of {their_uuid}, while the cluster is {our_uuid}");
    spillway.wait_node("my", "wrong", "is a stranger", |entry| {
        entry["role"] == "none" && entry["reason"].as_str().is_some_and(|r| r.contains(&reason))
    })?;
    wait_writer(&spillway, "right")?;
    let alarm = || Ok::<_, String>(shown(&spillway, "my")?["alarm"].as_str().unwrap_or_default().to_owned());
    ensure!(alarm()?.contains(&format!("wrong: {reason}")), "{}", alarm()?);
    spillway.wait_log(&reason)?;
    for port in [writer, any, any, any] {
        same!(served_by(&mut session(port, "shop")?)?, ours.port, "who serves");
    }
    let refused = spillway.ask("set writer my wrong")?;
    ensure!(refused.contains("not made the writer") && refused.contains(&their_uuid), "{refused}");
    wrong.nodes[0].kill();
    wait_for("the end of the alarm", PATIENCE, || {
        if alarm()?.is_empty() { Ok(()) } else { alarm().and_then(Err) }
    })
}

/// A replica with two sources, of which one is a node of the cluster.
fn several_sources_and_their_heartbeats() -> Verdict {
    let [one, mut two, replica] = cluster::two_sources("src")?;
    for (source, number) in [(&one, 1), (&two, 2)] {
        source.sql(&format!(
            "CREATE DATABASE IF NOT EXISTS hb;
             CREATE TABLE IF NOT EXISTS hb.heartbeat (ts VARCHAR(26) NOT NULL, server_id INT UNSIGNED NOT NULL PRIMARY KEY,
                 file VARCHAR(255), position BIGINT UNSIGNED);
             SET GLOBAL event_scheduler = ON;
             CREATE EVENT hb.beat{number} ON SCHEDULE EVERY 1 SECOND DO REPLACE INTO hb.heartbeat (ts, server_id)
                 VALUES (DATE_FORMAT(UTC_TIMESTAMP(6), '%Y-%m-%dT%H:%i:%s.%f'), @@server_id)"
        ))?;
    }
    let count = "SELECT COUNT(*) FROM hb.heartbeat";
    replica.wait_sql(count, "2", PATIENCE)?;
    let nodes = format!("{{ one = \"{}\", replica = \"{}\" }}", one.address(), replica.address());
    let keys = "timeout = \"1s\", max_lag = \"3s\", heartbeat_table = \"hb.heartbeat\" }";
    let configuration = lab::cluster_with("my", "replication", &nodes, "")
        .replace("timeout = \"1s\" }", keys)
        + &lab::service_toml("my", free_port()?, "route = \"cluster:my\"");
    let spillway = Spillway::start(lab::binary(), "spillway-sources", &configuration)?;
    wait_writer(&spillway, "one")?;
    let reads = || spillway.wait_node("my", "replica", "serves reads", |entry| entry["role"] == "reader");
    let silent = |reason: &'static str| {
        spillway.wait_node("my", "replica", reason, |entry| {
            entry["role"] == "none" && entry["reason"].as_str().is_some_and(|r| r.contains(reason))
        })
    };
    silent("heartbeat unknown: SELECT command denied")?;
    let mut check = std::process::Command::new(lab::binary());
    let checked =
        check.args(["check", "--live", "-c"]).arg(spillway.file()).output().map_err(|e| e.to_string())?;
    let printed = String::from_utf8_lossy(&checked.stdout) + String::from_utf8_lossy(&checked.stderr);
    ensure!(printed.contains("GRANT SELECT ON hb.heartbeat TO"), "{printed}");
    one.sql(&format!("GRANT SELECT ON hb.heartbeat TO '{}'@'%'", crate::harness::server::MONITOR_USER))?;
    reads()?;
    // Its threads run, it has applied all that there is, and one of the sources has not been heard of for long.
    two.sql("SET GLOBAL event_scheduler = OFF")?;
    silent("more than 3 s behind of source two by the heartbeat")?;
    wait_for("both sources without a lag", PATIENCE, || {
        let explained = spillway.ask("explain node my replica")?;
        let is_told = explained.matches("IO Yes, SQL Yes, lag 0 s").count() == 2;
        if is_told { Ok(()) } else { Err(explained) }
    })?;
    two.sql("SET GLOBAL event_scheduler = ON")?;
    reads()?;
    // A clock that is not in UTC would hide an hour.
    two.sql(
        "SET GLOBAL event_scheduler = OFF;
         UPDATE hb.heartbeat SET ts = UTC_TIMESTAMP(6) + INTERVAL 1 HOUR WHERE server_id = @@server_id",
    )?;
    silent("s ahead: not in UTC, or clocks differ")?;
    two.sql("SET GLOBAL event_scheduler = ON")?;
    reads()?;
    replica.sql("STOP SLAVE 'two' SQL_THREAD")?;
    silent("replica SQL thread of source two: No")?;
    replica.sql("START SLAVE 'two'")?;
    reads()?;
    two.kill();
    silent("replica IO thread of source two: Connecting")?;
    let explained = spillway.ask("explain node my replica")?;
    ensure!(explained.contains("source one") && explained.contains("source two"), "{explained}");
    two.start(&["--event-scheduler=ON"])?;
    reads()
}

fn wait_writer(spillway: &Spillway, node: &str) -> Verdict {
    wait_for(&format!("{node} is the writer"), PATIENCE, || {
        let writer = &shown(spillway, "my")?["writer"];
        if *writer == node { Ok(()) } else { Err(writer.to_string()) }
    })
}

fn mysql_replication() -> Verdict {
    let pair = cluster::mysql_pair("my")?;
    let [primary, replica] = &pair;
    let configuration = lab::cluster_with("my", "replication", &toml_nodes(&pair), "")
        .replace("timeout = \"1s\" }", "timeout = \"1s\", max_lag = \"1s\" }")
        + &lab::service_toml("my", free_port()?, "route = \"cluster:my\"");
    let spillway = Spillway::start(lab::binary(), "spillway-mysql-pair", &configuration)?;
    wait_writer(&spillway, "my-primary")?;
    let reads = || spillway.wait_node("my", "my-replica", "serves reads", |entry| entry["role"] == "reader");
    let silent = |reason: &'static str| {
        spillway.wait_node("my", "my-replica", reason, |entry| {
            entry["role"] == "none" && entry["reason"].as_str().is_some_and(|r| r.contains(reason))
        })
    };
    reads()?;
    let explained = spillway.ask("explain node my my-replica")?;
    for wanted in ["super_read_only", "gtid_executed", "IO Yes, SQL Yes"] {
        ensure!(explained.contains(wanted), "no {wanted} in {explained}");
    }
    replica.sql("STOP REPLICA SQL_THREAD")?;
    silent("replica SQL thread: No")?;
    replica.sql("START REPLICA")?;
    reads()?;
    // It lags: it may apply nothing for a while.
    primary.sql("CREATE DATABASE late; CREATE TABLE late.row (number INT PRIMARY KEY)")?;
    cluster::mysql_caught_up(&pair)?;
    let mut held = replica.session()?;
    held.run("LOCK TABLES late.row READ")?;
    primary.sql("INSERT INTO late.row VALUES (1)")?;
    silent("s behind")?;
    drop(held);
    reads()?;
    // A row that is there already breaks the SQL thread.
    replica.sql(
        "SET GLOBAL super_read_only = 0; INSERT INTO late.row VALUES (2); SET GLOBAL super_read_only = 1",
    )?;
    primary.sql("INSERT INTO late.row VALUES (2)")?;
    silent("replica SQL thread: No")?;
    replica.sql(
        "SET GLOBAL super_read_only = 0; DELETE FROM late.row WHERE number = 2; SET GLOBAL super_read_only = 1; \
         START REPLICA SQL_THREAD",
    )?;
    reads()?;
    // And an account that is refused the IO thread.
    let source = |password: &str| {
        let change =
            format!("STOP REPLICA; CHANGE REPLICATION SOURCE TO SOURCE_PASSWORD='{password}'; START REPLICA");
        replica.sql(&change).map(drop)
    };
    source("wrong")?;
    silent("replica IO thread: Connecting")?;
    source("replication-secret")?;
    reads()?;
    // A promotion by hand.
    primary.sql("SET GLOBAL super_read_only = 1")?;
    replica.sql("STOP REPLICA; SET GLOBAL super_read_only = 0; SET GLOBAL read_only = 0")?;
    wait_writer(&spillway, "my-replica")
}

fn mysql_group() -> Verdict {
    let mut members = cluster::mysql_group("group")?;
    let configuration = lab::cluster_with("my", "group-replication", &toml_nodes(&members), "")
        .replace("timeout = \"1s\" }", "timeout = \"1s\", max_receive_queue = 5 }")
        + &lab::service_toml("my", free_port()?, "route = \"cluster:my\"");
    let spillway = Spillway::start(lab::binary(), "spillway-mysql-group", &configuration)?;
    wait_writer(&spillway, "group1")?;
    let reads =
        |node: &str| spillway.wait_node("my", node, "serves reads", |entry| entry["role"] == "reader");
    for reader in ["group2", "group3"] {
        reads(reader)?;
    }
    // One that applies nothing for a while is spared.
    members[0].sql("CREATE DATABASE late; CREATE TABLE late.row (number INT PRIMARY KEY)")?;
    members[1].wait_sql("SELECT COUNT(*) FROM late.row", "0", PATIENCE)?;
    let mut held = members[1].session()?;
    held.run("LOCK TABLES late.row READ")?;
    let rows = |number: u32| format!("INSERT INTO late.row VALUES ({number});");
    members[0].sql(&(0..20).map(rows).collect::<String>())?;
    spillway.wait_node("my", "group2", "is spared", |entry| {
        entry["role"] == "none"
            && entry["reason"].as_str().is_some_and(|r| r.contains("spared: applier queue of"))
    })?;
    drop(held);
    reads("group2")?;
    let uuid = members[1].sql("SELECT @@server_uuid")?;
    members[0].sql(&format!("SELECT group_replication_set_as_primary('{uuid}')"))?;
    wait_writer(&spillway, "group2")?;
    members[1].kill();
    spillway.wait_node("my", "group2", "is down", |entry| entry["observed"] == "down")?;
    wait_for("another writer", PATIENCE, || {
        let writer = shown(&spillway, "my")?["writer"].clone();
        if writer == "group1" || writer == "group3" { Ok(()) } else { Err(writer.to_string()) }
    })?;
    // Without its majority a member serves nothing.
    members[0].kill();
    spillway.wait_node("my", "group3", "is down", |entry| entry["observed"] == "down")
}
