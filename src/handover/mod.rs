//! Changes the writer of a cluster: planned, or because the old one is lost.
//!
//! | file | what |
//! |---|---|
//! | `position` | GTIDs and coordinates: who has more; pure |
//! | `sight` | what the nodes told about themselves; pure |
//! | `decision` | guards, the choice of the new writer, the plan; pure |
//! | `node` | the connection that looks at one node and changes it |
//! | `agreement` | the lock that lets one proxy at a time change a cluster |
//! | `quiesce` | lets the writer come to rest first |
//! | `procedure` | carries out a plan, or takes it back |
//! | `recovery` | takes back what was cut off when Spillway was killed |
//! | `report` | what was done, step by step |
//! | `watch` | promotes, fences and rejoins by itself, where that is configured |

mod agreement;
mod decision;
mod node;
mod position;
mod procedure;
mod quiesce;
mod recovery;
mod report;
mod sight;
mod watch;

use std::convert::Infallible;
use std::fmt::Debug;
use std::sync::Arc;

use arc_swap::ArcSwap;
use tokio::sync::watch::Sender;
use tokio::task::JoinSet;
use tracing::{error, info, warn};

use crate::config::{self, Cluster, ClusterKind, Config, Failover};
use crate::ids::{ClusterName, NodeName};
use crate::metrics::Metrics;
use crate::topology::{Desired, Evidence, Observed, TopologyStore};

pub use recovery::{Begun, Keeper};
pub use report::{Ending, Outcome, Report, Step};

use node::Operated;
use procedure::{Procedure, Wish, quorum};
use report::Steps;

/// Changes the writers of clusters.
#[derive(Debug)]
pub struct Handover {
    config: Arc<ArcSwap<Config>>,
    topology: Arc<TopologyStore>,
    metrics: Arc<Metrics>,
    keeper: Arc<dyn Keeper>,
    sessions: Arc<dyn Sessions>,
    /// How many procedures run.
    running: Sender<usize>,
}

/// The sessions of this Spillway, as far as a change of the writer waits for them.
pub trait Sessions: Debug + Send + Sync {
    /// How many run a transaction or a statement on a node. Where its cluster is quiesced, the others have been told to begin
    /// nothing there.
    fn running(&self, cluster: &ClusterName, node: &NodeName) -> usize;
}

/// Why the writer is to be another one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Cause {
    /// An operator wants it so.
    Planned,
    /// The old one is lost.
    Lost,
}

impl Handover {
    /// Changes nothing yet. `keeper`: keeps what is begun over the end of the process. `sessions`: those that a planned change
    /// waits for.
    pub fn new(
        config: Arc<ArcSwap<Config>>,
        topology: Arc<TopologyStore>,
        metrics: Arc<Metrics>,
        keeper: Arc<dyn Keeper>,
        sessions: Arc<dyn Sessions>,
    ) -> Arc<Self> {
        Arc::new(Self { config, topology, metrics, keeper, sessions, running: Sender::new(0) })
    }

    /// Starts a task for every cluster whose primary may be replaced by another node. Dropping the set ends them; what one
    /// of them has begun comes to its end.
    pub fn watch(self: &Arc<Self>, config: &Config) -> JoinSet<Infallible> {
        let mut tasks = JoinSet::new();
        let watched = |cluster: &&Cluster| {
            cluster.handover.failover != Failover::Off && refusal(cluster, Cause::Lost).is_none()
        };
        for cluster in config.clusters.values().filter(watched) {
            tasks.spawn(watch::run(Arc::clone(self), cluster.clone()));
        }
        tasks
    }

    /// Takes back what was cut off when Spillway ended before, in the background.
    pub fn recover(self: &Arc<Self>, config: &Config) {
        for (name, begun) in self.keeper.found() {
            let handover = Arc::clone(self);
            let known = config.clusters.get(&name).cloned();
            let cluster = known.ok_or_else(|| "the cluster is not configured any more".to_owned());
            let cluster = cluster.and_then(|cluster| match refusal(&cluster, Cause::Planned) {
                None => Ok(cluster),
                Some(reason) => Err(reason),
            });
            tokio::spawn(async move {
                match cluster {
                    Ok(cluster) => recovery::run(&handover, &cluster, begun).await,
                    Err(reason) => {
                        let (old, new) = (&begun.old, &begun.new);
                        error!(cluster = %name, %old, %new, reason, "a switch was cut off: a person must look at its nodes");
                        handover.forget(&name, &begun).await;
                    }
                }
            });
        }
    }

