//! What was sold over some time, for all who ask the same: it is read once a second at most, and days and months that are over
//! once a minute. (An order that comes late counts there after that.)

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

/// How long an answer is given again.
const FRESH: Duration = Duration::from_secs(1);
/// How long what was sold on a day, or in a month, that is over is not read again.
const OVER: Duration = Duration::from_secs(60);
/// Answers that are kept at most.
const ANSWERS: usize = 64;
/// Products of days and months that are kept at most, of 50 bytes each or so; and of how many days and months.
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
    periods: Cache<(String, Slot), Sold, Products>,
}

/// A time, as long as something is not read again: what was kept in another is not found any more.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
struct Slot(i64);

impl Slot {
    fn of(now: DateTime<Utc>, length: Duration) -> Slot {
        Slot(now.timestamp_millis() / length.as_millis() as i64)
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
    pub async fn products(&self, from: NaiveDate, to: NaiveDate) -> Result<Sold, Error> {
        let key = (from, to, Slot::of(Utc::now(), FRESH));
        let add_up = async {
            let periods = periods(from, to).into_iter().map(|period| self.period(period));
            let mut sold = stream::iter(periods.collect::<Vec<_>>()).buffered(AT_ONCE);
            let mut all: HashMap<i64, Sum> = HashMap::new();
            while let Some(then) = sold.try_next().await? {
                then.iter().for_each(|(product, sum)| all.entry(*product).or_default().add(*sum));
            }
            Ok(Arc::new(all))
        };
        let answer = self.products.get_or_insert_async::<_, Infallible>(&key, async { Ok(add_up.await) }).await;
        answer.unwrap_or_else(|never| match never {})
    }

    async fn period(&self, period: String) -> Result<Sold, Error> {
        let now = Utc::now();
        // Also one day later: clocks may differ, and what was placed then arrives now.
        let yesterday = now.date_naive().pred_opt().unwrap_or_default();
        let is_over = [now.date_naive(), yesterday]
            .iter()
            .all(|day| period != sales::products_of_day(*day) && period != sales::products_of_month(*day));
        let key = (period, Slot::of(now, if is_over { OVER } else { FRESH }));
        let read = async { self.read_model.sold(std::slice::from_ref(&key.0)).await.map(Arc::new) };
        self.periods.get_or_insert_async(&key, read).await
    }
}
