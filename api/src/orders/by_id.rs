//! Orders by their ids. Reads that wait at the same time share a statement.

use std::collections::HashMap;

use entity::order;
use iso_currency::Currency;
use runtime::batcher::{BatchQueue, Queued, spawn_reads};
use sea_orm::{ColumnTrait, DatabaseConnection, DbErr, QueryFilter, QueryTrait};
use uuid::Uuid;

use super::{Row, StoredOrder, rows};
use runtime::database::is_one_of;

/// Orders of one statement. An order has at most 26 KB.
const MAX_ORDERS: usize = 500;

/// An order and its client. The error of a damaged order is only for those who may read it.
type Found = Result<Option<(i64, Result<StoredOrder, DbErr>)>, DbErr>;

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
    pub async fn read(&self, id: Uuid, client: Option<i64>) -> Result<Option<StoredOrder>, DbErr> {
        let found = self.0.process(id).await;
        let found = found.unwrap_or_else(|| Err(DbErr::Custom("too many reads wait, or reading panicked".into())))?;
        let visible = found.filter(|(of_client, _)| client.is_none_or(|client| client == *of_client));
        visible.map(|(_, order)| order).transpose()
    }
}

/// Reads the orders with these ids that exist with one statement. `client` limits the read to orders of that client. An order whose
/// event is damaged has an error of its own.
///
/// # Errors
/// When the database fails.
pub async fn by_ids(
    db: &DatabaseConnection,
    ids: &[Uuid],
    client: Option<i64>,
    currency: Currency,
) -> Result<HashMap<Uuid, Result<StoredOrder, DbErr>>, DbErr> {
    let rows = rows_of(db, ids, client).await?;
    Ok(rows.into_iter().map(|row| (row.order_id, row.into_order(currency))).collect())
}

async fn rows_of(db: &DatabaseConnection, ids: &[Uuid], client: Option<i64>) -> Result<Vec<Row>, DbErr> {
    let rows = rows().filter(is_one_of(db, order::Column::Id, ids.iter().copied()));
    let rows = rows.apply_if(client, |rows, client| rows.filter(order::Column::ClientId.eq(client)));
    rows.into_model().all(db).await
}

async fn read(db: DatabaseConnection, currency: Currency, batch: Vec<Queued<Uuid, Found>>) {
    let ids: Vec<Uuid> = batch.iter().map(|queued| queued.item).collect();
    let of_row = |row: Row| {
        let (id, of_client) = (row.order_id, row.event.client_id.unwrap_or_default());
        (id, Ok(Some((of_client, row.into_order(currency)))))
    };
    let found = match rows_of(&db, &ids, None).await {
        Ok(rows) => rows.into_iter().map(of_row).collect(),
        Err(error) => ids.into_iter().map(|id| (id, Err(error.clone()))).collect::<HashMap<Uuid, Found>>(),
    };
    for queued in batch {
        let of_id = found.get(&queued.item).cloned().unwrap_or(Ok(None));
        queued.finish(of_id);
    }
}
