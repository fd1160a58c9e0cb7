//! The generations as they are stored: reading and changing them, and fencing the partitions.
//!
//! `orders:meta` holds the generations. A change gives them a new fencing token and then writes that to every partition. Each process
//! caches the generations, for at most a second when it reads. A writer with an old token is refused and reads them again.

use std::sync::{PoisonError, RwLock};
use std::time::Duration;

use ::redis::{AsyncCommands, RedisError, RedisResult, Value, from_redis_value, pipe};
use futures::future::try_join_all;
use tokio::sync::Mutex;
use tokio::time::Instant;

use super::{FORMAT, Generations, REPORTS_FORMAT};
use crate::redis::connection::Cursor;
use crate::redis::keys::{
    META, fencing_token_key, partition_generations_key, rebuild_position_field, swept_field, wrong_sums_field,
};
use crate::redis::{ConnectError, Redis, meta_failed};
use crate::{Error, metrics};

/// How long readers use the cached generations. The previous one receives events for longer than that.
const CACHED_FOR: Duration = Duration::from_secs(1);
/// How long the keys of a removed generation stay: no write that was sent before arrives later.
const REMOVED_AFTER: Duration = Duration::from_secs(5);
/// How often an operation is tried when other processes change the generations at the same time.
pub const ATTEMPTS: u32 = 10;

/// The generations that a process has cached, and the locks of their updates.
pub struct Registry {
    cached: RwLock<Cached>,
    /// Held during [`Redis::reconcile`], which one caller does for all that wait.
    reconciling: Mutex<()>,
    /// Held by the reader that refreshes the cache.
    refreshing: Mutex<()>,
}

struct Cached {
    generations: Generations,
    at: Instant,
}

impl Registry {
    pub fn new() -> Registry {
        let cached = RwLock::new(Cached { generations: Generations::first(0), at: Instant::now() });
        Registry { cached, reconciling: Mutex::default(), refreshing: Mutex::default() }
    }
}

/// The generations that a script writes to.
pub struct WriteTarget {
    pub fencing_token: u64,
    /// The numbers of the generations, separated by spaces, the live one first.
    pub generations: String,
}

/// The stored generations, and the server's time (ms since 1970).
struct Stored {
    text: Option<String>,
    has_settings: bool,
    requested_at: Instant,
    now: i64,
}

impl Stored {
    fn generations(&self) -> Result<Generations, Error> {
        let Some(text) = &self.text else { return Ok(Generations::first(self.now)) };
        serde_json::from_str(text).map_err(|error| Error::Damaged(format!("`generations` in {META}: {error}")))
    }
}

/// Reads the reply to ROLE, whose first element names the role.
fn is_primary(role: Value) -> bool {
    let role: Result<Vec<Value>, _> = from_redis_value(role);
    let name = role.ok().and_then(|role| from_redis_value::<String>(role.into_iter().next()?).ok());
    name.is_none_or(|name| name == "master")
}

pub fn keep_changing() -> Error {
    Error::Unavailable("other processes keep changing its generations".into())
}

fn to_json(generations: &Generations) -> Result<String, Error> {
    serde_json::to_string(generations).map_err(|error| Error::Damaged(error.to_string()))
}

