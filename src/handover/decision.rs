//! From what the nodes tell to what is to be done: guards, the choice of the new writer, the plan; pure.

use std::cmp::Reverse;
use std::fmt;
use std::time::Duration;

use crate::config::{Cluster, ClusterKind};
use crate::ids::NodeName;

use super::sight::{Dialect, Seen, Source, Survey};

/// What a decision depends on beside the nodes.
#[derive(Clone, Copy, Debug)]
pub(super) struct Terms {
    pub(super) kind: ClusterKind,
    /// The most that the new writer may lag behind.
    pub(super) max_lag: Duration,
    /// Whether it is known as whom replicas log in.
    pub(super) has_credentials: bool,
    /// How long open transactions may go on; none: they get no time.
    pub(super) quiesce: Option<Duration>,
}

/// A condition, and whether it holds, with the reason.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Guard {
    pub(super) what: &'static str,
    pub(super) verdict: Result<String, String>,
}

/// One step of a plan.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Action {
    /// Lets nothing new begin on the writer, and waits until what runs there has ended, for so long at most.
    Quiesce { node: NodeName, limit: Duration },
    /// Makes a node read-only.
    Freeze(NodeName),
    /// Waits until a node has applied all of a read-only one.
    CatchUp { node: NodeName, source: NodeName },
    /// Waits until a node has applied all that it received from a source that is lost.
    AwaitRelay(NodeName),
    /// Stops the replication of a node.
    Detach(NodeName),
    /// Makes a node writable. `old`: the node that was the writer, if it is there; without, it must be lost.
    Promote { node: NodeName, old: Option<NodeName> },
    /// Removes the replication source of a node.
    Forget(NodeName),
    /// Lets a node replicate from another one.
    Follow { node: NodeName, primary: NodeName },
}

/// The guards, and the plan if all of them hold.
#[derive(Clone, Debug, Default)]
pub(super) struct Decision {
    pub(super) guards: Vec<Guard>,
    pub(super) plan: Vec<Action>,
}

impl fmt::Display for Action {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Quiesce { node, limit } => {
                let limit = humantime::format_duration(*limit);
                write!(f, "let what runs on {node} end, and nothing new begin there, for at most {limit}")
            }
            Self::Freeze(node) => write!(f, "make {node} read-only"),
            Self::CatchUp { node, source } => write!(f, "wait until {node} has applied all of {source}"),
            Self::AwaitRelay(node) => write!(f, "wait until {node} has applied all that it received"),
            Self::Detach(node) => write!(f, "stop the replication of {node}"),
            Self::Promote { node, .. } => write!(f, "make {node} writable"),
            Self::Forget(node) => write!(f, "remove the replication source of {node}"),
            Self::Follow { node, primary } => write!(f, "let {node} replicate from {primary}"),
        }
    }
}

// === impl Terms ===

impl Terms {
    /// As the configuration says.
    pub(super) fn of(cluster: &Cluster) -> Self {
        Self {
            kind: cluster.kind,
            max_lag: cluster.handover.catch_up_timeout,
            has_credentials: cluster.handover.replication.is_some(),
            quiesce: cluster.moves.hold.and(cluster.handover.running_transactions_timeout),
        }
    }
}

// === impl Decision ===

impl Decision {
    /// The first guard that does not hold.
    pub(super) fn refusal(&self) -> Option<String> {
        self.guards
            .iter()
            .find_map(|guard| Some(format!("{}: {}", guard.what, guard.verdict.as_ref().err()?)))
    }

    /// Notes a guard; gives what it found if it holds.
    fn check<T>(&mut self, what: &'static str, found: Result<(T, String), String>) -> Option<T> {
        let (value, verdict) = match found {
            Ok((value, words)) => (Some(value), Ok(words)),
            Err(reason) => (None, Err(reason)),
        };
        self.guards.push(Guard { what, verdict });
        value
    }

    fn require(&mut self, what: &'static str, verdict: Result<String, String>) {
        self.check(what, verdict.map(|words| ((), words)));
    }
}

// === a planned switch ===

