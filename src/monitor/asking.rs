//! What a probe asks a node, by the kind of its cluster and the product that answers.

use std::time::Duration;

use super::client::{AskError, Client, text};
use super::verdict::{Findings, HOLDER, Heartbeat, Source, Values};
use crate::backend::Row;
use crate::config::{Cluster, ClusterKind};
use crate::grants::Product;
use crate::topology::quiesce_lock;

/// The state of a Galera node in one query. Of the ways to read status and variables together this is the cheapest for
/// the server; the schema differs between products.
fn galera_query(schema: &str) -> String {
    format!(
        "SELECT VARIABLE_NAME, VARIABLE_VALUE FROM {schema}.GLOBAL_STATUS WHERE VARIABLE_NAME IN \
         ('wsrep_ready', 'wsrep_connected', 'wsrep_cluster_status', 'wsrep_local_state', \
         'wsrep_local_state_comment', 'wsrep_cluster_size', 'wsrep_cluster_state_uuid', 'wsrep_local_index', \
         'wsrep_local_recv_queue', 'wsrep_flow_control_paused_ns', 'wsrep_gmcast_segment', 'wsrep_replicated') \
         UNION ALL SELECT VARIABLE_NAME, VARIABLE_VALUE FROM {schema}.GLOBAL_VARIABLES WHERE VARIABLE_NAME IN \
         ('read_only', 'wsrep_reject_queries', 'wsrep_desync', 'wsrep_sst_donor_rejects_queries', 'pxc_maint_mode')"
    )
}

// Asked plainly: in one statement with a table, MariaDB 10.11 reports a wrong value.
const READ_ONLY: &str = "SELECT @@global.read_only AS read_only";
const MARIADB_REPLICATION: &str = "SELECT @@global.read_only AS read_only, @@global.server_id AS server_id, \
    @@global.gtid_binlog_pos AS gtid_binlog_pos, @@global.gtid_slave_pos AS gtid_slave_pos";
const MYSQL_REPLICATION: &str = "SELECT @@global.read_only AS read_only, @@global.server_id AS server_id, \
    @@global.super_read_only AS super_read_only, @@global.gtid_executed AS gtid_executed";

const GROUP: &str = "SELECT m.MEMBER_STATE AS member_state, m.MEMBER_ROLE AS member_role, \
    s.COUNT_TRANSACTIONS_REMOTE_IN_APPLIER_QUEUE AS applier_queue, \
    (SELECT COUNT(*) FROM performance_schema.replication_group_members) AS members, \
    (SELECT COUNT(*) FROM performance_schema.replication_group_members WHERE MEMBER_STATE <> 'UNREACHABLE') \
    AS reachable, @@global.read_only AS read_only, @@global.super_read_only AS super_read_only, \
    @@global.group_replication_group_name AS group_name \
    FROM performance_schema.replication_group_members m \
    LEFT JOIN performance_schema.replication_group_member_stats s ON s.MEMBER_ID = m.MEMBER_ID \
    WHERE m.MEMBER_ID = @@global.server_uuid OR m.MEMBER_ID = ''";

/// The names of what a server tells of its replica threads.
struct ReplicaStatus {
    query: &'static str,
    name: &'static str,
    server_id: &'static str,
    io: &'static str,
    sql: &'static str,
    lag: &'static str,
}

const OF_MARIADB: ReplicaStatus = ReplicaStatus {
    query: "SHOW ALL SLAVES STATUS",
    name: "Connection_name",
    server_id: "Master_Server_Id",
    io: "Slave_IO_Running",
    sql: "Slave_SQL_Running",
    lag: "Seconds_Behind_Master",
};
const OF_MYSQL: ReplicaStatus = ReplicaStatus {
    query: "SHOW REPLICA STATUS",
    name: "Channel_Name",
    server_id: "Source_Server_Id",
    io: "Replica_IO_Running",
    sql: "Replica_SQL_Running",
    lag: "Seconds_Behind_Source",
};
const OF_OLD_MYSQL: ReplicaStatus = ReplicaStatus {
    query: "SHOW SLAVE STATUS",
    name: "Channel_Name",
    server_id: "Master_Server_Id",
    io: "Slave_IO_Running",
    sql: "Slave_SQL_Running",
    lag: "Seconds_Behind_Master",
};

fn replica_status(product: &Product) -> &'static ReplicaStatus {
    match product {
        Product::MySql { .. } if product.is_mysql_at_least((8, 0, 22)) => &OF_MYSQL,
        Product::MySql { .. } => &OF_OLD_MYSQL,
        Product::MariaDb { .. } | Product::Unsupported { .. } => &OF_MARIADB,
    }
}

