//! What makes a verdict: how many probes, and what wakes one.

use crate::harness::cluster::Replication;
use crate::harness::proxy::Spillway;
use crate::harness::server::{MONITOR_USER, Server};
use crate::harness::workspace::free_port;
use crate::harness::{Outcome, PATIENCE, wait_for};
use crate::lab::{self, PASSWORD};
use crate::raw::{self, Credentials, Raw, first_value};
use crate::{Verdict, ensure, same, trial};
use libtest_mimic::Trial;
use std::io::{Read, Write};
use std::net::{Ipv4Addr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::thread::sleep;
use std::time::{Duration, Instant};

pub(crate) fn trials() -> Vec<Trial> {
    vec![
        trial("probes::a_node_comes_back_after_some_good_ones", a_node_comes_back_after_some_good_ones),
        trial("probes::trouble_of_a_session_wakes_one", trouble_of_a_session_wakes_one),
        trial("probes::a_refusal_in_a_transaction_wakes_one", a_refusal_in_a_transaction_wakes_one),
        trial("probes::much_trouble_wakes_few", much_trouble_wakes_few),
        trial("probes::fifty_nodes", fifty_nodes),
        trial("probes::a_full_node_serves_those_who_are_there", a_full_node_serves_those_who_are_there),
    ]
}

/// One server and a Spillway with these settings of its monitor.
fn stage(name: &str, options: &[&str], interval: &str, monitor: &str) -> Outcome<(Server, Spillway, u16)> {
    let server = Server::standalone(name, &[&["--skip-name-resolve"], options].concat())?;
    server.create_monitor()?;
    server.sql(&format!("CREATE USER app@'%' IDENTIFIED BY '{PASSWORD}'"))?;
    let port = free_port()?;
    let nodes = format!("{{ only = \"{}\" }}", server.address());
    let configuration = lab::cluster_probed("lab", "static", &nodes, interval, "moves = { hold = \"0s\" }")
        .replace("timeout = \"1s\"", monitor)
        + &lab::service_toml("lab", port, "route = \"cluster:lab\"");
    let spillway = Spillway::start(lab::binary(), &format!("spillway-{name}"), &configuration)?;
    Ok((server, spillway, port))
}

fn session(port: u16) -> Outcome<Raw> {
    raw::login(port, &Credentials::new("app", PASSWORD, None))?.map_err(|refusal| format!("{refusal:?}"))
}

fn state(spillway: &Spillway) -> Outcome<String> {
    let node = spillway.node("lab", "only")?;
    Ok(node["observed"].as_str().unwrap_or_default().to_owned())
}

fn a_node_comes_back_after_some_good_ones() -> Verdict {
    let (mut server, spillway, _) = stage("rise", &[], "400ms", "timeout = \"500ms\", rise = 3, fall = 3")?;
    // Two answers that do not come are not enough: 500 ms each.
    let mut is_short = false;
    for _ in 0..5 {
        let begun = Instant::now();
        server.freeze(true)?;
        sleep(Duration::from_millis(900));
        let state = state(&spillway)?;
        server.freeze(false)?;
        // A machine that is too busy may have made it three.
        is_short = begun.elapsed() < Duration::from_millis(1400);
        if is_short {
            same!(state, "up", "after less than two time-outs");
            sleep(Duration::from_millis(700));
            ensure!(!spillway.log().contains("now=\"down"), "{}", spillway.log_tail(10));
            break;
        }
        spillway.wait_all_up()?;
    }
    ensure!(is_short, "this machine is too busy for silence of a second");
    server.freeze(true)?;
    wait_for("three that do not come", PATIENCE, || {
        let state = state(&spillway)?;
        if state == "down" { Ok(()) } else { Err(state) }
    })?;
    server.freeze(false)?;
    server.stop()?;
    server.launch(&[])?;
    let (mut seen, begun) = (Vec::new(), Instant::now());
    while begun.elapsed() < 2 * PATIENCE {
        let told = spillway.ask("explain node lab only")?;
        if state(&spillway)? == "up" {
            break;
        }
        for count in ["1 of 3", "2 of 3", "3 of 3"] {
            if told.contains(&format!("comes back: {count} good probes")) && !seen.contains(&count) {
                seen.push(count);
            }
        }
        sleep(Duration::from_millis(20));
    }
    same!(state(&spillway)?, "up", "in the end");
    same!(seen, ["1 of 3", "2 of 3"], "on the way");
    Ok(())
}

fn trouble_of_a_session_wakes_one() -> Verdict {
    let (mut server, spillway, port) = stage("woken", &[], "10m", "timeout = \"1s\"")?;
    let mut there = session(port)?;
    server.kill();
    let lost = there.query("SELECT 1");
    wait_for("the verdict", PATIENCE, || {
        let state = state(&spillway)?;
        if state == "down" { Ok(()) } else { Err(state) }
    })?;
    let told = spillway.ask("explain node lab only")?;
    ensure!(told.contains("a connection was"), "no evidence in {told}; {lost:?}");
    Ok(())
}

/// A way to a server that can be closed to whoever comes, while those who are through go on.
struct Gate {
    port: u16,
    closed: Arc<AtomicBool>,
    /// How often somebody came and found it closed.
    turned_away: Arc<AtomicU32>,
    /// How often something was sent to the server.
    requests: Arc<AtomicU32>,
}

impl Gate {
    fn open(server: SocketAddr) -> Outcome<Self> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).map_err(|e| e.to_string())?;
        let port = listener.local_addr().map_err(|e| e.to_string())?.port();
        let (closed, turned_away, requests) = (Arc::default(), Arc::default(), Arc::default());
        let gate = Self { port, closed, turned_away, requests };
        let (closed, turned_away) = (Arc::clone(&gate.closed), Arc::clone(&gate.turned_away));
        let requests = Arc::clone(&gate.requests);
        // Ends with the run.
        std::thread::spawn(move || {
            for client in listener.incoming().flatten() {
                if closed.load(Ordering::SeqCst) {
                    turned_away.fetch_add(1, Ordering::SeqCst);
                } else if let Ok(node) = TcpStream::connect(server) {
                    carry(&client, &node, Some(Arc::clone(&requests)));
                    carry(&node, &client, None);
                }
            }
        });
        Ok(gate)
    }
}

