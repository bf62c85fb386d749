//! `MariaDB` of other versions than this machine's: the numbered cases, and what a version has that others have not. A
//! server's own answer, asked by its own client program, is always the measure.

use crate::cases;
use crate::differential::Stage;
use crate::harness::Outcome;
use crate::harness::client::{Printed, run_with_input};
use crate::harness::proxy::Spillway;
use crate::harness::root::{MARIADB_10_5, MARIADB_11_8, Root};
use crate::harness::server::{MONITOR_PASSWORD, MONITOR_USER, Server, monitor_statements};
use crate::harness::workspace::{self, free_port};
use crate::lab::{self, PASSWORD, Ways};
use crate::raw::{self, Credentials};
use crate::tls::{information, vouching};
use crate::{Verdict, ensure, rooted_trial, same};
use libtest_mimic::Trial;
use std::fmt::Write as _;
use std::fs;
use std::net::Ipv4Addr;
use std::process::Command;
use std::sync::Arc;

pub(crate) fn trials() -> Vec<Trial> {
    vec![
        of(&MARIADB_11_8, "versions::cases_of_mariadb_11_8", numbered),
        of(&MARIADB_10_5, "versions::cases_of_mariadb_10_5", numbered),
        of(&MARIADB_11_8, "versions::plugins_of_mariadb_11_8", plugins),
        of(&MARIADB_10_5, "versions::plugins_of_mariadb_10_5", plugins),
        of(&MARIADB_11_8, "versions::privileges_of_mariadb_11_8", privileges),
        of(&MARIADB_10_5, "versions::privileges_of_mariadb_10_5", privileges),
        of(&MARIADB_10_5, "versions::accounts_are_read_from_columns_as_of_10_3", columns),
    ]
}

fn of(home: &'static Root, name: &str, test: fn(&'static Root) -> Verdict) -> Trial {
    rooted_trial(home, name, move || test(home))
}

fn stage(home: &'static Root, what: &str, source: Ipv4Addr) -> Outcome<Stage> {
    let name = format!("{what}-{}", home.title.replace([' ', '.'], "-").to_lowercase());
    Stage::set_up_in(Some(home), &name, source, "guard")
}

fn numbered(home: &'static Root) -> Verdict {
    cases::all(stage(home, "cases", cases::SPILLWAY)?)
}

fn ways(stage: &Stage) -> Ways {
    Ways { direct: stage.server.port, proxied: stage.port }
}

// === plugins and TLS, by the version's own client ===

/// What the version's client prints, with its port taken out.
fn client(home: &Root, port: u16, user: &str, password: &str, options: &[&str]) -> Outcome<Printed> {
    let mut command = home.client()?;
    command.args(["--no-defaults", "--protocol=tcp", "--host=127.0.0.1", "--batch", "--raw"]);
    // A password of the environment is none for the program when it thinks about the server's certificate.
    command.arg(format!("--port={port}")).arg(format!("--user={user}")).arg(format!("--password={password}"));
    command.args(options).arg("data");
    let mut printed = run_with_input(&mut command, b"SELECT CURRENT_USER(), DATABASE()")?;
    printed.errors = printed.errors.replace(&port.to_string(), "PORT");
    Ok(printed)
}

