//! What a statement does to its session, told from its tokens one by one.

use super::keyword::{Call, Keyword};
use super::lexer::{LONGEST_NAME, Token};
use super::{Effect, Recalled, Verb};

/// Follows the tokens of one text.
#[derive(Debug)]
pub(super) struct Classifier {
    state: State,
    verb: Verb,
    /// What the effect is called if nobody knows it.
    name: &'static str,
    /// A semicolon came: only more of them may follow.
    ended: bool,
    last: Last,
    /// The word that [`Last::Word`] is about.
    last_word: Keyword,
    recalled: Recalled,
}

/// What kind of statement it is, and what is known of it so far.
#[derive(Debug)]
enum State {
    /// Nothing came yet.
    First,
    /// `USE`: the schema comes next.
    Use,
    /// `SET`
    Set(Setting),
    /// It reads or changes rows.
    Rows(Rows),
    /// The next word must be one of these, for the effect.
    Phrase(&'static [&'static str], Effect),
    /// Whatever follows in this statement, its effect is known.
    Known(Effect),
    /// `DESCRIBE`
    Describe,
    /// `CREATE`
    Create,
    /// `CREATE TEMPORARY`
    CreateTemporary,
    /// `CREATE TEMPORARY TABLE`
    TemporaryTable,
    /// One of those statements that serve tables where the next word is `TABLE`; otherwise they run a statement.
    Serves,
    /// It changes data definitions, accounts or tables' files.
    Defines,
    /// Whatever follows at all, its effect is known to be unknown.
    Unknown,
}

/// What is known of a statement that reads or changes rows. It leaves nothing in the session, if it has no variables that
/// get values, `INTO`, locks or calls of unknown functions.
#[derive(Debug)]
struct Rows {
    /// In `INSERT` and `REPLACE` the table's name, which a list of columns may follow like arguments, stands before the
    /// values.
    before_values: bool,
    leaves: bool,
    recalls: bool,
}

/// What is known of a `SET`: of session variables, names or character set to literals or words it can be repeated.
#[derive(Debug)]
struct Setting {
    plain: bool,
    /// `SET TRANSACTION` is for the next transaction only, `SET SESSION TRANSACTION` is not; none: the first token comes.
    of_session: Option<bool>,
    value_of: Target,
    target: Target,
}

/// What a part of a `SET` statement assigns to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Target {
    /// Nothing yet: the name comes first.
    None,
    /// A variable of the server's, or something like `NAMES`.
    Setting,
    /// `@name`.
    UserVariable,
}

/// The token before an opening parenthesis tells whether a function is called, and whose.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Last {
    Word,
    /// The last part of `schema.name`, which is nobody's built-in function.
    Qualified,
    /// Quoted by `"`, too: whether that quotes a name depends on the SQL mode.
    QuotedName,
    Dot,
    SystemVariable,
    /// Of `\N`, which is `NULL` on `MariaDB`, whatever stands behind it: `\Ninto`.
    Backslash,
    Other,
}

impl Classifier {
    pub(super) fn new() -> Self {
        Self {
            state: State::First,
            verb: Verb::Other,
            name: "statement",
            ended: false,
            last: Last::Other,
            last_word: Keyword::NONE,
            recalled: Recalled::default(),
        }
    }

