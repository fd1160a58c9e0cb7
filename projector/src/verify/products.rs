//! Compares products. A product is right when it is as its newest event says.

use std::collections::{BTreeSet, HashMap};

use entity::order_event::{self, Column};
use entity::{Change, Event, Subject, product};
use read_model::{Error, Product};
use sea_orm::{ColumnTrait, EntityTrait, QueryFilter, QuerySelect};

use super::first_missed::{Examined, Missing};
use super::{
    COMPARED_AT_ONCE, Difference, Finding, FirstMissed, Verifier, database, is_one_of, missing_versions, read_model,
};

impl Verifier {
    pub async fn all_products(&self, first_missed: &mut FirstMissed) -> anyhow::Result<Vec<Finding>> {
        let stored = self.read_model.product_ids().await.map_err(read_model)?;
        let rows = product::Entity::find().select_only().column(product::Column::Id).into_tuple::<i64>();
        let rows = rows.all(&self.db).await.map_err(database)?;
        let all: BTreeSet<i64> = stored.into_iter().chain(rows).collect();
        self.products(&all.into_iter().collect::<Vec<_>>(), first_missed).await
    }

    pub(super) async fn products(&self, all: &[i64], first_missed: &mut FirstMissed) -> anyhow::Result<Vec<Finding>> {
        let mut findings = Vec::new();
        for ids in all.chunks(COMPARED_AT_ONCE as usize) {
            for (id, examined) in self.examine_products(ids).await? {
                let subject = Subject::Product(id);
                if let Some(difference) = first_missed.difference(subject, examined, self.in_flight) {
                    findings.push(self.finding(subject, difference, self.repair_product(id)).await?);
                }
            }
        }
        Ok(findings)
    }

    /// Compares products with their rows, and examines those that differ.
    pub(super) async fn examine_products(&self, ids: &[i64]) -> anyhow::Result<Vec<(i64, Examined)>> {
        let projected = self.read_model.projected_products(ids).await.map_err(read_model)?;
        let rows = product::Entity::find().filter(is_one_of(&self.db, product::Column::Id, ids));
        let rows = rows.all(&self.db).await.map_err(database)?;
        let rows: HashMap<i64, Product> = rows.into_iter().map(|row| (row.id, product_of(row))).collect();
        let mut all = Vec::new();
        for (&id, projected) in ids.iter().zip(projected) {
            let matches_row = projected.as_ref().is_ok_and(|product| product.as_ref() == rows.get(&id));
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
        Ok(Examined::Right(Missing { version, has_any: projected.is_some(), published, is_pending }))
    }
}

fn product_of(row: product::Model) -> Product {
    let product::Model { id, name, price, available, sku, version } = row;
    Product { id, name, price, available, sku, version }
}
