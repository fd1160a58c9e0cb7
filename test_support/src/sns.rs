//! A double of SNS in front of SQS: topics with subscribed queues, which get messages without an envelope. Calls to SQS pass through, so
//! that both have one address. A call that publishes fails as its call to SQS does, so that a [`queue_proxy`](crate::queue_proxy) behind
//! it disturbs both.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

use axum::Router;
use axum::body::{Bytes, to_bytes};
use axum::extract::State;
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse, Response};
use serde_json::{Value, json};
use tokio::net::TcpListener;

/// The parameters of a call, such as `TopicArn`.
type Form = BTreeMap<String, String>;

struct Sns {
    /// Of SQS.
    endpoint: String,
    http: reqwest::Client,
    /// The ARNs of topics, and of the queues that are subscribed to each.
    topics: Mutex<BTreeMap<String, Vec<String>>>,
}

/// Serves until the test ends. Returns its URL.
pub async fn serve(sqs_endpoint: String) -> String {
    let sns = Arc::new(Sns { endpoint: sqs_endpoint, http: reqwest::Client::new(), topics: Mutex::default() });
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let router = Router::new().fallback(call).with_state(sns);
    tokio::spawn(async move { axum::serve(listener, router).await });
    url
}

/// Like SNS, it finishes a call even if the caller is gone.
async fn call(State(sns): State<Arc<Sns>>, headers: HeaderMap, body: Bytes) -> Response {
    let call = async move {
        match headers.get("x-amz-target").and_then(|target| target.to_str().ok()) {
            Some(target) => sns.sqs(target, body).await,
            None => sns.perform(url::form_urlencoded::parse(&body).into_owned().collect()).await,
        }
    };
    tokio::spawn(call).await.unwrap()
}

impl Sns {
    async fn sqs(&self, target: &str, body: impl Into<reqwest::Body>) -> Response {
        match self.http.post(&self.endpoint).header("x-amz-target", target).body(body).send().await {
            Ok(response) => {
                let (status, headers) = (response.status(), response.headers().clone());
                (status, headers, response.bytes().await.unwrap_or_default()).into_response()
            }
            Err(_) => StatusCode::BAD_GATEWAY.into_response(),
        }
    }

    async fn perform(&self, form: Form) -> Response {
        let action = &*form["Action"];
        if action == "CreateTopic" {
            let arn = format!("arn:aws:sns:us-east-1:123456789012:{}", form["Name"]);
            self.topics.lock().unwrap().entry(arn.clone()).or_default();
            return result(action, &format!("<TopicArn>{arn}</TopicArn>"));
        }
        let arn = &form["TopicArn"];
        let Some(queues) = self.topics.lock().unwrap().get(arn).cloned() else {
            return error(StatusCode::NOT_FOUND, "NotFound");
        };
        match action {
            "GetTopicAttributes" => result(action, "<Attributes></Attributes>"),
            "Subscribe" => {
                let is_raw = form.iter().find(|(_, value)| *value == "RawMessageDelivery").is_some_and(|(key, _)| {
                    form.get(&key.replace(".key", ".value")).is_some_and(|value| value == "true")
                });
                assert!(is_raw, "this double knows no envelopes: {form:?}");
                self.topics.lock().unwrap().get_mut(arn).unwrap().push(form["Endpoint"].clone());
                result(action, &format!("<SubscriptionArn>{arn}:{}</SubscriptionArn>", queues.len()))
            }
            "ListSubscriptionsByTopic" => {
                let members = queues.iter().map(|queue| format!("<member><Endpoint>{queue}</Endpoint></member>"));
                result(action, &format!("<Subscriptions>{}</Subscriptions>", members.collect::<String>()))
            }
            "PublishBatch" => self.publish(&form, &queues).await,
            _ => error(StatusCode::BAD_REQUEST, "InvalidAction"),
        }
    }

    /// An entry fails if one of the queues does not accept it, although others have it then.
    async fn publish(&self, form: &Form, queues: &[String]) -> Response {
        let entry = |index: usize| {
            let part = |name: &str| form.get(&format!("PublishBatchRequestEntries.member.{index}.{name}"));
            Some((part("Id")?, part("Message")?))
        };
        let entries: Vec<(&String, &String)> = (1..).map_while(entry).collect();
        // The ids, and whether the sender is to blame.
        let mut failed: BTreeMap<String, bool> = BTreeMap::new();
        for queue in queues {
            let messages = entries.iter().map(|(id, message)| json!({ "Id": id, "MessageBody": message }));
            let sent = match self.send(queue, messages.collect()).await {
                Ok(sent) => sent,
                Err(status) => return error(status, "InternalError"),
            };
            for entry in sent["Failed"].as_array().into_iter().flatten() {
                failed.insert(entry["Id"].as_str().unwrap().to_owned(), entry["SenderFault"].as_bool().unwrap());
            }
        }
        let accepted = entries.iter().filter(|(id, _)| !failed.contains_key(*id));
        let accepted = accepted.map(|(id, _)| format!("<member><Id>{id}</Id><MessageId>x</MessageId></member>"));
        let failed = failed.iter().map(|(id, fault)| {
            format!("<member><Id>{id}</Id><Code>InternalError</Code><SenderFault>{fault}</SenderFault></member>")
        });
        let (accepted, failed): (String, String) = (accepted.collect(), failed.collect());
        result("PublishBatch", &format!("<Successful>{accepted}</Successful><Failed>{failed}</Failed>"))
    }

    async fn send(&self, queue_arn: &str, entries: Vec<Value>) -> Result<Value, StatusCode> {
        let name = queue_arn.rsplit(':').next();
        let queue = self.call_sqs("GetQueueUrl", json!({ "QueueName": name })).await?;
        self.call_sqs("SendMessageBatch", json!({ "QueueUrl": queue["QueueUrl"], "Entries": entries })).await
    }

    async fn call_sqs(&self, action: &str, body: Value) -> Result<Value, StatusCode> {
        let response = self.sqs(&format!("AmazonSQS.{action}"), body.to_string()).await;
        let status = response.status();
        let body = to_bytes(response.into_body(), usize::MAX).await.unwrap_or_default();
        if status.is_success() { Ok(serde_json::from_slice(&body).unwrap_or_default()) } else { Err(status) }
    }
}

fn result(action: &str, content: &str) -> Response {
    let body = format!("<{action}Response><{action}Result>{content}</{action}Result></{action}Response>");
    ([("content-type", "text/xml")], body).into_response()
}

fn error(status: StatusCode, code: &str) -> Response {
    let body = format!("<ErrorResponse><Error><Type>Sender</Type><Code>{code}</Code></Error></ErrorResponse>");
    (status, [("content-type", "text/xml")], body).into_response()
}
