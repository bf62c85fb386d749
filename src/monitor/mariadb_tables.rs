//! The grant tables that only `MariaDB` has.
//!
//! What the monitor account must be granted: `SELECT` on `mysql.global_priv` (10.3: on `mysql.user`), `mysql.db`,
//! `mysql.tables_priv`, `mysql.columns_priv`, `mysql.procs_priv`, `mysql.roles_mapping` and `mysql.proxies_priv`, and
//! `SHOW DATABASES ON *.*`.

use std::collections::BTreeMap;
use std::time::Duration;

use zeroize::Zeroizing;

use super::client::{AskError, Client, text};
use crate::backend::Row;
use crate::grants::{GlobalPrivRow, MariaDbUserRow, Product, RawAccounts, RoleMappingRow};

/// Columns without which a row of `mysql.user` cannot be understood.
const NEEDED: [&str; 14] = [
    "host",
    "user",
    "plugin",
    "authentication_string",
    "ssl_type",
    "ssl_cipher",
    "x509_issuer",
    "x509_subject",
    "max_questions",
    "max_updates",
    "max_connections",
    "max_user_connections",
    "is_role",
    "default_role",
];

/// Adds accounts and roles. Not cancel safe, like every query.
pub(super) async fn read(
    client: &mut Client,
    product: &Product,
    raw: &mut RawAccounts,
    limit: Duration,
) -> Result<(), AskError> {
    if product.is_mariadb_10_3() {
        for row in client.rows("SELECT * FROM mysql.user", limit).await? {
            raw.mariadb_users.push(user(&row)?);
        }
    } else {
        for row in client.rows("SELECT Host, User, Priv FROM mysql.global_priv", limit).await? {
            raw.global_priv.push(GlobalPrivRow {
                host: text(&row, 0)?,
                user: text(&row, 1)?,
                priv_json: Zeroizing::new(text(&row, 2)?),
            });
        }
    }
    let query = "SELECT Host, User, Role, Admin_option FROM mysql.roles_mapping";
    for row in client.rows(query, limit).await? {
        raw.roles.push(RoleMappingRow {
            host: text(&row, 0)?,
            user: text(&row, 1)?,
            role: text(&row, 2)?,
            admin: text(&row, 3)? == "Y",
        });
    }
    Ok(())
}

/// A row of `mysql.user` of 10.3.
fn user(row: &Row) -> Result<MariaDbUserRow, AskError> {
    let mut user = MariaDbUserRow::default();
    let mut columns: BTreeMap<String, usize> = BTreeMap::new();
    for (index, name) in row.columns().iter().enumerate() {
        if name.to_ascii_lowercase().ends_with("_priv") {
            user.privileges.push((name.clone(), text(row, index)?.eq_ignore_ascii_case("Y")));
        }
        columns.insert(name.to_ascii_lowercase(), index);
    }
    if !NEEDED.iter().all(|name| columns.contains_key(*name)) {
        return Err(AskError::Shape("mysql.user lacks a column; mysql_upgrade makes it"));
    }
    // Of a table that MySQL 5.7 made, Password is missing.
    let get = |name: &str| columns.get(name).map_or(Ok(String::new()), |index| text(row, *index));
    let limit = |name: &str| integer(&get(name)?);
    user.host = get("host")?;
    user.user = get("user")?;
    user.password = Zeroizing::new(get("password")?);
    user.plugin = get("plugin")?;
    user.authentication_string = Zeroizing::new(get("authentication_string")?);
    user.ssl_type = get("ssl_type")?;
    user.ssl_cipher = get("ssl_cipher")?;
    user.x509_issuer = get("x509_issuer")?;
    user.x509_subject = get("x509_subject")?;
    user.max_questions = limit("max_questions")?;
    user.max_updates = limit("max_updates")?;
    user.max_connections = limit("max_connections")?;
    user.max_user_connections = limit("max_user_connections")?;
    user.is_role = get("is_role")?.eq_ignore_ascii_case("Y");
    user.default_role = get("default_role")?;
    Ok(user)
}

fn integer(text: &str) -> Result<i64, AskError> {
    text.parse().map_err(|_| AskError::Shape("a column of mysql.user is no number"))
}

#[cfg(test)]
mod tests {
    use super::user;
    use crate::backend::Row;

    /// The columns of 10.3, with the values of an account that was just made.
    const COLUMNS: &[(&str, &str)] = &[
        ("Host", "%"),
        ("User", "ann"),
        ("Password", "*94BDCEBE19083CE2A1F959FD02F964C7AF4CFC29"),
        ("Select_priv", "N"),
        ("Super_priv", "Y"),
        ("Delete_history_priv", "N"),
        ("ssl_type", ""),
        ("ssl_cipher", ""),
        ("x509_issuer", ""),
        ("x509_subject", ""),
        ("max_questions", "0"),
        ("max_updates", "0"),
        ("max_connections", "0"),
        ("max_user_connections", "-1"),
        ("plugin", ""),
        ("authentication_string", ""),
        ("password_expired", "N"),
        ("is_role", "N"),
        ("default_role", ""),
        ("max_statement_time", "0.000000"),
    ];

    fn row(with: &[(&str, &str)], without: &str) -> Row {
        let value = |(name, value): &(&'static str, &'static str)| {
            let other = with.iter().find(|(changed, _)| changed == name).map(|(_, value)| *value);
            (*name, Some(other.unwrap_or(value)))
        };
        let columns: Vec<_> = COLUMNS.iter().filter(|(name, _)| *name != without).map(value).collect();
        Row::of(&columns)
    }

    #[test]
    fn a_row_is_read_by_the_names_of_its_columns() {
        let ann = user(&row(&[], "")).expect("a row");
        assert_eq!((&*ann.host, &*ann.user, &*ann.plugin), ("%", "ann", ""));
        assert_eq!(*ann.password, "*94BDCEBE19083CE2A1F959FD02F964C7AF4CFC29");
        assert_eq!(ann.privileges.len(), 3);
        assert!(ann.privileges.contains(&("Super_priv".to_owned(), true)));
        assert!(!ann.is_role && ann.max_user_connections == -1 && ann.max_questions == 0);
        assert!(!format!("{ann:?}").contains("94BD"), "a hash is printed");

        let with = [
            ("plugin", "ed25519"),
            ("authentication_string", "key"),
            ("is_role", "Y"),
            ("default_role", "clerks"),
            ("ssl_type", "X509"),
            ("max_questions", "7"),
            ("max_updates", "8"),
            ("max_connections", "9"),
        ];
        let other = user(&row(&with, "")).expect("a row");
        assert_eq!(
            (&*other.plugin, &**other.authentication_string, &*other.ssl_type),
            ("ed25519", "key", "X509")
        );
        assert_eq!((other.max_questions, other.max_updates, other.max_connections), (7, 8, 9));
        assert!(other.is_role && other.default_role == "clerks");
    }

    #[test]
    fn a_table_of_another_version_is_read_as_far_as_it_can_be_understood() {
        assert!(user(&row(&[], "Password")).expect("without Password").password.is_empty());
        for needed in
            ["Host", "User", "plugin", "authentication_string", "is_role", "default_role", "ssl_type"]
        {
            assert!(user(&row(&[], needed)).is_err(), "{needed}");
        }
        assert!(user(&row(&[("max_questions", "many")], "")).is_err());
    }
}
