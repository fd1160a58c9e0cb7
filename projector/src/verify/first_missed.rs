//! Records which events are missing from the read model, and when a comparison first missed them.

use std::collections::BTreeMap;
use std::time::Duration;

use entity::Subject;
use tokio::time::Instant;

use super::Difference;

/// The result of examining a client or a product.
pub(super) enum Examined {
    Wrong(Difference),
    /// Wrong, and perhaps lost: nothing may show which events the sums have counted.
    Lost(Difference),
    /// Everything that the read model includes is right. These events are missing, if any.
    Right(Missing),
}

/// Events in the log that the read model does not include.
#[derive(Default)]
pub(super) struct Missing {
    /// The version up to which the read model includes all events, or 0.
    pub version: i32,
    /// The newest version that it includes, or 0.
    pub newest: i32,
    /// The versions that are missing and not in the outbox, ascending.
    pub published: Vec<i32>,
    /// Whether there are others, which are in the outbox.
    pub is_pending: bool,
}

impl Examined {
    /// Whether Redis may have lost it: it includes no event, or only events that arrived after the loss.
    pub fn may_be_lost(&self) -> bool {
        match self {
            Examined::Wrong(_) => false,
            Examined::Lost(_) => true,
            Examined::Right(missing) => missing.version == 0,
        }
    }

    /// Whether all is right and no event up to this version is missing.
    pub fn is_right_up_to(&self, version: i32) -> bool {
        match self {
            Examined::Wrong(_) | Examined::Lost(_) => false,
            Examined::Right(missing) => missing.published.first().is_none_or(|first| *first > version),
        }
    }
}

/// Events that comparisons missed, and when they first did. An event that is missed again `in_flight` later is overdue. Until
/// then it may be on its way.
///
/// A subject that Redis has lost is overdue `in_flight` after a comparison first saw the loss. By then all events that were applied
/// before the loss are older than `in_flight`, so a repair takes none of them for an event that is on its way.
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
    /// The versions that the read model had, as in [`Missing`]. Both are larger later, unless the subject is lost.
    included: [i32; 2],
    is_lost: bool,
}

impl Missed {
    fn is_waited_for(&self) -> bool {
        self.is_lost || !self.versions.is_empty()
    }
}

impl FirstMissed {
    /// The difference that the latest examination of a subject amounts to.
    pub(super) fn difference(
        &mut self,
        subject: Subject,
        examined: Examined,
        in_flight: Duration,
    ) -> Option<Difference> {
        let before = self.subjects.remove(&subject);
        let Missing { version, newest, published, is_pending } = match examined {
            Examined::Wrong(difference) => return Some(difference),
            Examined::Lost(difference) => {
                let since = before.filter(|missed| missed.is_lost).map_or_else(Instant::now, |missed| missed.since);
                let is_overdue = since.elapsed() >= in_flight;
                if !is_overdue {
                    self.subjects.insert(subject, Missed { since, versions: vec![], included: [0; 2], is_lost: true });
                }
                return is_overdue.then_some(difference);
            }
            Examined::Right(missing) => missing,
        };
        let included = [version, newest];
        let is_lost = before
            .as_ref()
            .is_some_and(|missed| missed.is_lost || version < missed.included[0] || newest < missed.included[1]);
        let (since, mut versions) = match before.filter(|_| !is_lost) {
            Some(missed) => (missed.since, missed.versions),
            None => (Instant::now(), Vec::new()),
        };
        versions.retain(|version| published.binary_search(version).is_ok());
        let mut missed = Missed { since, versions, included, is_lost: false };
        if missed.versions.is_empty() {
            if self.is_closed && !is_lost {
                return None;
            }
            missed = Missed { since: Instant::now(), versions: published, ..missed };
        }
        let events = missed.versions.len() as u64;
        if events > 0 && missed.since.elapsed() >= in_flight {
            return Some(match newest {
                0 => Difference::Missing { events },
                _ => Difference::Behind { events, version },
            });
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

    /// Whether subjects are lost or miss events that are not in the outbox.
    pub(crate) fn has_missing(&self) -> bool {
        self.subjects.values().any(Missed::is_waited_for)
    }

    pub(crate) fn forget(&mut self, subject: Subject) {
        self.subjects.remove(&subject);
    }

    /// Forgets subjects that only miss events in the outbox, and records no more events. A busy client may miss a new event in
    /// every comparison, so without this [`FirstMissed::is_empty`] might never become true.
    pub(super) fn close(&mut self) {
        self.is_closed = true;
        self.subjects.retain(|_, missed| missed.is_waited_for());
    }

    /// The id before the first client that misses events: a later comparison must begin there.
    pub(super) fn before_first_client(&self) -> Option<i64> {
        self.subjects.iter().find_map(|(subject, missed)| match subject {
            Subject::Client(id) if missed.is_waited_for() => Some(id - 1),
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
        Examined::Right(Missing { version: 1, newest: 1, published: versions.to_vec(), is_pending })
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
    async fn a_lost_subject_is_overdue_some_time_after_its_loss_was_seen() {
        let lost = || Examined::Right(Missing { published: vec![1, 2, 3], ..Missing::default() });
        let replaced = || Examined::Right(Missing { newest: 4, published: vec![1, 2, 3], ..Missing::default() });
        let damaged = || Examined::Lost(Difference::Misranked);
        for (loss, overdue) in [
            (lost as fn() -> Examined, Difference::Missing { events: 3 }),
            (replaced, Difference::Behind { events: 3, version: 0 }),
            (damaged, Difference::Misranked),
        ] {
            let mut first_missed = FirstMissed::default();
            assert_eq!(first_missed.difference(SUBJECT, without(&[2], false), IN_FLIGHT), None);
            tokio::time::advance(IN_FLIGHT / 2).await;
            first_missed.close();
            assert_eq!(first_missed.difference(SUBJECT, loss(), IN_FLIGHT), None);
            tokio::time::advance(IN_FLIGHT / 2).await;
            assert_eq!(first_missed.difference(SUBJECT, loss(), IN_FLIGHT), None);
            assert!(first_missed.has_missing());
            tokio::time::advance(IN_FLIGHT / 2).await;
            assert_eq!(first_missed.difference(SUBJECT, loss(), IN_FLIGHT), Some(overdue));
            assert!(first_missed.is_empty());
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_lost_subject_that_is_right_again_without_some_events_is_not_forgotten() {
        let mut first_missed = FirstMissed::default();
        let lost = Examined::Lost(Difference::Misranked);
        assert_eq!(first_missed.difference(SUBJECT, lost, IN_FLIGHT), None);
        first_missed.close();
        assert_eq!(first_missed.difference(SUBJECT, without(&[2], false), IN_FLIGHT), None);
        tokio::time::advance(IN_FLIGHT).await;
        let behind = Difference::Behind { events: 1, version: 1 };
        assert_eq!(first_missed.difference(SUBJECT, without(&[2], false), IN_FLIGHT), Some(behind));
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
