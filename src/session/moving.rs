//! A session leaves its node: because that is gone, because an operator wants it to, or because the node refuses what it sends.
//!
//! The client does not notice, unless the session has a [`Pin`]. Nothing is ever sent a second time that may have
//! had an effect the first time.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::{Instant, sleep_until, timeout, timeout_at};
use tracing::{debug, info};

use super::commands::{Conversation, refuse_read};
use super::handshake::read_fault;
use super::hold::Patience;
use super::registry::Leave;
use super::relay::Relay;
use super::{Credential, Leaving, Session, settle, unless_ended};
use crate::auth::Proof;
use crate::backend::LinkError;
use crate::config::NodeChoice;
use crate::fault::{Blame, Fault};
use crate::ids::NodeName;
use crate::topology::{Evidence, Topology};
use crate::wire::packet::Err as ErrPacket;

/// How long a session waits to hear whether the node that closed its link is gone. A session that was killed there ends.
const VERDICT: Duration = Duration::from_secs(1);

/// How soon a node that refused a statement is asked again while it is still the one for it: it may take it by then, and
/// probes may have seen nothing of it.
const ASK_AGAIN: Duration = Duration::from_millis(200);

/// Longest `COM_STMT_EXECUTE` that can be rewritten.
const EXECUTE_LIMIT: usize = 48 * 1024;

/// `ER_UNKNOWN_COM_ERROR`, which a Galera node gives that is not part of the primary component.
pub(super) const NOT_PREPARED: u16 = 1047;

/// `ER_BAD_DB_ERROR`.
const UNKNOWN_DATABASE: u16 = 1049;

/// `ER_NEED_REPREPARE`.
const NEED_REPREPARE: u16 = 1615;

/// What a server says when it ends connections because it stops: `ER_SERVER_SHUTDOWN`, and `MariaDB` also
/// `ER_CONNECTION_KILLED`.
const STOPPING: [u16; 2] = [1053, 1927];

/// Whether the link that a session is about to leave can still be used.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum OldLink {
    /// It can, and is asked what only it knows.
    Answers,
    /// It can not.
    Lost,
}

/// Since when nodes refuse the statement that is under way.
#[derive(Debug, Default)]
pub(super) struct Refusals {
    /// The statements before it.
    before: u64,
    since: Option<Instant>,
}

impl Refusals {
    fn since(&mut self, before: u64) -> Instant {
        if self.before != before {
            *self = Self { before, since: None };
        }
        *self.since.get_or_insert_with(Instant::now)
    }
}

impl Session {
    /// The link broke. The session goes on at another node, if the node is really gone and the session can.
    pub(super) async fn link_lost(
        &mut self,
        relay: &mut Relay,
        credential: &Credential,
        words: Option<ErrPacket>,
    ) -> Result<(), Fault> {
        self.suspect(words.as_ref().map_or(Evidence::ConnectionLost, |words| Evidence::Error(words.code)));
        let entry = &self.registered.entry;
        if entry.place().is_aimed_at && timeout(VERDICT, entry.doomed()).await.is_ok() {
            return Err(was_killed(words));
        }
        let told = words.as_ref().is_some_and(|words| !STOPPING.contains(&words.code));
        let fault = self.node_closed(words);
        if told || !can_move(relay, credential) {
            return Err(with_pin(fault, relay, credential));
        }
        if !self.node_is_gone().await {
            return Err(fault);
        }
        self.relocate(relay, credential, "its node is gone").await
    }

    /// The link died without a word. Nobody closed it, so the session goes on, if it can: at another node, or the same one.
    pub(super) async fn link_died(
        &mut self,
        relay: &mut Relay,
        credential: &Credential,
    ) -> Result<(), Fault> {
        self.suspect(Evidence::Silence);
        if !can_move(relay, credential) {
            return Err(with_pin(self.node_silent(), relay, credential));
        }
        self.relocate(relay, credential, "its connection died").await
    }

