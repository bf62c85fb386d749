//! The agreement of all proxies that one of them changes a cluster now: a lock on a majority of its nodes.
//!
//! The nodes themselves are the judges: of two sets that are both a majority, one node at least is in both, and a server
//! gives a lock to one connection only. The lock goes with its connection, so that a proxy that dies holds nobody up.

use std::time::Duration;

use tokio::task::JoinSet;

use crate::config::Cluster;
use crate::ids::{ClusterName, NodeName};

use super::node::{Operated, text};

/// A lock that is held on enough nodes of a cluster, until it is released or dropped.
#[derive(Debug)]
pub(super) struct Agreement {
    held: Vec<Operated>,
    needed: usize,
    lock: String,
    limit: Duration,
}

/// The lock's name as an expression. Names of locks have at most 64 characters, as names of clusters have.
pub(super) fn lock_of(cluster: &ClusterName) -> String {
    format!("CONCAT('spillway:', LEFT(SHA2('{cluster}', 256), 40))")
}

/// Whether nobody has the lock on a node, as far as this node knows.
///
/// # Errors
/// Somebody has it, or the node does not answer.
pub(super) async fn is_free(node: &mut Operated, cluster: &Cluster) -> Result<(), String> {
    let statement = format!("SELECT IS_USED_LOCK({}) IS NULL", lock_of(&cluster.name));
    match node.ask(&statement, cluster.connect_timeout).await {
        Ok(rows) if rows.first().is_some_and(|row| text(row, 0) == "1") => Ok(()),
        Ok(_) => Err(taken(node, cluster).await),
        Err(e) => Err(format!("{}: {e}", node.name())),
    }
}

/// Who has the lock, as far as the account may know: anybody can take a lock of any name.
async fn taken(node: &mut Operated, cluster: &Cluster) -> String {
    let lock = lock_of(&cluster.name);
    let statement = format!(
        "SELECT l.holder, p.USER FROM (SELECT IS_USED_LOCK({lock}) AS holder) l \
         LEFT JOIN information_schema.PROCESSLIST p ON p.ID = l.holder"
    );
    let rows = node.ask(&statement, cluster.connect_timeout).await.unwrap_or_default();
    let holder = rows.first().map(|row| (text(row, 0), text(row, 1)));
    let holder = match holder {
        Some((connection, user)) if !connection.is_empty() => {
            let user = if user.is_empty() { "another user".to_owned() } else { user };
            format!(" (connection {connection} of {user} has the lock)")
        }
        _ => String::new(),
    };
    format!("{}: another handover of this cluster runs{holder}", node.name())
}

/// A connection to every node, all made at the same time, in the order of the configuration.
async fn greeted(cluster: &Cluster) -> Vec<(Operated, Result<(), String>)> {
    let mut asked = JoinSet::new();
    for (place, node) in cluster.nodes.iter().enumerate() {
        let (mut node, limit) = (Operated::new(cluster, node), cluster.connect_timeout);
        asked.spawn(async move {
            let answer = node.ask("DO 1", limit).await;
            (place, node, answer.map(drop).map_err(|e| e.to_string()))
        });
    }
    let mut all = asked.join_all().await;
    all.sort_by_key(|(place, ..)| *place);
    all.into_iter().map(|(_, node, answer)| (node, answer)).collect()
}

impl Agreement {
    /// Takes the lock on at least `needed` nodes, without waiting for others. All proxies ask the nodes in the same order,
    /// and the first refusal ends it, so that two of them do not keep each other from a majority.
    ///
    /// # Errors
    /// Somebody else has it, or too few nodes answer.
    pub(super) async fn reach(cluster: &Cluster, needed: usize) -> Result<Self, String> {
        let (lock, limit) = (lock_of(&cluster.name), cluster.connect_timeout);
        let mut agreement = Self { held: Vec::new(), needed, lock, limit };
        let statement = format!("SELECT GET_LOCK({}, 0)", agreement.lock);
        let (mut reasons, mut is_taken) = (Vec::new(), false);
        for (mut node, answer) in greeted(cluster).await {
            let answer = match answer {
                Ok(()) => node.ask(&statement, limit).await.map_err(|e| e.to_string()),
                Err(reason) => Err(reason),
            };
            match answer {
                Ok(rows) if rows.first().is_some_and(|row| text(row, 0) == "1") => agreement.held.push(node),
                Ok(_) => {
                    reasons.push(taken(&mut node, cluster).await);
                    is_taken = true;
                    break;
                }
                Err(e) => reasons.push(format!("{}: {e}", node.name())),
            }
        }
        if agreement.held.len() >= needed && !is_taken {
            return Ok(agreement);
        }
        let reason = agreement.shortfall(&reasons);
        agreement.release().await;
        Err(reason)
    }

    fn shortfall(&self, reasons: &[String]) -> String {
        let (held, needed) = (self.held.len(), self.needed);
        format!("the lock is held on {held} nodes, {needed} are needed ({})", reasons.join("; "))
    }

    /// Makes sure that the lock is still held on enough nodes.
    pub(super) async fn confirm(&mut self) -> Result<(), String> {
        let statement = format!("SELECT IS_USED_LOCK({}) = CONNECTION_ID()", self.lock);
        let (mut kept, mut reasons) = (Vec::new(), Vec::new());
        for mut node in std::mem::take(&mut self.held) {
            match node.ask(&statement, self.limit).await {
                Ok(rows) if rows.first().is_some_and(|row| text(row, 0) == "1") => kept.push(node),
                Ok(_) => reasons.push(format!("{}: it was lost", node.name())),
                Err(e) => reasons.push(format!("{}: {e}", node.name())),
            }
        }
        self.held = kept;
        if self.held.len() >= self.needed { Ok(()) } else { Err(self.shortfall(&reasons)) }
    }

    /// Where it is held.
    pub(super) fn nodes(&self) -> impl Iterator<Item = &NodeName> {
        self.held.iter().map(Operated::name)
    }

    /// Gives the lock back on every node. Dropping it does the same a little later.
    pub(super) async fn release(self) {
        for node in self.held {
            node.close().await;
        }
    }
}
