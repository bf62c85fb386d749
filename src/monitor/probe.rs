//! One task per node: ask, judge, tell the topology, wait.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use tracing::{info, warn};

use super::Monitors;
use super::asking;
use super::client::{AskError, Client, own_login, takes_header};
use super::quiescence::Quiescence;
use super::verdict::{Findings, judge};
use super::whereabouts::Whereabouts;
use crate::config::{ClientAddress, Cluster, Node};
use crate::topology::{self, Facts, Observed, Sighting, Topology};

/// How soon a node that took no PROXY header is asked again.
const PROVE_AGAIN: Duration = Duration::from_secs(15);

/// Evidence from traffic makes a node's probes follow each other as closely as this, and no closer.
const ROUSED: Duration = Duration::from_millis(100);

/// While a cluster has lost its writer, its nodes are probed as often as this at least: whoever becomes the next one is waited
/// for.
const WITHOUT_WRITER: Duration = Duration::from_millis(200);

/// How long a Spillway that starts watches which node of a Galera cluster is written to.
const USE: Duration = Duration::from_millis(300);

/// Errors of a server that has no room for one more connection, of anybody or of the monitor account.
const FULL: &[u16] = &[1040, 1203, 1226];

/// Probes a node for ever.
pub(super) async fn run(monitors: Monitors, cluster: Cluster, node: Node) -> Infallible {
    let mut probe = Probe {
        monitors,
        cluster,
        node,
        client: None,
        whereabouts: Whereabouts::new(),
        quiescence: None,
        good: 0,
        paused: None,
        proved: Instant::now(),
    };
    loop {
        let begun = Instant::now();
        let seen = probe.look().await;
        probe.tell(seen).await;
        probe.rest(begun).await;
    }
}

/// The interval, longer or shorter by at most that share of it, so that probes of many proxies do
/// not fall together.
pub(super) fn jittered(interval: Duration, jitter: f64) -> Duration {
    let mut byte = [0];
    // Without random numbers the interval is just exact.
    let _ = getrandom::fill(&mut byte);
    let factor = 1.0 + jitter * (f64::from(byte[0]) / 127.5 - 1.0);
    interval.mul_f64(factor.max(0.0))
}

struct Probe {
    monitors: Monitors,
    cluster: Cluster,
    node: Node,
    client: Option<Client>,
    /// Where the node's name leads, as against where the client is.
    whereabouts: Whereabouts,
    /// Who has the lock by which nothing new begins on the node, as it was seen last.
    quiescence: Option<Quiescence>,
    /// Good probes in a row.
    good: u32,
    /// How long flow control had stopped the node in all, when that was last read.
    paused: Option<(Instant, Duration)>,
    /// When the node was last asked to take a PROXY header.
    proved: Instant,
}

impl Probe {
    /// One verdict. A kept connection that fails says little about the node: a fresh one decides. And an answer that
    /// does not come is asked for again, until enough were missed.
    async fn look(&mut self) -> Observed {
        if let Some(moved) = self.moved().await {
            return moved;
        }
        let mut missed = 0;
        loop {
            let kept = self.client.is_some();
            let error = match self.ask().await {
                Ok(mut findings) => {
                    self.judge_quiescence(&mut findings).await;
                    if let Some(before) = self.first_writes(&findings) {
                        tokio::time::sleep(USE).await;
                        if let Ok(after) = self.ask().await {
                            self.tell_use(before, &after);
                        }
                    }
                    return judge(self.cluster.kind, &findings, &self.cluster.monitor);
                }
                Err(error) => error,
            };
            self.client = None;
            self.monitors.metrics.probe_failed(&self.cluster.name, &self.node.name);
            let again = match error {
                AskError::TimedOut(_) => {
                    self.monitors.topology.unanswered(&self.cluster.name, &self.node.name);
                    missed += 1;
                    missed < self.cluster.monitor.fall
                }
                _ => kept,
            };
            if again {
                continue;
            }
            return match error {
                AskError::Server { code, .. } if FULL.contains(&code) => self.as_before(&error),
                error => Observed::down(error.to_string()),
            };
        }
    }

