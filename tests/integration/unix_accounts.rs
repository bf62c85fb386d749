//! Users of this machine who log in without a password: the same clients on the server's own socket and on Spillway's.

use crate::harness::client::Login;
use crate::harness::process::{Process, RunAs};
use crate::harness::proxy::Spillway;
use crate::harness::server::Server;
use crate::harness::workspace::{directory, free_port};
use crate::harness::{Outcome, PATIENCE, wait_for};
use crate::lab::{self, PASSWORD, Ways};
use crate::raw::{self, Credentials, Raw, first_value};
use crate::{Verdict, ensure, same, users_trial};
use libtest_mimic::Trial;
use std::net::{Ipv4Addr, TcpStream};
use std::path::{Path, PathBuf};

pub(crate) fn trials() -> Vec<Trial> {
    vec![
        users_trial("unix_accounts::as_on_the_servers_socket", as_on_the_servers_socket),
        users_trial("unix_accounts::what_stays_closed", what_stays_closed),
        users_trial("unix_accounts::a_change_of_user", a_change_of_user),
        users_trial("unix_accounts::an_entry_is_taken_back", an_entry_is_taken_back),
        users_trial("unix_accounts::each_cluster_has_its_own", each_cluster_has_its_own),
    ]
}

// Users that every Debian has: the server knows uids by their names.
const DAEMON: u32 = 1;
const GAMES: u32 = 5;
const LP: u32 = 7;
const MAIL: u32 = 8;
const NEWS: u32 = 9;
const BACKUP: u32 = 34;
/// None of them.
const BIN: u32 = 2;

/// The accounts, each with another set of ways.
fn accounts() -> String {
    let native = format!("mysql_native_password USING PASSWORD('{PASSWORD}')");
    let ed25519 = format!("ed25519 USING PASSWORD('{PASSWORD}')");
    [
        ("daemon", format!("unix_socket OR {native}")),
        ("games", format!("{native} OR unix_socket")),
        ("mail", format!("unix_socket OR {ed25519}")),
        ("news", format!("{ed25519} OR unix_socket")),
        ("backup", "unix_socket".to_owned()),
        ("lp", format!("unix_socket USING 'games' OR {native}")),
        ("sys", native.clone()),
        ("root", format!("unix_socket OR {native}")),
    ]
    .map(|(user, ways)| format!("CREATE USER {user}@'%' IDENTIFIED VIA {ways};\n"))
    .concat()
}

/// Entries of `unix_accounts`, a line for each.
fn entries(list: &[(&str, u32, &str)]) -> String {
    let entries = list
        .iter()
        .map(|(user, uid, password)| format!("{user} = {{ uid = {uid}, password = \"{password}\" }}"));
    format!("unix_accounts = {{ {} }}", entries.collect::<Vec<_>>().join(", "))
}

fn every_entry() -> String {
    entries(&[
        ("daemon", DAEMON, PASSWORD),
        ("games", GAMES, PASSWORD),
        ("mail", MAIL, PASSWORD),
        ("news", NEWS, PASSWORD),
        ("backup", BACKUP, PASSWORD),
        ("lp", LP, PASSWORD),
        ("sys", 3, PASSWORD),
        ("root", 0, PASSWORD),
    ])
}

/// A server, and a Spillway with a Unix socket.
struct Stage {
    server: Server,
    spillway: Spillway,
    socket: PathBuf,
    port: u16,
}

impl Stage {
    fn new(name: &str, entries: &str) -> Outcome<Self> {
        let server = server(name)?;
        let (port, socket) = (free_port()?, directory(&format!("{name}-socket"))?.join("app.sock"));
        let spillway = Spillway::start(
            lab::binary(),
            &format!("spillway-{name}"),
            &Self::configuration(&server, port, &socket, entries),
        )?;
        Ok(Self { server, spillway, socket, port })
    }

