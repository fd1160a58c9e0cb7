//! Compares the read model with the command database, client by client and product by product, while both are in use. The
//! database is right: what differs can be repaired from the event log.
//!
//! A client is right when the orders that its projection says it includes add up to its total, its name and address are
//! those of the newest event included, and what it lacks is on its way. That can be told exactly at any time: the projection
//! is read first, so all that it includes is in the database by the time that is read. (Of a replica of the database that is
//! not so.)

use std::collections::{BTreeSet, HashMap};
use std::fmt;
use std::ops::ControlFlow;
use std::time::Duration;

use anyhow::{Context, ensure};
use chrono::{DateTime, Utc};
use entity::order_event::{self, Column};
use entity::{Change, Event, Subject, client, order, product};
use futures::future::try_join;
use futures::{StreamExt, TryStreamExt, stream};
use iso_currency::Currency;
use read_model::{Client, Cursor, Error, Product, Projected, ReadModel, Redis};
use runtime::{crash_point, crash_points, one_line};
use sea_orm::sea_query::{Expr, ExprTrait};
use sea_orm::{
    ColumnTrait, Condition, ConnectionTrait, DatabaseConnection, DbBackend, DbErr, EntityTrait, PaginatorTrait,
    QueryFilter, QueryOrder, QuerySelect, Statement,
};
use serde::Serialize;
use tracing::warn;
use uuid::Uuid;

