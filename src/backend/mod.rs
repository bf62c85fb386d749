//! Links: dialling a node, logging in as the client's own user, and keeping links for the next session.
//!
//! A [`Link`] is a logged-in connection with everything that was negotiated for it. The node is
//! treated as hostile: its packets are bounded and checked, and it never gets more than the reply
//! to a challenge of a known plugin.
//!
//! | file | what |
//! |---|---|
//! | `asked` | single commands, and which account a link got |
//! | `gate` | how many links a node gets, and the queue for them; shared by the workers |
//! | `pool` | idle links of one worker, by everything that makes two logins alike |
//! | `prepare` | bringing a fresh link to the state of a session |
//! | `rows` | queries of Spillway's own that give rows |
//! | `tidy` | bringing a link back to the state after its login |

mod asked;
mod gate;
mod pool;
mod prepare;
mod rows;
mod tidy;

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use socket2::{SockRef, TcpKeepalive};
use tokio::io::AsyncWriteExt;
use tokio::net::{TcpSocket, TcpStream, lookup_host};
use tokio::time::{Instant, timeout, timeout_at};
use zeroize::Zeroizing;

pub use gate::{Gates, NodeLinks, Slot};
pub use pool::{Claim, Keep, Key, LeaseError, Pool, Reuse};
pub use rows::Row;

use crate::auth::rsa::ServerKey;
use crate::auth::{self, Heard, Privacy, Proof, caching_sha2, native, sha256_password};
use crate::config::HeaderVersion;
use crate::ids::NodeAddr;
use crate::net::{PacketStream, ReadError, Stream, connect_tls, write_header};
use crate::tls::Trust;
use crate::topology::Facts;
use crate::wire::handshake::{AuthSwitch, Greeting, HandshakeResponse, SCRAMBLE, Scramble, SslRequest};
use crate::wire::packet::{self, Err as ErrPacket};
use crate::wire::{Capabilities, Malformed, Status};

/// Longest packet of the connection phase that is read from a node.
const HANDSHAKE_LIMIT: usize = 64 * 1024;

/// How a node is reached.
#[derive(Debug, Clone, Copy)]
pub struct Approach<'a> {
    /// Where it listens.
    pub address: &'a NodeAddr,
    /// The address of this machine to come from; none: the system's choice.
    pub source: Option<IpAddr>,
    /// TLS, and whom it believes; none: without.
    pub tls: Option<&'a Arc<Trust>>,
    /// Whom it is told the connection is for.
    pub announce: Announce,
}

/// Whom a node is told a connection is for, by a PROXY header.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Announce {
    /// Nobody, and there is no header: the node sees where the connection comes from.
    Nothing,
    /// A client.
    Client(HeaderVersion, IpAddr),
}

/// The client's part of a login that it makes itself.
pub trait Exchange: std::fmt::Debug + Send + Sync {
    /// Whether nobody can read what comes from the client.
    fn is_private(&self) -> bool;

    /// Whether the node may be told a wrong answer for a client that gives none: where wrong ones block the account in the
    /// end, a client that only leaves must not be counted.
    fn may_fail_for_it(&self) -> bool;

    /// Whether what it signed is wrong for certain, so that the node need not be told.
    fn is_hopeless(&self, heard: &Heard) -> bool;

    /// Puts a question of the node to the client, as it is, and gives its answer. Not cancel safe.
    ///
    /// # Errors
    /// When the client is gone or breaks the protocol.
    fn ask<'a>(
        &'a self,
        question: &'a [u8],
    ) -> Pin<Box<dyn Future<Output = io::Result<Vec<u8>>> + Send + 'a>>;
}

/// How long a link may be quiet before the system asks whether the node's machine is still there; after twice as long without
/// an answer the link is gone.
const QUIET: Duration = Duration::from_secs(15);

/// The same for a link that is watched closely, which is gone after three times as long.
const QUIET_WATCHED: Duration = Duration::from_secs(1);

/// How long bytes that were sent on a link that is watched closely may go unacknowledged.
const UNACKNOWLEDGED: Duration = Duration::from_secs(4);

const COM_QUIT: &[u8] = &[1];

/// Longest reply to [`Link::command`].
const REPLY_LIMIT: usize = 64 * 1024;

