//! Assembles the parts of the api, serves requests, and drains without losing any.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, anyhow, ensure};
use axum::Router;
use futures::FutureExt;
use futures::future::{Fuse, FusedFuture};
use iso_currency::Currency;
use read_model::Queries;
use runtime::http;
use sea_orm::DatabaseConnection;
use tokio::net::TcpListener;
use tokio::task::JoinHandle;
use tokio::time::{interval, sleep, timeout};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing::{error, warn};

use crate::commands::Commands;
use crate::commands::place_order::batcher::{OrderBatcher, order_queue};
use crate::config::EdgeSettings;
use crate::connections::{ConnectionQuotas, Pool};
use crate::edge::auth::Authenticator;
use crate::edge::body;
use crate::edge::documents::Documents;
use crate::edge::executor::Executor;
use crate::edge::pages;
use crate::edge::quota::ConcurrencyQuota;
use crate::edge::settings::SchemaExposure;
use crate::edge::websocket;
use crate::edge::{self, Edge};
use crate::graphql::{App, schema, subgraph};
use crate::metrics;
use crate::orders::by_id::OrdersById;
use crate::orders::client_reports::ClientReports;
use crate::orders::lines::OrderLines;
use crate::orders::of_clients::OrdersOfClients;
use crate::outbox::log_tailing::Publication;
use crate::outbox::relay::{Publisher, Relay};
use crate::queries::catalogue::Catalogue;
use crate::queries::clients::Clients;
use crate::queries::live::{LiveUpdates, live};
use crate::queries::reports::Reports;
use crate::queries::sales_snapshots::SalesSnapshots;
use crate::system::System;

/// Time for each stage of the shutdown: active requests, then waiting orders, then the outbox relay.
const GRACE: Duration = Duration::from_secs(10);
/// Interval at which the rate limits of idle callers are removed from memory.
const IDLE_CALLERS_INTERVAL: Duration = Duration::from_secs(60);

/// The stores behind the api, and how they are used.
pub struct Backend {
    pub db: DatabaseConnection,
    pub read_model: Arc<dyn Queries>,
    /// The currency of all amounts.
    pub currency: Currency,
    /// The longest wait of `client(minVersion:)`.
    pub read_wait: Duration,
    /// How long after it was placed an order can be cancelled.
    pub cancel_window: Option<Duration>,
    pub publication: Publication,
}

/// An api that is ready to serve.
pub struct Service {
    edge: Arc<Edge>,
    max_connections: usize,
    background: Background,
}

/// What runs beside the requests.
struct Background {
    batcher: OrderBatcher,
    relay: Relay,
    live_updates: LiveUpdates,
    sales_snapshots: Arc<SalesSnapshots>,
}

impl Service {
    /// # Errors
    /// When the settings contradict each other, or a trusted document is refused.
    pub fn new(
        backend: Backend,
        publisher: impl Into<Publisher>,
        authenticator: Authenticator,
        settings: EdgeSettings,
        exposure: SchemaExposure,
        draining: CancellationToken,
    ) -> anyhow::Result<Service> {
        let EdgeSettings { http, documents, limits } = settings;
        ensure!(
            backend.read_wait < limits.operation_timeout,
            "READ_WAIT ({:?}) must be shorter than OPERATION_TIMEOUT ({:?})",
            backend.read_wait,
            limits.operation_timeout
        );
        let max_connections = limits.max_connections()?;
        let (app, background) = assemble(backend, publisher.into());
        let schema = if http.federation { subgraph(Some(app.clone())) } else { schema(Some(app.clone())) };
        let introspection = exposure.allows_introspection();
        let mut documents = Documents::new(&schema.sdl(), limits.clone(), &documents, introspection)?;
        if let Some(manifest) = http.dashboard.then(pages::manifest).flatten() {
            documents.add_built_in(&manifest).context("a limit is too small for the pages /admin and /shop")?;
        }
        let connections = ConnectionQuotas::new(&Pool::of(&app.db));
        let executor = Arc::new(Executor::new(schema, documents, limits.clone(), connections));
        let edge = Arc::new(Edge {
            executor,
            app,
            authenticator,
            settings: http,
            exposure,
            connections: ConcurrencyQuota::new(limits.max_live_connections, limits.max_live_connections_per_caller),
            bodies: ConcurrencyQuota::lasting(body::MEMORY.max(limits.max_body_bytes), limits.max_body_bytes),
            socket_memory: websocket::memory(&limits),
            // Nobody knows yet who has opened them.
            uninitialised: ConcurrencyQuota::new(
                limits.max_live_connections.div_ceil(10),
                limits.max_live_connections_per_caller.div_ceil(10),
            ),
            limits,
            sockets: TaskTracker::new(),
            draining,
            shutdown: CancellationToken::new(),
        });
        Ok(Service { edge, max_connections, background })
    }

