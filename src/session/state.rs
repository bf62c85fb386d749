//! What must exist on another link for the client not to notice a change, and what forbids one; pure.
//!
//! The relay tells it which command was sent ([`SessionState::sent`]) and how its reply ended
//! ([`SessionState::ended`]). From that follow the default schema, the settings to repeat on a new
//! link, and the [`Pin`]s.

use std::fmt;

use super::prepared::{About, PreparedStatements, Preparing};
use crate::sql::{self, Backslash, Effect, Judgement};
use crate::wire::command::Command;
use crate::wire::packet::Tracked;
use crate::wire::reply::End;
use crate::wire::statement::PrepareOk;
use crate::wire::{Capabilities, Status};

/// Longest settings that are kept for repetition, in bytes; beyond it the session is pinned.
const MAX_SETTINGS: usize = 16 * 1024;

/// Why a session cannot leave its link now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Pin {
    /// A transaction is open.
    Transaction,
    /// Tables are locked.
    Locks,
    /// Prepared statements that no other link could have: their number.
    Prepared(usize),
    /// Prepared statements, whose tables are on this cluster: their number.
    OfCluster(usize),
    /// The link holds rows or data of a prepared statement.
    Cursor,
    /// The last statement left the number of rows that `FOUND_ROWS()` tells the next one.
    FoundRows,
    /// A statement ran whose effect on the session is not known: its first word.
    Unknown(&'static str),
}

impl fmt::Display for Pin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Transaction => f.write_str("a transaction is open"),
            Self::Locks => f.write_str("tables are locked"),
            Self::Prepared(n) => write!(f, "{n} prepared statement(s) that cannot be prepared elsewhere"),
            Self::OfCluster(n) => write!(f, "{n} prepared statement(s) open"),
            Self::Cursor => f.write_str("a prepared statement has rows or data open"),
            Self::FoundRows => f.write_str("FOUND_ROWS() of its last statement may still be asked for"),
            Self::Unknown(word) => write!(f, "it ran {word}, whose effect on the session is not known"),
        }
    }
}

/// What a command will have done to the session once its reply has ended well.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Pending {
    /// Nothing worth keeping.
    Nothing,
    /// The default schema changes.
    Schema(Vec<u8>),
    /// A statement to repeat on a new link.
    Setting(Vec<u8>),
    /// A statement gets prepared.
    Prepare(Preparing),
    /// Tables get locked, or are no longer.
    Locks(bool),
    /// Everything goes back to what it was after login.
    Reset,
}

/// The state of one session.
#[derive(Debug, Default)]
pub struct SessionState {
    schema: Option<Vec<u8>>,
    in_transaction: bool,
    locks: bool,
    /// What `LAST_INSERT_ID()` tells; 0: not known to be anything else.
    insert_id: u64,
    /// The last statement counted rows for `FOUND_ROWS()`.
    counted_rows: bool,
    /// The session moved, and no statement has run since: what the last one left is gone.
    forgotten: bool,
    prepared: PreparedStatements,
    unknown: Option<&'static str>,
    /// What a reset of the connection may not take away.
    unproven: Option<&'static str>,
    settings: Vec<Vec<u8>>,
    /// Whether its statements may be in a character set in which a letter can end with the byte of a backslash.
    shifting: bool,
    /// What a backslash means in the next statement, if every one before it is answered.
    backslash: Backslash,
    /// The statement under way was read by that meaning.
    relied: bool,
}

impl SessionState {
    /// The state after a login with this default schema.
    pub fn after_login(schema: Option<Vec<u8>>) -> Self {
        Self { schema, ..Self::default() }
    }

    /// The same for a client whose login names this collation.
    #[must_use]
    pub fn with_collation(mut self, collation: u8) -> Self {
        // Those of big5, gbk, sjis, cp932 and gb18030.
        self.shifting = matches!(collation, 1 | 84 | 28 | 87 | 13 | 88 | 95 | 96 | 248..=250);
        self
    }

    /// Whether a statement cannot be understood byte by byte: what looks like a backslash in it may be half a letter.
    pub fn obscures(&self, text: &[u8]) -> bool {
        self.shifting && !text.is_ascii()
    }

    /// What a backslash means in a statement, if every one before it is answered.
    pub fn backslash(&self) -> Backslash {
        self.backslash
    }

