//! What `make bench` prints; docs/performance.md has the latest. The service and its peers, one after another and several
//! times over, on the same stores and the same machine. It measures and judges nothing: machines differ.

use std::collections::{BTreeMap, HashMap};
use std::process::Command;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use chrono::{Datelike, Days, NaiveDate, Utc};
use entity::{Change, Event, Line, OrderPlaced, order, order_event};
use futures::{SinkExt, StreamExt, stream};
use read_model::batch::Batch;
use read_model::redis::KEEP_ORDERS;
use read_model::sales::{Resolution, products_of_day, products_of_month};
use redis::aio::MultiplexedConnection;
use sea_orm::{ColumnTrait, ConnectionTrait, Database, DatabaseConnection, EntityTrait, PaginatorTrait, QueryFilter};
use serde_json::{Value, json};
use tokio::task::JoinHandle;
use tokio_tungstenite::connect_async_with_config;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::client::IntoClientRequest;
use tokio_tungstenite::tungstenite::protocol::WebSocketConfig;

use crate::process::{ALL, EXAMPLE, Process, User, binary, free_address, mebibytes, root, sqs, until};
use crate::services::{Services, Stores};

const CLIENTS: usize = 10_000;
const CONNECTIONS: usize = 64;
/// How often each contender has its turn, and for how long.
const ROUNDS: usize = 3;
const TURN: Duration = Duration::from_secs(5);

/// As a server that must not lose what it acknowledged.
const DURABLE: [(&str, &str); 3] = [("fsync", "on"), ("full_page_writes", "on"), ("autovacuum", "on")];
/// More clients than an api keeps of those that it has read.
const MANY: usize = 200_000;
/// Events of a partition in one step where 500 are applied at once.
const IN_A_STEP: i64 = 31;
/// redis-benchmark puts a number there.
const ANY: &str = "__rand_int__";

/// What one turn showed.
#[derive(Clone, Copy, Debug, Default)]
struct Sample {
    rate: f64,
    /// Milliseconds; 0 where they are not told.
    p50: f64,
    p99: f64,
    p999: f64,
    /// Requests for each second of processor time of the server.
    per_cpu: f64,
    /// MiB.
    memory: f64,
}

/// Seconds of processor time that a process has used.
fn processor_time(process: u32) -> f64 {
    let stat = std::fs::read_to_string(format!("/proc/{process}/stat")).unwrap();
    let fields: Vec<&str> = stat.rsplit(')').next().unwrap().split_whitespace().collect();
    let ticks: f64 = [11, 12].iter().map(|field| fields[*field].parse::<f64>().unwrap()).sum();
    ticks / 100.0 // USER_HZ, which Linux shows everywhere
}

/// A server under load.
struct Server<'a> {
    name: &'static str,
    process: u32,
    address: String,
    kind: &'static str,
    clients: usize,
    token: &'a str,
}

impl Server<'_> {
    fn turn(&self, length: Duration) -> Sample {
        self.load(length, CONNECTIONS, &[self.kind, self.token, &self.clients.to_string()])
    }

    /// The same requests again and again.
    fn repeat(&self, length: Duration, connections: usize, queries: &[String]) -> Sample {
        let bodies: Vec<String> = queries.iter().map(|query| json!({ "query": query }).to_string()).collect();
        let mut arguments = vec!["body", self.token, "0"];
        arguments.extend(bodies.iter().map(String::as_str));
        self.load(length, connections, &arguments)
    }

    fn load(&self, length: Duration, connections: usize, arguments: &[&str]) -> Sample {
        let before = processor_time(self.process);
        let output = Command::new("wrk")
            .args(["-t1", &format!("-c{connections}"), &format!("-d{}s", length.as_secs())])
            .args(["-s", root("bench/requests.lua").to_str().unwrap(), &format!("http://{}", self.address)])
            .arg("--")
            .args(arguments)
            .output()
            .unwrap();
        let spent = processor_time(self.process) - before;
        let said = String::from_utf8_lossy(&output.stdout).into_owned();
        let told: Value =
            said.lines().find_map(|line| serde_json::from_str(line).ok().filter(Value::is_object)).unwrap();
        let number = |name: &str| told[name].as_f64().unwrap();
        assert_eq!(number("failed"), 0.0, "{}: {said}", self.name);
        Sample {
            rate: number("requests") / number("seconds"),
            p50: number("p50") / 1e3,
            p99: number("p99") / 1e3,
            p999: number("p999") / 1e3,
            per_cpu: number("requests") / spent,
            memory: mebibytes(self.process, "VmRSS"),
        }
    }
}

/// A contender, and how it has its turn.
type Contender<'a> = (&'static str, Box<dyn FnMut() -> Sample + 'a>);

/// Each in turn, several times; the medians.
fn compare(turns: &mut [Contender]) -> Vec<(&'static str, Sample)> {
    let mut samples: BTreeMap<usize, Vec<Sample>> = BTreeMap::new();
    for _ in 0..ROUNDS {
        for (index, (_, turn)) in turns.iter_mut().enumerate() {
            samples.entry(index).or_default().push(turn());
        }
    }
    turns.iter().map(|(name, _)| *name).zip(samples.values().map(|samples| median(samples))).collect()
}

