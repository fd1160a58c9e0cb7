//! The read model on a Redis Cluster of three shards that are moved, restarted and lost while orders are placed.

use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use serde_json::Value;
use test_support::load::Load;
use test_support::redis_cluster::{self, Shard, until_complete};
use test_support::services::{Services, Stores};
use test_support::until;
use test_support::user::{SAMPLE_ORDER, User};
use tokio::task::block_in_place;

const CLIENTS: usize = 32;

/// Places an order for each client, and waits until the client can be read with it.
async fn check_each_client(user: &User) {
    for client in 1..=CLIENTS {
        let client = client.to_string();
        let (_, version) = user.place(&client, &SAMPLE_ORDER, None).await;
        until("the client has its order", async || {
            let query = format!("{{ client(id: {client}, minVersion: {version}) {{ version }} }}");
            user.graphql(&query).await["data"]["client"]["version"].as_i64() >= Some(version)
        })
        .await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn no_order_is_lost_while_shards_move_restart_or_lose_their_data() {
    let mut shards = redis_cluster::start(None).await;
    let services = block_in_place(|| {
        let mut stores = Stores::prepared();
        stores.set("REDIS_URL", &redis_cluster::url(&shards));
        stores.set("SWEEP_INTERVAL", "500ms");
        stores.set("IN_FLIGHT", "5s");
        Services::start_on(stores, 1)
    });
    let (stores, user) = (&services.stores, &services.users[0]);
    stores.add_clients(CLIENTS as i64).await;
    let keys = |shard: &Shard| shard.run(&["keys", "*:client:*"]).lines().filter(|line| !line.is_empty()).count();
    check_each_client(user).await;
    assert!(shards.iter().all(|shard| keys(shard) > 0), "each shard has some clients");

    // These orders must be accepted whatever happens to the read model.
    let load = Load::start_with(&services.users, 4, |user, writer, turn| async move {
        let client = (writer * CLIENTS / 4 + turn) % CLIENTS + 1;
        user.place(&client.to_string(), &SAMPLE_ORDER, None).await;
        tokio::time::sleep(Duration::from_millis(5)).await;
    });
    load.place_more(100).await;
    let (from, to) = (shards[0].run(&["cluster", "myid"]), shards[1].run(&["cluster", "myid"]));
    let slot = |partition| shards[0].run(&["cluster", "keyslot", &format!("{{p{partition}}}")]).parse::<u32>().unwrap();
    let mut slots: Vec<u32> = (0..16).map(slot).collect();
    slots.sort_unstable();
    let number = (slots[1] + 1).to_string(); // enough slots to hold two partitions
    let before = keys(&shards[0]);
    let reshard = ["--cluster", "reshard", &shards[1].address, "--cluster-from", &from, "--cluster-to", &to];
    let (began, placed) = (Instant::now(), load.placed.load(Ordering::Relaxed));
    block_in_place(|| shards[0].cli(&[&reshard[..], &["--cluster-slots", &number, "--cluster-yes"]].concat()));
    let placed = load.placed.load(Ordering::Relaxed) - placed;
    println!("cluster: {number} slots were moved in {:.1?} while {placed} orders were placed", began.elapsed());
    assert_eq!(keys(&shards[0]), before - 2 * CLIENTS / 16);
    assert!(placed > 0);
    load.place_more(100).await;
    check_each_client(user).await;

    // A shard is killed, and comes back with its data.
    shards[1].kill();
    load.place_more(100).await;
    shards[1].start();
    until_complete(&shards).await;
    load.place_more(100).await;
    check_each_client(user).await;

    // A shard comes back empty: the projector's sweep repairs it.
    shards[2].kill();
    shards[2].lose_data();
    shards[2].start();
    until_complete(&shards).await;
    load.place_more(100).await;
    let placed = load.stop().await + 3 * CLIENTS;
    stores.until_nothing_differs().await;
    let report: Value = serde_json::from_str(
        block_in_place(|| stores.run("projector", &["verify", "--json", "--in-flight", "0s"])).lines().last().unwrap(),
    )
    .unwrap();
    assert_eq!((&report["differences"], &report["wrongSums"]), (&0.into(), &0.into()), "{report}");
    assert_eq!(block_in_place(|| stores.run("projector", &["dead-letters", "list", "--json"])), "");
    let counted = user.graphql("{ clients(first: 100) { nodes { orderCount } } }").await;
    let counted = counted["data"]["clients"]["nodes"].as_array().unwrap_or_else(|| panic!("{counted}"));
    let counted: u64 = counted.iter().map(|client| client["orderCount"].as_u64().unwrap()).sum();
    assert_eq!(counted as usize, placed);

    // After a rebuild, the old generation is gone from all shards.
    block_in_place(|| stores.run("projector", &["rebuild", "start", "--keep", "0s"]));
    let has_no_old_keys = |shard: &Shard| shard.run(&["keys", "*:g1:*"]).trim().is_empty();
    until("the old generation is gone", async || shards.iter().all(has_no_old_keys)).await;
    check_each_client(user).await;

    // The shard that stores which generation is live comes back empty: the other shards know it as well.
    assert_eq!(shards[1].run(&["exists", "orders:meta"]), "1");
    shards[1].kill();
    shards[1].lose_data();
    shards[1].start();
    until_complete(&shards).await;
    stores.until_nothing_differs().await;
    assert!(shards.iter().all(has_no_old_keys), "the old generation does not come back");
    check_each_client(user).await;
    println!(
        "cluster: {placed} orders while a shard was moved, one restarted and two lost: none lost, none counted twice"
    );
}
