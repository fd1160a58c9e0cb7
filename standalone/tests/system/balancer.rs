//! A load balancer.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use axum::body::{Body, Bytes};
use axum::extract::State;
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse, Response};
use axum::routing::post;
use futures::stream;
use rand::seq::IndexedRandom;
use test_support::until;
use tokio::net::TcpListener;

/// Polls `/health/ready` of each api every 20 ms, and sends each request to any of the ready ones.
#[derive(Clone)]
pub struct Balancer {
    http: reqwest::Client,
    ready: Arc<Mutex<BTreeMap<String, bool>>>,
}

impl Balancer {
    /// Returns it and its address.
    pub async fn start() -> (Balancer, String) {
        let balancer = Balancer { http: reqwest::Client::new(), ready: Arc::default() };
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let router = axum::Router::new().route("/graphql", post(Balancer::forward)).with_state(balancer.clone());
        tokio::spawn(async move { axum::serve(listener, router).await });
        let checks = balancer.clone();
        tokio::spawn(async move {
            loop {
                let all: Vec<String> = checks.ready.lock().unwrap().keys().cloned().collect();
                for api in all {
                    let request = checks.http.get(format!("http://{api}/health/ready")).timeout(Duration::from_secs(1));
                    let ready = request.send().await.is_ok_and(|response| response.status().is_success());
                    checks.ready.lock().unwrap().insert(api, ready);
                }
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        });
        (balancer, address)
    }

    /// Adds an api, and waits until it is ready.
    pub async fn add(&self, api: &str) {
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
            return (StatusCode::SERVICE_UNAVAILABLE, "no api is ready").into_response();
        };
        let request = balancer.http.post(format!("http://{api}/graphql")).headers(headers).body(body);
        match request.send().await {
            // An event stream does not end before its api does.
            Ok(response) => (response.status(), body_of(response)).into_response(),
            Err(error) => (StatusCode::BAD_GATEWAY, format!("{error:?}")).into_response(),
        }
    }
}

fn body_of(response: reqwest::Response) -> Body {
    Body::from_stream(stream::unfold(response, |mut response| async move {
        let chunk = response.chunk().await.transpose()?;
        Some((chunk, response))
    }))
}
