//! An OpenTelemetry collector that keeps the spans and the names of the metrics that it gets.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use axum::Router;
use axum::body::Bytes;
use axum::extract::{DefaultBodyLimit, State};
use axum::http::StatusCode;
use axum::routing::post;
use opentelemetry_proto::tonic::collector::metrics::v1::ExportMetricsServiceRequest;
use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceRequest;
use opentelemetry_proto::tonic::common::v1::{AnyValue, KeyValue, any_value};
use opentelemetry_proto::tonic::metrics::v1::{AggregationTemporality, metric};
use opentelemetry_proto::tonic::trace::v1 as proto;
use prost::Message;
use tokio::net::TcpListener;

/// A span with its ids in hexadecimal, and its attributes as text.
#[derive(Clone, Debug)]
pub struct Span {
    pub service: String,
    pub name: String,
    pub kind: proto::span::SpanKind,
    pub trace: String,
    pub id: String,
    pub parent: String,
    /// The ids of the linked spans.
    pub links: Vec<String>,
    pub attributes: BTreeMap<String, String>,
    pub is_error: bool,
}

impl Span {
    pub fn attribute(&self, name: &str) -> &str {
        self.attributes.get(name).map_or("", String::as_str)
    }

    /// As `traceparent`.
    pub fn context(&self) -> String {
        format!("00-{}-{}-01", self.trace, self.id)
    }
}

/// Collects until the test ends.
#[derive(Clone, Default)]
pub struct Collector {
    /// For `OTEL_EXPORTER_OTLP_ENDPOINT`.
    pub endpoint: String,
    spans: Arc<Mutex<Vec<Span>>>,
    metrics: Arc<Mutex<BTreeMap<String, Process>>>,
}

/// A process that sends metrics: what it says of itself, and the names of its metrics.
#[derive(Clone, Debug, Default)]
pub struct Process {
    pub attributes: BTreeMap<String, String>,
    pub metrics: BTreeSet<String>,
    /// The largest values of histograms since the export before, if they are sent.
    pub largest: BTreeMap<String, f64>,
}

impl Collector {
    pub async fn start() -> Collector {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let endpoint = format!("http://{}", listener.local_addr().unwrap());
        let collector = Collector { endpoint, ..Collector::default() };
        let routes = Router::new().route("/v1/traces", post(collect)).route("/v1/metrics", post(collect_metrics));
        let router = routes.layer(DefaultBodyLimit::disable()).with_state(collector.clone());
        tokio::spawn(async move { axum::serve(listener, router).await });
        collector
    }

    /// For `OTEL_EXPORTER_OTLP_TRACES_ENDPOINT`.
    pub fn traces(&self) -> String {
        format!("{}/v1/traces", self.endpoint)
    }

    /// A collector that never responds. Returns its endpoint.
    pub async fn hanging() -> String {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let endpoint = format!("http://{}", listener.local_addr().unwrap());
        tokio::spawn(async move {
            let mut open = Vec::new();
            while let Ok(connection) = listener.accept().await {
                open.push(connection);
            }
        });
        endpoint
    }

    /// A collector that refuses everything. Returns its endpoint, and the number of its refusals.
    pub async fn refusing() -> (String, Arc<AtomicUsize>) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let endpoint = format!("http://{}", listener.local_addr().unwrap());
        let refusals = Arc::<AtomicUsize>::default();
        let counted = refusals.clone();
        let router = Router::new().fallback(async move || {
            counted.fetch_add(1, Ordering::SeqCst);
            StatusCode::UNAUTHORIZED
        });
        tokio::spawn(async move { axum::serve(listener, router).await });
        (endpoint, refusals)
    }

    /// The spans so far.
    pub fn spans(&self) -> Vec<Span> {
        self.spans.lock().unwrap().clone()
    }

    /// The process that has sent metrics, or none.
    pub fn metrics(&self, service: &str) -> Process {
        self.metrics.lock().unwrap().get(service).cloned().unwrap_or_default()
    }

    /// The spans so far with this name.
    pub fn named(&self, name: &str) -> Vec<Span> {
        self.spans().into_iter().filter(|span| span.name == name).collect()
    }
}

async fn collect(State(collector): State<Collector>, body: Bytes) {
    let request = ExportTraceServiceRequest::decode(body).unwrap();
    for resource in request.resource_spans {
        let attributes = texts(resource.resource.unwrap_or_default().attributes);
        let service = attributes.get("service.name").cloned().unwrap_or_default();
        let spans = resource.scope_spans.into_iter().flat_map(|scope| scope.spans).map(|span| read(&service, span));
        collector.spans.lock().unwrap().extend(spans);
    }
}

async fn collect_metrics(State(collector): State<Collector>, body: Bytes) {
    let request = ExportMetricsServiceRequest::decode(body).unwrap();
    for resource in request.resource_metrics {
        let attributes = texts(resource.resource.unwrap_or_default().attributes);
        let mut metrics = collector.metrics.lock().unwrap();
        let process = metrics.entry(attributes["service.name"].clone()).or_default();
        process.attributes = attributes;
        for metric in resource.scope_metrics.into_iter().flat_map(|scope| scope.metrics) {
            if let Some(metric::Data::Histogram(histogram)) = metric.data
                && histogram.aggregation_temporality() == AggregationTemporality::Delta
            {
                let largest = histogram.data_points.iter().filter_map(|point| point.max);
                process.largest.extend(largest.map(|value| (metric.name.clone(), value)));
            }
            process.metrics.insert(metric.name);
        }
    }
}

fn read(service: &str, span: proto::Span) -> Span {
    Span {
        service: service.to_owned(),
        kind: span.kind(),
        trace: hexadecimal(&span.trace_id),
        id: hexadecimal(&span.span_id),
        parent: hexadecimal(&span.parent_span_id),
        links: span.links.iter().map(|link| hexadecimal(&link.span_id)).collect(),
        is_error: span.status.as_ref().is_some_and(|status| status.code() == proto::status::StatusCode::Error),
        attributes: texts(span.attributes),
        name: span.name,
    }
}

fn hexadecimal(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn texts(attributes: Vec<KeyValue>) -> BTreeMap<String, String> {
    let text = |value: Option<AnyValue>| match value.and_then(|value| value.value) {
        Some(any_value::Value::StringValue(text)) => text,
        Some(any_value::Value::IntValue(number)) => number.to_string(),
        other => format!("{other:?}"),
    };
    attributes.into_iter().map(|attribute| (attribute.key, text(attribute.value))).collect()
}
