//! Finds packet heads in a byte stream, without copying and without assembling packets.

use super::packet::{HEADER, MAX_PAYLOAD, header};

/// Where the stream stands between two chunks.
///
/// A chunk always begins where the last one was left: bytes of an incomplete head are not
/// consumed and come again at the front of the next chunk.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Walker {
    /// Payload bytes of the current packet that are still to come.
    remaining: usize,
    /// The current packet has the maximal length, so the next one continues its message.
    continues: bool,
}

/// A packet that begins in the chunk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Head<'a> {
    /// Where its header stands in the chunk.
    pub at: usize,
    /// Payload length of this packet. Equal to [`MAX_PAYLOAD`]: the message goes on in the next.
    pub len: usize,
    /// Sequence number.
    pub sequence: u8,
    /// As much of the payload as the chunk holds; at least what was asked for.
    pub payload: &'a [u8],
}

/// A part of a message's payload that stands in the chunk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Piece<'a> {
    /// The bytes. None, and not the last: the chunk holds no more of the message.
    pub bytes: &'a [u8],
    /// The position behind them.
    pub end: usize,
    /// The message ends with them.
    pub last: bool,
}

/// What the stream holds next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Next<'a> {
    /// A message begins. [`Walker::enter`] goes on behind its header.
    Head(Head<'a>),
    /// Everything up to this position has been seen; the rest of the chunk is an incomplete head.
    Stop(usize),
}

impl Walker {
    /// Whether the stream stands exactly between two messages.
    pub fn at_boundary(&self) -> bool {
        self.remaining == 0 && !self.continues
    }

