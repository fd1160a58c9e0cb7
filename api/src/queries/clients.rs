//! Reads of clients: by id, at a version, and page by page of a ranking.

use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use futures::{StreamExt, stream, try_join};
use read_model::{Client, Error, Queries, RankPosition, Ranking};
use runtime::batcher::Unprocessed;
use runtime::single_flight::SingleFlight;
use tokio::time::{Instant, timeout_at};

use super::clients_by_id::ClientsById;
use super::live::LiveClients;
use super::recent_orders::{RecentOrders, RecentOrdersOfClient};

/// Pages of which the newest result is remembered.
const PAGES: usize = 32;
/// Interval of reading a client that has not reached a version yet, in case its change is not reported.
const POLL: Duration = Duration::from_millis(500);

/// A part of a ranking.
#[derive(Debug)]
pub struct ClientPage {
    pub clients: Vec<(RankPosition, Client)>,
    pub has_previous_page: bool,
    pub has_next_page: bool,
}

/// The result of waiting for a version of a client.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum AtVersion {
    Reached(Client),
    /// The version at the end of the wait; 0 if the read model does not have the client.
    Behind(i32),
}

pub struct Clients {
    read_model: Arc<dyn Queries>,
    live: Arc<LiveClients>,
    pages: SingleFlight<(Ranking, Option<RankPosition>, usize), Arc<ClientPage>, Error>,
    by_id: ClientsById,
    recent_orders: RecentOrders,
}

impl Clients {
    pub fn new(read_model: Arc<dyn Queries>, live: Arc<LiveClients>) -> Clients {
        let (by_id, recent_orders) = (ClientsById::new(read_model.clone()), RecentOrders::new(read_model.clone()));
        Clients { read_model, live, pages: SingleFlight::new(PAGES), by_id, recent_orders }
    }

    /// The newest orders of a client, newest first. Reads for several clients share a round trip.
    ///
    /// # Errors
    /// When too many reads wait; the inner error, when the read model fails or the orders are damaged.
    pub async fn recent_orders(&self, id: i64, count: usize) -> Result<RecentOrdersOfClient, Unprocessed> {
        self.recent_orders.of(id, count).await
    }

    /// As [`Clients::by_ids`], for one client. Reads for several orders share a round trip.
    ///
    /// # Errors
    /// When too many reads wait; the inner error, when the read model fails or the client is damaged.
    pub async fn by_id(&self, id: i64) -> Result<Result<Option<Client>, Error>, Unprocessed> {
        self.by_id.read(id).await
    }

    /// The clients with these ids, in the same order, from the cache if they are in it. `None` if the read model does not
    /// have a client.
    pub async fn by_ids(&self, ids: &[i64]) -> Result<Vec<Option<Client>>, Error> {
        self.read_model.cached_clients(ids).await
    }

    /// The client once it includes every event up to `min_version`. Waits for that at most `wait`. Waits share the reads of
    /// subscriptions, which follow reported changes.
    pub async fn at_version(&self, id: i64, min_version: i32, wait: Duration) -> Result<AtVersion, Error> {
        let deadline = Instant::now() + wait;
        let mut client = self.read_model.cached_clients(&[id]).await?.pop().flatten();
        // Watches only if the cached client is too old.
        let states = stream::once(async { self.live.watch(id) }).flatten();
        let mut states = pin!(states.chain(stream::pending()));
        let mut is_over = false;
        loop {
            let reached = client.as_ref().map_or(0, |client| client.version);
            match client {
                Some(client) if reached >= min_version => return Ok(AtVersion::Reached(client)),
                _ if is_over => return Ok(AtVersion::Behind(reached)),
                _ => {}
            }
            client = match timeout_at(deadline.min(Instant::now() + POLL), states.next()).await {
                Ok(Some(Ok(client))) => Some(client),
                // Nothing is reported, or changes cannot be followed at the moment.
                _ => self.read_model.clients(&[id]).await?.pop().flatten(),
            };
            is_over = Instant::now() >= deadline;
        }
    }

