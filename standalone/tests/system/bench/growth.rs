//! What a larger store costs: the same work at ten times as many clients and orders.

use std::time::{Duration, Instant};

use redis::aio::MultiplexedConnection;
use sea_orm::{ConnectOptions, ConnectionTrait, Database, DatabaseConnection};
use serde_json::Value;
use test_support::fill::fill;
use test_support::process::Process;
use test_support::services::{Stores, sql};
use test_support::until;
use test_support::user::{ALL_SCOPES, User};

/// Clients of the larger store. The smaller one has a tenth.
const CLIENTS: i64 = 1_000_000;
const ORDERS_PER_CLIENT: i64 = 5;
/// The sweep of this measurement pauses for so long between two pages.
const PAUSE: Duration = Duration::from_millis(100);
/// Clients in a page of the sweep.
const PAGE: i64 = 2_000;

/// A figure, and of how many rows it is the time; 1 for a time that must not depend on their number.
struct Figure {
    name: &'static str,
    unit: &'static str,
    value: f64,
    rows: i64,
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "a measurement: `make bench ONLY=growth` runs it on a release build"]
async fn growth() {
    #[expect(clippy::disallowed_methods, reason = "a parameter of the benchmark, not a setting")]
    let (only, clients) = (std::env::var("ONLY"), std::env::var("CLIENTS"));
    if only.as_deref() != Ok("growth") {
        return; // too long to run with the others
    }
    let clients = clients.ok().and_then(|clients| clients.parse().ok()).unwrap_or(CLIENTS);
    let (small, large) = (measure(clients / 10).await, measure(clients).await);
    println!("\n### Growth\n");
    println!("| {:<44} | {:>14} | {:>14} | {:>7} |", "", "small", "large", "per row");
    println!("|{:-<46}|{:->15}:|{:->15}:|{:->8}:|", "", "", "", "");
    for (before, after) in small.iter().zip(&large) {
        let per_row = (after.value / after.rows as f64) / (before.value / before.rows as f64);
        let cell = |figure: &Figure| format!("{:.2} {}", figure.value, figure.unit);
        println!("| {:<44} | {:>14} | {:>14} | {per_row:>7.2} |", before.name, cell(before), cell(after));
    }
}

async fn measure(clients: i64) -> Vec<Figure> {
    let orders = ORDERS_PER_CLIENT * clients;
    let settings = [("shared_buffers", "2GB"), ("max_wal_size", "2GB"), ("autovacuum", "on"), ("work_mem", "16MB")];
    let stores = tokio::task::spawn_blocking(move || Stores::prepared_with(&settings)).await.unwrap();
    let mut options = ConnectOptions::new(stores.postgres.connection_uri());
    options.sqlx_logging(false);
    let db = Database::connect(options).await.unwrap();
    let began = Instant::now();
    fill(&db, clients, orders).await;
    println!("growth: {clients} clients and {orders} orders after {:.0} s", began.elapsed().as_secs_f64());

    let seconds = |report: &str, line: usize| -> f64 {
        let report: Value = serde_json::from_str(report.lines().nth(line).unwrap()).unwrap();
        report["seconds"].as_f64().unwrap()
    };
    let run = |arguments: &[&str]| tokio::task::block_in_place(|| stores.run("projector", arguments));
    let replay = seconds(&run(&["rebuild", "start", "--keep", "0s", "--json"]), 0);
    println!("growth: replayed in {replay:.0} s");
    let verify = seconds(&run(&["verify", "--in-flight", "0s", "--json"]), 0);
    println!("growth: verified in {verify:.0} s");
    let mut figures = vec![
        Figure { name: "replay of a rebuild", unit: "s", value: replay, rows: orders },
        Figure { name: "`projector verify`, with all sums", unit: "s", value: verify, rows: orders },
        Figure { name: "sweep, a page of 2,000 clients", unit: "ms", value: sweep(&stores, clients).await, rows: 1 },
    ];
    figures.extend(polls(&db).await);
    figures.extend(pages(&stores, clients).await);
    figures
}

