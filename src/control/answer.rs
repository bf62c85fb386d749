//! What operations give: typed rows, which the API sends as JSON and the console as a table.
//!
//! Both come from the same value: a row's fields are the JSON, and its columns say in which order and under which
//! titles the console prints them. Passwords, hashes and tokens have no field here.

use std::time::SystemTime;

use serde::Serialize;
use serde_json::Value;

use super::operation::Right;

/// The type of a column's values.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Cell {
    /// Text.
    Text,
    /// Text, or nothing.
    MaybeText,
    /// A whole number.
    Number,
    /// Yes or no.
    YesNo,
    /// A duration in whole seconds.
    Seconds,
    /// A duration in whole seconds, or nothing.
    MaybeSeconds,
    /// A moment, as RFC 3339 in UTC.
    Moment,
    /// Several texts.
    Texts,
}

/// One column of a table.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Column {
    /// The field in JSON.
    pub field: &'static str,
    /// The title in the console.
    pub title: &'static str,
    /// The type of its values.
    pub cell: Cell,
    /// What it means.
    pub help: &'static str,
}

const fn column(field: &'static str, title: &'static str, cell: Cell, help: &'static str) -> Column {
    Column { field, title, cell, help }
}

/// A cluster.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[expect(missing_docs, reason = "described by CLUSTER_COLUMNS")]
pub struct ClusterRow {
    pub cluster: String,
    pub kind: &'static str,
    pub nodes: usize,
    pub up: usize,
    pub writer: Option<String>,
    pub alarm: Option<String>,
    pub accounts: usize,
    pub accounts_age_seconds: Option<u64>,
    pub accounts_from: Option<String>,
    pub problem: Option<String>,
    pub databases: Vec<String>,
}

/// Columns of [`ClusterRow`].
pub const CLUSTER_COLUMNS: &[Column] = &[
    column("cluster", "cluster", Cell::Text, "name of the cluster"),
    column("kind", "kind", Cell::Text, "how its nodes replicate"),
    column("nodes", "nodes", Cell::Number, "how many nodes it has"),
    column("up", "up", Cell::Number, "how many of them the last probe found fit to serve"),
    column("writer", "writer", Cell::MaybeText, "the node that serves writes"),
    column("accounts", "accounts", Cell::Number, "how many accounts were read"),
    column("accounts_age_seconds", "age", Cell::MaybeSeconds, "how long ago accounts were read"),
    column("accounts_from", "from", Cell::MaybeText, "the node that accounts were read from"),
    column("problem", "problem", Cell::MaybeText, "why the last attempt to read accounts failed"),
    column(
        "alarm",
        "alarm",
        Cell::MaybeText,
        "what a person must look at, such as two nodes that accept writes",
    ),
    column("databases", "databases", Cell::Texts, "the databases that were read"),
];

/// A node.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[expect(missing_docs, reason = "described by NODE_COLUMNS")]
pub struct NodeRow {
    pub cluster: String,
    pub node: String,
    pub address: String,
    pub role: &'static str,
    pub desired: &'static str,
    pub observed: &'static str,
    pub reason: String,
    pub sessions: u32,
    pub links: u32,
    pub idle_links: u32,
    pub waiting: u32,
    pub since: String,
    pub version: Option<String>,
    pub accounts: Option<String>,
    pub discovered: bool,
}

/// Columns of [`NodeRow`].
pub const NODE_COLUMNS: &[Column] = &[
    column("cluster", "cluster", Cell::Text, "the node's cluster"),
    column("node", "node", Cell::Text, "name of the node within its cluster"),
    column("address", "address", Cell::Text, "where it listens"),
    column("role", "role", Cell::Text, "what it serves now: writer, reader or none"),
    column("desired", "desired", Cell::Text, "what an operator wants of it: enabled, drain or maintenance"),
    column("observed", "observed", Cell::Text, "what the last probe saw: up, down or unknown"),
    column("sessions", "sessions", Cell::Number, "client sessions on it"),
    column("links", "links", Cell::Number, "connections to it for clients, in use or idle"),
    column("idle_links", "idle", Cell::Number, "links that wait for the next session"),
    column("waiting", "waiting", Cell::Number, "sessions that wait for a link"),
    column("since", "since", Cell::Moment, "when what is observed last changed"),
    column("version", "version", Cell::MaybeText, "version text of its greeting"),
    column("reason", "reason", Cell::Text, "the words behind what is observed"),
    column(
        "accounts",
        "accounts",
        Cell::MaybeText,
        "read from it, same as those, unknown, or how accounts and settings for logins differ",
    ),
    column(
        "discovered",
        "discovered",
        Cell::YesNo,
        "whether the nodes list it and the configuration does not name it",
    ),
];

