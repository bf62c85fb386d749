//! Builds everything in order, binds early, follows signals, and drains at the end.
//!
//! | file | what |
//! |---|---|
//! | `listeners` | the listening sockets that serve clients now |
//! | `workers` | one thread per core, each with its sessions and links |

mod listeners;
mod workers;

use std::convert::Infallible;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tracing::{error, info, warn};

use crate::accounts::AccountStore;
use crate::config::Config;
use crate::control::{Control, KeptHandovers, ListenerStatus, ReloadConfig, RunningSessions, StateFile};
use crate::handover::Handover;
use crate::ids::ClusterName;
use crate::lifecycle::{Lifecycle, Phase};
use crate::metrics::Metrics;
use crate::monitor::Monitors;
use crate::net::{Access, Names, bind};
use crate::routing;
use crate::session::registry::Registry;
use crate::session::settle::settle;
use crate::session::{self, Shared, upkeep};
use crate::topology::{Topology, TopologyStore};
use crate::{api, console};
use listeners::Listeners;
use workers::Workers;

/// Sessions that end at the deadline get this long to be told so.
const LAST_WORDS: Duration = Duration::from_secs(3);

/// Why Spillway did not start, or stopped for a failure.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The configuration is wrong; exit code 64.
    #[error("{0}")]
    Configuration(String),
    /// Something that must be there is not; exit code 69.
    #[error("{0}")]
    Unavailable(String),
    /// Everything else; exit code 70.
    #[error("{0}")]
    Internal(String),
}

impl StartError {
    /// The process's exit code, after `sysexits.h`.
    pub fn exit_code(&self) -> u8 {
        match self {
            Self::Configuration(_) => 64,
            Self::Unavailable(_) => 69,
            Self::Internal(_) => 70,
        }
    }
}

/// Runs Spillway with a checked configuration until a signal stops it.
///
/// # Errors
/// See [`StartError`].
pub fn run(config: Config, path: PathBuf) -> Result<(), StartError> {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(1)
        .thread_name("control")
        .enable_all()
        .build()
        .map_err(|e| StartError::Internal(format!("control runtime: {e}")))?;
    let result = runtime.block_on(App::start(config, path));
    // Monitor connections may be in the middle of something; nobody waits for them.
    runtime.shutdown_timeout(Duration::from_millis(100));
    result
}

struct App {
    shared: Arc<Shared>,
    monitors: Monitors,
    handover: Arc<Handover>,
    workers: Arc<Workers>,
    listeners: Listeners,
    statuses: Arc<ArcSwap<Vec<ListenerStatus>>>,
    probes: JoinSet<Infallible>,
    watches: JoinSet<Infallible>,
    new_configs: mpsc::Sender<Arc<Config>>,
    path: PathBuf,
}

