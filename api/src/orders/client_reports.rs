//! The clients that ordered in a range of days: how many, how many for the first time, and those that bought most.
//!
//! They are added up from the rows of orders, and not in Redis. The read model has a constant amount of memory for each client. Sums of
//! each client by day would grow with every day on which it orders, and by half hours with every order. So a report costs as much as its
//! range has orders: it is bounded to a year, read once for all callers, and slowed down by [`Throttle`].

use std::sync::Arc;
use std::time::Duration;

use chrono::{DateTime, TimeDelta, Utc};
use read_model::reports::DayRange;
use read_model::{Sales, Sum};
use runtime::single_flight::SingleFlight;
use sea_orm::{DatabaseConnection, DbErr, FromQueryResult, Statement};
use tokio::time::{Instant, timeout};

use super::lists::Filter;
use crate::edge::quota::QuotaKey;
use crate::throttle::Throttle;

/// Clients in a ranking.
pub const MAX_CLIENTS: usize = 100;
/// Age of a report up to which it is returned again. It is also returned for this many times as long as its reading took.
const MAX_AGE: Duration = Duration::from_secs(1);
const AGE_PER_READ: u32 = 10;
/// The same for a range that ended a day ago. No order is expected in it, but its orders may be refunded.
const CLOSED_MAX_AGE: Duration = Duration::from_secs(40);
/// How long a report waits for others. Its caller waits no longer either.
const MAX_WAIT: Duration = Duration::from_secs(5);
/// Maximum number of cached reports.
const REPORTS: usize = 64;

/// The orders of a client that it placed in a range. Cancellations and refunds count for their order, whenever they were made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ClientSales {
    pub client: i64,
    pub sales: Sales,
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ClientReport {
    /// The clients that placed an order.
    pub clients: i64,
    /// Those that had never ordered before.
    pub new_clients: i64,
    /// The first [`MAX_CLIENTS`] by what they bought, net.
    pub by_net: Vec<ClientSales>,
    /// The first [`MAX_CLIENTS`] by the number of orders that they placed.
    pub by_orders: Vec<ClientSales>,
    read_time: Duration,
}

/// Why a report was not read.
#[derive(Clone, Debug)]
pub enum Unread {
    /// Too many other reports are being read.
    Busy,
    Failed(DbErr),
}

pub struct ClientReports {
    db: DatabaseConnection,
    throttle: Arc<Throttle>,
    reports: SingleFlight<DayRange, Arc<ClientReport>, Unread>,
}

impl ClientReports {
    pub fn new(db: DatabaseConnection) -> ClientReports {
        ClientReports { db, throttle: Arc::default(), reports: SingleFlight::new(REPORTS) }
    }

    /// The report of some days. A caller with many reports waits for its own.
    ///
    /// # Errors
    /// When too many others are being read, or the database fails.
    pub async fn of(&self, days: DayRange, caller: &QuotaKey) -> Result<Arc<ClientReport>, Unread> {
        let last_read = self.reports.peek(&days).map_or(Duration::ZERO, |report| report.read_time);
        let max_age = max_age(days.end(), Utc::now(), last_read);
        if let Some(cached) = self.reports.cached(&days, max_age) {
            return cached;
        }
        let turn = timeout(MAX_WAIT, self.throttle.turn(caller)).await.map_err(|_| Unread::Busy)?;
        let (db, throttle) = (self.db.clone(), self.throttle.clone());
        let read = async move {
            let _turn = turn;
            let place = timeout(MAX_WAIT, throttle.place()).await.map_err(|_| Unread::Busy)?;
            throttle.run(place, read(&db, days)).await.map(Arc::new).map_err(Unread::Failed)
        };
        self.reports.get(days, max_age, read).await
    }
}

fn max_age(end: DateTime<Utc>, now: DateTime<Utc>, last_read: Duration) -> Duration {
    let is_closed = end + TimeDelta::days(1) < now;
    let age = if is_closed { CLOSED_MAX_AGE } else { MAX_AGE };
    age.max(AGE_PER_READ * last_read)
}

/// A client of a ranking, and the numbers of all clients.
#[derive(FromQueryResult)]
struct Row {
    client_id: i64,
    orders: i64,
    total: i64,
    cancelled: i64,
    refunded: i64,
    clients: i64,
    new_clients: i64,
}

