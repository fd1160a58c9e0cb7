//! The HTTP server of all programs. It speaks only HTTP/1.1, as load balancers do with their targets: an HTTP/2 connection is closed
//! at its first bytes, because one connection with many unread streams can hold any amount of memory.
//!
//! - here: accepts and serves connections
//! - [`stream`]: the bytes of a connection, and how long the head of a request may take

pub mod stream;

use std::net::SocketAddr;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::extract::ConnectInfo;
use axum::http::header::{HOST, TRANSFER_ENCODING};
use axum::http::{HeaderValue, Request, Response, StatusCode, Version};
use axum::middleware::Next;
use axum::response::IntoResponse;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;
use tower::ServiceExt;
use tower_http::metrics::InFlightRequests;
use tracing::warn;

use self::stream::{ClientStream, Heads, Received, Requests};

/// Size limit of buffered data of a response, in bytes: a client that does not read its event stream holds as much memory. hyper's
/// default is about 400 KiB. The line and the headers of a request may be up to twice as large, because a read may exceed the limit.
/// A connection can hold them until a head is complete.
const MAX_BUFFER: usize = 16 * 1024;
/// Time for a client to acknowledge data before the kernel closes the connection (Linux only).
#[cfg(target_os = "linux")]
const ACK_TIMEOUT: Duration = Duration::from_secs(30);
/// Bytes that the kernel keeps until it sends them (Linux only). It counts those that the client has not room for, so that a client
/// that reads slowly is noticed. What is on its way is not limited.
#[cfg(target_os = "linux")]
const MAX_UNSENT: u32 = 128 * 1024;
/// Pause after a connection could not be accepted, for example because no file descriptor is free.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// A connection is closed when it is idle for so long.
    pub idle_timeout: Duration,
    /// Further ones are closed at once. A tenth of them may take long to send the head of a request.
    pub max_connections: usize,
}

/// Serves until `shutdown` is cancelled and all connections are closed. Dropping this closes them at once.
pub async fn serve(listener: TcpListener, router: Router, limits: Limits, shutdown: CancellationToken) {
    let mut connections = JoinSet::new();
    let slow_heads = Arc::new(Semaphore::new(limits.max_connections.div_ceil(10)));
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            Some(_) = connections.join_next() => continue,
            () = shutdown.cancelled() => break,
        };
        match accepted {
            Ok(_) if connections.len() >= limits.max_connections => {}
            Ok((stream, peer)) => {
                let (idle_timeout, slow_heads) = (limits.idle_timeout, slow_heads.clone());
                let (router, shutdown) = (router.clone(), shutdown.clone());
                connections.spawn(serve_connection(stream, peer, router, idle_timeout, slow_heads, shutdown));
            }
            Err(error) => {
                warn!(%error, "cannot accept a connection");
                sleep(ACCEPT_PAUSE).await;
            }
        }
    }
    drop(listener);
    while connections.join_next().await.is_some() {}
}

async fn serve_connection(
    stream: TcpStream,
    peer: SocketAddr,
    router: Router,
    idle_timeout: Duration,
    slow_heads: Arc<Semaphore>,
    shutdown: CancellationToken,
) {
    if set_up(&stream).is_err() {
        return; // the client is gone
    }
    let (received, requests) = (Received::default(), Requests::default());
    let heads = Heads::new(requests.clone(), slow_heads);
    let stream = TokioIo::new(ClientStream::new(stream, received.clone(), heads));
    let service = service_fn(|request: Request<Incoming>| {
        requests.begin();
        let mut request = request.map(Body::new);
        request.extensions_mut().insert(ConnectInfo(peer));
        request.extensions_mut().insert(received.clone());
        InFlightRequests::new(router.clone(), requests.active.clone()).oneshot(request)
    });
    let mut http = http1::Builder::new();
    http.timer(TokioTimer::new()).header_read_timeout(idle_timeout).max_buf_size(MAX_BUFFER);
    let mut connection = pin!(http.serve_connection(stream, service).with_upgrades());
    tokio::select! {
        // An error is a client that is gone, is too slow, or does not speak HTTP/1.
        _ = connection.as_mut() => return,
        () = shutdown.cancelled() => connection.as_mut().graceful_shutdown(),
    }
    let _ = connection.await;
}

fn set_up(stream: &TcpStream) -> std::io::Result<()> {
    stream.set_nodelay(true)?;
    #[cfg(target_os = "linux")]
    {
        let socket = socket2::SockRef::from(stream);
        socket.set_tcp_user_timeout(Some(ACK_TIMEOUT))?;
        socket.set_tcp_notsent_lowat(MAX_UNSENT)?;
    }
    Ok(())
}

/// Refuses a request that names no host or several, because a proxy could choose another one than this service
/// ([RFC 9112, section 3.2](https://www.rfc-editor.org/rfc/rfc9112#section-3.2)), and one whose body is encoded
/// ([section 6.1](https://www.rfc-editor.org/rfc/rfc9112#section-6.1)).
pub async fn check_headers(request: Request<Body>, next: Next) -> Response<Body> {
    let hosts = request.headers().get_all(HOST).iter().count();
    if hosts > 1 || (hosts == 0 && request.version() >= Version::HTTP_11) {
        return (StatusCode::BAD_REQUEST, "A request needs exactly one header `Host`.\n").into_response();
    }
    let mut codings = request.headers().get_all(TRANSFER_ENCODING).iter();
    let is_supported = |coding: &HeaderValue| coding.as_bytes().eq_ignore_ascii_case(b"chunked");
    if !codings.next().is_none_or(is_supported) || codings.next().is_some() {
        let message = "The only supported transfer coding is `chunked`.\n";
        return (StatusCode::NOT_IMPLEMENTED, message).into_response();
    }
    next.run(request).await
}
