//! Single packets of a node: greeting, auth switch, OK, ERR, the reply to `COM_STMT_PREPARE`; and of a client that executes
//! a prepared statement.
#![no_main]

use bytes::{Bytes, BytesMut};
use libfuzzer_sys::fuzz_target;
use spillway::wire::handshake::{AuthSwitch, Greeting};
use spillway::wire::packet::{self, HEADER};
use spillway::wire::statement::{Execute, PrepareOk, Types, with_types};
use spillway::wire::{Capabilities, Command, statement};
use spillway_fuzz::{bounded, capabilities, part};

fuzz_target!(|input: &[u8]| {
    let mut rest = input;
    let (negotiated, parameters) = (capabilities(&mut rest), u16::from_le_bytes(part(&mut rest)));
    bounded(input, || {
        if let Ok(greeting) = Greeting::decode(rest) {
            assert_eq!(Greeting::decode(&greeting.encode()), Ok(greeting));
        }
        if let Ok(switch) = AuthSwitch::decode(rest) {
            assert!(switch.plugin.len() + switch.data.len() < rest.len());
            if let (Ok(scramble), Ok(name)) = (switch.scramble(), std::str::from_utf8(switch.plugin)) {
                let written = AuthSwitch::encode(name, &scramble);
                let again = AuthSwitch::decode(&written).expect("what was written can be read");
                assert_eq!((again.plugin, again.scramble()), (switch.plugin, Ok(scramble)));
            }
        }
        if let Ok(error) = packet::Err::decode(rest) {
            let mut written = BytesMut::new();
            error.put(&mut written, 1);
            let again = packet::Err::decode(&written[HEADER..]).expect("what was written can be read");
            assert_eq!((again.code, again.sqlstate), (error.code, error.sqlstate));
            assert!(error.message.starts_with(&again.message));
        }
        if let Ok(ok) = packet::Ok::decode(rest, negotiated) {
            packet::tracked(ok.session_state.unwrap_or_default()).for_each(drop);
            vouching(rest, ok, negotiated);
        }
        packet::tracked(rest).for_each(drop);
        let _ = PrepareOk::decode(rest);
        let command = Command::from_byte(rest.first().copied().unwrap_or_default());
        let _ = statement::id_of(command, rest);
        if let Ok(Execute { types: Types::AsBefore(at), .. }) = Execute::decode(rest, parameters, negotiated)
        {
            // With the types in it, it says them.
            if !negotiated.contains(Capabilities::QUERY_ATTRIBUTES) {
                let types = vec![1; 2 * usize::from(parameters)];
                let with = with_types(rest, at, &types);
                let read =
                    Execute::decode(&with, parameters, negotiated).expect("what was written can be read");
                assert_eq!(read.types, Types::Bound(&types));
            }
        }
    });
});

/// What vouches for another certificate is never passed on, and what else an OK packet says stays.
fn vouching(payload: &[u8], ok: packet::Ok<'_>, negotiated: Capabilities) {
    let whole = Bytes::copy_from_slice(payload);
    for information in [None, Some(&b"\x01vouched"[..])] {
        let changed = packet::vouching(&whole, information, negotiated);
        assert!(changed.len() <= payload.len() + 16);
        let again = packet::Ok::decode(&changed, negotiated).expect("what was written can be read");
        assert_eq!((again.insert_id, again.status), (ok.insert_id, ok.status));
        if ok.session_state.is_some() {
            assert_eq!(again.session_state, ok.session_state);
        }
    }
}
