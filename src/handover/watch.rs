//! One task for a cluster: promotes another node when the primary is lost, fences a node that comes back as a second
//! primary, and lets it follow again.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::{Instant, sleep};
use tracing::{debug, error, info, warn};

use crate::config::{Cluster, ClusterKind, Failover};
use crate::ids::NodeName;
use crate::topology::{Desired, Node, Observed, TopologyStore};

use super::agreement::Agreement;
use super::decision::{Action, Terms, failover, impostor, strays};
use super::node::Operated;
use super::procedure::{quorum, survey};
use super::report::Ending;
use super::sight::Survey;
use super::{Cause, Handover, Running, announce, operated};

/// How soon an attempt that failed is repeated at the earliest.
const AGAIN: Duration = Duration::from_secs(2);

/// Watches a cluster for ever.
pub(super) async fn run(handover: Arc<Handover>, cluster: Cluster) -> Infallible {
    let mut watch = Watch { handover, cluster, lost: None, not_before: Instant::now(), told: None };
    loop {
        sleep(watch.cluster.monitor.interval).await;
        watch.round().await;
    }
}

struct Watch {
    handover: Arc<Handover>,
    cluster: Cluster,
    /// Since when the primary is lost.
    lost: Option<Instant>,
    /// When something may be attempted again.
    not_before: Instant,
    /// The last alarm, which is not repeated.
    told: Option<String>,
}

/// What the probes' verdicts ask for.
#[derive(Debug, PartialEq, Eq)]
enum Need {
    Nothing,
    /// The primary does not answer.
    Promotion,
    /// Two nodes are writable, or one replicates from nobody.
    Mending,
}

impl Watch {
    async fn round(&mut self) {
        let need = self.need();
        if need != Need::Promotion {
            self.lost = None;
        }
        let due = match need {
            Need::Nothing => false,
            Need::Promotion => {
                let since = *self.lost.get_or_insert_with(Instant::now);
                since.elapsed() >= self.cluster.handover.failover_after
                    && self.cluster.handover.failover == Failover::Auto
            }
            Need::Mending => true,
        };
        if !due || Instant::now() < self.not_before {
            return;
        }
        // What was begun comes to its end, even if the configuration is replaced meanwhile.
        let (handover, cluster) = (Arc::clone(&self.handover), self.cluster.clone());
        let done = tokio::spawn(async move {
            if need == Need::Promotion {
                promote(&handover, &cluster).await
            } else {
                mend(&handover, &cluster).await
            }
        });
        let alarm = done.await.unwrap_or_else(|e| Err(e.to_string())).err();
        self.not_before = Instant::now() + AGAIN + jitter();
        if let Some(reason) = &alarm
            && self.told != alarm
        {
            error!(cluster = %self.cluster.name, reason, "a person must look at this cluster");
        }
        self.told = alarm;
    }

    fn need(&self) -> Need {
        let topology = self.handover.topology.load();
        let Some(cluster) = topology.cluster(self.cluster.name.as_str()) else { return Need::Nothing };
        let writable: Vec<&Node> = cluster.nodes.iter().filter(|node| is_writable(node)).collect();
        match writable[..] {
            [] => {}
            [_] => {
                let is_stray = |node: &Node| node.desired == Desired::Enabled && serves_nothing(node);
                let strays =
                    self.cluster.kind == ClusterKind::Replication && cluster.nodes.iter().any(is_stray);
                return if strays { Need::Mending } else { Need::Nothing };
            }
            _ => return Need::Mending,
        }
        let is_lost = |node: &&Node| matches!(node.observed, Observed::Down { .. });
        let primary = cluster.leadership.agreed.as_ref().and_then(|name| cluster.node(name.as_str()));
        let is_lost = match primary {
            // What an operator takes out of service is not lost.
            Some(primary) => is_lost(&primary) && primary.desired == Desired::Enabled,
            None => cluster.nodes.iter().any(|node| is_lost(&node)),
        };
        if is_lost { Need::Promotion } else { Need::Nothing }
    }
}

fn is_writable(node: &Node) -> bool {
    matches!(node.observed, Observed::Up { writable: true, .. })
}

fn serves_nothing(node: &Node) -> bool {
    matches!(node.observed, Observed::Up { writable: false, readable: false, .. })
}

/// A moment that differs from proxy to proxy.
fn jitter() -> Duration {
    let mut byte = [0];
    // Without random numbers they only meet more often.
    let _ = getrandom::fill(&mut byte);
    Duration::from_millis(u64::from(byte[0]) * 4)
}

