//! The projector on an SQS and a Redis.

use std::future::{Future, IntoFuture};
use std::ops::ControlFlow;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use aws_sdk_sqs::Client as Sqs;
use aws_sdk_sqs::types::QueueAttributeName;
use chrono::{DateTime, Datelike, SubsecRound, Timelike, Utc};
use entity::Subject::{self, Client, Product};
use entity::{Event, Line, OrderPlaced, event, order, order_event, order_item, outbox};
use futures::{StreamExt, TryStreamExt};
use iso_currency::Currency;
use projector::consume::{Consumer, Processed, health};
use projector::queues::dead_letters::{Action, DeadLetter, DeadLetters, Verdict};
use projector::rebuild::{self, Phase, Rebuild};
use projector::sweep::Sweep;
use projector::verify::sums::WrongSum;
use projector::verify::{Difference, Finding, FirstMissed, Progress, Repair, Verifier};
use projector::{queues, replay};
use read_model::generations::{FORMAT, TransitionError};
use read_model::reports;
use read_model::{Applied, Error, Generations, Memory, ProjectedClient, Projection, Queries, ReadModel, Redis};
use redis_test::server::RedisServer;
use reqwest::StatusCode;
use sea_orm::{ActiveModelTrait, ConnectionTrait, Database, DatabaseConnection, EntityTrait, IntoActiveModel};
use serde_json::json;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;
use winterbaume_core::{MockAws, MockRequest, MockResponse, MockService};
use winterbaume_sqs::SqsService;

fn row(client_id: i64, version: i32) -> order_event::Model {
    row_of(client_id, version, 1)
}

fn row_of(client_id: i64, version: i32, lines: usize) -> order_event::Model {
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
    }
}

async fn sqs() -> Sqs {
    Sqs::new(&MockAws::builder().with_service(SqsService::new()).build().sdk_config("us-east-1").await)
}

async fn consumer(read_model: Arc<dyn Projection>) -> (Consumer, String) {
    let queue = sqs().await;
    let [orders, dead_letters] = queues::create(&queue, "orders").await.unwrap();
    let consumer = Consumer::new(queue, orders.url, read_model, Currency::USD);
    (consumer, dead_letters.url)
}

async fn send(consumer: &Consumer, message: &str) {
    consumer.queue.send_message().queue_url(&consumer.queue_url).message_body(message).send().await.unwrap();
}

/// Messages there are, and of those the ones that have been received and not deleted.
async fn waiting(queue: &Sqs, url: &str) -> (u32, u32) {
    use QueueAttributeName::{ApproximateNumberOfMessages as Visible, ApproximateNumberOfMessagesNotVisible as Held};
    let answer = queue.get_queue_attributes().queue_url(url).attribute_names(QueueAttributeName::All).send();
    let attributes = answer.await.unwrap().attributes.unwrap();
    let number = |name| attributes[&name].parse::<u32>().unwrap();
    (number(Visible), number(Held))
}

