//! A password that is changed while a pool uses it.

use std::time::Duration;

use pgtemp::PgTempDB;
use runtime::database::{self, Login, watch_credentials};
use sea_orm::{ConnectionTrait, Database, DatabaseConnection};
use test_support::postgres::server;
use test_support::until;
use tokio_util::sync::CancellationToken;

/// A server that asks for passwords, with a role `app`.
struct Server {
    server: PgTempDB,
    admin: DatabaseConnection,
}

impl Server {
    async fn start() -> Server {
        let start = || server().with_initdb_arg("--auth", "scram-sha-256").start();
        let server = tokio::task::spawn_blocking(start).await.unwrap();
        let admin = Database::connect(server.connection_uri()).await.unwrap();
        admin.execute_unprepared("CREATE ROLE app LOGIN PASSWORD 'old'").await.unwrap();
        Server { server, admin }
    }

    fn url(&self, password: &str) -> String {
        format!("postgres://app:{password}@127.0.0.1:{}/{}", self.server.db_port(), self.server.db_name())
    }

    /// Open connections stay usable.
    async fn change_password(&self) {
        self.admin.execute_unprepared("ALTER ROLE app PASSWORD 'new'").await.unwrap();
    }

    async fn close_connections(&self) {
        let end = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = 'app'";
        self.admin.execute_unprepared(end).await.unwrap();
    }
}

async fn connect(login: Login<'_>) -> DatabaseConnection {
    database::connect(login, 4, Some(Duration::from_secs(5))).await.unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_new_password_in_the_file_is_used() {
    let server = Server::start().await;
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("password");
    std::fs::write(&file, "old\n").unwrap();
    let db = connect(Login { url: &server.url("wrong"), password_file: Some(&file) }).await;
    db.ping().await.unwrap();
    server.change_password().await;
    server.close_connections().await;
    assert!(db.ping().await.is_err());
    std::fs::write(&file, "new\n").unwrap();
    until("the new password is used", async || db.ping().await.is_ok()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_process_whose_password_is_refused_is_shut_down() {
    let server = Server::start().await;
    let db = connect((&server.url("old")).into()).await;
    db.ping().await.unwrap();
    let shutdown = CancellationToken::new();
    let watch = tokio::spawn(watch_credentials(db.clone(), shutdown.clone()));
    server.change_password().await;
    db.ping().await.expect("an open connection of the pool");
    let error = watch.await.unwrap().unwrap_err().to_string();
    assert!(error.contains("refuses the credentials") && error.contains("password authentication failed"), "{error}");
    assert!(shutdown.is_cancelled());
}
