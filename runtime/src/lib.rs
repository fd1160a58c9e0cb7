//! Code that all programs of the service share: settings, exit codes, logging, connecting to stores, the HTTP server, shutdown
//! signals, crash points.

pub mod batcher;
pub mod crash_points;
pub mod database;
pub mod http;
mod log_fields;
pub mod logging;
pub mod queue;
pub mod settings;
pub mod single_flight;

use std::error::Error;
use std::process::ExitCode;

use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;
use tracing::info;

pub use crash_points::crash_point;

/// The exit code of a program. An error is printed to standard error in one line.
pub fn exit_code(result: anyhow::Result<()>) -> ExitCode {
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {}", one_line(error.as_ref()));
            ExitCode::FAILURE
        }
    }
}

/// Some libraries put whole requests into their errors, so longer lines are cut.
const MAX_LINE: usize = 300;

/// Formats an error and its causes in one line. Many libraries repeat the cause in the error, so repeated text is left out.
pub fn one_line(error: &dyn Error) -> String {
    let mut line = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let text = error.to_string();
        if !line.contains(&text) {
            line = format!("{line}: {text}");
        }
        cause = error.source();
    }
    let line = line.split_whitespace().collect::<Vec<_>>().join(" ");
    match line.char_indices().nth(MAX_LINE) {
        Some((end, _)) => format!("{}…", &line[..end]),
        None => line,
    }
}

/// Returns a token that the first SIGTERM or SIGINT cancels. The second signal ends the process at once.
pub fn shutdown_signal() -> anyhow::Result<CancellationToken> {
    let (mut terminate, mut interrupt) = (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
    let shutdown = CancellationToken::new();
    let token = shutdown.clone();
    tokio::spawn(async move {
        let mut signalled = async || {
            tokio::select! {
                _ = terminate.recv() => {}
                _ = interrupt.recv() => {}
            }
        };
        signalled().await;
        token.cancel();
        info!("shutting down; send the signal again to exit immediately");
        signalled().await;
        #[expect(clippy::disallowed_methods, reason = "the operator asked to stop without a drain")]
        std::process::exit(130);
    });
    Ok(shutdown)
}
