//! The relay between an in-memory client and a scripted node.

use std::sync::Arc;
use std::time::Duration;

use bytes::{Buf, Bytes};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream, UnixStream};
use tokio::time::timeout;
use tokio_rustls::TlsConnector;

use super::*;
use crate::ids::ClientAddr;
use crate::metrics::Metrics;
use crate::net::accept_tls;
use crate::session::registry::{Registered, Registry};
use crate::tls::specimen::{Authority, NAME};
use crate::topology::Facts;

/// A relay with the far ends of both its sides.
struct Rig<C = UnixStream> {
    relay: Relay,
    client: C,
    node: TcpStream,
    session: Registered,
    metrics: ServiceMetrics,
}

/// Schemas whose names begin with `far` are on another cluster.
struct Far;

impl Elsewhere for Far {
    fn leads_elsewhere(&self, schema: &[u8]) -> bool {
        schema.starts_with(b"far")
    }

    fn is_session(&self, _: u32) -> bool {
        false
    }

    fn trouble(&self, _code: u16) {}
}

async fn rig() -> Rig {
    let (client, ours) = UnixStream::pair().unwrap();
    rig_with(client, Stream::Unix(ours)).await
}

async fn rig_with<C>(client: C, ours: Stream) -> Rig<C> {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let stream = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
    let (node, _) = listener.accept().await.unwrap();
    node.set_nodelay(true).unwrap();
    let capabilities = Capabilities::REQUIRED | Capabilities::SESSION_TRACK | Capabilities::LOCAL_FILES;
    let facts = Facts {
        version: "test".into(),
        capabilities,
        collation: 45,
        sees: None,
        calls: None,
        takes_header: false,
    };
    let link = Link::new(Stream::Tcp(stream), facts, 1, Bytes::new());
    let registry = Arc::new(Registry::default());
    let session = registry.register(ClientAddr::Unix { uid: None }, "app".parse().unwrap());
    let metrics = Metrics::new("test").service(&"app".parse().unwrap());
    let state = SessionState::after_login(None);
    let relay = Relay::new(ours, BytesMut::new(), link, state, Follow::All);
    Rig { relay, client, node, session, metrics }
}

impl<C: AsyncRead + AsyncWrite + Unpin> Rig<C> {
    async fn run(&mut self) -> Event {
        let run = self.relay.run(&Far, &self.session.entry, &self.metrics);
        timeout(Duration::from_secs(5), run).await.expect("an event")
    }

    /// Runs the relay for a moment while nothing is expected to stop it.
    async fn settle(&mut self) {
        let run = self.relay.run(&Far, &self.session.entry, &self.metrics);
        let event = timeout(Duration::from_millis(50), run).await;
        assert!(event.is_err(), "{event:?}");
    }

    async fn at_node(&mut self, n: usize) -> Vec<u8> {
        let mut bytes = vec![0; n];
        timeout(Duration::from_secs(5), self.node.read_exact(&mut bytes)).await.unwrap().unwrap();
        bytes
    }

    async fn at_client(&mut self, n: usize) -> Vec<u8> {
        let mut bytes = vec![0; n];
        timeout(Duration::from_secs(5), self.client.read_exact(&mut bytes)).await.unwrap().unwrap();
        bytes
    }
}

fn packet(sequence: u8, payload: &[u8]) -> Vec<u8> {
    let mut out = BytesMut::new();
    packet::put_packet(&mut out, sequence, payload);
    out.to_vec()
}

const FILE_REQUEST: &[u8] = b"\xFB/etc/passwd";

#[tokio::test]
async fn a_file_is_asked_of_a_client_that_loads_one() {
    let mut rig = rig().await;
    rig.client.write_all(&packet(0, b"\x03LOAD DATA LOCAL INFILE 'f' INTO TABLE t")).await.unwrap();
    rig.settle().await;
    rig.node.write_all(&packet(1, FILE_REQUEST)).await.unwrap();
    rig.settle().await;
    assert_eq!(rig.at_client(4 + FILE_REQUEST.len()).await, packet(1, FILE_REQUEST));
    rig.client.write_all(&[packet(2, b"line\n"), packet(3, b"")].concat()).await.unwrap();
    rig.settle().await;
    rig.node.write_all(&packet(4, OK)).await.unwrap();
    rig.settle().await;
    assert_eq!(rig.at_client(4 + OK.len()).await, packet(4, OK));
}

