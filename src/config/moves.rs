//! How sessions leave the nodes that they are on.

use std::time::Duration;

use super::reader::Section;

const SECOND: Duration = Duration::from_secs(1);
const DAY: Duration = Duration::from_hours(24);

/// How sessions of a cluster leave the nodes that they are on, and wait while there is none for them
/// (`[cluster.NAME.moves]`).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Moves {
    /// How long a session waits while its cluster has no node for it (default 5 s; up to 10 min); `None` (`"0s"`): it is
    /// refused at once.
    pub hold: Option<Duration>,
    /// How many sessions may wait so, 0 to 1000000 (default 10000); one more is refused at once.
    pub max_held: u32,
    /// How long sessions may stay on a node in drain, or on one that is no longer the writer (up to 1 day); then they end.
    /// `None` (`"0s"`, default): for ever.
    pub drain_timeout: Option<Duration>,
    /// The same for a node in maintenance (default 5 s; up to 1 day). `None` (`"0s"`): those that cannot move end at once.
    pub maintenance_timeout: Option<Duration>,
}

impl Default for Moves {
    fn default() -> Self {
        Self {
            hold: Some(SECOND * 5),
            max_held: 10_000,
            drain_timeout: None,
            maintenance_timeout: Some(SECOND * 5),
        }
    }
}

pub(super) fn moves(section: &Section<'_>) -> Option<Moves> {
    let default = Moves::default();
    let short = Duration::from_millis(10);
    let hold = section.or("hold", default.hold, |field| {
        field.duration_or_zero(short..=Duration::from_mins(10), "refused at once")
    });
    let max_held = section.or("max_held", default.max_held, |field| field.integer(0..=1_000_000));
    let drain_timeout = section
        .or("drain_timeout", default.drain_timeout, |field| field.duration_or_zero(short..=DAY, "for ever"));
    let maintenance_timeout = section.or("maintenance_timeout", default.maintenance_timeout, |field| {
        field.duration_or_zero(short..=DAY, "at once")
    });
    section.finish();
    Some(Moves {
        hold: hold?,
        max_held: max_held?,
        drain_timeout: drain_timeout?,
        maintenance_timeout: maintenance_timeout?,
    })
}