/// A logged-in connection to a node.
#[derive(Debug)]
pub struct Link {
    /// The connection, between two commands.
    pub stream: Stream,
    /// What both sides may use.
    pub capabilities: Capabilities,
    /// What the login told, and what the pool knows of the link. On the heap: nobody looks at it while statements run.
    pub origin: Box<Origin>,
}

/// Where a link came from.
#[derive(Debug)]
pub struct Origin {
    /// What the greeting said.
    pub facts: Facts,
    /// The node's number of this connection.
    pub thread_id: u32,
    /// The payload of the OK packet that ended the login.
    pub ok: Bytes,
    /// What the client answered the node, if it did so itself; for whoever verifies it.
    pub heard: Option<Heard>,
    /// The scramble that the node sent last.
    scramble: Scramble,
    /// The link's place among those of its node; none for links outside the pool, such as the monitor's.
    lease: Option<pool::Lease>,
}

/// Who logs in, and with which settings.
#[derive(Debug, Clone, Copy)]
pub struct Credentials<'a> {
    /// Login name.
    pub user: &'a [u8],
    /// What the client proved to know.
    pub proof: &'a Proof,
    /// Where it answers the node itself.
    pub exchange: Option<&'a dyn Exchange>,
    /// Default schema.
    pub database: Option<&'a [u8]>,
    /// What the client negotiated with Spillway; the link must be able to do all of it.
    pub capabilities: Capabilities,
    /// Collation id.
    pub collation: u8,
    /// The client's `max_allowed_packet`.
    pub max_packet: u32,
    /// Connection attributes, encoded.
    pub attributes: Option<&'a [u8]>,
}

