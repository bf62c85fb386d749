//! Which nodes that serve are no members of their cluster: they say to belong to another set of nodes; and which cannot be
//! told apart. Pure.
//!
//! Two halves of what was one cluster, or a node that was set up anew beside the others, accept everything and replicate
//! nothing to each other; only the name of their set tells them apart.

use std::collections::BTreeMap;

use super::{Cluster, Desired, Node, Observed};
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

/// What is wrong where nodes that serve have the same server id, in one line.
pub(super) fn doubles(cluster: &Cluster) -> Option<String> {
    let number = |node: &Node| match node.observed {
        Observed::Up { server_id, .. } if node.desired != Desired::Maintenance => server_id,
        _ => None,
    };
    let mut by_number: BTreeMap<u32, Vec<&str>> = BTreeMap::new();
    for node in &cluster.nodes {
        if let Some(number) = number(node) {
            by_number.entry(number).or_default().push(node.name.as_str());
        }
    }
    let double = by_number.into_iter().filter(|(_, names)| names.len() > 1);
    let words: Vec<String> = double
        .map(|(number, names)| format!("{} have the same server_id {number}", names.join(" and ")))
        .collect();
    let outcome = "each passes over what the other one wrote, and the writer can not be changed";
    (!words.is_empty()).then(|| format!("{}: {outcome}", words.join("; ")))
}

/// In one line.
pub(super) fn alarm(strangers: &BTreeMap<NodeName, String>) -> String {
    let each: Vec<String> = strangers.iter().map(|(node, reason)| format!("{node}: {reason}")).collect();
    format!("nodes of another cluster serve nothing: {}", each.join("; "))
}