    /// Whether nothing new is to begin on the node: anybody can take a lock, and one that dies may keep it for a while.
    async fn judge_quiescence(&mut self, findings: &mut Findings) {
        let Some(holder) = findings.quiesced_by() else {
            self.quiescence = None;
            return;
        };
        if self.quiescence.as_ref().is_none_or(|known| !known.is_of(holder)) {
            self.quiescence = Quiescence::of(holder, &self.cluster, &self.node, &mut self.client).await;
        }
        if !self.quiescence.as_ref().is_some_and(|known| known.counts(&self.cluster)) {
            findings.disbelieve();
        }
    }

    /// How many writesets a Galera node has sent to the others, while no writer of the cluster is known and the node was not
    /// looked at before.
    fn first_writes(&self, findings: &Findings) -> Option<u64> {
        let topology = self.monitors.topology.load();
        let cluster = topology.cluster(self.cluster.name.as_str())?;
        let is_new = cluster.node(self.node.name.as_str())?.observed == Observed::Unknown;
        (is_new && cluster.leadership.agreed.is_none()).then(|| findings.writesets()).flatten()
    }

    /// Tells how many more it has sent since.
    fn tell_use(&self, before: u64, after: &Findings) {
        // A node that restarted counts from nothing.
        if let Some(sent) = after.writesets().and_then(|after| after.checked_sub(before)) {
            self.monitors.topology.used(&self.cluster.name, &self.node.name, sent);
        }
    }

    /// The verdict over a node whose name leads elsewhere now: it is down for one probe, so that sessions and links leave
    /// the server that it was, and what answers next is greeted as another one.
    async fn moved(&mut self) -> Option<Observed> {
        let connected = self.client.as_ref()?.peer_ip();
        let found = self.whereabouts.left(&self.node.address, connected).await?;
        self.client = None;
        let found: Vec<String> = found.iter().map(ToString::to_string).collect();
        let (host, from) = (&self.node.address.host, connected.map_or_else(String::new, |ip| ip.to_string()));
        Some(Observed::down(format!("{host} leads to {} now, no longer to {from}", found.join(", "))))
    }

    /// A node that is full takes no probe either, but serves those who are there.
    fn as_before(&self, error: &AskError) -> Observed {
        let topology = self.monitors.topology.load();
        let before = known(&topology, &self.cluster, &self.node).map(|node| node.observed.clone());
        let mut before = before.filter(Observed::is_up).unwrap_or_else(|| Observed::down(error.to_string()));
        // Whether that lasts is not known, and it never does for long.
        if let Observed::Up { quiesced, .. } = &mut before {
            *quiesced = false;
        }
        before
    }

    /// Waits for the next probe: the interval, or less when traffic has trouble with the node, or there is no writer.
    async fn rest(&self, begun: Instant) {
        let interval = jittered(self.cluster.monitor.interval, self.cluster.monitor.jitter);
        let rested = tokio::time::sleep(interval);
        let topology = self.monitors.topology.load();
        let Some(node) = known(&topology, &self.cluster, &self.node) else {
            return rested.await;
        };
        tokio::select! {
            () = rested => {}
            () = node.suspicion.roused() => tokio::time::sleep(ROUSED.saturating_sub(begun.elapsed())).await,
            () = self.writer_lost() => tokio::time::sleep(WITHOUT_WRITER.saturating_sub(begun.elapsed())).await,
        }
    }

    /// Waits until the cluster had a writer and has none.
    async fn writer_lost(&self) {
        let mut changes = self.monitors.topology.subscribe();
        loop {
            let topology = self.monitors.topology.load();
            let cluster = topology.cluster(self.cluster.name.as_str());
            if cluster.is_some_and(|c| c.leadership.agreed.is_some() && !c.leadership.serves) {
                return;
            }
            if changes.changed().await.is_err() {
                std::future::pending::<()>().await;
            }
        }
    }

    async fn ask(&mut self) -> Result<Findings, AskError> {
        let begun = Instant::now();
        let limit = self.cluster.monitor.timeout;
        let mut client = if let Some(client) = self.client.take() {
            client
        } else {
            self.whereabouts = Whereabouts::new();
            Client::connect(&self.cluster, &self.node, limit).await?
        };
        let mut findings = asking::ask(&mut client, &self.cluster).await?;
        self.client = Some(client);
        findings.paused = self.paused(&findings);
        let (at, took, facts) = (SystemTime::now(), begun.elapsed(), findings.facts());
        let sighting = Sighting { at, took, facts };
        self.monitors.topology.sight(&self.cluster.name, &self.node.name, sighting);
        Ok(findings)
    }

