//! One task for a cluster: promotes another node when the primary is lost, fences a node that comes back as a second
//! primary, and lets it follow again.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::{Instant, sleep};
use tracing::{debug, error, info, warn};

use crate::config::{Cluster, ClusterKind, Failover};
use crate::ids::NodeName;
use crate::topology::{self, Desired, Node, Observed, TopologyStore};

use super::agreement::Agreement;
use super::decision::{Action, Terms, failover, impostor, strays, successors};
use super::node::Operated;
use super::procedure::{quorum, survey};
use super::report::Ending;
use super::sight::Survey;
use super::{Cause, Handover, Running, announce, operated};

/// How soon an attempt that failed is repeated at the earliest.
const AGAIN: Duration = Duration::from_secs(2);

/// How soon at the latest, where the same comes of it again and again.
const RARELY: Duration = Duration::from_secs(30);

/// How many alarms and endings are remembered, so that they are not told again.
const MEMORY: usize = 16;

/// Watches a cluster for ever.
pub(super) async fn run(handover: Arc<Handover>, cluster: Cluster) -> Infallible {
    let mut watch = Watch {
        handover,
        cluster,
        lost: None,
        last: Instant::now(),
        alarms: Vec::new(),
        failed: Failed::default(),
        calm: Calm { picture: Vec::new(), pause: AGAIN },
    };
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
    /// When the last attempt ended, and a moment.
    last: Instant,
    /// The alarms since all was well, which are not repeated.
    alarms: Vec<String>,
    failed: Failed,
    calm: Calm,
}

/// What was tried in vain since the primary is lost.
#[derive(Clone, Debug, Default)]
struct Failed {
    /// The nodes that could not be promoted, until all were tried.
    nodes: Vec<NodeName>,
    /// How the attempts ended.
    endings: Vec<String>,
    /// The node of which it is not known whether it was promoted.
    unclear: Option<NodeName>,
    /// How long the next attempt waits.
    pause: Duration,
}

/// How long it is waited until nodes that serve nothing are looked at again, while nothing changes.
#[derive(Debug)]
struct Calm {
    /// The nodes as they were at the last look.
    picture: Picture,
    pause: Duration,
}

/// What of the nodes says whether there may be something to do.
type Picture = Vec<(NodeName, Desired, bool, bool)>;

/// What came of an attempt.
#[derive(Debug, Default)]
struct Attempt {
    /// Something that a person must look at.
    alarm: Option<String>,
    /// What became of what was tried before.
    failed: Failed,
    /// Whether there was nothing that could be done, and will not be while the nodes stay as they are.
    is_idle: bool,
}

/// What the probes' verdicts ask for.
#[derive(Debug, PartialEq, Eq)]
enum Need {
    Nothing,
    /// The primary does not answer.
    Promotion,
    /// More than one node is writable.
    Fencing,
    /// A node serves nothing: perhaps it replicates from nobody.
    Rejoining,
}

impl Watch {
    async fn round(&mut self) {
        let (need, picture) = self.need();
        if need == Need::Nothing {
            self.alarms.clear();
        }
        if need != Need::Promotion {
            self.lost = None;
            self.failed = Failed::default();
        }
        let pause = match need {
            Need::Nothing => return,
            Need::Promotion => {
                let since = *self.lost.get_or_insert_with(Instant::now);
                if since.elapsed() < self.cluster.handover.failover_after
                    || self.cluster.handover.failover != Failover::Auto
                {
                    return;
                }
                self.failed.pause.max(AGAIN)
            }
            Need::Fencing => AGAIN,
            Need::Rejoining => self.calm.pause_for(picture),
        };
        if Instant::now() < self.last + pause {
            return;
        }
        // What was begun comes to its end, even if the configuration is replaced meanwhile.
        let (handover, cluster) = (Arc::clone(&self.handover), self.cluster.clone());
        let failed = self.failed.clone();
        let done = tokio::spawn(async move {
            if need == Need::Promotion {
                promote(&handover, &cluster, failed).await
            } else {
                mend(&handover, &cluster).await
            }
        });
        let attempt = done.await.unwrap_or_else(|e| Attempt::alarm(e.to_string()));
        self.failed = attempt.failed;
        self.last = Instant::now() + jitter();
        self.calm.note(attempt.is_idle);
        self.tell(attempt.alarm);
    }

