//! How the nodes of a cluster are given their roles.

use std::fmt;
use std::time::Duration;

use super::ClusterKind;
use super::problem::Report;
use super::reader::{Field, Section};

/// How roles are given (keys of `[cluster.NAME]`).
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct RoleRules {
    /// Whether the writer's role returns to the node of the highest priority once that has been up for a while (default
    /// no). Only where Spillway chooses the writer.
    pub failback: bool,
    /// Where writes go while several nodes accept them and only one should (default: to the last writer).
    pub split_brain: SplitBrain,
    /// The largest share of the nodes that is spared for strain, 0.0 to 1.0 (default 0.5); where more are strained, all of
    /// them serve.
    pub max_ejected: f64,
    /// How long the share of sessions of a node that came back grows to its full size (default 10 s; up to 1 h); `None`
    /// (`"0s"`): it has it at once.
    pub slow_start: Option<Duration>,
}

/// Where writes go while several nodes accept them and only one should.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum SplitBrain {
    /// To the one that was the writer before.
    #[default]
    Last,
    /// To none.
    None,
}

impl Default for RoleRules {
    fn default() -> Self {
        Self {
            failback: false,
            split_brain: SplitBrain::Last,
            max_ejected: 0.5,
            slow_start: Some(Duration::from_secs(10)),
        }
    }
}

impl RoleRules {
    /// Reads its keys of a cluster's section.
    pub(super) fn read(
        section: &Section<'_>,
        kind: Option<ClusterKind>,
        report: &Report<'_>,
    ) -> Option<Self> {
        let default = Self::default();
        let servers_decide = matches!(kind, Some(ClusterKind::Replication | ClusterKind::MultiPrimary));
        let failback = section.or("failback", default.failback, |field| {
            if servers_decide {
                report.warn(
                    &field.place,
                    "has no effect in a cluster of this kind, whose nodes say who may write",
                );
            }
            field.boolean()
        });
        let split_brain = section.or("split_brain", default.split_brain, |field: &Field<'_>| {
            if kind.is_some() && !servers_decide {
                report.warn(
                    &field.place,
                    "has no effect in a cluster of this kind, where several nodes may accept writes",
                );
            }
            field.word("policy", &[("last", SplitBrain::Last), ("none", SplitBrain::None)])
        });
        let max_ejected = section.or("max_ejected", default.max_ejected, |field| field.share(0.0..=1.0));
        let slow_start = section.or("slow_start", default.slow_start, |field| {
            field.duration_or_zero(Duration::from_millis(100)..=Duration::from_hours(1), "at once")
        });
        Some(Self {
            slow_start: slow_start?,
            failback: failback?,
            split_brain: split_brain?,
            max_ejected: max_ejected?,
        })
    }
}

impl fmt::Display for SplitBrain {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Last => "last",
            Self::None => "none",
        })
    }
}
