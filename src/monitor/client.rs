//! The monitor account's connection to one node.

use std::net::{IpAddr, Ipv4Addr};
use std::time::Duration;

use tokio::time::timeout;

use crate::auth::Proof;
use crate::backend::{self, Announce, Approach, Credentials, Link, LinkError, Row};
use crate::config::{Cluster, HeaderVersion, Node};
use crate::topology::Facts;
use crate::wire::Capabilities;

/// A query that failed, or a node that could not be asked.
#[derive(Debug, thiserror::Error)]
pub(super) enum AskError {
    /// The server answered with an error.
    #[error("{message} (error {code})")]
    Server {
        /// Its number.
        code: u16,
        /// Its text.
        message: String,
    },
    /// The connection could not be made or broke.
    #[error("{0}")]
    Connection(String),
    /// No answer in time.
    #[error("no answer within {}", humantime::format_duration(*.0))]
    TimedOut(Duration),
    /// The answer has another shape than expected.
    #[error("unexpected answer: {0}")]
    Shape(&'static str),
}

impl From<LinkError> for AskError {
    fn from(e: LinkError) -> Self {
        match e {
            LinkError::Refused(e) => Self::Server { code: e.code, message: e.text() },
            LinkError::TimedOut(limit) => Self::TimedOut(limit),
            other => Self::Connection(other.to_string()),
        }
    }
}

/// A logged-in connection of the monitor account.
#[derive(Debug)]
pub(super) struct Client(Link);

impl Client {
    /// Logs in as sessions will, within `limit`.
    pub(super) async fn connect(cluster: &Cluster, node: &Node, limit: Duration) -> Result<Self, AskError> {
        const SETTINGS: &str =
            "SET SESSION sql_mode='', SESSION wait_timeout=600, SESSION time_zone='+00:00', NAMES utf8mb4";
        let mut client = Self(log_in(cluster, node, Announce::Nothing, limit).await?);
        client.rows(SETTINGS, limit).await?;
        Ok(client)
    }

    /// The version text of the greeting.
    pub(super) fn version(&self) -> &str {
        &self.0.origin.facts.version
    }

    /// Where the node is.
    pub(super) fn peer_ip(&self) -> Option<IpAddr> {
        self.0.stream.peer_ip()
    }

    /// All rows of a query, within `limit`. Drop the client after an error that is not the server's, and if the future is
    /// dropped.
    pub(super) async fn rows(&mut self, query: &str, limit: Duration) -> Result<Vec<Row>, AskError> {
        Ok(self.0.rows(query, limit).await?)
    }

    /// All rows of a query with two columns, as name and value.
    pub(super) async fn pairs(
        &mut self,
        query: &str,
        limit: Duration,
    ) -> Result<Vec<(String, String)>, AskError> {
        let rows = self.rows(query, limit).await?;
        rows.iter().map(|row| Ok((text(row, 0)?, text(row, 1)?))).collect()
    }

    /// The single value of a query, as text.
    pub(super) async fn value(&mut self, query: &str, limit: Duration) -> Result<String, AskError> {
        let rows = self.rows(query, limit).await?;
        rows.first().map_or(Err(AskError::Shape("no row")), |row| text(row, 0))
    }

    /// Says goodbye, so that the server counts no aborted client.
    pub(super) async fn close(self) {
        let _ = timeout(Duration::from_secs(1), self.0.quit()).await;
    }
}

/// A column as text; NULL is empty, and bytes that are no UTF-8 are replaced.
pub(super) fn text(row: &Row, column: usize) -> Result<String, AskError> {
    let value = row.value(column).ok_or(AskError::Shape("missing column"))?;
    Ok(value.map_or_else(String::new, |bytes| String::from_utf8_lossy(bytes).into_owned()))
}

/// Logs in as sessions will, and returns what the greeting said together with the local address of that connection.
pub(super) async fn own_login(cluster: &Cluster, node: &Node) -> Result<(Facts, Option<IpAddr>), LinkError> {
    let link = log_in(cluster, node, Announce::Nothing, cluster.connect_timeout).await?;
    let mut facts = link.origin.facts.clone();
    let local = link.stream.local_ip();
    // The node's own word, where it is an address; a way that changes addresses may lie between.
    let (link, user) = link.value("SELECT USER()", cluster.connect_timeout).await?;
    let user = String::from_utf8_lossy(&user).into_owned();
    let host = user.rsplit_once('@').map_or("", |(_, host)| host);
    facts.sees = host.parse::<IpAddr>().ok().map(|ip| ip.to_canonical());
    if facts.sees.is_none() {
        facts.sees = local;
        facts.calls = (!host.is_empty()).then(|| host.to_owned());
    }
    link.quit().await;
    Ok((facts, local))
}

/// An address that belongs to nobody: the first of those for documentation (RFC 5737).
const NOBODY: IpAddr = IpAddr::V4(Ipv4Addr::new(192, 0, 2, 1));

/// Whether a node takes a PROXY header: one that names an address of nobody must make the node see that address.
///
/// # Errors
/// Why it does not, or why that cannot be told.
pub(super) async fn takes_header(
    cluster: &Cluster,
    node: &Node,
    version: HeaderVersion,
) -> Result<(), String> {
    match log_in(cluster, node, Announce::Client(version, NOBODY), cluster.connect_timeout).await {
        Ok(link) => {
            let asked = link.value("SELECT USER()", cluster.connect_timeout).await;
            let (link, seen) = asked.map_err(|e| e.to_string())?;
            link.quit().await;
            let seen = String::from_utf8_lossy(&seen);
            if seen.ends_with(&format!("@{NOBODY}")) { Ok(()) } else { Err(format!("it sees {seen}")) }
        }
        // The account may well be closed to that address; what counts is that the node saw it.
        Err(LinkError::Refused(error)) if error.text().contains(&NOBODY.to_string()) => Ok(()),
        Err(error) => Err(error.to_string()),
    }
}

async fn log_in(
    cluster: &Cluster,
    node: &Node,
    announce: Announce,
    limit: Duration,
) -> Result<Link, LinkError> {
    let proof = Proof::from_password(cluster.monitor.secret.expose().as_bytes());
    let credentials = Credentials {
        user: cluster.monitor.user.as_bytes(),
        proof: &proof,
        exchange: None,
        database: None,
        capabilities: Capabilities::REQUIRED,
        collation: 45,
        max_packet: 1 << 24,
        attributes: None,
    };
    let approach = Approach {
        address: &node.address,
        source: cluster.source_address,
        tls: cluster.tls.as_ref().map(|tls| &tls.trust),
        announce,
    };
    backend::connect(&approach, &credentials, limit).await
}
