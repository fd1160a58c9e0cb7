//! Records which events are missing from the read model, and when a comparison first missed them.

use std::collections::BTreeMap;
use std::time::Duration;

use entity::Subject;
use tokio::time::Instant;

use super::Difference;

/// The result of examining a client or a product.
pub(super) enum Examined {
    Wrong(Difference),
    /// Everything that the read model includes is right. These events are missing, if any.
    Right(Missing),
}

/// Events in the log that the read model does not include.
#[derive(Default)]
pub(super) struct Missing {
    /// The version that the read model has, or 0.
    pub version: i32,
    /// Whether it has any event.
    pub has_any: bool,
    /// The versions that are missing and not in the outbox, ascending.
    pub published: Vec<i32>,
    /// Whether there are others, which are in the outbox.
    pub is_pending: bool,
}

impl Examined {
    /// Whether all is right and no event up to this version is missing.
    pub fn is_right_up_to(&self, version: i32) -> bool {
        match self {
            Examined::Wrong(_) => false,
            Examined::Right(missing) => missing.published.first().is_none_or(|first| *first > version),
        }
    }
}

/// Events that comparisons missed, and when they first did. An event that is missed again `in_flight` later is overdue. Until
/// then it may be on its way.
#[derive(Debug, Default)]
pub struct FirstMissed {
    subjects: BTreeMap<Subject, Missed>,
    /// Whether no more events are recorded.
    is_closed: bool,
}

#[derive(Debug)]
struct Missed {
    since: Instant,
    versions: Vec<i32>,
}

impl FirstMissed {
    /// The difference that the latest examination of a subject amounts to.
    pub(super) fn difference(
        &mut self,
        subject: Subject,
        examined: Examined,
        in_flight: Duration,
    ) -> Option<Difference> {
        let Missing { version, has_any, published, is_pending } = match examined {
            Examined::Wrong(difference) => {
                self.forget(subject);
                return Some(difference);
            }
            Examined::Right(missing) => missing,
        };
        let mut missed =
            self.subjects.remove(&subject).unwrap_or(Missed { since: Instant::now(), versions: Vec::new() });
        missed.versions.retain(|version| published.binary_search(version).is_ok());
        if missed.versions.is_empty() && self.is_closed {
            return None;
        }
        if missed.versions.is_empty() {
            missed = Missed { since: Instant::now(), versions: published };
        }
        let events = missed.versions.len() as u64;
        if events > 0 && missed.since.elapsed() >= in_flight {
            let missing = if has_any { Difference::Behind { events, version } } else { Difference::Missing { events } };
            return Some(missing);
        }
        if events > 0 || is_pending {
            self.subjects.insert(subject, missed);
        }
        None
    }

    /// The subjects that were first missed at least this long ago.
    pub fn missed_for(&self, time: Duration) -> Vec<Subject> {
        self.subjects.iter().filter(|(_, missed)| missed.since.elapsed() >= time).map(|(subject, _)| *subject).collect()
    }

    pub(super) fn subjects(&self) -> Vec<Subject> {
        self.missed_for(Duration::ZERO)
    }

    pub(super) fn is_empty(&self) -> bool {
        self.subjects.is_empty()
    }

    /// Whether events are missing that are not in the outbox.
    pub(crate) fn has_missing(&self) -> bool {
        self.subjects.values().any(|missed| !missed.versions.is_empty())
    }

    pub(crate) fn forget(&mut self, subject: Subject) {
        self.subjects.remove(&subject);
    }

    /// Forgets subjects that only miss events in the outbox, and records no more events. A busy client may miss a new event in
    /// every comparison, so without this [`FirstMissed::is_empty`] might never become true.
    pub(super) fn close(&mut self) {
        self.is_closed = true;
        self.subjects.retain(|_, missed| !missed.versions.is_empty());
    }

    /// The id before the first client that misses events: a later comparison must begin there.
    pub(super) fn before_first_client(&self) -> Option<i64> {
        self.subjects.iter().find_map(|(subject, missed)| match subject {
            Subject::Client(id) if !missed.versions.is_empty() => Some(id - 1),
            _ => None,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const IN_FLIGHT: Duration = Duration::from_secs(60);
    const SUBJECT: Subject = Subject::Client(1);

    fn without(versions: &[i32], is_pending: bool) -> Examined {
        Examined::Right(Missing { version: 1, has_any: true, published: versions.to_vec(), is_pending })
    }

    #[tokio::test(start_paused = true)]
    async fn only_events_that_are_missed_again_later_are_overdue() {
        let mut first_missed = FirstMissed::default();
        let behind = |events| Some(Difference::Behind { events, version: 1 });
        assert_eq!(first_missed.difference(SUBJECT, without(&[2, 3], false), IN_FLIGHT), None);
        tokio::time::advance(IN_FLIGHT).await;
        assert_eq!(first_missed.missed_for(IN_FLIGHT), [SUBJECT]);
        // Event 2 has arrived, and event 4 is missed for the first time.
        assert_eq!(first_missed.difference(SUBJECT, without(&[3, 4], false), IN_FLIGHT), behind(1));
        assert_eq!(first_missed.difference(SUBJECT, without(&[4], false), IN_FLIGHT), None);
        tokio::time::advance(IN_FLIGHT / 2).await;
        assert_eq!(first_missed.difference(SUBJECT, without(&[5], false), IN_FLIGHT), None);
        tokio::time::advance(IN_FLIGHT / 2).await;
        assert_eq!(first_missed.difference(SUBJECT, without(&[5], false), IN_FLIGHT), None);
        assert_eq!(first_missed.difference(SUBJECT, without(&[], false), IN_FLIGHT), None);
        assert!(first_missed.is_empty());
        assert_eq!(first_missed.difference(SUBJECT, without(&[2], false), Duration::ZERO), behind(1));
    }

    #[tokio::test(start_paused = true)]
    async fn events_in_the_outbox_are_never_overdue() {
        let mut first_missed = FirstMissed::default();
        for _ in 0..3 {
            assert_eq!(first_missed.difference(SUBJECT, without(&[], true), IN_FLIGHT), None);
            tokio::time::advance(IN_FLIGHT * 2).await;
        }
        assert_eq!((first_missed.missed_for(IN_FLIGHT), first_missed.before_first_client()), (vec![SUBJECT], None));
        first_missed.close();
        assert!(first_missed.is_empty());
    }

    #[tokio::test(start_paused = true)]
    async fn a_subject_that_is_missing_and_then_wrong_is_forgotten() {
        let mut first_missed = FirstMissed::default();
        assert_eq!(first_missed.difference(SUBJECT, without(&[2], false), IN_FLIGHT), None);
        first_missed.close();
        let wrong = Examined::Wrong(Difference::Misranked);
        assert_eq!(first_missed.difference(SUBJECT, wrong, IN_FLIGHT), Some(Difference::Misranked));
        assert!(first_missed.is_empty());
    }

    #[tokio::test(start_paused = true)]
    async fn a_busy_client_is_done_when_the_events_missed_at_first_have_arrived() {
        let mut first_missed = FirstMissed::default();
        assert_eq!(first_missed.difference(SUBJECT, without(&[2], false), IN_FLIGHT), None);
        first_missed.close();
        assert_eq!(first_missed.subjects(), [SUBJECT]);
        assert_eq!(first_missed.difference(SUBJECT, without(&[3], false), IN_FLIGHT), None);
        assert!(first_missed.is_empty());
    }
}