/// The median of each figure.
fn median(samples: &[Sample]) -> Sample {
    let median = |figure: fn(&Sample) -> f64| {
        let mut figures: Vec<f64> = samples.iter().map(figure).collect();
        figures.sort_by(f64::total_cmp);
        figures[figures.len() / 2]
    };
    Sample {
        rate: median(|sample| sample.rate),
        p50: median(|sample| sample.p50),
        p99: median(|sample| sample.p99),
        p999: median(|sample| sample.p999),
        per_cpu: median(|sample| sample.per_cpu),
        memory: median(|sample| sample.memory),
    }
}

/// A table in Markdown; the first row is what the others are compared with.
fn print(title: &str, rows: &[(&'static str, Sample)]) {
    let (ours, figure) = (rows[0].1, |value: f64, digits: usize| match value {
        0.0 => "–".to_owned(),
        value => format!("{value:.digits$}"),
    });
    println!("\n### {title}\n");
    println!(
        "| {:<34} | {:>8} | {:>6} | {:>8} | {:>8} | {:>8} | {:>9} | {:>6} |",
        "", "1/s", "ours ×", "p50 ms", "p99 ms", "p99.9 ms", "1/s CPU", "MiB"
    );
    println!("|{:-<36}|{:->9}:|{:->7}:|{:->9}:|{:->9}:|{:->9}:|{:->10}:|{:->7}:|", "", "", "", "", "", "", "", "");
    for (name, sample) in rows {
        println!(
            "| {name:<34} | {:>8} | {:>6} | {:>8} | {:>8} | {:>8} | {:>9} | {:>6} |",
            figure(sample.rate, 0),
            figure(ours.rate / sample.rate, 2),
            figure(sample.p50, 2),
            figure(sample.p99, 2),
            figure(sample.p999, 2),
            figure(sample.per_cpu, 0),
            figure(sample.memory, 0),
        );
    }
}

/// A server of `bench/peers`.
fn peer(kind: &str, stores: &Stores) -> (Process, String) {
    let address = free_address();
    let port = address.rsplit(':').next().unwrap();
    let mut command = Command::new(root("scripts/with-node"));
    command.arg("node").arg(root("bench/peers/server.js")).args([kind, port]).envs(stores.variables());
    command.env("NODE_ENV", "production");
    let mut process = Process::spawn(kind, command);
    process.line_with(" is ready");
    (process, address)
}

/// As many orders as one transaction each can be placed, without any service.
fn pgbench(url: &str) -> Sample {
    let output = Command::new(crate::services::postgres_program("pgbench"))
        .args(["-n", "-M", "prepared", "-c", "64", "-j", "2", "-D", &format!("clients={CLIENTS}")])
        .args(["-T", &TURN.as_secs().to_string(), "-f", root("bench/order.sql").to_str().unwrap(), url])
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    let number = |prefix: &str| {
        let line = said.lines().find_map(|line| line.strip_prefix(prefix)).unwrap_or_else(|| panic!("{output:?}"));
        line.split_whitespace().next().unwrap().parse::<f64>().unwrap()
    };
    Sample { rate: number("tps = "), ..Sample::default() }
}

/// All that is compared, on stores with 10 000 clients.
struct Bench {
    stores: Stores,
    db: DatabaseConnection,
    token: String,
    api: Process,
    address: String,
}

impl Bench {
    async fn start() -> Bench {
        let mut stores = tokio::task::spawn_blocking(|| Stores::prepared_with(&DURABLE)).await.unwrap();
        let db = Database::connect(stores.postgres.connection_uri()).await.unwrap();
        let clients = format!(
            "INSERT INTO clients (name, email) SELECT 'Client ' || n, n || '@example.com' FROM generate_series(4, {CLIENTS}) n"
        );
        db.execute_unprepared(&clients).await.unwrap();
        // Neither do the others write a line for each request.
        stores.set("RUST_LOG", "warn,api=info,projector=info,api::edge::access_log=warn");
        stores.set("MAX_OPERATIONS_PER_CALLER", "512"); // all are of one token
        let token = stores.run("api", &["token", "--scope", ALL, "--ttl", "8h"]).trim().to_owned();
        let mut api = Process::start("api", &[], &stores.variables());
        let address = api.line_with("ready address=");
        Bench { stores, db, token, api, address }
    }

    fn server<'a>(&'a self, name: &'static str, process: &Process, address: &str, kind: &'static str) -> Server<'a> {
        Server { name, process: process.id(), address: address.into(), kind, clients: CLIENTS, token: &self.token }
    }

    fn user(&self) -> User {
        User::new(&self.address, &self.token)
    }

    fn own<'a>(&'a self, name: &'static str, kind: &'static str) -> Server<'a> {
        self.server(name, &self.api, &self.address, kind)
    }

    async fn redis(&self) -> MultiplexedConnection {
        self.stores.redis_client().get_multiplexed_async_connection().await.unwrap()
    }
}

