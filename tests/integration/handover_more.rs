//! Changes of the writer that were cut off, and those of clusters whose members are discovered.

use crate::handover::{
    READ_ONLY, contents, execute, follows, front, handover_toml, replication_toml, session, three,
    wait_writer, write, writer,
};
use crate::harness::cluster::{DURABLE, Replication, TwoPrimaries, follow};
use crate::harness::proxy::Spillway;
use crate::harness::server::{MONITOR_USER, Server};
use crate::harness::workspace::{directory, free_port};
use crate::harness::{Outcome, PATIENCE, wait_for};
use crate::lab::{self, cluster_with, service_toml};
use crate::{Verdict, ensure, raw, same, trial};
use libtest_mimic::Trial;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant, SystemTime};

pub(crate) fn trials() -> Vec<Trial> {
    vec![
        trial("handover::open_transactions_end_first", open_transactions_end_first),
        trial("handover::other_spillways_wait_too", other_spillways_wait_too),
        trial("handover::a_lock_alone_stops_nobody", a_lock_alone_stops_nobody),
        trial("handover::a_writer_may_die_while_it_comes_to_rest", writer_dies_at_rest),
        trial("handover::what_was_cut_off_is_taken_back", what_was_cut_off_is_taken_back),
        trial("handover::a_discovered_replica_follows_too", a_discovered_replica_follows_too),
        trial("handover::a_replica_that_applies_nothing_is_passed_over", replica_is_passed_over),
        trial("handover::what_fails_again_is_told_once", what_fails_again_is_told_once),
        trial("handover::what_was_received_is_applied_before", what_was_received_is_applied),
        trial("handover::what_was_received_is_not_thrown_away", what_was_received_is_not_thrown_away),
        trial("handover::a_failover_that_was_cut_off_is_completed", cut_off_failover_is_completed),
        trial("handover::a_switch_that_was_cut_off_is_completed", cut_off_switch_is_completed),
        trial("handover::a_writer_since_then_is_respected", a_writer_since_then_is_respected),
        trial("handover::a_node_in_maintenance_may_be_writable", a_node_in_maintenance_may_be_writable),
    ]
}

/// A switch waits for a transaction that is open; what others want to write waits for the new writer.
fn open_transactions_end_first() -> Verdict {
    let pair = TwoPrimaries::start("duo-open", true, &contents())?;
    let (spillway, port) = patient("spillway-open", &pair)?;
    let report = switched_around_a_transaction(&pair, &spillway, (&spillway, port))?;
    ensure!(report.contains("2 ended") && !report.contains("other Spillways"), "{report}");
    Ok(())
}

/// The same where the clients come through another Spillway than the one that makes the switch.
fn other_spillways_wait_too() -> Verdict {
    let pair = TwoPrimaries::start("duo-others", true, &contents())?;
    // The times of transactions are the system's, whatever the time zone of sessions is.
    pair.nodes[0].sql("GRANT PROCESS ON *.* TO operator@'%'; SET GLOBAL time_zone = '+05:00'")?;
    let (spillway, _) = patient("spillway-operates", &pair)?;
    let (other, port) = patient("spillway-serves", &pair)?;
    let report = switched_around_a_transaction(&pair, &spillway, (&other, port))?;
    ensure!(report.contains("2 ended; other Spillways were told"), "{report}\n{}", other.log_tail(40));
    Ok(())
}

