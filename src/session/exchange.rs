//! The part of a login in which the client shows what it knows: by which plugin it is asked, and what comes of it.

use std::hash::BuildHasher;
use std::sync::Arc;

use bytes::BytesMut;
use tokio::io::{AsyncRead, AsyncWrite};
use tracing::error;

use super::Session;
use super::admission::Asked;
use super::handshake::{HANDSHAKE_LIMIT, read_fault};
use super::unix_accounts;
use crate::accounts::ClusterAccounts;
use crate::auth::caching_sha2::{Remembered, Stage1};
use crate::auth::clear::Password;
use crate::auth::rsa::KeyPair;
use crate::auth::{
    self, Privacy, Proof, caching_sha2, ed25519, native, parsec, sha256_crypt, sha256_password,
};
use crate::fault::{Fault, PasswordUse};
use crate::grants::{Account, Authentication, Found, asks_the_system};
use crate::ids::{ClientAddr, ClusterName};
use crate::net::PacketStream;
use crate::wire::Capabilities;
use crate::wire::handshake::{AuthSwitch, Scramble};

/// Accounts whose passwords are verified faster after the first time.
const REMEMBERED: usize = 10_000;

/// How a client is asked for what it knows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Way {
    /// `mysql_native_password`: it replies to a scramble.
    Native,
    /// `caching_sha2_password`: fast where the account is remembered here, and in full otherwise, or when a node has
    /// forgotten it.
    CachingSha2,
    /// `sha256_password`.
    Sha256,
    /// The node asks it, by a plugin that cannot be answered for it.
    Relayed,
    /// As a node would ask it, for a name without an account.
    Decoy(Decoy),
    /// Not at all: the account lets in users of the server's own machine alone, who show nothing.
    Unasked,
}

/// What a client replied.
pub(super) enum Shown {
    /// A reply of `mysql_native_password`.
    Reply(Scramble, Vec<u8>),
    /// A right reply of the fast way of `caching_sha2_password`, for the account with this digest.
    Fast([u8; 32], Scramble, Stage1),
    /// A password; none: one that could not be read, which is as good as a wrong one.
    Password(Option<Password>),
    /// Nothing but its uid, which lets it in to the account with this digest, whose password this is.
    Uid([u8; 32], Password),
    /// Nothing yet: it will answer the node.
    Relayed,
    /// Whatever it answered what was acted out.
    ToDecoy(Decoy),
}

/// A node's exchange, acted out for a login that no node sees.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Decoy {
    /// `ed25519`: one question, one answer.
    Ed25519,
    /// `parsec`: the same, and a salt in between.
    Parsec(parsec::Params),
}

impl Decoy {
    /// As a node's exchange for an account goes, with its own salt; none: only a node knows what it asks, or a client is asked
    /// more than once.
    pub(super) fn like(account: &Account, privacy: Privacy) -> Option<Self> {
        let mut relayed = account.authentication.iter().filter(|a| auth::is_relayed(&a.plugin, privacy));
        let only = relayed.next().filter(|_| relayed.next().is_none())?;
        match only.plugin.as_str() {
            ed25519::ACCOUNT_PLUGIN => Some(Self::Ed25519),
            parsec::PLUGIN => parsec::Stored::parse(&only.string).params().map(Self::Parsec),
            _ => None,
        }
    }

    /// The same for another name.
    pub(super) fn of_nobody(self, secret: &[u8], cluster: &ClusterName, user: &[u8]) -> Self {
        match self {
            Self::Ed25519 => self,
            Self::Parsec(_) => {
                let name = [cluster.as_str().as_bytes(), &[0], user].concat();
                Self::Parsec(parsec::Params::decoy(secret, &name))
            }
        }
    }

