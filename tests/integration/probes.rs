//! What makes a verdict: how many probes, and what wakes one.

use crate::harness::proxy::Spillway;
use crate::harness::server::{MONITOR_USER, Server};
use crate::harness::workspace::free_port;
use crate::harness::{Outcome, wait_for};
use crate::lab::{self, PASSWORD};
use crate::raw::{self, Credentials, Raw, first_value};
use crate::{Verdict, ensure, same, trial};
use libtest_mimic::Trial;
use std::thread::sleep;
use std::time::{Duration, Instant};

pub(crate) fn trials() -> Vec<Trial> {
    vec![
        trial("probes::a_node_comes_back_after_some_good_ones", a_node_comes_back_after_some_good_ones),
        trial("probes::trouble_of_a_session_wakes_one", trouble_of_a_session_wakes_one),
        trial("probes::a_refusal_in_a_transaction_wakes_one", a_refusal_in_a_transaction_wakes_one),
        trial("probes::a_full_node_serves_those_who_are_there", a_full_node_serves_those_who_are_there),
    ]
}

/// One server and a Spillway with these settings of its monitor.
fn stage(name: &str, options: &[&str], interval: &str, monitor: &str) -> Outcome<(Server, Spillway, u16)> {
    let server = Server::standalone(name, &[&["--skip-name-resolve"], options].concat())?;
    server.create_monitor()?;
    server.sql(&format!("CREATE USER app@'%' IDENTIFIED BY '{PASSWORD}'"))?;
    let port = free_port()?;
    let nodes = format!("{{ only = \"{}\" }}", server.address());
    let configuration = lab::cluster_probed("lab", "static", &nodes, interval, "moves = { hold = \"0s\" }")
        .replace("timeout = \"1s\"", &format!("timeout = \"500ms\"{monitor}"))
        + &lab::service_toml("lab", port, "route = \"cluster:lab\"");
    let spillway = Spillway::start(lab::binary(), &format!("spillway-{name}"), &configuration)?;
    Ok((server, spillway, port))
}

fn session(port: u16) -> Outcome<Raw> {
    raw::login(port, &Credentials::new("app", PASSWORD, None))?.map_err(|refusal| format!("{refusal:?}"))
}

fn state(spillway: &Spillway) -> Outcome<String> {
    let node = spillway.node("lab", "only")?;
    Ok(node["observed"].as_str().unwrap_or_default().to_owned())
}

fn a_node_comes_back_after_some_good_ones() -> Verdict {
    let (mut server, spillway, _) = stage("rise", &[], "400ms", ", rise = 3, fall = 3")?;
    // Two answers that do not come are not enough: 500 ms each.
    server.freeze(true)?;
    sleep(Duration::from_millis(900));
    same!(state(&spillway)?, "up", "after less than two time-outs");
    server.freeze(false)?;
    sleep(Duration::from_millis(700));
    ensure!(!spillway.log().contains("now=\"down"), "{}", spillway.log_tail(10));
    server.freeze(true)?;
    wait_for("three that do not come", Duration::from_secs(5), || {
        let state = state(&spillway)?;
        if state == "down" { Ok(()) } else { Err(state) }
    })?;
    server.freeze(false)?;
    server.stop()?;
    server.launch(&[])?;
    let (mut seen, begun) = (Vec::new(), Instant::now());
    while begun.elapsed() < Duration::from_secs(30) {
        let told = spillway.ask("explain node lab only")?;
        if state(&spillway)? == "up" {
            break;
        }
        for count in ["1 of 3", "2 of 3", "3 of 3"] {
            if told.contains(&format!("comes back: {count} good probes")) && !seen.contains(&count) {
                seen.push(count);
            }
        }
        sleep(Duration::from_millis(20));
    }
    same!(state(&spillway)?, "up", "in the end");
    same!(seen, ["1 of 3", "2 of 3"], "on the way");
    Ok(())
}

