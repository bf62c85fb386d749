//! One client session: handshake, relay, the commands that Spillway answers, and its end.
//!
//! | file | what |
//! |---|---|
//! | `handshake` | greeting, login and the first link |
//! | `admission` | whether a cluster's own accounts accept a login |
//! | `placing` | the node that it goes to, and its link there |
//! | [`relay`] | forwarding, and where it stops |
//! | `moving` | leaving a node for another one |
//! | [`settle`] | which sessions are to leave their nodes |
//! | [`hold`] | waiting while there is no node |
//! | `prepared` | prepared statements, so that another link can have them |
//! | `kill` | `KILL` of one session by another |
//! | `commands` | `COM_CHANGE_USER`, and a schema on another cluster |
//! | [`state`] | what the session carries, and its pins |
//! | [`registry`] | all sessions, for operators |
//! | `exchange` | how a client shows what it knows, and whether that is right |
//! | `relayed` | a client that answers a node itself, and whether what it signed is right |
//! | [`backoff`] | logins that are held back because others failed |
//! | [`limits`] | sessions of one service, user or address |
//! | [`account_limits`] | sessions and logins of one account, by the server's limits |
//! | [`unix_accounts`] | users of this machine who log in without a password |
//! | [`upkeep`] | the pool in order, idle sessions closed |

pub mod account_limits;
mod admission;
pub mod backoff;
mod commands;
mod exchange;
mod handshake;
pub mod hold;
mod kill;
pub mod limits;
mod moving;
mod placing;
mod prepared;
pub mod registry;
pub mod relay;
mod relayed;
pub mod settle;
pub mod state;
pub mod unix_accounts;
pub mod upkeep;

use std::cell::OnceCell;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use bytes::BytesMut;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::time::{Instant, Sleep, timeout};
use tracing::{debug, info, warn};

use crate::accounts::{AccountStore, Accounts, ClusterAccounts};
use crate::backend::{Gates, Link, Pool};
use crate::config::{Config, Links, RevokedSessions, Route, Service};
use crate::fault::{Blame, Fault, Outcome};
use crate::grants::{HostIdentity, HostName};
use crate::ids::{ClientAddr, ClusterName, ServiceName};
use crate::lifecycle::{Lifecycle, Phase};
use crate::metrics::{Gauge, Metrics, ServiceMetrics};
use crate::net::{Announced, HeaderError, Names, StdStream, Stream, read_header};
use crate::routing::{self, Destination};
use crate::tls::Encryption;
use crate::topology::{Evidence, LoadGuard, TopologyStore};
use crate::wire::command::Command;
use crate::wire::packet::Err as ErrPacket;
use account_limits::AccountCounts;
use admission::Credential;
use backoff::Failed;
pub use exchange::Secrets;
use hold::Held;
use limits::{Counts, Places};
use moving::Refusals;
use registry::{Ending, Entry, Leave, Registered, Registry};
use relay::{Elsewhere, Event, Follow, Relay};

/// How long a client that was sent away may take to read why.
const LINGER: Duration = Duration::from_secs(2);

/// Commands of a session that are followed to see whether another session may have its link. Following one costs a
/// microsecond or so: beyond this a new link is cheaper.
const FOLLOWED: u16 = 200;

/// What every session may look at.
#[derive(Debug)]
pub struct Shared {
    /// The configuration in force.
    pub config: Arc<ArcSwap<Config>>,
    /// The clusters as they are.
    pub topology: Arc<TopologyStore>,
    /// The accounts of every cluster.
    pub accounts: Arc<AccountStore>,
    /// All sessions.
    pub registry: Arc<Registry>,
    /// Sessions of users and addresses.
    pub counts: Arc<Counts>,
    /// Sessions and logins of accounts.
    pub account_counts: Arc<AccountCounts>,
    /// Logins that failed.
    pub failed: Arc<Failed>,
    /// Sessions that wait for a node.
    pub held: Arc<Held>,
    /// Names of clients' addresses.
    pub names: Names,
    /// What logins share.
    pub secrets: Secrets,
    /// How many links each node has.
    pub gates: Arc<Gates>,
    /// The stage of the process.
    pub lifecycle: Lifecycle,
    /// Counters.
    pub metrics: Arc<Metrics>,
}

/// A client on its way to a worker.
#[derive(Debug)]
pub struct Arrival {
    /// Its socket.
    pub stream: ArrivalStream,
    /// Where it is.
    pub client: ClientAddr,
    /// The service that it came to.
    pub service: ServiceName,
}

