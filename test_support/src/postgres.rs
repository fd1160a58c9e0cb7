//! PostgreSQL: one server for the databases of all tests of a process, and servers of one test alone.

use std::path::PathBuf;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError, Weak};

use pgtemp::{PgTempDB, PgTempDBBuilder};
use sea_orm::{ConnectionTrait, Database};

use crate::certificates::Certificates;

/// An empty database.
pub struct PostgresDatabase {
    pub url: String,
    /// The server stops when its last database is dropped.
    _server: Arc<PgTempDB>,
}

/// Creates a database on the server that the tests of this process share: to start a server takes seconds.
pub async fn database() -> PostgresDatabase {
    static SERVER: Mutex<Weak<PgTempDB>> = Mutex::new(Weak::new());
    static DATABASES: AtomicUsize = AtomicUsize::new(0);
    let start = || {
        let mut running = SERVER.lock().unwrap_or_else(PoisonError::into_inner);
        running.upgrade().unwrap_or_else(|| {
            let server = Arc::new(server().start());
            *running = Arc::downgrade(&server);
            server
        })
    };
    let server = tokio::task::spawn_blocking(start).await.unwrap();
    let name = format!("test_{}", DATABASES.fetch_add(1, Ordering::Relaxed));
    let uri = server.connection_uri();
    let connection = Database::connect(&uri).await.unwrap();
    connection.execute_unprepared(&format!("CREATE DATABASE {name}")).await.unwrap();
    connection.close().await.unwrap();
    let (server_url, _) = uri.rsplit_once('/').unwrap();
    PostgresDatabase { url: format!("{server_url}/{name}"), _server: server }
}

/// A database on a server of its own, for tests that measure or disturb the server.
pub async fn database_alone() -> PostgresDatabase {
    let server = tokio::task::spawn_blocking(|| server().start()).await.unwrap();
    PostgresDatabase { url: server.connection_uri(), _server: Arc::new(server) }
}

/// As [`database_alone`], with a write-ahead log from which programs can read changes.
pub async fn database_with_logical_log() -> PostgresDatabase {
    let server = tokio::task::spawn_blocking(|| server().with_config_param("wal_level", "logical").start());
    let server = server.await.unwrap();
    PostgresDatabase { url: server.connection_uri(), _server: Arc::new(server) }
}

/// A server that is to be configured and started; it stops when it is dropped.
pub fn server() -> PgTempDBBuilder {
    // Otherwise the server would wait for somebody to read its log.
    let builder = PgTempDBBuilder::new().with_config_param("logging_collector", "on");
    match directory() {
        Some(directory) => builder.with_bin_path(directory),
        None => builder,
    }
}

/// A server that accepts only connections with TLS and a password, as on AWS: see [`server`].
pub fn tls_server(certificates: &Certificates) -> PgTempDBBuilder {
    let rules = certificates.file("pg_hba.conf");
    std::fs::write(&rules, "hostssl all all all scram-sha-256\n").unwrap();
    certificates.give_to_postgres();
    let path = |path: PathBuf| path.into_os_string().into_string().unwrap();
    server()
        .with_config_param("ssl", "on")
        .with_config_param("ssl_cert_file", &path(certificates.server()))
        .with_config_param("ssl_key_file", &path(certificates.key()))
        .with_config_param("hba_file", &path(rules))
}

/// The path of a program of PostgreSQL, such as `pgbench`.
pub fn program(name: &str) -> PathBuf {
    directory().map_or_else(|| name.into(), |directory| directory.join(name))
}

/// Debian keeps these programs out of PATH.
fn directory() -> Option<PathBuf> {
    let versions = std::fs::read_dir("/usr/lib/postgresql").into_iter().flatten().flatten();
    versions.map(|version| version.path().join("bin")).max()
}

/// Sets the clock of a database forward, or back with a negative interval, for `clock_timestamp()` in sessions that begin from now on.
pub async fn shift_clock(url: &str, interval: &str) {
    let db = Database::connect(url).await.unwrap();
    let shifted = format!("SELECT pg_catalog.clock_timestamp() + interval '{interval}'");
    let name = url.rsplit('/').next().unwrap();
    for statement in [
        format!("CREATE FUNCTION clock_timestamp() RETURNS timestamptz LANGUAGE sql VOLATILE AS $$ {shifted} $$"),
        format!("ALTER DATABASE \"{name}\" SET search_path = public, pg_catalog"),
    ] {
        db.execute_unprepared(&statement).await.unwrap();
    }
    db.close().await.unwrap();
}
