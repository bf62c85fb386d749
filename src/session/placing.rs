//! The node that an admitted login goes to, and its link there.

use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use tokio::time::timeout;
use tracing::debug;

use super::account_limits::{Allowance, OfAccount, Who, over_limit};
use super::admission::{Credential, denied, held_back};
use super::backoff::Attempt;
use super::handshake::HANDSHAKE_LIMIT;
use super::hold::Patience;
use super::registry::Ending;
use super::relayed::Relayed;
use super::{Session, revoked};
use crate::accounts::{ClusterAccounts, View};
use crate::auth::{Proof, caching_sha2, native};
use crate::backend::{Announce, Approach, Claim, Exchange, LeaseError, Link, LinkError, Reuse};
use crate::fault::{Blame, Fault, PasswordUse};
use crate::grants::{HostName, MaskedHost, Product};
use crate::ids::{ClusterName, NodeName};
use crate::net::PacketStream;
use crate::topology::{Evidence, Facts, LoadGuard, Node};
use crate::wire::handshake::Scramble;
use crate::wire::packet;

/// How often a node is chosen again when the one before could not be reached.
pub(super) const ATTEMPTS: usize = 3;

/// The label of a login whose node has to have the password.
const NEEDS_PASSWORD: &str = "needs_password";

/// The label of a login whose client did not answer the node.
pub(super) const CLIENT_FAILED: &str = "client_failed";

/// A link, and where it leads.
pub(super) struct Placed {
    pub(super) cluster: ClusterName,
    pub(super) node: NodeName,
    pub(super) link: Link,
    pub(super) load: LoadGuard,
    /// The session's place among those of its account.
    pub(super) counted: Option<OfAccount>,
}

impl Session {
    /// Chooses a node and logs in there as the client's user, who is still on the other end of `packets`.
    pub(super) async fn place_client<S>(
        &self,
        packets: &mut PacketStream<S>,
        credential: &mut Credential,
    ) -> Result<Placed, Fault>
    where
        S: tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin + Send + std::fmt::Debug,
    {
        if let Some(scramble) = &credential.fast {
            return self.place_fast(packets, credential, scramble).await;
        }
        if !matches!(credential.proof, Proof::Relayed) {
            return tokio::select! {
                placed = self.place_counted(credential) => placed,
                // Whoever goes while it waits for a node is not to take the place of others.
                gone = packets.closed(HANDSHAKE_LIMIT) => Err(Fault::client_gone(gone)),
            };
        }
        let entry = Arc::clone(&self.registered.entry);
        let (cluster, user) = (credential.cluster.clone(), credential.user.clone());
        let attempt = Attempt { client: &entry.client, cluster: &cluster, user: &user };
        let exchange = Relayed::new(packets, self, credential, attempt);
        let placed = match self.place(credential, Some(&exchange)).await {
            Ok(mut placed) => {
                let heard = placed.link.origin.heard.take().unwrap_or_default();
                // Others may be looked at now.
                drop(exchange);
                self.confirm(credential, &placed.node, &heard).await.map(|()| placed)
            }
            Err(fault) => {
                if let Some(who) = exchange.held_back() {
                    let host = accounts_host(self, credential);
                    return Err(held_back(&who, &credential.user, &host, PasswordUse::Given));
                }
                Err(fault)
            }
        };
        match placed {
            Ok(placed) => {
                self.shared.failed.succeeded(&attempt, Instant::now());
                credential.then.clone().map_or(Ok(()), Err)?;
                // Whom the client proves to be only there does not count before.
                Ok(Placed { counted: self.count_account(credential)?, ..placed })
            }
            Err(fault) => {
                self.count_failure(&attempt, &fault);
                Err(fault)
            }
        }
    }

