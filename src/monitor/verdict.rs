//! What a node's own words mean: from status values to a verdict; pure.

use std::collections::BTreeMap;
use std::time::Duration;

use crate::config::{ClusterKind, Monitor};
use crate::topology::Observed;

/// The name of the value that tells who has the lock of a writer that comes to rest.
pub(super) const HOLDER: &str = "quiesced_by";

/// Values by lower-case name, as the server gives them.
pub(super) type Values = BTreeMap<String, String>;

/// One replication source of a node.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Source {
    /// Connection name; empty for the default one.
    pub(super) name: String,
    /// `Master_Server_Id`; 0 before the first connection.
    pub(super) server_id: u32,
    /// `Slave_IO_Running`.
    pub(super) io: String,
    /// `Slave_SQL_Running`.
    pub(super) sql: String,
    /// `Seconds_Behind_Master`; none when the server does not know.
    pub(super) lag: Option<u64>,
}

/// The newest heartbeat that one server wrote.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Heartbeat {
    /// Who wrote it.
    pub(super) server_id: u32,
    /// In microseconds. Below zero: by this node's clock it comes from the future.
    pub(super) age_us: i64,
}

/// What one probe read.
#[derive(Debug, Clone, Default)]
pub(super) struct Findings {
    /// Status and variables.
    pub(super) values: Values,
    /// Replication sources; none if they were not asked for; an error with the reason why they could not be read.
    pub(super) sources: Option<Result<Vec<Source>, String>>,
    /// The newest heartbeats of others, where a table is configured; an error with the reason why it could not be read.
    pub(super) heartbeats: Option<Result<Vec<Heartbeat>, String>>,
    /// The share of the time since the probe before in which flow control stopped a Galera node.
    pub(super) paused: Option<f64>,
}

impl Findings {
    fn get(&self, name: &str) -> &str {
        self.values.get(name).map_or("", String::as_str)
    }

    fn is_on(&self, name: &str) -> bool {
        matches!(self.get(name), "ON" | "1" | "on")
    }

    /// How many writesets this Galera node has sent to the others.
    pub(super) fn writesets(&self) -> Option<u64> {
        self.get("wsrep_replicated").parse().ok()
    }

    /// The connection that has the lock by which nothing new is to begin on this node.
    pub(super) fn quiesced_by(&self) -> Option<u64> {
        self.get(HOLDER).parse().ok()
    }

    /// Whoever has that lock is not believed.
    pub(super) fn disbelieve(&mut self) {
        self.values.remove(HOLDER);
    }

    /// `MariaDB` 12 has more values than two; whatever is not off keeps somebody from writing.
    fn read_only(&self) -> bool {
        !matches!(self.get("read_only"), "OFF" | "0" | "off") || self.is_on("super_read_only")
    }

    /// Names and values for people, what it all means left out.
    pub(super) fn facts(&self) -> Vec<(String, String)> {
        let mut facts: Vec<_> =
            self.values.iter().map(|(name, value)| (name.clone(), value.clone())).collect();
        for source in self.sources.iter().flatten().flatten() {
            let name =
                if source.name.is_empty() { "source".to_owned() } else { format!("source {}", source.name) };
            let lag = source.lag.map_or_else(|| "unknown".to_owned(), |lag| format!("{lag} s"));
            facts.push((name, format!("IO {}, SQL {}, lag {lag}", source.io, source.sql)));
        }
        for heartbeat in self.heartbeats.iter().flatten().flatten() {
            // At most a few million years, and only for people.
            #[expect(clippy::cast_precision_loss, reason = "shown in milliseconds")]
            let age = heartbeat.age_us as f64 / 1e6;
            facts.push((format!("heartbeat of server {}", heartbeat.server_id), format!("{age:.3} s old")));
        }
        if let Some(paused) = self.paused {
            facts
                .push(("flow control".to_owned(), format!("paused for {:.1} % of the time", paused * 100.0)));
        }
        facts
    }
}

/// The verdict over a node of this kind of cluster.
pub(super) fn judge(kind: ClusterKind, findings: &Findings, monitor: &Monitor) -> Observed {
    match kind {
        ClusterKind::Galera => galera(findings, monitor),
        ClusterKind::GroupReplication => group(findings, monitor),
        ClusterKind::Replication | ClusterKind::MultiPrimary => {
            replication(findings, monitor.max_lag).numbered(findings.get("server_id").parse().ok())
        }
        ClusterKind::Static => {
            let read_only = findings.read_only();
            Observed::up(!read_only, true, if read_only { "read_only=ON" } else { "answers" })
        }
    }
}

