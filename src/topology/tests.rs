use std::path::Path;

use super::*;

fn config(text: &str) -> Config {
    let text = format!("{text}\n[service.s]\nlisten = [\"127.0.0.1:4000\"]\nroute = \"cluster:a\"\n");
    Config::parse(&text, Path::new("test.toml"), &|_| None).expect("valid configuration")
}

fn store() -> TopologyStore {
    TopologyStore::new(Topology::new(&config(
        r#"
        [cluster.a]
        kind = "galera"
        nodes = { n1 = "127.0.0.1:1001", n2 = { address = "127.0.0.1:1002", weight = 300 }, n3 = { address = "127.0.0.1:1003", priority = 5 } }
        monitor = { user = "m", password = "p" }
        "#,
    )))
}

fn name(n: &str) -> NodeName {
    n.parse().expect("node name")
}

fn a() -> ClusterName {
    "a".parse().expect("cluster name")
}

fn up() -> Observed {
    Observed::up(true, true, "Synced")
}

fn read_only() -> Observed {
    Observed::up(false, true, "read_only=ON")
}

fn down() -> Observed {
    Observed::down("wsrep_ready is OFF")
}

/// Three nodes of equal priority in a cluster of this kind, with further lines.
fn trio(kind: &str, lines: &str) -> TopologyStore {
    TopologyStore::new(Topology::new(&trio_config(kind, lines)))
}

fn trio_config(kind: &str, lines: &str) -> Config {
    config(&format!(
        "[cluster.a]\nkind = \"{kind}\"\nmonitor = {{ user = \"m\", password = \"p\" }}\n{lines}\n\
         nodes = {{ n1 = \"127.0.0.1:1001\", n2 = \"127.0.0.1:1002\", n3 = \"127.0.0.1:1003\" }}\n"
    ))
}

fn see(store: &TopologyStore, seen: [(&str, Observed); 3]) {
    for (node, observed) in seen {
        store.observe(&a(), &name(node), observed);
    }
}

fn alarm(store: &TopologyStore) -> String {
    store.load().cluster("a").unwrap().leadership.alarm.clone().unwrap_or_default()
}

fn writer(store: &TopologyStore) -> Option<String> {
    store.load().cluster("a").unwrap().writer().map(|n| n.name.to_string())
}

#[test]
fn the_first_writer_is_the_writable_node_of_highest_priority_then_first_by_name() {
    let store = store();
    assert_eq!(writer(&store), None, "nothing is used before it was probed");
    store.observe(&a(), &name("n2"), up());
    store.observe(&a(), &name("n1"), up());
    assert_eq!(writer(&store), None, "n3 would be preferred, and is not probed yet");
    store.observe(&a(), &name("n3"), down());
    assert_eq!(writer(&store).as_deref(), Some("n1"));
    let other = self::store();
    see(&other, [("n3", up()), ("n2", up()), ("n1", up())]);
    assert_eq!(writer(&other).as_deref(), Some("n3"));
}

#[test]
fn a_writer_stays_until_it_can_write_no_more() {
    let store = store();
    see(&store, [("n1", up()), ("n2", up()), ("n3", up())]);
    assert_eq!(writer(&store).as_deref(), Some("n3"));
    store.observe(&a(), &name("n3"), down());
    assert_eq!(writer(&store).as_deref(), Some("n1"));
    store.observe(&a(), &name("n3"), up());
    assert_eq!(writer(&store).as_deref(), Some("n1"), "no failback unless it is asked for");
    store.set_desired("a", "n1", Desired::Drain);
    assert_eq!(writer(&store).as_deref(), Some("n3"));
    store.set_desired("a", "n1", Desired::Enabled);
    assert_eq!(writer(&store).as_deref(), Some("n3"));
    store.observe(&a(), &name("n3"), read_only());
    assert_eq!(writer(&store).as_deref(), Some("n1"));
    // With nobody left, the last one is remembered, and comes first.
    see(&store, [("n3", down()), ("n2", down()), ("n1", down())]);
    assert_eq!(writer(&store), None);
    store.observe(&a(), &name("n2"), up());
    assert_eq!(writer(&store).as_deref(), Some("n2"), "a node that is known to be down is not waited for");
}

