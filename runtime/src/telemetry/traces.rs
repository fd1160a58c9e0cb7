//! Traces. Code makes spans with the macros of `tracing`, whose fields `otel.…` set what OpenTelemetry has besides attributes. Log
//! lines are not part of a trace.
//!
//! Whether a trace is recorded is decided before its first span is made, because a span takes time even if nobody gets it. So each span
//! is made by [`Trace::span`], [`child`] or [`batch`], which make none in a trace that is not recorded.
//!
//! A trace follows an event through stores and processes as text: the `traceparent` of
//! [W3C Trace Context](https://www.w3.org/TR/trace-context/#traceparent-header). Work that several traces share, such as a
//! transaction with many orders, is one span: in the trace of the first of them that is recorded, with links to all.

use std::cell::Cell;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{anyhow, bail};
use opentelemetry::Context;
use opentelemetry::trace::{
    SpanContext, SpanId, SpanKind, TraceContextExt, TraceFlags, TraceId, TraceState, TracerProvider as _,
};
use opentelemetry_otlp::SpanExporter;
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::error::OTelSdkResult;
use opentelemetry_sdk::trace::{
    self, IdGenerator, RandomIdGenerator, Sampler, SamplingDecision, SdkTracerProvider, ShouldSample, SpanData,
    TracerProviderBuilder,
};
use tracing::subscriber::Interest;
use tracing::{Metadata, Span, dispatcher};
use tracing_opentelemetry::OpenTelemetrySpanExt;
use tracing_subscriber::filter::LevelFilter;
use tracing_subscriber::layer::{self, Filter};
use tracing_subscriber::{Layer, Registry};

use super::{Export, Outage, SHUTDOWN_TIMEOUT, Telemetry, variable};

/// The part of the traces that is recorded by default: to record all of them costs much of the throughput, see docs/tracing.md.
const DEFAULT_RATIO: f64 = 0.01;
/// Links of one span. The SDK has a limit of 128 by default, but many more orders can share one call.
const MAX_LINKS: u32 = 1_024;
/// The crates whose spans are recorded. Libraries have spans, too, with fields that we have not checked.
const CRATES: [&str; 5] = ["api", "projector", "read_model", "runtime", "standalone"];

pub(super) struct Traces {
    provider: SdkTracerProvider,
    sampler: Sampler,
    outage: Arc<Outage>,
}

impl Traces {
    pub(super) fn start(resource: Resource) -> anyhow::Result<Traces> {
        let outage = Arc::<Outage>::default();
        let exporter = Exporter { otlp: SpanExporter::builder().with_http().build()?, outage: outage.clone() };
        let provider = builder().with_resource(resource).with_batch_exporter(exporter).build();
        Ok(Traces { provider, sampler: sampler()?, outage })
    }

    /// Exports the last spans. `None` if the collector does not respond.
    pub(super) fn last_export(&self) -> Option<Export> {
        let provider = self.provider.clone();
        (!self.outage.is_likely()).then(|| Box::new(move || provider.shutdown_with_timeout(SHUTDOWN_TIMEOUT)) as Export)
    }
}

fn builder() -> TracerProviderBuilder {
    let builder = match variable("OTEL_SPAN_LINK_COUNT_LIMIT") {
        None => SdkTracerProvider::builder().with_max_links_per_span(MAX_LINKS),
        Some(_) => SdkTracerProvider::builder(), // the SDK reads it
    };
    // No span is made in a trace that is not recorded.
    builder.with_sampler(Sampler::AlwaysOn).with_id_generator(Ids)
}

impl Telemetry {
    /// Records spans, if traces are exported.
    pub(crate) fn layer(&self) -> Option<BoxedLayer> {
        self.traces.as_ref().map(|traces| span_layer(&traces.provider, traces.sampler.clone()))
    }
}

/// A layer around the registry of all spans.
pub type BoxedLayer = Box<dyn Layer<Registry> + Send + Sync>;

/// Records the spans of the traces that the sampler selects.
pub fn span_layer(provider: &SdkTracerProvider, sampler: Sampler) -> BoxedLayer {
    let layer = tracing_opentelemetry::layer()
        .with_tracer(provider.tracer("orders"))
        .with_location(false)
        .with_threads(false)
        .with_target(false)
        .with_tracked_inactivity(false);
    layer.with_filter(SpanFilter(sampler)).boxed()
}

/// Selects the spans of our crates. Its sampler selects the traces that get any: see [`decide`].
struct SpanFilter(Sampler);

