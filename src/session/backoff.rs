//! Logins that are held back because others failed: by address, and by account.
//!
//! Who has failed too often is refused for a while without a look at the password; the while doubles with every further
//! failure. Clients that share an address with somebody who guesses, or an account that somebody else guesses at, go on:
//! a user that logged in from an address not long ago is not held back there, until that pair itself fails too often.
//!
//! Failures are forgotten after a time without any. The number of addresses and accounts that are remembered is bounded,
//! and those with the fewest failures go first. An IPv6 address stands for its /64 network, which one client may own whole.

use std::collections::HashMap;
use std::hash::{BuildHasher, Hash, RandomState};
use std::net::{IpAddr, Ipv6Addr};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use crate::config::Backoff;
use crate::ids::{ClientAddr, ClusterName};

/// Most addresses and accounts that are remembered, and most pairs of both that logged in.
const REMEMBERED: usize = 50_000;

/// Failures of so long ago are forgotten.
const FORGET: Duration = Duration::from_mins(10);

/// A pair that logged in is known for so long.
const KNOWN: Duration = Duration::from_hours(24);

/// Failures of a pair that is known, before it is known no longer.
const KNOWN_FAILURES: u32 = 10;

/// Bytes of a name that are remembered: those of 128 characters of UTF-8.
const LONGEST_NAME: usize = 512;

/// Who is held back.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Who {
    /// Clients from here.
    Address(IpAddr),
    /// Logins as this user of a cluster.
    Account(ClusterName, Vec<u8>),
}

impl std::fmt::Display for Who {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Address(IpAddr::V6(ip)) => write!(f, "{ip}/64"),
            Self::Address(ip) => ip.fmt(f),
            Self::Account(cluster, user) => {
                write!(f, "{}@{cluster}", String::from_utf8_lossy(user).escape_debug())
            }
        }
    }
}

/// What is remembered of an address or account.
#[derive(Debug, Clone, Copy)]
pub struct Failures {
    /// Failed logins, none of them long after the one before.
    pub count: u32,
    /// The last of them.
    pub last: Instant,
    /// Held back until then.
    pub until: Option<Instant>,
}

#[derive(Debug, Clone, Copy)]
struct Known {
    at: Instant,
    failures: u32,
    failed: Option<Instant>,
}

#[derive(Debug, Default)]
struct Memory {
    failures: HashMap<Who, Failures>,
    /// By hash of address and account.
    known: HashMap<u64, Known>,
}

/// What all workers remember of logins that failed.
#[derive(Debug, Default)]
pub struct Failed {
    memory: Mutex<Memory>,
    hasher: RandomState,
}

/// A login, as far as it counts here.
#[derive(Debug, Clone, Copy)]
pub struct Attempt<'a> {
    /// Where the client is.
    pub client: &'a ClientAddr,
    /// The cluster that it is for.
    pub cluster: &'a ClusterName,
    /// The name that it is for.
    pub user: &'a [u8],
}

impl Attempt<'_> {
    /// Clients of a Unix socket have no address to hold back.
    fn address(&self) -> Option<Who> {
        self.client.ip().map(|ip| match ip.to_canonical() {
            IpAddr::V6(ip) => {
                let [a, b, c, d, ..] = ip.segments();
                Who::Address(Ipv6Addr::new(a, b, c, d, 0, 0, 0, 0).into())
            }
            v4 @ IpAddr::V4(_) => Who::Address(v4),
        })
    }

    fn account(&self) -> Who {
        // Longer names are nobody's.
        Who::Account(self.cluster.clone(), self.user[..self.user.len().min(LONGEST_NAME)].to_vec())
    }
}

impl Failed {
    /// Who must wait before this login is looked at, if anybody must.
    pub fn holds_back(&self, attempt: &Attempt<'_>, now: Instant) -> Option<Who> {
        let memory = self.memory.lock().unwrap_or_else(PoisonError::into_inner);
        if memory.failures.is_empty() {
            return None;
        }
        let held = |who: Who| {
            let until = memory.failures.get(&who).and_then(|f| f.until);
            until.is_some_and(|until| now < until).then_some(who)
        };
        let who = attempt.address().and_then(held).or_else(|| held(attempt.account()))?;
        let known = memory.known.get(&self.pair(attempt));
        let is_known = known.is_some_and(|k| k.failures < KNOWN_FAILURES && now.duration_since(k.at) < KNOWN);
        (!is_known).then_some(who)
    }