#[tokio::test]
async fn no_file_is_asked_of_a_client_that_loads_none() {
    for command in [
        &b"\x03SELECT 'LOAD DATA LOCAL INFILE'"[..],
        b"\x03LOAD DATA INFILE 'f' INTO TABLE t",
        b"\x03/* LOAD DATA LOCAL INFILE */ SELECT 1",
        b"\x17\x01\0\0\0\0\x01\0\0\0",
    ] {
        let mut rig = rig().await;
        rig.client.write_all(&packet(0, command)).await.unwrap();
        rig.settle().await;
        rig.node.write_all(&packet(1, FILE_REQUEST)).await.unwrap();
        let event = rig.run().await;
        assert!(matches!(&event, Event::Failed(fault) if fault.label == "bad_node"), "{event:?}");
        drop(rig.relay);
        let mut told = Vec::new();
        rig.client.read_to_end(&mut told).await.unwrap();
        assert_eq!(told, [0; 0], "{command:?}");
    }
}

const OK: &[u8] = &[0, 0, 0, 2, 0, 0, 0];
const PING: &[u8] = &[0x0E];

#[tokio::test]
async fn pipelined_commands_in_any_segments_are_answered_in_order() {
    let mut rig = rig().await;
    let commands = [packet(0, b"\x03SELECT 1"), packet(0, PING), packet(0, b"\x03SELECT 2")].concat();
    for byte in &commands {
        rig.client.write_all(&[*byte]).await.unwrap();
        rig.settle().await;
    }
    assert_eq!(rig.at_node(commands.len()).await, commands);
    let results = [
        packet(1, &[1]),
        packet(2, b"\x03def"),
        packet(3, &[0xFE, 0, 0, 2, 0]),
        packet(4, &[0xFE, 0, 0, 2, 0]),
    ];
    let replies = [results.concat(), packet(1, OK), packet(1, OK)].concat();
    for byte in &replies {
        rig.node.write_all(&[*byte]).await.unwrap();
        rig.settle().await;
    }
    assert_eq!(rig.at_client(replies.len()).await, replies);
    assert_eq!(rig.session.entry.statements(), 3);
    drop(rig.client.shutdown().await);
    assert!(matches!(rig.run().await, Event::ClientClosed));
}

#[tokio::test]
async fn a_command_for_spillway_stops_before_its_first_byte_and_after_earlier_replies() {
    let mut rig = rig().await;
    let ping = packet(0, PING);
    let change = packet(0, b"\x11other\0\0\0");
    rig.client.write_all(&[ping.clone(), change.clone(), ping.clone()].concat()).await.unwrap();
    rig.settle().await;
    assert_eq!(rig.at_node(ping.len()).await, ping);
    rig.node.write_all(&packet(1, OK)).await.unwrap();
    assert!(matches!(rig.run().await, Event::Command(Command::ChangeUser)));
    assert_eq!(rig.at_client(4 + OK.len()).await, packet(1, OK));
    let (_, unread) = rig.relay.client();
    assert_eq!(unread[..], [change.clone(), ping.clone()].concat());
    unread.advance(change.len());
    rig.relay.resume();
    rig.settle().await;
    assert_eq!(rig.at_node(ping.len()).await, ping, "what follows goes out after the resumption");
}

#[tokio::test]
async fn after_a_resumption_without_waiting_bytes_the_client_is_read_again() {
    let mut rig = rig().await;
    let away = packet(0, b"\x02far");
    rig.client.write_all(&away).await.unwrap();
    assert!(matches!(rig.run().await, Event::Command(Command::InitDb)));
    rig.relay.client().1.clear();
    rig.relay.resume();
    rig.settle().await;
    rig.client.write_all(&packet(0, PING)).await.unwrap();
    rig.settle().await;
    assert_eq!(rig.at_node(5).await, packet(0, PING));
}

#[tokio::test]
async fn a_use_of_a_near_schema_is_forwarded_and_noticed() {
    let mut rig = rig().await;
    let near = packet(0, b"\x03use near");
    rig.client.write_all(&near).await.unwrap();
    rig.settle().await;
    assert_eq!(rig.at_node(near.len()).await, near);
    rig.node.write_all(&packet(1, OK)).await.unwrap();
    rig.settle().await;
    assert_eq!(rig.relay.state.schema(), Some(&b"near"[..]));
    assert_eq!(rig.session.entry.place().schema.as_deref(), Some("near"));
    rig.client.write_all(&packet(0, b"\x03USE `far away`")).await.unwrap();
    assert!(matches!(rig.run().await, Event::Command(Command::Query)));
}

#[tokio::test]
async fn last_words_of_a_node_are_kept_for_the_client() {
    let mut rig = rig().await;
    let words = ErrPacket::new(1053, b"08S01", "Server shutdown in progress");
    let mut out = BytesMut::new();
    words.put(&mut out, 0);
    rig.node.write_all(&out).await.unwrap();
    rig.node.shutdown().await.unwrap();
    assert!(matches!(rig.run().await, Event::NodeClosed(Some(w)) if w == words));
    assert_eq!(rig.relay.can_tell_client(), Some(1));
}