fn galera(f: &Findings, monitor: &Monitor) -> Observed {
    const DONOR: &str = "2";
    const SYNCED: &str = "4";
    match (f.get("wsrep_ready"), f.get("wsrep_cluster_status"), f.get("wsrep_local_state")) {
        ("", ..) => return Observed::down("no wsrep status: not a Galera node"),
        ("ON", "Primary", SYNCED | DONOR) => {}
        ("ON", "Primary", _) => {
            return Observed::down(format!(
                "wsrep state is {}, not Synced",
                f.get("wsrep_local_state_comment")
            ));
        }
        ("ON", status, _) => return Observed::down(format!("component is {status}, not Primary")),
        (ready, status, _) => {
            return Observed::down(format!("wsrep_ready is {ready} (component {status})"));
        }
    }
    if f.get("wsrep_connected") == "OFF" {
        return Observed::down("wsrep_connected is OFF");
    }
    let group = Some(f.get("wsrep_cluster_state_uuid").to_owned()).filter(|uuid| !uuid.is_empty());
    if !matches!(f.get("wsrep_reject_queries"), "" | "NONE") {
        // What it was asked before it still answers: sessions go when their statement is done.
        let reason = format!("wsrep_reject_queries is {}", f.get("wsrep_reject_queries"));
        return Observed::up(false, false, reason).in_group(group);
    }
    if !matches!(f.get("pxc_maint_mode"), "" | "DISABLED") {
        return Observed::up(false, false, format!("pxc_maint_mode is {}", f.get("pxc_maint_mode")))
            .in_group(group);
    }
    let state = f.get("wsrep_local_state_comment");
    if f.get("wsrep_local_state") == DONOR || f.is_on("wsrep_desync") {
        // It lags behind the others, as far as it likes, and a state transfer may block its writes.
        let readable = monitor.donor_reads && !f.is_on("wsrep_sst_donor_rejects_queries");
        let desync = if f.is_on("wsrep_desync") { ", wsrep_desync=ON" } else { "" };
        return Observed::up(false, readable, format!("{state}, Primary{desync}")).in_group(group);
    }
    let read_only = f.read_only();
    let detail = if read_only { "Synced, Primary, read_only=ON" } else { "Synced, Primary" };
    let queue = f.get("wsrep_local_recv_queue").parse().unwrap_or(0);
    let queue = Pressure::of(queue, monitor.max_receive_queue, "receive queue of");
    let paused = f.paused.map(|paused| Pressure::paused(paused, monitor.max_flow_control_paused));
    let pressures = queue.into_iter().chain(paused);
    Observed::up(!read_only, true, detail).under(pressures).in_group(group)
}

/// How close something is to its limit.
struct Pressure {
    /// 1.0: at the limit.
    part: f64,
    /// What is said of it above the limit.
    words: Option<String>,
}

impl Pressure {
    fn of(value: u32, limit: Option<std::num::NonZeroU32>, what: &str) -> Option<Self> {
        let limit = limit?.get();
        let words = (value > limit).then(|| format!("{what} {value}, more than {limit}"));
        Some(Self { part: f64::from(value) / f64::from(limit), words })
    }

    fn paused(paused: f64, limit: Option<f64>) -> Self {
        let words = limit.filter(|limit| paused > *limit).map(|limit| {
            format!(
                "flow control paused it for {:.0} % of the time, more than {:.0} %",
                paused * 100.0,
                limit * 100.0
            )
        });
        Self { part: paused / limit.unwrap_or(1.0), words }
    }
}

impl Observed {
    /// With the strain and the share that follow from pressures. The share has few steps, lest every probe changes it.
    fn under(mut self, pressures: impl IntoIterator<Item = Pressure>) -> Self {
        if let Self::Up { strain, share, .. } = &mut self {
            for pressure in pressures {
                *share = (*share).min(match pressure.part {
                    part if part < 0.25 => 100,
                    part if part < 0.5 => 75,
                    part if part < 0.75 => 50,
                    _ => 25,
                });
                *strain = strain.take().or(pressure.words);
            }
        }
        self
    }
}

