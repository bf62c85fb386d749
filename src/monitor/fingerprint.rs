//! A cheap look that tells whether a node's accounts are still those that were read.
//!
//! The server hashes the rows that the loader reads, so that few bytes travel, and nothing is parsed and indexed here; for
//! the server itself it is as much work as sending the rows. That
//! sees every change however it was made: by a statement for accounts, by DML, by replication, by Galera's applier. The
//! counters and times that servers keep do not, and are not used: `MariaDB` counts `SET PASSWORD` as `Com_set_option`,
//! like every other `SET`; the `UPDATE_TIME` of its Aria tables moves when pages are written to disk, long after a
//! change; and all counters of statements move before the statement has done anything.
//!
//! The hashes are 240 bits of SHA-256 of each row, added up without carry. Who may write to those tables could make rows
//! whose sums are alike, but needs no such trick. Columns that the loader does not look at, and that differ from node to
//! node, are left out. Nothing but `SELECT` on the tables themselves is needed.

use std::collections::BTreeMap;
use std::time::Duration;

use super::client::{AskError, Client, text};
use super::live;
use super::loader::{LoadError, read_variables};
use crate::grants::{Fingerprint, Product};

/// Columns that say who granted something and when.
const LEFT_OUT: [&str; 2] = ["grantor", "timestamp"];

/// Asks a node. Not cancel safe, like every query.
pub(super) async fn take(client: &mut Client, limit: Duration) -> Result<Fingerprint, LoadError> {
    let variables = read_variables(client).await?;
    let product = Product::from_version(&variables.version);
    let names: Vec<String> = live::tables(&product).map(|table| format!("'{table}'")).collect();
    // Versions differ in their columns.
    let query = format!(
        "SELECT TABLE_NAME, COLUMN_NAME, DATA_TYPE, IS_NULLABLE FROM information_schema.COLUMNS \
         WHERE TABLE_SCHEMA = 'mysql' AND TABLE_NAME IN ({}) ORDER BY TABLE_NAME, ORDINAL_POSITION",
        names.join(", ")
    );
    let mut columns: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for row in client.rows(&query, limit).await? {
        let column = text(&row, 1)?;
        if !LEFT_OUT.contains(&column.to_ascii_lowercase().as_str()) {
            let value = value(&column, &text(&row, 2)?, text(&row, 3)? != "NO");
            columns.entry(text(&row, 0)?.to_ascii_lowercase()).or_default().push(value);
        }
    }
    if columns.len() != names.len() {
        return Err(AskError::Shape("not all grant tables have columns").into());
    }
    // One statement, so that all tables are looked at in the same moment.
    let queries: Vec<String> = columns.iter().map(|(table, columns)| hashing(table, columns)).collect();
    let mut tables = Vec::new();
    for row in client.rows(&queries.join(" UNION ALL "), limit).await? {
        let cells =
            (0..row.columns().len()).map(|column| text(&row, column)).collect::<Result<Vec<_>, _>>()?;
        if cells.get(1) != cells.get(2) {
            return Err(AskError::Shape("a row is too long for the server to hash it").into());
        }
        tables.push(cells.join(" "));
    }
    tables.sort_unstable();
    let mut databases = Vec::new();
    for row in client.rows("SHOW DATABASES", limit).await? {
        databases.push(text(&row, 0)?);
    }
    databases.sort_unstable();
    Ok(Fingerprint { variables, databases, tables })
}

/// A column's value as text in which nothing stands for two values.
fn value(name: &str, kind: &str, nullable: bool) -> String {
    let name = format!("`{}`", name.replace('`', "``"));
    let kind = kind.to_ascii_lowercase();
    let is_number = matches!(kind.as_str(), "enum" | "set") || kind.ends_with("int");
    let value = if is_number { format!("{name}+0") } else { format!("HEX({name})") };
    if nullable { format!("IFNULL({value}, '-')") } else { value }
}

/// The table's name, its number of rows, how many of them could be hashed, and their hashes.
fn hashing(table: &str, values: &[String]) -> String {
    // As far as a number without a sign holds hexadecimal digits on every server.
    let sums = [1, 16, 31, 46]
        .map(|from| format!("BIT_XOR(CAST(CONV(SUBSTR(h, {from}, 15), 16, 10) AS UNSIGNED))"))
        .join(", ");
    // Without the limit the subquery would be merged, and every row hashed for each sum.
    format!(
        "SELECT '{table}', COUNT(*), COUNT(h), {sums} FROM \
         (SELECT SHA2(CONCAT_WS(',', {}), 256) AS h FROM mysql.`{table}` LIMIT 18446744073709551615) AS t",
        values.join(", ")
    )
}

#[cfg(test)]
mod tests {
    use super::value;

    #[test]
    fn values_are_unambiguous_and_names_quoted() {
        assert_eq!(value("User", "char", false), "HEX(`User`)");
        assert_eq!(value("Select_priv", "ENUM", false), "`Select_priv`+0");
        assert_eq!(value("Password_lifetime", "smallint", true), "IFNULL(`Password_lifetime`+0, '-')");
        assert_eq!(value("a`b", "json", true), "IFNULL(HEX(`a``b`), '-')");
    }
}
