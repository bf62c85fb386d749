//! A Galera cluster of its own, which every scenario leaves with three nodes. Where this machine can have them, its nodes
//! are on hosts of their own.

use super::Front;
use super::load::{Load, Records, Role, SET_UP};
use crate::harness::cluster::Galera;
use crate::harness::network::{self, Impairment};
use crate::harness::server::Server;
use crate::harness::{Outcome, PATIENCE, wait_for};
use crate::{Verdict, ensure, same};
use std::net::TcpStream;
use std::sync::{Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::{Duration, Instant};

/// Seconds of silence after which nodes take another one for dead.
const SUSPECT: u8 = 2;

static CLUSTER: OnceLock<Outcome<Mutex<Galera>>> = OnceLock::new();

fn cluster() -> Outcome<MutexGuard<'static, Galera>> {
    let cluster = CLUSTER.get_or_init(|| start().map(Mutex::new)).as_ref().map_err(Clone::clone)?;
    Ok(cluster.lock().unwrap_or_else(PoisonError::into_inner))
}

fn start() -> Outcome<Galera> {
    let mut nodes = Vec::new();
    for number in 1..=3 {
        nodes.push(Server::prepare(&format!("chaos{number}"), &["--skip-name-resolve"])?);
    }
    if network::missing().is_none() {
        for (node, host) in nodes.iter_mut().zip(network::hosts(3)?) {
            node.run_on(&host)?;
        }
    }
    let galera = Galera::found("chaos", nodes, SUSPECT)?;
    galera.nodes[0].create_monitor()?;
    galera.nodes[0].sql(SET_UP)?;
    Ok(galera)
}

/// The cluster with a Spillway in front of it, and which of its nodes is the writer.
struct Stage {
    galera: MutexGuard<'static, Galera>,
    front: Front,
    writer: usize,
}

impl Stage {
    fn set_up(name: &str) -> Outcome<Self> {
        let mut galera = cluster()?;
        // What a scenario that failed has left.
        for number in 0..galera.nodes.len() {
            if galera.nodes[number].pid().is_none() {
                galera.rejoin(number)?;
            }
        }
        galera.wait_size(3)?;
        let front = Front::start(name, "galera", &galera.nodes, "")?;
        let writer = front.writer()?;
        let writer = galera.nodes.iter().position(|node| node.name == writer).ok_or("an unknown writer")?;
        Ok(Self { galera, front, writer })
    }

    /// A node that is not the writer, `steps` after it.
    fn other(&self, steps: usize) -> usize {
        (self.writer + steps) % self.galera.nodes.len()
    }

    /// Clients, one of which writes to a node without Spillway.
    fn load(&self, direct: usize) -> Outcome<Load> {
        Load::start(self.front.doors(Some(self.galera.nodes[direct].address())))
    }

    fn is_back(&mut self, number: usize) -> Verdict {
        self.galera.wait_synced(number)?;
        self.front.wait_serving(&self.galera.nodes[number].name)
    }

    /// Starts a node again, and waits until it is used. It fetches its state from the node `from`, which cannot serve
    /// meanwhile.
    fn rejoin(&mut self, number: usize, from: usize) -> Verdict {
        let donor = format!("--wsrep-sst-donor={},", self.galera.nodes[from].name);
        self.galera.wait_left(number)?;
        self.galera.nodes[number].launch(&[&donor])?;
        self.is_back(number)
    }

    /// Ends the load, prints what it saw, and looks for every row on every node.
    fn judge(&self, load: Load, scenario: &str) -> Outcome<super::load::Records> {
        let records = load.stop()?;
        records.print(&format!("galera: {scenario}"), None)?;
        self.galera.wait_size(3)?;
        for node in &self.galera.nodes {
            // Applied everywhere, and not only replicated; a node that was frozen may not know yet that it was away.
            wait_for("a node has all", PATIENCE, || {
                node.sql("SET SESSION wsrep_sync_wait = 1; SELECT COUNT(*) FROM chaos.ledger")
            })?;
            records.check(node)?;
        }
        Ok(records)
    }
}

/// The writer is gone at once; later it comes back and fetches everything anew.
pub(super) fn writer_killed() -> Verdict {
    let mut stage = Stage::set_up("writer-killed")?;
    let (writer, donor, stays) = (stage.writer, stage.other(1), stage.other(2));
    let mut load = stage.load(stays)?;
    load.phase("killed");
    stage.galera.nodes[writer].kill();
    load.goes_on(100)?;
    load.phase("rejoining");
    stage.rejoin(writer, donor)?;
    load.goes_on(100)?;
    let records = stage.judge(load, "the writer is killed")?;
    records.no_error_but(1)?;
    records.no_transaction_failed_but(1)?;
    records.added_at_most("killed", Duration::from_millis(300))
}

