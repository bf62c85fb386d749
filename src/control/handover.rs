//! The operations that change the writer of a cluster, and their answer: every step.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;
use std::time::{Duration, Instant};

use arc_swap::ArcSwap;
use tokio::time::sleep;
use tracing::info;

use super::answer::{Answer, ProcedureRow, Rows};
use super::operation::Verb;
use super::refusal::{Code, OperationError};
use super::{Control, Invocation};
use crate::config::Config;
use crate::handover::{Ending, Outcome, Report, Sessions, Step};
use crate::ids::{ClusterName, NodeName};
use crate::session::registry::{Entry, Registry};
use crate::session::settle::settle;
use crate::topology::TopologyStore;

/// How long a caller waits. The procedure itself goes on.
const PATIENCE: Duration = Duration::from_mins(1);

/// How long it is waited until sessions have left the old writer; those that may not leave are not waited for.
const MOVES: Duration = Duration::from_secs(3);

/// From one look at sessions to the next.
const GLANCE: Duration = Duration::from_millis(20);

impl Control {
    pub(super) async fn hand_over(&self, wanted: &Invocation) -> Result<Answer, OperationError> {
        let cluster = wanted.get("cluster").unwrap_or_default();
        let node = wanted.get("node");
        let topology = self.topology.load();
        let known = Self::cluster(&topology, cluster)?;
        if let Some(name) = node.filter(|name| known.node(name).is_none()) {
            return Err(super::change::no_node(cluster, name));
        }
        let dry_run = wanted.get("dry_run").is_some();
        let old = known.leadership.agreed.clone();
        let old = old.map(|node| Departure::new(&self.registry, known.name.clone(), node));
        let procedure = async {
            if wanted.operation().verb == Verb::Failover {
                self.handover.failover(cluster, node, dry_run).await
            } else {
                self.handover.switch(cluster, node, dry_run).await
            }
        };
        let report = tokio::time::timeout(PATIENCE, procedure).await.map_err(|_| {
            let seconds = PATIENCE.as_secs();
            let message = format!("it takes longer than {seconds} seconds; the log will tell how it ends");
            OperationError::new(Code::Unavailable, message)
        })?;
        let stopping = || OperationError::new(Code::Unavailable, "Spillway is stopping; the log tells more");
        let mut report = report.ok_or_else(stopping)?;
        if let (Ending::Done | Ending::Incomplete(_), Some(old)) = (&report.ending, old) {
            // Whoever changed the topology does this, too, in a moment.
            settle(&self.registry, &self.topology.load(), &self.config.load());
            report.steps.push(old.ended(&self.registry).await);
        }
        answer(report, dry_run)
    }
}

/// What sessions run, for a change of the writer that waits for it.
#[derive(Debug)]
pub struct RunningSessions {
    /// All sessions.
    pub registry: Arc<Registry>,
    /// Where they could be.
    pub topology: Arc<TopologyStore>,
    /// What is configured.
    pub config: Arc<ArcSwap<Config>>,
}

impl Sessions for RunningSessions {
    fn running(&self, cluster: &ClusterName, node: &NodeName) -> usize {
        settle(&self.registry, &self.topology.load(), &self.config.load());
        let sessions = self.registry.list();
        sessions.iter().filter(|entry| is_at(entry, cluster, node) && entry.runs()).count()
    }
}

fn is_at(entry: &Entry, cluster: &ClusterName, node: &NodeName) -> bool {
    let place = entry.place();
    place.cluster.as_ref() == Some(cluster) && place.node.as_ref() == Some(node)
}

/// The sessions on the writer that is to be replaced.
struct Departure {
    cluster: ClusterName,
    node: NodeName,
    sessions: Vec<Arc<Entry>>,
}

/// Where they are now.
#[derive(Debug, Default, PartialEq, Eq)]
struct Whereabouts {
    /// On another node.
    moved: usize,
    /// Their clients have gone, or they could not go on.
    ended: usize,
    /// Still there although they are to leave, by the reason.
    stay: BTreeMap<String, usize>,
    /// How many of those may leave any moment.
    leaving: usize,
}

impl Departure {
    fn new(registry: &Registry, cluster: ClusterName, node: NodeName) -> Self {
        let mut departure = Self { cluster, node, sessions: registry.list() };
        let all = std::mem::take(&mut departure.sessions);
        departure.sessions = all.into_iter().filter(|entry| departure.is_there(entry)).collect();
        departure
    }

    fn is_there(&self, entry: &Entry) -> bool {
        is_at(entry, &self.cluster, &self.node)
    }

    fn look(&self, registry: &Registry) -> Whereabouts {
        let mut now = Whereabouts::default();
        for entry in &self.sessions {
            if registry.get(entry.id).is_none() {
                now.ended += 1;
            } else if !self.is_there(entry) {
                now.moved += 1;
            } else if entry.wish_now().is_some() {
                // Those that need no writer may stay, and are not counted.
                let pin = entry.pin();
                now.leaving += usize::from(pin.is_none());
                let reason = pin.map_or_else(|| "a statement runs".to_owned(), |pin| pin.to_string());
                *now.stay.entry(reason).or_default() += 1;
            }
        }
        now
    }

    /// Waits until all have left that can.
    async fn ended(&self, registry: &Registry) -> Step {
        let start = Instant::now();
        let mut now = self.look(registry);
        while now.leaving > 0 && start.elapsed() < MOVES {
            sleep(GLANCE).await;
            now = self.look(registry);
        }
        let (what, detail) = (format!("sessions leave {}", self.node), now.to_string());
        info!(cluster = %self.cluster, step = what, detail, "handover: step");
        Step { what, outcome: Outcome::Done, detail, took: start.elapsed() }
    }
}

