//! Traces over all processes: from a request to the moment when queries see its order.

use std::collections::BTreeSet;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use futures::future::join_all;
use runtime::crash_points::ORDER_AFTER_COMMIT;
use sea_orm::{ConnectionTrait, Database};
use serde_json::{Value, json};
use test_support::otlp::{Collector, Span};
use test_support::process::{Process, free_address};
use test_support::queue_proxy::{Mode, QueueProxy};
use test_support::services::{Services, Stores, sql};
use test_support::until;
use test_support::user::{ALL_SCOPES, User};
use tokio::task::{block_in_place, spawn_blocking};

use crate::start::fails;

/// The context of a caller whose trace is recorded.
fn caller(n: usize) -> String {
    format!("00-{:032x}-{:016x}-01", 0xabcd_0000 + n, 0xef00 + n)
}

/// Stores for programs that export the traces of callers who record theirs, and no others.
async fn traced_stores(collector: &Collector) -> Stores {
    let mut stores = spawn_blocking(Stores::prepared).await.unwrap();
    stores.set("OTEL_EXPORTER_OTLP_ENDPOINT", &collector.endpoint);
    stores.set("OTEL_TRACES_SAMPLER", "parentbased_always_off");
    stores.set("OTEL_BSP_SCHEDULE_DELAY", "50");
    stores
}

const PLACE: &str =
    "mutation Place($input: PlaceOrderInput!) { placeOrder(input: $input) { clientVersion userErrors { code } } }";

/// Places an order. Returns its idempotency key, and the response if there is one.
async fn place(user: &User, client: usize, traceparent: &str) -> (String, Option<Value>) {
    let key = format!("key-of-{}", &traceparent[3..]);
    let items = json!([{ "productId": "1", "quantity": 1 }]);
    let input = json!({ "clientId": client.to_string(), "items": items, "idempotencyKey": key });
    let request = user.http.post(format!("http://{}/graphql", user.address)).bearer_auth(&user.token);
    let request = request.header("traceparent", traceparent);
    let response = request.json(&json!({ "query": PLACE, "variables": { "input": input } })).send().await;
    match response {
        Ok(response) => (key, Some(response.json().await.unwrap())),
        Err(_) => (key, None),
    }
}

/// Stops all processes, which export their last spans.
fn stop(services: Services) -> Stores {
    let Services { stores, apis, projectors, .. } = services;
    for process in apis.into_iter().chain(projectors) {
        assert!(block_in_place(|| process.terminate()).success());
    }
    stores
}

/// The only span with this name.
fn one<'a>(spans: &'a [Span], name: &str) -> &'a Span {
    let found: Vec<&Span> = spans.iter().filter(|span| span.name == name).collect();
    let [one] = found[..] else { panic!("one span {name:?}: {spans:#?}") };
    one
}

