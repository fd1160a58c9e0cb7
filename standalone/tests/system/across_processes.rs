//! Two apis and two projectors as processes of their own, on one PostgreSQL, one Redis and one SQS endpoint.

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};

use serde_json::{Value, json};
use test_support::process::Process;
use test_support::services::Services;
use test_support::sqs;
use test_support::until;
use test_support::user::{ALL_SCOPES, SAMPLE_ORDER, User, assert_is_bob, status};

#[tokio::test]
async fn the_sample_order_is_placed_through_one_api_and_read_through_another() {
    let services = Services::start(2);
    let [one, other] = &services.users[..] else { panic!("two apis") };
    for n in 1..=5 {
        let (writer, reader) = if n % 2 == 0 { (one, other) } else { (other, one) };
        let (placed, version) = writer.place("1", &SAMPLE_ORDER, None).await;
        assert_eq!((&placed["order"]["total"]["amount"], version), (&"3000.00".into(), n + 1));
        let total = format!("{}.00", 3_000 * n);
        assert_is_bob(&reader.client_at("1", version).await, &total, n, &placed["order"]["placedAt"]);
    }
    for address in &services.health {
        assert_eq!((status(address, "/health/live").await, status(address, "/health/ready").await), (200, 200));
    }

    // Fifty requests with one key to two processes place one order.
    let racing: Vec<_> = (0..50)
        .map(|n| {
            let user = services.users[n % 2].clone();
            tokio::spawn(async move { user.place("2", &SAMPLE_ORDER, Some("once")).await })
        })
        .collect();
    let mut placed: Vec<Value> = Vec::new();
    for request in racing {
        placed.push(request.await.unwrap().0);
    }
    assert_eq!(placed.iter().filter(|placed| placed["replayed"] == false).count(), 1);
    assert!(placed.iter().all(|other| other["order"] == placed[0]["order"]));
    assert_eq!(one.client_at("2", 1).await["total"]["amount"], "3000.00");

    // A token for one client.
    let token = services.stores.run("api", &["token", "--scope", ALL_SCOPES, "--client", "2", "--ttl", "1m"]);
    let narrow = User::new(&one.address, token.trim());
    assert_eq!(narrow.client_at("2", 1).await["orderCount"], 1);
    assert_eq!(narrow.graphql("{ client(id: \"1\") { id } }").await["errors"][0]["extensions"]["code"], "FORBIDDEN");

    for process in services.apis.into_iter().chain(services.projectors) {
        assert!(process.terminate().success());
    }
}

#[tokio::test]
async fn a_foreign_message_is_logged_once_and_ends_in_the_dead_letter_queue() {
    let services = Services::start(2);
    let (endpoint, orders) = (services.stores.get("AWS_ENDPOINT_URL"), services.stores.get("QUEUE_URL"));
    let dead_letters = format!("{orders}-dead-letters");
    let call = async |action: &str, body: Value| sqs::call(&services.users[0].http, endpoint, action, body).await;
    // Delivered again at once: otherwise five deliveries take five times 30 seconds.
    call("SetQueueAttributes", json!({ "QueueUrl": orders, "Attributes": { "VisibilityTimeout": "0" } })).await;
    let sent = call("SendMessage", json!({ "QueueUrl": orders, "MessageBody": "not an event" })).await;
    let id = sent["MessageId"].as_str().unwrap();
    let (_, version) = services.users[0].place("1", &SAMPLE_ORDER, None).await;
    services.users[0].client_at("1", version).await;

    until("the message is a dead letter", async || {
        let received = call("ReceiveMessage", json!({ "QueueUrl": dead_letters })).await;
        received["Messages"]
            .as_array()
            .is_some_and(|messages| messages.first().is_some_and(|message| message["Body"] == "not an event"))
    })
    .await;
    let lines = services.projectors.iter().flat_map(Process::lines);
    let logged: Vec<String> = lines.filter(|line| line.contains(id)).collect();
    assert!(matches!(&logged[..], [line] if line.contains("WARN") && line.contains("not a CloudEvent")), "{logged:?}");
}

#[tokio::test]
async fn ten_thousand_orders_from_32_connections_are_all_counted() {
    let services = Services::start(2);
    const ORDERS: i64 = 10_000;
    const CLIENTS: i64 = 100;
    services.stores.add_clients(CLIENTS).await;

    let next = Arc::new(AtomicI64::new(0));
    let connections: Vec<_> = (0..32)
        .map(|n| {
            let (user, next) = (services.users[n % 2].clone(), next.clone());
            tokio::spawn(async move {
                loop {
                    let order = next.fetch_add(1, Ordering::Relaxed);
                    if order >= ORDERS {
                        return;
                    }
                    user.place(&(order % CLIENTS + 1).to_string(), &SAMPLE_ORDER, None).await;
                }
            })
        })
        .collect();
    for connection in connections {
        connection.await.unwrap();
    }
    let ids: Vec<String> = (1..=CLIENTS).map(|id| format!("\"{id}\"")).collect();
    let query = format!("{{ clientsByIds(ids: [{}]) {{ id version orderCount total {{ amount }} }} }}", ids.join(" "));
    until("all orders are projected", async || {
        let response = services.users[0].graphql(&query).await;
        let clients = response["data"]["clientsByIds"].as_array().unwrap();
        clients.iter().map(|client| client["orderCount"].as_i64().unwrap_or(0)).sum::<i64>() == ORDERS
    })
    .await;
    let response = services.users[1].graphql(&query).await;
    for client in response["data"]["clientsByIds"].as_array().unwrap() {
        let each = ORDERS / CLIENTS;
        // The clients of the sample data have one event more.
        let version = each + i64::from(["1", "2", "3"].contains(&client["id"].as_str().unwrap()));
        assert_eq!((client["orderCount"].as_i64(), client["version"].as_i64()), (Some(each), Some(version)));
        assert_eq!(client["total"]["amount"], format!("{}.00", 3_000 * each));
    }
}
