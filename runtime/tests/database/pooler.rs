//! PostgreSQL behind PgBouncer.

use std::time::Duration;

use runtime::database;
use sea_orm::{ConnectionTrait, TransactionTrait};
use test_support::pgbouncer::PgBouncer;
use test_support::postgres::database_alone;
use test_support::services::sql;

const STATEMENT_TIMEOUT: Duration = Duration::from_secs(5);

#[tokio::test(flavor = "multi_thread")]
async fn a_pooler_in_session_mode_can_be_used_with_all_settings() {
    let database = database_alone().await;
    let pooler = PgBouncer::start(&database.url, "session");
    let db = database::connect(&pooler.url, 4, Some(STATEMENT_TIMEOUT)).await.unwrap();
    for (name, value) in [("statement_timeout", "5s"), ("lock_timeout", "1s"), ("synchronous_commit", "on")] {
        let row = db.query_one_raw(sql(&format!("SHOW {name}"))).await.unwrap().unwrap();
        assert_eq!(row.try_get::<String>("", name).unwrap(), value);
    }
    let transactions: Vec<_> = futures::future::join_all((0..4).map(|_| db.begin())).await;
    for transaction in transactions {
        let transaction = transaction.unwrap();
        assert!(transaction.query_one_raw(sql("SELECT 1 AS one")).await.unwrap().is_some());
        transaction.commit().await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pooler_in_transaction_mode_is_refused_at_the_start() {
    let database = database_alone().await;
    let pooler = PgBouncer::start(&database.url, "transaction");
    let error = database::connect(&pooler.url, 4, Some(STATEMENT_TIMEOUT)).await.unwrap_err();
    assert!(database::is_permanent(&error), "{error:#}: a projector would go on without the database");
    let error = error.to_string();
    assert!(error.contains("transaction mode") && error.contains("use session mode"), "{error}");
}
