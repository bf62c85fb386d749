//! How many links a node gets, and who waits when there are no more: first come, first served, and bounded.
//!
//! A node has one [`Gate`] that all workers share. Whoever opens a link holds a [`Slot`] for as long as the link is
//! open, idle or not. When all slots are taken, or the node itself said error 1040, sessions queue; the longest waiting
//! one gets the next slot, or the very link that was given back if it is one that it can use.

use std::collections::{HashMap, VecDeque};
use std::hash::RandomState;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::{oneshot, watch};
use tokio::time::{Instant, timeout_at};

use super::pool::{Key, Parked};
use crate::ids::{ClusterName, NodeName};

/// The gates of all nodes.
#[derive(Debug)]
pub struct Gates {
    of_nodes: Mutex<HashMap<(ClusterName, NodeName), Arc<Gate>>>,
    /// Counts the times that somebody began to wait: workers then give up links that they only keep.
    waiting: watch::Sender<u64>,
    /// Of the keys of links; one for all workers, since they hand links to each other.
    hasher: RandomState,
}

/// How many links a node has, for operators.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct NodeLinks {
    /// Links to the node, in use or idle.
    pub open: u32,
    /// Those that wait in a pool for the next session.
    pub idle: u32,
    /// Sessions that wait for a link.
    pub waiting: u32,
}

/// Admits links to one node.
#[derive(Debug)]
pub(super) struct Gate {
    state: Mutex<State>,
    idle: AtomicU32,
    announce: watch::Sender<u64>,
}

#[derive(Debug, Default)]
struct State {
    /// Slots that are held.
    open: u32,
    /// As many as the configuration allows.
    max: Option<u32>,
    /// As many as the node took when it last said that it takes no more.
    learned: Option<u32>,
    queue: VecDeque<Waiter>,
}

#[derive(Debug)]
struct Waiter {
    key: Option<Arc<Key>>,
    grant: oneshot::Sender<Grant>,
}

/// What a waiting session gets.
#[derive(Debug)]
pub(super) enum Grant {
    /// The right to open a link.
    Slot(Slot),
    /// A clean link of another session, with its slot.
    Link(Box<Parked>),
}

/// The right to have one link open. The next in the queue gets it when it is dropped.
#[derive(Debug)]
pub struct Slot(Option<Arc<Gate>>);

/// Why there is no slot.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum NoSlot {
    /// As many wait as may.
    QueueFull,
    /// The time is over.
    TimedOut,
}

// === impl Gates ===

impl Default for Gates {
    fn default() -> Self {
        Self { of_nodes: Mutex::default(), waiting: watch::Sender::new(0), hasher: RandomState::new() }
    }
}

impl Gates {
    pub(super) fn hasher(&self) -> &RandomState {
        &self.hasher
    }

    pub(super) fn of(&self, cluster: &ClusterName, node: &NodeName) -> Arc<Gate> {
        let mut gates = self.of_nodes.lock().unwrap_or_else(PoisonError::into_inner);
        let gate = gates.entry((cluster.clone(), node.clone()));
        Arc::clone(gate.or_insert_with(|| Arc::new(Gate::new(self.waiting.clone()))))
    }

    /// How many links a node has now.
    pub fn links(&self, cluster: &ClusterName, node: &NodeName) -> NodeLinks {
        let gates = self.of_nodes.lock().unwrap_or_else(PoisonError::into_inner);
        gates.get(&(cluster.clone(), node.clone())).map_or_else(NodeLinks::default, |gate| gate.links())
    }

    /// Tells when somebody begins to wait for a link of any node.
    pub(super) fn subscribe(&self) -> watch::Receiver<u64> {
        self.waiting.subscribe()
    }

    /// Lets every full node be tried once more, and forgets the gates of nodes that nobody uses.
    pub(super) fn retry_full(&self) {
        let all: Vec<Arc<Gate>> = {
            let mut gates = self.of_nodes.lock().unwrap_or_else(PoisonError::into_inner);
            gates.retain(|_, gate| Arc::strong_count(gate) > 1 || !gate.is_unused());
            gates.values().cloned().collect()
        };
        for gate in all {
            gate.retry();
        }
    }
}

// === impl Gate ===

