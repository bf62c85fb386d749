//! A planned change of the writer that was cut off, because Spillway was killed in the middle of it: nobody would take it
//! back, and the cluster would stay read-only.
//!
//! What is begun is kept before the first step, and given up after the last one. Whoever finds it at the start looks at the
//! nodes, and makes the old writer writable again if all of them answer and none could be, or could have been, the writer
//! since. Where the new one is writable already, what is left of the switch is done. Anything else is left to a person.

use std::fmt::Debug;
use std::time::{Duration, SystemTime};

use serde::{Deserialize, Serialize};
use tokio::time::{Instant, sleep};
use tracing::{error, info, warn};

use crate::config::{Cluster, ClusterKind};
use crate::ids::{ClusterName, NodeName};

use super::agreement::Agreement;
use super::decision::{Action, unfinished};
use super::node::Operated;
use super::procedure::{quorum, survey};
use super::sight::{Source, Survey};
use super::watch::rejoin;
use super::{Handover, Running, announce, operated};

/// Later nobody is helped by what was meant to be: operators have seen to the cluster by then, and what they did stays.
const STILL_MEANT: Duration = Duration::from_mins(15);

/// How far a clock may have been put back meanwhile.
const STEP_BACK: Duration = Duration::from_mins(5);

/// How soon a cluster that could not be looked at is looked at again.
const AGAIN: Duration = Duration::from_secs(2);

/// A planned change of a cluster's writer that was begun.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Begun {
    /// The writer before, which is made read-only.
    pub old: NodeName,
    /// The writer that was to be.
    pub new: NodeName,
    /// When it was begun, in seconds since 1970.
    pub at: u64,
}

/// Where changes that are begun are kept, so that they outlive the process.
pub trait Keeper: Debug + Send + Sync {
    /// Keeps that a change was begun, until it is [`ended`](Self::ended). Blocks on the disk.
    ///
    /// # Errors
    /// It could not be kept, and why.
    fn begun(&self, cluster: &ClusterName, begun: &Begun) -> Result<(), String>;

    /// Forgets it, unless another one was begun since. Blocks on the disk.
    ///
    /// # Errors
    /// It is still kept, and why.
    fn ended(&self, cluster: &ClusterName, begun: &Begun) -> Result<(), String>;

    /// Those that were kept when the process started.
    fn found(&self) -> Vec<(ClusterName, Begun)>;
}

impl Begun {
    /// Now.
    pub(super) fn now(old: &NodeName, new: &NodeName) -> Self {
        let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        Self { old: old.clone(), new: new.clone(), at: since.as_secs() }
    }

    fn is_still_meant(&self) -> bool {
        let at = SystemTime::UNIX_EPOCH + Duration::from_secs(self.at);
        // A clock that was put back a lot since says nothing.
        at.elapsed().map_or_else(|ahead| ahead.duration() < STEP_BACK, |age| age < STILL_MEANT)
    }
}

/// What is to be done about a change that was cut off.
#[derive(Debug, PartialEq, Eq)]
enum Judgement {
    /// The nodes do not tell enough yet, and why.
    Wait(String),
    /// Only this one of the two is writable, and the other one follows nobody else.
    Settled(NodeName),
    /// The new writer is the only one: the others are to follow it.
    Finish,
    /// No node is writable, and the old writer has all that there is.
    TakeBack,
    /// A person must look, and why.
    Leave(String),
}