#[test]
fn proxies_agree_whatever_the_order_in_which_their_first_probes_end() {
    let orders = [["n1", "n2", "n3"], ["n3", "n2", "n1"], ["n2", "n3", "n1"]];
    for kind in ["galera", "static"] {
        for order in orders {
            let store = trio(kind, "");
            see(&store, order.map(|node| (node, up())));
            assert_eq!(writer(&store).as_deref(), Some("n1"), "{kind} {order:?}");
        }
    }
    for order in orders {
        let store = trio("replication", "");
        see(&store, order.map(|node| (node, if node == "n1" { read_only() } else { up() })));
        assert_eq!(writer(&store), None, "two accept writes, and neither was the writer before: {order:?}");
        assert!(alarm(&store).contains("n2, n3; none of them was the writer"), "{}", alarm(&store));
    }
}

#[test]
fn with_failback_the_role_returns_to_a_node_that_has_been_up_for_a_while() {
    let store = TopologyStore::new(Topology::new(&config(
        r#"
        [cluster.a]
        kind = "galera"
        failback = true
        nodes = { n1 = { address = "127.0.0.1:1001", priority = 9 }, n2 = "127.0.0.1:1002", n3 = "127.0.0.1:1003" }
        monitor = { user = "m", password = "p" }
        "#,
    )));
    see(&store, [("n1", up()), ("n2", up()), ("n3", up())]);
    store.observe(&a(), &name("n1"), down());
    assert_eq!(writer(&store).as_deref(), Some("n2"));
    store.observe(&a(), &name("n1"), up());
    assert_eq!(writer(&store).as_deref(), Some("n2"), "it came back this moment");
    let topology = store.load();
    let mut cluster = Cluster::clone(topology.cluster("a").unwrap());
    cluster.settle(Instant::now() + leadership::FAILBACK_AFTER);
    assert_eq!(cluster.writer().unwrap().name, name("n1"));
    // Names do not count for that.
    store.observe(&a(), &name("n2"), down());
    store.observe(&a(), &name("n1"), down());
    assert_eq!(writer(&store).as_deref(), Some("n3"));
    store.observe(&a(), &name("n2"), up());
    let mut cluster = Cluster::clone(store.load().cluster("a").unwrap());
    cluster.settle(Instant::now() + leadership::FAILBACK_AFTER);
    assert_eq!(cluster.writer().unwrap().name, name("n3"));
}

#[test]
fn the_node_that_accepts_writes_is_followed() {
    for kind in ["replication", "multi-primary"] {
        let store = trio(kind, "");
        see(&store, [("n1", up()), ("n2", read_only()), ("n3", read_only())]);
        assert_eq!(writer(&store).as_deref(), Some("n1"));
        // It dies, and another is promoted by somebody.
        store.observe(&a(), &name("n1"), down());
        assert_eq!((writer(&store), alarm(&store)), (None, String::new()));
        store.observe(&a(), &name("n3"), up());
        assert_eq!(writer(&store).as_deref(), Some("n3"));
        // The old one comes back and still accepts writes: that is an alarm, and nothing goes there.
        store.observe(&a(), &name("n1"), up());
        assert_eq!(writer(&store).as_deref(), Some("n3"));
        assert!(alarm(&store).contains("n1, n3; writes go to n3 only"), "{}", alarm(&store));
        // An operator takes it out, or makes it read-only.
        store.set_desired("a", "n1", Desired::Maintenance);
        assert_eq!(alarm(&store), "");
        store.set_desired("a", "n1", Desired::Enabled);
        assert_ne!(alarm(&store), "");
        store.observe(&a(), &name("n1"), read_only());
        assert_eq!((writer(&store).as_deref(), alarm(&store).as_str()), (Some("n3"), ""));
        // A promotion by hand: the new one opens before the old one closes, or after it.
        store.observe(&a(), &name("n2"), up());
        store.observe(&a(), &name("n3"), read_only());
        assert_eq!((writer(&store).as_deref(), alarm(&store).as_str()), (Some("n2"), ""));
    }
}

