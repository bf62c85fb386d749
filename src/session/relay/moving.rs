//! What a session needs to leave its link for another one: knowing that it can, and sending again what was lost.

use std::cell::RefCell;
use std::io;
use std::task::Poll;

use bytes::{BufMut, BytesMut};
use tokio::io::AsyncReadExt;
use tracing::debug;

use super::flow::{Held, is_disconnect, is_silence};
use super::leftovers::Leftovers;
use super::{ClientSends, Event, Follow, Progress, Relay, VISIBLE_STATEMENT};
use crate::backend::Link;
use crate::fault::{Blame, Fault};
use crate::net::Stream;
use crate::session::moving::{NOT_PREPARED, needs_reprepare};
use crate::session::prepared::{About, PreparedStatements};
use crate::session::registry::Entry;
use crate::session::state::{Pin, SessionState, query_text};
use crate::sql::{self, Backslash, Effect, Judgement};
use crate::wire::Capabilities;
use crate::wire::command::{Command, Expect};
use crate::wire::packet::{Err as ErrPacket, HEADER, put_packet};
use crate::wire::reply::{End, ReplyTracker};
use crate::wire::statement::{self, PrepareOk};
use crate::wire::walk::{Head, Walker};

/// `ER_OPTION_PREVENTS_STATEMENT`: also said of other options than `read_only`.
const OPTION_PREVENTS: u16 = 1290;
/// `ER_READ_ONLY_MODE`.
const READ_ONLY_MODE: u16 = 1836;
/// Bytes of a client that are read while nobody can answer it.
const HEARD: usize = 64 * 1024;
/// Bytes that the system of a node takes from a link even while the server does not read: the least that a receive buffer
/// holds.
const ACKNOWLEDGED: usize = 16 * 1024;
/// Buffers that wait for the next command of any session of this worker.
const MAX_SPARE: usize = 64;

thread_local! {
    static SPARE: RefCell<Vec<Vec<u8>>> = const { RefCell::new(Vec::new()) };
}

/// The only command under way, as the client sent it, framed. Its buffer serves one command after the other, so that none
/// costs an allocation.
#[derive(Debug)]
pub(super) struct InFlight {
    bytes: Vec<u8>,
    /// It was sent before, and its reply was lost: a statement that takes its node down is not to take down the others.
    lost_before: bool,
    /// The node refused it.
    refused: bool,
}

impl InFlight {
    fn new(payload: &[u8], lost_before: bool) -> Self {
        let mut bytes = SPARE.with_borrow_mut(Vec::pop).unwrap_or_default();
        bytes.extend_from_slice(&(payload.len() as u32).to_le_bytes()[..HEADER - 1]);
        bytes.push(0);
        bytes.extend_from_slice(payload);
        Self { bytes, lost_before, refused: false }
    }

    /// Whether it changes nothing, so that it may be sent again, once, when its reply is lost.
    fn repeats(&self, prepared: &PreparedStatements, capabilities: Capabilities) -> bool {
        let payload = &self.bytes[HEADER..];
        if self.lost_before {
            return false;
        }
        let Some((byte, body)) = payload.split_first() else { return false };
        match Command::from_byte(*byte) {
            Command::Query => {
                let text = query_text(body, capabilities).unwrap_or_default();
                sql::judge(text, Backslash::Unknown).may_be_repeated()
            }
            Command::StmtExecute => statement::id_of(Command::StmtExecute, payload)
                .is_some_and(|number| prepared.nature(number).0),
            Command::StmtPrepare | Command::InitDb | Command::Ping => true,
            _ => false,
        }
    }
}

impl Drop for InFlight {
    fn drop(&mut self) {
        let mut bytes = std::mem::take(&mut self.bytes);
        bytes.clear();
        // When the worker ends, so do the buffers.
        let _ = SPARE.try_with(|spare| {
            let mut spare = spare.borrow_mut();
            if spare.len() < MAX_SPARE {
                spare.push(bytes);
            }
        });
    }
}

/// Why a statement goes nowhere that asks for what is gone.
pub(super) fn forgotten() -> Fault {
    let detail = "it asks for what the statement before left on a node that the session is no longer on";
    Fault::refused("forgotten", detail)
}

/// Has the node probed that answers with an error of its own state.
pub(super) fn note_trouble(end: End, around: &super::Around<'_>) {
    const SHUTDOWN: u16 = 1053;
    if let End::Error(code @ (OPTION_PREVENTS | READ_ONLY_MODE | NOT_PREPARED | SHUTDOWN)) = end {
        around.elsewhere.trouble(code);
    }
}

