//! What a reload would change, in the words of an operator.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::{self, Display};
use std::net::IpAddr;
use std::path::Path;
use std::time::Duration;

use super::reader::human;
use super::{
    Account, Admin, Cluster, Config, Discover, Handover, Links, Log, Monitor, Moves, Node, NodeTls,
    RoleRules, Route, Runtime, Secret, Service, Tls, UnixAccount,
};

/// One difference between two configurations. `Display` gives it as one line without any secret.
///
/// A reload applies every change but these, which need a restart, because what they set is built once before the
/// first socket is opened: `runtime.workers`, `runtime.state_file`, and the addresses `admin.console` and `admin.api`.
/// `runtime.start_without_accounts` and `runtime.start_timeout` are read at start only; changing them asks for nothing
/// now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Change {
    text: String,
    restart: bool,
}

impl Change {
    /// Whether a reload can not apply this change.
    pub fn needs_restart(&self) -> bool {
        self.restart
    }
}

impl Display for Change {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)?;
        if self.restart { f.write_str(" (needs a restart)") } else { Ok(()) }
    }
}

pub(super) fn diff(old: &Config, new: &Config) -> Vec<Change> {
    let mut changes = Changes::default();
    for (name, pair) in pairs(&old.clusters, &new.clusters) {
        changes.about(format!("cluster {name}"));
        match pair {
            Pair::Added(cluster) => changes.say(format_args!("added ({})", cluster_summary(cluster))),
            Pair::Removed(cluster) => changes.say(format_args!("removed ({})", cluster_summary(cluster))),
            Pair::Both(old, new) => cluster(&mut changes, old, new),
        }
    }
    for (name, pair) in pairs(&old.services, &new.services) {
        changes.about(format!("service {name}"));
        match pair {
            Pair::Added(service) => changes.say(format_args!("added ({})", service_summary(service))),
            Pair::Removed(service) => changes.say(format_args!("removed ({})", service_summary(service))),
            Pair::Both(old, new) => service(&mut changes, old, new),
        }
    }
    changes.about("admin".to_owned());
    admin(&mut changes, &old.admin, &new.admin);
    changes.about("log".to_owned());
    log(&mut changes, &old.log, &new.log);
    changes.about("runtime".to_owned());
    runtime(&mut changes, &old.runtime, &new.runtime);
    changes.list
}

