//! Single commands on a link that serves nobody yet, and the account that the node gave it.

use std::time::Duration;

use bytes::{BufMut, Bytes, BytesMut};
use tokio::time::timeout;

use super::{Link, LinkError, REPLY_LIMIT};
use crate::net::PacketStream;
use crate::wire::codec::Reader;
use crate::wire::packet::Err as ErrPacket;
use crate::wire::{Capabilities, Malformed};

pub(super) const COM_QUERY: u8 = 3;

/// Packets of an answer of one column and one row: number of columns, the column, its end, the row, the end.
const PACKETS: usize = 5;

impl Link {
    /// Sends one command whose reply is a single OK or ERR packet, and returns that packet's payload.
    /// Not cancel safe: drop the link if the future is dropped.
    pub async fn command(self, command: &[u8], limit: Duration) -> Result<(Self, Bytes), LinkError> {
        let Self { stream, capabilities, origin } = self;
        let mut packets = PacketStream::new(stream, BytesMut::new(), 0);
        let exchange = async {
            packets.write(command).await?;
            Ok::<_, LinkError>(packets.read(REPLY_LIMIT).await?)
        };
        let reply = timeout(limit, exchange).await.map_err(|_| LinkError::TimedOut(limit))??;
        if !matches!(reply.first(), Some(0 | 0xFF)) || packets.has_read_ahead() {
            return Err(Malformed("reply of more than one packet").into());
        }
        let (stream, _) = packets.into_parts();
        Ok((Self { stream, capabilities, origin }, reply))
    }

    /// The value that a query gives: one row of one column. Not cancel safe: drop the link if the future is dropped.
    ///
    /// # Errors
    /// When the node refuses the query or answers anything else.
    pub async fn value(self, query: &[u8], limit: Duration) -> Result<(Self, Vec<u8>), LinkError> {
        let Self { stream, capabilities, origin } = self;
        let mut command = BytesMut::with_capacity(3 + query.len());
        command.put_u8(COM_QUERY);
        if capabilities.contains(Capabilities::QUERY_ATTRIBUTES) {
            command.put_slice(&[0, 1]);
        }
        command.put_slice(query);
        // Without DEPRECATE_EOF, the columns have an end of their own.
        let last = if capabilities.contains(Capabilities::DEPRECATE_EOF) { PACKETS - 1 } else { PACKETS };
        let mut packets = PacketStream::new(stream, BytesMut::new(), 0);
        let exchange = async {
            packets.write(&command).await?;
            let mut row = Bytes::new();
            for number in 1..=last {
                let packet = packets.read(REPLY_LIMIT).await?;
                if packet.first() == Some(&0xFF) {
                    return Err(LinkError::Refused(ErrPacket::decode(&packet)?));
                }
                if number == last - 1 {
                    row = packet;
                } else if (number == last) != (packet.first() == Some(&0xFE)) && number != 3 {
                    return Err(Malformed("reply of more than one row").into());
                }
            }
            Ok::<_, LinkError>(row)
        };
        let row = timeout(limit, exchange).await.map_err(|_| LinkError::TimedOut(limit))??;
        let value = Reader::new(&row).lenenc_bytes("a value")?.to_vec();
        let (stream, ahead) = packets.into_parts();
        if !ahead.is_empty() {
            return Err(Malformed("bytes behind a reply").into());
        }
        Ok((Self { stream, capabilities, origin }, value))
    }

    /// Makes sure that the node gave the login the account that the client was judged by. A node that has other rows
    /// than those that were loaded, or sees another address than was thought, is found out here.
    ///
    /// # Errors
    /// [`LinkError::OtherAccount`] when it is another one; the link is closed then.
    pub(super) async fn asserted(self, wanted: &str, limit: Duration) -> Result<Self, LinkError> {
        let (link, found) = self.value(b"SELECT CURRENT_USER()", limit).await?;
        if found == wanted.as_bytes() {
            return Ok(link);
        }
        let found = String::from_utf8_lossy(&found).into_owned();
        Err(LinkError::OtherAccount { wanted: wanted.to_owned(), found })
    }
}
