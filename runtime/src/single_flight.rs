//! One call for all callers that ask for the same at the same time. The result can also be kept for a while.

use std::future::Future;
use std::hash::Hash;
use std::sync::Arc;
use std::time::Duration;

use quick_cache::Weighter;
use quick_cache::sync::{Cache, EntryAction, EntryResult};
use tokio::time::Instant;

/// The newest result by key. Of several callers with the same key one makes the call, and all of them get its result.
///
/// Each caller says how old a result may be. If the running call began too early for it, it waits for that call and then
/// shares the next one with the other callers that wait. A failure goes to all callers that wait for it; it is not kept.
pub struct SingleFlight<K, T, E> {
    results: Arc<Cache<K, Finished<T, E>, Weight<T>>>,
}

#[derive(Clone)]
struct Finished<T, E> {
    began: Instant,
    ended: Instant,
    result: Result<T, E>,
}

impl<T, E> Finished<T, E> {
    fn is_usable(&self, asked: Instant, max_age: Duration) -> bool {
        match self.result {
            Ok(_) => asked.saturating_duration_since(self.began) <= max_age,
            Err(_) => self.ended >= asked,
        }
    }
}

#[derive(Clone)]
struct Weight<T>(fn(&T) -> u64);

impl<K, T, E> Weighter<K, Finished<T, E>> for Weight<T> {
    fn weight(&self, _key: &K, finished: &Finished<T, E>) -> u64 {
        finished.result.as_ref().map_or(1, self.0)
    }
}

