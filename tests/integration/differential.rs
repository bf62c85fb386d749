//! Random accounts, random clients: whatever the server decides about a login, Spillway may be stricter for a reason that it
//! can name, and never more permissive.
//!
//! Every case asks the server directly and then through Spillway, from the same address, with or without TLS, with the same
//! user, password and schema, and compares verdict, error, `CURRENT_USER()`, grants, databases and what may be done in them. Less
//! of these last two is taken for stricter where `explain login` speaks of the subset rule. A disagreement is printed with the
//! fewest statements that still show it. `CASES=100000 cargo test --test integration -- differential --nocapture` runs longer,
//! `SEED=7` elsewhere.

use crate::harness::Outcome;
use crate::harness::mysql;
use crate::harness::proxy::Spillway;
use crate::harness::root::{MARIADB_10_5, MARIADB_11_8, Root};
use crate::harness::server::{MONITOR_PASSWORD, MONITOR_USER, Server, monitor_statements};
use crate::harness::workspace::{self, free_port};
use crate::lab;
use crate::raw::{self, Credentials, Raw, Refusal};
use crate::tls::{Authority, write};
use crate::{Verdict, mysql_trial, rooted_trial, trial};
use indicatif::{ProgressBar, ProgressStyle};
use libtest_mimic::Trial;
use rustls::ClientConfig;
use rustls::version::TLS13;
use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::io::Write as _;
use std::net::{Ipv4Addr, TcpStream};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::sync::Arc;

/// Clients that are tried with one set of accounts.
const CLIENTS: u64 = 80;
/// The same where there are few cases.
const FEW_CLIENTS: u64 = 25;

pub(crate) fn trials() -> Vec<Trial> {
    vec![
        trial("differential::guarded_near", || differential(Ipv4Addr::LOCALHOST, "guard", 1)),
        trial("differential::guarded_far", || differential(FAR, "guard", 2)),
        mysql_trial("differential::mysql_guarded_near", || mysql_differential(Ipv4Addr::LOCALHOST, 4)),
        mysql_trial("differential::mysql_guarded_far", || mysql_differential(FAR, 5)),
        trial("differential::announced", || differential(FAR, "proxy-protocol", 3)),
        version(&MARIADB_11_8, "differential::mariadb_11_8_guarded_near", Ipv4Addr::LOCALHOST, "guard", 6),
        version(&MARIADB_11_8, "differential::mariadb_11_8_guarded_far", FAR, "guard", 7),
        version(&MARIADB_11_8, "differential::mariadb_11_8_announced", FAR, "proxy-protocol", 8),
        version(&MARIADB_10_5, "differential::mariadb_10_5_guarded_near", Ipv4Addr::LOCALHOST, "guard", 9),
        version(&MARIADB_10_5, "differential::mariadb_10_5_guarded_far", FAR, "guard", 10),
        version(&MARIADB_10_5, "differential::mariadb_10_5_announced", FAR, "proxy-protocol", 11),
    ]
}

const FAR: Ipv4Addr = Ipv4Addr::new(127, 0, 1, 9);

// === what is tried ===

