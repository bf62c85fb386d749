//! The servers that tests share, each set started at its first use.

use crate::harness::client::{Login, Printed};
use crate::harness::cluster::{Galera, Replication};
use crate::harness::proxy::Spillway;
use crate::harness::root;
use crate::harness::server::{MONITOR_PASSWORD, MONITOR_USER, Server};
use crate::harness::workspace::free_port;
use crate::harness::{Outcome, PATIENCE, wait_for};
use crate::tls::Authority;
use rustls::ClientConfig;
use rustls::version::TLS13;
use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

/// Password of every account here that has one.
pub(crate) const PASSWORD: &str = "app-secret";

/// The program under test.
pub(crate) fn binary() -> &'static Path {
    Path::new(env!("CARGO_BIN_EXE_spillway"))
}

/// A file of this directory.
pub(crate) fn script(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/integration").join(name)
}

/// The two ways to the same server, in the order in which a comparison runs them.
#[derive(Clone, Copy)]
pub(crate) struct Ways {
    /// Port of the server.
    pub(crate) direct: u16,
    /// Port of Spillway in front of it.
    pub(crate) proxied: u16,
}

impl Ways {
    /// Runs `action` directly, then through Spillway; the results must be equal. Returns the result.
    pub(crate) fn agree<T: PartialEq + std::fmt::Debug>(
        self,
        what: &str,
        mut action: impl FnMut(u16) -> Outcome<T>,
    ) -> Outcome<T> {
        let direct = action(self.direct).map_err(|reason| format!("{what}, directly: {reason}"))?;
        let proxied = action(self.proxied).map_err(|reason| format!("{what}, through spillway: {reason}"))?;
        if direct == proxied {
            Ok(direct)
        } else {
            Err(format!(
                "{what}: the answers differ\n  directly: {}\n  through spillway: {}",
                shorten(&direct),
                shorten(&proxied)
            ))
        }
    }

    /// Runs the same SQL through the `mariadb` program both ways; output, errors and exit code must be equal.
    pub(crate) fn mariadb(
        self,
        user: &str,
        schema: Option<&str>,
        options: &[&str],
        sql: &str,
    ) -> Outcome<Printed> {
        self.agree(&format!("mariadb client, {}", shorten(&sql)), |port| {
            let mut printed = Login::new(port, user, PASSWORD, schema).run(options, sql)?;
            // The client names the port where it could not connect at all.
            printed.errors = printed.errors.replace(&port.to_string(), "PORT");
            Ok(printed)
        })
    }

    /// Runs a Python script both ways; it must end well and print the same.
    pub(crate) fn python(self, name: &str, user: &str, schema: &str, arguments: &[&str]) -> Outcome<String> {
        self.agree(&format!("{name} {arguments:?}"), |port| {
            Login::new(port, user, PASSWORD, Some(schema)).python(&script(name), arguments)?.success()
        })
    }
}

fn shorten(value: &impl std::fmt::Debug) -> String {
    let text = format!("{value:?}");
    if text.chars().count() > 2000 { text.chars().take(2000).collect::<String>() + "…" } else { text }
}

/// `[cluster.NAME]` with its monitor, probing five times a second. With `POOLING=off` in the environment every session
/// has a link of its own.
pub(crate) fn cluster_toml(name: &str, kind: &str, nodes: &str) -> String {
    cluster_with(name, kind, nodes, "")
}

/// The same with further lines; one about links stands in place of what the environment says of them.
pub(crate) fn cluster_with(name: &str, kind: &str, nodes: &str, lines: &str) -> String {
    cluster_probed(name, kind, nodes, "200ms", lines)
}

/// The same with another interval between probes.
pub(crate) fn cluster_probed(name: &str, kind: &str, nodes: &str, interval: &str, lines: &str) -> String {
    let links = if pools() || lines.contains("links =") { "" } else { "links = { reuse = false }\n" };
    format!(
        "[cluster.{name}]\nkind = \"{kind}\"\nnodes = {nodes}\nmonitor = {{ user = \"{MONITOR_USER}\", \
         password = \"{MONITOR_PASSWORD}\", interval = \"{interval}\", timeout = \"1s\" }}\n{links}{lines}\n\n"
    )
}

/// Whether this run is one with links that serve several sessions.
pub(crate) fn pools() -> bool {
    std::env::var("POOLING").as_deref() != Ok("off")
}

/// `[service.NAME]` on a port, with further lines.
pub(crate) fn service_toml(name: &str, port: u16, lines: &str) -> String {
    format!("[service.{name}]\nlisten = [\"127.0.0.1:{port}\"]\n{lines}\n\n")
}

