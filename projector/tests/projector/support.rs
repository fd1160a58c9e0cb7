//! Helpers that the tests share: events, stores and a consumer.

use aws_sdk_sqs::Client as Sqs;
use aws_sdk_sqs::types::QueueAttributeName;
use chrono::{DateTime, Utc};
use entity::order_event::least_id_at;
use entity::{
    Event, Line, OrderPlaced, Refund, event, order, order_event, order_item, order_refund, order_refund_item, outbox,
};
use iso_currency::Currency;
use projector::consume::Consumer;
use projector::queues;
use projector::verify::sums::SumsProgress;
use projector::verify::{Repair, Verifier};
use read_model::{Projection, Redis};
use sea_orm::{ActiveModelTrait, ConnectionTrait, Database, DatabaseConnection, EntityTrait, IntoActiveModel};
use std::ops::ControlFlow;
use std::sync::Arc;
use std::time::Duration;
use test_support::redis::Redis as RedisServer;
use uuid::Uuid;

pub fn row(client_id: i64, version: i32) -> order_event::Model {
    row_of(client_id, version, 1)
}

pub fn row_of(client_id: i64, version: i32, lines: usize) -> order_event::Model {
    let lines = vec![Line { product_id: 1, name: "Computer".into(), unit_price: 150_000, quantity: 1 }; lines];
    let order = OrderPlaced {
        client_id,
        client_name: "Bob".into(),
        client_email: "bob@anemailprovider.com".into(),
        order_id: Uuid::now_v7(),
        currency: "USD".into(),
        total: event::total(&lines).unwrap(),
        lines,
    };
    order_event::Model {
        id: Uuid::now_v7(),
        client_id: Some(client_id),
        product_id: None,
        version,
        r#type: event::ORDER_PLACED.into(),
        payload: serde_json::to_value(order).unwrap(),
        occurred_at: DateTime::from_timestamp_millis(1_700_000_000_000).unwrap(),
        traceparent: None,
        actor: None,
        actor_is_client: None,
    }
}

pub async fn sqs() -> Sqs {
    Sqs::new(&test_support::sqs::embedded().await)
}

pub async fn consumer(read_model: Arc<dyn Projection>) -> (Consumer, String) {
    let queue = sqs().await;
    let [orders, dead_letters] = queues::create(&queue, "orders").await.unwrap();
    let consumer = Consumer::new(queue, orders.url, read_model, Currency::USD);
    (consumer, dead_letters.url)
}

pub async fn send(consumer: &Consumer, message: &str) {
    consumer.queue.send_message().queue_url(&consumer.queue_url).message_body(message).send().await.unwrap();
}

/// The number of visible messages, and of messages that were received but not deleted.
pub async fn waiting(queue: &Sqs, url: &str) -> (u32, u32) {
    use QueueAttributeName::{ApproximateNumberOfMessages as Visible, ApproximateNumberOfMessagesNotVisible as Held};
    let request = queue.get_queue_attributes().queue_url(url).attribute_names(QueueAttributeName::All).send();
    let attributes = request.await.unwrap().attributes.unwrap();
    let number = |name| attributes[&name].parse::<u32>().unwrap();
    (number(Visible), number(Held))
}

