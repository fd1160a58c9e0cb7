//! A double of SNS in front of SQS: topics with subscribed queues. Calls to SQS pass through, so that both have one address.
//! A call that sends fails as its call to SQS does, so that a [`queue_proxy`](crate::queue_proxy) behind it disturbs both.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

use axum::Router;
use axum::body::Bytes;
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
    topics: Mutex<BTreeMap<String, Vec<Subscription>>>,
}

#[derive(Clone)]
struct Subscription {
    queue_arn: String,
    /// Such as `RawMessageDelivery`.
    attributes: Form,
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
    tokio::spawn(async move {
        match headers.get("x-amz-target").and_then(|target| target.to_str().ok()) {
            Some(target) => sns.sqs(target, body).await,
            None => sns.perform(url::form_urlencoded::parse(&body).into_owned().collect()).await,
        }
    })
    .await
    .unwrap()
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

    async fn call_sqs(&self, action: &str, body: Value) -> Result<Value, StatusCode> {
        let response = self.sqs(&format!("AmazonSQS.{action}"), body.to_string()).await;
        let status = response.status();
        let body = axum::body::to_bytes(response.into_body(), usize::MAX).await.unwrap_or_default();
        if status.is_success() { Ok(serde_json::from_slice(&body).unwrap_or_default()) } else { Err(status) }
    }

    async fn perform(&self, form: Form) -> Response {
        let action = &*form["Action"];
        if action == "CreateTopic" {
            let arn = format!("arn:aws:sns:us-east-1:123456789012:{}", form["Name"]);
            self.topics.lock().unwrap().entry(arn.clone()).or_default();
            return result(action, &format!("<TopicArn>{arn}</TopicArn>"));
        }
        let arn = &form["TopicArn"];
        let Some(subscriptions) = self.topics.lock().unwrap().get(arn).cloned() else {
            return error(StatusCode::NOT_FOUND, "NotFound");
        };
        match action {
            "GetTopicAttributes" => result(action, "<Attributes></Attributes>"),
            "Subscribe" => {
                let attribute = |index: usize| {
                    let part = |name: &str| form.get(&format!("Attributes.entry.{index}.{name}")).cloned();
                    Some((part("key")?, part("value")?))
                };
                let attributes = (1..).map_while(attribute).collect();
                let subscription = Subscription { queue_arn: form["Endpoint"].clone(), attributes };
                self.topics.lock().unwrap().get_mut(arn).unwrap().push(subscription);
                result(action, &format!("<SubscriptionArn>{arn}:{}</SubscriptionArn>", subscriptions.len()))
            }
            "ListSubscriptionsByTopic" => {
                let member = |subscription: &Subscription| {
                    format!("<member><Endpoint>{}</Endpoint></member>", subscription.queue_arn)
                };
                let members: String = subscriptions.iter().map(member).collect();
                result(action, &format!("<Subscriptions>{members}</Subscriptions>"))
            }
            "PublishBatch" => self.publish(arn, &form, &subscriptions).await,
            _ => error(StatusCode::BAD_REQUEST, "InvalidAction"),
        }
    }

    async fn publish(&self, arn: &str, form: &Form, subscriptions: &[Subscription]) -> Response {
        let entry = |index: usize| {
            let part = |name: &str| form.get(&format!("PublishBatchRequestEntries.member.{index}.{name}")).cloned();
            Some((part("Id")?, part("Message")?))
        };
        let entries: Vec<(String, String)> = (1..).map_while(entry).collect();
        let mut failed: BTreeMap<String, bool> = BTreeMap::new();
        for subscription in subscriptions {
            let wanted = entries.iter().filter(|(_, message)| subscription.wants(message));
            let wanted =
                wanted.map(|(id, message)| json!({ "Id": id, "MessageBody": subscription.body(arn, message) }));
            let wanted: Vec<Value> = wanted.collect();
            if wanted.is_empty() {
                continue;
            }
            let name = subscription.queue_arn.rsplit(':').next();
            let sent = async {
                let queue = self.call_sqs("GetQueueUrl", json!({ "QueueName": name })).await?;
                self.call_sqs("SendMessageBatch", json!({ "QueueUrl": queue["QueueUrl"], "Entries": wanted })).await
            };
            match sent.await {
                Ok(sent) => {
                    failed.extend(sent["Failed"].as_array().into_iter().flatten().map(|entry| {
                        (entry["Id"].as_str().unwrap().to_owned(), entry["SenderFault"].as_bool().unwrap())
                    }))
                }
                Err(status) => return error(status, "InternalError"),
            }
        }
        let accepted = entries.iter().filter(|(id, _)| !failed.contains_key(id));
        let accepted = accepted.map(|(id, _)| format!("<member><Id>{id}</Id><MessageId>x</MessageId></member>"));
        let failed = failed.iter().map(|(id, sender_fault)| {
            format!("<member><Id>{id}</Id><Code>InternalError</Code><SenderFault>{sender_fault}</SenderFault></member>")
        });
        let (accepted, failed): (String, String) = (accepted.collect(), failed.collect());
        result("PublishBatch", &format!("<Successful>{accepted}</Successful><Failed>{failed}</Failed>"))
    }
}

impl Subscription {
    fn has(&self, attribute: &str, value: &str) -> bool {
        self.attributes.get(attribute).is_some_and(|actual| actual == value)
    }

    /// Filters by lists of values of top-level fields.
    fn wants(&self, message: &str) -> bool {
        let Some(policy) = self.attributes.get("FilterPolicy") else { return true };
        assert!(self.has("FilterPolicyScope", "MessageBody"), "messages have no attributes");
        let (policy, message): (BTreeMap<String, Vec<Value>>, Value) =
            (serde_json::from_str(policy).unwrap(), serde_json::from_str(message).unwrap());
        policy.iter().all(|(field, values)| values.contains(&message[field]))
    }

    fn body(&self, arn: &str, message: &str) -> String {
        if self.has("RawMessageDelivery", "true") {
            return message.to_owned();
        }
        json!({ "Type": "Notification", "MessageId": "x", "TopicArn": arn, "Message": message }).to_string()
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
