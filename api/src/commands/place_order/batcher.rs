//! Places queued orders in batches, each in one transaction. A batch never waits for a client that another transaction has locked:
//! the orders of such a client, and those of a transaction that failed, are placed in transactions of their own. Further orders of a
//! client wait in the queue until those before them have a result.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use entity::event::MAX_LINES;
use futures::future::BoxFuture;
use iso_currency::Currency;
use runtime::batcher::{BatchQueue, Batcher, Queued, Unprocessed, exclusive_batch_queue};
use runtime::telemetry::traces::{set_batch, traceparent};
use sea_orm::{DatabaseConnection, DbBackend, DbErr, RuntimeErr};
use tokio::sync::{Semaphore, mpsc};
use tokio::time::{Instant, timeout};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing::field::Empty;
use tracing::{Instrument, Span, info_span};

use super::{BatchOutcome, Outcome, PlaceError, PlaceOrder, WhenLocked};
use crate::commands::{Error, database};
use crate::metrics::{GROUP_COMMIT_SIZE, GROUP_COMMIT_WAIT};
use crate::outbox::log_tailing::Publication;
use crate::outbox::relay::Outgoing;

/// Largest transaction, by the [`weight`] of its orders: 50 orders, or 500 lines.
const MAX_BATCH_WEIGHT: usize = 500;
/// Concurrent transactions.
const TRANSACTIONS: usize = 2;
/// Transactions for the orders of locked clients and of failed transactions.
const ISOLATED_TRANSACTIONS: usize = 4;
/// Orders that may wait; more are refused.
const QUEUE_SIZE: usize = 10_000;
/// How long an order may wait for its transaction, and then how long the transaction may take. An order that waits longer
/// is refused. A transaction that takes longer is cancelled; its outcome may be unknown.
const PLACE_TIMEOUT: Duration = Duration::from_secs(15);
/// How long the orders of one client are retried after conflicts with other transactions.
const CONFLICT_RETRY_TIME: Duration = Duration::from_secs(5);

type Response = Result<Outcome, Error>;
type QueuedOrder = Queued<WaitingOrder, Response>;

struct WaitingOrder {
    order: PlaceOrder,
    /// The span of the wait for a transaction.
    wait: Span,
}

#[derive(Clone)]
pub struct OrderQueue(BatchQueue<WaitingOrder, Response>);

/// Places the queued orders.
#[derive(Clone)]
pub struct OrderBatcher {
    db: DatabaseConnection,
    currency: Currency,
    batcher: Batcher<WaitingOrder, Response>,
    publication: Publication,
    /// The relay's fast path for committed events.
    outgoing: mpsc::Sender<Outgoing>,
    isolated: TaskTracker,
    isolated_permits: Arc<Semaphore>,
}

/// Returns the queue and its batcher; call [`OrderBatcher::run`] to process orders.
pub fn order_queue(
    db: DatabaseConnection,
    currency: Currency,
    publication: Publication,
    outgoing: mpsc::Sender<Outgoing>,
) -> (OrderQueue, OrderBatcher) {
    let (queue, batcher) = exclusive_batch_queue(QUEUE_SIZE);
    let (isolated, isolated_permits) = (TaskTracker::new(), Arc::new(Semaphore::new(ISOLATED_TRANSACTIONS)));
    (OrderQueue(queue), OrderBatcher { db, currency, batcher, publication, outgoing, isolated, isolated_permits })
}

impl OrderQueue {
    /// Places an order. The order is placed even if the caller is dropped. Clients take turns.
    pub async fn place(&self, mut order: PlaceOrder) -> Response {
        let span = info_span!("place order", result = Empty);
        let wait = info_span!(parent: &span, "wait for transaction");
        order.origin.traceparent = traceparent(&span).or(order.origin.traceparent);
        let (client, weight) = (order.client_id.unwrap_or_default(), weight(&order));
        let response = self.0.process_in(client, weight, WaitingOrder { order, wait }).await;
        let response = response.unwrap_or_else(|reason| match reason {
            Unprocessed::QueueFull => Err(Error::Busy),
            Unprocessed::Stopped => Err(Error::Unavailable),
        });
        span.record("result", result(&response));
        response
    }
}

/// The outcome of an order, for its span.
fn result(response: &Response) -> &'static str {
    match response {
        Ok(Outcome::Placed(_)) => "placed",
        Ok(Outcome::Replayed(_)) => "replayed",
        Ok(Outcome::Rejected(_)) => "rejected",
        Err(_) => "failed",
    }
}

/// How much an order adds to the time of its transaction. A small order takes as long as one of ten lines.
fn weight(order: &PlaceOrder) -> usize {
    order.items.len().clamp(10, MAX_LINES)
}

