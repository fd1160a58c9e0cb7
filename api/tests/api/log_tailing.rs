//! `RELAY=off`: a reader of the write-ahead log publishes the events.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use api::outbox::log_tailing::Publication;
use api::outbox::relay::Publisher;
use chrono::Utc;
use entity::{Event, order_event, outbox, outbox_message, refused_event};
use futures::future::join_all;
use read_model::Memory;
use sea_orm::{ConnectionTrait, DatabaseConnection, EntityTrait, PaginatorTrait};
use serde_json::{Value, json};
use test_support::log_reader;

use crate::outbox::number;
use crate::relay::{arrived, place_orders};
use crate::support::{ALL_SCOPES, Api, PLACE, order, postgres_with_slot, project_products, queue, sqlite, until};

/// The messages of the log by the ids of their events.
async fn log(db: &DatabaseConnection) -> BTreeMap<String, String> {
    let events = order_event::Entity::find().all(db).await.unwrap();
    events.iter().map(|event| (event.id.to_string(), event.message())).collect()
}

async fn api_without_relay(db: &crate::support::Db, publisher: Publisher) -> Api {
    let memory = Arc::new(Memory::default());
    project_products(db, &*memory).await;
    Api::start_on(db, memory, publisher, &["--relay", "false", "--rate-limit", "0"]).await
}

/// Executes a mutation without errors.
async fn change(api: &Api, mutation: &str) -> Value {
    let response = api.graphql(&api.token(ALL_SCOPES, None), &format!("mutation {{ {mutation} }}"), json!({})).await;
    assert!(response["errors"].is_null(), "{response}");
    response["data"].clone()
}

