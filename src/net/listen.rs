//! Listening sockets that never give up: an accept error waits a moment and goes on.

use std::fs::Permissions;
use std::io;
use std::os::unix::fs::{FileTypeExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use socket2::{Domain, Protocol, Socket, Type};
use tokio::net::{TcpListener, UnixListener};
use tracing::warn;

use super::stream::Stream;
use crate::ids::{ClientAddr, ListenAddr};

/// Clients that the kernel keeps waiting between two accepts.
const BACKLOG: i32 = 4096;

/// Shortest and longest pause after an accept error such as `EMFILE`.
const PAUSE: (Duration, Duration) = (Duration::from_millis(5), Duration::from_secs(1));

/// Who may connect to a Unix socket.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Access {
    /// Every user of the machine, as for a server's own socket; the login decides.
    Everybody,
    /// This process's user (and root).
    Owner,
}

impl Access {
    fn mode(self) -> u32 {
        match self {
            Self::Everybody => 0o777,
            Self::Owner => 0o600,
        }
    }
}

/// A socket that listens and belongs to no runtime yet. A Unix socket's file is removed when this and everything that
/// came from it is dropped.
#[derive(Debug)]
pub struct Bound {
    socket: Socket,
    address: ListenAddr,
    asked: ListenAddr,
    file: Option<Arc<RemoveOnDrop>>,
}

/// A listening socket of one runtime.
#[derive(Debug)]
pub struct Listener {
    socket: Accepting,
    address: ListenAddr,
    pause: Duration,
    _file: Option<Arc<RemoveOnDrop>>,
}

#[derive(Debug)]
enum Accepting {
    Tcp(TcpListener),
    Unix(UnixListener),
}

#[derive(Debug)]
struct RemoveOnDrop(PathBuf);

impl Drop for RemoveOnDrop {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.0);
    }
}

/// Binds an address and listens on it.
///
/// The file of a Unix socket that nobody listens on any more is replaced. TCP has no `access`.
///
/// # Errors
/// The system's, such as address in use.
pub fn bind(address: &ListenAddr, access: Access) -> io::Result<Bound> {
    let asked = address.clone();
    match address {
        ListenAddr::Tcp(at) => {
            let socket = Socket::new(Domain::for_address(*at), Type::STREAM, Some(Protocol::TCP))?;
            socket.set_reuse_address(true)?;
            if at.is_ipv6() {
                socket.set_only_v6(true)?;
            }
            // Accepted sockets inherit both, without a call for each of them.
            socket.set_tcp_nodelay(true)?;
            socket.set_keepalive(true)?;
            socket.set_nonblocking(true)?;
            socket.bind(&(*at).into())?;
            socket.listen(BACKLOG)?;
            let bound = socket.local_addr()?.as_socket().unwrap_or(*at);
            Ok(Bound { socket, address: ListenAddr::Tcp(bound), asked, file: None })
        }
        ListenAddr::Unix(path) => {
            remove_if_dead(path)?;
            let listener = std::os::unix::net::UnixListener::bind(path)?;
            let file = Some(Arc::new(RemoveOnDrop(path.clone())));
            listener.set_nonblocking(true)?;
            std::fs::set_permissions(path, Permissions::from_mode(access.mode()))?;
            Ok(Bound {
                socket: std::os::fd::OwnedFd::from(listener).into(),
                address: asked.clone(),
                asked,
                file,
            })
        }
    }
}

fn remove_if_dead(path: &Path) -> io::Result<()> {
    let Ok(found) = std::fs::symlink_metadata(path) else { return Ok(()) };
    let in_use = || io::Error::from(io::ErrorKind::AddrInUse);
    if !found.file_type().is_socket() {
        return Err(in_use());
    }
    match std::os::unix::net::UnixStream::connect(path) {
        Err(e) if e.kind() == io::ErrorKind::ConnectionRefused => std::fs::remove_file(path),
        _ => Err(in_use()),
    }
}

impl Bound {
    /// Where it listens; the port is the real one even when zero was asked for.
    pub fn address(&self) -> &ListenAddr {
        &self.address
    }

    /// The address that was asked for.
    pub fn asked(&self) -> &ListenAddr {
        &self.asked
    }

    /// Accepts clients in the current runtime. Several may do so at the same time.
    ///
    /// # Errors
    /// The system's, such as too many open files.
    pub fn listen(&self) -> io::Result<Listener> {
        let socket = self.socket.try_clone()?;
        let socket = match self.address {
            ListenAddr::Tcp(_) => Accepting::Tcp(TcpListener::from_std(socket.into())?),
            ListenAddr::Unix(_) => Accepting::Unix(UnixListener::from_std(socket.into())?),
        };
        Ok(Listener { socket, address: self.address.clone(), pause: PAUSE.0, _file: self.file.clone() })
    }
}

impl Listener {
    /// The next client. Errors are logged and outwaited. Cancel safe.
    pub async fn accept(&mut self) -> (Stream, ClientAddr) {
        loop {
            match self.try_accept().await {
                Ok(accepted) => {
                    self.pause = PAUSE.0;
                    return accepted;
                }
                Err(e) if is_of_one_client(&e) => {}
                Err(e) => {
                    warn!(listener = %self.address, error = %e, pause_ms = self.pause.as_millis(), "accept failed");
                    tokio::time::sleep(self.pause).await;
                    self.pause = (self.pause * 2).min(PAUSE.1);
                }
            }
        }
    }

    async fn try_accept(&self) -> io::Result<(Stream, ClientAddr)> {
        match &self.socket {
            Accepting::Tcp(listener) => {
                let (stream, peer) = listener.accept().await?;
                Ok((Stream::Tcp(stream), ClientAddr::Tcp(peer)))
            }
            Accepting::Unix(listener) => {
                let (stream, _) = listener.accept().await?;
                let uid = stream.peer_cred().ok().map(|c| c.uid());
                Ok((Stream::Unix(stream), ClientAddr::Unix { uid }))
            }
        }
    }
}

/// Errors of a connection that died while it waited; the next one may be fine at once.
fn is_of_one_client(e: &io::Error) -> bool {
    use io::ErrorKind as K;
    matches!(
        e.kind(),
        K::ConnectionAborted | K::ConnectionReset | K::ConnectionRefused | K::InvalidInput | K::NotConnected
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_dead_unix_socket_is_replaced_and_a_living_one_is_not() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("s");
        drop(std::os::unix::net::UnixListener::bind(&path).unwrap());
        let address = ListenAddr::Unix(path.clone());
        let living = bind(&address, Access::Owner).unwrap();
        assert_eq!(bind(&address, Access::Owner).unwrap_err().kind(), io::ErrorKind::AddrInUse);
        drop(living);
        assert!(!path.exists());
        std::fs::write(&path, "no socket").unwrap();
        assert!(bind(&address, Access::Owner).is_err());
    }

    #[tokio::test]
    async fn a_client_is_accepted_with_its_address() {
        let bound = bind(&ListenAddr::Tcp("127.0.0.1:0".parse().unwrap()), Access::Everybody).unwrap();
        let ListenAddr::Tcp(at) = bound.address().clone() else { panic!("TCP") };
        let mut listener = bound.listen().unwrap();
        let client = tokio::net::TcpStream::connect(at).await.unwrap();
        let (stream, from) = listener.accept().await;
        assert_eq!(from, ClientAddr::Tcp(client.local_addr().unwrap()));
        let Stream::Tcp(stream) = stream else { panic!("TCP") };
        assert!(stream.nodelay().unwrap(), "inherited from the listener");
    }
}
