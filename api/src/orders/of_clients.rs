//! The orders of clients. A list of clients asks for those of each client, so reads that wait at the same time share a statement.

use std::collections::{BTreeMap, HashMap};

use iso_currency::Currency;
use runtime::batcher::{BatchQueue, Queued, batch_queue};
use sea_orm::{DatabaseConnection, DbErr};
use tokio_util::sync::CancellationToken;

use super::lists::{OrderPage, Times, pages_of_clients};

/// Reads that may wait. More are refused.
const MAX_WAITING: usize = 10_000;
/// Clients of one statement.
const MAX_BATCH_SIZE: usize = 100;
/// Concurrent statements, so that a slow one does not delay all others.
const WORKERS: usize = 4;

/// A page of a client's orders.
#[derive(Clone, Copy)]
struct Request {
    client: i64,
    after: Option<i32>,
    first: usize,
}

type Page = Result<OrderPage, DbErr>;

pub struct OrdersOfClients(BatchQueue<Request, Page>);

impl OrdersOfClients {
    /// # Panics
    /// Outside of a Tokio runtime.
    pub fn new(db: DatabaseConnection, currency: Currency) -> OrdersOfClients {
        let (queue, batcher) = batch_queue(MAX_WAITING);
        let read = move |batch| read(db.clone(), currency, batch);
        tokio::spawn(batcher.run(WORKERS, MAX_BATCH_SIZE, CancellationToken::new(), read));
        OrdersOfClients(queue)
    }

    /// Reads a page of the orders of a client, newest first. `after` is the version of the client after the last order of the
    /// page before.
    ///
    /// # Errors
    /// When the database fails, or an event is damaged.
    pub async fn page(&self, client: i64, after: Option<i32>, first: usize) -> Page {
        let page = self.0.process(Request { client, after, first }).await;
        page.unwrap_or_else(|| Err(DbErr::ConnectionAcquire(sea_orm::ConnAcquireErr::Timeout)))
    }
}

async fn read(db: DatabaseConnection, currency: Currency, batch: Vec<Queued<Request, Page>>) {
    let mut of_arguments: BTreeMap<_, Vec<_>> = BTreeMap::new();
    for queued in batch {
        of_arguments.entry((queued.item.after, queued.item.first)).or_default().push(queued);
    }
    for ((after, first), batch) in of_arguments {
        let mut clients: Vec<i64> = batch.iter().map(|queued| queued.item.client).collect();
        clients.sort_unstable();
        clients.dedup();
        let pages = pages_of_clients(&db, &clients, Times::default(), after, first, currency).await;
        let pages = pages.map(|pages| clients.into_iter().zip(pages).collect::<HashMap<_, _>>());
        for queued in batch {
            let page = match &pages {
                Ok(pages) => Ok(pages.get(&queued.item.client).cloned().unwrap_or_default()),
                Err(error) => Err(error.clone()),
            };
            queued.finish(page);
        }
    }
}
