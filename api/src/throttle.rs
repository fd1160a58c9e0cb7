//! Slows down reads that occupy a store for long, so that most of its time is left to others. Callers take turns: each has at most
//! [`MAX_READS`] reports that are not finished, also those that it no longer waits for.

use std::num::NonZeroU32;
use std::sync::Arc;

use governor::{DefaultDirectRateLimiter, Quota};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::Instant;

use crate::edge::quota::{CallerSemaphores, QuotaKey};

/// Concurrent reads, and unfinished reports of one caller.
const MAX_READS: usize = 2;
/// How long reads may take together, in ms per second, and at once after a pause.
const READ_TIME: NonZeroU32 = NonZeroU32::new(250).unwrap();
const READ_TIME_AT_ONCE: NonZeroU32 = NonZeroU32::new(5_000).unwrap();

/// Lets reads run as slowly as [`MAX_READS`] and [`READ_TIME`] demand.
pub struct Throttle {
    places: Arc<Semaphore>,
    time: Arc<DefaultDirectRateLimiter>,
    turns: CallerSemaphores,
}

/// A report of a caller that is not finished. It is kept by whatever reads for the report.
#[derive(Clone)]
pub struct Turn {
    _permit: Arc<OwnedSemaphorePermit>,
}

impl Default for Throttle {
    fn default() -> Throttle {
        let time = DefaultDirectRateLimiter::direct(Quota::per_second(READ_TIME).allow_burst(READ_TIME_AT_ONCE));
        let turns = CallerSemaphores::new(MAX_READS);
        Throttle { places: Arc::new(Semaphore::new(MAX_READS)), time: Arc::new(time), turns }
    }
}

impl Throttle {
    /// Waits until a caller may begin a report. Whoever has a turn must not wait for another one.
    pub async fn turn(&self, caller: &QuotaKey) -> Turn {
        self.turns.remove_idle();
        let permit = self.turns.of(caller).acquire_owned().await;
        Turn { _permit: Arc::new(permit.expect("the semaphore is never closed")) }
    }

    /// Waits until a read may begin.
    pub async fn place(&self) -> OwnedSemaphorePermit {
        self.places.clone().acquire_owned().await.expect("the semaphore is never closed")
    }

    /// Runs a read. The next one at its place waits for the time that this one has used, but not the caller of this one.
    pub async fn run<T>(&self, place: OwnedSemaphorePermit, read: impl Future<Output = T>) -> T {
        let began = Instant::now();
        let result = read.await;
        let took = NonZeroU32::new(began.elapsed().as_millis() as u32).unwrap_or(NonZeroU32::MIN);
        let time = self.time.clone();
        tokio::spawn(async move {
            let _ = time.until_n_ready(took.min(READ_TIME_AT_ONCE)).await;
            drop(place);
        });
        result
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use futures::FutureExt;

    use super::*;

    #[test]
    fn a_caller_with_many_reports_waits_for_its_own() {
        let throttle = Throttle::default();
        let turn = |name: &str| throttle.turn(&QuotaKey::Subject(name.into())).now_or_never();
        let mut held: Vec<Turn> = (0..MAX_READS).map(|_| turn("a").unwrap()).collect();
        assert!(turn("a").is_none());
        assert!(turn("b").is_some(), "another caller does not wait");
        let in_background = held[0].clone();
        held.clear();
        assert!(turn("a").is_some());
        drop(in_background);
        drop(turn("b"));
        assert_eq!(throttle.turns.count(), 1, "idle callers are forgotten");
    }

    #[tokio::test]
    async fn reads_leave_time_to_others() {
        let throttle = Throttle::default();
        let read = async || throttle.run(throttle.place().await, async {}).await;
        read().await;
        // Reads that took longer than is allowed at once.
        while throttle.time.check_n(NonZeroU32::new(1_000).unwrap()).unwrap().is_ok() {}
        while throttle.time.check().is_ok() {}
        let began = std::time::Instant::now();
        for _ in 0..6 {
            read().await;
        }
        // Each takes at least 1 ms of the 250 in a second, and two may begin before that.
        assert!(began.elapsed() >= Duration::from_millis(8), "{:?}", began.elapsed());
    }
}
