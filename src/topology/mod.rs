//! The clusters as they are now: nodes, their desired and observed states, roles; one immutable snapshot.
//!
//! *Desired* is what an operator wants of a node, *observed* is what probes saw; neither ever
//! overwrites the other, and a node's role follows from both. A [`Topology`] is replaced as a
//! whole by its [`TopologyStore`]; whoever routes a session reads the latest one without a lock.

mod store;

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::SystemTime;

use serde::{Deserialize, Serialize};

use crate::config::{self, ClusterKind, Config, NodeChoice};
use crate::ids::{ClusterName, NodeAddr, NodeName};
use crate::wire::Capabilities;

pub use store::{Change, TopologyStore};

/// What an operator wants of a node.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Desired {
    /// Serve.
    #[default]
    Enabled,
    /// Take no new sessions; those that are there may go on.
    Drain,
    /// Serve nothing; sessions are ended.
    Maintenance,
}

impl Desired {
    /// The word that operators use.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Enabled => "enabled",
            Self::Drain => "drain",
            Self::Maintenance => "maintenance",
        }
    }
}

impl std::str::FromStr for Desired {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "enabled" => Ok(Self::Enabled),
            "drain" => Ok(Self::Drain),
            "maintenance" => Ok(Self::Maintenance),
            other => Err(format!("unknown state {other:?}; expected enabled, drain or maintenance")),
        }
    }
}

/// What the last probe saw.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Observed {
    /// No probe has ended yet.
    Unknown,
    /// The node serves.
    Up {
        /// It accepts writes.
        writable: bool,
        /// It may answer reads: its data are recent enough.
        readable: bool,
        /// In words, such as `Synced, Primary` or `read_only=ON, replica threads run`.
        detail: String,
    },
    /// The node must not be used, and why.
    Down {
        /// In words, such as `wsrep_ready is OFF` or `connect: connection refused`.
        reason: String,
    },
}

impl Observed {
    /// One word for tables and metrics.
    pub fn word(&self) -> &'static str {
        match self {
            Self::Unknown => "unknown",
            Self::Up { .. } => "up",
            Self::Down { .. } => "down",
        }
    }

    /// The words behind the verdict.
    pub fn detail(&self) -> &str {
        match self {
            Self::Unknown => "not probed yet",
            Self::Up { detail, .. } => detail,
            Self::Down { reason } => reason,
        }
    }
}

/// What a node may serve now.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Role {
    /// The cluster's writer; it serves reads as well.
    Writer,
    /// Reads.
    Reader,
    /// Nothing.
    None,
}

impl Role {
    /// One word for tables and metrics.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Writer => "writer",
            Self::Reader => "reader",
            Self::None => "none",
        }
    }
}

/// What a login on a node tells about the server, as its greeting says it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Facts {
    /// Version text of the greeting.
    pub version: String,
    /// Everything the server can do.
    pub capabilities: Capabilities,
    /// Default collation id.
    pub collation: u8,
    /// The address that it sees Spillway's connections come from.
    pub sees: Option<IpAddr>,
    /// The name that it has for that address, if it told one.
    pub calls: Option<String>,
    /// Whether it proved to take a PROXY header for the address of the client.
    pub takes_header: bool,
}

/// How many sessions a node has now. Survives every snapshot in which the node does.
#[derive(Debug, Default)]
pub struct Load(AtomicU32);

impl Load {
    /// Sessions on the node now.
    pub fn sessions(&self) -> u32 {
        self.0.load(Ordering::Relaxed)
    }

    /// Counts one session until the returned value is dropped.
    pub fn enter(self: &Arc<Self>) -> LoadGuard {
        self.0.fetch_add(1, Ordering::Relaxed);
        LoadGuard(Arc::clone(self))
    }
}

/// One counted session of a node.
#[derive(Debug)]
pub struct LoadGuard(Arc<Load>);

impl Drop for LoadGuard {
    fn drop(&mut self) {
        self.0.0.fetch_sub(1, Ordering::Relaxed);
    }
}

/// One server of a cluster.
#[derive(Debug, Clone)]
pub struct Node {
    /// Its name within the cluster.
    pub name: NodeName,
    /// Where it listens.
    pub address: NodeAddr,
    /// Share of the sessions; 0: only when no other node is there.
    pub weight: u16,
    /// Preference as the writer; higher first.
    pub priority: u16,
    /// The operator's wish.
    pub desired: Desired,
    /// The probes' verdict.
    pub observed: Observed,
    /// When the verdict last changed.
    pub since: SystemTime,
    /// What its greeting said; none before the first login.
    pub facts: Option<Arc<Facts>>,
    /// Its sessions.
    pub load: Arc<Load>,
}

impl Node {
    fn new(from: &config::Node) -> Self {
        Self {
            name: from.name.clone(),
            address: from.address.clone(),
            weight: from.weight,
            priority: from.priority,
            desired: Desired::Enabled,
            observed: Observed::Unknown,
            since: SystemTime::now(),
            facts: None,
            load: Arc::default(),
        }
    }

