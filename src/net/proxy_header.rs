//! PROXY headers (versions 1 and 2): what a balancer says of its client, and what Spillway says to a node.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use ppp::{v1, v2};
use tokio::io::{AsyncRead, AsyncReadExt};
use tokio::time::timeout;

use crate::config::HeaderVersion;

/// Longest header that is read, with everything that a balancer may put behind the addresses.
const LONGEST: usize = 2048;

/// The beginnings of both versions, and the longest header of version 1, with its end.
const V2_START: &[u8] = b"\r\n\r\n\0\r\nQUIT\n";
const V1_START: &[u8] = b"PROXY ";
const V1_LONGEST: usize = 107;

/// How long one that need not send a header may take to begin with it.
const BEGIN: Duration = Duration::from_millis(200);

/// What a peer that may announce clients said.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Announced {
    /// This client.
    Client(SocketAddr),
    /// The connection is the peer's own, such as a health check.
    Itself,
}

/// Why a peer that may announce clients is not served.
#[derive(Debug, thiserror::Error)]
pub enum HeaderError {
    /// It had to send a header, and left or said something else.
    #[error("no PROXY header")]
    Missing,
    /// What it sent begins like a header and is none.
    #[error("PROXY header: {0}")]
    Malformed(String),
    /// It announced a client of a kind that has no address.
    #[error("PROXY header: a client without an IP address over TCP")]
    Kind,
    /// Bytes of the client came before it was greeted.
    #[error("bytes behind the PROXY header, before the greeting")]
    Ahead,
    /// The socket failed.
    #[error(transparent)]
    Io(#[from] io::Error),
}

/// Reads the header with which a connection begins. Without `required`, a peer that says nothing is its own client.
///
/// Not cancel safe.
///
/// # Errors
/// Whenever the client is not known for certain; the connection must be closed then.
pub async fn read_header<S: AsyncRead + Unpin>(
    stream: &mut S,
    required: bool,
) -> Result<Announced, HeaderError> {
    let mut buffer = Vec::with_capacity(256);
    if required {
        stream.read_buf(&mut buffer).await?;
    } else {
        match timeout(BEGIN, stream.read_buf(&mut buffer)).await {
            Ok(read) => read?,
            Err(_) => return Ok(Announced::Itself),
        };
    }
    if buffer.is_empty() {
        return Err(HeaderError::Missing);
    }
    // None is longer than [`LONGEST`], as far as it says how long it is.
    loop {
        if let Some((announced, length)) = parse(&buffer)? {
            return if length == buffer.len() { Ok(announced) } else { Err(HeaderError::Ahead) };
        }
        if stream.read_buf(&mut buffer).await? == 0 {
            return Err(HeaderError::Missing);
        }
    }
}

/// What a header says, and how long it is; none while more of it is to come.
fn parse(bytes: &[u8]) -> Result<Option<(Announced, usize)>, HeaderError> {
    let begins = |start: &[u8]| bytes.iter().zip(start).all(|(a, b)| a == b);
    if begins(V2_START) {
        let Some(length) = bytes.get(14..16) else { return Ok(None) };
        let length = 16 + usize::from(u16::from_be_bytes([length[0], length[1]]));
        if length > LONGEST {
            return Err(HeaderError::Malformed("too long".to_owned()));
        }
        return match bytes.get(..length) {
            Some(header) => Ok(Some((version_2(header)?, length))),
            None => Ok(None),
        };
    }
    if !begins(V1_START) {
        return Err(HeaderError::Missing);
    }
    match bytes.iter().position(|byte| *byte == b'\n') {
        Some(end) if end < V1_LONGEST => Ok(Some((version_1(&bytes[..=end])?, end + 1))),
        None if bytes.len() < V1_LONGEST => Ok(None),
        _ => Err(HeaderError::Malformed("too long".to_owned())),
    }
}

fn version_1(header: &[u8]) -> Result<Announced, HeaderError> {
    let header = v1::Header::try_from(header).map_err(|e| HeaderError::Malformed(e.to_string()))?;
    Ok(match header.addresses {
        v1::Addresses::Unknown => Announced::Itself,
        v1::Addresses::Tcp4(a) => client(a.source_address.into(), a.source_port),
        v1::Addresses::Tcp6(a) => client(a.source_address.into(), a.source_port),
    })
}

fn version_2(header: &[u8]) -> Result<Announced, HeaderError> {
    let header = v2::Header::try_from(header).map_err(|e| HeaderError::Malformed(e.to_string()))?;
    match (header.command, header.protocol, header.addresses) {
        (v2::Command::Local, _, _) => Ok(Announced::Itself),
        (v2::Command::Proxy, v2::Protocol::Stream, v2::Addresses::IPv4(a)) => {
            Ok(client(a.source_address.into(), a.source_port))
        }
        (v2::Command::Proxy, v2::Protocol::Stream, v2::Addresses::IPv6(a)) => {
            Ok(client(a.source_address.into(), a.source_port))
        }
        _ => Err(HeaderError::Kind),
    }
}

fn client(ip: IpAddr, port: u16) -> Announced {
    let ip = match ip {
        // IPv4 in both of its IPv6 forms, as the servers read them.
        IpAddr::V6(v6) if !v6.is_loopback() && v6.segments()[..5] == [0; 5] => {
            v6.to_ipv4().map_or(ip, IpAddr::V4)
        }
        other => other,
    };
    if ip.is_unspecified() { Announced::Itself } else { Announced::Client(SocketAddr::new(ip, port)) }
}

/// The header for a connection to `node` on behalf of `client`, whose port is not told: a link may serve several of its
/// connections.
///
/// # Errors
/// Never in practice: the addresses always fit.
pub fn write_header(version: HeaderVersion, client: IpAddr, node: SocketAddr) -> io::Result<Vec<u8>> {
    let addresses = match (client, node.ip()) {
        (IpAddr::V4(_), IpAddr::V4(_)) => (SocketAddr::new(client, 0), node),
        // Both have to be of one family; the node reads a mapped address as what it stands for.
        _ => (SocketAddr::new(mapped(client), 0), SocketAddr::new(mapped(node.ip()), node.port())),
    };
    match version {
        HeaderVersion::V1 => Ok(v1::Addresses::from(addresses).to_string().into_bytes()),
        HeaderVersion::V2 => v2::Builder::with_addresses(
            v2::Version::Two | v2::Command::Proxy,
            v2::Protocol::Stream,
            addresses,
        )
        .build(),
    }
}

fn mapped(ip: IpAddr) -> IpAddr {
    match ip {
        IpAddr::V4(v4) => v4.to_ipv6_mapped().into(),
        IpAddr::V6(_) => ip,
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use tokio::io::AsyncWriteExt;

    use super::*;

    /// Version 2, for the sender itself.
    const LOCAL: &[u8] = b"\r\n\r\n\0\r\nQUIT\n\x20\0\0\0";
    const NODE: &str = "10.0.0.9:3306";

    async fn read(bytes: &[u8], required: bool) -> Result<Announced, HeaderError> {
        read_header(&mut &*bytes, required).await
    }

    #[tokio::test]
    async fn what_is_written_is_read_again() {
        for version in [HeaderVersion::V1, HeaderVersion::V2] {
            for (ip, node) in [
                ("10.1.2.3", NODE),
                ("2001:db8::7", "[2001:db8::1]:3306"),
                ("10.1.2.3", "[2001:db8::1]:3306"),
                ("2001:db8::7", NODE),
            ] {
                let ip: IpAddr = ip.parse().unwrap();
                let header = write_header(version, ip, node.parse().unwrap()).unwrap();
                assert_eq!(read(&header, true).await.unwrap(), Announced::Client(SocketAddr::new(ip, 0)));
                for end in 0..header.len() {
                    assert!(matches!(read(&header[..end], true).await, Err(HeaderError::Missing)), "{end}");
                }
            }
        }
        assert_eq!(read(LOCAL, true).await.unwrap(), Announced::Itself);
        assert_eq!(read(b"PROXY UNKNOWN\r\n", true).await.unwrap(), Announced::Itself);
    }

    #[tokio::test]
    async fn whatever_is_no_header_is_refused() {
        let login = b"\x20\0\0\x01\x85\xa6\xff\x01\0\0\0\x01";
        assert!(matches!(read(login, true).await, Err(HeaderError::Missing)));
        assert!(matches!(read(login, false).await, Err(HeaderError::Missing)));
        assert!(read(b"PROXY TCP4 10.0.0.1 10.0.0.2 1 99999\r\n", true).await.is_err());
        assert!(read(b"PROXY TCP4 10.0.0.1\r\n", true).await.is_err());
        assert!(read(b"PROXY UDP4 10.0.0.1 10.0.0.2 1 2\r\n", true).await.is_err());
        let mut unix = LOCAL.to_vec();
        // PROXY, AF_UNIX: 216 bytes of paths.
        unix[12..16].copy_from_slice(&[0x21, 0x31, 0, 216]);
        unix.extend([0; 216]);
        assert!(matches!(read(&unix, true).await, Err(HeaderError::Kind)));
        assert!(matches!(read(&[LOCAL, &[1]].concat(), true).await, Err(HeaderError::Ahead)));
    }

    #[tokio::test]
    async fn a_header_that_is_too_long_is_refused_however_it_comes() {
        let of = |length: usize| {
            let mut header = LOCAL.to_vec();
            header[14..16].copy_from_slice(&u16::try_from(length - 16).unwrap().to_be_bytes());
            header.resize(length, 0);
            header
        };
        assert_eq!(read(&of(LONGEST), true).await.unwrap(), Announced::Itself);
        let long = of(LONGEST + 1);
        // Even if all of it is there at the first look; and from its sixteenth byte on it is known to be.
        let (mut ours, mut theirs) = tokio::io::duplex(4096);
        theirs.write_all(&long[..16]).await.unwrap();
        assert!(matches!(read_header(&mut ours, true).await, Err(HeaderError::Malformed(_))));
        assert!(matches!(parse(&long), Err(HeaderError::Malformed(_))));
        assert!(matches!(read(&long, true).await, Err(HeaderError::Malformed(_))));
        assert!(matches!(read(&[b'P'; 4096], true).await, Err(HeaderError::Missing)));
        let endless = [&b"PROXY "[..], &[b'x'; 4096]].concat();
        assert!(matches!(read(&endless, true).await, Err(HeaderError::Malformed(_))));
    }

    #[tokio::test(start_paused = true)]
    async fn who_need_not_send_one_is_not_waited_for_long() {
        let (mut ours, theirs) = tokio::io::duplex(64);
        assert_eq!(read_header(&mut ours, false).await.unwrap(), Announced::Itself);
        drop(theirs);
        assert!(matches!(read_header(&mut ours, true).await, Err(HeaderError::Missing)));
    }

    proptest! {
        #[test]
        fn any_bytes_are_read_without_panic(
            bytes in proptest::collection::vec(any::<u8>(), 0..300),
            start in 0_usize..4,
        ) {
            let starts: [&[u8]; 4] =
                [b"", b"PROXY ", b"PROXY TCP6 ", b"\r\n\r\n\0\r\nQUIT\n\x21\x11"];
            let all = [starts[start], &bytes].concat();
            let _ = parse(&all);
        }
    }
}
