//! Idle links of one worker, kept for the next session that is alike in everything that the node can see.
//!
//! A link serves another session only when both logins would have been the same for the node: see [`Key`]. Its accounts
//! may have changed since the link logged in, so the node is asked to judge the login again (`COM_CHANGE_USER`), unless
//! it accepted the very same login a moment ago (`links.trust`): where logins come by the thousand, one verdict serves
//! dozens of them, and where they are rare, each is judged. A link whose account's own row changed is closed.

use std::cell::RefCell;
use std::collections::{HashMap, VecDeque};
use std::hash::{BuildHasher, Hash, Hasher, RandomState};
use std::io;
use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::Instant;

use super::gate::{Gate, Gates, Grant, NoSlot, Slot};
use super::{Announce, Approach, Credentials, Link, LinkError, Origin, connect};
use crate::auth::Proof;
use crate::config::Links;
use crate::ids::{ClusterName, NodeAddr, NodeName};
use crate::net::StdStream;
use crate::tls::Trust;
use crate::wire::Capabilities;
use crate::wire::handshake::attributes_without;

/// The error of a server that takes no more connections.
const TOO_MANY_CONNECTIONS: u16 = 1040;
/// An account that nobody has used for so long needs nothing ready.
const FORGET: Duration = Duration::from_mins(30);

/// Everything that makes two logins alike for a node.
#[derive(Debug, PartialEq, Eq)]
pub struct Key {
    /// The cluster.
    pub cluster: ClusterName,
    /// The node.
    pub node: NodeName,
    /// Where the node was when the link was opened.
    pub address: NodeAddr,
    /// Where it comes from.
    pub source: Option<IpAddr>,
    /// TLS, and whom it believes.
    pub tls: Option<Arc<Trust>>,
    /// Whom the node was told it is for.
    pub announce: Announce,
    /// Digest of the account's row.
    pub account: [u8; 32],
    user: Vec<u8>,
    database: Option<Vec<u8>>,
    capabilities: Capabilities,
    collation: u8,
    max_packet: u32,
    /// Connection attributes, without the number of the client's process.
    attributes: Option<Vec<u8>>,
    /// Hash of all this: a login looks several times for its key.
    hash: u64,
}

/// What allows a login to have a link that served another session.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Reuse {
    /// Digest of the account's row.
    pub account: [u8; 32],
    /// Digest of all rows that the client was judged by.
    pub accounts: [u8; 32],
}

/// A login that wants a link.
#[derive(Debug, Clone, Copy)]
pub struct Claim<'a> {
    /// The cluster.
    pub cluster: &'a ClusterName,
    /// The node.
    pub node: &'a NodeName,
    /// How the node is reached.
    pub approach: Approach<'a>,
    /// `CURRENT_USER()` of the account that the client was judged by; none: whatever the node gives.
    pub account: Option<&'a str>,
    /// The node counts the account's queries: its own ones are not to be fewer for what Spillway asks.
    pub uncounted: bool,
    /// Who logs in.
    pub credentials: Credentials<'a>,
    /// The cluster's settings for links.
    pub links: &'a Links,
    /// How long dialling and logging in may take.
    pub connect_timeout: Duration,
    /// None: the link serves this session alone.
    pub reuse: Option<Reuse>,
}

