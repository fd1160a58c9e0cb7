//! One Redis server or a Cluster of them, behind the same calls.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use ::redis::aio::{ConnectionLike, ConnectionManager, ConnectionManagerConfig, PubSub, SendError};
use ::redis::cluster::ClusterClientBuilder;
use ::redis::cluster_async::ClusterConnection;
use ::redis::cluster_routing::{RoutingInfo, SingleNodeRoutingInfo};
use ::redis::io::tcp::TcpSettings;
use ::redis::{
    Arg, Client, Cmd, ConnectionAddr, ConnectionInfo, ErrorKind, IntoConnectionInfo, Pipeline, ProtocolVersion,
    PushInfo, RedisError, RedisFuture, RedisResult, ServerError, ServerErrorKind, Value, cmd, from_redis_value,
};
use futures::future::try_join_all;
use socket2::TcpKeepalive;
use tokio::sync::Mutex;
use tokio::time::timeout;

use crate::client_cache::ClientCache;

/// How long a command, or connecting, may take before Redis counts as unavailable.
pub const TIMEOUT: Duration = Duration::from_secs(1);
/// How long sent bytes may stay unacknowledged before the connection counts as dead, and an idle one is asked.
const SILENCE: Duration = Duration::from_secs(5);
/// How often a command follows its slot to another node of a Cluster, or is tried again.
const REDIRECTS: u32 = 16;
/// Pauses before it is tried again (ms), at least and at most.
const PAUSES: [u64; 2] = [10, 100];
/// Timeouts in a row after which a connection to a Cluster is made anew.
const TIMEOUTS: u32 = 10;
/// Keys that a server looks at in one step of a scan.
const SCAN: u32 = 1_000;

/// Where a read model is.
#[derive(Clone)]
pub struct Servers {
    /// One server, or some nodes of a Cluster.
    addresses: Vec<ConnectionInfo>,
    is_cluster: bool,
}

impl Servers {
    /// Asks what is there. `url` may name several nodes of a Cluster, with commas between them: any that answers will do.
    pub async fn find(url: &str) -> RedisResult<Servers> {
        // A connection that only listens notices in this way that the other side is gone.
        let keepalive = TcpKeepalive::new().with_time(SILENCE).with_interval(Duration::from_secs(1)).with_retries(3);
        let tcp = TcpSettings::default().set_nodelay(true).set_keepalive(keepalive);
        #[cfg(target_os = "linux")]
        let tcp = tcp.set_user_timeout(SILENCE);
        let address = |url: &str| Ok(url.trim().into_connection_info()?.set_tcp_settings(tcp.clone()));
        let mut servers =
            Servers { addresses: url.split(',').map(address).collect::<RedisResult<_>>()?, is_cluster: false };
        let mut connection =
            first(&servers.addresses, async |client| client.get_multiplexed_async_connection().await).await?;
        // Where it must not be asked it is taken for one server.
        let told: RedisResult<String> = cmd("INFO").arg("cluster").query_async(&mut connection).await;
        servers.is_cluster = told.is_ok_and(|told| told.contains("cluster_enabled:1"));
        if servers.addresses.len() > 1 && !servers.is_cluster {
            let why = "it names several servers, but they are no Cluster";
            return Err(RedisError::from((ErrorKind::InvalidClientConfig, why)));
        }
        Ok(servers)
    }

    /// Connects. What changes is told to `client_cache`, by one server alone.
    pub async fn connect(&self, client_cache: &Arc<ClientCache>) -> RedisResult<Connection> {
        if self.is_cluster {
            let (direct, following) = (Renewed::connect(self, 1).await?, Renewed::connect(self, REDIRECTS).await?);
            return Ok(Connection::Cluster(Cluster { direct, following, turn: Arc::default() }));
        }
        Ok(Connection::Server(ConnectionManager::new_with_config(self.told()?, config(client_cache)).await?))
    }

