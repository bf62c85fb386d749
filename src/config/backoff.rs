//! How logins are held back after others that failed.

use std::fmt;
use std::time::Duration;

use super::reader::{Section, human};

/// How logins are held back after others that failed (`[runtime.backoff]`).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Backoff {
    /// Failed logins from one address (IPv6: one /64 network) before it is held back (default 50); 0: never.
    pub per_address: u32,
    /// Failed logins as one user of a cluster before that is held back (default 20); 0: never.
    pub per_account: u32,
    /// How long the first time (default 1 s; 10 ms to 1 h). Doubles with every further failure.
    pub first: Duration,
    /// How long at most (default 1 min; 10 ms to 1 day).
    pub longest: Duration,
}

impl Default for Backoff {
    fn default() -> Self {
        let (first, longest) = (Duration::from_secs(1), Duration::from_mins(1));
        Self { per_address: 50, per_account: 20, first, longest }
    }
}

impl fmt::Display for Backoff {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { per_address, per_account, first, longest } = self;
        let (first, longest) = (human(*first), human(*longest));
        write!(f, "after {per_address} of an address or {per_account} of an account, {first} to {longest}")
    }
}

impl Backoff {
    pub(super) fn read(section: &Section<'_>) -> Option<Self> {
        const MS_10: Duration = Duration::from_millis(10);
        let default = Self::default();
        let per_address = section.or("per_address", default.per_address, |f| f.integer(0..=1_000_000));
        let per_account = section.or("per_account", default.per_account, |f| f.integer(0..=1_000_000));
        let first = section.or("first", default.first, |f| f.duration(MS_10..=Duration::from_hours(1)));
        let longest =
            section.or("longest", default.longest, |f| f.duration(MS_10..=Duration::from_hours(24)));
        section.finish();
        Some(Self { per_address: per_address?, per_account: per_account?, first: first?, longest: longest? })
    }
}
