//! Reads and writes for `projector verify` and rebuilds. Events are applied by [`Projection`](crate::Projection).

use std::collections::HashMap;

use ::redis::{AsyncCommands, RedisResult, pipe};

use super::Redis;
use super::connection::Cursor;
use super::decode::{read_product, read_projected_client};
use super::keys::{
    CATALOGUE, META, QUARANTINE, RANKINGS, fencing_token_key, generation_key, missing_key, rebuild_position_field,
};
use super::scripts::is_stale;
use crate::{Error, Product, ProjectedClient};

impl Redis {
    /// Reads clients with all their fields, in the order of `ids`. One round trip.
    ///
    /// # Errors
    /// If the store fails. A damaged client is the error of that client alone.
    pub async fn projected_clients(&self, ids: &[i64]) -> Result<Vec<Result<Option<ProjectedClient>, Error>>, Error> {
        if ids.is_empty() {
            return Ok(Vec::new());
        }
        let (generation, mut pipeline) = (self.live_generation().await?, pipe());
        for id in ids {
            pipeline.hgetall(self.client_key(generation, *id));
        }
        let clients: Vec<RedisResult<HashMap<Vec<u8>, Vec<u8>>>> =
            pipeline.ignore_errors().query_async(&mut self.connection()).await?;
        Ok(ids.iter().zip(clients).map(|(id, fields)| read_projected_client(*id, &fields?)).collect())
    }

    /// Reads the value of each client in both rankings, `None` where the client is missing or the ranking is quarantined. One round
    /// trip.
    ///
    /// # Errors
    /// If the store fails, or a ranking or the quarantine has another type.
    pub async fn scores(&self, ids: &[i64]) -> Result<Vec<[Option<i64>; 2]>, Error> {
        if ids.is_empty() {
            return Ok(Vec::new());
        }
        let (generation, mut pipeline) = (self.report_generation().await?, pipe());
        for id in ids {
            for ranking in RANKINGS {
                pipeline.zscore(generation_key(self.partition(*id), generation, ranking), id);
            }
            for ranking in RANKINGS {
                pipeline.sismember(generation_key(self.partition(*id), generation, QUARANTINE), ranking);
            }
        }
        let results: Vec<RedisResult<Option<f64>>> =
            pipeline.ignore_errors().query_async(&mut self.connection()).await?;
        let results = results.into_iter().collect::<RedisResult<Vec<_>>>()?;
        let score =
            |score: Option<f64>, quarantined| score.filter(|_| quarantined == Some(0.0)).map(|score| score as i64);
        let (clients, _) = results.as_chunks();
        Ok(clients.iter().map(|&[total, last, q_total, q_last]| [score(total, q_total), score(last, q_last)]).collect())
    }

    /// Reads products in the order of `ids`. One round trip.
    ///
    /// # Errors
    /// If the store fails. A damaged product is the error of that product alone.
    pub async fn projected_products(&self, ids: &[i64]) -> Result<Vec<Result<Option<Product>, Error>>, Error> {
        if ids.is_empty() {
            return Ok(Vec::new());
        }
        let (generation, mut pipeline) = (self.live_generation().await?, pipe());
        for id in ids {
            pipeline.hget(generation_key(self.partition(*id), generation, CATALOGUE), id);
        }
        let products: Vec<RedisResult<Option<String>>> =
            pipeline.ignore_errors().query_async(&mut self.connection()).await?;
        let product =
            |(id, text): (&i64, RedisResult<Option<String>>)| text?.map(|text| read_product(*id, &text)).transpose();
        Ok(ids.iter().zip(products).map(product).collect())
    }

    /// Returns the ids of all stored products.
    pub async fn product_ids(&self) -> Result<Vec<i64>, Error> {
        let (generation, mut pipeline) = (self.live_generation().await?, pipe());
        for partition in self.partitions() {
            pipeline.hkeys(generation_key(partition, generation, CATALOGUE));
        }
        let ids: Vec<RedisResult<Vec<String>>> = pipeline.ignore_errors().query_async(&mut self.connection()).await?;
        // A damaged catalogue is found when one of the database's products is looked up in it.
        Ok(ids.into_iter().flatten().flatten().filter_map(|id| id.parse().ok()).collect())
    }

