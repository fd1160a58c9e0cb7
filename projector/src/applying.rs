//! Events that come while others are being applied wait for that, and then share a step: the more there are, the less each
//! costs. When none are under way nobody waits.

use std::mem;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use entity::Event;
use read_model::{Applied, Error, ReadModel};
use tokio::sync::oneshot;

type Results = Vec<Result<Applied, Error>>;

struct Waiting {
    events: Vec<Event>,
    done: oneshot::Sender<(Vec<Event>, Results)>,
}

/// Where all pollers apply what they have received.
pub struct Applying {
    read_model: Arc<dyn ReadModel>,
    waiting: Mutex<Vec<Waiting>>,
    /// Held by who applies, for all who wait.
    turn: tokio::sync::Mutex<()>,
}

impl Applying {
    pub fn new(read_model: Arc<dyn ReadModel>) -> Applying {
        Applying { read_model, waiting: Mutex::default(), turn: tokio::sync::Mutex::default() }
    }

    /// Applies events, and returns them with one result for each; `None` when whoever did it was interrupted.
    pub async fn apply(&self, events: Vec<Event>) -> Option<(Vec<Event>, Results)> {
        if events.is_empty() {
            return Some((events, Vec::new()));
        }
        let (done, applied) = oneshot::channel();
        self.waiting().push(Waiting { events, done });
        let turn = self.turn.lock().await;
        let together = mem::take(&mut *self.waiting());
        if !together.is_empty() {
            self.apply_together(together).await;
        }
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
    use read_model::Memory;
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
        let waiting = applying.apply(events(99, 1..=2));
        assert!(futures::poll!(std::pin::pin!(waiting)).is_pending());
        let callers = (1..=50).map(async |client| {
            let versions = client as i32 % 4;
            let applied = applying.apply([events(client, 1..=versions), events(client, 1..=1)].concat()).await;
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
}