/// The socket of a client on its way.
#[derive(Debug)]
pub enum ArrivalStream {
    /// Registered with the runtime of this worker.
    Here(Stream),
    /// From another worker.
    Elsewhere(StdStream),
}

impl From<Stream> for ArrivalStream {
    fn from(stream: Stream) -> Self {
        Self::Here(stream)
    }
}

impl From<StdStream> for ArrivalStream {
    fn from(stream: StdStream) -> Self {
        Self::Elsewhere(stream)
    }
}

/// Serves one client to its end. `pool`: the worker's.
pub async fn serve(shared: Arc<Shared>, pool: Rc<Pool>, arrival: Arrival) {
    let Arrival { stream, client, service } = arrival;
    let metrics = shared.metrics.service(&service);
    metrics.accepted.inc();
    let config = shared.config.load_full();
    let Some(service) = config.services.get(&service).cloned() else {
        debug!(%service, "client of a service that is no longer configured");
        return;
    };
    let stream = match stream {
        ArrivalStream::Here(stream) => stream,
        ArrivalStream::Elsewhere(stream) => match stream.register() {
            Ok(stream) => stream,
            Err(e) => {
                warn!(error = %e, "client socket could not be registered");
                return;
            }
        },
    };
    let (stream, client) = match announced(stream, client, &service, &config).await {
        Ok(known) => known,
        Err((peer, error)) => {
            warn!(%peer, service = %service.name, %error, "connection closed: its client is not known");
            shared.metrics.login_refused("proxy_header");
            return;
        }
    };
    let registered = shared.registry.register(client, service.name.clone());
    let _open = Open::count(metrics.open.clone());
    let started = Instant::now();
    let mut session = Session {
        shared: Arc::clone(&shared),
        pool,
        service,
        registered,
        metrics,
        places: Places::default(),
        encryption: None,
        name: OnceCell::new(),
        link_load: None,
        cluster: None,
    };
    let outcome = session.run(stream, &config).await;
    session.report(&outcome, started.elapsed());
}

/// The client that a balancer announces; the peer itself where it is no balancer.
async fn announced(
    mut stream: Stream,
    peer: ClientAddr,
    service: &Service,
    config: &Config,
) -> Result<(Stream, ClientAddr), (ClientAddr, HeaderError)> {
    let Some((header, _)) =
        service.proxy_protocol.as_ref().zip(peer.ip()).filter(|(header, ip)| header.believes(*ip))
    else {
        return Ok((stream, peer));
    };
    let read = read_header(&mut stream, header.require);
    let client = match timeout(config.runtime.handshake_timeout, read).await {
        // Loopback of the balancer's machine, not of this one.
        Ok(Ok(Announced::Client(client)))
            if client.ip().is_loopback() && !peer.ip().is_some_and(|ip| ip.to_canonical().is_loopback()) =>
        {
            peer
        }
        Ok(Ok(Announced::Client(client))) => ClientAddr::Tcp(client),
        Ok(Ok(Announced::Itself)) => peer,
        Ok(Err(error)) => return Err((peer, error)),
        Err(_) => return Err((peer, HeaderError::Missing)),
    };
    Ok((stream, client))
}

/// Counts a session as open until it is dropped, in a panic too.
struct Open(Gauge);

impl Open {
    fn count(gauge: Gauge) -> Self {
        gauge.inc();
        Self(gauge)
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        self.0.dec();
    }
}

/// Waits for a result; none: it took longer than the limit, apart from the time in which the session waited for a node.
async fn in_time<T>(limit: Duration, entry: &Entry, result: impl Future<Output = T>) -> Option<T> {
    let (started, held) = (Instant::now(), entry.held());
    let left = || (limit + entry.held().saturating_sub(held)).saturating_sub(started.elapsed());
    let mut result = std::pin::pin!(result);
    while left() > Duration::ZERO {
        if let Ok(result) = timeout(left(), &mut result).await {
            return Some(result);
        }
    }
    None
}

/// Answers one command, in bounded time and unless the session is ended meanwhile.
///
/// Whoever is interrupted may have said half of something, so then the connection just closes.
async fn within(
    limit: Duration,
    entry: &Entry,
    answer: impl Future<Output = Result<(), Fault>>,
) -> Result<(), Fault> {
    let interrupted = tokio::select! {
        answered = in_time(limit, entry, answer) => {
            if let Some(result) = answered {
                return result;
            }
            let detail = format!("a command took longer than {}", humantime::format_duration(limit));
            Fault::silent(Blame::Client, "command_timeout", detail)
        }
        why = entry.ended() => why.fault(),
    };
    Err(Fault { reply: None, ..interrupted })
}

