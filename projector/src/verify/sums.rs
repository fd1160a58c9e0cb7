//! Compares sales sums with the command database while both are in use: the orders of each hour and day, and of the ten seconds of
//! the last hour, and each product's sales by day and month, on both sides: placed orders, and cancellations and refunds. Also
//! compares the sums of all other days that the read model stores: the database has nothing for them.
//!
//! Most days do not change while they are compared, so their sums are equal to those of the database. Where they are not, the
//! comparison takes bounds: sums only grow, so a sum is right when it is at least that of the orders whose events had left the
//! outbox before it was read (`in_flight` before, unless it is right earlier), and at most that of the orders in the database
//! afterwards.

use std::ops::ControlFlow;

use anyhow::Context;
use chrono::{Days, Months, NaiveDate, Utc};
use futures::{StreamExt, TryStreamExt, stream};
use read_model::rules::periods::products_of_month;
use read_model::{Resolution, Side};
use tokio::time::{Instant, sleep};

use super::periods::Periods;
use super::placed::{Orders, Products, Scope, Times, of_day};
use super::wrong_sum::{is_within, wrong_sums};
use super::{LOOK_AGAIN, StoreFailed, Verifier, read_model as failed};

pub use super::wrong_sum::WrongSum;

/// Days compared at once. Each needs a connection to the database.
const CONCURRENT_DAYS: usize = 4;
/// How long after its end a day's orders are certainly all committed.
const DAY_SETTLED_AFTER: Days = Days::new(1);

/// Progress of [`Verifier::sums`].
pub struct SumsProgress {
    /// All months before this day have been compared completely.
    pub next: NaiveDate,
    /// Wrong sums that this step found.
    pub wrong: Vec<WrongSum>,
}

/// The sums that one step compares.
#[derive(Clone)]
enum Period {
    Day(NaiveDate),
    Month(Month),
    /// The ten seconds of an hour.
    Seconds(Times),
}

/// The products of a month.
#[derive(Clone, Default)]
struct Month {
    first: NaiveDate,
    /// The sales of the days that do not change any more and were right.
    settled: Products,
    /// The other days.
    open: Vec<NaiveDate>,
}

/// The sums of a period that were too small. Orders may be on their way to them.
struct Short {
    period: Period,
    sums: Vec<WrongSum>,
    compared_at: Instant,
}

/// The sums of a period. Zeros are left out.
#[derive(Default, PartialEq)]
pub(super) struct Sums {
    pub orders: Orders,
    pub products: Products,
}

impl Verifier {
    /// Compares all sums from a month on, or all, month by month; then those again that were too small. Calls `each` after every
    /// step.
    pub async fn sums(
        &self,
        from: Option<NaiveDate>,
        mut each: impl FnMut(SumsProgress) -> ControlFlow<()>,
    ) -> anyhow::Result<()> {
        let Periods { months, seconds } = self.periods(from).await?;
        let (mut short, mut next) = (Vec::new(), from.unwrap_or_default());
        let mut found = |period: Period, wrong: Vec<WrongSum>, next| {
            let (too_small, wrong): (Vec<_>, _) = wrong.into_iter().partition(WrongSum::is_short);
            if !too_small.is_empty() {
                short.push(Short { period, sums: too_small, compared_at: Instant::now() });
            }
            each(SumsProgress { next, wrong }).is_break()
        };
        for (month, days) in months {
            next = month.checked_add_months(Months::new(1)).context("the end of time")?;
            let days = days.into_iter().map(async |day| anyhow::Ok((day, self.day(day).await?)));
            let mut days = stream::iter(days).buffered(CONCURRENT_DAYS);
            let mut products = Month { first: month, ..Month::default() };
            while let Some((day, (sold, wrong))) = days.try_next().await? {
                match sold.filter(|_| is_settled(day)) {
                    Some(sold) => add(&mut products.settled, &sold),
                    None => products.open.push(day),
                }
                if found(Period::Day(day), wrong, month) {
                    return Ok(());
                }
            }
            let period = Period::Month(products);
            let wrong = self.wrong_in(&period).await?;
            if found(period, wrong, next) {
                return Ok(());
            }
        }
        for period in seconds.into_iter().map(Period::Seconds) {
            let wrong = self.wrong_in(&period).await?;
            if found(period, wrong, next) {
                return Ok(());
            }
        }
        let each = |wrong| each(SumsProgress { next, wrong });
        self.compare_again(short, each).await
    }

    /// Compares all sums, and stores the number of wrong ones in the read model, where health checks find it.
    pub async fn count_wrong_sums(&self) -> anyhow::Result<u64> {
        if !self.read_model.has_reports().await.map_err(failed)? {
            return Ok(0);
        }
        // Another generation may become live meanwhile.
        let compared = self.pinned_to_live().await?;
        let mut wrong = 0;
        let count = |progress: SumsProgress| {
            wrong += progress.wrong.len() as u64;
            ControlFlow::Continue(())
        };
        compared.sums(None, count).await?;
        compared.read_model.save_wrong_sums(wrong).await.map_err(failed)?;
        Ok(wrong)
    }

