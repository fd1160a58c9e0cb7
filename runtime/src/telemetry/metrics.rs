//! Metrics: for Prometheus, on a listener of their own at `METRICS_ADDR`, and over OTLP. Without either the instruments do nothing.
//!
//! Each crate declares its instruments in its `metrics.rs`; docs/metrics.md explains them.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::bail;
use axum::extract::State;
use axum::http::StatusCode;
use axum::http::header::CONTENT_TYPE;
use axum::response::{IntoResponse, Response};
use axum::{Router, middleware, routing};
use opentelemetry::{KeyValue, global};
use opentelemetry_otlp::MetricExporter;
use opentelemetry_prometheus::PrometheusExporter;
use opentelemetry_sdk::error::OTelSdkResult;
use opentelemetry_sdk::metrics::data::ResourceMetrics;
use opentelemetry_sdk::metrics::exporter::PushMetricExporter;
use opentelemetry_sdk::metrics::{PeriodicReader, SdkMeterProvider, Temporality};
use prometheus::{Registry, TEXT_FORMAT, TextEncoder};
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use super::{Export, Outage, Telemetry, is_exported, variable};
use crate::http::{self, Limits, check_headers};
use crate::one_line;
use crate::settings::{listen, listen_address};

/// Few programs read metrics.
const LIMITS: Limits = Limits { idle_timeout: Duration::from_secs(75), max_connections: 20 };
/// Pause between two readings of a [`Sample`].
const SAMPLE_INTERVAL: Duration = Duration::from_secs(5);
/// Limit for one reading.
const SAMPLE_TIMEOUT: Duration = Duration::from_secs(3);
/// The pause between two exports, a variable of the SDK.
const EXPORT_INTERVAL: &str = "OTEL_METRIC_EXPORT_INTERVAL";

/// Whether anybody gets metrics.
static IS_ON: AtomicBool = AtomicBool::new(false);

#[derive(Clone, Copy, Debug, clap::Args)]
#[command(next_help_heading = "Metrics")]
pub struct MetricsSettings {
    /// Address and port to serve metrics on, for Prometheus at /metrics; never make it public (unset: no listener)
    #[arg(long, env, value_parser = listen_address)]
    metrics_addr: Option<SocketAddr>,
}

/// Starts metrics if the settings or the variables of the SDK ask for them. Instruments that were used before would stay without effect,
/// so this comes first.
///
/// # Errors
/// When nobody can listen on the address, or a variable is invalid.
pub async fn start(settings: MetricsSettings, telemetry: &mut Telemetry) -> anyhow::Result<()> {
    let (is_pushed, outage) = (is_exported("METRICS")?, Arc::<Outage>::default());
    if settings.metrics_addr.is_none() && !is_pushed {
        return Ok(());
    }
    let mut provider = SdkMeterProvider::builder().with_resource(telemetry.resource.clone());
    if let Some(address) = settings.metrics_addr {
        provider = provider.with_reader(serve(address).await?);
    }
    if is_pushed {
        provider = provider.with_reader(push(outage.clone())?);
    }
    let provider = provider.build();
    global::set_meter_provider(provider.clone());
    telemetry.metrics = is_pushed.then_some(PushedMetrics { provider, outage });
    IS_ON.store(true, Ordering::Relaxed);
    record_build();
    Ok(())
}

/// Serves the metrics until the process ends, so that a drain can be observed.
async fn serve(address: SocketAddr) -> anyhow::Result<PrometheusExporter> {
    let listener = listen(address, "METRICS_ADDR").await?;
    let registry = Registry::new();
    // The instruments have the names that Prometheus shows, with unit and `_total`.
    let reader = opentelemetry_prometheus::exporter()
        .with_registry(registry.clone())
        .without_units()
        .without_counter_suffixes()
        .without_target_info()
        .scope_info_enabled(false)
        .build()?;
    info!(address = %listener.local_addr()?, "serving metrics");
    let router = Router::new()
        .route("/metrics", routing::get(text))
        .layer(middleware::from_fn(check_headers))
        .with_state(registry);
    tokio::spawn(http::serve(listener, router, LIMITS, CancellationToken::new()));
    Ok(reader)
}

/// Sends the metrics to a collector, at intervals that the SDK reads from its variable.
fn push(outage: Arc<Outage>) -> anyhow::Result<PeriodicReader<Exporter>> {
    if let Some(interval) = variable(EXPORT_INTERVAL)
        && !interval.parse().is_ok_and(|milliseconds: u64| milliseconds > 0)
    {
        bail!("{EXPORT_INTERVAL} is {interval:?}: write the milliseconds between two exports");
    }
    let otlp = MetricExporter::builder().with_http().build()?;
    Ok(PeriodicReader::builder(Exporter { otlp, outage }).build())
}

