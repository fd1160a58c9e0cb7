//! Logs go to standard error.

use std::io::IsTerminal;

use anyhow::{Context, ensure};
use tracing_subscriber::EnvFilter;
use tracing_subscriber::filter::LevelFilter;

use crate::log_fields::EscapedFields;

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

/// Starts logging.
///
/// # Errors
/// When `RUST_LOG` is invalid.
pub fn init(settings: LogSettings) -> anyhow::Result<()> {
    // Crash points stay armed until the process ends.
    #[cfg(feature = "failpoints")]
    std::mem::forget(fail::FailScenario::setup());
    #[expect(clippy::disallowed_methods, reason = "not a flag: every program that logs with tracing reads RUST_LOG")]
    let directives = std::env::var("RUST_LOG").unwrap_or_default();
    let filter = filter(&directives)?;
    // A closed standard error must not cause a panic at the next log line.
    let builder =
        tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).log_internal_errors(false);
    match settings.log_format {
        LogFormat::Text => builder.fmt_fields(EscapedFields).with_ansi(std::io::stderr().is_terminal()).init(),
        LogFormat::Json => builder.json().flatten_event(true).init(),
    }
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
