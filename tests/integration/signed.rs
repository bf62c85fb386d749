//! Accounts with `ed25519` and `parsec`: the node asks the client itself, and Spillway verifies what it signs from the
//! stored key as well.

use crate::harness::Outcome;
use crate::harness::proxy::Spillway;
use crate::harness::root::{self, Root};
use crate::harness::server::Server;
use crate::harness::workspace::free_port;
use crate::lab::{self, PASSWORD, Ways};
use crate::raw::{self, Credentials};
use crate::{Verdict, ensure, rooted_trial, same, trial};
use libtest_mimic::Trial;
use spillway::auth::{ed25519, parsec};
use std::io::{Read, Write};
use std::net::{Ipv4Addr, Shutdown};
use std::time::Duration;

pub(crate) fn trials() -> Vec<Trial> {
    let of_11_8 = |name, test: fn(&Stage) -> Verdict| {
        rooted_trial(&root::MARIADB_11_8, name, move || {
            test(&Stage::set_up(Some(&root::MARIADB_11_8), name)?)
        })
    };
    let of_this = |name: &'static str, test: fn(&Stage) -> Verdict| {
        Trial::test(name, move || test(&Stage::set_up(None, name)?).map_err(Into::into))
    };
    vec![
        of_this("signed::ed25519_is_verified", verified),
        of_11_8("signed::ed25519_and_parsec_are_verified", verified),
        of_this("signed::who_leaves_blocks_nobody", who_leaves_blocks_nobody),
        of_11_8("signed::who_leaves_blocks_nobody_of_mariadb_11_8", who_leaves_blocks_nobody),
        trial("signed::leaving_is_no_wrong_password", leaving_is_no_wrong_password),
        rooted_trial(&root::MARIADB_11_8, "signed::a_salt_may_differ_by_node", a_salt_may_differ_by_node),
    ]
}

/// A server with one account for each plugin that it has, named like it, and a Spillway that reads its accounts of its own
/// accord once an hour.
struct Stage {
    server: Server,
    spillway: Spillway,
    ways: Ways,
    plugins: &'static [&'static str],
}

/// Where Spillway comes from: servers never block 127.0.0.1.
const SPILLWAY: &str = "127.0.1.9";

/// After so many failed handshakes in a row, servers block the host that they came from.
const CONNECT_ERRORS: u32 = 3;

fn start(home: Option<&'static Root>, name: &str) -> Outcome<Server> {
    let block = format!("--max-connect-errors={CONNECT_ERRORS}");
    let options = ["--plugin-load-add=auth_ed25519", "--performance-schema=ON", &block];
    let mut server = match home {
        None => Server::prepare(name, &options)?,
        Some(home) => Server::prepare_in(home, name, &options)?,
    };
    if home.is_some() {
        server.option("--plugin-load-add=auth_parsec".to_owned());
    }
    server.start(&[])?;
    server.create_monitor()?;
    server.sql("DROP USER IF EXISTS ''@localhost; CREATE USER app@'%' IDENTIFIED BY 'app-secret'")?;
    Ok(server)
}

impl Stage {
    fn set_up(home: Option<&'static Root>, name: &str) -> Outcome<Self> {
        let name = name.replace("::", "-").replace('_', "-");
        let plugins: &[&str] = if home.is_some() { &["ed25519", "parsec"] } else { &["ed25519"] };
        let server = start(home, &name)?;
        for plugin in plugins {
            server.sql(&create(plugin, plugin, PASSWORD))?;
        }
        let port = free_port()?;
        let nodes = format!("{{ solo = \"{}\" }}", server.address());
        let spillway =
            Spillway::start(lab::binary(), &format!("spillway-{name}"), &configuration(port, &nodes))?;
        let ways = Ways { direct: server.port, proxied: port };
        Ok(Self { server, spillway, ways, plugins })
    }

