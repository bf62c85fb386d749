//! From the accepted socket to the first link: greeting, response, authentication, routing.

use std::sync::Arc;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use tracing::debug;

use super::admission::{Asked, Credential, FirstReply};
use super::limits::Places;
use super::placing::Placed;
use super::relay::Relay;
use super::state::SessionState;
use super::{Session, is_open, linger};
use crate::auth::{self, caching_sha2, native};
use crate::config::{NodeTls, Tls};
use crate::fault::{Blame, Fault};
use crate::grants::Product;
use crate::net::{PacketStream, ReadError, Stream, accept_tls};
use crate::routing;
use crate::wire::handshake::{Greeting, HandshakeResponse, Scramble, SslRequest};
use crate::wire::packet::{Err as ErrPacket, vouching};
use crate::wire::{Capabilities, Status};

/// Longest packet of the connection phase that is read from a client. The servers take as much in
/// connection attributes alone.
pub(super) const HANDSHAKE_LIMIT: usize = 128 * 1024;

/// Room for most responses, so that they come in one read.
const RESPONSE: usize = 1024;

/// The version that is told while no node of the service has ever answered.
const UNKNOWN_VERSION: &str = concat!("5.5.5-10.11.0-Spillway-", env!("CARGO_PKG_VERSION"));

/// Collation of the greeting while no node has ever answered: `utf8mb4_general_ci`.
const UNKNOWN_COLLATION: u8 = 45;

/// What a failed read of the connection phase means.
pub(super) fn read_fault(e: ReadError) -> Fault {
    match e {
        ReadError::Closed => Fault::client_gone("closed during login"),
        ReadError::Io(e) => Fault::client_gone(e),
        ReadError::OutOfOrder { .. } => Fault::told(
            Blame::Client,
            "out_of_order",
            e.to_string(),
            ErrPacket::new(1156, b"08S01", "Got packets out of order"),
        ),
        ReadError::TooLong(_) => Fault::bad_handshake(e),
    }
}

/// What a client says to the greeting.
enum First {
    /// Its handshake response.
    Response(Bytes),
    /// It responds under TLS.
    Tls(Arc<Tls>),
}

impl Session {
    /// Leads a client to its first link.
    ///
    /// Not cancel safe: the client is lost when the future is dropped.
    pub(super) async fn handshake(
        &mut self,
        mut stream: Stream,
    ) -> Result<(Box<Relay>, Box<Credential>), Fault> {
        if let Err(fault) = self.may_greet() {
            // Who is sent away takes nobody's place while it reads why.
            self.places = Places::default();
            if let Some(reply) = &fault.reply {
                let mut out = BytesMut::new();
                reply.put_before_greeting(&mut out);
                linger(&mut stream, &out).await;
            }
            self.shared.metrics.login_refused(fault.label);
            return Err(fault);
        }
        let mut packets = PacketStream::new(stream, BytesMut::with_capacity(RESPONSE), 0);
        let attempt = match self.greet(&mut packets).await {
            Ok((greeting, First::Response(response))) => {
                self.log_in(&mut packets, greeting, Some(response)).await
            }
            Ok((greeting, First::Tls(tls))) => match self.encrypt(packets, &tls).await {
                Ok(encrypted) => {
                    packets = encrypted;
                    self.log_in(&mut packets, greeting, None).await
                }
                Err(fault) => {
                    // TLS has its own words for that, and they were said.
                    self.shared.metrics.login_refused(fault.label);
                    return Err(fault);
                }
            },
            Err(fault) => Err(fault),
        };
        match attempt {
            Ok((credential, placed)) => {
                // Operators see where the session is by the time its client goes on.
                let link = self.reach(&credential, placed);
                let schema = credential.database.clone();
                self.registered.entry.set_place(|place| {
                    place.schema = schema.as_deref().map(|s| String::from_utf8_lossy(s).into_owned());
                });
                let ok = vouching(&link.origin.ok, credential.vouching.as_deref(), link.capabilities);
                packets.write(&ok).await.map_err(Fault::client_gone)?;
                let (stream, ahead) = packets.into_parts();
                let state = SessionState::after_login(schema).with_collation(credential.collation);
                self.registered.entry.set_waits(true);
                let follow = self.follow(&link);
                // What was needed for the login only is not kept.
                let credential = Box::new(Credential { vouching: None, fast: None, ..credential });
                let mut relay = Box::new(Relay::new(stream, ahead, link, state, follow));
                relay.count(self.allowance(&credential));
                Ok((relay, credential))
            }
            Err(fault) => {
                self.shared.metrics.login_refused(fault.label);
                self.places = Places::default();
                let sequence = packets.sequence();
                let (mut stream, _) = packets.into_parts();
                if let Some(reply) = &fault.reply {
                    let mut out = BytesMut::new();
                    reply.put(&mut out, sequence);
                    linger(&mut stream, &out).await;
                }
                Err(fault)
            }
        }
    }

