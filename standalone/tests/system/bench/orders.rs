//! Placing orders.

use std::process::Command;
use std::time::Duration;

use entity::order;
use sea_orm::{EntityTrait, PaginatorTrait};
use test_support::postgres;
use test_support::process::repository_file;

use super::harness::{Sample, TURN, compare, print};
use super::{Bench, CLIENTS, peer};

#[tokio::test(flavor = "multi_thread")]
#[ignore = "a measurement: `make bench` runs it on a release build"]
async fn orders() {
    let bench = Bench::start().await;
    let (peer, address) = peer("mercurius", &bench.stores);
    let (many, busy) = (bench.own("this service", "order"), bench.own("this service, all of one client", "busy"));
    let mercurius = bench.server("Mercurius and pg", &peer, &address, "order");
    let database_url = bench.stores.postgres.connection_uri();
    for server in [&many, &mercurius] {
        server.turn(Duration::from_secs(2));
    }
    let rows = compare(&mut [
        (many.name, Box::new(|| many.turn(TURN))),
        (busy.name, Box::new(|| busy.turn(TURN))),
        ("pgbench, the same statements", Box::new(|| pgbench(&database_url))),
        (mercurius.name, Box::new(|| mercurius.turn(TURN))),
    ]);
    print("Orders of two lines: `placeOrder`", &rows);
    // Count the orders: a response with an error has status 200 as well.
    for server in [&many, &mercurius] {
        let before = order::Entity::find().count(&bench.db).await.unwrap();
        let responses = server.turn(TURN).rate * TURN.as_secs_f64();
        let placed = order::Entity::find().count(&bench.db).await.unwrap() - before;
        assert!(placed as f64 > responses * 0.98, "{}: {placed} orders of {responses} responses", server.name);
    }
}

/// Orders without any service: one transaction for each, by pgbench.
fn pgbench(url: &str) -> Sample {
    let output = Command::new(postgres::program("pgbench"))
        .args(["-n", "-M", "prepared", "-c", "64", "-j", "2", "-D", &format!("clients={CLIENTS}")])
        .args(["-T", &TURN.as_secs().to_string(), "-f", repository_file("bench/order.sql").to_str().unwrap(), url])
        .output()
        .unwrap();
    let printed = String::from_utf8_lossy(&output.stdout).into_owned();
    let number = |prefix: &str| {
        let line = printed.lines().find_map(|line| line.strip_prefix(prefix)).unwrap_or_else(|| panic!("{output:?}"));
        line.split_whitespace().next().unwrap().parse::<f64>().unwrap()
    };
    Sample { rate: number("tps = "), ..Sample::default() }
}
