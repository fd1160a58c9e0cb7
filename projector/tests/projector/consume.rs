//! Receiving, applying and deleting messages.

use crate::support::*;
use aws_sdk_sqs::Client as Sqs;
use aws_sdk_sqs::types::QueueAttributeName;
use entity::Event;
use iso_currency::Currency;
use projector::consume::{Consumer, Processed, health};
use projector::queues;
use read_model::{Applied, Error, Memory, Projection, Queries, Redis};
use redis_test::server::RedisServer;
use reqwest::StatusCode;
use serde_json::{Value, json};
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;
use winterbaume_core::{MockAws, MockRequest, MockResponse, MockService};
use winterbaume_sqs::SqsService;

pub async fn total(read_model: &dyn Queries, client: i64) -> i64 {
    read_model.clients(&[client]).await.unwrap().remove(0).map_or(0, |client| client.total)
}

/// The status of `/health/ready`.
async fn ready(consumer: &Consumer) -> StatusCode {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}/health/ready", listener.local_addr().unwrap());
    let server = tokio::spawn(health::serve(listener, consumer.clone()));
    let status = reqwest::get(url).await.unwrap().status();
    server.abort();
    status
}

#[tokio::test]
async fn messages_are_applied_once_and_deleted() {
    let memory = Arc::new(Memory::default());
    let (consumer, _) = consumer(memory.clone()).await;
    let events = [row(1, 2), row(1, 1), row(2, 1), row(1, 2)];
    for event in &events {
        send(&consumer, &event.message()).await;
    }
    assert_eq!(consumer.run_once().await, Ok(Processed { applied: 4, refused: 0 }));
    assert_eq!(consumer.run_once().await, Ok(Processed::default()));
    assert_eq!((total(&*memory, 1).await, total(&*memory, 2).await), (300_000, 150_000));
    assert_eq!(waiting(&consumer.queue, &consumer.queue_url).await, (0, 0));
}

#[tokio::test]
async fn messages_in_the_envelopes_of_aws_are_applied() {
    let memory = Arc::new(Memory::default());
    let (consumer, _) = consumer(memory.clone()).await;
    let (notified, on_a_bus) = (row(1, 1).message(), row(1, 2).message());
    let detail: Value = serde_json::from_str(&on_a_bus).unwrap();
    let notification = json!({ "Type": "Notification", "Message": notified });
    let bus_event = json!({ "version": "0", "detail-type": "orders", "detail": detail });
    for message in [notification.to_string(), bus_event.to_string(), on_a_bus] {
        send(&consumer, &message).await;
    }
    assert_eq!(consumer.run_once().await, Ok(Processed { applied: 3, refused: 0 }));
    assert_eq!(total(&*memory, 1).await, 300_000);
}

/// An SQS whose first call to delete messages fails.
struct FailsToDeleteOnce {
    sqs: SqsService,
    kept: AtomicBool,
}

impl MockService for FailsToDeleteOnce {
    fn service_name(&self) -> &str {
        self.sqs.service_name()
    }

    fn url_patterns(&self) -> Vec<&str> {
        self.sqs.url_patterns()
    }

    fn handle(&self, request: MockRequest) -> Pin<Box<dyn Future<Output = MockResponse> + Send + '_>> {
        let deletes =
            request.headers.get("x-amz-target").is_some_and(|target| target == "AmazonSQS.DeleteMessageBatch");
        if deletes && !self.kept.swap(true, Ordering::SeqCst) {
            let failed = r#"{"Successful":[],"Failed":[{"Id":"0","Code":"InternalError","SenderFault":false}]}"#;
            return Box::pin(async move { MockResponse::json(200, failed) });
        }
        self.sqs.handle(request)
    }
}

