//! The tests of the configuration: what is right, what is wrong line by line, and any text at all.

use std::fmt::Write as _;
use std::fs;
use std::os::unix::fs::PermissionsExt as _;

use proptest::prelude::*;

use super::*;
use crate::tls::Verify;
use crate::tls::specimen::{Authority, Issued, NAME};

const EXAMPLE: &str = include_str!("../../deploy/spillway.toml");

const SMALL: &str = r#"[cluster.shop]
kind = "galera"
nodes = { db1 = "10.0.0.1:3306", db2 = "10.0.0.2:3306", db3 = "10.0.0.3:3306" }
monitor = { user = "spillway", password = "mon-s3cret" }

[service.app]
listen = ["127.0.0.1:3306"]
route = "cluster:shop"
"#;

/// Two clusters, every section. The cases below change one part of it.
const GOOD: &str = r#"[cluster.shop]
kind = "galera"
nodes = { db1 = "10.0.0.1:3306", db2 = { address = "10.0.0.2", weight = 50, priority = 3 } }
connect_timeout = "2s"
accounts_refresh = "1m"
[cluster.shop.monitor]
user = "spillway"
password = "mon-s3cret"
interval = "500ms"
timeout = "250ms"
jitter = 0.2

[cluster.stats]
kind = "replication"
nodes = { s1 = "stats1.example.com" }
monitor = { user = "spillway", password = "other-s3cret", max_lag = "10s" }

[service.app]
listen = ["127.0.0.1:3306", "unix:/run/spillway/app.sock"]
route = "by-database"
clusters = ["shop", "stats"]
default_cluster = "shop"
databases = { reports = "stats" }
node = "any"
max_sessions = 100

[admin]
console = ["127.0.0.1:6033"]
api = ["127.0.0.1:6034"]
password = "con-s3cret"
token = "tok-s3cret"

[log]
format = "json"
level = "spillway::session=debug,info"

[runtime]
workers = 2
start_without_accounts = true
start_timeout = "20s"
handshake_timeout = "5s"
drain_timeout = "0s"
state_file = "/var/lib/spillway/state.json"
backoff = { per_address = 9, per_account = 0 }
"#;

const SECRETS: [&str; 6] =
    ["mon-s3cret", "other-s3cret", "con-s3cret", "tok-s3cret", "oper-s3cret", "repl-s3cret"];

const A_NODE: &str =
    "a node as in db1 = \"10.0.0.1:3306\" or db1 = { address = \"10.0.0.1:3306\", weight = 100 }";
const A_NODE_ADDRESS: &str = "host, host:port or [IPv6]:port";
const A_LISTENER: &str = "\"IP:port\", \"[IPv6]:port\" or \"unix:/absolute/path\" (at most 107 bytes)";
const DURATION: &str = "a duration such as \"250ms\", \"1s\" or \"5m\"";
const A_FILTER: &str = "a level (off, error, warn, info, debug, trace) or levels of targets such as \
                        \"spillway::session=debug,info\"";
const KINDS: &str = "one of: galera, replication, multi-primary, group-replication, static";
const A_PASSWORD: &str = "exactly one of password, password_file, password_env";
const A_NAME: &str = "1 to 64 of A-Z a-z 0-9 _ . - starting with a letter or a digit";
const SERVICE_KEYS: &str = "one of: clusters, databases, default_cluster, idle_timeout, listen, max_sessions, \
                            max_sessions_per_address, max_sessions_per_user, node, proxy_protocol, route, tls";

fn no_env(_: &str) -> Option<String> {
    None
}

fn parse(text: &str) -> Result<Config, ConfigErrors> {
    Config::parse(text, Path::new("spillway.toml"), &no_env)
}

fn good(text: &str) -> Config {
    parse(text).unwrap_or_else(|errors| panic!("{errors}"))
}

/// `text` with the one place that reads `from` changed to `to`.
fn edit(text: &str, from: &str, to: &str) -> String {
    assert_eq!(text.matches(from).count(), 1, "{from:?} must stand once in the text");
    text.replacen(from, to, 1)
}

fn cluster(name: &str) -> ClusterName {
    name.parse().expect("a name")
}

fn secs(n: u64) -> Duration {
    Duration::from_secs(n)
}

// === what is right ===

#[test]
fn the_smallest_file_has_every_default() {
    let config = good(SMALL);
    let shop = &config.clusters["shop"];
    assert_eq!(shop.kind, ClusterKind::Galera);
    let nodes: Vec<_> =
        shop.nodes.iter().map(|n| format!("{} {} {} {}", n.name, n.address, n.weight, n.priority)).collect();
    assert_eq!(nodes, ["db1 10.0.0.1:3306 100 0", "db2 10.0.0.2:3306 100 0", "db3 10.0.0.3:3306 100 0"]);
    assert_eq!((shop.connect_timeout, shop.accounts_refresh), (secs(3), Some(secs(30))));
    let monitor = Monitor {
        user: "spillway".to_owned(),
        secret: Secret::new("mon-s3cret"),
        interval: secs(1),
        timeout: secs(1),
        jitter: 0.1,
        rise: 1,
        fall: 2,
        max_lag: None,
        heartbeat_table: None,
        max_receive_queue: None,
        max_flow_control_paused: None,
        donor_reads: false,
    };
    assert_eq!(shop.monitor, monitor);
    let app = Service {
        name: "app".parse().expect("a name"),
        listen: vec!["127.0.0.1:3306".parse().expect("an address")],
        route: Route::Cluster(cluster("shop")),
        node: NodeChoice::Writer,
        max_sessions: None,
        max_sessions_per_user: None,
        max_sessions_per_address: None,
        idle_timeout: None,
        proxy_protocol: None,
        tls: None,
    };
    assert_eq!(config.services["app"], app);
    assert_eq!(
        (&config.admin, &config.log, &config.runtime),
        (&Admin::default(), &Log::default(), &Runtime::default())
    );
    assert_eq!(config.warnings, [""; 0]);
}

#[test]
fn client_addresses_arrive_and_are_compared() {
    let old = good(SMALL);
    assert_eq!(old.clusters["shop"].client_address, ClientAddress::Guard);
    let text = edit(SMALL, "kind = \"galera\"", "kind = \"galera\"\nclient_address = \"proxy-protocol-v1\"");
    let text = edit(
        &text,
        "route = \"cluster:shop\"",
        "route = \"cluster:shop\"\nproxy_protocol = { from = [\"10.0.0.7\", \"10.1.2.3/16\", \"fd00::/8\"], require = false }",
    );
    let new = good(&text);
    assert_eq!(new.clusters["shop"].client_address, ClientAddress::Announced(HeaderVersion::V1));
    let proxy = new.services["app"].proxy_protocol.clone().expect("it was given");
    for (peer, believed) in [
        ("10.0.0.7", true),
        ("::ffff:10.0.0.7", true),
        ("10.0.0.8", false),
        ("10.1.255.9", true),
        ("fd12::1", true),
        ("fe80::1", false),
    ] {
        assert_eq!(proxy.believes(peer.parse().expect("an address")), believed, "{peer}");
    }
    let changes: Vec<String> = old.diff(&new).iter().map(ToString::to_string).collect();
    assert_eq!(
        changes,
        [
            "cluster shop: client_address guard -> proxy-protocol-v1",
            "service app: proxy_protocol none -> accepted from 10.0.0.7/32, 10.1.0.0/16, fd00::/8",
        ]
    );
    let trusting = good(&edit(SMALL, "kind = \"galera\"", "kind = \"galera\"\nclient_address = \"trust\""));
    assert!(trusting.warnings[0].contains("client_address: every client"), "{:?}", trusting.warnings);
}

#[test]
fn links_and_limits_arrive_and_are_compared() {
    assert_eq!(good(SMALL).clusters["shop"].links, Links::default());
    assert_eq!(good(SMALL).clusters["shop"].moves, Moves::default());
    let text = edit(
        SMALL,
        "route = \"cluster:shop\"",
        "route = \"cluster:shop\"\nmax_sessions_per_user = 5\nmax_sessions_per_address = 6\nidle_timeout = \"10m\"",
    ) + "[cluster.shop.links]\nreuse = false\ntrust = \"0s\"\nmax_idle = 3\nidle_timeout = \"2s\"\nmax_age = \"1h\"\nwarm = 1\n\
           max = 100\nqueue = 7\nqueue_timeout = \"1s\"\n";
    let config = good(&text);
    let links = Links {
        reuse: false,
        trust: None,
        max_idle: 3,
        idle_timeout: secs(2),
        max_age: secs(3600),
        warm: 1,
        max: NonZeroU32::new(100),
        queue: 7,
        queue_timeout: secs(1),
    };
    assert_eq!(config.clusters["shop"].links, links);
    let app = &config.services["app"];
    assert_eq!(
        (app.max_sessions_per_user, app.max_sessions_per_address, app.idle_timeout),
        (NonZeroU32::new(5), NonZeroU32::new(6), Some(secs(600)))
    );
    let lines: Vec<_> = good(SMALL).diff(&config).iter().map(ToString::to_string).collect();
    assert_eq!(
        lines,
        [
            "cluster shop: links reuse true -> false",
            "cluster shop: links trust 10ms -> every login is judged",
            "cluster shop: links max_idle 64 -> 3",
            "cluster shop: links idle_timeout 1m -> 2s",
            "cluster shop: links max_age 30m -> 1h",
            "cluster shop: links warm 0 -> 1",
            "cluster shop: links max no limit -> 100",
            "cluster shop: links queue 1000 -> 7",
            "cluster shop: links queue_timeout 5s -> 1s",
            "service app: max_sessions_per_user no limit -> 5",
            "service app: max_sessions_per_address no limit -> 6",
            "service app: idle_timeout never closed -> 10m",
        ]
    );
    let wrong = parse(&edit(&text, "max_idle = 3", "max_idle = 0")).expect_err("too few").to_string();
    assert!(wrong.contains("cluster.shop.links.max_idle"), "{wrong}");
}