/// From what the nodes tell; pure.
fn judge(kind: ClusterKind, survey: &Survey, begun: &Begun) -> Judgement {
    let touched = |node: &NodeName| [&begun.old, &begun.new].contains(&node);
    let writable: Vec<&NodeName> = survey.writable().map(|seen| &seen.node).collect();
    match writable[..] {
        [] => {}
        [one] if !touched(one) => {
            return Judgement::Leave(format!("{one} is writable, which was not to be the writer"));
        }
        [one] => {
            if let Some((node, why)) = survey.lost.iter().find(|(node, _)| touched(node)) {
                return Judgement::Wait(format!("{node}: {why}"));
            }
            if kind == ClusterKind::Replication && *one == begun.new {
                return Judgement::Finish;
            }
            return Judgement::Settled(one.clone());
        }
        [one, other, ..] => return Judgement::Leave(format!("{one} and {other} are writable")),
    }
    // One that does not answer may have become the writer since.
    if let Some((node, why)) = survey.lost.first() {
        return Judgement::Wait(format!("{node}: {why}"));
    }
    let (old, new) = match (survey.node(begun.old.as_str()), survey.node(begun.new.as_str())) {
        (Some(old), Some(new)) => (old, new),
        (None, _) => return Judgement::Leave(format!("{} is no node any more", begun.old)),
        (_, None) => return Judgement::Leave(format!("{} is no node any more", begun.new)),
    };
    // As a primary it had no source, and as one of a pair the other one only: somebody has given it another place.
    let is_expected = |source: &Source| kind == ClusterKind::MultiPrimary && source.is(new);
    if let Some(source) = old.sources.iter().find(|source| !is_expected(source)) {
        return Judgement::Leave(format!("{} replicates from {} by now", old.node, source.address));
    }
    // A member that is not discovered again yet may be the writer by now.
    let is_known = |source: &Source| survey.seen.iter().any(|server| source.is(server));
    for seen in &survey.seen {
        if let Some(source) = seen.sources.iter().find(|source| !is_known(source)) {
            return Judgement::Wait(format!(
                "{} replicates from {}, which is no node",
                seen.node, source.address
            ));
        }
    }
    for other in survey.seen.iter().filter(|seen| seen.node != old.node) {
        if !(old.gtids && other.gtids) {
            if !old.has_reached(other) {
                return Judgement::Wait(format!("{}: {}", old.node, old.backlog(other)));
            }
        } else if !old.applied.covers(&other.applied) || !other.own_beyond(old).is_empty() {
            return Judgement::Leave(format!("{} has transactions that {} lacks", other.node, old.node));
        }
    }
    Judgement::TakeBack
}

/// Takes back what was cut off in one cluster, however long its nodes take to answer.
pub(super) async fn run(handover: &Handover, cluster: &Cluster, begun: Begun) {
    let name = &cluster.name;
    warn!(cluster = %name, old = %begun.old, new = %begun.new, "a switch was cut off when Spillway ended");
    let (start, mut told) = (Instant::now(), None::<String>);
    let ending = loop {
        if !begun.is_still_meant() || start.elapsed() > STILL_MEANT {
            let why = told.map(|reason| format!(" ({reason})")).unwrap_or_default();
            // Not under the lock: another Spillway may have it.
            handover.forget(name, &begun).await;
            break Err(format!(
                "a switch from {} to {} was cut off, too long ago to be taken back or completed{why}",
                begun.old, begun.new
            ));
        }
        match attempt(handover, cluster, &begun).await {
            Ok(ending) => break ending,
            Err(reason) => {
                if told.as_ref() != Some(&reason) {
                    warn!(cluster = %name, reason, "what was cut off can not be taken back or completed yet");
                    told = Some(reason);
                }
                sleep(AGAIN).await;
            }
        }
    };
    let after = match ending {
        Ok(words) => {
            info!(cluster = %name, words, "what was cut off is settled");
            words
        }
        Err(reason) => {
            error!(cluster = %name, reason, "a person must look at this cluster");
            format!("left as it is: {reason}")
        }
    };
    handover.topology.hand_over(name, None, "switch was cut off", &after);
}

/// One attempt. The outer error: it is to be repeated.
async fn attempt(
    handover: &Handover,
    cluster: &Cluster,
    begun: &Begun,
) -> Result<Result<String, String>, String> {
    let _running = Running::new(&handover.running);
    let mut nodes = operated(cluster, &handover.topology);
    let result = look_and_mend(handover, cluster, begun, &mut nodes).await;
    for node in nodes {
        node.close().await;
    }
    result
}

async fn look_and_mend(
    handover: &Handover,
    cluster: &Cluster,
    begun: &Begun,
    nodes: &mut Vec<Operated>,
) -> Result<Result<String, String>, String> {
    let mut agreement = Agreement::reach(cluster, quorum(cluster, false)).await?;
    let seen = survey(nodes, cluster, &handover.topology).await;
    let judgement = judge(cluster.kind, &seen, begun);
    let result = match (judgement, agreement.confirm().await) {
        (Judgement::Wait(reason), _) | (_, Err(reason)) => Err(reason),
        (Judgement::Leave(reason), _) => Ok(Err(reason)),
        (Judgement::Settled(node), _) => match restart(nodes, begun).await {
            Ok(()) => Ok(Ok(format!("{node} is writable"))),
            Err(reason) => Ok(Err(reason)),
        },
        (Judgement::Finish, _) => finish(cluster, begun, nodes, &seen).await,
        (Judgement::TakeBack, _) => take_back(handover, cluster, begun, nodes).await,
    };
    if result.is_ok() {
        handover.forget(&cluster.name, begun).await;
    }
    agreement.release().await;
    result
}

