//! The condition of Redis, for health checks.

use std::time::Duration;

use ::redis::{RedisResult, pipe};
use tokio::sync::Mutex;
use tokio::time::Instant;

use super::Redis;
use super::keys::{QUARANTINE, generation_key};
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
            pipeline.smembers(generation_key(partition, generation, QUARANTINE));
        }
        let names: Vec<RedisResult<Vec<String>>> = pipeline.ignore_errors().query_async(&mut self.connection()).await?;
        let mut quarantined = Vec::new();
        for (partition, names) in self.partitions().zip(names) {
            match names.map_err(Error::from) {
                Ok(names) => {
                    quarantined.extend(names.into_iter().map(|name| generation_key(partition, generation, name)))
                }
                Err(Error::Damaged(_)) => quarantined.push(generation_key(partition, generation, QUARANTINE)),
                Err(error) => return Err(error),
            }
        }
        quarantined.sort_unstable();
        Ok(Health { quarantined, ..Health::default() })
    }
}
