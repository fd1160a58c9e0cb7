//! The read model in memory: the standalone service uses it, and property tests compare Redis with it.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::{Mutex, MutexGuard, PoisonError};

use chrono::{DateTime, Utc};
use entity::{Change, Event, ProductChanged, Subject};
use futures::StreamExt;
use futures::stream::{self, BoxStream};
use tokio::sync::broadcast;
use tokio::time::Instant;
use uuid::Uuid;

use crate::rules::check_version;
use crate::rules::recent_orders::RECENT_ORDERS;
use crate::rules::sales::SalesDelta;
use crate::status::{REPORTED_WITHIN, in_order};
use crate::{
    Applied, AppliedVersions, Client, Error, Generations, OrderSummary, Product, ProjectedClient, Projection,
    ProjectorStatus, Queries, RankPosition, Ranking, Status, Sum,
};

/// The number of changes that a subscriber may be behind.
const BACKLOG: usize = 1024;

pub struct Memory {
    stored: Mutex<Stored>,
    changed: broadcast::Sender<i64>,
}

#[derive(Default)]
struct Stored {
    clients: HashMap<i64, ProjectedClient>,
    /// The newest orders of each client, by version.
    recent: HashMap<i64, BTreeMap<i32, OrderSummary>>,
    pages: HashMap<String, BucketPage>,
    /// By period and product.
    product_sales: HashMap<String, HashMap<i64, Sum>>,
    products: HashMap<i64, Product>,
    /// The last report of each projector, and when it was made.
    projectors: HashMap<Uuid, (Instant, ProjectorStatus)>,
}

#[derive(Default)]
struct BucketPage {
    expires_at: Option<DateTime<Utc>>,
    buckets: Vec<Sum>,
}

impl Memory {
    fn stored(&self) -> MutexGuard<'_, Stored> {
        self.stored.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn apply_to(&self, stored: &mut Stored, event: &Event) -> Result<Applied, Error> {
        let applied = stored.apply(event);
        if let (Ok(Applied::Now), Subject::Client(id)) = (&applied, event.subject()) {
            let _ = self.changed.send(id); // fails if there are no subscribers
        }
        applied
    }
}

impl Default for Memory {
    fn default() -> Memory {
        Memory { stored: Mutex::default(), changed: broadcast::Sender::new(BACKLOG) }
    }
}

impl Stored {
    /// The watermark of a client, or the version of a product.
    fn version_of(&self, subject: Subject) -> i32 {
        match subject {
            Subject::Client(id) => self.clients.get(&id).map_or(0, |projected| projected.client.version),
            Subject::Product(id) => self.products.get(&id).map_or(0, |product| product.version),
        }
    }

    fn apply(&mut self, event: &Event) -> Result<Applied, Error> {
        let client = match &event.data {
            Change::Product(product) => return Ok(self.put(product, event.version)),
            Change::Client(client) => client.client_id,
            Change::OrderPlaced(order) => order.client_id,
            Change::OrderCancelled(refund) | Change::OrderRefunded(refund) => refund.order.client_id,
        };
        let applied = self.clients.entry(client).or_insert_with(|| ProjectedClient::new(client)).apply(event)?;
        if applied == Applied::Now {
            let now = Utc::now();
            self.add_sales(event, now);
            self.add_recent(event);
            self.expire(now);
        }
        Ok(applied)
    }

    fn put(&mut self, product: &ProductChanged, version: i32) -> Applied {
        if self.products.get(&product.product_id).is_some_and(|stored| stored.version >= version) {
            return Applied::Before;
        }
        self.products.insert(product.product_id, Product::of(product, version));
        Applied::Now
    }

    fn add_sales(&mut self, event: &Event, now: DateTime<Utc>) {
        let mut delta = SalesDelta::default();
        delta.add(event, now);
        for ((page, bucket), delta) in delta.buckets {
            let page = self.pages.entry(page).or_default();
            page.expires_at = delta.expires_at;
            if page.buckets.len() <= bucket {
                page.buckets.resize(bucket + 1, Sum::default());
            }
            page.buckets[bucket].add(delta.sum);
        }
        for ((period, product), sum) in delta.products {
            self.product_sales.entry(period).or_default().entry(product).or_default().add(sum);
        }
    }

    fn add_recent(&mut self, event: &Event) {
        let Some(order) = event.order() else { return };
        let recent = self.recent.entry(order.client_id).or_default();
        recent.insert(event.version, OrderSummary::of(order, event.time));
        if recent.len() > RECENT_ORDERS {
            recent.pop_first();
        }
    }

    /// Removes the bucket pages that have expired.
    fn expire(&mut self, now: DateTime<Utc>) {
        self.pages.retain(|_, page| page.expires_at.is_none_or(|expires_at| expires_at > now));
    }
}

