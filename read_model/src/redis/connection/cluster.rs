//! A Cluster behind the calls of one server.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, PoisonError, RwLock};

use ::redis::aio::ConnectionLike;
use ::redis::cluster_async::ClusterConnection;
use ::redis::cluster_routing::RoutingInfo;
use ::redis::{
    Arg, Cmd, ErrorKind, Pipeline, RedisError, RedisFuture, RedisResult, ServerError, ServerErrorKind, Value,
};
use futures::future::try_join_all;
use tokio::sync::Mutex;
use tokio::time::timeout;

use super::TIMEOUT;
use super::server::Servers;

/// The timeouts in a row after which a connection is replaced.
const MAX_TIMEOUTS: u32 = 10;

#[derive(Clone)]
pub struct Cluster {
    /// For pipelines. A pipeline is sent a second time after its connection was lost or its slot was moved. With more redirects it would go
    /// back and forth while the slot is being moved.
    pub(super) direct: Renewed,
    /// For single commands: they follow their slot.
    pub(super) following: Renewed,
    /// Held while a command of a pipeline follows its slot: ASKING applies to the next command on the connection only.
    pub(super) turn: Arc<Mutex<()>>,
}

/// A connection to a Cluster that is replaced when it stops responding: after the restart of a node, the library has been seen to wait
/// forever for the node's slots.
#[derive(Clone)]
pub(super) struct Renewed {
    servers: Servers,
    redirects: u32,
    connection: Arc<RwLock<ClusterConnection>>,
    /// The number of timeouts in a row.
    timeouts: Arc<AtomicU32>,
}

impl Renewed {
    pub(super) async fn connect(servers: &Servers, redirects: u32) -> RedisResult<Renewed> {
        let connection = Arc::new(RwLock::new(servers.connect_to_cluster(redirects).await?));
        Ok(Renewed { servers: servers.clone(), redirects, connection, timeouts: Arc::default() })
    }

    fn get(&self) -> ClusterConnection {
        self.connection.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    pub(super) async fn route_command(&self, command: Cmd, to: RoutingInfo) -> RedisResult<Value> {
        self.observe(self.get().route_command(command, to).await)
    }

    /// Counts timeouts, and replaces the connection after too many of them.
    fn observe<T>(&self, result: RedisResult<T>) -> RedisResult<T> {
        if !result.as_ref().is_err_and(RedisError::is_timeout) {
            self.timeouts.store(0, Ordering::Relaxed);
        } else if self.timeouts.fetch_add(1, Ordering::Relaxed) + 1 == MAX_TIMEOUTS {
            let renewed = self.clone();
            tokio::spawn(async move {
                let connected =
                    timeout(MAX_TIMEOUTS * TIMEOUT, renewed.servers.connect_to_cluster(renewed.redirects)).await;
                if let Ok(Ok(connection)) = connected {
                    *renewed.connection.write().unwrap_or_else(PoisonError::into_inner) = connection;
                }
                renewed.timeouts.store(0, Ordering::Relaxed);
            });
        }
        result
    }
}

impl ConnectionLike for Renewed {
    fn req_packed_command<'a>(&'a mut self, command: &'a Cmd) -> RedisFuture<'a, Value> {
        Box::pin(async { self.observe(self.get().req_packed_command(command).await) })
    }

    fn req_packed_commands<'a>(
        &'a mut self,
        pipeline: &'a Pipeline,
        offset: usize,
        count: usize,
    ) -> RedisFuture<'a, Vec<Value>> {
        Box::pin(async move { self.observe(self.get().req_packed_commands(pipeline, offset, count).await) })
    }

    fn get_db(&self) -> i64 {
        self.get().get_db()
    }
}

impl Cluster {
    /// Sends the commands of each slot as one pipeline to the node that has it. While the slot is being moved its keys are on two nodes, and
    /// the commands are sent one by one.
    pub(super) async fn send_by_slot(&mut self, pipeline: &Pipeline) -> RedisResult<Vec<Value>> {
        let mut by_slot: BTreeMap<&[u8], Vec<(usize, &Cmd)>> = BTreeMap::new();
        for (index, command) in pipeline.cmd_iter().enumerate() {
            by_slot.entry(slot_of(command)).or_default().push((index, command));
        }
        let sent = by_slot.into_values().map(|commands| {
            let mut direct = self.direct.clone();
            async move {
                let mut batch = Pipeline::new();
                for (_, command) in &commands {
                    batch.add_command((*command).clone());
                }
                match direct.req_packed_commands(&batch, 0, commands.len()).await {
                    Ok(results) => RedisResult::Ok((commands, Some(results))),
                    Err(error) if is_elsewhere(&error) => Ok((commands, None)),
                    // The commands of other slots may succeed.
                    Err(error) => {
                        let results = vec![Value::ServerError(ServerError::try_from(error)?); commands.len()];
                        Ok((commands, Some(results)))
                    }
                }
            }
        });
        let sent = try_join_all(sent).await?;
        let mut all = vec![Value::Nil; pipeline.cmd_iter().count()];
        for (commands, results) in sent {
            match results {
                Some(results) => commands.iter().zip(results).for_each(|((index, _), result)| all[*index] = result),
                None => {
                    for (index, command) in commands {
                        all[index] = self.follow(command).await?;
                    }
                }
            }
        }
        Ok(all)
    }

    /// Sends a command to the node that has its key.
    async fn follow(&mut self, command: &Cmd) -> RedisResult<Value> {
        let _turn = self.turn.lock().await;
        match self.following.req_packed_command(command).await {
            Err(error) => Ok(Value::ServerError(ServerError::try_from(error)?)),
            result => result,
        }
    }
}

/// Returns the part of a command that determines its slot: its first key up to the end of the hash tag.
fn slot_of(command: &Cmd) -> &[u8] {
    let key = command.args_iter().find_map(|argument| match argument {
        Arg::Simple(argument) if argument.starts_with(b"orders:") => Some(argument),
        _ => None,
    });
    let key = key.unwrap_or_default();
    key.split_inclusive(|byte| *byte == b'}').next().unwrap_or_default()
}

/// Returns whether another node has the slot.
fn is_elsewhere(error: &RedisError) -> bool {
    matches!(error.kind(), ErrorKind::Server(ServerErrorKind::Ask | ServerErrorKind::Moved))
}