impl Redis {
    /// Changes the generations. `change` gets them and the time (ms since 1970), possibly several times. After this has returned,
    /// no process applies an event without knowing the change.
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
        Err(keep_changing())
    }

    /// Returns the stored generations.
    pub async fn generations(&self) -> Result<Generations, Error> {
        let stored = self.load().await?;
        let generations = stored.generations()?;
        let is_known = stored.text.is_some()
            && stored.has_settings
            && generations.fencing_token >= self.cached(|cached| cached.generations.fencing_token);
        if is_known {
            self.update_cache(generations, stored.requested_at);
        } else {
            self.reconcile().await?; // the store has lost its generations, or their last change
        }
        Ok(self.cached(|cached| cached.generations.clone()))
    }

    /// Returns whether the live generation has rankings and sums: those of older releases have none.
    pub async fn has_reports(&self) -> Result<bool, Error> {
        let generation = self.live_generation().await?;
        Ok(self.format_of(generation) >= REPORTS_FORMAT)
    }

    /// Removes generations that were kept for long enough, and the keys of those that were removed a while ago. Returns the numbers
    /// of the latter. Several processes may run this, and it may be interrupted.
    pub async fn remove_expired_generations(&self) -> Result<Vec<u64>, Error> {
        let after = REMOVED_AFTER.as_millis() as i64;
        if self.generations().await?.generations.len() == 1 {
            return Ok(Vec::new());
        }
        let expire = |generations: &mut Generations, now| {
            generations.expire(now);
            generations.removable(now, after)
        };
        let removable = self.change_generations(expire).await?;
        for generation in &removable {
            self.remove_keys(*generation).await?;
            let fields = [rebuild_position_field, swept_field, wrong_sums_field].map(|field| field(*generation));
            let _: i64 = self.connection().hdel(META, &fields).await?;
            self.change_generations(|generations, _| generations.forget(*generation)).await?;
        }
        Ok(removable)
    }

    async fn remove_keys(&self, generation: u64) -> Result<(), Error> {
        let (mut cursor, mut found) = (Some(Cursor::default()), false);
        while let Some(at) = cursor {
            let keys;
            (cursor, keys) = self.scan_keys(generation, "", &at).await?;
            if !self.generations().await?.is_removed(generation) {
                break; // a store that had lost its generations gave the number to another one
            }
            let mut pipeline = pipe();
            for key in keys {
                pipeline.unlink(key).ignore();
            }
            if !pipeline.is_empty() {
                let () = pipeline.query_async(&mut self.connection()).await?;
                found = true;
            }
            // A Cluster may have moved keys during the scan: scan again until nothing is found.
            cursor = cursor.or_else(|| std::mem::take(&mut found).then(Cursor::default));
        }
        Ok(())
    }

    /// Returns the generation to read.
    pub(in crate::redis) async fn live_generation(&self) -> Result<u64, Error> {
        if let Some(generation) = self.pinned_to {
            return Ok(generation);
        }
        let read = |cached: &Cached| (cached.at.elapsed(), cached.generations.live());
        let (age, live) = self.cached(read);
        if age < CACHED_FOR / 2 {
            return Ok(live);
        }
        // One reader refreshes the cache, the others use it until it is too old.
        if age < CACHED_FOR && self.shared.registry.refreshing.try_lock().is_err() {
            return Ok(live);
        }
        let _refreshing = self.shared.registry.refreshing.lock().await;
        match self.cached(read) {
            (age, live) if age < CACHED_FOR / 2 => Ok(live),
            _ => Ok(self.generations().await?.live()),
        }
    }

    /// Returns the generation to read rankings and sums from.
    pub(in crate::redis) async fn report_generation(&self) -> Result<u64, Error> {
        self.live_generation_since(REPORTS_FORMAT).await
    }

    /// Returns the live generation.
    ///
    /// # Errors
    /// Also if its format is older than this one.
    pub(in crate::redis) async fn live_generation_since(&self, format: u32) -> Result<u64, Error> {
        let generation = self.live_generation().await?;
        if self.format_of(generation) < format {
            let why = "it was made by an older release: run `projector rebuild`";
            return Err(Error::Unavailable(why.into()));
        }
        Ok(generation)
    }

    fn format_of(&self, generation: u64) -> u32 {
        self.cached(|cached| cached.generations.generations.get(&generation).map_or(FORMAT, |one| one.format))
    }

    /// Returns the generations to write, and the fencing token to write them with.
    pub(in crate::redis) fn write_target(&self) -> Result<WriteTarget, Error> {
        let (fencing_token, generations) = self.written_generations()?;
        let generations = generations.iter().map(u64::to_string).collect::<Vec<_>>().join(" ");
        Ok(WriteTarget { fencing_token, generations })
    }

    /// Returns the first of the generations to write: the live one, or the pinned one.
    pub(in crate::redis) fn written_generation(&self) -> Result<u64, Error> {
        Ok(self.written_generations()?.1[0])
    }

    fn written_generations(&self) -> Result<(u64, Vec<u64>), Error> {
        let (fencing_token, format, mut written) = self.cached(|Cached { generations, .. }| {
            (generations.fencing_token, generations.format(), generations.written().collect::<Vec<_>>())
        });
        if format > FORMAT {
            return Err(Error::Unavailable(format!("a newer release fills it, in format {format}")));
        }
        if let Some(generation) = self.pinned_to {
            written.retain(|written| *written == generation);
        }
        if written.is_empty() {
            return Err(Error::Unavailable("this generation was removed".into()));
        }
        Ok((fencing_token, written))
    }

    /// Makes the store, the partitions and the cache agree, after a change or a loss of data.
    pub(in crate::redis) async fn reconcile(&self) -> Result<(), Error> {
        let requested_at = Instant::now();
        let _reconciling = self.shared.registry.reconciling.lock().await;
        if self.cached(|cached| cached.at > requested_at) {
            return Ok(()); // another caller has reconciled them meanwhile
        }
        self.check_shared_settings().await.map_err(|error| match error {
            ConnectError::ReadModel(error) => error,
            ConnectError::Unreachable(error)
            | ConnectError::Certificate(error)
            | ConnectError::Login(error)
            | ConnectError::Failed(error) => self.write_failed(error),
            error => Error::Unavailable(error.to_string()),
        })?;
        self.fence_partitions().await
    }

    /// Reads the generations, and writes their fencing token to every partition. An empty store gets its first generation.
    pub(in crate::redis) async fn fence_partitions(&self) -> Result<(), Error> {
        // A larger token than the stored one proves that the store has lost a change: the next token must be larger still, so that
        // nothing is applied as if the change had not happened.
        let mut largest = self.cached(|cached| cached.generations.fencing_token);
        for _ in 0..ATTEMPTS {
            let stored = self.load().await?;
            let mut generations = stored.generations()?;
            if stored.text.is_none() || generations.fencing_token < largest {
                let copy = self.newest_copy().await?;
                let is_later =
                    |copy: &Generations| stored.text.is_none() || copy.fencing_token > generations.fencing_token;
                generations = copy.filter(is_later).unwrap_or(generations);
                self.save(&stored, generations, largest).await?;
                continue;
            }
            let text = to_json(&generations)?;
            let tokens = try_join_all(self.partitions().map(async |partition| {
                let mut fence = self.shared.scripts.fence.key(fencing_token_key(partition));
                fence.key(partition_generations_key(partition)).arg(generations.fencing_token).arg(&text);
                metrics::measured("fence", fence.invoke_async::<u64>(&mut self.connection())).await
            }));
            let tokens = tokens.await.map_err(|error| self.write_failed(error))?;
            largest = tokens.into_iter().max().unwrap_or(0);
            if largest <= generations.fencing_token {
                self.update_cache(generations, stored.requested_at);
                return Ok(());
            }
        }
        Err(keep_changing())
    }

    /// Returns the newest copy of the generations in the partitions: a Cluster may lose only the shard that has [`META`].
    async fn newest_copy(&self) -> Result<Option<Generations>, Error> {
        let mut pipeline = pipe();
        for partition in self.partitions() {
            pipeline.get(partition_generations_key(partition));
        }
        let copies: Vec<RedisResult<Option<String>>> =
            pipeline.ignore_errors().query_async(&mut self.connection()).await?;
        let copies = copies.into_iter().filter_map(|copy| serde_json::from_str::<Generations>(&copy.ok()??).ok());
        Ok(copies.max_by_key(|generations| generations.fencing_token))
    }

    /// Stores generations with a fencing token larger than before and than `largest`. Returns whether that succeeded, or another
    /// process has changed them first.
    async fn save(&self, before: &Stored, mut generations: Generations, largest: u64) -> Result<bool, Error> {
        let now = u64::try_from(before.now).unwrap_or(0);
        generations.fencing_token = now.max(generations.fencing_token + 1).max(largest + 1);
        let mut save = self.shared.scripts.save_generations.key(META);
        save.arg(before.text.as_deref().unwrap_or_default()).arg(to_json(&generations)?);
        let mut connection = self.connection();
        let saved = metrics::measured("save_generations", save.invoke_async(&mut connection)).await;
        saved.map_err(|error| self.write_failed(error))
    }

    async fn load(&self) -> Result<Stored, Error> {
        let (cache, mut pipeline) = (&self.shared.client_cache, pipe());
        let connection = cache.connection();
        // All processes use the clock of one server.
        let script = "return {redis.call('HMGET', KEYS[1], 'generations', unpack(ARGV)), redis.call('TIME')}";
        let settings = self.shared_settings();
        let fields = settings.each_ref().map(|setting| setting.field);
        pipeline.ignore_errors().cmd("EVAL").arg(script).arg(1).arg(META).arg(&fields[..]);
        let mut server = self.connection();
        server.check_address();
        if server.is_single() {
            // A primary that was demoted keeps its connections, and may never hear of another change. In a Cluster it redirects.
            pipeline.cmd("ROLE");
        }
        if cache.is_used() && server.is_single() {
            // Repeated, because tracking ends with the connection; it may also be forbidden.
            pipeline.cmd("CLIENT").arg("TRACKING").arg("ON");
        }
        let requested_at = Instant::now();
        let results: Vec<RedisResult<Value>> = pipeline.query_async(&mut server).await?;
        let mut results = results.into_iter();
        let mut next = || results.next().unwrap_or(Ok(Value::Nil));
        let stored = next();
        if server.is_single() && next().is_ok_and(|role| !is_primary(role)) {
            server.leave();
            return Err(Error::Unavailable("the server that REDIS_URL names is a replica".into()));
        }
        let stored = stored.map_err(meta_failed)?;
        type Fields = (Option<String>, Option<String>, Option<String>);
        let ((text, partitions, currency), (seconds, micros)): (Fields, (i64, i64)) =
            from_redis_value(stored).map_err(RedisError::from)?;
        // The server may be another one than before, or have been filled anew.
        let has_settings = partitions.is_some() && currency.is_some();
        for (setting, stored) in settings.iter().zip([partitions, currency]) {
            let differs = |stored| setting.check(stored).map_err(|error| Error::Unavailable(error.to_string()));
            stored.map_or(Ok(()), differs)?;
        }
        if let Ok(Value::Okay) = next() {
            cache.on_tracking(connection);
        }
        Ok(Stored { text, has_settings, requested_at, now: seconds * 1_000 + micros / 1_000 })
    }

    fn cached<R>(&self, read: impl FnOnce(&Cached) -> R) -> R {
        read(&self.shared.registry.cached.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// Caches generations that were read at that time, unless newer ones are cached.
    fn update_cache(&self, generations: Generations, at: Instant) {
        let mut cached = self.shared.registry.cached.write().unwrap_or_else(PoisonError::into_inner);
        if generations.fencing_token >= cached.generations.fencing_token {
            *cached = Cached { generations, at };
        }
    }
}
