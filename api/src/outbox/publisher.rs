//! Sends events to the SQS queue.

use std::collections::HashMap;
use std::time::Duration;

use aws_config::SdkConfig;
use aws_sdk_sqs::config::retry::RetryConfig;
use aws_sdk_sqs::config::timeout::TimeoutConfig;
use aws_sdk_sqs::error::{ProvideErrorMetadata, SdkError};
use aws_sdk_sqs::operation::send_message_batch::{SendMessageBatchError, SendMessageBatchOutput};
use aws_sdk_sqs::types::{
    BatchResultErrorEntry, MessageSystemAttributeNameForSends, MessageSystemAttributeValue,
    SendMessageBatchRequestEntry,
};
use entity::order_event;
use opentelemetry::KeyValue;
use runtime::{crash_point, crash_points, one_line, queue};
use tokio::sync::watch;
use tokio::time::{Instant, timeout};
use tracing::Instrument;
use uuid::Uuid;

use super::spans;
use crate::metrics::{OUTBOX_BATCH_SIZE, OUTBOX_FAILURES, OUTBOX_PUBLISHED};

/// Limits of one `SendMessageBatch` call. Every SQS-compatible server accepts 256 KiB.
/// <https://docs.aws.amazon.com/AWSSimpleQueueService/latest/APIReference/API_SendMessageBatch.html>
const MAX_BATCH_ENTRIES: usize = 10;
const MAX_BATCH_BYTES: usize = 256 * 1024;
/// Limit for one attempt of a call to SQS.
const ATTEMPT_TIMEOUT: Duration = Duration::from_secs(5);
/// Limit for a call with its retries by the SDK.
pub(super) const CALL_TIMEOUT: Duration = Duration::from_secs(15);
/// When the SDK first repeats a failed call.
const FIRST_RETRY: Duration = Duration::from_millis(50);
/// A backlog that was measured earlier is unknown: polls follow each other in seconds while the database responds.
const MAX_BACKLOG_AGE: Duration = Duration::from_secs(15);

#[derive(Clone)]
pub struct Queue {
    pub client: aws_sdk_sqs::Client,
    pub url: String,
    /// The events that wait for this queue, as the relay's last poll found it.
    pub backlog: watch::Sender<Backlog>,
}

/// The events that are not published.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Backlog {
    /// How long ago the oldest was inserted into the outbox. `None` if only the fast path has events.
    pub oldest: Option<Duration>,
    /// How many the queue has not refused; 10,000 stands for all larger numbers.
    pub pending: u64,
    /// How many the queue has refused; 1,000 stands for all larger numbers.
    pub refused: u64,
    /// Bytes of the write-ahead log that its reader has not confirmed; 0 if the relay publishes. `None` if no slot is left.
    pub unread_log: Option<u64>,
    pub measured_at: Option<Instant>,
}

impl Backlog {
    /// The backlog, unless it was measured too long ago.
    pub fn if_recent(&self) -> Option<Backlog> {
        self.measured_at.is_some_and(|at| at.elapsed() < MAX_BACKLOG_AGE).then_some(*self)
    }
}

/// An event and its message.
#[derive(Clone, Debug)]
pub struct Outgoing {
    pub(super) id: Uuid,
    message: String,
    /// The context of the span that created it.
    pub(super) traceparent: Option<String>,
    pub(super) created: Instant,
}

impl Outgoing {
    pub fn of(event: &order_event::Model) -> Outgoing {
        let traceparent = event.traceparent.clone();
        Outgoing { id: event.id, message: event.message(), traceparent, created: Instant::now() }
    }

    pub fn id(&self) -> Uuid {
        self.id
    }

    fn entry(&self, is_traced: bool) -> SendMessageBatchRequestEntry {
        let entry = SendMessageBatchRequestEntry::builder().id(self.id).message_body(self.message.clone());
        let header = self.traceparent.as_deref().filter(|_| is_traced).and_then(spans::aws_trace_header);
        let header = header.map(|header| {
            let value = MessageSystemAttributeValue::builder().data_type("String").string_value(header);
            (MessageSystemAttributeNameForSends::AwsTraceHeader, value.build().expect("a type is given"))
        });
        let entry = entry.set_message_system_attributes(header.map(|header| HashMap::from([header])));
        entry.build().expect("an id and a body are given")
    }
}

