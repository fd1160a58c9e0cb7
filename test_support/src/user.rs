//! A user of one api, and the order of the AWS sample with its expected result.

use serde_json::{Value, json};

pub const SECRET: &str = "a secret of at least thirty-two bytes";
pub const ALL_SCOPES: &str = "orders:place orders:cancel orders:refund orders:read clients:read clients:write clients:forget products:read products:write sales:read system:read system:write";

/// The order that the AWS sample shows: 1 × product 1 and 3 × product 2.
pub const SAMPLE_ORDER: [(u32, u32); 2] = [(1, 1), (2, 3)];

#[derive(Clone)]
pub struct User {
    /// Host and port of the api.
    pub address: String,
    pub token: String,
    pub http: reqwest::Client,
}

impl User {
    pub fn new(address: &str, token: &str) -> User {
        User { address: address.into(), token: token.into(), http: reqwest::Client::new() }
    }

    pub async fn graphql(&self, query: &str) -> Value {
        self.request(&json!({ "query": query })).await
    }

    /// Sends a request with its query and variables.
    pub async fn request(&self, request: &Value) -> Value {
        let post = self.http.post(format!("http://{}/graphql", self.address)).bearer_auth(&self.token);
        post.json(request).send().await.unwrap().json().await.unwrap()
    }

    /// Places an order of (product, quantity) items. Returns the payload and the client's version.
    pub async fn place(&self, client: &str, items: &[(u32, u32)], key: Option<&str>) -> (Value, i64) {
        self.try_to_place(client, items, key).await.unwrap_or_else(|response| panic!("not placed: {response}"))
    }

    /// Like [`User::place`], but returns the response when it places no order.
    pub async fn try_to_place(
        &self,
        client: &str,
        items: &[(u32, u32)],
        key: Option<&str>,
    ) -> Result<(Value, i64), Value> {
        let items: Vec<String> =
            items.iter().map(|(product, n)| format!("{{ productId: \"{product}\", quantity: {n} }}")).collect();
        let key = key.map_or("null".into(), |key| format!("\"{key}\""));
        let response = self
            .graphql(&format!(
                "mutation {{ placeOrder(input: {{ clientId: \"{client}\", items: [{}], idempotencyKey: {key} }}) {{
                    order {{ id placedAt total {{ amount }} }} clientVersion replayed userErrors {{ code }} }} }}",
                items.join(" ")
            ))
            .await;
        let payload = response["data"]["placeOrder"].clone();
        payload["clientVersion"].as_i64().map(|version| (payload, version)).ok_or(response)
    }

    /// Reads the client, and waits until the read model has this version of it.
    pub async fn client_at(&self, client: &str, version: i64) -> Value {
        let response = self
            .graphql(&format!(
                "{{ client(id: \"{client}\", minVersion: {version}) {{
                    name email total {{ amount currencyCode }} orderCount lastPurchase version }} }}"
            ))
            .await;
        let client = response["data"]["client"].clone();
        assert!(client.is_object(), "{response}");
        client
    }
}

/// Bob's first event is his registration.
pub fn assert_is_bob(client: &Value, total: &str, orders: i64, last_purchase: &Value) {
    assert_eq!(
        *client,
        json!({
            "name": "Bob", "email": "bob@anemailprovider.com",
            "total": { "amount": total, "currencyCode": "USD" },
            "orderCount": orders, "lastPurchase": last_purchase, "version": orders + 1,
        })
    );
}

/// The status of a GET request.
pub async fn status(address: &str, path: &str) -> u16 {
    reqwest::get(format!("http://{address}{path}")).await.unwrap().status().as_u16()
}