/// Why there is no link.
#[derive(Debug, thiserror::Error)]
pub enum LinkError {
    /// No TCP connection.
    #[error("connect: {0}")]
    Connect(io::Error),
    /// Nothing came in time.
    #[error("no answer within {}", humantime::format_duration(*.0))]
    TimedOut(Duration),
    /// The node was found to serve nobody any more before it answered.
    #[error("the node serves nobody any more")]
    Lost,
    /// The connection broke during the login.
    #[error("login: {0}")]
    Broken(#[from] ReadError),
    /// The node said no; the client may be told in its words.
    #[error("refused: {0}")]
    Refused(ErrPacket),
    /// The node sent nonsense.
    #[error(transparent)]
    Malformed(#[from] Malformed),
    /// The node wants a plugin that Spillway cannot answer with the client's proof.
    #[error("the server asks for authentication plugin {0}, which cannot be answered")]
    Plugin(String),
    /// The node does not remember the account, so that only the password itself logs in.
    #[error("the server asks for the password itself")]
    NeedsPassword,
    /// The client did not answer the node.
    #[error("the client's part of the login: {0}")]
    Client(io::Error),
    /// The client's signature is not right by the key that the node and Spillway know.
    #[error("the client's signature is not right by the stored key")]
    Unsigned,
    /// The client had not answered yet when the node closed the connection.
    #[error("the client's part of the login took longer than the server waits")]
    ClientLate,
    /// The node gave the login another account than the client's.
    #[error("the server gave the account {found} where the client's is {wanted}")]
    OtherAccount {
        /// `CURRENT_USER()` as the accounts that were loaded have it.
        wanted: String,
        /// As the node has it.
        found: String,
    },
    /// TLS is configured, and the node has none. Nothing goes to it without.
    #[error("the server offers no TLS")]
    NoTls,
    /// The node is not who it should be, or TLS with it failed.
    #[error("TLS: {0}")]
    Tls(io::Error),
    /// The node cannot do what was negotiated with the client.
    #[error("the server lacks capabilities that were negotiated with the client: {0:?}")]
    Capabilities(Capabilities),
}

impl From<io::Error> for LinkError {
    fn from(e: io::Error) -> Self {
        Self::Broken(e.into())
    }
}

impl LinkError {
    /// Whether the node could not be reached, broke off, or is about to stop or not ready: another one may do better.
    pub fn is_of_the_node(&self) -> bool {
        const STOPPING: [u16; 3] = [1047, 1053, 1927];
        match self {
            Self::Connect(_) | Self::Broken(_) | Self::TimedOut(_) | Self::Lost => true,
            Self::Refused(error) => STOPPING.contains(&error.code),
            _ => false,
        }
    }
}

/// Dials a node and logs in, all within `limit`, which the client's own part of the login does not count towards.
pub async fn connect(
    approach: &Approach<'_>,
    credentials: &Credentials<'_>,
    limit: Duration,
) -> Result<Link, LinkError> {
    let mut clock = Clock { limit, deadline: Instant::now() + limit };
    let stream = clock.of_node(async { dial(approach).await.map_err(LinkError::Connect) }).await?;
    login(stream, approach, credentials, &mut clock).await
}

/// How long a login waits for its node. It stands still while the client thinks.
struct Clock {
    limit: Duration,
    deadline: Instant,
}

impl Clock {
    /// A step that only the node can delay.
    async fn of_node<T, E>(&self, step: impl Future<Output = Result<T, E>>) -> Result<T, LinkError>
    where
        LinkError: From<E>,
    {
        match timeout_at(self.deadline, step).await {
            Ok(done) => Ok(done?),
            Err(_) => Err(LinkError::TimedOut(self.limit)),
        }
    }

    /// Puts a question of the node to the client. That the node does not wait as long as the client takes says nothing of it.
    async fn of_client(
        &mut self,
        client: &dyn Exchange,
        question: &[u8],
        node: &mut PacketStream<Stream>,
    ) -> Result<Vec<u8>, LinkError> {
        let asked = Instant::now();
        let answer = tokio::select! {
            biased;
            answer = client.ask(question) => answer.map_err(LinkError::Client),
            _ = node.closed(HANDSHAKE_LIMIT) => Err(LinkError::ClientLate),
        };
        self.deadline += asked.elapsed();
        answer
    }
}

async fn dial(approach: &Approach<'_>) -> io::Result<TcpStream> {
    let Approach { address, source, announce, tls: _ } = *approach;
    let mut stream = match source {
        None => TcpStream::connect((address.host.as_str(), address.port)).await?,
        Some(source) => dial_from(address, source).await?,
    };
    stream.set_nodelay(true)?;
    SockRef::from(&stream).set_tcp_keepalive(&keepalive(false))?;
    let header = match announce {
        Announce::Nothing => return Ok(stream),
        Announce::Client(version, client) => write_header(version, client, stream.peer_addr()?)?,
    };
    stream.write_all(&header).await?;
    Ok(stream)
}

fn keepalive(closely: bool) -> TcpKeepalive {
    let (time, interval, retries) =
        if closely { (QUIET_WATCHED, QUIET_WATCHED, 2) } else { (QUIET, QUIET / 3, 3) };
    TcpKeepalive::new().with_time(time).with_interval(interval).with_retries(retries)
}

/// Dials from an address of this machine, every address of the node's name in turn.
async fn dial_from(address: &NodeAddr, source: IpAddr) -> io::Result<TcpStream> {
    let mut failure = io::Error::new(io::ErrorKind::AddrNotAvailable, "no address of the source's family");
    for to in lookup_host((address.host.as_str(), address.port)).await? {
        if to.is_ipv4() != source.is_ipv4() {
            continue;
        }
        let socket = if to.is_ipv4() { TcpSocket::new_v4()? } else { TcpSocket::new_v6()? };
        socket.bind(SocketAddr::new(source, 0))?;
        match socket.connect(to).await {
            Ok(stream) => return Ok(stream),
            Err(e) => failure = e,
        }
    }
    Err(failure)
}

/// Logs in on a fresh connection.
async fn login(
    stream: TcpStream,
    approach: &Approach<'_>,
    who: &Credentials<'_>,
    clock: &mut Clock,
) -> Result<Link, LinkError> {
    let mut packets = PacketStream::new(Stream::Tcp(stream), BytesMut::new(), 0);
    let payload = clock.of_node(packets.read(HANDSHAKE_LIMIT)).await?;
    if payload.first() == Some(&0xFF) {
        return Err(LinkError::Refused(ErrPacket::decode(&payload)?));
    }
    let greeting = Greeting::decode(&payload)?;
    let mut capabilities = link_capabilities(greeting.capabilities, who)?;
    if let Some(trust) = approach.tls {
        if !greeting.capabilities.contains(Capabilities::SSL) {
            return Err(LinkError::NoTls);
        }
        capabilities |= Capabilities::SSL;
        let request = SslRequest { capabilities, max_packet: who.max_packet, collation: who.collation };
        clock.of_node(packets.write(&request.encode())).await?;
        packets = clock.of_node(encrypt(packets, &approach.address.host, trust)).await?;
    }
    let plugin = if greeting.plugin.is_empty() { native::PLUGIN } else { greeting.plugin.as_str() };
    // Where the proof does not fit the server's own plugin, its reply is empty: the server then asks by an auth switch for
    // the account's.
    let auth = whole_password(who.proof, plugin.as_bytes(), approach.tls.is_some())
        .or_else(|| who.proof.reply(plugin.as_bytes(), &greeting.scramble))
        .unwrap_or_default();
    let response = HandshakeResponse {
        capabilities,
        max_packet: who.max_packet,
        collation: who.collation,
        user: who.user.to_vec(),
        auth,
        database: who.database.map(<[u8]>::to_vec),
        plugin: Some(plugin.as_bytes().to_vec()),
        attributes: who.attributes.map(<[u8]>::to_vec),
    };
    clock.of_node(packets.write(&response.encode())).await?;
    let asked = (plugin.as_bytes().to_vec(), greeting.scramble);
    let (ok, heard) =
        authenticate(&mut packets, who, approach.tls.map(|trust| &**trust), asked, clock).await?;
    let (stream, ahead) = packets.into_parts();
    if !ahead.is_empty() {
        return Err(Malformed("bytes behind the OK packet of a login").into());
    }
    let facts = Facts {
        version: greeting.version,
        capabilities: greeting.capabilities,
        collation: greeting.collation,
        sees: None,
        calls: None,
        takes_header: false,
    };
    let (thread_id, scramble) = (greeting.thread_id, greeting.scramble);
    let origin = Box::new(Origin { facts, thread_id, ok, heard, scramble, lease: None });
    Ok(Link { stream, capabilities, origin })
}

/// Goes on under TLS, in which nothing that was sent before counts.
async fn encrypt(
    packets: PacketStream<Stream>,
    host: &str,
    trust: &Trust,
) -> Result<PacketStream<Stream>, LinkError> {
    let sequence = packets.sequence();
    let (stream, ahead) = packets.into_parts();
    if !ahead.is_empty() {
        return Err(Malformed("bytes behind the greeting").into());
    }
    let stream = connect_tls(stream, host, trust).await.map_err(LinkError::Tls)?;
    Ok(PacketStream::new(stream, BytesMut::new(), sequence))
}

/// What the handshake response to the node claims: the client's own set for everything that shapes
/// commands and replies, and this link's needs for the rest.
fn link_capabilities(server: Capabilities, who: &Credentials<'_>) -> Result<Capabilities, LinkError> {
    let wanted = who.capabilities - (Capabilities::PER_HOP - Capabilities::MYSQL);
    let missing = wanted - server - Capabilities::MYSQL;
    if !missing.is_empty() {
        return Err(LinkError::Capabilities(missing));
    }
    let hop = (Capabilities::REQUIRED | Capabilities::RESERVED)
        | (server & (Capabilities::PLUGIN_AUTH | Capabilities::PLUGIN_AUTH_LENENC_DATA));
    let mut capabilities = wanted | hop;
    capabilities.set(Capabilities::CONNECT_WITH_DB, who.database.is_some());
    capabilities.set(
        Capabilities::CONNECT_ATTRS,
        who.attributes.is_some() && server.contains(Capabilities::CONNECT_ATTRS),
    );
    Ok(capabilities)
}

/// Answers the node until it says OK or no. `asked`: the plugin that was answered already, and its scramble. Returns the
/// payload of the OK packet, and what a client answered that the node asked itself.
async fn authenticate(
    packets: &mut PacketStream<Stream>,
    who: &Credentials<'_>,
    tls: Option<&Trust>,
    asked: (Vec<u8>, Scramble),
    clock: &mut Clock,
) -> Result<(Bytes, Option<Heard>), LinkError> {
    let (mut plugin, mut scramble) = asked;
    let mut heard = Heard::default();
    let privacy = Privacy::of(who.exchange.is_some_and(Exchange::is_private), tls);
    // One auth switch is normal, and a few packets of a plugin; an endless row of them is an attack.
    for _ in 0..8 {
        let payload = clock.of_node(packets.read(HANDSHAKE_LIMIT)).await?;
        match payload.first() {
            Some(0) => return Ok((payload, who.exchange.map(|_| heard))),
            Some(0xFF) => return Err(LinkError::Refused(ErrPacket::decode(&payload)?)),
            Some(0xFE) => {
                let switch = AuthSwitch::decode(&payload)?;
                let named = if switch.plugin.is_empty() { b"mysql_old_password" } else { switch.plugin };
                heard.asked(&payload);
                let reply = match who.exchange {
                    Some(client) if auth::may_be_relayed(named, privacy) => {
                        Some(relay(client, &payload, packets, &mut heard, clock).await?)
                    }
                    Some(_) => None,
                    // An account may have several plugins: what this one takes for wrong leads to the next.
                    None => whole_password(who.proof, named, tls.is_some())
                        .or_else(|| who.proof.reply(named, switch.data))
                        .or_else(|| heard.passed_over()),
                };
                let Some(reply) = reply else {
                    return Err(LinkError::Plugin(String::from_utf8_lossy(named).into_owned()));
                };
                clock.of_node(packets.write(&Zeroizing::new(reply))).await?;
                plugin = named.to_vec();
                // Plugins that have none need none.
                scramble = switch.scramble().unwrap_or_default();
            }
            Some(_) if let Some(client) = who.exchange.filter(|_| auth::may_be_relayed(&plugin, privacy)) => {
                heard.asked(&payload);
                let reply = Zeroizing::new(relay(client, &payload, packets, &mut heard, clock).await?);
                clock.of_node(packets.write(&reply)).await?;
            }
            Some(1) => {
                heard.asked(&payload);
                let reply = match heard.passed_over() {
                    Some(wrong) => Some(wrong),
                    None => more(who.proof, &plugin, &scramble, &payload[1..], tls.is_some())?,
                };
                if let Some(reply) = reply {
                    clock.of_node(packets.write(&Zeroizing::new(reply))).await?;
                }
            }
            _ => return Err(Malformed("login reply").into()),
        }
    }
    Err(Malformed("endless authentication").into())
}

/// Puts a question of the node to the client, and gives what the node is to be told.
async fn relay(
    client: &dyn Exchange,
    question: &[u8],
    node: &mut PacketStream<Stream>,
    heard: &mut Heard,
    clock: &mut Clock,
) -> Result<Vec<u8>, LinkError> {
    match clock.of_client(client, question, node).await {
        Ok(answer) => {
            let answer = heard.answered(answer);
            if client.is_hopeless(heard) { Err(LinkError::Unsigned) } else { Ok(answer) }
        }
        Err(error) => {
            // A connection that ends here is a failed handshake to the node, and after `max_connect_errors` of those in a
            // row it would take none of Spillway's any more.
            if let Some(wrong) = heard.wrong()
                && matches!(error, LinkError::Client(_))
                && client.may_fail_for_it()
                && clock.of_node(node.write(&wrong)).await.is_ok()
            {
                let _ = clock.of_node(node.read(HANDSHAKE_LIMIT)).await;
            }
            Err(error)
        }
    }
}

/// The password itself, where the plugin takes it under TLS in place of a reply.
fn whole_password(proof: &Proof, plugin: &[u8], encrypted: bool) -> Option<Vec<u8>> {
    let takes = encrypted && plugin == sha256_password::PLUGIN.as_bytes() && !proof.is_empty();
    takes.then(|| proof.password().map(|password| password.encode().as_bytes().to_vec())).flatten()
}

/// The reply to what a SHA-2 plugin says beyond its scramble; none: it wants none.
///
/// The password itself goes out only under TLS or a key of the node's. The latter keeps it from those who listen on the way,
/// which is as far as a connection without TLS can go.
fn more(
    proof: &Proof,
    plugin: &[u8],
    scramble: &Scramble,
    data: &[u8],
    encrypted: bool,
) -> Result<Option<Vec<u8>>, LinkError> {
    let is_caching = plugin == caching_sha2::PLUGIN.as_bytes();
    if !is_caching && plugin != sha256_password::PLUGIN.as_bytes() {
        return Err(LinkError::Plugin(String::from_utf8_lossy(plugin).into_owned()));
    }
    if is_caching && *data == [caching_sha2::FAST_OK] {
        return Ok(None);
    }
    if is_caching && *data == [caching_sha2::FULL] {
        let password = encrypted.then(|| proof.password()).flatten();
        if matches!(proof, Proof::Fast(_)) {
            return Err(LinkError::NeedsPassword);
        }
        if let Some(password) = password {
            return Ok(Some(password.encode().as_bytes().to_vec()));
        }
        return Ok(Some(vec![caching_sha2::REQUEST_KEY]));
    }
    let password = proof.password().ok_or(Malformed("a key that was not asked for"))?;
    let key = ServerKey::from_pem(data).ok_or(Malformed("the node's public key"))?;
    let hidden = key.encrypt(password, scramble).ok_or(Malformed("a public key that is too short"))?;
    Ok(Some(hidden))
}

impl Link {
    /// A link over a connection that was set up by other means than [`connect`], for tests and measurements.
    pub fn new(stream: Stream, facts: Facts, thread_id: u32, ok: Bytes) -> Self {
        let capabilities = facts.capabilities;
        Self {
            stream,
            capabilities,
            origin: Box::new(Origin {
                facts,
                thread_id,
                ok,
                heard: None,
                scramble: [0; SCRAMBLE],
                lease: None,
            }),
        }
    }

    /// The flags that ended the login.
    pub fn login_status(&self) -> Option<Status> {
        packet::Ok::decode(&self.origin.ok, self.capabilities).ok().map(|ok| ok.status)
    }

    /// Has the system notice within seconds when the node's machine answers no more, or as late as usual.
    ///
    /// `uploading`: more is on its way than the node's machine takes while its server does not read. `TCP_USER_TIMEOUT` would
    /// count the closed window of a busy server as silence, so that only keepalive is right then.
    ///
    /// # Errors
    /// The system does not take it.
    pub fn watch(&self, closely: bool, uploading: bool) -> io::Result<()> {
        let Some(stream) = self.stream.tcp() else { return Ok(()) };
        let socket = SockRef::from(stream);
        let limit = (closely && !uploading).then_some(UNACKNOWLEDGED);
        socket.set_tcp_keepalive(&keepalive(closely))?;
        socket.set_tcp_user_timeout(limit)
    }

    /// Says goodbye; the node closes the connection.
    pub async fn quit(self) {
        let mut packets = PacketStream::new(self.stream, BytesMut::new(), 0);
        let _ = packets.write(COM_QUIT).await;
    }

    /// The same, and waits until the node has closed it, by when it counts it no longer; at most so long.
    pub async fn leave(self, limit: Duration) {
        let mut packets = PacketStream::new(self.stream, BytesMut::new(), 0);
        let closed = async {
            if packets.write(COM_QUIT).await.is_ok() {
                while packets.read(REPLY_LIMIT).await.is_ok() {}
            }
        };
        // A node that takes longer may refuse the next login at the account's limit, no more.
        let _ = timeout(limit, closed).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn credentials(proof: &Proof, capabilities: Capabilities) -> Credentials<'_> {
        Credentials {
            user: b"app",
            proof,
            exchange: None,
            database: None,
            capabilities,
            collation: 45,
            max_packet: 1 << 24,
            attributes: None,
        }
    }

    #[test]
    fn a_link_claims_what_the_client_negotiated_and_no_more() {
        let proof = Proof::from_password(b"");
        let client = Capabilities::REQUIRED | Capabilities::DEPRECATE_EOF | Capabilities::CONNECT_WITH_DB;
        let claimed = link_capabilities(Capabilities::all(), &credentials(&proof, client)).unwrap();
        assert!(claimed.contains(Capabilities::DEPRECATE_EOF | Capabilities::PLUGIN_AUTH));
        assert!(
            !claimed
                .intersects(Capabilities::CONNECT_WITH_DB | Capabilities::SESSION_TRACK | Capabilities::SSL)
        );
    }

    #[test]
    fn a_node_that_can_do_less_than_the_client_expects_is_refused() {
        let proof = Proof::from_password(b"");
        let client = Capabilities::REQUIRED | Capabilities::DEPRECATE_EOF | Capabilities::MYSQL;
        let error = link_capabilities(Capabilities::REQUIRED, &credentials(&proof, client));
        assert!(matches!(error, Err(LinkError::Capabilities(Capabilities::DEPRECATE_EOF))));
    }
}
