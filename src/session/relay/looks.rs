//! How much of a command must be there before it is looked at.

use super::passing::HEAD;
use super::{ClientSends, Follow, Relay, VISIBLE_EXECUTE, VISIBLE_STATEMENT};
use crate::wire::Capabilities;
use crate::wire::command::Command;

/// Bytes of a statement that are looked at where nothing depends on the rest.
const BEGINNING: usize = 512;

/// Longest name of a schema that is looked at.
const SCHEMA: usize = 1024;

/// A command's byte and the number behind it.
const NUMBERED: usize = 5;

/// What of the client's commands is looked at now.
#[derive(Debug, Clone, Copy)]
pub(super) struct Looks {
    /// Commands come, nothing else.
    commands: bool,
    /// At whole statements.
    whole: bool,
    /// At the beginning of every statement, however long.
    counts: bool,
}

impl Relay {
    pub(super) fn looks(&self) -> Looks {
        let counts = self.counts();
        Looks {
            commands: self.client_sends == ClientSends::Commands,
            whole: self.follow != Follow::None
                || self.capabilities.contains(Capabilities::LOCAL_FILES)
                || counts,
            counts,
        }
    }
}

impl Looks {
    /// Bytes of a message of that length with that first byte.
    pub(super) fn needs(self, len: usize, first: u8) -> usize {
        if !self.commands {
            return 1;
        }
        match Command::from_byte(first) {
            Command::Query | Command::StmtPrepare if self.whole && len <= VISIBLE_STATEMENT => len,
            Command::Query if self.counts || len <= VISIBLE_STATEMENT => len.min(BEGINNING),
            Command::Query => len.min(HEAD),
            Command::InitDb => len.min(SCHEMA),
            Command::StmtExecute if self.whole => len.min(VISIBLE_EXECUTE),
            Command::ProcessKill => len.min(NUMBERED),
            command if command.is_about_statement() => len.min(NUMBERED),
            _ => 1,
        }
    }
}
