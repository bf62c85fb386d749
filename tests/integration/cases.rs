//! Numbered cases of logins, as in the unit tests of `grants`: what is said there of a server is asked here of the server
//! itself, and of Spillway.
//!
//! Every case has a user of its own, so that the accounts of a table are made at once. In statements and results `{u}` is that
//! user, `{r}` a role of its own and `{pw}` a password. `-` stands for a case that the product does not know.

use crate::differential::Stage;
use crate::harness::client::run_with_input;
use crate::harness::server::Make;
use crate::harness::{Outcome, PATIENCE, mysql, wait_for};
use crate::lab::{PASSWORD, Ways};
use crate::proof::{Plugin, Way};
use crate::raw::{self, Credentials, Login, Raw, Refusal, capability, first_value};
use crate::{Verdict, ensure, mysql_trial, same, trial};
use libtest_mimic::Trial;
use std::fmt::Write as _;
use std::net::{Ipv4Addr, TcpStream};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::sync::Arc;

pub(crate) fn trials() -> Vec<Trial> {
    vec![
        trial("cases::of_mariadb", || all(Stage::set_up("cases", SPILLWAY, "guard")?)),
        mysql_trial("cases::of_mysql", || all(Stage::set_up_mysql("cases-mysql", SPILLWAY)?)),
    ]
}

const CLIENT: Ipv4Addr = Ipv4Addr::new(127, 0, 0, 5);
/// As the server sees it.
pub(crate) const SPILLWAY: Ipv4Addr = Ipv4Addr::new(127, 0, 0, 40);

/// How a client comes in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Door {
    Plain,
    Tls,
    Socket,
}

