//! Group commit: orders that arrive while transactions are in flight wait and share the next one. When no transaction is in
//! flight, an order does not wait.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use futures::future::{BoxFuture, try_join_all};
use iso_currency::Currency;
use sea_orm::DatabaseConnection;
use tokio::sync::{Mutex, Semaphore, mpsc, oneshot};
use tokio::time::{Instant, timeout};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing::warn;

use super::{Batch, Outcome, PlaceError, PlaceOrder};
use crate::commands::{Error, database};
use crate::outbox::relay::Outgoing;

/// Orders per transaction.
const MAX_BATCH_SIZE: usize = 50;
/// Concurrent transactions.
const TRANSACTIONS: usize = 2;
/// Concurrent transactions in addition to these, for orders that failed in a batch and are retried in isolation.
const ISOLATED_TRANSACTIONS: usize = 4;
/// Orders that may wait; more are rejected as unavailable.
const QUEUE_SIZE: usize = 10_000;
/// How long an order may wait in the queue, and then how long its transaction may take. After that the database counts as
/// unavailable: the transaction is rolled back, and an order that still waits is dropped.
const PLACE_TIMEOUT: Duration = Duration::from_secs(15);
/// How long an order is retried while its client is locked. A statement gives up its wait for a lock earlier.
const LOCK_RETRY_TIME: Duration = Duration::from_secs(5);

type Response = Result<Outcome, Error>;

struct QueuedOrder {
    order: PlaceOrder,
    queued_at: Instant,
    response: oneshot::Sender<Response>,
}

/// Accepts orders.
#[derive(Clone)]
pub struct OrderQueue(mpsc::Sender<QueuedOrder>);

/// Places the queued orders.
#[derive(Clone)]
pub struct OrderBatcher {
    db: DatabaseConnection,
    currency: Currency,
    queue: Arc<Mutex<mpsc::Receiver<QueuedOrder>>>,
    /// The relay's fast path for committed events.
    outgoing: mpsc::Sender<Outgoing>,
    isolated_retries: TaskTracker,
    isolated_permits: Arc<Semaphore>,
}

/// Queued orders are placed while [`OrderBatcher::run`] runs.
pub fn order_queue(
    db: DatabaseConnection,
    currency: Currency,
    outgoing: mpsc::Sender<Outgoing>,
) -> (OrderQueue, OrderBatcher) {
    let (sender, queue) = mpsc::channel(QUEUE_SIZE);
    let queue = Arc::new(Mutex::new(queue));
    let (isolated_retries, isolated_permits) = (TaskTracker::new(), Arc::new(Semaphore::new(ISOLATED_TRANSACTIONS)));
    (OrderQueue(sender), OrderBatcher { db, currency, queue, outgoing, isolated_retries, isolated_permits })
}

impl OrderQueue {
    /// Places an order, also if the caller stops waiting.
    pub async fn place(&self, order: PlaceOrder) -> Response {
        let (response, outcome) = oneshot::channel();
        let queued = QueuedOrder { order, queued_at: Instant::now(), response };
        self.0.try_send(queued).map_err(|_| Error::Unavailable)?;
        outcome.await.map_err(|_| Error::Unavailable)?
    }
}

impl OrderBatcher {
    /// Places orders until `shutdown`, and then the rest of the queue.
    pub async fn run(self, shutdown: CancellationToken) -> anyhow::Result<()> {
        let workers = (0..TRANSACTIONS).map(|_| tokio::spawn(self.clone().place_batches(shutdown.clone())));
        try_join_all(workers).await.context("a transaction panicked")?;
        self.isolated_retries.close();
        self.isolated_retries.wait().await;
        Ok(())
    }

    async fn place_batches(self, shutdown: CancellationToken) {
        let mut batch = Vec::with_capacity(MAX_BATCH_SIZE);
        loop {
            let received = async { self.queue.lock().await.recv_many(&mut batch, MAX_BATCH_SIZE).await };
            let received = tokio::select! {
                biased;
                received = received => received,
                () = shutdown.cancelled() => return,
            };
            if received == 0 {
                return; // every sender is gone
            }
            let (timely, late): (Vec<_>, Vec<_>) =
                batch.drain(..).partition(|queued: &QueuedOrder| queued.queued_at.elapsed() < PLACE_TIMEOUT);
            fail(late, &Error::Unavailable);
            if !timely.is_empty() {
                self.place(timely).await;
            }
        }
    }

