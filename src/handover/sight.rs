//! What the nodes of a cluster told about themselves at one moment; pure.

use std::collections::BTreeSet;
use std::time::Duration;

use crate::ids::{NodeAddr, NodeName};

use super::position::{Coordinates, Gtids};

/// Whose statements a server understands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Dialect {
    /// `MariaDB`.
    MariaDb,
    /// `MySQL`.
    MySql,
}

/// A node as it answered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Seen {
    pub(super) node: NodeName,
    pub(super) address: NodeAddr,
    /// Its preference as the writer.
    pub(super) priority: u16,
    /// Whether an operator wants it to serve.
    pub(super) enabled: bool,
    pub(super) dialect: Dialect,
    pub(super) server_id: u32,
    /// Of `MySQL`: whose transactions its own are; empty: `MariaDB`.
    pub(super) uuid: String,
    pub(super) read_only: bool,
    /// Whether it writes what it replicates into its own binary log.
    pub(super) logs_updates: bool,
    /// Whether threads of their own apply what the SQL thread gives to them: it may be idle while they are not.
    pub(super) parallel: bool,
    /// Whether its transactions have GTIDs.
    pub(super) gtids: bool,
    /// What it has applied, its own transactions and those of others.
    pub(super) applied: Gtids,
    /// What is in its binary log.
    pub(super) written: Gtids,
    /// The same, told apart by the server that wrote it first.
    pub(super) history: Gtids,
    /// The end of its binary log; none: it has none.
    pub(super) end: Option<Coordinates>,
    /// Where it replicates from.
    pub(super) sources: Vec<Source>,
    /// Who waits for whom before a client is told of a commit.
    pub(super) semi_sync: SemiSync,
}

/// What a node is set to in semi-synchronous replication.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct SemiSync {
    /// Whether, as a primary, it waits for acknowledgements; none: it is not set to.
    pub(super) primary: Option<Waiting>,
    /// Whether, as a replica, it acknowledges what it received.
    pub(super) replica: bool,
}

/// How a primary waits for acknowledgements.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Waiting {
    /// Whether it does now: it gives up for a while after its time-out.
    pub(super) now: bool,
    /// How many replicas acknowledge to it.
    pub(super) replicas: u32,
    /// How many must.
    pub(super) needed: u32,
    /// How long it waits at most, in milliseconds.
    pub(super) timeout_ms: u64,
    /// Whether nobody sees a transaction before it is acknowledged (`AFTER_SYNC`).
    pub(super) before_commit: bool,
}

/// One replication source of a node.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Source {
    /// Name of the connection or channel; empty for the default one.
    pub(super) name: String,
    /// `host:port` that it dials.
    pub(super) address: String,
    /// The source's server id; 0 before the first connection.
    pub(super) server_id: u32,
    /// Its IO thread: `Yes`, `Connecting`, `No`.
    pub(super) io: String,
    /// Its SQL thread: `Yes` or `No`.
    pub(super) sql: String,
    /// What went wrong last, in the server's words; empty: nothing.
    pub(super) error: String,
    /// What ended its SQL thread; empty: nothing did, or somebody stopped it.
    pub(super) sql_error: String,
    /// How many seconds late it applies on purpose (`SQL_Delay`).
    pub(super) delay: u64,
    /// Seconds behind; none when the server does not know.
    pub(super) lag: Option<u64>,
    /// Whether it asks for transactions by GTID.
    pub(super) by_gtid: bool,
    /// What it got, applied or not.
    pub(super) received: Gtids,
    /// The place in the source's binary log up to which all is received.
    pub(super) read: Option<Coordinates>,
    /// The place in the source's binary log up to which all is applied.
    pub(super) executed: Option<Coordinates>,
    /// Whether the SQL thread waits for more.
    pub(super) idle: bool,
}

/// The nodes of a cluster, as far as they answered.
#[derive(Clone, Debug, Default)]
pub(super) struct Survey {
    pub(super) seen: Vec<Seen>,
    /// Those that did not answer, and why.
    pub(super) lost: Vec<(NodeName, String)>,
    /// Those that an operator set to maintenance: whether they are writable is not Spillway's affair.
    pub(super) aside: BTreeSet<NodeName>,
}

// === impl Seen ===

