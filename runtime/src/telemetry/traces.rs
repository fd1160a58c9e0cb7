//! Traces. Code makes spans with the macros of `tracing`, whose fields `otel.…` set what OpenTelemetry has besides attributes. Log
//! lines are not part of a trace.
//!
//! A trace follows an event through stores and processes as text: the `traceparent` of
//! [W3C Trace Context](https://www.w3.org/TR/trace-context/#traceparent-header). Work that several traces share, such as a
//! transaction with many orders, is one span: in the trace of the first of them that is recorded, with links to all.

use std::sync::Arc;
use std::time::Duration;

use anyhow::ensure;
use opentelemetry::trace::{
    SpanContext, SpanId, TraceContextExt, TraceFlags, TraceId, TraceState, TracerProvider as _,
};
use opentelemetry_otlp::SpanExporter;
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::error::OTelSdkResult;
use opentelemetry_sdk::trace::{self, Sampler, SdkTracerProvider, SpanData, TracerProviderBuilder};
use tracing::{Metadata, Span};
use tracing_opentelemetry::OpenTelemetrySpanExt;
use tracing_subscriber::filter::{LevelFilter, filter_fn};
use tracing_subscriber::{Layer, Registry};

use super::{Export, Outage, SHUTDOWN_TIMEOUT, Telemetry, variable};

/// The part of the traces that is recorded by default: to record all of them costs much of the throughput, see docs/tracing.md.
const DEFAULT_RATIO: f64 = 0.01;
/// The values of `OTEL_TRACES_SAMPLER` that the SDK implements.
const SAMPLERS: [&str; 6] = [
    "always_on",
    "always_off",
    "traceidratio",
    "parentbased_always_on",
    "parentbased_always_off",
    "parentbased_traceidratio",
];
/// Links of one span. The SDK has a limit of 128 by default, but many more orders can share one call.
const MAX_LINKS: u32 = 1_024;
/// The crates whose spans are recorded. Libraries have spans, too, with fields that we have not checked.
const CRATES: [&str; 5] = ["api", "projector", "read_model", "runtime", "standalone"];

pub(super) struct Traces {
    provider: SdkTracerProvider,
    outage: Arc<Outage>,
}

impl Traces {
    pub(super) fn start(resource: Resource) -> anyhow::Result<Traces> {
        let outage = Arc::<Outage>::default();
        let exporter = Exporter { otlp: SpanExporter::builder().with_http().build()?, outage: outage.clone() };
        let provider = builder().with_resource(resource).with_batch_exporter(exporter);
        let provider = match default_sampler()? {
            Some(sampler) => provider.with_sampler(sampler),
            None => provider, // the SDK reads its variables
        };
        Ok(Traces { provider: provider.build(), outage })
    }

    /// Exports the last spans. `None` if the collector does not respond.
    pub(super) fn last_export(&self) -> Option<Export> {
        let provider = self.provider.clone();
        (!self.outage.is_likely()).then(|| Box::new(move || provider.shutdown_with_timeout(SHUTDOWN_TIMEOUT)) as Export)
    }
}

fn builder() -> TracerProviderBuilder {
    match variable("OTEL_SPAN_LINK_COUNT_LIMIT") {
        None => SdkTracerProvider::builder().with_max_links_per_span(MAX_LINKS),
        Some(_) => SdkTracerProvider::builder(), // the SDK reads it
    }
}

impl Telemetry {
    /// Records spans, if traces are exported.
    pub(crate) fn layer(&self) -> Option<Box<dyn Layer<Registry> + Send + Sync>> {
        let tracer = self.traces.as_ref()?.provider.tracer("orders");
        let layer = tracing_opentelemetry::layer()
            .with_tracer(tracer)
            .with_location(false)
            .with_threads(false)
            .with_target(false)
            .with_tracked_inactivity(false);
        Some(layer.with_filter(filter_fn(is_recorded).with_max_level_hint(LevelFilter::INFO)).boxed())
    }
}