/// A session while it runs.
struct Session {
    shared: Arc<Shared>,
    pool: Rc<Pool>,
    service: Service,
    registered: Registered,
    metrics: ServiceMetrics,
    /// Where the session is counted.
    places: Places,
    /// The client's TLS, if it has any. Boxed like the name below.
    encryption: Option<Box<Encryption>>,
    /// What its own address resolves to, once that was looked up; it stays for the session, as on the servers.
    // Boxed because most sessions have none, and every one is to be small.
    name: OnceCell<Box<HostName>>,
    /// Counts the session on its node.
    link_load: Option<LoadGuard>,
    /// The cluster that it reached.
    cluster: Option<ClusterName>,
}

impl Session {
    async fn run(&mut self, stream: Stream, config: &Config) -> Outcome {
        let limit = config.runtime.handshake_timeout;
        let entry = Arc::clone(&self.registered.entry);
        let login = tokio::select! {
            // On the heap and gone afterwards: an idle session is not as large as its login.
            login = in_time(limit, &entry, Box::pin(self.handshake(stream))) => login,
            why = entry.ended() => return Outcome::Failed(why.fault()),
        };
        let (mut relay, mut credential) = match login {
            Some(Ok(logged_in)) => logged_in,
            Some(Err(fault)) => return Outcome::Failed(fault),
            None => {
                let detail = format!("login took longer than {}", humantime::format_duration(limit));
                return Outcome::Failed(Fault::silent(Blame::Client, "handshake_timeout", detail));
            }
        };
        let mut leaving: Option<Box<Leaving>> = None;
        let mut refusals = Refusals::default();
        let fault = loop {
            let event = tokio::select! {
                event = relay.run(&*self, &entry, &self.metrics) => event,
                why = entry.ended() => break why.fault(),
                () = entry.wished() => {
                    match Box::pin(self.wished(&mut relay, &credential, &mut leaving)).await {
                        Ok(()) => continue,
                        Err(fault) => break fault,
                    }
                }
                () = Leaving::deadline(&mut leaving, &entry) => break overdue(leaving.as_deref(), &relay),
            };
            let barred = if matches!(event, Event::Command(_)) { relay.take_bar() } else { None };
            let done = match event {
                Event::Command(_) if barred.is_some() => {
                    within(limit, &entry, Box::pin(commands::refuse(&mut relay, barred))).await
                }
                Event::Command(Command::Quit) | Event::ClientClosed => {
                    self.give_back(relay, &credential);
                    return Outcome::Completed;
                }
                Event::Command(Command::ChangeUser) => {
                    let answer = Box::pin(self.change_user(&mut relay, &mut credential));
                    within(limit, &entry, answer).await
                }
                Event::Command(Command::StmtExecute) => {
                    within(limit, &entry, Box::pin(self.rewrite_execute(&mut relay))).await
                }
                Event::Command(Command::ProcessKill) => {
                    within(limit, &entry, Box::pin(self.kill(&mut relay, &credential))).await
                }
                Event::Command(_) => {
                    let answer = Box::pin(self.move_to_schema(&mut relay, &mut credential));
                    within(limit, &entry, answer).await
                }
                Event::NodeClosed(words) => {
                    unless_ended(&entry, Box::pin(self.link_lost(&mut relay, &credential, words))).await
                }
                Event::NodeSilent => {
                    unless_ended(&entry, Box::pin(self.link_died(&mut relay, &credential))).await
                }
                Event::Movable => {
                    let wish = leaving.as_deref().map(|leaving| &leaving.wish);
                    unless_ended(&entry, Box::pin(self.move_away(&mut relay, &credential, wish))).await
                }
                Event::Rejected(refusal) => {
                    let answer = Box::pin(self.refused(&mut relay, &credential, &refusal, &mut refusals));
                    unless_ended(&entry, answer).await
                }
                Event::Failed(fault) => Err(fault),
            };
            match done {
                Ok(()) => relay.resume(),
                Err(fault) => break fault,
            }
        };
        if let Some(reply) = &fault.reply
            && let Some(sequence) = relay.can_tell_client()
        {
            Box::pin(send_away(relay.into_client(), reply, sequence)).await;
        }
        Outcome::Failed(fault)
    }

