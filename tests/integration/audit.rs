//! What operators can learn of logins, and what becomes of sessions whose account changes.

use crate::harness::proxy::Spillway;
use crate::harness::server::Server;
use crate::harness::{Outcome, PATIENCE, wait_for};
use crate::lab::{self, PASSWORD};
use crate::raw::{self, Credentials, Raw, Refusal, first_value};
use crate::{Verdict, ensure, mysql_trial, same, trial};
use libtest_mimic::Trial;
use std::sync::{Arc, Barrier};
use std::time::Duration;

pub(crate) fn trials() -> Vec<Trial> {
    vec![
        trial("audit::explain_login", explain_login),
        trial("audit::show_permissiveness", show_permissiveness),
        trial("audit::new_accounts_are_known_at_once", new_accounts_are_known_at_once),
        trial(
            "audit::a_new_password_lets_all_in_that_come_at_once",
            a_new_password_lets_all_in_that_come_at_once,
        ),
        trial("audit::a_silent_cluster_holds_up_no_other_one", a_silent_cluster_holds_up_no_other_one),
        trial("audit::revoked_sessions_end", revoked_sessions_end),
        trial("audit::revoked_sessions_may_stay", revoked_sessions_may_stay),
        trial("audit::guessing_is_held_back", guessing_is_held_back),
        trial("audit::guesses_by_use_are_held_back", guesses_by_use_are_held_back),
        trial("audit::spraying_is_held_back", spraying_is_held_back),
        trial("audit::guesses_side_by_side", guesses_side_by_side),
        trial("audit::relayed_guesses_side_by_side", relayed_guesses_side_by_side),
        mysql_trial("audit::slow_guesses_side_by_side", slow_guesses_side_by_side),
    ]
}

fn session(port: u16, user: &str, password: &str) -> Result<Raw, String> {
    raw::login(port, &Credentials::new(user, password, None))?.map_err(|e| format!("{user}: {e:?}"))
}

fn explain_login() -> Verdict {
    let own = lab::private_solo("spillway-explain", "")?;
    for (command, words) in [
        (
            "explain login app 127.0.0.1",
            &["'app'@'%': chosen", "let in as app@% if the password is right"][..],
        ),
        ("explain login app 127.0.0.1 lab2", &["database", "db row", "let in as app@%"]),
        ("explain login app 127.0.0.1 closed", &["no privilege on database `closed`", "error 1044"]),
        ("explain login locked 127.0.0.1 --cluster lab", &["the account is locked", "error 4151"]),
        ("explain login nobody 127.0.0.1", &["no account matches", "error 1045"]),
        ("explain login far 10.9.8.7", &["'far'@'10.9.8.7': chosen", "grants differ by host", "error 1045"]),
        ("explain login far 127.0.0.1", &["'far'@'10.9.8.7': the host does not match"]),
        ("explain login secure 127.0.0.1", &["the account requires TLS", "error 1045"]),
        (
            "explain login secure 127.0.0.1 --transport tls",
            &["refused by the node", "links of this cluster have none"],
        ),
        ("explain login app socket", &["let in as app@%"]),
    ] {
        let answer = own.spillway.ask(command)?;
        for word in words {
            ensure!(answer.contains(word), "no {word:?} in the answer to {command:?}:\n{answer}");
        }
    }
    for wrong in [
        "explain login app",
        "explain login app 300.1.1.1",
        "explain login app 127.0.0.1 --cluster none",
        "explain login app 127.0.0.1 --nonsense x",
        "explain login app 127.0.0.1 --cluster",
    ] {
        let answer = own.spillway.ask(wrong)?;
        ensure!(answer.to_lowercase().contains("error"), "{wrong:?} is answered {answer:?}");
    }
    let answer = own.spillway.get("/v1/explain/login?user=app&address=127.0.0.1&database=lab")?;
    let steps = answer["steps"].as_array().cloned().unwrap_or_default();
    let last = steps.last().ok_or("no steps")?;
    same!(last["step"], "verdict", "{answer}");
    same!(last["text"], "let in as app@% if the password is right", "{answer}");
    Ok(())
}

