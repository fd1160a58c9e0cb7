//! Orders and the outbox add little work to the database.

use api::commands::place_order::place;
use api::outbox::relay::{Pass, Relay};
use iso_currency::Currency;
use sea_orm::{ConnectionTrait, DatabaseConnection, DbBackend, IsolationLevel, Statement, TransactionTrait};
use tokio_util::sync::CancellationToken;

use crate::support::{command, postgres, postgres_alone, queue, until};

const ORDERS: usize = 6_000;

pub async fn number(db: &DatabaseConnection, sql: &str) -> i64 {
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

/// This many connections of the pool, which has 16, report their counters.
async fn flush_counters(db: &DatabaseConnection, number: usize) {
    let mut connections = Vec::new();
    for _ in 0..number {
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
    flush_counters(db, 16).await;
    let scans_of_log = counter(db, "order_events", "seq_scan").await;
    let index_scans = counter(db, "outbox", "idx_scan").await;

    let before = written(db).await;
    let mut polls = 1;
    while relay.run_once().await.unwrap() != Pass::default() {
        polls += 1;
    }
    let marked = written(db).await - before;
    assert!(marked * 100 < inserted * 15, "{marked} bytes to publish events that took {inserted} bytes to insert");

    flush_counters(db, 16).await;
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
    flush_counters(db, 16).await;
    let [updates, hot] = [counter(db, "clients", "n_tup_upd").await, counter(db, "clients", "n_tup_hot_upd").await];
    assert!(updates >= CLIENTS && hot * 100 >= updates * 95, "{hot} of {updates} updates touched no index");
}

/// An UUID of version 7, as SQL, of so many milliseconds ago.
fn id_of(milliseconds_ago: &str) -> String {
    let time = format!("lpad(to_hex((extract(epoch FROM now()) * 1000)::bigint - {milliseconds_ago}), 12, '0')");
    format!("({time} || '70008' || lpad(to_hex(n), 15, '0'))::uuid")
}

/// Such a transaction, for example a backup, keeps PostgreSQL from cleaning up what was deleted after its begin.
#[tokio::test]
async fn polls_read_few_pages_while_an_old_transaction_is_open() {
    let db = postgres_alone().await;
    let (relay, _fast_path) = Relay::new(db.connection.clone(), queue().await);
    let db = &db.connection;
    let old = db.begin_with_config(Some(IsolationLevel::RepeatableRead), None).await.unwrap();
    old.query_one_raw(Statement::from_string(DbBackend::Postgres, "SELECT count(*) FROM outbox")).await.unwrap();
    let published = id_of("120000 - n * 10");
    let insert = format!(
        "INSERT INTO outbox (event_id, inserted_at) SELECT {published}, now() - interval '2 min' FROM generate_series(1, 20000) n"
    );
    db.execute_unprepared(&insert).await.unwrap();
    db.execute_unprepared("DELETE FROM outbox").await.unwrap();
    // A row whose event is missing stays, so that each poll also tries to claim it.
    let pending = format!("SELECT {}, now() - interval '5 s' FROM generate_series(1, 1) n", id_of("5000"));
    db.execute_unprepared(&format!("INSERT INTO outbox (event_id, inserted_at) {pending}")).await.unwrap();

    let pages = "SELECT (heap_blks_hit + heap_blks_read + idx_blks_hit + idx_blks_read)::bigint AS number
        FROM pg_statio_user_tables WHERE relname = 'outbox'";
    let counters = async || {
        flush_counters(db, 15).await;
        [counter(db, "outbox", "idx_scan").await, number(db, pages).await]
    };
    let before = counters().await;
    let shutdown = CancellationToken::new();
    let running = tokio::spawn(relay.run(shutdown.clone()));
    until("the first poll reads everything", async || counters().await[0] >= before[0] + 2).await;
    let [scans, pages] = counters().await;
    assert!(pages - before[1] > 200, "the test does not show anything: {} pages", pages - before[1]);
    until("other polls follow", async || counters().await[0] >= scans + 6).await;
    let [later_scans, later_pages] = counters().await;
    let (scans, pages) = (later_scans - scans, later_pages - pages);
    assert!(pages < 10 * scans, "{scans} scans read {pages} pages");
    shutdown.cancel();
    running.await.unwrap();
    old.rollback().await.unwrap();
}

#[tokio::test]
async fn the_outbox_is_vacuumed_after_a_fixed_number_of_dead_rows() {
    let db = postgres().await;
    let sql = "SELECT array_to_string(reloptions, ',') AS options FROM pg_class WHERE oid = 'outbox'::regclass";
    let row = db.connection.query_one_raw(Statement::from_string(DbBackend::Postgres, sql)).await.unwrap().unwrap();
    let options: String = row.try_get("", "options").unwrap();
    for option in ["vacuum_scale_factor=0", "vacuum_threshold=1000", "vacuum_cost_delay=0"] {
        assert!(options.contains(&format!("autovacuum_{option}")), "{options}");
    }
}
