//! Reads of products: by id, and page by page.

use std::sync::Arc;
use std::time::Duration;

use read_model::{Error, Product, Queries};
use runtime::single_flight::SingleFlight;

/// Age of the list of ids up to which it is used again: reading it takes time in proportion to the number of products.
const MAX_AGE: Duration = Duration::from_secs(1);

/// A part of the catalogue, in ascending order of ids.
#[derive(Debug)]
pub struct ProductPage {
    pub products: Vec<Product>,
    pub has_next_page: bool,
}

pub struct Catalogue {
    read_model: Arc<dyn Queries>,
    ids: SingleFlight<(), Arc<Vec<i64>>, Error>,
}

impl Catalogue {
    pub fn new(read_model: Arc<dyn Queries>) -> Catalogue {
        Catalogue { read_model, ids: SingleFlight::new(1) }
    }

    pub async fn by_id(&self, id: i64) -> Result<Option<Product>, Error> {
        Ok(self.read_model.products(&[id]).await?.pop().flatten())
    }

    /// The products with larger ids than `after`, or the first ones. A new product appears after at most [`MAX_AGE`].
    pub async fn page(&self, after: Option<i64>, first: usize) -> Result<ProductPage, Error> {
        let read_model = self.read_model.clone();
        let ids = self.ids.get((), MAX_AGE, async move { read_model.catalogue_ids().await.map(Arc::new) }).await?;
        let rest = &ids[ids.partition_point(|id| after.is_some_and(|after| *id <= after))..];
        let page = &rest[..first.min(rest.len())];
        let products = self.read_model.products(page).await?.into_iter().flatten().collect();
        Ok(ProductPage { products, has_next_page: rest.len() > first })
    }
}
