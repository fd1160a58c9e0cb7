//! The signals that stop a program.

use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;
use tracing::info;

use crate::logging;

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
        logging::flush();
        #[expect(clippy::disallowed_methods, reason = "the operator asked to stop without a drain")]
        std::process::exit(130);
    });
    Ok(shutdown)
}
