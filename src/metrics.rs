//! What is counted, and the text in which Prometheus reads it.
//!
//! The data path holds the counters of its service ([`ServiceMetrics`]) and adds to them without a lock or a
//! look-up. States, such as whether a node is up, are not kept here: whoever asks for the text brings them along as
//! they are at that moment ([`Observations`]), so that they can not grow stale.

use std::sync::atomic::AtomicU64;
use std::sync::{Arc, Mutex, PoisonError};

use prometheus_client::encoding::{EncodeLabelSet, text};
use prometheus_client::metrics::counter::Counter as PrometheusCounter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge as PrometheusGauge;
use prometheus_client::metrics::info::Info;
use prometheus_client::registry::{Registry, Unit};

use crate::ids::{ClusterName, NodeName, ServiceName};

/// The media type of [`Metrics::encode`].
pub const CONTENT_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// A number that only grows. Cheap to clone; clones count together.
pub type Counter = PrometheusCounter<u64, AtomicU64>;

/// A number that goes up and down. Cheap to clone; clones count together.
pub type Gauge = PrometheusGauge;

/// The counters of one service, found once and then used without any look-up.
#[derive(Debug, Clone)]
pub struct ServiceMetrics {
    /// Clients accepted.
    pub accepted: Counter,
    /// Sessions now.
    pub open: Gauge,
    /// Replies that were relayed to their end.
    pub statements: Counter,
    /// Bytes sent to nodes.
    pub bytes_to_nodes: Counter,
    /// Bytes sent to clients.
    pub bytes_to_clients: Counter,
}

/// The states that are not counted but looked at when the text is made.
#[derive(Debug, Clone, Default)]
pub struct Observations {
    /// Every node of every cluster.
    pub nodes: Vec<NodeObservation>,
    /// Every cluster.
    pub clusters: Vec<ClusterObservation>,
    /// Every cluster whose accounts were read at least once.
    pub accounts: Vec<AccountObservation>,
}

/// One node, as it is now.
#[derive(Debug, Clone)]
pub struct NodeObservation {
    /// Its cluster.
    pub cluster: ClusterName,
    /// Its name.
    pub node: NodeName,
    /// Whether the last probe found it fit to serve.
    pub up: bool,
    /// What it serves: `writer`, `reader` or `none`.
    pub role: &'static str,
    /// What an operator wants of it: `enabled`, `drain` or `maintenance`.
    pub desired: &'static str,
    /// Sessions on it.
    pub sessions: u32,
    /// Links to it, in use or idle.
    pub links: u32,
    /// Links that wait for the next session.
    pub idle_links: u32,
    /// Sessions that wait for a link.
    pub waiting: u32,
    /// Whether its accounts differ from those that were read from another node; none: it is not known.
    pub accounts_differ: Option<bool>,
}

/// One cluster, as it is now.
#[derive(Debug, Clone)]
pub struct ClusterObservation {
    /// Its name.
    pub cluster: ClusterName,
    /// Whether a person must look at it.
    pub alarm: bool,
    /// Sessions that wait because there is no node for them.
    pub held: u32,
}

