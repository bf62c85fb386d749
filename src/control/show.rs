//! Answers made from what is known now.

use std::fmt::Write as _;
use std::sync::Arc;

use super::answer::{
    AccountRow, Answer, ClusterRow, CommandRow, EventRow, Explanation, ListenerRow, NodeRow, Rows,
    SessionRow, VersionRow, moment, moment_with_millis, seconds_since,
};
use super::change::no_node;
use super::invocation::{narrow, shown};
use super::operation::{Argument, Http, OPERATIONS, Operation};
use super::refusal::OperationError;
use super::{Control, Invocation, VERSION};
use crate::accounts::NodeAccounts;
use crate::grants::Account;
use crate::ids::ClusterName;
use crate::metrics::{AccountObservation, ClusterObservation, NodeObservation, Observations};
use crate::topology::{Cluster, Event, Node, Topology};

impl Control {
    /// Counters and states as OpenMetrics text of the type [`crate::metrics::CONTENT_TYPE`].
    pub fn metrics_text(&self) -> String {
        let topology = self.topology.load();
        let mut now = Observations::default();
        for cluster in topology.clusters.values() {
            now.nodes.extend(cluster.nodes.iter().map(|node| {
                let links = self.gates.links(&cluster.name, &node.name);
                NodeObservation {
                    cluster: cluster.name.clone(),
                    node: node.name.clone(),
                    up: node.observed.is_up(),
                    role: cluster.role(node).as_str(),
                    desired: node.desired.as_str(),
                    sessions: node.load.sessions(),
                    links: links.open,
                    idle_links: links.idle,
                    waiting: links.waiting,
                    accounts_differ: self.accounts_differ(cluster, node),
                }
            }));
            now.clusters.push(ClusterObservation {
                cluster: cluster.name.clone(),
                alarm: cluster.leadership.alarm.is_some(),
                held: self.held.of(&cluster.name),
            });
            if let Some(accounts) = self.accounts.cluster(&cluster.name) {
                now.accounts.push(AccountObservation {
                    cluster: cluster.name.clone(),
                    age_seconds: accounts.loaded_at.elapsed().map_or(0.0, |d| d.as_secs_f64()),
                    accounts: accounts.snapshot.accounts().count() as u64,
                    failing: self.accounts.failure(&cluster.name).is_some(),
                });
            }
        }
        self.metrics.encode(&now)
    }

    pub(super) fn show_clusters(&self) -> Answer {
        let topology = self.topology.load();
        let row = |cluster: &Arc<Cluster>| {
            let accounts = self.accounts.cluster(&cluster.name);
            ClusterRow {
                cluster: cluster.name.to_string(),
                kind: cluster.kind.as_str(),
                nodes: cluster.nodes.len(),
                up: cluster.nodes.iter().filter(|n| n.observed.is_up()).count(),
                writer: cluster.writer().map(|n| n.name.to_string()),
                alarm: cluster.leadership.alarm.clone(),
                accounts: accounts.as_ref().map_or(0, |a| a.snapshot.accounts().count()),
                accounts_age_seconds: accounts.as_ref().map(|a| seconds_since(a.loaded_at)),
                accounts_from: accounts.as_ref().map(|a| a.from.to_string()),
                problem: self.accounts.failure(&cluster.name).map(|failure| failure.reason),
                databases: accounts
                    .map(|a| a.snapshot.databases().map(str::to_owned).collect())
                    .unwrap_or_default(),
            }
        };
        Answer::Rows(Rows::Clusters(topology.clusters.values().map(row).collect()))
    }

    pub(super) fn show_nodes(&self, wanted: &Invocation) -> Result<Answer, OperationError> {
        let topology = self.topology.load();
        let clusters = Self::selected(&topology, wanted)?;
        let rows = clusters.iter().flat_map(|cluster| {
            cluster.nodes.iter().map(|node| (node, self.gates.links(&cluster.name, &node.name))).map(
                |(node, links)| NodeRow {
                    cluster: cluster.name.to_string(),
                    node: node.name.to_string(),
                    address: node.address.to_string(),
                    role: cluster.role(node).as_str(),
                    desired: node.desired.as_str(),
                    observed: node.observed.word(),
                    reason: node.reason(),
                    sessions: node.load.sessions(),
                    links: links.open,
                    idle_links: links.idle,
                    waiting: links.waiting,
                    since: moment(node.since),
                    version: node.facts.as_ref().map(|f| f.version.clone()),
                    accounts: self.accounts_of_node(cluster, node),
                    discovered: node.discovered.is_some(),
                },
            )
        });
        Ok(Answer::Rows(Rows::Nodes(rows.collect())))
    }

    pub(super) fn show_events(&self, wanted: &Invocation) -> Result<Answer, OperationError> {
        let topology = self.topology.load();
        let clusters = Self::selected(&topology, wanted)?;
        let row = |event: Event| EventRow {
            number: event.number,
            at: moment_with_millis(event.at),
            cluster: event.cluster.to_string(),
            node: event.node.map(|n| n.to_string()),
            what: event.kind.as_str(),
            before: event.before,
            after: event.after,
            evidence: event.evidence,
        };
        let events = self.topology.events(0).into_iter();
        let chosen = events.filter(|event| clusters.iter().any(|cluster| cluster.name == event.cluster));
        Ok(Answer::Rows(Rows::Events(chosen.map(row).collect())))
    }

    fn is_reference(&self, cluster: &Cluster, node: &Node) -> bool {
        self.accounts.cluster(&cluster.name).is_some_and(|accounts| accounts.from == node.name)
    }

