//! Limits of accounts: counted over all nodes of a cluster, refused in the server's own words.

use crate::harness::proxy::Spillway;
use crate::harness::server::Server;
use crate::harness::workspace::free_port;
use crate::harness::{Outcome, PATIENCE, wait_for};
use crate::lab::{self, PASSWORD, Ways};
use crate::raw::{self, Credentials, Raw, first_value};
use crate::{Verdict, ensure, mysql_trial, same, trial};
use libtest_mimic::Trial;
use std::collections::BTreeSet;

pub(crate) fn trials() -> Vec<Trial> {
    vec![
        trial("limits::two_nodes_are_one_server", two_nodes_are_one_server),
        trial("limits::nobody_comes_in", nobody_comes_in),
        trial("limits::a_galera_cluster_is_one_server", a_galera_cluster_is_one_server),
        mysql_trial("limits::of_mysql", of_mysql),
        mysql_trial("limits::change_of_user_of_mysql", change_of_user_of_mysql),
    ]
}

/// A session, or the refusal as text in which the account's name is `U`.
fn login(port: u16, user: &str, password: &str, schema: Option<&str>) -> Outcome<Result<Raw, String>> {
    let login = raw::login(port, &Credentials::new(user, password, schema))?;
    Ok(login.map_err(|refusal| named(user, &refusal)))
}

fn named(user: &str, refusal: &raw::Refusal) -> String {
    let state = refusal.state.as_deref().unwrap_or("-");
    format!("{} {state} {}", refusal.code, refusal.message.replace(user, "U"))
}

/// What becomes of so many logins, all of which stay.
fn logins(port: u16, user: &str, count: usize) -> Outcome<(Vec<Raw>, Vec<String>)> {
    let (mut open, mut said) = (Vec::new(), Vec::new());
    for _ in 0..count {
        match login(port, user, PASSWORD, None)? {
            Ok(session) => {
                open.push(session);
                said.push("in".to_owned());
            }
            Err(refusal) => said.push(refusal),
        }
    }
    Ok((open, said))
}

/// The accounts of one way to the servers: what one way used up is not missing on the other.
fn accounts(way: &str) -> String {
    [
        ("two", "WITH MAX_USER_CONNECTIONS 2", ""),
        ("one", "WITH MAX_USER_CONNECTIONS 1", ""),
        ("never", "WITH MAX_USER_CONNECTIONS -1", ""),
        ("locked", "WITH MAX_USER_CONNECTIONS -1 ACCOUNT LOCK", ""),
        ("expired", "WITH MAX_USER_CONNECTIONS -1 PASSWORD EXPIRE", ""),
        ("hourly", "WITH MAX_CONNECTIONS_PER_HOUR 3 MAX_USER_CONNECTIONS 9", ""),
        ("plain", "", ""),
        ("mover", "WITH MAX_USER_CONNECTIONS 9", ""),
        ("again", "WITH MAX_CONNECTIONS_PER_HOUR 3 MAX_USER_CONNECTIONS 1", ""),
        ("super", "", "SUPER"),
        ("admin", "", "CONNECTION ADMIN"),
        ("adminone", "WITH MAX_USER_CONNECTIONS 1", "CONNECTION ADMIN"),
    ]
    .map(|(name, options, privilege)| {
        let grant = if privilege.is_empty() {
            String::new()
        } else {
            format!("GRANT {privilege} ON *.* TO {name}_{way}@'%';")
        };
        format!("CREATE USER {name}_{way}@'%' IDENTIFIED BY '{PASSWORD}' {options}; {grant}\n")
    })
    .concat()
}

/// Two servers that admit two connections of an account each, and a Spillway that spreads sessions over both.
fn front(name: &str, limit: &str) -> Outcome<(Vec<Server>, Spillway, Ways)> {
    let mut servers = Vec::new();
    for n in ["a", "b"] {
        let options = ["--skip-name-resolve", &format!("--max-user-connections={limit}")];
        let server = Server::standalone(&format!("{name}-{n}"), &options)?;
        // The monitor is not what is tested.
        server.create_monitor()?;
        server.sql("GRANT CONNECTION ADMIN ON *.* TO spillway@'%'")?;
        server.sql(&(accounts("d") + &accounts("p")))?;
        servers.push(server);
    }
    let port = free_port()?;
    let nodes = format!("{{ a = \"{}\", b = \"{}\" }}", servers[0].address(), servers[1].address());
    let configuration = lab::cluster_toml("lab", "static", &nodes)
        + &lab::service_toml("lab", port, "route = \"cluster:lab\"\nnode = \"any\"");
    let spillway = Spillway::start(lab::binary(), &format!("spillway-{name}"), &configuration)?;
    let ways = Ways { direct: servers[0].port, proxied: port };
    Ok((servers, spillway, ways))
}