    /// What a server counts by this name.
    fn count(&self, name: &str) -> Outcome<u64> {
        let shown = self.server.sql(&format!(
            "SELECT VARIABLE_VALUE FROM information_schema.GLOBAL_STATUS WHERE VARIABLE_NAME = '{name}'"
        ))?;
        shown.trim().parse().map_err(|_| format!("{name}: {shown:?}"))
    }

    fn both(&self, user: &str, password: &str) -> Outcome<u16> {
        self.ways.agree(&format!("{user} {password:?}"), |port| code(port, user, password))
    }
}

fn create(user: &str, plugin: &str, password: &str) -> String {
    format!("CREATE USER {user}@'%' IDENTIFIED VIA {plugin} USING PASSWORD('{password}')")
}

fn configuration(port: u16, nodes: &str) -> String {
    let lines = format!("source_address = \"{SPILLWAY}\"\naccounts_refresh = \"1h\"");
    lab::cluster_with("lab", "static", nodes, &lines)
        + &lab::service_toml("lab", port, "route = \"cluster:lab\"\nnode = \"any\"")
        + "[runtime.backoff]\nper_address = 0\nper_account = 0\n"
}

/// The error of a login; 0: it is let in, as that account.
fn code(port: u16, user: &str, password: &str) -> Outcome<u16> {
    match raw::login(port, &Credentials::new(user, password, None))? {
        Err(refusal) => Ok(refusal.code),
        Ok(mut session) => {
            same!(raw::first_value(&session.query("SELECT CURRENT_USER()")?)?, format!("{user}@%"), "{user}");
            Ok(0)
        }
    }
}

/// What a server stores for a password.
fn stored(plugin: &str, password: &str) -> String {
    match plugin {
        "parsec" => parsec::Params::decoy(b"any", b"salt").stored(password.as_bytes()),
        _ => ed25519::stored(password.as_bytes()),
    }
}

fn verified(stage: &Stage) -> Verdict {
    let Stage { spillway, ways, plugins, .. } = stage;
    for plugin in *plugins {
        for (password, expected) in [(PASSWORD, 0), ("wrong", 1045), ("", 1045), (PASSWORD, 0)] {
            same!(stage.both(plugin, password)?, expected, "{plugin} {password:?}");
        }
        // A node says no to ed25519 itself, and counts; of a wrong signature of parsec it hears nothing.
        let before = stage.count("Access_denied_errors")?;
        same!(code(ways.proxied, plugin, "wrong")?, 1045, "{plugin}");
        same!(stage.count("Access_denied_errors")?, before + u64::from(*plugin == "ed25519"), "{plugin}");
        let answer = spillway.ask(&format!("explain login {plugin} 127.0.0.1"))?;
        ensure!(
            answer.contains("relayed") && answer.contains("verified here, too, from the stored key"),
            "{answer}"
        );
        changed_behind(stage, plugin)?;
        known_to_the_node_only(stage, plugin)?;
        change_user(stage, plugin)?;
    }
    several_ways(stage)?;
    blocked_after_some(stage)
}

/// A password that was set on the node is taken at once, by however many.
fn changed_behind(stage: &Stage, plugin: &str) -> Verdict {
    let Stage { server, spillway, ways, .. } = stage;
    let port = ways.proxied;
    server.sql(&format!("ALTER USER {plugin}@'%' IDENTIFIED VIA {plugin} USING PASSWORD('second')"))?;
    let who = Credentials::new(plugin, "second", None);
    let mut session = raw::login(port, &who)?.map_err(|e| format!("{e:?}\n{}", spillway.log_tail(5)))?;
    same!(stage.both(plugin, PASSWORD)?, 1045, "the password from before");
    same!(stage.both(plugin, "second")?, 0, "the new one");
    std::thread::sleep(Duration::from_millis(300));
    same!(raw::first_value(&session.query("SELECT 1")?)?, "1", "its session goes on");
    for password in ["third", "fourth"] {
        // The second time, within the pause after which accounts are read again.
        server
            .sql(&format!("ALTER USER {plugin}@'%' IDENTIFIED VIA {plugin} USING PASSWORD('{password}')"))?;
        let codes: Vec<_> = std::thread::scope(|scope| {
            let logins: Vec<_> = (0..12).map(|_| scope.spawn(|| code(port, plugin, password))).collect();
            logins.into_iter().map(|login| login.join().map_err(|_| "a panic".to_owned())?).collect()
        });
        same!(codes, vec![Ok(0); 12], "{password}: all of them\n{}", spillway.log_tail(15));
    }
    server.sql(&format!("ALTER USER {plugin}@'%' IDENTIFIED VIA {plugin} USING PASSWORD('{PASSWORD}')"))?;
    same!(code(port, plugin, PASSWORD)?, 0, "{plugin}: the first password again");
    Ok(())
}

