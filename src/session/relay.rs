//! Forwards bytes between a client and its link while following what they mean.
//!
//! Two directions run in one task. Each reads into a scratch buffer that the worker's sessions
//! share, finds packet heads in it, and writes it straight to the other side. A session owns a
//! buffer only for bytes that its peer does not take yet, and while it does, the other side is not
//! read: memory stays bounded and TCP slows the sender down. Packets are never assembled.
//!
//! Commands that Spillway itself must handle stop the flow *before* their first byte; the relay then
//! waits until every earlier command is answered and returns [`Event::Command`].

use std::cell::RefCell;
use std::collections::VecDeque;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::{Buf, BytesMut};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;

use super::registry::Entry;
use super::state::{Pending, SessionState, query_text};
use crate::backend::Link;
use crate::fault::{Blame, Fault};
use crate::metrics::ServiceMetrics;
use crate::net::Stream;
use crate::sql::{self, Effect};
use crate::wire::command::{Command, Expect};
use crate::wire::packet::{self, Err as ErrPacket, HEADER};
use crate::wire::reply::{End, ReplyTracker, Step};
use crate::wire::walk::{Head, Next, Walker};
use crate::wire::{Capabilities, Status};

/// Bytes that are read at once.
const SCRATCH: usize = 64 * 1024;

/// Longest statement whose text is looked at; a longer one has an unknown effect.
const VISIBLE_STATEMENT: usize = 16 * 1024;

/// Commands that may wait for their replies; a client that sends more is not read until some came.
const MAX_PIPELINED: usize = 1024;

thread_local! {
    static BUFFER: RefCell<Box<[u8]>> = RefCell::new(vec![0; SCRATCH].into_boxed_slice());
}

/// Why the relay stopped.
#[derive(Debug)]
pub enum Event {
    /// A command for Spillway is next in the client's stream; everything before it is answered.
    Command(Command),
    /// The client closed its connection.
    ClientClosed,
    /// The node closed its connection, perhaps after a last word.
    NodeClosed(Option<ErrPacket>),
    /// Somebody broke the protocol or a socket failed.
    Failed(Fault),
}

