//! `MySQL` 9.7 itself: what the other tests take for granted about it, and that the tests' own client can log in.

use crate::harness::mysql::MONITOR_TABLES;
use crate::harness::process::run;
use crate::harness::proxy::Spillway;
use crate::harness::server::{MONITOR_PASSWORD, MONITOR_USER};
use crate::harness::workspace::{self, free_port};
use crate::lab::{self, PASSWORD};
use crate::proof::{Plugin, Way};
use crate::raw::{self, Credentials, Refusal, first_value};
use crate::tls::Authority;
use crate::{Verdict, ensure, mysql_trial, same};
use libtest_mimic::Trial;
use rustls::ClientConfig;
use rustls::version::TLS13;
use std::sync::Arc;

pub(crate) fn trials() -> Vec<Trial> {
    vec![
        mysql_trial("mysql::version_and_plugins", version_and_plugins),
        mysql_trial("mysql::cold_and_warm_cache_in_plain_text", || cold_and_warm_cache("plain", false)),
        mysql_trial("mysql::cold_and_warm_cache_over_tls", || cold_and_warm_cache("secret", true)),
        mysql_trial("mysql::cold_and_warm_cache_through_spillway", || {
            caches_of_spillway_and_node("throughplain", false)
        }),
        mysql_trial("mysql::cold_and_warm_cache_through_spillway_over_tls", || {
            caches_of_spillway_and_node("throughsecret", true)
        }),
        mysql_trial("mysql::client_that_names_another_plugin", client_that_names_another_plugin),
        mysql_trial("mysql::empty_password", empty_password),
        mysql_trial("mysql::change_user", change_user),
        mysql_trial("mysql::monitor_account", monitor_account),
        mysql_trial("mysql::logins_through_spillway", logins_through_spillway),
        mysql_trial("mysql::logins_through_spillway_over_tls", logins_through_spillway_over_tls),
        mysql_trial("mysql::refusals_through_spillway", refusals_through_spillway),
        mysql_trial(
            "mysql::wrong_passwords_are_counted_by_the_server",
            wrong_passwords_are_counted_by_the_server,
        ),
    ]
}

/// An account that the server has not seen a password of, with rights on `lab`.
fn account(name: &str, password: &str) -> Verdict {
    lab::mysql()?
        .server
        .sql(&format!("CREATE USER {name}@'%' IDENTIFIED BY '{password}'; GRANT ALL ON lab.* TO {name}@'%'"))
        .map(drop)
}

fn version_and_plugins() -> Verdict {
    let server = &lab::mysql()?.server;
    let version = server.sql("SELECT VERSION()")?;
    ensure!(version.starts_with("9."), "version {version}");
    let session = raw::login(server.port, &Credentials::new(MONITOR_USER, MONITOR_PASSWORD, None))?
        .map_err(|refusal| format!("{refusal:?}"))?;
    same!(session.version, version, "version in the greeting");
    same!(session.default_plugin, Plugin::CachingSha2.name(), "plugin in the greeting");
    let native =
        "SELECT COUNT(*) FROM information_schema.PLUGINS WHERE PLUGIN_NAME = 'mysql_native_password'";
    same!(server.sql(native)?, "0", "mysql_native_password among the plugins");
    let created = server.sql("CREATE USER native@'%' IDENTIFIED WITH mysql_native_password BY 'x'");
    let refused = created.err().ok_or("an account by mysql_native_password was made")?;
    ensure!(refused.contains("1524"), "{refused}");
    Ok(())
}

/// The first login sends the password itself, later ones find it in the server's cache; a changed account is new again. A
/// wrong password is refused either way, and does not spoil the cache.
fn cold_and_warm_cache(user: &str, tls: bool) -> Verdict {
    let lab = lab::mysql()?;
    let tls = tls.then(|| Arc::clone(&lab.client));
    account(user, PASSWORD)?;
    let _memory = lab.remembers();
    cold_and_warm(user, lab.server.port, tls.as_ref(), &|| Ok(()))
}