/// One login: number, statements beside `CREATE USER {u}@'%'`, schema, and what comes of it on `MariaDB` and on `MySQL`.
type OfDatabase = (&'static str, &'static str, &'static str, &'static str, &'static str);

/// `reads`: may read `app.t` as well.
const DATABASES: &[OfDatabase] = &[
    ("56", "", "app", "1044", "1044"),
    ("57", "", "nosuch", "1044", "1044"),
    ("58", "GRANT SELECT ON *.* TO {u}@'%'", "nosuch", "1049", "1049"),
    ("59", "", "information_schema", "{u}@%", "{u}@%"),
    ("59 capitals", "", "INFORMATION_SCHEMA", "{u}@%", "{u}@%"),
    ("60", "", "performance_schema", "1044", "1044"),
    ("60 sys", "", "sys", "1044", "1044"),
    ("60 mysql", "", "mysql", "1044", "1044"),
    ("61", "GRANT SELECT ON app.* TO {u}@'%'", "app", "{u}@% reads", "{u}@% reads"),
    ("62", "GRANT SELECT ON `ap_`.* TO {u}@'%'", "app", "{u}@% reads", "{u}@% reads"),
    ("63", "GRANT SELECT ON `ap\\_`.* TO {u}@'%'", "app", "1044", "1044"),
    ("64", "GRANT SELECT ON `ap\\_`.* TO {u}@'%'", "ap_", "{u}@%", "{u}@%"),
    ("65", "GRANT SELECT (c) ON app.t TO {u}@'%'", "app", "{u}@% reads", "{u}@% reads"),
    ("66", "GRANT EXECUTE ON PROCEDURE app.p TO {u}@'%'", "app", "{u}@%", "{u}@%"),
    ("67", "GRANT GRANT OPTION ON app.* TO {u}@'%'", "app", "{u}@%", "1044"),
    ("68", "GRANT GRANT OPTION ON app.t TO {u}@'%'", "app", "{u}@%", "1044"),
    (
        "69",
        "CREATE USER {u}@'127.0.0.%' {pw}; GRANT SELECT ON app.t TO {u}@'%'",
        "app",
        "{u}@127.0.0.% reads",
        "{u}@127.0.0.% reads",
    ),
    (
        "70",
        "CREATE USER {u}@'127.0.0.%' {pw}; GRANT SELECT ON app.* TO {u}@'%'",
        "app",
        "{u}@127.0.0.% reads",
        "{u}@127.0.0.% reads",
    ),
    (
        "71",
        "CREATE DATABASE everybodys; INSERT INTO mysql.db (Host, Db, User, Select_priv) VALUES ('%', 'everybodys', '', 'Y')",
        "everybodys",
        "{u}@%",
        "{u}@%",
    ),
    (
        "72",
        "CREATE USER {u}@'127.0.0.%' {pw}; GRANT GRANT OPTION ON app.* TO {u}@'127.0.0.%'; GRANT SELECT ON app.* TO {u}@'%'",
        "app",
        "{u}@127.0.0.%",
        "1044",
    ),
    ("73", "GRANT SELECT ON App.* TO {u}@'%'", "app", "1044", "1044"),
    ("74", "GRANT SELECT ON App.* TO {u}@'%'", "APP", "1044", "1044"),
    (
        "75",
        "CREATE ROLE {r}; GRANT SELECT ON app.* TO {r}; GRANT {r} TO {u}@'%'; SET DEFAULT ROLE {r} FOR {u}@'%'",
        "app",
        "{u}@% reads",
        "{u}@% reads",
    ),
    ("76", "CREATE ROLE {r}; GRANT SELECT ON app.* TO {r}; GRANT {r} TO {u}@'%'", "app", "1044", "1044"),
    (
        "81",
        "CREATE USER {u}@'127.0.0.%' {pw}; GRANT SELECT ON app.* TO {u}@'%'; CREATE ROLE {r}; \
         GRANT {r} TO {u}@'127.0.0.%'; SET DEFAULT ROLE {r} FOR {u}@'127.0.0.%'",
        "app",
        "{u}@127.0.0.% reads",
        "1044",
    ),
    ("82", "", "", "{u}@%", "{u}@%"),
    ("83", "", "app ", "1102", "1102"),
    ("83 too long", "", "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa", "1102", "1059"),
    (
        "83 too long a blank",
        "",
        "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa ",
        "1102",
        "1102",
    ),
];

/// From 10.11 on.
const DATABASES_OF_PUBLIC: &[OfDatabase] =
    &[("78", "CREATE DATABASE open; GRANT SELECT ON open.* TO PUBLIC", "open", "{u}@%", "-")];

const DATABASES_OF_MARIADB: &[OfDatabase] = &[(
    "79",
    "CREATE USER {u}@'127.0.0.%' {pw}; GRANT FILE ON *.* TO {u}@'%'; CREATE ROLE {r}; GRANT SELECT ON app.* TO {r}; \
         GRANT {r} TO {u}@'%'; UPDATE mysql.global_priv SET Priv = JSON_SET(Priv, '$.default_role', '{r}') \
         WHERE User = '{u}' AND Host = '127.0.0.%'",
    "app",
    "{u}@127.0.0.% reads",
    "-",
)];

const DATABASES_OF_MYSQL: &[OfDatabase] = &[
    (
        "77",
        "CREATE DATABASE mandated; CREATE ROLE {r}; GRANT SELECT ON mandated.* TO {r}",
        "mandated",
        "-",
        "1044",
    ),
    (
        "79",
        "CREATE USER {u}@'127.0.0.%' {pw}; CREATE ROLE {r}; GRANT SELECT ON app.* TO {r}; GRANT {r} TO {u}@'%'; \
         INSERT INTO mysql.default_roles VALUES ('127.0.0.%', '{u}', '%', '{r}')",
        "app",
        "-",
        "1044",
    ),
    ("80", "GRANT SELECT ON *.* TO {u}@'%'", "app", "-", "{u}@% reads"),
];

/// The same users once a setting of the server is another one.
const WITH_ALL_ROLES: &[OfDatabase] = &[("76, all roles", "", "app", "-", "{u}@% reads")];
/// Active by `activate_mandatory_roles`, whatever `activate_all_roles_on_login` says; and with a role active, rows count by
/// account.
const WITH_MANDATORY_ROLE: &[OfDatabase] = &[
    ("77, mandatory", "", "mandated", "-", "{u}@%"),
    ("70, mandatory role", "", "app", "-", "1044"),
    ("75, default and mandatory", "", "app", "-", "{u}@% reads"),
    ("75, only mandatory", "", "mandated", "-", "{u}@% reads"),
    ("76, mandatory", "", "app", "-", "1044"),
];
/// Another role that does not exist, and one that somebody was granted, too.
const WITH_MANDATORY_ROLES: &[OfDatabase] = &[
    ("77, several", "", "mandated", "-", "{u}@% reads"),
    ("57, several", "", "app", "-", "{u}@% reads"),
    ("76, several", "", "app", "-", "{u}@% reads"),
];
const WITH_INACTIVE_ROLES: &[OfDatabase] = &[
    ("77, inactive", "", "mandated", "-", "1044"),
    ("76, inactive", "", "app", "-", "1044"),
    ("75, inactive", "", "app", "-", "{u}@% reads"),
    ("70, inactive", "", "app", "-", "{u}@127.0.0.% reads"),
];
const WITH_PARTIAL_REVOKES: &[OfDatabase] = &[
    ("62, partial revokes", "", "app", "-", "1044"),
    ("64, partial revokes", "", "ap_", "-", "1044"),
    ("80, revoked", "", "app", "-", "1044"),
];
const WITH_LOWER_CASE_NAMES: &[OfDatabase] = &[("74, lower case", "", "APP", "{u}@% reads", "-")];

/// One login: number, what follows `CREATE USER {u}@'%'`, the name and the password that are given, how, and what comes of it
/// on `MariaDB` and on `MySQL`.
type OfCredentials =
    (&'static str, &'static str, &'static str, &'static str, Door, &'static str, &'static str);

const CREDENTIALS: &[OfCredentials] = {
    use Door::{Plain, Socket, Tls};
    let locked = "{pw} ACCOUNT LOCK";
    let ssl = "{pw} REQUIRE SSL";
    &[
        ("84", "{pw}", "{u}", "wrong", Plain, "1045 YES", "1045 YES"),
        ("85", "{pw}", "{u}", "", Plain, "1045 NO", "1045 NO"),
        ("86", "", "{u}", PASSWORD, Plain, "1045 YES", "1045 YES"),
        ("87", "{pw}", "{u}x", PASSWORD, Plain, "1045 YES", "1045 YES"),
        ("89", locked, "{u}", PASSWORD, Plain, "4151", "3118"),
        ("90", locked, "{u}", "wrong", Plain, "1045 YES", "1045 YES"),
        ("91", ssl, "{u}", PASSWORD, Plain, "1045 YES", "1045 YES"),
        ("92", ssl, "{u}", PASSWORD, Tls, "{u}@%", "{u}@%"),
        ("93", ssl, "{u}", PASSWORD, Socket, "1045 YES", "1045 YES"),
        ("94", "{pw} REQUIRE X509", "{u}", PASSWORD, Tls, "1045 YES", "1045 YES"),
        ("95", "{pw} REQUIRE SUBJECT '/CN=x'", "{u}", PASSWORD, Tls, "1045 YES", "1045 YES"),
        ("95 issuer", "{pw} REQUIRE ISSUER '/CN=x'", "{u}", PASSWORD, Tls, "1045 YES", "1045 YES"),
        ("95 cipher", "{pw} REQUIRE CIPHER 'NONE'", "{u}", PASSWORD, Tls, "1045 YES", "1045 YES"),
        ("99", "{pw} PASSWORD EXPIRE", "{u}", PASSWORD, Plain, "1820 within", "1862"),
        ("101", "{pw} PASSWORD EXPIRE ACCOUNT LOCK", "{u}", PASSWORD, Plain, "4151", "3118"),
        ("109", "{pw}", "'{u}'", PASSWORD, Plain, "{u}@%", "{u}@%"),
        ("110", "{pw}", "{u} ", PASSWORD, Plain, "1045 YES", "1045 YES"),
    ]
};

/// The same users once a setting of the server is another one.
const WITH_SECURE_TRANSPORT: &[OfCredentials] = &[
    ("96", "", "c84", PASSWORD, Door::Plain, "1045 YES", "3159"),
    ("97", "", "c84", "wrong", Door::Plain, "1045 YES", "1045 YES"),
    ("98", "", "c84", PASSWORD, Door::Socket, "c84@%", "c84@%"),
];
/// From `MariaDB` 11.4 on, which says so before it looks at the password.
const WITH_SECURE_TRANSPORT_FIRST: &[OfCredentials] = &[
    ("96", "", "c84", PASSWORD, Door::Plain, "3159", "-"),
    ("97", "", "c84", "wrong", Door::Plain, "3159", "-"),
    ("98, first", "", "c84", PASSWORD, Door::Socket, "c84@%", "-"),
];
const WITHOUT_SANDBOX: &[OfCredentials] =
    &[("99, no sandbox", "", "{u}", PASSWORD, Door::Plain, "1862", "-")];

/// One login without PROXY headers: number, statements, and what comes of it directly and through Spillway.
type OfHosts = (&'static str, &'static str, &'static str, &'static str);

const MASKED: &[OfHosts] = &[
    ("127", "CREATE USER {u}@'127.0.0.40' {pw}", "1045 YES", "1045 YES"),
    (
        "128",
        "CREATE USER {u}@'127.0.0.5' {pw}, {u}@'127.0.0.40' {pw}; GRANT SELECT ON app.* TO {u}@'127.0.0.5'; \
         GRANT ALL ON *.* TO {u}@'127.0.0.40'",
        "{u}@127.0.0.5 reads",
        "1045 YES",
    ),
    ("129", "CREATE USER {u}@'127.0.0.5' {pw}, {u}@'127.0.0.40' {pw}", "{u}@127.0.0.5", "1045 YES"),
    ("130", "CREATE USER {u}@'%' {pw}", "{u}@%", "{u}@%"),
    ("131", "CREATE USER {u}@'%' {pw}, {u}@'127.0.0.%' {pw}", "{u}@127.0.0.%", "{u}@127.0.0.%"),
    ("132", "CREATE USER {u}@'%' {pw} ACCOUNT LOCK; CREATE USER {u}@'127.0.0.40' {pw}", "locked", "locked"),
    (
        "133",
        "CREATE USER {u}@'%' {pw} REQUIRE X509; CREATE USER {u}@'127.0.0.40' {pw}",
        "1045 YES",
        "1045 YES",
    ),
    (
        "134",
        "CREATE USER {u}@'%' {pw}; \
         INSERT INTO mysql.db (Host, Db, User, Select_priv) VALUES ('127.0.0.40', 'app', '{u}', 'Y')",
        "{u}@%",
        "1045 YES",
    ),
];

/// The user of a case: of another number, where it has more words; of the same, where they follow a comma.
fn user(number: &str) -> String {
    let own = number.split(',').next().unwrap_or_default();
    format!("c{}", own.replace(' ', ""))
}

/// A text of a table for the case of this number.
fn filled(text: &str, number: &str, make: Make) -> String {
    let user = user(number);
    let role_of = if make == Make::MySql { "{r} TO" } else { "{r} FOR" };
    text.replace("{r} FOR", role_of)
        .replace("{r}", &format!("r{}", &user[1..]))
        .replace("{u}", &user)
        .replace("{pw}", &format!("IDENTIFIED BY '{PASSWORD}'"))
}

/// All cases, on one server.
pub(crate) fn all(mut stage: Stage) -> Verdict {
    let mut failures = Vec::new();
    if let Err(failure) = in_turn(&mut stage, &mut failures) {
        failures.push(failure);
    }
    ensure!(failures.is_empty(), "\n{}", failures.join("\n"));
    Ok(())
}

fn in_turn(stage: &mut Stage, failures: &mut Vec<String>) -> Verdict {
    let make = stage.server.make;
    let of_make = if make == Make::MySql { DATABASES_OF_MYSQL } else { DATABASES_OF_MARIADB };
    let mut of_version = of_make.to_vec();
    if stage.server.is_mariadb_at_least((10, 11))? {
        of_version.extend(DATABASES_OF_PUBLIC);
    }
    make_accounts(stage, &of_version)?;
    databases(stage, DATABASES, failures);
    databases(stage, &of_version, failures);
    credentials(stage, CREDENTIALS, failures);
    masked(stage, failures)?;
    exchanges(stage, failures)?;
    if make == Make::MySql {
        of_mysql_alone(stage, failures)?;
    } else {
        of_mariadb_alone(stage, failures);
    }
    stale_accounts(stage)?;
    settings(stage, failures)?;
    everybody_at_the_address_of_spillway(stage, failures)
}

/// Every account that a table needs.
fn make_accounts(stage: &Stage, of_make: &[OfDatabase]) -> Verdict {
    let make = stage.server.make;
    let mut script = String::from(
        "CREATE DATABASE app; CREATE DATABASE ap_; CREATE TABLE app.t (c INT); CREATE PROCEDURE app.p() SELECT 1;\n",
    );
    let numbered = DATABASES.iter().chain(of_make).map(|&(number, more, ..)| (number, more));
    let of_databases =
        numbered.map(|(number, more)| (number, format!("CREATE USER {{u}}@'%' {{pw}}; {more}")));
    let of_credentials =
        CREDENTIALS.iter().map(|&(number, options, ..)| (number, format!("CREATE USER {{u}}@'%' {options}")));
    let of_hosts = MASKED.iter().map(|&(number, statements, ..)| (number, statements.to_owned()));
    for (number, statements) in of_databases.chain(of_credentials).chain(of_hosts) {
        let _ = writeln!(script, "{};", filled(&statements, number, make));
    }
    script.push_str("FLUSH PRIVILEGES");
    stage.server.sql(&script)?;
    stage.spillway.reload_accounts()
}

// === logins ===

fn ways(stage: &Stage) -> Ways {
    Ways { direct: stage.server.port, proxied: stage.port }
}

/// A login at the port of the server or of Spillway, or at the socket that belongs to it.
fn login(stage: &Stage, port: u16, door: Door, who: Credentials<'_>) -> Outcome<Login> {
    let through = port == stage.port;
    let who = Credentials { on_socket: door == Door::Socket, ..who };
    if door != Door::Socket {
        let tls = (door == Door::Tls).then(|| Arc::clone(&stage.clients[usize::from(through)]));
        return raw::login(port, &Credentials { tls, ..who });
    }
    let path = if through { stage.socket.clone() } else { stage.server.socket() };
    let stream = UnixStream::connect(path).map_err(|e| e.to_string())?;
    raw::login_over(TcpStream::from(OwnedFd::from(stream)), &who)
}

/// What came of a login in the words of the tables.
fn came(login: Login) -> Outcome<String> {
    let mut session = match login {
        Err(refusal) => return Ok(words(&refusal)),
        Ok(session) => session,
    };
    let reply = session.query("SELECT CURRENT_USER()")?;
    if let Ok(refusal) = Refusal::parse(&reply[0]) {
        return Ok(format!("{} within", refusal.code));
    }
    let reads = session.query("SELECT c FROM app.t")?[0].first() != Some(&0xff);
    Ok(first_value(&reply)? + if reads { " reads" } else { "" })
}

fn words(refusal: &Refusal) -> String {
    match (refusal.code, refusal.message.split_once("(using password: ")) {
        (4151 | 3118, _) => refusal.code.to_string(),
        (code, Some((_, used))) => format!("{code} {}", used.trim_end_matches(')')),
        (code, None) => code.to_string(),
    }
}

/// Notes where the server or Spillway does not do what the table says.
fn compare(
    number: &str,
    (directly, through): (&str, &str),
    ways: Ways,
    failures: &mut Vec<String>,
    attempt: impl Fn(u16) -> Outcome<String>,
) {
    for (what, port, expected) in
        [("directly", ways.direct, directly), ("through Spillway", ways.proxied, through)]
    {
        let seen = attempt(port);
        if seen.as_deref() != Ok(expected) {
            failures.push(format!("case {number} {what}: {seen:?} instead of {expected:?}"));
        }
    }
}

fn of(make: Make, mariadb: &'static str, mysql: &'static str) -> &'static str {
    if make == Make::MySql { mysql } else { mariadb }
}

