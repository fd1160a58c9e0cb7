//! Writers: each places orders, and now and then changes a client or a product, until the test stops it.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use rand::rngs::StdRng;
use rand::seq::IndexedRandom;
use rand::{Rng, SeedableRng};
use serde_json::{Value, json};

use super::CLIENTS;

/// An order that was acknowledged.
#[derive(Clone, Debug)]
pub struct Acknowledged {
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

/// Repeats each mutation until it is acknowledged. A mutation that is rejected fails the test: nothing is wrong with any.
pub async fn write(
    apis: Vec<String>,
    token: String,
    seed: u64,
    stop: Arc<AtomicBool>,
    acknowledged: Arc<Mutex<Vec<Acknowledged>>>,
) {
    let http = reqwest::Client::builder().timeout(Duration::from_secs(20)).build().unwrap();
    let mut random = StdRng::seed_from_u64(seed);
    while !stop.load(Ordering::Relaxed) {
        let (client, key) = (random.random_range(1..=CLIENTS), format!("{:032x}", random.random::<u128>()));
        let (query, input) = random_mutation(&mut random, client, &key);
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
                if query == PLACE {
                    acknowledged.lock().unwrap().push(Acknowledged { client, key, order: id.into() });
                }
                break;
            }
            // The object alone is null where the change was made but the read model could not be read.
            let user_errors = result["userErrors"].as_array().map_or(0, Vec::len);
            assert_eq!(user_errors, 0, "{input} was rejected: {result}");
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }
}

fn random_mutation(random: &mut StdRng, client: i64, key: &str) -> (&'static str, Value) {
    let (product, number) = (random.random_range(1..=3), random.random_range(1..=5));
    match random.random_range(0..12) {
        0 => (UPDATE, json!({ "id": client, "name": key, "email": format!("{key}@example.com") })),
        1 => (
            CHANGE,
            json!({ "id": product, "name": key, "price": format!("{number}.50"), "sku": format!("{product}-{key}") }),
        ),
        _ => {
            let items = json!([{ "productId": product, "quantity": number }]);
            (PLACE, json!({ "clientId": client, "items": items, "idempotencyKey": key }))
        }
    }
}