/// The result of a call.
#[derive(Debug, Default)]
pub(super) struct Sent {
    pub accepted: Vec<Uuid>,
    /// Events to which the queue objects, each with the reason.
    pub refused: Vec<(Uuid, String)>,
    /// The other events. The queue may have received them or not.
    pub pending: Vec<Uuid>,
    /// Why they are pending.
    pub error: Option<String>,
    /// Whether SQS objects to something in the call: perhaps to a message.
    pub has_objection: bool,
    /// Whether the queue performed the call, even if it accepted no event.
    pub has_response: bool,
}

/// Why a call failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Cause {
    /// SQS objects to a message.
    Message,
    /// SQS objects to something in the call: perhaps to a message.
    Unknown,
    /// SQS takes no such call now: it fails, is unreachable or slow, limits calls, does not exist or denies access. Perhaps because of
    /// a message.
    Queue,
}

/// Parts of the codes of errors that do not depend on the messages of a call.
/// <https://docs.aws.amazon.com/AWSSimpleQueueService/latest/APIReference/CommonErrors.html>
const CODES_OF_THE_QUEUE: [&str; 15] = [
    "AccessDenied",
    "Expired",
    "InvalidAddress",
    "InvalidSecurity",
    "Kms",
    "KMS.",
    "LimitExceeded",
    "NonExistentQueue",
    "NotAuthorized",
    "OptInRequired",
    "OverLimit",
    "QueueDoesNotExist",
    "Signature",
    "Throttl",
    "Token",
];

fn cause(error: &SdkError<SendMessageBatchError>) -> Cause {
    let (Some(service), Some(response)) = (error.as_service_error(), error.raw_response()) else { return Cause::Queue };
    let (code, status) = (service.code().unwrap_or_default(), response.status().as_u16());
    if CODES_OF_THE_QUEUE.iter().any(|part| code.contains(part)) {
        return Cause::Queue;
    }
    match status {
        401 | 403 | 404 | 429 | 500.. => Cause::Queue,
        _ if service.is_batch_request_too_long() => Cause::Message,
        _ if ["InvalidMessageContents", "InvalidParameterValue"].contains(&code) => Cause::Message,
        _ => Cause::Unknown,
    }
}

impl Queue {
    pub fn new(settings: &SdkConfig, url: String) -> Queue {
        let timeouts =
            TimeoutConfig::builder().operation_attempt_timeout(ATTEMPT_TIMEOUT).operation_timeout(CALL_TIMEOUT);
        let timeouts = timeouts.build();
        let retries = RetryConfig::standard().with_initial_backoff(FIRST_RETRY);
        let config = aws_sdk_sqs::config::Builder::from(settings).timeout_config(timeouts).retry_config(retries);
        let client = aws_sdk_sqs::Client::from_conf(config.build());
        Queue { client, url, backlog: watch::Sender::default() }
    }

    /// # Errors
    /// When the queue does not exist, cannot be reached or is a FIFO queue.
    pub async fn check(&self) -> anyhow::Result<()> {
        queue::attributes(&self.client, &self.url).await.map(drop)
    }

    /// Sends a batch of events with one call.
    pub(super) async fn send(&self, batch: &[Outgoing], limit: Duration) -> Sent {
        let span = spans::send(&self.url, batch);
        let entries = batch.iter().map(|event| event.entry(!span.is_disabled())).collect();
        crash_point(crash_points::RELAY_MID_BATCHES);
        let request = self.client.send_message_batch().queue_url(&self.url).set_entries(Some(entries));
        OUTBOX_BATCH_SIZE.record(batch.len() as u64, &[]);
        let ids = batch.iter().map(|event| event.id).collect();
        let fail = |code: &str| {
            span.record("otel.status_code", "ERROR").record("error.type", code);
        };
        let sent = match timeout(limit, request.send()).instrument(span.clone()).await {
            Ok(Ok(response)) => {
                response.failed().first().into_iter().for_each(|entry| fail(entry.code()));
                Sent::performed(ids, &response)
            }
            Ok(Err(error)) => {
                fail(error.code().unwrap_or("_OTHER"));
                Sent::failed(ids, cause(&error), one_line(&error))
            }
            Err(_) => {
                fail("timeout");
                Sent::failed(ids, Cause::Queue, format!("the queue gave no response within {limit:?}"))
            }
        };
        sent.count();
        sent
    }
}

