//! What dashboards ask for, read once for all who ask the same.
//!
//! - What was sold over some time is read once a second at most, and days and months that are over once a minute. An order that
//!   comes late counts there within two.
//! - A page of clients is as of now, but those who wait while it is read are answered together by the next read.

use std::cmp::Reverse;
use std::collections::HashMap;
use std::convert::Infallible;
use std::hash::Hash;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use async_graphql::Enum;
use chrono::{DateTime, NaiveDate, Utc};
use entity::product;
use futures::{StreamExt, TryStreamExt, stream};
use quick_cache::Weighter;
use quick_cache::sync::Cache;
use read_model::reports::{self as sales_reports, Granularity, periods};
use read_model::rules::sales;
use read_model::{RankPosition, Ranking, Sum};
use sea_orm::{ColumnTrait, EntityTrait, QueryFilter};
use tokio::sync::Mutex;
use tracing::warn;

use super::types::client::ClientConnection;
use super::types::product::Product;
use super::types::sales::{ProductSales, SalesReport};
use super::{App, MAX_PAGE};
use crate::graphql::error::Error;

/// How long an answer is given again.
const FRESH: Duration = Duration::from_secs(1);
/// How long what was sold on a day, or in a month, that is over is not read again.
const OVER: Duration = Duration::from_secs(60);
/// Answers that are kept at most, of each kind.
const ANSWERS: usize = 32;
/// Products of days, months and more that are kept at most, of 50 bytes each or so; and of how many of these.
const PRODUCTS: u64 = 2_000_000;
const PERIODS: usize = 1_000;
/// Days and months that are read at once: each keeps Redis for a while.
const AT_ONCE: usize = 2;

type Sold = Arc<HashMap<i64, Sum>>;
/// Which days, from the first to the last, and when that was asked for.
type Asked = (NaiveDate, NaiveDate, Slot);
/// Failures as well: whoever asked meanwhile need not wait for another.
type Answer<T> = Result<Arc<T>, Error>;
type Answers<K, T> = Arc<Cache<K, Answer<T>>>;

#[derive(Clone)]
struct Products;

impl Weighter<(String, Slot), Sold> for Products {
    fn weight(&self, _period: &(String, Slot), sold: &Sold) -> u64 {
        sold.len() as u64 + 1
    }
}

/// By what products are ranked.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Enum)]
pub enum ProductRank {
    /// By what they brought in.
    Revenue,
    /// By how many pieces were sold.
    Units,
}

pub struct Reports {
    app: App,
    sales: Answers<(Asked, Granularity), SalesReport>,
    top: Answers<(Asked, ProductRank), Vec<ProductSales>>,
    pages: Cache<(Ranking, Option<RankPosition>, usize), Arc<Joint<ClientConnection>>>,
    /// Days and months, and several that are over together.
    periods: Cache<(String, Slot), Sold, Products>,
}

/// A time, as long as something is not read again: what was kept in another is not found any more.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
struct Slot(i64);

impl Slot {
    fn of(now: DateTime<Utc>, length: Duration) -> Slot {
        Slot(now.timestamp_millis() / length.as_millis() as i64)
    }

    fn before(self) -> Slot {
        Slot(self.0 - 1)
    }
}

/// What is read once for all who wait for it.
struct Joint<T> {
    /// Reads that have begun.
    begun: AtomicU64,
    /// The last read that ended, by its number, and what it told.
    last: Mutex<Option<(u64, Answer<T>)>>,
}

impl<T> Joint<T> {
    fn new() -> Joint<T> {
        Joint { begun: AtomicU64::new(0), last: Mutex::new(None) }
    }

    /// What a read tells that begins after this was called, whoever began it.
    async fn get(&self, read: impl Future<Output = Result<T, Error>>) -> Answer<T> {
        let begun = self.begun.load(Ordering::SeqCst);
        let mut last = self.last.lock().await;
        if let Some((_, answer)) = last.as_ref().filter(|(number, _)| *number > begun) {
            return answer.clone();
        }
        let number = self.begun.fetch_add(1, Ordering::SeqCst) + 1;
        let answer = read.await.map(Arc::new);
        *last = Some((number, answer.clone()));
        answer
    }
}

