//! Forwards bytes between a client and its link while following what they mean.
//!
//! Two directions run in one task. Each reads into a scratch buffer that the worker's sessions
//! share, finds packet heads in it, and writes it straight to the other side. A session owns a
//! buffer only for bytes that its peer does not take yet, and while it does, the other side is not
//! read: memory stays bounded and TCP slows the sender down. Packets are never assembled.
//!
//! Commands that Spillway itself must handle stop the flow *before* their first byte; the relay then
//! waits until every earlier command is answered and returns [`Event::Command`].

mod awaited;
mod counted;
mod event;
mod flow;
mod kills;
mod leftovers;
mod looks;
mod moving;
mod passing;

use std::cell::RefCell;
use std::collections::VecDeque;
use std::task::{Context, Poll, ready};

use bytes::BytesMut;

use awaited::Awaited;
use counted::Counter;
pub use event::Event;
use flow::{Held, flush, pass_on, read};
use leftovers::Leftovers;
use moving::{InFlight, Patch};
use passing::Passing;

use super::registry::Entry;
use super::state::{Pending, Pin, SessionState, query_text};
use crate::backend::Link;
use crate::fault::{Blame, Fault};
use crate::metrics::ServiceMetrics;
use crate::net::Stream;
use crate::sql::{self, Effect, Judgement};
use crate::wire::command::{Command, Expect};
use crate::wire::packet::{self, Err as ErrPacket, HEADER};
use crate::wire::reply::{End, ReplyTracker, Step};
use crate::wire::walk::{Head, Next, Walker};
use crate::wire::{Capabilities, Status};

/// Bytes that are read at once.
const SCRATCH: usize = 64 * 1024;

/// Longest statement that is seen as a whole before its first byte goes out. What a longer one does is known when its last byte
/// goes out: it is judged while it passes through.
const VISIBLE_STATEMENT: usize = 48 * 1024;

/// Bytes of a `COM_STMT_EXECUTE` that are looked at, for the types of its parameters.
const VISIBLE_EXECUTE: usize = 1024;

/// Room before what was read, for Spillway's own commands: they go out in the same write as the client's.
const HEADROOM: usize = 32;

/// Commands that may wait for their replies; a client that sends more is not read until some came.
const MAX_PIPELINED: usize = 1024;

thread_local! {
    static BUFFER: RefCell<Box<[u8]>> = RefCell::new(vec![0; SCRATCH].into_boxed_slice());
}

/// Which schemas the session would have to move for; asked for `USE` and `COM_INIT_DB` only.
pub trait Elsewhere {
    /// Whether the schema belongs to a cluster other than the session's.
    fn leads_elsewhere(&self, schema: &[u8]) -> bool;

    /// Whether this is the number of a session of this Spillway; asked for `KILL` only.
    fn is_session(&self, number: u32) -> bool;

    /// The node answered with an error of its own state, such as that it is read-only.
    fn trouble(&self, code: u16);
}

/// What the client's next packets are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum ClientSends {
    /// Commands.
    Commands,
    /// The content of a file, up to an empty packet.
    File,
    /// Nobody knows: an unknown command was sent. Only `COM_CHANGE_USER` is still recognised, and refused.
    Unknown,
}

/// Which statements of a session are classified. That costs a little for each, so it is done only where something
/// depends on it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Follow {
    /// All: the session may have to move to another cluster.
    All,
    /// That many commands, one or more: a short session leaves its link to another one. A long one does not: what it
    /// would cost to follow it is more than what a new link costs.
    First(u16),
    /// None.
    None,
}

