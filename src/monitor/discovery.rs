//! One task per cluster that discovers members: asks the nodes whom they list, adds those that prove to be members, probes
//! them, and forgets them once they are gone.
//!
//! What a node lists is dialled only inside the networks that the operator gave, as an IP address that was resolved once:
//! no name leads elsewhere afterwards. A server there learns no more than a node does of the monitor account.

use std::collections::{BTreeMap, BTreeSet};
use std::convert::Infallible;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use tokio::net::lookup_host;
use tokio::task::{AbortHandle, JoinSet};
use tokio::time::{sleep, timeout};
use tracing::{debug, info, warn};

use super::members::{Listed, Member, admit, ask};
use super::{Monitors, probe};
use crate::config::{self, Cluster, ClusterKind, Discover};
use crate::ids::{NodeAddr, NodeName};
use crate::topology::{Node, Observed};

/// The most members of a cluster that are discovered, and the most addresses that are dialled in one look.
const MAX_MEMBERS: usize = 64;

/// How long a name of a member may take to resolve.
const RESOLVING: Duration = Duration::from_secs(2);

/// Discovers the members of a cluster for ever.
pub(super) async fn run(monitors: Monitors, cluster: Cluster, discover: Discover) -> Infallible {
    let mut discovery = Discovery {
        monitors,
        cluster,
        discover,
        probes: JoinSet::new(),
        probed: BTreeMap::new(),
        identities: BTreeMap::new(),
        gone: BTreeMap::new(),
        said: BTreeMap::new(),
    };
    loop {
        discovery.probe_guests();
        let is_known = discovery.survey().await;
        discovery.probe_guests();
        if is_known {
            discovery.monitors.topology.surveyed(&discovery.cluster.name);
        }
        sleep(probe::jittered(discovery.discover.interval, discovery.cluster.monitor.jitter)).await;
    }
}

struct Discovery {
    monitors: Monitors,
    cluster: Cluster,
    discover: Discover,
    probes: JoinSet<Infallible>,
    /// The probe of each member that was discovered.
    probed: BTreeMap<NodeName, AbortHandle>,
    /// What each node last said to be.
    identities: BTreeMap<NodeName, String>,
    /// Since when a discovered member is down and listed by nobody.
    gone: BTreeMap<NodeName, Instant>,
    /// What was last said in the log of an address or node, lest it be said each time.
    said: BTreeMap<String, String>,
}

/// A server that a node lists and that is none of the nodes, as far as addresses tell.
#[derive(Debug, Clone)]
struct Candidate {
    address: SocketAddr,
    listed: Listed,
    lister: NodeName,
}

/// What one look found of the members that are there.
#[derive(Debug, Default)]
struct Roll {
    /// What nodes answered.
    answers: BTreeMap<NodeName, Member>,
    /// Nodes that are listed by one that answered.
    listed: BTreeSet<NodeName>,
    /// Servers that are listed and not known.
    candidates: BTreeMap<SocketAddr, Candidate>,
    /// What was found out about addresses and nodes, for the log.
    notes: BTreeMap<String, String>,
}

impl Discovery {
    /// One look at the members. Whether any node answered.
    async fn survey(&mut self) -> bool {
        let topology = self.monitors.topology.load();
        let Some(known) = topology.cluster(self.cluster.name.as_str()).cloned() else { return false };
        let mut roll = Roll::default();
        self.ask_all(&known.nodes, &mut roll).await;
        let addresses = addresses(&known.nodes).await;
        self.read_lists(&addresses, &mut roll).await;
        self.drop_doubles(&known.nodes);
        let room = MAX_MEMBERS.saturating_sub(self.probed.len());
        if roll.candidates.len() > room {
            let note = format!("lists more members than the {MAX_MEMBERS} that are looked at");
            roll.notes.insert(format!("cluster {}", self.cluster.name), note);
        }
        self.examine(room, &mut roll).await;
        let answered = !roll.answers.is_empty();
        if answered {
            self.forget(&known.nodes, &roll.listed);
        }
        self.report(roll.notes);
        answered
    }

    /// Asks every node that is not known to be down, all at once.
    async fn ask_all(&mut self, nodes: &[Node], roll: &mut Roll) {
        let mut tasks = JoinSet::new();
        let is_asked =
            |node: &&Node| !matches!(node.observed, Observed::Down { .. }) && node.stranger.is_none();
        for node in nodes.iter().filter(is_asked) {
            let (cluster, node) = (self.cluster.clone(), as_configured(node));
            tasks.spawn(async move { (node.name.clone(), ask(&cluster, &node).await) });
        }
        for (name, answer) in tasks.join_all().await {
            match answer {
                Ok(member) => {
                    if let Some(silent) = &member.silent {
                        roll.notes.insert(format!("node {name}"), format!("does not list members: {silent}"));
                    }
                    self.identities.extend(member.identity.clone().map(|identity| (name.clone(), identity)));
                    roll.answers.insert(name, member);
                }
                // The node's probe tells of that.
                Err(error) => {
                    debug!(cluster = %self.cluster.name, node = %name, %error, "members not listed");
                }
            }
        }
        self.identities.retain(|name, _| nodes.iter().any(|node| node.name == *name));
    }