    async fn connect_to_cluster(&self, redirects: u32) -> RedisResult<ClusterConnection> {
        let client = ClusterClientBuilder::new(self.addresses.iter().cloned())
            .connection_timeout(TIMEOUT)
            .response_timeout(TIMEOUT)
            .overall_response_timeout(Some(2 * TIMEOUT))
            .retries(redirects)
            .min_retry_wait(PAUSES[0])
            .max_retry_wait(PAUSES[1])
            .tcp_settings(self.addresses[0].tcp_settings().clone());
        client.build()?.get_async_connection().await
    }

    /// Connects anew, when it is needed, to whatever server the URL names by then. A Cluster's connection does so by itself.
    pub fn connect_anew(&self, client_cache: &Arc<ClientCache>) -> Option<Connection> {
        let told = self.told().ok().filter(|_| !self.is_cluster)?;
        ConnectionManager::new_lazy_with_config(told, config(client_cache)).ok().map(Connection::Server)
    }

    /// The server, by the protocol in which it tells of changes beside its answers.
    fn told(&self) -> RedisResult<Client> {
        let server = &self.addresses[0];
        let settings = server.redis_settings().clone().set_protocol(ProtocolVersion::RESP3);
        Client::open(server.clone().set_redis_settings(settings))
    }

    /// A connection that listens, to any node: each passes on what is published.
    pub async fn listen(&self, connection: &mut Connection) -> RedisResult<PubSub> {
        let mut addresses = self.addresses.clone();
        for (host, port) in connection.primaries().await.unwrap_or_default() {
            let address = match self.addresses[0].addr().clone() {
                ConnectionAddr::TcpTls { insecure, tls_params, .. } => {
                    ConnectionAddr::TcpTls { host, port, insecure, tls_params }
                }
                _ => ConnectionAddr::Tcp(host, port),
            };
            addresses.push(self.addresses[0].clone().set_addr(address));
        }
        first(&addresses, async |client| client.get_async_pubsub().await).await
    }
}

/// The first that can be done, of one client after the other.
async fn first<T>(addresses: &[ConnectionInfo], connect: impl AsyncFn(Client) -> RedisResult<T>) -> RedisResult<T> {
    let mut failed = RedisError::from((ErrorKind::InvalidClientConfig, "no address"));
    for address in addresses {
        match timeout(TIMEOUT, connect(Client::open(address.clone())?)).await {
            Ok(Ok(done)) => return Ok(done),
            Ok(Err(error)) => failed = error,
            Err(_) => failed = RedisError::from((ErrorKind::Io, "it does not answer")),
        }
    }
    Err(failed)
}

/// No retries: whoever waits for an answer is told at once, and the next request connects anew.
fn config(client_cache: &Arc<ClientCache>) -> ConnectionManagerConfig {
    let client_cache = client_cache.clone();
    ConnectionManagerConfig::new()
        .set_push_sender(move |news: PushInfo| -> Result<(), SendError> {
            client_cache.on_push(&news);
            Ok(())
        })
        .set_number_of_retries(0)
        .set_connection_timeout(Some(TIMEOUT))
        .set_response_timeout(Some(TIMEOUT))
}

/// How far a scan has got.
#[derive(Clone, Debug, Default)]
pub struct Cursor {
    /// Of a Cluster, once it has begun.
    node: Option<Address>,
    cursor: u64,
}

type Address = (String, u16);

#[derive(Clone)]
pub enum Connection {
    Server(ConnectionManager),
    Cluster(Cluster),
}

#[derive(Clone)]
pub struct Cluster {
    /// For pipelines: they are sent once more after a connection was lost, or their slot was moved. While it is, they would go
    /// to and fro.
    direct: Renewed,
    /// Where a command follows its slot.
    following: Renewed,
    /// Held by one of a pipeline that does: ASKING is for the next command alone, and the others would come between.
    turn: Arc<Mutex<()>>,
}

/// A connection to a Cluster, made anew when nothing is heard on it any more: when a node was restarted, the library was seen to
/// wait for ever for what tells it the slots.
#[derive(Clone)]
struct Renewed {
    servers: Servers,
    redirects: u32,
    connection: Arc<RwLock<ClusterConnection>>,
    /// In a row.
    timeouts: Arc<AtomicU32>,
}

