//! Which cluster a session belongs to, from its service and its default schema; pure.

use crate::accounts::Accounts;
use crate::config::{Config, Route};
use crate::ids::ClusterName;

/// Schemas that every server has. They say nothing about where a session belongs.
const SYSTEM_SCHEMAS: &[&str] = &["information_schema", "mysql", "performance_schema", "sys"];

/// Where a schema leads.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Destination {
    /// To this cluster.
    Cluster(ClusterName),
    /// Nowhere in particular: no cluster has it, or all do. A session stays where it is, or begins
    /// at the service's default cluster.
    Anywhere,
    /// To more than one cluster, and the configuration does not say which.
    Ambiguous(Vec<ClusterName>),
}

/// Why no cluster can be named for a session.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NoCluster {
    /// The session names no schema that leads anywhere, and the service has no default cluster.
    #[error("the session names no schema that a cluster has, and the service has no default cluster")]
    NoDefault,
    /// The schema is on several clusters.
    #[error("schema {schema:?} is on clusters {}; `databases` of the service must name one", names(clusters))]
    Ambiguous {
        /// The schema.
        schema: String,
        /// Where it is.
        clusters: Vec<ClusterName>,
    },
}

fn names(clusters: &[ClusterName]) -> String {
    clusters.iter().map(ClusterName::as_str).collect::<Vec<_>>().join(" and ")
}

/// The cluster of a session that begins with this default schema.
pub fn cluster_for(
    route: &Route,
    schema: Option<&[u8]>,
    accounts: &Accounts,
) -> Result<ClusterName, NoCluster> {
    match destination(route, schema.unwrap_or_default(), accounts) {
        Destination::Cluster(cluster) => Ok(cluster),
        Destination::Anywhere => default_cluster(route).cloned().ok_or(NoCluster::NoDefault),
        Destination::Ambiguous(clusters) => {
            let schema = String::from_utf8_lossy(schema.unwrap_or_default()).into_owned();
            Err(NoCluster::Ambiguous { schema, clusters })
        }
    }
}

/// Where a session without a schema goes.
pub fn default_cluster(route: &Route) -> Option<&ClusterName> {
    match route {
        Route::Cluster(cluster) => Some(cluster),
        Route::ByDatabase { default_cluster, .. } => default_cluster.as_ref(),
    }
}

/// The cluster that has this schema, among those that the service reaches.
pub fn destination(route: &Route, schema: &[u8], accounts: &Accounts) -> Destination {
    let (clusters, databases) = match route {
        Route::Cluster(cluster) => return Destination::Cluster(cluster.clone()),
        Route::ByDatabase { clusters, databases, .. } => (clusters, databases),
    };
    let Ok(schema) = std::str::from_utf8(schema) else { return Destination::Anywhere };
    if schema.is_empty() {
        return Destination::Anywhere;
    }
    if let Some(cluster) = databases.get(schema) {
        return Destination::Cluster(cluster.clone());
    }
    if SYSTEM_SCHEMAS.iter().any(|s| s.eq_ignore_ascii_case(schema)) {
        return Destination::Anywhere;
    }
    let mut found = clusters
        .iter()
        .filter(|c| accounts.get(*c).is_some_and(|a| a.snapshot.has_database(schema)))
        .cloned();
    match (found.next(), found.next()) {
        (None, _) => Destination::Anywhere,
        (Some(one), None) => Destination::Cluster(one),
        (Some(one), Some(two)) => Destination::Ambiguous([one, two].into_iter().chain(found).collect()),
    }
}

/// Schemas that are on several clusters of a service without an entry in its `databases`: one line each.
pub fn ambiguous_schemas(config: &Config, accounts: &Accounts) -> Vec<String> {
    let mut problems = Vec::new();
    for service in config.services.values() {
        let Route::ByDatabase { clusters, .. } = &service.route else { continue };
        let mut schemas: Vec<&str> =
            clusters.iter().filter_map(|c| accounts.get(c)).flat_map(|a| a.snapshot.databases()).collect();
        schemas.sort_unstable();
        schemas.dedup();
        for schema in schemas {
            if let Destination::Ambiguous(on) = destination(&service.route, schema.as_bytes(), accounts) {
                problems.push(format!(
                    "service.{}: schema {schema:?} is on clusters {}; add `databases = {{ {schema} = \"{}\" }}` \
                     with the cluster that is meant",
                    service.name,
                    names(&on),
                    on[0],
                ));
            }
        }
    }
    problems
}