/// What `apply.lua` is given for so many orders of one line, placed now by any clients.
fn apply_arguments(fencing_token: &str) -> Vec<String> {
    const SOME: i64 = 1_000_000_000_000; // numbers from here on, in whose place redis-benchmark puts any
    let events: Vec<Event> = (SOME..SOME + IN_A_STEP).map(first_order).collect();
    let mut batch = Batch::default();
    for (index, event) in events.iter().enumerate() {
        batch.add(index, SOME + index as i64, event);
    }
    let mut script = redis::cmd(fencing_token);
    script.arg("1").arg("orders:changed");
    batch.write(&mut script, Utc::now(), KEEP_ORDERS);
    let arguments = script.args_iter().filter_map(|argument| match argument {
        redis::Arg::Simple(text) => Some(String::from_utf8_lossy(text).into_owned()),
        _ => None,
    });
    let mut arguments: Vec<String> = arguments.collect();
    for argument in &mut arguments {
        for event in &events {
            let Some(OrderPlaced { client_id, order_id, .. }) = event.order() else { continue };
            let (client, order) = (client_id.to_string(), order_id.to_string());
            // Twice, or some would be the same.
            let any = ANY.repeat(2);
            *argument = if *argument == order { any } else { argument.replace(&client, &any) };
        }
    }
    arguments
}

/// A client's first order, of one line, placed now.
fn first_order(client_id: i64) -> Event {
    let lines = vec![Line { product_id: 1, name: "Computer".into(), unit_price: 150_000, quantity: 1 }];
    let order = OrderPlaced {
        client_id,
        client_name: "Client".into(),
        client_email: "client@example.com".into(),
        order_id: uuid::Uuid::now_v7(),
        currency: "USD".into(),
        total: 150_000,
        lines,
    };
    Event { id: order.order_id, time: Utc::now(), version: 1, data: Change::OrderPlaced(order) }
}

/// Each has its turn several times, after it was warmed.
fn race(title: &str, servers: &[Server]) {
    for server in servers {
        server.turn(Duration::from_secs(2));
    }
    let turn = |server: &'static str, turn| -> Contender { (server, turn) };
    let turns = servers.iter().map(|server| turn(server.name, Box::new(|| server.turn(TURN))));
    print(title, &compare(&mut turns.collect::<Vec<_>>()));
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "a measurement: `make bench` runs it on a release build"]
async fn reads() {
    let bench = Bench::start().await;
    let mut redis = bench.redis().await;
    for ids in (1..=MANY).collect::<Vec<_>>().chunks(10_000) {
        let mut pipeline = redis::pipe();
        for id in ids {
            let (name, email) = (format!("Client {id}"), format!("{id}@example.com"));
            pipeline.cmd("HSET").arg(format!("orders:{{p{}}}:g1:client:{id}", id % 16));
            pipeline.arg(&["name", &name, "email", &email, "total", "300000", "orders", "3"]);
            pipeline.arg(&["last_purchase", "1700000000000", "version", "3", "newest", "3"]).ignore();
        }
        let () = pipeline.query_async(&mut redis).await.unwrap();
    }
    let mut command = Command::new(binary("bare"));
    command.arg("127.0.0.1:0").envs(bench.stores.variables());
    let mut bare = Process::spawn("bare", command);
    let bare_address = bare.line_with("bare is ready at ");
    let [mercurius, apollo, yoga] = ["mercurius", "apollo", "yoga"].map(|kind| peer(kind, &bench.stores));
    // All answer the same.
    let query = "{ client(id: \"7\") { id name email total { amount currencyCode } orderCount lastPurchase version } }";
    let ours = User::new(&bench.address, &bench.token).graphql(query).await;
    for (_, address) in [&mercurius, &apollo, &yoga] {
        assert_eq!(User::new(address, &bench.token).graphql(query).await, ours);
    }
    race(
        "One client: `client(id)`",
        &[
            bench.own("this service", "client"),
            Server { clients: MANY, ..bench.own("this service, of 200 000 clients", "client") },
            bench.server("axum and Redis, no GraphQL", &bare, &bare_address, "plain"),
            bench.server("Mercurius, JIT", &mercurius.0, &mercurius.1, "client"),
            bench.server("Apollo Server", &apollo.0, &apollo.1, "client"),
            bench.server("GraphQL Yoga", &yoga.0, &yoga.1, "client"),
        ],
    );
    race(
        "Fifty clients: `clientsByIds(ids)`",
        &[
            bench.own("this service", "clients"),
            bench.server("Mercurius, JIT, DataLoader", &mercurius.0, &mercurius.1, "clients"),
        ],
    );
}

