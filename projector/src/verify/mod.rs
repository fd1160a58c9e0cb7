//! Compares the read model with the command database, client by client and product by product, while both are in use. The
//! database is right: what differs can be repaired from the event log.
//!
//! A client is right when the orders that its projection says it includes add up to its total, its name and address are
//! those of the newest event included, and what it lacks is on its way. That can be told exactly at any time: the projection
//! is read first, so all that it includes is in the database by the time that is read. (Of a replica of the database that is
//! not so.)

mod clients;
mod products;
mod repair;
pub mod sums;

use std::fmt;
use std::ops::ControlFlow;
use std::time::Duration;

use anyhow::ensure;
use chrono::{DateTime, Utc};
use entity::order_event::{self, Column};
use entity::{Subject, outbox};
use iso_currency::Currency;
use read_model::{Cursor, Error, Redis};
use runtime::one_line;
use sea_orm::sea_query::{Expr, ExprTrait};
use sea_orm::{
    ColumnTrait, Condition, ConnectionTrait, DatabaseConnection, DbBackend, DbErr, EntityTrait, QueryFilter,
    QuerySelect, QueryTrait, Statement,
};
use serde::Serialize;

/// Clients compared in one round trip to each store.
const PAGE: u64 = 2_000;
/// Clients examined at once; each needs a connection to the database.
pub const CONCURRENT: usize = 8;

/// What is wrong with a client or a product.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(tag = "difference", rename_all = "kebab-case", rename_all_fields = "camelCase")]
pub enum Difference {
    /// The read model does not have it.
    Missing { events: u64 },
    /// It lacks events that are not on their way any more.
    Behind { events: u64, version: i32 },
    /// What it includes does not add up.
    Differs { orders: i64, orders_expected: i64, total: i64, total_expected: i64 },
    /// It is in another place among all clients than its total and its last purchase say.
    Misplaced,
    /// It is not called, does not get mail, or does not cost, what the newest event that it includes says.
    Misdescribed,
    /// It includes events that the database does not have, or is not in the database at all.
    Unknown { version: i32 },
    /// What is stored cannot be read.
    Damaged { why: String },
}

impl fmt::Display for Difference {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        match self {
            Difference::Missing { events } => write!(f, "missing: none of {events} events was applied"),
            Difference::Behind { events, version } => write!(f, "behind: {events} events lack above version {version}"),
            Difference::Differs { orders, orders_expected, total, total_expected } => write!(
                f,
                "differs: {orders} orders of {total} in all, where {orders_expected} of {total_expected} were placed"
            ),
            Difference::Misplaced => write!(f, "misplaced: it is ranked by other figures than its own"),
            Difference::Misdescribed => write!(f, "misdescribed: its newest event says something else"),
            Difference::Unknown { version } => write!(f, "unknown: version {version} is not in the database"),
            Difference::Damaged { why } => write!(f, "damaged: {why}"),
        }
    }
}

/// A client or a product that is not right.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Finding {
    #[serde(flatten)]
    pub subject: Subject,
    #[serde(flatten)]
    pub difference: Difference,
    /// Whether it is right now.
    pub repaired: bool,
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        let repaired = if self.repaired { "  (repaired)" } else { "" };
        write!(f, "{:<20} {}{repaired}", self.subject.to_string(), self.difference)
    }
}

/// A store failed; nothing is known of any client.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub(crate) struct StoreFailed(String);

/// What to do about what differs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Repair {
    Nothing,
    /// Make each client that the database has what the log says, unless it includes what the database does not have.
    FromLog,
    /// That, too: takes back what the database does not have, as after it was set back to an older copy.
    AndTakeBack,
}

#[derive(Clone)]
pub struct Verifier {
    pub db: DatabaseConnection,
    pub read_model: Redis,
    pub currency: Currency,
    /// How long after its publication an event may be on its way. One that is not published yet is so for ever.
    pub in_flight: Duration,
    pub repair: Repair,
}

/// A step of [`Verifier::all`].
pub struct Step {
    /// Clients compared so far, and the last of them.
    pub clients: u64,
    pub last: i64,
    /// What this step found.
    pub findings: Vec<Finding>,
}

/// Some clients that were compared.
pub struct Page {
    pub clients: usize,
    /// The last of them: the next page begins after it.
    pub last: i64,
    pub compared: Compared,
}

#[derive(Debug, Default, PartialEq, Eq)]
pub struct Compared {
    pub findings: Vec<Finding>,
    /// Clients that are right so far, but lack events that are on their way.
    pub incomplete: Vec<i64>,
}

enum State {
    Right,
    Incomplete,
    Wrong(Difference),
}

impl Verifier {
    /// # Errors
    /// When the database is a replica: it may not have yet what has been applied.
    pub async fn check_database(&self) -> anyhow::Result<()> {
        if self.db.get_database_backend() == DbBackend::Postgres {
            let query = Statement::from_string(DbBackend::Postgres, "SELECT pg_is_in_recovery() AS replica");
            let row = self.db.query_one_raw(query).await.map_err(database)?;
            let replica = row.is_some_and(|row| row.try_get("", "replica").unwrap_or(false));
            ensure!(!replica, "DATABASE_URL is a replica, which lags behind: give the writer's endpoint");
        }
        Ok(())
    }

    /// Compares all clients after this id, then looks for clients that the database does not have, and compares all products.
    /// Calls `each` after every step.
    pub async fn all(&self, after: i64, mut each: impl FnMut(Step) -> ControlFlow<()>) -> anyhow::Result<()> {
        let (mut clients, mut last) = (0, after);
        while let Some(page) = self.page(last).await? {
            (clients, last) = (clients + page.clients as u64, page.last);
            if each(Step { clients, last, findings: page.compared.findings }).is_break() {
                return Ok(());
            }
        }
        let mut cursor = Some(Cursor::default());
        while let Some(at) = cursor {
            let findings;
            (cursor, findings) = self.strangers(&at).await?;
            if each(Step { clients, last, findings }).is_break() {
                return Ok(());
            }
        }
        let _the_last = each(Step { clients, last, findings: self.all_products().await? });
        Ok(())
    }

    /// How many events wait in the outbox, and since when.
    pub async fn unpublished(&self) -> anyhow::Result<(u64, Option<DateTime<Utc>>)> {
        let waiting = order_event::Entity::find().filter(is_pending()).select_only();
        let waiting = waiting.column_as(Column::Id.count(), "events").column_as(Column::OccurredAt.min(), "since");
        let waiting = waiting.into_tuple::<(i64, Option<DateTime<Utc>>)>().one(&self.db).await.map_err(database)?;
        let (events, since) = waiting.unwrap_or_default();
        Ok((u64::try_from(events).unwrap_or(0), since))
    }

    /// Whether an event should have arrived in the read model by now.
    fn is_overdue(&self) -> Condition {
        Condition::all().add(is_pending().not()).add(Column::OccurredAt.lt(Utc::now() - self.in_flight))
    }
}

/// Whether an event waits in the outbox.
fn is_pending() -> Expr {
    let pending = outbox::Entity::find().select_only().column(outbox::Column::EventId);
    Column::Id.in_subquery(pending.into_query())
}

pub(crate) fn database(error: DbErr) -> StoreFailed {
    StoreFailed(format!("cannot read the command database (a new one needs `migration up`): {}", one_line(&error)))
}

pub(crate) fn read_model(error: Error) -> StoreFailed {
    StoreFailed(one_line(&error))
}
