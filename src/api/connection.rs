//! Connections of the API: a bounded number of them, none of which may dawdle.
//!
//! A request must be there as a whole within [`Limits::request`] from the moment its connection is free for it, so
//! that neither an idle client nor one that sends a byte now and then holds a seat. The clock stands still while an
//! operation runs, which has its own limits.

use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use axum::extract::connect_info::Connected;
use axum::serve::{IncomingStream, Listener};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::{Instant, Sleep, sleep};
use tracing::warn;

/// Shortest and longest pause after an accept error such as `EMFILE`.
const PAUSE: (Duration, Duration) = (Duration::from_millis(5), Duration::from_secs(1));

/// What one listener of the API grants.
#[derive(Debug, Clone, Copy)]
pub(super) struct Limits {
    /// Connections at a time; more wait in the system's queue.
    pub connections: usize,
    /// How long a request may take to arrive, and a connection may be idle.
    pub request: Duration,
    /// How long the client may take to read a part of an answer.
    pub write: Duration,
}

/// The listening socket with its limits.
pub(super) struct Door {
    listener: TcpListener,
    seats: Arc<Semaphore>,
    limits: Limits,
}

/// What a connection is doing, shared with the requests on it.
#[derive(Debug, Default)]
struct Work {
    under_way: AtomicUsize,
    begun: AtomicU64,
}

/// The other end of a connection.
#[derive(Debug, Clone)]
pub(super) struct Peer {
    /// Its address.
    pub address: SocketAddr,
    work: Arc<Work>,
}

/// A request that is being answered, until it is dropped.
#[derive(Debug)]
pub(super) struct UnderWay(Arc<Work>);

/// One connection.
pub(super) struct Connection {
    stream: TcpStream,
    limits: Limits,
    work: Arc<Work>,
    /// Ends the wait for a request; `awaited` is the count of requests begun when it was set.
    request_limit: Pin<Box<Sleep>>,
    awaited: Option<u64>,
    /// Ends a write that makes no progress.
    write_limit: Option<Pin<Box<Sleep>>>,
    _seat: OwnedSemaphorePermit,
}

// === impl Door ===

impl Door {
    pub(super) fn new(listener: TcpListener, limits: Limits) -> Self {
        Self { listener, seats: Arc::new(Semaphore::new(limits.connections)), limits }
    }

    async fn connection(&self) -> (TcpStream, SocketAddr) {
        let mut pause = PAUSE.0;
        loop {
            match self.listener.accept().await {
                Ok(accepted) => return accepted,
                Err(e) if e.kind() == io::ErrorKind::ConnectionAborted => {}
                Err(e) => {
                    warn!(error = %e, pause_ms = pause.as_millis(), "API: accept failed");
                    sleep(pause).await;
                    pause = (pause * 2).min(PAUSE.1);
                }
            }
        }
    }
}

impl Listener for Door {
    type Io = Connection;
    type Addr = SocketAddr;

    async fn accept(&mut self) -> (Connection, SocketAddr) {
        let seat = loop {
            match Arc::clone(&self.seats).acquire_owned().await {
                Ok(seat) => break seat,
                // Nobody closes the semaphore; if somebody did, nobody more would be let in.
                Err(_) => std::future::pending::<()>().await,
            }
        };
        let (stream, address) = self.connection().await;
        let connection = Connection {
            stream,
            limits: self.limits,
            work: Arc::default(),
            request_limit: Box::pin(sleep(self.limits.request)),
            awaited: None,
            write_limit: None,
            _seat: seat,
        };
        (connection, address)
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        self.listener.local_addr()
    }
}

// === impl Peer ===

impl Peer {
    /// Stops the connection's clock until the result is dropped.
    pub(super) fn begin(&self) -> UnderWay {
        self.work.under_way.fetch_add(1, Ordering::Relaxed);
        self.work.begun.fetch_add(1, Ordering::Relaxed);
        UnderWay(Arc::clone(&self.work))
    }
}

impl Connected<IncomingStream<'_, Door>> for Peer {
    fn connect_info(stream: IncomingStream<'_, Door>) -> Self {
        Self { address: *stream.remote_addr(), work: Arc::clone(&stream.io().work) }
    }
}

impl Drop for UnderWay {
    fn drop(&mut self) {
        self.0.under_way.fetch_sub(1, Ordering::Relaxed);
    }
}

// === impl Connection ===

impl Connection {
    /// Fails when the request has been awaited for too long.
    fn poll_request_limit(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.work.under_way.load(Ordering::Relaxed) > 0 {
            // Whoever is answered is not waited for; the answer's end leads to another read.
            return Poll::Pending;
        }
        let begun = self.work.begun.load(Ordering::Relaxed);
        if self.awaited != Some(begun) {
            self.awaited = Some(begun);
            self.request_limit.as_mut().reset(Instant::now() + self.limits.request);
        }
        ready!(self.request_limit.as_mut().poll(cx));
        Poll::Ready(Err(io::ErrorKind::TimedOut.into()))
    }

    /// Passes a write on; fails one that has made no progress for too long.
    fn limited<T>(&mut self, cx: &mut Context<'_>, written: Poll<io::Result<T>>) -> Poll<io::Result<T>> {
        if written.is_ready() {
            self.write_limit = None;
            return written;
        }
        let limit = self.limits.write;
        let clock = self.write_limit.get_or_insert_with(|| Box::pin(sleep(limit)));
        ready!(clock.as_mut().poll(cx));
        Poll::Ready(Err(io::ErrorKind::TimedOut.into()))
    }
}

impl AsyncRead for Connection {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        match Pin::new(&mut this.stream).poll_read(cx, buf) {
            Poll::Pending => this.poll_request_limit(cx),
            read @ Poll::Ready(_) => read,
        }
    }
}

impl AsyncWrite for Connection {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        let written = Pin::new(&mut this.stream).poll_write(cx, buf);
        this.limited(cx, written)
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        let written = Pin::new(&mut this.stream).poll_write_vectored(cx, bufs);
        this.limited(cx, written)
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
