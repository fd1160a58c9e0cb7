//! Group commit: items that arrive while all workers are busy wait and share the next batch. While a worker is idle, an item
//! does not wait. Groups of items take turns: a group with many items in the queue does not delay the items of others.

mod incoming;

use std::panic::AssertUnwindSafe;
use std::sync::Arc;

use futures::FutureExt;
use futures::future::try_join_all;
use tokio::sync::oneshot;
use tokio::task::JoinError;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use incoming::{InProcess, Incoming};

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
    /// Keeps the other items of its group in an exclusive queue.
    in_process: Option<InProcess<T, R>>,
}

impl<T, R> Queued<T, R> {
    /// Returns the result to the caller, which may be gone.
    pub fn finish(self, result: R) {
        let _ = self.caller.send(result);
    }
}

/// Why an item has no result.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Unprocessed {
    #[error("too many items wait in the queue")]
    QueueFull,
    /// The cause of a panic was logged.
    #[error("processing the item panicked, or its batcher has stopped")]
    Stopped,
}

/// Takes items from callers. The queue is closed when every clone is dropped.
pub struct BatchQueue<T, R>(Arc<Callers<T, R>>);

/// Processes the items in batches. When every clone is dropped, the queue is closed and its items are dropped.
pub struct Batcher<T, R>(Arc<Workers<T, R>>);

struct Callers<T, R>(Arc<Incoming<T, R>>);

struct Workers<T, R>(Arc<Incoming<T, R>>);

impl<T, R> Drop for Callers<T, R> {
    fn drop(&mut self) {
        self.0.close();
    }
}

impl<T, R> Drop for Workers<T, R> {
    fn drop(&mut self) {
        self.0.close();
        self.0.take_all();
    }
}

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
    queue_of(Incoming::new(size, false))
}

/// As [`batch_queue`], for items that exclude others of their group: while some of a group are processed, until each of them has a
/// result, the others stay in the queue.
pub fn exclusive_batch_queue<T, R>(size: usize) -> (BatchQueue<T, R>, Batcher<T, R>) {
    queue_of(Incoming::new(size, true))
}

fn queue_of<T, R>(incoming: Incoming<T, R>) -> (BatchQueue<T, R>, Batcher<T, R>) {
    let incoming = Arc::new(incoming);
    (BatchQueue(Arc::new(Callers(incoming.clone()))), Batcher(Arc::new(Workers(incoming))))
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
    ///
    /// # Errors
    /// As [`BatchQueue::process_in`].
    pub async fn process(&self, item: T) -> Result<R, Unprocessed> {
        self.process_in(0, 1, item).await
    }

    /// Returns the result of an item. The item is processed even if the caller is dropped. The items of a group stay in their
    /// sequence.
    ///
    /// # Errors
    /// When the queue is full or closed, or processing panicked.
    pub async fn process_in(&self, group: i64, weight: usize, item: T) -> Result<R, Unprocessed> {
        let (caller, result) = oneshot::channel();
        let queued = Queued { item, queued_at: Instant::now(), group, weight, caller, in_process: None };
        self.0.0.insert(queued)?;
        result.await.map_err(|_| Unprocessed::Stopped)
    }
}

impl<T: Send + 'static, R: Send + 'static> Batcher<T, R> {
    /// Processes batches of at most `max_weight`, until `shutdown` or until every queue is dropped, and then until the queue is
    /// empty.
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
                        () = shutdown.cancelled() => batcher.0.0.close(),
                    }
                    if batch.is_empty() && batcher.receive(&mut batch, max_weight).await == 0 {
                        return;
                    }
                    process(batch).await;
                }
            })
        };
        try_join_all((0..workers).map(worker)).await.map(drop)
    }

    /// Waits until items can be taken, and appends some of at most `max_weight`, or one that is heavier. Returns their number, or 0
    /// if the queue is closed and empty.
    pub async fn receive(&self, batch: &mut Vec<Queued<T, R>>, max_weight: usize) -> usize {
        self.0.0.receive(batch, max_weight).await
    }

    /// Takes the items that are in the queue.
    pub fn take_queued(&self) -> Vec<Queued<T, R>> {
        self.0.0.take_all()
    }
}

#[cfg(test)]
mod tests;
