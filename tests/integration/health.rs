//! Nodes that die, freeze, lose their cluster and come back.

use crate::harness::client::Login;
use crate::harness::proxy::Spillway;
use crate::harness::workspace::free_port;
use crate::harness::{Outcome, PATIENCE, wait_for};
use crate::lab::{self, PASSWORD, Pair};
use crate::raw::{self, Credentials, Raw, first_value};
use crate::{Verdict, ensure, same, trial};
use libtest_mimic::Trial;
use std::time::{Duration, Instant};

pub(crate) fn trials() -> Vec<Trial> {
    vec![
        trial("health::galera_node_killed", galera_node_killed),
        trial("health::galera_node_frozen", galera_node_frozen),
        trial("health::galera_not_primary", galera_not_primary),
        trial("health::primary_killed", primary_killed),
        trial("health::replica_stopped", replica_stopped),
    ]
}

/// A Spillway of the test's own in front of both clusters.
pub(crate) struct Front {
    pub(crate) spillway: Spillway,
    pub(crate) shop: u16,
    pub(crate) crm: u16,
    pub(crate) crm_any: u16,
}

pub(crate) fn front(name: &str, pair: &Pair, galera: &crate::harness::cluster::Galera) -> Outcome<Front> {
    let replication = pair.share_replication()?;
    let front = front_of(name, &lab::pair_clusters_toml(galera, &replication))?;
    front.spillway.wait_all_serve()?;
    Ok(front)
}

/// The same in front of clusters `shop` and `crm` that are given as text.
pub(crate) fn front_of(name: &str, clusters: &str) -> Outcome<Front> {
    let mut front = launched_front(name, clusters)?;
    front.spillway.wait_ready(PATIENCE)?;
    Ok(front)
}

/// The same, not waiting until it is ready.
pub(crate) fn launched_front(name: &str, clusters: &str) -> Outcome<Front> {
    let (shop, crm, crm_any) = (free_port()?, free_port()?, free_port()?);
    let configuration = clusters.to_owned()
        + &lab::service_toml("shop", shop, "route = \"cluster:shop\"")
        + &lab::service_toml("crm", crm, "route = \"cluster:crm\"")
        + &lab::service_toml("crm-any", crm_any, "route = \"cluster:crm\"\nnode = \"any\"");
    let spillway = Spillway::launch(lab::binary(), name, &configuration)?;
    Ok(Front { spillway, shop, crm, crm_any })
}

pub(crate) fn session(port: u16, schema: &str) -> Outcome<Raw> {
    raw::login(port, &Credentials::new("app", PASSWORD, Some(schema)))?
        .map_err(|refusal| format!("{refusal:?}"))
}

pub(crate) fn served_by(session: &mut Raw) -> Outcome<u16> {
    first_value(&session.query("SELECT @@port")?)?.parse().map_err(|_| "no port".to_owned())
}

/// Waits until the other end of a session closes it, by an error or in silence.
fn wait_ended(session: &mut Raw, limit: Duration) -> Verdict {
    session.stream.set_read_timeout(Some(limit)).map_err(|e| e.to_string())?;
    let start = Instant::now();
    // An ERR packet may come first; then the end.
    while session.unasked_packet().is_ok() {}
    ensure!(start.elapsed() < limit, "the session was not ended within {limit:?}");
    Ok(())
}

fn wait_serving(port: u16, schema: &str, not: u16) -> Outcome<u16> {
    wait_for("another node serves", PATIENCE, || {
        let served = served_by(&mut session(port, schema)?)?;
        if served == not { Err(format!("still {served}")) } else { Ok(served) }
    })
}

fn number_of(galera: &crate::harness::cluster::Galera, port: u16) -> Outcome<usize> {
    galera.nodes.iter().position(|node| node.port == port).ok_or_else(|| format!("{port} is no node of shop"))
}

fn galera_node_killed() -> Verdict {
    let pair = lab::pair()?;
    let mut galera = pair.own_galera()?;
    let front = front("spillway-killed", pair, &galera)?;
    let mut idle = session(front.shop, "shop")?;
    let mut busy = session(front.shop, "shop")?;
    let writer = served_by(&mut idle)?;
    same!(served_by(&mut busy)?, writer, "both on the writer");
    busy.query("BEGIN")?;
    busy.command(&raw::query("SELECT SLEEP(60)"))?;
    let number = number_of(&galera, writer)?;
    let name = galera.nodes[number].name.clone();
    galera.nodes[number].kill();
    // Sessions with a transaction are told and closed; others go on elsewhere, and new ones come there, too.
    wait_ended(&mut busy, PATIENCE / 2).map_err(|e| format!("busy session: {e}"))?;
    let next = wait_serving(front.shop, "shop", writer)?;
    ensure!(next != writer, "a dead node serves");
    same!(served_by(&mut idle)?, next, "the idle session");
    same!(
        Login::new(front.shop, "app", PASSWORD, Some("shop")).query("SELECT name FROM item")?,
        "lamp",
        "data"
    );
    front.spillway.wait_node("shop", &name, "is not up", |entry| entry["observed"] != "up")?;
    let entry = front.spillway.node("shop", &name)?;
    ensure!(entry["reason"].as_str().is_some_and(|reason| !reason.is_empty()), "no reason in {entry}");
    let shown = front.spillway.ask("show nodes")?;
    ensure!(shown.lines().any(|line| line.contains(&name) && !line.contains(" up ")), "{shown}");
    // It comes back by probes alone, and is used again.
    galera.rejoin(number)?;
    front.spillway.wait_node("shop", &name, "is up again", |entry| entry["observed"] == "up")?;
    galera.wait_size(3)?;
    // The role does not return to it: the second node stays the writer, or the third is, if the second had to give its
    // data to the first.
    ensure!(served_by(&mut session(front.shop, "shop")?)? != writer, "the first node is the writer again");
    // Up, but it may not have applied all yet.
    wait_for("a change of the writer", PATIENCE, || {
        let answer = front.spillway.ask(&format!("set writer shop {name}"))?;
        if answer.contains(&format!("shop/{name} is the writer")) { Ok(()) } else { Err(answer) }
    })?;
    same!(served_by(&mut session(front.shop, "shop")?)?, writer, "the writer that was asked for");
    Ok(())
}

