//! What a node's own words mean: from status values to a verdict; pure.

use std::collections::BTreeMap;
use std::time::Duration;

use crate::config::ClusterKind;
use crate::topology::Observed;

/// Values by lower-case name, as `SHOW STATUS`, `SHOW VARIABLES` and `SHOW ALL SLAVES STATUS` give them.
pub(super) type Values = BTreeMap<String, String>;

/// One replication source of a node.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Source {
    /// Connection name; empty for the default one.
    pub(super) name: String,
    /// `Slave_IO_Running`.
    pub(super) io: String,
    /// `Slave_SQL_Running`.
    pub(super) sql: String,
    /// `Seconds_Behind_Master`; none when the server does not know.
    pub(super) lag: Option<u64>,
}

/// What one probe read.
#[derive(Debug, Clone, Default)]
pub(super) struct Findings {
    /// Status and variables.
    pub(super) values: Values,
    /// Replication sources; none if they could not be read, with the reason.
    pub(super) sources: Option<Result<Vec<Source>, String>>,
}

impl Findings {
    fn get(&self, name: &str) -> &str {
        self.values.get(name).map_or("", String::as_str)
    }

    fn is_on(&self, name: &str) -> bool {
        matches!(self.get(name), "ON" | "1" | "on")
    }

    fn read_only(&self) -> bool {
        self.is_on("read_only") || self.is_on("super_read_only")
    }
}

/// The verdict over a node of this kind of cluster.
pub(super) fn judge(kind: ClusterKind, findings: &Findings, max_lag: Option<Duration>) -> Observed {
    match kind {
        ClusterKind::Galera => galera(findings),
        ClusterKind::Replication | ClusterKind::MultiPrimary => replication(findings, max_lag),
        ClusterKind::Static => {
            let read_only = findings.read_only();
            Observed::up(!read_only, true, if read_only { "read_only=ON" } else { "answers" })
        }
    }
}

fn galera(f: &Findings) -> Observed {
    const SYNCED: &str = "4";
    let down = |reason: String| Observed::Down { reason };
    match (f.get("wsrep_ready"), f.get("wsrep_cluster_status"), f.get("wsrep_local_state")) {
        ("", ..) => return down("no wsrep status: not a Galera node".to_owned()),
        ("ON", "Primary", SYNCED) => {}
        ("ON", "Primary", _) => {
            return down(format!("wsrep state is {}, not Synced", f.get("wsrep_local_state_comment")));
        }
        ("ON", status, _) => return down(format!("component is {status}, not Primary")),
        (ready, status, _) => {
            return down(format!("wsrep_ready is {ready} (component {status})"));
        }
    }
    if !matches!(f.get("wsrep_reject_queries"), "" | "NONE") {
        return down(format!("wsrep_reject_queries is {}", f.get("wsrep_reject_queries")));
    }
    let read_only = f.read_only();
    let detail = if read_only { "Synced, Primary, read_only=ON" } else { "Synced, Primary" };
    Observed::up(!read_only, true, detail)
}

fn replication(f: &Findings, max_lag: Option<Duration>) -> Observed {
    if !f.read_only() {
        return Observed::up(true, true, "read_only=OFF");
    }
    let (readable, words) = match &f.sources {
        None => (false, "replication was not read".to_owned()),
        Some(Err(reason)) => (false, format!("replication unknown: {reason}")),
        Some(Ok(sources)) if sources.is_empty() => (false, "no replication source".to_owned()),
        Some(Ok(sources)) => match sources.iter().find_map(|s| trouble(s, max_lag)) {
            Some(trouble) => (false, trouble),
            None => (true, "replica threads run".to_owned()),
        },
    };
    Observed::up(false, readable, format!("read_only=ON, {words}"))
}

