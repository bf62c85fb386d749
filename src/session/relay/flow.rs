//! Reading and writing without waiting, and the bytes that one side does not take yet.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::{Buf, BytesMut};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// Bytes of one direction that could not be passed on yet.
#[derive(Debug, Default)]
pub(super) struct Held {
    /// Read, but not yet understood: an incomplete packet head, or what follows a stopped command.
    pub(super) unread: BytesMut,
    /// Understood, but not yet taken by the other side.
    pub(super) unsent: BytesMut,
}

impl Held {
    /// Takes the first unread bytes, as many as `into` holds.
    pub(super) fn take(&mut self, into: &mut [u8]) {
        into.copy_from_slice(&self.unread[..into.len()]);
        if into.len() == self.unread.len() {
            self.unread.clear();
        } else {
            self.unread.advance(into.len());
        }
    }

    /// Puts bytes back in front of the unread ones.
    pub(super) fn put_back(&mut self, bytes: &[u8]) {
        if bytes.is_empty() {
            return;
        }
        let behind = self.unread.split();
        self.unread.reserve(bytes.len() + behind.len());
        self.unread.extend_from_slice(bytes);
        self.unread.extend_from_slice(&behind);
    }
}

pub(super) fn is_disconnect(e: &io::Error) -> bool {
    matches!(
        e.kind(),
        io::ErrorKind::ConnectionReset | io::ErrorKind::BrokenPipe | io::ErrorKind::ConnectionAborted
    )
}

/// Whether the system gave up because nothing came back: nobody closed the connection, and nobody was told.
pub(super) fn is_silence(e: &io::Error) -> bool {
    use io::ErrorKind::{HostUnreachable, NetworkDown, NetworkUnreachable, TimedOut};
    matches!(e.kind(), TimedOut | HostUnreachable | NetworkUnreachable | NetworkDown)
}

pub(super) fn read<S: AsyncRead + Unpin>(
    cx: &mut Context<'_>,
    from: &mut S,
    into: &mut [u8],
) -> Poll<io::Result<usize>> {
    let mut buffer = ReadBuf::new(into);
    ready!(Pin::new(from).poll_read(cx, &mut buffer))?;
    Poll::Ready(Ok(buffer.filled().len()))
}

/// Writes as much as the other side takes now and keeps the rest.
pub(super) fn pass_on<S: AsyncWrite + Unpin>(
    cx: &mut Context<'_>,
    to: &mut S,
    unsent: &mut BytesMut,
    mut bytes: &[u8],
) -> io::Result<()> {
    while !bytes.is_empty() {
        match Pin::new(&mut *to).poll_write(cx, bytes) {
            Poll::Ready(Ok(0)) => return Err(io::ErrorKind::WriteZero.into()),
            Poll::Ready(Ok(n)) => bytes = &bytes[n..],
            Poll::Ready(Err(e)) => return Err(e),
            Poll::Pending => {
                unsent.extend_from_slice(bytes);
                break;
            }
        }
    }
    Ok(())
}

/// Writes what was kept, here and inside TLS; ready when all of it is out. The buffer is given back then.
pub(super) fn flush<S: AsyncWrite + Unpin>(
    cx: &mut Context<'_>,
    to: &mut S,
    unsent: &mut BytesMut,
) -> Poll<io::Result<()>> {
    while !unsent.is_empty() {
        let n = ready!(Pin::new(&mut *to).poll_write(cx, unsent))?;
        if n == 0 {
            return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
        }
        unsent.advance(n);
    }
    *unsent = BytesMut::new();
    Pin::new(to).poll_flush(cx)
}
