//! Applies the events of all pollers in batches: the more arrive, the less each costs. Without a backlog no event waits for
//! others.

use std::sync::Arc;
use std::time::Duration;

use entity::Event;
use read_model::{Applied, Error, Projection};
use runtime::batcher::{BatchQueue, Batcher, Queued, batch_queue};
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;
use tracing::Instrument;

use super::spans;

use crate::metrics;

/// How long a batch waits for more events during a backlog.
const LINGER: Duration = Duration::from_millis(25);
/// More callers than there can be pollers.
const MAX_CALLERS: usize = 1_000;

#[derive(Clone)]
struct Submission {
    events: Vec<Event>,
    /// The trace contexts of their messages.
    contexts: Vec<String>,
    min_batch: usize,
}

/// Events, returned to their caller, with one result for each.
type Results = (Vec<Event>, Vec<Result<Applied, Error>>);

pub struct EventBatcher(BatchQueue<Submission, Results>);

impl EventBatcher {
    pub fn new(read_model: Arc<dyn Projection>) -> EventBatcher {
        let (queue, batcher) = batch_queue(MAX_CALLERS);
        let more = batcher.clone();
        let apply = move |batch| apply(read_model.clone(), more.clone(), batch);
        tokio::spawn(batcher.run(1, MAX_CALLERS, CancellationToken::new(), apply));
        EventBatcher(queue)
    }

    /// Applies events and returns them with one result for each. The batch waits for [`LINGER`] or until it has `min_batch`
    /// events.
    ///
    /// # Panics
    /// When the read model panics.
    pub async fn apply(&self, events: Vec<Event>, contexts: Vec<String>, min_batch: usize) -> Results {
        if events.is_empty() {
            return (events, Vec::new());
        }
        self.0.process(Submission { events, contexts, min_batch }).await.expect("the read model does not panic")
    }
}

async fn apply(
    read_model: Arc<dyn Projection>,
    more: Batcher<Submission, Results>,
    mut batch: Vec<Queued<Submission, Results>>,
) {
    let fill = async { while !is_large_enough(&batch) && more.receive(&mut batch, MAX_CALLERS).await > 0 {} };
    let _ = timeout(LINGER, fill).await;
    let counts: Vec<usize> = batch.iter().map(|queued| queued.item.events.len()).collect();
    let events: Vec<Event> = batch.iter_mut().flat_map(|queued| std::mem::take(&mut queued.item.events)).collect();
    let span = spans::apply(events.len(), batch.iter().flat_map(|queued| &queued.item.contexts));
    let results = read_model.apply_received(&events).instrument(span.clone()).await;
    spans::applied(&span, &results);
    metrics::record_applied(&events, &results);
    let mut results = results.into_iter();
    let mut events = events.into_iter();
    for (queued, count) in batch.into_iter().zip(counts) {
        queued.finish((events.by_ref().take(count).collect(), results.by_ref().take(count).collect()));
    }
}

fn is_large_enough(batch: &[Queued<Submission, Results>]) -> bool {
    let min_batch = batch.iter().map(|queued| queued.item.min_batch).max();
    Some(batch.iter().map(|queued| queued.item.events.len()).sum()) >= min_batch
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
        // It is cancelled while it waits for the result.
        let waiting = batcher.apply(events(99, 1..=2), Vec::new(), 0);
        assert!(futures::poll!(std::pin::pin!(waiting)).is_pending());
        let callers = (1..=50).map(async |client| {
            let versions = client as i32 % 4;
            let applied =
                batcher.apply([events(client, 1..=versions), events(client, 1..=1)].concat(), Vec::new(), 0).await;
            let (events, results) = applied;
            assert!(events.iter().all(|event| event.client().unwrap().id == client));
            let mut expected = vec![Ok(Applied::Now); versions as usize];
            expected.push(Ok(if versions == 0 { Applied::Now } else { Applied::Before }));
            assert_eq!(results, expected);
        });
        join_all(callers).await;
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
        tokio::join!(
            batcher.apply(events(1, 1..=1), Vec::new(), min_batch),
            batcher.apply(events(2, 1..=2), Vec::new(), min_batch)
        );
        assert_eq!(began.elapsed(), Duration::ZERO, "the batch is large enough");
        batcher.apply(events(3, 1..=1), Vec::new(), min_batch).await;
        assert_eq!(began.elapsed(), LINGER);
        batcher.apply(events(3, 2..=2), Vec::new(), 0).await;
        assert_eq!(began.elapsed(), LINGER, "without a backlog no event waits");
    }
}
