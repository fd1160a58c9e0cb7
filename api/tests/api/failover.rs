//! A failover of PostgreSQL under load: the old writer stays up, read-only, and the address leads to the new one.

use std::time::{Duration, Instant};

use futures::future::join_all;
use sea_orm::{ConnectionTrait, Database, DatabaseConnection};
use serde_json::Value;
use test_support::gate::Gate;
use test_support::postgres::{PostgresDatabase, database_alone};
use test_support::until;

use crate::support::{ALL_SCOPES, Api, Db, PLACE, migrate, open, order};

fn address(server: &PostgresDatabase) -> &str {
    server.url.split('@').next_back().unwrap().split('/').next().unwrap()
}

async fn server() -> (PostgresDatabase, DatabaseConnection) {
    let server = database_alone().await;
    migrate(&server.url).await;
    let db = Database::connect(&server.url).await.unwrap();
    (server, db)
}

/// Eight users place orders for this time, one after the other. Returns how many orders succeeded and failed.
async fn place_orders(api: &Api, time: Duration) -> (usize, usize) {
    let (token, began) = (api.token(ALL_SCOPES, None), Instant::now());
    let results = join_all((0..8).map(async |user| {
        let (mut succeeded, mut failed) = (0, 0);
        while began.elapsed() < time {
            let client = (user % 3 + 1).to_string();
            let response = api.graphql(&token, PLACE, order(&client, &[("1", 1)], None)).await;
            match response["data"]["placeOrder"]["order"] {
                Value::Null => failed += 1,
                _ => succeeded += 1,
            }
        }
        (succeeded, failed)
    }));
    results.await.into_iter().fold((0, 0), |all, (succeeded, failed)| (all.0 + succeeded, all.1 + failed))
}

#[tokio::test(flavor = "multi_thread")]
async fn orders_succeed_within_seconds_after_a_failover() {
    let ((old, old_db), (new, new_db)) = tokio::join!(server(), server());
    let gate = Gate::in_front_of(address(&old)).await;
    let db = Db::on(open(&old.url.replace(address(&old), &gate.address)).await);
    let api = Api::start_with(&db, &["--rate-limit=0"]).await;
    let second = Duration::from_secs(1);
    assert_eq!(place_orders(&api, second).await.1, 0);

    for statement in ["ALTER SYSTEM SET default_transaction_read_only = on", "SELECT pg_reload_conf()"] {
        old_db.execute_unprepared(statement).await.unwrap();
    }
    let database = async || {
        let response = api.get("/health/ready").send().await.unwrap();
        assert_eq!(response.status(), 200, "queries are executed");
        response.json::<Value>().await.unwrap()["database"].clone()
    };
    until("no writer is reachable", async || database().await == "unreachable").await;
    assert_eq!(place_orders(&api, second).await.0, 0);

    gate.redirect(address(&new));
    let (succeeded, failed) = place_orders(&api, 5 * second).await;
    println!("failover: {succeeded} orders succeeded and {failed} failed within 5 s");
    assert!(succeeded >= 95 * (succeeded + failed) / 100, "{succeeded} orders succeeded and {failed} failed");
    assert_eq!(database().await, "reachable");
    let count = "SELECT count(*) AS placed FROM orders";
    let row = new_db.query_one_raw(test_support::services::sql(count)).await.unwrap().unwrap();
    assert!(row.try_get::<i64>("", "placed").unwrap() >= succeeded as i64, "an acknowledged order is not stored");
}
