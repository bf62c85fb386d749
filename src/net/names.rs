//! The names of addresses, as the servers find them: reverse, and forward again to confirm.
//!
//! The servers ask `getnameinfo` and `getaddrinfo`, which read what `nsswitch.conf` says, `/etc/hosts` first as a rule. So
//! does this: any other resolver might say otherwise. Both block, so they run on threads for blocking work, a few at a
//! time, and whoever waits for an answer waits a second at most.
//!
//! An answer is a name, or that there is none, or that it cannot be told. The last is no answer of the first two kinds:
//! a failure that passes for "no name" would hide a row from one login and open another one for it.

use std::collections::HashMap;
use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use dns_lookup::{AddrInfoHints, LookupError, LookupErrorKind, SockType};
use tokio::runtime::Handle;
use tokio::sync::{Semaphore, watch};
use tokio::time::{Instant, timeout, timeout_at};

use crate::grants::{HostIdentity, HostName};

/// How long a login waits for the name of its address.
const PATIENCE: Duration = Duration::from_secs(1);

/// Lookups at a time. Behind a resolver that is down each takes until it gives up, which is many seconds.
const AT_ONCE: usize = 32;

/// Addresses that are remembered.
const MOST: usize = 10_000;

/// How long an answer is remembered, and how long a failure.
const ANSWER: Duration = Duration::from_mins(1);
const FAILURE: Duration = Duration::from_secs(3);

/// The longest name of a host in the domain name system is shorter.
const LONGEST: usize = 255;

/// Looks names up and remembers them; clones share what they know.
#[derive(Clone)]
pub struct Names(Arc<Shared>);

struct Shared {
    service: Box<dyn NameService>,
    /// Where lookups run.
    runtime: Handle,
    places: Arc<Semaphore>,
    known: Mutex<HashMap<IpAddr, Entry>>,
}

enum Entry {
    /// It is being looked up since then; all that ask wait for the same answer.
    Asked(Instant, watch::Receiver<Option<HostName>>),
    /// What was found, and until when that holds.
    Found(HostName, Instant),
}

/// That a lookup failed, and the next one may not.
#[derive(Debug)]
struct Failed;

/// What a host's resolver does; none: there definitely is no such name or address.
trait NameService: Send + Sync {
    fn name_of(&self, ip: IpAddr) -> Result<Option<String>, Failed>;
    fn addresses_of(&self, name: &str) -> Result<Vec<IpAddr>, Failed>;
}

// === impl Names ===

impl Names {
    /// Asks this machine's resolver, on the threads for blocking work of `runtime`.
    pub fn new(runtime: Handle) -> Self {
        Self::with(Box::new(System), runtime)
    }

    fn with(service: Box<dyn NameService>, runtime: Handle) -> Self {
        let places = Arc::new(Semaphore::new(AT_ONCE));
        Self(Arc::new(Shared { service, runtime, places, known: Mutex::default() }))
    }

    /// The name of an address, which is unknown where it could not be found out within a second.
    pub async fn of(&self, ip: IpAddr) -> HostName {
        let (since, mut answer) = match self.look(ip) {
            Ok(name) => return name,
            Err(asked) => asked,
        };
        match timeout_at(since + PATIENCE, answer.wait_for(Option::is_some)).await {
            Ok(Ok(name)) => name.clone().unwrap_or_default(),
            Ok(Err(_)) | Err(_) => HostName::Unknown,
        }
    }

    /// Forgets everything, so that the next login of each address looks again.
    pub fn clear(&self) {
        self.0.known().clear();
    }

    /// What is known, or else where the answer will be; a lookup that nobody has begun is.
    fn look(&self, ip: IpAddr) -> Result<HostName, (Instant, watch::Receiver<Option<HostName>>)> {
        let now = Instant::now();
        let mut known = self.0.known();
        match known.get(&ip) {
            Some(Entry::Found(name, until)) if *until > now => return Ok(name.clone()),
            // Without a sender, its lookup has died.
            Some(Entry::Asked(since, answer)) if answer.has_changed().is_ok() => {
                return Err((*since, answer.clone()));
            }
            _ => {}
        }
        if known.len() >= MOST {
            known.retain(|_, entry| matches!(entry, Entry::Asked(..)));
        }
        if known.len() >= MOST {
            return Ok(HostName::Unknown);
        }
        let (sender, answer) = watch::channel(None);
        known.insert(ip, Entry::Asked(now, answer.clone()));
        self.0.runtime.spawn(look_up(Arc::clone(&self.0), ip, now, sender));
        Err((now, answer))
    }
}

impl fmt::Debug for Names {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Names").field("known", &self.0.known().len()).finish_non_exhaustive()
    }
}

