//! Reads and writes for `projector verify` and rebuilds. Events are applied by [`Projection`](crate::Projection).

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::time::Duration;

use ::redis::{AsyncCommands, FromRedisValue, RedisError, RedisResult, Value, from_redis_value, pipe};

use super::Redis;
use super::connection::Cursor;
use super::decode::{BUCKET_BYTES, read_buckets, read_product, read_projected_client};
use super::keys::{
    CATALOGUE, META, QUARANTINE, RANKINGS, SWEEPER, fencing_token_key, generation_key, missing_key,
    rebuild_position_field, swept_field, wrong_sums_field,
};
use super::scripts::is_stale;
use crate::metrics;
use crate::rules::recent_orders::RECENT_ORDERS;
use crate::{Error, OrderSummary, Product, ProjectedClient, Sum, SweepProgress};

/// The ranks and recent orders that a partition stores besides the client itself.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RankedAndRecent {
    /// The value in the ranking by total; `None` if the client is not in it or it is quarantined.
    pub total: Option<i64>,
    /// The same in the ranking by last purchase: ms since 1970, or 0 without an order.
    pub last_purchase: Option<i64>,
    /// The newest of its recent orders by version, at most [`RECENT_ORDERS`] of them; `None` if a version has none that can be read, or
    /// several.
    pub recent: BTreeMap<i32, Option<OrderSummary>>,
}

/// Products that one call returns, roughly.
const SCANNED_PRODUCTS: u32 = 1_000;

/// A position in the catalogues of all partitions.
#[derive(Clone, Copy, Default)]
pub struct CatalogueCursor {
    partition: i64,
    position: u64,
}

