//! The configuration: `spillway.toml` read, checked as a whole, and compared with its successor.
//!
//! ```text
//! file ──parse──▶ table with positions ──Section──▶ typed values ──cross checks──▶ Config
//!                         └───────────── every problem, with its line ─────────────▶ ConfigErrors
//! ```
//!
//! A [`Config`] exists only when nothing is wrong with the file: whoever holds one need not check again. Reading stops
//! at no problem, so that an operator sees all of them at once. No password or token is ever part of a message.

mod backoff;
mod check;
mod client_address;
mod credential;
mod cross;
mod diff;
mod discover;
mod handover;
mod monitor;
mod moves;
mod problem;
mod reader;
mod roles;
mod secret;
mod suggest;
#[cfg(test)]
mod tests;
mod tls;
mod unix_account;

use std::collections::BTreeMap;
use std::fmt;
use std::fs::File;
use std::io::Read;
use std::net::{IpAddr, SocketAddr};
use std::num::{NonZeroU32, NonZeroUsize};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use zeroize::Zeroizing;

pub use backoff::Backoff;
pub use client_address::{ClientAddress, HeaderVersion, ProxyProtocol};
pub use diff::Change;
pub use discover::Discover;
pub use handover::{Account, Failover, Handover};
pub use monitor::Monitor;
pub use moves::Moves;
pub use problem::{ConfigErrors, Position, Problem};
pub use roles::{RoleRules, SplitBrain};
pub use secret::Secret;
pub use tls::{NodeTls, Tls};
pub use unix_account::UnixAccount;

use crate::ids::{ClusterName, ListenAddr, NodeAddr, NodeName, ServiceName};

/// The largest configuration file that is read, in bytes.
pub const MAX_FILE: u64 = 4 << 20;

/// A checked configuration: every reference is known, every address is used once, every secret is present.
#[derive(Clone, Debug, PartialEq)]
pub struct Config {
    /// The clusters by name, at least one.
    pub clusters: BTreeMap<ClusterName, Cluster>,
    /// The services by name, at least one.
    pub services: BTreeMap<ServiceName, Service>,
    /// The operators' doors.
    pub admin: Admin,
    /// What is logged, and how.
    pub log: Log,
    /// The process as a whole.
    pub runtime: Runtime,
    /// What is allowed but unwise, one line each with file and line, in the order of the file. Not part of a
    /// [`Config::diff`].
    pub warnings: Vec<String>,
}

/// How the nodes of a cluster replicate, which decides how their roles are found.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ClusterKind {
    /// Galera: every synced node of the primary component may serve everything.
    Galera,
    /// One primary and its replicas.
    Replication,
    /// An active/inactive pair, each replicating from the other.
    MultiPrimary,
    /// MySQL Group Replication: the primary, or every member of a group with several.
    GroupReplication,
    /// Nodes that replicate by means unknown to Spillway; their roles come from the file alone.
    Static,
}

/// A named set of nodes that replicate one data set (`[cluster.NAME]`).
#[derive(Clone, Debug, PartialEq)]
pub struct Cluster {
    /// Its name.
    pub name: ClusterName,
    /// How it replicates.
    pub kind: ClusterKind,
    /// Its nodes, at least one, in the order of their names.
    pub nodes: Vec<Node>,
    /// How members are found that are not among `nodes`; `None` (default): the nodes are those of the file.
    pub discover: Option<Discover>,
    /// How its nodes are probed and its accounts loaded.
    pub monitor: Monitor,
    /// How its nodes are given their roles.
    pub roles: RoleRules,
    /// How long dialling a node and logging in may take in all (default 3 s; 10 ms to 10 min).
    pub connect_timeout: Duration,
    /// How often the nodes are asked whether their accounts changed, which are loaded again then (default 30 s; 100 ms to
    /// 1 day); `None` (`"0s"`): on demand only.
    pub accounts_refresh: Option<Duration>,
    /// The address of this machine that links come from (default: the system's choice). The nodes must see it as it is.
    pub source_address: Option<IpAddr>,
    /// TLS with its nodes (default: none). With it, no connection to a node is ever made without.
    pub tls: Option<Arc<NodeTls>>,
    /// Whose address its nodes see (default: Spillway's, guarded).
    pub client_address: ClientAddress,
    /// Whether the names of clients are looked up where an account's host is a name (default no). Without effect where the
    /// servers have `skip_name_resolve`.
    pub resolve_names: bool,
    /// What becomes of sessions whose account is dropped, locked or given another password (default: they end).
    pub revoked_sessions: RevokedSessions,
    /// How many links its nodes get, and which are kept for the next session.
    pub links: Links,
    /// How its sessions leave nodes, and wait while there is none for them.
    pub moves: Moves,
    /// Users of this machine that log in without a password on a Unix socket, by the name that they log in as (default:
    /// nobody).
    pub unix_accounts: BTreeMap<String, UnixAccount>,
    /// How its writer is changed.
    pub handover: Handover,
}

