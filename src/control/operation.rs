//! Every operation, once, as data: words, arguments, help, required right, HTTP route, result.
//!
//! The console's commands and its `help`, the API's routes and the OpenAPI document are made from [`OPERATIONS`]; a
//! new operation is a new entry, a new [`Verb`] and its arm in [`Control::run`](super::Control::run).

use serde::Serialize;

use super::answer::{self, Column};

/// What a caller must be allowed to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Right {
    /// Look.
    Read,
    /// Change something.
    Write,
}

/// Which operation it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[expect(missing_docs, reason = "each is described by its entry in OPERATIONS")]
pub enum Verb {
    Help,
    ShowClusters,
    ShowNodes,
    ShowSessions,
    ShowAccounts,
    ShowPermissiveness,
    ExplainLogin,
    ShowBackoffs,
    ClearBackoffs,
    ClearLimits,
    ShowListeners,
    ShowVersion,
    ShowEvents,
    ExplainNode,
    SetNode,
    SetWriter,
    Switch,
    Failover,
    KillSession,
    ReloadAccounts,
    ReloadConfig,
    Quit,
}

/// What an argument may be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// The name of a cluster.
    Cluster,
    /// The name of a node.
    Node,
    /// The number of a session.
    Session,
    /// A name or an address, without blanks.
    Text,
    /// Whether something is wanted: `--name` in the console, `true` in a request.
    Flag,
    /// One of a few words.
    Word(&'static [&'static str]),
    /// The words of a command; takes everything that follows.
    Command,
}

/// One argument of an operation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Argument {
    /// Its name in paths, queries and bodies; upper case in the console's help.
    pub name: &'static str,
    /// What it may be.
    pub kind: Kind,
    /// Whether it must be given. Optional ones come last.
    pub required: bool,
    /// What it means, in a few words.
    pub help: &'static str,
}

/// The methods of the API.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[expect(missing_docs, reason = "they are HTTP's own")]
pub enum Method {
    Get,
    Put,
    Post,
    Delete,
}

/// How the API offers an operation. An argument named in the path comes from there; the others come from the query
/// (`GET`, `DELETE`) or from the JSON body (`PUT`, `POST`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Http {
    /// The method.
    pub method: Method,
    /// The path with `{argument}` for what varies.
    pub path: &'static str,
    /// A field of the body, with the word that selects this operation among those of the same method and path.
    pub selector: Option<(&'static str, &'static str)>,
}

/// What an operation gives when it succeeds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Shape {
    /// A list of rows under this key.
    List(&'static str, &'static [Column]),
    /// One row.
    One(&'static [Column]),
    /// What was done ([`answer::Done`]).
    Done,
    /// Something for the console only.
    Console,
}

/// One operation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Operation {
    /// Which it is.
    pub verb: Verb,
    /// The console's words for it.
    pub words: &'static [&'static str],
    /// Its arguments in the console's order.
    pub arguments: &'static [Argument],
    /// What it does, in one line.
    pub help: &'static str,
    /// What the caller must be allowed to do.
    pub right: Right,
    /// How the API offers it; none: not at all.
    pub http: Option<Http>,
    /// What it gives.
    pub result: Shape,
}

/// The states of a node that an operator can want.
pub const DESIRED: &[&str] = &["enabled", "drain", "maintenance"];

const CLUSTER: Argument =
    Argument { name: "cluster", kind: Kind::Cluster, required: true, help: "the cluster's name" };
const ONE_CLUSTER: Argument =
    Argument { name: "cluster", kind: Kind::Cluster, required: false, help: "only this cluster" };
const NODE: Argument =
    Argument { name: "node", kind: Kind::Node, required: true, help: "the node's name within its cluster" };