    /// The same for a client whose fast reply was right: it is told so when a node has taken it, and asked for the password
    /// when the node has forgotten the account.
    async fn place_fast<S>(
        &self,
        packets: &mut PacketStream<S>,
        credential: &Credential,
        scramble: &Scramble,
    ) -> Result<Placed, Fault>
    where
        S: tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin,
    {
        let counted = self.count_account(credential)?;
        let placed = tokio::select! {
            placed = self.place(credential, None) => placed,
            gone = packets.closed(HANDSHAKE_LIMIT) => Err(Fault::client_gone(gone)),
        };
        let placed = match placed {
            Ok(placed) => {
                packets.write(&[1, caching_sha2::FAST_OK]).await.map_err(Fault::client_gone)?;
                Ok(placed)
            }
            Err(fault) if fault.label == NEEDS_PASSWORD => {
                let shown = self.ask_in_full(packets, scramble).await?;
                let Some(proof) = self.verify(&shown, Some(&credential.account)).await else {
                    let host = accounts_host(self, credential);
                    let reason = format!("wrong password for {}", credential.account);
                    let fault = denied(&credential.user, &host, shown.password_use(), &reason);
                    let entry = Arc::clone(&self.registered.entry);
                    let (client, cluster) = (&entry.client, &credential.cluster);
                    self.count_failure(&Attempt { client, cluster, user: &credential.user }, &fault);
                    return Err(fault);
                };
                self.place(&Credential { proof, fast: None, ..credential.clone() }, None).await
            }
            Err(fault) => Err(fault),
        };
        Ok(Placed { counted, ..placed? })
    }

    /// The same for a login that is proven already: it counts for its account whatever the node says of its schema.
    pub(super) async fn place_counted(&self, credential: &Credential) -> Result<Placed, Fault> {
        let counted = self.count_account(credential)?;
        Ok(Placed { counted, ..self.place(credential, None).await? })
    }

    /// Counts a login and its session for the account, where the server limits those.
    fn count_account(&self, credential: &Credential) -> Result<Option<OfAccount>, Fault> {
        self.count_account_anew(credential, None)
    }

    fn count_account_anew(
        &self,
        credential: &Credential,
        instead_of: Option<&OfAccount>,
    ) -> Result<Option<OfAccount>, Fault> {
        let accounts = self.accounts_of(&credential.cluster)?;
        let account = &credential.account;
        let Some(limits) = accounts.snapshot.limits(account) else { return Ok(None) };
        let who = self.counted_as(credential, &accounts);
        let vendor = accounts.snapshot.product().vendor();
        let counted = self.shared.account_counts.enter(who, &limits, vendor, instead_of, Instant::now());
        counted.map(Some).map_err(|over| over_limit(over, account, vendor))
    }

    /// What the session may do, where its account is limited.
    pub(super) fn allowance(&self, credential: &Credential) -> Option<Allowance> {
        let accounts = self.shared.accounts.cluster(&credential.cluster)?;
        let vendor = accounts.snapshot.product().vendor();
        self.places.account.as_ref()?.allowance(&credential.account, vendor)
    }

    /// As whose the session is counted.
    fn counted_as(&self, credential: &Credential, accounts: &ClusterAccounts) -> Who {
        let client = self.identity(&credential.cluster, accounts);
        let (account, user) = (&credential.account, &credential.user);
        Who::new(&accounts.snapshot, &credential.cluster, account, user, &client.host_or_ip())
    }

    /// Whether a session that logs in again keeps its link, and on which node that is: where the server lets it do so at the
    /// limit of its account, and a second link would be one too many for the node.
    pub(super) fn keeps_its_link(&self, old: &Credential, new: &Credential) -> Option<NodeName> {
        let accounts = self.shared.accounts.cluster(&new.cluster)?;
        let own = self.places.account.as_ref()?;
        let is_native = matches!(new.proof, Proof::Native(_) | Proof::Password(_))
            && matches!(&new.account.authentication[..], [only] if only.plugin == native::PLUGIN);
        let keeps = is_native
            && matches!(accounts.snapshot.product(), Product::MariaDb { .. })
            && (&old.user, &old.cluster, old.view) == (&new.user, &new.cluster, new.view)
            && own.is_of(&self.counted_as(new, &accounts));
        let node = self.registered.entry.place().node.filter(|_| keeps)?;
        let topology = self.shared.topology.load();
        let serves = topology.cluster(new.cluster.as_str())?.node(node.as_str())?.takes_sessions();
        serves.then_some(node)
    }