    fn plugin(self) -> &'static str {
        match self {
            Self::Ed25519 => ed25519::PLUGIN,
            Self::Parsec(_) => parsec::PLUGIN,
        }
    }

    /// Asks as a node does, and takes whatever comes.
    pub(super) async fn act_out<S>(self, packets: &mut PacketStream<S>) -> Result<Shown, Fault>
    where
        S: AsyncRead + AsyncWrite + Unpin,
    {
        let nonce =
            auth::nonce().map_err(|e| Fault::refused("no_random", format!("no random numbers: {e}")))?;
        let switch = [&[0xFE], self.plugin().as_bytes(), &[0], &nonce[..]].concat();
        packets.write(&switch).await.map_err(Fault::client_gone)?;
        packets.read(HANDSHAKE_LIMIT).await.map_err(read_fault)?;
        if let Self::Parsec(params) = self {
            // Servers put a 1 before what a plugin says after its first question.
            packets.write(&[&[1], &params.encode()[..]].concat()).await.map_err(Fault::client_gone)?;
            packets.read(HANDSHAKE_LIMIT).await.map_err(read_fault)?;
        }
        Ok(Shown::ToDecoy(self))
    }
}

/// How a client is asked, and when.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Question {
    pub(super) way: Way,
    /// Whatever came with the request: the server has tried another way with that.
    pub(super) anew: bool,
}

impl Way {
    /// The way for an account's plugin.
    pub(super) fn of(plugin: &str) -> Option<Self> {
        match plugin {
            native::PLUGIN => Some(Self::Native),
            caching_sha2::PLUGIN => Some(Self::CachingSha2),
            sha256_password::PLUGIN => Some(Self::Sha256),
            _ => None,
        }
    }

    fn plugin(self) -> &'static str {
        match self {
            Self::Native => native::PLUGIN,
            Self::CachingSha2 => caching_sha2::PLUGIN,
            Self::Sha256 => sha256_password::PLUGIN,
            Self::Relayed | Self::Decoy(_) | Self::Unasked => "",
        }
    }
}

impl Shown {
    /// What an error says of the password, as the servers' plugins tell it.
    pub(super) fn password_use(&self) -> PasswordUse {
        match self {
            Self::Reply(_, reply) => (!reply.is_empty()).into(),
            Self::Password(password) => password.as_ref().is_none_or(|p| !p.is_empty()).into(),
            Self::Fast(..) | Self::Relayed => PasswordUse::Given,
            Self::ToDecoy(decoy) => auth::tells_of_passwords(decoy.plugin()).into(),
            Self::Uid(..) => PasswordUse::Unmentioned,
        }
    }
}

impl Session {
    /// By which plugin the client is asked: that of the account, and for a name without one that of any other account,
    /// always the same for the same name. As on a server, an account of `unix_socket` alone asks for nothing.
    pub(super) fn question(
        &self,
        cluster: &ClusterName,
        accounts: &ClusterAccounts,
        asked: &Asked,
    ) -> Question {
        let privacy = self.privacy(cluster);
        let of = |account: &Account| {
            let relayed = |a: &Authentication| auth::is_relayed(&a.plugin, privacy);
            let verified = account.authentication.iter().find_map(|a| Way::of(&a.plugin));
            let way =
                verified.or_else(|| account.authentication.iter().any(relayed).then_some(Way::Relayed))?;
            Some(Question { way, anew: unix_accounts::comes_first(account) })
        };
        let client = self.identity(cluster, accounts);
        if let Found::Account(account) = accounts.snapshot.find(&asked.user, &client) {
            if account.authentication.iter().all(|a| asks_the_system(&a.plugin)) {
                return Question { way: Way::Unasked, anew: false };
            }
            if let Some(question) = of(account) {
                return question;
            }
        }
        let secrets = &self.shared.secrets;
        // Only what can be acted out is a model.
        let model = |account: &Account| match of(account)? {
            Question { way: Way::Relayed, anew } => {
                let decoy = Decoy::like(account, privacy)?;
                let decoy = decoy.of_nobody(&secrets.of_decoys(), cluster, &asked.user);
                Some(Question { way: Way::Decoy(decoy), anew })
            }
            question => Some(question),
        };
        let known = accounts.snapshot.accounts().filter_map(model).count().max(1);
        let any = secrets.number(cluster.as_str().as_bytes(), &asked.user) as usize % known;
        let question = accounts.snapshot.accounts().filter_map(model).nth(any);
        question.unwrap_or(Question { way: Way::Native, anew: false })
    }