impl Renewed {
    async fn connect(servers: &Servers, redirects: u32) -> RedisResult<Renewed> {
        let connection = Arc::new(RwLock::new(servers.connect_to_cluster(redirects).await?));
        Ok(Renewed { servers: servers.clone(), redirects, connection, timeouts: Arc::default() })
    }

    fn get(&self) -> ClusterConnection {
        self.connection.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    async fn route_command(&self, command: Cmd, to: RoutingInfo) -> RedisResult<Value> {
        self.heard(self.get().route_command(command, to).await)
    }

    /// Takes notice of what became of a command.
    fn heard<T>(&self, answer: RedisResult<T>) -> RedisResult<T> {
        if !answer.as_ref().is_err_and(RedisError::is_timeout) {
            self.timeouts.store(0, Ordering::Relaxed);
        } else if self.timeouts.fetch_add(1, Ordering::Relaxed) + 1 == TIMEOUTS {
            let renewed = self.clone();
            tokio::spawn(async move {
                let made = timeout(TIMEOUTS * TIMEOUT, renewed.servers.connect_to_cluster(renewed.redirects)).await;
                if let Ok(Ok(connection)) = made {
                    *renewed.connection.write().unwrap_or_else(PoisonError::into_inner) = connection;
                }
                renewed.timeouts.store(0, Ordering::Relaxed);
            });
        }
        answer
    }
}

impl ConnectionLike for Renewed {
    fn req_packed_command<'a>(&'a mut self, command: &'a Cmd) -> RedisFuture<'a, Value> {
        Box::pin(async { self.heard(self.get().req_packed_command(command).await) })
    }

    fn req_packed_commands<'a>(
        &'a mut self,
        pipeline: &'a Pipeline,
        offset: usize,
        count: usize,
    ) -> RedisFuture<'a, Vec<Value>> {
        Box::pin(async move { self.heard(self.get().req_packed_commands(pipeline, offset, count).await) })
    }

    fn get_db(&self) -> i64 {
        self.get().get_db()
    }
}

impl Connection {
    /// Whether the server can tell of changes: those of a Cluster change without notice.
    pub fn can_tell(&self) -> bool {
        matches!(self, Connection::Server(_))
    }

    /// Some keys that match a pattern, and where to go on, if that was not all. What is moved to another node of a Cluster
    /// meanwhile may be missed.
    pub async fn scan(&mut self, at: &Cursor, pattern: &str) -> RedisResult<(Option<Cursor>, Vec<String>)> {
        let mut scan = cmd("SCAN");
        scan.arg(at.cursor).arg("MATCH").arg(pattern).arg("COUNT").arg(SCAN);
        let primaries = self.primaries().await?;
        let node = at.node.clone().or_else(|| primaries.first().cloned());
        let (cursor, keys): (u64, Vec<String>) = match (&mut *self, node.clone()) {
            (Connection::Cluster(cluster), Some(node)) if primaries.contains(&node) => {
                let to_it = SingleNodeRoutingInfo::ByAddress { host: node.0, port: node.1 };
                from_redis_value(cluster.following.route_command(scan, RoutingInfo::SingleNode(to_it)).await?)?
            }
            (Connection::Cluster(_), _) => {
                return Err(RedisError::from((ErrorKind::Io, "a node went away while the Cluster was scanned")));
            }
            (server, _) => scan.query_async(server).await?,
        };
        let next = match cursor {
            0 => primaries.into_iter().find(|other| Some(other) > node.as_ref()).map(|node| (Some(node), 0)),
            cursor => Some((node, cursor)),
        };
        Ok((next.map(|(node, cursor)| Cursor { node, cursor }), keys))
    }

