//! Reads of clients.

use std::path::Path;
use std::process::Command;

use test_support::otlp::Collector;
use test_support::process::{Process, command, free_address, program};
use test_support::until;
use test_support::user::User;

use super::harness::{Server, race};
use super::{Bench, peer};

/// More clients than the cache of an api holds.
const MORE_THAN_CACHED: usize = 200_000;

/// An api that logs each request into a file.
async fn logging_api(bench: &Bench, format: &str, file: &Path) -> (Process, String) {
    let address = free_address();
    let mut api = Command::new("sh");
    api.args(["-c", "exec \"$0\" 2>\"$1\""]).arg(program("api")).arg(file);
    let variables = [("LISTEN_ADDR", &*address), ("LOG_FORMAT", format), ("RUST_LOG", "warn,api=info")];
    let with_variables = command("api", &[], &[&bench.stores.variables()[..], &variables].concat());
    api.env_clear().envs(with_variables.get_envs().filter_map(|(name, value)| Some((name, value?))));
    let api = Process::spawn("api", api);
    let health = format!("http://{address}/health/ready");
    until("the api is ready", async || reqwest::get(&health).await.is_ok_and(|ready| ready.status() == 200)).await;
    (api, address)
}

/// Another api on the same stores, with more variables.
fn api_with(bench: &Bench, variables: &[(&str, &str)]) -> (Process, String) {
    let mut api = Process::start("api", &[], &[&bench.stores.variables()[..], variables].concat());
    let address = api.line_with("ready address=");
    (api, address)
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "a measurement: `make bench` runs it on a release build"]
async fn reads() {
    let bench = Bench::start().await;
    let mut redis = bench.redis().await;
    for ids in (1..=MORE_THAN_CACHED).collect::<Vec<_>>().chunks(10_000) {
        let mut pipeline = redis::pipe();
        for id in ids {
            let (name, email) = (format!("Client {id}"), format!("{id}@example.com"));
            pipeline.cmd("HSET").arg(format!("orders:{{p{}}}:g1:client:{id}", id % 16));
            pipeline.arg(&["name", &name, "email", &email, "total", "300000", "orders", "3"]);
            pipeline.arg(&["last_purchase", "1700000000000", "version", "3", "newest", "3"]).ignore();
        }
        let () = pipeline.query_async(&mut redis).await.unwrap();
    }
    let logs = tempfile::tempdir().unwrap();
    let (text, text_address) = logging_api(&bench, "text", &logs.path().join("text")).await;
    let (json, json_address) = logging_api(&bench, "json", &logs.path().join("json")).await;
    let collector = Collector::start().await;
    let (tracing, tracing_address) = api_with(&bench, &[("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", &collector.traces())]);
    let (measured, measured_address) = api_with(&bench, &[("METRICS_ADDR", "127.0.0.1:0")]);
    let mut bare = Command::new(program("bare"));
    bare.arg("127.0.0.1:0").envs(bench.stores.variables());
    let mut bare = Process::spawn("bare", bare);
    let bare_address = bare.line_with("bare is ready at ");
    let [mercurius, apollo, yoga] = ["mercurius", "apollo", "yoga"].map(|kind| peer(kind, &bench.stores));
    // All contenders must return the same result.
    let query = "{ client(id: \"7\") { id name email total { amount currencyCode } orderCount lastPurchase version } }";
    let ours = User::new(&bench.address, &bench.token).graphql(query).await;
    for (_, address) in [&mercurius, &apollo, &yoga] {
        assert_eq!(User::new(address, &bench.token).graphql(query).await, ours);
    }
    // Telemetry is a part of each of these programs. A build without it is not measured.
    race(
        "One client, with and without telemetry",
        &[
            bench.own("logs, traces and metrics off", "client"),
            bench.server("its access log on, as text", &text, &text_address, "client"),
            bench.server("its access log on, as JSON", &json, &json_address, "client"),
            bench.server("1 % of the traces recorded", &tracing, &tracing_address, "client"),
            bench.server("its metrics on", &measured, &measured_address, "client"),
        ],
    );
    race(
        "One client: `client(id)`",
        &[
            bench.own("this service", "client"),
            Server { clients: MORE_THAN_CACHED, ..bench.own("this service, of 200 000 clients", "client") },
            bench.server("axum and Redis, no GraphQL", &bare, &bare_address, "plain"),
            bench.server("Mercurius, JIT", &mercurius.0, &mercurius.1, "client"),
            bench.server("Apollo Server", &apollo.0, &apollo.1, "client"),
            bench.server("GraphQL Yoga", &yoga.0, &yoga.1, "client"),
        ],
    );
    race(
        "Fifty clients: `clientsByIds(ids)`",
        &[
            bench.own("this service", "clients"),
            bench.server("Mercurius, JIT, DataLoader", &mercurius.0, &mercurius.1, "clients"),
        ],
    );
}