/// A client, its link, and the state between them.
#[derive(Debug)]
pub struct Relay {
    client: Stream,
    link: Link,
    capabilities: Capabilities,
    from_client: Held,
    from_node: Held,
    commands: Walker,
    replies: Walker,
    tracker: ReplyTracker,
    awaited: VecDeque<Awaited>,
    client_sends: ClientSends,
    /// The command at which the client's stream is stopped.
    stopped_at: Option<Command>,
    /// The unread bytes may hold a complete head: look before reading more.
    look_again: bool,
    /// Sequence number that the client expects next, for an error of our own.
    next_sequence: u8,
    last_words: Option<ErrPacket>,
    leftovers: Leftovers,
    /// The statement that passes through, if the client has not sent all of it.
    // Boxed because most sessions never have one.
    passing: Option<Box<Passing>>,
    /// The session is to leave its link as soon as it can.
    leaving: bool,
    /// The link is watched closely.
    watched: bool,
    /// Bytes that were sent since everything was answered.
    outstanding: usize,
    /// The only command under way, for as long as it could be sent again.
    in_flight: Option<InFlight>,
    /// The command that goes out next did so before, on a link that was lost.
    lost_before: bool,
    /// Statement numbers to be put into the bytes that are looked at.
    patches: Vec<Patch>,
    /// What operators were told last of why the session cannot leave its link.
    told: Option<Pin>,
    /// Why the command at which the client's stream is stopped goes nowhere; none: it is for Spillway.
    // Boxed because most sessions never have one.
    barred: Option<Box<Fault>>,
    /// The packet by which the node refused the only statement under way.
    rejected: Option<ErrPacket>,
    /// Which statements are classified, so that pins are known and another session may have the link.
    follow: Follow,
    /// Counts statements, where that is limited.
    counter: Option<Box<Counter>>,
    /// What the session carries.
    pub state: SessionState,
}

impl Relay {
    /// Joins a client, of which `ahead` was already read, with a fresh link.
    ///
    /// `follow`: which statements are classified.
    pub fn new(client: Stream, ahead: BytesMut, link: Link, mut state: SessionState, follow: Follow) -> Self {
        state.linked(link.login_status());
        Self {
            client,
            capabilities: link.capabilities,
            look_again: !ahead.is_empty(),
            // An empty buffer may still hold memory, and most sessions never need one.
            from_client: Held {
                unread: if ahead.is_empty() { BytesMut::new() } else { ahead },
                unsent: BytesMut::new(),
            },
            from_node: Held::default(),
            commands: Walker::default(),
            replies: Walker::default(),
            tracker: ReplyTracker::new(link.capabilities),
            leftovers: Leftovers::of(&link),
            link,
            passing: None,
            awaited: VecDeque::new(),
            client_sends: ClientSends::Commands,
            stopped_at: None,
            next_sequence: 1,
            last_words: None,
            leaving: false,
            watched: false,
            outstanding: 0,
            in_flight: None,
            lost_before: false,
            patches: Vec::new(),
            barred: None,
            rejected: None,
            told: None,
            follow,
            counter: None,
            state,
        }
    }

    /// Takes the client's side out, to answer a command; [`Self::resume`] puts it back.
    pub fn client(&mut self) -> (&mut Stream, &mut BytesMut) {
        (&mut self.client, &mut self.from_client.unread)
    }

    /// Goes on after a command for Spillway was handled and its packet was consumed.
    pub fn resume(&mut self) {
        self.stopped_at = None;
        self.look_again = true;
    }

    /// The link, between two commands.
    pub fn link(&mut self) -> &mut Link {
        &mut self.link
    }

    /// Runs until an [`Event`]. Cancel safe: all state is in `self`.
    pub async fn run(&mut self, elsewhere: &dyn Elsewhere, entry: &Entry, metrics: &ServiceMetrics) -> Event {
        std::future::poll_fn(|cx| {
            BUFFER.with_borrow_mut(|scratch| self.poll(cx, scratch, &Around { elsewhere, entry, metrics }))
        })
        .await
    }

    fn poll(&mut self, cx: &mut Context<'_>, scratch: &mut [u8], around: &Around<'_>) -> Poll<Event> {
        loop {
            let up = self.poll_commands(cx, scratch, around);
            let down = match up {
                Poll::Ready(Progress::Event(event)) => return Poll::Ready(event),
                _ => self.poll_replies(cx, scratch, around),
            };
            if let Poll::Ready(Progress::Event(event)) = down {
                return Poll::Ready(event);
            }
            if self.leaving && self.is_movable() {
                return Poll::Ready(Event::Movable);
            }
            if let Some(command) = self.stopped_at
                && self.awaited.is_empty()
                && self.from_client.unsent.is_empty()
                && self.from_node.unsent.is_empty()
                && !self.client.needs_flush()
                && !self.link.stream.needs_flush()
            {
                return Poll::Ready(Event::Command(command));
            }
            if up.is_pending() && down.is_pending() {
                return Poll::Pending;
            }
        }
    }