/// The node takes another password than its table has the key for, until it reads the table: a client that knows only that
/// one is not let in, and neither is one whose password the node does not take.
fn known_to_the_node_only(stage: &Stage, plugin: &str) -> Verdict {
    let Stage { server, spillway, ways, .. } = stage;
    let port = ways.proxied;
    server.sql(&format!(
        "UPDATE mysql.global_priv SET Priv = JSON_SET(Priv, '$.authentication_string', '{}') WHERE User = '{plugin}'",
        stored(plugin, "of the table")
    ))?;
    same!(code(ways.direct, plugin, PASSWORD)?, 0, "{plugin}: what the server has in memory");
    same!(code(ways.direct, plugin, "of the table")?, 1045, "{plugin}: what it has not read");
    spillway.ask("reload accounts")?;
    same!(code(port, plugin, PASSWORD)?, 1045, "{plugin}: no stored key verifies it");
    let said = "let a client in whose signature is not right by the stored key";
    ensure!(spillway.log().contains(said), "{}", spillway.log_tail(5));
    same!(code(port, plugin, "of the table")?, 1045, "{plugin}: the node does not take it");
    server.sql("FLUSH PRIVILEGES")?;
    same!(stage.both(plugin, "of the table")?, 0, "{plugin}: when the node has read its table");
    same!(stage.both(plugin, PASSWORD)?, 1045, "{plugin}: when the node has read its table");
    server.sql(&format!("ALTER USER {plugin}@'%' IDENTIFIED VIA {plugin} USING PASSWORD('{PASSWORD}')"))?;
    same!(code(port, plugin, PASSWORD)?, 0, "{plugin}: the first password again");
    Ok(())
}

fn change_user(stage: &Stage, plugin: &str) -> Verdict {
    for (password, expected) in [(PASSWORD, 0), ("wrong", 1045), (PASSWORD, 0)] {
        let said = stage.ways.agree(&format!("COM_CHANGE_USER to {plugin} {password:?}"), |port| {
            let login = raw::login(port, &Credentials::new("app", PASSWORD, None))?;
            let mut session = login.map_err(|refusal| format!("{refusal:?}"))?;
            let changed = session.change_user(plugin, password, "")?;
            let user = raw::first_value(&session.query("SELECT CURRENT_USER()")?)?;
            Ok((changed.err().map_or(0, |refusal| refusal.code), user))
        })?;
        same!(said.0, expected, "{plugin} {password:?}");
        same!(said.1, if expected == 0 { format!("{plugin}@%") } else { "app@%".to_owned() }, "{plugin}");
    }
    // To a password that Spillway has not read yet.
    stage
        .server
        .sql(&format!("ALTER USER {plugin}@'%' IDENTIFIED VIA {plugin} USING PASSWORD('changed')"))?;
    let login = raw::login(stage.ways.proxied, &Credentials::new("app", PASSWORD, None))?;
    let mut session = login.map_err(|refusal| format!("{refusal:?}"))?;
    session.change_user(plugin, "changed", "")?.map_err(|refusal| format!("{refusal:?}"))?;
    std::thread::sleep(Duration::from_millis(300));
    same!(raw::first_value(&session.query("SELECT CURRENT_USER()")?)?, format!("{plugin}@%"), "{plugin}");
    stage
        .server
        .sql(&format!("ALTER USER {plugin}@'%' IDENTIFIED VIA {plugin} USING PASSWORD('{PASSWORD}')"))?;
    same!(code(stage.ways.proxied, plugin, PASSWORD)?, 0, "{plugin}: the first password again");
    Ok(())
}

