//! Starters of the api on real stores, and clients of it.

use test_support::log_reader;
use test_support::postgres::{self, PostgresDatabase};
use test_support::redis::Redis as RedisServer;
use test_support::sqs;

use std::sync::Arc;
use std::time::Duration;

use api::commands::Origin;
use api::commands::place_order::{Item, Outcome, PlaceOrder};
use api::config::Settings;
use api::edge::auth::{Authenticator, TokenSettings};
use api::edge::pages::tokens::PageTokens;
use api::edge::settings::SchemaExposure;
use api::outbox::relay::{Publisher, Queue};
use api::{Backend, Service};
use aws_config::SdkConfig;
use clap::Parser;
use entity::{Event, OrderPlaced, order_event, outbox};
use futures::{SinkExt, StreamExt};
use iso_currency::Currency;
use read_model::{Memory, Projection, ReadModel, Redis};
use reqwest::header::{AUTHORIZATION, HeaderMap, HeaderValue};
use runtime::database;
use sea_orm::{ColumnTrait, DatabaseConnection, EntityTrait, QueryFilter};
use serde_json::{Value, json};
pub use test_support::until;
pub use test_support::user::{ALL_SCOPES, SECRET};
use tokio::io::AsyncWriteExt;
use tokio::net::{TcpListener, TcpStream};
use tokio_tungstenite::tungstenite::client::IntoClientRequest;
use tokio_tungstenite::tungstenite::{self, Message};
use tokio_tungstenite::{MaybeTlsStream, WebSocketStream, connect_async};
use tokio_util::sync::CancellationToken;

/// A migrated database of its own, with the sample data.
pub struct Db {
    pub connection: DatabaseConnection,
    _postgres: Option<PostgresDatabase>,
}

pub async fn sqlite() -> Db {
    migrated("sqlite::memory:", None).await
}

pub async fn postgres() -> Db {
    let database = postgres::database().await;
    let url = database.url.clone();
    migrated(&url, Some(database)).await
}

/// On a server of its own, for tests that measure the server.
pub async fn postgres_alone() -> Db {
    let database = postgres::database_alone().await;
    let url = database.url.clone();
    migrated(&url, Some(database)).await
}

/// With a slot for a reader of the write-ahead log.
pub async fn postgres_with_slot() -> Db {
    let database = postgres::database_with_logical_log().await;
    let url = database.url.clone();
    let db = migrated(&url, Some(database)).await;
    log_reader::create_slot(&db.connection).await;
    db
}

impl Db {
    /// A database that something else keeps.
    pub fn on(connection: DatabaseConnection) -> Db {
        Db { connection, _postgres: None }
    }
}

/// Migrates a database and inserts the sample data, whose events count as published.
pub async fn migrate(url: &str) -> DatabaseConnection {
    let one = database::connect(url, 1, None).await.unwrap();
    migration::up(&one).await.unwrap();
    migration::sample_data(&one, "USD").await.unwrap();
    outbox::Entity::delete_many().exec(&one).await.unwrap();
    one
}

/// Opens a database as the api does.
pub async fn open(url: &str) -> DatabaseConnection {
    api::commands::database::open(url, 16, Currency::USD).await.unwrap()
}

async fn migrated(url: &str, postgres: Option<PostgresDatabase>) -> Db {
    let one = migrate(url).await;
    // A SQLite database in memory ends with its only connection.
    let connection = if postgres.is_some() { open(url).await } else { one };
    Db { connection, _postgres: postgres }
}

/// The event of an order that was placed, now or before.
pub fn placed(outcome: Outcome) -> Event<OrderPlaced> {
    match outcome {
        Outcome::Placed(event) | Outcome::Replayed(event) => event,
        Outcome::Rejected(rejections) => panic!("{rejections:?}"),
    }
}

pub fn command(client_id: i64, items: &[(i64, i32)], key: Option<&str>) -> PlaceOrder {
    let items = items.iter().map(|&(id, quantity)| Item { product_id: Some(id), quantity }).collect();
    PlaceOrder { client_id: Some(client_id), items, idempotency_key: key.map(Into::into), origin: Origin::default() }
}

