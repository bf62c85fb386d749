//! Asks the nodes: one probe task per node, one account loader per cluster, and one task for each cluster that discovers
//! members.
//!
//! The tasks end only when their handle is dropped or the process stops; a failure of theirs is a
//! verdict about a node or cluster, never the end of the task.

mod asking;
mod chronicle;
mod client;
mod discovery;
mod fingerprint;
pub mod live;
mod loader;
mod mariadb_tables;
mod members;
mod mysql_tables;
mod nodes;
mod probe;
mod quiescence;
mod verdict;
mod whereabouts;

use std::sync::Arc;

use tokio::sync::mpsc;
use tokio::task::JoinSet;

use crate::accounts::{AccountStore, ReloadRequest};
use crate::config::{Cluster, Config};
use crate::metrics::Metrics;
use crate::net::Names;
use crate::topology::TopologyStore;

pub use loader::Loader;

/// What all monitor tasks share.
#[derive(Debug, Clone)]
pub struct Monitors {
    /// Where verdicts go.
    pub topology: Arc<TopologyStore>,
    /// Where accounts go.
    pub accounts: Arc<AccountStore>,
    /// Names of addresses.
    pub names: Names,
    /// Where failures are counted.
    pub metrics: Arc<Metrics>,
}

impl Monitors {
    /// Starts a probe task for every node of the configuration, and what discovers and probes others. Dropping the set
    /// ends them all.
    pub fn probe(&self, config: &Config) -> JoinSet<std::convert::Infallible> {
        let mut tasks = JoinSet::new();
        for cluster in config.clusters.values() {
            for node in &cluster.nodes {
                tasks.spawn(probe::run(self.clone(), cluster.clone(), node.clone()));
            }
            if let Some(discover) = cluster.discover.clone() {
                tasks.spawn(discovery::run(self.clone(), cluster.clone(), discover));
            }
        }
        tasks
    }

    /// A cluster of the configuration together with the members that were discovered.
    fn with_guests(&self, mut cluster: Cluster) -> Cluster {
        if cluster.discover.is_some() {
            let topology = self.topology.load();
            let nodes = topology.cluster(cluster.name.as_str()).map_or(&[][..], |known| &known.nodes);
            let guests = nodes.iter().filter(|node| node.discovered.is_some());
            cluster.nodes.extend(guests.map(discovery::as_configured));
        }
        cluster
    }

    /// Logs every change of a cluster or node, for ever.
    pub fn chronicle(&self) -> impl Future<Output = std::convert::Infallible> + use<> {
        chronicle::run(Arc::clone(&self.topology), Arc::clone(&self.metrics))
    }

    /// The account loader, which serves the store's reload requests.
    pub fn loader(&self, config: &Config, requests: mpsc::Receiver<ReloadRequest>) -> Loader {
        Loader::new(self.clone(), config, requests)
    }
}