fn cluster(changes: &mut Changes, old: &Cluster, new: &Cluster) {
    // Every field is named, so that a new one can not be forgotten here.
    let Cluster {
        name: _,
        kind,
        nodes,
        discover,
        monitor,
        roles,
        connect_timeout,
        accounts_refresh,
        source_address,
        tls,
        client_address,
        resolve_names,
        revoked_sessions,
        links,
        moves,
        unix_accounts,
        handover,
    } = old;
    changes.value("kind", kind, &new.kind);
    let by_name = |nodes: &'_ [Node]| nodes.iter().map(|node| (node.name.clone(), node.clone())).collect();
    let (old_nodes, new_nodes): (BTreeMap<_, Node>, BTreeMap<_, Node>) =
        (by_name(nodes), by_name(&new.nodes));
    for (name, pair) in pairs(&old_nodes, &new_nodes) {
        match pair {
            Pair::Added(node) => changes.say(format_args!("node {name} added ({})", node.address)),
            Pair::Removed(node) => changes.say(format_args!("node {name} removed ({})", node.address)),
            Pair::Both(old, new) => {
                let Node { name: _, address, weight, priority } = old;
                changes.value(&format!("node {name} address"), address, &new.address);
                changes.value(&format!("node {name} weight"), weight, &new.weight);
                changes.value(&format!("node {name} priority"), priority, &new.priority);
            }
        }
    }
    let members =
        |discover: &Option<Discover>| discover.as_ref().map_or_else(|| "off".to_owned(), ToString::to_string);
    changes.value("discover", &members(discover), &members(&new.discover));
    let Monitor {
        user,
        secret,
        interval,
        timeout,
        jitter,
        rise,
        fall,
        max_lag,
        heartbeat_table,
        max_receive_queue,
        max_flow_control_paused,
        donor_reads,
    } = monitor;
    changes.value("monitor user", user, &new.monitor.user);
    changes.secret("monitor password", Some(secret), Some(&new.monitor.secret));
    changes.value("monitor interval", &human(*interval), &human(new.monitor.interval));
    changes.value("monitor timeout", &human(*timeout), &human(new.monitor.timeout));
    changes.value("monitor jitter", jitter, &new.monitor.jitter);
    changes.value("monitor rise", rise, &new.monitor.rise);
    changes.value("monitor fall", fall, &new.monitor.fall);
    changes.value("monitor max_lag", &or(*max_lag, "not checked"), &or(new.monitor.max_lag, "not checked"));
    let table = |table: &Option<String>| table.clone().unwrap_or_else(|| "none".to_owned());
    changes.value("monitor heartbeat_table", &table(heartbeat_table), &table(&new.monitor.heartbeat_table));
    changes.value(
        "monitor max_receive_queue",
        &or_none(*max_receive_queue, "no limit"),
        &or_none(new.monitor.max_receive_queue, "no limit"),
    );
    changes.value(
        "monitor max_flow_control_paused",
        &or_none(*max_flow_control_paused, "no limit"),
        &or_none(new.monitor.max_flow_control_paused, "no limit"),
    );
    changes.value("monitor donor_reads", donor_reads, &new.monitor.donor_reads);
    let RoleRules { failback, split_brain, max_ejected, slow_start } = roles;
    changes.value("slow_start", &or(*slow_start, "none"), &or(new.roles.slow_start, "none"));
    changes.value("failback", failback, &new.roles.failback);
    changes.value("split_brain", split_brain, &new.roles.split_brain);
    changes.value("max_ejected", max_ejected, &new.roles.max_ejected);
    changes.value("connect_timeout", &human(*connect_timeout), &human(new.connect_timeout));
    changes.value(
        "accounts_refresh",
        &or(*accounts_refresh, "on demand only"),
        &or(new.accounts_refresh, "on demand only"),
    );
    let chosen = |address: &Option<IpAddr>| {
        address.map_or_else(|| "the system's choice".to_owned(), |ip| ip.to_string())
    };
    changes.value("source_address", &chosen(source_address), &chosen(&new.source_address));
    match (tls, &new.tls) {
        (Some(old), Some(new)) => node_tls(changes, old, new),
        (None, Some(_)) => changes.say("tls added"),
        (Some(_), None) => changes.say("tls removed"),
        (None, None) => {}
    }
    changes.value("client_address", client_address, &new.client_address);
    changes.value("resolve_names", resolve_names, &new.resolve_names);
    changes.value("revoked_sessions", revoked_sessions, &new.revoked_sessions);
    let Links { reuse, trust, max_idle, idle_timeout, max_age, warm, max, queue, queue_timeout } = links;
    changes.value("links reuse", reuse, &new.links.reuse);
    let judged = "every login is judged";
    changes.value("links trust", &or(*trust, judged), &or(new.links.trust, judged));
    changes.value("links max_idle", max_idle, &new.links.max_idle);
    changes.value("links idle_timeout", &human(*idle_timeout), &human(new.links.idle_timeout));
    changes.value("links max_age", &human(*max_age), &human(new.links.max_age));
    changes.value("links warm", warm, &new.links.warm);
    changes.value("links max", &or_none(*max, "no limit"), &or_none(new.links.max, "no limit"));
    changes.value("links queue", queue, &new.links.queue);
    changes.value("links queue_timeout", &human(*queue_timeout), &human(new.links.queue_timeout));
    let Moves { hold, max_held, drain_timeout, maintenance_timeout } = moves;
    changes.value("moves hold", &or(*hold, "refused at once"), &or(new.moves.hold, "refused at once"));
    changes.value("moves max_held", max_held, &new.moves.max_held);
    changes.value(
        "moves drain_timeout",
        &or(*drain_timeout, "for ever"),
        &or(new.moves.drain_timeout, "for ever"),
    );
    changes.value(
        "moves maintenance_timeout",
        &or(*maintenance_timeout, "at once"),
        &or(new.moves.maintenance_timeout, "at once"),
    );
    self::unix_accounts(changes, unix_accounts, &new.unix_accounts);
    self::handover(changes, handover, &new.handover);
}

