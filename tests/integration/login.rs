//! Who gets in, and what the others are told: number, SQLSTATE and text as the server's own.

use crate::harness::proxy::Spillway;
use crate::harness::server::{MONITOR_USER, Server};
use crate::harness::workspace::free_port;
use crate::harness::{Outcome, PATIENCE};
use crate::lab::{self, PASSWORD, Ways};
use crate::raw::{self, Credentials, Refusal, Shape, capability, first_value};
use crate::{Verdict, ensure, same, trial};
use libtest_mimic::Trial;
use std::net::Ipv4Addr;

pub(crate) fn trials() -> Vec<Trial> {
    vec![
        trial("login::refusals_are_the_servers_own", refusals_are_the_servers_own),
        trial("login::accepted", accepted),
        trial("login::by_client_address", by_client_address),
        trial("login::host_not_allowed_before_greeting", host_not_allowed_before_greeting),
        trial("login::localhost_when_names_are_resolved", localhost_when_names_are_resolved),
        trial("login::greeting", greeting),
        trial("login::change_user", change_user),
        trial("login::change_user_refused", change_user_refused),
        trial("login::mariadb_client_sees_the_same_errors", mariadb_client_sees_the_same_errors),
        trial("login::random_bytes_do_no_harm", random_bytes_do_no_harm),
    ]
}

/// The refusal, or who the session is after all.
fn attempt(port: u16, credentials: &Credentials<'_>) -> Outcome<Result<String, Refusal>> {
    match raw::login(port, credentials)? {
        Err(refusal) => Ok(Err(refusal)),
        Ok(mut session) => {
            let answer =
                session.query("SELECT CONCAT(CURRENT_USER(), ' ', USER(), ' ', IFNULL(DATABASE(), '-'))")?;
            Ok(Ok(first_value(&answer)?))
        }
    }
}

fn yes_or_no(password: &str) -> &'static str {
    if password.is_empty() { "NO" } else { "YES" }
}

fn refused(ways: Ways, credentials: &Credentials<'_>, code: u16) -> Verdict {
    let what =
        format!("login of {:?} to {:?} from {}", credentials.user, credentials.schema, credentials.source);
    // An unknown name is judged by the plugin of a row that the server picks by the name's hash. If that is the
    // administrator's row, which knows its socket too, the server says 1698; Spillway need not know the hash.
    let plain = |refusal: Refusal| match refusal.code {
        1698 => Refusal {
            code: 1045,
            message: format!("{} (using password: {})", refusal.message, yes_or_no(credentials.password)),
            ..refusal
        },
        _ => refusal,
    };
    match ways.agree(&what, |port| Ok(attempt(port, credentials)?.map_err(plain)))? {
        Err(refusal) => same!(refusal.code, code, "{what}: {refusal:?}"),
        Ok(identity) => return Err(format!("{what} was accepted as {identity}")),
    }
    Ok(())
}

fn refusals_are_the_servers_own() -> Verdict {
    let ways = lab::solo()?.ways;
    let long = "x".repeat(70);
    let cases: &[(u16, &str, &str, Option<&str>)] = &[
        (1045, "nobody", PASSWORD, None),
        (1045, "nobody", "", None),
        (1045, "nobody", PASSWORD, Some("lab")),
        (1045, "app", "wrong", None),
        (1045, "app", "wrong", Some("lab")),
        (1045, "app", "wrong", Some("no_such_schema")),
        (1045, "app", "", Some("lab")),
        (1045, "App", PASSWORD, None),
        (1045, "app ", PASSWORD, None),
        (1045, "nopass", PASSWORD, None),
        (1045, "", PASSWORD, None),
        (1045, "", "", None),
        (1045, "far", PASSWORD, None),
        (1045, "locked", "wrong", None),
        (4151, "locked", PASSWORD, None),
        (4151, "locked", PASSWORD, Some("no_such_schema")),
        (1044, "app", PASSWORD, Some("closed")),
        (1044, "app", PASSWORD, Some("no_such_schema")),
        (1044, "app", PASSWORD, Some("mysql")),
        (1044, "app", PASSWORD, Some("sys")),
        (1044, "noaccess", PASSWORD, Some("lab")),
        (1044, "other", PASSWORD, Some("lab")),
        (1044, "app", PASSWORD, Some("LAB")),
        (1049, "reader", PASSWORD, Some("no_such_schema")),
        (1049, "reader", PASSWORD, Some("no'quote")),
        (1045, "it's", PASSWORD, None),
        (1045, "staff", PASSWORD, None),
        (1045, "secure", PASSWORD, None),
        (1045, "secure", "wrong", None),
        (1045, "certified", PASSWORD, Some("lab")),
        (1045, &long, PASSWORD, None),
    ];
    let mut failures = Vec::new();
    for &(code, user, password, schema) in cases {
        if let Err(failure) = refused(ways, &Credentials::new(user, password, schema), code) {
            failures.push(failure);
        }
    }
    ensure!(failures.is_empty(), "{}", failures.join("\n"));
    Ok(())
}

