//! Whose address counts: PROXY headers from balancers and to nodes, and what becomes of clients without them.

use crate::harness::Outcome;
use crate::harness::proxy::Spillway;
use crate::harness::server::Server;
use crate::harness::workspace::free_port;
use crate::harness::{PATIENCE, wait_for};
use crate::lab::{self, PASSWORD};
use crate::raw::{self, Credentials, Login, Raw, first_value};
use crate::{Verdict, ensure, mysql_trial, same, trial};
use libtest_mimic::Trial;
use std::io::{Read as _, Write as _};
use std::net::Ipv4Addr;

pub(crate) fn trials() -> Vec<Trial> {
    vec![
        trial("proxy_protocol::nodes_see_the_client_v2", || nodes_see_the_client("proxy-protocol")),
        trial("proxy_protocol::nodes_see_the_client_v1", || nodes_see_the_client("proxy-protocol-v1")),
        trial("proxy_protocol::links_serve_one_address", links_serve_one_address),
        trial("proxy_protocol::a_node_without_is_guarded", a_node_without_is_guarded),
        trial("proxy_protocol::trust_is_explicit", trust_is_explicit),
        trial("proxy_protocol::balancers_announce_clients", balancers_announce_clients),
        trial("proxy_protocol::balancers_must_announce", balancers_must_announce),
        trial("proxy_protocol::the_account_is_asserted", the_account_is_asserted),
        trial("proxy_protocol::headers_as_the_server_takes_them", headers_as_the_server_takes_them),
        mysql_trial("proxy_protocol::mysql_takes_none", mysql_takes_none),
    ]
}

/// Where links come from.
const SOURCE: Ipv4Addr = Ipv4Addr::new(127, 0, 1, 9);
const NEAR: Ipv4Addr = Ipv4Addr::new(127, 0, 0, 5);
const OTHER: Ipv4Addr = Ipv4Addr::new(127, 0, 0, 6);

/// A server, and a Spillway before it with lines of the cluster's and the service's own.
struct Stage {
    server: Server,
    spillway: Spillway,
    port: u16,
}

fn stage(name: &str, server: &[&str], cluster: &str, service: &str) -> Outcome<Stage> {
    let server = Server::standalone(name, &[&["--skip-name-resolve"], server].concat())?;
    server.create_monitor()?;
    server.sql(&format!(
        "DROP USER IF EXISTS ''@localhost;
         CREATE USER ann@'{NEAR}' IDENTIFIED BY '{PASSWORD}'; CREATE USER ann@'{SOURCE}' IDENTIFIED BY '{PASSWORD}';
         CREATE USER bob@'127.%' IDENTIFIED BY '{PASSWORD}';"
    ))?;
    let port = free_port()?;
    let nodes = format!("{{ solo = \"{}\" }}", server.address());
    let lines = format!("accounts_refresh = \"0s\"\nsource_address = \"{SOURCE}\"\n{cluster}");
    let configuration = lab::cluster_with("lab", "static", &nodes, &lines)
        + &lab::service_toml("lab", port, &format!("route = \"cluster:lab\"\n{service}"));
    let spillway = Spillway::start(lab::binary(), &format!("spillway-{name}"), &configuration)?;
    Ok(Stage { server, spillway, port })
}

impl Stage {
    fn login(&self, user: &str, from: Ipv4Addr) -> Outcome<Login> {
        raw::login(self.port, &Credentials::new(user, PASSWORD, None).from(from))
    }

    fn session(&self, user: &str, from: Ipv4Addr) -> Outcome<Raw> {
        self.login(user, from)?
            .map_err(|refusal| format!("{user} from {from}: {refusal:?}\n{}", self.spillway.log()))
    }
}

fn value(session: &mut Raw, query: &str) -> Outcome<String> {
    first_value(&session.query(query)?)
}

