//! Logins whose rows differ by host: let in with less where that is proved to be less, refused where it is not.

use crate::harness::Outcome;
use crate::harness::proxy::Spillway;
use crate::harness::server::Server;
use crate::lab::{self, PASSWORD};
use crate::mysql;
use crate::raw::{self, Credentials, Raw, Refusal, first_value};
use crate::{Verdict, ensure, mysql_trial, same, trial};
use libtest_mimic::Trial;
use std::net::Ipv4Addr;

pub(crate) fn trials() -> Vec<Trial> {
    vec![
        trial("masked::fewer_rights_and_not_more", || {
            let own = lab::private_solo("spillway-masked", "")?;
            fewer_rights_and_not_more(&lab::solo()?.server, &own.spillway, own.port)
        }),
        mysql_trial("masked::fewer_rights_and_not_more_with_mysql", || {
            let (spillway, port) = mysql::spillway("spillway-mysql-masked", "")?;
            fewer_rights_and_not_more(&lab::mysql()?.server, &spillway, port)
        }),
    ]
}

const CLIENT: Ipv4Addr = Ipv4Addr::new(127, 0, 0, 70);

/// The network comes first for every client and for Spillway at 127.0.0.1; of the rows behind it, `_27.0.0.70` matches the
/// client alone, and `_27.0.0.1` Spillway alone.
const ACCOUNTS: &str = "
    CREATE USER narrow@'127.0.0.0/255.255.255.0' IDENTIFIED BY 'app-secret';
    GRANT SELECT ON lab.* TO narrow@'127.0.0.0/255.255.255.0';
    CREATE USER narrow@'_27.0.0.70' IDENTIFIED BY 'another';
    GRANT SELECT ON lab2.* TO narrow@'_27.0.0.70'; GRANT INSERT ON lab.greeting TO narrow@'_27.0.0.70';
    CREATE USER wide@'127.0.0.0/255.255.255.0' IDENTIFIED BY 'app-secret';
    GRANT SELECT ON lab.* TO wide@'127.0.0.0/255.255.255.0';
    CREATE USER wide@'_27.0.0.1' IDENTIFIED BY 'another'; GRANT SELECT ON lab2.* TO wide@'_27.0.0.1';
";

fn login(port: u16, user: &str, schema: Option<&str>, address: Ipv4Addr) -> Outcome<Result<Raw, Refusal>> {
    raw::login(port, &Credentials::new(user, PASSWORD, schema).from(address))
}

/// The error of a statement; none if it was carried out.
fn error(session: &mut Raw, sql: &str) -> Outcome<Option<u16>> {
    let reply = session.query(sql)?;
    let last = reply.last().ok_or("no reply")?;
    if last.first() == Some(&0xff) {
        Refusal::parse(last).map(|refusal| Some(refusal.code))
    } else {
        Ok(None)
    }
}

fn fewer_rights_and_not_more(server: &Server, spillway: &Spillway, port: u16) -> Verdict {
    server.sql(ACCOUNTS)?;
    spillway.reload_accounts()?;
    let insert = "INSERT INTO lab.greeting SELECT 'x' FROM DUAL WHERE FALSE";
    let account = "narrow@127.0.0.0/255.255.255.0";

    let mut direct =
        login(server.port, "narrow", Some("lab2"), CLIENT)?.map_err(|e| format!("directly: {e:?}"))?;
    same!(first_value(&direct.query("SELECT CURRENT_USER()")?)?, account, "directly");
    same!(error(&mut direct, insert)?, None, "directly");
    for _ in 0..2 {
        let mut session =
            login(port, "narrow", Some("lab"), CLIENT)?.map_err(|e| format!("{e:?}\n{}", spillway.log()))?;
        same!(first_value(&session.query("SELECT CURRENT_USER()")?)?, account, "through Spillway");
        same!(first_value(&session.query("SELECT word FROM greeting")?)?, "hello", "what both have");
        same!(error(&mut session, insert)?, Some(1142), "a row for a table that is lost");
        same!(error(&mut session, "USE lab2")?, Some(1044), "a row for a database that is lost");
        ensure!(
            session.change_user("narrow", PASSWORD, "lab")?.is_ok(),
            "COM_CHANGE_USER to the same account"
        );
        let refused = session.change_user("wide", PASSWORD, "lab")?.err().map(|refusal| refusal.code);
        same!(refused, Some(1045), "COM_CHANGE_USER to an account with more");
    }
    let refused = |user, schema| Ok(login(port, user, schema, CLIENT)?.err().map(|refusal| refusal.code));
    same!(refused("narrow", Some("lab2")), Ok(Some(1044)), "the lost database at login");

    ensure!(login(server.port, "wide", None, CLIENT)?.is_ok(), "directly");
    same!(refused("wide", None), Ok::<_, String>(Some(1045)), "rows that match Spillway alone");
    let near = login(port, "wide", Some("lab2"), Ipv4Addr::LOCALHOST)?;
    ensure!(near.is_ok(), "a client at Spillway's own address");

    for (question, words) in [
        (
            "narrow 127.0.0.70 lab",
            &["by the subset rule", "lost: db row 'narrow'@'_27.0.0.70' on `lab2`", "let in as"][..],
        ),
        (
            "narrow 127.0.0.70 lab2",
            &["no privilege on database `lab2` from the proxy's address", "error 1044"],
        ),
        ("wide 127.0.0.70", &["grants differ by host", "gain SELECT by db row 'wide'@'_27.0.0.1' on `lab2`"]),
        ("wide 127.0.0.1", &["the same rows apply", "let in as"]),
    ] {
        let answer = spillway.ask(&format!("explain login {question}"))?;
        for word in words {
            ensure!(answer.contains(word), "no {word:?} in the answer about {question:?}:\n{answer}");
        }
    }
    let answer = spillway.get("/v1/permissiveness")?;
    let rows = answer["permissiveness"].as_array().cloned().unwrap_or_default();
    let row =
        rows.iter().find(|row| row["account"] == "narrow@_27.0.0.70").ok_or_else(|| answer.to_string())?;
    let reason = row["reason"].as_str().unwrap_or_default();
    ensure!(reason.contains("with less: lost: db row 'narrow'@'_27.0.0.70' on `lab2`"), "{reason}");
    Ok(())
}
