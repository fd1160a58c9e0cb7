//! Redis against Memory, which runs the rules directly.

use chrono::{Days, Utc};
use entity::{Change, Event, Subject};
use iso_currency::Currency;
use proptest::prelude::*;
use proptest::test_runner::{Config, TestRunner};
use rand::prelude::IndexedRandom;
use rand::rngs::StdRng;
use rand::{Rng as _, SeedableRng};
use read_model::reports::{self, DayRange, Granularity};
use read_model::{
    Applied, Error, Memory, ProjectedClient, Projection, Queries, Ranking, ReadModel, Redis, Sales, Side, Sum,
};
use redis::aio::ConnectionLike;
use redis::cluster::ClusterClient;
use redis_test::server::RedisServer;
use std::collections::{BTreeSet, HashMap};
use tokio::runtime::Runtime;

use crate::support::{FORGOTTEN, all_of, cancelled, client_of, cluster, dated, event, priced, server};

/// Any order of deliveries, with repeats, of each client's events 1 to n, some of them never delivered at all. One of four is
/// of a product.
fn histories() -> impl Strategy<Value = Vec<(bool, i64, i32)>> {
    prop::collection::vec((prop::bool::weighted(0.25), 1..=4i64, 1..=12i32), 1..80)
}

#[test]
fn redis_equals_memory_for_any_order_and_repeats() {
    let runtime = Runtime::new().unwrap();
    let server = runtime.block_on(server());
    let connection = runtime.block_on(::redis::Client::open(&*server.url).unwrap().get_multiplexed_async_connection());
    equals_memory(&runtime, &server.url, connection.unwrap(), 400);
}

#[test]
fn a_cluster_equals_memory_for_any_order_and_repeats() {
    let runtime = Runtime::new().unwrap();
    let (cluster, url) = cluster();
    let nodes: Vec<_> = cluster.iter_servers().map(RedisServer::connection_info).collect();
    let connection = runtime.block_on(ClusterClient::new(nodes).unwrap().get_async_connection());
    equals_memory(&runtime, &url, connection.unwrap(), 60);
}

fn equals_memory(runtime: &Runtime, url: &str, connection: impl ConnectionLike + Clone, cases: u32) {
    let redis = runtime.block_on(Redis::connect(url, 3, Currency::USD)).unwrap();
    let ids = [1, 2, 3, 4, 5];
    let strategy = (histories(), 1usize..12);
    let config = Config { cases, failure_persistence: None, ..Config::default() };
    TestRunner::new(config)
        .run(&strategy, |(history, batch)| {
            runtime.block_on(async {
                let () = ::redis::cmd("FLUSHDB").query_async(&mut connection.clone()).await.unwrap();
                let (memory, now) = (Memory::default(), Utc::now());
                let of_history = |(is_product, id, version)| match is_product {
                    true => priced(id, version),
                    false => dated(id, version, now),
                };
                let history: Vec<Event> = history.into_iter().map(of_history).collect();
                for events in history.chunks(batch) {
                    prop_assert_eq!(redis.apply(events).await, memory.apply(events).await);
                    prop_assert_eq!(redis.clients(&ids).await, memory.clients(&ids).await);
                }
                let (stored, specified) = (all_of(&redis, now).await, all_of(&memory, now).await);
                prop_assert!(stored == specified, "{stored:#?}\n{specified:#?}");
                // Check without the rules: each delivered version counts once, and the watermark is the last version before
                // the first gap.
                let mut delivered: HashMap<i64, BTreeSet<i32>> = HashMap::new();
                for event in &history {
                    if let Subject::Client(client) = event.subject() {
                        delivered.entry(client).or_default().insert(event.version);
                    }
                }
                for (id, client) in ids.iter().zip(memory.clients(&ids).await.unwrap()) {
                    let Some(versions) = delivered.get(id) else {
                        prop_assert_eq!(client, None);
                        continue;
                    };
                    let client = client.unwrap();
                    let newest = *versions.last().unwrap();
                    let events: Vec<Event> = versions.iter().map(|version| dated(*id, *version, now)).collect();
                    prop_assert_eq!(client.sales(), sales_of(&events));
                    let email = match newest {
                        FORGOTTEN => format!("forgotten-{id}@invalid"),
                        _ => format!("{id}.{newest}@example.com"),
                    };
                    prop_assert_eq!((client.email, client.name == "Forgotten client"), (email, newest == FORGOTTEN));
                    prop_assert_eq!(client.version, (1..).take_while(|v| versions.contains(v)).count() as i32);
                }
                let counted = delivered.iter().flat_map(|(client, versions)| versions.iter().map(|v| (*client, *v)));
                let counted: Vec<Event> = counted.map(|(client, version)| dated(client, version, now)).collect();
                let sales = sales_of(&counted);
                let (today, long_ago) = (now.date_naive(), now.date_naive() - Days::new(1_801));
                let report = reports::report(&redis, DayRange::utc(long_ago, today), Granularity::Month).await.unwrap();
                prop_assert_eq!(report.total, sales);
                let sold = reports::product_sales(&redis, &reports::periods(long_ago, today)).await.unwrap();
                prop_assert_eq!(sold.values().map(|sold| sold.net().revenue).sum::<i64>(), sales.net().revenue);
                Ok(())
            })
        })
        .unwrap();
}