/// Reads a result; `None` if the stored data are damaged.
fn value<T: FromRedisValue>(result: RedisResult<Value>) -> Result<Option<T>, Error> {
    let value = result.and_then(|value| from_redis_value(value).map_err(RedisError::from));
    match value.map_err(Error::from) {
        Err(Error::Damaged(_)) => Ok(None),
        value => value.map(Some),
    }
}

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

    /// Reads what the partitions store about clients besides the clients themselves. One round trip.
    ///
    /// # Errors
    /// If the store fails. A damaged key counts as missing.
    pub async fn ranked_and_recent(&self, ids: &[i64]) -> Result<Vec<RankedAndRecent>, Error> {
        if ids.is_empty() {
            return Ok(Vec::new());
        }
        let (generation, mut pipeline) = (self.report_generation().await?, pipe());
        for id in ids {
            for ranking in RANKINGS {
                pipeline.zscore(generation_key(self.partition(*id), generation, ranking), id);
            }
            let recent = generation_key(self.partition(*id), generation, format_args!("recent:{id}"));
            pipeline.zrevrange_withscores(recent, 0, RECENT_ORDERS as isize - 1);
        }
        // The quarantine is read last: a ranking that is not in it then missed no event before.
        let partitions: BTreeSet<i64> = ids.iter().map(|id| self.partition(*id)).collect();
        for partition in &partitions {
            pipeline.smembers(generation_key(*partition, generation, QUARANTINE));
        }
        let mut results: Vec<RedisResult<Value>> = pipeline.ignore_errors().query_async(&mut self.connection()).await?;
        let quarantines = results.split_off(3 * ids.len()).into_iter().map(value::<HashSet<String>>);
        let quarantines: BTreeMap<i64, _> =
            partitions.into_iter().zip(quarantines.collect::<Result<Vec<_>, _>>()?).collect();
        let client = |(id, [total, last, recent]): (&i64, &[RedisResult<Value>; 3])| {
            let quarantine = &quarantines[&self.partition(*id)];
            let is_readable = |name| quarantine.as_ref().is_some_and(|names| !names.contains(name));
            let score = |score: &RedisResult<Value>, name| {
                let score = value::<Option<f64>>(score.clone())?.flatten();
                Ok::<_, Error>(score.filter(|_| is_readable(name)).map(|score| score as i64))
            };
            let stored = value::<Vec<(String, f64)>>(recent.clone())?.unwrap_or_default();
            let mut recent = BTreeMap::new();
            for (text, version) in stored {
                let order = OrderSummary::from_text(*id, &text);
                recent.entry(version as i32).and_modify(|several| *several = None).or_insert(order);
            }
            Ok(RankedAndRecent { total: score(total, RANKINGS[0])?, last_purchase: score(last, RANKINGS[1])?, recent })
        };
        ids.iter().zip(results.as_chunks().0).map(client).collect()
    }

    /// Reads a client with all its fields, and buckets of its partition, each given by its page and index, at one moment: the sums
    /// have counted what the client includes. `None` if events are not added to the page any more because it is damaged. One
    /// round trip.
    ///
    /// # Errors
    /// If the store fails. A damaged client is an error of its own.
    pub async fn client_and_buckets(
        &self,
        client: i64,
        buckets: &[(String, usize)],
    ) -> Result<(Result<Option<ProjectedClient>, Error>, Vec<Option<Sum>>), Error> {
        let (generation, partition, mut pipeline) = (self.report_generation().await?, self.partition(client), pipe());
        pipeline.atomic().hgetall(self.client_key(generation, client));
        pipeline.smembers(generation_key(partition, generation, QUARANTINE));
        for (page, bucket) in buckets {
            let first = bucket * BUCKET_BYTES;
            let key = generation_key(partition, generation, page);
            pipeline.getrange(key, first as isize, (first + BUCKET_BYTES - 1) as isize);
        }
        let results: Vec<RedisResult<Value>> = pipeline.ignore_errors().query_async(&mut self.connection()).await?;
        let mut results = results.into_iter();
        let mut next = || results.next().unwrap_or(Ok(Value::Nil));
        let fields = next().and_then(|fields| from_redis_value(fields).map_err(RedisError::from));
        let quarantine = value::<HashSet<String>>(next())?;
        let sums = buckets.iter().map(|(page, _)| {
            let bytes = value::<Vec<u8>>(next())?;
            let is_readable = quarantine.as_ref().is_some_and(|names| !names.contains(page));
            Ok(bytes.filter(|_| is_readable).map(|bytes| read_buckets(&bytes).next().unwrap_or_default()))
        });
        let sums = sums.collect::<Result<_, Error>>()?;
        match fields.map_err(Error::from).and_then(|fields| read_projected_client(client, &fields)) {
            Err(error @ Error::Unavailable(_)) => Err(error),
            client => Ok((client, sums)),
        }
    }

    /// The number of partitions. The one of a client is its id modulo this number.
    pub fn partition_count(&self) -> u16 {
        self.shared.partitions
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

    /// Returns the ids of some stored products, and the cursor of the next call unless those were the last. A product that is stored
    /// during the whole scan is returned once or more.
    pub async fn scan_products(&self, at: CatalogueCursor) -> Result<(Option<CatalogueCursor>, Vec<i64>), Error> {
        let key = generation_key(at.partition, self.live_generation().await?, CATALOGUE);
        let mut scan = ::redis::cmd("HSCAN");
        scan.arg(key).arg(at.position).arg("COUNT").arg(SCANNED_PRODUCTS);
        let page = value::<(u64, Vec<Vec<u8>>)>(scan.query_async(&mut self.connection()).await)?;
        // A damaged catalogue is found when one of the database's products is looked up in it.
        let (position, fields) = page.unwrap_or_default();
        let next = match position {
            0 => CatalogueCursor { partition: at.partition + 1, position },
            _ => CatalogueCursor { position, ..at },
        };
        let has_more = next.partition < self.shared.partitions.into();
        // Fields and values in turn.
        let ids = fields.iter().step_by(2).filter_map(|id| str::from_utf8(id).ok()?.parse().ok());
        Ok((has_more.then_some(next), ids.collect()))
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

    /// Returns a value that changes whenever an event is applied to a client: see [`Redis::replace_client`].
    pub async fn state_of_client(&self, id: i64) -> Result<Vec<u8>, Error> {
        let key = self.client_key(self.live_generation().await?, id);
        let mut pipeline = pipe();
        pipeline.hget(&key, "version").hlen(&key).ignore_errors();
        let (version, length) = pipeline.query_async(&mut self.connection()).await?;
        let version = value::<Option<Vec<u8>>>(version)?.flatten().unwrap_or_default();
        let length = value::<i64>(length)?.map(|length| length.to_string()).unwrap_or_default();
        Ok([&version, &b" "[..], length.as_bytes()].concat())
    }

    /// Replaces a client with its ranks and recent orders, as one atomic step; a client without events is removed. The sums stay
    /// as they are. Does nothing and returns `false` if an event was applied to the client since `state`, the result of
    /// [`Redis::state_of_client`], was read.
    pub async fn replace_client(
        &self,
        projected: &ProjectedClient,
        recent: &BTreeMap<i32, OrderSummary>,
        state: &[u8],
    ) -> Result<bool, Error> {
        let client = &projected.client;
        let (partition, target) = (self.partition(client.id), self.write_target()?);
        let mut script = self.shared.scripts.replace_client.key(fencing_token_key(partition));
        script.key(missing_key(partition)).key(self.client_key(self.written_generation()?, client.id));
        script.arg(target.fencing_token).arg(state).arg(client.id).arg(self.channel()).arg(recent.len());
        for (version, order) in recent {
            script.arg(version).arg(order.to_text());
        }
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
            if client.cancelled != Sum::default() {
                script.arg("refunded").arg(client.cancelled.revenue).arg("cancelled").arg(client.cancelled.count);
            }
            for version in &projected.ahead {
                script.arg(format!("ahead:{version}")).arg("");
            }
        }
        let mut connection = self.connection();
        match metrics::measured("replace_client", script.invoke_async(&mut connection)).await {
            // `state` may have been read from another generation.
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

    /// Returns the names of all stored bucket pages and periods of product sales, of both sides. Looks at every key.
    pub async fn stored_periods(&self) -> Result<BTreeSet<String>, Error> {
        let generation = self.live_generation().await?;
        let (mut names, mut cursor) = (BTreeSet::new(), Some(Cursor::default()));
        while let Some(at) = cursor {
            let keys;
            // days, half_hours, moments and products
            (cursor, keys) = self.scan_keys(generation, "[dhmp]", &at).await?;
            let name = |key: &String| Some(key.split_once(&format!(":g{generation}:"))?.1.to_owned());
            names.extend(keys.iter().filter_map(name));
        }
        Ok(names)
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

    /// Makes a projector the one that sweeps for some time, unless another one is. Returns whether it is the one.
    pub async fn lease_sweep(&self, projector: &str, time: Duration) -> Result<bool, Error> {
        // A key without an expiry, or of another type, is no lease: nobody would ever remove it.
        let script = "local holder = redis.pcall('GET', KEYS[1])
            local is_lease = type(holder) == 'string' and redis.call('PTTL', KEYS[1]) >= 0
            if is_lease and holder ~= ARGV[1] then return 0 end
            redis.call('SET', KEYS[1], ARGV[1], 'PX', ARGV[2])
            return 1";
        let mut lease = ::redis::cmd("EVAL");
        lease.arg(script).arg(1).arg(SWEEPER).arg(projector).arg(time.as_millis() as u64);
        lease.query_async(&mut self.connection()).await.map_err(|error| self.write_failed(error))
    }

    /// Stores the progress of the sweep of the live generation, for a projector that continues it.
    pub async fn save_sweep_progress(&self, progress: &SweepProgress) -> Result<(), Error> {
        let progress = serde_json::to_string(progress).map_err(|error| Error::Damaged(error.to_string()))?;
        let field = swept_field(self.live_generation().await?);
        let _: i64 = self.connection().hset(META, field, progress).await?;
        Ok(())
    }

    /// Returns what [`Redis::save_sweep_progress`] stored; `None` if it cannot be read.
    pub async fn sweep_progress(&self) -> Result<Option<SweepProgress>, Error> {
        let stored: Option<String> = self.connection().hget(META, swept_field(self.live_generation().await?)).await?;
        Ok(stored.and_then(|progress| serde_json::from_str(&progress).ok()))
    }

    /// Stores how many sums of the live generation differ from the database, for health checks.
    pub async fn save_wrong_sums(&self, number: u64) -> Result<(), Error> {
        let field = wrong_sums_field(self.live_generation().await?);
        let _: i64 = self.connection().hset(META, field, number).await?;
        Ok(())
    }

    /// Returns what [`Redis::save_wrong_sums`] stored.
    pub async fn wrong_sums(&self) -> Result<u64, Error> {
        let field = wrong_sums_field(self.live_generation().await?);
        Ok(self.connection().hget::<_, _, Option<u64>>(META, field).await?.unwrap_or(0))
    }
}
