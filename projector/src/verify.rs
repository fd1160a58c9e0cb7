//! Compares the read model with the command database, client by client, while both are in use. The database is right:
//! what differs can be repaired from the event log.
//!
//! A client is right when the orders that its projection says it includes add up to its total, and what it lacks is on its
//! way. That can be told exactly at any time: the projection is read first, so all that it includes is in the database by
//! the time that is read.

use std::collections::HashMap;
use std::fmt;
use std::time::Duration;

use anyhow::{Context, anyhow};
use chrono::Utc;
use entity::order_event::{self, Column};
use entity::{Event, client, order};
use futures::future::try_join;
use futures::{StreamExt, TryStreamExt, stream};
use iso_currency::Currency;
use process::{crash_point, one_line};
use read_model::{Client, Error, Projected, ReadModel, Redis};
use sea_orm::sea_query::{Expr, ExprTrait};
use sea_orm::{
    ColumnTrait, DatabaseConnection, DbErr, EntityTrait, PaginatorTrait, QueryFilter, QueryOrder, QuerySelect,
    QueryTrait,
};
use serde::Serialize;
use uuid::Uuid;

/// Clients compared in one round trip to each store.
const PAGE: u64 = 2_000;
/// Clients examined at once.
pub const CONCURRENT: usize = 16;
/// Events applied in one round trip.
const EVENTS: u64 = 1_000;
/// How often a repair is tried anew because the client went on meanwhile.
const ATTEMPTS: u32 = 5;

/// What is wrong with a client.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(tag = "difference", rename_all = "kebab-case")]
pub enum Difference {
    /// The read model does not have it.
    Missing { events: usize },
    /// It lacks events that are not on their way any more.
    Behind { events: usize, version: i32 },
    /// What it includes does not add up.
    Differs { orders: i64, orders_expected: i64, total: i64, total_expected: i64 },
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
            Difference::Unknown { version } => write!(f, "unknown: version {version} is not in the database"),
            Difference::Damaged { why } => write!(f, "damaged: {why}"),
        }
    }
}

/// A client that is not right.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Finding {
    pub client: i64,
    #[serde(flatten)]
    pub difference: Difference,
    /// Whether it is right now.
    pub repaired: bool,
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        let repaired = if self.repaired { "  (repaired)" } else { "" };
        write!(f, "client {:<12} {}{repaired}", self.client, self.difference)
    }
}

pub struct Verifier {
    pub db: DatabaseConnection,
    pub read_model: Redis,
    pub currency: Currency,
    /// How long after its publication an event may be on its way. One that is not published yet is so for ever.
    pub in_flight: Duration,
    pub repair: bool,
}

/// Some clients that were compared.
pub struct Page {
    pub clients: usize,
    /// The last of them: the next page begins after it.
    pub last: i64,
    pub findings: Vec<Finding>,
}

impl Verifier {
    /// Compares the next clients after this id; `None` when there are no more.
    pub async fn page(&self, after: i64) -> anyhow::Result<Option<Page>> {
        let clients = client::Entity::find().select_only().columns([client::Column::Id, client::Column::Version]);
        let clients = clients.filter(client::Column::Id.gt(after)).order_by_asc(client::Column::Id).limit(PAGE);
        let clients: Vec<(i64, i32)> = clients.into_tuple().all(&self.db).await.map_err(database)?;
        let Some(&(last, _)) = clients.last() else { return Ok(None) };
        Ok(Some(Page { clients: clients.len(), last, findings: self.compare(&clients).await? }))
    }

    /// How many clients there are after this id.
    pub async fn clients_after(&self, after: i64) -> anyhow::Result<u64> {
        client::Entity::find().filter(client::Column::Id.gt(after)).count(&self.db).await.map_err(database)
    }

    /// The clients, each with its version, that have events after the one id in the log, up to the other.
    pub async fn changed_between(&self, after: Uuid, until: Uuid) -> anyhow::Result<Vec<(i64, i32)>> {
        let changed = order_event::Entity::find()
            .select_only()
            .column(Column::ClientId)
            .filter(Column::Id.gt(after))
            .filter(Column::Id.lte(until))
            .into_query();
        let clients = client::Entity::find().select_only().columns([client::Column::Id, client::Column::Version]);
        let clients = clients.filter(client::Column::Id.in_subquery(changed)).order_by_asc(client::Column::Id);
        clients.into_tuple().all(&self.db).await.map_err(database)
    }

