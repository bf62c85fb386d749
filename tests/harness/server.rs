//! One server on loopback, with its own data directory.

use super::network::Host;
use super::process::{Process, RunAs};
use super::resolver::Hosts;
use super::root::{self, Root};
use super::{Outcome, PATIENCE, client, mysql, wait_for, workspace};
use std::fs;
use std::io::{BufRead as _, BufReader, Write as _};
use std::net::{Ipv4Addr, SocketAddr};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::time::Duration;

/// How long a server may take from its start until it answers on its socket.
const START_LIMIT: Duration = Duration::from_mins(2);

/// User and password of the account with which Spillway looks at the servers.
pub(crate) const MONITOR_USER: &str = "spillway";
/// See [`MONITOR_USER`].
pub(crate) const MONITOR_PASSWORD: &str = "monitor-secret";

/// Whose server it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Make {
    /// `mariadbd`: this machine's, or one in a [`Root`] of its own.
    MariaDb,
    /// `mysqld` in its own [`Root`].
    MySql,
}

/// Options of every server. Small and quick rather than durable: the data lives as long as the test.
const OPTIONS: &[&str] = &[
    "--max-allowed-packet=128M",
    // Tests that count connections have servers of their own; those that ended may not have left yet.
    "--max-connections=1500",
    // The server speaks first: a connection that overflows its backlog hangs for ever.
    "--back-log=2048",
    "--local-infile=1",
    "--innodb-buffer-pool-size=64M",
    "--innodb-flush-log-at-trx-commit=0",
    "--innodb-flush-method=nosync",
    "--innodb-doublewrite=0",
    "--innodb-fast-shutdown=2",
    "--sync-binlog=0",
    "--key-buffer-size=1M",
    "--net-read-timeout=120",
    "--net-write-timeout=120",
];

/// And of `MariaDB` alone.
const MARIADB_OPTIONS: &[&str] =
    &["--innodb-log-file-size=32M", "--aria-pagecache-buffer-size=8M", "--performance-schema=OFF"];

/// One server.
pub(crate) struct Server {
    /// The node's name in the tests' configuration.
    pub(crate) name: String,
    /// Whose server it is.
    pub(crate) make: Make,
    /// Where it listens: 127.0.0.1, unless it has a host of its own.
    pub(crate) host: Ipv4Addr,
    /// TCP port there.
    pub(crate) port: u16,
    /// Where it lives, unless it is this machine's.
    home: Option<&'static Root>,
    directory: PathBuf,
    options: Vec<String>,
    /// What is started in place of `mariadbd`, as the user of this process.
    wrapper: Option<PathBuf>,
    process: Option<Process>,
}

impl Server {
    /// Makes the data directory of a `MariaDB` server; it is not started yet.
    ///
    /// `options` are server options such as `--skip-name-resolve`; they win over the harness's own.
    pub(crate) fn prepare(name: &str, options: &[&str]) -> Outcome<Self> {
        let directory = workspace::directory(name)?;
        workspace::data_directory(&directory.join("data"))?;
        Self::with_directory(None, name, directory, options)
    }

    /// The same for a server in a root of its own; fails where there is none, see [`Root::path`].
    pub(crate) fn prepare_in(home: &'static Root, name: &str, options: &[&str]) -> Outcome<Self> {
        let directory = home.directory(name)?;
        home.data_directory(&directory.join("data"))?;
        Self::with_directory(Some(home), name, directory, options)
    }

    /// The same for a `MySQL` server.
    pub(crate) fn prepare_mysql(name: &str, options: &[&str]) -> Outcome<Self> {
        Self::prepare_in(&root::MYSQL, name, options)
    }

    fn with_directory(
        home: Option<&'static Root>,
        name: &str,
        directory: PathBuf,
        options: &[&str],
    ) -> Outcome<Self> {
        let options = options.iter().map(|&option| option.to_owned()).collect();
        let port = workspace::free_port()?;
        Ok(Self {
            name: name.to_owned(),
            make: home.map_or(Make::MariaDb, |home| home.make),
            host: Ipv4Addr::LOCALHOST,
            port,
            home,
            directory,
            options,
            wrapper: None,
            process: None,
        })
    }

