//! The read model in memory: what the standalone service uses, and the specification of what Redis must do.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use chrono::{DateTime, Utc};
use entity::{Change, Event, OrderPlaced, ProductChanged, Subject};
use futures::StreamExt;
use futures::stream::{self, BoxStream};
use tokio::sync::broadcast;
use uuid::Uuid;

use crate::sales::{self, Effects, OrderSummary, RECENT_ORDERS, StoredOrder, Sum};
use crate::{Applied, Client, Error, Product, RankPosition, Ranking, ReadModel};

/// Changes that a reader of [`ReadModel::changes`] may be behind.
const BACKLOG: usize = 1024;

pub struct Memory {
    stored: Mutex<Stored>,
    keep_orders: Duration,
    changed: broadcast::Sender<i64>,
}

#[derive(Default)]
struct Stored {
    clients: HashMap<i64, ProjectedClient>,
    /// The newest of each client, by version.
    recent: HashMap<i64, BTreeMap<i32, OrderSummary>>,
    orders: HashMap<Uuid, StoredOrder>,
    /// The orders, by the time when they go.
    leaving: BTreeSet<(DateTime<Utc>, Uuid)>,
    pages: HashMap<String, Page>,
    sold: HashMap<String, HashMap<i64, Sum>>,
    products: HashMap<i64, Product>,
}

#[derive(Default)]
struct Page {
    until: Option<DateTime<Utc>>,
    cells: Vec<Sum>,
}

impl Memory {
    /// `keep_orders` is for how long they are kept whole.
    pub fn new(keep_orders: Duration) -> Memory {
        Memory { stored: Mutex::default(), keep_orders, changed: broadcast::Sender::new(BACKLOG) }
    }

    fn stored(&self) -> MutexGuard<'_, Stored> {
        self.stored.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Default for Memory {
    /// Orders are kept for ever.
    fn default() -> Memory {
        Memory::new(Duration::MAX)
    }
}

impl Stored {
    fn apply(&mut self, event: &Event, keep_orders: Duration) -> Result<Applied, Error> {
        let client = match &event.data {
            Change::Product(product) => return Ok(self.put(product, event.version)),
            Change::Client(client) => client.client_id,
            Change::OrderPlaced(order) => order.client_id,
        };
        let applied = self.clients.entry(client).or_insert_with(|| ProjectedClient::new(client)).apply(event)?;
        if let (Applied::Now, Some(order)) = (applied, event.order()) {
            let now = Utc::now();
            self.count(order, event, now, keep_orders);
            self.forget(now);
        }
        Ok(applied)
    }

    fn put(&mut self, product: &ProductChanged, version: i32) -> Applied {
        let ProductChanged { product_id: id, ref name, price, .. } = *product;
        if self.products.get(&id).is_some_and(|stored| stored.version >= version) {
            return Applied::Before;
        }
        self.products.insert(id, Product { id, name: name.clone(), price, version });
        Applied::Now
    }

    fn count(&mut self, order: &OrderPlaced, event: &Event, now: DateTime<Utc>, keep_orders: Duration) {
        let mut effects = Effects::default();
        effects.add(order, event.time, now);
        for ((page, cell), counted) in effects.counted {
            let page = self.pages.entry(page).or_default();
            page.until = counted.until;
            if page.cells.len() <= cell {
                page.cells.resize(cell + 1, Sum::default());
            }
            page.cells[cell].add(counted.sum);
        }
        for ((period, product), sold) in effects.sold {
            self.sold.entry(period).or_default().entry(product).or_default().add(sold);
        }
        let recent = self.recent.entry(order.client_id).or_default();
        recent.insert(event.version, OrderSummary::of(order, event.time));
        if recent.len() > RECENT_ORDERS {
            recent.pop_first();
        }
        if let Some(until) = sales::kept_until(event.time, now, keep_orders) {
            self.orders.insert(order.order_id, StoredOrder { time: event.time, order: order.clone() });
            self.leaving.insert((until, order.order_id));
        }
    }

    /// What was to be kept until now.
    fn forget(&mut self, now: DateTime<Utc>) {
        while let Some((until, id)) = self.leaving.pop_first() {
            if until > now {
                self.leaving.insert((until, id));
                break;
            }
            self.orders.remove(&id);
        }
        self.pages.retain(|_, page| page.until.is_none_or(|until| until > now));
    }
}

/// A client with what projecting needs to know besides.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ProjectedClient {
    pub client: Client,
    /// The largest version applied: name and e-mail are from it.
    pub newest: i32,
    /// Versions applied above the watermark, where there is a gap. Empty as soon as the gap closes.
    pub ahead: BTreeSet<i32>,
}

