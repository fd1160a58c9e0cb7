//! The standalone service: one process on embedded stores.

use chrono::{Datelike, NaiveDate, TimeDelta, Weekday};
use serde_json::{Value, json};
use test_support::process::{Process, command};
use test_support::redis::Redis;
use test_support::until;
use test_support::user::{SAMPLE_ORDER, User, assert_is_bob, status};

pub fn start(variables: &[(&str, &str)]) -> (Process, User) {
    let any_port = [("LISTEN_ADDR", "127.0.0.1:0")];
    let mut process = Process::start("standalone", &[], &[&any_port, variables].concat());
    let address = process.line_with("POST http://").split('/').next().unwrap().to_owned();
    let token = process.line_with("TOKEN=");
    (process, User::new(&address, &token))
}

#[tokio::test]
async fn the_sample_order_can_be_placed_five_times() {
    let (process, user) = start(&[]);
    for n in 1..=5 {
        let (placed, version) = user.place("1", &SAMPLE_ORDER, None).await;
        assert_eq!((&placed["order"]["total"]["amount"], version), (&"3000.00".into(), n + 1));
        let total = format!("{}.00", 3_000 * n);
        assert_is_bob(&user.client_at("1", version).await, &total, n, &placed["order"]["placedAt"]);
    }
    assert_eq!(status(&user.address, "/health/live").await, 200);
    assert_eq!(status(&user.address, "/health/ready").await, 200);
    assert!(process.terminate().success());
}

#[tokio::test]
async fn pages_of_a_development_server_on_this_machine_may_use_it() {
    let (_process, user) = start(&[]);
    for (origin, is_allowed) in [
        ("http://localhost:5173", true),
        ("http://127.0.0.1:3000", true),
        ("https://shop.example.com", false),
        ("http://localhost.example.com:5173", false),
    ] {
        let request = user.http.post(format!("http://{}/graphql", user.address)).header("origin", origin);
        let response = request.json(&json!({ "query": "{ __typename }" })).send().await.unwrap();
        let allowed = response.headers().get("access-control-allow-origin");
        assert_eq!(allowed.is_some_and(|allowed| allowed == origin), is_allowed, "{origin}: {allowed:?}");
    }
}

#[tokio::test]
async fn the_printed_example_command_works() {
    let (mut process, user) = start(&[]);
    process.line_with("Authorization: Bearer $TOKEN"); // the first line of the command…
    process.line_with("  -d '{\"query\""); // …and its second
    let lines = process.lines();
    let first = lines.iter().position(|line| line.starts_with("export TOKEN=")).unwrap();
    let script = lines[first..].join("\n");
    let shell = std::process::Command::new("sh").args(["-c", &script]).output().unwrap();
    let response: serde_json::Value = serde_json::from_slice(&shell.stdout).unwrap_or_else(|_| panic!("{shell:?}"));
    assert_eq!(response["data"]["placeOrder"]["order"]["total"]["amount"], "3000.00", "{response}");

    let page = user.http.get(format!("http://{}/", user.address)).header("accept", "text/html").send().await.unwrap();
    assert!(page.text().await.unwrap().contains("GraphiQL"));
    let config = user.http.get(format!("http://{}/graphiql/config.json", user.address)).send().await.unwrap();
    assert!(config.text().await.unwrap().contains(&user.token), "its own page gets the token");
}

