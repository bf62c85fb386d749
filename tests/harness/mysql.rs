//! `mysqld` 9.7, in the root that `tests/setup/mysql.sh` makes: a small Debian of its own, because its packages cannot be
//! installed beside those of `MariaDB`.
//!
//! A server runs there by `chroot` as the root's user `mysql`. Its directory lies inside the root, under
//! [`DIRECTORIES`], in a directory of this run that goes with the run ([`workspace`]). The program and its client see
//! paths without the root's: [`inside`].
//!
//! Where there is no such root, [`root`] gives the reason and the tests that need it are skipped.

use super::process::{self, Process, RunAs};
use super::server::{MONITOR_PASSWORD, MONITOR_USER};
use super::{Outcome, workspace};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

/// Counts up with `layout` in `tests/setup/mysql.sh`.
const ROOT_LAYOUT: u32 = 1;

/// Counts up whenever what [`template`] puts into the template changes.
const TEMPLATE_LAYOUT: u32 = 1;

/// Inside the root: the template and the directories of runs.
const DIRECTORIES: &str = "var/lib/spillway";

/// Inside the root: the user that servers run as.
const USER: &str = "mysql";

/// Options of `mysqld` beside those of every server.
pub(super) const OPTIONS: &[&str] = &[
    // Without it the server looks for a directory that the packages do not make, and ends.
    "--secure-file-priv=",
    // A second listener, on a port of its own.
    "--mysqlx=0",
    // Unlike MariaDB it writes a binary log unless it is told not to; a later --log-bin wins.
    "--skip-log-bin",
    "--innodb-redo-log-capacity=16M",
];

static ROOT: OnceLock<Outcome<PathBuf>> = OnceLock::new();
static RUN: OnceLock<Outcome<workspace::Workspace>> = OnceLock::new();
static TEMPLATE: OnceLock<Outcome<PathBuf>> = OnceLock::new();

/// The root with `MySQL` in it, or why there is none.
pub(crate) fn root() -> Outcome<&'static Path> {
    ROOT.get_or_init(find_root).as_ref().map(PathBuf::as_path).map_err(Clone::clone)
}

fn find_root() -> Outcome<PathBuf> {
    let name = format!("mysql-root-{ROOT_LAYOUT}");
    let cache = workspace::cache_directory();
    let root = cache.join(&name);
    if !root.join("usr/sbin/mysqld").exists() {
        let reason = fs::read_to_string(cache.join(name + ".reason")).unwrap_or_default();
        let reason = reason.trim();
        let reason = if reason.is_empty() { "it was not made yet (make servers)" } else { reason };
        return Err(format!("no {}: {reason}", root.display()));
    }
    if workspace::current_user() != "root" {
        return Err(format!("only root can start a server in {}", root.display()));
    }
    Ok(root)
}

/// Makes a new directory of this run that the server can use, inside the root.
pub(super) fn directory(name: &str) -> Outcome<PathBuf> {
    let base = root()?.join(DIRECTORIES);
    let run = RUN.get_or_init(|| workspace::open(&base)).as_ref().map_err(Clone::clone)?;
    let path = run.root.join(name);
    fs::create_dir_all(&path).map_err(|e| format!("cannot make {}: {e}", path.display()))?;
    give_to_server_user(&path)?;
    Ok(path)
}

/// Removes this run's directory inside the root, if there is one.
pub(super) fn remove() {
    if let Some(Ok(run)) = RUN.get() {
        run.remove();
    }
}

/// A path as a program inside the root sees it.
pub(super) fn inside(path: &Path) -> Outcome<String> {
    let below = path.strip_prefix(root()?).map_err(|_| format!("{} is outside the root", path.display()))?;
    Ok(format!("/{}", below.display()))
}

/// A command that runs in the root.
fn chroot() -> Outcome<Command> {
    let mut command = Command::new("chroot");
    command.arg(root()?);
    Ok(command)
}

