//! The outbox relay: at least once, whatever the queue does.

use std::collections::{BTreeMap, BTreeSet};
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use api::commands::place_order::place;
use api::outbox::relay::{Pass, Queue, Relay};
use entity::{order_event, outbox};
use futures::future::join_all;
use iso_currency::Currency;
use read_model::Memory;
use sea_orm::{DatabaseConnection, EntityTrait, PaginatorTrait, QueryOrder, QuerySelect, TransactionTrait};
use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;
use winterbaume_core::{MockRequest, MockResponse, MockService};
use winterbaume_sqs::SqsService;

use crate::support::{ALL, Api, Db, command, postgres, queue, sqlite, until};

/// An SQS that refuses every third entry it is sent, and now and then a whole call.
struct Unreliable {
    sqs: SqsService,
    entries: AtomicUsize,
    calls: AtomicUsize,
}

impl MockService for Unreliable {
    fn service_name(&self) -> &str {
        self.sqs.service_name()
    }

    fn url_patterns(&self) -> Vec<&str> {
        self.sqs.url_patterns()
    }

    fn handle(&self, mut request: MockRequest) -> Pin<Box<dyn Future<Output = MockResponse> + Send + '_>> {
        Box::pin(async move {
            if request.headers.get("x-amz-target").is_none_or(|target| target != "AmazonSQS.SendMessageBatch") {
                return self.sqs.handle(request).await;
            }
            if self.calls.fetch_add(1, Ordering::SeqCst) % 4 == 1 {
                return MockResponse::json(400, r#"{"__type":"com.amazonaws.sqs#OverLimit","message":"no"}"#);
            }
            let mut body: Value = serde_json::from_slice(&request.body).unwrap();
            let mut refused = Vec::new();
            body["Entries"].as_array_mut().unwrap().retain(|entry| {
                let refuse = self.entries.fetch_add(1, Ordering::SeqCst) % 3 == 2;
                if refuse {
                    refused.push(json!({ "Id": entry["Id"], "Code": "InternalError", "SenderFault": false }));
                }
                !refuse
            });
            request.body = body.to_string().into();
            let mut answer = self.sqs.handle(request).await;
            let mut body: Value = serde_json::from_slice(&answer.body).unwrap();
            body["Failed"] = json!(refused);
            answer.body = body.to_string().into();
            answer
        })
    }
}

async fn place_orders(db: &DatabaseConnection, orders: usize) {
    let commands: Vec<_> = (0..orders).map(|n| command(n as i64 % 3 + 1, &[(1, 1)], None)).collect();
    place(db, Currency::USD, &commands).await.unwrap();
}

fn relay(db: &Db, queue: &Queue) -> Relay {
    Relay::new(db.connection.clone(), queue.clone()).0
}

/// How often each event arrived.
async fn arrived(queue: &Queue) -> BTreeMap<String, usize> {
    let mut ids = BTreeMap::new();
    loop {
        let received = queue.client.receive_message().queue_url(&queue.url).max_number_of_messages(10).send().await;
        let messages = received.unwrap().messages.unwrap_or_default();
        if messages.is_empty() {
            return ids;
        }
        for message in messages {
            let event: Value = serde_json::from_str(message.body().unwrap()).unwrap();
            *ids.entry(event["id"].as_str().unwrap().to_owned()).or_default() += 1;
        }
    }
}

async fn event_ids(db: &DatabaseConnection) -> BTreeSet<String> {
    order_event::Entity::find().all(db).await.unwrap().into_iter().map(|event| event.id.to_string()).collect()
}

async fn unpublished(db: &DatabaseConnection) -> u64 {
    outbox::Entity::find().count(db).await.unwrap()
}

#[tokio::test]
async fn what_the_queue_refuses_stays_in_the_outbox_until_it_is_taken() {
    for db in [sqlite().await, postgres().await] {
        let unreliable =
            Unreliable { sqs: SqsService::new(), entries: AtomicUsize::new(0), calls: AtomicUsize::new(0) };
        let queue = queue(unreliable).await;
        let relay = relay(&db, &queue);
        place_orders(&db.connection, 57).await;

        let first = relay.run_once().await.unwrap();
        assert!(first.published > 0 && first.problem.is_some(), "{first:?}");
        assert_eq!(unpublished(&db.connection).await, 57 - first.published as u64);
        let mut passes = 1;
        while relay.run_once().await.unwrap() != Pass::default() {
            passes += 1;
            assert!(passes < 50, "it never ends");
        }
        let arrived = arrived(&queue).await;
        assert!(arrived.keys().eq(event_ids(&db.connection).await.iter()), "{arrived:?}");
        assert!(arrived.values().all(|times| *times == 1), "nothing that was accepted is sent again: {arrived:?}");
    }
}