/// The accounts of one cluster, as they are now.
#[derive(Debug, Clone)]
pub struct AccountObservation {
    /// The cluster.
    pub cluster: ClusterName,
    /// Seconds since they were read.
    pub age_seconds: f64,
    /// How many there are.
    pub accounts: u64,
    /// Whether the last attempt to read them failed.
    pub failing: bool,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct OfService {
    service: Arc<str>,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct OfEnd {
    service: Arc<str>,
    outcome: &'static str,
    blame: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct OfReason {
    reason: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct OfCluster {
    cluster: Arc<str>,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct OfNode {
    cluster: Arc<str>,
    node: Arc<str>,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct OfHandover {
    cluster: Arc<str>,
    what: &'static str,
    ending: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct OfRole {
    cluster: Arc<str>,
    node: Arc<str>,
    role: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct OfDesired {
    cluster: Arc<str>,
    node: Arc<str>,
    state: &'static str,
}

/// A gauge of fractions, for ages.
type Fractions = PrometheusGauge<f64, AtomicU64>;

/// What is filled anew for every text.
#[derive(Debug, Clone, Default)]
struct States {
    up: Family<OfNode, Gauge>,
    role: Family<OfRole, Gauge>,
    desired: Family<OfDesired, Gauge>,
    sessions: Family<OfNode, Gauge>,
    links: Family<OfNode, Gauge>,
    idle_links: Family<OfNode, Gauge>,
    waiting: Family<OfNode, Gauge>,
    accounts_differ: Family<OfNode, Gauge>,
    alarm: Family<OfCluster, Gauge>,
    held: Family<OfCluster, Gauge>,
    account_age: Family<OfCluster, Fractions>,
    accounts: Family<OfCluster, Gauge>,
    accounts_failing: Family<OfCluster, Gauge>,
}

/// All metrics of the process. Every name begins with `spillway_`.
#[derive(Debug)]
pub struct Metrics {
    accepted: Family<OfService, Counter>,
    open: Family<OfService, Gauge>,
    statements: Family<OfService, Counter>,
    bytes_to_nodes: Family<OfService, Counter>,
    bytes_to_clients: Family<OfService, Counter>,
    ended: Family<OfEnd, Counter>,
    refused: Family<OfReason, Counter>,
    links_opened: Family<OfNode, Counter>,
    links_reused: Family<OfNode, Counter>,
    links_failed: Family<OfNode, Counter>,
    sessions_moved: Family<OfCluster, Counter>,
    probes_failed: Family<OfNode, Counter>,
    writer_changes: Family<OfCluster, Counter>,
    handovers: Family<OfHandover, Counter>,
    states: States,
    /// The lock keeps two texts from filling the states at once. The data path never takes it.
    registry: Mutex<Registry>,
}

// === impl Metrics ===

impl Metrics {
    /// Registers everything. `version` is Spillway's own.
    pub fn new(version: &str) -> Self {
        let mut registry = Registry::with_prefix("spillway");
        let build = Info::new([("version", version.to_owned())]);
        registry.register("build", "The running Spillway", build);
        let metrics = Self {
            accepted: Family::default(),
            open: Family::default(),
            statements: Family::default(),
            bytes_to_nodes: Family::default(),
            bytes_to_clients: Family::default(),
            ended: Family::default(),
            refused: Family::default(),
            links_opened: Family::default(),
            links_reused: Family::default(),
            links_failed: Family::default(),
            sessions_moved: Family::default(),
            probes_failed: Family::default(),
            writer_changes: Family::default(),
            handovers: Family::default(),
            states: States::default(),
            registry: Mutex::default(),
        };
        let r = &mut registry;
        r.register("sessions_accepted", "Clients accepted", metrics.accepted.clone());
        r.register("sessions_open", "Sessions now", metrics.open.clone());
        r.register(
            "sessions_ended",
            "Sessions that ended, by outcome and by whose fault it was",
            metrics.ended.clone(),
        );
        r.register("logins_refused", "Logins that were refused, by reason", metrics.refused.clone());
        r.register("statements_relayed", "Replies relayed to their end", metrics.statements.clone());
        let to_nodes = metrics.bytes_to_nodes.clone();
        r.register_with_unit("sent_to_nodes", "Bytes sent to nodes", Unit::Bytes, to_nodes);
        let to_clients = metrics.bytes_to_clients.clone();
        r.register_with_unit("sent_to_clients", "Bytes sent to clients", Unit::Bytes, to_clients);
        r.register("links_opened", "Logins on nodes that succeeded", metrics.links_opened.clone());
        let reused = metrics.links_reused.clone();
        r.register("links_reused", "Sessions that were given the link of an earlier one", reused);
        r.register("sessions_moved", "Sessions that went on at another node", metrics.sessions_moved.clone());
        r.register("links_failed", "Logins on nodes that failed", metrics.links_failed.clone());
        r.register("probes_failed", "Probes that failed", metrics.probes_failed.clone());
        let changes = metrics.writer_changes.clone();
        r.register("writer_changes", "How often the cluster got another writer, or none", changes);
        let handovers = metrics.handovers.clone();
        r.register("handovers", "Changes of writers by Spillway, by how they ended", handovers);
        metrics.states.register(r);
        Self { registry: Mutex::new(registry), ..metrics }
    }

    /// The counters of a service, to be kept for as long as a session lives.
    pub fn service(&self, service: &ServiceName) -> ServiceMetrics {
        let labels = OfService { service: service.as_str().into() };
        ServiceMetrics {
            accepted: self.accepted.get_or_create_owned(&labels),
            open: self.open.get_or_create_owned(&labels),
            statements: self.statements.get_or_create_owned(&labels),
            bytes_to_nodes: self.bytes_to_nodes.get_or_create_owned(&labels),
            bytes_to_clients: self.bytes_to_clients.get_or_create_owned(&labels),
        }
    }

    /// Counts the end of a session, by its outcome's label and by whose fault it was.
    pub fn ended(&self, service: &ServiceName, outcome: &'static str, blame: &'static str) {
        self.ended.get_or_create(&OfEnd { service: service.as_str().into(), outcome, blame }).inc();
    }

    /// Counts a login that was refused, by the label of its fault.
    pub fn login_refused(&self, reason: &'static str) {
        self.refused.get_or_create(&OfReason { reason }).inc();
    }

    /// Counts a link that logged in.
    pub fn link_opened(&self, cluster: &ClusterName, node: &NodeName) {
        self.links_opened.get_or_create(&OfNode::new(cluster, node)).inc();
    }

    /// Counts a session that was given a link which served another one before.
    pub fn link_reused(&self, cluster: &ClusterName, node: &NodeName) {
        self.links_reused.get_or_create(&OfNode::new(cluster, node)).inc();
    }

    /// Counts a link that could not be made.
    pub fn link_failed(&self, cluster: &ClusterName, node: &NodeName) {
        self.links_failed.get_or_create(&OfNode::new(cluster, node)).inc();
    }

    /// Counts a session that went on at another node.
    pub fn session_moved(&self, cluster: &ClusterName) {
        self.sessions_moved.get_or_create(&OfCluster { cluster: cluster.as_str().into() }).inc();
    }

    /// Counts a probe that failed.
    pub fn probe_failed(&self, cluster: &ClusterName, node: &NodeName) {
        self.probes_failed.get_or_create(&OfNode::new(cluster, node)).inc();
    }

    /// Counts that a cluster got another writer, or none.
    pub fn writer_changed(&self, cluster: &ClusterName) {
        self.writer_changes.get_or_create(&OfCluster { cluster: cluster.as_str().into() }).inc();
    }

    /// Counts a handover that ended: `what` was done, and one word for how it ended.
    pub fn handed_over(&self, cluster: &ClusterName, what: &'static str, ending: &'static str) {
        self.handovers.get_or_create(&OfHandover { cluster: cluster.as_str().into(), what, ending }).inc();
    }

    /// Everything as OpenMetrics text of the type [`CONTENT_TYPE`], with the states as they are `now`.
    pub fn encode(&self, now: &Observations) -> String {
        let registry = self.registry.lock().unwrap_or_else(PoisonError::into_inner);
        self.states.fill(now);
        let mut out = String::new();
        // Writing to a string fails only where a metric fails to describe itself; what came before it is still good.
        let _ = text::encode(&mut out, &registry);
        out
    }
}

// === impl States ===

impl States {
    fn register(&self, r: &mut Registry) {
        r.register("node_up", "Whether the last probe found the node fit to serve", self.up.clone());
        r.register("node_role", "1 for what the node serves now", self.role.clone());
        r.register("node_desired", "1 for what an operator wants of the node", self.desired.clone());
        r.register("node_sessions", "Sessions on the node", self.sessions.clone());
        r.register("node_links", "Links to the node, in use or idle", self.links.clone());
        r.register("node_links_idle", "Links that wait for the next session", self.idle_links.clone());
        r.register("node_links_waiting", "Sessions that wait for a link", self.waiting.clone());
        let differ = self.accounts_differ.clone();
        r.register(
            "node_accounts_differ",
            "Whether the node's accounts differ from those that were read",
            differ,
        );
        let alarm = self.alarm.clone();
        r.register("cluster_alarm", "Whether a person must look at the cluster", alarm);
        let held = self.held.clone();
        r.register("cluster_sessions_held", "Sessions that wait for a node that can serve them", held);
        let age = self.account_age.clone();
        r.register_with_unit("accounts_age", "Time since accounts were read", Unit::Seconds, age);
        r.register("accounts", "Accounts that were read", self.accounts.clone());
        let failing = self.accounts_failing.clone();
        r.register("accounts_failing", "Whether the last attempt to read accounts failed", failing);
    }

    /// Forgets nodes and clusters that are no more, and takes those that are.
    fn fill(&self, now: &Observations) {
        self.up.clear();
        self.role.clear();
        self.desired.clear();
        self.sessions.clear();
        self.links.clear();
        self.idle_links.clear();
        self.waiting.clear();
        self.accounts_differ.clear();
        self.alarm.clear();
        self.held.clear();
        self.account_age.clear();
        self.accounts.clear();
        self.accounts_failing.clear();
        for seen in &now.nodes {
            let labels = OfNode::new(&seen.cluster, &seen.node);
            self.up.get_or_create(&labels).set(i64::from(seen.up));
            self.sessions.get_or_create(&labels).set(i64::from(seen.sessions));
            self.links.get_or_create(&labels).set(i64::from(seen.links));
            self.idle_links.get_or_create(&labels).set(i64::from(seen.idle_links));
            self.waiting.get_or_create(&labels).set(i64::from(seen.waiting));
            if let Some(differ) = seen.accounts_differ {
                self.accounts_differ.get_or_create(&labels).set(i64::from(differ));
            }
            let OfNode { cluster, node } = labels;
            let role = OfRole { cluster: Arc::clone(&cluster), node: Arc::clone(&node), role: seen.role };
            self.role.get_or_create(&role).set(1);
            self.desired.get_or_create(&OfDesired { cluster, node, state: seen.desired }).set(1);
        }
        for seen in &now.clusters {
            let labels = OfCluster { cluster: seen.cluster.as_str().into() };
            self.alarm.get_or_create(&labels).set(i64::from(seen.alarm));
            self.held.get_or_create(&labels).set(i64::from(seen.held));
        }
        for seen in &now.accounts {
            let labels = OfCluster { cluster: seen.cluster.as_str().into() };
            self.account_age.get_or_create(&labels).set(seen.age_seconds);
            self.accounts.get_or_create(&labels).set(i64::try_from(seen.accounts).unwrap_or(i64::MAX));
            self.accounts_failing.get_or_create(&labels).set(i64::from(seen.failing));
        }
    }
}

// === impl OfNode ===

impl OfNode {
    fn new(cluster: &ClusterName, node: &NodeName) -> Self {
        Self { cluster: cluster.as_str().into(), node: node.as_str().into() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn node(name: &str, up: bool) -> NodeObservation {
        NodeObservation {
            cluster: "shop".parse().unwrap(),
            node: name.parse().unwrap(),
            up,
            role: if up { "writer" } else { "none" },
            desired: "enabled",
            sessions: 7,
            links: 9,
            idle_links: 2,
            waiting: 0,
            accounts_differ: up.then_some(true),
        }
    }

    #[test]
    fn what_is_counted_is_in_the_text() {
        let metrics = Metrics::new("1.2.3");
        let (service, cluster, name) =
            ("app".parse().unwrap(), "shop".parse().unwrap(), "db1".parse::<NodeName>().unwrap());
        let of_app = metrics.service(&service);
        of_app.accepted.inc();
        of_app.open.inc();
        metrics.service(&service).statements.inc_by(5);
        of_app.bytes_to_nodes.inc_by(100);
        of_app.bytes_to_clients.inc_by(200);
        metrics.ended(&service, "completed", "none");
        metrics.login_refused("access_denied");
        metrics.link_opened(&cluster, &name);
        metrics.link_failed(&cluster, &name);
        metrics.probe_failed(&cluster, &name);
        metrics.writer_changed(&cluster);
        metrics.handed_over(&cluster, "switch", "rolled back");
        let clusters = vec![ClusterObservation { cluster: cluster.clone(), alarm: true, held: 3 }];
        let accounts = AccountObservation { cluster, age_seconds: 1.5, accounts: 12, failing: false };
        let text = metrics.encode(&Observations {
            nodes: vec![node("db1", true)],
            clusters,
            accounts: vec![accounts],
        });
        for line in [
            "spillway_build_info{version=\"1.2.3\"} 1",
            "spillway_writer_changes_total{cluster=\"shop\"} 1",
            "spillway_cluster_alarm{cluster=\"shop\"} 1",
            "spillway_cluster_sessions_held{cluster=\"shop\"} 3",
            "spillway_handovers_total{cluster=\"shop\",what=\"switch\",ending=\"rolled back\"} 1",
            "spillway_sessions_accepted_total{service=\"app\"} 1",
            "spillway_sessions_open{service=\"app\"} 1",
            "spillway_statements_relayed_total{service=\"app\"} 5",
            "spillway_sent_to_nodes_bytes_total{service=\"app\"} 100",
            "spillway_sent_to_clients_bytes_total{service=\"app\"} 200",
            "spillway_sessions_ended_total{service=\"app\",outcome=\"completed\",blame=\"none\"} 1",
            "spillway_logins_refused_total{reason=\"access_denied\"} 1",
            "spillway_links_opened_total{cluster=\"shop\",node=\"db1\"} 1",
            "spillway_links_failed_total{cluster=\"shop\",node=\"db1\"} 1",
            "spillway_probes_failed_total{cluster=\"shop\",node=\"db1\"} 1",
            "spillway_node_up{cluster=\"shop\",node=\"db1\"} 1",
            "spillway_node_role{cluster=\"shop\",node=\"db1\",role=\"writer\"} 1",
            "spillway_node_desired{cluster=\"shop\",node=\"db1\",state=\"enabled\"} 1",
            "spillway_node_sessions{cluster=\"shop\",node=\"db1\"} 7",
            "spillway_node_accounts_differ{cluster=\"shop\",node=\"db1\"} 1",
            "spillway_accounts_age_seconds{cluster=\"shop\"} 1.5",
            "spillway_accounts{cluster=\"shop\"} 12",
            "spillway_accounts_failing{cluster=\"shop\"} 0",
            "# EOF",
        ] {
            assert!(text.lines().any(|l| l == line), "{line}\nis not in\n{text}");
        }
    }

    #[test]
    fn a_node_that_is_gone_is_no_longer_in_the_text() {
        let metrics = Metrics::new("1");
        let both = Observations { nodes: vec![node("db1", true), node("db2", false)], ..Default::default() };
        assert!(metrics.encode(&both).contains("node=\"db2\"} 0"));
        let one = Observations { nodes: vec![node("db1", false)], ..Default::default() };
        let text = metrics.encode(&one);
        assert!(!text.contains("db2") && !text.contains("writer"), "{text}");
    }
}