// === one plain server ===

/// One plain server and a Spillway in front of it.
pub(crate) struct Solo {
    pub(crate) server: Server,
    pub(crate) spillway: Spillway,
    pub(crate) ways: Ways,
}

static SOLO: OnceLock<Outcome<Solo>> = OnceLock::new();

/// The plain server `solo` with the schemas `lab` and `lab2`: this machine's `MariaDB`, or that of the root which `SOLO` in the
/// environment names.
pub(crate) fn solo() -> Outcome<&'static Solo> {
    SOLO.get_or_init(start_solo).as_ref().map_err(Clone::clone)
}

/// The accounts of [`solo`], each there for a reason that its comment gives.
const SOLO_ACCOUNTS: &str = "
    CREATE DATABASE lab; CREATE DATABASE lab2; CREATE DATABASE closed;
    CREATE TABLE lab.greeting (word VARCHAR(20)); INSERT INTO lab.greeting VALUES ('hello');
    CREATE USER app@'%' IDENTIFIED BY 'app-secret';       -- the ordinary one
    GRANT ALL ON lab.* TO app@'%'; GRANT ALL ON lab2.* TO app@'%';
    GRANT SELECT ON performance_schema.* TO app@'%'; GRANT PROCESS ON *.* TO app@'%';
    CREATE USER other@'%' IDENTIFIED BY 'app-secret';     -- the target of COM_CHANGE_USER
    GRANT ALL ON lab2.* TO other@'%';
    CREATE USER nopass@'%'; GRANT SELECT ON lab.* TO nopass@'%';
    CREATE USER locked@'%' IDENTIFIED BY 'app-secret' ACCOUNT LOCK;
    CREATE USER near@'127.0.0.1' IDENTIFIED BY 'app-secret'; GRANT SELECT ON lab.* TO near@'127.0.0.1';
    CREATE USER far@'10.9.8.7' IDENTIFIED BY 'app-secret';
    CREATE USER noaccess@'%' IDENTIFIED BY 'app-secret';  -- may log in, reaches no schema
    CREATE USER reader@'%' IDENTIFIED BY 'app-secret';    -- may see that a schema does not exist
    GRANT SELECT ON *.* TO reader@'%';
    CREATE USER tableonly@'%' IDENTIFIED BY 'app-secret'; GRANT SELECT ON lab.greeting TO tableonly@'%';
    CREATE USER secure@'%' IDENTIFIED BY 'app-secret' REQUIRE SSL;
    CREATE USER certified@'%' IDENTIFIED BY 'app-secret' REQUIRE X509;
    CREATE ROLE staff; GRANT SELECT ON lab.* TO staff;    -- a schema that is reached through a role alone
    CREATE USER byrole@'%' IDENTIFIED BY 'app-secret'; GRANT staff TO byrole@'%';
    SET DEFAULT ROLE staff FOR byrole@'%';
    CREATE USER replica@'%' IDENTIFIED BY 'app-secret'; GRANT REPLICATION SLAVE, BINLOG MONITOR ON *.* TO replica@'%';
    FLUSH BINARY LOGS;
";

fn start_solo() -> Outcome<Solo> {
    let options = [
        "--skip-name-resolve",
        "--character-set-server=utf8mb4",
        "--performance-schema=ON",
        "--log-bin=binlog",
        "--server-id=1",
    ];
    let mut server = match std::env::var("SOLO").ok().filter(|name| !name.is_empty()) {
        None => Server::prepare("solo", &options)?,
        Some(name) => Server::prepare_in(root::named(&name)?, "solo", &options)?,
    };
    server.start(&[])?;
    server.create_monitor()?;
    server.sql(SOLO_ACCOUNTS)?;
    let port = free_port()?;
    let configuration = cluster_toml("lab", "static", &format!("{{ solo = \"{}\" }}", server.address()))
        + &service_toml("lab", port, "route = \"cluster:lab\"");
    let spillway = Spillway::start(binary(), "spillway-solo", &configuration)?;
    let ways = Ways { direct: server.port, proxied: port };
    Ok(Solo { server, spillway, ways })
}

// === one plain MySQL server ===

/// One `MySQL` 9.7 with TLS. Tests make the accounts that they need, under names of their own.
pub(crate) struct MySql {
    pub(crate) server: Server,
    /// A client that trusts the server's certificate.
    pub(crate) client: Arc<ClientConfig>,
    memory: RwLock<()>,
}

