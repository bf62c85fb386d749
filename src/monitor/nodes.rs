//! Compares the accounts of a cluster's nodes with those in force, which were read from one of them.
//!
//! They may differ by accident: `sql_log_bin = 0`, DML on the grant tables of a Galera cluster, a replica that stands
//! still. A node that differs keeps serving, but by its own accounts: see `AccountStore::of_node`. A node that is not up,
//! or cannot be asked, is unknown, and is taken for what it was when it was last asked.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use tokio::task::JoinSet;
use tokio::time::sleep;
use tracing::{debug, info, warn};

use super::Monitors;
use super::client::Client;
use super::loader::{LoadError, fingerprint, read};
use crate::accounts::{ClusterAccounts, Divergence, NodeAccounts};
use crate::config::{Cluster, Node};
use crate::ids::NodeName;
use crate::topology::Observed;

/// After a difference was seen, how long a replica has to catch up before it counts.
const SECOND_LOOK: Duration = Duration::from_secs(2);

/// Compares all nodes that are up, notes the outcome and logs what is new of it.
pub(super) async fn compare(monitors: Monitors, cluster: Cluster) {
    let Some(reference) = monitors.accounts.cluster(&cluster.name) else { return };
    let topology = monitors.topology.load();
    let known = topology.cluster(cluster.name.as_str());
    let mut verdicts = BTreeMap::new();
    let mut tasks = JoinSet::new();
    for node in cluster.nodes.iter().filter(|node| node.name != reference.from) {
        let observed = known.and_then(|c| c.node(node.name.as_str())).map(|node| &node.observed);
        let before = monitors.accounts.node(&cluster.name, &node.name);
        match observed {
            Some(Observed::Up { .. }) => {
                let (monitors, cluster) = (monitors.clone(), cluster.clone());
                let (node, reference) = (node.clone(), Arc::clone(&reference));
                tasks.spawn(async move {
                    let verdict = settle(&monitors, &cluster, &node, &reference, before).await;
                    (node.name, verdict)
                });
            }
            Some(seen) => {
                let reason = format!("{}: {}", seen.word(), seen.detail());
                verdicts.insert(node.name.clone(), unknown(reason, before.as_ref()));
            }
            None => {}
        }
    }
    verdicts.extend(
        tasks
            .join_all()
            .await
            .into_iter()
            .filter_map(|(node, verdict)| verdict.map(|verdict| (node, verdict))),
    );
    let before = monitors.accounts.store_nodes(&cluster.name, &verdicts);
    for (node, now) in &verdicts {
        report(&cluster, node, &reference.from, before.get(node), now);
    }
}

fn unknown(reason: String, before: Option<&NodeAccounts>) -> NodeAccounts {
    NodeAccounts::Unknown { reason, last: before.and_then(|before| before.own().cloned()) }
}

/// Logs a verdict that differs from the one before.
fn report(
    cluster: &Cluster,
    node: &NodeName,
    reference: &NodeName,
    before: Option<&NodeAccounts>,
    now: &NodeAccounts,
) {
    let words = now.to_string();
    if before.is_some_and(|before| before.to_string() == words) {
        return;
    }
    match now {
        NodeAccounts::Differ(_) => warn!(
            cluster = %cluster.name, %node, compared_with = %reference, difference = words,
            "a node differs from the accounts that were read"
        ),
        NodeAccounts::Same if matches!(before, Some(NodeAccounts::Differ(_))) => {
            info!(cluster = %cluster.name, %node, compared_with = %reference, "a node's accounts are the same again");
        }
        NodeAccounts::Same | NodeAccounts::Unknown { .. } => {
            debug!(cluster = %cluster.name, %node, accounts = words, "a node's accounts");
        }
    }
}

/// A verdict that may be told: a difference counts when it is still there after a moment, in which the accounts in force
/// were not outdated themselves. If they were, the next load tells more, and the verdict before stands.
async fn settle(
    monitors: &Monitors,
    cluster: &Cluster,
    node: &Node,
    reference: &ClusterAccounts,
    before: Option<NodeAccounts>,
) -> Option<NodeAccounts> {
    let look = async |before: Option<&NodeAccounts>| {
        let looked = look(monitors, cluster, node, reference, before).await;
        looked.unwrap_or_else(|e| unknown(e.to_string(), before))
    };
    let first = look(before.as_ref()).await;
    let is_news = match (&first, &before) {
        (NodeAccounts::Differ(_), Some(NodeAccounts::Differ(_))) => {
            before.as_ref().is_some_and(|b| b.to_string() != first.to_string())
        }
        (NodeAccounts::Differ(_), _) => true,
        _ => false,
    };
    if !is_news {
        return Some(first);
    }
    sleep(SECOND_LOOK).await;
    let Some(origin) = cluster.nodes.iter().find(|node| node.name == reference.from) else { return before };
    let connected = Client::connect(cluster, origin, cluster.connect_timeout).await;
    let Ok(mut client) = connected else { return before };
    let origin_now = fingerprint(&mut client, origin).await;
    client.close().await;
    if reference.fingerprint.is_some() && origin_now != reference.fingerprint {
        return before;
    }
    Some(look(Some(&first)).await)
}

/// Compares one node now. `before`: an earlier verdict, which saves reading if nothing changed since.
async fn look(
    monitors: &Monitors,
    cluster: &Cluster,
    node: &Node,
    reference: &ClusterAccounts,
    before: Option<&NodeAccounts>,
) -> Result<NodeAccounts, LoadError> {
    let mut client = Client::connect(cluster, node, cluster.connect_timeout).await?;
    let print = fingerprint(&mut client, node).await;
    let is_same = matches!((&print, &reference.fingerprint), (Some(a), Some(b))
        if a.tables == b.tables && a.variables == b.variables);
    let known = before.filter(|before| {
        matches!(before, NodeAccounts::Differ(divergence) if divergence.reference == reference.snapshot.digest()
            && print.is_some() && divergence.own.fingerprint == print)
    });
    let verdict = match known {
        _ if is_same => NodeAccounts::Same,
        Some(known) => known.clone(),
        None => {
            let own = read(monitors, &mut client, cluster, node, None).await?;
            let (here, there) = (reference.from.as_str(), node.name.as_str());
            let rows = reference.snapshot.rows_that_differ(&own.snapshot, here, there);
            let settings = reference.snapshot.settings_that_differ(&own.snapshot);
            if rows.is_empty() && settings.is_empty() {
                NodeAccounts::Same
            } else {
                let reference = reference.snapshot.digest();
                NodeAccounts::Differ(Arc::new(Divergence { rows, settings, own: Arc::new(own), reference }))
            }
        }
    };
    client.close().await;
    Ok(verdict)
}