    /// Counts a login that failed. Returns who is held back from now on for the first time.
    pub fn failed(&self, attempt: &Attempt<'_>, config: &Backoff, now: Instant) -> Vec<Who> {
        let mut memory = self.memory.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(known) = memory.known.get_mut(&self.pair(attempt)) {
            known.failures = known.failures.saturating_add(1);
            known.failed = Some(now);
        }
        let mut new = Vec::new();
        let address = attempt.address().map(|who| (who, config.per_address));
        for (who, most) in address.into_iter().chain([(attempt.account(), config.per_account)]) {
            if most == 0 {
                continue;
            }
            memory.make_room(now);
            let entry = memory.failures.entry(who.clone());
            let entry = entry.or_insert(Failures { count: 0, last: now, until: None });
            if now.duration_since(entry.last) > FORGET.max(config.longest) {
                *entry = Failures { count: 0, last: now, until: None };
            }
            entry.count = entry.count.saturating_add(1);
            entry.last = now;
            if let Some(beyond) = entry.count.checked_sub(most) {
                let pause = config.first.saturating_mul(1 << beyond.min(30)).min(config.longest);
                if entry.until.is_none() {
                    new.push(who);
                }
                entry.until = Some(now + pause);
            }
        }
        new
    }

    /// Notes a login that succeeded: its pair is known from now on. Failures of others are not forgotten for it: a busy
    /// account would never be guarded.
    pub fn succeeded(&self, attempt: &Attempt<'_>, now: Instant) {
        let pair = self.pair(attempt);
        let mut memory = self.memory.lock().unwrap_or_else(PoisonError::into_inner);
        if memory.known.len() >= REMEMBERED && !memory.known.contains_key(&pair) {
            memory.known.retain(|_, known| now.duration_since(known.at) < KNOWN / 24);
            if memory.known.len() >= REMEMBERED {
                memory.known.clear();
            }
        }
        let known = memory.known.entry(pair).or_insert(Known { at: now, failures: 0, failed: None });
        known.at = now;
        // Not forgiven by a success: somebody may guess from the same address.
        if known.failed.is_some_and(|failed| now.duration_since(failed) > FORGET) {
            (known.failures, known.failed) = (0, None);
        }
    }

    /// Everybody who is held back now, those with the most failures first.
    pub fn held(&self, now: Instant) -> Vec<(Who, Failures)> {
        let memory = self.memory.lock().unwrap_or_else(PoisonError::into_inner);
        let is_held = |f: &Failures| f.until.is_some_and(|until| now < until);
        let mut held: Vec<_> =
            memory.failures.iter().filter(|(_, f)| is_held(f)).map(|(who, f)| (who.clone(), *f)).collect();
        held.sort_by(|(a, x), (b, y)| y.count.cmp(&x.count).then_with(|| a.to_string().cmp(&b.to_string())));
        held
    }

    /// Forgets the failures of one address or account (as [`Who`] is written), or of all. Returns how many it were.
    pub fn clear(&self, who: Option<&str>) -> usize {
        let mut memory = self.memory.lock().unwrap_or_else(PoisonError::into_inner);
        let before = memory.failures.len();
        match who {
            None => memory.failures.clear(),
            Some(text) => memory.failures.retain(|who, _| who.to_string() != text),
        }
        before - memory.failures.len()
    }

    fn pair(&self, attempt: &Attempt<'_>) -> u64 {
        struct Pair<'a>(Option<IpAddr>, &'a ClusterName, &'a [u8]);
        impl Hash for Pair<'_> {
            fn hash<H: std::hash::Hasher>(&self, state: &mut H) {
                self.0.hash(state);
                self.1.as_str().hash(state);
                self.2.hash(state);
            }
        }
        let address = match attempt.address() {
            Some(Who::Address(ip)) => Some(ip),
            _ => None,
        };
        self.hasher.hash_one(Pair(address, attempt.cluster, attempt.user))
    }
}

