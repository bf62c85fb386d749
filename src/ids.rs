//! Names, numbers and addresses that every module shares, each with a type of its own.
//!
//! A name of a node can not be passed where a name of a cluster is wanted, and the address of a client can not be
//! passed for the address of a server.

use std::borrow::Borrow;
use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::PathBuf;
use std::str::FromStr;
use std::sync::Arc;

use serde::{Deserialize, Serialize, Serializer};

/// The longest name of a cluster, node or service, in bytes (which are characters, since names are ASCII).
pub const MAX_NAME: usize = 64;

/// The port of a node whose address names none.
pub const DEFAULT_PORT: u16 = 3306;

/// The longest path of a Unix socket in bytes: `sun_path` of `sockaddr_un` on Linux without its closing NUL.
pub const MAX_SOCKET_PATH: usize = 107;

/// The longest DNS name in bytes.
const MAX_HOST: usize = 253;

/// A name that breaks the rule for names of clusters, nodes and services.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("expected 1 to 64 of A-Z a-z 0-9 _ . - starting with a letter or a digit")]
pub struct InvalidName;

/// A text that is not an address of the wanted sort; the message says what was expected.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("expected {expected}")]
pub struct InvalidAddress {
    /// What an address of this sort looks like.
    pub expected: &'static str,
}

fn is_name(text: &str) -> bool {
    let bytes = text.as_bytes();
    bytes.len() <= MAX_NAME
        && bytes.first().is_some_and(u8::is_ascii_alphanumeric)
        && bytes.iter().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'.' | b'-'))
}

macro_rules! name {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        ///
        /// One to 64 of `A-Z a-z 0-9 _ . -`, the first a letter or a digit. Cheap to clone.
        #[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[serde(try_from = "String")]
        pub struct $name(Arc<str>);

        impl $name {
            /// The name as text.
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl TryFrom<&str> for $name {
            type Error = InvalidName;
            fn try_from(text: &str) -> Result<Self, InvalidName> {
                if is_name(text) { Ok(Self(text.into())) } else { Err(InvalidName) }
            }
        }

        impl TryFrom<String> for $name {
            type Error = InvalidName;
            fn try_from(text: String) -> Result<Self, InvalidName> {
                Self::try_from(text.as_str())
            }
        }

        impl FromStr for $name {
            type Err = InvalidName;
            fn from_str(text: &str) -> Result<Self, InvalidName> {
                Self::try_from(text)
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.pad(&self.0)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Debug::fmt(&*self.0, f)
            }
        }

        impl AsRef<str> for $name {
            fn as_ref(&self) -> &str {
                &self.0
            }
        }

        impl Borrow<str> for $name {
            fn borrow(&self) -> &str {
                &self.0
            }
        }
    };
}

name! {
    /// The name of a cluster.
    ClusterName
}
name! {
    /// The name of a node, unique within its cluster only.
    NodeName
}
name! {
    /// The name of a service.
    ServiceName
}

/// The number of a client session, unique for the life of the process, counted from one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct SessionId(pub u64);

/// Where a client connects from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ClientAddr {
    /// The peer of a TCP connection.
    Tcp(SocketAddr),
    /// The peer of a Unix socket.
    Unix {
        /// The peer's user on this machine, when the system told it.
        uid: Option<u32>,
    },
}

/// Where a node listens: a host name or an IP address, and a port.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct NodeAddr {
    /// A DNS name in lower case, an IPv4 address, or an IPv6 address without brackets.
    pub host: String,
    /// The TCP port, never zero when parsed.
    pub port: u16,
}

/// Where Spillway itself listens.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum ListenAddr {
    /// An IP address and a port. Port 0 lets the system choose a free one.
    Tcp(SocketAddr),
    /// An absolute path of a Unix socket, at most [`MAX_SOCKET_PATH`] bytes.
    Unix(PathBuf),
}

// === impl SessionId ===

impl fmt::Display for SessionId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.0, f)
    }
}

impl FromStr for SessionId {
    type Err = std::num::ParseIntError;
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        text.parse().map(Self)
    }
}

// === impl ClientAddr ===

