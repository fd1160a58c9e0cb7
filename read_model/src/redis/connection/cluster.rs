//! A Cluster behind the calls of one server.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use ::redis::aio::ConnectionLike;
use ::redis::cluster_async::ClusterConnection;
use ::redis::cluster_routing::RoutingInfo;
use ::redis::{
    Arg, Cmd, ErrorKind, Pipeline, RedisError, RedisFuture, RedisResult, ServerError, ServerErrorKind, Value,
};
use futures::future::try_join_all;
use tokio::sync::Mutex;
use tokio::time::timeout;

use super::replaceable::Replaceable;
use super::server::Servers;

/// How long connecting to all nodes of a Cluster may take.
const MAX_CONNECT: Duration = Duration::from_secs(10);

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

/// A connection to a Cluster that is replaced when a node stops responding: it would wait for the node's slots also after a replica has
/// got them, and it has been seen to wait forever after the restart of a node.
#[derive(Clone)]
pub(super) struct Renewed {
    servers: Arc<Servers>,
    redirects: u32,
    connection: Arc<Replaceable<ClusterConnection>>,
    /// Whether a new connection is being made. Until it is there, the old one may still reach other nodes.
    is_renewing: Arc<AtomicBool>,
}

impl Renewed {
    pub(super) async fn connect(servers: &Servers, redirects: u32) -> RedisResult<Renewed> {
        let connection = Arc::new(Replaceable::new(servers.connect_to_cluster(redirects).await?));
        Ok(Renewed { servers: Arc::new(servers.clone()), redirects, connection, is_renewing: Arc::default() })
    }

    pub(super) async fn route_command(&self, command: Cmd, to: RoutingInfo) -> RedisResult<Value> {
        self.run(b"", async |mut connection| connection.route_command(command, to).await).await
    }

    /// Waits until the current connection is replaced.
    pub(super) fn replaced(&self) -> impl Future<Output = ()> + Send + use<> {
        let mut current = self.connection.watch();
        async move { drop(current.changed().await) }
    }

    async fn run<T>(&self, slot: &[u8], send: impl AsyncFnOnce(ClusterConnection) -> RedisResult<T>) -> RedisResult<T> {
        let (number, connection) = self.connection.get();
        let result = send(connection).await;
        if self.connection.hangs(number, slot, &result) && !self.is_renewing.swap(true, Ordering::Relaxed) {
            tokio::spawn(self.clone().renew(number));
        }
        result
    }

    async fn renew(self, number: u64) {
        let connected = timeout(MAX_CONNECT, self.servers.connect_to_cluster(self.redirects)).await;
        if let Ok(Ok(connection)) = connected {
            self.connection.replace(number, |_| connection);
        }
        self.is_renewing.store(false, Ordering::Relaxed);
    }
}

impl ConnectionLike for Renewed {
    fn req_packed_command<'a>(&'a mut self, command: &'a Cmd) -> RedisFuture<'a, Value> {
        let send = async |mut connection: ClusterConnection| connection.req_packed_command(command).await;
        Box::pin(self.run(slot_of(command), send))
    }

    fn req_packed_commands<'a>(
        &'a mut self,
        pipeline: &'a Pipeline,
        offset: usize,
        count: usize,
    ) -> RedisFuture<'a, Vec<Value>> {
        let slot = pipeline.cmd_iter().next().map_or(&b""[..], slot_of);
        let send = async move |mut connection: ClusterConnection| {
            connection.req_packed_commands(pipeline, offset, count).await
        };
        Box::pin(self.run(slot, send))
    }

    fn get_db(&self) -> i64 {
        self.connection.get().1.get_db()
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
