//! The ids that join the lines about one request or event, in all programs.

use std::sync::{Arc, OnceLock};

use futures::{Stream, StreamExt, stream};
use tracing::Span;

use crate::telemetry::traces::{self, Trace};

tokio::task_local! {
    static CURRENT: LogContext;
}

/// What is known about a request, or about the request that caused an event. Each line that is logged within it has its ids.
#[derive(Clone, Debug)]
pub struct LogContext(Arc<Ids>);

#[derive(Debug)]
struct Ids {
    /// Empty for an event.
    request_id: String,
    trace: Trace,
    /// Of the trace.
    traceparent: String,
    /// Who sends the request.
    subject: OnceLock<Arc<str>>,
}

impl LogContext {
    /// A request with this id, of harmless characters. It begins a trace if it has no
    /// [trace context](https://www.w3.org/TR/trace-context/#traceparent-header).
    pub fn of_request(request_id: &str, traceparent: Option<&str>) -> LogContext {
        let trace = Trace::of(traceparent);
        let traceparent = trace.traceparent();
        LogContext(Arc::new(Ids { request_id: request_id.to_owned(), trace, traceparent, subject: OnceLock::new() }))
    }

    /// The request that caused an event with this trace context. `None` if that is invalid.
    fn of_event(traceparent: &str) -> Option<LogContext> {
        is_traceparent(traceparent).then(|| LogContext::of_request("", Some(traceparent)))
    }

    /// Calls a function within the context of the request that caused an event with this trace context.
    pub fn run_for_event(traceparent: Option<&str>, function: impl FnOnce()) {
        match traceparent.and_then(LogContext::of_event) {
            Some(context) => context.run(function),
            None => function(),
        }
    }

    /// Makes a span of the request, within the current one if there is one. There is none if the trace is not recorded.
    pub fn span(&self, make: impl FnOnce() -> Span) -> Span {
        if Span::current().is_disabled() { self.0.trace.span(make) } else { make() }
    }

    /// What is executed now; something new outside of any request.
    pub fn current() -> LogContext {
        CURRENT.try_with(Clone::clone).unwrap_or_else(|_| LogContext::of_request("", None))
    }

    pub fn request_id(&self) -> &str {
        &self.0.request_id
    }

    pub fn traceparent(&self) -> &str {
        &self.0.traceparent
    }

    pub fn subject(&self) -> Option<&Arc<str>> {
        self.0.subject.get()
    }

    /// Stores who sends the request, as soon as that is known.
    pub fn set_subject(&self, subject: &Arc<str>) {
        let _ = self.0.subject.set(subject.clone());
    }

    /// Executes a future within this context.
    pub async fn scope<F: Future>(self, future: F) -> F::Output {
        CURRENT.scope(self, future).await
    }

    /// Calls a function within this context.
    pub fn run<R>(&self, function: impl FnOnce() -> R) -> R {
        CURRENT.sync_scope(self.clone(), function)
    }

    /// Produces the items of a stream within this context.
    pub fn stream<S: Stream + Unpin>(self, mut stream: S) -> impl Stream<Item = S::Item> {
        stream::poll_fn(move |cx| self.run(|| stream.poll_next_unpin(cx)))
    }
}

/// Calls a function with the name and value of each id.
pub(super) fn for_each_id<E>(mut write: impl FnMut(&str, &str) -> Result<(), E>) -> Result<(), E> {
    let context = CURRENT.try_with(Clone::clone).ok();
    if let Some(context) = context.as_ref().filter(|context| !context.request_id().is_empty()) {
        write("request_id", context.request_id())?;
    }
    match (traces::current_ids(), &context) {
        (Some((trace_id, span_id)), _) => {
            write("trace_id", &trace_id)?;
            write("span_id", &span_id)
        }
        (None, Some(context)) => write("trace_id", &context.traceparent()[TRACE_ID]),
        (None, None) => Ok(()),
    }
}

/// The place of the trace id in a `traceparent`.
const TRACE_ID: std::ops::Range<usize> = 3..35;

/// Whether a `traceparent` has version 00: 32, 16 and 2 lower-case hexadecimal digits, and neither id is zero. Only version 00 is
/// accepted; a request with another version gets a new trace.
pub fn is_traceparent(value: &str) -> bool {
    let parts: Vec<&str> = value.split('-').collect();
    let is_hexadecimal = |part: &&str| part.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'));
    parts.iter().map(|part| part.len()).eq([2, 32, 16, 2])
        && parts[0] == "00"
        && parts.iter().all(is_hexadecimal)
        && parts[1..3].iter().all(|id| id.bytes().any(|digit| digit != b'0'))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_new_trace_context_is_valid_and_different() {
        let new: Vec<LogContext> = (0..100).map(|_| LogContext::of_request("", None)).collect();
        let new: Vec<&str> = new.iter().map(LogContext::traceparent).collect();
        assert!(new.iter().all(|traceparent| is_traceparent(traceparent) && traceparent.ends_with("-00")), "{new:?}");
        let mut ids: Vec<&str> = new.iter().map(|traceparent| &traceparent[TRACE_ID]).collect();
        ids.sort_unstable();
        ids.dedup();
        assert_eq!(ids.len(), new.len());
    }

    #[test]
    fn an_invalid_trace_context_is_ignored() {
        let valid = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";
        assert_eq!(LogContext::of_event(valid).unwrap().traceparent(), valid);
        for invalid in [
            "",
            "00-x-y-01",
            &valid.to_uppercase(),
            &valid.replacen("00", "01", 1),
            &valid[..53],
            "00-00000000000000000000000000000000-00f067aa0ba902b7-01",
            "00-4bf92f3577b34da6a3ce929d0e0e4736-0000000000000000-01",
        ] {
            assert!(LogContext::of_event(invalid).is_none(), "{invalid}");
        }
    }

    #[tokio::test]
    async fn a_stream_is_produced_within_its_context() {
        let context = LogContext::of_request("mine", None);
        let ids = stream::repeat_with(|| LogContext::current().request_id().to_owned()).take(2);
        let ids: Vec<String> = context.stream(ids).collect().await;
        assert_eq!(ids, ["mine", "mine"]);
        assert_eq!(LogContext::current().request_id(), "");
    }
}
