//! Whether a writer comes to rest, as a lock on it says: anybody who may log in can take a lock of any name, and whoever dies
//! without a word keeps it until the server notices.

use std::time::{Duration, Instant};

use tracing::warn;

use super::client::{AskError, Client};
use crate::config::{Account, Cluster, Node};

/// How much longer than its steps may take the change of a writer may hold the lock.
const SPARE: Duration = Duration::from_secs(5);

/// The lock, since it was seen first in these hands.
#[derive(Debug)]
pub(super) struct Quiescence {
    holder: u64,
    since: Instant,
    /// Whether the account of that connection changes writers.
    is_trusted: bool,
}

impl Quiescence {
    /// Finds out who has the lock. None: the node does not tell now.
    pub(super) async fn of(
        holder: u64,
        cluster: &Cluster,
        node: &Node,
        client: &mut Option<Client>,
    ) -> Option<Self> {
        let account = cluster.handover.account.as_ref();
        let told = match user_of(holder, cluster, client).await {
            // An account sees its own connections without any privilege.
            Ok(None) => match account {
                Some(account) => user_told_to(account, holder, cluster, node).await,
                None => Ok(None),
            },
            told => told,
        };
        let user = told.ok()?;
        let is_trusted = user.as_ref().is_some_and(|user| {
            *user == cluster.monitor.user || account.is_some_and(|account| *user == account.user)
        });
        if !is_trusted {
            let (cluster, node, user) = (&cluster.name, &node.name, user.as_deref().unwrap_or("unknown"));
            warn!(%cluster, %node, connection = holder, user, "somebody who changes no writers has the lock for that");
        }
        Some(Self { holder, since: Instant::now(), is_trusted })
    }

    /// Whether it is in the hands of that connection.
    pub(super) fn is_of(&self, holder: u64) -> bool {
        self.holder == holder
    }

    /// Whether nothing new is to begin on the node because of it.
    pub(super) fn counts(&self, cluster: &Cluster) -> bool {
        let handover = &cluster.handover;
        let longest =
            handover.running_transactions_timeout.unwrap_or_default() + handover.freeze_timeout + SPARE;
        self.is_trusted && self.since.elapsed() < longest
    }
}

/// The user of a connection, as far as the account of `client` may know. That is gone after an error that is not the server's.
async fn user_of(
    connection: u64,
    cluster: &Cluster,
    client: &mut Option<Client>,
) -> Result<Option<String>, AskError> {
    let query = format!("SELECT USER FROM information_schema.PROCESSLIST WHERE ID = {connection}");
    let Some(mut asked) = client.take() else { return Ok(None) };
    let told = asked.value(&query, cluster.monitor.timeout).await;
    if matches!(told, Ok(_) | Err(AskError::Server { .. } | AskError::Shape(_))) {
        *client = Some(asked);
    }
    match told {
        Ok(user) => Ok(Some(user)),
        Err(AskError::Server { .. } | AskError::Shape(_)) => Ok(None),
        Err(e) => Err(e),
    }
}

/// The same for the account that changes writers.
async fn user_told_to(
    account: &Account,
    connection: u64,
    cluster: &Cluster,
    node: &Node,
) -> Result<Option<String>, AskError> {
    let mut operator = cluster.clone();
    operator.monitor.user.clone_from(&account.user);
    operator.monitor.secret = account.secret.clone();
    let mut client = match Client::connect(&operator, node, cluster.monitor.timeout).await {
        Ok(client) => Some(client),
        Err(AskError::Server { .. }) => return Ok(None),
        Err(e) => return Err(e),
    };
    let told = user_of(connection, cluster, &mut client).await;
    if let Some(client) = client {
        client.close().await;
    }
    told
}
