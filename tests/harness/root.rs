//! Servers of other versions than this machine's, each in the root that `tests/setup/root.sh` makes: a small Debian of its
//! own, because their packages cannot be installed beside each other.
//!
//! A server runs there by `chroot` as the root's user `mysql`. Its directory lies inside the root, under
//! [`DIRECTORIES`], in a directory of this run that goes with the run ([`workspace`]). The program and its client see
//! paths without the root's: [`Root::inside`].
//!
//! Where there is no such root, [`Root::path`] gives the reason and the tests that need it are skipped.

use super::process::{self, Process, RunAs};
use super::server::Make;
use super::{Outcome, mysql, workspace};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

/// Inside a root: the template and the directories of runs.
const DIRECTORIES: &str = "var/lib/spillway";

/// Inside a root: the user that servers run as.
const USER: &str = "mysql";

/// Becomes a program inside a root, as another user, that ends with the thread that started it: root, uid, gid, the
/// program and its arguments. The kernel forgets the signal of a process that changes its user, so it is asked for after
/// that; `setpriv` of an old root could do neither, for it wants to see `/proc`.
const ENTER: &str = "\
import ctypes, os, sys
libc = ctypes.CDLL(None)
root, uid, gid = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
os.chroot(root)
os.chdir('/')
os.setgroups([])
os.setgid(gid)
os.setuid(uid)
if libc.prctl(1, 9):
    sys.exit('prctl')
os.execv(sys.argv[4], sys.argv[4:])
";

/// A server version in a root of its own.
pub(crate) struct Root {
    /// Its name for `tests/setup/root.sh`.
    name: &'static str,
    /// Its name for people.
    pub(crate) title: &'static str,
    /// Whose server it is.
    pub(crate) make: Make,
    /// Counts up with `layout` in `tests/setup/root.sh`.
    layout: u32,
    /// Counts up whenever what [`Self::template`] puts into the template changes.
    template_layout: u32,
    server: &'static str,
    client: &'static str,
    path: OnceLock<Outcome<PathBuf>>,
    run: OnceLock<Outcome<workspace::Workspace>>,
    template: OnceLock<Outcome<PathBuf>>,
}

/// `MySQL` 9.7.
pub(crate) static MYSQL: Root =
    Root::new("mysql", "MySQL 9.7", Make::MySql, "/usr/sbin/mysqld", "/usr/bin/mysql");

/// `MariaDB` 11.8.
pub(crate) static MARIADB_11_8: Root =
    Root::new("mariadb-11.8", "MariaDB 11.8", Make::MariaDb, "/usr/sbin/mariadbd", "/usr/bin/mariadb");

/// `MariaDB` 10.5.
pub(crate) static MARIADB_10_5: Root =
    Root::new("mariadb-10.5", "MariaDB 10.5", Make::MariaDb, "/usr/sbin/mariadbd", "/usr/bin/mariadb");

/// All of them.
pub(crate) static ALL: [&Root; 3] = [&MYSQL, &MARIADB_11_8, &MARIADB_10_5];

/// One of them, by its name for `tests/setup/root.sh`.
pub(crate) fn named(name: &str) -> Outcome<&'static Root> {
    ALL.iter().find(|root| root.name == name).copied().ok_or_else(|| format!("no root is called {name:?}"))
}

impl Root {
    const fn new(
        name: &'static str,
        title: &'static str,
        make: Make,
        server: &'static str,
        client: &'static str,
    ) -> Self {
        Self {
            name,
            title,
            make,
            layout: 1,
            template_layout: 1,
            server,
            client,
            path: OnceLock::new(),
            run: OnceLock::new(),
            template: OnceLock::new(),
        }
    }

    /// Where it is, or why there is none.
    pub(crate) fn path(&self) -> Outcome<&Path> {
        self.path.get_or_init(|| self.find()).as_ref().map(PathBuf::as_path).map_err(Clone::clone)
    }

    fn find(&self) -> Outcome<PathBuf> {
        let name = format!("{}-root-{}", self.name, self.layout);
        let cache = workspace::cache_directory();
        let path = cache.join(&name);
        if !path.join(self.server.trim_start_matches('/')).exists() {
            let reason = fs::read_to_string(cache.join(name + ".reason")).unwrap_or_default();
            let reason = reason.trim();
            let reason = if reason.is_empty() { "it was not made yet (make servers)" } else { reason };
            return Err(format!("no {}: {reason}", path.display()));
        }
        if workspace::current_user() != "root" {
            return Err(format!("only root can start a server in {}", path.display()));
        }
        Ok(path)
    }