    /// Compares clients, each with its version in the database; returns those that are not right.
    pub async fn compare(&self, clients: &[(i64, i32)]) -> anyhow::Result<Vec<Finding>> {
        let mut findings = Vec::new();
        for clients in clients.chunks(PAGE as usize) {
            findings.extend(self.compare_at_once(clients).await?);
        }
        Ok(findings)
    }

    async fn compare_at_once(&self, clients: &[(i64, i32)]) -> anyhow::Result<Vec<Finding>> {
        let ids: Vec<i64> = clients.iter().map(|(id, _)| *id).collect();
        let sums = order::Entity::find()
            .select_only()
            .column(order::Column::ClientId)
            .column_as(order::Column::Id.count(), "orders")
            .column_as(Expr::col(order::Column::Total).sum().cast_as("bigint"), "total")
            .filter(order::Column::ClientId.is_in(ids.iter().copied()))
            .group_by(order::Column::ClientId)
            .into_tuple::<(i64, i64, i64)>();
        let sums = async { sums.all(&self.db).await.map_err(database) };
        let (sums, projected) = try_join(sums, async { Ok(self.read_model.projected(&ids).await?) }).await?;
        let sums: HashMap<i64, (i64, i64)> =
            sums.into_iter().map(|(id, orders, total)| (id, (orders, total))).collect();

        // Most are as they should be. Whatever is not may also have changed just now.
        let looks_right = |id: &i64, version: i32, projected: &Result<Option<Projected>, Error>| match projected {
            Ok(Some(Projected { client, ahead, .. })) => {
                let (orders, total) = sums.get(id).copied().unwrap_or_default();
                ahead.is_empty() && (client.version, client.order_count, client.total) == (version, orders, total)
            }
            Ok(None) => version == 0,
            Err(_) => false,
        };
        let mut examined = Vec::new();
        for ((id, version), projected) in clients.iter().zip(&projected) {
            if !looks_right(id, *version, projected) {
                examined.push(self.client(*id));
            }
        }
        let findings: Vec<Option<Finding>> = stream::iter(examined).buffered(CONCURRENT).try_collect().await?;
        Ok(findings.into_iter().flatten().collect())
    }

    /// Looks for clients that the database does not have; begins with 0, and returns where to go on, or 0.
    pub async fn strangers(&self, cursor: u64) -> anyhow::Result<(u64, Vec<Finding>)> {
        let (cursor, ids) = self.read_model.scan(cursor).await?;
        if ids.is_empty() {
            return Ok((cursor, Vec::new()));
        }
        let known = client::Entity::find().select_only().column(client::Column::Id);
        let known = known.filter(client::Column::Id.is_in(ids.iter().copied())).into_tuple::<i64>();
        let known: Vec<i64> = known.all(&self.db).await.map_err(database)?;
        let mut findings = Vec::new();
        for id in ids.into_iter().filter(|id| !known.contains(id)) {
            findings.extend(self.client(id).await?);
        }
        Ok((cursor, findings))
    }

    /// Compares one client exactly, and repairs it where that is asked for.
    pub async fn client(&self, id: i64) -> anyhow::Result<Option<Finding>> {
        let Some(difference) = self.examine(id).await? else { return Ok(None) };
        let repaired = self.repair && self.mend(id, &difference).await?;
        Ok(Some(Finding { client: id, difference, repaired }))
    }