/// The orders are a range of ids, which begin with the time. The first order of a client is the one with its lowest version; an index
/// has it.
const BUYERS: &str = "
WITH buyers AS MATERIALIZED (
    SELECT client_id, COUNT(*) AS orders, CAST(SUM(total) AS bigint) AS total, COUNT(cancelled_at) AS cancelled,
           CAST(SUM(refunded) AS bigint) AS refunded, MIN(version) AS first_version
    FROM orders WHERE id >= $1 AND id <= $2 AND placed_at >= $3 AND placed_at < $4 GROUP BY client_id
), counts AS (
    SELECT COUNT(*) AS clients, COUNT(*) FILTER (WHERE first_version = (
        SELECT MIN(version) FROM orders WHERE orders.client_id = buyers.client_id)) AS new_clients
    FROM buyers
)
SELECT client_id, orders, total, cancelled, refunded, clients, new_clients FROM (
    SELECT * FROM (SELECT * FROM buyers ORDER BY total - refunded DESC, orders DESC, client_id LIMIT $5) AS by_net
    UNION
    SELECT * FROM (SELECT * FROM buyers ORDER BY orders DESC, total - refunded DESC, client_id LIMIT $5) AS by_orders
) AS top CROSS JOIN counts";

/// Reads a report with one statement.
///
/// # Errors
/// When the database fails.
async fn read(db: &DatabaseConnection, days: DayRange) -> Result<ClientReport, DbErr> {
    let began = Instant::now();
    let (filter, limit) = (Filter::of_days(days), MAX_CLIENTS as u64);
    let (least, greatest) = filter.ids();
    let values = [least.into(), greatest.into(), filter.from.into(), filter.before.into(), limit.into()];
    let statement = Statement::from_sql_and_values(db.get_database_backend(), BUYERS, values);
    let rows = Row::find_by_statement(statement).all(db).await?;
    let (clients, new_clients) = rows.first().map_or((0, 0), |row| (row.clients, row.new_clients));
    let mut top: Vec<ClientSales> = rows.iter().map(ClientSales::of).collect();
    let mut first = |rank: fn(&ClientSales) -> (i64, i64)| {
        top.sort_by_key(|client| {
            let (rank, equal) = rank(client);
            (-rank, -equal, client.client)
        });
        top.iter().copied().take(MAX_CLIENTS).collect()
    };
    let by_net = first(|ClientSales { sales, .. }| (sales.net().revenue, sales.gross.count));
    let by_orders = first(|ClientSales { sales, .. }| (sales.gross.count, sales.net().revenue));
    Ok(ClientReport { clients, new_clients, by_net, by_orders, read_time: began.elapsed() })
}

impl ClientSales {
    fn of(row: &Row) -> ClientSales {
        let gross = Sum { count: row.orders, revenue: row.total };
        let cancelled = Sum { count: row.cancelled, revenue: row.refunded };
        ClientSales { client: row.client_id, sales: Sales { gross, cancelled } }
    }
}

#[cfg(test)]
mod tests {
    use futures::FutureExt;
    use tokio::runtime::Handle;

    use super::*;

    #[tokio::test]
    async fn a_caller_has_few_reads_although_it_waits_for_none() {
        let (reports, caller) =
            (ClientReports::new(DatabaseConnection::default()), QuotaKey::Subject("impatient".into()));
        let first: chrono::NaiveDate = "2020-01-01".parse().unwrap();
        for day in first.iter_days().take(500) {
            assert!(reports.of(DayRange::utc(day, day), &caller).now_or_never().is_none());
        }
        assert_eq!(Handle::current().metrics().num_alive_tasks(), 2);
    }

    #[test]
    fn a_report_is_read_again_sooner_while_orders_arrive_in_its_range_and_later_if_that_takes_long() {
        let (now, quick, slow) = (Utc::now(), Duration::from_millis(20), Duration::from_millis(400));
        let hours_ago = |hours| now - TimeDelta::hours(hours);
        assert_eq!(max_age(hours_ago(-5), now, quick), MAX_AGE);
        assert_eq!(max_age(hours_ago(20), now, quick), MAX_AGE, "late orders may arrive");
        assert_eq!(max_age(hours_ago(25), now, quick), CLOSED_MAX_AGE);
        assert_eq!(max_age(hours_ago(-5), now, slow), Duration::from_secs(4));
        assert_eq!(max_age(DateTime::<Utc>::MAX_UTC - TimeDelta::days(2), now, quick), MAX_AGE);
    }
}