fn trouble_of_a_session_wakes_one() -> Verdict {
    let (mut server, spillway, port) = stage("woken", &[], "30s", "")?;
    let mut there = session(port)?;
    let begun = Instant::now();
    server.kill();
    let lost = there.query("SELECT 1");
    wait_for("the verdict", Duration::from_secs(5), || {
        let state = state(&spillway)?;
        if state == "down" { Ok(()) } else { Err(state) }
    })?;
    ensure!(begun.elapsed() < Duration::from_secs(3), "after {:?}; {lost:?}", begun.elapsed());
    let told = spillway.ask("explain node lab only")?;
    ensure!(told.contains("a connection was"), "no evidence in {told}");
    // Sessions in trouble do not make it one probe each: of what they tell in 100 ms, one.
    let before = spillway.log().matches("node state changed").count();
    for _ in 0..50 {
        let _ = session(port);
    }
    let failed = "spillway_probes_failed_total{cluster=\"lab\",node=\"only\"} ";
    let metrics = spillway.api("GET", "/metrics", None)?.body;
    let probes = metrics.lines().find_map(|line| line.strip_prefix(failed)?.parse::<u32>().ok());
    let most = begun.elapsed().as_millis() / 100 + 3;
    ensure!(probes.is_some_and(|probes| u128::from(probes) <= most), "{probes:?} of {most}");
    same!(spillway.log().matches("node state changed").count(), before, "the verdict did not change again");
    Ok(())
}

fn a_full_node_serves_those_who_are_there() -> Verdict {
    let (server, spillway, port) = stage("full", &["--max-connections=10"], "300ms", "")?;
    let mut there = session(port)?;
    // Everybody else's places.
    let mut others = Vec::new();
    while let Ok(other) = raw::login(server.port, &Credentials::new("app", PASSWORD, None))? {
        others.push(other);
    }
    // One connection beyond the limit is an administrator's.
    let monitor = format!("SELECT ID FROM information_schema.PROCESSLIST WHERE USER = '{MONITOR_USER}'");
    for id in server.sql(&monitor)?.lines() {
        let _ = server.sql(&format!("KILL {id}"));
    }
    while let Ok(other) = raw::login(server.port, &Credentials::new("app", PASSWORD, None))? {
        others.push(other);
    }
    let failed = "spillway_probes_failed_total{cluster=\"lab\",node=\"only\"} ";
    let failures = || -> Outcome<u32> {
        let metrics = spillway.api("GET", "/metrics", None)?.body;
        Ok(metrics.lines().find_map(|line| line.strip_prefix(failed)?.parse().ok()).unwrap_or(0))
    };
    wait_for("probes that find no room", Duration::from_secs(10), || {
        let failures = failures()?;
        if failures >= 4 { Ok(()) } else { Err(format!("{failures} failures")) }
    })?;
    same!(state(&spillway)?, "up", "it is only full");
    same!(first_value(&there.query("SELECT 1")?)?, "1", "who is there");
    drop(others);
    let before = failures()?;
    sleep(Duration::from_secs(1));
    same!((state(&spillway)?.as_str(), failures()? - before <= 1), ("up", true), "with room again");
    Ok(())
}

fn a_refusal_in_a_transaction_wakes_one() -> Verdict {
    let server = Server::standalone("refusing", &["--skip-name-resolve"])?;
    server.create_monitor()?;
    server.sql(&format!(
        "CREATE DATABASE lab; CREATE TABLE lab.row (n INT); CREATE USER app@'%' IDENTIFIED BY '{PASSWORD}';
         GRANT ALL ON lab.* TO app@'%'"
    ))?;
    let port = free_port()?;
    let nodes = format!("{{ only = \"{}\" }}", server.address());
    let configuration = lab::cluster_probed("lab", "replication", &nodes, "30s", "")
        + &lab::service_toml("lab", port, "route = \"cluster:lab\"");
    let spillway = Spillway::start(lab::binary(), "spillway-refusing", &configuration)?;
    spillway.wait_node("lab", "only", "is the writer", |row| row["role"] == "writer")?;
    let mut there = session(port)?;
    there.query("BEGIN")?;
    server.sql("SET GLOBAL read_only = 1")?;
    let reply = there.query("INSERT INTO lab.row VALUES (1)")?;
    same!(raw::Refusal::parse(&reply[0])?.code, 1290, "{reply:?}");
    spillway.wait_node("lab", "only", "is seen as read-only", |row| row["role"] != "writer")?;
    let told = spillway.ask("explain node lab only")?;
    ensure!(told.contains("error 1290"), "no evidence in {told}");
    Ok(())
}