    /// A plain `MariaDB` server that runs and answers.
    pub(crate) fn standalone(name: &str, options: &[&str]) -> Outcome<Self> {
        let mut server = Self::prepare(name, options)?;
        server.start(&[])?;
        Ok(server)
    }

    /// A plain `MySQL` server that runs and answers.
    pub(crate) fn mysql(name: &str, options: &[&str]) -> Outcome<Self> {
        let mut server = Self::prepare_mysql(name, options)?;
        server.start(&[])?;
        Ok(server)
    }

    /// Adds an option for the next start.
    pub(crate) fn option(&mut self, option: String) {
        self.options.push(option);
    }

    /// Names hosts by `hosts` alone from its next start on; for a `MariaDB` server.
    pub(crate) fn resolve_by(&mut self, hosts: &Hosts) -> Outcome<()> {
        self.wrapper = Some(hosts.wrap(Path::new(workspace::mariadbd()), RunAs::Server)?);
        Ok(())
    }

    /// Runs on a host of its own from its next start on; for a `MariaDB` server.
    pub(crate) fn run_on(&mut self, host: &Host) -> Outcome<()> {
        self.wrapper = Some(host.wrap(Path::new(workspace::mariadbd()), &self.directory)?);
        self.host = host.address;
        Ok(())
    }