#[test]
fn a_primary_in_drain_is_replaced_by_nobody() {
    let store = trio("replication", "");
    see(&store, [("n1", up()), ("n2", read_only()), ("n3", read_only())]);
    store.set_desired("a", "n1", Desired::Drain);
    assert_eq!((writer(&store), alarm(&store)), (None, String::new()));
    store.observe(&a(), &name("n2"), up());
    assert_eq!(writer(&store), None, "sessions on n1 may still write there");
    assert!(alarm(&store).contains("n1 was the writer before, and takes no sessions"), "{}", alarm(&store));
    store.observe(&a(), &name("n1"), read_only());
    assert_eq!(writer(&store).as_deref(), Some("n2"));
}

#[test]
fn with_split_brain_none_writes_stop_while_several_nodes_accept_them() {
    let store = trio("multi-primary", "split_brain = \"none\"");
    see(&store, [("n1", up()), ("n2", read_only()), ("n3", read_only())]);
    assert_eq!(writer(&store).as_deref(), Some("n1"));
    store.observe(&a(), &name("n2"), up());
    assert_eq!(writer(&store), None);
    assert!(alarm(&store).contains("split_brain is none"), "{}", alarm(&store));
    store.observe(&a(), &name("n2"), read_only());
    assert_eq!(writer(&store).as_deref(), Some("n1"));
}

#[test]
fn an_operator_moves_the_writer_where_several_nodes_may_write() {
    let store = trio("galera", "");
    see(&store, [("n1", up()), ("n2", up()), ("n3", read_only())]);
    assert_eq!(store.set_writer("a", "n2"), Ok(Some(name("n1"))));
    assert_eq!(writer(&store).as_deref(), Some("n2"));
    assert!(
        matches!(store.set_writer("a", "n3"), Err(NotWriter::Unable(why)) if why.contains("read_only=ON"))
    );
    assert_eq!(store.set_writer("a", "n9"), Err(NotWriter::Unknown));
    store.set_desired("a", "n1", Desired::Drain);
    assert!(matches!(store.set_writer("a", "n1"), Err(NotWriter::Unable(why)) if why.contains("drain")));
    let store = trio("replication", "");
    see(&store, [("n1", up()), ("n2", read_only()), ("n3", read_only())]);
    assert_eq!(store.set_writer("a", "n2"), Err(NotWriter::Kind(ClusterKind::Replication)));
}

#[test]
fn a_recalled_writer_is_waited_for() {
    let store = trio("galera", "");
    assert!(store.recall_writer(&a(), &name("n2")));
    assert!(!store.recall_writer(&a(), &name("n9")));
    store.observe(&a(), &name("n1"), up());
    assert_eq!(writer(&store), None);
    store.observe(&a(), &name("n2"), up());
    assert_eq!(writer(&store).as_deref(), Some("n2"));
    let store = trio("replication", "");
    store.recall_writer(&a(), &name("n2"));
    see(&store, [("n1", up()), ("n3", read_only()), ("n2", up())]);
    assert_eq!(writer(&store).as_deref(), Some("n2"));
    assert!(alarm(&store).contains("writes go to n2 only"));
}

#[test]
fn strained_nodes_are_spared_while_enough_others_serve() {
    let strained = || Observed::Up {
        writable: true,
        readable: true,
        strain: Some("receive queue of 120".into()),
        share: 100,
        group: None,
        server_id: None,
        quiesced: false,
        detail: "Synced".into(),
    };
    let store = trio("galera", "");
    see(&store, [("n1", strained()), ("n2", up()), ("n3", up())]);
    let role = |store: &TopologyStore, node: &str| {
        let topology = store.load();
        let cluster = topology.cluster("a").unwrap();
        cluster.role(cluster.node(node).unwrap())
    };
    assert_eq!(
        (role(&store, "n1"), role(&store, "n2"), role(&store, "n3")),
        (Role::None, Role::Writer, Role::Reader)
    );
    store.observe(&a(), &name("n3"), strained());
    assert_eq!(
        (role(&store, "n1"), role(&store, "n3")),
        (Role::Reader, Role::Reader),
        "two of three are too many"
    );
    // Those that are down are no help.
    let store = trio("galera", "");
    see(&store, [("n1", strained()), ("n2", down()), ("n3", down())]);
    assert_eq!(writer(&store).as_deref(), Some("n1"));
}