fn is_recorded(metadata: &Metadata<'_>) -> bool {
    let name = metadata.target().split("::").next().unwrap_or_default();
    metadata.is_span() && CRATES.contains(&name)
}

/// The sampler if the variables of the SDK do not name one.
fn default_sampler() -> anyhow::Result<Option<Sampler>> {
    let argument = variable("OTEL_TRACES_SAMPLER_ARG");
    let ratio = argument.as_ref().map_or(Ok(DEFAULT_RATIO), |argument| argument.parse());
    let ratio = ratio.ok().filter(|ratio| (0.0..=1.0).contains(ratio));
    match variable("OTEL_TRACES_SAMPLER") {
        None => {
            let argument = argument.unwrap_or_default();
            let ratio = ratio.ok_or_else(|| {
                anyhow::anyhow!("OTEL_TRACES_SAMPLER_ARG is {argument:?}: write the part of the traces that is recorded, from 0 to 1")
            })?;
            Ok(Some(Sampler::ParentBased(Box::new(Sampler::TraceIdRatioBased(ratio)))))
        }
        Some(name) => {
            ensure!(
                SAMPLERS.contains(&&*name),
                "OTEL_TRACES_SAMPLER is {name:?}: write one of {}",
                SAMPLERS.join(", ")
            );
            ensure!(
                !name.ends_with("traceidratio") || (argument.is_some() && ratio.is_some()),
                "OTEL_TRACES_SAMPLER={name} needs OTEL_TRACES_SAMPLER_ARG: the part of the traces that is recorded, from 0 to 1"
            );
            Ok(None)
        }
    }
}

#[derive(Debug)]
struct Exporter {
    otlp: SpanExporter,
    outage: Arc<Outage>,
}

impl trace::SpanExporter for Exporter {
    async fn export(&self, batch: Vec<SpanData>) -> OTelSdkResult {
        self.outage.watch("traces", self.otlp.export(batch)).await
    }

    fn shutdown_with_timeout(&self, timeout: Duration) -> OTelSdkResult {
        self.otlp.shutdown_with_timeout(timeout)
    }

    fn set_resource(&mut self, resource: &Resource) {
        self.otlp.set_resource(resource);
    }
}

/// The trace context of a span; `None` if traces are off.
pub fn traceparent(span: &Span) -> Option<String> {
    if span.is_disabled() {
        return None;
    }
    let context = span.context();
    let context = context.span().span_context().clone();
    let flags = context.trace_flags() & TraceFlags::SAMPLED;
    context.is_valid().then(|| format!("00-{}-{}-{flags:02x}", context.trace_id(), context.span_id()))
}

/// Makes a new span the child of one with this context, which may be a span of another process.
pub fn set_parent(span: &Span, traceparent: Option<&str>) {
    if span.is_disabled() {
        return;
    }
    if let Some(parent) = traceparent.and_then(parse) {
        // Fails only if the span has begun.
        let _ = span.set_parent(remote(parent));
    }
}

/// Makes a new span the span of a batch: it belongs to the trace of the first member that is recorded, and is linked to all of those
/// members.
pub fn set_batch<'a>(span: &Span, members: impl IntoIterator<Item = &'a str>) {
    if span.is_disabled() {
        return;
    }
    let members: Vec<SpanContext> = members.into_iter().filter_map(parse).collect();
    let mut recorded = members.iter().filter(|member| member.is_sampled()).peekable();
    if let Some(parent) = recorded.peek().copied().or(members.first()) {
        let _ = span.set_parent(remote(parent.clone()));
    }
    recorded.for_each(|member| span.add_link(member.clone()));
}

fn remote(context: SpanContext) -> opentelemetry::Context {
    opentelemetry::Context::new().with_remote_span_context(context)
}

/// The ids of the trace and of the span in which this is called, in hexadecimal, for log lines.
pub fn current_ids() -> Option<(String, String)> {
    let context = opentelemetry::Context::current();
    let context = context.span().span_context().clone();
    context.is_valid().then(|| (context.trace_id().to_string(), context.span_id().to_string()))
}

