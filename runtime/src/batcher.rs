//! Group commit: items that arrive while all workers are busy wait and share the next batch. While a worker is idle, an item
//! does not wait. Groups of items take turns: a group with many items in the queue does not delay the items of others.

use std::collections::{HashMap, VecDeque};
use std::iter;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;

use futures::FutureExt;
use futures::future::try_join_all;
use tokio::sync::{Mutex, OwnedSemaphorePermit, Semaphore, mpsc, oneshot};
use tokio::task::JoinError;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

/// Reads that may wait in one queue. More are refused.
const MAX_WAITING_READS: usize = 10_000;
/// Batches that are read at the same time, so that a slow one does not delay all others.
const READERS: usize = 4;

/// An item, and the caller that waits for its result.
pub struct Queued<T, R> {
    pub item: T,
    pub queued_at: Instant,
    group: i64,
    weight: usize,
    caller: oneshot::Sender<R>,
    /// Held until the item leaves the queue.
    place: Option<OwnedSemaphorePermit>,
}

impl<T, R> Queued<T, R> {
    /// Returns the result to the caller, which may be gone.
    pub fn finish(self, result: R) {
        let _ = self.caller.send(result);
    }
}

/// Takes items from callers.
pub struct BatchQueue<T, R> {
    sender: mpsc::Sender<Queued<T, R>>,
    places: Arc<Semaphore>,
}

/// Processes the items in batches.
pub struct Batcher<T, R>(Arc<Mutex<Incoming<T, R>>>);

/// The items in the queue.
struct Incoming<T, R> {
    receiver: mpsc::Receiver<Queued<T, R>>,
    /// Received already, by group and in the sequence of their arrival.
    groups: HashMap<i64, VecDeque<Queued<T, R>>>,
    /// The groups that have items, in the sequence of their turns.
    turns: VecDeque<i64>,
}

// Derived, these would need items and results that can be cloned.
impl<T, R> Clone for BatchQueue<T, R> {
    fn clone(&self) -> Self {
        BatchQueue { sender: self.sender.clone(), places: self.places.clone() }
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
    let incoming = Incoming { receiver, groups: HashMap::new(), turns: VecDeque::new() };
    (BatchQueue { sender, places: Arc::new(Semaphore::new(size)) }, Batcher(Arc::new(Mutex::new(incoming))))
}

/// Starts workers that read items in batches of at most `max_weight`, and returns their queue. Items whose caller is gone are not
/// read. A panic fails the items of its batch only.
///
/// # Panics
/// Outside of a Tokio runtime.
pub fn spawn_reads<T: Send + 'static, R: Send + 'static, Reading: Future<Output = ()> + Send>(
    max_weight: usize,
    read: impl Fn(Vec<Queued<T, R>>) -> Reading + Clone + Send + Sync + 'static,
) -> BatchQueue<T, R> {
    let (queue, batcher) = batch_queue(MAX_WAITING_READS);
    let process = move |mut batch: Vec<Queued<T, R>>| {
        let read = read.clone();
        async move {
            batch.retain(|queued| !queued.caller.is_closed());
            if !batch.is_empty() {
                // The panic hook has logged the cause.
                let _ = AssertUnwindSafe(read(batch)).catch_unwind().await;
            }
        }
    };
    tokio::spawn(batcher.run(READERS, max_weight, CancellationToken::new(), process));
    queue
}

impl<T, R> BatchQueue<T, R> {
    /// As [`BatchQueue::process_in`], for items of the same weight and without groups.
    pub async fn process(&self, item: T) -> Option<R> {
        self.process_in(0, 1, item).await
    }

    /// Returns the result of an item, or `None` if the queue is full, processing panicked or the batcher has stopped. The item is
    /// processed even if the caller is dropped. The items of a group stay in their sequence.
    pub async fn process_in(&self, group: i64, weight: usize, item: T) -> Option<R> {
        let place = self.places.clone().try_acquire_owned().ok()?;
        let (caller, result) = oneshot::channel();
        let queued = Queued { item, queued_at: Instant::now(), group, weight, caller, place: Some(place) };
        self.sender.try_send(queued).ok()?;
        result.await.ok()
    }
}

impl<T, R> Incoming<T, R> {
    fn insert(&mut self, queued: Queued<T, R>) {
        let group = self.groups.entry(queued.group).or_default();
        if group.is_empty() {
            self.turns.push_back(queued.group);
        }
        group.push_back(queued);
    }

