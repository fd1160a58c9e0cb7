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
    assert_eq!(processed.await, (Ok(2), Ok(4), (3..=7).map(|item| Ok(item * 2)).collect()));
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
    assert_eq!(waiting.await, [Ok(2), Ok(4), Ok(6), Ok(8), Ok(10), Err(Unprocessed::QueueFull)]);
    assert_eq!(doubling.queue.process(6).await, Ok(12));
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
    assert_eq!(doubling.queue.process(6).await, Err(Unprocessed::Stopped));
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
async fn items_wait_while_others_of_their_exclusive_group_are_processed() {
    let (queue, batcher) = exclusive_batch_queue(10);
    let mut waiting = Vec::new();
    let mut add = |group, item| {
        let mut added = Box::pin(queue.process_in(group, 1, item));
        assert!((&mut added).now_or_never().is_none());
        waiting.push(added);
    };
    for (group, item) in [(1, "a"), (1, "b"), (2, "c"), (1, "d")] {
        add(group, item);
    }
    let mut first = Vec::new();
    assert_eq!(batcher.receive(&mut first, 3).await, 3);
    assert!(first.iter().map(|queued| queued.item).eq(["a", "c", "b"]));
    add(3, "e");
    assert_eq!(next_batch(&batcher, 3).await, ["e"]);
    let mut next = Box::pin(next_batch(&batcher, 3));
    for queued in first {
        assert!(poll!(&mut next).is_pending(), "an item of the group has no result yet");
        queued.finish(());
    }
    assert_eq!(next.await, ["d"]);
}

#[tokio::test]
async fn items_that_wait_for_their_group_are_processed_before_the_batcher_stops() {
    let (queue, batcher) = exclusive_batch_queue(10);
    let (shutdown, processing) = (CancellationToken::new(), Arc::new(Mutex::new(Vec::new())));
    let process = {
        let processing = processing.clone();
        move |batch: Vec<Queued<u32, u32>>| {
            processing.lock().unwrap().extend(batch);
            async {}
        }
    };
    let mut running = Box::pin(batcher.run(2, 10, shutdown.clone(), process));
    let mut waiting = Box::pin(join_all([1, 2].map(|item| queue.process_in(7, 10, item))));
    assert!(poll!(&mut waiting).is_pending());
    shutdown.cancel();
    for item in [1, 2] {
        while processing.lock().unwrap().is_empty() {
            assert!(poll!(&mut running).is_pending(), "an item is not processed yet");
            tokio::task::yield_now().await;
        }
        let queued = processing.lock().unwrap().remove(0);
        assert_eq!(queued.item, item);
        queued.finish(item);
    }
    running.await.unwrap();
    assert_eq!(waiting.await, [Ok(1), Ok(2)]);
    assert_eq!(queue.process_in(8, 1, 3).await, Err(Unprocessed::Stopped), "the queue is closed");
}

#[tokio::test]
async fn items_of_a_batcher_that_is_dropped_have_no_result() {
    let (queue, batcher) = batch_queue::<u32, u32>(5);
    let mut waiting = Box::pin(queue.process(1));
    assert!(poll!(&mut waiting).is_pending());
    drop(batcher);
    assert_eq!((waiting.await, queue.process(2).await), (Err(Unprocessed::Stopped), Err(Unprocessed::Stopped)));
}

#[tokio::test]
async fn queued_items_can_be_taken() {
    let (queue, batcher) = batch_queue::<u32, u32>(5);
    let mut waiting = Box::pin(join_all((1..=3).map(|item| queue.process(item))));
    assert!(poll!(&mut waiting).is_pending());
    batcher.take_queued().into_iter().for_each(|queued| queued.finish(0));
    assert_eq!(waiting.await, [Ok(0); 3]);
    assert!(batcher.take_queued().is_empty());
}

#[tokio::test]
async fn a_panic_ends_run_and_fails_its_callers() {
    let doubling = Doubling::start(10);
    assert_eq!(doubling.queue.process(u32::MAX).await, Err(Unprocessed::Stopped));
    assert!(doubling.running.await.unwrap().unwrap_err().is_panic());
}
