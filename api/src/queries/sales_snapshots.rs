//! Snapshots of the current sales, made once for all watchers and at most every [`PAUSE`].

use std::sync::Arc;
use std::time::Duration;

use chrono::{DateTime, Utc};
use futures::stream::BoxStream;
use futures::{FutureExt, Stream, StreamExt, stream};
use read_model::reports::{latest_orders, today};
use read_model::{Client, Error, OrderSummary, Queries, Sales};
use runtime::one_line;
use tokio::sync::watch;
use tokio::time::{Instant, sleep, sleep_until, timeout};
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use super::live::next_state;

/// The shortest time between two snapshots.
const PAUSE: Duration = Duration::from_millis(250);
/// The longest time between two snapshots: the number of orders in the last minute falls without any change.
const REFRESH: Duration = Duration::from_secs(5);
/// Orders in a snapshot.
const LATEST_ORDERS: usize = 10;
/// Pause before the read model is tried again after an outage.
const RETRY_PAUSE: Duration = Duration::from_millis(500);

#[derive(Clone, Debug)]
pub struct SalesSnapshot {
    pub time: DateTime<Utc>,
    /// Since midnight UTC.
    pub today: Sales,
    /// The approximate number of orders in the last minute.
    pub orders_per_minute: i64,
    /// The newest orders, newest first, each with its client.
    pub latest_orders: Vec<(OrderSummary, Option<Client>)>,
}

impl SalesSnapshot {
    async fn read(read_model: &dyn Queries) -> Result<SalesSnapshot, Error> {
        let time = Utc::now();
        let (sales, orders) = (today(read_model, time), latest_orders(read_model, LATEST_ORDERS));
        let ((today, orders_per_minute), orders) = futures::try_join!(sales, orders)?;
        let ids: Vec<i64> = orders.iter().map(|order| order.client_id).collect();
        let clients = read_model.cached_clients(&ids).await?;
        Ok(SalesSnapshot { time, today, orders_per_minute, latest_orders: orders.into_iter().zip(clients).collect() })
    }

    /// Whether the snapshots differ in nothing but their time.
    fn has_sales_of(&self, other: &SalesSnapshot) -> bool {
        self.today == other.today
            && self.orders_per_minute == other.orders_per_minute
            && self.latest_orders == other.latest_orders
    }
}

/// The newest snapshot; `None` while nobody watches.
type State = Option<Result<SalesSnapshot, Error>>;

pub struct SalesSnapshots {
    read_model: Arc<dyn Queries>,
    state: watch::Sender<State>,
}

impl SalesSnapshots {
    /// Watchers receive nothing before [`SalesSnapshots::run`] runs.
    pub fn new(read_model: Arc<dyn Queries>) -> Arc<SalesSnapshots> {
        Arc::new(SalesSnapshots { read_model, state: watch::Sender::new(None) })
    }

    /// The current sales, and the sales after each change. A slow consumer only receives the newest snapshot. An error is
    /// the last item.
    pub fn watch(&self) -> impl Stream<Item = Result<SalesSnapshot, Error>> + Send + use<> {
        let mut state = self.state.subscribe();
        state.mark_changed();
        stream::unfold(Some(state), async |state| {
            let mut state = state?;
            match next_state(&mut state).await? {
                Ok(snapshot) => Some((Ok(snapshot), Some(state))),
                Err(error) => Some((Err(error), None)),
            }
        })
    }

    pub async fn run(self: Arc<Self>, shutdown: CancellationToken) {
        let mut is_failing = false;
        while !shutdown.is_cancelled() {
            let watched = async {
                while self.state.receiver_count() == 0 {
                    sleep(PAUSE).await;
                }
                self.follow(&mut is_failing).await
            };
            let ended = tokio::select! {
                ended = watched => ended,
                () = shutdown.cancelled() => return,
            };
            if let Err(problem) = ended {
                if !std::mem::replace(&mut is_failing, true) {
                    warn!("subscriptions to sales are interrupted: {}", one_line(&problem));
                }
                self.state.send_replace(Some(Err(problem)));
                sleep(RETRY_PAUSE).await;
            }
            // The next watcher must not receive an old snapshot.
            self.state.send_if_modified(|state| {
                *state = None;
                false
            });
        }
    }

    /// Makes snapshots until nobody watches, or the read model can no longer report every change.
    async fn follow(&self, is_failing: &mut bool) -> Result<(), Error> {
        let mut changes = self.read_model.changes().await?;
        while self.state.receiver_count() > 0 {
            let began = Instant::now();
            let snapshot = SalesSnapshot::read(&*self.read_model).await?;
            if std::mem::take(is_failing) {
                info!("subscriptions to sales are resumed");
            }
            self.state.send_if_modified(|state| {
                let is_new = !matches!(state, Some(Ok(last)) if last.has_sales_of(&snapshot));
                *state = Some(Ok(snapshot));
                is_new
            });
            let change = timeout(REFRESH, changes.next()).await;
            sleep_until(began + PAUSE).await;
            // The next snapshot includes all changes until now.
            if change == Ok(None) || has_ended(&mut changes) {
                return Ok(());
            }
        }
        Ok(())
    }
}

/// Discards the changes that have arrived.
fn has_ended(changes: &mut BoxStream<'static, i64>) -> bool {
    loop {
        match changes.next().now_or_never() {
            Some(Some(_)) => {}
            Some(None) => return true,
            None => return false,
        }
    }
}
