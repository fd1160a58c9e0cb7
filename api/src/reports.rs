//! What was sold over some time, for all who ask the same: it is read once a second at most, and months that are over once a
//! minute. (An order that comes late counts there after that.)

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use chrono::{DateTime, NaiveDate, Utc};
use quick_cache::sync::Cache;
use read_model::sales::{self, Granularity, Report, Sum, periods};
use read_model::{Error, ReadModel};

/// How long an answer is given again.
const FRESH: Duration = Duration::from_secs(1);
/// How long what was sold on a day, or in a month, that is over is not read again.
const OVER: Duration = Duration::from_secs(60);
/// Answers, and days and months, that are kept at most: of ten thousand products each of these takes 500 KiB.
const ANSWERS: usize = 64;
const PERIODS: usize = 128;

type Sold = Arc<HashMap<i64, Sum>>;

pub struct Reports {
    read_model: Arc<dyn ReadModel>,
    sales: Cache<(NaiveDate, NaiveDate, Granularity, Slot), Arc<Report>>,
    products: Cache<(NaiveDate, NaiveDate, Slot), Sold>,
    periods: Cache<(String, Slot), Sold>,
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
        let (sales, products, periods) = (Cache::new(ANSWERS), Cache::new(ANSWERS), Cache::new(PERIODS));
        Arc::new(Reports { read_model, sales, products, periods })
    }

    /// As [`sales::report`].
    pub async fn sales(&self, from: NaiveDate, to: NaiveDate, granularity: Granularity) -> Result<Arc<Report>, Error> {
        let key = (from, to, granularity, Slot::of(Utc::now(), FRESH));
        let read = async { sales::report(&*self.read_model, from, to, granularity).await.map(Arc::new) };
        self.sales.get_or_insert_async(&key, read).await
    }

    /// What was sold of each product from the first day to the last, both included.
    pub async fn products(&self, from: NaiveDate, to: NaiveDate) -> Result<Sold, Error> {
        let key = (from, to, Slot::of(Utc::now(), FRESH));
        let add_up = async {
            let mut all: HashMap<i64, Sum> = HashMap::new();
            for period in periods(from, to) {
                for (product, sum) in &*self.period(period).await? {
                    all.entry(*product).or_default().add(*sum);
                }
            }
            Ok(Arc::new(all))
        };
        self.products.get_or_insert_async(&key, add_up).await
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
