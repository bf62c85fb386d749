use super::super::position::{Coordinates, Gtids};
use super::super::sight::{Dialect, SemiSync, Waiting};
use super::*;

fn name(text: &str) -> NodeName {
    text.parse().expect("a name")
}

/// A server of MariaDB with this number, called `dbN`; `position` is what it applied and wrote.
fn server(number: u32, read_only: bool, position: &str) -> Seen {
    let gtids = Gtids::of_position(position).expect("a position");
    Seen {
        node: name(&format!("db{number}")),
        address: format!("10.0.0.{number}:3306").parse().expect("an address"),
        priority: 0,
        enabled: true,
        dialect: Dialect::MariaDb,
        server_id: number,
        uuid: String::new(),
        read_only,
        logs_updates: true,
        parallel: false,
        gtids: true,
        applied: gtids.clone(),
        written: gtids,
        history: Gtids::of_state(position).expect("a state"),
        end: Some(Coordinates { file: "binlog.000001".into(), offset: 1000 }),
        sources: Vec::new(),
        semi_sync: SemiSync::default(),
    }
}

fn source(primary: u32) -> Source {
    Source {
        address: format!("10.0.0.{primary}:3306"),
        server_id: primary,
        io: "Yes".into(),
        sql: "Yes".into(),
        lag: Some(0),
        by_gtid: true,
        idle: true,
        ..Source::default()
    }
}

fn replica(number: u32, primary: u32, position: &str) -> Seen {
    Seen { sources: vec![source(primary)], ..server(number, true, position) }
}

/// A replica whose primary is lost, with what it received beyond what it applied.
fn orphan_of(number: u32, primary: u32, position: &str, received: &str) -> Seen {
    let mut seen = replica(number, primary, position);
    seen.sources[0].io = "Connecting".into();
    seen.sources[0].received = Gtids::of_position(received).expect("a position");
    seen
}

fn survey(seen: Vec<Seen>, lost: &[&str]) -> Survey {
    let lost = lost.iter().map(|node| (name(node), "connect: refused".to_owned())).collect();
    Survey { seen, lost, ..Survey::default() }
}

fn three() -> Survey {
    survey(vec![server(1, false, "0-1-100"), replica(2, 1, "0-1-99"), replica(3, 1, "0-1-100")], &[])
}

/// Active server 1, inactive server 2.
fn pair() -> Survey {
    let active = Seen { sources: vec![source(2)], ..server(1, false, "0-1-100") };
    survey(vec![active, replica(2, 1, "0-1-100")], &[])
}

fn terms(kind: ClusterKind) -> Terms {
    Terms { kind, max_lag: Duration::from_secs(10), has_credentials: true, quiesce: None }
}

const REPLICATION: ClusterKind = ClusterKind::Replication;
const PAIR: ClusterKind = ClusterKind::MultiPrimary;

fn words(decision: &Decision) -> Vec<String> {
    decision.plan.iter().map(ToString::to_string).collect()
}

#[track_caller]
fn refused(decision: &Decision, reason: &str) {
    let refusal = decision.refusal().expect("a refusal");
    assert!(refusal.contains(reason), "{refusal:?} does not say {reason:?}");
    assert!(decision.plan.is_empty(), "{:?}", decision.plan);
}

#[test]
fn a_pair_switches_by_three_steps() {
    let decision = switch(&pair(), None, terms(PAIR));
    assert_eq!(decision.refusal(), None);
    let steps = ["make db1 read-only", "wait until db2 has applied all of db1", "make db2 writable"];
    assert_eq!(words(&decision), steps);
    let patient = Terms { quiesce: Some(Duration::from_millis(1500)), ..terms(PAIR) };
    let first = "let what runs on db1 end, and nothing new begin there, for at most 1s 500ms";
    assert_eq!(words(&switch(&pair(), None, patient)), [&[first], &steps[..]].concat());
}

#[test]
fn a_replication_cluster_switches_and_all_others_follow() {
    let decision = switch(&three(), Some("db2"), terms(REPLICATION));
    assert_eq!(decision.refusal(), None);
    assert_eq!(
        words(&decision),
        [
            "make db1 read-only",
            "wait until db2 has applied all of db1",
            "stop the replication of db2",
            "make db2 writable",
            "remove the replication source of db2",
            "let db1 replicate from db2",
            "let db3 replicate from db2",
        ]
    );
}