    /// What a client shows whose login ends before a node asks it anything: whoever has no account was asked by now.
    pub(super) async fn ask_in_vain<S>(
        &self,
        packets: &mut PacketStream<S>,
        (cluster, accounts): (&ClusterName, &ClusterAccounts),
        user: &[u8],
        shown: Shown,
    ) -> Result<Shown, Fault>
    where
        S: AsyncRead + AsyncWrite + Unpin,
    {
        let client = self.identity(cluster, accounts);
        match (&shown, accounts.snapshot.find(user, &client)) {
            (Shown::Relayed, Found::Account(account)) => match Decoy::like(account, self.privacy(cluster)) {
                Some(decoy) => decoy.act_out(packets).await,
                None => Ok(shown),
            },
            _ => Ok(shown),
        }
    }

    /// Asks the client, unless its first packet has the answer already.
    pub(super) async fn ask<S>(
        &self,
        packets: &mut PacketStream<S>,
        Question { way, anew }: Question,
        asked: &Asked,
        remembered: Option<&([u8; 32], Remembered)>,
    ) -> Result<Shown, Fault>
    where
        S: AsyncRead + AsyncWrite + Unpin,
    {
        if way == Way::Unasked {
            return Ok(Shown::Relayed);
        }
        if matches!(way, Way::Relayed | Way::Decoy(_))
            && !asked.capabilities.contains(Capabilities::PLUGIN_AUTH)
        {
            return Err(Fault::client_too_old());
        }
        match way {
            Way::Decoy(decoy) => return decoy.act_out(packets).await,
            Way::Relayed => return Ok(Shown::Relayed),
            Way::Native | Way::CachingSha2 | Way::Sha256 | Way::Unasked => {}
        }
        let first = asked.first_reply.as_ref();
        let first = first.filter(|first| !anew && first.plugin == way.plugin().as_bytes());
        let (scramble, reply) = match first {
            Some(first) => (first.scramble, first.reply.clone()),
            None if asked.capabilities.contains(Capabilities::PLUGIN_AUTH) => {
                let scramble = auth::scramble()
                    .map_err(|e| Fault::refused("no_random", format!("no random numbers: {e}")))?;
                let switch = AuthSwitch::encode(way.plugin(), &scramble);
                packets.write(&switch).await.map_err(Fault::client_gone)?;
                (scramble, packets.read(HANDSHAKE_LIMIT).await.map_err(read_fault)?.to_vec())
            }
            None => return Err(Fault::client_too_old()),
        };
        match way {
            Way::Native if matches!(reply.len(), 0 | 20) => Ok(Shown::Reply(scramble, reply)),
            Way::CachingSha2 if caching_sha2::is_empty(&reply) => {
                Ok(Shown::Password(Some(Password::new(b""))))
            }
            Way::CachingSha2 if reply.len() == 32 => {
                let fast = remembered.and_then(|(account, remembered)| {
                    Some(Shown::Fast(*account, scramble, remembered.verify(&reply, &scramble)?))
                });
                match fast {
                    Some(shown) => Ok(shown),
                    None => self.ask_in_full(packets, &scramble).await,
                }
            }
            Way::Sha256 if sha256_password::is_empty(&reply) => Ok(Shown::Password(Some(Password::new(b"")))),
            Way::Sha256 => self.password(packets, reply, sha256_password::REQUEST_KEY, &scramble).await,
            Way::Native | Way::CachingSha2 | Way::Relayed | Way::Decoy(_) | Way::Unasked => {
                Err(Fault::bad_handshake("a password reply of an odd length"))
            }
        }
    }