    async fn examine(&self, id: i64) -> anyhow::Result<Option<Difference>> {
        let projected = match self.read_model.projected(&[id]).await?.pop().unwrap_or(Ok(None)) {
            Ok(projected) => projected.unwrap_or_else(|| Projected::new(id)),
            Err(Error::Damaged(why)) => return Ok(Some(Difference::Damaged { why })),
            Err(error) => return Err(error.into()),
        };
        let orders = order::Entity::find().select_only().columns([order::Column::Version, order::Column::Total]);
        let orders = orders.filter(order::Column::ClientId.eq(id)).into_tuple::<(i32, i64)>();
        let orders: Vec<(i32, i64)> = orders.all(&self.db).await.map_err(database)?;

        let Projected { client: Client { version, order_count, total, .. }, ahead, .. } = &projected;
        let (included, lacking): (Vec<_>, Vec<_>) = orders.iter().partition(|(version, _)| projected.has(*version));
        let counted = *version as usize + ahead.len();
        if included.len() < counted {
            return Ok(Some(Difference::Unknown { version: ahead.last().copied().unwrap_or(*version) }));
        }
        let (orders_expected, total_expected) = (included.len() as i64, included.iter().map(|(_, total)| total).sum());
        if (*order_count, *total) != (orders_expected, total_expected) {
            let (orders, total) = (*order_count, *total);
            return Ok(Some(Difference::Differs { orders, orders_expected, total, total_expected }));
        }
        let events = self.overdue(id, lacking.iter().map(|(version, _)| *version).collect()).await?;
        Ok(match (events, counted) {
            (0, _) => None,
            (events, 0) => Some(Difference::Missing { events }),
            (events, _) => Some(Difference::Behind { events, version: *version }),
        })
    }

    /// How many of these events should have arrived by now.
    async fn overdue(&self, id: i64, versions: Vec<i32>) -> anyhow::Result<usize> {
        if versions.is_empty() {
            return Ok(0);
        }
        let bound = Utc::now() - self.in_flight;
        let events = order_event::Entity::find().select_only().column(Column::Version);
        let events = events.filter(Column::ClientId.eq(id)).filter(Column::PublishedAt.lt(bound)).into_tuple::<i32>();
        let events: Vec<i32> = events.all(&self.db).await.map_err(database)?;
        Ok(versions.iter().filter(|version| events.contains(version)).count())
    }

    /// Makes a client what the event log says; returns whether it is that now.
    async fn mend(&self, id: i64, difference: &Difference) -> anyhow::Result<bool> {
        // What is only missing is applied once more.
        if matches!(difference, Difference::Missing { .. } | Difference::Behind { .. }) {
            let mut after = 0;
            while let Some(events) = self.log(id, after).await? {
                after = events.last().map_or(after, |event| event.version);
                crash_point("repair-mid-log");
                self.read_model.apply(&events).await.into_iter().collect::<Result<Vec<_>, _>>()?;
            }
            if self.examine(id).await?.is_none() {
                return Ok(true);
            }
        }
        for _ in 0..ATTEMPTS {
            let mut projected = Projected::new(id);
            while let Some(events) = self.log(id, projected.newest).await? {
                for event in &events {
                    projected.apply(event).with_context(|| format!("event {} cannot be applied", event.id))?;
                }
            }
            if projected.newest == 0 {
                self.read_model.remove(id).await?;
                return Ok(true);
            }
            // An event that the log does not have would count as newer than all it has.
            if matches!(difference, Difference::Unknown { .. }) {
                self.read_model.remove(id).await?;
            }
            crash_point("repair-before-replace");
            if self.read_model.replace(&projected).await? && self.examine(id).await?.is_none() {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// The next events of a client after a version; `None` when there are no more.
    async fn log(&self, id: i64, after: i32) -> anyhow::Result<Option<Vec<Event>>> {
        let rows = order_event::Entity::find().filter(Column::ClientId.eq(id)).filter(Column::Version.gt(after));
        let rows = rows.order_by_asc(Column::Version).limit(EVENTS).all(&self.db).await.map_err(database)?;
        let events = rows.into_iter().map(|row| {
            let id = row.id;
            Event::from_row(row, self.currency.code())
                .with_context(|| format!("event {id} of the log is not understood"))
        });
        let events = events.collect::<anyhow::Result<Vec<_>>>()?;
        Ok(Some(events).filter(|events| !events.is_empty()))
    }
}

fn database(error: DbErr) -> anyhow::Error {
    anyhow!("cannot read the command database (a new one needs `migration up`): {}", one_line(&error))
}
