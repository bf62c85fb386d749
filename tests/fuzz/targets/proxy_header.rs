//! PROXY headers: how the bytes come makes no difference, and what Spillway writes to a node is read as it was meant.
#![no_main]

use libfuzzer_sys::fuzz_target;
use spillway::config::HeaderVersion;
use spillway::net::{Announced, HeaderError, read_header, write_header};
use spillway_fuzz::{Pieces, bounded, part, run};

fuzz_target!(|input: &[u8]| {
    let mut rest = input;
    let cuts = part(&mut rest);
    let read = |mut stream: Pieces<'_>| bounded(input, || run(read_header(&mut stream, true)));
    let (whole, cut) = (read(Pieces::whole(rest)), read(Pieces::new(rest, cuts)));
    match (&whole, &cut) {
        (Ok(a), Ok(b)) => assert_eq!(a, b),
        // What stands behind the header is not read where a piece ends with it.
        (Err(HeaderError::Ahead), Ok(_) | Err(HeaderError::Ahead)) => {}
        (Err(a), Err(b)) => assert_eq!(std::mem::discriminant(a), std::mem::discriminant(b), "{a} {b}"),
        _ => panic!("{whole:?} {cut:?}"),
    }
    let Ok(Announced::Client(client)) = whole else { return };
    assert!(!client.ip().is_unspecified());
    for version in [HeaderVersion::V1, HeaderVersion::V2] {
        for node in ["10.0.0.9:3306", "[2001:db8::9]:3306"] {
            let header =
                write_header(version, client.ip(), node.parse().expect("an address")).expect("it fits");
            match run(read_header(&mut &header[..], true)) {
                Ok(Announced::Client(again)) => assert_eq!(again.ip(), client.ip()),
                other => panic!("{client} {version:?}: {other:?}"),
            }
        }
    }
});
