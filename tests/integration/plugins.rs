//! Accounts whose plugin only the server can answer for: the client's exchange is relayed.

use crate::harness::client::Login;
use crate::harness::proxy::Spillway;
use crate::harness::server::Server;
use crate::harness::workspace::free_port;
use crate::lab::{self, PASSWORD, Ways};
use crate::raw::{self, Credentials};
use crate::{Verdict, ensure, same, trial};
use libtest_mimic::Trial;

pub(crate) fn trials() -> Vec<Trial> {
    vec![
        trial("plugins::ed25519_is_relayed", ed25519_is_relayed),
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