/// Something that changed in a cluster.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[expect(missing_docs, reason = "described by EVENT_COLUMNS")]
pub struct EventRow {
    pub number: u64,
    pub at: String,
    pub cluster: String,
    pub node: Option<String>,
    pub what: &'static str,
    pub before: String,
    pub after: String,
    pub evidence: Option<String>,
}

/// Columns of [`EventRow`].
pub const EVENT_COLUMNS: &[Column] = &[
    column("number", "number", Cell::Number, "counts the events since Spillway started"),
    column("at", "at", Cell::Moment, "when it was noticed"),
    column("cluster", "cluster", Cell::Text, "the cluster"),
    column("node", "node", Cell::MaybeText, "the node; none: the cluster as a whole"),
    column("what", "what", Cell::Text, "observed, desired, writer, alarm or member"),
    column("before", "before", Cell::Text, "how it was"),
    column("after", "after", Cell::Text, "how it is since then"),
    column("evidence", "evidence", Cell::MaybeText, "what traffic had told of the node shortly before"),
];

/// One thing that is known of a node.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[expect(missing_docs, reason = "described by FACT_COLUMNS")]
pub struct FactRow {
    pub about: &'static str,
    pub name: String,
    pub value: String,
}

/// Columns of [`FactRow`].
pub const FACT_COLUMNS: &[Column] = &[
    column(
        "about",
        "about",
        Cell::Text,
        "wish, verdict, role, traffic, probe, or read: what the last probe read",
    ),
    column("name", "name", Cell::Text, "what it is"),
    column("value", "value", Cell::Text, "its value"),
];

/// A session.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[expect(missing_docs, reason = "described by SESSION_COLUMNS")]
pub struct SessionRow {
    pub id: u64,
    pub user: Option<String>,
    pub client: String,
    pub tls: Option<String>,
    pub service: String,
    pub cluster: Option<String>,
    pub node: Option<String>,
    pub schema: Option<String>,
    pub statements: u64,
    pub in_transaction: bool,
    pub pin: Option<String>,
    pub age_seconds: u64,
}

/// Columns of [`SessionRow`].
pub const SESSION_COLUMNS: &[Column] = &[
    column("id", "id", Cell::Number, "number of the session"),
    column("user", "user", Cell::MaybeText, "login name, once it is proven"),
    column("client", "client", Cell::Text, "where the client connects from"),
    column("tls", "tls", Cell::MaybeText, "version and cipher of the client's TLS; none: a plain connection"),
    column("service", "service", Cell::Text, "the service that it came through"),
    column("cluster", "cluster", Cell::MaybeText, "the cluster that it reached"),
    column("node", "node", Cell::MaybeText, "the node that serves it"),
    column("schema", "schema", Cell::MaybeText, "its default schema"),
    column("statements", "statements", Cell::Number, "replies that were relayed to their end"),
    column("in_transaction", "transaction", Cell::YesNo, "whether a transaction is open"),
    column("pin", "pin", Cell::MaybeText, "why it cannot move to another node now; none: it can"),
    column("age_seconds", "age", Cell::Seconds, "how long ago it was accepted"),
];

/// An account.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[expect(missing_docs, reason = "described by ACCOUNT_COLUMNS")]
pub struct AccountRow {
    pub cluster: String,
    pub user: String,
    pub host: String,
    pub plugins: Vec<String>,
    pub locked: bool,
    pub default_role: Option<String>,
    pub problem: Option<String>,
}

/// Columns of [`AccountRow`].
pub const ACCOUNT_COLUMNS: &[Column] = &[
    column("cluster", "cluster", Cell::Text, "the cluster that it was read from"),
    column("user", "user", Cell::Text, "user name; empty for an anonymous account"),
    column("host", "host", Cell::Text, "pattern of the addresses it may come from"),
    column("plugins", "plugins", Cell::Texts, "authentication plugins in the order in which they are tried"),
    column("locked", "locked", Cell::YesNo, "whether the account is locked"),
    column("default_role", "default_role", Cell::MaybeText, "the role that is set at login"),
    column("problem", "problem", Cell::MaybeText, "why nobody can log in to it through Spillway"),
];