#[test]
fn the_best_replica_has_the_highest_priority_then_the_least_lag() {
    let chosen = |survey: &Survey| words(&switch(survey, None, terms(REPLICATION)))[3].clone();
    let mut cluster = three();
    cluster.seen[1].sources[0].lag = Some(3);
    assert_eq!(chosen(&cluster), "make db3 writable");
    cluster.seen[1].priority = 5;
    assert_eq!(chosen(&cluster), "make db2 writable");
    cluster.seen[1].enabled = false;
    assert_eq!(chosen(&cluster), "make db3 writable");
}

#[test]
fn every_guard_of_a_switch_refuses() {
    let spoilt = |spoil: &dyn Fn(&mut Survey)| {
        let mut cluster = pair();
        spoil(&mut cluster);
        switch(&cluster, None, terms(PAIR))
    };
    refused(&spoilt(&|c| c.seen[1].sources[0].sql = "No".into()), "no enabled node replicates from db1");
    refused(&spoilt(&|c| c.seen[1].sources.clear()), "no enabled node replicates from db1");
    refused(&spoilt(&|c| c.seen[0].sources[0].io = "Connecting".into()), "db1: IO thread: Connecting");
    refused(&spoilt(&|c| c.seen[1].sources[0].lag = Some(11)), "11 s behind");
    refused(&spoilt(&|c| c.seen[1].sources[0].lag = None), "unknown");
    refused(&spoilt(&|c| c.seen[1].read_only = false), "db1 and db2 are");
    refused(&spoilt(&|c| c.seen[0].read_only = true), "none is");
    refused(&spoilt(&|c| c.seen[1].server_id = 1), "both have 1");
    let lost = survey(pair().seen[..1].to_vec(), &["db2"]);
    refused(&switch(&lost, None, terms(PAIR)), "1 of 2 (db2: connect: refused)");
    let mut by_coordinates = pair();
    by_coordinates.seen[1].sources[0].by_gtid = false;
    refused(&switch(&by_coordinates, None, terms(PAIR)), "no end of its binary log");
}

#[test]
fn every_guard_of_a_replication_cluster_refuses() {
    let spoilt = |spoil: &dyn Fn(&mut Survey)| {
        let mut cluster = three();
        spoil(&mut cluster);
        switch(&cluster, Some("db2"), terms(REPLICATION))
    };
    refused(&spoilt(&|c| c.seen[1].sources[0].by_gtid = false), "db2 does not replicate by GTID");
    refused(&spoilt(&|c| c.seen[1].logs_updates = false), "does not log what it replicates");
    refused(&spoilt(&|c| c.seen[1].sources.push(source(3))), "replicates from 2 servers");
    refused(&spoilt(&|c| c.seen[1].enabled = false), "drain or maintenance");
    refused(
        &spoilt(&|c| c.seen[1].history = Gtids::of_state("0-1-99,0-2-7").unwrap()),
        "db2 has transactions that db1 lacks: 0-2:1-7",
    );
    refused(&switch(&three(), Some("db1"), terms(REPLICATION)), "the writer already");
    refused(&switch(&three(), Some("db9"), terms(REPLICATION)), "db9 does not answer");
    let unknown = Terms { has_credentials: false, ..terms(REPLICATION) };
    refused(&switch(&three(), None, unknown), "replication_user is not set");
}

#[test]
fn catching_up_is_judged_by_gtid_and_by_the_origin_of_what_was_written() {
    let primary = server(1, true, "0-1-100");
    assert!(replica(2, 1, "0-1-100").has_reached(&primary));
    assert!(!replica(2, 1, "0-1-99").has_reached(&primary));
    // Server 2 wrote with higher numbers of its own, and never got the last of server 1.
    let mut diverged = replica(2, 1, "0-2-105");
    diverged.history = Gtids::of_state("0-1-98,0-2-105").unwrap();
    assert!(!diverged.has_reached(&primary));
    // Without a log of what it replicates, the position alone can tell.
    diverged.logs_updates = false;
    assert!(diverged.has_reached(&primary));
}

#[test]
fn catching_up_is_judged_by_coordinates_where_gtids_are_not_used() {
    let primary = server(1, true, "0-1-100");
    let at = |file: &str, offset| {
        let mut seen = replica(2, 1, "0-1-100");
        seen.sources[0].by_gtid = false;
        seen.sources[0].executed = Some(Coordinates { file: file.to_owned(), offset });
        seen
    };
    assert!(at("binlog.000001", 1000).has_reached(&primary));
    assert!(!at("binlog.000001", 999).has_reached(&primary));
    assert!(at("binlog.000001", 999).backlog(&primary).contains("binlog.000001:999 of binlog.000001:1000"));
}