/// Milliseconds for a page of the sweep.
async fn sweep(stores: &Stores, clients: i64) -> f64 {
    let mut variables = stores.variables();
    variables.extend([("SWEEP_INTERVAL", "100ms"), ("SWEEP_PERIOD", "0s")]);
    let mut projector = Process::start("projector", &[], &variables);
    projector.line_with("ready health=");
    let mut redis = stores.redis_client().get_multiplexed_async_connection().await.unwrap();
    until("the sweep has begun", async || compared(&mut redis).await > 0).await;
    let (began, first) = (Instant::now(), compared(&mut redis).await);
    let enough = (clients - PAGE).min(first + 50 * PAGE);
    until("it has compared some pages", async || compared(&mut redis).await >= enough).await;
    let pages = (compared(&mut redis).await - first) as f64 / PAGE as f64;
    (began.elapsed().as_secs_f64() / pages - PAUSE.as_secs_f64()) * 1_000.0
}

/// The clients that the sweep has compared in its round: their ids have no gaps.
async fn compared(redis: &mut MultiplexedConnection) -> i64 {
    let fields: Vec<String> = redis::cmd("HKEYS").arg("orders:meta").query_async(redis).await.unwrap();
    let Some(field) = fields.iter().find(|field| field.ends_with(":swept")) else { return 0 };
    let progress: String = redis::cmd("HGET").arg("orders:meta").arg(field).query_async(redis).await.unwrap();
    serde_json::from_str::<Value>(&progress).unwrap()["last"].as_i64().unwrap()
}

/// The relay's poll of an empty outbox, and of one from which many events were published while an old snapshot is open.
async fn polls(db: &DatabaseConnection) -> Vec<Figure> {
    let poll = "SELECT event_id FROM outbox WHERE inserted_at <= now() - interval '3 s' ORDER BY event_id LIMIT 200
                FOR UPDATE SKIP LOCKED";
    let empty = milliseconds(10, async || drop(db.query_all_raw(sql(poll)).await.unwrap())).await;
    let snapshot = sea_orm::TransactionTrait::begin(db).await.unwrap();
    for statement in ["SET TRANSACTION ISOLATION LEVEL REPEATABLE READ", "SELECT count(*) FROM outbox"] {
        snapshot.execute_unprepared(statement).await.unwrap();
    }
    let published = "INSERT INTO outbox (event_id) SELECT id FROM order_events ORDER BY id DESC LIMIT 100000";
    for statement in [published, "DELETE FROM outbox"] {
        db.execute_unprepared(statement).await.unwrap();
    }
    let with_snapshot = milliseconds(10, async || drop(db.query_all_raw(sql(poll)).await.unwrap())).await;
    snapshot.rollback().await.unwrap();
    vec![
        Figure { name: "poll of an empty outbox", unit: "ms", value: empty, rows: 1 },
        Figure { name: "the same, 100,000 published, old snapshot", unit: "ms", value: with_snapshot, rows: 1 },
    ]
}

/// Pages of lists, through the API.
async fn pages(stores: &Stores, clients: i64) -> Vec<Figure> {
    let token = stores.token(ALL_SCOPES, "1h");
    let mut api = Process::start("api", &[], &stores.variables());
    let user = User::new(&api.line_with("ready address="), &token);
    let time = async |query: String| {
        milliseconds(50, async || {
            let response = user.graphql(&query).await;
            assert!(response["errors"].is_null(), "{response}");
        })
        .await
    };
    let client = clients / 2;
    let to = chrono::Utc::now().date_naive();
    let from = to - chrono::Days::new(364);
    let queries = [
        (
            "page: a client and its recent orders",
            format!("{{ client(id: \"{client}\") {{ name recentOrders {{ id }} }} }}"),
        ),
        (
            "page: the top 50 clients",
            "{ clients(first: 50, sortBy: TOTAL_DESC) { nodes { id total { amount } } } }".to_owned(),
        ),
        (
            "page: the sales of a year by day",
            format!("{{ sales(from: \"{from}\", to: \"{to}\") {{ net {{ amount }} }} }}"),
        ),
    ];
    let mut figures = Vec::new();
    for (name, query) in queries {
        figures.push(Figure { name, unit: "ms", value: time(query).await, rows: 1 });
    }
    figures
}

/// The median time of a call.
async fn milliseconds(calls: usize, mut call: impl AsyncFnMut()) -> f64 {
    let mut times = Vec::new();
    for _ in 0..calls {
        let began = Instant::now();
        call().await;
        times.push(began.elapsed().as_secs_f64() * 1_000.0);
    }
    times.sort_by(f64::total_cmp);
    times[times.len() / 2]
}
