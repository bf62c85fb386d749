//! The last good accounts of every cluster; the data path reads them without a lock.
//!
//! A cluster whose accounts cannot be read keeps what it had, and the failure is shown beside it.
//! Accounts of different clusters never mix: every question goes to one cluster's snapshot.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use arc_swap::ArcSwap;
use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::timeout;

use crate::config::{ClientAddress, HeaderVersion};
use crate::grants::{Fingerprint, HostIdentity, HostName, Snapshot};
use crate::ids::{ClientAddr, ClusterName, NodeName};

/// How long after a login that failed the next one does not ask for the accounts again, and how long one waits for them.
pub const DOUBT: Duration = Duration::from_secs(1);

/// What was read from one node of a cluster.
#[derive(Debug)]
pub struct ClusterAccounts {
    /// The accounts.
    pub snapshot: Arc<Snapshot>,
    /// This proxy as the node identifies it.
    pub proxy: HostIdentity,
    /// Where it was read.
    pub from: NodeName,
    /// When it was read, or last found to be unchanged.
    pub loaded_at: SystemTime,
    /// What the node made of it then; none: it cannot be told, so that the next look has to read everything.
    pub fingerprint: Option<Fingerprint>,
    /// How many looks in a row found the fingerprint unchanged, and read nothing.
    pub unread: u32,
}

impl ClusterAccounts {
    /// The client as a server of this cluster would have identified it, had it connected directly.
    ///
    /// A client on the proxy's own machine (loopback or Unix socket) would have come from the
    /// proxy's address towards the cluster; only where that address is itself a loopback
    /// address does the server run here and see loopback clients as they are.
    /// `name`: what a resolver says to the client's own address.
    pub fn client_identity(&self, client: &ClientAddr, name: &HostName) -> HostIdentity {
        match self.own_address(client) {
            Some(ip) => self.snapshot.host_identity(ip, name),
            None => self.proxy.clone(),
        }
    }

    /// The address of a client that is not identified as this proxy.
    fn own_address(&self, client: &ClientAddr) -> Option<IpAddr> {
        let proxy_is_local = self.proxy.ip().is_some_and(|ip| ip.is_loopback());
        client.ip().filter(|ip| !ip.is_loopback() || proxy_is_local)
    }

    /// The address whose name must be known to judge a login; none where no name can matter.
    pub fn address_to_resolve(&self, user: &[u8], client: &ClientAddr) -> Option<IpAddr> {
        let ip = HostIdentity::without_name(self.own_address(client)?).ip()?;
        self.snapshot.depends_on_name(user, ip).then_some(ip)
    }

    /// Whether a node of this cluster that has `calls` for the name of the address it sees for this proxy identifies it
    /// as [`Self::proxy`] says.
    pub fn is_proxy(&self, sees: IpAddr, calls: Option<&str>) -> bool {
        let same_name = match (self.proxy.name(), calls) {
            (Some(ours), Some(theirs)) => ours.eq_ignore_ascii_case(theirs),
            (None, None) => true,
            _ => false,
        };
        self.proxy.ip() == Some(sees) && same_name
    }

    /// Whose address a node sees for a client. `takes_headers`: all nodes of the cluster proved that they take PROXY
    /// headers.
    ///
    /// A client on the proxy's own machine is never announced: it has the proxy's address already, and a loopback address
    /// would make it a local client of the server's machine.
    pub fn view(&self, client: &ClientAddr, policy: ClientAddress, takes_headers: bool) -> View {
        let version = match policy {
            ClientAddress::Trust => return View::Trusted,
            ClientAddress::Announced(version) if takes_headers => version,
            ClientAddress::Announced(_) | ClientAddress::Guard => return View::Own,
        };
        let proxy_is_local = self.proxy.ip().is_some_and(|ip| ip.is_loopback());
        let is_loopback_itself =
            |ip: IpAddr| ip == IpAddr::V4(Ipv4Addr::LOCALHOST) || ip == IpAddr::V6(Ipv6Addr::LOCALHOST);
        match client.ip() {
            Some(ip) if ip.is_unspecified() || is_loopback_itself(ip) => View::Own,
            Some(ip) if ip.is_loopback() && !proxy_is_local => View::Own,
            Some(ip) => View::Client(version, ip),
            None => View::Own,
        }
    }

