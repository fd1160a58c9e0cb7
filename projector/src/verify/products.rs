//! Compares products. A product is right when it is as its newest event says.

use std::collections::{HashMap, HashSet};

use entity::order_event::{self, Column};
use entity::{Change, Event, Subject, product};
use read_model::{CatalogueCursor, Error, Product};
use runtime::database::is_one_of;
use sea_orm::{ColumnTrait, EntityTrait, QueryFilter, QueryOrder, QuerySelect};

use super::first_missed::{Examined, Missing};
use super::{
    COMPARED_AT_ONCE, Difference, Finding, FirstMissed, StoreFailed, Verifier, database, missing_versions, read_model,
};

/// Products that were compared.
pub struct ProductPage {
    /// The largest id. The next page begins after it.
    pub last: i64,
    pub findings: Vec<Finding>,
}

impl Verifier {
    /// Compares the next products after this id; `None` when there are no more.
    pub async fn next_products(
        &self,
        after: i64,
        first_missed: &mut FirstMissed,
    ) -> anyhow::Result<Option<ProductPage>> {
        let rows = product::Entity::find().filter(product::Column::Id.gt(after)).order_by_asc(product::Column::Id);
        let rows = rows.limit(COMPARED_AT_ONCE).all(&self.db).await.map_err(database)?;
        let Some(last) = rows.last().map(|row| row.id) else { return Ok(None) };
        let ids: Vec<i64> = rows.iter().map(|row| row.id).collect();
        Ok(Some(ProductPage { last, findings: self.compare_products(&ids, rows, first_missed).await? }))
    }

    /// Looks for products that the database does not have.
    pub async fn orphaned_products(&self, first_missed: &mut FirstMissed) -> anyhow::Result<Vec<Finding>> {
        let (mut findings, mut cursor) = (Vec::new(), Some(CatalogueCursor::default()));
        while let Some(at) = cursor {
            let mut ids;
            (cursor, ids) = self.read_model.scan_products(at).await.map_err(read_model)?;
            if ids.is_empty() {
                continue;
            }
            let rows = product::Entity::find().select_only().column(product::Column::Id);
            let rows = rows.filter(is_one_of(&self.db, product::Column::Id, ids.iter().copied())).into_tuple::<i64>();
            let rows: HashSet<i64> = rows.all(&self.db).await.map_err(database)?.into_iter().collect();
            ids.retain(|id| !rows.contains(id));
            findings.extend(self.products(&ids, first_missed).await?);
        }
        Ok(findings)
    }

    pub(super) async fn products(&self, all: &[i64], first_missed: &mut FirstMissed) -> anyhow::Result<Vec<Finding>> {
        let mut findings = Vec::new();
        for ids in all.chunks(COMPARED_AT_ONCE as usize) {
            let rows = self.product_rows(ids).await?;
            findings.extend(self.compare_products(ids, rows, first_missed).await?);
        }
        Ok(findings)
    }

    async fn compare_products(
        &self,
        ids: &[i64],
        rows: Vec<product::Model>,
        first_missed: &mut FirstMissed,
    ) -> anyhow::Result<Vec<Finding>> {
        let mut findings = Vec::new();
        for (id, examined) in self.examine_products(ids, rows).await? {
            let (subject, may_be_lost) = (Subject::Product(id), examined.may_be_lost());
            if let Some(difference) = first_missed.difference(subject, examined, self.in_flight) {
                findings.push(self.finding(subject, (difference, may_be_lost), self.repair_product(id)).await?);
            }
        }
        Ok(findings)
    }

    pub(super) async fn product_rows(&self, ids: &[i64]) -> Result<Vec<product::Model>, StoreFailed> {
        let rows = product::Entity::find().filter(is_one_of(&self.db, product::Column::Id, ids.iter().copied()));
        rows.all(&self.db).await.map_err(database)
    }

    /// Compares products with their rows, and examines those that differ.
    pub(super) async fn examine_products(
        &self,
        ids: &[i64],
        rows: Vec<product::Model>,
    ) -> anyhow::Result<Vec<(i64, Examined)>> {
        let projected = self.read_model.projected_products(ids).await.map_err(read_model)?;
        let rows: HashMap<i64, Product> = rows.into_iter().map(|row| (row.id, product_of(row))).collect();
        let mut all = Vec::new();
        for (&id, projected) in ids.iter().zip(projected) {
            let row = rows.get(&id).filter(|row| row.version > 0); // others have no events
            let matches_row = projected.as_ref().is_ok_and(|product| product.as_ref() == row);
            let right = Examined::Right(Missing::default());
            all.push((id, if matches_row { right } else { self.examine_product(id, projected).await? }));
        }
        Ok(all)
    }

    /// Compares with the log alone, because a row that was changed by hand has no event.
    async fn examine_product(&self, id: i64, projected: Result<Option<Product>, Error>) -> anyhow::Result<Examined> {
        let projected = match projected {
            Ok(projected) => projected,
            Err(Error::Damaged(why)) => return Ok(Examined::Wrong(Difference::Damaged { why })),
            Err(error) => return Err(read_model(error).into()),
        };
        let version = projected.as_ref().map_or(0, |product| product.version);
        let events = order_event::Entity::find().filter(Column::ProductId.eq(id));
        if let Some(product) = &projected {
            let event = events.clone().filter(Column::Version.eq(version)).one(&self.db).await.map_err(database)?;
            let Some(event) = event else { return Ok(Examined::Wrong(Difference::Orphaned { version })) };
            // Skip: the newest applied event is invalid in the log.
            if let Ok(Event { data: Change::Product(data), .. }) = Event::from_row(event, self.currency.code())
                && Product::of(&data, version) != *product
            {
                return Ok(Examined::Wrong(Difference::WrongDetails));
            }
        }
        let (published, is_pending) = missing_versions(&self.db, events, version, |_| false).await?;
        Ok(Examined::Right(Missing { version, newest: version, published, is_pending }))
    }
}

fn product_of(row: product::Model) -> Product {
    let product::Model { id, name, price, available, sku, version } = row;
    Product { id, name, price, available, sku, version }
}
