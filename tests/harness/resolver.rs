//! Host names that only some children see: each child has a mount namespace of its own, with other files for the
//! resolver of the C library. The files of this machine stay as they are.

use super::process::{RunAs, run};
use super::{Outcome, workspace};
use std::fmt::Write as _;
use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::LazyLock;

/// The files of one resolver.
pub(crate) struct Hosts {
    directory: PathBuf,
}

impl Hosts {
    /// `hosts`: the lines of the hosts file; `services`: what `nsswitch.conf` says of hosts, such as `files`. With `dns`
    /// among them every question to a name server fails, because nobody answers.
    pub(crate) fn new(name: &str, hosts: &str, services: &str) -> Outcome<Self> {
        let directory = workspace::directory(name)?;
        let files = [
            ("hosts", format!("127.0.0.1 localhost\n{hosts}\n")),
            ("nsswitch.conf", format!("hosts: {services}\n")),
            ("resolv.conf", "nameserver 127.255.255.254\noptions timeout:1 attempts:1\n".to_owned()),
        ];
        for (file, text) in files {
            fs::write(directory.join(file), text).map_err(|e| format!("{file}: {e}"))?;
        }
        Ok(Self { directory })
    }

    /// Replaces the lines of the hosts file, also for programs that run.
    #[allow(dead_code, reason = "not every program of the harness has names that move")]
    pub(crate) fn rewrite(&self, hosts: &str) -> Outcome<()> {
        // In place: what is mounted is this very file.
        fs::write(self.directory.join("hosts"), format!("127.0.0.1 localhost\n{hosts}\n"))
            .map_err(|e| e.to_string())
    }

    /// Makes a program that starts `program` with these files.
    pub(crate) fn wrap(&self, program: &Path, run_as: RunAs) -> Outcome<PathBuf> {
        let name = program.file_name().and_then(|name| name.to_str()).ok_or("no name")?;
        let (path, inner) =
            (self.directory.join(format!("{name}.sh")), self.directory.join(format!("{name}-inner.sh")));
        let mut mounts = String::new();
        for file in ["hosts", "nsswitch.conf", "resolv.conf"] {
            let _ =
                writeln!(mounts, "mount --bind '{}/{file}' /etc/{file} || exit 1", self.directory.display());
        }
        let user = match (run_as, workspace::server_user()) {
            (RunAs::Server, Some(user)) => format!("--reuid {user} --regid {user} --init-groups"),
            _ => String::new(),
        };
        script(&path, &format!("exec unshare --mount -- '{}' \"$@\"\n", inner.display()))?;
        // Said again, because a change of the user takes it away.
        script(
            &inner,
            &format!("{mounts}exec setpriv --pdeathsig KILL {user} -- '{}' \"$@\"\n", program.display()),
        )?;
        Ok(path)
    }
}

fn script(path: &Path, text: &str) -> Outcome<()> {
    fs::write(path, format!("#!/bin/sh\n{text}")).map_err(|e| format!("{}: {e}", path.display()))?;
    fs::set_permissions(path, fs::Permissions::from_mode(0o755)).map_err(|e| e.to_string())
}

/// Why there are no such names on this machine; none where there are.
pub(crate) fn missing() -> Option<&'static str> {
    static REASON: LazyLock<Option<String>> = LazyLock::new(|| {
        let mut command = Command::new("unshare");
        command.args(["--mount", "--", "mount", "--bind", "/etc/hostname", "/etc/hosts"]);
        run(&mut command).err()
    });
    REASON.as_deref()
}
