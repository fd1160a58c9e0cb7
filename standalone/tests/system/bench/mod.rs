//! The benchmarks that `make bench` prints; docs/performance.md has the latest results. The service and its peers take turns
//! several times on the same stores and the same machine. No result fails a benchmark: machines differ.

mod abuse;
mod growth;
mod harness;
mod latency;
mod order_lists;
mod orders;
mod projection;
mod reads;
mod reports;
mod soak;
mod start;
mod subscribers;

use std::process::Command;

use harness::Server;
use redis::aio::MultiplexedConnection;
use sea_orm::{Database, DatabaseConnection};
use test_support::process::{Process, free_address, repository_file};
use test_support::services::Stores;
use test_support::user::{ALL_SCOPES, User};

const CLIENTS: usize = 10_000;

/// PostgreSQL as in production: a server that must not lose a commit.
const DURABLE: [(&str, &str); 3] = [("fsync", "on"), ("full_page_writes", "on"), ("autovacuum", "on")];

/// An api on stores with 10 000 clients.
struct Bench {
    stores: Stores,
    db: DatabaseConnection,
    token: String,
    api: Process,
    address: String,
}

impl Bench {
    async fn start() -> Bench {
        let mut stores = tokio::task::spawn_blocking(|| Stores::prepared_with(&DURABLE)).await.unwrap();
        let db = Database::connect(stores.postgres.connection_uri()).await.unwrap();
        stores.add_clients(CLIENTS as i64).await;
        // The peers do not log each request either.
        stores.set("RUST_LOG", "warn,api=info,projector=info,api::edge::access_log=warn");
        stores.set("MAX_OPERATIONS_PER_CALLER", "512"); // all requests have one token
        let token = stores.token(ALL_SCOPES, "8h");
        let mut api = Process::start("api", &[], &stores.variables());
        let address = api.line_with("ready address=");
        Bench { stores, db, token, api, address }
    }

    /// A contender of this kind, see `bench/requests.lua`.
    fn server<'a>(&'a self, name: &'static str, process: &Process, address: &str, kind: &'static str) -> Server<'a> {
        Server { name, process: process.id(), address: address.into(), kind, clients: CLIENTS, token: &self.token }
    }

    fn user(&self) -> User {
        User::new(&self.address, &self.token)
    }

    fn own<'a>(&'a self, name: &'static str, kind: &'static str) -> Server<'a> {
        self.server(name, &self.api, &self.address, kind)
    }

    async fn redis(&self) -> MultiplexedConnection {
        self.stores.redis_client().get_multiplexed_async_connection().await.unwrap()
    }
}

/// A server of `bench/peers`.
fn peer(kind: &str, stores: &Stores) -> (Process, String) {
    let address = free_address();
    let port = address.rsplit(':').next().unwrap();
    let mut command = Command::new(repository_file("scripts/with-node"));
    command.arg("node").arg(repository_file("bench/peers/server.js")).args([kind, port]).envs(stores.variables());
    command.env("NODE_ENV", "production");
    let mut process = Process::spawn(kind, command);
    process.line_with(" is ready");
    (process, address)
}