    /// Logs in again over the link that the session has; the reply is the node's OK packet, or why it says no. The node then
    /// goes on with the login before.
    ///
    /// # Errors
    /// The link is of no use any more.
    pub(super) async fn change_on_link(
        &mut self,
        link: &mut Link,
        node: &NodeName,
        new: &Credential,
    ) -> Result<Result<Bytes, Fault>, Fault> {
        let may = || {
            let counted = self.count_account_anew(new, self.places.account.as_ref())?;
            self.fits_node(new, node)?;
            Ok::<_, Fault>(counted)
        };
        let counted = match may() {
            Ok(counted) => counted,
            Err(fault) => return Ok(Err(fault)),
        };
        let limit = self.connect_timeout(&new.cluster);
        let (account, uncounted) = (new.current_user.as_deref(), is_counted(new));
        match link.change_user(&new.for_node(None), account, uncounted, limit).await {
            Ok(()) => {}
            Err(error @ LinkError::Refused(_)) => {
                return Ok(Err(Self::link_fault(error, &accounts_host(self, new), new, node)));
            }
            Err(error) => {
                let reason = format!("node {node} of cluster {}: {error}", new.cluster);
                return Err(Fault::killed("node_failed", Blame::Server, reason));
            }
        }
        self.reached(new, node.clone(), link);
        self.places.account = counted;
        Ok(Ok(packet::vouching(&link.origin.ok, None, link.capabilities)))
    }

    /// Notes where an admitted session came to; its link is for the relay.
    pub(super) fn reach(&mut self, credential: &Credential, placed: Placed) -> Link {
        self.reached(credential, placed.node, &placed.link);
        self.cluster = Some(placed.cluster);
        self.link_load = Some(placed.load);
        // The account before has its place until here, because it has its link until here.
        self.places.account = placed.counted;
        placed.link
    }

    fn reached(&self, credential: &Credential, node: NodeName, link: &Link) {
        let entry = &self.registered.entry;
        entry.set_place(|place| {
            place.user = Some(String::from_utf8_lossy(&credential.user).into_owned());
            place.cluster = Some(credential.cluster.clone());
            place.node = Some(node);
            place.have_link(link.origin.thread_id);
        });
        if entry.is_doomed() {
            entry.end(Ending::Doomed);
        }
        self.look_at_place();
        entry.set_account(Arc::clone(&credential.account));
        // The accounts may have changed since it was judged, and nobody found this session then.
        let accounts = self.shared.accounts.load();
        let same = accounts
            .get(&credential.cluster)
            .is_some_and(|now| now.snapshot.digest() == credential.judged_by);
        if !same && let Some(ending) = revoked(entry, &accounts, &self.shared.config.load()) {
            entry.end(ending);
        }
    }

    /// Chooses a node and logs in there as the client's user.
    ///
    /// A node that cannot be reached is noticed by its probe within moments; the choice is then made
    /// again, a bounded number of times.
    pub(super) async fn place(
        &self,
        credential: &Credential,
        exchange: Option<&dyn Exchange>,
    ) -> Result<Placed, Fault> {
        self.place_at(credential, exchange, None).await
    }