#[tokio::test]
async fn in_mid_packet_a_client_cannot_be_told_anything() {
    let mut rig = rig().await;
    rig.client.write_all(&packet(0, b"\x03SELECT 1")).await.unwrap();
    rig.settle().await;
    rig.node.write_all(&packet(1, &[1])).await.unwrap();
    rig.node.write_all(&[200, 0, 0, 2, 3, b'd', b'e', b'f']).await.unwrap();
    rig.node.write_all(&[7; 60]).await.unwrap();
    rig.settle().await;
    rig.node.shutdown().await.unwrap();
    assert!(matches!(rig.run().await, Event::NodeClosed(None)));
    assert_eq!(rig.relay.can_tell_client(), None);
}

#[tokio::test]
async fn nobody_changes_the_user_behind_an_unknown_command() {
    let mut rig = rig().await;
    rig.client.write_all(&packet(0, &[0x7F, 1, 2])).await.unwrap();
    rig.settle().await;
    assert_eq!(rig.at_node(7).await, packet(0, &[0x7F, 1, 2]));
    rig.node.write_all(&packet(1, b"\xFF\x17\x04#08S01Unknown command")).await.unwrap();
    rig.settle().await;
    rig.client.write_all(&packet(0, b"\x11other\0\0\0")).await.unwrap();
    assert!(matches!(rig.run().await, Event::Failed(f) if f.label == "unknown_command"));
}

#[tokio::test]
async fn a_file_is_no_command() {
    let mut rig = rig().await;
    rig.client.write_all(&packet(0, b"\x03LOAD DATA LOCAL INFILE 'x' INTO TABLE t")).await.unwrap();
    rig.settle().await;
    rig.node.write_all(&packet(1, b"\xFBx")).await.unwrap();
    rig.settle().await;
    // The content looks like COM_CHANGE_USER and COM_QUIT.
    let file = [packet(2, b"\x11a\0\0\0"), packet(3, b"\x01"), packet(4, b"")].concat();
    rig.client.write_all(&file).await.unwrap();
    rig.settle().await;
    let _ = rig.at_node(4 + 40).await;
    assert_eq!(rig.at_node(file.len()).await, file);
    rig.node.write_all(&packet(5, OK)).await.unwrap();
    rig.client.write_all(&packet(0, b"\x01")).await.unwrap();
    assert!(matches!(rig.run().await, Event::Command(Command::Quit)));
}

#[tokio::test]
async fn a_reply_that_ends_before_its_file_ends_the_session() {
    let mut rig = rig().await;
    rig.client.write_all(&packet(0, b"\x03LOAD DATA LOCAL INFILE 'x' INTO TABLE t")).await.unwrap();
    rig.settle().await;
    rig.node.write_all(&[packet(1, b"\xFBx"), packet(2, OK)].concat()).await.unwrap();
    assert!(matches!(rig.run().await, Event::Failed(f) if f.label == "bad_node"));
}

#[tokio::test]
async fn a_slow_client_stops_the_node() {
    let mut rig = rig().await;
    rig.client.write_all(&packet(0, b"\x03SELECT 1")).await.unwrap();
    rig.settle().await;
    let (_, mut to_relay) = rig.node.split();
    let head = [packet(1, &[1]), packet(2, b"\x03def"), packet(3, &[0xFE, 0, 0, 2, 0])].concat();
    to_relay.write_all(&head).await.unwrap();
    let row = packet(4, &vec![7; 1 << 20]);
    let mut sent = 0;
    // The node sends rows for as long as anybody takes them; nobody reads at the client.
    loop {
        let run = rig.relay.run(&Far, &rig.session.entry, &rig.metrics);
        tokio::select! {
            event = run => panic!("{event:?}"),
            written = timeout(Duration::from_millis(200), to_relay.write(&row)) => match written {
                Ok(n) => sent += n.unwrap(),
                Err(_) => break,
            },
        }
        assert!(sent < 64 << 20, "the node was never stopped");
    }
    let held = rig.relay.from_node.unsent.len() + rig.relay.from_node.unread.len();
    assert!((1..=2 * SCRATCH).contains(&held), "{held} bytes are held");
}

#[tokio::test]
async fn more_than_one_buffer_of_unread_commands_goes_out() {
    let mut rig = rig().await;
    let query = packet(0, &[b"\x03SELECT '", &[b'x'; 9000][..], b"'"].concat());
    let all = query.repeat(12);
    assert!(all.len() > SCRATCH + SCRATCH / 2);
    rig.relay.client().1.extend_from_slice(&all);
    rig.relay.resume();
    let mut got = Vec::new();
    while got.len() < all.len() {
        rig.settle().await;
        let ready = query.len() * rig.relay.awaited.len();
        got.extend(rig.at_node(ready).await);
        rig.node.write_all(&packet(1, OK).repeat(ready / query.len())).await.unwrap();
    }
    assert!(got == all);
}