#[test]
fn every_value_arrives() {
    let config = good(GOOD);
    let shop = &config.clusters["shop"];
    let db2 = shop.node("db2").expect("db2");
    assert_eq!((db2.address.to_string().as_str(), db2.weight, db2.priority), ("10.0.0.2:3306", 50, 3));
    assert_eq!((shop.connect_timeout, shop.accounts_refresh), (secs(2), Some(secs(60))));
    assert_eq!(shop.monitor.interval, Duration::from_millis(500));
    assert_eq!(shop.monitor.timeout, Duration::from_millis(250));
    assert!((shop.monitor.jitter - 0.2).abs() < f64::EPSILON);
    assert_eq!(config.clusters["stats"].monitor.max_lag, Some(secs(10)));
    let app = &config.services["app"];
    let route = Route::ByDatabase {
        clusters: vec![cluster("shop"), cluster("stats")],
        default_cluster: Some(cluster("shop")),
        databases: BTreeMap::from([("reports".to_owned(), cluster("stats"))]),
    };
    assert_eq!((&app.route, app.node, app.max_sessions), (&route, NodeChoice::Any, NonZeroU32::new(100)));
    assert_eq!(
        config.listeners().map(|(a, s)| format!("{a} {}", s.name)).collect::<Vec<_>>(),
        ["127.0.0.1:3306 app", "unix:/run/spillway/app.sock app"]
    );
    assert_eq!(config.admin.password.as_ref().map(Secret::expose), Some("con-s3cret"));
    assert_eq!(config.admin.token.as_ref().map(Secret::expose), Some("tok-s3cret"));
    assert_eq!(config.admin.api, ["127.0.0.1:6034".parse().expect("an address")]);
    assert_eq!(
        (config.log.format, config.log.level.as_str()),
        (LogFormat::Json, "spillway::session=debug,info")
    );
    let runtime = Runtime {
        workers: NonZeroUsize::new(2),
        start_without_accounts: true,
        start_timeout: secs(20),
        handshake_timeout: secs(5),
        drain_timeout: secs(0),
        backoff: Backoff { per_address: 9, per_account: 0, ..Backoff::default() },
        state_file: Some("/var/lib/spillway/state.json".into()),
    };
    assert_eq!(config.runtime, runtime);
}

#[test]
fn by_database_reaches_every_cluster_unless_told_and_knows_the_only_one() {
    let small = good(&edit(SMALL, "cluster:shop", "by-database"));
    let one = Route::ByDatabase {
        clusters: vec![cluster("shop")],
        default_cluster: Some(cluster("shop")),
        databases: BTreeMap::new(),
    };
    assert_eq!(small.services["app"].route, one);
    let both =
        edit(&edit(GOOD, "clusters = [\"shop\", \"stats\"]\n", ""), "default_cluster = \"shop\"\n", "");
    match &good(&both).services["app"].route {
        Route::ByDatabase { clusters, default_cluster, .. } => {
            assert_eq!(
                (clusters.as_slice(), default_cluster),
                (&[cluster("shop"), cluster("stats")][..], &None)
            );
        }
        Route::Cluster(_) => panic!("by-database was asked for"),
    }
}

#[test]
fn zero_means_none_where_the_format_says_so() {
    let text = edit(GOOD, "accounts_refresh = \"1m\"", "accounts_refresh = \"0s\"");
    let text = edit(&text, "max_lag = \"10s\"", "max_lag = \"0s\"");
    let text = edit(&text, "workers = 2", "workers = 0");
    let config = good(&edit(&text, "max_sessions = 100", "max_sessions = 0"));
    assert_eq!(config.clusters["shop"].accounts_refresh, None);
    assert_eq!(config.clusters["stats"].monitor.max_lag, None);
    assert_eq!(config.runtime.workers, None);
    assert_eq!(config.services["app"].max_sessions, None);
}

#[test]
fn the_shipped_example_is_right_and_says_everything() {
    let env = |name: &str| Some(format!("value-of-{name}"));
    let config =
        Config::parse(EXAMPLE, Path::new("deploy/spillway.toml"), &env).unwrap_or_else(|e| panic!("{e}"));
    assert_eq!(config.warnings, [""; 0]);
    assert_eq!(config.clusters["shop"].monitor.secret.expose(), "value-of-SPILLWAY_SHOP_PASSWORD");
    assert_eq!(config.clusters["stats"].nodes.len(), 3);
    // What stands there as a default is the default.
    let small = good(SMALL);
    assert_eq!(config.log, small.log);
    assert_eq!(Runtime { state_file: None, ..config.runtime }, small.runtime);
    let (shop, plain) = (&config.clusters["shop"], &small.clusters["shop"]);
    assert_eq!(
        (shop.connect_timeout, shop.accounts_refresh),
        (plain.connect_timeout, plain.accounts_refresh)
    );
    assert_eq!(Monitor { secret: Secret::new("mon-s3cret"), ..shop.monitor.clone() }, plain.monitor);
    // No key of the format is left out, not even as a comment.
    for key in [
        "kind",
        "nodes",
        "address",
        "weight",
        "priority",
        "connect_timeout",
        "accounts_refresh",
        "user",
        "password",
        "password_file",
        "password_env",
        "interval",
        "timeout",
        "jitter",
        "rise",
        "fall",
        "max_lag",
        "heartbeat_table",
        "max_receive_queue",
        "max_flow_control_paused",
        "donor_reads",
        "slow_start",
        "listen",
        "route",
        "clusters",
        "default_cluster",
        "databases",
        "node",
        "max_sessions",
        "tls",
        "certificate",
        "key",
        "required",
        "client_ca",
        "console",
        "api",
        "token",
        "token_file",
        "token_env",
        "format",
        "level",
        "workers",
        "start_without_accounts",
        "start_timeout",
        "handshake_timeout",
        "drain_timeout",
        "backoff",
        "per_address",
        "per_account",
        "client_address",
        "source_address",
        "resolve_names",
        "revoked_sessions",
        "failback",
        "split_brain",
        "max_ejected",
        "discover",
        "networks",
        "forget_after",
        "unix_accounts",
        "uid",
        "proxy_protocol",
        "require",
        "state_file",
    ] {
        assert!(EXAMPLE.contains(key), "{key} is not in the example");
    }
}

#[test]
fn unwise_things_are_told_with_their_lines() {
    let text = edit(GOOD, "\"by-database\"", "\"cluster:shop\"");
    let text = edit(
        &text,
        "clusters = [\"shop\", \"stats\"]\ndefault_cluster = \"shop\"\ndatabases = { reports = \"stats\" }\n",
        "",
    );
    let text = edit(&text, "jitter = 0.2", "max_lag = \"1s\"");
    let text = edit(&text, "127.0.0.1:6033", "0.0.0.0:6033");
    assert_eq!(
        good(&text).warnings,
        [
            "spillway.toml:11: cluster.shop.monitor.max_lag: has no effect in a cluster of this kind, whose nodes report no lag",
            "spillway.toml:13: cluster.stats: no service reaches this cluster",
            "spillway.toml:25: admin.console: 0.0.0.0:6033 is not a loopback address, and what passes here is not encrypted",
        ]
    );
}

// === what is wrong ===