const USERS: &[&str] = &["ann", "ann", "ann", "bob", "bob", "Ann", "", "eve"];
/// What `MySQL` adds: networks by the length of their prefix, and an order of their own.
const MYSQL_HOSTS: &[&str] = &[
    "%",
    "127.0.0.%",
    "127.0.0.2",
    "127.0.0.3",
    "127.0.1.9",
    "127.0.0.1",
    "%.2",
    "127.0.0.0/255.255.255.0",
    "127.0.0.0/24",
    "127.0.0.2/31",
    "127.0.1.0/24",
    "127.0.0.0/8",
    "127.0.0.2/255.255.255.255",
    "127.0.0.5/24",
    "localhost",
    "_27.0.0.2",
];
/// The first of [`HOSTS`]: those that match many clients.
const BROAD: usize = 4;
const HOSTS: &[&str] = &[
    "%",
    "127.%",
    "127.0.%",
    "127.0.0.%",
    "127.0.1.%",
    "127.0.0._",
    "127.0.0.2",
    "127.0.0.3",
    "127.0.1.9",
    "127.0.0.1",
    "%.2",
    "%.0.0.2",
    "127.0.0.0/255.255.255.0",
    "127.0.0.0/255.255.255.252",
    "127.0.1.0/255.255.255.0",
    "127.0.0.2/255.255.255.255",
    "localhost",
    "10.%",
    "_27.0.0.2",
];
const PASSWORDS: &[&str] = &["one", "one", "one", "two", ""];
const SCHEMAS: &[&str] = &["data", "da_a", "logs", "none"];
const SCHEMA_PATTERNS: &[&str] = &["data", "da_a", "da\\\\_a", "lo%", "%", "logs"];
/// Words of a verdict that is stricter than the server's, and the name of the reason.
const REASONS: &[(&str, &str)] = &[
    ("grants differ by host", "grants differ by host"),
    ("cannot be told", "undecidable"),
    ("as far as can be told", "database access undecidable"),
    ("from the proxy's address", "database lost by the subset rule"),
];
/// Words of a verdict that lets in with less.
const LESS: &str = "by the subset rule";
/// Statements that a session is tried with, each for one kind of row; they change nothing.
const TRIALS: &[&str] = &[
    "SELECT word FROM data.words WHERE FALSE",
    "INSERT INTO data.words SELECT 'x' FROM DUAL WHERE FALSE",
    "SELECT word FROM da_a.words WHERE FALSE",
    "INSERT INTO da_a.words SELECT 'x' FROM DUAL WHERE FALSE",
    "SELECT word FROM logs.words WHERE FALSE",
    "INSERT INTO logs.words SELECT 'x' FROM DUAL WHERE FALSE",
    "UPDATE logs.words SET word = 'x' WHERE FALSE",
];
const ADDRESSES: &[Ipv4Addr] = &[
    Ipv4Addr::LOCALHOST,
    Ipv4Addr::new(127, 0, 0, 2),
    Ipv4Addr::new(127, 0, 0, 3),
    Ipv4Addr::new(127, 0, 0, 9),
    Ipv4Addr::new(127, 0, 1, 2),
    Ipv4Addr::new(127, 0, 1, 9),
    Ipv4Addr::new(127, 5, 0, 2),
];

/// One login.
#[derive(Debug, Clone, Copy)]
struct Client {
    user: &'static str,
    password: &'static str,
    schema: Option<&'static str>,
    address: Ipv4Addr,
    door: Door,
}

/// How a client comes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Door {
    Plain,
    Tls,
    /// Spillway's Unix socket: like a client at Spillway's own address, as the server sees it.
    Socket,
}

/// A small generator of numbers: the same seed gives the same cases on every machine.
pub(crate) struct Dice(u64);

impl Dice {
    /// What `SEED` in the environment gives. `stream`: independent of the others.
    pub(crate) fn new(stream: u64) -> Self {
        Self(number("SEED", 20_261_125).wrapping_mul(0x9E37_79B9_7F4A_7C15) ^ stream)
    }