    /// Goes on in full with a client that replied by the fast way of `caching_sha2_password`.
    pub(super) async fn ask_in_full<S>(
        &self,
        packets: &mut PacketStream<S>,
        scramble: &Scramble,
    ) -> Result<Shown, Fault>
    where
        S: AsyncRead + AsyncWrite + Unpin,
    {
        packets.write(&[1, caching_sha2::FULL]).await.map_err(Fault::client_gone)?;
        let next = packets.read(HANDSHAKE_LIMIT).await.map_err(read_fault)?.to_vec();
        self.password(packets, next, caching_sha2::REQUEST_KEY, scramble).await
    }

    /// What verifies the fast replies of an account, if somebody logged in to it in full before.
    ///
    /// Only the password opens another cluster: where the session may move to one, the client is always asked for it.
    pub(super) fn remembered(
        &self,
        cluster: &ClusterName,
        accounts: &ClusterAccounts,
        user: &[u8],
        way: Way,
    ) -> Option<([u8; 32], Remembered)> {
        if way != Way::CachingSha2 || self.may_move() {
            return None;
        }
        let client = self.identity(cluster, accounts);
        let Found::Account(account) = accounts.snapshot.find(user, &client) else { return None };
        self.shared.secrets.remembered(account.digest()).map(|remembered| (*account.digest(), remembered))
    }

    /// The password in a reply, which is in the clear where nobody can listen, and otherwise under our key.
    async fn password<S>(
        &self,
        packets: &mut PacketStream<S>,
        reply: Vec<u8>,
        request_key: u8,
        scramble: &Scramble,
    ) -> Result<Shown, Fault>
    where
        S: AsyncRead + AsyncWrite + Unpin,
    {
        let reply = zeroize::Zeroizing::new(reply);
        if reply[..] == [request_key] {
            let key = self.key().await?;
            let mut packet = BytesMut::from(&[1][..]);
            packet.extend_from_slice(key.public_pem().as_bytes());
            packets.write(&packet).await.map_err(Fault::client_gone)?;
            let hidden = packets.read(HANDSHAKE_LIMIT).await.map_err(read_fault)?;
            return Ok(Shown::Password(key.decrypt(&hidden, scramble)));
        }
        if !self.is_private() {
            // Anybody could have read it. The server does not look at it either, and takes it for a wrong one.
            return Ok(Shown::Password(None));
        }
        Ok(Shown::Password(Password::decode(&reply)))
    }

    /// Whether nobody can read what comes from the client.
    pub(super) fn is_private(&self) -> bool {
        self.encryption.is_some() || matches!(self.registered.entry.client, ClientAddr::Unix { .. })
    }

    /// The key under which clients without TLS send passwords: one for the process, made when it is first needed.
    async fn key(&self) -> Result<Arc<KeyPair>, Fault> {
        let make = || async {
            let made = tokio::task::spawn_blocking(KeyPair::generate).await;
            made.map_err(|e| e.to_string())?.map(Arc::new).map_err(|e| e.to_string())
        };
        let key = self.shared.secrets.key.get_or_try_init(make).await;
        key.cloned().map_err(|e: String| Fault::refused("no_random", format!("no RSA key: {e}")))
    }

