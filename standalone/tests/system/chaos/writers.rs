//! Writers: each places orders, and now and then cancels or refunds one, changes a client or a product, or forgets a client, until
//! the test stops it.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use rand::Rng;
use rand::rngs::StdRng;
use rand::seq::IndexedRandom;
use serde_json::{Value, json};

use super::clients::Clients;

/// What was acknowledged.
#[derive(Clone, Debug, Default)]
pub struct Acknowledged {
    pub placed: Vec<Placed>,
    /// Orders that were cancelled.
    pub cancelled: Vec<String>,
    /// The number of refunds.
    pub refunds: usize,
    pub clients: Clients,
    /// The number of orders that may have been placed without a response: their client was forgotten when they were sent again.
    pub uncertain: usize,
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
const CANCEL: &str = "mutation ($input: CancelOrderInput!) {
    result: cancelOrder(input: $input) { object: order { id } userErrors { code } } }";
const REFUND: &str = "mutation ($input: RefundOrderInput!) {
    result: refundOrder(input: $input) { object: order { id } userErrors { code } } }";
const CHANGE: &str = "mutation ($input: UpdateProductInput!) {
    result: updateProduct(input: $input) { object: product { id } userErrors { code } } }";
const UPDATE: &str = "mutation ($input: UpdateClientInput!) {
    result: updateClient(input: $input) { object: client { id } userErrors { code } } }";
const FORGET: &str = "mutation ($input: ForgetClientInput!) {
    result: forgetClient(input: $input) { object: client { id } userErrors { code } } }";
const REGISTER: &str = "mutation ($input: RegisterClientInput!) {
    result: registerClient(input: $input) { object: client { id } userErrors { code } } }";

pub struct Writer {
    pub apis: Vec<String>,
    pub token: String,
    pub random: StdRng,
    pub acknowledged: Arc<Mutex<Acknowledged>>,
}

/// A mutation of an order or a client.
struct Mutation {
    query: &'static str,
    input: Value,
    client: i64,
    key: String,
}

/// Why a mutation was rejected.
#[derive(Debug)]
struct Rejected {
    code: String,
    /// Whether an earlier request for it got no response.
    was_repeated: bool,
}

impl Writer {
    /// Repeats each mutation until it is acknowledged. A mutation that is rejected fails the test, because nothing is wrong with any. Only
    /// some may be late: another writer has refunded everything, withdrawn the product or forgotten the client.
    pub async fn write(mut self, stop: Arc<AtomicBool>) {
        let http = reqwest::Client::builder().timeout(Duration::from_secs(20)).build().unwrap();
        while !stop.load(Ordering::Relaxed) {
            if self.random.random_range(0..60) == 0 {
                self.replace_client(&http).await;
                continue;
            }
            let Mutation { query, input, client, key } = self.random_mutation();
            let result = self.send(&http, query, &input).await;
            let mut acknowledged = self.acknowledged.lock().unwrap();
            let code = result.as_ref().err().map(|rejected| rejected.code.as_str());
            match (query, code) {
                (PLACE, None) => acknowledged.placed.push(Placed { client, key, order: result.unwrap() }),
                (CANCEL, None) => acknowledged.cancelled.push(result.unwrap()),
                (REFUND, None) => acknowledged.refunds += 1,
                (_, None)
                | (REFUND, Some("ORDER_CANCELLED" | "REFUND_OUT_OF_RANGE"))
                | (PLACE, Some("PRODUCT_NOT_AVAILABLE")) => {}
                (PLACE | UPDATE, Some("CLIENT_FORGOTTEN")) if acknowledged.clients.forgotten.contains(&client) => {
                    acknowledged.uncertain += usize::from(query == PLACE && result.unwrap_err().was_repeated);
                }
                _ => panic!("{input} was rejected: {result:?}"),
            }
        }
    }

    /// Forgets a client, and registers another one with its address.
    async fn replace_client(&mut self, http: &reqwest::Client) {
        let (client, email) = self.acknowledged.lock().unwrap().clients.remove_any(&mut self.random);
        let forget = json!({ "id": client, "idempotencyKey": self.word() });
        self.send(http, FORGET, &forget).await.unwrap();
        let name = self.word();
        let register = json!({ "name": name, "email": email, "idempotencyKey": self.word() });
        let client = self.send(http, REGISTER, &register).await.unwrap();
        self.acknowledged.lock().unwrap().clients.add(client.parse().unwrap(), [name, email]);
    }

    /// Sends a mutation until it has a result: the id of the object.
    async fn send(&mut self, http: &reqwest::Client, query: &str, input: &Value) -> Result<String, Rejected> {
        let body = json!({ "query": query, "variables": { "input": input } });
        let mut was_repeated = false;
        loop {
            let api = self.apis.choose(&mut self.random).unwrap();
            let request = http.post(format!("http://{api}/graphql")).bearer_auth(&self.token).json(&body);
            let response: Option<Value> = match request.send().await {
                Ok(response) => response.json().await.ok(),
                Err(_) => None,
            };
            let result = response.map_or(Value::Null, |response| response["data"]["result"].clone());
            if let Some(id) = result["object"]["id"].as_str() {
                return Ok(id.to_owned());
            }
            if let Some(code) = result["userErrors"][0]["code"].as_str() {
                return Err(Rejected { code: code.to_owned(), was_repeated });
            }
            // The object alone is null where the change was made but the read model could not be read.
            was_repeated = true;
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }

    /// A random word, which occurs nowhere else.
    fn word(&mut self) -> String {
        format!("{:032x}", self.random.random::<u128>())
    }

    fn random_mutation(&mut self) -> Mutation {
        let (key, word) = (self.word(), self.word());
        let mut acknowledged = self.acknowledged.lock().unwrap();
        let Acknowledged { placed, clients, .. } = &mut *acknowledged;
        let order = placed.choose(&mut self.random);
        let client = *clients.active.choose(&mut self.random).unwrap();
        let (product, number) = (self.random.random_range(1..=3), self.random.random_range(1..=5));
        let (query, client, input) = match (self.random.random_range(0..14), order) {
            (0, _) => {
                let email = format!("{word}@example.com");
                clients.sent(client, [word.clone(), email.clone()]);
                (UPDATE, client, json!({ "id": client, "name": word, "email": email }))
            }
            (1, _) => {
                let (price, sku, available) = (format!("{number}.50"), format!("{product}-{key}"), number > 1);
                let input = json!({ "id": product, "name": key, "price": price, "sku": sku, "available": available });
                (CHANGE, client, input)
            }
            (kind @ 2..=3, Some(Placed { client, order, .. })) => {
                clients.sent(*client, [word.clone()]);
                let mut input = json!({ "orderId": order, "reason": word, "idempotencyKey": key });
                if kind == 3 {
                    input["amount"] = json!(format!("{number}.07"));
                }
                (if kind == 3 { REFUND } else { CANCEL }, *client, input)
            }
            _ => {
                let items = json!([{ "productId": product, "quantity": number }]);
                (PLACE, client, json!({ "clientId": client, "items": items, "idempotencyKey": key }))
            }
        };
        Mutation { query, input, client, key }
    }
}