    /// The same at one node, whatever it serves, which is tried once.
    pub(super) async fn place_at(
        &self,
        credential: &Credential,
        exchange: Option<&dyn Exchange>,
        at: Option<&NodeName>,
    ) -> Result<Placed, Fault> {
        let mut changes = self.shared.topology.subscribe();
        let limit = self.connect_timeout(&credential.cluster);
        let links = self.links(&credential.cluster);
        let mut patience = Patience::of(&self.registered.entry);
        let mut attempt = 0;
        loop {
            changes.mark_unchanged();
            let topology = self.shared.topology.load();
            let cluster = topology.cluster(credential.cluster.as_str()).ok_or_else(|| {
                Fault::unavailable("no_cluster", format!("cluster {} is not configured", credential.cluster))
            })?;
            let chosen = match at {
                Some(name) => {
                    let known = cluster.node(name.as_str()).filter(|node| node.lost().is_none());
                    let lost = || Fault::unavailable("no_node", format!("node {name} serves nobody"));
                    Ok(known.ok_or_else(lost)?)
                }
                None => cluster.choose(self.service.node),
            };
            let node = match chosen {
                Ok(node) => node,
                Err(none) => {
                    let moves = self.moves(credential);
                    let (held, name) = (&self.shared.held, &credential.cluster);
                    if patience.wait(held, name, &moves, changes.changed()).await {
                        continue;
                    }
                    return Err(Fault::unavailable("no_node", none));
                }
            };
            attempt += 1;
            let load = node.load.enter();
            let credentials = credential.for_node(exchange);
            let accounts = match self.shared.accounts.of_node(&credential.cluster, &node.name) {
                Some(accounts) => accounts,
                None => self.accounts_of(&credential.cluster)?,
            };
            self.still_by_uid(credential, &accounts)?;
            let fits = self.fits_transport(credential, &accounts);
            if exchange.is_none() {
                fits.clone()?;
            }
            let takes_header = node.facts.as_ref().is_some_and(|facts| facts.takes_header);
            let announce = match credential.view {
                View::Own => {
                    self.guarded(credential, &accounts, node.facts.as_deref())?;
                    Announce::Nothing
                }
                View::Trusted => Announce::Nothing,
                View::Client(version, client) if takes_header => Announce::Client(version, client),
                // It came up since the client was judged.
                View::Client(..) => {
                    return Err(Fault::unavailable(
                        "no_proxy_header",
                        format!("node {} has not proved to take a PROXY header", node.name),
                    ));
                }
            };
            let (source, tls) = self.way_out(&credential.cluster);
            let claim = Claim {
                cluster: &cluster.name,
                node: &node.name,
                approach: Approach {
                    address: &node.address,
                    source,
                    tls: tls.as_ref().map(|tls| &tls.trust),
                    announce,
                },
                account: credential.current_user.as_deref(),
                uncounted: is_counted(credential),
                credentials,
                links: &links,
                connect_timeout: limit,
                reuse: credential
                    .reuse
                    .filter(|reuse| links.reuse && may_reuse(credential, &accounts, reuse)),
            };
            let leased = tokio::select! {
                leased = self.pool.lease(&claim) => leased,
                // Who answers the node itself has said something that cannot be said again.
                () = self.is_lost(&cluster.name, &node.name), if exchange.is_none() && at.is_none() => Err(LinkError::Lost.into()),
            };
            let error = match leased {
                Ok((link, reused)) => {
                    // Whoever proves only there who it is was told nothing before.
                    fits?;
                    if reused {
                        self.shared.metrics.link_reused(&cluster.name, &node.name);
                    } else {
                        self.shared.metrics.link_opened(&cluster.name, &node.name);
                    }
                    return Ok(Placed {
                        cluster: cluster.name.clone(),
                        node: node.name.clone(),
                        link,
                        load,
                        counted: None,
                    });
                }
                Err(LeaseError::Link(error)) => error,
                Err(error) => {
                    let detail = format!("node {} of cluster {}: {error}", node.name, cluster.name);
                    return Err(Fault::limit("no_link", detail));
                }
            };
            if !matches!(&error, LinkError::Client(_) | LinkError::ClientLate | LinkError::Unsigned) {
                self.shared.metrics.link_failed(&cluster.name, &node.name);
            }
            if let Some(evidence) = evidence(&error) {
                self.shared.topology.suspect(&cluster.name, &node.name, evidence);
            }
            let stale = matches!(&error, LinkError::OtherAccount { .. } | LinkError::Plugin(_))
                || matches!(&error, LinkError::Refused(told) if matches!(told.code, 1045 | 1698));
            if stale {
                // The next attempt is judged by what is in force there.
                let known = self.accounts_of(&credential.cluster)?.snapshot.digest();
                self.shared.accounts.doubt(&credential.cluster, known).await;
            }
            if !error.is_of_the_node() || attempt == ATTEMPTS || at.is_some() {
                return Err(Self::link_fault(
                    error,
                    &accounts_host(self, credential),
                    credential,
                    &node.name,
                ));
            }
            debug!(cluster = %cluster.name, node = %node.name, %error, "choosing again");
            drop(load);
            let _ = timeout(Duration::from_secs(1), changes.changed()).await;
        }
    }