#[test]
fn every_single_fault_is_one_exact_line() {
    let long = "x".repeat(65);
    let cases: &[(&str, &str, &str)] = &[
        // unknown keys
        (
            "kind = \"galera\"",
            "kind = \"galera\"\nkimd = 1",
            "3: cluster.shop.kimd: unknown key; expected one of: accounts_refresh, client_address, connect_timeout, discover, failback, handover, kind, links, max_ejected, monitor, moves, nodes, resolve_names, revoked_sessions, slow_start, source_address, split_brain, tls, unix_accounts (did you mean \"kind\"?)",
        ),
        (
            "kind = \"galera\"",
            "kind = \"galera\"\ndiscover = true",
            "3: cluster.shop.discover: found a boolean; expected a table",
        ),
        (
            "kind = \"galera\"",
            "kind = \"galera\"\ndiscover = { networks = [] }",
            "3: cluster.shop.discover.networks: no member could be anywhere; expected a list with at least one network such as 10.0.0.0/24",
        ),
        (
            "weight = 50",
            "wieght = 50",
            "3: cluster.shop.nodes.db2.wieght: unknown key; expected one of: address, priority, weight (did you mean \"weight\"?)",
        ),
        (
            "[log]",
            "[lgo]\n[log]",
            "33: lgo: unknown key; expected one of: admin, cluster, log, runtime, service (did you mean \"log\"?)",
        ),
        (
            "node = \"any\"",
            "zzzzzz = \"any\"",
            &format!("24: service.app.zzzzzz: unknown key; expected {SERVICE_KEYS}"),
        ),
        // A misspelt key of a secret says nothing of its value.
        (
            "password = \"con-s3cret\"",
            "password = \"con-s3cret\"\npasswrd = \"x-s3cret\"",
            "31: admin.passwrd: unknown key; expected one of: api, console, password, password_env, password_file, token, token_env, token_file (did you mean \"password\"?)",
        ),
        // wrong types
        (
            "kind = \"galera\"",
            "kind = 7",
            &format!("2: cluster.shop.kind: found an integer; expected {KINDS}"),
        ),
        (
            "db1 = \"10.0.0.1:3306\"",
            "db1 = 3306",
            &format!("3: cluster.shop.nodes.db1: found an integer; expected {A_NODE}"),
        ),
        (
            "connect_timeout = \"2s\"",
            "connect_timeout = 2",
            &format!(
                "4: cluster.shop.connect_timeout: found an integer; expected {DURATION}, from 10ms to 10m"
            ),
        ),
        (
            "jitter = 0.2",
            "jitter = \"0.2\"",
            "11: cluster.shop.monitor.jitter: found a string; expected a number from 0.0 to 0.5",
        ),
        (
            "password = \"mon-s3cret\"",
            "password = 12345678",
            "8: cluster.shop.monitor.password: found an integer; expected a string",
        ),
        (
            "nodes = { s1 = \"stats1.example.com\" }",
            "nodes = [\"stats1.example.com\"]",
            &format!("15: cluster.stats.nodes: found a list; expected {A_NODE}"),
        ),
        (
            "monitor = { user = \"spillway\", password = \"other-s3cret\", max_lag = \"10s\" }",
            "monitor = true",
            "16: cluster.stats.monitor: found a boolean; expected a table",
        ),
        (
            "clusters = [\"shop\", \"stats\"]",
            "clusters = \"shop\"",
            "21: service.app.clusters: found a string; expected a list with at least one name of a cluster",
        ),
        (
            "databases = { reports = \"stats\" }",
            "databases = \"stats\"",
            "23: service.app.databases: found a string; expected a table such as { SCHEMA = \"CLUSTER\" }",
        ),
        (
            "max_sessions = 100",
            "max_sessions = 1.5",
            "25: service.app.max_sessions: found a float; expected an integer from 0 to 4294967295",
        ),
        (
            "api = [\"127.0.0.1:6034\"]",
            "api = [6034]",
            "29: admin.api: found an integer; expected \"IP:port\" or \"[IPv6]:port\"",
        ),
        (
            "start_without_accounts = true",
            "start_without_accounts = \"yes\"",
            "39: runtime.start_without_accounts: found a string; expected true or false",
        ),
        (
            "start_timeout = \"20s\"",
            "start_timeout = 10:00:00",
            &format!("40: runtime.start_timeout: found a date or time; expected {DURATION}, from 10ms to 1h"),
        ),
        // missing keys
        ("kind = \"galera\"\n", "", &format!("1: cluster.shop.kind: missing; expected {KINDS}")),
        (
            "nodes = { s1 = \"stats1.example.com\" }\n",
            "",
            &format!("13: cluster.stats.nodes: missing; expected {A_NODE}"),
        ),
        (
            "monitor = { user = \"spillway\", password = \"other-s3cret\", max_lag = \"10s\" }\n",
            "",
            "13: cluster.stats.monitor: missing; expected a table with user and password, password_file or password_env",
        ),
        (
            "user = \"spillway\"\n",
            "",
            "6: cluster.shop.monitor.user: missing; expected the name of a database user",
        ),
        (
            "address = \"10.0.0.2\", ",
            "",
            &format!("3: cluster.shop.nodes.db2.address: missing; expected {A_NODE_ADDRESS}"),
        ),
        (
            "route = \"by-database\"\n",
            "",
            "18: service.app.route: missing; expected \"by-database\" or \"cluster:NAME\"",
        ),
        (
            "listen = [\"127.0.0.1:3306\", \"unix:/run/spillway/app.sock\"]\n",
            "",
            &format!(
                "18: service.app.listen: missing; expected a list with at least one address, each {A_LISTENER}"
            ),
        ),
        // empty ones
        (
            "[\"127.0.0.1:3306\", \"unix:/run/spillway/app.sock\"]",
            "[]",
            &format!(
                "19: service.app.listen: nobody can reach this service; expected a list with at least one address, each {A_LISTENER}"
            ),
        ),
        (
            "{ s1 = \"stats1.example.com\" }",
            "{}",
            &format!("15: cluster.stats.nodes: a cluster without nodes serves nobody; expected {A_NODE}"),
        ),
        // words
        (
            "\"galera\"",
            "\"galeria\"",
            &format!(
                "2: cluster.shop.kind: unknown kind \"galeria\"; expected {KINDS} (did you mean \"galera\"?)"
            ),
        ),
        (
            "\"any\"",
            "\"all\"",
            "24: service.app.node: unknown choice of a node \"all\"; expected one of: writer, any",
        ),
        (
            "\"json\"",
            "\"jsno\"",
            "34: log.format: unknown format \"jsno\"; expected one of: text, json (did you mean \"json\"?)",
        ),
        (
            "\"spillway::session=debug,info\"",
            "\"verbose\"",
            &format!("35: log.level: \"verbose\" is not a level or a filter; expected {A_FILTER}"),
        ),
        (
            "\"spillway::session=debug,info\"",
            "\"a[b]=info\"",
            &format!("35: log.level: the given text is not a level or a filter; expected {A_FILTER}"),
        ),
        (
            "\"by-database\"",
            "\"by-databases\"",
            "20: service.app.route: unknown route \"by-databases\"; expected \"by-database\" or \"cluster:NAME\" (did you mean \"by-database\"?)",
        ),
        // references
        (
            "clusters = [\"shop\", \"stats\"]",
            "clusters = [\"shop\", \"stats\", \"sotck\"]",
            "21: service.app.clusters: unknown cluster \"sotck\"; expected one of: shop, stats",
        ),
        (
            "default_cluster = \"shop\"",
            "default_cluster = \"shpo\"",
            "22: service.app.default_cluster: unknown cluster \"shpo\"; expected one of: shop, stats (did you mean \"shop\"?)",
        ),
        (
            "clusters = [\"shop\", \"stats\"]",
            "clusters = [\"stats\"]",
            "22: service.app.default_cluster: this service does not reach cluster \"shop\"; expected one of: stats",
        ),
        (
            "clusters = [\"shop\", \"stats\"]",
            "clusters = [\"shop\"]",
            "23: service.app.databases.reports: this service does not reach cluster \"stats\"; expected one of: shop",
        ),
        (
            "clusters = [\"shop\", \"stats\"]",
            "clusters = []",
            "21: service.app.clusters: a service without clusters serves nobody; expected a list with at least one name of a cluster",
        ),
        (
            "clusters = [\"shop\", \"stats\"]",
            "clusters = [\"shop\", \"stats\", \"shop\"]",
            "21: service.app.clusters: cluster \"shop\" is given twice; expected each cluster once",
        ),
        (
            "{ reports = \"stats\" }",
            "{ \"old reports\" = \"stat\" }",
            "23: service.app.databases.\"old reports\": unknown cluster \"stat\"; expected one of: shop, stats (did you mean \"stats\"?)",
        ),
        (
            "{ reports = \"stats\" }",
            "{ \"\" = \"stats\" }",
            "23: service.app.databases.\"\": is not a name of a schema; expected 1 to 64 characters",
        ),
        // names
        ("[service.app]", "[service.-app]", &format!("18: service.-app: is not a name; expected {A_NAME}")),
        (
            "{ s1 =",
            "{ \"s 1\" =",
            &format!("15: cluster.stats.nodes.\"s 1\": is not a name; expected {A_NAME}"),
        ),
        (
            "{ s1 =",
            &format!("{{ {long} ="),
            &format!("15: cluster.stats.nodes.{long}: is not a name; expected {A_NAME}"),
        ),
        // addresses
        (
            "stats1.example.com",
            "10.0.0.300",
            &format!(
                "15: cluster.stats.nodes.s1: \"10.0.0.300\" is not an address; expected {A_NODE_ADDRESS}"
            ),
        ),
        (
            "stats1.example.com",
            "stats1:0",
            &format!("15: cluster.stats.nodes.s1: \"stats1:0\" is not an address; expected {A_NODE_ADDRESS}"),
        ),
        (
            "stats1.example.com",
            "root:x-s3cret@stats1",
            &format!(
                "15: cluster.stats.nodes.s1: the given text is not an address; expected {A_NODE_ADDRESS}"
            ),
        ),
        (
            "\"127.0.0.1:3306\"",
            "\"localhost:3306\"",
            &format!(
                "19: service.app.listen: \"localhost:3306\" is not an address to listen on; expected {A_LISTENER}"
            ),
        ),
        (
            "unix:/run/spillway/app.sock",
            "unix:run/app.sock",
            &format!(
                "19: service.app.listen: \"unix:run/app.sock\" is not an address to listen on; expected {A_LISTENER}"
            ),
        ),
        (
            "\"127.0.0.1:6034\"",
            "\"unix:/run/api.sock\"",
            "29: admin.api: \"unix:/run/api.sock\" is not an address to listen on; expected \"IP:port\" or \"[IPv6]:port\"",
        ),
        // addresses used twice
        (
            "\"10.0.0.2\"",
            "\"10.0.0.1:3306\"",
            "3: cluster.shop.nodes.db2.address: 10.0.0.1:3306 is already the address of cluster.shop.nodes.db1 (line 3)",
        ),
        (
            "stats1.example.com",
            "10.0.0.2:3306",
            "15: cluster.stats.nodes.s1: 10.0.0.2:3306 is already the address of cluster.shop.nodes.db2.address (line 3)",
        ),
        (
            "\"127.0.0.1:6033\"",
            "\"127.0.0.1:3306\"",
            "28: admin.console: 127.0.0.1:3306 is already taken by service.app.listen (line 19)",
        ),
        (
            "\"127.0.0.1:6034\"",
            "\"0.0.0.0:6033\"",
            "29: admin.api: 0.0.0.0:6033 overlaps 127.0.0.1:6033, taken by admin.console (line 28)",
        ),
        (
            "\"127.0.0.1:6033\"",
            "\"127.0.0.1:6033\", \"unix:/run//spillway/app.sock\"",
            "28: admin.console: unix:/run//spillway/app.sock is already taken by service.app.listen (line 19)",
        ),
        // durations and numbers
        (
            "\"500ms\"",
            "\"500\"",
            &format!(
                "9: cluster.shop.monitor.interval: \"500\" is not a duration; expected {DURATION}, from 50ms to 1h"
            ),
        ),
        (
            "\"500ms\"",
            "\"1ms\"",
            &format!("9: cluster.shop.monitor.interval: out of range; expected {DURATION}, from 50ms to 1h"),
        ),
        (
            "\"250ms\"",
            "\"-1s\"",
            &format!(
                "10: cluster.shop.monitor.timeout: \"-1s\" is not a duration; expected {DURATION}, from 10ms to 10m"
            ),
        ),
        (
            "\"1m\"",
            "\"10ms\"",
            &format!(
                "5: cluster.shop.accounts_refresh: out of range; expected {DURATION}, from 100ms to 1day, or \"0s\" (on demand only)"
            ),
        ),
        (
            "weight = 50",
            "weight = 10001",
            "3: cluster.shop.nodes.db2.weight: out of range; expected an integer from 0 to 10000",
        ),
        (
            "priority = 3",
            "priority = -1",
            "3: cluster.shop.nodes.db2.priority: out of range; expected an integer from 0 to 1000",
        ),
        (
            "weight = 50",
            "weight = 99999999999999999999999999999999999999999999",
            "3: cluster.shop.nodes.db2.weight: out of range; expected an integer from 0 to 10000",
        ),
        (
            "workers = 2",
            "workers = 0x800",
            "38: runtime.workers: out of range; expected an integer from 0 to 1024",
        ),
        (
            "jitter = 0.2",
            "jitter = 1",
            "11: cluster.shop.monitor.jitter: out of range; expected a number from 0.0 to 0.5",
        ),
        (
            "jitter = 0.2",
            "jitter = nan",
            "11: cluster.shop.monitor.jitter: out of range; expected a number from 0.0 to 0.5",
        ),
        // secrets
        (
            "password = \"mon-s3cret\"\n",
            "",
            &format!(
                "6: cluster.shop.monitor: no password is given, and an empty one is not accepted; expected {A_PASSWORD}"
            ),
        ),
        (
            "\"mon-s3cret\"",
            "\"\"",
            "8: cluster.shop.monitor.password: is empty; expected at least one character",
        ),
        (
            "password = \"mon-s3cret\"",
            "password = \"mon-s3cret\"\npassword_env = \"HOME\"",
            "9: cluster.shop.monitor.password_env: given besides cluster.shop.monitor.password (line 8); expected exactly one of password, password_file, password_env\nspillway.toml:9: cluster.shop.monitor.password_env: the variable HOME is not set; expected the name of a variable of the environment that holds the password",
        ),
        (
            "password = \"mon-s3cret\"",
            "password_env = \"UNSET_VARIABLE\"",
            "8: cluster.shop.monitor.password_env: the variable UNSET_VARIABLE is not set; expected the name of a variable of the environment that holds the password",
        ),
        (
            "password = \"mon-s3cret\"",
            "password_env = \"mon-s3cret\"",
            "8: cluster.shop.monitor.password_env: this variable is not set; expected the name of a variable of the environment that holds the password",
        ),
        (
            "password = \"mon-s3cret\"",
            "password_file = \"/nonexistent/file\"",
            "8: cluster.shop.monitor.password_file: \"/nonexistent/file\" can not be read: No such file or directory (os error 2); expected a file that holds the password",
        ),
        (
            "password = \"mon-s3cret\"",
            "password_file = \"mon-s3cret\"",
            "8: cluster.shop.monitor.password_file: the file can not be read: No such file or directory (os error 2); expected a file that holds the password",
        ),
        (
            "password = \"mon-s3cret\"",
            "password_file = \"/dev/null\"",
            "8: cluster.shop.monitor.password_file: \"/dev/null\" can not be read: it is not a regular file; expected a file that holds the password",
        ),
        (
            "password = \"con-s3cret\"\n",
            "",
            &format!(
                "27: admin.password: missing, although admin.console listens on 127.0.0.1:6033; expected {A_PASSWORD}"
            ),
        ),
        (
            "token = \"tok-s3cret\"\n",
            "",
            "27: admin.token: missing, although admin.api listens on 127.0.0.1:6034; expected exactly one of token, token_file, token_env",
        ),
        (
            "\"tok-s3cret\"",
            "\"tok s3cret\"",
            "31: admin.token: can not be sent in an HTTP header; expected visible ASCII characters without spaces",
        ),
        (
            "\"con-s3cret\"",
            "\"con-\\ns3cret\"",
            "30: admin.password: holds a line break or a NUL character; expected one line",
        ),
        (
            "state_file = \"/var/lib/spillway/state.json\"",
            "state_file = \"\"",
            "43: runtime.state_file: is not the path of a file; expected the path of a file",
        ),
        // the same key twice
        (
            "kind = \"galera\"",
            "kind = \"galera\"\nkind = \"static\"",
            "3: duplicate key kind; expected each key once in its table",
        ),
        (
            "[service.app]",
            "[cluster.stats]\n[service.app]",
            "18: duplicate key stats; expected each key once in its table",
        ),
        (
            "{ reports = \"stats\" }",
            "{ reports = \"stats\", reports = \"shop\" }",
            "23: duplicate key reports; expected each key once in its table",
        ),
    ];
    let mut differences = String::new();
    for (from, to, expected) in cases {
        let text = edit(GOOD, from, to);
        let found = match parse(&text) {
            Ok(_) => "(no error)".to_owned(),
            Err(errors) => errors.to_string(),
        };
        let expected = format!("spillway.toml:{expected}");
        if found != expected {
            let _ = write!(differences, "{from:?} -> {to:?}\n  expected {expected}\n  found    {found}\n");
        }
    }
    assert!(differences.is_empty(), "\n{differences}");
}

