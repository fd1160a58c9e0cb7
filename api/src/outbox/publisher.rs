//! Sends events to the SQS queue.

use std::time::Duration;

use aws_config::SdkConfig;
use aws_sdk_sqs::config::retry::RetryConfig;
use aws_sdk_sqs::config::timeout::TimeoutConfig;
use aws_sdk_sqs::error::{ProvideErrorMetadata, SdkError};
use aws_sdk_sqs::operation::send_message_batch::{SendMessageBatchError, SendMessageBatchOutput};
use aws_sdk_sqs::types::{BatchResultErrorEntry, SendMessageBatchRequestEntry};
use entity::order_event;
use futures::{StreamExt, stream};
use runtime::{crash_point, crash_points, one_line, queue};
use tokio::sync::watch;
use tokio::time::Instant;
use uuid::Uuid;

/// Concurrent `SendMessageBatch` calls.
const CONCURRENT_SENDS: usize = 4;
/// Limits of one `SendMessageBatch` call. Every SQS-compatible server accepts 256 KiB.
/// <https://docs.aws.amazon.com/AWSSimpleQueueService/latest/APIReference/API_SendMessageBatch.html>
pub(super) const MAX_BATCH_ENTRIES: usize = 10;
const MAX_BATCH_BYTES: usize = 256 * 1024;
/// Limit for one attempt of a call to SQS.
const ATTEMPT_TIMEOUT: Duration = Duration::from_secs(5);
/// Limit for a call with its retries by the SDK.
const CALL_TIMEOUT: Duration = Duration::from_secs(15);
/// When the SDK repeats a failed call. It does so once more; other events wait meanwhile.
const FIRST_RETRY: Duration = Duration::from_millis(50);
/// No call starts later than this. So it takes at most [`CALL_TIMEOUT`] longer to send events, and what SQS has accepted by then
/// can be deleted from the outbox.
const SEND_TIMEOUT: Duration = Duration::from_secs(30);

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
    /// How many the queue has refused; 1,000 stands for all larger numbers.
    pub refused: u64,
}

/// An event and its message.
#[derive(Debug)]
pub struct Outgoing {
    pub(super) id: Uuid,
    message: String,
    pub(super) created: Instant,
}

impl Outgoing {
    pub fn of(event: &order_event::Model) -> Outgoing {
        Outgoing { id: event.id, message: event.message(), created: Instant::now() }
    }
}

/// The result of sending events to the queue. It may have received the others or not: they stay pending.
#[derive(Debug, Default)]
pub(super) struct Sent {
    pub accepted: Vec<Uuid>,
    /// Events to which the queue objects, each with the reason.
    pub refused: Vec<(Uuid, String)>,
    /// Why other events are not accepted.
    pub error: Option<String>,
    /// Whether the queue performed a call, even if it accepted no event.
    pub has_response: bool,
}

/// Why a call failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Cause {
    /// SQS objects to a message.
    Message,
    /// SQS objects to something in the call: perhaps to a message.
    Unknown,
    /// SQS failed, perhaps because of a message.
    Server,
    /// The queue takes no call now: it is unreachable or slow, limits calls, does not exist or denies access.
    Queue,
}

struct FailedCall {
    batch: Vec<Outgoing>,
    cause: Cause,
    reason: String,
}

impl FailedCall {
    fn new(batch: Vec<Outgoing>, error: &SdkError<SendMessageBatchError>) -> FailedCall {
        FailedCall { batch, cause: cause(error), reason: one_line(error) }
    }

    fn late(batch: Vec<Outgoing>) -> FailedCall {
        FailedCall { batch, cause: Cause::Queue, reason: format!("the queue takes longer than {SEND_TIMEOUT:?}") }
    }
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
        401 | 403 | 404 | 429 => Cause::Queue,
        500.. => Cause::Server,
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

    /// Sends events, at most `max_entries` in a call. The events of a call that may have failed because of one of them are sent
    /// alone. `probe_succeeded`: the queue has just accepted other events.
    pub(super) async fn send(&self, events: Vec<Outgoing>, max_entries: usize, probe_succeeded: bool) -> Sent {
        let deadline = Instant::now() + SEND_TIMEOUT;
        let mut sent = Sent::default();
        let failed = self.send_batches(batches(events, max_entries), deadline, &mut sent).await;
        let works = probe_succeeded || sent.has_response;
        // Few calls are enough to find out whether the whole queue fails.
        let mut may_isolate_one = true;
        let (isolated, mut failed): (Vec<_>, Vec<_>) = failed.into_iter().partition(|call| match call.cause {
            _ if call.batch.len() == 1 => false,
            Cause::Message => true,
            Cause::Unknown if works => true,
            Cause::Unknown | Cause::Server => std::mem::take(&mut may_isolate_one),
            Cause::Queue => false,
        });
        let alone = isolated.into_iter().flat_map(|call| call.batch).map(|event| vec![event]).collect();
        failed.extend(self.send_batches(alone, deadline, &mut sent).await);
        let works = works || sent.has_response;
        for call in failed {
            match (call.cause, &call.batch[..]) {
                (Cause::Message, [event]) => sent.refused.push((event.id, call.reason)),
                (Cause::Unknown, [event]) if works => sent.refused.push((event.id, call.reason)),
                _ => sent.error = sent.error.or(Some(call.reason)),
            }
        }
        sent
    }