#[test]
fn the_most_advanced_replica_is_promoted_applied_or_not() {
    let cluster =
        survey(vec![orphan_of(2, 1, "0-1-100", "0-1-100"), orphan_of(3, 1, "0-1-90", "0-1-101")], &["db1"]);
    let decision = failover(&cluster, None, terms(REPLICATION));
    assert_eq!(decision.refusal(), None);
    assert_eq!(
        words(&decision),
        [
            "wait until db3 has applied all that it received",
            "stop the replication of db3",
            "make db3 writable",
            "remove the replication source of db3",
            "let db2 replicate from db3",
        ]
    );
    refused(&failover(&cluster, Some("db2"), terms(REPLICATION)), "db2 is not an enabled replica with all");
}

#[test]
fn equal_replicas_are_chosen_by_priority_then_by_name() {
    let mut cluster =
        survey(vec![orphan_of(2, 1, "0-1-100", ""), orphan_of(3, 1, "0-1-100", "0-1-100")], &["db1"]);
    assert_eq!(words(&failover(&cluster, None, terms(REPLICATION)))[2], "make db2 writable");
    cluster.seen[1].priority = 1;
    assert_eq!(words(&failover(&cluster, None, terms(REPLICATION)))[2], "make db3 writable");
    cluster.seen[0].applied = Gtids::of_position("0-1-100,5-9-1").unwrap();
    cluster.seen[1].applied = Gtids::of_position("0-1-100,6-9-1").unwrap();
    refused(&failover(&cluster, None, terms(REPLICATION)), "no enabled replica has all");
}

#[test]
fn a_replica_that_can_not_apply_what_it_received_is_passed_over() {
    let chosen = |spoil: &dyn Fn(&mut Source)| {
        let mut cluster = survey(
            vec![orphan_of(2, 1, "0-1-90", "0-1-100"), orphan_of(3, 1, "0-1-100", "0-1-100")],
            &["db1"],
        );
        // It would be preferred.
        cluster.seen[0].priority = 1;
        spoil(&mut cluster.seen[0].sources[0]);
        let both = successors(&cluster, terms(REPLICATION));
        let alone = failover(&cluster, Some("db2"), terms(REPLICATION)).refusal();
        (both.iter().map(ToString::to_string).collect::<Vec<_>>().join(" "), alone.unwrap_or_default())
    };
    assert_eq!(chosen(&|_| {}), ("db2 db3".into(), String::new()));
    assert_eq!(chosen(&|source| source.sql = "No".into()), ("db3 db2".into(), String::new()), "stopped");
    assert_eq!(chosen(&|source| source.delay = 5), ("db3 db2".into(), String::new()), "waited for");
    let (order, reason) = chosen(&|source| source.delay = 3600);
    assert!(order == "db3" && reason.contains("db2 applies 3600 s late on purpose"), "{order}: {reason}");
    let (order, reason) = chosen(&|source| {
        source.sql = "No".into();
        source.sql_error = "Duplicate entry".into();
    });
    assert!(order == "db3" && reason.contains("db2: SQL thread: No (Duplicate entry)"), "{order}: {reason}");
    let (order, reason) = chosen(&|source| (source.sql, source.io) = ("No".into(), "No".into()));
    assert!(order == "db3" && reason.contains("would throw away"), "{order}: {reason}");
    assert!(reason.ends_with(": 0:91-100"), "{reason}");
}

#[test]
fn a_failover_that_was_cut_off_can_be_completed() {
    // What was chosen then has applied all, and its threads are stopped.
    let mut cluster =
        survey(vec![orphan_of(2, 1, "0-1-100", "0-1-100"), orphan_of(3, 1, "0-1-90", "0-1-90")], &["db1"]);
    let source = &mut cluster.seen[0].sources[0];
    (source.sql, source.io) = ("No".into(), "No".into());
    let decision = failover(&cluster, None, terms(REPLICATION));
    assert_eq!(decision.refusal(), None);
    assert_eq!(words(&decision)[2], "make db2 writable");
}

