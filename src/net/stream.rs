//! The stream of a client or a node, whichever kind of socket it goes through.

use std::io;
use std::net::IpAddr;
use std::pin::{Pin, pin};
use std::task::{Context, Poll, Waker};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpStream, UnixStream};
use tokio::task::coop::unconstrained;

use super::tls::Encrypted;

/// A connection, registered with the runtime of its worker.
#[derive(Debug)]
pub enum Stream {
    /// TCP.
    Tcp(TcpStream),
    /// Unix socket.
    Unix(UnixStream),
    /// TLS over one of the others. In a box, so that the others do not pay for its size.
    Tls(Box<Encrypted>),
}

impl Stream {
    /// Whether bytes that were written wait inside and must be flushed. Never so for a plain socket.
    ///
    /// TLS takes bytes, encrypts them, and may keep the result when the socket does not take it at once.
    pub fn needs_flush(&self) -> bool {
        match self {
            Self::Tcp(_) | Self::Unix(_) => false,
            Self::Tls(s) => s.get_ref().1.wants_write(),
        }
    }
}

/// This process's user, as the system tells it to the other end of a Unix socket. Needs a runtime that watches sockets.
pub fn own_uid() -> Option<u32> {
    let (one, _other) = UnixStream::pair().ok()?;
    Some(one.peer_cred().ok()?.uid())
}

/// A connected client on its way to a worker, registered with no runtime.
#[derive(Debug)]
pub enum StdStream {
    /// TCP.
    Tcp(std::net::TcpStream),
    /// Unix socket.
    Unix(std::os::unix::net::UnixStream),
}

impl StdStream {
    /// Registers the socket with the current runtime.
    ///
    /// # Errors
    /// When the runtime cannot watch the socket.
    pub fn register(self) -> io::Result<Stream> {
        Ok(match self {
            Self::Tcp(s) => Stream::Tcp(TcpStream::from_std(s)?),
            Self::Unix(s) => Stream::Unix(UnixStream::from_std(s)?),
        })
    }
}

impl Stream {
    /// The socket, where it is one of TCP.
    pub fn tcp(&self) -> Option<&TcpStream> {
        match self {
            Self::Tcp(s) => Some(s),
            Self::Unix(_) => None,
            Self::Tls(s) => s.get_ref().0.stream().tcp(),
        }
    }

    /// The address of this end; none for a Unix socket.
    pub fn local_ip(&self) -> Option<IpAddr> {
        self.tcp()?.local_addr().ok().map(|address| address.ip().to_canonical())
    }

    /// The address of the other end; none for a Unix socket.
    pub fn peer_ip(&self) -> Option<IpAddr> {
        self.tcp()?.peer_addr().ok().map(|address| address.ip().to_canonical())
    }

    /// Whether the peer said nothing since it was last heard, not even goodbye. A byte that it did say is lost.
    pub fn is_silent(&mut self) -> bool {
        let mut byte = [0];
        match self {
            Self::Tcp(s) => matches!(s.try_read(&mut byte), Err(e) if e.kind() == io::ErrorKind::WouldBlock),
            Self::Unix(s) => matches!(s.try_read(&mut byte), Err(e) if e.kind() == io::ErrorKind::WouldBlock),
            Self::Tls(_) => {
                let mut buffer = ReadBuf::new(&mut byte);
                // Without the runtime's patience at an end, which would look like silence.
                let read =
                    unconstrained(std::future::poll_fn(|cx| Pin::new(&mut *self).poll_read(cx, &mut buffer)));
                pin!(read).poll(&mut Context::from_waker(Waker::noop())).is_pending()
            }
        }
    }

    /// Takes the socket out of its runtime, for another one.
    ///
    /// # Errors
    /// When the runtime cannot let go of it; the socket is closed then.
    pub fn detach(self) -> io::Result<StdStream> {
        Ok(match self {
            Self::Tcp(s) => StdStream::Tcp(s.into_std()?),
            Self::Unix(s) => StdStream::Unix(s.into_std()?),
            // TLS begins in the worker where it ends.
            Self::Tls(_) => return Err(io::ErrorKind::Unsupported.into()),
        })
    }
}

impl AsyncRead for Stream {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Tcp(s) => Pin::new(s).poll_read(cx, buf),
            Self::Unix(s) => Pin::new(s).poll_read(cx, buf),
            Self::Tls(s) => match Pin::new(s).poll_read(cx, buf) {
                // Many clients leave without TLS's own goodbye. That a packet is cut off shows in its length.
                Poll::Ready(Err(e)) if e.kind() == io::ErrorKind::UnexpectedEof => Poll::Ready(Ok(())),
                read => read,
            },
        }
    }
}

impl AsyncWrite for Stream {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Tcp(s) => Pin::new(s).poll_write(cx, buf),
            Self::Unix(s) => Pin::new(s).poll_write(cx, buf),
            Self::Tls(s) => Pin::new(s).poll_write(cx, buf),
        }
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Tcp(s) => Pin::new(s).poll_write_vectored(cx, bufs),
            Self::Unix(s) => Pin::new(s).poll_write_vectored(cx, bufs),
            Self::Tls(s) => Pin::new(s).poll_write_vectored(cx, bufs),
        }
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Tcp(s) => Pin::new(s).poll_flush(cx),
            Self::Unix(s) => Pin::new(s).poll_flush(cx),
            Self::Tls(s) => Pin::new(s).poll_flush(cx),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Tcp(s) => Pin::new(s).poll_shutdown(cx),
            Self::Unix(s) => Pin::new(s).poll_shutdown(cx),
            Self::Tls(s) => Pin::new(s).poll_shutdown(cx),
        }
    }
}
