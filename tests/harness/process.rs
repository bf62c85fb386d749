//! Child processes that end with the run, however it ends.
//!
//! A child is killed by its pid when its [`Process`] is dropped. If this process is itself killed, the kernel kills
//! the child (`setpriv --pdeathsig`). That signal follows the *thread* which started the child, so one thread that
//! never ends starts them all.

use super::{Outcome, network, workspace};
use std::fs::File;
use std::io;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::mpsc::{self, Sender};
use std::sync::{LazyLock, Mutex, PoisonError};
use std::time::{Duration, Instant};

type Order = (Command, Sender<io::Result<Child>>);

/// The thread that starts every child.
static STARTER: LazyLock<Sender<Order>> = LazyLock::new(|| {
    let (orders, queue) = mpsc::channel::<Order>();
    std::thread::spawn(move || {
        for (mut command, answer) in queue {
            // The one who asked waits for the answer; if it is gone the child must not stay behind.
            if let Err(mpsc::SendError(Ok(mut orphan))) = answer.send(command.spawn()) {
                let _ = orphan.kill();
            }
        }
    });
    orders
});

/// The pids of all children that run now, for [`kill_all`].
static RUNNING: Mutex<Vec<u32>> = Mutex::new(Vec::new());

/// A running child in a process group of its own.
pub(crate) struct Process {
    name: String,
    child: Child,
}

/// Which user a child runs as.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum RunAs {
    /// The user that servers run as.
    Server,
    /// The user of this process.
    Myself,
}

impl Process {
    /// Starts `program` with its output appended to `log`.
    pub(crate) fn start(
        name: &str,
        program: &Path,
        arguments: &[String],
        environment: &[(String, String)],
        log: &Path,
        run_as: RunAs,
    ) -> Outcome<Self> {
        let output = File::options()
            .create(true)
            .append(true)
            .open(log)
            .map_err(|e| format!("{}: {e}", log.display()))?;
        let errors = output.try_clone().map_err(|e| format!("{}: {e}", log.display()))?;
        let mut command = Command::new("setpriv");
        command.args(["--pdeathsig", "KILL"]);
        if let (RunAs::Server, Some(user)) = (run_as, workspace::server_user()) {
            command.args(["--reuid", user, "--regid", user, "--init-groups"]);
        }
        command.arg("--").arg(program).args(arguments).envs(environment.iter().cloned());
        command.stdin(Stdio::null()).stdout(output).stderr(errors).process_group(0);
        let (answer, child) = mpsc::channel();
        STARTER.send((command, answer)).map_err(|_| "the starting thread is gone".to_owned())?;
        let child = child.recv().map_err(|_| "the starting thread is gone".to_owned())?;
        let child = child.map_err(|e| format!("cannot start {name}: {e}"))?;
        running().push(child.id());
        Ok(Self { name: name.to_owned(), child })
    }

    /// The process id.
    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    /// The exit status if the child has ended.
    pub(crate) fn ended(&mut self) -> Option<ExitStatus> {
        self.child.try_wait().ok().flatten()
    }

    /// Ends the child without notice and waits for it.
    pub(crate) fn kill(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }

    /// Sends SIGTERM without waiting.
    pub(crate) fn terminate(&mut self) -> Outcome<()> {
        run(Command::new("kill").arg("-TERM").arg(self.pid().to_string())).map(drop)
    }

    /// Waits until the child ends by itself.
    pub(crate) fn wait(&mut self, limit: Duration) -> Outcome<ExitStatus> {
        let start = Instant::now();
        loop {
            if let Some(status) = self.ended() {
                return Ok(status);
            }
            if start.elapsed() > limit {
                return Err(format!("{} has not ended within {limit:?}", self.name));
            }
            std::thread::sleep(Duration::from_millis(10));
        }
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.kill();
        let pid = self.pid();
        running().retain(|other| *other != pid);
    }
}

fn running() -> std::sync::MutexGuard<'static, Vec<u32>> {
    RUNNING.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Kills every child of this run and removes its directory and its hosts: the end of a run that was interrupted, or whose
/// servers live in statics.
pub(crate) fn stop_everything() {
    let pids: Vec<String> = running().drain(..).map(|pid| pid.to_string()).collect();
    if !pids.is_empty() {
        let _ = Command::new("kill").arg("-KILL").args(&pids).stderr(Stdio::null()).status();
        // Their files are only free once the kernel has taken them down.
        let gone = |pid: &String| {
            std::fs::read_to_string(format!("/proc/{pid}/stat"))
                .map_or(true, |stat| stat.rsplit(')').next().is_some_and(|rest| rest.trim().starts_with('Z')))
        };
        let start = Instant::now();
        while start.elapsed() < Duration::from_secs(5) && !pids.iter().all(gone) {
            std::thread::sleep(Duration::from_millis(10));
        }
    }
    network::remove();
    workspace::remove();
}

/// Memory that a process has now, in bytes.
pub(crate) fn resident(pid: u32) -> Outcome<u64> {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).map_err(|e| e.to_string())?;
    let line = status.lines().find(|line| line.starts_with("VmRSS:")).ok_or("no VmRSS")?;
    let kibibytes = line.split_whitespace().nth(1).and_then(|word| word.parse::<u64>().ok());
    Ok(kibibytes.ok_or("no number in VmRSS")? * 1024)
}

/// Runs a short command to its end and returns what it wrote; a failure quotes its error output.
pub(crate) fn run(command: &mut Command) -> Outcome<String> {
    let name = command.get_program().to_string_lossy().into_owned();
    let output = command.stdin(Stdio::null()).output().map_err(|e| format!("cannot run {name}: {e}"))?;
    if output.status.success() {
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    } else {
        let words = String::from_utf8_lossy(&output.stderr).trim().to_owned();
        Err(format!("{name} failed ({}): {words}", output.status))
    }
}
