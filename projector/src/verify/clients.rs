//! Compares clients.
//!
//! A client is right when the orders of the versions that it includes add up to its total, and the cancellations and refunds to
//! its refunded amount; the newest order is its last purchase, its name and e-mail address are those of its newest event, its places
//! in the rankings match, and its recent orders are the newest orders.

use std::collections::{HashMap, HashSet};

use chrono::{DateTime, Utc};
use entity::order_event::{self, Column};
use entity::sums::{SumsOfOrders, sum_of_refunds, sums_of_orders};
use entity::{Event, Subject, client, event, order, order_refund};
use futures::try_join;
use futures::{StreamExt, TryStreamExt, stream};
use read_model::{Client, Cursor, Error, ProjectedClient, RankedAndRecent, Ranking, Sales, Sum};
use runtime::database::is_one_of;
use sea_orm::sea_query::{Expr, ExprTrait};
use sea_orm::{ColumnTrait, EntityTrait, PaginatorTrait, QueryFilter, QueryOrder, QuerySelect};
use uuid::Uuid;

use super::first_missed::{Examined, Missing};
use super::recent::{RecentOrder, RecentOrders};
use super::{
    COMPARED_AT_ONCE, CONCURRENT_CLIENTS, Difference, Finding, FirstMissed, Money, StoreFailed, Verifier, database,
    missing_versions, read_model,
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

    /// The largest id of a client, or 0.
    pub(crate) async fn last_client(&self) -> Result<i64, StoreFailed> {
        let last = client::Entity::find().order_by_desc(client::Column::Id).select_only().column(client::Column::Id);
        Ok(last.into_tuple().one(&self.db).await.map_err(database)?.unwrap_or(0))
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
            let rows = client::Entity::find().filter(is_one_of(&self.db, client::Column::Id, ids.iter().copied()));
            let rows = rows.all(&self.db).await.map_err(database)?;
            if rows.len() < ids.len() {
                let known: HashSet<i64> = rows.iter().map(|row| row.id).collect();
                let orphans: Vec<i64> = ids.iter().filter(|id| !known.contains(id)).copied().collect();
                findings.extend(self.examine_all(&orphans, first_missed).await?);
            }
            let of_clients = is_one_of(&self.db, order::Column::ClientId, ids.iter().copied());
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
        let projected = async { self.read_model.projected_clients(&ids).await.map_err(read_model) };
        let (sums, newest) = (self.sums_of_orders(of_clients), self.newest_orders_of_clients(&ids));
        let (sums, newest, projected, others) = try_join!(sums, newest, projected, self.ranked_and_recent(&ids))?;

        let matches_row = |row: &client::Model, projected: Option<&ProjectedClient>| match projected {
            Some(ProjectedClient { client, ahead, newest }) => {
                let stored = (client.sales(), milliseconds(client.last_purchase));
                ahead.is_empty()
                    && (client.version, *newest) == (row.version, row.version)
                    && stored == sums.get(&row.id).copied().unwrap_or_default()
                    && (&client.name, &client.email) == (&row.name, &row.email)
            }
            None => row.version == 0,
        };
        let mut suspects = Vec::new();
        let none = RecentOrders::new();
        for ((row, projected), others) in rows.iter().zip(&projected).zip(&others) {
            let newest = newest.get(&row.id).unwrap_or(&none);
            let is_right = projected.as_ref().is_ok_and(|projected| {
                let differs = || difference_of_others(others.as_ref(), projected.as_ref(), newest).is_some();
                matches_row(row, projected.as_ref()) && !differs()
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
            let rows = rows.filter(is_one_of(&self.db, client::Column::Id, ids.iter().copied())).into_tuple::<i64>();
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
            let (subject, may_be_lost) = (Subject::Client(*id), examined.may_be_lost());
            if let Some(difference) = first_missed.difference(subject, examined, self.in_flight) {
                findings.push(self.finding(subject, (difference, may_be_lost), self.repair_client(*id)));
            }
        }
        stream::iter(findings).buffered(CONCURRENT_CLIENTS).try_collect().await
    }

    /// Compares one client exactly, also while it changes.
    pub(super) async fn examine(&self, id: i64) -> anyhow::Result<Examined> {
        let stored = match self.projected_client(id).await? {
            Ok(stored) => stored,
            Err(why) => return Ok(Examined::Lost(Difference::Damaged { why })),
        };
        let projected = stored.clone().unwrap_or_else(|| ProjectedClient::new(id));
        let (version, newest) = (projected.client.version, projected.newest);
        let wrong = |difference| match difference {
            Difference::Orphaned { .. } => Examined::Wrong(difference),
            // Events have arrived after the loss.
            _ if version == 0 => Examined::Lost(difference),
            _ => Examined::Wrong(difference),
        };
        if let Some(difference) = self.difference_of_client(&projected).await? {
            return Ok(wrong(difference));
        }
        let difference = self.difference_of_others(id, stored.as_ref()).await?;
        let log = order_event::Entity::find().filter(Column::ClientId.eq(id));
        let is_included = |version| projected.ahead.contains(&version);
        let (published, is_pending) = missing_versions(&self.db, log, version, is_included).await?;
        // A client that was lost is missing, although its ranks and recent orders are still there.
        let is_lost = newest == 0 && (is_pending || !published.is_empty());
        Ok(match difference.filter(|_| !is_lost) {
            Some(difference) => wrong(difference),
            None => Examined::Right(Missing { version, newest, published, is_pending }),
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
        // A client that was lost does not include all orders that its recent orders show.
        let shown = others.iter().flat_map(|others| others.recent.keys().copied());
        let mut orders = order::Column::Version.is_in(shown);
        if let Some(before) = before {
            orders = orders.or(includes(before, order::Column::Version));
        }
        let orders = order::Column::ClientId.eq(id).and(orders);
        let newest = self.newest_orders(orders).await?.remove(&id).unwrap_or_default();
        Ok(difference_of_others(others.as_ref(), before, &newest).filter(|_| is_unchanged))
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
        let Client { id, version, last_purchase, .. } = client;
        let events = order_event::Entity::find().filter(Column::ClientId.eq(*id));
        let included_events = events.clone().filter(includes(projected, Column::Version));
        let count = u64::try_from(*version).unwrap_or(0) + ahead.len() as u64;
        if included_events.count(&self.db).await.map_err(database)? < count {
            return Ok(Some(Difference::Orphaned { version: ahead.last().copied().unwrap_or(*version) }));
        }
        let of_orders = order::Column::ClientId.eq(*id).and(includes(projected, order::Column::Version));
        let (expected, last_purchase_expected) = self.sums_of_orders(of_orders).await?.remove(id).unwrap_or_default();
        let expected = Sales { cancelled: self.sum_of_refunds(projected).await?, ..expected };
        if let Some(difference) = self.difference_of_sales(client.sales(), expected) {
            return Ok(Some(difference));
        }
        let newest_expected = ahead.iter().copied().chain([*version]).max().unwrap_or(0);
        if *newest != newest_expected {
            // It would keep later changes of the client out.
            let why = format!("its newest version is {newest}, expected {newest_expected}");
            return Ok(Some(Difference::Damaged { why }));
        }
        let last_purchase = *last_purchase;
        if milliseconds(last_purchase) != last_purchase_expected {
            let last_purchase_expected = last_purchase_expected.and_then(DateTime::from_timestamp_millis);
            return Ok(Some(Difference::WrongLastPurchase { last_purchase, last_purchase_expected }));
        }
        let event = events.clone().filter(Column::Version.eq(*newest)).one(&self.db).await.map_err(database)?;
        // Skip: the newest applied event is invalid in the log.
        let event = event.and_then(|row| Event::from_row(row, self.currency.code()).ok());
        let details = event.as_ref().and_then(Event::client).map(|client| (client.name, client.email));
        if details.is_none_or(|details| details == (&client.name, &client.email)) {
            return Ok(None);
        }
        // Forgetting a client masks its earlier events, too. Until that event arrives, the client still has its name.
        let forgotten = events.filter(Column::Version.gt(*newest)).filter(Column::Type.eq(event::CLIENT_FORGOTTEN));
        let is_forgotten = forgotten.count(&self.db).await.map_err(database)? > 0;
        Ok((!is_forgotten).then_some(Difference::WrongDetails))
    }

    fn difference_of_sales(&self, stored: Sales, expected: Sales) -> Option<Difference> {
        let money = |Sum { revenue, .. }| Money { minor_units: revenue, currency: self.currency };
        if stored.gross != expected.gross {
            return Some(Difference::WrongTotal {
                orders: stored.gross.count,
                orders_expected: expected.gross.count,
                total: money(stored.gross),
                total_expected: money(expected.gross),
            });
        }
        (stored.cancelled != expected.cancelled).then(|| Difference::WrongRefunds {
            cancelled: stored.cancelled.count,
            cancelled_expected: expected.cancelled.count,
            refunded: money(stored.cancelled),
            refunded_expected: money(expected.cancelled),
        })
    }

    /// The sums of these orders and the time of the newest one (ms since 1970), by client. They include all
    /// cancellations and refunds of the orders.
    async fn sums_of_orders(&self, orders: Expr) -> Result<HashMap<i64, (Sales, Option<i64>)>, StoreFailed> {
        let sums = sums_of_orders(orders).all(&self.db).await.map_err(database)?;
        let of_client = |sums: SumsOfOrders| {
            let gross = Sum { count: sums.orders, revenue: sums.total };
            let cancelled = Sum { count: sums.cancelled, revenue: sums.refunded };
            (sums.client_id, (Sales { gross, cancelled }, milliseconds(sums.last_purchase)))
        };
        Ok(sums.into_iter().map(of_client).collect())
    }

    /// The sum of the cancellations and refunds that a client includes.
    async fn sum_of_refunds(&self, projected: &ProjectedClient) -> Result<Sum, StoreFailed> {
        let of_client = order_refund::Column::ClientId.eq(projected.client.id);
        let included = of_client.and(includes(projected, order_refund::Column::Version));
        let sum = sum_of_refunds(included).one(&self.db).await.map_err(database)?.unwrap_or_default();
        Ok(Sum { count: sum.cancelled, revenue: sum.refunded })
    }
}

/// Whether a client includes the version in this column.
fn includes(ProjectedClient { client, ahead, .. }: &ProjectedClient, version: impl ColumnTrait) -> Expr {
    let included = version.lte(client.version);
    // Inlined because the list may exceed the parameter limit.
    let list = ahead.iter().map(ToString::to_string).collect::<Vec<_>>().join(",");
    if list.is_empty() { included } else { included.or(Expr::cust(format!("version IN ({list})"))) }
}

/// Compares a client with its ranks and recent orders, which must be its newest orders. `None` if nothing differs, or there is
/// nothing to compare.
fn difference_of_others(
    others: Option<&RankedAndRecent>,
    projected: Option<&ProjectedClient>,
    newest: &RecentOrders,
) -> Option<Difference> {
    let others = others?;
    let rank = |by| projected.map(|projected| projected.client.rank(by));
    if (others.total, others.last_purchase) != (rank(Ranking::Total), rank(Ranking::LastPurchase)) {
        return Some(Difference::Misranked);
    }
    let (stored, expected) = (others.recent.len(), newest.len());
    if stored < expected {
        return Some(Difference::MissingRecentOrders { stored, expected });
    }
    let recent = others.recent.iter().map(|(version, order)| (version, order.as_ref().map(RecentOrder::from)));
    let is_right = recent.eq(newest.iter().map(|(version, order)| (version, Some(*order))));
    (!is_right).then_some(Difference::WrongRecentOrders)
}

fn milliseconds(time: Option<DateTime<Utc>>) -> Option<i64> {
    time.map(|time| time.timestamp_millis())
}
