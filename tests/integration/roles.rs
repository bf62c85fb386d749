//! Who may serve what: writers that are moved, promoted and doubled.

use crate::harness::proxy::Spillway;
use crate::harness::wait_for;
use crate::harness::workspace::{directory, free_port};
use crate::health::{front, front_of, launched_front, served_by, session};
use crate::lab::{self, PASSWORD};
use crate::raw::{self, Credentials};
use crate::{Verdict, ensure, same, trial};
use libtest_mimic::Trial;
use std::time::{Duration, Instant};

pub(crate) fn trials() -> Vec<Trial> {
    vec![
        trial("roles::writer_moved", writer_moved),
        trial("roles::writer_remembered", writer_remembered),
        trial("roles::two_primaries", two_primaries),
        trial("roles::promotion_followed", promotion_followed),
    ]
}

/// What `show clusters` says of a cluster.
fn cluster(spillway: &Spillway, name: &str) -> crate::harness::Outcome<serde_json::Value> {
    let all = spillway.get("/v1/clusters")?;
    let clusters = all["clusters"].as_array().cloned().unwrap_or_default();
    clusters.into_iter().find(|entry| entry["cluster"] == name).ok_or_else(|| format!("no {name} in {all}"))
}

fn writer_moved() -> Verdict {
    let pair = lab::pair()?;
    let galera = pair.share_galera();
    let front = front("spillway-writer-moved", pair, &galera)?;
    let mut before = session(front.shop, "shop")?;
    same!(served_by(&mut before)?, galera.nodes[0].port, "the first writer");
    let moved = front.spillway.api("PUT", "/v1/clusters/shop/writer", Some("{\"node\":\"shop2\"}"))?;
    same!(moved.status, 200, "{}", moved.body);
    same!(
        served_by(&mut session(front.shop, "shop")?)?,
        galera.nodes[1].port,
        "the writer that was asked for"
    );
    same!(cluster(&front.spillway, "shop")?["writer"], "shop2", "as shown");
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

fn writer_remembered() -> Verdict {
    let pair = lab::pair()?;
    let galera = pair.share_galera();
    let replication = pair.share_replication();
    let state = directory("writer-state")?.join("state.json");
    let start = |name: &str| {
        let port = free_port()?;
        let configuration = lab::pair_clusters_toml(&galera, &replication)
            + &lab::service_toml("shop", port, "route = \"cluster:shop\"")
            + &format!("[runtime]\nstate_file = \"{}\"\n", state.display());
        Ok::<_, String>((Spillway::start(lab::binary(), name, &configuration)?, port))
    };
    let (mut spillway, _) = start("spillway-writer-state")?;
    spillway.ask("set writer shop shop3")?;
    wait_for("the writer in the state file", Duration::from_secs(5), || {
        let text = std::fs::read_to_string(&state).map_err(|e| e.to_string())?;
        if text.contains("shop3") { Ok(()) } else { Err(text) }
    })?;
    spillway.terminate()?;
    spillway.wait(Duration::from_secs(20))?;
    let (spillway, port) = start("spillway-writer-state-again")?;
    same!(served_by(&mut session(port, "shop")?)?, galera.nodes[2].port, "after the restart");
    same!(cluster(&spillway, "crm")?["writer"], "crm-primary", "the other cluster");
    Ok(())
}

fn two_primaries() -> Verdict {
    let pair = lab::pair()?;
    let clusters = lab::pair_clusters_toml(&pair.share_galera(), &pair.share_replication());
    let front = front_of("spillway-two-primaries", &clusters)?;
    let replication = pair.own_replication();
    let (primary, replica) = (replication.nodes[0].port, &replication.nodes[1]);
    let mut open = session(front.crm, "crm")?;
    replica.sql("SET GLOBAL read_only = 0")?;
    let alarm = wait_for("the alarm", Duration::from_secs(10), || {
        let alarm = cluster(&front.spillway, "crm")?["alarm"].clone();
        alarm.as_str().map(str::to_owned).ok_or_else(|| "none yet".to_owned())
    });
    let served = served_by(&mut session(front.crm, "crm")?);
    // One that starts now cannot know which is the right one.
    let refused = launched_front("spillway-two-primaries-late", &clusters).and_then(|late| {
        wait_for("both nodes seen", Duration::from_secs(20), || {
            let seen = late.spillway.ask("show events crm")?;
            if seen.contains("none of them was the writer before") { Ok(()) } else { Err(seen) }
        })?;
        wait_for("a greeting", Duration::from_secs(20), || {
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
    wait_for("the end of the alarm", Duration::from_secs(10), || {
        let alarm = &cluster(&front.spillway, "crm")?["alarm"];
        if alarm.is_null() { Ok(()) } else { Err(alarm.to_string()) }
    })
}

fn promotion_followed() -> Verdict {
    let pair = lab::pair()?;
    let galera = pair.share_galera();
    let front = front("spillway-promotion", pair, &galera)?;
    drop(galera);
    let replication = pair.own_replication();
    let (old, new) = (&replication.nodes[0], &replication.nodes[1]);
    same!(served_by(&mut session(front.crm, "crm")?)?, old.port, "before");
    old.sql("SET GLOBAL read_only = 1")?;
    replication.wait_caught_up()?;
    new.sql("STOP SLAVE; SET GLOBAL read_only = 0")?;
    let begun = Instant::now();
    let followed = wait_for("the promoted node", Duration::from_secs(10), || {
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
    // One interval of 200 ms with its jitter, and the probe itself; the rest is for a busy machine.
    ensure!(took < Duration::from_secs(1), "followed after {took:?}");
    front
        .spillway
        .wait_node("crm", "crm-primary", "is the writer again", |entry| entry["role"] == "writer")?;
    front
        .spillway
        .wait_node("crm", "crm-replica", "serves reads again", |entry| entry["role"] == "reader")
        .map(drop)
}