#[tokio::test]
async fn relays_side_by_side_share_the_work() {
    let db = postgres().await;
    let queue = queue(SqsService::new()).await;
    place_orders(&db.connection, 900).await;
    let relays: Vec<Relay> = (0..4).map(|_| relay(&db, &queue)).collect();
    join_all(relays.iter().map(|relay| async { while relay.run_once().await.unwrap() != Pass::default() {} })).await;
    assert_eq!(unpublished(&db.connection).await, 0);
    let arrived = arrived(&queue).await;
    assert!(arrived.keys().eq(event_ids(&db.connection).await.iter()));
    assert!(arrived.values().all(|times| *times == 1), "two relays sent the same event");
}

#[tokio::test]
async fn rows_that_another_relay_has_claimed_are_passed_over() {
    let db = postgres().await;
    let queue = queue(SqsService::new()).await;
    place_orders(&db.connection, 5).await;
    let other = db.connection.begin().await.unwrap();
    let oldest = outbox::Entity::find().order_by_asc(outbox::Column::EventId).limit(2).lock_exclusive();
    oldest.all(&other).await.unwrap();

    let pass = tokio::time::timeout(Duration::from_secs(10), relay(&db, &queue).run_once()).await;
    assert_eq!(pass.expect("it waits for the other").unwrap(), Pass { published: 3, ..Pass::default() });
    other.rollback().await.unwrap();
    assert_eq!(relay(&db, &queue).run_once().await.unwrap().published, 2, "what the other gave up is not lost");
}

/// An SQS that is down at first, and counts the calls that send.
struct Down(SqsService, Arc<AtomicBool>, Arc<AtomicUsize>);

impl MockService for Down {
    fn service_name(&self) -> &str {
        self.0.service_name()
    }

    fn url_patterns(&self) -> Vec<&str> {
        self.0.url_patterns()
    }

    fn handle(&self, request: MockRequest) -> Pin<Box<dyn Future<Output = MockResponse> + Send + '_>> {
        if request.headers.get("x-amz-target").is_some_and(|target| target == "AmazonSQS.SendMessageBatch") {
            self.2.fetch_add(1, Ordering::SeqCst);
            if self.1.load(Ordering::SeqCst) {
                return Box::pin(async { MockResponse::json(400, r#"{"__type":"OverLimit","message":"down"}"#) });
            }
        }
        self.0.handle(request)
    }
}

/// Neither while it is down nor when it is back.
#[tokio::test]
async fn an_outage_of_the_queue_ends_without_a_stampede() {
    let (is_down, calls) = (Arc::new(AtomicBool::new(true)), Arc::<AtomicUsize>::default());
    let db = postgres().await;
    let queue = queue(Down(SqsService::new(), is_down.clone(), calls.clone())).await;
    place_orders(&db.connection, 1_000).await;
    let shutdown = CancellationToken::new();
    let relays: Vec<_> = (0..4).map(|_| tokio::spawn(relay(&db, &queue).run(shutdown.clone()))).collect();
    until("it is noticed", async || calls.load(Ordering::SeqCst) >= 4).await;
    tokio::time::sleep(Duration::from_secs(3)).await;
    // Each relay's first pass makes 20 calls, the next one each, with pauses that double: ten of them at most in this time.
    let during = calls.load(Ordering::SeqCst);
    assert!((4..=4 * (20 + 10)).contains(&during), "{during} calls while it was down");

    is_down.store(false, Ordering::SeqCst);
    while unpublished(&db.connection).await > 0 {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    let after = calls.load(Ordering::SeqCst) - during;
    assert!(after <= 100 + 4 * 20, "{after} calls for a hundred batches");
    shutdown.cancel();
    for relay in relays {
        relay.await.unwrap();
    }
    let arrived = arrived(&queue).await;
    assert!(arrived.keys().eq(event_ids(&db.connection).await.iter()));
    assert!(arrived.values().all(|times| *times == 1), "what was refused was sent twice");
}

#[tokio::test]
async fn an_order_is_published_at_once() {
    let db = sqlite().await;
    let queue = queue(SqsService::new()).await;
    let api = Api::start_on(&db, Arc::new(Memory::default()), queue.clone(), &[]).await;
    let token = api.token(ALL, None);
    let mut delays = Vec::new();
    for _ in 0..9 {
        let order = "mutation { placeOrder(input: { clientId: \"1\", items: [{ productId: \"1\", quantity: 1 }] }) { replayed } }";
        api.graphql(&token, order, json!({})).await;
        let answered = Instant::now();
        while unpublished(&db.connection).await > 0 {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        delays.push(answered.elapsed());
    }
    delays.sort();
    assert!(delays[4] < Duration::from_millis(300), "it is only found by looking, seconds later: {delays:?}");
}

#[tokio::test]
async fn a_missing_queue_is_named_with_its_remedy() {
    let mut queue = queue(SqsService::new()).await;
    queue.check().await.unwrap();
    queue.url = queue.url.replace("orders", "nowhere");
    let error = queue.check().await.unwrap_err().to_string();
    assert!(error.contains("nowhere does not exist; `projector queues create`"), "{error}");

    let db = sqlite().await;
    place_orders(&db.connection, 3).await;
    let pass = relay(&db, &queue).run_once().await.unwrap();
    assert!(pass.published == 0 && pass.problem.is_some(), "{pass:?}");
    assert_eq!(unpublished(&db.connection).await, 3);
}