/// Cases 102 (`one`) and 103 (`plain`), and what is around them.
fn two_nodes_are_one_server() -> Verdict {
    let (_servers, spillway, ways) = front("limits", "2")?;
    let name = |port: u16, name: &str| format!("{name}_{}", if port == ways.direct { "d" } else { "p" });
    for (user, count) in [
        ("two", 4),
        ("one", 2),
        ("never", 1),
        ("locked", 1),
        ("expired", 1),
        ("hourly", 5),
        ("plain", 4),
        ("super", 5),
        ("admin", 5),
        ("adminone", 2),
    ] {
        let said = ways.agree(user, |port| Ok(logins(port, &name(port, user), count)?.1))?;
        ensure!(
            said[0] == "in" || matches!(user, "never" | "locked" | "expired"),
            "{user} did not come in: {said:?}"
        );
    }
    // The place of the check among the others, and of a session that ends.
    ways.agree("a full account", |port| {
        let user = name(port, "two");
        let mut open = wait_for("both places", PATIENCE, || {
            let (open, said) = logins(port, &user, 2)?;
            if open.len() == 2 { Ok(open) } else { Err(format!("{said:?}")) }
        })?;
        if port == ways.proxied {
            let mut served = BTreeSet::new();
            for session in &mut open {
                served.insert(first_value(&session.query("SELECT @@port")?)?);
            }
            same!(served.len(), 2, "both sessions are on the same node");
            let answer = spillway.ask(&format!("explain login {user} 127.0.0.1"))?;
            for words in ["2 sessions", "its MAX_USER_CONNECTIONS is 2", "error 1226"] {
                ensure!(answer.contains(words), "no {words:?} in {answer}");
            }
        }
        let mut said = Vec::new();
        for (password, schema) in [("wrong", None), ("wrong", Some("none")), (PASSWORD, Some("none"))] {
            said.push(login(port, &user, password, schema)?.err());
        }
        same!(said[2].as_deref().map(|text| &text[..4]), Some("1226"), "the limit before the schema");
        drop(open.pop());
        wait_for("the free place", PATIENCE, || {
            login(port, &user, PASSWORD, None)?.map(|session| open.push(session))
        })?;
        Ok(said)
    })?;
    change_of_user(ways, name)?;
    for words in ["account_limit", "MAX_USER_CONNECTIONS is 2", "the server's max_user_connections is 2"] {
        spillway.wait_log(words)?;
    }
    let log = spillway.log();
    ensure!(!log.contains("node_refused"), "a node counted what spillway did not\n{log}");
    Ok(())
}

/// The account before gives its place up, once the next one has one.
fn change_of_user(ways: Ways, name: impl Fn(u16, &str) -> String) -> Verdict {
    let said = ways.agree("COM_CHANGE_USER", |port| {
        let (one, mover) = (name(port, "one"), name(port, "mover"));
        let enter = |user: &str| login(port, user, PASSWORD, None)?.map_err(|e| format!("{user}: {e}"));
        let limit = PATIENCE;
        let mut said = Vec::new();
        let (mut first, mut second) = (enter(&mover)?, enter(&mover)?);
        let mut change = |session: &mut Raw, user: &str| {
            let verdict = session.change_user(user, PASSWORD, "")?;
            said.push(verdict.map_err(|refusal| named(user, &refusal)));
            Ok::<_, String>(first_value(&session.query("SELECT CURRENT_USER()")?)?.replace(user, "U"))
        };
        let mut who = vec![change(&mut first, &one)?];
        // Full now, but not for its own session.
        who.push(change(&mut second, &one)?.replace(&mover, "mover"));
        for _ in 0..2 {
            who.push(change(&mut first, &one)?);
        }
        ensure!(login(port, &one, PASSWORD, None)?.is_err(), "a second session of {one}");
        who.push(change(&mut first, &mover)?);
        let mut again = wait_for("the place", limit, || enter(&one))?;
        who.push(first_value(&again.query("SELECT CURRENT_USER()")?)?.replace(&one, "U"));
        Ok((said, who))
    })?;
    same!(said.0.iter().map(Result::is_ok).collect::<Vec<_>>(), [true, false, true, true, true], "{said:?}");
    change_to_itself(ways, name)
}

