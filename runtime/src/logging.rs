//! Logs go to standard error.

use std::io::IsTerminal;

use anyhow::{Context, ensure};
use tracing_subscriber::filter::{FilterExt, LevelFilter, filter_fn};
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;
use tracing_subscriber::{EnvFilter, Layer, fmt};

use crate::log_fields::EscapedFields;
use crate::telemetry::Telemetry;

/// The directives if `RUST_LOG` is not set. The named libraries log below these levels only what our own lines report, too.
const DEFAULT: &str = "info,aws_config=error,sea_orm_migration=warn,sqlx_core=off";

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
    let lines = fmt::layer().with_writer(std::io::stderr).log_internal_errors(false);
    let lines = match settings.log_format {
        LogFormat::Text => {
            lines.fmt_fields(EscapedFields).with_ansi(std::io::stderr().is_terminal()).with_filter(filter).boxed()
        }
        LogFormat::Json => lines.json().flatten_event(true).with_filter(filter).boxed(),
    };
    // In a list, because an absent layer would make spans cost more than none.
    let layers: Vec<_> = telemetry.layer().into_iter().chain([lines]).collect();
    tracing_subscriber::registry().with(layers).init();
    Ok(())
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