fn nodes_see_the_client(way: &str) -> Verdict {
    let networks = format!("--proxy-protocol-networks={SOURCE}");
    let stage = stage(&format!("announced-{way}"), &[&networks], &format!("client_address = \"{way}\""), "")?;
    let mut near = stage.session("ann", NEAR)?;
    same!(value(&mut near, "SELECT USER()")?, format!("ann@{NEAR}"), "USER() through a header");
    same!(value(&mut near, "SELECT CURRENT_USER()")?, format!("ann@{NEAR}"), "the account");
    let refusal = stage.login("ann", OTHER)?.err().ok_or("an address without an account is let in")?;
    same!(refusal.code, 1045, "{refusal:?}");
    // On this machine itself: never announced as what it is, and the rows of both addresses differ.
    ensure!(stage.login("ann", Ipv4Addr::LOCALHOST)?.is_err(), "a loopback client has become another one");
    let mut bob = stage.session("bob", Ipv4Addr::LOCALHOST)?;
    same!(value(&mut bob, "SELECT USER()")?, format!("bob@{SOURCE}"), "a client of this machine");
    let answer = stage.spillway.ask(&format!("explain login ann {NEAR}"))?;
    ensure!(answer.contains("announce the client's address") && answer.contains("let in as"), "{answer}");
    Ok(())
}

fn links_serve_one_address() -> Verdict {
    let networks = format!("--proxy-protocol-networks={SOURCE}");
    let stage = stage("announced-links", &[&networks], "client_address = \"proxy-protocol\"", "")?;
    for from in [NEAR, OTHER, NEAR, OTHER] {
        for _ in 0..3 {
            let mut bob = stage.session("bob", from)?;
            same!(
                value(&mut bob, "SELECT USER()")?,
                format!("bob@{from}"),
                "USER() of a link that may be used"
            );
            bob.command(&[1])?;
        }
    }
    Ok(())
}

fn a_node_without_is_guarded() -> Verdict {
    let stage = stage("guarded", &[], "client_address = \"proxy-protocol\"", "")?;
    let refusal = stage.login("ann", NEAR)?.err().ok_or("ann has got rows of another address")?;
    same!(refusal.code, 1045, "{refusal:?}");
    let mut bob = stage.session("bob", NEAR)?;
    same!(value(&mut bob, "SELECT USER()")?, format!("bob@{SOURCE}"), "without a header");
    stage.spillway.wait_log("does not take PROXY headers")?;
    let answer = stage.spillway.ask(&format!("explain login ann {NEAR}"))?;
    ensure!(answer.contains("grants differ by host"), "{answer}");
    // Once the server is told, it is proved without a restart.
    stage.server.sql(&format!("SET GLOBAL proxy_protocol_networks = '{SOURCE}'"))?;
    wait_for("the proof", PATIENCE, || stage.session("ann", NEAR).map(drop))
}

fn trust_is_explicit() -> Verdict {
    let stage = stage("trusting", &[], "client_address = \"trust\"", "")?;
    let mut ann = stage.session("ann", NEAR)?;
    same!(
        value(&mut ann, "SELECT CURRENT_USER()")?,
        format!("ann@{SOURCE}"),
        "the account of Spillway's address"
    );
    ensure!(stage.login("ann", OTHER)?.is_err(), "an address without an account is let in");
    stage.spillway.wait_log("gets what the nodes allow this machine's address")
}

const BALANCER: Ipv4Addr = Ipv4Addr::new(127, 0, 0, 77);

/// A version 2 header for a client at `from`.
fn header(from: Ipv4Addr) -> Vec<u8> {
    let mut header = b"\r\n\r\n\0\r\nQUIT\n\x21\x11\0\x0c".to_vec();
    header.extend(from.octets());
    header.extend([127, 0, 0, 1, 0x30, 0x39, 0x0c, 0xea]);
    header
}

fn announced(stage: &Stage, user: &str, peer: Ipv4Addr, header: &[u8]) -> Outcome<Login> {
    announced_at(stage.port, user, peer, header)
}

fn announced_at(port: u16, user: &str, peer: Ipv4Addr, header: &[u8]) -> Outcome<Login> {
    let mut stream = raw::connect(port, peer)?;
    stream.write_all(header).map_err(|e| e.to_string())?;
    raw::login_over(stream, &Credentials::new(user, PASSWORD, None))
}