    /// Makes one call for each batch, and returns those that failed.
    async fn send_batches(&self, batches: Vec<Vec<Outgoing>>, deadline: Instant, sent: &mut Sent) -> Vec<FailedCall> {
        let calls = stream::iter(batches).map(|batch| self.send_batch(batch, deadline));
        let mut calls = calls.buffer_unordered(CONCURRENT_SENDS);
        let mut failed = Vec::new();
        while let Some(call) = calls.next().await {
            match call {
                Ok(response) => sent.add(&response),
                Err(call) => failed.push(call),
            }
        }
        failed
    }

    async fn send_batch(&self, batch: Vec<Outgoing>, deadline: Instant) -> Result<SendMessageBatchOutput, FailedCall> {
        if Instant::now() >= deadline {
            return Err(FailedCall::late(batch));
        }
        let entries = batch.iter().map(|event| {
            let entry = SendMessageBatchRequestEntry::builder().id(event.id).message_body(event.message.clone());
            entry.build().expect("an id and a body are given")
        });
        crash_point(crash_points::RELAY_MID_BATCHES);
        let request = self.client.send_message_batch().queue_url(&self.url);
        let sent = request.set_entries(Some(entries.collect())).send().await;
        sent.map_err(|error| FailedCall::new(batch, &error))
    }
}

impl Sent {
    /// An entry that failed without a fault of its sender stays pending.
    fn add(&mut self, response: &SendMessageBatchOutput) {
        self.has_response = true;
        self.accepted.extend(response.successful().iter().filter_map(|entry| entry.id().parse::<Uuid>().ok()));
        for entry in response.failed() {
            match entry.id().parse() {
                Ok(id) if entry.sender_fault() => self.refused.push((id, reason(entry))),
                _ => self.error = self.error.take().or_else(|| Some(reason(entry))),
            }
        }
    }
}

fn reason(entry: &BatchResultErrorEntry) -> String {
    format!("{} {}", entry.code(), entry.message().unwrap_or_default()).trim_end().to_owned()
}

