//! The TLS handshake with a client or a node, and the stream behind it.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::SystemTime;

use bytes::{Buf, BytesMut};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio_rustls::{TlsAcceptor, TlsConnector, TlsStream};

use super::stream::Stream;
use crate::tls::{Encryption, Identity, Trust};

/// Bytes that wait inside TLS for a slow peer, at most. As much as a relay reads at once, so that all of it becomes
/// one write.
const UNSENT: usize = 64 * 1024;

/// TLS over a socket.
pub(super) type Encrypted = TlsStream<Ahead>;

/// Accepts TLS from a client of which `ahead` was already read.
///
/// Those bytes are the beginning of the handshake or they break it: nothing that came before TLS is ever taken for
/// something that came through it.
///
/// # Errors
/// When the client gives up, breaks the protocol, or has a certificate that nobody vouches for. It was told as far as
/// TLS has words for it.
pub async fn accept_tls(
    stream: Stream,
    ahead: BytesMut,
    identity: &Identity,
) -> io::Result<(Stream, Encryption)> {
    // In a box, because every session's task has room for this future, and most sessions never get here.
    let handshake = Box::pin(TlsAcceptor::from(identity.server()).accept_with(
        Ahead { bytes: ahead, stream },
        |connection| {
            connection.set_buffer_limit(Some(UNSENT));
        },
    ));
    let stream = handshake.await?;
    let encryption = identity.agreed(stream.get_ref().1, SystemTime::now()).map_err(io::Error::other)?;
    Ok((Stream::Tls(Box::new(stream.into())), encryption))
}

/// Begins TLS with a server that was dialled as `host`.
///
/// # Errors
/// When the server gives up, breaks the protocol, or is not who it should be as far as that is verified.
pub async fn connect_tls(stream: Stream, host: &str, trust: &Trust) -> io::Result<Stream> {
    let name = Trust::name(host).map_err(|e| io::Error::new(io::ErrorKind::InvalidInput, e))?;
    let ahead = Ahead { bytes: BytesMut::new(), stream };
    let handshake = Box::pin(TlsConnector::from(trust.client()).connect_with(name, ahead, |connection| {
        connection.set_buffer_limit(Some(UNSENT));
    }));
    Ok(Stream::Tls(Box::new(handshake.await?.into())))
}

/// A stream whose first bytes were already read.
#[derive(Debug)]
pub struct Ahead {
    bytes: BytesMut,
    stream: Stream,
}

impl Ahead {
    /// The stream itself.
    pub(super) fn stream(&self) -> &Stream {
        &self.stream
    }
}

