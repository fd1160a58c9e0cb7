//! What is sold, as it is sold: read for all who watch at once, and no more often than [`PAUSE`] says.

use std::sync::Arc;
use std::time::Duration;

use chrono::{DateTime, Utc};
use futures::stream::BoxStream;
use futures::{FutureExt, Stream, StreamExt, stream};
use read_model::reports::{latest_orders, today};
use read_model::{Client, Error, OrderSummary, Queries, Sum};
use runtime::one_line;
use tokio::sync::watch;
use tokio::time::{Instant, sleep, sleep_until, timeout};
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use crate::queries::live::next;

/// Least time between two snapshots.
const PAUSE: Duration = Duration::from_millis(250);
/// How often one is made although nothing was told: the rate of the last minute falls by itself.
const REFRESH: Duration = Duration::from_secs(5);
/// Orders in a snapshot.
const LATEST: usize = 10;
/// Pause before a read model is asked again that is not there.
const RETRY: Duration = Duration::from_millis(500);

#[derive(Clone, Debug)]
pub struct Snapshot {
    pub time: DateTime<Utc>,
    /// Since midnight, UTC.
    pub today: Sum,
    /// About how many orders there were in the last minute.
    pub rate: i64,
    /// The newest orders, newest first, and who placed each.
    pub latest: Vec<(OrderSummary, Option<Client>)>,
}

impl Snapshot {
    fn is_like(&self, other: &Snapshot) -> bool {
        (self.today, self.rate, &self.latest) == (other.today, other.rate, &other.latest)
    }
}

/// The last snapshot; `None` while nobody watches.
type Seen = Option<Result<Snapshot, Error>>;

pub struct Snapshots {
    read_model: Arc<dyn Queries>,
    seen: watch::Sender<Seen>,
}

impl Snapshots {
    /// Nothing is seen until [`Snapshots::run`] runs.
    pub fn new(read_model: Arc<dyn Queries>) -> Arc<Snapshots> {
        Arc::new(Snapshots { read_model, seen: watch::Sender::new(None) })
    }

    /// A snapshot now and after each change; whoever reads slowly gets the newest alone. An error is the last item.
    pub fn watch(&self) -> impl Stream<Item = Result<Snapshot, Error>> + Send + use<> {
        let mut seen = self.seen.subscribe();
        seen.mark_changed();
        stream::unfold(Some(seen), async |seen| {
            let mut seen = seen?;
            match next(&mut seen).await? {
                Ok(snapshot) => Some((Ok(snapshot), Some(seen))),
                Err(error) => Some((Err(error), None)),
            }
        })
    }

    pub async fn run(self: Arc<Self>, shutdown: CancellationToken) {
        let mut failing = false;
        while !shutdown.is_cancelled() {
            let watched = async {
                while self.seen.receiver_count() == 0 {
                    sleep(PAUSE).await;
                }
                self.follow(&mut failing).await
            };
            let problem = tokio::select! {
                watched = watched => watched.err(),
                () = shutdown.cancelled() => return,
            };
            // Whoever comes next is not to see what was, and whoever watches is told.
            let pause = if problem.is_some() { RETRY } else { Duration::ZERO };
            if let Some(problem) = problem {
                if !std::mem::replace(&mut failing, true) {
                    warn!("what is sold cannot be told for now: {}", one_line(&problem));
                }
                self.seen.send_replace(Some(Err(problem)));
            }
            sleep(pause).await;
            self.seen.send_if_modified(|seen| {
                *seen = None;
                false
            });
        }
    }

    /// Makes snapshots until nobody watches, or the read model can no longer tell of every change.
    async fn follow(&self, failing: &mut bool) -> Result<(), Error> {
        let read_model = &*self.read_model;
        let mut changes = read_model.changes().await?;
        while self.seen.receiver_count() > 0 {
            let began = Instant::now();
            let now = Utc::now();
            let ((today, rate), latest) =
                futures::try_join!(today(read_model, now), latest_orders(read_model, LATEST))?;
            let ids: Vec<i64> = latest.iter().map(|purchase| purchase.client_id).collect();
            let clients = read_model.cached_clients(&ids).await?;
            let latest = latest.into_iter().zip(clients).collect();
            let snapshot = Snapshot { time: now, today, rate, latest };
            if std::mem::take(failing) {
                info!("what is sold is told again");
            }
            self.seen.send_if_modified(|seen| {
                let is_new = !seen.as_ref().is_some_and(|seen| seen.as_ref().is_ok_and(|seen| seen.is_like(&snapshot)));
                *seen = Some(Ok(snapshot));
                is_new
            });
            let change = timeout(REFRESH, changes.next()).await;
            sleep_until(began + PAUSE).await;
            // Of what has changed until now, one snapshot tells.
            if change == Ok(None) || has_ended(&mut changes) {
                return Ok(());
            }
        }
        Ok(())
    }
}

/// Takes all changes that are there.
fn has_ended(changes: &mut BoxStream<'static, i64>) -> bool {
    loop {
        match changes.next().now_or_never() {
            Some(Some(_)) => {}
            Some(None) => return true,
            None => return false,
        }
    }
}