impl OrderBatcher {
    /// Places orders until `shutdown`, and then the orders that are still in the queue.
    pub async fn run(self, shutdown: CancellationToken) -> anyhow::Result<()> {
        let (batcher, isolated) = (self.batcher.clone(), self.isolated.clone());
        let process = move |batch| self.clone().process(batch, WhenLocked::Skip);
        batcher.run(TRANSACTIONS, MAX_BATCH_WEIGHT, shutdown, process).await.context("a transaction panicked")?;
        isolated.close();
        isolated.wait().await;
        Ok(())
    }

    async fn process(self, batch: Vec<QueuedOrder>, when_locked: WhenLocked) {
        let (mut batch, late): (Vec<_>, Vec<_>) =
            batch.into_iter().partition(|queued| queued.queued_at.elapsed() < PLACE_TIMEOUT);
        fail(late, &Error::Busy);
        if batch.is_empty() {
            return;
        }
        let began = Instant::now();
        batch.iter_mut().for_each(|queued| queued.item.wait = Span::none());
        let orders: Vec<PlaceOrder> = batch.iter().map(|queued| queued.item.order.clone()).collect();
        match self.place_batch(&orders, when_locked).await {
            Ok(outcomes) => {
                let (mut skipped, mut decided) = (Vec::new(), Vec::new());
                for (queued, outcome) in batch.into_iter().zip(outcomes) {
                    match outcome {
                        Some(outcome) => decided.push((queued, outcome)),
                        None => skipped.push(queued),
                    }
                }
                measure(began, decided.iter().map(|(queued, _)| queued));
                decided.into_iter().for_each(|(queued, outcome)| queued.finish(Ok(outcome)));
                self.isolate_clients(skipped);
            }
            Err(failure) => self.recover(batch, &orders, failure),
        }
    }

    /// Retries the orders of a failed transaction, or reports the failure to their callers.
    fn recover(&self, batch: Vec<QueuedOrder>, orders: &[PlaceOrder], failure: PlaceError) {
        let waited = batch.iter().map(|queued| queued.queued_at.elapsed()).max().unwrap_or_default();
        match Retry::after(&failure, orders, waited) {
            Retry::ByClient => self.isolate_clients(batch),
            Retry::OneByOne => batch.into_iter().for_each(|queued| self.isolate(vec![queued])),
            Retry::Later => self.isolate(batch),
            Retry::None => {
                let (PlaceError::RolledBack(error) | PlaceError::CommitUnknown(error)) = failure;
                let is_outage = is_outage(&error);
                let error = Error::from(error);
                fail(batch, &error);
                if is_outage {
                    // The other orders in the queue would only wait for the same failure.
                    fail(self.batcher.take_queued(), &error);
                }
            }
        }
    }

    /// Places the orders of each client in a transaction of their own.
    fn isolate_clients(&self, orders: Vec<QueuedOrder>) {
        let mut by_client: BTreeMap<Option<i64>, Vec<QueuedOrder>> = BTreeMap::new();
        for queued in orders {
            by_client.entry(queued.item.order.client_id).or_default().push(queued);
        }
        by_client.into_values().for_each(|of_client| self.isolate(of_client));
    }

    /// Places orders of one client in a transaction of their own, outside the workers. It waits for the lock of the client.
    fn isolate(&self, batch: Vec<QueuedOrder>) {
        let batcher = self.clone();
        let process: BoxFuture<'static, ()> = Box::pin(async move {
            if let Ok(_permit) = batcher.isolated_permits.clone().acquire_owned().await {
                batcher.process(batch, WhenLocked::Wait).await;
            }
        });
        self.isolated.spawn(process);
    }

    async fn place_batch(
        &self,
        orders: &[PlaceOrder],
        when_locked: WhenLocked,
    ) -> Result<Vec<Option<Outcome>>, PlaceError> {
        let span = self.transaction_span(orders);
        let placing = super::place_by(&self.db, self.currency, orders, when_locked, None, self.publication);
        let placed = timeout(PLACE_TIMEOUT, placing).instrument(span.clone()).await;
        let placed = placed.unwrap_or_else(|_| Err(no_response()));
        let BatchOutcome { outcomes, outgoing } = placed.inspect_err(|_| {
            span.record("otel.status_code", "ERROR");
        })?;
        for event in outgoing {
            // When the fast path is full, the relay's poll finds the event.
            let _ = self.outgoing.try_send(event);
        }
        Ok(outcomes)
    }

    /// The span of a transaction, linked to its orders.
    fn transaction_span(&self, orders: &[PlaceOrder]) -> Span {
        let span = info_span!(
            "transaction orders",
            otel.kind = "client",
            db.system.name = system_name(self.db.get_database_backend()),
            db.operation.name = "transaction",
            db.operation.batch.size = orders.len(),
            otel.status_code = Empty,
        );
        set_batch(&span, orders.iter().filter_map(|order| order.origin.traceparent.as_deref()));
        span
    }
}