/// A million clients, three years of days, ten thousand products: what dashboards ask, of 16 connections.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "a measurement: `make bench` runs it on a release build"]
async fn reports() {
    const CLIENTS: i64 = 1_000_000;
    const DAYS: u64 = 3 * 365;
    const PRODUCTS: i64 = 10_000;
    /// Products sold in a partition on a day, one in so many.
    const SOLD: i64 = 100;
    /// Of clients, more than are asked for at once.
    const PAGES: usize = 50;
    let bench = Bench::start().await;
    let mut redis = bench.redis().await;
    let now = Utc::now();
    let memory = async |redis: &mut MultiplexedConnection| {
        let info: String = redis::cmd("INFO").arg("memory").query_async(redis).await.unwrap();
        let used = info.lines().find_map(|line| line.strip_prefix("used_memory:")).unwrap();
        used.trim().parse::<f64>().unwrap()
    };
    let empty = memory(&mut redis).await;
    // By Redis itself: to send millions of commands takes minutes.
    let of_clients = "for id = tonumber(ARGV[1]), tonumber(ARGV[2]) do
            local partition, total = 'orders:{p' .. id % 16 .. '}:g1:', id * 7919 % 1000003 * 100
            local time = string.format('%d', ARGV[3] - id * 1000)
            redis.call('HSET', partition .. 'client:' .. id, 'name', 'Client ' .. id, 'email', id .. '@example.com',
                'total', total, 'orders', 3, 'last_purchase', time, 'version', 3, 'newest', 3)
            redis.call('ZADD', partition .. 'rank:total', total, id)
            redis.call('ZADD', partition .. 'rank:last', time, id)
        end";
    for first in (1..=CLIENTS).step_by(2_000) {
        let mut fill = redis::cmd("EVAL");
        fill.arg(of_clients).arg(0).arg(first).arg(first + 1_999).arg(now.timestamp_millis());
        let () = fill.query_async(&mut redis).await.unwrap();
    }
    let clients = memory(&mut redis).await;
    let days: Vec<NaiveDate> = (0..DAYS).map(|ago| now.date_naive() - Days::new(ago)).collect();
    let of_a_day = "local partition, day, cell, hours, hour, first, count, step = unpack(ARGV)
        local function set(page, cell)
            redis.call('BITFIELD', partition .. page, 'SET', 'i64', '#' .. 2 * cell, 12345, 'SET', 'i64', '#' .. 2 * cell + 1, 12)
        end
        set(day, cell)
        for after = 0, 23 do set(hours, hour + after) end
        for nth = 0, count / step - 1 do
            local product = (first + nth * step) % count + 1
            for period = 9, 10 do
                redis.call('HSET', partition .. ARGV[period], product .. ':units', 3, product .. ':revenue', 4500)
            end
        end";
    for partition in 0..16 {
        for day in &days {
            let time = day.and_time(Default::default()).and_utc();
            let mut fill = redis::cmd("EVAL");
            fill.arg(of_a_day).arg(0).arg(format!("orders:{{p{partition}}}:g1:"));
            for (page, cell) in [Resolution::Day.at(time), Resolution::Hour.at(time)] {
                fill.arg(page).arg(cell);
            }
            fill.arg(i64::from(day.num_days_from_ce()) * 31 + partition).arg(PRODUCTS).arg(SOLD);
            fill.arg(products_of_day(*day)).arg(products_of_month(*day));
            let () = fill.query_async(&mut redis).await.unwrap();
        }
    }
    let products = format!(
        "INSERT INTO products (name, price) SELECT 'Product ' || n, 1500 FROM generate_series(4, {PRODUCTS}) n"
    );
    bench.db.execute_unprepared(&products).await.unwrap();
    let sums = memory(&mut redis).await;
    println!("\n### A million clients, three years, ten thousand products\n");
    println!("{:<42} {:>8.0} bytes", "Redis: a client and its ranks", (clients - empty) / CLIENTS as f64);
    println!("{:<42} {:>8.0} MiB", "Redis: all sums of three years", (sums - clients) / 1024.0 / 1024.0);
    println!("\n| {:<44} | {:>7} | {:>8} | {:>8} |", "", "1/s", "p50 ms", "p99 ms");
    println!("|{:-<46}|{:->8}:|{:->9}:|{:->9}:|", "", "", "", "");
    let server = bench.own("this service", "client");
    let from = |ago: usize| days[ago].to_string();
    let mut pages: Vec<String> = Vec::new();
    let mut cursor = Value::Null;
    for _ in 0..PAGES {
        pages.push(format!("{{ clients(first: 100, after: {cursor}) {{ nodes {{ id name total {{ amount }} }} }} }}"));
        let query = format!("{{ clients(first: 100, after: {cursor}) {{ pageInfo {{ endCursor }} }} }}");
        cursor = bench.user().graphql(&query).await["data"]["clients"]["pageInfo"]["endCursor"].clone();
    }
    let points = "{ total { amount } points { start orderCount revenue { amount } } }";
    let sold = "{ units revenue { amount } product { name } }";
    for (name, queries) in [
        ("clients(first: 20)", vec!["{ clients { nodes { id name total { amount } } } }".to_owned()]),
        ("clients(first: 100, after:)", pages[1..2].to_vec()),
        ("clients(first: 100), other pages in turn", pages.clone()),
        ("sales, 30 days", vec![format!("{{ sales(from: \"{}\", to: \"{}\") {points} }}", from(29), from(0))]),
        ("sales, 1 000 days", vec![format!("{{ sales(from: \"{}\", to: \"{}\") {points} }}", from(999), from(0))]),
        (
            "sales, 36 months",
            vec![format!("{{ sales(from: \"{}\", to: \"{}\", granularity: MONTH) {points} }}", from(1_094), from(0))],
        ),
        (
            "sales, 40 days by the hour",
            vec![format!("{{ sales(from: \"{}\", to: \"{}\", granularity: HOUR) {points} }}", from(39), from(0))],
        ),
        ("topProducts, today", vec![format!("{{ topProducts(from: \"{}\", to: \"{}\") {sold} }}", from(0), from(0))]),
        (
            "topProducts, 30 days",
            vec![format!("{{ topProducts(from: \"{}\", to: \"{}\") {sold} }}", from(29), from(0))],
        ),
        (
            "topProducts, three years",
            vec![format!("{{ topProducts(from: \"{}\", to: \"{}\") {sold} }}", from(1_094), from(0))],
        ),
    ] {
        let answer = bench.user().graphql(&queries[0]).await;
        assert_eq!(answer["errors"], Value::Null, "{name}");
        let sample = server.repeat(TURN, 16, &queries);
        println!("| {name:<44} | {:>7.0} | {:>8.2} | {:>8.2} |", sample.rate, sample.p50, sample.p99);
    }
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "a measurement: `make bench` runs it on a release build"]
async fn orders() {
    let bench = Bench::start().await;
    let (peer, address) = peer("mercurius", &bench.stores);
    let (many, busy) = (bench.own("this service", "order"), bench.own("this service, all of one client", "busy"));
    let mercurius = bench.server("Mercurius and pg", &peer, &address, "order");
    let database_url = bench.stores.postgres.connection_uri();
    for server in [&many, &mercurius] {
        server.turn(Duration::from_secs(2));
    }
    let rows = compare(&mut [
        (many.name, Box::new(|| many.turn(TURN))),
        (busy.name, Box::new(|| busy.turn(TURN))),
        ("pgbench, the same statements", Box::new(|| pgbench(&database_url))),
        (mercurius.name, Box::new(|| mercurius.turn(TURN))),
    ]);
    print("Orders of two lines: `placeOrder`", &rows);
    // An answer that is an error has status 200 as well.
    for server in [&many, &mercurius] {
        let before = order::Entity::find().count(&bench.db).await.unwrap();
        let answered = server.turn(TURN).rate * TURN.as_secs_f64();
        let placed = order::Entity::find().count(&bench.db).await.unwrap() - before;
        assert!(placed as f64 > answered * 0.98, "{}: {placed} orders of {answered} answers", server.name);
    }
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "a measurement: `make bench` runs it on a release build"]
async fn projection() {
    const MESSAGES: i32 = 10_000;
    const LOG: u64 = 200_000;
    let bench = Bench::start().await;
    let endpoint = bench.stores.get("AWS_ENDPOINT_URL").to_owned();
    let http = reqwest::Client::new();
    // One order for each of so many clients, and so on, with ids in that order: made by SQL.
    let orders = format!(
        "WITH placed AS (
             SELECT gen_random_uuid() AS order_id, c.id AS client_id, v AS version FROM clients c, generate_series(1, {}) v
         ), orders AS (
             INSERT INTO orders (id, client_id, version, placed_at, total)
             SELECT order_id, client_id, version, now(), 150000 FROM placed
         ), items AS (
             INSERT INTO order_items (order_id, line, product_id, unit_price, quantity)
             SELECT order_id, 0, 1, 150000, 1 FROM placed
         ), raised AS (
             UPDATE clients SET version = {}
         )
         INSERT INTO order_events (id, client_id, version, type, payload, occurred_at)
         SELECT (lpad(to_hex((extract(epoch FROM now()) * 1000)::bigint + row_number() OVER (ORDER BY version, client_id)), 12, '0')
             || '7' || substr(replace(gen_random_uuid()::text, '-', ''), 14))::uuid, client_id, version, 'orders.OrderPlaced.v1', jsonb_build_object(
             'clientId', client_id, 'clientName', 'Client ' || client_id, 'clientEmail', client_id || '@example.com',
             'orderId', order_id, 'currency', 'USD', 'total', 150000, 'lines', jsonb_build_array(jsonb_build_object(
                 'productId', 1, 'name', 'Computer', 'unitPrice', 150000, 'quantity', 1))), now() FROM placed",
        LOG / CLIENTS as u64,
        LOG / CLIENTS as u64
    );
    bench.db.execute_unprepared(&orders).await.unwrap();
    let events = order_event::Entity::find().filter(order_event::Column::Version.eq(1)).all(&bench.db).await.unwrap();
    let messages: Vec<String> = events.iter().take(MESSAGES as usize).map(order_event::Model::message).collect();
    let mut turn = 0;
    let mut drained = async |program: &str| {
        // A queue of its own for each, which is full before it begins.
        turn += 1;
        let created = sqs(&http, &endpoint, "CreateQueue", json!({ "QueueName": format!("full-{turn}") })).await;
        let url = created["QueueUrl"].as_str().unwrap().to_owned();
        let () = redis::cmd("FLUSHALL").arg("ASYNC").query_async(&mut bench.redis().await).await.unwrap();
        for batch in messages.chunks(10) {
            let entries: Vec<Value> = (0..)
                .zip(batch)
                .map(|(id, body): (u32, _)| json!({ "Id": id.to_string(), "MessageBody": body }))
                .collect();
            sqs(&http, &endpoint, "SendMessageBatch", json!({ "QueueUrl": url, "Entries": entries })).await;
        }
        let variables = bench.stores.variables();
        let variables = variables.into_iter().filter(|(name, _)| !matches!(*name, "DATABASE_URL" | "QUEUE_URL"));
        let variables = variables.chain([("QUEUE_URL", &*url)]).collect::<Vec<_>>();
        let process = Process::start(program, &[], &variables);
        let left = async || -> i32 {
            let asked = json!({ "QueueUrl": url, "AttributeNames": ["All"] });
            let told = sqs(&http, &endpoint, "GetQueueAttributes", asked).await;
            let number = |name: &str| told["Attributes"][name].as_str().unwrap().parse::<i32>().unwrap();
            number("ApproximateNumberOfMessages") + number("ApproximateNumberOfMessagesNotVisible")
        };
        // Not how long it takes to start.
        until("the first messages are gone", async || left().await < MESSAGES).await;
        let (began, first) = (Instant::now(), left().await);
        until("the queue is empty", async || left().await == 0).await;
        let seconds = began.elapsed().as_secs_f64();
        drop(process);
        Sample { rate: f64::from(first) / seconds, ..Sample::default() }
    };
    let mut samples: [Vec<Sample>; 2] = Default::default();
    for _ in 0..ROUNDS {
        samples[0].push(drained("projector").await);
        samples[1].push(drained("drain").await);
    }
    print(
        "A full queue: receive, apply, delete",
        &[("projector", median(&samples[0])), ("receive and delete only", median(&samples[1]))],
    );

    // The script that applies an event, by what can send it fastest.
    let apply = |_| async {
        let mut redis = bench.redis().await;
        let () = redis::cmd("FLUSHALL").arg("ASYNC").query_async(&mut redis).await.unwrap();
        let told = bench.stores.run("projector", &["replay", "--json"]);
        let told: Value = serde_json::from_str(&told).unwrap();
        Sample { rate: told["events"].as_f64().unwrap() / told["seconds"].as_f64().unwrap(), ..Sample::default() }
    };
    let replayed: Vec<Sample> = stream::iter(0..ROUNDS).then(apply).collect().await;
    let mut redis = bench.redis().await;
    let mut applied = Vec::new();
    for _ in 0..ROUNDS {
        let () = redis::cmd("FLUSHALL").arg("ASYNC").query_async(&mut redis).await.unwrap();
        let mut command = Command::new(binary("apply"));
        let output = command.arg(LOG.to_string()).envs(bench.stores.variables()).output().unwrap();
        let rate = String::from_utf8_lossy(&output.stdout).trim().parse().unwrap_or_else(|_| panic!("{output:?}"));
        applied.push(Sample { rate, ..Sample::default() });
    }
    let script = std::fs::read_to_string(root("read_model/src/apply.lua")).unwrap();
    let sha: String = redis::cmd("SCRIPT").arg("LOAD").arg(&script).query_async(&mut redis).await.unwrap();
    let fencing_token: String =
        redis::cmd("GET").arg("orders:{p1}:fencing_token").query_async(&mut redis).await.unwrap();
    let (host, port) = bench.stores.redis.host_and_port().unwrap();
    let mut benchmarked = Vec::new();
    for _ in 0..ROUNDS {
        let mut empty = redis::pipe();
        empty
            .cmd("FLUSHALL")
            .arg("ASYNC")
            .ignore()
            .cmd("SET")
            .arg("orders:{p1}:fencing_token")
            .arg(&fencing_token)
            .ignore();
        empty.cmd("SCRIPT").arg("LOAD").arg(&script).ignore();
        let () = empty.query_async(&mut redis).await.unwrap();
        let output = Command::new("redis-benchmark")
            .args(["-h", host, "-p", &port.to_string(), "-c", "1", "-P", "16", "-q", "--csv"])
            .args(["-n", &(LOG as i64 / IN_A_STEP).to_string(), "-r", "1000000000"])
            .args(["EVALSHA", &sha, "2", "orders:{p1}:fencing_token", "orders:{p1}:nothing"])
            .args(apply_arguments(&fencing_token))
            .output()
            .unwrap();
        let said = String::from_utf8_lossy(&output.stdout).into_owned();
        let line = said.lines().last().unwrap_or_default();
        let rate = line.rsplit(',').nth(6).and_then(|rate| rate.trim_matches('"').parse::<f64>().ok());
        let keys: u64 = redis::cmd("DBSIZE").query_async(&mut redis).await.unwrap();
        assert!(keys > LOG * 9 / 10, "{keys} keys: {output:?}");
        let rate = rate.unwrap_or_else(|| panic!("{output:?}")) * IN_A_STEP as f64;
        benchmarked.push(Sample { rate, ..Sample::default() });
    }
    print(
        "Events applied to Redis, 500 in a round trip",
        &[
            ("applying", median(&applied)),
            ("redis-benchmark, the same script", median(&benchmarked)),
            ("projector replay, from PostgreSQL", median(&replayed)),
        ],
    );
    let () = redis::cmd("FLUSHALL").arg("ASYNC").query_async(&mut redis).await.unwrap();
    bench.stores.run("projector", &["replay"]);
    let told: Value = serde_json::from_str(&bench.stores.run("projector", &["verify", "--json"])).unwrap();
    println!(
        "\n`projector verify`: {} clients of {LOG} orders in {:.2} s",
        told["clients"],
        told["seconds"].as_f64().unwrap()
    );
}

