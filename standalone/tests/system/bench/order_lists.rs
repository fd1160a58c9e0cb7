//! Pages of orders, read by several users at the same time.

use std::time::{Duration, Instant};

use chrono::{DateTime, TimeDelta, Utc};
use entity::order_event::least_id_at;
use futures::future::join_all;
use rand::Rng;
use sea_orm::{ConnectOptions, ConnectionTrait, Database};
use test_support::fill::fill;
use test_support::process::Process;
use test_support::services::Stores;
use test_support::user::{ALL_SCOPES, User};

const ORDERS: i64 = 10_000_000;
const ORDERS_PER_CLIENT: i64 = 5;
const USERS: usize = 16;
/// Pages that each user reads of each list.
const PAGES: usize = 500;

#[tokio::test(flavor = "multi_thread")]
#[ignore = "a measurement: `make bench ONLY=order_lists` runs it on a release build"]
async fn order_lists() {
    #[expect(clippy::disallowed_methods, reason = "a parameter of the benchmark, not a setting")]
    let (only, orders) = (std::env::var("ONLY"), std::env::var("ORDERS"));
    if only.as_deref() != Ok("order_lists") {
        return; // too long to run with the others
    }
    let orders = orders.ok().and_then(|orders| orders.parse().ok()).unwrap_or(ORDERS);
    let clients = orders / ORDERS_PER_CLIENT;
    let settings = [("shared_buffers", "2GB"), ("max_wal_size", "2GB"), ("autovacuum", "on"), ("work_mem", "16MB")];
    let mut stores = tokio::task::spawn_blocking(move || Stores::prepared_with(&settings)).await.unwrap();
    stores.set("MAX_OPERATIONS_PER_CALLER", "512"); // all requests have one token
    let mut options = ConnectOptions::new(stores.postgres.connection_uri());
    options.sqlx_logging(false);
    let db = Database::connect(options).await.unwrap();
    fill(&db, clients, orders).await;
    for statement in [
        "UPDATE orders SET refunded = total, cancelled_at = placed_at WHERE (client_id * 31 + version) % 100 = 1",
        "UPDATE orders SET refunded = 1 WHERE (client_id * 31 + version) % 100 = 2",
        "VACUUM ANALYZE orders",
    ] {
        db.execute_unprepared(statement).await.unwrap();
    }
    let token = stores.token(ALL_SCOPES, "1h");
    let mut api = Process::start("api", &[], &stores.variables());
    let user = User::new(&api.line_with("ready address="), &token);
    println!("\n### Pages of 20 of {orders} orders, read by {USERS} users\n");
    println!("| {:<40} | {:>9} | {:>9} |", "", "median", "p99");
    println!("|{:-<42}|{:->10}:|{:->10}:|", "", "", "");
    let any_client = || format!("clientId: \"{}\"", rand::rng().random_range(1..=clients));
    let lists: [(&str, &(dyn Fn() -> String + Sync)); 7] = [
        ("the newest", &|| "first: 20".into()),
        ("after any order", &|| format!("after: \"{}\"", least_id_at(any_time()))),
        ("of any day", &any_day),
        ("of a client", &any_client),
        ("of a client and a day", &|| format!("{}, {}", any_client(), any_day())),
        ("cancelled, after any order", &|| format!("status: CANCELLED, after: \"{}\"", least_id_at(any_time()))),
        ("partially refunded, of any day", &|| format!("status: PARTIALLY_REFUNDED, {}", any_day())),
    ];
    for (name, arguments) in lists {
        let times = join_all((0..USERS).map(|_| read_pages(&user, arguments))).await;
        let mut times: Vec<Duration> = times.concat();
        times.sort();
        let milliseconds = |share: f64| times[(times.len() as f64 * share) as usize].as_secs_f64() * 1_000.0;
        println!("| {name:<40} | {:>6.2} ms | {:>6.2} ms |", milliseconds(0.5), milliseconds(0.99));
    }
}

async fn read_pages(user: &User, arguments: &(dyn Fn() -> String + Sync)) -> Vec<Duration> {
    let mut times = Vec::with_capacity(PAGES);
    for _ in 0..PAGES {
        let fields = "nodes { id placedAt status total { amount } items { name quantity } } pageInfo { endCursor }";
        let query = format!("{{ orders({}) {{ {fields} }} }}", arguments());
        let began = Instant::now();
        let response = user.graphql(&query).await;
        times.push(began.elapsed());
        assert!(response["errors"].is_null(), "{response}");
    }
    times
}

/// A time of the last year.
fn any_time() -> DateTime<Utc> {
    Utc::now() - TimeDelta::minutes(rand::rng().random_range(0..525_600))
}

fn any_day() -> String {
    let day = any_time().date_naive();
    format!("from: \"{day}\", to: \"{day}\"")
}