    /// The wish that the session leaves its node changed, or may be possible now.
    pub(super) async fn wished(
        &mut self,
        relay: &mut Relay,
        credential: &Credential,
        leaving: &mut Option<Box<Leaving>>,
    ) -> Result<(), Fault> {
        let entry = Arc::clone(&self.registered.entry);
        relay.watch(entry.is_watched());
        let Some(wish) = entry.wish_now() else {
            *leaving = None;
            relay.leave(false);
            return Ok(());
        };
        if wish.at_once {
            *leaving = None;
            relay.leave(false);
            if !can_move(relay, credential) {
                let fault = Fault::killed("node_left", Blame::Server, &wish.reason);
                return Err(with_pin(fault, relay, credential));
            }
            return unless_ended(&entry, self.relocate(relay, credential, &wish.reason)).await;
        }
        relay.leave(!matches!(credential.proof, Proof::Relayed) && self.is_to_leave());
        if leaving.as_ref().is_none_or(|known| known.wish != wish) {
            let deadline = wish.deadline.map(|deadline| Box::pin(sleep_until(deadline)));
            *leaving = Some(Box::new(Leaving { wish, deadline }));
        }
        Ok(())
    }

    /// The session can leave its link, as was wished. Where it cannot be placed elsewhere now, it stays until the next
    /// change.
    pub(super) async fn move_away(
        &mut self,
        relay: &mut Relay,
        credential: &Credential,
        wish: Option<&Leave>,
    ) -> Result<(), Fault> {
        relay.leave(false);
        if !self.is_to_leave() {
            return Ok(());
        }
        // Where the change of the writer is taken back, the session is at the right node still.
        if self.wait_in_silence(relay, OldLink::Answers).await? {
            // It is heard what that is, and the session leaves afterwards if it still can.
            relay.leave(true);
            return Ok(());
        }
        if relay.is_silent() && !self.is_to_leave() {
            return Ok(());
        }
        let reason = wish.map_or("", |wish| wish.reason.as_str());
        let mut old = OldLink::Answers;
        match self.relocate_from(&mut old, relay, credential, reason).await {
            Err(fault)
                if fault.blame != Blame::Client
                    && old == OldLink::Answers
                    && wish.is_some_and(|wish| !wish.at_once)
                    && !self.node_is_lost() =>
            {
                debug!(session = self.registered.entry.id.0, %fault, "the session stays where it is");
                Ok(())
            }
            done => done,
        }
    }

    /// The node refused a statement because of what it is now. Another one takes it, once there is one, or the same node
    /// when it can again.
    pub(super) async fn refused(
        &mut self,
        relay: &mut Relay,
        credential: &Credential,
        refusal: &ErrPacket,
        refusals: &mut Refusals,
    ) -> Result<(), Fault> {
        let moves = self.moves(credential);
        let since = refusals.since(self.registered.entry.statements());
        let deadline = since + moves.hold.unwrap_or_default();
        // Who asked for any node may well be on a read-only one.
        let is_read_only = refusal.code != NOT_PREPARED;
        let hopeless = is_read_only && self.service.node == NodeChoice::Any && !self.has_better_node();
        self.suspect(Evidence::Error(refusal.code));
        if hopeless || !can_leave(relay, credential) {
            self.pass_refusal(relay, refusal);
            return Ok(());
        }
        let mut changes = self.shared.topology.subscribe();
        let entry = Arc::clone(&self.registered.entry);
        let mut patience = Patience::of(&entry);
        let again = Instant::now() + ASK_AGAIN;
        while !(self.has_better_node() || self.has_node() && Instant::now() >= again) {
            let (held, cluster) = (&self.shared.held, &credential.cluster);
            let until = if self.has_node() { again.min(deadline) } else { deadline };
            let change = timeout_at(until, changes.changed());
            let waited = tokio::select! {
                waited = patience.wait(held, cluster, &moves, change) => waited,
                gone = relay.client_gone() => return Err(gone),
            };
            if !waited || Instant::now() >= deadline {
                self.pass_refusal(relay, refusal);
                return Ok(());
            }
        }
        let mut old = OldLink::Answers;
        self.relocate_from(&mut old, relay, credential, "its node refused a statement").await
    }

    /// The client is told that its statement was refused, which is the reply to it.
    fn pass_refusal(&self, relay: &mut Relay, refusal: &ErrPacket) {
        relay.pass_refusal(refusal);
        self.metrics.statements.inc();
        self.registered.entry.statement_done();
        self.registered.entry.set_waits(true);
    }

