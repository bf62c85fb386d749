//! Sessions that wait because their cluster has no node for them now: how many, and how long.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use tokio::time::{Instant, timeout_at};

use super::registry::Entry;
use crate::config::Moves;
use crate::ids::ClusterName;

/// How many sessions of each cluster wait.
#[derive(Debug, Default)]
pub struct Held(Mutex<HashMap<ClusterName, u32>>);

/// One session that waits, until it is dropped.
#[derive(Debug)]
struct Waiting {
    held: Arc<Held>,
    cluster: ClusterName,
}

/// The patience of one session: from its first wait on, its deadline stays.
#[derive(Debug)]
pub struct Patience<'a> {
    entry: &'a Entry,
    waits: Option<(Instant, Waiting)>,
}

/// Notes that a session waits, until it is dropped.
struct Noted<'a>(&'a Entry);

impl Drop for Noted<'_> {
    fn drop(&mut self) {
        self.0.set_held(false);
    }
}

impl Held {
    /// How many sessions of a cluster wait now.
    pub fn of(&self, cluster: &ClusterName) -> u32 {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).get(cluster).copied().unwrap_or(0)
    }

    fn enter(self: &Arc<Self>, cluster: &ClusterName, max: u32) -> Option<Waiting> {
        let mut counts = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let count = counts.entry(cluster.clone()).or_default();
        if *count >= max {
            return None;
        }
        *count += 1;
        Some(Waiting { held: Arc::clone(self), cluster: cluster.clone() })
    }
}

impl Drop for Waiting {
    fn drop(&mut self) {
        let mut counts = self.held.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(count) = counts.get_mut(&self.cluster) {
            *count -= 1;
            if *count == 0 {
                counts.remove(&self.cluster);
            }
        }
    }
}

impl<'a> Patience<'a> {
    /// That of a session, which has not waited yet.
    pub fn of(entry: &'a Entry) -> Self {
        Self { entry, waits: None }
    }

    /// Waits for `change`. False: the time is up, nobody waits here, or too many do.
    pub async fn wait(
        &mut self,
        held: &Arc<Held>,
        cluster: &ClusterName,
        moves: &Moves,
        change: impl Future,
    ) -> bool {
        let Some(hold) = moves.hold else { return false };
        if self.waits.is_none() {
            self.waits = held.enter(cluster, moves.max_held).map(|waiting| (Instant::now() + hold, waiting));
        }
        match &self.waits {
            Some((deadline, _)) => {
                self.entry.set_held(true);
                let _noted = Noted(self.entry);
                timeout_at(*deadline, change).await.is_ok()
            }
            None => false,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::ids::ClientAddr;
    use crate::session::registry::Registry;

    #[tokio::test(start_paused = true)]
    async fn patience_ends_however_often_something_changes() {
        let held = Arc::new(Held::default());
        let cluster: ClusterName = "shop".parse().unwrap();
        let moves = Moves { hold: Some(Duration::from_secs(5)), max_held: 1, ..Moves::default() };
        let started = Instant::now();
        let registry = Arc::new(Registry::default());
        let session = || registry.register(ClientAddr::Unix { uid: None }, "app".parse().unwrap());
        let (one, other) = (session(), session());
        let mut patience = Patience::of(&one.entry);
        let second = || tokio::time::sleep(Duration::from_secs(1));
        let mut changes = 0;
        while patience.wait(&held, &cluster, &moves, second()).await {
            changes += 1;
            assert_eq!(held.of(&cluster), 1);
            // Nobody else may wait.
            assert!(!Patience::of(&other.entry).wait(&held, &cluster, &moves, second()).await);
        }
        assert_eq!((changes, started.elapsed()), (5, Duration::from_secs(5)));
        assert_eq!((one.entry.held(), other.entry.held()), (Duration::from_secs(5), Duration::ZERO));
        drop(patience);
        assert_eq!(held.of(&cluster), 0);
        let never = Moves { hold: None, ..moves };
        assert!(!Patience::of(&other.entry).wait(&held, &cluster, &never, second()).await);
    }
}
