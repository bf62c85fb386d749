//! One thread per core, each a runtime of its own that owns its sessions and their links.
//!
//! Workers accept clients themselves: a client that the accepting worker keeps is served without waking another
//! thread. It is handed to another worker when that one has clearly fewer sessions.

use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;

use tokio::sync::{mpsc, watch};
use tokio::task::{LocalSet, spawn_local};
use tracing::error;

use super::StartError;
use crate::backend::Pool;
use crate::config::Config;
use crate::ids::ServiceName;
use crate::net::Bound;
use crate::session::{self, Arrival, Shared, upkeep};

/// How many workers accept on one address: each connection wakes all that have nothing to do.
const ACCEPTING: usize = 4;

/// All workers.
pub(super) struct Workers {
    workers: Vec<Worker>,
}

#[derive(Clone)]
struct Worker {
    orders: mpsc::UnboundedSender<Order>,
    sessions: Arc<AtomicUsize>,
}

enum Order {
    /// Serve this client.
    Serve(Arrival),
    /// Accept clients of a service until the socket is closed.
    Accept(Arc<Workers>, ServiceName, Arc<Bound>, watch::Receiver<()>),
}

impl Workers {
    pub(super) fn start(config: &Config, shared: &Arc<Shared>) -> Result<Self, StartError> {
        let cores = thread::available_parallelism().map_or(1, std::num::NonZero::get);
        let count = config.runtime.workers.map_or(cores, std::num::NonZero::get);
        let workers = (0..count)
            .map(|number| Worker::start(number, Arc::clone(shared)))
            .collect::<Result<_, _>>()
            .map_err(|e| StartError::Internal(format!("worker: {e}")))?;
        Ok(Self { workers })
    }

    /// Accepts clients of a service until the sender behind `closed` is dropped.
    pub(super) fn accept(
        self: &Arc<Self>,
        service: &ServiceName,
        bound: &Arc<Bound>,
        closed: &watch::Receiver<()>,
    ) {
        for worker in self.workers.iter().take(ACCEPTING) {
            worker.order(Order::Accept(Arc::clone(self), service.clone(), Arc::clone(bound), closed.clone()));
        }
    }

    /// Who serves the next client of `asking`: the worker with the fewest sessions, and `asking` itself where it has hardly
    /// more, since handing a client over costs as much as a statement.
    fn least_loaded<'a>(&'a self, asking: &'a Worker) -> &'a Worker {
        const SLACK: usize = 1;
        let load = |worker: &Worker| worker.sessions.load(Ordering::Relaxed);
        let fewest = self.workers.iter().min_by_key(|worker| load(worker)).unwrap_or(asking);
        if load(asking) <= load(fewest) + SLACK { asking } else { fewest }
    }
}

impl Worker {
    fn start(number: usize, shared: Arc<Shared>) -> std::io::Result<Self> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let (orders, queue) = mpsc::unbounded_channel();
        let worker = Self { orders, sessions: Arc::default() };
        let me = worker.clone();
        thread::Builder::new().name(format!("worker-{number}")).spawn(move || {
            let first = number == 0;
            runtime.block_on(LocalSet::new().run_until(me.work(queue, shared, first)));
        })?;
        Ok(worker)
    }

    fn order(&self, order: Order) {
        if self.orders.send(order).is_err() {
            error!("a worker has stopped; its client is dropped");
        }
    }

    /// Does what it is told until the process ends.
    async fn work(self, mut orders: mpsc::UnboundedReceiver<Order>, shared: Arc<Shared>, first: bool) {
        let pool = Rc::new(Pool::new(Arc::clone(&shared.gates)));
        spawn_local(upkeep::tend(Arc::clone(&shared), Rc::clone(&pool), first));
        while let Some(order) = orders.recv().await {
            match order {
                Order::Serve(arrival) => self.serve(&shared, &pool, arrival),
                Order::Accept(workers, service, bound, closed) => {
                    let (me, shared, pool) = (self.clone(), Arc::clone(&shared), Rc::clone(&pool));
                    spawn_local(me.accept(workers, service, bound, closed, shared, pool));
                }
            }
        }
    }

    /// Accepts clients, and keeps them unless another worker has fewer.
    async fn accept(
        self,
        workers: Arc<Workers>,
        service: ServiceName,
        bound: Arc<Bound>,
        mut closed: watch::Receiver<()>,
        shared: Arc<Shared>,
        pool: Rc<Pool>,
    ) {
        let mut listener = match bound.listen() {
            Ok(listener) => listener,
            Err(error) => {
                error!(%service, %error, "a worker cannot accept clients");
                return;
            }
        };
        loop {
            let (stream, client) = tokio::select! {
                accepted = listener.accept() => accepted,
                _ = closed.changed() => return,
            };
            let service = service.clone();
            let worker = workers.least_loaded(&self);
            worker.sessions.fetch_add(1, Ordering::Relaxed);
            if Arc::ptr_eq(&worker.sessions, &self.sessions) {
                self.serve(&shared, &pool, Arrival { stream: stream.into(), client, service });
            } else if let Ok(stream) = stream.detach() {
                worker.order(Order::Serve(Arrival { stream: stream.into(), client, service }));
            } else {
                worker.sessions.fetch_sub(1, Ordering::Relaxed);
            }
        }
    }

    /// Serves a client, who is counted already, in a task of its own: a panic ends that one only.
    fn serve(&self, shared: &Arc<Shared>, pool: &Rc<Pool>, arrival: Arrival) {
        struct Leave(Arc<AtomicUsize>);
        impl Drop for Leave {
            fn drop(&mut self) {
                self.0.fetch_sub(1, Ordering::Relaxed);
            }
        }
        let leave = Leave(Arc::clone(&self.sessions));
        // On the heap at once: a future of this size is not moved around.
        let session = Box::pin(session::serve(Arc::clone(shared), Rc::clone(pool), arrival));
        spawn_local(async move {
            let _leave = leave;
            session.await;
        });
    }
}
