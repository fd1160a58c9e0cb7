//! Compares the read model with the command database while both are in use, and repairs differences from the event log. The
//! database is right.
//!
//! The read model is read first and the database second, so the database has all events that the read model includes. That
//! makes the comparison exact at any time. `compare` is only a filter; `examine` reads in this order. A replica of the database
//! may lag behind, so it is refused.
//!
//! An event may still be on its way: in the outbox, or in the queue. Nothing records when an event left the outbox. So an event
//! is reported as missing only if a second comparison, `in_flight` after the first, also misses it ([`FirstMissed`]).

mod clients;
mod counted;
mod finding;
mod first_missed;
pub mod log;
mod money;
mod periods;
mod placed;
mod placed_cache;
mod products;
mod recent;
mod repair;
mod shortfall;
mod stored;
pub mod sums;
mod wrong_sum;

use std::ops::ControlFlow;
use std::time::Duration;

use chrono::{DateTime, Utc};
use entity::order_event::{self, Column};
use entity::{Subject, outbox, product, refused_event};
use iso_currency::Currency;
use read_model::{Cursor, Error, Redis};
use runtime::one_line;
use sea_orm::sea_query::{Expr, ExprTrait};
use sea_orm::{
    ColumnTrait, ConnectionTrait, DatabaseConnection, DbErr, EntityTrait, QueryFilter, QueryOrder, QuerySelect,
    QueryTrait, Select, Statement,
};
use tokio::time::sleep;
use uuid::Uuid;

pub use finding::{Difference, Finding};
pub use first_missed::FirstMissed;
pub use money::Money;
use placed_cache::PlacedOrders;

/// Clients or products compared by one call to each store.
pub const COMPARED_AT_ONCE: u64 = 2_000;
/// Clients examined concurrently. Each needs a connection to the database.
pub const CONCURRENT_CLIENTS: usize = 8;
/// How often missing events are looked for again, until they arrive or are overdue.
const LOOK_AGAIN: Duration = Duration::from_secs(1);

/// A store failed, so the comparison has no result.
#[derive(Clone, Debug, thiserror::Error)]
#[error("{0}")]
pub(crate) struct StoreFailed(String);

/// Which differences are repaired.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Repair {
    Off,
    /// Repair each client and product from the event log, unless it includes events that the database does not have.
    FromLog,
    /// Also remove clients and events that the database does not have, for example after restoring a backup.
    RemoveOrphans,
}

#[derive(Clone)]
pub struct Verifier {
    pub db: DatabaseConnection,
    pub read_model: Redis,
    pub currency: Currency,
    /// How long a published event may take to reach the read model.
    pub in_flight: Duration,
    pub repair: Repair,
    pub(crate) placed: PlacedOrders,
}

/// Progress of [`Verifier::all`].
pub struct Progress {
    /// Clients compared so far.
    pub clients: u64,
    /// All clients up to this id have been compared completely.
    pub last: i64,
    /// Differences that this step found.
    pub findings: Vec<Finding>,
}

impl Verifier {
    pub fn new(
        db: DatabaseConnection,
        read_model: Redis,
        currency: Currency,
        in_flight: Duration,
        repair: Repair,
    ) -> Verifier {
        Verifier { db, read_model, currency, in_flight, repair, placed: PlacedOrders::default() }
    }

    /// A verifier of the generation that is live now.
    pub async fn pinned_to_live(&self) -> anyhow::Result<Verifier> {
        Ok(Verifier { read_model: self.read_model.pinned_to_live().await.map_err(read_model)?, ..self.clone() })
    }

    /// # Errors
    /// If the database or the read model does not respond.
    pub async fn check_stores(&self) -> anyhow::Result<()> {
        self.client_after(0).await?;
        Ok(self.read_model.ping().await.map_err(read_model)?)
    }

    /// Compares all clients after this id, then looks for clients that the database does not have, and compares all products.
    /// Finally compares again the clients and products that missed events. Calls `each` after every step.
    pub async fn all(&self, after: i64, mut each: impl FnMut(Progress) -> ControlFlow<()>) -> anyhow::Result<()> {
        let (mut clients, mut compared, mut first_missed) = (0, after, FirstMissed::default());
        while let Some(page) = self.next_clients(compared, COMPARED_AT_ONCE, &mut first_missed).await? {
            (clients, compared) = (clients + page.clients as u64, page.last);
            let last = first_missed.before_first_client().unwrap_or(compared);
            if each(Progress { clients, last, findings: page.findings }).is_break() {
                return Ok(());
            }
        }
        let mut each = |findings, first_missed: &FirstMissed| {
            let last = first_missed.before_first_client().unwrap_or(compared);
            each(Progress { clients, last, findings }).is_break()
        };
        let mut cursor = Some(Cursor::default());
        while let Some(at) = cursor {
            let findings;
            (cursor, findings) = self.orphans(&at, &mut first_missed).await?;
            if each(findings, &first_missed) {
                return Ok(());
            }
        }
        let mut last_product = 0;
        while let Some(page) = self.next_products(last_product, &mut first_missed).await? {
            last_product = page.last;
            if each(page.findings, &first_missed) {
                return Ok(());
            }
        }
        let mut interrupted = each(self.orphaned_products(&mut first_missed).await?, &first_missed);
        first_missed.close();
        while !interrupted && !first_missed.is_empty() {
            sleep(LOOK_AGAIN.min(self.in_flight)).await;
            let subjects = first_missed.subjects();
            let findings = self.subjects(&subjects, &mut first_missed).await?;
            interrupted = each(findings, &first_missed);
        }
        Ok(())
    }

