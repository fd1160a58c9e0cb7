//! A Redis that loses single keys while orders are placed.

use redis::aio::MultiplexedConnection;
use sea_orm::{ConnectionTrait, Database};
use serde_json::Value;
use test_support::load::Load;
use test_support::process::command;
use test_support::services::{Services, Stores, sql};
use test_support::until;

/// A key of the first generation in the partition of client 1.
fn key(name: &str) -> String {
    format!("orders:{{p1}}:g1:{name}")
}

async fn delete(redis: &mut MultiplexedConnection, pattern: &str) -> usize {
    let keys: Vec<String> = redis::cmd("KEYS").arg(pattern).query_async(redis).await.unwrap();
    for key in &keys {
        let () = redis::cmd("DEL").arg(key).query_async(redis).await.unwrap();
    }
    keys.len()
}

/// What `verify` prints, line by line.
fn differences(stores: &Stores) -> Vec<Value> {
    let arguments = ["verify", "--in-flight", "2s", "--json"];
    let output = command("projector", &arguments, &stores.variables()).output().unwrap();
    let lines = String::from_utf8(output.stdout).unwrap();
    lines
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .filter(|line: &Value| line["seconds"].is_null())
        .collect()
}

/// The number of orders of client 1 in the database.
async fn placed(stores: &Stores) -> i64 {
    let db = Database::connect(stores.postgres.connection_uri()).await.unwrap();
    let count = "SELECT count(*) AS count FROM orders WHERE client_id = 1";
    db.query_one_raw(sql(count)).await.unwrap().unwrap().try_get("", "count").unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lost_key_makes_no_right_sum_wrong_and_is_repaired_or_reported() {
    let services = tokio::task::spawn_blocking(|| {
        let mut stores = Stores::prepared();
        stores.set("SWEEP_INTERVAL", "200ms");
        stores.set("IN_FLIGHT", "2s");
        Services::start_on(stores, 1)
    })
    .await
    .unwrap();
    let stores = &services.stores;
    let load = Load::start(&services.users, 4);
    load.place_more(30).await;
    let mut redis = stores.redis_client().get_multiplexed_async_connection().await.unwrap();
    for lost in ["client:1", "recent:1", "rank:total", "rank:last", "catalogue", "client:1"].map(key) {
        assert_eq!(delete(&mut redis, &lost.replace('{', "\\{")).await, 1, "{lost}");
        let at_least = placed(stores).await;
        load.place_more(20).await;
        until("the client is complete again", async || {
            let orders = redis::cmd("HGET").arg(key("client:1")).arg("orders").query_async(&mut redis).await;
            let recent = redis::cmd("ZCARD").arg(key("recent:1")).query_async(&mut redis).await;
            let price = redis::cmd("HEXISTS").arg(key("catalogue")).arg(1).query_async(&mut redis).await;
            let (orders, recent, price): (Option<i64>, i64, bool) = (orders.unwrap(), recent.unwrap(), price.unwrap());
            orders >= Some(at_least) && recent >= at_least.min(50) && price
        })
        .await;
    }
    for lost in ["orders:{p1}:fencing_token", "orders:{p1}:generations", "orders:meta", "orders:sweeper"] {
        delete(&mut redis, lost).await;
        load.place_more(20).await;
    }
    load.stop().await;
    stores.until_nothing_differs().await;

    // Lost sums are reported, and everything else stays right.
    let load = Load::start(&services.users, 4);
    for lost in ["days:*", "half_hours:*", "moments:*", "products:*"].map(key) {
        assert!(delete(&mut redis, &lost).await > 0, "{lost}");
        load.place_more(10).await;
    }
    load.stop().await;
    let found = tokio::task::block_in_place(|| {
        let mut found = differences(stores);
        while found.iter().any(|line| line["period"].is_null()) {
            found = differences(stores); // a client whose events are on their way
        }
        found
    });
    assert!(!found.is_empty());
    for line in &found {
        let number = |sum: &str| line[sum]["count"].as_i64().unwrap();
        assert!(number("sum") < number("least"), "only what was lost is missing: {line}");
    }
    for length in ["2026-11".len(), "2026-11-27".len(), "2026-11-27T08".len(), "2026-11-27T08:00:00".len()] {
        let is_reported = |line: &Value| line["period"].as_str().unwrap().len() == length;
        assert!(found.iter().any(is_reported), "{length}: {found:?}");
    }
    tokio::task::block_in_place(|| stores.run("projector", &["rebuild", "start", "--keep", "0s"]));
    stores.until_nothing_differs().await;
}
