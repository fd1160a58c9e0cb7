//! Servers that hang or are demoted, while their address comes to name another server.

use std::time::Duration;

use futures::StreamExt;
use iso_currency::Currency;
use read_model::{Applied, Error, Health, Projection, Queries, Redis};
use redis_test::cluster::{RedisCluster, RedisClusterConfiguration};
use redis_test::server::RedisServer;
use test_support::gate::Gate;
use test_support::process::signal;
use tokio::time::{Instant, timeout};

use crate::support::{Server, command, event, server, until};

/// A user waits no longer for an answer once the address is right.
const SOON: Duration = Duration::from_secs(10);

fn address(server: &Server) -> String {
    let (host, port) = server.server.host_and_port().unwrap();
    format!("{host}:{port}")
}

async fn info(server: &Server, section: &str) -> String {
    match command(server, &["INFO", section]).await {
        ::redis::Value::VerbatimString { text, .. } => text,
        ::redis::Value::BulkString(text) => String::from_utf8(text).unwrap(),
        other => panic!("{other:?}"),
    }
}

/// Two servers with the same data, each a primary, and a gate that leads to the first one.
struct Pair {
    first: Server,
    second: Server,
    gate: Gate,
    /// Connected through the gate.
    redis: Redis,
}

impl Pair {
    /// Client 1 has one event.
    async fn start() -> Pair {
        let (first, second) = (server().await, server().await);
        let gate = Gate::in_front_of(&address(&first)).await;
        let redis = Redis::connect(&format!("redis://{}", gate.address), 16, Currency::USD).await.unwrap();
        assert_eq!(redis.apply(&[event(1, 1, 5)]).await, [Ok(Applied::Now)]);
        // Without a file, which later servers would load.
        command(&second, &["CONFIG", "SET", "repl-diskless-load", "swapdb"]).await;
        let (host, port) = first.server.host_and_port().unwrap();
        command(&second, &["REPLICAOF", host, &port.to_string()]).await;
        let is_synchronous = async || {
            let keys = [command(&first, &["DBSIZE"]).await, command(&second, &["DBSIZE"]).await];
            keys[0] == keys[1] && info(&second, "replication").await.contains("master_link_status:up")
        };
        until("the second server is a replica", is_synchronous).await;
        command(&second, &["REPLICAOF", "NO", "ONE"]).await;
        Pair { first, second, gate, redis }
    }
}

/// The version of a client, if it can be read.
async fn version(redis: &Redis, id: i64) -> Option<i32> {
    Some(redis.clients(&[id]).await.ok()?.remove(0)?.version)
}

/// The kernel of a stopped server acknowledges all bytes, so that no connection to it breaks.
#[tokio::test]
async fn a_server_that_hangs_is_left_for_the_one_that_its_address_names() {
    let pair = Pair::start().await;
    let mut changes = pair.redis.changes().await.unwrap();
    signal(pair.first.server.process.id() as i32, "STOP");
    let failed = pair.redis.clients(&[1]).await;
    assert!(matches!(failed, Err(Error::Unavailable(_))), "{failed:?}");

    pair.gate.redirect(&address(&pair.second));
    let began = Instant::now();
    until("queries are answered", async || version(&pair.redis, 1).await == Some(1)).await;
    until("events are applied", async || pair.redis.apply(&[event(1, 2, 5)]).await[0].is_ok()).await;
    assert!(began.elapsed() < SOON, "it took {:?}", began.elapsed());
    assert_eq!(version(&pair.redis, 1).await, Some(2));
    let ended = timeout(Duration::from_secs(1), changes.next()).await;
    assert_eq!(ended, Ok(None), "the subscription to the server that hangs ends");
    let mut changes = pair.redis.changes().await.unwrap();
    assert_eq!(pair.redis.apply(&[event(1, 3, 5)]).await, [Ok(Applied::Now)]);
    assert_eq!(changes.next().await, Some(1));
}

/// An api only reads. The demoted server keeps its data and its connections, and its replication is broken.
#[tokio::test]
async fn a_reader_leaves_a_demoted_server() {
    let pair = Pair::start().await;
    until("the client is cached", async || pair.redis.cached_clients(&[1]).await.is_ok()).await;
    command(&pair.first, &["REPLICAOF", "127.0.0.1", "1"]).await;
    let writer = Redis::connect(&pair.second.url, 16, Currency::USD).await.unwrap();
    assert_eq!(writer.apply(&[event(1, 2, 5)]).await, [Ok(Applied::Now)]);

    // As long as its address still names the demoted server, nothing stale is served.
    until("reads fail", async || pair.redis.cached_clients(&[1]).await.is_err()).await;
    let failed = pair.redis.clients(&[1]).await;
    assert!(matches!(&failed, Err(Error::Unavailable(why)) if why.contains("replica")), "{failed:?}");
    until("health says why", async || {
        let outage = pair.redis.health().await.outage;
        outage.is_some_and(|error| error.to_string().contains("replica"))
    })
    .await;

    pair.gate.redirect(&address(&pair.second));
    let began = Instant::now();
    let cached = async || pair.redis.cached_clients(&[1]).await.ok()?.remove(0);
    until("it reads from the new primary", async || cached().await.is_some_and(|client| client.version == 2)).await;
    until("it is healthy", async || pair.redis.health().await.outage.is_none()).await;
    assert!(began.elapsed() < SOON, "it took {:?}", began.elapsed());
}