/// A link to another node, and its far end.
async fn another_link() -> (Link, TcpStream) {
    let other = rig().await;
    (other.relay.link, other.node)
}

#[tokio::test]
async fn a_lost_read_is_sent_again_once() {
    let mut rig = rig().await;
    let query = packet(0, b"\x03SELECT 1");
    rig.client.write_all(&query).await.unwrap();
    rig.settle().await;
    assert!(rig.relay.may_lose_link());
    let (link, node) = another_link().await;
    rig.relay.replace_link(link);
    rig.node = node;
    rig.settle().await;
    assert_eq!(rig.at_node(query.len()).await, query);
    assert!(!rig.relay.may_lose_link(), "it may be what takes nodes down");
    rig.node.write_all(&packet(1, OK)).await.unwrap();
    rig.settle().await;
    rig.client.write_all(&query).await.unwrap();
    rig.settle().await;
    assert!(rig.relay.may_lose_link(), "the next one is another one");
}

#[tokio::test]
async fn what_waits_behind_a_lost_read_stays_behind_it() {
    let mut rig = rig().await;
    let query = packet(0, b"\x03SELECT 1");
    rig.client.write_all(&[query.clone(), packet(0, b"\x02far_away")].concat()).await.unwrap();
    rig.settle().await;
    let (link, node) = another_link().await;
    rig.relay.replace_link(link);
    rig.node = node;
    rig.settle().await;
    assert_eq!(rig.at_node(query.len()).await, query);
    rig.node.write_all(&packet(1, OK)).await.unwrap();
    assert!(matches!(rig.run().await, Event::Command(Command::InitDb)));
    assert_eq!(rig.at_client(packet(1, OK).len()).await, packet(1, OK));
    let (_, unread) = rig.relay.client();
    assert_eq!(unread[..], packet(0, b"\x02far_away"));
}

#[tokio::test]
async fn a_watched_link_may_take_its_time_with_an_upload() {
    let mut rig = rig().await;
    let limit = |rig: &Rig| {
        let socket = socket2::SockRef::from(rig.relay.link.stream.tcp().unwrap());
        socket.tcp_user_timeout().unwrap().is_some_and(|limit| !limit.is_zero())
    };
    assert!(!limit(&rig));
    rig.relay.watch(true);
    assert!(limit(&rig));
    let upload = packet(0, &[b"\x03INSERT INTO t VALUES ('", &b"x".repeat(60_000)[..], b"')"].concat());
    rig.client.write_all(&upload).await.unwrap();
    rig.settle().await;
    assert_eq!(rig.at_node(upload.len()).await.len(), upload.len());
    assert!(!limit(&rig), "the node may be busy with it");
    rig.node.write_all(&packet(1, OK)).await.unwrap();
    rig.settle().await;
    assert!(limit(&rig), "it is answered");
    let (link, node) = another_link().await;
    rig.relay.replace_link(link);
    rig.node = node;
    assert!(limit(&rig), "the other link, too");
    rig.relay.watch(false);
    assert!(!limit(&rig));
}

#[tokio::test]
async fn a_read_that_a_node_refused_may_still_be_lost_once() {
    let mut rig = rig().await;
    let query = packet(0, b"\x03SELECT 1");
    rig.client.write_all(&query).await.unwrap();
    rig.settle().await;
    let mut refusal = BytesMut::new();
    ErrPacket::new(1047, b"08S01", "WSREP has not yet prepared node for application use")
        .put(&mut refusal, 1);
    rig.node.write_all(&refusal).await.unwrap();
    assert!(matches!(rig.run().await, Event::Rejected(told) if told.code == 1047));
    let (link, node) = another_link().await;
    rig.relay.replace_link(link);
    rig.node = node;
    rig.relay.resume();
    rig.settle().await;
    assert_eq!(rig.at_node(query.len()).await, query);
    assert!(rig.relay.may_lose_link());
}

#[tokio::test]
async fn a_refusal_that_is_cut_is_passed_on_whole() {
    let mut rig = rig().await;
    rig.client.write_all(&packet(0, b"\x03UPDATE t SET a = 1")).await.unwrap();
    rig.settle().await;
    let mut refusal = BytesMut::new();
    ErrPacket::new(1836, b"HY000", "Running in read-only mode").put(&mut refusal, 1);
    let (first, rest) = refusal.split_at(30);
    rig.node.write_all(first).await.unwrap();
    rig.settle().await;
    rig.node.write_all(rest).await.unwrap();
    rig.settle().await;
    assert_eq!(rig.at_client(refusal.len()).await, refusal[..]);
}

// === Statements that are longer than what is looked at at once ===

/// A statement as the client sends it, framed.
fn statement(command: u8, text: &[u8]) -> Vec<u8> {
    packet(0, &[&[command], text].concat())
}