impl ProjectedClient {
    /// A client of which no event has been applied.
    pub fn new(id: i64) -> ProjectedClient {
        let (name, email) = Default::default();
        let client = Client { id, name, email, total: 0, order_count: 0, last_purchase: None, version: 0 };
        ProjectedClient { client, newest: 0, ahead: BTreeSet::new() }
    }

    /// Whether the event of this version has been applied.
    pub fn has(&self, version: i32) -> bool {
        version <= self.client.version || self.ahead.contains(&version)
    }

    /// The rules, for an event of this client. `apply.lua` says the same.
    pub fn apply(&mut self, event: &Event) -> Result<Applied, Error> {
        if self.has(event.version) {
            return Ok(Applied::Before);
        }
        let client = &mut self.client;
        if let Some(order) = event.order() {
            client.total = (client.total.checked_add(order.total))
                .ok_or_else(|| Error::Damaged(format!("the total of client {} overflows", client.id)))?;
            client.order_count += 1;
            client.last_purchase = client.last_purchase.max(Some(event.time));
        }
        if let Some(details) = event.client().filter(|_| event.version > self.newest) {
            self.newest = event.version;
            details.name.clone_into(&mut client.name);
            details.email.clone_into(&mut client.email);
        }
        self.ahead.insert(event.version);
        while self.ahead.remove(&(client.version + 1)) {
            client.version += 1;
        }
        Ok(Applied::Now)
    }
}

#[async_trait::async_trait]
impl ReadModel for Memory {
    async fn apply(&self, events: &[Event]) -> Vec<Result<Applied, Error>> {
        let mut stored = self.stored();
        let apply = |event: &Event| {
            let applied = stored.apply(event, self.keep_orders);
            if let (Ok(Applied::Now), Subject::Client(id)) = (&applied, event.subject()) {
                let _ = self.changed.send(id); // where nobody listens, nobody needs to know
            }
            applied
        };
        events.iter().map(apply).collect()
    }

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
        let place = |client: &Client| {
            let rank = match by {
                Ranking::Total => client.total,
                Ranking::LastPurchase => client.last_purchase.map_or(0, |time| time.timestamp_millis()),
            };
            RankPosition { rank, id: client.id }
        };
        let places = stored.clients.values().map(|projected| place(&projected.client));
        let mut places: Vec<RankPosition> =
            places.filter(|place| after.is_none_or(|after| after.order(place).is_lt())).collect();
        places.sort_unstable_by(RankPosition::order);
        places.truncate(count);
        Ok(places)
    }

    async fn recent_orders(&self, clients: &[i64], count: usize) -> Result<Vec<Vec<OrderSummary>>, Error> {
        let stored = self.stored();
        let recent = |id| stored.recent.get(id).into_iter().flat_map(BTreeMap::values).rev().take(count).cloned();
        Ok(clients.iter().map(|id| recent(id).collect()).collect())
    }

    async fn order(&self, id: Uuid, client: Option<i64>) -> Result<Option<StoredOrder>, Error> {
        let mut stored = self.stored();
        stored.forget(Utc::now());
        let of_client = |kept: &&StoredOrder| client.is_none_or(|client| kept.order.client_id == client);
        Ok(stored.orders.get(&id).filter(of_client).cloned())
    }

    async fn products(&self, ids: &[i64]) -> Result<Vec<Option<Product>>, Error> {
        let stored = self.stored();
        Ok(ids.iter().map(|id| stored.products.get(id).cloned()).collect())
    }

    async fn buckets(&self, pages: &[String]) -> Result<Vec<Vec<Sum>>, Error> {
        let mut stored = self.stored();
        stored.forget(Utc::now());
        Ok(pages.iter().map(|page| stored.pages.get(page).map(|page| page.cells.clone()).unwrap_or_default()).collect())
    }

    async fn product_sales(&self, periods: &[String]) -> Result<HashMap<i64, Sum>, Error> {
        let (stored, mut sum) = (self.stored(), HashMap::<i64, Sum>::new());
        for (product, sold) in periods.iter().filter_map(|period| stored.sold.get(period)).flatten() {
            sum.entry(*product).or_default().add(*sold);
        }
        Ok(sum)
    }

    async fn changes(&self) -> Result<BoxStream<'static, i64>, Error> {
        let next = async |mut changed: broadcast::Receiver<i64>| changed.recv().await.ok().map(|id| (id, changed));
        Ok(stream::unfold(self.changed.subscribe(), next).boxed())
    }

    async fn ping(&self) -> Result<(), Error> {
        Ok(())
    }
}
