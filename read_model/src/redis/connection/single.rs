//! A connection to one server, made when it is first used.

use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::Duration;

use ::redis::aio::{ConnectionLike, MultiplexedConnection, SendError};
use ::redis::{
    AsyncConnectionConfig, Client, Cmd, Pipeline, PushInfo, PushKind, RedisError, RedisFuture, RedisResult, Value, cmd,
};
use futures::FutureExt;
use futures::future::{BoxFuture, Shared, try_join};
use tokio::time::Instant;
use tracing::warn;

use super::TIMEOUT;
use super::replaceable::Replaceable;
use crate::redis::client_cache::ClientCache;

/// How often a process looks which server its address names.
const ADDRESS_CHECKED: Duration = Duration::from_secs(3);

/// The connection, or the error of the attempt, for all that wait for it.
type Connecting = Shared<BoxFuture<'static, RedisResult<MultiplexedConnection>>>;

#[derive(Clone)]
pub struct Server(Arc<State>);

struct State {
    client: Client,
    /// Receives the invalidations of the server.
    client_cache: Arc<ClientCache>,
    connection: Replaceable<Connecting>,
    /// When the address was checked last.
    checked: Mutex<Instant>,
}

impl Server {
    /// Connects. `client` must speak RESP3, in which a server can send invalidations.
    pub async fn connect(client: Client, client_cache: Arc<ClientCache>) -> RedisResult<Server> {
        let state = Arc::new_cyclic(|state| State {
            connection: Replaceable::new(connecting(client.clone(), client_cache.clone(), state.clone(), 0)),
            client,
            client_cache,
            checked: Mutex::new(Instant::now()),
        });
        state.connection.get().1.await?;
        Ok(Server(state))
    }

    /// Makes the next command connect to the server that the URL names then.
    pub fn leave(&self) {
        let (number, connecting) = self.0.connection.get();
        // Otherwise another caller has just left.
        if connecting.peek().is_some() {
            self.0.replace(number);
        }
    }

    /// Leaves the server in the background if the address names another primary now, once in [`ADDRESS_CHECKED`] at most. A primary
    /// that was cut off from its replicas keeps its connections, and does not know that one of them has replaced it.
    pub fn check_address(&self) {
        let mut checked = self.0.checked.lock().unwrap_or_else(PoisonError::into_inner);
        if checked.elapsed() >= ADDRESS_CHECKED {
            *checked = Instant::now();
            tokio::spawn(self.clone().leave_if_replaced());
        }
    }

    async fn leave_if_replaced(self) {
        let (number, current) = self.0.connection.get();
        let config = config();
        let named = self.0.client.get_multiplexed_async_connection_with_config(&config);
        let infos = try_join(async { info(current.await?).await }, async { info(named.await?).await }).await;
        // The new primary may still be a replica, and INFO may be forbidden.
        if let Ok((current, named)) = infos
            && named.contains("role:master")
            && run_id(&named).is_some_and(|named| run_id(&current).is_some_and(|current| current != named))
        {
            warn!("REDIS_URL names another Redis server now: leaving the one that it named before");
            self.0.replace(number);
        }
    }

    /// Waits until the current connection is replaced.
    pub fn replaced(&self) -> impl Future<Output = ()> + Send + use<> {
        let mut current = self.0.connection.watch();
        async move { drop(current.changed().await) }
    }

    async fn run<T>(&self, send: impl AsyncFnOnce(MultiplexedConnection) -> RedisResult<T>) -> RedisResult<T> {
        let (number, connecting) = self.0.connection.get();
        let connection = match connecting.await {
            Ok(connection) => connection,
            Err(error) => {
                self.0.replace(number);
                return Err(error);
            }
        };
        let result = send(connection).await;
        let is_lost = result.as_ref().is_err_and(RedisError::is_unrecoverable_error);
        if is_lost || self.0.connection.hangs(number, b"", &result) {
            self.0.replace(number);
        }
        result
    }
}

impl State {
    /// Replaces the connection of this number.
    fn replace(self: &Arc<State>, number: u64) {
        let (client, client_cache, state) = (self.client.clone(), self.client_cache.clone(), Arc::downgrade(self));
        if self.connection.replace(number, |number| connecting(client, client_cache, state, number)) {
            // Invalidations of the old connection may have been lost.
            self.client_cache.on_disconnect();
        }
    }
}

fn config() -> AsyncConnectionConfig {
    AsyncConnectionConfig::new().set_connection_timeout(Some(TIMEOUT)).set_response_timeout(Some(TIMEOUT))
}

async fn info(mut connection: MultiplexedConnection) -> RedisResult<String> {
    cmd("INFO").query_async(&mut connection).await
}

/// Identifies the process of a server.
fn run_id(info: &str) -> Option<&str> {
    info.lines().find_map(|line| line.strip_prefix("run_id:"))
}

/// Connects once, when it is first awaited.
fn connecting(client: Client, client_cache: Arc<ClientCache>, state: Weak<State>, number: u64) -> Connecting {
    let on_push = move |push: PushInfo| -> Result<(), SendError> {
        match push.kind {
            PushKind::Disconnection => state.upgrade().iter().for_each(|state| state.replace(number)),
            _ => client_cache.on_push(&push),
        }
        Ok(())
    };
    let config = config().set_push_sender(on_push);
    async move { client.get_multiplexed_async_connection_with_config(&config).await }.boxed().shared()
}

impl ConnectionLike for Server {
    fn req_packed_command<'a>(&'a mut self, command: &'a Cmd) -> RedisFuture<'a, Value> {
        Box::pin(self.run(async |mut connection| connection.req_packed_command(command).await))
    }

    fn req_packed_commands<'a>(
        &'a mut self,
        pipeline: &'a Pipeline,
        offset: usize,
        count: usize,
    ) -> RedisFuture<'a, Vec<Value>> {
        Box::pin(self.run(async move |mut connection| connection.req_packed_commands(pipeline, offset, count).await))
    }

    fn get_db(&self) -> i64 {
        self.0.client.get_connection_info().redis_settings().db()
    }
}
