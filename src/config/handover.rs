//! How the writer of a cluster is changed.

use std::fmt;
use std::time::Duration;

use super::credential::{Given, PASSWORD, REPLICATION_PASSWORD, SecretKeys, Surroundings};
use super::monitor::user;
use super::reader::{Field, Section};
use super::{ClusterKind, Secret};

/// The fewest nodes of which a majority is left when the primary is lost.
const FEWEST_FOR_AUTO: usize = 3;

/// How the writer of a cluster is changed (`[cluster.NAME.handover]`).
#[derive(Clone, Debug, PartialEq)]
pub struct Handover {
    /// Who changes the nodes; `None`: the monitor's account.
    pub account: Option<Account>,
    /// As whom a node that becomes a replica logs in to its primary; needed for clusters of kind `replication`.
    pub replication: Option<Account>,
    /// What becomes of a cluster whose primary is lost (default: nothing).
    pub failover: Failover,
    /// How long the primary must be lost before another node is promoted by itself (default 5 s; 100 ms to 1 h).
    pub failover_after: Duration,
    /// How long the new writer may take to apply what the old one wrote (default 10 s; 100 ms to 1 h).
    pub catch_up_timeout: Duration,
    /// How long transactions that are open on the old writer may go on before it becomes read-only, while new ones wait for the
    /// new writer (default 2 s; 100 ms to 1 h). `None` (`"0s"`), or where nothing waits (`moves.hold`): they get no time.
    pub running_transactions_timeout: Option<Duration>,
    /// How long the old writer may take to become read-only, for which its running statements must end (default 5 s; 1 s to
    /// 1 h). Writes wait for so long.
    pub freeze_timeout: Duration,
}

/// A user and its password.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Account {
    /// The user's name.
    pub user: String,
    /// Its password, never empty.
    pub secret: Secret,
}

/// What becomes of a cluster whose primary is lost.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Failover {
    /// Nothing.
    #[default]
    Off,
    /// An operator may have another node promoted.
    Manual,
    /// Another node is promoted after a while.
    Auto,
}

impl fmt::Display for Failover {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Off => "off",
            Self::Manual => "manual",
            Self::Auto => "auto",
        })
    }
}

impl Default for Handover {
    fn default() -> Self {
        Self {
            account: None,
            replication: None,
            failover: Failover::Off,
            failover_after: Duration::from_secs(5),
            catch_up_timeout: Duration::from_secs(10),
            running_transactions_timeout: Some(Duration::from_secs(2)),
            freeze_timeout: Duration::from_secs(5),
        }
    }
}

impl Handover {
    /// Reads the section of a cluster with so many nodes, where that is known.
    pub(super) fn read<'a>(
        section: &Section<'a>,
        around: &Surroundings<'a>,
        kind: Option<ClusterKind>,
        nodes: Option<usize>,
    ) -> Option<Self> {
        const MS_100: Duration = Duration::from_millis(100);
        const HOUR: Duration = Duration::from_hours(1);
        let default = Self::default();
        let is_changed = matches!(kind, None | Some(ClusterKind::Replication | ClusterKind::MultiPrimary));
        if !is_changed {
            around.report.warn(&section.place, "has no effect in a cluster of this kind");
        }
        let admin = account(section, around, "user", &PASSWORD);
        let replication = account(section, around, "replication_user", &REPLICATION_PASSWORD);
        let failover = section.or("failover", default.failover, |field| failover(field, around, nodes));
        let failover_after =
            section.or("failover_after", default.failover_after, |field| field.duration(MS_100..=HOUR));
        let catch_up_timeout =
            section.or("catch_up_timeout", default.catch_up_timeout, |field| field.duration(MS_100..=HOUR));
        let running =
            section.or("running_transactions_timeout", default.running_transactions_timeout, |field| {
                field.duration_or_zero(MS_100..=HOUR, "no time")
            });
        let freeze_timeout = section.or("freeze_timeout", default.freeze_timeout, |field| {
            field.duration(Duration::from_secs(1)..=HOUR)
        });
        section.finish();
        let handover = Self {
            account: admin?,
            replication: replication?,
            failover: failover?,
            failover_after: failover_after?,
            catch_up_timeout: catch_up_timeout?,
            running_transactions_timeout: running?,
            freeze_timeout: freeze_timeout?,
        };
        let needs_replication = kind == Some(ClusterKind::Replication) && handover.failover != Failover::Off;
        if needs_replication && handover.replication.is_none() {
            let expected = "the user as whom replicas log in to a new primary".to_owned();
            around.report.conflict(&section.place_of("replication_user"), "missing", expected, None);
        }
        Some(handover)
    }
}

/// A user with its password, or neither.
#[expect(clippy::option_option, reason = "the outer one is a problem reported, as everywhere in this module")]
fn account<'a>(
    section: &Section<'a>,
    around: &Surroundings<'a>,
    key: &'static str,
    keys: &SecretKeys,
) -> Option<Option<Account>> {
    let name = section.get(key);
    match (name, around.secret(section, keys)) {
        (None, Given::Nothing) => Some(None),
        (Some(name), given) => {
            let user = user(&name, "the name of a database user");
            if let Given::Nothing = given {
                let message = "no password is given, and an empty one is not accepted";
                around.report.conflict(&name.place, message, keys.expected(), None);
            }
            Some(Some(Account { user: user?, secret: given.secret()? }))
        }
        (None, _) => {
            let expected = "the user whom the password belongs to".to_owned();
            around.report.conflict(&section.place_of(key), "missing", expected, None);
            None
        }
    }
}

fn failover(field: &Field<'_>, around: &Surroundings<'_>, nodes: Option<usize>) -> Option<Failover> {
    let words = [("off", Failover::Off), ("manual", Failover::Manual), ("auto", Failover::Auto)];
    let failover = field.word("way of failover", &words)?;
    if failover == Failover::Auto && nodes.is_some_and(|nodes| nodes < FEWEST_FOR_AUTO) {
        let message = "\"auto\" needs a majority of the nodes without the primary";
        let expected = format!("at least {FEWEST_FOR_AUTO} nodes, or \"manual\"");
        around.report.conflict(&field.place, message, expected, None);
        return None;
    }
    Some(failover)
}
