//! Accounts whose plugin only the server can answer for: the client's exchange is relayed.

use crate::harness::client::Login;
use crate::harness::proxy::Spillway;
use crate::harness::root;
use crate::harness::server::Server;
use crate::harness::workspace::free_port;
use crate::harness::{Outcome, PATIENCE, wait_for};
use crate::lab::{self, PASSWORD, Ways};
use crate::raw::{self, Credentials};
use crate::{Verdict, ensure, rooted_trial, same, trial};
use libtest_mimic::Trial;
use std::collections::BTreeSet;
use std::io::{Read, Write};
use std::net::Ipv4Addr;
use std::sync::{Arc, Barrier};
use std::time::{Duration, Instant};

pub(crate) fn trials() -> Vec<Trial> {
    vec![
        trial("plugins::ed25519_is_relayed", ed25519_is_relayed),
        trial("plugins::a_client_may_think", a_client_may_think),
        rooted_trial(&root::MARIADB_11_8, "plugins::nobody_is_told_apart", nobody_is_told_apart),
        trial(
            "plugins::what_cannot_be_answered_never_comes_to_a_node",
            what_cannot_be_answered_never_comes_to_a_node,
        ),
        trial("plugins::nobody_takes_the_place_of_another_user", nobody_takes_the_place_of_another_user),
        trial(
            "plugins::wrong_passwords_are_counted_by_the_server",
            wrong_passwords_are_counted_by_the_server,
        ),
    ]
}

fn ed25519_is_relayed() -> Verdict {
    let server = Server::standalone("ed25519", &["--plugin-load-add=auth_ed25519", "--skip-name-resolve"])?;
    server.create_monitor()?;
    server.sql(&format!(
        "DROP USER IF EXISTS ''@localhost; CREATE DATABASE lab;
         CREATE USER ed@'%' IDENTIFIED VIA ed25519 USING PASSWORD('{PASSWORD}'); GRANT ALL ON lab.* TO ed@'%';
         CREATE USER edlocked@'%' IDENTIFIED VIA ed25519 USING PASSWORD('{PASSWORD}') ACCOUNT LOCK;
         CREATE USER edor@'%' IDENTIFIED VIA ed25519 USING PASSWORD('{PASSWORD}') OR mysql_native_password USING PASSWORD('other');
         CREATE USER edsock@'%' IDENTIFIED VIA unix_socket OR ed25519 USING PASSWORD('{PASSWORD}');
         CREATE USER edmask@'127.0.0.1' IDENTIFIED VIA ed25519 USING PASSWORD('{PASSWORD}');
         CREATE USER edmask@'127.%' IDENTIFIED VIA ed25519 USING PASSWORD('{PASSWORD}');"
    ))?;
    let port = free_port()?;
    let nodes = format!("{{ solo = \"{}\" }}", server.address());
    let configuration = lab::cluster_with("lab", "static", &nodes, "source_address = \"127.0.1.9\"")
        + &lab::service_toml("lab", port, "route = \"cluster:lab\"");
    let spillway = Spillway::start(lab::binary(), "spillway-ed25519", &configuration)?;
    let ways = Ways { direct: server.port, proxied: port };
    for _ in 0..3 {
        let printed = ways.mariadb("ed", Some("lab"), &[], "SELECT CURRENT_USER(), DATABASE()")?;
        ensure!(printed.output.contains("ed@%"), "{printed:?}");
    }
    for (user, password, schema, code) in [
        ("ed", "wrong", Some("lab"), "1045"),
        ("ed", "", Some("lab"), "1045"),
        ("ed", PASSWORD, Some("mysql"), "1044"),
        ("edlocked", PASSWORD, None, "4151"),
        ("edlocked", "wrong", None, "1045"),
    ] {
        let printed = ways.agree(&format!("{user} {password:?} {schema:?}"), |port| {
            let mut printed = Login::new(port, user, password, schema).run(&[], "SELECT 1")?;
            printed.errors = printed.errors.replace(&port.to_string(), "PORT");
            Ok(printed)
        })?;
        ensure!(printed.errors.contains(code), "{user} {password:?}: {printed:?}");
    }
    // Case 107. The server takes the password of either way; that of the other way needs no relay.
    let printed = Login::new(server.port, "edor", PASSWORD, None).run(&[], "SELECT CURRENT_USER()")?;
    ensure!(printed.output.contains("edor@%"), "{printed:?}");
    let printed = Login::new(port, "edor", "other", None).run(&[], "SELECT CURRENT_USER()")?;
    ensure!(printed.output.contains("edor@%"), "{printed:?}");
    // Spillway's own reasons come after the node has found the password right.
    let masked = |password| Login::new(port, "edmask", password, None).run(&[], "SELECT 1");
    same!(masked(PASSWORD)?.errors, masked("wrong")?.errors, "a reason of Spillway's and a wrong password");
    let printed = masked(PASSWORD)?;
    ensure!(printed.errors.contains("1045"), "grants that differ by host: {printed:?}");
    let answer = spillway.ask("explain login ed 127.0.0.1")?;
    ensure!(answer.contains("relayed") && answer.contains("let in as ed@%"), "{answer}");
    let answer = spillway.ask("explain login edor 127.0.0.1")?;
    ensure!(answer.contains("verified here, by mysql_native_password"), "{answer}");
    let answer = spillway.ask("explain login edsock 127.0.0.1")?;
    ensure!(answer.contains("the credential is relayed"), "{answer}");
    Ok(())
}