    /// Who the node sees: this proxy, or the client where that is announced or does not matter.
    pub fn seen(&self, view: View, client: &HostIdentity) -> HostIdentity {
        match view {
            View::Own => self.proxy.clone(),
            View::Client(..) | View::Trusted => client.clone(),
        }
    }
}

/// Whose address a node sees on the links of a client.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum View {
    /// Spillway's own.
    Own,
    /// The client's, which a PROXY header names.
    Client(HeaderVersion, IpAddr),
    /// Spillway's own, and the operator answers for it.
    Trusted,
}

/// How the accounts of a node compare with those that were read from another node of its cluster.
#[derive(Debug, Clone)]
pub enum NodeAccounts {
    /// It is not up, or could not be asked.
    Unknown {
        /// Why.
        reason: String,
        /// Accounts of its own, where it had some when it was last asked.
        last: Option<Arc<ClusterAccounts>>,
    },
    /// They are the same.
    Same,
    /// They are not.
    Differ(Arc<Divergence>),
}

impl NodeAccounts {
    /// Accounts of its own, as far as they are known.
    pub fn own(&self) -> Option<&Arc<ClusterAccounts>> {
        match self {
            Self::Unknown { last, .. } => last.as_ref(),
            Self::Same => None,
            Self::Differ(divergence) => Some(&divergence.own),
        }
    }
}

/// The accounts of a node that differ from those in force for its cluster.
#[derive(Debug)]
pub struct Divergence {
    /// Each account whose rows differ, with how; never a hash.
    pub rows: Vec<String>,
    /// Each variable that decides on logins and has another value.
    pub settings: Vec<String>,
    /// The node's own.
    pub own: Arc<ClusterAccounts>,
    /// Digest of those that they were compared with.
    pub reference: [u8; 32],
}

/// How many differences are named; the others are counted.
const NAMED: usize = 5;

impl std::fmt::Display for NodeAccounts {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let divergence = match self {
            Self::Unknown { reason, .. } => return write!(f, "unknown: {reason}"),
            Self::Same => return f.write_str("same"),
            Self::Differ(divergence) => divergence,
        };
        let lists = [("accounts differ", &divergence.rows), ("settings differ", &divergence.settings)];
        for (number, (title, list)) in lists.into_iter().filter(|(_, list)| !list.is_empty()).enumerate() {
            let named: Vec<&str> = list.iter().take(NAMED).map(String::as_str).collect();
            write!(f, "{}{title}: {}", if number > 0 { ". " } else { "" }, named.join("; "))?;
            if list.len() > NAMED {
                write!(f, "; and {} more", list.len() - NAMED)?;
            }
        }
        Ok(())
    }
}

/// Why the last attempt to read a cluster's accounts failed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LoadFailure {
    /// When.
    pub at: SystemTime,
    /// What each node said.
    pub reason: String,
}

/// Accounts of all clusters at one moment.
pub type Accounts = BTreeMap<ClusterName, Arc<ClusterAccounts>>;

/// Of all clusters, the nodes that others were compared with left out.
type Nodes = BTreeMap<ClusterName, BTreeMap<NodeName, NodeAccounts>>;

/// Asks the loader to read a cluster again; the answer comes when it did.
pub type ReloadRequest = (ClusterName, oneshot::Sender<Result<(), String>>);

/// A reading that a login which failed asked for.
#[derive(Debug)]
struct Doubt {
    asked: Instant,
    /// Closed when it is over, or took too long.
    over: watch::Receiver<()>,
}

/// Where the current accounts stand.
#[derive(Debug)]
pub struct AccountStore {
    current: ArcSwap<Accounts>,
    nodes: ArcSwap<Nodes>,
    failures: Mutex<BTreeMap<ClusterName, LoadFailure>>,
    requests: mpsc::Sender<ReloadRequest>,
    /// The last reading of a cluster's accounts that a login which failed asked for.
    doubts: Mutex<BTreeMap<ClusterName, Doubt>>,
    changes: watch::Sender<()>,
}

impl AccountStore {
    /// An empty store, and the queue of reload requests that the loader serves.
    pub fn new() -> (Self, mpsc::Receiver<ReloadRequest>) {
        let (requests, queue) = mpsc::channel(64);
        let store = Self {
            current: ArcSwap::default(),
            nodes: ArcSwap::default(),
            failures: Mutex::default(),
            requests,
            doubts: Mutex::default(),
            changes: watch::Sender::new(()),
        };
        (store, queue)
    }