/// Divides events into batches of at most `max_entries` within the limits of SQS, and keeps their order.
fn batches(events: Vec<Outgoing>, max_entries: usize) -> Vec<Vec<Outgoing>> {
    let mut batches: Vec<Vec<Outgoing>> = Vec::new();
    let mut bytes = 0;
    for event in events {
        match batches.last_mut() {
            Some(batch) if batch.len() < max_entries && bytes + event.message.len() <= MAX_BATCH_BYTES => {
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
    use std::sync::Arc;
    use std::sync::atomic::{AtomicUsize, Ordering};

    use serde_json::{Value, json};
    use test_support::sqs::{intercepted, is_call};
    use winterbaume_core::{MockResponse, MockService};

    use super::*;

    fn event(bytes: usize) -> Outgoing {
        Outgoing { id: Uuid::now_v7(), message: "x".repeat(bytes), created: Instant::now() }
    }

    fn sizes(messages: &[usize]) -> Vec<usize> {
        let messages: Vec<Outgoing> = messages.iter().map(|bytes| event(*bytes)).collect();
        batches(messages, MAX_BATCH_ENTRIES).iter().map(Vec::len).collect()
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

    /// A queue that takes `delay` for each call, and `handle`s the ids of its events. Counts the calls.
    async fn queue(
        delay: Duration,
        handle: impl Fn(&[&str]) -> (u16, Value) + Send + Sync + 'static,
    ) -> (Queue, Arc<AtomicUsize>) {
        let calls = Arc::<AtomicUsize>::default();
        let counter = calls.clone();
        let aws = intercepted(move |sqs, request| {
            if !is_call(&request, "SendMessageBatch") {
                return sqs.handle(request);
            }
            counter.fetch_add(1, Ordering::Relaxed);
            let body: Value = serde_json::from_slice(&request.body).unwrap();
            let entries = body["Entries"].as_array().unwrap();
            let ids: Vec<&str> = entries.iter().filter_map(|entry| entry["Id"].as_str()).collect();
            let (status, body) = handle(&ids);
            Box::pin(async move {
                tokio::time::sleep(delay).await;
                MockResponse::json(status, body.to_string())
            })
        });
        let settings = aws.await;
        let created = aws_sdk_sqs::Client::new(&settings).create_queue().queue_name("orders").send().await.unwrap();
        (Queue::new(&settings, created.queue_url.unwrap()), calls)
    }

    fn accept(ids: &[&str]) -> (u16, Value) {
        let entry = |id: &&str| json!({ "Id": id, "MessageId": "x", "MD5OfMessageBody": "x" });
        (200, json!({ "Successful": ids.iter().map(entry).collect::<Vec<_>>(), "Failed": [] }))
    }

    #[tokio::test(start_paused = true)]
    async fn a_slow_queue_gets_no_call_after_the_time_limit_and_what_it_accepted_is_known() {
        let (queue, calls) = queue(Duration::from_secs(4), accept).await;
        let began = Instant::now();
        let sent = queue.send((0..500).map(|_| event(1)).collect(), MAX_BATCH_ENTRIES, false).await;
        assert!(began.elapsed() <= SEND_TIMEOUT + CALL_TIMEOUT, "{:?}", began.elapsed());
        assert_eq!(sent.accepted.len(), MAX_BATCH_ENTRIES * calls.load(Ordering::Relaxed));
        assert!(sent.accepted.len() < 500 && sent.refused.is_empty() && sent.error.is_some(), "{sent:?}");
    }

    #[tokio::test(start_paused = true)]
    async fn a_call_without_response_ends_in_time() {
        let (queue, _) = queue(Duration::from_secs(600), accept).await;
        let began = Instant::now();
        let sent = queue.send((0..500).map(|_| event(1)).collect(), MAX_BATCH_ENTRIES, false).await;
        assert!(began.elapsed() <= SEND_TIMEOUT + CALL_TIMEOUT, "{:?}", began.elapsed());
        assert!(sent.accepted.is_empty() && sent.error.is_some() && !sent.has_response, "{sent:?}");
    }

    /// Sends 25 events, one of which makes its calls fail: how many events are accepted and refused, and how many
    /// calls that takes.
    async fn with_a_failing_event(status: u16, code: &'static str) -> (usize, usize, usize) {
        let events: Vec<Outgoing> = (0..25).map(|_| event(1)).collect();
        let failing = events[3].id.to_string();
        let (queue, calls) = queue(Duration::ZERO, move |ids| match ids.contains(&failing.as_str()) {
            true => (status, json!({ "__type": format!("com.amazonaws.sqs#{code}"), "message": "no" })),
            false => accept(ids),
        })
        .await;
        let sent = queue.send(events, MAX_BATCH_ENTRIES, false).await;
        assert!(
            sent.has_response && sent.error.is_some() != (sent.accepted.len() + sent.refused.len() == 25),
            "{sent:?}"
        );
        (sent.accepted.len(), sent.refused.len(), calls.load(Ordering::Relaxed))
    }

    #[tokio::test(start_paused = true)]
    async fn an_event_is_refused_only_if_the_queue_objects_to_it() {
        for code in ["InvalidMessageContents", "BatchRequestTooLong", "Strange"] {
            assert_eq!(with_a_failing_event(400, code).await, (24, 1, 13), "{code}");
        }
        for code in ["OverLimit", "RequestThrottled", "AccessDenied", "KmsDisabled", "QueueDoesNotExist"] {
            let (accepted, refused, _) = with_a_failing_event(400, code).await;
            assert_eq!((accepted, refused), (15, 0), "{code}");
        }
        let (accepted, refused, _) = with_a_failing_event(500, "InternalError").await;
        assert_eq!((accepted, refused), (24, 0), "the event stays pending, and the others of its call do not");
    }

    #[tokio::test(start_paused = true)]
    async fn a_queue_that_fails_all_calls_refuses_no_event_and_gets_few_calls() {
        for (status, code, most_calls) in [(400, "Strange", 13), (500, "InternalError", 39), (400, "OverLimit", 3)] {
            let error = json!({ "__type": format!("com.amazonaws.sqs#{code}"), "message": "no" });
            let (queue, calls) = queue(Duration::ZERO, move |_| (status, error.clone())).await;
            let sent = queue.send((0..25).map(|_| event(1)).collect(), MAX_BATCH_ENTRIES, false).await;
            assert!(sent.accepted.is_empty() && sent.refused.is_empty() && !sent.has_response, "{code}: {sent:?}");
            assert!(sent.error.is_some() && calls.load(Ordering::Relaxed) <= most_calls, "{code}: {calls:?}");
        }
    }

    #[tokio::test]
    async fn an_entry_that_fails_without_a_fault_of_the_sender_stays_pending() {
        let events: Vec<Outgoing> = (0..3).map(|_| event(1)).collect();
        let ids: Vec<Uuid> = events.iter().map(|event| event.id).collect();
        let (queue, _) = queue(Duration::ZERO, |ids| {
            let failed = |id: &str, sender_fault| json!({ "Id": id, "Code": "Some", "SenderFault": sender_fault });
            let (_, mut response) = accept(&ids[..1]);
            response["Failed"] = json!([failed(ids[1], false), failed(ids[2], true)]);
            (200, response)
        })
        .await;
        let sent = queue.send(events, MAX_BATCH_ENTRIES, false).await;
        assert_eq!((sent.accepted, sent.refused), (vec![ids[0]], vec![(ids[2], "Some".into())]));
        assert!(sent.has_response && sent.error.is_some());
    }
}
