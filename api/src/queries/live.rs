//! Clients as they change. However many watch, each client is read once for all of them, and one subscription to the
//! read model tells when.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use futures::future::Either;
use futures::stream::{self, BoxStream, Fuse};
use futures::{FutureExt, Stream, StreamExt};
use read_model::{Client, Error, Queries};
use runtime::one_line;
use tokio::sync::{mpsc, watch};
use tokio::time::{MissedTickBehavior, interval};
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

/// Clients read in one round trip.
const READ: usize = 500;
/// How often all that are watched are read anew, whatever was told: a server may fall silent without hanging up.
const REFRESH: Duration = Duration::from_secs(10);
/// Pause before changes are followed again that could not be told one by one.
const RESUME: Duration = Duration::from_millis(20);
/// Pause before a read model is asked again that is not there.
const RETRY: Duration = Duration::from_millis(500);

/// What is known of a client that is watched; `None` before it was first read.
type Seen = Option<Result<Option<Client>, Error>>;

pub struct Live {
    watched: Mutex<HashMap<i64, watch::Sender<Seen>>>,
    /// Why nothing is told at the moment.
    problem: Mutex<Option<Error>>,
    /// Those that somebody has just begun to watch.
    new: mpsc::UnboundedSender<i64>,
}

/// Keeps what is watched up to date.
pub struct Updates {
    live: Arc<Live>,
    read_model: Arc<dyn Queries>,
    new: mpsc::UnboundedReceiver<i64>,
}

/// Nothing is seen until [`Updates::run`] runs.
pub fn live(read_model: Arc<dyn Queries>) -> (Arc<Live>, Updates) {
    #[expect(
        clippy::disallowed_methods,
        reason = "holds at most one id for each new subscriber, whose number is limited"
    )]
    let (sender, new) = mpsc::unbounded_channel();
    let live = Arc::new(Live { watched: Mutex::default(), problem: Mutex::default(), new: sender });
    (live.clone(), Updates { live, read_model, new })
}

impl Live {
    /// A client now and after each change; whoever reads slowly gets the newest state alone. Nothing comes while the
    /// client has no orders. An error is the last item.
    pub fn watch(self: &Arc<Self>, id: i64) -> impl Stream<Item = Result<Client, Error>> + Send + use<> {
        if let Some(problem) = self.problem().clone() {
            // What is known may be stale.
            return Either::Left(stream::once(async { Err(problem) }));
        }
        let mut seen = self.watched().entry(id).or_insert_with(|| watch::Sender::new(None)).subscribe();
        seen.mark_changed();
        let _ = self.new.send(id);
        let watching = Watching { live: self.clone(), id, seen: Some(seen) };
        Either::Right(stream::unfold(Some(watching), async |watching| {
            let mut watching = watching?;
            loop {
                match next(watching.seen.as_mut()?).await? {
                    Ok(Some(client)) => return Some((Ok(client), Some(watching))),
                    Err(error) => return Some((Err(error), None)),
                    Ok(None) => {}
                }
            }
        }))
    }

    fn problem(&self) -> MutexGuard<'_, Option<Error>> {
        self.problem.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn watched(&self) -> MutexGuard<'_, HashMap<i64, watch::Sender<Seen>>> {
        self.watched.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The next state that is known; `None` when there will be none.
pub async fn next<T: Clone>(seen: &mut watch::Receiver<Option<Result<T, Error>>>) -> Option<Result<T, Error>> {
    loop {
        seen.changed().await.ok()?;
        let known = seen.borrow_and_update().clone();
        if known.is_some() {
            return known;
        }
    }
}

/// Somebody's watching of a client. The last one to leave takes the client out.
struct Watching {
    live: Arc<Live>,
    id: i64,
    /// There until it is dropped.
    seen: Option<watch::Receiver<Seen>>,
}

impl Drop for Watching {
    fn drop(&mut self) {
        let mut watched = self.live.watched();
        // While nobody else can look: of two who leave at once, the second sees that there is no other.
        drop(self.seen.take());
        if watched.get(&self.id).is_some_and(|sender| sender.receiver_count() == 0) {
            watched.remove(&self.id);
        }
    }
}

impl Updates {
    pub async fn run(mut self, shutdown: CancellationToken) {
        while !shutdown.is_cancelled() {
            let ended = tokio::select! {
                ended = self.follow() => ended,
                () = shutdown.cancelled() => return,
            };
            let pause = match ended {
                Ok(()) => RESUME,
                Err(problem) => {
                    self.interrupted(problem);
                    RETRY
                }
            };
            tokio::time::sleep(pause).await;
        }
    }

    /// Whoever has seen a state keeps it. The others need not wait.
    fn interrupted(&self, problem: Error) {
        if self.live.problem().replace(problem.clone()).is_none() {
            warn!("changes are not told for now: {}", one_line(&problem));
        }
        for sender in self.live.watched().values() {
            sender.send_if_modified(|seen| {
                let unread = seen.is_none();
                seen.get_or_insert_with(|| Err(problem.clone()));
                unread
            });
        }
    }

    /// Reads clients when they change, until it is not told of every change any more: then all are to be read anew.
    async fn follow(&mut self) -> Result<(), Error> {
        let mut changes = self.read_model.changes().await?.fuse();
        let mut refresh = interval(REFRESH);
        refresh.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            // The first tick comes at once: what changed while nobody told of it is read now.
            let ids = tokio::select! {
                _ = refresh.tick() => self.live.watched().keys().copied().collect(),
                Some(first) = self.new.recv() => {
                    let mut ids = vec![first];
                    while let Ok(id) = self.new.try_recv() {
                        ids.push(id);
                    }
                    ids
                }
                change = changes.next() => match change {
                    Some(first) => self.watched_of(first, &mut changes),
                    None => return Ok(()),
                },
            };
            self.read(ids).await?;
            if self.live.problem().take().is_some() {
                info!("changes are told again");
            }
        }
    }

    /// Those of the changes that are there by now which somebody watches.
    fn watched_of(&self, first: i64, changes: &mut Fuse<BoxStream<'static, i64>>) -> Vec<i64> {
        let watched = self.live.watched();
        let more = std::iter::from_fn(|| changes.next().now_or_never().flatten());
        std::iter::once(first).chain(more.take(READ)).filter(|id| watched.contains_key(id)).collect()
    }

    async fn read(&self, mut ids: Vec<i64>) -> Result<(), Error> {
        ids.sort_unstable();
        ids.dedup();
        for ids in ids.chunks(READ) {
            match self.read_model.clients(ids).await {
                Ok(clients) => ids.iter().zip(clients).for_each(|(id, client)| self.tell(*id, Ok(client))),
                Err(error @ Error::Unavailable(_)) => return Err(error),
                // One of them is damaged: the others are not to suffer.
                Err(Error::Damaged(_)) => {
                    for id in ids {
                        match self.read_model.clients(&[*id]).await {
                            Ok(mut client) => self.tell(*id, Ok(client.pop().flatten())),
                            Err(error @ Error::Unavailable(_)) => return Err(error),
                            Err(error) => self.tell(*id, Err(error)),
                        }
                    }
                }
            }
        }
        Ok(())
    }

    fn tell(&self, id: i64, now: Result<Option<Client>, Error>) {
        if let Some(sender) = self.live.watched().get(&id) {
            sender.send_if_modified(|seen| {
                let changed = seen.as_ref() != Some(&now);
                *seen = Some(now);
                changed
            });
        }
    }
}