    /// Whether new sessions may go here.
    pub fn takes_sessions(&self) -> bool {
        self.desired == Desired::Enabled && matches!(self.observed, Observed::Up { .. })
    }

    /// Why sessions that are here now must end; none if they may stay.
    pub fn must_be_left(&self) -> Option<String> {
        match (&self.observed, self.desired) {
            (Observed::Down { reason }, _) => Some(reason.clone()),
            (_, Desired::Maintenance) => Some("maintenance".to_owned()),
            _ => None,
        }
    }

    fn writable(&self) -> bool {
        self.takes_sessions() && matches!(self.observed, Observed::Up { writable: true, .. })
    }

    /// Whether it may answer reads now.
    pub fn is_readable(&self) -> bool {
        self.takes_sessions() && matches!(self.observed, Observed::Up { readable: true, .. })
    }

    /// Why no new session may go here, in words.
    fn refusal(&self) -> String {
        match (self.desired, &self.observed) {
            (Desired::Drain | Desired::Maintenance, _) => {
                format!("{}: {} by an operator", self.name, self.desired.as_str())
            }
            (_, Observed::Up { detail, .. }) => format!("{}: {detail}", self.name),
            (_, seen) => format!("{}: {}", self.name, seen.detail()),
        }
    }
}

/// A named set of nodes that replicate one data set.
#[derive(Debug, Clone)]
pub struct Cluster {
    /// Its name.
    pub name: ClusterName,
    /// How its nodes replicate.
    pub kind: ClusterKind,
    /// In the order of the configuration.
    pub nodes: Vec<Node>,
}

impl Cluster {
    /// The node of that name.
    pub fn node(&self, name: &str) -> Option<&Node> {
        self.nodes.iter().find(|n| n.name.as_str() == name)
    }

    /// The one node that serves writes: writable, of the highest priority, first by name.
    ///
    /// Whether every node that was ever reached proved to take PROXY headers.
    pub fn takes_headers(&self) -> bool {
        let mut known = self.nodes.iter().filter_map(|node| node.facts.as_ref()).peekable();
        known.peek().is_some() && known.all(|facts| facts.takes_header)
    }

    /// A pure function of configuration and observed facts, so that every Spillway that sees the
    /// same facts names the same node.
    pub fn writer(&self) -> Option<&Node> {
        self.nodes
            .iter()
            .filter(|n| n.writable())
            .min_by(|a, b| b.priority.cmp(&a.priority).then_with(|| a.name.cmp(&b.name)))
    }

    /// What a node of this cluster serves now.
    pub fn role(&self, node: &Node) -> Role {
        if self.writer().is_some_and(|w| w.name == node.name) {
            Role::Writer
        } else if node.is_readable() {
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
            NodeChoice::Any => self.nodes.iter().filter(|n| n.is_readable()).min_by(|a, b| by_share(a, b)),
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

/// Compares (sessions + 1) / weight without dividing.
fn by_share(a: &Node, b: &Node) -> std::cmp::Ordering {
    let cost = |n: &Node, other: &Node| (u64::from(n.load.sessions()) + 1) * u64::from(other.weight.max(1));
    (a.weight == 0).cmp(&(b.weight == 0)).then_with(|| cost(a, b).cmp(&cost(b, a)))
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

/// All clusters, as they are at one moment.
#[derive(Debug, Clone, Default)]
pub struct Topology {
    /// By name.
    pub clusters: BTreeMap<ClusterName, Arc<Cluster>>,
}

impl Topology {
    /// The clusters of a configuration, with nothing observed yet.
    pub fn new(config: &Config) -> Self {
        let clusters = config
            .clusters
            .values()
            .map(|c| {
                let nodes = c.nodes.iter().map(Node::new).collect();
                (c.name.clone(), Arc::new(Cluster { name: c.name.clone(), kind: c.kind, nodes }))
            })
            .collect();
        Self { clusters }
    }

    /// The cluster of that name.
    pub fn cluster(&self, name: &str) -> Option<&Arc<Cluster>> {
        self.clusters.get(name)
    }

    /// The clusters of a new configuration: nodes that stay (same name and address) keep their
    /// states, facts and load.
    #[must_use]
    pub fn reconfigured(&self, config: &Config) -> Self {
        let mut new = Self::new(config);
        for (name, cluster) in &mut new.clusters {
            let Some(old) = self.clusters.get(name) else { continue };
            for node in &mut Arc::make_mut(cluster).nodes {
                let Some(known) = old.node(node.name.as_str()) else { continue };
                node.desired = known.desired;
                if known.address == node.address && old.kind == cluster_kind(config, name) {
                    node.observed = known.observed.clone();
                    node.since = known.since;
                    node.facts.clone_from(&known.facts);
                    node.load = Arc::clone(&known.load);
                }
            }
        }
        new
    }
}

fn cluster_kind(config: &Config, name: &ClusterName) -> ClusterKind {
    config.clusters[name].kind
}

#[cfg(test)]
mod tests;
