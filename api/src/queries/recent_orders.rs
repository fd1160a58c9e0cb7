//! Reads of recent orders. A list of clients asks for those of each client, so reads that wait at the same time share a round trip.

use std::collections::HashMap;
use std::sync::Arc;

use read_model::{Error, OrderSummary, Queries};
use runtime::batcher::{BatchQueue, Queued, Unprocessed, spawn_reads};

/// Clients of one round trip. They occupy Redis for about 2 ms.
const MAX_BATCH_SIZE: usize = 100;

#[derive(Clone, Copy)]
struct Request {
    client: i64,
    count: usize,
}

pub type RecentOrdersOfClient = Result<Vec<OrderSummary>, Error>;

pub struct RecentOrders(BatchQueue<Request, RecentOrdersOfClient>);

impl RecentOrders {
    /// # Panics
    /// Outside of a Tokio runtime.
    pub fn new(read_model: Arc<dyn Queries>) -> RecentOrders {
        RecentOrders(spawn_reads(MAX_BATCH_SIZE, move |batch| read(read_model.clone(), batch)))
    }

    /// Reads the newest orders of a client, newest first.
    ///
    /// # Errors
    /// When too many reads wait; the inner error, when the read model fails or the orders are damaged.
    pub async fn of(&self, client: i64, count: usize) -> Result<RecentOrdersOfClient, Unprocessed> {
        self.0.process(Request { client, count }).await
    }
}

async fn read(read_model: Arc<dyn Queries>, batch: Vec<Queued<Request, RecentOrdersOfClient>>) {
    let mut clients: Vec<i64> = batch.iter().map(|queued| queued.item.client).collect();
    clients.sort_unstable();
    clients.dedup();
    let count = batch.iter().map(|queued| queued.item.count).max().unwrap_or(0);
    let orders: HashMap<i64, RecentOrdersOfClient> = match read_model.recent_orders(&clients, count).await {
        Ok(orders) => clients.into_iter().zip(orders.into_iter().map(Ok)).collect(),
        // The orders of one client are damaged. Read alone, the others succeed.
        Err(Error::Damaged(_)) if clients.len() > 1 => {
            let mut all = HashMap::new();
            for client in clients {
                all.insert(client, read_model.recent_orders(&[client], count).await.map(|orders| orders.concat()));
            }
            all
        }
        Err(error) => clients.into_iter().map(|client| (client, Err(error.clone()))).collect(),
    };
    for queued in batch {
        let Request { client, count } = queued.item;
        let mut orders = orders.get(&client).cloned().unwrap_or(Ok(Vec::new()));
        if let Ok(orders) = &mut orders {
            orders.truncate(count);
        }
        queued.finish(orders);
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use entity::Subject;
    use futures::future::join_all;
    use futures::stream::BoxStream;
    use read_model::{AppliedVersions, Client, Memory, Product, Projection, RankPosition, Ranking, Status, Sum};
    use test_support::events::order_placed;

    use super::*;

    /// A read model whose client 7 is damaged. Records the clients of each read.
    #[derive(Default)]
    struct Recorded(Memory, Mutex<Vec<Vec<i64>>>);

    #[async_trait::async_trait]
    impl Queries for Recorded {
        async fn recent_orders(&self, clients: &[i64], count: usize) -> Result<Vec<Vec<OrderSummary>>, Error> {
            self.1.lock().unwrap().push(clients.to_vec());
            if clients.contains(&7) {
                Err(Error::Damaged("7".into()))
            } else {
                self.0.recent_orders(clients, count).await
            }
        }

        async fn clients(&self, _: &[i64]) -> Result<Vec<Option<Client>>, Error> {
            unreachable!()
        }

        async fn ranked_clients(
            &self,
            _: Ranking,
            _: Option<RankPosition>,
            _: usize,
        ) -> Result<Vec<RankPosition>, Error> {
            unreachable!()
        }

        async fn products(&self, _: &[i64]) -> Result<Vec<Option<Product>>, Error> {
            unreachable!()
        }

        async fn catalogue_ids(&self) -> Result<Vec<i64>, Error> {
            unreachable!()
        }

        async fn buckets(&self, _: &[String]) -> Result<Vec<Vec<Sum>>, Error> {
            unreachable!()
        }

        async fn product_sales(&self, _: &[String]) -> Result<HashMap<i64, Sum>, Error> {
            unreachable!()
        }

        async fn changes(&self) -> Result<BoxStream<'static, i64>, Error> {
            unreachable!()
        }

        async fn applied_versions(&self, _: Subject) -> Result<AppliedVersions, Error> {
            unreachable!()
        }

        async fn status(&self) -> Result<Status, Error> {
            unreachable!()
        }

        async fn ping(&self) -> Result<(), Error> {
            unreachable!()
        }
    }

    #[tokio::test]
    async fn the_orders_of_a_list_of_clients_are_read_together() {
        let read_model = Arc::new(Recorded::default());
        for client in 1..=50 {
            read_model.0.apply(&[1, 2].map(|version| order_placed(client, version, &[(1, 1, 100)]))).await;
        }
        let recent = RecentOrders::new(read_model.clone());
        let lists = join_all((10..=50).map(|client| recent.of(client, client as usize % 2 + 1))).await;
        for (client, orders) in (10..=50).zip(lists) {
            let orders = orders.unwrap().unwrap();
            assert_eq!(orders.len(), client as usize % 2 + 1);
            assert!(orders.iter().all(|order| order.client_id == client));
        }
        assert_eq!(read_model.1.lock().unwrap().len(), 1, "one round trip");

        let lists = join_all([6, 7, 8, 6].map(|client| recent.of(client, 1))).await;
        let lengths = lists.into_iter().map(|orders| orders.unwrap().map(|orders| orders.len()));
        assert_eq!(lengths.collect::<Vec<_>>(), [Ok(1), Err(Error::Damaged("7".into())), Ok(1), Ok(1)]);
    }
}
