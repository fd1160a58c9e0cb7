//! The orders of clients. A list of clients asks for those of each client, so reads that wait at the same time share a statement.

use std::collections::BTreeMap;

use runtime::batcher::{BatchQueue, Queued, Unprocessed, spawn_reads};
use sea_orm::{DatabaseConnection, DbErr};
use uuid::Uuid;

use super::lists::{OrderPage, pages_of_clients};

/// Orders of one statement.
const MAX_ORDERS: usize = 500;

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
    pub fn new(db: DatabaseConnection) -> OrdersOfClients {
        OrdersOfClients(spawn_reads(MAX_ORDERS, move |batch| read(db.clone(), batch)))
    }

    /// Reads a page of the orders of a client, newest first. `after` is the id of the last order of the page before.
    ///
    /// # Errors
    /// When too many reads wait; the inner error, when the database fails.
    pub async fn page(&self, client: i64, after: Option<Uuid>, first: usize) -> Result<Page, Unprocessed> {
        self.0.process_in(client, first, Request { client, after, first }).await
    }
}

async fn read(db: DatabaseConnection, batch: Vec<Queued<Request, Page>>) {
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
        let pages = match pages_of_clients(&db, &clients, after, first).await {
            Ok(pages) => pages.into_iter().map(Ok).collect(),
            Err(error) => vec![Err(error); clients.len()],
        };
        for (page, batch) in pages.into_iter().zip(of_clients.into_values()) {
            for queued in batch {
                queued.finish(page.clone());
            }
        }
    }
}
