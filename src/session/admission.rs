//! Whether a cluster's own accounts accept a login.
//!
//! Every login is judged by the rows of one cluster only. Reasons that only a right password may
//! reveal are told after it was verified; a refusal without an account goes through the same
//! exchange and the same computation, so that it cannot be told from a wrong password.

use std::sync::Arc;
use std::time::{Instant, SystemTime};

use tracing::{debug, warn};

use super::Session;
use super::backoff::{Attempt, Who};
use super::exchange::Shown;
use super::placing::CLIENT_FAILED;
use super::unix_accounts::password_use;
use crate::accounts::{ClusterAccounts, View};
use crate::auth::{self, Privacy, Proof};
use crate::backend::{Credentials, Exchange, Reuse};
use crate::config::Backoff;
use crate::fault::{Blame, Fault, Login, PasswordUse};
use crate::grants::{
    Account, Authentication, Found, LoginRequest, MaskedHost, Refusal, Transport, Verdict, decide,
};
use crate::ids::ClusterName;
use crate::net::PacketStream;
use crate::routing::{self, NoCluster};
use crate::wire::Capabilities;
use crate::wire::handshake::Scramble;
use crate::wire::packet::Err as ErrPacket;

/// What a client asks for in a handshake response or a `COM_CHANGE_USER`.
#[derive(Clone)]
pub(super) struct Asked {
    pub(super) user: Vec<u8>,
    pub(super) database: Option<Vec<u8>>,
    pub(super) capabilities: Capabilities,
    pub(super) collation: u8,
    pub(super) max_packet: u32,
    pub(super) attributes: Option<Vec<u8>>,
    /// The reply that came with the request; none: ask for one.
    pub(super) first_reply: Option<FirstReply>,
}

/// The reply that comes with a handshake response.
#[derive(Clone)]
pub(super) struct FirstReply {
    /// The plugin that made it.
    pub(super) plugin: Vec<u8>,
    /// What it is over.
    pub(super) scramble: Scramble,
    pub(super) reply: Vec<u8>,
}

/// A proven login, and everything that a link needs for it.
#[derive(Clone)]
pub(super) struct Credential {
    pub(super) user: Vec<u8>,
    /// The account that let the client in.
    pub(super) account: Arc<Account>,
    /// Digest of all rows that it was judged by.
    pub(super) judged_by: [u8; 32],
    pub(super) proof: Proof,
    pub(super) cluster: ClusterName,
    pub(super) database: Option<Vec<u8>>,
    pub(super) capabilities: Capabilities,
    pub(super) collation: u8,
    pub(super) max_packet: u32,
    pub(super) attributes: Option<Vec<u8>>,
    pub(super) failed_changes: u8,
    /// Whose address the node sees.
    pub(super) view: View,
    /// `CURRENT_USER()` on the node; none where that cannot be asked or does not matter.
    pub(super) current_user: Option<String>,
    /// Whether the link may have served another session, and may serve one afterwards.
    pub(super) reuse: Option<Reuse>,
    /// What the client is told once the node has found its credential right; only where that is the node's to find.
    pub(super) then: Option<Fault>,
    /// Only the client's uid opened the account, and the proof is none of its own.
    pub(super) by_uid: bool,
    /// What vouches for Spillway's certificate in the OK packet.
    pub(super) vouching: Option<Vec<u8>>,
    /// The client replied to this by the fast way of `caching_sha2_password`, and was not told yet that it was right.
    pub(super) fast: Option<Scramble>,
}

impl Credential {
    /// What a node is logged in to with. `exchange`: the client answers the node itself.
    pub(super) fn for_node<'a>(&'a self, exchange: Option<&'a dyn Exchange>) -> Credentials<'a> {
        Credentials {
            user: &self.user,
            proof: &self.proof,
            exchange,
            database: self.database.as_deref(),
            capabilities: self.capabilities,
            collation: self.collation,
            max_packet: self.max_packet,
            attributes: self.attributes.as_deref(),
        }
    }

    /// What an error says of the client's password.
    pub(super) fn password_use(&self) -> PasswordUse {
        if self.by_uid { PasswordUse::Unmentioned } else { (!self.proof.is_empty()).into() }
    }