#[test]
fn a_node_that_bears_less_gets_less() {
    let half = Observed::Up {
        writable: true,
        readable: true,
        strain: None,
        share: 50,
        group: None,
        server_id: None,
        quiesced: false,
        detail: "Synced".into(),
    };
    let store = trio("galera", "");
    see(&store, [("n1", half), ("n2", up()), ("n3", down())]);
    let guards: Vec<_> = (0..30)
        .map(|_| store.load().cluster("a").unwrap().choose(NodeChoice::Any).unwrap().load.enter())
        .collect();
    let topology = store.load();
    let sessions = |n: &str| topology.cluster("a").unwrap().node(n).unwrap().load.sessions();
    assert_eq!((sessions("n1"), sessions("n2"), guards.len()), (10, 20, 30));
}

#[test]
fn a_node_of_another_cluster_is_no_member() {
    let of = |uuid: &str| up().in_group(Some(uuid.to_owned()));
    let store = trio("galera", "");
    see(&store, [("n1", of("aaaa")), ("n2", of("bbbb")), ("n3", of("bbbb"))]);
    assert_eq!(writer(&store).as_deref(), Some("n2"));
    assert!(alarm(&store).contains("n1: member of aaaa, while the cluster is bbbb"), "{}", alarm(&store));
    let node = |name: &str| store.load().cluster("a").unwrap().node(name).unwrap().clone();
    assert!(!node("n1").takes_sessions());
    assert!(node("n1").must_be_left().is_some_and(|reason| reason.contains("member of aaaa")));
    assert!(node("n2").must_be_left().is_none());
    // Two against none: the last writer is right.
    store.observe(&a(), &name("n3"), down());
    assert_eq!((writer(&store).as_deref(), node("n1").takes_sessions()), (Some("n2"), false));
    store.observe(&a(), &name("n1"), of("bbbb"));
    assert_eq!((alarm(&store), node("n1").takes_sessions()), (String::new(), true));
}

#[test]
fn a_node_that_came_back_gets_its_share_slowly() {
    let store = trio("galera", "slow_start = \"10s\"");
    see(&store, [("n1", up()), ("n2", up()), ("n3", up())]);
    let bears = |node: &str, after: u64| {
        let topology = store.load();
        let cluster = topology.cluster("a").unwrap();
        let now = Instant::now() + std::time::Duration::from_secs(after);
        cluster.node(node).unwrap().bearing(now, cluster.rules.slow_start)
    };
    let full = bears("n1", 0);
    store.observe(&a(), &name("n2"), down());
    store.observe(&a(), &name("n2"), up());
    assert_eq!(bears("n2", 0), full / 100);
    assert!((full * 49 / 100..=full * 52 / 100).contains(&bears("n2", 5)), "{}", bears("n2", 5));
    assert_eq!((bears("n2", 10), bears("n1", 0)), (full, full));
}

#[test]
fn a_spillway_that_starts_takes_the_writer_in_use() {
    let first = |used: [(&str, u64); 3], last: Observed| {
        let store = trio("galera", "");
        for (node, used) in used {
            store.used(&a(), &name(node), used);
        }
        see(&store, [("n1", up()), ("n2", up()), ("n3", last)]);
        writer(&store)
    };
    assert_eq!(first([("n1", 0), ("n2", 3), ("n3", 0)], up()).as_deref(), Some("n2"));
    assert_eq!(first([("n1", 0), ("n2", 0), ("n3", 0)], up()).as_deref(), Some("n1"), "none is");
    assert_eq!(first([("n1", 0), ("n2", 0), ("n3", 2)], up()).as_deref(), Some("n1"), "it may be chance");
    assert_eq!(first([("n1", 9), ("n2", 50), ("n3", 0)], up()).as_deref(), Some("n1"), "it is not clear");
    assert_eq!(first([("n1", 0), ("n2", 0), ("n3", 9)], down()).as_deref(), Some("n1"), "it is gone");
    // Every node is waited for, and who was the writer once stays it whatever others do.
    let store = trio("galera", "");
    store.observe(&a(), &name("n1"), up());
    store.observe(&a(), &name("n3"), down());
    assert_eq!(writer(&store), None);
    store.observe(&a(), &name("n2"), up());
    assert_eq!(writer(&store).as_deref(), Some("n1"));
    store.used(&a(), &name("n3"), 1000);
    store.observe(&a(), &name("n3"), up());
    assert_eq!(writer(&store).as_deref(), Some("n1"));
}