fn databases(stage: &Stage, cases: &[OfDatabase], failures: &mut Vec<String>) {
    let make = stage.server.make;
    for &(number, _, schema, mariadb, mysql) in cases {
        let expected = filled(of(make, mariadb, mysql), number, make);
        let user = user(number);
        compare(number, (&expected, &expected), ways(stage), failures, |port| {
            let who = Credentials::new(&user, PASSWORD, Some(schema)).from(CLIENT);
            came(login(stage, port, Door::Plain, who)?)
        });
        match explained(stage, &user, schema) {
            Ok(said) if said == expected.trim_end_matches(" reads") => {}
            said => {
                failures.push(format!("case {number} in explain login: {said:?} instead of {expected:?}"));
            }
        }
    }
}

/// The account or the error in the verdict of `explain login`.
fn explained(stage: &Stage, user: &str, schema: &str) -> Outcome<String> {
    let schema = schema.replace(' ', "%20");
    let answer =
        stage.spillway.get(&format!("/v1/explain/login?user={user}&address={CLIENT}&database={schema}"))?;
    let steps = answer["steps"].as_array().ok_or_else(|| answer.to_string())?;
    let verdict = steps.iter().rfind(|step| step["step"] == "verdict").ok_or_else(|| answer.to_string())?;
    let verdict = verdict["text"].as_str().unwrap_or_default();
    let word = |behind: &str| {
        let (_, rest) = verdict.split_once(behind)?;
        rest.split_whitespace().next().map(str::to_owned)
    };
    word("the client is told error ").or_else(|| word("let in as ")).ok_or_else(|| answer.to_string())
}