#[test]
fn a_file_without_clusters_and_services_says_what_it_needs() {
    let lines = "spillway.toml:1: cluster: missing; expected at least one table [cluster.NAME]\n\
                 spillway.toml:1: service: missing; expected at least one table [service.NAME]";
    for text in ["", "# nothing\n", "[log]\n"] {
        assert_eq!(parse(text).expect_err("nothing to do").to_string(), lines);
    }
    let empty = "cluster = {}\nservice = []\n";
    let lines = "spillway.toml:1: cluster: no cluster is given; expected at least one table [cluster.NAME]\n\
                 spillway.toml:2: service: found a list; expected at least one table [service.NAME]";
    assert_eq!(parse(empty).expect_err("nothing to do").to_string(), lines);
}

#[test]
fn all_faults_are_told_at_once_in_the_order_of_the_file() {
    let text = r#"[service.app]
listen = ["127.0.0.1:3306", "nowhere"]
route = "cluster:shpo"
databases = {}

[cluster.shop]
kind = "galera"
nodes = { db1 = "10.0.0.1", db2 = "10.0.0.1:3306" }

[cluster.stats]
kind = 1
monitor = { user = "m", pasword = "s3cret" }

[admin]
console = ["127.0.0.1:3306"]
"#;
    let expected = [
        &*format!(
            "spillway.toml:2: service.app.listen: \"nowhere\" is not an address to listen on; expected {A_LISTENER}"
        ),
        "spillway.toml:3: service.app.route: unknown cluster \"shpo\"; expected one of: shop, stats (did you mean \"shop\"?)",
        "spillway.toml:4: service.app.databases: has no meaning with a route to one cluster; expected it only with route = \"by-database\"",
        "spillway.toml:6: cluster.shop.monitor: missing; expected a table with user and password, password_file or password_env",
        "spillway.toml:8: cluster.shop.nodes.db2: 10.0.0.1:3306 is already the address of cluster.shop.nodes.db1 (line 8)",
        &*format!("spillway.toml:10: cluster.stats.nodes: missing; expected {A_NODE}"),
        &*format!("spillway.toml:11: cluster.stats.kind: found an integer; expected {KINDS}"),
        &*format!(
            "spillway.toml:12: cluster.stats.monitor: no password is given, and an empty one is not accepted; expected {A_PASSWORD}"
        ),
        "spillway.toml:12: cluster.stats.monitor.pasword: unknown key; expected one of: donor_reads, fall, heartbeat_table, interval, jitter, max_flow_control_paused, max_lag, max_receive_queue, password, password_env, password_file, rise, timeout, user (did you mean \"password\"?)",
        &*format!(
            "spillway.toml:14: admin.password: missing, although admin.console listens on 127.0.0.1:3306; expected {A_PASSWORD}"
        ),
        "spillway.toml:15: admin.console: 127.0.0.1:3306 is already taken by service.app.listen (line 2)",
    ];
    let errors = parse(text).expect_err("many faults");
    assert_eq!(errors.to_string().lines().collect::<Vec<_>>(), expected);
    let route = &errors.problems()[1];
    assert_eq!(route.position, Some(Position { line: 3, column: 9 }));
    assert_eq!(
        (route.key.as_str(), route.message.as_str()),
        ("service.app.route", "unknown cluster \"shpo\"")
    );
    assert_eq!(route.expected.as_deref(), Some("one of: shop, stats"));
    assert_eq!(route.suggestion.as_deref(), Some("shop"));
}

