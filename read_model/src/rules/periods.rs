//! The periods of the sums: how time is divided, and the names of the periods.
//!
//! Sums over time are stored in bucket pages: a page of a [`Resolution`] has one bucket for each step of time. Sums of products are
//! stored by day and month.

use chrono::{DateTime, Datelike, Days, DurationRound, Months, NaiveDate, NaiveTime, TimeDelta, Timelike, Utc};

/// How long the sums by half an hour are stored after their month: two years, for reports in other time zones than UTC. The
/// sums by day never expire.
const HALF_HOURS_RETAINED: Days = Days::new(731);
/// How long the sums by ten seconds are stored after their hour: longer than the rate of the last minute needs them.
const TEN_SECONDS_RETAINED: TimeDelta = TimeDelta::hours(2);

/// The steps of time of a sum.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Resolution {
    /// A page holds the days of a year.
    Day,
    /// A page holds the half hours of a month. Nearly all time zones differ from UTC by a multiple of half an hour.
    HalfHour,
    /// A page holds the steps of ten seconds of an hour.
    TenSeconds,
}

impl Resolution {
    pub(super) const ALL: [Resolution; 3] = [Resolution::Day, Resolution::HalfHour, Resolution::TenSeconds];

    /// Returns the bucket page of this time on the gross side, and the index of its bucket.
    pub fn at(self, time: DateTime<Utc>) -> (String, usize) {
        let page = match self {
            Resolution::Day => "%Y",
            Resolution::HalfHour => "%Y-%m",
            Resolution::TenSeconds => "%Y-%m-%dT%H",
        };
        (format!("{}{}", self.prefix(), time.format(page)), self.bucket(time))
    }

    /// Returns the index of the bucket of this time in its page.
    pub fn bucket(self, time: DateTime<Utc>) -> usize {
        let bucket = match self {
            Resolution::Day => time.ordinal0(),
            Resolution::HalfHour => time.day0() * 48 + time.hour() * 2 + time.minute() / 30,
            Resolution::TenSeconds => time.minute() * 6 + time.second() / 10,
        };
        bucket as usize
    }

    /// Returns the length of a bucket.
    pub fn step(self) -> TimeDelta {
        match self {
            Resolution::Day => TimeDelta::days(1),
            Resolution::HalfHour => TimeDelta::minutes(30),
            Resolution::TenSeconds => TimeDelta::seconds(10),
        }
    }

    /// Parses the name of a bucket page on the gross side: its resolution, and the start of its first bucket.
    pub fn of_page(page: &str) -> Option<(Resolution, DateTime<Utc>)> {
        Resolution::ALL.into_iter().find_map(|resolution| {
            let start = page.strip_prefix(resolution.prefix())?;
            let rest = match resolution {
                Resolution::Day => "-01-01T00:00:00Z",
                Resolution::HalfHour => "-01T00:00:00Z",
                Resolution::TenSeconds => ":00:00Z",
            };
            Some((resolution, format!("{start}{rest}").parse().ok()?))
        })
    }

    /// Returns whether a bucket page is of this resolution.
    pub(crate) fn has(self, page: &str) -> bool {
        page.starts_with(self.prefix())
    }

    fn prefix(self) -> &'static str {
        match self {
            Resolution::Day => "days:",
            Resolution::HalfHour => "half_hours:",
            Resolution::TenSeconds => "moments:",
        }
    }

    /// Returns whether the page of this time has not expired.
    pub fn is_retained(self, time: DateTime<Utc>, now: DateTime<Utc>) -> bool {
        self.expires_at(time).is_none_or(|until| until > now)
    }

    /// Returns when the page of this time expires, `None` for never.
    pub(super) fn expires_at(self, time: DateTime<Utc>) -> Option<DateTime<Utc>> {
        match self {
            Resolution::Day => None,
            Resolution::HalfHour => {
                let month = time.date_naive().with_day(1)?.checked_add_months(Months::new(1))?;
                Some(month.checked_add_days(HALF_HOURS_RETAINED)?.and_time(NaiveTime::MIN).and_utc())
            }
            Resolution::TenSeconds => time
                .duration_trunc(TimeDelta::hours(1))
                .ok()?
                .checked_add_signed(TimeDelta::hours(1) + TEN_SECONDS_RETAINED),
        }
    }
}

/// Returns the name of a day as a period of product sales on the gross side.
pub fn products_of_day(day: NaiveDate) -> String {
    day.format("products:%Y-%m-%d").to_string()
}

/// Parses the name of a period of product sales on the gross side, a day or a month: its first day.
pub fn first_day_of_products(period: &str) -> Option<NaiveDate> {
    let date = period.strip_prefix("products:")?;
    date.parse().or_else(|_| format!("{date}-01").parse()).ok()
}

/// Returns the name of the month of a day as a period of product sales on the gross side.
pub fn products_of_month(day: NaiveDate) -> String {
    day.format("products:%Y-%m").to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_names_of_pages_and_periods_are_parsed() {
        for text in ["2026-11-24T13:47:39Z", "1970-01-01T00:00:00Z", "9999-12-31T23:59:59Z"] {
            let time: DateTime<Utc> = text.parse().unwrap();
            for resolution in Resolution::ALL {
                let (page, bucket) = resolution.at(time);
                let (parsed, start) = Resolution::of_page(&page).unwrap();
                assert_eq!(parsed, resolution);
                assert_eq!(resolution.at(start + resolution.step() * bucket as i32).0, page);
                assert!(
                    (0..resolution.step().num_seconds())
                        .contains(&(time - start - resolution.step() * bucket as i32).num_seconds())
                );
            }
            let day = time.date_naive();
            assert_eq!(first_day_of_products(&products_of_day(day)), Some(day));
            assert_eq!(first_day_of_products(&products_of_month(day)), day.with_day(1));
        }
        for other in ["days:", "days:x", "half_hours:2026", "moments:2026-11-24", "products:2026", "client:1"] {
            assert_eq!((Resolution::of_page(other), first_day_of_products(other)), (None, None), "{other}");
        }
    }
}
