//! Servers that die, freeze, leave and come back while clients write and read through Spillway.
//!
//! Every scenario starts a [`load`]: clients that write numbered rows and note each answer, others that write them two at a
//! time in transactions, readers, a session that is idle, and one client that writes to a node without Spillway. Then
//! something happens. At the end every row that was acknowledged must be there and none twice, no transaction may be done by
//! half, and the longest gap that a client saw is compared with that of the client
//! without Spillway: the servers themselves stand still for a while when one of them is gone.
//!
//! `MINUTES=60 cargo test --test integration -- chaos --nocapture` goes through the scenarios at random for so long,
//! `SEED=7` in another order.

mod galera;
mod group;
mod handover;
mod load;
mod replication;
mod report;

use crate::differential::Dice;
use crate::harness::Outcome;
use crate::harness::cluster::toml_nodes;
use crate::harness::mysql;
use crate::harness::network;
use crate::harness::proxy::Spillway;
use crate::harness::server::Server;
use crate::harness::workspace::free_port;
use crate::lab;
use crate::{Verdict, trial};
use libtest_mimic::Trial;
use load::Doors;
use std::io::Write as _;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

type Scenario = fn() -> Verdict;

/// What a scenario needs beside `MariaDB`.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Needs {
    Nothing,
    /// Hosts of their own for the nodes.
    Hosts,
    /// And bad cables to them.
    BadCables,
    /// A root with `MySQL`.
    MySql,
}

impl Needs {
    /// Why it cannot be had here; none: it is there.
    fn missing(self) -> Option<String> {
        match self {
            Self::Nothing => None,
            Self::Hosts => network::missing().map(str::to_owned),
            Self::BadCables => network::bad_cables_missing(),
            Self::MySql => mysql::root().err(),
        }
    }
}

/// The scenarios, and what they need.
const SCENARIOS: &[(&str, Scenario, Needs)] = &[
    ("chaos::galera_writer_killed", galera::writer_killed, Needs::Nothing),
    ("chaos::galera_reader_killed", galera::reader_killed, Needs::Nothing),
    ("chaos::galera_writer_frozen", galera::writer_frozen, Needs::Nothing),
    ("chaos::galera_writer_cut_off", galera::writer_cut_off, Needs::Hosts),
    ("chaos::galera_writer_badly_connected", galera::writer_badly_connected, Needs::BadCables),
    ("chaos::galera_rolling_restart", galera::rolling_restart, Needs::Nothing),
    ("chaos::galera_writer_set_aside", galera::writer_set_aside, Needs::Nothing),
    ("chaos::galera_quorum_lost", galera::quorum_lost, Needs::Nothing),
    ("chaos::primary_killed", replication::primary_killed, Needs::Nothing),
    ("chaos::places_changed", replication::places_changed, Needs::Nothing),
    ("chaos::primary_read_only", replication::primary_read_only, Needs::Nothing),
    ("chaos::pair_switched", handover::pair_switched, Needs::Nothing),
    ("chaos::primary_failed_over", handover::primary_failed_over, Needs::Nothing),
    ("chaos::primary_failed_over_by_itself", handover::primary_failed_over_by_itself, Needs::Nothing),
    ("chaos::group_primary_killed", group::primary_killed, Needs::MySql),
];

/// Each scenario once; with `MINUTES` in the environment, one trial that goes on for so long.
pub(crate) fn trials() -> Vec<Trial> {
    // What make has no value for, it exports as nothing.
    if std::env::var("MINUTES").is_ok_and(|minutes| !minutes.is_empty()) {
        return vec![trial("chaos::for_minutes", for_minutes)];
    }
    let scenario = |(name, scenario, needs): &(&str, Scenario, Needs)| {
        trial(name, *scenario).with_ignored_flag(needs.missing().is_some())
    };
    let checked = trial("chaos::report_notices_what_is_wrong", report::notices_what_is_wrong);
    std::iter::once(checked).chain(SCENARIOS.iter().map(scenario)).collect()
}

