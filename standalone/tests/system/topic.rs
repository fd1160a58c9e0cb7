//! Events published to a topic, which passes them to the projector's queue and to another one.

use serde_json::{Value, json};
use test_support::services::{Services, Stores};
use test_support::sns;
use test_support::sqs;
use test_support::until;
use test_support::user::{SAMPLE_ORDER, assert_is_bob};

#[tokio::test(flavor = "multi_thread")]
async fn a_topic_passes_each_event_to_the_projector_and_to_another_queue() {
    let mut stores = Stores::prepared();
    let endpoint = sns::serve(stores.get("AWS_ENDPOINT_URL").to_owned()).await;
    stores.set("AWS_ENDPOINT_URL", &endpoint);
    let orders = stores.get("QUEUE_URL").to_owned();
    let create = |queue: &str| -> Vec<(String, String)> {
        let created = stores.run("projector", &["queues", "create", queue, "--topic", "orders"]);
        let words = created.lines().map(|line| line.split_whitespace().collect::<Vec<_>>());
        words.map(|words| (words[0].to_owned(), words[2].to_owned())).collect()
    };
    let created = create("orders");
    let states: Vec<&str> = created.iter().map(|(state, _)| &**state).collect();
    assert_eq!(states, ["exists", "exists", "created"]);
    let topic = created[2].1.clone();
    assert_eq!(topic, "arn:aws:sns:us-east-1:123456789012:orders");
    let mails = create("mails");
    let states: Vec<&str> = mails.iter().map(|(state, _)| &**state).collect();
    assert_eq!(states, ["created", "created", "exists"]);
    create("mails"); // changes nothing

    let http = reqwest::Client::new();
    let call = async |action: &str, body: Value| sqs::call(&http, &endpoint, action, body).await;
    for queue in [&orders, &mails[0].1, &mails[1].1] {
        let body = json!({ "QueueUrl": queue, "AttributeNames": ["Policy"] });
        let attributes = call("GetQueueAttributes", body).await;
        assert!(attributes["Attributes"]["Policy"].as_str().unwrap().contains(&topic), "{queue}: {attributes}");
    }

    stores.set("TOPIC_ARN", &topic);
    let services = Services::start_on(stores, 1);
    let (placed, version) = services.users[0].place("1", &SAMPLE_ORDER, None).await;
    assert_is_bob(&services.users[0].client_at("1", version).await, "3000.00", 1, &placed["order"]["placedAt"]);

    let mut arrived = Vec::new();
    until("the other queue has the events", async || {
        let body = json!({ "QueueUrl": mails[0].1, "MaxNumberOfMessages": 10 });
        let received = call("ReceiveMessage", body).await;
        for message in received["Messages"].as_array().into_iter().flatten() {
            let event: Value = serde_json::from_str(message["Body"].as_str().unwrap()).unwrap();
            arrived.push(event["type"].as_str().unwrap().to_owned());
        }
        arrived.contains(&"orders.OrderPlaced.v1".to_owned())
    })
    .await;
    assert_eq!(arrived.iter().filter(|name| *name == "orders.OrderPlaced.v1").count(), 1, "{arrived:?}");
}
