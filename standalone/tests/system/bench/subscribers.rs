//! The cost of subscribers.

use std::time::Instant;

use futures::{SinkExt, StreamExt};
use serde_json::json;
use test_support::process::memory_mebibytes;
use test_support::services::Services;
use test_support::user::SAMPLE_ORDER;
use tokio_tungstenite::connect_async_with_config;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::client::IntoClientRequest;
use tokio_tungstenite::tungstenite::protocol::WebSocketConfig;

use super::harness::print_times;

/// The memory of the api for each of 2 000 idle sockets, and the time until a change reaches all of them.
#[tokio::test]
#[ignore = "a measurement: `make bench` runs it on a release build"]
async fn subscribers() {
    const SUBSCRIBERS: u32 = 2_000;
    let services = Services::start(1);
    let user = &services.users[0];
    let (_, version) = user.place("1", &SAMPLE_ORDER, None).await;
    user.client_at("1", version).await;
    let before = memory_mebibytes(services.apis[0].id(), "VmRSS");
    let mut sockets = Vec::new();
    for _ in 0..SUBSCRIBERS {
        let mut request = format!("ws://{}/graphql", user.address).into_client_request().unwrap();
        request.headers_mut().insert("sec-websocket-protocol", "graphql-transport-ws".parse().unwrap());
        let config = WebSocketConfig::default().read_buffer_size(1024);
        let (mut socket, _) = connect_async_with_config(request, Some(config), false).await.unwrap();
        let payload = json!({ "Authorization": format!("Bearer {}", user.token) });
        let query = "subscription { clientChanged(id: 1) { version } }";
        for message in [
            json!({ "type": "connection_init", "payload": payload }),
            json!({ "id": "1", "type": "subscribe", "payload": { "query": query } }),
        ] {
            socket.send(Message::text(message.to_string())).await.unwrap();
            socket.next().await.unwrap().unwrap();
        }
        sockets.push(socket);
    }
    let each = (memory_mebibytes(services.apis[0].id(), "VmRSS") - before) * 1024.0 / f64::from(SUBSCRIBERS);
    println!("\n### 2 000 subscribers\n");
    println!("{:<42} {each:>8.1} KiB", "api: memory for each idle subscriber");

    let mut reached = Vec::new();
    for _ in 0..20 {
        let began = Instant::now();
        user.place("1", &SAMPLE_ORDER, None).await;
        for socket in &mut sockets {
            while !matches!(socket.next().await.unwrap().unwrap(), Message::Text(_)) {} // pings
        }
        reached.push(began.elapsed());
    }
    print_times("order sent until all subscribers have it", &mut reached);
}
