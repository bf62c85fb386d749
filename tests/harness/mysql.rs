//! What is peculiar to `mysqld` 9.7, which runs in [`root::MYSQL`].

use super::Outcome;
use super::root;
use super::server::{MONITOR_PASSWORD, MONITOR_USER};
use std::path::Path;
use std::process::Command;

/// Options of `mysqld` beside those of every server.
pub(super) const OPTIONS: &[&str] = &[
    // Without it the server looks for a directory that the packages do not make, and ends.
    "--secure-file-priv=",
    // A second listener, on a port of its own.
    "--mysqlx=0",
    // Unlike MariaDB it writes a binary log unless it is told not to; a later --log-bin wins.
    "--skip-log-bin",
    "--innodb-redo-log-capacity=16M",
];

/// The root with `MySQL` in it, or why there is none.
pub(crate) fn root() -> Outcome<&'static Path> {
    root::MYSQL.path()
}

/// The `mysql` program of the root.
pub(crate) fn client() -> Outcome<Command> {
    root::MYSQL.client()
}

/// The statements that create the monitor account, with names of `MySQL` 9.7.
pub(crate) fn monitor_statements() -> String {
    let account = format!("'{MONITOR_USER}'@'%'");
    let grants = MONITOR_TABLES.map(|table| format!("GRANT SELECT ON mysql.{table} TO {account};\n"));
    format!(
        "CREATE USER {account} IDENTIFIED WITH caching_sha2_password BY '{MONITOR_PASSWORD}';\n\
         GRANT SHOW DATABASES, REPLICATION CLIENT ON *.* TO {account};\n{}",
        grants.concat()
    )
}

/// The tables of the schema `mysql` that the monitor account may read.
pub(crate) const MONITOR_TABLES: [&str; 9] = [
    "user",
    "db",
    "tables_priv",
    "columns_priv",
    "procs_priv",
    "proxies_priv",
    "role_edges",
    "default_roles",
    "global_grants",
];