    /// The routes. Requests need the address of their sender: [`axum::extract::ConnectInfo`].
    pub fn router(&self) -> Router {
        edge::router(self.edge.clone())
    }

    /// Serves until `draining` is cancelled or a part fails. Then `/health/ready` returns 503 for the drain delay, so that
    /// load balancers stop sending requests. After that it accepts no connections, finishes active requests, closes streams,
    /// places waiting orders, and publishes the rest of the outbox.
    ///
    /// # Errors
    /// When a part stopped by itself. The other parts have drained first.
    pub async fn serve(self, listener: TcpListener) -> anyhow::Result<()> {
        let router = self.router();
        let Service { edge, max_connections, background } = self;
        metrics::observe(&edge.app.db, &edge.app.system.publisher);
        let Background { batcher, relay, live_updates, sales_snapshots } = background;
        let limits = http::Limits { idle_timeout: edge.settings.idle_timeout, max_connections };
        let server = http::serve(listener, router, limits, edge.shutdown.clone());
        let (requests_done, orders_done) = (CancellationToken::new(), CancellationToken::new());
        let server = tokio::spawn(server);
        let close_connections = server.abort_handle();
        let mut server = server.fuse();
        let mut orders = tokio::spawn(batcher.run(requests_done.clone())).fuse();
        let mut relay = tokio::spawn(relay.run(orders_done.clone())).fuse();
        let mut live_updates = tokio::spawn(live_updates.run(orders_done.clone()));
        let mut sales_snapshots = tokio::spawn(sales_snapshots.run(orders_done.clone()));
        let drained = async {
            edge.draining.cancelled().await;
            sleep(edge.settings.drain_delay).await;
        };
        let failure = tokio::select! {
            () = drained => None,
            never = remove_idle_callers(&edge) => match never {},
            ended = &mut server => Some(anyhow!("the HTTP server stopped: {ended:?}")),
            ended = &mut orders => Some(anyhow!("the order batcher stopped: {ended:?}")),
            ended = &mut relay => Some(anyhow!("the outbox relay stopped: {ended:?}")),
            ended = &mut live_updates => Some(anyhow!("the live updates stopped: {ended:?}")),
            ended = &mut sales_snapshots => Some(anyhow!("the sales snapshots stopped: {ended:?}")),
        };
        if let Some(failure) = &failure {
            error!("shutting down: {failure}");
            edge.draining.cancel();
            sleep(edge.settings.drain_delay).await;
        }

        edge.shutdown.cancel();
        let _ = tokio::join!(finishes(server), timeout(GRACE, edge.sockets_closed()));
        close_connections.abort();
        requests_done.cancel();
        if !finishes(orders).await {
            warn!("some orders were not placed: the database did not respond");
        }
        orders_done.cancel();
        if !finishes(relay).await {
            warn!("some events are not published yet: they stay in the outbox");
        }
        failure.map_or(Ok(()), Err)
    }
}

/// Connects what resolvers use with the stores.
fn assemble(backend: Backend, publisher: Publisher) -> (App, Background) {
    let Backend { db, read_model, currency, read_wait, cancel_window, publication } = backend;
    let system = System::new(db.clone(), read_model.clone(), currency, publisher.clone());
    let (relay, outgoing) = Relay::new(db.clone(), publisher);
    let relay = relay.with_publication(publication);
    let (orders, batcher) = order_queue(db.clone(), currency, publication, outgoing.clone());
    let (live_clients, live_updates) = live(read_model.clone());
    let sales_snapshots = SalesSnapshots::new(read_model.clone());
    let app = App {
        currency,
        read_wait,
        cancel_window,
        commands: Commands::new(db.clone(), currency, publication, outgoing),
        orders_by_id: Arc::new(OrdersById::new(db.clone())),
        orders_of_clients: Arc::new(OrdersOfClients::new(db.clone())),
        order_lines: Arc::new(OrderLines::new(db.clone())),
        client_reports: Arc::new(ClientReports::new(db.clone())),
        db,
        orders,
        catalogue: Arc::new(Catalogue::new(read_model.clone())),
        clients: Arc::new(Clients::new(read_model.clone(), live_clients.clone())),
        reports: Arc::new(Reports::new(read_model.clone())),
        read_model,
        live_clients,
        sales_snapshots: sales_snapshots.clone(),
        system: Arc::new(system),
        checks: Arc::default(),
    };
    (app, Background { batcher, relay, live_updates, sales_snapshots })
}

async fn remove_idle_callers(edge: &Edge) -> Infallible {
    let mut ticks = interval(IDLE_CALLERS_INTERVAL);
    loop {
        ticks.tick().await;
        edge.executor.remove_idle_callers();
    }
}

/// Whether a task that was asked to stop has stopped within the grace period.
async fn finishes<T>(task: Fuse<JoinHandle<T>>) -> bool {
    task.is_terminated() || timeout(GRACE, task).await.is_ok()
}
