//! From a table with positions to a [`Config`]: one function for each section of the file.
//!
//! Every function reads all of its keys before it gives up, so that no problem hides another one.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::num::{NonZeroU32, NonZeroUsize};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use toml::de::DeTable;

use crate::ids::{ClusterName, ListenAddr, NodeAddr, ServiceName};

use super::credential::{Given, PASSWORD, SecretKeys, Surroundings, TOKEN};
use super::cross::Index;
use super::moves::moves;
use super::problem::{Report, shown};
use super::reader::{Entry, Field, Section, one_of};
use super::tls::{node_tls, tls};
use super::unix_account;
use super::{
    Admin, Backoff, ClientAddress, Cluster, ClusterKind, Config, ConfigErrors, Discover, Handover, Links,
    Log, LogFormat, Monitor, Moves, Node, NodeChoice, ProxyProtocol, RevokedSessions, RoleRules, Route,
    Runtime, Service,
};

const KINDS: [(&str, ClusterKind); 5] = [
    ("galera", ClusterKind::Galera),
    ("replication", ClusterKind::Replication),
    ("multi-primary", ClusterKind::MultiPrimary),
    ("group-replication", ClusterKind::GroupReplication),
    ("static", ClusterKind::Static),
];
const LEVELS: [&str; 6] = ["off", "error", "warn", "info", "debug", "trace"];

const A_NODE: &str =
    "a node as in db1 = \"10.0.0.1:3306\" or db1 = { address = \"10.0.0.1:3306\", weight = 100 }";
const A_NODE_ADDRESS: &str = "host, host:port or [IPv6]:port";
const A_LISTENER: &str = "\"IP:port\", \"[IPv6]:port\" or \"unix:/absolute/path\" (at most 107 bytes)";
const AN_API_ADDRESS: &str = "\"IP:port\" or \"[IPv6]:port\"";
const A_ROUTE: &str = "\"by-database\" or \"cluster:NAME\"";
const A_NAME: &str = "1 to 64 of A-Z a-z 0-9 _ . - starting with a letter or a digit";
const A_FILTER: &str = "a level (off, error, warn, info, debug, trace) or levels of targets such as \
                        \"spillway::session=debug,info\"";

/// The longest name of a schema, in characters.
const MAX_SCHEMA: usize = 64;

const MS_10: Duration = Duration::from_millis(10);
const MS_100: Duration = Duration::from_millis(100);
const SEC_1: Duration = Duration::from_secs(1);
const MIN_10: Duration = Duration::from_mins(10);
const HOUR: Duration = Duration::from_hours(1);
const DAY: Duration = Duration::from_hours(24);

/// Checks `text`. `exposed`: everybody on this machine may read the file that it came from.
pub(super) fn parse(
    text: &str,
    origin: &Path,
    env: &dyn Fn(&str) -> Option<String>,
    exposed: bool,
) -> Result<Config, ConfigErrors> {
    let report = Report::new(origin, text);
    let (table, errors) = DeTable::parse_recoverable(text);
    for error in &errors {
        report.syntax(error);
    }
    let dir = origin.parent().unwrap_or(Path::new(""));
    let around = Surroundings { report: &report, dir, env, exposed };
    let config = Checker { report: &report, index: Index::new(&report), around }
        .config(&Section::root(&report, table.get_ref()));
    let warnings = report.finish()?;
    // Nothing is left out without a report, so without a report nothing is left out.
    let Some(config) = config else {
        return Err(ConfigErrors::unexplained(origin));
    };
    Ok(Config { warnings, ..config })
}

struct Checker<'a> {
    report: &'a Report<'a>,
    index: Index<'a>,
    around: Surroundings<'a>,
}

impl<'a> Checker<'a> {
    fn config(mut self, root: &Section<'a>) -> Option<Config> {
        let clusters = self.clusters(root);
        let services = self.services(root);
        let admin = root
            .or("admin", Admin::default(), |field| field.section().and_then(|section| self.admin(&section)));
        let log = root.or("log", Log::default(), |field| field.section().and_then(|section| log(&section)));
        let runtime = root.or("runtime", Runtime::default(), |field| {
            field.section().and_then(|section| self.runtime(&section))
        });
        root.finish();
        Some(Config {
            clusters: clusters?,
            services: services?,
            admin: admin?,
            log: log?,
            runtime: runtime?,
            warnings: Vec::new(),
        })
    }

    // === clusters ===

