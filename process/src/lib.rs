//! What our programs do alike as processes: start with one clear line when they cannot, log, reach their stores, stop.

pub mod database;
pub mod logging;
pub mod queue;

use std::error::Error;
use std::process::ExitCode;
use std::time::Duration;

use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;
use tracing::info;

/// The status to exit with; says in one line why when it is a failure.
pub fn exit(result: anyhow::Result<()>) -> ExitCode {
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {}", one_line(error.as_ref()));
            ExitCode::FAILURE
        }
    }
}

/// Some libraries put whole requests into their errors.
const MAX_LINE: usize = 300;

/// An error and its causes in one line. Many libraries repeat the cause in the error: what has been said is left out.
pub fn one_line(error: &dyn Error) -> String {
    let mut said = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let text = error.to_string();
        if !said.contains(&text) {
            said = format!("{said}: {text}");
        }
        cause = error.source();
    }
    let said = said.split_whitespace().collect::<Vec<_>>().join(" ");
    match said.char_indices().nth(MAX_LINE) {
        Some((end, _)) => format!("{}…", &said[..end]),
        None => said,
    }
}

/// Dies here, as by `kill -9`, where a test has armed the point of this name: `FAILPOINTS="NAME=5%return"` in the
/// environment of a program that was built with the feature `failpoints`. Otherwise nothing.
#[inline]
pub fn crash_point(_name: &str) {
    #[cfg(feature = "failpoints")]
    fail::fail_point!(_name, |_| {
        eprintln!("crashed at {_name}");
        std::process::abort()
    });
}

/// Reads a setting such as `90s` or `8h` that must be `least` or longer.
pub fn duration_from(least: Duration) -> impl Fn(&str) -> Result<Duration, String> + Clone {
    move |text| match humantime::parse_duration(text) {
        Ok(duration) if duration >= least => Ok(duration),
        Ok(_) => Err(format!("must be {} at least", humantime::format_duration(least))),
        Err(error) => Err(error.to_string()),
    }
}

/// Cancelled at the first SIGTERM or SIGINT. The second ends the process.
pub fn shutdown_signal() -> anyhow::Result<CancellationToken> {
    let (mut terminate, mut interrupt) = (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
    let shutdown = CancellationToken::new();
    let token = shutdown.clone();
    tokio::spawn(async move {
        let mut asked = async || {
            tokio::select! {
                _ = terminate.recv() => {}
                _ = interrupt.recv() => {}
            }
        };
        asked().await;
        token.cancel();
        info!("stopping; once more to stop at once");
        asked().await;
        std::process::exit(130);
    });
    Ok(shutdown)
}