    fn configuration(server: &Server, port: u16, socket: &Path, entries: &str) -> String {
        let nodes = format!("{{ solo = \"{}\" }}", server.address());
        lab::cluster_with("lab", "static", &nodes, entries)
            + &format!(
                "[service.lab]\nlisten = [\"127.0.0.1:{port}\", \"unix:{}\"]\nroute = \"cluster:lab\"\n",
                socket.display()
            )
    }

    /// The two sockets for clients of a user.
    fn client_of(&self, uid: u32) -> Outcome<Client> {
        Client::new(uid, &[&self.server.socket(), &self.socket])
    }

    fn ways(&self) -> Ways {
        Ways { direct: self.server.port, proxied: self.port }
    }
}

fn server(name: &str) -> Outcome<Server> {
    let server = Server::standalone(name, &["--plugin-load-add=auth_ed25519", "--skip-name-resolve"])?;
    server.create_monitor()?;
    server.sql(&format!("DROP USER IF EXISTS ''@localhost; {}", accounts()))?;
    Ok(server)
}

/// Ports that lead to Unix sockets, where one user is on the other end.
struct Client {
    ports: Vec<u16>,
    _relay: Process,
}

impl Client {
    fn new(uid: u32, sockets: &[&Path]) -> Outcome<Self> {
        let mut ports = Vec::new();
        let user = uid.to_string();
        // A change of user takes back what makes a child end with the run: it is asked for again.
        let as_user =
            ["--pdeathsig", "KILL", "--reuid", &user, "--regid", &user, "--clear-groups", "--"].into_iter();
        let relay = ["/usr/bin/python3", "-c", include_str!("relay.py")];
        let mut arguments: Vec<String> = as_user.chain(relay).map(str::to_owned).collect();
        for socket in sockets {
            let port = free_port()?;
            arguments.push(format!("{port}={}", socket.display()));
            ports.push(port);
        }
        let log = directory("relays")?.join(format!("{user}.log"));
        let relay = Process::start("relay", Path::new("setpriv"), &arguments, &[], &log, RunAs::Myself)?;
        for &port in &ports {
            wait_for("the relay", PATIENCE, || {
                TcpStream::connect((Ipv4Addr::LOCALHOST, port)).map(drop).map_err(|e| e.to_string())
            })?;
        }
        Ok(Self { ports, _relay: relay })
    }

    /// The server's socket and Spillway's.
    fn ways(&self) -> Ways {
        Ways { direct: self.ports[0], proxied: self.ports[1] }
    }
}

/// What came of a login: the account and the number of packets, or the refusal without the client's host.
fn came(port: u16, user: &str, password: &str) -> Outcome<Result<(String, u8), String>> {
    match raw::login(port, &Credentials::new(user, password, None))? {
        Ok(mut session) => {
            let packets = session.sequence;
            Ok(Ok((first_value(&session.query("SELECT CURRENT_USER()")?)?, packets)))
        }
        Err(refusal) => Ok(Err(text(&refusal))),
    }
}

fn text(refusal: &raw::Refusal) -> String {
    let state = refusal.state.as_deref().unwrap_or_default();
    format!("{} {state} {}", refusal.code, refusal.message.replace("'localhost'", "'127.0.0.1'"))
}