    fn clusters(&mut self, root: &Section<'a>) -> Option<BTreeMap<ClusterName, Cluster>> {
        let expected = "at least one table [cluster.NAME]";
        let field = root.require("cluster", expected)?;
        let entries = field.entries(expected)?;
        if entries.is_empty() {
            field.wrong("no cluster is given", expected);
        }
        let mut clusters = BTreeMap::new();
        for entry in entries {
            let name: Option<ClusterName> = self.name(&entry);
            self.index.add_cluster(entry.key, name.clone());
            let cluster = entry.value.section().and_then(|section| self.cluster(name, &section));
            clusters.extend(cluster.map(|cluster| (cluster.name.clone(), cluster)));
        }
        Some(clusters)
    }

    fn cluster(&mut self, name: Option<ClusterName>, section: &Section<'a>) -> Option<Cluster> {
        let kind = section
            .require("kind", &one_of(KINDS.map(|(word, _)| word)))
            .and_then(|field| field.word("kind", &KINDS));
        let nodes = section.require("nodes", A_NODE).and_then(|field| self.nodes(&field));
        let discover = section.or("discover", None, |field| Discover::read(field, kind).map(Some));
        let monitor = section
            .require("monitor", "a table with user and password, password_file or password_env")
            .and_then(|field| field.section())
            .and_then(|section| Monitor::read(&section, kind, &self.around));
        let roles = RoleRules::read(section, kind, self.report);
        let connect_timeout =
            section.or("connect_timeout", Duration::from_secs(3), |field| field.duration(MS_10..=MIN_10));
        let accounts_refresh = section.or("accounts_refresh", Some(Duration::from_secs(30)), |field| {
            field.duration_or_zero(MS_100..=DAY, "on demand only")
        });
        let source_address = section.or("source_address", None, |field| {
            field.parsed("an IP address", "an IP address of this machine", |text| text.parse().map(Some))
        });
        let client_address = section.or("client_address", ClientAddress::Guard, |field| {
            let policy = ClientAddress::read(field)?;
            if policy == ClientAddress::Trust {
                let message = "every client that has an account of its own gets what the nodes allow this machine's address";
                self.report.warn(&field.place, message);
            }
            Some(policy)
        });
        let resolve_names = section.or("resolve_names", false, Field::boolean);
        let revoked_sessions = section.or("revoked_sessions", RevokedSessions::End, |field| {
            let words = [("end", RevokedSessions::End), ("keep", RevokedSessions::Keep)];
            field.word("what becomes of revoked sessions", &words)
        });
        let tls = section.or("tls", None, |field| {
            field
                .section()
                .and_then(|section| node_tls(&section, &self.around))
                .map(|tls| Some(Arc::new(tls)))
        });
        if matches!((&discover, &tls), (Some(Some(_)), Some(None))) {
            let message = "without tls, whoever has an address in these networks and gets it listed can have the password of the monitor account";
            self.report.warn(&section.place_of("discover"), message);
        }
        let links = section
            .or("links", Links::default(), |field| field.section().and_then(|section| links(&section)));
        let moves = section
            .or("moves", Moves::default(), |field| field.section().and_then(|section| moves(&section)));
        let unix_accounts =
            section.or("unix_accounts", BTreeMap::new(), |field| unix_account::read_all(field, &self.around));
        let count = nodes.as_ref().map(Vec::len);
        let handover = section.or("handover", Handover::default(), |field| {
            field.section().and_then(|section| Handover::read(&section, &self.around, kind, count))
        });
        section.finish();
        Some(Cluster {
            name: name?,
            kind: kind?,
            nodes: nodes?,
            discover: discover?,
            monitor: monitor?,
            roles: roles?,
            connect_timeout: connect_timeout?,
            accounts_refresh: accounts_refresh?,
            source_address: source_address?,
            tls: tls?,
            client_address: client_address?,
            resolve_names: resolve_names?,
            revoked_sessions: revoked_sessions?,
            links: links?,
            moves: moves?,
            unix_accounts: unix_accounts?,
            handover: handover?,
        })
    }

    fn nodes(&mut self, field: &Field<'a>) -> Option<Vec<Node>> {
        let entries = field.entries(A_NODE)?;
        if entries.is_empty() {
            field.wrong("a cluster without nodes serves nobody", A_NODE);
        }
        let mut nodes: Vec<Node> = entries.iter().filter_map(|entry| self.node(entry)).collect();
        nodes.sort_by(|a, b| a.name.cmp(&b.name));
        Some(nodes)
    }