    /// Compares some clients and some products that follow random ids.
    pub async fn sample(&self, count: u64, first_missed: &mut FirstMissed) -> anyhow::Result<Vec<Finding>> {
        let last = self.last_client().await?;
        let mut findings = match self.next_clients(random_before(last, count), count, first_missed).await? {
            Some(page) => page.findings,
            None => Vec::new(),
        };
        let ids = product::Entity::find().select_only().column(product::Column::Id);
        let last = ids.clone().order_by_desc(product::Column::Id).into_tuple::<i64>().one(&self.db);
        let last = last.await.map_err(database)?.unwrap_or(0);
        let ids = ids.filter(product::Column::Id.gt(random_before(last, count))).order_by_asc(product::Column::Id);
        let ids: Vec<i64> = ids.limit(count).into_tuple().all(&self.db).await.map_err(database)?;
        findings.extend(self.products(&ids, first_missed).await?);
        Ok(findings)
    }

    /// Compares these clients and products.
    pub async fn subjects(&self, subjects: &[Subject], first_missed: &mut FirstMissed) -> anyhow::Result<Vec<Finding>> {
        let (mut clients, mut products) = (Vec::new(), Vec::new());
        for subject in subjects {
            match subject {
                Subject::Client(id) => clients.push(*id),
                Subject::Product(id) => products.push(*id),
            }
        }
        let mut findings = self.clients(&clients, first_missed).await?;
        findings.extend(self.products(&products, first_missed).await?);
        Ok(findings)
    }

    /// How many events are not published, and when the oldest of them occurred.
    pub async fn unpublished(&self) -> anyhow::Result<(u64, Option<DateTime<Utc>>)> {
        let occurred = "SELECT (SELECT occurred_at FROM order_events WHERE id = event_id) AS occurred_at FROM";
        let sql = format!(
            "SELECT COUNT(*) AS events, MIN(occurred_at) AS since FROM ({occurred} ({UNPUBLISHED}) AS ids) AS times"
        );
        let row = self.db.query_one_raw(Statement::from_string(self.db.get_database_backend(), sql)).await;
        let Some(row) = row.map_err(database)? else { return Ok((0, None)) };
        let events: i64 = row.try_get("", "events").map_err(database)?;
        Ok((u64::try_from(events).unwrap_or(0), row.try_get("", "since").map_err(database)?))
    }
}

/// The ids of the events that are not published.
const UNPUBLISHED: &str = "SELECT event_id FROM outbox UNION ALL SELECT event_id FROM refused_events";

/// The versions in a log after one version that are not in the outbox, ascending, and whether others are in the outbox. Skips
/// versions that the read model includes.
async fn missing_versions(
    db: &DatabaseConnection,
    log: Select<order_event::Entity>,
    after: i32,
    is_included: impl Fn(i32) -> bool,
) -> Result<(Vec<i32>, bool), StoreFailed> {
    let rows = log.filter(Column::Version.gt(after)).select_only().column(Column::Version);
    let rows = rows.expr_as(is_pending(), "pending").order_by_asc(Column::Version);
    let rows = rows.into_tuple::<(i32, bool)>().all(db).await.map_err(database)?;
    let missing = rows.into_iter().filter(|(version, _)| !is_included(*version));
    let (pending, published): (Vec<_>, Vec<_>) = missing.partition(|(_, pending)| *pending);
    Ok((published.into_iter().map(|(version, _)| version).collect(), !pending.is_empty()))
}

/// Whether an event is not published.
fn is_pending() -> Expr {
    let id = Expr::col((order_event::Entity, Column::Id));
    let outbox = outbox::Entity::find().filter(outbox::Column::EventId.into_expr().eq(id.clone()));
    let refused = refused_event::Entity::find().filter(refused_event::Column::EventId.into_expr().eq(id));
    Expr::exists(outbox.select_only().column(outbox::Column::EventId).into_query())
        .or(Expr::exists(refused.select_only().column(refused_event::Column::EventId).into_query()))
}

/// A random id, so much below the ids up to the last one that each of them may be among the next `count`.
fn random_before(last: i64, count: u64) -> i64 {
    let (_, random) = Uuid::now_v7().as_u64_pair();
    let random = random % (last.unsigned_abs() + 1);
    i64::try_from(random).unwrap_or(0) - i64::try_from(count).unwrap_or(0)
}

pub(crate) fn database(error: DbErr) -> StoreFailed {
    StoreFailed(format!("cannot read the command database (a new one needs `migration up`): {}", one_line(&error)))
}

pub(crate) fn read_model(error: Error) -> StoreFailed {
    StoreFailed(one_line(&error))
}