/// Another node becomes the writer while the old one lives. `target`: which; none: the peer, or the best replica.
pub(super) fn switch(survey: &Survey, target: Option<&str>, terms: Terms) -> Decision {
    let mut decision = Decision::default();
    decision.require("a majority of the nodes answers", majority(survey));
    decision.require("server ids are unique", unique_ids(survey));
    let from = decision.check("one node is writable", only_writable(survey));
    let Some(from) = from else { return decision };
    let chosen = match target {
        Some(name) => named(survey, from, name),
        None => best_replica(survey, from),
    };
    let Some(to) = decision.check("there is a new writer", chosen) else { return decision };
    decision.require("the new writer is enabled", enabled(to));
    decision.require("what replicas acknowledge", Ok(acknowledged_by(survey, from, to)));
    decision.require("the new writer replicates from the old one", replicates(to, from, terms.max_lag));
    if terms.kind == ClusterKind::MultiPrimary {
        decision.require("the old writer replicates from the new one", replicates(from, to, terms.max_lag));
        decision.require("positions can be compared", comparable(to, from));
    } else {
        decision.require("the new writer can be a primary", fit_for_primary(to));
        decision.require("the new writer has nothing that the old one lacks", no_errant(to, from));
        decision.require("credentials of replicas are known", credentials(terms));
    }
    if decision.refusal().is_none() {
        decision.plan = switch_plan(survey, from, to, terms);
    }
    decision
}

fn switch_plan(survey: &Survey, from: &Seen, to: &Seen, terms: Terms) -> Vec<Action> {
    let (old, new) = (from.node.clone(), to.node.clone());
    let quiesce = terms.quiesce.map(|limit| Action::Quiesce { node: old.clone(), limit });
    let mut plan: Vec<Action> = quiesce.into_iter().collect();
    plan.extend([Action::Freeze(old.clone()), Action::CatchUp { node: new.clone(), source: old.clone() }]);
    let promote = Action::Promote { node: new.clone(), old: Some(old.clone()) };
    if terms.kind == ClusterKind::MultiPrimary {
        plan.push(promote);
        return plan;
    }
    plan.extend([Action::Detach(new.clone()), promote, Action::Forget(new.clone())]);
    let followers = survey.seen.iter().filter(|seen| seen.node == old || seen.source_of(from).is_some());
    plan.extend(follow(followers, &new));
    plan
}

fn follow<'a>(nodes: impl Iterator<Item = &'a Seen>, primary: &NodeName) -> Vec<Action> {
    nodes
        .filter(|seen| seen.node != *primary)
        .map(|seen| Action::Follow { node: seen.node.clone(), primary: primary.clone() })
        .collect()
}

// === the loss of a primary ===

/// Another node becomes the writer because the old one is lost.
pub(super) fn failover(survey: &Survey, target: Option<&str>, terms: Terms) -> Decision {
    let mut decision = Decision::default();
    decision.require("enough of the nodes answer", enough_without_primary(survey));
    decision.require("server ids are unique", unique_ids(survey));
    decision.require("no node is writable", none_writable(survey));
    decision.require("the replicas have lost their primary", primary_lost(survey));
    let chosen = most_advanced(survey, target, terms);
    let Some(to) = decision.check("there is a new writer", chosen) else { return decision };
    decision.require("what replicas acknowledged", Ok(was_acknowledged(survey)));
    decision.require("the new writer can apply what it received", able_to_apply(to, terms.max_lag));
    let others: Vec<Action> =
        follow(survey.seen.iter().filter(|seen| orphan(survey, seen).is_some()), &to.node);
    let is_pair = terms.kind == ClusterKind::MultiPrimary;
    if !is_pair {
        decision.require("the new writer can be a primary", fit_for_primary(to));
        decision.require("credentials of replicas are known", credentials(terms));
    }
    if decision.refusal().is_some() {
        return decision;
    }
    let new = to.node.clone();
    let promote = Action::Promote { node: new.clone(), old: None };
    decision.plan.push(Action::AwaitRelay(new.clone()));
    if is_pair {
        decision.plan.push(promote);
    } else {
        decision.plan.extend([Action::Detach(new.clone()), promote, Action::Forget(new)]);
        decision.plan.extend(others);
    }
    decision
}

