//! Holds the current topology; readers take it without a lock, the control side replaces it whole.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::SystemTime;

use arc_swap::ArcSwap;
use tokio::sync::watch;

use super::{Cluster, Desired, Facts, Node, Observed, Topology};
use crate::config::Config;
use crate::ids::{ClusterName, NodeName};

/// Where the current topology stands.
#[derive(Debug)]
pub struct TopologyStore {
    current: ArcSwap<Topology>,
    /// Only the control side writes; this puts its writers in line.
    writing: Mutex<()>,
    changed: watch::Sender<u64>,
}

/// A node's state before and after a write that changed it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Change {
    /// Whether it was usable and in which state, in words.
    pub before: String,
    /// The same, now.
    pub after: String,
}

impl TopologyStore {
    /// Starts with a topology.
    pub fn new(topology: Topology) -> Self {
        Self {
            current: ArcSwap::from_pointee(topology),
            writing: Mutex::new(()),
            changed: watch::Sender::new(0),
        }
    }

    /// The current topology.
    pub fn load(&self) -> Arc<Topology> {
        self.current.load_full()
    }

    /// Tells of every replacement. The number counts them.
    pub fn subscribe(&self) -> watch::Receiver<u64> {
        self.changed.subscribe()
    }

    /// Takes the clusters and nodes of a new configuration.
    pub fn reconfigure(&self, config: &Config) {
        self.replace(|old| Some(old.reconfigured(config)));
    }

    /// Sets what an operator wants of a node. The change, or none when no such node is there.
    pub fn set_desired(&self, cluster: &str, node: &str, desired: Desired) -> Option<Change> {
        self.update(cluster, node, |n| n.desired = desired)
    }

    /// Notes what a probe saw. Returns the change when the verdict is another than before.
    pub fn observe(&self, cluster: &ClusterName, node: &NodeName, seen: Observed) -> Option<Change> {
        let change = self.update(cluster.as_str(), node.as_str(), |n| {
            if n.observed.word() != seen.word() {
                n.since = SystemTime::now();
            }
            n.observed = seen;
        })?;
        (change.before != change.after).then_some(change)
    }

    /// Notes what a node's greeting said.
    pub fn learn(&self, cluster: &ClusterName, node: &NodeName, facts: Facts) {
        self.update(cluster.as_str(), node.as_str(), |n| {
            if n.facts.as_deref() != Some(&facts) {
                n.facts = Some(Arc::new(facts));
            }
        });
    }

    /// Changes one node; publishes only if anything that others can see became different.
    fn update(&self, cluster: &str, node: &str, change: impl FnOnce(&mut Node)) -> Option<Change> {
        let mut told = None;
        self.replace(|old| {
            let old_cluster = old.cluster(cluster)?;
            let index = old_cluster.nodes.iter().position(|n| n.name.as_str() == node)?;
            let before = &old_cluster.nodes[index];
            let mut after = before.clone();
            change(&mut after);
            told = Some(Change { before: in_words(before), after: in_words(&after) });
            let same = before.desired == after.desired
                && before.observed == after.observed
                && before.facts == after.facts;
            if same {
                return None;
            }
            let mut new = old.clone();
            let mut new_cluster = Cluster::clone(old_cluster);
            new_cluster.nodes[index] = after;
            new.clusters.insert(new_cluster.name.clone(), Arc::new(new_cluster));
            Some(new)
        });
        told
    }

    fn replace(&self, make: impl FnOnce(&Topology) -> Option<Topology>) {
        let _one_writer = self.writing.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(new) = make(&self.current.load()) {
            self.current.store(Arc::new(new));
            self.changed.send_modify(|n| *n += 1);
        }
    }
}

fn in_words(node: &Node) -> String {
    format!("{}, {} ({})", node.desired.as_str(), node.observed.word(), node.observed.detail())
}