fn as_on_the_servers_socket() -> Verdict {
    let stage = Stage::new("unix-accounts", &every_entry())?;
    let daemon = stage.client_of(DAEMON)?;
    let games = stage.client_of(GAMES)?;
    let bin = stage.client_of(BIN)?;
    let (yes, no) = ("1045 28000", "1698 28000");
    for (client, user, password, expected) in [
        (&daemon, "daemon", "", Ok(3)),
        (&daemon, "daemon", "wrong", Ok(3)),
        (&daemon, "daemon", PASSWORD, Ok(3)),
        (&games, "games", "", Ok(3)),
        (&games, "games", "wrong", Ok(3)),
        (&games, "games", PASSWORD, Ok(3)),
        (&bin, "daemon", "", Err(no)),
        (&bin, "daemon", "wrong", Err(yes)),
        (&bin, "daemon", PASSWORD, Ok(5)),
        (&bin, "games", "", Err(no)),
        (&bin, "games", "wrong", Err(no)),
        (&bin, "games", PASSWORD, Ok(3)),
        (&games, "daemon", "", Err(no)),
        (&daemon, "sys", "", Err("1045 28000")),
    ] {
        let what = format!("{user} {password:?}");
        match (client.ways().agree(&what, |port| came(port, user, password))?, expected) {
            (Ok((account, packets)), Ok(expected)) => {
                same!((account, packets), (format!("{user}@%"), expected), "{what}");
            }
            (Err(refusal), Err(expected)) => ensure!(refusal.starts_with(expected), "{what}: {refusal}"),
            (came, _) => return Err(format!("{what}: {came:?}")),
        }
    }
    // The server asks by ed25519 first, and then does without; Spillway does not ask.
    for (user, uid) in [("mail", MAIL), ("news", NEWS)] {
        let client = stage.client_of(uid)?;
        for _ in 0..3 {
            let printed = client.ways().agree(user, |port| {
                Login::new(port, user, "", None).query("SELECT CURRENT_USER(), CURRENT_ROLE()")
            })?;
            ensure!(printed.starts_with(&format!("{user}@%")), "{printed}");
        }
        let refused = bin.ways().agree(user, |port| {
            let errors = Login::new(port, user, "wrong", None).run(&[], "SELECT 1")?.errors;
            Ok(errors.replace("'localhost'", "'127.0.0.1'"))
        })?;
        let code = if user == "mail" { "1045" } else { "1698" };
        ensure!(refused.contains(code), "{user}: {refused}");
        let relayed =
            bin.ways().agree(user, |port| Login::new(port, user, PASSWORD, None).query("SELECT 1"))?;
        same!(relayed, "1", "{user} by password");
    }
    let log = stage.spillway.log();
    ensure!(!log.contains(PASSWORD), "a password is in the log\n{log}");
    Ok(())
}

fn what_stays_closed() -> Verdict {
    let stage = Stage::new("unix-closed", &every_entry())?;
    // Case 111: by TCP a uid is nobody's.
    for (user, password, code) in [
        ("daemon", "", "1698"),
        ("daemon", "wrong", "1045"),
        ("games", "wrong", "1698"),
        ("backup", "", "1698"),
    ] {
        let refusal = stage.ways().agree(user, |port| Ok(came(port, user, password)?.err()))?;
        ensure!(refusal.as_ref().is_some_and(|text| text.starts_with(code)), "{user}: {refusal:?}");
    }
    // What the server does and Spillway does not, with the reason.
    for (user, uid, reason) in [
        ("root", 0, "Spillway's own uid lets nobody in"),
        ("backup", BACKUP, "a node is reached by TCP and sees no uid"),
        ("lp", LP, "the account is for a user of another name"),
    ] {
        let client = stage.client_of(uid)?;
        same!(came(client.ways().direct, user, "")?, Ok((account_on_socket(user), 3)), "{user} directly");
        let refusal = came(client.ways().proxied, user, "")?.err();
        ensure!(refusal.as_ref().is_some_and(|text| text.starts_with("1698 28000")), "{user}: {refusal:?}");
        stage.spillway.wait_log(reason)?;
        let answer = stage.spillway.ask(&format!("explain login {user} socket:{uid}"))?;
        ensure!(answer.contains(reason), "no {reason:?} in {answer}");
    }
    // An entry opens nothing to an account that does not know the way.
    let sys = stage.client_of(3)?;
    let refusal = sys.ways().agree("sys", |port| came(port, "sys", ""))?.err();
    ensure!(refusal.as_ref().is_some_and(|text| text.starts_with("1045")), "{refusal:?}");
    for (command, words) in [
        (
            "daemon socket:1",
            &["logs in to the node, by mysql_native_password", "let in as daemon@% by its uid"][..],
        ),
        ("mail socket:8", &["logs in to the node, by ed25519", "let in as mail@% by its uid"]),
        ("daemon socket:2", &["not let in by uid: unix_accounts names uid 1", "if the password is right"]),
        ("daemon socket", &["only the uid of a client on a Unix socket", "if the password is right"]),
        ("daemon 127.0.0.1", &["only the uid of a client on a Unix socket", "if the password is right"]),
        ("backup socket:34", &["a node is reached by TCP and sees no uid", "error 1698"]),
        ("daemon socket:x", &["expected an IP address, socket, or socket:UID"]),
    ] {
        let answer = stage.spillway.ask(&format!("explain login {command}"))?;
        for words in words {
            ensure!(answer.contains(words), "no {words:?} in the answer to {command}:\n{answer}");
        }
    }
    let rows = stage.spillway.ask("show permissiveness")?;
    ensure!(rows.contains("backup@%") && rows.contains("a node is reached by TCP"), "{rows}");
    Ok(())
}

