//! Whether an account that let a session in would still do so.

use std::fmt;

use super::account::Account;
use super::snapshot::Snapshot;

/// Why an account does not let anybody in any more who it let in before.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Revocation {
    /// There is no such row any more: the user was dropped or renamed, or has another host.
    Dropped,
    /// `ACCOUNT LOCK`.
    Locked,
    /// A password that it had is not there any more.
    OtherPassword,
}

impl fmt::Display for Revocation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Dropped => "was dropped or renamed",
            Self::Locked => "is locked",
            Self::OtherPassword => "has another password",
        })
    }
}

impl Snapshot {
    /// Whether an account of an earlier snapshot was revoked since. Which of its passwords somebody used is not known: any
    /// that is gone counts. More rights or fewer are no revocation: the node itself looks at those for every statement.
    pub fn revocation(&self, before: &Account) -> Option<Revocation> {
        let Some(now) = self.accounts().find(|now| now.user == before.user && now.host == before.host) else {
            return Some(Revocation::Dropped);
        };
        let kept = |way| now.authentication.contains(way);
        if now.locked {
            Some(Revocation::Locked)
        } else if !before.authentication.iter().all(kept) {
            Some(Revocation::OtherPassword)
        } else {
            None
        }
    }
}