    /// The next token of the text.
    // It is called from one place.
    #[expect(
        clippy::inline_always,
        reason = "a statement has many tokens, and handing one over costs as much as judging it"
    )]
    #[inline(always)]
    pub(super) fn token(&mut self, token: Token<'_>) {
        let ends = matches!(token, Token::Other(b';'));
        let is_hidden = matches!(token, Token::Word(word) if may_hide_word(word));
        if matches!(token, Token::Invalid) || self.ended && !ends || is_hidden {
            self.state = State::Unknown;
            return;
        }
        let stands = match &mut self.state {
            State::Rows(_) => self.in_rows(token),
            State::Set(_) => self.in_setting(token),
            State::Unknown => return,
            State::First => match token {
                Token::Word(word) => {
                    self.begin(word);
                    return;
                }
                _ => false,
            },
            State::Use => {
                let schema = match token {
                    Token::Word(word) if word.len() <= LONGEST_NAME => word.to_vec(),
                    Token::Quoted { quote: b'`', text } if text.len() <= LONGEST_NAME => unquote(text),
                    _ => {
                        self.state = State::Unknown;
                        return;
                    }
                };
                self.name = "statements";
                self.state = State::Known(Effect::Use(schema));
                true
            }
            State::Phrase(words, effect) => {
                if is_one_of(token, words) {
                    self.state = State::Known(effect.clone());
                    true
                } else {
                    false
                }
            }
            State::Known(_) => true,
            State::Describe => names_table(token),
            State::Create if is_one_of(token, &["temporary"]) => {
                self.state = State::CreateTemporary;
                true
            }
            State::Create => {
                self.state = State::Defines;
                runs_nothing(token)
            }
            State::CreateTemporary => {
                self.state = State::TemporaryTable;
                is_one_of(token, &["table"])
            }
            // A query could call anything.
            State::TemporaryTable => !is_one_of(token, &["select", "with"]),
            State::Serves => {
                self.state = State::Defines;
                is_one_of(token, &["table"])
            }
            State::Defines => runs_nothing(token),
        };
        self.ended |= ends;
        if !stands {
            self.state = State::Unknown;
        }
    }

    /// What became of it all.
    pub(super) fn end(self) -> (Effect, Verb, Recalled) {
        let effect = match self.state {
            State::Unknown | State::Use | State::Phrase(..) | State::CreateTemporary | State::Serves => {
                Effect::Unknown(self.name)
            }
            State::Set(Setting { plain: true, .. }) => Effect::Set,
            State::Set(_) | State::Rows(Rows { leaves: true, .. }) => Effect::Cleared(self.name),
            State::Rows(Rows { recalls: true, .. }) => Effect::Recalls(self.name),
            State::Known(effect) => effect,
            State::TemporaryTable => Effect::Cleared("CREATE TEMPORARY TABLE"),
            State::First | State::Rows(_) | State::Describe | State::Create | State::Defines => Effect::None,
        };
        (effect, self.verb, self.recalled)
    }

    /// The first word.
    fn begin(&mut self, word: &[u8]) {
        let rows = |before_values| State::Rows(Rows { before_values, leaves: false, recalls: false });
        self.last_word.set(word);
        (self.verb, self.name, self.state) = match self.last_word.text() {
            b"select" => (Verb::Select, "SELECT", rows(false)),
            b"insert" => (Verb::Other, "INSERT", rows(true)),
            b"update" => (Verb::Other, "UPDATE", rows(false)),
            b"delete" => (Verb::Other, "DELETE", rows(false)),
            b"replace" => (Verb::Other, "REPLACE", rows(true)),
            b"show" => (Verb::Show, "SHOW", rows(false)),
            b"with" => (Verb::With, "WITH", rows(false)),
            b"do" => (Verb::Other, "DO", rows(false)),
            b"use" => (Verb::Other, "USE", State::Use),
            b"set" => {
                let (value_of, target) = (Target::None, Target::Setting);
                (Verb::Other, "SET", State::Set(Setting { plain: true, of_session: None, value_of, target }))
            }
            // Whether a transaction is open, and with it its savepoints, is told by the status flags of the reply.
            b"begin" => (Verb::Begin, "statements", State::Known(Effect::None)),
            b"commit" | b"rollback" => (Verb::End, "statements", State::Known(Effect::None)),
            // Words of privileges, which are words of statements elsewhere, are no statements here.
            b"savepoint" | b"release" | b"grant" | b"revoke" => {
                (Verb::Other, "statements", State::Known(Effect::None))
            }
            // The same first words begin statements about replicas, backups and plans, too.
            b"start" => (Verb::Begin, "START", State::Phrase(&["transaction"], Effect::None)),
            b"lock" => (Verb::Other, "LOCK", State::Phrase(&["table", "tables"], Effect::Locked)),
            b"unlock" => (Verb::Other, "UNLOCK", State::Phrase(&["table", "tables"], Effect::Unlocked)),
            b"desc" | b"describe" => (Verb::Describe, "EXPLAIN", State::Describe),
            b"create" => (Verb::Other, "CREATE", State::Create),
            b"alter" | b"drop" | b"rename" | b"kill" | b"truncate" => {
                (Verb::Other, name_of(word), State::Defines)
            }
            b"analyze" | b"check" | b"optimize" | b"repair" => (Verb::Other, name_of(word), State::Serves),
            _ => (Verb::Other, name_of(word), State::Unknown),
        };
    }

    /// One more token of a statement that reads or changes rows. False: its effect is unknown.
    fn in_rows(&mut self, token: Token<'_>) -> bool {
        let State::Rows(rows) = &mut self.state else { return false };
        let before = std::mem::replace(&mut self.last, Last::Other);
        match token {
            Token::Word(word) => {
                if before == Last::Backslash && word.len() > 1 {
                    return false;
                }
                let after_next = before == Last::Word && self.last_word.text() == b"next";
                self.last_word.set(word);
                match self.last_word.text() {
                    b"into" => rows.leaves |= !rows.before_values,
                    b"values" | b"select" | b"set" | b"table" => rows.before_values = false,
                    b"value" => {
                        rows.leaves |= after_next;
                        rows.before_values = false;
                    }
                    b"procedure" => return false,
                    b"nextval" | b"lastval" | b"setval" | b"outfile" | b"dumpfile" | b"returning" => {
                        rows.leaves = true;
                    }
                    b"sql_calc_found_rows" => {
                        rows.recalls = true;
                        self.recalled.counts = true;
                    }
                    b"found_rows" => self.recalled.found_rows = true,
                    b"row_count" => self.recalled.row_count = true,
                    _ => {}
                }
                self.last = before.word();
            }
            Token::Other(b'(') if !rows.before_values => match self.last_word.after(before) {
                Call::Harmless => {}
                Call::Cleared => rows.leaves = true,
                Call::Recalls => rows.recalls = true,
                Call::Foreign => return false,
            },
            // An assignment to a user variable.
            Token::Other(b':') => rows.leaves = true,
            Token::Other(b'.') => self.last = Last::Dot,
            Token::Other(b'\\') => self.last = Last::Backslash,
            Token::Quoted { quote: b'`' | b'"', .. } => self.last = Last::QuotedName,
            Token::UserVariable
            | Token::SystemVariable
            | Token::Quoted { .. }
            | Token::Number
            | Token::Other(_)
            | Token::Invalid => {}
        }
        true
    }

    /// One more token of a `SET`. False: its effect is unknown.
    fn in_setting(&mut self, token: Token<'_>) -> bool {
        let State::Set(setting) = &mut self.state else { return false };
        let before = std::mem::replace(&mut self.last, Last::Other);
        let is_session = is_one_of(token, &["session"]);
        let of_session = *setting.of_session.get_or_insert(is_session);
        match token {
            Token::Word(word) => {
                let names_variable = setting.target == Target::Setting && setting.value_of == Target::None;
                self.last_word.set(word);
                match self.last_word.text() {
                    // These change more than the session, or what a reset of the connection leaves as it is: `MariaDB` 10.11
                    // keeps the role.
                    b"global" | b"persist" | b"persist_only" | b"password" | b"role" | b"statement"
                    | b"resource" => return false,
                    word if names_variable && is_used_up(word) => return false,
                    // The same where `@@` without a scope stands before them.
                    word if before == Last::SystemVariable && is_for_next_transaction(word) => {
                        setting.plain = false;
                    }
                    b"transaction" => setting.plain &= of_session,
                    // A default differs between nodes.
                    b"default" => setting.plain = false,
                    b"found_rows" => self.recalled.found_rows = true,
                    b"row_count" => self.recalled.row_count = true,
                    _ => {}
                }
                // What is a word for a setting may be a value of the moment for a variable.
                setting.plain &= setting.value_of != Target::UserVariable
                    || matches!(self.last_word.text(), b"null" | b"true" | b"false");
                self.last = before.word();
            }
            Token::Other(b'(') if self.last_word.after(before) == Call::Foreign => return false,
            Token::Other(b'.') => self.last = Last::Dot,
            Token::Other(b'=') => setting.value_of = setting.target,
            Token::Other(b',') => (setting.value_of, setting.target) = (Target::None, Target::Setting),
            Token::UserVariable if setting.value_of == Target::None => setting.target = Target::UserVariable,
            Token::SystemVariable if setting.value_of == Target::None => self.last = Last::SystemVariable,
            Token::Other(b':' | b'-' | b'+' | b';') | Token::Number | Token::Quoted { quote: b'\'', .. } => {}
            Token::Quoted { text, .. } => {
                self.last = Last::QuotedName;
                let names_variable = setting.target == Target::Setting && setting.value_of == Target::None;
                self.last_word.set(text);
                if names_variable && is_used_up(self.last_word.text()) {
                    return false;
                }
                if before == Last::SystemVariable && is_for_next_transaction(self.last_word.text()) {
                    setting.plain = false;
                }
            }
            // Values of other variables, expressions.
            Token::UserVariable | Token::SystemVariable | Token::Other(_) | Token::Invalid => {
                setting.plain = false;
            }
        }
        true
    }
}

