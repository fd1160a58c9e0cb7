//! Finds the periods whose sums are compared: those since the first order in the database, and all others that the read model stores.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::Context;
use chrono::{DateTime, Datelike, Days, NaiveDate, TimeDelta, Utc};
use entity::order;
use read_model::rules::periods::{first_day_of_products, products_of_month};
use read_model::{Error, Queries, Resolution, Side, Sum};
use sea_orm::{EntityTrait, QueryOrder, QuerySelect};

use super::placed::Times;
use super::{Verifier, database, read_model as failed};

/// The periods whose sums are compared.
pub(super) struct Periods {
    /// Days, by the first day of their month.
    pub months: BTreeMap<NaiveDate, BTreeSet<NaiveDate>>,
    /// Spans in which each ten seconds are compared.
    pub seconds: Vec<Times>,
}

impl Verifier {
    /// Finds the days until tomorrow and all other days with stored sums, in the months from this day's on.
    pub(super) async fn periods(&self, from: Option<NaiveDate>) -> anyhow::Result<Periods> {
        let first = order::Entity::find().order_by_asc(order::Column::Id).select_only().column(order::Column::PlacedAt);
        let first = first.into_tuple::<DateTime<Utc>>().one(&self.db).await.map_err(database)?;
        // Tomorrow, for the orders of an api whose clock is ahead.
        let end = Utc::now().date_naive() + Days::new(1);
        let first = month_of(first.map_or(end, |first| first.date_naive())).context("a month")?;
        let mut periods = Periods { months: BTreeMap::new(), seconds: vec![last_hour()] };
        for day in first.iter_days().take_while(|day| *day <= end) {
            periods.add(day);
        }
        let is_complete = |start: NaiveDate| first <= start && Some(start) < month_of(end);
        for name in self.read_model.stored_periods().await.map_err(failed)? {
            let (_, of_gross) = Side::of_name(&name);
            match Resolution::of_page(&of_gross) {
                Some((Resolution::TenSeconds, hour)) => periods.add_seconds(hour),
                Some((Resolution::HalfHour, start)) if is_complete(start.date_naive()) => {}
                Some((resolution, start)) => {
                    self.days_of(&name, resolution, start).await?.for_each(|day| periods.add(day))
                }
                None => periods.add_products(&of_gross),
            }
        }
        let from = from.and_then(month_of);
        periods.months.retain(|month, _| from.is_none_or(|from| *month >= from));
        Ok(periods)
    }

    /// The days of a bucket page, of either side, that have sums.
    async fn days_of(
        &self,
        page: &str,
        resolution: Resolution,
        start: DateTime<Utc>,
    ) -> anyhow::Result<impl Iterator<Item = NaiveDate> + use<>> {
        let buckets = match self.read_model.buckets(&[page.to_owned()]).await {
            Ok(buckets) => buckets.concat(),
            // It is reported when this day is compared.
            Err(Error::Damaged(_)) => vec![Sum { count: 1, revenue: 0 }],
            Err(error) => return Err(failed(error).into()),
        };
        let days = (0..).zip(buckets).filter(|(_, sum)| *sum != Sum::default());
        Ok(days.map(move |(bucket, _)| (start + resolution.step() * bucket).date_naive()))
    }
}

impl Periods {
    fn add(&mut self, day: NaiveDate) {
        self.months.entry(month_of(day).unwrap_or(day)).or_default().insert(day);
    }

    /// Adds a period of product sales, named as on the gross side.
    fn add_products(&mut self, name: &str) {
        match first_day_of_products(name) {
            Some(month) if *name == products_of_month(month) => drop(self.months.entry(month).or_default()),
            Some(day) => self.add(day),
            None => {}
        }
    }

    /// Adds the part of an hour that is in the future. Nobody reads the ten seconds of earlier hours, and they expire soon.
    fn add_seconds(&mut self, hour: DateTime<Utc>) {
        let ([_, now], end) = (self.seconds[0], hour + TimeDelta::hours(1));
        if now < end {
            self.seconds.push([hour.max(now), end]);
        }
    }
}

/// The last hour, whose sums of ten seconds are all stored.
fn last_hour() -> Times {
    let now = Utc::now().timestamp();
    let end = DateTime::from_timestamp(now - now.rem_euclid(10) + 10, 0).unwrap_or_default();
    [end - TimeDelta::hours(1), end]
}

fn month_of(day: NaiveDate) -> Option<NaiveDate> {
    day.with_day(1)
}
