//! Spillway, a MySQL-aware TCP proxy.
//!
//! Applications connect to Spillway with any MySQL or MariaDB client. It authenticates them against
//! the accounts that it loaded from the database clusters, routes each session to a healthy node, and
//! is operated through a text console, an HTTP API and a command line. It is never more permissive
//! than the servers behind it.
//!
//! # Map
//!
//! A module uses only modules of its own line or of the lines above it; `tests/architecture.rs`
//! checks that, and which module may use which outside crate.
//!
//! | level | modules |
//! |---|---|
//! | 1 words | [`ids`], [`lifecycle`], [`metrics`] |
//! | 2 languages | [`wire`] (the protocol, without I/O), [`sql`] (lexer, effects of statements), [`fault`] (whose fault, and what the client is told), [`tls`] (certificates and keys, without I/O) |
//! | 3 decisions | [`config`] (raw to checked), [`grants`] (who may log in), [`auth`] (plugins), [`topology`] (nodes and roles), [`accounts`] (the last good accounts), [`routing`] (which cluster) |
//! | 4 effects | [`net`] (sockets, TLS, packets, names of addresses), [`backend`] (links to nodes), [`session`] (handshake, relay, state, registry), [`monitor`] (probes, account loading), [`handover`] (changes of the writer) |
//! | 5 handles | [`control`] (every operation, once), [`console`], [`api`] |
//! | 6 assembly | [`app`] |
//!
//! # The life of a client connection
//!
//! 1. A worker of [`app`] accepts, and keeps the client unless another worker has clearly fewer sessions.
//! 2. [`session::serve`] greets, goes on under TLS if the client wants it, reads the response, and
//!    asks [`grants`] for the account and [`auth`] for the proof.
//! 3. [`routing`] names the cluster, [`topology`] the node.
//! 4. [`backend`] leases a link: one that served the same login before, or a new one, logged in as the client's own
//!    user.
//! 5. [`session::relay`] forwards bytes both ways and follows every reply to its end.
//! 6. When its node is lost, drained or no longer the writer, the session goes on at another one between two statements,
//!    unless something pins it ([`session::settle`], [`session::state`]).
//! 7. The session ends with one [`fault::Outcome`], one metric update and one log line. Its link serves another session
//!    if nothing of this one can be left on it.

pub mod accounts;
pub mod api;
pub mod app;
pub mod auth;
pub mod backend;
pub mod config;
pub mod console;
pub mod control;
pub mod fault;
pub mod grants;
pub mod handover;
pub mod ids;
pub mod lifecycle;
pub mod metrics;
pub mod monitor;
pub mod net;
pub mod routing;
pub mod session;
pub mod sql;
pub mod tls;
pub mod topology;
pub mod wire;
