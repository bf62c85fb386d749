//! The stages of the process's life, and the signal that everybody follows.

use tokio::sync::watch;

/// A stage; they only go forward.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Phase {
    /// Sockets are bound; accounts are being loaded.
    Starting,
    /// Clients are served.
    Serving,
    /// No new clients; those that are there may finish until the deadline.
    Draining,
    /// Everything ends now.
    Stopping,
}

impl Phase {
    /// One word for operators.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Starting => "starting",
            Self::Serving => "serving",
            Self::Draining => "draining",
            Self::Stopping => "stopping",
        }
    }
}

/// Where the phase is set and followed.
#[derive(Debug, Clone)]
pub struct Lifecycle(watch::Sender<Phase>);

impl Default for Lifecycle {
    fn default() -> Self {
        Self(watch::Sender::new(Phase::Starting))
    }
}

impl Lifecycle {
    /// The phase now.
    pub fn phase(&self) -> Phase {
        *self.0.borrow()
    }

    /// Goes on to a later phase; an earlier one is ignored.
    pub fn advance(&self, to: Phase) {
        self.0.send_if_modified(|now| {
            let later = to > *now;
            if later {
                *now = to;
            }
            later
        });
    }

    /// Waits until the phase is at least this one. Cancel safe.
    pub async fn reached(&self, phase: Phase) {
        let mut now = self.0.subscribe();
        // The sender lives as long as `self`, so waiting cannot fail.
        let _ = now.wait_for(|p| *p >= phase).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn phases_only_go_forward() {
        let life = Lifecycle::default();
        life.advance(Phase::Draining);
        life.advance(Phase::Serving);
        assert_eq!(life.phase(), Phase::Draining);
        life.reached(Phase::Serving).await;
    }
}
