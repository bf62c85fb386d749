//! Writes every change of a cluster or node into the log, and counts those of writers.

use std::convert::Infallible;
use std::sync::Arc;

use tracing::{error, info, warn};

use crate::metrics::Metrics;
use crate::topology::{Event, EventKind, TopologyStore};

/// Logs the store's events as they come, for ever.
pub(super) async fn run(topology: Arc<TopologyStore>, metrics: Arc<Metrics>) -> Infallible {
    let mut changes = topology.subscribe();
    let mut last = 0;
    loop {
        for event in topology.events(last) {
            last = event.number;
            log(&event);
            if event.kind == EventKind::Writer {
                metrics.writer_changed(&event.cluster);
            }
        }
        if changes.changed().await.is_err() {
            // The store outlives this task, which holds it.
            std::future::pending::<()>().await;
        }
    }
}

fn log(event: &Event) {
    let Event { cluster, before, after, .. } = event;
    let node = event.node.as_ref().map(tracing::field::display);
    let evidence = event.evidence.as_ref();
    match event.kind {
        EventKind::Observed if after.starts_with("down") => {
            warn!(%cluster, node, before, now = after, evidence, "node state changed");
        }
        EventKind::Observed => info!(%cluster, node, before, now = after, evidence, "node state changed"),
        EventKind::Desired => info!(%cluster, node, before, now = after, "an operator wants another state"),
        // Whoever did it has logged every step.
        EventKind::Handover => {}
        EventKind::Member => info!(%cluster, node, before, now = after, "the cluster has other members"),
        EventKind::Writer if after == "none" => warn!(%cluster, before, "the cluster has no writer"),
        EventKind::Writer => info!(%cluster, before, now = after, "the cluster has another writer"),
        EventKind::Alarm if after == "none" => info!(%cluster, was = before, "alarm is over"),
        EventKind::Alarm => error!(%cluster, alarm = after, "alarm"),
    }
}