    /// Tells an alarm once, until all is well again.
    fn tell(&mut self, alarm: Option<String>) {
        match alarm {
            None => self.alarms.clear(),
            Some(reason) => {
                if remember(&mut self.alarms, &reason) {
                    error!(cluster = %self.cluster.name, reason, "a person must look at this cluster");
                }
            }
        }
    }

    fn need(&self) -> (Need, Picture) {
        let topology = self.handover.topology.load();
        let known = topology.cluster(self.cluster.name.as_str());
        known.map_or((Need::Nothing, Picture::new()), |cluster| (need(cluster), picture(cluster)))
    }
}

/// Whether something was not there yet. It is from now on; the oldest goes when there are too many.
fn remember(list: &mut Vec<String>, words: &str) -> bool {
    if list.iter().any(|known| known == words) {
        return false;
    }
    if list.len() == MEMORY {
        list.remove(0);
    }
    list.push(words.to_owned());
    true
}

fn picture(cluster: &topology::Cluster) -> Picture {
    let of = |node: &Node| (node.name.clone(), node.desired, is_writable(node), serves_nothing(node));
    cluster.nodes.iter().map(of).collect()
}

fn need(cluster: &topology::Cluster) -> Need {
    // An operator took them out, and may let them be writable.
    let counts = |node: &&Node| node.desired != Desired::Maintenance;
    let (writable, aside): (Vec<&Node>, Vec<&Node>) =
        cluster.nodes.iter().filter(|node| is_writable(node)).partition(counts);
    match writable[..] {
        [] if aside.is_empty() => {}
        [] => return Need::Nothing,
        [_] => {
            let is_stray = |node: &Node| node.desired == Desired::Enabled && serves_nothing(node);
            let strays = cluster.kind == ClusterKind::Replication && cluster.nodes.iter().any(is_stray);
            return if strays { Need::Rejoining } else { Need::Nothing };
        }
        _ => return Need::Fencing,
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

impl Calm {
    /// From one look to the next. It is short again when something changed.
    fn pause_for(&mut self, picture: Picture) -> Duration {
        if picture != self.picture {
            *self = Self { picture, pause: AGAIN };
        }
        self.pause
    }

    /// Waits longer and longer while there is nothing to do.
    fn note(&mut self, is_idle: bool) {
        self.pause = if is_idle { (self.pause * 2).min(RARELY) } else { AGAIN };
    }
}

impl Failed {
    /// The one to try next: the best that did not fail yet, or the best one again.
    fn next<'a>(&self, successors: &'a [NodeName]) -> Option<&'a NodeName> {
        successors.iter().find(|node| !self.nodes.contains(node)).or(successors.first())
    }

    /// Notes that a node could not be promoted. When all failed, the next attempt takes its time.
    fn note(&mut self, node: &NodeName, successors: &[NodeName]) {
        self.nodes.push(node.clone());
        if successors.iter().all(|node| self.nodes.contains(node)) {
            self.nodes.clear();
            self.pause = (self.pause * 2).clamp(AGAIN * 2, RARELY);
        }
    }
}

