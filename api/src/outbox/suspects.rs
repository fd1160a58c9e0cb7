//! Events whose last call to the queue failed or is late. One of them may be the reason, so each is sent alone.

use std::collections::{BTreeSet, HashMap};
use std::time::Duration;

use backon::{BackoffBuilder, ExponentialBackoff, ExponentialBuilder};
use tokio::time::Instant;
use uuid::Uuid;

use super::publisher::Sent;

/// How long other events wait for a call. After that, its events are sent alone, although the call continues.
pub const PATIENCE: Duration = Duration::from_secs(1);
/// Concurrent first attempts to send an event alone, while the queue accepts other calls and otherwise: it may be down.
const FIRST_ATTEMPTS: usize = 15;
const FIRST_ATTEMPTS_IN_DOUBT: usize = 5;
/// Concurrent further attempts. They have their own number, because each may take several seconds.
const FURTHER_ATTEMPTS: usize = 4;
/// The queue is down if this many events failed alone, each for the first time, and it has accepted no call for [`PATIENCE`].
const FAILURES_OF_AN_OUTAGE: u32 = 3;
/// Longest pause between two attempts to send an event.
const LONGEST_PAUSE: Duration = Duration::from_secs(60);
/// Pauses between attempts while the queue or the database is down: they double, with jitter.
pub const BACKOFF: ExponentialBuilder = ExponentialBuilder::new()
    .with_min_delay(Duration::from_millis(100))
    .with_max_delay(Duration::from_secs(10))
    .without_max_times()
    .with_jitter();

#[derive(Default)]
pub struct Suspects {
    events: HashMap<Uuid, Suspect>,
    /// First attempts to send an event alone that failed since the queue last responded.
    failures: u32,
    last_response: Option<Instant>,
    probes: Option<(ExponentialBackoff, Instant)>,
    is_reported: bool,
}

struct Suspect {
    since: Instant,
    next_attempt: Instant,
    /// How often it failed alone.
    failures: u32,
    is_sent_alone: bool,
}

/// The begin or end of an outage.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Change {
    Down,
    Up,
}

impl Suspects {
    pub fn is_down(&self) -> bool {
        self.failures >= FAILURES_OF_AN_OUTAGE && !self.has_responded()
    }

    /// Whether the queue has just performed a call.
    pub fn has_responded(&self) -> bool {
        self.last_response.is_some_and(|last| last.elapsed() < PATIENCE)
    }

    /// These events do not share a call with others.
    pub fn ids(&self) -> BTreeSet<Uuid> {
        self.events.keys().copied().collect()
    }

    /// A call begins. If it has no response in time, its events are sent alone.
    pub fn begin(&mut self, ids: &[Uuid]) {
        let now = Instant::now();
        for id in ids {
            let new = Suspect { since: now, next_attempt: now, failures: 0, is_sent_alone: false };
            let suspect = self.events.entry(*id).or_insert(new);
            suspect.next_attempt = now + PATIENCE;
            suspect.is_sent_alone |= ids.len() == 1;
        }
    }

    /// A call of these events ended. An event to which the queue objects is refused if the queue has accepted others meanwhile.
    pub fn end(&mut self, ids: &[Uuid], sent: &mut Sent) -> Option<Change> {
        if sent.has_response {
            self.respond();
        }
        if let (true, [id]) = (sent.has_objection, &sent.pending[..])
            && ids.len() == 1
            && self.events.get(id).is_some_and(|suspect| self.last_response > Some(suspect.since))
        {
            sent.refused.push((*id, sent.error.clone().unwrap_or_default()));
            sent.pending.clear();
        }
        self.forget(sent.accepted.iter().chain(sent.refused.iter().map(|(id, _)| id)));
        for id in &sent.pending {
            self.fail(*id, ids.len() == 1, sent.has_response);
        }
        let is_down = self.is_down();
        let was_reported = std::mem::replace(&mut self.is_reported, is_down);
        match (was_reported, is_down) {
            (false, true) => Some(Change::Down),
            (true, false) => Some(Change::Up),
            _ => None,
        }
    }

    pub fn clear(&mut self) {
        self.events.clear();
    }

