//! Just enough SQL: a lexer that cannot be fooled by comments, and what a statement does to its session.
//!
//! Only what is positively recognised is given a meaning. Everything else is
//! [`Effect::Unknown`], and unknown means that the session stays where it is.

mod classifier;
mod keyword;
mod kill;
mod lexer;
mod updates;

pub use kill::{Kill, kill};
pub use lexer::{Backslash, LONGEST_NAME, Lexer, Token};
pub use updates::{Statements, statements};

use classifier::Classifier;

/// What a statement leaves behind in its session.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Effect {
    /// Nothing that another link would lack, apart from what the status flags tell.
    None,
    /// `USE schema`.
    Use(Vec<u8>),
    /// Session variables set to plain values: repeating the statement on another link has the
    /// same effect there.
    Set,
    /// Nothing that outlives the next statement: it reads or leaves the values that a statement leaves for the one behind it
    /// (`FOUND_ROWS()`, `ROW_COUNT()`, `LAST_INSERT_ID()`). The word that it begins with.
    Recalls(&'static str),
    /// Tables stay locked until [`Effect::Unlocked`].
    Locked,
    /// `UNLOCK TABLES`.
    Unlocked,
    /// Something that another link would lack, and that a reset of the connection (`COM_RESET_CONNECTION`) takes away:
    /// user variables, user locks, temporary tables. The word that says why, such as `CREATE TEMPORARY TABLE`.
    Cleared(&'static str),
    /// Anything else; the word that says why, such as `CREATE` or `CALL`.
    Unknown(&'static str),
}

/// What is known of a text command of which every byte was seen.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Judgement {
    /// What it leaves behind.
    pub effect: Effect,
    verb: Verb,
    recalled: Recalled,
    /// It could be another one if backslashes meant something else.
    relied: bool,
}

/// The words that statements begin with, as far as it matters.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Verb {
    Select,
    Show,
    With,
    Describe,
    /// `BEGIN`, `START`
    Begin,
    /// `COMMIT`, `ROLLBACK`
    End,
    Other,
}

/// Which of the values that statements leave for those behind them a statement names. Where its effect is unknown, that is
/// unknown, too.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct Recalled {
    /// `SQL_CALC_FOUND_ROWS`
    counts: bool,
    /// `FOUND_ROWS`
    found_rows: bool,
    /// `ROW_COUNT`
    row_count: bool,
}

/// Judges a text command whose bytes come in pieces, cut anywhere. The text is not kept.
#[derive(Debug)]
pub struct Judge {
    lexer: Lexer,
    classifier: Classifier,
}

impl Judge {
    /// Starts before the first byte.
    pub fn new(backslash: Backslash) -> Self {
        Self { lexer: Lexer::new(backslash), classifier: Classifier::new() }
    }

    /// The next bytes of the text. `last`: there are no more.
    pub fn read(&mut self, mut piece: &[u8], last: bool) {
        while let Some(token) = self.lexer.next(&mut piece, last) {
            self.classifier.token(token);
        }
    }

    /// What the text is, when all of it was read.
    pub fn end(self) -> Judgement {
        let (effect, verb, recalled) = self.classifier.end();
        Judgement { effect, verb, recalled, relied: self.lexer.relied_on_backslash() }
    }
}

/// Judges a text command. `sql` must be the whole text.
///
/// Several statements in one text are unknown unless all but the first are empty.
pub fn judge(sql: &[u8], backslash: Backslash) -> Judgement {
    let mut judge = Judge::new(backslash);
    judge.read(sql, true);
    judge.end()
}

impl Judgement {
    /// Of a text of which nothing is known but its effect.
    pub fn of(effect: Effect) -> Self {
        Self { effect, verb: Verb::Other, recalled: Recalled::default(), relied: false }
    }

    /// Whether the judgement could be another one if backslashes meant something else.
    pub fn relied_on_backslash(&self) -> bool {
        self.relied
    }

    /// Whether the statement, which reads, can be run a second time as if it had not run before: its first reply was lost.
    pub fn may_be_repeated(&self) -> bool {
        match self.effect {
            Effect::Set | Effect::Use(_) => true,
            Effect::None => {
                matches!(self.verb, Verb::Select | Verb::Show | Verb::Describe | Verb::Begin)
            }
            _ => false,
        }
    }

    /// Whether its reply replaces what `FOUND_ROWS()` tells.
    pub fn reads(&self) -> bool {
        matches!(self.verb, Verb::Select | Verb::Show | Verb::With)
    }

    /// Whether it is a `SELECT`.
    pub fn selects(&self) -> bool {
        self.verb == Verb::Select
    }

    /// Whether it begins or ends a transaction, if its effect is known.
    pub fn bounds_transaction(&self) -> bool {
        matches!(self.verb, Verb::Begin | Verb::End)
    }

    /// Whether it is a `SELECT` that counts the rows that it would have without its `LIMIT`.
    pub fn counts_found_rows(&self) -> bool {
        self.effect == Effect::Recalls("SELECT") && self.recalled.counts
    }