impl Memory {
    /// Forgets what is old, and where that is not enough, half of the rest: those that failed least.
    fn make_room(&mut self, now: Instant) {
        if self.failures.len() < REMEMBERED {
            return;
        }
        self.failures.retain(|_, f| now.duration_since(f.last) < FORGET || f.until.is_some_and(|u| now < u));
        if self.failures.len() >= REMEMBERED {
            let mut counts: Vec<u32> = self.failures.values().map(|f| f.count).collect();
            let middle = counts.len() / 2;
            let median = *counts.select_nth_unstable(middle).1;
            let mut surplus = counts.len() / 2;
            self.failures.retain(|_, f| {
                let goes = surplus > 0 && f.count <= median;
                surplus -= usize::from(goes);
                !goes
            });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const CONFIG: Backoff = Backoff {
        per_address: 5,
        per_account: 3,
        first: Duration::from_secs(1),
        longest: Duration::from_secs(8),
    };

    fn client(ip: &str) -> ClientAddr {
        ClientAddr::Tcp(std::net::SocketAddr::new(ip.parse().unwrap(), 1))
    }

    struct Rig {
        failed: Failed,
        cluster: ClusterName,
        now: Instant,
    }

    impl Rig {
        fn new() -> Self {
            Self { failed: Failed::default(), cluster: "shop".parse().unwrap(), now: Instant::now() }
        }

        fn with<T>(&self, ip: &str, user: &str, then: impl FnOnce(&Failed, &Attempt<'_>) -> T) -> T {
            let client = client(ip);
            let attempt = Attempt { client: &client, cluster: &self.cluster, user: user.as_bytes() };
            then(&self.failed, &attempt)
        }

        fn fail(&self, ip: &str, user: &str) -> Vec<String> {
            let who = self.with(ip, user, |failed, attempt| failed.failed(attempt, &CONFIG, self.now));
            who.iter().map(ToString::to_string).collect()
        }

        fn held(&self, ip: &str, user: &str) -> Option<String> {
            self.with(ip, user, |failed, attempt| failed.holds_back(attempt, self.now))
                .map(|who| who.to_string())
        }

        fn succeed(&self, ip: &str, user: &str) {
            self.with(ip, user, |failed, attempt| failed.succeeded(attempt, self.now));
        }
    }

    #[test]
    fn an_account_is_held_back_longer_and_longer() {
        let mut rig = Rig::new();
        assert_eq!((rig.fail("10.0.0.1", "ann"), rig.fail("10.0.0.2", "ann")), (vec![], vec![]));
        assert_eq!(rig.held("10.0.0.3", "ann"), None);
        assert_eq!(rig.fail("10.0.0.3", "ann"), ["ann@shop"]);
        assert_eq!(rig.held("10.0.0.4", "ann").as_deref(), Some("ann@shop"));
        assert_eq!(rig.held("10.0.0.4", "bob"), None);
        for pause in [1, 2, 4, 8, 8] {
            rig.now += Duration::from_millis(pause * 1000 - 1);
            assert!(rig.held("10.0.0.4", "ann").is_some(), "{pause}");
            rig.now += Duration::from_millis(1);
            assert_eq!(rig.held("10.0.0.4", "ann"), None, "{pause}");
            rig.fail(&format!("10.0.1.{pause}"), "ann");
        }
        rig.succeed("10.0.0.9", "ann");
        assert_eq!(rig.held("10.0.0.9", "ann"), None);
        assert!(rig.held("10.0.0.4", "ann").is_some());
    }

    #[test]
    fn an_address_that_tries_many_names_is_held_back_and_ipv6_by_its_network() {
        let rig = Rig::new();
        for n in 0..5 {
            rig.fail("10.0.0.1", &format!("user{n}"));
            rig.fail(&format!("2001:db8:1:2::{n}"), &format!("user{n}"));
        }
        assert_eq!(rig.held("10.0.0.1", "ann").as_deref(), Some("10.0.0.1"));
        assert_eq!(rig.held("::ffff:10.0.0.1", "ann").as_deref(), Some("10.0.0.1"));
        assert_eq!(rig.held("2001:db8:1:2:ffff::9", "ann").as_deref(), Some("2001:db8:1:2::/64"));
        assert_eq!(rig.held("2001:db8:1:3::1", "ann"), None);
        assert_eq!(rig.failed.held(rig.now).len(), 2);
        assert_eq!(rig.failed.clear(Some("10.0.0.1")), 1);
        assert_eq!(rig.held("10.0.0.1", "ann"), None);
    }

    #[test]
    fn who_logged_in_before_goes_on_until_that_pair_itself_fails() {
        let rig = Rig::new();
        rig.succeed("10.0.0.1", "ann");
        for n in 0..9 {
            rig.fail("10.0.0.1", &format!("user{n}"));
            rig.fail("10.0.0.66", "ann");
        }
        assert_eq!(rig.held("10.0.0.1", "ann"), None);
        assert!(rig.held("10.0.0.1", "bob").is_some());
        for _ in 0..KNOWN_FAILURES {
            rig.fail("10.0.0.1", "ann");
        }
        assert!(rig.held("10.0.0.1", "ann").is_some());
    }

    #[test]
    fn failures_are_forgotten_and_the_memory_is_bounded() {
        let mut rig = Rig::new();
        rig.fail("10.0.0.1", "ann");
        rig.fail("10.0.0.1", "ann");
        rig.now += FORGET + Duration::from_secs(1);
        assert_eq!(rig.fail("10.0.0.1", "ann"), [""; 0]);
        for n in 0..60_000_u32 {
            let ip = std::net::Ipv4Addr::from(n + (20 << 24)).to_string();
            rig.fail(&ip, "eve");
            rig.succeed(&ip, &format!("user{n}"));
        }
        let memory = rig.failed.memory.lock().unwrap();
        assert!(memory.failures.len() <= REMEMBERED && memory.known.len() <= REMEMBERED);
        drop(memory);
        assert!(rig.held("10.9.9.9", "eve").is_some(), "who failed most is remembered");
    }
}