/// Whom a `COM_CHANGE_USER` names counts for nothing before it is proven.
fn nobody_takes_the_place_of_another_user() -> Verdict {
    let server = Server::standalone("place", &["--plugin-load-add=auth_ed25519", "--skip-name-resolve"])?;
    server.create_monitor()?;
    server.sql(&format!(
        "DROP USER IF EXISTS ''@localhost; CREATE USER app@'%' IDENTIFIED BY '{PASSWORD}';
         CREATE USER ed@'%' IDENTIFIED VIA ed25519 USING PASSWORD('{PASSWORD}')"
    ))?;
    let port = free_port()?;
    let nodes = format!("{{ solo = \"{}\" }}", server.address());
    let configuration = lab::cluster_toml("lab", "static", &nodes)
        + &lab::service_toml("lab", port, "route = \"cluster:lab\"\nmax_sessions_per_user = 1");
    let _spillway = Spillway::start(lab::binary(), "spillway-place", &configuration)?;
    let enter = |user| raw::login(port, &Credentials::new(user, PASSWORD, None));
    let mut other = enter("app")?.map_err(|e| format!("{e:?}"))?;
    other.command(b"\x11ed\0\0\0\x2D\0mysql_native_password\0")?;
    let question = other.packet()?;
    ensure!(question.starts_with(b"\xFEclient_ed25519\0"), "{question:?}");
    let mut own = enter("ed")?.map_err(|e| format!("the user itself: {e:?}"))?;
    same!(raw::first_value(&own.query("SELECT CURRENT_USER()")?)?, "ed@%", "the user itself");
    // The limit counts for the other one as soon as it is proven.
    drop(other);
    let mut other =
        wait_for("the end of the other session", PATIENCE, || enter("app")?.map_err(|e| format!("{e:?}")))?;
    let refusal = other.change_user("ed", PASSWORD, "")?.err().ok_or("two sessions of one user")?;
    same!(refusal.code, 1203, "{refusal:?}");
    same!(raw::first_value(&other.query("SELECT CURRENT_USER()")?)?, "app@%", "the user before");
    Ok(())
}

/// Case 105: a server that blocks an account after some wrong passwords does so for those that Spillway refused.
fn wrong_passwords_are_counted_by_the_server() -> Verdict {
    let server = Server::standalone("counted", &["--max-password-errors=2", "--skip-name-resolve"])?;
    server.create_monitor()?;
    server.sql(&format!(
        "DROP USER IF EXISTS ''@localhost; CREATE USER direct@'%' IDENTIFIED BY '{PASSWORD}';
         CREATE USER through@'%' IDENTIFIED BY '{PASSWORD}';"
    ))?;
    let port = free_port()?;
    let nodes = format!("{{ solo = \"{}\" }}", server.address());
    let configuration = lab::cluster_toml("lab", "static", &nodes)
        + &lab::service_toml("lab", port, "route = \"cluster:lab\"");
    let _spillway = Spillway::start(lab::binary(), "spillway-counted", &configuration)?;
    let mut codes = Vec::new();
    for (user, port) in [("direct", server.port), ("through", port)] {
        for password in ["wrong", "wrong", PASSWORD] {
            let login = raw::login(port, &Credentials::new(user, password, None))?;
            codes.push(login.err().map_or(0, |refusal| refusal.code));
        }
    }
    same!(codes[..3], codes[3..], "directly, and through Spillway");
    same!(codes[3..], [1045, 1045, 4150], "wrong, wrong, right");
    Ok(())
}

