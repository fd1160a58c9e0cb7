//! The read model in Redis ≥ 6.2 or Valkey.
//!
//! | key                         | type | holds                                                                     |
//! |-----------------------------|------|---------------------------------------------------------------------------|
//! | `orders:meta`               | hash | `partitions`, `currency`, `generation`: what all processes must agree on   |
//! | `orders:{pN}:gG:client:ID`  | hash | a client; N = ID modulo partitions, G = generation                        |
//!
//! Each change publishes the client's id on the channel `orders:changed`.
//!
//! A client's hash: `name`, `email`, `total` (minor units), `orders`, `last_purchase` (ms since 1970), `version` (the
//! watermark), `newest` (the largest version applied) and, while there is a gap, an empty field `ahead:V` for each
//! version V applied above the watermark. Braces make a Cluster keep a partition in one slot.

use std::collections::HashMap;
use std::sync::{PoisonError, RwLock};
use std::time::Duration;

use ::redis::aio::{ConnectionManager, ConnectionManagerConfig};
use ::redis::io::tcp::TcpSettings;
use ::redis::{
    AsyncCommands, Client as RedisClient, ErrorKind, IntoConnectionInfo, RedisError, RedisResult, Script,
    ServerErrorKind, pipe,
};
use chrono::DateTime;
use entity::Event;
use futures::StreamExt;
use futures::stream::BoxStream;
use iso_currency::Currency;
use socket2::TcpKeepalive;
use tokio::time::timeout;

use crate::{Applied, Client, Error, Projected, ReadModel};

const META: &str = "orders:meta";
const CHANGED: &str = "orders:changed";
const GENERATION: u32 = 1;
/// Keys that the server looks at in one step of a scan.
const SCAN: u32 = 1_000;
/// How long sent bytes may stay unacknowledged before the connection counts as dead, and an idle one is asked.
const SILENCE: Duration = Duration::from_secs(5);
/// How long a command, or connecting, may take before Redis counts as unavailable.
const TIMEOUT: Duration = Duration::from_secs(1);

pub struct Redis {
    client: RedisClient,
    connection: RwLock<ConnectionManager>,
    partitions: u16,
    apply: Script,
    replace: Script,
}

#[derive(Debug, thiserror::Error)]
pub enum ConnectError {
    #[error("REDIS_URL is not set: the read model")]
    NotSet,
    #[error("cannot reach the Redis of REDIS_URL")]
    Unreachable(#[from] RedisError),
    #[error("this Redis holds generation {0} of the read model, which this release does not read; use another Redis")]
    OtherGeneration(u32),
    #[error(
        "this Redis was filled with {name}={stored}, but this process is set to {name}={configured}; \
         set {name}={stored}, or use another Redis"
    )]
    Differs { name: &'static str, stored: String, configured: String },
}

impl Redis {
    /// Connects, and settles or checks what all processes on this Redis must agree on. `partitions` is at least 1.
    pub async fn connect(url: &str, partitions: u16, currency: Currency) -> Result<Redis, ConnectError> {
        // rustls is built with two providers of cryptography, by different libraries, and wants one to be chosen.
        let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
        // A connection that only listens notices in this way that the other side is gone.
        let keepalive = TcpKeepalive::new().with_time(SILENCE).with_interval(Duration::from_secs(1)).with_retries(3);
        let tcp = TcpSettings::default().set_nodelay(true).set_keepalive(keepalive);
        #[cfg(target_os = "linux")]
        let tcp = tcp.set_user_timeout(SILENCE);
        let client = RedisClient::open(url.into_connection_info()?.set_tcp_settings(tcp))?;
        let mut connection = ConnectionManager::new_with_config(client.clone(), config()).await?;

        let agreed =
            [("PARTITIONS", "partitions", partitions.to_string()), ("CURRENCY", "currency", currency.code().into())];
        for (name, field, configured) in agreed {
            let (_, stored): (bool, String) =
                pipe().hset_nx(META, field, &configured).hget(META, field).query_async(&mut connection).await?;
            if stored != configured {
                return Err(ConnectError::Differs { name, stored, configured });
            }
        }
        let (_, stored): (bool, u32) = pipe()
            .hset_nx(META, "generation", GENERATION)
            .hget(META, "generation")
            .query_async(&mut connection)
            .await?;
        if stored != GENERATION {
            return Err(ConnectError::OtherGeneration(stored));
        }
        Ok(Redis {
            client,
            connection: RwLock::new(connection),
            partitions,
            apply: Script::new(include_str!("apply.lua")),
            replace: Script::new(include_str!("replace.lua")),
        })
    }

