//! Messages that were received together: parses them, applies their events, and has one result for each. The service and the Lambda
//! function share this. They differ in how long they wait for Redis, and in who deletes the messages.

use std::fmt::Display;
use std::time::Duration;

use aws_sdk_sqs::types::{Message, MessageSystemAttributeName};
use chrono::{DateTime, Utc};
use entity::Event;
use iso_currency::Currency;
use read_model::{Applied, Error};
use runtime::logging::LogContext;
use tracing::{Level, Span, debug, event_enabled, field, warn};

use super::apply::EventBatcher;
use super::spans;
use crate::metrics;

/// Messages whose events are being applied.
pub struct Delivery {
    /// Each with its span.
    valid: Vec<(Message, Span)>,
    /// The events of the valid messages.
    events: Vec<Event>,
    /// The trace contexts of the valid messages.
    contexts: Vec<String>,
}

impl Delivery {
    /// Parses messages of the queue with this name or URL. Invalid ones are logged and left for the dead-letter queue.
    pub fn parse(messages: Vec<Message>, queue: &str, currency: Currency) -> Delivery {
        let (mut valid, mut events) = (Vec::new(), Vec::new());
        for message in messages {
            let span = spans::process(queue, &message);
            // The clock of the sender may be wrong, or set on purpose.
            let sent_at = sent_at(&message).unwrap_or_else(Utc::now);
            match Event::parse(message.body().unwrap_or_default(), currency.code(), sent_at) {
                Ok(event) => {
                    span.record("cloudevents.event_id", field::display(event.id));
                    events.push(event);
                    valid.push((message, span));
                }
                Err(error) => {
                    metrics::count_invalid();
                    span.in_scope(|| log_refusal(&message, &error));
                    spans::refused(span);
                }
            }
        }
        let contexts = spans::contexts(valid.iter().map(|(_, span)| span));
        Delivery { valid, events, contexts }
    }

    /// Applies the events and returns one result for each. It can be called again after an [`outage`]: events that were applied are
    /// recognised.
    pub async fn apply(&mut self, batcher: &EventBatcher, min_batch: usize) -> Vec<Result<Applied, Error>> {
        let (events, results) = batcher.apply(std::mem::take(&mut self.events), self.contexts.clone(), min_batch).await;
        self.events = events;
        results
    }

    /// Logs the results, and returns the messages whose events are applied. They can be deleted.
    pub fn finish(self, results: Vec<Result<Applied, Error>>) -> Vec<Message> {
        let mut applied = Vec::new();
        for ((message, span), result) in self.valid.into_iter().zip(results) {
            match &result {
                Ok(result) => {
                    span.in_scope(|| log_applied(&message, *result));
                    applied.push(message);
                }
                // Nothing is wrong with the message.
                Err(Error::Unavailable(_)) => {}
                Err(error) => span.in_scope(|| log_refusal(&message, error)),
            }
            spans::processed(span, &result);
        }
        applied
    }

    /// The valid messages.
    pub(super) fn into_messages(self) -> Vec<Message> {
        self.valid.into_iter().map(|(message, _)| message).collect()
    }

    /// How long the oldest valid message waited for its first delivery.
    pub(super) fn time_in_queue(&self) -> Option<Duration> {
        self.valid.iter().map(|(message, _)| time_in_queue(message)).max()
    }
}

/// The error of the first event that was not applied because Redis is unavailable.
pub fn outage(results: &[Result<Applied, Error>]) -> Option<&Error> {
    results.iter().find_map(|result| match result {
        Err(error @ Error::Unavailable(_)) => Some(error),
        _ => None,
    })
}

/// Both times are the queue's, because the clocks of the processes differ.
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

/// Logs the first delivery of a message that is left for the dead-letter queue, because the next four end alike. If another projector got it
/// first and failed before this line, there is none: the metric counts each refusal, and `projector dead-letters list` says why.
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
