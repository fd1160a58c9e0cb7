//! Orders as a frontend sends them.

use std::f64::consts::TAU;
use std::net::SocketAddr;
use std::time::Duration;

use api::commands::place_order::{Item, PlaceOrder};
use rand::Rng;
use runtime::one_line;
use serde_json::{Value, json};
use tokio::time::{Instant, sleep, sleep_until};
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use super::{Demo, Regret};

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
            let (traffic, order) = (self.clone(), demo.catalogue.random_order());
            tokio::spawn(async move { traffic.place(order).await });
            placed += 1;
        }
        info!(orders = placed, "the demo is over; the service keeps running");
        Ok(())
    }

    /// Places an order. A few orders are cancelled or refunded later.
    async fn place(&self, PlaceOrder { client_id, items, .. }: PlaceOrder) {
        let item = |item: Item| json!({ "productId": item.product_id, "quantity": item.quantity });
        let items: Vec<Value> = items.into_iter().map(item).collect();
        let placed = self.mutate(PLACE, json!({ "clientId": client_id, "items": items })).await;
        let (Some(id), Some(regret)) = (placed["order"]["id"].as_str(), Regret::random()) else { return };
        let pause = sleep(REGRET.mul_f64(rand::rng().random()));
        if self.shutdown.run_until_cancelled(pause).await.is_some() {
            match regret {
                Regret::Cancel => self.mutate(CANCEL, json!({ "orderId": id, "reason": "Ordered by mistake" })).await,
                Regret::Refund => {
                    self.mutate(REFUND, json!({ "orderId": id, "amount": "5", "reason": "Arrived late" })).await
                }
            };
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

/// The time until the next order: exponentially distributed, as between independent customers.
fn pause(rate: f64, elapsed: Duration) -> Duration {
    let wave = 1.0 + 0.5 * (TAU * elapsed.as_secs_f64() / WAVE.as_secs_f64()).sin();
    let seconds = -(1.0 - rand::rng().random::<f64>()).ln() / (rate * wave);
    Duration::from_secs_f64(seconds.min(MAX_PAUSE))
}
