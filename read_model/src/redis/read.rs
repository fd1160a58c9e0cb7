//! The queries.

use std::collections::{HashMap, HashSet};

use ::redis::{FromRedisValue, Pipeline, RedisError, RedisResult, Value, from_redis_value, pipe};
use entity::Subject;
use futures::StreamExt;
use futures::stream::{self, BoxStream};
use tokio::time::timeout;

use super::Redis;
use super::connection::TIMEOUT;
use super::decode::{
    CLIENT_FIELDS, ClientFields, read_buckets, read_client, read_order_summary, read_positions, read_product_sales,
};
use super::generations::{HALF_HOURS_FORMAT, REPORTS_FORMAT};
use super::keys::{CATALOGUE, CHANGED, QUARANTINE, RANKINGS, generation_key};
use super::scripts::is_not_loaded;
use crate::metrics;
use crate::rules::recent_orders::RECENT_ORDERS;
use crate::{
    AppliedVersions, Client, Error, Health, OrderSummary, Product, ProjectedClient, Queries, RankPosition, Ranking,
    Resolution, Status, Sum,
};

/// Fields of a hash that are read at once, and those that are read at once in all partitions together. Redis runs the calls of a
/// pipeline, one for each partition, without a pause in between: 4,000 fields occupy it for about 5 ms.
const SCANNED_FIELDS: usize = 1_000;
const SCANNED_FIELDS_IN_ALL: usize = 4_000;

#[async_trait::async_trait]
impl Queries for Redis {
    async fn clients(&self, ids: &[i64]) -> Result<Vec<Option<Client>>, Error> {
        self.clients_of(self.live_generation().await?, ids).await
    }

    async fn cached_clients(&self, ids: &[i64]) -> Result<Vec<Option<Client>>, Error> {
        let (generation, cache) = (self.live_generation().await?, &self.shared.client_cache);
        let mut clients: Vec<Option<Option<Client>>> = ids.iter().map(|id| cache.get(generation, *id)).collect();
        let missing: Vec<i64> =
            ids.iter().zip(&clients).filter(|(_, client)| client.is_none()).map(|(id, _)| *id).collect();
        metrics::count_cache_reads(ids.len() - missing.len(), missing.len());
        if !missing.is_empty() {
            let marks: Vec<_> = missing.iter().map(|id| cache.mark(*id)).collect();
            let read = self.clients_of(generation, &missing).await?;
            let places = clients.iter_mut().filter(|client| client.is_none());
            for (((id, mark), client), place) in missing.into_iter().zip(marks).zip(read).zip(places) {
                cache.insert(mark, generation, id, &client);
                *place = Some(client);
            }
        }
        Ok(clients.into_iter().map(Option::flatten).collect())
    }

    async fn ranked_clients(
        &self,
        by: Ranking,
        after: Option<RankPosition>,
        count: usize,
    ) -> Result<Vec<RankPosition>, Error> {
        let generation = self.report_generation().await?;
        // Most partitions have about the same share of the first clients.
        let share = count / usize::from(self.shared.partitions);
        let limit = count.min(share + 3 * share.isqrt() + 3);
        let all: Vec<i64> = self.partitions().collect();
        let results = self.ranked_in(generation, by, &all, after, limit).await?;
        let positions = first_of(results.concat(), count);
        // A partition that returned as many as it was asked for, all of them among the first, may have more. It is asked for all
        // of them again: in two parts, a client that rises in between would be missed.
        let may_have_more = |result: &[RankPosition]| {
            result.len() == limit && result.last().is_some_and(|last| positions.contains(last))
        };
        let more: Vec<i64> =
            all.into_iter().zip(&results).filter(|(_, result)| may_have_more(result)).map(|(one, _)| one).collect();
        if limit == count || more.is_empty() {
            return Ok(positions);
        }
        let more = self.ranked_in(generation, by, &more, after, count).await?.concat();
        Ok(first_of([positions, more].concat(), count))
    }

    async fn recent_orders(&self, clients: &[i64], count: usize) -> Result<Vec<Vec<OrderSummary>>, Error> {
        let (generation, Some(last)) = (self.report_generation().await?, count.min(RECENT_ORDERS).checked_sub(1))
        else {
            return Ok(vec![Vec::new(); clients.len()]);
        };
        let mut pipeline = pipe();
        for id in clients {
            let key = generation_key(self.partition(*id), generation, format_args!("recent:{id}"));
            pipeline.zrevrange(key, 0, last as isize);
        }
        let lists: Vec<Vec<String>> = self.read_all(&mut pipeline).await?;
        let lists = clients.iter().zip(lists);
        lists.map(|(client, list)| list.iter().map(|text| read_order_summary(*client, text)).collect()).collect()
    }

    async fn products(&self, ids: &[i64]) -> Result<Vec<Option<Product>>, Error> {
        self.projected_products(ids).await?.into_iter().collect()
    }

