//! The listening sockets that serve clients now.

use std::collections::HashMap;
use std::sync::Arc;

use tokio::sync::watch;

use super::workers::Workers;
use crate::config::{Config, Service};
use crate::control::ListenerStatus;
use crate::ids::{ListenAddr, ServiceName};
use crate::net::{Access, Bound, bind};

/// The sockets by service and address. A socket is closed when its entry is dropped.
#[derive(Default)]
pub(super) struct Listeners {
    open: HashMap<(ServiceName, ListenAddr), watch::Sender<()>>,
}

/// Sockets that are bound and not served yet.
pub(super) type Waiting = Vec<(ServiceName, Bound)>;

impl Listeners {
    /// Binds what the configuration has and this has not. All or nothing.
    pub(super) fn bind_missing(&mut self, config: &Config) -> Result<Waiting, String> {
        let mut waiting = Vec::new();
        for (address, service) in config.listeners() {
            if self.open.contains_key(&(service.name.clone(), address.clone())) {
                continue;
            }
            let bound = bind(address, Access::Everybody)
                .map_err(|e| format!("service.{}: {address}: {e}", service.name))?;
            waiting.push((service.name.clone(), bound));
        }
        Ok(waiting)
    }

    /// Has the workers accept clients there.
    pub(super) fn open(&mut self, waiting: Waiting, workers: &Arc<Workers>) {
        for (service, bound) in waiting {
            let (open, closed) = watch::channel(());
            self.open.insert((service.clone(), bound.asked().clone()), open);
            workers.accept(&service, &Arc::new(bound), &closed);
        }
    }

    /// Closes what the configuration no longer has.
    pub(super) fn close_missing(&mut self, config: &Config) {
        self.open.retain(|(service, address), _| {
            config.services.get(service).is_some_and(|s: &Service| s.listen.contains(address))
        });
    }

    pub(super) fn close(&mut self) {
        self.open.clear();
    }

    /// What operators are shown once everything that the configuration has is bound.
    pub(super) fn statuses(config: &Config) -> Vec<ListenerStatus> {
        config
            .listeners()
            .map(|(address, service)| ListenerStatus {
                address: address.to_string(),
                service: service.name.clone(),
                state: "listening",
            })
            .collect()
    }
}