impl SpanFilter {
    fn is_ours(metadata: &Metadata<'_>) -> bool {
        let name = metadata.target().split("::").next().unwrap_or_default();
        metadata.is_span() && CRATES.contains(&name)
    }
}

impl<S> Filter<S> for SpanFilter {
    fn enabled(&self, metadata: &Metadata<'_>, _: &layer::Context<'_, S>) -> bool {
        SpanFilter::is_ours(metadata)
    }

    fn callsite_enabled(&self, metadata: &'static Metadata<'static>) -> Interest {
        if SpanFilter::is_ours(metadata) { Interest::always() } else { Interest::never() }
    }

    fn max_level_hint(&self) -> Option<LevelFilter> {
        Some(LevelFilter::INFO)
    }
}

/// The sampler that the variables of the SDK ask for.
fn sampler() -> anyhow::Result<Sampler> {
    let (name, argument) = (variable("OTEL_TRACES_SAMPLER"), variable("OTEL_TRACES_SAMPLER_ARG"));
    let ratio = || {
        let ratio = argument.as_ref().map_or(Some(DEFAULT_RATIO), |argument| argument.parse().ok());
        let ratio = ratio.filter(|ratio| (0.0..=1.0).contains(ratio)).ok_or_else(|| {
            let argument = argument.as_deref().unwrap_or_default();
            anyhow!(
                "OTEL_TRACES_SAMPLER_ARG is {argument:?}: write the part of the traces that is recorded, from 0 to 1"
            )
        });
        ratio.map(Sampler::TraceIdRatioBased)
    };
    let parent_based = |sampler| Sampler::ParentBased(Box::new(sampler));
    Ok(match name.as_deref() {
        Some("always_on") => Sampler::AlwaysOn,
        Some("always_off") => Sampler::AlwaysOff,
        Some("traceidratio") => ratio()?,
        Some("parentbased_always_on") => parent_based(Sampler::AlwaysOn),
        Some("parentbased_always_off") => parent_based(Sampler::AlwaysOff),
        None | Some("parentbased_traceidratio") => parent_based(ratio()?),
        Some(other) => bail!(
            "OTEL_TRACES_SAMPLER is {other:?}: write always_on, always_off, traceidratio, parentbased_always_on, \
             parentbased_always_off or parentbased_traceidratio"
        ),
    })
}

/// Decides whether a trace is recorded. `None` if traces are off.
fn decide(parent: Option<&SpanContext>, id: TraceId) -> Option<SamplingDecision> {
    dispatcher::get_default(|subscriber| {
        let SpanFilter(sampler) = subscriber.downcast_ref::<SpanFilter>()?;
        let parent = parent.cloned().map(remote);
        Some(sampler.should_sample(parent.as_ref(), id, "", &SpanKind::Internal, &[], &[]).decision)
    })
}

