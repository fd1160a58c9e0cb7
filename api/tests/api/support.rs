use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use api::auth::{Authenticator, TokenSettings};
use api::config::Settings;
use api::graphql::App;
use api::orders::{Item, PlaceOrder};
use api::relay::Queue;
use api::store;
use aws_config::SdkConfig;
use clap::Parser;
use iso_currency::Currency;
use pgtemp::{PgTempDB, PgTempDBBuilder};
use process::database;
use read_model::{Memory, ReadModel};
use sea_orm::DatabaseConnection;
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;
use winterbaume_core::{MockAws, MockService};
use winterbaume_sqs::SqsService;

pub const SECRET: &str = "a secret of at least thirty-two bytes";
pub const ALL: &str = "orders:place clients:read products:read";

/// A migrated database; a PostgreSQL server of its own is stopped when it is dropped.
pub struct Db {
    pub connection: DatabaseConnection,
    _server: Option<PgTempDB>,
}

pub async fn sqlite() -> Db {
    migrated("sqlite::memory:", None).await
}

pub async fn postgres() -> Db {
    let server = tokio::task::spawn_blocking(|| postgres_server().start()).await.unwrap();
    migrated(&server.connection_uri(), Some(server)).await
}

/// Debian keeps the servers' programs out of PATH.
fn postgres_server() -> PgTempDBBuilder {
    let newest = std::fs::read_dir("/usr/lib/postgresql").into_iter().flatten().flatten().map(|dir| dir.path()).max();
    let builder = PgTempDBBuilder::new();
    match newest.map(|dir: PathBuf| dir.join("bin")) {
        Some(programs) => builder.with_bin_path(programs),
        None => builder,
    }
}

async fn migrated(url: &str, server: Option<PgTempDB>) -> Db {
    let one = database::connect(url, 1, None).await.unwrap();
    migration::up(&one).await.unwrap();
    // SQLite in memory lives in its one connection.
    let connection = if server.is_some() { store::open(url, 16).await.unwrap() } else { one };
    Db { connection, _server: server }
}

pub fn command(client_id: i64, items: &[(i64, i32)], key: Option<&str>) -> PlaceOrder {
    let items = items.iter().map(|&(product_id, quantity)| Item { product_id, quantity }).collect();
    PlaceOrder { client_id, items, idempotency_key: key.map(Into::into), traceparent: None }
}

pub async fn sqs(service: impl MockService) -> SdkConfig {
    MockAws::builder().with_service(service).build().sdk_config("us-east-1").await
}

pub async fn queue(service: impl MockService) -> Queue {
    let aws = sqs(service).await;
    let created = aws_sdk_sqs::Client::new(&aws).create_queue().queue_name("orders").send().await.unwrap();
    Queue::new(&aws, created.queue_url.unwrap())
}

/// Settings as the process reads them.
pub fn settings(flags: &[&str]) -> Settings {
    #[derive(Parser)]
    struct Cli {
        #[command(flatten)]
        settings: Settings,
    }
    Cli::parse_from([&["test"], flags].concat()).settings
}

pub fn token_settings(flags: &[&str]) -> TokenSettings {
    settings(flags).tokens
}

/// An api that serves on a port of its own, until dropped.
pub struct Api {
    pub address: String,
    pub read_model: Arc<dyn ReadModel>,
    pub tokens: TokenSettings,
    http: reqwest::Client,
    shutdown: CancellationToken,
}

impl Drop for Api {
    fn drop(&mut self) {
        self.shutdown.cancel();
    }
}

impl Api {
    pub async fn start(db: &Db) -> Api {
        Api::start_with(db, &[]).await
    }

    /// With flags as the process takes them.
    pub async fn start_with(db: &Db, flags: &[&str]) -> Api {
        Api::start_on(db, Arc::new(Memory::default()), queue(SqsService::new()).await, flags).await
    }

    pub async fn start_on(db: &Db, read_model: Arc<dyn ReadModel>, queue: Queue, flags: &[&str]) -> Api {
        let settings = settings(&[&["--jwt-secret", SECRET, "--read-wait", "200ms"], flags].concat());
        let app = App {
            db: db.connection.clone(),
            read_model: read_model.clone(),
            relay: Arc::default(),
            currency: Currency::USD,
            read_wait: settings.read_wait,
        };
        let tokens = settings.tokens.clone();
        let authenticator = Authenticator::new(&tokens).await.unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = format!("http://{}", listener.local_addr().unwrap());
        let shutdown = CancellationToken::new();
        let token = shutdown.clone();
        tokio::spawn(async move {
            api::serve(listener, app, queue, authenticator, &settings.http, Some("page".into()), token).await
        });
        Api { address, read_model, tokens, http: reqwest::Client::new(), shutdown }
    }

    pub fn token(&self, scope: &str, client: Option<&str>) -> String {
        self.tokens.mint("tester", scope, client, Duration::from_secs(60)).unwrap()
    }

    pub fn request(&self) -> reqwest::RequestBuilder {
        self.http.post(format!("{}/graphql", self.address))
    }

    pub fn get(&self, path: &str) -> reqwest::RequestBuilder {
        self.http.get(format!("{}{path}", self.address))
    }

    /// The answer to a query with a token, or without when it is empty.
    pub async fn graphql(&self, token: &str, query: &str, variables: Value) -> Value {
        let mut request = self.request().json(&json!({ "query": query, "variables": variables }));
        if !token.is_empty() {
            request = request.bearer_auth(token);
        }
        request.send().await.unwrap().json().await.unwrap()
    }
}

pub fn code(answer: &Value) -> &str {
    answer["errors"][0]["extensions"]["code"].as_str().unwrap_or("none")
}
