//! Behaviour against real servers: every statement runs directly and through Spillway, and the answers must agree.
//!
//! `POOLING=off` and `WORKERS=1` in the environment run the same tests without links that serve several sessions and
//! with one worker. `SOLO=mariadb-11.8` runs those of the plain server ([`lab::solo`]) against one of another version
//! (`binlog_dump` fails then, directly as well: its program is this machine's).
//!
//! The direct run proves the test itself; a difference is Spillway's doing. Servers are started once and shared
//! ([`lab`]); a test that hurts a server has one of its own or holds it alone. Any part of a test's name selects
//! it: `cargo test --test integration -- login`.
//!
//! The tests in [`mysql`] and [`mysql_replication`], and some others, need a `MySQL` 9.7, and those in [`versions`] a `MariaDB`
//! 11.8 and 10.5, which `make servers` gets; where there is none they are ignored, and the last words of the run say so. So it
//! is with those in [`names`], which need mount namespaces, with those in
//! [`unix_accounts`], which need to be root, and with some in [`chaos`], which need network namespaces.

#![allow(clippy::disallowed_methods, reason = "tests have threads of their own and may block them")]
#![allow(clippy::needless_pass_by_value, reason = "errors travel as text")]

#[path = "../harness/mod.rs"]
mod harness;

mod audit;
mod bulk;
mod cases;
mod chaos;
mod commands;
mod differential;
mod discovery;
mod handover;
mod handover_more;
mod health;
mod kills;
mod lab;
mod limits;
mod links;
mod login;
mod masked;
mod moves;
mod mysql;
mod mysql_replication;
mod names;
mod node_tls;
mod nodes;
mod operations;
mod plugins;
mod probes;
mod proof;
mod proxy_protocol;
mod raw;
mod roles;
mod routing;
mod signed;
mod silence;
mod startup;
mod statement_limits;
mod statements;
mod tls;
mod unix_accounts;
mod versions;

use harness::Outcome;
use harness::root::{self, Root};
use libtest_mimic::{Arguments, Trial};
use std::io::Write as _;

/// What a test returns.
pub(crate) type Verdict = Outcome<()>;

/// Fails the test with a text unless the condition holds.
#[macro_export]
macro_rules! ensure {
    ($condition:expr, $($text:tt)+) => {
        if !$condition {
            return Err(format!("{}:{}: {}", file!(), line!(), format!($($text)+)));
        }
    };
}

/// Fails the test unless both sides are equal, and shows them.
#[macro_export]
macro_rules! same {
    ($left:expr, $right:expr, $($text:tt)+) => {
        match (&$left, &$right) {
            (left, right) => {
                if left != right {
                    let what = format!($($text)+);
                    return Err(format!("{}:{}: {what}\n  left:  {left:?}\n  right: {right:?}", file!(), line!()));
                }
            }
        }
    };
}

/// A named test.
pub(crate) fn trial(name: &str, test: fn() -> Verdict) -> Trial {
    Trial::test(name, move || test().map_err(Into::into))
}

/// A named test that needs `MySQL`: ignored, and said so at the end, where there is none.
pub(crate) fn mysql_trial(name: &str, test: fn() -> Verdict) -> Trial {
    trial(name, test).with_ignored_flag(harness::mysql::root().is_err())
}

/// A named test that needs a server of another version: ignored, and said so at the end, where there is none.
pub(crate) fn rooted_trial(
    home: &'static Root,
    name: &str,
    test: impl FnOnce() -> Verdict + Send + 'static,
) -> Trial {
    Trial::test(name, move || test().map_err(Into::into)).with_ignored_flag(home.path().is_err())
}

/// A named test with host names of its own: ignored, and said so at the end, where that cannot be.
pub(crate) fn named_trial(name: &str, test: fn() -> Verdict) -> Trial {
    trial(name, test).with_ignored_flag(harness::resolver::missing().is_some())
}

/// A named test with clients of other users: ignored, and said so at the end, where this process is not root.
pub(crate) fn users_trial(name: &str, test: fn() -> Verdict) -> Trial {
    trial(name, test).with_ignored_flag(harness::workspace::current_user() != "root")
}

/// Says which tests were left out, in words that nobody overlooks.
fn mourn(ignored: u64) {
    let roots = root::ALL
        .iter()
        .filter_map(|home| home.path().err().map(|reason| format!("those against {}: {reason}", home.title)));
    let names = harness::resolver::missing().map(|reason| format!("those with names of hosts: {reason}"));
    let users = (harness::workspace::current_user() != "root")
        .then(|| "those with clients of other users: only root can start them".to_owned());
    let hosts = harness::network::missing().map(|reason| format!("those with a network of hosts: {reason}"));
    let cables =
        harness::network::bad_cables_missing().map(|reason| format!("those with a bad network: {reason}"));
    let reasons: Vec<String> = roots.chain(names).chain(users).chain(hosts).chain(cables).collect();
    if ignored > 0 && !reasons.is_empty() {
        let line = "=".repeat(71);
        let reasons = reasons.join("\n  ");
        let text = format!("\n{line}\n  {ignored} TESTS WERE SKIPPED\n  {reasons}\n{line}\n\n");
        // The verdict of the run does not hang on this.
        let _ = std::io::stderr().write_all(text.as_bytes());
    }
}

fn main() {
    let mut arguments = Arguments::from_args();
    // Most of a test's time is spent waiting for a server.
    arguments.test_threads.get_or_insert(4);
    let trials = [
        health::trials(),
        moves::trials(),
        roles::trials(),
        routing::trials(),
        login::trials(),
        statements::trials(),
        commands::trials(),
        bulk::trials(),
        limits::trials(),
        statement_limits::trials(),
        kills::trials(),
        links::trials(),
        names::trials(),
        audit::trials(),
        masked::trials(),
        cases::trials(),
        probes::trials(),
        proxy_protocol::trials(),
        differential::trials(),
        discovery::trials(),
        operations::trials(),
        plugins::trials(),
        signed::trials(),
        silence::trials(),
        startup::trials(),
        tls::trials(),
        mysql::trials(),
        mysql_replication::trials(),
        node_tls::trials(),
        nodes::trials(),
        unix_accounts::trials(),
        versions::trials(),
        handover::trials(),
        handover_more::trials(),
    ];
    if !arguments.list && arguments.filter.is_none() {
        lab::start_all_in_background();
    }
    let together = libtest_mimic::run(&arguments, trials.into_iter().flatten().collect());
    // They measure time, so nothing else runs beside them.
    let one_at_a_time = Arguments { test_threads: Some(1), ..arguments.clone() };
    let alone = libtest_mimic::run(&one_at_a_time, chaos::trials());
    harness::process::stop_everything();
    mourn(if arguments.list { 0 } else { together.num_ignored + alone.num_ignored });
    together.exit_if_failed();
    alone.exit();
}
