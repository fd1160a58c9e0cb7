//! Concurrent calls with the same key share one execution. Results can be cached.

use std::future::Future;
use std::hash::Hash;
use std::sync::Arc;
use std::time::Duration;

use quick_cache::Weighter;
use quick_cache::sync::{Cache, EntryAction, EntryResult};
use tokio::task::JoinError;
use tokio::time::Instant;

/// The newest result by key. One of several callers with the same key runs the call, and all of them get its result.
///
/// `max_age` is relative to the caller. If the running call began earlier than that, the caller waits and joins the next
/// call. An error is returned to all callers that wait for it; it is not cached.
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
    fn is_usable(&self, requested_at: Instant, max_age: Duration) -> bool {
        match self.result {
            Ok(_) => requested_at.saturating_duration_since(self.began) <= max_age,
            Err(_) => self.ended >= requested_at,
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
    /// Caches at most `capacity` results.
    pub fn new(capacity: usize) -> SingleFlight<K, T, E> {
        SingleFlight::with_weight(capacity, capacity as u64, |_| 1)
    }

    /// Caches about `capacity` results, whose total weight is at most `max_weight`.
    pub fn with_weight(capacity: usize, max_weight: u64, weight: fn(&T) -> u64) -> SingleFlight<K, T, E> {
        SingleFlight { results: Arc::new(Cache::with_weighter(capacity, max_weight, Weight(weight))) }
    }

    /// Returns the cached result if its call began at most `max_age` ago. Otherwise runs `call`, or joins a call that began
    /// after this request.
    ///
    /// # Panics
    /// When `call` panics. Then one of the other waiting callers runs its own call.
    pub async fn get(
        &self,
        key: K,
        max_age: Duration,
        call: impl Future<Output = Result<T, E>> + Send + 'static,
    ) -> Result<T, E> {
        let requested_at = Instant::now();
        if let Some(cached) = self.usable(&key, requested_at, max_age) {
            return cached;
        }
        let results = self.results.clone();
        // A separate task, because other callers wait for this call even if its own caller is dropped or not polled.
        let call = tokio::spawn(async move {
            // Another call may have ended meanwhile.
            let reuse = |_: &K, cached: &mut Finished<T, E>| match cached.is_usable(requested_at, max_age) {
                true => EntryAction::Retain(cached.result.clone()),
                false => EntryAction::ReplaceWithGuard,
            };
            let guard = match results.entry_async(&key, reuse).await {
                EntryResult::Retained(result) => return result,
                EntryResult::Vacant(guard) | EntryResult::Replaced(guard, _) => guard,
                EntryResult::Removed(..) | EntryResult::Timeout => {
                    unreachable!("no entry is removed, and the wait has no timeout")
                }
            };
            let began = Instant::now();
            let result = call.await;
            // Fails if the entry was replaced or removed meanwhile. Then this result is not cached.
            let _ = guard.insert(Finished { began, ended: Instant::now(), result: result.clone() });
            result
        });
        match call.await.map_err(JoinError::try_into_panic) {
            Ok(result) => result,
            Err(Ok(panic)) => std::panic::resume_unwind(panic),
            // The runtime is shutting down. It cancelled the task and drops this caller, too.
            Err(Err(_cancelled)) => std::future::pending().await,
        }
    }

    /// What [`SingleFlight::get`] would return without a call and without waiting.
    pub fn cached(&self, key: &K, max_age: Duration) -> Option<Result<T, E>> {
        self.usable(key, Instant::now(), max_age)
    }

    fn usable(&self, key: &K, requested_at: Instant, max_age: Duration) -> Option<Result<T, E>> {
        let cached = self.results.get(key).filter(|cached| cached.is_usable(requested_at, max_age))?;
        Some(cached.result)
    }

    /// The cached result of any age. `None` while a call with this key is running.
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

    const MUST_BE_FRESH: Duration = Duration::ZERO;

    #[tokio::test]
    async fn waiting_callers_share_the_call_that_begins_after_their_request() {
        let (numbers, calls) = (Numbers::new(10), Arc::new(AtomicU32::new(0)));
        let (finish, finished) = watch::channel(0);
        // Each call waits until it may finish and returns its number.
        let get = || {
            let (calls, mut finished) = (calls.clone(), finished.clone());
            Box::pin(numbers.get("key", MUST_BE_FRESH, async move {
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
    async fn a_dropped_caller_does_not_block_others() {
        let numbers = Numbers::new(10);
        // A call that has begun and needs one more poll.
        #[expect(clippy::async_yields_async, reason = "the test decides when the call is polled again")]
        let begin = async || {
            let call = async {
                tokio::task::yield_now().await;
                Ok(1)
            };
            let mut call = Box::pin(numbers.get("key", MUST_BE_FRESH, call));
            assert!(poll!(&mut call).is_pending());
            tokio::task::yield_now().await;
            call
        };
        let not_polled = begin().await;
        assert_eq!(numbers.get("key", MUST_BE_FRESH, async { Ok(2) }).await, Ok(2));
        drop(not_polled);
        drop(begin().await);
        assert_eq!(numbers.get("key", MUST_BE_FRESH, async { Ok(3) }).await, Ok(3));
    }

    #[tokio::test(start_paused = true)]
    async fn a_result_is_cached_as_long_as_the_caller_allows() {
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
    async fn an_error_is_returned_to_all_waiting_callers_and_is_not_cached() {
        let numbers = Numbers::new(10);
        let fail = async {
            tokio::time::sleep(Duration::from_secs(1)).await;
            Err("failed")
        };
        let later = async {
            tokio::time::sleep(Duration::from_millis(500)).await;
            numbers.get("key", MUST_BE_FRESH, async { Ok(1) }).await
        };
        assert_eq!(future::join(numbers.get("key", MUST_BE_FRESH, fail), later).await, (Err("failed"), Err("failed")));
        advance(Duration::from_millis(1)).await;
        assert_eq!(numbers.peek(&"key"), None);
        assert_eq!(numbers.get("key", Duration::from_secs(60), async { Ok(2) }).await, Ok(2));
    }

    #[tokio::test]
    async fn a_call_that_panics_is_made_again_by_the_next_caller() {
        let numbers = Arc::new(Numbers::new(10));
        let panicking = tokio::spawn({
            let numbers = numbers.clone();
            async move { numbers.get("key", MUST_BE_FRESH, async { panic!("expected by this test") }).await }
        });
        assert!(panicking.await.unwrap_err().is_panic());
        assert_eq!(numbers.get("key", MUST_BE_FRESH, async { Ok(1) }).await, Ok(1));
    }
}
