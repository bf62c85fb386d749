//! One node: what is wanted of it, what was seen of it, and its sessions.

use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant, SystemTime};

use arc_swap::ArcSwapOption;
use serde::{Deserialize, Serialize};

use super::suspicion::Suspicion;
use crate::config;
use crate::ids::{NodeAddr, NodeName};
use crate::wire::Capabilities;

/// What an operator wants of a node.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Desired {
    /// Serve.
    #[default]
    Enabled,
    /// Take no new sessions; those that are there go on at other nodes as they can.
    Drain,
    /// Serve nothing; sessions that cannot go on elsewhere in time are ended.
    Maintenance,
}

impl Desired {
    /// The word that operators use.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Enabled => "enabled",
            Self::Drain => "drain",
            Self::Maintenance => "maintenance",
        }
    }
}

impl std::str::FromStr for Desired {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "enabled" => Ok(Self::Enabled),
            "drain" => Ok(Self::Drain),
            "maintenance" => Ok(Self::Maintenance),
            other => Err(format!("unknown state {other:?}; expected enabled, drain or maintenance")),
        }
    }
}

/// What the last probe saw.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Observed {
    /// No probe has ended yet.
    Unknown,
    /// The node serves.
    Up {
        /// It accepts writes.
        writable: bool,
        /// It may answer reads: its data are recent enough.
        readable: bool,
        /// Why it is spared while enough others can serve, such as `receive queue of 120`; none: it is not.
        strain: Option<String>,
        /// The part of its weight in percent that it can bear now, 1 to 100.
        share: u8,
        /// Which set of nodes it says to be a member of, where its kind of cluster knows that: nodes that say another one
        /// do not replicate with each other.
        group: Option<String>,
        /// The id by which servers that replicate tell their transactions apart, where its kind of cluster needs that.
        server_id: Option<u32>,
        /// Whether somebody is about to change the writer, and has nothing new begin on this one.
        quiesced: bool,
        /// In words, such as `Synced, Primary` or `read_only=ON, replica threads run`.
        detail: String,
    },
    /// The node must not be used, and why.
    Down {
        /// In words, such as `wsrep_ready is OFF` or `connect: connection refused`.
        reason: String,
    },
}

impl Observed {
    /// A node that serves without any strain.
    pub fn up(writable: bool, readable: bool, detail: impl Into<String>) -> Self {
        let detail = detail.into();
        let (strain, group, server_id, quiesced) = (None, None, None, false);
        Self::Up { writable, readable, strain, share: 100, group, server_id, quiesced, detail }
    }

    /// The same, a member of this set of nodes.
    #[must_use]
    pub fn in_group(mut self, name: Option<String>) -> Self {
        if let Self::Up { group, .. } = &mut self {
            *group = name;
        }
        self
    }

    /// The same, with this server id.
    #[must_use]
    pub fn numbered(mut self, number: Option<u32>) -> Self {
        if let Self::Up { server_id, .. } = &mut self {
            *server_id = number;
        }
        self
    }

    /// The same, where nothing new is to begin.
    #[must_use]
    pub fn quiesced(mut self) -> Self {
        if let Self::Up { quiesced, .. } = &mut self {
            *quiesced = true;
        }
        self
    }

    /// A node that must not be used.
    pub fn down(reason: impl Into<String>) -> Self {
        Self::Down { reason: reason.into() }
    }

    /// Whether the node serves at all.
    pub fn is_up(&self) -> bool {
        matches!(self, Self::Up { .. })
    }

    /// One word for tables and metrics.
    pub fn word(&self) -> &'static str {
        match self {
            Self::Unknown => "unknown",
            Self::Up { .. } => "up",
            Self::Down { .. } => "down",
        }
    }

    /// The words behind the verdict.
    pub fn detail(&self) -> &str {
        match self {
            Self::Unknown => "not probed yet",
            Self::Up { detail, .. } => detail,
            Self::Down { reason } => reason,
        }
    }
}

/// What a node may serve now.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Role {
    /// The cluster's writer; it serves reads as well.
    Writer,
    /// Reads.
    Reader,
    /// Nothing.
    None,
}

impl Role {
    /// One word for tables and metrics.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Writer => "writer",
            Self::Reader => "reader",
            Self::None => "none",
        }
    }
}

/// What a login on a node tells about the server, as its greeting says it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Facts {
    /// Version text of the greeting.
    pub version: String,
    /// Everything the server can do.
    pub capabilities: Capabilities,
    /// Default collation id.
    pub collation: u8,
    /// The address that it sees Spillway's connections come from.
    pub sees: Option<IpAddr>,
    /// The name that it has for that address, if it told one.
    pub calls: Option<String>,
    /// Whether it proved to take a PROXY header for the address of the client.
    pub takes_header: bool,
}

/// How many sessions a node has now. Survives every snapshot in which the node does.
#[derive(Debug, Default)]
pub struct Load(AtomicU32);

impl Load {
    /// Sessions on the node now.
    pub fn sessions(&self) -> u32 {
        self.0.load(Ordering::Relaxed)
    }

    /// Counts one session until the returned value is dropped.
    pub fn enter(self: &Arc<Self>) -> LoadGuard {
        self.0.fetch_add(1, Ordering::Relaxed);
        LoadGuard(Arc::clone(self))
    }
}

/// One counted session of a node.
#[derive(Debug)]
pub struct LoadGuard(Arc<Load>);

impl Drop for LoadGuard {
    fn drop(&mut self) {
        self.0.0.fetch_sub(1, Ordering::Relaxed);
    }
}

