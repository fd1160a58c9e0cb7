//! Metrics: docs/metrics.md lists those of running processes and no other, no caller can add a label, and no store delays a scrape.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use futures::{StreamExt, stream};
use sea_orm::{ConnectionTrait, Database, TransactionTrait};
use serde_json::{Value, json};
use test_support::gate::{Gate, Passage};
use test_support::metrics::{Labels, Metric, scrape};
use test_support::otlp::Collector;
use test_support::postgres::shift_clock;
use test_support::process::{Process, repository_file};
use test_support::services::{Stores, sql};
use test_support::sqs;
use test_support::until;
use test_support::user::{ALL_SCOPES, SAMPLE_ORDER, User, status};
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;
use tokio::time::sleep;
use tokio_tungstenite::connect_async;
use tokio_tungstenite::tungstenite::client::IntoClientRequest;

use crate::start::fails;

const ANY_PORT: (&str, &str) = ("METRICS_ADDR", "127.0.0.1:0");
const ORDER: &str = "mutation { placeOrder(input: { clientId: \"1\", items: [{ productId: \"1\", quantity: 1 }] }) {
    order { id } userErrors { code } } }";

/// A row of the table in docs/metrics.md.
struct Documented {
    kind: String,
    unit: String,
    /// The values of each label; `None` if the release or the manifest of trusted documents chooses them.
    labels: BTreeMap<String, Option<BTreeSet<String>>>,
    program: String,
    meaning: String,
}

fn documented() -> BTreeMap<String, Documented> {
    let document = std::fs::read_to_string(repository_file("docs/metrics.md")).unwrap();
    let codes = document.split("### Codes").nth(1).unwrap().split("###").next().unwrap();
    let rows = document.lines().filter(|line| line.starts_with("| `orders_"));
    let parsed = rows.map(|line| {
        let cells: Vec<&str> = line.trim_matches(['|', ' ']).split(" | ").collect();
        let [name, kind, unit, labels, program, meaning] = cells[..] else { panic!("{line}") };
        let row = Documented {
            kind: kind.into(),
            unit: unit.into(),
            labels: labels
                .split("; ")
                .filter(|label| *label != "–")
                .flat_map(|label| parse_label(label, codes))
                .collect(),
            program: program.into(),
            meaning: meaning.into(),
        };
        (name.trim_matches('`').to_owned(), row)
    });
    parsed.collect()
}

/// Reads a text such as "`state`: `used`, `idle`", or "`version`, `commit`" for labels of any values.
fn parse_label(text: &str, codes: &str) -> Vec<(String, Option<BTreeSet<String>>)> {
    let quoted = |text: &str| -> Vec<String> { text.split('`').skip(1).step_by(2).map(str::to_owned).collect() };
    let (names, values) = text.split_once(": ").unwrap_or((text, ""));
    let values = if values.contains("(#codes)") { quoted(codes) } else { quoted(values) };
    let values = if values.is_empty() { None } else { Some(values.into_iter().collect::<BTreeSet<_>>()) };
    quoted(names).into_iter().map(|name| (name, values.clone())).collect()
}

/// Checks that a program has exactly the metrics in its rows of the table.
fn check(program: &str, scraped: &BTreeMap<String, Metric>) {
    let documented = documented();
    let of_program = |row: &Documented| row.program == program || row.program == "both";
    let expected = documented.iter().filter(|(_, row)| of_program(row)).map(|(name, _)| name);
    assert_eq!(scraped.keys().collect::<Vec<_>>(), expected.collect::<Vec<_>>(), "{program}");
    for (name, metric) in scraped {
        let row = &documented[name];
        assert_eq!((&metric.kind, &metric.help), (&row.kind, &row.meaning), "{name}");
        assert_eq!(name.ends_with("_total"), row.kind == "counter", "{name}");
        assert_eq!(name.ends_with("_seconds"), row.unit == "seconds", "{name}");
        for series in &metric.series {
            assert!(series.keys().eq(row.labels.keys()), "{name}: {series:?}");
            for (label, value) in series {
                let is_listed = row.labels[label].as_ref().is_none_or(|values| values.contains(value));
                assert!(is_listed, "{name}: docs/metrics.md does not list {label}={value}");
            }
        }
    }
}