impl Last {
    fn word(self) -> Self {
        if self == Self::Dot { Self::Qualified } else { Self::Word }
    }
}

impl Keyword {
    /// What a parenthesis behind `last`, whose word this is if it is one, calls.
    fn after(&self, last: Last) -> Call {
        match last {
            Last::Word => self.call(),
            Last::Qualified | Last::QuotedName => Call::Foreign,
            Last::Dot | Last::SystemVariable | Last::Backslash | Last::Other => Call::Harmless,
        }
    }
}

/// Whether it is a variable that the next statement or transaction uses up, so that setting it again later would have another
/// effect, or of which a reset of the connection leaves something: `MariaDB` 10.11 keeps the profiles of earlier statements.
fn is_used_up(variable: &[u8]) -> bool {
    const VARIABLES: &[&[u8]] = &[
        b"gtid_next",
        b"gtid_seq_no",
        b"identity",
        b"insert_id",
        b"last_insert_id",
        b"profiling",
        b"profiling_history_size",
        b"rand_seed1",
        b"rand_seed2",
    ];
    VARIABLES.contains(&variable)
}

/// Whether it is a variable that is for the next transaction only where `@@` without a scope stands before it.
fn is_for_next_transaction(variable: &[u8]) -> bool {
    matches!(
        variable,
        b"transaction_isolation" | b"transaction_read_only" | b"tx_isolation" | b"tx_read_only"
    )
}