/// Why there is no link.
#[derive(Debug, thiserror::Error)]
pub enum LeaseError {
    /// The node was asked and there is none.
    #[error(transparent)]
    Link(#[from] LinkError),
    /// All links are taken, and as many sessions wait as may.
    #[error("all links are taken and {0} sessions wait for one")]
    QueueFull(u32),
    /// All links were taken for as long as a session waits.
    #[error("all links were taken for {}", humantime::format_duration(*.0))]
    TimedOut(Duration),
}

/// What the pool knows of a link.
#[derive(Debug)]
pub(super) struct Lease {
    /// Whom it may serve next; none: nobody.
    key: Option<Arc<Key>>,
    /// When it is too old.
    expires: Instant,
    /// It served another session, and is to be reset before the next one's first command.
    used: bool,
    /// The node was asked which account it gave.
    asserted: bool,
    _slot: Slot,
}

/// A link on its way from one worker's runtime to another's. One with TLS cannot go that way.
#[derive(Debug)]
pub(super) struct Parked {
    stream: StdStream,
    capabilities: Capabilities,
    origin: Box<Origin>,
}

/// How long idle links of one key are kept.
#[derive(Debug, Clone, Copy)]
pub struct Keep {
    /// How long one may be idle.
    pub idle_timeout: Duration,
    /// How many are kept ready.
    pub warm: u32,
}

/// The idle links of one worker.
#[derive(Debug)]
pub struct Pool {
    gates: Arc<Gates>,
    shelves: RefCell<HashMap<Arc<Key>, Shelf>>,
}

/// The idle links of one key, the most recently used at the back.
#[derive(Debug)]
struct Shelf {
    gate: Arc<Gate>,
    idle: VecDeque<Idle>,
    /// What is needed to keep links ready; only where that is wanted.
    proof: Option<Proof>,
    used: Instant,
    /// What the node last said of this login.
    verdict: Option<Verdict>,
}

/// The node accepted a login.
#[derive(Debug, Clone, Copy)]
struct Verdict {
    /// Not later than the node looked.
    at: Instant,
    /// Digest of the rows that were known here then.
    accounts: [u8; 32],
}

/// What became of an idle link.
enum Renewed {
    /// It may serve this login.
    Link(Link),
    /// The node does not accept this login any more.
    Refused,
    /// The link failed.
    Broken,
}

#[derive(Debug)]
struct Idle {
    link: Link,
    since: Instant,
}

// === impl Key, Claim ===

impl Claim<'_> {
    /// The link that the node has just judged, if it gave the account that is wanted.
    async fn judged(&self, mut link: Link) -> Result<Link, LinkError> {
        if let Some(wanted) = self.account {
            link.assert(wanted, self.uncounted, self.connect_timeout).await?;
        }
        Ok(link)
    }

    fn key(&self, hasher: &RandomState) -> Option<Arc<Key>> {
        let reuse = self.reuse?;
        let who = &self.credentials;
        let mut key = Key {
            cluster: self.cluster.clone(),
            node: self.node.clone(),
            address: self.approach.address.clone(),
            source: self.approach.source,
            tls: self.approach.tls.cloned(),
            announce: self.approach.announce,
            account: reuse.account,
            user: who.user.to_vec(),
            database: who.database.map(<[u8]>::to_vec),
            capabilities: who.capabilities,
            collation: who.collation,
            max_packet: who.max_packet,
            attributes: who.attributes.map(|all| attributes_without(all, b"_pid")),
            hash: 0,
        };
        let rest = (&key.node, key.database.as_deref(), key.attributes.as_deref());
        key.hash = hasher.hash_one((&key.account[..8], &key.user, rest));
        Some(Arc::new(key))
    }
}

impl Hash for Key {
    fn hash<H: Hasher>(&self, state: &mut H) {
        state.write_u64(self.hash);
    }
}

impl Key {
    fn credentials<'a>(&'a self, proof: &'a Proof) -> Credentials<'a> {
        Credentials {
            user: &self.user,
            proof,
            exchange: None,
            database: self.database.as_deref(),
            capabilities: self.capabilities,
            collation: self.collation,
            max_packet: self.max_packet,
            attributes: self.attributes.as_deref(),
        }
    }

    /// The default schema that the login named.
    pub fn database(&self) -> Option<&[u8]> {
        self.database.as_deref()
    }
}

// === impl Pool ===

impl Pool {
    /// An empty pool. `gates` are those of all workers.
    pub fn new(gates: Arc<Gates>) -> Self {
        Self { gates, shelves: RefCell::default() }
    }

