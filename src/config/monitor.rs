//! How the nodes of a cluster are probed.

use std::num::NonZeroU32;
use std::time::Duration;

use super::credential::{PASSWORD, Surroundings};
use super::reader::{Field, Section};
use super::{ClusterKind, Secret};

pub(super) const A_USER: &str = "1 to 128 characters on one line";

/// The longest user name of an account, in characters.
const MAX_USER: usize = 128;

/// The account and the rhythm of the probes of one cluster (`[cluster.NAME.monitor]`).
#[derive(Clone, Debug, PartialEq)]
pub struct Monitor {
    /// The user that probes nodes and reads their accounts.
    pub user: String,
    /// Its password, never empty.
    pub secret: Secret,
    /// From one probe of a node to the next (default 1 s; 50 ms to 1 h).
    pub interval: Duration,
    /// How long one probe may take (default 1 s; 10 ms to 10 min).
    pub timeout: Duration,
    /// The share of the interval by which it varies at random, 0.0 to 0.5 (default 0.1), lest all nodes are probed
    /// in step.
    pub jitter: f64,
    /// How many good probes in a row bring back a node that was down, 1 to 100 (default 1).
    pub rise: u32,
    /// How many probes in a row must stay without an answer until a node is down, 1 to 100 (default 2). They follow each
    /// other at once. A refused or broken connection counts at once.
    pub fall: u32,
    /// A replica that lags more serves no reads (up to 1 day); `None` (`"0s"`): lag is not looked at.
    pub max_lag: Option<Duration>,
    /// A table that somebody writes a heartbeat into, as pt-heartbeat does, in UTC: it tells the lag in place of the
    /// servers themselves.
    pub heartbeat_table: Option<String>,
    /// A node with more transactions in its receive or applier queue is strained; `None` (0): not looked at.
    pub max_receive_queue: Option<NonZeroU32>,
    /// A node that flow control stops for a larger share of the time is strained; `None` (0.0): not looked at.
    pub max_flow_control_paused: Option<f64>,
    /// Whether a Galera node that gives its data to another one, or is desynchronised, serves reads (default no).
    pub donor_reads: bool,
}

impl Monitor {
    pub(super) fn read(
        section: &Section<'_>,
        kind: Option<ClusterKind>,
        around: &Surroundings<'_>,
    ) -> Option<Self> {
        const MS_10: Duration = Duration::from_millis(10);
        const MS_50: Duration = Duration::from_millis(50);
        const SEC_1: Duration = Duration::from_secs(1);
        const MIN_10: Duration = Duration::from_mins(10);
        let expected = "the name of a database user";
        let user = section.require("user", expected).and_then(|field| user(&field, expected));
        let secret = around.required_secret(section, &PASSWORD);
        let interval = section.or("interval", SEC_1, |field| field.duration(MS_50..=Duration::from_hours(1)));
        let timeout = section.or("timeout", SEC_1, |field| field.duration(MS_10..=MIN_10));
        let jitter = section.or("jitter", 0.1, |field| field.share(0.0..=0.5));
        let rise = section.or("rise", 1, |field| field.integer(1..=100));
        let fall = section.or("fall", 2, |field| field.integer(1..=100));
        let max_lag = section.or("max_lag", None, |field| {
            let lag = field.duration_or_zero(MS_10..=Duration::from_hours(24), "not checked")?;
            if lag.is_some() && matches!(kind, Some(ClusterKind::Galera | ClusterKind::Static)) {
                around
                    .report
                    .warn(&field.place, "has no effect in a cluster of this kind, whose nodes report no lag");
            }
            Some(lag)
        });
        let heartbeat_table = section.or("heartbeat_table", None, |field| {
            let expected = "TABLE or SCHEMA.TABLE, of letters, digits, _ and $";
            field.parsed("the name of a table", expected, |text| {
                if is_table(text) { Ok(Some(text.to_owned())) } else { Err(()) }
            })
        });
        let max_receive_queue =
            section.or("max_receive_queue", None, |field| field.integer(0..=u32::MAX).map(NonZeroU32::new));
        let max_flow_control_paused = section.or("max_flow_control_paused", None, |field| {
            field.share(0.0..=1.0).map(|share| Some(share).filter(|share| *share > 0.0))
        });
        let donor_reads = section.or("donor_reads", false, Field::boolean);
        section.finish();
        Some(Self {
            user: user?,
            secret: secret?,
            interval: interval?,
            timeout: timeout?,
            jitter: jitter?,
            rise: rise?,
            fall: fall?,
            max_lag: max_lag?,
            heartbeat_table: heartbeat_table?,
            max_receive_queue: max_receive_queue?,
            max_flow_control_paused: max_flow_control_paused?,
            donor_reads: donor_reads?,
        })
    }
}

pub(super) fn user(field: &Field<'_>, expected: &str) -> Option<String> {
    let text = field.string(expected)?;
    if !is_user(text) {
        field.wrong("is not a user name", A_USER);
        return None;
    }
    Some(text.to_owned())
}

/// Whether `text` can be the name of a user: [`A_USER`] says what can.
pub(super) fn is_user(text: &str) -> bool {
    !text.is_empty() && text.chars().count() <= MAX_USER && !text.contains(char::is_control)
}

/// Whether `text` names a table without any quoting.
fn is_table(text: &str) -> bool {
    let is_name = |part: &str| {
        !part.is_empty() && part.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_' || b == b'$')
    };
    text.len() <= 129 && text.split('.').count() <= 2 && text.split('.').all(is_name)
}
