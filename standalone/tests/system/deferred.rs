//! `placeOrder(mode: DEFERRED)` while the database is away.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use sea_orm::{ConnectionTrait, Database};
use serde_json::json;
use test_support::gate::{Gate, Passage};
use test_support::load::Load;
use test_support::services::{Services, Stores, sql};
use test_support::until;
use tokio::time::sleep;

const ORDER: &str = "mutation ($input: PlaceOrderInput!) { placeOrder(input: $input, mode: DEFERRED) {
    order { id } request { id } userErrors { code } } }";

/// The database refuses connections, then swallows everything, each for some seconds. The load and the duration are small, because the
/// tests share two cores.
#[tokio::test(flavor = "multi_thread")]
async fn no_order_is_refused_while_the_database_is_away_and_each_is_placed_once() {
    let mut stores = tokio::task::spawn_blocking(Stores::prepared).await.unwrap();
    let created = tokio::task::block_in_place(|| stores.run("projector", &["queues", "create", "intake"]));
    let intake = created.lines().next().unwrap().split_whitespace().last().unwrap().to_owned();
    let database = stores.get("DATABASE_URL").to_owned();
    let host = database.split('@').next_back().unwrap().split('/').next().unwrap().to_owned();
    let gate = Gate::in_front_of(&host).await;
    stores.set("DATABASE_URL", &database.replace(&host, &gate.address));
    stores.set("INTAKE_QUEUE_URL", &intake);
    stores.set("RATE_LIMIT", "0");
    let services = tokio::task::spawn_blocking(|| Services::start_on(stores, 2)).await.unwrap();
    let db = Database::connect(&database).await.unwrap();

    let (placed, accepted) = (Arc::<Mutex<BTreeSet<String>>>::default(), Arc::<Mutex<BTreeSet<String>>>::default());
    let load = Load::start_with(&services.users, 8, {
        let (placed, accepted) = (placed.clone(), accepted.clone());
        move |user, writer, turn| {
            let (placed, accepted) = (placed.clone(), accepted.clone());
            async move {
                let (client, key) = ((writer % 3 + 1).to_string(), format!("{writer}-{turn}"));
                let items = json!([{ "productId": "1", "quantity": 1 }]);
                let input = json!({ "clientId": client, "items": items, "idempotencyKey": key });
                let response = user.request(&json!({ "query": ORDER, "variables": { "input": input } })).await;
                let payload = &response["data"]["placeOrder"];
                let set = match (payload["order"].is_object(), payload["request"].is_object()) {
                    (true, false) => placed,
                    (false, true) => accepted,
                    _ => panic!("an order is refused: {response}"),
                };
                set.lock().unwrap().insert(key);
            }
        }
    });
    load.place_more(50).await;
    for passage in [Passage::Closed, Passage::Silent] {
        gate.set(passage);
        load.place_more(50).await;
        sleep(Duration::from_secs(5)).await;
        load.place_more(50).await;
        gate.set(Passage::Open);
        let before = placed.lock().unwrap().len();
        until("orders are placed at once again", async || placed.lock().unwrap().len() > before + 20).await;
    }
    let orders = load.stop().await;
    let (placed, accepted) = (placed.lock().unwrap().clone(), accepted.lock().unwrap().clone());
    assert!(placed.is_disjoint(&accepted) && placed.len() + accepted.len() == orders);
    assert!(accepted.len() >= 100, "{} orders were accepted", accepted.len());

    let number = async |table: &str| -> i64 {
        let row = db.query_one_raw(sql(&format!("SELECT count(*) AS number FROM {table}"))).await.unwrap().unwrap();
        row.try_get("", "number").unwrap()
    };
    until("every accepted order is placed", async || number("idempotency_keys").await == orders as i64).await;
    assert_eq!(number("orders").await, orders as i64, "each key has one order");
    services.stores.until_nothing_differs().await;
}
