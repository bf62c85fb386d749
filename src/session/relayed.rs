//! A client that answers a node itself, and what it signed for it: verified from the stored key of its account, too.
//!
//! The node is told what the client signed, and has the last word when it says no: only it knows a key that was set a moment
//! ago, and only it counts wrong passwords. Where it says yes, the signature must be right by a row of the account as well.
//!
//! With `parsec` a wrong signature ends here, where the node's salt shows that it has the stored key: a server counts none of
//! those for the account, but takes them for failed handshakes of Spillway, which it blocks after some.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite};
use tracing::warn;

use super::Session;
use super::admission::{Claimed, Credential, denied};
use super::backoff::{Attempt, Failed, Turn, Who};
use super::exchange::Shown;
use super::handshake::HANDSHAKE_LIMIT;
use crate::accounts::ClusterAccounts;
use crate::auth::{self, Heard, Proof, parsec};
use crate::backend::Exchange;
use crate::config::Backoff;
use crate::fault::Fault;
use crate::grants::{Account, Found};
use crate::ids::NodeName;
use crate::net::PacketStream;

/// How often the accounts are looked at again when a node took what the stored key does not verify, and the pause before
/// each further look: long enough for one reading that began after the login, whoever had them read just before it, and for
/// the node's own accounts to be told from those of a replica that has to catch up.
const LOOKS: usize = 50;
const PAUSE: Duration = Duration::from_millis(100);

/// A client that answers a node itself.
///
/// From its answer to the node's next words its login is being looked at, as others are while they are verified here.
#[derive(Debug)]
pub(super) struct Relayed<'p, S> {
    client: tokio::sync::Mutex<&'p mut PacketStream<S>>,
    is_private: bool,
    may_fail_for_it: bool,
    /// Its account as the cluster and its nodes have it, where that has one salted key and no other way in.
    salted: Vec<Arc<Account>>,
    failed: Arc<Failed>,
    attempt: Attempt<'p>,
    backoff: Backoff,
    looked_at: std::sync::Mutex<LookedAt>,
}

/// Whether a client's answer is before the node.
#[derive(Debug)]
enum LookedAt {
    No,
    Now { _turn: Turn },
    HeldBack(Who),
}

impl<'p, S> Relayed<'p, S> {
    pub(super) fn new(
        packets: &'p mut PacketStream<S>,
        session: &Session,
        credential: &Credential,
        attempt: Attempt<'p>,
    ) -> Self {
        let accounts = session.shared.accounts.cluster(&credential.cluster);
        let counts = accounts.is_some_and(|a| a.snapshot.counts_failures(&credential.account));
        Self {
            client: tokio::sync::Mutex::new(packets),
            is_private: session.is_private(),
            may_fail_for_it: !counts,
            salted: session.salted(credential),
            failed: Arc::clone(&session.shared.failed),
            attempt,
            backoff: session.backoff(),
            looked_at: std::sync::Mutex::new(LookedAt::No),
        }
    }

    /// Who was held back, where that is why the client's answer never came to the node.
    pub(super) fn held_back(&self) -> Option<Who> {
        match &*self.looked_at.lock().unwrap_or_else(std::sync::PoisonError::into_inner) {
            LookedAt::HeldBack(who) => Some(who.clone()),
            LookedAt::No | LookedAt::Now { .. } => None,
        }
    }

    fn set(&self, looked_at: LookedAt) {
        *self.looked_at.lock().unwrap_or_else(std::sync::PoisonError::into_inner) = looked_at;
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin + Send + std::fmt::Debug> Exchange for Relayed<'_, S> {
    fn is_private(&self) -> bool {
        self.is_private
    }

    fn may_fail_for_it(&self) -> bool {
        self.may_fail_for_it
    }

    fn is_hopeless(&self, heard: &Heard) -> bool {
        let mut ways = self.salted.iter().flat_map(|account| &account.authentication);
        ways.any(|way| heard.is_hopeless(&way.plugin, &way.string))
    }

    fn ask<'a>(
        &'a self,
        question: &'a [u8],
    ) -> Pin<Box<dyn Future<Output = io::Result<Vec<u8>>> + Send + 'a>> {
        Box::pin(async move {
            // Nobody waits for this client.
            self.set(LookedAt::No);
            let mut packets = self.client.lock().await;
            packets.write(question).await?;
            let answer = packets.read(HANDSHAKE_LIMIT).await.map_err(io::Error::other)?;
            match self.failed.turn(&self.attempt, &self.backoff).await {
                Ok(turn) => self.set(LookedAt::Now { _turn: turn }),
                Err(who) => {
                    self.set(LookedAt::HeldBack(who));
                    return Err(io::Error::other("held back after too many failed logins"));
                }
            }
            Ok(answer.to_vec())
        })
    }
}

