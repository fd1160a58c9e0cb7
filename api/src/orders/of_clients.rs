//! The orders of clients. A list of clients asks for those of each client, so reads that wait at the same time share a statement.

use std::collections::BTreeMap;

use iso_currency::Currency;
use runtime::batcher::{BatchQueue, Queued, spawn_reads};
use sea_orm::{DatabaseConnection, DbErr};
use uuid::Uuid;

use super::lists::{OrderPage, pages_of_clients};

/// Rows of one statement. An order has at most 26 KB.
const MAX_ROWS: usize = 500;

/// A page of a client's orders.
#[derive(Clone, Copy)]
struct Request {
    client: i64,
    after: Option<Uuid>,
    first: usize,
}

type Page = Result<OrderPage, DbErr>;

pub struct OrdersOfClients(BatchQueue<Request, Page>);

impl OrdersOfClients {
    /// # Panics
    /// Outside of a Tokio runtime.
    pub fn new(db: DatabaseConnection, currency: Currency) -> OrdersOfClients {
        OrdersOfClients(spawn_reads(MAX_ROWS, move |batch| read(db.clone(), currency, batch)))
    }

    /// Reads a page of the orders of a client, newest first. `after` is the id of the last order of the page before.
    ///
    /// # Errors
    /// When the database fails, or an event is damaged.
    pub async fn page(&self, client: i64, after: Option<Uuid>, first: usize) -> Page {
        let page = self.0.process_in(client, first, Request { client, after, first }).await;
        page.unwrap_or_else(|| Err(DbErr::Custom("too many reads wait, or reading panicked".into())))
    }
}

async fn read(db: DatabaseConnection, currency: Currency, batch: Vec<Queued<Request, Page>>) {
    let mut of_arguments: BTreeMap<_, Vec<_>> = BTreeMap::new();
    for queued in batch {
        of_arguments.entry((queued.item.after, queued.item.first)).or_default().push(queued);
    }
    for ((after, first), batch) in of_arguments {
        let mut of_clients: BTreeMap<i64, Vec<_>> = BTreeMap::new();
        for queued in batch {
            of_clients.entry(queued.item.client).or_default().push(queued);
        }
        let clients: Vec<i64> = of_clients.keys().copied().collect();
        let pages = match pages_of_clients(&db, &clients, after, first, currency).await {
            Ok(pages) => pages,
            Err(error) => vec![Err(error); clients.len()],
        };
        for (page, batch) in pages.into_iter().zip(of_clients.into_values()) {
            for queued in batch {
                queued.finish(page.clone());
            }
        }
    }
}
