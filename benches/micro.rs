//! Micro benchmarks of what Spillway does for every packet, statement and login: `cargo bench --bench micro`.
//!
//! Instruction counts of the whole relay, which a busy machine cannot blur: `tests/relay_cost.rs`.

use std::hint::black_box;
use std::net::IpAddr;
use std::time::{Duration, SystemTime};

use divan::Bencher;
use divan::counter::{BytesCount, ItemsCount};
use spillway::grants::{
    GlobalPrivRow, HostIdentity, LoginRequest, RawAccounts, Snapshot, Transport, Verdict, decide,
};
use spillway::sql::{self, Backslash};
use spillway::wire::Capabilities;
use spillway::wire::command::Expect;
use spillway::wire::reply::{ReplyTracker, Step};
use spillway::wire::walk::{Next, Walker};
use zeroize::Zeroizing;

fn main() {
    divan::main();
}

fn packet(sequence: u8, payload: &[u8]) -> Vec<u8> {
    let mut out = (payload.len() as u32).to_le_bytes()[..3].to_vec();
    out.push(sequence);
    out.extend_from_slice(payload);
    out
}

/// A reply with one column and rows of 120 bytes.
fn reply(rows: u8) -> Vec<u8> {
    let eof = [0xfe, 0, 0, 2, 0];
    let mut out = [packet(1, &[1]), packet(2, &[3; 50]), packet(3, &eof)].concat();
    for row in 0..rows {
        out.extend(packet(4 + row, &[&[120][..], &[b'x'; 120]].concat()));
    }
    out.extend(packet(4 + rows, &eof));
    out
}

/// Finding the heads of 64 KiB of packets.
#[divan::bench(args = [16, 128, 4096])]
fn header_walk(bencher: Bencher<'_, '_>, payload: usize) {
    let packets: Vec<u8> =
        (0..=255).cycle().take(65_536 / (payload + 4)).flat_map(|n| packet(n, &vec![7; payload])).collect();
    bencher.counter(BytesCount::of_slice(&packets)).bench(|| {
        let (mut walker, mut at, mut heads) = (Walker::default(), 0, 0);
        while let Next::Head(head) = walker.next(black_box(&packets), at, |_, _| 1) {
            at = walker.enter(&head);
            heads += 1;
        }
        heads
    });
}

/// Following one reply from its first packet to its end.
#[divan::bench(args = [1, 100])]
fn reply_tracking(bencher: Bencher<'_, '_>, rows: u8) {
    let bytes = reply(rows);
    bencher.counter(ItemsCount::new(1_usize)).bench(|| {
        let mut tracker = ReplyTracker::new(Capabilities::REQUIRED);
        let (mut walker, mut at) = (Walker::default(), 0);
        tracker.begin(Expect::Results);
        loop {
            let next = walker.next(black_box(&bytes), at, |len, first| tracker.needs(len, first));
            let Next::Head(head) = next else { panic!("the reply does not end") };
            if let Ok(Step::Done(end)) = tracker.packet(head.len, head.payload) {
                return end;
            }
            at = walker.enter(&head);
        }
    });
}

const STATEMENTS: &[(&str, &str)] = &[
    ("point select", "SELECT c FROM sbtest1 WHERE id = 4711"),
    ("insert", "INSERT INTO orders (customer, amount, note) VALUES (17, 12.50, 'as \"soon\" as possible')"),
    ("names", "SET NAMES utf8mb4 COLLATE utf8mb4_unicode_ci"),
    ("unknown", "CREATE TABLE t AS SELECT * FROM s"),
];

/// What a statement leaves in its session.
#[divan::bench(args = STATEMENTS.iter().map(|(name, _)| name))]
fn classify(bencher: Bencher<'_, '_>, name: &str) {
    let text = STATEMENTS.iter().find(|(n, _)| *n == name).expect("a statement").1;
    bencher
        .counter(BytesCount::of_str(text))
        .bench(|| sql::judge(black_box(text.as_bytes()), Backslash::Escapes));
}

/// Judging an `INSERT` of a megabyte that comes in pieces, as a relay reads it: one string, one with escapes, short rows.
#[divan::bench(args = ["string", "escapes", "rows"])]
fn judge_in_pieces(bencher: Bencher<'_, '_>, name: &str) {
    let values = match name {
        "string" => format!("('{}')", "x".repeat(1 << 20)),
        "escapes" => format!("('{}')", r"abcdefghijklmnopqrstuvwxyz\'\n".repeat((1 << 20) / 30)),
        _ => "(1234, 'some word', 12.5, NULL),".repeat((1 << 20) / 32),
    };
    let text = format!("INSERT INTO t VALUES {values}");
    bencher.counter(BytesCount::of_str(&text)).bench(|| {
        let mut judge = sql::Judge::new(Backslash::Escapes);
        for piece in black_box(text.as_bytes()).chunks(64 * 1024) {
            judge.read(piece, false);
        }
        judge.read(b"", true);
        judge.end()
    });
}

/// Finding the account of a login among that many.
#[divan::bench(args = [10, 1_000, 20_000])]
fn account_match(bencher: Bencher<'_, '_>, accounts: usize) {
    let mut raw = RawAccounts::default();
    "10.11.19-MariaDB".clone_into(&mut raw.variables.version);
    let json = "{\"plugin\":\"mysql_native_password\",\"authentication_string\":\
                \"*D69B6B3E6BC4E3C1F5B8D3E7B1A7F7A3D1B7C2A0\"}";
    for number in 0..accounts {
        let (user, host) =
            (format!("user{}", number / 4), ["10.0.%", "10.0.1.2", "%", "192.168.0.0/255.255.0.0"]);
        let priv_json = Zeroizing::new(json.to_owned());
        raw.global_priv.push(GlobalPrivRow { host: host[number % 4].to_owned(), user, priv_json });
    }
    let snapshot = Snapshot::build(raw, SystemTime::UNIX_EPOCH);
    let address: IpAddr = "10.0.1.7".parse().expect("an address");
    let client = HostIdentity::without_name(address);
    let proxy = HostIdentity::without_name("10.0.9.9".parse().expect("an address"));
    let user = format!("user{}", accounts / 8);
    let request = LoginRequest {
        user: user.as_bytes(),
        client: &client,
        proxy: &proxy,
        database: None,
        using_password: true,
        transport: Transport::Plain,
        can_handle_expired_passwords: false,
        now: SystemTime::UNIX_EPOCH + Duration::from_hours(500_000),
        plugins: &["mysql_native_password"],
    };
    assert!(matches!(decide(&snapshot, &request).verdict, Verdict::Candidate { .. }), "the login is refused");
    bencher.counter(ItemsCount::new(1_usize)).bench(|| decide(black_box(&snapshot), black_box(&request)));
}