#[test]
fn the_later_of_two_lines_is_blamed_whatever_the_order_of_reading() {
    let text = format!("[admin]\nconsole = [\"127.0.0.1:3306\"]\npassword = \"x\"\n{SMALL}");
    let line =
        "spillway.toml:10: service.app.listen: 127.0.0.1:3306 is already taken by admin.console (line 2)";
    assert_eq!(parse(&text).expect_err("one address twice").to_string(), line);
}

#[test]
fn a_name_that_is_wrong_itself_is_not_wrong_again_where_it_is_used() {
    let text =
        SMALL.replace("[cluster.shop]", "[cluster.\"shop!\"]").replace("cluster:shop", "cluster:shop!");
    let line = format!("spillway.toml:1: cluster.\"shop!\": is not a name; expected {A_NAME}");
    assert_eq!(parse(&text).expect_err("not a name").to_string(), line);
}

#[test]
fn syntax_errors_are_told_together_and_without_their_consequences() {
    let text =
        "[cluster.shop]\nkind = galera\nnodes = { db1 = }\n\n[service.app\nlisten = [\"127.0.0.1:3306\"]\n";
    let errors = parse(text).expect_err("not TOML");
    let lines: Vec<_> = errors.problems().iter().map(|p| p.position.map_or(0, |at| at.line)).collect();
    assert_eq!(lines, [2, 3, 5], "{errors}");
    assert!(errors.problems().iter().all(|p| p.message.starts_with("TOML syntax: ")), "{errors}");

    // What is wrong before the first syntax error is true, and told.
    let text = "[cluster.shop]\nkind = \"galeria\"\nzzz = 1\nnodes = { db1 = }\n";
    let errors = parse(text).expect_err("not TOML");
    let keys: Vec<_> = errors.problems().iter().map(|p| p.key.as_str()).collect();
    assert_eq!(keys, ["cluster.shop.kind", "cluster.shop.zzz", ""], "{errors}");
}

#[test]
fn columns_count_characters_and_lines_survive_crlf() {
    let text = "# ä\r\n[log]\r\n\"ä\" = 1 # ö\r\nformat = \"ä\"\r\n";
    let errors = parse(text).expect_err("faults");
    let found: Vec<_> = errors.problems().iter().map(|p| (p.key.as_str(), p.position)).collect();
    let at = |line, column| Some(Position { line, column });
    assert_eq!(found[2..], [("log.\"ä\"", at(3, 1)), ("log.format", at(4, 10))]);
}

// === files ===

#[test]
fn a_missing_or_unreadable_file_is_one_problem() {
    let dir = tempfile::tempdir().expect("a directory");
    let path = dir.path().join("none.toml");
    let errors = Config::load(&path).expect_err("no file");
    assert_eq!(
        errors.to_string(),
        format!("{}: can not be read: No such file or directory (os error 2)", path.display())
    );
    assert_eq!(errors.problems()[0].position, None);
    let errors = Config::load(dir.path()).expect_err("a directory");
    assert_eq!(
        errors.to_string(),
        format!("{}: can not be read: Is a directory (os error 21)", dir.path().display())
    );
    fs::write(&path, [0xff, 0xfe]).expect("written");
    assert!(Config::load(&path).expect_err("not UTF-8").to_string().contains("valid UTF-8"));
}

#[test]
fn a_password_file_is_found_beside_the_configuration_and_must_be_private() {
    let dir = tempfile::tempdir().expect("a directory");
    let (path, secret) = (dir.path().join("spillway.toml"), dir.path().join("monitor.password"));
    let text = SMALL.replace("password = \"mon-s3cret\"", "password_file = \"monitor.password\"");
    let mode =
        |path: &Path, mode| fs::set_permissions(path, fs::Permissions::from_mode(mode)).expect("mode set");
    fs::write(&path, text).expect("written");

    for (content, password) in
        [("from-file\n", "from-file"), ("from-file\r\n", "from-file"), (" a b ", " a b ")]
    {
        fs::write(&secret, content).expect("written");
        mode(&secret, 0o600);
        let config = Config::load(&path).unwrap_or_else(|e| panic!("{e}"));
        assert_eq!(config.clusters["shop"].monitor.secret.expose(), password);
        assert_eq!(config.warnings, [""; 0]);
    }
    mode(&secret, 0o644);
    let config = Config::load(&path).unwrap_or_else(|e| panic!("{e}"));
    let warning =
        "cluster.shop.monitor.password_file: everybody on this machine can read the file: chmod 640";
    assert_eq!(config.warnings, [format!("{}:4: {warning}", path.display())]);

    for (content, wrong) in [
        ("\n", "is empty; expected at least one character"),
        ("two\nlines\n", "holds a line break or a NUL character; expected one line"),
        (&*"s3cret".repeat(1000), "is too long; expected at most 4096 bytes"),
    ] {
        fs::write(&secret, content).expect("written");
        let line = format!("{}:4: cluster.shop.monitor.password_file: {wrong}", path.display());
        assert_eq!(Config::load(&path).expect_err("not usable").to_string(), line);
    }
}

#[test]
fn a_configuration_that_holds_a_password_should_be_private() {
    let dir = tempfile::tempdir().expect("a directory");
    let path = dir.path().join("spillway.toml");
    fs::write(&path, SMALL).expect("written");
    fs::set_permissions(&path, fs::Permissions::from_mode(0o640)).expect("mode set");
    assert_eq!(Config::load(&path).unwrap_or_else(|e| panic!("{e}")).warnings, [""; 0]);
    fs::set_permissions(&path, fs::Permissions::from_mode(0o644)).expect("mode set");
    let warning = "cluster.shop.monitor.password: everybody on this machine can read this file, which holds a password: \
                   chmod 640, or use password_file";
    let warnings = Config::load(&path).unwrap_or_else(|e| panic!("{e}")).warnings;
    assert_eq!(warnings, [format!("{}:4: {warning}", path.display())]);
}

// === TLS ===

/// A directory with a configuration, a certificate, its key, and an authority for clients.
struct TlsFiles {
    dir: tempfile::TempDir,
    authority: Authority,
}

impl TlsFiles {
    fn new(tls: &str) -> Self {
        let files =
            Self { dir: tempfile::tempdir().expect("a directory"), authority: Authority::new("authority") };
        files.configure(tls);
        files.issue();
        files.write("clients.pem", &files.authority.pem);
        files
    }

    fn path(&self) -> PathBuf {
        self.dir.path().join("spillway.toml")
    }

    /// The line with TLS is the ninth.
    fn configure(&self, tls: &str) {
        self.write("spillway.toml", &format!("{SMALL}{tls}"));
    }

    fn issue(&self) {
        let Issued { certificate, key } = self.authority.server(NAME);
        self.write("tls.crt", &certificate);
        self.write("tls.key", &key);
    }

    fn write(&self, name: &str, text: &str) {
        let path = self.dir.path().join(name);
        fs::write(&path, text).expect("written");
        fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).expect("mode set");
    }

    fn load(&self) -> Config {
        Config::load(&self.path()).unwrap_or_else(|e| panic!("{e}"))
    }

    fn wrong(&self) -> String {
        let errors = Config::load(&self.path()).expect_err("wrong").to_string();
        errors.replace(&format!("{}:", self.path().display()), "")
    }
}

const TLS: &str = "tls = { certificate = \"tls.crt\", key = \"tls.key\" }\n";

