//! `KILL` with the number of a greeting.
//!
//! Clients know their sessions by numbers of Spillway's own, and ask a second session to end what a first one does, such as the
//! `mariadb` program at Ctrl-C. The node on which that one has its link is asked in the second one's name, by its own number
//! of the connection, and decides.
//!
//! What is killed is what runs on the connection that the session has when it is aimed at. It may be the session's next
//! statement, as on the servers, but never another session's: a link that was aimed at serves none.

use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use tracing::{debug, info};

use super::Session;
use super::admission::Credential;
use super::commands::{COMMAND_LIMIT, Conversation};
use super::handshake::read_fault;
use super::registry::Aim;
use super::relay::Relay;
use super::state::query_text;
use crate::auth::Proof;
use crate::backend::Link;
use crate::fault::{Blame, Fault};
use crate::sql;
use crate::wire::Capabilities;
use crate::wire::command::Command;
use crate::wire::packet::Err as ErrPacket;

/// How often the session is aimed at again because it went elsewhere meanwhile.
const AIMS: usize = 3;

/// `ER_NO_SUCH_THREAD`.
const UNKNOWN_THREAD: u16 = 1094;

/// `ER_QUERY_INTERRUPTED` and `ER_CONNECTION_KILLED`, by which who kills its own connection is told.
const INTERRUPTED: [u16; 2] = [1317, 1927];

const COM_PING: &[u8] = &[0x0E];

/// Which session is to be killed, and how.
#[derive(Debug)]
enum Order {
    /// `COM_QUERY`.
    Text(sql::Kill),
    /// `COM_PROCESS_KILL`.
    Process(u32),
}

/// What the client is answered.
enum Reply {
    /// As the node answered.
    Node(Bytes),
    Error(ErrPacket),
}

impl Order {
    fn decode(command: &[u8], capabilities: Capabilities) -> Option<Self> {
        let (byte, body) = command.split_first()?;
        match Command::from_byte(*byte) {
            Command::ProcessKill => body.first_chunk().map(|n| Self::Process(u32::from_le_bytes(*n))),
            _ => sql::kill(query_text(body, capabilities)?).map(Self::Text),
        }
    }

    fn number(&self) -> u32 {
        match self {
            Self::Text(kill) => kill.number,
            Self::Process(number) => *number,
        }
    }

    /// Whether only what is running is to end, not the session.
    fn is_query(&self) -> bool {
        match self {
            Self::Text(kill) => kill.is_query,
            Self::Process(_) => false,
        }
    }

    /// The command for the node, with its number.
    fn for_node(&self, link: &Link, connection: u32) -> BytesMut {
        match self {
            Self::Text(kill) => link.query(kill.text_for(connection).as_bytes()),
            Self::Process(_) => {
                let mut command = BytesMut::from(&[0x0C][..]);
                command.extend_from_slice(&connection.to_le_bytes());
                command
            }
        }
    }
}

impl Session {
    /// Handles a command that kills what a session of this Spillway does, or that session.
    pub(super) async fn kill(&mut self, relay: &mut Relay, credential: &Credential) -> Result<(), Fault> {
        let mut talk = Conversation::with(relay);
        let command = talk.packets.read(COMMAND_LIMIT).await.map_err(read_fault)?;
        talk.end();
        let order = Order::decode(&command, credential.capabilities)
            .ok_or_else(|| Fault::bad_handshake("a command that changed while it was read"))?;
        let reply = self.carry_out(&order, relay, credential).await?;
        self.registered.entry.statement_done();
        self.metrics.statements.inc();
        let mut talk = Conversation::with(relay);
        talk.packets.expect(1);
        match reply {
            Reply::Node(reply) => talk.packets.write(&reply).await.map_err(Fault::client_gone)?,
            Reply::Error(error) => talk.send_error(&error).await?,
        }
        talk.end();
        Ok(())
    }

