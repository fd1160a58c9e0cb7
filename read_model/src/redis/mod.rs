//! The read model in Redis ≥ 6.2 or Valkey, on one server or a Cluster.
//!
//! | module         | holds                                                                    |
//! |----------------|--------------------------------------------------------------------------|
//! | `keys`         | the keys and their meaning                                               |
//! | `apply`        | the projection: events become calls of `scripts/apply.lua`               |
//! | [`batch`]      | the arguments of `scripts/apply.lua`                                     |
//! | `read`         | the queries                                                              |
//! | `health`       | the condition of Redis, for health checks                                |
//! | `projectors`   | what the projectors report about themselves                              |
//! | `repair`       | what `projector verify` compares and replaces                            |
//! | `decode`       | parsing stored values                                                    |
//! | `client_cache` | recently read clients, invalidated by Redis                              |
//! | [`generations`] | the sets of keys: their states, and how processes notice a change |
//! | `connection`   | one server or a Cluster behind the same calls                            |

mod apply;
pub mod batch;
pub(crate) mod client_cache;
pub(crate) mod connection;
mod decode;
pub mod generations;
mod health;
mod keys;
mod projectors;
mod read;
pub(crate) mod repair;
mod scripts;

use std::sync::Arc;

use ::redis::{AsyncCommands, ErrorKind, RedisError, RedisResult, ServerErrorKind, pipe};
use iso_currency::Currency;

use self::client_cache::ClientCache;
use self::connection::{Connection, RedisAddress, Servers};
use self::generations::registry::Registry;
use self::health::HealthCache;
use self::keys::{META, generation_key};
use self::scripts::Scripts;
use crate::{Error, metrics};

/// The read model in Redis. Clones share their connection.
#[derive(Clone)]
pub struct Redis {
    shared: Arc<Shared>,
    /// The only generation that is read and written. Otherwise the live one is read, and all that receive events are written.
    pinned_to: Option<u64>,
}

struct Shared {
    servers: Servers,
    client_cache: Arc<ClientCache>,
    connection: Connection,
    partitions: u16,
    currency: Currency,
    registry: Registry,
    scripts: Scripts,
    health: HealthCache,
}