#[test]
fn nothing_begins_on_a_writer_that_is_quiesced() {
    let store = trio("replication", "");
    see(&store, [("n1", up()), ("n2", read_only()), ("n3", read_only())]);
    assert_eq!(writer(&store).as_deref(), Some("n1"));
    store.quiesce(&a(), true);
    // Neither probes nor a reload lets anything begin there.
    store.observe(&a(), &name("n1"), Observed::up(true, true, "again"));
    store.reconfigure(&trio_config("replication", ""));
    assert_eq!(writer(&store), None);
    let cluster = store.load().cluster("a").unwrap().clone();
    assert!(cluster.choose(NodeChoice::Writer).is_err() && cluster.node("n1").unwrap().readable());
    store.quiesce(&a(), false);
    assert_eq!(writer(&store).as_deref(), Some("n1"));
    // The same by another Spillway, as long as the writer says so, and no longer than it is the writer.
    store.observe(&a(), &name("n1"), Observed::up(true, true, "").quiesced());
    assert_eq!((writer(&store), store.load().cluster("a").unwrap().is_quiesced()), (None, true));
    store.observe(&a(), &name("n1"), read_only().quiesced());
    assert!(!store.load().cluster("a").unwrap().is_quiesced());
    store.observe(&a(), &name("n2"), up());
    assert_eq!(writer(&store).as_deref(), Some("n2"));
}

#[test]
fn evidence_changes_no_state_and_is_told_with_the_change_that_follows() {
    let store = trio("galera", "");
    see(&store, [("n1", up()), ("n2", up()), ("n3", up())]);
    let before = store.events(0).len() as u64;
    store.suspect(&a(), &name("n1"), Evidence::ConnectRefused);
    store.suspect(&a(), &name("n9"), Evidence::ConnectRefused);
    let node = store.load().cluster("a").unwrap().node("n1").unwrap().clone();
    assert_eq!((node.observed.word(), node.suspicion.last().unwrap().1), ("up", Evidence::ConnectRefused));
    assert!(store.events(before).is_empty());
    store.observe(&a(), &name("n1"), down());
    let events = store.events(before);
    let told: Vec<_> = events.iter().map(|e| (e.kind, e.before.as_str(), e.after.as_str())).collect();
    assert_eq!(
        told,
        [(EventKind::Observed, "up (Synced)", "down (wsrep_ready is OFF)"), (EventKind::Writer, "n1", "n2"),]
    );
    assert_eq!(events[0].evidence.as_deref(), Some("a connection was refused"));
    assert_eq!((events[0].number, events[1].number), (before + 1, before + 2));
}

#[tokio::test(start_paused = true)]
async fn evidence_rings_once_for_the_probe() {
    let store = trio("galera", "");
    store.suspect(&a(), &name("n1"), Evidence::TimedOut);
    store.suspect(&a(), &name("n1"), Evidence::Error(1047));
    let suspicion = Arc::clone(&store.load().cluster("a").unwrap().node("n1").unwrap().suspicion);
    let limit = std::time::Duration::from_secs(1);
    assert!(tokio::time::timeout(limit, suspicion.roused()).await.is_ok());
    assert!(tokio::time::timeout(limit, suspicion.roused()).await.is_err());
    store.reconfigure(&trio_config("galera", "max_ejected = 1"));
    store.suspect(&a(), &name("n1"), Evidence::ConnectionLost);
    assert!(tokio::time::timeout(limit, suspicion.roused()).await.is_ok(), "a reload keeps the bell");
}

#[test]
fn a_read_only_node_is_a_reader() {
    let store = store();
    store.observe(&a(), &name("n1"), read_only());
    let topology = store.load();
    let cluster = topology.cluster("a").unwrap();
    assert_eq!(cluster.role(cluster.node("n1").unwrap()), Role::Reader);
    assert_eq!(cluster.choose(NodeChoice::Any).unwrap().name, name("n1"));
    let none = cluster.choose(NodeChoice::Writer).unwrap_err().to_string();
    assert!(none.contains("cluster a has no writable node"), "{none}");
    assert!(none.contains("n1: read_only=ON") && none.contains("n2: not probed yet"), "{none}");
}