    async fn place(&self, batch: Vec<QueuedOrder>) {
        let orders: Vec<PlaceOrder> = batch.iter().map(|queued| queued.order.clone()).collect();
        let failure = match self.transact(&orders).await {
            Ok(outcomes) => {
                for (queued, outcome) in batch.into_iter().zip(outcomes) {
                    let _ = queued.response.send(Ok(outcome)); // the caller may be gone
                }
                return;
            }
            Err(failure) => failure,
        };
        let has_one_client = orders.iter().all(|order| order.client_id == orders[0].client_id);
        if failure.may_concern_one_order() && !has_one_client {
            let mut by_client: BTreeMap<Option<i64>, Vec<QueuedOrder>> = BTreeMap::new();
            for queued in batch {
                by_client.entry(queued.order.client_id).or_default().push(queued);
            }
            by_client.into_values().for_each(|of_client| self.retry_isolated(of_client));
        } else if failure.may_concern_one_order() && orders.len() > 1 && !failure.is_lock() {
            batch.into_iter().for_each(|queued| self.retry_isolated(vec![queued]));
        } else if failure.is_lock() && batch.iter().all(|queued| queued.queued_at.elapsed() < LOCK_RETRY_TIME) {
            // Another batch may hold this client while it waits for a client that is locked for long.
            self.retry_isolated(batch);
        } else {
            let is_outage = failure.is_outage();
            let error = Error::from(failure);
            fail(batch, &error);
            if is_outage && let Ok(mut queue) = self.queue.try_lock() {
                // The rest of the queue would only wait for the same failure.
                fail(std::iter::from_fn(|| queue.try_recv().ok()), &error);
            }
        }
    }

    /// Places some orders without others, beside the workers.
    fn retry_isolated(&self, batch: Vec<QueuedOrder>) {
        let batcher = self.clone();
        let place: BoxFuture<'static, ()> = Box::pin(async move {
            if let Ok(_permit) = batcher.isolated_permits.clone().acquire_owned().await {
                batcher.place(batch).await;
            }
        });
        self.isolated_retries.spawn(place);
    }

    async fn transact(&self, orders: &[PlaceOrder]) -> Result<Vec<Outcome>, Failure> {
        let placed = timeout(PLACE_TIMEOUT, super::place(&self.db, self.currency, orders)).await;
        let Batch { outcomes, outgoing } = placed.map_err(|_| Failure::Timeout)?.map_err(Failure::Database)?;
        for event in outgoing {
            // When the fast path is full, the relay's poll finds the event.
            let _ = self.outgoing.try_send(event);
        }
        Ok(outcomes)
    }
}

fn fail(orders: impl IntoIterator<Item = QueuedOrder>, error: &Error) {
    for queued in orders {
        let _ = queued.response.send(Err(error.clone()));
    }
}

enum Failure {
    Database(PlaceError),
    Timeout,
}

impl Failure {
    /// Whether the batch may succeed without one of its orders. Never when it may have been committed.
    fn may_concern_one_order(&self) -> bool {
        matches!(self, Failure::Database(PlaceError::RolledBack(error)) if !database::is_outage(error))
            || self.is_lock()
    }

    /// Whether one of the clients is locked.
    fn is_lock(&self) -> bool {
        matches!(self, Failure::Database(PlaceError::RolledBack(error)) if database::is_lock(error))
    }

    /// Whether every other order would fail as well.
    fn is_outage(&self) -> bool {
        match self {
            Failure::Timeout => true,
            Failure::Database(PlaceError::RolledBack(error) | PlaceError::CommitUnknown(error)) => {
                database::is_outage(error) && !database::is_lock(error)
            }
        }
    }
}

impl From<Failure> for Error {
    fn from(failure: Failure) -> Error {
        match failure {
            Failure::Database(PlaceError::RolledBack(error) | PlaceError::CommitUnknown(error)) => error.into(),
            Failure::Timeout => {
                warn!("the command database did not respond within {PLACE_TIMEOUT:?}");
                Error::Unavailable
            }
        }
    }
}