/// Clients compared in one round trip to each store.
const PAGE: u64 = 2_000;
/// Clients examined at once; each needs a connection to the database.
pub const CONCURRENT: usize = 8;
/// Events applied in one round trip.
const EVENTS: u64 = 1_000;
/// How often a repair is tried anew because the client went on meanwhile.
const ATTEMPTS: u32 = 5;

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
        let waiting = order_event::Entity::find().filter(Column::PublishedAt.is_null()).select_only();
        let waiting = waiting.column_as(Column::Id.count(), "events").column_as(Column::OccurredAt.min(), "since");
        let waiting = waiting.into_tuple::<(i64, Option<DateTime<Utc>>)>().one(&self.db).await.map_err(database)?;
        let (events, since) = waiting.unwrap_or_default();
        Ok((u64::try_from(events).unwrap_or(0), since))
    }

    /// How many clients there are after this id.
    pub async fn clients_after(&self, after: i64) -> anyhow::Result<u64> {
        Ok(client::Entity::find().filter(client::Column::Id.gt(after)).count(&self.db).await.map_err(database)?)
    }

    /// Compares the next clients after this id; `None` when there are no more.
    pub async fn page(&self, after: i64) -> anyhow::Result<Option<Page>> {
        let clients = client::Entity::find().filter(client::Column::Id.gt(after)).order_by_asc(client::Column::Id);
        let clients = clients.limit(PAGE).all(&self.db).await.map_err(database)?;
        let Some(last) = clients.last().map(|client| client.id) else { return Ok(None) };
        Ok(Some(Page { clients: clients.len(), last, compared: self.compare(&clients).await? }))
    }

    /// The ids of clients, and of products, that have events after the one id in the log, up to the other.
    pub async fn changed_between(&self, after: Uuid, until: Uuid) -> anyhow::Result<(Vec<i64>, Vec<i64>)> {
        let changed =
            order_event::Entity::find().select_only().columns([Column::ClientId, Column::ProductId]).distinct();
        let changed = changed.filter(Column::Id.gt(after)).filter(Column::Id.lte(until));
        let changed: Vec<(Option<i64>, Option<i64>)> = changed.into_tuple().all(&self.db).await.map_err(database)?;
        let (clients, products): (Vec<_>, Vec<_>) = changed.into_iter().unzip();
        Ok((clients.into_iter().flatten().collect(), products.into_iter().flatten().collect()))
    }

    /// Compares the clients of these ids.
    pub async fn clients(&self, ids: &[i64]) -> anyhow::Result<Compared> {
        let mut compared = Compared::default();
        for ids in ids.chunks(PAGE as usize) {
            let clients = client::Entity::find().filter(client::Column::Id.is_in(ids.iter().copied()));
            let clients = clients.all(&self.db).await.map_err(database)?;
            let Compared { findings, incomplete } = self.compare(&clients).await?;
            compared.findings.extend(findings);
            compared.incomplete.extend(incomplete);
        }
        Ok(compared)
    }

    /// Compares clients, as the database has them.
    async fn compare(&self, clients: &[client::Model]) -> anyhow::Result<Compared> {
        let ids: Vec<i64> = clients.iter().map(|client| client.id).collect();
        let sums = sums_of_orders().column(order::Column::ClientId).group_by(order::Column::ClientId);
        let sums = sums.filter(order::Column::ClientId.is_in(ids.iter().copied())).into_tuple::<(i64, i64, i64)>();
        let sums = async { sums.all(&self.db).await.map_err(database) };
        let projected = async { self.read_model.projected(&ids).await.map_err(read_model) };
        let ((sums, projected), ranks) = try_join(try_join(sums, projected), self.ranks(&ids)).await?;
        let sums: HashMap<i64, (i64, i64)> =
            sums.into_iter().map(|(orders, total, id)| (id, (orders, total))).collect();

        // Most are as they should be. Whatever is not may also have changed just now.
        let looks_right = |row: &client::Model, projected: &Result<Option<Projected>, Error>| match projected {
            Ok(Some(Projected { client, ahead, .. })) => {
                let (orders, total) = sums.get(&row.id).copied().unwrap_or_default();
                ahead.is_empty()
                    && (client.version, client.order_count, client.total) == (row.version, orders, total)
                    && (&client.name, &client.email) == (&row.name, &row.email)
            }
            Ok(None) => row.version == 0,
            Err(_) => false,
        };
        let mut examined = Vec::new();
        for ((row, projected), ranks) in clients.iter().zip(&projected).zip(ranks) {
            if !looks_right(row, projected) || !are_its_own(ranks, projected) {
                examined.push(self.client(row.id));
            }
        }
        let examined: Vec<Compared> = stream::iter(examined).buffered(CONCURRENT).try_collect().await?;
        let mut compared = Compared::default();
        for Compared { findings, incomplete } in examined {
            compared.findings.extend(findings);
            compared.incomplete.extend(incomplete);
        }
        Ok(compared)
    }

    /// By what clients are ranked; `None` where that cannot be told, by a generation of an older release.
    async fn ranks(&self, ids: &[i64]) -> Result<Vec<Option<Ranks>>, StoreFailed> {
        if !self.read_model.has_reports().await.map_err(read_model)? {
            return Ok(vec![None; ids.len()]);
        }
        match self.read_model.ranks(ids).await {
            Ok(ranks) => Ok(ranks.into_iter().map(Some).collect()),
            // Nobody is where it should be.
            Err(Error::Damaged(_)) => Ok(vec![Some([None; 2]); ids.len()]),
            Err(error) => Err(read_model(error)),
        }
    }

    /// Looks for clients that the database does not have; returns where to go on, if that was not all.
    async fn strangers(&self, cursor: &Cursor) -> anyhow::Result<(Option<Cursor>, Vec<Finding>)> {
        let (cursor, ids) = self.read_model.scan(cursor).await.map_err(read_model)?;
        if ids.is_empty() {
            return Ok((cursor, Vec::new()));
        }
        let known = client::Entity::find().select_only().column(client::Column::Id);
        let known = known.filter(client::Column::Id.is_in(ids.iter().copied())).into_tuple::<i64>();
        let known: Vec<i64> = known.all(&self.db).await.map_err(database)?;
        let mut findings = Vec::new();
        for id in ids.into_iter().filter(|id| !known.contains(id)) {
            findings.extend(self.client(id).await?.findings);
        }
        Ok((cursor, findings))
    }

    /// Compares one client exactly, and repairs it where that is asked for.
    async fn client(&self, id: i64) -> anyhow::Result<Compared> {
        let difference = match self.examine(id).await? {
            State::Right => return Ok(Compared::default()),
            State::Incomplete => return Ok(Compared { findings: Vec::new(), incomplete: vec![id] }),
            State::Wrong(difference) => difference,
        };
        let finding = self.finding(Subject::Client(id), difference, self.mend(id)).await?;
        Ok(Compared { findings: vec![finding], incomplete: Vec::new() })
    }

    async fn examine(&self, id: i64) -> anyhow::Result<State> {
        let projected = self.read_model.projected(&[id]).await.map_err(read_model)?.pop().unwrap_or(Ok(None));
        let projected = match projected {
            Ok(projected) => projected.unwrap_or_else(|| Projected::new(id)),
            Err(Error::Damaged(why)) => return Ok(State::Wrong(Difference::Damaged { why })),
            Err(error) => return Err(read_model(error).into()),
        };
        let Projected { client: Client { version, order_count, total, .. }, ahead, newest } = &projected;
        // As numbers in the text: there may be more than a statement has parameters.
        let list = ahead.iter().map(ToString::to_string).collect::<Vec<_>>().join(",");
        let is_ahead = (!list.is_empty()).then(|| Expr::cust(format!("version IN ({list})")));

        let included = |below: Expr| Condition::any().add(below).add_option(is_ahead.clone());
        let of_client = order_event::Entity::find().filter(Column::ClientId.eq(id));
        let known = of_client.clone().filter(included(Column::Version.lte(*version)));
        let counted = u64::try_from(*version).unwrap_or(0) + ahead.len() as u64;
        if known.count(&self.db).await.map_err(database)? < counted {
            return Ok(State::Wrong(Difference::Unknown { version: ahead.last().copied().unwrap_or(*version) }));
        }
        let sums = sums_of_orders().filter(order::Column::ClientId.eq(id));
        let sums = sums.filter(included(order::Column::Version.lte(*version)));
        let sums = sums.into_tuple::<(i64, Option<i64>)>().one(&self.db).await.map_err(database)?;
        let (orders_expected, total_expected) = sums.map_or((0, 0), |(orders, total)| (orders, total.unwrap_or(0)));
        if (*order_count, *total) != (orders_expected, total_expected) {
            let (orders, total) = (*order_count, *total);
            return Ok(State::Wrong(Difference::Differs { orders, orders_expected, total, total_expected }));
        }

        if counted > 0 {
            let event = of_client.clone().filter(Column::Version.eq(*newest)).one(&self.db).await.map_err(database)?;
            // Where the log itself is not understood it tells nothing.
            let event = event.and_then(|row| Event::from_row(row, self.currency.code()).ok());
            let of_event = event.as_ref().and_then(Event::client).map(|client| (client.name, client.email));
            if of_event.is_some_and(|told| told != (&projected.client.name, &projected.client.email)) {
                return Ok(State::Wrong(Difference::Misdescribed));
            }
        }

        // The client is read once more, after its ranks: what was applied meanwhile is not taken for a difference.
        let ranks = self.ranks(&[id]).await?.pop().flatten();
        let again = self.read_model.projected(&[id]).await.map_err(read_model)?.pop().unwrap_or(Ok(None));
        let unchanged = matches!(&again, Ok(again) if again.as_ref().is_none_or(|again| *again == projected));
        if unchanged && !are_its_own(ranks, &again) {
            return Ok(State::Wrong(Difference::Misplaced));
        }

        let lacking = of_client.filter(Column::Version.gt(*version));
        let lacking = lacking.filter(Condition::all().add_option(is_ahead.map(Expr::not)));
        let overdue = lacking.clone().filter(Column::PublishedAt.lt(Utc::now() - self.in_flight));
        let overdue = overdue.count(&self.db).await.map_err(database)?;
        Ok(match (overdue, counted) {
            (0, _) if lacking.count(&self.db).await.map_err(database)? == 0 => State::Right,
            (0, _) => State::Incomplete,
            (events, 0) => State::Wrong(Difference::Missing { events }),
            (events, _) => State::Wrong(Difference::Behind { events, version: *version }),
        })
    }

    /// What differs, after it was mended where that is asked for.
    async fn finding(
        &self,
        subject: Subject,
        difference: Difference,
        mend: impl Future<Output = anyhow::Result<bool>>,
    ) -> anyhow::Result<Finding> {
        let needed = match difference {
            Difference::Unknown { .. } => Repair::AndTakeBack,
            _ => Repair::FromLog,
        };
        let repaired = self.repair >= needed
            && match mend.await {
                Err(error) if !error.is::<StoreFailed>() => {
                    // It must not keep the others from being repaired.
                    warn!(%subject, "cannot be repaired: {}", one_line(error.as_ref()));
                    false
                }
                repaired => repaired?,
            };
        Ok(Finding { subject, difference, repaired })
    }

    /// Compares all products, and repairs them where that is asked for.
    pub async fn all_products(&self) -> anyhow::Result<Vec<Finding>> {
        let stored = self.read_model.product_ids().await.map_err(read_model)?;
        let known = product::Entity::find().select_only().column(product::Column::Id).into_tuple::<i64>();
        let known = known.all(&self.db).await.map_err(database)?;
        let all: BTreeSet<i64> = stored.into_iter().chain(known).collect();
        self.products(&all.into_iter().collect::<Vec<_>>()).await
    }

    /// The same of the products of these ids.
    pub async fn products(&self, all: &[i64]) -> anyhow::Result<Vec<Finding>> {
        let mut findings = Vec::new();
        for ids in all.chunks(PAGE as usize) {
            for (id, difference) in self.wrong_products(ids).await? {
                findings.push(self.finding(Subject::Product(id), difference, self.mend_product(id)).await?);
            }
        }
        Ok(findings)
    }

    async fn wrong_products(&self, ids: &[i64]) -> anyhow::Result<Vec<(i64, Difference)>> {
        // First, as with clients.
        let projected = self.read_model.each_product(ids).await.map_err(read_model)?;
        let rows = product::Entity::find().filter(product::Column::Id.is_in(ids.iter().copied()));
        let rows = rows.all(&self.db).await.map_err(database)?;
        let rows: HashMap<i64, product::Model> = rows.into_iter().map(|row| (row.id, row)).collect();
        let mut wrong = Vec::new();
        for (id, projected) in ids.iter().zip(projected) {
            let as_stored = |product: &Product| (product.version, product.name.clone(), product.price);
            let known = rows.get(id).map(|row| (row.version, row.name.clone(), row.price));
            let is_right = match &projected {
                Ok(Some(product)) => Some(as_stored(product)) == known,
                Ok(None) => known.is_none_or(|(version, ..)| version == 0),
                Err(_) => false,
            };
            if !is_right && let Some(difference) = self.difference_of_product(*id, projected).await? {
                wrong.push((*id, difference));
            }
        }
        Ok(wrong)
    }

    /// By the log alone: what somebody did to the database by hand has no event.
    async fn difference_of_product(
        &self,
        id: i64,
        projected: Result<Option<Product>, Error>,
    ) -> anyhow::Result<Option<Difference>> {
        let projected = match projected {
            Ok(projected) => projected,
            Err(Error::Damaged(why)) => return Ok(Some(Difference::Damaged { why })),
            Err(error) => return Err(read_model(error).into()),
        };
        let version = projected.as_ref().map_or(0, |product| product.version);
        let of_product = order_event::Entity::find().filter(Column::ProductId.eq(id));
        if let Some(product) = &projected {
            let event = of_product.clone().filter(Column::Version.eq(version)).one(&self.db).await.map_err(database)?;
            let Some(event) = event else { return Ok(Some(Difference::Unknown { version })) };
            // Where the log itself is not understood it tells nothing.
            if let Ok(Event { data: Change::Product(told), .. }) = Event::from_row(event, self.currency.code())
                && (&told.name, told.price) != (&product.name, product.price)
            {
                return Ok(Some(Difference::Misdescribed));
            }
        }
        let overdue = of_product.filter(Column::Version.gt(version));
        let overdue = overdue.filter(Column::PublishedAt.lt(Utc::now() - self.in_flight));
        Ok(match overdue.count(&self.db).await.map_err(database)? {
            0 => None,
            events if version == 0 => Some(Difference::Missing { events }),
            events => Some(Difference::Behind { events, version }),
        })
    }

    /// Makes a product what its newest event says; returns whether it is that now.
    async fn mend_product(&self, id: i64) -> anyhow::Result<bool> {
        let newest = async || {
            let newest = order_event::Entity::find().filter(Column::ProductId.eq(id)).order_by_desc(Column::Version);
            let newest = newest.one(&self.db).await.map_err(database)?;
            let event = newest.map(|row| Event::from_row(row, self.currency.code())).transpose();
            event.with_context(|| format!("the newest event of product {id} is not understood"))
        };
        newest().await?;
        self.read_model.forget_product(id).await.map_err(read_model)?;
        crash_point(crash_points::REPAIR_PRODUCT);
        // Read once more: what was applied before it was forgotten is in the log by now.
        if let Some(event) = newest().await? {
            for result in self.read_model.apply(std::slice::from_ref(&event)).await {
                result.map_err(read_model)?;
            }
        }
        Ok(self.wrong_products(&[id]).await?.is_empty())
    }

    /// Makes a client what the event log says; returns whether it is that now.
    async fn mend(&self, id: i64) -> anyhow::Result<bool> {
        for _ in 0..ATTEMPTS {
            // Before the log is read: what is applied later is newer, or in the log.
            let newest = self.read_model.newest(id).await.map_err(read_model)?;
            let mut projected = Projected::new(id);
            while let Some(events) = self.log(id, projected.newest).await? {
                for event in &events {
                    projected.apply(event).with_context(|| format!("event {} cannot be applied", event.id))?;
                }
                // What lacks is applied as it would have been, so that it counts for more than its client.
                for result in self.read_model.apply(&events).await {
                    match result {
                        Err(error @ Error::Unavailable(_)) => return Err(read_model(error).into()),
                        Ok(_) | Err(Error::Damaged(_)) => {}
                    }
                }
                crash_point(crash_points::REPAIR_MID_LOG);
            }
            if !matches!(self.examine(id).await?, State::Wrong(_)) {
                return Ok(true);
            }
            crash_point(crash_points::REPAIR_BEFORE_REPLACE);
            let replaced = self.read_model.replace(&projected, &newest).await.map_err(read_model)?;
            if replaced && !matches!(self.examine(id).await?, State::Wrong(_)) {
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

/// By what a client is ranked: by total, and by last purchase.
type Ranks = [Option<i64>; 2];

/// Whether a client is ranked by its own figures, as far as that can be told.
fn are_its_own(ranks: Option<Ranks>, projected: &Result<Option<Projected>, Error>) -> bool {
    match (ranks, projected) {
        (Some(ranks), Ok(Some(Projected { client, .. }))) => {
            // Ranks are exact to 53 bits.
            let last = client.last_purchase.map_or(0, |time| time.timestamp_millis());
            ranks == [Some(client.total as f64 as i64), Some(last)]
        }
        (Some(ranks), Ok(None)) => ranks == [None; 2],
        (None, _) | (_, Err(_)) => true,
    }
}

/// How many orders there are, and what they add up to.
fn sums_of_orders() -> sea_orm::Select<order::Entity> {
    order::Entity::find()
        .select_only()
        .column_as(order::Column::Id.count(), "orders")
        .column_as(Expr::col(order::Column::Total).sum().cast_as("bigint"), "total")
}

pub(crate) fn database(error: DbErr) -> StoreFailed {
    StoreFailed(format!("cannot read the command database (a new one needs `migration up`): {}", one_line(&error)))
}

pub(crate) fn read_model(error: Error) -> StoreFailed {
    StoreFailed(one_line(&error))
}
