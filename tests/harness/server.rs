//! One `MariaDB` server on loopback, with its own data directory.

use super::process::{Process, RunAs};
use super::{Outcome, client, wait_for, workspace};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

/// How long a server may take from its start until it answers on its socket.
const START_LIMIT: Duration = Duration::from_mins(1);

/// User and password of the account with which Spillway looks at the servers.
pub(crate) const MONITOR_USER: &str = "spillway";
/// See [`MONITOR_USER`].
pub(crate) const MONITOR_PASSWORD: &str = "monitor-secret";

/// One server.
pub(crate) struct Server {
    /// The node's name in the tests' configuration.
    pub(crate) name: String,
    /// TCP port on 127.0.0.1.
    pub(crate) port: u16,
    directory: PathBuf,
    options: Vec<String>,
    process: Option<Process>,
}

impl Server {
    /// Makes the data directory; the server is not started yet.
    ///
    /// `options` are server options such as `--skip-name-resolve`; they win over the harness's own.
    pub(crate) fn prepare(name: &str, options: &[&str]) -> Outcome<Self> {
        let directory = workspace::directory(name)?;
        workspace::data_directory(&directory.join("data"))?;
        let options = options.iter().map(|&option| option.to_owned()).collect();
        Ok(Self { name: name.to_owned(), port: workspace::free_port()?, directory, options, process: None })
    }

    /// A plain server that runs and answers.
    pub(crate) fn standalone(name: &str, options: &[&str]) -> Outcome<Self> {
        let mut server = Self::prepare(name, options)?;
        server.start(&[])?;
        Ok(server)
    }

    /// Adds an option for the next start.
    pub(crate) fn option(&mut self, option: String) {
        self.options.push(option);
    }

    /// Starts the server, with `once` as options of this start alone, and waits until it answers.
    pub(crate) fn start(&mut self, once: &[&str]) -> Outcome<()> {
        self.launch(once)?;
        self.wait_until_up(START_LIMIT)
    }

    /// Starts the server without waiting.
    pub(crate) fn launch(&mut self, once: &[&str]) -> Outcome<()> {
        let data = self.directory.join("data");
        let mut arguments = vec![
            "--no-defaults".to_owned(),
            format!("--datadir={}", data.display()),
            format!("--socket={}", self.socket().display()),
            format!("--port={}", self.port),
            format!("--pid-file={}", self.directory.join("pid").display()),
            format!("--log-error={}", self.log().display()),
            format!("--tmpdir={}", self.directory.display()),
        ];
        // Small and quick rather than durable: the data lives as long as the test.
        for option in [
            "--bind-address=127.0.0.1",
            "--max-allowed-packet=128M",
            "--max-connections=700",
            // The server speaks first: a connection that overflows its backlog hangs for ever.
            "--back-log=2048",
            "--local-infile=1",
            "--innodb-buffer-pool-size=64M",
            "--innodb-log-file-size=32M",
            "--innodb-flush-log-at-trx-commit=0",
            "--innodb-flush-method=nosync",
            "--innodb-doublewrite=0",
            "--innodb-fast-shutdown=2",
            "--sync-binlog=0",
            "--key-buffer-size=1M",
            "--aria-pagecache-buffer-size=8M",
            "--performance-schema=OFF",
            "--net-read-timeout=120",
            "--net-write-timeout=120",
        ] {
            arguments.push(option.to_owned());
        }
        arguments.extend(self.options.iter().cloned());
        arguments.extend(once.iter().map(|&option| option.to_owned()));
        let program = Path::new(workspace::mariadbd());
        let output = self.directory.join("output.log");
        self.process = Some(Process::start(&self.name, program, &arguments, &[], &output, RunAs::Server)?);
        Ok(())
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
        let mut command = Command::new("mariadb");
        command.args(["--no-defaults", "--batch", "--raw", "--skip-column-names"]);
        command.arg(format!("--socket={}", self.socket().display()));
        command.arg(format!("--user={}", workspace::current_user()));
        let printed = client::run_with_input(&mut command, statements.as_bytes())?;
        let text = printed.success().map_err(|reason| format!("server {}: {reason}", self.name))?;
        Ok(text.trim_end().to_owned())
    }

    /// The same, passing over statements that the server refuses.
    #[allow(dead_code, reason = "not every program of the harness makes statements at random")]
    pub(crate) fn sql_going_on(&self, statements: &str) -> Outcome<()> {
        let mut command = Command::new("mariadb");
        command.args(["--no-defaults", "--batch", "--force"]);
        command.arg(format!("--socket={}", self.socket().display()));
        command.arg(format!("--user={}", workspace::current_user()));
        client::run_with_input(&mut command, statements.as_bytes()).map(drop)
    }

    /// `127.0.0.1:PORT`.
    pub(crate) fn address(&self) -> String {
        format!("127.0.0.1:{}", self.port)
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
            process.wait(Duration::from_secs(30))?;
        }
        Ok(())
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
        self.sql(&monitor_statements()).map(drop)
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
