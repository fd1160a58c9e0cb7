//! Clients as they change. Each watched client is read once for all its watchers, after one subscription to the read model
//! has reported a change.

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use futures::future::Either;
use futures::stream::{self, BoxStream, Fuse};
use futures::{FutureExt, Stream, StreamExt};
use read_model::{Client, Error, Queries};
use runtime::one_line;
use tokio::sync::{Notify, watch};
use tokio::time::{MissedTickBehavior, interval};
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

/// Clients in one read.
const MAX_READ: usize = 500;
/// Interval of reading all watched clients, because a server may stop sending changes without closing the connection.
const REFRESH: Duration = Duration::from_secs(10);
/// Pause before changes are subscribed to again after the read model could not report each of them.
const RESUBSCRIBE_PAUSE: Duration = Duration::from_millis(20);
/// Pause before the read model is tried again after an outage.
const RETRY_PAUSE: Duration = Duration::from_millis(500);

/// The newest state of a client; `None` before the first read.
type State = Option<Result<Option<Client>, Error>>;

pub struct LiveClients {
    watched: Mutex<HashMap<i64, watch::Sender<State>>>,
    /// Why the states are not kept up to date at the moment.
    problem: Mutex<Option<Error>>,
    /// The clients with a new watcher, each once.
    new: Mutex<HashSet<i64>>,
    /// Notified when `new` gets another.
    arrived: Notify,
}

/// Keeps the states of the watched clients up to date.
pub struct LiveUpdates {
    live: Arc<LiveClients>,
    read_model: Arc<dyn Queries>,
}

/// Watchers receive nothing before [`LiveUpdates::run`] runs.
pub fn live(read_model: Arc<dyn Queries>) -> (Arc<LiveClients>, LiveUpdates) {
    let live = Arc::new(LiveClients {
        watched: Mutex::default(),
        problem: Mutex::default(),
        new: Mutex::default(),
        arrived: Notify::new(),
    });
    (live.clone(), LiveUpdates { live, read_model })
}

impl LiveClients {
    /// The current state of a client, and its state after each change. A slow consumer only receives the newest state.
    /// Nothing is sent while the read model does not have the client. An error is the last item.
    pub fn watch(self: &Arc<Self>, id: i64) -> impl Stream<Item = Result<Client, Error>> + Send + use<> {
        if let Some(problem) = self.problem().clone() {
            // The cached state may be stale.
            return Either::Left(stream::once(async { Err(problem) }));
        }
        let mut state = self.watched().entry(id).or_insert_with(|| watch::Sender::new(None)).subscribe();
        state.mark_changed();
        self.new_ids().insert(id);
        self.arrived.notify_one();
        let watcher = Watcher { live: self.clone(), id, state: Some(state) };
        Either::Right(stream::unfold(Some(watcher), async |watcher| {
            let mut watcher = watcher?;
            loop {
                match next_state(watcher.state.as_mut()?).await? {
                    Ok(Some(client)) => return Some((Ok(client), Some(watcher))),
                    Err(error) => return Some((Err(error), None)),
                    Ok(None) => {}
                }
            }
        }))
    }

