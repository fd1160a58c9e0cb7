//! Stores that are unreachable, unexpected errors and cancelled requests.

use std::time::Duration;

use entity::product;
use futures::FutureExt;
use futures::future::join_all;
use reqwest::StatusCode;
use sea_orm::{ConnectionTrait, EntityTrait, TransactionTrait};
use serde_json::{Value, json};
use test_support::log::Log;
use tokio::time::interval;
use tracing::Level;

use crate::support::{ALL_SCOPES, Api, PLACE, code, order, postgres, queue, redis, sqlite, until};

#[tokio::test]
async fn an_unreachable_store_has_an_error_code() {
    let db = sqlite().await;
    let (mut server, redis) = redis().await;
    let api = Api::start_on(&db, redis, queue().await, &[]).await;
    let token = api.token(ALL_SCOPES, None);
    server.stop();
    assert_eq!(code(&api.graphql(&token, "{ client(id: \"1\") { id } }", json!({})).await), "READ_MODEL_UNAVAILABLE");
    let placed = api.graphql(&token, PLACE, order("1", &[("1", 1)], None)).await;
    assert_eq!(placed["data"]["placeOrder"]["clientVersion"], json!(2), "orders are still accepted");

    db.connection.clone().close().await.unwrap();
    assert_eq!(code(&api.graphql(&token, PLACE, order("1", &[("1", 1)], None)).await), "COMMAND_STORE_UNAVAILABLE");
}

/// On the way to the database there are only too many others.
#[tokio::test]
async fn a_pool_of_connections_that_is_busy_is_not_reported_as_an_outage() {
    let log = Log::start(Level::WARN);
    let (db, other) = (postgres().await, postgres().await);
    let api = Api::start_with(&db, &["--operation-timeout", "60s"]).await;
    let token = api.token(ALL_SCOPES, None);
    let held = join_all((0..16).map(|_| db.connection.begin())).await;
    let of_others = async {
        let mut ticks = interval(Duration::from_millis(100));
        loop {
            ticks.tick().await;
            other.connection.ping().await.unwrap();
        }
    };
    let update = "mutation { updateClient(input: { id: 2, name: \"Alicia\" }) { clientVersion } }";
    let read = "{ order(id: \"00000000-0000-0000-0000-000000000007\") { id } }";
    let refused = async {
        let placing = api.graphql(&token, PLACE, order("1", &[("1", 1)], None));
        tokio::join!(placing, api.graphql(&token, update, json!({})), api.graphql(&token, read, json!({})))
    };
    let (placed, updated, found) = tokio::select! {
        () = of_others => unreachable!(),
        refused = refused => refused,
    };
    for response in [placed, updated, found] {
        assert_eq!(code(&response), "SERVER_BUSY", "{response}");
    }
    let lines = log.lines();
    assert!(lines.iter().any(|line| line.contains("all connections to the command database are in use")), "{lines:?}");
    assert!(!lines.iter().any(|line| line.contains("unavailable")), "{lines:?}");
    drop(held);
    let placed = api.graphql(&token, PLACE, order("1", &[("1", 1)], None)).await;
    assert_eq!(placed["data"]["placeOrder"]["clientVersion"], 2, "nothing was placed before");
}

/// The api never writes to Redis, but its operators look at its health first.
#[tokio::test]
async fn health_has_the_words_of_a_redis_that_refuses_writes_or_may_evict_keys() {
    let (db, (server, redis)) = (sqlite().await, redis().await);
    let api = Api::start_on(&db, redis, queue().await, &[]).await;
    for (setting, value, default, reason) in [
        ("maxmemory", "1", "0", "OOM command not allowed when used memory > 'maxmemory'"),
        ("min-replicas-to-write", "1", "0", "NOREPLICAS Not enough good replicas to write"),
        ("maxmemory-policy", "volatile-lru", "noeviction", "volatile-lru"),
    ] {
        let problems = async || {
            let response = api.get("/health/ready").send().await.unwrap();
            assert_eq!(response.status(), StatusCode::OK, "orders are accepted and queries answered");
            response.json::<Value>().await.unwrap()["readModelProblems"].clone()
        };
        let () = server.command(&["CONFIG", "SET", setting, value]).await;
        let has_reason = |problem: &str| problem.starts_with("Redis ") && problem.contains(reason);
        until(reason, async || problems().await[0].as_str().is_some_and(has_reason)).await;
        let () = server.command(&["CONFIG", "SET", setting, default]).await;
        until("nothing is reported", async || problems().await.is_null()).await;
    }
}

#[tokio::test]
async fn unexpected_errors_are_masked_and_have_an_id() {
    let db = sqlite().await;
    let api = Api::start(&db).await;
    db.connection.execute_unprepared("DROP TABLE order_items").await.unwrap();
    let response = api.graphql(&api.token(ALL_SCOPES, None), PLACE, order("1", &[("1", 1)], None)).await;
    assert_eq!(code(&response), "INTERNAL_SERVER_ERROR");
    assert!(!response.to_string().contains("order_items"), "{response}");
    let id = response["errors"][0]["extensions"]["id"].as_str().unwrap();
    assert!(response["errors"][0]["message"].as_str().unwrap().contains(id));
}

/// A rejected field cancels its siblings at any point. A cancelled query could close the only connection and thereby drop the
/// database in memory. sqlx then opens another connection at once, so this test counts connections.
#[tokio::test]
async fn a_cancelled_request_does_not_close_the_only_connection() {
    let db = sqlite().await;
    let pool = db.connection.get_sqlite_connection_pool();
    for polls in 1..50 {
        while pool.num_idle() < 1 {
            tokio::task::yield_now().await;
        }
        let mut find = product::Entity::find_by_id(1).one(&db.connection).boxed();
        for _ in 0..polls {
            if (&mut find).now_or_never().is_some() {
                break;
            }
            tokio::task::yield_now().await;
        }
        drop(find);
        assert_eq!(pool.size(), 1, "after {polls} polls");
    }
    // If SQLite always responds within one poll, the loop above cancels nothing. So this checks the setting, too.
    assert!(!pool.options().get_test_before_acquire());
}