fn credentials(stage: &Stage, cases: &[OfCredentials], failures: &mut Vec<String>) {
    let make = stage.server.make;
    for &(number, _, name, password, door, mariadb, mysql) in cases {
        let expected = filled(of(make, mariadb, mysql), number, make);
        let through = match number {
            // A name in quotes is the one that Spillway refuses although the server strips them.
            "109" => "1045 YES",
            // By a socket of Spillway a client comes to the server as by TCP from Spillway's address.
            "98" => of(make, "1045 YES", "3159"),
            "98, first" => "3159",
            _ => &expected,
        };
        let user = filled(name, number, make);
        compare(number, (&expected, through), ways(stage), failures, |port| {
            came(login(stage, port, door, Credentials::new(&user, password, None).from(CLIENT))?)
        });
    }
}

fn masked(stage: &Stage, failures: &mut Vec<String>) -> Verdict {
    let make = stage.server.make;
    for &(number, _, directly, through) in MASKED {
        let [directly, through] = [directly, through]
            .map(|text| filled(text, number, make).replace("locked", of(make, "4151", "3118")));
        let user = user(number);
        compare(number, (&directly, &through), ways(stage), failures, |port| {
            came(login(stage, port, Door::Plain, Credentials::new(&user, PASSWORD, None).from(CLIENT))?)
        });
    }
    // Case 138: who is on Spillway's own machine is not on the server's.
    let statement = format!("CREATE USER c138@localhost IDENTIFIED BY '{PASSWORD}'");
    stage.server.sql(&statement)?;
    stage.spillway.reload_accounts()?;
    for door in [Door::Plain, Door::Socket] {
        let expected = if door == Door::Socket { "c138@localhost" } else { "1045 YES" };
        compare("138", (expected, "1045 YES"), ways(stage), failures, |port| {
            came(login(stage, port, door, Credentials::new("c138", PASSWORD, None))?)
        });
    }
    Ok(())
}