/// Carries what comes to the other side, and counts how often something came.
fn carry(from: &TcpStream, to: &TcpStream, count: Option<Arc<AtomicU32>>) {
    let (Ok(mut from), Ok(mut to)) = (from.try_clone(), to.try_clone()) else { return };
    let _ = to.set_nodelay(true);
    std::thread::spawn(move || {
        let mut block = [0; 16 * 1024];
        while let Ok(size @ 1..) = from.read(&mut block) {
            if let Some(count) = &count {
                count.fetch_add(1, Ordering::SeqCst);
            }
            if to.write_all(&block[..size]).is_err() {
                break;
            }
        }
        let _ = to.shutdown(Shutdown::Both);
    });
}

/// The node turns every session away and answers its monitor: however many tell, it is asked ten times a second at most.
fn much_trouble_wakes_few() -> Verdict {
    const CLIENTS: u32 = 60;
    const WHILE: Duration = Duration::from_secs(4);
    let server = Server::standalone("much", &["--skip-name-resolve"])?;
    server.create_monitor()?;
    server.sql(&format!("CREATE USER app@'%' IDENTIFIED BY '{PASSWORD}'"))?;
    let gate = Gate::open(server.address())?;
    let port = free_port()?;
    let nodes = format!("{{ only = \"127.0.0.1:{}\" }}", gate.port);
    // No probe but those that are woken, and no link that is there already.
    let lines = "moves = { hold = \"0s\" }\nlinks = { reuse = false }";
    let configuration = lab::cluster_probed("lab", "static", &nodes, "10m", lines)
        + &lab::service_toml("lab", port, "route = \"cluster:lab\"");
    let spillway = Spillway::start(lab::binary(), "spillway-much", &configuration)?;
    drop(session(port)?);
    // What the first ones left behind is over.
    sleep(Duration::from_millis(500));
    gate.closed.store(true, Ordering::SeqCst);
    let (asked, begun) = (gate.requests.load(Ordering::SeqCst), Instant::now());
    std::thread::scope(|scope| {
        for number in 0..CLIENTS {
            scope.spawn(move || {
                // Each looks for another node for a second after it was turned away: they come one after the other.
                sleep(Duration::from_secs(1) * number / CLIENTS);
                while begun.elapsed() < WHILE {
                    // Refused in the end; what counts is how often the node turned it away.
                    let _ = session(port);
                }
            });
        }
    });
    // One that was woken last is counted, too.
    sleep(Duration::from_millis(300));
    let most = (begun.elapsed().as_millis() / 100) as u32 + 1;
    let probes = gate.requests.load(Ordering::SeqCst) - asked;
    let told = gate.turned_away.load(Ordering::SeqCst);
    let figures = format!("{told} times turned away, {probes} probes of {most}, in {:.1?}", begun.elapsed());
    say(&format!("\n{figures}\n"))?;
    ensure!(told >= 3 * most, "too little evidence: {figures}");
    ensure!(probes <= most, "too many probes: {figures}");
    ensure!(probes >= most / 2, "evidence wakes too few probes: {figures}");
    same!(state(&spillway)?, "up", "its probes are answered");
    Ok(())
}