impl Seen {
    /// The source that is this server.
    pub(super) fn source_of(&self, primary: &Self) -> Option<&Source> {
        self.sources.iter().find(|source| source.is(primary))
    }

    /// Everything that it can have without its source.
    pub(super) fn standing(&self) -> Gtids {
        self.sources.iter().fold(self.applied.clone(), |all, source| all.with(&source.received))
    }

    /// Whether it has applied all that it received from one of its sources.
    pub(super) fn has_applied(&self, source: &Source) -> bool {
        if source.by_gtid { self.applied.covers(&source.received) } else { source.has_applied_all() }
    }

    /// What keeps it from applying what it received, even if its SQL thread is started; none: nothing. `patience`: how long
    /// that may take.
    pub(super) fn hindrance(&self, patience: Duration) -> Option<String> {
        let node = &self.node;
        let of = |source: &Source| {
            let stands = source.sql != "Yes";
            if stands && !source.sql_error.is_empty() {
                return Some(format!("{node}: SQL thread: {} ({})", source.sql, source.sql_error));
            }
            if self.has_applied(source) {
                return None;
            }
            // MariaDB removes its relay logs when the first thread of the two is started.
            if stands && source.io == "No" && source.by_gtid && self.dialect == Dialect::MariaDb {
                let lacks = source.received.without(&self.applied);
                return Some(format!(
                    "{node}: both threads are stopped, and a start would throw away what is received and not applied: {lacks}"
                ));
            }
            let is_late = Duration::from_secs(source.delay) > patience;
            is_late.then(|| {
                format!("{node} applies {} s late on purpose, and has not applied all", source.delay)
            })
        };
        self.sources.iter().find_map(of)
    }

    /// Whether all that it received is applied, or being applied without a delay.
    pub(super) fn is_applying(&self) -> bool {
        self.sources
            .iter()
            .all(|source| self.has_applied(source) || (source.sql == "Yes" && source.delay == 0))
    }

    /// The transactions that this node wrote first and the other one, which logs what it replicates, has not: numbers of one
    /// domain may be given twice by two servers of `MariaDB`.
    pub(super) fn own_beyond(&self, other: &Self) -> Gtids {
        if !other.logs_updates {
            return Gtids::default();
        }
        let own = format!("-{}", self.server_id);
        let is_own = |stream: &str| self.dialect == Dialect::MySql || stream.ends_with(&own);
        self.history.only(is_own).without(&other.history)
    }

    /// How far it has come, to be compared with another moment. Words about errors change all the time.
    pub(super) fn progress(&self) -> impl PartialEq {
        let of = |source: &Source| (source.received.clone(), source.read.clone(), source.executed.clone());
        (self.applied.clone(), self.sources.iter().map(of).collect::<Vec<_>>())
    }

    /// How far it has come, in words.
    pub(super) fn place(&self) -> String {
        let executed = self.sources.iter().find(|source| !source.by_gtid).and_then(|s| s.executed.as_ref());
        executed.map_or_else(|| self.applied.to_string(), ToString::to_string)
    }

    /// The transactions that this node has and the other has not.
    pub(super) fn errant(&self, primary: &Self) -> Gtids {
        self.history.without(&primary.history)
    }

    /// Transactions that this node wrote first and has lost since, and the other has. They carry its own server id, by which a
    /// replica takes them for those that it has, and passes over them.
    pub(super) fn lost_own(&self, primary: &Self) -> Gtids {
        if self.dialect == Dialect::MySql {
            let is_own = |stream: &str| stream.split(':').next() == Some(self.uuid.as_str());
            return primary.history.only(is_own).without(&self.applied);
        }
        let own = format!("-{}", self.server_id);
        let applied = self.applied.renamed(|domain| format!("{domain}{own}"));
        primary.history.only(|stream| stream.ends_with(&own)).without(&applied)
    }

    /// Whether this node has applied everything that is in the other's binary log.
    pub(super) fn has_reached(&self, other: &Self) -> bool {
        let source = self.source_of(other);
        if let (Some(Source { by_gtid: false, executed, .. }), Some(end)) = (source, &other.end) {
            return executed.as_ref().is_some_and(|executed| executed.reaches(end));
        }
        if !other.gtids || !self.applied.covers(&other.written) {
            return false;
        }
        other.own_beyond(self).is_empty()
    }