    /// Asks the link that the session is about to leave what `LAST_INSERT_ID()` tells there, if it may be anything: an OK packet
    /// tells another value where a statement gave the key itself. A link that does not answer leaves what packets told, and is
    /// not used any more.
    async fn ask_insert_id(&self, relay: &mut Relay, credential: &Credential) -> OldLink {
        if relay.state.insert_id().is_none() {
            return OldLink::Answers;
        }
        let limit = self.connect_timeout(&credential.cluster);
        let rows = relay.link().rows("SELECT LAST_INSERT_ID()", limit).await;
        let rows = match rows {
            Ok(rows) => rows,
            Err(LinkError::Refused(_)) => Vec::new(),
            Err(error) => {
                debug!(session = self.registered.entry.id.0, %error, "the link that is left does not answer");
                return OldLink::Lost;
            }
        };
        let told = rows.first().and_then(|row| row.value(0).flatten());
        let told = told.and_then(|value| std::str::from_utf8(value).ok()?.parse().ok());
        relay.state.asked_insert_id(told);
        OldLink::Answers
    }

    /// A command about a prepared statement needs the types of its parameters, which this link has not seen.
    pub(super) async fn rewrite_execute(&mut self, relay: &mut Relay) -> Result<(), Fault> {
        let mut talk = Conversation::with(relay);
        let payload = talk.packets.read(EXECUTE_LIMIT).await;
        talk.end();
        match payload {
            Ok(payload) => match relay.rewrite_execute(&payload) {
                Err(fault) => refuse_read(relay, &fault).await,
                Ok(()) => Ok(()),
            },
            Err(crate::net::ReadError::TooLong(_)) => Err(needs_reprepare()),
            Err(error) => Err(read_fault(error)),
        }
    }

    fn where_it_is(&self) -> String {
        let place = self.registered.entry.place();
        let node = place.node.map_or_else(|| "?".to_owned(), |n| n.to_string());
        let cluster = place.cluster.map_or_else(|| "?".to_owned(), |c| c.to_string());
        format!("node {node} of cluster {cluster}")
    }

    /// What a client is told when its link broke.
    fn node_closed(&self, words: Option<ErrPacket>) -> Fault {
        let node = self.where_it_is();
        match words {
            Some(words) => {
                let detail = format!("{node} closed the connection: {words}");
                Fault::told(Blame::Server, "node_closed", detail, words)
            }
            None => Fault::killed("node_closed", Blame::Server, format!("{node} closed the connection")),
        }
    }

    /// What a client is told when its link died without a word.
    fn node_silent(&self) -> Fault {
        let detail = format!("{} does not answer on the connection any more", self.where_it_is());
        Fault::killed("node_silent", Blame::Server, detail)
    }

    /// Tells the probe of the session's node what happened.
    pub(super) fn suspect(&self, evidence: Evidence) {
        let place = self.registered.entry.place();
        if let (Some(cluster), Some(node)) = (place.cluster, place.node) {
            self.shared.topology.suspect(&cluster, &node, evidence);
        }
    }

    /// Waits for the verdict about the session's node.
    async fn node_is_gone(&self) -> bool {
        let mut changes = self.shared.topology.subscribe();
        let gone = async {
            while self.node_serves(&self.shared.topology.load()) {
                if changes.changed().await.is_err() {
                    return;
                }
            }
        };
        timeout(VERDICT, gone).await.is_ok()
    }

    fn node_serves(&self, topology: &Topology) -> bool {
        let place = self.registered.entry.place();
        let cluster = place.cluster.and_then(|cluster| topology.cluster(cluster.as_str()));
        let node = cluster.zip(place.node).and_then(|(cluster, name)| cluster.node(name.as_str()));
        node.is_some_and(|node| node.must_be_left().is_none())
    }

    /// Whether nothing can be asked of the session's node any more.
    fn node_is_lost(&self) -> bool {
        let topology = self.shared.topology.load();
        let place = self.registered.entry.place();
        let cluster = place.cluster.and_then(|cluster| topology.cluster(cluster.as_str()));
        let node = cluster.zip(place.node).and_then(|(cluster, name)| cluster.node(name.as_str()));
        node.is_none_or(|node| node.lost().is_some())
    }

