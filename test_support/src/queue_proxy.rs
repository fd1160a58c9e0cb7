//! What stands between the processes and the queue, and disturbs it.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use axum::body::Bytes;
use axum::extract::State;
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse, Response};
use axum::routing::post;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use serde_json::{Value, json};
use tokio::net::TcpListener;

/// What stands between the processes and the queue.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Queue {
    Works,
    /// Each call fails.
    IsDown,
    /// No call is answered for as long as anybody waits.
    Hangs,
    /// What was sent has arrived, but that is not told.
    AcceptsAndFails,
    /// Some of what was sent has arrived; the rest is reported as failed.
    TakesHalf,
    /// All has arrived; half of it is reported as failed.
    TakesAllAndSaysHalf,
    DeliversTwice,
    /// It arrives a second later, and in another order.
    DeliversLate,
}

#[derive(Clone)]
pub struct Proxy {
    endpoint: String,
    http: reqwest::Client,
    state: Arc<Mutex<(Queue, StdRng)>>,
}

impl Proxy {
    pub async fn start(endpoint: String, seed: u64) -> (Proxy, String) {
        let state = Arc::new(Mutex::new((Queue::Works, StdRng::seed_from_u64(seed))));
        let proxy = Proxy { endpoint, http: reqwest::Client::new(), state };
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = format!("http://{}", listener.local_addr().unwrap());
        let router = axum::Router::new().route("/", post(Proxy::call)).with_state(proxy.clone());
        tokio::spawn(async move { axum::serve(listener, router).await });
        (proxy, address)
    }

    pub fn set(&self, mode: Queue) {
        self.state.lock().unwrap().0 = mode;
    }

    async fn forward(&self, headers: &HeaderMap, body: Bytes) -> Response {
        let mut request = self.http.post(&self.endpoint).body(body);
        for (name, value) in headers.iter().filter(|(name, _)| *name != "host" && *name != "content-length") {
            request = request.header(name, value);
        }
        match request.send().await {
            Ok(answer) => {
                let (status, headers) = (answer.status(), answer.headers().clone());
                (status, headers, answer.bytes().await.unwrap_or_default()).into_response()
            }
            Err(_) => StatusCode::BAD_GATEWAY.into_response(),
        }
    }

    async fn call(State(proxy): State<Proxy>, headers: HeaderMap, body: Bytes) -> Response {
        let mode = proxy.state.lock().unwrap().0;
        let sends = headers.get("x-amz-target").is_some_and(|target| target == "AmazonSQS.SendMessageBatch");
        match mode {
            Queue::Works => proxy.forward(&headers, body).await,
            Queue::Hangs => {
                tokio::time::sleep(Duration::from_secs(10)).await;
                StatusCode::SERVICE_UNAVAILABLE.into_response()
            }
            Queue::IsDown => StatusCode::INTERNAL_SERVER_ERROR.into_response(),
            Queue::AcceptsAndFails => {
                proxy.forward(&headers, body).await;
                StatusCode::INTERNAL_SERVER_ERROR.into_response()
            }
            _ if !sends => proxy.forward(&headers, body).await,
            Queue::DeliversTwice => {
                proxy.forward(&headers, body.clone()).await;
                proxy.forward(&headers, body).await
            }
            Queue::TakesHalf | Queue::TakesAllAndSaysHalf | Queue::DeliversLate => {
                let mut request: Value = serde_json::from_slice(&body).unwrap();
                let all = request["Entries"].as_array().unwrap().clone();
                let failed: Vec<Value> = match mode {
                    Queue::DeliversLate => Vec::new(),
                    _ => all.iter().filter(|_| proxy.state.lock().unwrap().1.random_bool(0.5)).cloned().collect(),
                };
                let told: Vec<&Value> = all.iter().filter(|entry| !failed.contains(entry)).collect();
                let answer = json!({
                    "Successful": told.iter().map(|entry| json!({ "Id": entry["Id"], "MessageId": "x", "MD5OfMessageBody": "x" }))
                        .collect::<Vec<_>>(),
                    "Failed": failed.iter().map(|entry| json!({ "Id": entry["Id"], "Code": "InternalError", "SenderFault": false }))
                        .collect::<Vec<_>>(),
                });
                if mode == Queue::TakesHalf {
                    request["Entries"] = json!(told);
                }
                if mode == Queue::DeliversLate {
                    request["Entries"].as_array_mut().unwrap().reverse();
                    tokio::spawn(async move {
                        tokio::time::sleep(Duration::from_secs(1)).await;
                        proxy.forward(&headers, request.to_string().into()).await;
                    });
                } else if !request["Entries"].as_array().unwrap().is_empty() {
                    proxy.forward(&headers, request.to_string().into()).await;
                }
                ([("content-type", "application/x-amz-json-1.0")], answer.to_string()).into_response()
            }
        }
    }
}
