//! A proxy in front of SQS that can fail in the ways in which SQS and the network can fail.

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

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    Works,
    /// Every call fails.
    Fails,
    /// Calls get no response before the client's timeout.
    Hangs,
    /// SQS performs each call, but the client gets an error.
    PerformsAndFails,
    /// SQS refuses each message.
    Refuses,
    /// SQS accepts about half of a batch; the rest is reported as failed.
    AcceptsHalf,
    /// SQS accepts a whole batch, but about half of it is reported as failed.
    AcceptsAllAndReportsHalf,
    /// SQS gets each batch twice.
    DeliversTwice,
    /// SQS gets each batch a second later and in reverse order.
    DeliversLate,
}

impl Mode {
    pub const FAULTS: [Mode; 8] = [
        Mode::Fails,
        Mode::Refuses,
        Mode::Hangs,
        Mode::PerformsAndFails,
        Mode::AcceptsHalf,
        Mode::AcceptsAllAndReportsHalf,
        Mode::DeliversTwice,
        Mode::DeliversLate,
    ];
}

#[derive(Clone)]
pub struct QueueProxy {
    endpoint: String,
    http: reqwest::Client,
    state: Arc<Mutex<(Mode, StdRng)>>,
    sent: Arc<Mutex<Vec<Value>>>,
}

impl QueueProxy {
    /// Serves until the test ends. Returns also its URL.
    pub async fn start(endpoint: String, seed: u64) -> (QueueProxy, String) {
        let state = Arc::new(Mutex::new((Mode::Works, StdRng::seed_from_u64(seed))));
        let proxy = QueueProxy { endpoint, http: reqwest::Client::new(), state, sent: Arc::default() };
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let router = axum::Router::new().route("/", post(QueueProxy::call)).with_state(proxy.clone());
        tokio::spawn(async move { axum::serve(listener, router).await });
        (proxy, url)
    }

    pub fn set(&self, mode: Mode) {
        self.state.lock().unwrap().0 = mode;
    }

    /// The entries of all calls that sent messages.
    pub fn sent(&self) -> Vec<Value> {
        self.sent.lock().unwrap().clone()
    }

    async fn call(State(proxy): State<QueueProxy>, headers: HeaderMap, body: Bytes) -> Response {
        let mode = proxy.state.lock().unwrap().0;
        let sends = headers.get("x-amz-target").is_some_and(|target| target == "AmazonSQS.SendMessageBatch");
        if sends {
            let call: Value = serde_json::from_slice(&body).unwrap();
            proxy.sent.lock().unwrap().extend(call["Entries"].as_array().cloned().unwrap_or_default());
        }
        match mode {
            // Like SQS, it finishes a call even if the caller is gone.
            Mode::Works => tokio::spawn(async move { proxy.forward(&headers, body).await }).await.unwrap(),
            Mode::Hangs => {
                tokio::time::sleep(Duration::from_secs(10)).await;
                StatusCode::SERVICE_UNAVAILABLE.into_response()
            }
            Mode::Fails => StatusCode::INTERNAL_SERVER_ERROR.into_response(),
            Mode::PerformsAndFails => {
                proxy.forward(&headers, body).await;
                StatusCode::INTERNAL_SERVER_ERROR.into_response()
            }
            _ if !sends => proxy.forward(&headers, body).await,
            Mode::DeliversTwice => {
                proxy.forward(&headers, body.clone()).await;
                proxy.forward(&headers, body).await
            }
            Mode::DeliversLate => proxy.deliver_late(headers, &body),
            Mode::Refuses | Mode::AcceptsHalf | Mode::AcceptsAllAndReportsHalf => {
                proxy.report_failures(mode, &headers, body).await
            }
        }
    }

    async fn forward(&self, headers: &HeaderMap, body: Bytes) -> Response {
        let mut request = self.http.post(&self.endpoint).body(body);
        for (name, value) in headers.iter().filter(|(name, _)| *name != "host" && *name != "content-length") {
            request = request.header(name, value);
        }
        match request.send().await {
            Ok(response) => {
                let (status, headers) = (response.status(), response.headers().clone());
                (status, headers, response.bytes().await.unwrap_or_default()).into_response()
            }
            Err(_) => StatusCode::BAD_GATEWAY.into_response(),
        }
    }

    fn deliver_late(self, headers: HeaderMap, body: &Bytes) -> Response {
        let mut request: Value = serde_json::from_slice(body).unwrap();
        let entries = request["Entries"].as_array_mut().unwrap();
        let response = batch_response(&entries.clone(), &[], false);
        entries.reverse();
        tokio::spawn(async move {
            tokio::time::sleep(Duration::from_secs(1)).await;
            self.forward(&headers, request.to_string().into()).await;
        });
        response
    }

    async fn report_failures(&self, mode: Mode, headers: &HeaderMap, body: Bytes) -> Response {
        let mut request: Value = serde_json::from_slice(&body).unwrap();
        let entries = request["Entries"].as_array().unwrap().clone();
        let failing = if mode == Mode::Refuses { 1.0 } else { 0.5 };
        let (failed, accepted): (Vec<Value>, Vec<Value>) =
            entries.into_iter().partition(|_| self.state.lock().unwrap().1.random_bool(failing));
        if mode == Mode::AcceptsAllAndReportsHalf {
            self.forward(headers, body).await;
        } else if !accepted.is_empty() {
            request["Entries"] = json!(accepted);
            self.forward(headers, request.to_string().into()).await;
        }
        batch_response(&accepted, &failed, mode == Mode::Refuses)
    }
}

/// The response of `SendMessageBatch`.
fn batch_response(accepted: &[Value], failed: &[Value], sender_fault: bool) -> Response {
    let accepted = accepted.iter().map(|entry| json!({ "Id": entry["Id"], "MessageId": "x", "MD5OfMessageBody": "x" }));
    let failed =
        failed.iter().map(|entry| json!({ "Id": entry["Id"], "Code": "InternalError", "SenderFault": sender_fault }));
    let body = json!({ "Successful": accepted.collect::<Vec<_>>(), "Failed": failed.collect::<Vec<_>>() });
    ([("content-type", "application/x-amz-json-1.0")], body.to_string()).into_response()
}
