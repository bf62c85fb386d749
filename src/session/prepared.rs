//! The prepared statements of a session, kept so that another link can have them as well; pure.
//!
//! A client knows a statement by the number that the first link gave it. On a link that the session moved to, the node gives
//! another number, and it has not seen the types of the parameters: both are put right in the client's commands.

use std::collections::BTreeMap;

use crate::wire::Capabilities;
use crate::wire::command::Command;
use crate::wire::statement::{Execute, LAST_PREPARED, PrepareOk, Types};

/// Longest texts that are kept for one session, in bytes together.
pub(super) const MAX_TEXTS: usize = 256 * 1024;

/// Where numbers are taken from when the node's own is taken.
const OWN_NUMBERS: u32 = 0x4000_0000;

/// A statement on its way to the node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Preparing {
    /// Its text; none: it was not followed, so that no other link can have it.
    pub text: Option<Box<[u8]>>,
    /// Whether an execution whose reply was lost may be repeated.
    pub repeats: bool,
    /// Whether its execution leaves nothing behind that another link would lack.
    pub plain: bool,
    /// Whether its execution leaves a number for `FOUND_ROWS()` that the client wants to know.
    pub counts: bool,
    /// Whether its execution asks for what the statement before it left.
    pub looks_back: bool,
    /// The node's answer, with the number that the client is told.
    answer: Option<(PrepareOk, u32)>,
}

#[derive(Debug)]
struct Statement {
    /// How many were prepared before it.
    nth: u64,
    text: Option<Box<[u8]>>,
    repeats: bool,
    plain: bool,
    counts: bool,
    looks_back: bool,
    /// Its number on the link.
    on_link: u32,
    parameters: u16,
    /// The types that its parameters had last.
    types: Option<Box<[u8]>>,
    /// Whether the link has seen them.
    typed: bool,
    /// Whether another link had it before.
    relocated: bool,
    /// Whether the link holds rows to be fetched or data for its next execution.
    open: bool,
}

/// What becomes of a command about a statement.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum About<'a> {
    /// It goes out as it is.
    AsItIs,
    /// It goes out with this number.
    Number(u32),
    /// It goes out when these types are put in place of the flag at this position.
    Types(&'a [u8], usize),
    /// It needs types that nobody knows on this side of the link that the session left.
    Lost,
}

/// The prepared statements of one session.
#[derive(Debug, Default)]
pub struct PreparedStatements {
    by_number: BTreeMap<u32, Statement>,
    /// How many there have been.
    count: u64,
    /// Bytes of all texts.
    size: usize,
    /// How many have no text.
    unkept: usize,
    /// How many are open.
    open: usize,
    /// Whether a number on the link may differ from the client's, or types be missing there.
    moved: bool,
}

impl Preparing {
    /// A statement with this text; none: not followed.
    pub fn new(text: Option<&[u8]>, repeats: bool, plain: bool) -> Self {
        Self { text: text.map(Box::from), repeats, plain, counts: false, looks_back: false, answer: None }
    }
}