#[async_trait::async_trait]
impl Projection for Memory {
    async fn apply(&self, events: &[Event]) -> Vec<Result<Applied, Error>> {
        let mut stored = self.stored();
        events.iter().map(|event| self.apply_to(&mut stored, event)).collect()
    }

    async fn apply_received(&self, events: &[Event]) -> Vec<Result<Applied, Error>> {
        let mut stored = self.stored();
        let apply = |event: &Event| {
            check_version(event, stored.version_of(event.subject()))?;
            self.apply_to(&mut stored, event)
        };
        events.iter().map(apply).collect()
    }

    async fn report(&self, status: &ProjectorStatus) -> Result<(), Error> {
        let mut stored = self.stored();
        stored.projectors.retain(|_, (at, _)| at.elapsed() < REPORTED_WITHIN);
        stored.projectors.insert(status.id, (Instant::now(), status.clone()));
        Ok(())
    }

    async fn ping(&self) -> Result<(), Error> {
        Ok(())
    }
}

#[async_trait::async_trait]
impl Queries for Memory {
    async fn clients(&self, ids: &[i64]) -> Result<Vec<Option<Client>>, Error> {
        let stored = self.stored();
        Ok(ids.iter().map(|id| stored.clients.get(id).map(|projected| projected.client.clone())).collect())
    }

    async fn ranked_clients(
        &self,
        by: Ranking,
        after: Option<RankPosition>,
        count: usize,
    ) -> Result<Vec<RankPosition>, Error> {
        let stored = self.stored();
        let position = |client: &Client| RankPosition { rank: client.rank(by), id: client.id };
        let positions = stored.clients.values().map(|projected| position(&projected.client));
        let mut positions: Vec<RankPosition> =
            positions.filter(|position| after.is_none_or(|after| after.order(position).is_lt())).collect();
        positions.sort_unstable_by(RankPosition::order);
        positions.truncate(count);
        Ok(positions)
    }

    async fn recent_orders(&self, clients: &[i64], count: usize) -> Result<Vec<Vec<OrderSummary>>, Error> {
        let stored = self.stored();
        let recent = |id| stored.recent.get(id).into_iter().flat_map(BTreeMap::values).rev().take(count).cloned();
        Ok(clients.iter().map(|id| recent(id).collect()).collect())
    }

    async fn products(&self, ids: &[i64]) -> Result<Vec<Option<Product>>, Error> {
        let stored = self.stored();
        Ok(ids.iter().map(|id| stored.products.get(id).cloned()).collect())
    }

    async fn catalogue_ids(&self) -> Result<Vec<i64>, Error> {
        let mut ids: Vec<i64> = self.stored().products.keys().copied().collect();
        ids.sort_unstable();
        Ok(ids)
    }

    async fn buckets(&self, pages: &[String]) -> Result<Vec<Vec<Sum>>, Error> {
        let mut stored = self.stored();
        stored.expire(Utc::now());
        Ok(pages
            .iter()
            .map(|page| stored.pages.get(page).map(|page| page.buckets.clone()).unwrap_or_default())
            .collect())
    }

    async fn product_sales(&self, periods: &[String]) -> Result<HashMap<i64, Sum>, Error> {
        let (stored, mut sum) = (self.stored(), HashMap::<i64, Sum>::new());
        for (product, sold) in periods.iter().filter_map(|period| stored.product_sales.get(period)).flatten() {
            sum.entry(*product).or_default().add(*sold);
        }
        Ok(sum)
    }

    async fn changes(&self) -> Result<BoxStream<'static, i64>, Error> {
        let next = async |mut changed: broadcast::Receiver<i64>| changed.recv().await.ok().map(|id| (id, changed));
        Ok(stream::unfold(self.changed.subscribe(), next).boxed())
    }

    async fn applied_versions(&self, subject: Subject) -> Result<AppliedVersions, Error> {
        let stored = self.stored();
        let ahead = match subject {
            Subject::Client(id) => stored.clients.get(&id).map(|projected| projected.ahead.clone()).unwrap_or_default(),
            Subject::Product(_) => BTreeSet::new(),
        };
        Ok(AppliedVersions { watermark: stored.version_of(subject), ahead })
    }

    async fn status(&self) -> Result<Status, Error> {
        let stored = self.stored();
        let recent = stored.projectors.values().filter(|(at, _)| at.elapsed() < REPORTED_WITHIN);
        let projectors = in_order(recent.map(|(_, status)| status.clone()).collect());
        Ok(Status { generations: Generations::first(0), replayed: None, sweep: None, wrong_sums: 0, projectors })
    }

    async fn ping(&self) -> Result<(), Error> {
        Ok(())
    }
}