/// An `INSERT` of about so many bytes that ends in `end`.
fn insert(bytes: usize, end: &str) -> Vec<u8> {
    let rows = "(1234, 'it''s a word', 12.5), ".repeat(bytes / 30);
    statement(3, format!("INSERT INTO t (a, b, c) VALUES {rows}{end}").as_bytes())
}

/// Has the client send bytes, all of which arrive at the node.
async fn upload(rig: &mut Rig, bytes: &[u8]) {
    let Rig { relay, client, node, session, metrics } = rig;
    let mut got = vec![0; bytes.len()];
    tokio::select! {
        event = relay.run(&Far, &session.entry, metrics) => panic!("{event:?}"),
        (sent, read) = async { tokio::join!(client.write_all(bytes), node.read_exact(&mut got)) } => {
            sent.unwrap();
            read.unwrap();
        }
        () = tokio::time::sleep(Duration::from_secs(20)) => panic!("bytes are stuck"),
    }
    assert!(got == bytes, "what arrives is not what was sent");
}

/// The same, and the node says that it is done, with these flags.
async fn run_long(rig: &mut Rig, bytes: &[u8], status: Status) {
    upload(rig, bytes).await;
    let [low, high] = status.bits().to_le_bytes();
    let ok = packet(1, &[0, 0, 0, low, high, 0, 0]);
    rig.node.write_all(&ok).await.unwrap();
    rig.settle().await;
    assert_eq!(rig.at_client(ok.len()).await, ok);
}

#[tokio::test]
async fn what_a_long_statement_does_is_known_at_its_end() {
    for bytes in [50_000, 200_000, 1 << 20, packet::MAX_PAYLOAD + 100_000] {
        let mut rig = rig().await;
        run_long(&mut rig, &insert(bytes, "(1, 'a', now())"), Status::AUTOCOMMIT).await;
        assert_eq!((rig.relay.pin(), rig.relay.is_movable()), (None, true), "{bytes} bytes");
        for (end, word) in [
            ("(1, 'a', @x := 1)", "INSERT"),
            ("(1, GET_LOCK('a', 1), 2)", "INSERT"),
            ("(1, 'a', 2); SET ROLE admin", "INSERT"),
        ] {
            let mut rig = self::rig().await;
            run_long(&mut rig, &insert(bytes, end), Status::AUTOCOMMIT).await;
            assert_eq!(rig.relay.pin(), Some(Pin::Unknown(word)), "{bytes} bytes and {end}");
        }
    }
}

#[tokio::test]
async fn a_statement_whose_length_fills_its_packets_is_judged_at_the_empty_one() {
    let mut rig = rig().await;
    let (begin, end) = ("SELECT 'x", "', GET_LOCK('a', 1)");
    let fill = "x".repeat(packet::MAX_PAYLOAD - 1 - begin.len() - end.len());
    let text = format!("{begin}{fill}{end}");
    run_long(&mut rig, &statement(3, text.as_bytes()), Status::AUTOCOMMIT).await;
    assert_eq!(rig.relay.pin(), Some(Pin::Unknown("SELECT")));
}

#[tokio::test]
async fn a_long_statement_keeps_nothing_of_its_text() {
    let mut rig = rig().await;
    let long = insert(1 << 20, "(1, 'a', 2)");
    let (most, rest) = long.split_at(long.len() - 10);
    upload(&mut rig, most).await;
    assert!(!rig.relay.is_movable() && !rig.relay.may_lose_link(), "half a statement");
    assert!(rig.relay.from_client.unread.capacity() + rig.relay.from_client.unsent.capacity() <= 2 * SCRATCH);
    let passing = rig.relay.passing.as_ref().unwrap();
    assert!(format!("{passing:?}").len() < 4096, "{passing:?}");
    upload(&mut rig, rest).await;
    assert!(rig.relay.passing.is_none());
    assert!(!rig.relay.may_lose_link(), "it may have been done");
}

#[tokio::test]
async fn commands_behind_a_long_statement_are_found() {
    let mut rig = rig().await;
    let all =
        [insert(200_000, "(1, 'a', 2)"), packet(0, PING), insert(100_000, "(1, 'a', @x := 2)")].concat();
    upload(&mut rig, &all).await;
    assert_eq!(rig.relay.awaited.len(), 3);
    rig.node.write_all(&packet(1, OK).repeat(3)).await.unwrap();
    rig.settle().await;
    assert_eq!(rig.session.entry.statements(), 3);
    assert_eq!(rig.relay.pin(), Some(Pin::Unknown("INSERT")));
}