const NEW_WRITER: Argument = Argument {
    name: "node",
    kind: Kind::Node,
    required: false,
    help: "the new writer; the peer or the best replica unless it is given",
};
const DRY_RUN: Argument = Argument {
    name: "dry_run",
    kind: Kind::Flag,
    required: false,
    help: "only tell the conditions and what would be done",
};
const STATE: Argument = Argument {
    name: "state",
    kind: Kind::Word(DESIRED),
    required: true,
    help: "enabled: serve; drain: sessions go on at other nodes as they can; maintenance: the others end soon, too",
};
const HELD: Argument = Argument {
    name: "who",
    kind: Kind::Text,
    required: false,
    help: "only this one, as show backoffs writes it",
};
const SESSION: Argument = Argument {
    name: "id",
    kind: Kind::Session,
    required: true,
    help: "the session's number in show sessions",
};
const USER: Argument =
    Argument { name: "user", kind: Kind::Text, required: true, help: "the login name; '' for an empty one" };
const ADDRESS: Argument = Argument {
    name: "address",
    kind: Kind::Text,
    required: true,
    help: "the client's IP address; socket: a Unix socket of Spillway; socket:UID: the same by this user",
};
const DATABASE: Argument = Argument {
    name: "database",
    kind: Kind::Text,
    required: false,
    help: "the default schema that the login names; '' for none",
};
const TRANSPORT: Argument = Argument {
    name: "transport",
    kind: Kind::Word(&["plain", "tls", "certificate"]),
    required: false,
    help: "how the client is connected; plain unless it is given",
};
const COMMAND: Argument =
    Argument { name: "command", kind: Kind::Command, required: false, help: "the command to explain" };

const fn get(path: &'static str) -> Http {
    Http { method: Method::Get, path, selector: None }
}

const fn reload(what: &'static str) -> Http {
    Http { method: Method::Post, path: "/v1/reload", selector: Some(("what", what)) }
}