impl Session {
    /// Makes sure that what the client signed is right by a stored key of its account, after the node has taken it.
    ///
    /// Where it is not, the rows that it was judged by are older than what the node knows: they are read again, and the
    /// login is judged by them anew. It is refused if they still have another key, whatever the node says.
    ///
    /// Not before the turn of the login is over: this may take seconds.
    pub(super) async fn confirm(
        &self,
        credential: &mut Credential,
        node: &NodeName,
        heard: &Heard,
    ) -> Result<(), Fault> {
        let accounts = self.accounts_of(&credential.cluster)?;
        if self.is_confirmed(credential, &accounts, node, heard) {
            if accounts.snapshot.digest() == credential.judged_by {
                return Ok(());
            }
            // They were read again while the client answered.
            return self.judge_relayed_again(credential, &accounts, node).await;
        }
        for look in 0..LOOKS {
            if look > 0 {
                tokio::time::sleep(PAUSE).await;
            }
            let known = self.accounts_of(&credential.cluster)?.snapshot.digest();
            self.shared.accounts.doubt(&credential.cluster, known).await;
            let accounts = self.accounts_of(&credential.cluster)?;
            if self.is_confirmed(credential, &accounts, node, heard) {
                return self.judge_relayed_again(credential, &accounts, node).await;
            }
        }
        warn!(
            cluster = %credential.cluster,
            %node,
            account = %credential.account,
            "the node let a client in whose signature is not right by the stored key"
        );
        let accounts = self.accounts_of(&credential.cluster)?;
        let client = self.identity(&credential.cluster, &accounts);
        let reason = format!(
            "node {node} took a signature that the stored key of {} does not verify",
            credential.account
        );
        Err(denied(&credential.user, &client.host_or_ip(), credential.said_of_password(), &reason))
    }

    /// The client's account in all accounts that a node of the cluster may decide by, where its only way is `parsec`; none for
    /// any other: the node asks on after a wrong answer.
    fn salted(&self, credential: &Credential) -> Vec<Arc<Account>> {
        let privacy = self.privacy(&credential.cluster);
        let salted = |accounts: &ClusterAccounts| {
            let client = self.identity(&credential.cluster, accounts);
            let Found::Account(account) = accounts.snapshot.find(&credential.user, &client) else {
                return None;
            };
            let mut ways = account.authentication.iter().filter(|a| auth::is_relayed(&a.plugin, privacy));
            ways.next().filter(|way| way.plugin == parsec::PLUGIN)?;
            ways.next().is_none().then(|| Arc::clone(account))
        };
        let topology = self.shared.topology.load();
        let nodes = topology.cluster(credential.cluster.as_str()).map_or(&[][..], |cluster| &cluster.nodes);
        let known = nodes.iter().map(|node| self.shared.accounts.of_node(&credential.cluster, &node.name));
        let mut rows: Vec<_> = known.flatten().filter_map(|accounts| salted(&accounts)).collect();
        rows.dedup_by(|a, b| Arc::ptr_eq(a, b));
        rows
    }

    /// Whether a row of the client's account has the key to what it signed, of the cluster's accounts or those that the node
    /// is known to have of its own. Nothing can be said where the account has a way whose answers are no signatures.
    fn is_confirmed(
        &self,
        credential: &Credential,
        accounts: &ClusterAccounts,
        node: &NodeName,
        heard: &Heard,
    ) -> bool {
        let privacy = self.privacy(&credential.cluster);
        let by = |accounts: &ClusterAccounts| {
            let client = self.identity(&credential.cluster, accounts);
            let Found::Account(account) = accounts.snapshot.find(&credential.user, &client) else {
                return false;
            };
            let mut ways = account.authentication.iter().filter(|a| auth::is_relayed(&a.plugin, privacy));
            ways.any(|way| !auth::is_signed(&way.plugin) || heard.is_right(&way.plugin, &way.string))
        };
        let own = self.shared.accounts.of_node(&credential.cluster, node);
        by(accounts) || own.is_some_and(|own| by(&own))
    }

    /// Judges a login by accounts that are newer than those that it was judged by before.
    async fn judge_relayed_again(
        &self,
        credential: &mut Credential,
        accounts: &ClusterAccounts,
        node: &NodeName,
    ) -> Result<(), Fault> {
        self.learn_name(&credential.cluster, accounts, &credential.user).await;
        let (cluster, user) = (&credential.cluster, &credential.user);
        let claimed = Claimed::Shown(&Shown::Relayed);
        let admitted = self.judge(cluster, accounts, user, credential.capabilities, claimed).await?;
        // The link was asked for its account when it was made.
        if admitted.current_user != credential.current_user || !matches!(admitted.proof, Proof::Relayed) {
            let client = self.identity(cluster, accounts);
            let reason = "the account was replaced by another one during the login";
            return Err(denied(user, &client.host_or_ip(), credential.said_of_password(), reason));
        }
        let again = Credential {
            account: admitted.account,
            judged_by: admitted.judged_by,
            view: admitted.view,
            reuse: admitted.reuse,
            then: admitted.then,
            ..credential.clone()
        };
        self.fits_node(&again, node)?;
        *credential = again;
        Ok(())
    }
}