#[test]
fn sessions_spread_by_weight() {
    let store = store();
    store.observe(&a(), &name("n1"), up());
    store.observe(&a(), &name("n2"), up());
    let mut guards = Vec::new();
    for _ in 0..40 {
        let topology = store.load();
        guards.push(topology.cluster("a").unwrap().choose(NodeChoice::Any).unwrap().load.enter());
    }
    let topology = store.load();
    let sessions = |n: &str| topology.cluster("a").unwrap().node(n).unwrap().load.sessions();
    assert_eq!((sessions("n1"), sessions("n2")), (10, 30));
    drop(guards);
    assert_eq!((sessions("n1"), sessions("n2")), (0, 0));
}

#[test]
fn desired_and_observed_do_not_overwrite_each_other() {
    let store = store();
    store.set_desired("a", "n1", Desired::Maintenance);
    store.observe(&a(), &name("n1"), up());
    let node = store.load().cluster("a").unwrap().node("n1").unwrap().clone();
    assert_eq!((node.desired, node.observed.word()), (Desired::Maintenance, "up"));
    assert_eq!(node.must_be_left().as_deref(), Some("maintenance"));
    assert!(!node.takes_sessions());
}

#[test]
fn only_a_new_verdict_is_a_change() {
    let store = store();
    let mut told = store.subscribe();
    assert!(store.observe(&a(), &name("n1"), up()).is_some());
    assert!(told.has_changed().unwrap());
    told.mark_unchanged();
    assert!(store.observe(&a(), &name("n1"), up()).is_none());
    assert!(!told.has_changed().unwrap());
    assert!(store.set_desired("a", "nobody", Desired::Drain).is_none());
}

#[test]
fn a_new_configuration_keeps_what_stays() {
    let store = store();
    store.observe(&a(), &name("n1"), up());
    store.observe(&a(), &name("n2"), up());
    let guard = store.load().cluster("a").unwrap().node("n1").unwrap().load.enter();
    store.reconfigure(&config(
        r#"
        [cluster.a]
        kind = "galera"
        nodes = { n1 = "127.0.0.1:1001", n2 = "127.0.0.1:2002" }
        monitor = { user = "m", password = "p" }
        "#,
    ));
    let topology = store.load();
    let cluster = topology.cluster("a").unwrap();
    assert_eq!(cluster.nodes.len(), 2);
    assert_eq!(cluster.node("n1").unwrap().observed, up());
    assert_eq!(cluster.node("n1").unwrap().load.sessions(), 1);
    assert_eq!(cluster.node("n2").unwrap().observed, Observed::Unknown, "another address, another server");
    drop(guard);
}

// === members that are discovered ===

const DISCOVER: &str = "discover = { networks = [\"10.0.0.0/8\"] }";

fn member(node: &str, address: &str) -> crate::config::Node {
    let address = address.parse().expect("address");
    crate::config::Node { name: name(node), address, weight: 100, priority: 0 }
}

fn has(store: &TopologyStore, node: &str) -> bool {
    store.load().cluster("a").unwrap().node(node).is_some()
}

#[test]
fn a_member_joins_once_and_leaves_with_its_wish_kept() {
    let store = trio("galera", DISCOVER);
    let four = member("10.0.0.4-3306", "10.0.0.4:3306");
    assert!(store.join(&a(), &four, "n1"));
    assert!(!store.join(&a(), &four, "n2"), "it is there");
    assert!(!store.join(&a(), &member("other", "127.0.0.1:1001"), "n1"), "its address is that of n1");
    assert!(!store.part(&a(), &name("n1")), "the configuration names it");
    store.set_desired("a", "10.0.0.4-3306", Desired::Drain);
    assert!(store.part(&a(), &four.name));
    assert!(!has(&store, "10.0.0.4-3306"));
    assert!(store.join(&a(), &four, "n1"));
    let topology = store.load();
    assert_eq!(topology.cluster("a").unwrap().node("10.0.0.4-3306").unwrap().desired, Desired::Drain);
    let members: Vec<String> = store
        .events(0)
        .into_iter()
        .filter(|event| event.kind == EventKind::Member)
        .map(|event| event.after)
        .collect();
    assert_eq!(
        members,
        ["joined at 10.0.0.4:3306, listed by n1", "left", "joined at 10.0.0.4:3306, listed by n1"]
    );
}