/// All operations, in the order of the help.
pub const OPERATIONS: &[Operation] = &[
    Operation {
        verb: Verb::Help,
        words: &["help"],
        arguments: &[COMMAND],
        help: "list the commands, or explain one",
        right: Right::Read,
        http: None,
        result: Shape::Console,
    },
    Operation {
        verb: Verb::ShowClusters,
        words: &["show", "clusters"],
        arguments: &[],
        help: "clusters with their writer, their accounts and their databases",
        right: Right::Read,
        http: Some(get("/v1/clusters")),
        result: Shape::List("clusters", answer::CLUSTER_COLUMNS),
    },
    Operation {
        verb: Verb::ShowNodes,
        words: &["show", "nodes"],
        arguments: &[ONE_CLUSTER],
        help: "nodes with their role, their desired and observed states, and why",
        right: Right::Read,
        http: Some(get("/v1/nodes")),
        result: Shape::List("nodes", answer::NODE_COLUMNS),
    },
    Operation {
        verb: Verb::ShowSessions,
        words: &["show", "sessions"],
        arguments: &[],
        help: "client sessions, oldest first",
        right: Right::Read,
        http: Some(get("/v1/sessions")),
        result: Shape::List("sessions", answer::SESSION_COLUMNS),
    },
    Operation {
        verb: Verb::ShowAccounts,
        words: &["show", "accounts"],
        arguments: &[ONE_CLUSTER],
        help: "accounts as they were read from the clusters, without passwords",
        right: Right::Read,
        http: Some(get("/v1/accounts")),
        result: Shape::List("accounts", answer::ACCOUNT_COLUMNS),
    },
    Operation {
        verb: Verb::ShowPermissiveness,
        words: &["show", "permissiveness"],
        arguments: &[ONE_CLUSTER],
        help: "accounts that their servers would let in and Spillway does not, or with less, and why",
        right: Right::Read,
        http: Some(get("/v1/permissiveness")),
        result: Shape::List("permissiveness", answer::PERMISSIVENESS_COLUMNS),
    },
    Operation {
        verb: Verb::ExplainLogin,
        words: &["explain", "login"],
        arguments: &[USER, ADDRESS, DATABASE, ONE_CLUSTER, TRANSPORT],
        help: "what would become of a login, step by step, on each cluster",
        right: Right::Read,
        http: Some(get("/v1/explain/login")),
        result: Shape::List("steps", answer::STEP_COLUMNS),
    },
    Operation {
        verb: Verb::ShowBackoffs,
        words: &["show", "backoffs"],
        arguments: &[],
        help: "addresses and accounts whose logins are held back after too many that failed",
        right: Right::Read,
        http: Some(get("/v1/backoffs")),
        result: Shape::List("backoffs", answer::BACKOFF_COLUMNS),
    },
    Operation {
        verb: Verb::ClearBackoffs,
        words: &["clear", "backoffs"],
        arguments: &[HELD],
        help: "forget the failed logins of an address or account, or of all",
        right: Right::Write,
        http: Some(Http { method: Method::Delete, path: "/v1/backoffs", selector: None }),
        result: Shape::Done,
    },
    Operation {
        verb: Verb::ClearLimits,
        words: &["clear", "limits"],
        arguments: &[CLUSTER],
        help: "begin the hour of all accounts with hourly limits anew, as FLUSH USER_RESOURCES does on a node",
        right: Right::Write,
        http: Some(Http { method: Method::Delete, path: "/v1/clusters/{cluster}/limits", selector: None }),
        result: Shape::Done,
    },
    Operation {
        verb: Verb::ShowListeners,
        words: &["show", "listeners"],
        arguments: &[],
        help: "addresses that clients connect to",
        right: Right::Read,
        http: Some(get("/v1/listeners")),
        result: Shape::List("listeners", answer::LISTENER_COLUMNS),
    },
    Operation {
        verb: Verb::ShowEvents,
        words: &["show", "events"],
        arguments: &[ONE_CLUSTER],
        help: "what changed in the clusters, oldest first: states of nodes, writers, alarms",
        right: Right::Read,
        http: Some(get("/v1/events")),
        result: Shape::List("events", answer::EVENT_COLUMNS),
    },
    Operation {
        verb: Verb::ExplainNode,
        words: &["explain", "node"],
        arguments: &[CLUSTER, NODE],
        help: "why a node serves what it serves: wishes, verdict, role, and what its last probe read",
        right: Right::Read,
        http: Some(get("/v1/clusters/{cluster}/nodes/{node}")),
        result: Shape::List("facts", answer::FACT_COLUMNS),
    },
    Operation {
        verb: Verb::ShowVersion,
        words: &["show", "version"],
        arguments: &[],
        help: "the version of Spillway and the phase of its life",
        right: Right::Read,
        http: Some(get("/v1/version")),
        result: Shape::One(answer::VERSION_COLUMNS),
    },
    Operation {
        verb: Verb::SetNode,
        words: &["set", "node"],
        arguments: &[CLUSTER, NODE, STATE],
        help: "say what is wanted of a node",
        right: Right::Write,
        http: Some(Http {
            method: Method::Put,
            path: "/v1/clusters/{cluster}/nodes/{node}/state",
            selector: None,
        }),
        result: Shape::Done,
    },
    Operation {
        verb: Verb::SetWriter,
        words: &["set", "writer"],
        arguments: &[CLUSTER, NODE],
        help: "make a node the writer, where several nodes may be",
        right: Right::Write,
        http: Some(Http { method: Method::Put, path: "/v1/clusters/{cluster}/writer", selector: None }),
        result: Shape::Done,
    },
    Operation {
        verb: Verb::Switch,
        words: &["switch"],
        arguments: &[CLUSTER, NEW_WRITER, DRY_RUN],
        help: "make another node the writer of a pair or of a replication cluster; the old one must live",
        right: Right::Write,
        http: Some(Http { method: Method::Post, path: "/v1/clusters/{cluster}/switch", selector: None }),
        result: Shape::List("procedure", answer::PROCEDURE_COLUMNS),
    },
    Operation {
        verb: Verb::Failover,
        words: &["failover"],
        arguments: &[CLUSTER, NEW_WRITER, DRY_RUN],
        help: "make another node the writer because the old one is lost",
        right: Right::Write,
        http: Some(Http { method: Method::Post, path: "/v1/clusters/{cluster}/failover", selector: None }),
        result: Shape::List("procedure", answer::PROCEDURE_COLUMNS),
    },
    Operation {
        verb: Verb::KillSession,
        words: &["kill", "session"],
        arguments: &[SESSION],
        help: "end a session; its client is told so",
        right: Right::Write,
        http: Some(Http { method: Method::Delete, path: "/v1/sessions/{id}", selector: None }),
        result: Shape::Done,
    },
    Operation {
        verb: Verb::ReloadAccounts,
        words: &["reload", "accounts"],
        arguments: &[ONE_CLUSTER],
        help: "read the accounts from the clusters again, and wait for it",
        right: Right::Write,
        http: Some(reload("accounts")),
        result: Shape::Done,
    },
    Operation {
        verb: Verb::ReloadConfig,
        words: &["reload", "config"],
        arguments: &[],
        help: "read the configuration file again; it is applied as a whole or not at all",
        right: Right::Write,
        http: Some(reload("config")),
        result: Shape::Done,
    },
    Operation {
        verb: Verb::Quit,
        words: &["quit"],
        arguments: &[],
        help: "leave the console",
        right: Right::Read,
        http: None,
        result: Shape::Console,
    },
];

