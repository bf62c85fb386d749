//! `spillway run` as a child process, its console and its HTTP API.

use super::process::{Process, RunAs};
use super::{Outcome, PATIENCE, wait_for, workspace};
use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::ExitStatus;
use std::time::Duration;

/// The console's password in configurations made here.
pub(crate) const CONSOLE_PASSWORD: &str = "console-secret";
/// The API's bearer token in configurations made here.
pub(crate) const API_TOKEN: &str = "api-token-secret";

const ANSWER_LIMIT: Duration = PATIENCE;
const PROMPT: &str = "spillway> ";

/// A running Spillway.
pub(crate) struct Spillway {
    /// Its console on 127.0.0.1.
    pub(crate) console_port: u16,
    /// Its HTTP API on 127.0.0.1.
    pub(crate) api_port: u16,
    directory: PathBuf,
    process: Process,
}

impl Spillway {
    /// Writes `configuration` with an `[admin]` section added, starts `binary` and waits until it is ready.
    pub(crate) fn start(binary: &Path, name: &str, configuration: &str) -> Outcome<Self> {
        let mut spillway = Self::launch(binary, name, configuration)?;
        spillway.wait_ready(PATIENCE)?;
        Ok(spillway)
    }

    /// The same without waiting.
    pub(crate) fn launch(binary: &Path, name: &str, configuration: &str) -> Outcome<Self> {
        let directory = workspace::directory(name)?;
        let (console_port, api_port) = (workspace::free_port()?, workspace::free_port()?);
        let file = directory.join("spillway.toml");
        write(&file, &with_admin(configuration, console_port, api_port))?;
        let arguments = ["run".to_owned(), "-c".to_owned(), file.display().to_string()];
        let log = directory.join("spillway.log");
        let environment = [("RUST_BACKTRACE".to_owned(), "1".to_owned())];
        let process = Process::start("spillway", binary, &arguments, &environment, &log, RunAs::Myself)?;
        Ok(Self { console_port, api_port, directory, process })
    }

    /// Replaces the configuration file (the `[admin]` section is added again); a reload reads it.
    pub(crate) fn rewrite(&self, configuration: &str) -> Outcome<()> {
        write(&self.file(), &with_admin(configuration, self.console_port, self.api_port))
    }

    /// Waits until `GET /ready` answers 200; a Spillway that ended is reported at once.
    pub(crate) fn wait_ready(&mut self, limit: Duration) -> Outcome<()> {
        let api = self.api_port;
        let start = std::time::Instant::now();
        loop {
            let reason = match http(api, "GET", "/ready", None, None) {
                Ok(answer) if answer.status == 200 => return Ok(()),
                Ok(answer) => format!("/ready answers {}: {}", answer.status, answer.body),
                Err(reason) => reason,
            };
            let ended = self.process.ended();
            if ended.is_some() || start.elapsed() > limit {
                return Err(format!("spillway is not ready ({ended:?}): {reason}\n{}", self.log_tail(60)));
            }
            std::thread::sleep(Duration::from_millis(50));
        }
    }

    /// The configuration file.
    pub(crate) fn file(&self) -> PathBuf {
        self.directory.join("spillway.toml")
    }

    /// Sends SIGHUP, which reads the configuration again.
    pub(crate) fn hang_up(&self) -> Outcome<()> {
        let mut kill = std::process::Command::new("kill");
        super::process::run(kill.args(["-HUP", &self.pid().to_string()])).map(drop)
    }

    /// The end of the log.
    pub(crate) fn log_tail(&self, lines: usize) -> String {
        workspace::tail(&self.directory.join("spillway.log"), lines)
    }

    /// The whole log.
    pub(crate) fn log(&self) -> String {
        std::fs::read_to_string(self.directory.join("spillway.log")).unwrap_or_default()
    }

    /// Waits until the log has the words: a session is logged when it is over, a moment after its client was told.
    pub(crate) fn wait_log(&self, words: &str) -> Outcome<()> {
        wait_for(&format!("{words:?} in the log"), PATIENCE, || {
            if self.log().contains(words) { Ok(()) } else { Err(self.log_tail(30)) }
        })
    }

    /// Process id.
    pub(crate) fn pid(&self) -> u32 {
        self.process.pid()
    }

    /// Sends SIGTERM without waiting.
    pub(crate) fn terminate(&mut self) -> Outcome<()> {
        self.process.terminate()
    }

    /// Waits until the process ends by itself.
    pub(crate) fn wait(&mut self, limit: Duration) -> Outcome<ExitStatus> {
        self.process.wait(limit).map_err(|reason| format!("{reason}\n{}", self.log_tail(60)))
    }

    /// The exit status if the process has ended.
    pub(crate) fn ended(&mut self) -> Option<ExitStatus> {
        self.process.ended()
    }

