//! The commands that Spillway answers itself: `COM_CHANGE_USER`, and a schema on another cluster.

use std::time::Duration;

use bytes::{BufMut, BytesMut};
use tracing::{debug, warn};

use super::Session;
use super::admission::{Asked, Credential};
use super::handshake::{HANDSHAKE_LIMIT, read_fault};
use super::relay::Relay;
use super::state::{SessionState, query_text};
use crate::auth::Proof;
use crate::backend::Link;
use crate::fault::{Blame, Fault};
use crate::net::{PacketStream, Stream};
use crate::routing::{self, Destination};
use crate::sql;
use crate::wire::Capabilities;
use crate::wire::command::Command;
use crate::wire::handshake::ChangeUser;
use crate::wire::packet::{self, Err as ErrPacket};

/// Longest command that is read whole.
pub(super) const COMMAND_LIMIT: usize = 64 * 1024;

/// Failed `COM_CHANGE_USER` after which the next one ends the session, as on `MariaDB`.
const MAX_FAILED_CHANGES: u8 = 3;

/// How long a node has to close a link that its account's limit may depend on.
const LEAVING: Duration = Duration::from_secs(1);

/// The client's side of a relay that is stopped at a command, for reading it and answering.
pub(super) struct Conversation<'a> {
    pub(super) packets: PacketStream<&'a mut Stream>,
    unread: &'a mut BytesMut,
}

impl<'a> Conversation<'a> {
    pub(super) fn with(relay: &'a mut Relay) -> Self {
        let (client, unread) = relay.client();
        let ahead = std::mem::take(unread);
        Self { packets: PacketStream::new(client, ahead, 0), unread }
    }

    pub(super) async fn send_error(&mut self, error: &ErrPacket) -> Result<(), Fault> {
        let mut out = BytesMut::new();
        error.put(&mut out, self.packets.sequence());
        self.packets.write_framed(&out).await.map_err(Fault::client_gone)
    }

    /// Tells the client what a fault says; a fault without words ends the session.
    async fn answer(&mut self, fault: &Fault) -> Result<(), Fault> {
        match &fault.reply {
            Some(error) => self.send_error(error).await,
            None => Err(fault.clone()),
        }
    }

    /// Puts bytes that were read ahead back to where the relay finds them.
    pub(super) fn end(self) {
        let (_, ahead) = self.packets.into_parts();
        *self.unread = ahead;
    }
}

/// Answers the command at which the relay is stopped with what the fault says.
pub(super) async fn refuse(relay: &mut Relay, fault: Option<Box<Fault>>) -> Result<(), Fault> {
    let Some(fault) = fault else { return Ok(()) };
    let mut talk = Conversation::with(relay);
    talk.packets.skip().await.map_err(read_fault)?;
    debug!(reason = fault.detail, "a command was refused");
    talk.answer(&fault).await?;
    talk.end();
    Ok(())
}

/// Answers a command that was read already.
pub(super) async fn refuse_read(relay: &mut Relay, fault: &Fault) -> Result<(), Fault> {
    let Some(error) = &fault.reply else { return Err(fault.clone()) };
    let mut talk = Conversation::with(relay);
    let mut out = BytesMut::new();
    error.put(&mut out, 1);
    talk.packets.write_framed(&out).await.map_err(Fault::client_gone)?;
    talk.end();
    Ok(())
}

impl Session {
    /// Re-authenticates the client and gives it a fresh link as the new user, or its own anew.
    ///
    /// As on the servers, the state of the session is gone whether this succeeds or not; after a
    /// failure the session goes on as the old user, and ends where the server is a `MySQL`.
    pub(super) async fn change_user(
        &mut self,
        relay: &mut Relay,
        credential: &mut Credential,
    ) -> Result<(), Fault> {
        let mut talk = Conversation::with(relay);
        let command = talk.packets.read(COMMAND_LIMIT).await.map_err(read_fault)?;
        if credential.failed_changes >= MAX_FAILED_CHANGES {
            let fault = Fault::unknown_command("COM_CHANGE_USER after three that failed");
            talk.answer(&fault).await?;
            return Err(Fault { reply: None, ..fault });
        }
        let asked =
            ChangeUser::decode(&command[1..], credential.capabilities).map_err(Fault::bad_handshake)?;
        let new = self.authenticate_again(&mut talk, credential, asked).await;
        let keeps = new.as_ref().ok().and_then(|new| self.keeps_its_link(credential, new));
        let attempt = match (new, keeps) {
            (Ok(new), Some(node)) => {
                let sequence = talk.packets.sequence();
                talk.end();
                let changed = self.change_on_link(relay.link(), &node, &new).await?;
                talk = Conversation::with(relay);
                talk.packets.expect(sequence);
                changed.map(|ok| (new, None, ok))
            }
            (Ok(new), None) => self.move_to_link(&mut talk, credential, new).await,
            (Err(fault), _) => Err(fault),
        };
        match attempt {
            Ok((new, link, ok)) => {
                let sequence = talk.packets.sequence();
                talk.end();
                let schema = new.database.clone();
                self.registered.entry.set_place(|place| {
                    place.schema = schema.as_deref().map(|s| String::from_utf8_lossy(s).into_owned());
                });
                *credential = new;
                match link {
                    Some(link) => {
                        let old = relay.replace_link(link);
                        if self.places.account.is_some() {
                            // The client may ask for another login at once.
                            old.leave(LEAVING).await;
                        }
                    }
                    None => relay.start_anew(),
                }
                relay.start_over(SessionState::after_login(schema).with_collation(credential.collation));
                relay.count(self.allowance(credential));
                let mut talk = Conversation::with(relay);
                talk.packets.expect(sequence);
                talk.packets.write(&ok).await.map_err(Fault::client_gone)?;
                talk.end();
                Ok(())
            }
            Err(fault) if fault.reply.is_some() => {
                credential.failed_changes += 1;
                debug!(
                    session = self.registered.entry.id.0,
                    reason = fault.detail,
                    "COM_CHANGE_USER refused"
                );
                self.shared.metrics.login_refused(fault.label);
                talk.answer(&fault).await?;
                if self.is_of_mysql(credential) {
                    return Err(Fault { reply: None, ..fault });
                }
                talk.end();
                self.reset_link(relay, credential).await
            }
            Err(fault) => Err(fault),
        }
    }