// === impl Kind ===

impl Kind {
    /// What is expected, in words that fit behind "expected".
    pub fn expected(self) -> String {
        match self {
            Self::Cluster => "the name of a cluster".to_owned(),
            Self::Node => "the name of a node".to_owned(),
            Self::Session => "the number of a session".to_owned(),
            Self::Text => "a text without blanks".to_owned(),
            Self::Flag => "true or false".to_owned(),
            Self::Word(words) => format!("one of: {}", words.join(", ")),
            Self::Command => "a command".to_owned(),
        }
    }
}

// === impl Argument ===

impl Argument {
    /// The argument by its name in the console: `--dry-run`.
    pub(super) fn option(&self) -> String {
        format!("--{}", self.name.replace('_', "-"))
    }

    /// The argument in a usage line: `CLUSTER`, `[CLUSTER]`, `enabled|drain|maintenance`, `[--dry-run]`.
    pub fn usage(&self) -> String {
        let text = match self.kind {
            Kind::Word(words) => words.join("|"),
            Kind::Flag => self.option(),
            _ => self.name.to_uppercase(),
        };
        if self.required { text } else { format!("[{text}]") }
    }
}

// === impl Method ===

impl Method {
    /// The method as requests write it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Get => "GET",
            Self::Put => "PUT",
            Self::Post => "POST",
            Self::Delete => "DELETE",
        }
    }

    /// Whether arguments outside the path come in a JSON body.
    pub fn has_body(self) -> bool {
        matches!(self, Self::Put | Self::Post)
    }
}

// === impl Http ===

impl Http {
    /// The names in the path's braces.
    pub fn placeholders(&self) -> impl Iterator<Item = &'static str> {
        self.path.split('/').filter_map(|part| part.strip_prefix('{')?.strip_suffix('}'))
    }

    /// Whether an argument comes from the path.
    pub fn in_path(&self, argument: &Argument) -> bool {
        self.placeholders().any(|name| name == argument.name)
    }
}

// === impl Operation ===

impl Operation {
    /// The console's words, joined: `set node`.
    pub fn name(&self) -> String {
        self.words.join(" ")
    }

    /// Words and arguments: `set node CLUSTER NODE enabled|drain|maintenance`.
    pub fn usage(&self) -> String {
        let arguments = self.arguments.iter().map(Argument::usage);
        self.words.iter().map(|w| (*w).to_owned()).chain(arguments).collect::<Vec<_>>().join(" ")
    }
}
