//! `RELAY=off`: a program reads the events from the write-ahead log of PostgreSQL and sends them to the queue.

use std::time::Duration;

use sea_orm::{Database, DatabaseConnection};
use serde_json::{Value, json};
use test_support::load::Load;
use test_support::log_reader::{self, Message};
use test_support::process::Process;
use test_support::services::{Services, Stores};
use test_support::user::SAMPLE_ORDER;
use test_support::{sqs, until};
use tokio::time::sleep;

/// Sends what the log has to the queue, and confirms every other reading: otherwise the messages are sent again.
async fn run_reader(db: &DatabaseConnection, endpoint: &str, queue: &str) {
    let http = reqwest::Client::new();
    for reading in 0.. {
        let changes = log_reader::read(db).await;
        for Message { payload, .. } in &changes.messages {
            sqs::call(&http, endpoint, "SendMessage", json!({ "QueueUrl": queue, "MessageBody": payload })).await;
        }
        if reading % 2 == 1 {
            log_reader::confirm(db, &changes).await;
            sleep(Duration::from_millis(100)).await;
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reader_of_the_log_that_sends_messages_twice_makes_each_order_visible_once() {
    let mut stores = tokio::task::spawn_blocking(|| Stores::prepared_with(&[("wal_level", "logical")])).await.unwrap();
    let db = Database::connect(stores.postgres.connection_uri()).await.unwrap();
    log_reader::create_slot(&db).await;
    stores.set("RELAY", "off");
    let services = tokio::task::spawn_blocking(|| Services::start_on(stores, 2)).await.unwrap();
    let Services { stores, users, apis, health, .. } = &services;

    // Without a reader, orders are placed, and `verify` reports their events as missing.
    let load = Load::start_with(users, 4, |user, writer, _| async move {
        user.place(&(writer % 3 + 1).to_string(), &SAMPLE_ORDER, None).await;
    });
    load.place_more(20).await;
    let verify = Process::start("projector", &["verify", "--in-flight", "0s"], &stores.variables());
    assert!(!tokio::task::block_in_place(|| verify.wait()).success());

    let (endpoint, queue) = (stores.get("AWS_ENDPOINT_URL").to_owned(), stores.get("QUEUE_URL").to_owned());
    let reader = tokio::spawn({
        let db = db.clone();
        async move { run_reader(&db, &endpoint, &queue).await }
    });
    load.place_more(200).await;
    let placed = load.stop().await;
    stores.until_nothing_differs().await;
    let mut visible = 0;
    for client in ["1", "2", "3"] {
        visible += users[0].client_at(client, 1).await["orderCount"].as_u64().unwrap();
    }
    assert_eq!(visible, placed as u64);

    until("nothing waits in the outbox", async || {
        let state = users[0].graphql("{ system { outbox { pending refused } } }").await;
        state["data"]["system"]["outbox"] == json!({ "pending": 0, "refused": 0 })
    })
    .await;
    for address in &health[..apis.len()] {
        let ready: Value = reqwest::get(format!("http://{address}/health/ready")).await.unwrap().json().await.unwrap();
        assert!(ready["oldestUnpublishedSeconds"].is_null(), "{ready}");
    }
    reader.abort();
}