    /// Ends a session whose client went: its link may serve another one, once it is in the state after its login again.
    fn give_back(&self, relay: Box<Relay>, credential: &Credential) {
        // The client's socket is closed here; nobody waits for what follows.
        let Some((link, state)) = relay.into_idle_link() else { return };
        // Whoever aims at it from here on finds nothing.
        let is_aimed_at = self.registered.entry.let_go();
        if link.key().is_none() || state.unproven().is_some() || is_aimed_at {
            tokio::task::spawn_local(link.quit());
            return;
        }
        let (pool, links) = (Rc::clone(&self.pool), self.links(&credential.cluster));
        if link.key().is_some_and(|key| state.is_light(key.database())) {
            pool.give_back(link, &links, Some(&credential.proof));
            return;
        }
        // What it holds is released now, not when the next session comes.
        let limit = self.connect_timeout(&credential.cluster);
        let proof = credential.proof.clone();
        tokio::task::spawn_local(async move {
            match link.tidy(state.schema(), limit).await {
                Ok(link) => pool.give_back(link, &links, Some(&proof)),
                Err(error) => debug!(%error, "a link was closed because it could not be reset"),
            }
        });
    }

    /// Which statements are followed on a new link.
    fn follow(&self, link: &Link) -> Follow {
        match link.key() {
            _ if self.may_move() || self.has_other_nodes() => Follow::All,
            Some(_) => Follow::First(FOLLOWED),
            None => Follow::None,
        }
    }

    /// The settings for links of a cluster.
    fn links(&self, cluster: &ClusterName) -> Links {
        self.shared.config.load().clusters.get(cluster).map_or_else(Links::default, |c| c.links.clone())
    }

    /// Exactly one log line and one metric update for every session.
    fn report(&self, outcome: &Outcome, took: Duration) {
        let entry = &self.registered.entry;
        let place = entry.place();
        let blame = match outcome {
            Outcome::Completed => "none",
            Outcome::Failed(fault) => fault.blame.as_str(),
        };
        self.shared.metrics.ended(&self.service.name, outcome.label(), blame);
        let user = place.user.as_deref().unwrap_or("-");
        let node = place.node.as_ref().map_or("-", |n| n.as_str());
        let cluster = place.cluster.as_ref().map_or("-", |c| c.as_str());
        let (id, client, service) = (entry.id.0, &entry.client, &self.service.name);
        let (statements, seconds) = (entry.statements(), took.as_secs_f64());
        match outcome {
            Outcome::Completed => debug!(
                session = id, %client, %service, user, cluster, node, statements, seconds, "session completed"
            ),
            Outcome::Failed(fault) if fault.blame == Blame::Client => info!(
                session = id, %client, %service, user, cluster, node, statements, seconds,
                outcome = fault.label, reason = fault.detail, "session ended"
            ),
            Outcome::Failed(fault) => warn!(
                session = id, %client, %service, user, cluster, node, statements, seconds,
                outcome = fault.label, reason = fault.detail, "session ended"
            ),
        }
    }

    /// The client as the servers of a cluster identify it, as far as its name was looked up.
    fn identity(&self, cluster: &ClusterName, accounts: &ClusterAccounts) -> HostIdentity {
        let name = self.name.get().filter(|_| self.resolves_names(cluster)).map(|name| &**name);
        accounts.client_identity(&self.registered.entry.client, name.unwrap_or(&HostName::Unknown))
    }

    /// Looks up the name of the client's address, where a row for `user` could match one. A failure is no answer: the next
    /// login of the session looks again.
    async fn learn_name(&self, cluster: &ClusterName, accounts: &ClusterAccounts, user: &[u8]) {
        if self.name.get().is_some() || !self.resolves_names(cluster) {
            return;
        }
        let Some(ip) = accounts.address_to_resolve(user, &self.registered.entry.client) else { return };
        match self.shared.names.of(ip).await {
            HostName::Unknown => {}
            name => {
                // Nobody else looks for it meanwhile.
                let _ = self.name.set(Box::new(name));
            }
        }
    }

    fn resolves_names(&self, cluster: &ClusterName) -> bool {
        self.shared.config.load().clusters.get(cluster).is_some_and(|c| c.resolve_names)
    }

    /// Whether the service can lead a session to more than one cluster.
    fn may_move(&self) -> bool {
        matches!(&self.service.route, Route::ByDatabase { clusters, .. } if clusters.len() > 1)
    }
}

/// A session that is to leave its node.
struct Leaving {
    wish: Leave,
    /// When it ends if it has not left by then.
    deadline: Option<Pin<Box<Sleep>>>,
}