#[test]
fn a_replica_that_can_be_a_primary_comes_first() {
    let mut cluster = survey(vec![orphan_of(2, 1, "0-1-100", ""), orphan_of(3, 1, "0-1-100", "")], &["db1"]);
    cluster.seen[0].logs_updates = false;
    assert_eq!(words(&failover(&cluster, None, terms(REPLICATION)))[2], "make db3 writable");
    cluster.seen[1].logs_updates = false;
    refused(&failover(&cluster, None, terms(REPLICATION)), "db2 does not log what it replicates");
    assert!(successors(&cluster, terms(REPLICATION)).is_empty());
}

#[test]
fn nothing_is_promoted_while_the_primary_may_live() {
    let both = || vec![orphan_of(2, 1, "0-1-100", ""), orphan_of(3, 1, "0-1-100", "")];
    let judged = |seen: Vec<Seen>, lost: &[&str]| failover(&survey(seen, lost), None, terms(REPLICATION));
    // This proxy alone does not reach it.
    refused(&judged(vec![replica(2, 1, "0-1-100"), replica(3, 1, "0-1-100")], &["db1"]), "0 of 2");
    refused(&judged(vec![both().remove(0), replica(3, 1, "0-1-100")], &["db1"]), "1 of 2");
    // Somebody has promoted another one already.
    let mut promoted = both();
    promoted[0].read_only = false;
    refused(&judged(promoted, &["db1"]), "db2 is");
    // The primary answers, read-only as an operator wants it.
    let mut paused = both();
    paused.insert(0, server(1, true, "0-1-100"));
    refused(&judged(paused, &[]), "no node replicates from one that does not answer");
    // A minority decides nothing; of two, an operator decides.
    refused(&judged(vec![both().remove(0)], &["db1", "db3"]), "1 of 3");
    assert_eq!(judged(vec![both().remove(0)], &["db1"]).refusal(), None);
}

#[test]
fn a_pair_fails_over_without_touching_its_replication() {
    let cluster = survey(vec![orphan_of(2, 1, "0-1-100", "0-1-100")], &["db1"]);
    let decision = failover(&cluster, None, terms(PAIR));
    assert_eq!(words(&decision), ["wait until db2 has applied all that it received", "make db2 writable"]);
}

#[test]
fn the_writable_node_that_nobody_follows_is_fenced() {
    let cluster =
        survey(vec![server(1, false, "0-1-100"), server(2, false, "0-2-101"), replica(3, 2, "0-2-101")], &[]);
    let (fenced, primary) = impostor(&cluster, None).expect("one is an impostor");
    assert_eq!((fenced.node.as_str(), primary.node.as_str()), ("db1", "db2"));
    // What was agreed does not stand against what the others do.
    assert_eq!(impostor(&cluster, Some(&name("db1"))).map(|(a, _)| a.node.as_str()), Some("db1"));
    let followed =
        |seen: Seen| Seen { sources: vec![source(if seen.server_id == 1 { 2 } else { 1 })], ..seen };
    let pair =
        survey(vec![followed(server(1, false, "0-1-100")), followed(server(2, false, "0-1-100"))], &[]);
    assert_eq!(impostor(&pair, None), None);
    assert_eq!(impostor(&pair, Some(&name("db2"))).map(|(a, _)| a.node.as_str()), Some("db1"));
    assert_eq!(impostor(&three(), None), None);
}

#[test]
fn a_node_in_maintenance_is_no_primary_and_not_fenced() {
    // db1 is writable and followed, and an operator took it out; db2 was opened by hand.
    let mut cluster =
        survey(vec![server(1, false, "0-1-100"), server(2, false, "0-1-100"), replica(3, 1, "0-1-100")], &[]);
    assert_eq!(impostor(&cluster, None).map(|(a, _)| a.node.as_str()), Some("db2"));
    cluster.aside = [name("db1")].into();
    cluster.seen[0].enabled = false;
    assert_eq!(impostor(&cluster, None), None);
    assert!(strays(&cluster).is_empty());
    cluster.seen[2].sources[0].io = "Connecting".into();
    assert_eq!(strays(&cluster)[0].0.to_string(), "let db3 replicate from db2");
    // For a change of the writer it counts.
    refused(&switch(&cluster, None, terms(REPLICATION)), "db1 and db2 are");
}

