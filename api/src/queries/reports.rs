//! Reports on sales. Many dashboards ask for the same report at the same time, so each report is read at most once a second.

use std::cmp::Reverse;
use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use chrono::{NaiveDate, Utc};
use read_model::reports::{DayRange, Granularity, Report, report};
use read_model::{Error, Product, Queries, Sales};
use runtime::single_flight::SingleFlight;

use super::product_sums::ProductSums;
use crate::edge::quota::QuotaKey;

/// Age of a report up to which it is returned again.
pub const MAX_AGE: Duration = Duration::from_secs(1);
/// Products in a ranking.
pub const MAX_PRODUCTS: usize = 100;
/// Maximum number of cached reports of each kind.
const REPORTS: usize = 32;
/// Maximum number of products in all cached sums, at about 70 bytes each.
const MAX_SUMS: u64 = 1_000_000;

/// Both are net.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ProductRanking {
    Revenue,
    Units,
}

/// The sales of a product in a range of days.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ProductSales {
    pub product: Product,
    pub sales: Sales,
}

type TopProducts = Arc<Vec<ProductSales>>;
/// By product id.
type Sums = Arc<HashMap<i64, Sales>>;

pub struct Reports {
    read_model: Arc<dyn Queries>,
    product_sums: Arc<ProductSums>,
    sales: SingleFlight<(DayRange, Granularity), Arc<Report>, Error>,
    top_products: SingleFlight<(NaiveDate, NaiveDate, ProductRanking), TopProducts, Error>,
    sums: SingleFlight<(NaiveDate, NaiveDate), Sums, Error>,
}

impl Reports {
    pub fn new(read_model: Arc<dyn Queries>) -> Reports {
        let product_sums = Arc::new(ProductSums::new(read_model.clone()));
        Reports {
            read_model,
            product_sums,
            sales: SingleFlight::new(REPORTS),
            top_products: SingleFlight::new(REPORTS),
            sums: SingleFlight::with_weight(REPORTS, MAX_SUMS, |sums| sums.len() as u64 + 1),
        }
    }

    /// The sales of some days. At most [`MAX_AGE`] old.
    pub async fn sales(&self, days: DayRange, granularity: Granularity) -> Result<Arc<Report>, Error> {
        let read_model = self.read_model.clone();
        let read = async move { report(&*read_model, days, granularity).await.map(Arc::new) };
        self.sales.get((days, granularity), MAX_AGE, read).await
    }

    /// The [`MAX_PRODUCTS`] products with the highest sales from the first to the last day, both included. At most
    /// [`MAX_AGE`] old, except for closed periods: see [`ProductSums`]. A caller with many reports waits for its own.
    pub async fn top_products(
        &self,
        from: NaiveDate,
        to: NaiveDate,
        by: ProductRanking,
        caller: &QuotaKey,
    ) -> Result<TopProducts, Error> {
        if let Some(cached) = self.top_products.cached(&(from, to, by), MAX_AGE) {
            return cached;
        }
        let turn = self.product_sums.turn(caller).await;
        let (read_model, product_sums) = (self.read_model.clone(), self.product_sums.clone());
        let read = async move {
            let sales = product_sums.between(from, to, Utc::now(), turn).await?;
            let top = highest(sales.into_iter().collect(), by);
            let ids: Vec<i64> = top.iter().map(|(id, _)| *id).collect();
            let products = read_model.products(&ids).await?;
            let sales = top.into_iter().zip(products);
            let sales = sales.filter_map(|((_, sales), product)| Some(ProductSales { product: product?, sales }));
            Ok(Arc::new(sales.collect()))
        };
        self.top_products.get((from, to, by), MAX_AGE, read).await
    }

    /// The sales of all products that were sold or refunded from the first to the last day, both included. All products of a list share
    /// one read. As old as [`Reports::top_products`].
    pub async fn product_sums(&self, from: NaiveDate, to: NaiveDate, caller: &QuotaKey) -> Result<Sums, Error> {
        if let Some(cached) = self.sums.cached(&(from, to), MAX_AGE) {
            return cached;
        }
        let turn = self.product_sums.turn(caller).await;
        let sums = self.product_sums.clone();
        let read = async move { sums.between(from, to, Utc::now(), turn).await.map(Arc::new) };
        self.sums.get((from, to), MAX_AGE, read).await
    }
}

/// The first [`MAX_PRODUCTS`] of the ranking, sorted.
fn highest(mut sales: Vec<(i64, Sales)>, by: ProductRanking) -> Vec<(i64, Sales)> {
    let rank = |(id, sales): &(i64, Sales)| match (by, sales.net()) {
        (ProductRanking::Revenue, net) => (Reverse(net.revenue), Reverse(net.count), *id),
        (ProductRanking::Units, net) => (Reverse(net.count), Reverse(net.revenue), *id),
    };
    if sales.len() > MAX_PRODUCTS {
        sales.select_nth_unstable_by_key(MAX_PRODUCTS, rank);
        sales.truncate(MAX_PRODUCTS);
    }
    sales.sort_unstable_by_key(rank);
    sales
}

#[cfg(test)]
mod tests {
    use futures::FutureExt;
    use read_model::Memory;
    use tokio::runtime::Handle;

    use super::*;

    #[tokio::test]
    async fn a_caller_has_few_reads_although_it_waits_for_none() {
        let (reports, caller) = (Reports::new(Arc::new(Memory::default())), QuotaKey::Subject("impatient".into()));
        let first: NaiveDate = "2020-01-01".parse().unwrap();
        for day in first.iter_days().take(500) {
            let by_revenue = reports.top_products(day, day, ProductRanking::Revenue, &caller);
            assert!(by_revenue.now_or_never().is_none());
            assert!(reports.product_sums(day, day, &caller).now_or_never().is_none());
        }
        assert_eq!(Handle::current().metrics().num_alive_tasks(), 2);
    }
}