    /// A link for this login, and whether it served another session before.
    ///
    /// An idle one if there is one; otherwise a new one, for which it may have to wait in the node's queue. Cancel
    /// safe: a link that is not returned is closed.
    pub async fn lease(&self, claim: &Claim<'_>) -> Result<(Link, bool), LeaseError> {
        let key = claim.key(self.gates.hasher());
        if let (Some(key), Some(reuse)) = (&key, claim.reuse) {
            while let Some(link) = self.take(key, claim) {
                match self.renew(link, key, claim, reuse).await {
                    Renewed::Link(link) => return Ok((link, true)),
                    Renewed::Broken => {}
                    // A login of its own will tell why.
                    Renewed::Refused => self.forget(key),
                }
            }
        }
        let gate = self.gates.of(claim.cluster, claim.node);
        let max = claim.links.max.map(std::num::NonZero::get);
        let deadline = Instant::now() + claim.links.queue_timeout;
        let mut refused: Option<LinkError> = None;
        loop {
            let free = if refused.is_none() { gate.try_slot(max) } else { None };
            let slot = if let Some(slot) = free {
                slot
            } else {
                let again = refused.is_some();
                let wait = gate.wait(key.clone(), claim.links.queue, again, deadline);
                match (wait.await, refused.take()) {
                    (Ok(Grant::Slot(slot)), _) => slot,
                    (Ok(Grant::Link(parked)), _) => {
                        let link = parked.unpark().ok();
                        if let (Some(link), Some(key), Some(reuse)) = (link, &key, claim.reuse)
                            && let Renewed::Link(link) = self.renew(link, key, claim, reuse).await
                        {
                            return Ok((link, true));
                        }
                        continue;
                    }
                    (Err(NoSlot::QueueFull), _) => return Err(LeaseError::QueueFull(claim.links.queue)),
                    (Err(NoSlot::TimedOut), None) => {
                        return Err(LeaseError::TimedOut(claim.links.queue_timeout));
                    }
                    // The node's own words.
                    (Err(NoSlot::TimedOut), Some(error)) => return Err(error.into()),
                }
            };
            let credentials = match (&key, claim.credentials.proof) {
                (Some(key), proof) => key.credentials(proof),
                (None, _) => claim.credentials,
            };
            let at = Instant::now();
            let connected = match connect(&claim.approach, &credentials, claim.connect_timeout).await {
                Ok(link) => claim.judged(link).await,
                Err(error) => Err(error),
            };
            match connected {
                Ok(mut link) => {
                    gate.accepted();
                    if let (Some(key), Some(reuse)) = (&key, claim.reuse) {
                        self.note(key, Verdict { at, accounts: reuse.accounts });
                    }
                    link.origin.lease = Some(Lease::new(key, claim, slot));
                    return Ok((link, false));
                }
                Err(LinkError::Refused(error)) if error.code == TOO_MANY_CONNECTIONS => {
                    slot.refused();
                    refused = Some(LinkError::Refused(error));
                }
                Err(error) => return Err(error.into()),
            }
        }
    }

    /// Makes sure that the node accepts this login now.
    async fn renew(&self, mut link: Link, key: &Arc<Key>, claim: &Claim<'_>, reuse: Reuse) -> Renewed {
        let verdict = self.shelves.borrow().get(key).and_then(|shelf| shelf.verdict);
        let trusted = verdict.is_some_and(|v| {
            v.accounts == reuse.accounts && claim.links.trust.is_some_and(|trust| v.at.elapsed() < trust)
        });
        if trusted && link.origin.lease.as_ref().is_some_and(|lease| lease.asserted) {
            return Renewed::Link(link);
        }
        let at = Instant::now();
        let credentials = key.credentials(claim.credentials.proof);
        match link.change_user(&credentials, claim.account, false, claim.connect_timeout).await {
            Ok(()) => {}
            Err(LinkError::Refused(_) | LinkError::OtherAccount { .. }) => return Renewed::Refused,
            Err(_) => return Renewed::Broken,
        }
        if let Some(lease) = &mut link.origin.lease {
            lease.asserted = true;
        }
        self.note(key, Verdict { at, accounts: reuse.accounts });
        Renewed::Link(link)
    }

    fn note(&self, key: &Arc<Key>, verdict: Verdict) {
        if let Some(shelf) = self.shelves.borrow_mut().get_mut(key) {
            shelf.verdict = Some(verdict);
        }
    }