impl MySql {
    /// While this is held no test has the server forget what it keeps in memory: passwords that it has seen, and how often
    /// accounts came and failed.
    pub(crate) fn remembers(&self) -> RwLockReadGuard<'_, ()> {
        self.memory.read().unwrap_or_else(PoisonError::into_inner)
    }

    /// Has it forget that: `FLUSH PRIVILEGES` does. What the test then takes for granted holds for as long as this is held.
    pub(crate) fn forgets(&self, statements: &str) -> Outcome<RwLockWriteGuard<'_, ()>> {
        let alone = self.memory.write().unwrap_or_else(PoisonError::into_inner);
        self.server.sql(&format!("{statements}; FLUSH PRIVILEGES"))?;
        Ok(alone)
    }
}

static MYSQL: OnceLock<Outcome<MySql>> = OnceLock::new();

/// The `MySQL` server with the schemas `lab` and `lab2` and the monitor account; fails where there is no `MySQL`.
pub(crate) fn mysql() -> Outcome<&'static MySql> {
    MYSQL.get_or_init(start_mysql).as_ref().map_err(Clone::clone)
}

fn start_mysql() -> Outcome<MySql> {
    let authority = Authority::new("mysql")?;
    let issued = authority.server()?;
    let mut server = Server::prepare_mysql("mysql", &["--skip-name-resolve"])?;
    for (option, name, content) in [
        ("--ssl-ca", "ca.pem", &authority.pem),
        ("--ssl-cert", "tls.crt", &issued.certificate),
        ("--ssl-key", "tls.key", &issued.key),
    ] {
        let path = server.file(name, content)?;
        server.option(format!("{option}={path}"));
    }
    server.start(&[])?;
    server.create_monitor()?;
    server.sql(
        "CREATE DATABASE lab; CREATE DATABASE lab2; CREATE TABLE lab.greeting (word VARCHAR(20)); INSERT INTO lab.greeting VALUES ('hello');",
    )?;
    Ok(MySql { server, client: authority.trusted_by(&TLS13, None)?, memory: RwLock::new(()) })
}

// === two clusters ===

/// A Galera cluster with the schema `shop`, a primary and a replica with the schema `crm`, and one Spillway in
/// front of both.
pub(crate) struct Pair {
    /// Tests that only use the nodes read; one that stops a node writes. Whoever gets them finds all nodes serving.
    pub(crate) galera: RwLock<Galera>,
    /// See `galera`.
    pub(crate) replication: RwLock<Replication>,
    pub(crate) spillway: Spillway,
    /// By database, over both clusters; sessions without a schema go to `shop`.
    pub(crate) app: u16,
    /// The writer of `shop`.
    pub(crate) shop: u16,
    /// Any node of `shop`.
    pub(crate) shop_any: u16,
    /// The writer of `crm`.
    pub(crate) crm: u16,
    /// Any node of `crm`.
    pub(crate) crm_any: u16,
}

static PAIR: OnceLock<Outcome<Pair>> = OnceLock::new();

/// The two clusters.
pub(crate) fn pair() -> Outcome<&'static Pair> {
    PAIR.get_or_init(start_pair).as_ref().map_err(Clone::clone)
}

impl Pair {
    /// The Galera cluster for a test that stops no node.
    pub(crate) fn share_galera(&self) -> Outcome<RwLockReadGuard<'_, Galera>> {
        let nodes = self.galera.read().unwrap_or_else(PoisonError::into_inner);
        self.settle("shop", "shop1")?;
        Ok(nodes)
    }

    /// The Galera cluster for one test alone.
    pub(crate) fn own_galera(&self) -> Outcome<RwLockWriteGuard<'_, Galera>> {
        let nodes = self.galera.write().unwrap_or_else(PoisonError::into_inner);
        self.settle("shop", "shop1")?;
        Ok(nodes)
    }

    /// The primary and its replica for a test that stops no node.
    pub(crate) fn share_replication(&self) -> Outcome<RwLockReadGuard<'_, Replication>> {
        let nodes = self.replication.read().unwrap_or_else(PoisonError::into_inner);
        self.settle("crm", "crm-primary")?;
        Ok(nodes)
    }

    /// The primary and its replica for one test alone.
    pub(crate) fn own_replication(&self) -> Outcome<RwLockWriteGuard<'_, Replication>> {
        let nodes = self.replication.write().unwrap_or_else(PoisonError::into_inner);
        self.settle("crm", "crm-primary")?;
        Ok(nodes)
    }

    /// Waits until all nodes of a cluster serve again, as the shared Spillway sees it, and the first one is the writer: a test
    /// that hurt some may have ended before they were back.
    fn settle(&self, cluster: &str, writer: &str) -> Outcome<()> {
        wait_for(&format!("{cluster} at rest"), PATIENCE, || {
            let all = self.spillway.get("/v1/nodes")?;
            let entries = all["nodes"].as_array().map(Vec::as_slice).unwrap_or_default();
            let ours = || entries.iter().filter(|entry| entry["cluster"] == cluster);
            if ours().any(|entry| entry["role"] == "none") {
                return Err(all.to_string());
            }
            if ours().any(|entry| entry["node"] == writer && entry["role"] == "writer") {
                return Ok(());
            }
            // The role does not return by itself.
            Err(self.spillway.ask(&format!("set writer {cluster} {writer}"))?)
        })
    }
}

