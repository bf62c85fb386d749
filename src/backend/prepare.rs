//! Bringing a fresh link to the state of a session: its settings and its prepared statements. And a question that is put as a
//! prepared statement.

use std::time::Duration;

use bytes::{BufMut, Bytes, BytesMut};
use tokio::time::timeout;

use super::{Link, LinkError};
use crate::net::PacketStream;
use crate::wire::codec::Reader;
use crate::wire::command::Expect;
use crate::wire::packet::{Err as ErrPacket, put_packet};
use crate::wire::reply::{End, ReplyTracker, Step};
use crate::wire::statement::PrepareOk;
use crate::wire::{Capabilities, Malformed};

const COM_QUERY: u8 = 0x03;
const COM_STMT_PREPARE: u8 = 0x16;
const COM_STMT_EXECUTE: u8 = 0x17;
const COM_STMT_CLOSE: u8 = 0x19;

/// Longest packet of a reply that is read: names of columns may be long, rows do not come.
const PACKET_LIMIT: usize = 256 * 1024;

/// Commands that are sent before the first reply is read. Their replies are small enough for the buffers between.
const AHEAD: usize = 16;

impl Link {
    /// `COM_QUERY` with this text, as the link's capabilities want it.
    pub fn query(&self, text: &[u8]) -> BytesMut {
        let mut query = BytesMut::with_capacity(3 + text.len());
        query.put_u8(COM_QUERY);
        if self.capabilities.contains(Capabilities::QUERY_ATTRIBUTES) {
            query.put_slice(&[0, 1]);
        }
        query.put_slice(text);
        query
    }

    /// Runs statements that give no rows, then prepares others; returns the node's answers to these, in order. All within
    /// `limit`. Not cancel safe: drop the link if the future is dropped.
    ///
    /// # Errors
    /// When the node refuses one of them, or breaks; the link is closed then.
    pub async fn bring_up(
        self,
        settings: &[Vec<u8>],
        statements: &[&[u8]],
        limit: Duration,
    ) -> Result<(Self, Vec<PrepareOk>), LinkError> {
        let commands: Vec<(BytesMut, Expect)> = settings
            .iter()
            .map(|text| (self.query(text), Expect::Results))
            .chain(statements.iter().map(|text| (prepare(text), Expect::Prepared)))
            .collect();
        if commands.is_empty() {
            return Ok((self, Vec::new()));
        }
        let Self { stream, capabilities, origin } = self;
        let mut packets = PacketStream::new(stream, BytesMut::new(), 0);
        let exchange = async {
            let mut answers = Vec::with_capacity(statements.len());
            for batch in commands.chunks(AHEAD) {
                let mut out = BytesMut::new();
                for (command, _) in batch {
                    put_packet(&mut out, 0, command);
                }
                packets.write_framed(&out).await?;
                for (_, expect) in batch {
                    packets.expect(1);
                    answers.extend(follow(&mut packets, *expect, capabilities).await?.0);
                }
            }
            Ok::<_, LinkError>(answers)
        };
        let answers = timeout(limit, exchange).await.map_err(|_| LinkError::TimedOut(limit))??;
        let (stream, ahead) = packets.into_parts();
        if !ahead.is_empty() {
            return Err(Malformed("bytes behind the last reply").into());
        }
        Ok((Self { stream, capabilities, origin }, answers))
    }

    /// The text that a query without parameters gives, one row of one column, by a statement that is prepared for it. Not
    /// cancel safe: drop the link if the future is dropped.
    pub(super) async fn prepared_value(
        &mut self,
        query: &str,
        limit: Duration,
    ) -> Result<Vec<u8>, LinkError> {
        let capabilities = self.capabilities;
        let mut packets = PacketStream::new(&mut self.stream, BytesMut::new(), 0);
        let exchange = async {
            packets.write(&prepare(query.as_bytes())).await?;
            let answer = follow(&mut packets, Expect::Prepared, capabilities).await?.0;
            let id = answer.ok_or(Malformed("prepare reply"))?.id.to_le_bytes();
            packets.expect(0);
            // No cursor, once, no parameters.
            let execute = [&[COM_STMT_EXECUTE], &id[..], &[0, 1, 0, 0, 0]].concat();
            packets.write(&execute).await?;
            let row = follow(&mut packets, Expect::Results, capabilities).await?.1;
            packets.expect(0);
            packets.write(&[&[COM_STMT_CLOSE], &id[..]].concat()).await?;
            let mut row = Reader::new(&row);
            // A row has a zero and the bits of NULL before its values.
            if (row.u8("a row")?, row.u8("NULL")?) != (0, 0) {
                return Err(Malformed("an answer of anything but one value").into());
            }
            let value = row.lenenc_bytes("a value")?.to_vec();
            if !row.is_empty() || packets.has_read_ahead() {
                return Err(Malformed("bytes behind an answer").into());
            }
            Ok(value)
        };
        timeout(limit, exchange).await.map_err(|_| LinkError::TimedOut(limit))?
    }
}

fn prepare(text: &[u8]) -> BytesMut {
    let mut command = BytesMut::with_capacity(1 + text.len());
    command.put_u8(COM_STMT_PREPARE);
    command.put_slice(text);
    command
}

/// Reads one reply to its end: the answer, if it prepared a statement, and the last packet but the one that ends it, which is
/// the last row of a result.
async fn follow<S>(
    packets: &mut PacketStream<S>,
    expect: Expect,
    capabilities: Capabilities,
) -> Result<(Option<PrepareOk>, Bytes), LinkError>
where
    S: tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin,
{
    let mut tracker = ReplyTracker::new(capabilities);
    tracker.begin(expect);
    let (mut answer, mut last) = (None, Bytes::new());
    loop {
        let packet = packets.read(PACKET_LIMIT).await?;
        if expect == Expect::Prepared && answer.is_none() && packet.first() == Some(&0) {
            answer = Some(PrepareOk::decode(&packet)?);
        }
        match tracker.packet(packet.len(), &packet)? {
            Step::More => last = packet,
            Step::FileRequest => return Err(Malformed("a request for a file").into()),
            Step::Done(End::Error(_)) => return Err(LinkError::Refused(ErrPacket::decode(&packet)?)),
            Step::Done(_) => return Ok((answer, last)),
        }
    }
}