/// Any client can take the lock by which others are told that the writer comes to rest, and whoever changes the writer may
/// vanish while it has it.
fn a_lock_alone_stops_nobody() -> Verdict {
    let pair = TwoPrimaries::start("duo-lock", true, &contents())?;
    let active = &pair.nodes[0];
    let port = free_port()?;
    let handover = handover_toml(", running_transactions_timeout = \"1s\", freeze_timeout = \"1s\"");
    let spillway = front("spillway-lock", "multi-primary", &pair.toml_nodes(), &handover, port)?;
    let take = "SELECT GET_LOCK(CONCAT('spillway-quiesce:', LEFT(SHA2('shop', 256), 40)), 0)";
    let mut client = session(port)?;
    same!(raw::first_value(&client.query(take)?)?, "1", "a client takes the lock");
    let words = "somebody who changes no writers has the lock";
    wait_for("the lock to be seen", PATIENCE, || {
        let log = spillway.log_tail(20);
        if log.contains(words) {
            Ok(())
        } else {
            Err(format!("{log}\nthe writer is {:?}", writer(&spillway)?))
        }
    })?;
    std::thread::sleep(Duration::from_secs(1));
    same!(writer(&spillway)?, active.name, "while a client has the lock");
    write(port, 1)?;
    drop(client);
    let mut operator = raw::login(active.port, &raw::Credentials::new("operator", "operator-secret", None))?
        .map_err(|refusal| format!("{refusal:?}"))?;
    wait_for("the lock", PATIENCE, || {
        if raw::first_value(&operator.query(take)?)? == "1" { Ok(()) } else { Err("taken".to_owned()) }
    })?;
    wait_for("nothing new to begin", PATIENCE, || {
        let now = writer(&spillway)?;
        if now.is_empty() { Ok(()) } else { Err(format!("the writer is {now}\n{}", spillway.log_tail(20))) }
    })?;
    wait_writer(&spillway, &active.name)?;
    write(port, 2)?;
    same!(raw::first_value(&operator.query(take)?)?, "1", "it is still held");
    Ok(())
}

/// A Spillway that waits for transactions, and whose clients wait, for longer than any machine needs here.
fn patient(name: &str, pair: &TwoPrimaries) -> Outcome<(Spillway, u16)> {
    let port = free_port()?;
    let handover = handover_toml(", running_transactions_timeout = \"30s\"") + "\nmoves = { hold = \"60s\" }";
    Ok((front(name, "multi-primary", &pair.toml_nodes(), &handover, port)?, port))
}

/// Two clients have transactions open while the writer is changed, and others want to write. The report of the switch.
fn switched_around_a_transaction(
    pair: &TwoPrimaries,
    operates: &Spillway,
    (serves, port): (&Spillway, u16),
) -> Outcome<String> {
    let (old, new) = (&pair.nodes[0], &pair.nodes[1]);
    let mut open = session(port)?;
    let mut idle = session(port)?;
    execute(&mut idle, "INSERT INTO shop.row SELECT 1, @@server_id")?;
    execute(&mut open, "START TRANSACTION")?;
    execute(&mut open, "INSERT INTO shop.row SELECT 2, @@server_id")?;
    // One that has not written yet may be about to.
    let mut reads = session(port)?;
    execute(&mut reads, "START TRANSACTION")?;
    reads.query("SELECT * FROM shop.row")?;
    let report = std::thread::scope(|scope| -> Outcome<String> {
        let switch = scope.spawn(|| operates.ask("switch shop"));
        wait_for("the old writer is writer no more", Duration::from_secs(20), || {
            let now = writer(serves)?;
            if now.is_empty() { Ok(()) } else { Err(format!("the writer is {now:?}")) }
        })?;
        // Sessions are told a moment later; what they send until then still goes to the old one.
        std::thread::sleep(Duration::from_secs(1));
        let written = scope.spawn(move || execute(&mut idle, "INSERT INTO shop.row SELECT 3, @@server_id"));
        let late =
            scope.spawn(move || execute(&mut session(port)?, "INSERT INTO shop.row SELECT 4, @@server_id"));
        std::thread::sleep(Duration::from_millis(300));
        ensure!(!switch.is_finished() && !written.is_finished() && !late.is_finished(), "nothing waits");
        execute(&mut reads, "COMMIT")?;
        execute(&mut open, "INSERT INTO shop.row SELECT 5, @@server_id")?;
        execute(&mut open, "COMMIT")?;
        let panicked = |_| "a thread panicked".to_owned();
        let report = switch.join().map_err(panicked)??;
        written.join().map_err(panicked)??;
        late.join().map_err(panicked)??;
        Ok(report)
    })
    .map_err(|reason| format!("{reason}\n{}\n{}", operates.log_tail(40), serves.log_tail(40)))?;
    ensure!(!report.contains("error"), "{report}");
    let rows = "SELECT GROUP_CONCAT(number, '@', server ORDER BY number) FROM shop.row";
    let (a, b) = (old.port, new.port);
    new.wait_sql(rows, &format!("1@{a},2@{a},3@{b},4@{b},5@{a}"), Duration::from_secs(10))?;
    // The next transaction of the one that had to be waited for is on the new writer.
    same!(raw::first_value(&open.query("SELECT @@server_id")?)?, b.to_string(), "where it is now");
    Ok(report)
}