impl Shared {
    fn known(&self) -> MutexGuard<'_, HashMap<IpAddr, Entry>> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Looks one address up to the end, whether anybody still waits for it or not.
async fn look_up(shared: Arc<Shared>, ip: IpAddr, since: Instant, answer: watch::Sender<Option<HostName>>) {
    let mut found = HostName::Unknown;
    if let Ok(Ok(place)) = timeout(PATIENCE, Arc::clone(&shared.places).acquire_owned()).await {
        let service = Arc::clone(&shared);
        let lookup = shared.runtime.spawn_blocking(move || {
            // Taken until the thread is free again, not only until somebody's patience ends.
            let _place = place;
            confirmed_name(&*service.service, ip)
        });
        found = lookup.await.unwrap_or_default();
    }
    let now = Instant::now();
    if found == HostName::Absent && now >= since + PATIENCE {
        // Where one service of nsswitch.conf gave up, the next one may have said so of what it does not know.
        found = HostName::Unknown;
    }
    let until = now + if found == HostName::Unknown { FAILURE } else { ANSWER };
    {
        let mut known = shared.known();
        // It may have been forgotten meanwhile, and asked anew.
        if let Some(entry) = known.get_mut(&ip)
            && matches!(entry, Entry::Asked(_, waiting) if waiting.same_channel(&answer.subscribe()))
        {
            *entry = Entry::Found(found.clone(), until);
        }
    }
    answer.send_replace(Some(found));
}

/// The name that a server would accept for an address: `ip_to_hostname` in the servers' sources.
fn confirmed_name(service: &dyn NameService, ip: IpAddr) -> HostName {
    let name = match service.name_of(ip) {
        Ok(Some(name)) => name,
        Ok(None) => return HostName::Absent,
        Err(Failed) => return HostName::Unknown,
    };
    if looks_like_an_address(&name) {
        return HostName::Absent;
    }
    if name.is_empty() || name.len() > LONGEST || !name.is_ascii() {
        // Some servers cut a long name, others have none; and how they compare letters beyond ASCII differs.
        return HostName::Unknown;
    }
    let normal = |ip: IpAddr| HostIdentity::without_name(ip).ip();
    match service.addresses_of(&name) {
        Ok(all) if all.iter().any(|found| normal(*found) == normal(ip)) => HostName::Known(name),
        Ok(_) => HostName::Absent,
        Err(Failed) => HostName::Unknown,
    }
}

/// Digits and a dot at the start: whoever owns an address could give it a name that passes for another address.
fn looks_like_an_address(name: &str) -> bool {
    let digits = name.bytes().take_while(u8::is_ascii_digit).count();
    digits > 0 && name.as_bytes().get(digits) == Some(&b'.')
}

/// The resolver of this machine's C library.
struct System;

/// `NI_NAMEREQD` and `NI_NUMERICSERV` of the C libraries of Linux.
const NAME_REQUIRED: i32 = 8;
const NUMERIC_SERVICE: i32 = 2;

impl NameService for System {
    fn name_of(&self, ip: IpAddr) -> Result<Option<String>, Failed> {
        match dns_lookup::getnameinfo(&SocketAddr::new(ip, 0), NAME_REQUIRED | NUMERIC_SERVICE) {
            Ok((name, _)) => Ok(Some(name)),
            Err(error) => definite(&error).map(|()| None),
        }
    }