    /// The clients after a position of a ranking, or the first ones. A page is never older than the request for it; requests
    /// that wait at the same time share one read.
    pub async fn page(&self, by: Ranking, after: Option<RankPosition>, first: usize) -> Result<Arc<ClientPage>, Error> {
        let read = read_page(self.read_model.clone(), by, after, first);
        self.pages.get((by, after, first), Duration::ZERO, read).await
    }
}

async fn read_page(
    read_model: Arc<dyn Queries>,
    by: Ranking,
    after: Option<RankPosition>,
    first: usize,
) -> Result<Arc<ClientPage>, Error> {
    // The first client of the ranking shows whether there is a previous page, and one more position whether there is a next one.
    let first_of_all =
        async { if after.is_some() { read_model.ranked_clients(by, None, 1).await } else { Ok(Vec::new()) } };
    let (first_of_all, mut positions) = try_join!(first_of_all, read_model.ranked_clients(by, after, first + 1))?;
    let id = |positions: &[RankPosition]| positions.first().map(|position| position.id);
    let has_previous_page = !first_of_all.is_empty() && id(&first_of_all) != id(&positions);
    let has_next_page = positions.len() > first;
    positions.truncate(first);
    let ids: Vec<i64> = positions.iter().map(|position| position.id).collect();
    let clients = read_model.cached_clients(&ids).await?;
    let clients = positions.into_iter().zip(clients).filter_map(|(position, client)| Some((position, client?)));
    Ok(Arc::new(ClientPage { clients: clients.collect(), has_previous_page, has_next_page }))
}

#[cfg(test)]
mod tests {
    use read_model::{Memory, Projection};
    use test_support::events::order_placed;
    use tokio::time::sleep;
    use tokio_util::sync::CancellationToken;

    use super::super::live::live;
    use super::*;

    /// Follows changes until it is dropped.
    struct Following(Arc<Clients>, tokio::task::JoinHandle<()>);

    impl Drop for Following {
        fn drop(&mut self) {
            self.1.abort();
        }
    }

    fn follow(read_model: Arc<dyn Queries>) -> Following {
        let (live_clients, updates) = live(read_model.clone());
        let clients = Arc::new(Clients::new(read_model, live_clients));
        Following(clients, tokio::spawn(updates.run(CancellationToken::new())))
    }

    #[tokio::test(start_paused = true)]
    async fn a_read_waits_until_the_client_has_reached_the_version() {
        let memory = Arc::new(Memory::default());
        let following = follow(memory.clone());
        let clients = &following.0;
        let waiting = tokio::spawn({
            let clients = clients.clone();
            async move { clients.at_version(1, 2, Duration::from_secs(60)).await }
        });
        memory.apply(&[order_placed(1, 2, &[(1, 1, 100)])]).await;
        sleep(2 * POLL).await;
        assert!(!waiting.is_finished(), "version 2 without version 1 is not enough");
        let applied = Instant::now();
        memory.apply(&[order_placed(1, 1, &[(1, 1, 100)])]).await;
        assert!(matches!(waiting.await.unwrap(), Ok(AtVersion::Reached(client)) if client.version == 2));
        assert!(applied.elapsed() < POLL, "{:?}", applied.elapsed());

        let short = Duration::from_millis(20);
        assert_eq!(clients.at_version(1, 3, short).await, Ok(AtVersion::Behind(2)));
        assert_eq!(clients.at_version(9, 1, short).await, Ok(AtVersion::Behind(0)));
    }

    #[tokio::test(start_paused = true)]
    async fn a_wait_ends_although_no_change_is_reported() {
        let memory = Arc::new(Memory::default());
        let (live_clients, _not_running) = live(memory.clone());
        let clients = Clients::new(memory.clone(), live_clients);
        let project = async {
            sleep(Duration::from_millis(1)).await;
            memory.apply(&[order_placed(1, 1, &[(1, 1, 100)])]).await;
        };
        let (read, _) = tokio::join!(clients.at_version(1, 1, Duration::from_secs(60)), project);
        assert!(matches!(read, Ok(AtVersion::Reached(client)) if client.version == 1));
    }
}