#[cfg(test)]
mod tests {
    use std::net::{IpAddr, Ipv4Addr};
    use std::path::Path;
    use std::sync::Arc;
    use std::time::SystemTime;

    use super::*;
    use crate::accounts::ClusterAccounts;
    use crate::grants::{HostIdentity, RawAccounts, Snapshot};

    fn accounts(of: &[(&str, &[&str])]) -> Accounts {
        of.iter()
            .map(|(cluster, databases)| {
                let raw = RawAccounts {
                    databases: databases.iter().map(|d| (*d).to_owned()).collect(),
                    ..RawAccounts::default()
                };
                let accounts = ClusterAccounts {
                    snapshot: Arc::new(Snapshot::build(raw, SystemTime::now())),
                    proxy: HostIdentity::without_name(IpAddr::V4(Ipv4Addr::LOCALHOST)),
                    from: "n1".parse().unwrap(),
                    loaded_at: SystemTime::now(),
                    fingerprint: None,
                    unread: 0,
                };
                (cluster.parse().unwrap(), Arc::new(accounts))
            })
            .collect()
    }

    fn config(service: &str) -> Config {
        let text = format!(
            r#"
            [cluster.a]
            kind = "galera"
            nodes = {{ n1 = "127.0.0.1:1001" }}
            monitor = {{ user = "m", password = "p" }}
            [cluster.b]
            kind = "replication"
            nodes = {{ n1 = "127.0.0.1:1002" }}
            monitor = {{ user = "m", password = "p" }}
            [service.app]
            listen = ["127.0.0.1:4000"]
            {service}
            "#
        );
        Config::parse(&text, Path::new("t.toml"), &|_| None).expect("valid")
    }

    fn go(service: &str, schema: &str, accounts: &Accounts) -> Result<String, NoCluster> {
        let config = config(service);
        let route = &config.services.values().next().unwrap().route;
        cluster_for(route, Some(schema.as_bytes()), accounts).map(|c| c.to_string())
    }

    const BY_DATABASE: &str = "route = \"by-database\"\ndefault_cluster = \"a\"";

    #[test]
    fn the_schema_leads_to_its_cluster() {
        let accounts = accounts(&[("a", &["mysql", "shop"]), ("b", &["mysql", "stats"])]);
        assert_eq!(go(BY_DATABASE, "shop", &accounts).as_deref(), Ok("a"));
        assert_eq!(go(BY_DATABASE, "stats", &accounts).as_deref(), Ok("b"));
        assert_eq!(go(BY_DATABASE, "mysql", &accounts).as_deref(), Ok("a"));
        assert_eq!(go(BY_DATABASE, "nosuch", &accounts).as_deref(), Ok("a"));
        assert_eq!(go(BY_DATABASE, "", &accounts).as_deref(), Ok("a"));
        assert_eq!(go("route = \"cluster:b\"", "shop", &accounts).as_deref(), Ok("b"));
    }

    #[test]
    fn without_a_default_cluster_a_schema_is_needed() {
        let accounts = accounts(&[("a", &["shop"]), ("b", &["stats"])]);
        assert_eq!(go("route = \"by-database\"", "", &accounts), Err(NoCluster::NoDefault));
        assert_eq!(go("route = \"by-database\"", "stats", &accounts).as_deref(), Ok("b"));
    }

    #[test]
    fn a_schema_on_two_clusters_needs_the_map() {
        let accounts = accounts(&[("a", &["shop"]), ("b", &["shop"])]);
        let error = go(BY_DATABASE, "shop", &accounts).unwrap_err().to_string();
        assert!(error.contains("clusters a and b"), "{error}");
        let problems = ambiguous_schemas(&config(BY_DATABASE), &accounts);
        assert_eq!(problems.len(), 1);
        assert!(problems[0].contains("service.app: schema \"shop\" is on clusters a and b"), "{problems:?}");
        let mapped = format!("{BY_DATABASE}\ndatabases = {{ shop = \"b\" }}");
        assert_eq!(go(&mapped, "shop", &accounts).as_deref(), Ok("b"));
        assert_eq!(ambiguous_schemas(&config(&mapped), &accounts), Vec::<String>::new());
    }
}