/// The same through Spillway; and where the node alone has forgotten the account, the client is asked for its password.
fn caches_of_spillway_and_node(user: &str, tls: bool) -> Verdict {
    let authority = Authority::new("mysql-caches")?;
    let lines = if tls { tls_lines(&format!("spillway-{user}-tls"), &authority)? } else { String::new() };
    let (spillway, port) = spillway(&format!("spillway-{user}"), &lines)?;
    let tls = if tls { Some(authority.trusted_by(&TLS13, None)?) } else { None };
    account(user, PASSWORD)?;
    let reload = || spillway.reload_accounts();
    reload()?;
    let lab = lab::mysql()?;
    let memory = lab.remembers();
    cold_and_warm(user, port, tls.as_ref(), &reload)?;
    let server = &lab.server;
    server.sql(&format!("ALTER USER {user}@'%' IDENTIFIED BY '{PASSWORD}'"))?;
    reload()?;
    let login = |password: &str| -> Result<Result<Way, u16>, String> {
        let tls = tls.clone();
        let login = raw::login(port, &Credentials { tls, ..Credentials::new(user, password, Some("lab")) })?;
        Ok(login.map(|session| session.way).map_err(|refusal| refusal.code))
    };
    let cold = if tls.is_some() { Way::Cleartext } else { Way::PublicKey };
    same!((login(PASSWORD)?, login(PASSWORD)?), (Ok(cold), Ok(Way::Cache)), "a changed password");
    drop(memory);
    let _memory = lab.forgets("DO 1")?;
    same!((login(PASSWORD)?, login(PASSWORD)?), (Ok(cold), Ok(Way::Cache)), "the node forgot");
    let mut session =
        raw::login(port, &Credentials { tls: tls.clone(), ..Credentials::new(user, PASSWORD, None) })?
            .map_err(|refusal| format!("{refusal:?}"))?;
    for _ in 0..2 {
        ensure!(session.change_user(user, PASSWORD, "lab")?.is_ok(), "COM_CHANGE_USER");
        same!(session.way, Way::Cache, "COM_CHANGE_USER");
        same!(first_value(&session.query("SELECT word FROM greeting")?)?, "hello", "a row");
    }
    same!(session.change_user(user, "wrong", "lab")?.map_err(|refusal| refusal.code), Err(1045), "wrong");
    ensure!(!spillway.log().contains(PASSWORD), "a password in the log");
    Ok(())
}

fn cold_and_warm(
    user: &str,
    port: u16,
    tls: Option<&Arc<ClientConfig>>,
    changed: &dyn Fn() -> Verdict,
) -> Verdict {
    let server = &lab::mysql()?.server;
    let login = |password: &str| {
        let tls = tls.cloned();
        let login = raw::login(port, &Credentials { tls, ..Credentials::new(user, password, Some("lab")) })?;
        match login {
            Ok(mut session) => {
                let word = first_value(&session.query("SELECT word FROM greeting")?)?;
                same!(word, "hello", "first row");
                Ok(Ok(session.way))
            }
            Err(refusal) => Ok(Err(refusal.code)),
        }
    };
    let cold = if tls.is_some() { Way::Cleartext } else { Way::PublicKey };
    same!(login("wrong")?, Err(1045), "wrong password, cold cache");
    same!(login(PASSWORD)?, Ok(cold), "cold cache");
    same!(login(PASSWORD)?, Ok(Way::Cache), "warm cache");
    same!(login("wrong")?, Err(1045), "wrong password, warm cache");
    same!(login(PASSWORD)?, Ok(Way::Cache), "still warm");
    server.sql(&format!("ALTER USER {user}@'%' IDENTIFIED BY 'another-secret'"))?;
    changed()?;
    same!(login(PASSWORD)?, Err(1045), "the old password");
    same!(login("another-secret")?, Ok(cold), "cold cache once more");
    same!(login("another-secret")?, Ok(Way::Cache), "warm cache once more");
    // Longer than the scramble that masks it.
    let long = "long".repeat(20);
    server.sql(&format!("ALTER USER {user}@'%' IDENTIFIED BY '{long}'"))?;
    changed()?;
    same!(login(&long)?, Ok(cold), "a long password, cold cache");
    same!(login(&long)?, Ok(Way::Cache), "a long password, warm cache");
    Ok(())
}

fn client_that_names_another_plugin() -> Verdict {
    let port = lab::mysql()?.server.port;
    account("switched", PASSWORD)?;
    let who = Credentials { plugin: Some(Plugin::Native), ..Credentials::new("switched", PASSWORD, None) };
    let _memory = lab::mysql()?.remembers();
    for way in [Way::PublicKey, Way::Cache] {
        let session = raw::login(port, &who)?.map_err(|refusal| format!("{refusal:?}"))?;
        same!(session.way, way, "after the switch");
    }
    Ok(())
}

fn empty_password() -> Verdict {
    let port = lab::mysql()?.server.port;
    account("open", "")?;
    let session = raw::login(port, &Credentials::new("open", "", Some("lab")))?;
    same!(session.map_err(|refusal| format!("{refusal:?}"))?.way, Way::Answer, "an empty password");
    let refusal = raw::login(port, &Credentials::new("open", "something", None))?.err();
    same!(refusal.map(|refusal| refusal.code), Some(1045), "a password where there is none");
    Ok(())
}