#[test]
fn tls_is_read_from_the_files_beside_the_configuration() {
    let files = TlsFiles::new(TLS);
    let config = files.load();
    let tls = config.services["app"].tls.clone().expect("TLS");
    assert_eq!(
        (tls.certificate.clone(), tls.key.clone()),
        (files.dir.path().join("tls.crt"), files.dir.path().join("tls.key"))
    );
    assert_eq!((tls.required, tls.client_ca.clone()), (false, None));
    assert_eq!(config.warnings, [""; 0]);

    files.configure("[service.app.tls]\ncertificate = \"tls.crt\"\nkey = \"tls.key\"\nrequired = true\nclient_ca = \"clients.pem\"\n");
    let tls = files.load().services["app"].tls.clone().expect("TLS");
    assert!(tls.required && tls.identity.authorities().is_some());
    assert_eq!(tls.client_ca, Some(files.dir.path().join("clients.pem")));
}

#[test]
fn a_key_file_should_be_private_and_a_certificate_need_not() {
    let files = TlsFiles::new(TLS);
    for name in ["tls.crt", "tls.key"] {
        let path = files.dir.path().join(name);
        fs::set_permissions(path, fs::Permissions::from_mode(0o644)).expect("mode set");
    }
    let warning = "service.app.tls.key: everybody on this machine can read the file: chmod 640";
    assert_eq!(files.load().warnings, [format!("{}:9: {warning}", files.path().display())]);
}

#[test]
fn every_fault_of_the_tls_files_is_one_exact_line() {
    let certificate = "a PEM file with the server's certificate, then those that vouch for it";
    let key = "a PEM file with the certificate's private key, without a passphrase";
    let authority = "a PEM file with the certificates that may vouch for clients";
    let files = TlsFiles::new("tls = {}\n");
    assert_eq!(
        files.wrong(),
        format!(
            "9: service.app.tls.certificate: missing; expected {certificate}\n\
             9: service.app.tls.key: missing; expected {key}"
        )
    );
    for (tls, line) in [
        ("tls = true", "service.app.tls: found a boolean; expected a table".to_owned()),
        (
            "tls = { certificate = \"none\", key = \"tls.key\" }",
            format!(
                "service.app.tls.certificate: the file can not be read: No such file or directory (os error 2); expected {certificate}"
            ),
        ),
        (
            "tls = { certificate = \"/none/x\", key = \"tls.key\" }",
            format!(
                "service.app.tls.certificate: \"/none/x\" can not be read: No such file or directory (os error 2); expected {certificate}"
            ),
        ),
        (
            "tls = { certificate = \"/dev/null\", key = \"tls.key\" }",
            format!(
                "service.app.tls.certificate: \"/dev/null\" can not be read: it is not a regular file; expected {certificate}"
            ),
        ),
        (
            "tls = { certificate = \"spillway.toml\", key = \"tls.key\" }",
            format!("service.app.tls.certificate: the file is not PEM; expected {certificate}"),
        ),
        (
            "tls = { certificate = \"tls.key\", key = \"tls.key\" }",
            format!("service.app.tls.certificate: the file holds no certificate; expected {certificate}"),
        ),
        (
            "tls = { certificate = \"tls.crt\", key = \"tls.crt\" }",
            format!(
                "service.app.tls.key: the file holds no private key, or an encrypted one; expected {key}"
            ),
        ),
        (
            "tls = { certificate = \"clients.pem\", key = \"tls.key\" }",
            format!("service.app.tls.key: the file is not the key of the certificate; expected {key}"),
        ),
        (
            "tls = { certificate = \"tls.crt\", key = \"tls.key\", client_ca = \"tls.key\" }",
            format!("service.app.tls.client_ca: the file holds no certificate; expected {authority}"),
        ),
        (
            "tls = { certificate = \"tls.crt\", key = \"tls.key\", required = 1 }",
            "service.app.tls.required: found an integer; expected true or false".to_owned(),
        ),
        (
            "tls = { certificate = \"tls.crt\", key = \"tls.key\", ca = \"x\" }",
            "service.app.tls.ca: unknown key; expected one of: certificate, client_ca, key, required"
                .to_owned(),
        ),
    ] {
        files.configure(tls);
        assert_eq!(files.wrong(), format!("9: {line}"), "{tls}");
    }
}

#[test]
fn tls_with_nodes_verifies_their_identity_unless_told_otherwise() {
    let files = TlsFiles::new("");
    let load = |lines: &str| {
        files.configure(&format!("[cluster.shop.tls]\n{lines}\n"));
        files.load().clusters["shop"].tls.clone().expect("TLS")
    };
    let tls = load("ca = \"clients.pem\"");
    assert_eq!((tls.trust.verify(), tls.trust.own()), (Verify::Identity, None));
    assert_eq!(tls.ca, Some(files.dir.path().join("clients.pem")));
    let mutual = load("ca = \"clients.pem\"\nverify = \"ca\"\ncertificate = \"tls.crt\"\nkey = \"tls.key\"");
    assert_eq!((mutual.trust.verify(), mutual.trust.own().is_some()), (Verify::Authority, true));
    assert_eq!(load("verify = \"none\"").trust.verify(), Verify::Nothing);
    let warning = "cluster.shop.tls.verify: whoever can step between this machine and the nodes";
    let warnings = files.load().warnings;
    assert!(warnings.iter().any(|line| line.contains(warning)), "{warnings:?}");

    let authority = "a PEM file with the certificates that may vouch for nodes";
    let certificate =
        "a PEM file with this client's certificate, then those that vouch for it, together with its key";
    let key = "a PEM file with the certificate's private key, without a passphrase";
    for (lines, wrong) in [
        ("", format!("cluster.shop.tls.ca: missing; expected {authority}")),
        ("verify = \"ca\"", format!("cluster.shop.tls.ca: missing; expected {authority}")),
        (
            "verify = \"all\"",
            "cluster.shop.tls.verify: unknown verification \"all\"; expected one of: identity, ca, none"
                .to_owned(),
        ),
        (
            "ca = \"tls.key\"",
            format!("cluster.shop.tls.ca: the file holds no certificate; expected {authority}"),
        ),
        (
            "ca = \"clients.pem\"\ncertificate = \"tls.crt\"",
            format!("cluster.shop.tls.key: missing; expected {key}"),
        ),
        (
            "ca = \"clients.pem\"\nkey = \"tls.key\"",
            format!("cluster.shop.tls.certificate: missing; expected {certificate}"),
        ),
        (
            "ca = \"clients.pem\"\ncertificate = \"clients.pem\"\nkey = \"tls.key\"",
            format!("cluster.shop.tls.key: the file is not the key of the certificate; expected {key}"),
        ),
        (
            "ca = \"clients.pem\"\nname = \"x\"",
            "cluster.shop.tls.name: unknown key; expected one of: ca, certificate, key, verify".to_owned(),
        ),
    ] {
        files.configure(&format!("[cluster.shop.tls]\n{lines}\n"));
        let told = files.wrong();
        assert!(told.contains(&wrong), "{lines}: {told}");
    }

    // What a reload says of it.
    files.configure("[cluster.shop.tls]\nca = \"clients.pem\"\n");
    let old = files.load();
    assert!(old.diff(&files.load()).is_empty());
    files.write("clients.pem", &Authority::new("successor").pem);
    let lines: Vec<_> = old.diff(&files.load()).iter().map(ToString::to_string).collect();
    assert_eq!(lines, ["cluster shop: tls certificates renewed"]);
}

#[test]
fn a_key_is_never_printed() {
    let files = TlsFiles::new(TLS);
    let key = fs::read_to_string(files.dir.path().join("tls.key")).expect("a key");
    let secret = key.lines().nth(1).expect("a line of the key");
    let config = files.load();
    assert!(!format!("{config:?} {config:#?}").contains(secret));
    files.configure(&TLS.replace("tls.crt", "clients.pem"));
    assert!(!files.wrong().contains(secret));
    // The key itself in place of its file.
    files.configure(&format!("tls = {{ certificate = \"tls.crt\", key = '''{key}''' }}"));
    assert!(!files.wrong().contains(secret), "{}", files.wrong());
    files.configure(&format!("tls = {{ certificate = \"tls.crt\", key = \"{secret}\" }}"));
    assert!(!files.wrong().contains(secret), "{}", files.wrong());
}