/// The source of a node that is none of those which answer.
fn orphan<'a>(survey: &Survey, seen: &'a Seen) -> Option<&'a Source> {
    seen.sources.iter().find(|source| !survey.seen.iter().any(|server| source.is(server)))
}

/// More than half of the replicas that answer say so themselves: a proxy that is cut off from the primary alone does nothing.
fn primary_lost(survey: &Survey) -> Result<String, String> {
    let orphans: Vec<&Source> = survey.seen.iter().filter_map(|seen| orphan(survey, seen)).collect();
    if orphans.is_empty() {
        return Err("no node replicates from one that does not answer".to_owned());
    }
    let lost = orphans.iter().filter(|source| source.io != "Yes").count();
    let words = format!("{lost} of {}", orphans.len());
    if lost * 2 > orphans.len() { Ok(words) } else { Err(words) }
}

/// A cluster of two has no majority without its primary: there the operator is the judge.
fn enough_without_primary(survey: &Survey) -> Result<String, String> {
    match (survey.nodes(), survey.seen.len()) {
        (2, 1) => Ok("1 of 2".to_owned()),
        _ => majority(survey),
    }
}

fn none_writable(survey: &Survey) -> Result<String, String> {
    match survey.writable().next() {
        Some(seen) => Err(format!("{} is", seen.node)),
        None => Ok("all are read-only".to_owned()),
    }
}

/// The replica that has, applied or only received, all that any other has; of several, one that can be the writer and is
/// applying already, and the preferred one of those.
fn most_advanced<'a>(
    survey: &'a Survey,
    target: Option<&str>,
    terms: Terms,
) -> Result<(&'a Seen, String), String> {
    let replicas: Vec<(&Seen, _)> = survey
        .seen
        .iter()
        .filter(|seen| orphan(survey, seen).is_some())
        .map(|seen| (seen, seen.standing()))
        .collect();
    let leads = |of: &super::position::Gtids| replicas.iter().all(|(_, other)| of.covers(other));
    let foremost = replicas.iter().filter(|(seen, standing)| seen.enabled && leads(standing));
    let is_unfit = |seen: &Seen| {
        let is_pair = terms.kind == ClusterKind::MultiPrimary;
        seen.hindrance(terms.max_lag).is_some() || (!is_pair && fit_for_primary(seen).is_err())
    };
    let chosen = foremost
        .filter(|(seen, _)| target.is_none_or(|name| seen.node.as_str() == name))
        .min_by_key(|(seen, _)| (is_unfit(seen), !seen.is_applying(), Reverse(seen.priority), &seen.node));
    match (chosen, target) {
        (Some((seen, standing)), _) => Ok((seen, format!("{} at {standing}", seen.node))),
        (None, Some(name)) => Err(format!("{name} is not an enabled replica with all that the others have")),
        (None, None) => Err("no enabled replica has all that the others have".to_owned()),
    }
}

fn able_to_apply(seen: &Seen, patience: Duration) -> Result<String, String> {
    match seen.hindrance(patience) {
        Some(reason) => Err(reason),
        None if seen.is_applying() => Ok("it does".to_owned()),
        None => Ok("its SQL thread is started, or waited for".to_owned()),
    }
}

/// The nodes that could become the writer because the old one is lost, the best first.
pub(super) fn successors(survey: &Survey, terms: Terms) -> Vec<NodeName> {
    let promoted = |target: Option<&str>| {
        failover(survey, target, terms).plan.into_iter().find_map(|action| match action {
            Action::Promote { node, .. } => Some(node),
            _ => None,
        })
    };
    let best = promoted(None);
    let others = survey.seen.iter().filter_map(|seen| promoted(Some(seen.node.as_str())));
    best.iter().cloned().chain(others.filter(|node| Some(node) != best.as_ref())).collect()
}

// === a primary that comes back ===

