//! Carries out a plan: every step is seen on the server before the next one, and what was done is taken back when a step
//! fails before another node is writable.
//!
//! Two nodes are never writable by the doing of a procedure. Where it cannot be known whether the new writer is writable,
//! the old one stays read-only.

use std::time::{Duration, Instant};

use tokio::time::sleep;

use crate::config::{Cluster, Failover};
use crate::ids::NodeName;
use crate::topology::{Desired, TopologyStore};

use super::agreement::{Agreement, is_free};
use super::decision::{Action, Decision, Terms};
use super::node::{GLANCE, Operated};
use super::quiesce::{self, Quiesced};
use super::report::{AGAIN, AGREE, Ending, FREE, Report, Steps};
use super::sight::{Seen, Source, Survey};
use super::{Begun, Handover, announce, is_enabled, operated};

/// How long nothing new may come from the relay log until what is left there is given up.
const SETTLED: Duration = Duration::from_secs(2);

/// Who is asked for what, and how.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Wish<'a> {
    /// The new writer; none: the best one.
    pub(super) target: Option<&'a str>,
    /// Only tells what would be done.
    pub(super) dry_run: bool,
}

/// A cluster under change.
pub(super) struct Procedure<'a> {
    cluster: &'a Cluster,
    handover: &'a Handover,
    topology: &'a TopologyStore,
    nodes: Vec<Operated>,
    steps: Steps,
    /// While nothing new begins on the writer.
    quiesced: Option<Quiesced<'a>>,
}

impl<'a> Procedure<'a> {
    pub(super) fn new(handover: &'a Handover, cluster: &'a Cluster) -> Self {
        let topology = &*handover.topology;
        let nodes = operated(cluster, topology);
        Self { cluster, handover, topology, nodes, steps: Steps::new(&cluster.name), quiesced: None }
    }

    /// Decides, agrees, decides again, and does it.
    pub(super) async fn run(
        mut self,
        decide: impl Fn(&Survey, Option<&str>, Terms) -> Decision,
        needed: usize,
        wish: Wish<'_>,
    ) -> Report {
        let decision = decide(&self.survey().await, wish.target, Terms::of(self.cluster));
        let refusal = self.judge(&decision).await;
        if wish.dry_run || refusal.is_some() {
            for action in &decision.plan {
                self.steps.plan(action.to_string());
            }
            return self.steps.end(refusal.map_or(Ending::Planned, Ending::Refused));
        }
        let start = Instant::now();
        let agreement = Agreement::reach(self.cluster, needed).await;
        let held = agreement.as_ref().map(|agreement| {
            let nodes: Vec<&str> = agreement.nodes().map(NodeName::as_str).collect();
            format!("on {}", nodes.join(", "))
        });
        self.steps.note(AGREE, start, held.map_err(Clone::clone));
        let mut agreement = match agreement {
            Ok(agreement) => agreement,
            Err(reason) => return self.steps.end(Ending::Refused(reason)),
        };
        // Another proxy may just have done it.
        let start = Instant::now();
        let decision = decide(&self.survey().await, wish.target, Terms::of(self.cluster));
        let verdict = decision.refusal().map_or_else(|| Ok("all hold".to_owned()), Err);
        self.steps.note(AGAIN, start, verdict.clone());
        let ending = match verdict {
            Ok(_) => self.carry_out_kept(decision.plan, &mut agreement).await,
            Err(reason) => Ending::Refused(reason),
        };
        agreement.release().await;
        for node in std::mem::take(&mut self.nodes) {
            node.close().await;
        }
        self.steps.end(ending)
    }

    /// Notes the guards. The first reason against the plan.
    async fn judge(&mut self, decision: &Decision) -> Option<String> {
        let start = Instant::now();
        for guard in &decision.guards {
            self.steps.note(guard.what, start, guard.verdict.clone());
        }
        let mut refusal = decision.refusal();
        for action in &decision.plan {
            let start = Instant::now();
            let (what, verdict) = match self.permitted(action).await {
                Ok(None) => continue,
                Ok(Some(what)) => (what, Ok("it can".to_owned())),
                Err((what, reason)) => (what, Err(reason)),
            };
            refusal = refusal.or_else(|| Some(format!("{what}: {}", verdict.as_ref().err()?)));
            self.steps.note(what, start, verdict);
        }
        let start = Instant::now();
        let mut free = Ok("none".to_owned());
        for node in &mut self.nodes {
            if let Err(reason) = is_free(node, self.cluster).await
                && node.is_connected()
            {
                free = Err(reason);
            }
        }
        refusal = refusal.or_else(|| free.as_ref().err().cloned());
        self.steps.note(FREE, start, free);
        refusal
    }

