//! Users of this machine who log in without a password: `unix_socket` of `MariaDB`, `auth_socket` of `MySQL`.
//!
//! A node is reached by TCP and sees nobody's uid, and what it would see is Spillway's. So a client on a Unix socket is let
//! in where the account itself knows this way, the configuration names the client's uid for it, and the password that the
//! configuration has for it is right by another way of the same account: by that one Spillway logs in to the node.

use std::fmt;

use tracing::{debug, warn};

use super::Session;
use super::exchange::Shown;
use crate::accounts::ClusterAccounts;
use crate::auth::clear::Password;
use crate::auth::{ed25519, native};
use crate::config::{Secret, UnixAccount};
use crate::fault::PasswordUse;
use crate::grants::{Account, Found};
use crate::ids::{ClientAddr, ClusterName};
use crate::net::own_uid;

/// The plugins that ask the system who is on the other end of a Unix socket, by the servers' names.
const PLUGINS: [&str; 2] = ["unix_socket", "auth_socket"];

/// How Spillway logs in to a node for a user of this machine.
#[derive(Debug, PartialEq, Eq)]
pub struct WayIn<'a> {
    /// The account's password.
    pub secret: &'a Secret,
    /// The plugin of the account that takes it.
    pub plugin: &'a str,
}

/// Why a client's uid does not let it in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Closed {
    /// The account knows no such way.
    NotAWay,
    /// The client is not on a Unix socket, or the system did not tell its uid.
    NoUid,
    /// The configuration does not name the account.
    NotListed,
    /// The configuration names another uid for the account.
    OtherUid(u32),
    /// It is Spillway's own uid, or that is not known: somebody else may stand behind a process of Spillway's user.
    OwnUid,
    /// The account is for a user of another name than its own. Servers differ in which name counts.
    OtherName,
    /// The configured password is right by no other way of the account that Spillway can use.
    NoSecondWay,
}

impl fmt::Display for Closed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NotAWay => f.write_str("the account does not know unix_socket"),
            Self::NoUid => f.write_str("only the uid of a client on a Unix socket of Spillway is known"),
            Self::NotListed => f.write_str("unix_accounts does not name the user"),
            Self::OtherUid(uid) => write!(f, "unix_accounts names uid {uid}"),
            Self::OwnUid => f.write_str("Spillway's own uid lets nobody in"),
            Self::OtherName => f.write_str("the account is for a user of another name on the server's machine"),
            Self::NoSecondWay => f.write_str(
                "the password in unix_accounts is not right by mysql_native_password or ed25519 of the account, and by \
                 unix_socket Spillway cannot log in to a node, which sees no uid over TCP",
            ),
        }
    }
}

/// Whether a plugin asks the system who the client is.
fn asks_the_system(plugin: &str) -> bool {
    PLUGINS.contains(&plugin)
}

/// Whether the server tries such a way before all others, so that the reply in a client's first packet counts for nothing.
pub(super) fn comes_first(account: &Account) -> bool {
    account.authentication.first().is_some_and(|way| asks_the_system(&way.plugin))
}

/// Whether a client that logs in as `user` is let in to `account` by its uid. `listed`: what the cluster's configuration has
/// for the user; `own`: the uid of this process.
///
/// # Errors
/// Why not; the account's other ways are open then.
pub fn way_in<'a>(
    account: &'a Account,
    user: &[u8],
    client: &ClientAddr,
    own: Option<u32>,
    listed: Option<&'a UnixAccount>,
) -> Result<WayIn<'a>, Closed> {
    let mut names = account.authentication.iter().filter(|way| asks_the_system(&way.plugin)).peekable();
    if names.peek().is_none() {
        return Err(Closed::NotAWay);
    }
    let ClientAddr::Unix { uid: Some(uid) } = *client else { return Err(Closed::NoUid) };
    let listed = listed.ok_or(Closed::NotListed)?;
    if listed.uid != uid {
        return Err(Closed::OtherUid(listed.uid));
    }
    if own.is_none_or(|own| own == uid) {
        return Err(Closed::OwnUid);
    }
    // MariaDB compares the name of the uid with the login name alone, MySQL with this one, too.
    if !names.any(|way| way.string.is_empty() || way.string.as_bytes() == user) {
        return Err(Closed::OtherName);
    }
    let plugin = opened_by(&listed.secret, account).ok_or(Closed::NoSecondWay)?;
    Ok(WayIn { secret: &listed.secret, plugin })
}

/// The plugin of an account by which a password opens it, among those that log in to a node without more ado.
fn opened_by<'a>(secret: &Secret, account: &'a Account) -> Option<&'a str> {
    let password = secret.expose().as_bytes();
    let opens = |plugin: &str, stored: &str| match plugin {
        native::PLUGIN => native::Proof::from_password(password).satisfies(&native::Stored::parse(stored)),
        ed25519::ACCOUNT_PLUGIN => {
            ed25519::Stored::parse(stored) == ed25519::Stored::parse(&ed25519::stored(password))
        }
        _ => false,
    };
    account.authentication.iter().find(|way| opens(&way.plugin, &way.string)).map(|way| way.plugin.as_str())
}

/// What the server says of the password when all ways of an account failed, tried in the order of `plugins`.
pub(super) fn password_use<'p>(
    plugins: impl DoubleEndedIterator<Item = &'p str> + ExactSizeIterator,
    used: PasswordUse,
) -> PasswordUse {
    // Only a password that is given to a later way is mentioned again.
    let behind = plugins.rev().position(asks_the_system);
    match (behind, used) {
        (None, used) | (Some(1..), used @ PasswordUse::Given) => used,
        (Some(_), _) => PasswordUse::Unmentioned,
    }
}

impl Session {
    /// What a client shows that need not show more than its uid; none: it is asked.
    pub(super) fn by_uid(
        &self,
        cluster: &ClusterName,
        accounts: &ClusterAccounts,
        user: &[u8],
    ) -> Option<Shown> {
        let entry = &self.registered.entry;
        let ClientAddr::Unix { .. } = entry.client else { return None };
        let client = self.identity(cluster, accounts);
        let Found::Account(account) = accounts.snapshot.find(user, &client) else { return None };
        let config = self.shared.config.load();
        let listed = config.clusters.get(cluster).and_then(|cluster| cluster.unix_account(user));
        match way_in(account, user, &entry.client, own_uid(), listed) {
            Ok(WayIn { secret, plugin }) => {
                debug!(session = entry.id.0, %cluster, %account, client = %entry.client, plugin, "let in by uid");
                Some(Shown::Uid(*account.digest(), Password::new(secret.expose().as_bytes())))
            }
            // What was configured does not do what it is there for.
            Err(reason @ (Closed::OwnUid | Closed::OtherName | Closed::NoSecondWay)) => {
                warn!(%cluster, %account, client = %entry.client, %reason, "not let in by uid");
                None
            }
            Err(reason) => {
                debug!(session = entry.id.0, %cluster, %account, client = %entry.client, %reason, "not let in by uid");
                None
            }
        }
    }
}