    /// A console that is logged in.
    pub(crate) fn console(&self) -> Outcome<Console> {
        Console::login(self.console_port, CONSOLE_PASSWORD)
    }

    /// One console command in a connection of its own.
    pub(crate) fn ask(&self, command: &str) -> Outcome<String> {
        self.console()?.command(command)
    }

    /// Has the accounts of all clusters read again. Two readings must agree, and other tests may change accounts of the same
    /// server meanwhile: then again.
    pub(crate) fn reload_accounts(&self) -> Outcome<()> {
        wait_for("accounts that are read", PATIENCE, || {
            let answer = self.ask("reload accounts")?;
            if answer.to_lowercase().contains("error") { Err(answer) } else { Ok(()) }
        })
    }

    /// A request with the right token; any answer is returned.
    pub(crate) fn api(&self, method: &str, path: &str, body: Option<&str>) -> Outcome<Answer> {
        http(self.api_port, method, path, Some(API_TOKEN), body)
    }

    /// `GET` with the right token; the answer must be 200 with JSON.
    pub(crate) fn get(&self, path: &str) -> Outcome<serde_json::Value> {
        let answer = self.api("GET", path, None)?;
        if answer.status != 200 {
            return Err(format!("GET {path} answers {}: {}", answer.status, answer.body));
        }
        serde_json::from_str(&answer.body).map_err(|e| format!("GET {path}: {e} in {}", answer.body))
    }

    /// The entry of one node in `GET /v1/nodes`.
    pub(crate) fn node(&self, cluster: &str, node: &str) -> Outcome<serde_json::Value> {
        let all = self.get("/v1/nodes")?;
        let entries = all["nodes"].as_array().ok_or_else(|| format!("no list of nodes in {all}"))?;
        let found = entries.iter().find(|entry| entry["cluster"] == cluster && entry["node"] == node);
        found.cloned().ok_or_else(|| format!("no node {cluster}/{node} in {all}"))
    }

    /// Waits until all nodes are up: a Spillway is ready as soon as it has one for every service.
    pub(crate) fn wait_all_up(&self) -> Outcome<()> {
        self.wait_all("are up", |entry| entry["observed"] == "up")
    }

    /// Waits until all nodes serve.
    pub(crate) fn wait_all_serve(&self) -> Outcome<()> {
        self.wait_all("serve", |entry| entry["role"] != "none")
    }

    fn wait_all(&self, what: &str, judge: impl Fn(&serde_json::Value) -> bool) -> Outcome<()> {
        wait_for(&format!("all nodes {what}"), PATIENCE, || {
            let all = self.get("/v1/nodes")?;
            let content = all["nodes"].as_array().is_some_and(|entries| entries.iter().all(&judge));
            if content { Ok(()) } else { Err(all.to_string()) }
        })
        .map_err(|reason| format!("{reason}\n{}", self.log_tail(30)))
    }

    /// Waits until `judge` is content with the entry of a node in `GET /v1/nodes`.
    pub(crate) fn wait_node(
        &self,
        cluster: &str,
        node: &str,
        what: &str,
        judge: impl Fn(&serde_json::Value) -> bool,
    ) -> Outcome<()> {
        wait_for(&format!("{cluster}/{node} {what}"), PATIENCE, || {
            let entry = self.node(cluster, node)?;
            if judge(&entry) { Ok(()) } else { Err(entry.to_string()) }
        })
        .map_err(|reason| format!("{reason}\n{}", self.log_tail(30)))
    }
}

fn write(path: &Path, text: &str) -> Outcome<()> {
    std::fs::write(path, text).map_err(|e| format!("cannot write {}: {e}", path.display()))
}

fn with_admin(configuration: &str, console_port: u16, api_port: u16) -> String {
    // Every test must hold for any number of workers.
    let workers = match std::env::var("WORKERS") {
        Ok(workers) if !configuration.contains("[runtime]") => format!("[runtime]\nworkers = {workers}\n"),
        _ => String::new(),
    };
    // Tests fail logins by the thousand; those that are about that say so.
    let backoff = if configuration.contains("[runtime.backoff]") {
        ""
    } else {
        "[runtime.backoff]\nper_address = 0\nper_account = 0\n"
    };
    format!(
        "{configuration}\n{workers}{backoff}[admin]\nconsole = [\"127.0.0.1:{console_port}\"]\npassword = \"{CONSOLE_PASSWORD}\"\n\
         api = [\"127.0.0.1:{api_port}\"]\ntoken = \"{API_TOKEN}\"\n"
    )
}

