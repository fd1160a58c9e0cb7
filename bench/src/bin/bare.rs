//! Reads a client with axum and Redis alone, without GraphQL, tokens, limits and logs: `bare ADDRESS` serves `GET /ID`.
#![expect(clippy::disallowed_methods, reason = "a benchmark helper has no settings to document")]

use axum::extract::{Path, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use axum::{Json, Router, routing};
use redis::aio::MultiplexedConnection;
use redis::io::tcp::TcpSettings;
use redis::{AsyncCommands, IntoConnectionInfo};
use serde_json::json;
use tokio::net::TcpListener;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

type Row = (Option<String>, Option<String>, Option<i64>, Option<i64>, Option<i64>, Option<i32>);

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let address = std::env::args().nth(1).unwrap_or_else(|| "127.0.0.1:0".into());
    let server = std::env::var("REDIS_URL")?.into_connection_info()?;
    let client = redis::Client::open(server.set_tcp_settings(TcpSettings::default().set_nodelay(true)))?;
    let redis = client.get_multiplexed_async_connection().await?;
    let listener = TcpListener::bind(address).await?;
    println!("bare is ready at {}", listener.local_addr()?);
    axum::serve(listener, Router::new().route("/{id}", routing::get(client_of)).with_state(redis)).await?;
    Ok(())
}

async fn client_of(State(mut redis): State<MultiplexedConnection>, Path(id): Path<i64>) -> Response {
    let key = format!("orders:{{p{}}}:g1:client:{id}", id % 16);
    let fields = ["name", "email", "total", "orders", "last_purchase", "version"];
    let row: redis::RedisResult<Row> = redis.hmget(key, &fields).await;
    match row {
        Ok((Some(name), Some(email), Some(total), Some(orders), last_purchase, version)) => {
            let total = format!("{}.{:02}", total / 100, total % 100);
            Json(json!({
                "id": id.to_string(), "name": name, "email": email, "total": { "amount": total, "currencyCode": "USD" },
                "orderCount": orders, "lastPurchase": last_purchase, "version": version,
            }))
            .into_response()
        }
        Ok(_) => StatusCode::NOT_FOUND.into_response(),
        Err(error) => (StatusCode::SERVICE_UNAVAILABLE, error.to_string()).into_response(),
    }
}
