//! Orders that come at the same time are placed together: while some transactions are under way, what comes waits, and then
//! shares the next one (group commit). When none is under way nobody waits.

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

use crate::commands::database;
use crate::commands::place_order::{Batch, NotPlaced, PlaceOrder, Placed, Rejection};
use crate::graphql::error::Error;
use crate::outbox::relay::Outgoing;

/// Orders in one transaction.
const TOGETHER: usize = 50;
/// Transactions under way at once.
const TRANSACTIONS: usize = 2;
/// Orders that wait, at most.
const WAITING: usize = 10_000;
/// How long an order may wait, and then a transaction take, before the database counts as unavailable. What was not
/// committed by then is rolled back, and what was not begun is not placed: its caller was told long ago.
const PLACING: Duration = Duration::from_secs(15);
/// How long an order is tried again while its client is locked: some waits for a lock, one after another.
const LOCKED: Duration = Duration::from_secs(5);
/// Transactions under way at once beside these, with orders that could not be placed with others.
const APART: usize = 4;

type Answer = Result<Result<Placed, Vec<Rejection>>, Error>;

struct Waiting {
    order: PlaceOrder,
    since: Instant,
    answer: oneshot::Sender<Answer>,
}

/// Where orders are taken.
#[derive(Clone)]
pub struct Orders(mpsc::Sender<Waiting>);

/// Places what was taken.
#[derive(Clone)]
pub struct Placing {
    db: DatabaseConnection,
    currency: Currency,
    waiting: Arc<Mutex<mpsc::Receiver<Waiting>>>,
    /// Where events go that were committed.
    outgoing: mpsc::Sender<Outgoing>,
    /// Transactions beside.
    apart: TaskTracker,
    few: Arc<Semaphore>,
}

/// Nothing is placed until [`Placing::run`] runs.
pub fn orders(db: DatabaseConnection, currency: Currency, outgoing: mpsc::Sender<Outgoing>) -> (Orders, Placing) {
    let (sender, waiting) = mpsc::channel(WAITING);
    let (apart, few) = (TaskTracker::new(), Arc::new(Semaphore::new(APART)));
    (Orders(sender), Placing { db, currency, waiting: Arc::new(Mutex::new(waiting)), outgoing, apart, few })
}

impl Orders {
    /// Places an order. It is placed also if the caller does not wait for it.
    pub async fn place(&self, order: PlaceOrder) -> Answer {
        let (answer, placed) = oneshot::channel();
        self.0
            .try_send(Waiting { order, since: Instant::now(), answer })
            .map_err(|_| Error::CommandStoreUnavailable)?;
        placed.await.map_err(|_| Error::CommandStoreUnavailable)?
    }
}

impl Placing {
    /// Places orders until `shutdown`, and then those that wait.
    pub async fn run(self, shutdown: CancellationToken) -> anyhow::Result<()> {
        let transactions = (0..TRANSACTIONS).map(|_| tokio::spawn(self.clone().place_in_turn(shutdown.clone())));
        try_join_all(transactions).await.context("a transaction failed")?;
        self.apart.close();
        self.apart.wait().await;
        Ok(())
    }

    async fn place_in_turn(self, shutdown: CancellationToken) {
        let mut together = Vec::with_capacity(TOGETHER);
        loop {
            let received = async { self.waiting.lock().await.recv_many(&mut together, TOGETHER).await };
            let received = tokio::select! {
                biased;
                received = received => received,
                () = shutdown.cancelled() => return,
            };
            if received == 0 {
                return; // nobody can place any more
            }
            let (timely, late): (Vec<_>, Vec<_>) =
                together.drain(..).partition(|waiting: &Waiting| waiting.since.elapsed() < PLACING);
            refuse(late, &Error::CommandStoreUnavailable);
            if !timely.is_empty() {
                self.place(timely).await;
            }
        }
    }