#[derive(Debug, thiserror::Error)]
pub enum ConnectError {
    #[error("REDIS_URL is not set: the read model")]
    NotSet,
    #[error(
        "REDIS_URL must begin with redis:// or rediss://; other addresses, such as those of Redis Sentinel, are not supported: \
         name the primary, or a proxy that follows it"
    )]
    Unsupported,
    #[error("REDIS_URL names a Redis Sentinel, which is not supported: name the primary, or a proxy that follows it")]
    Sentinel,
    #[error("cannot parse REDIS_URL; set REDIS_USERNAME and REDIS_PASSWORD if they have special characters")]
    Malformed(#[source] RedisError),
    #[error("cannot use REDIS_CA_FILE: {0}")]
    CaFile(String),
    #[error("cannot reach the Redis of REDIS_URL")]
    Unreachable(#[source] RedisError),
    #[error("the certificate of the Redis of REDIS_URL is refused: check its host and REDIS_CA_FILE")]
    Certificate(#[source] RedisError),
    #[error("the Redis of REDIS_URL refuses the login: check REDIS_USERNAME and REDIS_PASSWORD")]
    Login(#[source] RedisError),
    #[error("the Redis of REDIS_URL responds with an error: {}", reason(.0))]
    Failed(RedisError),
    #[error(
        "this Redis was filled with {name}={stored}, but this process is set to {name}={configured}; \
         set {name}={stored}, or use another Redis"
    )]
    Differs { name: &'static str, stored: String, configured: String },
    #[error(transparent)]
    ReadModel(#[from] Error),
}

impl Redis {
    /// Connects to a URL that is complete: see [`Redis::connect_to`].
    pub async fn connect(url: &str, partitions: u16, currency: Currency) -> Result<Redis, ConnectError> {
        let address = RedisAddress { url: url.into(), ..RedisAddress::default() };
        Redis::connect_to(&address, partitions, currency).await
    }

    /// Connects, and stores or checks the settings that all processes on this Redis share. `partitions` is at least 1.
    pub async fn connect_to(
        address: &RedisAddress,
        partitions: u16,
        currency: Currency,
    ) -> Result<Redis, ConnectError> {
        // Two cryptography providers are compiled into rustls, by different libraries, so that it requires a choice.
        let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
        let (servers, client_cache) = (Servers::find(address).await?, Arc::new(ClientCache::new()));
        let connection = servers.connect(&client_cache).await?;
        let (registry, scripts, health) = (Registry::new(), Scripts::new(), HealthCache::default());
        let shared = Shared { servers, client_cache, connection, partitions, currency, registry, scripts, health };
        metrics::observe(&shared.client_cache);
        let redis = Redis { shared: Arc::new(shared), pinned_to: None };
        redis.check_shared_settings().await?;
        redis.fence_partitions().await?;
        for problem in redis.health().await.problems() {
            tracing::error!("{problem}");
        }
        Ok(redis)
    }

    /// Returns a read model that reads and writes only this generation, in whatever state it is.
    pub fn pinned_to(&self, generation: u64) -> Redis {
        Redis { pinned_to: Some(generation), shared: self.shared.clone() }
    }

    /// Returns a read model that stays with the generation that is live now.
    pub async fn pinned_to_live(&self) -> Result<Redis, Error> {
        Ok(self.pinned_to(self.live_generation().await?))
    }

    /// Checks that the store responds.
    pub async fn ping(&self) -> Result<(), Error> {
        self.shared.connection.check_address();
        // In a Cluster this asks only the node that has the key: others may be down.
        let _: bool = self.connection().exists(META).await?;
        Ok(())
    }

    /// Stores the settings that all processes share, or compares them with the stored ones.
    async fn check_shared_settings(&self) -> Result<(), ConnectError> {
        for setting in self.shared_settings() {
            let mut pipeline = pipe();
            pipeline.hset_nx(META, setting.field, &setting.configured).hget(META, setting.field);
            let stored: RedisResult<(bool, String)> = pipeline.query_async(&mut self.connection()).await;
            match stored {
                Ok((_, stored)) => setting.check(stored)?,
                Err(error) if is_wrong_type(&error) => return Err(meta_failed(error).into()),
                Err(error) => return Err(error.into()),
            }
        }
        Ok(())
    }

    /// The settings that all processes on this Redis share.
    fn shared_settings(&self) -> [SharedSetting; 2] {
        let Shared { partitions, currency, .. } = &*self.shared;
        let setting = |name, field, configured| SharedSetting { name, field, configured };
        [
            setting("PARTITIONS", "partitions", partitions.to_string()),
            setting("CURRENCY", "currency", currency.code().into()),
        ]
    }

    fn connection(&self) -> Connection {
        self.shared.connection.clone()
    }

    /// Converts the error of a write. Leaves a server that no longer accepts writes.
    fn write_failed(&self, error: RedisError) -> Error {
        if is_read_only(&error) {
            self.shared.connection.leave();
        }
        error.into()
    }

    fn partitions(&self) -> impl Iterator<Item = i64> + Clone {
        0..self.shared.partitions.into()
    }

    fn partition(&self, id: i64) -> i64 {
        id.rem_euclid(self.shared.partitions.into())
    }

    fn client_key(&self, generation: u64, id: i64) -> String {
        generation_key(self.partition(id), generation, format_args!("client:{id}"))
    }
}

/// A setting of this process that must be equal to the stored one.
struct SharedSetting {
    name: &'static str,
    /// The field of [`META`] that stores it.
    field: &'static str,
    configured: String,
}

impl SharedSetting {
    fn check(&self, stored: String) -> Result<(), ConnectError> {
        if stored == self.configured {
            return Ok(());
        }
        Err(ConnectError::Differs { name: self.name, stored, configured: self.configured.clone() })
    }
}

/// Converts an error of a command on [`META`].
fn meta_failed(error: RedisError) -> Error {
    if !is_wrong_type(&error) {
        return error.into();
    }
    Error::Damaged(format!("the key {META} has another type: delete it, and the processes write it again"))
}

fn is_wrong_type(error: &RedisError) -> bool {
    error.to_string().contains("WRONGTYPE")
}

fn is_read_only(error: &RedisError) -> bool {
    error.kind() == ErrorKind::Server(ServerErrorKind::ReadOnly)
}

impl From<RedisError> for ConnectError {
    fn from(error: RedisError) -> ConnectError {
        let is_login =
            error.kind() == ErrorKind::AuthenticationFailed || matches!(error.code(), Some("NOAUTH" | "WRONGPASS"));
        match error.clone().into_server_errors() {
            _ if is_login => ConnectError::Login(error),
            Some(_) => ConnectError::Failed(error),
            None if error.to_string().contains("invalid peer certificate") => ConnectError::Certificate(error),
            None => ConnectError::Unreachable(error),
        }
    }
}

impl From<RedisError> for Error {
    /// Only an error that blames the stored data is [`Error::Damaged`]. Any other can pass, and must not cost an event.
    fn from(error: RedisError) -> Error {
        if error.code() == Some("AHEAD") {
            return Error::Refused(error.detail().unwrap_or_default().to_owned());
        }
        let blames_data = matches!(error.code(), Some("CORRUPT" | "WRONGTYPE"))
            || matches!(error.kind(), ErrorKind::UnexpectedReturnType | ErrorKind::Parse);
        if blames_data { Error::Damaged(error.to_string()) } else { Error::Unavailable(reason(&error)) }
    }
}

/// Returns the error in the words of Redis, such as `OOM command not allowed …`.
fn reason(error: &RedisError) -> String {
    let by_server = error.clone().into_server_errors().and_then(|errors| errors.first().cloned());
    match by_server {
        Some((_, error)) => format!("{} {}", error.code(), error.details().unwrap_or_default()),
        None => error.to_string(),
    }
}
