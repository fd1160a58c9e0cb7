//! A message that cannot be applied, until an operator without a shell has sent it back.

use serde_json::{Value, json};
use test_support::services::{Services, Stores};
use test_support::sqs::call;
use test_support::until;

#[tokio::test(flavor = "multi_thread")]
async fn an_operator_sees_why_an_order_is_a_dead_letter_and_redrives_it() {
    let mut stores = tokio::task::spawn_blocking(Stores::prepared).await.unwrap();
    stores.set("SWEEP_INTERVAL", "1h"); // it would repair the client
    let (http, queue) = (reqwest::Client::new(), stores.get("QUEUE_URL").to_owned());
    let endpoint = stores.get("AWS_ENDPOINT_URL").to_owned();
    let attributes = json!({ "QueueUrl": queue, "AttributeNames": ["RedrivePolicy"] });
    let attributes = call(&http, &endpoint, "GetQueueAttributes", attributes).await;
    let mut policy: Value = serde_json::from_str(attributes["Attributes"]["RedrivePolicy"].as_str().unwrap()).unwrap();
    policy["maxReceiveCount"] = json!("2");
    let attributes = json!({ "VisibilityTimeout": "1", "RedrivePolicy": policy.to_string() });
    call(&http, &endpoint, "SetQueueAttributes", json!({ "QueueUrl": queue, "Attributes": attributes })).await;
    let services = tokio::task::spawn_blocking(|| Services::start_on(stores, 1)).await.unwrap();
    let user = &services.users[0];
    user.client_at("2", 1).await;

    let mut redis = services.stores.redis_client().get_multiplexed_async_connection().await.unwrap();
    let (key, kept) = ("orders:{p2}:g1:client:2", "orders:{p2}:kept");
    let () = redis::cmd("RENAME").arg(key).arg(kept).query_async(&mut redis).await.unwrap();
    let () = redis::cmd("SET").arg(key).arg("damaged").query_async(&mut redis).await.unwrap();
    let (_, version) = user.place("2", &[(1, 1)], None).await;

    let state = "{ system { projectors { state version } projection { lagSeconds }
        deadLetters { count problem nodes { id verdict reason type clientId version receives } } } }";
    let mut letter = Value::Null;
    until("it is a dead letter", async || {
        let state = user.graphql(state).await;
        letter = state["data"]["system"]["deadLetters"]["nodes"][0].clone();
        letter.is_object()
    })
    .await;
    assert_eq!((&letter["verdict"], &letter["type"]), (&json!("NEEDED"), &json!("ORDER_PLACED")), "{letter}");
    assert_eq!((&letter["clientId"], &letter["version"]), (&json!("2"), &json!(version)), "{letter}");
    assert!(letter["reason"].as_str().unwrap().contains("WRONGTYPE"), "{letter}");
    let shown = user.graphql(state).await["data"]["system"].clone();
    assert!(shown["projection"]["lagSeconds"].as_i64() > Some(0), "{shown}");
    let running = json!([{ "state": "CURRENT", "version": env!("CARGO_PKG_VERSION") }]);
    assert_eq!(shown["projectors"], running, "{shown}");

    let () = redis::cmd("RENAME").arg(kept).arg(key).query_async(&mut redis).await.unwrap();
    let redrive =
        format!("mutation {{ redriveDeadLetters(input: {{ ids: [{}] }}) {{ ids missingIds }} }}", letter["id"]);
    let redriven = user.graphql(&redrive).await["data"]["redriveDeadLetters"].clone();
    assert_eq!(redriven, json!({ "ids": [letter["id"]], "missingIds": [] }));
    let client = user.client_at("2", version).await;
    assert_eq!(client["orderCount"], 1, "{client}");
    until("nothing is behind", async || {
        let shown = user.graphql(state).await["data"]["system"].clone();
        shown["projection"]["lagSeconds"] == 0 && shown["deadLetters"]["nodes"] == json!([])
    })
    .await;
}
