//! A pool whose server is demoted to read-only, as in a failover, while its connections stay open.

use std::time::{Duration, Instant};

use futures::future::join_all;
use runtime::database;
use sea_orm::{ConnectionTrait, Database, DatabaseConnection, DbErr, TransactionTrait};
use test_support::gate::Gate;
use test_support::postgres::{PostgresDatabase, database_alone};
use test_support::until;

const CONNECTIONS: u32 = 8;

async fn server() -> PostgresDatabase {
    let server = database_alone().await;
    let db = Database::connect(&server.url).await.unwrap();
    db.execute_unprepared("CREATE TABLE rows (id bigserial PRIMARY KEY)").await.unwrap();
    server
}

fn address(server: &PostgresDatabase) -> &str {
    server.url.split('@').next_back().unwrap().split('/').next().unwrap()
}

async fn connect(url: &str) -> anyhow::Result<DatabaseConnection> {
    database::connect(url, CONNECTIONS, Some(Duration::from_secs(5))).await
}

async fn demote(server: &PostgresDatabase) {
    let db = Database::connect(&server.url).await.unwrap();
    db.execute_unprepared("ALTER SYSTEM SET default_transaction_read_only = on").await.unwrap();
    db.execute_unprepared("SELECT pg_reload_conf()").await.unwrap();
    until("the server is read-only", async || insert(&db).await.is_err()).await;
}

async fn insert(db: &DatabaseConnection) -> Result<(), DbErr> {
    let transaction = db.begin().await?;
    transaction.execute_unprepared("INSERT INTO rows DEFAULT VALUES").await?;
    transaction.commit().await
}

/// Runs a transaction on each connection of the pool. Returns how many succeeded.
async fn insert_on_all(db: &DatabaseConnection) -> usize {
    let results = join_all((0..CONNECTIONS).map(|_| insert(db))).await;
    results.iter().filter(|result| result.is_ok()).count()
}

#[tokio::test(flavor = "multi_thread")]
async fn transactions_succeed_as_soon_as_the_address_names_the_new_writer() {
    let (old, new) = tokio::join!(server(), server());
    let gate = Gate::in_front_of(address(&old)).await;
    let db = connect(&old.url.replace(address(&old), &gate.address)).await.unwrap();
    assert_eq!(insert_on_all(&db).await, CONNECTIONS as usize);

    demote(&old).await;
    let began = Instant::now();
    assert_eq!(insert_on_all(&db).await, 0);
    assert!(began.elapsed() < Duration::from_secs(4), "a failure takes {:?}", began.elapsed());
    assert!(db.ping().await.is_err(), "health must report that no writer is reachable");

    gate.redirect(address(&new));
    let began = Instant::now();
    let (mut rounds, mut succeeded) = (0, 0);
    while began.elapsed() < Duration::from_secs(5) {
        rounds += 1;
        succeeded += insert_on_all(&db).await;
    }
    let asked = rounds * CONNECTIONS as usize;
    assert!(succeeded * 100 >= asked * 95, "{succeeded} of {asked} transactions succeeded");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_connection_that_was_idle_during_the_failover_is_replaced_before_its_use() {
    let (old, new) = tokio::join!(server(), server());
    let gate = Gate::in_front_of(address(&old)).await;
    let db = connect(&old.url.replace(address(&old), &gate.address)).await.unwrap();
    assert_eq!(insert_on_all(&db).await, CONNECTIONS as usize);
    gate.redirect(address(&new));
    demote(&old).await;
    assert_eq!(insert_on_all(&db).await, CONNECTIONS as usize);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_read_only_server_is_refused_at_the_start() {
    let server = server().await;
    demote(&server).await;
    let error = connect(&server.url).await.unwrap_err().to_string();
    assert_eq!(
        error,
        "cannot reach the database of DATABASE_URL: it is a replica or read-only; use the endpoint of the writer"
    );
}
