//! What a client sends before it has logged in, and `COM_CHANGE_USER`: packets out of a stream, and what is in them.
#![no_main]

use bytes::BytesMut;
use libfuzzer_sys::fuzz_target;
use spillway::net::PacketStream;
use spillway::wire::Capabilities;
use spillway::wire::handshake::{ChangeUser, HandshakeResponse, SslRequest, attributes_without};
use spillway_fuzz::{Pieces, bounded, capabilities, part, run};

fuzz_target!(|input: &[u8]| {
    let mut rest = input;
    // Spillway never offers less.
    let (cuts, offered) = (part(&mut rest), capabilities(&mut rest) | Capabilities::REQUIRED);
    let whole = packets(Pieces::whole(rest), rest);
    assert_eq!(whole, packets(Pieces::new(rest, cuts), rest), "how the bytes are cut");
    for payload in whole.0.iter().map(Vec::as_slice).chain([rest]) {
        bounded(input, || payload_of(payload, offered));
    }
});

/// All packets up to the first mistake, and that.
fn packets(stream: Pieces<'_>, input: &[u8]) -> (Vec<Vec<u8>>, String) {
    const LIMIT: usize = 4096;
    bounded(input, || {
        let mut stream = PacketStream::new(stream, BytesMut::new(), 0);
        let mut found = Vec::new();
        loop {
            match run(stream.read(LIMIT)) {
                Ok(payload) => {
                    assert!(payload.len() <= LIMIT);
                    found.push(payload.to_vec());
                }
                Err(error) => return (found, error.to_string()),
            }
        }
    })
}

fn payload_of(payload: &[u8], offered: Capabilities) {
    if let Ok(Some(request)) = SslRequest::decode(payload) {
        assert_eq!(SslRequest::decode(&request.encode()), Ok(Some(request)));
    }
    if let Ok(read) = HandshakeResponse::decode(payload, offered) {
        assert!((offered | Capabilities::MYSQL).contains(read.capabilities), "more than was offered");
        assert!(read.user.len() + read.auth.len() <= payload.len());
        // Without it the reply ends with a NUL byte, which Spillway never writes: it refuses such clients.
        if read.capabilities.contains(Capabilities::SECURE_CONNECTION) {
            let again =
                HandshakeResponse::decode(&read.encode(), offered).expect("what was written can be read");
            // What stands for nothing is written as nothing.
            let attributes = read.attributes.clone().filter(|a| !a.is_empty());
            assert_eq!(again.attributes.clone().filter(|a| !a.is_empty()), attributes);
            let same = HandshakeResponse { attributes: again.attributes.clone(), ..read };
            assert!(again == same, "{again:?} {same:?}");
        }
    }
    if let Ok(read) = ChangeUser::decode(payload, offered) {
        let written = read.encode(offered);
        let again = ChangeUser::decode(&written[1..], offered).expect("what was written can be read");
        assert!((&again.user, &again.auth, &again.database) == (&read.user, &read.auth, &read.database));
        assert_eq!(again.collation, Some(read.collation.unwrap_or_default()));
        let some = |value: &Option<Vec<u8>>| value.clone().unwrap_or_default();
        assert_eq!(
            (some(&again.plugin), some(&again.attributes)),
            (some(&read.plugin), some(&read.attributes))
        );
    }
    let without = attributes_without(payload, b"_pid");
    assert!(without.len() <= payload.len());
    assert_eq!(attributes_without(&without, b"_pid"), without);
}
