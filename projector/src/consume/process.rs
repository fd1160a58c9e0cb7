//! Parse, apply, delete.

use std::fmt::Display;
use std::sync::atomic::Ordering;
use std::time::Duration;

use aws_sdk_sqs::error::ProvideErrorMetadata;
use aws_sdk_sqs::types::{
    ChangeMessageVisibilityBatchRequestEntry, DeleteMessageBatchRequestEntry, Message, MessageSystemAttributeName,
};
use chrono::{DateTime, Utc};
use entity::Event;
use read_model::{Applied, Error};
use runtime::logging::LogContext;
use runtime::{crash_point, crash_points, one_line, queue};
use tokio::time::{Instant, timeout};
use tokio_util::sync::CancellationToken;
use tracing::{Instrument, Level, debug, event_enabled, field, warn};

use super::poll::RETRY_PAUSE;
use super::{Consumer, CountGuard, spans};
use crate::metrics;

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
        let received = Instant::now();
        let mut processed = Processed::default();
        let (mut events, mut valid, mut message_spans) = (Vec::new(), Vec::new(), Vec::new());
        for message in messages {
            let span = spans::process(&self.queue_url, &message);
            // The clock of the sender may be wrong, or set on purpose.
            let sent_at = sent_at(&message).unwrap_or_else(Utc::now);
            match Event::parse(message.body().unwrap_or_default(), self.currency.code(), sent_at) {
                Ok(event) => {
                    span.record("cloudevents.event_id", field::display(event.id));
                    events.push(event);
                    valid.push(message);
                    message_spans.push(span);
                }
                Err(error) => {
                    processed.refused += 1;
                    metrics::count_invalid();
                    span.in_scope(|| log_refusal(&message, &error));
                    spans::refused(span);
                }
            }
        }
        let contexts = spans::contexts(message_spans.iter());
        let Some(results) = self.apply(events, contexts, min_batch, shutdown).await else {
            self.release(valid).await;
            return processed;
        };
        if let Some(waited) = valid.iter().map(time_in_queue).max() {
            self.activity.applied(waited + received.elapsed());
        }

        let mut done = Vec::new();
        for ((message, span), result) in valid.into_iter().zip(message_spans).zip(results) {
            match &result {
                Ok(applied) => {
                    span.in_scope(|| log_applied(&message, *applied));
                    done.push(message);
                }
                Err(error) => {
                    processed.refused += 1;
                    span.in_scope(|| log_refusal(&message, error));
                }
            }
            spans::processed(span, &result);
        }
        processed.applied = done.len();
        crash_point(crash_points::PROJECTOR_BEFORE_DELETE);
        self.delete(done).await;
        processed
    }

    /// Retries while Redis is unavailable. Returns `None` on shutdown; the projector that gets the messages then finds applied
    /// events already applied.
    async fn apply(
        &self,
        mut events: Vec<Event>,
        contexts: Vec<String>,
        min_batch: usize,
        shutdown: &CancellationToken,
    ) -> Option<Vec<Result<Applied, Error>>> {
        let mut waiting_for_redis = None;
        loop {
            let began = self.reception.begin();
            let results;
            (events, results) = self.batcher.apply(events, contexts.clone(), min_batch).await;
            let unavailable = results.iter().find_map(|result| match result {
                Err(error @ Error::Unavailable(_)) => Some(error),
                _ => None,
            });
            let Some(error) = unavailable else {
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
        let span = queue::span("settle", &self.queue_url, messages.len());
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

/// How long a message waited for its first delivery. Both times are the queue's, because the clocks of the processes differ.
fn time_in_queue(message: &Message) -> Duration {
    let received = time_of(message, &MessageSystemAttributeName::ApproximateFirstReceiveTimestamp);
    let waited = sent_at(message).zip(received).map(|(sent, received)| received - sent);
    waited.and_then(|waited| waited.to_std().ok()).unwrap_or_default()
}

/// When the queue got a message.
fn sent_at(message: &Message) -> Option<DateTime<Utc>> {
    time_of(message, &MessageSystemAttributeName::SentTimestamp)
}

fn time_of(message: &Message, name: &MessageSystemAttributeName) -> Option<DateTime<Utc>> {
    DateTime::from_timestamp_millis(message.attributes()?.get(name)?.parse().ok()?)
}

/// Logs the first delivery of a message that is left for the dead-letter queue.
fn log_refusal(message: &Message, reason: &dyn Display) {
    let received = message.attributes().and_then(|all| all.get(&MessageSystemAttributeName::ApproximateReceiveCount));
    if received.is_none_or(|count| count == "1") {
        let log = || warn!(message_id = message.message_id(), "left for the dead-letter queue: {reason}");
        in_context(message, log);
    }
}

fn log_applied(message: &Message, applied: Applied) {
    if event_enabled!(Level::DEBUG) {
        in_context(message, || debug!(message_id = message.message_id(), result = ?applied, "applied"));
    }
}

/// Logs with the ids of the request that caused the event of a message.
fn in_context(message: &Message, log: impl FnOnce()) {
    LogContext::run_for_event(spans::creator(message).as_deref(), log);
}
