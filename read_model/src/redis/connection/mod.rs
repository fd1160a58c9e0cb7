//! One Redis server or a Cluster, behind the same calls.

mod address;
mod cluster;
mod replaceable;
mod server;
mod single;

use std::time::Duration;

use ::redis::aio::ConnectionLike;
use ::redis::cluster_routing::{RoutingInfo, SingleNodeRoutingInfo};
use ::redis::{Cmd, ErrorKind, Pipeline, RedisError, RedisFuture, RedisResult, Value, cmd, from_redis_value};

use futures::FutureExt;
use futures::future::{BoxFuture, select};

pub use self::address::RedisAddress;
use self::cluster::Cluster;
pub use self::server::Servers;
use self::single::Server;

/// How long a command, or connecting, may take before Redis counts as unavailable.
pub const TIMEOUT: Duration = Duration::from_secs(1);
/// The number of keys that a server looks at in one step of a scan.
const SCAN_COUNT: u32 = 1_000;

/// The position of a scan.
#[derive(Clone, Debug, Default)]
pub struct Cursor {
    /// The node of a Cluster that is being scanned, once the scan has begun.
    node: Option<Address>,
    cursor: u64,
}

type Address = (String, u16);

#[derive(Clone)]
pub enum Connection {
    Server(Server),
    Cluster(Cluster),
}

impl Connection {
    /// Returns whether this is the connection to one server, which can send invalidations. The one to a Cluster changes nodes without
    /// notice.
    pub fn is_single(&self) -> bool {
        matches!(self, Connection::Server(_))
    }

    /// Connects again, to the server that the URL names now: a demoted primary keeps its connections open. The connection to a Cluster
    /// follows its primaries by itself.
    pub fn leave(&self) {
        if let Connection::Server(server) = self {
            server.leave();
        }
    }

    /// Leaves a server that the URL does not name any more: see [`Server::check_address`]. A Cluster has no primary without a
    /// majority.
    pub fn check_address(&self) {
        if let Connection::Server(server) = self {
            server.check_address();
        }
    }

    /// Waits until a connection is replaced. Subscriptions of the same process are then made again: their server may be the same.
    pub fn replaced(&self) -> BoxFuture<'static, ()> {
        match self {
            Connection::Server(server) => server.replaced().boxed(),
            Connection::Cluster(cluster) => {
                select(cluster.direct.replaced().boxed(), cluster.following.replaced().boxed()).map(drop).boxed()
            }
        }
    }

    /// Returns a section of INFO from the server, or from each primary of a Cluster.
    pub async fn info(&mut self, section: &str) -> RedisResult<Vec<String>> {
        let (mut infos, primaries) = (Vec::new(), self.primaries().await?);
        let command = cmd("INFO").arg(section).to_owned();
        match self {
            Connection::Server(server) => infos.push(command.query_async(server).await?),
            Connection::Cluster(cluster) => {
                for (host, port) in primaries {
                    let address = RoutingInfo::SingleNode(SingleNodeRoutingInfo::ByAddress { host, port });
                    infos.push(from_redis_value(cluster.following.route_command(command.clone(), address).await?)?);
                }
            }
        }
        Ok(infos)
    }

    /// Returns some keys that match a pattern, and the cursor of the next call unless those were the last. A key that is moved to another
    /// node of a Cluster during the scan may be missed.
    pub async fn scan(&mut self, at: &Cursor, pattern: &str) -> RedisResult<(Option<Cursor>, Vec<String>)> {
        let mut scan = cmd("SCAN");
        scan.arg(at.cursor).arg("MATCH").arg(pattern).arg("COUNT").arg(SCAN_COUNT);
        let primaries = self.primaries().await?;
        let node = at.node.clone().or_else(|| primaries.first().cloned());
        let (cursor, keys): (u64, Vec<String>) = match (&mut *self, node.clone()) {
            (Connection::Cluster(cluster), Some(node)) if primaries.contains(&node) => {
                let address = SingleNodeRoutingInfo::ByAddress { host: node.0, port: node.1 };
                from_redis_value(cluster.following.route_command(scan, RoutingInfo::SingleNode(address)).await?)?
            }
            (Connection::Cluster(_), _) => {
                return Err(RedisError::from((ErrorKind::Io, "a node left the Cluster during the scan")));
            }
            (server, _) => scan.query_async(server).await?,
        };
        let next = match cursor {
            0 => primaries.into_iter().find(|other| Some(other) > node.as_ref()).map(|node| (Some(node), 0)),
            cursor => Some((node, cursor)),
        };
        Ok((next.map(|(node, cursor)| Cursor { node, cursor }), keys))
    }

    /// Returns the addresses of a Cluster's primaries in a fixed order.
    async fn primaries(&mut self) -> RedisResult<Vec<Address>> {
        let Connection::Cluster(cluster) = self else { return Ok(Vec::new()) };
        // Each range: its first and last slot, then its nodes, the primary first. Each node: host, port and more.
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
            Connection::Cluster(cluster) => match pipeline.is_transaction() {
                // All of its keys are in one slot.
                true => cluster.following.req_packed_commands(pipeline, offset, count),
                false => Box::pin(cluster.send_by_slot(pipeline)),
            },
        }
    }

    fn get_db(&self) -> i64 {
        match self {
            Connection::Server(server) => server.get_db(),
            Connection::Cluster(cluster) => cluster.following.get_db(),
        }
    }
}