    /// The current accounts of all clusters.
    pub fn load(&self) -> Arc<Accounts> {
        self.current.load_full()
    }

    /// The current accounts of one cluster; none before its first load.
    pub fn cluster(&self, name: &ClusterName) -> Option<Arc<ClusterAccounts>> {
        self.current.load().get(name).cloned()
    }

    /// Takes what was read. True when the rows differ from those before.
    pub fn store(&self, cluster: &ClusterName, accounts: ClusterAccounts) -> bool {
        let new = Arc::new(accounts);
        let mut changed = false;
        let mut failures = self.failures.lock().unwrap_or_else(PoisonError::into_inner);
        failures.remove(cluster);
        self.current.rcu(|old| {
            changed = old
                .get(cluster)
                .is_none_or(|o| o.snapshot.digest() != new.snapshot.digest() || o.proxy != new.proxy);
            let mut next = Accounts::clone(old);
            next.insert(cluster.clone(), Arc::clone(&new));
            next
        });
        if changed {
            self.changes.send_replace(());
        }
        changed
    }

    /// Takes how the other nodes of a cluster compare, and gives how they did before.
    pub fn store_nodes(
        &self,
        cluster: &ClusterName,
        nodes: &BTreeMap<NodeName, NodeAccounts>,
    ) -> BTreeMap<NodeName, NodeAccounts> {
        let mut before = BTreeMap::new();
        self.nodes.rcu(|old| {
            let mut next = Nodes::clone(old);
            before = next.insert(cluster.clone(), nodes.clone()).unwrap_or_default();
            next
        });
        before
    }

    /// How a node's accounts compare with those in force; none: those were read from it, or it was not compared yet.
    pub fn node(&self, cluster: &ClusterName, node: &NodeName) -> Option<NodeAccounts> {
        let reference = self.current.load().get(cluster).map(|accounts| accounts.from.clone());
        self.nodes.load().get(cluster)?.get(node).filter(|_| reference.as_ref() != Some(node)).cloned()
    }

    /// The accounts that a node decides by: its own where they are known to differ from the cluster's.
    pub fn of_node(&self, cluster: &ClusterName, node: &NodeName) -> Option<Arc<ClusterAccounts>> {
        let current = self.current.load();
        let accounts = current.get(cluster)?;
        let nodes = self.nodes.load();
        let compared =
            nodes.get(cluster).and_then(|nodes| nodes.get(node)).filter(|_| accounts.from != *node);
        Some(Arc::clone(compared.and_then(NodeAccounts::own).unwrap_or(accounts)))
    }

    /// Tells when the accounts of any cluster changed.
    pub fn subscribe(&self) -> watch::Receiver<()> {
        self.changes.subscribe()
    }

    /// Reads a cluster's accounts again because a login failed that was judged by those with this digest, and waits for it,
    /// [`DOUBT`] at most; true when others are in force by then.
    ///
    /// At most once in [`DOUBT`] and cluster, whoever asks: others wait for the same reading while it is under way, because
    /// many may come at once with a new password, and are told at once how it ended when it is over.
    pub async fn doubt(self: &Arc<Self>, cluster: &ClusterName, judged_by: [u8; 32]) -> bool {
        let changed = || self.cluster(cluster).is_some_and(|now| now.snapshot.digest() != judged_by);
        if changed() {
            return true;
        }
        let mut over = self.reading(cluster, Instant::now());
        // It never changes: this ends when it is closed.
        let _ = timeout(DOUBT, over.changed()).await;
        changed()
    }

    /// The last reading that was asked for because of a login, which begins now if it is long ago.
    fn reading(self: &Arc<Self>, cluster: &ClusterName, now: Instant) -> watch::Receiver<()> {
        let mut doubts = self.doubts.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(last) = doubts.get(cluster).filter(|last| now.duration_since(last.asked) < DOUBT) {
            return last.over.clone();
        }
        let (reading, over) = watch::channel(());
        doubts.insert(cluster.clone(), Doubt { asked: now, over: over.clone() });
        let (store, cluster) = (Arc::clone(self), cluster.clone());
        // A task of its own: whoever asked may go before it is over, and others wait for it.
        tokio::spawn(async move {
            let _ = timeout(DOUBT, store.reload(&cluster)).await;
            drop(reading);
        });
        over
    }