/// A primary that is cut off from its replicas still believes that it is the primary, and responds.
#[tokio::test]
async fn a_primary_that_its_address_names_no_longer_is_left() {
    let pair = Pair::start().await;
    let cached = async || pair.redis.cached_clients(&[1]).await.ok()?.remove(0).map(|client| client.version);
    assert_eq!(cached().await, Some(1));
    let mut changes = pair.redis.changes().await.unwrap();
    let left = pair.first.command::<i64>(&["INCR", "other"]).await; // the servers differ from now on
    assert_eq!(left, 1);
    let writer = Redis::connect(&pair.second.url, 16, Currency::USD).await.unwrap();
    assert_eq!(writer.apply(&[event(1, 2, 5)]).await, [Ok(Applied::Now)]);

    pair.gate.redirect(&address(&pair.second));
    let began = Instant::now();
    until("it reads from the new primary", async || cached().await == Some(2)).await;
    assert!(began.elapsed() < SOON, "it took {:?}", began.elapsed());
    assert_eq!(timeout(Duration::from_secs(1), changes.next()).await, Ok(None), "its subscription ends");
    // A projector writes to it, too: it asks whether Redis is there before it receives.
    assert_eq!(pair.redis.apply(&[event(1, 3, 5)]).await, [Ok(Applied::Now)]);
    assert_eq!(writer.clients(&[1]).await.unwrap()[0].as_ref().unwrap().version, 3);
}

/// A server that is misconfigured for a moment refuses the connection with an error instead of closing it.
#[tokio::test]
async fn a_refused_connection_is_tried_again() {
    let server = server().await;
    let redis = Redis::connect(&server.url, 16, Currency::USD).await.unwrap();
    let client = ::redis::Client::open(server.url.as_str()).unwrap();
    let mut operator = client.get_multiplexed_async_connection().await.unwrap();
    let mut run = async |words: &[&str]| {
        let done: ::redis::Value = ::redis::cmd(words[0]).arg(&words[1..]).query_async(&mut operator).await.unwrap();
        done
    };
    run(&["CONFIG", "SET", "requirepass", "secret"]).await;
    run(&["CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes"]).await;
    until("the server refuses it", async || redis.ping().await.is_err()).await;
    run(&["CONFIG", "SET", "requirepass", ""]).await;
    until("it is connected again", async || redis.ping().await.is_ok()).await;
}

/// The other shards respond all the time.
#[tokio::test]
async fn a_hanging_node_of_a_cluster_is_left_for_its_replica() {
    let cluster = tokio::task::spawn_blocking(|| {
        RedisCluster::new(RedisClusterConfiguration { num_nodes: 6, num_replicas: 1, ..Default::default() })
    });
    let cluster = cluster.await.unwrap();
    let url = |server: &RedisServer| server.host_and_port().map(|(host, port)| format!("redis://{host}:{port}"));
    let urls: Vec<String> = cluster.iter_servers().filter_map(url).collect();
    let redis = Redis::connect(&urls.join(","), 16, Currency::USD).await.unwrap();
    let events: Vec<_> = (1..=16).map(|client| event(client, 1, 5)).collect();
    assert!(redis.apply(&events).await.iter().all(|result| *result == Ok(Applied::Now)));

    let reads: Vec<(String, bool)> = futures::future::join_all(urls.iter().map(async |url| {
        let client = ::redis::Client::open(url.as_str()).unwrap();
        let mut node = client.get_multiplexed_async_connection().await.unwrap();
        let has: ::redis::RedisResult<bool> =
            ::redis::cmd("EXISTS").arg("orders:{p1}:g1:client:1").query_async(&mut node).await;
        (url.clone(), has.unwrap_or(false))
    }))
    .await;
    let primary = reads.iter().find(|(_, has)| *has).unwrap().0.clone();
    let index = urls.iter().position(|url| *url == primary).unwrap();
    signal(cluster.servers[index].process.id() as i32, "STOP");

    let other = ::redis::Client::open(urls[(index + 1) % urls.len()].as_str()).unwrap();
    let mut other = other.get_multiplexed_async_connection().await.unwrap();
    until("a replica takes over", async || {
        // Clients are read all the time, also from the other shards.
        redis.clients(&(1..=16).collect::<Vec<_>>()).await.ok();
        let nodes: String = ::redis::cmd("CLUSTER").arg("NODES").query_async(&mut other).await.unwrap();
        let primaries = nodes.lines().filter(|line| line.contains("master") && !line.contains("fail")).count();
        primaries == 3 && nodes.contains("master,fail ")
    })
    .await;
    let began = Instant::now();
    until("all clients are read", async || redis.clients(&(1..=16).collect::<Vec<_>>()).await.is_ok()).await;
    let events: Vec<_> = (1..=16).map(|client| event(client, 2, 5)).collect();
    until("it is healthy", async || redis.health().await == Health::default()).await;
    until("all events are applied", async || redis.apply(&events).await.iter().all(Result::is_ok)).await;
    assert!(began.elapsed() < SOON, "it took {:?}", began.elapsed());
}
