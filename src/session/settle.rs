//! Which sessions are to leave their nodes, by what the topology says now. Called by the control side after every change.

use std::time::Duration;

use tokio::time::Instant;

use super::registry::{Ending, Entry, Leave, Place, Registry};
use crate::config::{Config, NodeChoice};
use crate::topology::{Cluster, Desired, Node, Observed, Topology};

/// Tells every session whether it is to leave its node. Returns how many were ended or have to leave at once.
pub fn settle(registry: &Registry, topology: &Topology, config: &Config) -> usize {
    registry.list().iter().filter(|entry| tell(entry, topology, config)).count()
}

/// Tells one session. Whether it was ended or has to leave at once.
pub(super) fn tell(entry: &Entry, topology: &Topology, config: &Config) -> bool {
    match judge(entry, topology, config) {
        Judgement::Stays => {
            entry.wish(None);
            false
        }
        Judgement::Leaves(wish) => {
            let at_once = wish.at_once;
            entry.wish(Some(wish));
            // There may be a node for it now where there was none before.
            entry.remind();
            at_once
        }
        Judgement::Ends(why) => {
            entry.end(why);
            true
        }
    }
}

#[derive(Debug, PartialEq)]
enum Judgement {
    Stays,
    Leaves(Leave),
    Ends(Ending),
}

fn judge(entry: &Entry, topology: &Topology, config: &Config) -> Judgement {
    let Place { cluster: Some(cluster), node: Some(name), .. } = entry.place() else {
        return Judgement::Stays;
    };
    let Some((found, configured)) = topology.cluster(cluster.as_str()).zip(config.clusters.get(&cluster))
    else {
        return Judgement::Ends(Ending::Unconfigured(format!("cluster {cluster} is no longer configured")));
    };
    let leave = |reason: &str, timeout: Option<Duration>, at_once| {
        Judgement::Leaves(Leave {
            from: (cluster.clone(), name.clone()),
            reason: format!("node {name} of cluster {cluster}: {reason}"),
            deadline: timeout.map(|timeout| Instant::now() + timeout),
            at_once,
        })
    };
    let Some(node) = found.node(name.as_str()) else { return leave("no longer configured", None, true) };
    let moves = &configured.moves;
    match (&node.observed, node.desired) {
        (Observed::Down { reason }, _) => leave(reason, None, true),
        (_, Desired::Maintenance) => {
            leave("maintenance", moves.maintenance_timeout.or(Some(Duration::ZERO)), false)
        }
        (_, Desired::Drain) => leave("drain", moves.drain_timeout, false),
        _ => match config.services.get(&entry.service).map(|service| service.node) {
            Some(choice) if is_misplaced(found, node, choice) => {
                leave(misplaced(choice), moves.drain_timeout, false)
            }
            _ => Judgement::Stays,
        },
    }
}

/// Whether a session is on a node that new ones like it would not come to, while there is one for them.
fn is_misplaced(cluster: &Cluster, node: &Node, choice: NodeChoice) -> bool {
    match choice {
        NodeChoice::Writer => cluster.writer().is_some_and(|writer| writer.name != node.name),
        NodeChoice::Any => !node.readable() && cluster.choose(choice).is_ok(),
    }
}

fn misplaced(choice: NodeChoice) -> &'static str {
    match choice {
        NodeChoice::Writer => "no longer the writer",
        NodeChoice::Any => "no longer fit for reads",
    }
}
