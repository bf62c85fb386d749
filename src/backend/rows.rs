//! Queries of Spillway's own that give rows.

use std::sync::Arc;
use std::time::Duration;

use bytes::{BufMut, Bytes, BytesMut};
use tokio::time::timeout;

use super::{Link, LinkError};
use crate::net::PacketStream;
use crate::wire::codec::Reader;
use crate::wire::packet::Err as ErrPacket;
use crate::wire::{Capabilities, Malformed};

const COM_QUERY: u8 = 3;

/// Longest packet of an answer: one row.
const ROW_LIMIT: usize = (1 << 24) - 2;

/// Longest answer, in bytes of packets.
const ANSWER_LIMIT: usize = 256 << 20;

/// What the text protocol writes in place of a value that is NULL.
const NULL: u8 = 0xFB;

/// A row of an answer, with its values as text.
#[derive(Debug, Clone)]
pub struct Row {
    columns: Arc<[String]>,
    values: Vec<Option<Bytes>>,
}

impl Row {
    /// The names of the columns.
    pub fn columns(&self) -> &[String] {
        &self.columns
    }

    /// A value; the outer none: there is no such column; the inner: it is NULL.
    pub fn value(&self, column: usize) -> Option<Option<&[u8]>> {
        self.values.get(column).map(Option::as_deref)
    }

    /// A row of these columns, none for NULL.
    #[cfg(test)]
    pub(crate) fn of(columns: &[(&str, Option<&str>)]) -> Self {
        let values =
            columns.iter().map(|(_, value)| value.map(|value| Bytes::copy_from_slice(value.as_bytes())));
        Self {
            columns: columns.iter().map(|(name, _)| (*name).to_owned()).collect(),
            values: values.collect(),
        }
    }

    fn decode(columns: &Arc<[String]>, packet: &Bytes) -> Result<Self, Malformed> {
        let mut reader = Reader::new(packet);
        let mut values = Vec::with_capacity(columns.len());
        for _ in 0..columns.len() {
            if reader.rest().first() == Some(&NULL) {
                reader.u8("NULL")?;
                values.push(None);
            } else {
                values.push(Some(packet.slice_ref(reader.lenenc_bytes("a value")?)));
            }
        }
        if reader.is_empty() {
            Ok(Self { columns: Arc::clone(columns), values })
        } else {
            Err(Malformed("bytes behind the last value of a row"))
        }
    }
}

impl Link {
    /// All rows of a query; none for one that gives none.
    ///
    /// # Errors
    /// [`LinkError::Refused`] leaves the link as it was. After any other error, and when the future is dropped, it must be
    /// closed.
    pub async fn rows(&mut self, query: &str, limit: Duration) -> Result<Vec<Row>, LinkError> {
        let mut command = BytesMut::with_capacity(3 + query.len());
        command.put_u8(COM_QUERY);
        if self.capabilities.contains(Capabilities::QUERY_ATTRIBUTES) {
            // None, in one set.
            command.put_slice(&[0, 1]);
        }
        command.put_slice(query.as_bytes());
        let mut packets = PacketStream::new(&mut self.stream, BytesMut::new(), 0);
        let exchange = async {
            packets.write(&command).await?;
            let rows = answer(&mut packets, self.capabilities).await?;
            if packets.has_read_ahead() {
                return Err(Malformed("bytes behind an answer").into());
            }
            Ok(rows)
        };
        timeout(limit, exchange).await.map_err(|_| LinkError::TimedOut(limit))?
    }
}

async fn answer(
    packets: &mut PacketStream<&mut crate::net::Stream>,
    capabilities: Capabilities,
) -> Result<Vec<Row>, LinkError> {
    let first = packets.read(ROW_LIMIT).await?;
    match first.first() {
        Some(0) => return Ok(Vec::new()),
        Some(0xFF) => return Err(LinkError::Refused(ErrPacket::decode(&first)?)),
        _ => {}
    }
    let count = Reader::new(&first).lenenc("the number of columns")?;
    let mut columns = Vec::new();
    for _ in 0..count {
        let packet = packets.read(ROW_LIMIT).await?;
        let mut reader = Reader::new(&packet);
        for _ in ["catalog", "schema", "table", "table before its alias"] {
            reader.lenenc_bytes("a column")?;
        }
        columns.push(String::from_utf8_lossy(reader.lenenc_bytes("the name of a column")?).into_owned());
    }
    let columns_end = !capabilities.contains(Capabilities::DEPRECATE_EOF);
    if columns_end && !is_end(&packets.read(ROW_LIMIT).await?) {
        return Err(Malformed("the end of the columns").into());
    }
    let (columns, mut rows, mut taken) = (Arc::from(columns), Vec::new(), 0);
    loop {
        let packet = packets.read(ROW_LIMIT).await?;
        taken += packet.len();
        if is_end(&packet) {
            return Ok(rows);
        }
        if packet.first() == Some(&0xFF) {
            return Err(LinkError::Refused(ErrPacket::decode(&packet)?));
        }
        if taken > ANSWER_LIMIT {
            return Err(Malformed("an answer without end").into());
        }
        rows.push(Row::decode(&columns, &packet)?);
    }
}

