//! `spillway check --live`: logs in to every node and tells what the monitor account lacks.

use std::time::Duration;

use tokio::task::JoinSet;

use super::asking::{heartbeat_query, replica_query};
use super::client::{AskError, Client, own_login, takes_header};
use super::members::replicas_query;
use super::mysql_tables;
use crate::config::{ClientAddress, Cluster, ClusterKind, Config, Failover, Node};
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
    if changes_writers(cluster) {
        examine_operator(cluster, node, report).await?;
    }
    Ok(())
}

/// Whether the configuration says how the cluster's writer is changed.
fn changes_writers(cluster: &Cluster) -> bool {
    let handover = &cluster.handover;
    handover.account.is_some() || handover.replication.is_some() || handover.failover != Failover::Off
}

/// Makes sure that the account which changes the writer is allowed to.
async fn examine_operator(cluster: &Cluster, node: &Node, report: &mut NodeReport) -> Result<(), String> {
    let limit = cluster.connect_timeout;
    let mut operator = cluster.clone();
    if let Some(account) = &cluster.handover.account {
        operator.monitor.user.clone_from(&account.user);
        operator.monitor.secret = account.secret.clone();
    }
    let login = |e: AskError| format!("login as {:?}, which changes the writer: {e}", operator.monitor.user);
    let mut client = Client::connect(&operator, node, limit).await.map_err(login)?;
    let product = client.value("SELECT VERSION()", limit).await.map_err(|e| e.to_string())?;
    let product = Product::from_version(&product);
    let account = client.value("SELECT CURRENT_USER()", limit).await.map_err(|e| e.to_string())?;
    let grants = client.rows("SHOW GRANTS", limit).await.map_err(|e| e.to_string())?;
    let grants: Vec<String> =
        grants.iter().filter_map(|row| Some(String::from_utf8_lossy(row.value(0)??).into_owned())).collect();
    client.close().await;
    let lacking = lacking(&grants, needed_to_change(&product, cluster.kind));
    if !lacking.is_empty() {
        let lacking = lacking.join(", ");
        report.problems.push(format!("{account} changes the writer and lacks {lacking}"));
        report.statements.push(format!("GRANT {lacking} ON *.* TO {};", quoted(&account)));
    }
    Ok(())
}

/// The global privileges of an account that changes the writer, by the names that the product has for them.
fn needed_to_change(product: &Product, kind: ClusterKind) -> &'static [&'static str] {
    // What a replication cluster needs comes last.
    let (all, of_a_pair): (&[&str], usize) = match product {
        Product::MySql { .. } => (
            &[
                "SYSTEM_VARIABLES_ADMIN",
                "CONNECTION_ADMIN",
                "REPLICATION CLIENT",
                "REPLICATION_SLAVE_ADMIN",
                "RELOAD",
            ],
            3,
        ),
        Product::MariaDb { .. } if product.is_mariadb_at_least(10, 5) => (
            &[
                "READ_ONLY ADMIN",
                "CONNECTION ADMIN",
                "BINLOG MONITOR",
                "SLAVE MONITOR",
                "REPLICATION SLAVE ADMIN",
                "RELOAD",
            ],
            4,
        ),
        Product::MariaDb { .. } | Product::Unsupported { .. } => {
            (&["SUPER", "REPLICATION CLIENT", "RELOAD"], 2)
        }
    };
    if kind == ClusterKind::MultiPrimary { &all[..of_a_pair] } else { all }
}

/// Which of the privileges stand in none of these lines of `SHOW GRANTS`.
fn lacking(grants: &[String], needed: &'static [&'static str]) -> Vec<&'static str> {
    // Replicas have two names.
    let modern = |name: &str| name.replace("REPLICA ", "SLAVE ");
    let global = |line: &String| {
        let privileges = line.strip_prefix("GRANT ")?.split_once(" ON *.* TO ")?.0;
        Some(privileges.split(", ").map(modern).collect::<Vec<_>>())
    };
    let held: Vec<String> = grants.iter().filter_map(global).flatten().collect();
    let holds = |name: &str| held.iter().any(|held| held == name);
    if holds("ALL PRIVILEGES") {
        return Vec::new();
    }
    needed.iter().copied().filter(|name| !holds(name)).collect()
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
    fn what_an_operator_lacks_is_read_from_its_grants() {
        let mariadb = Product::from_version("10.11.6-MariaDB");
        let of = |lines: &[&str], kind| {
            let lines: Vec<String> = lines.iter().map(ToString::to_string).collect();
            lacking(&lines, needed_to_change(&mariadb, kind))
        };
        let pair =
            "GRANT BINLOG MONITOR, CONNECTION ADMIN, READ_ONLY ADMIN, REPLICA MONITOR ON *.* TO `o`@`%`";
        assert!(of(&[pair], ClusterKind::MultiPrimary).is_empty());
        assert_eq!(of(&[pair], ClusterKind::Replication), ["REPLICATION SLAVE ADMIN", "RELOAD"]);
        // Of the whole server, and by a role that is active.
        let shop = "GRANT ALL PRIVILEGES ON `shop`.* TO `o`@`%`";
        let role = "GRANT RELOAD, REPLICATION SLAVE ADMIN ON *.* TO `changer`";
        assert!(of(&[pair, "GRANT `changer` TO `o`@`%`", role], ClusterKind::Replication).is_empty());
        assert_eq!(of(&[pair, shop], ClusterKind::Replication), ["REPLICATION SLAVE ADMIN", "RELOAD"]);
        assert!(of(&["GRANT ALL PRIVILEGES ON *.* TO `o`@`%`"], ClusterKind::Replication).is_empty());
        let old = needed_to_change(&Product::from_version("10.4.30-MariaDB"), ClusterKind::Replication);
        assert_eq!(old, ["SUPER", "REPLICATION CLIENT", "RELOAD"]);
    }

    #[test]
    fn an_account_is_quoted_at_its_last_at_sign() {
        assert_eq!(quoted("spillway@10.0.0.%"), "'spillway'@'10.0.0.%'");
        assert_eq!(quoted("o'neil@home@%"), r"'o\'neil@home'@'%'");
    }
}