/// Adds up orders, cancellations and refunds without the rules.
fn sales_of(events: &[Event]) -> Sales {
    let mut sales = Sales::default();
    for event in events {
        match &event.data {
            Change::OrderPlaced(order) => sales.add(Side::Gross, Sum { count: 1, revenue: order.total }),
            Change::OrderCancelled(refund) => sales.add(Side::Cancelled, Sum { count: 1, revenue: refund.amount }),
            Change::OrderRefunded(refund) => sales.add(Side::Cancelled, Sum { count: 0, revenue: refund.amount }),
            Change::Client(_) | Change::Product(_) => {}
        }
    }
    sales
}

/// A Cluster moves the keys of a slot one after the other. A command for a key that has moved is redirected to the other node.
#[tokio::test]
async fn nothing_is_applied_while_a_cluster_moves_a_partition() {
    let (cluster, url) = tokio::task::spawn_blocking(cluster).await.unwrap();
    let redis = Redis::connect(&url, 1, Currency::USD).await.unwrap();
    let (memory, now) = (Memory::default(), Utc::now());
    let first: Vec<Event> = (1..=4).map(|client| dated(client, 1, now)).collect();
    // Client 5 is not stored yet.
    let second: Vec<Event> = (1..=5).map(|client| dated(client, 2, now)).collect();
    for model in [&redis as &dyn ReadModel, &memory] {
        assert!(model.apply(&first).await.iter().all(|result| *result == Ok(Applied::Now)));
    }
    let before = all_of(&memory, now).await;

    let mut nodes = Vec::new();
    for server in cluster.iter_servers() {
        let client = ::redis::Client::open(server.connection_info()).unwrap();
        nodes.push((client.get_multiplexed_async_connection().await.unwrap(), server.host_and_port().unwrap().1));
    }
    let ask = async |node: usize, words: &[&str]| -> ::redis::Value {
        ::redis::cmd(words[0]).arg(&words[1..]).query_async(&mut nodes[node].0.clone()).await.unwrap()
    };
    let text = |value| ::redis::from_redis_value::<String>(value).unwrap();
    let slot = text(ask(0, &["CLUSTER", "KEYSLOT", "{p0}"]).await);
    let mut keys: Vec<String> = Vec::new();
    let mut source = 0;
    for node in 0..3 {
        let found = ask(node, &["CLUSTER", "GETKEYSINSLOT", &slot, "1000"]).await;
        let found: Vec<String> = ::redis::from_redis_value(found).unwrap();
        if !found.is_empty() {
            (source, keys) = (node, found);
        }
    }
    let (target, port) = ((source + 1) % 3, nodes[(source + 1) % 3].1.to_string());
    let (source_id, target_id) =
        (text(ask(source, &["CLUSTER", "MYID"]).await), text(ask(target, &["CLUSTER", "MYID"]).await));
    ask(target, &["CLUSTER", "SETSLOT", &slot, "IMPORTING", &source_id]).await;
    ask(source, &["CLUSTER", "SETSLOT", &slot, "MIGRATING", &target_id]).await;
    // Clients first, then the fencing token, then the rest.
    keys.sort_by_key(|key| (!key.contains("client:"), !key.contains("fencing_token"), key.clone()));
    for moved in [2, 3, usize::MAX] {
        let moved = moved.min(keys.len());
        let some: Vec<&str> = keys.iter().take(moved).map(String::as_str).collect();
        let migrate = ["MIGRATE", "127.0.0.1", &port, "", "0", "5000", "KEYS"];
        ask(source, &[&migrate[..], &some].concat()).await;
        assert!(all_of(&redis, now).await == before, "queries read keys while they move");
        let results = redis.apply(&second).await;
        let are_held = results.iter().all(|result| matches!(result, Err(Error::Unavailable(_))));
        assert!(are_held, "{moved} of {} keys: {results:?}", keys.len());
        assert!(all_of(&redis, now).await == before, "{moved} keys");
        keys.drain(..moved);
    }
    for node in [target, source, (source + 2) % 3] {
        ask(node, &["CLUSTER", "SETSLOT", &slot, "NODE", &target_id]).await;
    }
    for model in [&redis as &dyn ReadModel, &memory] {
        assert!(model.apply(&second).await.iter().all(|result| *result == Ok(Applied::Now)));
    }
    assert!(all_of(&redis, now).await == all_of(&memory, now).await);
}

