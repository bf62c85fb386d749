//! Why a node serves what it serves: what is wanted, what was seen, and what follows from both.

use super::answer::{Answer, FactRow, Rows, moment, moment_with_millis};
use super::refusal::OperationError;
use super::{Control, Invocation};
use crate::topology::{Cluster, Node, Observed, Role};

impl Control {
    pub(super) fn explain_node(&self, wanted: &Invocation) -> Result<Answer, OperationError> {
        let given = |name| wanted.get(name).unwrap_or_default();
        let topology = self.topology.load();
        let cluster = Self::cluster(&topology, given("cluster"))?;
        let node = Self::node(cluster, given("node"))?;
        let mut facts = vec![
            fact("wish", "desired", node.desired.as_str()),
            fact("verdict", "observed", format!("{} ({})", node.observed.word(), node.reason())),
            fact("verdict", "since", moment(node.since)),
            fact("role", "role", cluster.role(node).as_str()),
            fact("role", "why", why(cluster, node)),
        ];
        if let Some(listed_by) = &node.discovered {
            facts.push(fact("role", "discovered", format!("listed by {listed_by}")));
        }
        if let Some(alarm) = &cluster.leadership.alarm {
            facts.push(fact("role", "alarm", alarm));
        }
        let links = self.gates.links(&cluster.name, &node.name);
        facts.push(fact("traffic", "sessions", node.load.sessions().to_string()));
        facts.push(fact("traffic", "links", format!("{}, {} of them idle", links.open, links.idle)));
        if let Some((at, evidence)) = node.suspicion.last() {
            facts.push(fact("traffic", "last trouble", format!("{evidence} at {}", moment_with_millis(at))));
        }
        if let Some(sighting) = node.sighting.load_full() {
            facts.push(fact("probe", "last answer", moment_with_millis(sighting.at)));
            facts.push(fact("probe", "took", format!("{:.1} ms", sighting.took.as_secs_f64() * 1000.0)));
            facts.extend(sighting.facts.iter().map(|(name, value)| fact("read", name, value)));
        }
        Ok(Answer::Rows(Rows::Facts(facts)))
    }
}

fn fact(about: &'static str, name: impl Into<String>, value: impl Into<String>) -> FactRow {
    FactRow { about, name: name.into(), value: value.into() }
}

/// The rule that gave the node its role.
fn why(cluster: &Cluster, node: &Node) -> String {
    let writer = cluster.writer().map(|writer| writer.name.to_string());
    match (cluster.role(node), &node.observed) {
        (Role::Writer, _) => "it accepts writes, and is the one that was agreed on".to_owned(),
        (Role::Reader, Observed::Up { writable: true, .. }) => match writer {
            Some(writer) => format!("it could write, and {writer} is the writer"),
            None => "it accepts writes, and was not agreed on as the writer".to_owned(),
        },
        (Role::Reader, _) => "it accepts no writes".to_owned(),
        (Role::None, _) => node.refusal(),
    }
}