    fn connection(&self) -> ConnectionManager {
        self.connection.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Connects anew, to whatever server the URL names by now: a primary that was demoted keeps its connections open.
    fn leave_this_server(&self) {
        if let Ok(connection) = ConnectionManager::new_lazy_with_config(self.client.clone(), config()) {
            *self.connection.write().unwrap_or_else(PoisonError::into_inner) = connection;
        }
    }

    fn client_key(&self, id: i64) -> String {
        let partition = id.rem_euclid(self.partitions.into());
        format!("orders:{{p{partition}}}:g{GENERATION}:client:{id}")
    }

    /// Clients with all that is stored of them, in the order of the ids. One round trip.
    ///
    /// # Errors
    /// When the store fails; what is damaged is the error of its client alone.
    pub async fn projected(&self, ids: &[i64]) -> Result<Vec<Result<Option<Projected>, Error>>, Error> {
        if ids.is_empty() {
            return Ok(Vec::new());
        }
        let mut pipeline = pipe();
        for id in ids {
            pipeline.hgetall(self.client_key(*id));
        }
        // As bytes: what is not text is damaged, and harms no other client.
        let rows: Vec<RedisResult<HashMap<Vec<u8>, Vec<u8>>>> =
            pipeline.ignore_errors().query_async(&mut self.connection()).await?;
        Ok(ids.iter().zip(rows).map(|(id, row)| read_projected(*id, row?)).collect())
    }

    /// The field of a client that tells what has been applied last, as it is stored: see [`Redis::replace`].
    pub async fn newest(&self, id: i64) -> Result<Vec<u8>, Error> {
        let newest: RedisResult<Option<Vec<u8>>> = self.connection().hget(self.client_key(id), "newest").await;
        match newest.map_err(Error::from) {
            Ok(newest) => Ok(newest.unwrap_or_default()),
            Err(Error::Damaged(_)) => Ok(Vec::new()),
            Err(error) => Err(error),
        }
    }

    /// Puts a client, as the whole log makes it, in the place of what is stored of it, in one atomic step; one without
    /// events is removed. Not when something has been applied that the log did not have: `newest` is what
    /// [`Redis::newest`] told before the log was read. Returns whether it did.
    pub async fn replace(&self, projected: &Projected, newest: &[u8]) -> Result<bool, Error> {
        let client = &projected.client;
        let mut script = self.replace.key(self.client_key(client.id));
        script.arg(newest).arg(projected.newest).arg(client.id).arg(CHANGED);
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
        Ok(script.invoke_async(&mut self.connection()).await?)
    }

    /// The ids of some of the clients that are stored, and where to go on; begins with 0 and ends with 0. Each is
    /// returned that is there the whole time, some maybe twice.
    pub async fn scan(&self, cursor: u64) -> Result<(u64, Vec<i64>), Error> {
        let mut command = ::redis::cmd("SCAN");
        command.arg(cursor).arg("MATCH").arg(format!("orders:{{p*}}:g{GENERATION}:client:*")).arg("COUNT").arg(SCAN);
        let (cursor, keys): (u64, Vec<String>) = command.query_async(&mut self.connection()).await?;
        let id = |key: &String| key.rsplit(':').next().and_then(|id| id.parse().ok());
        Ok((cursor, keys.iter().filter_map(id).collect()))
    }

    async fn run_apply(&self, events: &[Event]) -> RedisResult<Vec<RedisResult<i32>>> {
        let mut pipeline = pipe();
        pipeline.ignore_errors();
        for event in events {
            let order = &event.order;
            (pipeline.cmd("EVALSHA").arg(self.apply.get_hash()).arg(1).arg(self.client_key(order.client_id)))
                .arg(event.version)
                .arg(order.total)
                .arg(event.time.timestamp_millis())
                .arg(&order.client_name)
                .arg(&order.client_email)
                .arg(order.client_id)
                .arg(CHANGED);
        }
        pipeline.query_async(&mut self.connection()).await
    }
}

/// No retries: whoever waits for an answer is told at once, and the next request connects anew.
fn config() -> ConnectionManagerConfig {
    ConnectionManagerConfig::new()
        .set_number_of_retries(0)
        .set_connection_timeout(Some(TIMEOUT))
        .set_response_timeout(Some(TIMEOUT))
}

#[async_trait::async_trait]
impl ReadModel for Redis {
    async fn apply(&self, events: &[Event]) -> Vec<Result<Applied, Error>> {
        if events.is_empty() {
            return Vec::new();
        }
        let mut results = self.run_apply(events).await;
        let no_script = |error: &RedisError| error.kind() == ErrorKind::Server(ServerErrorKind::NoScript);
        if results.iter().flatten().any(|result| result.as_ref().is_err_and(no_script)) {
            // A new or restarted server. What was applied all the same is only reported as applied before.
            results = match self.apply.load_async(&mut self.connection()).await {
                Ok(_) => self.run_apply(events).await,
                Err(error) => Err(error),
            };
        }
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
            // No answer, or none of Redis: nothing is known of any event.
            Err(error) => vec![Err(Error::Unavailable(error.to_string())); events.len()],
        }
    }

    async fn clients(&self, ids: &[i64]) -> Result<Vec<Option<Client>>, Error> {
        if ids.is_empty() {
            return Ok(Vec::new());
        }
        let mut pipeline = pipe();
        for id in ids {
            pipeline.hmget(self.client_key(*id), &["name", "email", "total", "orders", "last_purchase", "version"]);
        }
        let rows: Vec<RedisResult<Row>> = pipeline.ignore_errors().query_async(&mut self.connection()).await?;
        ids.iter().zip(rows).map(|(id, row)| read_client(*id, row?)).collect()
    }

    async fn changes(&self) -> Result<BoxStream<'static, i64>, Error> {
        let subscribe = async {
            let mut listener = self.client.get_async_pubsub().await?;
            listener.subscribe(CHANGED).await?;
            RedisResult::Ok(listener.into_on_message())
        };
        let messages =
            timeout(TIMEOUT, subscribe).await.map_err(|_| Error::Unavailable("it does not answer".into()))??;
        Ok(messages.filter_map(async |message| message.get_payload().ok()).boxed())
    }

    async fn ping(&self) -> Result<(), Error> {
        let () = self.connection().ping().await?;
        Ok(())
    }
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

fn read_projected(id: i64, row: HashMap<Vec<u8>, Vec<u8>>) -> Result<Option<Projected>, Error> {
    if row.is_empty() {
        return Ok(None);
    }
    let damaged = |field: &str| Error::Damaged(format!("the field {field} of client {id}"));
    let mut projected = Projected::new(id);
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