impl PreparedStatements {
    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.by_number.is_empty()
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.by_number.len()
    }

    /// How many of them no other link could have.
    pub fn unkept(&self) -> usize {
        self.unkept
    }

    /// Whether the link holds rows or data of one.
    pub fn any_open(&self) -> bool {
        self.open > 0
    }

    /// The node answered; returns the number that the client is told.
    pub fn answered(&self, preparing: &mut Preparing, ok: PrepareOk) -> u32 {
        let taken = |number: &u32| self.by_number.contains_key(number) || *number == LAST_PREPARED;
        let number = if taken(&ok.id) {
            // There are far fewer statements than numbers.
            (OWN_NUMBERS..LAST_PREPARED).find(|number| !taken(number)).unwrap_or(ok.id)
        } else {
            ok.id
        };
        preparing.answer = Some((ok, number));
        number
    }

    /// The reply is complete: the statement can be executed. `number`: the node's.
    pub fn add(&mut self, mut preparing: Preparing, number: u32) {
        let (ok, told) =
            preparing.answer.unwrap_or((PrepareOk { id: number, columns: 0, parameters: 0 }, number));
        let length = preparing.text.as_ref().map_or(0, |text| text.len());
        if preparing.answer.is_none() || self.size + length > MAX_TEXTS {
            preparing.text = None;
        } else {
            self.size += length;
        }
        self.moved |= told != ok.id;
        self.unkept += usize::from(preparing.text.is_none());
        self.count += 1;
        let statement = Statement {
            nth: self.count,
            text: preparing.text,
            repeats: preparing.repeats,
            plain: preparing.plain,
            counts: preparing.counts,
            looks_back: preparing.looks_back,
            on_link: ok.id,
            parameters: ok.parameters,
            types: None,
            typed: false,
            relocated: false,
            open: false,
        };
        if let Some(replaced) = self.by_number.insert(told, statement) {
            self.forget(&replaced);
        }
    }

    /// A command about the statement that the client calls `number` goes out. `payload`: the command, cut or whole.
    pub fn sent(
        &mut self,
        command: Command,
        number: u32,
        payload: &[u8],
        capabilities: Capabilities,
    ) -> About<'_> {
        let moved = self.moved;
        if command == Command::StmtClose {
            let Some(statement) = self.by_number.remove(&number) else { return About::AsItIs };
            self.forget(&statement);
            return if moved { About::Number(statement.on_link) } else { About::AsItIs };
        }
        let Self { by_number, size, unkept, open, .. } = self;
        let Some(statement) = by_number.get_mut(&number) else { return About::AsItIs };
        let mut is_open = statement.open;
        let mut drop_text = false;
        match command {
            Command::StmtSendLongData => is_open = true,
            Command::StmtReset => is_open = false,
            Command::StmtExecute => match Execute::decode(payload, statement.parameters, capabilities) {
                Ok(Execute { opens_cursor, types }) => {
                    match types {
                        Types::Bound(types) => {
                            if statement.types.as_deref() != Some(types) {
                                statement.types = Some(types.into());
                            }
                            statement.typed = true;
                        }
                        Types::AsBefore(at) if !statement.typed && statement.types.is_some() => {
                            return About::Types(statement.types.as_deref().unwrap_or_default(), at);
                        }
                        // The client gave them in a command that named the statement by `LAST_PREPARED`.
                        Types::AsBefore(_) if !statement.typed && statement.relocated => return About::Lost,
                        Types::None | Types::AsBefore(_) => {}
                    }
                    is_open = opens_cursor;
                }
                // More parameters than are looked at: nobody knows what another link would need.
                Err(_) => drop_text = true,
            },
            // Its types are not followed.
            Command::StmtBulkExecute => drop_text = true,
            _ => {}
        }
        *open = *open + usize::from(is_open) - usize::from(statement.open);
        statement.open = is_open;
        if drop_text && let Some(text) = statement.text.take() {
            *size -= text.len();
            *unkept += 1;
        }
        if moved { About::Number(statement.on_link) } else { About::AsItIs }
    }

    fn forget(&mut self, statement: &Statement) {
        self.open -= usize::from(statement.open);
        match &statement.text {
            Some(text) => self.size -= text.len(),
            None => self.unkept -= 1,
        }
    }

    /// Whether an execution whose reply was lost may be repeated, and whether one leaves nothing behind.
    pub fn nature(&self, number: u32) -> (bool, bool) {
        self.by_number.get(&number).map_or((false, false), |s| (s.repeats, s.plain))
    }

    /// Whether an execution leaves a number for `FOUND_ROWS()` that the client wants to know.
    pub fn counts(&self, number: u32) -> bool {
        self.by_number.get(&number).is_some_and(|s| s.counts)
    }

    /// Whether an execution asks for what the statement before it left.
    pub fn looks_back(&self, number: u32) -> bool {
        self.by_number.get(&number).is_some_and(|s| s.looks_back)
    }

    /// The numbers of the client with their texts, in the order in which they were prepared: the last one is
    /// [`LAST_PREPARED`] on another link, too.
    pub fn texts(&self) -> impl Iterator<Item = (u32, &[u8])> {
        let mut all: Vec<_> = self.by_number.iter().collect();
        all.sort_unstable_by_key(|(_, statement)| statement.nth);
        all.into_iter().filter_map(|(number, s)| Some((*number, s.text.as_deref()?)))
    }

    /// The session moved to a link where its statements have these numbers.
    pub fn moved(&mut self, numbers: &[(u32, PrepareOk)]) {
        self.moved = true;
        for (number, ok) in numbers {
            if let Some(statement) = self.by_number.get_mut(number) {
                statement.on_link = ok.id;
                statement.typed = false;
                statement.relocated = true;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NONE: Capabilities = Capabilities::empty();

    fn prepare(all: &mut PreparedStatements, on_link: u32, parameters: u16) -> u32 {
        let mut preparing = Preparing::new(Some(b"SELECT ?"), true, true);
        let told = all.answered(&mut preparing, PrepareOk { id: on_link, columns: 1, parameters });
        all.add(preparing, on_link);
        told
    }

    /// `COM_STMT_EXECUTE` of statement 1 with one parameter of type LONGLONG.
    const BOUND: &[u8] = &[0x17, 1, 0, 0, 0, 0, 1, 0, 0, 0, 0, 1, 8, 0, 42];
    const AGAIN: &[u8] = &[0x17, 1, 0, 0, 0, 0, 1, 0, 0, 0, 0, 0, 42];

    #[test]
    fn numbers_and_types_follow_a_session_that_moves() {
        let mut all = PreparedStatements::default();
        assert_eq!(prepare(&mut all, 1, 1), 1);
        assert_eq!(all.sent(Command::StmtExecute, 1, BOUND, NONE), About::AsItIs);
        assert_eq!(all.sent(Command::StmtExecute, 1, AGAIN, NONE), About::AsItIs);
        assert_eq!(all.texts().collect::<Vec<_>>(), [(1, &b"SELECT ?"[..])]);
        all.moved(&[(1, PrepareOk { id: 9, columns: 1, parameters: 1 })]);
        assert_eq!(all.sent(Command::StmtExecute, 1, AGAIN, NONE), About::Types(&[8, 0], 11));
        assert_eq!(all.sent(Command::StmtExecute, 1, BOUND, NONE), About::Number(9));
        assert_eq!(all.sent(Command::StmtExecute, 1, AGAIN, NONE), About::Number(9));
        assert_eq!(all.sent(Command::StmtClose, 1, &[], NONE), About::Number(9));
        assert!(all.is_empty());
        assert_eq!(all.size, 0);
    }

    #[test]
    fn a_number_is_never_given_twice() {
        let mut all = PreparedStatements::default();
        prepare(&mut all, 1, 0);
        all.moved(&[(1, PrepareOk { id: 5, columns: 1, parameters: 0 })]);
        let second = prepare(&mut all, 1, 0);
        assert_ne!(second, 1);
        assert_eq!(all.sent(Command::StmtReset, second, &[], NONE), About::Number(1));
        // The node's third one has a lower number, and comes behind it.
        let third = prepare(&mut all, 2, 0);
        assert!(third < second);
        assert_eq!(all.texts().map(|(number, _)| number).collect::<Vec<_>>(), [1, second, third]);
        assert_eq!(all.sent(Command::StmtReset, 1, &[], NONE), About::Number(5));
    }

    #[test]
    fn types_that_nobody_knows_are_not_guessed() {
        let mut all = PreparedStatements::default();
        prepare(&mut all, 1, 1);
        assert_eq!(all.sent(Command::StmtExecute, LAST_PREPARED, BOUND, NONE), About::AsItIs);
        assert_eq!(all.sent(Command::StmtExecute, 1, AGAIN, NONE), About::AsItIs);
        all.moved(&[(1, PrepareOk { id: 9, columns: 1, parameters: 1 })]);
        assert_eq!(all.sent(Command::StmtExecute, 1, AGAIN, NONE), About::Lost);
        assert_eq!(all.sent(Command::StmtExecute, 1, BOUND, NONE), About::Number(9));
        assert_eq!(all.sent(Command::StmtExecute, 1, AGAIN, NONE), About::Number(9));
    }

    #[test]
    fn what_was_not_followed_or_is_open_stays() {
        let mut all = PreparedStatements::default();
        all.add(Preparing::new(None, false, false), 3);
        assert_eq!(all.unkept(), 1);
        let number = prepare(&mut all, 4, 1);
        assert!(!all.any_open());
        all.sent(Command::StmtSendLongData, number, &[], NONE);
        assert!(all.any_open());
        all.sent(Command::StmtExecute, number, BOUND, NONE);
        assert!(!all.any_open());
        let cursor: Vec<u8> = BOUND.iter().enumerate().map(|(i, b)| if i == 5 { 1 } else { *b }).collect();
        all.sent(Command::StmtExecute, number, &cursor, NONE);
        assert!(all.any_open());
        all.sent(Command::StmtReset, number, &[], NONE);
        assert!(!all.any_open());
    }

    #[test]
    fn texts_are_bounded() {
        let mut all = PreparedStatements::default();
        let long = vec![b'x'; MAX_TEXTS / 2 + 1];
        for id in 1..=2 {
            let mut preparing = Preparing::new(Some(&long), true, true);
            all.answered(&mut preparing, PrepareOk { id, columns: 0, parameters: 0 });
            all.add(preparing, id);
        }
        assert_eq!(all.unkept(), 1);
    }
}
