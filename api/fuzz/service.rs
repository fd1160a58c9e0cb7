//! An api on embedded stores.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::{Arc, LazyLock};
use std::time::Duration;

use api::Backend;
use api::config::Settings;
use api::edge::auth::Authenticator;
use api::edge::settings::SchemaExposure;
use api::outbox::relay::Queue;
use aws_config::{BehaviorVersion, SdkConfig};
use axum::Router;
use axum::extract::connect_info::MockConnectInfo;
use clap::Parser;
use iso_currency::Currency;
use read_model::Memory;
use runtime::database;
use tokio::net::TcpListener;
use tokio::runtime::{Builder, Runtime};

const SECRET: &str = "a secret of at least thirty-two bytes";

#[derive(Parser)]
struct Cli {
    #[command(flatten)]
    settings: Settings,
}

/// The service, and what is needed to use it.
pub struct Service {
    pub runtime: Runtime,
    pub router: Router,
    pub address: SocketAddr,
    pub token: String,
    /// The header with the token, which has all scopes.
    pub authorization: String,
}

pub static SERVICE: LazyLock<Service> = LazyLock::new(|| {
    let runtime = Builder::new_current_thread().enable_all().build().unwrap();
    let (router, address, token) = runtime.block_on(start());
    let authorization = format!("Bearer {token}");
    Service { runtime, router, address, token, authorization }
});

async fn start() -> (Router, SocketAddr, String) {
    let settings =
        Cli::parse_from(["fuzz", "--jwt-secret", SECRET, "--rate-limit", "0", "--read-wait", "1ms"]).settings;
    let db = database::connect("sqlite::memory:", 1, None).await.unwrap();
    migration::up(&db).await.unwrap();
    migration::sample_data(&db, "USD").await.unwrap();
    let backend = Backend {
        db,
        read_model: Arc::new(Memory::default()),
        currency: Currency::USD,
        read_wait: settings.read_wait,
        cancel_window: settings.cancel_window,
        publication: settings.publication(),
        intake: None,
    };
    // Nothing listens at this address.
    let aws = SdkConfig::builder().behavior_version(BehaviorVersion::latest()).build();
    let queue = Queue::new(&aws, "http://127.0.0.1:1/orders".into());
    let authenticator = Authenticator::new(&settings.tokens).await.unwrap();
    let scope = api::edge::auth::SCOPES.join(" ");
    let token = settings.tokens.mint("fuzzer", &scope, None, Duration::from_secs(86_400)).unwrap();
    let exposure = SchemaExposure::Introspection;
    let service =
        api::Service::new(backend, queue, authenticator, settings.edge, exposure, Default::default()).unwrap();
    let router = service.router().layer(MockConnectInfo(SocketAddr::from((Ipv4Addr::LOCALHOST, 1))));
    // `serve` also runs the task that places orders.
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(service.serve(listener));
    (router, address, token)
}
