//! Holds the current topology; readers take it without a lock, the control side replaces it whole.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Instant, SystemTime};

use arc_swap::ArcSwap;
use tokio::sync::watch;

use super::events::{Event, EventKind, Journal};
use super::{Cluster, Desired, Evidence, Facts, Node, Observed, Sighting, Topology};
use crate::config::{ClusterKind, Config};
use crate::ids::{ClusterName, NodeName};

/// Where the current topology stands.
#[derive(Debug)]
pub struct TopologyStore {
    current: ArcSwap<Topology>,
    /// Only the control side writes; this puts its writers in line.
    writing: Mutex<()>,
    changed: watch::Sender<u64>,
    journal: Journal,
}

/// Why a node was not made the writer.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NotWriter {
    /// There is no such node.
    #[error("there is no such node")]
    Unknown,
    /// The servers say who may write, and Spillway follows.
    #[error(
        "in a cluster of kind {0} the writer is the node that accepts writes; switch changes that where nodes replicate"
    )]
    Kind(ClusterKind),
    /// The node can not write now, and why.
    #[error("it can not be the writer now ({0})")]
    Unable(String),
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
            journal: Journal::default(),
        }
    }

    /// The current topology.
    pub fn load(&self) -> Arc<Topology> {
        self.current.load_full()
    }

    /// Tells of every replacement, and of nodes that are watched closely from now on. The number counts both.
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
                let comes_back = seen.is_up() && n.observed != Observed::Unknown;
                n.recovered = comes_back.then(Instant::now);
            }
            n.observed = seen;
        })?;
        (change.before != change.after).then_some(change)
    }

    /// Notes how much a node was written to while it was looked at first. Told before its first verdict, it helps to find out
    /// which node is the writer already.
    pub fn used(&self, cluster: &ClusterName, node: &NodeName, transactions: u64) {
        self.update(cluster.as_str(), node.as_str(), |n| n.used = Some(transactions));
    }

    /// Keeps what a probe saw, for people; it changes nothing.
    pub fn sight(&self, cluster: &ClusterName, node: &NodeName, sighting: Sighting) {
        let topology = self.current.load();
        if let Some(node) = topology.cluster(cluster.as_str()).and_then(|c| c.node(node.as_str())) {
            node.sighting.store(Some(Arc::new(sighting)));
        }
    }

    /// Tells that traffic had trouble with a node, from any thread and without a lock. It wakes the node's probe, which
    /// decides; the state of the node stays as it is.
    pub fn suspect(&self, cluster: &ClusterName, node: &NodeName, evidence: Evidence) {
        let topology = self.current.load();
        if let Some(node) = topology.cluster(cluster.as_str()).and_then(|c| c.node(node.as_str())) {
            node.suspicion.rouse(evidence);
            if evidence.is_silence() {
                self.watch(node);
            }
        }
    }

    /// Tells that a node did not answer a probe in time: connections to it are watched closely for a while.
    pub fn unanswered(&self, cluster: &ClusterName, node: &NodeName) {
        let topology = self.current.load();
        if let Some(node) = topology.cluster(cluster.as_str()).and_then(|c| c.node(node.as_str())) {
            self.watch(node);
        }
    }

    fn watch(&self, node: &Node) {
        if node.suspicion.watch(Instant::now()) {
            self.changed.send_modify(|count| *count += 1);
        }
    }

    /// Notes what a change of the writer came to, for people: how it was `before`, and how it is `after`. `node`: the one
    /// that it is about, if it is about one.
    pub fn hand_over(&self, cluster: &ClusterName, node: Option<&NodeName>, before: &str, after: &str) {
        let (cluster, node) = (cluster.clone(), node.cloned());
        let (before, after) = (before.to_owned(), after.to_owned());
        let (at, kind) = (SystemTime::now(), EventKind::Handover);
        self.journal.add(vec![Event { number: 0, at, cluster, node, kind, before, after, evidence: None }]);
        self.changed.send_modify(|count| *count += 1);
    }

    /// Nothing new begins on the writer of a cluster from now on, or it may again. What runs there goes on.
    pub fn quiesce(&self, cluster: &ClusterName, quiesced: bool) {
        self.replace(|old| {
            let mut cluster = Cluster::clone(old.cluster(cluster.as_str())?);
            cluster.quiesced = quiesced;
            cluster.settle(Instant::now());
            Some(old.with(cluster))
        });
    }

    /// Makes a node the writer of its cluster: new writes go there. Returns the writer before.
    ///
    /// # Errors
    /// The node can not be the writer.
    pub fn set_writer(&self, cluster: &str, node: &str) -> Result<Option<NodeName>, NotWriter> {
        let mut result = Err(NotWriter::Unknown);
        self.replace(|old| {
            let old_cluster = old.cluster(cluster)?;
            let found = old_cluster.node(node)?;
            result = match old_cluster.kind {
                ClusterKind::Replication | ClusterKind::MultiPrimary => {
                    Err(NotWriter::Kind(old_cluster.kind))
                }
                ClusterKind::Galera | ClusterKind::GroupReplication | ClusterKind::Static
                    if found.writable() =>
                {
                    Ok(old_cluster.writer().map(|writer| writer.name.clone()))
                }
                ClusterKind::Galera | ClusterKind::GroupReplication | ClusterKind::Static => {
                    Err(NotWriter::Unable(found.refusal()))
                }
            };
            result.is_ok().then(|| old.with_agreed(old_cluster, found.name.clone()))
        });
        result
    }

    /// Takes a writer that was agreed on before this process began, so that it stays where it was. Whether there is such
    /// a node, or may be once members were looked for.
    pub fn recall_writer(&self, cluster: &ClusterName, node: &NodeName) -> bool {
        let mut known = false;
        self.replace(|old| {
            let old_cluster = old.cluster(cluster.as_str())?;
            known = old_cluster.node(node.as_str()).is_some() || old_cluster.may_yet_join(node);
            known.then(|| old.with_agreed(old_cluster, node.clone()))
        });
        known
    }

    /// The events after the one with this number, oldest first; 0: all that are kept.
    pub fn events(&self, after: u64) -> Vec<Event> {
        self.journal.after(after)
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
                && before.facts == after.facts
                && before.used == after.used;
            // Time alone changes a role only where the role returns by time; most probes change nothing at all.
            if same && !old_cluster.rules.failback {
                return None;
            }
            let mut new_cluster = Cluster::clone(old_cluster);
            new_cluster.nodes[index] = after;
            new_cluster.settle(Instant::now());
            (!same || new_cluster.leadership != old_cluster.leadership).then(|| old.with(new_cluster))
        });
        told
    }

    pub(super) fn replace(&self, make: impl FnOnce(&Topology) -> Option<Topology>) {
        let _one_writer = self.writing.lock().unwrap_or_else(PoisonError::into_inner);
        let old = self.current.load_full();
        if let Some(new) = make(&old) {
            self.journal.note(&old, &new);
            self.current.store(Arc::new(new));
            self.changed.send_modify(|n| *n += 1);
        }
    }
}

fn in_words(node: &Node) -> String {
    format!("{}, {} ({})", node.desired.as_str(), node.observed.word(), node.observed.detail())
}
