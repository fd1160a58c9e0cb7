//! The cache of clients.

use iso_currency::Currency;
use read_model::{Projection, Queries, Redis};
use std::time::Duration;

use crate::support::{Server, command, event, server, until};

/// The number of reads of clients that Redis has run.
async fn reads_of_clients(server: &Server) -> u64 {
    let stats = match command(server, &["INFO", "commandstats"]).await {
        ::redis::Value::BulkString(text) => String::from_utf8(text).unwrap(),
        ::redis::Value::VerbatimString { text, .. } => text,
        other => panic!("{other:?}"),
    };
    let hmget = stats.lines().find_map(|line| line.strip_prefix("cmdstat_hmget:calls="));
    hmget.map_or(0, |calls| calls.split(',').next().unwrap().parse().unwrap())
}

/// A cached client is not read again until any command changes it, Redis is emptied, or the connection is lost.
#[tokio::test]
async fn the_cache_follows_every_change_in_redis() {
    let server = server().await;
    let redis = Redis::connect(&server.url, 16, Currency::USD).await.unwrap();
    let writer = Redis::connect(&server.url, 16, Currency::USD).await.unwrap();
    let version = async |id: i64| {
        let client = redis.cached_clients(&[id]).await.unwrap().remove(0);
        client.map_or(0, |client| client.version)
    };
    writer.apply(&[event(1, 1, 5), event(2, 1, 5)]).await;
    // Each read goes to Redis until tracking is on.
    let wait_until_cached = async || {
        until("the client is cached", async || {
            version(1).await;
            let before = reads_of_clients(&server).await;
            version(1).await;
            reads_of_clients(&server).await == before
        })
        .await;
    };
    wait_until_cached().await;
    assert_eq!(redis.cached_clients(&[1, 9, 2]).await.unwrap().iter().flatten().count(), 2, "in part");

    for next in 2..=200 {
        let changed = tokio::time::Instant::now();
        writer.apply(&[event(1, next, 5)]).await;
        assert_eq!(writer.cached_clients(&[1]).await.unwrap()[0].as_ref().unwrap().version, next, "its own");
        until("the change is seen", async || version(1).await == next).await;
        assert!(changed.elapsed() < Duration::from_secs(1), "it took {:?}", changed.elapsed());
    }
    wait_until_cached().await;
    command(&server, &["HSET", "orders:{p1}:g1:client:1", "version", "7"]).await;
    until("a change by hand is seen", async || version(1).await == 7).await;

    wait_until_cached().await;
    command(&server, &["CLIENT", "KILL", "TYPE", "normal"]).await;
    command(&server, &["HSET", "orders:{p1}:g1:client:1", "version", "8"]).await;
    until("a change during the disconnection is seen", async || {
        redis.cached_clients(&[1]).await.is_ok_and(|clients| clients[0].as_ref().unwrap().version == 8)
    })
    .await;
    wait_until_cached().await;
    command(&server, &["FLUSHALL"]).await;
    until("the emptied Redis is seen", async || version(1).await == 0).await;

    // It reconnects when the server is demoted. Invalidations on the old connection do not reach it.
    writer.apply(&[event(1, 1, 5)]).await;
    wait_until_cached().await;
    command(&server, &["REPLICAOF", "127.0.0.1", "1"]).await;
    assert!(redis.apply(&[event(1, 2, 5)]).await[0].is_err());
    command(&server, &["REPLICAOF", "NO", "ONE"]).await;
    command(&server, &["HSET", "orders:{p1}:g1:client:1", "version", "9"]).await;
    until("the change is seen after the demotion", async || version(1).await == 9).await;
}

/// If tracking is forbidden, every read goes to Redis.
#[tokio::test]
async fn nothing_is_cached_without_invalidations() {
    let server = server().await;
    command(&server, &["ACL", "SETUSER", "default", "-client|tracking"]).await;
    let redis = Redis::connect(&server.url, 16, Currency::USD).await.unwrap();
    let writer = Redis::connect(&server.url, 16, Currency::USD).await.unwrap();
    for version in 1..=200 {
        writer.apply(&[event(1, version, 5)]).await[0].clone().unwrap();
        let recent = redis.cached_clients(&[1]).await.unwrap();
        assert_eq!(recent[0].as_ref().unwrap().version, version);
        redis.generations().await.unwrap(); // tries to turn tracking on each time
    }
}

/// Readers that run beside a writer never see an older version after a newer one, and they see the last version in the end.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn no_reader_sees_a_client_go_back() {
    let server = server().await;
    let redis = Redis::connect(&server.url, 16, Currency::USD).await.unwrap();
    let writer = Redis::connect(&server.url, 16, Currency::USD).await.unwrap();
    writer.apply(&[event(1, 1, 5)]).await;
    let readers: Vec<_> = (0..8)
        .map(|_| {
            let redis = redis.clone();
            tokio::spawn(async move {
                let mut seen = 1;
                while seen < 5_000 {
                    let version = redis.cached_clients(&[1]).await.unwrap()[0].as_ref().unwrap().version;
                    assert!(version >= seen, "{version} after {seen}");
                    seen = version;
                    tokio::task::yield_now().await;
                }
            })
        })
        .collect();
    for version in 2..=5_000 {
        writer.apply(&[event(1, version, 5)]).await[0].clone().unwrap();
    }
    for reader in readers {
        tokio::time::timeout(Duration::from_secs(20), reader)
            .await
            .expect("the reader does not see the last version")
            .unwrap();
    }
}
