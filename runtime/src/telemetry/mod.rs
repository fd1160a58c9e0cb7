//! Telemetry over OTLP/HTTP. Off unless an endpoint is configured: then there is no exporter, no thread and no span.
//!
//! The settings are those of every program with an OpenTelemetry SDK:
//! <https://opentelemetry.io/docs/specs/otel/configuration/sdk-environment-variables/>. docs/tracing.md lists the useful ones.
//!
//! - [`metrics`]: for Prometheus, with a listener of their own, and over OTLP
//! - [`traces`]: spans, and the trace contexts that travel with events

pub mod metrics;
pub mod traces;

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError, mpsc};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{bail, ensure};
use opentelemetry::KeyValue;
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::error::OTelSdkResult;
use opentelemetry_sdk::resource::{EnvResourceDetector, TelemetryResourceDetector};
use tracing::{info, warn};
use uuid::Uuid;

use self::metrics::PushedMetrics;
use self::traces::Traces;

/// Limit for the last export at shutdown.
const SHUTDOWN_TIMEOUT: Duration = Duration::from_secs(2);
/// At shutdown, a collector whose current call takes longer than this is not waited for.
const SLOW_CALL: Duration = Duration::from_millis(500);

/// Exports in the background until it is dropped.
#[must_use]
pub struct Telemetry {
    /// Describes this process.
    resource: Resource,
    traces: Option<Traces>,
    metrics: Option<PushedMetrics>,
}

/// Starts traces if they are configured; metrics start later, see [`metrics::start`]. `service` is the name of the program.
///
/// # Errors
/// When a setting is invalid.
pub fn start(service: &'static str) -> anyhow::Result<Telemetry> {
    let resource = resource(service);
    let traces = match is_exported("TRACES")? {
        true => Some(Traces::start(resource.clone())?),
        false => None,
    };
    Ok(Telemetry { resource, traces, metrics: None })
}

/// Exports the rest of a signal.
type Export = Box<dyn FnOnce() -> OTelSdkResult + Send>;

impl Drop for Telemetry {
    /// Exports the rest of both signals at the same time. The SDK has no time limit of its own for metrics.
    fn drop(&mut self) {
        let (finished, all_finished) = mpsc::channel::<()>();
        let traces = self.traces.as_ref().and_then(Traces::last_export);
        let metrics = self.metrics.as_ref().and_then(PushedMetrics::last_export);
        for export in [traces, metrics].into_iter().flatten() {
            let finished = finished.clone();
            thread::spawn(move || {
                // An outage is logged already.
                let _ = export();
                drop(finished);
            });
        }
        drop(finished);
        let _ = all_finished.recv_timeout(SHUTDOWN_TIMEOUT);
    }
}

/// Whether a signal, such as `TRACES`, has an endpoint and is not switched off.
///
/// # Errors
/// When the variables of the SDK ask for something that is not built in.
fn is_exported(signal: &str) -> anyhow::Result<bool> {
    let of_signal = |name: &str| format!("OTEL_EXPORTER_OTLP_{signal}_{name}");
    let endpoint = variable("OTEL_EXPORTER_OTLP_ENDPOINT").or_else(|| variable(&of_signal("ENDPOINT")));
    let is_disabled = variable("OTEL_SDK_DISABLED").is_some_and(|value| value.eq_ignore_ascii_case("true"));
    if endpoint.is_none() || is_disabled {
        return Ok(false);
    }
    let exporter = format!("OTEL_{signal}_EXPORTER");
    match variable(&exporter).as_deref() {
        None | Some("otlp") => {}
        Some("none") => return Ok(false),
        Some(other) => bail!("{exporter} is {other:?}: write otlp or none"),
    }
    let names = [of_signal("PROTOCOL"), "OTEL_EXPORTER_OTLP_PROTOCOL".to_owned()];
    if let Some((name, protocol)) = names.iter().find_map(|name| Some((name, variable(name)?))) {
        let is_built_in = protocol == "http/protobuf";
        ensure!(is_built_in, "{name} is {protocol:?}: write http/protobuf, which collectors take on port 4318");
    }
    Ok(true)
}

/// Reads a variable of the OpenTelemetry SDK. An empty one counts as not set.
fn variable(name: &str) -> Option<String> {
    #[expect(clippy::disallowed_methods, reason = "not a flag: the OpenTelemetry SDK reads these variables itself")]
    std::env::var(name).ok().filter(|value| !value.is_empty())
}

/// Describes this process. `OTEL_RESOURCE_ATTRIBUTES` adds to it, and `OTEL_SERVICE_NAME` has precedence over both.
fn resource(service: &'static str) -> Resource {
    let resource = Resource::builder_empty()
        .with_service_name(service)
        .with_attributes([
            KeyValue::new("service.namespace", "orders"),
            KeyValue::new("service.version", env!("CARGO_PKG_VERSION")),
            KeyValue::new("service.instance.id", Uuid::now_v7().to_string()),
        ])
        .with_detectors(&[Box::new(TelemetryResourceDetector), Box::new(EnvResourceDetector::new())]);
    match variable("OTEL_SERVICE_NAME") {
        Some(name) => resource.with_service_name(name),
        None => resource,
    }
    .build()
}

/// Whether the collector responds. Logs an outage once, and its end.
#[derive(Debug, Default)]
struct Outage {
    is_going_on: AtomicBool,
    /// When the call began that has no response yet.
    waiting_since: Mutex<Option<Instant>>,
}

impl Outage {
    /// Makes a call that exports `what`, such as `traces`. A failure is logged here only: the SDK would log each failed call.
    async fn watch(&self, what: &str, call: impl Future<Output = OTelSdkResult>) -> OTelSdkResult {
        self.set_waiting(Some(Instant::now()));
        let exported = call.await;
        self.set_waiting(None);
        match (self.is_going_on.swap(exported.is_err(), Ordering::Relaxed), exported) {
            (false, Err(error)) => {
                warn!("cannot export {what} over OTLP; trying again: {error}");
            }
            (true, Ok(())) => info!("exporting {what} again"),
            _ => {}
        }
        Ok(())
    }

    fn set_waiting(&self, since: Option<Instant>) {
        *self.waiting_since.lock().unwrap_or_else(PoisonError::into_inner) = since;
    }

    fn is_likely(&self) -> bool {
        let waiting_since = *self.waiting_since.lock().unwrap_or_else(PoisonError::into_inner);
        self.is_going_on.load(Ordering::Relaxed) || waiting_since.is_some_and(|since| since.elapsed() > SLOW_CALL)
    }
}