fn unix_accounts(
    changes: &mut Changes,
    old: &BTreeMap<String, UnixAccount>,
    new: &BTreeMap<String, UnixAccount>,
) {
    for (user, pair) in pairs(old, new) {
        match pair {
            Pair::Added(account) => {
                changes.say(format_args!("unix account {user} added (uid {})", account.uid));
            }
            Pair::Removed(account) => {
                changes.say(format_args!("unix account {user} removed (was for uid {})", account.uid));
            }
            Pair::Both(old, new) => {
                let UnixAccount { uid, secret } = old;
                changes.value(&format!("unix account {user} uid"), uid, &new.uid);
                changes.secret(&format!("unix account {user} password"), Some(secret), Some(&new.secret));
            }
        }
    }
}

fn handover(changes: &mut Changes, old: &Handover, new: &Handover) {
    let Handover {
        account,
        replication,
        failover,
        failover_after,
        catch_up_timeout,
        running_transactions_timeout,
        freeze_timeout,
    } = old;
    for (name, old, new) in [("", account, &new.account), ("replication_", replication, &new.replication)] {
        let user = |account: &Option<Account>| {
            account.as_ref().map_or_else(|| "none".to_owned(), |account| account.user.clone())
        };
        let secret = |account| Option::<&Account>::map(account, |account| &account.secret);
        changes.value(&format!("handover {name}user"), &user(old), &user(new));
        changes.secret(&format!("handover {name}password"), secret(old.as_ref()), secret(new.as_ref()));
    }
    changes.value("handover failover", failover, &new.failover);
    let running = |limit: &Option<Duration>| limit.map_or_else(|| "none".to_owned(), human);
    let (old_running, new_running) =
        (running(running_transactions_timeout), running(&new.running_transactions_timeout));
    changes.value("handover running_transactions_timeout", &old_running, &new_running);
    for (name, old, new) in [
        ("failover_after", failover_after, &new.failover_after),
        ("catch_up_timeout", catch_up_timeout, &new.catch_up_timeout),
        ("freeze_timeout", freeze_timeout, &new.freeze_timeout),
    ] {
        changes.value(&format!("handover {name}"), &human(*old), &human(*new));
    }
}