    fn roll(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    pub(crate) fn below(&mut self, limit: u64) -> u64 {
        self.roll() % limit
    }

    fn one_in(&mut self, n: u64) -> bool {
        self.below(n) == 0
    }

    fn pick<T: Copy>(&mut self, from: &[T]) -> T {
        from[self.below(from.len() as u64) as usize]
    }

    /// Statements that make a set of accounts.
    fn accounts(&mut self) -> Vec<String> {
        let mut statements = vec!["CREATE ROLE clerks".to_owned()];
        if self.one_in(2) {
            statements.push(format!("GRANT SELECT ON `{}`.* TO clerks", self.pick(SCHEMA_PATTERNS)));
        }
        let mut names = Vec::new();
        for _ in 0..2 + self.below(6) {
            let hosts = if self.one_in(2) { &HOSTS[..BROAD] } else { HOSTS };
            let name = format!("'{}'@'{}'", self.pick(USERS), self.pick(hosts));
            if names.contains(&name) {
                continue;
            }
            let password = self.pick(PASSWORDS);
            let mut create = format!("CREATE USER {name}");
            if !password.is_empty() {
                let other = self.pick(PASSWORDS);
                if self.one_in(6) && !other.is_empty() {
                    let way = |text: &str| format!("mysql_native_password USING PASSWORD('{text}')");
                    let _ = write!(create, " IDENTIFIED VIA {} OR {}", way(password), way(other));
                } else {
                    let _ = write!(create, " IDENTIFIED BY '{password}'");
                }
            }
            if self.one_in(12) {
                create.push_str(" REQUIRE SSL");
            }
            match self.below(14) {
                0 => create.push_str(" ACCOUNT LOCK"),
                1 => create.push_str(" PASSWORD EXPIRE"),
                _ => {}
            }
            statements.push(create);
            if self.one_in(3) {
                statements.push(format!("GRANT clerks TO {name}"));
                if self.one_in(2) && !name.starts_with("''") {
                    statements.push(format!("SET DEFAULT ROLE clerks FOR {name}"));
                }
            }
            if self.one_in(8) {
                statements.push(format!("GRANT SELECT ON *.* TO {name}"));
            }
            names.push(name);
        }
        self.grants(&names, &mut statements);
        statements
    }

    /// The same, with something for everybody at times; a server that knows no `PUBLIC` refuses that.
    fn accounts_and_public(&mut self) -> Vec<String> {
        let mut statements = self.accounts();
        if self.one_in(3) {
            let what = self.pick(&[
                "SELECT ON data.words",
                "UPDATE (word) ON logs.words",
                "SELECT ON `da_a`.*",
                "SELECT, INSERT ON `lo%`.*",
            ]);
            statements.push(format!("GRANT {what} TO PUBLIC"));
        }
        statements
    }

    /// Grants on schemas, tables and columns.
    fn grants(&mut self, names: &[String], statements: &mut Vec<String>) {
        for _ in 0..self.below(7) {
            let name = &names[self.below(names.len() as u64) as usize];
            statements.push(match self.below(6) {
                0 => format!("GRANT SELECT ON data.words TO {name}"),
                1 => format!("GRANT UPDATE (word) ON logs.words TO {name}"),
                2 => format!("GRANT SELECT ON `{}`.* TO {name}", self.pick(SCHEMA_PATTERNS)),
                _ => format!("GRANT SELECT, INSERT ON `{}`.* TO {name}", self.pick(SCHEMA_PATTERNS)),
            });
        }
        // Rows without an account, as a dropped one or a hand may leave them.
        for _ in 0..self.below(4) {
            let (host, db, user) =
                (self.pick(HOSTS), self.pick(SCHEMA_PATTERNS), self.pick(&["ann", "ann", "bob", ""]));
            let insert = self.pick(&["Y", "N"]);
            statements.push(format!(
                "INSERT INTO mysql.db (Host, Db, User, Select_priv, Insert_priv) VALUES ('{host}', '{db}', '{user}', \
                 'Y', '{insert}')"
            ));
        }
        statements.push("FLUSH PRIVILEGES".to_owned());
    }

    fn client(&mut self) -> Client {
        Client {
            user: self.pick(&["ann", "ann", "ann", "bob", "bob", "Ann", "eve", "nobody"]),
            password: self.pick(PASSWORDS),
            schema: if self.one_in(2) { Some(self.pick(SCHEMAS)) } else { None },
            address: self.pick(ADDRESSES),
            door: self.pick(&[Door::Plain, Door::Plain, Door::Plain, Door::Plain, Door::Tls, Door::Socket]),
        }
    }
}

// === what comes of it ===

/// What a login came to.
#[derive(Debug, PartialEq, Eq)]
enum Came {
    In(Inside),
    Refused { code: u16, message: String },
}

/// What a session sees and may do.
#[derive(Debug, PartialEq, Eq)]
struct Inside {
    /// `CURRENT_USER()` and grants.
    who: Vec<String>,
    databases: Vec<String>,
    /// Which of [`TRIALS`] were carried out.
    may: Vec<bool>,
}

impl Inside {
    /// Whether the same user has nothing here that it would not have in `whole`.
    fn is_within(&self, whole: &Self) -> bool {
        self.who == whole.who
            && self.databases.iter().all(|name| whole.databases.contains(name))
            && self.may.iter().zip(&whole.may).all(|(here, there)| !here || *there)
    }
}

/// Two servers' worth of doors to the same accounts.
pub(crate) struct Stage {
    pub(crate) server: Server,
    pub(crate) spillway: Spillway,
    pub(crate) port: u16,
    /// Spillway's Unix socket.
    pub(crate) socket: PathBuf,
    /// The address that the server sees of Spillway.
    source: Ipv4Addr,
    /// Vouches for the certificates of the server and of Spillway.
    pub(crate) authority: Authority,
    /// Clients that trust these certificates. Each remembers sessions of its own.
    pub(crate) clients: [Arc<ClientConfig>; 2],
}

impl Stage {
    pub(crate) fn set_up(name: &str, source: Ipv4Addr, way: &str) -> Outcome<Self> {
        Self::set_up_in(None, name, source, way)
    }