    /// Whether the account may do this, and what was looked at; none: nothing need be.
    async fn permitted(&mut self, action: &Action) -> Result<Option<String>, (String, String)> {
        let (node, what) = match action {
            Action::Freeze(node) | Action::Promote { node, .. } => {
                (node, format!("read_only of {node} can be changed"))
            }
            Action::Forget(node) | Action::Follow { node, .. } => {
                (node, format!("the replication of {node} can be changed"))
            }
            _ => return Ok(None),
        };
        let is_replication = matches!(action, Action::Forget(_) | Action::Follow { .. });
        let verdict = match self.node(node.as_str()) {
            Ok(operated) if is_replication => operated.may_replicate().await,
            Ok(operated) => operated.may_change().await,
            Err(reason) => Err(reason),
        };
        verdict.map_err(|reason| (what.clone(), reason))?;
        Ok(Some(what))
    }

    /// Asks every node, all at the same time.
    async fn survey(&mut self) -> Survey {
        survey(&mut self.nodes, self.cluster, self.topology).await
    }

    /// Carries a plan out. Of one that makes the writer read-only it is kept that it was begun, until it has ended or was
    /// taken back.
    async fn carry_out_kept(&mut self, plan: Vec<Action>, agreement: &mut Agreement) -> Ending {
        let begun = plan.iter().find_map(|action| match action {
            Action::Promote { node, old: Some(old) } => Some(Begun::now(old, node)),
            _ => None,
        });
        let Some(begun) = begun else { return self.carry_out(plan, agreement).await };
        if let Err(reason) = self.handover.keep(&self.cluster.name, begun.clone()).await {
            return Ending::Refused(format!("the state file can not be written: {reason}"));
        }
        let ending = self.carry_out(plan, agreement).await;
        // Where it is stuck, a person must look: what that one leaves as it is must stay so.
        self.handover.forget(&self.cluster.name, &begun).await;
        ending
    }

    async fn carry_out(&mut self, plan: Vec<Action>, agreement: &mut Agreement) -> Ending {
        let mut begun: Vec<Action> = Vec::new();
        let mut failed = Vec::new();
        let mut is_promoted = false;
        for action in plan {
            let start = Instant::now();
            if !is_promoted {
                begun.push(action.clone());
            }
            let result = self.perform(&action, agreement).await;
            self.steps.note(action.to_string(), start, result.clone());
            match result {
                Ok(_) => is_promoted |= matches!(action, Action::Promote { .. }),
                Err(reason) if is_promoted => failed.push(format!("{action}: {reason}")),
                Err(reason) => return self.roll_back(begun, format!("{action}: {reason}")).await,
            }
        }
        if failed.is_empty() { Ending::Done } else { Ending::Incomplete(failed.join("; ")) }
    }

    /// Takes back what was begun, the last first. Unless it is known that the new writer is read-only, the old one stays so.
    async fn roll_back(&mut self, begun: Vec<Action>, reason: String) -> Ending {
        let mut failed = Vec::new();
        for action in begun.into_iter().rev() {
            let Some(what) = undoing(&action) else { continue };
            let start = Instant::now();
            let undone = self.undo(&action).await;
            self.steps.note(format!("take back: {what}"), start, undone.clone().map(|()| String::new()));
            if let Err(e) = undone {
                failed.push(format!("to {what} failed: {e}"));
                if matches!(action, Action::Promote { .. }) {
                    break;
                }
            }
        }
        if failed.is_empty() {
            Ending::RolledBack(reason)
        } else {
            Ending::Stuck(format!("{reason}; and {}", failed.join("; ")))
        }
    }

    async fn undo(&mut self, action: &Action) -> Result<(), String> {
        match action {
            Action::Promote { node, .. } => self.set_read_only(node, true).await,
            Action::Freeze(node) => self.set_read_only(node, false).await,
            Action::Detach(node) => {
                let operated = self.node(node.as_str())?;
                for source in operated.look(true).await?.sources {
                    operated.resume(&source.name).await?;
                }
                Ok(())
            }
            _ => Ok(()),
        }
    }

    fn node(&mut self, name: &str) -> Result<&mut Operated, String> {
        position(&self.nodes, name).map(|i| &mut self.nodes[i]).ok_or_else(|| format!("no node {name}"))
    }

