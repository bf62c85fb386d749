//! Which nodes that serve are no members of their cluster: they say to belong to another set of nodes. Pure.
//!
//! Two halves of what was one cluster, or a node that was set up anew beside the others, accept everything and replicate
//! nothing to each other; only the name of their set tells them apart.

use std::collections::BTreeMap;

use super::{Cluster, Observed};
use crate::ids::NodeName;

/// The nodes of another set than most of those that serve, each with the reason. Where no set has most nodes, the
/// last writer's is the right one, or else that of the first node.
pub(super) fn strangers(cluster: &Cluster) -> BTreeMap<NodeName, String> {
    let groups: Vec<(&NodeName, &str)> = cluster
        .nodes
        .iter()
        .filter_map(|node| match &node.observed {
            Observed::Up { group: Some(group), .. } => Some((&node.name, group.as_str())),
            _ => None,
        })
        .collect();
    let size = |group: &str| groups.iter().filter(|(_, other)| *other == group).count();
    let agreed = cluster.leadership.agreed.as_ref();
    let right = groups
        .iter()
        .enumerate()
        .max_by_key(|(index, (name, group))| (size(group), Some(*name) == agreed, std::cmp::Reverse(*index)))
        .map(|(_, (_, group))| *group);
    let Some(right) = right else { return BTreeMap::new() };
    groups
        .iter()
        .filter(|(_, group)| *group != right)
        .map(|(name, group)| ((*name).clone(), format!("member of {group}, while the cluster is {right}")))
        .collect()
}

/// In one line.
pub(super) fn alarm(strangers: &BTreeMap<NodeName, String>) -> String {
    let each: Vec<String> = strangers.iter().map(|(node, reason)| format!("{node}: {reason}")).collect();
    format!("nodes of another cluster serve nothing: {}", each.join("; "))
}