#[tokio::test]
async fn flags_tell_what_a_backslash_means() {
    let escaped = |end: &str| {
        let rows = r"('it\'s', '\\'), ".repeat(10_000);
        statement(3, format!("INSERT INTO t VALUES {rows}{end}").as_bytes())
    };
    let mut rig = rig().await;
    run_long(&mut rig, &packet(0, PING), Status::AUTOCOMMIT).await;
    run_long(&mut rig, &escaped("('a', 'b')"), Status::AUTOCOMMIT).await;
    assert_eq!(rig.relay.pin(), None);
    run_long(&mut rig, &escaped("('a', @x := 1)"), Status::AUTOCOMMIT).await;
    assert_eq!(rig.relay.pin(), Some(Pin::Unknown("INSERT")));
    // With the other meaning, the texts end elsewhere, and the rest is no text at all.
    let mut rig = self::rig().await;
    let other = Status::AUTOCOMMIT | Status::NO_BACKSLASH_ESCAPES;
    run_long(&mut rig, &packet(0, PING), other).await;
    run_long(&mut rig, &statement(3, br"SELECT '\', @x := 1, '\'"), other).await;
    assert_eq!(rig.relay.pin(), Some(Pin::Unknown("SELECT")));
    // Nobody told yet.
    let mut rig = self::rig().await;
    run_long(&mut rig, &escaped("('a', 'b')"), Status::AUTOCOMMIT).await;
    assert_eq!(rig.relay.pin(), Some(Pin::Unknown("INSERT")));
    // A setting is under way that may change it.
    let mut rig = self::rig().await;
    run_long(&mut rig, &packet(0, PING), Status::AUTOCOMMIT).await;
    let set = statement(3, b"SET sql_mode = 'NO_BACKSLASH_ESCAPES'");
    upload(&mut rig, &[set, statement(3, br"SELECT '\', @x := 1, \''")].concat()).await;
    rig.node.write_all(&packet(1, OK).repeat(2)).await.unwrap();
    rig.settle().await;
    assert_eq!(rig.relay.pin(), Some(Pin::Unknown("SELECT")));
}

#[tokio::test]
async fn letters_that_hide_backslashes_are_not_guessed_in_any_piece() {
    let chinese = || SessionState::after_login(None).with_collation(28);
    let text = format!("INSERT INTO t VALUES ('{}', 'a')", "x".repeat(200_000));
    let mut rig = rig().await;
    rig.relay.state = chinese();
    run_long(&mut rig, &statement(3, text.as_bytes()), Status::AUTOCOMMIT).await;
    assert_eq!(rig.relay.pin(), None);
    let text = text.replace("'a'", "'\u{ff}'");
    run_long(&mut rig, &statement(3, text.as_bytes()), Status::AUTOCOMMIT).await;
    assert!(matches!(rig.relay.pin(), Some(Pin::Unknown(why)) if why.contains("character set")));
}

#[tokio::test]
async fn a_long_statement_that_asks_for_what_is_gone_is_not_completed() {
    let mut rig = rig().await;
    rig.relay.state.relocated(&[]);
    let long = insert(200_000, "(1, 'a', ROW_COUNT())");
    let Rig { relay, client, node, session, metrics } = &mut rig;
    let mut got = Vec::new();
    let event = tokio::select! {
        event = relay.run(&Far, &session.entry, metrics) => event,
        done = async { tokio::join!(client.write_all(&long), node.read_to_end(&mut got)) } => panic!("{done:?}"),
    };
    assert!(matches!(&event, Event::Failed(fault) if fault.label == "forgotten"), "{event:?}");
    assert_eq!(relay.can_tell_client(), Some(1));
    drop(rig.relay);
    rig.node.read_to_end(&mut got).await.unwrap();
    assert!(got.len() < long.len());
}

#[tokio::test]
async fn what_is_answered_before_its_end_is_unknown() {
    let mut rig = rig().await;
    let long = insert(200_000, "(1, 'a', 2)");
    let (most, rest) = long.split_at(long.len() - 10);
    upload(&mut rig, most).await;
    let mut refusal = BytesMut::new();
    ErrPacket::new(1153, b"08S01", "Got a packet bigger than 'max_allowed_packet' bytes")
        .put(&mut refusal, 1);
    rig.node.write_all(&refusal).await.unwrap();
    rig.settle().await;
    assert_eq!(rig.at_client(refusal.len()).await, refusal[..]);
    assert!(!rig.relay.is_movable());
    upload(&mut rig, rest).await;
    assert_eq!(rig.relay.pin(), Some(Pin::Unknown("a statement that was answered before its end")));
}

