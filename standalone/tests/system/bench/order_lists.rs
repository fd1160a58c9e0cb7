//! Pages of orders, read by several users at the same time.

use std::time::Duration;

use chrono::{DateTime, TimeDelta, Utc};
use entity::order_event::least_id_at;
use rand::Rng;
use sea_orm::{ConnectOptions, ConnectionTrait, Database};
use serde_json::{Value, json};
use test_support::fill::fill;
use test_support::process::Process;
use test_support::services::Stores;
use test_support::user::{ALL_SCOPES, User};

use super::harness::{Server, TURN, print};

const ORDERS: i64 = 10_000_000;
const ORDERS_PER_CLIENT: i64 = 5;
const USERS: usize = 16;
/// Different pages of each list.
const PAGES: usize = 500;
/// How long each user looks at a page on average, in milliseconds: not at all, and so long that the processors are not busy all the time.
const PAUSES: [u64; 2] = [0, 60];

const FIELDS: [(&str, &str); 2] = [
    ("without their lines", "id placedAt status total { amount }"),
    ("with their lines", "id placedAt status total { amount } items { name quantity }"),
];

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
    let address = api.line_with("ready address=");
    let user = User::new(&address, &token);
    let server = Server { name: "api", process: api.id(), address, kind: "body", clients: 0, token: &token };
    let any_client = || rand::rng().random_range(1..=clients).to_string();
    let lists: [(&str, &dyn Fn() -> Value); 7] = [
        ("the newest", &|| json!({})),
        ("after any order", &|| json!({ "after": least_id_at(any_time()) })),
        ("of any day", &any_day),
        ("of a client", &|| json!({ "client": any_client() })),
        ("of a client and a day", &|| with(any_day(), "client", any_client().into())),
        ("cancelled, after any order", &|| json!({ "status": "CANCELLED", "after": least_id_at(any_time()) })),
        ("partially refunded, of any day", &|| with(any_day(), "status", "PARTIALLY_REFUNDED".into())),
    ];
    for (title, fields) in FIELDS {
        let query = format!(
            "query Orders($client: ID, $status: OrderStatus, $from: Date, $to: Date, $after: String) {{
                 orders(clientId: $client, status: $status, from: $from, to: $to, first: 20, after: $after) {{
                     nodes {{ {fields} }} pageInfo {{ endCursor }}
                 }}
             }}"
        );
        for pause in PAUSES {
            let mut rows = Vec::new();
            for (name, variables) in &lists {
                let request = |_| json!({ "query": query, "variables": variables() });
                let requests: Vec<Value> = (0..PAGES).map(request).collect();
                let response = user.request(&requests[0]).await;
                assert!(response["errors"].is_null(), "{response}");
                rows.push((*name, server.repeat(TURN, USERS, Duration::from_millis(pause), &requests)));
            }
            print(
                &format!("Pages of 20 of {orders} orders, {title}, read by {USERS} users who pause {pause} ms"),
                &rows,
            );
        }
    }
}

fn with(mut variables: Value, name: &str, value: Value) -> Value {
    variables[name] = value;
    variables
}

/// A time of the last year.
fn any_time() -> DateTime<Utc> {
    Utc::now() - TimeDelta::minutes(rand::rng().random_range(0..525_600))
}

fn any_day() -> Value {
    let day = any_time().date_naive();
    json!({ "from": day, "to": day })
}
