//! A connection to one server, made when it is first used.

use std::sync::{Arc, Weak};

use ::redis::aio::{ConnectionLike, MultiplexedConnection, SendError};
use ::redis::{
    AsyncConnectionConfig, Client, Cmd, Pipeline, PushInfo, PushKind, RedisError, RedisFuture, RedisResult, Value,
};
use futures::FutureExt;
use futures::future::{BoxFuture, Shared};

use super::TIMEOUT;
use super::replaceable::Replaceable;
use crate::redis::client_cache::ClientCache;

/// The connection, or the error of the attempt, for all that wait for it.
type Connecting = Shared<BoxFuture<'static, RedisResult<MultiplexedConnection>>>;

#[derive(Clone)]
pub struct Server(Arc<State>);

struct State {
    client: Client,
    /// Receives the invalidations of the server.
    client_cache: Arc<ClientCache>,
    connection: Replaceable<Connecting>,
}

impl Server {
    /// Connects. `client` must speak RESP3, in which a server can send invalidations.
    pub async fn connect(client: Client, client_cache: Arc<ClientCache>) -> RedisResult<Server> {
        let state = Arc::new_cyclic(|state| State {
            connection: Replaceable::new(connecting(client.clone(), client_cache.clone(), state.clone(), 0)),
            client,
            client_cache,
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

/// Connects once, when it is first awaited.
fn connecting(client: Client, client_cache: Arc<ClientCache>, state: Weak<State>, number: u64) -> Connecting {
    let on_push = move |push: PushInfo| -> Result<(), SendError> {
        match push.kind {
            PushKind::Disconnection => state.upgrade().iter().for_each(|state| state.replace(number)),
            _ => client_cache.on_push(&push),
        }
        Ok(())
    };
    let config = AsyncConnectionConfig::new()
        .set_push_sender(on_push)
        .set_connection_timeout(Some(TIMEOUT))
        .set_response_timeout(Some(TIMEOUT));
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
