//! Operations that change something. Every one leaves a line in the log: who, what, and what came of it.

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::oneshot;
use tokio::task::JoinSet;
use tracing::{info, warn};

use super::answer::{Answer, Done};
use super::invocation::shown;
use super::refusal::{Code, OperationError};
use super::state_file::NotKept;
use super::{Caller, Control, Invocation};
use crate::ids::{ClusterName, SessionId};
use crate::session::registry::Ending;
use crate::topology::NotWriter;

/// How long a caller waits for a reload. The reload itself goes on.
const PATIENCE: Duration = Duration::from_mins(1);

/// Writes the line, and gives the result back.
pub(super) fn logged(
    caller: &Caller,
    wanted: &Invocation,
    result: Result<Answer, OperationError>,
) -> Result<Answer, OperationError> {
    let (operation, arguments) = (wanted.operation().name(), wanted.values());
    match &result {
        Ok(Answer::Done(done)) => {
            info!(by = caller.name, operation, arguments, result = done.result, "operation");
        }
        Ok(_) => info!(by = caller.name, operation, arguments, "operation"),
        Err(e) => warn!(by = caller.name, operation, arguments, reason = e.message, "operation not done"),
    }
    result
}

impl Control {
    pub(super) async fn set_node(&self, wanted: &Invocation) -> Result<Answer, OperationError> {
        let given = |name| wanted.get(name).unwrap_or_default().to_owned();
        let (cluster, node) = (given("cluster"), given("node"));
        let desired = given("state").parse().map_err(OperationError::bad_request)?;
        let topology = self.topology.load();
        let known = Self::cluster(&topology, &cluster)?;
        Self::node(known, &node)?;
        let (file, store) = (self.state_file.clone(), Arc::clone(&self.topology));
        let names = (cluster.clone(), node.clone());
        // The file is synced to disk, which may take a while and must not hold up the probes.
        let set = tokio::task::spawn_blocking(move || file.set(&store, &names.0, &names.1, desired));
        let set = set.await.map_err(|e| OperationError::new(Code::Conflict, format!("not done: {e}")))?;
        let before = set.map_err(|e| match e {
            NotKept::NoSuchNode => no_node(&cluster, &node),
            NotKept::File(e) => OperationError::new(
                Code::Conflict,
                format!("the state can not be kept, so nothing changed: {e}"),
            ),
        })?;
        let note =
            if self.state_file.keeps() { "" } else { "; lost at a restart, as no runtime.state_file is set" };
        let result =
            format!("{cluster}/{node} is to be {} (was {}){note}", desired.as_str(), before.as_str());
        Ok(Answer::Done(Done { result, changes: Vec::new() }))
    }

    pub(super) fn set_writer(&self, wanted: &Invocation) -> Result<Answer, OperationError> {
        let given = |name| wanted.get(name).unwrap_or_default();
        let (cluster, node) = (given("cluster"), given("node"));
        let topology = self.topology.load();
        let rules = Self::cluster(&topology, cluster)?.rules;
        let before = self.topology.set_writer(cluster, node).map_err(|e| match e {
            NotWriter::Unknown => no_node(cluster, node),
            e => OperationError::new(Code::Conflict, format!("{cluster}/{node} is not made the writer: {e}")),
        })?;
        let before = before.map_or("none".to_owned(), |before| before.to_string());
        let note = if rules.failback { "; failback = true may return the role" } else { "" };
        let result = format!("{cluster}/{node} is the writer (was {before}){note}");
        Ok(Answer::Done(Done { result, changes: Vec::new() }))
    }

    pub(super) fn kill_session(&self, wanted: &Invocation) -> Result<Answer, OperationError> {
        let id = wanted.get("id").unwrap_or_default();
        let entry = id.parse().ok().and_then(|id: SessionId| self.registry.get(id));
        let Some(entry) = entry else {
            return Err(OperationError::not_found(format!("no session {id}; show sessions lists them")));
        };
        entry.end(Ending::Killed);
        Ok(Answer::Done(Done { result: format!("session {} is told to end", entry.id), changes: Vec::new() }))
    }

    pub(super) async fn reload_accounts(&self, wanted: &Invocation) -> Result<Answer, OperationError> {
        let topology = self.topology.load();
        let clusters: Vec<ClusterName> = match wanted.get("cluster") {
            Some(name) => vec![Self::cluster(&topology, name)?.name.clone()],
            None => topology.clusters.keys().cloned().collect(),
        };
        // What an operator corrected in the names of hosts counts as well.
        self.names.clear();
        let mut loads = JoinSet::new();
        for cluster in clusters {
            let accounts = Arc::clone(&self.accounts);
            loads.spawn(async move {
                let result = accounts.reload(&cluster).await;
                let count = accounts.cluster(&cluster).map_or(0, |of| of.snapshot.accounts().count());
                (cluster, result.map(|()| count))
            });
        }
        let mut results = in_time("the accounts", loads.join_all()).await?;
        results.sort_by(|a, b| a.0.cmp(&b.0));
        let line = |(cluster, result): &(ClusterName, Result<usize, String>)| match result {
            Ok(count) => format!("{cluster}: {count} accounts"),
            Err(reason) => format!("{cluster}: {reason}"),
        };
        let lines: Vec<String> = results.iter().map(line).collect();
        let failed = results.iter().filter(|(_, result)| result.is_err()).count();
        if failed > 0 {
            let message = format!(
                "the accounts of {failed} of {} clusters could not be read; those from before stay in force",
                results.len()
            );
            return Err(OperationError::new(Code::Unavailable, message).with_details(lines));
        }
        Ok(Answer::Done(Done { result: "accounts reloaded".to_owned(), changes: lines }))
    }

    pub(super) async fn reload_config(&self) -> Result<Answer, OperationError> {
        let (done, answer) = oneshot::channel();
        let asked = async {
            self.reload.send(done).await.ok()?;
            answer.await.ok()
        };
        match in_time("the configuration", asked).await? {
            Some(Ok(changes)) => {
                let result = match changes.len() {
                    0 => "configuration read again; nothing changed".to_owned(),
                    1 => "configuration reloaded; 1 change".to_owned(),
                    n => format!("configuration reloaded; {n} changes"),
                };
                Ok(Answer::Done(Done { result, changes }))
            }
            Some(Err(problems)) => {
                let message = "the configuration is not applied; the one from before stays in force";
                let problems = problems.lines().filter(|l| !l.trim().is_empty()).map(str::to_owned).collect();
                Err(OperationError::new(Code::InvalidConfiguration, message).with_details(problems))
            }
            None => Err(OperationError::new(
                Code::Unavailable,
                "Spillway is starting or stopping; nothing was reloaded",
            )),
        }
    }
}

async fn in_time<T>(what: &str, reload: impl Future<Output = T>) -> Result<T, OperationError> {
    tokio::time::timeout(PATIENCE, reload).await.map_err(|_| {
        let message = format!(
            "reading {what} takes longer than {} seconds; the log will tell how it ends",
            PATIENCE.as_secs()
        );
        OperationError::new(Code::Unavailable, message)
    })
}

pub(super) fn no_node(cluster: &str, node: &str) -> OperationError {
    OperationError::not_found(format!("cluster {cluster} has no node {}; show nodes lists them", shown(node)))
}
