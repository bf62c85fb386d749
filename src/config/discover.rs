//! Whether, and where, members of a cluster that the file does not name are found.

use std::fmt;
use std::net::IpAddr;
use std::time::Duration;

use ipnet::IpNet;

use super::ClusterKind;
use super::client_address::network;
use super::reader::{Field, Section, human};

const SECOND: Duration = Duration::from_secs(1);

/// How members are found that the file does not name (`[cluster.NAME.discover]`).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Discover {
    /// Where members may be, at least one network: an address outside is never dialled.
    pub networks: Vec<IpNet>,
    /// From one look at what the nodes list to the next (default 5 s; 100 ms to 1 h).
    pub interval: Duration,
    /// How long a member that was found stays after it went down and no node lists it any more (default 10 min; 1 s to
    /// 30 days).
    pub forget_after: Duration,
}

impl Discover {
    /// Whether a member may be at this address.
    pub fn allows(&self, address: IpAddr) -> bool {
        let address = address.to_canonical();
        !address.is_unspecified()
            && !address.is_multicast()
            && self.networks.iter().any(|network| network.contains(&address))
    }

    pub(super) fn read(field: &Field<'_>, kind: Option<ClusterKind>) -> Option<Self> {
        const EXPECTED: &str = "a list with at least one network such as 10.0.0.0/24";
        if kind == Some(ClusterKind::Static) {
            field.wrong("the nodes of a static cluster list no members", "another kind of cluster");
            return None;
        }
        let section: Section<'_> = field.section()?;
        let networks = section.require("networks", EXPECTED).and_then(|field| {
            let elements = field.list(EXPECTED)?;
            if elements.is_empty() {
                field.wrong("no member could be anywhere", EXPECTED);
            }
            elements.iter().map(network).collect()
        });
        let interval = section.or("interval", SECOND * 5, |field| {
            field.duration(Duration::from_millis(100)..=Duration::from_hours(1))
        });
        let forget_after = section.or("forget_after", Duration::from_mins(10), |field| {
            field.duration(SECOND..=Duration::from_hours(24) * 30)
        });
        section.finish();
        Some(Self { networks: networks?, interval: interval?, forget_after: forget_after? })
    }
}

impl fmt::Display for Discover {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let networks: Vec<String> = self.networks.iter().map(ToString::to_string).collect();
        let (interval, forget_after) = (human(self.interval), human(self.forget_after));
        write!(f, "in {}, every {interval}, forgotten after {forget_after}", networks.join(", "))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn members_may_be_inside_the_networks_only() {
        let networks = ["10.0.0.0/24", "fd00::/64", "0.0.0.0/8"].map(|text| text.parse().expect("network"));
        let discover = Discover { networks: networks.to_vec(), interval: SECOND, forget_after: SECOND };
        for (address, allowed) in [
            ("10.0.0.9", true),
            ("::ffff:10.0.0.9", true),
            ("10.0.1.9", false),
            ("fd00::9", true),
            ("::1", false),
            ("0.0.0.0", false),
            ("224.0.0.1", false),
        ] {
            assert_eq!(discover.allows(address.parse().expect("address")), allowed, "{address}");
        }
    }
}
