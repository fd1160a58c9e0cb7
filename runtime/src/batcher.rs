//! Group commit: items that arrive while all workers are busy wait and share the next batch. While a worker is idle, an item
//! does not wait.

use std::iter;
use std::sync::Arc;

use futures::future::try_join_all;
use tokio::sync::{Mutex, mpsc, oneshot};
use tokio::task::JoinError;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

/// An item, and the caller that waits for its result.
pub struct Queued<T, R> {
    pub item: T,
    pub queued_at: Instant,
    caller: oneshot::Sender<R>,
}

impl<T, R> Queued<T, R> {
    /// Returns the result to the caller, which may be gone.
    pub fn finish(self, result: R) {
        let _ = self.caller.send(result);
    }
}

/// Takes items from callers.
pub struct BatchQueue<T, R>(mpsc::Sender<Queued<T, R>>);

/// Processes the items in batches.
pub struct Batcher<T, R>(Arc<Mutex<mpsc::Receiver<Queued<T, R>>>>);

// Derived, these would need items and results that can be cloned.
impl<T, R> Clone for BatchQueue<T, R> {
    fn clone(&self) -> Self {
        BatchQueue(self.0.clone())
    }
}

impl<T, R> Clone for Batcher<T, R> {
    fn clone(&self) -> Self {
        Batcher(self.0.clone())
    }
}

/// Returns a queue in which `size` items can wait, and its batcher; call [`Batcher::run`] to process items.
pub fn batch_queue<T, R>(size: usize) -> (BatchQueue<T, R>, Batcher<T, R>) {
    let (sender, receiver) = mpsc::channel(size);
    (BatchQueue(sender), Batcher(Arc::new(Mutex::new(receiver))))
}

impl<T, R> BatchQueue<T, R> {
    /// Returns the result of an item, or `None` if the queue is full, processing panicked or the batcher has stopped. The item is
    /// processed even if the caller is dropped.
    pub async fn process(&self, item: T) -> Option<R> {
        let (caller, result) = oneshot::channel();
        self.0.try_send(Queued { item, queued_at: Instant::now(), caller }).ok()?;
        result.await.ok()
    }
}

impl<T: Send + 'static, R: Send + 'static> Batcher<T, R> {
    /// Processes batches of at most `max_size` items, until `shutdown` and then until the queue is empty, or until every queue
    /// is dropped.
    ///
    /// # Errors
    /// When `process` panics. The other workers go on in the background until `shutdown`.
    pub async fn run<Processing: Future<Output = ()> + Send>(
        self,
        workers: usize,
        max_size: usize,
        shutdown: CancellationToken,
        process: impl Fn(Vec<Queued<T, R>>) -> Processing + Clone + Send + Sync + 'static,
    ) -> Result<(), JoinError> {
        let worker = |_| {
            let (batcher, shutdown, process) = (self.clone(), shutdown.clone(), process.clone());
            tokio::spawn(async move {
                loop {
                    let mut batch = Vec::new();
                    tokio::select! {
                        biased;
                        _ = batcher.receive(&mut batch, max_size) => {}
                        () = shutdown.cancelled() => {}
                    }
                    if batch.is_empty() {
                        return;
                    }
                    process(batch).await;
                }
            })
        };
        try_join_all((0..workers).map(worker)).await.map(drop)
    }

    /// Waits until items are in the queue, and appends at most `limit` of them. Returns their number, or 0 if every queue is
    /// dropped.
    pub async fn receive(&self, batch: &mut Vec<Queued<T, R>>, limit: usize) -> usize {
        self.0.lock().await.recv_many(batch, limit).await
    }