    /// The session has a new link, whose login ended with these flags; its settings were repeated there.
    pub fn linked(&mut self, login: Option<Status>) {
        if !self.settings.iter().any(|text| names_one_of(text, &[b"sql_mode"])) {
            self.backslash = login.map_or(Backslash::Unknown, backslash_of);
        }
    }

    /// The default schema.
    pub fn schema(&self) -> Option<&[u8]> {
        self.schema.as_deref()
    }

    /// Whether a transaction is open.
    pub fn in_transaction(&self) -> bool {
        self.in_transaction
    }

    /// Statements that bring a new link to the same settings, in order.
    pub fn settings(&self) -> &[Vec<u8>] {
        &self.settings
    }

    /// The state after the session moved to another cluster, with its settings repeated there.
    pub fn moved(&mut self, schema: Vec<u8>) {
        self.schema = Some(schema);
        self.forgotten = true;
        self.insert_id = 0;
    }

    /// The state after the session moved to another link of its cluster, where its prepared statements have these numbers.
    pub fn relocated(&mut self, prepared: &[(u32, PrepareOk)]) {
        self.forgotten = true;
        if !self.prepared.is_empty() {
            self.prepared.moved(prepared);
        }
    }

    /// The default schema is no more: the session goes on without one.
    pub fn schema_dropped(&mut self) {
        self.schema = None;
    }

    /// What `LAST_INSERT_ID()` tells; none: not known to be anything but 0.
    pub fn insert_id(&self) -> Option<u64> {
        (self.insert_id != 0).then_some(self.insert_id)
    }

    /// A statement gave an `AUTO_INCREMENT` column this value; 0: none.
    pub fn inserted(&mut self, id: u64) {
        if id != 0 {
            self.insert_id = id;
        }
    }

    /// The link itself was asked what `LAST_INSERT_ID()` tells. The question took the place of the last statement.
    pub fn asked_insert_id(&mut self, id: Option<u64>) {
        self.forgotten = true;
        self.insert_id = id.unwrap_or(self.insert_id);
    }

    /// Whether a statement asks for what is gone since the session moved.
    pub fn has_forgotten(&self, judgement: Option<&Judgement>) -> bool {
        self.forgotten && judgement.is_some_and(Judgement::looks_back)
    }

    /// The same of the execution of a prepared statement.
    pub fn has_forgotten_for(&self, number: u32) -> bool {
        self.forgotten && self.prepared.looks_back(number)
    }

    /// The prepared statements.
    pub fn prepared(&self) -> &PreparedStatements {
        &self.prepared
    }

    /// The node's answer to a statement that gets prepared: the number that the client is told.
    pub fn answered(&self, pending: &mut Pending, ok: PrepareOk) -> u32 {
        match pending {
            Pending::Prepare(preparing) => self.prepared.answered(preparing, ok),
            _ => ok.id,
        }
    }