fn balancers_announce_clients() -> Verdict {
    let networks = format!("--proxy-protocol-networks={SOURCE}");
    let service = format!("proxy_protocol = {{ from = [\"{BALANCER}\"], require = false }}");
    let stage = stage("balanced", &[&networks], "client_address = \"proxy-protocol\"", &service)?;
    for header in [header(NEAR), format!("PROXY TCP4 {NEAR} 127.0.0.1 12345 3306\r\n").into_bytes()] {
        let mut ann = announced(&stage, "ann", BALANCER, &header)?.map_err(|e| format!("{e:?}"))?;
        same!(value(&mut ann, "SELECT USER()")?, format!("ann@{NEAR}"), "through two headers");
        let sessions = stage.spillway.ask("show sessions")?;
        ensure!(sessions.contains(&format!("{NEAR}:12345")), "{sessions}");
        ensure!(
            announced(&stage, "ann", OTHER, &header).map_or(true, |login| login.is_err()),
            "a header of anybody"
        );
        ensure!(
            announced(&stage, "bob", OTHER, &header).map_or(true, |login| login.is_err()),
            "a header of anybody"
        );
    }
    ensure!(
        announced(&stage, "ann", BALANCER, &self::header(OTHER))?.is_err(),
        "an announced address without account"
    );
    // A balancer that looks after itself, by LOCAL and by saying nothing.
    let local = b"\r\n\r\n\0\r\nQUIT\n\x20\0\0\0";
    let mut bob = announced(&stage, "bob", BALANCER, local)?.map_err(|e| format!("{e:?}"))?;
    same!(value(&mut bob, "SELECT USER()")?, format!("bob@{BALANCER}"), "LOCAL");
    let mut bob = stage.session("bob", BALANCER)?;
    same!(value(&mut bob, "SELECT USER()")?, format!("bob@{BALANCER}"), "no header");
    // Others are their own clients.
    let mut bob = stage.session("bob", OTHER)?;
    same!(value(&mut bob, "SELECT USER()")?, format!("bob@{OTHER}"), "a peer that is not listed");
    Ok(())
}

fn balancers_must_announce() -> Verdict {
    let service = format!("proxy_protocol = {{ from = [\"{BALANCER}/32\"] }}");
    let stage = stage("must-announce", &[], "", &service)?;
    let mut bob = announced(&stage, "bob", BALANCER, &header(NEAR))?.map_err(|e| format!("{e:?}"))?;
    same!(value(&mut bob, "SELECT 1")?, "1", "with a header");
    for wrong in
        [&b"PROXY TCP4 nonsense\r\n"[..], b"GET / HTTP/1.1\r\n\r\n", &[header(NEAR), vec![1]].concat()]
    {
        ensure!(announced(&stage, "bob", BALANCER, wrong).is_err(), "{wrong:?} is answered");
    }
    let stream = raw::connect(stage.port, BALANCER)?;
    stream.shutdown(std::net::Shutdown::Write).map_err(|e| e.to_string())?;
    ensure!(
        raw::login_over(stream, &Credentials::new("bob", PASSWORD, None)).is_err(),
        "greeted without a header"
    );
    wait_for("the log", PATIENCE, || {
        let count = stage.spillway.log().matches("its client is not known").count();
        if count == 4 { Ok(()) } else { Err(format!("{count} of 4 in the log")) }
    })
}