#[tokio::test(flavor = "multi_thread")]
async fn one_order_is_one_trace_from_the_request_until_queries_see_it() {
    let collector = Collector::start().await;
    let mut stores = traced_stores(&collector).await;
    let (proxy, url) = QueueProxy::start(stores.get("AWS_ENDPOINT_URL").to_owned(), 1).await;
    stores.set("AWS_ENDPOINT_URL", &url);
    let services = spawn_blocking(|| Services::start_on(stores, 2)).await.unwrap();
    let (key, response) = place(&services.users[0], 1, &caller(1)).await;
    let version = response.unwrap()["data"]["placeOrder"]["clientVersion"].as_i64().unwrap();
    services.users[1].client_at("1", version).await;
    until("the message is deleted", async || !collector.named("settle orders").is_empty()).await;
    let token = services.users[0].token.clone();
    let stores = stop(services);

    let spans = collector.spans();
    let one = |name| one(&spans, name);
    let parents = [
        ("mutation", "POST /graphql"),
        ("place order", "mutation"),
        ("wait for transaction", "place order"),
        ("transaction orders", "place order"),
        ("create orders", "place order"),
        ("send orders", "create orders"),
        ("receive orders", "create orders"),
        ("process orders", "create orders"),
        ("apply", "process orders"),
        ("settle orders", "receive orders"),
    ];
    for (child, parent) in parents {
        assert_eq!(one(child).parent, one(parent).id, "{child} is a child of {parent}: {spans:#?}");
    }
    assert_eq!(one("POST /graphql").parent, &caller(1)[36..52]);
    for (batch, member) in [
        ("transaction orders", "place order"),
        ("send orders", "create orders"),
        ("receive orders", "create orders"),
        ("apply", "process orders"),
    ] {
        assert_eq!(one(batch).links, [one(member).id.clone()], "{batch} is linked to {member}");
    }
    assert!(spans.iter().all(|span| span.trace == caller(1)[3..35] && !span.is_error), "{spans:#?}");
    let names: BTreeSet<&str> = spans.iter().map(|span| &*span.name).collect();
    // Redis may ask for its scripts, and then the call is repeated.
    assert_eq!(names.len(), parents.len() + ["POST /graphql", "EVALSHA"].len(), "{names:?}");
    for (service, last) in [("api", "send orders"), ("projector", "settle orders")] {
        assert_eq!(one(last).service, service);
    }

    for (name, attribute, value) in [
        ("POST /graphql", "http.response.status_code", "200"),
        ("POST /graphql", "http.route", "/graphql"),
        ("POST /graphql", "url.path", "/graphql"),
        ("POST /graphql", "url.scheme", "http"),
        ("mutation", "graphql.operation.name", "Place"),
        ("place order", "result", "placed"),
        ("transaction orders", "db.system.name", "postgresql"),
        ("create orders", "cloudevents.event_type", "orders.OrderPlaced.v1"),
        ("send orders", "messaging.system", "aws_sqs"),
        ("send orders", "messaging.destination.name", "orders"),
        ("send orders", "messaging.batch.message_count", "1"),
        ("process orders", "result", "now"),
    ] {
        assert_eq!(one(name).attribute(attribute), value, "{name}: {attribute}");
    }
    let kinds = ["POST /graphql", "create orders", "send orders", "process orders", "settle orders"];
    let kinds = kinds.map(|name| one(name).kind.as_str_name().trim_start_matches("SPAN_KIND_"));
    assert_eq!(kinds, ["SERVER", "PRODUCER", "CLIENT", "CONSUMER", "CLIENT"]);
    let all = format!("{spans:?}");
    for secret in [&*token, &key, "Bob", "anemailprovider", "Computer", "clientVersion", "$input", "127.0.0.1"] {
        assert!(!all.contains(secret), "{secret}: {all}");
    }

    // The event is stored and sent with the context of its creation.
    let db = Database::connect(stores.postgres.connection_uri()).await.unwrap();
    let query = "SELECT traceparent FROM order_events WHERE type = 'orders.OrderPlaced.v1'";
    let row = db.query_one_raw(sql(query)).await.unwrap().unwrap();
    let created = one("create orders");
    assert_eq!(row.try_get::<String>("", "traceparent").unwrap(), created.context());
    // The sample data are sent, too, before or after the order.
    let sent = proxy.sent().into_iter().find(|entry| entry.to_string().contains("OrderPlaced")).expect("it is sent");
    let message: Value = serde_json::from_str(sent["MessageBody"].as_str().unwrap()).unwrap();
    assert_eq!(message["traceparent"], created.context());
    let header = format!("Root=1-{}-{};Parent={};Sampled=1", &created.trace[..8], &created.trace[8..], created.id);
    assert_eq!(sent["MessageSystemAttributes"]["AWSTraceHeader"]["StringValue"], header);
}

