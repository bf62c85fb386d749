//! What traffic tells of a node: it never decides, it only wakes the node's probe.

use std::fmt;
use std::sync::Arc;
use std::time::SystemTime;

use arc_swap::ArcSwapOption;
use tokio::sync::Notify;

/// Something that went wrong between a session and a node.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Evidence {
    /// The node's machine refused a connection.
    ConnectRefused,
    /// No connection could be made, for another reason.
    ConnectFailed,
    /// A connection broke.
    ConnectionLost,
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
            Self::TimedOut => f.write_str("no answer in time"),
            Self::Handover => f.write_str("a handover changed its role"),
            Self::Error(code) => write!(f, "error {code}"),
        }
    }
}

/// The last evidence about one node, and the bell of its probe. Survives every snapshot in which the node does.
#[derive(Debug, Default)]
pub struct Suspicion {
    last: ArcSwapOption<(SystemTime, Evidence)>,
    bell: Notify,
}

impl Suspicion {
    /// Keeps the evidence and wakes the probe. Takes no lock.
    pub(super) fn rouse(&self, evidence: Evidence) {
        self.last.store(Some(Arc::new((SystemTime::now(), evidence))));
        self.bell.notify_one();
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
