//! Three members of a group of `MySQL` with one primary: whom the others elect, Spillway follows.

use super::load::{Load, SET_UP};
use super::{Front, round};
use crate::harness::cluster::mysql_group;
use crate::harness::{PATIENCE, wait_for};
use crate::{Verdict, ensure, same};
use std::time::Instant;

/// A group takes five seconds to notice that a member is gone, and elects then.
const PATIENT: &str = "moves = { hold = \"20s\" }";

/// What a member has applied.
const EXECUTED: &str = "SELECT @@global.gtid_executed";

/// The primary is gone at once; the group elects another one; the former primary joins again.
pub(super) fn primary_killed() -> Verdict {
    let mut members = mysql_group(&format!("chaos-group-{}-", round()))?;
    members[0].sql(SET_UP)?;
    let front = Front::start("group", "group-replication", &members, PATIENT)?;
    same!(front.writer()?, members[0].name, "the writer at first");
    let mut load = Load::start(front.doors(None))?;
    load.phase("killed");
    let killed = Instant::now();
    members[0].kill();
    load.goes_on(100)?;
    let elected = front.writer()?;
    ensure!(members[1..].iter().any(|member| member.name == elected), "{elected} is the writer");
    load.phase("rejoining");
    members[0].start(&[])?;
    members[0].sql("START GROUP_REPLICATION")?;
    front.spillway.wait_node("chaos", &members[0].name, "serves reads", |entry| entry["role"] == "reader")?;
    load.goes_on(50)?;
    same!(front.writer()?, elected, "the role does not return");
    let records = load.stop()?;
    records.print("group: the primary is killed", Some(killed))?;
    wait_for("all members have the same", PATIENCE, || {
        let executed = members.iter().map(|member| member.sql(EXECUTED)).collect::<Result<Vec<_>, _>>()?;
        if executed.windows(2).all(|pair| pair[0] == pair[1]) { Ok(()) } else { Err(format!("{executed:?}")) }
    })?;
    for member in members {
        records.check(&member)?;
        member.discard();
    }
    records.no_error_but(1)?;
    records.no_transaction_failed_but(1)
}