    /// The addresses of a Cluster's primaries, in a fixed order.
    async fn primaries(&mut self) -> RedisResult<Vec<Address>> {
        let Connection::Cluster(cluster) = self else { return Ok(Vec::new()) };
        // The first and the last slot of a range, and the nodes that have it, the primary first: its address and more.
        let ranges: Vec<Vec<Value>> = cmd("CLUSTER").arg("SLOTS").query_async(&mut cluster.following).await?;
        let mut primaries = Vec::new();
        for range in ranges {
            let node: Vec<Value> = from_redis_value(range.into_iter().nth(2).unwrap_or(Value::Nil))?;
            let mut parts = node.into_iter();
            let mut next = || parts.next().unwrap_or(Value::Nil);
            primaries.push((from_redis_value(next())?, from_redis_value(next())?));
        }
        primaries.sort_unstable();
        primaries.dedup();
        Ok(primaries)
    }
}

impl ConnectionLike for Connection {
    fn req_packed_command<'a>(&'a mut self, command: &'a Cmd) -> RedisFuture<'a, Value> {
        match self {
            Connection::Server(server) => server.req_packed_command(command),
            Connection::Cluster(cluster) => cluster.following.req_packed_command(command),
        }
    }

    fn req_packed_commands<'a>(
        &'a mut self,
        pipeline: &'a Pipeline,
        offset: usize,
        count: usize,
    ) -> RedisFuture<'a, Vec<Value>> {
        match self {
            Connection::Server(server) => server.req_packed_commands(pipeline, offset, count),
            Connection::Cluster(cluster) => Box::pin(cluster.ask_each_slot(pipeline)),
        }
    }

    fn get_db(&self) -> i64 {
        match self {
            Connection::Server(server) => server.get_db(),
            Connection::Cluster(cluster) => cluster.following.get_db(),
        }
    }
}

impl Cluster {
    /// Sends the commands of each slot together, to whichever node has it; one by one while the slot is moved, and each of
    /// its keys is at one node or the other.
    async fn ask_each_slot(&mut self, pipeline: &Pipeline) -> RedisResult<Vec<Value>> {
        let mut of_slots: BTreeMap<&[u8], Vec<(usize, &Cmd)>> = BTreeMap::new();
        for (index, command) in pipeline.cmd_iter().enumerate() {
            of_slots.entry(slot_of(command)).or_default().push((index, command));
        }
        let asked = of_slots.into_values().map(|commands| {
            let mut direct = self.direct.clone();
            async move {
                let mut together = Pipeline::new();
                for (_, command) in &commands {
                    together.add_command((*command).clone());
                }
                match direct.req_packed_commands(&together, 0, commands.len()).await {
                    Ok(answers) => RedisResult::Ok((commands, Some(answers))),
                    Err(error) if is_elsewhere(&error) => Ok((commands, None)),
                    // Other slots need not be so.
                    Err(error) => {
                        let answers = vec![Value::ServerError(ServerError::try_from(error)?); commands.len()];
                        Ok((commands, Some(answers)))
                    }
                }
            }
        });
        let asked = try_join_all(asked).await?;
        let mut all = vec![Value::Nil; pipeline.cmd_iter().count()];
        for (commands, answers) in asked {
            match answers {
                Some(answers) => commands.iter().zip(answers).for_each(|((index, _), answer)| all[*index] = answer),
                None => {
                    for (index, command) in commands {
                        all[index] = self.follow(command).await?;
                    }
                }
            }
        }
        Ok(all)
    }

    /// Sends a command to where its key is.
    async fn follow(&mut self, command: &Cmd) -> RedisResult<Value> {
        let _turn = self.turn.lock().await;
        match self.following.req_packed_command(command).await {
            Err(error) => Ok(Value::ServerError(ServerError::try_from(error)?)),
            answer => answer,
        }
    }
}

/// What tells the slot of a command: its first key, up to the end of its hash tag.
fn slot_of(command: &Cmd) -> &[u8] {
    let key = command.args_iter().find_map(|argument| match argument {
        Arg::Simple(argument) if argument.starts_with(b"orders:") => Some(argument),
        _ => None,
    });
    let key = key.unwrap_or_default();
    key.split_inclusive(|byte| *byte == b'}').next().unwrap_or_default()
}

fn is_elsewhere(error: &RedisError) -> bool {
    matches!(error.kind(), ErrorKind::Server(ServerErrorKind::Ask | ServerErrorKind::Moved))
}