    /// Sorts what the nodes list into nodes that are known and candidates.
    async fn read_lists(&self, addresses: &BTreeMap<SocketAddr, NodeName>, roll: &mut Roll) {
        let marks: BTreeMap<String, NodeName> = roll
            .answers
            .iter()
            .filter_map(|(name, member)| Some((member.mark.clone()?, name.clone())))
            .collect();
        let listings: Vec<(NodeName, Listed)> = roll
            .answers
            .iter()
            .flat_map(|(lister, member)| member.listed.iter().map(|listed| (lister.clone(), listed.clone())))
            .collect();
        let mut resolved: BTreeMap<NodeAddr, Vec<SocketAddr>> = BTreeMap::new();
        for (lister, listed) in listings {
            if let Some(name) = listed.mark.as_ref().and_then(|mark| marks.get(mark)) {
                roll.listed.insert(name.clone());
                continue;
            }
            let at = match resolved.get(&listed.address) {
                Some(at) => at.clone(),
                None => {
                    resolved.entry(listed.address.clone()).or_insert(resolve(&listed.address).await).clone()
                }
            };
            if let Some(name) = at.iter().find_map(|address| addresses.get(address)) {
                roll.listed.insert(name.clone());
                continue;
            }
            let Some(address) = at.iter().copied().find(|address| self.discover.allows(address.ip())) else {
                let note = if at.is_empty() {
                    "is listed as a member, and its name cannot be resolved"
                } else {
                    "is listed as a member, and lies outside the networks of discover"
                };
                roll.notes.insert(listed.address.to_string(), note.to_owned());
                continue;
            };
            roll.candidates.entry(address).or_insert(Candidate { address, listed, lister });
        }
    }

    /// Removes discovered members that turned out to be other nodes, reached by another address.
    fn drop_doubles(&mut self, nodes: &[Node]) {
        let mut seen: BTreeMap<&String, &NodeName> = BTreeMap::new();
        let mut doubles = Vec::new();
        for node in nodes {
            let Some(identity) = self.identities.get(&node.name) else { continue };
            match seen.get(identity) {
                Some(first) if node.discovered.is_some() => {
                    doubles.push((node.name.clone(), (*first).clone()));
                }
                Some(_) => {}
                None => {
                    seen.insert(identity, &node.name);
                }
            }
        }
        for (double, first) in doubles {
            info!(cluster = %self.cluster.name, node = %double, same_as = %first, "a member is a node under another address");
            self.part(&double);
        }
    }

    /// Logs in to every candidate, and lets those join that are members.
    async fn examine(&mut self, room: usize, roll: &mut Roll) {
        let mut tasks = JoinSet::new();
        for candidate in roll.candidates.values().take(room).cloned() {
            let Some(node) = newcomer(candidate.address) else { continue };
            let cluster = self.cluster.clone();
            tasks.spawn(async move {
                let found = match ask(&cluster, &node).await {
                    Ok(found) if cluster.kind == ClusterKind::Galera => {
                        lists_itself(&found, candidate.address).await.map(|()| found)
                    }
                    other => other.map_err(|e| e.to_string()),
                };
                (candidate, node, found)
            });
        }
        for (candidate, node, found) in tasks.join_all().await {
            let Candidate { address, listed, lister } = candidate;
            let verdict = found.and_then(|found| {
                let of_lister = roll.answers.get(&lister).ok_or("the node that lists it is gone")?;
                admit(of_lister, &listed, &found).map(|()| found)
            });
            match verdict {
                Ok(found) => self.welcome(&node, &lister, found, roll),
                Err(reason) => {
                    let note = format!("is listed as a member by {lister}, and is none: {reason}");
                    roll.notes.insert(address.to_string(), note);
                }
            }
        }
    }

    /// Lets a member join, unless it is a node already.
    fn welcome(&mut self, node: &config::Node, lister: &NodeName, found: Member, roll: &mut Roll) {
        let same = self.identities.iter().find(|(_, identity)| Some(*identity) == found.identity.as_ref());
        if let Some((name, _)) = same {
            roll.listed.insert(name.clone());
            roll.notes.insert(node.address.to_string(), format!("is node {name} under another address"));
            return;
        }
        if self.monitors.topology.join(&self.cluster.name, node, lister.as_str()) {
            roll.listed.insert(node.name.clone());
            self.identities.extend(found.identity.map(|identity| (node.name.clone(), identity)));
        } else {
            let note = format!("is a member, and its name {} is taken by another node", node.name);
            roll.notes.insert(node.address.to_string(), note);
        }
    }

