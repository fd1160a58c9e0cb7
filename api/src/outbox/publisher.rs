//! Sends events to an SQS queue or an SNS topic.

use std::error::Error;
use std::time::Duration;

use anyhow::bail;
use aws_config::SdkConfig;
use aws_config::retry::RetryConfig;
use aws_config::timeout::TimeoutConfig;
use aws_sdk_sqs::config::http::HttpResponse;
use aws_sdk_sqs::error::{ProvideErrorMetadata, SdkError};
use entity::order_event;
use opentelemetry::KeyValue;
use runtime::{crash_point, crash_points, one_line};
use tokio::sync::watch;
use tokio::time::{Instant, timeout};
use tracing::{Instrument, Span};
use uuid::Uuid;

use super::queue::Queue;
use super::spans;
use super::topic::Topic;
use crate::metrics::{OUTBOX_BATCH_SIZE, OUTBOX_FAILURES, OUTBOX_PUBLISHED};

/// Limits of one call: `SendMessageBatch` of SQS or `PublishBatch` of SNS. SQS itself accepts more bytes, but SNS and some
/// SQS-compatible servers accept 256 KiB.
/// <https://docs.aws.amazon.com/AWSSimpleQueueService/latest/APIReference/API_SendMessageBatch.html>
/// <https://docs.aws.amazon.com/sns/latest/api/API_PublishBatch.html>
const MAX_BATCH_ENTRIES: usize = 10;
const MAX_BATCH_BYTES: usize = 256 * 1024;
/// Limit for one attempt of a call.
const ATTEMPT_TIMEOUT: Duration = Duration::from_secs(5);
/// Limit for a call with its retries by the SDK.
pub(super) const CALL_TIMEOUT: Duration = Duration::from_secs(15);
/// When the SDK first repeats a failed call.
const FIRST_RETRY: Duration = Duration::from_millis(50);
/// A backlog that was measured earlier is unknown: polls follow each other in seconds while the database responds.
const MAX_BACKLOG_AGE: Duration = Duration::from_secs(15);

/// Where events are sent, and how many wait for that.
#[derive(Clone)]
pub struct Publisher {
    destination: Destination,
    /// The queue that the projector reads, if its URL is known.
    pub queue: Option<Queue>,
    /// The events that wait to be sent, as found by the last poll of the relay.
    pub backlog: watch::Sender<Backlog>,
}

#[derive(Clone)]
enum Destination {
    Queue(Queue),
    Topic(Topic),
}

impl From<Queue> for Publisher {
    fn from(queue: Queue) -> Publisher {
        Publisher {
            destination: Destination::Queue(queue.clone()),
            queue: Some(queue),
            backlog: watch::Sender::default(),
        }
    }
}

/// The events that are not published.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Backlog {
    /// How long ago the oldest was inserted into the outbox. `None` if only the fast path has events.
    pub oldest: Option<Duration>,
    /// How many were not refused; 10,000 stands for all larger numbers.
    pub pending: u64,
    /// How many were refused; 1,000 stands for all larger numbers.
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
    pub(super) message: String,
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
}

/// The result of a call.
#[derive(Debug, Default)]
pub(super) struct Sent {
    pub accepted: Vec<Uuid>,
    /// Events to which the queue or topic objects, each with the reason.
    pub refused: Vec<(Uuid, String)>,
    /// The other events. They may have been accepted or not.
    pub pending: Vec<Uuid>,
    /// Why they are pending.
    pub error: Option<String>,
    /// Whether the queue or topic objects to something in the call: perhaps to a message.
    pub has_objection: bool,
    /// Whether the call was performed, even if no event was accepted.
    pub has_response: bool,
}

/// The response to a call that was performed: the ids of accepted events, and the entries that failed.
pub(super) struct Response {
    pub accepted: Vec<String>,
    pub failed: Vec<FailedEntry>,
}

pub(super) struct FailedEntry {
    pub id: String,
    pub code: String,
    pub message: Option<String>,
    pub sender_fault: bool,
}

/// A call that was not performed.
pub(super) struct Failure {
    code: String,
    cause: Cause,
    error: String,
}

/// Why a call failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Cause {
    /// The queue or topic objects to a message.
    Message,
    /// The queue or topic objects to something in the call: perhaps to a message.
    Unknown,
    /// The queue or topic takes no such call now: it fails, is unreachable or slow, limits calls, does not exist or denies access.
    /// Perhaps because of a message.
    Destination,
}