fn accepted() -> Verdict {
    let ways = lab::solo()?.ways;
    for (user, password, schema, wanted) in [
        ("app", PASSWORD, None, "app@% app@127.0.0.1 -"),
        ("app", PASSWORD, Some("lab"), "app@% app@127.0.0.1 lab"),
        ("app", PASSWORD, Some("information_schema"), "app@% app@127.0.0.1 information_schema"),
        ("app", PASSWORD, Some("performance_schema"), "app@% app@127.0.0.1 performance_schema"),
        ("noaccess", PASSWORD, None, "noaccess@% noaccess@127.0.0.1 -"),
        ("nopass", "", Some("lab"), "nopass@% nopass@127.0.0.1 lab"),
        ("near", PASSWORD, Some("lab"), "near@127.0.0.1 near@127.0.0.1 lab"),
        ("tableonly", PASSWORD, Some("lab"), "tableonly@% tableonly@127.0.0.1 lab"),
        ("byrole", PASSWORD, Some("lab"), "byrole@% byrole@127.0.0.1 lab"),
        ("reader", PASSWORD, Some("mysql"), "reader@% reader@127.0.0.1 mysql"),
        ("'app'", PASSWORD, None, "app@% app@127.0.0.1 -"),
    ] {
        let credentials = Credentials::new(user, password, schema);
        let direct = attempt(ways.direct, &credentials)?;
        same!(direct, Ok(wanted.to_owned()), "{user} directly");
        let proxied = attempt(ways.proxied, &credentials)?;
        // A name in quotes is the one that Spillway may refuse although the server strips them.
        if user.starts_with('\'') && proxied.is_err() {
            continue;
        }
        same!(proxied, Ok(wanted.to_owned()), "{user} through spillway");
    }
    Ok(())
}

fn by_client_address() -> Verdict {
    let ways = lab::solo()?.ways;
    let elsewhere = Ipv4Addr::new(127, 0, 0, 5);
    refused(ways, &Credentials::new("near", PASSWORD, Some("lab")).from(elsewhere), 1045)?;
    refused(ways, &Credentials::new("near", "wrong", None).from(elsewhere), 1045)?;
    refused(ways, &Credentials::new("nobody", PASSWORD, None).from(elsewhere), 1045)?;
    refused(ways, &Credentials::new("app", "wrong", None).from(elsewhere), 1045)?;
    let credentials = Credentials::new("app", PASSWORD, Some("lab")).from(elsewhere);
    same!(attempt(ways.direct, &credentials)?, Ok("app@% app@127.0.0.5 lab".to_owned()), "directly");
    // The server sees Spillway's own address there; the row is the same.
    same!(attempt(ways.proxied, &credentials)?, Ok("app@% app@127.0.0.1 lab".to_owned()), "through spillway");
    Ok(())
}

/// A server none of whose accounts allows every host, and a Spillway in front of it.
fn narrow(name: &str, options: &[&str], accounts: &str) -> Outcome<(Server, Spillway, Ways)> {
    let server = Server::standalone(name, options)?;
    server.create_monitor()?;
    // The server remembers that there was an account for every host until it reads its tables again.
    server.sql(&format!(
        "RENAME USER '{MONITOR_USER}'@'%' TO '{MONITOR_USER}'@'127.0.0.1'; {accounts}; FLUSH PRIVILEGES"
    ))?;
    let port = free_port()?;
    let nodes = format!("{{ only = \"{}\" }}", server.address());
    let configuration = lab::cluster_toml("narrow", "static", &nodes)
        + &lab::service_toml("narrow", port, "route = \"cluster:narrow\"");
    let spillway = Spillway::start(lab::binary(), &format!("spillway-{name}"), &configuration)?;
    let ways = Ways { direct: server.port, proxied: port };
    Ok((server, spillway, ways))
}

