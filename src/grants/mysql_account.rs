//! One row of `mysql.user`, read the way `MySQL` reads it.
//!
//! A row whose meaning cannot be told keeps its place in the order, so that no other row wins in its stead, and is never
//! logged in to. Attributes that are not known here are no obstacle.

use zeroize::Zeroizing;

use super::account::{Account, Authentication, Limits, PasswordAge, TlsRequirement};
use super::digest;
use super::host::HostPattern;
use super::json::Json;
use super::privileges::PRIVILEGES;
use super::product::Product;
use super::rows::MySqlUserRow;

/// Plugins that can hold two passwords at a time.
const WITH_SECOND_PASSWORD: [&str; 3] = ["mysql_native_password", "caching_sha2_password", "sha256_password"];

/// Reads a row.
pub(super) fn parse(row: &MySqlUserRow, product: &Product) -> Account {
    let pattern = HostPattern::parse(&row.host, product.host_syntax());
    let rank = |pattern: &HostPattern| product.host_rank(pattern);
    let mut account = Account::new(&row.user, &row.host, pattern, rank, digest::user_row(row));
    if let Err(reason) = fill(&mut account, row) {
        account.authentication.clear();
        account.unreadable = Some(reason);
    }
    account
}

fn fill(account: &mut Account, row: &MySqlUserRow) -> Result<(), String> {
    account.locked = row.account_locked;
    account.access = PRIVILEGES.iter().fold(0, |access, (column, _, bit)| {
        let granted = row.privileges.iter().any(|(name, yes)| *yes && name.eq_ignore_ascii_case(column));
        access | (u64::from(granted) << bit)
    });
    account.password = PasswordAge {
        last_changed: if row.password_expired { Some(0) } else { row.password_last_changed },
        lifetime: row.password_lifetime.unwrap_or(-1),
    };
    account.limits = Limits {
        user_connections: row.max_user_connections,
        connections_per_hour: row.max_connections,
        questions_per_hour: row.max_questions,
        updates_per_hour: row.max_updates,
    };
    account.tls = match row.ssl_type.to_ascii_uppercase().as_str() {
        "" => TlsRequirement::None,
        "ANY" => TlsRequirement::Any,
        "X509" => TlsRequirement::X509,
        "SPECIFIED" => TlsRequirement::Specified {
            cipher: row.ssl_cipher.clone(),
            issuer: row.x509_issuer.clone(),
            subject: row.x509_subject.clone(),
        },
        _ => TlsRequirement::Impossible,
    };
    if row.plugin.is_empty() {
        return Err("no plugin".to_owned());
    }
    let string = std::str::from_utf8(&row.authentication_string)
        .map_err(|_| "authentication_string is not text".to_owned())?;
    if string.contains('\0') {
        return Err("authentication_string holds a NUL".to_owned());
    }
    let with = |plugin: &str, string: &str| Authentication {
        plugin: plugin.to_owned(),
        string: Zeroizing::new(string.to_owned()),
    };
    account.authentication = vec![with(&row.plugin, string)];

    let Some(text) = row.user_attributes.as_ref().filter(|text| !text.is_empty()) else { return Ok(()) };
    let attributes = match serde_json::from_str::<Json>(text) {
        Ok(Json::Null) => return Ok(()),
        Ok(json @ Json::Object(_)) => json,
        Ok(_) => return Err("User_attributes is not a JSON object".to_owned()),
        // The error names a position and what was expected, not the text itself.
        Err(error) => {
            return Err(format!(
                "User_attributes is not readable JSON (line {} column {})",
                error.line(),
                error.column()
            ));
        }
    };
    account.restrictions = restrictions(attributes.get("Restrictions"))?;
    account.failed_login_limit = failed_login_limit(attributes.get("Password_locking"))?;
    match attributes.get("additional_password") {
        None | Some(Json::Null) => {}
        Some(Json::String(second)) if second.is_empty() => {}
        Some(Json::String(second)) if WITH_SECOND_PASSWORD.contains(&row.plugin.as_str()) => {
            account.authentication.push(with(&row.plugin, second));
        }
        Some(Json::String(_)) => return Err("a second password for a plugin that has none".to_owned()),
        Some(_) => return Err("additional_password is not a text".to_owned()),
    }
    match attributes.get("multi_factor_authentication") {
        None | Some(Json::Null) => {}
        Some(Json::Array(factors)) if factors.is_empty() => {}
        // One exchange after the other: no single plugin lets anybody in, and so none is named as one.
        Some(Json::Array(factors)) => {
            let mut plugins = row.plugin.clone();
            for factor in factors {
                let Some(Json::String(plugin)) = factor.get("plugin") else {
                    return Err("a factor of multi_factor_authentication without a plugin".to_owned());
                };
                plugins = format!("{plugins}, then {plugin}");
            }
            account.authentication = vec![with(&plugins, "")];
        }
        Some(_) => return Err("multi_factor_authentication is not an array".to_owned()),
    }
    Ok(())
}

/// Partial revokes: `[{"Database": "app", "Privileges": ["SELECT"]}]`.
fn restrictions(json: Option<&Json>) -> Result<Vec<(String, u64)>, String> {
    let unreadable = || "Restrictions of an unknown shape".to_owned();
    let list = match json {
        None | Some(Json::Null) => return Ok(Vec::new()),
        Some(Json::Array(list)) => list,
        Some(_) => return Err(unreadable()),
    };
    let mut restrictions = Vec::with_capacity(list.len());
    for element in list {
        let (Some(Json::String(database)), Some(Json::Array(privileges))) =
            (element.get("Database"), element.get("Privileges"))
        else {
            return Err(unreadable());
        };
        let mut revoked = 0;
        for privilege in privileges {
            let Json::String(name) = privilege else { return Err(unreadable()) };
            let known = PRIVILEGES.iter().find(|(_, sql, _)| sql.eq_ignore_ascii_case(name));
            revoked |= known.map_or(u64::MAX, |(_, _, bit)| 1 << bit);
        }
        restrictions.push((database.clone(), revoked));
    }
    Ok(restrictions)
}

/// `{"failed_login_attempts": 3, "password_lock_time_days": 2}`; either of them 0 switches the count off.
fn failed_login_limit(json: Option<&Json>) -> Result<Option<u32>, String> {
    let json = match json {
        None | Some(Json::Null) => return Ok(None),
        Some(json @ Json::Object(_)) => json,
        Some(_) => return Err("Password_locking is not an object".to_owned()),
    };
    let number = |name| match json.get(name) {
        None => Ok(0),
        Some(Json::Integer(value)) => Ok(*value),
        Some(_) => Err(format!("{name} is not an integer")),
    };
    let (attempts, days) = (number("failed_login_attempts")?, number("password_lock_time_days")?);
    Ok(u32::try_from(attempts).ok().filter(|attempts| *attempts != 0 && days != 0))
}