impl ClientAddr {
    /// The client's IP address; an IPv4-mapped IPv6 address is given as the IPv4 address that it is, because accounts
    /// are matched against that form. `None` for a Unix socket.
    pub fn ip(&self) -> Option<IpAddr> {
        match self {
            Self::Tcp(addr) => Some(addr.ip().to_canonical()),
            Self::Unix { .. } => None,
        }
    }
}

impl fmt::Display for ClientAddr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp(addr) => SocketAddr::new(addr.ip().to_canonical(), addr.port()).fmt(f),
            Self::Unix { uid: Some(uid) } => write!(f, "unix(uid={uid})"),
            Self::Unix { uid: None } => f.write_str("unix"),
        }
    }
}

impl Serialize for ClientAddr {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

// === impl NodeAddr ===

impl NodeAddr {
    const EXPECTED: InvalidAddress =
        InvalidAddress { expected: "host, host:port or [IPv6]:port with a port from 1 to 65535" };

    /// The address as IP and port when the host is an IP address, so that no name need be resolved.
    pub fn socket_addr(&self) -> Option<SocketAddr> {
        self.host.parse().ok().map(|ip| SocketAddr::new(ip, self.port))
    }
}

/// A DNS name or an IPv4 address in its one normal form. A name made of digits and dots alone must be an IPv4
/// address: resolvers read `10.1` as `10.0.0.1`, which nobody means.
fn normal_host(text: &str) -> Option<String> {
    if text.bytes().all(|b| b.is_ascii_digit() || b == b'.') {
        return text.parse::<Ipv4Addr>().ok().map(|ip| ip.to_string());
    }
    let name = text.strip_suffix('.').unwrap_or(text);
    let label = |l: &str| {
        (1..=63).contains(&l.len())
            && l.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_')
            && !l.starts_with('-')
            && !l.ends_with('-')
    };
    (name.len() <= MAX_HOST && name.split('.').all(label)).then(|| text.to_ascii_lowercase())
}

fn port_of(text: &str) -> Option<u16> {
    // `u16::from_str` takes a leading plus sign, which no address has.
    let digits = !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
    digits.then(|| text.parse().ok()).flatten().filter(|port| *port != 0)
}

impl FromStr for NodeAddr {
    type Err = InvalidAddress;
    fn from_str(text: &str) -> Result<Self, InvalidAddress> {
        let parts = || {
            if let Some(rest) = text.strip_prefix('[') {
                let (ip, tail) = rest.split_once(']')?;
                let host = ip.parse::<Ipv6Addr>().ok()?.to_string();
                let port = if tail.is_empty() { DEFAULT_PORT } else { port_of(tail.strip_prefix(':')?)? };
                return Some(Self { host, port });
            }
            match text.split_once(':') {
                Some((host, port)) => Some(Self { host: normal_host(host)?, port: port_of(port)? }),
                None => Some(Self { host: normal_host(text)?, port: DEFAULT_PORT }),
            }
        };
        parts().ok_or(Self::EXPECTED)
    }
}

impl fmt::Display for NodeAddr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.host.contains(':') {
            write!(f, "[{}]:{}", self.host, self.port)
        } else {
            write!(f, "{}:{}", self.host, self.port)
        }
    }
}

impl Serialize for NodeAddr {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

// === impl ListenAddr ===

impl ListenAddr {
    const EXPECTED: InvalidAddress =
        InvalidAddress { expected: "IPv4:port, [IPv6]:port or unix:/absolute/path of at most 107 bytes" };

    /// The address when it is a TCP address.
    pub fn tcp(&self) -> Option<SocketAddr> {
        match self {
            Self::Tcp(addr) => Some(*addr),
            Self::Unix(_) => None,
        }
    }
}

impl FromStr for ListenAddr {
    type Err = InvalidAddress;
    fn from_str(text: &str) -> Result<Self, InvalidAddress> {
        match text.strip_prefix("unix:") {
            Some(path) => {
                let good = path.starts_with('/')
                    && !path.ends_with('/')
                    && path.len() <= MAX_SOCKET_PATH
                    && !path.contains('\0');
                if good { Ok(Self::Unix(path.into())) } else { Err(Self::EXPECTED) }
            }
            None => text.parse().map(Self::Tcp).map_err(|_| Self::EXPECTED),
        }
    }
}

impl fmt::Display for ListenAddr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp(addr) => addr.fmt(f),
            Self::Unix(path) => write!(f, "unix:{}", path.display()),
        }
    }
}

