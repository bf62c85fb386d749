//! Everything that an operator can do, defined once; the console and the API are two ways to say it.
//!
//! | file | what |
//! |---|---|
//! | [`operation`] | the registry: words, arguments, help, right, route and result of every operation |
//! | `invocation` | an operation with checked arguments, from a line or from a request |
//! | [`answer`] | what operations give |
//! | `show` | answers made from topology, accounts and sessions |
//! | `explain` | why a node serves what it serves |
//! | `audit` | what would become of a login |
//! | `change` | operations that change something; each leaves a line in the log |
//! | `handover` | operations that change the writer of a cluster |
//! | `readiness` | whether clients can be served |
//! | `refusal` | why an operation was not done |
//! | `state_file` | what operators want of nodes, kept over a restart |
//! | `credential` | the console's password and the API's token |

pub mod answer;
mod audit;
mod change;
mod credential;
mod explain;
mod handover;
mod invocation;
pub mod operation;
mod readiness;
mod refusal;
mod show;
mod state_file;
mod suggestion;
#[cfg(test)]
pub(crate) mod tests;

use std::sync::Arc;

use arc_swap::ArcSwap;
use tokio::sync::{mpsc, oneshot};

use crate::accounts::AccountStore;
use crate::backend::Gates;
use crate::config::Config;
use crate::handover::Handover;
use crate::ids::ServiceName;
use crate::lifecycle::Lifecycle;
use crate::metrics::Metrics;
use crate::net::Names;
use crate::session::account_limits::AccountCounts;
use crate::session::backoff::Failed;
use crate::session::hold::Held;
use crate::session::registry::Registry;
use crate::topology::TopologyStore;

pub use answer::Answer;
pub use handover::RunningSessions;
pub use invocation::Invocation;
pub use operation::{OPERATIONS, Operation, Right};
pub use readiness::Readiness;
pub use refusal::{Code, OperationError};
pub use state_file::{KeptHandovers, StateFile, StateFileError};

use operation::Verb;

/// The version of Spillway.
pub const VERSION: &str = env!("CARGO_PKG_VERSION");

/// Asks whoever applies configurations to read the file again. The answer is the list of changes, or what is wrong
/// with the file, one problem in a line; then nothing has changed.
pub type ReloadConfig = oneshot::Sender<Result<Vec<String>, String>>;

/// A socket that clients connect to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ListenerStatus {
    /// Where it listens.
    pub address: String,
    /// The service behind it.
    pub service: ServiceName,
    /// In one word, such as `listening`.
    pub state: &'static str,
}

/// Who wants something done.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Caller {
    /// For the log, such as `console 127.0.0.1:40000`.
    pub name: String,
    /// The most that the caller may do.
    pub right: Right,
}

/// The handles that operations need.
#[derive(Debug)]
pub struct Control {
    /// Clusters and nodes.
    pub topology: Arc<TopologyStore>,
    /// Sessions.
    pub registry: Arc<Registry>,
    /// Links.
    pub gates: Arc<Gates>,
    /// Sessions and logins of accounts.
    pub account_counts: Arc<AccountCounts>,
    /// Logins that failed.
    pub failed: Arc<Failed>,
    /// Sessions that wait for a node.
    pub held: Arc<Held>,
    /// Names of clients' addresses.
    pub names: Names,
    /// Accounts.
    pub accounts: Arc<AccountStore>,
    /// The configuration in force.
    pub config: Arc<ArcSwap<Config>>,
    /// Counters.
    pub metrics: Arc<Metrics>,
    /// The phase of the process's life.
    pub lifecycle: Lifecycle,
    /// Where a reload of the configuration is asked for.
    pub reload: mpsc::Sender<ReloadConfig>,
    /// The sockets that clients connect to.
    pub listeners: Arc<ArcSwap<Vec<ListenerStatus>>>,
    /// What operators want of nodes.
    pub state_file: StateFile,
    /// Changes of writers.
    pub handover: Arc<Handover>,
}

impl Control {
    /// Does what is asked.
    ///
    /// Reading operations answer at once, but for `explain login`, which may look a name up. `set node` waits for the disk, and a reload or a change of writer for its end, at most a minute;
    /// dropped in the middle, what was begun still comes to its end.
    ///
    /// # Errors
    /// Why it was not done.
    pub async fn run(&self, caller: &Caller, wanted: &Invocation) -> Result<Answer, OperationError> {
        let operation = wanted.operation();
        if operation.right > caller.right {
            let message = format!("{} may not {}", caller.name, operation.name());
            return change::logged(caller, wanted, Err(OperationError::new(Code::Forbidden, message)));
        }
        match operation.verb {
            Verb::Help => show::help(wanted),
            Verb::ShowClusters => Ok(self.show_clusters()),
            Verb::ShowNodes => self.show_nodes(wanted),
            Verb::ShowSessions => Ok(self.show_sessions()),
            Verb::ShowAccounts => self.show_accounts(wanted),
            Verb::ShowPermissiveness => self.show_permissiveness(wanted),
            Verb::ExplainLogin => self.explain_login(wanted).await,
            Verb::ShowBackoffs => Ok(self.show_backoffs()),
            Verb::ClearBackoffs => change::logged(caller, wanted, self.clear_backoffs(wanted)),
            Verb::ClearLimits => change::logged(caller, wanted, self.clear_limits(wanted)),
            Verb::ShowListeners => Ok(self.show_listeners()),
            Verb::ShowEvents => self.show_events(wanted),
            Verb::ExplainNode => self.explain_node(wanted),
            Verb::ShowVersion => Ok(self.show_version()),
            Verb::SetNode => change::logged(caller, wanted, self.set_node(wanted).await),
            Verb::SetWriter => change::logged(caller, wanted, self.set_writer(wanted)),
            Verb::Switch | Verb::Failover => change::logged(caller, wanted, self.hand_over(wanted).await),
            Verb::KillSession => change::logged(caller, wanted, self.kill_session(wanted)),
            Verb::ReloadAccounts => change::logged(caller, wanted, self.reload_accounts(wanted).await),
            Verb::ReloadConfig => change::logged(caller, wanted, self.reload_config().await),
            Verb::Quit => Ok(Answer::Quit),
        }
    }
}