    /// Goes on at `from` in `chunk` to the next message. Payload bytes and continuation packets are
    /// passed over. `needs` says how many payload bytes of a message with that length and first
    /// byte must be visible before it is returned.
    pub fn next<'a>(&mut self, chunk: &'a [u8], from: usize, needs: impl Fn(usize, u8) -> usize) -> Next<'a> {
        let mut at = from;
        loop {
            let skip = self.remaining.min(chunk.len() - at);
            self.remaining -= skip;
            at += skip;
            let Some(bytes) = chunk[at..].first_chunk::<HEADER>() else { return Next::Stop(at) };
            let (len, sequence) = header(*bytes);
            let payload = &chunk[at + HEADER..];
            if self.continues {
                self.continues = len == MAX_PAYLOAD;
                self.remaining = len;
                at += HEADER;
                continue;
            }
            let needed = match payload.first() {
                _ if len == 0 => 0,
                Some(first) => needs(len, *first).min(len),
                None => 1,
            };
            if payload.len() < needed {
                return Next::Stop(at);
            }
            let payload = &payload[..payload.len().min(len)];
            return Next::Head(Head { at, len, sequence, payload });
        }
    }

    /// Accepts the message that [`Self::next`] returned; returns the position behind its header.
    pub fn enter(&mut self, head: &Head<'_>) -> usize {
        self.remaining = head.len;
        self.continues = head.len == MAX_PAYLOAD;
        head.at + HEADER
    }

    /// The next bytes of the payload of the message that was entered, at or behind `from`: what [`Self::next`] would pass over.
    pub fn payload<'a>(&mut self, chunk: &'a [u8], from: usize) -> Piece<'a> {
        let mut at = from;
        while self.remaining == 0 && self.continues {
            let Some(bytes) = chunk[at..].first_chunk::<HEADER>() else { break };
            (self.remaining, _) = header(*bytes);
            self.continues = self.remaining == MAX_PAYLOAD;
            at += HEADER;
        }
        let end = at + self.remaining.min(chunk.len() - at);
        self.remaining -= end - at;
        Piece { bytes: &chunk[at..end], end, last: self.at_boundary() }
    }

    /// Passes over a message that stands wholly in the chunk; returns the position behind it.
    pub fn pass(&mut self, head: &Head<'_>) -> usize {
        let behind = self.enter(head);
        self.remaining = 0;
        behind + head.len
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::packet::put_packet;
    use bytes::BytesMut;
    use proptest::prelude::*;

    /// Feeds `stream` in pieces of the given sizes, as a relay does, and lists message heads.
    fn heads(stream: &[u8], sizes: &[usize], need: usize) -> Vec<(usize, u8, Vec<u8>)> {
        let mut walker = Walker::default();
        let mut found = Vec::new();
        let mut held: Vec<u8> = Vec::new();
        let mut fed = 0;
        let mut sizes = sizes.iter().cycle();
        while fed < stream.len() {
            let n = (*sizes.next().unwrap()).clamp(1, stream.len() - fed);
            held.extend_from_slice(&stream[fed..fed + n]);
            fed += n;
            let mut at = 0;
            loop {
                match walker.next(&held, at, |len, _| need.min(len)) {
                    Next::Head(head) => {
                        assert!(head.payload.len() >= need.min(head.len));
                        found.push((head.len, head.sequence, head.payload[..need.min(head.len)].to_vec()));
                        at = walker.enter(&head);
                    }
                    Next::Stop(end) => {
                        held.drain(..end);
                        break;
                    }
                }
            }
        }
        assert!(held.is_empty());
        assert!(walker.at_boundary());
        found
    }

    #[test]
    fn a_message_over_16_mib_is_one_message() {
        let mut stream = BytesMut::new();
        put_packet(&mut stream, 0, &vec![3; MAX_PAYLOAD + 5]);
        put_packet(&mut stream, 0, b"\x0E");
        let found = heads(&stream, &[65_536], 1);
        assert_eq!(found, [(MAX_PAYLOAD, 0, vec![3]), (1, 0, vec![0x0E])]);
    }

    #[test]
    fn a_message_of_exactly_16_mib_ends_with_an_empty_packet() {
        let mut stream = BytesMut::new();
        put_packet(&mut stream, 0, &vec![3; MAX_PAYLOAD]);
        put_packet(&mut stream, 0, b"\x0E");
        assert_eq!(heads(&stream, &[1 << 20], 1).len(), 2);
    }

    /// Feeds one message in pieces of a size and puts its payload together again.
    fn payload(stream: &[u8], size: usize) -> Vec<u8> {
        let (mut walker, mut held, mut found) = (Walker::default(), Vec::new(), Vec::new());
        let (mut entered, mut ended) = (false, false);
        for fed in stream.chunks(size) {
            held.extend_from_slice(fed);
            let mut at = 0;
            if !entered {
                let Next::Head(head) = walker.next(&held, 0, |_, _| 1) else { continue };
                (at, entered) = (walker.enter(&head), true);
            }
            loop {
                let piece = walker.payload(&held, at);
                found.extend_from_slice(piece.bytes);
                (at, ended) = (piece.end, piece.last);
                if ended || piece.bytes.is_empty() {
                    break;
                }
            }
            held.drain(..at);
        }
        assert!(ended && held.is_empty() && walker.at_boundary());
        found
    }

    #[test]
    fn the_payload_of_a_message_has_no_headers_in_it() {
        for length in [1, 5, MAX_PAYLOAD - 1, MAX_PAYLOAD, MAX_PAYLOAD + 7, 2 * MAX_PAYLOAD] {
            let message: Vec<u8> = (0..length).map(|n| (n % 251) as u8).collect();
            let mut stream = BytesMut::new();
            put_packet(&mut stream, 0, &message);
            for size in [65_536, MAX_PAYLOAD + HEADER, MAX_PAYLOAD + HEADER + 2, usize::MAX] {
                assert!(payload(&stream, size) == message, "{length} bytes in pieces of {size}");
            }
        }
        assert_eq!(payload(&[3, 0, 0, 0, 7, 8, 9], 1), [7, 8, 9]);
    }

    proptest! {
        #[test]
        fn segmentation_does_not_matter(
            messages in proptest::collection::vec(proptest::collection::vec(any::<u8>(), 0..60), 1..12),
            sizes in proptest::collection::vec(1usize..50, 1..8),
            need in 0usize..20,
        ) {
            let mut stream = BytesMut::new();
            for (i, m) in messages.iter().enumerate() { put_packet(&mut stream, i as u8, m); }
            let expected: Vec<_> = messages.iter().enumerate()
                .map(|(i, m)| (m.len(), i as u8, m[..need.min(m.len())].to_vec())).collect();
            prop_assert_eq!(heads(&stream, &sizes, need), expected);
        }
    }
}
