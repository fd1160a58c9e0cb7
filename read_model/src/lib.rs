//! What queries read: [`ReadModel`], kept in Redis ([`Redis`]) or in memory ([`Memory`]).
//!
//! The rules of projecting an event are in [`memory`], which is the specification, and once more in `apply.lua`, which
//! Redis runs as one atomic step; what an order counts for besides its client says [`sales`]. A product is what its newest
//! event says. The test in `tests/` feeds both the same histories and compares.

pub mod batch;
mod client_cache;
mod connection;
pub mod generations;
pub mod memory;
pub mod redis;
pub mod sales;
mod settings;

use std::cmp::Ordering;
use std::collections::HashMap;
use std::time::Duration;

use chrono::{DateTime, Utc};
use entity::Event;
use futures::stream::BoxStream;
use tokio::time::Instant;
use uuid::Uuid;

use crate::sales::{OrderSummary, StoredOrder, Sum};

pub use connection::Cursor;
pub use generations::Generations;
pub use memory::{Memory, ProjectedClient};
pub use redis::{ConnectError, Redis};
pub use settings::RedisSettings;

/// A client as its events made it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Client {
    pub id: i64,
    pub name: String,
    pub email: String,
    /// The sum over all orders, in minor units.
    pub total: i64,
    pub order_count: i64,
    pub last_purchase: Option<DateTime<Utc>>,
    /// The watermark: every event up to this version is included. Later ones may be, when they arrived out of order.
    pub version: i32,
}

/// A product as its newest event made it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Product {
    pub id: i64,
    pub name: String,
    /// Minor units.
    pub price: i64,
    pub version: i32,
}

/// In which order clients are ranked: from the largest to the smallest, and of equals from the largest id as text.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Ranking {
    /// What all orders of a client add up to.
    Total,
    /// When it placed its newest order; 0 where there is none.
    LastPurchase,
}

/// A client's place in a [`Ranking`], which another may have by now. Minor units or ms since 1970, exact to 53 bits.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct RankPosition {
    pub rank: i64,
    pub id: i64,
}

impl RankPosition {
    /// `Less` where it comes before the other.
    fn order(&self, other: &RankPosition) -> Ordering {
        other.rank.cmp(&self.rank).then_with(|| other.id.to_string().cmp(&self.id.to_string()))
    }
}

/// What became of an event.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Applied {
    Now,
    /// It had been applied before; nothing changed.
    Before,
}

#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// Nothing is wrong with the request: the store is down, full, loading or misconfigured. The same again later.
    #[error("the read model is unavailable: {0}")]
    Unavailable(String),
    /// The stored data do not allow it. Nothing was changed and repeating will not help.
    #[error("the read model is damaged: {0}")]
    Damaged(String),
}

#[async_trait::async_trait]
pub trait ReadModel: Send + Sync {
    /// Applies events and returns one result for each. An event is applied wholly or not at all, and once: order and
    /// repetition do not matter, for ever.
    async fn apply(&self, events: &[Event]) -> Vec<Result<Applied, Error>>;

    /// The clients of these ids, in their order, `None` where nothing was projected. One round trip.
    async fn clients(&self, ids: &[i64]) -> Result<Vec<Option<Client>>, Error>;

    /// The same, as of a moment ago: what was read lately need not be read again. Where the store does not tell any more of
    /// what changes, that is noticed within seconds.
    async fn cached_clients(&self, ids: &[i64]) -> Result<Vec<Option<Client>>, Error> {
        self.clients(ids).await
    }

    /// The clients that follow a place, or the first ones.
    async fn ranked_clients(
        &self,
        by: Ranking,
        after: Option<RankPosition>,
        count: usize,
    ) -> Result<Vec<RankPosition>, Error>;

    /// The newest orders of each of these clients, newest first; no more than [`sales::RECENT_ORDERS`] are told.
    async fn recent_orders(&self, clients: &[i64], count: usize) -> Result<Vec<Vec<OrderSummary>>, Error>;

    /// An order, while it is kept; quicker where it is known whose.
    async fn order(&self, id: Uuid, client: Option<i64>) -> Result<Option<StoredOrder>, Error>;

    /// The products of these ids, in their order, `None` where nothing was projected. One round trip.
    async fn products(&self, ids: &[i64]) -> Result<Vec<Option<Product>>, Error>;

    /// The cells of some pages of a [`sales::Resolution`], each as far as there is something.
    async fn buckets(&self, pages: &[String]) -> Result<Vec<Vec<Sum>>, Error>;

    /// What was sold of each product in all of these days and months, all read at once.
    async fn product_sales(&self, periods: &[String]) -> Result<HashMap<i64, Sum>, Error>;

    /// The ids of clients that events change, from now on, whichever process applies them. Ends when it can no longer
    /// tell of every change: what was read before must then be read anew.
    async fn changes(&self) -> Result<BoxStream<'static, i64>, Error>;

    /// Whether the store answers.
    async fn ping(&self) -> Result<(), Error>;
}

/// The outcome of [`client_at`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Awaited {
    Reached(Client),
    /// Still at this version when the time was up; 0 when nothing was projected for the client.
    Behind(i32),
}

/// Reads a client once it includes every event up to `min_version`, waiting at most `wait`.
pub async fn client_at(
    read_model: &dyn ReadModel,
    id: i64,
    min_version: i32,
    wait: Duration,
) -> Result<Awaited, Error> {
    let deadline = Instant::now() + wait;
    let mut pause = Duration::from_millis(2);
    let version = |client: &Option<Client>| client.as_ref().map_or(0, |client| client.version);
    // What was read lately may be older than what is there, but not newer.
    let mut client = read_model.cached_clients(&[id]).await?.pop().flatten();
    if version(&client) < min_version {
        client = read_model.clients(&[id]).await?.pop().flatten();
    }
    loop {
        let reached = version(&client);
        match client {
            Some(client) if reached >= min_version => return Ok(Awaited::Reached(client)),
            _ if Instant::now() >= deadline => return Ok(Awaited::Behind(reached)),
            _ => tokio::time::sleep_until(deadline.min(Instant::now() + pause)).await,
        }
        pause = (pause * 2).min(Duration::from_millis(20));
        client = read_model.clients(&[id]).await?.pop().flatten();
    }
}
