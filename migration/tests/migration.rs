//! The `migration` binary, as a release step runs it.

use std::process::{Command, Output, Stdio};

use migration::{Migrator, MigratorTrait};
use sea_orm::{ConnectionTrait, Database, Statement, TransactionTrait};
use test_support::postgres;

fn migration(command: &str, database_url: &str) -> Command {
    let mut process = Command::new(env!("CARGO_BIN_EXE_migration"));
    process.arg(command).env("DATABASE_URL", database_url);
    process
}

fn stdout(output: &Output) -> String {
    assert!(output.status.success(), "{output:?}");
    String::from_utf8(output.stdout.clone()).unwrap()
}

#[test]
fn four_concurrent_runs_migrate_once() {
    let server = postgres::server().start();
    let url = server.connection_uri();
    let running: Vec<_> = (0..4).map(|_| migration("up", &url).stdout(Stdio::piped()).spawn().unwrap()).collect();
    let outputs: Vec<String> =
        running.into_iter().map(|process| stdout(&process.wait_with_output().unwrap())).collect();
    assert_eq!(outputs.iter().filter(|output| output.contains("applied")).count(), 1, "{outputs:?}");
    assert!(outputs.iter().all(|output| output.ends_with("The database is up to date.\n")));
    assert!(stdout(&migration("status", &url).output().unwrap()).lines().all(|line| line.starts_with("applied ")));
}

#[test]
fn a_migration_succeeds_if_nobody_reads_what_it_prints() {
    let directory = tempfile::tempdir().unwrap();
    let url = format!("sqlite://{}?mode=rwc", directory.path().join("orders.db").display());
    for command in ["up", "status"] {
        let (reader, writer) = std::io::pipe().unwrap();
        drop(reader);
        let output = migration(command, &url).stdout(writer).stderr(Stdio::piped()).spawn().unwrap();
        let output = output.wait_with_output().unwrap();
        assert!(output.status.success() && output.stderr.is_empty(), "{output:?}");
    }
    assert!(stdout(&migration("status", &url).output().unwrap()).lines().all(|line| line.starts_with("applied ")));
}

#[test]
fn a_file_is_migrated_and_status_shows_it() {
    let directory = tempfile::tempdir().unwrap();
    let url = format!("sqlite://{}?mode=rwc", directory.path().join("orders.db").display());
    assert!(stdout(&migration("status", &url).output().unwrap()).lines().all(|line| line.starts_with("pending ")));
    assert!(stdout(&migration("up", &url).output().unwrap()).contains("applied  m20261123_000001_create_tables"));
    assert_eq!(stdout(&migration("up", &url).output().unwrap()), "The database is up to date.\n");
}

#[tokio::test]
async fn a_database_of_a_newer_release_is_accepted() {
    let server = postgres::server().start();
    let url = server.connection_uri();
    stdout(&migration("up", &url).output().unwrap());
    let db = Database::connect(&url).await.unwrap();
    let newer = "INSERT INTO seaql_migrations (version, applied_at) VALUES ('m99991231_000001_newer', 0)";
    db.execute_unprepared(newer).await.unwrap();
    assert_eq!(stdout(&migration("up", &url).output().unwrap()), "The database is up to date.\n");
}

/// A log from before there were events of products.
#[tokio::test]
async fn events_survive_and_each_belongs_to_a_client_or_a_product() {
    let directory = tempfile::tempdir().unwrap();
    let file = format!("sqlite://{}?mode=rwc", directory.path().join("orders.db").display());
    let server = tokio::task::spawn_blocking(|| postgres::server().start()).await.unwrap();
    for url in [file, server.connection_uri()] {
        let db = Database::connect(&url).await.unwrap();
        let one = "'01932f3c-5d1e-7a6b-8c9d-0e1f2a3b4c5d'";
        let insert = async |number: u8, client: &str, version: i32, more: &str| {
            let id = one.replace("01932f3c", &format!("01932f{number:02x}"));
            let (column, value) = more.split_once('=').unwrap_or(("traceparent", "NULL"));
            db.execute_unprepared(&format!(
                "INSERT INTO order_events (id, client_id, version, type, payload, occurred_at, {column}) VALUES
                 ({id}, {client}, {version}, 'orders.OrderPlaced.v1', '{{}}', '2026-01-31T12:00:00Z', {value})"
            ))
            .await
        };
        Migrator::up(&db, Some(3)).await.unwrap();
        db.execute_unprepared("INSERT INTO clients (name, email) VALUES ('Bob', 'bob@example.com')").await.unwrap();
        db.execute_unprepared("INSERT INTO products (name, price) VALUES ('Computer', 150000)").await.unwrap();
        for version in 1..=3 {
            insert(version as u8, "1", version, "").await.unwrap();
        }
        Migrator::up(&db, Some(1)).await.unwrap();
        let kept = "SELECT count(*) AS kept FROM order_events WHERE client_id = 1 AND product_id IS NULL";
        let kept = db.query_one_raw(Statement::from_string(db.get_database_backend(), kept)).await.unwrap().unwrap();
        assert_eq!(kept.try_get::<i64>("", "kept").unwrap(), 3);
        insert(4, "1", 4, "").await.unwrap();
        insert(5, "NULL", 1, "product_id=1").await.unwrap();
        insert(6, "NULL", 2, "product_id=1").await.unwrap();
        for (client, version, more) in [
            ("1", 4, ""),
            ("NULL", 2, "product_id=1"),
            ("NULL", 5, ""),
            ("1", 5, "product_id=1"),
            ("NULL", 1, "product_id=99"),
        ] {
            assert!(insert(7, client, version, more).await.is_err(), "{url}: {client} {version} {more}");
        }
    }
}