#[test]
fn a_renewed_certificate_is_a_change_and_what_stays_keeps_its_tickets() {
    let files = TlsFiles::new(TLS);
    let old = files.load();
    let server = |config: &Config| config.services["app"].tls.as_ref().map(|tls| tls.identity.server());
    let lines =
        |old: &Config, new: &Config| old.diff(new).iter().map(ToString::to_string).collect::<Vec<_>>();
    let mut same = files.load();
    assert_eq!(lines(&old, &same), [""; 0]);
    same.keep_tls(&old);
    assert!(Arc::ptr_eq(&server(&old).expect("TLS"), &server(&same).expect("TLS")));

    files.issue();
    let mut renewed = files.load();
    assert_eq!(lines(&old, &renewed), ["service app: tls certificate renewed"]);
    renewed.keep_tls(&old);
    assert!(!Arc::ptr_eq(&server(&old).expect("TLS"), &server(&renewed).expect("TLS")));

    files.write("elsewhere.key", &fs::read_to_string(files.dir.path().join("tls.key")).expect("a key"));
    files.configure("tls = { certificate = \"tls.crt\", key = \"elsewhere.key\", required = true, client_ca = \"clients.pem\" }");
    let dir = files.dir.path().display();
    assert_eq!(
        lines(&renewed, &files.load()),
        [
            format!("service app: tls key {dir}/tls.key -> {dir}/elsewhere.key"),
            "service app: tls required false -> true".to_owned(),
            format!("service app: tls client_ca none -> {dir}/clients.pem"),
        ]
    );
    let before = files.load();
    files.write("clients.pem", &Authority::new("another").pem);
    assert_eq!(lines(&before, &files.load()), ["service app: tls client_ca renewed"]);
    files.configure("");
    assert_eq!(lines(&old, &files.load()), ["service app: tls removed"]);
    assert_eq!(lines(&files.load(), &old), ["service app: tls added"]);
}

#[test]
fn a_variable_gives_a_password() {
    let text = SMALL.replace("password = \"mon-s3cret\"", "password_env = \"MONITOR\"");
    let env = |name: &str| (name == "MONITOR").then(|| "from-variable".to_owned());
    let config = Config::parse(&text, Path::new("x"), &env).unwrap_or_else(|e| panic!("{e}"));
    assert_eq!(config.clusters["shop"].monitor.secret.expose(), "from-variable");
}

#[test]
fn users_of_this_machine_are_listed_with_uid_and_password() {
    let with = |accounts: &str| edit(SMALL, "[service.app]", &format!("{accounts}\n[service.app]"));
    let of = |text: &str| good(text).clusters["shop"].unix_accounts.clone();
    assert_eq!(of(SMALL), BTreeMap::new());
    let two = with(
        "unix_accounts = { backup = { uid = 1001, password = \"b-s3cret\" }, \"o'hara\" = { uid = 0, password = \"o-s3cret\" } }",
    );
    let accounts = of(&two);
    assert_eq!(accounts.keys().collect::<Vec<_>>(), ["backup", "o'hara"]);
    assert_eq!((accounts["backup"].uid, accounts["backup"].secret.expose()), (1001, "b-s3cret"));
    let config = good(&two);
    assert_eq!(config.clusters["shop"].unix_account(b"backup"), Some(&accounts["backup"]));
    assert_eq!(config.clusters["shop"].unix_account(b"Backup"), None);
    assert_eq!(config.clusters["shop"].unix_account(b"\xff"), None);
    assert!(!format!("{config:?}").contains("s3cret"));

    let expected_uid = "the number of one user of this machine, as `id -u USER` tells it";
    for (entry, wrong) in [
        ("x = 1", "x: found an integer; expected a table".to_owned()),
        ("x = { password = \"b-s3cret\" }", format!("x.uid: missing; expected {expected_uid}")),
        (
            "x = { uid = 65534, password = \"b-s3cret\" }",
            format!(
                "x.uid: stands for every user whose number the system cannot tell; expected {expected_uid}"
            ),
        ),
        (
            "x = { uid = 4294967295, password = \"b-s3cret\" }",
            "x.uid: out of range; expected an integer from 0 to 4294967294".to_owned(),
        ),
        (
            "x = { uid = \"backup\", password = \"b-s3cret\" }",
            "x.uid: found a string; expected an integer from 0 to 4294967294".to_owned(),
        ),
        (
            "x = { uid = 1 }",
            format!("x: no password is given, and an empty one is not accepted; expected {A_PASSWORD}"),
        ),
        (
            "x = { uid = 1, password = \"\" }",
            "x.password: is empty; expected at least one character".to_owned(),
        ),
        (
            "x = { uid = 1, password = \"b-s3cret\", os_user = \"x\" }",
            "x.os_user: unknown key; expected one of: password, password_env, password_file, uid".to_owned(),
        ),
        (
            "\"\" = { uid = 1, password = \"b-s3cret\" }",
            "\"\": is not a user name; expected 1 to 128 characters on one line".to_owned(),
        ),
    ] {
        let errors = parse(&with(&format!("unix_accounts = {{ {entry} }}"))).expect_err(entry);
        assert_eq!(errors.to_string(), format!("spillway.toml:6: cluster.shop.unix_accounts.{wrong}"));
    }

    let lines =
        |old: &str, new: &str| good(old).diff(&good(new)).iter().map(ToString::to_string).collect::<Vec<_>>();
    assert_eq!(
        lines(SMALL, &two),
        [
            "cluster shop: unix account backup added (uid 1001)",
            "cluster shop: unix account o'hara added (uid 0)"
        ]
    );
    let other = edit(&edit(&two, "1001", "1002"), "b-s3cret", "c-s3cret");
    assert_eq!(
        lines(&two, &other),
        [
            "cluster shop: unix account backup uid 1001 -> 1002",
            "cluster shop: unix account backup password changed"
        ]
    );
    assert_eq!(
        lines(&two, SMALL),
        [
            "cluster shop: unix account backup removed (was for uid 1001)",
            "cluster shop: unix account o'hara removed (was for uid 0)"
        ]
    );
}

#[test]
fn a_secret_is_never_printed() {
    let config = good(GOOD);
    let printed = format!("{config:?} {config:#?} {}", config.clusters["shop"].monitor.secret);
    assert!(printed.contains("***"));
    assert!(SECRETS.iter().all(|secret| !printed.contains(secret)), "{printed}");
}

// === handover ===

fn with_handover(keys: &str) -> String {
    let kind = edit(SMALL, "kind = \"galera\"", "kind = \"replication\"");
    format!("{kind}[cluster.shop.handover]\n{keys}")
}

#[test]
fn a_handover_is_read_and_its_changes_are_told() {
    let keys = "user = \"op\"\npassword = \"oper-s3cret\"\nreplication_user = \"repl\"\n\
                replication_password = \"repl-s3cret\"\nfailover = \"auto\"\nfailover_after = \"3s\"\n\
                catch_up_timeout = \"20s\"\nrunning_transactions_timeout = \"0s\"\nfreeze_timeout = \"1s\"\n";
    let (old, new) = (good(&with_handover("")), good(&with_handover(keys)));
    let account = |user: &str, secret| Some(Account { user: user.to_owned(), secret: Secret::new(secret) });
    let handover = Handover {
        account: account("op", "oper-s3cret"),
        replication: account("repl", "repl-s3cret"),
        failover: Failover::Auto,
        failover_after: secs(3),
        catch_up_timeout: secs(20),
        running_transactions_timeout: None,
        freeze_timeout: secs(1),
    };
    assert_eq!(old.clusters["shop"].handover, Handover::default());
    assert_eq!(new.clusters["shop"].handover, handover);
    let changes: Vec<String> = old.diff(&new).iter().map(ToString::to_string).collect();
    assert_eq!(
        changes,
        [
            "cluster shop: handover user none -> op",
            "cluster shop: handover password added",
            "cluster shop: handover replication_user none -> repl",
            "cluster shop: handover replication_password added",
            "cluster shop: handover failover off -> auto",
            "cluster shop: handover running_transactions_timeout 2s -> none",
            "cluster shop: handover failover_after 5s -> 3s",
            "cluster shop: handover catch_up_timeout 10s -> 20s",
            "cluster shop: handover freeze_timeout 5s -> 1s",
        ]
    );
}

#[test]
fn a_handover_that_cannot_be_is_refused() {
    let refused = |text: &str, line: &str| {
        let errors = parse(text).expect_err("refused").to_string();
        assert!(errors.contains(line), "{errors}");
    };
    refused(
        &with_handover("failover = \"manual\"\n"),
        "cluster.shop.handover.replication_user: missing; expected the user as whom replicas log in to a new primary",
    );
    refused(&with_handover("user = \"op\"\n"), "cluster.shop.handover.user: no password is given");
    refused(&with_handover("password = \"oper-s3cret\"\n"), "cluster.shop.handover.user: missing");
    refused(&with_handover("freeze_timeout = \"10ms\"\n"), "from 1s to 1h");
    let two = with_handover(
        "failover = \"auto\"\nreplication_user = \"repl\"\nreplication_password = \"repl-s3cret\"\n",
    );
    let two = edit(&two, ", db3 = \"10.0.0.3:3306\"", "");
    refused(
        &two,
        "cluster.shop.handover.failover: \"auto\" needs a majority of the nodes without the primary",
    );
    good(&edit(&two, "\"auto\"", "\"manual\""));
    let galera = format!("{SMALL}[cluster.shop.handover]\n");
    assert!(good(&galera).warnings[0].contains("has no effect"), "{:?}", good(&galera).warnings);
}

// === diff ===