/// A node that accepts writes although another one is the primary, and that one.
pub(super) fn impostor<'a>(survey: &'a Survey, agreed: Option<&NodeName>) -> Option<(&'a Seen, &'a Seen)> {
    let writable: Vec<&Seen> = survey.contenders().collect();
    let [a, b] = writable[..] else { return None };
    let followers = |primary: &Seen| {
        let follows = |seen: &&Seen| seen.source_of(primary).is_some_and(|source| source.io == "Yes");
        survey.seen.iter().filter(follows).count()
    };
    match (followers(a), followers(b)) {
        (0, 1..) => Some((a, b)),
        (1.., 0) => Some((b, a)),
        _ if agreed == Some(&a.node) => Some((b, a)),
        _ if agreed == Some(&b.node) => Some((a, b)),
        _ => None,
    }
}

/// A node that replicates from nobody, or in vain from one that is not the primary, and what keeps it from following the
/// primary.
pub(super) fn strays(survey: &Survey) -> Vec<(Action, Result<(), String>)> {
    let mut writable = survey.contenders();
    let (Some(primary), None) = (writable.next(), writable.next()) else { return Vec::new() };
    let is_stray = |seen: &&Seen| {
        let in_vain = |source: &Source| !source.is(primary) && source.io != "Yes";
        seen.read_only && seen.enabled && seen.sources.iter().all(in_vain)
    };
    let judged = |seen: &Seen| {
        let action = Action::Follow { node: seen.node.clone(), primary: primary.node.clone() };
        let verdict = own_id(survey, seen).and_then(|()| no_errant(seen, primary).map(drop));
        (action, verdict.and_then(|()| no_lost_own(seen, primary)))
    };
    survey.seen.iter().filter(is_stray).map(judged).collect()
}

// === a switch that was cut off ===

/// What is left to be done of a switch in a cluster of kind `replication` whose new writer is the only one, and what keeps it
/// from being done: the new one still has its source, or others have the old one.
pub(super) fn unfinished(
    survey: &Survey,
    old: &NodeName,
    new: &NodeName,
) -> Vec<(Action, Result<(), String>)> {
    let (Some(was), Some(primary)) = (survey.node(old.as_str()), survey.node(new.as_str())) else {
        return Vec::new();
    };
    let stands = |source: &Source| source.io == "No" && source.sql == "No";
    let mut rest = Vec::new();
    if !primary.sources.is_empty() {
        let is_left = primary.sources.iter().all(|source| source.is(was) && stands(source));
        let verdict = is_left.then_some(()).ok_or_else(|| format!("{new} replicates, though it is writable"));
        rest.push((Action::Forget(new.clone()), verdict));
    }
    for seen in survey.seen.iter().filter(|seen| seen.node != *new) {
        let source = seen.source_of(primary);
        let is_behind = seen.node == *old || seen.source_of(was).is_some();
        let follows = source.is_some_and(|source| source.trouble().is_none());
        if follows && seen.sources.len() == 1 || !(is_behind || source.is_some_and(stands)) {
            continue;
        }
        let verdict = can_follow(survey, seen, was, primary);
        rest.push((Action::Follow { node: seen.node.clone(), primary: new.clone() }, verdict));
    }
    rest
}

/// Whether a node that was left behind by a switch may be let follow the new writer.
fn can_follow(survey: &Survey, seen: &Seen, was: &Seen, primary: &Seen) -> Result<(), String> {
    let node = &seen.node;
    if !seen.read_only {
        return Err(format!("{node} is writable"));
    }
    enabled(seen)?;
    if let Some(other) = seen.sources.iter().find(|source| !source.is(was) && !source.is(primary)) {
        return Err(format!("{node} replicates from another server, {}", other.address));
    }
    if seen.sources.len() > 1 {
        return Err(format!("{node} replicates from {} servers", seen.sources.len()));
    }
    own_id(survey, seen)?;
    no_errant(seen, primary)?;
    no_lost_own(seen, primary)
}

// === what is told, and keeps nobody from anything ===