fn dial(port: u16) -> Outcome<TcpStream> {
    let address = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
    let stream = TcpStream::connect_timeout(&address, ANSWER_LIMIT)
        .map_err(|e| format!("cannot connect to {address}: {e}"))?;
    stream.set_read_timeout(Some(ANSWER_LIMIT)).map_err(|e| e.to_string())?;
    stream.set_write_timeout(Some(ANSWER_LIMIT)).map_err(|e| e.to_string())?;
    Ok(stream)
}

/// A connection to the console.
pub(crate) struct Console {
    stream: TcpStream,
    pending: Vec<u8>,
}

impl Console {
    /// Connects and gives the password.
    pub(crate) fn login(port: u16, password: &str) -> Outcome<Self> {
        let mut console = Self { stream: dial(port)?, pending: Vec::new() };
        console.read_until("password: ")?;
        console.send(password)?;
        let verdict = console.read_until("\n")?;
        if verdict == "ok" {
            console.read_until(PROMPT)?;
            Ok(console)
        } else {
            Err(format!("the console says {verdict:?}"))
        }
    }

    /// Sends one command and returns all lines of its answer.
    pub(crate) fn command(&mut self, command: &str) -> Outcome<String> {
        self.send(command)?;
        let text = self.read_until(PROMPT)?;
        Ok(text.trim_end().to_owned())
    }

    /// Sends a line without waiting for an answer.
    pub(crate) fn send(&mut self, line: &str) -> Outcome<()> {
        self.stream.write_all(format!("{line}\n").as_bytes()).map_err(|e| format!("console: {e}"))
    }

    /// Whether the other side has closed the connection; reads what is left.
    pub(crate) fn closed(&mut self) -> bool {
        let mut rest = Vec::new();
        self.stream.read_to_end(&mut rest).is_ok()
    }

    fn read_until(&mut self, mark: &str) -> Outcome<String> {
        let mut block = [0; 4096];
        loop {
            let found = self.pending.windows(mark.len()).position(|window| window == mark.as_bytes());
            if let Some(at) = found {
                let text = String::from_utf8_lossy(&self.pending[..at]).into_owned();
                self.pending.drain(..at + mark.len());
                return Ok(text.replace('\r', ""));
            }
            let seen = || String::from_utf8_lossy(&self.pending).into_owned();
            match self.stream.read(&mut block) {
                Ok(0) => return Err(format!("the console closed after {:?}", seen())),
                Ok(size) => self.pending.extend_from_slice(&block[..size]),
                Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
                Err(error) => {
                    return Err(format!("the console gave no {mark:?}: {error}; so far {:?}", seen()));
                }
            }
        }
    }
}

/// An HTTP answer.
pub(crate) struct Answer {
    /// Status code.
    pub(crate) status: u16,
    /// Status line and headers.
    pub(crate) head: String,
    /// The body as text.
    pub(crate) body: String,
}

/// One HTTP/1.1 request on a connection of its own.
pub(crate) fn http(
    port: u16,
    method: &str,
    path: &str,
    token: Option<&str>,
    body: Option<&str>,
) -> Outcome<Answer> {
    let mut stream = dial(port)?;
    let authorization = token.map(|token| format!("Authorization: Bearer {token}\r\n")).unwrap_or_default();
    let content = body.map_or_else(String::new, |body| {
        format!("Content-Type: application/json\r\nContent-Length: {}\r\n", body.len())
    });
    let request = format!(
        "{method} {path} HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\n{authorization}{content}\r\n{}",
        body.unwrap_or_default()
    );
    stream.write_all(request.as_bytes()).map_err(|e| format!("{method} {path}: {e}"))?;
    let mut bytes = Vec::new();
    stream.read_to_end(&mut bytes).map_err(|e| format!("{method} {path}: {e}"))?;
    let text = String::from_utf8_lossy(&bytes);
    let (head, body) = text.split_once("\r\n\r\n").ok_or_else(|| format!("{method} {path}: no answer"))?;
    let status = head.split_whitespace().nth(1).and_then(|word| word.parse().ok());
    let status = status.ok_or_else(|| format!("{method} {path}: no status in {head:?}"))?;
    let chunked = head.to_ascii_lowercase().contains("transfer-encoding: chunked");
    let body = if chunked { unchunk(body) } else { body.to_owned() };
    Ok(Answer { status, head: head.to_owned(), body })
}

/// Joins the chunks of a chunked body.
fn unchunk(mut body: &str) -> String {
    let mut joined = String::new();
    while let Some((size, rest)) = body.split_once("\r\n") {
        let Ok(size) = usize::from_str_radix(size.trim(), 16) else { break };
        if size == 0 {
            break;
        }
        let Some(chunk) = rest.get(..size) else { break };
        joined.push_str(chunk);
        body = rest.get(size + 2..).unwrap_or_default();
    }
    joined
}