/// A member of MySQL's Group Replication.
fn group(f: &Findings, monitor: &Monitor) -> Observed {
    let state = f.get("member_state");
    if state != "ONLINE" {
        return Observed::down(match state {
            "" => "not a member of a group".to_owned(),
            state => format!("member is {state}"),
        });
    }
    let count = |name| f.get(name).parse::<u32>().unwrap_or(0);
    let (members, reachable) = (count("members"), count("reachable"));
    if reachable * 2 <= members {
        return Observed::down(format!("no majority: {reachable} of {members} members can be reached"));
    }
    let role = f.get("member_role");
    let writable = role == "PRIMARY" && !f.read_only();
    let read_only = if role == "PRIMARY" && !writable { ", read_only=ON" } else { "" };
    let queue = Pressure::of(count("applier_queue"), monitor.max_receive_queue, "applier queue of");
    let name = Some(f.get("group_name").to_owned()).filter(|name| !name.is_empty());
    Observed::up(writable, true, format!("ONLINE, {role}{read_only}")).under(queue).in_group(name)
}

fn replication(f: &Findings, max_lag: Option<Duration>) -> Observed {
    if !f.read_only() {
        if f.quiesced_by().is_some() {
            return Observed::up(true, true, "read_only=OFF, quiesced for a change of the writer").quiesced();
        }
        return Observed::up(true, true, "read_only=OFF");
    }
    let (readable, words) = match &f.sources {
        None => (false, "replication was not read".to_owned()),
        Some(Err(reason)) => (false, format!("replication unknown: {reason}")),
        Some(Ok(sources)) if sources.is_empty() => (false, "no replication source".to_owned()),
        Some(Ok(sources)) => match sources.iter().find_map(broken).or_else(|| late(f, sources, max_lag?)) {
            Some(trouble) => (false, trouble),
            None => (true, "replica threads run".to_owned()),
        },
    };
    Observed::up(false, readable, format!("read_only=ON, {words}"))
}

fn of(source: &Source) -> String {
    if source.name.is_empty() { String::new() } else { format!(" of source {}", source.name) }
}

/// Why a source tells nothing new.
fn broken(source: &Source) -> Option<String> {
    if source.io != "Yes" {
        return Some(format!("replica IO thread{}: {}", of(source), source.io));
    }
    (source.sql != "Yes").then(|| format!("replica SQL thread{}: {}", of(source), source.sql))
}

/// How far clocks may differ.
const SKEW: Duration = Duration::from_secs(2);

/// Why the data are too old: by the heartbeat where there is one, or else by the server's own word.
fn late(f: &Findings, sources: &[Source], max_lag: Duration) -> Option<String> {
    match &f.heartbeats {
        Some(Ok(heartbeats)) => return sources.iter().find_map(|s| stale(heartbeats, sources, s, max_lag)),
        Some(Err(reason)) => return Some(format!("heartbeat unknown: {reason}")),
        None => {}
    }
    sources.iter().find_map(|source| match source.lag {
        Some(lag) if Duration::from_secs(lag) <= max_lag => None,
        Some(lag) => Some(format!("{lag} s behind{}", of(source))),
        None => Some(format!("lag{} unknown", of(source))),
    })
}

