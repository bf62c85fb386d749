//! Answers of a node to queries of Spillway's own.
#![no_main]

use std::time::Duration;

use bytes::Bytes;
use libfuzzer_sys::fuzz_target;
use spillway::backend::Link;
use spillway::net::Stream;
use spillway::topology::Facts;
use spillway_fuzz::{bounded, capabilities, run};
use tokio::io::AsyncWriteExt;
use tokio::net::UnixStream;

fuzz_target!(|input: &[u8]| {
    let mut rest = input;
    let facts = Facts {
        version: String::new(),
        capabilities: capabilities(&mut rest),
        collation: 45,
        sees: None,
        calls: None,
        takes_header: false,
    };
    bounded(input, || {
        run(async {
            let (ours, mut theirs) = UnixStream::pair().expect("a pair of sockets");
            theirs.write_all(rest).await.expect("room for it");
            theirs.shutdown().await.expect("it is open");
            let mut link = Link::new(Stream::Unix(ours), facts, 1, Bytes::new());
            let Ok(rows) = link.rows("SELECT 1", Duration::from_secs(5)).await else { return };
            for row in rows {
                let columns = row.columns().len();
                assert!((0..columns).all(|column| row.value(column).is_some()));
                assert!(row.value(columns).is_none());
            }
        });
    });
});
