//! The [Runtime API](https://docs.aws.amazon.com/lambda/latest/dg/runtimes-api.html) of Lambda, and the function that it runs.

use std::process::Command;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use axum::extract::State;
use axum::response::IntoResponse;
use axum::routing::{get, post};
use axum::{Json, Router};
use serde_json::{Value, json};
use test_support::process::Process;
use test_support::until;
use tokio::net::TcpListener;
use tokio::sync::{Mutex, mpsc};
use tokio::time::timeout;

/// Longer than anything takes on a slow machine.
const PATIENCE: Duration = Duration::from_secs(30);

/// A running function.
pub struct Lambda {
    pub process: Process,
    events: mpsc::Sender<Value>,
    responses: mpsc::Receiver<Value>,
}

struct Api {
    events: Mutex<mpsc::Receiver<Value>>,
    responses: mpsc::Sender<Value>,
}

impl Lambda {
    /// Starts the function with these variables, besides those of Lambda, and waits until it is connected.
    pub async fn start(variables: &[(&str, &str)]) -> Lambda {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let ((events, next), (respond, responses)) = (mpsc::channel(1), mpsc::channel(1));
        let api = Arc::new(Api { events: Mutex::new(next), responses: respond });
        let router = Router::new()
            .route("/2018-06-01/runtime/invocation/next", get(next_event))
            .route("/2018-06-01/runtime/invocation/any/response", post(response))
            .with_state(api);
        tokio::spawn(async move { axum::serve(listener, router).await.unwrap() });
        let process = start(&[&[("AWS_LAMBDA_RUNTIME_API", &*address)], variables].concat());
        until("it is connected", async || process.lines().iter().any(|line| line.contains("ready"))).await;
        Lambda { process, events, responses }
    }

    /// Delivers messages, each with its id, and returns the ids of those that failed.
    pub async fn invoke(&mut self, messages: &[(&str, &str)]) -> Vec<String> {
        let records: Vec<Value> = messages.iter().map(|(id, body)| record(id, body)).collect();
        self.events.send(json!({ "Records": records })).await.unwrap();
        let response = timeout(PATIENCE, self.responses.recv()).await.expect("a response").unwrap();
        let failures = response["batchItemFailures"].as_array().expect("a list of failures");
        failures.iter().map(|failure| failure["itemIdentifier"].as_str().unwrap().to_owned()).collect()
    }
}

/// Starts the program with only these variables, and what Lambda tells each function.
pub fn start(variables: &[(&str, &str)]) -> Process {
    let mut command = Command::new(env!("CARGO_BIN_EXE_projector-lambda"));
    command.env_clear().env("AWS_EC2_METADATA_DISABLED", "true").env("LOG_FORMAT", "json");
    for (name, value) in [("NAME", "projector"), ("MEMORY_SIZE", "512"), ("VERSION", "$LATEST")] {
        command.env(format!("AWS_LAMBDA_FUNCTION_{name}"), value);
    }
    for (name, value) in [("REGION", "us-east-1"), ("ACCESS_KEY_ID", "any"), ("SECRET_ACCESS_KEY", "any")] {
        command.env(format!("AWS_{name}"), value);
    }
    command.envs(variables.iter().copied());
    Process::spawn("projector-lambda", command)
}

async fn next_event(State(api): State<Arc<Api>>) -> impl IntoResponse {
    let event = api.events.lock().await.recv().await.expect("an event of the test");
    let headers = [
        ("lambda-runtime-aws-request-id", "any".to_owned()),
        ("lambda-runtime-deadline-ms", (now() + 15_000).to_string()),
        ("lambda-runtime-invoked-function-arn", "arn:aws:lambda:us-east-1:000000000000:function:projector".to_owned()),
    ];
    (headers, Json(event))
}

/// The response has no content type.
async fn response(State(api): State<Arc<Api>>, response: String) {
    api.responses.send(serde_json::from_str(&response).unwrap()).await.expect("the test waits");
}

/// A message at its first delivery, as an event source mapping sends it.
fn record(id: &str, body: &str) -> Value {
    json!({
        "messageId": id,
        "receiptHandle": "any",
        "body": body,
        "attributes": {
            "ApproximateReceiveCount": "1",
            "SentTimestamp": now().to_string(),
            "SenderId": "any",
            "ApproximateFirstReceiveTimestamp": now().to_string(),
        },
        "messageAttributes": {},
        "md5OfBody": "any",
        "eventSource": "aws:sqs",
        "eventSourceARN": "arn:aws:sqs:us-east-1:000000000000:orders",
        "awsRegion": "us-east-1",
    })
}

/// Milliseconds since 1970.
fn now() -> u128 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_millis()
}
