//! The HTTP server. It speaks only HTTP/1.1, as load balancers do with their targets: an HTTP/2 connection is closed at its first
//! bytes, because one connection with many unread streams can hold any amount of memory.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::pin::pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::extract::ConnectInfo;
use axum::http::header::HOST;
use axum::http::{Request, Response, StatusCode, Version};
use axum::middleware::Next;
use axum::response::IntoResponse;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::{Service, service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;
use tower::ServiceExt;
use tracing::warn;

/// Time for a new connection to send the headers of its first request.
const FIRST_REQUEST_TIMEOUT: Duration = Duration::from_secs(10);
/// Size limit of buffered data of a response, in bytes: a client that does not read its event stream holds as much memory. hyper's
/// default is about 400 KiB. The line and the headers of a request may be up to twice as large, because a read may exceed the limit.
const MAX_BUFFER: usize = 64 * 1024;
/// Time for a client to acknowledge data before the kernel closes the connection (Linux only).
#[cfg(target_os = "linux")]
const ACK_TIMEOUT: Duration = Duration::from_secs(30);
/// Pause after a connection could not be accepted, for example because no file descriptor is free.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// Serves until `shutdown` is cancelled and all connections are closed. Dropping this closes them at once. A connection is
/// closed when it is idle for `idle_timeout` or takes longer to send the headers of a request.
pub async fn serve(listener: TcpListener, router: Router, idle_timeout: Duration, shutdown: CancellationToken) {
    let mut connections = JoinSet::new();
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            Some(_) = connections.join_next() => continue,
            () = shutdown.cancelled() => break,
        };
        match accepted {
            Ok((stream, peer)) => {
                let service = service_fn({
                    let router = router.clone();
                    move |request| respond(router.clone(), request, peer)
                });
                connections.spawn(serve_connection(stream, service, idle_timeout, shutdown.clone()));
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

async fn respond(router: Router, request: Request<Incoming>, peer: SocketAddr) -> Result<Response<Body>, Infallible> {
    let mut request = request.map(Body::new);
    request.extensions_mut().insert(ConnectInfo(peer));
    router.oneshot(request).await
}

async fn serve_connection<S>(stream: TcpStream, service: S, idle_timeout: Duration, shutdown: CancellationToken)
where
    S: Service<Request<Incoming>, Response = Response<Body>, Error = Infallible>,
{
    if set_up(&stream).is_err() {
        return; // the client is gone
    }
    let has_request = AtomicBool::new(false);
    let service = service_fn(|request| {
        has_request.store(true, Ordering::Relaxed);
        service.call(request)
    });
    let mut http = http1::Builder::new();
    http.timer(TokioTimer::new()).header_read_timeout(idle_timeout).max_buf_size(MAX_BUFFER);
    let mut connection = pin!(http.serve_connection(TokioIo::new(stream), service).with_upgrades());
    let mut first_request_timeout = pin!(sleep(FIRST_REQUEST_TIMEOUT));
    let (mut is_new, mut is_stopping) = (true, false);
    loop {
        tokio::select! {
            // An error is a client that is gone or does not speak HTTP/1.
            _ = connection.as_mut() => return,
            () = first_request_timeout.as_mut(), if is_new => {
                if !has_request.load(Ordering::Relaxed) {
                    return;
                }
                is_new = false;
            }
            () = shutdown.cancelled(), if !is_stopping => {
                connection.as_mut().graceful_shutdown();
                is_stopping = true;
            }
        }
    }
}

fn set_up(stream: &TcpStream) -> std::io::Result<()> {
    stream.set_nodelay(true)?;
    #[cfg(target_os = "linux")]
    socket2::SockRef::from(stream).set_tcp_user_timeout(Some(ACK_TIMEOUT))?;
    Ok(())
}

/// Refuses a request that names no host or several: a proxy could choose another one than this service
/// ([RFC 9112, section 3.2](https://www.rfc-editor.org/rfc/rfc9112#section-3.2)).
pub async fn check_host(request: Request<Body>, next: Next) -> Response<Body> {
    match request.headers().get_all(HOST).iter().count() {
        1 => next.run(request).await,
        0 if request.version() < Version::HTTP_11 => next.run(request).await,
        _ => (StatusCode::BAD_REQUEST, "A request needs exactly one header `Host`.\n").into_response(),
    }
}