/// Case 88.
fn host_not_allowed_before_greeting() -> Verdict {
    let accounts = "CREATE DATABASE lab;
        CREATE USER app@'127.0.0.1' IDENTIFIED BY 'app-secret'; GRANT ALL ON lab.* TO app@'127.0.0.1';
        CREATE USER wide@'127.0.0.0/255.255.255.248' IDENTIFIED BY 'app-secret';
        GRANT ALL ON lab.* TO wide@'127.0.0.0/255.255.255.248';
        CREATE USER twin@'127.0.0.1' IDENTIFIED BY 'app-secret'; CREATE USER twin@'127.0.0.6' IDENTIFIED BY 'app-secret'";
    let (_server, _spillway, ways) = narrow("narrow", &["--skip-name-resolve"], accounts)?;
    let far = Ipv4Addr::new(127, 0, 0, 9);
    for user in ["app", "nobody"] {
        refused(ways, &Credentials::new(user, PASSWORD, None).from(far), 1130)?;
    }
    // Its own row says another host, but a row of somebody allows this one: the greeting comes.
    let inside = Ipv4Addr::new(127, 0, 0, 5);
    refused(ways, &Credentials::new("app", PASSWORD, None).from(inside), 1045)?;
    let wide = Credentials::new("wide", PASSWORD, Some("lab")).from(inside);
    ensure!(attempt(ways.direct, &wide)?.is_ok(), "wide is refused directly");
    ensure!(attempt(ways.proxied, &wide)?.is_ok(), "wide is refused: {:?}", attempt(ways.proxied, &wide)?);
    // Two rows of one name, each for one address: the server would see Spillway's and use the other row.
    let masked = Credentials::new("twin", PASSWORD, None).from(Ipv4Addr::new(127, 0, 0, 6));
    ensure!(attempt(ways.direct, &masked)?.is_ok(), "twin is refused directly");
    match attempt(ways.proxied, &masked)? {
        Err(refusal) => same!(refusal.code, 1045, "{refusal:?}"),
        Ok(identity) => return Err(format!("a client of one row became {identity}")),
    }
    Ok(())
}

fn localhost_when_names_are_resolved() -> Verdict {
    let accounts = "CREATE DATABASE lab;
        CREATE USER app@localhost IDENTIFIED BY 'app-secret'; GRANT ALL ON lab.* TO app@localhost;
        CREATE USER app@'127.0.0.1' IDENTIFIED BY 'another-secret'";
    let (_server, _spillway, ways) = narrow("resolving", &[], accounts)?;
    let identity = ways
        .agree("login as localhost", |port| attempt(port, &Credentials::new("app", PASSWORD, Some("lab"))))?;
    same!(identity, Ok("app@localhost app@localhost lab".to_owned()), "identity");
    refused(ways, &Credentials::new("app", "another-secret", None), 1045)?;
    refused(ways, &Credentials::new("app", "", None), 1045)?;
    refused(ways, &Credentials::new("nobody", "x", None), 1045)
}

fn greeting() -> Verdict {
    let ways = lab::solo()?.ways;
    let look = |port| {
        let session = raw::login(port, &Credentials::new("app", PASSWORD, None))?;
        session.map_err(|refusal| format!("{refusal:?}"))
    };
    let (direct, proxied) = (look(ways.direct)?, look(ways.proxied)?);
    same!(proxied.version, direct.version, "version text");
    same!(proxied.charset, direct.charset, "character set");
    ensure!(
        proxied.offered & !direct.offered == 0,
        "capabilities that the server lacks: {:#x}",
        proxied.offered & !direct.offered
    );
    ensure!(
        proxied.offered_extended & !direct.offered_extended == 0,
        "extended capabilities that the server lacks: {:#x} over {:#x}",
        proxied.offered_extended,
        direct.offered_extended
    );
    for bit in [
        capability::MULTI_STATEMENTS,
        capability::PS_MULTI_RESULTS,
        capability::SESSION_TRACK,
        capability::DEPRECATE_EOF,
        capability::PLUGIN_AUTH,
        capability::LOCAL_FILES,
        capability::FOUND_ROWS,
        capability::CONNECT_WITH_DB,
    ] {
        ensure!(proxied.offered & bit != 0, "capability {bit:#x} is not offered");
    }
    Ok(())
}

fn session(port: u16, user: &str, schema: Option<&str>) -> Outcome<raw::Raw> {
    raw::login(port, &Credentials::new(user, PASSWORD, schema))?.map_err(|refusal| format!("{refusal:?}"))
}