/// Case 135: `''@'127.0.0.40'` concerns everybody who comes through Spillway, and so comes last.
fn everybody_at_the_address_of_spillway(stage: &Stage, failures: &mut Vec<String>) -> Verdict {
    stage.server.sql(&format!("CREATE USER ''@'{SPILLWAY}'"))?;
    stage.spillway.reload_accounts()?;
    compare("135", ("c130@%", "1045 YES"), ways(stage), failures, |port| {
        came(login(stage, port, Door::Plain, Credentials::new("c130", PASSWORD, None).from(CLIENT))?)
    });
    Ok(())
}

// === exchanges ===

/// A session of an account of the tables.
fn session(stage: &Stage, port: u16, user: &str) -> Outcome<Raw> {
    login(stage, port, Door::Plain, Credentials::new(user, PASSWORD, None).from(CLIENT))?
        .map_err(|refusal| format!("{user}: {refusal:?}"))
}

fn exchanges(stage: &Stage, failures: &mut Vec<String>) -> Verdict {
    let make = stage.server.make;
    let locked = of(make, "4151", "3118");
    let said = ways(stage).agree("case 112", |port| {
        let mut session = session(stage, port, "c84")?;
        let refusal = session.change_user("c89", PASSWORD, "")?.err().ok_or("a locked account is let in")?;
        Ok(words(&refusal))
    })?;
    same!(said, locked, "case 112");
    // MariaDB answers for ever, Spillway once; MySQL has enough of the first.
    let again = (of(make, "1045 1045 1045 1047 1047", "1045"), of(make, "1045 1045 1045 1047", "1045"));
    compare("112, again and again", again, ways(stage), failures, |port| {
        let mut session = session(stage, port, "c84")?;
        let mut said = Vec::new();
        for _ in 0..5 {
            match session.change_user("c84", "wrong", "")? {
                Ok(()) => said.push("in".to_owned()),
                Err(refusal) => said.push(refusal.code.to_string()),
            }
            if session.is_closed() {
                break;
            }
        }
        Ok(said.join(" "))
    });
    let other = if make == Make::MySql { Plugin::Native } else { Plugin::CachingSha2 };
    compare("116", ("c84@%", "c84@%"), ways(stage), failures, |port| {
        let who = Credentials { plugin: Some(other), ..Credentials::new("c84", PASSWORD, None) };
        came(login(stage, port, Door::Plain, who.from(CLIENT))?)
    });
    let not_loaded = of(
        make,
        "UPDATE mysql.global_priv SET Priv = JSON_SET(Priv, '$.plugin', 'nosuch') WHERE User = 'c108'",
        "UPDATE mysql.user SET plugin = 'nosuch' WHERE User = 'c108'",
    );
    stage
        .server
        .sql(&format!("CREATE USER c108@'%' IDENTIFIED BY '{PASSWORD}'; {not_loaded}; FLUSH PRIVILEGES"))?;
    stage.spillway.reload_accounts()?;
    compare("108", ("1524", "1045 YES"), ways(stage), failures, |port| {
        came(login(stage, port, Door::Plain, Credentials::new("c108", PASSWORD, None).from(CLIENT))?)
    });
    // Neither before nor longer: who has no account that can be verified is asked by the plugin of any other account.
    let (ed25519, plugin) = of_ed25519(make);
    stage.server.sql(&format!("{plugin}; CREATE USER c117@'%' IDENTIFIED {ed25519}; FLUSH PRIVILEGES"))?;
    stage.spillway.reload_accounts()?;
    compare("117", ("1251", "1251"), ways(stage), failures, |port| {
        let who = Credentials::new("c117", PASSWORD, None).without(capability::PLUGIN_AUTH);
        came(login(stage, port, Door::Plain, who.from(CLIENT))?)
    });
    stage.server.sql("DROP USER c117@'%'")?;
    stage.spillway.reload_accounts()?;
    Ok(())
}