pub async fn until(mut condition: impl AsyncFnMut() -> bool) {
    let waited = tokio::time::timeout(Duration::from_secs(30), async {
        while !condition().await {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    });
    waited.await.expect("it never came true");
}

/// A database with three clients and products that have no events.
pub async fn database() -> DatabaseConnection {
    let mut options = sea_orm::ConnectOptions::new("sqlite::memory:");
    options.max_connections(1);
    let db = Database::connect(options).await.unwrap();
    migration::up(&db).await.unwrap();
    for row in [
        "clients (name, email) VALUES ('Bob', 'bob@example.com'), ('Alice', 'alice@example.com'), ('John', 'john@example.com')",
        "products (name, price) VALUES ('Computer', 150000), ('Phone', 50000), ('TV', 100000)",
    ] {
        db.execute_unprepared(&format!("INSERT INTO {row}")).await.unwrap();
    }
    db
}

#[derive(Clone, Copy, PartialEq)]
pub enum Outbox {
    Pending,
    Published,
}

/// Writes the rows that placing orders writes. The events are still in the outbox, or published.
pub async fn place(db: &DatabaseConnection, events: &[order_event::Model], outbox: Outbox) {
    for event in events {
        let placed: OrderPlaced = serde_json::from_value(event.payload.clone()).unwrap();
        let order = order::Model {
            id: placed.order_id,
            client_id: placed.client_id,
            version: event.version,
            placed_at: event.occurred_at,
            total: placed.total,
            cancelled_at: None,
            cancel_reason: None,
            refunded: 0,
        };
        let item = |(number, line): (i32, &Line)| order_item::Model {
            order_id: order.id,
            line: number,
            product_id: line.product_id,
            unit_price: line.unit_price,
            quantity: line.quantity,
        };
        let items: Vec<_> = (0..).zip(&placed.lines).map(item).collect();
        let items = items.into_iter().map(|item| item.into_active_model().reset_all());
        order::Entity::insert(order.into_active_model().reset_all()).exec_without_returning(db).await.unwrap();
        order_item::Entity::insert_many(items).exec_without_returning(db).await.unwrap();
        if outbox == Outbox::Pending {
            let pending = outbox::Model { event_id: event.id };
            let pending = outbox::Entity::insert(pending.into_active_model().reset_all());
            pending.exec_without_returning(db).await.unwrap();
        }
        let raise = format!("UPDATE clients SET version = {} WHERE id = {}", event.version, placed.client_id);
        db.execute_unprepared(&raise).await.unwrap();
        let event = event.clone().into_active_model().reset_all();
        order_event::Entity::insert(event).exec_without_returning(db).await.unwrap();
    }
}

/// The event of a cancellation, or of a refund, with an amount for each line.
pub fn refund_event(
    placed: &order_event::Model,
    version: i32,
    time: DateTime<Utc>,
    cancels: bool,
    amounts: &[i64],
) -> order_event::Model {
    let order: OrderPlaced = serde_json::from_value(placed.payload.clone()).unwrap();
    let (placed_at, placed_version) = (placed.occurred_at, placed.version);
    let id = least_id_at(time).as_u128() + order.client_id as u128 * 1_000 + version as u128;
    let refund = Refund {
        order,
        placed_at,
        placed_version,
        reason: None,
        amount: amounts.iter().sum(),
        amounts: amounts.into(),
    };
    order_event::Model {
        id: Uuid::from_u128(id),
        version,
        r#type: (if cancels { event::ORDER_CANCELLED } else { event::ORDER_REFUNDED }).into(),
        payload: serde_json::to_value(refund).unwrap(),
        occurred_at: time,
        ..placed.clone()
    }
}

/// Writes the rows that cancelling or refunding an order writes. The event is published.
pub async fn write_refund(db: &DatabaseConnection, event: &order_event::Model) {
    let refund: Refund = serde_json::from_value(event.payload.clone()).unwrap();
    let (order, cancels) = (&refund.order, event.r#type == event::ORDER_CANCELLED);
    let row = order_refund::Model {
        id: event.id,
        order_id: order.order_id,
        client_id: order.client_id,
        version: event.version,
        refunded_at: event.occurred_at,
        amount: refund.amount,
        cancels,
    };
    order_refund::Entity::insert(row.into_active_model().reset_all()).exec_without_returning(db).await.unwrap();
    for (line, (placed, amount)) in (0..).zip(order.lines.iter().zip(&refund.amounts)) {
        let quantity = if cancels { placed.quantity } else { 0 };
        let item = order_refund_item::Model {
            refund_id: event.id,
            line,
            product_id: placed.product_id,
            quantity,
            amount: *amount,
        };
        let item = order_refund_item::Entity::insert(item.into_active_model().reset_all());
        item.exec_without_returning(db).await.unwrap();
    }
    let row = order::Entity::find_by_id(order.order_id).one(db).await.unwrap().unwrap();
    let refunded = row.refunded + refund.amount;
    let cancelled_at = if cancels { Some(event.occurred_at) } else { row.cancelled_at };
    let row = order::Model { refunded, cancelled_at, ..row }.into_active_model().reset_all();
    order::Entity::update(row).exec(db).await.unwrap();
    let raise = format!("UPDATE clients SET version = {} WHERE id = {}", event.version, order.client_id);
    db.execute_unprepared(&raise).await.unwrap();
    insert(db, event).await;
}

/// Writes an event to the log.
pub async fn insert(db: &DatabaseConnection, event: &order_event::Model) {
    let event = event.clone().into_active_model().reset_all();
    order_event::Entity::insert(event).exec_without_returning(db).await.unwrap();
}

pub async fn redis() -> (RedisServer, Redis, String) {
    let server = RedisServer::start().await;
    let redis = Redis::connect(&server.url, 16, Currency::USD).await.unwrap();
    let url = server.url.clone();
    (server, redis, url)
}

pub async fn command(url: &str, command: &[&str]) {
    reply(url, command).await
}

pub async fn reply<Reply: ::redis::FromRedisValue>(url: &str, command: &[&str]) -> Reply {
    let client = ::redis::Client::open(url).unwrap();
    let mut connection = client.get_multiplexed_async_connection().await.unwrap();
    let mut request = ::redis::cmd(command[0]);
    request.arg(&command[1..]).query_async(&mut connection).await.unwrap()
}

pub fn events(rows: &[order_event::Model]) -> Vec<Event> {
    rows.iter().map(|row| Event::from_row(row.clone(), "USD").unwrap()).collect()
}

pub async fn verifier(repair: Repair) -> (RedisServer, String, Verifier) {
    let (server, read_model, url) = redis().await;
    let in_flight = Duration::ZERO;
    (server, url, Verifier::new(database().await, read_model, Currency::USD, in_flight, repair))
}

/// All wrong sums, as `verify` reports them.
pub async fn wrong_sums(verifier: &Verifier) -> Vec<String> {
    let mut all = Vec::new();
    let each = |progress: SumsProgress| {
        all.extend(progress.wrong.iter().map(ToString::to_string));
        ControlFlow::Continue(())
    };
    verifier.sums(None, each).await.unwrap();
    all
}