    /// Client to node: one read at most.
    fn poll_commands(
        &mut self,
        cx: &mut Context<'_>,
        scratch: &mut [u8],
        around: &Around<'_>,
    ) -> Poll<Progress> {
        if !self.from_client.unsent.is_empty() || self.link.stream.needs_flush() {
            match ready!(flush(cx, &mut self.link.stream, &mut self.from_client.unsent)) {
                Ok(()) => return Poll::Ready(Progress::Made),
                Err(e) => return self.node_failed(&e),
            }
        }
        if self.stopped_at.is_some() {
            return Poll::Pending;
        }
        let (headroom, space) = (HEADROOM, &mut scratch[HEADROOM..]);
        // More than fits is there when a command that was sent before stands in front of what was read since.
        let held = self.from_client.unread.len().min(space.len());
        let mut filled = held;
        if !std::mem::take(&mut self.look_again) {
            if held >= space.len() || self.awaited.len() >= MAX_PIPELINED {
                // Replies must come first; they will wake this task.
                self.look_again = true;
                return Poll::Pending;
            }
            match ready!(read(cx, &mut self.client, &mut space[held..])) {
                Ok(0) => return Poll::Ready(Progress::Event(Event::ClientClosed)),
                Ok(n) => filled += n,
                Err(e) => return Poll::Ready(Progress::Event(Event::Failed(Fault::client_gone(e)))),
            }
        }
        self.from_client.take(&mut space[..held]);
        let before = self.leftovers;
        let chunk = &mut space[..filled];
        let end = match self.take_commands(chunk, around) {
            Ok(end) => end,
            Err(fault) => return Poll::Ready(Progress::Event(Event::Failed(fault))),
        };
        self.look_again |= end > 0 && !self.from_client.unread.is_empty();
        self.from_client.put_back(&chunk[end..]);
        self.patch(chunk);
        self.note_sent(end);
        around.metrics.bytes_to_nodes.inc_by(end as u64);
        let start = headroom - self.put_own_commands(before, &mut scratch[..headroom]);
        match pass_on(
            cx,
            &mut self.link.stream,
            &mut self.from_client.unsent,
            &scratch[start..headroom + end],
        ) {
            // More commands can go out when some are answered: that will wake this task.
            Ok(()) if self.look_again && !self.awaited.is_empty() => Poll::Pending,
            Ok(()) => Poll::Ready(Progress::Made),
            Err(e) => self.node_failed(&e),
        }
    }

    /// Understands the client's bytes; returns how many of them may go out.
    fn take_commands(&mut self, chunk: &[u8], around: &Around<'_>) -> Result<usize, Fault> {
        let mut at = 0;
        loop {
            if self.passing.is_some() {
                at = self.judge_passing(chunk, at)?;
                if self.passing.is_some() {
                    return Ok(at);
                }
            }
            let looks = self.looks();
            let head = match self.commands.next(chunk, at, |len, first| looks.needs(len, first)) {
                Next::Stop(end) => return Ok(end),
                Next::Head(head) => head,
            };
            match self.client_sends {
                ClientSends::Commands => {
                    if self.awaited.len() >= MAX_PIPELINED {
                        self.look_again = true;
                        return Ok(head.at);
                    }
                    if !self.take_command(&head, around)? {
                        return Ok(head.at);
                    }
                }
                ClientSends::File if head.len == 0 => {
                    self.client_sends = ClientSends::Commands;
                    self.tracker.file_sent();
                }
                ClientSends::File => {}
                ClientSends::Unknown => {
                    if head.payload.first().copied().map(Command::from_byte) == Some(Command::ChangeUser) {
                        return Err(Fault::unknown_command("COM_CHANGE_USER after an unknown command"));
                    }
                }
            }
            at = self.commands.enter(&head);
        }
    }

