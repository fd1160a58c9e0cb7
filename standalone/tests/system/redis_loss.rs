//! A Redis that lost all of its data, or the last seconds of it.

use std::sync::atomic::Ordering;

use test_support::load::Load;
use test_support::services::{Services, Stores};
use test_support::until;

#[tokio::test(flavor = "multi_thread")]
async fn a_replay_restores_a_redis_that_was_emptied_or_set_back_under_load() {
    let services = tokio::task::spawn_blocking(|| {
        let mut stores = Stores::prepared();
        stores.set("SWEEP_INTERVAL", "1h"); // nothing is repaired unless a command does it
        Services::start_on(stores, 1)
    })
    .await
    .unwrap();
    let load = Load::start(&services.users, 8);
    load.place_more(20).await;
    let mut redis = services.stores.redis_client().get_multiplexed_async_connection().await.unwrap();
    let run = |arguments: &[&str]| tokio::task::block_in_place(|| services.stores.run("projector", arguments));

    let () = redis::cmd("FLUSHALL").query_async(&mut redis).await.unwrap();
    load.place_more(20).await;
    run(&["verify", "--repair", "--in-flight", "5s"]);
    let placed_so_far = load.placed.load(Ordering::Relaxed);
    let total = async || {
        let response = services.users[0].graphql("{ clientsByIds(ids: [\"1\", \"2\", \"3\"]) { orderCount } }").await;
        let clients = response["data"]["clientsByIds"].as_array().unwrap().clone();
        clients.iter().map(|client| client["orderCount"].as_u64().unwrap()).sum::<u64>() as usize
    };
    until("all lost orders are counted again", async || total().await >= placed_so_far).await;

    // The data of a replica that becomes the primary before it has received the last seconds.
    let keys: Vec<String> = redis::cmd("KEYS").arg("*").query_async(&mut redis).await.unwrap();
    let mut old = redis::pipe();
    old.atomic().cmd("FLUSHALL").ignore();
    let mut dumps = redis::pipe();
    dumps.atomic();
    for key in &keys {
        dumps.cmd("DUMP").arg(key);
    }
    let dumps: Vec<Vec<u8>> = dumps.query_async(&mut redis).await.unwrap();
    for (key, dump) in keys.iter().zip(dumps) {
        old.cmd("RESTORE").arg(key).arg(0).arg(dump).ignore();
    }
    for _ in 0..5 {
        load.place_more(20).await;
    }
    let () = old.query_async(&mut redis).await.unwrap();
    load.place_more(20).await;
    run(&["verify", "--repair", "--in-flight", "5s"]);
    let placed = load.stop().await;
    services.stores.until_nothing_differs().await;
    println!("outages: {placed} orders while Redis was emptied and set back, none lost, none counted twice");
}
