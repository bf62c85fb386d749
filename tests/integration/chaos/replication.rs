//! A primary and a replica, new for every scenario and semi-synchronous: a row is acknowledged when the replica has it, so
//! that none is lost with the primary.

use super::load::{Load, Records, SET_UP};
use super::{Front, round};
use crate::harness::cluster::Replication;
use crate::harness::server::Server;
use crate::harness::{Outcome, PATIENCE, wait_for};
use crate::{Verdict, ensure};
use std::time::{Duration, Instant};

/// The primary tells nobody before the replica has it, however long that takes.
const PRIMARY: &str = "SET GLOBAL rpl_semi_sync_master_wait_point = 'AFTER_SYNC';
    SET GLOBAL rpl_semi_sync_master_timeout = 600000; SET GLOBAL rpl_semi_sync_master_enabled = ON";
const REPLICA: &str =
    "SET GLOBAL rpl_semi_sync_slave_enabled = ON; STOP SLAVE IO_THREAD; START SLAVE IO_THREAD";
const REPLICAS: &str = "SELECT VARIABLE_VALUE FROM information_schema.GLOBAL_STATUS
    WHERE VARIABLE_NAME = 'RPL_SEMI_SYNC_MASTER_CLIENTS'";

/// What a replica says when it has applied all that it received.
const APPLIED: &str = "has read all relay log";

/// What is written is in the log of the server before anybody is told.
pub(super) const OPTIONS: &[&str] =
    &["--skip-name-resolve", "--innodb-flush-log-at-trx-commit=1", "--sync-binlog=1"];

/// A primary that crashed becomes a replica: it takes back what may have been acknowledged to nobody, and must then take from
/// others what carries its own server id, or it would lack that silently.
pub(super) const FORMER: &[&str] =
    &["--init-rpl-role=SLAVE", "--rpl-semi-sync-slave-enabled=1", "--read-only=1"];

/// From now on a replica has what the first node acknowledges.
pub(super) fn make_semi_synchronous(cluster: &Replication) -> Verdict {
    cluster.wait_caught_up()?;
    let (primary, replicas) = cluster.nodes.split_first().ok_or("no node")?;
    primary.sql(PRIMARY)?;
    for replica in replicas {
        replica.sql(REPLICA)?;
    }
    primary.wait_sql(REPLICAS, &replicas.len().to_string(), PATIENCE)
}

/// The pair with a Spillway in front of it.
struct Stage {
    /// The primary first.
    pair: Replication,
    front: Front,
}

impl Stage {
    fn set_up(name: &str) -> Outcome<Self> {
        let pair = Replication::start(&format!("chaos-{name}-{}", round()), OPTIONS)?;
        pair.nodes[0].create_monitor()?;
        pair.nodes[0].sql(SET_UP)?;
        make_semi_synchronous(&pair)?;
        let front = Front::start(name, "replication", &pair.nodes, "")?;
        Ok(Self { pair, front })
    }

    fn primary(&self) -> &Server {
        &self.pair.nodes[0]
    }

    /// Makes the replica the primary, by hand, with all that it received. Returns when it began to take writes.
    fn promote(&mut self) -> Outcome<Instant> {
        let replica = &self.pair.nodes[1];
        replica.sql("STOP SLAVE IO_THREAD")?;
        wait_for("the relay log is applied", PATIENCE, || {
            let status = replica.sql("SHOW SLAVE STATUS")?;
            if status.contains(APPLIED) { Ok(()) } else { Err(status) }
        })?;
        // By a client that is there already: how long one takes to start is nobody's delay.
        let mut client = replica.session()?;
        client.run("STOP SLAVE; RESET SLAVE ALL")?;
        let promoted = Instant::now();
        client.run("SET GLOBAL read_only = OFF")?;
        self.pair.nodes.swap(0, 1);
        Ok(promoted)
    }

