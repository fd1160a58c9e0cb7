//! The body of `/health/ready`.

use std::sync::Arc;

use futures::future::join_all;
use iso_currency::Currency;
use projector::consume::{Consumer, health};
use read_model::{Applied, Generations, Memory, Projection, Queries, Redis};
use serde_json::{Value, json};
use test_support::log::Log;
use test_support::redis::Redis as RedisServer;
use test_support::until;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio_util::sync::CancellationToken;
use tracing::Level;

use crate::support::{consumer, events, row};

/// Serves health, and returns the URL of `/health/ready`.
pub async fn serve(consumer: Consumer) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}/health/ready", listener.local_addr().unwrap());
    tokio::spawn(health::serve(listener, consumer));
    url
}

pub async fn ready(url: &str) -> (u16, Value) {
    let response = reqwest::get(url).await.unwrap();
    (response.status().as_u16(), response.json().await.unwrap())
}

#[tokio::test]
async fn quarantined_keys_show_in_health_until_a_rebuild() {
    let server = RedisServer::start().await;
    let redis = Arc::new(Redis::connect(&server.url, 16, Currency::USD).await.unwrap());
    let url = serve(consumer(redis.clone()).await.0).await;
    let healthy = json!({ "readModel": "reachable", "queue": "reachable", "state": "current", "lagSeconds": 0 });
    assert_eq!(ready(&url).await, (200, healthy.clone()));

    let key = "orders:{p1}:g1:rank:total";
    let () = server.command(&["SET", key, "damaged"]).await;
    let event = events(&[row(1, 1)]).remove(0);
    assert_eq!(redis.apply(std::slice::from_ref(&event)).await, [Ok(Applied::Now)]);
    until("the key shows", async || ready(&url).await.1["quarantined"] == json!([key])).await;
    let (status, body) = ready(&url).await;
    assert_eq!(status, 200, "everything else works: {body}");
    assert_eq!(
        body["readModelProblems"],
        json!(["damaged keys are quarantined (1): run `projector rebuild start`"]),
        "with the remedy"
    );

    let rebuilt = redis.change_generations(Generations::start).await.unwrap().unwrap();
    assert_eq!(redis.pinned_to(rebuilt).apply(&[event]).await, [Ok(Applied::Now)]);
    redis.change_generations(|generations, now| generations.switch(rebuilt, now, 0)).await.unwrap().unwrap();
    until("the rebuild has replaced it", async || ready(&url).await == (200, healthy.clone())).await;
}

/// The servers refuse writes, but answer queries.
#[tokio::test]
async fn the_log_and_health_say_why_redis_refuses_writes() {
    let server = RedisServer::start().await;
    let redis = Arc::new(Redis::connect(&server.url, 16, Currency::USD).await.unwrap());
    let (consumer, _) = consumer(redis.clone()).await;
    let url = serve(consumer.clone()).await;
    let log = Log::start(Level::WARN);
    let shutdown = CancellationToken::new();
    let running = tokio::spawn(consumer.clone().run(4, shutdown.clone()));
    for (version, setting, value, default, reason) in [
        (1, "maxmemory", "1", "0", "OOM command not allowed when used memory > 'maxmemory'"),
        (2, "min-replicas-to-write", "1", "0", "NOREPLICAS Not enough good replicas to write"),
    ] {
        let () = server.command(&["CONFIG", "SET", setting, value]).await;
        let message = row(1, version).message();
        let send = consumer.queue.send_message().queue_url(&consumer.queue_url).message_body(message);
        send.send().await.unwrap();
        let paused = format!("message=paused: Redis is unavailable: {reason}");
        until(&paused, async || log.lines().iter().any(|line| line.starts_with(&paused))).await;
        until("health has the reason", async || {
            ready(&url).await.1["readModelProblems"][0]
                .as_str()
                .is_some_and(|problem| problem.starts_with("Redis refuses writes") && problem.contains(reason))
        })
        .await;
        let () = server.command(&["CONFIG", "SET", setting, default]).await;
        until("events are applied", async || {
            redis.clients(&[1]).await.unwrap()[0].as_ref().is_some_and(|client| client.version == version)
        })
        .await;
        until("nothing is reported", async || ready(&url).await.1["readModelProblems"].is_null()).await;
    }
    let paused = log.lines().into_iter().filter(|line| line.contains("paused")).count();
    assert_eq!(paused, 2, "each outage is logged once, with its reason: {:?}", log.lines());
    shutdown.cancel();
    running.await.unwrap().unwrap();
}

#[tokio::test]
async fn a_redis_that_may_evict_keys_is_reported_at_start_and_in_health() {
    let server = RedisServer::start().await;
    let (consumer, _) = consumer(Arc::new(Redis::connect(&server.url, 16, Currency::USD).await.unwrap())).await;
    let healthy = serve(consumer).await;
    assert!(ready(&healthy).await.1["readModelProblems"].is_null());
    for policy in ["allkeys-lru", "volatile-ttl"] {
        let () = server.command(&["CONFIG", "SET", "maxmemory-policy", policy]).await;
        let log = Log::start(Level::ERROR);
        Redis::connect(&server.url, 16, Currency::USD).await.unwrap();
        let is_named = |line: &str| line.contains("Redis may evict keys") && line.contains(policy);
        assert!(matches!(&log.lines()[..], [line] if is_named(line)), "{:?}", log.lines());
        until("health has the policy", async || {
            ready(&healthy).await.1["readModelProblems"][0].as_str().is_some_and(is_named)
        })
        .await;
    }
    let () = server.command(&["CONFIG", "SET", "maxmemory-policy", "noeviction"]).await;
    until("nothing is reported", async || ready(&healthy).await.1["readModelProblems"].is_null()).await;
}

#[tokio::test]
async fn requests_share_one_check() {
    let server = RedisServer::start().await;
    let redis = Arc::new(Redis::connect(&server.url, 16, Currency::USD).await.unwrap());
    let url = serve(consumer(redis).await.0).await;
    let () = server.command(&["CONFIG", "RESETSTAT"]).await;
    for (status, _) in join_all((0..50).map(|_| ready(&url))).await {
        assert_eq!(status, 200);
    }
    let statistics: String = server.command(&["INFO", "commandstats"]).await;
    let checks = statistics.lines().find_map(|line| line.strip_prefix("cmdstat_exists:calls="));
    let checks: u32 = checks.and_then(|calls| calls.split(',').next()).unwrap().parse().unwrap();
    assert!(checks < 10, "{checks} checks");
}

#[tokio::test]
async fn the_port_of_health_speaks_http_1_and_has_few_connections() {
    let url = serve(consumer(Arc::new(Memory::default())).await.0).await;
    let address = url.trim_start_matches("http://").trim_end_matches("/health/ready").to_owned();
    let send = async |bytes: &str| {
        let mut stream = TcpStream::connect(&address).await.unwrap();
        stream.write_all(bytes.as_bytes()).await.unwrap();
        let mut response = String::new();
        let _ = stream.read_to_string(&mut response).await; // until the server closes the connection
        response
    };
    assert_eq!(send("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0").await, "");
    let twice = "GET /health/live HTTP/1.1\r\nHost: a\r\nHost: b\r\nConnection: close\r\n\r\n";
    assert!(send(twice).await.starts_with("HTTP/1.1 400"));
    let mut open = Vec::new();
    for _ in 0..100 {
        open.push(TcpStream::connect(&address).await.unwrap());
    }
    assert_eq!(send("").await, "", "further connections are closed at once");
    drop(open);
    until("there is room again", async || reqwest::get(&url).await.is_ok()).await;
}
