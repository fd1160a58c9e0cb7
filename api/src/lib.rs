//! Commands in, queries out.
//!
//! - [`http`]: the edge: requests, tokens, health; `limits`: what a document may ask for
//! - [`graphql`]: the schema and its resolvers; [`error`]: what they may fail with
//! - [`auth`]: who is asking
//! - [`orders`]: placing orders, into the [`store`]
//! - [`relay`]: the outbox, from the store to the queue
//! - [`config`]: the settings
//!
//! [`serve`] puts them together; `main.rs` connects the stores and calls it.

pub mod auth;
pub mod config;
pub mod error;
pub mod graphiql;
pub mod graphql;
pub mod http;
mod limits;
pub mod orders;
pub mod relay;
pub mod store;

use std::future::IntoFuture;
use std::time::Duration;

use anyhow::{Context, bail};
use tokio::net::TcpListener;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;
use tracing::warn;

use crate::auth::Authenticator;
use crate::graphql::App;
use crate::http::HttpSettings;
use crate::relay::{Queue, Relay};

/// How long requests, and then the relay, may take to finish once `shutdown` was asked for.
const GRACE: Duration = Duration::from_secs(10);

/// Serves until `shutdown`: then takes no more connections, finishes the requests it has, and publishes their events.
///
/// # Errors
/// When a part of it stops although nobody asked for that.
pub async fn serve(
    listener: TcpListener,
    app: App,
    queue: Queue,
    authenticator: Authenticator,
    http: &HttpSettings,
    graphiql: Option<String>,
    shutdown: CancellationToken,
) -> anyhow::Result<()> {
    let drained = CancellationToken::new();
    let relay = Relay { db: app.db.clone(), queue: queue.clone(), wake: app.relay.clone() };
    let mut relay = tokio::spawn(relay.run(drained.clone()));
    let router = http::router(app, queue, authenticator, http, graphiql);
    let server = axum::serve(listener, router).with_graceful_shutdown(shutdown.clone().cancelled_owned());
    let server_until_grace_ends = async {
        let grace_ends = async {
            shutdown.cancelled().await;
            tokio::time::sleep(GRACE).await;
        };
        tokio::select! {
            ended = server.into_future() => ended.context("the HTTP server failed"),
            () = grace_ends => Ok(()),
        }
    };
    tokio::select! {
        ended = server_until_grace_ends => ended?,
        ended = &mut relay => bail!("the outbox relay stopped: {ended:?}"),
    }
    drained.cancel();
    match timeout(GRACE, relay).await {
        Ok(ended) => ended.context("the outbox relay failed"),
        Err(_) => {
            warn!("some events are not published yet; they wait in the outbox");
            Ok(())
        }
    }
}