fn service(changes: &mut Changes, old: &Service, new: &Service) {
    let Service {
        name: _,
        listen,
        route,
        node,
        max_sessions,
        max_sessions_per_user,
        max_sessions_per_address,
        idle_timeout,
        proxy_protocol,
        tls,
    } = old;
    changes.addresses("", listen, &new.listen, false);
    // By name: what two routes by database differ in follows below.
    changes.value("route", &route.to_string(), &new.route.to_string());
    if let (
        Route::ByDatabase { clusters, default_cluster, databases },
        Route::ByDatabase { clusters: new_clusters, default_cluster: new_default, databases: new_databases },
    ) = (route, &new.route)
    {
        changes.value("clusters", &list(clusters), &list(new_clusters));
        let name =
            |cluster: &Option<_>| cluster.as_ref().map_or_else(|| "none".to_owned(), ToString::to_string);
        changes.value("default_cluster", &name(default_cluster), &name(new_default));
        for (schema, pair) in pairs(databases, new_databases) {
            match pair {
                Pair::Added(cluster) => {
                    changes.say(format_args!("database {schema} added (to cluster {cluster})"));
                }
                Pair::Removed(cluster) => {
                    changes.say(format_args!("database {schema} removed (was to cluster {cluster})"));
                }
                Pair::Both(old, new) => changes.value(&format!("database {schema} cluster"), old, new),
            }
        }
    }
    changes.value("node", node, &new.node);
    for (name, old, new) in [
        ("max_sessions", max_sessions, &new.max_sessions),
        ("max_sessions_per_user", max_sessions_per_user, &new.max_sessions_per_user),
        ("max_sessions_per_address", max_sessions_per_address, &new.max_sessions_per_address),
    ] {
        changes.value(name, &or_none(*old, "no limit"), &or_none(*new, "no limit"));
    }
    changes.value("idle_timeout", &or(*idle_timeout, "never closed"), &or(new.idle_timeout, "never closed"));
    let header = |proxy: &Option<super::ProxyProtocol>| {
        proxy.as_ref().map_or_else(|| "none".to_owned(), ToString::to_string)
    };
    changes.value("proxy_protocol", &header(proxy_protocol), &header(&new.proxy_protocol));
    match (tls, &new.tls) {
        (Some(old), Some(new)) => self::tls(changes, old, new),
        (None, Some(_)) => changes.say("tls added"),
        (Some(_), None) => changes.say("tls removed"),
        (None, None) => {}
    }
}

fn tls(changes: &mut Changes, old: &Tls, new: &Tls) {
    let Tls { certificate, key, required, client_ca, identity } = old;
    changes.value(
        "tls certificate",
        &certificate.display().to_string(),
        &new.certificate.display().to_string(),
    );
    // By content, for a renewed certificate mostly has the name of the old one.
    if identity.certificates() != new.identity.certificates() {
        changes.say("tls certificate renewed");
    }
    changes.value("tls key", &key.display().to_string(), &new.key.display().to_string());
    changes.value("tls required", required, &new.required);
    changes.value("tls client_ca", &path(client_ca.as_deref()), &path(new.client_ca.as_deref()));
    if let (Some(old), Some(new)) = (identity.authorities(), new.identity.authorities())
        && old != new
    {
        changes.say("tls client_ca renewed");
    }
}

fn node_tls(changes: &mut Changes, old: &NodeTls, new: &NodeTls) {
    let NodeTls { ca, certificate, key, trust } = old;
    changes.value("tls verify", &trust.verify(), &new.trust.verify());
    for (name, old, new) in [
        ("tls ca", ca, &new.ca),
        ("tls certificate", certificate, &new.certificate),
        ("tls key", key, &new.key),
    ] {
        changes.value(name, &path(old.as_deref()), &path(new.as_deref()));
    }
    if (trust.authorities(), trust.own()) != (new.trust.authorities(), new.trust.own()) {
        changes.say("tls certificates renewed");
    }
}

fn admin(changes: &mut Changes, old: &Admin, new: &Admin) {
    let Admin { console, api, password, token } = old;
    changes.addresses("console ", console, &new.console, true);
    changes.addresses("api ", api, &new.api, true);
    changes.secret("password", password.as_ref(), new.password.as_ref());
    changes.secret("token", token.as_ref(), new.token.as_ref());
}

fn log(changes: &mut Changes, old: &Log, new: &Log) {
    let Log { format, level } = old;
    changes.value("format", format, &new.format);
    changes.value("level", level, &new.level);
}