/// Metrics that are sent to a collector.
pub(super) struct PushedMetrics {
    provider: SdkMeterProvider,
    outage: Arc<Outage>,
}

impl PushedMetrics {
    /// Exports the last values. `None` if the collector does not respond.
    pub(super) fn last_export(&self) -> Option<Export> {
        let provider = self.provider.clone();
        (!self.outage.is_likely()).then(|| Box::new(move || provider.shutdown()) as Export)
    }
}

struct Exporter {
    otlp: MetricExporter,
    outage: Arc<Outage>,
}

impl PushMetricExporter for Exporter {
    async fn export(&self, metrics: &ResourceMetrics) -> OTelSdkResult {
        self.outage.watch("metrics", self.otlp.export(metrics)).await
    }

    fn force_flush(&self) -> OTelSdkResult {
        self.otlp.force_flush()
    }

    fn shutdown_with_timeout(&self, timeout: Duration) -> OTelSdkResult {
        self.otlp.shutdown_with_timeout(timeout)
    }

    fn temporality(&self) -> Temporality {
        self.otlp.temporality()
    }
}

/// Whether anybody gets metrics. If not, nothing needs to be read from stores for them.
pub fn is_on() -> bool {
    IS_ON.load(Ordering::Relaxed)
}

fn record_build() {
    let meter = global::meter("orders");
    let build = meter.u64_gauge("orders_build_info");
    let build = build.with_description("The release that runs; always 1").build();
    let commit = option_env!("COMMIT").unwrap_or("unknown");
    build.record(1, &[KeyValue::new("version", env!("CARGO_PKG_VERSION")), KeyValue::new("commit", commit)]);
}

/// Everything is in memory, so a scrape waits for no store.
async fn text(State(registry): State<Registry>) -> Response {
    match TextEncoder::new().encode_to_string(&registry.gather()) {
        Ok(text) => ([(CONTENT_TYPE, TEXT_FORMAT)], text).into_response(),
        Err(error) => (StatusCode::INTERNAL_SERVER_ERROR, format!("{error}\n")).into_response(),
    }
}

/// The latest value of something that is read from a store every few seconds. It has no value while the store fails or hangs.
pub struct Sample<T>(Arc<Mutex<Option<T>>>);

impl<T> Clone for Sample<T> {
    fn clone(&self) -> Self {
        Sample(self.0.clone())
    }
}

impl<T: Clone + Send + 'static> Sample<T> {
    /// Reads in the background from now on. `name` says in the log what cannot be read.
    pub fn keep<Reading>(name: &'static str, mut read: impl FnMut() -> Reading + Send + 'static) -> Sample<T>
    where
        Reading: Future<Output = anyhow::Result<T>> + Send,
    {
        let sample = Sample(Arc::default());
        let stored = sample.clone();
        tokio::spawn(async move {
            let mut is_failing = false;
            loop {
                let value = match timeout(SAMPLE_TIMEOUT, read()).await {
                    Ok(Ok(value)) => Ok(value),
                    Ok(Err(error)) => Err(one_line(error.as_ref())),
                    Err(_) => Err(format!("no response within {SAMPLE_TIMEOUT:?}")),
                };
                match (std::mem::replace(&mut is_failing, value.is_err()), &value) {
                    (false, Err(error)) => warn!("cannot measure {name}: {error}"),
                    (true, Ok(_)) => info!("measuring {name} again"),
                    _ => {}
                }
                *stored.0.lock().unwrap_or_else(PoisonError::into_inner) = value.ok();
                sleep(SAMPLE_INTERVAL).await;
            }
        });
        sample
    }

    pub fn get(&self) -> Option<T> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

#[cfg(test)]
mod tests {
    use std::future::pending;

    use anyhow::anyhow;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_store_that_fails_or_hangs_has_no_value() {
        let mut readings = 0;
        let sample = Sample::keep("a test", move || {
            readings += 1;
            let reading = readings;
            async move {
                match reading {
                    2 => Err(anyhow!("by the test")),
                    3 => pending().await,
                    _ => Ok(reading),
                }
            }
        });
        let mut values = Vec::new();
        while values.last() != Some(&Some(4)) {
            sleep(Duration::from_millis(100)).await;
            values.push(sample.get());
            values.dedup();
        }
        assert_eq!(values, [Some(1), None, Some(4)]);
    }
}