#[tokio::test]
async fn the_read_model_is_rebuilt_from_a_database_file() {
    let directory = tempfile::tempdir().unwrap();
    let url = format!("sqlite://{}", directory.path().join("orders.db").display());
    let (process, user) = start(&[("DATABASE_URL", &url)]);
    for _ in 0..5 {
        user.place("1", &SAMPLE_ORDER, None).await;
    }
    drop(process); // killed, maybe before it had projected every order

    let (process, user) = start(&[("DATABASE_URL", &url)]);
    let rebuilt = user.client_at("1", 5).await;
    assert_is_bob(&rebuilt, "15000.00", 5, &rebuilt["lastPurchase"]);
    let (placed, version) = user.place("1", &SAMPLE_ORDER, None).await;
    assert_is_bob(&user.client_at("1", version).await, "18000.00", 6, &placed["order"]["placedAt"]);
    assert!(process.terminate().success());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_redis_that_was_emptied_heals_by_itself() {
    let (directory, redis) = (tempfile::tempdir().unwrap(), Redis::start().await);
    let database = format!("sqlite://{}", directory.path().join("orders.db").display());
    let sweep = [("SWEEP_INTERVAL", "100ms"), ("IN_FLIGHT", "1s")];
    let stores = [("DATABASE_URL", &*database), ("REDIS_URL", &*redis.url)];
    let (process, user) = start(&[&stores[..], &sweep].concat());
    let (placed, version) = user.place("1", &SAMPLE_ORDER, None).await;
    let bob = user.client_at("1", version).await;
    assert_is_bob(&bob, "3000.00", 1, &placed["order"]["placedAt"]);
    let () = redis.command(&["FLUSHALL"]).await;
    until("Bob is back", async || {
        let found = user.graphql("{ client(id: 1) { version orderCount } }").await;
        found["data"]["client"] == json!({ "version": version, "orderCount": 1 })
    })
    .await;
    assert!(process.terminate().success());
}

#[tokio::test]
async fn a_page_gives_its_token_to_no_proxy_and_no_other_site() {
    let (process, user) = start(&[]);
    let token = async |path: &str, name: &'static str, value: &'static str| {
        let request = user.http.get(format!("http://{}{path}", user.address)).header(name, value);
        request.send().await.unwrap().text().await.unwrap().contains(&user.token)
    };
    for path in ["/graphiql/config.json", "/pages/config.json"] {
        assert!(token(path, "sec-fetch-site", "same-origin").await, "{path}");
        let from_nginx = user.http.get(format!("http://{}{path}", user.address)).version(reqwest::Version::HTTP_10);
        let config = from_nginx.send().await.unwrap().text().await.unwrap();
        assert!(config.starts_with('{') && !config.contains(&user.token), "{path}: {config}");
        for (name, value) in [
            ("host", "orders.example.com"),
            ("x-forwarded-for", "192.0.2.1"),
            ("x-forwarded-host", "orders.example.com"),
            ("x-forwarded-proto", "https"),
            ("x-forwarded-port", "443"),
            ("x-real-ip", "192.0.2.1"),
            ("forwarded", "for=192.0.2.1"),
            ("via", "1.1 proxy"),
            ("sec-fetch-site", "cross-site"),
        ] {
            assert!(!token(path, name, value).await, "{path} {name}: {value}");
        }
    }
    assert!(process.terminate().success());
}

#[tokio::test]
async fn it_shuts_down_when_nobody_reads_its_log() {
    use std::io::{BufRead, BufReader, Read};
    use std::process::Stdio;
    let mut service = command("standalone", &[], &[("LISTEN_ADDR", "127.0.0.1:0")])
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut log = BufReader::new(service.stderr.take().unwrap());
    while !log.by_ref().lines().next().unwrap().unwrap().contains("ready") {}
    drop(log);
    assert!(
        std::process::Command::new("sh").args(["-c", &format!("kill {}", service.id())]).status().unwrap().success()
    );
    until("it exits", async || service.try_wait().unwrap().is_some()).await;
    assert!(service.wait().unwrap().success());
}

#[tokio::test]
async fn the_log_names_operations_but_contains_no_variables_or_tokens() {
    let (mut process, user) = start(&[("LOG_FORMAT", "json")]);
    let query = "query Careful($id: ID!) { product(id: $id) { name price { amount } } }";
    let request = user.http.post(format!("http://{}/graphql", user.address)).bearer_auth(&user.token);
    let request =
        request.header("x-request-id", "mine").json(&json!({ "query": query, "variables": { "id": "4711" } }));
    assert!(request.send().await.unwrap().text().await.unwrap().contains("null"));
    let request = user.http.post(format!("http://{}/graphql", user.address)).bearer_auth("hunter2.hunter2.hunter2");
    request.json(&json!({ "query": query })).send().await.unwrap();

    process.line_with("\"status\":401");
    let lines = process.lines();
    let entry = lines.iter().find(|line| line.contains("Careful")).unwrap();
    let entry: Value = serde_json::from_str(entry).unwrap();
    assert_eq!(
        (
            &entry["operation"],
            &entry["kind"],
            &entry["cost"],
            &entry["status"],
            &entry["request_id"],
            &entry["transport"]
        ),
        (&json!("Careful"), &json!("query"), &json!(4), &json!(200), &json!("mine"), &json!("http"))
    );
    assert!(entry["duration_ms"].as_f64().unwrap() > 0.0);
    let log: Vec<_> = lines.iter().filter(|line| line.starts_with('{')).collect();
    assert!(log.len() > 2);
    let secrets = ["4711", &user.token, "hunter2"];
    assert!(!log.iter().any(|line| secrets.iter().any(|secret| line.contains(secret))), "{log:#?}");
}

#[tokio::test]
async fn an_idle_service_logs_no_warnings() {
    let (process, _) = start(&[("RUST_LOG", "warn")]);
    let began = std::time::Instant::now();
    // Longer than a long poll for messages.
    until("a long poll is over", async || began.elapsed().as_secs() > 7).await;
    let warnings: Vec<_> = process.lines().into_iter().filter(|line| line.contains("WARN")).collect();
    assert_eq!(warnings, [""; 0]);
}

/// The data of an operation, which must not fail.
async fn data(user: &User, query: String) -> Value {
    let response = user.graphql(&query).await;
    assert!(response["errors"].is_null(), "{query}: {response}");
    response["data"].clone()
}

fn days_ago(days: i64) -> NaiveDate {
    chrono::Utc::now().date_naive() - TimeDelta::days(days)
}

#[tokio::test]
async fn the_year_of_the_demo_is_that_of_a_growing_shop() {
    let (_process, user) = start(&[("DEMO", "0.1"), ("DEMO_TIME", "1ms")]);
    let points = async |from, granularity: &str| -> Vec<(String, i64)> {
        let (from, to) = (days_ago(from), days_ago(1));
        let query = format!(
            "{{ sales(from: \"{from}\", to: \"{to}\", granularity: {granularity}) {{ points {{ start orderCount }} }} }}"
        );
        let points = data(&user, query).await["sales"]["points"].take();
        let point = |point: &Value| Some((point["start"].as_str()?.to_owned(), point["orderCount"].as_i64()?));
        points.as_array().unwrap().iter().map(|value| point(value).unwrap()).collect()
    };
    let days = points(364, "DAY").await;
    assert!(days.iter().all(|(_, orders)| *orders > 0), "{days:?}");
    let first_day = days_ago(364);
    let on = |weekday| -> i64 {
        let dated = first_day.iter_days().zip(&days);
        dated.filter(|(day, _)| day.weekday() == weekday).map(|(_, (_, orders))| orders).sum()
    };
    assert!(on(Weekday::Fri) > on(Weekday::Sat) && on(Weekday::Mon) > on(Weekday::Sun), "{days:?}");
    let hours = points(7, "HOUR").await;
    let at =
        |hour: &str| -> i64 { hours.iter().filter(|(start, _)| start.contains(hour)).map(|(_, orders)| orders).sum() };
    assert!(at("T03:") < at("T10:") && at("T03:") < at("T19:"), "{hours:?}");

    let (from, to) = (days_ago(364), days_ago(1));
    let sales = format!("sales(from: \"{from}\", to: \"{to}\") {{ orderCount cancelledCount }}");
    let recently = days_ago(30);
    let clients = format!("clientReport(from: \"{recently}\", to: \"{to}\") {{ newClientCount returningClientCount }}");
    let report = data(&user, format!("{{ {sales} {clients} }}")).await;
    let number = |pointer: &str| report.pointer(pointer).and_then(Value::as_i64).unwrap();
    let (orders, cancelled) = (number("/sales/orderCount"), number("/sales/cancelledCount"));
    assert!(orders / 100 < cancelled && cancelled < orders / 20, "{report}");
    let (new, returning) = (number("/clientReport/newClientCount"), number("/clientReport/returningClientCount"));
    assert!(0 < new && new < returning, "{report}");
}

#[tokio::test]
async fn the_rows_of_the_demo_agree_with_its_events() {
    let (_process, user) = start(&[("DEMO", "0.1"), ("DEMO_TIME", "1ms")]);
    // With a version, a client is read from the rows of its orders and refunds; without one, from the replayed events.
    let fields = "version name orderCount cancelledCount gross { amount } cancelled { amount } lastPurchase";
    for id in [1, 5, 50, 150, 250, 350] {
        let from_events = data(&user, format!("{{ client(id: {id}) {{ {fields} }} }}")).await;
        let version = &from_events["client"]["version"];
        let from_rows = data(&user, format!("{{ client(id: {id}, atVersion: {version}) {{ {fields} }} }}")).await;
        assert_eq!(from_rows, from_events);
        assert!(from_rows["client"]["orderCount"].as_i64() > Some(0), "{from_rows}");
    }
    let (from, to) = (days_ago(120), days_ago(90));
    for (status, newest) in
        [("CANCELLED", "ORDER_CANCELLED"), ("PARTIALLY_REFUNDED", "ORDER_REFUNDED"), ("PLACED", "ORDER_PLACED")]
    {
        let query = format!(
            "{{ orders(from: \"{from}\", to: \"{to}\", status: {status}, first: 3) {{ nodes {{
                placedAt total {{ amount }} refunded {{ amount }} cancelReason items {{ lineTotal {{ amount }} }}
                history {{ type time amount {{ amount }} reason }}
            }} }} }}"
        );
        // A list of orders by day is a range of ids, which begin with the times of the orders.
        let orders = data(&user, query).await["orders"]["nodes"].take();
        let orders = orders.as_array().unwrap();
        assert_eq!(orders.len(), 3, "{status}");
        for order in orders {
            let minor = |amount: &Value| amount["amount"].as_str().unwrap().replace('.', "").parse::<i64>().unwrap();
            let lines: i64 = order["items"].as_array().unwrap().iter().map(|item| minor(&item["lineTotal"])).sum();
            assert_eq!(lines, minor(&order["total"]), "{order}");
            let history = order["history"].as_array().unwrap();
            assert_eq!(history[0]["type"], newest, "{order}");
            assert_eq!(history.last().unwrap()["time"], order["placedAt"], "{order}");
            if status != "PLACED" {
                assert_eq!(history[0]["amount"], order["refunded"], "{order}");
            }
            if status == "CANCELLED" {
                assert_eq!(history[0]["reason"], order["cancelReason"], "{order}");
            }
        }
    }
}