/// An account for which Spillway is stricter than its server.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[expect(missing_docs, reason = "described by PERMISSIVENESS_COLUMNS")]
pub struct PermissivenessRow {
    pub cluster: String,
    pub account: String,
    pub client: String,
    pub reason: String,
}

/// Columns of [`PermissivenessRow`].
pub const PERMISSIVENESS_COLUMNS: &[Column] = &[
    column("cluster", "cluster", Cell::Text, "the cluster that it was read from"),
    column("account", "account", Cell::Text, "the account"),
    column("client", "client", Cell::Text, "an address that its host stands for"),
    column("reason", "reason", Cell::Text, "why a login from there is refused here, or what it lacks"),
];

/// An address or account whose logins are held back.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[expect(missing_docs, reason = "described by BACKOFF_COLUMNS")]
pub struct BackoffRow {
    pub who: String,
    pub failures: u32,
    pub seconds_left: u64,
}

/// Columns of [`BackoffRow`].
pub const BACKOFF_COLUMNS: &[Column] = &[
    column("who", "who", Cell::Text, "an address, an IPv6 network, or user@cluster"),
    column(
        "failures",
        "failures",
        Cell::Number,
        "logins that failed, none of them long after the one before",
    ),
    column("seconds_left", "seconds left", Cell::Number, "how much longer logins are refused unseen"),
];

/// One step of the decision on a login.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[expect(missing_docs, reason = "described by STEP_COLUMNS")]
pub struct StepRow {
    pub cluster: String,
    pub step: &'static str,
    pub text: String,
}

/// Columns of [`StepRow`].
pub const STEP_COLUMNS: &[Column] = &[
    column("cluster", "cluster", Cell::Text, "the cluster whose accounts decide"),
    column("step", "step", Cell::Text, "what was asked; last comes the verdict"),
    column("text", "answer", Cell::Text, "the answer"),
];

/// One step of a change of writer.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[expect(missing_docs, reason = "described by PROCEDURE_COLUMNS")]
pub struct ProcedureRow {
    pub step: String,
    pub outcome: &'static str,
    pub took_ms: u64,
    pub detail: String,
}

/// Columns of [`ProcedureRow`].
pub const PROCEDURE_COLUMNS: &[Column] = &[
    column("step", "step", Cell::Text, "a condition, or what was changed"),
    column("outcome", "outcome", Cell::Text, "ok, failed, or planned in a dry run"),
    column("took_ms", "ms", Cell::Number, "how long it took, in milliseconds"),
    column("detail", "detail", Cell::Text, "what was found, or why it failed"),
];

/// A listener.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[expect(missing_docs, reason = "described by LISTENER_COLUMNS")]
pub struct ListenerRow {
    pub address: String,
    pub service: String,
    pub state: &'static str,
}

/// Columns of [`ListenerRow`].
pub const LISTENER_COLUMNS: &[Column] = &[
    column("address", "address", Cell::Text, "where clients connect"),
    column("service", "service", Cell::Text, "the service behind it"),
    column("state", "state", Cell::Text, "whether it takes clients"),
];

/// What runs.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[expect(missing_docs, reason = "described by VERSION_COLUMNS")]
pub struct VersionRow {
    pub version: &'static str,
    pub phase: &'static str,
    pub sessions: usize,
    pub clusters: usize,
}

/// Columns of [`VersionRow`].
pub const VERSION_COLUMNS: &[Column] = &[
    column("version", "version", Cell::Text, "version of Spillway"),
    column("phase", "phase", Cell::Text, "starting, serving, draining or stopping"),
    column("sessions", "sessions", Cell::Number, "client sessions now"),
    column("clusters", "clusters", Cell::Number, "clusters of the configuration"),
];

/// A command, in the list of all.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[expect(missing_docs, reason = "described by COMMAND_COLUMNS")]
pub struct CommandRow {
    pub command: String,
    pub help: &'static str,
}

/// Columns of [`CommandRow`].
pub const COMMAND_COLUMNS: &[Column] = &[
    column("command", "command", Cell::Text, "words and arguments"),
    column("help", "what it does", Cell::Text, "what it does"),
];

