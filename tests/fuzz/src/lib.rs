//! What the targets share: bytes that come in pieces, memory that is measured, and a runtime.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};

use spillway::wire::Capabilities;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::runtime::{Builder, Runtime};

/// Takes fixed parts from the front of an input, for what a target needs beside the bytes that it parses. An input that is
/// too short has zeros.
pub fn part<const N: usize>(input: &mut &[u8]) -> [u8; N] {
    let mut part = [0; N];
    let n = input.len().min(N);
    part[..n].copy_from_slice(&input[..n]);
    *input = &input[n..];
    part
}

/// Capabilities, any of them.
pub fn capabilities(input: &mut &[u8]) -> Capabilities {
    Capabilities::from_bits_retain(u64::from_le_bytes(part(input)))
}

/// Runs a parser, and fails if it takes more memory at a time than its input can account for.
pub fn bounded<T>(input: &[u8], parser: impl FnOnce() -> T) -> T {
    /// Whatever the input, and for each of its bytes: a value of a row is one byte at least and 32 in memory, in a list that
    /// grows by doubling.
    const ALWAYS: u64 = 256 << 10;
    const EACH: u64 = 400;
    let mut result = None;
    let used = allocation_counter::measure(|| result = Some(parser()));
    let allowed = ALWAYS + EACH * input.len() as u64;
    assert!(used.bytes_max <= allowed, "{} bytes of memory for {} of input", used.bytes_max, input.len());
    result.expect("it ran")
}

/// A peer whose bytes come in pieces of these lengths, over and over, and who takes whatever is sent.
#[derive(Debug)]
pub struct Pieces<'a> {
    rest: &'a [u8],
    lengths: Vec<usize>,
    turn: usize,
}

impl<'a> Pieces<'a> {
    /// In pieces of up to 16 bytes, as `cuts` says.
    pub fn new(bytes: &'a [u8], cuts: [u8; 4]) -> Self {
        let lengths = cuts.into_iter().map(|cut| 1 + usize::from(cut % 16)).collect();
        Self { rest: bytes, lengths, turn: 0 }
    }

    /// All at once.
    pub fn whole(bytes: &'a [u8]) -> Self {
        Self { rest: bytes, lengths: vec![usize::MAX], turn: 0 }
    }
}

impl AsyncRead for Pieces<'_> {
    fn poll_read(self: Pin<&mut Self>, _: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        let length = this.lengths[this.turn % this.lengths.len()];
        this.turn += 1;
        let (now, later) = this.rest.split_at(length.min(this.rest.len()).min(buf.remaining()));
        buf.put_slice(now);
        this.rest = later;
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Pieces<'_> {
    fn poll_write(self: Pin<&mut Self>, _: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Poll::Ready(Ok(bytes.len()))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}

/// Runs something asynchronous to its end.
pub fn run<T>(what: impl Future<Output = T>) -> T {
    thread_local! {
        static RUNTIME: Runtime = Builder::new_current_thread().enable_all().build().expect("a runtime");
    }
    RUNTIME.with(|runtime| runtime.block_on(what))
}