    fn node(&mut self, entry: &Entry<'a>) -> Option<Node> {
        let name = self.name(entry);
        if !entry.value.is_table() {
            let address = self.node_address(&entry.value, A_NODE);
            return Some(Node { name: name?, address: address?, weight: 100, priority: 0 });
        }
        let section = entry.value.section()?;
        let address = section
            .require("address", A_NODE_ADDRESS)
            .and_then(|field| self.node_address(&field, A_NODE_ADDRESS));
        let weight = section.or("weight", 100, |field| field.integer(0..=10_000));
        let priority = section.or("priority", 0, |field| field.integer(0..=1000));
        section.finish();
        Some(Node { name: name?, address: address?, weight: weight?, priority: priority? })
    }

    fn node_address(&mut self, field: &Field<'a>, expected: &str) -> Option<NodeAddr> {
        // The text decides about the type first, so that a wrong type hears of both ways to write a node.
        field.string(expected)?;
        let address = field.parsed("an address", A_NODE_ADDRESS, str::parse::<NodeAddr>)?;
        self.index.claim_node(&address, &field.place);
        Some(address)
    }

    // === services ===

    fn services(&mut self, root: &Section<'a>) -> Option<BTreeMap<ServiceName, Service>> {
        let expected = "at least one table [service.NAME]";
        let field = root.require("service", expected)?;
        let entries = field.entries(expected)?;
        if entries.is_empty() {
            field.wrong("no service is given", expected);
        }
        let mut services = BTreeMap::new();
        for entry in entries {
            let name: Option<ServiceName> = self.name(&entry);
            let service = entry.value.section().and_then(|section| self.service(name, &section));
            services.extend(service.map(|service| (service.name.clone(), service)));
        }
        self.unreached(root, &services);
        Some(services)
    }

    fn service(&mut self, name: Option<ServiceName>, section: &Section<'a>) -> Option<Service> {
        let expected = format!("a list with at least one address, each {A_LISTENER}");
        let listen = section.require("listen", &expected).and_then(|field| {
            let addresses = self.listeners(&field, A_LISTENER)?;
            if field.list(&expected)?.is_empty() {
                field.wrong("nobody can reach this service", &*expected);
            }
            Some(addresses)
        });
        let route = self.route(section);
        let node = section.or("node", NodeChoice::Writer, |field| {
            field.word("choice of a node", &[("writer", NodeChoice::Writer), ("any", NodeChoice::Any)])
        });
        let limit = |key| section.or(key, None, |field| field.integer(0..=u32::MAX).map(NonZeroU32::new));
        let max_sessions = limit("max_sessions");
        let max_sessions_per_user = limit("max_sessions_per_user");
        let max_sessions_per_address = limit("max_sessions_per_address");
        let idle_timeout = section
            .or("idle_timeout", None, |field| field.duration_or_zero(SEC_1..=DAY * 30, "never closed"));
        let proxy_protocol = section.or("proxy_protocol", None, |field| {
            field.section().and_then(|section| ProxyProtocol::read(&section)).map(Some)
        });
        let tls = section.or("tls", None, |field| {
            field.section().and_then(|section| tls(&section, &self.around)).map(|tls| Some(Arc::new(tls)))
        });
        section.finish();
        Some(Service {
            name: name?,
            listen: listen?,
            route: route?,
            node: node?,
            max_sessions: max_sessions?,
            max_sessions_per_user: max_sessions_per_user?,
            max_sessions_per_address: max_sessions_per_address?,
            idle_timeout: idle_timeout?,
            proxy_protocol: proxy_protocol?,
            tls: tls?,
        })
    }

    fn route(&self, section: &Section<'a>) -> Option<Route> {
        let clusters = section.get("clusters");
        let default_cluster = section.get("default_cluster");
        let databases = section.get("databases");
        let route = section.require("route", A_ROUTE)?;
        let text = route.string(A_ROUTE)?;
        if let Some(name) = text.strip_prefix("cluster:") {
            for field in [clusters, default_cluster, databases].into_iter().flatten() {
                let message = "has no meaning with a route to one cluster";
                let expected = "it only with route = \"by-database\"".to_owned();
                self.report.conflict(&field.place, message, expected, None);
            }
            return self.index.cluster(&route, name).map(Route::Cluster);
        }
        if text != "by-database" {
            let suggestion = super::suggest::nearest(text, ["by-database"]);
            self.report.suggest(&route.place, format!("unknown route {}", shown(text)), A_ROUTE, suggestion);
            return None;
        }

        let reached = match &clusters {
            Some(field) => self.cluster_list(field),
            None => Some(self.index.clusters()),
        };
        let default = default_cluster.map(|field| {
            let text = field.string("the name of a cluster")?;
            self.index.cluster_among(&field, text, reached.as_deref())
        });
        let databases = match databases {
            Some(field) => self.databases(&field, reached.as_deref()),
            None => Some(BTreeMap::new()),
        };
        let clusters = reached?;
        let default_cluster = match default {
            Some(given) => Some(given?),
            None if clusters.len() == 1 => clusters.first().cloned(),
            None => None,
        };
        Some(Route::ByDatabase { clusters, default_cluster, databases: databases? })
    }

