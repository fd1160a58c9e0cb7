//! The lines of orders. They are in the event of the order, with the names and prices of that time, and are read only if they are
//! selected: an event has up to 86 KB, the row of an order less than 1 KB. Reads that wait at the same time share a statement.

use std::collections::HashMap;

use entity::{Line, order};
use runtime::batcher::{BatchQueue, Queued, Unprocessed, spawn_reads};
use runtime::database::is_one_of;
use sea_orm::prelude::Json;
use sea_orm::sea_query::Expr;
use sea_orm::{DatabaseConnection, DbErr, EntityTrait, JoinType, QueryFilter, QuerySelect};
use tokio::task::yield_now;
use uuid::Uuid;

use super::placed_event_of_order;

/// Orders of one statement, which then reads at most 4.3 MB.
const MAX_ORDERS: usize = 50;

type Lines = Result<Vec<Line>, DbErr>;

pub struct OrderLines(BatchQueue<Uuid, Lines>);

impl OrderLines {
    /// # Panics
    /// Outside of a Tokio runtime.
    pub fn new(db: DatabaseConnection) -> OrderLines {
        OrderLines(spawn_reads(MAX_ORDERS, move |batch| read(db.clone(), batch)))
    }

    /// Reads the lines of an order. Clients take turns.
    ///
    /// # Errors
    /// When too many reads wait; the inner error, when the database fails, or the event of the order is damaged.
    pub async fn read(&self, order: Uuid, client: i64) -> Result<Lines, Unprocessed> {
        self.0.process_in(client, 1, order).await
    }
}

async fn read(db: DatabaseConnection, batch: Vec<Queued<Uuid, Lines>>) {
    let ids = batch.iter().map(|queued| queued.item);
    let lines = order::Entity::find()
        .join(JoinType::InnerJoin, placed_event_of_order())
        .filter(is_one_of(&db, order::Column::Id, ids))
        .select_only()
        .column(order::Column::Id)
        .column_as(Expr::cust("order_events.payload -> 'lines'"), "lines");
    let rows: Vec<(Uuid, Option<Json>)> = match lines.into_tuple().all(&db).await {
        Ok(rows) => rows,
        Err(error) => return batch.into_iter().for_each(|queued| queued.finish(Err(error.clone()))),
    };
    let mut of_orders: HashMap<Uuid, Lines> = HashMap::new();
    for (order, lines) in rows {
        let lines = serde_json::from_value(lines.unwrap_or_default());
        of_orders.insert(order, lines.map_err(|error| DbErr::Custom(format!("the event of order {order}: {error}"))));
        yield_now().await; // parsing many lines takes a third of a millisecond
    }
    for queued in batch {
        let missing = || Err(DbErr::Custom(format!("order {} has no event", queued.item)));
        let of_order = of_orders.get(&queued.item).cloned().unwrap_or_else(missing);
        queued.finish(of_order);
    }
}
