//! The operations that change the writer of a cluster, and their answer: every step.

use std::time::Duration;

use super::answer::{Answer, ProcedureRow, Rows};
use super::operation::Verb;
use super::refusal::{Code, OperationError};
use super::{Control, Invocation};
use crate::handover::{Ending, Report, Step};

/// How long a caller waits. The procedure itself goes on.
const PATIENCE: Duration = Duration::from_mins(1);

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
        answer(report.ok_or_else(stopping)?, dry_run)
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