fn change_user() -> Verdict {
    lab::solo()?.ways.agree("COM_CHANGE_USER", |port| {
        let mut said = Vec::new();
        let who = "SELECT CONCAT(CURRENT_USER(), ' ', IFNULL(DATABASE(), '-'), ' ', IFNULL(@a, '-'))";
        let mut session = session(port, "app", Some("lab"))?;
        session.query("SET @a = 1")?;
        for (user, password, schema) in [
            ("other", PASSWORD, "lab2"),
            ("app", PASSWORD, ""),
            ("nopass", "", "lab"),
            ("app", PASSWORD, "lab2"),
        ] {
            let verdict = session.change_user(user, password, schema)?;
            ensure!(verdict.is_ok(), "change to {user}: {verdict:?}");
            said.push(first_value(&session.query(who)?)?);
        }
        same!(said[0], "other@% lab2 -", "after the first change");
        Ok(said)
    })?;
    Ok(())
}

fn change_user_refused() -> Verdict {
    let ways = lab::solo()?.ways;
    // Case 112.
    for (user, password, schema, code) in [
        ("other", "wrong", "lab2", 1045),
        ("other", "", "", 1045),
        ("nobody", PASSWORD, "", 1045),
        ("near ", PASSWORD, "", 1045),
        ("far", PASSWORD, "", 1045),
        ("locked", PASSWORD, "", 4151),
        ("noaccess", PASSWORD, "lab", 1044),
        ("reader", PASSWORD, "no_such_schema", 1049),
    ] {
        let (refusal, _) = ways.agree(&format!("COM_CHANGE_USER to {user:?} {schema:?}"), |port| {
            let mut session = session(port, "app", Some("lab"))?;
            match session.change_user(user, password, schema)? {
                Ok(()) => Err(format!("{user} was accepted")),
                Err(refusal) => Ok((refusal, session.is_closed())),
            }
        })?;
        same!(refusal.code, code, "{user}");
    }
    Ok(())
}

fn mariadb_client_sees_the_same_errors() -> Verdict {
    let ways = lab::solo()?.ways;
    for (user, schema, wanted) in [
        (
            "nobody",
            None,
            "ERROR 1045 (28000): Access denied for user 'nobody'@'127.0.0.1' (using password: YES)",
        ),
        ("app", Some("closed"), "ERROR 1044 (42000): Access denied for user 'app'@'%' to database 'closed'"),
        ("reader", Some("nowhere"), "ERROR 1049 (42000): Unknown database 'nowhere'"),
        ("locked", None, "ERROR 4151 (HY000): Access denied, this account is locked"),
    ] {
        let printed = ways.mariadb(user, schema, &[], "SELECT 1")?;
        same!(printed.errors.trim(), wanted, "what the client prints for {user}");
    }
    Ok(())
}

fn random_bytes_do_no_harm() -> Verdict {
    use std::io::{Read, Write};
    let ways = lab::solo()?.ways;
    let garbage: [&[u8]; 7] = [
        b"",
        b"GET / HTTP/1.1\r\n\r\n",
        &[0xff; 4096],
        &[0x00; 64],
        &[0xff, 0xff, 0xff, 0x01, 0x00],
        &[0x05, 0x00, 0x00, 0x01, 0x8d, 0xa6, 0xff, 0x20, 0x00],
        &[
            0x20, 0x00, 0x00, 0x07, 0x8d, 0xa6, 0xff, 0x20, 0, 0, 0, 1, 45, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0,
            0, 0, 0, 0,
        ],
    ];
    for bytes in garbage {
        let mut stream =
            std::net::TcpStream::connect(("127.0.0.1", ways.proxied)).map_err(|e| e.to_string())?;
        stream.set_read_timeout(Some(PATIENCE)).map_err(|e| e.to_string())?;
        stream.write_all(bytes).map_err(|e| e.to_string())?;
        stream.shutdown(std::net::Shutdown::Write).map_err(|e| e.to_string())?;
        // A reset is as good an end as a close; what must not happen is that nothing happens.
        match stream.read_to_end(&mut Vec::new()) {
            Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => {
                return Err(format!("no end after {} bytes of garbage", bytes.len()));
            }
            _ => {}
        }
    }
    let mut alive = session(ways.proxied, "app", None)?;
    ensure!(!alive.exchange(&[0x0e], Shape::Packet)?.is_empty(), "no answer to a ping");
    Ok(())
}
