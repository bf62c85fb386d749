//! What it costs to forward a statement, in units that no busy machine can blur: heap allocations and instructions.
//!
//! A relay runs between a client and a node that are threads with sockets of their own; only the relay's thread is
//! counted. `cargo test --test relay_cost`; the instructions are counted by callgrind, of the package `valgrind`.

#![allow(clippy::disallowed_methods, reason = "tests have threads of their own and may block them")]

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::os::unix::net::UnixStream;
use std::process::Command;
use std::sync::Arc;
use std::thread;

use bytes::{Bytes, BytesMut};
use spillway::backend::Link;
use spillway::ids::ClientAddr;
use spillway::metrics::Metrics;
use spillway::net::Stream;
use spillway::session::registry::Registry;
use spillway::session::relay::{Elsewhere, Event, Follow, Relay};
use spillway::session::state::SessionState;
use spillway::topology::Facts;
use spillway::wire::Capabilities;
use spillway::wire::command::Command as Sent;

/// Instructions for one text point select and its reply, as the test profile builds the relay, and what they may grow
/// to before somebody looks: 5,580 were measured where statements are only forwarded, 8,390 where each is judged and kept
/// until its reply begins, so that it can be sent again to another node.
const BUDGET: [(&str, u64); 2] = [("forwarded", 5_700), ("followed", 8_600)];

const STATEMENT: &[u8] = b"\x03SELECT c FROM sbtest1 WHERE id=4711";

/// The same for a kilobyte of a long statement: of one string, and of short rows, each of whose tokens is judged.
const LONG_BUDGET: [(&str, &str, u64); 4] = [
    ("string", "forwarded", 40),
    ("string", "followed", 400),
    ("rows", "forwarded", 40),
    ("rows", "followed", 66_000),
];

/// A statement by its name.
fn statement(name: &str) -> Vec<u8> {
    const LENGTH: usize = 1 << 20;
    let insert = |values: String| format!("\x03INSERT INTO t (a, b, c, d) VALUES {values}").into_bytes();
    match name {
        "string" => insert(format!("(1, '{}')", "x".repeat(LENGTH))),
        "rows" => insert("(1234, 'a short row', 12.5, NULL),".repeat(LENGTH / 34) + "(1, '', 0, 0)"),
        _ => STATEMENT.to_vec(),
    }
}

fn packet(sequence: u8, payload: &[u8]) -> Vec<u8> {
    let mut out = (payload.len() as u32).to_le_bytes()[..3].to_vec();
    out.push(sequence);
    out.extend_from_slice(payload);
    out
}

/// One column, one row of 120 bytes, as a server without `CLIENT_DEPRECATE_EOF` sends them.
fn reply() -> Vec<u8> {
    let eof = [0xfe, 0, 0, 2, 0];
    let row = [&[120][..], &[b'x'; 120]].concat();
    [
        packet(1, &[1]),
        packet(2, b"\x03def\x06sbtest\x07sbtest1\x07sbtest1\x01c\x01c\x0c-\0\xe0\x01\0\0\xfe\x01\0\0\0\0"),
        packet(3, &eof),
        packet(4, &row),
        packet(5, &eof),
    ]
    .concat()
}

/// Answers every command of this length with [`reply`].
fn serve(listener: &TcpListener, length: usize) -> std::io::Result<()> {
    let (mut stream, _) = listener.accept()?;
    stream.set_nodelay(true)?;
    let (mut command, reply) = (vec![0; length], reply());
    while stream.read_exact(&mut command).is_ok() {
        stream.write_all(&reply)?;
    }
    Ok(())
}

/// Sends statements one by one, then says goodbye.
fn ask(mut stream: UnixStream, command: &[u8], statements: u32) -> std::io::Result<()> {
    let mut answer = reply();
    let wanted = answer.clone();
    for _ in 0..statements {
        stream.write_all(command)?;
        stream.read_exact(&mut answer)?;
        assert!(answer == wanted, "what the client got is not what the node sent");
    }
    stream.write_all(&packet(0, &[1]))
}

struct Here;

impl Elsewhere for Here {
    fn leads_elsewhere(&self, _: &[u8]) -> bool {
        false
    }

    fn is_session(&self, _: u32) -> bool {
        false
    }

    fn trouble(&self, _code: u16) {}
}

