//! Accounts that differ between the nodes of a cluster, and changes that are noticed without reading everything.

use crate::harness::cluster::{Galera, Replication};
use crate::harness::proxy::Spillway;
use crate::harness::server::Server;
use crate::harness::workspace::{self, free_port};
use crate::harness::{PATIENCE, wait_for};
use crate::lab::{self, PASSWORD, binary, cluster_with, service_toml};
use crate::raw::{self, Credentials};
use crate::tls::{Authority, write};
use crate::{Verdict, ensure, mysql_trial, same, trial};
use libtest_mimic::Trial;
use rustls::version::TLS13;
use std::time::{Duration, Instant};

pub(crate) fn trials() -> Vec<Trial> {
    vec![
        trial("nodes::changes_on_mariadb_are_noticed", changes_on_mariadb_are_noticed),
        mysql_trial("nodes::changes_on_mysql_are_noticed", changes_on_mysql_are_noticed),
        trial("nodes::galera_changes_and_differences", galera_changes_and_differences),
        trial(
            "nodes::a_replica_that_differs_is_judged_by_its_own",
            a_replica_that_differs_is_judged_by_its_own,
        ),
        trial("nodes::a_node_may_demand_more_of_a_connection", a_node_may_demand_more_of_a_connection),
    ]
}

/// A cluster whose accounts are looked at every second.
fn quick(name: &str, kind: &str, nodes: &str) -> String {
    cluster_with(name, kind, nodes, "accounts_refresh = \"1s\"")
}

/// One look: the interval, and what reading costs on a busy machine. Without one, everything is read after ten seconds.
const A_LOOK: Duration = Duration::from_secs(6);

/// Waits until the loaded accounts show an account as `wanted`; within one look or so.
fn noticed(spillway: &Spillway, user: &str, wanted: impl Fn(Option<&serde_json::Value>) -> bool) -> Verdict {
    let start = Instant::now();
    wait_for(&format!("accounts of {user}"), PATIENCE, || {
        let answer = spillway.get("/v1/accounts")?;
        let rows = answer["accounts"].as_array().cloned().unwrap_or_default();
        let row = rows.iter().find(|row| row["user"] == user);
        if wanted(row) { Ok(()) } else { Err(format!("{row:?}")) }
    })?;
    ensure!(start.elapsed() < A_LOOK, "noticed after {:?} only", start.elapsed());
    Ok(())
}

/// A session that `change` must end, which is how a changed password is seen.
fn ends_session(port: u16, user: &str, password: &str, change: impl FnOnce() -> Verdict) -> Verdict {
    let mut session =
        raw::login(port, &Credentials::new(user, password, None))?.map_err(|e| format!("{e:?}"))?;
    change()?;
    let last = raw::Refusal::parse(&session.unasked_packet()?)?;
    same!(last.code, 1927, "{last:?}");
    Ok(())
}

/// Every way to change accounts, each noticed by the next look.
fn every_change(
    server: &Server,
    spillway: &Spillway,
    port: u16,
    dml: impl FnOnce() -> Verdict,
    set_password: &str,
) -> Verdict {
    server.sql(&format!("CREATE USER quick@'%' IDENTIFIED BY '{PASSWORD}'"))?;
    noticed(spillway, "quick", |row| row.is_some())?;
    server.sql("ALTER USER quick@'%' ACCOUNT LOCK")?;
    noticed(spillway, "quick", |row| row.is_some_and(|row| row["locked"] == true))?;
    server.sql("ALTER USER quick@'%' ACCOUNT UNLOCK")?;
    noticed(spillway, "quick", |row| row.is_some_and(|row| row["locked"] == false))?;
    ends_session(port, "quick", PASSWORD, || server.sql(set_password).map(drop))?;
    ends_session(port, "quick", "another-secret", || {
        server.sql("ALTER USER quick@'%' IDENTIFIED BY 'third-secret'").map(drop)
    })?;
    dml()?;
    noticed(spillway, "quick", |row| row.is_none())?;
    noticed(spillway, "slow", |row| row.is_some())?;
    let explained = |wanted: &str| {
        wait_for("the grant", A_LOOK, || {
            let answer = spillway.ask("explain login slow 127.0.0.1 lab")?;
            if answer.contains(wanted) { Ok(()) } else { Err(answer) }
        })
    };
    explained("error 1044")?;
    server.sql("GRANT SELECT ON lab.* TO slow@'%'")?;
    explained("let in as slow@%")?;
    server.sql("REVOKE SELECT ON lab.* FROM slow@'%'")?;
    explained("error 1044")?;
    server.sql("DROP USER slow@'%'")?;
    noticed(spillway, "slow", |row| row.is_none())
}