/// Who wants nothing meanwhile is there afterwards, and who wants something waits no longer than for any other lost writer.
fn writer_dies_at_rest() -> Verdict {
    const HOLD: Duration = Duration::from_secs(6);
    let mut pair = TwoPrimaries::start("duo-rest", true, &contents())?;
    let port = free_port()?;
    let handover = handover_toml(", running_transactions_timeout = \"30s\"") + "\nmoves = { hold = \"6s\" }";
    let spillway = front("spillway-rest", "multi-primary", &pair.toml_nodes(), &handover, port)?;
    let (mut open, mut silent, mut wants) = (session(port)?, session(port)?, session(port)?);
    execute(&mut silent, "INSERT INTO shop.row VALUES (1, 0)")?;
    execute(&mut wants, "INSERT INTO shop.row VALUES (2, 0)")?;
    execute(&mut open, "START TRANSACTION")?;
    execute(&mut open, "INSERT INTO shop.row VALUES (3, 0)")?;
    let active = &mut pair.nodes[0];
    std::thread::scope(|scope| {
        let switch = scope.spawn(|| spillway.ask("switch shop"));
        wait_for("the old writer is writer no more", PATIENCE, || {
            let now = writer(&spillway)?;
            if now.is_empty() { Ok(()) } else { Err(format!("the writer is {now:?}")) }
        })?;
        std::thread::sleep(Duration::from_secs(1));
        let start = Instant::now();
        let wanted = scope.spawn(move || execute(&mut wants, "INSERT INTO shop.row VALUES (4, 0)"));
        std::thread::sleep(Duration::from_millis(300));
        active.kill();
        let refused = wanted.join().map_err(|_| "a thread panicked")?;
        let waited = start.elapsed();
        ensure!(refused.as_ref().is_err_and(|reason| reason.contains("1040")), "{refused:?}");
        ensure!(waited < HOLD + HOLD / 2, "it waited for {waited:?}");
        active.start(&["--read-only=0"])?;
        let report = switch.join().map_err(|_| "a thread panicked")??;
        ensure!(report.contains("error"), "{report}");
        Ok::<_, String>(())
    })?;
    wait_writer(&spillway, &pair.nodes[0].name)?;
    execute(&mut silent, "INSERT INTO shop.row VALUES (5, 0)")
        .map_err(|reason| format!("{reason}\n{}", spillway.log_tail(30)))?;
    same!(pair.nodes[0].sql("SELECT GROUP_CONCAT(number ORDER BY number) FROM shop.row")?, "1,2,5", "rows");
    Ok(())
}