#[tokio::test]
async fn the_demo_has_past_orders_and_places_new_ones_for_its_time() {
    let (process, user) =
        start(&[("DEMO", "50"), ("DEMO_TIME", "6s"), ("RUST_LOG", "info,api::edge::access_log=warn")]);
    let sales = async |from: i64, to: i64| {
        let (from, to) = (days_ago(from), days_ago(to));
        let query = format!("{{ sales(from: \"{from}\", to: \"{to}\") {{ orderCount points {{ orderCount }} }} }}");
        user.graphql(&query).await["data"]["sales"].clone()
    };
    let past = sales(365, 2).await;
    assert!(past["points"].as_array().unwrap().iter().all(|day| day["orderCount"].as_u64().unwrap() > 0), "{past}");
    let orders = async || sales(1, -1).await["orderCount"].as_u64().unwrap();
    let before = orders().await;
    until("new orders are placed", async || orders().await > before + 10).await;
    let output = process.output();
    // No order for longer than the usual time between two.
    let (mut last, mut since) = (0, std::time::Instant::now());
    until("the demo is over", async || {
        let now = orders().await;
        if std::mem::replace(&mut last, now) != now {
            since = std::time::Instant::now();
        }
        since.elapsed().as_secs() >= 2
    })
    .await;
    assert_eq!(status(&user.address, "/health/ready").await, 200);
    assert!(process.terminate().success());
    assert!(output.all().iter().any(|line| line.contains("the demo is over")));
}
