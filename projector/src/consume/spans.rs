//! Spans of messages, by the [semantic conventions for messaging](https://opentelemetry.io/docs/specs/semconv/messaging/messaging-spans/).
//! They never contain the payload of an event.
//!
//! The span of a message is a child of the span that created its event, so that both are in one trace. When it ends with the result `now`,
//! queries see the event.

use aws_sdk_sqs::types::Message;
use entity::event::envelope;
use read_model::{Applied, Error};
use runtime::queue;
use runtime::telemetry::traces::{self, Trace, traceparent};
use serde::Deserialize;
use tracing::field::Empty;
use tracing::{Span, info_span};

/// The messages of a receive call, from their arrival until they are deleted.
pub fn receive(queue_url: &str, messages: &[Message]) -> Span {
    if !traces::are_on() {
        return Span::none();
    }
    let creators: Vec<String> = messages.iter().filter_map(creator).collect();
    let span = || queue::span("receive", "aws_sqs", queue::name(queue_url), messages.len());
    traces::batch(creators.iter().map(String::as_str), span)
}

/// One message, from its arrival until its event is applied. A message without context is a trace of its own.
pub fn process(queue_url: &str, message: &Message) -> Span {
    if !traces::are_on() {
        return Span::none();
    }
    Trace::of(creator(message).as_deref()).span(|| {
        info_span!(
            parent: None,
            "process orders",
            otel.kind = "consumer",
            messaging.system = "aws_sqs",
            messaging.operation.name = "process",
            messaging.operation.type = "process",
            messaging.destination.name = queue::name(queue_url),
            messaging.message.id = message.message_id(),
            cloudevents.event_id = Empty,
            result = Empty,
            otel.status_code = Empty,
        )
    })
}

/// Ends the span of a message with its result.
pub fn processed(span: Span, result: &Result<Applied, Error>) {
    let result = match result {
        Ok(Applied::Now) => "now",
        Ok(Applied::Before) => "before",
        // Nothing is wrong with the message: it is delivered again.
        Err(Error::Unavailable(_)) => {
            span.record("otel.status_code", "ERROR");
            return;
        }
        Err(_) => return refused(span),
    };
    span.record("result", result);
}

/// Ends the span of a message that is left for the dead-letter queue.
pub fn refused(span: Span) {
    span.record("result", "refused").record("otel.status_code", "ERROR");
}

/// The contexts of the messages whose spans are recorded.
pub fn contexts<'a>(spans: impl Iterator<Item = &'a Span>) -> Vec<String> {
    spans.filter_map(traceparent).collect()
}

/// A batch of events of several receive calls, linked to their messages.
pub fn apply<'a>(events: usize, messages: impl Iterator<Item = &'a String>) -> Span {
    traces::batch(messages.map(String::as_str), || {
        info_span!("apply", messaging.batch.message_count = events, otel.status_code = Empty)
    })
}

/// Records whether all events of a batch were applied.
pub fn applied(span: &Span, results: &[Result<Applied, Error>]) {
    if results.iter().any(Result::is_err) {
        span.record("otel.status_code", "ERROR");
    }
}

/// The context of the span that created the event of a message.
pub fn creator(message: &Message) -> Option<String> {
    #[derive(Deserialize)]
    struct Traced {
        traceparent: Option<String>,
    }
    serde_json::from_str::<Traced>(&envelope::open(message.body()?)).ok()?.traceparent
}