    /// Verifies what was shown against an account, or does the same work without one.
    pub(super) async fn verify(&self, shown: &Shown, account: Option<&Account>) -> Option<Proof> {
        let of = |plugin: &'static str| {
            let all: &[Authentication] = account.map_or(&[], |account| &account.authentication);
            all.iter().filter(move |a| a.plugin == plugin).map(|a| a.string.as_str())
        };
        match shown {
            Shown::Reply(scramble, reply) => {
                if account.is_none() {
                    return native::verify(reply, scramble, &native::Stored::Unusable).map(Proof::Native);
                }
                let mut stored = of(native::PLUGIN).map(native::Stored::parse);
                stored.find_map(|stored| native::verify(reply, scramble, &stored)).map(Proof::Native)
            }
            Shown::Fast(digest, _, stage1) => {
                account.filter(|account| account.digest() == digest).map(|_| Proof::Fast(stage1.clone()))
            }
            Shown::Uid(digest, password) => account
                .filter(|account| account.digest() == digest)
                .map(|_| Proof::Password(password.clone())),
            Shown::Relayed => account.map(|_| Proof::Relayed),
            Shown::ToDecoy(_) => None,
            Shown::Password(password) => {
                // What cannot be read takes as long as what is wrong.
                let given = password.clone().unwrap_or_else(|| Password::new(b"\0"));
                if self.password_is_right(&given, account).await {
                    password.clone().map(Proof::Password)
                } else {
                    None
                }
            }
        }
    }

    /// Whether a proof from another cluster's login is right for an account, too.
    pub(super) async fn is_right(&self, proof: &Proof, account: &Account) -> bool {
        match proof {
            Proof::Native(proof) => account
                .authentication
                .iter()
                .filter(|a| a.plugin == native::PLUGIN)
                .any(|a| proof.satisfies(&native::Stored::parse(&a.string))),
            Proof::Password(password) => self.password_is_right(password, Some(account)).await,
            // What it answered a node of one cluster, or what answers only one that remembers, says nothing to another.
            Proof::Fast(_) | Proof::Relayed => false,
        }
    }

    async fn password_is_right(&self, password: &Password, account: Option<&Account>) -> bool {
        let Some(account) = account else {
            return verify_hash(sha256_crypt::Stored::Unusable, password).await;
        };
        let native = native::Proof::from_password(password.as_bytes());
        for authentication in &account.authentication {
            let text = authentication.string.as_str();
            let stored = match Way::of(&authentication.plugin) {
                Some(Way::Native) if native.satisfies(&native::Stored::parse(text)) => return true,
                Some(Way::Native | Way::Relayed | Way::Decoy(_) | Way::Unasked) | None => continue,
                Some(Way::CachingSha2) => caching_sha2::parse(text.as_bytes()),
                Some(Way::Sha256) => sha256_password::parse(text.as_bytes()),
            };
            if stored.is_empty() && password.is_empty() {
                return true;
            }
            if self.shared.secrets.knows(account.digest(), password) {
                return true;
            }
            if verify_hash(stored, password).await {
                self.shared.secrets.remember(*account.digest(), password);
                return true;
            }
        }
        false
    }
}

/// Thousands of rounds, which must not hold up the other sessions of the worker.
async fn verify_hash(stored: sha256_crypt::Stored, password: &Password) -> bool {
    /// Logins whose rounds are counted at the same time; others wait.
    static HASHING: tokio::sync::Semaphore = tokio::sync::Semaphore::const_new(4);
    let _turn = HASHING.acquire().await;
    let password = password.clone();
    let verified = tokio::task::spawn_blocking(move || stored.verify(password.as_bytes())).await;
    verified.unwrap_or_else(|error| {
        error!(%error, "a password could not be verified");
        false
    })
}

/// What logins of the whole process share, and nobody may see.
#[derive(Debug, Default)]
pub struct Secrets {
    key: tokio::sync::OnceCell<Arc<KeyPair>>,
    hasher: std::hash::RandomState,
    /// By digest of an account's row: what verifies its password without the rounds.
    remembered: std::sync::Mutex<std::collections::HashMap<[u8; 32], caching_sha2::Remembered>>,
}

impl Secrets {
    /// A number that nobody outside can tell, the same for the same texts.
    pub(super) fn number(&self, a: &[u8], b: &[u8]) -> u64 {
        self.hasher.hash_one((a, b))
    }

    /// What the salts of names without an account are made of.
    pub(super) fn of_decoys(&self) -> [u8; 32] {
        let mut secret = [0; 32];
        for (number, bytes) in secret.chunks_exact_mut(8).enumerate() {
            bytes.copy_from_slice(&self.hasher.hash_one(("decoys", number)).to_be_bytes());
        }
        secret
    }