fn changes_on_mariadb_are_noticed() -> Verdict {
    let server = Server::standalone("quick", &["--skip-name-resolve"])?;
    server.create_monitor()?;
    server.sql("CREATE DATABASE lab")?;
    let port = free_port()?;
    let configuration = quick("lab", "static", &format!("{{ quick = \"{}\" }}", server.address()))
        + &service_toml("lab", port, "route = \"cluster:lab\"");
    let spillway = Spillway::start(binary(), "spillway-quick", &configuration)?;
    every_change(
        &server,
        &spillway,
        port,
        || {
            let statement =
                "UPDATE mysql.global_priv SET User = 'slow' WHERE User = 'quick'; FLUSH PRIVILEGES";
            server.sql(statement).map(drop)
        },
        "SET PASSWORD FOR quick@'%' = PASSWORD('another-secret')",
    )?;
    // While nothing changes there are fingerprints, and everything is read each tenth time.
    server.sql("SET GLOBAL log_output = 'TABLE'; TRUNCATE mysql.general_log; SET GLOBAL general_log = ON")?;
    let count = |pattern: &str| -> Result<u64, String> {
        // Without this question itself.
        let query = format!(
            "SELECT COUNT(*) FROM mysql.general_log WHERE argument LIKE '{pattern}' AND argument NOT LIKE '%general_log%'"
        );
        server.sql(&query)?.trim().parse().map_err(|e| format!("{pattern}: {e}"))
    };
    // In ten looks there are eleven, as there is one before and one after everything is read.
    let fingerprints = "SELECT %SHA2(%";
    wait_for("more than ten looks", 2 * PATIENCE, || match count(fingerprints)? {
        looked @ 0..=12 => Err(format!("{looked} fingerprints")),
        _ => Ok(()),
    })?;
    server.sql("SET GLOBAL general_log = OFF")?;
    let (read, looked) = (count("SELECT Host, User, Priv FROM%")?, count(fingerprints)?);
    ensure!((1..=2).contains(&read), "the tables were read {read} times, {looked} fingerprints");
    ensure!(looked >= 8, "{looked} fingerprints only, the tables were read {read} times");
    Ok(())
}

fn changes_on_mysql_are_noticed() -> Verdict {
    let lab = lab::mysql()?;
    let port = free_port()?;
    let configuration = quick("lab", "static", &format!("{{ my = \"{}\" }}", lab.server.address()))
        + &service_toml("lab", port, "route = \"cluster:lab\"");
    let spillway = Spillway::start(binary(), "spillway-quick-mysql", &configuration)?;
    every_change(
        &lab.server,
        &spillway,
        port,
        || lab.forgets("UPDATE mysql.user SET User = 'slow' WHERE User = 'quick'").map(drop),
        "SET PASSWORD FOR quick@'%' = 'another-secret'",
    )
}

/// What `show nodes` says of a node's accounts.
fn accounts_of(spillway: &Spillway, node: &str) -> Result<String, String> {
    let answer = spillway.get("/v1/nodes")?;
    let rows = answer["nodes"].as_array().cloned().unwrap_or_default();
    let row = rows.iter().find(|row| row["node"] == node).ok_or_else(|| format!("no {node} in {answer}"))?;
    Ok(row["accounts"].as_str().unwrap_or("(nothing)").to_owned())
}