#[tokio::test]
async fn a_long_text_to_be_prepared_is_kept_if_it_is_not_too_long() {
    let text = |marks: usize| format!("INSERT INTO t VALUES {}(1)", "(?), ".repeat(marks));
    let ok = packet(1, &[0, 9, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]);
    for (marks, pin) in [(20_000, None), (60_000, Some(Pin::Prepared(1)))] {
        let mut rig = rig().await;
        let text = text(marks);
        upload(&mut rig, &statement(0x16, text.as_bytes())).await;
        rig.node.write_all(&ok).await.unwrap();
        rig.settle().await;
        assert_eq!(rig.relay.pin(), pin);
        let kept: Vec<&[u8]> = rig.relay.state.prepared().texts().map(|(_, text)| text).collect();
        let expected: &[&[u8]] = if pin.is_none() { &[text.as_bytes()] } else { &[] };
        assert!(kept == expected);
        // A pin for want of the text ends with the statement.
        upload(&mut rig, &packet(0, &[0x19, 9, 0, 0, 0])).await;
        assert_eq!(rig.relay.pin(), None);
    }
}

#[tokio::test]
async fn a_long_setting_is_not_kept() {
    let mut rig = rig().await;
    let text = format!("SET @x = '{}'", "x".repeat(200_000));
    run_long(&mut rig, &statement(3, text.as_bytes()), Status::AUTOCOMMIT).await;
    assert_eq!(rig.relay.pin(), Some(Pin::Unknown("a long SET")));
    assert_eq!(rig.relay.state.settings().len(), 0);
    let reset = statement(0x1F, b"");
    run_long(&mut rig, &reset, Status::AUTOCOMMIT).await;
    assert_eq!(rig.relay.pin(), None);
}

// === TLS ===

/// A relay whose client speaks TLS.
async fn tls_rig() -> Rig<tokio_rustls::client::TlsStream<UnixStream>> {
    let authority = Authority::new("servers");
    let (client, ours) = UnixStream::pair().unwrap();
    let connector = TlsConnector::from(authority.trusted_by(&[&rustls::version::TLS13], None));
    let identity = authority.identity(None);
    let (accepted, client) = tokio::join!(
        accept_tls(Stream::Unix(ours), BytesMut::new(), &identity),
        connector.connect(NAME.try_into().unwrap(), client)
    );
    rig_with(client.unwrap(), accepted.unwrap().0).await
}

/// What comes before the rows of a result with one column.
fn result_head() -> Vec<u8> {
    [packet(1, &[1]), packet(2, b"\x03def"), packet(3, &[0xFE, 0, 0, 2, 0])].concat()
}

#[tokio::test]
async fn commands_and_replies_pass_through_tls() {
    let mut rig = tls_rig().await;
    let commands = [packet(0, b"\x03SELECT 1"), packet(0, PING)].concat();
    for _ in 0..50 {
        rig.client.write_all(&commands).await.unwrap();
        rig.settle().await;
        assert_eq!(rig.at_node(commands.len()).await, commands);
        let replies = [result_head(), packet(4, &[0xFE, 0, 0, 2, 0]), packet(1, OK)].concat();
        rig.node.write_all(&replies).await.unwrap();
        rig.settle().await;
        assert_eq!(rig.at_client(replies.len()).await, replies);
    }
    // Two records that arrive together, of which the second one waits inside TLS while the first is read.
    rig.client.write_all(&packet(0, PING)).await.unwrap();
    rig.client.write_all(&packet(0, b"\x01")).await.unwrap();
    rig.settle().await;
    assert_eq!(rig.at_node(5).await, packet(0, PING));
    rig.node.write_all(&packet(1, OK)).await.unwrap();
    assert!(matches!(rig.run().await, Event::Command(Command::Quit)));
    assert_eq!(rig.at_client(4 + OK.len()).await, packet(1, OK), "it is out before the goodbye is handled");
}