/// The statement that tells of a product's replica threads.
pub(super) fn replica_query(product: &Product) -> &'static str {
    replica_status(product).query
}

/// Asks all that a verdict needs.
pub(super) async fn ask(client: &mut Client, cluster: &Cluster) -> Result<Findings, AskError> {
    let Cluster { kind, monitor, .. } = cluster;
    let limit = monitor.timeout;
    let product = Product::from_version(client.version());
    let is_mysql = matches!(product, Product::MySql { .. });
    let mut findings = Findings::default();
    match kind {
        ClusterKind::Galera => {
            let schema = if is_mysql { "performance_schema" } else { "information_schema" };
            let pairs = client.pairs(&galera_query(schema), limit).await?;
            findings.values =
                pairs.into_iter().map(|(name, value)| (name.to_ascii_lowercase(), value)).collect();
        }
        ClusterKind::GroupReplication => findings.values = values(client, GROUP, limit).await?,
        ClusterKind::Static => findings.values = values(client, READ_ONLY, limit).await?,
        ClusterKind::Replication | ClusterKind::MultiPrimary => {
            let query = if is_mysql { MYSQL_REPLICATION } else { MARIADB_REPLICATION };
            let lock = quiesce_lock(&cluster.name);
            let query = format!("{query}, IS_USED_LOCK({lock}) AS {HOLDER}");
            findings.values = values(client, &query, limit).await?;
            findings.values.retain(|name, value| name != HOLDER || !value.is_empty());
            findings.sources = Some(said(sources(client, replica_status(&product), limit).await)?);
            if let Some(table) = &monitor.heartbeat_table {
                findings.heartbeats = Some(said(heartbeats(client, table, limit).await)?);
            }
        }
    }
    Ok(findings)
}

/// What the server refuses to tell is a finding of its own.
fn said<T>(answer: Result<T, AskError>) -> Result<Result<T, String>, AskError> {
    match answer {
        Ok(answer) => Ok(Ok(answer)),
        Err(AskError::Server { message, .. }) => Ok(Err(message)),
        Err(e) => Err(e),
    }
}

/// The first row by names of columns; nothing where there is no row.
async fn values(client: &mut Client, query: &str, limit: Duration) -> Result<Values, AskError> {
    let rows = client.rows(query, limit).await?;
    let Some(row) = rows.first() else { return Ok(Values::new()) };
    let names = row.columns().iter().enumerate();
    names.map(|(index, name)| Ok((name.to_ascii_lowercase(), text(row, index)?))).collect()
}

async fn sources(
    client: &mut Client,
    status: &ReplicaStatus,
    limit: Duration,
) -> Result<Vec<Source>, AskError> {
    let rows = client.rows(status.query, limit).await?;
    rows.iter()
        .map(|row| {
            Ok(Source {
                name: column(row, status.name)?,
                server_id: column(row, status.server_id)?.parse().unwrap_or_default(),
                io: column(row, status.io)?,
                sql: column(row, status.sql)?,
                lag: column(row, status.lag)?.parse().ok(),
            })
        })
        .collect()
}

/// What reads the age of the newest heartbeat of each server, in microseconds, by clocks in UTC. What the node wrote itself
/// tells nothing about its sources.
pub(super) fn heartbeat_query(table: &str) -> String {
    format!(
        "SELECT server_id, TIMESTAMPDIFF(MICROSECOND, MAX(ts), UTC_TIMESTAMP(6)) FROM {table} \
         WHERE server_id <> @@global.server_id GROUP BY server_id"
    )
}

/// The heartbeats in a table. A time that cannot be read is none.
async fn heartbeats(client: &mut Client, table: &str, limit: Duration) -> Result<Vec<Heartbeat>, AskError> {
    let rows = client.pairs(&heartbeat_query(table), limit).await?;
    let heartbeat = |(server_id, age): (String, String)| {
        Some(Heartbeat { server_id: server_id.parse().ok()?, age_us: age.parse().ok()? })
    };
    Ok(rows.into_iter().filter_map(heartbeat).collect())
}

pub(super) fn column(row: &Row, name: &'static str) -> Result<String, AskError> {
    let index = row.columns().iter().position(|column| column.eq_ignore_ascii_case(name));
    index.map_or(Err(AskError::Shape(name)), |i| text(row, i))
}