    /// Closes all idle links of a key.
    fn forget(&self, key: &Arc<Key>) {
        if let Some(shelf) = self.shelves.borrow_mut().remove(key) {
            let idle = u32::try_from(shelf.idle.len()).unwrap_or(u32::MAX);
            shelf.gate.idle().fetch_sub(idle, Ordering::Relaxed);
        }
    }

    /// An idle link that still stands.
    fn take(&self, key: &Arc<Key>, claim: &Claim<'_>) -> Option<Link> {
        let mut shelves = self.shelves.borrow_mut();
        let shelf = shelves.get_mut(key)?;
        shelf.used = Instant::now();
        if claim.links.warm > 0 && shelf.proof.is_none() {
            shelf.proof = Some(claim.credentials.proof.clone());
        }
        while let Some(mut idle) = shelf.idle.pop_back() {
            shelf.gate.idle().fetch_sub(1, Ordering::Relaxed);
            if idle.link.stream.is_silent() {
                return Some(idle.link);
            }
        }
        None
    }

    /// Keeps a link for another session, hands it to one that waits, or closes it.
    ///
    /// The link holds nothing: no transaction, no lock, no temporary table ([`Link::tidy`] sees to that). It need not be
    /// in the state after its login; whoever gets it resets it before the first command ([`Link::is_used`]), which also
    /// gives it the server's global variables of that moment.
    ///
    /// `proof`: what the session logged in with, kept where links are to be kept ready.
    pub fn give_back(&self, mut link: Link, links: &Links, proof: Option<&Proof>) {
        link.set_used(true);
        let Some(lease) = &link.origin.lease else { return };
        let Some(key) = lease.key.clone().filter(|_| links.reuse && Instant::now() < lease.expires) else {
            return;
        };
        let mut shelves = self.shelves.borrow_mut();
        let shelf = shelves.entry(key).or_insert_with_key(|key| Shelf {
            gate: self.gates.of(&key.cluster, &key.node),
            idle: VecDeque::new(),
            proof: None,
            used: Instant::now(),
            verdict: None,
        });
        if shelf.gate.waiting() > 0 {
            hand_over(&shelf.gate, link);
            return;
        }
        if links.warm > 0 && shelf.proof.is_none() {
            shelf.proof = proof.cloned();
        }
        if shelf.idle.len() < links.max_idle as usize {
            shelf.gate.idle().fetch_add(1, Ordering::Relaxed);
            shelf.idle.push_back(Idle { link, since: Instant::now() });
        }
    }

    /// Resolves when somebody begins to wait for a link. See [`Self::yield_to_waiting`].
    pub fn watch_waiting(&self) -> watch::Receiver<u64> {
        self.gates.subscribe()
    }

    /// Gives up idle links of nodes that sessions wait for.
    pub fn yield_to_waiting(&self) {
        for shelf in self.shelves.borrow_mut().values_mut() {
            let wanted = shelf.gate.waiting().min(shelf.idle.len());
            for idle in shelf.idle.drain(..wanted) {
                shelf.gate.idle().fetch_sub(1, Ordering::Relaxed);
                hand_over(&shelf.gate, idle.link);
            }
        }
    }

    /// Closes links that are dead, too old or too long idle, and those for which `keep` gives nothing. Returns the keys
    /// that have fewer links than are to be kept ready.
    pub fn sweep(&self, keep: impl Fn(&Key) -> Option<Keep>) -> Vec<(Arc<Key>, Proof)> {
        let now = Instant::now();
        let mut wanting = Vec::new();
        self.shelves.borrow_mut().retain(|key, shelf| {
            let before = shelf.idle.len();
            let keep = keep(key);
            match keep {
                None => shelf.idle.clear(),
                Some(keep) => shelf.idle.retain_mut(|idle| {
                    let fresh = now.duration_since(idle.since) < keep.idle_timeout;
                    let young = idle.link.origin.lease.as_ref().is_some_and(|lease| now < lease.expires);
                    fresh && young && idle.link.stream.is_silent()
                }),
            }
            let closed = u32::try_from(before - shelf.idle.len()).unwrap_or(u32::MAX);
            shelf.gate.idle().fetch_sub(closed, Ordering::Relaxed);
            let Some(keep) = keep else { return false };
            let remembered =
                keep.warm > 0 && shelf.proof.is_some() && now.duration_since(shelf.used) < FORGET;
            if remembered && shelf.idle.len() < keep.warm as usize {
                wanting.extend(shelf.proof.clone().map(|proof| (Arc::clone(key), proof)));
            }
            remembered || !shelf.idle.is_empty()
        });
        wanting
    }