#[tokio::test(flavor = "multi_thread")]
async fn fifty_concurrent_orders_are_fifty_traces_with_links_to_the_work_that_they_share() {
    const ORDERS: usize = 50;
    let collector = Collector::start().await;
    let stores = traced_stores(&collector).await;
    let services = spawn_blocking(|| Services::start_on(stores, 1)).await.unwrap();
    let user = &services.users[0];
    join_all((0..ORDERS).map(async |n| place(user, n % 3 + 1, &caller(n)).await)).await;
    let visible = || collector.named("process orders").iter().filter(|span| span.attribute("result") == "now").count();
    until("all orders are visible", async || visible() == ORDERS).await;
    stop(services);

    let spans = collector.spans();
    let traces: BTreeSet<&str> = spans.iter().map(|span| &*span.trace).collect();
    let callers: Vec<String> = (0..ORDERS).map(caller).collect();
    assert_eq!(traces, callers.iter().map(|caller| &caller[3..35]).collect());
    for name in ["POST /graphql", "mutation", "place order", "create orders", "process orders"] {
        let of_traces = spans.iter().filter(|span| span.name == name).map(|span| &*span.trace);
        assert_eq!(of_traces.collect::<Vec<_>>().len(), ORDERS, "one {name} in each trace");
    }
    for (batch, member) in [
        ("transaction orders", "place order"),
        ("send orders", "create orders"),
        ("receive orders", "create orders"),
        ("apply", "process orders"),
    ] {
        let batches: Vec<&Span> = spans.iter().filter(|span| span.name == batch).collect();
        for member in spans.iter().filter(|span| span.name == member) {
            let linked = batches.iter().filter(|batch| batch.links.contains(&member.id));
            assert!(linked.count() >= 1, "{batch} is linked to {member:#?}");
        }
        assert!(batches.iter().all(|batch| batch.links.contains(&batch.parent)), "{batches:#?}");
        println!("traces: {} spans {batch:?} for {ORDERS} orders", batches.len());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_trace_continues_when_another_api_publishes_after_a_crash() {
    let collector = Collector::start().await;
    let stores = traced_stores(&collector).await;
    let armed = format!("{ORDER_AFTER_COMMIT}=return");
    let mut crashing = Process::start("api", &[], &[&stores.variables()[..], &[("FAILPOINTS", &armed)]].concat());
    let token = stores.token(ALL_SCOPES, "1h");
    let user = User::new(&crashing.line_with("ready address="), &token);
    let (_, response) = place(&user, 1, &caller(1)).await;
    assert_eq!(response, None, "the api dies after the commit");
    assert!(crashing.output().all().contains(&format!("crashed at {ORDER_AFTER_COMMIT}")));

    let services = spawn_blocking(|| Services::start_on(stores, 1)).await.unwrap();
    until("the message is deleted", async || !collector.named("settle orders").is_empty()).await;
    let stores = stop(services);
    let db = Database::connect(stores.postgres.connection_uri()).await.unwrap();
    let query = "SELECT traceparent FROM order_events WHERE type = 'orders.OrderPlaced.v1'";
    let row = db.query_one_raw(sql(query)).await.unwrap().unwrap();
    let created: String = row.try_get("", "traceparent").unwrap();
    let spans = collector.spans();
    assert!(spans.iter().all(|span| span.trace == caller(1)[3..35]), "{spans:#?}");
    for name in ["send orders", "process orders"] {
        assert_eq!(one(&spans, name).parent, &created[36..52], "{name} is a child of the creation");
    }
    assert_eq!(one(&spans, "process orders").attribute("result"), "now");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_event_that_is_delivered_twice_becomes_visible_once() {
    let collector = Collector::start().await;
    let mut stores = traced_stores(&collector).await;
    let (proxy, url) = QueueProxy::start(stores.get("AWS_ENDPOINT_URL").to_owned(), 1).await;
    proxy.set(Mode::DeliversTwice);
    stores.set("AWS_ENDPOINT_URL", &url);
    let services = spawn_blocking(|| Services::start_on(stores, 1)).await.unwrap();
    place(&services.users[0], 1, &caller(1)).await;
    until("both messages are processed", async || collector.named("process orders").len() >= 2).await;
    stop(services);
    let spans = collector.spans();
    let mut results: Vec<&str> =
        (spans.iter().filter(|span| span.name == "process orders")).map(|span| span.attribute("result")).collect();
    results.sort_unstable();
    assert_eq!(results, ["before", "now"]);
    assert!(spans.iter().all(|span| span.trace == caller(1)[3..35]), "{spans:#?}");
}

/// The read model loses everything, is repaired, and is rebuilt.
#[tokio::test(flavor = "multi_thread")]
async fn repairs_and_replays_have_traces_of_their_own_and_make_nothing_visible_again() {
    let collector = Collector::start().await;
    let mut stores = traced_stores(&collector).await;
    for (name, value) in [("OTEL_TRACES_SAMPLER", "always_on"), ("SWEEP_INTERVAL", "100ms"), ("IN_FLIGHT", "1s")] {
        stores.set(name, value);
    }
    let services = spawn_blocking(|| Services::start_on(stores, 1)).await.unwrap();
    let (_, response) = place(&services.users[0], 1, &caller(1)).await;
    let version = response.unwrap()["data"]["placeOrder"]["clientVersion"].as_i64().unwrap();
    services.users[0].client_at("1", version).await;
    let has_swept = |result: &str| collector.named("sweep").iter().any(|span| span.attribute("result") == result);
    until("a sweep finds nothing", async || has_swept("nothing")).await;
    let mut redis = services.stores.redis_client().get_multiplexed_async_connection().await.unwrap();
    let () = redis::cmd("FLUSHALL").query_async(&mut redis).await.unwrap();
    until("a sweep repairs", async || has_swept("repaired")).await;
    services.users[0].client_at("1", version).await;
    block_in_place(|| services.stores.run("projector", &["rebuild", "start"]));
    stop(services);

    let spans = collector.spans();
    let replays: Vec<&Span> = spans.iter().filter(|span| span.name == "replay").collect();
    assert!(!replays.is_empty() && replays.iter().all(|span| span.attribute("result") == "now"), "{replays:#?}");
    let own = spans.iter().filter(|span| ["replay", "sweep"].contains(&&*span.name));
    assert!(own.clone().all(|span| span.parent.is_empty() && span.trace != caller(1)[3..35]), "{spans:#?}");
    let visible = spans.iter().filter(|span| span.name == "process orders" && span.attribute("result") == "now");
    let events: Vec<&str> = visible.map(|span| span.attribute("cloudevents.event_id")).collect();
    assert_eq!(events.iter().collect::<BTreeSet<_>>().len(), events.len(), "each event becomes visible once");
    assert_eq!(spans.iter().filter(|span| span.trace == caller(1)[3..35] && span.name == "process orders").count(), 1);
}

/// Places orders while everything is recorded. Returns the 99th percentile of their times, and the time of the shutdown.
async fn times(stores: &Stores, variables: &[(&str, &str)]) -> (Duration, Duration) {
    const WRITERS: usize = 8;
    const ORDERS: usize = 40;
    let sampler = ("OTEL_TRACES_SAMPLER", "always_on");
    let mut api = Process::start("api", &[], &[&stores.variables()[..], &[sampler], variables].concat());
    let user = User::new(&api.line_with("ready address="), &stores.token(ALL_SCOPES, "1h"));
    let writers = (0..WRITERS).map(async |n| {
        let mut times = Vec::new();
        for order in 0..ORDERS {
            let began = Instant::now();
            let response = place(&user, n % 3 + 1, &caller(n * ORDERS + order)).await.1.unwrap();
            assert!(response["data"]["placeOrder"]["clientVersion"].is_number(), "{response}");
            times.push(began.elapsed());
        }
        times
    });
    let mut times: Vec<Duration> = join_all(writers).await.into_iter().flatten().collect();
    times.sort_unstable();
    let began = Instant::now();
    assert!(block_in_place(|| api.terminate()).success());
    (times[times.len() * 99 / 100], began.elapsed())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_collector_that_is_down_or_hangs_slows_down_neither_orders_nor_the_shutdown() {
    let (down, hanging) = (format!("http://{}", free_address()), Collector::hanging().await);
    let mut reports = Vec::new();
    for endpoint in ["", &down, &hanging] {
        // New stores, because a repeated idempotency key places no order.
        let stores = spawn_blocking(Stores::prepared).await.unwrap();
        let delay = ("OTEL_BSP_SCHEDULE_DELAY", "50");
        reports.push(times(&stores, &[("OTEL_EXPORTER_OTLP_ENDPOINT", endpoint), delay]).await);
    }
    println!("traces: p99 and shutdown without collector, with one that is down, and one that hangs: {reports:.1?}");
    let (p99, shutdown) = reports[0];
    for (slow, last) in &reports[1..] {
        assert!(*slow < 3 * p99 + Duration::from_millis(100), "{reports:?}");
        assert!(*last < shutdown + Duration::from_secs(3), "{reports:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_outage_of_the_collector_is_logged_once_for_each_signal() {
    let (endpoint, refusals) = Collector::refusing().await;
    let mut stores = spawn_blocking(Stores::prepared).await.unwrap();
    stores.set("OTEL_EXPORTER_OTLP_ENDPOINT", &endpoint);
    stores.set("OTEL_BSP_SCHEDULE_DELAY", "50");
    stores.set("OTEL_METRIC_EXPORT_INTERVAL", "50");
    let mut api = Process::start("api", &[], &stores.variables());
    let user = User::new(&api.line_with("ready address="), &stores.token(ALL_SCOPES, "1h"));
    let mut n = 0;
    until("several calls fail", async || {
        n += 1;
        place(&user, 1, &caller(n)).await;
        let has_line = |signal: &str| api.lines().iter().any(|line| line.contains(&format!("cannot export {signal}")));
        refusals.load(Ordering::SeqCst) >= 10 && has_line("traces") && has_line("metrics")
    })
    .await;
    let output = api.output();
    assert!(block_in_place(|| api.terminate()).success());
    let lines = output.all();
    let about: Vec<_> = lines.iter().filter(|line| line.contains("xport") || line.contains("OTEL")).collect();
    assert_eq!(about.len(), 2, "one of traces and one of metrics: {about:#?}");
}

#[test]
fn a_wrong_variable_is_refused() {
    let variables = |name: &'static str, value: &'static str| {
        [("OTEL_EXPORTER_OTLP_ENDPOINT", "http://127.0.0.1:4318"), (name, value)]
    };
    for (name, value) in [
        ("OTEL_TRACES_SAMPLER_ARG", "1%"),
        ("OTEL_TRACES_SAMPLER_ARG", "2"),
        ("OTEL_TRACES_SAMPLER", "sometimes"),
        ("OTEL_TRACES_EXPORTER", "zipkin"),
        ("OTEL_METRICS_EXPORTER", "prometheus"),
        ("OTEL_METRIC_EXPORT_INTERVAL", "0"),
        ("OTEL_METRIC_EXPORT_INTERVAL", "1m"),
        ("OTEL_EXPORTER_OTLP_PROTOCOL", "grpc"),
        ("OTEL_EXPORTER_OTLP_TRACES_PROTOCOL", "grpc"),
    ] {
        fails("api", &[], &variables(name, value), &[name]);
    }
}
