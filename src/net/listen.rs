//! Listening sockets that never give up: an accept error waits a moment and goes on.

use std::fs::Permissions;
use std::io;
use std::os::unix::fs::{FileTypeExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::time::Duration;

use socket2::{Domain, Protocol, SockRef, Socket, Type};
use tokio::net::{TcpListener, UnixListener};
use tracing::warn;

use super::stream::StdStream;
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

/// A bound socket. A Unix socket's file is removed when this is dropped.
#[derive(Debug)]
pub struct Listener {
    socket: Accepting,
    address: ListenAddr,
    pause: Duration,
}

#[derive(Debug)]
enum Accepting {
    Tcp(TcpListener),
    Unix { listener: UnixListener, _file: RemoveOnDrop },
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
/// The system's, such as address in use. Must be called within a runtime.
pub fn bind(address: &ListenAddr, access: Access) -> io::Result<Listener> {
    let (socket, address) = match address {
        ListenAddr::Tcp(at) => {
            let socket = Socket::new(Domain::for_address(*at), Type::STREAM, Some(Protocol::TCP))?;
            socket.set_reuse_address(true)?;
            if at.is_ipv6() {
                socket.set_only_v6(true)?;
            }
            socket.set_nonblocking(true)?;
            socket.bind(&(*at).into())?;
            socket.listen(BACKLOG)?;
            let listener = TcpListener::from_std(socket.into())?;
            let bound = ListenAddr::Tcp(listener.local_addr()?);
            (Accepting::Tcp(listener), bound)
        }
        ListenAddr::Unix(path) => {
            remove_if_dead(path)?;
            let listener = UnixListener::bind(path)?;
            std::fs::set_permissions(path, Permissions::from_mode(access.mode()))?;
            (Accepting::Unix { listener, _file: RemoveOnDrop(path.clone()) }, address.clone())
        }
    };
    Ok(Listener { socket, address, pause: PAUSE.0 })
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

impl Listener {
    /// Where it listens; the port is the real one even when zero was asked for.
    pub fn address(&self) -> &ListenAddr {
        &self.address
    }

    /// The next client. Errors are logged and outwaited. Cancel safe.
    pub async fn accept(&mut self) -> (StdStream, ClientAddr) {
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

    async fn try_accept(&self) -> io::Result<(StdStream, ClientAddr)> {
        match &self.socket {
            Accepting::Tcp(listener) => {
                let (stream, peer) = listener.accept().await?;
                stream.set_nodelay(true)?;
                SockRef::from(&stream).set_keepalive(true)?;
                Ok((StdStream::Tcp(stream.into_std()?), ClientAddr::Tcp(peer)))
            }
            Accepting::Unix { listener, .. } => {
                let (stream, _) = listener.accept().await?;
                let uid = stream.peer_cred().ok().map(|c| c.uid());
                Ok((StdStream::Unix(stream.into_std()?), ClientAddr::Unix { uid }))
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
        let mut listener = bind(&ListenAddr::Tcp("127.0.0.1:0".parse().unwrap()), Access::Everybody).unwrap();
        let ListenAddr::Tcp(at) = listener.address().clone() else { panic!("TCP") };
        let client = tokio::net::TcpStream::connect(at).await.unwrap();
        let (_, from) = listener.accept().await;
        assert_eq!(from, ClientAddr::Tcp(client.local_addr().unwrap()));
    }
}
