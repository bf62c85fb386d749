//! Reads the accounts of every cluster: at start, at an interval, and on demand.
//!
//! Where a node's [`fingerprint`] is still the one of the accounts in force, nothing else is read. Everything is read all
//! the same each tenth time, for what a fingerprint might miss. After that the other nodes are [compared](nodes).
//!
//! Each cluster is read by a task of its own, so that none waits for the nodes of another one.
//!
//! What the monitor account must be granted is told by `mariadb_tables` and `mysql_tables`.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep_until, timeout_at};
use tracing::{debug, info, warn};

use super::Monitors;
use super::client::{AskError, Client, own_login, text};
use super::{fingerprint, mariadb_tables, mysql_tables, nodes};
use crate::accounts::{ClusterAccounts, ReloadRequest};
use crate::config::{Cluster, Config, Node};
use crate::grants::{
    ColumnRow, DbRow, Fingerprint, HostIdentity, HostName, Product, ProxyRow, RawAccounts, RoutineRow,
    ServerVariables, Snapshot, TableRow,
};
use crate::ids::ClusterName;

/// Longest answer to one of the loader's queries.
pub(super) const QUERY_LIMIT: Duration = Duration::from_secs(10);

/// How often the tables are read until two readings agree.
const READINGS: usize = 4;

/// How often in a row a fingerprint stands for the tables.
const UNREAD: u32 = 9;

/// Pause between two attempts while a cluster has no accounts at all.
const RETRY: Duration = Duration::from_secs(1);

/// Who waits for a reading.
type Done = oneshot::Sender<Result<(), String>>;

/// Reads accounts; [`Loader::run`] serves until the process stops.
#[derive(Debug)]
pub struct Loader {
    monitors: Monitors,
    clusters: BTreeMap<ClusterName, Cluster>,
    requests: mpsc::Receiver<ReloadRequest>,
    /// One of a cluster at most.
    readings: JoinSet<Cluster>,
    /// The clusters that are being read, with those who asked for it after that had begun: they are to have another reading.
    later: BTreeMap<ClusterName, Vec<Done>>,
    /// The comparison of each cluster's nodes that is under way.
    comparisons: BTreeMap<ClusterName, JoinSet<()>>,
}

impl Loader {
    pub(super) fn new(monitors: Monitors, config: &Config, requests: mpsc::Receiver<ReloadRequest>) -> Self {
        Self {
            monitors,
            clusters: config.clusters.clone(),
            requests,
            readings: JoinSet::new(),
            later: BTreeMap::new(),
            comparisons: BTreeMap::new(),
        }
    }

    /// Reads all clusters at once, again and again until each was read or the time is over.
    /// Returns those that were not, with the reason.
    pub async fn first_load(&self, limit: Duration) -> Vec<(ClusterName, String)> {
        let deadline = Instant::now() + limit;
        let mut tasks = JoinSet::new();
        for cluster in self.clusters.values().cloned() {
            let monitors = self.monitors.clone();
            tasks.spawn(async move {
                let mut last = String::from("no attempt ended in time");
                let attempts = async {
                    while let Err(reason) = load(&monitors, &monitors.with_guests(cluster.clone())).await {
                        last = reason;
                        tokio::time::sleep(RETRY).await;
                    }
                };
                let failed = timeout_at(deadline, attempts).await.is_err();
                failed.then_some((cluster.name, last))
            });
        }
        tasks.join_all().await.into_iter().flatten().collect()
    }

    /// Takes the clusters of a new configuration.
    pub fn reconfigure(&mut self, config: &Config) {
        self.clusters.clone_from(&config.clusters);
    }

