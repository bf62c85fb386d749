//! All sessions, as operators see them, and the way to end one from outside.
//!
//! A session's worker writes its entry with relaxed atomics while it runs statements; the one
//! mutex around the list is taken only when a session begins or ends and when somebody looks.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::{Duration, SystemTime};

use tokio::sync::Notify;
use tokio::time::Instant;

use super::state::Pin;
use crate::fault::{Blame, Fault};
use crate::grants::Account;
use crate::ids::{ClientAddr, ClusterName, NodeName, ServiceName, SessionId};
use crate::tls::Encryption;

/// Connection ids that clients are told begin here, far above those of any node: a client that kills
/// "its" number on a node hits nobody else.
const FIRST_NUMBER: u32 = 1 << 31;

/// Why a session is ended from outside.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Ending {
    /// An operator asked for it.
    Killed,
    /// Another session had its node kill its connection, but it had another one by then.
    Doomed,
    /// Its account may not log in any more: the account with the reason.
    Revoked(String),
    /// Its cluster or service is no longer configured.
    Unconfigured(String),
    /// Nothing came from the client for so long.
    Idle(Duration),
    /// Spillway shuts down.
    Shutdown,
}

impl Ending {
    /// What the client and the log are told.
    pub fn fault(&self) -> Fault {
        match self {
            Self::Killed => Fault::killed("killed", Blame::Proxy, "by an operator"),
            Self::Doomed => Fault::silent(Blame::Client, "killed_by_statement", "Connection was killed"),
            Self::Revoked(reason) => Fault::killed("account_revoked", Blame::Client, reason),
            Self::Unconfigured(reason) => Fault::killed("unconfigured", Blame::Proxy, reason),
            Self::Idle(limit) => Fault::idle(*limit),
            Self::Shutdown => Fault::shutdown(),
        }
    }
}

/// A wish that a session leaves its link.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Leave {
    /// The node that it is to leave.
    pub from: (ClusterName, NodeName),
    /// That node with the reason, in words.
    pub reason: String,
    /// When it ends if it could not; none: it stays then.
    pub deadline: Option<Instant>,
    /// The node does not serve: whatever is under way there is lost.
    pub at_once: bool,
}

/// What changes rarely in a session's life.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Place {
    /// The TLS that the client and Spillway agreed on; none: a plain socket.
    pub tls: Option<Encryption>,
    /// Login name, once it is proven.
    pub user: Option<String>,
    /// The cluster that the session reached.
    pub cluster: Option<ClusterName>,
    /// The node that serves it.
    pub node: Option<NodeName>,
    /// Default schema.
    pub schema: Option<String>,
    /// The node's number of the session's link.
    pub connection: Option<u32>,
    /// Somebody may have the node kill that connection, or what it runs: it serves no other session any more.
    pub is_aimed_at: bool,
}

/// The link of a session, by which a node is told whom to kill.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Aim {
    /// The cluster.
    pub cluster: ClusterName,
    /// The node.
    pub node: NodeName,
    /// The node's number of the link.
    pub connection: u32,
}

impl Place {
    /// The session has another link, by the node's number.
    pub fn have_link(&mut self, connection: u32) {
        // One that logs in again was aimed at before.
        self.is_aimed_at &= self.connection == Some(connection);
        self.connection = Some(connection);
    }
}

/// One session.
#[derive(Debug)]
pub struct Entry {
    /// Its number.
    pub id: SessionId,
    /// Where the client is.
    pub client: ClientAddr,
    /// The service that it came through.
    pub service: ServiceName,
    /// When it was accepted.
    pub started: SystemTime,
    place: Mutex<Place>,
    /// The account that let it in.
    account: Mutex<Option<Arc<Account>>>,
    /// Replies that ended.
    statements: AtomicU64,
    /// Whether the last reply said that a transaction is open.
    in_transaction: AtomicBool,
    /// Whether the session waits for its client, between two commands.
    waits: AtomicBool,
    ending: OnceLock<Ending>,
    end: Notify,
    leave: Mutex<Option<Leave>>,
    wished: Notify,
    /// Whether its link is to be watched closely.
    watched: AtomicBool,
    /// How long it has waited for a node in all, and since when it does.
    held: Mutex<(Duration, Option<Instant>)>,
    /// Why it cannot leave its link.
    pin: Mutex<Option<Pin>>,
    /// A node was told to end its connection.
    doomed: AtomicBool,
    doom: Notify,
}

impl Entry {
    /// Where the session stands now.
    pub fn place(&self) -> Place {
        self.lock().clone()
    }