/// Reads what a client says. Cancel safe.
async fn hear(client: &mut Stream, unread: &mut BytesMut) -> Result<(), Fault> {
    if unread.len() > HEARD {
        // It says more than anybody wants to keep: only what it says later tells whether it is there.
        return std::future::pending().await;
    }
    match client.read_buf(unread).await {
        Ok(0) => Err(Fault::client_gone("closed while no node was there")),
        Ok(_) => Ok(()),
        Err(e) => Err(Fault::client_gone(e)),
    }
}

/// A number to be written over the bytes at a position.
#[derive(Debug, Clone, Copy)]
pub(super) struct Patch {
    at: usize,
    number: u32,
}

impl Relay {
    /// Asks the session to leave its link as soon as it can; or not to, any more.
    pub fn leave(&mut self, leaving: bool) {
        self.leaving = leaving;
    }

    /// Whether the session may leave its link now: nothing is under way in either direction, and nothing pins it.
    pub fn is_movable(&self) -> bool {
        self.awaited.is_empty() && self.in_flight.is_none() && self.may_lose_link()
    }

    /// Whether the session can go on without its link: nothing pins it, and what is under way can be sent again.
    pub fn may_lose_link(&self) -> bool {
        let repeats = || {
            let prepared = self.state.prepared();
            self.in_flight.as_ref().is_some_and(|in_flight| in_flight.repeats(prepared, self.capabilities))
        };
        self.is_between()
            && self.pin().is_none()
            && (self.awaited.iter().all(|awaited| awaited.own) || repeats())
    }

    /// Whether both streams stand where another link could go on, but for what was sent and can be sent again.
    fn is_between(&self) -> bool {
        self.client_sends == ClientSends::Commands
            && self.commands.at_boundary()
            && self.replies.at_boundary()
            && self.from_node.unsent.is_empty()
            && (self.from_client.unsent.is_empty() || self.in_flight.is_some())
    }

    /// Has the link watched closely, or as usual.
    pub fn watch(&mut self, closely: bool) {
        if self.watched != closely {
            self.watched = closely;
            self.watch_link();
        }
    }

    fn watch_link(&self) {
        // As long as the node's system can take all without the server, it acknowledges all.
        if let Err(error) = self.link.watch(self.watched, self.outstanding > ACKNOWLEDGED) {
            debug!(%error, "the watch over a link could not be changed");
        }
    }

    /// So many bytes more go out to the node.
    pub(super) fn note_sent(&mut self, bytes: usize) {
        let before = self.outstanding;
        self.outstanding = before.saturating_add(bytes);
        if self.watched && before <= ACKNOWLEDGED && self.outstanding > ACKNOWLEDGED {
            self.watch_link();
        }
    }

    /// Everything that was sent is answered.
    pub(super) fn note_answered(&mut self) {
        let before = std::mem::take(&mut self.outstanding);
        if self.watched && before > ACKNOWLEDGED {
            self.watch_link();
        }
    }

    /// A node that is gone may have left last words to read.
    pub(super) fn node_failed(&mut self, e: &io::Error) -> Poll<Progress> {
        let event = match self.last_words.take() {
            Some(words) => Event::NodeClosed(Some(words)),
            None if is_disconnect(e) => Event::NodeClosed(None),
            None if is_silence(e) => Event::NodeSilent,
            None => {
                Event::Failed(Fault::killed("node_failed", Blame::Server, format!("link to the server: {e}")))
            }
        };
        Poll::Ready(Progress::Event(event))
    }

    /// Whether the client wants nothing now.
    pub fn is_silent(&self) -> bool {
        self.in_flight.is_none() && self.from_client.unread.is_empty() && self.stopped_at.is_none()
    }

    /// Reads what the client says next; it is looked at later. Cancel safe.
    ///
    /// # Errors
    /// When the client is gone.
    pub async fn hear(&mut self) -> Result<(), Fault> {
        hear(&mut self.client, &mut self.from_client.unread).await?;
        self.look_again = true;
        Ok(())
    }

