//! The clusters as they are now: nodes, their desired and observed states, roles; one immutable snapshot.
//!
//! *Desired* is what an operator wants of a node, *observed* is what probes saw; neither ever
//! overwrites the other, and a node's role follows from both. A [`Topology`] is replaced as a
//! whole by its [`TopologyStore`]; whoever routes a session reads the latest one without a lock.

mod events;
mod guests;
mod leadership;
mod membership;
mod node;
mod store;
mod suspicion;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Instant;

use crate::config::{ClusterKind, Config, NodeChoice, RoleRules};
use crate::ids::{ClusterName, NodeName};

pub use events::{Event, EventKind};
pub use guests::Guests;
pub use leadership::Leadership;
pub use node::{Desired, Facts, Load, LoadGuard, Node, Observed, Role, Sighting};
pub use store::{Change, NotWriter, TopologyStore};
pub use suspicion::{Evidence, Suspicion};

/// A named set of nodes that replicate one data set.
#[derive(Debug, Clone)]
pub struct Cluster {
    /// Its name.
    pub name: ClusterName,
    /// How its nodes replicate.
    pub kind: ClusterKind,
    /// In the order of the configuration, then those that were discovered.
    pub nodes: Vec<Node>,
    /// What is kept for members that may be discovered; none: there is no discovery.
    pub guests: Option<Guests>,
    /// How roles are given.
    pub rules: RoleRules,
    /// Who serves writes.
    pub leadership: Leadership,
    /// Whether this Spillway is about to change the writer.
    pub quiesced: bool,
}

impl Cluster {
    /// The node of that name.
    pub fn node(&self, name: &str) -> Option<&Node> {
        self.nodes.iter().find(|n| n.name.as_str() == name)
    }

    /// Whether every node that was ever reached proved to take PROXY headers.
    pub fn takes_headers(&self) -> bool {
        let mut known = self.nodes.iter().filter_map(|node| node.facts.as_ref()).peekable();
        known.peek().is_some() && known.all(|facts| facts.takes_header)
    }

    /// The one node that serves writes now.
    pub fn writer(&self) -> Option<&Node> {
        self.agreed_node().filter(|_| self.leadership.serves)
    }

    /// The last writer, whether it serves now or not.
    pub(crate) fn agreed_node(&self) -> Option<&Node> {
        self.node(self.leadership.agreed.as_ref()?.as_str())
    }

    /// Whether nothing new is to begin on the writer, because it is about to be changed.
    pub fn is_quiesced(&self) -> bool {
        let by_others =
            |node: &Node| matches!(node.observed, Observed::Up { writable: true, quiesced: true, .. });
        self.quiesced || self.agreed_node().is_some_and(by_others)
    }

    /// Gives roles anew. A pure function of configuration, facts, the time and the writer before, so that every
    /// Spillway that sees the same gives the same.
    fn settle(&mut self, now: Instant) {
        let strangers = membership::strangers(self);
        let alarm = (!strangers.is_empty()).then(|| membership::alarm(&strangers));
        for node in &mut self.nodes {
            node.stranger = strangers.get(&node.name).cloned();
        }
        let count =
            |nodes: &mut dyn Iterator<Item = &Node>| u32::try_from(nodes.count()).map_or(f64::MAX, f64::from);
        let mut up = self.nodes.iter().filter(|node| node.takes_sessions());
        let mut strained = up.clone().filter(|node| is_strained(node));
        let spares = count(&mut strained) <= self.rules.max_ejected * count(&mut up);
        for node in &mut self.nodes {
            node.spared = spares && is_strained(node);
        }
        self.leadership = leadership::decide(self, now);
        self.leadership.serves &= !self.is_quiesced();
        let alarms: Vec<String> =
            [self.leadership.alarm.take(), alarm, membership::doubles(self)].into_iter().flatten().collect();
        self.leadership.alarm = (!alarms.is_empty()).then(|| alarms.join("; "));
    }

    /// What a node of this cluster serves now.
    pub fn role(&self, node: &Node) -> Role {
        if self.writer().is_some_and(|w| w.name == node.name) {
            Role::Writer
        } else if node.readable() {
            Role::Reader
        } else {
            Role::None
        }
    }

    /// The node for a new session, or why there is none.
    ///
    /// `any` takes the readable node with the fewest sessions for its weight; nodes of weight 0
    /// only when there is no other.
    pub fn choose(&self, choice: NodeChoice) -> Result<&Node, NoNode> {
        let chosen = match choice {
            NodeChoice::Writer => self.writer(),
            NodeChoice::Any => {
                let (now, slow_start) = (Instant::now(), self.rules.slow_start);
                let bearing = |node: &Node| node.bearing(now, slow_start);
                self.nodes
                    .iter()
                    .filter(|n| n.readable())
                    .min_by(|a, b| by_share((a, bearing(a)), (b, bearing(b))))
            }
        };
        chosen.ok_or_else(|| NoNode {
            cluster: self.name.clone(),
            wanted: match choice {
                NodeChoice::Writer => "writable",
                NodeChoice::Any => "healthy",
            },
            reasons: self.nodes.iter().map(Node::refusal).collect::<Vec<_>>().join("; "),
        })
    }
}

