//! What was sold over some time, for all who ask the same: it is read once a second at most, and days and months that are over
//! once a minute. An order that comes late counts there within two.

use std::collections::HashMap;
use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use chrono::{DateTime, NaiveDate, Utc};
use futures::{StreamExt, TryStreamExt, stream};
use quick_cache::Weighter;
use quick_cache::sync::Cache;
use read_model::sales::{self, Granularity, Report, Sum, periods};
use read_model::{Error, ReadModel};
use tracing::warn;

/// How long an answer is given again.
const FRESH: Duration = Duration::from_secs(1);
/// How long what was sold on a day, or in a month, that is over is not read again.
const OVER: Duration = Duration::from_secs(60);
/// Answers that are kept at most.
const ANSWERS: usize = 64;
/// Products of days, months and more that are kept at most, of 50 bytes each or so; and of how many of these.
const PRODUCTS: u64 = 2_000_000;
const PERIODS: usize = 1_000;
/// Days and months that are read at once.
const AT_ONCE: usize = 4;

type Sold = Arc<HashMap<i64, Sum>>;
/// Which days, from the first to the last, and when that was asked for.
type Asked = (NaiveDate, NaiveDate, Slot);
/// Failures as well: whoever asked meanwhile need not wait for another.
type Answer<T> = Result<Arc<T>, Error>;

#[derive(Clone)]
struct Products;

impl Weighter<(String, Slot), Sold> for Products {
    fn weight(&self, _period: &(String, Slot), sold: &Sold) -> u64 {
        sold.len() as u64 + 1
    }
}

pub struct Reports {
    read_model: Arc<dyn ReadModel>,
    sales: Cache<(Asked, Granularity), Answer<Report>>,
    products: Cache<Asked, Answer<HashMap<i64, Sum>>>,
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

impl Reports {
    pub fn new(read_model: Arc<dyn ReadModel>) -> Arc<Reports> {
        let periods = Cache::with_weighter(PERIODS, PRODUCTS, Products);
        Arc::new(Reports { read_model, sales: Cache::new(ANSWERS), products: Cache::new(ANSWERS), periods })
    }

    /// As [`sales::report`].
    pub async fn sales(&self, from: NaiveDate, to: NaiveDate, granularity: Granularity) -> Answer<Report> {
        let key = ((from, to, Slot::of(Utc::now(), FRESH)), granularity);
        let read = async { Ok(sales::report(&*self.read_model, from, to, granularity).await.map(Arc::new)) };
        self.sales.get_or_insert_async::<_, Infallible>(&key, read).await.unwrap_or_else(|never| match never {})
    }

    /// What was sold of each product from the first day to the last, both included.
    pub async fn products(self: &Arc<Self>, from: NaiveDate, to: NaiveDate) -> Result<Sold, Error> {
        let now = Utc::now();
        let key = (from, to, Slot::of(now, FRESH));
        let read = async {
            // Also one day later: clocks may differ, and what was placed then arrives now.
            let (today, yesterday) = (now.date_naive(), now.date_naive().pred_opt().unwrap_or_default());
            let going_on = [today, yesterday].map(|day| [sales::products_of_day(day), sales::products_of_month(day)]);
            let going_on = going_on.concat();
            let (current, over): (Vec<_>, Vec<_>) =
                periods(from, to).into_iter().partition(|period| going_on.contains(period));
            let over = self.over(format!("{from} to {to} as of {today}"), Slot::of(now, OVER), over).await?;
            let current = self.sold(current, Slot::of(now, FRESH)).await?;
            Ok(Arc::new(add_up([&*over, &current])))
        };
        let answer = self.products.get_or_insert_async::<_, Infallible>(&key, async { Ok(read.await) }).await;
        answer.unwrap_or_else(|never| match never {})
    }

    /// What was sold in several periods that are over, under a name of their own. While they are read again it is told once
    /// more what was kept before.
    async fn over(self: &Arc<Self>, name: String, slot: Slot, periods: Vec<String>) -> Result<Sold, Error> {
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

    async fn sold(&self, periods: Vec<String>, slot: Slot) -> Result<HashMap<i64, Sum>, Error> {
        let each = periods.into_iter().map(async |period| {
            let key = (period, slot);
            let read = async { self.read_model.sold(std::slice::from_ref(&key.0)).await.map(Arc::new) };
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
    use read_model::Memory;
    use uuid::Uuid;

    use super::*;

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
        let reports = Reports::new(memory.clone());
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
