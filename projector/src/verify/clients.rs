//! Compares clients.
//!
//! A client is right when the orders of the versions that it includes add up to its total, the newest of them is its last
//! purchase, its name and e-mail address are those of its newest event, its places in the rankings match, and none of its recent
//! orders is missing.

use std::collections::{HashMap, HashSet};

use chrono::{DateTime, Utc};
use entity::order_event::{self, Column};
use entity::{Event, Subject, client, order};
use futures::future::try_join;
use futures::{StreamExt, TryStreamExt, stream};
use read_model::rules::sales::RECENT_ORDERS;
use read_model::{Client, Cursor, Error, ProjectedClient, RankedAndRecent};
use sea_orm::sea_query::{Expr, ExprTrait};
use sea_orm::{ColumnTrait, Condition, EntityTrait, PaginatorTrait, QueryFilter, QueryOrder, QuerySelect};
use uuid::Uuid;

use super::first_missed::{Examined, Missing};
use super::{
    COMPARED_AT_ONCE, CONCURRENT_CLIENTS, Difference, Finding, FirstMissed, Money, StoreFailed, Verifier, database,
    is_one_of, missing_versions, read_model,
};

/// Clients that were compared.
pub struct ClientPage {
    pub clients: usize,
    /// The largest id. The next page begins after it.
    pub last: i64,
    pub findings: Vec<Finding>,
}

impl Verifier {
    pub async fn clients_after(&self, after: i64) -> anyhow::Result<u64> {
        Ok(client::Entity::find().filter(client::Column::Id.gt(after)).count(&self.db).await.map_err(database)?)
    }

    /// The next client after this id.
    pub async fn client_after(&self, after: i64) -> anyhow::Result<Option<i64>> {
        let next = client::Entity::find().filter(client::Column::Id.gt(after)).order_by_asc(client::Column::Id);
        let next = next.select_only().column(client::Column::Id).into_tuple().one(&self.db);
        Ok(next.await.map_err(database)?)
    }

    /// Compares the next clients after this id, so many at most; `None` when there are no more.
    pub async fn next_clients(
        &self,
        after: i64,
        count: u64,
        first_missed: &mut FirstMissed,
    ) -> anyhow::Result<Option<ClientPage>> {
        let rows = client::Entity::find().filter(client::Column::Id.gt(after)).order_by_asc(client::Column::Id);
        let rows = rows.limit(count).all(&self.db).await.map_err(database)?;
        let Some(last) = rows.last().map(|client| client.id) else { return Ok(None) };
        let of_clients = order::Column::ClientId.gt(after).and(order::Column::ClientId.lte(last));
        let findings = self.compare(&rows, of_clients, first_missed).await?;
        Ok(Some(ClientPage { clients: rows.len(), last, findings }))
    }

    /// The clients and products that have events in the log range (after, until].
    pub async fn changed_between(&self, after: Uuid, until: Uuid) -> anyhow::Result<Vec<Subject>> {
        let changed =
            order_event::Entity::find().select_only().columns([Column::ClientId, Column::ProductId]).distinct();
        let changed = changed.filter(Column::Id.gt(after)).filter(Column::Id.lte(until));
        let changed: Vec<(Option<i64>, Option<i64>)> = changed.into_tuple().all(&self.db).await.map_err(database)?;
        let subject = |(client, product): (Option<i64>, Option<i64>)| {
            client.map(Subject::Client).or(product.map(Subject::Product))
        };
        Ok(changed.into_iter().filter_map(subject).collect())
    }

    pub(super) async fn clients(&self, ids: &[i64], first_missed: &mut FirstMissed) -> anyhow::Result<Vec<Finding>> {
        let mut findings = Vec::new();
        for ids in ids.chunks(COMPARED_AT_ONCE as usize) {
            let rows = client::Entity::find().filter(is_one_of(&self.db, client::Column::Id, ids));
            let rows = rows.all(&self.db).await.map_err(database)?;
            if rows.len() < ids.len() {
                let gone = ids.iter().filter(|id| !rows.iter().any(|row| row.id == **id));
                gone.for_each(|id| first_missed.forget(Subject::Client(*id)));
            }
            let of_clients = is_one_of(&self.db, order::Column::ClientId, ids);
            findings.extend(self.compare(&rows, of_clients, first_missed).await?);
        }
        Ok(findings)
    }