    fn accounts_differ(&self, cluster: &Cluster, node: &Node) -> Option<bool> {
        match self.accounts.node(&cluster.name, &node.name) {
            Some(NodeAccounts::Differ(divergence)) => Some(!divergence.rows.is_empty()),
            Some(NodeAccounts::Same) => Some(false),
            Some(NodeAccounts::Unknown { .. }) => None,
            None => self.is_reference(cluster, node).then_some(false),
        }
    }

    /// How a node's accounts compare, in words.
    fn accounts_of_node(&self, cluster: &Cluster, node: &Node) -> Option<String> {
        match self.accounts.node(&cluster.name, &node.name) {
            Some(compared) => Some(compared.to_string()),
            None => self.is_reference(cluster, node).then(|| "read from it".to_owned()),
        }
    }

    pub(super) fn show_sessions(&self) -> Answer {
        let row = |entry: Arc<crate::session::registry::Entry>| {
            let place = entry.place();
            SessionRow {
                id: entry.id.0,
                user: place.user,
                client: entry.client.to_string(),
                tls: place.tls.as_ref().map(ToString::to_string),
                service: entry.service.to_string(),
                cluster: place.cluster.map(|c| c.to_string()),
                node: place.node.map(|n| n.to_string()),
                schema: place.schema,
                statements: entry.statements(),
                in_transaction: entry.in_transaction(),
                pin: entry.pin().map(|pin| pin.to_string()),
                age_seconds: seconds_since(entry.started),
            }
        };
        Answer::Rows(Rows::Sessions(self.registry.list().into_iter().map(row).collect()))
    }

    pub(super) fn show_accounts(&self, wanted: &Invocation) -> Result<Answer, OperationError> {
        let topology = self.topology.load();
        let mut rows = Vec::new();
        for cluster in Self::selected(&topology, wanted)? {
            if let Some(accounts) = self.accounts.cluster(&cluster.name) {
                rows.extend(accounts.snapshot.accounts().map(|account| account_row(&cluster.name, account)));
            }
        }
        Ok(Answer::Rows(Rows::Accounts(rows)))
    }

    pub(super) fn show_listeners(&self) -> Answer {
        let row = |status: &super::ListenerStatus| ListenerRow {
            address: status.address.clone(),
            service: status.service.to_string(),
            state: status.state,
        };
        Answer::Rows(Rows::Listeners(self.listeners.load().iter().map(row).collect()))
    }

    pub(super) fn show_version(&self) -> Answer {
        Answer::Version(VersionRow {
            version: VERSION,
            phase: self.lifecycle.phase().as_str(),
            sessions: self.registry.len(),
            clusters: self.topology.load().clusters.len(),
        })
    }

    /// The cluster of that name.
    pub(super) fn cluster<'a>(
        topology: &'a Topology,
        name: &str,
    ) -> Result<&'a Arc<Cluster>, OperationError> {
        topology.cluster(name).ok_or_else(|| {
            let known: Vec<&str> = topology.clusters.keys().map(ClusterName::as_str).collect();
            OperationError::not_found(format!("no cluster {}; there are: {}", shown(name), known.join(", ")))
        })
    }

    /// The node of that name.
    pub(super) fn node<'a>(cluster: &'a Cluster, name: &str) -> Result<&'a Node, OperationError> {
        cluster.node(name).ok_or_else(|| no_node(cluster.name.as_str(), name))
    }

    /// The one cluster that is asked for, or all.
    pub(super) fn selected<'a>(
        topology: &'a Topology,
        wanted: &Invocation,
    ) -> Result<Vec<&'a Arc<Cluster>>, OperationError> {
        match wanted.get("cluster") {
            Some(name) => Ok(vec![Self::cluster(topology, name)?]),
            None => Ok(topology.clusters.values().collect()),
        }
    }
}

fn account_row(cluster: &ClusterName, account: &Account) -> AccountRow {
    AccountRow {
        cluster: cluster.to_string(),
        user: account.user.clone(),
        host: account.host.clone(),
        plugins: account.authentication.iter().map(|way| way.plugin.clone()).collect(),
        locked: account.locked,
        default_role: Some(account.default_role.clone()).filter(|role| !role.is_empty()),
        problem: account.unreadable.clone(),
    }
}

/// The list of all commands, or an explanation of those that begin with the given words.
pub(super) fn help(wanted: &Invocation) -> Result<Answer, OperationError> {
    let Some(command) = wanted.get("command") else {
        let row = |o: &Operation| CommandRow { command: o.usage(), help: o.help };
        return Ok(Answer::Rows(Rows::Commands(OPERATIONS.iter().map(row).collect())));
    };
    let words: Vec<&str> = command.split_whitespace().collect();
    let (operations, _) = narrow(&words)?;
    Ok(Answer::Explained(operations.into_iter().map(explain).collect()))
}

fn explain(operation: &Operation) -> Explanation {
    Explanation {
        command: operation.usage(),
        help: operation.help,
        right: operation.right,
        api: operation.http.map(|http| request(operation, &http)),
        arguments: operation.arguments.iter().map(|a| (a.usage(), a.help)).collect(),
    }
}

/// The request that does the same: `PUT /v1/clusters/{cluster}/nodes/{node}/state {"state":"…"}`.
fn request(operation: &Operation, http: &Http) -> String {
    let mut text = format!("{} {}", http.method.as_str(), http.path);
    let outside: Vec<&Argument> = operation.arguments.iter().filter(|a| !http.in_path(a)).collect();
    if http.method.has_body() {
        let selector = http.selector.map(|(field, word)| format!("{field:?}:{word:?}"));
        let fields =
            selector.into_iter().chain(outside.iter().map(|a| format!("{:?}:\"{}\"", a.name, a.usage())));
        let _ = write!(text, " {{{}}}", fields.collect::<Vec<_>>().join(","));
    } else if let Some(first) = outside.first() {
        let _ = write!(text, "?{}=…", first.name);
    }
    text
}