    /// Notes a new place.
    pub fn set_place(&self, change: impl FnOnce(&mut Place)) {
        change(&mut self.lock());
    }

    /// The number by which clients know the session. Only every 2<sup>31</sup>th one has the same.
    pub fn number(&self) -> u32 {
        FIRST_NUMBER | self.id.0 as u32
    }

    /// The link that the session has now; from here on it serves no other one.
    pub fn aim(&self) -> Option<Aim> {
        let mut place = self.lock();
        let aim =
            Aim { cluster: place.cluster.clone()?, node: place.node.clone()?, connection: place.connection? };
        place.is_aimed_at = true;
        Some(aim)
    }

    /// Whether the session has another link by now.
    pub fn is_elsewhere(&self, aim: &Aim) -> bool {
        let place = self.lock();
        place.connection.is_some_and(|connection| {
            (place.cluster.as_ref(), place.node.as_ref(), connection)
                != (Some(&aim.cluster), Some(&aim.node), aim.connection)
        })
    }

    /// The session gives its link up. Whether somebody aimed at that.
    pub fn let_go(&self) -> bool {
        let mut place = self.lock();
        place.connection = None;
        place.is_aimed_at
    }

    /// Notes that a node was told to end the session's connection: it goes on nowhere else.
    pub fn doom(&self) {
        self.doomed.store(true, Ordering::Relaxed);
        self.doom.notify_one();
    }

    /// Resolves when the session is doomed. Cancel safe.
    pub async fn doomed(&self) {
        while !self.is_doomed() {
            self.doom.notified().await;
        }
    }

    /// Whether the session ends with its connection.
    pub fn is_doomed(&self) -> bool {
        self.doomed.load(Ordering::Relaxed)
    }