/// Why a source's data are too old by the heartbeat. Of an only source, the newest heartbeat counts, whoever wrote it: there
/// may be further servers between. Of several, each must have written one.
fn stale(heartbeats: &[Heartbeat], sources: &[Source], source: &Source, max_lag: Duration) -> Option<String> {
    let counts = |heartbeat: &&Heartbeat| sources.len() == 1 || heartbeat.server_id == source.server_id;
    let Some(age) = heartbeats.iter().filter(counts).map(|heartbeat| heartbeat.age_us).min() else {
        return Some(format!("no heartbeat{}", of(source)));
    };
    let long = Duration::from_micros(age.unsigned_abs());
    if age < 0 {
        let ahead =
            format!("heartbeat{} is {} s ahead: not in UTC, or clocks differ", of(source), long.as_secs());
        return (long > SKEW).then_some(ahead);
    }
    (long > max_lag)
        .then(|| format!("more than {} s behind{} by the heartbeat", max_lag.as_secs_f64(), of(source)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn findings(values: &[(&str, &str)]) -> Findings {
        let values = values.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect();
        Findings { values, ..Findings::default() }
    }

    fn monitor() -> Monitor {
        Monitor {
            user: "m".into(),
            secret: crate::config::Secret::new("p"),
            interval: Duration::from_secs(1),
            timeout: Duration::from_secs(1),
            jitter: 0.1,
            rise: 1,
            fall: 2,
            max_lag: None,
            heartbeat_table: None,
            max_receive_queue: None,
            max_flow_control_paused: None,
            donor_reads: false,
        }
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
        judge(ClusterKind::Galera, &changed_by(SYNCED, changed), &monitor())
    }

    fn changed_by(all: &[(&str, &str)], changed: &[(&str, &str)]) -> Findings {
        let mut f = findings(all);
        f.values.extend(changed.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())));
        f
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
            (&[("wsrep_local_state", "3"), ("wsrep_local_state_comment", "Joined")], "Joined"),
            (&[("wsrep_connected", "OFF")], "wsrep_connected is OFF"),
        ] {
            let seen = with(changed);
            assert!(matches!(&seen, Observed::Down { reason: r } if r.contains(reason)), "{seen:?}");
        }
        let seen = judge(ClusterKind::Galera, &findings(&[("read_only", "OFF")]), &monitor());
        assert!(matches!(seen, Observed::Down { reason } if reason.contains("not a Galera node")));
    }

    #[test]
    fn a_donor_is_left_alone_and_serves_reads_where_that_is_wanted() {
        let donor = [("wsrep_local_state", "2"), ("wsrep_local_state_comment", "Donor/Desynced")];
        assert!(matches!(with(&donor), Observed::Up { writable: false, readable: false, detail, .. }
            if detail == "Donor/Desynced, Primary"));
        let wanted = Monitor { donor_reads: true, ..monitor() };
        let f = changed_by(SYNCED, &donor);
        assert!(matches!(
            judge(ClusterKind::Galera, &f, &wanted),
            Observed::Up { writable: false, readable: true, .. }
        ));
        let f = changed_by(SYNCED, &[donor[0], donor[1], ("wsrep_sst_donor_rejects_queries", "ON")]);
        assert!(matches!(judge(ClusterKind::Galera, &f, &wanted), Observed::Up { readable: false, .. }));
        assert!(matches!(with(&[("wsrep_desync", "ON")]), Observed::Up { writable: false, detail, .. }
            if detail.contains("wsrep_desync=ON")));
        assert!(matches!(
            with(&[("wsrep_reject_queries", "ALL")]),
            Observed::Up { writable: false, readable: false, .. }
        ));
        assert!(matches!(
            with(&[("pxc_maint_mode", "MAINTENANCE")]),
            Observed::Up { writable: false, readable: false, .. }
        ));
        assert!(matches!(with(&[("pxc_maint_mode", "DISABLED")]), Observed::Up { writable: true, .. }));
    }

    #[test]
    fn queues_and_flow_control_are_a_score_and_beyond_their_limits_a_strain() {
        let limited = Monitor {
            max_receive_queue: std::num::NonZeroU32::new(100),
            max_flow_control_paused: Some(0.2),
            ..monitor()
        };
        let judged = |queue: &str, paused: f64, monitor: &Monitor| {
            let f = changed_by(SYNCED, &[("wsrep_local_recv_queue", queue)]);
            match judge(ClusterKind::Galera, &Findings { paused: Some(paused), ..f }, monitor) {
                Observed::Up { strain, share, .. } => (strain.unwrap_or_default(), share),
                other => panic!("{other:?}"),
            }
        };
        assert_eq!(judged("0", 0.0, &limited), (String::new(), 100));
        assert_eq!(judged("30", 0.0, &limited), (String::new(), 75));
        assert_eq!(judged("100", 0.0, &limited), (String::new(), 25));
        assert_eq!(judged("101", 0.0, &limited), ("receive queue of 101, more than 100".to_owned(), 25));
        assert_eq!(judged("0", 0.12, &limited), (String::new(), 50));
        let (strain, share) = judged("0", 0.3, &limited);
        assert!(strain.contains("30 % of the time, more than 20 %"), "{strain}");
        assert_eq!(share, 25);
        assert_eq!(
            judged("5000", 0.6, &monitor()),
            (String::new(), 50),
            "without limits nothing is a strain"
        );
    }

    #[test]
    fn a_member_of_a_group_serves_while_it_is_online_with_a_majority() {
        const PRIMARY: &[(&str, &str)] = &[
            ("member_state", "ONLINE"),
            ("member_role", "PRIMARY"),
            ("applier_queue", "0"),
            ("members", "3"),
            ("reachable", "3"),
            ("read_only", "0"),
            ("super_read_only", "0"),
            ("group_name", "aaaa"),
        ];
        let member = |changed: &[(&str, &str)], monitor: &Monitor| {
            judge(ClusterKind::GroupReplication, &changed_by(PRIMARY, changed), monitor)
        };
        let plain = monitor();
        assert_eq!(
            member(&[], &plain),
            Observed::up(true, true, "ONLINE, PRIMARY").in_group(Some("aaaa".into()))
        );
        let secondary = [("member_role", "SECONDARY"), ("read_only", "1"), ("super_read_only", "1")];
        assert!(matches!(member(&secondary, &plain), Observed::Up { writable: false, readable: true, .. }));
        assert!(matches!(member(&[("super_read_only", "1")], &plain), Observed::Up { writable: false, .. }));
        for (changed, reason) in [
            (("member_state", "RECOVERING"), "member is RECOVERING"),
            (("member_state", ""), "not a member"),
            (("reachable", "1"), "no majority: 1 of 3"),
        ] {
            assert!(matches!(member(&[changed], &plain), Observed::Down { reason: r } if r.contains(reason)));
        }
        assert!(matches!(member(&[("members", "2"), ("reachable", "1")], &plain), Observed::Down { .. }));
        let limited = Monitor { max_receive_queue: std::num::NonZeroU32::new(10), ..monitor() };
        assert!(matches!(member(&[("applier_queue", "11")], &limited), Observed::Up { strain: Some(s), .. }
            if s == "applier queue of 11, more than 10"));
    }

    /// A replica of these sources with these heartbeats, of which it may lag by 5 s: whether it serves reads, and the words.
    fn with_heartbeats(sources: Vec<Source>, heartbeats: Result<Vec<(u32, i64)>, String>) -> (bool, String) {
        let written = |(server_id, seconds)| Heartbeat { server_id, age_us: seconds * 1_000_000 };
        let f = Findings {
            sources: Some(Ok(sources)),
            heartbeats: Some(heartbeats.map(|all| all.into_iter().map(written).collect())),
            ..findings(&[("read_only", "1")])
        };
        let max_lag = Some(Duration::from_secs(5));
        match judge(ClusterKind::Replication, &f, &Monitor { max_lag, ..monitor() }) {
            Observed::Up { readable, detail, .. } => (readable, detail),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn the_heartbeat_tells_the_lag_where_there_is_one() {
        let by = |heartbeats| with_heartbeats(vec![running(Some(900))], heartbeats);
        assert!(by(Ok(vec![(1, 4)])).0, "whatever the server says itself");
        assert!(by(Ok(vec![(1, -1)])).0, "clocks differ a little");
        assert!(by(Ok(vec![(7, 90_000), (8, 1)])).0, "another one was the primary once");
        for (heartbeats, words) in [
            (Ok(vec![(1, 6)]), "more than 5 s behind by the heartbeat"),
            (Ok(vec![]), "no heartbeat"),
            (Ok(vec![(1, -3600)]), "heartbeat is 3600 s ahead: not in UTC"),
            (Err("denied".to_owned()), "heartbeat unknown: denied"),
        ] {
            let (readable, detail) = by(heartbeats);
            assert!(!readable && detail.contains(words), "{detail}");
        }
    }

    #[test]
    fn of_several_sources_each_has_a_heartbeat_of_its_own() {
        let named = |name: &str, server_id| Source { name: name.into(), server_id, ..running(Some(0)) };
        let by = |heartbeats| with_heartbeats(vec![named("one", 1), named("two", 2)], Ok(heartbeats));
        assert!(by(vec![(1, 0), (2, 5)]).0);
        for (heartbeats, words) in [
            (vec![(1, 0), (2, 6)], "more than 5 s behind of source two by the heartbeat"),
            (vec![(2, 0)], "no heartbeat of source one"),
        ] {
            let (readable, detail) = by(heartbeats);
            assert!(!readable && detail.contains(words), "{detail}");
        }
    }

    #[test]
    fn whatever_is_not_off_is_read_only() {
        for (value, writable) in
            [("0", true), ("OFF", true), ("1", false), ("NO_LOCK_NO_ADMIN", false), ("", false)]
        {
            let seen = judge(ClusterKind::Static, &findings(&[("read_only", value)]), &monitor());
            assert!(matches!(seen, Observed::Up { writable: w, .. } if w == writable), "{value}");
        }
        let seen = judge(
            ClusterKind::Replication,
            &findings(&[("read_only", "0"), ("super_read_only", "1")]),
            &monitor(),
        );
        assert!(matches!(seen, Observed::Up { writable: false, .. }));
    }

    fn replica(source: Source, max_lag: Option<u64>) -> Observed {
        let mut f = findings(&[("read_only", "1")]);
        f.sources = Some(Ok(vec![source]));
        judge(
            ClusterKind::Replication,
            &f,
            &Monitor { max_lag: max_lag.map(Duration::from_secs), ..monitor() },
        )
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
        let seen = judge(ClusterKind::MultiPrimary, &findings(&[("read_only", "0")]), &monitor());
        assert!(matches!(seen, Observed::Up { writable: true, .. }));
        let seen = judge(ClusterKind::Replication, &findings(&[("read_only", "1")]), &monitor());
        assert!(matches!(seen, Observed::Up { writable: false, readable: false, .. }));
    }
}
