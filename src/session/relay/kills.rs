//! Commands that kill a session of this Spillway, by the number that its greeting told.

use super::{Around, Relay};
use crate::session::state::query_text;
use crate::sql;
use crate::wire::command::Command;

impl Relay {
    /// Whether a command kills one: the nodes know other numbers.
    pub(super) fn kills_session(
        &self,
        command: Command,
        body: &[u8],
        whole: bool,
        around: &Around<'_>,
    ) -> bool {
        let number = match command {
            Command::Query if whole => {
                query_text(body, self.capabilities).and_then(sql::kill).map(|kill| kill.number)
            }
            Command::ProcessKill => body.first_chunk().map(|number| u32::from_le_bytes(*number)),
            _ => None,
        };
        number.is_some_and(|number| around.elsewhere.is_session(number))
    }
}