/// What becomes of sessions whose account may not log in any more.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum RevokedSessions {
    /// They end as soon as it is known.
    #[default]
    End,
    /// They go on, as on the servers.
    Keep,
}

/// The links of one cluster (`[cluster.NAME.links]`).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Links {
    /// Whether the link of a session that ended serves another session of the same account (default yes).
    pub reuse: bool,
    /// How long the node's verdict on a login is good for the next login that is the same (default 10 ms; up to 1 min).
    /// For so long an account that was dropped or changed meanwhile may still be given a used link. `None` (`"0s"`): the
    /// node judges every login.
    pub trust: Option<Duration>,
    /// The most idle links of one node and account that each worker keeps, 1 to 10000 (default 64).
    pub max_idle: u32,
    /// How long a link may be idle (default 1 min; 100 ms to 1 day). Never longer than half of the server's own
    /// `wait_timeout`.
    pub idle_timeout: Duration,
    /// How long a link may be used in all, give or take a tenth (default 30 min; 1 s to 30 days).
    pub max_age: Duration,
    /// Idle links of a node and account that each worker keeps ready once the account was used, 0 to 1000 (default 0).
    pub warm: u32,
    /// The most links to one node, of all workers together; `None` (0): as many as the node takes.
    pub max: Option<NonZeroU32>,
    /// Sessions that may wait for a link of one node, 0 to 100000 (default 1000); one more is refused at once.
    pub queue: u32,
    /// How long a session waits for a link (default 5 s; 10 ms to 10 min).
    pub queue_timeout: Duration,
}

/// One server of a cluster.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Node {
    /// Its name, unique within the cluster.
    pub name: NodeName,
    /// Where it listens; no other node of the file has the same address.
    pub address: NodeAddr,
    /// Its share of sessions beside its peers, 0 to 10000 (default 100); 0: only as a last resort.
    pub weight: u16,
    /// Its preference as the writer, 0 to 1000 (default 0): the higher is preferred.
    pub priority: u16,
}

/// What stands behind a set of listeners (`[service.NAME]`).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Service {
    /// Its name.
    pub name: ServiceName,
    /// Where clients connect, at least one address; no other listener of the file has any of them.
    pub listen: Vec<ListenAddr>,
    /// How a session's cluster is chosen.
    pub route: Route,
    /// How a session's node is chosen.
    pub node: NodeChoice,
    /// The most client sessions at a time; `None` (0): no limit of its own.
    pub max_sessions: Option<NonZeroU32>,
    /// The most sessions of one user name at a time; `None` (0): no limit.
    pub max_sessions_per_user: Option<NonZeroU32>,
    /// The most sessions from one client address (a Unix socket counts as one) at a time, logged in or not; `None`
    /// (0): no limit.
    pub max_sessions_per_address: Option<NonZeroU32>,
    /// A session that sends nothing for so long, outside a transaction, is closed (1 s to 30 days); `None` (`"0s"`,
    /// default): never, the servers' own `wait_timeout` decides.
    pub idle_timeout: Option<Duration>,
    /// Balancers in front of it that announce their clients; `None`: the peer is the client.
    pub proxy_protocol: Option<ProxyProtocol>,
    /// TLS with clients; `None`: it is not offered.
    pub tls: Option<Arc<Tls>>,
}

