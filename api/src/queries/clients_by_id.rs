//! Clients of orders. A list of orders asks for the client of each, so reads that wait at the same time share a round trip.

use std::collections::HashMap;
use std::sync::Arc;

use read_model::{Client, Error, Queries};
use runtime::batcher::{BatchQueue, Queued, Unprocessed, spawn_reads};

/// Clients of one round trip.
const MAX_BATCH_SIZE: usize = 100;

type Found = Result<Option<Client>, Error>;

pub struct ClientsById(BatchQueue<i64, Found>);

impl ClientsById {
    /// # Panics
    /// Outside of a Tokio runtime.
    pub fn new(read_model: Arc<dyn Queries>) -> ClientsById {
        ClientsById(spawn_reads(MAX_BATCH_SIZE, move |batch| read(read_model.clone(), batch)))
    }

    /// Reads a client, from the cache if it is in it. `None` if the read model does not have it.
    ///
    /// # Errors
    /// When too many reads wait; the inner error, when the read model fails or the client is damaged.
    pub async fn read(&self, id: i64) -> Result<Found, Unprocessed> {
        self.0.process(id).await
    }
}

async fn read(read_model: Arc<dyn Queries>, batch: Vec<Queued<i64, Found>>) {
    let mut ids: Vec<i64> = batch.iter().map(|queued| queued.item).collect();
    ids.sort_unstable();
    ids.dedup();
    let found: HashMap<i64, Found> = match read_model.cached_clients(&ids).await {
        Ok(clients) => ids.into_iter().zip(clients.into_iter().map(Ok)).collect(),
        // One client is damaged. Read alone, the others succeed.
        Err(Error::Damaged(_)) if ids.len() > 1 => {
            let mut found = HashMap::new();
            for id in ids {
                let client = read_model.cached_clients(&[id]).await;
                found.insert(id, client.map(|mut clients| clients.pop().flatten()));
            }
            found
        }
        Err(error) => ids.into_iter().map(|id| (id, Err(error.clone()))).collect(),
    };
    for queued in batch {
        let client = found.get(&queued.item).cloned().unwrap_or(Ok(None));
        queued.finish(client);
    }
}
