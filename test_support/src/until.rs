//! Waiting for a condition.

use std::time::{Duration, Instant};

/// Longer than anything in the tests takes on a slow machine.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// Waits until the condition is true. Panics with `what` when that takes too long.
pub async fn until(what: &str, mut condition: impl AsyncFnMut() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !condition().await {
        assert!(Instant::now() < deadline, "never: {what}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}
