//! Apply, delete. While Redis is unavailable the messages are held.

use std::sync::atomic::Ordering;

use aws_sdk_sqs::error::ProvideErrorMetadata;
use aws_sdk_sqs::types::{ChangeMessageVisibilityBatchRequestEntry, DeleteMessageBatchRequestEntry, Message};
use read_model::{Applied, Error};
use runtime::telemetry::traces;
use runtime::{crash_point, crash_points, one_line, queue};
use tokio::time::{Instant, timeout};
use tokio_util::sync::CancellationToken;
use tracing::{Instrument, warn};

use super::delivery::{Delivery, outage};
use super::poll::RETRY_PAUSE;
use super::{Consumer, CountGuard, spans};

/// The outcome of the messages of one receive call.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Processed {
    /// Applied, including duplicates, which change nothing.
    pub applied: usize,
    /// Not deleted: SQS redelivers them and finally moves them to the dead-letter queue.
    pub refused: usize,
}

impl Consumer {
    /// Applies messages, and deletes those that were applied. The batch waits briefly until it has `min_batch` events.
    pub(super) async fn process(
        &self,
        messages: Vec<Message>,
        min_batch: usize,
        shutdown: &CancellationToken,
    ) -> Processed {
        if messages.is_empty() {
            return Processed::default();
        }
        let span = spans::receive(&self.queue_url, &messages);
        self.process_received(messages, min_batch, shutdown).instrument(span).await
    }

    async fn process_received(
        &self,
        messages: Vec<Message>,
        min_batch: usize,
        shutdown: &CancellationToken,
    ) -> Processed {
        crash_point(crash_points::PROJECTOR_BEFORE_APPLY);
        let (received, count) = (Instant::now(), messages.len());
        let mut delivery = Delivery::parse(messages, &self.queue_url, self.currency);
        let Some(results) = self.apply(&mut delivery, min_batch, shutdown).await else {
            let valid = delivery.into_messages();
            let processed = Processed { applied: 0, refused: count - valid.len() };
            self.release(valid).await;
            return processed;
        };
        if let Some(waited) = delivery.time_in_queue() {
            self.activity.applied(waited + received.elapsed());
        }
        let done = delivery.finish(results);
        let processed = Processed { applied: done.len(), refused: count - done.len() };
        crash_point(crash_points::PROJECTOR_BEFORE_DELETE);
        self.delete(done).await;
        processed
    }

    /// Retries while Redis is unavailable. Returns `None` on shutdown; the projector that gets the messages then finds applied
    /// events already applied.
    async fn apply(
        &self,
        delivery: &mut Delivery,
        min_batch: usize,
        shutdown: &CancellationToken,
    ) -> Option<Vec<Result<Applied, Error>>> {
        let mut waiting_for_redis = None;
        loop {
            let began = self.reception.begin();
            let results = delivery.apply(&self.batcher, min_batch).await;
            let Some(error) = outage(&results) else {
                let has_waited = waiting_for_redis.take().map(drop).is_some();
                if has_waited && self.waiting_for_redis.load(Ordering::SeqCst) == 0 {
                    self.reception.resume(began);
                }
                return Some(results);
            };
            // In this order, so that the log has the reason of Redis.
            self.reception.pause(began, error);
            waiting_for_redis.get_or_insert_with(|| CountGuard::new(&self.waiting_for_redis));
            if timeout(RETRY_PAUSE, shutdown.cancelled()).await.is_ok() {
                return None;
            }
        }
    }

    /// Makes messages visible to other projectors, which otherwise get them after 30 seconds.
    async fn release(&self, messages: Vec<Message>) {
        let entries = messages.into_iter().enumerate().map(|(index, message)| {
            let handle = message.receipt_handle.unwrap_or_default();
            let entry =
                ChangeMessageVisibilityBatchRequestEntry::builder().id(index.to_string()).receipt_handle(handle);
            entry.visibility_timeout(0).build().expect("an id and a handle are given")
        });
        let request = self.queue.change_message_visibility_batch().queue_url(&self.queue_url);
        if let Err(error) = request.set_entries(Some(entries.collect())).send().await {
            warn!("cannot return messages; they are delivered again later: {}", one_line(&error));
        }
    }

    /// A message that could not be deleted is delivered again, and its event is recognised as already applied.
    async fn delete(&self, messages: Vec<Message>) {
        if messages.is_empty() {
            return;
        }
        let span = traces::child(|| queue::span("settle", "aws_sqs", queue::name(&self.queue_url), messages.len()));
        let entries = messages.into_iter().enumerate().map(|(index, message)| {
            let handle = message.receipt_handle.unwrap_or_default();
            let entry = DeleteMessageBatchRequestEntry::builder().id(index.to_string()).receipt_handle(handle);
            entry.build().expect("an id and a handle are given")
        });
        let request = self.queue.delete_message_batch().queue_url(&self.queue_url);
        match request.set_entries(Some(entries.collect())).send().instrument(span.clone()).await {
            Ok(deleted) => {
                if let Some(first) = deleted.failed().first() {
                    span.record("otel.status_code", "ERROR").record("error.type", first.code());
                }
                for failed in deleted.failed() {
                    warn!(code = failed.code(), "cannot delete a message; it will be delivered again");
                }
            }
            Err(error) => {
                span.record("otel.status_code", "ERROR").record("error.type", error.code().unwrap_or("_OTHER"));
                warn!("cannot delete messages; they will be delivered again: {}", one_line(&error));
            }
        }
    }
}