    /// Notes that reading failed; what was there stays.
    pub fn failed(&self, cluster: &ClusterName, reason: String) {
        let failure = LoadFailure { at: SystemTime::now(), reason };
        self.failures.lock().unwrap_or_else(PoisonError::into_inner).insert(cluster.clone(), failure);
    }

    /// The failure of the last attempt, unless it succeeded.
    pub fn failure(&self, cluster: &ClusterName) -> Option<LoadFailure> {
        self.failures.lock().unwrap_or_else(PoisonError::into_inner).get(cluster).cloned()
    }

    /// Forgets clusters that the configuration no longer has.
    pub fn retain(&self, keep: impl Fn(&ClusterName) -> bool) {
        self.failures.lock().unwrap_or_else(PoisonError::into_inner).retain(|name, _| keep(name));
        self.nodes.rcu(|old| {
            let mut next = Nodes::clone(old);
            next.retain(|name, _| keep(name));
            next
        });
        self.current.rcu(|old| {
            let mut next = Accounts::clone(old);
            next.retain(|name, _| keep(name));
            next
        });
    }

    /// Reads a cluster's accounts again and waits until that is done.
    ///
    /// # Errors
    /// What every node said, when none could be read; the accounts from before stay in force.
    pub async fn reload(&self, cluster: &ClusterName) -> Result<(), String> {
        let (done, answer) = oneshot::channel();
        let stopped = || "the account loader has stopped".to_owned();
        self.requests.send((cluster.clone(), done)).await.map_err(|_| stopped())?;
        answer.await.map_err(|_| stopped())?
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::grants::{RawAccounts, ServerVariables};

    /// Accounts of a server with this version, which makes their digest another one.
    fn read(version: &str) -> ClusterAccounts {
        let variables =
            ServerVariables { version: format!("{version}-MariaDB"), ..ServerVariables::default() };
        let raw = RawAccounts { variables, ..RawAccounts::default() };
        ClusterAccounts {
            snapshot: Arc::new(Snapshot::build(raw, SystemTime::UNIX_EPOCH)),
            proxy: HostIdentity::without_name(Ipv4Addr::LOCALHOST.into()),
            from: "a".parse().unwrap(),
            loaded_at: SystemTime::UNIX_EPOCH,
            fingerprint: None,
            unread: 0,
        }
    }

    #[tokio::test]
    async fn all_that_fail_while_the_accounts_are_read_again_wait_for_that() {
        let (store, mut requests) = AccountStore::new();
        let store = Arc::new(store);
        let cluster: ClusterName = "shop".parse().unwrap();
        store.store(&cluster, read("10.11.1"));
        let digest = || store.cluster(&cluster).unwrap().snapshot.digest();
        let before = digest();
        let loader = async {
            let (name, done) = requests.recv().await.unwrap();
            // All of them have failed by now.
            tokio::time::sleep(Duration::from_millis(20)).await;
            store.store(&name, read("10.11.2"));
            done.send(Ok(())).unwrap();
        };
        let logins = async {
            tokio::join!(
                store.doubt(&cluster, before),
                store.doubt(&cluster, before),
                store.doubt(&cluster, before)
            )
        };
        let (found, ()) = tokio::join!(logins, loader);
        assert_eq!(found, (true, true, true));
        // Whoever was judged by what was in force before need not wait, and no other reading is asked for yet.
        assert!(store.doubt(&cluster, before).await);
        assert!(!store.doubt(&cluster, digest()).await);
        assert!(requests.try_recv().is_err());
    }

    #[tokio::test]
    async fn a_reading_outlives_the_login_that_asked_for_it() {
        let (store, mut requests) = AccountStore::new();
        let store = Arc::new(store);
        let cluster: ClusterName = "shop".parse().unwrap();
        store.store(&cluster, read("10.11.1"));
        let before = store.cluster(&cluster).unwrap().snapshot.digest();
        let gone = timeout(Duration::from_millis(5), store.doubt(&cluster, before)).await;
        assert!(gone.is_err());
        let loader = async {
            let (name, done) = requests.recv().await.unwrap();
            store.store(&name, read("10.11.2"));
            done.send(Ok(())).unwrap();
        };
        assert_eq!(tokio::join!(store.doubt(&cluster, before), loader), (true, ()));
    }
}
