//! A read model that never responds.

use std::collections::HashMap;

use entity::{Event, Subject};
use futures::stream::{BoxStream, StreamExt};
use read_model::{
    Applied, AppliedVersions, Client, Error, OrderSummary, Product, Projection, Queries, RankPosition, Ranking, Status,
    Sum,
};

pub struct Silent;

#[async_trait::async_trait]
impl Projection for Silent {
    async fn apply(&self, _: &[Event]) -> Vec<Result<Applied, Error>> {
        std::future::pending().await
    }

    async fn ping(&self) -> Result<(), Error> {
        Ok(())
    }
}

#[async_trait::async_trait]
impl Queries for Silent {
    async fn clients(&self, _: &[i64]) -> Result<Vec<Option<Client>>, Error> {
        std::future::pending().await
    }

    async fn ranked_clients(&self, _: Ranking, _: Option<RankPosition>, _: usize) -> Result<Vec<RankPosition>, Error> {
        std::future::pending().await
    }

    async fn recent_orders(&self, _: &[i64], _: usize) -> Result<Vec<Vec<OrderSummary>>, Error> {
        std::future::pending().await
    }

    async fn products(&self, _: &[i64]) -> Result<Vec<Option<Product>>, Error> {
        std::future::pending().await
    }

    async fn catalogue_ids(&self) -> Result<Vec<i64>, Error> {
        std::future::pending().await
    }

    async fn buckets(&self, _: &[String]) -> Result<Vec<Vec<Sum>>, Error> {
        std::future::pending().await
    }

    async fn product_sales(&self, _: &[String]) -> Result<HashMap<i64, Sum>, Error> {
        std::future::pending().await
    }

    async fn changes(&self) -> Result<BoxStream<'static, i64>, Error> {
        Ok(futures::stream::pending().boxed())
    }

    async fn applied_versions(&self, _: Subject) -> Result<AppliedVersions, Error> {
        std::future::pending().await
    }

    async fn status(&self) -> Result<Status, Error> {
        std::future::pending().await
    }

    async fn ping(&self) -> Result<(), Error> {
        Ok(())
    }
}