/// Words for who watches the run.
fn say(text: &str) -> Verdict {
    std::io::stderr().write_all(text.as_bytes()).map_err(|e| e.to_string())
}

/// Ten clusters of a primary with four replicas, which are five servers under ten addresses each: probing them once a second
/// costs next to nothing, and no connection but those that the monitor has.
fn fifty_nodes() -> Verdict {
    const ADDRESSES: u8 = 10;
    const WHILE: Duration = Duration::from_secs(20);
    let addresses: Vec<String> = (1..=ADDRESSES).map(|last| format!("127.0.0.{last}")).collect();
    let bind = format!("--bind-address={}", addresses.join(","));
    let replicas = ["r1", "r2", "r3", "r4"];
    let servers = Replication::with_replicas("fifty", &["--skip-name-resolve", &bind], &replicas)?;
    servers.nodes[0].create_monitor()?;
    servers.wait_caught_up()?;
    let mut configuration = String::new();
    for address in &addresses {
        let nodes: Vec<String> =
            servers.nodes.iter().map(|node| format!("{} = \"{address}:{}\"", node.name, node.port)).collect();
        let name = format!("c{}", address.replace('.', "-"));
        let nodes = format!("{{ {} }}", nodes.join(", "));
        // Accounts are another matter, with connections of their own.
        configuration +=
            &lab::cluster_probed(&name, "replication", &nodes, "1s", "accounts_refresh = \"0s\"");
        configuration += &lab::service_toml(&name, free_port()?, &format!("route = \"cluster:{name}\""));
    }
    // A probe that is late is none that failed, which would be asked for again by another connection.
    let configuration = configuration.replace("timeout = \"1s\"", "timeout = \"10s\"");
    let spillway = Spillway::start(lab::binary(), "spillway-fifty", &configuration)?;
    let up = |entry: &serde_json::Value| entry["observed"] == "up";
    wait_for("fifty nodes", PATIENCE, || {
        let all = spillway.get("/v1/nodes")?;
        let entries = all["nodes"].as_array().map(Vec::as_slice).unwrap_or_default();
        let (up, all) = (entries.iter().filter(|entry| up(entry)).count(), entries.len());
        if (up, all) == (50, 50) { Ok(()) } else { Err(format!("{up} of {all} are up")) }
    })?;
    let connections = || servers.nodes.iter().map(connections).collect::<Outcome<Vec<_>>>();
    // What was there before all were up is over.
    wait_for("the monitors alone", PATIENCE, || {
        let monitors: Vec<u32> = connections()?.iter().map(|(seen, _)| seen.monitors).collect();
        if monitors.iter().all(|n| *n == u32::from(ADDRESSES)) {
            Ok(())
        } else {
            Err(format!("{monitors:?}"))
        }
    })?;
    let (before, spent, begun) = (connections()?, processor_time(spillway.pid())?, Instant::now());
    sleep(WHILE);
    let (took, spent) = (begun.elapsed(), processor_time(spillway.pid())?.saturating_sub(spent));
    let least = u32::from(ADDRESSES) * WHILE.as_secs() as u32 * 8 / 10;
    let mut most = 0;
    for ((node, before), (after, asked)) in servers.nodes.iter().zip(before).zip(connections()?) {
        let (before, asked) = (before.0, asked - before.1);
        same!(before.monitors, u32::from(ADDRESSES), "monitors of {}", node.name);
        // The one more is this question itself.
        let wanted = Connections { made: before.made + 1, ..before };
        same!(after, wanted, "connections of {}", node.name);
        ensure!(asked >= least, "{} was asked {asked} times in {WHILE:?}", node.name);
        most = most.max(asked);
    }
    let share = spent.as_secs_f64() / took.as_secs_f64();
    say(&format!(
        "\nfifty nodes probed once a second, {most} questions to one of them: {:.2} % of a core over {took:.1?}\n",
        share * 100.0
    ))?;
    // The target is 1 %, of a program that is built for use on a machine that does nothing else.
    ensure!(spent * 50 < took, "{:.2} % of a core", share * 100.0);
    Ok(())
}

/// What a server tells of its connections.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Connections {
    /// Those that the monitor has now.
    monitors: u32,
    /// How many were made and how many of them failed, since the server started.
    made: u32,
    aborted: u32,
}