#[tokio::test]
async fn unpublished_events_move_to_the_outbox() {
    let directory = tempfile::tempdir().unwrap();
    let file = format!("sqlite://{}?mode=rwc", directory.path().join("orders.db").display());
    let server = tokio::task::spawn_blocking(|| postgres::server().start()).await.unwrap();
    for url in [file, server.connection_uri()] {
        let db = Database::connect(&url).await.unwrap();
        Migrator::up(&db, Some(4)).await.unwrap();
        let client = "INSERT INTO clients (name, email, version) VALUES ('Bob', 'bob@example.com', 3)";
        db.execute_unprepared(client).await.unwrap();
        for (number, published_at) in [(1, "NULL"), (2, "'2026-01-31T12:00:01Z'"), (3, "NULL")] {
            db.execute_unprepared(&format!(
                "INSERT INTO order_events (id, client_id, version, type, payload, occurred_at, published_at) VALUES
                 ('01932f3c-5d1e-7a6b-8c9d-00000000000{number}', 1, {number}, 'orders.OrderPlaced.v1', '{{}}',
                  '2026-01-31T12:00:00Z', {published_at})"
            ))
            .await
            .unwrap();
        }
        assert!(!migration::up(&db).await.unwrap().is_empty());
        let pending =
            "SELECT version FROM order_events JOIN outbox ON event_id = id WHERE client_id = 1 ORDER BY version";
        let pending = db.query_all_raw(Statement::from_string(db.get_database_backend(), pending)).await.unwrap();
        let pending: Vec<i32> = pending.iter().map(|row| row.try_get("", "version").unwrap()).collect();
        assert_eq!(pending, [1, 3], "{url}");
        assert_eq!(migration::up(&db).await.unwrap(), [""; 0]);
    }
}

/// The release of before keeps placing orders: it does not name the new columns.
#[tokio::test]
async fn orders_of_before_are_not_refunded_and_an_interrupted_run_can_be_repeated() {
    let directory = tempfile::tempdir().unwrap();
    let file = format!("sqlite://{}?mode=rwc", directory.path().join("orders.db").display());
    let server = tokio::task::spawn_blocking(|| postgres::server().start()).await.unwrap();
    for url in [file, server.connection_uri()] {
        let db = Database::connect(&url).await.unwrap();
        Migrator::up(&db, Some(9)).await.unwrap();
        db.execute_unprepared("INSERT INTO clients (name, email) VALUES ('Bob', 'bob@example.com')").await.unwrap();
        let order = async |number: u8| {
            db.execute_unprepared(&format!(
                "INSERT INTO orders (id, client_id, version, placed_at, total)
                 VALUES ('01932f3c-5d1e-7a6b-8c9d-00000000000{number}', 1, {number}, '2026-01-31T12:00:00Z', 100)"
            ))
            .await
            .unwrap();
        };
        order(1).await;
        Migrator::up(&db, Some(1)).await.unwrap();
        if url.starts_with("postgres") {
            let interrupt =
                "DELETE FROM seaql_migrations WHERE version LIKE '%_000010_%'; DROP TABLE order_refund_items";
            db.execute_unprepared(interrupt).await.unwrap();
            Migrator::up(&db, Some(1)).await.unwrap();
        }
        order(2).await;
        let untouched = "SELECT count(*) AS orders FROM orders WHERE refunded = 0 AND cancelled_at IS NULL";
        let row =
            db.query_one_raw(Statement::from_string(db.get_database_backend(), untouched)).await.unwrap().unwrap();
        assert_eq!(row.try_get::<i64>("", "orders").unwrap(), 2, "{url}");
        db.execute_unprepared("SELECT * FROM order_refund_items").await.unwrap();
    }
}

