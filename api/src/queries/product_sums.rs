//! The sums of each product over any range of days.
//!
//! A range is split into days and whole months, which the read model has sums for. A period is *closed* once no order is
//! expected in it any more. A range of years has many closed periods, so they are read again only every [`CLOSED_MAX_AGE`]; an
//! order that arrives late for one counts within two minutes. Open periods are at most a second old.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use chrono::{DateTime, NaiveDate, Utc};
use futures::{StreamExt, stream};
use read_model::reports::{periods, product_sales};
use read_model::rules::periods::{products_of_day, products_of_month};
use read_model::{Error, Queries, Sales};
use runtime::single_flight::SingleFlight;
use tracing::warn;

use super::reports::MAX_AGE;
use crate::edge::quota::QuotaKey;
use crate::throttle::{Throttle, Turn};

/// A third of two minutes, because three delays add up: the age of a period's sums, the age of the sums over a range, and the
/// time until these have been read again.
const CLOSED_MAX_AGE: Duration = Duration::from_secs(40);
/// Maximum number of cached results, and of products in all of them, at about 70 bytes each.
const MAX_RESULTS: usize = 500;
const MAX_PRODUCTS: u64 = 1_000_000;
/// Periods that are read ahead. [`Throttle`] limits how many of all ranges are read at once: a large period occupies Redis for some
/// milliseconds.
const READ_AHEAD: usize = 2;

/// By product id.
type Sums = Arc<HashMap<i64, Sales>>;

/// The closed periods of a range on a certain day, read in one interval of [`CLOSED_MAX_AGE`], counted from 1970.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
struct ClosedRange {
    from: NaiveDate,
    to: NaiveDate,
    today: NaiveDate,
    interval: i64,
}

pub struct ProductSums {
    reader: Reader,
    periods: SingleFlight<String, Sums, Error>,
    closed_ranges: SingleFlight<ClosedRange, Sums, Error>,
}

impl ProductSums {
    pub fn new(read_model: Arc<dyn Queries>) -> ProductSums {
        let weight = |sums: &Sums| sums.len() as u64 + 1;
        ProductSums {
            reader: Reader { read_model, throttle: Arc::default() },
            periods: SingleFlight::with_weight(MAX_RESULTS, MAX_PRODUCTS, weight),
            closed_ranges: SingleFlight::with_weight(MAX_RESULTS, MAX_PRODUCTS, weight),
        }
    }

    /// Waits until a caller may begin a report.
    pub async fn turn(&self, caller: &QuotaKey) -> Turn {
        self.reader.throttle.turn(caller).await
    }

    /// The sums by product id from the first to the last day, both included.
    pub async fn between(
        self: &Arc<Self>,
        from: NaiveDate,
        to: NaiveDate,
        now: DateTime<Utc>,
        turn: Turn,
    ) -> Result<HashMap<i64, Sales>, Error> {
        // Yesterday is open too: clocks differ, and its last orders arrive today.
        let (today, yesterday) = (now.date_naive(), now.date_naive().pred_opt().unwrap_or_default());
        let open = [today, yesterday].map(|day| [products_of_day(day), products_of_month(day)]).concat();
        let (open, closed): (Vec<_>, Vec<_>) = periods(from, to).into_iter().partition(|period| open.contains(period));
        let closed = self.closed(from, to, now, closed, turn.clone()).await?;
        let mut all = self.read(open, MAX_AGE).await?;
        add(&mut all, &closed);
        Ok(all)
    }

    /// The sums over the closed periods of a range in the current interval. Until they have been read, callers get the sums of
    /// the previous interval.
    async fn closed(
        self: &Arc<Self>,
        from: NaiveDate,
        to: NaiveDate,
        now: DateTime<Utc>,
        periods: Vec<String>,
        turn: Turn,
    ) -> Result<Sums, Error> {
        let interval = now.timestamp().div_euclid(CLOSED_MAX_AGE.as_secs() as i64);
        let range = ClosedRange { from, to, today: now.date_naive(), interval };
        if let Some(current) = self.closed_ranges.peek(&range) {
            return Ok(current);
        }
        let previous = self.closed_ranges.peek(&ClosedRange { interval: interval - 1, ..range });
        let (sums, reader) = (self.clone(), self.clone());
        let read = async move {
            let _turn = turn;
            let read = async move { reader.read(periods, CLOSED_MAX_AGE).await.map(Arc::new) };
            sums.closed_ranges.get(range, CLOSED_MAX_AGE, read).await
        };
        let Some(previous) = previous else { return read.await };
        tokio::spawn(async {
            if let Err(error) = read.await {
                warn!("the product sums of closed periods could not be read: {error}");
            }
        });
        Ok(previous)
    }

    /// The sums over some periods, each at most this old.
    async fn read(&self, periods: Vec<String>, max_age: Duration) -> Result<HashMap<i64, Sales>, Error> {
        let reads = periods.into_iter().map(|period| {
            let read = self.reader.clone().read(period.clone());
            self.periods.get(period, max_age, read)
        });
        let mut reads = stream::iter(reads.collect::<Vec<_>>()).buffered(READ_AHEAD);
        let mut all = HashMap::new();
        while let Some(sums) = reads.next().await {
            add(&mut all, &*sums?);
            // A period may have thousands of products: other operations run in between.
            tokio::task::yield_now().await;
        }
        Ok(all)
    }
}

/// Reads periods from the read model, so slowly that ever new ranges leave most of the time of Redis to others.
#[derive(Clone)]
struct Reader {
    read_model: Arc<dyn Queries>,
    throttle: Arc<Throttle>,
}

impl Reader {
    async fn read(self, period: String) -> Result<Sums, Error> {
        let place = self.throttle.place().await;
        let sums = self.throttle.run(place, product_sales(&*self.read_model, &[period])).await;
        sums.map(Arc::new)
    }
}

fn add(all: &mut HashMap<i64, Sales>, sums: &HashMap<i64, Sales>) {
    for (product, sales) in sums {
        let all = all.entry(*product).or_default();
        sales.sides().into_iter().for_each(|(side, sum)| all.add(side, sum));
    }
}

#[cfg(test)]
mod tests {
    use read_model::{Memory, Projection};
    use test_support::events::order_placed_at;
    use tokio::time::advance;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn the_sums_of_the_interval_before_are_returned_while_closed_periods_are_read_again() {
        let memory = Arc::new(Memory::default());
        let day: NaiveDate = "2026-11-01".parse().unwrap();
        let time = day.and_time(Default::default()).and_utc();
        let sell = async |version| memory.apply(&[order_placed_at(time, 1, version, &[(1, 1, 100)])]).await;
        let sums = Arc::new(ProductSums::new(memory.clone()));
        let sold = async |interval| {
            let now = DateTime::from_timestamp(1_800_000_000, 0).unwrap() + CLOSED_MAX_AGE * interval;
            let turn = sums.turn(&QuotaKey::Subject("tester".into())).await;
            sums.closed(day, day, now, vec![products_of_day(day)], turn).await.unwrap()[&1].gross.count
        };
        let interval = CLOSED_MAX_AGE + Duration::from_millis(1);
        sell(1).await;
        assert_eq!(sold(1).await, 1);
        sell(2).await;
        assert_eq!(sold(1).await, 1, "the same interval");
        advance(interval).await;
        assert_eq!(sold(2).await, 1, "nobody waits for the read");
        while sold(2).await == 1 {
            tokio::task::yield_now().await;
        }
        sell(3).await;
        advance(2 * interval).await;
        assert_eq!(sold(4).await, 3, "sums older than the interval before are not returned");
    }
}