/// A Redis server of its own, and the read model on it.
pub async fn redis() -> (RedisServer, Arc<Redis>) {
    let server = RedisServer::start().await;
    let redis = Redis::connect(&server.url, 16, Currency::USD).await.unwrap();
    (server, Arc::new(redis))
}

/// A queue on an embedded SQS.
pub async fn queue() -> Queue {
    queue_on(sqs::embedded().await).await
}

/// A queue on the SQS of this configuration.
pub async fn queue_on(aws: SdkConfig) -> Queue {
    let created = aws_sdk_sqs::Client::new(&aws).create_queue().queue_name("orders").send().await.unwrap();
    Queue::new(&aws, created.queue_url.unwrap())
}

/// Settings, from flags as the process takes them.
pub fn settings(flags: &[&str]) -> Settings {
    #[derive(Parser)]
    #[command(args_override_self = true)]
    struct Cli {
        #[command(flatten)]
        settings: Settings,
    }
    Cli::parse_from([&["test"], flags].concat()).settings
}

/// The pages, with `of-the-page` as the token of the developer.
pub fn exposure() -> SchemaExposure {
    let settings = token_settings(&["--jwt-secret", SECRET]);
    SchemaExposure::Graphiql { tokens: Some(PageTokens::new("of-the-page".into(), settings)) }
}

pub fn token_settings(flags: &[&str]) -> TokenSettings {
    settings(flags).tokens
}

/// Applies the events of products, as the projector does.
pub async fn project_products(db: &Db, read_model: &dyn Projection) {
    let of_products = order_event::Entity::find().filter(order_event::Column::ProductId.is_not_null());
    let rows = of_products.all(&db.connection).await.unwrap();
    let events: Vec<Event> = rows.into_iter().map(|row| Event::from_row(row, "USD").unwrap()).collect();
    assert!(read_model.apply(&events).await.iter().all(Result::is_ok));
}

/// An api that serves on a port of its own until it is dropped.
pub struct Api {
    pub address: String,
    pub read_model: Arc<dyn ReadModel>,
    pub tokens: TokenSettings,
    /// Sends a token with all scopes if a request has none.
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
        let memory = Arc::new(Memory::default());
        project_products(db, &*memory).await;
        Api::start_on(db, memory, queue().await, flags).await
    }

    pub async fn start_on(
        db: &Db,
        read_model: Arc<dyn ReadModel>,
        publisher: impl Into<Publisher>,
        flags: &[&str],
    ) -> Api {
        Api::start_exposing(db, read_model, publisher, flags, exposure()).await
    }

    /// With this access to introspection and the pages.
    pub async fn start_exposing(
        db: &Db,
        read_model: Arc<dyn ReadModel>,
        publisher: impl Into<Publisher>,
        flags: &[&str],
        exposure: SchemaExposure,
    ) -> Api {
        let settings = settings(&[&["--jwt-secret", SECRET, "--read-wait", "200ms"], flags].concat());
        let backend = Backend {
            db: db.connection.clone(),
            read_model: read_model.clone(),
            currency: Currency::USD,
            read_wait: settings.read_wait,
            cancel_window: settings.cancel_window,
            publication: settings.publication(),
        };
        let tokens = settings.tokens.clone();
        let authenticator = Authenticator::new(&tokens).await.unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = format!("http://{}", listener.local_addr().unwrap());
        let shutdown = CancellationToken::new();
        let edge = settings.edge;
        let service = Service::new(backend, publisher, authenticator, edge, exposure, shutdown.clone()).unwrap();
        tokio::spawn(service.serve(listener));
        let token = tokens.mint("tester", ALL_SCOPES, None, Duration::from_secs(3_600)).unwrap();
        let authorization = HeaderValue::from_str(&format!("Bearer {token}")).unwrap();
        let headers = HeaderMap::from_iter([(AUTHORIZATION, authorization)]);
        let http = reqwest::Client::builder().default_headers(headers).build().unwrap();
        Api { address, read_model, tokens, http, shutdown }
    }

    /// Does what SIGTERM does.
    pub fn stop(&self) {
        self.shutdown.cancel();
    }

    pub fn token(&self, scope: &str, client: Option<&str>) -> String {
        self.tokens.mint("tester", scope, client, Duration::from_secs(60)).unwrap()
    }

    pub fn request(&self) -> reqwest::RequestBuilder {
        self.http.post(format!("{}/graphql", self.address))
    }

    pub fn anonymous_request(&self) -> reqwest::RequestBuilder {
        reqwest::Client::new().post(format!("{}/graphql", self.address))
    }

    pub fn get(&self, path: &str) -> reqwest::RequestBuilder {
        self.http.get(format!("{}{path}", self.address))
    }

    /// The response to a query with a token, or without one when it is empty.
    pub async fn graphql(&self, token: &str, query: &str, variables: Value) -> Value {
        let request = match token {
            "" => self.anonymous_request(),
            token => self.request().bearer_auth(token),
        };
        let request = request.json(&json!({ "query": query, "variables": variables }));
        request.send().await.unwrap().json().await.unwrap()
    }
}