/// Whether the old writer waits for replicas before it tells a client of a commit, and whether the new one would.
fn acknowledged_by(survey: &Survey, from: &Seen, to: &Seen) -> String {
    let (old, new) = (&from.node, &to.node);
    let now = match &from.semi_sync.primary {
        None => {
            format!("{old} waits for none: should it be lost, what no replica has received is lost with it")
        }
        Some(waiting) if !waiting.now => format!(
            "{old} is semi-synchronous, and waits for none now ({} of {} replicas that it needs acknowledge): should it be \
             lost, what no replica has received is lost with it",
            waiting.replicas, waiting.needed
        ),
        Some(waiting) => {
            let seen =
                if waiting.before_commit { "" } else { "; others see a row before it is acknowledged" };
            let (replicas, needed) = (waiting.replicas, waiting.needed);
            format!(
                "{old} waits for {needed} of {replicas} replicas, {} ms at most, and then no more{seen}",
                waiting.timeout_ms
            )
        }
    };
    let others = survey.seen.iter().filter(|seen| seen.node != *new && seen.semi_sync.replica).count();
    let later = match &to.semi_sync.primary {
        Some(waiting) => format!("{new} would wait for {} of {others}", waiting.needed),
        None => format!("{new} would wait for none"),
    };
    format!("{now}; {later}")
}

/// What is known of the rows that the lost primary acknowledged to clients.
fn was_acknowledged(survey: &Survey) -> String {
    let orphans = survey.seen.iter().filter(|seen| orphan(survey, seen).is_some());
    let names: Vec<&str> =
        orphans.filter(|seen| seen.semi_sync.replica).map(|seen| seen.node.as_str()).collect();
    if names.is_empty() {
        return "no replica did (asynchronous replication): rows that clients were told of and no replica received are lost"
            .to_owned();
    }
    format!(
        "{} did, if the lost one waited for that: otherwise rows that clients were told of and no replica received are lost",
        names.join(" and ")
    )
}

// === guards ===

fn majority(survey: &Survey) -> Result<String, String> {
    let words = format!("{} of {}", survey.seen.len(), survey.nodes());
    if survey.seen.len() * 2 > survey.nodes() {
        return Ok(words);
    }
    let lost: Vec<String> = survey.lost.iter().map(|(node, why)| format!("{node}: {why}")).collect();
    Err(format!("{words} ({})", lost.join("; ")))
}

fn unique_ids(survey: &Survey) -> Result<String, String> {
    for (index, one) in survey.seen.iter().enumerate() {
        if let Some(other) = survey.seen[..index].iter().find(|other| other.server_id == one.server_id) {
            return Err(format!("{} and {} both have {}", other.node, one.node, one.server_id));
        }
    }
    Ok("they are".to_owned())
}

/// Two servers of one id take what the other one wrote for their own, and pass over it.
fn own_id(survey: &Survey, seen: &Seen) -> Result<(), String> {
    match survey.seen.iter().find(|other| other.node != seen.node && other.server_id == seen.server_id) {
        Some(other) => {
            Err(format!("{} and {} both have server_id {}", seen.node, other.node, seen.server_id))
        }
        None => Ok(()),
    }
}

/// A server whose log lost its end does not get that back from others: it passes over what carries its own id. `MariaDB` takes it
/// nevertheless as a semi-synchronous replica.
fn no_lost_own(seen: &Seen, primary: &Seen) -> Result<(), String> {
    let lost = seen.lost_own(primary);
    let (is_mariadb, node) = (seen.dialect == Dialect::MariaDb, &seen.node);
    if lost.is_empty() || (is_mariadb && seen.semi_sync.replica) {
        return Ok(());
    }
    let remedy = if is_mariadb {
        "set rpl_semi_sync_slave_enabled=ON there, or make it anew from another node"
    } else {
        "make it anew from another node"
    };
    Err(format!(
        "{node} has lost transactions that it wrote itself and {} has: {lost}; it would pass over them silently: {remedy}",
        primary.node
    ))
}

