//! What `make figures` prints; README.md has the latest. It measures and judges nothing: machines differ.

use std::time::{Duration, Instant};

use futures::{SinkExt, StreamExt};
use serde_json::json;
use tokio_tungstenite::connect_async_with_config;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::client::IntoClientRequest;
use tokio_tungstenite::tungstenite::protocol::WebSocketConfig;

use crate::process::{EXAMPLE, Process};
use crate::services::{Services, place_many};

#[tokio::test]
#[ignore = "a measurement: `make figures` runs it on a release build"]
async fn figures() {
    let mut starts = Vec::new();
    for _ in 0..10 {
        let began = Instant::now();
        let mut process = Process::start("standalone", &[], &[("LISTEN_ADDR", "127.0.0.1:0")]);
        process.line_with("The order service is ready");
        starts.push(began.elapsed());
    }
    print("standalone: start until ready", &mut starts);

    let services = Services::start(1);
    let user = &services.users[0];
    user.place("1", &EXAMPLE, None).await;
    let mut visible = Vec::new();
    for n in 0..200 {
        // Idle in between, and never in step with the queue's own 100 ms.
        tokio::time::sleep(Duration::from_millis(20 + n * 37 % 100)).await;
        let began = Instant::now();
        let (_, version) = user.place("1", &EXAMPLE, None).await;
        user.client_at("1", version).await;
        visible.push(began.elapsed());
    }
    print("order sent until visible in client", &mut visible);
    let (services_of_load, began) = (Services::start(2), Instant::now());
    place_many(&services_of_load).await;
    println!("{:<42} {:>8.1} s", "10 000 orders placed and counted", began.elapsed().as_secs_f64());
    println!("{:<42} {:>8.1} MiB", "api: resident memory", resident(&services.apis[0]));
    println!("{:<42} {:>8.1} MiB", "projector: resident memory", resident(&services.projectors[0]));
}

/// What watching costs: the memory of the api for each of 2 000 idle sockets, and how long one change takes to reach all.
#[tokio::test]
#[ignore = "a measurement: `make figures` runs it on a release build"]
async fn figures_of_subscribers() {
    const SUBSCRIBERS: u32 = 2_000;
    let services = Services::start(1);
    let user = &services.users[0];
    let (_, version) = user.place("1", &EXAMPLE, None).await;
    user.client_at("1", version).await;
    let before = resident(&services.apis[0]);
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
    let each = (resident(&services.apis[0]) - before) * 1024.0 / f64::from(SUBSCRIBERS);
    println!("{:<42} {each:>8.1} KiB", "api: memory for each idle subscriber");

    let mut reached = Vec::new();
    for _ in 0..20 {
        let began = Instant::now();
        user.place("1", &EXAMPLE, None).await;
        for socket in &mut sockets {
            while !matches!(socket.next().await.unwrap().unwrap(), Message::Text(_)) {} // pings
        }
        reached.push(began.elapsed());
    }
    print("order sent until all subscribers have it", &mut reached);
}

fn print(what: &str, times: &mut [Duration]) {
    times.sort();
    let at = |share: f64| times[((times.len() - 1) as f64 * share).round() as usize].as_secs_f64() * 1_000.0;
    println!("{what:<42} {:>8.1} ms p50 {:>8.1} ms p99", at(0.5), at(0.99));
}

fn resident(process: &Process) -> f64 {
    let status = std::fs::read_to_string(format!("/proc/{}/status", process.id())).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
    line.trim().trim_end_matches(" kB").parse::<f64>().unwrap() / 1024.0
}
