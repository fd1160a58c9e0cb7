//! PostgreSQL behind PgBouncer.

use std::process::Command;
use std::time::Duration;

use runtime::database;
use sea_orm::{ConnectionTrait, TransactionTrait};
use test_support::postgres::{PostgresDatabase, database_alone};
use test_support::process::{Process, free_address};
use test_support::services::sql;

/// A PgBouncer in front of a database, and the URL of the database behind it.
struct PgBouncer {
    url: String,
    _process: Process,
    _directory: tempfile::TempDir,
}

impl PgBouncer {
    fn start(database: &PostgresDatabase, mode: &str) -> PgBouncer {
        let (login, server) = database.url.trim_start_matches("postgresql://").split_once('@').unwrap();
        let (user, password) = login.split_once(':').unwrap();
        let (server_address, name) = server.split_once('/').unwrap();
        let (host, server_port) = server_address.split_once(':').unwrap();
        let address = free_address();
        let port = address.rsplit_once(':').unwrap().1;
        let directory = tempfile::tempdir().unwrap();
        let configuration = directory.path().join("pgbouncer.ini");
        std::fs::write(
            &configuration,
            format!(
                "[databases]\n{name} = host={host} port={server_port} user={user} password={password}\n\
                 [pgbouncer]\nlisten_addr = 127.0.0.1\nlisten_port = {port}\nunix_socket_dir =\n\
                 auth_type = any\npool_mode = {mode}\ndefault_pool_size = 10\n"
            ),
        )
        .unwrap();
        // It refuses to run as root.
        let mut command = Command::new("setpriv");
        command.args(["--reuid=postgres", "--regid=postgres", "--clear-groups", "pgbouncer"]).arg(&configuration);
        let readable = Command::new("chown").args(["-R", "postgres"]).arg(directory.path()).status();
        if !readable.unwrap().success() {
            command = Command::new("pgbouncer");
            command.arg(&configuration);
        }
        let mut process = Process::spawn("pgbouncer", command);
        process.line_with("process up");
        PgBouncer { url: format!("postgres://any@{address}/{name}"), _process: process, _directory: directory }
    }
}

const STATEMENT_TIMEOUT: Duration = Duration::from_secs(5);

#[tokio::test(flavor = "multi_thread")]
async fn a_pooler_in_session_mode_can_be_used_with_all_settings() {
    let database = database_alone().await;
    let pooler = PgBouncer::start(&database, "session");
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
    let pooler = PgBouncer::start(&database, "transaction");
    let error = database::connect(&pooler.url, 4, Some(STATEMENT_TIMEOUT)).await.unwrap_err().to_string();
    assert!(error.contains("transaction mode") && error.contains("use session mode"), "{error}");
}
