//! What was done, step by step, and what came of it.

use std::fmt;
use std::time::{Duration, Instant};

use tracing::{info, warn};

use crate::ids::ClusterName;

/// The steps that fail because another proxy is at it, or was.
pub(super) const FREE: &str = "no other handover runs";
pub(super) const AGREE: &str = "agree with other proxies";
pub(super) const AGAIN: &str = "look at the conditions again";

/// What came of one step.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// The condition holds, or the step was done and its result seen on the server.
    Done,
    /// It would be done.
    Planned,
    /// The condition does not hold, or the step failed.
    Failed,
}

/// One step: a condition that was looked at, or something that was changed.
#[derive(Clone, Debug)]
pub struct Step {
    /// What it is about.
    pub what: String,
    /// What came of it.
    pub outcome: Outcome,
    /// What was found, or why it failed.
    pub detail: String,
    /// How long it took.
    pub took: Duration,
}

/// How a handover ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Ending {
    /// Nothing was to be changed, and nothing speaks against the change.
    Planned,
    /// Nothing was changed, and why.
    Refused(String),
    /// All was done.
    Done,
    /// The writer is another one now, but something behind that failed.
    Incomplete(String),
    /// A step failed, and all is as it was.
    RolledBack(String),
    /// A step failed, and what was done before could not be taken back: a person must look.
    Stuck(String),
}

/// Every step, and the end.
#[derive(Clone, Debug)]
pub struct Report {
    /// In the order in which they were done.
    pub steps: Vec<Step>,
    /// How it ended.
    pub ending: Ending,
}

/// The steps so far; each leaves a line in the log.
#[derive(Debug)]
pub(super) struct Steps {
    cluster: ClusterName,
    list: Vec<Step>,
}

impl Outcome {
    /// One word for tables.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Done => "ok",
            Self::Planned => "planned",
            Self::Failed => "failed",
        }
    }
}

impl fmt::Display for Ending {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())?;
        self.reason().map_or(Ok(()), |reason| write!(f, ": {reason}"))
    }
}

impl Ending {
    /// One word for the log.
    pub fn as_str(&self) -> &'static str {
        match self {
            Self::Planned => "planned",
            Self::Refused(_) => "refused",
            Self::Done => "done",
            Self::Incomplete(_) => "incomplete",
            Self::RolledBack(_) => "rolled back",
            Self::Stuck(_) => "stuck",
        }
    }

    /// Why it did not end as it was meant to.
    pub fn reason(&self) -> Option<&str> {
        match self {
            Self::Planned | Self::Done => None,
            Self::Refused(reason)
            | Self::Incomplete(reason)
            | Self::RolledBack(reason)
            | Self::Stuck(reason) => Some(reason),
        }
    }
}

impl Report {
    /// Whether it was refused because another proxy is at it, or was.
    pub(super) fn is_contended(&self) -> bool {
        let first = self.steps.iter().find(|step| step.outcome == Outcome::Failed);
        matches!(self.ending, Ending::Refused(_))
            && first.is_some_and(|step| [FREE, AGREE, AGAIN].contains(&step.what.as_str()))
    }
}

impl Steps {
    pub(super) fn new(cluster: &ClusterName) -> Self {
        Self { cluster: cluster.clone(), list: Vec::new() }
    }

    /// Notes a step that began at `start`.
    pub(super) fn note(&mut self, what: impl Into<String>, start: Instant, result: Result<String, String>) {
        let (outcome, detail) = match result {
            Ok(detail) => (Outcome::Done, detail),
            Err(reason) => (Outcome::Failed, reason),
        };
        let step = Step { what: what.into(), outcome, detail, took: start.elapsed() };
        let (cluster, what) = (&self.cluster, &step.what);
        if outcome == Outcome::Failed {
            warn!(%cluster, step = what, reason = step.detail, "handover: step failed");
        } else {
            info!(%cluster, step = what, detail = step.detail, took_ms = step.took.as_millis(), "handover: step");
        }
        self.list.push(step);
    }

    /// Notes what would be done.
    pub(super) fn plan(&mut self, what: impl Into<String>) {
        let (detail, took) = (String::new(), Duration::ZERO);
        self.list.push(Step { what: what.into(), outcome: Outcome::Planned, detail, took });
    }

    pub(super) fn end(self, ending: Ending) -> Report {
        Report { steps: self.list, ending }
    }
}