/// Which schemas the session would have to move for; asked for `USE` and `COM_INIT_DB` only.
pub trait Elsewhere {
    /// Whether the schema belongs to a cluster other than the session's.
    fn leads_elsewhere(&self, schema: &[u8]) -> bool;
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

/// A command whose reply has not ended.
#[derive(Debug)]
struct Awaited {
    expect: Expect,
    pending: Pending,
}

/// Bytes of one direction that could not be passed on yet.
#[derive(Debug, Default)]
struct Held {
    /// Read, but not yet understood: an incomplete packet head, or what follows a stopped command.
    unread: BytesMut,
    /// Understood, but not yet taken by the other side.
    unsent: BytesMut,
}

/// A client, its link, and the state between them.
#[derive(Debug)]
pub struct Relay {
    client: Stream,
    node: TcpStream,
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
    /// Whether statements are classified, so that pins are known.
    classifies: bool,
    /// What the session carries.
    pub state: SessionState,
}

impl Relay {
    /// Joins a client, of which `ahead` was already read, with a fresh link.
    ///
    /// `classifies`: whether pins will ever matter, that is, whether the session could move.
    pub fn new(client: Stream, ahead: BytesMut, link: Link, state: SessionState, classifies: bool) -> Self {
        Self {
            client,
            node: link.stream,
            capabilities: link.capabilities,
            look_again: !ahead.is_empty(),
            from_client: Held { unread: ahead, unsent: BytesMut::new() },
            from_node: Held::default(),
            commands: Walker::default(),
            replies: Walker::default(),
            tracker: ReplyTracker::new(link.capabilities),
            awaited: VecDeque::new(),
            client_sends: ClientSends::Commands,
            stopped_at: None,
            next_sequence: 1,
            last_words: None,
            classifies,
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

    /// Replaces the link by another one; the relay must be stopped at a command.
    pub fn replace_link(&mut self, link: Link) -> TcpStream {
        self.capabilities = link.capabilities;
        self.tracker = ReplyTracker::new(link.capabilities);
        self.replies = Walker::default();
        self.from_node = Held::default();
        self.last_words = None;
        std::mem::replace(&mut self.node, link.stream)
    }

    /// The link's socket, between two commands.
    pub fn node(&mut self) -> &mut TcpStream {
        &mut self.node
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
            if let Some(command) = self.stopped_at
                && self.awaited.is_empty()
                && self.from_client.unsent.is_empty()
                && self.from_node.unsent.is_empty()
                && !self.client.needs_flush()
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
        if !self.from_client.unsent.is_empty() {
            match ready!(flush(cx, &mut self.node, &mut self.from_client.unsent)) {
                Ok(()) => return Poll::Ready(Progress::Made),
                Err(e) => return self.node_failed(&e),
            }
        }
        if self.stopped_at.is_some() {
            return Poll::Pending;
        }
        let held = self.from_client.unread.len();
        let mut filled = held;
        if !std::mem::take(&mut self.look_again) {
            if held >= scratch.len() || self.awaited.len() >= MAX_PIPELINED {
                // Replies must come first; they will wake this task.
                self.look_again = true;
                return Poll::Pending;
            }
            match ready!(read(cx, &mut self.client, &mut scratch[held..])) {
                Ok(0) => return Poll::Ready(Progress::Event(Event::ClientClosed)),
                Ok(n) => filled += n,
                Err(e) => return Poll::Ready(Progress::Event(Event::Failed(Fault::client_gone(e)))),
            }
        }
        scratch[..held].copy_from_slice(&self.from_client.unread);
        self.from_client.unread.clear();
        let chunk = &scratch[..filled];
        let end = match self.take_commands(chunk, around) {
            Ok(end) => end,
            Err(fault) => return Poll::Ready(Progress::Event(Event::Failed(fault))),
        };
        self.from_client.unread.extend_from_slice(&chunk[end..]);
        around.metrics.bytes_to_nodes.inc_by(end as u64);
        match pass_on(cx, &mut self.node, &mut self.from_client.unsent, &chunk[..end]) {
            // Too many commands are waiting: their replies will wake this task.
            Ok(()) if self.look_again => Poll::Pending,
            Ok(()) => Poll::Ready(Progress::Made),
            Err(e) => self.node_failed(&e),
        }
    }

    /// Understands the client's bytes; returns how many of them may go out.
    fn take_commands(&mut self, chunk: &[u8], around: &Around<'_>) -> Result<usize, Fault> {
        let mut at = 0;
        loop {
            let mode = self.client_sends;
            let classifies = self.classifies;
            let needs = move |len: usize, first: u8| match (mode, Command::from_byte(first)) {
                (ClientSends::Commands, Command::Query) if len <= VISIBLE_STATEMENT => {
                    if classifies {
                        len
                    } else {
                        len.min(512)
                    }
                }
                (ClientSends::Commands, Command::StmtPrepare) if classifies && len <= VISIBLE_STATEMENT => {
                    len
                }
                (ClientSends::Commands, Command::InitDb) => len.min(1024),
                (ClientSends::Commands, Command::StmtClose) => len.min(5),
                _ => 1,
            };
            let head = match self.commands.next(chunk, at, needs) {
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
            return Err(Fault::silent(
                Blame::Client,
                "out_of_order",
                "command packet with a sequence number",
            ));
        }
        let command = Command::from_byte(*byte);
        let whole = head.payload.len() == head.len;
        let effect = match command {
            Command::Query | Command::StmtPrepare if self.classifies => {
                Some(self.effect(command, body, whole))
            }
            Command::Query => query_text(body, self.capabilities)
                .filter(|_| whole)
                .and_then(sql::used_schema)
                .map(Effect::Use),
            _ => None,
        };
        let schema = match (command, &effect) {
            (Command::InitDb, _) => Some(body),
            (Command::Query, Some(Effect::Use(schema))) => Some(&schema[..]),
            _ => None,
        };
        if matches!(command, Command::Quit | Command::ChangeUser)
            || schema.is_some_and(|s| around.elsewhere.leads_elsewhere(s))
        {
            self.stopped_at = Some(command);
            return Ok(false);
        }
        let text = if command == Command::Query {
            query_text(body, self.capabilities).unwrap_or_default()
        } else {
            body
        };
        let pending = self.state.sent(command, text, effect);
        match command.expects() {
            Expect::Nothing => {}
            Expect::Opaque => self.client_sends = ClientSends::Unknown,
            expect => {
                self.awaited.push_back(Awaited { expect, pending });
                self.begin_next();
            }
        }
        Ok(true)
    }

    fn effect(&self, command: Command, body: &[u8], whole: bool) -> Effect {
        let text = match command {
            Command::Query => query_text(body, self.capabilities),
            _ => Some(body),
        };
        match text {
            Some(text) if whole => sql::classify(text),
            _ => Effect::Unknown("a long statement"),
        }
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
        let n = match ready!(read(cx, &mut self.node, &mut scratch[held..])) {
            Ok(0) => return Poll::Ready(Progress::Event(Event::NodeClosed(self.last_words.take()))),
            Ok(n) => n,
            Err(e) => return self.node_failed(&e),
        };
        scratch[..held].copy_from_slice(&self.from_node.unread);
        self.from_node.unread.clear();
        let chunk = &scratch[..held + n];
        let end = match self.take_replies(chunk, around) {
            Ok(end) => end,
            Err(fault) => return Poll::Ready(Progress::Event(Event::Failed(fault))),
        };
        self.from_node.unread.extend_from_slice(&chunk[end..]);
        around.metrics.bytes_to_clients.inc_by(end as u64);
        match pass_on(cx, &mut self.client, &mut self.from_node.unsent, &chunk[..end]) {
            Ok(()) => Poll::Ready(Progress::Made),
            Err(e) => Poll::Ready(Progress::Event(Event::Failed(Fault::client_gone(e)))),
        }
    }

    /// Understands the node's bytes; returns how many of them may go out.
    fn take_replies(&mut self, chunk: &[u8], around: &Around<'_>) -> Result<usize, Fault> {
        let mut at = 0;
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
            self.next_sequence = head.sequence.wrapping_add(1);
            if !self.awaited.is_empty() {
                self.take_reply(&head, around)?;
            }
            at = self.replies.enter(&head);
        }
    }

    fn take_reply(&mut self, head: &Head<'_>, around: &Around<'_>) -> Result<(), Fault> {
        let end = match self.tracker.packet(head.len, head.payload).map_err(Fault::bad_node)? {
            Step::More => return Ok(()),
            Step::FileRequest => {
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
            let mut schema_changed = self.state.ended(done.pending, end);
            if let End::Ok(Some(status)) = end
                && status.contains(Status::SESSION_STATE_CHANGED)
                && let Ok(packet::Ok { session_state: Some(changes), .. }) =
                    packet::Ok::decode(head.payload, self.capabilities)
            {
                for change in packet::tracked(changes) {
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
        if self.awaited.is_empty() {
            self.look_again |= !self.from_client.unread.is_empty();
        }
        Ok(())
    }

    /// A node that is gone may have left last words to read.
    fn node_failed(&mut self, e: &io::Error) -> Poll<Progress> {
        let event = match self.last_words.take() {
            Some(words) => Event::NodeClosed(Some(words)),
            None if is_disconnect(e) => Event::NodeClosed(None),
            None => {
                Event::Failed(Fault::killed("node_failed", Blame::Server, format!("link to the server: {e}")))
            }
        };
        Poll::Ready(Progress::Event(event))
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

fn is_disconnect(e: &io::Error) -> bool {
    matches!(
        e.kind(),
        io::ErrorKind::ConnectionReset | io::ErrorKind::BrokenPipe | io::ErrorKind::ConnectionAborted
    )
}

fn read<S: AsyncRead + Unpin>(
    cx: &mut Context<'_>,
    from: &mut S,
    into: &mut [u8],
) -> Poll<io::Result<usize>> {
    let mut buffer = ReadBuf::new(into);
    ready!(Pin::new(from).poll_read(cx, &mut buffer))?;
    Poll::Ready(Ok(buffer.filled().len()))
}

/// Writes as much as the other side takes now and keeps the rest.
fn pass_on<S: AsyncWrite + Unpin>(
    cx: &mut Context<'_>,
    to: &mut S,
    unsent: &mut BytesMut,
    mut bytes: &[u8],
) -> io::Result<()> {
    while !bytes.is_empty() {
        match Pin::new(&mut *to).poll_write(cx, bytes) {
            Poll::Ready(Ok(0)) => return Err(io::ErrorKind::WriteZero.into()),
            Poll::Ready(Ok(n)) => bytes = &bytes[n..],
            Poll::Ready(Err(e)) => return Err(e),
            Poll::Pending => {
                unsent.extend_from_slice(bytes);
                break;
            }
        }
    }
    Ok(())
}

/// Writes what was kept, here and inside TLS; ready when all of it is out. The buffer is given back then.
fn flush<S: AsyncWrite + Unpin>(
    cx: &mut Context<'_>,
    to: &mut S,
    unsent: &mut BytesMut,
) -> Poll<io::Result<()>> {
    while !unsent.is_empty() {
        let n = ready!(Pin::new(&mut *to).poll_write(cx, unsent))?;
        if n == 0 {
            return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
        }
        unsent.advance(n);
    }
    *unsent = BytesMut::new();
    Pin::new(to).poll_flush(cx)
}

const _: () = assert!(VISIBLE_STATEMENT + HEADER < SCRATCH);

#[cfg(test)]
mod tests;