    async fn catalogue_ids(&self) -> Result<Vec<i64>, Error> {
        let (generation, mut pipeline) = (self.report_generation().await?, pipe());
        for partition in self.partitions() {
            pipeline.hkeys(generation_key(partition, generation, CATALOGUE));
        }
        let mut ids = self.read_all::<Vec<i64>>(&mut pipeline).await?.concat();
        ids.sort_unstable();
        Ok(ids)
    }

    async fn buckets(&self, pages: &[String]) -> Result<Vec<Vec<Sum>>, Error> {
        let has_half_hours = pages.iter().any(|page| Resolution::HalfHour.has(page));
        let format = if has_half_hours { HALF_HOURS_FORMAT } else { REPORTS_FORMAT };
        let (generation, mut pipeline) = (self.live_generation_since(format).await?, pipe());
        for page in pages {
            for partition in self.partitions() {
                pipeline.get(generation_key(partition, generation, page));
            }
        }
        let stored: Vec<Option<Vec<u8>>> = self.read_shared(generation, self.partitions(), pages, pipeline).await?;
        let sum = |partitions: &[Option<Vec<u8>>]| {
            let mut sum: Vec<Sum> = Vec::new();
            for page in partitions.iter().flatten() {
                let buckets = read_buckets(page);
                sum.resize(sum.len().max(buckets.len()), Sum::default());
                sum.iter_mut().zip(buckets).for_each(|(sum, bucket)| sum.add(bucket));
            }
            sum
        };
        Ok(stored.chunks(self.shared.partitions.into()).map(sum).collect())
    }

    async fn product_sales(&self, periods: &[String]) -> Result<HashMap<i64, Sum>, Error> {
        let generation = self.report_generation().await?;
        let mut sales: HashMap<i64, Sum> = HashMap::new();
        for period in periods {
            for partition in self.product_sales_in(generation, period).await? {
                partition.into_iter().for_each(|(product, sold)| sales.entry(product).or_default().add(sold));
            }
        }
        Ok(sales)
    }

    async fn changes(&self) -> Result<BoxStream<'static, i64>, Error> {
        // A server that was left sends no changes any more, and may keep the subscription.
        let left = self.shared.connection.replaced();
        let subscribe = async {
            let mut listener = self.shared.servers.listen(&mut self.connection()).await?;
            listener.subscribe(CHANGED).await?;
            RedisResult::Ok(listener.into_on_message())
        };
        let messages =
            timeout(3 * TIMEOUT, subscribe).await.map_err(|_| Error::Unavailable("it does not respond".into()))??;
        let ids = |text: String| text.split(' ').filter_map(|id| id.parse().ok()).collect::<Vec<i64>>();
        let changes =
            messages.flat_map(move |message| stream::iter(message.get_payload().map(ids).unwrap_or_default()));
        Ok(changes.take_until(left).boxed())
    }

    async fn applied_versions(&self, subject: Subject) -> Result<AppliedVersions, Error> {
        match subject {
            Subject::Client(id) => {
                let client = self.projected_clients(&[id]).await?.pop().unwrap_or(Ok(None))?;
                let applied = |client: ProjectedClient| (client.client.version, client.ahead);
                let (watermark, ahead) = client.map(applied).unwrap_or_default();
                Ok(AppliedVersions { watermark, ahead })
            }
            Subject::Product(id) => {
                let product = self.products(&[id]).await?.pop().flatten();
                let watermark = product.map_or(0, |product| product.version);
                Ok(AppliedVersions { watermark, ..AppliedVersions::default() })
            }
        }
    }

    async fn status(&self) -> Result<Status, Error> {
        let generations = self.generations().await?;
        let live = self.pinned_to(generations.live());
        let replayed = match generations.building() {
            Some(building) => self.pinned_to(building).rebuild_position().await?,
            None => None,
        };
        let replayed = replayed.and_then(|id| id.parse().ok());
        let (sweep, wrong_sums) = (live.sweep_progress().await?, live.wrong_sums().await?);
        let projectors = self.projectors().await?;
        Ok(Status { generations, replayed, sweep, wrong_sums, projectors })
    }

    async fn ping(&self) -> Result<(), Error> {
        Redis::ping(self).await
    }

    async fn health(&self) -> Health {
        Redis::health(self).await
    }
}

impl Redis {
    async fn clients_of(&self, generation: u64, ids: &[i64]) -> Result<Vec<Option<Client>>, Error> {
        let mut pipeline = pipe();
        for id in ids {
            pipeline.hmget(self.client_key(generation, *id), &CLIENT_FIELDS);
        }
        let clients: Vec<ClientFields> = self.read_all(&mut pipeline).await?;
        ids.iter().zip(clients).map(|(id, fields)| read_client(*id, fields)).collect()
    }

