//! A login at a node that says whatever it likes, over a connection that others can read: whatever it asks, the password is
//! not among the answers.
#![no_main]

use std::cell::RefCell;
use std::net::SocketAddr;
use std::pin::Pin;
use std::time::Duration;
use std::{fmt, io};

use libfuzzer_sys::fuzz_target;
use spillway::auth::{Heard, Proof, caching_sha2, native};
use spillway::backend::{Announce, Approach, Credentials, Exchange, connect};
use spillway::ids::NodeAddr;
use spillway::wire::Capabilities;
use spillway_fuzz::{bounded, part, run};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;

const PASSWORD: &[u8] = b"a secret that is long";

/// A client that answers the node itself, with the question turned around.
#[derive(Debug)]
struct Echo;

impl Exchange for Echo {
    fn is_private(&self) -> bool {
        true
    }

    fn may_fail_for_it(&self) -> bool {
        true
    }

    fn is_hopeless(&self, _: &Heard) -> bool {
        false
    }

    fn ask<'a>(
        &'a self,
        question: &'a [u8],
    ) -> Pin<Box<dyn Future<Output = io::Result<Vec<u8>>> + Send + 'a>> {
        Box::pin(async move {
            let plugin = question.iter().position(|byte| *byte == 0).map_or(&b""[..], |end| &question[..end]);
            assert!(!is_open(plugin.get(1..).unwrap_or_default()), "a password is asked for in the open");
            if question.len() % 7 == 0 { Err(io::Error::other("gone")) } else { Ok(question.to_vec()) }
        })
    }
}

/// Plugins whose answers are passwords.
fn is_open(plugin: &[u8]) -> bool {
    [&b"mysql_clear_password"[..], b"dialog"].contains(&plugin)
}

fuzz_target!(|input: &[u8]| {
    let mut rest = input;
    let [who] = part(&mut rest);
    let proof = match who % 4 {
        0 => Proof::from_password(PASSWORD),
        1 => Proof::Native(native::Proof::from_password(PASSWORD)),
        2 => Proof::Fast(caching_sha2::Stage1::from_password(PASSWORD)),
        _ => Proof::Relayed,
    };
    let exchange = matches!(proof, Proof::Relayed).then_some(&Echo as &dyn Exchange);
    bounded(input, || run(login(rest, &proof, exchange)));
});

async fn login(said: &[u8], proof: &Proof, exchange: Option<&dyn Exchange>) {
    thread_local! {
        static NODE: RefCell<Option<(std::net::TcpListener, SocketAddr)>> = const { RefCell::new(None) };
    }
    let (listener, address) = NODE.with_borrow_mut(|node| {
        let (listener, address) = node.get_or_insert_with(|| {
            let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a free port");
            listener.set_nonblocking(true).expect("a socket");
            let address = listener.local_addr().expect("an address");
            (listener, address)
        });
        (listener.try_clone().expect("a socket"), *address)
    });
    let listener = TcpListener::from_std(listener).expect("a runtime");
    let address: NodeAddr = address.to_string().parse().expect("an address");
    let approach = Approach { address: &address, source: None, tls: None, announce: Announce::Nothing };
    let credentials = Credentials {
        user: b"app",
        proof,
        exchange,
        database: Some(b"shop"),
        capabilities: Capabilities::REQUIRED,
        collation: 45,
        max_packet: 1 << 24,
        attributes: None,
    };
    let node = async {
        let (mut stream, _) = listener.accept().await.expect("a connection");
        let _ = stream.write_all(said).await;
        let _ = stream.shutdown().await;
        let mut heard = Vec::new();
        let _ = stream.read_to_end(&mut heard).await;
        heard
    };
    let client = async { connect(&approach, &credentials, Duration::from_secs(5)).await.map(drop) };
    let (heard, result) = tokio::join!(node, client);
    assert!(!heard.windows(PASSWORD.len()).any(|window| window == PASSWORD), "the password went out");
    let _: Box<dyn fmt::Debug> = Box::new(result);
}
