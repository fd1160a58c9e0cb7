//! Applies the events of all pollers in batches (group commit): events that arrive while a batch is being applied form the next
//! one. The more arrive, the less each costs. Without a backlog no event waits for others.

use std::mem;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use entity::Event;
use read_model::{Applied, Error, Projection};
use tokio::sync::{Notify, oneshot};
use tokio::time::timeout;

/// How long a batch waits for more events during a backlog.
const LINGER: Duration = Duration::from_millis(25);

type Results = Vec<Result<Applied, Error>>;

/// The events of one caller, returned to it with their results.
struct Submission {
    events: Vec<Event>,
    done: oneshot::Sender<(Vec<Event>, Results)>,
}

pub struct EventBatcher {
    read_model: Arc<dyn Projection>,
    submitted: Mutex<Vec<Submission>>,
    /// Notified when events are submitted.
    more: Notify,
    /// Held by the caller that applies the batch, for all that have submitted events.
    turn: tokio::sync::Mutex<()>,
}

impl EventBatcher {
    pub fn new(read_model: Arc<dyn Projection>) -> EventBatcher {
        EventBatcher {
            read_model,
            submitted: Mutex::default(),
            more: Notify::new(),
            turn: tokio::sync::Mutex::default(),
        }
    }

    /// Applies events and returns them with one result for each, or `None` if the caller that applied them was cancelled. The
    /// batch waits for [`LINGER`] or until it has `min_batch` events.
    pub async fn apply(&self, events: Vec<Event>, min_batch: usize) -> Option<(Vec<Event>, Results)> {
        if events.is_empty() {
            return Some((events, Vec::new()));
        }
        let (done, mut applied) = oneshot::channel();
        self.submitted().push(Submission { events, done });
        self.more.notify_one();
        let turn = tokio::select! {
            biased;
            applied = &mut applied => return applied.ok(),
            turn = self.turn.lock() => turn,
        };
        let is_large_enough = async {
            while self.submitted().iter().map(|submission| submission.events.len()).sum::<usize>() < min_batch {
                self.more.notified().await;
            }
        };
        let _ = timeout(LINGER, is_large_enough).await;
        let batch = mem::take(&mut *self.submitted());
        self.apply_batch(batch).await;
        drop(turn);
        applied.await.ok()
    }

    async fn apply_batch(&self, batch: Vec<Submission>) {
        let (mut all, mut callers) = (Vec::new(), Vec::with_capacity(batch.len()));
        for Submission { mut events, done } in batch {
            callers.push((events.len(), done));
            all.append(&mut events);
        }
        let mut results = self.read_model.apply(&all).await;
        for (count, done) in callers {
            let rest = (all.split_off(count), results.split_off(count));
            let _ = done.send((mem::replace(&mut all, rest.0), mem::replace(&mut results, rest.1)));
        }
    }

    fn submitted(&self) -> MutexGuard<'_, Vec<Submission>> {
        self.submitted.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use entity::{Change, ClientChanged};
    use futures::future::join_all;
    use read_model::{Memory, Queries};
    use tokio::time::Instant;
    use uuid::Uuid;

    use super::*;

    /// Events of one client.
    fn events(client_id: i64, versions: std::ops::RangeInclusive<i32>) -> Vec<Event> {
        let event = |version| {
            let (client_name, client_email) = ("Bob".into(), "bob@example.com".into());
            let data = Change::Client(ClientChanged { client_id, client_name, client_email });
            Event { id: Uuid::now_v7(), time: chrono::Utc::now(), version, data }
        };
        versions.map(event).collect()
    }

    #[tokio::test]
    async fn each_caller_gets_its_own_results_even_if_another_was_cancelled() {
        let memory = Arc::new(Memory::default());
        let batcher = EventBatcher::new(memory.clone());
        let turn = batcher.turn.lock().await;
        // It is cancelled while it waits for its turn.
        let waiting = batcher.apply(events(99, 1..=2), 0);
        assert!(futures::poll!(std::pin::pin!(waiting)).is_pending());
        let callers = (1..=50).map(async |client| {
            let versions = client as i32 % 4;
            let applied = batcher.apply([events(client, 1..=versions), events(client, 1..=1)].concat(), 0).await;
            let (events, results) = applied.unwrap();
            assert!(events.iter().all(|event| event.client().unwrap().id == client));
            let mut expected = vec![Ok(Applied::Now); versions as usize];
            expected.push(Ok(if versions == 0 { Applied::Now } else { Applied::Before }));
            assert_eq!(results, expected);
        });
        let callers = join_all(callers);
        drop(turn);
        callers.await;
        assert_eq!(
            memory.clients(&[99]).await.unwrap()[0].as_ref().unwrap().version,
            2,
            "its events were applied all the same"
        );
    }

    #[tokio::test(start_paused = true)]
    async fn during_a_backlog_a_batch_waits_for_more_events_but_not_long() {
        let batcher = EventBatcher::new(Arc::new(Memory::default()));
        let (began, min_batch) = (Instant::now(), 3);
        tokio::join!(batcher.apply(events(1, 1..=1), min_batch), batcher.apply(events(2, 1..=2), min_batch));
        assert_eq!(began.elapsed(), Duration::ZERO, "the batch is large enough");
        batcher.apply(events(3, 1..=1), min_batch).await.unwrap();
        assert_eq!(began.elapsed(), LINGER);
        batcher.apply(events(3, 2..=2), 0).await.unwrap();
        assert_eq!(began.elapsed(), LINGER, "without a backlog no event waits");
    }
}