fn wait_accounts(spillway: &Spillway, node: &str, wanted: &str) -> Verdict {
    wait_for(&format!("accounts of {node}: {wanted}"), PATIENCE, || {
        let found = accounts_of(spillway, node)?;
        if found.contains(wanted) { Ok(()) } else { Err(found) }
    })
}

fn galera_changes_and_differences() -> Verdict {
    let mut galera = Galera::start("many", &["--skip-name-resolve"], 3)?;
    galera.nodes[0].create_monitor()?;
    galera.nodes[0].sql("CREATE DATABASE lab; CREATE USER app@'%' IDENTIFIED BY 'app-secret'")?;
    let port = free_port()?;
    let configuration = quick("many", "galera", &galera.toml_nodes())
        + &service_toml("many", port, "route = \"cluster:many\"");
    let spillway = Spillway::start(binary(), "spillway-many", &configuration)?;
    let names: Vec<String> = galera.nodes.iter().map(|node| node.name.clone()).collect();
    let mut read = None;
    for name in &names {
        wait_for("every node is compared", PATIENCE, || match accounts_of(&spillway, name)?.as_str() {
            "read from it" | "same" => Ok(()),
            other => Err(other.to_owned()),
        })?;
        if accounts_of(&spillway, name)? == "read from it" {
            read = Some(name.clone());
        }
    }
    let read = read.ok_or("accounts are read from no node")?;
    let others: Vec<usize> = (0..3).filter(|number| names[*number] != read).collect();
    let (other, third) = (others[0], others[1]);
    // Made on a node that is not the one that is read.
    every_change(
        &galera.nodes[other],
        &spillway,
        port,
        || galera.nodes[other].sql("RENAME USER quick@'%' TO slow@'%'").map(drop),
        "SET PASSWORD FOR quick@'%' = PASSWORD('another-secret')",
    )?;
    same!(accounts_of(&spillway, &read)?, "read from it", "still the same one");
    ensure!(!spillway.log().contains("a node differs"), "{}", spillway.log_tail(20));
    // DML on Aria tables is not replicated.
    galera.nodes[other].sql("CREATE USER same@'%' IDENTIFIED BY 'app-secret'")?;
    noticed(&spillway, "same", |row| row.is_some())?;
    let name = &names[other];
    galera.nodes[other].sql(
        "UPDATE mysql.global_priv SET User = 'local' WHERE User = 'same'; FLUSH LOCAL PRIVILEGES;\
         SET wsrep_on = OFF; ALTER USER app@'%' IDENTIFIED BY 'local-secret'",
    )?;
    wait_accounts(&spillway, name, &format!("local@% exists on {name} only"))?;
    wait_accounts(&spillway, name, &format!("same@% exists on {read} only"))?;
    wait_accounts(&spillway, name, &format!("app@% has another password on {name}"))?;
    wait_accounts(&spillway, &names[third], "same")?;
    let metrics = spillway.api("GET", "/metrics", None)?.body;
    for (node, differs) in [(name, 1), (&names[third], 0), (&read, 0)] {
        let line = format!("spillway_node_accounts_differ{{cluster=\"many\",node=\"{node}\"}} {differs}");
        ensure!(metrics.contains(&line), "no {line} in\n{metrics}");
    }
    std::thread::sleep(Duration::from_secs(4));
    let warnings = spillway.log().matches("a node differs from the accounts").count();
    ensure!(warnings <= 2, "{warnings} warnings:\n{}", spillway.log_tail(30));
    ensure!(!spillway.log().contains('*'), "a hash in the log:\n{}", spillway.log_tail(30));
    galera.nodes[third].kill();
    wait_accounts(&spillway, &names[third], "unknown: down")
}

