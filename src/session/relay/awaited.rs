//! What is known of a command while its reply is on its way.

use super::counted::Counted;
use crate::session::state::Pending;
use crate::wire::command::Expect;

/// A command whose reply has not ended.
#[derive(Debug)]
pub(super) struct Awaited {
    pub(super) expect: Expect,
    pub(super) pending: Pending,
    /// Spillway sent it on its own account: the client does not see the reply.
    pub(super) own: bool,
    /// Its success overwrites what another session left in `FOUND_ROWS()`.
    pub(super) overwrites: bool,
    /// The node may answer it by asking the client for a file.
    pub(super) loads_file: bool,
    /// What it counts for, where that is limited.
    pub(super) counted: Option<Counted>,
}

impl Awaited {
    pub(super) fn new(expect: Expect, pending: Pending) -> Self {
        Self { expect, pending, own: false, overwrites: false, loads_file: false, counted: None }
    }
}
