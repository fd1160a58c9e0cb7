//! Every request body gets a response without a panic, an internal error, or more than 100 ms of CPU time. `scripts/fuzz` runs
//! this target.

#![no_main]

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::{Arc, LazyLock};
use std::time::Duration;

use api::config::Settings;
use api::edge::auth::Authenticator;
use api::edge::settings::SchemaExposure;
use api::outbox::relay::Queue;
use api::{Backend, Service};
use aws_config::{BehaviorVersion, SdkConfig};
use axum::Router;
use axum::body::{Body, to_bytes};
use axum::extract::connect_info::MockConnectInfo;
use axum::http::Request;
use clap::Parser;
use cpu_time::ProcessTime;
use iso_currency::Currency;
use libfuzzer_sys::fuzz_target;
use read_model::Memory;
use runtime::database;
use serde_json::Value;
use tokio::net::TcpListener;
use tokio::runtime::{Builder, Runtime};
use tower::ServiceExt;

const MAX_CPU_TIME: Duration = Duration::from_millis(100);

#[derive(Parser)]
struct Cli {
    #[command(flatten)]
    settings: Settings,
}

static RUNTIME: LazyLock<Runtime> = LazyLock::new(|| Builder::new_current_thread().enable_all().build().unwrap());

/// The router of an api on embedded stores, and a token with all scopes.
static API: LazyLock<(Router, String)> = LazyLock::new(|| {
    RUNTIME.block_on(async {
        let flags = [
            "fuzz",
            "--jwt-secret",
            "a secret of at least thirty-two bytes",
            "--rate-limit",
            "0",
            "--read-wait",
            "1ms",
        ];
        let settings = Cli::parse_from(flags).settings;
        let db = database::connect("sqlite::memory:", 1, None).await.unwrap();
        migration::up(&db).await.unwrap();
        migration::sample_data(&db, "USD").await.unwrap();
        let backend = Backend {
            db,
            read_model: Arc::new(Memory::default()),
            currency: Currency::USD,
            read_wait: settings.read_wait,
            cancel_window: settings.cancel_window,
        };
        // Nothing listens at this address.
        let aws = SdkConfig::builder().behavior_version(BehaviorVersion::latest()).build();
        let queue = Queue::new(&aws, "http://127.0.0.1:1/orders".into());
        let authenticator = Authenticator::new(&settings.tokens).await.unwrap();
        let scope = api::edge::auth::SCOPES.join(" ");
        let token = settings.tokens.mint("fuzzer", &scope, None, Duration::from_secs(86_400)).unwrap();
        let exposure = SchemaExposure::Introspection;
        let service = Service::new(backend, queue, authenticator, settings.edge, exposure, Default::default()).unwrap();
        let router = service.router();
        // `serve` runs the task that places orders.
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        tokio::spawn(service.serve(listener));
        let peer = SocketAddr::from((Ipv4Addr::LOCALHOST, 1));
        (router.layer(MockConnectInfo(peer)), token)
    })
});

fuzz_target!(|body: &[u8]| {
    let (router, token) = &*API;
    let request = Request::post("/graphql")
        .header("host", "localhost")
        .header("content-type", "application/json")
        .header("authorization", format!("Bearer {token}"))
        .body(Body::from(body.to_vec()))
        .unwrap();
    let began = ProcessTime::now();
    let (status, body) = RUNTIME.block_on(async {
        let response = router.clone().oneshot(request).await.unwrap();
        (response.status(), to_bytes(response.into_body(), usize::MAX).await.unwrap())
    });
    let cpu_time = began.elapsed();
    assert!(cpu_time < MAX_CPU_TIME, "{cpu_time:?} of CPU time");
    assert!(!status.is_server_error(), "{status}");
    let body: Value = serde_json::from_slice(&body).expect("the body is not JSON");
    for error in body["errors"].as_array().into_iter().flatten() {
        let code = error["extensions"]["code"].as_str().expect("an error has no code");
        assert!(code != "INTERNAL_SERVER_ERROR", "{error}");
    }
});