impl App {
    async fn start(config: Config, path: PathBuf) -> Result<(), StartError> {
        let mut signals = Signals::new()?;
        let unavailable = |e: String| StartError::Unavailable(e);
        let mut listeners = Listeners::default();
        let bound = listeners.bind_missing(&config).map_err(unavailable)?;
        let mut doors = Vec::new();
        for address in &config.admin.console {
            doors.push(
                bind(address, Access::Owner)
                    .and_then(|bound| bound.listen())
                    .map_err(|e| StartError::Unavailable(format!("admin.console: {address}: {e}")))?,
            );
        }
        let mut api_doors = Vec::new();
        for address in &config.admin.api {
            let listener = tokio::net::TcpListener::bind(address)
                .await
                .map_err(|e| StartError::Unavailable(format!("admin.api: {address}: {e}")))?;
            api_doors.push(listener);
        }
        let state_file = StateFile::load(config.runtime.state_file.clone())
            .map_err(|e| StartError::Unavailable(format!("state file: {e}")))?;

        let (accounts, account_requests) = AccountStore::new();
        let shared = Arc::new(Shared {
            topology: Arc::new(TopologyStore::new(Topology::new(&config))),
            accounts: Arc::new(accounts),
            registry: Arc::new(Registry::default()),
            counts: Arc::default(),
            account_counts: Arc::default(),
            failed: Arc::default(),
            held: Arc::default(),
            names: Names::new(tokio::runtime::Handle::current()),
            secrets: session::Secrets::default(),
            gates: Arc::default(),
            lifecycle: Lifecycle::default(),
            metrics: Arc::new(Metrics::new(env!("CARGO_PKG_VERSION"))),
            config: Arc::new(ArcSwap::from_pointee(config)),
        });
        let config = shared.config.load_full();
        state_file.apply(&shared.topology);
        let statuses = Arc::new(ArcSwap::from_pointee(Listeners::statuses(&config)));
        let (reload_requests, reloads) = mpsc::channel(4);
        let handover = Handover::new(
            Arc::clone(&shared.config),
            Arc::clone(&shared.topology),
            Arc::clone(&shared.metrics),
            Arc::new(KeptHandovers { file: state_file.clone(), topology: Arc::clone(&shared.topology) }),
            Arc::new(RunningSessions {
                registry: Arc::clone(&shared.registry),
                topology: Arc::clone(&shared.topology),
                config: Arc::clone(&shared.config),
            }),
        );
        let control = Arc::new(Control {
            topology: Arc::clone(&shared.topology),
            registry: Arc::clone(&shared.registry),
            gates: Arc::clone(&shared.gates),
            account_counts: Arc::clone(&shared.account_counts),
            failed: Arc::clone(&shared.failed),
            held: Arc::clone(&shared.held),
            names: shared.names.clone(),
            accounts: Arc::clone(&shared.accounts),
            config: Arc::clone(&shared.config),
            metrics: Arc::clone(&shared.metrics),
            lifecycle: shared.lifecycle.clone(),
            reload: reload_requests,
            listeners: Arc::clone(&statuses),
            state_file,
            handover: Arc::clone(&handover),
        });
        let mut admin = JoinSet::new();
        for door in doors {
            admin.spawn(console::serve(door, Arc::clone(&control)));
        }
        for door in api_doors {
            admin.spawn(api::serve(door, Arc::clone(&control)));
        }

        let monitors = Monitors {
            topology: Arc::clone(&shared.topology),
            accounts: Arc::clone(&shared.accounts),
            names: shared.names.clone(),
            metrics: Arc::clone(&shared.metrics),
        };
        let chronicle = tokio::spawn(monitors.chronicle());
        let keeping = tokio::spawn(control.state_file.clone().follow(Arc::clone(&shared.topology)));
        let probes = monitors.probe(&config);
        let loader = monitors.loader(&config, account_requests);
        let loading = loader.first_load(config.runtime.start_timeout);
        tokio::select! {
            missing = loading => {
                check_accounts(&config, &shared, &missing)?;
            }
            signal = signals.stop() => {
                info!(signal, "stopped while starting");
                return Ok(());
            }
        }
        let (new_configs, configs) = mpsc::channel(4);
        let loader = tokio::spawn(loader.run(configs));
        await_verdicts(&shared).await;

        let workers = Arc::new(Workers::start(&config, &shared)?);
        let idle = tokio::spawn(upkeep::close_idle(Arc::clone(&shared)));
        let watches = handover.watch(&config);
        handover.recover(&config);
        let mut app = Self {
            shared,
            monitors,
            handover,
            workers,
            listeners,
            statuses,
            probes,
            watches,
            new_configs,
            path,
        };
        app.listeners.open(bound, &app.workers);
        app.shared.lifecycle.advance(Phase::Serving);
        for (address, service) in config.listeners() {
            info!(%address, service = %service.name, "listening");
        }
        let result = app.serve(signals, reloads).await;
        loader.abort();
        idle.abort();
        keeping.abort();
        chronicle.abort();
        admin.shutdown().await;
        result
    }