/// Whether traces are exported.
pub fn are_on() -> bool {
    dispatcher::get_default(|subscriber| subscriber.is::<SpanFilter>())
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

/// A trace as it is before its first span in this process.
#[derive(Clone, Debug)]
pub struct Trace {
    id: TraceId,
    /// The span of another task or process in which the trace goes on. `None` if it begins here.
    parent: Option<SpanContext>,
    /// `None` if traces are off.
    decision: Option<SamplingDecision>,
}

impl Trace {
    /// The trace with this context, or a new one.
    pub fn of(traceparent: Option<&str>) -> Trace {
        match traceparent.and_then(parse) {
            Some(parent) => Trace::within(parent),
            None => {
                let id = RandomIdGenerator::default().new_trace_id();
                Trace { id, parent: None, decision: decide(None, id) }
            }
        }
    }

    fn within(parent: SpanContext) -> Trace {
        Trace { id: parent.trace_id(), decision: decide(Some(&parent), parent.trace_id()), parent: Some(parent) }
    }

    fn is_recorded(&self) -> bool {
        self.decision == Some(SamplingDecision::RecordAndSample)
    }

    /// Makes the first span of the trace in this task. There is none if the trace is not recorded.
    pub fn span(&self, make: impl FnOnce() -> Span) -> Span {
        if !self.is_recorded() {
            return Span::none();
        }
        let span = make();
        // This fails only if the span has begun.
        let _ = span.set_parent(self.parent.clone().map(remote).unwrap_or_default());
        if self.parent.is_none() {
            NEW_TRACE.set(Some(self.id));
            span.context(); // begins the span
            NEW_TRACE.set(None);
        }
        span
    }

    /// The context for what has no span in this process. A new trace gets a span that nobody records.
    pub fn traceparent(&self) -> String {
        let (span, flags) = match &self.parent {
            Some(parent) => (parent.span_id(), parent.trace_flags()),
            None => (RandomIdGenerator::default().new_span_id(), TraceFlags::default()),
        };
        let flags = if self.decision == Some(SamplingDecision::Drop) { flags.with_sampled(false) } else { flags };
        format!("00-{}-{span}-{flags:02x}", self.id)
    }
}

thread_local! {
    /// The id of the trace whose first span begins now.
    static NEW_TRACE: Cell<Option<TraceId>> = const { Cell::new(None) };
}

/// Gives a new trace the id for which it was selected. Log lines have the same.
#[derive(Debug)]
struct Ids;

impl IdGenerator for Ids {
    fn new_trace_id(&self) -> TraceId {
        NEW_TRACE.get().unwrap_or_else(|| RandomIdGenerator::default().new_trace_id())
    }

    fn new_span_id(&self) -> SpanId {
        RandomIdGenerator::default().new_span_id()
    }
}

/// Makes a span within the current one. There is none if the trace is not recorded.
pub fn child(make: impl FnOnce() -> Span) -> Span {
    if Span::current().is_disabled() { Span::none() } else { make() }
}

/// Makes the span of a batch: it belongs to the trace of the first member that is recorded, and is linked to all of those members. There
/// is none if no member is recorded.
pub fn batch<'a>(members: impl IntoIterator<Item = &'a str>, make: impl FnOnce() -> Span) -> Span {
    if !are_on() {
        return Span::none();
    }
    let members = members.into_iter().filter_map(parse).map(Trace::within);
    let recorded: Vec<Trace> = members.filter(Trace::is_recorded).collect();
    let Some(first) = recorded.first() else { return Span::none() };
    let span = first.span(make);
    recorded.iter().filter_map(|member| member.parent.clone()).for_each(|member| span.add_link(member));
    span
}

/// The trace context of a span; `None` if it is not recorded.
pub fn traceparent(span: &Span) -> Option<String> {
    if span.is_disabled() {
        return None;
    }
    let context = span.context();
    let context = context.span().span_context().clone();
    let flags = context.trace_flags() & TraceFlags::SAMPLED;
    context.is_valid().then(|| format!("00-{}-{}-{flags:02x}", context.trace_id(), context.span_id()))
}

fn remote(context: SpanContext) -> Context {
    Context::new().with_remote_span_context(context)
}

