//! Changes in an api that is killed before and after their commit.

use runtime::crash_points::{CHANGE_AFTER_COMMIT, CHANGE_BEFORE_COMMIT};
use sea_orm::{ConnectionTrait, Database, DatabaseConnection};
use serde_json::{Value, json};
use test_support::process::Process;
use test_support::services::{Stores, sql};
use test_support::user::{ALL_SCOPES, SAMPLE_ORDER, User};

/// Mutations with the type of their event. ORDER stands for the id of an order of client 1. Without a key, an order that is cancelled and
/// a client that is forgotten remain so.
const CHANGES: [(&str, &str); 7] = [
    (
        "refundOrder(input: { orderId: \"ORDER\", amount: \"5\", reason: \"late\", idempotencyKey: \"KEY\" })",
        "orders.OrderRefunded.v1",
    ),
    ("cancelOrder(input: { orderId: \"ORDER\", reason: \"damaged\" })", "orders.OrderCancelled.v1"),
    (
        "registerClient(input: { name: \"Zoe\", email: \"KEY@example.com\", idempotencyKey: \"KEY\" })",
        "clients.ClientRegistered.v1",
    ),
    ("updateClient(input: { id: 1, name: \"Robert KEY\", idempotencyKey: \"KEY\" })", "clients.ClientUpdated.v1"),
    ("createProduct(input: { name: \"Lamp\", price: \"9\", idempotencyKey: \"KEY\" })", "products.ProductCreated.v1"),
    ("updateProduct(input: { id: 1, name: \"Desk KEY\", idempotencyKey: \"KEY\" })", "products.ProductUpdated.v1"),
    ("forgetClient(input: { id: FORGOTTEN })", "clients.ClientForgotten.v1"),
];

async fn count(db: &DatabaseConnection, from: &str) -> i64 {
    let row = db.query_one_raw(sql(&format!("SELECT count(*) FROM {from}"))).await.unwrap().unwrap();
    row.try_get("", "count").unwrap()
}

async fn start(stores: &Stores, failpoints: &str, token: &str) -> (Process, User) {
    let variables = [&stores.variables()[..], &[("FAILPOINTS", failpoints)]].concat();
    let mut api = Process::start("api", &[], &variables);
    let user = User::new(&api.line_with("ready address="), token);
    (api, user)
}

#[tokio::test(flavor = "multi_thread")]
async fn each_change_is_repeated_safely_after_a_crash_before_or_after_its_commit() {
    let stores = tokio::task::spawn_blocking(Stores::prepared).await.unwrap();
    let db = Database::connect(stores.postgres.connection_uri()).await.unwrap();
    let token = stores.token(ALL_SCOPES, "1h");
    let (_api, user) = start(&stores, "", &token).await;
    for (point, was_committed, forgotten) in [(CHANGE_BEFORE_COMMIT, false, "2"), (CHANGE_AFTER_COMMIT, true, "3")] {
        let (placed, _) = user.place("1", &SAMPLE_ORDER, None).await;
        let order = placed["order"]["id"].as_str().unwrap();
        for (change, event) in CHANGES {
            let key = format!("{point}-{event}");
            let change = change.replace("ORDER", order).replace("KEY", &key).replace("FORGOTTEN", forgotten);
            let query = format!("mutation {{ result: {change} {{ replayed userErrors {{ code }} }} }}");
            let events = format!("order_events WHERE type = '{event}'");
            let before = count(&db, &events).await;

            let (killed, its_user) = start(&stores, &format!("{point}=return"), &token).await;
            let request = its_user.http.post(format!("http://{}/graphql", its_user.address)).bearer_auth(&token);
            let response = request.json(&json!({ "query": query })).send().await;
            assert!(response.is_err(), "the api dies at {point} of {change}");
            assert!(killed.output().all().contains(&format!("crashed at {point}")));
            assert_eq!(count(&db, &events).await, before + i64::from(was_committed), "{point} of {change}");

            // The other api finds the change made or not, and publishes the event.
            for replayed in [was_committed, true] {
                let response = user.graphql(&query).await;
                let expected = json!({ "replayed": replayed, "userErrors": [] });
                assert_eq!(response["data"]["result"], expected, "{point} of {change}: {response}");
            }
            assert_eq!(count(&db, &events).await, before + 1, "{point} of {change}");
        }
    }
    let gaps = "(SELECT 1 FROM order_events GROUP BY client_id, product_id HAVING count(*) <> max(version)) AS gaps";
    assert_eq!(count(&db, gaps).await, 0);
    assert_eq!(count(&db, "orders WHERE refunded <> total").await, 0, "what is left is refunded by the cancellation");
    test_support::until("all events are published", async || count(&db, "outbox").await == 0).await;
    let response = user.graphql("{ orders { nodes { status net { amount } } } }").await;
    let cancelled = json!({ "status": "CANCELLED", "net": { "amount": "0.00" } });
    assert_eq!(response["data"]["orders"]["nodes"], json!([cancelled, cancelled]), "{response}");
    assert_eq!(response["errors"], Value::Null);
}