/// The code of the first error; `none` without errors.
pub fn code(response: &Value) -> &str {
    response["errors"][0]["extensions"]["code"].as_str().unwrap_or("none")
}

pub const PLACE: &str = "mutation ($input: PlaceOrderInput!) { placeOrder(input: $input) {
    order { id clientId placedAt total { amount currencyCode } items { productId name unitPrice { amount } quantity lineTotal { amount } } }
    clientVersion replayed userErrors { code message field } } }";

pub fn order(client: &str, items: &[(&str, i32)], key: Option<&str>) -> Value {
    let items: Vec<Value> =
        items.iter().map(|(id, quantity)| json!({ "productId": id, "quantity": quantity })).collect();
    json!({ "input": { "clientId": client, "items": items, "idempotencyKey": key } })
}

/// The client's end of a WebSocket.
pub struct Socket(WebSocketStream<MaybeTlsStream<TcpStream>>);

impl Socket {
    /// Opens a WebSocket, or returns the status of the response that refuses it.
    pub async fn open(api: &Api, headers: &[(&'static str, &str)]) -> Result<Socket, u16> {
        let mut request = api.address.replace("http:", "ws:").into_client_request().unwrap();
        *request.uri_mut() = format!("{}/graphql", request.uri().to_string().trim_end_matches('/')).parse().unwrap();
        for (name, value) in headers {
            request.headers_mut().insert(*name, value.parse().unwrap());
        }
        match connect_async(request).await {
            Ok((socket, _)) => Ok(Socket(socket)),
            Err(tungstenite::Error::Http(response)) => Err(response.status().as_u16()),
            Err(error) => panic!("{error}"),
        }
    }

    /// Opens a WebSocket and waits for `connection_ack`.
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

    /// Sends bytes that are no frame of the library.
    pub async fn send_bytes(&mut self, bytes: &[u8]) {
        self.0.get_mut().write_all(bytes).await.unwrap();
    }

    pub async fn subscribe(&mut self, id: &str, query: &str) {
        self.send(json!({ "id": id, "type": "subscribe", "payload": { "query": query } })).await;
    }

    async fn next(&mut self) -> Message {
        let next = tokio::time::timeout(Duration::from_secs(60), self.0.next()).await;
        next.expect("no message arrives").expect("the stream has ended").unwrap()
    }

    pub async fn receive(&mut self) -> Value {
        serde_json::from_str(&self.receive_text().await).unwrap()
    }

    /// The next message that is no ping.
    pub async fn receive_text(&mut self) -> String {
        self.closed_or_text().await.unwrap_or_else(|code| panic!("closed with {code}"))
    }

    /// Waits until the server closes the socket, and returns the close code.
    pub async fn closed(&mut self) -> u16 {
        loop {
            if let Err(code) = self.closed_or_text().await {
                return code;
            }
        }
    }

    /// The next message that is no ping, or the code with which the server closes the socket.
    pub async fn closed_or_text(&mut self) -> Result<String, u16> {
        loop {
            match self.next().await {
                Message::Close(frame) => return Err(frame.expect("a close has a code").code.into()),
                Message::Text(text) => return Ok(text.to_string()),
                Message::Ping(_) => {}
                other => panic!("{other:?}"),
            }
        }
    }

    /// Waits for a ping.
    pub async fn pinged(&mut self) {
        while !matches!(self.next().await, Message::Ping(_)) {}
    }
}

pub const PROTOCOL: (&str, &str) = ("sec-websocket-protocol", "graphql-transport-ws");
