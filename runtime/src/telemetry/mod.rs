//! Telemetry over OTLP/HTTP. Off unless an endpoint is configured: then there is no exporter and no thread, and spans cost nothing.
//!
//! The settings are those of every program with an OpenTelemetry SDK:
//! <https://opentelemetry.io/docs/specs/otel/configuration/sdk-environment-variables/>. docs/tracing.md lists the useful ones.
//!
//! - [`metrics`]: for Prometheus, with a listener of their own
//! - [`traces`]: spans, and the trace contexts that travel with events

pub mod metrics;
pub mod traces;

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use opentelemetry::KeyValue;
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::resource::{EnvResourceDetector, TelemetryResourceDetector};
use tracing::{info, warn};
use uuid::Uuid;

use self::traces::Traces;

/// How much longer a program may run at its end to export the rest.
const SHUTDOWN_TIMEOUT: Duration = Duration::from_secs(2);
/// A collector that has not responded for so long is not waited for at the end.
const SLOW_CALL: Duration = Duration::from_millis(500);

/// Exports in the background until it is dropped.
#[must_use]
pub struct Telemetry {
    traces: Option<Traces>,
}

/// Starts what is configured. `service` is the name of the program.
///
/// # Errors
/// When a setting is invalid.
pub fn start(service: &'static str) -> anyhow::Result<Telemetry> {
    let traces = match is_exported("TRACES") {
        true => Some(Traces::start(resource(service))?),
        false => None,
    };
    Ok(Telemetry { traces })
}

impl Drop for Telemetry {
    fn drop(&mut self) {
        if let Some(traces) = &self.traces {
            traces.shutdown(SHUTDOWN_TIMEOUT);
        }
    }
}

/// Whether a signal, such as `TRACES`, has an endpoint.
fn is_exported(signal: &str) -> bool {
    let endpoints = ["OTEL_EXPORTER_OTLP_ENDPOINT".to_owned(), format!("OTEL_EXPORTER_OTLP_{signal}_ENDPOINT")];
    endpoints.iter().any(|name| variable(name).is_some())
}

/// Reads a variable of the OpenTelemetry SDK. An empty one counts as not set.
fn variable(name: &str) -> Option<String> {
    #[expect(clippy::disallowed_methods, reason = "not a flag: the OpenTelemetry SDK reads these variables itself")]
    std::env::var(name).ok().filter(|value| !value.is_empty())
}

/// Describes this process. `OTEL_RESOURCE_ATTRIBUTES` adds to it.
fn resource(service: &'static str) -> Resource {
    let service = variable("OTEL_SERVICE_NAME").unwrap_or_else(|| service.to_owned());
    Resource::builder_empty()
        .with_service_name(service)
        .with_attributes([
            KeyValue::new("service.namespace", "orders"),
            KeyValue::new("service.version", env!("CARGO_PKG_VERSION")),
            KeyValue::new("service.instance.id", Uuid::now_v7().to_string()),
        ])
        .with_detectors(&[Box::new(TelemetryResourceDetector), Box::new(EnvResourceDetector::new())])
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
    fn begin_call(&self) {
        *self.waiting_since.lock().unwrap_or_else(PoisonError::into_inner) = Some(Instant::now());
    }

    /// `what` was exported, such as `traces`, or not.
    fn end_call(&self, what: &str, failure: Option<&dyn std::error::Error>) {
        *self.waiting_since.lock().unwrap_or_else(PoisonError::into_inner) = None;
        match (self.is_going_on.swap(failure.is_some(), Ordering::Relaxed), failure) {
            (false, Some(error)) => {
                warn!("cannot export {what} to OTEL_EXPORTER_OTLP_ENDPOINT; they are lost meanwhile: {error}");
            }
            (true, None) => info!("exporting {what} again"),
            _ => {}
        }
    }

    fn is_likely(&self) -> bool {
        let waiting_since = *self.waiting_since.lock().unwrap_or_else(PoisonError::into_inner);
        self.is_going_on.load(Ordering::Relaxed) || waiting_since.is_some_and(|since| since.elapsed() > SLOW_CALL)
    }
}
