//! Events published to a topic, which passes them to the projector's queue and to another one.

use std::collections::BTreeSet;

use serde_json::{Value, json};
use test_support::services::{Services, Stores};
use test_support::user::{SAMPLE_ORDER, assert_is_bob};
use test_support::{sns, sqs, until};

use crate::start::fails;

#[tokio::test(flavor = "multi_thread")]
async fn a_topic_passes_each_event_to_the_projector_and_to_another_queue() {
    let mut stores = Stores::prepared();
    let endpoint = sns::serve(stores.get("AWS_ENDPOINT_URL").to_owned()).await;
    stores.set("AWS_ENDPOINT_URL", &endpoint);
    let orders = stores.get("QUEUE_URL").to_owned();
    // The addresses of the queue, its dead-letter queue and the topic.
    let create = |queue: &str| -> Vec<String> {
        let created = stores.run("projector", &["queues", "create", queue, "--topic", "orders"]);
        created.lines().map(|line| line.split_whitespace().last().unwrap().to_owned()).collect()
    };
    let topic = create("orders").pop().unwrap();
    assert_eq!(topic, "arn:aws:sns:us-east-1:123456789012:orders");
    let mails = create("mails");
    assert_eq!(create("mails"), mails, "a second time changes nothing");

    let http = reqwest::Client::new();
    let call = async |action: &str, body: Value| sqs::call(&http, &endpoint, action, body).await;
    for queue in [&orders, &mails[0], &mails[1]] {
        let body = json!({ "QueueUrl": queue, "AttributeNames": ["Policy"] });
        let attributes = call("GetQueueAttributes", body).await;
        assert!(attributes["Attributes"]["Policy"].as_str().unwrap().contains(&topic), "{queue}: {attributes}");
    }

    stores.set("TOPIC_ARN", &format!("{topic}-of-others"));
    fails("api", &[], &stores.variables(), &["does not exist; `projector queues create --topic` creates it"]);
    stores.set("TOPIC_ARN", &topic);
    let services = Services::start_on(stores, 1);
    let (placed, version) = services.users[0].place("1", &SAMPLE_ORDER, None).await;
    assert_is_bob(&services.users[0].client_at("1", version).await, "3000.00", 1, &placed["order"]["placedAt"]);

    let mut arrived = Vec::new();
    until("the other queue has all events", async || {
        let received = call("ReceiveMessage", json!({ "QueueUrl": mails[0], "MaxNumberOfMessages": 10 })).await;
        let messages = received["Messages"].as_array().cloned().unwrap_or_default();
        arrived.extend(messages.iter().map(|message| message["Body"].as_str().unwrap().to_owned()));
        messages.is_empty() && arrived.iter().any(|event| event.contains(r#""type":"orders.OrderPlaced.v1""#))
    })
    .await;
    let different: BTreeSet<&String> = arrived.iter().collect();
    assert_eq!(arrived.len(), different.len(), "the queue is subscribed once: {arrived:?}");
}