    /// Returns the clients of each partition that follow a position. One round trip.
    async fn ranked_in(
        &self,
        generation: u64,
        by: Ranking,
        partitions: &[i64],
        after: Option<RankPosition>,
        count: usize,
    ) -> Result<Vec<Vec<RankPosition>>, Error> {
        let (rank, id) = after.map(|after| (after.rank.to_string(), after.id.to_string())).unwrap_or_default();
        let (name, mut calls) = (RANKINGS[by as usize], pipe());
        for partition in partitions {
            let call = calls.cmd("EVALSHA").arg(self.shared.scripts.read_ranking.get_hash()).arg(1);
            call.arg(generation_key(*partition, generation, name)).arg(count).arg(&rank).arg(&id);
        }
        let partitions = partitions.iter().copied();
        let names = [name.to_owned()];
        let read = self.read_shared(generation, partitions, &names, calls);
        let texts: Vec<String> = metrics::measured("read_ranking", read).await?;
        texts.iter().map(|text| read_positions(text)).collect()
    }

    /// Returns the sales of products in each partition in one period. Reads a part of each partition at a time.
    async fn product_sales_in(&self, generation: u64, period: &str) -> Result<Vec<HashMap<i64, Sum>>, Error> {
        let mut sales: Vec<HashMap<i64, Sum>> = vec![HashMap::new(); self.shared.partitions.into()];
        let mut unread: Vec<(i64, String)> = self.partitions().map(|partition| (partition, "0".to_owned())).collect();
        while !unread.is_empty() {
            let fields = (SCANNED_FIELDS_IN_ALL / unread.len()).clamp(1, SCANNED_FIELDS);
            let mut calls = pipe();
            for (partition, cursor) in &unread {
                let call = calls.cmd("EVALSHA").arg(self.shared.scripts.scan_hash.get_hash()).arg(1);
                call.arg(generation_key(*partition, generation, period)).arg(cursor).arg(fields);
            }
            let partitions = unread.iter().map(|(partition, _)| *partition);
            let names = [period.to_owned()];
            let read = self.read_shared(generation, partitions, &names, calls);
            let parts: Vec<(String, String)> = metrics::measured("scan_hash", read).await?;
            for ((partition, cursor), (next, text)) in unread.iter_mut().zip(parts) {
                read_product_sales(&text, &mut sales[*partition as usize])?;
                *cursor = next;
            }
            unread.retain(|(_, cursor)| cursor != "0");
        }
        Ok(sales)
    }

    /// Like [`Redis::read_all`], for shared keys of these names and partitions.
    ///
    /// # Errors
    /// Also if one of the keys is quarantined.
    async fn read_shared<T: FromRedisValue>(
        &self,
        generation: u64,
        partitions: impl Iterator<Item = i64> + Clone,
        names: &[String],
        mut pipeline: Pipeline,
    ) -> Result<Vec<T>, Error> {
        if pipeline.is_empty() {
            return Ok(Vec::new());
        }
        let reads = pipeline.cmd_iter().count();
        // The quarantine is read last: a key that is not in it then missed no event before.
        for partition in partitions.clone() {
            pipeline.smembers(generation_key(partition, generation, QUARANTINE));
        }
        let mut results: Vec<Value> = self.read_all(&mut pipeline).await?;
        for (partition, quarantine) in partitions.zip(results.split_off(reads)) {
            let quarantine: Vec<String> = from_redis_value(quarantine).map_err(RedisError::from)?;
            if let Some(name) = quarantine.iter().find(|name| names.contains(name)) {
                let key = generation_key(partition, generation, name);
                return Err(Error::Damaged(format!("{key} is quarantined; `projector rebuild` replaces it")));
            }
        }
        results.into_iter().map(|result| Ok(from_redis_value(result).map_err(RedisError::from)?)).collect()
    }

    /// Returns the results of all commands of a pipeline, which may be empty.
    ///
    /// # Errors
    /// If the store fails, or one of the keys is damaged.
    async fn read_all<T: FromRedisValue>(&self, pipeline: &mut Pipeline) -> Result<Vec<T>, Error> {
        if pipeline.is_empty() {
            return Ok(Vec::new());
        }
        pipeline.ignore_errors();
        let mut results: Vec<RedisResult<Value>> = pipeline.query_async(&mut self.connection()).await?;
        if results.iter().any(|result| result.as_ref().is_err_and(is_not_loaded)) {
            self.shared.scripts.load(&mut self.connection()).await?;
            results = pipeline.query_async(&mut self.connection()).await?;
        }
        results.into_iter().map(|result| Ok(from_redis_value(result?).map_err(RedisError::from)?)).collect()
    }
}

/// Returns the first positions, each client once: one may have moved while the partitions were read.
fn first_of(mut positions: Vec<RankPosition>, count: usize) -> Vec<RankPosition> {
    positions.sort_unstable_by(RankPosition::order);
    let mut seen = HashSet::new();
    positions.retain(|position| seen.insert(position.id));
    positions.truncate(count);
    positions
}
