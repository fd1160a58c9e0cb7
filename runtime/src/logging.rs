//! Logs go to standard error.

use std::io::IsTerminal;

use anyhow::Context;
use tracing_subscriber::EnvFilter;

use crate::log_fields::EscapedFields;

/// The directives if `RUST_LOG` is not set. The named libraries log below these levels only what our own lines report, too.
const DEFAULT: &str = "info,aws_config=error,sea_orm_migration=warn,sqlx_core=off";

#[derive(Clone, Copy, Debug, clap::Args)]
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
/// When `RUST_LOG` has a syntax error.
pub fn init(settings: LogSettings) -> anyhow::Result<()> {
    // Crash points stay armed until the process ends.
    #[cfg(feature = "failpoints")]
    std::mem::forget(fail::FailScenario::setup());
    #[expect(clippy::disallowed_methods, reason = "not a flag: every program that logs with tracing reads RUST_LOG")]
    let directives = std::env::var("RUST_LOG").ok().filter(|directives| !directives.is_empty());
    let filter = EnvFilter::try_new(directives.as_deref().unwrap_or(DEFAULT)).context("cannot parse RUST_LOG")?;
    // A closed standard error must not cause a panic at the next log line.
    let builder =
        tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).log_internal_errors(false);
    match settings.log_format {
        LogFormat::Text => builder.fmt_fields(EscapedFields).with_ansi(std::io::stderr().is_terminal()).init(),
        LogFormat::Json => builder.json().flatten_event(true).init(),
    }
    Ok(())
}
