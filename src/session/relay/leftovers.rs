//! What another session left on the link, and the commands of Spillway's own that put it right.

use bytes::BytesMut;

use super::{Awaited, HEADROOM, Relay};
use crate::backend::Link;
use crate::fault::{Blame, Fault};
use crate::session::state::Pending;
use crate::sql::{Effect, Judgement};
use crate::wire::Capabilities;
use crate::wire::command::{Command, Expect};
use crate::wire::reply::{End, Step};
use crate::wire::walk::Next;

/// Brings a link that served another session to the state after its login.
const RESET: &[u8] = &[1, 0, 0, 0, 0x1F];

/// What another session left on the link and this one must not see.
///
/// Both are put right by commands that go out together with one of the client's, so that nobody waits for them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Leftovers {
    /// The link is to be reset before the first command.
    session: bool,
    /// `FOUND_ROWS()`, which a reset leaves as it is: a plain `SELECT` of the session overwrites it, if it succeeds. Any
    /// other statement that could read or set it has it overwritten first.
    pub(super) found_rows: bool,
}

impl Leftovers {
    pub(super) fn of(link: &Link) -> Self {
        Self { session: link.is_used(), found_rows: link.is_used() }
    }

    /// Whether anything is left.
    pub(super) fn any(self) -> bool {
        self.session || self.found_rows
    }
}

impl Relay {
    /// Writes Spillway's own commands to the end of `room` that became due since the leftovers were `before`; returns
    /// their length.
    pub(super) fn put_own_commands(&self, before: Leftovers, room: &mut [u8]) -> usize {
        if before == self.leftovers {
            return 0;
        }
        let mut commands = BytesMut::with_capacity(HEADROOM);
        if before.session && !self.leftovers.session {
            commands.extend_from_slice(RESET);
        }
        if before.found_rows && !self.leftovers.found_rows {
            commands.extend_from_slice(self.overwrite_found_rows());
        }
        let start = room.len() - commands.len();
        room[start..].copy_from_slice(&commands);
        commands.len()
    }

    /// `SELECT 1`, which leaves 1.
    fn overwrite_found_rows(&self) -> &'static [u8] {
        if self.capabilities.contains(Capabilities::QUERY_ATTRIBUTES) {
            b"\x0B\0\0\0\x03\0\x01SELECT 1"
        } else {
            b"\x09\0\0\0\x03SELECT 1"
        }
    }

    /// The leftovers that may still be there when this command arrives, and whether its success overwrites them.
    pub(super) fn due_before(&self, command: Command, judgement: Option<&Judgement>) -> (Leftovers, bool) {
        let (keeps, overwrites) = match (command, judgement) {
            (Command::Query, Some(judgement)) => match judgement.effect {
                Effect::Set | Effect::Use(_) => (true, false),
                Effect::None => {
                    let select = judgement.selects();
                    (select || judgement.bounds_transaction(), select)
                }
                Effect::Cleared("SELECT") | Effect::Recalls("SELECT") => {
                    let reads = judgement.touches_found_rows();
                    (!reads, !reads)
                }
                _ => (false, false),
            },
            (Command::Query | Command::StmtPrepare | Command::Unknown(_), _) => (false, false),
            _ => (true, false),
        };
        let found_rows = self.leftovers.found_rows && keeps;
        (Leftovers { session: false, found_rows }, found_rows && overwrites)
    }

    /// Notes that what is no longer among the leftovers is put right by own commands.
    pub(super) fn send_own(&mut self, leftovers: Leftovers) {
        let before = std::mem::replace(&mut self.leftovers, leftovers);
        let own = |expect| Awaited { own: true, ..Awaited::new(expect, Pending::Nothing) };
        if before.session && !leftovers.session {
            self.awaited.push_back(own(Expect::Packet));
        }
        if before.found_rows && !leftovers.found_rows {
            self.awaited.push_back(own(Expect::Results));
        }
        self.begin_next();
    }

    /// Passes over replies to Spillway's own commands; returns where they end. Such replies always come first: an own
    /// command is sent when every other one is answered.
    pub(super) fn take_own_replies(&mut self, chunk: &[u8]) -> Result<usize, Fault> {
        let mut at = 0;
        while self.awaited.front().is_some_and(|first| first.own) {
            let head = match self.replies.next(chunk, at, |len, _| len) {
                Next::Stop(end) => return Ok(end),
                Next::Head(head) => head,
            };
            match self.tracker.packet(head.len, head.payload).map_err(Fault::bad_node)? {
                Step::More => {}
                Step::Done(End::Ok(_)) => {
                    self.awaited.pop_front();
                    self.begin_next();
                }
                Step::FileRequest | Step::Done(End::Error(_) | End::Prepared(_)) => {
                    let detail = "a link that served another session could not be reset";
                    return Err(Fault::killed("reset_failed", Blame::Server, detail));
                }
            }
            at = self.replies.pass(&head);
        }
        Ok(at)
    }
}