impl Sent {
    fn count(&self) {
        let why_pending = match self {
            Sent { has_response: true, .. } => "failed",
            Sent { has_objection: true, .. } => "objection",
            _ => "unavailable",
        };
        OUTBOX_PUBLISHED.add(self.accepted.len() as u64, &[]);
        for (reason, events) in [("refused", self.refused.len()), (why_pending, self.pending.len())] {
            if events > 0 {
                OUTBOX_FAILURES.add(events as u64, &[KeyValue::new("reason", reason)]);
            }
        }
    }

    /// An entry that failed without a fault of its sender stays pending.
    fn performed(ids: Vec<Uuid>, response: &SendMessageBatchOutput) -> Sent {
        let mut sent = Sent { pending: ids, has_response: true, ..Sent::default() };
        sent.accepted.extend(response.successful().iter().filter_map(|entry| entry.id().parse::<Uuid>().ok()));
        for entry in response.failed() {
            match entry.id().parse() {
                Ok(id) if entry.sender_fault() => sent.refused.push((id, reason(entry))),
                _ => sent.error = sent.error.or_else(|| Some(reason(entry))),
            }
        }
        sent.pending.retain(|id| !sent.accepted.contains(id) && sent.refused.iter().all(|(refused, _)| refused != id));
        sent
    }

    fn failed(ids: Vec<Uuid>, cause: Cause, error: String) -> Sent {
        match (cause, &ids[..]) {
            (Cause::Message, [id]) => Sent { refused: vec![(*id, error)], ..Sent::default() },
            _ => Sent { pending: ids, error: Some(error), has_objection: cause != Cause::Queue, ..Sent::default() },
        }
    }
}

fn reason(entry: &BatchResultErrorEntry) -> String {
    format!("{} {}", entry.code(), entry.message().unwrap_or_default()).trim_end().to_owned()
}