impl<K, T, E> SingleFlight<K, T, E>
where
    K: Clone + Eq + Hash + Send + Sync + 'static,
    T: Clone + Send + Sync + 'static,
    E: Clone + Send + Sync + 'static,
{
    /// Keeps at most this number of results.
    pub fn new(results: usize) -> SingleFlight<K, T, E> {
        SingleFlight::with_weight(results, results as u64, |_| 1)
    }

    /// Keeps about this number of results, and results of at most this weight altogether.
    pub fn with_weight(results: usize, max_weight: u64, weight: fn(&T) -> u64) -> SingleFlight<K, T, E> {
        SingleFlight { results: Arc::new(Cache::with_weighter(results, max_weight, Weight(weight))) }
    }

    /// Returns the result of a call that began at most `max_age` ago, or later.
    ///
    /// # Panics
    /// When `call` panics. The other callers that wait then make a call of their own.
    pub async fn get(
        &self,
        key: K,
        max_age: Duration,
        call: impl Future<Output = Result<T, E>> + Send + 'static,
    ) -> Result<T, E> {
        let asked = Instant::now();
        if let Some(kept) = self.results.get(&key).filter(|kept| kept.is_usable(asked, max_age)) {
            return kept.result;
        }
        let results = self.results.clone();
        // A task, because others wait for this call even if its caller goes away or is not polled.
        let call = tokio::spawn(async move {
            let reuse = |_: &K, kept: &mut Finished<T, E>| match kept.is_usable(asked, max_age) {
                true => EntryAction::Retain(kept.result.clone()),
                false => EntryAction::ReplaceWithGuard,
            };
            let guard = match results.entry_async(&key, reuse).await {
                EntryResult::Retained(result) => return result,
                EntryResult::Vacant(guard) | EntryResult::Replaced(guard, _) => guard,
                EntryResult::Removed(..) | EntryResult::Timeout => {
                    unreachable!("nothing is removed, nothing times out")
                }
            };
            let began = Instant::now();
            let result = call.await;
            // An error means that the entry was replaced or removed meanwhile, which needs no action.
            let _ = guard.insert(Finished { began, ended: Instant::now(), result: result.clone() });
            result
        });
        call.await.unwrap_or_else(|error| std::panic::resume_unwind(error.into_panic()))
    }

    /// The kept result, however old it is. `None` while a call for it is running.
    pub fn peek(&self, key: &K) -> Option<T> {
        self.results.get(key)?.result.ok()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU32, Ordering};

    use futures::future::{self, pending};
    use futures::poll;
    use tokio::sync::watch;
    use tokio::time::advance;

    use super::*;

    type Numbers = SingleFlight<&'static str, u32, &'static str>;

    const NOW: Duration = Duration::ZERO;

    #[tokio::test]
    async fn waiting_callers_share_the_call_that_begins_after_they_asked() {
        let (numbers, calls) = (Numbers::new(10), Arc::new(AtomicU32::new(0)));
        let (finish, finished) = watch::channel(0);
        // Each call returns its own number when it may.
        let get = || {
            let (calls, mut finished) = (calls.clone(), finished.clone());
            Box::pin(numbers.get("key", NOW, async move {
                let number = calls.fetch_add(1, Ordering::SeqCst) + 1;
                finished.wait_for(|allowed| *allowed >= number).await.unwrap();
                Ok(number)
            }))
        };
        let mut first = get();
        assert!(poll!(&mut first).is_pending());
        while calls.load(Ordering::SeqCst) == 0 {
            tokio::task::yield_now().await;
        }
        let mut others: Vec<_> = (0..5).map(|_| get()).collect();
        others.iter_mut().for_each(|other| assert!(future::FutureExt::now_or_never(other).is_none()));
        finish.send_replace(1);
        assert_eq!(first.await, Ok(1));
        finish.send_replace(2);
        assert_eq!(future::join_all(others).await, [Ok(2); 5]);
    }

    #[tokio::test]
    async fn a_caller_that_goes_away_does_not_hinder_others() {
        let numbers = Numbers::new(10);
        // A call that has begun and needs one more poll.
        #[expect(clippy::async_yields_async, reason = "the test decides when the call is polled again")]
        let begin = async || {
            let call = async {
                tokio::task::yield_now().await;
                Ok(1)
            };
            let mut call = Box::pin(numbers.get("key", NOW, call));
            assert!(poll!(&mut call).is_pending());
            tokio::task::yield_now().await;
            call
        };
        let not_polled = begin().await;
        assert_eq!(numbers.get("key", NOW, async { Ok(2) }).await, Ok(2));
        drop(not_polled);
        drop(begin().await);
        assert_eq!(numbers.get("key", NOW, async { Ok(3) }).await, Ok(3));
    }

    #[tokio::test(start_paused = true)]
    async fn a_result_is_kept_as_long_as_the_caller_allows() {
        let numbers = Numbers::new(10);
        let second = Duration::from_secs(1);
        assert_eq!(numbers.get("key", second, async { Ok(1) }).await, Ok(1));
        advance(second).await;
        assert_eq!(numbers.get("key", second, pending()).await, Ok(1));
        assert_eq!(numbers.get("other key", second, async { Ok(7) }).await, Ok(7));
        advance(Duration::from_millis(1)).await;
        assert_eq!(numbers.get("key", second, async { Ok(2) }).await, Ok(2));
        assert_eq!(numbers.peek(&"key"), Some(2));
    }

    #[tokio::test(start_paused = true)]
    async fn a_failure_goes_to_all_callers_that_wait_and_is_not_kept() {
        let numbers = Numbers::new(10);
        let fail = async {
            tokio::time::sleep(Duration::from_secs(1)).await;
            Err("failed")
        };
        let later = async {
            tokio::time::sleep(Duration::from_millis(500)).await;
            numbers.get("key", NOW, async { Ok(1) }).await
        };
        assert_eq!(future::join(numbers.get("key", NOW, fail), later).await, (Err("failed"), Err("failed")));
        advance(Duration::from_millis(1)).await;
        assert_eq!(numbers.peek(&"key"), None);
        assert_eq!(numbers.get("key", Duration::from_secs(60), async { Ok(2) }).await, Ok(2));
    }

    #[tokio::test]
    async fn a_call_that_panics_is_made_again_by_the_next_caller() {
        let numbers = Arc::new(Numbers::new(10));
        let panicking = tokio::spawn({
            let numbers = numbers.clone();
            async move { numbers.get("key", NOW, async { panic!("expected by this test") }).await }
        });
        assert!(panicking.await.unwrap_err().is_panic());
        assert_eq!(numbers.get("key", NOW, async { Ok(1) }).await, Ok(1));
    }
}