    /// What can refuse a client before it is greeted, as on the servers.
    fn may_greet(&mut self) -> Result<(), Fault> {
        if !is_open(&self.shared.lifecycle) {
            return Err(Fault::shutdown());
        }
        if let Some(max) = self.service.max_sessions {
            self.places.service = self.shared.counts.enter(&self.service.name, max.get());
            if self.places.service.is_none() {
                let reason = format!("service {} takes {max} sessions", self.service.name);
                return Err(Fault::limit("max_sessions", reason));
            }
        }
        if let Some(max) = self.service.max_sessions_per_address {
            let client = &self.registered.entry.client;
            self.places.address = self.shared.counts.enter_address(&self.service.name, client, max.get());
            if self.places.address.is_none() {
                let reason = format!("service {} takes {max} sessions from one address", self.service.name);
                return Err(Fault::limit("max_sessions_per_address", reason));
            }
        }
        let accounts = self.shared.accounts.load();
        let mut product = "MariaDB";
        let mut host = None;
        for cluster in self.service.clusters() {
            let Some(of_cluster) = accounts.get(cluster) else { continue };
            let client = self.identity(cluster, of_cluster);
            if of_cluster.snapshot.any_row_matches(&client) {
                return Ok(());
            }
            product = product_name(of_cluster.snapshot.product());
            host.get_or_insert_with(|| client.host_or_ip().into_owned());
        }
        match host {
            Some(host) => Err(Fault::host_not_allowed(&host, product)),
            None => Err(Fault::unavailable(
                "no_accounts",
                format!("no accounts of any cluster of service {} are loaded yet", self.service.name),
            )),
        }
    }

    /// Sends the greeting and reads what the client says to it.
    async fn greet(&self, packets: &mut PacketStream<Stream>) -> Result<(Greeting, First), Fault> {
        let scramble =
            auth::scramble().map_err(|e| Fault::refused("no_random", format!("no random numbers: {e}")))?;
        let greeting = self.greeting(scramble);
        packets.write(&greeting.encode()).await.map_err(Fault::client_gone)?;
        let first = packets.read(HANDSHAKE_LIMIT).await.map_err(read_fault)?;
        // Without TLS to offer, the claim of a client means nothing, as on the servers.
        let Some(tls) = &self.service.tls else { return Ok((greeting, First::Response(first))) };
        if SslRequest::decode(&first).map_err(Fault::bad_handshake)?.is_some() {
            return Ok((greeting, First::Tls(Arc::clone(tls))));
        }
        if tls.required {
            return Err(Fault::insecure_transport());
        }
        Ok((greeting, First::Response(first)))
    }

    /// Goes on under TLS. What the client sent behind its request belongs to TLS, and is never read as packets.
    async fn encrypt(
        &mut self,
        packets: PacketStream<Stream>,
        tls: &Tls,
    ) -> Result<PacketStream<Stream>, Fault> {
        let sequence = packets.sequence();
        let (stream, ahead) = packets.into_parts();
        let (stream, encryption) = accept_tls(stream, ahead, &tls.identity)
            .await
            .map_err(|e| Fault::silent(Blame::Client, "tls_failed", format!("TLS handshake: {e}")))?;
        self.encryption = Some(Box::new(encryption.clone()));
        self.registered.entry.set_place(|place| place.tls = Some(encryption));
        Ok(PacketStream::new(stream, BytesMut::with_capacity(RESPONSE), sequence))
    }

