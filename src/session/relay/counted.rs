//! Counting the statements of a session whose account may run only so many in an hour.
//!
//! The servers count a text command after it was parsed: each of its statements, and neither those that the parser refuses nor
//! executions of prepared statements. Here they are counted before they go out, so that no more go out than may; one of which
//! the reply says that the server may not have counted it is given back.

use std::time::Instant;

use super::Relay;
use crate::fault::Fault;
use crate::grants::Vendor;
use crate::session::account_limits::Allowance;
use crate::sql::{self, Statements};
use crate::wire::command::Command;
use crate::wire::reply::{End, Step};
use crate::wire::walk::Head;

/// Errors that come when a statement has been parsed, on both products: it was counted. Others may be the parser's.
const COUNTED_ERRORS: &[u16] = &[
    1007, 1008, 1044, 1045, 1048, 1049, 1050, 1051, 1054, 1060, 1061, 1062, 1091, 1094, 1095, 1110, 1111,
    1136, 1142, 1143, 1146, 1205, 1213, 1216, 1217, 1226, 1227, 1242, 1243, 1264, 1290, 1305, 1317, 1364,
    1370, 1396, 1406, 1451, 1452, 1690, 1698, 1792, 1836, 1969, 3024,
];

/// What the session may do, and what the command counts for that goes out next.
#[derive(Debug)]
pub(super) struct Counter {
    allowance: Allowance,
    next: Option<Counted>,
}

/// What a command counts for.
#[derive(Debug, Clone, Copy)]
pub(super) enum Counted {
    /// A text; the statement whose result is due.
    Text { statements: Statements, at: u8 },
    /// `COM_RESET_CONNECTION` on `MariaDB`, which counts nothing of a session any more that was reset.
    Reset,
}

impl Relay {
    /// Counts the client's statements from now on, or does not.
    pub fn count(&mut self, allowance: Option<Allowance>) {
        self.counter = allowance.map(|allowance| Box::new(Counter { allowance, next: None }));
    }

    /// Whether statements are counted.
    pub(super) fn counts(&self) -> bool {
        self.counter.is_some()
    }

    /// Whether a command is one too many, so that it goes nowhere.
    pub(super) fn exceeds(&mut self, command: Command, text: &[u8], whole: bool) -> bool {
        if !self.counts() {
            return false;
        }
        let backslash = self.backslash();
        let Some(counter) = &mut self.counter else { return false };
        counter.next = match command {
            Command::Query => {
                let statements = sql::statements(text, whole && !self.state.obscures(text), backslash);
                if let Err(over) = counter.allowance.take(statements.is_update(0), Instant::now()) {
                    let fault: Fault = counter.allowance.fault(over);
                    self.barred = Some(Box::new(fault));
                    return true;
                }
                Some(Counted::Text { statements, at: 0 })
            }
            Command::ResetConnection if counter.allowance.vendor() == Vendor::MariaDb => Some(Counted::Reset),
            _ => None,
        };
        false
    }

    /// What the command counts for that goes out now.
    pub(super) fn counted(&mut self) -> Option<Counted> {
        self.counter.as_mut().and_then(|counter| counter.next.take())
    }

    /// A packet of the reply to the first command under way.
    pub(super) fn note_counted(&mut self, step: Step, head: &Head<'_>) {
        let Some(counter) = &self.counter else { return };
        let Some(counted) = self.awaited.front_mut().and_then(|first| first.counted.as_mut()) else { return };
        match (counted, step) {
            (Counted::Text { statements, at }, Step::More)
                // A report of progress ends no result.
                if self.tracker.awaits_result() && head.payload.first() != Some(&0xFF) =>
            {
                *at = at.saturating_add(1);
                if *at < statements.known {
                    // It is under way: the limit is for the next command.
                    let _ = counter.allowance.take(statements.is_update(*at), Instant::now());
                }
            }
            (Counted::Text { statements, at }, Step::Done(End::Error(code)))
                if *at < statements.known && !COUNTED_ERRORS.contains(&code) =>
            {
                counter.allowance.give_back(statements.is_update(*at));
            }
            (Counted::Reset, Step::Done(End::Ok(_))) => self.counter = None,
            _ => {}
        }
    }

    /// A command that is sent again is counted when it is.
    pub(super) fn uncount_in_flight(&mut self) {
        if let (Some(counter), Some(_)) = (&self.counter, &self.in_flight) {
            for awaited in &self.awaited {
                if let Some(Counted::Text { statements, .. }) = awaited.counted {
                    counter.allowance.give_back(statements.is_update(0));
                }
            }
        }
    }
}