/// What others wait for is read on, also when whoever asked first does not: a connection that takes no answers polls nothing.
async fn detached<T: Send + Sync + 'static>(answer: impl Future<Output = Answer<T>> + Send + 'static) -> Answer<T> {
    tokio::spawn(answer).await.unwrap_or_else(|panic| Err(Error::internal(&panic)))
}

/// An answer that is kept under a key, or read, once for all who ask meanwhile.
async fn kept<K: Clone + Eq + Hash + Send + Sync + 'static, T: Send + Sync + 'static>(
    answers: &Answers<K, T>,
    key: K,
    read: impl Future<Output = Result<T, Error>> + Send + 'static,
) -> Answer<T> {
    if let Some(answer) = answers.get(&key) {
        return answer;
    }
    let answers = answers.clone();
    detached(async move {
        let read = async { Ok(read.await.map(Arc::new)) };
        answers.get_or_insert_async::<_, Infallible>(&key, read).await.unwrap_or_else(|never| match never {})
    })
    .await
}

impl Reports {
    pub fn new(app: App) -> Arc<Reports> {
        let periods = Cache::with_weighter(PERIODS, PRODUCTS, Products);
        let (sales, top) = (Arc::new(Cache::new(ANSWERS)), Arc::new(Cache::new(ANSWERS)));
        let pages = Cache::new(ANSWERS);
        Arc::new(Reports { app, sales, top, pages, periods })
    }

    /// The clients that follow a place in a ranking, or the first ones.
    pub async fn clients(
        self: &Arc<Self>,
        by: Ranking,
        after: Option<RankPosition>,
        first: usize,
    ) -> Answer<ClientConnection> {
        let page = self.pages.get_or_insert_with::<_, Infallible>(&(by, after, first), || Ok(Arc::new(Joint::new())));
        let (page, reports) = (page.unwrap_or_else(|never| match never {}), self.clone());
        detached(async move { page.get(reports.page(by, after, first)).await }).await
    }

    async fn page(&self, by: Ranking, after: Option<RankPosition>, first: usize) -> Result<ClientConnection, Error> {
        // One more than asked for tells whether there is a next page.
        let mut places = self.app.read_model.ranked_clients(by, after, first + 1).await?;
        let has_next_page = places.len() > first;
        places.truncate(first);
        let ids: Vec<i64> = places.iter().map(|place| place.id).collect();
        let clients = self.app.read_model.cached_clients(&ids).await?;
        let clients = places.into_iter().zip(clients).filter_map(|(place, client)| Some((place, client?)));
        Ok(ClientConnection::new(clients, by, after.is_some(), has_next_page, self.app.currency))
    }

    /// As [`sales_reports::report`].
    pub async fn sales(
        self: &Arc<Self>,
        from: NaiveDate,
        to: NaiveDate,
        granularity: Granularity,
    ) -> Answer<SalesReport> {
        let key = ((from, to, Slot::of(Utc::now(), FRESH)), granularity);
        let reports = self.clone();
        kept(&self.sales, key, async move {
            let report = sales_reports::report(&*reports.app.read_model, from, to, granularity).await?;
            Ok(SalesReport::new(&report, reports.app.currency))
        })
        .await
    }

    /// The products of which most was sold from the first day to the last, both included: [`MAX_PAGE`] of them.
    pub async fn top(self: &Arc<Self>, from: NaiveDate, to: NaiveDate, by: ProductRank) -> Answer<Vec<ProductSales>> {
        let (now, reports) = (Utc::now(), self.clone());
        let key = ((from, to, Slot::of(now, FRESH)), by);
        kept(&self.top, key, async move {
            let mut sold: Vec<(i64, Sum)> = reports.products(from, to, now).await?.into_iter().collect();
            let rank = |(id, sold): &(i64, Sum)| match by {
                ProductRank::Revenue => (Reverse(sold.revenue), Reverse(sold.count), *id),
                ProductRank::Units => (Reverse(sold.count), Reverse(sold.revenue), *id),
            };
            if sold.len() > MAX_PAGE {
                sold.select_nth_unstable_by_key(MAX_PAGE, rank);
                sold.truncate(MAX_PAGE);
            }
            sold.sort_unstable_by_key(rank);
            let ids: Vec<i64> = sold.iter().map(|(id, _)| *id).collect();
            let mut products = reports.projected_products(&ids).await?;
            let sales = |(id, sold)| Some(ProductSales::new(products.remove(&id)?, sold, reports.app.currency));
            Ok(sold.into_iter().filter_map(sales).collect())
        })
        .await
    }

