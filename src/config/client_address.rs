//! Whose address a server sees, on either side of Spillway.

use std::fmt;
use std::net::IpAddr;

use ipnet::IpNet;

use super::reader::{Field, Section};

/// Versions of the PROXY protocol.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum HeaderVersion {
    /// Text.
    V1,
    /// Binary.
    V2,
}

/// How the nodes of a cluster come to judge a client by its own address (`client_address`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum ClientAddress {
    /// They see Spillway's address. A login is refused unless the same rows apply to both addresses, or rows that certainly
    /// give Spillway's no more.
    #[default]
    Guard,
    /// Each link begins with a PROXY header that names the client. Clusters with a node that does not prove to take it
    /// are guarded.
    Announced(HeaderVersion),
    /// They see Spillway's address, and the operator answers for what they allow it.
    Trust,
}

const WORDS: &[(&str, ClientAddress)] = &[
    ("guard", ClientAddress::Guard),
    ("proxy-protocol", ClientAddress::Announced(HeaderVersion::V2)),
    ("proxy-protocol-v1", ClientAddress::Announced(HeaderVersion::V1)),
    ("trust", ClientAddress::Trust),
];

impl fmt::Display for ClientAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(WORDS.iter().find(|(_, known)| known == self).map_or("?", |(word, _)| word))
    }
}

impl ClientAddress {
    pub(super) fn read(field: &Field<'_>) -> Option<Self> {
        field.word("way to treat client addresses", WORDS)
    }
}

/// PROXY headers from the balancers before a service (`proxy_protocol`).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ProxyProtocol {
    /// Whose headers are believed, at least one network.
    pub from: Vec<IpNet>,
    /// Whether they must send one (default yes). If not, one that has sent nothing after a fifth of a second is taken for
    /// the client itself.
    pub require: bool,
}

impl fmt::Display for ProxyProtocol {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let word = if self.require { "required" } else { "accepted" };
        let networks: Vec<String> = self.from.iter().map(ToString::to_string).collect();
        write!(f, "{word} from {}", networks.join(", "))
    }
}

impl ProxyProtocol {
    /// Whether a peer may announce a client.
    pub fn believes(&self, peer: IpAddr) -> bool {
        let peer = peer.to_canonical();
        self.from.iter().any(|network| network.contains(&peer))
    }

    pub(super) fn read(section: &Section<'_>) -> Option<Self> {
        const EXPECTED: &str = "a list with at least one network such as 10.0.0.4/32";
        let from = section.require("from", EXPECTED).and_then(|field| {
            let elements = field.list(EXPECTED)?;
            if elements.is_empty() {
                field.wrong("nobody may send a header", EXPECTED);
            }
            elements.iter().map(network).collect()
        });
        let require = section.or("require", true, Field::boolean);
        section.finish();
        Some(Self { from: from?, require: require? })
    }
}

/// A network, or one address.
pub(super) fn network(field: &Field<'_>) -> Option<IpNet> {
    field.parsed("a network", "a network such as 10.0.0.0/24, or an IP address", |text| {
        text.parse::<IpAddr>()
            .map(IpNet::from)
            .or_else(|_| text.parse::<IpNet>())
            .map(|network| network.trunc())
    })
}