    /// Resolves when a node takes no sessions any more. Cancel safe.
    async fn is_lost(&self, cluster: &ClusterName, node: &NodeName) {
        let mut changes = self.shared.topology.subscribe();
        loop {
            let topology = self.shared.topology.load();
            let found = topology.cluster(cluster.as_str()).and_then(|cluster| cluster.node(node.as_str()));
            if !found.is_some_and(Node::takes_sessions) || changes.changed().await.is_err() {
                return;
            }
        }
    }

    /// Makes sure that a node on which there is a link already would take this login by its own accounts, from this client.
    pub(super) fn fits_node(&self, new: &Credential, node: &NodeName) -> Result<(), Fault> {
        let accounts = match self.shared.accounts.of_node(&new.cluster, node) {
            Some(accounts) => accounts,
            None => self.accounts_of(&new.cluster)?,
        };
        self.still_by_uid(new, &accounts)?;
        self.fits_transport(new, &accounts)?;
        if new.view == View::Own {
            let topology = self.shared.topology.load();
            let known = topology.cluster(new.cluster.as_str()).and_then(|c| c.node(node.as_str()));
            self.guarded(new, &accounts, known.and_then(|node| node.facts.as_deref()))?;
        }
        Ok(())
    }

    /// Makes sure that a client whose uid let it in would be by this node's own accounts, too.
    fn still_by_uid(&self, credential: &Credential, accounts: &ClusterAccounts) -> Result<(), Fault> {
        if !credential.by_uid
            || accounts.snapshot.digest() == credential.judged_by
            || self.by_uid(&credential.cluster, accounts, &credential.user).is_some()
        {
            return Ok(());
        }
        let client = self.identity(&credential.cluster, accounts);
        let reason = "the uid lets nobody in by the node's own accounts";
        Err(denied(&credential.user, &client.host_or_ip(), credential.password_use(), reason))
    }

    /// Makes sure that this node allows Spillway, as it sees it, no more than the client: nodes may be reached from different
    /// addresses, or hold accounts of their own, and the client was judged for one of them.
    fn guarded(
        &self,
        credential: &Credential,
        accounts: &ClusterAccounts,
        facts: Option<&Facts>,
    ) -> Result<(), Fault> {
        let called = facts
            .and_then(|facts| Some((facts.sees?, facts.calls.as_deref())))
            .filter(|(sees, calls)| !accounts.is_proxy(*sees, *calls));
        if called.is_none() && accounts.snapshot.digest() == credential.judged_by {
            return Ok(());
        }
        let client = self.identity(&credential.cluster, accounts);
        let seen = match called {
            Some((sees, calls)) => {
                let name = calls.map_or(HostName::Unknown, |name| HostName::Known(name.to_owned()));
                accounts.snapshot.host_identity(sees, &name)
            }
            None => accounts.proxy.clone(),
        };
        match accounts.snapshot.guard(&credential.user, &client, &seen) {
            MaskedHost::Same | MaskedHost::Narrower => Ok(()),
            MaskedHost::Differs(difference) => {
                let host = client.host_or_ip();
                Err(denied(&credential.user, &host, credential.password_use(), &difference.to_string()))
            }
        }
    }