/// What a probe saw, for people.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sighting {
    /// When the answer was complete.
    pub at: SystemTime,
    /// How long the question and its answer took.
    pub took: Duration,
    /// Names and values.
    pub facts: Vec<(String, String)>,
}

/// One server of a cluster.
#[derive(Debug, Clone)]
pub struct Node {
    /// Its name within the cluster.
    pub name: NodeName,
    /// Where it listens.
    pub address: NodeAddr,
    /// Share of the sessions; 0: only when no other node is there.
    pub weight: u16,
    /// Preference as the writer; higher first.
    pub priority: u16,
    /// Who listed it, where it was discovered; none: the configuration names it.
    pub discovered: Option<String>,
    /// The operator's wish.
    pub desired: Desired,
    /// The probes' verdict.
    pub observed: Observed,
    /// When the verdict last changed.
    pub since: SystemTime,
    /// When it came back, while it is up after it was down.
    pub recovered: Option<Instant>,
    /// How much it was written to while Spillway first looked at it, in transactions; none: nobody looked.
    pub used: Option<u64>,
    /// Whether its strain keeps sessions away from it now; see [`config::RoleRules::max_ejected`].
    pub spared: bool,
    /// Why it is no member of its cluster although it serves; none: it is one.
    pub stranger: Option<String>,
    /// What the last probe that was answered saw.
    pub sighting: Arc<ArcSwapOption<Sighting>>,
    /// What its greeting said; none before the first login.
    pub facts: Option<Arc<Facts>>,
    /// Its sessions.
    pub load: Arc<Load>,
    /// What traffic told of it; wakes its probe.
    pub suspicion: Arc<Suspicion>,
}

impl Node {
    pub(super) fn new(from: &config::Node) -> Self {
        Self {
            name: from.name.clone(),
            address: from.address.clone(),
            weight: from.weight,
            priority: from.priority,
            discovered: None,
            desired: Desired::Enabled,
            observed: Observed::Unknown,
            since: SystemTime::now(),
            recovered: None,
            used: None,
            spared: false,
            stranger: None,
            sighting: Arc::default(),
            facts: None,
            load: Arc::default(),
            suspicion: Arc::default(),
        }
    }

    /// Whether new sessions may go here.
    pub fn takes_sessions(&self) -> bool {
        self.desired == Desired::Enabled && self.observed.is_up() && self.stranger.is_none()
    }

    /// Why nothing may be asked of it any more: it is down, or a member of another cluster; none: it serves.
    pub fn lost(&self) -> Option<&str> {
        match &self.observed {
            Observed::Down { reason } => Some(reason),
            _ => self.stranger.as_deref(),
        }
    }

    /// Why sessions that are here now must go; none if they may stay.
    pub fn must_be_left(&self) -> Option<String> {
        let maintained = || (self.desired == Desired::Maintenance).then_some("maintenance");
        self.lost().or_else(maintained).map(str::to_owned)
    }

    /// Whether it accepts writes, whatever an operator wants of it.
    pub(super) fn accepts_writes(&self) -> bool {
        self.stranger.is_none() && matches!(self.observed, Observed::Up { writable: true, .. })
    }

    /// Whether it may serve writes now.
    pub(super) fn writable(&self) -> bool {
        self.takes_sessions() && !self.spared && self.accepts_writes()
    }

    /// Whether it may serve reads now.
    pub fn readable(&self) -> bool {
        self.takes_sessions() && !self.spared && matches!(self.observed, Observed::Up { readable: true, .. })
    }

    /// Whether it has been up for so long, or ever since Spillway first saw it.
    pub(super) fn is_steady(&self, now: Instant, time: Duration) -> bool {
        self.observed.is_up() && self.recovered.is_none_or(|since| now.duration_since(since) >= time)
    }

    /// Its weight, as far as it can bear it now: less under pressure, and growing after it came back.
    pub(super) fn bearing(&self, now: Instant, slow_start: Option<Duration>) -> u64 {
        let share = match self.observed {
            Observed::Up { share, .. } => u64::from(share),
            _ => 100,
        };
        let grown = match (self.recovered, slow_start) {
            (Some(since), Some(slow)) => {
                (now.duration_since(since).as_millis() * 100 / slow.as_millis().max(1)).clamp(1, 100)
            }
            _ => 100,
        };
        (u64::from(self.weight) * share * u64::try_from(grown).unwrap_or(100)).max(1)
    }

    /// The words behind the verdict, with why a node that is up is set aside nevertheless.
    pub fn reason(&self) -> String {
        let aside = match &self.observed {
            Observed::Up { strain: Some(strain), .. } if self.spared => format!(", spared: {strain}"),
            _ => self.stranger.as_ref().map(|reason| format!(", {reason}")).unwrap_or_default(),
        };
        format!("{}{aside}", self.observed.detail())
    }

    /// Why no new session may go here, in words.
    pub fn refusal(&self) -> String {
        match (self.desired, &self.observed) {
            (Desired::Drain | Desired::Maintenance, _) => {
                format!("{}: {} by an operator", self.name, self.desired.as_str())
            }
            (_, Observed::Up { .. }) if self.stranger.is_some() => {
                format!("{}: {}", self.name, self.stranger.as_deref().unwrap_or_default())
            }
            (_, Observed::Up { strain: Some(strain), .. }) if self.spared => {
                format!("{}: {strain}", self.name)
            }
            (_, Observed::Up { detail, .. }) => format!("{}: {detail}", self.name),
            (_, seen) => format!("{}: {}", self.name, seen.detail()),
        }
    }
}
