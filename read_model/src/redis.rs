//! The read model in Redis ≥ 6.2 or Valkey, on one server or a Cluster.
//!
//! | key                      | type   | holds                                                                        |
//! |--------------------------|--------|------------------------------------------------------------------------------|
//! | `orders:meta`            | hash   | `partitions`, `currency`: what all processes must agree on; `generations`: which there are, as JSON; `gG:replayed`: how far a rebuild has got |
//! | `orders:{pN}:fencing_token`      | string | which fencing_token's generations events of this partition are applied to              |
//! | `orders:{pN}:generations` | string | these generations, for when `orders:meta` is lost alone                      |
//! | `orders:{pN}:gG:client:ID` | hash | a client; N = ID modulo partitions, G = generation                             |
//! | `…:recent:ID`            | sorted | its newest orders, by version                                                 |
//! | `…:order:UUID`           | string | an order of one of its clients, as JSON, for a while                          |
//! | `…:rank:total`, `…:rank:last` | sorted | the partition's clients by total, and by last purchase (ms) or 0         |
//! | `…:days:2026`, `…:hours:2026-11`, `…:moments:2026-11-24T13` | string | revenue and number of orders for each day, hour, ten seconds: each 64 bits |
//! | `…:products:2026-11-24`, `…:products:2026-11` | hash | `ID:units` and `ID:revenue` of each product sold that day, that month |
//! | `…:catalogue`            | hash   | for each product, in the partition N = ID modulo partitions: its version, price (minor units) and name |
//!
//! Each change publishes the ids of the clients that it changed on the channel `orders:changed`, with spaces between them.
//!
//! A client's hash: `name`, `email`, `total` (minor units), `orders`, `last_purchase` (ms since 1970), `version` (the
//! watermark), `newest` (the largest version applied) and, while there is a gap, an empty field `ahead:V` for each
//! version V applied above the watermark. Braces make a Cluster keep a partition in one slot; a node must have it whole
//! when a script runs.
//!
//! Readers look which generation is live once a second. Whoever writes says which fencing_token it knows, and the partition refuses
//! all but its own: so once a change of the generations has reached every partition, nothing is applied without it.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use ::redis::{
    AsyncCommands, Cmd, ErrorKind, FromRedisValue, Pipeline, RedisError, RedisResult, Script, ServerErrorKind, Value,
    from_redis_value, pipe,
};
use chrono::{DateTime, Utc};
use entity::{Change, Event, ProductChanged};
use futures::StreamExt;
use futures::future::try_join_all;
use futures::stream::{self, BoxStream};
use iso_currency::Currency;
use tokio::sync::Mutex;
use tokio::time::{Instant, timeout};
use uuid::Uuid;

use crate::batch::Batch;
use crate::client_cache::ClientCache;
use crate::connection::{Connection, Cursor, Servers, TIMEOUT};
use crate::generations::{FORMAT, Generations};
use crate::sales::{OrderSummary, RECENT_ORDERS, StoredOrder, Sum};
use crate::{Applied, Client, Error, Product, ProjectedClient, RankPosition, Ranking, ReadModel};

/// For how long whole orders are kept, if not said otherwise.
pub const KEEP_ORDERS: Duration = Duration::from_secs(30 * 24 * 60 * 60);
/// Where the clients of a partition are ranked, by [`Ranking`].
const RANKINGS: [&str; 2] = ["rank:total", "rank:last"];
/// What products there are in a partition.
const CATALOGUE: &str = "catalogue";
const META: &str = "orders:meta";
const CHANGED: &str = "orders:changed";
/// Events and lines of orders applied in one round trip, at most: a busy server is to do it well within [`TIMEOUT`].
const TOGETHER: usize = 1_000;
/// How long it is believed which generation is live. What was live is applied to for longer than that.
const KNOWN_FOR: Duration = Duration::from_secs(1);
/// How long after a generation was given up its keys stay: nothing that was sent before is under way by then.
const REMOVED_AFTER: Duration = Duration::from_secs(5);
/// How often something is tried anew because others changed the generations meanwhile.
const ATTEMPTS: u32 = 10;

/// The read model in Redis. Clones share their connection.
#[derive(Clone)]
pub struct Redis {
    shared: Arc<Shared>,
    /// For how long whole orders are kept.
    keep_orders: Duration,
    /// The one generation that is read and written; or else the live one is read, and to all that live is written.
    only: Option<u64>,
}

struct Shared {
    servers: Servers,
    client_cache: Arc<ClientCache>,
    connection: RwLock<Connection>,
    partitions: u16,
    currency: Currency,
    known: RwLock<Known>,
    /// Held while the generations are settled, once for all who need that.
    settling: Mutex<()>,
    /// Held by who asks which generation is live.
    asking: Mutex<()>,
    apply: Script,
    apply_product: Script,
    read_ranking: Script,
    read_hash: Script,
    replace_client: Script,
    save_generations: Script,
    fence: Script,
}

struct Known {
    generations: Generations,
    at: Instant,
}

