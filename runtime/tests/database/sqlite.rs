//! Transactions that fail or are cancelled on SQLite. Each committed row must be in the database.

use std::time::Duration;

use runtime::database;
use sea_orm::{ConnectionTrait, Database, DatabaseConnection, DbBackend, DbErr, Statement, TransactionTrait};
use tokio::time::timeout;

const TABLE: &str = "CREATE TABLE rows (id INTEGER PRIMARY KEY, body BLOB NOT NULL)";

async fn connect(url: &str) -> DatabaseConnection {
    let db = database::connect(url, 1, None).await.unwrap();
    db.execute_unprepared(TABLE).await.unwrap();
    db
}

/// Inserts rows with these ids, of `bytes` each, in one transaction and one statement.
async fn insert(db: &DatabaseConnection, ids: &[i64], bytes: usize) -> Result<(), DbErr> {
    let transaction = db.begin().await?;
    let rows: Vec<String> = ids.iter().map(|id| format!("({id}, zeroblob({bytes}))")).collect();
    transaction.execute_unprepared(&format!("INSERT INTO rows (id, body) VALUES {}", rows.join(", "))).await?;
    transaction.commit().await
}

async fn ids(db: &DatabaseConnection) -> Vec<i64> {
    let rows = Statement::from_string(DbBackend::Sqlite, "SELECT id FROM rows ORDER BY id");
    db.query_all_raw(rows).await.unwrap().iter().map(|row| row.try_get("", "id").unwrap()).collect()
}

/// Fills the database until transactions fail, in several ways, and then makes room. Returns the committed ids.
async fn fill(db: &DatabaseConnection) -> Vec<i64> {
    let mut committed = Vec::new();
    let (mut failed, mut id) = (0, 0);
    while failed < 20 {
        id += 10;
        // Set for each connection: a new one has no limit.
        db.execute_unprepared("PRAGMA max_page_count = 40").await.unwrap();
        // After a failed statement SQLite rolls back the transaction if the statement has one row, and only the statement
        // if it has several.
        let rows: Vec<i64> = (id..=id + id / 10 % 3).collect();
        match insert(db, &rows, 10_000).await {
            Ok(()) => committed.extend(rows),
            Err(_) => failed += 1,
        }
    }
    db.execute_unprepared("PRAGMA max_page_count = 100000").await.unwrap();
    for id in 10_000..10_010 {
        insert(db, &[id], 10).await.unwrap();
        committed.push(id);
    }
    committed
}

#[tokio::test]
async fn every_committed_row_is_in_the_file_after_the_database_was_full() {
    let directory = tempfile::tempdir().unwrap();
    let url = format!("sqlite://{}", directory.path().join("full.db").display());
    let db = connect(&url).await;
    let committed = fill(&db).await;
    let other = Database::connect(&url).await.unwrap();
    assert_eq!(ids(&other).await, committed);
}

#[tokio::test]
async fn a_database_in_memory_keeps_its_rows_when_a_connection_is_replaced() {
    let db = connect("sqlite::memory:").await;
    let committed = fill(&db).await;
    assert_eq!(ids(&db).await, committed);
}

#[tokio::test]
async fn a_transaction_that_is_cancelled_at_any_point_disturbs_no_other() {
    let directory = tempfile::tempdir().unwrap();
    let url = format!("sqlite://{}", directory.path().join("cancelled.db").display());
    let db = connect(&url).await;
    let other = Database::connect(&url).await.unwrap();
    for id in (0..400).step_by(2) {
        let _ = timeout(Duration::from_micros(10 * id as u64), insert(&db, &[id], 10)).await;
        insert(&db, &[id + 1], 10).await.unwrap();
        assert_eq!(ids(&other).await.last(), Some(&(id + 1)), "a committed row is not in the file");
    }
}

#[tokio::test]
async fn a_transaction_that_could_not_write_because_of_a_lock_disturbs_no_other() {
    let directory = tempfile::tempdir().unwrap();
    let url = format!("sqlite://{}", directory.path().join("locked.db").display());
    let db = connect(&url).await;
    let other = Database::connect(&url).await.unwrap();
    let lock = other.begin().await.unwrap();
    lock.execute_unprepared("INSERT INTO rows (id, body) VALUES (1, 'x')").await.unwrap();
    let error = insert(&db, &[2], 10).await.unwrap_err().to_string();
    assert!(error.contains("locked"), "{error}");
    lock.commit().await.unwrap();
    insert(&db, &[3], 10).await.unwrap();
    assert_eq!(ids(&other).await, [1, 3]);
}