    /// Serves until a signal says stop, then drains.
    async fn serve(
        &mut self,
        mut signals: Signals,
        mut reloads: mpsc::Receiver<ReloadConfig>,
    ) -> Result<(), StartError> {
        let mut changes = self.shared.topology.subscribe();
        let mut accounts = self.shared.accounts.subscribe();
        let signal = loop {
            tokio::select! {
                signal = signals.next() => match signal {
                    Wish::Stop(signal) => break signal,
                    Wish::Reload => match self.reload().await {
                        Ok(changes) => info!(changes = changes.len(), "configuration reloaded"),
                        Err(problems) => error!(problems, "configuration not reloaded"),
                    },
                },
                Some(done) = reloads.recv() => {
                    let result = self.reload().await;
                    // Whoever asked may have gone.
                    let _ = done.send(result);
                }
                Ok(()) = accounts.changed() => {
                    let config = self.shared.config.load();
                    let (registry, accounts) = (&self.shared.registry, &self.shared.accounts);
                    self.shared.account_counts.renew(&accounts.load(), std::time::Instant::now());
                    let ended = session::end_revoked(registry, accounts, &config);
                    if ended > 0 {
                        warn!(sessions = ended, "sessions ended because their accounts may not log in any more");
                    }
                }
                Ok(()) = changes.changed() => self.settle(),
                () = calmed(self.shared.topology.load()) => self.settle(),
            }
        };
        self.drain(signal, &mut signals).await;
        Ok(())
    }

    /// Tells the sessions which of them are to leave their nodes.
    fn settle(&self) {
        let (topology, config) = (self.shared.topology.load(), self.shared.config.load());
        let stranded = settle(&self.shared.registry, &topology, &config);
        if stranded > 0 {
            warn!(sessions = stranded, "sessions have to leave their nodes at once");
        }
    }

    /// No new clients; those that are there may finish until the deadline or a second signal.
    async fn drain(&mut self, signal: &'static str, signals: &mut Signals) {
        let limit = self.shared.config.load().runtime.drain_timeout;
        let registry = Arc::clone(&self.shared.registry);
        info!(
            signal,
            sessions = registry.len(),
            deadline = %humantime::format_duration(limit),
            "draining"
        );
        self.shared.lifecycle.advance(Phase::Draining);
        self.listeners.close();
        self.statuses.store(Arc::default());
        tokio::select! {
            () = until_empty(&registry) => {}
            () = tokio::time::sleep(limit) => {}
            _ = signals.stop() => warn!("second signal: not waiting any longer"),
        }
        let ended = session::end_all(&registry);
        if ended > 0 {
            warn!(sessions = ended, "sessions ended by the shutdown");
            let _ = tokio::time::timeout(LAST_WORDS, until_empty(&registry)).await;
        }
        self.watches.shutdown().await;
        // A cluster must not be left half changed.
        self.handover.settled().await;
        self.shared.lifecycle.advance(Phase::Stopping);
        self.probes.shutdown().await;
        info!("stopped");
    }