fn galera_node_frozen() -> Verdict {
    let pair = lab::pair()?;
    let galera = pair.own_galera()?;
    let front = front("spillway-frozen", pair, &galera)?;
    let mut idle = session(front.shop, "shop")?;
    let writer = served_by(&mut idle)?;
    let number = number_of(&galera, writer)?;
    galera.nodes[number].freeze(true)?;
    let outcome = wait_serving(front.shop, "shop", writer).map(drop);
    let moved = served_by(&mut idle);
    let left = galera.wait_left(number);
    galera.nodes[number].freeze(false)?;
    outcome?;
    left?;
    ensure!(moved? != writer, "the idle session is on a frozen node");
    let name = galera.nodes[number].name.clone();
    front.spillway.wait_node("shop", &name, "is up again", |entry| entry["observed"] == "up")?;
    galera.wait_size(3)
}

/// With two of three nodes gone at once the last one is alive, but not in a primary component.
fn galera_not_primary() -> Verdict {
    let pair = lab::pair()?;
    let mut galera = pair.own_galera()?;
    let front = front("spillway-not-primary", pair, &galera)?;
    let mut last = galera.nodes[2].port;
    galera.nodes[0].kill();
    galera.nodes[1].kill();
    let judged = wait_for("a refusal", PATIENCE, || {
        match raw::login(front.shop, &Credentials::new("app", PASSWORD, Some("shop")))? {
            Ok(mut session) => {
                last = served_by(&mut session)?;
                Err(format!("{last} still serves"))
            }
            Err(refusal) if refusal.message.contains("shop3") => Ok(refusal),
            Err(refusal) => Err(format!("{refusal:?}")),
        }
    });
    // The other cluster is not concerned.
    let other = Login::new(front.crm, "app", PASSWORD, Some("crm")).query("SELECT name FROM customer");
    galera.nodes[2].sql("SET GLOBAL wsrep_provider_options = 'pc.bootstrap=YES'")?;
    let up = front.spillway.wait_node("shop", "shop3", "is up", |entry| entry["observed"] == "up");
    galera.rejoin(0)?;
    galera.rejoin(1)?;
    galera.wait_size(3)?;
    let refusal = judged?;
    same!(refusal.code, 1040, "{refusal:?}");
    for word in ["shop", "shop1", "shop2", "shop3"] {
        ensure!(refusal.message.contains(word), "{word} is not named: {}", refusal.message);
    }
    same!(other?, "Ada", "the other cluster");
    up
}

fn primary_killed() -> Verdict {
    let pair = lab::pair()?;
    let galera = pair.share_galera()?;
    let front = front("spillway-primary-killed", pair, &galera)?;
    drop(galera);
    let mut replication = pair.own_replication()?;
    front.spillway.wait_all_serve()?;
    let mut idle = session(front.crm, "crm")?;
    same!(served_by(&mut idle)?, replication.nodes[0].port, "the primary serves");
    replication.nodes[0].kill();
    let replica = replication.nodes[1].port;
    let read = wait_for("the replica serves reads", PATIENCE, || {
        let mut session = session(front.crm_any, "crm")?;
        let port = served_by(&mut session)?;
        if port == replica {
            first_value(&session.query("SELECT name FROM customer")?)
        } else {
            Err(port.to_string())
        }
    });
    // A read-only replica is no writer.
    let refusal = raw::login(front.crm, &Credentials::new("app", PASSWORD, Some("crm")))?.err();
    replication.nodes[0].start(&[])?;
    replication.wait_caught_up()?;
    same!(read?, "Ada", "what the replica says");
    // Nobody missed the primary while the session was silent.
    same!(served_by(&mut idle)?, replication.nodes[0].port, "the idle session");
    let refusal = refusal.ok_or("a session for writes was given to a read-only replica")?;
    same!(refusal.code, 1040, "{refusal:?}");
    ensure!(refusal.message.contains("crm"), "the cluster is not named: {}", refusal.message);
    let back = wait_for("the primary serves again", PATIENCE, || served_by(&mut session(front.crm, "crm")?))?;
    same!(back, replication.nodes[0].port, "the primary");
    Ok(())
}

fn replica_stopped() -> Verdict {
    let pair = lab::pair()?;
    let galera = pair.share_galera()?;
    let front = front("spillway-replica-stopped", pair, &galera)?;
    drop(galera);
    let replication = pair.own_replication()?;
    front.spillway.wait_all_serve()?;
    let (primary, replica) = (replication.nodes[0].port, &replication.nodes[1]);
    replica.sql("STOP SLAVE SQL_THREAD")?;
    let left = wait_for("the replica is left", PATIENCE, || {
        let mut open = Vec::new();
        for _ in 0..6 {
            let mut session = session(front.crm_any, "crm")?;
            let port = served_by(&mut session)?;
            if port != primary {
                return Err(format!("{port} still serves"));
            }
            open.push(session);
        }
        Ok(())
    });
    replica.sql("START SLAVE")?;
    left?;
    front.spillway.wait_node("crm", &replica.name, "serves reads again", |entry| entry["role"] == "reader")
}