fn start_pair() -> Outcome<Pair> {
    // Both at once: a Galera node mostly waits for its state transfer.
    let replication = std::thread::spawn(|| {
        let replication = Replication::start("crm", &["--skip-name-resolve"])?;
        let primary = &replication.nodes[0];
        primary.create_monitor()?;
        primary.sql(
            "CREATE DATABASE crm; CREATE TABLE crm.customer (id INT PRIMARY KEY, name VARCHAR(40));\
             INSERT INTO crm.customer VALUES (1, 'Ada');\
             CREATE USER app@'%' IDENTIFIED BY 'app-secret'; GRANT ALL ON crm.* TO app@'%';\
             CREATE USER clerk@'%' IDENTIFIED BY 'app-secret'; GRANT ALL ON crm.* TO clerk@'%';",
        )?;
        replication.wait_caught_up()?;
        Ok::<_, String>(replication)
    });
    let galera = Galera::start("shop", &["--skip-name-resolve"], 3)?;
    let first = &galera.nodes[0];
    first.create_monitor()?;
    first.sql(
        "CREATE DATABASE shop; CREATE TABLE shop.item (id INT PRIMARY KEY, name VARCHAR(40));\
         INSERT INTO shop.item VALUES (1, 'lamp');\
         CREATE USER app@'%' IDENTIFIED BY 'app-secret'; GRANT ALL ON shop.* TO app@'%';\
         CREATE USER seller@'%' IDENTIFIED BY 'app-secret'; GRANT ALL ON shop.* TO seller@'%';",
    )?;
    let replication = replication.join().map_err(|_| "the replication set-up panicked")??;
    let mut ports = [0; 5];
    for port in &mut ports {
        *port = free_port()?;
    }
    let [app, shop, shop_any, crm, crm_any] = ports;
    let configuration = pair_clusters_toml(&galera, &replication)
        + &service_toml("app", app, "route = \"by-database\"\ndefault_cluster = \"shop\"")
        + &service_toml("shop", shop, "route = \"cluster:shop\"")
        + &service_toml("shop-any", shop_any, "route = \"cluster:shop\"\nnode = \"any\"")
        + &service_toml("crm", crm, "route = \"cluster:crm\"")
        + &service_toml("crm-any", crm_any, "route = \"cluster:crm\"\nnode = \"any\"");
    let spillway = Spillway::start(binary(), "spillway-pair", &configuration)?;
    Ok(Pair {
        galera: RwLock::new(galera),
        replication: RwLock::new(replication),
        spillway,
        app,
        shop,
        shop_any,
        crm,
        crm_any,
    })
}

/// `[cluster.shop]` and `[cluster.crm]`.
pub(crate) fn pair_clusters_toml(galera: &Galera, replication: &Replication) -> String {
    cluster_toml("shop", "galera", &galera.toml_nodes())
        + &cluster_toml("crm", "replication", &replication.toml_nodes())
}

// === a Spillway of a test's own ===

/// A Spillway for one test, in front of [`solo`]'s server.
pub(crate) struct Private {
    pub(crate) spillway: Spillway,
    pub(crate) port: u16,
}

/// Starts a Spillway of the test's own in front of [`solo`]; `more` is added to the configuration.
pub(crate) fn private_solo(name: &str, more: &str) -> Outcome<Private> {
    let port = free_port()?;
    let configuration = solo_toml(port, more)?;
    Ok(Private { spillway: Spillway::start(binary(), name, &configuration)?, port })
}

/// The configuration of [`private_solo`].
pub(crate) fn solo_toml(port: u16, more: &str) -> Outcome<String> {
    let nodes = format!("{{ solo = \"{}\" }}", solo()?.server.address());
    Ok(cluster_toml("lab", "static", &nodes) + &service_toml("lab", port, "route = \"cluster:lab\"") + more)
}

/// Starts every shared set at once, so that tests of one need not wait for the start of another.
pub(crate) fn start_all_in_background() {
    std::thread::spawn(|| pair().map(drop));
    std::thread::spawn(|| solo().map(drop));
}
