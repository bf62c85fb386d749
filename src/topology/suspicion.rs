//! What traffic tells of a node: it never decides, it only wakes the node's probe.

use std::fmt;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use arc_swap::ArcSwapOption;
use tokio::sync::Notify;

/// For so long after a node did not answer, connections to it are watched closely.
const WATCHED: Duration = Duration::from_secs(10);

/// Something that went wrong between a session and a node.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Evidence {
    /// The node's machine refused a connection.
    ConnectRefused,
    /// No connection could be made, for another reason.
    ConnectFailed,
    /// A connection broke.
    ConnectionLost,
    /// The system gave up a connection on which the node's machine answered no more.
    Silence,
    /// The node did not answer in time.
    TimedOut,
    /// Spillway itself changed its role.
    Handover,
    /// The node answered with this error.
    Error(u16),
}

impl fmt::Display for Evidence {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::ConnectRefused => f.write_str("a connection was refused"),
            Self::ConnectFailed => f.write_str("a connection could not be made"),
            Self::ConnectionLost => f.write_str("a connection was lost"),
            Self::Silence => f.write_str("a connection died without a word"),
            Self::TimedOut => f.write_str("no answer in time"),
            Self::Handover => f.write_str("a handover changed its role"),
            Self::Error(code) => write!(f, "error {code}"),
        }
    }
}

impl Evidence {
    /// Whether other connections to the node may be dead, too, and nobody was told.
    pub fn is_silence(self) -> bool {
        matches!(self, Self::ConnectFailed | Self::TimedOut | Self::Silence)
    }
}

/// The last evidence about one node, and the bell of its probe. Survives every snapshot in which the node does.
#[derive(Debug, Default)]
pub struct Suspicion {
    last: ArcSwapOption<(SystemTime, Evidence)>,
    bell: Notify,
    /// When it last did not answer.
    silent: ArcSwapOption<Instant>,
}

impl Suspicion {
    /// Keeps the evidence and wakes the probe. Takes no lock.
    pub(super) fn rouse(&self, evidence: Evidence) {
        self.last.store(Some(Arc::new((SystemTime::now(), evidence))));
        self.bell.notify_one();
    }

    /// Has connections to the node watched closely from now on, for a while. Whether they were not before.
    pub(super) fn watch(&self, now: Instant) -> bool {
        let before = self.silent.swap(Some(Arc::new(now)));
        before.is_none_or(|before| before.checked_add(WATCHED).is_none_or(|end| end <= now))
    }

    /// Until when connections to the node are watched closely, if they are: it did not answer not long ago, so others of
    /// its connections may be dead without a word.
    pub fn watched_until(&self, now: Instant) -> Option<Instant> {
        let end = self.silent.load().as_deref()?.checked_add(WATCHED)?;
        (end > now).then_some(end)
    }

    /// The last evidence, with its time.
    pub fn last(&self) -> Option<(SystemTime, Evidence)> {
        self.last.load().as_deref().copied()
    }

    /// Waits for evidence; what came since the last wait counts, once. Cancel safe.
    pub async fn roused(&self) {
        self.bell.notified().await;
    }
}