    /// The same in the words in which a node would say that the password is wrong.
    pub(super) fn said_of_password(&self) -> PasswordUse {
        let silent = |way: &Authentication| !auth::tells_of_passwords(&way.plugin);
        match self.proof {
            Proof::Relayed if self.account.authentication.iter().all(silent) => PasswordUse::NotGiven,
            Proof::Relayed => PasswordUse::Given,
            Proof::Native(_) | Proof::Fast(_) | Proof::Password(_) => self.password_use(),
        }
    }
}

/// What a client says to know.
#[derive(Clone, Copy)]
pub(super) enum Claimed<'a> {
    /// What it was asked for.
    Shown(&'a Shown),
    /// What it proved when it logged in to another cluster.
    Proof(&'a Proof),
    /// Nothing: its uid opened another cluster, and does not open this one.
    Nothing,
}

impl Claimed<'_> {
    fn password_use(self) -> PasswordUse {
        match self {
            Self::Shown(shown) => shown.password_use(),
            Self::Proof(proof) => (!proof.is_empty()).into(),
            Self::Nothing => PasswordUse::Unmentioned,
        }
    }
}

/// What a login proved.
pub(super) struct Admitted {
    pub(super) account: Arc<Account>,
    pub(super) judged_by: [u8; 32],
    pub(super) proof: Proof,
    pub(super) view: View,
    pub(super) current_user: Option<String>,
    pub(super) reuse: Option<Reuse>,
    /// What the client is told once the node has found its credential right.
    pub(super) then: Option<Fault>,
}

impl Session {
    /// Names the cluster, asks for the reply if it did not come with the request, and judges it.
    pub(super) async fn authenticate<S>(
        &self,
        packets: &mut PacketStream<S>,
        asked: Asked,
    ) -> Result<Credential, Fault>
    where
        S: tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin,
    {
        let cluster = self.cluster_for(asked.database.as_deref())?;
        let accounts = self.accounts_of(&cluster)?;
        let entry = Arc::clone(&self.registered.entry);
        let host = |accounts: &ClusterAccounts| self.identity(&cluster, accounts).host_or_ip().into_owned();
        self.learn_name(&cluster, &accounts, &asked.user).await;
        let mut question = self.question(&cluster, &accounts, &asked);
        let mut shown = if let Some(by_uid) = self.by_uid(&cluster, &accounts, &asked.user) {
            by_uid
        } else {
            let remembered = self.remembered(&cluster, &accounts, &asked.user, question.way);
            self.ask(packets, question, &asked, remembered.as_ref()).await?
        };
        if !asked.user.is_ascii() && !is_utf8(asked.collation) {
            // The server would convert the name before it looks for a row; the rows here are UTF-8.
            let reason = format!(
                "a name beyond ASCII in a character set other than UTF-8 (collation {})",
                asked.collation
            );
            return Err(denied(&asked.user, &host(&accounts), shown.password_use(), &reason));
        }
        let attempt = Attempt { client: &entry.client, cluster: &cluster, user: &asked.user };
        let backoff = self.backoff();
        let held_back = |who: &Who, shown: &Shown, accounts: &ClusterAccounts| {
            held_back(who, &asked.user, &host(accounts), shown.password_use())
        };
        let mut turn = match self.shared.failed.turn(&attempt, &backoff).await {
            Ok(turn) => turn,
            Err(who) => {
                let shown = self.ask_in_vain(packets, (&cluster, &accounts), &asked.user, shown).await?;
                return Err(held_back(&who, &shown, &accounts));
            }
        };
        let mut admitted =
            self.judge(&cluster, &accounts, &asked.user, asked.capabilities, Claimed::Shown(&shown)).await;
        if admitted.is_err() && self.shared.accounts.doubt(&cluster, accounts.snapshot.digest()).await {
            // The account is newer than what was read.
            let accounts = self.accounts_of(&cluster)?;
            self.learn_name(&cluster, &accounts, &asked.user).await;
            let now = self.question(&cluster, &accounts, &asked);
            if let Some(by_uid) = self.by_uid(&cluster, &accounts, &asked.user) {
                shown = by_uid;
            } else if now != question || matches!(shown, Shown::Uid(..)) {
                question = now;
                let again = Asked { first_reply: None, ..asked.clone() };
                // Nobody waits for this client.
                drop(turn);
                shown = self.ask(packets, question, &again, None).await?;
                let next = self.shared.failed.turn(&attempt, &backoff).await;
                turn = next.map_err(|who| held_back(&who, &shown, &accounts))?;
            }
            admitted = self
                .judge(&cluster, &accounts, &asked.user, asked.capabilities, Claimed::Shown(&shown))
                .await;
        }
        let admitted = match admitted {
            Ok(admitted) => {
                if !matches!(admitted.proof, Proof::Relayed) {
                    self.shared.failed.succeeded(&attempt, Instant::now());
                }
                drop(turn);
                admitted
            }
            Err(fault) => {
                self.count_failure(&attempt, &fault);
                drop(turn);
                let shown = self.ask_in_vain(packets, (&cluster, &accounts), &asked.user, shown).await?;
                let may_count = shown.password_use() == PasswordUse::Given && fault.label == "access_denied";
                let told = if may_count { self.fail_on_node(&cluster, &asked.user).await } else { None };
                return Err(told.unwrap_or(fault));
            }
        };
        let vouching = match (&shown, &admitted.proof, &self.service.tls) {
            (Shown::Reply(scramble, _), Proof::Native(proof), Some(tls)) if self.encryption.is_some() => {
                proof.vouch_for(scramble, tls.identity.certificates().first())
            }
            _ => None,
        };
        let fast = match &shown {
            Shown::Fast(_, scramble, _) => Some(*scramble),
            _ => None,
        };
        Ok(Credential {
            by_uid: matches!(shown, Shown::Uid(..)),
            vouching,
            fast,
            user: asked.user,
            account: admitted.account,
            judged_by: admitted.judged_by,
            proof: admitted.proof,
            view: admitted.view,
            current_user: admitted.current_user,
            reuse: admitted.reuse,
            then: admitted.then,
            cluster,
            database: asked.database,
            capabilities: asked.capabilities,
            collation: asked.collation,
            max_packet: asked.max_packet,
            attributes: asked.attributes,
            failed_changes: 0,
        })
    }