    /// The share of the time since the probe before in which flow control stopped the node.
    fn paused(&mut self, findings: &Findings) -> Option<f64> {
        let total: u64 = findings.values.get("wsrep_flow_control_paused_ns")?.parse().ok()?;
        let (now, total) = (Instant::now(), Duration::from_nanos(total));
        let (since, before) = self.paused.replace((now, total))?;
        // A node that restarted counts from nothing.
        let paused = total.checked_sub(before)?;
        Some((paused.as_secs_f64() / now.duration_since(since).as_secs_f64()).min(1.0))
    }

    async fn tell(&mut self, seen: Observed) {
        let topology = Arc::clone(&self.monitors.topology);
        let was_up = self.is_known_up();
        self.good = if seen.is_up() { self.good.saturating_add(1) } else { 0 };
        if seen.is_up() && self.good < self.cluster.monitor.rise && self.is_known_down() {
            let (good, rise) = (self.good, self.cluster.monitor.rise);
            self.observe(Observed::down(format!("comes back: {good} of {rise} good probes")));
            return;
        }
        if seen.is_up() && !was_up {
            // A node that comes (back) may be another server than before: greet it before use.
            match own_login(&self.cluster, &self.node).await {
                Ok((mut facts, _)) => {
                    facts.takes_header = self.takes_header().await;
                    topology.learn(&self.cluster.name, &self.node.name, facts);
                }
                Err(e) => {
                    self.observe(Observed::down(format!("login by Spillway failed: {e}")));
                    return;
                }
            }
        }
        if was_up {
            self.prove_again().await;
        }
        self.observe(seen);
    }

    /// Proves that the node takes PROXY headers, where that is wanted.
    async fn takes_header(&mut self) -> bool {
        let ClientAddress::Announced(version) = self.cluster.client_address else { return false };
        self.proved = Instant::now();
        let (cluster, node) = (&self.cluster.name, &self.node.name);
        match takes_header(&self.cluster, &self.node, version).await {
            Ok(()) => {
                info!(%cluster, %node, "the node takes PROXY headers");
                true
            }
            Err(reason) => {
                warn!(%cluster, %node, reason, "the node does not take PROXY headers: its cluster is guarded");
                false
            }
        }
    }

    /// A node that took no header is asked again now and then: its configuration may have changed.
    async fn prove_again(&mut self) {
        if !matches!(self.cluster.client_address, ClientAddress::Announced(_))
            || self.proved.elapsed() < PROVE_AGAIN
        {
            return;
        }
        let topology = self.monitors.topology.load();
        let node = known(&topology, &self.cluster, &self.node);
        let Some(facts) = node.and_then(|n| n.facts.as_deref()).filter(|facts| !facts.takes_header) else {
            return;
        };
        let facts = Facts { takes_header: self.takes_header().await, ..facts.clone() };
        self.monitors.topology.learn(&self.cluster.name, &self.node.name, facts);
    }

    fn is_known_up(&self) -> bool {
        let topology = self.monitors.topology.load();
        known(&topology, &self.cluster, &self.node).is_some_and(|n| n.facts.is_some() && n.observed.is_up())
    }

    fn is_known_down(&self) -> bool {
        let topology = self.monitors.topology.load();
        known(&topology, &self.cluster, &self.node)
            .is_some_and(|n| matches!(n.observed, Observed::Down { .. }))
    }

    fn observe(&self, seen: Observed) {
        self.monitors.topology.observe(&self.cluster.name, &self.node.name, seen);
    }
}

fn known<'a>(topology: &'a Topology, cluster: &Cluster, node: &Node) -> Option<&'a topology::Node> {
    topology.cluster(cluster.name.as_str())?.node(node.name.as_str())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn jitter_stays_within_its_share() {
        for _ in 0..200 {
            let wait = jittered(Duration::from_secs(1), 0.1);
            assert!((Duration::from_millis(899)..=Duration::from_millis(1101)).contains(&wait), "{wait:?}");
        }
        assert_eq!(jittered(Duration::from_secs(1), 0.0), Duration::from_secs(1));
    }
}
