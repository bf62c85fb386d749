//! `spillway check --live`: logs in to every node and tells what the monitor account lacks.

use std::time::Duration;

use tokio::task::JoinSet;

use super::asking::{heartbeat_query, replica_query};
use super::client::{AskError, Client, own_login, takes_header};
use super::members::replicas_query;
use super::mysql_tables;
use crate::config::{ClientAddress, Cluster, ClusterKind, Config, Node};
use crate::grants::Product;

/// What the monitor account must be able to read, and what is granted for it.
const TABLES: &[&str] = &["db", "tables_priv", "columns_priv", "procs_priv", "proxies_priv"];
const TABLES_OF_MARIADB: &[&str] = &["roles_mapping"];
const TABLES_OF_MYSQL_8: &[&str] = &["role_edges", "default_roles", "global_grants"];

/// Errors of a missing privilege: on a table, a column, a database, a global one, and "unknown table".
const DENIED: &[u16] = &[1142, 1143, 1044, 1227];

/// What was found out about one node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NodeReport {
    /// `CLUSTER/NODE (ADDRESS)`.
    pub node: String,
    /// Version and default state, when the node could be asked.
    pub facts: Option<String>,
    /// What is wrong; empty: nothing.
    pub problems: Vec<String>,
    /// Statements that mend it, to be run on the cluster.
    pub statements: Vec<String>,
}

/// The tables of the schema `mysql` that are read.
pub(super) fn tables(product: &Product) -> impl Iterator<Item = &'static str> {
    let roles = match product {
        Product::MySql { .. } if mysql_tables::has_roles(product) => TABLES_OF_MYSQL_8,
        Product::MySql { .. } => &[],
        Product::MariaDb { .. } | Product::Unsupported { .. } => TABLES_OF_MARIADB,
    };
    [product.account_table()].into_iter().chain(roles.iter().copied()).chain(TABLES.iter().copied())
}

/// Asks every node of the configuration, all at once. Sorted by cluster and node.
pub async fn check(config: &Config) -> Vec<NodeReport> {
    let mut tasks = JoinSet::new();
    for cluster in config.clusters.values() {
        for node in &cluster.nodes {
            tasks.spawn(check_node(cluster.clone(), node.clone()));
        }
    }
    let mut reports = tasks.join_all().await;
    reports.sort_by(|a, b| a.node.cmp(&b.node));
    reports
}

async fn check_node(cluster: Cluster, node: Node) -> NodeReport {
    let mut report = NodeReport {
        node: format!("{}/{} ({})", cluster.name, node.name, node.address),
        facts: None,
        problems: Vec::new(),
        statements: Vec::new(),
    };
    if let Err(e) = examine(&cluster, &node, &mut report).await {
        report.problems.push(e);
    }
    report
}

async fn examine(cluster: &Cluster, node: &Node, report: &mut NodeReport) -> Result<(), String> {
    let limit = cluster.connect_timeout;
    let mut client = Client::connect(cluster, node, limit)
        .await
        .map_err(|e| format!("login as {:?}: {e}", cluster.monitor.user))?;
    let (facts, _) = own_login(cluster, node).await.map_err(|e| format!("login: {e}"))?;
    report.facts = Some(format!("version {}", facts.version));
    if let ClientAddress::Announced(version) = cluster.client_address
        && let Err(reason) = takes_header(cluster, node, version).await
    {
        report.problems.push(format!(
            "does not take a PROXY header ({reason}); set proxy_protocol_networks there to the address of this machine"
        ));
    }
    let account = client.value("SELECT CURRENT_USER()", limit).await.map_err(|e| e.to_string())?;
    let account = quoted(&account);
    for table in tables(&Product::from_version(&facts.version)) {
        let query = format!("SELECT 1 FROM mysql.{table} LIMIT 0");
        lacks(
            &mut client,
            &query,
            limit,
            report,
            &format!("may not read mysql.{table}"),
            format!("GRANT SELECT ON mysql.{table} TO {account};"),
        )
        .await?;
    }
    let product = Product::from_version(&facts.version);
    let replica = format!("GRANT {} ON *.* TO {account};", may_see_replicas(&product));
    let members = |table| {
        (
            format!("SELECT 1 FROM performance_schema.{table} LIMIT 0"),
            format!("GRANT SELECT ON performance_schema.{table} TO {account};"),
        )
    };
    let needed = match cluster.kind {
        ClusterKind::Galera | ClusterKind::Static => Vec::new(),
        ClusterKind::Replication | ClusterKind::MultiPrimary => {
            let mut needed = vec![(replica_query(&product).to_owned(), replica)];
            if let Some(table) = &cluster.monitor.heartbeat_table {
                needed.push((heartbeat_query(table), format!("GRANT SELECT ON {table} TO {account};")));
            }
            if cluster.discover.is_some() {
                needed.push((
                    replicas_query(&product).to_owned(),
                    format!("GRANT {} ON *.* TO {account};", may_list_replicas(&product)),
                ));
            }
            needed
        }
        ClusterKind::GroupReplication => {
            vec![members("replication_group_members"), members("replication_group_member_stats")]
        }
    };
    for (query, statement) in needed {
        lacks(&mut client, &query, limit, report, "may not see how the node replicates", statement).await?;
    }
    let query =
        "SELECT COUNT(*) FROM information_schema.USER_PRIVILEGES WHERE PRIVILEGE_TYPE = 'SHOW DATABASES'";
    if client.value(query, limit).await.map_err(|e| e.to_string())? == "0" {
        report.problems.push("may not see all databases".to_owned());
        report.statements.push(format!("GRANT SHOW DATABASES ON *.* TO {account};"));
    }
    client.close().await;
    Ok(())
}

