//! Servers that are full, demoted, down or set up differently.

use iso_currency::Currency;
use read_model::{Applied, ConnectError, Error, Projection, Queries, Redis};
use redis_test::server::RedisServer;
use std::time::Duration;

use crate::support::{command, event, server, until, until_up};

#[tokio::test]
async fn a_full_or_demoted_server_is_unavailable_and_changes_nothing() {
    let server = server().await;
    let redis = Redis::connect(&server.url, 16, Currency::USD).await.unwrap();
    redis.apply(&[event(1, 1, 5)]).await[0].clone().unwrap();
    let before = redis.clients(&[1]).await;
    let outages: [[&[&str]; 2]; 2] = [
        [&["CONFIG", "SET", "maxmemory", "1"], &["CONFIG", "SET", "maxmemory", "0"]],
        [&["REPLICAOF", "127.0.0.1", "1"], &["REPLICAOF", "NO", "ONE"]],
    ];
    for [begin, end] in outages {
        command(&server, begin).await;
        let result = redis.apply(&[event(1, 2, 5)]).await.remove(0);
        assert!(matches!(result, Err(Error::Unavailable(_))), "{begin:?}: {result:?}");
        command(&server, end).await;
    }
    assert_eq!(redis.clients(&[1]).await, before);
    assert_eq!(redis.apply(&[event(1, 2, 5), event(1, 3, 5)]).await, [Ok(Applied::Now), Ok(Applied::Now)]);

    // A replica that knows other generations than this process: it leaves that server as well, for what the URL names then.
    let connected = async || match command(&server, &["INFO", "stats"]).await {
        ::redis::Value::VerbatimString { text, .. } => text,
        ::redis::Value::BulkString(text) => String::from_utf8(text).unwrap(),
        other => panic!("{other:?}"),
    };
    command(&server, &["SET", "orders:{p1}:fencing_token", "1"]).await;
    command(&server, &["REPLICAOF", "127.0.0.1", "1"]).await;
    let received = |stats: &str| {
        let line = stats.lines().find_map(|line| line.strip_prefix("total_connections_received:"));
        line.unwrap().parse::<u64>().unwrap()
    };
    assert!(matches!(redis.apply(&[event(1, 4, 5)]).await[..], [Err(Error::Unavailable(_))]));
    let before = received(&connected().await);
    command(&server, &["REPLICAOF", "NO", "ONE"]).await;
    assert_eq!(redis.apply(&[event(1, 4, 5)]).await, [Ok(Applied::Now)]);
    // One for each command of this test, and one more.
    assert_eq!(received(&connected().await), before + 3);
}

#[tokio::test]
async fn a_process_with_other_shared_settings_refuses_to_start() {
    let server = server().await;
    Redis::connect(&server.url, 16, Currency::USD).await.unwrap();
    Redis::connect(&server.url, 16, Currency::USD).await.unwrap();
    let Err(ConnectError::Differs { name: "PARTITIONS", .. }) = Redis::connect(&server.url, 8, Currency::USD).await
    else {
        panic!("another number of partitions is accepted")
    };
    let Err(error) = Redis::connect(&server.url, 16, Currency::EUR).await else {
        panic!("another currency is accepted")
    };
    assert_eq!(
        error.to_string(),
        "this Redis was filled with CURRENCY=USD, but this process is set to CURRENCY=EUR; \
         set CURRENCY=USD, or use another Redis"
    );
    let Err(error) = Redis::connect("redis://127.0.0.1:1", 16, Currency::USD).await else { panic!("port 1 answers") };
    assert!(matches!(error, ConnectError::Unreachable(_)), "{error}");
    let Err(error) = Redis::connect("rediss://127.0.0.1:1", 16, Currency::USD).await else { panic!("port 1 answers") };
    assert!(matches!(error, ConnectError::Unreachable(_)), "TLS: {error}");
    command(&server, &["HSET", "orders:meta", "generations", "{}"]).await;
    let Err(error) = Redis::connect(&server.url, 16, Currency::USD).await else { panic!("no generation is accepted") };
    assert!(error.to_string().contains("`generations` in orders:meta"), "{error}");
}