    fn remembered(&self, account: &[u8; 32]) -> Option<Remembered> {
        self.remembered.lock().unwrap_or_else(std::sync::PoisonError::into_inner).get(account).cloned()
    }

    fn knows(&self, account: &[u8; 32], password: &Password) -> bool {
        let remembered = self.remembered.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        remembered.get(account).is_some_and(|known| known.is_of(password.as_bytes()))
    }

    fn remember(&self, account: [u8; 32], password: &Password) {
        let mut remembered = self.remembered.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        if remembered.len() >= REMEMBERED {
            remembered.clear();
        }
        remembered.insert(account, caching_sha2::Remembered::from_password(password.as_bytes()));
    }
}

#[cfg(test)]
mod tests {
    use std::time::SystemTime;

    use super::*;
    use crate::grants::{GlobalPrivRow, RawAccounts, ServerVariables, Snapshot};

    /// What is acted out for an account with these plugins, of which `parsec` has the salt of `password`.
    fn like(plugins: &[&str]) -> Option<Decoy> {
        let salted = parsec::Params::decoy(b"of the server", b"u").stored(b"password");
        let ways = plugins.iter().map(|plugin| match *plugin {
            parsec::PLUGIN => format!(r#"{{"plugin":"parsec","authentication_string":"{salted}"}}"#),
            other => format!(r#"{{"plugin":"{other}","authentication_string":"x"}}"#),
        });
        let json = format!(
            r#"{{"access":0,"plugin":"{}","authentication_string":"","auth_or":[{}]}}"#,
            plugins[0],
            ways.collect::<Vec<_>>().join(",")
        );
        let row = GlobalPrivRow {
            host: "%".to_owned(),
            user: "u".to_owned(),
            priv_json: zeroize::Zeroizing::new(json),
        };
        let variables =
            ServerVariables { version: "11.8.3-MariaDB".to_owned(), ..ServerVariables::default() };
        let raw = RawAccounts { variables, global_priv: vec![row], ..RawAccounts::default() };
        let snapshot = Snapshot::build(raw, SystemTime::UNIX_EPOCH);
        let account = snapshot.accounts().next().expect("an account");
        assert_eq!(account.unreadable, None);
        assert_eq!(account.authentication.len(), plugins.len());
        Decoy::like(account, Privacy::Confidential)
    }

    #[test]
    fn only_what_a_node_is_sure_to_ask_is_acted_out() {
        assert_eq!(like(&["ed25519"]), Some(Decoy::Ed25519));
        assert_eq!(like(&["unix_socket", "ed25519"]), Some(Decoy::Ed25519));
        let salt = parsec::Params::decoy(b"of the server", b"u");
        assert_eq!(like(&["parsec"]), Some(Decoy::Parsec(salt)));
        for others in
            [&["pam"][..], &["gssapi"], &["ed25519", "parsec"], &["pam", "ed25519"], &["unix_socket"]]
        {
            assert_eq!(like(others), None, "{others:?}");
        }
    }

    #[test]
    fn nobody_has_a_salt_of_its_own_that_stays() {
        let salted = like(&["parsec"]).expect("acted out");
        let cluster: ClusterName = "shop".parse().unwrap();
        let of = |user: &[u8]| salted.of_nobody(b"secret", &cluster, user);
        assert_eq!(of(b"ann"), of(b"ann"));
        assert!(of(b"ann") != of(b"bob") && of(b"ann") != salted);
        assert_eq!(Shown::ToDecoy(salted).password_use(), PasswordUse::NotGiven);
        assert_eq!(Shown::ToDecoy(Decoy::Ed25519).password_use(), PasswordUse::Given);
        let secrets = (Secrets::default().of_decoys(), Secrets::default().of_decoys());
        assert!(secrets.0 != secrets.1 && secrets.0[..8] != secrets.0[8..16]);
    }
}
