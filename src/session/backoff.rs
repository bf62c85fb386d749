//! Logins that are held back because others failed: by address, and by account.
//!
//! Who has failed too often is refused for a while without a look at the password; the while doubles with every further
//! failure. Clients that share an address with somebody who guesses, or an account that somebody else guesses at, go on:
//! a user that logged in from an address not long ago is not held back there, until that pair itself fails too often.
//!
//! A login that is being looked at counts as one that failed, so that no more are looked at side by side than may fail; the
//! others wait for their turn, which is short: nobody waits for a client.
//!
//! Failures are forgotten after a time without any. The number of addresses and accounts that are remembered is bounded,
//! and those with the fewest failures go first. An IPv6 address stands for its /64 network, which one client may own whole.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::hash::{BuildHasher, Hash, RandomState};
use std::net::{IpAddr, Ipv6Addr};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::Notify;

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

impl Failures {
    fn are_forgotten(&self, config: &Backoff, now: Instant) -> bool {
        now.duration_since(self.last) > FORGET.max(config.longest)
    }
}

#[derive(Debug, Clone, Copy)]
struct Known {
    at: Instant,
    failures: u32,
    failed: Option<Instant>,
    /// Hashes of the address, if there is one, and of the account, as [`Who`] is written.
    of: [Option<u64>; 2],
}

#[derive(Debug, Default)]
struct Memory {
    failures: HashMap<Who, Failures>,
    /// By hash of address and account.
    known: HashMap<u64, Known>,
    /// Logins that are being looked at.
    under_way: HashMap<Key, UnderWay>,
}

/// Whose logins are being looked at.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
enum Key {
    Of(Who),
    /// A pair that is known, by its hash.
    Known(u64),
}

#[derive(Debug, Default)]
struct UnderWay {
    count: u32,
    /// Wakes one of those who wait.
    freed: Arc<Notify>,
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

/// Whether a login may be looked at.
#[derive(Debug)]
enum Verdict {
    Now(Turn),
    /// When one of these is done.
    Later(Key, Arc<Notify>),
    HeldBack(Who),
}

/// A login that is being looked at, and counts as one that failed until this is dropped.
#[derive(Debug)]
pub struct Turn {
    failed: Arc<Failed>,
    keys: Vec<Key>,
}

impl Failed {
    /// Waits until this login may be looked at. Cancel safe.
    ///
    /// Nothing that takes a client's time may happen before the turn is dropped: others wait for it.
    ///
    /// # Errors
    /// Who is held back.
    pub async fn turn(self: &Arc<Self>, attempt: &Attempt<'_>, config: &Backoff) -> Result<Turn, Who> {
        let mut woken: Option<(Key, Arc<Notify>)> = None;
        loop {
            let verdict = self.may_be_looked_at(attempt, config, Instant::now());
            // Who was woken and did not take all that was free wakes the next one.
            if let Some((key, freed)) = woken.take()
                && !matches!(&verdict, Verdict::Later(other, _) if *other == key)
            {
                freed.notify_one();
            }
            match verdict {
                Verdict::Now(turn) => return Ok(turn),
                Verdict::HeldBack(who) => return Err(who),
                Verdict::Later(key, freed) => {
                    freed.notified().await;
                    woken = Some((key, freed));
                }
            }
        }
    }