fn change_user() -> Verdict {
    let port = lab::mysql()?.server.port;
    account("early", PASSWORD)?;
    account("late", PASSWORD)?;
    let _memory = lab::mysql()?.remembers();
    let mut session = raw::login(port, &Credentials::new("early", PASSWORD, None))?
        .map_err(|refusal| format!("{refusal:?}"))?;
    for way in [Way::PublicKey, Way::Cache] {
        session.change_user("late", PASSWORD, "lab")?.map_err(|refusal| format!("{refusal:?}"))?;
        same!(session.way, way, "after the change");
        let user = first_value(&session.query("SELECT CURRENT_USER()")?)?;
        same!(user, "late@%", "current user");
    }
    Ok(())
}

/// The monitor account reads what Spillway needs and nothing beside it.
fn monitor_account() -> Verdict {
    let port = lab::mysql()?.server.port;
    let mut session = raw::login(port, &Credentials::new(MONITOR_USER, MONITOR_PASSWORD, None))?
        .map_err(|refusal| format!("{refusal:?}"))?;
    for table in MONITOR_TABLES {
        let count = first_value(&session.query(&format!("SELECT COUNT(*) FROM mysql.{table}"))?)?;
        ensure!(count.parse::<u32>().is_ok(), "{table}: {count}");
    }
    let reply = session.query("SHOW REPLICA STATUS")?;
    ensure!(reply[0].first() != Some(&0xff), "{reply:?}");
    let databases = session.query("SHOW DATABASES")?;
    ensure!(databases.iter().any(|row| row.ends_with(b"lab")), "{databases:?}");
    let denied = session.query("SELECT * FROM lab.greeting")?;
    same!(Refusal::parse(&denied[0])?.code, 1142, "a table that is none of its business");
    Ok(())
}

/// A Spillway in front of the shared server, and its port.
pub(crate) fn spillway(name: &str, service: &str) -> Result<(Spillway, u16), String> {
    let port = free_port()?;
    let nodes = format!("{{ solo = \"{}\" }}", lab::mysql()?.server.address());
    let configuration = lab::cluster_toml("lab", "static", &nodes)
        + &lab::service_toml("lab", port, &format!("route = \"cluster:lab\"\n{service}"));
    Ok((Spillway::start(lab::binary(), name, &configuration)?, port))
}

/// Nothing that a client is told, sees or does differs from the server itself.
fn logins_through_spillway() -> Verdict {
    let (spillway, port) = spillway("spillway-mysql", "")?;
    account("through", PASSWORD)?;
    lab::mysql()?.server.sql("CREATE USER throughempty@'%'; GRANT ALL ON lab.* TO throughempty@'%'")?;
    spillway.reload_accounts()?;
    for (user, password) in [("through", PASSWORD), ("throughempty", ""), ("through", PASSWORD)] {
        let login = raw::login(port, &Credentials::new(user, password, Some("lab")))?;
        let mut session = login.map_err(|refusal| format!("{user}: {refusal:?}\n{}", spillway.log()))?;
        ensure!(session.version.starts_with("9."), "version {}", session.version);
        same!(first_value(&session.query("SELECT CURRENT_USER()")?)?, format!("{user}@%"), "the account");
        same!(first_value(&session.query("SELECT word FROM greeting")?)?, "hello", "a row");
        // Another one that logs in again on the same connection.
        ensure!(session.change_user("through", PASSWORD, "lab")?.is_ok(), "COM_CHANGE_USER");
        same!(first_value(&session.query("SELECT CURRENT_USER()")?)?, "through@%", "the new account");
    }
    // A client whose first packet is by another plugin.
    let native = Credentials { plugin: Some(Plugin::Native), ..Credentials::new("through", PASSWORD, None) };
    ensure!(raw::login(port, &native)?.is_ok(), "a client that begins with mysql_native_password");
    let log = spillway.log();
    ensure!(!log.contains(PASSWORD), "a password in the log");
    let mut check = std::process::Command::new(lab::binary());
    let printed = run(check.args(["check", "--live", "-c"]).arg(spillway.file()))?;
    ensure!(printed.contains("version 9."), "{printed}");
    Ok(())
}

/// The line of a service with a certificate of this authority.
fn tls_lines(name: &str, authority: &Authority) -> Result<String, String> {
    let issued = authority.server()?;
    let directory = workspace::directory(name)?;
    for (name, content) in [("tls.crt", &issued.certificate), ("tls.key", &issued.key)] {
        std::fs::write(directory.join(name), content).map_err(|e| e.to_string())?;
    }
    Ok(format!("tls = {{ certificate = \"{0}/tls.crt\", key = \"{0}/tls.key\" }}", directory.display()))
}