/// And how many queries it was asked since it started.
fn connections(server: &Server) -> Outcome<(Connections, u32)> {
    let told = server.sql(&format!(
        "SELECT COUNT(*) FROM information_schema.PROCESSLIST WHERE USER = '{MONITOR_USER}';
         SELECT VARIABLE_VALUE FROM information_schema.GLOBAL_STATUS
         WHERE VARIABLE_NAME IN ('ABORTED_CONNECTS', 'COM_SELECT', 'CONNECTIONS') ORDER BY VARIABLE_NAME"
    ))?;
    let numbers: Vec<u32> = told.lines().filter_map(|line| line.parse().ok()).collect();
    let [monitors, aborted, asked, made] = numbers[..] else {
        return Err(format!("not four numbers: {told}"));
    };
    Ok((Connections { monitors, made, aborted }, asked))
}

/// What a process has had of the processors until now.
fn processor_time(pid: u32) -> Outcome<Duration> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).map_err(|e| e.to_string())?;
    // The name of the program comes second, and ends with the last parenthesis.
    let fields: Vec<&str> = stat.rsplit(')').next().unwrap_or_default().split_whitespace().collect();
    let ticks = |index: usize| fields.get(index).and_then(|field| field.parse::<u64>().ok());
    let (user, system) = ticks(11).zip(ticks(12)).ok_or_else(|| format!("no times in {stat}"))?;
    // A tick is a hundredth of a second for every program on Linux.
    Ok(Duration::from_millis(10 * (user + system)))
}

fn a_full_node_serves_those_who_are_there() -> Verdict {
    const PLACES: usize = 10;
    let limit = format!("--max-connections={PLACES}");
    let (server, spillway, port) = stage("full", &[&limit], "300ms", "timeout = \"1s\"")?;
    let mut there = session(port)?;
    // Everybody else's places, and at last the monitor's; whose connection ends does not leave at once.
    let mut others = Vec::new();
    let monitor = format!("SELECT ID FROM information_schema.PROCESSLIST WHERE USER = '{MONITOR_USER}'");
    wait_for("all places are taken", PATIENCE, || {
        while let Ok(other) = raw::login(server.port, &Credentials::new("app", PASSWORD, None))? {
            others.push(other);
        }
        if others.len() == PLACES - 1 {
            return Ok(());
        }
        // One connection beyond the limit is an administrator's.
        for id in server.sql(&monitor)?.lines() {
            let _ = server.sql(&format!("KILL {id}"));
        }
        Err(format!("{} of them", others.len()))
    })?;
    let failed = "spillway_probes_failed_total{cluster=\"lab\",node=\"only\"} ";
    let failures = || -> Outcome<u32> {
        let metrics = spillway.api("GET", "/metrics", None)?.body;
        Ok(metrics.lines().find_map(|line| line.strip_prefix(failed)?.parse().ok()).unwrap_or(0))
    };
    wait_for("probes that find no room", PATIENCE, || {
        let failures = failures()?;
        if failures >= 4 { Ok(()) } else { Err(format!("{failures} failures")) }
    })?;
    same!(state(&spillway)?, "up", "it is only full");
    same!(first_value(&there.query("SELECT 1")?)?, "1", "who is there");
    drop(others);
    // The server notices their end a moment later.
    wait_for("room again", PATIENCE, || {
        let before = failures()?;
        sleep(Duration::from_secs(1));
        same!(state(&spillway)?, "up", "with room again");
        let more = failures()? - before;
        if more <= 1 { Ok(()) } else { Err(format!("{more} failures")) }
    })
}

fn a_refusal_in_a_transaction_wakes_one() -> Verdict {
    let server = Server::standalone("refusing", &["--skip-name-resolve"])?;
    server.create_monitor()?;
    server.sql(&format!(
        "CREATE DATABASE lab; CREATE TABLE lab.row (n INT); CREATE USER app@'%' IDENTIFIED BY '{PASSWORD}';
         GRANT ALL ON lab.* TO app@'%'"
    ))?;
    let port = free_port()?;
    let nodes = format!("{{ only = \"{}\" }}", server.address());
    let configuration = lab::cluster_probed("lab", "replication", &nodes, "10m", "")
        + &lab::service_toml("lab", port, "route = \"cluster:lab\"");
    let spillway = Spillway::start(lab::binary(), "spillway-refusing", &configuration)?;
    spillway.wait_node("lab", "only", "is the writer", |row| row["role"] == "writer")?;
    let mut there = session(port)?;
    there.query("BEGIN")?;
    server.sql("SET GLOBAL read_only = 1")?;
    let reply = there.query("INSERT INTO lab.row VALUES (1)")?;
    same!(raw::Refusal::parse(&reply[0])?.code, 1290, "{reply:?}");
    spillway.wait_node("lab", "only", "is seen as read-only", |row| row["role"] != "writer")?;
    let told = spillway.ask("explain node lab only")?;
    ensure!(told.contains("error 1290"), "no evidence in {told}");
    Ok(())
}