    /// Keeps that a planned change of the writer begins.
    async fn keep(&self, cluster: &ClusterName, begun: Begun) -> Result<(), String> {
        let (keeper, cluster) = (Arc::clone(&self.keeper), cluster.clone());
        let kept = tokio::task::spawn_blocking(move || keeper.begun(&cluster, &begun));
        kept.await.unwrap_or_else(|e| Err(e.to_string()))
    }

    /// This change has ended: it would not have to be taken back any more. Another one, begun since, stays kept.
    async fn forget(&self, cluster: &ClusterName, begun: &Begun) {
        let (keeper, name, begun) = (Arc::clone(&self.keeper), cluster.clone(), begun.clone());
        let forgotten = tokio::task::spawn_blocking(move || keeper.ended(&name, &begun));
        if let Err(reason) = forgotten.await.unwrap_or_else(|e| Err(e.to_string())) {
            warn!(%cluster, reason, "the state file still names a switch that has ended");
        }
    }

    /// Makes another node the writer while the old one lives: `node`, or the peer, or the best replica. Dropped in the
    /// middle, what was begun still comes to its end. None: there is no such cluster, or the process ends.
    pub async fn switch(
        self: &Arc<Self>,
        cluster: &str,
        node: Option<&str>,
        dry_run: bool,
    ) -> Option<Report> {
        self.begin(Cause::Planned, cluster, node, dry_run).await
    }

    /// Makes another node the writer because the old one is lost. As [`switch`](Self::switch) otherwise.
    pub async fn failover(
        self: &Arc<Self>,
        cluster: &str,
        node: Option<&str>,
        dry_run: bool,
    ) -> Option<Report> {
        self.begin(Cause::Lost, cluster, node, dry_run).await
    }

    async fn begin(
        self: &Arc<Self>,
        cause: Cause,
        cluster: &str,
        target: Option<&str>,
        dry_run: bool,
    ) -> Option<Report> {
        let cluster =
            self.config.load().clusters.iter().find(|(name, _)| name.as_str() == cluster)?.1.clone();
        if let Some(reason) = refusal(&cluster, cause) {
            return Some(Steps::new(&cluster.name).end(Ending::Refused(reason)));
        }
        let (handover, target) = (Arc::clone(self), target.map(str::to_owned));
        let task =
            tokio::spawn(async move { handover.run(cause, &cluster, target.as_deref(), dry_run, &[]).await });
        // It fails only when the process ends.
        task.await.ok()
    }

    /// `told`: how attempts before this one ended, which is not told again by an event.
    async fn run(
        &self,
        cause: Cause,
        cluster: &Cluster,
        target: Option<&str>,
        dry_run: bool,
        told: &[String],
    ) -> Report {
        let _running = Running::new(&self.running);
        let wish = Wish { target, dry_run };
        if !dry_run && told.is_empty() {
            let begun = format!("{} begun", cause.as_str());
            self.topology.hand_over(&cluster.name, None, "none", &begun);
        }
        let procedure = Procedure::new(self, cluster);
        let needed = quorum(cluster, cause == Cause::Lost);
        let report = match cause {
            Cause::Planned => procedure.run(decision::switch, needed, wish).await,
            Cause::Lost => procedure.run(decision::failover, needed, wish).await,
        };
        tell(cluster, cause, &report);
        if !dry_run {
            let after = report.ending.to_string();
            if !told.contains(&after) {
                self.topology.hand_over(&cluster.name, None, cause.as_str(), &after);
            }
            self.metrics.handed_over(&cluster.name, cause.as_str(), report.ending.as_str());
        }
        report
    }