    /// Lets discovered members go that are down and that nobody lists any more, after a while.
    fn forget(&mut self, nodes: &[Node], listed: &BTreeSet<NodeName>) {
        let is_gone = |node: &&Node| {
            node.discovered.is_some()
                && !listed.contains(&node.name)
                && (matches!(node.observed, Observed::Down { .. }) || node.stranger.is_some())
        };
        let gone: BTreeSet<&NodeName> = nodes.iter().filter(is_gone).map(|node| &node.name).collect();
        self.gone.retain(|name, _| gone.contains(name));
        let now = Instant::now();
        for name in gone {
            let since = *self.gone.entry(name.clone()).or_insert(now);
            if now.duration_since(since) >= self.discover.forget_after {
                self.part(name);
            }
        }
    }

    fn part(&mut self, name: &NodeName) {
        self.monitors.topology.part(&self.cluster.name, name);
        self.gone.remove(name);
        self.identities.remove(name);
    }

    /// Starts the probes of members that joined, and ends those of members that left. The others go on.
    fn probe_guests(&mut self) {
        let topology = self.monitors.topology.load();
        let nodes = topology.cluster(self.cluster.name.as_str()).map_or(&[][..], |cluster| &cluster.nodes);
        let guests: Vec<&Node> = nodes.iter().filter(|node| node.discovered.is_some()).collect();
        self.probed.retain(|name, task| {
            let stays = guests.iter().any(|node| node.name == *name);
            if !stays {
                task.abort();
            }
            stays
        });
        for node in guests {
            if !self.probed.contains_key(&node.name) {
                let probe = probe::run(self.monitors.clone(), self.cluster.clone(), as_configured(node));
                self.probed.insert(node.name.clone(), self.probes.spawn(probe));
            }
        }
        while self.probes.try_join_next().is_some() {}
    }

    /// Logs what is new.
    fn report(&mut self, notes: BTreeMap<String, String>) {
        for (what, note) in &notes {
            if self.said.get(what) != Some(note) {
                warn!(cluster = %self.cluster.name, what, note, "discovery");
            }
        }
        self.said = notes;
    }
}

/// A node of the topology as the configuration would have it.
pub(super) fn as_configured(node: &Node) -> config::Node {
    let Node { name, address, weight, priority, .. } = node;
    config::Node { name: name.clone(), address: address.clone(), weight: *weight, priority: *priority }
}

/// A node for a member at this address, with the weight and priority of one of which the file says nothing. Its name is
/// the same whenever it comes.
fn newcomer(at: SocketAddr) -> Option<config::Node> {
    let ip = at.ip().to_canonical();
    let family = if ip.is_ipv6() { "v6-" } else { "" };
    let name = format!("{family}{}-{}", ip.to_string().replace(':', "-"), at.port()).parse().ok()?;
    let address = NodeAddr { host: ip.to_string(), port: at.port() };
    Some(config::Node { name, address, weight: 100, priority: 0 })
}

/// Every address of every node. Those of the configuration win over those that were discovered.
async fn addresses(nodes: &[Node]) -> BTreeMap<SocketAddr, NodeName> {
    let mut found = BTreeMap::new();
    for node in nodes {
        for address in resolve(&node.address).await {
            found.entry(address).or_insert_with(|| node.name.clone());
        }
    }
    found
}

/// All addresses of a name, in their canonical form and in order; none where it cannot be resolved now.
async fn resolve(address: &NodeAddr) -> Vec<SocketAddr> {
    let looked_up = timeout(RESOLVING, lookup_host((address.host.as_str(), address.port))).await;
    let canonical = |at: SocketAddr| SocketAddr::new(at.ip().to_canonical(), at.port());
    let found: BTreeSet<SocketAddr> =
        looked_up.ok().and_then(Result::ok).into_iter().flatten().map(canonical).collect();
    found.into_iter().collect()
}

/// Whether a Galera node has the address that others list for it: otherwise another server may answer there.
async fn lists_itself(found: &Member, at: SocketAddr) -> Result<(), String> {
    for listed in &found.listed {
        if resolve(&listed.address).await.contains(&at) {
            return Ok(());
        }
    }
    Err("it does not list itself".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_name_of_a_member_is_made_from_its_address() {
        for (address, name, shown) in [
            ("10.0.0.2:3306", "10.0.0.2-3306", "10.0.0.2:3306"),
            ("[fd00::2]:3307", "v6-fd00--2-3307", "[fd00::2]:3307"),
            ("[::1]:3306", "v6---1-3306", "[::1]:3306"),
            ("[::ffff:10.0.0.2]:3306", "10.0.0.2-3306", "10.0.0.2:3306"),
        ] {
            let node = newcomer(address.parse().expect("address")).expect("a name");
            assert_eq!((node.name.as_str(), node.address.to_string().as_str()), (name, shown));
        }
    }
}