/// Does what is left of a switch whose new writer is writable.
async fn finish(
    cluster: &Cluster,
    begun: &Begun,
    nodes: &mut [Operated],
    seen: &Survey,
) -> Result<Result<String, String>, String> {
    let (mut refused, mut failed, mut done) = (Vec::new(), Vec::new(), Vec::new());
    for (action, verdict) in unfinished(seen, &begun.old, &begun.new) {
        if let Err(reason) = verdict {
            refused.push(format!("not done: {action}: {reason}"));
            continue;
        }
        info!(cluster = %cluster.name, %action, "completing a switch that was cut off");
        let result = match &action {
            Action::Forget(node) => forget_sources(nodes, node).await,
            Action::Follow { node, primary } => rejoin(cluster, nodes, node, primary).await,
            _ => Ok(()),
        };
        match result {
            Ok(()) => done.push(action.to_string()),
            Err(reason) => failed.push(format!("{action}: {reason}")),
        }
    }
    failed.extend(seen.lost.iter().map(|(node, why)| format!("{node}: {why}")));
    if !failed.is_empty() {
        failed.extend(refused);
        return Err(failed.join("; "));
    }
    if !refused.is_empty() {
        return Ok(Err(format!("{} is writable; {}", begun.new, refused.join("; "))));
    }
    let done = if done.is_empty() { String::new() } else { format!("; completed: {}", done.join(", ")) };
    Ok(Ok(format!("{} is writable{done}", begun.new)))
}

async fn forget_sources(nodes: &mut [Operated], name: &NodeName) -> Result<(), String> {
    let node = nodes.iter_mut().find(|node| node.name() == name).ok_or("no such node")?;
    for source in node.look(true).await?.sources {
        node.forget(&source.name).await?;
    }
    Ok(())
}

async fn take_back(
    handover: &Handover,
    cluster: &Cluster,
    begun: &Begun,
    nodes: &mut [Operated],
) -> Result<Result<String, String>, String> {
    let old = nodes.iter_mut().find(|node| *node.name() == begun.old).ok_or("no such node")?;
    old.set_read_only(false).await?;
    announce(&handover.topology, cluster, &begun.old, true);
    let words = format!("taken back: {} is writable again", begun.old);
    Ok(restart(nodes, begun).await.map(|()| words))
}

