//! Orders by their ids. Reads that wait at the same time share a statement.

use std::collections::HashMap;

use iso_currency::Currency;
use runtime::batcher::{BatchQueue, Queued, spawn_reads};
use sea_orm::{DatabaseConnection, DbErr};
use uuid::Uuid;

use super::{StoredOrder, rows_of};

/// Orders of one statement. An order has at most 26 KB.
const MAX_ORDERS: usize = 500;

type Found = Result<Option<StoredOrder>, DbErr>;

pub struct OrdersById(BatchQueue<Uuid, Found>);

impl OrdersById {
    /// # Panics
    /// Outside of a Tokio runtime.
    pub fn new(db: DatabaseConnection, currency: Currency) -> OrdersById {
        OrdersById(spawn_reads(MAX_ORDERS, move |batch| read(db.clone(), currency, batch)))
    }

    /// Reads an order. `client` limits the read to orders of that client.
    ///
    /// # Errors
    /// When the database fails, or the order's event is damaged.
    pub async fn read(&self, id: Uuid, client: Option<i64>) -> Found {
        let found = self.0.process(id).await;
        let found = found.unwrap_or_else(|| Err(DbErr::Custom("too many reads wait, or reading panicked".into())))?;
        Ok(found.filter(|order| client.is_none_or(|client| client == order.placed.data.client_id)))
    }
}

/// Reads the orders with these ids that exist, in any sequence, with one statement. `client` limits the read to orders of that client.
///
/// # Errors
/// When the database fails, or the event of an order is damaged.
pub async fn by_ids(
    db: &DatabaseConnection,
    ids: &[Uuid],
    client: Option<i64>,
    currency: Currency,
) -> Result<Vec<StoredOrder>, DbErr> {
    let orders = rows_of(db, ids).await?.into_iter().map(|row| row.into_order(currency));
    let orders: Vec<StoredOrder> = orders.collect::<Result<_, _>>()?;
    let is_visible = |order: &StoredOrder| client.is_none_or(|client| client == order.placed.data.client_id);
    Ok(orders.into_iter().filter(is_visible).collect())
}

async fn read(db: DatabaseConnection, currency: Currency, batch: Vec<Queued<Uuid, Found>>) {
    let ids: Vec<Uuid> = batch.iter().map(|queued| queued.item).collect();
    let found = match rows_of(&db, &ids).await {
        Ok(rows) => rows.into_iter().map(|row| (row.order_id, row.into_order(currency).map(Some))).collect(),
        Err(error) => ids.into_iter().map(|id| (id, Err(error.clone()))).collect::<HashMap<Uuid, Found>>(),
    };
    for queued in batch {
        let of_id = found.get(&queued.item).cloned().unwrap_or(Ok(None));
        queued.finish(of_id);
    }
}