fn show_permissiveness() -> Verdict {
    let own = lab::private_solo("spillway-permissiveness", "")?;
    let answer = own.spillway.get("/v1/permissiveness")?;
    let rows = answer["permissiveness"].as_array().cloned().unwrap_or_default();
    let of = |account: &str| rows.iter().find(|row| row["account"] == account);
    let far = of("far@10.9.8.7").ok_or_else(|| format!("far is not in {answer}"))?;
    ensure!(far["reason"].as_str().is_some_and(|r| r.contains("grants differ by host")), "{far}");
    same!(far["client"], "10.9.8.7", "{far}");
    let secure = of("secure@%").ok_or_else(|| format!("secure is not in {answer}"))?;
    ensure!(
        secure["reason"].as_str().is_some_and(|r| r.contains("links of this cluster have none")),
        "{secure}"
    );
    for account in ["app@%", "locked@%", "near@127.0.0.1", "noaccess@%"] {
        ensure!(of(account).is_none(), "{account} is in {answer}");
    }
    let table = own.spillway.ask("show permissiveness")?;
    ensure!(table.contains("far@10.9.8.7"), "{table}");
    Ok(())
}

/// A login that fails makes Spillway look again before it refuses.
fn new_accounts_are_known_at_once() -> Verdict {
    // Nothing but a login that fails makes it read them.
    let port = crate::harness::workspace::free_port()?;
    let configuration = lab::solo_toml(port, "")?
        .replace("kind = \"static\"", "kind = \"static\"\naccounts_refresh = \"0s\"");
    let _spillway = Spillway::start(lab::binary(), "spillway-doubt", &configuration)?;
    let server = &lab::solo()?.server;
    // It looks once in a second at most, and does not wait longer for what it reads; on a busy machine that may take longer.
    let enters = |password: &str| {
        wait_for("a look at the accounts", PATIENCE, || {
            std::thread::sleep(Duration::from_millis(1100));
            session(port, "newcomer", password).map(drop)
        })
    };
    server.sql(&format!("CREATE USER newcomer@'%' IDENTIFIED BY '{PASSWORD}'"))?;
    enters(PASSWORD)?;
    server.sql("ALTER USER newcomer@'%' IDENTIFIED BY 'another'")?;
    enters("another")?;
    server.sql("DROP USER newcomer@'%'").map(drop)
}

/// Such as those of an application's pool: the server would let in each of them.
fn a_new_password_lets_all_in_that_come_at_once() -> Verdict {
    let port = crate::harness::workspace::free_port()?;
    let configuration = lab::solo_toml(port, "[runtime.backoff]\nper_account = 0\nper_address = 0\n")?
        .replace("kind = \"static\"", "kind = \"static\"\naccounts_refresh = \"0s\"");
    let _spillway = Spillway::start(lab::binary(), "spillway-pool", &configuration)?;
    let server = &lab::solo()?.server;
    server.sql(&format!("CREATE USER pooled@'%' IDENTIFIED BY '{PASSWORD}'"))?;
    let mut round = 0;
    // On a busy machine a reading may take longer than a login waits for it.
    wait_for("a round in which all are let in", PATIENCE, || {
        round += 1;
        std::thread::sleep(Duration::from_millis(1100));
        server.sql(&format!("ALTER USER pooled@'%' IDENTIFIED BY 'new {round}'"))?;
        let together = Arc::new(Barrier::new(8));
        let logins: Vec<_> = (0..8)
            .map(|_| {
                let (together, password) = (Arc::clone(&together), format!("new {round}"));
                std::thread::spawn(move || {
                    together.wait();
                    session(port, "pooled", &password).map(drop)
                })
            })
            .collect();
        logins.into_iter().try_for_each(|login| login.join().map_err(|_| "a panic".to_owned())?)
    })?;
    server.sql("DROP USER pooled@'%'").map(drop)
}

