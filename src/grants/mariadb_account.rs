//! One row of `mysql.user` of `MariaDB` 10.3, read the way that server reads it, by the sources of 10.3.7.
//!
//! It knows neither locked accounts, nor the age of passwords, nor more than one plugin for an account. A row whose meaning
//! cannot be told keeps its place in the order, so that no other row wins in its stead, and is never logged in to.

use zeroize::Zeroizing;

use super::account::{Account, Authentication, Limits, NATIVE, Parsed, PasswordAge, TlsRequirement};
use super::digest;
use super::host::HostPattern;
use super::privileges::{DELETE_HISTORY, Privileges};
use super::product::Product;
use super::rows::MariaDbUserRow;

/// Length of a hash of `mysql_native_password`, and of `mysql_old_password`.
const HASH: usize = 41;
const OLD_HASH: usize = 16;

/// Reads a row.
pub(super) fn parse(row: &MariaDbUserRow, skip_name_resolve: bool, product: &Product) -> Parsed {
    if row.is_role {
        return Parsed::Role { name: row.user.clone(), access: access(row, product) };
    }
    let host = if row.host.is_empty() { "%" } else { row.host.as_str() };
    let pattern = HostPattern::parse(host, product.host_syntax());
    if skip_name_resolve && pattern.needs_resolving() {
        return Parsed::Ignored("the host needs name resolving, which the server has switched off");
    }
    let rank = |pattern: &HostPattern| product.host_rank(pattern);
    let mut account = Account::new(&row.user, host, pattern, rank, digest::mariadb_user_row(row));
    account.access = access(row, product);
    account.default_role.clone_from(&row.default_role);
    account.password = PasswordAge { last_changed: None, lifetime: 0 };
    // The server keeps limits as 32-bit numbers, and so drops what is above.
    let limit = |value: i64| value & 0xffff_ffff;
    account.limits = Limits {
        user_connections: i64::from(row.max_user_connections as i32),
        connections_per_hour: limit(row.max_connections),
        questions_per_hour: limit(row.max_questions),
        updates_per_hour: limit(row.max_updates),
    };
    account.tls = match row.ssl_type.as_str() {
        "" => TlsRequirement::None,
        "ANY" => TlsRequirement::Any,
        "X509" => TlsRequirement::X509,
        _ => TlsRequirement::Specified {
            cipher: row.ssl_cipher.clone(),
            issuer: row.x509_issuer.clone(),
            subject: row.x509_subject.clone(),
        },
    };
    match authentication(row) {
        Ok(authentication) => account.authentication = vec![authentication],
        Err(reason) => account.unreadable = Some(reason.to_owned()),
    }
    Parsed::Account(Box::new(account))
}

/// `plugin` decides if there is one, and where it is one of the two of old without a hash of its own, `Password` still
/// holds the hash.
fn authentication(row: &MariaDbUserRow) -> Result<Authentication, &'static str> {
    let with = |plugin: &str, string: &Zeroizing<String>| {
        Ok(Authentication { plugin: plugin.to_owned(), string: string.clone() })
    };
    // The server leaves such a row out, whatever the plugin is.
    let by_password = match row.password.len() {
        0 | HASH => NATIVE,
        OLD_HASH => "mysql_old_password",
        _ => return Err("Password is no hash that the server knows"),
    };
    if row.authentication_string.contains('\0') {
        return Err("authentication_string holds a NUL");
    }
    match row.plugin.as_str() {
        "" => with(by_password, &row.password),
        plugin if plugin.eq_ignore_ascii_case(NATIVE) && row.authentication_string.is_empty() => {
            with(NATIVE, &row.password)
        }
        // Of what is no hash, the server would remember nothing, and ask for no password.
        plugin if plugin.eq_ignore_ascii_case(NATIVE) && row.authentication_string.len() != HASH => {
            Err("authentication_string is no hash of mysql_native_password")
        }
        plugin if plugin.eq_ignore_ascii_case(NATIVE) => with(NATIVE, &row.authentication_string),
        plugin => with(plugin, &row.authentication_string),
    }
}

/// Global privileges. Tables that were made by a version without `DELETE HISTORY` say it by `DELETE`.
fn access(row: &MariaDbUserRow, product: &Product) -> u64 {
    let column = |column: &str| {
        row.privileges.iter().find(|(name, _)| name.eq_ignore_ascii_case(column)).map(|(_, yes)| *yes)
    };
    let says_delete = column("Delete_history_priv").is_none() && column("Delete_priv") == Some(true);
    let known = Privileges::of_columns(&row.privileges, product).bits();
    known | if says_delete { 1 << DELETE_HISTORY } else { 0 }
}