impl Gate {
    fn new(announce: watch::Sender<u64>) -> Self {
        Self { state: Mutex::default(), idle: AtomicU32::new(0), announce }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn links(&self) -> NodeLinks {
        let state = self.lock();
        let waiting = u32::try_from(state.queue.len()).unwrap_or(u32::MAX);
        NodeLinks { open: state.open, idle: self.idle.load(Ordering::Relaxed), waiting }
    }

    fn is_unused(&self) -> bool {
        let state = self.lock();
        state.open == 0 && state.queue.is_empty()
    }

    pub(super) fn idle(&self) -> &AtomicU32 {
        &self.idle
    }

    /// How many sessions wait.
    pub(super) fn waiting(&self) -> usize {
        self.lock().queue.len()
    }

    /// A slot, if one is free and nobody waits for it. `max`: as many as the configuration allows.
    pub(super) fn try_slot(self: &Arc<Self>, max: Option<u32>) -> Option<Slot> {
        let mut state = self.lock();
        state.max = max;
        (state.queue.is_empty() && state.has_room()).then(|| {
            state.open += 1;
            Slot(Some(Arc::clone(self)))
        })
    }

    /// Waits for a slot, or for a link of this key, until the deadline. `again`: whoever waited before goes to the head
    /// of the queue. Cancel safe: the place in the queue is lost.
    pub(super) async fn wait(
        self: &Arc<Self>,
        key: Option<Arc<Key>>,
        most: u32,
        again: bool,
        deadline: Instant,
    ) -> Result<Grant, NoSlot> {
        let granted = {
            let mut state = self.lock();
            state.queue.retain(|waiter| !waiter.grant.is_closed());
            if state.queue.len() >= most as usize && !again {
                return Err(NoSlot::QueueFull);
            }
            let (grant, granted) = oneshot::channel();
            let waiter = Waiter { key, grant };
            if again {
                state.queue.push_front(waiter);
            } else {
                state.queue.push_back(waiter);
            }
            granted
        };
        self.announce.send_modify(|times| *times += 1);
        match timeout_at(deadline, granted).await {
            Ok(Ok(grant)) => Ok(grant),
            Ok(Err(_)) | Err(_) => Err(NoSlot::TimedOut),
        }
    }

    /// Gives a clean link to the session that has waited longest. Returns it when nobody waits, or when it is of no use
    /// there: then the caller closes it, and its slot goes to the queue.
    pub(super) fn offer(&self, parked: Box<Parked>) -> Option<Box<Parked>> {
        let mut offered = parked;
        loop {
            let waiter = {
                let mut state = self.lock();
                let of_use = state
                    .queue
                    .front()
                    .is_some_and(|w| w.key.as_deref().is_some_and(|key| offered.is_of(key)));
                if !of_use {
                    return Some(offered);
                }
                state.queue.pop_front()
            };
            match waiter.map(|w| w.grant.send(Grant::Link(offered))) {
                Some(Err(Grant::Link(back))) => offered = back,
                _ => return None,
            }
        }
    }

    /// The node took one more link than it had taken before it said 1040.
    pub(super) fn accepted(self: &Arc<Self>) {
        {
            let mut state = self.lock();
            let Some(learned) = state.learned else { return };
            state.learned = Some(learned.saturating_add(1));
        }
        self.hand_out();
    }

    /// Tries whether a full node takes one more link by now.
    fn retry(self: &Arc<Self>) {
        {
            let mut state = self.lock();
            state.learned = match state.learned {
                Some(_) if state.queue.is_empty() => None,
                Some(learned) => Some(learned.max(state.open).saturating_add(1)),
                None => return,
            };
        }
        self.hand_out();
    }

    /// Gives free slots to those who wait.
    fn hand_out(self: &Arc<Self>) {
        loop {
            let waiter = {
                let mut state = self.lock();
                if !state.has_room() {
                    return;
                }
                let Some(waiter) = state.queue.pop_front() else { return };
                state.open += 1;
                waiter
            };
            let slot = Slot(Some(Arc::clone(self)));
            if let Err(Grant::Slot(mut unclaimed)) = waiter.grant.send(Grant::Slot(slot)) {
                unclaimed.0 = None;
                self.lock().open -= 1;
            }
        }
    }
}

// === impl State ===

impl State {
    fn has_room(&self) -> bool {
        let max = self.max.unwrap_or(u32::MAX).min(self.learned.unwrap_or(u32::MAX));
        self.open < max
    }
}

// === impl Slot ===

impl Slot {
    /// Gives the slot back because the node said that it takes no more links than the others.
    pub(super) fn refused(mut self) {
        if let Some(gate) = self.0.take() {
            let mut state = gate.lock();
            state.open -= 1;
            state.learned = Some(state.open);
        }
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        if let Some(gate) = self.0.take() {
            gate.lock().open -= 1;
            gate.hand_out();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn gate() -> (Gates, Arc<Gate>) {
        let gates = Gates::default();
        let gate = gates.of(&"c".parse().unwrap(), &"n".parse().unwrap());
        (gates, gate)
    }

    fn soon() -> Instant {
        Instant::now() + Duration::from_secs(1)
    }

    async fn slot(gate: &Arc<Gate>, again: bool) -> Slot {
        match gate.wait(None, 10, again, soon()).await {
            Ok(Grant::Slot(slot)) => slot,
            other => panic!("{other:?}"),
        }
    }

    #[tokio::test(start_paused = true)]
    async fn the_longest_waiting_gets_the_next_slot() {
        let (_, gate) = gate();
        let held = gate.try_slot(Some(1)).unwrap();
        assert!(gate.try_slot(Some(1)).is_none());
        let (first, second) = (slot(&gate, false), slot(&gate, false));
        let order = async {
            tokio::join!(
                async {
                    drop(first.await);
                },
                async {
                    // Enqueued behind the first; served after it.
                    let slot = second.await;
                    assert_eq!(gate.links(), NodeLinks { open: 1, idle: 0, waiting: 0 });
                    drop(slot);
                },
                async {
                    tokio::time::sleep(Duration::from_millis(10)).await;
                    assert_eq!(gate.links().waiting, 2);
                    drop(held);
                }
            )
        };
        order.await;
        assert_eq!(gate.links(), NodeLinks::default());
    }

    #[tokio::test(start_paused = true)]
    async fn nobody_overtakes_the_queue() {
        let (_, gate) = gate();
        let held = gate.try_slot(Some(1)).unwrap();
        let waiting = tokio::spawn({
            let gate = Arc::clone(&gate);
            async move { slot(&gate, false).await }
        });
        tokio::task::yield_now().await;
        drop(held);
        assert!(gate.try_slot(Some(1)).is_none(), "the slot is on its way to the one who waits");
        drop(waiting.await.unwrap());
        assert!(gate.try_slot(Some(1)).is_some());
    }

    #[tokio::test(start_paused = true)]
    async fn the_queue_is_bounded_in_length_and_time() {
        let (_, gate) = gate();
        let _held = gate.try_slot(Some(1)).unwrap();
        let waiting = tokio::spawn({
            let gate = Arc::clone(&gate);
            async move { gate.wait(None, 1, false, soon()).await.map(drop) }
        });
        tokio::task::yield_now().await;
        assert_eq!(gate.wait(None, 1, false, soon()).await.map(drop), Err(NoSlot::QueueFull));
        assert_eq!(waiting.await.unwrap(), Err(NoSlot::TimedOut));
        // One that gave up takes no place.
        assert_eq!(gate.wait(None, 1, false, soon()).await.map(drop), Err(NoSlot::TimedOut));
    }

    #[tokio::test(start_paused = true)]
    async fn a_full_node_is_learned_and_tried_again() {
        let (gates, gate) = gate();
        let first = gate.try_slot(None).unwrap();
        gate.try_slot(None).unwrap().refused();
        assert!(gate.try_slot(None).is_none(), "the node takes one link");
        let retried = tokio::spawn({
            let gate = Arc::clone(&gate);
            async move { slot(&gate, true).await }
        });
        tokio::task::yield_now().await;
        gates.retry_full();
        let second = retried.await.unwrap();
        gate.accepted();
        assert_eq!(gate.links().open, 2);
        gates.retry_full();
        assert!(gate.try_slot(None).is_some(), "nobody waits: the limit is forgotten");
        drop((first, second));
    }

    #[tokio::test(start_paused = true)]
    async fn a_slot_that_nobody_took_is_not_lost() {
        let (_, gate) = gate();
        let held = gate.try_slot(Some(1)).unwrap();
        {
            let wait = slot(&gate, false);
            tokio::pin!(wait);
            assert!(tokio::time::timeout(Duration::from_millis(1), &mut wait).await.is_err());
            drop(held);
            // The grant lies in the channel when the one who waited goes away.
        }
        assert_eq!(gate.links().open, 0);
    }
}