#[test]
fn a_diff_tells_what_changes_and_what_needs_a_restart() {
    let old = good(GOOD);
    assert_eq!(old.diff(&old), []);
    let mut text = GOOD.to_owned();
    for (from, to) in [
        ("db1 = \"10.0.0.1:3306\"", "db1 = \"10.0.0.9\", db4 = \"10.0.0.4:3306\""),
        ("weight = 50, priority = 3", "weight = 60"),
        ("mon-s3cret", "new-s3cret"),
        ("\"1m\"", "\"0s\""),
        ("jitter = 0.2\n", ""),
        ("\"unix:/run/spillway/app.sock\"", "\"127.0.0.2:3306\""),
        ("default_cluster = \"shop\"\n", ""),
        ("{ reports = \"stats\" }", "{ reports = \"shop\", old = \"stats\" }"),
        ("max_sessions = 100\n", "[service.new]\nlisten = [\"127.0.0.1:3310\"]\nroute = \"cluster:shop\"\n"),
        ("\"127.0.0.1:6034\"", "\"127.0.0.1:6035\""),
        ("tok-s3cret", "kot-s3cret"),
        ("\"json\"", "\"text\""),
        ("workers = 2\n", ""),
        ("drain_timeout = \"0s\"", "drain_timeout = \"1m\""),
        ("state_file = \"/var/lib/spillway/state.json\"\n", ""),
    ] {
        text = edit(&text, from, to);
    }
    let new = good(&text);
    let lines: Vec<_> = old.diff(&new).iter().map(ToString::to_string).collect();
    assert_eq!(
        lines,
        [
            "cluster shop: node db1 address 10.0.0.1:3306 -> 10.0.0.9:3306",
            "cluster shop: node db2 weight 50 -> 60",
            "cluster shop: node db2 priority 3 -> 0",
            "cluster shop: node db4 added (10.0.0.4:3306)",
            "cluster shop: monitor password changed",
            "cluster shop: monitor jitter 0.2 -> 0.1",
            "cluster shop: accounts_refresh 1m -> on demand only",
            "service app: listener 127.0.0.2:3306 added",
            "service app: listener unix:/run/spillway/app.sock removed",
            "service app: default_cluster shop -> none",
            "service app: database old added (to cluster stats)",
            "service app: database reports cluster stats -> shop",
            "service app: max_sessions 100 -> no limit",
            "service new: added (cluster:shop on 127.0.0.1:3310)",
            "admin: api listener 127.0.0.1:6035 added (needs a restart)",
            "admin: api listener 127.0.0.1:6034 removed (needs a restart)",
            "admin: token changed",
            "log: format json -> text",
            "runtime: workers 2 -> one per core (needs a restart)",
            "runtime: drain_timeout 0s -> 1m",
            "runtime: state_file /var/lib/spillway/state.json -> none (needs a restart)",
        ]
    );
    assert_eq!(old.diff(&new).iter().filter(|change| change.needs_restart()).count(), 4);
    assert_eq!(old.diff(&new).len(), new.diff(&old).len());

    let lines: Vec<_> = old.diff(&good(SMALL)).iter().map(ToString::to_string).collect();
    assert!(
        lines.contains(&"cluster stats: removed (replication: s1 stats1.example.com:3306)".to_owned()),
        "{lines:#?}"
    );
    assert!(lines.contains(&"cluster shop: node db3 added (10.0.0.3:3306)".to_owned()), "{lines:#?}");
    assert!(lines.contains(&"service app: route by-database -> cluster:shop".to_owned()), "{lines:#?}");
    assert!(lines.contains(&"admin: password removed".to_owned()), "{lines:#?}");
}

#[test]
fn configurations_without_a_difference_are_equal() {
    assert_eq!(good(GOOD), good(&format!("\n\n{GOOD}")));
    let reordered = edit(
        SMALL,
        "db1 = \"10.0.0.1:3306\", db2 = \"10.0.0.2:3306\"",
        "db2 = \"10.0.0.2:3306\", db1 = \"10.0.0.1:3306\"",
    );
    assert_eq!(good(SMALL), good(&reordered));
}

// === any text ===

/// One change to a text, such as a slip of the hand makes.
#[derive(Clone, Debug)]
enum Slip {
    Insert(usize, String),
    DeleteCharacter(usize),
    DeleteLine(usize),
    DoubleLine(usize),
    MoveLine(usize, usize),
    Value(usize, String),
}

fn slip() -> impl Strategy<Value = Slip> {
    let at = any::<prop::sample::Index>().prop_map(|index| index.index(100_000));
    let scrap = prop_oneof![
        prop::sample::select(vec![
            "\"",
            "'",
            "\"\"\"",
            "[",
            "]",
            "{",
            "}",
            "=",
            ".",
            ",",
            "\n",
            "#",
            "\\",
            "[[",
            "\0",
            "ä",
            " ",
            "-",
            "1",
            "cluster",
            "password",
            "nodes.",
            "[admin]\n",
        ])
        .prop_map(str::to_owned),
        "\\PC{1,3}",
    ];
    let value = prop::sample::select(vec![
        "1",
        "-1",
        "0.5",
        "nan",
        "true",
        "\"\"",
        "\"shop\"",
        "[]",
        "{}",
        "[[]]",
        "[1, \"a\", {}]",
        "{ a = { a = 1 } }",
        "2020-01-01",
        "\"1s\"",
        "\"by-database\"",
        "\"127.0.0.1:1\"",
        "''''x'''",
        "\"unix:/a\"",
        "99999999999999999999",
    ]);
    prop_oneof![
        (at.clone(), scrap).prop_map(|(at, scrap)| Slip::Insert(at, scrap)),
        at.clone().prop_map(Slip::DeleteCharacter),
        at.clone().prop_map(Slip::DeleteLine),
        at.clone().prop_map(Slip::DoubleLine),
        (at.clone(), at.clone()).prop_map(|(from, to)| Slip::MoveLine(from, to)),
        (at, value).prop_map(|(at, value)| Slip::Value(at, value.to_owned())),
    ]
}

impl Slip {
    fn apply(&self, text: &str) -> String {
        let boundary = |at: usize| text.floor_char_boundary(at % (text.len() + 1));
        let mut lines: Vec<String> = text.split_inclusive('\n').map(str::to_owned).collect();
        let count = lines.len().max(1);
        match self {
            Self::Insert(at, scrap) => {
                let (before, after) = text.split_at(boundary(*at));
                return format!("{before}{scrap}{after}");
            }
            Self::DeleteCharacter(at) => {
                let (before, after) = text.split_at(boundary(*at));
                return before.chars().chain(after.chars().skip(1)).collect();
            }
            Self::DeleteLine(at) => drop(lines.splice((at % count)..=(at % count), [])),
            Self::DoubleLine(at) => lines.insert(at % count, lines[at % count].clone()),
            Self::MoveLine(from, to) => {
                let line = lines.remove(from % count);
                lines.insert(to % count, line);
            }
            Self::Value(at, value) => {
                let line = &mut lines[at % count];
                if let Some((key, _)) = line.clone().split_once('=') {
                    *line = format!("{key}= {value}\n");
                }
            }
        }
        lines.concat()
    }
}

fn full_example() -> String {
    let mut text = EXAMPLE.to_owned();
    for (variable, secret) in [
        "SPILLWAY_SHOP_PASSWORD",
        "SPILLWAY_STATS_PASSWORD",
        "SPILLWAY_CONSOLE_PASSWORD",
        "SPILLWAY_API_TOKEN",
        "SPILLWAY_OPERATOR_PASSWORD",
        "SPILLWAY_REPLICATION_PASSWORD",
    ]
    .into_iter()
    .zip(SECRETS)
    {
        let key = if variable.ends_with("TOKEN") { "token" } else { "password" };
        text = edit(&text, &format!("{key}_env = \"{variable}\""), &format!("{key} = \"{secret}\""));
    }
    good(&text);
    text
}

fn everything_said(text: &str) -> String {
    match parse(text) {
        Ok(config) => format!("{config:?} {:?} {:?}", config.diff(&good(GOOD)), good(SMALL).diff(&config)),
        Err(errors) => {
            assert!(!errors.problems().is_empty());
            assert!(errors.problems().is_sorted_by_key(|problem| problem.position));
            assert!(
                errors.to_string().lines().count() == errors.problems().len(),
                "one line each:\n{errors}"
            );
            format!("{errors} {errors:?}")
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(512))]

    #[test]
    fn any_text_is_judged_without_a_panic(text in "(?s).{0,200}") {
        everything_said(&text);
    }

    #[test]
    fn any_scraps_of_the_format_are_judged_without_a_panic(
        scraps in prop::collection::vec(prop::sample::select(vec![
            "[", "]", "[[", "]]", "{", "}", "=", ".", ",", "\n", "\"", "'", " ", "cluster", "service", "admin", "a",
            "kind", "nodes", "monitor", "route", "clusters", "databases", "listen", "\"cluster:a\"", "\"by-database\"",
            "\"galera\"", "1", "true", "\"1s\"", "password", "\"127.0.0.1:1\"", "user", "[cluster.a]\n", "[service.a]\n",
        ]), 0..80),
    ) {
        everything_said(&scraps.concat());
    }

    #[test]
    fn slips_in_the_full_example_never_panic_and_never_print_a_secret(slips in prop::collection::vec(slip(), 1..6)) {
        let text = slips.iter().fold(full_example(), |text, slip| slip.apply(&text));
        let said = everything_said(&text);
        for secret in SECRETS {
            prop_assert!(!said.contains(secret), "{}", said);
        }
    }
}