/// At the limit of the account, and at that of the server: the session logs in again, which counts for the hour.
fn change_to_itself(ways: Ways, name: impl Fn(u16, &str) -> String) -> Verdict {
    let said = ways.agree("COM_CHANGE_USER to itself", |port| {
        let user = name(port, "again");
        let mut session = login(port, &user, PASSWORD, None)?.map_err(|e| format!("{user}: {e}"))?;
        let mut said = Vec::new();
        session.query("SET @left = 1, autocommit = 0")?;
        for schema in ["", "information_schema", "", ""] {
            let verdict = session.change_user(&user, PASSWORD, schema)?;
            let state = "SELECT CONCAT_WS(' ', CURRENT_USER(), IFNULL(DATABASE(), '-'), IFNULL(@left, '-'), @@autocommit)";
            let state = first_value(&session.query(state)?)?.replace(&user, "U");
            said.push((verdict.map_err(|refusal| named(&user, &refusal)), state));
        }
        // By which limit, the server says otherwise: after a refusal it has forgotten this session.
        ensure!(login(port, &user, PASSWORD, None)?.is_err(), "a second session of {user}");
        Ok(said)
    })?;
    same!(
        said.iter().map(|(said, _)| said.is_ok()).collect::<Vec<_>>(),
        [true, true, false, false],
        "{said:?}"
    );
    let said = ways.agree("at the limit of the server", |port| {
        let user = name(port, "plain");
        let (mut open, said) = logins(port, &user, 3)?;
        let changed = open[1].change_user(&user, PASSWORD, "")?.map_err(|refusal| named(&user, &refusal));
        let wrong = open[0].change_user(&user, "wrong", "")?.map_err(|refusal| named(&user, &refusal));
        let mut who = Vec::new();
        for session in &mut open {
            who.push(first_value(&session.query("SELECT CURRENT_USER()")?)?.replace(&user, "U"));
        }
        Ok((said, changed, wrong, who))
    })?;
    ensure!(said.1.is_ok() && said.2.is_err() && said.3 == ["U@%", "U@%"], "{said:?}");
    let said = ways.agree("a schema that is closed to it", |port| {
        let user = name(port, "one");
        let mut session = wait_for("the place", PATIENCE, || login(port, &user, PASSWORD, None)?)?;
        let refused =
            session.change_user(&user, PASSWORD, "mysql")?.map_err(|refusal| named(&user, &refusal));
        let who =
            first_value(&session.query("SELECT CONCAT_WS(' ', CURRENT_USER(), IFNULL(DATABASE(), '-'))")?)?;
        let again = session.change_user(&user, PASSWORD, "")?.map_err(|refusal| named(&user, &refusal));
        Ok((refused, who.replace(&user, "U"), again))
    })?;
    ensure!(said.0.is_err() && said.1 == "U@% -", "{said:?}");
    Ok(())
}

/// `MySQL` counts the session that changes, too, and ends it.
fn change_of_user_of_mysql() -> Verdict {
    let _memory = lab::mysql()?.remembers();
    let server = &lab::mysql()?.server;
    for way in ["d", "p"] {
        server.sql(&format!(
            "CREATE USER mcone_{way}@'%' IDENTIFIED BY '{PASSWORD}' WITH MAX_USER_CONNECTIONS 1;
             CREATE USER mctwo_{way}@'%' IDENTIFIED BY '{PASSWORD}' WITH MAX_USER_CONNECTIONS 2;
             CREATE USER mchourly_{way}@'%' IDENTIFIED BY '{PASSWORD}' WITH MAX_CONNECTIONS_PER_HOUR 3"
        ))?;
    }
    let port = free_port()?;
    let configuration = lab::cluster_toml("lab", "static", &format!("{{ solo = \"{}\" }}", server.address()))
        + &lab::service_toml("lab", port, "route = \"cluster:lab\"");
    let spillway = Spillway::start(lab::binary(), "spillway-limits-mysql-change", &configuration)?;
    let ways = Ways { direct: server.port, proxied: port };
    let said = ways.agree("COM_CHANGE_USER to itself", |port| {
        let mut all = Vec::new();
        for (user, others) in [("one", 0), ("two", 0), ("two", 1), ("hourly", 0)] {
            let user = format!("mc{user}_{}", if port == ways.direct { "d" } else { "p" });
            let limit = PATIENCE;
            let enter = || wait_for("a place", limit, || login(port, &user, PASSWORD, None)?);
            let _others = (0..others).map(|_| enter()).collect::<Outcome<Vec<_>>>()?;
            let mut session = enter()?;
            let mut said = Vec::new();
            for _ in 0..3 {
                let verdict = session.change_user(&user, PASSWORD, "")?;
                let is_refused = verdict.is_err();
                said.push(verdict.map_err(|refusal| named(&user, &refusal)));
                if is_refused {
                    ensure!(session.is_closed(), "{user} goes on after {said:?}");
                    break;
                }
            }
            all.push(said);
        }
        Ok(all)
    })?;
    same!(said.iter().map(Vec::len).collect::<Vec<_>>(), [1, 3, 1, 3], "{said:?}\n{}", spillway.log_tail(5));
    ensure!(said[1].iter().all(Result::is_ok) && said[3][2].is_err(), "{said:?}");
    Ok(())
}