/// An api and a projector with metrics. Gates are in front of the database of the api and of the queue.
struct Measured {
    stores: Stores,
    postgres: Gate,
    queue: Gate,
    /// Without the gate.
    endpoint: String,
    _api: Process,
    _projector: Process,
    /// The addresses of the metrics.
    api: String,
    projector: String,
    user: User,
}

impl Measured {
    async fn start() -> Measured {
        Measured::start_on(tokio::task::spawn_blocking(Stores::prepared).await.unwrap()).await
    }

    async fn start_on(mut stores: Stores) -> Measured {
        let (database, endpoint) = (stores.get("DATABASE_URL").to_owned(), stores.get("AWS_ENDPOINT_URL").to_owned());
        let host = database.split('@').next_back().unwrap().split('/').next().unwrap();
        let postgres = Gate::in_front_of(host).await;
        let queue = Gate::in_front_of(endpoint.trim_start_matches("http://")).await;
        stores.set("AWS_ENDPOINT_URL", &format!("http://{}", queue.address));
        for (name, value) in [ANY_PORT, ("IN_FLIGHT", "1s"), ("SWEEP_INTERVAL", "100ms")] {
            stores.set(name, value);
        }
        let gated = database.replace(host, &postgres.address);
        let mut api = Process::start("api", &[], &[&stores.variables()[..], &[("DATABASE_URL", &*gated)]].concat());
        let mut projector = Process::start("projector", &[], &stores.variables());
        let user = User::new(&api.line_with("ready address="), &stores.token(ALL_SCOPES, "1h"));
        Measured {
            api: api.line_with("serving metrics address="),
            projector: projector.line_with("serving metrics address="),
            stores,
            postgres,
            queue,
            endpoint,
            _api: api,
            _projector: projector,
            user,
        }
    }

    async fn code_of(&self, query: &str) -> Option<String> {
        self.user.graphql(query).await["errors"][0]["extensions"]["code"].as_str().map(str::to_owned)
    }

    /// Waits until a process has a metric.
    async fn until_has(&self, address: &str, metric: &str) {
        until(metric, async || scrape(address).await.contains_key(metric)).await;
    }