fn is_strained(node: &Node) -> bool {
    matches!(node.observed, Observed::Up { strain: Some(_), .. })
}

/// Compares (sessions + 1) / what the node bears without dividing.
fn by_share((a, bears_a): (&Node, u64), (b, bears_b): (&Node, u64)) -> std::cmp::Ordering {
    let cost = |node: &Node, other: u64| (u64::from(node.load.sessions()) + 1) * other;
    (a.weight == 0).cmp(&(b.weight == 0)).then_with(|| cost(a, bears_b).cmp(&cost(b, bears_a)))
}

/// No node of a cluster can take a session now.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("cluster {cluster} has no {wanted} node now ({reasons})")]
pub struct NoNode {
    /// The cluster.
    pub cluster: ClusterName,
    /// What kind of node was wanted.
    pub wanted: &'static str,
    /// Each node with its reason.
    pub reasons: String,
}

/// The lock that is held on the writer while it comes to rest, so that every Spillway sees it; its name as an expression of
/// SQL.
pub fn quiesce_lock(cluster: &ClusterName) -> String {
    format!("CONCAT('spillway-quiesce:', LEFT(SHA2('{cluster}', 256), 40))")
}

/// All clusters, as they are at one moment.
#[derive(Debug, Clone, Default)]
pub struct Topology {
    /// By name.
    pub clusters: BTreeMap<ClusterName, Arc<Cluster>>,
}

impl Topology {
    /// The first time at which connections to some node need not be watched closely any more, if there are any.
    pub fn watched_until(&self, now: Instant) -> Option<Instant> {
        let nodes = self.clusters.values().flat_map(|cluster| &cluster.nodes);
        nodes.filter_map(|node| node.suspicion.watched_until(now)).min()
    }

    /// The clusters of a configuration, with nothing observed yet.
    pub fn new(config: &Config) -> Self {
        let clusters = config
            .clusters
            .values()
            .map(|c| {
                let nodes = c.nodes.iter().map(Node::new).collect();
                let (name, kind, rules) = (c.name.clone(), c.kind, c.roles);
                let guests = c.discover.as_ref().map(|_| Guests::default());
                let leadership = Leadership::default();
                let cluster = Cluster { name, kind, nodes, guests, rules, leadership, quiesced: false };
                (c.name.clone(), Arc::new(cluster))
            })
            .collect();
        Self { clusters }
    }

    /// The cluster of that name.
    pub fn cluster(&self, name: &str) -> Option<&Arc<Cluster>> {
        self.clusters.get(name)
    }

    /// The same with another cluster of that name.
    fn with(&self, cluster: Cluster) -> Self {
        let mut new = self.clone();
        new.clusters.insert(cluster.name.clone(), Arc::new(cluster));
        new
    }

    /// The same where another writer was agreed on.
    fn with_agreed(&self, cluster: &Cluster, writer: NodeName) -> Self {
        let mut cluster = cluster.clone();
        cluster.leadership.agreed = Some(writer);
        cluster.settle(Instant::now());
        self.with(cluster)
    }

    /// The clusters of a new configuration: nodes that stay (same name and address) keep their
    /// states, facts and load.
    #[must_use]
    pub fn reconfigured(&self, config: &Config) -> Self {
        let mut new = Self::new(config);
        for (name, cluster) in &mut new.clusters {
            let Some(old) = self.clusters.get(name) else { continue };
            let cluster = Arc::make_mut(cluster);
            if old.kind == cluster.kind {
                cluster.leadership = old.leadership.clone();
                cluster.quiesced = old.quiesced;
            }
            cluster.keep_guests(old, config);
            for node in &mut cluster.nodes {
                let Some(known) = old.node(node.name.as_str()) else { continue };
                node.desired = known.desired;
                if known.address == node.address && old.kind == cluster.kind {
                    node.observed = known.observed.clone();
                    node.since = known.since;
                    node.recovered = known.recovered;
                    node.used = known.used;
                    node.facts.clone_from(&known.facts);
                    node.load = Arc::clone(&known.load);
                    node.suspicion = Arc::clone(&known.suspicion);
                    node.sighting = Arc::clone(&known.sighting);
                }
            }
            cluster.settle(Instant::now());
        }
        new
    }
}

#[cfg(test)]
mod tests;
