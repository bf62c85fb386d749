//! Changes of the writer that were cut off, and those of clusters whose members are discovered.

use crate::handover::{READ_ONLY, contents, follows, handover_toml, replication_toml, wait_writer, write};
use crate::harness::cluster::{DURABLE, Replication, TwoPrimaries};
use crate::harness::proxy::Spillway;
use crate::harness::server::MONITOR_USER;
use crate::harness::wait_for;
use crate::harness::workspace::{directory, free_port};
use crate::lab::{self, cluster_with, service_toml};
use crate::{Verdict, ensure, same, trial};
use libtest_mimic::Trial;
use std::time::Duration;

pub(crate) fn trials() -> Vec<Trial> {
    vec![
        trial("handover::what_was_cut_off_is_taken_back", what_was_cut_off_is_taken_back),
        trial("handover::a_discovered_replica_follows_too", a_discovered_replica_follows_too),
    ]
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
    // The new writer applies nothing for a while, so that Spillway is killed while both are read-only.
    let again = std::thread::scope(|scope| {
        let hold = scope.spawn(|| inactive.sql("LOCK TABLES shop.row READ; SELECT SLEEP(4)"));
        std::thread::sleep(Duration::from_millis(300));
        write(port, 1)?;
        let switch = scope.spawn(|| spillway.ask("switch shop"));
        active.wait_sql(READ_ONLY, "1", Duration::from_secs(5))?;
        let kept = std::fs::read_to_string(&state).map_err(|e| e.to_string())?;
        ensure!(kept.contains("handovers") && kept.contains(&active.name), "{kept}");
        crate::harness::process::run(
            std::process::Command::new("kill").args(["-KILL", &spillway.pid().to_string()]),
        )?;
        let answer = switch.join().map_err(|_| "the switch panicked")?;
        ensure!(answer.is_err(), "{answer:?}");
        let _ = hold.join();
        same!(active.sql(READ_ONLY)?, "1", "what was cut off");
        Spillway::start(lab::binary(), "spillway-cut-again", &configuration)
    })?;
    active
        .wait_sql(READ_ONLY, "0", Duration::from_secs(15))
        .map_err(|reason| format!("{reason}\n{}", again.log_tail(30)))?;
    same!(inactive.sql(READ_ONLY)?, "1", "the other one");
    wait_for("a writer", Duration::from_secs(10), || write(port, 2))?;
    wait_for("the event", Duration::from_secs(5), || {
        let events = again.ask("show events shop")?;
        if events.contains("switch was cut off") && events.contains("is writable again") {
            Ok(())
        } else {
            Err(events)
        }
    })?;
    let kept = std::fs::read_to_string(&state).map_err(|e| e.to_string())?;
    ensure!(!kept.contains("handovers"), "{kept}");
    inactive.wait_sql("SELECT COUNT(*) FROM shop.row", "2", Duration::from_secs(10))?;
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
    found.wait_sql("SELECT COUNT(*) FROM shop.row", "2", Duration::from_secs(10))?;
    // It can become the writer itself.
    let done = spillway.ask(&format!("switch shop {guest}"))?;
    same!(found.sql(READ_ONLY)?, "0", "{done}");
    wait_writer(&spillway, &guest)?;
    follows(known, found)?;
    follows(primary, found)
}
