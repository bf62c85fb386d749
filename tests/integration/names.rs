//! Accounts with the names of hosts: the server and Spillway find the same names, and come to the same verdicts.

use crate::harness::Outcome;
use crate::harness::process::RunAs;
use crate::harness::proxy::Spillway;
use crate::harness::resolver::Hosts;
use crate::harness::server::Server;
use crate::harness::workspace::free_port;
use crate::lab::{self, PASSWORD};
use crate::raw::{self, Credentials, first_value};
use crate::{Verdict, ensure, named_trial, same};
use libtest_mimic::Trial;
use std::fmt::Write as _;
use std::net::Ipv4Addr;

pub(crate) fn trials() -> Vec<Trial> {
    vec![
        named_trial("names::announced_clients_are_judged_as_directly", announced),
        named_trial("names::guarded_clients_share_a_wildcard", guarded),
        named_trial("names::a_failed_lookup_is_no_answer", a_failed_lookup),
        named_trial("names::off_by_default", off_by_default),
        named_trial("names::servers_that_resolve_none", servers_that_resolve_none),
    ]
}

/// Where links come from, as a host of its own name.
const SOURCE: Ipv4Addr = host(1);
const WEB1: Ipv4Addr = host(7);
const WEB2: Ipv4Addr = host(8);
/// Its name is read as another address when it is looked up, and so does not lead back.
const UNCONFIRMED: Ipv4Addr = host(9);
/// Its name begins like an address.
const NUMERIC: Ipv4Addr = host(10);
const NAMELESS: Ipv4Addr = host(11);

const fn host(last: u8) -> Ipv4Addr {
    Ipv4Addr::new(127, 9, 0, last)
}

const HOSTS: &str = "127.9.0.1 proxy.corp.example
127.9.0.7 web1.corp.example web1
127.9.0.8 WEB2.Corp.Example
127.9.0.9 0x7f000001
127.9.0.10 10.corp.example";

/// Each user, and the hosts of its accounts; what comes after the first one has another password.
const ACCOUNTS: &[(&str, &[&str])] = &[
    ("exact", &["web1.corp.example"]),
    ("short", &["web1"]),
    ("wild", &["%.corp.example"]),
    ("lower", &["web2.corp.example"]),
    ("hex", &["0x7f%"]),
    ("digits", &["10.corp%", "1_.corp.example"]),
    ("both", &["%", "web1.corp.example"]),
    ("address", &["127.9.0.7", "%.corp.example"]),
    ("local", &["localhost"]),
    ("anybody", &["%"]),
];

fn server(name: &str, hosts: &Hosts, options: &[&str]) -> Outcome<Server> {
    let mut server = Server::prepare(name, options)?;
    server.resolve_by(hosts)?;
    server.start(&[])?;
    server.create_monitor()?;
    let mut statements = String::from("DROP USER IF EXISTS ''@localhost; CREATE DATABASE near;");
    for (user, rows) in ACCOUNTS {
        for (n, row) in rows.iter().enumerate() {
            let password = if n == 0 { PASSWORD } else { "another" };
            let _ = write!(statements, "CREATE USER '{user}'@'{row}' IDENTIFIED BY '{password}';");
        }
    }
    // A privilege that hangs on the name alone: one account, two rows.
    statements.push_str(
        "INSERT INTO mysql.db (Host, Db, User, Select_priv) VALUES ('web1.corp.example', 'near', 'anybody', 'Y');
         FLUSH PRIVILEGES;",
    );
    server.sql(&statements)?;
    Ok(server)
}

struct Stage {
    server: Server,
    spillway: Spillway,
    port: u16,
}

fn stage(name: &str, server: Server, hosts: &Hosts, cluster: &str) -> Outcome<Stage> {
    let port = free_port()?;
    let nodes = format!("{{ solo = \"{}\" }}", server.address());
    let lines = format!("accounts_refresh = \"0s\"\nsource_address = \"{SOURCE}\"\n{cluster}");
    let configuration = lab::cluster_with("lab", "static", &nodes, &lines)
        + &lab::service_toml("lab", port, "route = \"cluster:lab\"");
    let program = hosts.wrap(lab::binary(), RunAs::Myself)?;
    let spillway = Spillway::start(&program, &format!("spillway-{name}"), &configuration)?;
    Ok(Stage { server, spillway, port })
}

/// Who the client is for the server, or the number of the error that it gets.
fn who(port: u16, user: &str, password: &str, schema: Option<&str>, from: Ipv4Addr) -> Outcome<String> {
    match raw::login(port, &Credentials::new(user, password, schema).from(from))? {
        Ok(mut session) => first_value(&session.query("SELECT CONCAT(USER(), ' as ', CURRENT_USER())")?),
        // How a name without an account is refused depends on the account that stands in for it.
        Err(refusal) if refusal.code == 1698 => Ok("1045".to_owned()),
        Err(refusal) => Ok(refusal.code.to_string()),
    }
}

impl Stage {
    fn who(&self, user: &str, from: Ipv4Addr) -> Outcome<String> {
        who(self.port, user, PASSWORD, None, from)
    }
}