#[derive(Debug, thiserror::Error)]
pub enum ConnectError {
    #[error("REDIS_URL is not set: the read model")]
    NotSet,
    #[error("cannot reach the Redis of REDIS_URL")]
    Unreachable(#[from] RedisError),
    #[error(
        "this Redis was filled with {name}={stored}, but this process is set to {name}={configured}; \
         set {name}={stored}, or use another Redis"
    )]
    Differs { name: &'static str, stored: String, configured: String },
    #[error(transparent)]
    ReadModel(#[from] Error),
}

impl Redis {
    /// Connects, and settles or checks what all processes on this Redis must agree on. `partitions` is at least 1.
    pub async fn connect(url: &str, partitions: u16, currency: Currency) -> Result<Redis, ConnectError> {
        // rustls is built with two providers of cryptography, by different libraries, and wants one to be chosen.
        let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
        let (servers, client_cache) = (Servers::find(url).await?, Arc::new(ClientCache::new()));
        let connection = RwLock::new(servers.connect(&client_cache).await?);
        let redis = Redis {
            shared: Arc::new(Shared {
                servers,
                client_cache,
                connection,
                partitions,
                currency,
                known: RwLock::new(Known { generations: Generations::first(0), at: Instant::now() }),
                settling: Mutex::default(),
                asking: Mutex::default(),
                apply: Script::new(include_str!("apply.lua")),
                apply_product: Script::new(include_str!("apply_product.lua")),
                read_ranking: Script::new(include_str!("read_ranking.lua")),
                read_hash: Script::new(include_str!("read_hash.lua")),
                replace_client: Script::new(include_str!("replace_client.lua")),
                save_generations: Script::new(include_str!("save_generations.lua")),
                fence: Script::new(include_str!("fence.lua")),
            }),
            keep_orders: KEEP_ORDERS,
            only: None,
        };
        redis.check_shared_settings().await?;
        redis.fence_partitions().await?;
        Ok(redis)
    }

    /// The same, but one generation alone is read and written, whether it is live or not.
    pub fn pinned_to(&self, generation: u64) -> Redis {
        Redis { only: Some(generation), ..self.clone() }
    }

    /// The same, but whole orders are kept so long.
    pub fn keeping_orders(self, keep_orders: Duration) -> Redis {
        Redis { keep_orders, ..self }
    }

    /// Settles what must be the same for all processes, or checks it.
    async fn check_shared_settings(&self) -> Result<(), ConnectError> {
        let Shared { partitions, currency, .. } = &*self.shared;
        let agreed =
            [("PARTITIONS", "partitions", partitions.to_string()), ("CURRENCY", "currency", currency.code().into())];
        for (name, field, configured) in agreed {
            let (_, stored): (bool, String) =
                pipe().hset_nx(META, field, &configured).hget(META, field).query_async(&mut self.connection()).await?;
            if stored != configured {
                return Err(ConnectError::Differs { name, stored, configured });
            }
        }
        Ok(())
    }

    /// Changes which generations there are: `change` gets them and the time (ms since 1970), maybe more than once. When this
    /// returns, no process applies anything without knowing of it.
    pub async fn change_generations<R>(&self, change: impl Fn(&mut Generations, i64) -> R) -> Result<R, Error> {
        for _ in 0..ATTEMPTS {
            let stored = self.load().await?;
            let before = stored.generations()?;
            let mut generations = before.clone();
            let result = change(&mut generations, stored.now);
            if before == generations || self.save(&stored, generations, 0).await? {
                self.reconcile().await?;
                return Ok(result);
            }
        }
        Err(changing())
    }

    /// Settles anew what the store may have lost.
    async fn reconcile(&self) -> Result<(), Error> {
        let asked = Instant::now();
        let _settling = self.shared.settling.lock().await;
        if self.cached(|known| known.at > asked) {
            return Ok(()); // while this waited
        }
        self.check_shared_settings().await.map_err(|error| match error {
            ConnectError::ReadModel(error) => error,
            ConnectError::Unreachable(error) => self.failed(error),
            error => Error::Unavailable(error.to_string()),
        })?;
        self.fence_partitions().await
    }

    /// Learns which generations there are, and lets every partition know. An empty store gets its first.
    async fn fence_partitions(&self) -> Result<(), Error> {
        // Whoever knows of a later fencing_token has seen what the store has lost: nothing may be applied as if it were there.
        let mut above = self.cached(|known| known.generations.fencing_token);
        for _ in 0..ATTEMPTS {
            let stored = self.load().await?;
            let mut generations = stored.generations()?;
            if stored.text.is_none() || generations.fencing_token < above {
                let kept = self.kept_by_partitions().await?;
                let is_later =
                    |kept: &Generations| stored.text.is_none() || kept.fencing_token > generations.fencing_token;
                generations = kept.filter(is_later).unwrap_or(generations);
                self.save(&stored, generations, above).await?;
                continue;
            }
            let text = serde_json::to_string(&generations).map_err(|error| Error::Damaged(error.to_string()))?;
            let raise = (0..self.shared.partitions).map(async |partition| {
                let partition = partition.into();
                let mut raise = self.shared.fence.key(fencing_token_key(partition));
                raise.key(partition_generations_key(partition)).arg(generations.fencing_token).arg(&text);
                raise.invoke_async::<u64>(&mut self.connection()).await
            });
            let known = try_join_all(raise).await.map_err(|error| self.failed(error))?;
            above = known.into_iter().max().unwrap_or(0);
            if above <= generations.fencing_token {
                self.update_cache(generations, stored.asked);
                return Ok(());
            }
        }
        Err(changing())
    }

    /// The latest generations that partitions were told of: of a Cluster, only the shard may be lost that has [`META`].
    async fn kept_by_partitions(&self) -> Result<Option<Generations>, Error> {
        let mut pipeline = pipe();
        for partition in 0..self.shared.partitions.into() {
            pipeline.get(partition_generations_key(partition));
        }
        let kept: Vec<RedisResult<Option<String>>> =
            pipeline.ignore_errors().query_async(&mut self.connection()).await?;
        let kept = kept.into_iter().filter_map(|kept| serde_json::from_str::<Generations>(&kept.ok()??).ok());
        Ok(kept.max_by_key(|generations| generations.fencing_token))
    }

    /// Says which generations there are from now on, in an fencing_token later than before and than `above`; returns whether it did,
    /// or somebody else was faster.
    async fn save(&self, before: &Stored, mut generations: Generations, above: u64) -> Result<bool, Error> {
        let now = u64::try_from(before.now).unwrap_or(0);
        generations.fencing_token = now.max(generations.fencing_token + 1).max(above + 1);
        let text = serde_json::to_string(&generations).map_err(|error| Error::Damaged(error.to_string()))?;
        let mut settle = self.shared.save_generations.key(META);
        settle.arg(before.text.as_deref().unwrap_or_default()).arg(text);
        settle.invoke_async(&mut self.connection()).await.map_err(|error| self.failed(error))
    }

    async fn load(&self) -> Result<Stored, Error> {
        let (client_cache, mut pipeline) = (&self.shared.client_cache, pipe());
        let connection = client_cache.connection();
        // By one server's clock.
        let stored = "return {redis.call('HGET', KEYS[1], 'generations'), redis.call('TIME')}";
        pipeline.ignore_errors().cmd("EVAL").arg(stored).arg(1).arg(META);
        let mut server = self.connection();
        if client_cache.is_wanted() && server.can_tell() {
            // Again and again: it ends with the connection, and may be forbidden.
            pipeline.cmd("CLIENT").arg("TRACKING").arg("ON");
        }
        let asked = Instant::now();
        let answers: Vec<RedisResult<Value>> = pipeline.query_async(&mut server).await?;
        let mut answers = answers.into_iter();
        let mut next = || answers.next().unwrap_or(Ok(Value::Nil));
        let (text, (seconds, micros)): (_, (i64, i64)) = from_redis_value(next()?).map_err(RedisError::from)?;
        if let Ok(Value::Okay) = next() {
            client_cache.track(connection);
        }
        Ok(Stored { text, asked, now: seconds * 1_000 + micros / 1_000 })
    }

    /// Which generations there are, as of now.
    pub async fn generations(&self) -> Result<Generations, Error> {
        let stored = self.load().await?;
        let generations = stored.generations()?;
        // Or else the store has lost them, or a later fencing_token.
        match stored.text.is_some() && generations.fencing_token >= self.cached(|known| known.generations.fencing_token)
        {
            true => self.update_cache(generations, stored.asked),
            false => self.reconcile().await?,
        }
        Ok(self.cached(|known| known.generations.clone()))
    }

    fn cached<R>(&self, read: impl FnOnce(&Known) -> R) -> R {
        read(&self.shared.known.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// They were so, or later ones, at that time.
    fn update_cache(&self, generations: Generations, at: Instant) {
        let mut known = self.shared.known.write().unwrap_or_else(PoisonError::into_inner);
        if generations.fencing_token >= known.generations.fencing_token {
            *known = Known { generations, at };
        }
    }

    /// An error of a write, noticing a server that takes none any more.
    fn failed(&self, error: RedisError) -> Error {
        if error.kind() == ErrorKind::Server(ServerErrorKind::ReadOnly) {
            self.leave_this_server();
        }
        error.into()
    }

    /// The generation to read.
    async fn read_from(&self) -> Result<u64, Error> {
        if let Some(only) = self.only {
            return Ok(only);
        }
        let known = |known: &Known| (known.at.elapsed(), known.generations.live());
        let (age, live) = self.cached(known);
        if age < KNOWN_FOR / 2 {
            return Ok(live);
        }
        // One asks for all, the others go on until it is too old.
        if age < KNOWN_FOR && self.shared.asking.try_lock().is_err() {
            return Ok(live);
        }
        let _asking = self.shared.asking.lock().await;
        match self.cached(known) {
            (age, live) if age < KNOWN_FOR / 2 => Ok(live),
            _ => Ok(self.generations().await?.live()),
        }
    }

    /// The generations to write to, and the fencing_token that they are of.
    fn write_to(&self) -> Result<(u64, Vec<u64>), Error> {
        let (fencing_token, format, mut applied) = self.cached(|Known { generations, .. }| {
            (generations.fencing_token, generations.format(), generations.applied().collect::<Vec<_>>())
        });
        if format > FORMAT {
            return Err(Error::Unavailable(format!("a newer release fills it, in format {format}")));
        }
        if let Some(only) = self.only {
            applied.retain(|generation| *generation == only);
        }
        match applied.is_empty() {
            true => Err(Error::Unavailable("this generation was given up".into())),
            false => Ok((fencing_token, applied)),
        }
    }

    /// Where changes are told. Nobody watches a generation that is being built.
    fn channel(&self) -> &'static str {
        if self.only.is_some() { "" } else { CHANGED }
    }

    fn connection(&self) -> Connection {
        self.shared.connection.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Connects anew, to whatever server the URL names by now: a primary that was demoted keeps its connections open.
    fn leave_this_server(&self) {
        if let Some(connection) = self.shared.servers.connect_anew(&self.shared.client_cache) {
            *self.shared.connection.write().unwrap_or_else(PoisonError::into_inner) = connection;
            // The one that is dropped does not say so.
            self.shared.client_cache.lost();
        }
    }

    fn partition(&self, id: i64) -> i64 {
        id.rem_euclid(self.shared.partitions.into())
    }

    fn client_key(&self, generation: u64, id: i64) -> String {
        partition_key(self.partition(id), generation, &format!("client:{id}"))
    }

    /// Clients with all that is stored of them, in the order of the ids. One round trip.
    ///
    /// # Errors
    /// When the store fails; what is damaged is the error of its client alone.
    pub async fn projected_clients(&self, ids: &[i64]) -> Result<Vec<Result<Option<ProjectedClient>, Error>>, Error> {
        if ids.is_empty() {
            return Ok(Vec::new());
        }
        let (generation, mut pipeline) = (self.read_from().await?, pipe());
        for id in ids {
            pipeline.hgetall(self.client_key(generation, *id));
        }
        // As bytes: what is not text is damaged, and harms no other client.
        let rows: Vec<RedisResult<HashMap<Vec<u8>, Vec<u8>>>> =
            pipeline.ignore_errors().query_async(&mut self.connection()).await?;
        Ok(ids.iter().zip(rows).map(|(id, row)| read_projected(*id, row?)).collect())
    }

    /// By what each of these clients is ranked, in either [`Ranking`], where it is. One round trip.
    ///
    /// # Errors
    /// When the store fails, or a ranking is damaged.
    pub async fn scores(&self, ids: &[i64]) -> Result<Vec<[Option<i64>; 2]>, Error> {
        if ids.is_empty() {
            return Ok(Vec::new());
        }
        let (generation, mut pipeline) = (self.report_from().await?, pipe());
        for id in ids {
            for ranking in RANKINGS {
                pipeline.zscore(partition_key(self.partition(*id), generation, ranking), id);
            }
        }
        let ranks: Vec<Option<f64>> = self.ask_all(&mut pipeline).await?;
        let (of_clients, _) = ranks.as_chunks::<{ RANKINGS.len() }>();
        Ok(of_clients.iter().map(|ranks| ranks.map(|rank| rank.map(|rank| rank as i64))).collect())
    }

    /// The products of these ids, in their order; what is damaged is the error of its product alone. One round trip.
    ///
    /// # Errors
    /// When the store fails.
    pub async fn projected_products(&self, ids: &[i64]) -> Result<Vec<Result<Option<Product>, Error>>, Error> {
        if ids.is_empty() {
            return Ok(Vec::new());
        }
        let (generation, mut pipeline) = (self.read_from().await?, pipe());
        for id in ids {
            pipeline.hget(partition_key(self.partition(*id), generation, CATALOGUE), id);
        }
        let stored: Vec<RedisResult<Option<String>>> =
            pipeline.ignore_errors().query_async(&mut self.connection()).await?;
        let product =
            |(id, text): (&i64, RedisResult<Option<String>>)| text?.map(|text| read_product(*id, &text)).transpose();
        Ok(ids.iter().zip(stored).map(product).collect())
    }

    /// The ids of all products that are stored.
    pub async fn product_ids(&self) -> Result<Vec<i64>, Error> {
        let (generation, mut pipeline) = (self.read_from().await?, pipe());
        for partition in 0..self.shared.partitions.into() {
            pipeline.hkeys(partition_key(partition, generation, CATALOGUE));
        }
        let stored: Vec<RedisResult<Vec<String>>> =
            pipeline.ignore_errors().query_async(&mut self.connection()).await?;
        // What is damaged is found where a product is looked for in it.
        Ok(stored.into_iter().flatten().flatten().filter_map(|id| id.parse().ok()).collect())
    }

    /// Removes a product, for its newest event to be applied anew; all of its partition where what is stored is no catalogue.
    pub async fn remove_product(&self, id: i64) -> Result<(), Error> {
        let (_, generations) = self.write_to()?;
        let key = partition_key(self.partition(id), generations[0], CATALOGUE);
        let removed: RedisResult<i64> = self.connection().hdel(&key, id).await;
        match removed.map_err(|error| self.failed(error)) {
            Err(Error::Damaged(_)) => {
                let _: i64 = self.connection().del(&key).await.map_err(|error| self.failed(error))?;
                Ok(())
            }
            removed => removed.map(drop),
        }
    }

    /// Whether the generation that is read has more than clients: those of older releases have not.
    pub async fn has_reports(&self) -> Result<bool, Error> {
        let generation = self.read_from().await?;
        Ok(self.format_of(generation) >= FORMAT)
    }

    fn format_of(&self, generation: u64) -> u32 {
        self.cached(|known| known.generations.generations.get(&generation).map_or(FORMAT, |one| one.format))
    }

    /// The field of a client that tells what has been applied last, as it is stored: see [`Redis::replace_client`].
    pub async fn newest_version(&self, id: i64) -> Result<Vec<u8>, Error> {
        let key = self.client_key(self.read_from().await?, id);
        let newest: RedisResult<Option<Vec<u8>>> = self.connection().hget(key, "newest").await;
        match newest.map_err(Error::from) {
            Ok(newest) => Ok(newest.unwrap_or_default()),
            Err(Error::Damaged(_)) => Ok(Vec::new()),
            Err(error) => Err(error),
        }
    }

    /// Puts a client, as the whole log makes it, in the place of what is stored of it, in one atomic step; one without
    /// events is removed. Not when something has been applied that the log did not have: `newest` is what
    /// [`Redis::newest_version`] told before the log was read. Returns whether it did.
    pub async fn replace_client(&self, projected: &ProjectedClient, newest: &[u8]) -> Result<bool, Error> {
        let (fencing_token, generations) = self.write_to()?;
        let client = &projected.client;
        let mut script = self.shared.replace_client.key(fencing_token_key(self.partition(client.id)));
        script.key(nothing_key(self.partition(client.id))).key(self.client_key(generations[0], client.id));
        script.arg(fencing_token).arg(newest).arg(projected.newest).arg(client.id).arg(self.channel());
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
            // What was read before may have been of another generation.
            Err(error) if is_stale(&error) => self.reconcile().await.map(|()| false),
            replaced => replaced.map_err(|error| self.failed(error)),
        }
    }

    /// The ids of some of the clients that are stored, and where to go on, if those were not all. Each is returned that is
    /// there the whole time, and is not moved to another node of a Cluster; some maybe twice.
    pub async fn scan(&self, cursor: &Cursor) -> Result<(Option<Cursor>, Vec<i64>), Error> {
        let (cursor, keys) = self.scan_keys(self.read_from().await?, "client:", cursor).await?;
        let id = |key: &String| key.rsplit(':').next().and_then(|id| id.parse().ok());
        Ok((cursor, keys.iter().filter_map(id).collect()))
    }

    async fn scan_keys(
        &self,
        generation: u64,
        which: &str,
        cursor: &Cursor,
    ) -> Result<(Option<Cursor>, Vec<String>), Error> {
        Ok(self.connection().scan(cursor, &format!("orders:{{p*}}:g{generation}:{which}*")).await?)
    }

    /// Notes how far the rebuild of the only generation has got, for whoever goes on with it.
    pub async fn save_rebuild_position(&self, position: &str) -> Result<(), Error> {
        let field = format!("g{}:replayed", self.read_from().await?);
        let _: i64 = self.connection().hset(META, field, position).await?;
        Ok(())
    }

    /// What [`Redis::save_rebuild_position`] noted.
    pub async fn rebuild_position(&self) -> Result<Option<String>, Error> {
        let field = format!("g{}:replayed", self.read_from().await?);
        Ok(self.connection().hget(META, field).await?)
    }

    /// Gives up what has been kept for long enough, and removes the keys of what was given up some time ago. Returns the
    /// numbers of the generations that are gone now. May run in several processes, and be interrupted.
    pub async fn remove_expired_generations(&self) -> Result<Vec<u64>, Error> {
        let after = REMOVED_AFTER.as_millis() as i64;
        if self.generations().await?.generations.len() == 1 {
            return Ok(Vec::new());
        }
        let due = |generations: &mut Generations, now| {
            generations.expire(now);
            generations.to_remove(now, after)
        };
        let due = self.change_generations(due).await?;
        for generation in &due {
            let (mut cursor, mut found) = (Some(Cursor::default()), false);
            while let Some(at) = cursor {
                let keys;
                (cursor, keys) = self.scan_keys(*generation, "", &at).await?;
                if !self.generations().await?.is_removed(*generation) {
                    break; // it was given out anew, by a store that had lost it
                }
                let mut pipeline = pipe();
                for key in keys {
                    pipeline.unlink(key).ignore();
                }
                if !pipeline.is_empty() {
                    let () = pipeline.query_async(&mut self.connection()).await?;
                    found = true;
                }
                // Once more, for what a Cluster moved meanwhile.
                cursor = cursor.or_else(|| std::mem::take(&mut found).then(Cursor::default));
            }
            let _: i64 = self.connection().hdel(META, format!("g{generation}:replayed")).await?;
            self.change_generations(|generations, _| generations.forget(*generation)).await?;
        }
        Ok(due)
    }

    /// The generation to read what not every format has.
    async fn report_from(&self) -> Result<u64, Error> {
        let generation = self.read_from().await?;
        match self.format_of(generation) >= FORMAT {
            true => Ok(generation),
            false => {
                Err(Error::Unavailable("it was made by an older release; `projector rebuild` makes it anew".into()))
            }
        }
    }

    /// The answers to all commands of a pipeline.
    ///
    /// # Errors
    /// When the store fails, or one of the keys is damaged.
    async fn ask_all<T: FromRedisValue>(&self, pipeline: &mut Pipeline) -> Result<Vec<T>, Error> {
        let answers: Vec<RedisResult<T>> = pipeline.ignore_errors().query_async(&mut self.connection()).await?;
        answers.into_iter().map(|answer| Ok(answer?)).collect()
    }

    /// The answers to calls of a script, which a new or restarted server does not know yet.
    async fn ask_script(&self, script: &Script, calls: &mut Pipeline) -> Result<Vec<String>, Error> {
        calls.ignore_errors();
        let mut answers: Vec<RedisResult<String>> = calls.query_async(&mut self.connection()).await?;
        if answers.iter().any(|answer| answer.as_ref().is_err_and(is_unknown_script)) {
            script.load_async(&mut self.connection()).await?;
            answers = calls.query_async(&mut self.connection()).await?;
        }
        answers.into_iter().map(|answer| Ok(answer?)).collect()
    }

    /// The clients of some partitions that follow a place. One round trip.
    async fn ranked_in(
        &self,
        generation: u64,
        by: Ranking,
        partitions: &[i64],
        after: Option<RankPosition>,
        count: usize,
    ) -> Result<Vec<Vec<RankPosition>>, Error> {
        let (rank, id) = after.map(|place| (place.rank.to_string(), place.id.to_string())).unwrap_or_default();
        let mut calls = pipe();
        for partition in partitions {
            let call = calls.cmd("EVALSHA").arg(self.shared.read_ranking.get_hash()).arg(1);
            call.arg(partition_key(*partition, generation, RANKINGS[by as usize])).arg(count).arg(&rank).arg(&id);
        }
        self.ask_script(&self.shared.read_ranking, &mut calls).await?.iter().map(|places| read_places(places)).collect()
    }

    async fn clients_of(&self, generation: u64, ids: &[i64]) -> Result<Vec<Option<Client>>, Error> {
        if ids.is_empty() {
            return Ok(Vec::new());
        }
        let mut pipeline = pipe();
        for id in ids {
            let key = self.client_key(generation, *id);
            pipeline.hmget(key, &["name", "email", "total", "orders", "last_purchase", "version"]);
        }
        let rows: Vec<RedisResult<Row>> = pipeline.ignore_errors().query_async(&mut self.connection()).await?;
        ids.iter().zip(rows).map(|(id, row)| read_client(*id, row?)).collect()
    }

    /// A call of a script that writes to a partition, without the rest of its arguments.
    fn write(&self, script: &Script, partition: i64, to: &Target) -> Cmd {
        let mut call = ::redis::cmd("EVALSHA");
        call.arg(script.get_hash()).arg(2).arg(fencing_token_key(partition)).arg(nothing_key(partition));
        call.arg(to.fencing_token).arg(&to.generations);
        call
    }

    /// Makes calls of scripts in one round trip; `calls` is told which generations to write to. What failed for a reason that
    /// passes at once is tried again: what was applied all the same is only reported as applied before.
    async fn call(&self, calls: impl Fn(&Target) -> Vec<Cmd>) -> Result<Vec<RedisResult<u32>>, Error> {
        for _ in 0..ATTEMPTS {
            let (fencing_token, generations) = self.write_to()?;
            let generations = generations.iter().map(u64::to_string).collect::<Vec<_>>().join(" ");
            let mut pipeline = pipe();
            for call in calls(&Target { fencing_token, generations }) {
                pipeline.add_command(call);
            }
            if pipeline.is_empty() {
                return Ok(Vec::new());
            }
            let results: Vec<RedisResult<u32>> = pipeline.ignore_errors().query_async(&mut self.connection()).await?;
            let mut errors = results.iter().filter_map(|result| result.as_ref().err());
            if errors.clone().any(is_unknown_script) {
                for script in [&self.shared.apply, &self.shared.apply_product] {
                    script.load_async(&mut self.connection()).await?;
                }
            } else if errors.any(is_stale) {
                self.reconcile().await?;
            } else {
                return Ok(results);
            }
        }
        Err(changing())
    }

    /// Applies each batch in one atomic step.
    async fn apply_batches(&self, batches: &[Batch<'_>]) -> Result<Vec<RedisResult<u32>>, Error> {
        let now = Utc::now();
        let call = |batch: &Batch, to: &Target| {
            let mut call = self.write(&self.shared.apply, self.partition(batch.client()), to);
            batch.write(call.arg(self.channel()), now, self.keep_orders);
            call
        };
        self.call(|to| batches.iter().map(|batch| call(batch, to)).collect()).await
    }

    async fn put_products(&self, products: &[(&ProductChanged, i32)]) -> Result<Vec<RedisResult<u32>>, Error> {
        let call = |(product, version): &(&ProductChanged, i32), to: &Target| {
            let mut call = self.write(&self.shared.apply_product, self.partition(product.product_id), to);
            call.arg(product.product_id).arg(version).arg(product.price).arg(&product.name);
            call
        };
        self.call(|to| products.iter().map(|product| call(product, to)).collect()).await
    }

    async fn apply_all(&self, events: &[Event]) -> Result<Vec<RedisResult<u32>>, Error> {
        let mut results = Vec::with_capacity(events.len());
        let (mut first, mut lines) = (0, 0);
        for (index, event) in events.iter().enumerate() {
            lines += 1 + event.order().map_or(0, |order| order.lines.len());
            if lines >= TOGETHER || index + 1 == events.len() {
                results.extend(self.apply_together(&events[first..=index]).await?);
                (first, lines) = (index + 1, 0);
            }
        }
        Ok(results)
    }

    /// Applies the events of each partition in one step, or one by one where that cannot be.
    async fn apply_together(&self, events: &[Event]) -> Result<Vec<RedisResult<u32>>, Error> {
        let mut results = vec![Ok(0); events.len()];
        let mut of_partitions: BTreeMap<i64, Batch> = BTreeMap::new();
        let (mut products, mut of_products, mut repeats) = (Vec::new(), Vec::new(), Vec::new());
        for (index, event) in events.iter().enumerate() {
            let id = match &event.data {
                Change::Product(product) => {
                    products.push((product, event.version));
                    of_products.push(index);
                    continue;
                }
                Change::Client(client) => client.client_id,
                Change::OrderPlaced(order) => order.client_id,
            };
            let first = of_partitions.entry(self.partition(id)).or_default().add(index, id, event);
            if first != index {
                repeats.push((index, first));
            }
        }
        for (index, result) in of_products.into_iter().zip(self.put_products(&products).await?) {
            results[index] = result;
        }
        let (batches, too_large): (Vec<Batch>, Vec<Batch>) = of_partitions.into_values().partition(Batch::fits);
        let mut alone: Vec<(usize, i64)> = too_large.iter().flat_map(Batch::indices).collect();
        for (batch, result) in batches.iter().zip(self.apply_batches(&batches).await?) {
            let is_of_one = |error: &RedisError| matches!(error.code(), Some("MIXED" | "CORRUPT"));
            if result.as_ref().is_err_and(is_of_one) && batch.has_several() {
                alone.extend(batch.indices());
            } else {
                batch.indices().for_each(|(index, _)| results[index] = result.clone());
            }
        }
        alone.sort_unstable();
        let batches: Vec<Batch> = alone.iter().map(|(index, id)| Batch::of(*index, *id, &events[*index])).collect();
        for ((index, _), result) in alone.into_iter().zip(self.apply_batches(&batches).await?) {
            results[index] = result;
        }
        for (index, first) in repeats {
            results[index] = results[first].clone().map(|_| 0); // applied before, by the first
        }
        Ok(results)
    }
}

/// What a script writes to.
struct Target {
    /// That the generations are of.
    fencing_token: u64,
    /// With spaces between them, the one that matters first.
    generations: String,
}

/// Which generations there are, as it is stored, and the server's time (ms since 1970).
struct Stored {
    text: Option<String>,
    asked: Instant,
    now: i64,
}

impl Stored {
    fn generations(&self) -> Result<Generations, Error> {
        let Some(text) = &self.text else { return Ok(Generations::first(self.now)) };
        serde_json::from_str(text).map_err(|error| Error::Damaged(format!("`generations` in {META}: {error}")))
    }
}

fn changing() -> Error {
    Error::Unavailable("its generations change all the time".into())
}

fn partition_key(partition: i64, generation: u64, name: &str) -> String {
    format!("orders:{{p{partition}}}:g{generation}:{name}")
}

fn read_purchase(text: &str) -> Result<OrderSummary, Error> {
    OrderSummary::from_text(text).ok_or_else(|| Error::Damaged(format!("{text:?} in a list of orders")))
}

/// Ids and ranks in turn.
fn read_places(text: &str) -> Result<Vec<RankPosition>, Error> {
    let parts: Vec<&str> = text.split_ascii_whitespace().collect();
    let place =
        |[id, rank]: &[&str; 2]| Some(RankPosition { rank: rank.parse::<f64>().ok()? as i64, id: id.parse().ok()? });
    let places = parts.as_chunks().0.iter().map(place).collect::<Option<_>>();
    places.ok_or_else(|| Error::Damaged(format!("{text:?} in a ranking")))
}

/// A cell of a page: two numbers, or less at the end.
fn read_tally(cell: &[u8]) -> Sum {
    let number = |bytes: Option<&[u8]>| bytes.and_then(|bytes| bytes.try_into().ok()).map_or(0, i64::from_be_bytes);
    Sum { revenue: number(cell.get(..8)), count: number(cell.get(8..16)) }
}

fn read_product(id: i64, text: &str) -> Result<Product, Error> {
    let product = || {
        let (version, rest) = text.split_once(' ')?;
        let (price, name) = rest.split_once(' ')?;
        Some(Product { id, name: name.to_owned(), price: price.parse().ok()?, version: version.parse().ok()? })
    };
    product().ok_or_else(|| Error::Damaged(format!("the product {id} of the catalogue: {text:?}")))
}

fn fencing_token_key(partition: i64) -> String {
    format!("orders:{{p{partition}}}:fencing_token")
}

fn partition_generations_key(partition: i64) -> String {
    format!("orders:{{p{partition}}}:generations")
}

/// There is none. A script that has it among its keys is not run while a Cluster moves the partition to another node, and only
/// some of the other keys are there: it answers TRYAGAIN to what names several keys, some of which are not there.
fn nothing_key(partition: i64) -> String {
    format!("orders:{{p{partition}}}:nothing")
}

/// Whether a script is not known: to a new or restarted server.
fn is_unknown_script(error: &RedisError) -> bool {
    error.kind() == ErrorKind::Server(ServerErrorKind::NoScript)
}

/// Whether a script was given other generations than there are by now.
fn is_stale(error: &RedisError) -> bool {
    error.code() == Some("STALE")
}

#[async_trait::async_trait]
impl ReadModel for Redis {
    async fn apply(&self, events: &[Event]) -> Vec<Result<Applied, Error>> {
        if events.is_empty() {
            return Vec::new();
        }
        let results = self.apply_all(events).await;
        let demoted = |error: &RedisError| error.kind() == ErrorKind::Server(ServerErrorKind::ReadOnly);
        if results.iter().flatten().any(|result| result.as_ref().is_err_and(demoted)) {
            self.leave_this_server();
        }
        match results {
            Ok(results) => results
                .into_iter()
                .map(|result| match result {
                    Ok(0) => Ok(Applied::Before),
                    Ok(_) => Ok(Applied::Now),
                    Err(error) => Err(error.into()),
                })
                .collect(),
            // Nothing is known of any event, and nothing is wrong with it.
            Err(Error::Unavailable(why) | Error::Damaged(why)) => vec![Err(Error::Unavailable(why)); events.len()],
        }
    }

    async fn clients(&self, ids: &[i64]) -> Result<Vec<Option<Client>>, Error> {
        self.clients_of(self.read_from().await?, ids).await
    }

    async fn cached_clients(&self, ids: &[i64]) -> Result<Vec<Option<Client>>, Error> {
        let (generation, client_cache) = (self.read_from().await?, &self.shared.client_cache);
        let mut clients: Vec<Option<Option<Client>>> = ids.iter().map(|id| client_cache.get(generation, *id)).collect();
        let missing: Vec<i64> =
            ids.iter().zip(&clients).filter(|(_, client)| client.is_none()).map(|(id, _)| *id).collect();
        if !missing.is_empty() {
            let marks: Vec<_> = missing.iter().map(|id| client_cache.mark(*id)).collect();
            let read = self.clients_of(generation, &missing).await?;
            let places = clients.iter_mut().filter(|client| client.is_none());
            for (((id, mark), client), place) in missing.into_iter().zip(marks).zip(read).zip(places) {
                client_cache.keep(mark, generation, id, &client);
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
        let generation = self.report_from().await?;
        // Most partitions have about the same share of them.
        let share = count / usize::from(self.shared.partitions);
        let few = count.min(share + 3 * share.isqrt() + 3);
        let all: Vec<i64> = (0..self.shared.partitions.into()).collect();
        let told = self.ranked_in(generation, by, &all, after, few).await?;
        let places = first_of(told.concat(), count);
        // Of one that told as many as it was asked for, all of them among the first, there may be more. It is asked for all
        // of them again: in two parts one would be missed that rises meanwhile.
        let has_more =
            |told: &[RankPosition]| told.len() == few && told.last().is_some_and(|last| places.contains(last));
        let more: Vec<i64> =
            all.into_iter().zip(&told).filter(|(_, told)| has_more(told)).map(|(one, _)| one).collect();
        if few == count || more.is_empty() {
            return Ok(places);
        }
        let more = self.ranked_in(generation, by, &more, after, count).await?.concat();
        Ok(first_of([places, more].concat(), count))
    }

    async fn recent_orders(&self, clients: &[i64], count: usize) -> Result<Vec<Vec<OrderSummary>>, Error> {
        let (generation, Some(last)) = (self.report_from().await?, count.min(RECENT_ORDERS).checked_sub(1)) else {
            return Ok(vec![Vec::new(); clients.len()]);
        };
        let mut pipeline = pipe();
        for id in clients {
            let key = partition_key(self.partition(*id), generation, &format!("recent:{id}"));
            pipeline.zrevrange(key, 0, last as isize);
        }
        if clients.is_empty() {
            return Ok(Vec::new());
        }
        let lists: Vec<Vec<String>> = self.ask_all(&mut pipeline).await?;
        lists.iter().map(|list| list.iter().map(|text| read_purchase(text)).collect()).collect()
    }

    async fn order(&self, id: Uuid, client: Option<i64>) -> Result<Option<StoredOrder>, Error> {
        let (generation, mut pipeline) = (self.report_from().await?, pipe());
        let partitions = match client {
            Some(client) => self.partition(client)..self.partition(client) + 1,
            None => 0..self.shared.partitions.into(),
        };
        for partition in partitions {
            pipeline.get(partition_key(partition, generation, &format!("order:{id}")));
        }
        let orders: Vec<Option<String>> = self.ask_all(&mut pipeline).await?;
        let Some(text) = orders.into_iter().flatten().next() else { return Ok(None) };
        let kept: StoredOrder =
            serde_json::from_str(&text).map_err(|error| Error::Damaged(format!("order {id}: {error}")))?;
        Ok(Some(kept).filter(|kept| client.is_none_or(|client| kept.order.client_id == client)))
    }

    async fn products(&self, ids: &[i64]) -> Result<Vec<Option<Product>>, Error> {
        self.projected_products(ids).await?.into_iter().collect()
    }

    async fn buckets(&self, pages: &[String]) -> Result<Vec<Vec<Sum>>, Error> {
        let (generation, mut pipeline) = (self.report_from().await?, pipe());
        for page in pages {
            for partition in 0..self.shared.partitions.into() {
                pipeline.get(partition_key(partition, generation, page));
            }
        }
        if pages.is_empty() {
            return Ok(Vec::new());
        }
        let stored: Vec<Option<Vec<u8>>> = self.ask_all(&mut pipeline).await?;
        let sum = |parts: &[Option<Vec<u8>>]| {
            let mut sum: Vec<Sum> = Vec::new();
            for cells in parts.iter().flatten() {
                let tallies = cells.chunks(size_of::<[i64; 2]>()).map(read_tally);
                sum.resize(sum.len().max(tallies.len()), Sum::default());
                sum.iter_mut().zip(tallies).for_each(|(sum, tally)| sum.add(tally));
            }
            sum
        };
        Ok(stored.chunks(self.shared.partitions.into()).map(sum).collect())
    }

    async fn product_sales(&self, periods: &[String]) -> Result<HashMap<i64, Sum>, Error> {
        let (generation, mut calls) = (self.report_from().await?, pipe());
        for period in periods {
            for partition in 0..self.shared.partitions.into() {
                let call = calls.cmd("EVALSHA").arg(self.shared.read_hash.get_hash()).arg(1);
                call.arg(partition_key(partition, generation, period));
            }
        }
        let mut sum: HashMap<i64, Sum> = HashMap::new();
        if periods.is_empty() {
            return Ok(sum);
        }
        for text in self.ask_script(&self.shared.read_hash, &mut calls).await? {
            let mut parts = text.split_ascii_whitespace();
            while let Some(field) = parts.next() {
                let damaged = || Error::Damaged(format!("the field {field} of what was sold"));
                let (product, part) = field.split_once(':').ok_or_else(damaged)?;
                let amount = parts.next().and_then(|amount| amount.parse().ok()).ok_or_else(damaged)?;
                let sold = match part {
                    "units" => Sum { count: amount, revenue: 0 },
                    "revenue" => Sum { count: 0, revenue: amount },
                    _ => return Err(damaged()),
                };
                sum.entry(product.parse().map_err(|_| damaged())?).or_default().add(sold);
            }
        }
        Ok(sum)
    }

    async fn changes(&self) -> Result<BoxStream<'static, i64>, Error> {
        let subscribe = async {
            let mut listener = self.shared.servers.listen(&mut self.connection()).await?;
            listener.subscribe(CHANGED).await?;
            RedisResult::Ok(listener.into_on_message())
        };
        let messages =
            timeout(3 * TIMEOUT, subscribe).await.map_err(|_| Error::Unavailable("it does not answer".into()))??;
        let ids = |text: String| text.split(' ').filter_map(|id| id.parse().ok()).collect::<Vec<i64>>();
        Ok(messages.flat_map(move |message| stream::iter(message.get_payload().map(ids).unwrap_or_default())).boxed())
    }

    async fn ping(&self) -> Result<(), Error> {
        // Of a Cluster the node that has it: others may be away.
        let _: bool = self.connection().exists(META).await?;
        Ok(())
    }
}

/// The first of them, each client once: one may have moved while they were read.
fn first_of(mut places: Vec<RankPosition>, count: usize) -> Vec<RankPosition> {
    places.sort_unstable_by(RankPosition::order);
    let mut seen = HashSet::new();
    places.retain(|place| seen.insert(place.id));
    places.truncate(count);
    places
}

type Row = (Option<String>, Option<String>, Option<i64>, Option<i64>, Option<i64>, Option<i32>);

fn read_client(id: i64, row: Row) -> Result<Option<Client>, Error> {
    let damaged = || Error::Damaged(format!("client {id} lacks fields or has an impossible date"));
    match row {
        (None, None, None, None, None, None) => Ok(None),
        (Some(name), Some(email), Some(total), Some(order_count), last_purchase, version) => {
            let last_purchase =
                last_purchase.map(|ms| DateTime::from_timestamp_millis(ms).ok_or_else(damaged)).transpose()?;
            let version = version.unwrap_or(0);
            Ok(Some(Client { id, name, email, total, order_count, last_purchase, version }))
        }
        _ => Err(damaged()),
    }
}

fn read_projected(id: i64, row: HashMap<Vec<u8>, Vec<u8>>) -> Result<Option<ProjectedClient>, Error> {
    if row.is_empty() {
        return Ok(None);
    }
    let damaged = |field: &str| Error::Damaged(format!("the field {field} of client {id}"));
    let mut projected = ProjectedClient::new(id);
    let client = &mut projected.client;
    let (mut name, mut email) = (None, None);
    for (field, value) in &row {
        let field = str::from_utf8(field).map_err(|_| damaged("with a name that is no text"))?;
        let value = str::from_utf8(value).map_err(|_| damaged(field))?;
        let count = || value.parse::<i32>().map_err(|_| damaged(field));
        match field {
            "name" => name = Some(value.to_owned()),
            "email" => email = Some(value.to_owned()),
            "total" => client.total = value.parse().map_err(|_| damaged(field))?,
            "orders" => client.order_count = value.parse().map_err(|_| damaged(field))?,
            "version" => client.version = count()?,
            "newest" => projected.newest = count()?,
            "last_purchase" => {
                let time = value.parse().ok().and_then(DateTime::from_timestamp_millis);
                client.last_purchase = Some(time.ok_or_else(|| damaged(field))?);
            }
            _ => {
                let version = field.strip_prefix("ahead:").and_then(|version| version.parse().ok());
                projected.ahead.insert(version.ok_or_else(|| damaged(field))?);
            }
        }
    }
    (client.name, client.email) = name.zip(email).ok_or_else(|| damaged("name or email"))?;
    Ok(Some(projected))
}

impl From<RedisError> for Error {
    /// Only what names our own data as the fault is [`Error::Damaged`]. All else may pass, and must not cost an event.
    fn from(error: RedisError) -> Error {
        let ours = matches!(error.code(), Some("CORRUPT" | "WRONGTYPE"))
            || matches!(error.kind(), ErrorKind::UnexpectedReturnType | ErrorKind::Parse);
        if ours { Error::Damaged(error.to_string()) } else { Error::Unavailable(error.to_string()) }
    }
}
