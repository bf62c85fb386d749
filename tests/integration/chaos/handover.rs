//! Spillway itself changes the writer: of two servers that replicate from each other, and of a primary with replicas.

use super::load::{Load, SET_UP};
use super::{Front, replication, round};
use crate::harness::cluster::{Replication, TwoPrimaries};
use crate::harness::server::{Server, monitor_statements};
use crate::harness::{Outcome, PATIENCE, wait_for};
use crate::{Verdict, ensure};
use std::time::{Duration, Instant};

/// Who changes the nodes, and as whom replicas log in.
const HANDOVER: &str = "handover = { user = \"operator\", password = \"operator-secret\", \
    replication_user = \"replication\", replication_password = \"replication-secret\", failover = \"manual\" }";

/// How long the primary must be lost before Spillway acts by itself.
const AFTER: Duration = Duration::from_secs(1);

fn contents() -> String {
    format!(
        "{SET_UP} CREATE USER operator@'%' IDENTIFIED BY 'operator-secret';
         GRANT READ_ONLY ADMIN, REPLICATION SLAVE ADMIN, BINLOG MONITOR, REPLICA MONITOR, RELOAD, CONNECTION ADMIN
         ON *.* TO operator@'%'; {}",
        monitor_statements()
    )
}

impl Front {
    fn operate(&self, command: &str) -> Outcome<String> {
        let answer = self.spillway.ask(command)?;
        let failed = answer.contains("error") || answer.contains("failed");
        if failed { Err(format!("{command}: {answer}\n{}", self.spillway.log_tail(30))) } else { Ok(answer) }
    }
}

/// The two change places again and again.
pub(super) fn pair_switched() -> Verdict {
    let pair = TwoPrimaries::start(&format!("chaos-pair-{}", round()), true, &contents())?;
    let front = Front::start("pair", "multi-primary", &pair.nodes, HANDOVER)?;
    let mut load = Load::start(front.doors(None))?;
    for phase in ["there", "back", "there again"] {
        load.phase(phase);
        let report = front.operate("switch chaos")?;
        ensure!(report.contains("let what runs on"), "{report}");
        load.goes_on(50)?;
    }
    let records = load.stop()?;
    records.print("pair: switched by Spillway", None)?;
    let count = |node: &Server| node.sql("SELECT COUNT(*) FROM chaos.ledger");
    let [a, b] = &pair.nodes[..] else { return Err("not two nodes".to_owned()) };
    wait_for("both have the same rows", PATIENCE, || {
        let (here, there) = (count(a)?, count(b)?);
        if here == there { Ok(()) } else { Err(format!("{here} and {there}")) }
    })?;
    for node in pair.nodes {
        records.check(&node)?;
        node.discard();
    }
    records.no_error_but(0)?;
    // Those that were open when it began had the time to end.
    records.no_transaction_failed_but(0)
}

/// Who starts a failover.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Failover {
    Manual,
    Auto,
}

/// The primary is gone at once, and Spillway is told to promote a replica; the former primary comes back.
pub(super) fn primary_failed_over() -> Verdict {
    failed_over(Failover::Manual)
}

/// The primary is gone at once, and Spillway promotes a replica by itself; the former primary comes back.
pub(super) fn primary_failed_over_by_itself() -> Verdict {
    failed_over(Failover::Auto)
}

fn failed_over(failover: Failover) -> Verdict {
    let (name, keys) = match failover {
        Failover::Manual => ("failover", HANDOVER.to_owned()),
        Failover::Auto => {
            ("auto", HANDOVER.replace("\"manual\"", &format!("\"auto\", failover_after = \"{AFTER:?}\"")))
        }
    };
    let mut cluster = Replication::with_replicas(
        &format!("chaos-{name}-{}", round()),
        replication::OPTIONS,
        &["r1", "r2"],
    )?;
    cluster.nodes[0].sql(&contents())?;
    replication::make_semi_synchronous(&cluster)?;
    let front = Front::start(name, "replication", &cluster.nodes, &keys)?;
    let plan = front.operate("switch chaos --dry-run")?;
    ensure!(plan.contains("waits for 1 of 2 replicas, 600000 ms at most"), "{plan}");
    let mut load = Load::start(front.doors(None))?;
    load.phase("killed");
    let killed = Instant::now();
    cluster.nodes[0].kill();
    let mut asked = killed;
    let promoted = wait_for("a failover", PATIENCE, || match failover {
        Failover::Manual => {
            asked = Instant::now();
            let report = front.operate("failover chaos")?;
            ensure!(report.contains(" did, if the lost one waited for that"), "{report}");
            Ok(Instant::now())
        }
        Failover::Auto => {
            let writable = cluster.nodes[1..].iter().map(|node| node.sql("SELECT @@global.read_only"));
            let writable = writable.collect::<Outcome<Vec<_>>>()?.iter().any(|read_only| read_only == "0");
            if writable { Ok(Instant::now()) } else { Err(front.spillway.log_tail(30)) }
        }
    })?;
    let took = asked.elapsed();
    load.goes_on(100)?;
    if failover == Failover::Auto {
        ensure!(promoted - killed >= AFTER, "a failover {:.2?} after the loss", promoted - killed);
        wait_for("the end of the failover", PATIENCE, || {
            let events = front.spillway.ask("show events chaos")?;
            let is_told = events.contains("failover begun") && events.contains("done");
            if is_told { Ok(()) } else { Err(events) }
        })?;
    }
    load.phase("rejoining");
    cluster.nodes[0].start(replication::FORMER)?;
    let former = cluster.nodes[0].name.clone();
    front.spillway.wait_node("chaos", &former, "serves reads", |entry| entry["role"] == "reader")?;
    load.goes_on(50)?;
    let records = load.stop()?;
    let scenario = match failover {
        Failover::Manual => format!("replication: failover by Spillway, which took {took:.2?}"),
        Failover::Auto => {
            format!("replication: failover by Spillway itself, {:.2?} after the loss", promoted - killed)
        }
    };
    records.print(&scenario, Some(promoted))?;
    let writer = front.writer()?;
    let primary = cluster.nodes.iter().position(|node| node.name == writer).ok_or("an unknown writer")?;
    ensure!(primary != 0, "the former primary is the writer again");
    cluster.nodes.swap(0, primary);
    cluster.wait_caught_up()?;
    for node in cluster.nodes {
        records.check(&node)?;
        node.discard();
    }
    records.no_error_but(1)?;
    records.no_transaction_failed_but(1)?;
    replication::served_within(&records, promoted, Duration::from_millis(500))
}
