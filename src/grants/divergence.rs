//! In what the accounts of two nodes of a cluster differ, in words and without any hash.

use std::collections::BTreeSet;

use super::account::Account;
use super::digest::Owner;
use super::rows::ServerVariables;
use super::snapshot::Snapshot;

impl Snapshot {
    /// Every account whose rows differ from those of another node, with how. `here` and `there` are the nodes' names.
    /// Names of databases and what the server keeps beside the rows are no difference.
    pub fn rows_that_differ(&self, there: &Self, here_name: &str, there_name: &str) -> Vec<String> {
        let owners: BTreeSet<&Owner> = self.owners.keys().chain(there.owners.keys()).collect();
        let mut differences = Vec::new();
        for owner in owners {
            let (table, who) = owner;
            let sides = (self.owners.get(owner), there.owners.get(owner));
            if sides.0 == sides.1 {
                continue;
            }
            let is_account = *table == self.product.account_table();
            // A role has no host, and a name of its own.
            let who = who.strip_suffix('@').map_or_else(|| who.clone(), |role| format!("role {role}"));
            differences.push(match sides {
                (Some(_), None) if is_account => format!("{who} exists on {here_name} only"),
                (None, Some(_)) if is_account => format!("{who} exists on {there_name} only"),
                _ if is_account => format!("{who} {} on {there_name}", self.account_differs(there, &owner.1)),
                (Some(_), None) => format!("{table} rows of {who} exist on {here_name} only"),
                (None, Some(_)) => format!("{table} rows of {who} exist on {there_name} only"),
                _ => format!("{table} rows of {who} differ on {there_name}"),
            });
        }
        differences
    }

    fn account_differs(&self, there: &Self, who: &str) -> &'static str {
        let (user, host) = who.rsplit_once('@').unwrap_or((who, ""));
        match (self.account_at(user, host), there.account_at(user, host)) {
            (Some(a), Some(b)) if a.authentication != b.authentication => "has another password",
            (Some(a), Some(b)) if !a.locked && b.locked => "is locked",
            (Some(a), Some(b)) if a.locked && !b.locked => "is not locked",
            _ => "has other privileges or attributes",
        }
    }

    fn account_at(&self, user: &str, host: &str) -> Option<&Account> {
        let mut accounts = self.rows_of(user)?.accounts.iter();
        accounts.find(|account| account.host.eq_ignore_ascii_case(host)).map(std::convert::AsRef::as_ref)
    }

    /// Every variable that decides on logins and has another value on another node, with both.
    pub fn settings_that_differ(&self, there: &Self) -> Vec<String> {
        let text = |variables: &ServerVariables| {
            // Every one is named, so that a new one can not be forgotten here.
            let ServerVariables {
                version,
                skip_name_resolve,
                lower_case_table_names,
                require_secure_transport,
                default_password_lifetime,
                disconnect_on_expired_password,
                max_password_errors,
                max_connections,
                max_user_connections,
                old_style_user_limits,
                default_plugin,
                init_connect,
                wait_timeout,
                partial_revokes,
                mandatory_roles,
                activate_all_roles_on_login,
                activate_mandatory_roles,
                check_proxy_users,
                native_proxy_users,
                sha256_proxy_users,
                offline_mode,
                ssl_crl,
                compares_as_openssl,
            } = variables;
            [
                ("version", version.clone()),
                ("skip_name_resolve", skip_name_resolve.to_string()),
                ("lower_case_table_names", lower_case_table_names.to_string()),
                ("require_secure_transport", require_secure_transport.to_string()),
                ("default_password_lifetime", default_password_lifetime.to_string()),
                ("disconnect_on_expired_password", disconnect_on_expired_password.to_string()),
                ("max_password_errors", max_password_errors.to_string()),
                ("max_connections", max_connections.to_string()),
                ("max_user_connections", max_user_connections.to_string()),
                ("old_style_user_limits", old_style_user_limits.to_string()),
                ("default_authentication_plugin", default_plugin.clone()),
                ("init_connect", init_connect.to_string()),
                ("wait_timeout", wait_timeout.to_string()),
                ("partial_revokes", partial_revokes.to_string()),
                ("mandatory_roles", mandatory_roles.clone()),
                ("activate_all_roles_on_login", activate_all_roles_on_login.to_string()),
                ("activate_mandatory_roles", activate_mandatory_roles.to_string()),
                ("check_proxy_users", check_proxy_users.to_string()),
                ("mysql_native_password_proxy_users", native_proxy_users.to_string()),
                ("sha256_password_proxy_users", sha256_proxy_users.to_string()),
                ("offline_mode", offline_mode.to_string()),
                ("ssl_crl or ssl_crlpath", ssl_crl.to_string()),
                ("OpenSSL", compares_as_openssl.to_string()),
            ]
        };
        let (here, there) = (text(&self.variables), text(&there.variables));
        let differing = here.iter().zip(&there).filter(|(a, b)| a != b);
        differing.map(|((name, a), (_, b))| format!("{name} {a:?}, there {b:?}")).collect()
    }
}