/// Parts of the codes of errors that do not depend on the messages of a call.
/// <https://docs.aws.amazon.com/AWSSimpleQueueService/latest/APIReference/CommonErrors.html>
/// <https://docs.aws.amazon.com/sns/latest/api/API_PublishBatch.html#API_PublishBatch_Errors>
const CODES_OF_THE_DESTINATION: [&str; 16] = [
    "AccessDenied",
    "AuthorizationError",
    "Expired",
    "InvalidAddress",
    "InvalidSecurity",
    "Kms",
    "KMS",
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

impl Failure {
    /// `is_objection` returns whether an error with this code is an objection to a message.
    pub fn of<E>(error: &SdkError<E, HttpResponse>, is_objection: impl Fn(&E, &str) -> bool) -> Failure
    where
        E: ProvideErrorMetadata + Error + 'static,
    {
        let code = error.code().unwrap_or("_OTHER").to_owned();
        let status = error.raw_response().map(|response| response.status().as_u16());
        let cause = match (error.as_service_error(), status) {
            (None, _) | (_, None | Some(401 | 403 | 404 | 429 | 500..)) => Cause::Destination,
            _ if CODES_OF_THE_DESTINATION.iter().any(|part| code.contains(part)) => Cause::Destination,
            (Some(service), _) if is_objection(service, &code) => Cause::Message,
            _ => Cause::Unknown,
        };
        Failure { code, cause, error: one_line(error) }
    }
}

/// Adds the limits of a call to the settings of an SDK client.
pub(super) fn with_limits(settings: &SdkConfig) -> SdkConfig {
    let timeouts = TimeoutConfig::builder().operation_attempt_timeout(ATTEMPT_TIMEOUT).operation_timeout(CALL_TIMEOUT);
    let retries = RetryConfig::standard().with_initial_backoff(FIRST_RETRY);
    settings.to_builder().timeout_config(timeouts.build()).retry_config(retries).build()
}

impl Publisher {
    /// Sends to the topic, or to the queue if there is no topic.
    ///
    /// # Errors
    /// Without either of them.
    pub fn new(
        settings: &SdkConfig,
        topic_arn: Option<String>,
        queue_url: Option<String>,
    ) -> anyhow::Result<Publisher> {
        let queue = queue_url.map(|url| Queue::new(settings, url));
        let destination = match (topic_arn, &queue) {
            (Some(arn), _) => Destination::Topic(Topic::new(settings, arn)),
            (None, Some(queue)) => Destination::Queue(queue.clone()),
            (None, None) => {
                bail!("QUEUE_URL is not set: it must name the SQS queue of events, or TOPIC_ARN an SNS topic")
            }
        };
        Ok(Publisher { destination, queue, backlog: watch::Sender::default() })
    }

    /// Checks where events are sent.
    ///
    /// # Errors
    /// When the queue or topic does not exist, cannot be reached or is FIFO.
    pub async fn check(&self) -> anyhow::Result<()> {
        match &self.destination {
            Destination::Queue(queue) => queue.check().await,
            Destination::Topic(topic) => topic.check().await,
        }
    }

    /// Sends a batch of events with one call.
    pub(super) async fn send(&self, batch: &[Outgoing], limit: Duration) -> Sent {
        let span = match &self.destination {
            Destination::Queue(queue) => spans::send("aws_sqs", queue.name(), batch),
            Destination::Topic(topic) => spans::send("aws.sns", topic.name(), batch),
        };
        crash_point(crash_points::RELAY_MID_BATCHES);
        OUTBOX_BATCH_SIZE.record(batch.len() as u64, &[]);
        let ids = batch.iter().map(|event| event.id).collect();
        let fail = |code: &str| {
            span.record("otel.status_code", "ERROR").record("error.type", code);
        };
        let sent = match timeout(limit, self.call(batch, &span)).instrument(span.clone()).await {
            Ok(Ok(response)) => {
                response.failed.first().into_iter().for_each(|entry| fail(&entry.code));
                Sent::performed(ids, response)
            }
            Ok(Err(failure)) => {
                fail(&failure.code);
                Sent::failed(ids, failure.cause, failure.error)
            }
            Err(_) => {
                fail("timeout");
                Sent::failed(ids, Cause::Destination, format!("no response within {limit:?}"))
            }
        };
        sent.count();
        sent
    }

    async fn call(&self, batch: &[Outgoing], span: &Span) -> Result<Response, Failure> {
        match &self.destination {
            Destination::Queue(queue) => queue.send(batch, !span.is_disabled()).await,
            Destination::Topic(topic) => topic.publish(batch).await,
        }
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
    fn performed(ids: Vec<Uuid>, response: Response) -> Sent {
        let mut sent = Sent { pending: ids, has_response: true, ..Sent::default() };
        sent.accepted.extend(response.accepted.iter().filter_map(|id| id.parse::<Uuid>().ok()));
        for entry in &response.failed {
            match entry.id.parse() {
                Ok(id) if entry.sender_fault => sent.refused.push((id, entry.reason())),
                _ => sent.error = sent.error.or_else(|| Some(entry.reason())),
            }
        }
        sent.pending.retain(|id| !sent.accepted.contains(id) && sent.refused.iter().all(|(refused, _)| refused != id));
        sent
    }

    fn failed(ids: Vec<Uuid>, cause: Cause, error: String) -> Sent {
        match (cause, &ids[..]) {
            (Cause::Message, [id]) => Sent { refused: vec![(*id, error)], ..Sent::default() },
            _ => {
                Sent { pending: ids, error: Some(error), has_objection: cause != Cause::Destination, ..Sent::default() }
            }
        }
    }
}

impl FailedEntry {
    fn reason(&self) -> String {
        format!("{} {}", self.code, self.message.as_deref().unwrap_or_default()).trim_end().to_owned()
    }
}

/// Divides events into batches within the limits of a call, and keeps their order.
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
    use test_support::sqs::{Handling, intercepted, is_call};
    use winterbaume_core::{MockAws, MockRequest, MockResponse, MockService};

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
    async fn queue(handle: impl Fn(&[&str]) -> (u16, Value) + Send + Sync + 'static) -> Publisher {
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
        Queue::new(&settings, created.queue_url.unwrap()).into()
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

    /// An SNS that `handle`s the ids of the events of a call.
    struct Sns<F>(F);

    impl<F: Fn(&[&str]) -> (u16, String) + Send + Sync + 'static> MockService for Sns<F> {
        fn service_name(&self) -> &str {
            "sns"
        }

        fn url_patterns(&self) -> Vec<&str> {
            vec![r"https?://sns\."]
        }

        fn handle(&self, request: MockRequest) -> Handling<'_> {
            let form: Vec<_> = url::form_urlencoded::parse(&request.body).collect();
            let ids: Vec<&str> =
                form.iter().filter(|(name, _)| name.ends_with(".Id")).map(|(_, value)| &**value).collect();
            let (status, body) = (self.0)(&ids);
            Box::pin(async move { MockResponse::xml(status, body) })
        }
    }

    async fn topic(handle: impl Fn(&[&str]) -> (u16, String) + Send + Sync + 'static) -> Publisher {
        let settings = MockAws::builder().with_service(Sns(handle)).build().sdk_config("us-east-1").await;
        Publisher::new(&settings, Some("arn:aws:sns:us-east-1:123456789012:orders".into()), None).unwrap()
    }

    async fn publish_failing(events: usize, status: u16, code: &str) -> Sent {
        let error = format!("<ErrorResponse><Error><Type>Sender</Type><Code>{code}</Code></Error></ErrorResponse>");
        let topic = topic(move |_| (status, error.clone())).await;
        topic.send(&(0..events).map(|_| event(1)).collect::<Vec<_>>(), CALL_TIMEOUT).await
    }

    #[tokio::test(start_paused = true)]
    async fn an_event_is_refused_only_if_the_topic_objects_to_it() {
        for code in ["InvalidParameter", "ParameterValueInvalid"] {
            let sent = publish_failing(1, 400, code).await;
            assert_eq!(sent.refused.len(), 1, "{code}: {sent:?}");
        }
        let sent = publish_failing(2, 400, "InvalidParameter").await;
        assert!(sent.refused.is_empty() && sent.pending.len() == 2 && sent.has_objection, "{sent:?}");
        let sent = publish_failing(1, 400, "Strange").await;
        assert!(sent.refused.is_empty() && sent.has_objection, "{sent:?}");
        for (status, code) in [
            (400, "Throttled"),
            (403, "AuthorizationError"),
            (404, "NotFound"),
            (400, "KMSDisabled"),
            (500, "InternalError"),
        ] {
            let sent = publish_failing(1, status, code).await;
            assert!(sent.pending.len() == 1 && !sent.has_objection && !sent.has_response, "{code}: {sent:?}");
        }
    }

    #[tokio::test]
    async fn an_entry_that_fails_at_a_topic_without_a_fault_of_the_sender_stays_pending() {
        let events: Vec<Outgoing> = (0..3).map(|_| event(1)).collect();
        let ids: Vec<Uuid> = events.iter().map(|event| event.id).collect();
        let topic = topic(|ids| {
            let failed = |id: &str, fault| {
                format!("<member><Id>{id}</Id><Code>Some</Code><SenderFault>{fault}</SenderFault></member>")
            };
            let (first, failed) = (ids[0], [failed(ids[1], false), failed(ids[2], true)].concat());
            let result = format!("<Successful><member><Id>{first}</Id></member></Successful><Failed>{failed}</Failed>");
            let result = format!("<PublishBatchResult>{result}</PublishBatchResult>");
            (200, format!("<PublishBatchResponse>{result}</PublishBatchResponse>"))
        })
        .await;
        let sent = topic.send(&events, CALL_TIMEOUT).await;
        assert_eq!((sent.accepted, sent.refused), (vec![ids[0]], vec![(ids[2], "Some".into())]));
        assert_eq!(sent.pending, [ids[1]]);
        assert!(sent.has_response && sent.error.is_some());
    }
}