    /// Understands one command. False: it is Spillway's, and the stream stops before it.
    fn take_command(&mut self, head: &Head<'_>, around: &Around<'_>) -> Result<bool, Fault> {
        let Some((byte, body)) = head.payload.split_first() else {
            // The servers answer an empty command like an unknown one.
            self.client_sends = ClientSends::Unknown;
            return Ok(true);
        };
        if head.sequence != 0 {
            let detail = "command packet with a sequence number";
            return Err(Fault::silent(Blame::Client, "out_of_order", detail));
        }
        let command = Command::from_byte(*byte);
        let whole = head.payload.len() == head.len;
        let judged = matches!(command, Command::Query | Command::StmtPrepare) && self.follow != Follow::None;
        let judgement = match command {
            _ if judged => self.judge(command, body, whole),
            Command::Query => query_text(body, self.capabilities)
                .filter(|_| whole)
                .and_then(sql::used_schema)
                .map(|schema| Judgement::of(Effect::Use(schema))),
            _ => None,
        };
        let schema = match (command, &judgement) {
            (Command::InitDb, _) => Some(body),
            (Command::Query, Some(Judgement { effect: Effect::Use(schema), .. })) => Some(&schema[..]),
            _ => None,
        };
        if matches!(command, Command::Quit | Command::ChangeUser)
            || schema.is_some_and(|s| around.elsewhere.leads_elsewhere(s))
        {
            self.stopped_at = Some(command);
            return Ok(false);
        }
        if self.kills_session(command, body, whole, around) {
            self.stopped_at = Some(Command::ProcessKill);
            return Ok(false);
        }
        let text = if command == Command::Query {
            query_text(body, self.capabilities).unwrap_or_default()
        } else {
            body
        };
        let mut overwrites = false;
        if self.leftovers.any() {
            let (own, does) = self.due_before(command, judgement.as_ref());
            overwrites = does;
            if own != self.leftovers && (head.at > 0 || !self.awaited.is_empty()) {
                // Own commands go out in front of everything that was read, and their replies come first.
                self.look_again = true;
                return Ok(false);
            }
            self.send_own(own);
        }
        if self.bars(command, head, judgement.as_ref())
            || self.exceeds(command, text, whole)
            || !self.take_statement(command, head)
        {
            self.stopped_at = Some(command);
            return Ok(false);
        }
        self.note_in_flight(command, head, judgement.as_ref());
        let pending = if judged && judgement.is_none() {
            self.let_pass(command, head);
            Pending::Nothing
        } else {
            self.state.sent(command, text, judgement)
        };
        if let Follow::First(left) = &mut self.follow {
            *left -= 1;
            if *left == 0 {
                self.follow = Follow::None;
                self.state.stop_following("more statements than are followed");
            }
        }
        match command.expects() {
            // A long upload of parameters is no idleness; the next reply tells.
            Expect::Nothing => around.entry.set_waits(false),
            Expect::Opaque => self.client_sends = ClientSends::Unknown,
            expect => {
                around.entry.set_waits(false);
                let backslash = self.backslash();
                let loads_file = command == Command::Query
                    && whole
                    && self.capabilities.contains(Capabilities::LOCAL_FILES)
                    && sql::loads_local_file(text, backslash);
                let counted = self.counted();
                let awaited = Awaited { overwrites, loads_file, counted, ..Awaited::new(expect, pending) };
                self.awaited.push_back(awaited);
                self.begin_next();
            }
        }
        Ok(true)
    }

    fn begin_next(&mut self) {
        if self.tracker.is_idle()
            && let Some(next) = self.awaited.front()
        {
            self.tracker.begin(next.expect);
        }
    }

    /// Node to client: one read at most.
    fn poll_replies(
        &mut self,
        cx: &mut Context<'_>,
        scratch: &mut [u8],
        around: &Around<'_>,
    ) -> Poll<Progress> {
        if !self.from_node.unsent.is_empty() || self.client.needs_flush() {
            match ready!(flush(cx, &mut self.client, &mut self.from_node.unsent)) {
                Ok(()) => return Poll::Ready(Progress::Made),
                Err(e) => return Poll::Ready(Progress::Event(Event::Failed(Fault::client_gone(e)))),
            }
        }
        let held = self.from_node.unread.len();
        let n = match ready!(read(cx, &mut self.link.stream, &mut scratch[held..])) {
            Ok(0) => return Poll::Ready(Progress::Event(Event::NodeClosed(self.last_words.take()))),
            Ok(n) => n,
            Err(e) => return self.node_failed(&e),
        };
        self.from_node.take(&mut scratch[..held]);
        let chunk = &mut scratch[..held + n];
        let (start, end) = match self.take_own_replies(chunk).and_then(|start| {
            // Only what comes behind the replies to own commands is the client's.
            self.take_replies(chunk, start, around).map(|end| (start, end))
        }) {
            Ok(range) => range,
            Err(fault) => return Poll::Ready(Progress::Event(Event::Failed(fault))),
        };
        if let Some(refusal) = self.rejected.take() {
            return Poll::Ready(Progress::Event(Event::Rejected(refusal)));
        }
        self.from_node.put_back(&chunk[end..]);
        self.patch(chunk);
        around.metrics.bytes_to_clients.inc_by((end - start) as u64);
        match pass_on(cx, &mut self.client, &mut self.from_node.unsent, &chunk[start..end]) {
            Ok(()) => Poll::Ready(Progress::Made),
            Err(e) => Poll::Ready(Progress::Event(Event::Failed(Fault::client_gone(e)))),
        }
    }

