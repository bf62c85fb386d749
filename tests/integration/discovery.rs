//! Members that the configuration does not name, and nodes whose name leads to another address.

use crate::harness::Outcome;
use crate::harness::cluster::{self, Replication};
use crate::harness::process::RunAs;
use crate::harness::proxy::Spillway;
use crate::harness::resolver::Hosts;
use crate::harness::server::{MONITOR_USER, Server};
use crate::harness::workspace::{directory, free_port};
use crate::harness::{PATIENCE, wait_for};
use crate::health::{served_by, session};
use crate::lab::{self, PASSWORD};
use crate::raw::first_value;
use crate::{Verdict, ensure, mysql_trial, named_trial, same, trial};
use libtest_mimic::Trial;
use std::path::Path;
use std::time::Duration;

pub(crate) fn trials() -> Vec<Trial> {
    vec![
        trial("discovery::galera", galera),
        trial("discovery::outside_the_networks", outside_the_networks),
        trial("discovery::replication", replication),
        mysql_trial("discovery::mysql_group", mysql_group),
        named_trial("discovery::a_name_that_leads_elsewhere", a_name_that_leads_elsewhere),
    ]
}

const QUICK: &str = "discover = { networks = [\"127.0.0.0/8\"], interval = \"300ms\", forget_after = \"1s\" }\naccounts_refresh = \"1s\"";

/// The name of a member that was discovered here.
fn member(port: u16) -> String {
    format!("127.0.0.1-{port}")
}

/// The names of a cluster's nodes, as shown.
fn nodes(spillway: &Spillway, cluster: &str) -> Outcome<Vec<String>> {
    let all = spillway.get("/v1/nodes")?;
    let rows = all["nodes"].as_array().cloned().unwrap_or_default();
    let of = rows.iter().filter(|row| row["cluster"] == cluster);
    Ok(of.filter_map(|row| row["node"].as_str().map(str::to_owned)).collect())
}

fn wait_nodes(spillway: &Spillway, cluster: &str, wanted: &[String]) -> Verdict {
    let mut wanted = wanted.to_vec();
    wanted.sort();
    wait_for("the members", PATIENCE, || {
        let mut found = nodes(spillway, cluster)?;
        found.sort();
        if found == wanted { Ok(()) } else { Err(format!("{found:?}, not {wanted:?}")) }
    })
    .map_err(|reason| format!("{reason}\n{}", spillway.log_tail(30)))
}

fn keeping(state: &Path) -> String {
    format!("[runtime]\nstate_file = \"{}\"\n", state.display())
}

/// A Spillway in front of a cluster with these nodes, with services for the writer and for any node.
fn start(
    name: &str,
    kind: &str,
    nodes: &str,
    lines: &str,
    state: Option<&Path>,
) -> Outcome<(Spillway, u16, u16)> {
    let (writer, any) = (free_port()?, free_port()?);
    let mut configuration = lab::cluster_with("c", kind, nodes, lines)
        + &lab::service_toml("writer", writer, "route = \"cluster:c\"")
        + &lab::service_toml("any", any, "route = \"cluster:c\"\nnode = \"any\"");
    if let Some(state) = state {
        configuration += &keeping(state);
    }
    Ok((Spillway::start(lab::binary(), name, &configuration)?, writer, any))
}