    /// Compares periods again until no sum is too small, or `in_flight` after its first comparison.
    async fn compare_again(
        &self,
        mut short: Vec<Short>,
        mut each: impl FnMut(Vec<WrongSum>) -> ControlFlow<()>,
    ) -> anyhow::Result<()> {
        while !short.is_empty() {
            sleep(LOOK_AGAIN.min(self.in_flight)).await;
            let mut still_short = Vec::new();
            for Short { period, mut sums, compared_at } in short {
                let is_overdue = compared_at.elapsed() >= self.in_flight;
                let mut again = self.wrong_in(&period).await?;
                let is_same = |one: &WrongSum, other: &WrongSum| {
                    (&one.period, one.side, one.product) == (&other.period, other.side, other.product)
                        && !is_within(one.least, other.sum)
                };
                again.retain(|sum| sums.iter().any(|first| is_same(first, sum)));
                sums.retain(|first| again.iter().any(|sum| is_same(first, sum)));
                if each(if is_overdue { again } else { Vec::new() }).is_break() {
                    return Ok(());
                }
                if !sums.is_empty() && !is_overdue {
                    still_short.push(Short { period, sums, compared_at });
                }
            }
            short = still_short;
        }
        Ok(())
    }

    /// The sales of a day if all of its sums are equal to those of the database, and its wrong sums.
    async fn day(&self, day: NaiveDate) -> anyhow::Result<(Option<Products>, Vec<WrongSum>)> {
        let mut placed = self.placed_on(day, Scope::NearIds).await?;
        if !placed.orders.keys().any(|(side, _)| *side == Side::Gross) {
            placed = self.placed_on(day, Scope::All).await?; // another program may have given the orders other ids
        }
        if self.stored_day(day).await?.is_ok_and(|stored| stored == placed) {
            return Ok((Some(placed.products), Vec::new()));
        }
        Ok((None, self.wrong_in(&Period::Day(day)).await?))
    }

    /// Compares a period exactly, also while it changes.
    async fn wrong_in(&self, period: &Period) -> anyhow::Result<Vec<WrongSum>> {
        // The sequence matters: see above.
        let least = self.placed_in(period, Scope::Published).await?;
        let stored = match period {
            Period::Day(day) => self.stored_day(*day).await?,
            Period::Month(month) => self.stored_products(products_of_month(month.first)).await?,
            Period::Seconds(times) => self.stored_seconds(*times).await?,
        };
        let name = match period {
            Period::Day(day) => day.to_string(),
            Period::Month(month) => month.first.format("%Y-%m").to_string(),
            Period::Seconds(_) => "ten seconds".to_owned(),
        };
        let stored = match stored {
            Ok(stored) => stored,
            Err(why) => {
                let (product, sum, least, most) = Default::default();
                let (period, side, currency, damaged) = (name, Side::Gross, self.currency, Some(why));
                return Ok(vec![WrongSum { period, side, product, sum, least, most, currency, damaged }]);
            }
        };
        let most = self.placed_in(period, Scope::All).await?;
        let orders = [&least.orders, &stored.orders, &most.orders];
        let mut found = wrong_sums(orders, self.currency, |period| (period.clone(), None));
        let of_product = |product: &i64| (name.clone(), Some(*product));
        found.extend(wrong_sums([&least.products, &stored.products, &most.products], self.currency, of_product));
        Ok(found)
    }

    async fn placed_in(&self, period: &Period, scope: Scope) -> anyhow::Result<Sums> {
        match period {
            Period::Day(day) => Ok(self.placed_on(*day, scope).await?),
            Period::Month(month) => {
                let mut products = month.settled.clone();
                for day in &month.open {
                    add(&mut products, &self.placed_products(of_day(*day), scope).await?);
                }
                Ok(Sums { orders: Orders::new(), products })
            }
            Period::Seconds(times) => {
                Ok(Sums { orders: self.placed_seconds(*times, scope).await?, products: Products::new() })
            }
        }
    }

    async fn placed_on(&self, day: NaiveDate, scope: Scope) -> Result<Sums, StoreFailed> {
        let orders = with_days(self.placed_orders(of_day(day), scope).await?, hours_are_stored(day));
        let products = match orders.is_empty() {
            true => Products::new(),
            false => self.placed_products(of_day(day), scope).await?,
        };
        Ok(Sums { orders, products })
    }
}

fn is_settled(day: NaiveDate) -> bool {
    day + DAY_SETTLED_AFTER < Utc::now().date_naive()
}

pub(super) fn hours_are_stored(day: NaiveDate) -> bool {
    Resolution::HalfHour.is_retained(of_day(day)[0], Utc::now())
}

/// Adds the sums of days to those of their hours, which are left out if they are not stored.
fn with_days(hours: Orders, hours_are_stored: bool) -> Orders {
    let mut all = Orders::new();
    for ((side, hour), sum) in hours {
        all.entry((side, hour[..10].to_owned())).or_default().add(sum);
        if hours_are_stored {
            all.insert((side, hour), sum);
        }
    }
    all
}

fn add(products: &mut Products, sold: &Products) {
    for (product, sum) in sold {
        products.entry(*product).or_default().add(*sum);
    }
}