/// Any of an account's passwords is right, as on the server.
fn several_ways(stage: &Stage) -> Verdict {
    let both = stage.plugins.len() > 1;
    let mut accounts = vec![("twice", "ed25519 USING PASSWORD('one') OR ed25519 USING PASSWORD('two')")];
    if both {
        accounts.push(("mixed", "ed25519 USING PASSWORD('one') OR parsec USING PASSWORD('two')"));
        accounts.push(("turned", "parsec USING PASSWORD('one') OR ed25519 USING PASSWORD('two')"));
    }
    // For clients that do not know the first one. Spillway verifies the second way, and the node asks by the first.
    for first in stage.plugins {
        let user = format!("{first}first");
        stage.server.sql(&format!(
            "CREATE USER {user}@'%' IDENTIFIED VIA {first} USING PASSWORD('{PASSWORD}') \
             OR mysql_native_password USING PASSWORD('{PASSWORD}')"
        ))?;
        stage.spillway.ask("reload accounts")?;
        for (password, expected) in [(PASSWORD, 0), ("wrong", 1045)] {
            same!(stage.both(&user, password)?, expected, "{user} {password}");
        }
        stage.server.sql(&format!("DROP USER {user}@'%'"))?;
    }
    for (user, ways) in accounts {
        stage.server.sql(&format!("CREATE USER {user}@'%' IDENTIFIED VIA {ways}"))?;
        stage.spillway.ask("reload accounts")?;
        for (password, expected) in [("one", 0), ("two", 0), ("three", 1045)] {
            same!(stage.both(user, password)?, expected, "{user} {password}");
        }
        // Of these keys, the node has another in memory for the second way, which stands outside of the list.
        let key = stored(if user == "mixed" { "parsec" } else { "ed25519" }, "of the table");
        stage.server.sql(&format!(
            "UPDATE mysql.global_priv SET Priv = JSON_REPLACE(Priv, '$.authentication_string', '{key}') WHERE User = '{user}'"
        ))?;
        let row = stage.server.sql(&format!("SELECT Priv FROM mysql.global_priv WHERE User = '{user}'"))?;
        stage.spillway.ask("reload accounts")?;
        if row.contains(&key) {
            same!(code(stage.ways.direct, user, "two")?, 0, "{user}: what the server has in memory");
            same!(code(stage.ways.proxied, user, "two")?, 1045, "{user}: no stored key verifies it");
            same!(code(stage.ways.proxied, user, "one")?, 0, "{user}: the other way is as it was");
        } else {
            return Err(format!("the row has another form: {row}"));
        }
    }
    Ok(())
}

/// A server that blocks accounts after some wrong passwords does so for those that came through Spillway.
fn blocked_after_some(stage: &Stage) -> Verdict {
    stage.server.sql("SET GLOBAL max_password_errors = 2")?;
    stage.spillway.ask("reload accounts")?;
    for plugin in stage.plugins {
        let codes = stage.ways.agree(&format!("{plugin}: wrong, wrong, right"), |port| {
            let user = format!("{plugin}{}", if port == stage.ways.direct { "direct" } else { "through" });
            stage.server.sql(&create(&user, plugin, PASSWORD))?;
            stage.spillway.ask("reload accounts")?;
            let passwords = ["wrong", "wrong", PASSWORD].into_iter();
            passwords.map(|password| code(port, &user, password)).collect::<Outcome<Vec<_>>>()
        })?;
        // Servers do not count those of parsec.
        let last = if *plugin == "ed25519" { 4150 } else { 0 };
        same!(codes, [1045, 1045, last], "{plugin}: wrong, wrong, right");
    }
    stage.server.sql("SET GLOBAL max_password_errors = DEFAULT").map(drop)
}