    /// Removes a product, so that its newest event can be applied again. Removes the whole catalogue of its partition if that has
    /// another type.
    pub async fn remove_product(&self, id: i64) -> Result<(), Error> {
        let key = generation_key(self.partition(id), self.written_generation()?, CATALOGUE);
        let removed: RedisResult<i64> = self.connection().hdel(&key, id).await;
        match removed.map_err(|error| self.write_failed(error)) {
            Err(Error::Damaged(_)) => {
                let _: i64 = self.connection().del(&key).await.map_err(|error| self.write_failed(error))?;
                Ok(())
            }
            removed => removed.map(drop),
        }
    }

    /// Returns the stored field `newest` of a client: see [`Redis::replace_client`].
    pub async fn newest_version(&self, id: i64) -> Result<Vec<u8>, Error> {
        let key = self.client_key(self.live_generation().await?, id);
        let newest: RedisResult<Option<Vec<u8>>> = self.connection().hget(key, "newest").await;
        match newest.map_err(Error::from) {
            Ok(newest) => Ok(newest.unwrap_or_default()),
            Err(Error::Damaged(_)) => Ok(Vec::new()),
            Err(error) => Err(error),
        }
    }

    /// Replaces a client by the result of its whole log, as one atomic step; a client without events is removed. Does nothing and
    /// returns `false` if an event has been applied that the log did not have. `newest` is the result of
    /// [`Redis::newest_version`] before the log was read.
    pub async fn replace_client(&self, projected: &ProjectedClient, newest: &[u8]) -> Result<bool, Error> {
        let client = &projected.client;
        let (partition, target) = (self.partition(client.id), self.write_target()?);
        let mut script = self.shared.scripts.replace_client.key(fencing_token_key(partition));
        script.key(missing_key(partition)).key(self.client_key(self.written_generation()?, client.id));
        script.arg(target.fencing_token).arg(newest).arg(projected.newest).arg(client.id).arg(self.channel());
        if projected.newest > 0 {
            for (field, value) in [
                ("name", client.name.clone()),
                ("email", client.email.clone()),
                ("total", client.total.to_string()),
                ("orders", client.order_count.to_string()),
                ("newest", projected.newest.to_string()),
                ("version", client.version.to_string()),
            ] {
                script.arg(field).arg(value);
            }
            if let Some(time) = client.last_purchase {
                script.arg("last_purchase").arg(time.timestamp_millis());
            }
        }
        match script.invoke_async(&mut self.connection()).await {
            // `newest` may have been read from another generation.
            Err(error) if is_stale(&error) => self.reconcile().await.map(|()| false),
            replaced => replaced.map_err(|error| self.write_failed(error)),
        }
    }

    /// Returns the ids of some stored clients, and the cursor of the next call unless those were the last. A client that is stored
    /// during the whole scan, and is not moved to another node of a Cluster, is returned once or more.
    pub async fn scan(&self, cursor: &Cursor) -> Result<(Option<Cursor>, Vec<i64>), Error> {
        let (cursor, keys) = self.scan_keys(self.live_generation().await?, "client:", cursor).await?;
        let id = |key: &String| key.rsplit(':').next().and_then(|id| id.parse().ok());
        Ok((cursor, keys.iter().filter_map(id).collect()))
    }

    /// Returns some keys of a generation whose names start with `prefix`.
    pub(super) async fn scan_keys(
        &self,
        generation: u64,
        prefix: &str,
        cursor: &Cursor,
    ) -> Result<(Option<Cursor>, Vec<String>), Error> {
        Ok(self.connection().scan(cursor, &format!("orders:{{p*}}:g{generation}:{prefix}*")).await?)
    }

    /// Stores the position of the rebuild of this generation, for a process that continues it.
    pub async fn save_rebuild_position(&self, position: &str) -> Result<(), Error> {
        let field = rebuild_position_field(self.live_generation().await?);
        let _: i64 = self.connection().hset(META, field, position).await?;
        Ok(())
    }

    /// Returns what [`Redis::save_rebuild_position`] stored.
    pub async fn rebuild_position(&self) -> Result<Option<String>, Error> {
        let field = rebuild_position_field(self.live_generation().await?);
        Ok(self.connection().hget(META, field).await?)
    }
}