    async fn set_read_only(&mut self, node: &NodeName, wanted: bool) -> Result<(), String> {
        self.node(node.as_str())?.set_read_only(wanted).await?;
        announce(self.topology, self.cluster, node, !wanted);
        Ok(())
    }

    async fn look(&mut self, name: &str) -> Result<Seen, String> {
        let enabled = is_enabled(self.topology, self.cluster, name);
        self.node(name)?.look(enabled).await
    }

    async fn perform(&mut self, action: &Action, agreement: &mut Agreement) -> Result<String, String> {
        let quiet = |()| String::new();
        match action {
            Action::Quiesce { node, limit } => {
                self.quiesced = Some(Quiesced::new(self.topology, &self.cluster.name));
                let (cluster, handover) = (self.cluster, self.handover);
                let operated = self.node(node.as_str())?;
                Ok(quiesce::wait(operated, cluster, &*handover.sessions, *limit).await)
            }
            Action::Freeze(node) => {
                let frozen = self.set_read_only(node, true).await.map(quiet);
                // From here on the node itself says that it takes no writes.
                if self.quiesced.take().is_some() {
                    let cluster = self.cluster;
                    quiesce::release(self.node(node.as_str())?, cluster).await;
                }
                frozen
            }
            Action::CatchUp { node, source } => self.catch_up(node.as_str(), source.as_str()).await,
            Action::AwaitRelay(node) => self.await_relay(node.as_str()).await,
            Action::Detach(node) => {
                for source in self.look(node.as_str()).await?.sources {
                    self.node(node.as_str())?.stop(&source.name).await?;
                }
                Ok(String::new())
            }
            Action::Promote { node, old } => {
                agreement.confirm().await?;
                match old {
                    Some(old) if !self.look(old.as_str()).await?.read_only => {
                        return Err(format!("{old} is writable again"));
                    }
                    Some(_) => {}
                    None => self.still_alone(node.as_str()).await?,
                }
                self.set_read_only(node, false).await.map(quiet)
            }
            Action::Forget(node) => {
                for source in self.look(node.as_str()).await?.sources {
                    self.node(node.as_str())?.forget(&source.name).await?;
                }
                Ok(String::new())
            }
            Action::Follow { node, primary } => self.follow(node.as_str(), primary.as_str()).await.map(quiet),
        }
    }

    /// Waits until a node has applied all of another one, which must stand still.
    async fn catch_up(&mut self, name: &str, source: &str) -> Result<String, String> {
        let start = Instant::now();
        let limit = self.cluster.handover.catch_up_timeout;
        loop {
            let primary = self.look(source).await?;
            let replica = self.look(name).await?;
            if !primary.read_only {
                return Err(format!("{source} is writable again"));
            }
            if replica.has_reached(&primary) {
                // Administrators may write even now: what they wrote since must be there, too.
                let again = self.look(source).await?;
                if again.written == primary.written && again.end == primary.end {
                    return Ok(primary
                        .end
                        .map_or_else(|| primary.written.to_string(), |end| end.to_string()));
                }
            } else if let Some(trouble) = replica.source_of(&primary).and_then(Source::trouble) {
                return Err(format!("{name}: {trouble}; {}", replica.backlog(&primary)));
            }
            if start.elapsed() > limit {
                let limit = humantime::format_duration(limit);
                return Err(format!("not within {limit}: {}", replica.backlog(&primary)));
            }
            sleep(GLANCE).await;
        }
    }

    /// Waits until a node has applied all that it received. An SQL thread that nothing but a person or a failover that was
    /// cut off has stopped is started for that. By coordinates, the rest of a transaction that came in part only never comes.
    async fn await_relay(&mut self, name: &str) -> Result<String, String> {
        let start = Instant::now();
        let limit = self.cluster.handover.catch_up_timeout;
        let mut last = (self.look(name).await?, Instant::now());
        let (mut received, mut is_started) = (last.0.standing(), false);
        loop {
            let seen = self.look(name).await?;
            // What is received must not be less because a thread was started: MariaDB may remove its relay logs then.
            received = received.with(&seen.standing());
            let standing = received.clone();
            let has_all = |source: &Source| {
                if source.by_gtid { seen.applied.covers(&standing) } else { source.has_applied_all() }
            };
            let is_idle = seen.sources.iter().all(|source| source.idle || source.sql != "Yes");
            if is_idle && seen.sources.iter().all(has_all) {
                return Ok(format!("at {}", seen.place()));
            }
            if let Some(reason) = seen.hindrance(limit) {
                return Err(reason);
            }
            if let Some(source) = seen.sources.iter().find(|source| source.sql != "Yes") {
                if is_started {
                    return Err(format!("{name}: SQL thread: {}, again", source.sql));
                }
                for source in seen.sources.iter().filter(|source| source.sql != "Yes") {
                    self.node(name)?.start_applying(&source.name).await?;
                }
                is_started = true;
                continue;
            }
            // By GTID, a transaction counts as received only when it is complete. Where the SQL thread alone applies them and is
            // idle, it has passed over what it lacks; others may still be at work while it is idle.
            let by_gtid = seen.sources.iter().all(|source| source.by_gtid);
            let is_exact = by_gtid && (seen.parallel || is_started);
            if seen.progress() != last.0.progress() {
                last = (seen, Instant::now());
            } else if is_idle && !is_exact && last.1.elapsed() > SETTLED {
                return Ok(format!("at {}; nothing more comes of {standing}", seen.place()));
            }
            if start.elapsed() > limit {
                let limit = humantime::format_duration(limit);
                return Err(format!("not within {limit}: it lacks {}", standing.without(&last.0.applied)));
            }
            sleep(GLANCE).await;
        }
    }