/// Reads a `traceparent`, of whatever version: later ones begin with the same fields.
fn parse(traceparent: &str) -> Option<SpanContext> {
    let mut parts = traceparent.split('-').skip(1);
    let (trace, span, flags) = (parts.next()?, parts.next()?, parts.next()?);
    let (trace, span) = (TraceId::from_hex(trace).ok()?, SpanId::from_hex(span).ok()?);
    let flags = TraceFlags::new(u8::from_str_radix(flags, 16).ok()?);
    let context = SpanContext::new(trace, span, flags, true, TraceState::NONE);
    context.is_valid().then_some(context)
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use tracing::info_span;
    use tracing::subscriber::with_default;
    use tracing_subscriber::layer::SubscriberExt;

    use super::*;

    const RECORDED: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";
    const OTHER: &str = "00-5bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b8-00";

    #[derive(Clone, Debug, Default)]
    struct Recorder(Arc<Mutex<Vec<SpanData>>>);

    impl trace::SpanExporter for Recorder {
        async fn export(&self, batch: Vec<SpanData>) -> OTelSdkResult {
            self.0.lock().unwrap().extend(batch);
            Ok(())
        }
    }

    fn telemetry(traces: Option<Traces>) -> Telemetry {
        Telemetry { resource: Resource::builder_empty().build(), traces, metrics: None }
    }

    /// The spans that are recorded because their parents are.
    fn recorded(make: impl FnOnce()) -> Vec<SpanData> {
        let recorder = Recorder::default();
        let never = Sampler::ParentBased(Box::new(Sampler::AlwaysOff));
        let provider = builder().with_sampler(never).with_simple_exporter(recorder.clone()).build();
        let telemetry = telemetry(Some(Traces { provider, outage: Arc::default() }));
        with_default(tracing_subscriber::registry().with(telemetry.layer()), make);
        recorder.0.lock().unwrap().clone()
    }

    #[test]
    fn a_context_travels_as_text() {
        let spans = recorded(|| {
            let parent = info_span!("parent");
            set_parent(&parent, Some(RECORDED));
            let child = info_span!("child");
            set_parent(&child, traceparent(&parent).as_deref());
            drop(child);
        });
        let [child, parent] = &spans[..] else { panic!("two spans: {spans:?}") };
        assert_eq!((&*parent.name, parent.parent_span_id.to_string()), ("parent", "00f067aa0ba902b7".into()));
        assert_eq!((&*child.name, child.parent_span_id), ("child", parent.span_context.span_id()));
        assert!(spans.iter().all(|span| span.span_context.trace_id().to_string() == RECORDED[3..35]));
    }

    #[test]
    fn the_span_of_a_batch_is_in_the_trace_of_its_first_recorded_member() {
        let spans = recorded(|| {
            let batch = info_span!("batch");
            set_batch(&batch, [OTHER, "", "00-x-y-01", RECORDED]);
            drop(batch);
            let unrecorded = info_span!("of members that are not recorded");
            set_batch(&unrecorded, [OTHER]);
            assert!(traceparent(&unrecorded).unwrap().starts_with(&OTHER[..35]));
        });
        let [batch] = &spans[..] else { panic!("one span: {spans:?}") };
        assert_eq!(batch.span_context.trace_id().to_string(), RECORDED[3..35]);
        let links: Vec<String> = batch.links.iter().map(|link| link.span_context.span_id().to_string()).collect();
        assert_eq!(links, ["00f067aa0ba902b7"]);
    }

    #[test]
    fn a_large_batch_is_linked_to_all_of_its_members() {
        let spans = recorded(|| set_batch(&info_span!("batch"), [RECORDED; 640]));
        assert_eq!(spans[0].links.iter().count(), 640);
    }

    #[test]
    fn without_telemetry_a_span_has_no_context() {
        with_default(tracing_subscriber::registry().with(telemetry(None).layer()), || {
            let span = info_span!("span");
            set_parent(&span, Some(RECORDED));
            let _entered = span.enter();
            assert_eq!((traceparent(&span), current_ids()), (None, None));
        });
    }
}