    /// Whether the cluster of `moved` accepts what the client proved when it logged in; notes whether its links may be
    /// used again.
    pub(super) async fn admit_again(&self, moved: &mut Credential, schema: &[u8]) -> Result<(), Fault> {
        let accounts = self.accounts_of(&moved.cluster)?;
        debug!(
            session = self.registered.entry.id.0,
            cluster = %moved.cluster,
            schema = %String::from_utf8_lossy(schema),
            "session asks for a schema of another cluster"
        );
        self.learn_name(&moved.cluster, &accounts, &moved.user).await;
        let by_uid = if moved.by_uid { self.by_uid(&moved.cluster, &accounts, &moved.user) } else { None };
        let claimed = match &by_uid {
            Some(shown) => Claimed::Shown(shown),
            // The password is that of the configuration for the cluster before, which nobody showed.
            None if moved.by_uid => Claimed::Nothing,
            None => Claimed::Proof(&moved.proof),
        };
        // A password that is tried on another cluster's account is a login there; what proves nothing to it tries none.
        let is_login =
            matches!((claimed, &moved.proof), (Claimed::Proof(_), Proof::Native(_) | Proof::Password(_)));
        let entry = Arc::clone(&self.registered.entry);
        let attempt = Attempt { client: &entry.client, cluster: &moved.cluster, user: &moved.user };
        let turn =
            if is_login {
                let turn = self.shared.failed.turn(&attempt, &self.backoff()).await;
                let client = self.identity(&moved.cluster, &accounts);
                Some(turn.map_err(|who| {
                    held_back(&who, &moved.user, &client.host_or_ip(), claimed.password_use())
                })?)
            } else {
                None
            };
        let admitted = self.judge(&moved.cluster, &accounts, &moved.user, moved.capabilities, claimed).await;
        let admitted = match admitted {
            Ok(admitted) => admitted,
            Err(fault) if is_login => {
                self.count_failure(&attempt, &fault);
                drop(turn);
                let may_count =
                    claimed.password_use() == PasswordUse::Given && fault.label == "access_denied";
                let told =
                    if may_count { self.fail_on_node(&moved.cluster, &moved.user).await } else { None };
                return Err(told.unwrap_or(fault));
            }
            Err(fault) => return Err(fault),
        };
        if is_login {
            self.shared.failed.succeeded(&attempt, Instant::now());
        }
        drop(turn);
        moved.proof = admitted.proof;
        moved.reuse = admitted.reuse;
        moved.account = admitted.account;
        moved.judged_by = admitted.judged_by;
        moved.view = admitted.view;
        moved.current_user = admitted.current_user;
        Ok(())
    }