/// On the replica alone there are rows for the address of Spillway: what it sees is then not what it would see of the client.
fn a_replica_that_differs_is_judged_by_its_own() -> Verdict {
    let replication = Replication::start("own", &["--skip-name-resolve"])?;
    let (primary, replica) = (&replication.nodes[0], &replication.nodes[1]);
    primary.create_monitor()?;
    primary.sql("CREATE DATABASE lab; CREATE USER app@'127.%' IDENTIFIED BY 'app-secret'")?;
    replication.wait_caught_up()?;
    let port = free_port()?;
    // The primary serves reads only where nothing else does.
    let nodes = format!(
        "{{ {} = {{ address = \"{}\", weight = 0 }}, {} = \"{}\" }}",
        primary.name,
        primary.address(),
        replica.name,
        replica.address()
    );
    let configuration = quick("own", "replication", &nodes)
        + &service_toml("own", port, "route = \"cluster:own\"\nnode = \"any\"");
    let spillway = Spillway::start(binary(), "spillway-own", &configuration)?;
    wait_accounts(&spillway, &replica.name, "same")?;
    let login = || raw::login(port, &Credentials::new("app", PASSWORD, None).from([127, 0, 0, 9].into()));
    login()?.map_err(|e| format!("before: {e:?}"))?;
    // A row that matches Spillway's address and not the client's.
    replica.sql("SET sql_log_bin = 0; GRANT ALL ON lab.* TO app@'127.%';\
        INSERT INTO mysql.db (Host, Db, User, Select_priv) VALUES ('127.0.0.1', 'mysql', 'app', 'Y'); FLUSH PRIVILEGES")?;
    wait_accounts(&spillway, &replica.name, "db rows of app@127.0.0.1 exist on")?;
    let refused = login()?.err().ok_or("let in where rows for Spillway's address would apply")?;
    same!(refused.code, 1045, "{refused:?}");
    // The primary is as it was, and so are others' rows.
    replica.sql("SET sql_log_bin = 0; DELETE FROM mysql.db WHERE User = 'app'; FLUSH PRIVILEGES")?;
    wait_accounts(&spillway, &replica.name, "same")?;
    login()?.map(drop).map_err(|e| format!("afterwards: {e:?}"))?;
    spillway.wait_log("the same again")
}