/// The accounts of one cluster are read while the nodes of another one give no answer.
fn a_silent_cluster_holds_up_no_other_one() -> Verdict {
    let silent = Server::standalone("silent", &["--skip-name-resolve"])?;
    silent.create_monitor()?;
    let (port, other) = (crate::harness::workspace::free_port()?, crate::harness::workspace::free_port()?);
    let nodes = format!("{{ solo = \"{}\" }}", silent.address());
    let configuration = lab::solo_toml(port, "")?
        .replace("kind = \"static\"", "kind = \"static\"\naccounts_refresh = \"0s\"")
        + &lab::cluster_with("silent", "static", &nodes, "connect_timeout = \"60s\"")
        + &lab::service_toml("silent", other, "route = \"cluster:silent\"");
    let _spillway = Spillway::start(lab::binary(), "spillway-silent", &configuration)?;
    let server = &lab::solo()?.server;
    server.sql(&format!("CREATE USER patient@'%' IDENTIFIED BY '{PASSWORD}'"))?;
    silent.freeze(true)?;
    // Has the accounts of that cluster read again.
    let refused = session(other, "nobody", "wrong");
    let enters = wait_for("a look at the accounts", Duration::from_secs(20), || {
        std::thread::sleep(Duration::from_millis(1100));
        session(port, "patient", PASSWORD).map(drop)
    });
    silent.freeze(false)?;
    server.sql("DROP USER patient@'%'")?;
    ensure!(refused.is_err(), "anybody is let in");
    enters
}

fn revoked_sessions_end() -> Verdict {
    let own = lab::private_solo("spillway-revoked", "")?;
    let server = &lab::solo()?.server;
    for (user, statement, word) in [
        ("revoked1", "DROP USER revoked1@'%'", "dropped"),
        ("revoked2", "ALTER USER revoked2@'%' ACCOUNT LOCK", "locked"),
        ("revoked3", "ALTER USER revoked3@'%' IDENTIFIED BY 'another'", "another password"),
        ("revoked4", "RENAME USER revoked4@'%' TO revoked4@'10.1.1.1'", "renamed"),
    ] {
        server.sql(&format!("CREATE USER {user}@'%' IDENTIFIED BY '{PASSWORD}'"))?;
        own.spillway.reload_accounts()?;
        let mut ended = session(own.port, user, PASSWORD)?;
        let mut other = session(own.port, "app", PASSWORD)?;
        // More rights or fewer are no reason.
        server.sql(&format!("GRANT SELECT ON lab.* TO {user}@'%'"))?;
        own.spillway.reload_accounts()?;
        same!(first_value(&ended.query("SELECT 1")?)?, "1", "{user} after a GRANT");
        server.sql(statement)?;
        own.spillway.reload_accounts()?;
        let last = Refusal::parse(&ended.unasked_packet()?)?;
        same!(last.code, 1927, "{last:?}");
        ensure!(last.message.contains(word), "{last:?} after {statement}");
        ensure!(ended.is_closed(), "the session of {user} stays open");
        same!(first_value(&other.query("SELECT 1")?)?, "1", "the session of another account");
        server.sql(&format!("DROP USER IF EXISTS {user}@'%', {user}@'10.1.1.1'"))?;
    }
    wait_for("only the others", PATIENCE, || {
        let log = own.spillway.log();
        let count = log.matches("account_revoked").count();
        if count == 4 { Ok(()) } else { Err(format!("{count} sessions in the log:\n{log}")) }
    })
}

fn from(port: u16, user: &str, password: &str, address: [u8; 4]) -> Result<raw::Login, String> {
    raw::login(port, &Credentials::new(user, password, None).from(address.into()))
}