    /// Compares many clients at once with their rows and orders, and examines those that seem to differ. Most do not.
    async fn compare(
        &self,
        rows: &[client::Model],
        of_clients: Expr,
        first_missed: &mut FirstMissed,
    ) -> anyhow::Result<Vec<Finding>> {
        let ids: Vec<i64> = rows.iter().map(|client| client.id).collect();
        let sums = sums_of_orders().column(order::Column::ClientId).group_by(order::Column::ClientId);
        let sums = sums.filter(of_clients).into_tuple::<(i64, i64, Option<DateTime<Utc>>, i64)>();
        let sums = async { sums.all(&self.db).await.map_err(database) };
        let projected = async { self.read_model.projected_clients(&ids).await.map_err(read_model) };
        let ((sums, projected), others) = try_join(try_join(sums, projected), self.ranked_and_recent(&ids)).await?;
        let sums: HashMap<i64, _> =
            sums.into_iter().map(|(orders, total, last, id)| (id, (orders, total, milliseconds(last)))).collect();

        let matches_row = |row: &client::Model, projected: Option<&ProjectedClient>| match projected {
            Some(ProjectedClient { client, ahead, .. }) => {
                let stored = (client.order_count, client.total, milliseconds(client.last_purchase));
                ahead.is_empty()
                    && client.version == row.version
                    && stored == sums.get(&row.id).copied().unwrap_or_default()
                    && (&client.name, &client.email) == (&row.name, &row.email)
            }
            None => row.version == 0,
        };
        let mut suspects = Vec::new();
        for ((row, projected), others) in rows.iter().zip(&projected).zip(others) {
            let is_right = projected.as_ref().is_ok_and(|projected| {
                matches_row(row, projected.as_ref()) && difference_of_others(others, projected.as_ref()).is_none()
            });
            if is_right {
                first_missed.forget(Subject::Client(row.id));
            } else {
                suspects.push(row.id);
            }
        }
        self.examine_all(&suspects, first_missed).await
    }

    /// The ranks and recent orders of clients; `None` in generations of older releases, which have nothing to compare.
    async fn ranked_and_recent(&self, ids: &[i64]) -> Result<Vec<Option<RankedAndRecent>>, StoreFailed> {
        if !self.read_model.has_reports().await.map_err(read_model)? {
            return Ok(vec![None; ids.len()]);
        }
        let others = self.read_model.ranked_and_recent(ids).await.map_err(read_model)?;
        Ok(others.into_iter().map(Some).collect())
    }

    /// Looks for clients that the database does not have. Returns where to continue, if there are more.
    pub(super) async fn orphans(
        &self,
        cursor: &Cursor,
        first_missed: &mut FirstMissed,
    ) -> anyhow::Result<(Option<Cursor>, Vec<Finding>)> {
        let (cursor, mut ids) = self.read_model.scan(cursor).await.map_err(read_model)?;
        if !ids.is_empty() {
            let rows = client::Entity::find().select_only().column(client::Column::Id);
            let rows = rows.filter(is_one_of(&self.db, client::Column::Id, &ids)).into_tuple::<i64>();
            let rows: HashSet<i64> = rows.all(&self.db).await.map_err(database)?.into_iter().collect();
            ids.retain(|id| !rows.contains(id));
        }
        Ok((cursor, self.examine_all(&ids, first_missed).await?))
    }

    /// Examines each client, and repairs those that are wrong.
    async fn examine_all(&self, ids: &[i64], first_missed: &mut FirstMissed) -> anyhow::Result<Vec<Finding>> {
        let examined: Vec<_> = ids.iter().map(|id| self.examine(*id)).collect();
        let examined: Vec<Examined> = stream::iter(examined).buffered(CONCURRENT_CLIENTS).try_collect().await?;
        let mut findings = Vec::new();
        for (id, examined) in ids.iter().zip(examined) {
            if let Some(difference) = first_missed.difference(Subject::Client(*id), examined, self.in_flight) {
                findings.push(self.finding(Subject::Client(*id), difference, self.repair_client(*id)));
            }
        }
        stream::iter(findings).buffered(CONCURRENT_CLIENTS).try_collect().await
    }

    /// Compares one client exactly, also while it changes.
    pub(super) async fn examine(&self, id: i64) -> anyhow::Result<Examined> {
        let stored = match self.projected_client(id).await? {
            Ok(stored) => stored,
            Err(why) => return Ok(Examined::Wrong(Difference::Damaged { why })),
        };
        let projected = stored.clone().unwrap_or_else(|| ProjectedClient::new(id));
        if let Some(difference) = self.difference_of_client(&projected).await? {
            return Ok(Examined::Wrong(difference));
        }
        let difference = self.difference_of_others(id, stored.as_ref()).await?;
        let (version, has_any) = (projected.client.version, projected.newest > 0);
        let log = order_event::Entity::find().filter(Column::ClientId.eq(id));
        let is_included = |version| projected.ahead.contains(&version);
        let (published, is_pending) = missing_versions(&self.db, log, version, is_included).await?;
        // A client that was lost is missing, although its ranks and recent orders are still there.
        let is_lost = !has_any && (is_pending || !published.is_empty());
        Ok(match difference.filter(|_| !is_lost) {
            Some(difference) => Examined::Wrong(difference),
            None => Examined::Right(Missing { version, has_any, published, is_pending }),
        })
    }