/// Starts the replication of the node that was to be the writer, where it was stopped for that.
async fn restart(nodes: &mut [Operated], begun: &Begun) -> Result<(), String> {
    let Some(new) = nodes.iter_mut().find(|node| *node.name() == begun.new) else { return Ok(()) };
    let seen = new.look(true).await?;
    for source in seen.sources.iter().filter(|source| seen.read_only && source.io == "No") {
        new.start(&source.name).await?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::super::position::{Coordinates, Gtids};
    use super::super::sight::{Dialect, Seen, SemiSync};
    use super::*;

    fn seen(name: &str, read_only: bool, history: &str) -> Seen {
        let gtids = Gtids::of_state(history).expect("a state");
        Seen {
            node: name.parse().expect("name"),
            address: "127.0.0.1:3000".parse().expect("address"),
            priority: 0,
            enabled: true,
            dialect: Dialect::MariaDb,
            server_id: 1,
            uuid: String::new(),
            semi_sync: SemiSync::default(),
            parallel: false,
            read_only,
            logs_updates: true,
            gtids: true,
            applied: gtids.clone(),
            written: gtids.clone(),
            history: gtids,
            end: None,
            sources: Vec::new(),
        }
    }

    fn begun() -> Begun {
        Begun::now(&"a".parse().expect("name"), &"b".parse().expect("name"))
    }

    fn survey(seen: Vec<Seen>, lost: &[&str]) -> Survey {
        let lost = lost.iter().map(|name| (name.parse().expect("name"), "no answer".to_owned())).collect();
        Survey { seen, lost, ..Survey::default() }
    }

    fn both() -> Vec<Seen> {
        vec![seen("a", true, "0-1-7"), Seen { server_id: 2, ..seen("b", true, "0-1-7") }]
    }

    /// A node that replicates from the server of this number.
    fn following(node: Seen, server_id: u32) -> Seen {
        let source = Source { server_id, by_gtid: true, ..Source::default() };
        Seen { sources: vec![source], ..node }
    }

    const REPLICATION: ClusterKind = ClusterKind::Replication;
    const PAIR: ClusterKind = ClusterKind::MultiPrimary;

    fn of(survey: &Survey) -> Judgement {
        judge(REPLICATION, survey, &begun())
    }

    #[test]
    fn only_what_is_certain_is_taken_back() {
        assert_eq!(of(&survey(both(), &[])), Judgement::TakeBack);
        // The new one may have been promoted before all ended, and any other one since.
        let alone = || vec![seen("a", true, "0-1-7")];
        assert!(matches!(of(&survey(alone(), &["b"])), Judgement::Wait(_)));
        assert!(matches!(of(&survey(both(), &["c"])), Judgement::Wait(_)));
        let ahead = vec![seen("a", true, "0-1-7"), seen("b", true, "0-1-9")];
        assert!(matches!(of(&survey(ahead, &[])), Judgement::Leave(_)));
        assert!(matches!(of(&survey(vec![seen("b", true, "0-1-7")], &[])), Judgement::Leave(_)));
        assert!(matches!(of(&survey(alone(), &[])), Judgement::Leave(_)));
        // Another one wrote since, the same number as the old one.
        let mut wrote = both();
        wrote.push(Seen { server_id: 3, ..seen("c", true, "0-1-6,0-3-7") });
        assert!(matches!(of(&survey(wrote, &[])), Judgement::Leave(_)));
    }

    #[test]
    fn a_node_that_follows_somebody_by_now_is_left_alone() {
        let [a, b] = <[Seen; 2]>::try_from(both()).expect("two nodes");
        for (kind, source, expected) in [
            (REPLICATION, 3, "a replicates from"),
            (REPLICATION, 2, "a replicates from"),
            (PAIR, 3, "a replicates from"),
        ] {
            let judged = judge(kind, &survey(vec![following(a.clone(), source), b.clone()], &[]), &begun());
            let Judgement::Leave(reason) = judged else { panic!("{judged:?}") };
            assert!(reason.starts_with(expected), "{reason}");
        }
        // The other one follows somebody who is not known yet.
        let unknown = survey(vec![a.clone(), following(b.clone(), 9)], &[]);
        assert!(matches!(of(&unknown), Judgement::Wait(_)));
        assert_eq!(of(&survey(vec![a.clone(), following(b.clone(), 1)], &[])), Judgement::TakeBack);
        let pair = survey(vec![following(a, 2), b], &[]);
        assert_eq!(judge(PAIR, &pair, &begun()), Judgement::TakeBack);
    }

    #[test]
    fn a_pair_without_gtids_is_compared_by_coordinates() {
        let at = |offset| Some(Coordinates { file: "binlog.000001".to_owned(), offset });
        let judged = |executed| {
            let [mut a, mut b] = <[Seen; 2]>::try_from(both()).expect("two nodes");
            (a.gtids, b.gtids, b.end) = (false, false, at(100));
            a.sources = vec![Source { server_id: 2, executed: at(executed), ..Source::default() }];
            judge(PAIR, &survey(vec![a, b], &[]), &begun())
        };
        assert_eq!(judged(100), Judgement::TakeBack);
        assert!(matches!(judged(99), Judgement::Wait(_)));
    }

    #[test]
    fn nothing_is_made_writable_beside_a_writable_node() {
        let promoted = vec![seen("a", true, "0-1-7"), seen("b", false, "0-1-7")];
        assert_eq!(of(&survey(promoted.clone(), &["c"])), Judgement::Finish);
        let settled = Judgement::Settled("b".parse().expect("name"));
        assert_eq!(judge(PAIR, &survey(promoted.clone(), &[]), &begun()), settled);
        assert!(matches!(of(&survey(vec![promoted[1].clone()], &["a"])), Judgement::Wait(_)));
        let by_hand = vec![seen("a", false, "0-1-7"), seen("b", true, "0-1-7")];
        assert_eq!(of(&survey(by_hand, &["c"])), Judgement::Settled("a".parse().expect("name")));
        let mut another = both();
        another.push(seen("c", false, "0-1-7"));
        assert!(matches!(of(&survey(another.clone(), &[])), Judgement::Leave(_)));
        another[0].read_only = false;
        assert!(matches!(of(&survey(another, &[])), Judgement::Leave(_)));
    }

    #[test]
    fn what_is_long_ago_is_not_meant_any_more() {
        let now = begun();
        assert!(now.is_still_meant());
        assert!(!Begun { at: now.at - 16 * 60, ..now.clone() }.is_still_meant());
        // A clock that was set by a small step, and one that says nothing.
        assert!(Begun { at: now.at + 60, ..now.clone() }.is_still_meant());
        assert!(!Begun { at: now.at + 10 * 60, ..now }.is_still_meant());
    }
}