impl Leaving {
    /// Resolves at the deadline, unless the session has left by then. Cancel safe.
    async fn deadline(leaving: &mut Option<Box<Self>>, entry: &Entry) {
        if let Some(deadline) = leaving.as_mut().and_then(|leaving| leaving.deadline.as_mut()) {
            deadline.await;
            if entry.wish_now().is_some() {
                return;
            }
            *leaving = None;
        }
        std::future::pending::<()>().await;
    }
}

/// The end of a session that could not leave its node in time.
fn overdue(leaving: Option<&Leaving>, relay: &Relay) -> Fault {
    let reason = leaving.map_or("", |leaving| leaving.wish.reason.as_str());
    let pin = match relay.pin() {
        Some(pin) => pin.to_string(),
        None if relay.is_movable() => "no other node takes it".to_owned(),
        None => "a statement was under way".to_owned(),
    };
    Fault::killed("node_left", Blame::Server, format!("{reason}; the session could not move in time: {pin}"))
}

/// What is done, unless the session is ended meanwhile.
async fn unless_ended(entry: &Entry, work: impl Future<Output = Result<(), Fault>>) -> Result<(), Fault> {
    tokio::select! {
        done = work => done,
        why = entry.ended() => Err(why.fault()),
    }
}

impl Elsewhere for Session {
    fn trouble(&self, code: u16) {
        self.suspect(Evidence::Error(code));
    }

    fn is_session(&self, number: u32) -> bool {
        self.shared.registry.numbered(number).is_some()
    }

    fn leads_elsewhere(&self, schema: &[u8]) -> bool {
        if !self.may_move() {
            return false;
        }
        match routing::destination(&self.service.route, schema, &self.shared.accounts.load()) {
            Destination::Cluster(cluster) => self.cluster.as_ref() != Some(&cluster),
            Destination::Anywhere => false,
            Destination::Ambiguous(clusters) => {
                !self.cluster.as_ref().is_some_and(|here| clusters.contains(here))
            }
        }
    }
}

/// Tells a client why its session ends, and gives it a moment to read that before the socket closes.
///
/// A socket that is closed with unread bytes in it resets the connection, and the reset would
/// overtake the error.
async fn send_away(mut client: Stream, reply: &ErrPacket, sequence: u8) {
    let mut out = BytesMut::new();
    reply.put(&mut out, sequence);
    linger(&mut client, &out).await;
}

async fn linger(client: &mut Stream, last_words: &[u8]) {
    let goodbye = async {
        client.write_all(last_words).await?;
        client.shutdown().await?;
        let mut sink = [0; 1024];
        while client.read(&mut sink).await? > 0 {}
        std::io::Result::Ok(())
    };
    // Whatever goes wrong now is the client's loss only.
    let _ = timeout(LINGER, goodbye).await;
}

/// Ends the sessions whose accounts may not log in any more, on clusters where such sessions are to end. Called by the
/// control side whenever accounts changed.
pub fn end_revoked(registry: &Registry, accounts: &AccountStore, config: &Config) -> usize {
    let accounts = accounts.load();
    registry.end_where(|entry| revoked(entry, &accounts, config))
}

/// The end of a session whose account may not log in any more, where such sessions are to end.
fn revoked(entry: &Entry, accounts: &Accounts, config: &Config) -> Option<Ending> {
    let account = entry.account()?;
    let cluster = entry.place().cluster?;
    if config.clusters.get(&cluster)?.revoked_sessions == RevokedSessions::Keep {
        return None;
    }
    let revocation = accounts.get(&cluster)?.snapshot.revocation(&account)?;
    Some(Ending::Revoked(format!("account {account} of cluster {cluster} {revocation}")))
}

/// Ends all sessions; for the deadline of a shutdown.
pub fn end_all(registry: &Registry) -> usize {
    registry.end_where(|_| Some(Ending::Shutdown))
}

/// Whether new clients are served now.
fn is_open(lifecycle: &Lifecycle) -> bool {
    lifecycle.phase() == Phase::Serving
}

#[cfg(test)]
mod tests {
    use super::*;

    fn size<F: Future>(_: impl FnOnce(Arc<Shared>, Rc<Pool>, Arrival) -> F) -> usize {
        size_of::<F>()
    }

    #[test]
    fn an_idle_session_is_small() {
        let session = size(serve);
        assert!(session <= 2048, "{session} bytes for each session, most of which are idle");
    }
}