fn what_was_cut_off_is_taken_back() -> Verdict {
    let pair = TwoPrimaries::start("duo-cut", true, &contents())?;
    let (active, inactive) = (&pair.nodes[0], &pair.nodes[1]);
    let port = free_port()?;
    let state = directory("spillway-cut")?.join("state.json");
    let configuration = cluster_with("shop", "multi-primary", &pair.toml_nodes(), &handover_toml(""))
        + &service_toml("shop", port, "route = \"cluster:shop\"")
        + &format!("[runtime]\nstate_file = \"{}\"\n", state.display());
    let spillway = Spillway::start(lab::binary(), "spillway-cut", &configuration)?;
    spillway.wait_all_up()?;
    // The new writer applies nothing for a while, so that Spillway is killed while both are read-only.
    let mut holder = inactive.session()?;
    holder.run("LOCK TABLES shop.row READ")?;
    write(port, 1)?;
    std::thread::scope(|scope| {
        let switch = scope.spawn(|| spillway.ask("switch shop"));
        let frozen = active.wait_sql(READ_ONLY, "1", PATIENCE);
        let kept = std::fs::read_to_string(&state).map_err(|e| e.to_string());
        crate::harness::process::run(
            std::process::Command::new("kill").args(["-KILL", &spillway.pid().to_string()]),
        )?;
        let answer = switch.join().map_err(|_| "the switch panicked")?;
        frozen?;
        let kept = kept?;
        ensure!(kept.contains("handovers") && kept.contains(&active.name), "{kept}");
        ensure!(answer.is_err(), "{answer:?}");
        Ok::<_, String>(())
    })?;
    drop(holder);
    same!(active.sql(READ_ONLY)?, "1", "what was cut off");
    let again = Spillway::start(lab::binary(), "spillway-cut-again", &configuration)?;
    active
        .wait_sql(READ_ONLY, "0", PATIENCE)
        .map_err(|reason| format!("{reason}\n{}", again.log_tail(30)))?;
    same!(inactive.sql(READ_ONLY)?, "1", "the other one");
    wait_for("a writer", PATIENCE, || write(port, 2))?;
    wait_for("the event", PATIENCE, || {
        let events = again.ask("show events shop")?;
        if events.contains("switch was cut off") && events.contains("is writable again") {
            Ok(())
        } else {
            Err(events)
        }
    })?;
    wait_for("the state file", PATIENCE, || {
        let kept = std::fs::read_to_string(&state).map_err(|e| e.to_string())?;
        if kept.contains("handovers") { Err(kept) } else { Ok(()) }
    })?;
    inactive.wait_sql("SELECT COUNT(*) FROM shop.row", "2", PATIENCE)?;
    // Nothing is in the way of the next one.
    let done = again.ask("switch shop")?;
    same!(inactive.sql(READ_ONLY)?, "0", "{done}");
    let events = again.ask("show events shop")?;
    ensure!(events.contains("switch begun") && events.contains("done"), "{events}");
    let metrics = again.api("GET", "/metrics", None)?.body;
    let counted = "spillway_handovers_total{cluster=\"shop\",what=\"switch\",ending=\"done\"} 1";
    ensure!(metrics.contains(counted), "{metrics}");
    Ok(())
}

/// One replica of three nodes is known from the configuration, and the other one was found.
fn a_discovered_replica_follows_too() -> Verdict {
    let options: Vec<&str> = DURABLE.iter().copied().chain(["--report-host=127.0.0.1"]).collect();
    let cluster = Replication::with_replicas("quad", &options, &["r1", "r2"])?;
    let [primary, known, found] = &cluster.nodes[..] else { return Err("three nodes".to_owned()) };
    primary
        .sql(&(contents() + &format!("; GRANT REPLICATION MASTER ADMIN ON *.* TO '{MONITOR_USER}'@'%'")))?;
    cluster.wait_caught_up()?;
    let port = free_port()?;
    let nodes = format!(
        "{{ {} = \"{}\", {} = \"{}\" }}",
        primary.name,
        primary.address(),
        known.name,
        known.address()
    );
    let lines = format!(
        "{}\ndiscover = {{ networks = [\"127.0.0.0/8\"], interval = \"300ms\" }}\naccounts_refresh = \"1s\"",
        replication_toml("")
    );
    let configuration = cluster_with("shop", "replication", &nodes, &lines)
        + &service_toml("shop", port, "route = \"cluster:shop\"");
    let spillway = Spillway::start(lab::binary(), "spillway-quad", &configuration)?;
    let guest = format!("127.0.0.1-{}", found.port);
    spillway
        .wait_node("shop", &guest, "is found", |row| row["role"] == "reader")
        .map_err(|reason| format!("{reason}\n{}", spillway.log_tail(20)))?;
    write(port, 1)?;
    let done = spillway.ask(&format!("switch shop {}", known.name))?;
    ensure!(!done.contains("error") && !done.contains("failed"), "{done}\n{}", spillway.log_tail(40));
    follows(primary, known)?;
    follows(found, known)?;
    wait_writer(&spillway, &known.name)?;
    write(port, 2)?;
    found.wait_sql("SELECT COUNT(*) FROM shop.row", "2", PATIENCE)?;
    // It can become the writer itself.
    let done = spillway.ask(&format!("switch shop {guest}"))?;
    same!(found.sql(READ_ONLY)?, "0", "{done}");
    wait_writer(&spillway, &guest)?;
    follows(known, found)?;
    follows(primary, found)
}

