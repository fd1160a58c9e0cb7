//! Events that come while others are being applied wait for that, and then share a step: the more there are, the less each
//! costs. When none are under way nobody waits, unless there is a backlog: then some more are waited for.

use std::mem;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use entity::Event;
use read_model::{Applied, Error, Projection};
use tokio::sync::{Notify, oneshot};
use tokio::time::timeout;

/// How long more events are waited for while there is a backlog.
const GATHER: Duration = Duration::from_millis(25);

type Results = Vec<Result<Applied, Error>>;

struct Waiting {
    events: Vec<Event>,
    done: oneshot::Sender<(Vec<Event>, Results)>,
}

/// Where all pollers apply what they have received.
pub struct Applying {
    read_model: Arc<dyn Projection>,
    waiting: Mutex<Vec<Waiting>>,
    /// Told when more wait.
    more: Notify,
    /// Held by who applies, for all who wait.
    turn: tokio::sync::Mutex<()>,
}

impl Applying {
    pub fn new(read_model: Arc<dyn Projection>) -> Applying {
        Applying { read_model, waiting: Mutex::default(), more: Notify::new(), turn: tokio::sync::Mutex::default() }
    }

    /// Applies events, and returns them with one result for each; `None` when whoever did it was interrupted. `enough` says for
    /// how many it is worth to wait a little.
    pub async fn apply(&self, events: Vec<Event>, enough: usize) -> Option<(Vec<Event>, Results)> {
        if events.is_empty() {
            return Some((events, Vec::new()));
        }
        let (done, mut applied) = oneshot::channel();
        self.waiting().push(Waiting { events, done });
        self.more.notify_one();
        let turn = tokio::select! {
            biased;
            applied = &mut applied => return applied.ok(),
            turn = self.turn.lock() => turn,
        };
        let gathered = async {
            while self.waiting().iter().map(|waiting| waiting.events.len()).sum::<usize>() < enough {
                self.more.notified().await;
            }
        };
        let _ = timeout(GATHER, gathered).await;
        let together = mem::take(&mut *self.waiting());
        self.apply_together(together).await;
        drop(turn);
        applied.await.ok()
    }

    async fn apply_together(&self, together: Vec<Waiting>) {
        let (mut all, mut callers) = (Vec::new(), Vec::with_capacity(together.len()));
        for Waiting { mut events, done } in together {
            callers.push((events.len(), done));
            all.append(&mut events);
        }
        let mut results = self.read_model.apply(&all).await;
        for (count, done) in callers {
            let rest = (all.split_off(count), results.split_off(count));
            let _ = done.send((mem::replace(&mut all, rest.0), mem::replace(&mut results, rest.1)));
        }
    }

    fn waiting(&self) -> MutexGuard<'_, Vec<Waiting>> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
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

    /// Of a client, from one version to another.
    fn events(client_id: i64, versions: std::ops::RangeInclusive<i32>) -> Vec<Event> {
        let event = |version| {
            let (client_name, client_email) = ("Bob".into(), "bob@example.com".into());
            let data = Change::Client(ClientChanged { client_id, client_name, client_email });
            Event { id: Uuid::now_v7(), time: chrono::Utc::now(), version, data }
        };
        versions.map(event).collect()
    }

    #[tokio::test]
    async fn each_gets_its_own_results_also_where_another_was_interrupted() {
        let memory = Arc::new(Memory::default());
        let applying = Applying::new(memory.clone());
        let turn = applying.turn.lock().await;
        // It waits for its turn, and is gone before that comes.
        let waiting = applying.apply(events(99, 1..=2), 0);
        assert!(futures::poll!(std::pin::pin!(waiting)).is_pending());
        let callers = (1..=50).map(async |client| {
            let versions = client as i32 % 4;
            let applied = applying.apply([events(client, 1..=versions), events(client, 1..=1)].concat(), 0).await;
            let (events, results) = applied.unwrap();
            assert!(events.iter().all(|event| event.client().unwrap().id == client));
            let mut expected = vec![Ok(Applied::Now); versions as usize];
            expected.push(Ok(if versions == 0 { Applied::Now } else { Applied::Before }));
            assert_eq!(results, expected);
        });
        let callers = join_all(callers);
        drop(turn);
        callers.await;
        assert_eq!(memory.clients(&[99]).await.unwrap()[0].as_ref().unwrap().version, 2, "it was applied all the same");
    }

    #[tokio::test(start_paused = true)]
    async fn with_a_backlog_more_is_waited_for_but_not_long() {
        let applying = Applying::new(Arc::new(Memory::default()));
        let (began, enough) = (Instant::now(), 3);
        tokio::join!(applying.apply(events(1, 1..=1), enough), applying.apply(events(2, 1..=2), enough));
        assert_eq!(began.elapsed(), Duration::ZERO, "there were enough");
        applying.apply(events(3, 1..=1), enough).await.unwrap();
        assert_eq!(began.elapsed(), GATHER);
        applying.apply(events(3, 2..=2), 0).await.unwrap();
        assert_eq!(began.elapsed(), GATHER, "without a backlog nobody waits");
    }
}
