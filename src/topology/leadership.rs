//! Which node serves writes: one at most, decided by a pure function of the nodes and of who did before.
//!
//! The writer is *sticky*: it stays until it can write no more, so that a node that comes back moves nobody. Where the
//! servers themselves say who may write (`read_only`), two that accept writes are an alarm, and writes go to the one
//! that was agreed on before or to none.

use std::time::{Duration, Instant};

use super::{Cluster, Desired, Node, Observed};
use crate::config::{ClusterKind, SplitBrain};
use crate::ids::NodeName;

/// How long a preferred node must have been up before the role returns to it, where that is wanted.
pub(super) const FAILBACK_AFTER: Duration = Duration::from_secs(10);

/// How many times as much as all others together a node must be written to, to be taken for the writer in use.
const CLEARLY: u64 = 10;

/// How many transactions it must be at least: one that comes now and then is seen by some Spillways, and by others not.
const FEWEST: u64 = 3;

/// Who serves the writes of a cluster.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Leadership {
    /// The last writer. It is remembered while it is away.
    pub agreed: Option<NodeName>,
    /// Whether it takes writes now.
    pub serves: bool,
    /// What a person must look at.
    pub alarm: Option<String>,
}

/// The writer from now on.
pub(super) fn decide(cluster: &Cluster, now: Instant) -> Leadership {
    match cluster.kind {
        ClusterKind::Galera | ClusterKind::GroupReplication | ClusterKind::Static => {
            by_preference(cluster, now)
        }
        ClusterKind::Replication | ClusterKind::MultiPrimary => by_read_only(cluster),
    }
}

/// Higher priority first, those of the configuration before those that were discovered, then by name.
fn rank(node: &Node) -> (std::cmp::Reverse<u16>, bool, &NodeName) {
    (std::cmp::Reverse(node.priority), node.discovered.is_some(), &node.name)
}

/// Every node that can write may be the writer: the one before, or the best.
fn by_preference(cluster: &Cluster, now: Instant) -> Leadership {
    let previous = cluster.agreed_node();
    let best = cluster.nodes.iter().filter(|node| node.writable()).min_by_key(|node| rank(node));
    let stays = previous.filter(|node| node.writable());
    let returns = || {
        let settled = |node: &&Node| node.writable() && node.is_steady(now, FAILBACK_AFTER);
        let best = cluster.nodes.iter().filter(settled).min_by_key(|node| rank(node))?;
        (cluster.rules.failback && stays?.priority < best.priority).then_some(best)
    };
    let first = || best.filter(|best| !awaits(cluster, best)).map(|best| in_use(cluster).unwrap_or(best));
    let chosen = returns().or(stays).or_else(first);
    Leadership {
        agreed: chosen.map(|node| node.name.clone()).or_else(|| cluster.leadership.agreed.clone()),
        serves: chosen.is_some(),
        alarm: None,
    }
}

/// The node that others write to already, when this Spillway has only just begun to look: the writer of those that began
/// before it. Only where it is clear beyond chance, lest two that begin at the same time see different ones.
fn in_use(cluster: &Cluster) -> Option<&Node> {
    let never = cluster.leadership.agreed.is_none();
    let used = |node: &Node| node.used.unwrap_or(0);
    let most = cluster.nodes.iter().filter(|_| never).max_by_key(|node| used(node))?;
    let others = cluster.nodes.iter().filter(|node| node.name != most.name).map(used).sum::<u64>();
    let is_clear = used(most) >= FEWEST && used(most) > others.saturating_mul(CLEARLY);
    (most.writable() && is_clear).then_some(most)
}

/// Whether a node that was not probed yet could be preferred: otherwise the order in which the first probes end would
/// decide, and two proxies could choose differently.
fn awaits(cluster: &Cluster, best: &Node) -> bool {
    let agreed = cluster.leadership.agreed.as_ref();
    if agreed.is_some_and(|agreed| cluster.may_yet_join(agreed)) {
        return true;
    }
    cluster.nodes.iter().any(|node| {
        let comes_first = match agreed {
            Some(agreed) => *agreed == node.name,
            // Any of a Galera cluster may turn out to be in use.
            None => cluster.kind == ClusterKind::Galera || rank(node) < rank(best),
        };
        is_unprobed(node) && node.desired == Desired::Enabled && comes_first
    })
}

fn is_unprobed(node: &Node) -> bool {
    node.observed == Observed::Unknown
}

/// The node that accepts writes is the writer. Nodes in maintenance do not count: an operator took them out.
fn by_read_only(cluster: &Cluster) -> Leadership {
    let counts = |node: &&Node| node.desired != Desired::Maintenance;
    let open: Vec<&Node> = cluster.nodes.iter().filter(counts).filter(|node| node.accepts_writes()).collect();
    let agreed = cluster.leadership.agreed.clone();
    let previous = open.iter().copied().find(|node| Some(&node.name) == agreed.as_ref());
    let unclear = open.len() > 1;
    let chosen = match (previous, open.as_slice()) {
        (Some(previous), _) => Some(previous),
        // Another one may turn out to accept writes, too.
        _ if cluster.nodes.iter().filter(counts).any(is_unprobed) => None,
        (None, [only]) if only.desired == Desired::Enabled => Some(*only),
        _ => None,
    };
    Leadership {
        agreed: chosen.map(|node| node.name.clone()).or(agreed),
        serves: chosen.is_some_and(Node::writable)
            && !(unclear && cluster.rules.split_brain == SplitBrain::None),
        alarm: unclear.then(|| split_brain(cluster, &open, chosen)),
    }
}

fn split_brain(cluster: &Cluster, open: &[&Node], chosen: Option<&Node>) -> String {
    let names: Vec<&str> = open.iter().map(|node| node.name.as_str()).collect();
    let outcome = match (chosen, cluster.rules.split_brain) {
        (Some(node), SplitBrain::Last) if node.writable() => {
            format!("writes go to {} only, which was the writer before", node.name)
        }
        (Some(node), SplitBrain::Last) => {
            format!("{} was the writer before, and takes no sessions now", node.name)
        }
        (Some(_), SplitBrain::None) => "writes go to none of them, as split_brain is none".to_owned(),
        (None, _) => "none of them was the writer before, so writes go to none".to_owned(),
    };
    format!("several nodes accept writes: {}; {outcome}", names.join(", "))
}