    /// Products by their ids, as the read model has them. Those that have no event, because they are older than that or were
    /// put into the database by hand, are read from there.
    async fn projected_products(&self, ids: &[i64]) -> Result<HashMap<i64, Product>, Error> {
        let App { read_model, db, currency, .. } = &self.app;
        let projected = read_model.products(ids).await?.into_iter().flatten();
        let row = |read_model::Product { id, name, price, version }| product::Model { id, name, price, version };
        let mut rows: Vec<product::Model> = projected.map(row).collect();
        let is_known = |id: &i64| rows.iter().any(|row| row.id == *id);
        let unknown: Vec<i64> = ids.iter().copied().filter(|id| !is_known(id)).collect();
        if !unknown.is_empty() {
            rows.extend(product::Entity::find().filter(product::Column::Id.is_in(unknown)).all(db).await?);
        }
        Ok(rows.into_iter().map(|row| (row.id, Product::new(row, *currency))).collect())
    }

    /// What was sold of each product from the first day to the last, both included.
    async fn products(
        self: &Arc<Self>,
        from: NaiveDate,
        to: NaiveDate,
        now: DateTime<Utc>,
    ) -> Result<HashMap<i64, Sum>, read_model::Error> {
        // Also one day later: clocks may differ, and what was placed then arrives now.
        let (today, yesterday) = (now.date_naive(), now.date_naive().pred_opt().unwrap_or_default());
        let going_on = [today, yesterday].map(|day| [sales::products_of_day(day), sales::products_of_month(day)]);
        let going_on = going_on.concat();
        let (current, over): (Vec<_>, Vec<_>) =
            periods(from, to).into_iter().partition(|period| going_on.contains(period));
        let over = self.over(format!("{from} to {to} as of {today}"), Slot::of(now, OVER), over).await?;
        let current = self.sold(current, Slot::of(now, FRESH)).await?;
        Ok(add_up([&*over, &current]))
    }

    /// What was sold in several periods that are over, under a name of their own. While they are read again it is told once
    /// more what was kept before.
    async fn over(self: &Arc<Self>, name: String, slot: Slot, periods: Vec<String>) -> Result<Sold, read_model::Error> {
        let (key, before) = ((name.clone(), slot), self.periods.get(&(name, slot.before())));
        let (reports, is_kept) = (self.clone(), self.periods.get(&key).is_some());
        let read = async move {
            let read = async { Ok(Arc::new(reports.sold(periods, slot).await?)) };
            reports.periods.get_or_insert_async(&key, read).await
        };
        match before.filter(|_| !is_kept) {
            Some(before) => {
                tokio::spawn(async {
                    if let Err(error) = read.await {
                        warn!("what was sold on days that are over could not be read again: {error}");
                    }
                });
                Ok(before)
            }
            None => read.await,
        }
    }

    async fn sold(&self, periods: Vec<String>, slot: Slot) -> Result<HashMap<i64, Sum>, read_model::Error> {
        let each = periods.into_iter().map(async |period| {
            let key = (period, slot);
            let read = async { self.app.read_model.product_sales(std::slice::from_ref(&key.0)).await.map(Arc::new) };
            self.periods.get_or_insert_async(&key, read).await
        });
        let each: Vec<Sold> = stream::iter(each.collect::<Vec<_>>()).buffered(AT_ONCE).try_collect().await?;
        Ok(add_up(each.iter().map(Arc::as_ref)))
    }
}

fn add_up<'a>(parts: impl IntoIterator<Item = &'a HashMap<i64, Sum>>) -> HashMap<i64, Sum> {
    let mut all: HashMap<i64, Sum> = HashMap::new();
    for part in parts {
        part.iter().for_each(|(product, sum)| all.entry(*product).or_default().add(*sum));
    }
    all
}

