//! Orders as a frontend sends them.

use std::collections::BTreeMap;
use std::f64::consts::TAU;
use std::net::SocketAddr;
use std::time::Duration;

use rand::Rng;
use runtime::one_line;
use serde_json::{Value, json};
use tokio::time::{Instant, sleep, sleep_until};
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use super::{Catalogue, Demo};

const PLACE: &str = "mutation Demo($input: PlaceOrderInput!) { result: placeOrder(input: $input) { order { id } userErrors { message } } }";
const CANCEL: &str =
    "mutation Demo($input: CancelOrderInput!) { result: cancelOrder(input: $input) { userErrors { message } } }";
const REFUND: &str =
    "mutation Demo($input: RefundOrderInput!) { result: refundOrder(input: $input) { userErrors { message } } }";
/// The longest time until an order is cancelled or refunded.
const REGRET: Duration = Duration::from_secs(60);
/// The rate rises and falls by a half in waves of this length.
const WAVE: Duration = Duration::from_secs(120);
const MAX_PAUSE: f64 = 60.0;
const MAX_LINES: usize = 4;
const TIMEOUT: Duration = Duration::from_secs(10);

#[derive(Clone)]
pub struct Traffic {
    http: reqwest::Client,
    url: String,
    token: String,
    shutdown: CancellationToken,
}

impl Traffic {
    pub fn new(address: SocketAddr, token: String, shutdown: CancellationToken) -> anyhow::Result<Traffic> {
        let http = reqwest::Client::builder().no_proxy().timeout(TIMEOUT).build()?;
        Ok(Traffic { http, url: format!("http://{address}/graphql"), token, shutdown })
    }

    /// Places the orders of a demo. They do not wait for each other.
    pub async fn run(&self, demo: Demo) -> anyhow::Result<()> {
        let (began, mut placed) = (Instant::now(), 0u64);
        let mut due = began;
        while began.elapsed() < demo.time {
            due += pause(demo.rate, began.elapsed());
            tokio::select! {
                () = sleep_until(due) => {}
                () = self.shutdown.cancelled() => return Ok(()),
            }
            let (traffic, order) = (self.clone(), random_order(demo.catalogue));
            tokio::spawn(async move { traffic.place(order).await });
            placed += 1;
        }
        info!(orders = placed, "the demo is over; the service keeps running");
        Ok(())
    }

    /// Places an order. Of a hundred orders, three are cancelled later and two are refunded in part.
    async fn place(&self, order: Value) {
        let placed = self.mutate(PLACE, order).await;
        let Some(id) = placed["order"]["id"].as_str() else { return };
        let (mutation, input) = match rand::rng().random_range(0..100) {
            0..3 => (CANCEL, json!({ "orderId": id, "reason": "Ordered by mistake" })),
            3..5 => (REFUND, json!({ "orderId": id, "amount": "5", "reason": "Arrived late" })),
            _ => return,
        };
        let pause = sleep(REGRET.mul_f64(rand::rng().random()));
        if self.shutdown.run_until_cancelled(pause).await.is_some() {
            self.mutate(mutation, input).await;
        }
    }

    /// The result of a mutation; null if it failed.
    async fn mutate(&self, query: &str, input: Value) -> Value {
        let body = json!({ "query": query, "variables": { "input": input } });
        let request = self.http.post(&self.url).bearer_auth(&self.token).json(&body);
        let response = async { request.send().await?.error_for_status()?.json::<Value>().await };
        match response.await {
            Ok(mut response) if response["errors"].is_null() => return response["data"]["result"].take(),
            _ if self.shutdown.is_cancelled() => {}
            Ok(response) => warn!("a request of the demo failed: {}", response["errors"]),
            Err(error) => warn!("{}: {}", self.url, one_line(&error)),
        }
        Value::Null
    }
}

/// The input of an order. A few clients and a few products have most of the orders, as in a real shop.
fn random_order(catalogue: Catalogue) -> Value {
    let mut random = rand::rng();
    let mut any_of = |count: usize| (count as f64 * random.random::<f64>().powi(3)) as usize + 1;
    let client_id = any_of(catalogue.clients);
    let mut quantities = BTreeMap::from([(any_of(catalogue.products), 1)]);
    while quantities.len() < MAX_LINES && rand::rng().random_bool(0.25) {
        *quantities.entry(any_of(catalogue.products)).or_insert(0) += 1;
    }
    let items = quantities.into_iter().map(|(id, quantity)| json!({ "productId": id, "quantity": quantity }));
    json!({ "clientId": client_id, "items": items.collect::<Vec<_>>() })
}

/// The time until the next order: exponentially distributed, as between independent customers.
fn pause(rate: f64, elapsed: Duration) -> Duration {
    let wave = 1.0 + 0.5 * (TAU * elapsed.as_secs_f64() / WAVE.as_secs_f64()).sin();
    let seconds = -(1.0 - rand::rng().random::<f64>()).ln() / (rate * wave);
    Duration::from_secs_f64(seconds.min(MAX_PAUSE))
}