    fn new_ids(&self) -> MutexGuard<'_, HashSet<i64>> {
        self.new.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn problem(&self) -> MutexGuard<'_, Option<Error>> {
        self.problem.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn watched(&self) -> MutexGuard<'_, HashMap<i64, watch::Sender<State>>> {
        self.watched.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Waits for the next state. `None` if the sender is gone.
pub async fn next_state<T: Clone>(state: &mut watch::Receiver<Option<Result<T, Error>>>) -> Option<Result<T, Error>> {
    loop {
        state.changed().await.ok()?;
        let current = state.borrow_and_update().clone();
        if current.is_some() {
            return current;
        }
    }
}

/// One watcher of a client. The last watcher removes the client from the map when it is dropped.
struct Watcher {
    live: Arc<LiveClients>,
    id: i64,
    /// `None` only while it is dropped.
    state: Option<watch::Receiver<State>>,
}

impl Drop for Watcher {
    fn drop(&mut self) {
        let mut watched = self.live.watched();
        // Under the lock, so that the second of two watchers that are dropped at once sees that it is the last.
        drop(self.state.take());
        if watched.get(&self.id).is_some_and(|sender| sender.receiver_count() == 0) {
            watched.remove(&self.id);
        }
    }
}

impl LiveUpdates {
    pub async fn run(self, shutdown: CancellationToken) {
        while !shutdown.is_cancelled() {
            let ended = tokio::select! {
                ended = self.follow() => ended,
                () = shutdown.cancelled() => return,
            };
            let pause = match ended {
                Ok(()) => RESUBSCRIBE_PAUSE,
                Err(problem) => {
                    self.report(problem);
                    RETRY_PAUSE
                }
            };
            tokio::time::sleep(pause).await;
        }
    }

    /// Sends the problem to the watchers that have no state yet. The others keep the state they have.
    fn report(&self, problem: Error) {
        if self.live.problem().replace(problem.clone()).is_none() {
            warn!("subscriptions to clients are interrupted: {}", one_line(&problem));
        }
        for sender in self.live.watched().values() {
            sender.send_if_modified(|state| {
                let is_unread = state.is_none();
                state.get_or_insert_with(|| Err(problem.clone()));
                is_unread
            });
        }
    }

    /// Reads clients when they change. Returns when the read model can no longer report every change, so that all watched
    /// clients must be read again.
    async fn follow(&self) -> Result<(), Error> {
        let mut changes = self.read_model.changes().await?.fuse();
        let mut refresh = interval(REFRESH);
        refresh.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            // The first tick is immediate and finds the changes that were missed.
            let ids = tokio::select! {
                _ = refresh.tick() => self.live.watched().keys().copied().collect(),
                () = self.live.arrived.notified() => std::mem::take(&mut *self.live.new_ids()).into_iter().collect(),
                change = changes.next() => match change {
                    Some(first) => self.pending_changes(first, &mut changes),
                    None => return Ok(()),
                },
            };
            self.read(ids).await?;
            if self.live.problem().take().is_some() {
                info!("subscriptions to clients are resumed");
            }
        }
    }

    /// The changes that have arrived by now, as far as they are of watched clients.
    fn pending_changes(&self, first: i64, changes: &mut Fuse<BoxStream<'static, i64>>) -> Vec<i64> {
        let watched = self.live.watched();
        let more = std::iter::from_fn(|| changes.next().now_or_never().flatten());
        std::iter::once(first).chain(more.take(MAX_READ)).filter(|id| watched.contains_key(id)).collect()
    }

    async fn read(&self, mut ids: Vec<i64>) -> Result<(), Error> {
        ids.sort_unstable();
        ids.dedup();
        for ids in ids.chunks(MAX_READ) {
            match self.read_model.clients(ids).await {
                Ok(clients) => ids.iter().zip(clients).for_each(|(id, client)| self.send(*id, Ok(client))),
                Err(error @ Error::Unavailable(_)) => return Err(error),
                // One client is damaged. Read alone, the others succeed.
                Err(_) => {
                    for id in ids {
                        match self.read_model.clients(&[*id]).await {
                            Ok(mut client) => self.send(*id, Ok(client.pop().flatten())),
                            Err(error @ Error::Unavailable(_)) => return Err(error),
                            Err(error) => self.send(*id, Err(error)),
                        }
                    }
                }
            }
        }
        Ok(())
    }

    fn send(&self, id: i64, new: Result<Option<Client>, Error>) {
        if let Some(sender) = self.live.watched().get(&id) {
            sender.send_if_modified(|state| {
                let is_changed = state.as_ref() != Some(&new);
                *state = Some(new);
                is_changed
            });
        }
    }
}