/// Redis was emptied, or replaced by another one, and filled by processes with other settings.
#[tokio::test]
async fn a_running_process_refuses_a_redis_that_was_filled_with_other_settings() {
    let server = server().await;
    let running = Redis::connect(&server.url, 16, Currency::USD).await.unwrap();
    for (field, other, right, problem) in [
        ("partitions", "8", "16", "this Redis was filled with PARTITIONS=8, but this process is set to PARTITIONS=16"),
        ("currency", "JPY", "USD", "this Redis was filled with CURRENCY=JPY, but this process is set to CURRENCY=USD"),
    ] {
        command(&server, &["HSET", "orders:meta", field, other]).await;
        let is_problem = |error: &Error| error.to_string().contains(problem);
        until("queries fail", async || running.clients(&[9]).await.is_err_and(|error| is_problem(&error))).await;
        until("health reports it", async || running.health().await.outage.is_some_and(|error| is_problem(&error)))
            .await;
        command(&server, &["HSET", "orders:meta", field, right]).await;
        until("queries succeed", async || running.clients(&[9]).await.is_ok()).await;
        // A store that has lost the setting gets it again.
        command(&server, &["HDEL", "orders:meta", field]).await;
        until("the setting is stored", async || {
            let _ = running.clients(&[9]).await;
            server.command::<Option<String>>(&["HGET", "orders:meta", field]).await.as_deref() == Some(right)
        })
        .await;
    }
}

#[tokio::test]
async fn another_type_of_the_shared_settings_is_reported_with_the_remedy() {
    let server = server().await;
    let running = Redis::connect(&server.url, 16, Currency::USD).await.unwrap();
    assert_eq!(running.apply(&[event(1, 1, 5)]).await, [Ok(Applied::Now)]);
    let second = running.change_generations(read_model::Generations::start).await.unwrap().unwrap();
    command(&server, &["SET", "orders:meta", "another type"]).await;
    let remedy = "the key orders:meta has another type: delete it, and the processes write it again";
    let Err(error) = Redis::connect(&server.url, 16, Currency::USD).await else { panic!("it is used") };
    assert!(error.to_string().contains(remedy), "{error}");
    until("queries report it", async || {
        running.clients(&[1]).await.is_err_and(|error| error.to_string().contains(remedy))
    })
    .await;
    command(&server, &["DEL", "orders:meta"]).await;
    let started = Redis::connect(&server.url, 16, Currency::USD).await.unwrap();
    assert!(started.generations().await.unwrap().generations.contains_key(&second), "nothing is lost");
    until("queries succeed", async || running.clients(&[1]).await.is_ok_and(|clients| clients[0].is_some())).await;
}

#[tokio::test]
async fn an_outage_is_reported_at_once_and_ends_by_itself() {
    let mut server = server().await;
    let redis = Redis::connect(&server.url, 16, Currency::USD).await.unwrap();
    assert_eq!(redis.apply(&[event(1, 1, 5)]).await, [Ok(Applied::Now)]);
    let address = server.server.addr.clone();
    server.server.stop();
    let asked = tokio::time::Instant::now();
    assert!(matches!(redis.clients(&[1]).await, Err(Error::Unavailable(_))));
    assert!(matches!(redis.apply(&[event(1, 2, 5)]).await[..], [Err(Error::Unavailable(_))]));
    assert!(matches!(redis.ping().await, Err(Error::Unavailable(_))));
    assert!(asked.elapsed() < Duration::from_secs(3));

    // It returns empty: the scripts are gone as well as the data.
    server.server = RedisServer::new_with_addr_and_modules(address, &[], false);
    until_up(&server.url).await;
    until("the connection is back", async || redis.ping().await.is_ok()).await;
    assert_eq!(redis.apply(&[event(1, 1, 5), event(1, 2, 5)]).await, [Ok(Applied::Now), Ok(Applied::Now)]);
}
