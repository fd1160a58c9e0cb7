//! `/health/ready`: which failures keep requests away, and what a check costs.

use std::sync::Arc;
use std::time::{Duration, Instant};

use futures::future::join_all;
use iso_currency::Currency;
use read_model::Redis;
use reqwest::StatusCode;
use serde_json::{Value, json};
use test_support::gate::{Gate, Passage};

use crate::support::{ALL_SCOPES, Api, PLACE, code, order, queue, redis, sqlite, until};

async fn ready(api: &Api) -> (u16, Value) {
    let response = api.get("/health/ready").send().await.unwrap();
    (response.status().as_u16(), response.json().await.unwrap())
}

#[tokio::test]
async fn an_api_is_ready_while_it_can_place_orders_or_execute_queries() {
    let db = sqlite().await;
    let (mut server, redis) = redis().await;
    let api = Api::start_on(&db, redis, queue().await, &[]).await;
    let up = json!({ "database": "reachable", "readModel": "reachable", "queue": "reachable" });
    assert_eq!(ready(&api).await, (200, up));
    assert_eq!(api.get("/health/live").send().await.unwrap().status(), StatusCode::OK);

    server.stop();
    until("Redis is unreachable", async || ready(&api).await.1["readModel"] == "unreachable").await;
    let (status, body) = ready(&api).await;
    assert_eq!((status, &body["database"]), (200, &json!("reachable")), "orders are accepted");

    db.connection.clone().close().await.unwrap();
    until("nothing works", async || ready(&api).await.0 == 503).await;
    assert_eq!(ready(&api).await.1["database"], json!("unreachable"));
    server.restart().await;
    until("queries are executed", async || ready(&api).await.0 == 200).await;
    assert_eq!(ready(&api).await.1["database"], json!("unreachable"));
    assert_eq!(api.get("/health/live").send().await.unwrap().status(), StatusCode::OK);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_frozen_redis_does_not_take_orders_out_of_the_load_balancer() {
    let db = sqlite().await;
    let (server, _) = redis().await;
    let gate = Gate::in_front_of(server.url.trim_start_matches("redis://")).await;
    let redis = Redis::connect(&format!("redis://{}", gate.address), 16, Currency::USD).await.unwrap();
    let api = Api::start_on(&db, Arc::new(redis), queue().await, &[]).await;
    let token = api.token(ALL_SCOPES, None);
    assert_eq!(ready(&api).await.0, 200);
    gate.set(Passage::Silent);
    until("Redis is unreachable", async || ready(&api).await.1["readModel"] == "unreachable").await;
    for _ in 0..10 {
        let began = Instant::now();
        assert_eq!(ready(&api).await.0, 200);
        assert!(began.elapsed() < Duration::from_secs(1), "{:?}: Kubernetes waits for a second", began.elapsed());
        let placed = api.graphql(&token, PLACE, order("1", &[("1", 1)], None)).await;
        assert_eq!(code(&placed), "none", "{placed}");
    }
}

#[tokio::test]
async fn checks_within_a_second_share_one_call_per_store() {
    let (db, (server, redis)) = (sqlite().await, redis().await);
    let api = Api::start_on(&db, redis, queue().await, &[]).await;
    let commands = async || {
        let info: String = server.command(&["INFO", "stats"]).await;
        let line = info.lines().find_map(|line| line.strip_prefix("total_commands_processed:")).unwrap();
        line.trim().parse::<u64>().unwrap()
    };
    ready(&api).await;
    let before = commands().await;
    let began = Instant::now();
    for _ in 0..10 {
        join_all((0..100).map(|_| ready(&api))).await;
    }
    let seconds = 1 + began.elapsed().as_secs();
    let calls = commands().await - before;
    assert!(calls <= 20 * seconds, "{calls} commands for 1,000 requests within {seconds} s");
}