fn logins_through_spillway_over_tls() -> Verdict {
    let authority = Authority::new("mysql-front")?;
    let tls = tls_lines("mysql-front-tls", &authority)?;
    let (spillway, port) = spillway("spillway-mysql-tls", &tls)?;
    account("throughtls", PASSWORD)?;
    let _memory = lab::mysql()?.remembers();
    spillway.reload_accounts()?;
    let client = authority.trusted_by(&TLS13, None)?;
    for way in [Way::Cleartext, Way::Cache] {
        let tls = Some(Arc::clone(&client));
        let login =
            raw::login(port, &Credentials { tls, ..Credentials::new("throughtls", PASSWORD, Some("lab")) })?;
        let mut session = login.map_err(|refusal| format!("{refusal:?}\n{}", spillway.log()))?;
        same!(session.way, way, "the way of the password");
        same!(first_value(&session.query("SELECT CURRENT_USER()")?)?, "throughtls@%", "the account");
    }
    Ok(())
}

fn refusals_through_spillway() -> Verdict {
    let (spillway, port) = spillway("spillway-mysql-refusals", "")?;
    let server = &lab::mysql()?.server;
    server.sql(&format!(
        "CREATE USER refused@'%' IDENTIFIED BY '{PASSWORD}';
         CREATE USER refusedlocked@'%' IDENTIFIED BY '{PASSWORD}' ACCOUNT LOCK;
         CREATE USER refusedexpired@'%' IDENTIFIED BY '{PASSWORD}' PASSWORD EXPIRE;
         CREATE USER refusedtls@'%' IDENTIFIED BY '{PASSWORD}' REQUIRE SSL;
         CREATE USER refusedfar@'10.9.8.7' IDENTIFIED BY '{PASSWORD}';"
    ))?;
    spillway.reload_accounts()?;
    for (user, password, schema, code) in [
        ("refused", "wrong", None, 1045),
        ("refused", "", None, 1045),
        ("refused", PASSWORD, Some("lab"), 1044),
        ("refused", PASSWORD, Some("nosuch"), 1044),
        ("nobodyatall", PASSWORD, None, 1045),
        ("refusedlocked", PASSWORD, None, 3118),
        ("refusedlocked", "wrong", None, 1045),
        ("refusedexpired", PASSWORD, None, 1862),
        ("refusedtls", PASSWORD, None, 1045),
        ("refusedfar", PASSWORD, None, 1045),
    ] {
        let login = |port| -> Result<Refusal, String> {
            let login = raw::login(port, &Credentials::new(user, password, schema))?;
            login.err().ok_or_else(|| format!("{user} {password:?} {schema:?} is let in on {port}"))
        };
        let (direct, proxied) = (login(server.port)?, login(port)?);
        same!(direct.code, code, "{user} {password:?} {schema:?} directly: {direct:?}");
        same!(
            (proxied.code, &proxied.state, &proxied.message),
            (direct.code, &direct.state, &direct.message),
            "{user} {password:?} {schema:?}, Spillway and server"
        );
    }
    Ok(())
}

/// Case 104: a server that blocks an account after some wrong passwords does so for those that Spillway refused.
fn wrong_passwords_are_counted_by_the_server() -> Verdict {
    let (spillway, port) = spillway("spillway-mysql-counted", "")?;
    let _memory = lab::mysql()?.remembers();
    let server = &lab::mysql()?.server;
    server.sql(&format!(
        "CREATE USER counteddirect@'%' IDENTIFIED BY '{PASSWORD}' FAILED_LOGIN_ATTEMPTS 2 PASSWORD_LOCK_TIME 1;
         CREATE USER countedthrough@'%' IDENTIFIED BY '{PASSWORD}' FAILED_LOGIN_ATTEMPTS 2 PASSWORD_LOCK_TIME 1;"
    ))?;
    spillway.reload_accounts()?;
    let mut codes = Vec::new();
    for (user, port) in [("counteddirect", server.port), ("countedthrough", port)] {
        for password in ["wrong", "wrong", PASSWORD] {
            let login = raw::login(port, &Credentials::new(user, password, None))?;
            codes.push(login.err().map_or(0, |refusal| refusal.code));
        }
    }
    same!(codes[..3], codes[3..], "directly, and through Spillway");
    same!(codes[3..], [1045, 3955, 3955], "wrong, wrong, right");
    // Blocked there, too.
    let direct = raw::login(server.port, &Credentials::new("countedthrough", PASSWORD, None))?;
    same!(direct.err().map(|refusal| refusal.code), Some(3955), "the account on the server itself");
    Ok(())
}