    /// A command about a prepared statement goes out: `number` is the client's, `payload` the command, cut or whole.
    pub fn about(
        &mut self,
        command: Command,
        number: u32,
        payload: &[u8],
        capabilities: Capabilities,
    ) -> About<'_> {
        self.prepared.sent(command, number, payload, capabilities)
    }

    /// Why the session cannot leave its link now; empty: it can.
    pub fn pins(&self) -> Vec<Pin> {
        self.each_pin().collect()
    }

    /// Why the session cannot leave its cluster now; empty: it can.
    pub fn pins_to_cluster(&self) -> Vec<Pin> {
        let prepared = self.prepared.len();
        self.each_pin().chain((prepared > 0).then_some(Pin::OfCluster(prepared))).collect()
    }

    /// The first of [`Self::pins`].
    pub fn pin(&self) -> Option<Pin> {
        // After each statement somebody asks, and most sessions have none.
        let is_free = !(self.in_transaction || self.locks || self.counted_rows)
            && self.unknown.is_none()
            && self.prepared.is_empty();
        if is_free { None } else { self.each_pin().next() }
    }

    fn each_pin(&self) -> impl Iterator<Item = Pin> {
        let unkept = self.prepared.unkept();
        [
            self.in_transaction.then_some(Pin::Transaction),
            self.locks.then_some(Pin::Locks),
            (unkept > 0).then_some(Pin::Prepared(unkept)),
            self.prepared.any_open().then_some(Pin::Cursor),
            self.counted_rows.then_some(Pin::FoundRows),
            self.unknown.map(Pin::Unknown),
        ]
        .into_iter()
        .flatten()
    }

    /// A command goes out: `body` is what stands behind the command byte, cut or whole.
    ///
    /// `judgement` is the text's, for `COM_QUERY` and `COM_STMT_PREPARE`. Returns what to do when its reply
    /// has ended.
    pub fn sent(&mut self, command: Command, body: &[u8], judgement: Option<Judgement>) -> Pending {
        if let Some(judgement) = judgement {
            return self.judged(command, Some(body), judgement);
        }
        self.note_counted(command, body, None);
        match command {
            Command::InitDb => Pending::Schema(body.to_vec()),
            Command::ResetConnection => Pending::Reset,
            Command::StmtPrepare => Pending::Prepare(Preparing::new(None, false, false)),
            Command::SetOption => {
                self.note_unproven("COM_SET_OPTION");
                Pending::Nothing
            }
            Command::BinlogDump | Command::BinlogDumpGtid | Command::RegisterSlave => {
                self.note_unproven("replication commands");
                Pending::Nothing
            }
            Command::Unknown(_) => {
                self.note_unproven("an unknown command");
                Pending::Nothing
            }
            _ => Pending::Nothing,
        }
    }

    /// The same for `COM_QUERY` or `COM_STMT_PREPARE` with this judgement. `text`: none where it is too long to be kept.
    pub fn judged(&mut self, command: Command, text: Option<&[u8]>, judgement: Judgement) -> Pending {
        self.note_counted(command, &[], Some(&judgement));
        self.relied |= judgement.relied_on_backslash();
        match judgement.effect {
            Effect::Unknown(word) => self.note_unproven(word),
            Effect::Cleared(word) => self.unknown = Some(word),
            _ => {}
        }
        if matches!(judgement.effect, Effect::Set | Effect::Cleared("SET")) {
            // A long one may name any character set.
            self.shifting |= text.is_none_or(|text| sql::may_choose_shifting(text, self.backslash));
        }
        if command == Command::StmtPrepare {
            // These take effect whenever they are executed.
            match judgement.effect {
                Effect::Set => self.unknown = Some("a prepared SET"),
                Effect::Use(_) => self.unknown = Some("a prepared USE"),
                Effect::Locked | Effect::Unlocked => self.unknown = Some("a prepared LOCK TABLES"),
                _ => {}
            }
            let plain = judgement.effect == Effect::None;
            let mut preparing = Preparing::new(text, judgement.may_be_repeated(), plain);
            preparing.counts = judgement.counts_found_rows();
            preparing.looks_back = judgement.looks_back();
            return Pending::Prepare(preparing);
        }
        match judgement.effect {
            Effect::Use(schema) => Pending::Schema(schema),
            Effect::Set => {
                let Some(text) = text else {
                    self.unknown = Some("a long SET");
                    return Pending::Nothing;
                };
                Pending::Setting(text.to_vec())
            }
            Effect::Locked => Pending::Locks(true),
            Effect::Unlocked => Pending::Locks(false),
            _ => Pending::Nothing,
        }
    }

    /// Notes what a command does to the values that statements leave for those behind them. What is no statement leaves
    /// them alone, and only one that reads replaces what `FOUND_ROWS()` tells.
    fn note_counted(&mut self, command: Command, body: &[u8], judgement: Option<&Judgement>) {
        let number = || body.first_chunk().map(|id| u32::from_le_bytes(*id));
        let counts = match command {
            Command::Query if judgement.is_some_and(|j| matches!(j.effect, Effect::Set | Effect::Use(_))) => {
                return;
            }
            Command::Query => judgement.is_some_and(Judgement::counts_found_rows),
            Command::StmtExecute => number().is_some_and(|number| self.prepared.counts(number)),
            Command::StmtBulkExecute | Command::Unknown(_) => false,
            _ => return,
        };
        self.forgotten = false;
        let reads = || match command {
            Command::Query => judgement.is_some_and(Judgement::reads),
            _ => number().is_some_and(|number| self.prepared.nature(number).0),
        };
        self.counted_rows = counts || self.counted_rows && !reads();
    }

    fn note_unproven(&mut self, what: &'static str) {
        self.unknown = Some(what);
        self.unproven = Some(what);
    }

    /// Whether the session holds nothing on its link and has changed nothing there but what the last statement leaves
    /// (`LAST_INSERT_ID()` and the like). `login`: the default schema of the login.
    pub fn is_light(&self, login: Option<&[u8]>) -> bool {
        self.pins().is_empty()
            && self.settings.is_empty()
            && self.prepared.is_empty()
            && self.schema() == login
    }

    /// From now on statements are not followed any more.
    pub fn stop_following(&mut self, why: &'static str) {
        self.note_unproven(why);
    }

    /// What a reset of the connection may not take away; none: after one, another session may have the link.
    pub fn unproven(&self) -> Option<&'static str> {
        self.unproven
    }

    /// The reply to a command ended. True when the default schema changed.
    pub fn ended(&mut self, pending: Pending, end: End) -> bool {
        match end {
            End::Error(_) => {
                if matches!(pending, Pending::Setting(_)) {
                    // A list of settings may have been applied in part.
                    self.unknown = Some("a SET that failed");
                }
                return false;
            }
            End::Prepared(id) => {
                if let Pending::Prepare(preparing) = pending {
                    self.prepared.add(preparing, id);
                }
                return false;
            }
            End::Ok(Some(status)) => {
                self.in_transaction =
                    status.intersects(Status::IN_TRANSACTION | Status::IN_TRANSACTION_READONLY);
                self.note_backslash(&pending, backslash_of(status));
            }
            End::Ok(None) => {}
        }
        match pending {
            Pending::Nothing | Pending::Prepare(_) => false,
            Pending::Locks(locked) => {
                self.locks = locked;
                false
            }
            Pending::Schema(schema) => self.set_schema(schema),
            Pending::Setting(text) => {
                self.set(text);
                false
            }
            Pending::Reset => {
                // The default schema stays, and whatever a reset does not reach.
                let (schema, unproven) = (self.schema.take(), self.unproven);
                let (shifting, backslash) = (self.shifting, self.backslash);
                let unknown = unproven;
                *self = Self { schema, unknown, unproven, shifting, backslash, ..Self::default() };
                false
            }
        }
    }

    /// A reply tells what a backslash means from now on.
    fn note_backslash(&mut self, pending: &Pending, backslash: Backslash) {
        let relied = std::mem::take(&mut self.relied);
        if self.backslash == backslash {
            return;
        }
        self.backslash = backslash;
        // A statement that changes no setting was read by a meaning that it did not have: the node's default is not what it
        // was when the link logged in.
        if relied && !matches!(pending, Pending::Setting(_) | Pending::Reset) {
            self.note_unproven("a statement in which backslashes meant something else");
        }
    }

    /// Keeps a statement that sets variables to plain values. The same one again takes the place of the earlier one: whatever
    /// that set, this sets again. But what a user variable gets depends on what was set before it: its character set, for one.
    fn set(&mut self, text: Vec<u8>) {
        let needed = |behind: &[Vec<u8>]| behind.iter().any(|later| sql::names_user_variable(later));
        if let Some(earlier) = self.settings.iter().rposition(|known| *known == text)
            && !needed(&self.settings[earlier + 1..])
        {
            self.settings.remove(earlier);
            self.settings.dedup();
        }
        let size: usize = self.settings.iter().map(Vec::len).sum();
        if size + text.len() > MAX_SETTINGS {
            self.unknown = Some("too many SET statements");
        } else {
            self.settings.push(text);
        }
    }

    /// The server reported a change of the session. True when the default schema changed.
    pub fn tracked(&mut self, change: Tracked<'_>) -> bool {
        match change {
            Tracked::Schema(schema) => self.set_schema(schema.to_vec()),
            Tracked::Other(_) => false,
        }
    }

    fn set_schema(&mut self, schema: Vec<u8>) -> bool {
        let schema = Some(schema).filter(|s| !s.is_empty());
        let changed = self.schema != schema;
        self.schema = schema;
        changed
    }
}