/// The administrator's own row comes before that of all hosts.
fn account_on_socket(user: &str) -> String {
    format!("{user}@{}", if user == "root" { "localhost" } else { "%" })
}

fn a_change_of_user() -> Verdict {
    let stage = Stage::new("unix-change", &every_entry())?;
    let daemon = stage.client_of(DAEMON)?;
    let said = daemon.ways().agree("COM_CHANGE_USER", |port| {
        let mut session = match raw::login(port, &Credentials::new("daemon", "", None))? {
            Ok(session) => session,
            Err(refusal) => return Err(text(&refusal)),
        };
        let mut said = Vec::new();
        let mut change = |session: &mut Raw, user: &str, password: &str| {
            let verdict = session.change_user(user, password, "")?.map_err(|refusal| text(&refusal));
            said.push((verdict, first_value(&session.query("SELECT CURRENT_USER()")?)?));
            Ok::<_, String>(())
        };
        change(&mut session, "daemon", "")?;
        change(&mut session, "games", "")?;
        change(&mut session, "games", PASSWORD)?;
        change(&mut session, "daemon", "wrong")?;
        Ok(said)
    })?;
    let accounts: Vec<_> = said.iter().map(|(_, account)| account.as_str()).collect();
    same!(accounts, ["daemon@%", "daemon@%", "games@%", "daemon@%"], "{said:?}");
    ensure!(said[1].0.as_ref().is_err_and(|text| text.starts_with("1698")), "{said:?}");
    Ok(())
}

fn an_entry_is_taken_back() -> Verdict {
    let stage = Stage::new("unix-revoked", &entries(&[("daemon", DAEMON, PASSWORD)]))?;
    let daemon = stage.client_of(DAEMON)?;
    let port = daemon.ways().proxied;
    let mut open = raw::login(port, &Credentials::new("daemon", "", None))?.map_err(|e| text(&e))?;
    let reload = |entries: &str| {
        stage.spillway.rewrite(&Stage::configuration(&stage.server, stage.port, &stage.socket, entries))?;
        stage.spillway.ask("reload config")
    };
    // A password that is not the account's: told, and of no use.
    reload(&entries(&[("daemon", DAEMON, "another")]))?;
    ensure!(came(port, "daemon", "")?.is_err(), "let in with a wrong password in unix_accounts");
    stage.spillway.wait_log("the password in unix_accounts is not right")?;
    let answer = reload("")?;
    ensure!(answer.contains("unix account daemon removed"), "{answer}");
    let refusal = came(port, "daemon", "")?.err();
    ensure!(refusal.as_ref().is_some_and(|text| text.starts_with("1698")), "{refusal:?}");
    same!(came(port, "daemon", PASSWORD)?, Ok(("daemon@%".to_owned(), 5)), "the other way");
    same!(first_value(&open.query("SELECT CURRENT_USER()")?)?, "daemon@%", "the open session");
    reload(&entries(&[("daemon", DAEMON, PASSWORD)]))?;
    same!(came(port, "daemon", "")?, Ok(("daemon@%".to_owned(), 3)), "given back");
    // The account itself may take it back, too.
    stage.server.sql(&format!(
        "ALTER USER daemon@'%' IDENTIFIED VIA mysql_native_password USING PASSWORD('{PASSWORD}')"
    ))?;
    stage.spillway.reload_accounts()?;
    ensure!(came(port, "daemon", "")?.is_err(), "let in by a way that the account does not know");
    for secret in [PASSWORD, "another"] {
        ensure!(!stage.spillway.log().contains(&format!("\"{secret}\"")), "{secret} is in the log");
    }
    Ok(())
}