fn galera() -> Verdict {
    let pair = lab::pair()?;
    let galera = pair.share_galera()?;
    let ports: Vec<u16> = galera.nodes.iter().map(|node| node.port).collect();
    let others = [member(ports[1]), member(ports[2])];
    let state = directory("discovery-state")?.join("state.json");
    // By a name, while the nodes list addresses: the seed must not become two nodes.
    let seed = format!("{{ seed = \"localhost:{}\" }}", ports[0]);
    let (mut spillway, writer, any) = start("spillway-discovery", "galera", &seed, QUICK, Some(&state))?;
    let all = ["seed".to_owned(), others[0].clone(), others[1].clone()];
    wait_nodes(&spillway, "c", &all)?;
    for other in &others {
        spillway
            .wait_node("c", other, "serves", |row| row["role"] == "reader" && row["discovered"] == true)?;
        // Its accounts are compared like those of the others.
        spillway.wait_node("c", other, "is compared", |row| row["accounts"] == "same")?;
    }
    same!(spillway.node("c", "seed")?["discovered"], false, "the seed");
    same!(served_by(&mut session(writer, "shop")?)?, ports[0], "the writer is still the seed");
    // Those that came grow to their share.
    wait_for("all three serve reads", PATIENCE, || {
        let mut sessions = (0..6).map(|_| session(any, "shop")).collect::<Outcome<Vec<_>>>()?;
        let mut served = sessions.iter_mut().map(served_by).collect::<Outcome<Vec<_>>>()?;
        served.sort_unstable();
        served.dedup();
        same!(served.len(), 3, "all three serve reads: {served:?}");
        Ok(())
    })?;
    let events = spillway.ask("show events c")?;
    ensure!(events.contains("joined at 127.0.0.1") && events.contains("listed by"), "{events}");
    let explained = spillway.ask(&format!("explain node c {}", others[0]))?;
    ensure!(explained.contains("listed by"), "{explained}");

    // What operators want is kept, though the file does not name the node.
    spillway.ask(&format!("set node c {} drain", others[0]))?;
    spillway.ask(&format!("set writer c {}", others[1]))?;
    wait_for("the writer in the state file", PATIENCE, || {
        let text = std::fs::read_to_string(&state).map_err(|e| e.to_string())?;
        if text.contains(&format!("\"c\": \"{}\"", others[1])) { Ok(()) } else { Err(text) }
    })?;
    spillway.terminate()?;
    spillway.wait(PATIENCE)?;
    let (spillway, writer, _) = start("spillway-discovery-again", "galera", &seed, QUICK, Some(&state))?;
    wait_nodes(&spillway, "c", &all)?;
    same!(spillway.node("c", &others[0])?["desired"], "drain", "after the restart");
    let mut open = wait_for("the writer", PATIENCE, || session(writer, "shop"))?;
    same!(served_by(&mut open)?, ports[2], "the writer after the restart");

    // A reload that wants no discovery removes them; the session there goes on at the seed.
    let without = lab::cluster_with("c", "galera", &seed, "")
        + &lab::service_toml("writer", writer, "route = \"cluster:c\"");
    spillway.rewrite(&(without + &keeping(&state)))?;
    spillway.ask("reload config")?;
    wait_nodes(&spillway, "c", &["seed".to_owned()])?;
    same!(served_by(&mut open)?, ports[0], "the session whose node left");
    Ok(())
}

fn outside_the_networks() -> Verdict {
    let pair = lab::pair()?;
    let galera = pair.share_galera()?;
    let seed = format!("{{ seed = \"127.0.0.1:{}\" }}", galera.nodes[0].port);
    let lines = "discover = { networks = [\"10.0.0.0/8\", \"fd00::/8\"], interval = \"200ms\" }";
    let (spillway, _, _) = start("spillway-discovery-outside", "galera", &seed, lines, None)?;
    wait_for("a warning", PATIENCE, || {
        let log = spillway.log();
        let outside =
            |port| log.contains(&format!("127.0.0.1:{port}")) && log.contains("outside the networks");
        let both = outside(galera.nodes[1].port) && outside(galera.nodes[2].port);
        if both { Ok(()) } else { Err(spillway.log_tail(10)) }
    })?;
    std::thread::sleep(Duration::from_secs(1));
    same!(nodes(&spillway, "c")?, ["seed"], "the nodes");
    let times = spillway.log().matches("outside the networks").count();
    same!(times, 2, "each address is told of once");
    Ok(())
}

fn replication() -> Verdict {
    let mut pair = Replication::start("discovery", &["--skip-name-resolve", "--report-host=127.0.0.1"])?;
    let (primary, replica) = (pair.nodes[0].port, pair.nodes[1].port);
    pair.nodes[0].create_monitor()?;
    pair.nodes[0].sql(&format!(
        "CREATE DATABASE shop; CREATE USER app@'%' IDENTIFIED BY '{PASSWORD}'; GRANT ALL ON shop.* TO app@'%'"
    ))?;
    pair.wait_caught_up()?;
    let seed = format!("{{ seed = \"127.0.0.1:{primary}\" }}");
    let (spillway, writer, any) = start("spillway-discovery-replica", "replication", &seed, QUICK, None)?;
    // Without the privilege the log says what is missing.
    wait_for("a warning", PATIENCE, || {
        let log = spillway.log();
        if log.contains("does not list members") { Ok(()) } else { Err(spillway.log_tail(10)) }
    })?;
    pair.nodes[0].sql(&format!("GRANT REPLICATION MASTER ADMIN ON *.* TO '{MONITOR_USER}'@'%'"))?;
    let found = member(replica);
    wait_nodes(&spillway, "c", &["seed".to_owned(), found.clone()])?;
    spillway.wait_node("c", &found, "serves reads", |row| row["role"] == "reader")?;
    same!(served_by(&mut session(writer, "shop")?)?, primary, "the writer");
    // It has just come, and grows to its share.
    let mut sessions = Vec::new();
    let mut there = wait_for("a session on the replica", PATIENCE, || {
        let mut session = session(any, "shop")?;
        let at = served_by(&mut session)?;
        if at == replica {
            return Ok(session);
        }
        // Stays there, so that the next one goes elsewhere.
        sessions.push(session);
        Err(format!("{} are on {at}", sessions.len()))
    })?;

    // It goes: first down, then forgotten; the session goes on at the primary.
    pair.nodes[1].stop()?;
    // A primary that has nothing to send does not notice, and goes on listing it.
    let mut write = 0;
    wait_for("the replica is forgotten", PATIENCE, || {
        write += 1;
        pair.nodes[0].sql(&format!("CREATE DATABASE noticed{write}"))?;
        let left = nodes(&spillway, "c")?;
        if left == ["seed"] { Ok(()) } else { Err(format!("{left:?}\n{}", spillway.log_tail(30))) }
    })?;
    same!(served_by(&mut there)?, primary, "the session whose node left");
    let events = spillway.ask("show events c")?;
    ensure!(events.contains("left"), "{events}");
    pair.nodes[1].launch(&[])?;
    pair.nodes[1].wait_until_up(PATIENCE)?;
    wait_nodes(&spillway, "c", &["seed".to_owned(), found.clone()])?;
    spillway.wait_node("c", &found, "serves reads again", |row| row["role"] == "reader")?;

    // From the other end: the replica names its source.
    let seed = format!("{{ seed = \"127.0.0.1:{replica}\" }}");
    let (spillway, writer, _) = start_unready("spillway-discovery-source", &seed)?;
    wait_nodes(&spillway, "c", &["seed".to_owned(), member(primary)])?;
    let mut open = wait_for("the writer", PATIENCE, || session(writer, "shop"))?;
    same!(served_by(&mut open)?, primary, "the writer that was discovered");
    Ok(())
}

