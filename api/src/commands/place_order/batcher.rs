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

use super::{BatchOutcome, Outcome, PlaceError, PlaceOrder};
use crate::commands::{Error, database};
use crate::outbox::relay::Outgoing;

/// Orders per transaction.
const MAX_BATCH_SIZE: usize = 50;
/// Concurrent transactions.
const TRANSACTIONS: usize = 2;
/// Transactions for isolated retries.
const ISOLATED_TRANSACTIONS: usize = 4;
/// Orders that may wait; more are rejected as unavailable.
const QUEUE_SIZE: usize = 10_000;
/// How long an order may wait for its transaction, and then how long the transaction may take. An order that waits longer
/// fails as unavailable. A transaction that takes longer is cancelled; its outcome may be unknown.
const PLACE_TIMEOUT: Duration = Duration::from_secs(15);
/// How long the orders of one client are retried after conflicts with other transactions.
const CONFLICT_RETRY_TIME: Duration = Duration::from_secs(5);

type Response = Result<Outcome, Error>;

struct QueuedOrder {
    order: PlaceOrder,
    queued_at: Instant,
    response: oneshot::Sender<Response>,
}

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

/// Returns the queue and its batcher; call [`OrderBatcher::run`] to process orders.
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
    /// Places an order. The order is placed even if the caller is dropped.
    pub async fn place(&self, order: PlaceOrder) -> Response {
        let (response, outcome) = oneshot::channel();
        let queued = QueuedOrder { order, queued_at: Instant::now(), response };
        self.0.try_send(queued).map_err(|_| Error::Unavailable)?;
        outcome.await.map_err(|_| Error::Unavailable)?
    }
}

impl OrderBatcher {
    /// Places orders until `shutdown`, and then the orders that are still in the queue.
    pub async fn run(self, shutdown: CancellationToken) -> anyhow::Result<()> {
        let workers = (0..TRANSACTIONS).map(|_| tokio::spawn(self.clone().process_queue(shutdown.clone())));
        try_join_all(workers).await.context("a transaction panicked")?;
        self.isolated_retries.close();
        self.isolated_retries.wait().await;
        Ok(())
    }