fn trouble(source: &Source, max_lag: Option<Duration>) -> Option<String> {
    let of = if source.name.is_empty() { String::new() } else { format!(" of source {}", source.name) };
    if source.io != "Yes" {
        return Some(format!("replica IO thread{of}: {}", source.io));
    }
    if source.sql != "Yes" {
        return Some(format!("replica SQL thread{of}: {}", source.sql));
    }
    let max_lag = max_lag?;
    match source.lag {
        Some(lag) if Duration::from_secs(lag) <= max_lag => None,
        Some(lag) => Some(format!("{lag} s behind{of}")),
        None => Some(format!("lag{of} unknown")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn findings(values: &[(&str, &str)]) -> Findings {
        let values = values.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect();
        Findings { values, sources: None }
    }

    const SYNCED: &[(&str, &str)] = &[
        ("wsrep_ready", "ON"),
        ("wsrep_cluster_status", "Primary"),
        ("wsrep_local_state", "4"),
        ("wsrep_local_state_comment", "Synced"),
        ("read_only", "OFF"),
        ("wsrep_reject_queries", "NONE"),
    ];

    fn with(changed: &[(&str, &str)]) -> Observed {
        let mut f = findings(SYNCED);
        f.values.extend(changed.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())));
        judge(ClusterKind::Galera, &f, None)
    }

    #[test]
    fn a_synced_galera_node_serves() {
        assert!(matches!(with(&[]), Observed::Up { writable: true, readable: true, .. }));
        assert!(matches!(with(&[("read_only", "ON")]), Observed::Up { writable: false, readable: true, .. }));
    }

    #[test]
    fn a_galera_node_that_is_not_ready_synced_and_primary_does_not() {
        for (changed, reason) in [
            (&[("wsrep_ready", "OFF"), ("wsrep_cluster_status", "non-Primary")][..], "wsrep_ready is OFF"),
            (&[("wsrep_cluster_status", "non-Primary")], "component is non-Primary"),
            (
                &[("wsrep_local_state", "2"), ("wsrep_local_state_comment", "Donor/Desynced")],
                "Donor/Desynced",
            ),
            (&[("wsrep_reject_queries", "ALL")], "wsrep_reject_queries is ALL"),
        ] {
            let seen = with(changed);
            assert!(matches!(&seen, Observed::Down { reason: r } if r.contains(reason)), "{seen:?}");
        }
        let seen = judge(ClusterKind::Galera, &findings(&[("read_only", "OFF")]), None);
        assert!(matches!(seen, Observed::Down { reason } if reason.contains("not a Galera node")));
    }

    fn replica(source: Source, max_lag: Option<u64>) -> Observed {
        let mut f = findings(&[("read_only", "1")]);
        f.sources = Some(Ok(vec![source]));
        judge(ClusterKind::Replication, &f, max_lag.map(Duration::from_secs))
    }

    fn running(lag: Option<u64>) -> Source {
        Source { io: "Yes".into(), sql: "Yes".into(), lag, ..Source::default() }
    }

    #[test]
    fn a_replica_serves_reads_while_its_threads_run() {
        assert!(matches!(
            replica(running(Some(9)), None),
            Observed::Up { writable: false, readable: true, .. }
        ));
        for (source, lag, reason) in [
            (Source { io: "Connecting".into(), ..running(None) }, None, "IO thread: Connecting"),
            (Source { sql: "No".into(), ..running(None) }, None, "SQL thread: No"),
            (running(Some(9)), Some(5), "9 s behind"),
            (running(None), Some(5), "lag unknown"),
        ] {
            let seen = replica(source, lag);
            assert!(
                matches!(&seen, Observed::Up { readable: false, detail, .. } if detail.contains(reason)),
                "{seen:?}"
            );
        }
    }

    #[test]
    fn a_writable_node_is_the_primary_whatever_it_replicates() {
        let seen = judge(ClusterKind::MultiPrimary, &findings(&[("read_only", "0")]), None);
        assert!(matches!(seen, Observed::Up { writable: true, .. }));
        let seen = judge(ClusterKind::Replication, &findings(&[("read_only", "1")]), None);
        assert!(matches!(seen, Observed::Up { writable: false, readable: false, .. }));
    }
}