/// From an order being sent until the read model tells that it has it, at a rate that does not wait for anybody.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "a measurement: `make bench` runs it on a release build"]
async fn latency() {
    let bench = Bench::start().await;
    let mut projector = Process::start("projector", &[], &bench.stores.variables());
    projector.line_with("ready health=");
    let user = User::new(&bench.address, &bench.token);
    let endpoint = bench.stores.get("AWS_ENDPOINT_URL").to_owned();
    println!("\n### Accepted until visible\n");
    println!("| {:<34} | {:>8} | {:>8} | {:>8} |", "", "offered", "p50 ms", "p99 ms");
    println!("|{:-<36}|{:->9}:|{:->9}:|{:->9}:|", "", "", "", "");
    let row = |what: &str, rate: u32, mut times: Vec<Duration>| {
        times.sort();
        let at = |share: f64| times[((times.len() - 1) as f64 * share).round() as usize].as_secs_f64() * 1e3;
        println!("| {what:<34} | {rate:>6}/s | {:>8.1} | {:>8.1} |", at(0.5), at(0.99));
    };
    for rate in [500, 2_000] {
        let number = rate * 5;
        // Each order is of another client, so that a change tells whose it is.
        let mut changes = bench.stores.redis_client().get_async_pubsub().await.unwrap();
        changes.subscribe("orders:changed").await.unwrap();
        let seen = tokio::spawn(async move {
            let (mut seen, mut messages) = (HashMap::new(), changes.into_on_message());
            while seen.len() < number as usize
                && let Ok(Some(message)) = tokio::time::timeout(Duration::from_secs(5), messages.next()).await
            {
                let ids: String = message.get_payload().unwrap();
                seen.extend(ids.split(' ').map(|id| (id.parse::<u32>().unwrap(), Instant::now())));
            }
            seen
        });
        let refused = Mutex::new(Vec::new());
        let placing = offered(rate, number, async |n| {
            if let Err(answer) = user.try_to_place(&(n + 1).to_string(), &EXAMPLE, None).await {
                refused.lock().unwrap().push(answer);
            }
        });
        let (sent, answered) = placing.await;
        let (seen, refused) = (seen.await.unwrap(), refused.into_inner().unwrap());
        if let Some(answer) = refused.first() {
            println!("{} of {number} orders were refused at {rate}/s: {}", refused.len(), answer["errors"]);
            continue;
        }
        let visible =
            (1..=number).filter_map(|n| Some(seen.get(&n)?.saturating_duration_since(answered[n as usize - 1])));
        row("answered until visible", rate, visible.collect());
        let placed = sent.iter().zip(&answered).map(|(sent, answered)| *answered - *sent);
        row("sent until answered", rate, placed.collect());

        // What the queue takes by itself, at the same rate, with as many pollers.
        let created = sqs(&user.http, &endpoint, "CreateQueue", json!({ "QueueName": format!("probe-{rate}") })).await;
        let url = created["QueueUrl"].as_str().unwrap().to_owned();
        let received = Arc::new(Mutex::new(HashMap::new()));
        let pollers: Vec<_> = (0..4)
            .map(|_| {
                let (http, endpoint, url, received) =
                    (user.http.clone(), endpoint.clone(), url.clone(), received.clone());
                tokio::spawn(async move {
                    loop {
                        let asked = json!({ "QueueUrl": url, "MaxNumberOfMessages": 10, "WaitTimeSeconds": 20 });
                        let told = sqs(&http, &endpoint, "ReceiveMessage", asked).await;
                        let messages = told["Messages"].as_array().cloned().unwrap_or_default();
                        for message in &messages {
                            let n: u32 = message["Body"].as_str().unwrap().parse().unwrap();
                            received.lock().unwrap().entry(n).or_insert_with(Instant::now);
                        }
                        let entries: Vec<Value> = (0..)
                            .zip(&messages)
                            .map(|(id, message): (u32, _)| {
                                json!({ "Id": id.to_string(), "ReceiptHandle": message["ReceiptHandle"] })
                            })
                            .collect();
                        sqs(&http, &endpoint, "DeleteMessageBatch", json!({ "QueueUrl": url, "Entries": entries }))
                            .await;
                    }
                })
            })
            .collect();
        let sending = offered(rate, number, async |n| {
            let message = json!({ "QueueUrl": url, "MessageBody": n.to_string() });
            sqs(&user.http, &endpoint, "SendMessage", message).await;
        });
        let (sent, _) = sending.await;
        until("all is received", async || received.lock().unwrap().len() == number as usize).await;
        pollers.iter().for_each(JoinHandle::abort);
        let received = received.lock().unwrap();
        row("the queue: send until receive", rate, (0..number).map(|n| received[&n] - sent[n as usize]).collect());
    }
}

