//! What each worker does beside serving: its pool is kept in order, and idle sessions are closed.

use std::collections::HashMap;
use std::convert::Infallible;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::{Instant, MissedTickBehavior, interval};
use tracing::debug;

use super::Shared;
use super::registry::Ending;
use crate::backend::{Keep, Key, Pool};
use crate::ids::SessionId;

/// How often a pool is looked through.
const ROUND: Duration = Duration::from_millis(500);

/// Keeps a worker's pool in order for as long as the worker lives. `first`: this worker also tries full nodes again.
pub async fn tend(shared: Arc<Shared>, pool: Rc<Pool>, first: bool) -> Infallible {
    let mut rounds = interval(ROUND);
    rounds.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut changes = shared.topology.subscribe();
    let mut waiting = pool.watch_waiting();
    loop {
        tokio::select! {
            _ = rounds.tick() => {}
            Ok(()) = changes.changed() => {}
            Ok(()) = waiting.changed() => {
                pool.yield_to_waiting();
                continue;
            }
        }
        if first {
            pool.retry_full();
        }
        for (key, proof) in pool.sweep(|key| keep(&shared, key)) {
            let config = shared.config.load_full();
            let Some(cluster) = config.clusters.get(&key.cluster) else { continue };
            let (links, limit) = (cluster.links.clone(), cluster.connect_timeout);
            let pool = Rc::clone(&pool);
            tokio::task::spawn_local(async move {
                let node = key.node.clone();
                if let Err(error) = pool.warm_up(key, &proof, &links, limit).await {
                    debug!(%node, %error, "no link could be opened in advance");
                }
            });
        }
    }
}

/// How long idle links of this key are kept; none: the node takes no sessions, or the account is another one now.
fn keep(shared: &Shared, key: &Key) -> Option<Keep> {
    let config = shared.config.load();
    let cluster = config.clusters.get(&key.cluster)?;
    let links = &cluster.links;
    let topology = shared.topology.load();
    let node = topology.cluster(key.cluster.as_str())?.node(key.node.as_str())?;
    let accounts = shared.accounts.of_node(&key.cluster, &key.node)?;
    let snapshot = &accounts.snapshot;
    let stays = links.reuse
        && node.takes_sessions()
        && node.address == key.address
        && cluster.tls.as_ref().map(|tls| &tls.trust) == key.tls.as_ref()
        && snapshot.has_account(&key.account)
        && !snapshot.variables().init_connect;
    // The server must not be the first to close the link: a session would be given it in that moment.
    let server = Duration::from_secs(snapshot.variables().wait_timeout) / 2;
    stays.then(|| Keep { idle_timeout: links.idle_timeout.min(server), warm: links.warm })
}

/// Closes sessions that are idle for longer than their service allows. One task looks at all of them now and then, so
/// that neither a timer nor a clock is needed for each statement.
pub async fn close_idle(shared: Arc<Shared>) -> Infallible {
    let mut seen: HashMap<SessionId, (u64, Instant)> = HashMap::new();
    loop {
        let config = shared.config.load_full();
        let shortest = config.services.values().filter_map(|service| service.idle_timeout).min();
        let pause = shortest.map_or(Duration::from_secs(5), |limit| {
            (limit / 4).clamp(Duration::from_millis(250), Duration::from_secs(5))
        });
        tokio::time::sleep(pause).await;
        if shortest.is_none() {
            seen.clear();
            continue;
        }
        let now = Instant::now();
        let mut still_there = HashMap::with_capacity(seen.len());
        for entry in shared.registry.list() {
            let limit = config.services.get(&entry.service).and_then(|service| service.idle_timeout);
            let Some(limit) = limit.filter(|_| entry.is_idle()) else { continue };
            let statements = entry.statements();
            let since = match seen.get(&entry.id) {
                Some((before, since)) if *before == statements => *since,
                _ => now,
            };
            if now.duration_since(since) >= limit {
                entry.end(Ending::Idle(limit));
            } else {
                still_there.insert(entry.id, (statements, since));
            }
        }
        seen = still_there;
    }
}