const ROWS: &str = "SELECT COUNT(*) FROM shop.row";

/// Waits until a replica has received what the primary wrote, applied or not.
fn wait_received(replica: &Server, primary: &Server) -> Verdict {
    let written = primary.sql("SELECT @@gtid_binlog_pos")?;
    wait_for("what was written is received", PATIENCE, || {
        let status = replica.sql("SHOW ALL SLAVES STATUS")?;
        if status.split('\t').any(|column| column == written) { Ok(()) } else { Err(status) }
    })
}

/// One replica has all and its SQL thread is stopped, the other one is as good.
fn replica_is_passed_over() -> Verdict {
    let mut cluster = three("over")?;
    let port = free_port()?;
    let keys = replication_toml(", failover = \"auto\", failover_after = \"500ms\"");
    let spillway = front("spillway-over", "replication", &cluster.toml_nodes(), &keys, port)?;
    cluster.nodes[1].sql("STOP SLAVE SQL_THREAD")?;
    write(port, 1)?;
    wait_received(&cluster.nodes[1], &cluster.nodes[0])?;
    cluster.nodes[2].wait_sql(ROWS, "1", PATIENCE)?;
    cluster.nodes[0].kill();
    wait_writer(&spillway, &cluster.nodes[2].name)?;
    ensure!(!spillway.log().contains("rolled back"), "{}", spillway.log_tail(40));
    write(port, 2)?;
    follows(&cluster.nodes[1], &cluster.nodes[2])?;
    cluster.nodes[1].wait_sql(ROWS, "2", PATIENCE)
}

/// What fails on every node is an alarm, is tried again more and more rarely, and leaves the list of events to others.
fn what_fails_again_is_told_once() -> Verdict {
    const RIGHT: &str = "READ_ONLY ADMIN ON *.*";
    let mut cluster = three("again")?;
    let keys = replication_toml(", failover = \"auto\", failover_after = \"500ms\"");
    let port = free_port()?;
    let spillway = front("spillway-again", "replication", &cluster.toml_nodes(), &keys, port)?;
    for replica in &cluster.nodes[1..] {
        replica.sql(&format!("SET sql_log_bin = 0; REVOKE {RIGHT} FROM operator@'%'"))?;
    }
    cluster.nodes[0].kill();
    let attempts = || spillway.log().matches("handover ended").count();
    wait_for("four attempts", PATIENCE, || if attempts() < 4 { Err(spillway.log_tail(20)) } else { Ok(()) })?;
    let log = spillway.log();
    for replica in &cluster.nodes[1..] {
        let alarm = format!("and {} could not replace it: read_only of", replica.name);
        same!(log.matches(&alarm).count(), 1, "alarms about {}", replica.name);
        same!(replica.sql(READ_ONLY)?, "1", "nothing was changed");
    }
    let events = spillway.ask("show events shop")?;
    let told = events.lines().filter(|line| line.contains("failover")).count();
    same!(told, 3, "one that began, and one for each node: {events}");
    for replica in &cluster.nodes[1..] {
        replica.sql(&format!("SET sql_log_bin = 0; GRANT {RIGHT} TO operator@'%'"))?;
    }
    wait_for("a new writer", PATIENCE, || write(port, 1))
}

/// Three nodes of which the second one alone has received the last row, stopped like this; then the first one is lost.
fn lost_after(name: &str, stop: &str, is_applied: bool) -> Outcome<(Replication, Spillway)> {
    let mut cluster = three(name)?;
    let keys = replication_toml(", failover = \"manual\"");
    let port = free_port()?;
    let spillway = front(&format!("spillway-{name}"), "replication", &cluster.toml_nodes(), &keys, port)?;
    cluster.nodes[2].sql("STOP SLAVE IO_THREAD")?;
    if !is_applied {
        cluster.nodes[1].sql("STOP SLAVE SQL_THREAD")?;
    }
    write(port, 1)?;
    wait_received(&cluster.nodes[1], &cluster.nodes[0])?;
    if is_applied {
        cluster.nodes[1].wait_sql(ROWS, "1", PATIENCE)?;
    }
    cluster.nodes[1].sql(stop)?;
    cluster.nodes[0].kill();
    wait_for("the loss", PATIENCE, || {
        let plan = spillway.ask("failover shop --dry-run")?;
        if plan.contains("no node is writable") && plan.contains("lost their primary") {
            Ok(())
        } else {
            Err(plan)
        }
    })?;
    Ok((cluster, spillway))
}