#[tokio::test]
async fn a_reader_of_the_log_gets_the_message_of_each_event_once_and_those_of_a_client_in_sequence() {
    let db = postgres_with_slot().await;
    let queue = queue().await;
    let api = api_without_relay(&db, queue.clone().into()).await;
    let db = &db.connection;
    let before: BTreeSet<String> = log(db).await.into_keys().collect();

    let token = api.token(ALL_SCOPES, None);
    // Each key twice: one order.
    let orders = (0..60).map(|n| order(&(n % 3 + 1).to_string(), &[("1", 1), ("2", 3)], Some(&format!("{}", n / 6))));
    let placed = join_all(orders.map(|order| api.graphql(&token, PLACE, order))).await;
    let first = placed.iter().find(|placed| placed["data"]["placeOrder"]["order"]["clientId"] == "1").unwrap();
    let order_id = &first["data"]["placeOrder"]["order"]["id"];
    change(
        &api,
        &format!(
            "cancelOrder(input: {{ orderId: {order_id}, reason: \"Ordered by mistake\" }}) {{ userErrors {{ code }} }}"
        ),
    )
    .await;
    change(
        &api,
        r#"registerClient(input: { name: "Zoë \"Z\" O'Hara \\ é", email: "zoe@example.com" }) { clientVersion }"#,
    )
    .await;
    change(&api, r#"createProduct(input: { name: "Tea", price: "3.50" }) { userErrors { code } }"#).await;
    change(&api, r#"updateProduct(input: { id: 1, price: "1600.00" }) { userErrors { code } }"#).await;
    change(&api, r#"forgetClient(input: { id: 3 }) { userErrors { code } }"#).await;

    let changes = log_reader::read(db).await;
    let sent: BTreeMap<String, String> =
        changes.messages.iter().map(|message| (message.id.clone(), message.payload.clone())).collect();
    assert_eq!(sent.len(), changes.messages.len(), "an event is in the log twice");
    let types: BTreeSet<&str> = changes.messages.iter().map(|message| &*message.r#type).collect();
    assert_eq!(types.len(), 6, "{types:?}");
    let mut versions: BTreeMap<(&str, &str), Vec<String>> = BTreeMap::new();
    for message in &changes.messages {
        let event: Value = serde_json::from_str(&message.payload).unwrap();
        let is_client = !message.r#type.starts_with("products.");
        assert_eq!(message.aggregate_type, if is_client { "client" } else { "product" });
        assert_eq!((&event["id"], &event["type"]), (&json!(message.id), &json!(message.r#type)));
        assert_eq!(event["subject"], message.aggregate_id);
        Event::parse(&message.payload, "USD", Utc::now()).unwrap();
        let of_subject = versions.entry((&message.aggregate_type, &message.aggregate_id)).or_default();
        of_subject.push(event["sequence"].as_str().unwrap().to_owned());
    }
    assert!(versions.values().all(|versions| versions.is_sorted()), "{versions:?}");
    // Forgetting masks the events in the database. Their messages were written before.
    let is_masked = |id: &String| sent[id].contains("John") || sent[id].contains("john@");
    let mut expected = log(db).await;
    expected.retain(|id, _| !before.contains(id));
    assert!(expected.keys().eq(sent.keys()));
    for (id, message) in expected.iter().filter(|(id, _)| !is_masked(id)) {
        assert_eq!(sent[id], *message);
    }

    log_reader::confirm(db, &changes).await;
    assert!(log_reader::read(db).await.messages.is_empty());
    assert_eq!(outbox_message::Entity::find().count(db).await.unwrap(), 0);
    assert_eq!(outbox::Entity::find().count(db).await.unwrap(), 0);
    assert!(arrived(&queue).await.is_empty(), "the api publishes, too");
}

#[tokio::test]
async fn events_that_wait_in_the_outbox_are_handed_over_to_the_log() {
    let db = postgres_with_slot().await;
    place_orders(&db.connection, 450).await;
    let refuse = "INSERT INTO refused_events SELECT event_id, now(), now(), now() + interval '1 day', 'too long' FROM outbox LIMIT 20";
    for statement in [refuse, "DELETE FROM outbox WHERE event_id IN (SELECT event_id FROM refused_events)"] {
        db.connection.execute_unprepared(statement).await.unwrap();
    }
    let waiting = "SELECT event_id::text AS id FROM outbox UNION ALL SELECT event_id::text FROM refused_events";
    assert_eq!(number(&db.connection, &format!("SELECT count(*) AS number FROM ({waiting}) AS ids")).await, 450);

    let queue = queue().await;
    let publisher = Publisher::from(queue.clone());
    let backlog = publisher.backlog.subscribe();
    let api = api_without_relay(&db, publisher).await;
    let db = &db.connection;
    until("nothing waits", async || {
        let waiting =
            outbox::Entity::find().count(db).await.unwrap() + refused_event::Entity::find().count(db).await.unwrap();
        waiting == 0
    })
    .await;
    let messages = log_reader::read(db).await.messages;
    let sent: BTreeMap<String, String> = messages.iter().map(|sent| (sent.id.clone(), sent.payload.clone())).collect();
    assert_eq!((messages.len(), sent.len()), (450, 450));
    let log = log(db).await;
    assert!(sent.iter().all(|(id, message)| log[id] == *message));
    assert!(arrived(&queue).await.is_empty(), "the api publishes, too");

    let state = async || {
        let fields = "{ system { outbox { pending refused oldestAgeSeconds } } }";
        api.graphql(&api.token(ALL_SCOPES, None), fields, json!({})).await["data"]["system"]["outbox"].clone()
    };
    until("nothing is reported as pending", async || {
        state().await == json!({ "pending": 0, "refused": 0, "oldestAgeSeconds": 0 })
    })
    .await;
    let unread = || backlog.borrow().unread_log;
    until("the log is reported as unread", async || unread().is_some_and(|bytes| bytes > 100_000)).await;
    log_reader::confirm(db, &log_reader::read(db).await).await;
    until("the log is reported as read", async || unread().is_some_and(|bytes| bytes < 100_000)).await;
    let health: Value = api.get("/health/ready").send().await.unwrap().json().await.unwrap();
    assert!(health["oldestUnpublishedSeconds"].is_null() && health["refusedEvents"].is_null(), "{health}");
}

#[tokio::test]
async fn without_a_log_or_a_slot_the_relay_cannot_be_off() {
    let refusal = async |db: &DatabaseConnection| Publication::LogReader.check(db).await.unwrap_err().to_string();
    assert!(refusal(&sqlite().await.connection).await.contains("RELAY=off needs PostgreSQL"));
    let without_log = crate::support::postgres_alone().await;
    assert!(refusal(&without_log.connection).await.contains("wal_level=logical in PostgreSQL"));
    Publication::Relay.check(&without_log.connection).await.unwrap();

    let db = postgres_with_slot().await;
    Publication::LogReader.check(&db.connection).await.unwrap();
    db.connection.execute_unprepared("SELECT pg_drop_replication_slot('orders_outbox')").await.unwrap();
    assert!(refusal(&db.connection).await.contains("needs a logical replication slot"));
}