#[tokio::test]
async fn a_message_that_cannot_be_deleted_is_delivered_again_and_changes_nothing() {
    let memory = Arc::new(Memory::default());
    let keeps = FailsToDeleteOnce { sqs: SqsService::new(), kept: AtomicBool::new(false) };
    let queue = Sqs::new(&MockAws::builder().with_service(keeps).build().sdk_config("us-east-1").await);
    let [orders, _] = queues::create(&queue, "orders").await.unwrap();
    let consumer = Consumer::new(queue, orders.url, memory.clone(), Currency::USD);
    let at_once = consumer.queue.set_queue_attributes().queue_url(&consumer.queue_url);
    at_once.attributes(QueueAttributeName::VisibilityTimeout, "0").send().await.unwrap();

    send(&consumer, &row(1, 1).message()).await;
    for deliveries in [1, 1, 0] {
        assert_eq!(consumer.run_once().await, Ok(Processed { applied: deliveries, refused: 0 }));
        assert_eq!(total(&*memory, 1).await, 150_000);
    }
}

#[tokio::test]
async fn foreign_messages_become_dead_letters_and_delay_nothing() {
    let memory = Arc::new(Memory::default());
    let (consumer, dead_letters) = consumer(memory.clone()).await;
    let at_once = consumer.queue.set_queue_attributes().queue_url(&consumer.queue_url);
    at_once.attributes(QueueAttributeName::VisibilityTimeout, "0").send().await.unwrap();

    let of_another_currency = row(3, 1).message().replace("USD", "EUR");
    for foreign in ["hello", "{}", &of_another_currency] {
        send(&consumer, foreign).await;
    }
    send(&consumer, &row(1, 1).message()).await;
    assert_eq!(consumer.run_once().await, Ok(Processed { applied: 1, refused: 3 }));
    assert_eq!(total(&*memory, 1).await, 150_000);
    for _ in 2..=5 {
        assert_eq!(consumer.run_once().await, Ok(Processed { applied: 0, refused: 3 }));
    }
    assert_eq!(consumer.run_once().await, Ok(Processed::default()), "five times are enough");
    assert_eq!(waiting(&consumer.queue, &consumer.queue_url).await, (0, 0));
    let received = consumer.queue.receive_message().queue_url(&dead_letters).max_number_of_messages(10).send().await;
    let bodies: Vec<String> =
        received.unwrap().messages.unwrap().into_iter().filter_map(|message| message.body).collect();
    assert_eq!(bodies, ["hello", "{}", &of_another_currency], "as they were sent");
}

#[tokio::test]
async fn while_redis_is_down_pollers_keep_their_messages_and_receive_none() {
    let mut server = RedisServer::new();
    let (host, port) = server.host_and_port().unwrap();
    let url = format!("redis://{host}:{port}");
    let up = || until(async || Redis::connect(&url, 16, Currency::USD).await.is_ok());
    up().await;
    let redis = Arc::new(Redis::connect(&url, 16, Currency::USD).await.unwrap());
    let (consumer, dead_letters) = consumer(redis.clone()).await;
    let shutdown = CancellationToken::new();
    let running = tokio::spawn(consumer.clone().run(2, shutdown.clone()));
    send(&consumer, &row(1, 1).message()).await;
    until(async || total(&*redis, 1).await == 150_000).await;

    assert_eq!(ready(&consumer).await, StatusCode::OK);
    let address = server.addr.clone();
    server.stop();
    assert_eq!(ready(&consumer).await, StatusCode::SERVICE_UNAVAILABLE);
    for version in 2..=60 {
        send(&consumer, &row(1, version).message()).await;
    }
    // A poller that was waiting takes one batch before it knows. Then, while they try Redis again and again, none does.
    let mut last = (0, 0);
    until(async || {
        let before = std::mem::replace(&mut last, waiting(&consumer.queue, &consumer.queue_url).await);
        before == last && last.1 > 0 && redis.ping().await.is_err()
    })
    .await;
    for _ in 0..20 {
        tokio::time::sleep(Duration::from_millis(100)).await;
        assert!(waiting(&consumer.queue, &consumer.queue_url).await.1 <= 20);
    }

    server = RedisServer::new_with_addr_and_modules(address, &[], false);
    up().await;
    until(async || waiting(&consumer.queue, &consumer.queue_url).await == (0, 0)).await;
    assert_eq!(ready(&consumer).await, StatusCode::OK);
    let client = redis.clients(&[1]).await.unwrap().remove(0).unwrap();
    assert_eq!((client.order_count, client.version), (59, 0), "version 1 was lost with the old Redis, nothing else");
    assert_eq!(waiting(&consumer.queue, &dead_letters).await, (0, 0));

    shutdown.cancel();
    running.await.unwrap().unwrap();
    drop(server);
}