fn guessing_is_held_back() -> Verdict {
    let own = lab::private_solo(
        "spillway-guessing",
        "[runtime.backoff]\nper_account = 4\nper_address = 0\nfirst = \"1h\"\nlongest = \"1h\"\n",
    )?;
    drop(session(own.port, "app", PASSWORD)?);
    for n in 0..4 {
        let refusal = from(own.port, "app", "guess", [127, 0, 0, 66])?.err().ok_or("a guess is right")?;
        same!(refusal.code, 1045, "guess {n}: {refusal:?}");
    }
    // The right password is not looked at, and told apart from a wrong one by nothing.
    let held = from(own.port, "app", PASSWORD, [127, 0, 0, 66])?.err().ok_or("held back from nothing")?;
    let wrong = from(own.port, "app", "guess", [127, 0, 0, 66])?.err().ok_or("a guess is right")?;
    same!((held.code, &held.message), (wrong.code, &wrong.message), "two refusals");
    ensure!(
        from(own.port, "app", PASSWORD, [127, 0, 0, 67])?.is_err(),
        "the account is held back everywhere else"
    );
    // Who logged in from there before goes on, and others are not concerned.
    drop(session(own.port, "app", PASSWORD)?);
    drop(from(own.port, "other", PASSWORD, [127, 0, 0, 66])?.map_err(|e| format!("{e:?}"))?);
    ensure!(from(own.port, "app", PASSWORD, [127, 0, 0, 66])?.is_err(), "no longer held back");
    let table = own.spillway.ask("show backoffs")?;
    ensure!(table.contains("app@lab"), "{table}");
    let rows = own.spillway.get("/v1/backoffs")?;
    same!(rows["backoffs"][0]["who"], "app@lab", "{rows}");
    let log = own.spillway.log();
    same!(log.matches("logins are held back").count(), 1, "{log}");
    let answer = own.spillway.ask("clear backoffs app@lab")?;
    ensure!(answer.contains("of 1"), "{answer}");
    drop(from(own.port, "app", PASSWORD, [127, 0, 0, 66])?.map_err(|e| format!("{e:?}"))?);
    ensure!(own.spillway.ask("clear backoffs nobody@lab")?.contains("error"), "nobody is cleared");
    Ok(())
}

/// Whoever may log in to one cluster tries the same password at another by `USE`.
fn guesses_by_use_are_held_back() -> Verdict {
    let other = Server::standalone("by-use", &["--skip-name-resolve", "--max-password-errors=3"])?;
    other.create_monitor()?;
    other.sql(&format!(
        "DROP USER IF EXISTS ''@localhost; CREATE DATABASE elsewhere;
         CREATE USER app@'%' IDENTIFIED BY 'another-secret'; GRANT ALL ON elsewhere.* TO app@'%';
         CREATE USER other@'%' IDENTIFIED BY '{PASSWORD}'; GRANT ALL ON elsewhere.* TO other@'%'"
    ))?;
    let port = crate::harness::workspace::free_port()?;
    let solo = lab::solo()?;
    let configuration = lab::cluster_toml(
        "lab",
        "static",
        &format!("{{ solo = \"{}\" }}", solo.server.address()),
    ) + &lab::cluster_toml(
        "away",
        "static",
        &format!("{{ away = \"{}\" }}", other.address()),
    ) + &lab::service_toml(
        "lab",
        port,
        "route = \"by-database\"\ndefault_cluster = \"lab\"\ndatabases = { elsewhere = \"away\", mysql = \"lab\" }",
    ) + "[runtime.backoff]\nper_account = 2\nper_address = 0\nfirst = \"1h\"\nlongest = \"1h\"\n";
    let spillway = Spillway::start(lab::binary(), "spillway-by-use", &configuration)?;
    // Whose password is right there goes on.
    for _ in 0..3 {
        let mut right = session(port, "other", PASSWORD)?;
        let answer = right.query("USE elsewhere")?;
        same!(answer[0][0], 0, "USE with a right password: {answer:?}");
    }
    let mut guesser = session(port, "app", PASSWORD)?;
    for n in 0..4 {
        let answer = guesser.query("USE elsewhere")?;
        same!(raw::Refusal::parse(&answer[0])?.code, 1045, "guess {n}: {answer:?}");
    }
    same!(first_value(&guesser.query("SELECT 1")?)?, "1", "after the refusals");
    let rows = spillway.get("/v1/backoffs")?;
    same!(rows["backoffs"][0]["who"], "app@away", "{rows}");
    same!(rows["backoffs"][0]["failures"], 2, "two were looked at: {rows}");
    // The server has counted those two.
    let refused =
        |password| Ok::<_, String>(raw::login(other.port, &Credentials::new("app", password, None))?.err());
    same!(refused("wrong")?.map(|refusal| refusal.code), Some(1045), "the third one");
    same!(refused("another-secret")?.map(|refusal| refusal.code), Some(4150), "the server has had enough");
    Ok(())
}