impl Attempt {
    fn alarm(reason: String) -> Self {
        Self { alarm: Some(reason), ..Self::default() }
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

/// Replaces the lost primary if nothing speaks against it. The alarm is what does.
async fn promote(handover: &Handover, cluster: &Cluster, mut failed: Failed) -> Attempt {
    let mut nodes = operated(cluster, &handover.topology);
    let seen = survey(&mut nodes, cluster, &handover.topology).await;
    close(nodes).await;
    let refusal = failover(&seen, None, Terms::of(cluster)).refusal();
    let unclear = failed.unclear.as_ref().filter(|node| seen.node(node.as_str()).is_none());
    let refusal = refusal.or_else(|| Some(format!("{} does not answer, and may be writable", unclear?)));
    let successors = successors(&seen, Terms::of(cluster));
    let next = failed.next(&successors).cloned();
    let (None, Some(node)) = (&refusal, next) else {
        let reason = refusal.unwrap_or_else(|| "no node can be".to_owned());
        let alarm = Some(format!("the primary is lost and not replaced: {reason}"));
        return Attempt { alarm, failed, is_idle: false };
    };
    let report = handover.run(Cause::Lost, cluster, Some(node.as_str()), false, &failed.endings).await;
    remember(&mut failed.endings, &report.ending.to_string());
    let alarm = match &report.ending {
        Ending::Planned | Ending::Done => None,
        Ending::Incomplete(reason) => Some(reason.clone()),
        // Another proxy is at it; if not, the next attempt comes soon.
        Ending::Refused(_) if report.is_contended() => None,
        Ending::Refused(reason) | Ending::RolledBack(reason) => {
            failed.note(&node, &successors);
            Some(format!("the primary is lost, and {node} could not replace it: {reason}"))
        }
        Ending::Stuck(reason) => {
            failed.note(&node, &successors);
            failed.unclear = Some(node);
            Some(reason.clone())
        }
    };
    Attempt { alarm, failed, is_idle: false }
}

async fn close(nodes: Vec<Operated>) {
    for node in nodes {
        node.close().await;
    }
}

/// Fences the second primary, or lets a node follow that follows nobody, if there is something to do. The alarm is something
/// that only a person can mend.
async fn mend(handover: &Handover, cluster: &Cluster) -> Attempt {
    let _running = Running::new(&handover.running);
    let mut nodes = operated(cluster, &handover.topology);
    let result = mend_one(&handover.topology, cluster, &mut nodes).await;
    close(nodes).await;
    match result {
        Ok(is_idle) => Attempt { is_idle, ..Attempt::default() },
        Err(reason) => Attempt { is_idle: true, ..Attempt::alarm(reason) },
    }
}

/// Whether there is nothing to do.
async fn mend_one(
    topology: &TopologyStore,
    cluster: &Cluster,
    nodes: &mut Vec<Operated>,
) -> Result<bool, String> {
    let agreed = topology.load().cluster(cluster.name.as_str()).and_then(|c| c.leadership.agreed.clone());
    if judge(cluster.kind, &survey(nodes, cluster, topology).await, agreed.as_ref())?.is_none() {
        return Ok(true);
    }
    let agreement = match Agreement::reach(cluster, quorum(cluster, false)).await {
        Ok(agreement) => agreement,
        Err(reason) => {
            debug!(cluster = %cluster.name, reason, "another proxy may be at it");
            return Ok(false);
        }
    };
    // Another proxy may just have done it.
    let result = match judge(cluster.kind, &survey(nodes, cluster, topology).await, agreed.as_ref()) {
        Ok(Some(action)) => carry_out(topology, cluster, nodes, &action).await,
        Ok(None) => Ok(()),
        Err(reason) => Err(reason),
    };
    agreement.release().await;
    result.map(|()| false)
}

/// The one thing to do now; an error if there is something that must not be done.
fn judge(kind: ClusterKind, seen: &Survey, agreed: Option<&NodeName>) -> Result<Option<Action>, String> {
    if seen.contenders().count() > 1 {
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
            let joined = rejoin(cluster, nodes, node, primary).await;
            joined.map_err(|e| format!("{action}: {e}"))?;
            let after = format!("replicates from {primary}");
            topology.hand_over(name, Some(node), "replicated from nobody", &after);
            info!(cluster = %name, %node, %primary, "the node replicates");
        }
        _ => {}
    }
    Ok(())
}

/// Lets a read-only node replicate from the primary.
pub(super) async fn rejoin(
    cluster: &Cluster,
    nodes: &mut [Operated],
    node: &NodeName,
    primary: &NodeName,
) -> Result<(), String> {
    let find = |wanted: &NodeName| nodes.iter().position(|node| node.name() == wanted).ok_or("no such node");
    let replica = cluster.handover.replication.as_ref().ok_or("handover.replication_user is not set")?;
    let (index, primary) = (find(node)?, find(primary)?);
    let address = nodes[primary].address().clone();
    // It is already; on MySQL, administrators are kept from writing there from now on, as after a switch.
    nodes[index].set_read_only(true).await?;
    nodes[index].follow(&address, replica).await
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::config::Config;
    use crate::topology::Topology;

    fn store() -> TopologyStore {
        let text = r#"
            [cluster.shop]
            kind = "replication"
            nodes = { db1 = "127.0.0.1:1001", db2 = "127.0.0.1:1002", db3 = "127.0.0.1:1003" }
            monitor = { user = "m", password = "p" }
            [service.app]
            listen = ["127.0.0.1:4000"]
            route = "cluster:shop"
        "#;
        let config = Config::parse(text, Path::new("test.toml"), &|_| None).expect("valid configuration");
        TopologyStore::new(Topology::new(&config))
    }

    fn name(text: &str) -> NodeName {
        text.parse().expect("a name")
    }

    /// What is needed after the nodes were seen like this: none: down.
    fn needed(store: &TopologyStore, seen: [Option<(bool, bool)>; 3]) -> Need {
        for (index, seen) in seen.into_iter().enumerate() {
            let observed = seen.map_or_else(
                || Observed::down("refused"),
                |(writable, readable)| Observed::up(writable, readable, ""),
            );
            store.observe(&"shop".parse().expect("a name"), &name(&format!("db{}", index + 1)), observed);
        }
        need(store.load().cluster("shop").expect("the cluster"))
    }

    const WRITER: Option<(bool, bool)> = Some((true, true));
    const READER: Option<(bool, bool)> = Some((false, true));
    const IDLE: Option<(bool, bool)> = Some((false, false));

    #[test]
    fn what_is_needed_follows_from_the_probes() {
        let store = store();
        assert_eq!(needed(&store, [WRITER, READER, READER]), Need::Nothing);
        assert_eq!(needed(&store, [WRITER, READER, IDLE]), Need::Rejoining);
        assert_eq!(needed(&store, [WRITER, WRITER, IDLE]), Need::Fencing);
        assert_eq!(needed(&store, [WRITER, READER, READER]), Need::Nothing);
        assert_eq!(needed(&store, [None, READER, READER]), Need::Promotion);
        assert_eq!(needed(&store, [READER, READER, READER]), Need::Nothing, "as an operator wants it");
    }

    #[test]
    fn a_node_in_maintenance_asks_for_nothing() {
        let store = store();
        needed(&store, [WRITER, READER, READER]);
        store.set_desired("shop", "db1", Desired::Maintenance);
        assert_eq!(needed(&store, [WRITER, WRITER, READER]), Need::Nothing);
        assert_eq!(needed(&store, [WRITER, READER, None]), Need::Nothing);
        assert_eq!(needed(&store, [WRITER, WRITER, WRITER]), Need::Fencing, "two others");
    }

    #[test]
    fn another_node_is_tried_and_then_time_is_taken() {
        let both = [name("db2"), name("db3")];
        let mut failed = Failed::default();
        assert_eq!(failed.next(&both), Some(&both[0]));
        failed.note(&both[0], &both);
        assert_eq!((failed.next(&both), failed.pause), (Some(&both[1]), Duration::ZERO));
        failed.note(&both[1], &both);
        assert_eq!((failed.next(&both), failed.pause), (Some(&both[0]), AGAIN * 2));
        for _ in 0..10 {
            failed.note(&both[0], &both[..1]);
        }
        assert_eq!((failed.next(&both[..1]), failed.pause), (Some(&both[0]), RARELY));
        assert_eq!(failed.next(&[]), None);
    }

    #[test]
    fn what_is_told_is_not_told_again() {
        let mut list = Vec::new();
        assert!(remember(&mut list, "a") && remember(&mut list, "b"));
        assert!(!remember(&mut list, "a"));
        for number in 0..MEMORY {
            assert!(remember(&mut list, &number.to_string()));
        }
        assert_eq!(list.len(), MEMORY);
        assert!(remember(&mut list, "a"), "it is long ago");
    }

    #[test]
    fn nodes_that_stay_as_they_are_are_looked_at_rarely() {
        let of = |idle| vec![(name("db2"), Desired::Enabled, false, idle)];
        let mut calm = Calm { picture: Vec::new(), pause: AGAIN };
        let mut looks = |idle, is_idle| {
            let seconds = calm.pause_for(of(idle)).as_secs();
            calm.note(is_idle);
            seconds
        };
        assert_eq!([true; 6].map(|idle| looks(idle, true)), [2, 4, 8, 16, 30, 30]);
        assert_eq!(looks(false, true), 2, "something changed");
        assert_eq!(looks(false, false), 4);
        assert_eq!(looks(false, true), 2, "something was done");
    }
}