    /// The reply to the order.
    async fn carry_out(
        &self,
        order: &Order,
        relay: &mut Relay,
        credential: &Credential,
    ) -> Result<Reply, Fault> {
        let unknown = || {
            let text = format!("Unknown thread id: {}", order.number());
            Reply::Error(ErrPacket::new(UNKNOWN_THREAD, b"HY000", text))
        };
        let own = Arc::clone(&self.registered.entry);
        for _ in 0..AIMS {
            let Some(target) = self.shared.registry.numbered(order.number()) else { break };
            let Some(aim) = target.aim() else { break };
            let here = own.place();
            let is_here =
                (here.cluster.as_ref(), here.node.as_ref()) == (Some(&aim.cluster), Some(&aim.node));
            let reply = if is_here {
                let command = order.for_node(relay.link(), aim.connection);
                self.ask_own_link(relay, credential, &command).await?
            } else {
                match self.order_elsewhere(order, &aim, credential).await {
                    Ok(Some(reply)) if reply.first() == Some(&0xFF) => reply,
                    // What it says of the session is that of another one.
                    Ok(Some(_)) => self.ask_own_link(relay, credential, COM_PING).await?,
                    Ok(None) => break,
                    Err(Fault { reply: Some(told), .. }) => return Ok(Reply::Error(told)),
                    Err(fault) => return Err(fault),
                }
            };
            let error = match reply.first() {
                Some(0xFF) => Some(ErrPacket::decode(&reply).map_err(Fault::bad_node)?),
                _ => None,
            };
            let code = error.as_ref().map(|error| error.code);
            let is_done = code.is_none_or(|code| INTERRUPTED.contains(&code));
            if is_done && !order.is_query() {
                // Before the look at where it is: a session that goes elsewhere looks at this once it is there.
                target.doom();
            }
            if matches!(code, None | Some(UNKNOWN_THREAD)) && target.is_elsewhere(&aim) {
                debug!(session = own.id.0, killed = target.id.0, "the session went elsewhere meanwhile");
                continue;
            }
            if is_done {
                let is_query = order.is_query();
                info!(session = own.id.0, killed = target.id.0, is_query, "killed by a statement");
            }
            return Ok(error.map_or(Reply::Node(reply), |error| Reply::Error(named(error, &aim, order))));
        }
        Ok(unknown())
    }

    /// One command on the session's own link.
    async fn ask_own_link(
        &self,
        relay: &mut Relay,
        credential: &Credential,
        command: &[u8],
    ) -> Result<Bytes, Fault> {
        let limit = self.connect_timeout(&credential.cluster);
        relay.link().order(command, limit).await.map_err(|error| {
            let detail = format!("KILL on a node of cluster {}: {error}", credential.cluster);
            Fault::killed("node_failed", Blame::Server, detail)
        })
    }

    /// Has a node other than the session's own carry it out, to which the session's user logs in for that. None: that user
    /// has no business there.
    async fn order_elsewhere(
        &self,
        order: &Order,
        aim: &Aim,
        credential: &Credential,
    ) -> Result<Option<Bytes>, Fault> {
        if matches!(credential.proof, Proof::Relayed) {
            return Ok(None);
        }
        let cluster = aim.cluster.clone();
        let mut killer = Credential { cluster, database: None, ..credential.clone() };
        if killer.cluster != credential.cluster {
            let is_served = self.service.clusters().contains(&killer.cluster);
            if !is_served || self.admit_again(&mut killer, b"").await.is_err() {
                return Ok(None);
            }
        }
        // Its link is as new as its login.
        killer.reuse = None;
        let mut placed = self.place_at(&killer, None, Some(&aim.node)).await?;
        let command = order.for_node(&placed.link, aim.connection);
        let limit = self.connect_timeout(&aim.cluster);
        let reply = placed.link.order(&command, limit).await.map_err(|error| {
            let reason = format!("KILL on node {} of cluster {}: {error}", aim.node, aim.cluster);
            Fault::refused("kill_failed", reason)
        })?;
        tokio::task::spawn_local(placed.link.quit());
        Ok(Some(reply))
    }
}

/// An error of the node, with the client's number in place of the node's.
fn named(error: ErrPacket, aim: &Aim, order: &Order) -> ErrPacket {
    let text = error.text();
    match text.strip_suffix(&aim.connection.to_string()) {
        Some(before) if !before.ends_with(|c: char| c.is_ascii_digit()) => {
            ErrPacket { message: format!("{before}{}", order.number()).into_bytes(), ..error }
        }
        _ => error,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_client_is_told_its_own_number() {
        let order = Order::Process(1 << 31);
        let aim = Aim { cluster: "shop".parse().unwrap(), node: "db1".parse().unwrap(), connection: 57 };
        for (said, told) in [
            ("You are not owner of thread 57", "You are not owner of thread 2147483648"),
            ("Unknown thread id: 57", "Unknown thread id: 2147483648"),
            ("Unknown thread id: 157", "Unknown thread id: 157"),
            ("Query execution was interrupted", "Query execution was interrupted"),
        ] {
            assert_eq!(named(ErrPacket::new(1095, b"HY000", said), &aim, &order).text(), told);
        }
    }

    #[test]
    fn only_plain_orders_are_understood() {
        let order = |command: &[u8]| Order::decode(command, Capabilities::empty());
        let query = order(b"\x03KILL QUERY 2147483650").expect("an order");
        assert_eq!((query.number(), query.is_query()), (2_147_483_650, true));
        let process = order(&[0x0C, 1, 0, 0, 0x80]).expect("an order");
        assert_eq!((process.number(), process.is_query()), (2_147_483_649, false));
        assert!(order(b"\x03SELECT 1").is_none() && order(&[0x0C, 1]).is_none());
    }
}