/// Divides events into batches within the limits of SQS, and keeps their order.
pub(super) fn batches(events: Vec<Outgoing>) -> Vec<Vec<Outgoing>> {
    let mut batches: Vec<Vec<Outgoing>> = Vec::new();
    let mut bytes = 0;
    for event in events {
        match batches.last_mut() {
            Some(batch) if batch.len() < MAX_BATCH_ENTRIES && bytes + event.message.len() <= MAX_BATCH_BYTES => {
                bytes += event.message.len();
                batch.push(event);
            }
            _ => {
                bytes = event.message.len();
                batches.push(vec![event]);
            }
        }
    }
    batches
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};
    use test_support::sqs::{intercepted, is_call};
    use winterbaume_core::{MockResponse, MockService};

    use super::*;

    fn event(bytes: usize) -> Outgoing {
        Outgoing { id: Uuid::now_v7(), message: "x".repeat(bytes), traceparent: None, created: Instant::now() }
    }

    fn sizes(messages: &[usize]) -> Vec<usize> {
        let messages: Vec<Outgoing> = messages.iter().map(|bytes| event(*bytes)).collect();
        batches(messages).iter().map(Vec::len).collect()
    }

    #[test]
    fn a_batch_has_at_most_ten_messages_and_256_kib() {
        assert_eq!(sizes(&[]), [0; 0]);
        assert_eq!(sizes(&[1; 10]), [10]);
        assert_eq!(sizes(&[1; 21]), [10, 10, 1]);
        assert_eq!(sizes(&[MAX_BATCH_BYTES / 2, MAX_BATCH_BYTES / 2]), [2]);
        assert_eq!(sizes(&[MAX_BATCH_BYTES / 2, MAX_BATCH_BYTES / 2 + 1, 1]), [1, 2]);
        assert_eq!(sizes(&[MAX_BATCH_BYTES, 1, MAX_BATCH_BYTES]), [1, 1, 1]);
    }

    /// A queue that `handle`s the ids of the events of a call.
    async fn queue(handle: impl Fn(&[&str]) -> (u16, Value) + Send + Sync + 'static) -> Queue {
        let aws = intercepted(move |sqs, request| {
            if !is_call(&request, "SendMessageBatch") {
                return sqs.handle(request);
            }
            let body: Value = serde_json::from_slice(&request.body).unwrap();
            let entries = body["Entries"].as_array().unwrap();
            let ids: Vec<&str> = entries.iter().filter_map(|entry| entry["Id"].as_str()).collect();
            let (status, body) = handle(&ids);
            Box::pin(async move { MockResponse::json(status, body.to_string()) })
        });
        let settings = aws.await;
        let created = aws_sdk_sqs::Client::new(&settings).create_queue().queue_name("orders").send().await.unwrap();
        Queue::new(&settings, created.queue_url.unwrap())
    }

    fn accept(ids: &[&str]) -> (u16, Value) {
        let entry = |id: &&str| json!({ "Id": id, "MessageId": "x", "MD5OfMessageBody": "x" });
        (200, json!({ "Successful": ids.iter().map(entry).collect::<Vec<_>>(), "Failed": [] }))
    }

    async fn send_failing(events: usize, status: u16, code: &str) -> Sent {
        let error = json!({ "__type": format!("com.amazonaws.sqs#{code}"), "message": "no" });
        let queue = queue(move |_| (status, error.clone())).await;
        queue.send(&(0..events).map(|_| event(1)).collect::<Vec<_>>(), CALL_TIMEOUT).await
    }

    #[tokio::test(start_paused = true)]
    async fn an_event_is_refused_only_if_the_queue_objects_to_it() {
        assert_eq!(send_failing(1, 400, "InvalidMessageContents").await.refused.len(), 1);
        let sent = send_failing(2, 400, "InvalidMessageContents").await;
        assert!(sent.refused.is_empty() && sent.pending.len() == 2 && sent.has_objection, "{sent:?}");
        for code in ["BatchRequestTooLong", "Strange"] {
            let sent = send_failing(1, 400, code).await;
            assert!(sent.refused.is_empty() && sent.has_objection, "{code}: {sent:?}");
        }
        for code in ["OverLimit", "RequestThrottled", "AccessDenied", "KmsDisabled", "QueueDoesNotExist"] {
            let sent = send_failing(1, 400, code).await;
            assert!(sent.refused.is_empty() && sent.pending.len() == 1 && !sent.has_objection, "{code}: {sent:?}");
        }
        let sent = send_failing(1, 500, "InternalError").await;
        assert!(sent.pending.len() == 1 && !sent.has_objection && !sent.has_response, "{sent:?}");
    }

    #[tokio::test]
    async fn an_entry_that_fails_without_a_fault_of_the_sender_stays_pending() {
        let events: Vec<Outgoing> = (0..3).map(|_| event(1)).collect();
        let ids: Vec<Uuid> = events.iter().map(|event| event.id).collect();
        let queue = queue(|ids| {
            let failed = |id: &str, sender_fault| json!({ "Id": id, "Code": "Some", "SenderFault": sender_fault });
            let (_, mut response) = accept(&ids[..1]);
            response["Failed"] = json!([failed(ids[1], false), failed(ids[2], true)]);
            (200, response)
        })
        .await;
        let sent = queue.send(&events, CALL_TIMEOUT).await;
        assert_eq!((sent.accepted, sent.refused), (vec![ids[0]], vec![(ids[2], "Some".into())]));
        assert_eq!(sent.pending, [ids[1]]);
        assert!(sent.has_response && sent.error.is_some());
    }
}