/// A login that the node cannot be answered for is a failed handshake there, and after some the node would take no more logins
/// of Spillway's, whoever they are for.
fn what_cannot_be_answered_never_comes_to_a_node() -> Verdict {
    let options = ["--plugin-load-add=auth_pam;auth_ed25519", "--max-connect-errors=5"];
    let server = Server::standalone("unanswered", &options)?;
    server.create_monitor()?;
    server.sql(&format!(
        "DROP USER IF EXISTS ''@localhost; CREATE USER app@'%' IDENTIFIED BY '{PASSWORD}';
         CREATE USER either@'%' IDENTIFIED VIA pam OR ed25519 USING PASSWORD('{PASSWORD}')"
    ))?;
    let port = free_port()?;
    let nodes = format!("{{ solo = \"{}\" }}", server.address());
    // A server blocks no client of 127.0.0.1.
    let lines = "source_address = \"127.0.0.2\"\naccounts_refresh = \"0s\"";
    let configuration = lab::cluster_with("lab", "static", &nodes, lines)
        + &lab::service_toml("lab", port, "route = \"cluster:lab\"")
        + "[runtime.backoff]\nper_address = 0\nper_account = 0\n";
    let spillway = Spillway::start(lab::binary(), "spillway-unanswered", &configuration)?;
    for n in 0..8 {
        let refusal = raw::login(port, &Credentials::new("either", "anything", None))?.err();
        same!(refusal.map(|refusal| refusal.code), Some(1045), "login {n}\n{}", spillway.log_tail(5));
    }
    raw::login(port, &Credentials::new("app", PASSWORD, None))?.map_err(|e| format!("{e:?}"))?;
    let answer = spillway.ask("explain login either 127.0.0.1")?;
    ensure!(answer.contains("cannot be verified here (plugin pam, ed25519)"), "{answer}");
    Ok(())
}

/// Longer than a node may take, and longer than the node waits.
fn a_client_may_think() -> Verdict {
    let options = ["--plugin-load-add=auth_ed25519", "--skip-name-resolve", "--connect-timeout=8"];
    let server = Server::standalone("thinks", &options)?;
    server.create_monitor()?;
    server.sql(&format!(
        "DROP USER IF EXISTS ''@localhost; CREATE USER ed@'%' IDENTIFIED VIA ed25519 USING PASSWORD('{PASSWORD}')"
    ))?;
    let port = free_port()?;
    let nodes = format!("{{ solo = \"{}\" }}", server.address());
    let configuration = lab::cluster_with("lab", "static", &nodes, "connect_timeout = \"3s\"")
        + &lab::service_toml("lab", port, "route = \"cluster:lab\"")
        + "[runtime.backoff]\nper_address = 1\nper_account = 1\nfirst = \"1h\"\nlongest = \"1h\"\n";
    let spillway = Spillway::start(lab::binary(), "spillway-thinks", &configuration)?;
    let after = |port: u16, pause: Duration| {
        let meet = Arc::new(Barrier::new(2));
        let other = Arc::clone(&meet);
        let thinks = std::thread::spawn(move || {
            std::thread::sleep(pause);
            other.wait();
        });
        let login =
            raw::login(port, &Credentials { meet: Some(meet), ..Credentials::new("ed", PASSWORD, None) });
        thinks.join().map_err(|_| "a panic".to_owned())?;
        login
    };
    let started = Instant::now();
    let mut session = after(port, Duration::from_secs(4))?
        .map_err(|refusal| format!("{refusal:?}\n{}", spillway.log_tail(5)))?;
    same!(raw::first_value(&session.query("SELECT CURRENT_USER()")?)?, "ed@%", "after four seconds");
    ensure!(started.elapsed() >= Duration::from_secs(4), "it did not think");
    drop(session);
    let too_long = |port: u16| matches!(after(port, Duration::from_secs(11)), Ok(Ok(_)));
    let (direct, through) = std::thread::scope(|scope| {
        let direct = scope.spawn(|| too_long(server.port));
        let through = too_long(port);
        (direct.join(), through)
    });
    ensure!(direct.is_ok_and(|is_let_in| !is_let_in), "the server waits longer than it should");
    ensure!(!through, "Spillway waits longer than the server");
    let metrics = wait_for("the client that was late", PATIENCE, || {
        let metrics = spillway.api("GET", "/metrics", None)?.body;
        if metrics.contains("\"client_late\"") { Ok(metrics) } else { Err(metrics) }
    })?;
    ensure!(!metrics.contains("spillway_links_failed_total{"), "the node is blamed:\n{metrics}");
    let node = spillway.node("lab", "solo")?;
    same!(node["observed"], "up", "{node}");
    // Silence is no guess.
    let held = spillway.get("/v1/backoffs")?;
    same!(held["backoffs"].as_array().map(Vec::len), Some(0), "{held}");
    raw::login(port, &Credentials::new("ed", PASSWORD, None))?.map(drop).map_err(|e| format!("{e:?}"))
}