#[test]
fn a_client_depends_only_on_the_set_of_its_events() {
    let seed: u64 = rand::random();
    let mut random = StdRng::seed_from_u64(seed);
    let events: Vec<Event> = (1..=12).map(|version| event(1, version, version.into())).collect();
    for history in 0..100_000 {
        let (mut projected, mut delivered) = (ProjectedClient::new(1), BTreeSet::new());
        for _ in 0..random.random_range(1..24) {
            let event = events.choose(&mut random).unwrap();
            let expected = if delivered.insert(event.version) { Applied::Now } else { Applied::Before };
            assert_eq!(projected.apply(event).unwrap(), expected, "history {history} of seed {seed}");
        }
        let watermark = (1..).take_while(|version| delivered.contains(version)).count() as i32;
        let total: i64 = delivered.iter().map(|version| i64::from(*version) * 2).sum();
        let client = &projected.client;
        assert_eq!(
            (client.order_count, client.total, client.version, projected.newest),
            (delivered.len() as i64, total, watermark, *delivered.last().unwrap()),
            "history {history} of seed {seed}"
        );
        assert!(projected.ahead.iter().eq(delivered.range(watermark + 1..)), "history {history} of seed {seed}");
    }
}

/// A query first reads a little more than an equal share from each partition.
#[tokio::test]
async fn rankings_are_exact_if_one_partition_has_most_clients() {
    let server = server().await;
    let (redis, memory) = (Redis::connect(&server.url, 16, Currency::USD).await.unwrap(), Memory::default());
    let clients = (1..=100).chain((1..=100).map(|client| client * 16 + 1_600));
    // Half of them have the same total.
    let total = |client: i64| if client % 2 == 0 { 70 } else { client % 1_000 };
    let events: Vec<Event> = clients.map(|client| event(client, 1, total(client))).collect();
    // Of some, half of the order is refunded, and of others more than has arrived.
    let refunds: Vec<Event> = events
        .iter()
        .step_by(5)
        .map(|order| cancelled(event(client_of(order), 2, 1), order, |line| line / 2))
        .collect();
    let too_early = [10_040, 10_041].map(|client| cancelled(event(client, 2, 1), &event(client, 1, 7), |line| line));
    let events = [events, refunds, too_early.into()].concat();
    for model in [&redis as &dyn ReadModel, &memory] {
        assert!(model.apply(&events).await.iter().all(Result::is_ok));
    }
    let first = memory.ranked_clients(Ranking::Total, None, 300).await.unwrap();
    assert_eq!((first.len(), first[201].rank), (202, -14), "its cancellation is here before its order");
    for by in [Ranking::Total, Ranking::LastPurchase] {
        for count in [1, 4, 5, 20, 101, 199, 202, 300] {
            let first = memory.ranked_clients(by, None, count).await.unwrap();
            assert_eq!(redis.ranked_clients(by, None, count).await.unwrap(), first);
            for after in first.into_iter().rev().step_by(7).map(Some) {
                assert_eq!(
                    redis.ranked_clients(by, after, count).await.unwrap(),
                    memory.ranked_clients(by, after, count).await.unwrap()
                );
            }
        }
    }
}