/// What is left to be done of a switch from db1 to db2, in words; what may not be done with its reason.
fn left(cluster: &Survey) -> Vec<String> {
    let word = |(action, verdict): (Action, Result<(), String>)| match verdict {
        Ok(()) => action.to_string(),
        Err(reason) => format!("not: {action}: {reason}"),
    };
    unfinished(cluster, &name("db1"), &name("db2")).into_iter().map(word).collect()
}

#[test]
fn a_switch_that_was_cut_off_is_completed_with_the_guards_of_rejoining() {
    let cut_off = || {
        let mut new = Seen { read_only: false, ..replica(2, 1, "0-1-100") };
        (new.sources[0].io, new.sources[0].sql) = ("No".into(), "No".into());
        survey(vec![server(1, true, "0-1-100"), new, replica(3, 1, "0-1-100")], &[])
    };
    let all =
        ["remove the replication source of db2", "let db1 replicate from db2", "let db3 replicate from db2"];
    assert_eq!(left(&cut_off()), all);
    let spoilt = |spoil: &dyn Fn(&mut Survey)| {
        let mut cluster = cut_off();
        spoil(&mut cluster);
        left(&cluster)
    };
    assert_eq!(spoilt(&|c| c.seen[1].sources.clear()), all[1..]);
    assert_eq!(spoilt(&|c| c.seen[0].sources = vec![source(2)])[1..], all[2..]);
    let done = spoilt(&|c| {
        c.seen[1].sources.clear();
        c.seen[0].sources = vec![source(2)];
        c.seen[2].sources = vec![source(2)];
    });
    assert!(done.is_empty(), "{done:?}");
    let refused = |spoil: &dyn Fn(&mut Survey), index: usize, reason: &str| {
        let words = spoilt(spoil)[index].clone();
        assert!(words.starts_with("not: ") && words.contains(reason), "{words}");
    };
    refused(&|c| c.seen[1].sources[0].sql = "Yes".into(), 0, "db2 replicates, though it is writable");
    refused(&|c| c.seen[1].sources = vec![source(9)], 0, "db2 replicates, though it is writable");
    refused(&|c| c.seen[0].sources = vec![source(9)], 1, "db1 replicates from another server, 10.0.0.9:3306");
    refused(&|c| c.seen[0].history = Gtids::of_state("0-1-101").unwrap(), 1, "db1 has transactions");
    refused(&|c| c.seen[2].history = Gtids::of_state("0-3-101").unwrap(), 2, "db3 has transactions");
    refused(&|c| c.seen[2].enabled = false, 2, "drain or maintenance");
    refused(&|c| c.seen[2].sources.push(source(2)), 2, "replicates from 2 servers");
}

#[test]
fn a_former_primary_follows_again_if_it_has_nothing_of_its_own() {
    let with_old = |state: &str| {
        let mut old = server(1, true, "0-1-100");
        old.history = Gtids::of_state(state).unwrap();
        let mut new = server(2, false, "0-2-110");
        new.history = Gtids::of_state("0-1-100,0-2-110").unwrap();
        survey(vec![old, new, replica(3, 2, "0-2-110")], &[])
    };
    let judged = strays(&with_old("0-1-100"));
    assert_eq!(judged.len(), 1, "{judged:?}");
    assert_eq!((judged[0].0.to_string().as_str(), judged[0].1.is_ok()), ("let db1 replicate from db2", true));
    let judged = strays(&with_old("0-1-103"));
    let reason = judged[0].1.clone().expect_err("it has transactions of its own");
    assert_eq!(reason, "db1 has transactions that db2 lacks: 0-1:101-103");
}

#[test]
fn a_replica_is_a_stray_only_while_its_source_is_lost() {
    let mut cluster = three();
    assert!(strays(&cluster).is_empty());
    cluster.seen[2].sources = vec![source(9)];
    assert!(strays(&cluster).is_empty(), "it replicates from another server, as somebody wants it");
    cluster.seen[2].sources[0].io = "Connecting".into();
    assert_eq!(strays(&cluster).len(), 1);
    cluster.seen[2].enabled = false;
    assert!(strays(&cluster).is_empty());
}

/// A former primary that comes back, server 1, and the new one, server 2.
fn returned(old: &str, old_state: &str) -> Survey {
    let mut old = server(1, true, old);
    old.history = Gtids::of_state(old_state).unwrap();
    let mut new = server(2, false, "0-2-110");
    new.history = Gtids::of_state("0-1-105,0-2-110").unwrap();
    survey(vec![old, new, replica(3, 2, "0-2-110")], &[])
}