/// A node that only serves reads is gone at once, and comes back while the writer gives it all its state.
pub(super) fn reader_killed() -> Verdict {
    let mut stage = Stage::set_up("reader-killed")?;
    let (reader, stays, writer) = (stage.other(1), stage.other(2), stage.writer);
    let mut load = stage.load(stays)?;
    load.phase("killed");
    stage.galera.nodes[reader].kill();
    load.goes_on(100)?;
    load.phase("rejoining");
    stage.rejoin(reader, writer)?;
    load.goes_on(100)?;
    let records = stage.judge(load, "a reader is killed, and rejoins from the writer")?;
    records.no_error_but(1)?;
    records.no_transaction_failed_but(0)?;
    records.added_at_most("killed", Duration::from_millis(300))
}

/// The writer says nothing more, and its connections stay open.
pub(super) fn writer_frozen() -> Verdict {
    let mut stage = Stage::set_up("writer-frozen")?;
    let (writer, stays) = (stage.writer, stage.other(1));
    let mut load = stage.load(stays)?;
    load.phase("frozen");
    stage.galera.nodes[writer].freeze(true)?;
    let served = load.goes_on(100);
    load.phase("thawed");
    stage.galera.nodes[writer].freeze(false)?;
    served?;
    stage.is_back(writer)?;
    load.goes_on(100)?;
    let records = stage.judge(load, "the writer is frozen")?;
    lost_once(&records)?;
    records.added_at_most("frozen", Duration::from_millis(1500))
}

/// Each client lost what was under way at most once: with the writer, and once more where the nodes all left the primary
/// component for a moment when they saw it again, as the client without Spillway was told.
fn lost_once(records: &Records) -> Verdict {
    let split_again = usize::from(!records.troubles(Role::Direct).is_empty());
    records.no_error_but(1 + split_again)?;
    records.no_transaction_failed_but(1 + split_again)
}

/// The writer's cable is pulled: it runs, and hears and is heard by nobody.
pub(super) fn writer_cut_off() -> Verdict {
    let hosts = network::hosts(3)?;
    let mut stage = Stage::set_up("writer-cut-off")?;
    let (writer, stays) = (stage.writer, stage.other(1));
    let mut load = stage.load(stays)?;
    load.phase("cut off");
    hosts[writer].cut(true)?;
    let served = load.goes_on(100);
    load.phase("plugged in");
    hosts[writer].cut(false)?;
    served?;
    stage.is_back(writer)?;
    load.goes_on(100)?;
    let records = stage.judge(load, "the writer's network is cut")?;
    lost_once(&records)?;
    records.added_at_most("cut off", Duration::from_millis(1500))
}

/// The writer's network is slow and loses packets: everything takes longer, as it does without Spillway, and that is all.
pub(super) fn writer_badly_connected() -> Verdict {
    const BAD: Impairment = Impairment { delay: (10, 50), lost: 5 };
    let hosts = network::hosts(3)?;
    let stage = Stage::set_up("writer-badly-connected")?;
    let node = &stage.galera.nodes[stage.writer];
    let mut load = stage.load(stage.writer)?;
    let log = stage.front.spillway.log().len();
    load.phase("bad cable");
    let (bad, begun) = (hosts[stage.writer].impair(&BAD)?, Instant::now());
    let served = load.goes_on(100);
    let (lasted, round_trip) = (begun.elapsed(), round_trip(node)?);
    drop(bad);
    served?;
    load.phase("good cable");
    load.goes_on(100)?;
    let records = stage.judge(load, "the writer's network delays packets by 10 to 50 ms and loses 5 %")?;
    super::say(&format!("  for {lasted:.1?}; a packet and its answer took {round_trip:.0?} at least\n"))?;
    ensure!(round_trip >= Duration::from_millis(20), "not by the bad cable: {round_trip:?}");
    let log = stage.front.spillway.log().split_off(log);
    ensure!(!log.contains("node state changed"), "{log}");
    same!(stage.front.writer()?, node.name, "the writer");
    records.no_error_but(0)?;
    records.no_transaction_failed_but(0)
}

/// How long it takes to connect to a node, at best of some times.
fn round_trip(node: &Server) -> Outcome<Duration> {
    let once = || {
        let begun = Instant::now();
        TcpStream::connect(node.address()).map(|_| begun.elapsed()).map_err(|e| e.to_string())
    };
    (0..3).map(|_| once()).try_fold(Duration::MAX, |best, once| Ok(best.min(once?)))
}