/// Begins so many things a second, whether or not those before have ended; returns when each began and ended.
async fn offered(rate: u32, number: u32, each: impl AsyncFn(u32)) -> (Vec<Instant>, Vec<Instant>) {
    let began = Instant::now();
    let all = (0..number).map(|n| {
        let each = &each;
        async move {
            tokio::time::sleep_until((began + Duration::from_secs(1) * n / rate).into()).await;
            let sent = Instant::now();
            each(n).await;
            (sent, Instant::now())
        }
    });
    futures::future::join_all(all).await.into_iter().unzip()
}

#[tokio::test]
#[ignore = "a measurement: `make bench` runs it on a release build"]
async fn start() {
    let mut starts = Vec::new();
    for _ in 0..10 {
        let began = Instant::now();
        let mut process = Process::start("standalone", &[], &[("LISTEN_ADDR", "127.0.0.1:0")]);
        process.line_with("The order service is ready");
        starts.push(began.elapsed());
    }
    println!("\n### Start and size\n");
    print_times("standalone: start until ready", &mut starts);
    for program in ["api", "projector", "standalone"] {
        let size = std::fs::metadata(binary(program)).unwrap().len() as f64 / 1024.0 / 1024.0;
        println!("{program:<42} {size:>8.1} MiB on disk");
    }
}

