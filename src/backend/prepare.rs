//! Bringing a fresh link to the state of a session: its settings and its prepared statements.

use std::time::Duration;

use bytes::{BufMut, BytesMut};
use tokio::time::timeout;

use super::{Link, LinkError};
use crate::net::PacketStream;
use crate::wire::command::Expect;
use crate::wire::packet::{Err as ErrPacket, put_packet};
use crate::wire::reply::{End, ReplyTracker, Step};
use crate::wire::statement::PrepareOk;
use crate::wire::{Capabilities, Malformed};

const COM_QUERY: u8 = 0x03;
const COM_STMT_PREPARE: u8 = 0x16;

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
                    answers.extend(follow(&mut packets, *expect, capabilities).await?);
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
}

fn prepare(text: &[u8]) -> BytesMut {
    let mut command = BytesMut::with_capacity(1 + text.len());
    command.put_u8(COM_STMT_PREPARE);
    command.put_slice(text);
    command
}

/// Reads one reply to its end; the answer, if it prepared a statement.
async fn follow<S>(
    packets: &mut PacketStream<S>,
    expect: Expect,
    capabilities: Capabilities,
) -> Result<Option<PrepareOk>, LinkError>
where
    S: tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin,
{
    let mut tracker = ReplyTracker::new(capabilities);
    tracker.begin(expect);
    let mut answer = None;
    loop {
        let packet = packets.read(PACKET_LIMIT).await?;
        if expect == Expect::Prepared && answer.is_none() && packet.first() == Some(&0) {
            answer = Some(PrepareOk::decode(&packet)?);
        }
        match tracker.packet(packet.len(), &packet)? {
            Step::More => {}
            Step::FileRequest => return Err(Malformed("a request for a file").into()),
            Step::Done(End::Error(_)) => return Err(LinkError::Refused(ErrPacket::decode(&packet)?)),
            Step::Done(_) => return Ok(answer),
        }
    }
}