    /// Has a node count a wrong password, where it would have blocked the account after some and does not hear of them
    /// otherwise, and gives its answer: it may have had enough. None: it need not know, or said nothing.
    ///
    /// Where the node sees another account than the client's, it is not told: the failure is none of that one.
    async fn fail_on_node(&self, cluster: &ClusterName, user: &[u8]) -> Option<Fault> {
        let accounts = self.accounts_of(cluster).ok()?;
        let client = self.identity(cluster, &accounts);
        let Found::Account(account) = accounts.snapshot.find(user, &client) else { return None };
        let view = self.view(cluster, &accounts);
        let seen = accounts.seen(view, &client);
        if !accounts.snapshot.counts_failures(account)
            || view == View::Trusted
            || matches!(accounts.snapshot.guard(user, &client, &seen), MaskedHost::Differs(_))
        {
            return None;
        }
        let account = Arc::clone(account);
        let wrong = Credential {
            user: user.to_vec(),
            judged_by: accounts.snapshot.digest(),
            account,
            proof: Proof::from_password(&auth::scramble().ok()?),
            cluster: cluster.clone(),
            database: None,
            capabilities: Capabilities::REQUIRED,
            collation: 45,
            max_packet: 1 << 24,
            attributes: None,
            failed_changes: 0,
            view,
            current_user: None,
            reuse: None,
            then: None,
            by_uid: false,
            vouching: None,
            fast: None,
        };
        let told = self.place(&wrong, None).await.err()?;
        matches!(told.label, "node_refused" | "access_denied").then_some(told)
    }

    /// How logins are held back.
    pub(super) fn backoff(&self) -> Backoff {
        self.shared.config.load().runtime.backoff.clone()
    }

    pub(super) fn count_failure(&self, attempt: &Attempt<'_>, fault: &Fault) {
        if is_guess(fault.label) {
            let config = &self.shared.config.load().runtime.backoff;
            for who in self.shared.failed.failed(attempt, config, Instant::now()) {
                warn!(%who, "logins are held back after too many that failed");
            }
        }
    }