    /// Reads the file again and applies it as a whole, or not at all. Returns the changes.
    async fn reload(&mut self) -> Result<Vec<String>, String> {
        let old = self.shared.config.load_full();
        let path = self.path.clone();
        let mut new = tokio::task::spawn_blocking(move || Config::load(&path))
            .await
            .map_err(|e| e.to_string())?
            .map_err(|e| e.to_string())?;
        let changes = old.diff(&new);
        if changes.is_empty() {
            return Ok(Vec::new());
        }
        new.keep_tls(&old);
        let problems = routing::ambiguous_schemas(&new, &self.shared.accounts.load());
        if !problems.is_empty() {
            return Err(problems.join("\n"));
        }
        let bound = self.listeners.bind_missing(&new)?;
        let new = Arc::new(new);
        self.shared.config.store(Arc::clone(&new));
        self.shared.topology.reconfigure(&new);
        self.shared.accounts.retain(|cluster| new.clusters.contains_key(cluster));
        if old.clusters != new.clusters {
            self.probes = self.monitors.probe(&new);
            self.watches = self.handover.watch(&new);
            // The loader lives as long as the process.
            let _ = self.new_configs.send(Arc::clone(&new)).await;
        }
        self.settle();
        self.listeners.close_missing(&new);
        self.listeners.open(bound, &self.workers);
        self.statuses.store(Arc::new(Listeners::statuses(&new)));
        for warning in &new.warnings {
            warn!("{warning}");
        }
        let lines: Vec<String> = changes
            .iter()
            .map(|c| if c.needs_restart() { format!("{c} (needs a restart)") } else { c.to_string() })
            .collect();
        for line in &lines {
            info!(change = line, "configuration changed");
        }
        Ok(lines)
    }
}

fn check_accounts(
    config: &Config,
    shared: &Shared,
    missing: &[(ClusterName, String)],
) -> Result<(), StartError> {
    for (cluster, reason) in missing {
        if config.runtime.start_without_accounts {
            warn!(%cluster, reason, "starting without the accounts of this cluster");
        } else {
            return Err(StartError::Unavailable(format!(
                "no accounts of cluster {cluster}: {reason} (runtime.start_without_accounts = true starts anyway)"
            )));
        }
    }
    let problems = routing::ambiguous_schemas(config, &shared.accounts.load());
    if problems.is_empty() { Ok(()) } else { Err(StartError::Configuration(problems.join("\n"))) }
}

/// Waits until connections to some node need not be watched closely any more.
async fn calmed(topology: Arc<Topology>) {
    match topology.watched_until(std::time::Instant::now()) {
        Some(end) => tokio::time::sleep_until(end.into()).await,
        None => std::future::pending().await,
    }
}

/// Waits a moment for the first verdict about every node, so that the first clients find them.
async fn await_verdicts(shared: &Shared) {
    const LIMIT: Duration = Duration::from_secs(3);
    let mut changes = shared.topology.subscribe();
    let all_probed = async {
        loop {
            let unknown = shared
                .topology
                .load()
                .clusters
                .values()
                .flat_map(|c| &c.nodes)
                .any(|n| n.observed == crate::topology::Observed::Unknown);
            if !unknown || changes.changed().await.is_err() {
                return;
            }
        }
    };
    // Nodes that stay silent are shown as not probed yet.
    let _ = tokio::time::timeout(LIMIT, all_probed).await;
}

async fn until_empty(registry: &Registry) {
    while !registry.is_empty() {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

struct Signals {
    terminate: Signal,
    interrupt: Signal,
    hangup: Signal,
}

impl Signals {
    fn new() -> Result<Self, StartError> {
        let on = |kind| signal(kind).map_err(|e| StartError::Internal(format!("signals: {e}")));
        Ok(Self {
            terminate: on(SignalKind::terminate())?,
            interrupt: on(SignalKind::interrupt())?,
            hangup: on(SignalKind::hangup())?,
        })
    }

    /// The next signal. Cancel safe.
    async fn next(&mut self) -> Wish {
        tokio::select! {
            _ = self.terminate.recv() => Wish::Stop("SIGTERM"),
            _ = self.interrupt.recv() => Wish::Stop("SIGINT"),
            _ = self.hangup.recv() => Wish::Reload,
        }
    }

    /// The next signal that wants Spillway to stop. Cancel safe.
    async fn stop(&mut self) -> &'static str {
        loop {
            if let Wish::Stop(signal) = self.next().await {
                return signal;
            }
        }
    }
}

/// What a signal asks for.
enum Wish {
    Stop(&'static str),
    Reload,
}

/// Where the configuration is looked for when no path is given.
pub fn default_path() -> &'static Path {
    Path::new("/etc/spillway/spillway.toml")
}
