//! Logs go to standard error.

use std::io::IsTerminal;

use anyhow::Context;
use tracing_subscriber::EnvFilter;

/// Where `RUST_LOG` says nothing. The libraries named tell at `info` and `warn` what we tell better.
const DEFAULT: &str = "info,aws_config=error,sea_orm_migration=warn";

#[derive(Clone, Copy, Debug, clap::Args)]
pub struct LogSettings {
    /// How log lines look; RUST_LOG says which appear, such as RUST_LOG=info,sqlx=debug
    #[arg(long, env, value_enum, default_value = "text", global = true)]
    log_format: LogFormat,
}

#[derive(Clone, Copy, Debug, clap::ValueEnum)]
enum LogFormat {
    Text,
    Json,
}

/// Logs from now on what `RUST_LOG` says.
pub fn init(settings: LogSettings) -> anyhow::Result<()> {
    // Armed for as long as the process lives.
    #[cfg(feature = "failpoints")]
    std::mem::forget(fail::FailScenario::setup());
    #[expect(clippy::disallowed_methods, reason = "not a flag: every program that logs with tracing reads RUST_LOG")]
    let directives = std::env::var("RUST_LOG").ok().filter(|directives| !directives.is_empty());
    let filter = EnvFilter::try_new(directives.as_deref().unwrap_or(DEFAULT)).context("RUST_LOG is not understood")?;
    // When nobody reads standard error any more, that must not become a panic in whoever logs.
    let builder =
        tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).log_internal_errors(false);
    match settings.log_format {
        LogFormat::Text => builder.with_ansi(std::io::stderr().is_terminal()).init(),
        LogFormat::Json => builder.json().flatten_event(true).init(),
    }
    Ok(())
}
