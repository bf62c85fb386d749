//! Whether clients can be served now, for load balancers and orchestrators.

use serde::Serialize;

use super::Control;
use crate::config::Service;
use crate::lifecycle::Phase;
use crate::topology::Topology;

/// Whether Spillway is ready, and if not, why. Holds nothing that a stranger must not see: no address, no account,
/// no words of a server.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Readiness {
    /// The phase is `serving` and every service can take a session on at least one of its clusters.
    pub ready: bool,
    /// The phase of the process's life.
    pub phase: &'static str,
    /// Clusters that can take no session of a service now, and why. A service that has another cluster is ready
    /// nevertheless.
    pub reasons: Vec<String>,
}

impl Control {
    /// Looks at every service: it is ready when one of its clusters has accounts and a node for a new session.
    pub fn readiness(&self) -> Readiness {
        let phase = self.lifecycle.phase();
        let (config, topology) = (self.config.load(), self.topology.load());
        let mut reasons = Vec::new();
        let mut every_service = true;
        for service in config.services.values() {
            let before = reasons.len();
            reasons.extend(self.closed_clusters(service, &topology));
            every_service &= reasons.len() - before < service.clusters().len();
        }
        Readiness { ready: phase == Phase::Serving && every_service, phase: phase.as_str(), reasons }
    }

    /// One line for each cluster that can take no session of the service.
    fn closed_clusters(&self, service: &Service, topology: &Topology) -> Vec<String> {
        let closed = |name| {
            let problem = if self.accounts.cluster(name).is_none() {
                "its accounts were never read"
            } else if topology.cluster(name.as_str()).is_none_or(|c| c.choose(service.node).is_err()) {
                "no node can take a session"
            } else {
                return None;
            };
            Some(format!("service {}: cluster {name}: {problem}", service.name))
        };
        service.clusters().iter().filter_map(closed).collect()
    }
}