fn spraying_is_held_back() -> Verdict {
    let own = lab::private_solo(
        "spillway-spraying",
        "[runtime.backoff]\nper_account = 0\nper_address = 6\nfirst = \"4s\"\nlongest = \"4s\"\n",
    )?;
    for n in 0..6 {
        ensure!(
            from(own.port, &format!("nobody{n}"), "guess", [127, 0, 0, 66])?.is_err(),
            "nobody is let in"
        );
    }
    ensure!(from(own.port, "app", PASSWORD, [127, 0, 0, 66])?.is_err(), "the address is not held back");
    drop(from(own.port, "app", PASSWORD, [127, 0, 0, 67])?.map_err(|e| format!("{e:?}"))?);
    wait_for("the end of the pause", PATIENCE, || {
        from(own.port, "app", PASSWORD, [127, 0, 0, 66])?.map(drop).map_err(|e| format!("{e:?}"))
    })
}

/// Four guesses are looked at, and no fifth, however many come at once.
const FOUR: &str = "[runtime.backoff]\nper_account = 4\nper_address = 0\nfirst = \"1h\"\nlongest = \"1h\"\n";

/// Logs in many times at once; how often that was right, and the refusals.
fn at_once(
    count: usize,
    login: impl Fn(usize, &Arc<Barrier>) -> Outcome<Result<(), String>> + Sync,
) -> Outcome<(usize, Vec<String>)> {
    let (barrier, meet, login) = (&Barrier::new(count), &Arc::new(Barrier::new(count)), &login);
    let logins = std::thread::scope(|scope| {
        let threads: Vec<_> = (0..count)
            .map(|n| {
                scope.spawn(move || {
                    barrier.wait();
                    login(n, meet)
                })
            })
            .collect();
        let joined = threads.into_iter().map(|thread| thread.join().map_err(|_| "a panic".to_owned())?);
        joined.collect::<Outcome<Vec<_>>>()
    })?;
    let refusals: Vec<_> = logins.into_iter().filter_map(Result::err).collect();
    Ok((count - refusals.len(), refusals))
}

/// `looked_at`: what the log says of a guess that was looked at.
fn guesses(
    spillway: &Spillway,
    looked_at: &str,
    login: impl Fn(&str, [u8; 4], &Arc<Barrier>) -> Outcome<Result<(), String>> + Sync,
) -> Verdict {
    let counts = || {
        let log = spillway.log();
        (log.matches(looked_at).count(), log.matches("held back after too many failed logins").count())
    };
    let (right, refusals) = at_once(50, |_, meet| login("guess", [127, 0, 0, 66], meet))?;
    same!(right, 0, "guesses that were right");
    let first = &refusals[0];
    ensure!(refusals.iter().all(|refusal| refusal == first), "refusals differ: {refusals:?}");
    ensure!(first.contains("1045") && first.contains("(using password: YES)"), "{first}");
    wait_for("fifty guesses in the log", PATIENCE, || {
        if counts() == (4, 46) { Ok(()) } else { Err(format!("{:?}\n{}", counts(), spillway.log())) }
    })?;
    ensure!(spillway.ask("clear backoffs")?.contains("of 1"), "the four are not remembered");
    // Who knows the password, at an address where nobody was before, waits for the others and is not harmed.
    let (right, refusals) = at_once(33, |n, meet| {
        login(if n % 11 == 0 { "guess" } else { PASSWORD }, [127, 0, 0, 70 + (n % 8) as u8], meet)
    })?;
    same!(right, 30, "those who know the password: {refusals:?}");
    wait_for("three more guesses in the log", PATIENCE, || {
        if counts() == (7, 46) { Ok(()) } else { Err(format!("{:?}\n{}", counts(), spillway.log())) }
    })
}

