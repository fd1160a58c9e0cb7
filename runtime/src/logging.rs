//! Logs go to standard error: [`writer`] in the background, [`format`](mod@format) with the ids of [`context`].

mod context;
mod format;
mod writer;

use std::backtrace::{Backtrace, BacktraceStatus};
use std::io::IsTerminal;
use std::sync::OnceLock;

use anyhow::{Context, ensure};
use tracing::{Level, error, event_enabled};
use tracing_subscriber::filter::{FilterExt, LevelFilter, filter_fn};
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;
use tracing_subscriber::{EnvFilter, Layer, fmt};

pub use self::context::{LogContext, is_traceparent};
use self::format::{Json, Text};
use self::writer::LogWriter;
use crate::log_fields::EscapedFields;
use crate::telemetry::Telemetry;

/// The directives if `RUST_LOG` is not set. Below these levels, these libraries log only what our own lines also report.
const DEFAULT: &str = "info,aws_config=error,opentelemetry=warn,opentelemetry-otlp=off,sea_orm_migration=warn,sqlx::pool=error,sqlx_core=off";

static WRITER: OnceLock<LogWriter> = OnceLock::new();

#[derive(Clone, Copy, Debug, clap::Args)]
#[command(next_help_heading = "Log")]
pub struct LogSettings {
    /// Format of log lines; RUST_LOG chooses which are logged, such as RUST_LOG=info,sqlx=debug
    #[arg(long, env, value_enum, default_value = "text", global = true)]
    log_format: LogFormat,
}

#[derive(Clone, Copy, Debug, clap::ValueEnum)]
enum LogFormat {
    Text,
    Json,
}

/// Starts logging and, if it is on, telemetry.
///
/// # Errors
/// When `RUST_LOG` is invalid.
pub fn init(settings: LogSettings, telemetry: &Telemetry) -> anyhow::Result<()> {
    // Crash points stay armed until the process ends.
    #[cfg(feature = "failpoints")]
    std::mem::forget(fail::FailScenario::setup());
    #[expect(clippy::disallowed_methods, reason = "not a flag: every program that logs with tracing reads RUST_LOG")]
    let directives = std::env::var("RUST_LOG").unwrap_or_default();
    // Spans are for telemetry: in a log line they would repeat its fields.
    let is_line = filter_fn(|metadata| metadata.is_event()).with_max_level_hint(LevelFilter::TRACE);
    let filter = filter(&directives)?.and(is_line);
    // A closed standard error must not cause a panic at the next log line.
    let lines = fmt::layer().with_writer(start_writer()?).log_internal_errors(false);
    let lines = match settings.log_format {
        LogFormat::Text => {
            let format = Text(fmt::format().with_ansi(std::io::stderr().is_terminal()));
            lines.fmt_fields(EscapedFields).event_format(format).with_filter(filter).boxed()
        }
        LogFormat::Json => lines.event_format(Json).with_filter(filter).boxed(),
    };
    // In a list, because an absent layer would make spans cost more than none.
    let layers: Vec<_> = telemetry.layer().into_iter().chain([lines]).collect();
    tracing_subscriber::registry().with(layers).init();
    log_panics();
    Ok(())
}

fn start_writer() -> anyhow::Result<LogWriter> {
    let writer = LogWriter::start(std::io::stderr()).context("cannot start a thread")?;
    Ok(WRITER.get_or_init(|| writer).clone())
}

/// Waits until the lines so far are written, but not long if standard error does not take them.
pub fn flush() {
    if let Some(writer) = WRITER.get() {
        writer.flush();
    }
}

/// Logs panics as errors, so that their lines have the ids of their requests. A backtrace is printed as usual.
fn log_panics() {
    let print = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |panic| {
        let location = panic.location().map(ToString::to_string).unwrap_or_default();
        error!("panicked at {location}: {}", panic.payload_as_str().unwrap_or("no message"));
        flush();
        let is_traced = Backtrace::capture().status() == BacktraceStatus::Captured;
        if is_traced || !event_enabled!(Level::ERROR) {
            print(panic);
        }
    }));
}

fn filter(directives: &str) -> anyhow::Result<EnvFilter> {
    let directives: Vec<&str> = directives.split(',').map(str::trim).filter(|one| !one.is_empty()).collect();
    if directives.is_empty() {
        return Ok(EnvFilter::try_new(DEFAULT)?);
    }
    for directive in &directives {
        // tracing takes any other text for the name of a module, enables its lines, and disables all others.
        let name = directive.split(['=', '[']).next().unwrap_or_default();
        let is_level = directive.parse::<LevelFilter>().is_ok();
        ensure!(
            is_level || name != *directive && !name.contains(char::is_whitespace),
            "RUST_LOG: {directive:?} is not a level (error, warn, info, debug, trace, off); for a module write {name}=trace, \
             and commas between several"
        );
    }
    EnvFilter::try_new(directives.join(",")).context("cannot parse RUST_LOG")
}

#[cfg(test)]
mod tests {
    use super::*;

    /// When the database is busy, each statement that waits would write a line.
    #[test]
    fn waits_for_a_connection_are_not_logged_by_default() {
        tracing::subscriber::with_default(tracing_subscriber::registry().with(filter("").unwrap()), || {
            assert!(!event_enabled!(target: "sqlx::pool::acquire", Level::WARN));
            assert!(event_enabled!(target: "api::outbox::relay", Level::WARN));
        });
    }

    #[test]
    fn a_misspelt_level_is_refused() {
        for valid in ["", " ", "info", "WARN", "off", "info,sqlx=debug", " info , api::edge=warn", "api=trace", "2"] {
            assert!(filter(valid).is_ok(), "{valid:?}");
        }
        for invalid in ["inof", "info,dbug", "api", "api=loud", "info api=debug", "[", "verbose"] {
            let error = filter(invalid).unwrap_err();
            assert!(error.to_string().contains("RUST_LOG"), "{invalid:?}: {error}");
        }
    }
}
