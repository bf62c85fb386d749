//! What changed in the clusters, and when: a bounded list, oldest first.

use std::collections::VecDeque;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, SystemTime};

use super::{Cluster, Node, Observed, Topology};
use crate::ids::{ClusterName, NodeName};

/// How many events are kept.
const KEPT: usize = 1000;

/// Evidence that is older had no part in a change.
const FRESH: Duration = Duration::from_secs(10);

/// What an event is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum EventKind {
    /// What probes see of a node.
    Observed,
    /// What an operator wants of a node.
    Desired,
    /// Who serves the writes of a cluster.
    Writer,
    /// Something that a person must look at, or its end.
    Alarm,
    /// A member that was discovered, or is no longer there.
    Member,
    /// A change of the writer by Spillway.
    Handover,
}

impl EventKind {
    /// The word for it in tables and the log.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Observed => "observed",
            Self::Desired => "desired",
            Self::Writer => "writer",
            Self::Alarm => "alarm",
            Self::Member => "member",
            Self::Handover => "handover",
        }
    }
}

/// One change.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Event {
    /// Counts from 1, without a gap.
    pub number: u64,
    /// When it was noticed.
    pub at: SystemTime,
    /// The cluster.
    pub cluster: ClusterName,
    /// The node; none where the whole cluster is meant.
    pub node: Option<NodeName>,
    /// What it is about.
    pub kind: EventKind,
    /// How it was.
    pub before: String,
    /// How it is.
    pub after: String,
    /// What traffic had told of the node shortly before.
    pub evidence: Option<String>,
}

/// The list.
#[derive(Debug, Default)]
pub(super) struct Journal(Mutex<Entries>);

#[derive(Debug, Default)]
struct Entries {
    last: u64,
    kept: VecDeque<Event>,
}

impl Journal {
    /// Adds what is different in `new`.
    pub(super) fn note(&self, old: &Topology, new: &Topology) {
        self.add(between(old, new));
    }

    /// Adds something that shows in no node.
    pub(super) fn add(&self, changes: Vec<Event>) {
        let mut entries = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        for change in changes {
            entries.last += 1;
            let number = entries.last;
            if entries.kept.len() == KEPT {
                entries.kept.pop_front();
            }
            entries.kept.push_back(Event { number, ..change });
        }
    }

    /// The events that are kept and have a higher number.
    pub(super) fn after(&self, number: u64) -> Vec<Event> {
        let entries = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        entries.kept.iter().filter(|event| event.number > number).cloned().collect()
    }
}

/// The changes of clusters and nodes that are in both, and the discovered members that are in one only.
fn between(old: &Topology, new: &Topology) -> Vec<Event> {
    let mut events = Vec::new();
    for (name, cluster) in &new.clusters {
        let Some(before) = old.clusters.get(name) else { continue };
        of_members(before, cluster, &mut events);
        for node in &cluster.nodes {
            if let Some(known) = before.node(node.name.as_str()) {
                of_node(cluster, known, node, &mut events);
            }
        }
        of_cluster(before, cluster, &mut events);
    }
    events
}

fn of_members(old: &Cluster, new: &Cluster, events: &mut Vec<Event>) {
    let mut add = |node: &Node, before, after| {
        let (number, at, kind) = (0, SystemTime::now(), EventKind::Member);
        let (cluster, node) = (new.name.clone(), Some(node.name.clone()));
        events.push(Event { number, at, cluster, node, kind, before, after, evidence: None });
    };
    let only_in = |one: &'_ Cluster, other: &Cluster| -> Vec<(Node, String)> {
        let alone = one.nodes.iter().filter(|node| other.node(node.name.as_str()).is_none());
        alone.filter_map(|node| Some((node.clone(), node.discovered.clone()?))).collect()
    };
    for (node, listed_by) in only_in(new, old) {
        add(&node, "none".to_owned(), format!("joined at {}, listed by {listed_by}", node.address));
    }
    for (node, _) in only_in(old, new) {
        add(&node, in_words(&node), "left".to_owned());
    }
}

fn of_node(cluster: &Cluster, old: &Node, new: &Node, events: &mut Vec<Event>) {
    let mut add = |kind, before: String, after: String, evidence| {
        let (number, at) = (0, SystemTime::now());
        let (cluster, node) = (cluster.name.clone(), Some(new.name.clone()));
        events.push(Event { number, at, cluster, node, kind, before, after, evidence });
    };
    if old.desired != new.desired {
        add(EventKind::Desired, old.desired.as_str().to_owned(), new.desired.as_str().to_owned(), None);
    }
    if standing(old) != standing(new) {
        let evidence = new.suspicion.last().filter(|(at, _)| at.elapsed().is_ok_and(|age| age < FRESH));
        let evidence = evidence.map(|(_, evidence)| evidence.to_string());
        add(EventKind::Observed, in_words(old), in_words(new), evidence);
    }
}

fn of_cluster(old: &Cluster, new: &Cluster, events: &mut Vec<Event>) {
    let mut add = |kind, before, after| {
        let (number, at) = (0, SystemTime::now());
        let cluster = new.name.clone();
        events.push(Event { number, at, cluster, node: None, kind, before, after, evidence: None });
    };
    let writer = |cluster: &Cluster| cluster.writer().map_or("none".to_owned(), |node| node.name.to_string());
    if writer(old) != writer(new) {
        add(EventKind::Writer, writer(old), writer(new));
    }
    let alarm = |cluster: &Cluster| cluster.leadership.alarm.clone().unwrap_or_else(|| "none".to_owned());
    if alarm(old) != alarm(new) {
        add(EventKind::Alarm, alarm(old), alarm(new));
    }
}

/// What makes a difference for sessions, apart from what operators want.
fn standing(node: &Node) -> (&'static str, bool, bool, bool, Option<&str>) {
    let (writable, readable) = match node.observed {
        Observed::Up { writable, readable, .. } => (writable, readable),
        _ => (false, false),
    };
    (node.observed.word(), writable, readable, node.spared, node.stranger.as_deref())
}

fn in_words(node: &Node) -> String {
    format!("{} ({})", node.observed.word(), node.reason())
}