    /// Understands the node's bytes from `from` on; returns how many of them may go out.
    fn take_replies(&mut self, chunk: &[u8], from: usize, around: &Around<'_>) -> Result<usize, Fault> {
        let mut at = from;
        if self.awaited.front().is_some_and(|first| first.own) {
            return Ok(at);
        }
        loop {
            let head = {
                let tracker = &self.tracker;
                match self.replies.next(chunk, at, |len, first| tracker.needs(len, first)) {
                    Next::Stop(end) => return Ok(end),
                    Next::Head(head) => head,
                }
            };
            if self.awaited.is_empty() && self.client_sends != ClientSends::Unknown {
                // A server that ends a connection may say why, without being asked.
                let words = ErrPacket::decode(head.payload)
                    .map_err(|_| Fault::bad_node("packet without a command"))?;
                self.last_words = Some(words);
                return Ok(head.at);
            }
            if self.rejects(&head) {
                return Ok(head.at);
            }
            self.next_sequence = head.sequence.wrapping_add(1);
            if !self.awaited.is_empty() {
                self.take_reply(&head, around)?;
            }
            at = self.replies.enter(&head);
        }
    }

    fn take_reply(&mut self, head: &Head<'_>, around: &Around<'_>) -> Result<(), Fault> {
        // The client has seen a part of it now: it can not come from elsewhere any more.
        self.in_flight = None;
        self.note_prepared(head);
        let step = self.tracker.packet(head.len, head.payload).map_err(Fault::bad_node)?;
        self.note_counted(step, head);
        let end = match step {
            Step::More => return Ok(()),
            Step::FileRequest => {
                if !self.awaited.front().is_some_and(|first| first.loads_file) {
                    return Err(Fault::bad_node(
                        "a request for a file that no statement of the client names",
                    ));
                }
                if self.awaited.len() > 1 {
                    let detail = "the server asks for a file while more commands are on their way";
                    return Err(Fault::silent(Blame::Client, "pipelined_file", detail));
                }
                self.client_sends = ClientSends::File;
                return Ok(());
            }
            Step::Done(end) => end,
        };
        if self.client_sends == ClientSends::File {
            // What the client sends next would be taken for commands by the server.
            return Err(Fault::bad_node("a reply ended before the file that it asked for"));
        }
        if let Some(done) = self.awaited.pop_front() {
            self.leftovers.found_rows &= !(done.overwrites && matches!(end, End::Ok(_)));
            let mut schema_changed = self.state.ended(done.pending, end);
            if let End::Ok(Some(status)) = end
                && (head.payload.first() == Some(&0) || status.contains(Status::SESSION_STATE_CHANGED))
                && let Ok(ok) = packet::Ok::decode(head.payload, self.capabilities)
            {
                self.state.inserted(ok.insert_id);
                for change in ok.session_state.into_iter().flat_map(packet::tracked) {
                    schema_changed |= self.state.tracked(change);
                }
            }
            if schema_changed {
                let schema = self.state.schema().map(|s| String::from_utf8_lossy(s).into_owned());
                around.entry.set_place(|place| place.schema = schema);
            }
        }
        around.entry.statement_done();
        around.entry.set_in_transaction(self.state.in_transaction());
        around.metrics.statements.inc();
        // Between two replies the client expects the first packet of the next one.
        self.next_sequence = 1;
        self.begin_next();
        moving::note_trouble(end, around);
        if self.awaited.is_empty() {
            self.note_answered();
            self.tell_pin(around.entry);
            around.entry.set_waits(true);
            self.look_again |= !self.from_client.unread.is_empty();
        }
        Ok(())
    }
}

/// What a relay needs of its surroundings while it runs.
struct Around<'a> {
    elsewhere: &'a dyn Elsewhere,
    entry: &'a Entry,
    metrics: &'a ServiceMetrics,
}

enum Progress {
    Made,
    Event(Event),
}

const _: () = assert!(VISIBLE_STATEMENT + HEADER + HEADROOM < SCRATCH);

#[cfg(test)]
mod tests;