#[test]
fn nobody_joins_where_nobody_is_looked_for() {
    let store = trio("galera", "");
    assert!(!store.join(&a(), &member("10.0.0.4-3306", "10.0.0.4:3306"), "n1"));
    assert!(!store.wish_for_guest(&a(), &name("10.0.0.4-3306"), Desired::Drain));
}

#[test]
fn a_new_configuration_keeps_members_that_it_allows_and_does_not_name() {
    let store = trio("galera", DISCOVER);
    for (node, address) in [("10.0.0.4-3306", "10.0.0.4:3306"), ("10.0.0.5-3306", "10.0.0.5:3306")] {
        assert!(store.join(&a(), &member(node, address), "n1"));
        store.observe(&a(), &name(node), up());
    }
    store.reconfigure(&trio_config("galera", "discover = { networks = [\"10.0.0.4\"] }"));
    assert!(has(&store, "10.0.0.4-3306") && !has(&store, "10.0.0.5-3306"));
    assert!(store.load().cluster("a").unwrap().node("10.0.0.4-3306").unwrap().observed.is_up());
    store.reconfigure(&trio_config("galera", ""));
    assert!(!has(&store, "10.0.0.4-3306"));
}

#[test]
fn a_seed_is_preferred_to_a_member_whose_name_comes_first() {
    let store = trio("galera", DISCOVER);
    assert!(store.join(&a(), &member("10.0.0.4-3306", "10.0.0.4:3306"), "n1"));
    store.observe(&a(), &name("10.0.0.4-3306"), up());
    see(&store, [("n1", up()), ("n2", up()), ("n3", up())]);
    assert_eq!(store.load().cluster("a").unwrap().writer().map(|node| node.name.clone()), Some(name("n1")));
}

#[test]
fn the_writer_from_before_is_waited_for_until_members_were_looked_for() {
    let writer =
        |store: &TopologyStore| store.load().cluster("a").unwrap().writer().map(|node| node.name.to_string());
    let four = member("10.0.0.4-3306", "10.0.0.4:3306");
    let recalled = || {
        let store = trio("galera", DISCOVER);
        assert!(store.recall_writer(&a(), &four.name));
        see(&store, [("n1", up()), ("n2", up()), ("n3", up())]);
        assert_eq!(writer(&store), None, "it may be found yet");
        store
    };
    let store = recalled();
    store.surveyed(&a());
    assert_eq!(writer(&store).as_deref(), Some("n1"), "it was not found");
    let store = recalled();
    assert!(store.join(&a(), &four, "n1"));
    store.surveyed(&a());
    assert_eq!(writer(&store), None, "it was found, and not probed yet");
    store.observe(&a(), &four.name, up());
    assert_eq!(writer(&store).as_deref(), Some("10.0.0.4-3306"));
    assert!(!trio("galera", "").recall_writer(&a(), &four.name), "nobody is looked for");
}

#[test]
fn two_nodes_with_one_server_id_are_an_alarm() {
    let store = trio("replication", "");
    let numbered = |seen: Observed, id| seen.numbered(Some(id));
    see(
        &store,
        [("n1", numbered(up(), 1)), ("n2", numbered(read_only(), 2)), ("n3", numbered(read_only(), 2))],
    );
    let words = alarm(&store);
    assert!(words.contains("n2 and n3 have the same server_id 2"), "{words:?}");
    assert_eq!(store.load().cluster("a").unwrap().writer().unwrap().name.as_str(), "n1");
    // Beside another alarm it is told as well.
    store.observe(&a(), &name("n2"), numbered(up(), 2));
    let words = alarm(&store);
    assert!(words.contains("several nodes accept writes") && words.contains("server_id 2"), "{words:?}");
    see(
        &store,
        [("n1", numbered(up(), 1)), ("n2", numbered(read_only(), 2)), ("n3", numbered(read_only(), 3))],
    );
    assert_eq!(alarm(&store), "");
}