/// How a client that is asked for a signature goes on.
#[derive(Clone, Copy, Debug)]
enum End {
    /// It leaves at once.
    Leaves,
    /// It answers so many bytes.
    Answers(usize),
}

/// A login of a client that signs nothing; the code of the error that it reads, if it waits for one.
fn unsigned(port: u16, source: Ipv4Addr, user: &str, end: End) -> Outcome<Option<u16>> {
    let mut stream = raw::connect(port, source)?;
    let mut sequence = 0;
    let mut answer = raw::response_head(raw::capability::USUAL);
    answer.extend_from_slice(user.as_bytes());
    answer.extend_from_slice(b"\0\0mysql_native_password\0");
    loop {
        let mut header = [0; 4];
        stream.read_exact(&mut header).map_err(|e| e.to_string())?;
        let mut payload = vec![0; u32::from_le_bytes([header[0], header[1], header[2], 0]) as usize];
        stream.read_exact(&mut payload).map_err(|e| e.to_string())?;
        sequence = header[3].wrapping_add(1).max(sequence);
        match (payload.first(), end) {
            (Some(0xff), _) => return Ok(Some(raw::Refusal::parse(&payload)?.code)),
            (Some(10), _) => {}
            (_, End::Leaves) => {
                let _ = stream.shutdown(Shutdown::Both);
                return Ok(None);
            }
            // The salt comes next.
            _ if payload.starts_with(b"\xfeparsec\0") => answer = Vec::new(),
            (_, End::Answers(length)) => answer = vec![7; length],
        }
        stream.write_all(&raw::frame(&answer, &mut sequence)).map_err(|e| e.to_string())?;
    }
}

/// Clients that leave in the middle of their login, or answer what no server takes for a password, do not get Spillway's
/// address blocked by the server. Directly, their own would be.
fn who_leaves_blocks_nobody(stage: &Stage) -> Verdict {
    let harm: &[_] = match stage.plugins {
        [_] => &[("ed25519", End::Leaves), ("ed25519", End::Answers(0)), ("ed25519", End::Answers(63))],
        _ => &[("ed25519", End::Leaves), ("parsec", End::Answers(96)), ("parsec", End::Answers(0))],
    };
    for (number, &(plugin, end)) in harm.iter().enumerate() {
        let source = Ipv4Addr::new(127, 0, 2, 1 + number as u8);
        for _ in 0..CONNECT_ERRORS {
            unsigned(stage.server.port, source, plugin, end)?;
        }
        std::thread::sleep(Duration::from_millis(300));
        let blocked = raw::login(stage.server.port, &Credentials::new("app", PASSWORD, None).from(source))?;
        same!(blocked.err().map(|refusal| refusal.code), Some(1129), "{plugin} {end:?}, directly");
    }
    for plugin in stage.plugins {
        for end in [End::Leaves, End::Answers(0), End::Answers(63), End::Answers(96), End::Answers(1000)] {
            for _ in 0..5 {
                let told = unsigned(stage.ways.proxied, Ipv4Addr::LOCALHOST, plugin, end)?;
                same!(told, if matches!(end, End::Leaves) { None } else { Some(1045) }, "{plugin} {end:?}");
            }
        }
    }
    // The last of those who left are still being seen off.
    std::thread::sleep(Duration::from_millis(500));
    let errors = stage.server.sql(&format!(
        "SELECT COUNT_HANDSHAKE_ERRORS FROM performance_schema.host_cache WHERE IP = '{SPILLWAY}'"
    ))?;
    same!(errors.trim(), "0", "failed handshakes of Spillway");
    for plugin in stage.plugins {
        same!(code(stage.ways.proxied, plugin, PASSWORD)?, 0, "{plugin}");
    }
    Ok(())
}