    /// Finds the account, verifies the credential, and tells the reasons in the server's order.
    pub(super) async fn judge(
        &self,
        cluster: &ClusterName,
        accounts: &ClusterAccounts,
        user: &[u8],
        capabilities: Capabilities,
        claimed: Claimed<'_>,
    ) -> Result<Admitted, Fault> {
        let client = self.identity(cluster, accounts);
        let view = self.view(cluster, accounts);
        let seen = accounts.seen(view, &client);
        let request = LoginRequest {
            user,
            client: &client,
            proxy: &seen,
            // The node itself says whether the schema may be used: it allows this proxy no more than the client, by rows
            // that may be newer there than here.
            database: None,
            using_password: claimed.password_use() == PasswordUse::Given,
            transport: self.transport(),
            can_handle_expired_passwords: capabilities.contains(Capabilities::CAN_HANDLE_EXPIRED_PASSWORDS),
            now: SystemTime::now(),
            plugins: auth::accepted(self.privacy(cluster)),
        };
        let refused = |refusal: &Refusal, said: PasswordUse| refused(refusal, &request, said);
        match decide(&accounts.snapshot, &request).verdict {
            Verdict::Candidate { account, then, sandbox } => {
                let proof = match claimed {
                    Claimed::Shown(shown) => self.verify(shown, Some(&account)).await,
                    Claimed::Proof(proof) => self.is_right(proof, &account).await.then(|| proof.clone()),
                    Claimed::Nothing => None,
                };
                let Some(proof) = proof else {
                    let reason = format!("wrong password for {account}");
                    let plugins = account.authentication.iter().map(|a| a.plugin.as_str());
                    let said = password_use(plugins, claimed.password_use());
                    return Err(denied(user, &client.host_or_ip(), said, &reason));
                };
                let is_silent = |way: &Authentication| !auth::tells_of_passwords(&way.plugin);
                let said = match proof {
                    // In the words in which the node says that the password is wrong.
                    Proof::Relayed if account.authentication.iter().all(is_silent) => PasswordUse::NotGiven,
                    _ => claimed.password_use(),
                };
                let then = then.map(|refusal| refused(&refusal, said));
                let then = match (then, &proof) {
                    (Some(fault), Proof::Native(_) | Proof::Fast(_) | Proof::Password(_)) => {
                        return Err(fault);
                    }
                    (then, _) => then,
                };
                let is_relayed = matches!(proof, Proof::Relayed);
                if is_relayed && view == View::Trusted {
                    // It would prove nothing of its own account: the node asks by that of Spillway's address.
                    let plugins = account.authentication.iter().map(|a| a.plugin.clone()).collect();
                    return Err(refused(&Refusal::UnsupportedPlugin { plugins }, said));
                }
                let snapshot = &accounts.snapshot;
                // The node looked for the name when the link logged in: its address may have another one now.
                let named = match view {
                    View::Client(_, ip) => snapshot.depends_on_name(user, ip),
                    View::Own | View::Trusted => false,
                };
                let reusable =
                    !sandbox && !is_relayed && !named && snapshot.forbids_reuse(&account).is_none();
                let reuse =
                    reusable.then(|| Reuse { account: *account.digest(), accounts: snapshot.digest() });
                let current_user = (!sandbox && view != View::Trusted).then(|| account.current_user());
                Ok(Admitted { account, judged_by: snapshot.digest(), proof, view, current_user, reuse, then })
            }
            Verdict::Refused(refusal) => {
                if let Claimed::Shown(shown) = claimed
                    && !refusal.is_immediate()
                {
                    let _ = self.verify(shown, None).await;
                }
                Err(refused(&refusal, claimed.password_use()))
            }
        }
    }

    /// Makes sure that the client's own connection is what a node demands that decides by other accounts than those that the
    /// client was judged by: it sees that of Spillway.
    pub(super) fn fits_transport(
        &self,
        credential: &Credential,
        accounts: &ClusterAccounts,
    ) -> Result<(), Fault> {
        if accounts.snapshot.digest() == credential.judged_by {
            return Ok(());
        }
        let client = self.identity(&credential.cluster, accounts);
        let request = LoginRequest {
            user: &credential.user,
            client: &client,
            proxy: &client,
            database: None,
            using_password: true,
            transport: self.transport(),
            can_handle_expired_passwords: false,
            now: SystemTime::now(),
            plugins: &[],
        };
        let checked = accounts.snapshot.accepts_transport(request.user, &client, request.transport);
        checked.map_err(|refusal| refused(&refusal, &request, credential.said_of_password()))
    }

