//! Recent activity of the pollers: when they last received, and how far they lag behind.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use read_model::ProjectorState;
use tokio::time::Instant;

/// A long poll ends after at most 5 seconds. If no receive call has succeeded for this long, the pollers have stopped.
const FROZEN_AFTER: Duration = Duration::from_secs(60);
/// The lag above which there is a backlog.
const LAGGING_ABOVE: Duration = Duration::from_secs(10);

#[derive(Debug, Default)]
pub struct Activity(Mutex<Recent>);

#[derive(Clone, Copy, Debug, Default)]
struct Recent {
    /// When a receive call last succeeded.
    received: Option<Instant>,
    /// How long the oldest message of the last batch waited until it was applied, or zero if the queue has been empty since.
    lag: Duration,
}

impl Activity {
    pub(super) fn received(&self, is_empty: bool) {
        let mut recent = self.recent();
        recent.received = Some(Instant::now());
        if is_empty {
            recent.lag = Duration::ZERO;
        }
    }

    pub(super) fn applied(&self, lag: Duration) {
        self.recent().lag = lag;
    }

    /// Whether there is a backlog.
    pub fn is_lagging(&self) -> bool {
        self.condition().0 == ProjectorState::Lagging
    }

    /// Whether there is a backlog or the pollers have stopped, and the lag.
    pub(super) fn condition(&self) -> (ProjectorState, Duration) {
        let Recent { received, lag } = *self.recent();
        let condition = match received {
            Some(received) if received.elapsed() > FROZEN_AFTER => ProjectorState::Frozen,
            _ if lag > LAGGING_ABOVE => ProjectorState::Lagging,
            _ => ProjectorState::Current,
        };
        (condition, lag)
    }

    fn recent(&self) -> MutexGuard<'_, Recent> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lagging_and_frozen_are_different_conditions() {
        let activity = Activity::default();
        let at = |received: Option<Instant>, lag: u64| {
            *activity.0.lock().unwrap() = Recent { received, lag: Duration::from_secs(lag) };
            activity.condition().0
        };
        let now = Instant::now();
        let long_ago = now.checked_sub(FROZEN_AFTER + Duration::from_secs(1));
        assert_eq!(at(None, 0), ProjectorState::Current);
        assert_eq!(at(Some(now), 9), ProjectorState::Current);
        assert_eq!(at(Some(now), 11), ProjectorState::Lagging);
        assert_eq!(at(long_ago, 0), ProjectorState::Frozen);
        assert_eq!(at(long_ago, 3_600), ProjectorState::Frozen);

        activity.received(false);
        assert_eq!(activity.condition().0, ProjectorState::Lagging, "there is more to do");
        activity.received(true);
        assert_eq!(activity.condition(), (ProjectorState::Current, Duration::ZERO), "an empty queue means no lag");
        activity.applied(Duration::from_secs(60));
        assert_eq!(activity.condition().0, ProjectorState::Lagging);
    }
}