    fn receive_queued(&mut self) {
        while let Ok(queued) = self.receiver.try_recv() {
            self.insert(queued);
        }
    }

    /// Takes the next item, if it is not heavier than this.
    fn next(&mut self, max_weight: usize) -> Option<Queued<T, R>> {
        let turn = *self.turns.front()?;
        let group = self.groups.get_mut(&turn)?;
        let mut queued = group.pop_front_if(|queued| queued.weight <= max_weight)?;
        queued.place = None;
        self.turns.rotate_left(1);
        if group.is_empty() {
            self.groups.remove(&turn);
            self.turns.pop_back();
        }
        Some(queued)
    }
}

impl<T: Send + 'static, R: Send + 'static> Batcher<T, R> {
    /// Processes batches of at most `max_weight`, until `shutdown` and then until the queue is empty, or until every queue
    /// is dropped.
    ///
    /// # Errors
    /// When `process` panics. The other workers go on in the background until `shutdown`.
    pub async fn run<Processing: Future<Output = ()> + Send>(
        self,
        workers: usize,
        max_weight: usize,
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
                        _ = batcher.receive(&mut batch, max_weight) => {}
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

    /// Waits until items are in the queue, and appends some of at most `max_weight`, or one that is heavier. Returns their
    /// number, or 0 if every queue is dropped.
    pub async fn receive(&self, batch: &mut Vec<Queued<T, R>>, max_weight: usize) -> usize {
        let mut incoming = self.0.lock().await;
        if incoming.turns.is_empty() {
            let Some(queued) = incoming.receiver.recv().await else { return 0 };
            incoming.insert(queued);
        }
        incoming.receive_queued();
        let before = batch.len();
        let (mut weight, mut limit) = (0, usize::MAX);
        while let Some(queued) = incoming.next(limit) {
            weight += queued.weight;
            limit = max_weight.saturating_sub(weight);
            batch.push(queued);
        }
        batch.len() - before
    }

    /// Takes the items that are in the queue, unless a worker is about to take them.
    pub fn take_queued(&self) -> Vec<Queued<T, R>> {
        let Ok(mut incoming) = self.0.try_lock() else {
            return Vec::new(); // a worker is about to take items: it will meet the same failure
        };
        incoming.receive_queued();
        iter::from_fn(|| incoming.next(usize::MAX)).collect()
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

    /// Takes a batch of at most `max_weight`.
    async fn next_batch(batcher: &Batcher<&'static str, ()>, max_weight: usize) -> Vec<&'static str> {
        let mut batch = Vec::new();
        batcher.receive(&mut batch, max_weight).await;
        batch.iter().map(|queued| queued.item).collect()
    }

    #[tokio::test]
    async fn groups_take_turns_and_items_of_a_group_stay_in_their_sequence() {
        let (queue, batcher) = batch_queue(2_000);
        let many = join_all((0..1_000).map(|n| queue.process_in(7, 1, if n == 0 { "first" } else { "later" })));
        let [mut many, mut one] = [Box::pin(many), Box::pin(join_all([queue.process_in(8, 1, "of another group")]))];
        assert!(poll!(&mut many).is_pending() && poll!(&mut one).is_pending());
        assert_eq!(next_batch(&batcher, 3).await, ["first", "of another group", "later"]);
        let mut late = Box::pin(queue.process_in(9, 1, "of a late group"));
        assert!(poll!(&mut late).is_pending());
        assert_eq!(next_batch(&batcher, 3).await, ["later", "of a late group", "later"]);
        assert_eq!(batcher.take_queued().len(), 1_002 - 6);
    }

    #[tokio::test]
    async fn a_batch_is_as_heavy_as_allowed_or_has_one_item() {
        let (queue, batcher) = batch_queue(10);
        let items = [(1, "a"), (3, "b"), (9, "c"), (4, "d"), (1, "e")];
        let waiting = join_all(items.map(|(weight, item)| queue.process_in(0, weight, item)));
        assert!(poll!(Box::pin(waiting)).is_pending());
        for batch in [vec!["a", "b"], vec!["c"], vec!["d"], vec!["e"]] {
            assert_eq!(next_batch(&batcher, 4).await, batch);
        }
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
