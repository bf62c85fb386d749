//! Lets the writer come to rest before it becomes read-only: nothing new begins there, and what runs has some time to end.
//!
//! Sessions of this Spillway are told by the topology. Other Spillways see a lock on the writer with their next probe, and
//! have theirs wait, too. Where the account may see what others do (`PROCESS`), their transactions are waited for.

use std::time::{Duration, Instant};

use tokio::time::sleep;

use super::Sessions;
use super::agreement::lock_of;
use super::node::{GLANCE, Operated, quoted, text};
use crate::config::Cluster;
use crate::ids::ClusterName;
use crate::topology::{TopologyStore, quiesce_lock};

/// An open transaction that has written nothing is not waited for when it is older: a backup, for example.
const OLD: Duration = Duration::from_secs(10);

/// `InnoDB` shows its transactions anew only to whoever did not look for 100 ms.
const FRESH: Duration = Duration::from_millis(150);

/// Nothing new begins on the writer of a cluster until it is dropped.
pub(super) struct Quiesced<'a>(&'a TopologyStore, &'a ClusterName);

impl<'a> Quiesced<'a> {
    pub(super) fn new(topology: &'a TopologyStore, cluster: &'a ClusterName) -> Self {
        topology.quiesce(cluster, true);
        Self(topology, cluster)
    }
}

impl Drop for Quiesced<'_> {
    fn drop(&mut self) {
        self.0.quiesce(self.1, false);
    }
}

/// Waits until nothing runs on the writer of a quiesced cluster, for so long at most; in words, what came of it. What still
/// runs then is refused by the node.
pub(super) async fn wait(
    node: &mut Operated,
    cluster: &Cluster,
    sessions: &dyn Sessions,
    limit: Duration,
) -> String {
    let start = Instant::now();
    let name = node.name().clone();
    let own = || u64::try_from(sessions.running(&cluster.name, &name)).unwrap_or(u64::MAX);
    // A lock that cannot be had is another one's; the agreement is what keeps two from changing one cluster.
    count(node, &format!("SELECT GET_LOCK({}, 0)", quiesce_lock(&cluster.name))).await;
    let has_others = count(node, &others(cluster)).await > 0;
    // They notice with their next probe, as often as this one's.
    let noticed = cluster.monitor.interval.mul_f64(1.0 + cluster.monitor.jitter) + GLANCE * 5;
    let least = if has_others { noticed.min(limit) } else { Duration::ZERO };
    let glance = if has_others { FRESH } else { GLANCE };
    // Once more after the last one: a session may just have sent something when it was told.
    let (mut most, mut rests) = (own(), 0);
    loop {
        sleep(glance).await;
        let all = if has_others { count(node, &transactions()).await } else { 0 };
        let now = own().max(all);
        (most, rests) = (most.max(now), if now == 0 { rests + 1 } else { 0 });
        if rests >= 2 && start.elapsed() >= least {
            let whose = if has_others { "; other Spillways were told" } else { "" };
            return format!("{most} ended{whose}");
        }
        if start.elapsed() > limit {
            return format!("{now} not ended");
        }
    }
}

/// Lets others go on, as soon as the node itself says that it takes no writes. Closing the connection does the same.
pub(super) async fn release(node: &mut Operated, cluster: &Cluster) {
    count(node, &format!("SELECT RELEASE_LOCK({})", quiesce_lock(&cluster.name))).await;
}

/// A number; 0 where the node does not tell it.
async fn count(node: &mut Operated, statement: &str) -> u64 {
    let rows = node.ask(statement, node.limit()).await.unwrap_or_default();
    rows.first().and_then(|row| text(row, 0).parse().ok()).unwrap_or(0)
}

/// How many connections of monitors the node has beside this one's, and beside those of this handover.
fn others(cluster: &Cluster) -> String {
    let monitor = quoted(&cluster.monitor.user);
    let lock = lock_of(&cluster.name);
    format!(
        "SELECT GREATEST(COUNT(*), 1) - 1 FROM information_schema.PROCESSLIST \
         WHERE USER = {monitor} AND ID <> CONNECTION_ID() AND ID <> COALESCE(IS_USED_LOCK({lock}), 0)"
    )
}

/// How many transactions are open that have written, or may be about to. Those of replication and of recovery are not asked
/// for.
fn transactions() -> String {
    format!(
        "SELECT COUNT(*) FROM information_schema.INNODB_TRX WHERE trx_mysql_thread_id IN \
         (SELECT ID FROM information_schema.PROCESSLIST WHERE USER <> 'system user') \
         AND (trx_rows_modified > 0 OR trx_started > NOW() - INTERVAL {} SECOND)",
        OLD.as_secs()
    )
}