fn becomes_writer(cluster: &Replication, spillway: &Spillway) -> Verdict {
    let done = wait_for("a failover", PATIENCE, || {
        let answer = spillway.ask("failover shop")?;
        if answer.contains("error") { Err(answer) } else { Ok(answer) }
    })?;
    let [_, new, other] = &cluster.nodes[..] else { return Err("three nodes".to_owned()) };
    same!((new.sql(READ_ONLY)?, new.sql(ROWS)?), ("0".to_owned(), "1".to_owned()), "{done}");
    follows(other, new)?;
    other.wait_sql(ROWS, "1", PATIENCE)
}

fn what_was_received_is_applied() -> Verdict {
    let (cluster, spillway) = lost_after("apply", "DO 1", false)?;
    becomes_writer(&cluster, &spillway)
}

/// As a failover leaves it that was cut off before the promotion.
fn cut_off_failover_is_completed() -> Verdict {
    let (cluster, spillway) = lost_after("cutfail", "STOP SLAVE", true)?;
    becomes_writer(&cluster, &spillway)
}

fn what_was_received_is_not_thrown_away() -> Verdict {
    let (cluster, spillway) = lost_after("throw", "STOP SLAVE IO_THREAD", false)?;
    let [_, first, second] = &cluster.nodes[..] else { return Err("three nodes".to_owned()) };
    let refused = spillway.ask("failover shop")?;
    ensure!(refused.contains("error: nothing was changed: the new writer can apply"), "{refused}");
    ensure!(refused.contains("would throw away what is received"), "{refused}");
    let refused = spillway.ask(&format!("failover shop {}", second.name))?;
    ensure!(refused.contains("is not an enabled replica with all that the others have"), "{refused}");
    same!((first.sql(READ_ONLY)?, second.sql(READ_ONLY)?), ("1".to_owned(), "1".to_owned()), "{refused}");
    // This is what would come of it.
    first.sql("START SLAVE SQL_THREAD")?;
    std::thread::sleep(Duration::from_secs(1));
    same!(first.sql(ROWS)?, "0", "rows of what was received");
    Ok(())
}

/// A Spillway that finds a switch that was cut off.
fn front_after_cut(
    name: &str,
    cluster: &Replication,
    old: &Server,
    new: &Server,
) -> Outcome<(Spillway, PathBuf)> {
    let state = directory(&format!("{name}-state"))?.join("state.json");
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).map_err(|e| e.to_string())?;
    let kept = format!(
        "{{\"version\": 1, \"nodes\": {{}}, \"handovers\": {{\"shop\": \
         {{\"old\": \"{}\", \"new\": \"{}\", \"at\": {}}}}}}}",
        old.name,
        new.name,
        since.as_secs()
    );
    std::fs::write(&state, kept).map_err(|e| e.to_string())?;
    let configuration = cluster_with("shop", "replication", &cluster.toml_nodes(), &replication_toml(""))
        + &service_toml("shop", free_port()?, "route = \"cluster:shop\"")
        + &format!("[runtime]\nstate_file = \"{}\"\n", state.display());
    // It is not ready while there is no writer.
    Ok((Spillway::launch(lab::binary(), name, &configuration)?, state))
}

fn wait_ended(spillway: &Spillway, state: &Path, words: &str) -> Verdict {
    wait_for("the end of what was cut off", PATIENCE, || {
        let events = spillway.ask("show events shop")?;
        let kept = std::fs::read_to_string(state).map_err(|e| e.to_string())?;
        if events.contains(words) && !kept.contains("handovers") { Ok(()) } else { Err(events + &kept) }
    })
    .map_err(|reason| format!("{reason}\n{}", spillway.log_tail(30)))
}