#[cfg(test)]
mod tests {
    use entity::{Change, Event, Line, OrderPlaced};
    use iso_currency::Currency;
    use read_model::{Memory, Projection as _};
    use uuid::Uuid;

    use super::*;

    #[tokio::test]
    async fn those_who_wait_share_a_read_that_began_after_they_came() {
        let (joint, reads) = (Joint::new(), AtomicU64::new(0));
        let (finish, mut finished) = tokio::sync::watch::channel(0);
        let mut wait = async |number| finished.wait_for(|reached| *reached >= number).await.map(drop).unwrap();
        // Each read tells its number, once it may.
        let first = joint.get(async {
            let number = reads.fetch_add(1, Ordering::SeqCst) + 1;
            wait(number).await;
            Ok(number)
        });
        let mut first = std::pin::pin!(first);
        assert!(futures::poll!(&mut first).is_pending(), "it reads");
        let mut others: Vec<_> =
            (0..5).map(|_| Box::pin(joint.get(async { Ok(reads.fetch_add(1, Ordering::SeqCst) + 1) }))).collect();
        for other in &mut others {
            assert!(futures::poll!(other).is_pending(), "it waits for the first");
        }
        finish.send_replace(1);
        assert_eq!(*first.await.unwrap(), 1);
        for answer in futures::future::join_all(others).await {
            assert_eq!(*answer.unwrap(), 2, "the second read answers all who came during the first");
        }
        // Who gives up is no hindrance, and what came before it ended is not told.
        {
            let mut given_up = std::pin::pin!(joint.get(std::future::pending()));
            assert!(futures::poll!(&mut given_up).is_pending());
        }
        assert_eq!(*joint.get(async { Ok(7) }).await.unwrap(), 7);
    }

    #[tokio::test]
    async fn nobody_waits_for_one_who_asked_first_and_polls_no_more() {
        let joint = Arc::new(Joint::new());
        let get = |told| {
            let joint = joint.clone();
            let read = async move {
                tokio::task::yield_now().await;
                Ok(told)
            };
            detached(async move { joint.get(read).await })
        };
        let mut first = std::pin::pin!(get(1));
        assert!(futures::poll!(&mut first).is_pending());
        let second = tokio::time::timeout(Duration::from_secs(10), get(2)).await;
        assert_eq!(*second.expect("it is answered").unwrap(), 2);
    }

    #[tokio::test]
    async fn what_was_kept_is_told_while_it_is_read_again() {
        let memory = Arc::new(Memory::default());
        let day = "2026-11-01".parse().unwrap();
        let sell = async |version| {
            let line = Line { product_id: 1, name: "Computer".into(), unit_price: 100, quantity: 1 };
            let order = OrderPlaced {
                client_id: 1,
                client_name: "Bob".into(),
                client_email: "bob@example.com".into(),
                order_id: Uuid::now_v7(),
                currency: "USD".into(),
                total: 100,
                lines: vec![line],
            };
            let time = NaiveDate::and_time(&day, Default::default()).and_utc();
            memory.apply(&[Event { id: Uuid::now_v7(), time, version, data: Change::OrderPlaced(order) }]).await
        };
        let read_wait = Duration::ZERO;
        let reports = Reports::new(App {
            db: Default::default(),
            read_model: memory.clone(),
            currency: Currency::USD,
            read_wait,
        });
        let sold = async |slot| {
            let periods = vec![sales::products_of_day(day)];
            reports.over("that day".into(), Slot(slot), periods).await.unwrap()[&1].count
        };
        sell(1).await;
        assert_eq!(sold(1).await, 1);
        sell(2).await;
        assert_eq!(sold(1).await, 1, "it is not read again so soon");
        assert_eq!(sold(2).await, 1, "nobody waits until it is read");
        let read_again = async {
            while sold(2).await == 1 {
                tokio::task::yield_now().await;
            }
        };
        tokio::time::timeout(Duration::from_secs(10), read_again).await.unwrap();
        sell(3).await;
        assert_eq!(sold(4).await, 3, "what is older than that is not told any more");
    }
}