fn announced() -> Verdict {
    let hosts = Hosts::new("names-announced-hosts", HOSTS, "files")?;
    let networks = format!("--proxy-protocol-networks={SOURCE}");
    let server = server("names-announced", &hosts, &[&networks])?;
    let cluster = "client_address = \"proxy-protocol\"\nresolve_names = true";
    let stage = stage("names-announced", server, &hosts, cluster)?;
    let mut let_in = 0;
    for (user, _) in ACCOUNTS {
        for from in [WEB1, WEB2, UNCONFIRMED, NUMERIC, NAMELESS] {
            for (password, schema) in [(PASSWORD, None), ("another", None), (PASSWORD, Some("near"))] {
                let direct = who(stage.server.port, user, password, schema, from)?;
                let proxied = who(stage.port, user, password, schema, from)?;
                let log = || stage.spillway.log_tail(5);
                same!(
                    proxied,
                    direct,
                    "{user} from {from} to {schema:?}: through Spillway and directly\n{}",
                    log()
                );
                let_in += usize::from(direct.contains(" as "));
            }
        }
    }
    ensure!(let_in > 10, "only {let_in} logins were let in, which proves nothing");
    // The names are what the test says they are.
    same!(stage.who("exact", WEB1)?, "exact@web1.corp.example as exact@web1.corp.example", "by its name");
    same!(stage.who("wild", WEB2)?, "wild@WEB2.Corp.Example as wild@%.corp.example", "by a wildcard");
    same!(stage.who("both", WEB1)?, "1045", "the row of the name has another password");
    same!(stage.who("hex", UNCONFIRMED)?, "1045", "a name that does not lead back");
    same!(who(stage.port, "anybody", PASSWORD, Some("near"), WEB2)?, "1044", "a schema of another host");

    let explained = |user: &str, from| stage.spillway.ask(&format!("explain login {user} {from}"));
    let answer = explained("exact", WEB1)?;
    ensure!(answer.contains("127.9.0.7 is web1.corp.example") && answer.contains("let in as"), "{answer}");
    let answer = explained("wild", UNCONFIRMED)?;
    ensure!(answer.contains("has no name that leads back") && answer.contains("refused"), "{answer}");
    let answer = explained("local", WEB1)?;
    ensure!(!answer.contains("web1"), "a name was looked up that does not matter: {answer}");
    let answer = stage.spillway.ask("show permissiveness")?;
    ensure!(!answer.contains("names of hosts are not resolved"), "{answer}");
    Ok(())
}

fn guarded() -> Verdict {
    let hosts = Hosts::new("names-guarded-hosts", HOSTS, "files")?;
    let server = server("names-guarded", &hosts, &[])?;
    let stage = stage("names-guarded", server, &hosts, "resolve_names = true")?;
    let wild = stage.who("wild", WEB1)?;
    same!(
        wild,
        "wild@proxy.corp.example as wild@%.corp.example",
        "the row is for both\n{}",
        stage.spillway.log_tail(5)
    );
    for (user, from) in [("exact", WEB1), ("wild", NAMELESS), ("wild", UNCONFIRMED), ("both", WEB1)] {
        same!(stage.who(user, from)?, "1045", "{user} from {from}");
    }
    ensure!(stage.who("both", WEB2)?.ends_with(" as both@%"), "both have no row of their own");
    Ok(())
}

/// Directly, the server knows the name and its row. Here it cannot be told, and so `both@'%'` opens nothing.
fn a_failed_lookup() -> Verdict {
    let hosts = Hosts::new("names-failing-server-hosts", HOSTS, "files")?;
    let networks = format!("--proxy-protocol-networks={SOURCE}");
    let server = server("names-failing", &hosts, &[&networks])?;
    let failing = Hosts::new("names-failing-hosts", "127.9.0.8 web2.corp.example", "files dns")?;
    let cluster = "client_address = \"proxy-protocol\"\nresolve_names = true";
    let stage = stage("names-failing", server, &failing, cluster)?;
    for user in ["both", "exact", "wild"] {
        same!(stage.who(user, WEB1)?, "1045", "{user}\n{}", stage.spillway.log_tail(5));
    }
    stage.spillway.wait_log("which is not known here")?;
    let answer = stage.spillway.ask(&format!("explain login both {WEB1}"))?;
    ensure!(answer.contains("cannot be told now") && answer.contains("refused"), "{answer}");
    // Names that are found, and users whom no name concerns, go on.
    same!(stage.who("wild", WEB2)?, "wild@WEB2.Corp.Example as wild@%.corp.example", "a name of the file");
    same!(stage.who("local", WEB1)?, "1045", "no row");
    Ok(())
}

fn off_by_default() -> Verdict {
    let hosts = Hosts::new("names-off-hosts", HOSTS, "files")?;
    let networks = format!("--proxy-protocol-networks={SOURCE}");
    let server = server("names-off", &hosts, &[&networks])?;
    let stage = stage("names-off", server, &hosts, "client_address = \"proxy-protocol\"")?;
    for user in ["exact", "wild", "both"] {
        same!(stage.who(user, WEB1)?, "1045", "{user}");
    }
    ensure!(
        stage.spillway.ask("show permissiveness")?.contains("names of hosts are not resolved"),
        "not shown"
    );
    Ok(())
}

fn servers_that_resolve_none() -> Verdict {
    let hosts = Hosts::new("names-none-hosts", HOSTS, "files")?;
    let networks = format!("--proxy-protocol-networks={SOURCE}");
    let server = server("names-none", &hosts, &[&networks, "--skip-name-resolve"])?;
    let cluster = "client_address = \"proxy-protocol\"\nresolve_names = true";
    let stage = stage("names-none", server, &hosts, cluster)?;
    for (user, _) in ACCOUNTS {
        for from in [WEB1, NAMELESS] {
            let direct = who(stage.server.port, user, PASSWORD, None, from)?;
            same!(stage.who(user, from)?, direct, "{user} from {from}\n{}", stage.spillway.log_tail(5));
        }
    }
    same!(stage.who("both", WEB1)?, format!("both@{WEB1} as both@%"), "the row of the name does not count");
    Ok(())
}