/// Numbered cases, as in the unit tests of `grants`: the server takes headers from a balancer, and Spillway before it takes
/// the same. What the balancer may claim to be is where they differ.
fn headers_as_the_server_takes_them() -> Verdict {
    let networks = format!("--proxy-protocol-networks={SOURCE},{BALANCER}");
    let service = format!("proxy_protocol = {{ from = [\"{BALANCER}\"], require = false }}");
    let stage = stage("headers", &[&networks], "client_address = \"proxy-protocol\"", &service)?;
    stage.server.sql(&format!(
        "CREATE USER lou@'127.0.0.1' IDENTIFIED BY '{PASSWORD}'; CREATE USER lou@localhost IDENTIFIED BY '{PASSWORD}';"
    ))?;
    stage.spillway.reload_accounts()?;
    let v1 = |line: &str| format!("PROXY {line}\r\n").into_bytes();
    let unix = [&b"\r\n\r\n\0\r\nQUIT\n\x21\x31\0\xd8"[..], &[0; 216]].concat();
    let ann = format!("ann@{NEAR} ann@{NEAR}");
    let bob = format!("bob@127.% bob@{BALANCER}");
    let cases = [
        ("118", "ann", BALANCER, v1(&format!("TCP4 {NEAR} 127.0.0.1 12345 3306")), &*ann, &*ann),
        ("119", "ann", BALANCER, header(NEAR), &ann, &ann),
        ("120", "ann", OTHER, header(NEAR), "closed", "closed"),
        ("121", "bob", BALANCER, Vec::new(), &bob, &bob),
        ("122", "lou", BALANCER, header(Ipv4Addr::LOCALHOST), "lou@127.0.0.1 lou@127.0.0.1", "1045"),
        ("123", "bob", BALANCER, v1("UNKNOWN"), &bob, &bob),
        ("123, LOCAL", "bob", BALANCER, b"\r\n\r\n\0\r\nQUIT\n\x20\0\0\0".to_vec(), &bob, &bob),
        ("124", "lou", BALANCER, unix, "lou@localhost lou@localhost", "closed"),
        ("125", "ann", BALANCER, v1(&format!("TCP6 ::ffff:{NEAR} ::1 12345 3306")), &ann, &ann),
    ];
    let mut failures = Vec::new();
    for (number, user, peer, header, directly, through) in cases {
        for (port, expected) in [(stage.server.port, directly), (stage.port, through)] {
            let seen = match announced_at(port, user, peer, &header) {
                Err(_) => "closed".to_owned(),
                Ok(Err(refusal)) => refusal.code.to_string(),
                Ok(Ok(mut session)) => value(&mut session, "SELECT CONCAT(CURRENT_USER(), ' ', USER())")?,
            };
            if seen != expected {
                failures.push(format!("case {number} on {port}: {seen} instead of {expected}"));
            }
        }
    }
    let mut stranger = raw::connect(stage.server.port, OTHER)?;
    stranger.write_all(&header(NEAR)).map_err(|e| e.to_string())?;
    let mut said = Vec::new();
    let _ = stranger.read_to_end(&mut said);
    let said = String::from_utf8_lossy(&said);
    ensure!(said.contains("Proxy header is not accepted from"), "case 120: {said:?}");
    ensure!(failures.is_empty(), "server {}\n{}", stage.server.port, failures.join("\n"));
    Ok(())
}

/// Case 126: what Spillway must find out of a server that knows no headers.
fn mysql_takes_none() -> Verdict {
    let server = &lab::mysql()?.server;
    let direct = announced_at(server.port, "root", BALANCER, &header(NEAR));
    ensure!(direct.map_or(true, |login| login.is_err()), "a header is taken");
    let port = free_port()?;
    let nodes = format!("{{ solo = \"{}\" }}", server.address());
    let lines = format!("source_address = \"{SOURCE}\"\nclient_address = \"proxy-protocol\"");
    let configuration = lab::cluster_with("lab", "static", &nodes, &lines)
        + &lab::service_toml("lab", port, "route = \"cluster:lab\"");
    let spillway = Spillway::start(lab::binary(), "spillway-headers-mysql", &configuration)?;
    spillway.wait_log("does not take PROXY headers")?;
    server.sql(&format!("CREATE USER ann126@'{NEAR}' IDENTIFIED BY '{PASSWORD}'"))?;
    spillway.reload_accounts()?;
    let login = raw::login(port, &Credentials::new("ann126", PASSWORD, None).from(NEAR))?;
    same!(
        login.err().map(|refusal| refusal.code),
        Some(1045),
        "guarded: the account is for the client alone"
    );
    Ok(())
}

/// Rows that came after the accounts were read give nobody another account.
fn the_account_is_asserted() -> Verdict {
    let stage = stage("asserted", &[], "links = { trust = \"0s\" }", "")?;
    let mut before = stage.session("bob", NEAR)?;
    same!(value(&mut before, "SELECT CURRENT_USER()")?, "bob@127.%", "the account");
    before.command(&[1])?;
    stage.server.sql(&format!("CREATE USER bob@'{SOURCE}' IDENTIFIED BY '{PASSWORD}'"))?;
    let refusal = stage.login("bob", NEAR)?.err().ok_or("bob has got an account of Spillway's address")?;
    same!(refusal.code, 1045, "{refusal:?}");
    wait_for("both accounts in the log", PATIENCE, || {
        let log = stage.spillway.log();
        let found = log.contains(&format!("the account bob@{SOURCE}")) && log.contains("is bob@127.%");
        if found { Ok(()) } else { Err(log) }
    })
}