/// Whether a password is right, and the refusal where it is not.
fn tried(port: u16, user: &str, password: &str, address: [u8; 4]) -> Outcome<Result<(), String>> {
    Ok(from(port, user, password, address)?.map(drop).map_err(|refusal| format!("{refusal:?}")))
}

fn guesses_side_by_side() -> Verdict {
    let own = lab::private_solo("spillway-parallel", FOUR)?;
    guesses(&own.spillway, "wrong password for", |password, address, _| {
        tried(own.port, "app", password, address)
    })
}

/// The node verifies them: it is asked no more often.
fn relayed_guesses_side_by_side() -> Verdict {
    let server = &lab::solo()?.server;
    server.sql(&format!(
        "INSTALL SONAME 'auth_ed25519'; CREATE USER curve@'%' IDENTIFIED VIA ed25519 USING PASSWORD('{PASSWORD}')"
    ))?;
    let own = lab::private_solo("spillway-parallel-relayed", FOUR)?;
    // All have been asked by the node before one of them answers.
    guesses(&own.spillway, "refused: ", |password, address, meet| {
        let credentials = Credentials::new("curve", password, None).from(address.into());
        let login = raw::login(own.port, &Credentials { meet: Some(Arc::clone(meet)), ..credentials })?;
        Ok(login.map(drop).map_err(|refusal| format!("{refusal:?}")))
    })
}

/// Thousands of rounds for each: they would all be under way before the first of them is done.
fn slow_guesses_side_by_side() -> Verdict {
    let lab = lab::mysql()?;
    lab.server
        .sql(&format!("CREATE USER dawdler@'%' IDENTIFIED WITH caching_sha2_password BY '{PASSWORD}'"))?;
    let port = crate::harness::workspace::free_port()?;
    let nodes = format!("{{ solo = \"{}\" }}", lab.server.address());
    let configuration = lab::cluster_toml("lab", "static", &nodes)
        + &lab::service_toml("lab", port, "route = \"cluster:lab\"")
        + FOUR;
    let spillway = Spillway::start(lab::binary(), "spillway-parallel-slow", &configuration)?;
    guesses(&spillway, "wrong password for", |password, address, _| tried(port, "dawdler", password, address))
}

fn revoked_sessions_may_stay() -> Verdict {
    let port = crate::harness::workspace::free_port()?;
    let configuration = lab::solo_toml(port, "")?
        .replace("kind = \"static\"", "kind = \"static\"\nrevoked_sessions = \"keep\"");
    let spillway = Spillway::start(lab::binary(), "spillway-kept", &configuration)?;
    let server = &lab::solo()?.server;
    server.sql(&format!("CREATE USER kept@'%' IDENTIFIED BY '{PASSWORD}'"))?;
    spillway.reload_accounts()?;
    let mut kept = session(port, "kept", PASSWORD)?;
    server.sql("DROP USER kept@'%'")?;
    spillway.reload_accounts()?;
    same!(first_value(&kept.query("SELECT 1")?)?, "1", "a session that may stay");
    ensure!(session(port, "kept", PASSWORD).is_err(), "a dropped account is let in");
    Ok(())
}