/// One command explained.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Explanation {
    /// Words and arguments.
    pub command: String,
    /// What it does.
    pub help: &'static str,
    /// What the caller must be allowed to do.
    pub right: Right,
    /// The same through the API: method, path and body.
    pub api: Option<String>,
    /// Each argument as in the usage line, with its meaning.
    pub arguments: Vec<(String, &'static str)>,
}

/// What was done.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Done {
    /// In one line.
    pub result: String,
    /// Each thing that changed, one line each.
    pub changes: Vec<String>,
}

/// Rows of one sort. As JSON, an object with one key, the plural of what the rows are.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(rename_all = "lowercase")]
#[expect(missing_docs, reason = "each says what it holds")]
pub enum Rows {
    Clusters(Vec<ClusterRow>),
    Nodes(Vec<NodeRow>),
    Events(Vec<EventRow>),
    Facts(Vec<FactRow>),
    Sessions(Vec<SessionRow>),
    Accounts(Vec<AccountRow>),
    Permissiveness(Vec<PermissivenessRow>),
    Steps(Vec<StepRow>),
    Backoffs(Vec<BackoffRow>),
    Listeners(Vec<ListenerRow>),
    Procedure(Vec<ProcedureRow>),
    Commands(Vec<CommandRow>),
}

/// What an operation gave.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(untagged)]
pub enum Answer {
    /// A list.
    Rows(Rows),
    /// What runs.
    Version(VersionRow),
    /// What was done.
    Done(Done),
    /// Commands, each with its arguments.
    Explained(Vec<Explanation>),
    /// The caller wants to leave.
    Quit,
}

/// A list as columns and values, for printing.
#[derive(Debug, Clone, PartialEq)]
pub struct Table {
    /// The columns.
    pub columns: &'static [Column],
    /// Every row, with one value for each column.
    pub rows: Vec<Vec<Value>>,
}

// === impl Rows ===

impl Rows {
    /// The rows as a table.
    pub fn table(&self) -> Table {
        match self {
            Self::Clusters(rows) => Table::new(CLUSTER_COLUMNS, rows),
            Self::Nodes(rows) => Table::new(NODE_COLUMNS, rows),
            Self::Facts(rows) => Table::new(FACT_COLUMNS, rows),
            Self::Events(rows) => Table::new(EVENT_COLUMNS, rows),
            Self::Sessions(rows) => Table::new(SESSION_COLUMNS, rows),
            Self::Accounts(rows) => Table::new(ACCOUNT_COLUMNS, rows),
            Self::Permissiveness(rows) => Table::new(PERMISSIVENESS_COLUMNS, rows),
            Self::Backoffs(rows) => Table::new(BACKOFF_COLUMNS, rows),
            Self::Steps(rows) => Table::new(STEP_COLUMNS, rows),
            Self::Listeners(rows) => Table::new(LISTENER_COLUMNS, rows),
            Self::Procedure(rows) => Table::new(PROCEDURE_COLUMNS, rows),
            Self::Commands(rows) => Table::new(COMMAND_COLUMNS, rows),
        }
    }
}

// === impl VersionRow ===

impl VersionRow {
    /// The row as a table of its own.
    pub fn table(&self) -> Table {
        Table::new(VERSION_COLUMNS, std::slice::from_ref(self))
    }
}

// === impl Table ===

impl Table {
    fn new(columns: &'static [Column], rows: &[impl Serialize]) -> Self {
        let cells = |row| {
            // Rows have text keys and plain values, which always become JSON.
            let mut row = serde_json::to_value(row).unwrap_or_default();
            columns.iter().map(|c| row.get_mut(c.field).map(Value::take).unwrap_or_default()).collect()
        };
        Self { columns, rows: rows.iter().map(cells).collect() }
    }
}

/// A moment as RFC 3339 in UTC, to the second.
pub(super) fn moment(at: SystemTime) -> String {
    // The format knows no year before 1970, where a clock that was never set may stand.
    humantime::format_rfc3339_seconds(at.max(SystemTime::UNIX_EPOCH)).to_string()
}

/// The same to the millisecond.
pub(super) fn moment_with_millis(at: SystemTime) -> String {
    humantime::format_rfc3339_millis(at.max(SystemTime::UNIX_EPOCH)).to_string()
}

/// Whole seconds since a moment; 0 when the clock was set back.
pub(super) fn seconds_since(at: SystemTime) -> u64 {
    at.elapsed().map_or(0, |d| d.as_secs())
}
