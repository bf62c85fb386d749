//! `[cluster.NAME.unix_accounts.USER]`: which user of this machine logs in without a password, and with what Spillway
//! does.

use std::collections::BTreeMap;

use super::Secret;
use super::credential::{PASSWORD, Surroundings};
use super::monitor::{A_USER, is_user};
use super::reader::{Entry, Field};

/// The uid that Linux gives to every user for whom it has none, such as those of other containers.
const NOBODY: u32 = 65_534;

const A_TABLE: &str = "a table such as { backup = { uid = 1001, password_file = \"backup.password\" } }";
const A_UID: &str = "the number of one user of this machine, as `id -u USER` tells it";

/// A user of this machine that may log in to a cluster on a Unix socket without a password.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UnixAccount {
    /// Who must be on the other end of the socket.
    pub uid: u32,
    /// The account's password, by which Spillway logs in to the nodes, never empty.
    pub secret: Secret,
}

/// Reads the accounts by the names that they log in as. `None`: something is wrong with one, and reported.
pub(super) fn read_all<'a>(
    field: &Field<'a>,
    around: &Surroundings<'a>,
) -> Option<BTreeMap<String, UnixAccount>> {
    // All are read before one that is wrong counts.
    let read: Vec<_> = field.entries(A_TABLE)?.iter().map(|entry| read(entry, around)).collect();
    read.into_iter().collect()
}

fn read<'a>(entry: &Entry<'a>, around: &Surroundings<'a>) -> Option<(String, UnixAccount)> {
    let is_named = is_user(entry.key);
    if !is_named {
        around.report.wrong(&entry.place, "is not a user name", A_USER);
    }
    let section = entry.value.section()?;
    let uid = section.require("uid", A_UID).and_then(|field| {
        let uid = field.integer(0..=u32::MAX - 1)?;
        if uid == NOBODY {
            field.wrong("stands for every user whose number the system cannot tell", A_UID);
            return None;
        }
        Some(uid)
    });
    let secret = around.required_secret(&section, &PASSWORD);
    section.finish();
    let account = UnixAccount { uid: uid?, secret: secret? };
    is_named.then(|| (entry.key.to_owned(), account))
}