    /// The same with a server of another version.
    pub(crate) fn set_up_in(
        home: Option<&'static Root>,
        name: &str,
        source: Ipv4Addr,
        way: &str,
    ) -> Outcome<Self> {
        let networks = format!("--proxy-protocol-networks={source}");
        let mut options = vec!["--skip-name-resolve", "--character-set-server=utf8mb4"];
        if way != "guard" {
            options.push(&networks);
        }
        let server = match home {
            None => Server::prepare(name, &options)?,
            Some(home) => Server::prepare_in(home, name, &options)?,
        };
        let (server, authority) = with_tls(server)?;
        server.create_monitor()?;
        server.sql(
            "CREATE DATABASE data; CREATE DATABASE da_a; CREATE DATABASE logs;
             CREATE TABLE data.words (word TEXT); CREATE TABLE logs.words (word TEXT); CREATE TABLE da_a.words (word TEXT);
             DELETE FROM mysql.db WHERE User = ''; DROP USER IF EXISTS ''@localhost; FLUSH PRIVILEGES;",
        )?;
        // No account of a case comes before an exact one.
        for host in [Ipv4Addr::LOCALHOST, source] {
            let statements = monitor_statements().replace("'@'%'", &format!("'@'{host}'"));
            server.sql(&statements.replace("CREATE USER", "CREATE USER IF NOT EXISTS"))?;
        }
        server.sql(&format!("DROP USER '{MONITOR_USER}'@'%'"))?;
        Self::before(server, authority, name, source, way)
    }

    /// A Spillway before a server that is ready.
    fn before(
        server: Server,
        authority: Authority,
        name: &str,
        source: Ipv4Addr,
        way: &str,
    ) -> Outcome<Self> {
        let port = free_port()?;
        let directory = workspace::directory(&format!("spillway-{name}-files"))?;
        let issued = authority.server()?;
        write(&directory, "nodes.pem", &authority.pem)?;
        write(&directory, "tls.crt", &issued.certificate)?;
        write(&directory, "tls.key", &issued.key)?;
        let (files, socket) = (directory.display(), directory.join("app.sock"));
        let configuration = format!(
            "[cluster.lab]\nkind = \"static\"\nnodes = {{ solo = \"{}\" }}\naccounts_refresh = \"0s\"\n\
             source_address = \"{source}\"\nclient_address = \"{way}\"\nmonitor = {{ user = \"{MONITOR_USER}\", password = \
             \"{MONITOR_PASSWORD}\" }}\ntls = {{ ca = \"{files}/nodes.pem\" }}\n\n{}",
            server.address(),
            lab::service_toml(
                "lab",
                port,
                &format!(
                    "route = \"cluster:lab\"\ntls = {{ certificate = \"{files}/tls.crt\", key = \"{files}/tls.key\" }}"
                )
            )
            .replace("listen = [", &format!("listen = [\"unix:{}\", ", socket.display())),
        );
        let spillway = Spillway::start(lab::binary(), &format!("spillway-{name}"), &configuration)?;
        let clients = [authority.trusted_by(&TLS13, None)?, authority.trusted_by(&TLS13, None)?];
        Ok(Self { server, spillway, port, socket, source, authority, clients })
    }

    /// Replaces all accounts but the monitor's and root's.
    fn use_accounts(&self, statements: &[String]) -> Outcome<()> {
        let mut script = format!(
            "DELETE FROM mysql.global_priv WHERE User NOT IN ('root', 'mariadb.sys', '{MONITOR_USER}');
             DELETE FROM mysql.roles_mapping; DELETE FROM mysql.db; DELETE FROM mysql.tables_priv WHERE User <> 'mariadb.sys'
             AND User <> '{MONITOR_USER}';
             DELETE FROM mysql.columns_priv; FLUSH PRIVILEGES;\n"
        );
        for statement in statements {
            script.push_str(statement);
            script.push_str(";\n");
        }
        // A few are refused, such as a default role that was not granted: as good as left out.
        self.server.sql_going_on(&script)?;
        self.spillway.reload_accounts()
    }

