//! GraphQL over WebSocket, sub-protocol `graphql-transport-ws`:
//! <https://github.com/enisdenjo/graphql-ws/blob/master/PROTOCOL.md>.
//!
//! - [`protocol`]: messages and close codes
//! - [`connection`]: one open WebSocket; [`operation`]: one operation on it

mod connection;
mod operation;
mod protocol;

use std::net::SocketAddr;
use std::sync::Arc;

use axum::extract::ws::WebSocketUpgrade;
use axum::http::header::{HOST, ORIGIN};
use axum::http::{HeaderMap, StatusCode};
use axum::response::Response;
use runtime::http::stream::Received;
use runtime::logging::LogContext;

use self::connection::{Connection, Permits};
use super::Edge;
use super::documents::limits::LimitSettings;
use super::executor::VALIDATION_COST;
use super::graphql_http::charge_refused;
use super::quota::{ConcurrencyQuota, QuotaKey};
use super::refusal::Refusal;

/// Initial size of the buffers in bytes. Most connections are idle, and buffers grow on demand.
const BUFFER_SIZE: usize = 1024;
/// Memory for the buffers of all WebSockets with large messages, in bytes. One caller gets at most about an eighth, and more if the limit
/// of a message is above 2 MiB.
const MEMORY: usize = 64 * 1024 * 1024;

/// Larger messages are not read, in bytes. It is twice the limit of a message, so that a client that is only a little above the limit gets
/// the close code 1009 instead of a closed connection.
fn max_message_size(limits: &LimitSettings) -> usize {
    limits.max_body_bytes.saturating_mul(2)
}

/// The buffers of a WebSocket keep the size of its largest message until it is closed.
pub fn memory(limits: &LimitSettings) -> Arc<ConcurrencyQuota> {
    let largest = max_message_size(limits);
    ConcurrencyQuota::lasting(MEMORY.max(largest), largest)
}

/// Upgrades a request to a WebSocket.
pub async fn open(
    edge: Arc<Edge>,
    headers: &HeaderMap,
    peer: SocketAddr,
    upgrade: WebSocketUpgrade,
    received: Received,
) -> Result<Response, Refusal> {
    if !is_origin_allowed(&edge, headers) {
        let message = "This origin is not allowed. Add it to CORS_ORIGINS.";
        let refusal = Refusal::http(StatusCode::FORBIDDEN, "FORBIDDEN", message);
        return Err(charge_refused(&edge, headers, peer, 1, refusal));
    }
    let caller = edge.identify(headers, peer).await?;
    // The token may arrive only in `connection_init`, so opening is charged to the address.
    edge.executor.charge(&QuotaKey::of_address(caller.address), VALIDATION_COST)?;
    let permits = Permits {
        connection: edge.connections.acquire(caller.quota_key())?,
        uninitialised: edge.uninitialised.acquire(QuotaKey::of_address(caller.address))?,
    };
    let max_size = max_message_size(&edge.limits);
    let upgrade = upgrade
        .protocols([protocol::NAME])
        .read_buffer_size(BUFFER_SIZE)
        .write_buffer_size(BUFFER_SIZE)
        .max_message_size(max_size)
        .max_frame_size(max_size);
    received.count();
    let context = LogContext::current();
    Ok(upgrade.on_upgrade(async move |socket| {
        let sockets = edge.sockets.clone();
        sockets.track_future(Connection::new(edge, socket, received, caller, context, permits).serve()).await;
    }))
}

/// Browsers let every page open a WebSocket, but send the origin of the page. A trusted proxy that replaces `Host` reports the
/// host that the browser asked for. No page can set that header.
fn is_origin_allowed(edge: &Edge, headers: &HeaderMap) -> bool {
    let Some(origin) = headers.get(ORIGIN) else { return true };
    let Ok(origin) = origin.to_str() else { return false };
    if edge.settings.allows_origin(origin) {
        return true;
    }
    let forwarded = headers.get_all("x-forwarded-host").iter().filter(|_| edge.settings.trusted_proxies > 0);
    let hosts = headers.get_all(HOST).iter().chain(forwarded).filter_map(|value| value.to_str().ok());
    let of_origin = origin.split_once("://").map(|(_, host)| host);
    hosts
        .flat_map(|hosts| hosts.split(','))
        .any(|host| of_origin.is_some_and(|own| own.eq_ignore_ascii_case(host.trim())))
}
