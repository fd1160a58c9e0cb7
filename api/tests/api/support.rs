use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use api::Service;
use api::commands::place_order::{Item, PlaceOrder};
use api::config::Settings;
use api::edge::auth::{Authenticator, TokenSettings};
use api::edge::pages::graphiql::Exploring;
use api::graphql::App;
use api::outbox::relay::Queue;
use aws_config::SdkConfig;
use clap::Parser;
use futures::{SinkExt, StreamExt};
use iso_currency::Currency;
use pgtemp::{PgTempDB, PgTempDBBuilder};
use read_model::{Memory, ReadModel, Redis};
use redis_test::server::RedisServer;
use runtime::database;
use sea_orm::DatabaseConnection;
use serde_json::{Value, json};
use tokio::net::{TcpListener, TcpStream};
use tokio_tungstenite::tungstenite::client::IntoClientRequest;
use tokio_tungstenite::tungstenite::{self, Message};
use tokio_tungstenite::{MaybeTlsStream, WebSocketStream, connect_async};
use tokio_util::sync::CancellationToken;
use winterbaume_core::{MockAws, MockService};
use winterbaume_sqs::SqsService;

pub const SECRET: &str = "a secret of at least thirty-two bytes";
pub const ALL: &str = "orders:place clients:read clients:write products:read products:write sales:read";

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
    let connection = if server.is_some() { api::commands::database::open(url, 16).await.unwrap() } else { one };
    Db { connection, _server: server }
}

pub fn command(client_id: i64, items: &[(i64, i32)], key: Option<&str>) -> PlaceOrder {
    let items = items.iter().map(|&(product_id, quantity)| Item { product_id, quantity }).collect();
    PlaceOrder { client_id, items, idempotency_key: key.map(Into::into), traceparent: None }
}

/// A Redis server of its own, stopped when it is dropped.
pub async fn redis() -> (RedisServer, Arc<Redis>) {
    let server = RedisServer::new();
    let (host, port) = server.host_and_port().unwrap();
    let url = format!("redis://{host}:{port}");
    loop {
        match Redis::connect(&url, 16, Currency::USD).await {
            Ok(redis) => return (server, Arc::new(redis)),
            Err(_) => tokio::time::sleep(Duration::from_millis(10)).await,
        }
    }
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
    #[command(args_override_self = true)]
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
    pub http: reqwest::Client,
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
        let exploring = Exploring::Graphiql { token: Some("of-the-page".into()) };
        Api::start_exploring(db, read_model, queue, flags, exploring).await
    }

    /// Where exploring is as given.
    pub async fn start_exploring(
        db: &Db,
        read_model: Arc<dyn ReadModel>,
        queue: Queue,
        flags: &[&str],
        exploring: Exploring,
    ) -> Api {
        let settings = settings(&[&["--jwt-secret", SECRET, "--read-wait", "200ms"], flags].concat());
        let app = App {
            db: db.connection.clone(),
            read_model: read_model.clone(),
            currency: Currency::USD,
            read_wait: settings.read_wait,
        };
        let tokens = settings.tokens.clone();
        let authenticator = Authenticator::new(&tokens).await.unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = format!("http://{}", listener.local_addr().unwrap());
        let shutdown = CancellationToken::new();
        let edge = settings.edge;
        let service = Service::new(app, queue, authenticator, edge, exploring, shutdown.clone()).unwrap();
        tokio::spawn(service.serve(listener));
        Api { address, read_model, tokens, http: reqwest::Client::new(), shutdown }
    }

    /// What SIGTERM does.
    pub fn stop(&self) {
        self.shutdown.cancel();
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

pub const PLACE: &str = "mutation ($input: PlaceOrderInput!) { placeOrder(input: $input) {
    order { id clientId placedAt total { amount currencyCode } items { productId name unitPrice { amount } quantity lineTotal { amount } } }
    clientVersion replayed userErrors { code message field } } }";

pub fn order(client: &str, items: &[(&str, i32)], key: Option<&str>) -> Value {
    let items: Vec<Value> =
        items.iter().map(|(id, quantity)| json!({ "productId": id, "quantity": quantity })).collect();
    json!({ "input": { "clientId": client, "items": items, "idempotencyKey": key } })
}

/// Waits for a condition.
pub async fn until(what: &str, mut condition: impl AsyncFnMut() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(60);
    while !condition().await {
        assert!(Instant::now() < deadline, "never: {what}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

/// One end of a WebSocket.
pub struct Socket(WebSocketStream<MaybeTlsStream<TcpStream>>);

impl Socket {
    /// Opens a WebSocket; or tells the status that was answered instead.
    pub async fn open(api: &Api, headers: &[(&'static str, &str)]) -> Result<Socket, u16> {
        let mut request = api.address.replace("http:", "ws:").into_client_request().unwrap();
        *request.uri_mut() = format!("{}/graphql", request.uri().to_string().trim_end_matches('/')).parse().unwrap();
        for (name, value) in headers {
            request.headers_mut().insert(*name, value.parse().unwrap());
        }
        match connect_async(request).await {
            Ok((socket, _)) => Ok(Socket(socket)),
            Err(tungstenite::Error::Http(answer)) => Err(answer.status().as_u16()),
            Err(error) => panic!("{error}"),
        }
    }

    /// One that has been acknowledged.
    pub async fn acknowledged(api: &Api, token: &str) -> Socket {
        let mut socket = Socket::open(api, &[PROTOCOL]).await.unwrap();
        let payload = json!({ "Authorization": format!("Bearer {token}") });
        socket.send(json!({ "type": "connection_init", "payload": payload })).await;
        assert_eq!(socket.receive().await, json!({ "type": "connection_ack" }));
        socket
    }

    pub async fn send(&mut self, message: Value) {
        self.send_text(&message.to_string()).await;
    }

    pub async fn send_text(&mut self, text: &str) {
        self.0.send(Message::text(text)).await.unwrap();
    }

    pub async fn subscribe(&mut self, id: &str, query: &str) {
        self.send(json!({ "id": id, "type": "subscribe", "payload": { "query": query } })).await;
    }

    async fn next(&mut self) -> Message {
        let next = tokio::time::timeout(Duration::from_secs(60), self.0.next()).await;
        next.expect("nothing comes").expect("it has ended").unwrap()
    }

    pub async fn receive(&mut self) -> Value {
        serde_json::from_str(&self.receive_text().await).unwrap()
    }

    /// The next message, whatever pings come before.
    pub async fn receive_text(&mut self) -> String {
        loop {
            match self.next().await {
                Message::Text(text) => return text.to_string(),
                Message::Ping(_) => {}
                other => panic!("{other:?}"),
            }
        }
    }

    /// The code with which the server closes it.
    pub async fn closed(&mut self) -> u16 {
        loop {
            match self.next().await {
                Message::Close(frame) => return frame.expect("a close has a code").code.into(),
                Message::Text(_) | Message::Ping(_) => {}
                other => panic!("{other:?}"),
            }
        }
    }

    pub async fn pinged(&mut self) {
        while !matches!(self.next().await, Message::Ping(_)) {}
    }
}

pub const PROTOCOL: (&str, &str) = ("sec-websocket-protocol", "graphql-transport-ws");
