//! Changes the writer of a cluster: planned, or because the old one is lost.
//!
//! | file | what |
//! |---|---|
//! | `position` | GTIDs and coordinates: who has more; pure |
//! | `sight` | what the nodes told about themselves; pure |
//! | `decision` | guards, the choice of the new writer, the plan; pure |
//! | `node` | the connection that looks at one node and changes it |
//! | `agreement` | the lock that lets one proxy at a time change a cluster |
//! | `procedure` | carries out a plan, or takes it back |
//! | `report` | what was done, step by step |
//! | `watch` | promotes, fences and rejoins by itself, where that is configured |

mod agreement;
mod decision;
mod node;
mod position;
mod procedure;
mod report;
mod sight;
mod watch;

use std::convert::Infallible;
use std::sync::Arc;

use arc_swap::ArcSwap;
use tokio::sync::watch::Sender;
use tokio::task::JoinSet;
use tracing::{error, info, warn};

use crate::config::{Cluster, ClusterKind, Config, Failover};
use crate::ids::NodeName;
use crate::topology::{Desired, Evidence, Observed, TopologyStore};

pub use report::{Ending, Outcome, Report, Step};

use procedure::{Procedure, Wish, quorum};
use report::Steps;

/// Changes the writers of clusters.
#[derive(Debug)]
pub struct Handover {
    config: Arc<ArcSwap<Config>>,
    topology: Arc<TopologyStore>,
    /// How many procedures run.
    running: Sender<usize>,
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
    /// Changes nothing yet.
    pub fn new(config: Arc<ArcSwap<Config>>, topology: Arc<TopologyStore>) -> Arc<Self> {
        Arc::new(Self { config, topology, running: Sender::new(0) })
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
            tokio::spawn(async move { handover.run(cause, &cluster, target.as_deref(), dry_run).await });
        // It fails only when the process ends.
        task.await.ok()
    }

    async fn run(&self, cause: Cause, cluster: &Cluster, target: Option<&str>, dry_run: bool) -> Report {
        let _running = Running::new(&self.running);
        let wish = Wish { target, dry_run };
        let procedure = Procedure::new(cluster, &self.topology);
        let needed = quorum(cluster, cause == Cause::Lost);
        let report = match cause {
            Cause::Planned => procedure.run(decision::switch, needed, wish).await,
            Cause::Lost => procedure.run(decision::failover, needed, wish).await,
        };
        tell(cluster, cause, &report);
        report
    }

    /// Waits until nothing runs that has begun.
    pub async fn settled(&self) {
        // The sender is this very value's, so that waiting cannot fail.
        let _ = self.running.subscribe().wait_for(|running| *running == 0).await;
    }
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
    let what = match cause {
        Cause::Planned => "switch",
        Cause::Lost => "failover",
    };
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