    fn is_of_mysql(&self, credential: &Credential) -> bool {
        let accounts = self.shared.accounts.load();
        accounts.get(&credential.cluster).is_some_and(|of| of.snapshot.product().is_mysql())
    }

    async fn authenticate_again(
        &mut self,
        talk: &mut Conversation<'_>,
        old: &Credential,
        asked: ChangeUser,
    ) -> Result<Credential, Fault> {
        let asked = Asked {
            user: asked.user,
            database: asked.database,
            capabilities: old.capabilities,
            collation: asked.collation.unwrap_or(old.collation),
            max_packet: old.max_packet,
            attributes: asked.attributes.or_else(|| old.attributes.clone()),
            // A reply over a scramble that was used before proves nothing: always a fresh one.
            first_reply: None,
        };
        self.authenticate(&mut talk.packets, asked).await
    }

    /// Gives the session another link, as its new user; with the OK packet for the client.
    async fn move_to_link(
        &mut self,
        talk: &mut Conversation<'_>,
        old: &Credential,
        mut credential: Credential,
    ) -> Result<(Credential, Option<Link>, bytes::Bytes), Fault> {
        let relayed = matches!(credential.proof, Proof::Relayed);
        let placed = if relayed {
            // Whom it proves to be only now does not count before.
            match self.place_client(&mut talk.packets, &mut credential).await {
                Ok(placed) => self.count_user(&credential.user).map(|()| placed),
                Err(fault) => Err(fault),
            }
        } else {
            match self.count_user(&credential.user) {
                Ok(()) => self.place_client(&mut talk.packets, &mut credential).await,
                Err(fault) => Err(fault),
            }
        };
        if placed.is_err() {
            // Where others have taken the place meanwhile, the session goes on without.
            let _ = self.count_user(&old.user);
        }
        let placed = placed?;
        let link = self.reach(&credential, placed);
        let ok = packet::vouching(&link.origin.ok, None, link.capabilities);
        Ok((credential, Some(link), ok))
    }

    /// Brings the link back to the state after login; the old user stays.
    async fn reset_link(&mut self, relay: &mut Relay, credential: &Credential) -> Result<(), Fault> {
        const COM_RESET_CONNECTION: &[u8] = &[0x1F];
        let schema = relay.state.schema().map(<[u8]>::to_vec);
        let mut packets = PacketStream::new(&mut relay.link().stream, BytesMut::new(), 0);
        let broken = |e: &dyn std::fmt::Display| {
            Fault::killed("node_failed", Blame::Server, format!("reset of the link: {e}"))
        };
        packets.write(COM_RESET_CONNECTION).await.map_err(|e| broken(&e))?;
        let reply = packets.read(COMMAND_LIMIT).await.map_err(|e| broken(&e))?;
        if reply.first() != Some(&0) {
            return Err(broken(&"refused by the server"));
        }
        relay.start_over(SessionState::after_login(schema).with_collation(credential.collation));
        Ok(())
    }