    /// Opens one link of this key in advance, if the node has room.
    pub async fn warm_up(
        &self,
        key: Arc<Key>,
        proof: &Proof,
        links: &Links,
        connect_timeout: Duration,
    ) -> Result<(), LinkError> {
        let gate = self.gates.of(&key.cluster, &key.node);
        let Some(slot) = gate.try_slot(links.max.map(std::num::NonZero::get)) else { return Ok(()) };
        let credentials = key.credentials(proof);
        let approach = Approach {
            address: &key.address,
            source: key.source,
            tls: key.tls.as_ref(),
            announce: key.announce,
        };
        let mut link = connect(&approach, &credentials, connect_timeout).await?;
        let expires = Instant::now() + varied(links.max_age);
        link.origin.lease =
            Some(Lease { key: Some(key), expires, used: false, asserted: false, _slot: slot });
        self.give_back(link, links, Some(proof));
        Ok(())
    }

    /// Idle links of this worker.
    pub fn idle(&self) -> usize {
        self.shelves.borrow().values().map(|shelf| shelf.idle.len()).sum()
    }

    /// Tries nodes that took no more links once more; one worker does this for all.
    pub fn retry_full(&self) {
        self.gates.retry_full();
    }
}

impl Drop for Pool {
    fn drop(&mut self) {
        for shelf in self.shelves.get_mut().values() {
            let idle = u32::try_from(shelf.idle.len()).unwrap_or(u32::MAX);
            shelf.gate.idle().fetch_sub(idle, Ordering::Relaxed);
        }
    }
}

/// Gives a link to the session that waits longest, or closes it, so that one that waits can open its own.
fn hand_over(gate: &Gate, link: Link) {
    if let Ok(parked) = Parked::new(link) {
        drop(gate.offer(Box::new(parked)));
    }
}

/// A duration that differs by up to a tenth, so that links which were opened together do not all end together.
fn varied(age: Duration) -> Duration {
    let mut byte = [0];
    // Without random numbers all links get the same age, which does no harm.
    let _ = getrandom::fill(&mut byte);
    age.mul_f64(0.9 + 0.2 * f64::from(byte[0]) / 255.0)
}

// === impl Lease, Parked, Link ===

impl Lease {
    /// Whom the link may serve next.
    pub(super) fn key(&self) -> Option<&Key> {
        self.key.as_deref()
    }

    fn new(key: Option<Arc<Key>>, claim: &Claim<'_>, slot: Slot) -> Self {
        let expires = Instant::now() + varied(claim.links.max_age);
        Self { key, expires, used: false, asserted: true, _slot: slot }
    }
}

impl Parked {
    fn new(link: Link) -> io::Result<Self> {
        let Link { stream, capabilities, origin } = link;
        Ok(Self { stream: stream.detach()?, capabilities, origin })
    }

    fn unpark(self) -> io::Result<Link> {
        let Self { stream, capabilities, origin } = self;
        Ok(Link { stream: stream.register()?, capabilities, origin })
    }

    pub(super) fn is_of(&self, key: &Key) -> bool {
        self.origin.lease.as_ref().and_then(|lease| lease.key.as_deref()) == Some(key)
    }
}

impl Link {
    /// Whom the link may serve after this session; none: nobody.
    pub fn key(&self) -> Option<&Key> {
        self.origin.lease.as_ref()?.key.as_deref()
    }

    /// Whether the link served another session and was not reset since.
    pub fn is_used(&self) -> bool {
        self.origin.lease.as_ref().is_some_and(|lease| lease.used)
    }

    pub(super) fn set_used(&mut self, used: bool) {
        if let Some(lease) = &mut self.origin.lease {
            lease.used = used;
        }
    }
}