    /// What is left to be applied, in words.
    pub(super) fn backlog(&self, other: &Self) -> String {
        match (self.source_of(other), &other.end) {
            (Some(Source { by_gtid: false, executed, .. }), Some(end)) => {
                let place = executed.as_ref().map_or_else(|| "nowhere".to_owned(), ToString::to_string);
                format!("it stands at {place} of {end}")
            }
            _ => format!("it lacks {}", other.written.without(&self.applied)),
        }
    }
}

// === impl SemiSync ===

impl SemiSync {
    /// From the variables and the status `rpl_semi_sync_…`, by names of `MySQL`.
    pub(super) fn of<'a>(get: impl Fn(&str) -> Option<&'a str>) -> Self {
        let is_on = |name: &str| matches!(get(name), Some("ON" | "1"));
        let number = |name: &str| get(name).and_then(|value| value.parse::<u64>().ok());
        let small = |name: &str, or| number(name).and_then(|n| u32::try_from(n).ok()).unwrap_or(or);
        let waiting = || Waiting {
            now: is_on("rpl_semi_sync_source_status"),
            replicas: small("rpl_semi_sync_source_clients", 0),
            needed: small("rpl_semi_sync_source_wait_for_replica_count", 1),
            timeout_ms: number("rpl_semi_sync_source_timeout").unwrap_or_default(),
            before_commit: get("rpl_semi_sync_source_wait_point") == Some("AFTER_SYNC"),
        };
        Self {
            primary: is_on("rpl_semi_sync_source_enabled").then(waiting),
            replica: is_on("rpl_semi_sync_replica_enabled"),
        }
    }
}

// === impl Source ===

impl Source {
    /// Whether it is this server. Before the first connection only the address can tell.
    pub(super) fn is(&self, server: &Seen) -> bool {
        if self.server_id == 0 {
            self.address == server.address.to_string()
        } else {
            self.server_id == server.server_id
        }
    }

    /// Whether all that was received is applied, by coordinates.
    pub(super) fn has_applied_all(&self) -> bool {
        matches!((&self.executed, &self.read), (Some(executed), Some(read)) if executed.reaches(read))
    }

    /// Why it does not replicate; none: both threads run.
    pub(super) fn trouble(&self) -> Option<String> {
        let thread = match (self.io.as_str(), self.sql.as_str()) {
            ("Yes", "Yes") => return None,
            ("Yes", state) => format!("SQL thread: {state}"),
            (state, _) => format!("IO thread: {state}"),
        };
        let error = if self.error.is_empty() { String::new() } else { format!(" ({})", self.error) };
        Some(format!("{thread}{error}"))
    }
}

// === impl Survey ===

impl Survey {
    /// The node of that name, if it answered.
    pub(super) fn node(&self, name: &str) -> Option<&Seen> {
        self.seen.iter().find(|seen| seen.node.as_str() == name)
    }

    /// The nodes that accept writes.
    pub(super) fn writable(&self) -> impl Iterator<Item = &Seen> {
        self.seen.iter().filter(|seen| !seen.read_only)
    }

    /// The same without those in maintenance.
    pub(super) fn contenders(&self) -> impl Iterator<Item = &Seen> {
        self.writable().filter(|seen| !self.aside.contains(&seen.node))
    }

    /// How many nodes the cluster has.
    pub(super) fn nodes(&self) -> usize {
        self.seen.len() + self.lost.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn semi_synchronous_replication_is_read_from_variables_and_status() {
        let mut values = std::collections::BTreeMap::from([("rpl_semi_sync_replica_enabled", "ON")]);
        let read = |values: &std::collections::BTreeMap<&str, &'static str>| {
            SemiSync::of(|name| values.get(name).copied())
        };
        assert_eq!(read(&values), SemiSync { primary: None, replica: true });
        values.extend([
            ("rpl_semi_sync_source_enabled", "ON"),
            ("rpl_semi_sync_source_status", "OFF"),
            ("rpl_semi_sync_source_clients", "2"),
            ("rpl_semi_sync_source_timeout", "10000"),
            ("rpl_semi_sync_source_wait_point", "AFTER_COMMIT"),
        ]);
        let waiting =
            Waiting { now: false, replicas: 2, needed: 1, timeout_ms: 10_000, before_commit: false };
        assert_eq!(read(&values).primary, Some(waiting));
    }
}
