//! Sessions that log in and then stay silent.

use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::thread;
use std::time::Duration;

use bytes::BytesMut;
use spillway::auth::Proof;
use spillway::wire::Capabilities;
use spillway::wire::handshake::{AuthSwitch, Greeting, HandshakeResponse};
use spillway::wire::packet::{self, HEADER};
use std::io::{Read, Write};

use crate::harness::Outcome;
use crate::workload::Account;

/// Threads that log in at the same time.
const THREADS: usize = 4;

const LIMIT: Duration = Duration::from_mins(1);

/// Opens `count` sessions on a port; they end when the returned sockets are dropped.
pub(crate) fn open(port: u16, count: usize, account: &Account<'_>) -> Outcome<Vec<TcpStream>> {
    let mut all = Vec::with_capacity(count);
    thread::scope(|scope| {
        let share = |n: usize| count / THREADS + usize::from(n < count % THREADS);
        let workers: Vec<_> = (0..THREADS)
            .map(|n| {
                scope.spawn(move || (0..share(n)).map(|_| log_in(port, account)).collect::<Outcome<Vec<_>>>())
            })
            .collect();
        for worker in workers {
            all.extend(worker.join().map_err(|_| "a client panicked".to_owned())??);
        }
        Ok(all)
    })
}

fn log_in(port: u16, account: &Account<'_>) -> Outcome<TcpStream> {
    let address = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
    let mut stream = TcpStream::connect_timeout(&address, LIMIT).map_err(|e| format!("connect: {e}"))?;
    stream.set_read_timeout(Some(LIMIT)).map_err(|e| e.to_string())?;
    let (sequence, payload) = read(&mut stream)?;
    let greeting = Greeting::decode(&payload).map_err(|e| format!("{e}: {payload:?}"))?;
    let proof = Proof::from_password(account.password.as_bytes());
    let response = HandshakeResponse {
        capabilities: Capabilities::REQUIRED
            | Capabilities::RESERVED
            | Capabilities::TRANSACTIONS
            | Capabilities::PLUGIN_AUTH
            | Capabilities::CONNECT_WITH_DB
            | (greeting.capabilities & Capabilities::MYSQL),
        max_packet: 1 << 24,
        collation: 45,
        user: account.user.into(),
        auth: proof.native_reply(&greeting.scramble),
        database: Some(account.schema.into()),
        plugin: Some(b"mysql_native_password".to_vec()),
        attributes: None,
    };
    write(&mut stream, sequence + 1, &response.encode())?;
    loop {
        let (sequence, payload) = read(&mut stream)?;
        match payload.first() {
            Some(0) => return Ok(stream),
            Some(0xFE) => {
                let switch = AuthSwitch::decode(&payload).map_err(|e| e.to_string())?;
                let scramble = switch.scramble().map_err(|e| e.to_string())?;
                write(&mut stream, sequence + 1, &proof.native_reply(&scramble))?;
            }
            _ => return Err(format!("login refused: {}", String::from_utf8_lossy(&payload))),
        }
    }
}

fn read(stream: &mut TcpStream) -> Outcome<(u8, Vec<u8>)> {
    let mut header = [0; HEADER];
    stream.read_exact(&mut header).map_err(|e| format!("read: {e}"))?;
    let (length, sequence) = packet::header(header);
    let mut payload = vec![0; length];
    stream.read_exact(&mut payload).map_err(|e| format!("read: {e}"))?;
    Ok((sequence, payload))
}

fn write(stream: &mut TcpStream, sequence: u8, payload: &[u8]) -> Outcome<()> {
    let mut out = BytesMut::new();
    packet::put_packet(&mut out, sequence, payload);
    stream.write_all(&out).map_err(|e| format!("write: {e}"))
}