/// The ids of the trace and of the span in which this is called, in hexadecimal, for log lines.
pub fn current_ids() -> Option<(String, String)> {
    let context = Context::current();
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
    use tracing::span::{Attributes, Id};
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

    /// The names of all spans that are made, recorded or not.
    #[derive(Clone, Default)]
    struct Made(Arc<Mutex<Vec<&'static str>>>);

    impl Layer<Registry> for Made {
        fn on_new_span(&self, attributes: &Attributes<'_>, _: &Id, _: layer::Context<'_, Registry>) {
            self.0.lock().unwrap().push(attributes.metadata().name());
        }
    }

    /// The spans that are recorded, and the names of those that are made.
    fn run(sampler: Sampler, make: impl FnOnce()) -> (Vec<SpanData>, Vec<&'static str>) {
        let (recorder, made) = (Recorder::default(), Made::default());
        let provider = builder().with_simple_exporter(recorder.clone()).build();
        let layers = vec![span_layer(&provider, sampler), made.clone().boxed()];
        with_default(tracing_subscriber::registry().with(layers), make);
        (recorder.0.lock().unwrap().clone(), made.0.lock().unwrap().clone())
    }

    /// Records the traces whose parents are recorded, and new ones if the other sampler selects them.
    fn parent_based(new: Sampler) -> Sampler {
        Sampler::ParentBased(Box::new(new))
    }

    /// The spans that are recorded because their parents are.
    fn recorded(make: impl FnOnce()) -> Vec<SpanData> {
        run(parent_based(Sampler::AlwaysOff), make).0
    }

    #[test]
    fn a_context_travels_as_text() {
        let spans = recorded(|| {
            let parent = Trace::of(Some(RECORDED)).span(|| info_span!("parent"));
            let child = Trace::of(traceparent(&parent).as_deref()).span(|| info_span!("child"));
            drop(child);
        });
        let [child, parent] = &spans[..] else { panic!("two spans: {spans:?}") };
        assert_eq!((&*parent.name, parent.parent_span_id.to_string()), ("parent", "00f067aa0ba902b7".into()));
        assert_eq!((&*child.name, child.parent_span_id), ("child", parent.span_context.span_id()));
        assert!(spans.iter().all(|span| span.span_context.trace_id().to_string() == RECORDED[3..35]));
    }

    #[test]
    fn a_trace_that_is_not_recorded_has_no_spans() {
        let (spans, made) = run(parent_based(Sampler::AlwaysOff), || {
            for context in [None, Some(OTHER)] {
                let trace = Trace::of(context);
                let first = trace.span(|| info_span!("first"));
                first.in_scope(|| assert!(child(|| info_span!("child")).is_none()));
                assert!(first.is_none() && traceparent(&first).is_none());
                assert!(trace.traceparent().ends_with("-00"));
                assert!(batch(context, || info_span!("batch")).is_none());
            }
            assert_eq!(Trace::of(Some(OTHER)).traceparent(), OTHER);
            let first = Trace::of(Some(RECORDED)).span(|| info_span!("first of a recorded trace"));
            first.in_scope(|| drop(child(|| info_span!("child in a recorded trace"))));
        });
        assert_eq!(made, ["first of a recorded trace", "child in a recorded trace"]);
        assert_eq!(spans.len(), 2);
    }

    #[test]
    fn a_new_trace_has_the_id_for_which_it_was_selected() {
        let mut selected = Vec::new();
        let (spans, made) = run(parent_based(Sampler::TraceIdRatioBased(0.1)), || {
            // Not a part of another trace, even if it begins within a span.
            let outer = Trace::of(Some(RECORDED)).span(|| info_span!("outer"));
            let _entered = outer.enter();
            for _ in 0..2_000 {
                let trace = Trace::of(None);
                if !trace.span(|| info_span!("first")).is_none() {
                    selected.push(trace.traceparent()[3..35].to_owned());
                }
            }
        });
        assert!((100..300).contains(&selected.len()), "one of ten: {}", selected.len());
        assert_eq!(made.len(), selected.len() + 1);
        let first = spans.iter().filter(|span| span.name == "first");
        assert!(first.clone().all(|span| span.parent_span_id == SpanId::INVALID));
        assert_eq!(first.map(|span| span.span_context.trace_id().to_string()).collect::<Vec<_>>(), selected);
    }

    #[test]
    fn the_sampler_may_ignore_the_decision_of_the_caller() {
        run(Sampler::AlwaysOff, || {
            let trace = Trace::of(Some(RECORDED));
            assert!(trace.span(|| info_span!("span")).is_none());
            assert_eq!(trace.traceparent(), format!("{}00", &RECORDED[..53]), "the next process learns it");
        });
        let (spans, _) = run(Sampler::AlwaysOn, || drop(batch([OTHER, RECORDED], || info_span!("batch"))));
        assert_eq!(spans[0].span_context.trace_id().to_string(), OTHER[3..35]);
        assert_eq!(spans[0].links.len(), 2);
    }

    #[test]
    fn the_span_of_a_batch_is_in_the_trace_of_its_first_recorded_member() {
        let spans = recorded(|| drop(batch([OTHER, "", "00-x-y-01", RECORDED], || info_span!("batch"))));
        let [batch] = &spans[..] else { panic!("one span: {spans:?}") };
        assert_eq!(batch.span_context.trace_id().to_string(), RECORDED[3..35]);
        let links: Vec<String> = batch.links.iter().map(|link| link.span_context.span_id().to_string()).collect();
        assert_eq!(links, ["00f067aa0ba902b7"]);
    }

    #[test]
    fn a_large_batch_is_linked_to_all_of_its_members() {
        let spans = recorded(|| drop(batch([RECORDED; 640], || info_span!("batch"))));
        assert_eq!(spans[0].links.iter().count(), 640);
    }

    #[test]
    fn without_telemetry_there_are_no_spans_and_contexts_are_passed_on() {
        let made = Made::default();
        with_default(tracing_subscriber::registry().with(made.clone()), || {
            let trace = Trace::of(Some(RECORDED));
            let span = trace.span(|| info_span!("span"));
            let _entered = span.enter();
            drop(batch([RECORDED], || info_span!("batch")));
            assert_eq!((traceparent(&span), current_ids()), (None, None));
            assert_eq!(trace.traceparent(), RECORDED);
        });
        assert!(made.0.lock().unwrap().is_empty());
    }
}