fn is_one_of(token: Token<'_>, words: &[&str]) -> bool {
    matches!(token, Token::Word(word) if words.iter().any(|w| word.eq_ignore_ascii_case(w.as_bytes())))
}

/// Whether what stands behind `DESCRIBE` may be a table and perhaps a column. Everything else explains a statement, which may
/// run it or put its plan into a variable.
fn names_table(token: Token<'_>) -> bool {
    const EXPLAINED: &[&str] = &[
        "analyze",
        "delete",
        "extended",
        "for",
        "format",
        "insert",
        "into",
        "partitions",
        "replace",
        "select",
        "table",
        "update",
        "values",
        "with",
    ];
    match token {
        Token::Word(_) => !is_one_of(token, EXPLAINED),
        Token::Quoted { .. } | Token::Other(b'.' | b'%' | b';') => true,
        _ => false,
    }
}

/// Whether a statement that defines something may hold this: it is no query or call that would be run at once, makes nothing
/// that belongs to the session, and leaves the default schema alone.
fn runs_nothing(token: Token<'_>) -> bool {
    const NOT_THESE: &[&str] = &[
        "select",
        "with",
        "values",
        "call",
        "execute",
        "prepare",
        "begin",
        "temporary",
        "database",
        "schema",
        "role",
        // A number of a connection and the schedule of an event are computed at once.
        "get_lock",
        "release_lock",
        "release_all_locks",
        "nextval",
        "setval",
    ];
    !is_one_of(token, NOT_THESE) && !matches!(token, Token::UserVariable)
}