/// How an account is identified by another plugin than the one of a client of old, and what that plugin needs.
fn of_ed25519(make: Make) -> (String, &'static str) {
    match make {
        Make::MariaDb => {
            (format!("VIA ed25519 USING PASSWORD('{PASSWORD}')"), "INSTALL SONAME 'auth_ed25519'")
        }
        Make::MySql => (format!("BY '{PASSWORD}'"), "DO 0"),
    }
}

fn of_mariadb_alone(stage: &Stage, failures: &mut Vec<String>) {
    compare("115", ("1043", "1043"), ways(stage), failures, |port| {
        let who = Credentials { cut: 1, ..Credentials::new("c84", PASSWORD, None) };
        came(login(stage, port, Door::Plain, who.from(CLIENT))?)
    });
    compare("117, native", ("c84@%", "c84@%"), ways(stage), failures, |port| {
        let who = Credentials::new("c84", PASSWORD, None).without(capability::PLUGIN_AUTH);
        came(login(stage, port, Door::Plain, who.from(CLIENT))?)
    });
}

fn of_mysql_alone(stage: &Stage, failures: &mut Vec<String>) -> Verdict {
    stage.server.sql(&format!(
        "CREATE USER c106@'%' IDENTIFIED BY 'old'; ALTER USER c106@'%' IDENTIFIED BY 'new' RETAIN CURRENT PASSWORD; \
         INSTALL PLUGIN auth_socket SONAME 'auth_socket.so'; CREATE USER c111@'%' IDENTIFIED WITH auth_socket; \
         CREATE USER c113@'%' IDENTIFIED BY '{PASSWORD}'; CREATE USER c114@'%' IDENTIFIED BY '{PASSWORD}'"
    ))?;
    stage.spillway.reload_accounts()?;
    for (password, expected) in [("old", "c106@%"), ("new", "c106@%"), ("older", "1045 YES")] {
        compare("106", (expected, expected), ways(stage), failures, |port| {
            came(login(stage, port, Door::Plain, Credentials::new("c106", password, None).from(CLIENT))?)
        });
    }
    // Some clients send a password to whoever asks for it, for all to read.
    stage.server.sql(&format!("CREATE USER c113b@'%' IDENTIFIED BY '{PASSWORD}'"))?;
    stage.spillway.reload_accounts()?;
    compare("113, in the clear", ("1045 YES", "1045 YES"), ways(stage), failures, |port| {
        let who = Credentials { on_socket: true, ..Credentials::new("c113b", PASSWORD, None) };
        came(raw::login(port, &who.from(CLIENT))?)
    });
    compare("111", ("1698", "1698"), ways(stage), failures, |port| {
        came(login(stage, port, Door::Plain, Credentials::new("c111", PASSWORD, None).from(CLIENT))?)
    });
    ways(stage).agree("case 113", |port| {
        let mut client = mysql::client()?;
        client.args(["--no-defaults", "--protocol=tcp", "--host=127.0.0.1", "--ssl-mode=DISABLED", "-uc113"]);
        client.args([&format!("--port={port}"), &format!("--password={PASSWORD}"), "--execute=SELECT 1"]);
        let printed = run_with_input(&mut client, b"")?;
        ensure!(printed.errors.contains("ERROR 2061"), "{printed:?}");
        Ok(())
    })?;
    ways(stage).agree("case 114", |port| {
        let mut said = Vec::new();
        for forgotten in [false, true] {
            if forgotten {
                stage.server.sql("FLUSH PRIVILEGES")?;
            }
            for _ in 0..2 {
                said.push(session(stage, port, "c114")?.way);
            }
        }
        same!(said[1..], [Way::Cache, Way::PublicKey, Way::Cache], "case 114");
        Ok(())
    })?;
    Ok(())
}