    /// Puts a file into the server's directory and returns its path as the server sees it.
    pub(crate) fn file(&self, name: &str, content: &str) -> Outcome<String> {
        let path = self.directory.join(name);
        fs::write(&path, content).map_err(|e| format!("{}: {e}", path.display()))?;
        fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).map_err(|e| e.to_string())?;
        match self.home {
            None => workspace::give_to_server_user(&path)?,
            Some(home) => home.give_to_server_user(&path)?,
        }
        self.seen(&path)
    }

    /// Starts the server, with `once` as options of this start alone, and waits until it answers.
    pub(crate) fn start(&mut self, once: &[&str]) -> Outcome<()> {
        self.launch(once)?;
        self.wait_until_up(START_LIMIT)
    }

    /// Starts the server without waiting.
    pub(crate) fn launch(&mut self, once: &[&str]) -> Outcome<()> {
        let mut arguments = vec![
            "--no-defaults".to_owned(),
            format!("--datadir={}", self.seen(&self.directory.join("data"))?),
            format!("--socket={}", self.seen(&self.socket())?),
            format!("--bind-address={}", self.host),
            format!("--port={}", self.port),
            format!("--pid-file={}", self.seen(&self.directory.join("pid"))?),
            format!("--log-error={}", self.seen(&self.log())?),
            format!("--tmpdir={}", self.seen(&self.directory)?),
        ];
        let of_make = match self.make {
            Make::MariaDb => MARIADB_OPTIONS,
            Make::MySql => mysql::OPTIONS,
        };
        arguments.extend(OPTIONS.iter().chain(of_make).map(|&option| option.to_owned()));
        arguments.extend(self.options.iter().cloned());
        arguments.extend(once.iter().map(|&option| option.to_owned()));
        let output = self.directory.join("output.log");
        let process = match self.home {
            None => {
                let (program, run_as) = match &self.wrapper {
                    Some(wrapper) => (wrapper.as_path(), RunAs::Myself),
                    None => (Path::new(workspace::mariadbd()), RunAs::Server),
                };
                Process::start(&self.name, program, &arguments, &[], &output, run_as)?
            }
            Some(home) => home.start(&self.name, &arguments, &output)?,
        };
        self.process = Some(process);
        Ok(())
    }

    /// A path as the server sees it.
    fn seen(&self, path: &Path) -> Outcome<String> {
        self.home.map_or_else(|| Ok(path.display().to_string()), |home| home.inside(path))
    }

    /// Waits until the server answers on its socket; a server that ended is reported at once.
    pub(crate) fn wait_until_up(&mut self, limit: Duration) -> Outcome<()> {
        let start = std::time::Instant::now();
        loop {
            match self.sql("SELECT 1") {
                Ok(_) => return Ok(()),
                Err(reason) => {
                    let ended = self.process.as_mut().and_then(Process::ended);
                    if ended.is_some() || start.elapsed() > limit {
                        let tail = workspace::tail(&self.log(), 40);
                        return Err(format!(
                            "server {} does not start ({ended:?}): {reason}\n{tail}",
                            self.name
                        ));
                    }
                }
            }
            std::thread::sleep(Duration::from_millis(100));
        }
    }

    /// Runs statements as administrator over the server's socket.
    pub(crate) fn sql(&self, statements: &str) -> Outcome<String> {
        let mut command = self.administrator()?;
        command.args(["--raw", "--skip-column-names"]);
        let printed = client::run_with_input(&mut command, statements.as_bytes())?;
        let text = printed.success().map_err(|reason| format!("server {}: {reason}", self.name))?;
        Ok(text.trim_end().to_owned())
    }

    /// A client of the administrator that stays.
    pub(crate) fn session(&self) -> Outcome<AdminSession> {
        AdminSession::open(self.administrator()?, &self.name)
    }

    /// The same as [`Self::sql`], passing over statements that the server refuses.
    #[allow(dead_code, reason = "not every program of the harness makes statements at random")]
    pub(crate) fn sql_going_on(&self, statements: &str) -> Outcome<()> {
        let mut command = self.administrator()?;
        command.arg("--force");
        client::run_with_input(&mut command, statements.as_bytes()).map(drop)
    }

    /// The client program as administrator, in batch mode.
    fn administrator(&self) -> Outcome<Command> {
        let (mut command, user) = match self.home {
            None => (Command::new("mariadb"), workspace::current_user()),
            Some(home) => (home.client()?, "root"),
        };
        command.args(["--no-defaults", "--batch"]);
        if self.make == Make::MariaDb {
            // From 11.4 on the program verifies certificates, on a socket as well.
            command.arg("--skip-ssl");
        }
        command.arg(format!("--socket={}", self.seen(&self.socket())?));
        command.arg(format!("--user={user}"));
        Ok(command)
    }

    /// Whether it is a `MariaDB` of at least this version.
    pub(crate) fn is_mariadb_at_least(&self, least: (u32, u32)) -> Outcome<bool> {
        let version = self.sql("SELECT VERSION()")?;
        let mut numbers = version.split('.').map(str::parse::<u32>);
        match (numbers.next(), numbers.next()) {
            (Some(Ok(major)), Some(Ok(minor))) => Ok(self.make == Make::MariaDb && (major, minor) >= least),
            _ => Err(format!("server {}: version {version:?}", self.name)),
        }
    }

    /// Where it listens.
    pub(crate) fn address(&self) -> SocketAddr {
        SocketAddr::from((self.host, self.port))
    }

    /// Ends the server as a power failure would, and waits until it is gone.
    pub(crate) fn kill(&mut self) {
        if let Some(mut process) = self.process.take() {
            process.kill();
        }
    }

    /// Asks the server to end (SIGTERM) and waits until it has.
    pub(crate) fn stop(&mut self) -> Outcome<()> {
        if let Some(mut process) = self.process.take() {
            process.terminate()?;
            process.wait(PATIENCE)?;
        }
        Ok(())
    }

    /// Keeps a copy of the data of a server that does not run.
    #[allow(dead_code, reason = "not every program of the harness loses data")]
    pub(crate) fn keep_data(&self) -> Outcome<()> {
        let (data, kept) = (self.directory.join("data"), self.directory.join("kept"));
        super::process::run(Command::new("cp").arg("-a").arg(data).arg(kept)).map(drop)
    }

    /// Puts that copy in the place of the data of a server that does not run: what came since is lost.
    #[allow(dead_code, reason = "not every program of the harness loses data")]
    pub(crate) fn lose_data(&self) -> Outcome<()> {
        let (data, kept) = (self.directory.join("data"), self.directory.join("kept"));
        fs::remove_dir_all(&data).map_err(|e| format!("{}: {e}", data.display()))?;
        fs::rename(&kept, &data).map_err(|e| format!("{}: {e}", kept.display()))
    }

    /// Ends the server and removes all that it had.
    pub(crate) fn discard(mut self) {
        self.kill();
        // What cannot be removed now goes with the run.
        let _ = fs::remove_dir_all(&self.directory);
    }

    /// The server's process id while it runs.
    pub(crate) fn pid(&self) -> Option<u32> {
        self.process.as_ref().map(Process::pid)
    }

    /// Stops the server in its tracks (SIGSTOP) or lets it go on (SIGCONT): a node that answers no more.
    pub(crate) fn freeze(&self, frozen: bool) -> Outcome<()> {
        let pid = self.pid().ok_or_else(|| format!("server {} does not run", self.name))?;
        let signal = if frozen { "-STOP" } else { "-CONT" };
        super::process::run(Command::new("kill").arg(signal).arg(pid.to_string())).map(drop)
    }

    /// The server's error log.
    pub(crate) fn log(&self) -> PathBuf {
        self.directory.join("error.log")
    }

    /// The server's Unix socket.
    pub(crate) fn socket(&self) -> PathBuf {
        self.directory.join("sock")
    }

    /// Waits until `query` gives exactly `wanted`.
    pub(crate) fn wait_sql(&self, query: &str, wanted: &str, limit: Duration) -> Outcome<()> {
        wait_for(&format!("{} on {}", query, self.name), limit, || {
            let seen = self.sql(query)?;
            if seen == wanted { Ok(()) } else { Err(format!("{seen:?} instead of {wanted:?}")) }
        })
        .map_err(|reason| format!("{reason}\n{}", workspace::tail(&self.log(), 30)))
    }

    /// Creates the account with which Spillway looks at the servers, with the least that it needs.
    pub(crate) fn create_monitor(&self) -> Outcome<()> {
        let statements = match self.make {
            Make::MariaDb => monitor_statements(),
            Make::MySql => mysql::monitor_statements(),
        };
        self.sql(&statements).map(drop)
    }
}