/// A Spillway whose seed alone cannot make it ready.
fn start_unready(name: &str, seed: &str) -> Outcome<(Spillway, u16, u16)> {
    let port = free_port()?;
    let configuration = lab::cluster_with("c", "replication", seed, QUICK)
        + &lab::service_toml("writer", port, "route = \"cluster:c\"");
    Ok((Spillway::launch(lab::binary(), name, &configuration)?, port, port))
}

fn mysql_group() -> Verdict {
    let mut members = cluster::mysql_group("found")?;
    let names = [member(members[1].port), member(members[2].port)];
    let seed = format!("{{ seed = \"127.0.0.1:{}\" }}", members[0].port);
    let (spillway, _, _) = start("spillway-discovery-group", "group-replication", &seed, QUICK, None)?;
    let all = ["seed".to_owned(), names[0].clone(), names[1].clone()];
    wait_nodes(&spillway, "c", &all)?;
    for name in &names {
        spillway.wait_node("c", name, "serves reads", |row| row["role"] == "reader")?;
    }
    members[2].kill();
    wait_nodes(&spillway, "c", &all[..2])
}

/// A server that listens on an address of its own.
fn server_at(name: &str, address: &str, port: Option<u16>) -> Outcome<Server> {
    let bind = format!("--bind-address={address}");
    let mut server = Server::prepare(name, &["--skip-name-resolve", &bind])?;
    server.port = port.unwrap_or(server.port);
    server.start(&[])?;
    server.create_monitor()?;
    server.sql(&format!(
        "CREATE DATABASE lab; CREATE TABLE lab.place AS SELECT '{address}' AS word;
         CREATE USER app@'%' IDENTIFIED BY '{PASSWORD}'; GRANT ALL ON lab.* TO app@'%'"
    ))?;
    Ok(server)
}

fn a_name_that_leads_elsewhere() -> Verdict {
    let hosts = Hosts::new("discovery-hosts", "127.9.1.1 db.corp.example", "files")?;
    let first = server_at("discovery-first", "127.9.1.1", None)?;
    let _second = server_at("discovery-second", "127.9.1.2", Some(first.port))?;
    let port = free_port()?;
    let nodes = format!("{{ solo = \"db.corp.example:{}\" }}", first.port);
    let configuration = lab::cluster_with("lab", "static", &nodes, "")
        + &lab::service_toml("lab", port, "route = \"cluster:lab\"");
    let program = hosts.wrap(lab::binary(), RunAs::Myself)?;
    let spillway = Spillway::start(&program, "spillway-discovery-name", &configuration)?;
    let mut open = session(port, "lab")?;
    let mut place = || first_value(&open.query("SELECT word FROM lab.place")?);
    same!(place()?, "127.9.1.1", "where the name leads at first");
    hosts.rewrite("127.9.1.2 db.corp.example")?;
    wait_for("the move", PATIENCE, || {
        let events = spillway.ask("show events lab")?;
        let words = "db.corp.example leads to 127.9.1.2 now, no longer to 127.9.1.1";
        if events.contains(words) { Ok(()) } else { Err(events) }
    })?;
    spillway.wait_node("lab", "solo", "is up again", |row| row["observed"] == "up")?;
    same!(place()?, "127.9.1.2", "the session that was open");
    Ok(())
}