impl Serialize for ListenAddr {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn names_follow_the_rule() {
        for good in ["a", "7", "shop", "db-1.example_x", &"x".repeat(64)] {
            assert_eq!(good.parse::<NodeName>().map(|n| n.to_string()).as_deref(), Ok(good));
        }
        for bad in ["", "-a", ".a", "_a", "a b", "ä", "a/b", "a\n", &"x".repeat(65)] {
            assert_eq!(bad.parse::<ClusterName>(), Err(InvalidName), "{bad:?}");
        }
    }

    #[test]
    fn node_addresses_have_one_normal_form() {
        for (text, shown) in [
            ("10.0.0.1:3306", "10.0.0.1:3306"),
            ("10.0.0.1", "10.0.0.1:3306"),
            ("DB1.Example.com:13306", "db1.example.com:13306"),
            ("db_1", "db_1:3306"),
            ("[::1]:3307", "[::1]:3307"),
            ("[2001:DB8:0::1]", "[2001:db8::1]:3306"),
        ] {
            let address: NodeAddr = text.parse().expect(text);
            assert_eq!(address.to_string(), shown);
            assert_eq!(shown.parse(), Ok(address));
        }
        for bad in [
            "",
            ":3306",
            "::1",
            "::1:3306",
            "10.0.0.300",
            "10.0.0",
            "a:0",
            "a:65536",
            "a:+1",
            "a:",
            "[::1]3306",
            "[::1",
            "[a]:1",
            "a b",
            "-a",
            "a..b",
            "a/b",
            "unix:/x",
            ".",
            "a:1:2",
        ] {
            assert!(bad.parse::<NodeAddr>().is_err(), "{bad:?}");
        }
    }

    #[test]
    fn listen_addresses_give_back_their_text() {
        for good in ["127.0.0.1:3306", "[::1]:3306", "0.0.0.0:0", "unix:/run/spillway/app.sock"] {
            assert_eq!(good.parse::<ListenAddr>().map(|a| a.to_string()).as_deref(), Ok(good));
        }
        let long = format!("unix:/{}", "x".repeat(107));
        for bad in [
            "",
            "localhost:3306",
            "127.0.0.1",
            "unix:",
            "unix:rel/path",
            "unix:/",
            "unix:/a/",
            "::1:3306",
            &long,
        ] {
            assert!(bad.parse::<ListenAddr>().is_err(), "{bad:?}");
        }
        assert!(format!("unix:/{}", "x".repeat(106)).parse::<ListenAddr>().is_ok());
    }

    #[test]
    fn a_mapped_client_address_is_the_ipv4_address() {
        let mapped = ClientAddr::Tcp("[::ffff:10.1.2.3]:40000".parse().expect("address"));
        assert_eq!(mapped.ip(), Some(IpAddr::V4(Ipv4Addr::new(10, 1, 2, 3))));
        assert_eq!(mapped.to_string(), "10.1.2.3:40000");
        let local = ClientAddr::Unix { uid: Some(1000) };
        assert_eq!((local.ip(), local.to_string().as_str()), (None, "unix(uid=1000)"));
        assert_eq!(ClientAddr::Unix { uid: None }.to_string(), "unix");
    }

    #[test]
    fn names_are_checked_when_they_are_read_and_written_as_plain_text() {
        fn is_text<T: Serialize + for<'de> Deserialize<'de>>() {}
        is_text::<ClusterName>();
        assert_eq!(
            format!("{:>6}|{:?}", SessionId(42), "a".parse::<NodeName>().expect("name")),
            "    42|\"a\""
        );
    }

    proptest! {
        #[test]
        fn parsing_never_panics_and_what_parses_comes_back(text in "\\PC{0,40}|[\\[\\]:.a-z0-9%+/-]{0,40}") {
            if let Ok(address) = text.parse::<NodeAddr>() {
                prop_assert_eq!(address.to_string().parse::<NodeAddr>(), Ok(address));
            }
            if let Ok(address) = text.parse::<ListenAddr>() {
                prop_assert_eq!(address.to_string().parse::<ListenAddr>(), Ok(address));
            }
            if let Ok(name) = text.parse::<ServiceName>() {
                prop_assert_eq!(name.as_str(), text.as_str());
            }
        }
    }
}