/// The privilege for the state of a server as a replica. It has gone from one to the other in `MariaDB` 10.5.
fn may_see_replicas(product: &Product) -> &'static str {
    match product {
        Product::MariaDb { major: 10, minor: 5, patch: 2..=8 } => "REPLICATION SLAVE ADMIN",
        product if product.is_mariadb_at_least(10, 6) => "SLAVE MONITOR",
        Product::MariaDb { major: 10, minor: 5, patch: 9.. } => "SLAVE MONITOR",
        _ => "REPLICATION CLIENT",
    }
}

/// The privilege for the list of a server's replicas.
fn may_list_replicas(product: &Product) -> &'static str {
    match product {
        product if product.is_mariadb_at_least(10, 6) => "REPLICATION MASTER ADMIN",
        Product::MariaDb { major: 10, minor: 5, patch: 2.. } => "REPLICATION MASTER ADMIN",
        _ => "REPLICATION SLAVE",
    }
}

/// Runs a query; a denial is a problem with its mending statement, any other failure ends the examination.
async fn lacks(
    client: &mut Client,
    query: &str,
    limit: Duration,
    report: &mut NodeReport,
    problem: &str,
    statement: String,
) -> Result<(), String> {
    match client.rows(query, limit).await {
        Ok(_) => Ok(()),
        Err(AskError::Server { code, .. }) if DENIED.contains(&code) => {
            report.problems.push(problem.to_owned());
            report.statements.push(statement);
            Ok(())
        }
        Err(e) => Err(format!("{query}: {e}")),
    }
}

/// `user@host` as a statement wants it.
fn quoted(account: &str) -> String {
    let (user, host) = account.rsplit_once('@').unwrap_or((account, "%"));
    let quote = |text: &str| format!("'{}'", text.replace('\\', "\\\\").replace('\'', "\\'"));
    format!("{}@{}", quote(user), quote(host))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn privileges_have_the_names_of_the_version() {
        let names = |version| {
            let product = Product::from_version(version);
            (may_see_replicas(&product), may_list_replicas(&product))
        };
        let new = ("SLAVE MONITOR", "REPLICATION MASTER ADMIN");
        for (version, expected) in [
            ("11.8.9-MariaDB", new),
            ("10.6.0-MariaDB", new),
            ("10.5.9-MariaDB", new),
            ("10.5.8-MariaDB", ("REPLICATION SLAVE ADMIN", "REPLICATION MASTER ADMIN")),
            ("10.5.1-MariaDB", ("REPLICATION CLIENT", "REPLICATION SLAVE")),
            ("10.3.39-MariaDB", ("REPLICATION CLIENT", "REPLICATION SLAVE")),
            ("9.7.4", ("REPLICATION CLIENT", "REPLICATION SLAVE")),
        ] {
            assert_eq!(names(version), expected, "{version}");
        }
    }

    #[test]
    fn every_version_has_its_table_of_accounts() {
        for (version, table) in
            [("10.3.39-MariaDB", "user"), ("10.4.6-MariaDB", "global_priv"), ("5.7.44", "user")]
        {
            let tables: Vec<_> = tables(&Product::from_version(version)).collect();
            assert_eq!(tables[0], table, "{version}");
            assert_eq!(tables.contains(&"roles_mapping"), version.contains("MariaDB"), "{version}");
        }
    }

    #[test]
    fn an_account_is_quoted_at_its_last_at_sign() {
        assert_eq!(quoted("spillway@10.0.0.%"), "'spillway'@'10.0.0.%'");
        assert_eq!(quoted("o'neil@home@%"), r"'o\'neil@home'@'%'");
    }
}