/// How a session's cluster is chosen.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Route {
    /// By the session's default schema.
    ByDatabase {
        /// The clusters that sessions of the service may reach, at least one, each once, in the file's order (the
        /// order of their names where the file leaves the list out).
        clusters: Vec<ClusterName>,
        /// Where a session without a schema goes: one of `clusters`. The only cluster when there is one; `None`: a
        /// session without a schema is refused.
        default_cluster: Option<ClusterName>,
        /// Schema to cluster (one of `clusters`); wins over what the clusters themselves report.
        databases: BTreeMap<String, ClusterName>,
    },
    /// Always the same cluster.
    Cluster(ClusterName),
}

/// How a session's node is chosen among the nodes of its cluster.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum NodeChoice {
    /// The one writer of the cluster.
    #[default]
    Writer,
    /// Any healthy node: the one with the least sessions for its weight.
    Any,
}

/// The operators' doors (`[admin]`).
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Admin {
    /// Where the text console listens; empty: nowhere.
    pub console: Vec<ListenAddr>,
    /// Where the HTTP API listens; empty: nowhere.
    pub api: Vec<SocketAddr>,
    /// The console's password; always present when `console` has a TCP address.
    pub password: Option<Secret>,
    /// The API's bearer token, of visible ASCII; always present when `api` has an address.
    pub token: Option<Secret>,
}

/// The form of a log line.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum LogFormat {
    /// For people.
    #[default]
    Text,
    /// One JSON object in a line.
    Json,
}

/// What is logged, and how (`[log]`).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Log {
    /// The form of a line.
    pub format: LogFormat,
    /// A level (`off error warn info debug trace`), or several `target=level` separated by commas; checked, so that the
    /// log's own filter parser accepts it (default `info`).
    pub level: String,
}

/// The process as a whole (`[runtime]`).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Runtime {
    /// Threads for sessions, at most 1024; `None` (0): one for each core. A change needs a restart.
    pub workers: Option<NonZeroUsize>,
    /// Start even when no account of a cluster could be loaded (default no).
    pub start_without_accounts: bool,
    /// How long the first load of accounts may take in all (default 30 s; up to 1 h).
    pub start_timeout: Duration,
    /// From accepting a client to its OK packet (default 10 s; 100 ms to 10 min).
    pub handshake_timeout: Duration,
    /// How long sessions may finish after SIGTERM (default 30 s; up to 1 day).
    pub drain_timeout: Duration,
    /// How logins are held back after others that failed.
    pub backoff: Backoff,
    /// Where the operators' changes at run time are kept; `None`: nowhere, they end with the process. A change needs
    /// a restart.
    pub state_file: Option<PathBuf>,
}

// === impl Config ===

impl Config {
    /// Reads and checks the file at `path`, with the variables of the process for `password_env` and `token_env`.
    /// Relative paths in the file start at the file's own directory.
    ///
    /// # Errors
    /// Everything that is wrong with the file, at once; or that it can not be read.
    pub fn load(path: &Path) -> Result<Self, ConfigErrors> {
        let (text, exposed) = read_file(path).map_err(|why| ConfigErrors::unreadable(path, &why))?;
        check::parse(&text, path, &|name| std::env::var(name).ok(), exposed)
    }

    /// Checks `text`, which came from `origin` (used in messages, and as the start of relative paths). `env` looks up
    /// variables. Reads the files of passwords, tokens, certificates and keys that the text names, nothing else.
    ///
    /// # Errors
    /// Everything that is wrong with the text, at once, in the order of its lines.
    pub fn parse(
        text: &str,
        origin: &Path,
        env: &dyn Fn(&str) -> Option<String>,
    ) -> Result<Self, ConfigErrors> {
        check::parse(text, origin, env, false)
    }

    /// What `new` does differently, in the words of an operator, clusters first. Secrets are only said to have
    /// changed. Empty when a reload would have no effect.
    pub fn diff(&self, new: &Self) -> Vec<Change> {
        diff::diff(self, new)
    }