    fn directly(&self, client: &Client) -> Outcome<Came> {
        let address = if client.door == Door::Socket { self.source } else { client.address };
        Self::came(raw::login(self.server.port, &credentials(client, address, &self.clients[0]))?)
    }

    fn through(&self, client: &Client) -> Outcome<Came> {
        let who = credentials(client, client.address, &self.clients[1]);
        if client.door != Door::Socket {
            return Self::came(raw::login(self.port, &who)?);
        }
        let stream = UnixStream::connect(&self.socket).map_err(|e| e.to_string())?;
        Self::came(raw::login_over(TcpStream::from(OwnedFd::from(stream)), &who)?)
    }

    fn came(login: raw::Login) -> Outcome<Came> {
        let mut session: Raw = match login {
            Ok(session) => session,
            Err(Refusal { code, message, .. }) => return Ok(Came::Refused { code, message }),
        };
        let mut texts = |sql: &str| -> Outcome<Vec<String>> {
            Ok(session
                .query(sql)?
                .iter()
                .map(|packet| String::from_utf8_lossy(packet).into_owned())
                .collect())
        };
        let mut who = Vec::new();
        for sql in ["SELECT CURRENT_USER(), CURRENT_ROLE(), DATABASE()", "SHOW GRANTS"] {
            who.push(texts(sql)?.concat());
        }
        let databases = texts("SHOW DATABASES")?;
        let mut may = Vec::new();
        for sql in TRIALS {
            may.push(session.query(sql)?.last().is_some_and(|packet| packet.first() != Some(&0xff)));
        }
        Ok(Came::In(Inside { who, databases, may }))
    }

