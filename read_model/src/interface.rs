//! The two sides of the read model.

use std::collections::HashMap;

use entity::{Event, Subject};
use futures::stream::BoxStream;

use crate::{
    Applied, AppliedVersions, Client, Error, Health, OrderSummary, Product, ProjectorStatus, RankPosition, Ranking,
    Status, Sum,
};

/// The writing side, for the projector.
#[async_trait::async_trait]
pub trait Projection: Send + Sync {
    /// Applies events of the log and returns one result for each. An event is applied completely or not at all, and once: the order of events
    /// and repeated deliveries make no difference, at any time.
    async fn apply(&self, events: &[Event]) -> Vec<Result<Applied, Error>>;

    /// Applies events from the queue, whose senders are not trusted. Refuses those that
    /// [`check_version`](crate::rules::check_version) refuses.
    async fn apply_received(&self, events: &[Event]) -> Vec<Result<Applied, Error>> {
        self.apply(events).await
    }

    /// Stores what a projector reports about itself, for some seconds.
    async fn report(&self, _: &ProjectorStatus) -> Result<(), Error> {
        Ok(())
    }

    /// Checks that the store responds.
    async fn ping(&self) -> Result<(), Error>;

    /// Checks that the store responds, and returns its condition.
    async fn health(&self) -> Health {
        Health::of(self.ping().await)
    }
}

/// The reading side, for the api. It offers no way to change anything.
#[async_trait::async_trait]
pub trait Queries: Send + Sync {
    /// Reads clients in the order of `ids`, `None` for a client without events. One round trip.
    async fn clients(&self, ids: &[i64]) -> Result<Vec<Option<Client>>, Error>;

    /// Like [`Queries::clients`], but recently read clients come from the cache. A client in the cache is at most seconds behind,
    /// even after the store has stopped sending notifications.
    async fn cached_clients(&self, ids: &[i64]) -> Result<Vec<Option<Client>>, Error> {
        self.clients(ids).await
    }

    /// Returns at most `count` clients that follow the position `after`, or the first ones.
    async fn ranked_clients(
        &self,
        by: Ranking,
        after: Option<RankPosition>,
        count: usize,
    ) -> Result<Vec<RankPosition>, Error>;

    /// Returns the newest orders of each client, newest first, at most
    /// [`RECENT_ORDERS`](crate::rules::recent_orders::RECENT_ORDERS) of them.
    async fn recent_orders(&self, clients: &[i64], count: usize) -> Result<Vec<Vec<OrderSummary>>, Error>;

    /// Reads products in the order of `ids`, `None` for a product without events. One round trip.
    async fn products(&self, ids: &[i64]) -> Result<Vec<Option<Product>>, Error>;

    /// Returns the ids of all products, in ascending order. Takes time in proportion to their number.
    async fn catalogue_ids(&self) -> Result<Vec<i64>, Error>;

    /// Reads bucket pages of a [`Resolution`](crate::Resolution), each of one [`Side`](crate::Side). A page may end before its last
    /// bucket: the rest is empty.
    async fn buckets(&self, pages: &[String]) -> Result<Vec<Vec<Sum>>, Error>;

    /// Adds up the sales of each product over periods: days and months, named as by
    /// [`products_of_day`](crate::rules::periods::products_of_day), each of one [`Side`](crate::Side). Takes time in proportion to the
    /// number of their products.
    async fn product_sales(&self, periods: &[String]) -> Result<HashMap<i64, Sum>, Error>;

    /// Subscribes to the ids of changed clients, whichever process changes them. The stream ends when it can miss a change: then the
    /// caller subscribes again, and reads again what it has read before.
    async fn changes(&self) -> Result<BoxStream<'static, i64>, Error>;

    /// Returns which events of a client or a product are applied.
    async fn applied_versions(&self, subject: Subject) -> Result<AppliedVersions, Error>;

    /// Returns what operators see.
    async fn status(&self) -> Result<Status, Error>;

    /// Checks that the store responds.
    async fn ping(&self) -> Result<(), Error>;

    /// Checks that the store responds, and returns its condition.
    async fn health(&self) -> Health {
        Health::of(self.ping().await)
    }
}

/// Both sides, for a process or a test that writes and reads.
pub trait ReadModel: Projection + Queries {}

impl<T: Projection + Queries> ReadModel for T {}
