//! The grant tables that only `MySQL` has.
//!
//! What the monitor account must be granted: `SELECT` on `mysql.user`, `mysql.db`, `mysql.tables_priv`,
//! `mysql.columns_priv`, `mysql.procs_priv` and `mysql.proxies_priv`; from 8.0 on also on `mysql.role_edges`,
//! `mysql.default_roles` and `mysql.global_grants`; and `SHOW DATABASES ON *.*`. With `partial_revokes`, nothing may be
//! revoked on `mysql`.

use std::collections::BTreeMap;
use std::time::Duration;

use zeroize::Zeroizing;

use super::client::{AskError, Client, text};
use crate::backend::Row;
use crate::grants::{DefaultRoleRow, GlobalGrantRow, MySqlUserRow, Product, RawAccounts, RoleEdgeRow};

/// Columns without which a row of `mysql.user` cannot be understood.
const NEEDED: [&str; 15] = [
    "host",
    "user",
    "plugin",
    "spillway_secret",
    "spillway_changed",
    "password_expired",
    "account_locked",
    "ssl_type",
    "ssl_cipher",
    "x509_issuer",
    "x509_subject",
    "max_questions",
    "max_updates",
    "max_connections",
    "max_user_connections",
];

/// Adds accounts, and from 8.0 on roles and dynamic privileges. Not cancel safe, like every query.
pub(super) async fn read(
    client: &mut Client,
    product: &Product,
    raw: &mut RawAccounts,
    limit: Duration,
) -> Result<(), AskError> {
    // The hash may hold any byte of seven bits; columns of privileges differ by version.
    let query = "SELECT u.*, HEX(u.authentication_string) AS spillway_secret, \
        UNIX_TIMESTAMP(u.password_last_changed) AS spillway_changed FROM mysql.user u";
    for row in client.rows(query, limit).await? {
        raw.mysql_users.push(user(&row)?);
    }
    if !has_roles(product) {
        return Ok(());
    }
    let query = "SELECT FROM_HOST, FROM_USER, TO_HOST, TO_USER, WITH_ADMIN_OPTION FROM mysql.role_edges";
    for row in client.rows(query, limit).await? {
        raw.role_edges.push(RoleEdgeRow {
            from_host: text(&row, 0)?,
            from_user: text(&row, 1)?,
            to_host: text(&row, 2)?,
            to_user: text(&row, 3)?,
            admin: text(&row, 4)? == "Y",
        });
    }
    let query = "SELECT HOST, USER, DEFAULT_ROLE_HOST, DEFAULT_ROLE_USER FROM mysql.default_roles";
    for row in client.rows(query, limit).await? {
        raw.default_roles.push(DefaultRoleRow {
            host: text(&row, 0)?,
            user: text(&row, 1)?,
            role_host: text(&row, 2)?,
            role_user: text(&row, 3)?,
        });
    }
    let query = "SELECT USER, HOST, PRIV, WITH_GRANT_OPTION FROM mysql.global_grants";
    for row in client.rows(query, limit).await? {
        raw.global_grants.push(GlobalGrantRow {
            user: text(&row, 0)?,
            host: text(&row, 1)?,
            privilege: text(&row, 2)?,
            grant_option: text(&row, 3)? == "Y",
        });
    }
    Ok(())
}

/// Whether the server has roles, and grant tables that know transactions: 8.0 and later.
pub(super) fn has_roles(product: &Product) -> bool {
    product.is_mysql_at_least((8, 0, 0))
}

fn user(row: &Row) -> Result<MySqlUserRow, AskError> {
    let mut user = MySqlUserRow::default();
    let mut columns: BTreeMap<String, usize> = BTreeMap::new();
    for (index, name) in row.columns().iter().enumerate() {
        if name.to_ascii_lowercase().ends_with("_priv") {
            user.privileges.push((name.clone(), text(row, index)? == "Y"));
        }
        columns.insert(name.to_ascii_lowercase(), index);
    }
    if !NEEDED.iter().all(|name| columns.contains_key(*name)) {
        return Err(AskError::Shape("mysql.user lacks a column; MySQL 5.7.6 and later have them"));
    }
    let get = |name: &str| columns.get(name).map_or(Ok(String::new()), |index| text(row, *index));
    // NULL, and a column that an older version does not have, are none.
    let optional = |name: &str| {
        let value = columns.get(name).and_then(|index| row.value(*index));
        if value.flatten().is_none() { Ok(None) } else { get(name).map(Some) }
    };
    let number = |name: &str| optional(name)?.as_deref().map(integer).transpose();
    let limit = |name: &str| Ok::<_, AskError>(number(name)?.unwrap_or(0));
    user.host = get("host")?;
    user.user = get("user")?;
    user.plugin = get("plugin")?;
    user.authentication_string = unhex(&Zeroizing::new(get("spillway_secret")?))?;
    user.password_expired = get("password_expired")? != "N";
    user.password_last_changed = number("spillway_changed")?;
    user.password_lifetime = number("password_lifetime")?;
    user.account_locked = get("account_locked")? != "N";
    user.ssl_type = get("ssl_type")?;
    user.ssl_cipher = get("ssl_cipher")?;
    user.x509_issuer = get("x509_issuer")?;
    user.x509_subject = get("x509_subject")?;
    user.max_questions = limit("max_questions")?;
    user.max_updates = limit("max_updates")?;
    user.max_connections = limit("max_connections")?;
    user.max_user_connections = limit("max_user_connections")?;
    user.user_attributes = optional("user_attributes")?.map(Zeroizing::new);
    Ok(user)
}

/// An integer, or the whole part of a number with decimals.
fn integer(text: &str) -> Result<i64, AskError> {
    let whole = text.split_once('.').map_or(text, |(whole, _)| whole);
    whole.parse().map_err(|_| AskError::Shape("a column of mysql.user is no number"))
}

fn unhex(text: &str) -> Result<Zeroizing<Vec<u8>>, AskError> {
    let digit = |byte: u8| char::from(byte).to_digit(16).and_then(|digit| u8::try_from(digit).ok());
    let mut bytes = Zeroizing::new(Vec::with_capacity(text.len() / 2));
    for pair in text.as_bytes().chunks(2) {
        let byte = match *pair {
            [high, low] => digit(high).zip(digit(low)).map(|(high, low)| high << 4 | low),
            _ => None,
        };
        bytes.push(byte.ok_or(AskError::Shape("a hash that is not hexadecimal"))?);
    }
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::{integer, unhex};

    #[test]
    fn hashes_and_numbers_are_read() {
        assert_eq!(**unhex("2a00fF7e").expect("hex"), [0x2a, 0, 0xff, 0x7e]);
        assert!(unhex("").expect("empty").is_empty());
        assert!(unhex("2").is_err() && unhex("2g").is_err() && unhex("\u{e9}").is_err());
        assert_eq!(integer("1700000000.000000").ok(), Some(1_700_000_000));
        assert!(integer("").is_err() && integer("x").is_err());
    }
}
