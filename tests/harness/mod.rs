//! Real servers and a real Spillway for the integration tests and the demo: started on loopback, gone afterwards.
//!
//! * [`workspace`]: the directory of one run, the template data directory, free ports.
//! * [`process`]: child processes that end with the run, however it ends.
//! * [`resolver`]: host names that only some children see.
//! * [`network`]: hosts with a network of their own, whose cables can be cut.
//! * [`server`]: one server, `mariadbd` or `mysqld`.
//! * [`root`]: servers of other versions, each in a root of its own.
//! * [`mysql`]: what is peculiar to `mysqld`.
//! * [`cluster`]: a Galera cluster, a primary with a replica.
//! * [`proxy`]: `spillway run`, its console and its HTTP API.
//! * [`client`]: the `mariadb` program as a client.
//!
//! Every function reports what went wrong as text for a person, with the end of the log that explains it.

#![allow(clippy::disallowed_methods, reason = "the harness has threads of its own and may block them")]
#![allow(dead_code, reason = "shared by the integration tests and the demo; each uses a part of it")]

pub(crate) mod client;
pub(crate) mod cluster;
pub(crate) mod mysql;
pub(crate) mod network;
pub(crate) mod process;
pub(crate) mod proxy;
pub(crate) mod resolver;
pub(crate) mod root;
pub(crate) mod server;
pub(crate) mod workspace;

use std::time::{Duration, Instant};

/// What the harness returns: an error is one text for a person.
pub(crate) type Outcome<T> = Result<T, String>;

/// How long is waited for what must come, where it is not the question how soon: the machine may be slow and busy.
pub(crate) const PATIENCE: Duration = Duration::from_mins(1);

/// Asks again every 50 ms until `probe` answers, and gives up after `limit` with the last reason.
pub(crate) fn wait_for<T>(what: &str, limit: Duration, mut probe: impl FnMut() -> Outcome<T>) -> Outcome<T> {
    let start = Instant::now();
    loop {
        match probe() {
            Ok(value) => return Ok(value),
            Err(reason) if start.elapsed() > limit => {
                return Err(format!("{what}: not within {limit:?}; at last: {reason}"));
            }
            Err(_) => std::thread::sleep(Duration::from_millis(50)),
        }
    }
}
