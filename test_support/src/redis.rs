//! Redis servers and Clusters.

use redis_test::cluster::{RedisCluster, RedisClusterConfiguration};
use redis_test::server::RedisServer;

use crate::until;

/// A Redis server that accepts connections. It stops when it is dropped.
pub struct Redis {
    pub server: RedisServer,
    pub url: String,
}

impl Redis {
    pub async fn start() -> Redis {
        Redis::ready(RedisServer::new()).await
    }

    async fn ready(server: RedisServer) -> Redis {
        let url = url(&server).unwrap();
        until_up(&url).await;
        Redis { server, url }
    }

    pub fn stop(&mut self) {
        self.server.stop();
    }

    /// Starts an empty server at the same address.
    pub async fn restart(&mut self) {
        self.server.stop();
        self.server = RedisServer::new_with_addr_and_modules(self.server.addr.clone(), &[], false);
        until_up(&self.url).await;
    }

    pub fn client(&self) -> redis::Client {
        redis::Client::open(&*self.url).unwrap()
    }

    pub async fn connect(&self) -> redis::aio::MultiplexedConnection {
        self.client().get_multiplexed_async_connection().await.unwrap()
    }

    /// Runs one command, given by its words.
    pub async fn command<T: redis::FromRedisValue>(&self, words: &[&str]) -> T {
        redis::cmd(words[0]).arg(&words[1..]).query_async(&mut self.connect().await).await.unwrap()
    }
}

/// Waits until a server at this URL accepts connections.
pub async fn until_up(url: &str) {
    let client = redis::Client::open(url).unwrap();
    until("redis-server is up", async || client.get_multiplexed_async_connection().await.is_ok()).await;
}

/// A Cluster of three shards, and their URLs as `REDIS_URL` takes them. It stops when it is dropped.
pub fn cluster() -> (RedisCluster, String) {
    let cluster = RedisCluster::new(RedisClusterConfiguration::default());
    let urls: Vec<String> = cluster.iter_servers().filter_map(url).collect();
    (cluster, urls.join(","))
}

fn url(server: &RedisServer) -> Option<String> {
    server.host_and_port().map(|(host, port)| format!("redis://{host}:{port}"))
}