    /// Makes the former primary a replica of the new one, and waits until Spillway uses it.
    fn demote(&self) -> Verdict {
        let former = &self.pair.nodes[1];
        former.sql(&format!(
            "SET GLOBAL rpl_semi_sync_master_enabled = OFF;
             CHANGE MASTER TO MASTER_HOST='127.0.0.1', MASTER_PORT={}, MASTER_USER='replication',
             MASTER_PASSWORD='replication-secret', MASTER_USE_GTID=slave_pos, MASTER_DEMOTE_TO_SLAVE=1,
             MASTER_CONNECT_RETRY=1; START SLAVE",
            self.primary().port
        ))?;
        let reads = |entry: &serde_json::Value| entry["role"] == "reader";
        let serves = self.front.spillway.wait_node("chaos", &former.name, "serves reads", reads);
        serves.map_err(|reason| format!("{reason}\n{}", former.sql("SHOW SLAVE STATUS").unwrap_or_default()))
    }

    /// Ends the load, prints what it saw, looks for every row on both nodes, and removes them.
    fn judge(self, load: Load, scenario: &str, event: Instant) -> Outcome<Records> {
        let records = load.stop()?;
        records.print(&format!("replication: {scenario}"), Some(event))?;
        self.pair.wait_caught_up()?;
        for node in self.pair.nodes {
            records.check(&node)?;
            node.discard();
        }
        Ok(records)
    }
}

/// Fails unless every writer was served soon after the promotion.
pub(super) fn served_within(records: &Records, promoted: Instant, limit: Duration) -> Verdict {
    let after = records.served_after(promoted).ok_or("a writer was never served again")?;
    ensure!(after <= limit, "the last writer was served {after:.2?} after the promotion");
    Ok(())
}

/// The primary is gone at once; somebody promotes the replica; the former primary comes back as a replica.
pub(super) fn primary_killed() -> Verdict {
    let mut stage = Stage::set_up("primary-killed")?;
    let mut load = Load::start(stage.front.doors(None))?;
    load.phase("killed");
    stage.pair.nodes[0].kill();
    std::thread::sleep(Duration::from_millis(1500));
    let promoted = stage.promote()?;
    load.goes_on(100)?;
    load.phase("rejoining");
    stage.pair.nodes[1].start(FORMER)?;
    stage.demote()?;
    load.goes_on(100)?;
    let records = stage.judge(load, "the primary is killed, the replica promoted by hand", promoted)?;
    records.no_error_but(1)?;
    records.no_transaction_failed_but(1)?;
    served_within(&records, promoted, Duration::from_millis(500))
}

/// The primary and the replica change places, by hand and in peace.
pub(super) fn places_changed() -> Verdict {
    let mut stage = Stage::set_up("places-changed")?;
    let mut load = Load::start(stage.front.doors(None))?;
    load.phase("changed");
    stage.primary().sql("SET GLOBAL read_only = ON")?;
    stage.pair.wait_caught_up()?;
    let promoted = stage.promote()?;
    stage.demote()?;
    load.goes_on(100)?;
    let records = stage.judge(load, "primary and replica change places by hand", promoted)?;
    records.no_error_but(0)?;
    // Whoever tries again at once may begin on the old primary again, until Spillway has seen what became of it.
    records.no_transaction_failed_after(promoted + Duration::from_millis(500))?;
    served_within(&records, promoted, Duration::from_millis(500))
}

/// The primary takes no writes for a moment.
pub(super) fn primary_read_only() -> Verdict {
    let stage = Stage::set_up("primary-read-only")?;
    let mut load = Load::start(stage.front.doors(None))?;
    let (mut client, mut writable) = (stage.primary().session()?, Instant::now());
    for (phase, pause) in [("a moment", 100), ("a while", 1500)] {
        load.phase(phase);
        client.run("SET GLOBAL read_only = ON")?;
        std::thread::sleep(Duration::from_millis(pause));
        writable = Instant::now();
        client.run("SET GLOBAL read_only = OFF")?;
        load.goes_on(50)?;
    }
    let records = stage.judge(load, "the primary is read-only for a while", writable)?;
    records.no_error_but(0)?;
    records.transactions_failed_only_at_first()?;
    served_within(&records, writable, Duration::from_millis(500))
}
