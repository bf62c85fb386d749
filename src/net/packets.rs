//! Whole packets over a stream, for the connection phase and the few commands that Spillway answers.
//!
//! The relay does not use this: it forwards bytes as they come.

use std::io;

use bytes::{Buf, Bytes, BytesMut};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

use crate::wire::packet::{HEADER, MAX_PAYLOAD, header, put_packet};

/// Most bytes for which room is made before they come: a peer may say that its packet is long, and leave it at that.
const ROOM: usize = 16 << 10;

/// Why a packet could not be read.
#[derive(Debug, thiserror::Error)]
pub enum ReadError {
    /// The peer closed the connection.
    #[error("closed by the peer")]
    Closed,
    /// The socket failed.
    #[error(transparent)]
    Io(#[from] io::Error),
    /// The packet is longer than is allowed here.
    #[error("packet of {0} bytes, too long here")]
    TooLong(usize),
    /// The sequence number is not the next one.
    #[error("packet out of order: got number {got}, expected {expected}")]
    OutOfOrder {
        /// The number it has.
        got: u8,
        /// The number it should have.
        expected: u8,
    },
}

/// A stream with the bytes that were read ahead and the sequence number that is due.
#[derive(Debug)]
pub struct PacketStream<S> {
    io: S,
    ahead: BytesMut,
    sequence: u8,
}

impl<S: AsyncRead + AsyncWrite + Unpin> PacketStream<S> {
    /// Wraps a stream of which `ahead` was already read; the next packet has number `sequence`.
    pub fn new(io: S, ahead: BytesMut, sequence: u8) -> Self {
        Self { io, ahead, sequence }
    }

    /// The number of the next packet, whoever sends it.
    pub fn sequence(&self) -> u8 {
        self.sequence
    }

    /// The next packet has this number: 1 for the first one of a reply to a command.
    pub fn expect(&mut self, sequence: u8) {
        self.sequence = sequence;
    }

    /// The next packet's payload, at most `limit` bytes. Cancel safe: bytes that were read stay.
    pub async fn read(&mut self, limit: usize) -> Result<Bytes, ReadError> {
        loop {
            if let Some(bytes) = self.ahead.first_chunk::<HEADER>() {
                let (len, got) = header(*bytes);
                if got != self.sequence {
                    return Err(ReadError::OutOfOrder { got, expected: self.sequence });
                }
                if len > limit.min(MAX_PAYLOAD - 1) {
                    return Err(ReadError::TooLong(len));
                }
                if self.ahead.len() >= HEADER + len {
                    self.ahead.advance(HEADER);
                    self.sequence = self.sequence.wrapping_add(1);
                    return Ok(self.ahead.split_to(len).freeze());
                }
                self.ahead.reserve((HEADER + len - self.ahead.len()).min(ROOM));
            }
            if self.io.read_buf(&mut self.ahead).await? == 0 {
                return Err(ReadError::Closed);
            }
        }
    }

    /// Passes over the next message, of however many packets and bytes. Not cancel safe.
    pub async fn skip(&mut self) -> Result<(), ReadError> {
        const AT_ONCE: usize = 16 * 1024;
        loop {
            let (mut left, got) = loop {
                if let Some(bytes) = self.ahead.first_chunk::<HEADER>() {
                    break header(*bytes);
                }
                if self.io.read_buf(&mut self.ahead).await? == 0 {
                    return Err(ReadError::Closed);
                }
            };
            if got != self.sequence {
                return Err(ReadError::OutOfOrder { got, expected: self.sequence });
            }
            self.sequence = self.sequence.wrapping_add(1);
            self.ahead.advance(HEADER);
            let goes_on = left == MAX_PAYLOAD;
            while left > 0 {
                if self.ahead.is_empty() {
                    self.ahead.reserve(left.min(AT_ONCE));
                    if self.io.read_buf(&mut self.ahead).await? == 0 {
                        return Err(ReadError::Closed);
                    }
                }
                let part = left.min(self.ahead.len());
                self.ahead.advance(part);
                left -= part;
            }
            if !goes_on {
                return Ok(());
            }
        }
    }

    /// Waits until the peer has closed the connection, and keeps what it says meanwhile: of more than `limit` bytes nobody
    /// is told any more that it went. Cancel safe.
    pub async fn closed(&mut self, limit: usize) -> ReadError {
        while self.ahead.len() <= limit {
            match self.io.read_buf(&mut self.ahead).await {
                Ok(0) => return ReadError::Closed,
                Ok(_) => {}
                Err(error) => return error.into(),
            }
        }
        std::future::pending().await
    }

    /// Sends one payload with the number that is due. Not cancel safe: half a packet may be out.
    pub async fn write(&mut self, payload: &[u8]) -> io::Result<()> {
        let mut out = BytesMut::with_capacity(HEADER + payload.len());
        put_packet(&mut out, self.sequence, payload);
        self.sequence = self.sequence.wrapping_add(1);
        self.write_framed(&out).await
    }

    /// Sends packets that are already framed. Not cancel safe.
    pub async fn write_framed(&mut self, packets: &[u8]) -> io::Result<()> {
        self.io.write_all(packets).await?;
        // TLS may have taken the bytes and kept them.
        self.io.flush().await
    }