/// Whether it is an EOF packet, or the OK packet in its place. A row that begins so has a value of 16 MiB, which is longer
/// than is read here.
fn is_end(packet: &[u8]) -> bool {
    packet.first() == Some(&0xFE)
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::{TcpListener, TcpStream};

    use super::*;
    use crate::net::Stream;
    use crate::topology::Facts;
    use crate::wire::packet::put_packet;

    /// A node that answers one command with these packets.
    async fn asked(packets: &[&[u8]]) -> Result<Vec<Row>, LinkError> {
        asked_with(Capabilities::REQUIRED, b"\x07\0\0\0\x03SELECT", packets).await
    }

    /// The same for a link with these capabilities, on which the command looks like this.
    async fn asked_with(
        capabilities: Capabilities,
        command: &[u8],
        packets: &[&[u8]],
    ) -> Result<Vec<Row>, LinkError> {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let stream = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        let (mut node, _) = listener.accept().await.unwrap();
        let mut out = BytesMut::new();
        for (sequence, packet) in (1..).zip(packets) {
            put_packet(&mut out, sequence, packet);
        }
        node.write_all(&out).await.unwrap();
        let facts = Facts {
            version: String::new(),
            capabilities,
            collation: 45,
            sees: None,
            calls: None,
            takes_header: false,
        };
        let mut link = Link::new(Stream::Tcp(stream), facts, 1, Bytes::new());
        let rows = link.rows("SELECT", Duration::from_secs(5)).await;
        let mut sent = vec![0; command.len()];
        node.read_exact(&mut sent).await.unwrap();
        assert_eq!(sent, command);
        rows
    }

    const COLUMN: &[u8] = b"\x03def\x00\x00\x00\x04name\x00\x0C-\0\0\0\0\0\xFD\0\0\0\0\0";
    const END: &[u8] = b"\xFE\0\0\x02\0";

    #[tokio::test]
    async fn rows_have_names_values_and_nulls() {
        let rows = asked(&[&[2], COLUMN, COLUMN, END, b"\x01a\xFB", b"\x00\x02bc", END]).await.unwrap();
        assert_eq!(rows.len(), 2);
        assert_eq!(rows[0].columns(), ["name", "name"]);
        assert_eq!((rows[0].value(0), rows[0].value(1)), (Some(Some(&b"a"[..])), Some(None)));
        assert_eq!((rows[1].value(0), rows[1].value(1)), (Some(Some(&b""[..])), Some(Some(&b"bc"[..]))));
        assert_eq!(rows[0].value(2), None);
        assert!(asked(&[b"\0\0\0\x02\0\0\0"]).await.unwrap().is_empty());
    }

    #[tokio::test]
    async fn what_was_negotiated_shapes_the_command_and_the_ends() {
        let newer = Capabilities::REQUIRED | Capabilities::DEPRECATE_EOF | Capabilities::QUERY_ATTRIBUTES;
        let command = b"\x09\0\0\0\x03\0\x01SELECT";
        let ok = b"\xFE\0\0\x02\0\0\0and what changed";
        let rows = asked_with(newer, command, &[&[1], COLUMN, b"\x01a", ok]).await.unwrap();
        assert_eq!((rows.len(), rows[0].value(0)), (1, Some(Some(&b"a"[..]))));
    }

    #[tokio::test]
    async fn a_refusal_is_told_and_nonsense_is_no_answer() {
        let refusal = b"\xFF\x28\x04#42000no";
        let refused = asked(&[refusal]).await;
        assert!(matches!(&refused, Err(LinkError::Refused(e)) if e.code == 1064), "{refused:?}");
        let refused = asked(&[&[1], COLUMN, END, b"\x01a", refusal]).await;
        assert!(matches!(refused, Err(LinkError::Refused(_))), "{refused:?}");
        for packets in [
            &[&[1], COLUMN, END, &b"\x01a\x01b"[..], END][..],
            &[&[1], COLUMN, END, b"\x05a", END],
            &[&[1], COLUMN, b"\x01a", END],
            &[b"\0\0\0\x02\0\0\0", END],
            &[&[1], b"\x03de", END],
        ] {
            let answer = asked(packets).await;
            assert!(matches!(answer, Err(LinkError::Malformed(_))), "{answer:?}");
        }
    }
}
