//! The MySQL client/server protocol without I/O: packets in, packets out, and where a reply ends.
//!
//! | file | what |
//! |---|---|
//! | [`capabilities`] | capability and status flags of both products |
//! | [`codec`] | bounded reading and writing of the protocol's integers and strings |
//! | [`handshake`] | greeting, handshake response, auth switch, `COM_CHANGE_USER` |
//! | [`packet`] | packet headers, OK, ERR and EOF packets |
//! | [`command`] | command bytes and the kind of reply that each one gets |
//! | [`reply`] | [`reply::ReplyTracker`]: follows a reply by its packet heads |
//! | [`statement`] | numbers and parameter types of prepared statements |
//! | [`walk`] | [`walk::Walker`]: finds packet heads in a byte stream |
//!
//! Everything here treats its input as hostile: lengths are checked before use, and a malformed
//! packet is an error, never a panic.

pub mod capabilities;
pub mod codec;
pub mod command;
pub mod handshake;
pub mod packet;
pub mod reply;
pub mod statement;
pub mod walk;

pub use capabilities::{Capabilities, Status};
pub use codec::Malformed;
pub use command::Command;
