//! Whether the name of a node still leads to where its probe is connected.

use std::net::IpAddr;
use std::time::{Duration, Instant};

use tokio::net::lookup_host;
use tokio::time::timeout;

use crate::ids::NodeAddr;

/// How often a name is looked up.
const EVERY: Duration = Duration::from_secs(5);

/// How long a lookup may take. One that fails says nothing.
const LIMIT: Duration = Duration::from_secs(1);

/// How many lookups in a row must miss the address: a resolver may give some of many addresses only.
const MISSES: u32 = 2;

/// What lookups told of one node.
#[derive(Debug)]
pub(super) struct Whereabouts {
    looked: Instant,
    misses: u32,
}

impl Whereabouts {
    /// Of a connection that was just made.
    pub(super) fn new() -> Self {
        Self { looked: Instant::now(), misses: 0 }
    }

    /// Looks the name up when it is time to. The new addresses, if the one that is connected is no longer among them.
    pub(super) async fn left(
        &mut self,
        address: &NodeAddr,
        connected: Option<IpAddr>,
    ) -> Option<Vec<IpAddr>> {
        let connected = connected.filter(|_| address.socket_addr().is_none())?;
        if self.looked.elapsed() < EVERY {
            return None;
        }
        self.looked = Instant::now();
        let found = timeout(LIMIT, lookup_host((address.host.as_str(), address.port))).await.ok()?.ok()?;
        self.judge(connected, found.map(|at| at.ip().to_canonical()).collect())
    }

    fn judge(&mut self, connected: IpAddr, found: Vec<IpAddr>) -> Option<Vec<IpAddr>> {
        if found.is_empty() {
            return None;
        }
        self.misses = if found.contains(&connected) { 0 } else { self.misses + 1 };
        (self.misses >= MISSES).then_some(found)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_has_moved_when_lookups_in_a_row_miss_the_address() {
        let ip = |last: u8| IpAddr::from([10, 0, 0, last]);
        let mut of = Whereabouts::new();
        assert_eq!(of.judge(ip(1), vec![ip(2), ip(1)]), None);
        assert_eq!(of.judge(ip(1), vec![ip(2)]), None, "once is no proof");
        assert_eq!(of.judge(ip(1), vec![ip(1)]), None);
        assert_eq!(of.judge(ip(1), vec![ip(2)]), None, "the count began anew");
        assert_eq!(of.judge(ip(1), Vec::new()), None, "no answer says nothing");
        assert_eq!(of.judge(ip(1), vec![ip(2), ip(3)]), Some(vec![ip(2), ip(3)]));
    }
}
