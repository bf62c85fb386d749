//! The `mariadb` program as a client, and any other program that prints what it was answered.

use super::Outcome;
use std::io::Write;
use std::path::Path;
use std::process::{Command, Stdio};

/// What a program wrote and how it ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Printed {
    /// Standard output.
    pub(crate) output: String,
    /// Standard error.
    pub(crate) errors: String,
    /// The exit code; none if a signal ended it.
    pub(crate) code: Option<i32>,
}

impl Printed {
    /// The output if the program ended well, otherwise its error output.
    pub(crate) fn success(self) -> Outcome<String> {
        if self.code == Some(0) {
            Ok(self.output)
        } else {
            Err(format!("exit {:?}: {} {}", self.code, self.output.trim(), self.errors.trim()))
        }
    }
}

/// Runs a command with `input` as its standard input.
pub(crate) fn run_with_input(command: &mut Command, input: &[u8]) -> Outcome<Printed> {
    let name = command.get_program().to_string_lossy().into_owned();
    let mut child = command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .map_err(|e| format!("cannot run {name}: {e}"))?;
    let mut stdin = child.stdin.take().ok_or("no standard input")?;
    let input = input.to_vec();
    // On a thread of its own: a program that fills its output before it has read all would block both sides.
    let writer = std::thread::spawn(move || stdin.write_all(&input));
    let output = child.wait_with_output().map_err(|e| format!("{name}: {e}"))?;
    // A program that ends early closes its input; that shows in its exit code.
    let _ = writer.join();
    Ok(Printed {
        output: String::from_utf8_lossy(&output.stdout).into_owned(),
        errors: String::from_utf8_lossy(&output.stderr).into_owned(),
        code: output.status.code(),
    })
}

/// Where and as whom a client connects.
#[derive(Clone, Debug)]
pub(crate) struct Login {
    /// TCP port on 127.0.0.1.
    pub(crate) port: u16,
    /// User name.
    pub(crate) user: String,
    /// Password; empty means none is sent.
    pub(crate) password: String,
    /// Default schema, if any.
    pub(crate) schema: Option<String>,
}

impl Login {
    /// A login at `port`.
    pub(crate) fn new(port: u16, user: &str, password: &str, schema: Option<&str>) -> Self {
        Self { port, user: user.to_owned(), password: password.to_owned(), schema: schema.map(str::to_owned) }
    }

    /// The `mariadb` program with this login, in batch mode, and with `options` before the schema.
    pub(crate) fn mariadb(&self, options: &[&str]) -> Command {
        let mut command = Command::new("mariadb");
        command.args([
            "--no-defaults",
            "--protocol=tcp",
            "--host=127.0.0.1",
            "--batch",
            "--raw",
            "--skip-ssl",
        ]);
        command.arg(format!("--port={}", self.port)).arg(format!("--user={}", self.user));
        command.args(options);
        if let Some(schema) = &self.schema {
            command.arg(schema);
        }
        command.env("MYSQL_PWD", &self.password);
        command
    }

    /// Sends `sql` through the `mariadb` program; rows come back tab-separated, without headings.
    pub(crate) fn query(&self, sql: &str) -> Outcome<String> {
        self.run(&["--skip-column-names"], sql)?.success().map(|text| text.trim_end().to_owned())
    }

    /// Sends `sql` through the `mariadb` program with `options`, and returns all that it printed.
    pub(crate) fn run(&self, options: &[&str], sql: &str) -> Outcome<Printed> {
        run_with_input(&mut self.mariadb(options), sql.as_bytes())
    }

    /// Runs a Python script with this login: host, port, user, password, schema, then `arguments`.
    pub(crate) fn python(&self, script: &Path, arguments: &[&str]) -> Outcome<Printed> {
        // Debian's interpreter, because that is the one which finds Debian's PyMySQL.
        let mut command = Command::new("/usr/bin/python3");
        command.arg(script).args(["127.0.0.1", &self.port.to_string(), &self.user, &self.password]);
        command.arg(self.schema.as_deref().unwrap_or_default()).args(arguments);
        run_with_input(&mut command, b"")
    }
}