    async fn process_queue(self, shutdown: CancellationToken) {
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
            self.process(batch.drain(..)).await;
        }
    }

    async fn process(&self, batch: impl IntoIterator<Item = QueuedOrder>) {
        let (batch, late): (Vec<_>, Vec<_>) =
            batch.into_iter().partition(|queued| queued.queued_at.elapsed() < PLACE_TIMEOUT);
        fail(late, &Error::Unavailable);
        if batch.is_empty() {
            return;
        }
        let orders: Vec<PlaceOrder> = batch.iter().map(|queued| queued.order.clone()).collect();
        match self.place_batch(&orders).await {
            Ok(outcomes) => {
                for (queued, outcome) in batch.into_iter().zip(outcomes) {
                    let _ = queued.response.send(Ok(outcome)); // the caller may be gone
                }
            }
            Err(failure) => self.recover(batch, &orders, failure),
        }
    }

    /// Retries the orders of a failed transaction, or reports the failure to their callers.
    fn recover(&self, batch: Vec<QueuedOrder>, orders: &[PlaceOrder], failure: Failure) {
        let waited = batch.iter().map(|queued| queued.queued_at.elapsed()).max().unwrap_or_default();
        match Retry::after(&failure, orders, waited) {
            Retry::ByClient => {
                let mut by_client: BTreeMap<Option<i64>, Vec<QueuedOrder>> = BTreeMap::new();
                for queued in batch {
                    by_client.entry(queued.order.client_id).or_default().push(queued);
                }
                by_client.into_values().for_each(|of_client| self.retry_isolated(of_client));
            }
            Retry::OneByOne => batch.into_iter().for_each(|queued| self.retry_isolated(vec![queued])),
            Retry::Later => self.retry_isolated(batch),
            Retry::None => {
                let is_outage = failure.is_outage();
                let error = Error::from(failure);
                fail(batch, &error);
                if is_outage && let Ok(mut queue) = self.queue.try_lock() {
                    // The other orders in the queue would only wait for the same failure.
                    fail(std::iter::from_fn(|| queue.try_recv().ok()), &error);
                }
            }
        }
    }

    /// Retries these orders in their own transaction, outside the workers.
    fn retry_isolated(&self, batch: Vec<QueuedOrder>) {
        let batcher = self.clone();
        let process: BoxFuture<'static, ()> = Box::pin(async move {
            if let Ok(_permit) = batcher.isolated_permits.clone().acquire_owned().await {
                batcher.process(batch).await;
            }
        });
        self.isolated_retries.spawn(process);
    }

    async fn place_batch(&self, orders: &[PlaceOrder]) -> Result<Vec<Outcome>, Failure> {
        let placed = timeout(PLACE_TIMEOUT, super::place(&self.db, self.currency, orders)).await;
        let BatchOutcome { outcomes, outgoing } = placed.map_err(|_| Failure::Timeout)?.map_err(Failure::Database)?;
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

/// How the orders of a failed transaction are retried.
#[derive(Debug, PartialEq, Eq)]
enum Retry {
    /// The orders of each client in a transaction.
    ByClient,
    /// Each order in a transaction.
    OneByOne,
    /// The same orders again. Their transaction may have waited for a lock held by a batch that waits for another client.
    Later,
    None,
}

impl Retry {
    /// `waited` is the longest time since one of the orders was queued.
    fn after(failure: &Failure, orders: &[PlaceOrder], waited: Duration) -> Retry {
        let has_one_client = orders.windows(2).all(|pair| pair[0].client_id == pair[1].client_id);
        if !failure.is_isolatable() {
            Retry::None
        } else if !has_one_client {
            Retry::ByClient
        } else if failure.is_conflict() {
            if waited < CONFLICT_RETRY_TIME { Retry::Later } else { Retry::None }
        } else if orders.len() > 1 {
            Retry::OneByOne
        } else {
            Retry::None
        }
    }
}

enum Failure {
    Database(PlaceError),
    Timeout,
}

impl Failure {
    /// Whether one of the orders may be the cause, so that the others may succeed without it. Never when the transaction may
    /// have been committed.
    fn is_isolatable(&self) -> bool {
        match self {
            Failure::Database(PlaceError::RolledBack(error)) => {
                !database::is_outage(error) || database::is_conflict(error)
            }
            Failure::Database(PlaceError::CommitUnknown(_)) | Failure::Timeout => false,
        }
    }

    fn is_conflict(&self) -> bool {
        matches!(self, Failure::Database(PlaceError::RolledBack(error)) if database::is_conflict(error))
    }

    /// Whether every other order would fail as well.
    fn is_outage(&self) -> bool {
        match self {
            Failure::Timeout => true,
            Failure::Database(PlaceError::RolledBack(error) | PlaceError::CommitUnknown(error)) => {
                database::is_outage(error) && !database::is_conflict(error)
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

#[cfg(test)]
mod tests {
    use sea_orm::DbErr;

    use super::*;

    #[test]
    fn a_failure_that_may_concern_one_order_is_retried_in_smaller_batches() {
        let order =
            |id| PlaceOrder { client_id: Some(id), items: Vec::new(), idempotency_key: None, traceparent: None };
        let retry = |failure, clients: &[i64]| {
            let orders: Vec<_> = clients.iter().copied().map(order).collect();
            Retry::after(&Failure::Database(failure), &orders, Duration::ZERO)
        };
        let invalid = || DbErr::Custom("invalid row".into());
        assert_eq!(retry(PlaceError::RolledBack(invalid()), &[1, 1, 2]), Retry::ByClient);
        assert_eq!(retry(PlaceError::RolledBack(invalid()), &[1, 1]), Retry::OneByOne);
        assert_eq!(retry(PlaceError::RolledBack(invalid()), &[1]), Retry::None);
        assert_eq!(retry(PlaceError::CommitUnknown(invalid()), &[1, 2]), Retry::None);
        assert_eq!(Retry::after(&Failure::Timeout, &[order(1), order(2)], Duration::ZERO), Retry::None);
    }
}