/// Ten minutes of reads and orders, all of them projected: whether memory grows.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "a measurement: `make bench ONLY=soak` runs it on a release build"]
async fn soak() {
    #[expect(clippy::disallowed_methods, reason = "a parameter of the benchmark, not a setting")]
    let only = std::env::var("ONLY");
    if only.as_deref() != Ok("soak") {
        return; // it takes too long to be one of several
    }
    let bench = Bench::start().await;
    let projector = Process::start("projector", &[], &bench.stores.variables());
    println!("\n### Ten minutes\n");
    println!("| minute |   reads/s |  orders/s | api MiB | projector MiB |");
    println!("|-------:|----------:|----------:|--------:|--------------:|");
    for minute in 1..=10 {
        let half = Duration::from_secs(30);
        let reads = bench.own("this service", "client").turn(half);
        let orders = bench.own("this service", "order").turn(half);
        let (api, projector) = (mebibytes(bench.api.id(), "VmRSS"), mebibytes(projector.id(), "VmRSS"));
        println!("| {minute:>6} | {:>9.0} | {:>9.0} | {api:>7.0} | {projector:>13.0} |", reads.rate, orders.rate);
    }
}

/// What watching costs: the memory of the api for each of 2 000 idle sockets, and how long one change takes to reach all.
#[tokio::test]
#[ignore = "a measurement: `make bench` runs it on a release build"]
async fn subscribers() {
    const SUBSCRIBERS: u32 = 2_000;
    let services = Services::start(1);
    let user = &services.users[0];
    let (_, version) = user.place("1", &EXAMPLE, None).await;
    user.client_at("1", version).await;
    let before = mebibytes(services.apis[0].id(), "VmRSS");
    let mut sockets = Vec::new();
    for _ in 0..SUBSCRIBERS {
        let mut request = format!("ws://{}/graphql", user.address).into_client_request().unwrap();
        request.headers_mut().insert("sec-websocket-protocol", "graphql-transport-ws".parse().unwrap());
        let config = WebSocketConfig::default().read_buffer_size(1024);
        let (mut socket, _) = connect_async_with_config(request, Some(config), false).await.unwrap();
        let payload = json!({ "Authorization": format!("Bearer {}", user.token) });
        let query = "subscription { clientChanged(id: 1) { version } }";
        for message in [
            json!({ "type": "connection_init", "payload": payload }),
            json!({ "id": "1", "type": "subscribe", "payload": { "query": query } }),
        ] {
            socket.send(Message::text(message.to_string())).await.unwrap();
            socket.next().await.unwrap().unwrap();
        }
        sockets.push(socket);
    }
    let each = (mebibytes(services.apis[0].id(), "VmRSS") - before) * 1024.0 / f64::from(SUBSCRIBERS);
    println!("\n### 2 000 subscribers\n");
    println!("{:<42} {each:>8.1} KiB", "api: memory for each idle subscriber");

    let mut reached = Vec::new();
    for _ in 0..20 {
        let began = Instant::now();
        user.place("1", &EXAMPLE, None).await;
        for socket in &mut sockets {
            while !matches!(socket.next().await.unwrap().unwrap(), Message::Text(_)) {} // pings
        }
        reached.push(began.elapsed());
    }
    print_times("order sent until all subscribers have it", &mut reached);
}

fn print_times(what: &str, times: &mut [Duration]) {
    times.sort();
    let at = |share: f64| times[((times.len() - 1) as f64 * share).round() as usize].as_secs_f64() * 1_000.0;
    println!("{what:<42} {:>8.1} ms p50 {:>8.1} ms p99", at(0.5), at(0.99));
}