    /// `None` when the list can not be known, so that nothing is said to be missing from it.
    fn cluster_list(&self, field: &Field<'a>) -> Option<Vec<ClusterName>> {
        let expected = "a list with at least one name of a cluster";
        let elements = field.list(expected)?;
        if elements.is_empty() {
            field.wrong("a service without clusters serves nobody", expected);
            return None;
        }
        let mut reached = Some(Vec::new());
        for element in elements {
            let cluster =
                element.string("the name of a cluster").and_then(|text| self.index.cluster(&element, text));
            match (cluster, &mut reached) {
                (Some(cluster), Some(list)) if list.contains(&cluster) => {
                    element.wrong(format!("cluster \"{cluster}\" is given twice"), "each cluster once");
                }
                (Some(cluster), Some(list)) => list.push(cluster),
                (Some(_), None) => {}
                (None, _) => reached = None,
            }
        }
        reached
    }

    fn databases(
        &self,
        field: &Field<'a>,
        reached: Option<&[ClusterName]>,
    ) -> Option<BTreeMap<String, ClusterName>> {
        let mut map = BTreeMap::new();
        for entry in field.entries("a table such as { SCHEMA = \"CLUSTER\" }")? {
            let length = entry.key.chars().count();
            if length == 0 || length > MAX_SCHEMA {
                let expected = format!("1 to {MAX_SCHEMA} characters");
                self.report.wrong(&entry.place, "is not a name of a schema", expected);
            }
            let cluster = entry
                .value
                .string("the name of a cluster")
                .and_then(|text| self.index.cluster_among(&entry.value, text, reached));
            map.extend(cluster.map(|cluster| (entry.key.to_owned(), cluster)));
        }
        Some(map)
    }

    /// Warns of clusters that no service reaches: accounts are loaded for nothing.
    fn unreached(&self, root: &Section<'a>, services: &BTreeMap<ServiceName, Service>) {
        let reached: BTreeSet<&str> =
            services.values().flat_map(Service::clusters).map(ClusterName::as_str).collect();
        let clusters = root.get("cluster").and_then(|field| field.entries(""));
        for entry in clusters.into_iter().flatten() {
            if !reached.contains(entry.key) {
                self.report.warn(&entry.place, "no service reaches this cluster");
            }
        }
    }

    // === admin, log, runtime ===

    fn admin(&mut self, section: &Section<'a>) -> Option<Admin> {
        let console = section.or("console", Vec::new(), |field| self.doors(field, A_LISTENER));
        let api = section.or("api", Vec::new(), |field| self.doors(field, AN_API_ADDRESS));
        let api: Option<Vec<SocketAddr>> = api.map(|list| list.iter().filter_map(ListenAddr::tcp).collect());
        let password = self.around.secret(section, &PASSWORD);
        let token = self.around.secret(section, &TOKEN);
        let first_tcp = console.iter().flatten().find_map(ListenAddr::tcp);
        self.needs(section, &password, &PASSWORD, first_tcp, "admin.console");
        self.needs(section, &token, &TOKEN, api.iter().flatten().next().copied(), "admin.api");
        section.finish();
        Some(Admin { console: console?, api: api?, password: password.optional()?, token: token.optional()? })
    }

    /// Addresses that operators connect to.
    fn doors(&mut self, field: &Field<'a>, expected: &str) -> Option<Vec<ListenAddr>> {
        let addresses = self.listeners(field, expected)?;
        for address in addresses.iter().filter_map(ListenAddr::tcp).filter(|a| !a.ip().is_loopback()) {
            let message =
                format!("{address} is not a loopback address, and what passes here is not encrypted");
            self.report.warn(&field.place, &message);
        }
        Some(addresses)
    }

    /// Reports that a secret is not given although a TCP address asks for it.
    fn needs(
        &self,
        section: &Section<'a>,
        given: &Given,
        keys: &SecretKeys,
        address: Option<SocketAddr>,
        door: &str,
    ) {
        if let (Given::Nothing, Some(address)) = (given, address) {
            let place = section.place_of(keys.value);
            let message = format!("missing, although {door} listens on {address}");
            self.report.conflict(&place, message, keys.expected(), None);
        }
    }