/// Accounts, each named by what it is there for; `PARSEC` only where there is that plugin.
const ACCOUNTS: &str = "
    CREATE USER native@'%' IDENTIFIED BY 'app-secret';
    CREATE USER open@'%';
    CREATE USER ed@'%' IDENTIFIED VIA ed25519 USING PASSWORD('app-secret');
    CREATE USER edlocked@'%' IDENTIFIED VIA ed25519 USING PASSWORD('app-secret') ACCOUNT LOCK;
    CREATE USER edexpired@'%' IDENTIFIED VIA ed25519 USING PASSWORD('app-secret') PASSWORD EXPIRE;
    CREATE USER edssl@'%' IDENTIFIED VIA ed25519 USING PASSWORD('app-secret') REQUIRE SSL;
    CREATE USER either@'%' IDENTIFIED VIA ed25519 USING PASSWORD('app-secret') OR mysql_native_password USING PASSWORD('other');
    CREATE USER socket@'%' IDENTIFIED VIA unix_socket;
    CREATE USER aged@'%' IDENTIFIED BY 'app-secret' PASSWORD EXPIRE INTERVAL 1 DAY;
    CREATE USER young@'%' IDENTIFIED BY 'app-secret' PASSWORD EXPIRE INTERVAL 1 DAY;
    UPDATE mysql.global_priv SET Priv = JSON_SET(Priv, '$.password_last_changed', 1700000000) WHERE User = 'aged';
    CREATE USER counted@'%' IDENTIFIED BY 'app-secret';
    CREATE USER countedthrough@'%' IDENTIFIED BY 'app-secret';
    PARSEC CREATE USER parsec@'%' IDENTIFIED VIA parsec USING PASSWORD('app-secret');
    PARSEC CREATE USER parseclocked@'%' IDENTIFIED VIA parsec USING PASSWORD('app-secret') ACCOUNT LOCK;
    PARSEC CREATE USER parsecssl@'%' IDENTIFIED VIA parsec USING PASSWORD('app-secret') REQUIRE SSL;
    INSERT INTO mysql.db (Host, Db, User, Select_priv) VALUES ('%', 'data', '', 'Y');
    FLUSH PRIVILEGES;
";

/// Which of its two passwords a client proves is not seen in what it prints.
const LOGINS: &[(&str, &str, &str)] = &[
    ("native", PASSWORD, "native@%"),
    ("native", "wrong", "1045"),
    ("open", "", "open@%"),
    ("open", "wrong", "1045"),
    ("ed", PASSWORD, "ed@%"),
    ("ed", "wrong", "1045"),
    ("ed", "", "1045"),
    ("edlocked", PASSWORD, "4151"),
    ("edlocked", "wrong", "1045"),
    ("edexpired", PASSWORD, "1862"),
    ("edssl", PASSWORD, "1045"),
    ("either", "other", "either@%"),
    ("either", "wrong", "1045"),
    ("socket", "", "1698"),
    ("aged", PASSWORD, "1862"),
    ("aged", "wrong", "1045"),
    ("young", PASSWORD, "young@%"),
];
const LOGINS_BY_PARSEC: &[(&str, &str, &str)] = &[
    ("parsec", PASSWORD, "parsec@%"),
    ("parsec", "wrong", "1045"),
    ("parsec", "", "1045"),
    ("parseclocked", PASSWORD, "4151"),
    ("parseclocked", "wrong", "1045"),
    ("parsecssl", PASSWORD, "1045"),
];

fn plugins(home: &'static Root) -> Verdict {
    let stage = stage(home, "plugins", Ipv4Addr::LOCALHOST)?;
    let with_parsec = stage.server.is_mariadb_at_least((11, 6))?;
    let of_parsec = if with_parsec { "INSTALL SONAME 'auth_parsec';" } else { "" };
    let accounts: String = ACCOUNTS
        .lines()
        .filter(|line| with_parsec || !line.contains("PARSEC"))
        .map(|line| line.replace("PARSEC", "") + "\n")
        .collect();
    stage.server.sql(&format!(
        "INSTALL SONAME 'auth_ed25519'; {of_parsec} SET GLOBAL disconnect_on_expired_password = ON; {accounts}"
    ))?;
    stage.spillway.reload_accounts()?;
    let by_parsec = if with_parsec { LOGINS_BY_PARSEC } else { &[] };
    for &(user, password, expected) in LOGINS.iter().chain(by_parsec) {
        let printed = ways(&stage).agree(&format!("{user} {password:?}"), |port| {
            client(home, port, user, password, &["--skip-ssl"])
        })?;
        let text = printed.output + &printed.errors;
        ensure!(text.contains(expected), "{user} {password:?}: {text}");
    }
    for user in ["ed", "parsec"].into_iter().take(1 + usize::from(with_parsec)) {
        let answer = stage.spillway.ask(&format!("explain login {user} 127.0.0.1 data"))?;
        ensure!(answer.contains("relayed") && answer.contains(&format!("let in as {user}@%")), "{answer}");
    }
    tls(home, &stage, with_parsec)?;
    counted(&stage)
}