/// Where wrong passwords block an account, a client that leaves has given none.
fn leaving_is_no_wrong_password() -> Verdict {
    let stage = Stage::set_up(None, "leaving")?;
    stage.server.sql("SET GLOBAL max_password_errors = 2; SET GLOBAL max_connect_errors = 100")?;
    stage.spillway.ask("reload accounts")?;
    let before = stage.count("Access_denied_errors")?;
    for _ in 0..4 {
        unsigned(stage.ways.proxied, Ipv4Addr::LOCALHOST, "ed25519", End::Leaves)?;
    }
    std::thread::sleep(Duration::from_millis(500));
    same!(stage.count("Access_denied_errors")?, before, "wrong passwords");
    same!(code(stage.ways.proxied, "ed25519", PASSWORD)?, 0, "it is not blocked");
    Ok(())
}

/// Two nodes where one statement made the same account: each has a salt of its own for it, and so another key.
fn a_salt_may_differ_by_node() -> Verdict {
    let servers = [start(Some(&root::MARIADB_11_8), "salt-a")?, start(Some(&root::MARIADB_11_8), "salt-b")?];
    let mut keys = Vec::new();
    for server in &servers {
        server.sql(&create("parsec", "parsec", PASSWORD))?;
        keys.push(server.sql("SELECT Priv FROM mysql.global_priv WHERE User = 'parsec'")?);
    }
    ensure!(keys[0] != keys[1], "the same salt: {keys:?}");
    let port = free_port()?;
    let nodes = format!("{{ a = \"{}\", b = \"{}\" }}", servers[0].address(), servers[1].address());
    let spillway = Spillway::start(lab::binary(), "spillway-salts", &configuration(port, &nodes))?;
    // At once, before Spillway knows that the nodes differ, and when it does.
    let (mut ports, mut sessions) = (std::collections::BTreeSet::new(), Vec::new());
    for _ in 0..6 {
        let login = raw::login(port, &Credentials::new("parsec", PASSWORD, None))?;
        let mut session = login.map_err(|refusal| format!("{refusal:?}\n{}", spillway.log_tail(10)))?;
        ports.insert(raw::first_value(&session.query("SELECT @@port")?)?);
        sessions.push(session);
    }
    same!(ports.len(), 2, "sessions came to {ports:?}");
    spillway.wait_log("a node differs from the accounts that were read")?;
    for number in 0..12 {
        same!(code(port, "parsec", PASSWORD)?, 0, "the right password\n{}", spillway.log_tail(10));
        same!(code(port, "parsec", "wrong")?, 1045, "a wrong password");
        // The next ones come to the other node.
        sessions.truncate(6 - number % 2);
    }
    for server in &servers {
        let errors = "SELECT COUNT_HANDSHAKE_ERRORS FROM performance_schema.host_cache WHERE IP";
        same!(server.sql(&format!("{errors} = '{SPILLWAY}'"))?.trim(), "0", "failed handshakes of Spillway");
    }
    // And at once, before the nodes are compared again.
    for server in &servers {
        // A wrong one is told to a node whose salt is not known yet.
        server.sql("SET GLOBAL max_connect_errors = 100")?;
        server.sql("ALTER USER parsec@'%' IDENTIFIED VIA parsec USING PASSWORD('second')")?;
    }
    for _ in 0..6 {
        let login = raw::login(port, &Credentials::new("parsec", "second", None))?;
        sessions.push(login.map_err(|refusal| format!("{refusal:?}\n{}", spillway.log_tail(10)))?);
        same!(code(port, "parsec", PASSWORD)?, 1045, "the one before");
    }
    Ok(())
}
