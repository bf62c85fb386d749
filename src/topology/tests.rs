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
    Observed::Up { writable: true, readable: true, detail: "Synced".into() }
}

fn down() -> Observed {
    Observed::Down { reason: "wsrep_ready is OFF".into() }
}

fn writer(store: &TopologyStore) -> Option<String> {
    store.load().cluster("a").unwrap().writer().map(|n| n.name.to_string())
}

#[test]
fn the_writer_is_the_writable_node_of_highest_priority_then_first_by_name() {
    let store = store();
    assert_eq!(writer(&store), None, "nothing is used before it was probed");
    store.observe(&a(), &name("n2"), up());
    store.observe(&a(), &name("n1"), up());
    assert_eq!(writer(&store).as_deref(), Some("n1"));
    store.observe(&a(), &name("n3"), up());
    assert_eq!(writer(&store).as_deref(), Some("n3"));
    store.observe(&a(), &name("n3"), down());
    assert_eq!(writer(&store).as_deref(), Some("n1"));
    store.set_desired("a", "n1", Desired::Drain);
    assert_eq!(writer(&store).as_deref(), Some("n2"));
}

#[test]
fn a_read_only_node_is_a_reader() {
    let store = store();
    let reader = Observed::Up { writable: false, readable: true, detail: "read_only=ON".into() };
    store.observe(&a(), &name("n1"), reader);
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