impl AsyncRead for Ahead {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        if this.bytes.is_empty() {
            return Pin::new(&mut this.stream).poll_read(cx, buf);
        }
        let n = this.bytes.len().min(buf.remaining());
        buf.put_slice(&this.bytes[..n]);
        this.bytes.advance(n);
        if this.bytes.is_empty() {
            this.bytes = BytesMut::new();
        }
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Ahead {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.get_mut().stream).poll_write(cx, buf)
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.get_mut().stream).poll_write_vectored(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use rustls::ClientConfig;
    use rustls::pki_types::ServerName;
    use rustls::version::{TLS12, TLS13};
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::UnixStream;
    use tokio_rustls::{TlsConnector, client};

    use super::*;
    use crate::tls::specimen::{Authority, NAME};

    type Client = client::TlsStream<UnixStream>;

    async fn pair(
        identity: &Identity,
        client: &Arc<ClientConfig>,
    ) -> (io::Result<(Stream, Encryption)>, io::Result<Client>) {
        let (near, far) = UnixStream::pair().unwrap();
        let name = ServerName::try_from(NAME).unwrap();
        let connector = TlsConnector::from(Arc::clone(client));
        tokio::join!(accept_tls(Stream::Unix(near), BytesMut::new(), identity), connector.connect(name, far))
    }

    /// One exchange, after which the client has its tickets.
    async fn exchange(identity: &Identity, client: &Arc<ClientConfig>) -> (Encryption, Client) {
        let (_, encryption, far) = conversation(identity, client).await;
        (encryption, far)
    }

    async fn conversation(identity: &Identity, client: &Arc<ClientConfig>) -> (Stream, Encryption, Client) {
        let (near, far) = pair(identity, client).await;
        let ((mut near, encryption), mut far) = (near.unwrap(), far.unwrap());
        far.write_all(b"question").await.unwrap();
        let mut buffer = [0; 8];
        near.read_exact(&mut buffer).await.unwrap();
        assert_eq!(&buffer, b"question");
        near.write_all(b"answer").await.unwrap();
        near.flush().await.unwrap();
        far.read_exact(&mut buffer[..6]).await.unwrap();
        assert_eq!(&buffer[..6], b"answer");
        (near, encryption, far)
    }

    #[tokio::test]
    async fn an_authority_that_has_expired_vouches_for_nobody() {
        let (servers, clients) = (Authority::new("servers"), Authority::until("clients", 2020));
        let identity = servers.identity(Some(&clients));
        let own = clients.client(2100);
        for version in [&TLS12, &TLS13] {
            let (near, _far) = pair(&identity, &servers.trusted_by(&[version], Some(&own))).await;
            let error = near.expect_err("an expired authority").to_string();
            assert!(error.contains("xpired"), "{error}");
            let (encryption, _) = exchange(&identity, &servers.trusted_by(&[version], None)).await;
            assert_eq!(encryption.client, None);
        }
    }

    #[tokio::test]
    async fn both_versions_are_served_and_sessions_are_resumed() {
        let authority = Authority::new("servers");
        let identity = authority.identity(None);
        for (version, name) in [(&TLS12, "TLSv1.2"), (&TLS13, "TLSv1.3")] {
            let client = authority.trusted_by(&[version], None);
            for kind in [rustls::HandshakeKind::Full, rustls::HandshakeKind::Resumed] {
                let (encryption, far) = exchange(&identity, &client).await;
                assert_eq!((encryption.version, encryption.client.is_some()), (name, false));
                assert!(encryption.to_string().contains("AES_"), "{encryption}");
                assert_eq!(far.get_ref().1.handshake_kind(), Some(kind), "{name}");
            }
            // A renewed identity knows nothing of the old tickets.
            let (_, far) = exchange(&authority.identity(None), &client).await;
            assert_eq!(far.get_ref().1.handshake_kind(), Some(rustls::HandshakeKind::Full));
        }
    }

    #[tokio::test]
    async fn a_client_certificate_counts_when_its_authority_is_known() {
        let (servers, clients, strangers) =
            (Authority::new("servers"), Authority::new("clients"), Authority::new("strangers"));
        let identity = servers.identity(Some(&clients));
        for version in [&TLS12, &TLS13] {
            let known = servers.trusted_by(&[version], Some(&clients.client(2100)));
            for _ in 0..2 {
                let encryption = exchange(&identity, &known).await.0;
                let names = encryption.client.expect("a certificate");
                assert_eq!(names.issuer.as_deref(), Ok("/CN=clients"));
                assert_eq!(names.subject.as_deref(), Ok("/CN=client of clients"));
                assert!(encryption.openssl_cipher.is_some_and(|cipher| cipher.contains("GCM")));
            }
            let without = servers.trusted_by(&[version], None);
            assert!(exchange(&identity, &without).await.0.client.is_none());
            for own in [strangers.client(2100), clients.client(2001)] {
                let refused = servers.trusted_by(&[version], Some(&own));
                assert!(pair(&identity, &refused).await.0.is_err());
            }
            // Nobody asks for the certificate where no authority is configured.
            assert!(exchange(&servers.identity(None), &known).await.0.client.is_none());
        }
    }

    #[tokio::test]
    async fn a_certificate_that_expired_meanwhile_is_not_resumed() {
        let (servers, clients) = (Authority::new("servers"), Authority::new("clients"));
        let identity = servers.identity(Some(&clients));
        let client = servers.trusted_by(&[&TLS13], Some(&clients.client(2100)));
        exchange(&identity, &client).await;
        let (near, _far) = pair(&identity, &client).await;
        let (near, _) = near.unwrap();
        let Stream::Tls(near) = near else { panic!("TLS") };
        let connection = near.get_ref().1;
        assert_eq!(connection.handshake_kind(), Some(rustls::HandshakeKind::Resumed));
        let later = SystemTime::now() + std::time::Duration::from_hours(24 * 365 * 100);
        assert!(identity.agreed(connection, SystemTime::now()).unwrap().client.is_some());
        assert!(identity.agreed(connection, later).is_err());
    }

    #[tokio::test]
    async fn what_was_read_ahead_is_the_beginning_of_the_handshake_or_breaks_it() {
        let authority = Authority::new("servers");
        let identity = authority.identity(None);
        // A whole first flight that was read together with the request for TLS.
        let (near, mut far) = UnixStream::pair().unwrap();
        let name = ServerName::try_from(NAME).unwrap();
        let mut client = rustls::ClientConnection::new(authority.trusted_by(&[&TLS13], None), name).unwrap();
        let mut hello = Vec::new();
        client.write_tls(&mut hello).unwrap();
        let accepting = accept_tls(Stream::Unix(near), BytesMut::from(&hello[..]), &identity);
        let connecting = async {
            while client.is_handshaking() {
                let mut block = [0; 4096];
                let n = far.read(&mut block).await.unwrap();
                client.read_tls(&mut &block[..n]).unwrap();
                client.process_new_packets().unwrap();
                let mut flight = Vec::new();
                while client.wants_write() {
                    client.write_tls(&mut flight).unwrap();
                }
                far.write_all(&flight).await.unwrap();
            }
        };
        let (accepted, ()) = tokio::join!(accepting, connecting);
        assert_eq!(accepted.unwrap().1.version, "TLSv1.3");

        // A packet of the protocol in its place: an alert comes back, and nothing else.
        let (near, mut far) = UnixStream::pair().unwrap();
        let packet = BytesMut::from(&b"\x05\0\0\x02\x03DO 1"[..]);
        assert!(accept_tls(Stream::Unix(near), packet, &identity).await.is_err());
        let mut said = Vec::new();
        far.read_to_end(&mut said).await.unwrap();
        assert_eq!((said[0], said.len()), (21, 7), "{said:?}");
    }

    #[tokio::test]
    async fn a_client_that_leaves_without_a_word_is_one_that_closed() {
        let authority = Authority::new("servers");
        let client = authority.trusted_by(&[&TLS13], None);
        let (mut near, _, far) = conversation(&authority.identity(None), &client).await;
        drop(far);
        assert_eq!(near.read(&mut [0; 8]).await.unwrap(), 0);
    }

    #[test]
    fn tls_does_not_make_other_clients_larger() {
        assert!(size_of::<Stream>() <= size_of::<tokio::net::TcpStream>() + size_of::<usize>());
    }
}
