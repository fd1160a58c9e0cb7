//! The condition of Redis, for health checks.

use std::time::Duration;

use ::redis::{ErrorKind, RedisResult, ServerErrorKind, Value, from_redis_value, pipe};
use tokio::sync::Mutex;
use tokio::time::Instant;

use super::keys::{QUARANTINE, generation_key, missing_key};
use super::{Redis, reason};
use crate::{Error, Health};

/// How long details are reported before Redis is asked for them again. Whether it responds is checked each time.
const CACHED_FOR: Duration = Duration::from_secs(2);

/// The details that were read last, and when.
pub type HealthCache = Mutex<Option<(Instant, Health)>>;

impl Redis {
    /// Checks that the store responds, and returns its condition.
    pub async fn health(&self) -> Health {
        if let Err(error) = self.ping().await {
            return Health::of(Err(error));
        }
        // One caller reads the details for all that wait.
        let mut cached = self.shared.health.lock().await;
        match &*cached {
            Some((at, health)) if at.elapsed() < CACHED_FOR => health.clone(),
            _ => {
                let health = self.read_health().await.unwrap_or_else(|error| Health::of(Err(error)));
                *cached = Some((Instant::now(), health.clone()));
                health
            }
        }
    }

    async fn read_health(&self) -> Result<Health, Error> {
        let (generation, mut pipeline) = (self.live_generation().await?, pipe());
        for partition in self.partitions() {
            // It writes nothing, but is refused like any write: each shard of a Cluster may have a reason of its own.
            pipeline.cmd("SETRANGE").arg(missing_key(partition)).arg(0).arg("");
            pipeline.smembers(generation_key(partition, generation, QUARANTINE));
        }
        let results: Vec<RedisResult<Value>> = pipeline.ignore_errors().query_async(&mut self.connection()).await?;
        let mut health = Health { eviction_policy: self.eviction_policy().await, ..Health::default() };
        let mut results = results.into_iter();
        for partition in self.partitions() {
            let mut next = || results.next().unwrap_or(Ok(Value::Nil));
            let (probe, names) = (next(), next().and_then(|names| Ok(from_redis_value::<Vec<String>>(names)?)));
            // An ACL may forbid the command.
            if let Err(error) = probe
                && error.kind() != ErrorKind::Server(ServerErrorKind::NoPerm)
            {
                health.refusal.get_or_insert(reason(&error));
            }
            match names.map_err(Error::from) {
                Ok(names) => {
                    health.quarantined.extend(names.into_iter().map(|name| generation_key(partition, generation, name)))
                }
                Err(Error::Damaged(_)) => health.quarantined.push(generation_key(partition, generation, QUARANTINE)),
                Err(error) => return Err(error),
            }
        }
        health.quarantined.sort_unstable();
        health.wrong_sums = self.wrong_sums().await?;
        Ok(health)
    }

    /// Returns the policy by which Redis may evict keys. `None` also if INFO is forbidden.
    async fn eviction_policy(&self) -> Option<String> {
        let infos = self.connection().info("memory").await.ok()?;
        let policy =
            |info: &String| Some(info.lines().find_map(|line| line.strip_prefix("maxmemory_policy:"))?.to_owned());
        infos.iter().filter_map(policy).find(|policy| policy != "noeviction")
    }
}