    /// Handles `USE` or `COM_INIT_DB` of a schema that belongs to another cluster: the session must be
    /// free of pins and satisfy that cluster's own accounts with what the client proved at login.
    pub(super) async fn move_to_schema(
        &mut self,
        relay: &mut Relay,
        credential: &mut Credential,
    ) -> Result<(), Fault> {
        let pins = relay.state.pins_to_cluster();
        let settings = relay.state.settings().to_vec();
        let mut talk = Conversation::with(relay);
        let command = talk.packets.read(COMMAND_LIMIT).await.map_err(read_fault)?;
        let schema = schema_of(&command, credential.capabilities)
            .ok_or_else(|| Fault::bad_handshake("a command that changed while it was read"))?;
        let attempt = if pins.is_empty() {
            self.enter(&command, &schema, &settings, credential).await
        } else {
            let pins = pins.iter().map(ToString::to_string).collect::<Vec<_>>().join("; ");
            Err(Refusal::Fault(Fault::refused(
                "pinned",
                format!(
                    "schema {:?} is on another cluster, and the session cannot leave cluster {} now: {pins}",
                    String::from_utf8_lossy(&schema),
                    self.cluster.as_ref().map_or("?", |c| c.as_str()),
                ),
            )))
        };
        match attempt {
            Ok((placed, reply, moved)) => {
                talk.packets.write(&reply).await.map_err(Fault::client_gone)?;
                talk.end();
                let link = self.reach(&moved, placed);
                // What happens to the session from here on is the other cluster's affair.
                *credential = moved;
                let name = String::from_utf8_lossy(&schema).into_owned();
                self.registered.entry.set_place(|place| place.schema = Some(name));
                relay.replace_link(link);
                relay.state.moved(schema);
                relay.count(self.allowance(credential));
                Ok(())
            }
            Err(Refusal::Server(error)) => {
                talk.send_error(&error).await?;
                talk.end();
                Ok(())
            }
            Err(Refusal::Fault(fault)) => {
                debug!(session = self.registered.entry.id.0, reason = fault.detail, "USE refused");
                talk.answer(&fault).await?;
                talk.end();
                Ok(())
            }
        }
    }

    /// A link on the schema's cluster with the session's settings, that node's answer to the command, and what the session
    /// is there.
    async fn enter(
        &mut self,
        command: &[u8],
        schema: &[u8],
        settings: &[Vec<u8>],
        credential: &Credential,
    ) -> Result<(super::placing::Placed, bytes::Bytes, Credential), Refusal> {
        let accounts = self.shared.accounts.load();
        let cluster = match routing::destination(&self.service.route, schema, &accounts) {
            Destination::Cluster(cluster) => cluster,
            other => {
                return Err(Refusal::Fault(Fault::refused(
                    "ambiguous_schema",
                    format!("schema {:?} leads to {other:?}", String::from_utf8_lossy(schema)),
                )));
            }
        };
        let mut moved =
            Credential { cluster: cluster.clone(), database: None, reuse: None, ..credential.clone() };
        self.admit_again(&mut moved, schema).await.map_err(Refusal::Fault)?;
        let mut placed = self.place_counted(&moved).await.map_err(Refusal::Fault)?;
        let limit = self.connect_timeout(&cluster);
        if placed.link.is_used() {
            placed.link = placed.link.tidy(None, limit).await.map_err(link_refusal)?;
        }
        for setting in settings {
            let mut query = BytesMut::with_capacity(3 + setting.len());
            query.put_u8(3);
            if placed.link.capabilities.contains(Capabilities::QUERY_ATTRIBUTES) {
                query.put_slice(&[0, 1]);
            }
            query.put_slice(setting);
            let (link, reply) = placed.link.command(&query, limit).await.map_err(link_refusal)?;
            if reply.first() == Some(&0xFF) {
                return Err(error_of(&reply));
            }
            placed.link = link;
        }
        let (link, reply) = placed.link.command(command, limit).await.map_err(link_refusal)?;
        if reply.first() == Some(&0xFF) {
            return Err(error_of(&reply));
        }
        placed.link = link;
        Ok((placed, reply, moved))
    }
}

/// Why a session stays where it is.
enum Refusal {
    /// The other cluster's server said so.
    Server(ErrPacket),
    /// Spillway says so.
    Fault(Fault),
}

fn error_of(reply: &[u8]) -> Refusal {
    match ErrPacket::decode(reply) {
        Ok(error) => Refusal::Server(error),
        Err(malformed) => Refusal::Fault(Fault::bad_node(malformed)),
    }
}

fn link_refusal(e: crate::backend::LinkError) -> Refusal {
    warn!(error = %e, "a fresh link failed");
    Refusal::Fault(Fault::unavailable("link_failed", e))
}

fn schema_of(command: &[u8], capabilities: Capabilities) -> Option<Vec<u8>> {
    let (byte, body) = command.split_first()?;
    match Command::from_byte(*byte) {
        Command::InitDb => Some(body.to_vec()),
        Command::Query => sql::used_schema(query_text(body, capabilities)?),
        _ => None,
    }
}

const _: () = assert!(COMMAND_LIMIT <= packet::MAX_PAYLOAD && HANDSHAKE_LIMIT <= packet::MAX_PAYLOAD);
