//! A planned change of the writer that was cut off, because Spillway was killed in the middle of it: nobody would take it
//! back, and the cluster would stay read-only.
//!
//! What is begun is kept before the first step, and given up after the last one. Whoever finds it at the start looks at the
//! nodes and makes the old writer writable again, unless a node is writable by then.

use std::fmt::Debug;
use std::time::{Duration, SystemTime};

use serde::{Deserialize, Serialize};
use tokio::time::sleep;
use tracing::{error, info, warn};

use crate::config::Cluster;
use crate::ids::{ClusterName, NodeName};

use super::agreement::Agreement;
use super::node::Operated;
use super::procedure::{quorum, survey};
use super::sight::Survey;
use super::{Handover, Running, announce, operated};

/// Later nobody is helped by what was meant to be: operators have seen to the cluster by then, and what they did stays.
const STILL_MEANT: Duration = Duration::from_mins(15);

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

    /// Forgets it. Blocks on the disk.
    ///
    /// # Errors
    /// It is still kept, and why.
    fn ended(&self, cluster: &ClusterName) -> Result<(), String>;

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
        // A clock that was put back since says nothing.
        at.elapsed().is_ok_and(|age| age < STILL_MEANT)
    }
}

/// What is to be done about a change that was cut off.
#[derive(Debug, PartialEq, Eq)]
enum Judgement {
    /// The nodes do not tell enough yet, and why.
    Wait(String),
    /// Nothing is left to be done: this node is writable.
    Settled(NodeName),
    /// No node is writable, and the old writer has all that there is.
    TakeBack,
    /// A person must look, and why.
    Leave(String),
}

/// From what the nodes tell; pure.
fn judge(survey: &Survey, begun: &Begun) -> Judgement {
    if let Some(writable) = survey.writable().next() {
        return Judgement::Settled(writable.node.clone());
    }
    // Only these two can be writable by what was done.
    let touched = |node: &NodeName| [&begun.old, &begun.new].contains(&node);
    if let Some((node, why)) = survey.lost.iter().find(|(node, _)| touched(node)) {
        return Judgement::Wait(format!("{node}: {why}"));
    }
    let Some(old) = survey.node(begun.old.as_str()) else {
        return Judgement::Leave(format!("{} is no node any more", begun.old));
    };
    let ahead = survey.seen.iter().find(|seen| seen.gtids && old.gtids && !old.applied.covers(&seen.applied));
    match ahead {
        Some(other) => Judgement::Leave(format!("{} has transactions that {} lacks", other.node, old.node)),
        None => Judgement::TakeBack,
    }
}

/// Takes back what was cut off in one cluster, however long its nodes take to answer.
pub(super) async fn run(handover: &Handover, cluster: &Cluster, begun: Begun) {
    let name = &cluster.name;
    warn!(cluster = %name, old = %begun.old, new = %begun.new, "a switch was cut off when Spillway ended");
    let mut told = None;
    let ending = loop {
        if !begun.is_still_meant() {
            break Err(format!(
                "a switch from {} to {} was cut off, too long ago to be taken back",
                begun.old, begun.new
            ));
        }
        match attempt(handover, cluster, &begun).await {
            Ok(ending) => break ending,
            Err(reason) => {
                if told.as_ref() != Some(&reason) {
                    warn!(cluster = %name, reason, "what was cut off can not be looked at yet");
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
    handover.forget(name).await;
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
    let topology = &handover.topology;
    let agreement = Agreement::reach(cluster, quorum(cluster, false)).await?;
    let judgement = judge(&survey(nodes, cluster, topology).await, begun);
    let result = match judgement {
        Judgement::Wait(reason) => Err(reason),
        Judgement::Leave(reason) => Ok(Err(reason)),
        Judgement::Settled(node) => match restart(nodes, begun).await {
            Ok(()) => Ok(Ok(format!("{node} is writable"))),
            Err(reason) => Ok(Err(reason)),
        },
        Judgement::TakeBack => take_back(handover, cluster, begun, nodes).await,
    };
    agreement.release().await;
    result
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
    use super::super::position::Gtids;
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

    #[test]
    fn only_what_is_certain_is_taken_back() {
        let survey = |seen: Vec<Seen>, lost: &[&str]| Survey {
            seen,
            lost: lost.iter().map(|name| (name.parse().expect("name"), "no answer".to_owned())).collect(),
        };
        let of = |survey: Survey| judge(&survey, &begun());
        let both = || vec![seen("a", true, "0-1-7"), seen("b", true, "0-1-7")];
        assert_eq!(of(survey(both(), &[])), Judgement::TakeBack);
        assert_eq!(of(survey(both(), &["c"])), Judgement::TakeBack, "it was never touched");
        // The new one may have been promoted before all ended.
        let alone = || vec![seen("a", true, "0-1-7")];
        assert!(matches!(of(survey(alone(), &["b"])), Judgement::Wait(_)));
        let promoted = vec![seen("a", true, "0-1-7"), seen("b", false, "0-1-7")];
        assert_eq!(of(survey(promoted, &[])), Judgement::Settled("b".parse().expect("name")));
        let by_hand = vec![seen("a", false, "0-1-7"), seen("b", true, "0-1-7")];
        assert_eq!(of(survey(by_hand, &["c"])), Judgement::Settled("a".parse().expect("name")));
        let ahead = vec![seen("a", true, "0-1-7"), seen("b", true, "0-1-9")];
        assert!(matches!(of(survey(ahead, &[])), Judgement::Leave(_)));
        assert!(matches!(of(survey(vec![seen("b", true, "0-1-7")], &[])), Judgement::Leave(_)));
    }

    #[test]
    fn what_is_long_ago_is_not_meant_any_more() {
        let now = begun();
        assert!(now.is_still_meant());
        assert!(!Begun { at: now.at - 16 * 60, ..now.clone() }.is_still_meant());
        assert!(!Begun { at: now.at + 60, ..now }.is_still_meant());
    }
}
