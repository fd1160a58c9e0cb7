//! Compares clients.

use std::collections::HashMap;

use entity::order_event::{self, Column};
use entity::{Event, Subject, client, order};
use futures::future::try_join;
use futures::{StreamExt, TryStreamExt, stream};
use read_model::{Client, Cursor, Error, ProjectedClient};
use sea_orm::sea_query::{Expr, ExprTrait};
use sea_orm::{ColumnTrait, Condition, EntityTrait, PaginatorTrait, QueryFilter, QueryOrder, QuerySelect};
use uuid::Uuid;

use super::{
    CONCURRENT, Compared, Difference, Finding, PAGE, Page, State, StoreFailed, Verifier, database, read_model,
};

impl Verifier {
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
        let projected = async { self.read_model.projected_clients(&ids).await.map_err(read_model) };
        let ((sums, projected), ranks) = try_join(try_join(sums, projected), self.ranks(&ids)).await?;
        let sums: HashMap<i64, (i64, i64)> =
            sums.into_iter().map(|(orders, total, id)| (id, (orders, total))).collect();

        // Most are as they should be. Whatever is not may also have changed just now.
        let looks_right = |row: &client::Model, projected: &Result<Option<ProjectedClient>, Error>| match projected {
            Ok(Some(ProjectedClient { client, ahead, .. })) => {
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
        match self.read_model.scores(ids).await {
            Ok(ranks) => Ok(ranks.into_iter().map(Some).collect()),
            // Nobody is where it should be.
            Err(Error::Damaged(_)) => Ok(vec![Some([None; 2]); ids.len()]),
            Err(error) => Err(read_model(error)),
        }
    }

    /// Looks for clients that the database does not have; returns where to go on, if that was not all.
    pub(super) async fn strangers(&self, cursor: &Cursor) -> anyhow::Result<(Option<Cursor>, Vec<Finding>)> {
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

    pub(super) async fn examine(&self, id: i64) -> anyhow::Result<State> {
        let projected = self.read_model.projected_clients(&[id]).await.map_err(read_model)?.pop().unwrap_or(Ok(None));
        let projected = match projected {
            Ok(projected) => projected.unwrap_or_else(|| ProjectedClient::new(id)),
            Err(Error::Damaged(why)) => return Ok(State::Wrong(Difference::Damaged { why })),
            Err(error) => return Err(read_model(error).into()),
        };
        let ProjectedClient { client: Client { version, order_count, total, .. }, ahead, newest } = &projected;
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
        let again = self.read_model.projected_clients(&[id]).await.map_err(read_model)?.pop().unwrap_or(Ok(None));
        let unchanged = matches!(&again, Ok(again) if again.as_ref().is_none_or(|again| *again == projected));
        if unchanged && !are_its_own(ranks, &again) {
            return Ok(State::Wrong(Difference::Misplaced));
        }

        let lacking = of_client.filter(Column::Version.gt(*version));
        let lacking = lacking.filter(Condition::all().add_option(is_ahead.map(Expr::not)));
        let overdue = lacking.clone().filter(self.is_overdue());
        let overdue = overdue.count(&self.db).await.map_err(database)?;
        Ok(match (overdue, counted) {
            (0, _) if lacking.count(&self.db).await.map_err(database)? == 0 => State::Right,
            (0, _) => State::Incomplete,
            (events, 0) => State::Wrong(Difference::Missing { events }),
            (events, _) => State::Wrong(Difference::Behind { events, version: *version }),
        })
    }
}

/// By what a client is ranked: by total, and by last purchase.
type Ranks = [Option<i64>; 2];

/// Whether a client is ranked by its own figures, as far as that can be told.
fn are_its_own(ranks: Option<Ranks>, projected: &Result<Option<ProjectedClient>, Error>) -> bool {
    match (ranks, projected) {
        (Some(ranks), Ok(Some(ProjectedClient { client, .. }))) => {
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