    /// The same, or waits until the node says something that nobody asked for, such as that it closes the link. Whether it was
    /// the node; what it said is still there. Cancel safe.
    ///
    /// # Errors
    /// When the client is gone.
    pub async fn hear_either(&mut self) -> Result<bool, Fault> {
        let link = self.link.stream.tcp();
        let node = async {
            match link {
                // Whoever reads next sees what is wrong.
                Some(stream) => drop(stream.readable().await),
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            heard = hear(&mut self.client, &mut self.from_client.unread) => heard?,
            () = node => return Ok(true),
        }
        self.look_again = true;
        Ok(false)
    }

    /// Waits until the client is gone. Cancel safe: what it says meanwhile is kept.
    pub async fn client_gone(&mut self) -> Fault {
        loop {
            if let Err(fault) = self.hear().await {
                return fault;
            }
        }
    }

    /// Why the session cannot leave its link; none: as far as its state goes, it can.
    pub fn pin(&self) -> Option<Pin> {
        self.state.pin()
    }

    /// Lets operators see the pin, unless there is nowhere to go: then statements are not followed.
    pub(super) fn tell_pin(&mut self, entry: &Entry) {
        if self.follow == Follow::None {
            return;
        }
        let pin = self.pin();
        if self.told != pin {
            self.told = pin;
            entry.set_pin(pin);
        }
    }

    /// Takes the link out of a session that is over, if everything that was sent on it is answered, with what the
    /// session left behind there. What a node that is in the middle of something holds is nobody's to know.
    pub fn into_idle_link(mut self) -> Option<(Link, SessionState)> {
        let between_commands = self.awaited.is_empty()
            && self.tracker.is_idle()
            && self.client_sends == ClientSends::Commands
            && self.commands.at_boundary()
            && self.replies.at_boundary()
            && self.from_client.unsent.is_empty()
            && self.from_node.unread.is_empty()
            && self.last_words.is_none();
        if !between_commands {
            return None;
        }
        self.watch(false);
        Some((self.link, self.state))
    }

    /// The sequence number of an error that ends the session, and whether the client stands at a
    /// packet boundary so that it can be told at all.
    pub fn can_tell_client(&self) -> Option<u8> {
        (self.replies.at_boundary() && self.from_node.unsent.is_empty()).then_some(self.next_sequence)
    }

    /// Ends the relay and gives back the client's stream.
    pub fn into_client(self) -> Stream {
        self.client
    }

    /// Replaces the link by another one, and returns the old one. A command that was under way there is sent again.
    pub fn replace_link(&mut self, link: Link) -> Link {
        let old = std::mem::replace(&mut self.link, link);
        let watched = std::mem::take(&mut self.watched);
        self.outstanding = 0;
        self.start_anew();
        self.watch(watched);
        old
    }

    /// Goes on with a link that has just logged in.
    pub fn start_anew(&mut self) {
        self.capabilities = self.link.capabilities;
        self.tracker = ReplyTracker::new(self.link.capabilities);
        self.replies = Walker::default();
        self.from_node = Held::default();
        self.from_client.unsent = BytesMut::new();
        self.last_words = None;
        self.uncount_in_flight();
        self.awaited.clear();
        self.next_sequence = 1;
        if let Some(again) = self.in_flight.take() {
            let mut unread = BytesMut::from(&again.bytes[..]);
            unread.extend_from_slice(&self.from_client.unread);
            self.from_client.unread = unread;
            self.lost_before = again.lost_before || !again.refused;
        }
        // A command at which the stream is stopped stands behind the one that is sent again.
        (self.stopped_at, self.barred) = (None, None);
        self.look_again |= !self.from_client.unread.is_empty();
        self.leftovers = Leftovers::of(&self.link);
        self.state.linked(self.link.login_status());
    }

    /// The session is another user's now, on the link that it has.
    pub fn start_over(&mut self, state: SessionState) {
        self.state = state;
        self.state.linked(self.link.login_status());
    }

    /// Tells the client that its statement was refused, as the node said.
    pub fn pass_refusal(&mut self, refusal: &ErrPacket) {
        self.in_flight = None;
        refusal.put(&mut self.from_node.unsent, 1);
        if let Some(done) = self.awaited.pop_front() {
            self.state.ended(done.pending, End::Error(refusal.code));
        }
        if self.awaited.is_empty() {
            self.note_answered();
        }
        self.tracker = ReplyTracker::new(self.capabilities);
        self.begin_next();
    }

    /// Keeps a command that is the only one under way for as long as it could be sent again.
    pub(super) fn note_in_flight(
        &mut self,
        command: Command,
        head: &Head<'_>,
        judgement: Option<&Judgement>,
    ) {
        self.in_flight = None;
        let lost_before = std::mem::take(&mut self.lost_before);
        let whole = head.payload.len() == head.len && head.len <= VISIBLE_STATEMENT;
        let alone = self.awaited.iter().all(|awaited| awaited.own);
        if self.follow != Follow::All || !whole || !alone || self.state.in_transaction() {
            return;
        }
        // What has an effect that is not known may have had it before it was refused.
        let is_known = match (command, judgement) {
            (Command::Query, Some(judgement)) => {
                matches!(judgement.effect, Effect::None | Effect::Recalls(_) | Effect::Set | Effect::Use(_))
            }
            (Command::StmtExecute, _) => statement::id_of(command, head.payload)
                .is_some_and(|number| self.state.prepared().nature(number).1),
            (Command::StmtPrepare, Some(_)) | (Command::InitDb | Command::Ping, _) => true,
            _ => false,
        };
        if is_known {
            self.in_flight = Some(InFlight::new(head.payload, lost_before));
        }
    }

    /// Whether the node refuses the only statement under way because of what the node is now, before anything has happened.
    pub(super) fn rejects(&mut self, head: &Head<'_>) -> bool {
        let Some(in_flight) = &mut self.in_flight else { return false };
        let whole = head.payload.len() == head.len;
        if !whole || head.payload.first() != Some(&0xFF) {
            return false;
        }
        let Ok(error) = ErrPacket::decode(head.payload) else { return false };
        let of_the_node = match error.code {
            OPTION_PREVENTS => error.text().contains("read-only") || error.text().contains("read_only"),
            READ_ONLY_MODE => true,
            NOT_PREPARED => error.text().contains("WSREP"),
            _ => false,
        };
        if of_the_node {
            in_flight.refused = true;
            self.rejected = Some(error);
        }
        of_the_node
    }

    /// Whether a command asks for what stayed on a node that the session left, so that it goes nowhere.
    pub(super) fn bars(&mut self, command: Command, head: &Head<'_>, judgement: Option<&Judgement>) -> bool {
        let barred = match command {
            Command::StmtExecute => statement::id_of(command, head.payload)
                .is_some_and(|number| self.state.has_forgotten_for(number)),
            _ => self.state.has_forgotten(judgement),
        };
        if barred {
            self.barred = Some(Box::new(forgotten()));
        }
        barred
    }

    /// Why the command at which the client's stream is stopped goes nowhere, once.
    pub fn take_bar(&mut self) -> Option<Box<Fault>> {
        self.barred.take()
    }

    /// A command about a prepared statement goes out with the number that its link knows. False: it has to be rewritten, and
    /// the stream stops before it.
    pub(super) fn take_statement(&mut self, command: Command, head: &Head<'_>) -> bool {
        let Some(number) = statement::id_of(command, head.payload) else { return true };
        match self.state.about(command, number, head.payload, self.capabilities) {
            About::AsItIs => true,
            About::Number(number) => {
                self.patches.push(Patch { at: head.at + HEADER + statement::ID.start, number });
                true
            }
            About::Types(..) | About::Lost => false,
        }
    }

    /// The node's answer to `COM_STMT_PREPARE`: the client is told a number that no other statement has.
    pub(super) fn note_prepared(&mut self, head: &Head<'_>) {
        let Some(first) = self.awaited.front_mut().filter(|first| first.expect == Expect::Prepared) else {
            return;
        };
        let Ok(ok) = PrepareOk::decode(head.payload) else { return };
        let number = self.state.answered(&mut first.pending, ok);
        if number != ok.id {
            self.patches.push(Patch { at: head.at + HEADER + statement::ID.start, number });
        }
    }

    /// Writes the numbers that are due into the bytes that were looked at.
    pub(super) fn patch(&mut self, chunk: &mut [u8]) {
        for Patch { at, number } in self.patches.drain(..) {
            if let Some(place) = chunk.get_mut(at..at + size_of::<u32>()) {
                place.copy_from_slice(&number.to_le_bytes());
            }
        }
    }

    /// Puts the types of its parameters into the `COM_STMT_EXECUTE` at which the stream is stopped; it is looked at again
    /// then.
    ///
    /// # Errors
    /// When nobody knows them.
    pub fn rewrite_execute(&mut self, payload: &[u8]) -> Result<(), Fault> {
        let about = statement::id_of(Command::StmtExecute, payload)
            .map(|number| self.state.about(Command::StmtExecute, number, payload, self.capabilities));
        let (types, at) = match about {
            Some(About::Types(types, at)) => (types, at),
            Some(About::Lost) => return Err(needs_reprepare()),
            _ => return Err(Fault::bad_handshake("a command that changed while it was read")),
        };
        let rewritten = statement::with_types(payload, at, types);
        let mut unread = BytesMut::with_capacity(HEADER + rewritten.len() + self.from_client.unread.len());
        put_packet(&mut unread, 0, &rewritten);
        unread.put_slice(&self.from_client.unread);
        self.from_client.unread = unread;
        Ok(())
    }
}
