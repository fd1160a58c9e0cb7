//! A read model in memory whose recent orders panic.

use std::collections::HashMap;

use entity::{Event, Subject};
use futures::stream::BoxStream;
use read_model::{
    Applied, AppliedVersions, Client, Error, Memory, OrderSummary, Product, Projection, Queries, RankPosition, Ranking,
    Status, Sum,
};

#[derive(Default)]
pub struct Panicking(Memory);

#[async_trait::async_trait]
impl Projection for Panicking {
    async fn apply(&self, events: &[Event]) -> Vec<Result<Applied, Error>> {
        self.0.apply(events).await
    }

    async fn ping(&self) -> Result<(), Error> {
        Ok(())
    }
}

#[async_trait::async_trait]
impl Queries for Panicking {
    async fn clients(&self, ids: &[i64]) -> Result<Vec<Option<Client>>, Error> {
        self.0.clients(ids).await
    }

    async fn ranked_clients(
        &self,
        by: Ranking,
        after: Option<RankPosition>,
        count: usize,
    ) -> Result<Vec<RankPosition>, Error> {
        self.0.ranked_clients(by, after, count).await
    }

    async fn recent_orders(&self, _: &[i64], _: usize) -> Result<Vec<Vec<OrderSummary>>, Error> {
        panic!("the recent orders of a test")
    }

    async fn products(&self, ids: &[i64]) -> Result<Vec<Option<Product>>, Error> {
        self.0.products(ids).await
    }

    async fn catalogue_ids(&self) -> Result<Vec<i64>, Error> {
        self.0.catalogue_ids().await
    }

    async fn buckets(&self, names: &[String]) -> Result<Vec<Vec<Sum>>, Error> {
        self.0.buckets(names).await
    }

    async fn product_sales(&self, names: &[String]) -> Result<HashMap<i64, Sum>, Error> {
        self.0.product_sales(names).await
    }

    async fn changes(&self) -> Result<BoxStream<'static, i64>, Error> {
        self.0.changes().await
    }

    async fn applied_versions(&self, subject: Subject) -> Result<AppliedVersions, Error> {
        self.0.applied_versions(subject).await
    }

    async fn status(&self) -> Result<Status, Error> {
        self.0.status().await
    }

    async fn ping(&self) -> Result<(), Error> {
        Ok(())
    }
}
