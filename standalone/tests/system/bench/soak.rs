//! Ten minutes of load.

use std::time::Duration;

use test_support::process::{Process, memory_mebibytes};

use super::Bench;

/// Ten minutes of reads and orders with a projector: shows whether memory grows.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "a measurement: `make bench ONLY=soak` runs it on a release build"]
async fn soak() {
    #[expect(clippy::disallowed_methods, reason = "a parameter of the benchmark, not a setting")]
    let only = std::env::var("ONLY");
    if only.as_deref() != Ok("soak") {
        return; // too long to run with the others
    }
    let bench = Bench::start().await;
    let projector = Process::start("projector", &[], &bench.stores.variables());
    println!("\n### Ten minutes\n");
    println!("| minute |   reads/s |  orders/s | api MiB | projector MiB |");
    println!("|-------:|----------:|----------:|--------:|--------------:|");
    for minute in 1..=10 {
        let half = Duration::from_secs(30);
        let reads = bench.own("this service", "client").turn(half);
        let orders = bench.own("this service", "order").turn(half);
        let (api, projector) = (memory_mebibytes(bench.api.id(), "VmRSS"), memory_mebibytes(projector.id(), "VmRSS"));
        println!("| {minute:>6} | {:>9.0} | {:>9.0} | {api:>7.0} | {projector:>13.0} |", reads.rate, orders.rate);
    }
}
