//! The projector on an SQS and a Redis.

use std::future::{Future, IntoFuture};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use aws_sdk_sqs::Client;
use aws_sdk_sqs::types::QueueAttributeName;
use chrono::DateTime;
use entity::{Line, OrderPlaced, event, order_event};
use iso_currency::Currency;
use projector::consumer::{Batch, Consumer};
use projector::{health, queues, replay};
use read_model::{Memory, ReadModel, Redis};
use redis_test::server::RedisServer;
use reqwest::StatusCode;
use sea_orm::{ActiveModelTrait, Database, EntityTrait, IntoActiveModel};
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;
use winterbaume_core::{MockAws, MockRequest, MockResponse, MockService};
use winterbaume_sqs::SqsService;

fn row(client_id: i64, version: i32) -> order_event::Model {
    let lines = vec![Line { product_id: 1, name: "Computer".into(), unit_price: 150_000, quantity: 1 }];
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
        client_id,
        version,
        r#type: event::ORDER_PLACED.into(),
        payload: serde_json::to_value(order).unwrap(),
        occurred_at: DateTime::from_timestamp_millis(1_700_000_000_000).unwrap(),
        published_at: None,
        traceparent: None,
    }
}

async fn sqs() -> Client {
    Client::new(&MockAws::builder().with_service(SqsService::new()).build().sdk_config("us-east-1").await)
}

async fn consumer(read_model: Arc<dyn ReadModel>) -> (Consumer, String) {
    let queue = sqs().await;
    let [orders, dead_letters] = queues::create(&queue, "orders").await.unwrap();
    let consumer = Consumer::new(queue, orders.url, read_model, Currency::USD);
    (consumer, dead_letters.url)
}

async fn send(consumer: &Consumer, message: &str) {
    consumer.queue.send_message().queue_url(&consumer.queue_url).message_body(message).send().await.unwrap();
}

/// Messages there are, and of those the ones that have been received and not deleted.
async fn waiting(queue: &Client, url: &str) -> (u32, u32) {
    use QueueAttributeName::{ApproximateNumberOfMessages as Visible, ApproximateNumberOfMessagesNotVisible as Held};
    let answer = queue.get_queue_attributes().queue_url(url).attribute_names(QueueAttributeName::All).send();
    let attributes = answer.await.unwrap().attributes.unwrap();
    let number = |name| attributes[&name].parse::<u32>().unwrap();
    (number(Visible), number(Held))
}

async fn total(read_model: &dyn ReadModel, client: i64) -> i64 {
    read_model.clients(&[client]).await.unwrap().remove(0).map_or(0, |client| client.total)
}

/// The status of `/health/ready`.
async fn ready(consumer: &Consumer) -> StatusCode {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}/health/ready", listener.local_addr().unwrap());
    let server = tokio::spawn(axum::serve(listener, health::router(consumer.clone())).into_future());
    let status = reqwest::get(url).await.unwrap().status();
    server.abort();
    status
}