#[tokio::test]
async fn idempotency_keys_of_orders_move_to_the_table_of_all_keys() {
    let directory = tempfile::tempdir().unwrap();
    let file = format!("sqlite://{}?mode=rwc", directory.path().join("orders.db").display());
    let server = tokio::task::spawn_blocking(|| postgres::server().start()).await.unwrap();
    for url in [file, server.connection_uri()] {
        let db = Database::connect(&url).await.unwrap();
        Migrator::up(&db, Some(9)).await.unwrap();
        let client = "INSERT INTO clients (name, email, version) VALUES ('Bob', 'bob@example.com', 3)";
        db.execute_unprepared(client).await.unwrap();
        for (version, key) in [(1, "'one'"), (2, "NULL"), (3, "'three'")] {
            let id = |kind: char| format!("'01932f3c-5d1e-7a6b-8c9d-{kind}0000000000{version}'");
            for statement in [
                format!(
                    "INSERT INTO orders (id, client_id, version, placed_at, total, idempotency_key)
                     VALUES ({}, 1, {version}, '2026-01-31T12:00:00Z', 5, {key})",
                    id('a')
                ),
                format!(
                    "INSERT INTO order_events (id, client_id, version, type, payload, occurred_at)
                     VALUES ({}, 1, {version}, 'orders.OrderPlaced.v1', '{{}}', '2026-01-31T12:00:00Z')",
                    id('b')
                ),
            ] {
                db.execute_unprepared(&statement).await.unwrap();
            }
        }
        migration::up(&db).await.unwrap();
        let moved = "SELECT scope, key, command, version FROM idempotency_keys JOIN order_events ON event_id = id
                     WHERE actor IS NULL ORDER BY version";
        let moved = db.query_all_raw(Statement::from_string(db.get_database_backend(), moved)).await.unwrap();
        let moved: Vec<(String, String, String, i32)> = moved
            .iter()
            .map(|row| row.try_get_many("", &["scope", "key", "command", "version"].map(Into::into)).unwrap())
            .collect();
        let row = |key: &str, version| ("client 1".to_owned(), key.to_owned(), "placeOrder".to_owned(), version);
        assert_eq!(moved, [row("one", 1), row("three", 3)], "{url}");
        assert_eq!(migration::up(&db).await.unwrap(), [""; 0]);
    }
}

/// Orders would wait behind it.
#[tokio::test]
async fn a_migration_that_waits_for_a_lock_gives_up_and_names_the_session_that_has_it() {
    let server = tokio::task::spawn_blocking(|| postgres::server().start()).await.unwrap();
    let url = server.connection_uri();
    let db = Database::connect(&url).await.unwrap();
    Migrator::up(&db, Some(4)).await.unwrap();
    let other = db.begin().await.unwrap();
    other.execute_unprepared("SELECT count(*) FROM order_events /* a long report */").await.unwrap();
    let run = async || {
        let mut up = migration("up", &url);
        tokio::task::spawn_blocking(move || up.output().unwrap()).await.unwrap()
    };
    let output = run().await;
    let error = String::from_utf8(output.stderr).unwrap();
    let last = error.lines().last().unwrap();
    assert!(!output.status.success() && last.starts_with("error: the migration failed: "), "{error}");
    for text in ["waited for a lock of process", "idle in transaction", "a long report", "run it again"] {
        assert!(last.contains(text), "{error}");
    }
    other.rollback().await.unwrap();
    assert!(stdout(&run().await).ends_with("The database is up to date.\n"));
}

#[test]
fn the_password_can_be_in_a_file() {
    let server = postgres::server().with_initdb_arg("--auth", "scram-sha-256").start();
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("password");
    let url = format!("postgres://{}:wrong@127.0.0.1:{}/{}", server.db_user(), server.db_port(), server.db_name());
    let run = || migration("up", &url).env("DATABASE_PASSWORD_FILE", &file).output().unwrap();
    let output = run();
    let error = String::from_utf8(output.stderr).unwrap();
    assert!(error.contains("DATABASE_PASSWORD_FILE") && error.contains("No such file"), "{error}");
    std::fs::write(&file, format!("{}\n", server.db_pass())).unwrap();
    assert!(stdout(&run()).ends_with("The database is up to date.\n"));
}

#[test]
fn errors_are_printed_in_one_line() {
    for (url, expected) in [
        ("postgres://127.0.0.1:1/none", "cannot reach the database of DATABASE_URL"),
        ("postgres://127.0.0.1:1/none", "Connection refused"),
        ("mysql://127.0.0.1/none", "DATABASE_URL must begin with postgres:// or sqlite://"),
    ] {
        let output = migration("up", url).output().unwrap();
        let error = String::from_utf8(output.stderr).unwrap();
        assert!(!output.status.success() && error.starts_with("error: ") && error.contains(expected), "{error}");
        assert_eq!(error.lines().count(), 1, "{error}");
    }
}