    /// Compares a client that was read before with its ranks and recent orders. The client is read again after them, so that a
    /// change between the two does not look like a difference.
    async fn difference_of_others(
        &self,
        id: i64,
        before: Option<&ProjectedClient>,
    ) -> Result<Option<Difference>, StoreFailed> {
        let others = self.ranked_and_recent(&[id]).await?.pop().flatten();
        let is_unchanged = self.projected_client(id).await?.is_ok_and(|after| after.as_ref() == before);
        Ok(difference_of_others(others, before).filter(|_| is_unchanged))
    }

    /// Reads one client. The outer error is a failed store. The inner error is the reason why the stored data cannot be read.
    pub(super) async fn projected_client(
        &self,
        id: i64,
    ) -> Result<Result<Option<ProjectedClient>, String>, StoreFailed> {
        match self.read_model.projected_clients(&[id]).await.map_err(read_model)?.pop() {
            Some(Err(Error::Damaged(why))) => Ok(Err(why)),
            projected => projected.transpose().map(|projected| Ok(projected.flatten())).map_err(read_model),
        }
    }

    /// Compares what the read model includes of a client with the same versions in the database.
    async fn difference_of_client(&self, projected: &ProjectedClient) -> Result<Option<Difference>, StoreFailed> {
        let ProjectedClient { client, ahead, newest } = projected;
        let Client { id, version, order_count, total, last_purchase, .. } = client;
        // Inlined because the list may exceed the parameter limit.
        let list = ahead.iter().map(ToString::to_string).collect::<Vec<_>>().join(",");
        let version_is_ahead = (!list.is_empty()).then(|| Expr::cust(format!("version IN ({list})")));
        let included = |below: Expr| Condition::any().add(below).add_option(version_is_ahead.clone());

        let events = order_event::Entity::find().filter(Column::ClientId.eq(*id));
        let included_events = events.clone().filter(included(Column::Version.lte(*version)));
        let count = u64::try_from(*version).unwrap_or(0) + ahead.len() as u64;
        if included_events.count(&self.db).await.map_err(database)? < count {
            return Ok(Some(Difference::Orphaned { version: ahead.last().copied().unwrap_or(*version) }));
        }
        let sums = sums_of_orders().filter(order::Column::ClientId.eq(*id));
        let sums = sums.filter(included(order::Column::Version.lte(*version)));
        let sums = sums.into_tuple::<(i64, Option<i64>, Option<DateTime<Utc>>)>();
        let (orders_expected, total_expected, last_purchase_expected) =
            sums.one(&self.db).await.map_err(database)?.unwrap_or_default();
        let total_expected = total_expected.unwrap_or(0);
        if (*order_count, *total) != (orders_expected, total_expected) {
            let [total, total_expected] =
                [*total, total_expected].map(|minor_units| Money { minor_units, currency: self.currency });
            let orders = *order_count;
            return Ok(Some(Difference::WrongTotal { orders, orders_expected, total, total_expected }));
        }
        if milliseconds(*last_purchase) != milliseconds(last_purchase_expected) {
            let last_purchase = *last_purchase;
            return Ok(Some(Difference::WrongLastPurchase { last_purchase, last_purchase_expected }));
        }
        let event = events.filter(Column::Version.eq(*newest)).one(&self.db).await.map_err(database)?;
        // Skip: the newest applied event is invalid in the log.
        let event = event.and_then(|row| Event::from_row(row, self.currency.code()).ok());
        let details = event.as_ref().and_then(Event::client).map(|client| (client.name, client.email));
        let differs = details.is_some_and(|details| details != (&client.name, &client.email));
        Ok(differs.then_some(Difference::WrongDetails))
    }
}

/// Compares a client with its ranks and recent orders. `None` if nothing differs, or there is nothing to compare.
fn difference_of_others(others: Option<RankedAndRecent>, projected: Option<&ProjectedClient>) -> Option<Difference> {
    let others = others?;
    let expected = projected.map_or_else(RankedAndRecent::default, |ProjectedClient { client, .. }| RankedAndRecent {
        // Ranks are exact to 53 bits.
        total: Some(client.total as f64 as i64),
        last_purchase: Some(client.last_purchase.map_or(0, |time| time.timestamp_millis())),
        recent_orders: usize::try_from(client.order_count).unwrap_or(0).min(RECENT_ORDERS),
    });
    if (others.total, others.last_purchase) != (expected.total, expected.last_purchase) {
        return Some(Difference::Misranked);
    }
    let (stored, expected) = (others.recent_orders, expected.recent_orders);
    (stored < expected).then_some(Difference::MissingRecentOrders { stored, expected })
}

fn milliseconds(time: Option<DateTime<Utc>>) -> Option<i64> {
    time.map(|time| time.timestamp_millis())
}

/// The number of orders, their total, and the time of the newest one.
fn sums_of_orders() -> sea_orm::Select<order::Entity> {
    order::Entity::find()
        .select_only()
        .column_as(order::Column::Id.count(), "orders")
        .column_as(Expr::col(order::Column::Total).sum().cast_as("bigint"), "total")
        .column_as(order::Column::PlacedAt.max(), "last_purchase")
}