    fn runtime(&self, section: &Section<'a>) -> Option<Runtime> {
        let default = Runtime::default();
        let workers =
            section.or("workers", None, |field| field.integer(0..=1024_usize).map(NonZeroUsize::new));
        let start_without_accounts = section.or("start_without_accounts", false, Field::boolean);
        let start_timeout =
            section.or("start_timeout", default.start_timeout, |field| field.duration(MS_10..=HOUR));
        let handshake_timeout = section
            .or("handshake_timeout", default.handshake_timeout, |field| field.duration(MS_100..=MIN_10));
        let drain_timeout =
            section.or("drain_timeout", default.drain_timeout, |field| field.duration(Duration::ZERO..=DAY));
        let backoff = section.or("backoff", default.backoff, |field| {
            field.section().and_then(|section| Backoff::read(&section))
        });
        let state_file = section.or("state_file", None, |field| self.around.path(field).map(Some));
        section.finish();
        Some(Runtime {
            workers: workers?,
            start_without_accounts: start_without_accounts?,
            start_timeout: start_timeout?,
            handshake_timeout: handshake_timeout?,
            drain_timeout: drain_timeout?,
            backoff: backoff?,
            state_file: state_file?,
        })
    }

    // === values that several sections have ===

    fn name<T: for<'t> TryFrom<&'t str>>(&self, entry: &Entry<'a>) -> Option<T> {
        let name = T::try_from(entry.key).ok();
        if name.is_none() {
            self.report.wrong(&entry.place, "is not a name", A_NAME);
        }
        name
    }

    /// Addresses to listen on; only TCP addresses when `expected` is [`AN_API_ADDRESS`].
    fn listeners(&mut self, field: &Field<'a>, expected: &str) -> Option<Vec<ListenAddr>> {
        let mut addresses = Vec::new();
        for element in field.list(&format!("a list of addresses, each {expected}"))? {
            let address = element.parsed("an address to listen on", expected, |text| match text.parse() {
                Ok(ListenAddr::Unix(_)) if expected == AN_API_ADDRESS => Err(()),
                other => other.map_err(|_| ()),
            });
            if let Some(address) = address {
                self.index.claim_listener(&address, &element.place);
                addresses.push(address);
            }
        }
        Some(addresses)
    }
}

fn links(section: &Section<'_>) -> Option<Links> {
    let default = Links::default();
    let reuse = section.or("reuse", default.reuse, Field::boolean);
    let trust = section.or("trust", default.trust, |field| {
        field.duration_or_zero(Duration::from_millis(1)..=Duration::from_mins(1), "every login is judged")
    });
    let max_idle = section.or("max_idle", default.max_idle, |field| field.integer(1..=10_000));
    let idle_timeout = section.or("idle_timeout", default.idle_timeout, |field| field.duration(MS_100..=DAY));
    let max_age = section.or("max_age", default.max_age, |field| field.duration(SEC_1..=DAY * 30));
    let warm = section.or("warm", default.warm, |field| field.integer(0..=1000));
    let max = section.or("max", default.max, |field| field.integer(0..=u32::MAX).map(NonZeroU32::new));
    let queue = section.or("queue", default.queue, |field| field.integer(0..=100_000));
    let queue_timeout =
        section.or("queue_timeout", default.queue_timeout, |field| field.duration(MS_10..=MIN_10));
    section.finish();
    Some(Links {
        reuse: reuse?,
        trust: trust?,
        max_idle: max_idle?,
        idle_timeout: idle_timeout?,
        max_age: max_age?,
        warm: warm?,
        max: max?,
        queue: queue?,
        queue_timeout: queue_timeout?,
    })
}

fn log(section: &Section<'_>) -> Option<Log> {
    let default = Log::default();
    let format = section.or("format", LogFormat::Text, |field| {
        field.word("format", &[("text", LogFormat::Text), ("json", LogFormat::Json)])
    });
    let level = section.or("level", default.level, |field| {
        field.parsed("a level or a filter", A_FILTER, |text| {
            if is_filter(text) { Ok(text.to_owned()) } else { Err(()) }
        })
    });
    section.finish();
    Some(Log { format: format?, level: level? })
}

/// Whether `text` is a list of levels and `target=level`, a part of what the log's filter parser takes: spans and
/// their fields are left out.
fn is_filter(text: &str) -> bool {
    let target = |t: &str| {
        t.starts_with(|c: char| c.is_ascii_alphabetic())
            && t.split("::").all(|part| {
                !part.is_empty() && part.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_' || b == b'-')
            })
    };
    text.split(',').all(|directive| match directive.split_once('=') {
        Some((name, level)) => target(name) && LEVELS.contains(&level),
        None => LEVELS.contains(&directive),
    })
}