fn runtime(changes: &mut Changes, old: &Runtime, new: &Runtime) {
    let Runtime {
        workers,
        start_without_accounts,
        start_timeout,
        handshake_timeout,
        drain_timeout,
        backoff,
        state_file,
    } = old;
    changes.restarting("workers", &or_none(*workers, "one per core"), &or_none(new.workers, "one per core"));
    changes.value("start_without_accounts", start_without_accounts, &new.start_without_accounts);
    changes.value("start_timeout", &human(*start_timeout), &human(new.start_timeout));
    changes.value("handshake_timeout", &human(*handshake_timeout), &human(new.handshake_timeout));
    changes.value("drain_timeout", &human(*drain_timeout), &human(new.drain_timeout));
    changes.value("backoff", backoff, &new.backoff);
    changes.restarting("state_file", &path(state_file.as_deref()), &path(new.state_file.as_deref()));
}

fn cluster_summary(cluster: &Cluster) -> String {
    let nodes: Vec<_> = cluster.nodes.iter().map(|node| format!("{} {}", node.name, node.address)).collect();
    format!("{}: {}", cluster.kind, nodes.join(", "))
}

fn service_summary(service: &Service) -> String {
    format!("{} on {}", service.route, list(&service.listen))
}

fn list<T: Display>(items: &[T]) -> String {
    items.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")
}

fn path(path: Option<&Path>) -> String {
    path.map_or_else(|| "none".to_owned(), |path| path.display().to_string())
}

fn or(duration: Option<Duration>, absent: &str) -> String {
    duration.map_or_else(|| absent.to_owned(), human)
}

fn or_none<T: Display>(number: Option<T>, absent: &str) -> String {
    number.map_or_else(|| absent.to_owned(), |number| number.to_string())
}

/// One key of two maps.
enum Pair<'a, V> {
    Added(&'a V),
    Removed(&'a V),
    Both(&'a V, &'a V),
}

fn pairs<'a, K: Ord, V>(old: &'a BTreeMap<K, V>, new: &'a BTreeMap<K, V>) -> Vec<(&'a K, Pair<'a, V>)> {
    let keys: BTreeSet<&K> = old.keys().chain(new.keys()).collect();
    let pair = |key| match (old.get(key), new.get(key)) {
        (Some(old), Some(new)) => Some((key, Pair::Both(old, new))),
        (Some(old), None) => Some((key, Pair::Removed(old))),
        (None, Some(new)) => Some((key, Pair::Added(new))),
        (None, None) => None,
    };
    keys.into_iter().filter_map(pair).collect()
}

/// The changes found so far, and what the next ones are about.
#[derive(Default)]
struct Changes {
    about: String,
    list: Vec<Change>,
}

impl Changes {
    fn about(&mut self, about: String) {
        self.about = about;
    }

    fn say(&mut self, what: impl Display) {
        self.list.push(Change { text: format!("{}: {what}", self.about), restart: false });
    }

    fn say_restart(&mut self, what: impl Display) {
        self.list.push(Change { text: format!("{}: {what}", self.about), restart: true });
    }

    fn value<T: PartialEq + Display + ?Sized>(&mut self, name: &str, old: &T, new: &T) {
        if old != new {
            self.say(format_args!("{name} {old} -> {new}"));
        }
    }

    fn restarting(&mut self, name: &str, old: &str, new: &str) {
        if old != new {
            self.say_restart(format_args!("{name} {old} -> {new}"));
        }
    }

    fn secret(&mut self, name: &str, old: Option<&Secret>, new: Option<&Secret>) {
        match (old, new) {
            (Some(old), Some(new)) if old != new => self.say(format_args!("{name} changed")),
            (None, Some(_)) => self.say(format_args!("{name} added")),
            (Some(_), None) => self.say(format_args!("{name} removed")),
            _ => {}
        }
    }

    fn addresses<T: PartialEq + Display>(&mut self, door: &str, old: &[T], new: &[T], restart: bool) {
        let added = new.iter().filter(|address| !old.contains(address)).map(|address| (address, "added"));
        let removed = old.iter().filter(|address| !new.contains(address)).map(|address| (address, "removed"));
        for (address, what) in added.chain(removed) {
            let line = format!("{door}listener {address} {what}");
            if restart { self.say_restart(line) } else { self.say(line) }
        }
    }
}
