//! Orders by their ids. Reads that wait at the same time share a statement.

use std::collections::HashMap;
use std::sync::Arc;

use entity::order;
use runtime::batcher::{BatchQueue, Queued, Unprocessed, spawn_reads};
use runtime::database::is_one_of;
use sea_orm::{ColumnTrait, DatabaseConnection, DbErr, EntityTrait, QueryFilter, QueryTrait};
use uuid::Uuid;

/// Orders of one statement.
const MAX_ORDERS: usize = 500;

/// Those that wait for the same order share it.
type Found = Result<Option<Arc<order::Model>>, DbErr>;

pub struct OrdersById(BatchQueue<Uuid, Found>);

impl OrdersById {
    /// # Panics
    /// Outside of a Tokio runtime.
    pub fn new(db: DatabaseConnection) -> OrdersById {
        OrdersById(spawn_reads(MAX_ORDERS, move |batch| read(db.clone(), batch)))
    }

    /// Reads an order. `client` limits the read to orders of that client.
    ///
    /// # Errors
    /// When too many reads wait; the inner error, when the database fails.
    pub async fn read(&self, id: Uuid, client: Option<i64>) -> Result<Found, Unprocessed> {
        let found = self.0.process(id).await?;
        Ok(found.map(|order| order.filter(|order| client.is_none_or(|client| client == order.client_id))))
    }
}

/// Reads the orders with these ids that exist with one statement. `client` limits the read to orders of that client.
///
/// # Errors
/// When the database fails.
pub async fn by_ids(
    db: &DatabaseConnection,
    ids: &[Uuid],
    client: Option<i64>,
) -> Result<HashMap<Uuid, order::Model>, DbErr> {
    let orders = order::Entity::find().filter(is_one_of(db, order::Column::Id, ids.iter().copied()));
    let orders = orders.apply_if(client, |orders, client| orders.filter(order::Column::ClientId.eq(client)));
    Ok(orders.all(db).await?.into_iter().map(|order| (order.id, order)).collect())
}

async fn read(db: DatabaseConnection, batch: Vec<Queued<Uuid, Found>>) {
    let ids: Vec<Uuid> = batch.iter().map(|queued| queued.item).collect();
    let found = by_ids(&db, &ids, None).await;
    let found: Result<HashMap<Uuid, Arc<order::Model>>, DbErr> =
        found.map(|found| found.into_iter().map(|(id, order)| (id, Arc::new(order))).collect());
    for queued in batch {
        let of_id = found.as_ref().map(|found| found.get(&queued.item).cloned()).map_err(Clone::clone);
        queued.finish(of_id);
    }
}