    /// Judges the response, which is read here unless it came in place of a request for TLS, and opens a link.
    ///
    /// Only this one packet says what the client can do: what it claimed before TLS may be anybody's words.
    async fn log_in(
        &mut self,
        packets: &mut PacketStream<Stream>,
        greeting: Greeting,
        response: Option<Bytes>,
    ) -> Result<(Credential, Placed), Fault> {
        let payload = match response {
            Some(response) => response,
            None => packets.read(HANDSHAKE_LIMIT).await.map_err(read_fault)?,
        };
        if packets.has_read_ahead() {
            // Nothing may follow the response before it is answered.
            return Err(Fault::bad_handshake("bytes behind the handshake response"));
        }
        let response =
            HandshakeResponse::decode(&payload, greeting.capabilities).map_err(Fault::bad_handshake)?;
        if !response.capabilities.contains(Capabilities::SECURE_CONNECTION) {
            return Err(Fault::client_too_old());
        }
        // A client that names no plugin answers the greeting's; one that knows of none answers as before there were any.
        let knows_plugins = response.capabilities.contains(Capabilities::PLUGIN_AUTH);
        let plugin = response.plugin.filter(|name| !name.is_empty()).unwrap_or_else(|| {
            if knows_plugins { greeting.plugin.clone().into_bytes() } else { native::PLUGIN.into() }
        });
        let first = FirstReply { plugin, scramble: greeting.scramble, reply: response.auth };
        let mut credential = self
            .authenticate(
                packets,
                Asked {
                    user: response.user,
                    database: response.database,
                    capabilities: response.capabilities,
                    collation: response.collation,
                    max_packet: response.max_packet,
                    attributes: response.attributes,
                    first_reply: Some(first),
                },
            )
            .await?;
        debug!(session = self.registered.entry.id.0, cluster = %credential.cluster, "client authenticated");
        // Whom it proves to be only now does not count before.
        let relayed = matches!(credential.proof, auth::Proof::Relayed);
        if !relayed {
            self.count_user(&credential.user)?;
        }
        let placed = self.place_client(packets, &mut credential).await?;
        if relayed {
            self.count_user(&credential.user)?;
        }
        Ok((credential, placed))
    }

    /// Counts the session for its user, whom it has proven to be, in place of the one before.
    pub(super) fn count_user(&mut self, user: &[u8]) -> Result<(), Fault> {
        let Some(max) = self.service.max_sessions_per_user else { return Ok(()) };
        self.places.user = None;
        self.places.user = self.shared.counts.enter_user(&self.service.name, user, max.get());
        if self.places.user.is_some() { Ok(()) } else { Err(Fault::too_many_of_user(user)) }
    }

    /// What the service promises: the version of its default cluster, and what all its nodes can do.
    fn greeting(&self, scramble: Scramble) -> Greeting {
        let topology = self.shared.topology.load();
        let mut capabilities = Capabilities::RELAYED;
        let mut version = None;
        let mut collation = UNKNOWN_COLLATION;
        let default = routing::default_cluster(&self.service.route);
        let mut any_is_mysql = false;
        for name in self.service.clusters() {
            let Some(cluster) = topology.cluster(name.as_str()) else { continue };
            for facts in cluster.nodes.iter().filter_map(|n| n.facts.as_ref()) {
                any_is_mysql |= facts.capabilities.contains(Capabilities::MYSQL);
                capabilities &= facts.capabilities | Capabilities::MYSQL;
            }
            let speaker = cluster.writer().or_else(|| cluster.nodes.iter().find(|n| n.facts.is_some()));
            if let Some(facts) = speaker.and_then(|n| n.facts.as_ref())
                && (version.is_none() || default == Some(name))
            {
                version = Some(facts.version.clone());
                collation = facts.collation;
            }
        }
        if any_is_mysql {
            capabilities -= Capabilities::MARIADB;
        } else {
            capabilities -= Capabilities::MYSQL;
        }
        capabilities.set(Capabilities::SSL, self.service.tls.is_some());
        Greeting {
            version: version.unwrap_or_else(|| UNKNOWN_VERSION.to_owned()),
            thread_id: self.registered.entry.number(),
            scramble,
            capabilities: capabilities | Capabilities::REQUIRED | Capabilities::PLUGIN_AUTH,
            collation,
            status: Status::AUTOCOMMIT,
            plugin: if any_is_mysql { caching_sha2::PLUGIN } else { native::PLUGIN }.to_owned(),
        }
    }

    /// The address that links of this cluster come from, and the TLS that they have.
    pub(super) fn way_out(
        &self,
        cluster: &crate::ids::ClusterName,
    ) -> (Option<std::net::IpAddr>, Option<Arc<NodeTls>>) {
        let config = self.shared.config.load();
        config.clusters.get(cluster).map_or((None, None), |c| (c.source_address, c.tls.clone()))
    }

    /// How long a link of this cluster may take.
    pub(super) fn connect_timeout(&self, cluster: &crate::ids::ClusterName) -> Duration {
        const UNCONFIGURED: Duration = Duration::from_secs(3);
        self.shared.config.load().clusters.get(cluster).map_or(UNCONFIGURED, |c| c.connect_timeout)
    }
}

/// The product's name as its servers write it in messages.
fn product_name(product: &Product) -> &'static str {
    match product {
        Product::MariaDb { .. } => "MariaDB",
        Product::MySql { .. } | Product::Unsupported { .. } => "MySQL",
    }
}
