//! The directory of one run under the system's temporary directory, the template data directory, and free ports.
//!
//! A run owns `spillway-run-PID-N/` for as long as it holds the lock on `spillway-run-PID-N.lock`. A run that was
//! killed leaves both behind; the next run finds the lock free and sweeps them.

use super::{Outcome, process};
use std::collections::HashSet;
use std::fs::{self, File, Permissions, TryLockError};
use std::hash::{BuildHasher, RandomState};
use std::net::{Ipv4Addr, TcpListener};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{LazyLock, Mutex, OnceLock, PoisonError};

const PREFIX: &str = "spillway-run-";

/// Counts up whenever what [`template`] puts into the template changes.
const TEMPLATE_LAYOUT: u32 = 1;

/// A directory that this run owns.
pub(super) struct Workspace {
    /// The directory.
    pub(super) root: PathBuf,
    lock_path: PathBuf,
    _lock: File,
}

static WORKSPACE: OnceLock<Outcome<Workspace>> = OnceLock::new();
static TEMPLATE: OnceLock<Outcome<PathBuf>> = OnceLock::new();
static GIVEN_PORTS: LazyLock<Mutex<HashSet<u16>>> = LazyLock::new(Mutex::default);

/// The directory of this run; made at the first call, after the remains of dead runs were swept.
pub(crate) fn root() -> Outcome<PathBuf> {
    WORKSPACE
        .get_or_init(|| open(&std::env::temp_dir()))
        .as_ref()
        .map(|workspace| workspace.root.clone())
        .map_err(Clone::clone)
}

/// Makes a new directory of this run that the server's user can use.
pub(crate) fn directory(name: &str) -> Outcome<PathBuf> {
    let path = root()?.join(name);
    fs::create_dir_all(&path).map_err(|e| format!("cannot make {}: {e}", path.display()))?;
    give_to_server_user(&path)?;
    Ok(path)
}

/// Removes the run's directories. Call it when every process of the run has ended.
pub(crate) fn remove() {
    if let Some(Ok(workspace)) = WORKSPACE.get() {
        workspace.remove();
    }
    for home in super::root::ALL {
        home.remove();
    }
}

impl Workspace {
    /// Removes the directory.
    pub(super) fn remove(&self) {
        // What cannot be removed now is swept by the next run.
        let _ = fs::remove_dir_all(&self.root);
        let _ = fs::remove_file(&self.lock_path);
    }
}

/// Makes a directory of this run in `base`, after the remains of dead runs there were swept.
pub(super) fn open(base: &Path) -> Outcome<Workspace> {
    sweep(base);
    for attempt in 0..100 {
        let name = format!("{PREFIX}{}-{attempt}", std::process::id());
        let lock_path = base.join(format!("{name}.lock"));
        let Ok(lock) = File::create_new(&lock_path) else { continue };
        lock.lock().map_err(|e| format!("cannot lock {}: {e}", lock_path.display()))?;
        if !lock_path.exists() {
            // Another run swept the file between its creation and the lock.
            continue;
        }
        let root = base.join(&name);
        if fs::create_dir(&root).is_err() {
            continue;
        }
        fs::set_permissions(&root, Permissions::from_mode(0o755))
            .map_err(|e| format!("cannot open {} for the server's user: {e}", root.display()))?;
        return Ok(Workspace { root, lock_path, _lock: lock });
    }
    Err(format!("cannot make a directory for this run in {}", base.display()))
}

fn sweep(base: &Path) {
    let Ok(entries) = fs::read_dir(base) else { return };
    for entry in entries.flatten() {
        let path = entry.path();
        let is_lock = entry.file_name().to_str().is_some_and(|name| {
            name.starts_with(PREFIX) && path.extension().is_some_and(|extension| extension == "lock")
        });
        if !is_lock {
            continue;
        }
        let Ok(lock) = File::open(&path) else { continue };
        match lock.try_lock() {
            Ok(()) => {
                let _ = fs::remove_dir_all(path.with_extension(""));
                let _ = fs::remove_file(&path);
            }
            Err(TryLockError::WouldBlock | TryLockError::Error(_)) => {}
        }
    }
}

/// The user that servers run as: `mysql` when this process is root (a server refuses to be root, and so does the
/// rsync state transfer of Galera), otherwise the current user.
pub(crate) fn server_user() -> Option<&'static str> {
    (current_user() == "root").then_some("mysql")
}

/// Name of the user of this process, who is also the administrator of the servers through their sockets.
pub(crate) fn current_user() -> &'static str {
    static NAME: LazyLock<String> = LazyLock::new(|| {
        let output = Command::new("id").arg("-un").output();
        output.map(|o| String::from_utf8_lossy(&o.stdout).trim().to_owned()).unwrap_or_default()
    });
    &NAME
}

