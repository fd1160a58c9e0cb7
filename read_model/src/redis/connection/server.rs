//! Where the read model is, and connecting to it.

use std::sync::Arc;
use std::time::Duration;

use ::redis::aio::PubSub;
use ::redis::cluster::ClusterClientBuilder;
use ::redis::cluster_async::ClusterConnection;
use ::redis::io::tcp::TcpSettings;
use ::redis::{
    Client, ConnectionAddr, ConnectionInfo, ErrorKind, ProtocolVersion, RedisError, RedisResult, TlsCertificates, cmd,
};
use socket2::TcpKeepalive;
use tokio::time::timeout;

use super::cluster::{Cluster, Renewed};
use super::single::Server;
use super::{Connection, RedisAddress, TIMEOUT};
use crate::ConnectError;
use crate::redis::client_cache::ClientCache;

/// How long sent bytes may stay unacknowledged before the connection counts as dead, and how long it may be idle before a probe.
const MAX_SILENCE: Duration = Duration::from_secs(5);
/// How often a command follows its slot to another node of a Cluster, or is retried.
const MAX_REDIRECTS: u32 = 16;
/// The shortest and the longest pause before a retry in a Cluster (ms).
const RETRY_PAUSES_MS: [u64; 2] = [10, 100];

/// The address of a read model.
#[derive(Clone)]
pub struct Servers {
    /// One server, or some nodes of a Cluster.
    addresses: Vec<ConnectionInfo>,
    is_cluster: bool,
    /// The trusted certificates, if connections use TLS.
    certificates: Option<TlsCertificates>,
}

impl Servers {
    /// Finds out whether a server or a Cluster is there. Of several nodes of a Cluster, one that responds is enough.
    pub async fn find(address: &RedisAddress) -> Result<Servers, ConnectError> {
        // A connection that only listens notices in no other way that the server is gone.
        let keepalive =
            TcpKeepalive::new().with_time(MAX_SILENCE).with_interval(Duration::from_secs(1)).with_retries(3);
        let tcp = TcpSettings::default().set_nodelay(true).set_keepalive(keepalive);
        #[cfg(target_os = "linux")]
        let tcp = tcp.set_user_timeout(MAX_SILENCE);
        let (nodes, certificates) = address.parse()?;
        let addresses = nodes.into_iter().map(|node| node.set_tcp_settings(tcp.clone())).collect();
        let mut servers = Servers { addresses, is_cluster: false, certificates };
        let mut connection =
            first(&servers.addresses, async |client| client.get_multiplexed_async_connection().await).await?;
        // If INFO is forbidden, this counts as one server.
        let info: RedisResult<String> = cmd("INFO").query_async(&mut connection).await;
        let info = info.unwrap_or_default();
        // `redis_mode` or `server_mode`
        if info.contains("_mode:sentinel") {
            return Err(ConnectError::Sentinel);
        }
        servers.is_cluster = info.contains("cluster_enabled:1");
        if servers.addresses.len() > 1 && !servers.is_cluster {
            let why = "it names several servers, but they are not a Cluster";
            return Err(RedisError::from((ErrorKind::InvalidClientConfig, why)).into());
        }
        Ok(servers)
    }

    /// Connects. A single server sends invalidations to `client_cache`, a Cluster does not.
    pub async fn connect(&self, client_cache: &Arc<ClientCache>) -> RedisResult<Connection> {
        if self.is_cluster {
            let (direct, following) = (Renewed::connect(self, 1).await?, Renewed::connect(self, MAX_REDIRECTS).await?);
            return Ok(Connection::Cluster(Cluster { direct, following, turn: Arc::default() }));
        }
        Ok(Connection::Server(Server::connect(self.client()?, client_cache.clone()).await?))
    }

    pub(super) async fn connect_to_cluster(&self, redirects: u32) -> RedisResult<ClusterConnection> {
        let mut client = ClusterClientBuilder::new(self.addresses.iter().cloned())
            .connection_timeout(TIMEOUT)
            .response_timeout(TIMEOUT)
            .overall_response_timeout(Some(2 * TIMEOUT))
            .retries(redirects)
            .min_retry_wait(RETRY_PAUSES_MS[0])
            .max_retry_wait(RETRY_PAUSES_MS[1])
            .tcp_settings(self.addresses[0].tcp_settings().clone());
        if let Some(certificates) = &self.certificates {
            client = client.certs(certificates.clone());
        }
        client.build()?.get_async_connection().await
    }

    /// A client that speaks RESP3, in which a server can send invalidations.
    fn client(&self) -> RedisResult<Client> {
        let server = &self.addresses[0];
        let settings = server.redis_settings().clone().set_protocol(ProtocolVersion::RESP3);
        Client::open(server.clone().set_redis_settings(settings))
    }

    /// Connects to any node, for a subscription: each node passes on what is published on another.
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

/// Returns the first success of `connect`, trying one address after the other.
async fn first<T>(addresses: &[ConnectionInfo], connect: impl AsyncFn(Client) -> RedisResult<T>) -> RedisResult<T> {
    let mut last_error = RedisError::from((ErrorKind::InvalidClientConfig, "no address"));
    for address in addresses {
        match timeout(TIMEOUT, connect(Client::open(address.clone())?)).await {
            Ok(Ok(connected)) => return Ok(connected),
            Ok(Err(error)) => last_error = error,
            Err(_) => last_error = RedisError::from((ErrorKind::Io, "it does not respond")),
        }
    }
    Err(last_error)
}
