//! Digests: whether two readings of a server's accounts are the same, and whether an account is.

use std::collections::BTreeMap;

use sha2::{Digest, Sha256};

use super::rows::{MariaDbUserRow, MySqlUserRow, RawAccounts, ServerVariables};

/// What a server itself makes of its accounts, at little cost: equal if nothing that is read has changed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fingerprint {
    /// Variables that decide on logins.
    pub variables: ServerVariables,
    /// Names of databases, sorted.
    pub databases: Vec<String>,
    /// For each table its name, the number of its rows, and hashes over them.
    pub tables: Vec<String>,
}

/// The table and the account, as `user@host`, that a row belongs to.
pub(super) type Owner = (&'static str, String);

/// SHA-256 of one row, with its table and the lengths of its parts.
fn row(table: u8, parts: &[&[u8]]) -> [u8; 32] {
    let mut hasher = Sha256::new();
    hasher.update([table]);
    for part in parts {
        hasher.update((part.len() as u64).to_be_bytes());
        hasher.update(part);
    }
    hasher.finalize().into()
}

/// SHA-256 of a row of `mysql.user` of `MariaDB`.
pub(super) fn mariadb_user_row(r: &MariaDbUserRow) -> [u8; 32] {
    let limits =
        [r.max_questions, r.max_updates, r.max_connections, r.max_user_connections].map(i64::to_be_bytes);
    let is_role = [u8::from(r.is_role)];
    let mut parts: Vec<&[u8]> = vec![
        r.host.as_bytes(),
        r.user.as_bytes(),
        r.password.as_bytes(),
        r.plugin.as_bytes(),
        r.authentication_string.as_bytes(),
        r.ssl_type.as_bytes(),
        r.ssl_cipher.as_bytes(),
        r.x509_issuer.as_bytes(),
        r.x509_subject.as_bytes(),
        limits.as_flattened(),
        &is_role,
        r.default_role.as_bytes(),
    ];
    parts.extend(granted(&r.privileges));
    row(13, &parts)
}

/// The names of the columns that are `Y`, sorted.
fn granted(privileges: &[(String, bool)]) -> Vec<&[u8]> {
    let mut granted: Vec<_> =
        privileges.iter().filter(|(_, granted)| *granted).map(|(name, _)| name.as_bytes()).collect();
    granted.sort_unstable();
    granted
}

/// SHA-256 of a row of `mysql.user` of `MySQL`.
pub(super) fn user_row(r: &MySqlUserRow) -> [u8; 32] {
    let optional = |value: Option<i64>| {
        [u8::from(value.is_some()).to_be_bytes().to_vec(), value.unwrap_or(0).to_be_bytes().to_vec()].concat()
    };
    let (changed, lifetime) = (optional(r.password_last_changed), optional(r.password_lifetime));
    let limits =
        [r.max_questions, r.max_updates, r.max_connections, r.max_user_connections].map(i64::to_be_bytes);
    let flags = [r.password_expired, r.account_locked, r.user_attributes.is_some()].map(u8::from);
    let mut parts: Vec<&[u8]> = vec![
        r.host.as_bytes(),
        r.user.as_bytes(),
        r.plugin.as_bytes(),
        &r.authentication_string,
        &changed,
        &lifetime,
        &flags,
        r.ssl_type.as_bytes(),
        r.ssl_cipher.as_bytes(),
        r.x509_issuer.as_bytes(),
        r.x509_subject.as_bytes(),
        limits.as_flattened(),
        r.user_attributes.as_ref().map_or(&[], |text| text.as_bytes()),
    ];
    parts.extend(granted(&r.privileges));
    row(9, &parts)
}

/// SHA-256 over everything that was read, in no particular order, and over the rows of each account in each table.
pub(super) fn of(raw: &RawAccounts) -> ([u8; 32], BTreeMap<Owner, [u8; 32]>) {
    let mut owners: BTreeMap<Owner, Vec<[u8; 32]>> = BTreeMap::new();
    let mut all = vec![variables(&raw.variables)];
    all.extend(raw.databases.iter().map(|name| row(8, &[name.as_bytes()])));
    for (owner, hash) in rows(raw) {
        all.push(hash);
        owners.entry(owner).or_default().push(hash);
    }
    (whole(all), owners.into_iter().map(|(owner, hashes)| (owner, whole(hashes))).collect())
}

fn whole(mut rows: Vec<[u8; 32]>) -> [u8; 32] {
    rows.sort_unstable();
    let mut hasher = Sha256::new();
    for row in &rows {
        hasher.update(row);
    }
    hasher.finalize().into()
}

fn variables(v: &ServerVariables) -> [u8; 32] {
    row(
        0,
        &[
            v.version.as_bytes(),
            &[u8::from(v.skip_name_resolve), v.lower_case_table_names, u8::from(v.require_secure_transport)],
            &v.default_password_lifetime.to_be_bytes(),
            &[u8::from(v.disconnect_on_expired_password)],
            &v.max_password_errors.to_be_bytes(),
            &v.max_connections.to_be_bytes(),
            &v.max_user_connections.to_be_bytes(),
            &[u8::from(v.old_style_user_limits)],
            v.default_plugin.as_bytes(),
            &[u8::from(v.init_connect)],
            &v.wait_timeout.to_be_bytes(),
            &[u8::from(v.partial_revokes), u8::from(v.activate_all_roles_on_login), u8::from(v.offline_mode)],
            &[u8::from(v.check_proxy_users), u8::from(v.native_proxy_users), u8::from(v.sha256_proxy_users)],
            v.mandatory_roles.as_bytes(),
            &[u8::from(v.activate_mandatory_roles), u8::from(v.compares_as_openssl), u8::from(v.ssl_crl)],
        ],
    )
}

/// The digest of every row. Each row is written with the lengths of its parts.
fn rows(raw: &RawAccounts) -> Vec<(Owner, [u8; 32])> {
    let owner = |table, user: &str, host: &str| (table, format!("{user}@{host}"));
    let mut rows: Vec<(Owner, [u8; 32])> = Vec::new();
    rows.extend(raw.global_priv.iter().map(|r| {
        let parts = [r.host.as_bytes(), r.user.as_bytes(), r.priv_json.as_bytes()];
        (owner("global_priv", &r.user, &r.host), row(1, &parts))
    }));
    rows.extend(raw.db.iter().map(|r| {
        let mut parts = vec![r.host.as_bytes(), r.user.as_bytes(), r.db.as_bytes()];
        parts.extend(granted(&r.privileges));
        (owner("db", &r.user, &r.host), row(2, &parts))
    }));
    rows.extend(raw.tables.iter().map(|r| {
        let names = [r.host.as_bytes(), r.db.as_bytes(), r.user.as_bytes(), r.table.as_bytes()];
        let (table, column) = (r.table_privileges.to_be_bytes(), r.column_privileges.to_be_bytes());
        let hash = row(3, &[names[0], names[1], names[2], names[3], &table, &column]);
        (owner("tables_priv", &r.user, &r.host), hash)
    }));
    rows.extend(raw.columns.iter().map(|r| {
        let privileges = r.privileges.to_be_bytes();
        let (host, db, user) = (r.host.as_bytes(), r.db.as_bytes(), r.user.as_bytes());
        let hash = row(4, &[host, db, user, r.table.as_bytes(), r.column.as_bytes(), &privileges]);
        (owner("columns_priv", &r.user, &r.host), hash)
    }));
    rows.extend(raw.routines.iter().map(|r| {
        let privileges = r.privileges.to_be_bytes();
        let (host, db, user) = (r.host.as_bytes(), r.db.as_bytes(), r.user.as_bytes());
        let hash = row(5, &[host, db, user, r.routine.as_bytes(), r.kind.as_bytes(), &privileges]);
        (owner("procs_priv", &r.user, &r.host), hash)
    }));
    rows.extend(raw.roles.iter().map(|r| {
        let parts = [r.host.as_bytes(), r.user.as_bytes(), r.role.as_bytes(), &[u8::from(r.admin)]];
        (owner("roles_mapping", &r.user, &r.host), row(6, &parts))
    }));
    rows.extend(raw.proxies.iter().map(|r| {
        let (host, user) = (r.host.as_bytes(), r.user.as_bytes());
        let (proxied_host, proxied_user) = (r.proxied_host.as_bytes(), r.proxied_user.as_bytes());
        let hash = row(7, &[host, user, proxied_host, proxied_user, &[u8::from(r.with_grant)]]);
        (owner("proxies_priv", &r.user, &r.host), hash)
    }));
    rows.extend(raw.mariadb_users.iter().map(|r| (owner("user", &r.user, &r.host), mariadb_user_row(r))));
    rows.extend(raw.mysql_users.iter().map(|r| (owner("user", &r.user, &r.host), user_row(r))));
    rows.extend(raw.role_edges.iter().map(|r| {
        let (from, to) = ([r.from_host.as_bytes(), r.from_user.as_bytes()], [&r.to_host, &r.to_user]);
        let hash = row(10, &[from[0], from[1], to[0].as_bytes(), to[1].as_bytes(), &[u8::from(r.admin)]]);
        (owner("role_edges", &r.to_user, &r.to_host), hash)
    }));
    rows.extend(raw.default_roles.iter().map(|r| {
        let (host, user) = (r.host.as_bytes(), r.user.as_bytes());
        let hash = row(11, &[host, user, r.role_host.as_bytes(), r.role_user.as_bytes()]);
        (owner("default_roles", &r.user, &r.host), hash)
    }));
    rows.extend(raw.global_grants.iter().map(|r| {
        let (user, host) = (r.user.as_bytes(), r.host.as_bytes());
        let hash = row(12, &[user, host, r.privilege.as_bytes(), &[u8::from(r.grant_option)]]);
        (owner("global_grants", &r.user, &r.host), hash)
    }));
    rows
}
