//! Which sessions are to leave their nodes, by what the topology says now. Called by the control side after every change.

use std::time::{self, Duration};

use tokio::time::Instant;

use super::registry::{Ending, Entry, Leave, Place, Registry};
use crate::config::{Config, NodeChoice};
use crate::topology::{Cluster, Desired, Node, Topology};

/// Tells every session whether it is to leave its node. Returns how many were ended or have to leave at once.
pub fn settle(registry: &Registry, topology: &Topology, config: &Config) -> usize {
    registry.list().iter().filter(|entry| tell(entry, topology, config)).count()
}

/// Tells one session. Whether it was ended or has to leave at once.
pub(super) fn tell(entry: &Entry, topology: &Topology, config: &Config) -> bool {
    entry.watch(is_watched(entry, topology));
    match judge(entry, topology, config) {
        Judgement::Stays => {
            entry.wish(None);
            false
        }
        Judgement::Leaves(wish) => {
            let at_once = wish.at_once;
            entry.wish(Some(wish));
            // There may be a node for it now where there was none before.
            entry.remind();
            at_once
        }
        Judgement::Ends(why) => {
            entry.end(why);
            true
        }
    }
}

/// Whether the session's node did not answer not long ago, so that the session's link may be dead without a word.
fn is_watched(entry: &Entry, topology: &Topology) -> bool {
    let Place { cluster: Some(cluster), node: Some(name), .. } = entry.place() else { return false };
    let node = topology.cluster(cluster.as_str()).and_then(|cluster| cluster.node(name.as_str()));
    node.is_some_and(|node| node.suspicion.watched_until(time::Instant::now()).is_some())
}

#[derive(Debug, PartialEq)]
enum Judgement {
    Stays,
    Leaves(Leave),
    Ends(Ending),
}

fn judge(entry: &Entry, topology: &Topology, config: &Config) -> Judgement {
    let Place { cluster: Some(cluster), node: Some(name), .. } = entry.place() else {
        return Judgement::Stays;
    };
    let Some((found, configured)) = topology.cluster(cluster.as_str()).zip(config.clusters.get(&cluster))
    else {
        return Judgement::Ends(Ending::Unconfigured(format!("cluster {cluster} is no longer configured")));
    };
    let leave = |reason: &str, timeout: Option<Duration>, at_once| {
        Judgement::Leaves(Leave {
            from: (cluster.clone(), name.clone()),
            reason: format!("node {name} of cluster {cluster}: {reason}"),
            deadline: timeout.map(|timeout| Instant::now() + timeout),
            at_once,
        })
    };
    let Some(node) = found.node(name.as_str()) else { return leave("no longer configured", None, true) };
    let moves = &configured.moves;
    if let Some(reason) = node.lost() {
        return leave(reason, None, true);
    }
    match node.desired {
        Desired::Maintenance => {
            leave("maintenance", moves.maintenance_timeout.or(Some(Duration::ZERO)), false)
        }
        Desired::Drain => leave("drain", moves.drain_timeout, false),
        Desired::Enabled => match config.services.get(&entry.service).map(|service| service.node) {
            // It waits for the next writer before it begins anything else.
            Some(NodeChoice::Writer) if found.is_quiesced() => {
                leave("its cluster gets another writer", None, false)
            }
            Some(choice) if is_misplaced(found, node, choice) => {
                leave(misplaced(choice), moves.drain_timeout, false)
            }
            _ => Judgement::Stays,
        },
    }
}

/// Whether a session is on a node that new ones like it would not come to, while there is one for them.
fn is_misplaced(cluster: &Cluster, node: &Node, choice: NodeChoice) -> bool {
    match choice {
        NodeChoice::Writer => cluster.writer().is_some_and(|writer| writer.name != node.name),
        NodeChoice::Any => !node.readable() && cluster.choose(choice).is_ok(),
    }
}

fn misplaced(choice: NodeChoice) -> &'static str {
    match choice {
        NodeChoice::Writer => "no longer the writer",
        NodeChoice::Any => "no longer fit for reads",
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;
    use std::sync::Arc;

    use super::*;
    use crate::ids::ClientAddr;
    use crate::topology::Observed;

    const CONFIG: &str = r#"
        [cluster.shop]
        kind = "galera"
        nodes = { db1 = "127.0.0.1:1001", db2 = "127.0.0.1:1002" }
        monitor = { user = "m", password = "p" }
        [service.app]
        listen = ["127.0.0.1:4000"]
        route = "cluster:shop"
        "#;

    /// What becomes of a session on `db1`, the only node that was probed, which is `changed`.
    fn of_a_session(changed: impl FnOnce(&mut Node)) -> Judgement {
        let config = Config::parse(CONFIG, Path::new("t.toml"), &|_| None).expect("valid");
        let mut topology = Topology::new(&config);
        let cluster = topology.clusters.values_mut().next().expect("a cluster");
        let node = &mut Arc::make_mut(cluster).nodes[0];
        node.observed = Observed::up(true, true, "Synced, Primary");
        changed(node);
        let service = "app".parse().expect("name");
        let session = Arc::new(Registry::default()).register(ClientAddr::Unix { uid: None }, service);
        session.entry.set_place(|place| {
            place.cluster = Some("shop".parse().expect("name"));
            place.node = Some("db1".parse().expect("name"));
        });
        judge(&session.entry, &topology, &config)
    }

    #[test]
    fn a_node_that_serves_nobody_is_left_at_once() {
        assert_eq!(of_a_session(|_| {}), Judgement::Stays);
        let lost: [fn(&mut Node); 2] = [
            |node| node.observed = Observed::down("gone"),
            // Whatever is written there is another cluster's, though no other node takes it.
            |node| node.stranger = Some("member of another cluster".to_owned()),
        ];
        for changed in lost {
            let judged = of_a_session(changed);
            assert!(matches!(&judged, Judgement::Leaves(wish) if wish.at_once), "{judged:?}");
        }
    }

    #[test]
    fn what_operators_want_gives_time() {
        let maintained = of_a_session(|node| node.desired = Desired::Maintenance);
        assert!(
            matches!(&maintained, Judgement::Leaves(w) if !w.at_once && w.deadline.is_some()),
            "{maintained:?}"
        );
        let drained = of_a_session(|node| node.desired = Desired::Drain);
        assert!(
            matches!(&drained, Judgement::Leaves(w) if !w.at_once && w.deadline.is_none()),
            "{drained:?}"
        );
    }
}