    /// Whether a new session would come to this one's node now, or to none.
    fn is_best_node(&self, topology: &Topology) -> bool {
        let place = self.registered.entry.place();
        let cluster = place.cluster.and_then(|cluster| topology.cluster(cluster.as_str()));
        let best = cluster.and_then(|cluster| cluster.choose(self.service.node).ok());
        best.is_none_or(|best| Some(&best.name) == place.node.as_ref())
    }

    fn has_node(&self) -> bool {
        let topology = self.shared.topology.load();
        let cluster = self.cluster.as_ref().and_then(|cluster| topology.cluster(cluster.as_str()));
        cluster.is_some_and(|cluster| cluster.choose(self.service.node).is_ok())
    }

    /// Whether the cluster has more nodes than one.
    pub(super) fn has_other_nodes(&self) -> bool {
        let topology = self.shared.topology.load();
        let cluster = self.cluster.as_ref().and_then(|name| topology.cluster(name.as_str()));
        cluster.is_some_and(|cluster| cluster.nodes.len() > 1)
    }

    /// The topology may have changed since the session's node was chosen, and nobody found the session there then.
    pub(super) fn look_at_place(&self) {
        let (topology, config) = (self.shared.topology.load(), self.shared.config.load());
        settle::tell(&self.registered.entry, &topology, &config);
    }

    /// While there is no node for a session, it needs none until its client wants something. Whether the old link, if it may
    /// still answer, has something to say first.
    async fn wait_in_silence(&self, relay: &mut Relay, old: OldLink) -> Result<bool, Fault> {
        let mut changes = self.shared.topology.subscribe();
        while relay.is_silent() && !self.has_node() {
            let heard = async {
                match old {
                    OldLink::Answers => relay.hear_either().await,
                    OldLink::Lost => relay.hear().await.map(|()| false),
                }
            };
            tokio::select! {
                changed = changes.changed() => if changed.is_err() { return Ok(false) },
                heard = heard => return heard,
            }
        }
        Ok(false)
    }

    pub(super) fn moves(&self, credential: &Credential) -> crate::config::Moves {
        let config = self.shared.config.load();
        config.clusters.get(&credential.cluster).map_or_else(Default::default, |c| c.moves.clone())
    }

    /// Whether the session's node is another than the one that new sessions come to.
    pub(super) fn has_better_node(&self) -> bool {
        !self.is_best_node(&self.shared.topology.load())
    }

    /// Whether the session is to begin nothing more where it is: there is a better node, or will be.
    fn is_to_leave(&self) -> bool {
        let topology = self.shared.topology.load();
        let cluster = self.cluster.as_ref().and_then(|cluster| topology.cluster(cluster.as_str()));
        let awaits =
            cluster.is_some_and(|cluster| cluster.is_quiesced()) && self.service.node == NodeChoice::Writer;
        awaits || !self.is_best_node(&topology)
    }

    /// Gives the session a link to the node that is right for it now, with everything that it had.
    ///
    /// What was under way on the old link is sent again. Not cancel safe: the session has to end.
    pub(super) async fn relocate(
        &mut self,
        relay: &mut Relay,
        credential: &Credential,
        reason: &str,
    ) -> Result<(), Fault> {
        self.relocate_from(&mut OldLink::Lost, relay, credential, reason).await
    }