/// Cases 136 and 137: the server has dropped an account or changed its password, and Spillway was not told.
fn stale_accounts(stage: &Stage) -> Verdict {
    stage.server.sql(&format!(
        "CREATE USER c136@'%' IDENTIFIED BY '{PASSWORD}'; CREATE USER c137@'%' IDENTIFIED BY '{PASSWORD}'"
    ))?;
    stage.spillway.reload_accounts()?;
    for (user, statement) in
        [("c136", "DROP USER c136@'%'"), ("c137", "ALTER USER c137@'%' IDENTIFIED BY 'another'")]
    {
        // What it leaves is a link that another session could have.
        session(stage, stage.port, user)?.command(&[1])?;
        stage.server.sql(statement)?;
        let again = |port| {
            came(login(stage, port, Door::Plain, Credentials::new(user, PASSWORD, None).from(CLIENT))?)
        };
        same!(again(stage.server.port)?, "1045 YES", "{user} directly");
        same!(again(stage.port)?, "1045 YES", "{user} through Spillway");
    }
    // At most once in a while: the accounts were just read.
    wait_for("case 136: the accounts are read again", PATIENCE, || {
        login(stage, stage.port, Door::Plain, Credentials::new("c136", PASSWORD, None).from(CLIENT))?.err();
        let answer = stage.spillway.ask(&format!("explain login c136 {CLIENT}"))?;
        if answer.contains("let in") { Err(answer) } else { Ok(()) }
    })
}

