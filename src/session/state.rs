//! What must exist on another link for the client not to notice a change, and what forbids one; pure.
//!
//! The relay tells it which command was sent ([`SessionState::sent`]) and how its reply ended
//! ([`SessionState::ended`]). From that follow the default schema, the settings to repeat on a new
//! link, and the [`Pin`]s.

use std::collections::BTreeSet;
use std::fmt;

use crate::sql::Effect;
use crate::wire::command::Command;
use crate::wire::packet::Tracked;
use crate::wire::reply::End;
use crate::wire::{Capabilities, Status};

/// Longest settings that are kept for repetition, in bytes; beyond it the session is pinned.
const MAX_SETTINGS: usize = 16 * 1024;

/// Why a session cannot leave its link now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Pin {
    /// A transaction is open.
    Transaction,
    /// Prepared statements are open: their number.
    Prepared(usize),
    /// A statement ran whose effect on the session is not known: its first word.
    Unknown(&'static str),
}

impl fmt::Display for Pin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Transaction => f.write_str("a transaction is open"),
            Self::Prepared(n) => write!(f, "{n} prepared statement(s) open"),
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
    Prepare,
    /// Everything goes back to what it was after login.
    Reset,
}

/// The state of one session.
#[derive(Debug, Default)]
pub struct SessionState {
    schema: Option<Vec<u8>>,
    in_transaction: bool,
    prepared: BTreeSet<u32>,
    unknown: Option<&'static str>,
    /// What a reset of the connection may not take away.
    unproven: Option<&'static str>,
    settings: Vec<Vec<u8>>,
    settings_size: usize,
}

impl SessionState {
    /// The state after a login with this default schema.
    pub fn after_login(schema: Option<Vec<u8>>) -> Self {
        Self { schema, ..Self::default() }
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

    /// The state after the session moved to another link, with its settings repeated there.
    pub fn moved(&mut self, schema: Vec<u8>) {
        self.schema = Some(schema);
    }

    /// Why the session cannot leave its link now; empty: it can.
    pub fn pins(&self) -> Vec<Pin> {
        let mut pins = Vec::new();
        if self.in_transaction {
            pins.push(Pin::Transaction);
        }
        if !self.prepared.is_empty() {
            pins.push(Pin::Prepared(self.prepared.len()));
        }
        pins.extend(self.unknown.map(Pin::Unknown));
        pins
    }

    /// A command goes out: `body` is what stands behind the command byte, cut or whole.
    ///
    /// `effect` is the text's, for `COM_QUERY` and `COM_STMT_PREPARE`. Returns what to do when its reply
    /// has ended.
    pub fn sent(&mut self, command: Command, body: &[u8], effect: Option<Effect>) -> Pending {
        match command {
            Command::InitDb => Pending::Schema(body.to_vec()),
            Command::ResetConnection => Pending::Reset,
            Command::StmtClose => {
                if let Some(id) = body.first_chunk() {
                    self.prepared.remove(&u32::from_le_bytes(*id));
                }
                Pending::Nothing
            }
            Command::StmtPrepare => {
                self.note_unknown(effect.as_ref());
                // A prepared SET or USE takes effect whenever it is executed.
                match effect {
                    Some(Effect::Set) => self.unknown = Some("a prepared SET"),
                    Some(Effect::Use(_)) => self.unknown = Some("a prepared USE"),
                    _ => {}
                }
                Pending::Prepare
            }
            Command::Query => {
                self.note_unknown(effect.as_ref());
                match effect {
                    Some(Effect::Use(schema)) => Pending::Schema(schema),
                    Some(Effect::Set) => Pending::Setting(body.to_vec()),
                    _ => Pending::Nothing,
                }
            }
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

    fn note_unknown(&mut self, effect: Option<&Effect>) {
        match effect {
            Some(Effect::Unknown(word)) => self.note_unproven(word),
            Some(Effect::Cleared(word)) => self.unknown = Some(word),
            _ => {}
        }
    }

    fn note_unproven(&mut self, what: &'static str) {
        self.unknown = Some(what);
        self.unproven = Some(what);
    }

    /// Whether the session holds nothing on its link and has changed nothing there but what the last statement leaves
    /// (`LAST_INSERT_ID()` and the like). `login`: the default schema of the login.
    pub fn is_light(&self, login: Option<&[u8]>) -> bool {
        self.pins().is_empty() && self.settings.is_empty() && self.schema() == login
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
                self.prepared.insert(id);
            }
            End::Ok(Some(status)) => {
                self.in_transaction =
                    status.intersects(Status::IN_TRANSACTION | Status::IN_TRANSACTION_READONLY);
            }
            End::Ok(None) => {}
        }
        match pending {
            Pending::Nothing | Pending::Prepare => false,
            Pending::Schema(schema) => self.set_schema(schema),
            Pending::Setting(text) => {
                self.settings_size += text.len();
                if self.settings_size > MAX_SETTINGS {
                    self.unknown = Some("too many SET statements");
                } else {
                    self.settings.push(text);
                }
                false
            }
            Pending::Reset => {
                // The default schema stays, and whatever a reset does not reach.
                let (schema, unproven) = (self.schema.take(), self.unproven);
                *self = Self { schema, unknown: unproven, unproven, ..Self::default() };
                false
            }
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sql::classify;

    const OK: End = End::Ok(Some(Status::AUTOCOMMIT));

    fn run(state: &mut SessionState, sql: &str, end: End) {
        let pending = state.sent(Command::Query, sql.as_bytes(), Some(classify(sql.as_bytes())));
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
    fn prepared_statements_pin_until_they_are_closed() {
        let mut state = SessionState::default();
        let pending = state.sent(Command::StmtPrepare, b"SELECT 1", Some(Effect::None));
        state.ended(pending, End::Prepared(7));
        assert_eq!(state.pins(), [Pin::Prepared(1)]);
        state.sent(Command::StmtClose, &7u32.to_le_bytes(), None);
        assert_eq!(state.pins(), []);
        let pending = state.sent(Command::StmtPrepare, b"SET @a = 1", Some(Effect::Unknown("SET")));
        state.ended(pending, End::Prepared(8));
        state.sent(Command::StmtClose, &8u32.to_le_bytes(), None);
        assert_eq!(state.pins(), [Pin::Unknown("SET")], "it may have been executed");
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
    fn settings_are_bounded() {
        let mut state = SessionState::default();
        for _ in 0..2000 {
            run(&mut state, "SET NAMES utf8mb4", OK);
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
    fn query_attributes_with_values_hide_the_text() {
        let caps = Capabilities::QUERY_ATTRIBUTES;
        assert_eq!(query_text(b"\0\x01SELECT 1", caps), Some(&b"SELECT 1"[..]));
        assert_eq!(query_text(b"\x01\x01\0\x01", caps), None);
        assert_eq!(query_text(b"SELECT 1", Capabilities::empty()), Some(&b"SELECT 1"[..]));
    }
}