    /// How the client is connected, as a server would see it.
    fn transport(&self) -> Transport<'_> {
        self.encryption.as_ref().map_or(Transport::Plain, |tls| Transport::Tls {
            cipher: tls.openssl_cipher,
            certificate: tls.client.as_deref(),
        })
    }

    /// Who can read what the client answers a node of a cluster.
    pub(super) fn privacy(&self, cluster: &ClusterName) -> Privacy {
        let config = self.shared.config.load();
        let tls = config.clusters.get(cluster).and_then(|cluster| cluster.tls.as_ref());
        Privacy::of(self.is_private(), tls.map(|tls| &*tls.trust))
    }

    /// Whose address the nodes of a cluster see on the links of this session.
    fn view(&self, cluster: &ClusterName, accounts: &ClusterAccounts) -> View {
        let policy = self
            .shared
            .config
            .load()
            .clusters
            .get(cluster)
            .map_or_else(Default::default, |c| c.client_address);
        let topology = self.shared.topology.load();
        let takes_headers = topology.cluster(cluster.as_str()).is_some_and(|c| c.takes_headers());
        accounts.view(&self.registered.entry.client, policy, takes_headers)
    }

    fn cluster_for(&self, database: Option<&[u8]>) -> Result<ClusterName, Fault> {
        routing::cluster_for(&self.service.route, database, &self.shared.accounts.load()).map_err(|e| match e
        {
            NoCluster::NoDefault => {
                let reply = ErrPacket::new(1046, b"3D000", "No database selected");
                let detail = format!("service {}: {e}", self.service.name);
                Fault::told(Blame::Client, "no_cluster", detail, reply)
            }
            NoCluster::Ambiguous { .. } => Fault::refused("ambiguous_schema", e),
        })
    }

    pub(super) fn accounts_of(
        &self,
        cluster: &ClusterName,
    ) -> Result<std::sync::Arc<ClusterAccounts>, Fault> {
        self.shared.accounts.cluster(cluster).ok_or_else(|| {
            let reason = self
                .shared
                .accounts
                .failure(cluster)
                .map_or_else(|| "still loading".to_owned(), |failure| failure.reason);
            // Which node said what is for the log only.
            warn!(%cluster, reason, "a client came before the accounts");
            Fault::unavailable("no_accounts", format!("the accounts of cluster {cluster} are not loaded yet"))
        })
    }
}

/// Whether a login that ended so may have been a guess, which counts. What a node fails at is none.
pub(super) fn is_guess(label: &str) -> bool {
    matches!(label, "access_denied" | "undecidable" | "unsupported_plugin" | CLIENT_FAILED)
}

/// The fault of a login that is refused for a reason that only the log tells.
pub(super) fn denied(user: &[u8], host: &str, password: PasswordUse, reason: &str) -> Fault {
    Fault::access_denied(Login { user, host, password }, reason)
}

/// The fault of a refused login, in the server's words.
fn refused(refusal: &Refusal, request: &LoginRequest<'_>, said: PasswordUse) -> Fault {
    if refusal.code() == 1045 {
        let fault = denied(request.user, &request.client.host_or_ip(), said, &refusal.to_string());
        return Fault { label: label(refusal), ..fault };
    }
    let mut sqlstate = *b"HY000";
    sqlstate.copy_from_slice(refusal.sqlstate().as_bytes());
    let told = ErrPacket::new(refusal.code(), &sqlstate, refusal.client_message(request));
    let detail = format!("{}: {refusal}", told.text());
    Fault::told(Blame::Client, label(refusal), detail, told)
}

/// The fault of a login that is not looked at; the client is told what one with a wrong password is told.
pub(super) fn held_back(who: &Who, user: &[u8], host: &str, password: PasswordUse) -> Fault {
    let reason = format!("held back after too many failed logins: {who}");
    Fault { label: "held_back", ..denied(user, host, password, &reason) }
}

/// Whether a collation id of a handshake is one of `utf8mb3` or `utf8mb4`.
fn is_utf8(collation: u8) -> bool {
    matches!(collation, 33 | 45 | 46 | 83 | 192..=215 | 223..=247 | 255)
}

/// The label of a refusal in metrics.
fn label(refusal: &Refusal) -> &'static str {
    match refusal {
        Refusal::HostNotAllowed(_) => "host_not_allowed",
        Refusal::Undecidable(_) => "undecidable",
        Refusal::UnsupportedPlugin { .. } => "unsupported_plugin",
        Refusal::InsecureTransport(_) | Refusal::TlsRequired(_) | Refusal::TlsDiffers(_) => "tls_required",
        Refusal::Locked(_) => "account_locked",
        Refusal::PasswordExpired(_) => "password_expired",
        Refusal::GrantsDifferByHost(_) => "grants_differ_by_host",
        _ => "access_denied",
    }
}

#[cfg(test)]
mod tests {
    use super::is_utf8;

    #[test]
    fn names_beyond_ascii_are_read_in_utf8_only() {
        // utf8mb3_general_ci, utf8mb4_general_ci, utf8mb4_unicode_ci, utf8mb4_0900_ai_ci.
        assert!([33, 45, 224, 255].into_iter().all(is_utf8));
        // latin1_swedish_ci, ascii, binary, latin2, sjis.
        assert!(![8, 11, 63, 9, 13].into_iter().any(is_utf8));
    }
}