/// What opened one cluster opens another only where that lists the user, too; and there the session is at home.
fn each_cluster_has_its_own() -> Verdict {
    let servers = [server("unix-one")?, server("unix-two-a")?, server("unix-two-b")?];
    for (server, schema) in servers.iter().zip(["one", "two", "two"]) {
        server.sql(&format!("CREATE DATABASE {schema}; GRANT ALL ON {schema}.* TO daemon@'%', games@'%'"))?;
    }
    let [one, a, b] = servers.each_ref().map(Server::address);
    let socket = directory("unix-two-clusters")?.join("app.sock");
    // On the second cluster, the same password opens the account; only the list differs.
    let both = entries(&[("daemon", DAEMON, PASSWORD), ("games", GAMES, PASSWORD)]);
    let configuration = lab::cluster_with("one", "static", &format!("{{ solo = \"{one}\" }}"), &both)
        + &lab::cluster_with(
            "two",
            "static",
            &format!("{{ a = \"{a}\", b = \"{b}\" }}"),
            &entries(&[("games", GAMES, PASSWORD)]),
        )
        + &format!(
            "[service.both]\nlisten = [\"unix:{}\"]\nroute = \"by-database\"\ndefault_cluster = \"one\"\n\
             node = \"any\"\n",
            socket.display()
        );
    let spillway = Spillway::start(lab::binary(), "spillway-unix-two", &configuration)?;
    let [one, a, b] = servers.each_ref().map(|server| server.port.to_string());
    let port = |session: &mut Raw| first_value(&session.query("SELECT @@port")?);
    for (user, uid, password, moves) in
        [("daemon", DAEMON, "", false), ("games", GAMES, "", true), ("daemon", BIN, PASSWORD, true)]
    {
        let client = Client::new(uid, &[&socket])?;
        let credentials = Credentials::new(user, password, Some("one"));
        let mut session = raw::login(client.ports[0], &credentials)?.map_err(|e| text(&e))?;
        same!(port(&mut session)?, one, "{user} on the first");
        let reply = session.query("USE two")?;
        if !moves {
            let refusal = raw::Refusal::parse(&reply[0])?;
            ensure!(text(&refusal).starts_with("1698 28000"), "{refusal:?}");
            same!(port(&mut session)?, one, "{user} after USE");
            continue;
        }
        same!(reply[0].first(), Some(&0), "{user} of uid {uid}: {reply:?}");
        let first = port(&mut session)?;
        ensure!(first == a || first == b, "{user} after USE is on {first}");
        let (node, other) = if first == a { ("a", &b) } else { ("b", &a) };
        spillway.ask(&format!("set node two {node} drain"))?;
        wait_for("the other node of the second cluster", PATIENCE, || {
            let now = port(&mut session)?;
            if now == *other { Ok(()) } else { Err(format!("it is on {now}")) }
        })?;
        spillway.ask(&format!("set node two {node} enabled"))?;
        session.query("USE one")?;
        same!(port(&mut session)?, one, "{user} back");
    }
    Ok(())
}
