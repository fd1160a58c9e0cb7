//! Processes that stop and are replaced under load.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use axum::body::Bytes;
use axum::extract::State;
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse, Response};
use axum::routing::post;
use rand::seq::IndexedRandom;
use test_support::load::Load;
use test_support::process::Process;
use test_support::services::Stores;
use test_support::until;
use test_support::user::{ALL, User};
use tokio::net::TcpListener;

/// A load balancer: asks each api every 20 ms whether it is ready, and sends requests to those that are.
#[derive(Clone)]
struct Balancer {
    http: reqwest::Client,
    ready: Arc<Mutex<BTreeMap<String, bool>>>,
}

impl Balancer {
    async fn start() -> (Balancer, String) {
        let balancer = Balancer { http: reqwest::Client::new(), ready: Arc::default() };
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let router = axum::Router::new().route("/graphql", post(Balancer::forward)).with_state(balancer.clone());
        tokio::spawn(async move { axum::serve(listener, router).await });
        let checking = balancer.clone();
        tokio::spawn(async move {
            loop {
                let all: Vec<String> = checking.ready.lock().unwrap().keys().cloned().collect();
                for api in all {
                    let request =
                        checking.http.get(format!("http://{api}/health/ready")).timeout(Duration::from_secs(1));
                    let ready = request.send().await.is_ok_and(|answer| answer.status().is_success());
                    checking.ready.lock().unwrap().insert(api, ready);
                }
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        });
        (balancer, address)
    }

    /// Sends requests to this one as well, once it is ready.
    async fn add(&self, api: &str) {
        self.ready.lock().unwrap().insert(api.to_owned(), false);
        until("a new api is ready", async || self.ready.lock().unwrap()[api]).await;
    }

    async fn forward(State(balancer): State<Balancer>, mut headers: HeaderMap, body: Bytes) -> Response {
        headers.remove("host");
        let ready: Vec<String> = {
            let all = balancer.ready.lock().unwrap();
            all.iter().filter(|(_, ready)| **ready).map(|(api, _)| api.clone()).collect()
        };
        let Some(api) = ready.choose(&mut rand::rng()) else {
            return (StatusCode::SERVICE_UNAVAILABLE, "none is ready").into_response();
        };
        let request = balancer.http.post(format!("http://{api}/graphql")).headers(headers).body(body);
        match request.send().await {
            Ok(answer) => (answer.status(), answer.bytes().await.unwrap_or_default()).into_response(),
            Err(error) => (StatusCode::BAD_GATEWAY, format!("{error:?}")).into_response(),
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn processes_are_replaced_under_load_without_a_failed_request() {
    let mut stores = tokio::task::spawn_blocking(Stores::prepared).await.unwrap();
    stores.set("DRAIN_DELAY", "2s");
    let (balancer, address) = Balancer::start().await;
    let mut running = Vec::new();
    for name in ["api", "api", "projector", "projector"] {
        let mut process = Process::start(name, &[], &stores.variables());
        if name == "api" {
            balancer.add(&process.line_with("ready address=")).await;
        }
        running.push((name, process));
    }
    let token = stores.run("api", &["token", "--scope", ALL]);
    let user = User::new(&address, token.trim());
    let load = Load::start(std::slice::from_ref(&user), 8);
    load.more().await;
    for (name, old) in std::mem::take(&mut running) {
        let mut new = Process::start(name, &[], &stores.variables());
        if name == "api" {
            balancer.add(&new.line_with("ready address=")).await;
        }
        let began = Instant::now();
        let status = tokio::task::block_in_place(|| old.terminate());
        assert!(status.success(), "{name}: {status}");
        println!("outages: {name} stopped after {:.2?}", began.elapsed());
        running.push((name, new));
        load.more().await;
    }
    let placed = load.end().await;
    let total = async || {
        let answer = user.graphql("{ clientsByIds(ids: [\"1\", \"2\", \"3\"]) { orderCount } }").await;
        let clients = answer["data"]["clientsByIds"].as_array().unwrap();
        clients.iter().map(|client| client["orderCount"].as_u64().unwrap()).sum::<u64>() as usize
    };
    until("every order is projected, once", async || total().await == placed).await;
    stores.run("projector", &["verify", "--in-flight", "0s"]);
    println!("outages: {placed} orders and as many queries while all processes were replaced, none failed");
}