/// Cut off when the new writer was writable and nobody followed it yet.
fn cut_off_switch_is_completed() -> Verdict {
    let cluster = three("half")?;
    let [old, new, other] = &cluster.nodes[..] else { return Err("three nodes".to_owned()) };
    old.sql("SET GLOBAL read_only = 1")?;
    new.sql("STOP SLAVE; SET GLOBAL read_only = 0; INSERT INTO shop.row VALUES (1, 1)")?;
    let (spillway, state) = front_after_cut("spillway-half", &cluster, old, new)?;
    wait_ended(&spillway, &state, "is writable; completed:")?;
    same!((old.sql(READ_ONLY)?, new.sql(READ_ONLY)?), ("1".to_owned(), "0".to_owned()), "the writer");
    same!(new.sql("SHOW ALL SLAVES STATUS")?, "", "the new primary has no source");
    follows(old, new)?;
    follows(other, new)?;
    wait_writer(&spillway, &new.name)?;
    [old, other].iter().try_for_each(|node| node.wait_sql(ROWS, "1", PATIENCE))
}

/// Somebody promoted the third node meanwhile, which does not answer at first.
fn a_writer_since_then_is_respected() -> Verdict {
    let cluster = three("since")?;
    let [old, new, third] = &cluster.nodes[..] else { return Err("three nodes".to_owned()) };
    old.sql("SET GLOBAL read_only = 1")?;
    third.sql("STOP SLAVE; RESET SLAVE ALL; SET GLOBAL read_only = 0")?;
    new.sql(&format!("STOP SLAVE; {}START SLAVE", follow(third, "MASTER_USE_GTID=slave_pos")))?;
    follows(new, third)?;
    third.freeze(true)?;
    let started = front_after_cut("spillway-since", &cluster, old, new);
    let waited = started.and_then(|(spillway, state)| {
        wait_for("a look at the nodes", PATIENCE, || {
            let log = spillway.log();
            let waits = log.lines().any(|l| l.contains("can not be taken back") && l.contains(&third.name));
            if waits { Ok(()) } else { Err(spillway.log_tail(20)) }
        })?;
        std::thread::sleep(Duration::from_secs(3));
        same!(
            (old.sql(READ_ONLY)?, new.sql(READ_ONLY)?),
            ("1".to_owned(), "1".to_owned()),
            "while it is away"
        );
        Ok((spillway, state))
    });
    third.freeze(false)?;
    let (spillway, state) = waited?;
    wait_ended(&spillway, &state, "which was not to be the writer")?;
    same!((old.sql(READ_ONLY)?, third.sql(READ_ONLY)?), ("1".to_owned(), "0".to_owned()), "the writer");
    spillway.wait_log("a person must look at this cluster")?;
    wait_writer(&spillway, &third.name)
}

fn a_node_in_maintenance_may_be_writable() -> Verdict {
    let cluster = three("aside")?;
    let [primary, opened, other] = &cluster.nodes[..] else { return Err("three nodes".to_owned()) };
    let port = free_port()?;
    let keys = replication_toml(", failover = \"auto\"");
    let spillway = front("spillway-aside", "replication", &cluster.toml_nodes(), &keys, port)?;
    spillway.ask(&format!("set node shop {} maintenance", primary.name))?;
    opened.sql("SET GLOBAL read_only = 0")?;
    wait_writer(&spillway, &opened.name)?;
    // Longer than it takes to fence a node.
    std::thread::sleep(Duration::from_secs(6));
    same!(
        (primary.sql(READ_ONLY)?, opened.sql(READ_ONLY)?),
        ("0".to_owned(), "0".to_owned()),
        "nothing is fenced"
    );
    follows(other, primary)?;
    wait_writer(&spillway, &opened.name)?;
    // Enabled again it counts, and one of the two is fenced.
    spillway.ask(&format!("set node shop {} enabled", primary.name))?;
    opened.wait_sql(READ_ONLY, "1", PATIENCE)
}