/// A server's limit below zero admits administrators alone.
fn nobody_comes_in() -> Verdict {
    let (servers, spillway, ways) = front("limits-none", "1")?;
    for server in &servers {
        server.sql("SET GLOBAL max_user_connections = -1")?;
    }
    spillway.reload_accounts()?;
    let name = |port: u16, name: &str| format!("{name}_{}", if port == ways.direct { "d" } else { "p" });
    for (user, comes_in) in [("plain", false), ("admin", true), ("one", true)] {
        let said = ways.agree(user, |port| Ok(logins(port, &name(port, user), 1)?.1))?;
        same!(said[0] == "in", comes_in, "{user}: {said:?}");
    }
    spillway.wait_log("account_limit")
}

fn a_galera_cluster_is_one_server() -> Verdict {
    let pair = lab::pair()?;
    let galera = pair.share_galera()?;
    galera.nodes[0].sql(&format!(
        "CREATE USER few@'%' IDENTIFIED BY '{PASSWORD}' WITH MAX_USER_CONNECTIONS 3;
         CREATE USER seldom@'%' IDENTIFIED BY '{PASSWORD}' WITH MAX_CONNECTIONS_PER_HOUR 3"
    ))?;
    for node in &galera.nodes {
        let count = "SELECT COUNT(*) FROM mysql.global_priv WHERE User IN ('few', 'seldom')";
        node.wait_sql(count, "2", PATIENCE)?;
    }
    pair.spillway.reload_accounts()?;
    let refusal = "1226 42000 User 'U' has exceeded the 'max_user_connections' resource (current value: 3)";
    // Nodes that came back not long ago grow to their share, and sessions of other tests count.
    wait_for("sessions on several nodes", PATIENCE, || {
        let (mut open, said) = logins(pair.shop_any, "few", 4)?;
        same!(said, ["in", "in", "in", refusal], "sessions at a time");
        let mut served = BTreeSet::new();
        for session in &mut open {
            served.insert(first_value(&session.query("SELECT @@port")?)?);
        }
        ensure!(served.len() > 1, "all sessions are on one node");
        Ok(())
    })?;
    let refusal =
        "1226 42000 User 'U' has exceeded the 'max_connections_per_hour' resource (current value: 3)";
    let mut said = Vec::new();
    for _ in 0..4 {
        said.push(login(pair.shop_any, "seldom", PASSWORD, None)?.map(drop));
    }
    same!(said, [Ok(()), Ok(()), Ok(()), Err(refusal.to_owned())], "logins in an hour");
    Ok(())
}

/// Case 102 of `MySQL`.
fn of_mysql() -> Verdict {
    let _memory = lab::mysql()?.remembers();
    let server = &lab::mysql()?.server;
    for way in ["d", "p"] {
        server.sql(&format!(
            "CREATE USER msone_{way}@'%' IDENTIFIED BY '{PASSWORD}' WITH MAX_USER_CONNECTIONS 1;
             CREATE USER mshourly_{way}@'%' IDENTIFIED BY '{PASSWORD}' WITH MAX_CONNECTIONS_PER_HOUR 2;
             CREATE USER msadmin_{way}@'%' IDENTIFIED BY '{PASSWORD}' WITH MAX_USER_CONNECTIONS 1;
             GRANT CONNECTION_ADMIN ON *.* TO msadmin_{way}@'%'"
        ))?;
    }
    let port = free_port()?;
    let nodes = format!("{{ solo = \"{}\" }}", server.address());
    let configuration = lab::cluster_toml("lab", "static", &nodes)
        + &lab::service_toml("lab", port, "route = \"cluster:lab\"");
    let spillway = Spillway::start(lab::binary(), "spillway-limits-mysql", &configuration)?;
    let ways = Ways { direct: server.port, proxied: port };
    for user in ["msone", "mshourly", "msadmin"] {
        let said = ways.agree(user, |port| {
            let way = if port == ways.direct { "d" } else { "p" };
            Ok(logins(port, &format!("{user}_{way}"), 3)?.1)
        })?;
        ensure!(said[0] == "in" && said[2].starts_with("1226 42000"), "{user}: {said:?}");
    }
    spillway.wait_log("account_limit")?;
    let log = spillway.log();
    ensure!(!log.contains("node_refused"), "{log}");
    Ok(())
}