/// Gives a file or a directory with all it holds to the user that servers run as.
pub(super) fn give_to_server_user(path: &Path) -> Outcome<()> {
    process::run(chroot()?.args(["chown", "-R", &format!("{USER}:"), &inside(path)?])).map(drop)
}

/// Arguments of `chroot` that run a program as the server's user, and end it with the thread that started it. The
/// kernel forgets the signal of a process that changes its user, so it is asked for once more after that.
fn as_server_user() -> Outcome<Vec<String>> {
    let root = root()?.display().to_string();
    let words = ["setpriv", "--pdeathsig", "KILL", "--reuid", USER, "--regid", USER, "--init-groups", "--"];
    Ok([root].into_iter().chain(words.map(str::to_owned)).chain(["/usr/sbin/mysqld".to_owned()]).collect())
}

/// Starts `mysqld`; both programs in between become the next by `exec`, so the child's pid is the server's.
pub(super) fn start(name: &str, arguments: &[String], output: &Path) -> Outcome<Process> {
    let mut all = as_server_user()?;
    all.extend_from_slice(arguments);
    Process::start(name, Path::new("chroot"), &all, &[], output, RunAs::Myself)
}

/// The `mysql` program of the root; paths in its arguments are those [`inside`].
pub(crate) fn client() -> Outcome<Command> {
    let mut command = chroot()?;
    command.arg("/usr/bin/mysql");
    Ok(command)
}

/// Copies the template data directory to `target`, which must not exist.
pub(super) fn data_directory(target: &Path) -> Outcome<()> {
    let template = TEMPLATE.get_or_init(template).as_ref().map_err(Clone::clone)?;
    process::run(
        Command::new("cp").args(["-a", "--reflink=auto", "--sparse=always"]).arg(template).arg(target),
    )?;
    // Two servers with one identity cannot replicate to each other; the server makes a new one.
    let _ = fs::remove_file(target.join("auto.cnf"));
    Ok(())
}

/// A data directory as `mysqld --initialize-insecure` makes it, with the server's keys and certificates. It is kept in
/// the root, so that it goes when the root goes.
fn template() -> Outcome<PathBuf> {
    let kept = root()?.join(DIRECTORIES).join(format!("template-{TEMPLATE_LAYOUT}"));
    if kept.join("mysql").is_dir() {
        return Ok(kept);
    }
    let made = directory("template")?.join("data");
    let mut install = Command::new("chroot");
    install.args(as_server_user()?).args(["--no-defaults", "--initialize-insecure"]);
    install.arg(format!("--datadir={}", inside(&made)?)).args(OPTIONS).arg("--innodb-doublewrite=0");
    process::run(&mut install)?;
    // One rename: two runs that get here together do not disturb each other, and a half-made template never has the
    // template's name.
    let renamed = fs::rename(&made, &kept);
    if kept.join("mysql").is_dir() {
        Ok(kept)
    } else {
        Err(format!("cannot keep {}: {renamed:?}", kept.display()))
    }
}

/// The statements that create the monitor account, with names of `MySQL` 9.7.
pub(crate) fn monitor_statements() -> String {
    let account = format!("'{MONITOR_USER}'@'%'");
    let grants = MONITOR_TABLES.map(|table| format!("GRANT SELECT ON mysql.{table} TO {account};\n"));
    format!(
        "CREATE USER {account} IDENTIFIED WITH caching_sha2_password BY '{MONITOR_PASSWORD}';\n\
         GRANT SHOW DATABASES, REPLICATION CLIENT ON *.* TO {account};\n{}",
        grants.concat()
    )
}

/// The tables of the schema `mysql` that the monitor account may read.
pub(crate) const MONITOR_TABLES: [&str; 9] = [
    "user",
    "db",
    "tables_priv",
    "columns_priv",
    "procs_priv",
    "proxies_priv",
    "role_edges",
    "default_roles",
    "global_grants",
];
