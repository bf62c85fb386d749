//! Single commands on a link that serves nobody yet, and the account that the node gave it.

use std::time::Duration;

use bytes::{Bytes, BytesMut};
use tokio::time::timeout;

use super::{Link, LinkError, REPLY_LIMIT};
use crate::net::PacketStream;
use crate::wire::Malformed;

impl Link {
    /// Sends one command whose reply is a single OK or ERR packet, and returns that packet's payload.
    /// Not cancel safe: drop the link if the future is dropped.
    pub async fn command(mut self, command: &[u8], limit: Duration) -> Result<(Self, Bytes), LinkError> {
        let reply = self.order(command, limit).await?;
        Ok((self, reply))
    }

    /// The same on a link that a session has. After an error, and when the future is dropped, the link must be closed.
    pub async fn order(&mut self, command: &[u8], limit: Duration) -> Result<Bytes, LinkError> {
        let mut packets = PacketStream::new(&mut self.stream, BytesMut::new(), 0);
        let exchange = async {
            packets.write(command).await?;
            Ok::<_, LinkError>(packets.read(REPLY_LIMIT).await?)
        };
        let reply = timeout(limit, exchange).await.map_err(|_| LinkError::TimedOut(limit))??;
        if !matches!(reply.first(), Some(0 | 0xFF)) || packets.has_read_ahead() {
            return Err(Malformed("reply of more than one packet").into());
        }
        Ok(reply)
    }

    /// The value that a query gives: one row of one column. Not cancel safe: drop the link if the future is dropped.
    ///
    /// # Errors
    /// When the node refuses the query or answers anything else; the link is closed then.
    pub async fn value(mut self, query: &str, limit: Duration) -> Result<(Self, Vec<u8>), LinkError> {
        let value = self.sole_value(query, limit).await?;
        Ok((self, value))
    }

    async fn sole_value(&mut self, query: &str, limit: Duration) -> Result<Vec<u8>, LinkError> {
        let rows = self.rows(query, limit).await?;
        let value = match &rows[..] {
            [row] if row.columns().len() == 1 => row.value(0).flatten(),
            _ => None,
        };
        Ok(value.ok_or(Malformed("an answer of anything but one value"))?.to_vec())
    }

    /// Makes sure that the node gave the login the account that the client was judged by. A node that has other rows
    /// than those that were loaded, or sees another address than was thought, is found out here.
    ///
    /// `uncounted`: the node counts the account's queries. Neither product counts the executions of prepared statements, so
    /// that the question costs the client none of its own.
    ///
    /// # Errors
    /// [`LinkError::OtherAccount`] when it is another one. After any error the link is of no use.
    pub(super) async fn assert(
        &mut self,
        wanted: &str,
        uncounted: bool,
        limit: Duration,
    ) -> Result<(), LinkError> {
        const QUESTION: &str = "SELECT CURRENT_USER()";
        let found = if uncounted {
            self.prepared_value(QUESTION, limit).await?
        } else {
            self.sole_value(QUESTION, limit).await?
        };
        if found == wanted.as_bytes() {
            return Ok(());
        }
        let found = String::from_utf8_lossy(&found).into_owned();
        Err(LinkError::OtherAccount { wanted: wanted.to_owned(), found })
    }
}