    /// Whether the peer has sent more than was asked for.
    pub fn has_read_ahead(&self) -> bool {
        !self.ahead.is_empty()
    }

    /// The stream, and what was read ahead.
    pub fn into_parts(self) -> (S, BytesMut) {
        (self.io, self.ahead)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn two_packets_in_one_segment_are_two_packets() {
        let (mut peer, ours) = tokio::io::duplex(64);
        let mut stream = PacketStream::new(ours, BytesMut::new(), 0);
        peer.write_all(b"\x02\0\0\0ab\x01\0\0\x01c").await.unwrap();
        assert_eq!(&stream.read(10).await.unwrap()[..], b"ab");
        assert!(stream.has_read_ahead());
        assert_eq!(&stream.read(10).await.unwrap()[..], b"c");
    }

    #[tokio::test]
    async fn one_packet_in_many_segments_is_one_packet() {
        let (mut peer, ours) = tokio::io::duplex(64);
        let mut stream = PacketStream::new(ours, BytesMut::new(), 0);
        let reader = tokio::spawn(async move { stream.read(10).await.unwrap() });
        for byte in b"\x02\0\0\0ab" {
            peer.write_all(&[*byte]).await.unwrap();
            tokio::task::yield_now().await;
        }
        assert_eq!(&reader.await.unwrap()[..], b"ab");
    }

    #[tokio::test]
    async fn a_message_of_several_packets_is_passed_over() {
        let (mut peer, ours) = tokio::io::duplex(1 << 20);
        let mut stream = PacketStream::new(ours, BytesMut::from(&b"\x01\0\0\0a"[..]), 0);
        stream.skip().await.unwrap();
        stream.expect(0);
        let writer = tokio::spawn(async move {
            let mut message = vec![0xFF, 0xFF, 0xFF, 0];
            message.resize(message.len() + MAX_PAYLOAD, b'a');
            message.extend_from_slice(b"\x02\0\0\x01ab\x01\0\0\x02z");
            peer.write_all(&message).await.unwrap();
            peer
        });
        stream.skip().await.unwrap();
        assert_eq!((stream.sequence(), &stream.read(10).await.unwrap()[..]), (2, &b"z"[..]));
        drop(writer.await.unwrap());
        assert!(matches!(stream.skip().await, Err(ReadError::Closed)));
    }

    #[tokio::test]
    async fn what_comes_before_the_end_is_kept() {
        let (mut peer, ours) = tokio::io::duplex(64);
        let mut stream = PacketStream::new(ours, BytesMut::new(), 0);
        peer.write_all(b"\x02\0\0\0a").await.unwrap();
        let wait = std::time::Duration::from_millis(20);
        assert!(tokio::time::timeout(wait, stream.closed(100)).await.is_err());
        peer.write_all(b"b").await.unwrap();
        drop(peer);
        assert!(matches!(stream.closed(100).await, ReadError::Closed));
        assert_eq!(&stream.read(10).await.unwrap()[..], b"ab");
        let (mut peer, ours) = tokio::io::duplex(64);
        let mut stream = PacketStream::new(ours, BytesMut::new(), 0);
        peer.write_all(&[0; 20]).await.unwrap();
        drop(peer);
        assert!(tokio::time::timeout(wait, stream.closed(10)).await.is_err());
        assert!(stream.has_read_ahead());
    }

    #[tokio::test]
    async fn a_long_packet_takes_the_memory_of_what_has_come() {
        let (mut peer, ours) = tokio::io::duplex(1 << 20);
        let mut stream = PacketStream::new(ours, BytesMut::new(), 0);
        peer.write_all(b"\xFE\xFF\xFF\0a").await.unwrap();
        let wait = std::time::Duration::from_millis(20);
        assert!(tokio::time::timeout(wait, stream.read(MAX_PAYLOAD)).await.is_err());
        assert!(stream.ahead.capacity() <= 2 * ROOM, "{}", stream.ahead.capacity());
        peer.write_all(&vec![b'a'; 100_000]).await.unwrap();
        assert!(tokio::time::timeout(wait, stream.read(MAX_PAYLOAD)).await.is_err());
        assert!((100_000..400_000).contains(&stream.ahead.capacity()), "{}", stream.ahead.capacity());
    }

    #[tokio::test]
    async fn length_and_order_are_checked_before_anything_is_kept() {
        let (mut peer, ours) = tokio::io::duplex(64);
        let mut stream = PacketStream::new(ours, BytesMut::new(), 0);
        peer.write_all(b"\xFF\xFF\x0F\0").await.unwrap();
        assert!(matches!(stream.read(100).await, Err(ReadError::TooLong(_))));
        let (mut peer, ours) = tokio::io::duplex(64);
        let mut stream = PacketStream::new(ours, BytesMut::new(), 1);
        peer.write_all(b"\x01\0\0\x02a").await.unwrap();
        assert!(matches!(stream.read(100).await, Err(ReadError::OutOfOrder { got: 2, expected: 1 })));
    }
}