#[cfg(test)]
mod tests {
    use std::time::SystemTime;

    use zeroize::Zeroizing;

    use crate::grants::{DbRow, GlobalPrivRow, RawAccounts, ServerVariables, Snapshot};

    fn snapshot(version: &str, users: &[(&str, &str, &str)], db: &[(&str, bool)]) -> Snapshot {
        let global_priv = users.iter().map(|(user, host, json)| GlobalPrivRow {
            host: (*host).to_owned(),
            user: (*user).to_owned(),
            priv_json: Zeroizing::new((*json).to_owned()),
        });
        let db = db.iter().map(|(user, select)| DbRow {
            host: "%".to_owned(),
            user: (*user).to_owned(),
            db: "shop".to_owned(),
            privileges: vec![("Select_priv".to_owned(), *select), ("Insert_priv".to_owned(), true)],
        });
        let raw = RawAccounts {
            variables: ServerVariables { version: version.to_owned(), ..ServerVariables::default() },
            global_priv: global_priv.collect(),
            db: db.collect(),
            ..RawAccounts::default()
        };
        Snapshot::build(raw, SystemTime::UNIX_EPOCH)
    }

    const OLD: &str = r#"{"access":0,"plugin":"mysql_native_password","authentication_string":"*AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA"}"#;
    const NEW: &str = r#"{"access":0,"plugin":"mysql_native_password","authentication_string":"*BBBBBBBBBBBBBBBBBBBBBBBBBBBBBBBBBBBBBBBB"}"#;
    const LOCKED: &str = r#"{"access":0,"account_locked":true,"plugin":"mysql_native_password","authentication_string":"*AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA"}"#;
    const GRANTED: &str = r#"{"access":1,"plugin":"mysql_native_password","authentication_string":"*AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA"}"#;

    #[test]
    fn each_difference_is_named_once_and_without_a_hash() {
        let all =
            |x| [("a", "%", x), ("b", "%", x), ("c", "%", OLD), ("d@home", "%", OLD), ("same", "%", OLD)];
        let here = snapshot("10.11.8-MariaDB", &all(OLD), &[("same", true), ("a", true)]);
        let there = snapshot(
            "10.11.9-MariaDB",
            &[
                ("a", "%", NEW),
                ("b", "%", LOCKED),
                ("d@home", "%", GRANTED),
                ("same", "%", OLD),
                ("e", "%", OLD),
            ],
            &[("same", false), ("e", true)],
        );
        let differences = here.rows_that_differ(&there, "db1", "db2");
        assert_eq!(
            differences,
            [
                "db rows of a@% exist on db1 only",
                "db rows of e@% exist on db2 only",
                "db rows of same@% differ on db2",
                "a@% has another password on db2",
                "b@% is locked on db2",
                "c@% exists on db1 only",
                "d@home@% has other privileges or attributes on db2",
                "e@% exists on db2 only",
            ]
        );
        assert_eq!(
            here.settings_that_differ(&there),
            [r#"version "10.11.8-MariaDB", there "10.11.9-MariaDB""#]
        );
        assert!(here.rows_that_differ(&here, "db1", "db2").is_empty());
        assert!(here.settings_that_differ(&here).is_empty());
    }
}
