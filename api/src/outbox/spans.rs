//! Spans of events on their way to the queue, by the
//! [semantic conventions for messaging](https://opentelemetry.io/docs/specs/semconv/messaging/messaging-spans/). They never contain the
//! payload of an event.

use entity::order_event;
use runtime::queue;
use runtime::telemetry::traces::{self, Trace, traceparent};
use tracing::{Span, info_span};

use super::publisher::Outgoing;

/// Records the creation of an event. The event gets the context of this span, so that the spans of its consumers are children of it,
/// whichever process publishes it and however late.
pub fn create(event: &mut order_event::Model) {
    let span = Trace::of(event.traceparent.as_deref()).span(|| {
        info_span!(
            "create orders",
            otel.kind = "producer",
            messaging.system = "aws_sqs",
            messaging.operation.name = "create",
            messaging.operation.type = "create",
            cloudevents.event_id = %event.id,
            cloudevents.event_type = event.r#type,
        )
    });
    if let Some(created) = traceparent(&span) {
        event.traceparent = Some(created);
    }
}

/// The span of a call that publishes events, linked to their creation.
pub(super) fn send(system: &'static str, destination: &str, batch: &[Outgoing]) -> Span {
    let events = batch.iter().filter_map(|event| event.traceparent.as_deref());
    traces::batch(events, || queue::span("send", system, destination, batch.len()))
}

/// A trace context as AWS X-Ray writes it, with the same ids:
/// <https://docs.aws.amazon.com/xray/latest/devguide/xray-concepts.html#xray-concepts-tracingheader>.
pub(super) fn aws_trace_header(traceparent: &str) -> Option<String> {
    let [_, trace, span, flags] = traceparent.split('-').collect::<Vec<_>>()[..] else { return None };
    let (time, random) = trace.split_at_checked(8)?;
    let sampled = u8::from(flags.ends_with(['1', '3', '5', '7', '9', 'b', 'd', 'f']));
    Some(format!("Root=1-{time}-{random};Parent={span};Sampled={sampled}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_header_of_x_ray_has_the_same_ids() {
        let header = |traceparent| aws_trace_header(traceparent);
        let recorded = header("00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01").unwrap();
        assert_eq!(recorded, "Root=1-4bf92f35-77b34da6a3ce929d0e0e4736;Parent=00f067aa0ba902b7;Sampled=1");
        let other = header("00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-00").unwrap();
        assert!(other.ends_with("Sampled=0"));
        assert_eq!(header("00-4bf9"), None);
    }
}