/// What stands behind the command byte of a `COM_QUERY`, without query attributes.
///
/// None: attributes with values precede the text, which is then nobody's to guess.
pub fn query_text(body: &[u8], capabilities: Capabilities) -> Option<&[u8]> {
    if !capabilities.contains(Capabilities::QUERY_ATTRIBUTES) {
        return Some(body);
    }
    match body {
        // No parameters, one set of them.
        [0, 1, text @ ..] => Some(text),
        _ => None,
    }
}

/// Whether one of these stands anywhere in a text.
fn names_one_of(text: &[u8], names: &[&[u8]]) -> bool {
    names.iter().any(|name| text.windows(name.len()).any(|part| part.eq_ignore_ascii_case(name)))
}

/// What a backslash means from here on.
fn backslash_of(status: Status) -> Backslash {
    if status.contains(Status::NO_BACKSLASH_ESCAPES) { Backslash::Itself } else { Backslash::Escapes }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What is known of a text.
    fn judge(sql: &[u8]) -> Judgement {
        sql::judge(sql, Backslash::Unknown)
    }

    const OK: End = End::Ok(Some(Status::AUTOCOMMIT));

    fn run(state: &mut SessionState, sql: &str, end: End) {
        let pending = state.sent(Command::Query, sql.as_bytes(), Some(judge(sql.as_bytes())));
        state.ended(pending, end);
    }

    #[test]
    fn an_open_transaction_pins_until_it_ends() {
        let mut state = SessionState::default();
        run(&mut state, "BEGIN", End::Ok(Some(Status::IN_TRANSACTION)));
        assert_eq!(state.pins(), [Pin::Transaction]);
        run(&mut state, "COMMIT", OK);
        assert_eq!(state.pins(), []);
    }

    #[test]
    fn prepared_statements_pin_unless_they_can_be_prepared_elsewhere() {
        let mut state = SessionState::default();
        let mut pending = state.sent(Command::StmtPrepare, b"SELECT 1", Some(judge(b"SELECT 1")));
        state.answered(&mut pending, PrepareOk { id: 7, columns: 1, parameters: 0 });
        state.ended(pending, End::Prepared(7));
        assert_eq!(state.pins(), []);
        let pending = state.sent(Command::StmtPrepare, b"SELECT 1", None);
        state.ended(pending, End::Prepared(8));
        assert_eq!(state.pins(), [Pin::Prepared(1)]);
        state.about(Command::StmtClose, 8, b"", Capabilities::empty());
        assert_eq!(state.pins(), []);
        let pending = state.sent(Command::StmtPrepare, b"SET @a = 1", Some(judge(b"SET @a = 1")));
        state.ended(pending, End::Prepared(9));
        state.about(Command::StmtClose, 9, b"", Capabilities::empty());
        assert_eq!(state.pins(), [Pin::Unknown("a prepared SET")], "it may have been executed");
    }

    #[test]
    fn locked_tables_pin_until_they_are_unlocked() {
        let mut state = SessionState::default();
        run(&mut state, "LOCK TABLES t READ", End::Error(1142));
        assert_eq!(state.pins(), []);
        run(&mut state, "LOCK TABLES t READ", OK);
        assert_eq!(state.pins(), [Pin::Locks]);
        run(&mut state, "UNLOCK TABLES", OK);
        assert_eq!(state.pins(), []);
    }

    #[test]
    fn what_a_statement_leaves_for_the_next_one_is_not_lost_in_silence() {
        let mut state = SessionState::default();
        run(&mut state, "SELECT SQL_CALC_FOUND_ROWS a FROM t LIMIT 1", OK);
        assert_eq!(state.pins(), [Pin::FoundRows]);
        run(&mut state, "SELECT FOUND_ROWS()", OK);
        assert_eq!(state.pins(), []);
        let asks = |state: &SessionState, sql: &[u8]| state.has_forgotten(Some(&judge(sql)));
        assert!(!asks(&state, b"SELECT ROW_COUNT()"));
        state.inserted(5);
        state.inserted(0);
        state.relocated(&[]);
        assert!(asks(&state, b"SELECT ROW_COUNT()"));
        assert!(!asks(&state, b"SELECT LAST_INSERT_ID()"));
        assert_eq!(state.insert_id(), Some(5));
        run(&mut state, "SELECT 1", OK);
        assert!(!asks(&state, b"SELECT ROW_COUNT()"));
    }

    #[test]
    fn settings_are_kept_in_order_and_a_failed_one_pins() {
        let mut state = SessionState::default();
        run(&mut state, "SET NAMES utf8mb4", OK);
        run(&mut state, "SET autocommit = 0", OK);
        assert_eq!(state.settings(), [b"SET NAMES utf8mb4".to_vec(), b"SET autocommit = 0".to_vec()]);
        assert_eq!(state.pins(), []);
        run(&mut state, "SET nonsense = 1", End::Error(1193));
        assert_eq!(state.pins(), [Pin::Unknown("a SET that failed")]);
    }

    #[test]
    fn what_a_user_variable_depends_on_stays_in_front_of_it() {
        let mut state = SessionState::default();
        let kept = |state: &SessionState| -> Vec<String> {
            state.settings().iter().map(|text| String::from_utf8_lossy(text).into_owned()).collect()
        };
        for text in ["SET NAMES latin1", "SET @a = 'x'", "SET NAMES utf8mb4", "SET NAMES latin1"] {
            run(&mut state, text, OK);
        }
        assert_eq!(
            kept(&state),
            ["SET NAMES latin1", "SET @a = 'x'", "SET NAMES utf8mb4", "SET NAMES latin1"]
        );
        for _ in 0..1000 {
            run(&mut state, "SET @a = 'x'", OK);
            run(&mut state, "SET NAMES latin1", OK);
        }
        assert!(kept(&state).len() <= 6, "{:?}", kept(&state));
        assert_eq!(state.pins(), []);
    }

    #[test]
    fn what_is_no_statement_leaves_the_counted_rows() {
        let mut state = SessionState::default();
        run(&mut state, "SELECT SQL_CALC_FOUND_ROWS a FROM t LIMIT 1", OK);
        let pending = state.sent(Command::Ping, b"", None);
        state.ended(pending, OK);
        state.about(Command::StmtClose, 8, b"", Capabilities::empty());
        let pending = state.sent(Command::StmtClose, &[8, 0, 0, 0], None);
        state.ended(pending, OK);
        run(&mut state, "UPDATE t SET a = 1", OK);
        assert_eq!(state.pins(), [Pin::FoundRows]);
        run(&mut state, "SELECT 1", OK);
        assert_eq!(state.pins(), []);
        // The same by a prepared statement.
        let text = b"SELECT SQL_CALC_FOUND_ROWS a FROM t LIMIT 1";
        let mut pending = state.sent(Command::StmtPrepare, text, Some(judge(text)));
        state.answered(&mut pending, PrepareOk { id: 7, columns: 1, parameters: 0 });
        state.ended(pending, End::Prepared(7));
        let pending = state.sent(Command::StmtExecute, &[7, 0, 0, 0, 0, 1, 0, 0, 0], None);
        state.ended(pending, OK);
        assert_eq!(state.pins(), [Pin::FoundRows]);
        // What the last statement left is asked for although a goodbye to a statement came between.
        state.relocated(&[]);
        state.sent(Command::StmtClose, &[7, 0, 0, 0], None);
        let text = b"SELECT FOUND_ROWS()";
        assert!(state.has_forgotten(Some(&judge(text))));
    }

    #[test]
    fn settings_are_bounded() {
        let mut state = SessionState::default();
        for _ in 0..2000 {
            run(&mut state, "SET NAMES utf8mb4", OK);
        }
        assert_eq!((state.settings().len(), state.pins()), (1, vec![]), "the same one counts once");
        for n in 0..2000 {
            run(&mut state, &format!("SET wait_timeout = {n}"), OK);
        }
        assert!(state.settings().len() * 17 <= MAX_SETTINGS);
        assert_eq!(state.pins(), [Pin::Unknown("too many SET statements")]);
    }

    #[test]
    fn a_reset_clears_everything_but_the_schema() {
        let mut state = SessionState::after_login(Some(b"shop".to_vec()));
        run(&mut state, "CREATE TEMPORARY TABLE t (a int)", OK);
        assert_eq!(state.pins(), [Pin::Unknown("CREATE TEMPORARY TABLE")]);
        assert_eq!(state.unproven(), None);
        let pending = state.sent(Command::ResetConnection, b"", None);
        state.ended(pending, OK);
        assert_eq!((state.pins(), state.schema()), (vec![], Some(&b"shop"[..])));
    }

    #[test]
    fn what_a_reset_does_not_reach_outlives_it() {
        let mut state = SessionState::after_login(None);
        run(&mut state, "SET ROLE admin", OK);
        let pending = state.sent(Command::ResetConnection, b"", None);
        state.ended(pending, OK);
        assert_eq!(state.unproven(), Some("SET"));
        assert_eq!(state.pins(), [Pin::Unknown("SET")]);
    }

    #[test]
    fn the_schema_changes_only_when_the_server_agrees() {
        let mut state = SessionState::default();
        let pending = state.sent(Command::InitDb, b"shop", None);
        assert!(!state.ended(pending, End::Error(1049)));
        assert_eq!(state.schema(), None);
        let pending = state.sent(Command::InitDb, b"shop", None);
        assert!(state.ended(pending, OK));
        assert_eq!(state.schema(), Some(&b"shop"[..]));
        assert!(state.tracked(Tracked::Schema(b"other")));
    }

    #[test]
    fn a_backslash_may_be_half_a_letter() {
        // In gbk, the quote behind these two bytes ends the text.
        let text = b"SELECT '\xbf\\', @a := 1";
        let latin = SessionState::after_login(None).with_collation(45);
        assert!(!latin.obscures(text));
        let chinese = || SessionState::after_login(None).with_collation(28);
        assert!(chinese().obscures(text) && !chinese().obscures(b"SELECT 'a'"));
        let mut told = SessionState::after_login(None).with_collation(45);
        told.sent(Command::Query, b"SET NAMES 'SJIS'", Some(judge(b"SET NAMES 'SJIS'")));
        assert!(told.obscures(text));
        let reset = told.sent(Command::ResetConnection, b"", None);
        told.ended(reset, End::Ok(None));
        assert!(told.obscures(text), "the login's own may be such a one");
        let mut by_number = SessionState::after_login(None).with_collation(45);
        let set = b"SET character_set_client = 28";
        by_number.sent(Command::StmtPrepare, set, Some(judge(set)));
        assert!(by_number.obscures(text));
    }

    #[test]
    fn flags_tell_what_a_backslash_means() {
        const OTHER: Status = Status::AUTOCOMMIT.union(Status::NO_BACKSLASH_ESCAPES);
        let mut state = SessionState::default();
        assert_eq!(state.backslash(), Backslash::Unknown);
        state.linked(Some(Status::AUTOCOMMIT));
        assert_eq!(state.backslash(), Backslash::Escapes);
        run(&mut state, "SET sql_mode = 'NO_BACKSLASH_ESCAPES'", End::Ok(Some(OTHER)));
        assert_eq!(state.backslash(), Backslash::Itself);
        // The setting is repeated on the next link, but not behind a reset.
        state.linked(Some(Status::AUTOCOMMIT));
        assert_eq!(state.backslash(), Backslash::Itself);
        let reset = state.sent(Command::ResetConnection, b"", None);
        state.ended(reset, OK);
        assert_eq!(state.backslash(), Backslash::Escapes);
        state.linked(Some(OTHER));
        assert_eq!(state.backslash(), Backslash::Itself);
        assert_eq!(state.pins(), []);
    }

    #[test]
    fn what_was_read_by_another_meaning_of_backslashes_is_unknown() {
        const OTHER: Status = Status::AUTOCOMMIT.union(Status::NO_BACKSLASH_ESCAPES);
        let pins_after = |sql: &[u8]| {
            let mut state = SessionState::default();
            state.linked(Some(Status::AUTOCOMMIT));
            let pending = state.sent(Command::Query, sql, Some(sql::judge(sql, state.backslash())));
            state.ended(pending, End::Ok(Some(OTHER)));
            (state.pins().len(), state.unproven().is_some())
        };
        assert_eq!(pins_after(br"SELECT '\', GET_LOCK('a', 1), \''"), (1, true));
        assert_eq!(pins_after(b"SELECT 'a'"), (0, false));
    }

    #[test]
    fn query_attributes_with_values_hide_the_text() {
        let caps = Capabilities::QUERY_ATTRIBUTES;
        assert_eq!(query_text(b"\0\x01SELECT 1", caps), Some(&b"SELECT 1"[..]));
        assert_eq!(query_text(b"\x01\x01\0\x01", caps), None);
        assert_eq!(query_text(b"SELECT 1", Capabilities::empty()), Some(&b"SELECT 1"[..]));
    }
}