/// Every node is drained, stopped and started again, the writer among them: no client notices.
pub(super) fn rolling_restart() -> Verdict {
    let mut stage = Stage::set_up("rolling-restart")?;
    let mut load = Load::start(stage.front.doors(None))?;
    let (mut writers, mut drains) = (0, Vec::new());
    for number in 0..stage.galera.nodes.len() {
        let name = stage.galera.nodes[number].name.clone();
        load.phase(["first", "second", "third"][number]);
        // Logged in before: transactions are short, and those that are open meanwhile are looked for.
        let (is_writer, mut console) = (stage.front.writer()? == name, stage.front.spillway.console()?);
        let asked = Instant::now();
        let answer = console.command(&format!("set node chaos {name} drain"))?;
        ensure!(!answer.contains("rror"), "{answer}");
        if is_writer {
            writers += 1;
            drains.push((asked, Instant::now()));
        }
        stage.front.spillway.wait_node("chaos", &name, "is empty", |entry| entry["sessions"] == 0)?;
        stage.galera.nodes[number].stop()?;
        stage.galera.nodes[number].launch(&[])?;
        stage.galera.wait_synced(number)?;
        stage.front.set(&name, "enabled")?;
        stage.is_back(number)?;
        load.goes_on(50)?;
    }
    let records = stage.judge(load, "rolling restart")?;
    records.no_error_but(0)?;
    // Those that were open when their node was drained as well: they end there, and the node waits for that.
    records.no_transaction_failed_but(0)?;
    let open: usize = drains.iter().map(|(from, to)| records.finished_later(*from, *to)).sum();
    super::say(&format!(
        "  {open} transactions were open at the drains of {writers} writers, and finished\n"
    ))?;
    ensure!(open > 0, "no transaction was open when a writer was drained");
    Ok(())
}

/// The writer stops serving by its own settings, in every way that there is: another one takes over.
pub(super) fn writer_set_aside() -> Verdict {
    const ASIDE: [(&str, &str, &str); 3] = [
        ("desynced", "wsrep_desync = ON", "wsrep_desync = OFF"),
        ("rejecting", "wsrep_reject_queries = ALL", "wsrep_reject_queries = NONE"),
        ("read_only", "read_only = ON", "read_only = OFF"),
    ];
    let stage = Stage::set_up("writer-set-aside")?;
    let mut load = Load::start(stage.front.doors(None))?;
    for (phase, aside, back) in ASIDE {
        let name = stage.front.writer()?;
        let writer = stage.galera.nodes.iter().find(|node| node.name == name).ok_or("an unknown writer")?;
        load.phase(phase);
        writer.sql(&format!("SET GLOBAL {aside}"))?;
        let left = wait_for("another writer", PATIENCE, || {
            let now = stage.front.writer()?;
            if now == name { Err(now) } else { Ok(()) }
        });
        let served = load.goes_on(50);
        writer.sql(&format!("SET GLOBAL {back}"))?;
        left?;
        served?;
        stage.front.wait_serving(&name)?;
        load.goes_on(50)?;
    }
    let records = stage.judge(load, "the writer is set aside")?;
    records.no_error_but(0)?;
    // One that is open cannot go on there.
    records.transactions_failed_only_at_first()
}

/// Two of three nodes are gone: the third is alone and takes nothing, until it is told that it is the cluster.
pub(super) fn quorum_lost() -> Verdict {
    let mut stage = Stage::set_up("quorum-lost")?;
    let (writer, second, last) = (stage.writer, stage.other(1), stage.other(2));
    let mut load = stage.load(last)?;
    load.phase("alone");
    stage.galera.nodes[writer].kill();
    stage.galera.nodes[second].kill();
    std::thread::sleep(Duration::from_secs(5));
    load.phase("bootstrapped");
    stage.galera.nodes[last].sql("SET GLOBAL wsrep_provider_options = 'pc.bootstrap=YES'")?;
    load.goes_on(50)?;
    load.phase("rejoining");
    stage.rejoin(writer, last)?;
    stage.rejoin(second, writer)?;
    load.goes_on(50)?;
    let records = stage.judge(load, "two of three nodes are killed")?;
    for trouble in
        [Role::Writer, Role::Transactor, Role::Reader].map(|role| records.troubles(role)).iter().flatten()
    {
        let clear =
            ["cluster chaos", "WSREP", "Primary Component"].iter().any(|word| trouble.text.contains(word));
        ensure!(clear, "an error that says nothing: {}", trouble.text);
    }
    Ok(())
}
