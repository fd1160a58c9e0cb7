//! Products: by id, and lists of them.

mod index;

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use read_model::{Error, Product, Queries};
use runtime::single_flight::SingleFlight;
use tokio::time::Instant;
use tracing::warn;

use index::Index;

/// Age of the index up to which it is used again.
const MAX_AGE: Duration = Duration::from_secs(1);
/// An index is also used for this many times as long as its reading took: reading takes time in proportion to the number of products.
const AGE_PER_READ: u32 = 10;
/// Products of one read.
const READ_AT_ONCE: usize = 1_000;

/// A part of the catalogue, in ascending order of ids.
#[derive(Debug, PartialEq, Eq)]
pub struct ProductPage {
    pub products: Vec<Product>,
    pub has_previous_page: bool,
    pub has_next_page: bool,
}

pub struct Catalogue {
    read_model: Arc<dyn Queries>,
    index: SingleFlight<(), Arc<Index>, Error>,
    /// How long the last reading took, in ms.
    read_time: Arc<AtomicU64>,
}

impl Catalogue {
    pub fn new(read_model: Arc<dyn Queries>) -> Catalogue {
        Catalogue { read_model, index: SingleFlight::new(1), read_time: Arc::default() }
    }

    pub async fn by_id(&self, id: i64) -> Result<Option<Product>, Error> {
        Ok(self.by_ids(&[id]).await?.pop().flatten())
    }

    /// The products with these ids, in the same order. `None` for an id without a product.
    pub async fn by_ids(&self, ids: &[i64]) -> Result<Vec<Option<Product>>, Error> {
        self.read_model.products(ids).await
    }

    /// The products with larger ids than `after`, or the first ones: those of which a word of the name or the SKU begins with
    /// `search`, and those that can be ordered or not. A change appears after at most [`MAX_AGE`], or [`AGE_PER_READ`] times the time
    /// of a reading.
    pub async fn page(
        &self,
        search: Option<&str>,
        available: Option<bool>,
        after: Option<i64>,
        first: usize,
    ) -> Result<ProductPage, Error> {
        let (read_model, read_time) = (self.read_model.clone(), self.read_time.clone());
        let max_age = MAX_AGE.max(AGE_PER_READ * Duration::from_millis(read_time.load(Ordering::Relaxed)));
        let read = async move {
            let began = Instant::now();
            let index = read(read_model).await?;
            read_time.store(began.elapsed().as_millis() as u64, Ordering::Relaxed);
            Ok(Arc::new(index))
        };
        Ok(self.index.get((), max_age, read).await?.page(search, available, after, first))
    }
}

async fn read(read_model: Arc<dyn Queries>) -> Result<Index, Error> {
    let mut products = Vec::new();
    for ids in read_model.catalogue_ids().await?.chunks(READ_AT_ONCE) {
        match read_model.products(ids).await {
            Err(Error::Damaged(_)) => products.extend(read_each(&*read_model, ids).await?),
            read => products.extend(read?.into_iter().flatten()),
        }
    }
    let index = tokio::task::spawn_blocking(move || Index::new(products));
    Ok(index.await.unwrap_or_else(|panic| std::panic::resume_unwind(panic.into_panic())))
}

/// Reads products one by one, without those that are damaged, which `verify` repairs.
async fn read_each(read_model: &dyn Queries, ids: &[i64]) -> Result<Vec<Product>, Error> {
    let mut products = Vec::new();
    for id in ids {
        match read_model.products(&[*id]).await {
            Err(Error::Damaged(why)) => warn!("a product is not listed: {why}"),
            read => products.extend(read?.into_iter().flatten()),
        }
    }
    Ok(products)
}

#[cfg(test)]
mod tests {
    use entity::{Change, Event, ProductChanged};
    use read_model::{Memory, Projection};
    use tokio::time::advance;
    use uuid::Uuid;

    use super::*;

    fn changed(product_id: i64, version: i32, name: &str, available: bool) -> Event {
        let (name, currency) = (name.to_owned(), "USD".to_owned());
        let data = ProductChanged { product_id, name, price: 100, currency, available, sku: None };
        Event { id: Uuid::now_v7(), time: chrono::Utc::now(), version, data: Change::Product(data) }
    }

    #[tokio::test(start_paused = true)]
    async fn changes_are_found_when_the_index_is_read_again() {
        let memory = Arc::new(Memory::default());
        let catalogue = Catalogue::new(memory.clone());
        let find = async |search| {
            let page = catalogue.page(Some(search), Some(true), None, 10).await.unwrap();
            page.products.into_iter().map(|product| product.id).collect::<Vec<_>>()
        };
        memory.apply(&[changed(1, 1, "Red lamp", true), changed(2, 1, "Blue lamp", true)]).await;
        assert_eq!(find("lamp").await, [1, 2]);
        memory.apply(&[changed(1, 2, "Red chair", true), changed(2, 2, "Blue lamp", false)]).await;
        assert_eq!(find("lamp").await, [1, 2], "all requests of a second share a reading");
        advance(MAX_AGE + Duration::from_millis(1)).await;
        assert_eq!((find("lamp").await, find("chair").await), (vec![], vec![1]));
    }
}
