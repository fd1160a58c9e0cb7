//! Sends events to the SQS queue.

use std::time::Duration;

use aws_config::SdkConfig;
use aws_sdk_sqs::config::timeout::TimeoutConfig;
use aws_sdk_sqs::error::{ProvideErrorMetadata, SdkError};
use aws_sdk_sqs::operation::send_message_batch::SendMessageBatchError;
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
const CALL_TIMEOUT: Duration = Duration::from_secs(5);

#[derive(Clone)]
pub struct Queue {
    pub client: aws_sdk_sqs::Client,
    pub url: String,
    /// What waits for this queue, as the relay's last poll found it.
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

/// What the queue did with events. It may have received the others or not.
#[derive(Debug, Default)]
pub(super) struct Sent {
    pub accepted: Vec<Uuid>,
    /// Each with the reason.
    pub refused: Vec<(Uuid, String)>,
    /// Why a call failed.
    pub error: Option<String>,
}

struct FailedCall {
    batch: Vec<Outgoing>,
    error: SdkError<SendMessageBatchError>,
}

impl FailedCall {
    /// Whether SQS responded.
    fn has_response(&self) -> bool {
        self.error.as_service_error().is_some()
    }

    /// Whether SQS objects to a message and not to the call.
    fn is_about_a_message(&self) -> bool {
        self.error.as_service_error().is_some_and(|error| {
            let code = error.code().unwrap_or_default();
            error.is_batch_request_too_long() || ["InvalidMessageContents", "InvalidParameterValue"].contains(&code)
        })
    }
}

impl Queue {
    pub fn new(settings: &SdkConfig, url: String) -> Queue {
        let timeouts = TimeoutConfig::builder().operation_attempt_timeout(CALL_TIMEOUT).build();
        let config = aws_sdk_sqs::config::Builder::from(settings).timeout_config(timeouts).build();
        Queue { client: aws_sdk_sqs::Client::from_conf(config), url, backlog: watch::Sender::default() }
    }

    /// # Errors
    /// When the queue does not exist, cannot be reached or is a FIFO queue.
    pub async fn check(&self) -> anyhow::Result<()> {
        queue::attributes(&self.client, &self.url).await.map(drop)
    }

    /// Sends events, at most `max_entries` in a call. If the queue works, as is known or as other calls show, and yet refuses a
    /// call, one of its events may be the cause: then each of them is sent alone.
    pub(super) async fn send(&self, events: Vec<Outgoing>, max_entries: usize, is_known_to_work: bool) -> Sent {
        let mut sent = Sent::default();
        let mut failed = self.send_batches(batches(events, max_entries), &mut sent).await;
        let is_working = is_known_to_work || !sent.accepted.is_empty() || !sent.refused.is_empty();
        if is_working || failed.iter().any(FailedCall::is_about_a_message) {
            let (refused, silent): (Vec<_>, Vec<_>) = failed.into_iter().partition(FailedCall::has_response);
            let alone = refused.into_iter().flat_map(|call| call.batch).map(|event| vec![event]).collect();
            for call in self.send_batches(alone, &mut sent).await {
                let reason = one_line(&call.error);
                sent.refused.extend(call.batch.iter().map(|event| (event.id, reason.clone())));
            }
            failed = silent;
        }
        sent.error = failed.first().map(|call| one_line(&call.error));
        sent
    }

    /// Makes one call for each batch, and returns those that failed.
    async fn send_batches(&self, batches: Vec<Vec<Outgoing>>, sent: &mut Sent) -> Vec<FailedCall> {
        let mut calls = stream::iter(batches).map(|batch| self.send_batch(batch)).buffer_unordered(CONCURRENT_SENDS);
        let mut failed = Vec::new();
        while let Some(call) = calls.next().await {
            match call {
                Ok((accepted, refused)) => {
                    sent.accepted.extend(accepted);
                    sent.refused.extend(refused);
                }
                Err(call) => failed.push(call),
            }
        }
        failed
    }

    /// Returns the accepted and the refused events.
    async fn send_batch(&self, batch: Vec<Outgoing>) -> Result<(Vec<Uuid>, Vec<(Uuid, String)>), FailedCall> {
        let entries = batch.iter().map(|event| {
            let entry = SendMessageBatchRequestEntry::builder().id(event.id).message_body(event.message.clone());
            entry.build().expect("an id and a body are given")
        });
        crash_point(crash_points::RELAY_MID_BATCHES);
        let request = self.client.send_message_batch().queue_url(&self.url);
        match request.set_entries(Some(entries.collect())).send().await {
            Ok(response) => {
                let accepted = response.successful().iter().filter_map(|entry| entry.id().parse().ok());
                let refused =
                    response.failed().iter().filter_map(|entry| Some((entry.id().parse().ok()?, reason(entry))));
                Ok((accepted.collect(), refused.collect()))
            }
            Err(error) => Err(FailedCall { batch, error }),
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
    use super::*;

    fn sizes(messages: &[usize]) -> Vec<usize> {
        let message =
            |bytes: &usize| Outgoing { id: Uuid::nil(), message: "x".repeat(*bytes), created: Instant::now() };
        let messages: Vec<Outgoing> = messages.iter().map(message).collect();
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
}