    async fn place(&self, together: Vec<Waiting>) {
        let orders: Vec<PlaceOrder> = together.iter().map(|waiting| waiting.order.clone()).collect();
        let failed = match self.transact(&orders).await {
            Ok(results) => {
                for (waiting, result) in together.into_iter().zip(results) {
                    let _ = waiting.answer.send(Ok(result)); // who has hung up does not want it
                }
                return;
            }
            Err(failed) => failed,
        };
        let is_of_one_client = orders.iter().all(|order| order.client_id == orders[0].client_id);
        if failed.is_of_one_order() && orders.len() > 1 && !is_of_one_client {
            // One of them is the reason, by what it is or by a client that somebody has locked.
            let mut of_clients: BTreeMap<i64, Vec<Waiting>> = BTreeMap::new();
            for waiting in together {
                of_clients.entry(waiting.order.client_id).or_default().push(waiting);
            }
            of_clients.into_values().for_each(|of_client| self.place_apart(of_client));
        } else if failed.is_of_one_order() && orders.len() > 1 && !failed.is_lock() {
            together.into_iter().for_each(|waiting| self.place_apart(vec![waiting]));
        } else if failed.is_lock() && together.iter().all(|waiting| waiting.since.elapsed() < LOCKED) {
            // Others may hold this client while they wait for one that somebody has locked.
            self.place_apart(together);
        } else {
            let is_outage = failed.is_outage();
            let error = Error::from(failed);
            refuse(together, &error);
            if is_outage && let Ok(mut waiting) = self.waiting.try_lock() {
                // Those who wait would only wait for the same.
                refuse(std::iter::from_fn(|| waiting.try_recv().ok()), &error);
            }
        }
    }

    /// Places some beside those that come.
    fn place_apart(&self, together: Vec<Waiting>) {
        let placing = self.clone();
        let place: BoxFuture<'static, ()> = Box::pin(async move {
            if let Ok(_one_of_few) = placing.few.clone().acquire_owned().await {
                placing.place(together).await;
            }
        });
        self.apart.spawn(place);
    }

    async fn transact(&self, orders: &[PlaceOrder]) -> Result<Vec<Result<Placed, Vec<Rejection>>>, Failed> {
        let placed = timeout(PLACING, super::place(&self.db, self.currency, orders)).await;
        let Batch { results, outgoing } = placed.map_err(|_| Failed::TooSlow)?.map_err(Failed::Database)?;
        for event in outgoing {
            // Where it does not fit, it is found in the outbox.
            let _ = self.outgoing.try_send(event);
        }
        Ok(results)
    }
}

fn refuse(orders: impl IntoIterator<Item = Waiting>, error: &Error) {
    for waiting in orders {
        let _ = waiting.answer.send(Err(error.clone()));
    }
}

enum Failed {
    Database(NotPlaced),
    TooSlow,
}

impl Failed {
    /// Whether it may be different without one of the orders. Never of what may have been committed.
    fn is_of_one_order(&self) -> bool {
        matches!(self, Failed::Database(NotPlaced::Surely(error)) if !database::is_outage(error)) || self.is_lock()
    }

    /// Whether somebody has locked one of the clients.
    fn is_lock(&self) -> bool {
        matches!(self, Failed::Database(NotPlaced::Surely(error)) if database::is_lock(error))
    }

    /// Whether any other order would fail as well.
    fn is_outage(&self) -> bool {
        match self {
            Failed::TooSlow => true,
            Failed::Database(NotPlaced::Surely(error) | NotPlaced::Maybe(error)) => {
                database::is_outage(error) && !database::is_lock(error)
            }
        }
    }
}

impl From<Failed> for Error {
    fn from(failed: Failed) -> Error {
        match failed {
            Failed::Database(NotPlaced::Surely(error) | NotPlaced::Maybe(error)) => error.into(),
            Failed::TooSlow => {
                warn!("the command database did not answer within {PLACING:?}");
                Error::CommandStoreUnavailable
            }
        }
    }
}