    /// Both answers, and whether they agree: `Err` with a text if not, `Ok` with the reason for being stricter if there
    /// is one.
    fn compare(&self, client: &Client) -> Outcome<Result<Option<String>, String>> {
        let (direct, proxied) = (self.directly(client)?, self.through(client)?);
        if direct == proxied {
            return Ok(Ok(None));
        }
        let show = || format!("{client:?}\n  directly: {direct:?}\n  through spillway: {proxied:?}");
        // Of an anonymous account that is locked, MySQL prints a name that is not there.
        if let (Came::Refused { code: 3118, message }, Came::Refused { code: 3118, .. }) = (&direct, &proxied)
            && message.contains("'(null)'")
        {
            return Ok(Ok(None));
        }
        // For a name that it does not know, the server tries the password on any other account, and its answer shows
        // which kind that was. Spillway says the same to every unknown name.
        if let (Came::Refused { code: 1698, .. }, Came::Refused { code: 1045, .. }) = (&direct, &proxied) {
            return Ok(Ok(Some("unknown names are not told apart".to_owned())));
        }
        let is_less =
            matches!((&direct, &proxied), (Came::In(whole), Came::In(inside)) if inside.is_within(whole));
        if matches!(proxied, Came::In(_)) && !is_less {
            return Ok(Err(format!("more permissive: {}", show())));
        }
        // A stricter verdict, or another error, must have a reason that operators can read.
        let (address, transport) = match client.door {
            Door::Plain => (client.address.to_string(), "plain"),
            Door::Tls => (client.address.to_string(), "tls"),
            Door::Socket => ("socket".to_owned(), "plain"),
        };
        let explain = |database: &str| {
            self.spillway.get(&format!(
                "/v1/explain/login?user={}&address={address}&transport={transport}&database={database}",
                client.user
            ))
        };
        // The explanation goes on behind a refusal: what it says there is no reason for that.
        let said = |answer: &serde_json::Value, of: &str, is_it: &dyn Fn(&str) -> bool| {
            let steps = answer["steps"].as_array().map_or(&[][..], Vec::as_slice);
            steps.iter().any(|step| step["step"] == of && step["text"].as_str().is_some_and(is_it))
        };
        let answer = explain(client.schema.unwrap_or(""))?;
        let reason = if is_less {
            said(&answer, "proxy host", &|text| text.contains(LESS)).then_some("less by the subset rule")
        } else {
            // A login is judged without its schema, which the node looks at afterwards.
            let without = explain("")?;
            let refused_for = |words: &str| {
                let is_it = |text: &str| text.starts_with("refused") && text.contains(words);
                said(&answer, "verdict", &is_it) || said(&without, "verdict", &is_it)
            };
            REASONS.iter().find(|(words, _)| refused_for(words)).map(|(_, name)| *name)
        };
        match reason {
            Some(name) => Ok(Ok(Some(name.to_owned()))),
            None => Ok(Err(format!("no reason: {}\n  {answer}", show()))),
        }
    }
}

impl Dice {
    /// Statements that make a set of accounts of `MySQL`.
    fn mysql_accounts(&mut self) -> Vec<String> {
        let mut statements = Vec::new();
        if self.one_in(2) {
            statements.push("CREATE ROLE clerks".to_owned());
            statements.push(format!("GRANT SELECT ON `{}`.* TO clerks", self.pick(SCHEMA_PATTERNS)));
        }
        let mut names = Vec::new();
        for _ in 0..2 + self.below(6) {
            let hosts = if self.one_in(2) { &HOSTS[..BROAD] } else { MYSQL_HOSTS };
            let name = format!("'{}'@'{}'", self.pick(USERS), self.pick(hosts));
            if names.contains(&name) {
                continue;
            }
            let password = self.pick(PASSWORDS);
            let mut create = format!("CREATE USER {name}");
            if !password.is_empty() {
                let _ = write!(create, " IDENTIFIED BY '{password}'");
            }
            if self.one_in(12) {
                create.push_str(" REQUIRE SSL");
            }
            match self.below(14) {
                0 => create.push_str(" ACCOUNT LOCK"),
                1 => create.push_str(" PASSWORD EXPIRE"),
                _ => {}
            }
            statements.push(create);
            if !password.is_empty() && self.one_in(8) {
                let other = self.pick(PASSWORDS);
                if !other.is_empty() {
                    statements
                        .push(format!("ALTER USER {name} IDENTIFIED BY '{other}' RETAIN CURRENT PASSWORD"));
                }
            }
            if self.one_in(3) && !name.starts_with("''") {
                statements.push(format!("GRANT clerks TO {name}"));
                if self.one_in(2) {
                    statements.push(format!("SET DEFAULT ROLE clerks TO {name}"));
                }
            }
            if self.one_in(8) {
                statements.push(format!("GRANT SELECT ON *.* TO {name}"));
            }
            names.push(name);
        }
        self.grants(&names, &mut statements);
        statements
    }
}

impl Stage {
    pub(crate) fn set_up_mysql(name: &str, source: Ipv4Addr) -> Outcome<Self> {
        let server = Server::prepare_mysql(name, &["--skip-name-resolve", "--performance-schema=OFF"])?;
        let (server, authority) = with_tls(server)?;
        server.sql(
            "CREATE DATABASE data; CREATE DATABASE da_a; CREATE DATABASE logs;
             CREATE TABLE data.words (word TEXT); CREATE TABLE logs.words (word TEXT); CREATE TABLE da_a.words (word TEXT);",
        )?;
        for host in [Ipv4Addr::LOCALHOST, source] {
            let statements = mysql::monitor_statements().replace("'@'%'", &format!("'@'{host}'"));
            server.sql(&statements.replace("CREATE USER", "CREATE USER IF NOT EXISTS"))?;
        }
        Self::before(server, authority, name, source, "guard")
    }

    fn use_mysql_accounts(&self, statements: &[String]) -> Outcome<()> {
        let keep = format!("User NOT IN ('root', '{MONITOR_USER}') AND User NOT LIKE 'mysql.%'");
        let mut script = String::new();
        for table in ["user", "db", "tables_priv", "columns_priv", "global_grants"] {
            let _ = writeln!(script, "DELETE FROM mysql.{table} WHERE {keep};");
        }
        script.push_str("DELETE FROM mysql.role_edges; DELETE FROM mysql.default_roles; FLUSH PRIVILEGES;\n");
        for statement in statements {
            script.push_str(statement);
            script.push_str(";\n");
        }
        self.server.sql_going_on(&script)?;
        self.spillway.reload_accounts()
    }
}

fn credentials(client: &Client, address: Ipv4Addr, tls: &Arc<ClientConfig>) -> Credentials<'static> {
    let tls = (client.door == Door::Tls).then(|| Arc::clone(tls));
    Credentials { tls, ..Credentials::new(client.user, client.password, client.schema).from(address) }
}

