//! Stores that are unreachable, unexpected errors and cancelled requests.

use entity::product;
use futures::FutureExt;
use reqwest::StatusCode;
use sea_orm::{ConnectionTrait, EntityTrait};
use serde_json::{Value, json};
use winterbaume_sqs::SqsService;

use crate::support::{ALL, Api, PLACE, code, order, queue, redis, sqlite};

#[tokio::test]
async fn outages_have_codes_and_health_tells_them() {
    let db = sqlite().await;
    let (mut server, redis) = redis().await;
    let api = Api::start_on(&db, redis, queue(SqsService::new()).await, &[]).await;
    let token = api.token(ALL, None);
    let ready = async || {
        let answer = api.get("/health/ready").send().await.unwrap();
        (answer.status().as_u16(), answer.json::<Value>().await.unwrap())
    };
    let up = json!({ "database": "reachable", "readModel": "reachable", "queue": "reachable" });
    assert_eq!(ready().await, (200, up.clone()));
    assert_eq!(api.get("/health/live").send().await.unwrap().status(), StatusCode::OK);

    server.stop();
    assert_eq!(code(&api.graphql(&token, "{ client(id: \"1\") { id } }", json!({})).await), "READ_MODEL_UNAVAILABLE");
    let placed = api.graphql(&token, PLACE, order("1", &[("1", 1)], None)).await;
    assert_eq!(placed["data"]["placeOrder"]["clientVersion"], json!(1), "orders are taken all the same");
    let (status, told) = ready().await;
    assert_eq!((status, &told["readModel"], &told["database"]), (503, &json!("unreachable"), &json!("reachable")));

    db.connection.clone().close().await.unwrap();
    assert_eq!(code(&api.graphql(&token, PLACE, order("1", &[("1", 1)], None)).await), "COMMAND_STORE_UNAVAILABLE");
    assert_eq!(ready().await.1["database"], json!("unreachable"));
    assert_eq!(api.get("/health/live").send().await.unwrap().status(), StatusCode::OK);
}

#[tokio::test]
async fn what_is_unexpected_is_masked_under_an_id() {
    let db = sqlite().await;
    let api = Api::start(&db).await;
    db.connection.execute_unprepared("DROP TABLE order_items").await.unwrap();
    let answer = api.graphql(&api.token(ALL, None), PLACE, order("1", &[("1", 1)], None)).await;
    assert_eq!(code(&answer), "INTERNAL_SERVER_ERROR");
    assert!(!answer.to_string().contains("order_items"), "{answer}");
    let id = answer["errors"][0]["extensions"]["id"].as_str().unwrap();
    assert!(answer["errors"][0]["message"].as_str().unwrap().contains(id));
}

/// A refused field cancels its siblings wherever they are. A database in memory ends with its only connection, now and then:
/// sqlx opens the next one at once. So this counts connections instead of looking for what is in the database.
#[tokio::test]
async fn a_cancelled_request_does_not_take_the_only_connection_along() {
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
    // The above cancels nothing that waits for SQLite's thread where that always answers within a poll.
    assert!(!pool.options().get_test_before_acquire());
}