async fn total(read_model: &dyn Queries, client: i64) -> i64 {
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
    assert_eq!(consumer.run_once().await, Ok(Processed { applied: 4, refused: 0 }));
    assert_eq!(consumer.run_once().await, Ok(Processed::default()));
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

/// A read model that is there or not.
struct Switched(Memory, AtomicBool);

impl Switched {
    fn check(&self) -> Result<(), Error> {
        if self.1.load(Ordering::SeqCst) { Err(Error::Unavailable("it is down".into())) } else { Ok(()) }
    }
}

#[async_trait::async_trait]
impl Projection for Switched {
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
struct Counted(SqsService, Arc<AtomicUsize>);

impl MockService for Counted {
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
async fn ten_minutes_without_a_read_model_cost_no_delivery() {
    let read_model = Arc::new(Switched(Memory::default(), false.into()));
    let received = Arc::<AtomicUsize>::default();
    let counted = Counted(SqsService::new(), received.clone());
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
    // Those who were asking already are answered.
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

/// A database with three clients and products that have no events.
async fn database() -> DatabaseConnection {
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
enum Outbox {
    Pending,
    Published,
}

/// Writes what placing orders writes; the events are still in the outbox, or published.
async fn place(db: &DatabaseConnection, events: &[order_event::Model], outbox: Outbox) {
    for event in events {
        let placed: OrderPlaced = serde_json::from_value(event.payload.clone()).unwrap();
        let order = order::Model {
            id: placed.order_id,
            client_id: placed.client_id,
            version: event.version,
            placed_at: event.occurred_at,
            total: placed.total,
            idempotency_key: None,
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

async fn redis() -> (RedisServer, Redis, String) {
    let server = RedisServer::new();
    let (host, port) = server.host_and_port().unwrap();
    let url = format!("redis://{host}:{port}");
    loop {
        match Redis::connect(&url, 16, Currency::USD).await {
            Ok(redis) => return (server, redis, url),
            Err(_) => tokio::time::sleep(Duration::from_millis(10)).await,
        }
    }
}

async fn command(url: &str, command: &[&str]) {
    let client = ::redis::Client::open(url).unwrap();
    let mut connection = client.get_multiplexed_async_connection().await.unwrap();
    let mut request = ::redis::cmd(command[0]);
    let () = request.arg(&command[1..]).query_async(&mut connection).await.unwrap();
}

fn events(rows: &[order_event::Model]) -> Vec<Event> {
    rows.iter().map(|row| Event::from_row(row.clone(), "USD").unwrap()).collect()
}

async fn verifier(repair: Repair) -> (RedisServer, String, Verifier) {
    let (server, read_model, url) = redis().await;
    let in_flight = Duration::ZERO;
    (server, url, Verifier { db: database().await, read_model, currency: Currency::USD, in_flight, repair })
}

/// All that differs, clients that the database does not have among it.
async fn differences(verifier: &Verifier) -> Vec<(Subject, Difference)> {
    let mut findings = Vec::new();
    let each = |step: Progress| {
        findings.extend(step.findings);
        ControlFlow::Continue(())
    };
    verifier.all(0, each).await.unwrap();
    for Finding { difference, repaired, .. } in &findings {
        let is_unknown = matches!(difference, Difference::Orphaned { .. });
        let expected = verifier.repair >= if is_unknown { Repair::RemoveOrphans } else { Repair::FromLog };
        assert_eq!(*repaired, expected, "{difference}");
    }
    findings.into_iter().map(|finding| (finding.subject, finding.difference)).collect()
}

#[tokio::test]
async fn verify_names_every_difference_and_repairs_it() {
    let (_server, url, mut verifier) = verifier(Repair::Off).await;
    let rows: Vec<_> = (1..=3).flat_map(|client| (1..=4).map(move |version| row(client, version))).collect();
    place(&verifier.db, &rows, Outbox::Published).await;
    let missing = |client| (Client(client), Difference::Missing { events: 4 });
    assert_eq!(differences(&verifier).await, [missing(1), missing(2), missing(3)]);

    // An event that is in the outbox, or that left it recently, is on its way.
    let young = [row(1, 5), order_event::Model { occurred_at: Utc::now().trunc_subsecs(3), ..row(2, 5) }];
    assert_eq!(verifier.unpublished().await.unwrap(), (0, None));
    place(&verifier.db, &young[..1], Outbox::Pending).await;
    assert_eq!(verifier.unpublished().await.unwrap(), (1, Some(young[0].occurred_at)));
    place(&verifier.db, &young[1..], Outbox::Published).await;
    verifier.read_model.apply(&events(&rows)).await;
    assert_eq!(differences(&verifier).await, [(Client(2), Difference::Behind { events: 1, version: 4 })]);
    // It arrives while the comparison waits for it, and twice.
    verifier.in_flight = Duration::from_millis(500);
    let arrives = async {
        tokio::time::sleep(Duration::from_millis(100)).await;
        verifier.read_model.apply(&events(&[young[1].clone(), young[1].clone()])).await;
    };
    assert_eq!(tokio::join!(differences(&verifier), arrives).0, []);
    verifier.in_flight = Duration::ZERO;
    assert_eq!(differences(&verifier).await, []);

    let key = |client: i64| format!("orders:{{p{client}}}:g1:client:{client}");
    command(&url, &["DEL", &key(1)]).await;
    verifier.read_model.apply(&events(&[rows[0].clone(), rows[3].clone()])).await;
    command(&url, &["HINCRBY", &key(2), "total", "1"]).await;
    command(&url, &["HSET", &key(3), "orders", "many"]).await;
    verifier.read_model.apply(&events(&[row(99, 1)])).await;
    let total = 5 * 150_000;
    let found = differences(&verifier).await;
    assert_eq!(found[0], (Client(1), Difference::Behind { events: 2, version: 1 }));
    let (orders, orders_expected) = (5, 5);
    let differs = Difference::WrongTotal { orders, orders_expected, total: total + 1, total_expected: total };
    assert_eq!(found[1], (Client(2), differs));
    assert!(matches!(&found[2], (Client(3), Difference::Damaged { why }) if why.contains("orders")), "{found:?}");
    assert_eq!(found[3..], [(Client(99), Difference::Orphaned { version: 1 })]);

    verifier.repair = Repair::FromLog;
    assert_eq!(differences(&verifier).await, found);
    assert_eq!(differences(&verifier).await, found[3..], "nothing is taken back without being asked");
    verifier.repair = Repair::RemoveOrphans;
    assert_eq!(differences(&verifier).await, found[3..]);
    assert_eq!(differences(&verifier).await, []);
    let clients = verifier.read_model.clients(&[1, 2, 3, 99]).await.unwrap();
    let told: Vec<_> =
        clients.iter().map(|client| client.as_ref().map(|c| (c.version, c.order_count, c.total))).collect();
    // What was on its way has been applied as well: the log has it.
    assert_eq!(told, [Some((5, 5, total)), Some((5, 5, total)), Some((4, 4, 4 * 150_000)), None]);

    // The database was restored from an old copy: what it does not have any more is taken back.
    verifier.read_model.apply(&events(&[row(3, 5), row(3, 7)])).await;
    assert_eq!(differences(&verifier).await, [(Client(3), Difference::Orphaned { version: 7 })]);
    assert_eq!(differences(&verifier).await, []);

    // Clients of a partition whose rankings are lost are ranked anew, also where something else is in their place.
    for (partition, id, damage) in [(1, 1, "DEL"), (2, 2, "SET")] {
        let rankings = ["total", "last"].map(|name| format!("orders:{{p{partition}}}:g1:rank:{name}"));
        command(&url, &["DEL", &rankings[0], &rankings[1]]).await;
        if damage == "SET" {
            command(&url, &["SET", &rankings[0], "damaged"]).await;
        }
        assert_eq!(differences(&verifier).await, [(Client(id), Difference::Misranked)]);
        assert_eq!(differences(&verifier).await, []);
    }

    // What is damaged beyond reading, and what the log itself cannot mend, keeps no other from being repaired.
    command(&url, &["HSET", &key(1), "newest", "999999999999"]).await;
    command(&url, &["HINCRBY", &key(2), "total", "1"]).await;
    command(&url, &["HINCRBY", &key(3), "total", "1"]).await;
    verifier.db.execute_unprepared("UPDATE order_events SET type = 'other' WHERE client_id = 2").await.unwrap();
    let page = verifier.next_clients(0, &mut FirstMissed::default()).await.unwrap().unwrap();
    let repaired: Vec<_> = page.findings.iter().map(|finding| (finding.subject, finding.repaired)).collect();
    assert_eq!(repaired, [(Client(1), true), (Client(2), false), (Client(3), true)]);
}

/// An event of the same of a client or a product.
fn told(subject: Subject, version: i32, name: &str) -> order_event::Model {
    let (r#type, client_id, product_id, payload) = match subject {
        Client(id) => {
            let data = json!({ "clientId": id, "clientName": name, "clientEmail": "bob@anemailprovider.com" });
            (event::CLIENT_UPDATED, Some(id), None, data)
        }
        Product(id) => {
            let data = json!({ "productId": id, "name": name, "price": 5 * version, "currency": "USD" });
            (event::PRICE_CHANGED, None, Some(id), data)
        }
    };
    order_event::Model { r#type: r#type.into(), client_id, product_id, payload, ..row(1, version) }
}

#[tokio::test]
async fn verify_compares_what_clients_and_products_are_called_and_cost() {
    let (_server, url, mut verifier) = verifier(Repair::Off).await;
    let rows = [
        told(Client(1), 1, "Robert"),
        told(Client(1), 2, "Bob"),
        told(Product(1), 1, "Computer"),
        told(Product(2), 1, "Phone"),
        told(Product(3), 1, "TV"),
        told(Product(3), 2, "TV"),
    ];
    for row in rows.clone() {
        order_event::Entity::insert(row.into_active_model().reset_all())
            .exec_without_returning(&verifier.db)
            .await
            .unwrap();
    }
    for raise in [
        "clients SET version = 2 WHERE id = 1",
        "products SET version = 1, price = 5",
        "products SET version = 2 WHERE id = 3",
    ] {
        verifier.db.execute_unprepared(&format!("UPDATE {raise}")).await.unwrap();
    }
    let missing = |subject, events| (subject, Difference::Missing { events });
    let all = [missing(Client(1), 2), missing(Product(1), 1), missing(Product(2), 1), missing(Product(3), 2)];
    assert_eq!(differences(&verifier).await, all);
    // A client without orders is right when it has what its events say; so is one whose row somebody changed by hand.
    verifier.read_model.apply(&events(&rows[..5])).await;
    verifier.db.execute_unprepared("UPDATE clients SET name = 'By hand' WHERE id = 1").await.unwrap();
    assert_eq!(differences(&verifier).await, [(Product(3), Difference::Behind { events: 1, version: 1 })]);

    command(&url, &["HSET", "orders:{p1}:g1:client:1", "name", "Eve"]).await;
    command(&url, &["HSET", "orders:{p1}:g1:catalogue", "1", "1 4 Computer"]).await;
    command(&url, &["HSET", "orders:{p2}:g1:catalogue", "2", "many"]).await;
    verifier.read_model.apply(&events(&[told(Product(9), 1, "Nobody's")])).await;
    let found = differences(&verifier).await;
    assert_eq!(found[..2], [(Client(1), Difference::WrongDetails), (Product(1), Difference::WrongDetails)]);
    assert!(matches!(&found[2], (Product(2), Difference::Damaged { .. })), "{found:?}");
    let unknown = (Product(9), Difference::Orphaned { version: 1 });
    assert_eq!(found[3..], [(Product(3), Difference::Behind { events: 1, version: 1 }), unknown.clone()]);

    verifier.repair = Repair::FromLog;
    assert_eq!(differences(&verifier).await, found);
    assert_eq!(
        differences(&verifier).await,
        std::slice::from_ref(&unknown),
        "nothing is taken back without being asked"
    );
    verifier.repair = Repair::RemoveOrphans;
    assert_eq!(differences(&verifier).await, [unknown]);
    command(&url, &["DEL", "orders:{p3}:g1:catalogue"]).await;
    command(&url, &["SET", "orders:{p3}:g1:catalogue", "damaged"]).await;
    assert!(matches!(&differences(&verifier).await[..], [(Product(3), Difference::Damaged { .. })]));
    assert_eq!(differences(&verifier).await, []);
    let products = verifier.read_model.products(&[1, 2, 3, 9]).await.unwrap();
    let prices: Vec<_> = products.iter().map(|product| product.as_ref().map(|product| product.price)).collect();
    assert_eq!(prices, [Some(5), Some(5), Some(10), None]);
    assert_eq!(verifier.read_model.clients(&[1]).await.unwrap()[0].as_ref().unwrap().name, "Bob");
}

/// All sums that are wrong, as they are told.
async fn wrong_sums(verifier: &Verifier) -> Vec<String> {
    let mut all = Vec::new();
    let each = |wrong: Vec<WrongSum>| {
        all.extend(wrong.iter().map(ToString::to_string));
        ControlFlow::Continue(())
    };
    verifier.sums(each).await.unwrap();
    all
}

#[tokio::test]
async fn verify_names_every_wrong_sum() {
    let (_server, url, mut verifier) = verifier(Repair::Off).await;
    verifier.in_flight = Duration::ZERO;
    assert_eq!(wrong_sums(&verifier).await, Vec::<String>::new());
    let at = |text: &str| DateTime::parse_from_rfc3339(text).unwrap().to_utc();
    let now = Utc::now();
    let times = [at("2024-02-29T23:59:59.999Z"), at("2024-03-01T00:00:00Z"), now, now, now - chrono::Days::new(40)];
    let rows: Vec<_> =
        (1..).zip(times).map(|(version, time)| order_event::Model { occurred_at: time, ..row(1, version) }).collect();
    place(&verifier.db, &rows, Outbox::Published).await;
    let late = wrong_sums(&verifier).await;
    assert!(late.contains(&"2024-02-29           wrong sum: 0 for 0 orders, expected 150000 for 1".to_owned()));
    assert!(late.contains(&"2024-02 product 1    wrong sum: 0 for 0 units, expected 150000 for 1".to_owned()));

    // An event that is in the outbox is on its way.
    verifier.in_flight = Duration::from_secs(60);
    verifier.db.execute_unprepared("INSERT INTO outbox SELECT id FROM order_events").await.unwrap();
    assert_eq!(wrong_sums(&verifier).await, Vec::<String>::new());
    verifier.db.execute_unprepared("DELETE FROM outbox").await.unwrap();
    // So is one that left it recently. It arrives while the comparison waits for it.
    verifier.in_flight = Duration::from_millis(500);
    let arrives = async {
        tokio::time::sleep(Duration::from_millis(100)).await;
        assert_eq!(verifier.read_model.apply(&events(&rows)).await.len(), rows.len());
    };
    assert_eq!(tokio::join!(wrong_sums(&verifier), arrives).0, Vec::<String>::new());
    // A sum that is too large is wrong at once.
    verifier.in_flight = Duration::from_secs(60);
    let (day, hour) = (now.format("%Y-%m-%d"), now.format("%Y-%m-%dT%H"));
    let key = |name: String| format!("orders:{{p1}}:g1:{name}");
    let cell = format!("#{}", 2 * now.ordinal0());
    command(&url, &["BITFIELD", &key(now.format("days:%Y").to_string()), "INCRBY", "i64", &cell, "1"]).await;
    let expected = format!("{day}           wrong sum: 300001 for 2 orders, expected 300000 for 2");
    assert_eq!(wrong_sums(&verifier).await, [expected]);
    command(&url, &["BITFIELD", &key(now.format("days:%Y").to_string()), "INCRBY", "i64", &cell, "-1"]).await;
    let cell = format!("#{}", 2 * (now.day0() * 24 + now.hour()) + 1);
    command(&url, &["BITFIELD", &key(now.format("hours:%Y-%m").to_string()), "INCRBY", "i64", &cell, "1"]).await;
    let expected = format!("{hour}        wrong sum: 300000 for 3 orders, expected 300000 for 2");
    assert_eq!(wrong_sums(&verifier).await, [expected]);
    command(&url, &["BITFIELD", &key(now.format("hours:%Y-%m").to_string()), "INCRBY", "i64", &cell, "-1"]).await;
    command(&url, &["HINCRBY", &key(format!("products:{day}")), "2:units", "7"]).await;
    let expected = format!("{day} product 2 wrong sum: 0 for 7 units, expected 0 for 0");
    assert_eq!(wrong_sums(&verifier).await, [expected]);
    command(&url, &["HDEL", &key(format!("products:{day}")), "2:units"]).await;
    assert_eq!(wrong_sums(&verifier).await, Vec::<String>::new());
}

#[tokio::test]
async fn a_repair_never_takes_back_what_is_applied_meanwhile() {
    let (_server, _, verifier) = verifier(Repair::FromLog).await;
    let rows: Vec<_> = (1..=2).map(|version| row(1, version)).collect();
    verifier.read_model.apply(&events(&rows)).await;
    let projected = async || verifier.read_model.projected_clients(&[1]).await.unwrap().remove(0).unwrap().unwrap();
    let (newest, log) = (verifier.read_model.newest_version(1).await.unwrap(), projected().await);
    verifier.read_model.apply(&events(&[row(1, 3)])).await;
    assert!(!verifier.read_model.replace_client(&log, &newest).await.unwrap(), "version 3 is not in that log");
    assert!(!verifier.read_model.replace_client(&ProjectedClient::new(1), &newest).await.unwrap());
    assert_eq!(projected().await.client.version, 3);
    let (newest, log) = (verifier.read_model.newest_version(1).await.unwrap(), projected().await);
    assert!(verifier.read_model.replace_client(&log, &newest).await.unwrap());
    assert_eq!(projected().await, log);
    assert!(verifier.read_model.replace_client(&ProjectedClient::new(1), &newest).await.unwrap());
    assert_eq!(verifier.read_model.clients(&[1]).await.unwrap(), [None]);
}

#[tokio::test]
async fn a_rebuild_can_be_interrupted_gone_on_with_and_put_back() {
    let (_server, url, verifier) = verifier(Repair::RemoveOrphans).await;
    let rows: Vec<_> = (1..=3).flat_map(|client| (1..=4).map(move |version| row(client, version))).collect();
    place(&verifier.db, &rows, Outbox::Published).await;
    verifier.read_model.apply(&events(&rows)).await;
    let fields = ["name", "x", "email", "x", "total", "150000", "orders", "1", "newest", "1", "version", "1"];
    command(&url, &[&["HSET", "orders:{p3}:g1:client:99"], &fields[..]].concat()).await;
    command(&url, &["HINCRBY", "orders:{p2}:g1:client:2", "total", "7"]).await;
    let redis = verifier.read_model.clone();
    let totals = async |redis: &Redis| {
        let clients = redis.clients(&[1, 2, 3, 99]).await.unwrap();
        clients.into_iter().map(|client| client.map_or(0, |client| client.total)).collect::<Vec<_>>()
    };
    let right = [600_000, 600_000, 600_000, 0];
    let wrong = [600_000, 600_007, 600_000, 150_000];
    let rebuild = Rebuild { verifier, keep: Duration::from_secs(60) };

    let all_replayed =
        |step| if step == Phase::Replayed(12) { ControlFlow::Break(()) } else { ControlFlow::Continue(()) };
    let interrupted = rebuild.start(all_replayed).await.unwrap_err();
    assert!(interrupted.is::<rebuild::Interrupted>(), "{interrupted}");
    let building = redis.generations().await.unwrap().building().unwrap();
    assert_eq!(
        (totals(&redis).await, redis.pinned_to(building).rebuild_position().await.unwrap().is_some()),
        (wrong.to_vec(), true)
    );
    let mut progress = Vec::new();
    let generation = rebuild.start(|step| {
        progress.push(step);
        ControlFlow::Continue(())
    });
    assert_eq!(generation.await.unwrap(), building);
    assert!(progress.iter().all(|step| *step == Phase::Compared(3)), "the log had been replayed: {progress:?}");
    assert_eq!((totals(&redis).await, totals(&redis.pinned_to(1)).await), (right.to_vec(), wrong.to_vec()));

    // What was live gets what happens meanwhile, and is made right before it is read again.
    let more = [row(1, 5)];
    place(&rebuild.verifier.db, &more, Outbox::Published).await;
    redis.apply(&events(&more)).await;
    // Also when an older release made it, which knew of no sums.
    let older = |generations: &mut Generations, _| {
        generations.generations.get_mut(&1).unwrap().format = FORMAT - 1;
    };
    redis.change_generations(older).await.unwrap();
    assert_eq!(rebuild.roll_back(|_| ControlFlow::Continue(())).await.unwrap(), 1);
    assert_eq!(redis.generations().await.unwrap().live(), 1);
    assert_eq!(totals(&redis).await, [750_000, 600_000, 600_000, 0]);
    assert!(!redis.has_reports().await.unwrap());
    let refused = reports::latest_orders(&redis, 10).await.unwrap_err();
    assert!(refused.to_string().contains("`projector rebuild` makes it anew"), "{refused}");

    // What lacks in its sums alone is found as well, and not made live.
    let when_replayed = |step| match step {
        Phase::Replayed(_) => ControlFlow::Continue(()),
        Phase::Compared(_) => ControlFlow::Break(()),
    };
    assert!(rebuild.start(when_replayed).await.is_err());
    let building = redis.generations().await.unwrap().building().unwrap();
    assert!(
        redis.pinned_to(building).rebuild_position().await.unwrap().is_some(),
        "the log need not be replayed again"
    );
    command(&url, &["DEL", &format!("orders:{{p1}}:g{building}:products:2023-11")]).await;
    let error = rebuild.start(|_| ControlFlow::Continue(())).await.unwrap_err();
    assert!(
        error.to_string().contains("still differs from the database after 5 comparisons: 2023-11 product 1"),
        "{error}"
    );
    redis.change_generations(Generations::abort).await.unwrap().unwrap();

    // What cannot be made right is not made live.
    rebuild.verifier.db.execute_unprepared("UPDATE order_events SET type = 'other' WHERE client_id = 2").await.unwrap();
    let error = rebuild.start(|_| ControlFlow::Continue(())).await.unwrap_err();
    assert!(error.to_string().contains("is invalid"), "{error}");
    assert_eq!(redis.generations().await.unwrap().live(), 1);
    redis.change_generations(Generations::abort).await.unwrap().unwrap();
    assert_eq!(redis.change_generations(Generations::abort).await.unwrap(), Err(TransitionError::NotBuilding));
    redis.change_generations(Generations::discard).await.unwrap().unwrap();
    redis.change_generations(|generations, now| generations.expire(now + 10_000)).await.unwrap();
    let error = rebuild.roll_back(|_| ControlFlow::Continue(())).await.unwrap_err();
    assert_eq!(error.to_string(), "there is no previous generation");
}

#[tokio::test]
async fn the_sweep_heals_what_was_lost_without_being_asked() {
    let (_server, url, mut verifier) = verifier(Repair::FromLog).await;
    verifier.in_flight = Duration::from_millis(100);
    let rows: Vec<_> = (1..=3).flat_map(|client| (1..=4).map(move |version| row(client, version))).collect();
    place(&verifier.db, &rows, Outbox::Published).await;
    verifier.read_model.apply(&events(&rows)).await;
    let mut sweep = Sweep::new(verifier, Duration::from_millis(1), Arc::default());
    assert_eq!(sweep.run_once().await.unwrap(), []);

    command(&url, &["FLUSHALL"]).await;
    let shutdown = CancellationToken::new();
    let running = tokio::spawn(sweep.run(shutdown.clone()));
    let read_model = Redis::connect(&url, 16, Currency::USD).await.unwrap();
    until(async || {
        let clients = read_model.clients(&[1, 2, 3]).await.unwrap();
        clients.iter().all(|client| client.as_ref().is_some_and(|client| client.total == 4 * 150_000))
    })
    .await;
    shutdown.cancel();
    running.await.unwrap();
}

#[tokio::test]
async fn clients_that_changed_lately_come_first_and_stay_until_they_are_complete() {
    let (_server, _, mut verifier) = verifier(Repair::Off).await;
    let id = |seconds_ago: i64| {
        Uuid::from_u128(
            ((Utc::now().timestamp_millis() - seconds_ago * 1_000) as u128) << 80 | u128::from(rand::random::<u64>()),
        )
    };
    let old = order_event::Model { id: id(3_600), ..row(1, 1) };
    let lately = order_event::Model { id: id(100), ..row(2, 1) };
    let delayed = order_event::Model { id: id(100), ..row(3, 1) };
    place(&verifier.db, &[old, lately], Outbox::Published).await;
    place(&verifier.db, &[delayed], Outbox::Pending).await;
    let mut changed = verifier.changed_between(id(200), id(60)).await.unwrap();
    changed.sort();
    assert_eq!(changed, [Client(2), Client(3)]);
    let mut first_missed = FirstMissed::default();
    assert_eq!(verifier.subjects(&changed, &mut first_missed).await.unwrap().len(), 1);
    assert_eq!(first_missed.missed_for(Duration::ZERO), [Client(3)], "it is in the outbox");
    // Published long after it happened, and lost then.
    verifier.db.execute_unprepared("DELETE FROM outbox").await.unwrap();
    verifier.repair = Repair::FromLog;
    assert_eq!(verifier.subjects(&[Client(3)], &mut first_missed).await.unwrap().len(), 1);
}

#[tokio::test]
async fn dead_letters_are_judged_redriven_and_discarded() {
    let (_server, read_model, url) = redis().await;
    let memory: Arc<dyn ReadModel> = Arc::new(Memory::default());
    let (consumer, dead_letters_url) = consumer(memory).await;
    let bury = async |body: &str| {
        let request = consumer.queue.send_message().queue_url(&dead_letters_url).message_body(body);
        request.send().await.unwrap().message_id.unwrap()
    };
    read_model.apply(&events(&[row(1, 1)])).await;
    command(&url, &["SET", "orders:{p3}:g1:client:3", "damaged"]).await;
    let superseded = bury(&row(1, 1).message()).await;
    let needed = bury(&row(1, 2).message()).await;
    let damaged = bury(&row(3, 1).message()).await;
    let foreign = bury("not an event").await;
    let many: Vec<String> = futures::future::join_all((10..40).map(async |n| bury(&row(n, 1).message()).await)).await;

    let of = (consumer.queue.clone(), consumer.queue_url.clone());
    let mut letters = DeadLetters::of(of.0, of.1, read_model, Currency::USD).await.unwrap();
    for _ in 0..2 {
        // Twice: what was looked at is there again.
        let mut verdicts = std::collections::HashMap::new();
        let judge =
            |letter: &DeadLetter| drop(verdicts.insert(letter.id.clone(), (letter.verdict, letter.why.clone())));
        letters.list(judge).await.unwrap();
        assert_eq!(letters.close().await.unwrap(), 0);
        assert_eq!(verdicts.len(), 34);
        assert_eq!(verdicts[&superseded].0, Verdict::Superseded);
        assert_eq!(verdicts[&needed].0, Verdict::Needed);
        assert!(verdicts[&damaged].0 == Verdict::Needed && verdicts[&damaged].1.contains("WRONGTYPE"), "{verdicts:?}");
        assert!(verdicts[&foreign].0 == Verdict::Foreign && verdicts[&foreign].1.contains("not a CloudEvent"));
    }

    let mut act = async |action, ids: &[&String]| {
        let (mut done, mut kept) = (Vec::new(), Vec::new());
        let ids = ids.iter().map(|id| id.to_string()).collect();
        let each =
            |letter: &DeadLetter, is_done: bool| if is_done { &mut done } else { &mut kept }.push(letter.id.clone());
        let missing = letters.act(action, ids, each).await.unwrap();
        letters.close().await.unwrap();
        done.sort();
        kept.sort();
        (done, kept, missing)
    };
    let sorted = |mut ids: Vec<String>| {
        ids.sort();
        ids
    };
    let unknown = "no-such-id".to_owned();
    assert_eq!(act(Action::Redrive, &[&many[7], &unknown]).await, (vec![many[7].clone()], vec![], vec![unknown]));
    assert_eq!(waiting(&consumer.queue, &consumer.queue_url).await, (1, 0));
    // Of all, what is needed is not discarded, and what is foreign not sent again.
    let (done, kept, _) = act(Action::Discard, &[]).await;
    assert_eq!((done, kept.len()), (sorted(vec![superseded, foreign.clone()]), 31));
    bury("not an event").await;
    let (done, kept, _) = act(Action::Redrive, &[]).await;
    assert_eq!((done.len(), kept.len()), (31, 1));
    assert_eq!(waiting(&consumer.queue, &consumer.queue_url).await, (32, 0));
    assert_eq!(act(Action::Discard, &[&kept[0]]).await.0, kept);
    assert_eq!(waiting(&consumer.queue, &dead_letters_url).await, (0, 0));
}

#[tokio::test]
async fn a_replay_can_be_continued() {
    let db = database().await;
    // A page ends with a hundred thousand lines.
    let mut rows: Vec<_> = (1..=1_000).map(|version| row_of(1, version, 100)).collect();
    rows.extend((1_001..=2_000).map(|version| row(1, version)).chain([row(2, 1)]));
    for rows in rows.chunks(500) {
        let rows = rows.iter().map(|row| row.clone().into_active_model().reset_all());
        order_event::Entity::insert_many(rows).exec_without_returning(&db).await.unwrap();
    }
    let replayed = async |memory: &Memory, after: Option<Uuid>, steps: usize| {
        let steps = replay::replay(&db, memory, Currency::USD, after).take(steps).try_collect::<Vec<_>>();
        *steps.await.unwrap().last().unwrap()
    };
    let memory = Memory::default();
    let first = replayed(&memory, None, 1).await;
    let rest = replayed(&memory, Some(first.last), 9).await;
    assert_eq!((first.events, first.events + rest.events), (1_000, 2_001));
    let clients = memory.clients(&[1, 2]).await.unwrap();
    assert_eq!(clients.into_iter().map(|client| client.unwrap().version).collect::<Vec<_>>(), [2_000, 1]);

    // All events before one that cannot be read are applied and reported.
    let unreadable = order_event::Model { r#type: "orders.Unheard.v1".into(), ..row(2, 2) };
    unreadable.into_active_model().reset_all().insert(&db).await.unwrap();
    let memory = Memory::default();
    let told = replay::replay(&db, &memory, Currency::USD, None).collect::<Vec<_>>().await;
    let (error, before) = told.split_last().unwrap();
    assert!(error.as_ref().unwrap_err().to_string().contains("is invalid"), "{error:?}");
    let last = before.last().unwrap().as_ref().unwrap();
    assert_eq!((last.events, last.last), (2_001, rows.iter().map(|row| row.id).max().unwrap()));
    assert_eq!(memory.clients(&[2]).await.unwrap()[0].as_ref().unwrap().version, 1);
}

async fn replay_all(db: &DatabaseConnection, read_model: &dyn Projection, currency: Currency) -> anyhow::Result<u64> {
    let pages = replay::replay(db, read_model, currency, None);
    pages.try_fold(0, async |_, replayed| Ok(replayed.events)).await
}

#[tokio::test]
async fn replay_fills_an_empty_read_model_and_changes_nothing_in_a_full_one() {
    let db = database().await;
    let rows = (1..=1_500).map(|version| row(1, version)).chain([row(2, 1)]);
    let rows: Vec<_> = rows.map(|row| row.into_active_model().reset_all()).collect();
    for rows in rows.chunks(500) {
        order_event::Entity::insert_many(rows.to_vec()).exec_without_returning(&db).await.unwrap();
    }
    let memory = Memory::default();
    for _ in 0..2 {
        assert_eq!(replay_all(&db, &memory, Currency::USD).await.unwrap(), 1_501);
        let client = memory.clients(&[1]).await.unwrap().remove(0).unwrap();
        assert_eq!((client.order_count, client.version, client.total), (1_500, 1_500, 1_500 * 150_000));
    }
    assert!(replay_all(&db, &Memory::default(), Currency::EUR).await.is_err());
}
