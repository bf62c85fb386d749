//! What is measured: the workloads and how sysbench is asked for each.

use std::path::Path;
use std::process::Command;

use crate::harness::{Outcome, client, process};

/// Rows of the table that point selects read.
pub(crate) const TABLE_ROWS: u32 = 10_000;

/// One way to use a target.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Workload {
    /// Its name in the tables and in `ONLY`.
    pub(crate) name: &'static str,
    /// In words.
    pub(crate) title: &'static str,
    /// What runs.
    pub(crate) kind: Kind,
}

/// What a workload runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// A load of sysbench.
    Load {
        /// Client connections.
        threads: u32,
        /// What they send.
        script: Script,
        /// Whether they speak TLS.
        tls: bool,
    },
    /// That many sessions that are logged in and silent.
    Idle(usize),
}

/// What the connections of a load send.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Script {
    /// Text point selects.
    Point,
    /// Prepared point selects.
    Prepared,
    /// Read-write transactions.
    ReadWrite,
    /// One of `statements.lua`.
    Own(&'static str),
}

const fn load(name: &'static str, title: &'static str, threads: u32, script: Script, tls: bool) -> Workload {
    Workload { name, title, kind: Kind::Load { threads, script, tls } }
}

/// All workloads in the order in which they run. Memory comes first: it is only true of young processes.
pub(crate) const WORKLOADS: &[Workload] = &[
    Workload { name: "idle1000", title: "1,000 idle sessions", kind: Kind::Idle(1000) },
    Workload { name: "idle8000", title: "8,000 idle sessions", kind: Kind::Idle(8000) },
    load("point1", "point selects, 1 connection", 1, Script::Point, false),
    load("point16", "point selects, 16 connections", 16, Script::Point, false),
    load("point64", "point selects, 64 connections", 64, Script::Point, false),
    load("point512", "point selects, 512 connections", 512, Script::Point, false),
    load("prep16", "prepared point selects, 16 connections", 16, Script::Prepared, false),
    load("rw16", "read-write transactions, 16 connections", 16, Script::ReadWrite, false),
    load("rows8", "results of 1,000 rows, 8 connections", 8, Script::Own("rows"), false),
    load("blob8", "results of 16 MiB, 8 connections", 8, Script::Own("blob"), false),
    load("insert8", "inserts of 1 MiB, 8 connections", 8, Script::Own("insert"), false),
    load("connect8", "new connection and one query, 8 at a time", 8, Script::Own("connect"), false),
    load("connect8_tls", "the same with TLS", 8, Script::Own("connect"), true),
    load("tls16", "point selects with TLS, 16 connections", 16, Script::Point, true),
];

/// What one run of a load gave.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Ran {
    /// Statements in all.
    pub(crate) queries: u64,
    /// Statements per second.
    pub(crate) qps: f64,
    /// 99th percentile of one event (a statement; for `rw16` a transaction; for `connect8` a connection), in ms.
    pub(crate) p99_ms: f64,
}

/// Who the load logs in as.
pub(crate) struct Account<'a> {
    /// User name.
    pub(crate) user: &'a str,
    /// Password.
    pub(crate) password: &'a str,
    /// Default schema.
    pub(crate) schema: &'a str,
}

/// When a load ends.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Until {
    /// After so long.
    Seconds(u32),
    /// After so many statements.
    Statements(u32),
}

/// Runs one load against a port. `folder` holds the TLS files that sysbench expects.
pub(crate) fn run(
    port: u16,
    threads: u32,
    script: Script,
    tls: bool,
    until: Until,
    account: &Account<'_>,
    folder: &Path,
) -> Outcome<Ran> {
    let mut command = sysbench(port, account, folder);
    let (seconds, events) = match until {
        Until::Seconds(seconds) => (seconds, 0),
        Until::Statements(statements) => (0, statements),
    };
    command.arg(format!("--threads={threads}")).arg(format!("--time={seconds}"));
    command.arg(format!("--events={events}")).arg("--percentile=99");
    if tls {
        command.arg("--mysql-ssl=on");
    }
    let rows = TABLE_ROWS;
    match script {
        Script::Point => {
            command.arg(format!("--table-size={rows}")).args(["--db-ps-mode=disable", "oltp_point_select"]);
        }
        Script::Prepared => {
            command.arg(format!("--table-size={rows}")).args(["--db-ps-mode=auto", "oltp_point_select"]);
        }
        Script::ReadWrite => {
            command.arg(format!("--table-size={rows}")).args(["--db-ps-mode=disable", "oltp_read_write"]);
        }
        Script::Own(kind) => {
            command.arg(format!("--rows={rows}")).arg(format!("--statement={kind}"));
            command.arg("--db-ps-mode=disable").arg(folder.join("statements.lua"));
        }
    }
    // sysbench reports its errors where it prints its figures.
    let printed = client::run_with_input(command.arg("run"), b"")?;
    parse(&printed.output)
        .filter(|_| printed.code == Some(0))
        .ok_or_else(|| format!("sysbench failed: {}{}", printed.output, printed.errors))
}

/// Fills the tables of the loads.
pub(crate) fn prepare(port: u16, account: &Account<'_>, folder: &Path) -> Outcome<()> {
    let mut command = sysbench(port, account, folder);
    command.arg(format!("--table-size={TABLE_ROWS}")).args(["oltp_point_select", "prepare"]);
    process::run(&mut command).map(drop)
}

fn sysbench(port: u16, account: &Account<'_>, folder: &Path) -> Command {
    let mut command = Command::new("sysbench");
    command.current_dir(folder).args(["--db-driver=mysql", "--mysql-host=127.0.0.1"]);
    command.arg(format!("--mysql-port={port}")).arg(format!("--mysql-user={}", account.user));
    command.arg(format!("--mysql-password={}", account.password));
    command.arg(format!("--mysql-db={}", account.schema));
    command
}

fn parse(printed: &str) -> Option<Ran> {
    let after = |mark: &str| printed.split(mark).nth(1).map(str::trim_start);
    let number = |text: &str| {
        let end = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
        text[..end].parse::<f64>().ok()
    };
    let queries = after("queries:")?;
    let per_second = queries.split('(').nth(1)?;
    Some(Ran {
        queries: queries.split_whitespace().next()?.parse().ok()?,
        qps: number(per_second)?,
        p99_ms: number(after("99th percentile:")?)?,
    })
}