    pub fn forget<'a>(&mut self, ids: impl IntoIterator<Item = &'a Uuid>) {
        for id in ids {
            self.events.remove(id);
        }
    }

    /// The queue performed a call. After an outage, the events that were not sent alone share calls again.
    pub fn respond(&mut self) {
        let (was_down, now) = (self.is_down(), Instant::now());
        (self.failures, self.last_response, self.probes) = (0, Some(now), None);
        if was_down {
            let stays = |suspect: &Suspect| suspect.failures > 0 || suspect.is_sent_alone || suspect.next_attempt > now;
            self.events.retain(|_, suspect| stays(suspect));
        }
    }

    fn fail(&mut self, id: Uuid, is_alone: bool, has_response: bool) {
        let is_down = self.is_down();
        let Some(suspect) = self.events.get_mut(&id) else { return };
        let now = Instant::now();
        if is_alone {
            self.failures += u32::from(suspect.failures == 0);
            suspect.is_sent_alone = false;
        }
        // An attempt during an outage shows nothing about the event.
        if is_alone && !is_down || has_response {
            suspect.failures += 1;
        } else if is_alone {
            suspect.failures = suspect.failures.max(1);
        }
        suspect.next_attempt = match suspect.failures {
            0 => now,
            failures => now + LONGEST_PAUSE.min(Duration::from_secs(1 << (failures - 1).min(6))),
        };
    }

    /// Chooses events whose attempt is due while the queue works, and begins a call for each. Those without an attempt come first.
    pub fn begin_due(&mut self) -> Vec<Uuid> {
        if self.is_down() {
            return Vec::new();
        }
        let now = Instant::now();
        let mut due: Vec<Uuid> = Vec::new();
        let first_attempts = if self.has_responded() { FIRST_ATTEMPTS } else { FIRST_ATTEMPTS_IN_DOUBT };
        for (is_first, limit) in [(true, first_attempts), (false, FURTHER_ATTEMPTS)] {
            let of_kind = || self.events.iter().filter(move |(_, suspect)| (suspect.failures == 0) == is_first);
            let sending = of_kind().filter(|(_, suspect)| suspect.is_sent_alone).count();
            let mut waiting: Vec<_> = of_kind()
                .filter(|(_, suspect)| !suspect.is_sent_alone && suspect.next_attempt <= now)
                .map(|(id, suspect)| (suspect.next_attempt, *id))
                .collect();
            waiting.sort_unstable();
            due.extend(waiting.into_iter().map(|(_, id)| id).take(limit.saturating_sub(sending)));
        }
        due.iter().for_each(|id| self.begin(&[*id]));
        due
    }

    /// Whether it is time to find out whether the queue works again. Then the next time is later.
    pub fn is_probe_due(&mut self) -> bool {
        let now = Instant::now();
        if !self.is_down() || self.events.values().any(|suspect| suspect.is_sent_alone) {
            return false;
        }
        let (backoff, next) = self.probes.get_or_insert_with(|| (BACKOFF.build(), now));
        let is_due = *next <= now;
        if is_due {
            *next = now + backoff.next().unwrap_or(LONGEST_PAUSE);
        }
        is_due
    }

    /// The event to probe the queue with, if all pending events are suspects: the newest that was not sent alone, or else the one
    /// whose last attempt is the longest ago.
    pub fn probe(&self) -> Option<Uuid> {
        let untried = self.events.iter().filter(|(_, suspect)| suspect.failures == 0).map(|(id, _)| *id).max();
        let tried = || self.events.iter().min_by_key(|(_, suspect)| suspect.next_attempt).map(|(id, _)| *id);
        untried.or_else(tried)
    }

    /// Whether an event failed alone before.
    pub fn has_failed_alone(&self, id: Uuid) -> bool {
        self.events.get(&id).is_some_and(|suspect| suspect.failures > 0)
    }

    /// The attempts of these events end without a call, because the database did not return them.
    pub fn postpone(&mut self, ids: &[Uuid]) {
        for id in ids {
            if let Some(suspect) = self.events.get_mut(id) {
                (suspect.is_sent_alone, suspect.next_attempt) = (false, Instant::now() + PATIENCE);
            }
        }
    }

    /// When an attempt is next due, if none ends earlier.
    pub fn next_attempt(&self) -> Option<Instant> {
        if self.is_down() {
            return Some(self.probes.as_ref().map_or_else(Instant::now, |(_, next)| *next));
        }
        let waiting = self.events.values().filter(|suspect| !suspect.is_sent_alone);
        waiting.map(|suspect| suspect.next_attempt).min()
    }
}

