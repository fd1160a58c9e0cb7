//! Writers: they place orders and change clients and prices until told to stop.

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

/// What a writer asks for: each answers with what is there then.
const PLACE: &str =
    "mutation ($input: PlaceOrderInput!) { it: placeOrder(input: $input) { is: order { id } userErrors { code } } }";

const UPDATE: &str = "mutation ($input: UpdateClientInput!) { it: updateClient(input: $input) { is: client { id } userErrors { code } } }";
const CHANGE: &str = "mutation ($input: ChangePriceInput!) { it: changePrice(input: $input) { is: product { id } userErrors { code } } }";

/// Places orders until told to stop, and changes clients and prices now and then, each until it is acknowledged.
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
        let (product, number) = (random.random_range(1..=3), random.random_range(1..=5));
        let (query, input) = match random.random_range(0..12) {
            0 => (UPDATE, json!({ "id": client, "name": key, "email": format!("{key}@example.com") })),
            1 => (CHANGE, json!({ "productId": product, "price": format!("{number}.50") })),
            _ => {
                let items = json!([{ "productId": product, "quantity": number }]);
                (PLACE, json!({ "clientId": client, "items": items, "idempotencyKey": key }))
            }
        };
        let body = json!({ "query": query, "variables": { "input": input } });
        loop {
            let api = apis.choose(&mut random).unwrap();
            let request = http.post(format!("http://{api}/graphql")).bearer_auth(&token).json(&body);
            let answer: Option<Value> = match request.send().await {
                Ok(answer) => answer.json().await.ok(),
                Err(_) => None,
            };
            if let Some(id) = answer.as_ref().and_then(|answer| answer["data"]["it"]["is"]["id"].as_str()) {
                if query == PLACE {
                    acknowledged.lock().unwrap().push(Acknowledged { client, key, order: id.into() });
                }
                break;
            }
            // Not acknowledged is one thing, refused another: nothing is wrong with it.
            let refused = answer.map_or(Value::Null, |answer| answer["data"]["it"]["userErrors"].clone());
            assert!(refused.is_null(), "{input} was refused: {refused}");
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }
}