fn only_writable(survey: &Survey) -> Result<(&Seen, String), String> {
    let writable: Vec<&Seen> = survey.writable().collect();
    match writable[..] {
        [one] => Ok((one, one.node.to_string())),
        [] => Err("none is".to_owned()),
        _ => {
            let names: Vec<&str> = writable.iter().map(|seen| seen.node.as_str()).collect();
            Err(format!("{} are", names.join(" and ")))
        }
    }
}

fn named<'a>(survey: &'a Survey, from: &Seen, name: &str) -> Result<(&'a Seen, String), String> {
    if from.node.as_str() == name {
        return Err(format!("{name} is the writer already"));
    }
    let seen = survey.node(name).ok_or_else(|| format!("{name} does not answer"))?;
    Ok((seen, name.to_owned()))
}

/// The enabled replica of the highest priority, with the least lag of those.
fn best_replica<'a>(survey: &'a Survey, from: &Seen) -> Result<(&'a Seen, String), String> {
    let lag = |seen: &Seen| seen.source_of(from).and_then(|source| source.lag).unwrap_or(u64::MAX);
    let order = |a: &&Seen, b: &&Seen| {
        b.priority.cmp(&a.priority).then_with(|| lag(a).cmp(&lag(b))).then_with(|| a.node.cmp(&b.node))
    };
    let fit = |seen: &&Seen| seen.enabled && seen.source_of(from).is_some_and(|s| s.trouble().is_none());
    let best = survey.seen.iter().filter(fit).min_by(order);
    best.map(|seen| (seen, seen.node.to_string()))
        .ok_or_else(|| format!("no enabled node replicates from {}", from.node))
}

fn enabled(seen: &Seen) -> Result<String, String> {
    if seen.enabled {
        Ok(seen.node.to_string())
    } else {
        Err(format!("an operator set {} to drain or maintenance", seen.node))
    }
}

fn replicates(node: &Seen, primary: &Seen, max_lag: Duration) -> Result<String, String> {
    let Some(source) = node.source_of(primary) else {
        return Err(format!("{} does not replicate from {}", node.node, primary.node));
    };
    if let Some(trouble) = source.trouble() {
        return Err(format!("{}: {trouble}", node.node));
    }
    match source.lag {
        Some(lag) if Duration::from_secs(lag) <= max_lag => Ok(format!("both threads run, {lag} s behind")),
        Some(lag) => Err(format!("{} is {lag} s behind", node.node)),
        None => Err(format!("how far {} is behind is unknown", node.node)),
    }
}

fn comparable(node: &Seen, primary: &Seen) -> Result<String, String> {
    match node.source_of(primary) {
        Some(source) if source.by_gtid => Ok("by GTID".to_owned()),
        Some(source) if source.executed.is_some() && primary.end.is_some() => Ok("by coordinates".to_owned()),
        _ => Err(format!("{} tells no end of its binary log", primary.node)),
    }
}

/// The others replicate from it by GTID, what they lack may come from the old primary.
fn fit_for_primary(seen: &Seen) -> Result<String, String> {
    let node = &seen.node;
    match seen.sources[..] {
        [ref source] if !source.by_gtid => Err(format!("{node} does not replicate by GTID")),
        [_] if seen.end.is_none() => Err(format!("{node} writes no binary log")),
        [_] if !seen.logs_updates => Err(format!("{node} does not log what it replicates")),
        [_] => Ok("by GTID, with a binary log".to_owned()),
        _ => Err(format!("{node} replicates from {} servers", seen.sources.len())),
    }
}

fn no_errant(node: &Seen, primary: &Seen) -> Result<String, String> {
    if !node.gtids || !primary.gtids {
        return Err(format!("{} or {} has no GTIDs", node.node, primary.node));
    }
    let errant = node.errant(primary);
    if errant.is_empty() {
        return Ok("it has not".to_owned());
    }
    Err(format!("{} has transactions that {} lacks: {errant}", node.node, primary.node))
}

fn credentials(terms: Terms) -> Result<String, String> {
    if terms.has_credentials {
        Ok("handover.replication_user".to_owned())
    } else {
        Err("handover.replication_user is not set".to_owned())
    }
}

#[cfg(test)]
mod tests;