    /// The account that let the session in, as it was then.
    pub fn account(&self) -> Option<Arc<Account>> {
        self.account.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Notes which account let the session in.
    pub fn set_account(&self, account: Arc<Account>) {
        *self.account.lock().unwrap_or_else(PoisonError::into_inner) = Some(account);
    }

    /// Counts one complete reply.
    pub fn statement_done(&self) {
        self.statements.fetch_add(1, Ordering::Relaxed);
    }

    /// Complete replies so far.
    pub fn statements(&self) -> u64 {
        self.statements.load(Ordering::Relaxed)
    }

    /// Notes whether a transaction is open.
    pub fn set_in_transaction(&self, open: bool) {
        if self.in_transaction.load(Ordering::Relaxed) != open {
            self.in_transaction.store(open, Ordering::Relaxed);
        }
    }

    /// Whether a transaction is open.
    pub fn in_transaction(&self) -> bool {
        self.in_transaction.load(Ordering::Relaxed)
    }

    /// Notes whether the session waits for its client, between two commands.
    pub fn set_waits(&self, waits: bool) {
        if self.waits.load(Ordering::Relaxed) != waits {
            self.waits.store(waits, Ordering::Relaxed);
        }
    }

    /// Whether the session waits for its client, logged in and outside a transaction.
    pub fn is_idle(&self) -> bool {
        self.waits.load(Ordering::Relaxed) && !self.in_transaction()
    }

    /// Asks the session to end. The first reason stays.
    pub fn end(&self, why: Ending) {
        if self.ending.set(why).is_ok() {
            self.end.notify_one();
        }
    }

    /// Resolves when the session was asked to end. Cancel safe.
    pub async fn ended(&self) -> Ending {
        loop {
            if let Some(why) = self.ending.get() {
                return why.clone();
            }
            self.end.notified().await;
        }
    }

    /// Wishes that the session leaves its link, or no longer.
    ///
    /// The deadline of a wish that is repeated stays as it was.
    pub fn wish(&self, wish: Option<Leave>) {
        let mut known = self.leave.lock().unwrap_or_else(PoisonError::into_inner);
        let same = match (&*known, &wish) {
            (Some(known), Some(new)) => {
                (&known.from, &known.reason, known.at_once) == (&new.from, &new.reason, new.at_once)
            }
            (None, None) => true,
            _ => false,
        };
        if !same {
            *known = wish;
            self.wished.notify_one();
        }
    }

    /// The wish that is in force: a session that is elsewhere by now has done what was wished.
    pub fn wish_now(&self) -> Option<Leave> {
        let wish = self.leave.lock().unwrap_or_else(PoisonError::into_inner).clone()?;
        let place = self.lock();
        let is_there =
            place.cluster.as_ref() == Some(&wish.from.0) && place.node.as_ref() == Some(&wish.from.1);
        is_there.then_some(wish)
    }

    /// Has the session look at its wish again, because it may be possible now.
    pub fn remind(&self) {
        self.wished.notify_one();
    }

    /// Resolves when the wish changed, or is to be looked at again. Cancel safe.
    pub async fn wished(&self) {
        self.wished.notified().await;
    }

    /// Wishes that the session's link is watched closely, or no longer.
    pub fn watch(&self, closely: bool) {
        if self.watched.swap(closely, Ordering::Relaxed) != closely {
            self.wished.notify_one();
        }
    }

    /// Whether the session's link is to be watched closely.
    pub fn is_watched(&self) -> bool {
        self.watched.load(Ordering::Relaxed)
    }

    /// Notes that the session waits for a node from now on, or no longer.
    pub fn set_held(&self, held: bool) {
        let mut time = self.held.lock().unwrap_or_else(PoisonError::into_inner);
        let (total, since) = *time;
        let total = total + since.map_or(Duration::ZERO, |since| since.elapsed());
        *time = (total, held.then(Instant::now));
    }

    /// How long the session has waited for a node, in all. That is nobody's slowness.
    pub fn held(&self) -> Duration {
        let (total, since) = *self.held.lock().unwrap_or_else(PoisonError::into_inner);
        total + since.map_or(Duration::ZERO, |since| since.elapsed())
    }

    /// Whether the session runs a transaction or a statement, rather than that it waits for its client or for a node.
    pub fn runs(&self) -> bool {
        let is_held = self.held.lock().unwrap_or_else(PoisonError::into_inner).1.is_some();
        self.in_transaction() || !self.waits.load(Ordering::Relaxed) && !is_held
    }

    /// Notes why the session cannot leave its link; none: it can.
    pub fn set_pin(&self, pin: Option<Pin>) {
        *self.pin.lock().unwrap_or_else(PoisonError::into_inner) = pin;
    }

    /// Why the session could not leave its link when its last reply ended.
    pub fn pin(&self) -> Option<Pin> {
        *self.pin.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn lock(&self) -> MutexGuard<'_, Place> {
        self.place.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// All sessions.
#[derive(Debug, Default)]
pub struct Registry {
    sessions: Mutex<BTreeMap<SessionId, Arc<Entry>>>,
    last: AtomicU64,
}

/// A session's entry for as long as the session lives.
#[derive(Debug)]
pub struct Registered {
    registry: Arc<Registry>,
    /// The entry.
    pub entry: Arc<Entry>,
}

impl Drop for Registered {
    fn drop(&mut self) {
        self.registry.lock().remove(&self.entry.id);
    }
}

impl Registry {
    /// Begins a session.
    pub fn register(self: &Arc<Self>, client: ClientAddr, service: ServiceName) -> Registered {
        let id = SessionId(self.last.fetch_add(1, Ordering::Relaxed) + 1);
        let entry = Arc::new(Entry {
            id,
            client,
            service,
            started: SystemTime::now(),
            place: Mutex::default(),
            account: Mutex::default(),
            statements: AtomicU64::new(0),
            in_transaction: AtomicBool::new(false),
            waits: AtomicBool::new(false),
            ending: OnceLock::new(),
            end: Notify::new(),
            leave: Mutex::default(),
            wished: Notify::new(),
            watched: AtomicBool::new(false),
            held: Mutex::default(),
            pin: Mutex::default(),
            doomed: AtomicBool::new(false),
            doom: Notify::new(),
        });
        self.lock().insert(id, Arc::clone(&entry));
        Registered { registry: Arc::clone(self), entry }
    }

    /// The session of that number.
    pub fn get(&self, id: SessionId) -> Option<Arc<Entry>> {
        self.lock().get(&id).cloned()
    }

    /// The session that clients know by that number.
    pub fn numbered(&self, number: u32) -> Option<Arc<Entry>> {
        if number < FIRST_NUMBER {
            return None;
        }
        let (low, sessions) = (u64::from(number - FIRST_NUMBER), self.lock());
        let last = *sessions.last_key_value()?.0;
        // The latest first, if numbers came round.
        let rounds = (0..=last.0 / u64::from(FIRST_NUMBER)).rev();
        let mut ids = rounds.map(|round| SessionId(round * u64::from(FIRST_NUMBER) + low));
        ids.find_map(|id| sessions.get(&id).cloned())
    }

    /// All sessions, oldest first.
    pub fn list(&self) -> Vec<Arc<Entry>> {
        self.lock().values().cloned().collect()
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.lock().len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.lock().is_empty()
    }

    /// Asks every session to end for which `why` gives a reason. Returns how many.
    pub fn end_where(&self, why: impl Fn(&Entry) -> Option<Ending>) -> usize {
        let mut ended = 0;
        for entry in self.list() {
            if let Some(ending) = why(&entry) {
                entry.end(ending);
                ended += 1;
            }
        }
        ended
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<SessionId, Arc<Entry>>> {
        self.sessions.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn registered(registry: &Arc<Registry>) -> Registered {
        let client = ClientAddr::Tcp("127.0.0.1:5000".parse().expect("address"));
        registry.register(client, "app".parse().expect("name"))
    }

    #[tokio::test]
    async fn the_first_reason_to_end_stays() {
        let registry = Arc::new(Registry::default());
        let session = registered(&registry);
        let id = session.entry.id;
        registry.get(id).expect("listed").end(Ending::Killed);
        session.entry.end(Ending::Shutdown);
        assert_eq!(session.entry.ended().await, Ending::Killed);
        drop(session);
        assert!(registry.get(id).is_none() && registry.is_empty());
    }

    #[test]
    fn a_session_is_known_by_the_number_of_its_greeting() {
        let registry = Arc::new(Registry::default());
        let first = registered(&registry);
        assert_eq!(first.entry.number(), FIRST_NUMBER + 1);
        registry.last.store(u64::from(FIRST_NUMBER), Ordering::Relaxed);
        let second = registered(&registry);
        assert_eq!(second.entry.number(), FIRST_NUMBER + 1);
        let found = |number| registry.numbered(number).map(|entry| entry.id);
        assert_eq!(found(FIRST_NUMBER + 1), Some(second.entry.id));
        drop(second);
        assert_eq!(found(FIRST_NUMBER + 1), Some(first.entry.id));
        assert_eq!((found(1), found(FIRST_NUMBER + 2)), (None, None));
    }

    #[test]
    fn a_link_that_was_aimed_at_is_known_when_it_is_let_go() {
        let session = registered(&Arc::new(Registry::default()));
        let entry = &session.entry;
        assert_eq!(entry.aim(), None);
        let on = |connection| {
            entry.set_place(|place| {
                (place.cluster, place.node) = (Some("shop".parse().unwrap()), Some("n1".parse().unwrap()));
                place.have_link(connection);
            });
        };
        on(7);
        let aim = entry.aim().unwrap();
        assert_eq!((aim.connection, entry.is_elsewhere(&aim)), (7, false));
        on(8);
        assert!(entry.is_elsewhere(&aim));
        assert!(!entry.let_go(), "the other one was aimed at");
        assert_eq!((entry.aim(), entry.is_elsewhere(&aim)), (None, false));
        on(9);
        let _ = entry.aim();
        assert!(entry.let_go());
    }

    #[test]
    fn a_wish_ends_where_the_session_is_elsewhere() {
        let session = registered(&Arc::new(Registry::default()));
        let at = |cluster: &str, node: &str| (cluster.parse().expect("name"), node.parse().expect("name"));
        let go_to = |(cluster, node): (ClusterName, NodeName)| {
            session.entry.set_place(|place| (place.cluster, place.node) = (Some(cluster), Some(node)));
        };
        go_to(at("shop", "n1"));
        let wish = Leave { from: at("shop", "n1"), reason: "drain".into(), deadline: None, at_once: false };
        session.entry.wish(Some(wish.clone()));
        assert_eq!(session.entry.wish_now(), Some(wish.clone()));
        go_to(at("shop", "n2"));
        assert_eq!(session.entry.wish_now(), None);
        go_to(at("lab", "n1"));
        assert_eq!(session.entry.wish_now(), None);
        go_to(at("shop", "n1"));
        assert_eq!(session.entry.wish_now(), Some(wish));
    }

    #[tokio::test]
    async fn a_reason_given_before_anybody_waits_is_not_lost() {
        let registry = Arc::new(Registry::default());
        let (a, b) = (registered(&registry), registered(&registry));
        let ended = registry.end_where(|e| (e.id == b.entry.id).then_some(Ending::Shutdown));
        assert_eq!(ended, 1);
        assert_eq!(b.entry.ended().await, Ending::Shutdown);
        let waiting = tokio::time::timeout(std::time::Duration::from_millis(20), a.entry.ended());
        assert!(waiting.await.is_err());
    }
}