/// With the authority's certificate; and with the proof that a server of 11.4 and later gives of its own.
fn tls(home: &Root, stage: &Stage, with_parsec: bool) -> Verdict {
    let authority = stage.server.file("authority.pem", &stage.authority.pem)?;
    let by_authority = [&*format!("--ssl-ca={authority}"), "--ssl-verify-server-cert"];
    let users: &[&str] = &["native", "ed", "edssl", "parsec", "parsecssl"];
    let users = if with_parsec { users } else { &users[..3] };
    let gives_proof = stage.server.is_mariadb_at_least((11, 4))?;
    for user in users {
        // Of its own accord, this client asks for TLS. Whether it looks at the proof, it does not show.
        for options in [&by_authority[..], &[]].into_iter().take(1 + usize::from(gives_proof)) {
            let printed = ways(stage)
                .agree(&format!("{user} {options:?}"), |port| client(home, port, user, PASSWORD, options))?;
            ensure!(printed.output.contains(&format!("{user}@%")), "{user} {options:?}: {printed:?}");
        }
    }
    let printed = ways(stage)
        .agree("a wrong password over TLS", |port| client(home, port, "native", "wrong", &by_authority))?;
    ensure!(printed.errors.contains("1045"), "{printed:?}");
    for (port, tls, proves) in
        [(stage.server.port, &stage.clients[0], gives_proof), (stage.port, &stage.clients[1], true)]
    {
        let who = Credentials { tls: Some(Arc::clone(tls)), ..Credentials::new("native", PASSWORD, None) };
        let session = raw::login(port, &who)?.map_err(|refusal| format!("{refusal:?}"))?;
        let expected = if proves { vouching(&session)? } else { Vec::new() };
        same!(information(&session), expected, "the information of the OK packet of port {port}");
    }
    Ok(())
}

/// Case 105.
fn counted(stage: &Stage) -> Verdict {
    stage.server.sql("SET GLOBAL max_password_errors = 2")?;
    stage.spillway.reload_accounts()?;
    for (user, port) in [("counted", stage.server.port), ("countedthrough", stage.port)] {
        let mut codes = Vec::new();
        for password in ["wrong", "wrong", PASSWORD] {
            let login = raw::login(port, &Credentials::new(user, password, None))?;
            codes.push(login.err().map_or(0, |refusal| refusal.code));
        }
        same!(codes, [1045, 1045, 4150], "{user}: wrong, wrong, right");
    }
    stage.server.sql("SET GLOBAL max_password_errors = DEFAULT").map(drop)
}

// === privileges ===

/// Every privilege that the version knows, alone and at every level: who is let into a database by it directly is let in
/// through Spillway. And names that are as long as they may be.
fn privileges(home: &'static Root) -> Verdict {
    let stage = stage(home, "privileges", Ipv4Addr::LOCALHOST)?;
    let listed = stage.server.sql("SHOW PRIVILEGES")?;
    let names: Vec<&str> = listed
        .lines()
        .filter_map(|line| line.split('\t').next())
        .filter(|name| !["Proxy", "Usage"].contains(name))
        .collect();
    ensure!(names.len() > 25, "{listed}");
    let mut script = String::from("CREATE PROCEDURE data.p() SELECT 1;\n");
    let mut users = vec!["all".to_owned(), "most".to_owned()];
    script.push_str("CREATE USER `all`@'%', most@'%'; GRANT ALL ON *.* TO `all`@'%' WITH GRANT OPTION;\n");
    script.push_str("GRANT ALL ON logs.* TO most@'%'; GRANT ALL ON data.words TO most@'%';\n");
    for (number, name) in names.iter().enumerate() {
        for level in ["*.*", "data.*", "data.words", "PROCEDURE data.p"] {
            let user = format!("u{number}{}", level.replace(|c: char| !c.is_ascii_alphabetic(), ""));
            // Not every privilege is one of every level: then it is a user without any.
            let _ = writeln!(script, "CREATE USER {user}@'%';\nGRANT {name} ON {level} TO {user}@'%';");
            users.push(user);
        }
    }
    // Of SHOW CREATE ROUTINE on a procedure, 11.8 keeps nothing in its table.
    script.push_str("FLUSH PRIVILEGES");
    stage.server.sql_going_on(&script)?;
    stage.spillway.reload_accounts()?;
    let mut let_in = 0;
    for user in &users {
        for database in DATABASES {
            let_in += u32::from(is_let_in(&stage, user, database)?);
        }
    }
    ensure!(let_in > 60, "only {let_in} logins were let in");
    of_public(&stage)?;
    names_of_full_length(&stage)?;
    check_live(&stage.server, stage.port)
}