    fn addresses_of(&self, name: &str) -> Result<Vec<IpAddr>, Failed> {
        let hints = AddrInfoHints { socktype: SockType::Stream.into(), ..AddrInfoHints::default() };
        match dns_lookup::getaddrinfo(Some(name), None, Some(hints)) {
            Ok(all) => all
                .map(|one| one.map(|info| info.sockaddr.ip()))
                .collect::<Result<_, _>>()
                .map_err(|_| Failed),
            Err(error) => definite(&error).map(|()| Vec::new()),
        }
    }
}

/// Whether an error is a definite "no such name".
fn definite(error: &LookupError) -> Result<(), Failed> {
    if matches!(error.kind(), LookupErrorKind::NoName) { Ok(()) } else { Err(Failed) }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::sync::mpsc;

    use super::*;

    /// Answers from two lists; an address or a name that is in none fails.
    #[derive(Default)]
    struct Fake {
        names: Vec<(&'static str, Option<String>)>,
        addresses: Vec<(String, Vec<&'static str>)>,
        asked: Arc<AtomicUsize>,
        /// Every answer waits for a word from here.
        gate: Option<Mutex<mpsc::Receiver<()>>>,
    }

    impl NameService for Fake {
        fn name_of(&self, ip: IpAddr) -> Result<Option<String>, Failed> {
            self.asked.fetch_add(1, Ordering::SeqCst);
            if let Some(gate) = &self.gate {
                gate.lock().unwrap().recv().unwrap();
            }
            let found = self.names.iter().find(|(of, _)| of.parse() == Ok(ip));
            found.map(|(_, name)| name.clone()).ok_or(Failed)
        }

        fn addresses_of(&self, name: &str) -> Result<Vec<IpAddr>, Failed> {
            let found = self.addresses.iter().find(|(of, _)| of == name).ok_or(Failed)?;
            Ok(found.1.iter().map(|text| ip(text)).collect())
        }
    }

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    fn known(name: &str) -> HostName {
        HostName::Known(name.to_owned())
    }

    /// An address, the name that it leads to, the addresses that the name leads to (none: that fails).
    type Case<'a> = (&'a str, Option<&'a str>, Option<&'static [&'static str]>, HostName);

    #[test]
    fn a_name_is_accepted_by_the_rules_of_the_servers() {
        let long = |length: usize| "a".repeat(length);
        let cases: &[Case<'_>] = &[
            (
                "10.0.0.1",
                Some("web1.corp.example"),
                Some(&["10.9.9.9", "10.0.0.1"]),
                known("web1.corp.example"),
            ),
            ("10.0.0.1", Some("web1.corp.example"), Some(&["::ffff:10.0.0.1"]), known("web1.corp.example")),
            ("::ffff:10.0.0.1", Some("web1.corp.example"), Some(&["10.0.0.1"]), known("web1.corp.example")),
            ("2001:db8::1", Some("web6"), Some(&["2001:db8::1"]), known("web6")),
            // Somebody claims a name that is not theirs.
            ("10.0.0.1", Some("web1.corp.example"), Some(&["10.0.0.2"]), HostName::Absent),
            ("10.0.0.1", Some("localhost"), Some(&["127.0.0.1", "::1"]), HostName::Absent),
            ("10.0.0.1", Some("web1.corp.example"), Some(&[]), HostName::Absent),
            // The name exists, but whose it is cannot be told now.
            ("10.0.0.1", Some("web1.corp.example"), None, HostName::Unknown),
            ("10.0.0.1", None, None, HostName::Absent),
            ("10.0.0.1", Some("192.168.0.1"), Some(&["10.0.0.1"]), HostName::Absent),
            ("10.0.0.1", Some("9.corp.example"), Some(&["10.0.0.1"]), HostName::Absent),
            ("10.0.0.1", Some("9web.corp.example"), Some(&["10.0.0.1"]), known("9web.corp.example")),
            ("10.0.0.1", Some("9"), Some(&["10.0.0.1"]), known("9")),
            ("10.0.0.1", Some(""), Some(&["10.0.0.1"]), HostName::Unknown),
            ("10.0.0.1", Some("wéb"), Some(&["10.0.0.1"]), HostName::Unknown),
            ("10.0.0.1", Some(&long(255)), Some(&["10.0.0.1"]), known(&long(255))),
            ("10.0.0.1", Some(&long(256)), Some(&["10.0.0.1"]), HostName::Unknown),
        ];
        for (address, name, addresses, expected) in cases {
            let names =
                vec![("10.0.0.1", name.map(str::to_owned)), ("::ffff:10.0.0.1", name.map(str::to_owned))];
            let names = names.into_iter().chain([("2001:db8::1", name.map(str::to_owned))]).collect();
            let forward = name.zip(*addresses).map(|(name, all)| (name.to_owned(), all.to_vec()));
            let fake = Fake { names, addresses: forward.into_iter().collect(), ..Fake::default() };
            assert_eq!(confirmed_name(&fake, ip(address)), *expected, "{address} {name:?} {addresses:?}");
        }
        assert_eq!(confirmed_name(&Fake::default(), ip("10.0.0.1")), HostName::Unknown, "a failure");
    }

    #[test]
    fn the_system_knows_loopback() {
        // Every machine's hosts file has it.
        assert!(matches!(System.name_of(ip("127.0.0.1")), Ok(Some(name)) if name.starts_with("localhost")));
        assert!(System.addresses_of("localhost").unwrap().contains(&ip("127.0.0.1")));
    }

    #[test]
    fn only_a_definite_answer_is_one() {
        // EAI_NONAME; EAI_AGAIN, EAI_FAIL, EAI_NODATA, EAI_MEMORY, EAI_SYSTEM.
        assert!(definite(&LookupError::new(-2)).is_ok());
        for number in [-3, -4, -5, -10, -11] {
            assert!(definite(&LookupError::new(number)).is_err(), "{number}");
        }
    }

    fn web1() -> Fake {
        Fake {
            names: vec![("10.0.0.1", Some("web1".to_owned())), ("10.0.0.2", None)],
            addresses: vec![("web1".to_owned(), vec!["10.0.0.1"])],
            ..Fake::default()
        }
    }

    #[tokio::test]
    async fn answers_are_remembered_and_failures_for_a_moment() {
        let fake = web1();
        let asked = Arc::clone(&fake.asked);
        let names = Names::with(Box::new(fake), Handle::current());
        let asked = || asked.load(Ordering::SeqCst);
        for (address, expected) in
            [("10.0.0.1", known("web1")), ("10.0.0.2", HostName::Absent), ("10.0.0.3", HostName::Unknown)]
        {
            let before = asked();
            for _ in 0..3 {
                assert_eq!(names.of(ip(address)).await, expected);
            }
            assert_eq!(asked() - before, 1, "{address}");
        }
        let left = |address| match &names.0.known()[&ip(address)] {
            Entry::Found(_, until) => *until - Instant::now(),
            Entry::Asked(..) => panic!("not found"),
        };
        assert!(left("10.0.0.1") > FAILURE && left("10.0.0.2") > FAILURE && left("10.0.0.3") <= FAILURE);
        let before = asked();
        names.clear();
        assert_eq!(names.of(ip("10.0.0.1")).await, known("web1"));
        assert_eq!(asked() - before, 1, "after being cleared");
    }

    #[tokio::test]
    async fn an_old_answer_is_looked_up_again() {
        let names = Names::with(Box::new(web1()), Handle::current());
        let stale = Entry::Found(known("old"), Instant::now());
        names.0.known().insert(ip("10.0.0.1"), stale);
        assert_eq!(names.of(ip("10.0.0.1")).await, known("web1"));
    }

    #[tokio::test]
    async fn what_is_asked_twice_is_looked_up_once_and_nobody_waits_for_ever() {
        let (go, gate) = mpsc::channel();
        let fake = Fake { gate: Some(Mutex::new(gate)), ..web1() };
        let asked = Arc::clone(&fake.asked);
        let names = Names::with(Box::new(fake), Handle::current());
        let start = Instant::now();
        let (a, b) = tokio::join!(names.of(ip("10.0.0.1")), names.of(ip("10.0.0.1")));
        assert_eq!((a, b), (HostName::Unknown, HostName::Unknown), "nobody has answered");
        assert!(start.elapsed() < PATIENCE * 2, "{:?}", start.elapsed());
        // Who comes later does not wait for what is late already.
        let start = Instant::now();
        assert_eq!(names.of(ip("10.0.0.1")).await, HostName::Unknown);
        assert!(start.elapsed() < PATIENCE / 2, "{:?}", start.elapsed());
        assert_eq!(asked.load(Ordering::SeqCst), 1);
        // A name that comes late is one all the same.
        go.send(()).unwrap();
        while names.of(ip("10.0.0.1")).await != known("web1") {
            assert!(start.elapsed() < PATIENCE * 5, "a late name is lost");
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    #[tokio::test]
    async fn a_late_no_is_no_answer() {
        let (go, gate) = mpsc::channel();
        let names = Names::with(Box::new(Fake { gate: Some(Mutex::new(gate)), ..web1() }), Handle::current());
        assert_eq!(names.of(ip("10.0.0.2")).await, HostName::Unknown);
        go.send(()).unwrap();
        let start = Instant::now();
        while matches!(names.0.known()[&ip("10.0.0.2")], Entry::Asked(..)) {
            assert!(start.elapsed() < PATIENCE * 5, "the lookup does not end");
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        assert_eq!(names.of(ip("10.0.0.2")).await, HostName::Unknown);
    }

    #[tokio::test]
    async fn what_is_remembered_and_what_runs_is_bounded() {
        let fake = Fake { gate: Some(Mutex::new(mpsc::channel().1)), ..Fake::default() };
        let names = Names::with(Box::new(fake), Handle::current());
        let address = |n: u32| IpAddr::V4(std::net::Ipv4Addr::from_bits(n));
        let until = Instant::now() + ANSWER;
        for n in 0..MOST as u32 {
            names.0.known().insert(address(n), Entry::Found(HostName::Absent, until));
        }
        // Its gate is gone, so the lookup dies.
        assert_eq!(names.of(ip("10.0.0.1")).await, HostName::Unknown);
        assert_eq!(names.0.known().len(), 1, "room was made");
        let (_sender, answer) = watch::channel(None);
        for n in 0..MOST as u32 {
            names.0.known().insert(address(n), Entry::Asked(Instant::now(), answer.clone()));
        }
        assert_eq!(names.of(ip("10.0.0.2")).await, HostName::Unknown);
        assert!(!names.0.known().contains_key(&ip("10.0.0.2")), "there was no room");

        let places = Arc::clone(&names.0.places).acquire_many_owned(AT_ONCE as u32).await.unwrap();
        names.clear();
        assert_eq!(names.of(ip("10.0.0.1")).await, HostName::Unknown, "no place");
        drop(places);
    }
}
