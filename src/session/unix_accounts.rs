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
use crate::grants::{Account, Found, asks_the_system};
use crate::ids::{ClientAddr, ClusterName};
use crate::net::own_uid;

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

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::time::SystemTime;

    use zeroize::Zeroizing;

    use super::*;
    use crate::grants::{GlobalPrivRow, HostIdentity, MySqlUserRow, RawAccounts, ServerVariables, Snapshot};

    const SPILLWAY: Option<u32> = Some(990);
    const CLIENT: ClientAddr = ClientAddr::Unix { uid: Some(1001) };
    /// `PASSWORD('secret')`.
    const NATIVE: &str = r#"{"plugin":"mysql_native_password","authentication_string":"*14E65567ABDB5135D0CFD9A70B3032C179A49EE7"}"#;
    /// `ed25519_password('secret')`.
    const ED25519: &str =
        r#"{"plugin":"ed25519","authentication_string":"ZIgUREUg5PVgQ6LskhXmO+eZLS0nC8be6HPjYWR4YJY"}"#;
    const SOCKET: &str = r#"{"plugin":"unix_socket"}"#;

    fn only(raw: RawAccounts) -> Arc<Account> {
        let snapshot = Snapshot::build(raw, SystemTime::UNIX_EPOCH);
        let backup = HostIdentity::without_name("10.0.9.1".parse().unwrap());
        match snapshot.find(b"backup", &backup) {
            Found::Account(account) => Arc::clone(account),
            other => panic!("{other:?}"),
        }
    }

    /// `backup@%` with these ways.
    fn account(ways: &[&str]) -> Arc<Account> {
        let priv_json = Zeroizing::new(format!(r#"{{"auth_or":[{}]}}"#, ways.join(",")));
        only(RawAccounts {
            variables: ServerVariables {
                version: "10.11.19-MariaDB".to_owned(),
                ..ServerVariables::default()
            },
            global_priv: vec![GlobalPrivRow { host: "%".to_owned(), user: "backup".to_owned(), priv_json }],
            ..RawAccounts::default()
        })
    }

    fn listed(uid: u32, secret: &str) -> UnixAccount {
        UnixAccount { uid, secret: Secret::new(secret) }
    }

    /// The plugin by which uid 1001 comes in as backup, with a right entry.
    fn by(account: &Account) -> Result<String, Closed> {
        way_in(account, b"backup", &CLIENT, SPILLWAY, Some(&listed(1001, "secret")))
            .map(|way| way.plugin.to_owned())
    }

    #[test]
    fn the_second_way_of_the_account_takes_the_password() {
        for (ways, plugin) in [
            ([SOCKET, NATIVE], native::PLUGIN),
            ([NATIVE, SOCKET], native::PLUGIN),
            ([SOCKET, ED25519], "ed25519"),
            ([ED25519, SOCKET], "ed25519"),
        ] {
            assert_eq!(by(&account(&ways)).as_deref(), Ok(plugin), "{ways:?}");
        }
        let pam = r#"{"plugin":"pam"}"#;
        let empty = r#"{"plugin":"mysql_native_password","authentication_string":""}"#;
        let invalid = r#"{"plugin":"mysql_native_password","authentication_string":"invalid"}"#;
        for second in [pam, empty, invalid, &NATIVE.replace("*14", "*15"), &ED25519.replace("ZI", "ZJ")] {
            assert_eq!(by(&account(&[SOCKET, second])), Err(Closed::NoSecondWay), "{second}");
        }
        assert_eq!(by(&account(&[SOCKET])), Err(Closed::NoSecondWay));
    }

    #[test]
    fn only_the_listed_uid_on_a_unix_socket_opens_an_account_that_knows_the_way() {
        let both = account(&[NATIVE, SOCKET]);
        let entry = listed(1001, "secret");
        let ask = |client: &ClientAddr, own, entry| way_in(&both, b"backup", client, own, entry).map(drop);
        assert_eq!(ask(&CLIENT, SPILLWAY, Some(&entry)), Ok(()));
        let tcp = ClientAddr::Tcp("127.0.0.1:40000".parse().unwrap());
        let untold = ClientAddr::Unix { uid: None };
        let other = ClientAddr::Unix { uid: Some(0) };
        assert_eq!(ask(&tcp, SPILLWAY, Some(&entry)), Err(Closed::NoUid));
        assert_eq!(ask(&untold, SPILLWAY, Some(&entry)), Err(Closed::NoUid));
        assert_eq!(ask(&other, SPILLWAY, Some(&entry)), Err(Closed::OtherUid(1001)));
        assert_eq!(ask(&CLIENT, SPILLWAY, None), Err(Closed::NotListed));
        assert_eq!(ask(&CLIENT, Some(1001), Some(&entry)), Err(Closed::OwnUid));
        assert_eq!(ask(&CLIENT, None, Some(&entry)), Err(Closed::OwnUid));
        assert_eq!(ask(&CLIENT, SPILLWAY, Some(&listed(1001, "Secret"))), Err(Closed::NoSecondWay));
        assert_eq!(by(&account(&[NATIVE])), Err(Closed::NotAWay));
        assert_eq!(by(&account(&[NATIVE, ED25519])), Err(Closed::NotAWay));
    }

    #[test]
    fn an_account_for_a_user_of_another_name_stays_closed() {
        let named = |name: &str| format!(r#"{{"plugin":"unix_socket","authentication_string":"{name}"}}"#);
        assert_eq!(by(&account(&[&named("operator"), NATIVE])), Err(Closed::OtherName));
        assert!(by(&account(&[&named("backup"), NATIVE])).is_ok());
        assert!(by(&account(&[&named("operator"), &named("backup"), NATIVE])).is_ok());
    }

    #[test]
    fn accounts_of_mysql_have_no_second_way() {
        let account = only(RawAccounts {
            variables: ServerVariables { version: "9.7.0".to_owned(), ..ServerVariables::default() },
            mysql_users: vec![MySqlUserRow {
                host: "%".to_owned(),
                user: "backup".to_owned(),
                plugin: "auth_socket".to_owned(),
                ..MySqlUserRow::default()
            }],
            ..RawAccounts::default()
        });
        assert_eq!(by(&account), Err(Closed::NoSecondWay));
    }

    #[test]
    fn a_password_is_mentioned_as_the_server_does() {
        use PasswordUse::{Given, NotGiven, Unmentioned};
        // As MariaDB 10.11 answers.
        for (plugins, given, not_given) in [
            (&["mysql_native_password"][..], Given, NotGiven),
            (&["mysql_native_password", "unix_socket"], Unmentioned, Unmentioned),
            (&["unix_socket", "mysql_native_password"], Given, Unmentioned),
            (&["unix_socket"], Unmentioned, Unmentioned),
            (&["ed25519", "unix_socket"], Unmentioned, Unmentioned),
        ] {
            let said = |used| password_use(plugins.iter().copied(), used);
            assert_eq!((said(Given), said(NotGiven)), (given, not_given), "{plugins:?}");
            assert_eq!(said(Unmentioned), Unmentioned, "{plugins:?}");
        }
    }
}
