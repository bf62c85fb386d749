//! Bringing a link back to the state after its login, so that nothing of one session is left for the next.
//!
//! `COM_RESET_CONNECTION` rolls back, releases locks, drops temporary tables and prepared statements and resets the
//! session's variables, `MariaDB` 10.11 also character set and collation to those of the login. It does not reset the
//! default schema, the role, `SHOW PROFILES`, `FOUND_ROWS()` and a prepared XA transaction. The schema is put right
//! here and `FOUND_ROWS()` by the next session's relay; the link of a session whose statements could have touched the
//! rest never gets so far (`session::state`).

use std::time::Duration;

use bytes::{BufMut, BytesMut};
use tokio::time::timeout;

use super::{Credentials, HANDSHAKE_LIMIT, Link, LinkError, REPLY_LIMIT, link_capabilities};
use crate::auth::native;
use crate::net::PacketStream;
use crate::wire::Malformed;
use crate::wire::handshake::{AuthSwitch, ChangeUser};
use crate::wire::packet::{Err as ErrPacket, put_packet};

const COM_INIT_DB: u8 = 0x02;
const COM_RESET_CONNECTION: u8 = 0x1F;

impl Link {
    /// Brings the link back to the state after its login. `schema`: its default schema now.
    ///
    /// # Errors
    /// Whenever that cannot be proven; the link is closed then. Not cancel safe: the link is closed.
    pub async fn tidy(self, schema: Option<&[u8]>, limit: Duration) -> Result<Self, LinkError> {
        let Self { stream, capabilities, origin } = self;
        let wanted = origin.lease.as_ref().and_then(|lease| lease.key()).and_then(|key| key.database());
        let mut commands = BytesMut::with_capacity(64);
        put_packet(&mut commands, 0, &[COM_RESET_CONNECTION]);
        let mut replies = 1;
        if schema != wanted {
            // No command takes a default schema away.
            let wanted = wanted.ok_or(Malformed("a schema where the login had none"))?;
            let mut command = BytesMut::with_capacity(1 + wanted.len());
            command.put_u8(COM_INIT_DB);
            command.put_slice(wanted);
            put_packet(&mut commands, 0, &command);
            replies += 1;
        }
        let mut packets = PacketStream::new(stream, BytesMut::new(), 0);
        let exchange = async {
            packets.write_framed(&commands).await?;
            for _ in 0..replies {
                packets.expect(1);
                let reply = packets.read(REPLY_LIMIT).await?;
                match reply.first() {
                    Some(0) => {}
                    Some(0xFF) => return Err(LinkError::Refused(ErrPacket::decode(&reply)?)),
                    _ => return Err(Malformed("reply to a reset").into()),
                }
            }
            Ok::<_, LinkError>(())
        };
        timeout(limit, exchange).await.map_err(|_| LinkError::TimedOut(limit))??;
        let (stream, ahead) = packets.into_parts();
        if !ahead.is_empty() {
            return Err(Malformed("bytes behind the last reply").into());
        }
        let mut link = Self { stream, capabilities, origin };
        link.set_used(false);
        Ok(link)
    }

    /// Has the node judge the login again, by the rows that are in force there now, and makes sure that it gives it this
    /// account (none: whichever). `uncounted`: the node counts the account's queries.
    ///
    /// # Errors
    /// [`LinkError::Refused`]: the node said no, and goes on with the login before. After any other error, and when the
    /// future is dropped, the link is of no use.
    pub async fn change_user(
        &mut self,
        credentials: &Credentials<'_>,
        account: Option<&str>,
        uncounted: bool,
        limit: Duration,
    ) -> Result<(), LinkError> {
        let claimed = link_capabilities(self.origin.facts.capabilities, credentials)?;
        let command = ChangeUser {
            user: credentials.user.to_vec(),
            // The node answers with a fresh scramble.
            auth: Vec::new(),
            database: credentials.database.map(<[u8]>::to_vec),
            collation: Some(credentials.collation),
            plugin: Some(native::PLUGIN.as_bytes().to_vec()),
            attributes: credentials.attributes.map(<[u8]>::to_vec),
        };
        // MariaDB asks for the reply by an auth switch with the scramble of the greeting: the reply goes out at once. A
        // server that takes another scramble refuses it.
        let scramble = self.origin.scramble;
        let mut out = BytesMut::with_capacity(256);
        put_packet(&mut out, 0, &command.encode(claimed));
        put_packet(&mut out, 2, &credentials.proof.native_reply(&scramble));
        let mut packets = PacketStream::new(&mut self.stream, BytesMut::with_capacity(256), 1);
        let exchange = async {
            packets.write_framed(&out).await?;
            let asked = packets.read(HANDSHAKE_LIMIT).await?;
            let switch = AuthSwitch::decode(&asked)?;
            if switch.plugin != native::PLUGIN.as_bytes() || switch.scramble()? != scramble {
                return Err(Malformed("another scramble than before").into());
            }
            packets.expect(3);
            let ok = packets.read(HANDSHAKE_LIMIT).await?;
            match ok.first() {
                Some(0) => Ok(ok),
                Some(0xFF) => Err(LinkError::Refused(ErrPacket::decode(&ok)?)),
                _ => Err(Malformed("login reply").into()),
            }
        };
        let ok = timeout(limit, exchange).await.map_err(|_| LinkError::TimedOut(limit))??;
        let (_, ahead) = packets.into_parts();
        if !ahead.is_empty() {
            return Err(Malformed("bytes behind the OK packet of a login").into());
        }
        self.origin.ok = ok;
        match account {
            Some(wanted) => self.assert(wanted, uncounted, limit).await,
            None => Ok(()),
        }
    }
}