/// Replaces the lost primary if nothing speaks against it. An error is what does.
async fn promote(handover: &Handover, cluster: &Cluster) -> Result<(), String> {
    let mut nodes = operated(cluster, &handover.topology);
    let seen = survey(&mut nodes, cluster, &handover.topology).await;
    close(nodes).await;
    if let Some(reason) = failover(&seen, None, Terms::of(cluster)).refusal() {
        return Err(format!("the primary is lost and not replaced: {reason}"));
    }
    match handover.run(Cause::Lost, cluster, None, false).await.ending {
        Ending::Stuck(reason) | Ending::Incomplete(reason) => Err(reason),
        // Another proxy may be at it; if not, the next attempt comes soon.
        _ => Ok(()),
    }
}

async fn close(nodes: Vec<Operated>) {
    for node in nodes {
        node.close().await;
    }
}

/// Fences the second primary, or lets a node follow that follows nobody, if there is something to do. An error is something
/// that only a person can mend.
async fn mend(handover: &Handover, cluster: &Cluster) -> Result<(), String> {
    let _running = Running::new(&handover.running);
    let mut nodes = operated(cluster, &handover.topology);
    let result = mend_one(&handover.topology, cluster, &mut nodes).await;
    close(nodes).await;
    result
}

async fn mend_one(
    topology: &TopologyStore,
    cluster: &Cluster,
    nodes: &mut Vec<Operated>,
) -> Result<(), String> {
    let agreed = topology.load().cluster(cluster.name.as_str()).and_then(|c| c.leadership.agreed.clone());
    if judge(cluster.kind, &survey(nodes, cluster, topology).await, agreed.as_ref())?.is_none() {
        return Ok(());
    }
    let agreement = match Agreement::reach(cluster, quorum(cluster, false)).await {
        Ok(agreement) => agreement,
        Err(reason) => {
            debug!(cluster = %cluster.name, reason, "another proxy may be at it");
            return Ok(());
        }
    };
    // Another proxy may just have done it.
    let result = match judge(cluster.kind, &survey(nodes, cluster, topology).await, agreed.as_ref()) {
        Ok(Some(action)) => carry_out(topology, cluster, nodes, &action).await,
        Ok(None) => Ok(()),
        Err(reason) => Err(reason),
    };
    agreement.release().await;
    result
}

/// The one thing to do now; an error if there is something that must not be done.
fn judge(kind: ClusterKind, seen: &Survey, agreed: Option<&NodeName>) -> Result<Option<Action>, String> {
    if seen.writable().count() > 1 {
        return match impostor(seen, agreed) {
            Some((node, _)) => Ok(Some(Action::Freeze(node.node.clone()))),
            None => Err("more than one node is writable, and none is known to be the primary".to_owned()),
        };
    }
    // Each of a pair follows the other one, and none of them anybody else.
    let strays = if kind == ClusterKind::Replication { strays(seen) } else { Vec::new() };
    let refused = strays.iter().find_map(|(action, verdict)| {
        let reason = verdict.as_ref().err()?;
        Some(format!("not done: {action}: {reason}"))
    });
    match (strays.into_iter().find(|(_, verdict)| verdict.is_ok()), refused) {
        (Some((action, _)), _) => Ok(Some(action)),
        (None, Some(reason)) => Err(reason),
        (None, None) => Ok(None),
    }
}

async fn carry_out(
    topology: &TopologyStore,
    cluster: &Cluster,
    nodes: &mut [Operated],
    action: &Action,
) -> Result<(), String> {
    let name = &cluster.name;
    let find = |wanted: &NodeName| nodes.iter().position(|node| node.name() == wanted);
    match action {
        Action::Freeze(node) => {
            warn!(cluster = %name, %node, "fencing a node that is writable beside the primary");
            let index = find(node).ok_or("no such node")?;
            nodes[index].set_read_only(true).await.map_err(|e| format!("{action}: {e}"))?;
            announce(topology, cluster, node, false);
            topology.hand_over(name, Some(node), "writable beside the primary", "fenced: read-only");
            info!(cluster = %name, %node, "the node is read-only");
        }
        Action::Follow { node, primary } => {
            info!(cluster = %name, %node, %primary, "rejoining a node that replicates from nobody");
            let index = find(node).ok_or("no such node")?;
            let replica =
                cluster.handover.replication.as_ref().ok_or("handover.replication_user is not set")?;
            let address = nodes[find(primary).ok_or("no such node")?].address().clone();
            // It is already; on MySQL, administrators are kept from writing there from now on, as after a switch.
            nodes[index].set_read_only(true).await.map_err(|e| format!("{action}: {e}"))?;
            nodes[index].follow(&address, replica).await.map_err(|e| format!("{action}: {e}"))?;
            let after = format!("replicates from {primary}");
            topology.hand_over(name, Some(node), "replicated from nobody", &after);
            info!(cluster = %name, %node, %primary, "the node replicates");
        }
        _ => {}
    }
    Ok(())
}