/// Gives a file or a directory with all it holds to the user that servers run as.
pub(crate) fn give_to_server_user(path: &Path) -> Outcome<()> {
    let Some(user) = server_user() else { return Ok(()) };
    process::run(Command::new("chown").arg("-R").arg(format!("{user}:")).arg(path)).map(drop)
}

/// Copies the template data directory to `target`, which must not exist.
pub(crate) fn data_directory(target: &Path) -> Outcome<()> {
    let template = TEMPLATE.get_or_init(template).as_ref().map_err(Clone::clone)?;
    process::run(
        Command::new("cp").args(["-a", "--reflink=auto", "--sparse=always"]).arg(template).arg(target),
    )?;
    give_to_server_user(target)
}

/// A data directory as `mariadb-install-db` makes it, without the anonymous accounts and the test database, kept
/// in the user's cache directory under the server's version.
///
/// The anonymous accounts would win over `app@'%'` for clients on this machine.
fn template() -> Outcome<PathBuf> {
    let version = process::run(Command::new(mariadbd()).arg("--version"))?;
    let version: String = version
        .split_whitespace()
        .nth(2)
        .unwrap_or("unknown")
        .chars()
        .map(|c| if c.is_ascii_alphanumeric() || c == '.' { c } else { '-' })
        .collect();
    let cache = cache_directory();
    let kept = cache.join(format!("template-{TEMPLATE_LAYOUT}-{version}"));
    if kept.join("mysql").is_dir() {
        return Ok(kept);
    }
    let made = directory("template")?;
    let mut install = Command::new("mariadb-install-db");
    install.args(["--no-defaults", "--skip-test-db", "--auth-root-authentication-method=socket"]);
    install.arg(format!("--auth-root-socket-user={}", current_user()));
    install.arg(format!("--datadir={}", made.display()));
    install.args(["--innodb-log-file-size=16M", "--innodb-undo-tablespaces=0"]);
    if let Some(user) = server_user() {
        install.arg(format!("--user={user}"));
    }
    process::run(&mut install)?;

    // A copy under a name of this process, then one rename: two runs that get here together do not disturb each
    // other, and a half-made template never has the template's name.
    fs::create_dir_all(&cache).map_err(|e| format!("cannot make {}: {e}", cache.display()))?;
    let draft = cache.join(format!("draft-{}", std::process::id()));
    process::run(Command::new("cp").args(["-a", "--sparse=always"]).arg(&made).arg(&draft))?;
    if fs::rename(&draft, &kept).is_err() {
        let _ = fs::remove_dir_all(&draft);
    }
    let _ = fs::remove_dir_all(&made);
    if kept.join("mysql").is_dir() { Ok(kept) } else { Err(format!("cannot keep {}", kept.display())) }
}

/// Where templates are kept; `tests/setup/root.sh` knows the same place.
pub(super) fn cache_directory() -> PathBuf {
    let base = std::env::var_os("XDG_CACHE_HOME").filter(|path| !path.is_empty()).map(PathBuf::from);
    let home = || std::env::var_os("HOME").map(|home| PathBuf::from(home).join(".cache"));
    base.or_else(home).unwrap_or_else(std::env::temp_dir).join("spillway")
}

/// The server program; Debian keeps it outside the search path of ordinary users.
pub(crate) fn mariadbd() -> &'static str {
    if Path::new("/usr/sbin/mariadbd").exists() { "/usr/sbin/mariadbd" } else { "mariadbd" }
}

/// A loopback port that nobody listens on and that this run has not given out yet.
///
/// Ports lie below the range from which the kernel takes the ports of outgoing connections, so a node that was
/// killed finds its own port free when it starts again.
pub(crate) fn free_port() -> Outcome<u16> {
    let random = RandomState::new();
    for attempt in 0..10_000_u32 {
        let port = 12_000 + (random.hash_one(attempt) % 20_000) as u16;
        let fresh = GIVEN_PORTS.lock().unwrap_or_else(PoisonError::into_inner).insert(port);
        if fresh && TcpListener::bind((Ipv4Addr::LOCALHOST, port)).is_ok() {
            return Ok(port);
        }
    }
    Err("no free port on 127.0.0.1".to_owned())
}

/// The last `lines` lines of a file, or a word on why there are none.
pub(crate) fn tail(path: &Path, lines: usize) -> String {
    match fs::read(path) {
        Ok(bytes) => {
            let text = String::from_utf8_lossy(&bytes);
            let all: Vec<&str> = text.lines().collect();
            let from = all.len().saturating_sub(lines);
            format!("--- end of {}\n{}\n---", path.display(), all[from..].join("\n"))
        }
        Err(error) => format!("--- {}: {error}", path.display()),
    }
}