/// Relays one statement so many times; returns the heap allocations of the relay meanwhile.
fn relay(statement: &[u8], statements: u32, follow: Follow) -> u64 {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let link = TcpStream::connect(listener.local_addr().expect("its address")).expect("a connection");
    let (client, ours) = UnixStream::pair().expect("a pair");
    for stream in [link.set_nodelay(true), link.set_nonblocking(true), ours.set_nonblocking(true)] {
        stream.expect("a socket option");
    }
    let command = packet(0, statement);
    let length = command.len();
    let far = [
        thread::spawn(move || serve(&listener, length)),
        thread::spawn(move || ask(client, &command, statements)),
    ];
    let guard = runtime.enter();
    let capabilities = Capabilities::REQUIRED;
    let facts = Facts {
        version: "test".to_owned(),
        capabilities,
        collation: 45,
        sees: None,
        calls: None,
        takes_header: false,
    };
    let link = tokio::net::TcpStream::from_std(link).expect("a link");
    let link = Link::new(Stream::Tcp(link), facts, 1, Bytes::new());
    let client = Stream::Unix(tokio::net::UnixStream::from_std(ours).expect("a client"));
    let service = "app".parse().expect("a name");
    let metrics = Metrics::new("test").service(&service);
    let session = Arc::new(Registry::default()).register(ClientAddr::Unix { uid: None }, service);
    let state = SessionState::after_login(None);
    let mut relay = Relay::new(client, BytesMut::new(), link, state, follow);
    drop(guard);
    let counted = allocation_counter::measure(|| {
        let event = runtime.block_on(relay.run(&Here, &session.entry, &metrics));
        assert!(matches!(event, Event::Command(Sent::Quit)), "{event:?}");
    });
    drop(relay);
    for thread in far {
        thread.join().expect("a thread that did not panic").expect("no I/O error");
    }
    assert_eq!(session.entry.statements(), u64::from(statements));
    counted.count_total
}

fn follow(name: &str) -> Follow {
    if name == "followed" { Follow::All } else { Follow::None }
}

#[test]
fn no_allocation_for_a_statement() {
    // That the counting works at all.
    assert_eq!(allocation_counter::measure(|| drop(std::hint::black_box(Box::new(7)))).count_total, 1);
    // The buffers that all relays of a thread share come with the first of them.
    relay(STATEMENT, 10, Follow::All);
    for (name, _) in BUDGET {
        let few = relay(STATEMENT, 10, follow(name));
        let many = relay(STATEMENT, 5_010, follow(name));
        assert_eq!(many - few, 0, "allocations for 5,000 statements that are {name}");
    }
}

/// Not a test: what callgrind looks at.
#[test]
#[ignore = "run by `instructions_for_a_statement`"]
fn under_callgrind() {
    let variable = |name: &str| std::env::var(name).unwrap_or_default();
    let statement = statement(&variable("STATEMENT"));
    relay(&statement, variable("STATEMENTS").parse().expect("STATEMENTS"), follow(&variable("FOLLOW")));
}

/// The instructions of a relay for so many times this statement.
fn instructions(statement: &str, name: &str, statements: u64) -> u64 {
    let output = Command::new("valgrind")
        .args(["--tool=callgrind", "--callgrind-out-file=/dev/null"])
        .arg("--toggle-collect=*spillway::session::relay::Relay::poll*")
        .arg(std::env::current_exe().expect("this program"))
        .args(["--exact", "--ignored", "under_callgrind"])
        .envs([("STATEMENT", statement), ("FOLLOW", name), ("STATEMENTS", &statements.to_string())])
        .output()
        .expect("valgrind runs");
    let text = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{text}");
    let collected = text.lines().find_map(|line| line.split_once("Collected :")).expect("a count").1;
    collected.trim().parse().expect("a number")
}

#[test]
fn instructions_for_a_long_statement() {
    for (text, name, budget) in LONG_BUDGET {
        let kilobytes = statement(text).len() as u64 / 1024;
        let each = (instructions(text, name, 3) - instructions(text, name, 1)) / 2 / kilobytes;
        println!("{each} instructions for a kilobyte of one {text} that is {name}");
        assert!(each > 10, "{each} instructions: the relay was not counted");
        assert!(
            each <= budget,
            "{each} instructions for a kilobyte of one {text} that is {name}: over {budget}"
        );
    }
}

#[test]
fn instructions_for_a_statement() {
    const STATEMENTS: u64 = 2_000;
    for (name, budget) in BUDGET {
        let each = (instructions("", name, STATEMENTS + 100) - instructions("", name, 100)) / STATEMENTS;
        println!("{each} instructions for a statement that is {name}");
        assert!(each > 500, "{each} instructions: the relay was not counted");
        assert!(each <= budget, "{each} instructions for a statement that is {name}; the budget is {budget}");
    }
}
