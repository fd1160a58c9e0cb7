//! A user of one api, and what the sample's own example must give.

use serde_json::{Value, json};

pub const SECRET: &str = "a secret of at least thirty-two bytes";
pub const ALL: &str = "orders:place clients:read clients:write products:read products:write sales:read";

/// The sample's own example: 1 × product 1 and 3 × product 2.
pub const EXAMPLE: [(u32, u32); 2] = [(1, 1), (2, 3)];

/// A user of one api.
#[derive(Clone)]
pub struct User {
    pub address: String,
    pub token: String,
    pub http: reqwest::Client,
}

impl User {
    pub fn new(address: &str, token: &str) -> User {
        User { address: address.into(), token: token.into(), http: reqwest::Client::new() }
    }

    pub async fn graphql(&self, query: &str) -> Value {
        let request = self.http.post(format!("http://{}/graphql", self.address)).bearer_auth(&self.token);
        request.json(&json!({ "query": query })).send().await.unwrap().json().await.unwrap()
    }

    /// Places an order and returns the client's version.
    pub async fn place(&self, client: &str, items: &[(u32, u32)], key: Option<&str>) -> (Value, i64) {
        self.try_to_place(client, items, key).await.unwrap_or_else(|answer| panic!("not placed: {answer}"))
    }

    /// The same, or the answer with which it was refused.
    pub async fn try_to_place(
        &self,
        client: &str,
        items: &[(u32, u32)],
        key: Option<&str>,
    ) -> Result<(Value, i64), Value> {
        let items: Vec<String> =
            items.iter().map(|(product, n)| format!("{{ productId: \"{product}\", quantity: {n} }}")).collect();
        let key = key.map_or("null".into(), |key| format!("\"{key}\""));
        let answer = self
            .graphql(&format!(
                "mutation {{ placeOrder(input: {{ clientId: \"{client}\", items: [{}], idempotencyKey: {key} }}) {{
                    order {{ id placedAt total {{ amount }} }} clientVersion replayed userErrors {{ code }} }} }}",
                items.join(" ")
            ))
            .await;
        let placed = answer["data"]["placeOrder"].clone();
        placed["clientVersion"].as_i64().map(|version| (placed, version)).ok_or(answer)
    }

    /// The client once it includes a version.
    pub async fn client_at(&self, client: &str, version: i64) -> Value {
        let answer = self
            .graphql(&format!(
                "{{ client(id: \"{client}\", minVersion: {version}) {{
                    name email total {{ amount currencyCode }} orderCount lastPurchase version }} }}"
            ))
            .await;
        let client = answer["data"]["client"].clone();
        assert!(client.is_object(), "{answer}");
        client
    }
}

pub fn assert_is_bob(client: &Value, total: &str, orders: i64, last_purchase: &Value) {
    assert_eq!(
        *client,
        json!({
            "name": "Bob", "email": "bob@anemailprovider.com",
            "total": { "amount": total, "currencyCode": "USD" },
            "orderCount": orders, "lastPurchase": last_purchase, "version": orders,
        })
    );
}

pub async fn status(address: &str, path: &str) -> u16 {
    reqwest::get(format!("http://{address}{path}")).await.unwrap().status().as_u16()
}

/// Calls SQS as it is, without the SDK.
pub async fn sqs(http: &reqwest::Client, endpoint: &str, action: &str, body: Value) -> Value {
    let request = http.post(endpoint).header("x-amz-target", format!("AmazonSQS.{action}")).body(body.to_string());
    let answer = request.send().await.unwrap().text().await.unwrap();
    serde_json::from_str(&answer).unwrap_or_default()
}