    /// Serves reload requests and the clusters' intervals. Ends only when dropped; the queue of
    /// requests stays with the loader, so it is given a new configuration through `configs`.
    pub async fn run(mut self, mut configs: mpsc::Receiver<Arc<Config>>) -> Infallible {
        let mut due: BTreeMap<ClusterName, Instant> = BTreeMap::new();
        for cluster in self.clusters.clone().into_values() {
            let cluster = self.monitors.with_guests(cluster);
            self.compare(&cluster);
        }
        loop {
            for cluster in self.clusters.values() {
                let interval = self.interval(cluster);
                if let Some(interval) = interval {
                    due.entry(cluster.name.clone()).or_insert_with(|| Instant::now() + interval);
                }
            }
            due.retain(|name, _| self.clusters.contains_key(name));
            self.comparisons.retain(|name, _| self.clusters.contains_key(name));
            let next = due.iter().min_by_key(|(_, at)| **at).map(|(name, at)| (name.clone(), *at));
            let wait = async {
                match &next {
                    Some((_, at)) => sleep_until(*at).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                Some(config) = configs.recv() => self.reconfigure(&config),
                Some((name, done)) = self.requests.recv() => {
                    due.remove(&name);
                    self.read(name, Some(done));
                }
                Some(read) = self.readings.join_next() => match read {
                    Ok(cluster) => self.is_read(&cluster),
                    // Whoever keeps the loader hears of it.
                    Err(error) if error.is_panic() => std::panic::resume_unwind(error.into_panic()),
                    Err(_) => {}
                },
                () = wait => {
                    if let Some((name, _)) = next {
                        due.remove(&name);
                        self.read(name, None);
                    }
                }
            }
        }
    }

    fn cluster(&self, name: &ClusterName) -> Option<Cluster> {
        Some(self.monitors.with_guests(self.clusters.get(name)?.clone()))
    }

    fn interval(&self, cluster: &Cluster) -> Option<Duration> {
        if self.monitors.accounts.cluster(&cluster.name).is_none() {
            return Some(RETRY);
        }
        cluster.accounts_refresh
    }

    /// Reads a cluster. Whoever asks while that is under way gets a reading that begins after it.
    fn read(&mut self, name: ClusterName, done: Option<Done>) {
        match self.later.get_mut(&name) {
            Some(later) => later.extend(done),
            None => self.begin(name, done.into_iter().collect()),
        }
    }

    fn begin(&mut self, name: ClusterName, waiting: Vec<Done>) {
        let Some(cluster) = self.cluster(&name) else {
            for done in waiting {
                // Whoever asked may have gone, here and below.
                let _ = done.send(Err(format!("no cluster {name}")));
            }
            return;
        };
        self.later.insert(name, Vec::new());
        let monitors = self.monitors.clone();
        self.readings.spawn(async move {
            // Failures are noted in the store and logged there.
            let read = load(&monitors, &cluster).await;
            for done in waiting {
                let _ = done.send(read.clone());
            }
            cluster
        });
    }

    fn is_read(&mut self, cluster: &Cluster) {
        let later = self.later.remove(&cluster.name).unwrap_or_default();
        if !self.clusters.contains_key(&cluster.name) {
            // It was taken out meanwhile.
            self.monitors.accounts.retain(|name| self.clusters.contains_key(name));
        }
        if !later.is_empty() {
            self.begin(cluster.name.clone(), later);
        }
        self.compare(cluster);
    }

    /// Compares the nodes of a cluster, unless that is being done. Nobody waits for it: a node may be slow.
    fn compare(&mut self, cluster: &Cluster) {
        let running = self.comparisons.entry(cluster.name.clone()).or_default();
        while running.try_join_next().is_some() {}
        if running.is_empty() && cluster.nodes.len() > 1 {
            running.spawn(nodes::compare(self.monitors.clone(), cluster.clone()));
        }
    }
}

/// Reads one cluster from the first node that answers, healthy ones first.
async fn load(monitors: &Monitors, cluster: &Cluster) -> Result<(), String> {
    let topology = monitors.topology.load();
    let known = topology.cluster(cluster.name.as_str());
    let mut nodes: Vec<&Node> = cluster.nodes.iter().collect();
    nodes.sort_by_key(|node| {
        let seen = known.and_then(|c| c.node(node.name.as_str()));
        let writer = known.and_then(|c| c.writer()).is_some_and(|w| w.name == node.name);
        (!writer, !seen.is_some_and(crate::topology::Node::takes_sessions))
    });
    let previous = monitors.accounts.cluster(&cluster.name);
    let mut reasons = Vec::new();
    for node in nodes {
        match refresh(monitors, cluster, node, previous.as_deref()).await {
            Ok(accounts) => {
                let count = accounts.snapshot.accounts().count();
                if monitors.accounts.store(&cluster.name, accounts) {
                    info!(cluster = %cluster.name, node = %node.name, accounts = count, "accounts loaded");
                }
                return Ok(());
            }
            Err(e) => reasons.push(format!("{}: {e}", node.name)),
        }
    }
    let reason = reasons.join("; ");
    if monitors.accounts.failure(&cluster.name).is_none_or(|f| f.reason != reason) {
        let kept = if previous.is_some() { "those from before stay in force" } else { "there are none" };
        warn!(cluster = %cluster.name, reason, kept, "accounts could not be loaded");
    }
    monitors.accounts.failed(&cluster.name, reason.clone());
    Err(reason)
}

#[derive(Debug, thiserror::Error)]
pub(super) enum LoadError {
    #[error(transparent)]
    Ask(#[from] AskError),
    #[error(transparent)]
    Login(#[from] crate::backend::LinkError),
    #[error("the grant tables changed during every reading")]
    Unstable,
    #[error("{0}")]
    Unsupported(String),
}

/// What is in force, if the node's fingerprint says so; otherwise all that it holds.
async fn refresh(
    monitors: &Monitors,
    cluster: &Cluster,
    node: &Node,
    previous: Option<&ClusterAccounts>,
) -> Result<ClusterAccounts, LoadError> {
    let mut client = Client::connect(cluster, node, cluster.connect_timeout).await?;
    let accounts = match previous {
        Some(previous) if previous.from == node.name && previous.unread < UNREAD => {
            let now = fingerprint(&mut client, node).await;
            if now.is_some() && now == previous.fingerprint {
                ClusterAccounts {
                    snapshot: Arc::clone(&previous.snapshot),
                    proxy: identity(monitors, &mut client, cluster, node, &previous.snapshot).await?,
                    from: node.name.clone(),
                    loaded_at: SystemTime::now(),
                    fingerprint: now,
                    unread: previous.unread + 1,
                }
            } else {
                read(monitors, &mut client, cluster, node, Some(previous.snapshot.digest())).await?
            }
        }
        previous => read(monitors, &mut client, cluster, node, previous.map(|p| p.snapshot.digest())).await?,
    };
    client.close().await;
    Ok(accounts)
}

/// A node's fingerprint; none where it cannot be had, and all has to be read.
pub(super) async fn fingerprint(client: &mut Client, node: &Node) -> Option<Fingerprint> {
    match fingerprint::take(client, QUERY_LIMIT).await {
        Ok(fingerprint) => Some(fingerprint),
        Err(error) => {
            debug!(node = %node.name, %error, "no fingerprint of the accounts");
            None
        }
    }
}

/// Reads one node until two readings agree: the grant tables of `MariaDB` and of `MySQL` 5.7 know no
/// transactions, and variables and names of databases are in none. A reading that agrees with the accounts in force
/// counts as the second one.
pub(super) async fn read(
    monitors: &Monitors,
    client: &mut Client,
    cluster: &Cluster,
    node: &Node,
    known: Option<[u8; 32]>,
) -> Result<ClusterAccounts, LoadError> {
    let mut last = known;
    let before = fingerprint(client, node).await;
    for _ in 0..READINGS {
        let raw = read_rows(client).await?;
        let snapshot = Snapshot::build(raw, SystemTime::now());
        let digest = snapshot.digest();
        if last == Some(digest) {
            let proxy = identity(monitors, client, cluster, node, &snapshot).await?;
            // It stands for this reading only if nothing changed around it.
            let after = fingerprint(client, node).await;
            return Ok(ClusterAccounts {
                snapshot: Arc::new(snapshot),
                proxy,
                from: node.name.clone(),
                loaded_at: SystemTime::now(),
                fingerprint: after.filter(|after| before.as_ref() == Some(after)),
                unread: 0,
            });
        }
        last = Some(digest);
    }
    Err(LoadError::Unstable)
}

/// This proxy as the server identifies it: what `USER()` says, completed by the address of a
/// connection of our own where the server shows a name.
///
/// A server that shows an address may have no name for it, or have failed to find it just now. It has none where a
/// resolver here definitely finds none either.
async fn identity(
    monitors: &Monitors,
    client: &mut Client,
    cluster: &Cluster,
    node: &Node,
    snapshot: &Snapshot,
) -> Result<HostIdentity, LoadError> {
    let resolves = cluster.resolve_names && !snapshot.variables().skip_name_resolve;
    let look_up = async |ip| if resolves { monitors.names.of(ip).await } else { HostName::Unknown };
    if let Some(source) = cluster.source_address {
        return Ok(snapshot.host_identity(source, &look_up(source).await));
    }
    let user = client.value("SELECT USER()", QUERY_LIMIT).await?;
    let host = user.rsplit_once('@').map_or("", |(_, host)| host);
    if let Ok(ip) = host.parse::<IpAddr>() {
        let name = Some(look_up(ip).await).filter(|name| *name == HostName::Absent);
        return Ok(snapshot.host_identity(ip, &name.unwrap_or_default()));
    }
    let (_, local) = own_login(cluster, node).await?;
    let local = local.ok_or(AskError::Shape("no local address"))?;
    if host == "localhost" && local.is_loopback() {
        return Ok(snapshot.host_identity(local, &HostName::Unknown));
    }
    Ok(HostIdentity::with_name(local, host))
}

async fn read_rows(client: &mut Client) -> Result<RawAccounts, LoadError> {
    let variables = read_variables(client).await?;
    let product = Product::from_version(&variables.version);
    let mut raw = RawAccounts { variables, ..RawAccounts::default() };
    let in_transaction = mysql_tables::has_roles(&product);
    if in_transaction {
        client.rows("START TRANSACTION WITH CONSISTENT SNAPSHOT, READ ONLY", QUERY_LIMIT).await?;
    }
    if product.is_mysql() {
        mysql_tables::read(client, &product, &mut raw, QUERY_LIMIT).await?;
    } else {
        mariadb_tables::read(client, &product, &mut raw, QUERY_LIMIT).await?;
    }
    read_shared_rows(client, &mut raw).await?;
    if in_transaction {
        client.rows("COMMIT", QUERY_LIMIT).await?;
    }
    for row in client.rows("SHOW DATABASES", QUERY_LIMIT).await? {
        raw.databases.push(text(&row, 0)?);
    }
    Ok(raw)
}

/// The tables that all servers have.
async fn read_shared_rows(client: &mut Client, raw: &mut RawAccounts) -> Result<(), LoadError> {
    for row in client.rows("SELECT * FROM mysql.db", QUERY_LIMIT).await? {
        let mut db =
            DbRow { host: String::new(), user: String::new(), db: String::new(), privileges: Vec::new() };
        for (index, name) in row.columns().iter().enumerate() {
            let (name, value) = (name.clone(), text(&row, index)?);
            match name.to_ascii_lowercase().as_str() {
                "host" => db.host = value,
                "user" => db.user = value,
                "db" => db.db = value,
                other if other.ends_with("_priv") => db.privileges.push((name, value == "Y")),
                _ => {}
            }
        }
        raw.db.push(db);
    }
    let query = "SELECT Host, Db, User, Table_name, Table_priv+0, Column_priv+0 FROM mysql.tables_priv";
    for row in client.rows(query, QUERY_LIMIT).await? {
        raw.tables.push(TableRow {
            host: text(&row, 0)?,
            db: text(&row, 1)?,
            user: text(&row, 2)?,
            table: text(&row, 3)?,
            table_privileges: number(&text(&row, 4)?)?,
            column_privileges: number(&text(&row, 5)?)?,
        });
    }
    let query = "SELECT Host, Db, User, Table_name, Column_name, Column_priv+0 FROM mysql.columns_priv";
    for row in client.rows(query, QUERY_LIMIT).await? {
        raw.columns.push(ColumnRow {
            host: text(&row, 0)?,
            db: text(&row, 1)?,
            user: text(&row, 2)?,
            table: text(&row, 3)?,
            column: text(&row, 4)?,
            privileges: number(&text(&row, 5)?)?,
        });
    }
    let query = "SELECT Host, Db, User, Routine_name, Routine_type, Proc_priv+0 FROM mysql.procs_priv";
    for row in client.rows(query, QUERY_LIMIT).await? {
        raw.routines.push(RoutineRow {
            host: text(&row, 0)?,
            db: text(&row, 1)?,
            user: text(&row, 2)?,
            routine: text(&row, 3)?,
            kind: text(&row, 4)?,
            privileges: number(&text(&row, 5)?)?,
        });
    }
    let query = "SELECT Host, User, Proxied_host, Proxied_user, With_grant FROM mysql.proxies_priv";
    for row in client.rows(query, QUERY_LIMIT).await? {
        raw.proxies.push(ProxyRow {
            host: text(&row, 0)?,
            user: text(&row, 1)?,
            proxied_host: text(&row, 2)?,
            proxied_user: text(&row, 3)?,
            with_grant: text(&row, 4)? != "0",
        });
    }
    Ok(())
}

pub(super) async fn read_variables(client: &mut Client) -> Result<ServerVariables, LoadError> {
    let query = "SHOW GLOBAL VARIABLES WHERE Variable_name IN ('version', 'skip_name_resolve', \
        'lower_case_table_names', 'require_secure_transport', 'default_password_lifetime', \
        'disconnect_on_expired_password', 'max_password_errors', 'max_connections', 'max_user_connections', \
        'old_style_user_limits', 'init_connect', 'wait_timeout', 'interactive_timeout', 'partial_revokes', 'mandatory_roles', 'activate_all_roles_on_login', \
        'activate_mandatory_roles', \
        'check_proxy_users', 'mysql_native_password_proxy_users', 'sha256_password_proxy_users', 'offline_mode', \
        'default_authentication_plugin', 'version_ssl_library', 'ssl_crl', 'ssl_crlpath')";
    let values: BTreeMap<String, String> = client
        .pairs(query, QUERY_LIMIT)
        .await?
        .into_iter()
        .map(|(name, value)| (name.to_ascii_lowercase(), value))
        .collect();
    let get = |name: &str| values.get(name).map_or("", String::as_str);
    let is_on = |name: &str| matches!(get(name), "ON" | "1");
    let version = get("version").to_owned();
    let product = Product::from_version(&version);
    if let Product::Unsupported { .. } = product {
        return Err(LoadError::Unsupported(format!(
            "accounts of {version:?} cannot be read: supported are MariaDB 10.3.7, 10.4.6 and later, and MySQL 5.7 to 9"
        )));
    }
    let defaults = ServerVariables::default();
    let or = |name: &str, default: u64| get(name).parse().unwrap_or(default);
    Ok(ServerVariables {
        skip_name_resolve: is_on("skip_name_resolve"),
        lower_case_table_names: get("lower_case_table_names").parse().unwrap_or(0),
        require_secure_transport: is_on("require_secure_transport"),
        default_password_lifetime: get("default_password_lifetime").parse().unwrap_or(0),
        disconnect_on_expired_password: is_on("disconnect_on_expired_password"),
        max_password_errors: or("max_password_errors", defaults.max_password_errors),
        max_connections: or("max_connections", defaults.max_connections),
        max_user_connections: get("max_user_connections").parse().unwrap_or(defaults.max_user_connections),
        old_style_user_limits: is_on("old_style_user_limits"),
        init_connect: !get("init_connect").trim().is_empty(),
        wait_timeout: or("wait_timeout", defaults.wait_timeout)
            .min(or("interactive_timeout", defaults.wait_timeout)),
        default_plugin: get("default_authentication_plugin").to_owned(),
        partial_revokes: is_on("partial_revokes"),
        mandatory_roles: get("mandatory_roles").to_owned(),
        activate_all_roles_on_login: is_on("activate_all_roles_on_login"),
        activate_mandatory_roles: is_on("activate_mandatory_roles"),
        check_proxy_users: is_on("check_proxy_users"),
        native_proxy_users: is_on("mysql_native_password_proxy_users"),
        sha256_proxy_users: is_on("sha256_password_proxy_users"),
        offline_mode: is_on("offline_mode"),
        ssl_crl: !get("ssl_crl").is_empty() || !get("ssl_crlpath").is_empty(),
        compares_as_openssl: get("version_ssl_library").starts_with("OpenSSL ")
            || product.is_mysql_at_least((8, 0, 0)),
        version,
    })
}

fn number(text: &str) -> Result<u64, AskError> {
    text.parse().map_err(|_| AskError::Shape("a privilege set is no number"))
}