    /// Takes the items that are in the queue, unless a worker is about to take them.
    pub fn take_queued(&self) -> Vec<Queued<T, R>> {
        match self.0.try_lock() {
            Ok(mut queue) => iter::from_fn(|| queue.try_recv().ok()).collect(),
            Err(_) => Vec::new(), // a worker is about to take items: it will meet the same failure
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;
    use std::time::Duration;

    use futures::future::join_all;
    use futures::poll;
    use tokio::sync::Semaphore;
    use tokio::task::JoinHandle;

    use super::*;

    /// Two workers that return each number doubled. A batch has at most three numbers and needs a permit to finish.
    struct Doubling {
        queue: BatchQueue<u32, u32>,
        batches: Arc<Mutex<Vec<Vec<u32>>>>,
        permits: Arc<Semaphore>,
        shutdown: CancellationToken,
        running: JoinHandle<Result<(), JoinError>>,
    }

    impl Doubling {
        fn start(permits: usize) -> Doubling {
            let (queue, batcher) = batch_queue(5);
            let (batches, permits) = (Arc::<Mutex<Vec<Vec<u32>>>>::default(), Arc::new(Semaphore::new(permits)));
            let process = {
                let (batches, permits) = (batches.clone(), permits.clone());
                move |batch: Vec<Queued<u32, u32>>| {
                    let permits = permits.clone();
                    batches.lock().unwrap().push(batch.iter().map(|queued| queued.item).collect());
                    async move {
                        permits.acquire().await.unwrap().forget();
                        batch.into_iter().for_each(|queued| {
                            let doubled = queued.item.checked_mul(2).expect("expected by a test");
                            queued.finish(doubled);
                        });
                    }
                }
            };
            let shutdown = CancellationToken::new();
            let running = tokio::spawn(batcher.run(2, 3, shutdown.clone(), process));
            Doubling { queue, batches, permits, shutdown, running }
        }

        async fn batches(&self, number: usize) -> Vec<Vec<u32>> {
            while self.batches.lock().unwrap().len() < number {
                tokio::task::yield_now().await;
            }
            self.batches.lock().unwrap().clone()
        }
    }

    #[tokio::test(start_paused = true)]
    async fn an_item_waits_only_while_all_workers_are_busy_and_then_shares_a_batch() {
        let doubling = Doubling::start(0);
        let began = Instant::now();
        let process = |item| doubling.queue.process(item);
        let processed = async {
            let (one, two, others) = (process(1), process(2), join_all((3..=7).map(process)));
            let (mut one, mut two, mut others) = (Box::pin(one), Box::pin(two), Box::pin(others));
            assert!(poll!(&mut one).is_pending());
            assert_eq!(doubling.batches(1).await, [[1]]);
            assert!(poll!(&mut two).is_pending());
            assert_eq!(doubling.batches(2).await, [[1], [2]]);
            assert!(poll!(&mut others).is_pending());
            doubling.permits.add_permits(4);
            (one.await, two.await, others.await)
        };
        assert_eq!(processed.await, (Some(2), Some(4), (3..=7).map(|item| Some(item * 2)).collect()));
        assert_eq!(doubling.batches(4).await[2..], [vec![3, 4, 5], vec![6, 7]]);
        assert_eq!(began.elapsed(), Duration::ZERO, "nothing waits for time to pass");
    }

    #[tokio::test]
    async fn a_full_queue_refuses_items_and_takes_them_again_later() {
        let doubling = Doubling::start(0);
        let waiting = join_all((1..=6).map(|item| doubling.queue.process(item)));
        let mut waiting = Box::pin(waiting);
        assert!(poll!(&mut waiting).is_pending());
        doubling.permits.add_permits(10);
        assert_eq!(waiting.await, [Some(2), Some(4), Some(6), Some(8), Some(10), None]);
        assert_eq!(doubling.queue.process(6).await, Some(12));
    }

    #[tokio::test]
    async fn items_of_dropped_callers_are_processed_before_the_batcher_stops() {
        let doubling = Doubling::start(10);
        for item in 1..=5 {
            assert!(poll!(Box::pin(doubling.queue.process(item))).is_pending());
        }
        doubling.shutdown.cancel();
        doubling.running.await.unwrap().unwrap();
        assert_eq!(*doubling.batches.lock().unwrap(), [vec![1, 2, 3], vec![4, 5]]);
        assert_eq!(doubling.queue.process(6).await, None);
    }

    #[tokio::test]
    async fn queued_items_can_be_taken() {
        let (queue, batcher) = batch_queue::<u32, u32>(5);
        let mut waiting = Box::pin(join_all((1..=3).map(|item| queue.process(item))));
        assert!(poll!(&mut waiting).is_pending());
        batcher.take_queued().into_iter().for_each(|queued| queued.finish(0));
        assert_eq!(waiting.await, [Some(0); 3]);
        assert!(batcher.take_queued().is_empty());
    }

    #[tokio::test]
    async fn a_panic_ends_run_and_fails_its_callers() {
        let doubling = Doubling::start(10);
        assert_eq!(doubling.queue.process(u32::MAX).await, None);
        assert!(doubling.running.await.unwrap().unwrap_err().is_panic());
    }
}