    /// Makes a new directory of this run that the server can use, inside the root.
    pub(super) fn directory(&self, name: &str) -> Outcome<PathBuf> {
        let base = self.path()?.join(DIRECTORIES);
        let run = self.run.get_or_init(|| workspace::open(&base)).as_ref().map_err(Clone::clone)?;
        let path = run.root.join(name);
        fs::create_dir_all(&path).map_err(|e| format!("cannot make {}: {e}", path.display()))?;
        self.give_to_server_user(&path)?;
        Ok(path)
    }

    /// Removes this run's directory inside the root, if there is one.
    pub(super) fn remove(&self) {
        if let Some(Ok(run)) = self.run.get() {
            run.remove();
        }
    }

    /// A path as a program inside the root sees it.
    pub(super) fn inside(&self, path: &Path) -> Outcome<String> {
        let outside = |_| format!("{} is outside the root", path.display());
        Ok(format!("/{}", path.strip_prefix(self.path()?).map_err(outside)?.display()))
    }

    /// A command that runs in the root.
    fn chroot(&self) -> Outcome<Command> {
        let mut command = Command::new("chroot");
        command.arg(self.path()?);
        Ok(command)
    }

    /// Gives a file or a directory with all it holds to the user that servers run as.
    pub(super) fn give_to_server_user(&self, path: &Path) -> Outcome<()> {
        let owner = format!("{USER}:");
        process::run(self.chroot()?.args(["chown", "-R", &owner, &self.inside(path)?])).map(drop)
    }

    /// Arguments of Python that run a program of the root as the server's user, and end it with the thread that started
    /// it.
    fn as_server_user(&self, program: &str) -> Outcome<Vec<String>> {
        let path = self.path()?;
        let users = fs::read_to_string(path.join("etc/passwd")).map_err(|e| format!("etc/passwd: {e}"))?;
        let mut users = users.lines().map(|line| line.split(':').collect::<Vec<_>>());
        let user = users.find(|fields| fields.first() == Some(&USER));
        let (Some(uid), Some(gid)) =
            (user.as_ref().and_then(|u| u.get(2)), user.as_ref().and_then(|u| u.get(3)))
        else {
            return Err(format!("no user {USER} in {}", path.display()));
        };
        let path = path.display().to_string();
        Ok(["-c", ENTER, &path, uid, gid, program].map(str::to_owned).into())
    }

    /// Starts the server; what comes in between becomes the server by `exec`, so the child's pid is the server's.
    pub(super) fn start(&self, name: &str, arguments: &[String], output: &Path) -> Outcome<Process> {
        let mut all = self.as_server_user(self.server)?;
        all.extend_from_slice(arguments);
        Process::start(name, Path::new("/usr/bin/python3"), &all, &[], output, RunAs::Myself)
    }

    /// The client program of the root; paths in its arguments are those [`Self::inside`].
    pub(crate) fn client(&self) -> Outcome<Command> {
        let mut command = self.chroot()?;
        command.arg(self.client);
        Ok(command)
    }

    /// Copies the template data directory to `target`, which must not exist.
    pub(super) fn data_directory(&self, target: &Path) -> Outcome<()> {
        let template = self.template.get_or_init(|| self.template()).as_ref().map_err(Clone::clone)?;
        process::run(
            Command::new("cp").args(["-a", "--reflink=auto", "--sparse=always"]).arg(template).arg(target),
        )?;
        // Two servers with one identity cannot replicate to each other; MySQL makes a new one.
        let _ = fs::remove_file(target.join("auto.cnf"));
        Ok(())
    }

    /// A data directory as the server's own program makes it. It is kept in the root, so that it goes when the root goes.
    fn template(&self) -> Outcome<PathBuf> {
        let kept = self.path()?.join(DIRECTORIES).join(format!("template-{}", self.template_layout));
        if kept.join("mysql").is_dir() {
            return Ok(kept);
        }
        let made = self.directory("template")?.join("data");
        let datadir = format!("--datadir={}", self.inside(&made)?);
        let mut install = Command::new("/usr/bin/python3");
        match self.make {
            // With the server's keys and certificates.
            Make::MySql => {
                install
                    .args(self.as_server_user(self.server)?)
                    .args(["--no-defaults", "--initialize-insecure"]);
                install.arg(datadir).args(mysql::OPTIONS).arg("--innodb-doublewrite=0");
            }
            // As for this machine's servers; --force: no name of a host is known in the root.
            Make::MariaDb => {
                install.args(self.as_server_user("/usr/bin/mariadb-install-db")?);
                install.args(["--no-defaults", "--force", "--skip-test-db"]);
                install.args(["--auth-root-authentication-method=socket", "--auth-root-socket-user=root"]);
                install.arg(datadir).args(["--innodb-log-file-size=16M", "--innodb-undo-tablespaces=0"]);
            }
        }
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
}
