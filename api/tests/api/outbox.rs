//! Orders and the outbox add little work to the database.

use api::commands::place_order::place;
use api::outbox::relay::{Pass, Relay};
use iso_currency::Currency;
use sea_orm::{ConnectionTrait, DatabaseConnection, DbBackend, Statement, TransactionTrait};

use crate::support::{command, postgres_alone, queue};

const ORDERS: usize = 6_000;

async fn number(db: &DatabaseConnection, sql: &str) -> i64 {
    let row = db.query_one_raw(Statement::from_string(DbBackend::Postgres, sql)).await.unwrap().unwrap();
    row.try_get("", "number").unwrap()
}

/// Bytes of write-ahead log that the server has written so far.
async fn written(db: &DatabaseConnection) -> i64 {
    number(db, "SELECT (pg_current_wal_lsn() - '0/0')::bigint AS number").await
}

/// A counter of the table in `pg_stat_user_tables`.
async fn counter(db: &DatabaseConnection, table: &str, counter: &str) -> i64 {
    number(db, &format!("SELECT {counter} AS number FROM pg_stat_user_tables WHERE relname = '{table}'")).await
}

/// Every connection of the pool reports its counters.
async fn flush_counters(db: &DatabaseConnection) {
    let mut connections = Vec::new();
    for _ in 0..16 {
        connections.push(db.begin().await.unwrap());
    }
    for connection in connections {
        connection.execute_unprepared("SELECT pg_stat_force_next_flush()").await.unwrap();
        connection.commit().await.unwrap();
    }
}

#[tokio::test]
async fn publishing_an_event_deletes_a_small_row_and_leaves_the_log_alone() {
    // Alone on its server: the counters of write-ahead log are the whole server's.
    let db = postgres_alone().await;
    let (relay, _fast_path) = Relay::new(db.connection.clone(), queue().await);
    let db = &db.connection;
    let commands: Vec<_> = (0..ORDERS).map(|n| command(n as i64 % 3 + 1, &[(1, 1), (2, 3)], None)).collect();
    let before = written(db).await;
    for batch in commands.chunks(50) {
        place(db, Currency::USD, batch).await.unwrap();
    }
    let inserted = written(db).await - before;
    db.execute_unprepared("ANALYZE outbox, order_events").await.unwrap();
    flush_counters(db).await;
    let scans_of_log = counter(db, "order_events", "seq_scan").await;
    let index_scans = counter(db, "outbox", "idx_scan").await;

    let before = written(db).await;
    let mut polls = 1;
    while relay.run_once().await.unwrap() != Pass::default() {
        polls += 1;
    }
    let marked = written(db).await - before;
    assert!(marked * 100 < inserted * 15, "{marked} bytes to publish events that took {inserted} bytes to insert");

    flush_counters(db).await;
    assert!(counter(db, "outbox", "n_tup_del").await >= ORDERS as i64);
    assert!(counter(db, "order_events", "n_tup_ins").await >= ORDERS as i64);
    for change in ["n_tup_upd", "n_tup_del"] {
        assert_eq!(counter(db, "order_events", change).await, 0, "{change}");
    }
    assert!(counter(db, "outbox", "idx_scan").await >= index_scans + polls, "a poll reads the whole outbox");
    assert_eq!(counter(db, "order_events", "seq_scan").await, scans_of_log, "a poll reads the whole log");
    let locked = "SELECT count(*) AS number FROM order_events WHERE xmax <> '0'::xid";
    assert_eq!(number(db, locked).await, 0, "a lock is written to the row");
}

/// Updates of rows that touch no index leave nothing for a vacuum to clean in the indexes.
#[tokio::test]
async fn an_order_updates_its_client_without_touching_an_index() {
    const CLIENTS: i64 = 3_000;
    let db = postgres_alone().await;
    let db = &db.connection;
    let insert = format!(
        "INSERT INTO clients (name, email, version) SELECT 'Client ' || n, n || '@example.com', 1 FROM generate_series(4, {CLIENTS}) n"
    );
    db.execute_unprepared(&insert).await.unwrap();
    // 307 has no common divisor with the number of clients: consecutive orders are from clients in different pages.
    let commands: Vec<_> = (0..CLIENTS).map(|n| command(n * 307 % CLIENTS + 1, &[(1, 1)], None)).collect();
    for batch in commands.chunks(50) {
        place(db, Currency::USD, batch).await.unwrap();
    }
    flush_counters(db).await;
    let [updates, hot] = [counter(db, "clients", "n_tup_upd").await, counter(db, "clients", "n_tup_hot_upd").await];
    assert!(updates >= CLIENTS && hot * 100 >= updates * 95, "{hot} of {updates} updates touched no index");
}