    /// Whether it has to do with `FOUND_ROWS()`, if its effect is known.
    pub fn touches_found_rows(&self) -> bool {
        self.recalled.counts || self.recalled.found_rows
    }

    /// Whether it asks for what only the node knows on which the statement before it ran.
    pub fn looks_back(&self) -> bool {
        matches!(self.effect, Effect::Recalls(_) | Effect::Cleared(_))
            && (self.recalled.found_rows || self.recalled.row_count)
    }
}

/// The schema of a `USE` statement, if the text is one. Cheaper than [`judge`]: any other text is
/// given up at its first word.
pub fn used_schema(sql: &[u8]) -> Option<Vec<u8>> {
    // Most begin with another letter, and neither with a comment nor with blanks.
    if sql.first().is_some_and(|first| first.is_ascii_alphabetic() && !first.eq_ignore_ascii_case(&b'u')) {
        return None;
    }
    let mut rest = sql;
    match Lexer::new(Backslash::Unknown).next(&mut rest, true)? {
        Token::Word(word) if word.eq_ignore_ascii_case(b"use") => {
            match judge(sql, Backslash::Unknown).effect {
                Effect::Use(schema) => Some(schema),
                _ => None,
            }
        }
        _ => None,
    }
}

/// Whether a statement of the text loads a file of the client (`LOAD DATA LOCAL INFILE`). What stands in a version comment
/// does not count.
pub fn loads_local_file(sql: &[u8], backslash: Backslash) -> bool {
    /// What the words before it could be the beginning of.
    enum Seen {
        Begins,
        Load,
        LoadData,
        LoadDataLocal,
        Other,
    }
    let is = |word: &[u8], wanted: &str| word.eq_ignore_ascii_case(wanted.as_bytes());
    let several = sql.contains(&b';');
    let (mut lexer, mut rest) = (Lexer::new(backslash), sql);
    let mut seen = Seen::Begins;
    while let Some(token) = lexer.next(&mut rest, true) {
        seen = match (seen, token) {
            (_, Token::Other(b';')) => Seen::Begins,
            (Seen::Begins, Token::Word(word)) if is(word, "load") => Seen::Load,
            (seen @ (Seen::Load | Seen::LoadData | Seen::LoadDataLocal), Token::Word(word))
                if is(word, "low_priority") || is(word, "concurrent") =>
            {
                seen
            }
            (Seen::Load, Token::Word(word)) if is(word, "data") || is(word, "xml") => Seen::LoadData,
            (Seen::LoadData, Token::Word(word)) if is(word, "local") => Seen::LoadDataLocal,
            (Seen::LoadDataLocal, Token::Word(word)) if is(word, "infile") => return true,
            _ if !several => return false,
            _ => Seen::Other,
        };
    }
    false
}

/// Whether a statement names a user variable, or may do so.
pub fn names_user_variable(sql: &[u8]) -> bool {
    let (mut lexer, mut rest) = (Lexer::new(Backslash::Unknown), sql);
    while let Some(token) = lexer.next(&mut rest, true) {
        if matches!(token, Token::UserVariable | Token::Invalid) {
            return true;
        }
    }
    false
}

/// Whether a `SET` may choose a character set for the statements behind it in which a letter can end with the byte of a
/// backslash: one that is not known to be harmless, however it is written. The servers take a number or a text in escapes, too.
pub fn may_choose_shifting(set: &[u8], backslash: Backslash) -> bool {
    const HARMLESS: &[&str] = &[
        "armscii8", "ascii", "binary", "cp1250", "cp1251", "cp1256", "cp1257", "cp850", "cp852", "cp866",
        "dec8", "eucjpms", "euckr", "gb2312", "geostd8", "greek", "hebrew", "hp8", "keybcs2", "koi8r",
        "koi8u", "latin1", "latin2", "latin5", "latin7", "macce", "macroman", "swe7", "tis620", "ujis",
        "utf8", "utf8mb3", "utf8mb4",
    ];
    let is_one_of =
        |word: &[u8], known: &[&str]| known.iter().any(|k| word.eq_ignore_ascii_case(k.as_bytes()));
    let (mut lexer, mut rest) = (Lexer::new(backslash), set);
    // The value comes next; a `SET` behind this makes it come.
    let (mut value, mut character) = (false, false);
    while let Some(token) = lexer.next(&mut rest, true) {
        let text = match token {
            Token::Invalid => return true,
            Token::Other(b'=' | b':') => continue,
            Token::Word(text) | Token::Quoted { text, .. } => text,
            _ => &[],
        };
        if value && !is_one_of(text, HARMLESS) {
            return true;
        }
        value = is_one_of(text, &["names", "charset", "character_set_client"])
            || character && is_one_of(text, &["set"]);
        character = is_one_of(text, &["character", "char"]);
    }
    false
}

#[cfg(test)]
mod tests;