/// The client program as administrator, connected until this is dropped: what it locked is locked so long.
pub(crate) struct AdminSession {
    client: Child,
    input: ChildStdin,
    output: BufReader<ChildStdout>,
    server: String,
}

/// What is printed when everything before was done.
const DONE: &str = "everything is done";

impl AdminSession {
    fn open(mut command: Command, server: &str) -> Outcome<Self> {
        command.args(["--raw", "--skip-column-names", "--unbuffered"]);
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null());
        let mut client = command.spawn().map_err(|e| format!("server {server}: no client: {e}"))?;
        let (input, output) = (client.stdin.take(), client.stdout.take());
        let (input, output) = input.zip(output).ok_or("no pipes")?;
        let mut session = Self { client, input, output: BufReader::new(output), server: server.to_owned() };
        // It is connected when this returns.
        session.run("DO 1")?;
        Ok(session)
    }

    /// Runs statements, and returns when they are done, with what they printed.
    pub(crate) fn run(&mut self, statements: &str) -> Outcome<String> {
        self.begin(&format!("{statements};\nSELECT '{DONE}'"))?;
        let mut printed = String::new();
        loop {
            let mut line = String::new();
            let size =
                self.output.read_line(&mut line).map_err(|e| format!("server {}: {e}", self.server))?;
            match line.trim_end() {
                DONE => return Ok(printed.trim_end().to_owned()),
                _ if size == 0 => return Err(format!("server {}: {statements}: refused", self.server)),
                _ => printed.push_str(&line),
            }
        }
    }

    /// Sends a statement without waiting for its end.
    pub(crate) fn begin(&mut self, statement: &str) -> Outcome<()> {
        let sent =
            self.input.write_all(format!("{statement};\n").as_bytes()).and_then(|()| self.input.flush());
        sent.map_err(|e| format!("server {}: {e}", self.server))
    }
}

impl Drop for AdminSession {
    fn drop(&mut self) {
        let _ = self.client.kill();
        let _ = self.client.wait();
    }
}

/// The statements that create the monitor account, with names of `MariaDB` 10.11.
pub(crate) fn monitor_statements() -> String {
    let mut statements = format!(
        "CREATE USER '{MONITOR_USER}'@'%' IDENTIFIED BY '{MONITOR_PASSWORD}';\n\
         GRANT SHOW DATABASES, REPLICA MONITOR ON *.* TO '{MONITOR_USER}'@'%';\n"
    );
    for table in
        ["global_priv", "db", "tables_priv", "columns_priv", "procs_priv", "proxies_priv", "roles_mapping"]
    {
        statements.push_str("GRANT SELECT ON mysql.");
        statements.push_str(table);
        statements.push_str(" TO '");
        statements.push_str(MONITOR_USER);
        statements.push_str("'@'%';\n");
    }
    statements
}
