//! What the pollers have done lately.

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use chrono::{DateTime, Utc};
use serde::Serialize;
use tokio::time::Instant;

/// Pollers that have heard nothing of the queue for so long, not even that it is empty, have stopped: a long poll takes 20
/// seconds.
const FROZEN: Duration = Duration::from_secs(60);
/// Events that are applied later than this after they happened make a lag.
const LAGGING: Duration = Duration::from_secs(10);

/// What the pollers have done lately.
#[derive(Debug, Default)]
pub struct Activity(Mutex<Lately>);

#[derive(Clone, Copy, Debug, Default)]
struct Lately {
    /// When the queue last answered.
    received: Option<Instant>,
    /// How old the oldest event was that was applied last; nothing when the queue was empty since.
    lag: Duration,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Progressing {
    Current,
    /// It works, but has much to do.
    Lagging,
    /// It holds what it has until a store is there again.
    Waiting,
    /// It does nothing although there is no reason.
    Frozen,
}

impl Activity {
    pub(super) fn received(&self, nothing: bool) {
        let mut lately = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        lately.received = Some(Instant::now());
        if nothing {
            lately.lag = Duration::ZERO;
        }
    }

    pub(super) fn applied(&self, oldest: Option<DateTime<Utc>>) {
        if let Some(oldest) = oldest {
            let lag = (Utc::now() - oldest).to_std().unwrap_or_default();
            self.0.lock().unwrap_or_else(PoisonError::into_inner).lag = lag;
        }
    }

    /// Whether there is much to do.
    pub fn is_lagging(&self) -> bool {
        self.state().0 == Progressing::Lagging
    }

    pub(super) fn state(&self) -> (Progressing, Duration) {
        let Lately { received, lag } = *self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let state = match received {
            Some(received) if received.elapsed() > FROZEN => Progressing::Frozen,
            _ if lag > LAGGING => Progressing::Lagging,
            _ => Progressing::Current,
        };
        (state, lag)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lagging_is_not_frozen() {
        let activity = Activity::default();
        let at = |received: Option<Instant>, lag: u64| {
            *activity.0.lock().unwrap() = Lately { received, lag: Duration::from_secs(lag) };
            activity.state().0
        };
        let now = Instant::now();
        let long_ago = now.checked_sub(FROZEN + Duration::from_secs(1));
        assert_eq!(at(None, 0), Progressing::Current);
        assert_eq!(at(Some(now), 9), Progressing::Current);
        assert_eq!(at(Some(now), 11), Progressing::Lagging);
        assert_eq!(at(long_ago, 0), Progressing::Frozen);
        assert_eq!(at(long_ago, 3_600), Progressing::Frozen);

        activity.received(false);
        assert_eq!(activity.state().0, Progressing::Lagging, "there is more to do");
        activity.received(true);
        assert_eq!(activity.state(), (Progressing::Current, Duration::ZERO), "an empty queue is no lag");
        activity.applied(Some(Utc::now() - Duration::from_secs(60)));
        assert_eq!(activity.state().0, Progressing::Lagging);
    }
}
