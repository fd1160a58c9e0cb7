//! The embedded SQS. The AWS SDK calls it instead of an HTTP client, or other processes call it on a port.

use std::sync::Arc;

use anyhow::Context;
use aws_config::{BehaviorVersion, Region, SdkConfig};
use axum::Router;
use axum::body::Bytes;
use axum::extract::{DefaultBodyLimit, State};
use axum::http::{HeaderMap, Method, StatusCode, Uri};
use axum::response::{IntoResponse, Response};
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;
use winterbaume_core::{MockAws, MockRequest, MockService};
use winterbaume_sqs::SqsService;

const REGION: &str = "us-east-1";
/// Above the 1 MiB that SQS accepts in one call.
const MAX_BODY: usize = 2 * 1024 * 1024;

/// Returns settings for a client of a new, empty SQS in this process.
pub async fn embedded() -> SdkConfig {
    let mock = MockAws::builder().with_service(SqsService::new()).build().sdk_config(REGION).await;
    // Without the endpoints of the environment and the profile: they are for other programs.
    let mut config = SdkConfig::builder().behavior_version(BehaviorVersion::latest()).region(Region::new(REGION));
    config.set_http_client(mock.http_client());
    config.set_credentials_provider(mock.credentials_provider());
    config.set_sleep_impl(mock.sleep_impl());
    config.build()
}

/// Serves a new, empty SQS until `shutdown`, which interrupts calls that wait for messages.
pub async fn serve(listener: TcpListener, shutdown: CancellationToken) -> anyhow::Result<()> {
    let router =
        Router::new().fallback(call).layer(DefaultBodyLimit::max(MAX_BODY)).with_state(Arc::new(SqsService::new()));
    tokio::select! {
        ended = async { axum::serve(listener, router).await } => ended.context("the queue's HTTP server failed"),
        () = shutdown.cancelled() => Ok(()),
    }
}

async fn call(
    State(sqs): State<Arc<SqsService>>,
    method: Method,
    uri: Uri,
    headers: HeaderMap,
    body: Bytes,
) -> Response {
    let request = MockRequest { method: method.to_string(), uri: uri.to_string(), headers, body };
    let response = sqs.handle(request).await;
    let status = StatusCode::from_u16(response.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    (status, response.headers, response.body).into_response()
}