/// The schemas that logins ask for; the last is not there.
const DATABASES: [&str; 3] = ["data", "logs", "none"];

/// Whether a user without a password may have this schema: directly, through Spillway, and by what Spillway knows.
fn is_let_in(stage: &Stage, user: &str, database: &str) -> Outcome<bool> {
    let came = ways(stage).agree(&format!("{user} {database}"), |port| {
        Ok(raw::login(port, &Credentials::new(user, "", Some(database)))?.err())
    })?;
    let answer = stage.spillway.ask(&format!("explain login {user} 127.0.0.1 {database}"))?;
    same!(answer.contains("let in as"), came.is_none(), "{user} {database}: {answer}");
    Ok(came.is_none())
}

/// What everybody has, from 10.11 on.
fn of_public(stage: &Stage) -> Verdict {
    if !stage.server.is_mariadb_at_least((10, 11))? {
        return Ok(());
    }
    stage.server.sql("CREATE USER plain@'%'")?;
    let mut opened = Vec::new();
    for privilege in [
        "SELECT ON data.words",
        "SELECT (word) ON data.words",
        "EXECUTE ON PROCEDURE data.p",
        "GRANT OPTION ON data.*",
        "SELECT ON `d%`.*",
        "SUPER ON *.*",
        "SELECT ON *.*",
    ] {
        stage.server.sql(&format!("GRANT {privilege} TO PUBLIC; FLUSH PRIVILEGES"))?;
        stage.spillway.reload_accounts()?;
        for database in DATABASES {
            if is_let_in(stage, "plain", database)? {
                opened.push(format!("{database} by {privilege}"));
            }
        }
        stage.server.sql(&format!("REVOKE {privilege} FROM PUBLIC; FLUSH PRIVILEGES"))?;
    }
    ensure!(opened.iter().any(|opened| opened == "logs by SELECT ON *.*"), "{opened:?}");
    Ok(())
}

/// A longer name is cut by the server, and another account's then.
fn names_of_full_length(stage: &Stage) -> Verdict {
    let longest =
        stage.server.sql("SELECT CHARACTER_MAXIMUM_LENGTH FROM information_schema.COLUMNS WHERE TABLE_SCHEMA = 'mysql' AND TABLE_NAME = 'global_priv' AND COLUMN_NAME = 'User'")?;
    let longest: usize = longest.parse().map_err(|_| format!("length {longest:?}"))?;
    let name = "n".repeat(longest);
    stage.server.sql(&format!("CREATE USER {name}@'%'"))?;
    stage.spillway.reload_accounts()?;
    let login = |port, name: &str| -> Outcome<u16> {
        Ok(raw::login(port, &Credentials::new(name, "", None))?.err().map_or(0, |refusal| refusal.code))
    };
    let longer = format!("{name}n");
    same!((login(stage.server.port, &name)?, login(stage.port, &name)?), (0, 0), "{longest} letters");
    same!((login(stage.server.port, &longer)?, login(stage.port, &longer)?), (0, 1045), "one letter more");
    let answer = stage.spillway.ask(&format!("explain login {longer} 127.0.0.1"))?;
    ensure!(answer.contains("the user name is too long"), "{answer}");
    Ok(())
}

/// The monitor account of the tests has all that Spillway asks for on this version.
fn check_live(server: &Server, port: u16) -> Verdict {
    let directory = workspace::directory(&format!("check-{}", server.name))?;
    let file = directory.join("spillway.toml");
    let configuration = format!(
        "[cluster.lab]\nkind = \"replication\"\nnodes = {{ solo = \"{}\" }}\nmonitor = {{ user = \"{MONITOR_USER}\", password = \
         \"{MONITOR_PASSWORD}\" }}\n{}",
        server.address(),
        lab::service_toml("lab", port, "route = \"cluster:lab\"")
    );
    fs::write(&file, configuration).map_err(|e| e.to_string())?;
    let mut command = Command::new(lab::binary());
    let printed = run_with_input(command.args(["check", "--live", "-c"]).arg(&file), b"")?;
    let text = printed.output + &printed.errors;
    ensure!(printed.code == Some(0) && !text.contains("GRANT"), "{text}");
    Ok(())
}