#[test]
fn a_former_primary_that_lost_the_end_of_its_log_does_not_follow() {
    let verdict = |cluster: &Survey| strays(cluster)[0].1.clone();
    assert_eq!(verdict(&returned("0-1-105", "0-1-105")), Ok(()));
    let mut cluster = returned("0-1-100", "0-1-100");
    let reason = verdict(&cluster).expect_err("it would pass over five");
    assert!(
        reason.contains("db1 has lost transactions that it wrote itself and db2 has: 0-1:101-105"),
        "{reason}"
    );
    assert!(reason.contains("rpl_semi_sync_slave_enabled"), "{reason}");
    cluster.seen[0].semi_sync.replica = true;
    assert_eq!(verdict(&cluster), Ok(()), "as a semi-synchronous replica it takes them");
    // It replicated for long after it wrote the last of its own.
    assert_eq!(verdict(&returned("0-2-107", "0-1-105,0-2-107")), Ok(()));
}

#[test]
fn a_former_primary_of_mysql_that_lost_the_end_of_its_log_does_not_follow() {
    let mysql = |number, read_only, executed: &str| {
        let set = Gtids::of_set(executed).unwrap();
        let uuid = format!("uuid{number}");
        let (applied, written, history) = (set.clone(), set.clone(), set);
        Seen { dialect: Dialect::MySql, uuid, applied, written, history, ..server(number, read_only, "") }
    };
    let with_old = |executed: &str| {
        let mut old = mysql(1, true, executed);
        old.semi_sync.replica = true;
        let verdict =
            strays(&survey(vec![old, mysql(2, false, "uuid1:1-9:tag:1-2,uuid2:1-4")], &[]))[0].1.clone();
        verdict.err().unwrap_or_default()
    };
    assert_eq!(with_old("uuid1:1-9:tag:1-2"), "", "what others wrote it gets");
    assert!(with_old("uuid1:1-7:tag:1-2,uuid2:1-4").contains("uuid1:8-9;"));
    assert!(with_old("uuid1:1-9,uuid2:1-4").contains("uuid1:tag:1-2;"));
}

#[test]
fn a_node_with_the_id_of_another_one_does_not_follow() {
    let mut cluster = returned("0-1-105", "0-1-105");
    cluster.seen[2].server_id = 1;
    let reason = strays(&cluster)[0].1.clone().expect_err("db3 has its id");
    assert_eq!(reason, "db1 and db3 both have server_id 1");
}

#[test]
fn who_acknowledges_is_told_and_keeps_nobody_from_anything() {
    let told = |decision: &Decision| {
        assert_eq!(decision.refusal(), None);
        let note = decision.guards.iter().find(|guard| guard.what.starts_with("what replicas acknowledge"));
        note.expect("a note").verdict.clone().expect("no condition")
    };
    let mut cluster = three();
    let planned = |cluster: &Survey| told(&switch(cluster, Some("db2"), terms(REPLICATION)));
    assert!(planned(&cluster).starts_with("db1 waits for none: should it be lost"));
    let waiting = Waiting { now: true, replicas: 2, needed: 1, timeout_ms: 500, before_commit: true };
    cluster.seen[0].semi_sync.primary = Some(waiting.clone());
    assert_eq!(
        planned(&cluster),
        "db1 waits for 1 of 2 replicas, 500 ms at most, and then no more; db2 would wait for none"
    );
    cluster.seen[0].semi_sync.primary = Some(Waiting { now: false, replicas: 0, ..waiting.clone() });
    cluster.seen[1].semi_sync.primary = Some(waiting);
    cluster.seen[2].semi_sync.replica = true;
    let words = planned(&cluster);
    assert!(words.contains("waits for none now (0 of 1 replicas that it needs acknowledge)"), "{words}");
    assert!(words.ends_with("db2 would wait for 1 of 1"), "{words}");
    let mut lost =
        survey(vec![orphan_of(2, 1, "0-1-100", "0-1-100"), orphan_of(3, 1, "0-1-90", "0-1-90")], &["db1"]);
    let failed = |cluster: &Survey| told(&failover(cluster, None, terms(REPLICATION)));
    assert!(failed(&lost).starts_with("no replica did (asynchronous replication): rows that clients"));
    lost.seen[1].semi_sync.replica = true;
    assert!(failed(&lost).starts_with("db3 did, if the lost one waited for that"));
}
