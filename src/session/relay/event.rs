//! What a relay stops for.

use crate::fault::Fault;
use crate::wire::command::Command;
use crate::wire::packet::Err as ErrPacket;

/// Why the relay stopped.
#[derive(Debug)]
pub enum Event {
    /// A command for Spillway is next in the client's stream; everything before it is answered. `ProcessKill` is any that
    /// kills a session of this Spillway.
    Command(Command),
    /// The client closed its connection.
    ClientClosed,
    /// The node closed its connection, perhaps after a last word.
    NodeClosed(Option<ErrPacket>),
    /// The node's machine answers no more on this connection.
    NodeSilent,
    /// The session was asked to leave its link and can do so now: nothing is under way, and nothing pins it.
    Movable,
    /// The node refused the only statement under way because it takes none of its kind now; nothing has happened, and the
    /// client has not been told.
    Rejected(ErrPacket),
    /// Somebody broke the protocol or a socket failed.
    Failed(Fault),
}