/// Measures a transaction that was committed. An order that is retried counts with its last transaction.
fn measure<'a>(began: Instant, orders: impl ExactSizeIterator<Item = &'a QueuedOrder>) {
    if orders.len() > 0 {
        GROUP_COMMIT_SIZE.record(orders.len() as u64, &[]);
    }
    for queued in orders {
        GROUP_COMMIT_WAIT.record((began - queued.queued_at).as_secs_f64(), &[]);
    }
}

fn system_name(backend: DbBackend) -> &'static str {
    match backend {
        DbBackend::Sqlite => "sqlite",
        _ => "postgresql",
    }
}

fn fail(orders: Vec<QueuedOrder>, error: &Error) {
    orders.into_iter().for_each(|queued| queued.finish(Err(error.clone())));
}

/// The failure of a transaction that was cancelled, perhaps during its commit.
fn no_response() -> PlaceError {
    PlaceError::CommitUnknown(DbErr::Conn(RuntimeErr::Internal(format!("no response within {PLACE_TIMEOUT:?}"))))
}

/// Whether every other order would fail as well.
fn is_outage(error: &DbErr) -> bool {
    database::is_outage(error) && !database::is_conflict(error)
}

/// How the orders of a failed transaction are retried.
#[derive(Debug, PartialEq, Eq)]
enum Retry {
    /// The orders of each client in a transaction.
    ByClient,
    /// Each order in a transaction.
    OneByOne,
    /// The same orders again: their transaction waited in vain for the lock of their client.
    Later,
    None,
}

impl Retry {
    /// One of the orders may be the cause, so that the others may succeed without it. A transaction that may have been
    /// committed is never retried. `waited` is the longest time since one of the orders was queued.
    fn after(failure: &PlaceError, orders: &[PlaceOrder], waited: Duration) -> Retry {
        let has_one_client = orders.windows(2).all(|pair| pair[0].client_id == pair[1].client_id);
        match failure {
            PlaceError::CommitUnknown(_) => Retry::None,
            PlaceError::RolledBack(error) if is_outage(error) => Retry::None,
            PlaceError::RolledBack(_) if !has_one_client => Retry::ByClient,
            PlaceError::RolledBack(error) if database::is_conflict(error) => {
                if waited < CONFLICT_RETRY_TIME {
                    Retry::Later
                } else {
                    Retry::None
                }
            }
            PlaceError::RolledBack(_) if orders.len() > 1 => Retry::OneByOne,
            PlaceError::RolledBack(_) => Retry::None,
        }
    }
}

#[cfg(test)]
mod tests {
    use futures::FutureExt;

    use super::*;
    use crate::commands::Origin;

    fn order(client: i64) -> PlaceOrder {
        PlaceOrder { client_id: Some(client), items: Vec::new(), idempotency_key: None, origin: Origin::default() }
    }

    #[tokio::test]
    async fn an_order_that_finds_the_queue_full_is_refused_as_busy() {
        let (outgoing, _) = mpsc::channel(1);
        let (queue, _batcher) = order_queue(DatabaseConnection::default(), Currency::USD, Publication::Relay, outgoing);
        for client in 0..QUEUE_SIZE as i64 {
            assert!(queue.place(order(client)).now_or_never().is_none(), "it waits");
        }
        assert!(matches!(queue.place(order(1)).await, Err(Error::Busy)));
    }

    #[test]
    fn a_failure_that_may_concern_one_order_is_retried_in_smaller_batches() {
        let retry = |failure, clients: &[i64]| {
            let orders: Vec<_> = clients.iter().copied().map(order).collect();
            Retry::after(&failure, &orders, Duration::ZERO)
        };
        let invalid = || DbErr::Custom("invalid row".into());
        assert_eq!(retry(PlaceError::RolledBack(invalid()), &[1, 1, 2]), Retry::ByClient);
        assert_eq!(retry(PlaceError::RolledBack(invalid()), &[1, 1]), Retry::OneByOne);
        assert_eq!(retry(PlaceError::RolledBack(invalid()), &[1]), Retry::None);
        assert_eq!(retry(PlaceError::CommitUnknown(invalid()), &[1, 2]), Retry::None);
        assert_eq!(retry(no_response(), &[1, 2]), Retry::None);
    }
}