#[cfg(test)]
mod tests {
    use tokio::time::advance;

    use super::*;

    fn failed(ids: &[Uuid]) -> Sent {
        Sent { pending: ids.to_vec(), error: Some("no".into()), ..Sent::default() }
    }

    fn accepted(id: Uuid) -> Sent {
        Sent { accepted: vec![id], has_response: true, ..Sent::default() }
    }

    fn ids(number: usize) -> Vec<Uuid> {
        (0..number).map(|_| Uuid::now_v7()).collect()
    }

    #[tokio::test(start_paused = true)]
    async fn events_of_a_failed_or_late_call_are_sent_alone() {
        for fails in [true, false] {
            let (mut suspects, events) = (Suspects::default(), ids(3));
            suspects.begin(&events);
            assert!(suspects.begin_due().is_empty(), "the call may still succeed");
            if fails {
                suspects.end(&events, &mut failed(&events));
            } else {
                advance(PATIENCE).await;
            }
            assert_eq!(suspects.begin_due(), events);
            assert!(suspects.begin_due().is_empty(), "each only once");
            suspects.end(&events[..1], &mut accepted(events[0]));
            suspects.end(&events[1..2], &mut failed(&events[1..2]));
            assert_eq!(suspects.ids(), events[1..].iter().copied().collect());
        }
    }

    #[tokio::test(start_paused = true)]
    async fn pauses_of_an_event_grow_to_a_minute() {
        let (mut suspects, event) = (Suspects::default(), ids(1));
        let mut pauses = Vec::new();
        suspects.begin(&event);
        for _ in 0..8 {
            suspects.end(&event, &mut failed(&event));
            pauses.push((suspects.next_attempt().unwrap() - Instant::now()).as_secs());
            advance(LONGEST_PAUSE).await;
            assert_eq!(suspects.begin_due(), event);
        }
        assert_eq!(pauses, [1, 2, 4, 8, 16, 32, 60, 60]);
    }

    #[tokio::test(start_paused = true)]
    async fn events_that_were_not_sent_alone_share_calls_after_an_outage() {
        let (mut suspects, events) = (Suspects::default(), ids(40));
        suspects.begin(&events);
        suspects.end(&events, &mut failed(&events));
        let first = suspects.begin_due();
        assert_eq!(first.len(), FIRST_ATTEMPTS_IN_DOUBT);
        let changes: Vec<_> = first.iter().filter_map(|id| suspects.end(&[*id], &mut failed(&[*id]))).collect();
        assert_eq!(changes, [Change::Down]);
        assert!(suspects.begin_due().is_empty() && suspects.is_probe_due() && !suspects.is_probe_due());
        assert_eq!(suspects.probe(), events.last().copied());
        suspects.begin(&events[39..]);
        assert_eq!(suspects.end(&events[39..], &mut accepted(events[39])), Some(Change::Up));
        assert_eq!(suspects.ids(), first.into_iter().collect());
    }

    #[tokio::test(start_paused = true)]
    async fn an_event_is_refused_only_if_the_queue_accepted_another_meanwhile() {
        let (mut suspects, events) = (Suspects::default(), ids(2));
        let objection = || Sent { has_objection: true, ..failed(&events[..1]) };
        suspects.begin(&events[..1]);
        suspects.end(&events[..1], &mut objection());
        advance(LONGEST_PAUSE).await;
        suspects.begin(&events[1..]);
        suspects.end(&events[1..], &mut accepted(events[1]));
        let mut sent = objection();
        suspects.end(&events[..1], &mut sent);
        assert!(sent.pending.is_empty() && sent.refused.len() == 1, "{sent:?}");
    }
}
