//! Nodes that the configuration does not name: members that were discovered come, and go.

use std::collections::BTreeMap;
use std::time::Instant;

use super::{Cluster, Desired, Node, TopologyStore};
use crate::config::{self, Config};
use crate::ids::{ClusterName, NodeName};

/// What is kept for members that are not there.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Guests {
    /// What operators want of them, should they come (again).
    pub wishes: BTreeMap<NodeName, Desired>,
    /// Whether members were looked for at least once since Spillway started.
    pub surveyed: bool,
}

impl Cluster {
    /// Whether a node that is not there may be one that the first look at the members finds.
    pub(super) fn may_yet_join(&self, node: &NodeName) -> bool {
        self.node(node.as_str()).is_none() && self.guests.as_ref().is_some_and(|guests| !guests.surveyed)
    }

    /// Takes over discovered members from how the cluster was before a new configuration, unless that names them itself
    /// or does not want them.
    pub(super) fn keep_guests(&mut self, old: &Self, config: &Config) {
        let Some(configured) = config.clusters.get(&self.name) else { return };
        let (Some(discover), Some(guests)) = (&configured.discover, &old.guests) else { return };
        if old.kind != self.kind {
            return;
        }
        self.guests = Some(guests.clone());
        let is_named = |node: &Node| {
            configured.nodes.iter().any(|named| named.name == node.name || named.address == node.address)
        };
        let is_allowed =
            |node: &Node| node.address.socket_addr().is_some_and(|address| discover.allows(address.ip()));
        let stay = old.nodes.iter().filter(|node| node.discovered.is_some());
        self.nodes.extend(stay.filter(|node| !is_named(node) && is_allowed(node)).cloned());
    }
}

impl TopologyStore {
    /// Adds a member that was discovered, with what operators want of it. Whether it was added: not where the name or the
    /// address is taken.
    pub fn join(&self, cluster: &ClusterName, member: &config::Node, listed_by: &str) -> bool {
        self.change_members(cluster, |cluster| {
            let is_taken = |node: &Node| node.name == member.name || node.address == member.address;
            if cluster.guests.is_none() || cluster.nodes.iter().any(is_taken) {
                return false;
            }
            let mut node = Node::new(member);
            node.discovered = Some(listed_by.to_owned());
            let wish = cluster.guests.as_mut().and_then(|guests| guests.wishes.remove(&node.name));
            node.desired = wish.unwrap_or_default();
            cluster.nodes.push(node);
            true
        })
    }

    /// Removes a member that was discovered; what operators want of it is kept. Whether it was there.
    pub fn part(&self, cluster: &ClusterName, member: &NodeName) -> bool {
        self.change_members(cluster, |cluster| {
            let is_meant = |node: &Node| node.name == *member && node.discovered.is_some();
            let Some(index) = cluster.nodes.iter().position(is_meant) else { return false };
            let node = cluster.nodes.remove(index);
            if let Some(guests) = cluster.guests.as_mut().filter(|_| node.desired != Desired::Enabled) {
                guests.wishes.insert(node.name, node.desired);
            }
            true
        })
    }

    /// Keeps what operators want of a member that is not there. Whether the cluster discovers members at all.
    pub fn wish_for_guest(&self, cluster: &ClusterName, member: &NodeName, desired: Desired) -> bool {
        self.change_members(cluster, |cluster| {
            let guests = cluster.guests.as_mut();
            guests.map(|guests| guests.wishes.insert(member.clone(), desired)).is_some()
        })
    }

    /// Notes that members were looked for.
    pub fn surveyed(&self, cluster: &ClusterName) {
        self.change_members(cluster, |cluster| {
            cluster.guests.as_mut().is_some_and(|guests| !std::mem::replace(&mut guests.surveyed, true))
        });
    }

    /// Publishes the cluster after a change, if it was one.
    fn change_members(&self, cluster: &ClusterName, change: impl FnOnce(&mut Cluster) -> bool) -> bool {
        let mut changed = false;
        self.replace(|old| {
            let mut cluster = Cluster::clone(old.cluster(cluster.as_str())?);
            changed = change(&mut cluster);
            changed.then(|| {
                cluster.settle(Instant::now());
                old.with(cluster)
            })
        });
        changed
    }
}