/// A read model that is there or not.
pub struct Switchable(pub Memory, pub AtomicBool);

impl Switchable {
    fn check(&self) -> Result<(), Error> {
        if self.1.load(Ordering::SeqCst) { Err(Error::Unavailable("it is down".into())) } else { Ok(()) }
    }
}

#[async_trait::async_trait]
impl Projection for Switchable {
    async fn apply(&self, events: &[Event]) -> Vec<Result<Applied, Error>> {
        match self.check() {
            Ok(()) => self.0.apply(events).await,
            Err(error) => vec![Err(error); events.len()],
        }
    }

    async fn ping(&self) -> Result<(), Error> {
        self.check()
    }
}

/// An SQS that counts how often messages are asked for.
struct CountsReceives(SqsService, Arc<AtomicUsize>);

impl MockService for CountsReceives {
    fn service_name(&self) -> &str {
        self.0.service_name()
    }

    fn url_patterns(&self) -> Vec<&str> {
        self.0.url_patterns()
    }

    fn handle(&self, request: MockRequest) -> Pin<Box<dyn Future<Output = MockResponse> + Send + '_>> {
        if request.headers.get("x-amz-target").is_some_and(|target| target == "AmazonSQS.ReceiveMessage") {
            self.1.fetch_add(1, Ordering::SeqCst);
        }
        self.0.handle(request)
    }
}

/// By a clock that runs as fast as there is nothing to do.
#[tokio::test(start_paused = true)]
async fn an_outage_of_ten_minutes_costs_no_delivery() {
    let read_model = Arc::new(Switchable(Memory::default(), false.into()));
    let received = Arc::<AtomicUsize>::default();
    let counted = CountsReceives(SqsService::new(), received.clone());
    let queue = Sqs::new(&MockAws::builder().with_service(counted).build().sdk_config("us-east-1").await);
    let [orders, dead_letters] = queues::create(&queue, "orders").await.unwrap();
    let consumer = Consumer::new(queue, orders.url, read_model.clone(), Currency::USD);
    let shutdown = CancellationToken::new();
    let running = tokio::spawn(consumer.clone().run(4, shutdown.clone()));
    send(&consumer, &row(1, 1).message()).await;
    until(async || total(&read_model.0, 1).await == 150_000).await;

    read_model.1.store(true, Ordering::SeqCst);
    for version in 2..=100 {
        send(&consumer, &row(1, version).message()).await;
    }
    // Receive calls that had already started may still return messages.
    tokio::time::sleep(Duration::from_secs(25)).await;
    let before = received.load(Ordering::SeqCst);
    tokio::time::sleep(Duration::from_secs(600)).await;
    assert_eq!(received.load(Ordering::SeqCst), before, "messages are received that nobody can apply");
    assert_eq!(total(&read_model.0, 1).await, 150_000);
    let (visible, held) = waiting(&consumer.queue, &consumer.queue_url).await;
    assert!(visible + held == 99 && held <= 4 * 10, "{visible} wait, {held} are held");

    read_model.1.store(false, Ordering::SeqCst);
    let back = tokio::time::Instant::now();
    until(async || total(&read_model.0, 1).await == 100 * 150_000).await;
    assert!(back.elapsed() < Duration::from_secs(2), "all is applied {:?} after it is back", back.elapsed());
    shutdown.cancel();
    running.await.unwrap().unwrap();
    assert_eq!(waiting(&consumer.queue, &consumer.queue_url).await, (0, 0));
    assert_eq!(waiting(&consumer.queue, &dead_letters.url).await, (0, 0));
}
