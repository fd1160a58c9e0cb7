//! Compares products.

use std::collections::{BTreeSet, HashMap};

use entity::order_event::{self, Column};
use entity::{Change, Event, Subject, product};
use read_model::{Error, Product};
use sea_orm::{ColumnTrait, EntityTrait, PaginatorTrait, QueryFilter, QuerySelect};

use super::{Difference, Finding, PAGE, Verifier, database, read_model};

impl Verifier {
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

    pub(super) async fn wrong_products(&self, ids: &[i64]) -> anyhow::Result<Vec<(i64, Difference)>> {
        // First, as with clients.
        let projected = self.read_model.projected_products(ids).await.map_err(read_model)?;
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
        let overdue = overdue.filter(self.is_overdue());
        Ok(match overdue.count(&self.db).await.map_err(database)? {
            0 => None,
            events if version == 0 => Some(Difference::Missing { events }),
            events => Some(Difference::Behind { events, version }),
        })
    }
}