    /// What the client is told when the node did not take it.
    fn link_fault(error: LinkError, host: &str, credential: &Credential, node: &NodeName) -> Fault {
        let detail = format!("node {node} of cluster {}: {error}", credential.cluster);
        match error {
            // The server's words name this proxy's address; the client is told about its own.
            LinkError::Refused(told) if matches!(told.code, 1045 | 1698) => {
                let reason = format!(
                    "{detail} (the account requires TLS that links of this cluster do not have, or changed since it was loaded?)"
                );
                // Only the node knows what a relayed exchange makes of it.
                let used = match credential.proof {
                    Proof::Relayed if told.code == 1698 => PasswordUse::Unmentioned,
                    Proof::Relayed => (!told.text().ends_with("(using password: NO)")).into(),
                    Proof::Native(_) | Proof::Fast(_) | Proof::Password(_) => credential.password_use(),
                };
                denied(&credential.user, host, used, &reason)
            }
            // No privilege on the schema, no such schema, too long or no valid name of one.
            LinkError::Refused(told) if matches!(told.code, 1044 | 1049 | 1059 | 1102) => {
                Fault::told(Blame::Client, "database_denied", detail, told)
            }
            // A node that asks by a plugin that the account had not, or had not the reply for, knows another account.
            LinkError::OtherAccount { .. } | LinkError::Plugin(_) => {
                denied(&credential.user, host, credential.password_use(), &detail)
            }
            LinkError::Unsigned => denied(&credential.user, host, credential.said_of_password(), &detail),
            LinkError::Refused(told) => Fault::told(Blame::Server, "node_refused", detail, told),
            LinkError::NeedsPassword => Fault::unavailable(NEEDS_PASSWORD, detail),
            LinkError::Client(_) | LinkError::ClientLate => {
                Fault { blame: Blame::Client, ..Fault::unavailable(label(&error), detail) }
            }
            _ => Fault::unavailable(label(&error), detail),
        }
    }
}

/// The label of a link that failed without a word of the node's.
fn label(error: &LinkError) -> &'static str {
    match error {
        LinkError::Client(_) => CLIENT_FAILED,
        LinkError::ClientLate => "client_late",
        _ => "link_failed",
    }
}

/// What a failed link tells of its node; none: nothing.
fn evidence(error: &LinkError) -> Option<Evidence> {
    match error {
        LinkError::Connect(e) if e.kind() == std::io::ErrorKind::ConnectionRefused => {
            Some(Evidence::ConnectRefused)
        }
        LinkError::Connect(_) => Some(Evidence::ConnectFailed),
        LinkError::Broken(_) => Some(Evidence::ConnectionLost),
        LinkError::TimedOut(_) => Some(Evidence::TimedOut),
        LinkError::Refused(told) if error.is_of_the_node() => Some(Evidence::Error(told.code)),
        _ => None,
    }
}

/// Whether the node counts the queries of the account.
fn is_counted(credential: &Credential) -> bool {
    credential.account.limits.questions_per_hour != 0
}

/// Whether a node that decides by these accounts, which may be its own, allows what the cluster's allow.
fn may_reuse(credential: &Credential, accounts: &ClusterAccounts, reuse: &Reuse) -> bool {
    accounts.snapshot.digest() == reuse.accounts
        || accounts.snapshot.has_account(&reuse.account)
            && accounts.snapshot.forbids_reuse(&credential.account).is_none()
}

fn accounts_host(session: &Session, credential: &Credential) -> String {
    let client = &session.registered.entry.client;
    session.shared.accounts.cluster(&credential.cluster).map_or_else(
        || client.to_string(),
        |a| session.identity(&credential.cluster, &a).host_or_ip().into_owned(),
    )
}

#[cfg(test)]
mod tests {
    use std::io;

    use super::*;
    use crate::session::admission::is_guess;
    use crate::wire::Malformed;

    /// What becomes of a link: whether it says something of its node, is tried again, and counts as a failed login.
    fn weight(error: &LinkError) -> (bool, bool, bool) {
        (evidence(error).is_some(), error.is_of_the_node(), is_guess(label(error)))
    }

    #[test]
    fn what_a_node_fails_at_is_no_failed_login_and_what_a_client_fails_at_is_no_evidence() {
        for error in [
            LinkError::TimedOut(Duration::from_secs(3)),
            LinkError::Broken(io::Error::from(io::ErrorKind::ConnectionReset).into()),
            LinkError::Connect(io::ErrorKind::ConnectionRefused.into()),
        ] {
            assert_eq!(weight(&error), (true, true, false), "{error}");
        }
        for error in [LinkError::NoTls, LinkError::Tls(io::Error::other("bad")), Malformed("x").into()] {
            assert_eq!(weight(&error), (false, false, false), "{error}");
        }
        assert_eq!(weight(&LinkError::Client(io::Error::other("gone"))), (false, false, true));
        // It said nothing at all, and may be at the keyboard still.
        assert_eq!(weight(&LinkError::ClientLate), (false, false, false));
    }
}