    /// The same from an old link that may still answer. After an error, the session can go on there if it does.
    async fn relocate_from(
        &mut self,
        old: &mut OldLink,
        relay: &mut Relay,
        credential: &Credential,
        reason: &str,
    ) -> Result<(), Fault> {
        let started = Instant::now();
        self.wait_in_silence(relay, OldLink::Lost).await?;
        if self.registered.entry.is_doomed() {
            return Err(was_killed(None));
        }
        let schema = relay.state.schema().map(<[u8]>::to_vec);
        let mut wanted = Credential { database: schema, ..credential.clone() };
        let limit = self.connect_timeout(&credential.cluster);
        let (mut attempts, mut dropped, mut asked) = (0, false, false);
        let (placed, answers) = loop {
            attempts += 1;
            let mut placed = tokio::select! {
                placed = self.place(&wanted, None) => match placed {
                    // It was dropped since: where the session was, nothing worked in it any more either. On a replica it may
                    // only not be there yet.
                    Err(fault)
                        if wanted.database.is_some()
                            && fault.code() == Some(UNKNOWN_DATABASE)
                            && self.service.node == NodeChoice::Writer =>
                    {
                        wanted.database = None;
                        dropped = true;
                        continue;
                    }
                    placed => placed?,
                },
                gone = relay.client_gone() => return Err(gone),
            };
            if *old == OldLink::Answers && !std::mem::replace(&mut asked, true) {
                *old = self.ask_insert_id(relay, credential).await;
            }
            let mut settings = relay.state.settings().to_vec();
            settings
                .extend(relay.state.insert_id().map(|id| format!("DO LAST_INSERT_ID({id})").into_bytes()));
            let texts: Vec<&[u8]> = relay.state.prepared().texts().map(|(_, text)| text).collect();
            let brought = async {
                let link =
                    if placed.link.is_used() { placed.link.tidy(None, limit).await? } else { placed.link };
                link.bring_up(&settings, &texts, limit).await
            };
            match brought.await {
                Ok((link, answers)) => {
                    placed.link = link;
                    break (placed, answers);
                }
                Err(error) if attempts < super::placing::ATTEMPTS && error.is_of_the_node() => {
                    debug!(node = %placed.node, %error, "moving again");
                }
                Err(error) => {
                    let detail = format!("node {} of cluster {}: {error}", placed.node, placed.cluster);
                    return Err(Fault::killed("not_moved", Blame::Server, detail));
                }
            }
        };
        if dropped {
            relay.state.schema_dropped();
        }
        let statements = relay.state.prepared().texts();
        let numbers: Vec<_> = statements.map(|(number, _)| number).zip(answers).collect();
        let (from, to) = (self.registered.entry.place().node, placed.node.clone());
        relay.state.relocated(&numbers);
        let connection = placed.link.origin.thread_id;
        self.registered.entry.set_place(|place| {
            place.node = Some(placed.node);
            place.have_link(connection);
        });
        if self.registered.entry.is_doomed() {
            return Err(was_killed(None));
        }
        self.look_at_place();
        self.link_load = Some(placed.load);
        relay.replace_link(placed.link);
        relay.watch(self.registered.entry.is_watched());
        self.shared.metrics.session_moved(&credential.cluster);
        info!(
            session = self.registered.entry.id.0,
            from = from.as_ref().map_or("-", NodeName::as_str),
            %to,
            milliseconds = started.elapsed().as_millis() as u64,
            reason,
            "session moved"
        );
        Ok(())
    }
}

/// The session moved, and its node cannot be told what it would have to know of a statement.
pub(super) fn needs_reprepare() -> Fault {
    let text = "Prepared statement needs to be re-prepared";
    Fault::told(Blame::Proxy, "needs_reprepare", text, ErrPacket::new(NEED_REPREPARE, b"HY000", text))
}

/// What a client is told whose connection another one killed: what the node said. Without a word of the node's the connection
/// just closes, as on the servers.
fn was_killed(words: Option<ErrPacket>) -> Fault {
    Fault { reply: words, ..Fault::silent(Blame::Client, "killed_by_statement", "Connection was killed") }
}

/// Whether the session can go on without its link.
fn can_move(relay: &Relay, credential: &Credential) -> bool {
    relay.may_lose_link() && !matches!(credential.proof, Proof::Relayed)
}

/// Whether the session can leave its link, on which a statement was refused that is sent again elsewhere.
fn can_leave(relay: &Relay, credential: &Credential) -> bool {
    relay.pin().is_none() && !matches!(credential.proof, Proof::Relayed)
}

/// Says in a fault why the session could not go on elsewhere.
fn with_pin(fault: Fault, relay: &Relay, credential: &Credential) -> Fault {
    let why = match relay.pin() {
        Some(pin) => pin.to_string(),
        None if matches!(credential.proof, Proof::Relayed) => "only a node knows its password".to_owned(),
        None => "a statement was under way that may have had an effect".to_owned(),
    };
    let detail = format!("{}; the session could not move: {why}", fault.detail);
    let reply = fault.reply.map(|told| {
        let text = format!("{}; the session could not move: {why}", told.text());
        ErrPacket { message: text.into_bytes(), ..told }
    });
    Fault { detail, reply, ..fault }
}
