//! Stores the [`year`] of a shop. The event log is written first. All other rows are derived from it by the statements here, so they agree
//! with it.

use chrono::{SubsecRound, Utc};
use entity::{Change, Event, client, order_event, outbox, product};
use iso_currency::Currency;
use sea_orm::{
    ActiveModelTrait, ConnectionTrait, DatabaseConnection, EntityTrait, IntoActiveModel, PaginatorTrait, QueryOrder,
    TransactionTrait,
};

use super::{Catalogue, year};

/// Rows of one statement: each has ten parameters, and a statement of SQLite has at most 32,766.
const ROWS: usize = 2_500;

/// These fill the other tables from the log.
const DERIVED_ROWS: [&str; 8] = [
    "INSERT INTO clients (id, name, email, version)
     SELECT client_id, payload ->> 'clientName', payload ->> 'clientEmail', 1 FROM order_events
     WHERE type = 'clients.ClientRegistered.v1' ON CONFLICT (id) DO NOTHING",
    "INSERT INTO products (id, name, price, sku, version)
     SELECT product_id, payload ->> 'name', payload ->> 'price', payload ->> 'sku', 1 FROM order_events
     WHERE type = 'products.ProductCreated.v1' ON CONFLICT (id) DO NOTHING",
    "INSERT INTO orders (id, client_id, version, placed_at, total)
     SELECT unhex(payload ->> 'orderId', '-'), client_id, version, occurred_at, payload ->> 'total' FROM order_events
     WHERE type = 'orders.OrderPlaced.v1'",
    "INSERT INTO order_items (order_id, line, product_id, unit_price, quantity)
     SELECT unhex(payload ->> 'orderId', '-'), lines.key, lines.value ->> 'productId', lines.value ->> 'unitPrice',
            lines.value ->> 'quantity'
     FROM order_events, json_each(payload, '$.lines') AS lines WHERE order_events.type = 'orders.OrderPlaced.v1'",
    "INSERT INTO order_refunds (id, order_id, client_id, version, refunded_at, amount, cancels)
     SELECT id, unhex(payload ->> 'orderId', '-'), client_id, version, occurred_at, payload ->> 'amount',
            type = 'orders.OrderCancelled.v1'
     FROM order_events WHERE type IN ('orders.OrderCancelled.v1', 'orders.OrderRefunded.v1')",
    "INSERT INTO order_refund_items (refund_id, line, product_id, quantity, amount)
     SELECT order_refunds.id, amounts.key, order_items.product_id, CASE WHEN cancels THEN quantity ELSE 0 END, amounts.value
     FROM order_refunds
     JOIN order_events ON order_events.id = order_refunds.id
     JOIN json_each(payload, '$.amounts') AS amounts
     JOIN order_items ON order_items.order_id = order_refunds.order_id AND order_items.line = amounts.key
     WHERE cancels OR amounts.value > 0",
    "UPDATE orders SET refunded = refund.amount, cancelled_at = refund.cancelled_at, cancel_reason = refund.reason
     FROM (SELECT order_id, sum(amount) AS amount, max(CASE WHEN cancels THEN refunded_at END) AS cancelled_at,
                  max(CASE WHEN cancels THEN payload ->> 'reason' END) AS reason
           FROM order_refunds JOIN order_events USING (id) GROUP BY order_id) AS refund
     WHERE orders.id = refund.order_id",
    "UPDATE clients SET version = newest.version
     FROM (SELECT client_id, max(version) AS version FROM order_events GROUP BY client_id) AS newest
     WHERE clients.id = newest.client_id",
];

/// Adds clients, products and a year of orders to a new SQLite database that has only the sample data.
pub async fn fill(db: &DatabaseConnection, currency: Currency) -> anyhow::Result<Catalogue> {
    let (mut clients, mut products) = (Vec::new(), Vec::new());
    for row in order_event::Entity::find().order_by_asc(order_event::Column::Id).all(db).await? {
        match Event::from_row(row, currency.code())?.data {
            Change::Client(client) => clients.push(client),
            Change::Product(product) => products.push(product),
            _ => {}
        }
    }
    let events = year::events(Utc::now().trunc_subsecs(3), clients, products, currency);
    let transaction = db.begin().await?;
    // The log refers to rows that are derived from it.
    transaction.execute_unprepared("PRAGMA defer_foreign_keys = ON").await?;
    // The year has the events of the sample data, too, at its beginning.
    order_event::Entity::delete_many().exec(&transaction).await?;
    for events in events.chunks(ROWS) {
        let rows = events.iter().map(|event| event.clone().into_active_model().reset_all());
        order_event::Entity::insert_many(rows).exec_without_returning(&transaction).await?;
    }
    for statement in DERIVED_ROWS {
        transaction.execute_unprepared(statement).await?;
    }
    // Nothing needs to be published: the read model replays the event log at start.
    outbox::Entity::delete_many().exec(&transaction).await?;
    transaction.commit().await?;
    Ok(Catalogue {
        clients: client::Entity::find().count(db).await? as usize,
        products: product::Entity::find().count(db).await? as usize,
    })
}