#[tokio::test]
async fn a_slow_client_over_tls_stops_the_node_and_gets_everything() {
    const RESULT: usize = 64 << 20;
    let mut rig = tls_rig().await;
    rig.client.write_all(&packet(0, b"\x03SELECT 1")).await.unwrap();
    rig.settle().await;
    let mut rows = result_head();
    for number in 0.. {
        if rows.len() >= RESULT {
            break;
        }
        rows.extend(packet(4_u8.wrapping_add(number), &vec![number; 1 << 20]));
    }
    let Rig { relay, client, node, session, metrics } = &mut rig;
    let (_, mut to_relay) = node.split();
    // Nobody reads at first.
    let mut sent = 0;
    loop {
        tokio::select! {
            event = relay.run(&Far, &session.entry, metrics) => panic!("{event:?}"),
            written = timeout(Duration::from_millis(200), to_relay.write(&rows[sent..])) => match written {
                Ok(n) => sent += n.unwrap(),
                Err(_) => break,
            },
        }
    }
    assert!(sent < RESULT / 2, "the node was never stopped");
    let held = relay.from_node.unsent.len() + relay.from_node.unread.len();
    assert!(held <= 2 * SCRATCH, "{held} bytes are held");
    assert!(relay.client.needs_flush(), "the rest is inside TLS");
    // Then somebody reads a little now and then; the node falls silent after its last byte.
    let writing = async { to_relay.write_all(&rows[sent..]).await.unwrap() };
    let reading = async {
        let mut block = vec![0; 40_000];
        let mut at = 0;
        while at < rows.len() {
            let n = client.read(&mut block).await.unwrap();
            assert!(n > 0 && block[..n] == rows[at..at + n], "at {at}");
            at += n;
            if at % 7 == 0 {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        }
    };
    let relaying = async {
        let event = relay.run(&Far, &session.entry, metrics).await;
        panic!("{event:?}");
    };
    tokio::select! {
        () = async { tokio::join!(writing, reading); } => {}
        () = relaying => {}
        () = tokio::time::sleep(Duration::from_mins(1)) => panic!("bytes are stuck"),
    }
    assert!(!relay.client.needs_flush());
    assert_eq!(relay.from_node.unsent.capacity(), 0, "the buffer is given back");
}

#[tokio::test]
async fn what_waits_inside_tls_gets_out_although_the_node_is_silent() {
    let mut rig = tls_rig().await;
    rig.client.write_all(&packet(0, b"\x03SELECT 1")).await.unwrap();
    rig.settle().await;
    let mut sent = result_head();
    rig.node.write_all(&sent).await.unwrap();
    // Until the client's socket is full, and no longer.
    for number in 4_u8.. {
        let row = packet(number, &[number; 8 * 1024]);
        rig.node.write_all(&row).await.unwrap();
        sent.extend(row);
        let run = rig.relay.run(&Far, &rig.session.entry, &rig.metrics);
        assert!(timeout(Duration::from_millis(5), run).await.is_err());
        if rig.relay.client.needs_flush() {
            break;
        }
    }
    assert!(rig.relay.from_node.unsent.is_empty(), "all of it is inside TLS");
    let mut got = vec![0; sent.len()];
    tokio::select! {
        event = rig.relay.run(&Far, &rig.session.entry, &rig.metrics) => panic!("{event:?}"),
        read = timeout(Duration::from_secs(5), rig.client.read_exact(&mut got)) => read.expect("stuck").unwrap(),
    };
    assert!(got == sent);
}

#[tokio::test]
async fn a_goodbye_waits_for_what_is_inside_tls() {
    let mut rig = tls_rig().await;
    let reply = [result_head(), packet(4, &[7; 8 * 1024]), packet(5, &[0xFE, 0, 0, 2, 0])].concat();
    let mut sent = 0;
    while !rig.relay.client.needs_flush() {
        rig.client.write_all(&packet(0, b"\x03SELECT 1")).await.unwrap();
        rig.node.write_all(&reply).await.unwrap();
        sent += reply.len();
        let run = rig.relay.run(&Far, &rig.session.entry, &rig.metrics);
        assert!(timeout(Duration::from_millis(5), run).await.is_err());
    }
    assert!(rig.relay.awaited.is_empty(), "the last reply has ended, but not for the client");
    rig.client.write_all(&packet(0, b"\x01")).await.unwrap();
    rig.settle().await;
    let mut got = vec![0; sent];
    let (event, read) = tokio::join!(
        rig.relay.run(&Far, &rig.session.entry, &rig.metrics),
        timeout(Duration::from_secs(5), rig.client.read_exact(&mut got))
    );
    read.expect("stuck").unwrap();
    assert!(matches!(event, Event::Command(Command::Quit)));
}

#[tokio::test]
async fn a_tls_client_that_leaves_without_a_word_has_closed() {
    let mut rig = tls_rig().await;
    rig.client.write_all(&packet(0, PING)).await.unwrap();
    rig.settle().await;
    rig.node.write_all(&packet(1, OK)).await.unwrap();
    rig.settle().await;
    // It reads the answer, and its tickets before that: unread bytes would reset the connection.
    rig.at_client(4 + OK.len()).await;
    let (_, client) = UnixStream::pair().unwrap();
    let leaving = std::mem::replace(rig.client.get_mut().0, client);
    drop(leaving);
    assert!(matches!(rig.run().await, Event::ClientClosed));
}

#[tokio::test]
async fn a_client_that_sends_too_many_commands_waits() {
    let mut rig = rig().await;
    let many = packet(0, PING).repeat(3 * MAX_PIPELINED);
    let ok = packet(1, OK);
    rig.client.write_all(&many).await.unwrap();
    rig.settle().await;
    assert_eq!(rig.relay.awaited.len(), MAX_PIPELINED);
    for _ in 0..3 {
        let _ = rig.at_node(5 * MAX_PIPELINED).await;
        rig.node.write_all(&ok.repeat(MAX_PIPELINED)).await.unwrap();
        rig.settle().await;
        let _ = rig.at_client(ok.len() * MAX_PIPELINED).await;
    }
    assert_eq!(rig.session.entry.statements(), 3 * MAX_PIPELINED as u64);
}
