//! Processes that are replaced under load.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use test_support::load::Load;
use test_support::process::Process;
use test_support::queue_proxy::QueueProxy;
use test_support::services::{Services, Stores};
use test_support::until;
use test_support::user::{ALL_SCOPES, User};

use crate::balancer::Balancer;

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
    let user = User::new(&address, &stores.token(ALL_SCOPES, "1h"));
    let load = Load::start(std::slice::from_ref(&user), 8);
    load.place_more(20).await;
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
        load.place_more(20).await;
    }
    let placed = load.stop().await;
    let total = async || {
        let response = user.graphql("{ clientsByIds(ids: [\"1\", \"2\", \"3\"]) { orderCount } }").await;
        let clients = response["data"]["clientsByIds"].as_array().unwrap();
        clients.iter().map(|client| client["orderCount"].as_u64().unwrap()).sum::<u64>() as usize
    };
    until("every order is counted once", async || total().await == placed).await;
    stores.run("projector", &["verify", "--in-flight", "0s"]);
    println!("outages: {placed} orders and as many queries while all processes were replaced, none failed");
}

/// A receive call whose caller is gone can still take messages, and hides them from other projectors for 30 seconds.
#[tokio::test(flavor = "multi_thread")]
async fn orders_are_visible_within_two_seconds_while_projectors_are_replaced() {
    let mut stores = tokio::task::spawn_blocking(Stores::prepared).await.unwrap();
    let (_proxy, url) = QueueProxy::start(stores.get("AWS_ENDPOINT_URL").to_owned(), 1).await;
    stores.set("AWS_ENDPOINT_URL", &url);
    let mut services = tokio::task::spawn_blocking(|| Services::start_on(stores, 2)).await.unwrap();
    static LONGEST: AtomicU64 = AtomicU64::new(0);
    let load = Load::start_with(&services.users, 4, |user, writer, _| async move {
        let client = (writer % 3 + 1).to_string();
        let (_, version) = user.place(&client, &[(1, 1)], None).await;
        let placed = Instant::now();
        user.client_at(&client, version).await;
        LONGEST.fetch_max(placed.elapsed().as_millis() as u64, Ordering::SeqCst);
    });
    load.place_more(50).await;
    // The first events of the clients wait for a poll of the outbox.
    LONGEST.store(0, Ordering::SeqCst);
    for _ in 0..6 {
        let mut new = Process::start("projector", &[], &services.stores.variables());
        new.line_with("ready health=");
        services.projectors.push(new);
        let began = Instant::now();
        let status = tokio::task::block_in_place(|| services.projectors.remove(0).terminate());
        assert!(status.success(), "{status}");
        println!("outages: a projector stopped after {:.2?}", began.elapsed());
        load.place_more(20).await;
    }
    let placed = load.stop().await;
    let longest = LONGEST.load(Ordering::SeqCst);
    println!("outages: {placed} orders, each visible after at most {longest} ms while projectors were replaced");
    assert!(longest < 2_000, "an order was visible after {longest} ms");
}
