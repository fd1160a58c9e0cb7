//! Writers: each places orders, and now and then changes a client or a product, until the test stops it.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use rand::rngs::StdRng;
use rand::seq::IndexedRandom;
use rand::{Rng, SeedableRng};
use serde_json::{Value, json};

use super::CLIENTS;

/// What was acknowledged.
#[derive(Clone, Debug, Default)]
pub struct Acknowledged {
    pub placed: Vec<Placed>,
    /// Orders that were cancelled.
    pub cancelled: Vec<String>,
    /// The number of refunds.
    pub refunds: usize,
}

#[derive(Clone, Debug)]
pub struct Placed {
    pub client: i64,
    pub key: String,
    pub order: String,
}

// The aliases give all mutations one shape of response.
const PLACE: &str = "mutation ($input: PlaceOrderInput!) {
    result: placeOrder(input: $input) { object: order { id } userErrors { code } } }";
const UPDATE: &str = "mutation ($input: UpdateClientInput!) {
    result: updateClient(input: $input) { object: client { id } userErrors { code } } }";
const CHANGE: &str = "mutation ($input: UpdateProductInput!) {
    result: updateProduct(input: $input) { object: product { id } userErrors { code } } }";

const CANCEL: &str = "mutation ($input: CancelOrderInput!) {
    result: cancelOrder(input: $input) { object: order { id } userErrors { code } } }";
const REFUND: &str = "mutation ($input: RefundOrderInput!) {
    result: refundOrder(input: $input) { object: order { id } userErrors { code } } }";

/// Repeats each mutation until it is acknowledged. A mutation that is rejected fails the test, because nothing is wrong with any. Only
/// a refund may be late: another writer may have taken everything back.
pub async fn write(
    apis: Vec<String>,
    token: String,
    seed: u64,
    stop: Arc<AtomicBool>,
    acknowledged: Arc<Mutex<Acknowledged>>,
) {
    let http = reqwest::Client::builder().timeout(Duration::from_secs(20)).build().unwrap();
    let mut random = StdRng::seed_from_u64(seed);
    while !stop.load(Ordering::Relaxed) {
        let (client, key) = (random.random_range(1..=CLIENTS), format!("{:032x}", random.random::<u128>()));
        let order = acknowledged.lock().unwrap().placed.choose(&mut random).map(|placed| placed.order.clone());
        let (query, input) = random_mutation(&mut random, client, &key, order);
        let body = json!({ "query": query, "variables": { "input": input } });
        loop {
            let api = apis.choose(&mut random).unwrap();
            let request = http.post(format!("http://{api}/graphql")).bearer_auth(&token).json(&body);
            let response: Option<Value> = match request.send().await {
                Ok(response) => response.json().await.ok(),
                Err(_) => None,
            };
            let result = response.map_or(Value::Null, |response| response["data"]["result"].clone());
            if let Some(id) = result["object"]["id"].as_str() {
                let mut acknowledged = acknowledged.lock().unwrap();
                match query {
                    PLACE => acknowledged.placed.push(Placed { client, key, order: id.into() }),
                    CANCEL => acknowledged.cancelled.push(id.into()),
                    REFUND => acknowledged.refunds += 1,
                    _ => {}
                }
                break;
            }
            let code = result["userErrors"][0]["code"].as_str();
            if query == REFUND && matches!(code, Some("ORDER_CANCELLED" | "REFUND_OUT_OF_RANGE")) {
                break;
            }
            // The object alone is null where the change was made but the read model could not be read.
            assert_eq!(code, None, "{input} was rejected: {result}");
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }
}

/// `order` is the id of any order.
fn random_mutation(random: &mut StdRng, client: i64, key: &str, order: Option<String>) -> (&'static str, Value) {
    let (product, number) = (random.random_range(1..=3), random.random_range(1..=5));
    match (random.random_range(0..14), order) {
        (0, _) => (UPDATE, json!({ "id": client, "name": key, "email": format!("{key}@example.com") })),
        (1, _) => (
            CHANGE,
            json!({ "id": product, "name": key, "price": format!("{number}.50"), "sku": format!("{product}-{key}") }),
        ),
        (2, Some(order)) => (CANCEL, json!({ "orderId": order, "reason": "damaged", "idempotencyKey": key })),
        (3, Some(order)) => {
            let amount = format!("{number}.07");
            (REFUND, json!({ "orderId": order, "amount": amount, "reason": "late", "idempotencyKey": key }))
        }
        _ => {
            let items = json!([{ "productId": product, "quantity": number }]);
            (PLACE, json!({ "clientId": client, "items": items, "idempotencyKey": key }))
        }
    }
}