// === settings of the server ===

fn settings(stage: &mut Stage, failures: &mut Vec<String>) -> Verdict {
    let of_mysql = stage.server.make == Make::MySql;
    let set = |stage: &Stage, statement: &str| {
        stage.server.sql(statement)?;
        stage.spillway.reload_accounts()
    };
    set(stage, "SET GLOBAL require_secure_transport = ON")?;
    let first = stage.server.is_mariadb_at_least((11, 4))?;
    credentials(stage, if first { WITH_SECURE_TRANSPORT_FIRST } else { WITH_SECURE_TRANSPORT }, failures);
    set(stage, "SET GLOBAL require_secure_transport = OFF")?;
    if of_mysql {
        handles_expired_passwords(stage)?;
        set(stage, "SET GLOBAL activate_all_roles_on_login = ON")?;
        databases(stage, WITH_ALL_ROLES, failures);
        set(stage, "SET GLOBAL activate_all_roles_on_login = OFF; SET GLOBAL mandatory_roles = 'r77'")?;
        databases(stage, WITH_MANDATORY_ROLE, failures);
        set(stage, "SET GLOBAL mandatory_roles = 'nosuch,r77,r76'")?;
        databases(stage, WITH_MANDATORY_ROLES, failures);
        set(stage, "SET GLOBAL activate_mandatory_roles = OFF")?;
        databases(stage, WITH_INACTIVE_ROLES, failures);
        let revoke = "REVOKE SELECT ON app.* FROM c80@'%'";
        let partial = "SET GLOBAL activate_mandatory_roles = ON; SET GLOBAL mandatory_roles = ''; \
                       SET GLOBAL partial_revokes = ON";
        set(stage, &format!("{partial}; {revoke}; FLUSH PRIVILEGES"))?;
        databases(stage, WITH_PARTIAL_REVOKES, failures);
        return Ok(());
    }
    set(stage, "SET GLOBAL disconnect_on_expired_password = ON")?;
    credentials(stage, WITHOUT_SANDBOX, failures);
    handles_expired_passwords(stage)?;
    stage.server.stop()?;
    stage.server.start(&["--lower-case-table-names=1"])?;
    wait_for("the node after its restart", PATIENCE, || {
        stage.spillway.ask("reload accounts")?;
        session(stage, stage.port, "c84").map(drop)
    })?;
    databases(stage, WITH_LOWER_CASE_NAMES, failures);
    Ok(())
}

/// Case 100: a client that knows what to do with an expired password.
fn handles_expired_passwords(stage: &Stage) -> Verdict {
    let came = ways(stage).agree("case 100", |port| {
        let who = Credentials::new("c99", PASSWORD, None).with(capability::CAN_HANDLE_EXPIRED_PASSWORDS);
        came(login(stage, port, Door::Plain, who.from(CLIENT))?)
    })?;
    same!(came, "1820 within", "case 100");
    Ok(())
}
