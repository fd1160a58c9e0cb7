//! Reads the sums of a period from the read model.

use chrono::{DateTime, NaiveDate};
use read_model::reports::{DayRange, Granularity, report};
use read_model::rules::periods::products_of_day;
use read_model::{Error, Queries, Resolution, Side, Sum};

use super::placed::{Orders, Products, Times};
use super::sums::{Sums, hours_are_stored};
use super::{Verifier, read_model as failed};

impl Verifier {
    /// The stored sums of a day, and of its hours if they are stored. The inner error is the reason why they cannot be read.
    pub(super) async fn stored_day(&self, day: NaiveDate) -> anyhow::Result<Result<Sums, String>> {
        let mut stored = match self.stored_products(products_of_day(day)).await? {
            Ok(stored) => stored,
            Err(why) => return Ok(Err(why)),
        };
        let mut granularities = vec![(Granularity::Day, "%Y-%m-%d")];
        granularities.extend(hours_are_stored(day).then_some((Granularity::Hour, "%Y-%m-%dT%H")));
        for (granularity, format) in granularities {
            match readable(report(&self.read_model, DayRange::utc(day, day), granularity).await)? {
                Ok(report) => {
                    for (start, sales) in report.points {
                        let name = start.format(format).to_string();
                        let sums = sales.sides().into_iter().filter(|(_, sum)| *sum != Sum::default());
                        stored.orders.extend(sums.map(|(side, sum)| ((side, name.clone()), sum)));
                    }
                }
                Err(why) => return Ok(Err(why)),
            }
        }
        Ok(Ok(stored))
    }

    /// The stored sums of the products of a day or a month.
    pub(super) async fn stored_products(&self, period: String) -> anyhow::Result<Result<Sums, String>> {
        let mut products = Products::new();
        for side in Side::ALL {
            match readable(self.read_model.product_sales(&[side.name(period.clone())]).await)? {
                Ok(stored) => {
                    let stored = stored.into_iter().filter(|(_, sum)| *sum != Sum::default());
                    products.extend(stored.map(|(product, sum)| ((side, product), sum)));
                }
                Err(why) => return Ok(Err(why)),
            }
        }
        Ok(Ok(Sums { orders: Orders::new(), products }))
    }

    /// The stored sums of each ten seconds.
    pub(super) async fn stored_seconds(&self, [from, end]: Times) -> anyhow::Result<Result<Sums, String>> {
        let mut orders = Orders::new();
        for (side, page) in Side::ALL.into_iter().flat_map(|side| [(side, from), (side, end)]) {
            let name = side.name(Resolution::TenSeconds.at(page).0); // both pages may be the same
            let buckets = match readable(self.read_model.buckets(&[name]).await)? {
                Ok(buckets) => buckets.concat(),
                Err(why) => return Ok(Err(why)),
            };
            let start = page.timestamp() - page.timestamp().rem_euclid(3_600);
            for (bucket, sum) in (0..).zip(buckets) {
                let time = DateTime::from_timestamp(start + 10 * bucket, 0).unwrap_or_default();
                if time >= from && time < end && sum != Sum::default() {
                    orders.insert((side, time.format("%Y-%m-%dT%H:%M:%S").to_string()), sum);
                }
            }
        }
        Ok(Ok(Sums { orders, products: Products::new() }))
    }
}

/// The inner error is the reason why a key cannot be read.
fn readable<T>(read: Result<T, Error>) -> anyhow::Result<Result<T, String>> {
    match read {
        Ok(read) => Ok(Ok(read)),
        Err(Error::Damaged(why)) => Ok(Err(why)),
        Err(error) => Err(failed(error).into()),
    }
}