/// What a server says to a client that answers with nonsense, word by word: the plugin and length of each question, and the
/// refusal. The last is what the plugin's own packets held.
fn conversation(port: u16, user: &str) -> Outcome<(Vec<String>, Vec<u8>)> {
    let mut stream = raw::connect(port, Ipv4Addr::LOCALHOST)?;
    let mut sequence = 0;
    let read = |stream: &mut std::net::TcpStream, sequence: &mut u8| -> Outcome<Vec<u8>> {
        let mut header = [0; 4];
        stream.read_exact(&mut header).map_err(|e| e.to_string())?;
        *sequence = header[3].wrapping_add(1);
        let mut payload = vec![0; u32::from_le_bytes([header[0], header[1], header[2], 0]) as usize];
        stream.read_exact(&mut payload).map_err(|e| e.to_string())?;
        Ok(payload)
    };
    read(&mut stream, &mut sequence)?;
    let mut answer = raw::response_head(raw::capability::USUAL);
    answer.extend_from_slice(user.as_bytes());
    answer.extend_from_slice(&[0, 20]);
    answer.extend_from_slice(&[7; 20]);
    answer.extend_from_slice(b"mysql_native_password\0");
    let (mut said, mut salt) = (Vec::new(), Vec::new());
    loop {
        stream.write_all(&raw::frame(&answer, &mut sequence)).map_err(|e| e.to_string())?;
        let packet = read(&mut stream, &mut sequence)?;
        match packet.first() {
            Some(0xff) => {
                let refusal = raw::Refusal::parse(&packet)?;
                said.push(format!(
                    "{} {:?} {}",
                    refusal.code,
                    refusal.state,
                    refusal.message.replace(user, "NAME")
                ));
                return Ok((said, salt));
            }
            Some(0xfe) => {
                let end = packet.iter().position(|&byte| byte == 0).ok_or("a switch without a plugin")?;
                let plugin = String::from_utf8_lossy(&packet[1..end]).into_owned();
                said.push(format!("{plugin} {}", packet.len() - end));
                answer = match plugin.as_str() {
                    "parsec" => Vec::new(),
                    "client_ed25519" => vec![7; 64],
                    _ => vec![7; 20],
                };
            }
            Some(1) => {
                said.push(format!("salt {} {:?}", packet.len(), packet.get(..3)));
                salt = packet;
                answer = vec![7; 96];
            }
            _ => return Err(format!("unexpected: {packet:?} after {said:?}")),
        }
    }
}

fn nobody_is_told_apart() -> Verdict {
    let mut server = Server::prepare_in(&root::MARIADB_11_8, "nobody", &["--skip-name-resolve"])?;
    server.start(&[])?;
    server.create_monitor()?;
    server.sql(&format!(
        "INSTALL SONAME 'auth_ed25519'; INSTALL SONAME 'auth_parsec'; DROP USER IF EXISTS ''@localhost;
         CREATE USER curve@'%' IDENTIFIED VIA ed25519 USING PASSWORD('{PASSWORD}');
         CREATE USER salted@'%' IDENTIFIED VIA parsec USING PASSWORD('{PASSWORD}');"
    ))?;
    let start = |name: &str, more: &str| -> Outcome<(Spillway, u16)> {
        let port = free_port()?;
        let nodes = format!("{{ solo = \"{}\" }}", server.address());
        let configuration = lab::cluster_toml("lab", "static", &nodes)
            + &lab::service_toml("lab", port, "route = \"cluster:lab\"")
            + &format!("[runtime.backoff]\nper_address = 0\n{more}");
        Ok((Spillway::start(lab::binary(), name, &configuration)?, port))
    };
    let (_spillway, port) = start("spillway-nobody", "per_account = 0\n")?;
    let mut known = BTreeSet::new();
    for user in ["curve", "salted"] {
        let (said, salt) = conversation(port, user)?;
        same!(
            (&said, &salt),
            (&conversation(server.port, user)?.0, &conversation(server.port, user)?.1),
            "{user}"
        );
        known.insert(said);
    }
    known.insert(conversation(port, crate::harness::server::MONITOR_USER)?.0);
    same!(known.len(), 3, "three ways: {known:?}");
    let (mut found, mut salts) = (BTreeSet::new(), BTreeSet::new());
    for n in 0..60 {
        let name = format!("nobody{n}");
        let (said, salt) = conversation(port, &name)?;
        same!(conversation(port, &name)?, (said.clone(), salt.clone()), "the same name again");
        ensure!(known.contains(&said), "{name}: {said:?} is not among {known:?}");
        found.insert(said);
        ensure!(salt.is_empty() || salts.insert(salt), "{name} has the salt of another one");
    }
    same!(found, known, "the ways of names without an account");
    // Who is held back is asked as before.
    let (held, port) = start("spillway-nobody-held", "per_account = 1\nfirst = \"1h\"\nlongest = \"1h\"\n")?;
    for user in ["curve", "salted"] {
        let first = conversation(port, user)?;
        same!(conversation(port, user)?, first, "{user}, held back");
    }
    held.wait_log("held back after too many failed logins")
}
