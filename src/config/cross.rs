//! What no single value can tell: names that must be known, and addresses that must be used once.

use std::path::PathBuf;

use crate::ids::{ClusterName, ListenAddr, NodeAddr};

use super::problem::{Place, Report, shown};
use super::reader::{Field, one_of};
use super::suggest::nearest;

/// The names and addresses that the file has used so far.
pub(super) struct Index<'a> {
    report: &'a Report<'a>,
    /// Every `[cluster.…]` of the file. `None`: its name breaks the rule, which is reported where it stands, and so
    /// not again wherever the cluster is named.
    clusters: Vec<(&'a str, Option<ClusterName>)>,
    nodes: Vec<(NodeAddr, Place)>,
    listeners: Vec<(ListenAddr, Place)>,
}

impl<'a> Index<'a> {
    pub(super) fn new(report: &'a Report<'a>) -> Self {
        Self { report, clusters: Vec::new(), nodes: Vec::new(), listeners: Vec::new() }
    }

    pub(super) fn add_cluster(&mut self, text: &'a str, name: Option<ClusterName>) {
        self.clusters.push((text, name));
    }

    /// Every cluster of the file, in the order of the names.
    pub(super) fn clusters(&self) -> Vec<ClusterName> {
        let mut names: Vec<_> = self.clusters.iter().filter_map(|(_, name)| name.clone()).collect();
        names.sort();
        names
    }

    /// The cluster called `text`, which `field` says.
    pub(super) fn cluster(&self, field: &Field<'_>, text: &str) -> Option<ClusterName> {
        if let Some((_, name)) = self.clusters.iter().find(|(known, _)| *known == text) {
            return name.clone();
        }
        let known = self.clusters();
        let known = known.iter().map(ClusterName::as_str);
        let expected = one_of(known.clone());
        let message = format!("unknown cluster {}", shown(text));
        self.report.conflict(&field.place, message, expected, nearest(text, known));
        None
    }

    /// The cluster called `text`, which must be one of `reached`.
    pub(super) fn cluster_among(
        &self,
        field: &Field<'_>,
        text: &str,
        reached: Option<&[ClusterName]>,
    ) -> Option<ClusterName> {
        let cluster = self.cluster(field, text)?;
        if let Some(reached) = reached
            && !reached.contains(&cluster)
        {
            let message = format!("this service does not reach cluster \"{cluster}\"");
            let expected = one_of(reached.iter().map(ClusterName::as_str));
            self.report.conflict(&field.place, message, expected, None);
            return None;
        }
        Some(cluster)
    }

    /// Takes the address of a node. One server under two names would be counted, probed and drained as two; and
    /// in two clusters its accounts would open both.
    pub(super) fn claim_node(&mut self, address: &NodeAddr, place: &Place) {
        match self.nodes.iter().find(|(taken, _)| taken == address) {
            Some((_, first)) => self.taken(&format!("{address} is already the address of"), place, first),
            None => self.nodes.push((address.clone(), place.clone())),
        }
    }

    /// Takes an address to listen on.
    pub(super) fn claim_listener(&mut self, address: &ListenAddr, place: &Place) {
        match self.listeners.iter().find(|(taken, _)| collide(taken, address)) {
            Some((taken, first)) if taken == address => {
                self.taken(&format!("{address} is already taken by"), place, first);
            }
            Some((taken, first)) => {
                self.taken(&format!("{address} overlaps {taken}, taken by"), place, first);
            }
            None => self.listeners.push((address.clone(), place.clone())),
        }
    }

    fn taken(&self, what: &str, one: &Place, other: &Place) {
        // Clusters, services and admin are read one after the other, wherever they stand in the file; the reader of
        // the file meets the earlier line first.
        let (first, second) = if one.at < other.at { (one, other) } else { (other, one) };
        let message = format!("{what} {} (line {})", first.key, self.report.line(first));
        self.report.conflict(second, message, None, None);
    }
}

/// Whether the system would refuse to listen on both.
fn collide(a: &ListenAddr, b: &ListenAddr) -> bool {
    match (a, b) {
        (ListenAddr::Tcp(a), ListenAddr::Tcp(b)) => {
            let wildcard = a.ip().is_unspecified() || b.ip().is_unspecified();
            let family = a.is_ipv4() == b.is_ipv4();
            // Port 0 is a different free port each time.
            a.port() != 0 && a.port() == b.port() && (a.ip() == b.ip() || (wildcard && family))
        }
        // `/run//a` is `/run/a`: comparing components sees it.
        (ListenAddr::Unix(a), ListenAddr::Unix(b)) => {
            a.components().collect::<PathBuf>() == b.components().collect::<PathBuf>()
        }
        _ => false,
    }
}