// === 10.3 ===

/// Of 10.3 there is no server here. 10.5 keeps the table of old as a view, with the very columns; so one that calls itself
/// 10.3 shows that Spillway asks for these columns and reads them. That a 10.3 judges so is not shown.
fn columns(home: &'static Root) -> Verdict {
    let options = ["--version=10.3.39-MariaDB", "--skip-name-resolve", "--plugin-load-add=auth_ed25519"];
    let mut server = Server::prepare_in(home, "columns", &options)?;
    server.start(&[])?;
    server.sql(&monitor_statements().replace("mysql.global_priv", "mysql.user"))?;
    server.sql(&format!(
        "CREATE DATABASE data; CREATE DATABASE logs;
         CREATE USER native@'%' IDENTIFIED BY '{PASSWORD}'; GRANT SELECT ON data.* TO native@'%';
         CREATE USER open@'%'; GRANT SELECT ON *.* TO open@'%';
         CREATE USER ed@'%' IDENTIFIED VIA ed25519 USING PASSWORD('{PASSWORD}'); GRANT SELECT ON data.* TO ed@'%';
         CREATE USER secure@'%' IDENTIFIED BY '{PASSWORD}' REQUIRE X509;
         CREATE USER several@'%' IDENTIFIED BY '{PASSWORD}', several@'127.0.0.%' IDENTIFIED BY 'other';
         CREATE ROLE clerks; GRANT SELECT ON data.* TO clerks;
         CREATE USER clerk@'%' IDENTIFIED BY '{PASSWORD}'; GRANT clerks TO clerk@'%'; SET DEFAULT ROLE clerks FOR clerk@'%';"
    ))?;
    let port = free_port()?;
    let nodes = format!("{{ solo = \"{}\" }}", server.address());
    let configuration = lab::cluster_toml("lab", "static", &nodes)
        + &lab::service_toml("lab", port, "route = \"cluster:lab\"");
    let spillway = Spillway::start(lab::binary(), "spillway-columns", &configuration)?;
    let ways = Ways { direct: server.port, proxied: port };
    let all = |password: &str| -> Verdict {
        for (user, password, schema, expected) in [
            ("native", password, "data", ""),
            ("native", "wrong", "data", "1045"),
            ("native", password, "logs", "1044"),
            ("open", "", "logs", ""),
            ("open", "", "none", "1049"),
            ("open", "wrong", "data", "1045"),
            ("secure", PASSWORD, "data", "1045"),
            ("several", PASSWORD, "data", "1045"),
            ("several", "other", "data", "1044"),
            ("clerk", PASSWORD, "data", ""),
            ("clerk", PASSWORD, "logs", "1044"),
        ] {
            let said = ways.agree(&format!("{user} {password:?} {schema}"), |port| {
                let login = raw::login(port, &Credentials::new(user, password, Some(schema)))?;
                Ok(login.err().map_or(String::new(), |refusal| refusal.code.to_string()))
            })?;
            same!(said, expected, "{user} {password:?} {schema}");
        }
        Ok(())
    };
    all(PASSWORD)?;
    let printed = ways.agree("ed25519", |port| client(home, port, "ed", PASSWORD, &["--skip-ssl"]))?;
    ensure!(printed.output.contains("ed@%"), "{printed:?}");
    let answer = spillway.ask("explain login clerk 127.0.0.1 data")?;
    ensure!(answer.contains("let in as clerk@%") && answer.contains("'clerks'@''"), "{answer}");
    // A change is seen in the columns as well.
    server.sql("ALTER USER native@'%' IDENTIFIED BY 'another'")?;
    spillway.reload_accounts()?;
    all("another")?;
    check_live(&server, port)
}