/// Every scenario in an order at random, and all again in another, until the time is over.
fn for_minutes() -> Verdict {
    let minutes = std::env::var("MINUTES").ok().and_then(|text| text.parse().ok());
    let limit = Duration::from_mins(minutes.ok_or("MINUTES is not a number")?);
    let scenarios: Vec<_> = SCENARIOS.iter().filter(|(.., needs)| needs.missing().is_none()).collect();
    for (what, needs) in
        [("A NETWORK OF HOSTS", Needs::Hosts), ("A BAD NETWORK", Needs::BadCables), ("MYSQL", Needs::MySql)]
    {
        if let Some(reason) = needs.missing() {
            say(&format!("THOSE WITH {what} ARE LEFT OUT: {reason}\n"))?;
        }
    }
    let (mut dice, start, mut done, mut left) = (Dice::new(7), Instant::now(), 0, Vec::new());
    while start.elapsed() < limit {
        if left.is_empty() {
            left.clone_from(&scenarios);
        }
        let (name, scenario, _) = left.swap_remove(dice.below(left.len() as u64) as usize);
        scenario().map_err(|reason| format!("{name}, after {done} scenarios: {reason}"))?;
        done += 1;
        say(&format!("{done} scenarios, {:.0} of {:.0?}\n", start.elapsed().as_secs_f32(), limit))?;
    }
    Ok(())
}

/// Words for who watches the run.
fn say(text: &str) -> Verdict {
    std::io::stderr().write_all(text.as_bytes()).map_err(|e| e.to_string())
}

/// A number that was not given before in this run.
fn round() -> u32 {
    static NEXT: AtomicU32 = AtomicU32::new(1);
    NEXT.fetch_add(1, Ordering::Relaxed)
}

/// A Spillway in front of one cluster, with the intervals that it has by default.
struct Front {
    spillway: Spillway,
    writes: SocketAddr,
    reads: SocketAddr,
}

impl Front {
    /// Starts it, with further lines about the cluster, and waits until all nodes serve.
    fn start(name: &str, kind: &str, nodes: &[Server], lines: &str) -> Outcome<Self> {
        let (writes, reads) = (free_port()?, free_port()?);
        let configuration = lab::cluster_probed("chaos", kind, &toml_nodes(nodes), "1s", lines)
            + &lab::service_toml("writes", writes, "route = \"cluster:chaos\"")
            + &lab::service_toml("reads", reads, "route = \"cluster:chaos\"\nnode = \"any\"");
        let spillway = Spillway::start(lab::binary(), &format!("spillway-chaos-{name}"), &configuration)?;
        let at = |port| SocketAddr::from((Ipv4Addr::LOCALHOST, port));
        let front = Self { spillway, writes: at(writes), reads: at(reads) };
        for node in nodes {
            front.wait_serving(&node.name)?;
        }
        Ok(front)
    }

    fn doors(&self, direct: Option<SocketAddr>) -> Doors {
        Doors { writes: self.writes, reads: self.reads, direct }
    }

    fn wait_serving(&self, node: &str) -> Verdict {
        self.spillway.wait_node("chaos", node, "serves", |entry| entry["role"] != "none")
    }

    /// What an operator wants of a node.
    fn set(&self, node: &str, state: &str) -> Verdict {
        let answer = self.spillway.ask(&format!("set node chaos {node} {state}"))?;
        if answer.contains("rror") { Err(answer) } else { Ok(()) }
    }

    /// The name of the node that takes writes.
    fn writer(&self) -> Outcome<String> {
        let all = self.spillway.get("/v1/nodes")?;
        let entries = all["nodes"].as_array().ok_or_else(|| format!("no list of nodes in {all}"))?;
        let writer = entries.iter().find(|entry| entry["role"] == "writer");
        let name = writer.and_then(|entry| entry["node"].as_str());
        name.map(ToOwned::to_owned).ok_or_else(|| format!("no writer in {all}"))
    }
}