/// Starts a server with a certificate, and gives the authority that vouches for it.
fn with_tls(mut server: Server) -> Outcome<(Server, Authority)> {
    let authority = Authority::new("differential")?;
    let issued = authority.server()?;
    for (option, name, content) in
        [("--ssl-cert", "tls.crt", &issued.certificate), ("--ssl-key", "tls.key", &issued.key)]
    {
        let path = server.file(name, content)?;
        server.option(format!("{option}={path}"));
    }
    server.start(&[])?;
    Ok((server, authority))
}

fn number(name: &str, default: u64) -> u64 {
    std::env::var(name).ok().and_then(|text| text.parse().ok()).unwrap_or(default)
}

fn differential(source: Ipv4Addr, way: &str, stream: u64) -> Verdict {
    let stage = Stage::set_up(&format!("differential-{stream}"), source, way)?;
    let what = format!("from {source}, {way}");
    run(&stage, &what, (number("CASES", 12_000) / 3, CLIENTS), stream, Dice::accounts, Stage::use_accounts)
}

/// A few of the cases against a server of another version.
fn version(home: &'static Root, name: &str, source: Ipv4Addr, way: &'static str, stream: u64) -> Trial {
    rooted_trial(home, name, move || {
        let stage = Stage::set_up_in(Some(home), &format!("differential-{stream}"), source, way)?;
        let what = format!("from {source}, {}, {way}", home.title);
        run(
            &stage,
            &what,
            // Of fewer, by chance, nobody might be let in.
            ((number("CASES", 12_000) / 40).max(300), FEW_CLIENTS),
            stream,
            Dice::accounts_and_public,
            Stage::use_accounts,
        )
    })
}

fn mysql_differential(source: Ipv4Addr, stream: u64) -> Verdict {
    let stage = Stage::set_up_mysql(&format!("differential-{stream}"), source)?;
    let what = format!("from {source}, MySQL, guard");
    run(
        &stage,
        &what,
        (number("CASES", 12_000) / 5, CLIENTS),
        stream,
        Dice::mysql_accounts,
        Stage::use_mysql_accounts,
    )
}

fn run(
    stage: &Stage,
    what: &str,
    (cases, clients): (u64, u64),
    stream: u64,
    make: fn(&mut Dice) -> Vec<String>,
    install: fn(&Stage, &[String]) -> Outcome<()>,
) -> Verdict {
    let mut dice = Dice::new(stream);
    let style = ProgressStyle::with_template("{bar:40} {pos}/{len} cases ({eta} to go) {msg}");
    let bar = ProgressBar::new(cases).with_style(style.map_err(|e| e.to_string())?);
    let mut stricter: BTreeMap<String, u64> = BTreeMap::new();
    let (mut done, mut let_in) = (0, 0);
    while done < cases {
        let accounts = make(&mut dice);
        install(stage, &accounts)?;
        for _ in 0..clients.min(cases - done) {
            let client = dice.client();
            match stage.compare(&client)? {
                Ok(None) => {}
                Ok(Some(reason)) => *stricter.entry(reason).or_default() += 1,
                Err(disagreement) => return Err(smallest(stage, install, accounts, &client, disagreement)),
            }
            if matches!(stage.through(&client)?, Came::In(_)) {
                let_in += 1;
            }
            done += 1;
            bar.inc(1);
        }
        bar.set_message(format!("{let_in} let in, stricter {stricter:?}"));
    }
    bar.finish_and_clear();
    let summary = format!("{cases} cases {what}: {let_in} let in; stricter: {stricter:?}\n");
    std::io::stderr().write_all(summary.as_bytes()).map_err(|e| e.to_string())?;
    // A test in which nearly everybody is refused would prove little.
    if let_in * 25 < cases {
        return Err(format!("only {let_in} of {cases} logins were let in"));
    }
    Ok(())
}

/// Leaves out statements for as long as the disagreement stays.
fn smallest(
    stage: &Stage,
    install: fn(&Stage, &[String]) -> Outcome<()>,
    mut accounts: Vec<String>,
    client: &Client,
    mut disagreement: String,
) -> String {
    let mut at = 0;
    while at < accounts.len() {
        let mut fewer = accounts.clone();
        fewer.remove(at);
        match install(stage, &fewer).and_then(|()| stage.compare(client)) {
            Ok(Err(still)) => (accounts, disagreement) = (fewer, still),
            _ => at += 1,
        }
    }
    format!("{disagreement}\n  with these accounts:\n    {}", accounts.join(";\n    "))
}