    async fn open_event_stream(&self) -> reqwest::Response {
        let request = self.user.http.post(format!("http://{}/graphql", self.user.address));
        let request = request.bearer_auth(&self.user.token).header("accept", "text/event-stream");
        let subscription = json!({ "query": "subscription { clientChanged(id: 1) { version } }" });
        request.json(&subscription).send().await.unwrap()
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn every_documented_metric_appears_and_no_other() {
    let measured = Measured::start().await;
    let user = &measured.user;
    let (_, version) = user.place("1", &SAMPLE_ORDER, None).await;
    user.client_at("1", version).await;
    for query in ["{ client(id: \"1\") { version } }", "{ clients(first: 2) { nodes { id } } }"] {
        assert_eq!(measured.code_of(query).await, None);
    }
    assert_eq!(measured.code_of("{ noSuchField }").await.as_deref(), Some("GRAPHQL_VALIDATION_FAILED"));
    let mut upgrade = format!("ws://{}/graphql", user.address).into_client_request().unwrap();
    upgrade.headers_mut().insert("sec-websocket-protocol", "graphql-transport-ws".parse().unwrap());
    let _open = (connect_async(upgrade).await.unwrap(), measured.open_event_stream().await);
    let foreign = json!({ "QueueUrl": measured.stores.get("QUEUE_URL"), "MessageBody": "not an event" });
    sqs::call(&user.http, &measured.endpoint, "SendMessage", foreign).await;

    measured.queue.set(Passage::Closed);
    assert_eq!(measured.code_of(ORDER).await, None);
    measured.until_has(&measured.api, "orders_outbox_publish_failures_total").await;
    measured.queue.set(Passage::Open);

    measured.postgres.set(Passage::Closed);
    assert_eq!(measured.code_of(ORDER).await.as_deref(), Some("COMMAND_STORE_UNAVAILABLE"));
    measured.postgres.set(Passage::Open);

    let mut redis = measured.stores.redis_client().get_multiplexed_async_connection().await.unwrap();
    let () = redis::cmd("FLUSHALL").query_async(&mut redis).await.unwrap();
    measured.until_has(&measured.projector, "orders_sweep_differences_total").await;
    for (program, address) in [("api", &measured.api), ("projector", &measured.projector)] {
        until("every metric has a value", async || {
            let (documented, scraped) = (documented(), scrape(address).await);
            let mut expected = documented.iter().filter(|(_, row)| row.program == program || row.program == "both");
            expected.all(|(name, _)| scraped.contains_key(name))
        })
        .await;
        check(program, &scrape(address).await);
    }
    let scraped = scrape(&measured.projector).await;
    assert_eq!(scraped["orders_projector_state"].series.len(), 4);
    assert_eq!(scraped["orders_projection_events_total"].series.len(), 5 * 3 + 1, "those of other events are zero");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_store_that_hangs_delays_no_scrape_and_has_no_sample() {
    let measured = Measured::start().await;
    let of_stores = [
        (&measured.api, "orders_outbox_pending_events"),
        (&measured.api, "orders_outbox_oldest_age_seconds"),
        (&measured.projector, "orders_queue_visible_messages"),
        (&measured.projector, "orders_queue_dead_letters"),
    ];
    for (address, metric) in of_stores {
        measured.until_has(address, metric).await;
    }
    let began = Instant::now();
    measured.postgres.set(Passage::Silent);
    measured.queue.set(Passage::Silent);
    for (address, metric) in of_stores {
        until("it has no sample", async || {
            let before = Instant::now();
            let has_sample = scrape(address).await.contains_key(metric);
            assert!(before.elapsed() < Duration::from_secs(3), "a scrape takes {:?}", before.elapsed());
            !has_sample
        })
        .await;
    }
    println!("metrics: no samples {:.1?} after the stores began to hang", began.elapsed());
    measured.postgres.set(Passage::Open);
    measured.queue.set(Passage::Open);
    for (address, metric) in of_stores {
        measured.until_has(address, metric).await;
    }
}

/// The value of a metric without labels.
async fn value(address: &str, metric: &str) -> f64 {
    let text = reqwest::get(format!("http://{address}/metrics")).await.unwrap().text().await.unwrap();
    let value = text.lines().find_map(|line| line.strip_prefix(metric)?.strip_prefix(' ')?.parse().ok());
    value.unwrap_or_default()
}

/// The orders of a client that is locked are tried in two transactions.
#[tokio::test(flavor = "multi_thread")]
async fn an_order_that_is_retried_counts_once() {
    let measured = Measured::start().await;
    let db = Database::connect(measured.stores.get("DATABASE_URL")).await.unwrap();
    let locked = db.begin().await.unwrap();
    locked.execute_unprepared("SELECT 1 FROM clients WHERE id = 1 FOR UPDATE").await.unwrap();
    let placing = measured.user.place("1", &SAMPLE_ORDER, None);
    let unlocked = async {
        let waiting = "SELECT count(*) AS number FROM pg_stat_activity
                       WHERE wait_event_type = 'Lock' AND datname = current_database()";
        until("the second transaction waits", async || {
            let row = db.query_one_raw(sql(waiting)).await.unwrap().unwrap();
            row.try_get::<i64>("", "number").unwrap() > 0
        })
        .await;
        locked.rollback().await.unwrap();
    };
    tokio::join!(placing, unlocked);
    for metric in ["size_sum", "size_count", "wait_seconds_count"] {
        assert_eq!(value(&measured.api, &format!("orders_group_commit_{metric}")).await, 1.0, "{metric}");
    }
}

/// That clock is an hour behind the clocks of the api and of the projector.
#[tokio::test(flavor = "multi_thread")]
async fn the_lag_is_measured_on_the_clock_of_the_database() {
    let stores = tokio::task::spawn_blocking(Stores::prepared).await.unwrap();
    shift_clock(stores.get("DATABASE_URL"), "-1 hour").await;
    let measured = Measured::start_on(stores).await;
    let swept = async || value(&measured.projector, "orders_sweep_last_success_timestamp_seconds").await;
    let before = swept().await;
    until("a sweep has read that clock", async || swept().await > before).await;
    let read = async |metric| value(&measured.projector, &format!("orders_projection_lag_seconds_{metric}")).await;
    // The events of the sample data are older.
    until("the sample data are applied", async || read("count").await >= 6.0).await;
    let before = read("sum").await;
    measured.user.place("1", &SAMPLE_ORDER, None).await;
    until("the order is applied", async || read("count").await >= 7.0).await;
    let lag = read("sum").await - before;
    assert!((0.0..60.0).contains(&lag), "{lag} s");
}

#[tokio::test(flavor = "multi_thread")]
async fn metrics_are_sent_to_a_collector_also_at_the_end() {
    let collector = Collector::start().await;
    let documented = documented();
    for (service, interval) in [("often", "50"), ("at-the-end", "600000")] {
        let variables = [
            ("OTEL_EXPORTER_OTLP_ENDPOINT", &*collector.endpoint),
            ("OTEL_METRIC_EXPORT_INTERVAL", interval),
            ("OTEL_SERVICE_NAME", service),
            ("OTEL_RESOURCE_ATTRIBUTES", "deployment.environment.name=test,service.name=other"),
        ];
        let (process, user) = crate::standalone::start(&variables);
        let (_, version) = user.place("1", &SAMPLE_ORDER, None).await;
        user.client_at("1", version).await;
        if service == "often" {
            let names = || collector.metrics(service).metrics;
            until("metrics arrive", async || names().contains("orders_projection_lag_seconds")).await;
        }
        assert!(tokio::task::block_in_place(|| process.terminate()).success());
        let sent = collector.metrics(service);
        assert!(sent.metrics.iter().all(|name| documented.contains_key(name)), "{sent:#?}");
        for name in
            ["orders_build_info", "orders_operations_total", "orders_projector_state", "orders_group_commit_size"]
        {
            assert!(sent.metrics.contains(name), "{name}: {sent:#?}");
        }
        assert_eq!(sent.attributes["deployment.environment.name"], "test");
        assert!(sent.attributes.contains_key("service.instance.id"), "{sent:#?}");
    }
}

/// The alarm of the lag in deploy/aws looks at it. CloudWatch gets no other value of a histogram that shows one late event.
#[tokio::test(flavor = "multi_thread")]
async fn a_collector_gets_the_largest_lag_of_each_interval() {
    let collector = Collector::start().await;
    let variables = [
        ("OTEL_EXPORTER_OTLP_ENDPOINT", &*collector.endpoint),
        ("OTEL_EXPORTER_OTLP_METRICS_TEMPORALITY_PREFERENCE", "delta"),
        ("OTEL_METRIC_EXPORT_INTERVAL", "50"),
    ];
    let (_process, user) = crate::standalone::start(&variables);
    user.place("1", &SAMPLE_ORDER, None).await;
    let lag = || collector.metrics("standalone").largest.get("orders_projection_lag_seconds").copied();
    until("the lag arrives", async || lag().is_some_and(|seconds| seconds > 0.0)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn each_signal_can_be_switched_off() {
    let collector = Collector::start().await;
    for (service, off) in
        [("metrics", "OTEL_TRACES_EXPORTER"), ("traces", "OTEL_METRICS_EXPORTER"), ("none", "OTEL_SDK_DISABLED")]
    {
        let variables = [
            ("OTEL_EXPORTER_OTLP_ENDPOINT", &*collector.endpoint),
            ("OTEL_TRACES_SAMPLER", "always_on"),
            ("OTEL_SERVICE_NAME", service),
            (off, if service == "none" { "true" } else { "none" }),
        ];
        let (process, user) = crate::standalone::start(&variables);
        user.graphql("{ __typename }").await;
        assert!(tokio::task::block_in_place(|| process.terminate()).success());
        let (has_metrics, has_spans) = (
            !collector.metrics(service).metrics.is_empty(),
            collector.spans().iter().any(|span| span.service == service),
        );
        assert_eq!((has_metrics, has_spans), (service == "metrics", service == "traces"), "{service}");
    }
}

/// The embedded service with metrics: its address, a user, and the address of the metrics.
fn standalone(variables: &[(&str, &str)]) -> (Process, User, String) {
    let variables = [&[("LISTEN_ADDR", "127.0.0.1:0"), ANY_PORT], variables].concat();
    let mut process = Process::start("standalone", &[], &variables);
    let metrics = process.line_with("serving metrics address=");
    let address = process.line_with("POST http://").split('/').next().unwrap().to_owned();
    let token = process.line_with("TOKEN=");
    (process, User::new(&address, &token), metrics)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_thousand_names_of_operations_add_no_label() {
    let directory = tempfile::tempdir().unwrap();
    let manifest = directory.path().join("manifest.json");
    let documents = json!({ "bob": "query Bob { client(id: 1) { version } }" });
    std::fs::write(&manifest, documents.to_string()).unwrap();
    let trusted = [("TRUSTED_DOCUMENTS", manifest.to_str().unwrap())];
    let (_process, user, metrics) = standalone(&trusted);
    let send = async |body: Value| -> Value {
        let request = user.http.post(format!("http://{}/graphql", user.address)).bearer_auth(&user.token);
        request.json(&body).send().await.unwrap().json().await.unwrap()
    };
    // The token of a developer may run any document.
    let send_all = async |name: &str| {
        let bodies = [
            json!({ "query": format!("query {name} {{ __typename }}") }),
            json!({ "query": format!("query {name} {{ {name} }}") }),
            json!({ "query": "query Known { __typename }", "operationName": name }),
            json!({ "documentId": name }),
            json!({ "documentId": "bob", "operationName": name }),
        ];
        for body in bodies {
            send(body).await;
        }
    };
    assert_eq!(send(json!({ "documentId": "bob" })).await["errors"], Value::Null);
    send_all("First").await;
    let labels = async || -> BTreeMap<String, BTreeSet<Labels>> {
        let scraped = scrape(&metrics).await.into_iter();
        scraped
            .filter(|(name, _)| name.contains("operation") || name.contains("rejected"))
            .map(|(name, metric)| (name, metric.series))
            .collect()
    };
    let before = labels().await;
    let names: BTreeSet<&String> =
        before["orders_operation_duration_seconds"].iter().map(|series| &series["operation"]).collect();
    assert!(names.iter().map(|name| name.as_str()).eq(["Bob", "other"]), "{names:?}");
    let names = (0..1_000).map(|_| format!("N{:x}", rand::random::<u64>()));
    stream::iter(names).for_each_concurrent(8, async |name| send_all(&name).await).await;
    assert_eq!(labels().await, before);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_operation_whose_client_disconnects_counts_as_cancelled_and_its_request_is_logged() {
    let (process, user, metrics) = standalone(&[]);
    let body = json!({ "query": "{ client(id: 1, minVersion: 1000000) { id } }" }).to_string();
    let head = format!(
        "POST /graphql HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\nauthorization: Bearer {}\r\ncontent-length: {}",
        user.token,
        body.len()
    );
    let cancelled = Labels::from(
        [("kind", "query"), ("outcome", "cancelled"), ("code", "none")]
            .map(|(name, value)| (name.to_owned(), value.to_owned())),
    );
    until("the operation is counted", async || {
        let mut client = TcpStream::connect(&user.address).await.unwrap();
        client.write_all(format!("{head}\r\n\r\n{body}").as_bytes()).await.unwrap();
        sleep(Duration::from_millis(50)).await; // it waits for that version much longer
        drop(client);
        let scraped = scrape(&metrics).await;
        scraped.get("orders_operations_total").is_some_and(|metric| metric.series.contains(&cancelled))
    })
    .await;
    let is_logged = || process.lines().iter().any(|line| line.contains("request") && line.contains("status=499"));
    until("the request is logged", async || is_logged()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn metrics_have_a_listener_of_their_own() {
    let (_process, user, metrics) = standalone(&[]);
    assert_eq!((status(&metrics, "/metrics").await, status(&metrics, "/graphql").await), (200, 404));
    assert_eq!(status(&user.address, "/metrics").await, 404);
    for name in ["api", "projector", "standalone"] {
        fails(name, &[], &[("METRICS_ADDR", "nowhere")], &["METRICS_ADDR", "'nowhere'"]);
    }
    fails("standalone", &[], &[("METRICS_ADDR", &metrics)], &["cannot listen on", "METRICS_ADDR"]);
}