    /// Takes over from `old` the TLS of every service where nothing about it changed, with the tickets that clients hold,
    /// so that they can go on resuming their TLS sessions.
    pub fn keep_tls(&mut self, old: &Self) {
        for (name, service) in &mut self.services {
            if let Some(before) = old.services.get(name)
                && before.tls == service.tls
            {
                service.tls.clone_from(&before.tls);
            }
        }
    }

    /// Every address that clients connect to, with its service.
    pub fn listeners(&self) -> impl Iterator<Item = (&ListenAddr, &Service)> {
        self.services
            .values()
            .flat_map(|service| service.listen.iter().map(move |address| (address, service)))
    }
}

/// Reads at most [`MAX_FILE`] bytes of UTF-8, and whether everybody on this machine may do so. The text is wiped when
/// dropped, for it may hold passwords.
fn read_file(path: &Path) -> Result<(Zeroizing<String>, bool), String> {
    let file = File::open(path).map_err(|e| e.to_string())?;
    let exposed = secret::world_readable(&file);
    let mut text = Zeroizing::new(String::new());
    file.take(MAX_FILE + 1).read_to_string(&mut text).map_err(|e| e.to_string())?;
    if text.len() as u64 > MAX_FILE {
        return Err(format!("it is larger than {MAX_FILE} bytes"));
    }
    Ok((text, exposed))
}

// === impl Cluster ===

impl Cluster {
    /// The node of this name.
    pub fn node(&self, name: &str) -> Option<&Node> {
        self.nodes.iter().find(|node| node.name.as_str() == name)
    }

    /// Who on this machine logs in as `user` without a password.
    pub fn unix_account(&self, user: &[u8]) -> Option<&UnixAccount> {
        self.unix_accounts.get(std::str::from_utf8(user).ok()?)
    }
}

// === impl Service ===

impl Service {
    /// The clusters that sessions of this service may reach, each once, at least one.
    pub fn clusters(&self) -> &[ClusterName] {
        match &self.route {
            Route::ByDatabase { clusters, .. } => clusters,
            Route::Cluster(cluster) => std::slice::from_ref(cluster),
        }
    }
}

// === impl ClusterKind ===

impl ClusterKind {
    /// The word for it in the configuration and in what operators read.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Galera => "galera",
            Self::Replication => "replication",
            Self::MultiPrimary => "multi-primary",
            Self::GroupReplication => "group-replication",
            Self::Static => "static",
        }
    }
}

impl fmt::Display for ClusterKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

// === impl NodeChoice ===

impl std::fmt::Display for RevokedSessions {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::End => "end",
            Self::Keep => "keep",
        })
    }
}

impl NodeChoice {
    /// The word for it in the configuration and in what operators read.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Writer => "writer",
            Self::Any => "any",
        }
    }
}

impl fmt::Display for NodeChoice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

// === impl LogFormat ===

impl LogFormat {
    /// The word for it in the configuration.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Text => "text",
            Self::Json => "json",
        }
    }
}

impl fmt::Display for LogFormat {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

// === impl Route ===

impl fmt::Display for Route {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::ByDatabase { .. } => f.pad("by-database"),
            Self::Cluster(cluster) => f.pad(&format!("cluster:{cluster}")),
        }
    }
}

// === impl Log, Links, Runtime ===

impl Default for Log {
    fn default() -> Self {
        Self { format: LogFormat::default(), level: "info".to_owned() }
    }
}

impl Default for Links {
    fn default() -> Self {
        Self {
            reuse: true,
            trust: Some(Duration::from_millis(10)),
            max_idle: 64,
            idle_timeout: Duration::from_mins(1),
            max_age: Duration::from_mins(30),
            warm: 0,
            max: None,
            queue: 1000,
            queue_timeout: Duration::from_secs(5),
        }
    }
}

impl Default for Runtime {
    fn default() -> Self {
        Self {
            workers: None,
            start_without_accounts: false,
            start_timeout: Duration::from_secs(30),
            handshake_timeout: Duration::from_secs(10),
            drain_timeout: Duration::from_secs(30),
            backoff: Backoff::default(),
            state_file: None,
        }
    }
}