    /// Makes sure, at the last moment, that nobody else is writable and no other node got more meanwhile.
    async fn still_alone(&mut self, name: &str) -> Result<(), String> {
        let survey = self.survey().await;
        if let Some(other) = survey.writable().next() {
            return Err(format!("{} is writable", other.node));
        }
        let new = survey.node(name).ok_or_else(|| format!("{name} does not answer any more"))?;
        let ahead = survey.seen.iter().find(|seen| !new.applied.covers(&seen.applied));
        match ahead {
            Some(other) => Err(format!("{} has more: {}", other.node, other.applied.without(&new.applied))),
            None => Ok(()),
        }
    }

    async fn follow(&mut self, name: &str, primary: &str) -> Result<(), String> {
        let replica = self.cluster.handover.replication.clone();
        let replica = replica.ok_or("handover.replication_user is not set")?;
        let address = self.node(primary)?.address().clone();
        self.node(name)?.follow(&address, &replica).await
    }
}

/// What takes an action back, in words; none: nothing need be.
fn undoing(action: &Action) -> Option<String> {
    match action {
        Action::Freeze(node) => Some(format!("make {node} writable again")),
        Action::Promote { node, .. } => Some(format!("make sure that {node} is read-only")),
        Action::Detach(node) => Some(format!("start the replication of {node}")),
        _ => None,
    }
}

fn position(nodes: &[Operated], name: &str) -> Option<usize> {
    nodes.iter().position(|node| node.name().as_str() == name)
}

/// Asks nodes, all at the same time; and who is writable once more after that, lest a replica seems to have transactions of its
/// own which the primary only wrote a moment later.
pub(super) async fn survey(nodes: &mut Vec<Operated>, cluster: &Cluster, topology: &TopologyStore) -> Survey {
    let mut asked = tokio::task::JoinSet::new();
    for mut node in nodes.drain(..) {
        let enabled = is_enabled(topology, cluster, node.name().as_str());
        asked.spawn(async move {
            let seen = node.look_closely(enabled).await;
            (node, seen)
        });
    }
    let mut survey = Survey::default();
    for (node, seen) in asked.join_all().await {
        match seen {
            Ok(seen) => survey.seen.push(seen),
            Err(reason) => survey.lost.push((node.name().clone(), reason)),
        }
        nodes.push(node);
    }
    let known = topology.load();
    let known = known.cluster(cluster.name.as_str()).into_iter().flat_map(|known| &known.nodes);
    survey.aside =
        known.filter(|node| node.desired == Desired::Maintenance).map(|node| node.name.clone()).collect();
    for seen in survey.seen.iter_mut().filter(|seen| !seen.read_only) {
        if let Some(index) = position(nodes, seen.node.as_str())
            && let Ok(again) = nodes[index].look(seen.enabled).await
        {
            let semi_sync = std::mem::take(&mut seen.semi_sync);
            *seen = Seen { semi_sync, ..again };
        }
    }
    survey.seen.sort_by(|a, b| a.node.cmp(&b.node));
    survey
}

/// On how many nodes the lock must be held: a majority. In a cluster of two that lost one, an operator is the judge.
pub(super) fn quorum(cluster: &Cluster, is_failover: bool) -> usize {
    let nodes = cluster.nodes.len();
    let is_judged = is_failover && nodes == 2 && cluster.handover.failover == Failover::Manual;
    if is_judged { 1 } else { nodes / 2 + 1 }
}