/// Whether the servers may see one of the words that matter in what looks like another word: a number ends where letters begin,
/// if it has a dot or an exponent (`1.5into`), and in some character sets a byte beyond ASCII is a blank.
#[inline]
fn may_hide_word(word: &[u8]) -> bool {
    let is_plain = !word.first().is_some_and(u8::is_ascii_digit) && word.is_ascii();
    !(is_plain && word.len() <= LONGEST_NAME) && hides_word(word)
}

fn hides_word(word: &[u8]) -> bool {
    const WORDS: &[&[u8]] = &[
        b"begin",
        b"call",
        b"database",
        b"default",
        b"dumpfile",
        b"execute",
        b"found_rows",
        b"get_lock",
        b"global",
        b"gtid_next",
        b"gtid_seq_no",
        b"identity",
        b"insert_id",
        b"into",
        b"last_insert_id",
        b"lastval",
        b"nextval",
        b"outfile",
        b"password",
        b"persist",
        b"persist_only",
        b"prepare",
        b"procedure",
        b"profiling",
        b"profiling_history_size",
        b"rand_seed1",
        b"rand_seed2",
        b"release_all_locks",
        b"release_lock",
        b"resource",
        b"returning",
        b"role",
        b"row_count",
        b"schema",
        b"select",
        b"setval",
        b"sql_calc_found_rows",
        b"statement",
        b"temporary",
        b"transaction",
        b"value",
        b"values",
        b"with",
    ];
    let digits = |part: &[u8]| part.iter().take_while(|b| b.is_ascii_digit()).count();
    let matters = |part: &[u8]| WORDS.iter().any(|known| part.eq_ignore_ascii_case(known));
    // A long hexadecimal number is no name.
    let is_number = matches!(word, [b'0', b'x' | b'X', ..]);
    word.len() > LONGEST_NAME && !is_number
        || word.split(|b| !b.is_ascii()).any(|part| {
            let behind = &part[digits(part)..];
            let exponent = match behind {
                [b'e' | b'E', exponent @ ..] if behind.len() < part.len() => exponent,
                _ => &[],
            };
            matters(behind) || matters(&exponent[digits(exponent)..])
        })
}

/// Doubled quotes inside a quoted name stand for one.
fn unquote(text: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(text.len());
    let mut bytes = text.iter();
    while let Some(b) = bytes.next() {
        out.push(*b);
        if *b == b'`' {
            bytes.next();
        }
    }
    out
}

fn name_of(word: &[u8]) -> &'static str {
    const NAMES: &[&str] = &[
        "ALTER",
        "ANALYZE",
        "BINLOG",
        "CALL",
        "CHANGE",
        "DEALLOCATE",
        "DROP",
        "EXECUTE",
        "EXPLAIN",
        "FLUSH",
        "HANDLER",
        "KILL",
        "LOAD",
        "OPTIMIZE",
        "PREPARE",
        "RENAME",
        "RESET",
        "TRUNCATE",
        "XA",
    ];
    NAMES.iter().find(|n| word.eq_ignore_ascii_case(n.as_bytes())).copied().unwrap_or("statement")
}
