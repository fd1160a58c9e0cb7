//! Reads of clients: by id, at a version, and page by page of a ranking.

use std::sync::Arc;
use std::time::Duration;

use read_model::{Client, Error, OrderSummary, Queries, RankPosition, Ranking};
use runtime::single_flight::SingleFlight;
use tokio::time::{Instant, sleep_until};

use super::recent_orders::RecentOrders;

/// Pages of which the newest result is remembered.
const PAGES: usize = 32;
/// Pauses between two reads of a client that has not reached a version yet.
const FIRST_PAUSE: Duration = Duration::from_millis(2);
const MAX_PAUSE: Duration = Duration::from_millis(20);

/// A part of a ranking.
#[derive(Debug)]
pub struct ClientPage {
    pub clients: Vec<(RankPosition, Client)>,
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
    pages: SingleFlight<(Ranking, Option<RankPosition>, usize), Arc<ClientPage>, Error>,
    recent_orders: RecentOrders,
}

impl Clients {
    pub fn new(read_model: Arc<dyn Queries>) -> Clients {
        let recent_orders = RecentOrders::new(read_model.clone());
        Clients { read_model, pages: SingleFlight::new(PAGES), recent_orders }
    }

    /// The newest orders of a client, newest first. Reads for several clients share a round trip.
    pub async fn recent_orders(&self, id: i64, count: usize) -> Result<Vec<OrderSummary>, Error> {
        self.recent_orders.of(id, count).await
    }

    /// The clients with these ids, in the same order, from the cache if they are in it. `None` if the read model does not
    /// have a client.
    pub async fn by_ids(&self, ids: &[i64]) -> Result<Vec<Option<Client>>, Error> {
        self.read_model.cached_clients(ids).await
    }

    /// The client once it includes every event up to `min_version`. Waits for that at most `wait`.
    pub async fn at_version(&self, id: i64, min_version: i32, wait: Duration) -> Result<AtVersion, Error> {
        let deadline = Instant::now() + wait;
        let version = |client: &Option<Client>| client.as_ref().map_or(0, |client| client.version);
        let mut client = self.read_model.cached_clients(&[id]).await?.pop().flatten();
        if version(&client) < min_version {
            client = self.read_model.clients(&[id]).await?.pop().flatten();
        }
        let mut pause = FIRST_PAUSE;
        loop {
            let reached = version(&client);
            match client {
                Some(client) if reached >= min_version => return Ok(AtVersion::Reached(client)),
                _ if Instant::now() >= deadline => return Ok(AtVersion::Behind(reached)),
                _ => sleep_until(deadline.min(Instant::now() + pause)).await,
            }
            pause = (pause * 2).min(MAX_PAUSE);
            client = self.read_model.clients(&[id]).await?.pop().flatten();
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
    // One more position shows whether there is a next page.
    let mut positions = read_model.ranked_clients(by, after, first + 1).await?;
    let has_next_page = positions.len() > first;
    positions.truncate(first);
    let ids: Vec<i64> = positions.iter().map(|position| position.id).collect();
    let clients = read_model.cached_clients(&ids).await?;
    let clients = positions.into_iter().zip(clients).filter_map(|(position, client)| Some((position, client?)));
    Ok(Arc::new(ClientPage { clients: clients.collect(), has_next_page }))
}

#[cfg(test)]
mod tests {
    use read_model::{Memory, Projection};
    use test_support::events::order_placed;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_read_waits_until_the_client_has_reached_the_version() {
        let memory = Arc::new(Memory::default());
        let clients = Arc::new(Clients::new(memory.clone()));
        let waiting = tokio::spawn({
            let clients = clients.clone();
            async move { clients.at_version(1, 2, Duration::from_secs(60)).await }
        });
        memory.apply(&[order_placed(1, 2, &[(1, 1, 100)])]).await;
        tokio::time::sleep(2 * MAX_PAUSE).await;
        assert!(!waiting.is_finished(), "version 2 without version 1 is not enough");
        memory.apply(&[order_placed(1, 1, &[(1, 1, 100)])]).await;
        assert!(matches!(waiting.await.unwrap(), Ok(AtVersion::Reached(client)) if client.version == 2));

        let short = Duration::from_millis(20);
        assert_eq!(clients.at_version(1, 3, short).await, Ok(AtVersion::Behind(2)));
        assert_eq!(clients.at_version(9, 1, short).await, Ok(AtVersion::Behind(0)));
    }
}
