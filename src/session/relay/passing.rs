//! Statements that are too long to be seen as a whole: they are judged while they pass through, and not kept.
//!
//! What has to be known before the first byte goes out is then assumed to be the worst, or not done: such a statement is not sent
//! again to another node, and it does not take its session to another cluster.

use super::Relay;
use super::moving::forgotten;
use crate::fault::Fault;
use crate::session::prepared::MAX_TEXTS;
use crate::session::state::query_text;
use crate::sql::{self, Backslash, Effect, Judge, Judgement};
use crate::wire::command::Command;
use crate::wire::walk::Head;

/// Bytes of such a command that must be visible: those before its text.
pub(super) const HEAD: usize = 3;

/// Why nobody knows what a statement does whose letters cannot be told from backslashes.
const OBSCURE: Effect =
    Effect::Unknown("a statement in a character set of letters that end like a backslash");

/// A statement of which the client has not sent everything.
#[derive(Debug)]
pub(super) struct Passing {
    command: Command,
    /// Bytes before the text that are still to come.
    before: usize,
    judge: Judge,
    /// Its letters cannot be told from backslashes.
    obscure: bool,
    /// The text so far, where it is to be kept.
    text: Option<Vec<u8>>,
}

impl Relay {
    /// What a statement does; none: that is known only when all of it has passed through.
    pub(super) fn judge(&self, command: Command, body: &[u8], whole: bool) -> Option<Judgement> {
        let text = if command == Command::Query { query_text(body, self.capabilities) } else { Some(body) };
        match text {
            None => Some(Judgement::of(Effect::Unknown("a statement with query attributes"))),
            Some(_) if !whole => None,
            Some(text) if self.state.obscures(text) => Some(Judgement::of(OBSCURE)),
            Some(text) => Some(sql::judge(text, self.backslash())),
        }
    }

    /// What a backslash means in the statement that comes now: what is under way may change that.
    pub(super) fn backslash(&self) -> Backslash {
        let told = self.awaited.iter().all(|awaited| awaited.own);
        if told { self.state.backslash() } else { Backslash::Unknown }
    }

    /// Begins to judge a statement that is not there as a whole.
    pub(super) fn let_pass(&mut self, command: Command, head: &Head<'_>) {
        let body = &head.payload[1..];
        let text = if command == Command::Query { query_text(body, self.capabilities) } else { Some(body) };
        let before = head.payload.len() - text.unwrap_or_default().len();
        // What was prepared may have to be prepared again on another link.
        let kept = command == Command::StmtPrepare && head.len <= MAX_TEXTS;
        self.passing = Some(Box::new(Passing {
            command,
            before,
            judge: Judge::new(self.backslash()),
            obscure: false,
            text: kept.then(|| Vec::with_capacity(head.len)),
        }));
    }

    /// Judges what stands at `at` of the statement that passes through, if there is one; returns where that ends.
    pub(super) fn judge_passing(&mut self, chunk: &[u8], mut at: usize) -> Result<usize, Fault> {
        while let Some(passing) = &mut self.passing {
            let piece = self.commands.payload(chunk, at);
            at = piece.end;
            let (_, text) = piece.bytes.split_at(passing.before.min(piece.bytes.len()));
            passing.before -= piece.bytes.len() - text.len();
            passing.obscure |= self.state.obscures(text);
            passing.judge.read(text, piece.last);
            if let Some(kept) = &mut passing.text {
                kept.extend_from_slice(text);
            }
            if piece.last {
                self.has_passed()?;
            } else if piece.bytes.is_empty() {
                break;
            }
        }
        Ok(at)
    }

    /// All of the statement was judged; its last bytes go out next.
    fn has_passed(&mut self) -> Result<(), Fault> {
        let Some(passing) = self.passing.take() else { return Ok(()) };
        let Passing { command, judge, obscure, text, .. } = *passing;
        let judgement = if obscure { Judgement::of(OBSCURE) } else { judge.end() };
        if self.state.has_forgotten(Some(&judgement)) {
            // The node has not got all of it, so that it does nothing; but nothing else can be sent on this link.
            return Err(forgotten());
        }
        match self.awaited.back_mut() {
            Some(awaited) => awaited.pending = self.state.judged(command, text.as_deref(), judgement),
            // Nobody knows what the node made of it.
            None => self.state.stop_following("a statement that was answered before its end"),
        }
        Ok(())
    }
}