/// Both servers see the TLS of Spillway's links, which is all that any account demands.
fn a_node_may_demand_more_of_a_connection() -> Verdict {
    let authority = Authority::new("nodes")?;
    let accounts: String = ["app", "secure", "certified", "named"]
        .map(|user| format!("CREATE USER {user}@'%' IDENTIFIED BY '{PASSWORD}';"))
        .concat();
    let start = |name: &str| -> Result<Server, String> {
        let mut server = Server::prepare(name, &["--skip-name-resolve", "--plugin-load-add=auth_ed25519"])?;
        let issued = authority.server()?;
        for (option, file, content) in [
            ("ssl-cert", "node.crt", &issued.certificate),
            ("ssl-key", "node.key", &issued.key),
            ("ssl-ca", "ca.pem", &authority.pem),
        ] {
            let path = server.file(file, content)?;
            server.option(format!("--{option}={path}"));
        }
        server.start(&[])?;
        server.create_monitor()?;
        server.sql(&format!(
            "DROP USER IF EXISTS ''@localhost; {accounts}
             CREATE USER curve@'%' IDENTIFIED VIA ed25519 USING PASSWORD('{PASSWORD}');
             UPDATE mysql.global_priv SET Priv = JSON_SET(Priv, '$.password_last_changed', 1700000000)
                 WHERE JSON_EXISTS(Priv, '$.password_last_changed'); FLUSH PRIVILEGES"
        ))?;
        Ok(server)
    };
    let (lax, strict) = (start("lax")?, start("strict")?);
    let directory = workspace::directory("spillway-strict-files")?;
    let (own, link) = (authority.server()?, authority.client()?);
    for (file, content) in [
        ("ca.pem", &authority.pem),
        ("tls.crt", &own.certificate),
        ("tls.key", &own.key),
        ("link.crt", &link.certificate),
        ("link.key", &link.key),
    ] {
        write(&directory, file, content)?;
    }
    let (port, files) = (free_port()?, directory.display());
    // Accounts are read from the writer; sessions go to the other one.
    let nodes = format!(
        "{{ lax = {{ address = \"{}\", weight = 0, priority = 1 }}, strict = \"{}\" }}",
        lax.address(),
        strict.address()
    );
    let configuration = quick("own", "static", &nodes)
        + &format!(
            "[cluster.own.tls]\nca = \"{files}/ca.pem\"\ncertificate = \"{files}/link.crt\"\nkey = \"{files}/link.key\"\n\n"
        )
        + &service_toml("own", port, "route = \"cluster:own\"\nnode = \"any\"")
        + &format!(
            "[service.own.tls]\ncertificate = \"{files}/tls.crt\"\nkey = \"{files}/tls.key\"\nclient_ca = \"{files}/ca.pem\"\n"
        )
        + "[runtime.backoff]\nper_address = 0\nper_account = 0\n";
    let spillway = Spillway::start(binary(), "spillway-strict", &configuration)?;
    wait_accounts(&spillway, "lax", "read from it")?;
    wait_accounts(&spillway, "strict", "same")?;
    let own = authority.client()?;
    let ways = [
        ("plain", None),
        ("tls", Some(authority.trusted_by(&TLS13, None)?)),
        ("certificate", Some(authority.trusted_by(&TLS13, Some(&own))?)),
    ];
    let came = |port: u16, user: &str, password: &str, way: &str| {
        let tls = ways.iter().find(|(name, _)| *name == way).and_then(|(_, tls)| tls.clone());
        let login = raw::login(port, &Credentials { tls, ..Credentials::new(user, password, None) })?;
        Ok::<_, String>(login.err())
    };
    let agree = |expected: &[(&str, &str, &str)]| -> Verdict {
        for (user, way, outcome) in expected {
            for password in [PASSWORD, "wrong"] {
                let direct = came(strict.port, user, password, way)?;
                same!(came(port, user, password, way)?, direct, "{user} {password} {way}");
                let lets_in = *outcome == "in" && password == PASSWORD;
                same!(direct.is_none(), lets_in, "{user} {password} {way}: {direct:?}");
            }
        }
        Ok(())
    };
    for user in ["app", "secure", "certified", "named", "curve"] {
        agree(&[(user, "plain", "in"), (user, "certificate", "in")])?;
    }
    strict.sql(
        "ALTER USER secure@'%' REQUIRE SSL; ALTER USER certified@'%' REQUIRE X509;
         ALTER USER named@'%' REQUIRE SUBJECT '/CN=client'; ALTER USER curve@'%' REQUIRE SSL",
    )?;
    wait_accounts(&spillway, "strict", "named@% has other privileges or attributes")?;
    wait_accounts(&spillway, "strict", "curve@%")?;
    agree(&[
        ("app", "plain", "in"),
        ("secure", "plain", "refused"),
        ("secure", "tls", "in"),
        ("certified", "plain", "refused"),
        ("certified", "tls", "refused"),
        ("certified", "certificate", "in"),
        ("named", "tls", "refused"),
        ("named", "certificate", "in"),
        ("curve", "plain", "refused"),
        ("curve", "tls", "in"),
    ])?;
    // A session that comes from elsewhere by COM_CHANGE_USER is asked as well.
    let mut session =
        raw::login(port, &Credentials::new("app", PASSWORD, None))?.map_err(|e| format!("{e:?}"))?;
    let refusal = session.change_user("secure", PASSWORD, "")?;
    same!(refusal.map_err(|refusal| refusal.code), Err(1045), "COM_CHANGE_USER without TLS");
    drop(session);
    strict.sql("SET GLOBAL require_secure_transport = ON")?;
    wait_accounts(&spillway, "strict", "require_secure_transport")?;
    agree(&[("app", "plain", "refused"), ("curve", "plain", "refused"), ("app", "tls", "in")])
}