async fn until(mut condition: impl AsyncFnMut() -> bool) {
    let waited = tokio::time::timeout(Duration::from_secs(30), async {
        while !condition().await {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    });
    waited.await.expect("it never came true");
}

#[tokio::test]
async fn messages_are_applied_once_and_deleted() {
    let memory = Arc::new(Memory::default());
    let (consumer, _) = consumer(memory.clone()).await;
    let events = [row(1, 2), row(1, 1), row(2, 1), row(1, 2)];
    for event in &events {
        send(&consumer, &event.message()).await;
    }
    assert_eq!(consumer.run_once().await, Ok(Batch { applied: 4, refused: 0 }));
    assert_eq!(consumer.run_once().await, Ok(Batch::default()));
    assert_eq!((total(&*memory, 1).await, total(&*memory, 2).await), (300_000, 150_000));
    assert_eq!(waiting(&consumer.queue, &consumer.queue_url).await, (0, 0));
}

/// An SQS whose first call to delete messages fails.
struct KeepsOnce {
    sqs: SqsService,
    kept: AtomicBool,
}

impl MockService for KeepsOnce {
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
async fn a_message_that_could_not_be_deleted_comes_again_and_changes_nothing() {
    let memory = Arc::new(Memory::default());
    let keeps = KeepsOnce { sqs: SqsService::new(), kept: AtomicBool::new(false) };
    let queue = Client::new(&MockAws::builder().with_service(keeps).build().sdk_config("us-east-1").await);
    let [orders, _] = queues::create(&queue, "orders").await.unwrap();
    let consumer = Consumer::new(queue, orders.url, memory.clone(), Currency::USD);
    let at_once = consumer.queue.set_queue_attributes().queue_url(&consumer.queue_url);
    at_once.attributes(QueueAttributeName::VisibilityTimeout, "0").send().await.unwrap();

    send(&consumer, &row(1, 1).message()).await;
    for deliveries in [1, 1, 0] {
        assert_eq!(consumer.run_once().await, Ok(Batch { applied: deliveries, refused: 0 }));
        assert_eq!(total(&*memory, 1).await, 150_000);
    }
}

#[tokio::test]
async fn what_is_not_ours_goes_to_the_dead_letters_and_delays_nothing() {
    let memory = Arc::new(Memory::default());
    let (consumer, dead_letters) = consumer(memory.clone()).await;
    let at_once = consumer.queue.set_queue_attributes().queue_url(&consumer.queue_url);
    at_once.attributes(QueueAttributeName::VisibilityTimeout, "0").send().await.unwrap();

    let of_another_currency = row(3, 1).message().replace("USD", "EUR");
    for foreign in ["hello", "{}", &of_another_currency] {
        send(&consumer, foreign).await;
    }
    send(&consumer, &row(1, 1).message()).await;
    assert_eq!(consumer.run_once().await, Ok(Batch { applied: 1, refused: 3 }));
    assert_eq!(total(&*memory, 1).await, 150_000);
    for _ in 2..=5 {
        assert_eq!(consumer.run_once().await, Ok(Batch { applied: 0, refused: 3 }));
    }
    assert_eq!(consumer.run_once().await, Ok(Batch::default()), "five times are enough");
    assert_eq!(waiting(&consumer.queue, &consumer.queue_url).await, (0, 0));
    let received = consumer.queue.receive_message().queue_url(&dead_letters).max_number_of_messages(10).send().await;
    let bodies: Vec<String> =
        received.unwrap().messages.unwrap().into_iter().filter_map(|message| message.body).collect();
    assert_eq!(bodies, ["hello", "{}", &of_another_currency], "as they were sent");
}

#[tokio::test]
async fn while_redis_is_down_messages_are_held_and_none_are_received() {
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

#[tokio::test]
async fn queues_are_created_once_with_the_settings_that_matter() {
    let queue = sqs().await;
    let created = queues::create(&queue, "orders").await.unwrap();
    assert!(created.iter().all(|queue| queue.created), "{created:?}");
    assert_eq!([&*created[0].name, &*created[1].name], ["orders", "orders-dead-letters"]);
    let again = queues::create(&queue, "orders").await.unwrap();
    assert!(again.iter().all(|queue| !queue.created), "{again:?}");

    for created in &again {
        let answer = queue.get_queue_attributes().queue_url(&created.url).attribute_names(QueueAttributeName::All);
        let attributes = answer.send().await.unwrap().attributes.unwrap();
        assert_eq!(attributes[&QueueAttributeName::VisibilityTimeout], "30");
        assert_eq!(attributes[&QueueAttributeName::MessageRetentionPeriod], "1209600");
        assert_eq!(attributes[&QueueAttributeName::SqsManagedSseEnabled], "true");
    }
    let answer = queue.get_queue_attributes().queue_url(&again[0].url).attribute_names(QueueAttributeName::All);
    let policy = answer.send().await.unwrap().attributes.unwrap()[&QueueAttributeName::RedrivePolicy].clone();
    assert!(policy.contains("orders-dead-letters") && policy.contains("\"5\""), "{policy}");

    queues::check(&queue, &again[0].url).await.unwrap();
    let error = queues::check(&queue, "https://sqs.us-east-1.amazonaws.com/1/none").await.unwrap_err().to_string();
    assert!(error.contains("`projector queues create`"), "{error}");
}

#[tokio::test]
async fn replay_fills_an_empty_read_model_and_changes_nothing_in_a_full_one() {
    let mut options = sea_orm::ConnectOptions::new("sqlite::memory:");
    options.max_connections(1);
    let db = Database::connect(options).await.unwrap();
    migration::up(&db).await.unwrap();
    let rows = (1..=1_500).map(|version| row(1, version)).chain([row(2, 1)]);
    let rows: Vec<_> = rows.map(|row| row.into_active_model().reset_all()).collect();
    for rows in rows.chunks(500) {
        order_event::Entity::insert_many(rows.to_vec()).exec_without_returning(&db).await.unwrap();
    }
    let memory = Memory::default();
    for _ in 0..2 {
        assert_eq!(replay::replay(&db, &memory, Currency::USD).await.unwrap(), 1_501);
        let client = memory.clients(&[1]).await.unwrap().remove(0).unwrap();
        assert_eq!((client.order_count, client.version, client.total), (1_500, 1_500, 1_500 * 150_000));
    }
    assert!(replay::replay(&db, &Memory::default(), Currency::EUR).await.is_err());
}
