//! Puts the parts of the api together, serves requests, and shuts down without losing any.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, bail, ensure};
use axum::Router;
use axum_server::Handle;
use axum_server::accept::Accept;
use hyper_util::rt::{TokioExecutor, TokioTimer};
use hyper_util::server::conn::auto::Builder;
use tokio::net::{TcpListener, TcpStream};
use tokio::time::{interval, timeout};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing::warn;

use crate::commands::master_data::MasterData;
use crate::commands::place_order::batcher::{self, Placing};
use crate::config::EdgeSettings;
use crate::edge::auth::Authenticator;
use crate::edge::documents::Documents;
use crate::edge::executor::Executor;
use crate::edge::pages;
use crate::edge::quota::ConcurrencyQuota;
use crate::edge::settings::SchemaExposure;
use crate::edge::{self, Edge};
use crate::graphql::{App, Shared, schema};
use crate::outbox::relay::{Queue, Relay};
use crate::queries::live::{Updates, live};
use crate::queries::sales_snapshots::Snapshots;

/// How long each may take to finish once `shutdown` was asked for: requests, then orders, then the relay.
const GRACE: Duration = Duration::from_secs(10);
/// How long a new connection may take for its first request's headers.
const FIRST_REQUEST: Duration = Duration::from_secs(10);
/// How long a client may leave unread what it was sent, before the system hangs up (Linux only).
#[cfg(target_os = "linux")]
const READ_TIMEOUT: Duration = Duration::from_secs(30);
/// How often callers that have been idle are forgotten.
const FORGET: Duration = Duration::from_secs(60);

/// An api that is ready to serve.
pub struct Service {
    edge: Arc<Edge>,
    placing: Placing,
    relay: Relay,
    updates: Updates,
    snapshots: Arc<Snapshots>,
}

impl Service {
    /// # Errors
    /// When the settings contradict each other, or the trusted documents cannot be used.
    pub fn new(
        app: App,
        queue: Queue,
        authenticator: Authenticator,
        settings: EdgeSettings,
        exposure: SchemaExposure,
        draining: CancellationToken,
    ) -> anyhow::Result<Service> {
        let EdgeSettings { http, documents, limits } = settings;
        ensure!(
            app.read_wait < limits.operation_timeout,
            "READ_WAIT ({:?}) must be shorter than OPERATION_TIMEOUT ({:?})",
            app.read_wait,
            limits.operation_timeout
        );
        let (relay, outgoing) = Relay::new(app.db.clone(), queue.clone());
        let master_data = MasterData::new(app.db.clone(), app.currency, outgoing.clone());
        let (orders, placing) = batcher::orders(app.db.clone(), app.currency, outgoing);
        let (live, updates) = live(app.read_model.clone());
        let snapshots = Snapshots::new(app.read_model.clone());
        let shared = Shared { app: app.clone(), orders, master_data, live, snapshots: snapshots.clone() };
        let schema = schema(Some(shared));
        let introspection = exposure.allows_introspection();
        let mut documents = Documents::new(&schema.sdl(), limits.clone(), &documents, introspection)?;
        if let Some(manifest) = http.dashboard.then(pages::manifest).flatten() {
            documents.add_built_in(&manifest).context("the documents of the dashboard")?;
        }
        let executor = Arc::new(Executor::new(schema, documents, limits.clone()));
        let edge = Arc::new(Edge {
            executor,
            app,
            queue,
            authenticator,
            settings: http,
            exposure,
            connections: ConcurrencyQuota::new(limits.max_live_connections, limits.max_live_connections_per_caller),
            limits,
            sockets: TaskTracker::new(),
            draining,
            shutdown: CancellationToken::new(),
        });
        Ok(Service { edge, placing, relay, updates, snapshots })
    }

    /// What answers requests. They need the address of their sender: [`axum::extract::ConnectInfo`].
    pub fn router(&self) -> Router {
        edge::router(self.edge.clone())
    }

    /// Serves until it is stopping: then says that it is not ready, and goes on for the drain delay, so that a load balancer
    /// looks elsewhere; takes no more connections, finishes the requests it has, closes streams, places the orders that
    /// wait, and publishes what is left in the outbox.
    ///
    /// # Errors
    /// When a part of it stops although nobody asked for that.
    pub async fn serve(self, listener: TcpListener) -> anyhow::Result<()> {
        let handle = Handle::new();
        let server = axum_server::from_tcp(listener.into_std()?)?.handle(handle.clone()).acceptor(Accepting);
        let mut server = server.first_request_timeout(FIRST_REQUEST);
        let mut http = Builder::new(TokioExecutor::new()).http1_only();
        http.http1().timer(TokioTimer::new()).header_read_timeout(self.edge.settings.idle_timeout);
        *server.http_builder() = http;
        let router = self.router().into_make_service_with_connect_info::<SocketAddr>();

        let Service { edge, placing, relay, updates, snapshots } = self;
        let stopped = async {
            edge.draining.cancelled().await;
            tokio::time::sleep(edge.settings.drain_delay).await;
        };
        tokio::pin!(stopped);
        let (served_all, drained) = (CancellationToken::new(), CancellationToken::new());
        let mut server = tokio::spawn(server.serve(router));
        let mut placing = tokio::spawn(placing.run(served_all.clone()));
        let mut relay = tokio::spawn(relay.run(drained.clone()));
        let mut updates = tokio::spawn(updates.run(drained.clone()));
        let mut snapshots = tokio::spawn(snapshots.run(drained.clone()));
        let mut forget = interval(FORGET);
        loop {
            tokio::select! {
                () = &mut stopped => break,
                _ = forget.tick() => edge.executor.remove_idle_callers(),
                ended = &mut server => bail!("the HTTP server stopped: {ended:?}"),
                ended = &mut placing => bail!("placing orders stopped: {ended:?}"),
                ended = &mut relay => bail!("the outbox relay stopped: {ended:?}"),
                ended = &mut updates => bail!("following changes stopped: {ended:?}"),
                ended = &mut snapshots => bail!("telling what is sold stopped: {ended:?}"),
            }
        }
        edge.shutdown.cancel();
        handle.graceful_shutdown(Some(GRACE));
        let (served, _) = tokio::join!(server, timeout(GRACE, edge.sockets_closed()));
        served?.context("the HTTP server failed")?;
        served_all.cancel();
        if timeout(GRACE, placing).await.is_err() {
            warn!("some orders were not placed: the database did not answer");
        }
        drained.cancel();
        if timeout(GRACE, relay).await.is_err() {
            warn!("some events are not published yet; they wait in the outbox");
        }
        Ok(())
    }
}

/// Sets up each connection.
#[derive(Clone)]
struct Accepting;

impl<S> Accept<TcpStream, S> for Accepting {
    type Stream = TcpStream;
    type Service = S;
    type Future = std::future::Ready<std::io::Result<(TcpStream, S)>>;

    fn accept(&self, stream: TcpStream, service: S) -> Self::Future {
        let set_up = || {
            stream.set_nodelay(true)?;
            #[cfg(target_os = "linux")]
            socket2::SockRef::from(&stream).set_tcp_user_timeout(Some(READ_TIMEOUT))?;
            Ok(())
        };
        std::future::ready(set_up().map(|()| (stream, service)))
    }
}