impl fmt::Display for Whereabouts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} moved", self.moved)?;
        if self.ended > 0 {
            write!(f, ", {} ended", self.ended)?;
        }
        for (reason, count) in &self.stay {
            write!(f, ", {count} {}: {reason}", if *count == 1 { "stays" } else { "stay" })?;
        }
        Ok(())
    }
}

/// Every step as a row if the writer was changed, or was not to be; otherwise an error with every step as a line.
fn answer(report: Report, dry_run: bool) -> Result<Answer, OperationError> {
    let (code, message) = match report.ending {
        Ending::Refused(_) if dry_run && !report.steps.is_empty() => return Ok(rows(&report.steps)),
        Ending::Planned | Ending::Done | Ending::Incomplete(_) => return Ok(rows(&report.steps)),
        Ending::Refused(reason) => (Code::Conflict, format!("nothing was changed: {reason}")),
        Ending::RolledBack(reason) => (Code::Unavailable, format!("taken back, all is as it was: {reason}")),
        Ending::Stuck(reason) => (Code::Conflict, format!("a person must look at the nodes: {reason}")),
    };
    let line = |step: &Step| {
        let (outcome, took) = (step.outcome.as_str(), step.took.as_millis());
        format!("{outcome}: {} ({took} ms) {}", step.what, step.detail).trim_end().to_owned()
    };
    Err(OperationError::new(code, message).with_details(report.steps.iter().map(line).collect()))
}

fn rows(steps: &[Step]) -> Answer {
    let row = |step: &Step| ProcedureRow {
        step: step.what.clone(),
        outcome: step.outcome.as_str(),
        took_ms: u64::try_from(step.took.as_millis()).unwrap_or(u64::MAX),
        detail: step.detail.clone(),
    };
    Answer::Rows(Rows::Procedure(steps.iter().map(row).collect()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ids::ClientAddr;
    use crate::session::registry::{Leave, Registered};
    use crate::session::state::Pin;

    const SHOP: &str = "shop";

    fn session(registry: &Arc<Registry>, node: &str, pin: Option<Pin>) -> Registered {
        let session = registry.register(ClientAddr::Unix { uid: None }, "app".parse().expect("a name"));
        move_to(&session, node);
        session.entry.set_pin(pin);
        session
    }

    fn move_to(session: &Registered, node: &str) {
        session.entry.set_place(|place| {
            place.cluster = Some(SHOP.parse().expect("a name"));
            place.node = Some(node.parse().expect("a name"));
        });
    }

    #[test]
    fn transactions_and_statements_run_and_whoever_waits_does_not() {
        let registry = Arc::new(Registry::default());
        let config = Config::parse(
            "[cluster.shop]\nkind = \"multi-primary\"\nmonitor = { user = \"m\", password = \"p\" }\n\
             nodes = { db1 = \"127.0.0.1:1001\", db2 = \"127.0.0.1:1002\" }\n\
             [service.app]\nlisten = [\"127.0.0.1:4000\"]\nroute = \"cluster:shop\"\n",
            std::path::Path::new("t.toml"),
            &|_| None,
        );
        let config = config.expect("valid");
        let running = RunningSessions {
            registry: Arc::clone(&registry),
            topology: Arc::new(TopologyStore::new(crate::topology::Topology::new(&config))),
            config: Arc::new(ArcSwap::from_pointee(config)),
        };
        let count = || running.running(&SHOP.parse().expect("a name"), &"db1".parse().expect("a name"));
        let _elsewhere = session(&registry, "db2", None);
        let here = session(&registry, "db1", None);
        assert_eq!(count(), 1, "a statement");
        here.entry.set_held(true);
        assert_eq!(count(), 0, "it waits for a node");
        here.entry.set_held(false);
        here.entry.set_waits(true);
        assert_eq!(count(), 0, "its client thinks");
        here.entry.set_in_transaction(true);
        assert_eq!(count(), 1, "a transaction");
        assert!(here.entry.wish_now().is_none());
        running.topology.quiesce(&SHOP.parse().expect("a name"), true);
        assert_eq!(count(), 1);
        assert!(here.entry.wish_now().is_some(), "it is told to begin nothing more");
    }

    #[tokio::test(start_paused = true)]
    async fn sessions_that_left_and_those_that_stay_are_counted() {
        let registry = Arc::new(Registry::default());
        let leaves = session(&registry, "db1", None);
        let pinned = session(&registry, "db1", Some(Pin::Transaction));
        let goes = session(&registry, "db1", None);
        let _reader = session(&registry, "db1", None);
        let _elsewhere = session(&registry, "db2", None);
        let name = |text: &str| text.parse().expect("a name");
        let departure = Departure::new(&registry, name(SHOP), "db1".parse().expect("a name"));
        for session in [&leaves, &pinned, &goes] {
            session.entry.wish(Some(Leave {
                from: (name(SHOP), "db1".parse().expect("a name")),
                reason: "no longer the writer".to_owned(),
                deadline: None,
                at_once: false,
            }));
        }
        let before = departure.look(&registry);
        assert_eq!((before.moved, before.ended, before.leaving), (0, 0, 2), "{before}");
        move_to(&leaves, "db2");
        drop(goes);
        let step = departure.ended(&registry).await;
        assert_eq!(step.what, "sessions leave db1");
        assert_eq!(step.detail, "1 moved, 1 ended, 1 stays: a transaction is open");
    }
}
