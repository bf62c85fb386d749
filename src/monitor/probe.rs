//! One task per node: ask, judge, tell the topology, wait.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tracing::{info, warn};

use super::Monitors;
use super::client::{AskError, Client, own_login, takes_header, text};
use super::verdict::{Findings, Source, judge};
use crate::backend::Row;
use crate::config::{ClientAddress, Cluster, ClusterKind, Node};
use crate::topology::{self, Facts, Observed, Topology};

const GALERA_STATUS: &str = "SHOW GLOBAL STATUS WHERE Variable_name IN \
    ('wsrep_ready', 'wsrep_cluster_status', 'wsrep_local_state', 'wsrep_local_state_comment')";
const GALERA_VARIABLES: &str =
    "SHOW GLOBAL VARIABLES WHERE Variable_name IN ('read_only', 'wsrep_reject_queries')";
// Asked plainly: in one statement with a table, MariaDB 10.11 reports a wrong value.
const READ_ONLY: &str = "SELECT @@global.read_only";

/// How soon a node that took no PROXY header is asked again.
const PROVE_AGAIN: Duration = Duration::from_secs(15);

/// Evidence from traffic makes a node's probes follow each other as closely as this, and no closer.
const ROUSED: Duration = Duration::from_millis(100);

/// Probes a node for ever.
pub(super) async fn run(monitors: Monitors, cluster: Cluster, node: Node) -> Infallible {
    let mut probe = Probe { monitors, cluster, node, client: None, good: 0, proved: Instant::now() };
    loop {
        let begun = Instant::now();
        let seen = probe.look().await;
        probe.tell(seen).await;
        probe.rest(begun).await;
    }
}

/// The interval, longer or shorter by at most that share of it, so that probes of many proxies do
/// not fall together.
fn jittered(interval: Duration, jitter: f64) -> Duration {
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
    /// Good probes in a row.
    good: u32,
    /// When the node was last asked to take a PROXY header.
    proved: Instant,
}

impl Probe {
    /// One verdict. A kept connection that fails says little about the node: a fresh one decides. And an answer that
    /// does not come is asked for again, until enough were missed.
    async fn look(&mut self) -> Observed {
        let mut missed = 0;
        loop {
            let kept = self.client.is_some();
            let error = match self.ask().await {
                Ok(findings) => {
                    return judge(self.cluster.kind, &findings, self.cluster.monitor.max_lag);
                }
                Err(error) => error,
            };
            self.client = None;
            self.monitors.metrics.probe_failed(&self.cluster.name, &self.node.name);
            let again = match error {
                AskError::TimedOut(_) => {
                    missed += 1;
                    missed < self.cluster.monitor.fall
                }
                _ => kept,
            };
            if !again {
                return Observed::down(error.to_string());
            }
        }
    }

    /// Waits for the next probe: the interval, or less when traffic has trouble with the node.
    async fn rest(&self, begun: Instant) {
        let interval = jittered(self.cluster.monitor.interval, self.cluster.monitor.jitter);
        let topology = self.monitors.topology.load();
        let Some(node) = known(&topology, &self.cluster, &self.node) else {
            return tokio::time::sleep(interval).await;
        };
        tokio::select! {
            () = tokio::time::sleep(interval) => {}
            () = node.suspicion.roused() => tokio::time::sleep(ROUSED.saturating_sub(begun.elapsed())).await,
        }
    }

    async fn ask(&mut self) -> Result<Findings, AskError> {
        let limit = self.cluster.monitor.timeout;
        let mut client = match self.client.take() {
            Some(client) => client,
            None => Client::connect(&self.cluster, &self.node, limit).await?,
        };
        let findings = match self.cluster.kind {
            ClusterKind::Galera => galera(&mut client, limit).await?,
            ClusterKind::Replication | ClusterKind::MultiPrimary => {
                let mut findings = read_only(&mut client, limit).await?;
                findings.sources = Some(match sources(&mut client, limit).await {
                    Ok(sources) => Ok(sources),
                    Err(AskError::Server { message, .. }) => Err(message),
                    Err(e) => return Err(e),
                });
                findings
            }
            ClusterKind::Static => read_only(&mut client, limit).await?,
        };
        self.client = Some(client);
        Ok(findings)
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

async fn galera(client: &mut Client, limit: Duration) -> Result<Findings, AskError> {
    let mut pairs = client.pairs(GALERA_STATUS, limit).await?;
    pairs.extend(client.pairs(GALERA_VARIABLES, limit).await?);
    let values = pairs.into_iter().map(|(name, value)| (name.to_ascii_lowercase(), value)).collect();
    Ok(Findings { values, sources: None })
}

async fn read_only(client: &mut Client, limit: Duration) -> Result<Findings, AskError> {
    let value = client.value(READ_ONLY, limit).await?;
    Ok(Findings { values: [("read_only".to_owned(), value)].into(), sources: None })
}

async fn sources(client: &mut Client, limit: Duration) -> Result<Vec<Source>, AskError> {
    let rows = client.rows("SHOW ALL SLAVES STATUS", limit).await?;
    rows.iter()
        .map(|row| {
            Ok(Source {
                name: column(row, "Connection_name")?,
                io: column(row, "Slave_IO_Running")?,
                sql: column(row, "Slave_SQL_Running")?,
                lag: column(row, "Seconds_Behind_Master")?.parse().ok(),
            })
        })
        .collect()
}

fn column(row: &Row, name: &'static str) -> Result<String, AskError> {
    let index = row.columns().iter().position(|column| column.eq_ignore_ascii_case(name));
    index.map_or(Err(AskError::Shape(name)), |i| text(row, i))
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