    /// Waits until nothing runs that has begun.
    pub async fn settled(&self) {
        // The sender is this very value's, so that waiting cannot fail.
        let _ = self.running.subscribe().wait_for(|running| *running == 0).await;
    }
}

impl Cause {
    /// The word for such a change.
    fn as_str(self) -> &'static str {
        match self {
            Self::Planned => "switch",
            Self::Lost => "failover",
        }
    }
}

/// The nodes of a cluster: those of the configuration, and members that were discovered. What proxies agree by is the first
/// alone, which all of them know alike.
fn members(cluster: &Cluster, topology: &TopologyStore) -> Vec<config::Node> {
    let topology = topology.load();
    let known = topology.cluster(cluster.name.as_str());
    let discovered = known.into_iter().flat_map(|known| &known.nodes).filter(|node| {
        node.discovered.is_some() && node.stranger.is_none() && cluster.node(node.name.as_str()).is_none()
    });
    let guests = discovered.map(|node| config::Node {
        name: node.name.clone(),
        address: node.address.clone(),
        weight: node.weight,
        priority: node.priority,
    });
    cluster.nodes.iter().cloned().chain(guests).collect()
}

/// Connections to them, which are made when they are needed.
fn operated(cluster: &Cluster, topology: &TopologyStore) -> Vec<Operated> {
    members(cluster, topology).iter().map(|node| Operated::new(cluster, node)).collect()
}

/// Whether an operator wants a node to serve.
fn is_enabled(topology: &TopologyStore, cluster: &Cluster, node: &str) -> bool {
    let topology = topology.load();
    let known = topology.cluster(cluster.name.as_str()).and_then(|cluster| cluster.node(node));
    known.is_some_and(|node| node.desired == Desired::Enabled)
}

/// Tells what was just seen on a server whose role was changed, so that sessions follow at once, and wakes its probe, which
/// has the last word.
fn announce(topology: &TopologyStore, cluster: &Cluster, node: &NodeName, writable: bool) {
    let now = topology.load();
    let known = now.cluster(cluster.name.as_str()).and_then(|cluster| cluster.node(node.as_str()));
    if let Some(Observed::Up { readable, server_id, .. }) = known.map(|node| &node.observed) {
        let detail = if writable { "read_only=OFF" } else { "read_only=ON, by a handover" };
        let seen = Observed::up(writable, writable || *readable, detail).numbered(*server_id);
        topology.observe(&cluster.name, node, seen);
    }
    topology.suspect(&cluster.name, node, Evidence::Handover);
}

/// Counts a procedure that runs.
struct Running<'a>(&'a Sender<usize>);

impl<'a> Running<'a> {
    fn new(count: &'a Sender<usize>) -> Self {
        count.send_modify(|n| *n += 1);
        Self(count)
    }
}

impl Drop for Running<'_> {
    fn drop(&mut self) {
        self.0.send_modify(|n| *n -= 1);
    }
}

/// Why the writer of such a cluster can not be changed.
fn refusal(cluster: &Cluster, cause: Cause) -> Option<String> {
    if !matches!(cluster.kind, ClusterKind::Replication | ClusterKind::MultiPrimary) {
        return Some(format!("the writer of a cluster of kind {} is not changed by Spillway", cluster.kind));
    }
    if cause == Cause::Lost && cluster.handover.failover == Failover::Off {
        return Some("handover.failover is off".to_owned());
    }
    None
}

/// The last line of the log about a procedure.
fn tell(cluster: &Cluster, cause: Cause, report: &Report) {
    let (cluster, ending) = (&cluster.name, report.ending.as_str());
    let what = cause.as_str();
    match &report.ending {
        Ending::Planned | Ending::Done => info!(%cluster, what, ending, "handover ended"),
        Ending::Refused(reason) | Ending::RolledBack(reason) => {
            warn!(%cluster, what, ending, reason, "handover ended");
        }
        Ending::Incomplete(reason) | Ending::Stuck(reason) => {
            error!(%cluster, what, ending, reason, "handover ended: a person must look");
        }
    }
}