    fn may_be_looked_at(self: &Arc<Self>, attempt: &Attempt<'_>, config: &Backoff, now: Instant) -> Verdict {
        let mut memory = self.memory.lock().unwrap_or_else(PoisonError::into_inner);
        let pair = self.pair(attempt);
        let mut of_known = None;
        if let Some(known) = memory.known.get(&pair)
            && known.failures < KNOWN_FAILURES
            && now.duration_since(known.at) < KNOWN
        {
            let room = KNOWN_FAILURES - known.failures;
            match memory.enter(vec![(Key::Known(pair), room)]) {
                Ok(keys) => return Verdict::Now(Turn { failed: Arc::clone(self), keys }),
                Err(later) => of_known = Some(later),
            }
        }
        let address = attempt.address().map(|who| (who, config.per_address));
        let mut rooms = Vec::with_capacity(2);
        for (who, most) in address.into_iter().chain([(attempt.account(), config.per_account)]) {
            let failures = memory.failures.get(&who);
            if failures.and_then(|f| f.until).is_some_and(|until| now < until) {
                // A pair that is known waits only for itself.
                return match of_known {
                    Some((key, freed)) => Verdict::Later(key, freed),
                    None => Verdict::HeldBack(who),
                };
            }
            if most > 0 {
                let count = failures.filter(|f| !f.are_forgotten(config, now)).map_or(0, |f| f.count);
                rooms.push((Key::Of(who), most.saturating_sub(count).max(1)));
            }
        }
        match memory.enter(rooms) {
            Ok(keys) => Verdict::Now(Turn { failed: Arc::clone(self), keys }),
            Err((key, freed)) => Verdict::Later(key, freed),
        }
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
            if entry.are_forgotten(config, now) {
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
        let of = [attempt.address(), Some(attempt.account())]
            .map(|who| who.map(|who| self.written(&who.to_string())));
        let known = memory.known.entry(pair).or_insert(Known { at: now, failures: 0, failed: None, of });
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
        let wanted = who.map(|text| self.written(text));
        for known in memory.known.values_mut().filter(|known| wanted.is_none() || known.of.contains(&wanted))
        {
            (known.failures, known.failed) = (0, None);
        }
        before - memory.failures.len()
    }

    fn written(&self, who: &str) -> u64 {
        self.hasher.hash_one(who)
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

impl Drop for Turn {
    fn drop(&mut self) {
        let mut memory = self.failed.memory.lock().unwrap_or_else(PoisonError::into_inner);
        for key in self.keys.drain(..) {
            memory.leave(key);
        }
    }
}

impl Memory {
    /// Counts a login under all keys, where there is room under all of them; otherwise says where there is none.
    fn enter(&mut self, rooms: Vec<(Key, u32)>) -> Result<Vec<Key>, (Key, Arc<Notify>)> {
        for (key, room) in &rooms {
            if let Some(under_way) = self.under_way.get(key).filter(|u| u.count >= *room) {
                return Err((key.clone(), Arc::clone(&under_way.freed)));
            }
        }
        let keys = rooms.into_iter().map(|(key, _)| {
            self.under_way.entry(key.clone()).or_default().count += 1;
            key
        });
        Ok(keys.collect())
    }

    fn leave(&mut self, key: Key) {
        if let Entry::Occupied(mut entry) = self.under_way.entry(key) {
            let under_way = entry.get_mut();
            under_way.count = under_way.count.saturating_sub(1);
            under_way.freed.notify_one();
            // Whoever waits holds it, too.
            if under_way.count == 0 && Arc::strong_count(&under_way.freed) == 1 {
                entry.remove();
            }
        }
    }

    /// Forgets what is old, and where that is not enough, half of the rest: those that failed least.
    fn make_room(&mut self, now: Instant) {
        if self.failures.len() < REMEMBERED {
            return;
        }
        self.under_way.retain(|_, u| u.count > 0 || Arc::strong_count(&u.freed) > 1);
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
        failed: Arc<Failed>,
        cluster: ClusterName,
        now: Instant,
    }

    impl Rig {
        fn new() -> Self {
            Self { failed: Arc::default(), cluster: "shop".parse().unwrap(), now: Instant::now() }
        }

        fn with<T>(&self, ip: &str, user: &str, then: impl FnOnce(&Arc<Failed>, &Attempt<'_>) -> T) -> T {
            let client = client(ip);
            let attempt = Attempt { client: &client, cluster: &self.cluster, user: user.as_bytes() };
            then(&self.failed, &attempt)
        }

        fn fail(&self, ip: &str, user: &str) -> Vec<String> {
            let who = self.with(ip, user, |failed, attempt| failed.failed(attempt, &CONFIG, self.now));
            who.iter().map(ToString::to_string).collect()
        }

        fn held(&self, ip: &str, user: &str) -> Option<String> {
            match self.may(ip, user) {
                Verdict::HeldBack(who) => Some(who.to_string()),
                Verdict::Now(_) => None,
                Verdict::Later(key, _) => panic!("{key:?}"),
            }
        }

        fn may(&self, ip: &str, user: &str) -> Verdict {
            self.with(ip, user, |failed, attempt| failed.may_be_looked_at(attempt, &CONFIG, self.now))
        }

        fn turn(&self, ip: &str, user: &str) -> Turn {
            match self.may(ip, user) {
                Verdict::Now(turn) => turn,
                other => panic!("{other:?}"),
            }
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
    fn a_pair_that_was_known_is_so_again_once_its_failures_are_cleared() {
        for (cleared, goes_on) in [
            (None, true),
            (Some("10.0.0.1"), true),
            (Some("ann@shop"), true),
            (Some("10.0.0.2"), false),
            (Some("bob@shop"), false),
        ] {
            let rig = Rig::new();
            rig.succeed("10.0.0.1", "ann");
            for _ in 0..KNOWN_FAILURES {
                rig.fail("10.0.0.1", "ann");
            }
            assert!(rig.held("10.0.0.1", "ann").is_some());
            rig.failed.clear(cleared);
            // Others go on failing.
            for n in 0..9 {
                rig.fail("10.0.0.1", &format!("user{n}"));
                rig.fail("10.0.0.66", "ann");
            }
            assert_eq!(rig.held("10.0.0.1", "ann").is_none(), goes_on, "{cleared:?}");
        }
    }

    #[test]
    fn no_more_are_looked_at_side_by_side_than_may_fail() {
        let mut rig = Rig::new();
        let later = |verdict| matches!(verdict, Verdict::Later(..));
        let turns = ["10.0.0.1", "10.0.0.2", "10.0.0.3"].map(|ip| rig.turn(ip, "ann"));
        assert!(later(rig.may("10.0.0.4", "ann")), "three may fail");
        drop(rig.turn("10.0.0.4", "bob"));
        // Two fail, and one comes in.
        let [first, second, third] = turns;
        for (ip, turn) in [("10.0.0.1", first), ("10.0.0.2", second)] {
            rig.fail(ip, "ann");
            drop(turn);
            assert!(later(rig.may("10.0.0.4", "ann")), "a failure frees nothing");
        }
        drop(third);
        let only = rig.turn("10.0.0.4", "ann");
        assert!(later(rig.may("10.0.0.5", "ann")));
        assert_eq!(rig.fail("10.0.0.4", "ann"), ["ann@shop"]);
        drop(only);
        assert!(rig.held("10.0.0.5", "ann").is_some());
        // After the pause, one at a time.
        rig.now += Duration::from_secs(1);
        let one = rig.turn("10.0.0.5", "ann");
        assert!(later(rig.may("10.0.0.6", "ann")));
        drop(one);
        // By address, whatever the name.
        let mut turns: Vec<_> = (0..5).map(|n| rig.turn("10.0.1.1", &format!("user{n}"))).collect();
        assert!(later(rig.may("10.0.1.1", "user5")));
        turns.pop();
        drop(rig.turn("10.0.1.1", "user5"));
        drop(turns);
        assert!(
            rig.failed.memory.lock().unwrap().under_way.is_empty(),
            "nothing is left of those who are done"
        );
    }

    #[test]
    fn who_logged_in_before_waits_for_nobody_else_and_is_bounded_too() {
        let rig = Rig::new();
        rig.succeed("10.0.0.1", "ann");
        let strangers = ["10.0.0.2", "10.0.0.3", "10.0.0.4"].map(|ip| rig.turn(ip, "ann"));
        let own: Vec<_> = (0..KNOWN_FAILURES).map(|_| rig.turn("10.0.0.1", "ann")).collect();
        assert!(matches!(rig.may("10.0.0.1", "ann"), Verdict::Later(..)));
        for _ in strangers {
            rig.fail("10.0.0.2", "ann");
        }
        assert!(rig.held("10.0.0.2", "ann").is_some());
        // Not held back with the others: it waits for its own.
        let Verdict::Later(Key::Known(_), freed) = rig.may("10.0.0.1", "ann") else { panic!("held back") };
        drop((own, freed));
        drop(rig.turn("10.0.0.1", "ann"));
    }

    #[tokio::test]
    async fn those_who_wait_come_one_after_the_other_and_nobody_is_forgotten() {
        let (failed, cluster) = (Arc::new(Failed::default()), "shop".parse::<ClusterName>().unwrap());
        let looked_at = Arc::new(Mutex::new((0_u32, 0_u32, 0_u32)));
        let mut tasks = tokio::task::JoinSet::new();
        for n in 0..200_u8 {
            let (failed, cluster, looked_at) = (Arc::clone(&failed), cluster.clone(), Arc::clone(&looked_at));
            tasks.spawn(async move {
                let client = client(&format!("10.0.{}.1", n % 3));
                let user = format!("user{}", n % 5);
                let attempt = Attempt { client: &client, cluster: &cluster, user: user.as_bytes() };
                if n % 10 == 9 {
                    // A client that leaves while it waits.
                    let turn = failed.turn(&attempt, &CONFIG);
                    let _ = tokio::time::timeout(Duration::from_millis(2), turn).await;
                    return;
                }
                let turn = failed.turn(&attempt, &CONFIG).await.expect("nobody failed");
                let now = {
                    let mut seen = looked_at.lock().unwrap();
                    seen.0 += 1;
                    seen.1 = seen.1.max(seen.0);
                    seen.0
                };
                assert!(now <= 15, "three addresses with five each");
                tokio::time::sleep(Duration::from_millis(1)).await;
                let mut seen = looked_at.lock().unwrap();
                seen.0 -= 1;
                seen.2 += 1;
                drop(turn);
            });
        }
        let all = async {
            while let Some(done) = tasks.join_next().await {
                done.unwrap();
            }
        };
        tokio::time::timeout(Duration::from_secs(20), all).await.expect("somebody waits for ever");
        let (_, most, done) = *looked_at.lock().unwrap();
        assert!(most > 3 && done == 180, "{most} {done}");
    }

    #[tokio::test]
    async fn who_waits_is_held_back_once_the_others_failed() {
        let rig = Rig::new();
        let turns = ["10.0.0.1", "10.0.0.2", "10.0.0.3"].map(|ip| rig.turn(ip, "ann"));
        let waiting: Vec<_> = (0..5)
            .map(|n| {
                let (failed, cluster) = (Arc::clone(&rig.failed), rig.cluster.clone());
                tokio::spawn(async move {
                    let client = client(&format!("10.0.1.{n}"));
                    let attempt = Attempt { client: &client, cluster: &cluster, user: b"ann" };
                    failed.turn(&attempt, &CONFIG).await.map(drop)
                })
            })
            .collect();
        tokio::task::yield_now().await;
        for (ip, turn) in ["10.0.0.1", "10.0.0.2", "10.0.0.3"].into_iter().zip(turns) {
            rig.fail(ip, "ann");
            drop(turn);
        }
        for task in waiting {
            let who = tokio::time::timeout(Duration::from_secs(5), task).await.unwrap().unwrap();
            assert_eq!(who.unwrap_err().to_string(), "ann@shop");
        }
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
