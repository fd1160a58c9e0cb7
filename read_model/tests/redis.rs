//! The read model in Redis against the one in memory, which is the specification, on a real `redis-server`.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::time::Duration;

use chrono::{DateTime, Datelike, Days, SubsecRound, Utc};
use entity::event::{self, Line};
use entity::{Change, ClientChanged, Event, OrderPlaced, ProductChanged, Subject};
use futures::future::join_all;
use futures::{FutureExt, StreamExt};
use iso_currency::Currency;
use proptest::prelude::*;
use proptest::test_runner::{Config, TestRunner};
use rand::prelude::{IndexedRandom, SliceRandom};
use rand::rngs::StdRng;
use rand::{Rng as _, SeedableRng};
use read_model::generations::{FORMAT, Generation, GenerationState, TransitionError};
use read_model::redis::KEEP_ORDERS;
use read_model::reports::{self, Granularity};
use read_model::{
    Applied, Awaited, ConnectError, Cursor, Error, Generations, Memory, ProjectedClient, Projection, Queries, Ranking,
    ReadModel, Redis, Sum, client_at,
};
use redis::aio::ConnectionLike;
use redis::cluster::ClusterClient;
use redis_test::cluster::{RedisCluster, RedisClusterConfiguration};
use redis_test::server::RedisServer;
use tokio::runtime::Runtime;
use uuid::Uuid;

struct Server {
    process: RedisServer,
    url: String,
}

async fn server() -> Server {
    let process = RedisServer::new();
    let (host, port) = process.host_and_port().unwrap();
    let url = format!("redis://{host}:{port}");
    wait_until_up(&url).await;
    Server { process, url }
}

/// Three nodes that share the slots, and their URLs.
fn cluster() -> (RedisCluster, String) {
    let cluster = RedisCluster::new(RedisClusterConfiguration::default());
    let url = |server: &RedisServer| server.host_and_port().map(|(host, port)| format!("redis://{host}:{port}"));
    let urls: Vec<String> = cluster.iter_servers().filter_map(url).collect();
    (cluster, urls.join(","))
}

async fn wait_until_up(url: &str) {
    let client = ::redis::Client::open(url).unwrap();
    until("redis-server answers", async || client.get_multiplexed_async_connection().await.is_ok()).await;
}

async fn until(what: &str, mut condition: impl AsyncFnMut() -> bool) {
    let deadline = tokio::time::Instant::now() + Duration::from_secs(30);
    while !condition().await {
        assert!(tokio::time::Instant::now() < deadline, "never: {what}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

async fn command(server: &Server, command: &[&str]) -> ::redis::Value {
    let client = ::redis::Client::open(server.url.as_str()).unwrap();
    let mut connection = client.get_multiplexed_async_connection().await.unwrap();
    ::redis::cmd(command[0]).arg(&command[1..]).query_async(&mut connection).await.unwrap()
}

fn event(client_id: i64, version: i32, unit_price: i64) -> Event {
    let lines = vec![Line { product_id: 1, name: "Computer".into(), unit_price, quantity: 2 }];
    Event {
        id: Uuid::now_v7(),
        time: DateTime::from_timestamp_millis(1_700_000_000_000 + i64::from(version)).unwrap(),
        version,
        data: Change::OrderPlaced(OrderPlaced {
            client_id,
            client_name: format!("Client {client_id}, as of {version} \u{0} \u{1f600}"),
            client_email: format!("{client_id}.{version}@example.com"),
            order_id: Uuid::now_v7(),
            currency: "USD".into(),
            total: event::total(&lines).unwrap(),
            lines,
        }),
    }
}

fn order_of(event: &mut Event) -> &mut OrderPlaced {
    let Change::OrderPlaced(order) = &mut event.data else { panic!("no order") };
    order
}

fn client_of(event: &Event) -> i64 {
    event.client().unwrap().id
}

/// The event of a client's version, the same each time it is delivered: at some time from now to five years ago.
fn dated(client_id: i64, version: i32, now: DateTime<Utc>) -> Event {
    let mut event = event(client_id, version, version.into());
    let number = client_id * 1_000 + i64::from(version);
    let ago = [0, 1, 59, 3_600, 86_400, 20 * 86_400, 100 * 86_400, 1_800 * 86_400][(number * 7 % 8) as usize];
    event.time = DateTime::from_timestamp_millis(now.timestamp_millis() - ago * 1_000 - number % 3).unwrap();
    let order = order_of(&mut event);
    let line = |product_id| Line { product_id, ..order.lines[0].clone() };
    order.lines = (0..=number % 3).map(|line_number| line(1 + (number + line_number) % 5)).collect();
    order.total = event::total(&order.lines).unwrap();
    order.order_id = Uuid::from_u128(number as u128);
    if number % 4 == 0 {
        let OrderPlaced { client_id, client_name, client_email, .. } = order.clone();
        event.data = Change::Client(ClientChanged { client_id, client_name, client_email });
    }
    event
}

/// Any order of deliveries, with repeats, of each client's events 1 to n, some of them never delivered at all. One of four is
/// of a product.
fn histories() -> impl Strategy<Value = Vec<(bool, i64, i32)>> {
    prop::collection::vec((prop::bool::weighted(0.25), 1..=4i64, 1..=12i32), 1..80)
}

fn priced(product_id: i64, version: i32) -> Event {
    let (name, currency) = (format!("Product {product_id} as of {version}"), "USD".to_owned());
    let data = Change::Product(ProductChanged { product_id, name, price: version.into(), currency });
    Event { id: Uuid::now_v7(), time: Utc::now(), version, data }
}

/// All that can be read, of clients 1 to 5 and around their orders.
async fn all_of(model: &dyn ReadModel, now: DateTime<Utc>) -> impl PartialEq + std::fmt::Debug + use<> {
    let ids = [1, 2, 3, 4, 5];
    let (today, long_ago) = (now.date_naive(), now.date_naive() - Days::new(1_801));
    let mut ranked = Vec::new();
    for by in [Ranking::Total, Ranking::LastPurchase] {
        // A page at a time, as it is read.
        let mut after = None;
        loop {
            let page = model.ranked_clients(by, after, 2).await.unwrap();
            let Some(last) = page.last() else { break };
            after = Some(*last);
            ranked.extend(page);
        }
    }
    let mut reports = Vec::new();
    for (from, granularity) in [
        (long_ago, Granularity::Day),
        (long_ago, Granularity::Month),
        (today - Days::new(3), Granularity::Hour),
        (today - Days::new(101), Granularity::Hour),
    ] {
        reports.push(reports::report(model, from, today, granularity).await.unwrap());
    }
    let mut products = Vec::new();
    for from in [long_ago, today - Days::new(40), today] {
        let sold = model.product_sales(&reports::periods(from, today)).await.unwrap();
        products.push(sold.into_iter().collect::<BTreeMap<_, _>>());
    }
    let numbers = (1..=4i64).flat_map(|client| (1..=12).map(move |version| (client, version)));
    let orders = join_all(numbers.map(async |(client, version)| {
        let id = Uuid::from_u128((client * 1_000 + version) as u128);
        let order = model.order(id, None).await.unwrap();
        assert_eq!(model.order(id, Some(client)).await.unwrap(), order);
        assert_eq!(model.order(id, Some(client + 1)).await.unwrap(), None, "another's");
        order
    }))
    .await;
    let recent = model.recent_orders(&ids, 5).await.unwrap();
    let latest = reports::latest_orders(model, 10).await.unwrap();
    let today = reports::today(model, now).await.unwrap();
    let clients = (model.clients(&ids).await.unwrap(), model.products(&ids).await.unwrap());
    (clients, ranked, reports, products, orders, recent, latest, today)
}

#[test]
fn redis_does_what_memory_does_in_any_order_with_any_repeats() {
    let runtime = Runtime::new().unwrap();
    let server = runtime.block_on(server());
    let connection = runtime.block_on(::redis::Client::open(&*server.url).unwrap().get_multiplexed_async_connection());
    does_what_memory_does(&runtime, &server.url, connection.unwrap(), 400);
}

#[test]
fn a_cluster_does_what_memory_does_in_any_order_with_any_repeats() {
    let runtime = Runtime::new().unwrap();
    let (cluster, url) = cluster();
    let nodes: Vec<_> = cluster.iter_servers().map(RedisServer::connection_info).collect();
    let connection = runtime.block_on(ClusterClient::new(nodes).unwrap().get_async_connection());
    does_what_memory_does(&runtime, &url, connection.unwrap(), 60);
}

fn does_what_memory_does(runtime: &Runtime, url: &str, connection: impl ConnectionLike + Clone, cases: u32) {
    let redis = runtime.block_on(Redis::connect(url, 3, Currency::USD)).unwrap();
    let ids = [1, 2, 3, 4, 5];
    let keep = Duration::from_secs(30 * 86_400);
    let strategy = (histories(), 1usize..12);
    let config = Config { cases, failure_persistence: None, ..Config::default() };
    TestRunner::new(config)
        .run(&strategy, |(history, batch)| {
            runtime.block_on(async {
                let () = ::redis::cmd("FLUSHDB").query_async(&mut connection.clone()).await.unwrap();
                let (memory, now) = (Memory::new(keep), Utc::now());
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
                // What the rules promise, said without them: each delivered version counts once, and the watermark is
                // the end of the unbroken run from 1.
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
                    let totals = events.iter().filter_map(|event| Some(event.order()?.total));
                    prop_assert_eq!(client.order_count, totals.clone().count() as i64);
                    prop_assert_eq!(client.total, totals.sum::<i64>());
                    prop_assert_eq!(client.email, format!("{id}.{newest}@example.com"));
                    prop_assert_eq!(client.version, (1..).take_while(|v| versions.contains(v)).count() as i32);
                }
                let counted = delivered.iter().flat_map(|(client, versions)| versions.iter().map(|v| (*client, *v)));
                let counted: Vec<Event> = counted.map(|(client, version)| dated(client, version, now)).collect();
                let counted: Vec<&OrderPlaced> = counted.iter().filter_map(Event::order).collect();
                let revenue: i64 = counted.iter().map(|order| order.total).sum();
                let (today, long_ago) = (now.date_naive(), now.date_naive() - Days::new(1_801));
                let report = reports::report(&redis, long_ago, today, Granularity::Month).await.unwrap();
                prop_assert_eq!(report.total, Sum { revenue, count: counted.len() as i64 });
                let sold = redis.product_sales(&reports::periods(long_ago, today)).await.unwrap();
                prop_assert_eq!(sold.values().map(|sold| sold.revenue).sum::<i64>(), revenue);
                Ok(())
            })
        })
        .unwrap();
}

/// A Cluster moves the keys of a slot one after the other, and whatever asks for one that is not there goes to the other node.
#[tokio::test]
async fn nothing_is_applied_where_only_some_keys_of_a_partition_are() {
    let (cluster, url) = tokio::task::spawn_blocking(cluster).await.unwrap();
    let redis = Redis::connect(&url, 1, Currency::USD).await.unwrap();
    let (memory, now) = (Memory::new(KEEP_ORDERS), Utc::now());
    let first: Vec<Event> = (1..=4).map(|client| dated(client, 1, now)).collect();
    // Of a client that is there, and of one that is not yet.
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
    // Clients first, then what decides whether a script is run at all, and the rest.
    keys.sort_by_key(|key| (!key.contains("client:"), !key.contains("fencing_token"), key.clone()));
    for moved in [2, 3, usize::MAX] {
        let moved = moved.min(keys.len());
        let some: Vec<&str> = keys.iter().take(moved).map(String::as_str).collect();
        let migrate = ["MIGRATE", "127.0.0.1", &port, "", "0", "5000", "KEYS"];
        ask(source, &[&migrate[..], &some].concat()).await;
        assert!(all_of(&redis, now).await == before, "what moves is read");
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
fn a_hundred_thousand_histories_end_as_sets_would() {
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

/// Each partition is asked for a little more than its share at first.
#[tokio::test]
async fn the_first_clients_are_found_also_where_most_are_of_one_partition() {
    let server = server().await;
    let (redis, memory) = (Redis::connect(&server.url, 16, Currency::USD).await.unwrap(), Memory::default());
    let clients = (1..=100).chain((1..=100).map(|client| client * 16 + 1_600));
    // Half of them have the same total.
    let total = |client: i64| if client % 2 == 0 { 70 } else { client % 1_000 };
    let events: Vec<Event> = clients.map(|client| event(client, 1, total(client))).collect();
    for model in [&redis as &dyn ReadModel, &memory] {
        assert!(model.apply(&events).await.iter().all(Result::is_ok));
    }
    for by in [Ranking::Total, Ranking::LastPurchase] {
        for count in [1, 4, 5, 20, 101, 199, 200, 300] {
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

/// A message that was a dead letter for a month, and the log replayed in any order.
#[tokio::test]
async fn what_comes_again_ten_thousand_events_later_changes_nothing() {
    let server = server().await;
    let redis = Redis::connect(&server.url, 16, Currency::USD).await.unwrap();
    let mut log: Vec<Event> = (1..=10_000).map(|version| event(1, version, 5)).collect();
    for events in log.chunks(1_000) {
        assert!(redis.apply(events).await.iter().all(|result| *result == Ok(Applied::Now)));
    }
    let before = redis.projected_clients(&[1]).await.unwrap();
    assert_eq!(redis.apply(&log[..1]).await, [Ok(Applied::Before)]);
    let mut random = StdRng::from_os_rng();
    for _ in 0..3 {
        log.shuffle(&mut random);
        for events in log.chunks(1_000) {
            assert!(redis.apply(events).await.iter().all(|result| *result == Ok(Applied::Before)));
        }
    }
    assert_eq!(redis.projected_clients(&[1]).await.unwrap(), before);
}

#[tokio::test]
async fn memory_per_client_is_constant_once_gaps_are_closed() {
    let server = server().await;
    let redis = Redis::connect(&server.url, 16, Currency::USD).await.unwrap();
    let key = "orders:{p7}:g1:client:7";
    redis.apply(&[event(7, 1, 5)]).await[0].clone().unwrap();
    let fields = command(&server, &["HLEN", key]).await;
    let late_first: Vec<Event> = (2..=500).rev().map(|version| event(7, version, 5)).collect();
    assert!(redis.apply(&late_first).await.iter().all(|result| *result == Ok(Applied::Now)));
    assert_eq!(command(&server, &["HLEN", key]).await, fields);
    assert!(redis.apply(&late_first).await.iter().all(|result| *result == Ok(Applied::Before)));
    assert_eq!(redis.clients(&[7]).await.unwrap()[0].as_ref().unwrap().version, 500);
    // The list of its orders is cut now and then, whichever of them come together.
    for client in [8, 9] {
        let versions: Vec<Event> =
            (1..=300).step_by(client as usize - 7).map(|version| event(client, version, 5)).collect();
        for together in versions.chunks(3) {
            assert!(redis.apply(together).await.iter().all(|result| *result == Ok(Applied::Now)));
            let list = format!("orders:{{p{client}}}:g1:recent:{client}");
            let ::redis::Value::Int(length) = command(&server, &["ZCARD", &list]).await else { panic!("a length") };
            assert!(length <= 50 + 16 + 3, "{length}");
        }
    }
}

#[tokio::test]
async fn totals_are_exact_to_64_bits_and_an_overflow_changes_nothing() {
    let server = server().await;
    let redis = Redis::connect(&server.url, 16, Currency::USD).await.unwrap();
    let memory = Memory::default();
    let models: [&dyn ReadModel; 2] = [&redis, &memory];
    for model in models {
        let huge = |version| {
            let mut event = event(1, version, 0);
            order_of(&mut event).total = i64::MAX / 2; // larger than any order may be, to get there in a few steps
            event
        };
        let applied = model.apply(&[huge(1), huge(2), huge(3)]).await;
        assert_eq!(applied[..2], [Ok(Applied::Now), Ok(Applied::Now)]);
        assert!(matches!(&applied[2], Err(Error::Damaged(_))), "{applied:?}");
        let client = model.clients(&[1]).await.unwrap().remove(0).unwrap();
        assert_eq!((client.total, client.order_count, client.version), (i64::MAX / 2 * 2, 2, 2));
    }
}

#[tokio::test]
async fn damaged_keys_are_named_and_harm_no_other() {
    let server = server().await;
    let redis = Redis::connect(&server.url, 16, Currency::USD).await.unwrap();
    command(&server, &["SET", "orders:{p1}:g1:client:1", "not a hash"]).await;
    command(&server, &["HSET", "orders:{p2}:g1:client:2", "version", "many"]).await;
    for (client, field, value) in [(5, "orders", "1.5"), (6, "newest", "inf"), (7, "version", "9999999999999999")] {
        let key = format!("orders:{{p{client}}}:g1:client:{client}");
        command(&server, &["HSET", &key, field, value]).await;
        for _ in 0..2 {
            assert!(matches!(&redis.apply(&[event(client, 1, 5)]).await[0], Err(Error::Damaged(_))), "{field} {value}");
        }
        assert_eq!(command(&server, &["HLEN", &key]).await, ::redis::Value::Int(1), "nothing was written");
    }
    command(&server, &["HSET", "orders:{p4}:g1:client:4", "total", "1.5", "name", "x", "email", "x", "orders", "1"])
        .await;
    let results = redis.apply(&[event(1, 1, 5), event(2, 1, 5), event(3, 1, 5), event(4, 1, 5)]).await;
    for (damaged, key) in [(0, "client:1"), (1, "client:2"), (3, "client:4")] {
        assert!(matches!(&results[damaged], Err(Error::Damaged(why)) if why.contains(key)), "{results:?}");
    }
    assert_eq!(results[2], Ok(Applied::Now));
    for id in [1, 2, 4] {
        assert!(matches!(redis.clients(&[id]).await, Err(Error::Damaged(_))), "client {id}");
    }
    assert_eq!(redis.clients(&[3]).await.unwrap()[0].as_ref().unwrap().order_count, 1);
}

#[tokio::test]
async fn what_is_kept_for_a_while_goes_by_itself() {
    let server = server().await;
    let redis = Redis::connect(&server.url, 16, Currency::USD).await.unwrap().keeping_orders(Duration::from_secs(600));
    let now = Utc::now();
    let event = Event { time: now, ..event(1, 1, 5) };
    redis.apply(std::slice::from_ref(&event)).await[0].clone().unwrap();
    let days_left = async |name: String| match command(&server, &["PTTL", &format!("orders:{{p1}}:g1:{name}")]).await {
        ::redis::Value::Int(milliseconds) => milliseconds as f64 / 86_400_000.0,
        other => panic!("{other:?}"),
    };
    let hours = days_left(now.format("hours:%Y-%m").to_string()).await;
    assert!((89.9..122.0).contains(&hours), "{hours} days");
    let moments = days_left(now.format("moments:%Y-%m-%dT%H").to_string()).await * 24.0;
    assert!((1.9..=2.0).contains(&moments), "{moments} hours");
    let order = days_left(format!("order:{}", event.order().unwrap().order_id)).await * 86_400.0;
    assert!((590.0..=600.0).contains(&order), "{order} seconds");
    for forever in [now.format("days:%Y").to_string(), now.format("products:%Y-%m-%d").to_string()] {
        assert!(days_left(forever.clone()).await < 0.0, "{forever}");
    }
}

/// Whatever of it is damaged, and however late that is noticed.
#[tokio::test]
async fn an_event_that_cannot_be_applied_leaves_nothing_behind() {
    let server = server().await;
    let redis = Redis::connect(&server.url, 16, Currency::USD).await.unwrap();
    let (memory, now) = (Memory::default(), Utc::now().trunc_subsecs(3));
    let first = Event { version: 1, time: now - Duration::from_millis(1), ..dated(1, 7, now) };
    let second = Event { version: 2, time: now, ..dated(1, 9, now) };
    let of_another = Event { version: 1, time: now, ..dated(17, 9, now) };
    for model in [&redis as &dyn ReadModel, &memory] {
        assert_eq!(model.apply(std::slice::from_ref(&first)).await, [Ok(Applied::Now)]);
    }
    let before = all_of(&memory, now).await;
    assert!(all_of(&redis, now).await == before);
    let day = now.format("%Y-%m-%d");
    let (product, month) = (second.order().unwrap().lines.last().unwrap().product_id, now.format("%Y-%m"));
    let names = ["recent:1", "rank:total", "rank:last"].map(str::to_owned).into_iter();
    let names = names.chain([now.format("days:%Y"), now.format("hours:%Y-%m")].map(|name| name.to_string()));
    for name in names.chain([format!("products:{day}"), format!("products:{month}")]) {
        let (key, aside) = (format!("orders:{{p1}}:g1:{name}"), "orders:{p1}:aside");
        command(&server, &["RENAME", &key, aside]).await;
        command(&server, &["LPUSH", &key, "damaged"]).await;
        let result = redis.apply(std::slice::from_ref(&second)).await.remove(0);
        assert!(matches!(&result, Err(Error::Damaged(why)) if why.contains(&name)), "{name}: {result:?}");
        if name != "recent:1" {
            let result = redis.apply(std::slice::from_ref(&of_another)).await.remove(0);
            assert!(matches!(&result, Err(Error::Damaged(why)) if why.contains(&name)), "{name}: {result:?}");
        }
        command(&server, &["DEL", &key]).await;
        command(&server, &["RENAME", aside, &key]).await;
        assert!(all_of(&redis, now).await == before, "{name}");
        assert_eq!(redis.projected_clients(&[17]).await.unwrap(), [Ok(None)], "{name}");
    }
    // Large sums are not added up by the script.
    let (client, ranking, aside) = ("orders:{p1}:g1:client:1", "orders:{p1}:g1:rank:last", "orders:{p1}:aside");
    let (total, large) = (first.order().unwrap().total.to_string(), "1000000000000000");
    command(&server, &["HSET", client, "total", large]).await;
    command(&server, &["RENAME", ranking, aside]).await;
    command(&server, &["LPUSH", ranking, "damaged"]).await;
    assert!(matches!(redis.apply(std::slice::from_ref(&second)).await[..], [Err(Error::Damaged(_))]));
    assert_eq!(redis.clients(&[1]).await.unwrap()[0].as_ref().unwrap().total.to_string(), large);
    command(&server, &["RENAME", aside, ranking]).await;
    command(&server, &["HSET", client, "total", &total]).await;
    command(&server, &["ZADD", "orders:{p1}:g1:rank:total", &total, "1"]).await;
    assert!(all_of(&redis, now).await == before);
    // Sums have 64 bits.
    let key = format!("orders:{{p1}}:g1:{}", now.format("days:%Y"));
    for cell in [2 * now.ordinal0(), 2 * now.ordinal0() + 1] {
        let cell = format!("#{cell}");
        let sum = command(&server, &["BITFIELD", &key, "SET", "i64", &cell, &i64::MAX.to_string()]).await;
        let result = redis.apply(std::slice::from_ref(&second)).await.remove(0);
        assert!(matches!(&result, Err(Error::Damaged(why)) if why.contains("overflow")), "{result:?}");
        let [sum] = ::redis::from_redis_value::<[i64; 1]>(sum).unwrap();
        command(&server, &["BITFIELD", &key, "SET", "i64", &cell, &sum.to_string()]).await;
        assert!(all_of(&redis, now).await == before);
    }
    let (key, field) = (format!("orders:{{p1}}:g1:products:{month}"), format!("{product}:revenue"));
    let sum = command(&server, &["HGET", &key, &field]).await;
    command(&server, &["HSET", &key, &field, &i64::MAX.to_string()]).await;
    assert!(matches!(redis.apply(std::slice::from_ref(&second)).await[..], [Err(Error::Damaged(_))]));
    let sum = ::redis::from_redis_value::<Option<String>>(sum).unwrap().unwrap_or("0".into());
    command(&server, &["HSET", &key, &field, &sum]).await;
    assert!(all_of(&redis, now).await == before);
    for model in [&redis as &dyn ReadModel, &memory] {
        assert_eq!(model.apply(std::slice::from_ref(&second)).await, [Ok(Applied::Now)]);
    }
    assert!(all_of(&redis, now).await == all_of(&memory, now).await);
}

/// Events of a partition are applied in one step where that can be.
#[tokio::test]
async fn together_each_event_fares_as_it_would_alone() {
    let server = server().await;
    let redis = Redis::connect(&server.url, 1, Currency::USD).await.unwrap();
    let (memory, now) = (Memory::new(KEEP_ORDERS), Utc::now());
    let before = dated(1, 1, now);
    let events: Vec<Event> =
        (1..=5).flat_map(|client| (1..=3).map(move |version| dated(client, version, now))).collect();
    for model in [&redis as &dyn ReadModel, &memory] {
        assert_eq!(model.apply(std::slice::from_ref(&before)).await, [Ok(Applied::Now)]);
    }
    // Noticed late, when all sums have been changed.
    command(&server, &["SET", "orders:{p0}:g1:recent:3", "damaged"]).await;
    let results = redis.apply(&[&events[..], &events[3..5], &events[6..7]].concat()).await;
    for (event, result) in events.iter().zip(&results) {
        let (client, version) = (client_of(event), event.version);
        match (client, version) {
            (3, _) => assert!(matches!(result, Err(Error::Damaged(why)) if why.contains("recent:3")), "{result:?}"),
            (1, 1) => assert_eq!(*result, Ok(Applied::Before)),
            _ => assert_eq!(*result, Ok(Applied::Now), "version {version} of client {client}"),
        }
    }
    assert_eq!(results[15..17], [Ok(Applied::Before), Ok(Applied::Before)], "they came twice");
    assert!(matches!(&results[17], Err(Error::Damaged(_))), "it came twice, and was not applied: {:?}", results[17]);
    command(&server, &["DEL", "orders:{p0}:g1:recent:3"]).await;
    let of_others: Vec<Event> = events.iter().filter(|event| client_of(event) != 3).cloned().collect();
    memory.apply(&of_others).await;
    let (stored, specified) = (all_of(&redis, now).await, all_of(&memory, now).await);
    assert!(stored == specified, "{stored:#?}\n{specified:#?}");
}

#[tokio::test]
async fn a_full_or_demoted_server_is_unavailable_and_changes_nothing() {
    let server = server().await;
    let redis = Redis::connect(&server.url, 16, Currency::USD).await.unwrap();
    redis.apply(&[event(1, 1, 5)]).await[0].clone().unwrap();
    let before = redis.clients(&[1]).await;
    let outages: [[&[&str]; 2]; 2] = [
        [&["CONFIG", "SET", "maxmemory", "1"], &["CONFIG", "SET", "maxmemory", "0"]],
        [&["REPLICAOF", "127.0.0.1", "1"], &["REPLICAOF", "NO", "ONE"]],
    ];
    for [begin, end] in outages {
        command(&server, begin).await;
        let result = redis.apply(&[event(1, 2, 5)]).await.remove(0);
        assert!(matches!(result, Err(Error::Unavailable(_))), "{begin:?}: {result:?}");
        command(&server, end).await;
    }
    assert_eq!(redis.clients(&[1]).await, before);
    assert_eq!(redis.apply(&[event(1, 2, 5), event(1, 3, 5)]).await, [Ok(Applied::Now), Ok(Applied::Now)]);

    // A replica that knows other generations than this process: it leaves that server as well, for what the URL names then.
    let connected = async || match command(&server, &["INFO", "stats"]).await {
        ::redis::Value::VerbatimString { text, .. } => text,
        ::redis::Value::BulkString(text) => String::from_utf8(text).unwrap(),
        other => panic!("{other:?}"),
    };
    command(&server, &["SET", "orders:{p1}:fencing_token", "1"]).await;
    command(&server, &["REPLICAOF", "127.0.0.1", "1"]).await;
    let received = |stats: &str| {
        let line = stats.lines().find_map(|line| line.strip_prefix("total_connections_received:"));
        line.unwrap().parse::<u64>().unwrap()
    };
    assert!(matches!(redis.apply(&[event(1, 4, 5)]).await[..], [Err(Error::Unavailable(_))]));
    let before = received(&connected().await);
    command(&server, &["REPLICAOF", "NO", "ONE"]).await;
    assert_eq!(redis.apply(&[event(1, 4, 5)]).await, [Ok(Applied::Now)]);
    // One for each command of this test, and one more.
    assert_eq!(received(&connected().await), before + 3);
}

#[tokio::test]
async fn processes_that_disagree_refuse_to_start() {
    let server = server().await;
    Redis::connect(&server.url, 16, Currency::USD).await.unwrap();
    Redis::connect(&server.url, 16, Currency::USD).await.unwrap();
    let Err(ConnectError::Differs { name: "PARTITIONS", .. }) = Redis::connect(&server.url, 8, Currency::USD).await
    else {
        panic!("another number of partitions is accepted")
    };
    let Err(error) = Redis::connect(&server.url, 16, Currency::EUR).await else {
        panic!("another currency is accepted")
    };
    assert_eq!(
        error.to_string(),
        "this Redis was filled with CURRENCY=USD, but this process is set to CURRENCY=EUR; \
         set CURRENCY=USD, or use another Redis"
    );
    let Err(error) = Redis::connect("redis://127.0.0.1:1", 16, Currency::USD).await else { panic!("port 1 answers") };
    assert!(matches!(error, ConnectError::Unreachable(_)), "{error}");
    let Err(error) = Redis::connect("rediss://127.0.0.1:1", 16, Currency::USD).await else { panic!("port 1 answers") };
    assert!(matches!(error, ConnectError::Unreachable(_)), "TLS: {error}");
    command(&server, &["HSET", "orders:meta", "generations", "{}"]).await;
    let Err(error) = Redis::connect(&server.url, 16, Currency::USD).await else { panic!("no generation is accepted") };
    assert!(error.to_string().contains("`generations` in orders:meta"), "{error}");
}

async fn stored(redis: &Redis, generation: u64, id: i64) -> Option<i32> {
    redis.pinned_to(generation).clients(&[id]).await.unwrap().remove(0).map(|client| client.version)
}

/// Whoever else is connected, and knows nothing of it yet, applies to the new generation from the moment it has begun.
#[tokio::test]
async fn a_generation_that_has_begun_misses_nothing_until_it_is_given_up() {
    let server = server().await;
    let redis = Redis::connect(&server.url, 16, Currency::USD).await.unwrap();
    let other = Redis::connect(&server.url, 16, Currency::USD).await.unwrap();
    assert_eq!(other.apply(&[event(1, 1, 5), event(2, 1, 5)]).await, [Ok(Applied::Now), Ok(Applied::Now)]);

    let second = redis.change_generations(Generations::start).await.unwrap().unwrap();
    assert_eq!(redis.change_generations(Generations::start).await.unwrap(), Ok(second), "somebody began it");
    let log = [event(1, 2, 5), event(1, 1, 5), event(2, 1, 5)];
    assert_eq!(other.apply(&log[..1]).await, [Ok(Applied::Now)]);
    assert_eq!((stored(&redis, 1, 1).await, stored(&redis, second, 1).await), (Some(2), Some(0)));
    let building = other.pinned_to(second);
    let mut told = other.changes().await.unwrap();
    assert_eq!(building.apply(&log).await, [Ok(Applied::Before), Ok(Applied::Now), Ok(Applied::Now)]);
    assert_eq!(stored(&redis, second, 1).await, Some(2));
    assert_eq!(building.scan(&Cursor::default()).await.unwrap().1.len(), 2);
    // What is wrong with it harms no event.
    command(&server, &["SET", &format!("orders:{{p3}}:g{second}:client:3"), "damaged"]).await;
    assert_eq!(other.apply(&[event(3, 1, 5)]).await, [Ok(Applied::Now)]);
    assert!(matches!(building.apply(&[event(3, 1, 5)]).await[..], [Err(Error::Damaged(_))]));

    // Live: read by whoever does not know it yet either, within the second. What was live goes on, and can be put back.
    redis.change_generations(|generations, now| generations.switch(second, now, 60_000)).await.unwrap().unwrap();
    assert_eq!(other.generations().await.unwrap().live(), second);
    assert_eq!(other.apply(&[event(1, 3, 5)]).await, [Ok(Applied::Now)]);
    assert_eq!((stored(&redis, 1, 1).await, stored(&redis, second, 1).await), (Some(3), Some(3)));
    redis.change_generations(|generations, now| generations.roll_back(1, now, 0)).await.unwrap().unwrap();
    assert_eq!(redis.generations().await.unwrap().previous(), Some(second));
    let mut ids = Vec::new();
    while let Some(Some(id)) = told.next().now_or_never() {
        ids.push(id);
    }
    assert_eq!(ids, [3, 1], "nobody was told of what was filled");
    // Somebody may not know for some seconds that it is not live any more.
    redis.change_generations(|generations, now| generations.expire(now + 5_000)).await.unwrap();
    assert_eq!(other.apply(&[event(1, 4, 5)]).await, [Ok(Applied::Now)]);
    assert_eq!(stored(&redis, second, 1).await, Some(4));

    // Given up: nothing is applied to it any more, and its keys go when nobody reads them.
    redis.change_generations(|generations, now| generations.expire(now + 10_000)).await.unwrap();
    assert_eq!(other.apply(&[event(1, 5, 5)]).await, [Ok(Applied::Now)]);
    assert_eq!((stored(&redis, 1, 1).await, stored(&redis, second, 1).await), (Some(5), Some(4)));
    assert!(matches!(building.apply(&log).await[..], [Err(Error::Unavailable(_)), ..]));
    assert!(redis.remove_expired_generations().await.unwrap().is_empty());
    let long_ago = Generation { state: GenerationState::Removed { since: 0 }, format: FORMAT };
    redis.change_generations(|generations, _| generations.generations.insert(second, long_ago)).await.unwrap();
    assert_eq!(redis.remove_expired_generations().await.unwrap(), [second]);
    assert_eq!(redis.generations().await.unwrap().generations.len(), 1);
    assert_eq!((stored(&redis, 1, 1).await, stored(&redis, second, 1).await), (Some(5), None));
    let third = redis.change_generations(Generations::start).await.unwrap().unwrap();
    assert!(third > second, "no number is used twice");
    let of_another_format = Generation { state: GenerationState::Building, format: 0 };
    redis.change_generations(|generations, _| generations.generations.insert(third, of_another_format)).await.unwrap();
    let fourth = redis.change_generations(Generations::start).await.unwrap().unwrap();
    assert!(fourth > third, "one of another format cannot be gone on with");
    assert_eq!(redis.change_generations(Generations::abort).await.unwrap(), Ok(fourth));
    let switched = redis.change_generations(|generations, now| generations.switch(fourth, now, 0)).await.unwrap();
    assert_eq!(switched, Err(TransitionError::Gone(fourth)));
}

/// A lost Redis, one of whose parts lost only some, and one that a newer release has taken over.
#[tokio::test]
async fn generations_are_settled_again_when_redis_loses_them() {
    let server = server().await;
    let redis = Redis::connect(&server.url, 16, Currency::USD).await.unwrap();
    let second = redis.change_generations(Generations::start).await.unwrap().unwrap();
    redis.change_generations(|generations, now| generations.switch(second, now, 0)).await.unwrap().unwrap();
    let before = redis.generations().await.unwrap();
    command(&server, &["FLUSHALL"]).await;
    assert_eq!(redis.apply(&[event(1, 1, 5)]).await, [Ok(Applied::Now)]);
    let after = redis.generations().await.unwrap();
    assert!(
        after.fencing_token > before.fencing_token && after.generations == Generations::first(0).generations,
        "{after:?}"
    );
    assert_eq!(stored(&redis, 1, 1).await, Some(1));
    let Err(ConnectError::Differs { .. }) = Redis::connect(&server.url, 8, Currency::USD).await else {
        panic!("what must be agreed on was not settled again")
    };

    let later = (after.fencing_token + 1_000_000).to_string();
    for fencing_token in [&*later, "999999999999999999", "many", "7"] {
        command(&server, &["SET", "orders:{p1}:fencing_token", fencing_token]).await;
        assert!(redis.apply(&[event(1, 2, 5)]).await[0].is_ok(), "{fencing_token}");
    }
    command(&server, &["DEL", "orders:{p1}:fencing_token"]).await;
    command(&server, &["LPUSH", "orders:{p1}:fencing_token", "1"]).await;
    assert_eq!(redis.apply(&[event(1, 3, 5)]).await, [Ok(Applied::Now)]);
    assert!(
        redis.generations().await.unwrap().fencing_token > later.parse().unwrap(),
        "a partition knew of a later fencing_token"
    );
    // Set back to what it was before: whoever knows more lets nobody go on as if it had not been.
    let old = serde_json::to_string(&after).unwrap();
    command(&server, &["HSET", "orders:meta", "generations", &old]).await;
    command(&server, &["SET", "orders:{p1}:fencing_token", &after.fencing_token.to_string()]).await;
    assert_eq!(redis.apply(&[event(1, 3, 5)]).await, [Ok(Applied::Before)]);
    assert!(redis.generations().await.unwrap().fencing_token > later.parse().unwrap());

    let newer = Generation { state: GenerationState::Building, format: FORMAT + 1 };
    let other = Redis::connect(&server.url, 16, Currency::USD).await.unwrap();
    other.change_generations(|generations, _| generations.generations.insert(9, newer)).await.unwrap();
    let refused = redis.apply(&[event(1, 4, 5)]).await;
    assert!(matches!(&refused[..], [Err(Error::Unavailable(why))] if why.contains("newer release")), "{refused:?}");
    assert_eq!(stored(&redis, 1, 1).await, Some(3), "it is read all the same");
}

#[tokio::test]
async fn an_outage_is_reported_at_once_and_ends_by_itself() {
    let mut server = server().await;
    let redis = Redis::connect(&server.url, 16, Currency::USD).await.unwrap();
    assert_eq!(redis.apply(&[event(1, 1, 5)]).await, [Ok(Applied::Now)]);
    let address = server.process.addr.clone();
    server.process.stop();
    let asked = tokio::time::Instant::now();
    assert!(matches!(redis.clients(&[1]).await, Err(Error::Unavailable(_))));
    assert!(matches!(redis.apply(&[event(1, 2, 5)]).await[..], [Err(Error::Unavailable(_))]));
    assert!(matches!(redis.ping().await, Err(Error::Unavailable(_))));
    assert!(asked.elapsed() < Duration::from_secs(3));

    // It returns empty: the scripts are gone as well as the data.
    server.process = RedisServer::new_with_addr_and_modules(address, &[], false);
    wait_until_up(&server.url).await;
    until("the connection is back", async || redis.ping().await.is_ok()).await;
    assert_eq!(redis.apply(&[event(1, 1, 5), event(1, 2, 5)]).await, [Ok(Applied::Now), Ok(Applied::Now)]);
}

#[tokio::test]
async fn reading_waits_for_a_version_and_says_how_far_it_got() {
    let memory = std::sync::Arc::new(Memory::default());
    let wait = Duration::from_secs(60);
    let waiting = tokio::spawn({
        let memory = memory.clone();
        async move { client_at(&*memory, 1, 2, wait).await }
    });
    memory.apply(&[event(1, 2, 5)]).await;
    tokio::task::yield_now().await;
    assert!(!waiting.is_finished(), "version 2 without version 1 is not enough");
    memory.apply(&[event(1, 1, 5)]).await;
    assert!(matches!(waiting.await.unwrap(), Ok(Awaited::Reached(client)) if client.version == 2));

    let short = Duration::from_millis(20);
    assert_eq!(client_at(&*memory, 1, 3, short).await, Ok(Awaited::Behind(2)));
    assert_eq!(client_at(&*memory, 9, 1, short).await, Ok(Awaited::Behind(0)));
}

/// How many clients Redis was asked for.
async fn asked(server: &Server) -> u64 {
    let stats = match command(server, &["INFO", "commandstats"]).await {
        ::redis::Value::BulkString(text) => String::from_utf8(text).unwrap(),
        ::redis::Value::VerbatimString { text, .. } => text,
        other => panic!("{other:?}"),
    };
    let hmget = stats.lines().find_map(|line| line.strip_prefix("cmdstat_hmget:calls="));
    hmget.map_or(0, |calls| calls.split(',').next().unwrap().parse().unwrap())
}

/// What was read lately is not asked for again, and is forgotten when anybody changes it, by whatever command, when Redis
/// is emptied, and when the connection is lost.
#[tokio::test]
async fn what_was_read_lately_is_as_redis_has_it() {
    let server = server().await;
    let redis = Redis::connect(&server.url, 16, Currency::USD).await.unwrap();
    let writer = Redis::connect(&server.url, 16, Currency::USD).await.unwrap();
    let version = async |id: i64| {
        let client = redis.cached_clients(&[id]).await.unwrap().remove(0);
        client.map_or(0, |client| client.version)
    };
    writer.apply(&[event(1, 1, 5), event(2, 1, 5)]).await;
    // It is asked for until Redis has been asked to tell of changes.
    let kept = async || {
        until("it is kept", async || {
            version(1).await;
            let before = asked(&server).await;
            version(1).await;
            asked(&server).await == before
        })
        .await;
    };
    kept().await;
    assert_eq!(redis.cached_clients(&[1, 9, 2]).await.unwrap().iter().flatten().count(), 2, "in part");

    for next in 2..=200 {
        let changed = tokio::time::Instant::now();
        writer.apply(&[event(1, next, 5)]).await;
        assert_eq!(writer.cached_clients(&[1]).await.unwrap()[0].as_ref().unwrap().version, next, "its own");
        until("the change is seen", async || version(1).await == next).await;
        assert!(changed.elapsed() < Duration::from_secs(1), "it took {:?}", changed.elapsed());
    }
    kept().await;
    command(&server, &["HSET", "orders:{p1}:g1:client:1", "version", "7"]).await;
    until("a change by hand is seen", async || version(1).await == 7).await;

    kept().await;
    command(&server, &["CLIENT", "KILL", "TYPE", "normal"]).await;
    command(&server, &["HSET", "orders:{p1}:g1:client:1", "version", "8"]).await;
    until("what changed while it was not connected is seen", async || {
        redis.cached_clients(&[1]).await.is_ok_and(|clients| clients[0].as_ref().unwrap().version == 8)
    })
    .await;
    kept().await;
    command(&server, &["FLUSHALL"]).await;
    until("that it is empty is seen", async || version(1).await == 0).await;

    // It left the server, because that was demoted, and does not hear of changes on the connection that it left.
    writer.apply(&[event(1, 1, 5)]).await;
    kept().await;
    command(&server, &["REPLICAOF", "127.0.0.1", "1"]).await;
    assert!(redis.apply(&[event(1, 2, 5)]).await[0].is_err());
    command(&server, &["REPLICAOF", "NO", "ONE"]).await;
    command(&server, &["HSET", "orders:{p1}:g1:client:1", "version", "9"]).await;
    until("what changed is seen", async || version(1).await == 9).await;
}

/// Where Redis may not be asked to tell of changes, every client is read anew.
#[tokio::test]
async fn nothing_is_kept_where_changes_are_not_told() {
    let server = server().await;
    command(&server, &["ACL", "SETUSER", "default", "-client|tracking"]).await;
    let redis = Redis::connect(&server.url, 16, Currency::USD).await.unwrap();
    let writer = Redis::connect(&server.url, 16, Currency::USD).await.unwrap();
    for version in 1..=200 {
        writer.apply(&[event(1, version, 5)]).await[0].clone().unwrap();
        let recent = redis.cached_clients(&[1]).await.unwrap();
        assert_eq!(recent[0].as_ref().unwrap().version, version);
        redis.generations().await.unwrap(); // asks to be told, each time
    }
}

/// Whoever reads while others write sees no client go back, and in the end sees the last of it.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn what_was_read_lately_is_never_older_than_what_was_seen_before() {
    let server = server().await;
    let redis = Redis::connect(&server.url, 16, Currency::USD).await.unwrap();
    let writer = Redis::connect(&server.url, 16, Currency::USD).await.unwrap();
    writer.apply(&[event(1, 1, 5)]).await;
    let readers: Vec<_> = (0..8)
        .map(|_| {
            let redis = redis.clone();
            tokio::spawn(async move {
                let mut seen = 1;
                while seen < 5_000 {
                    let version = redis.cached_clients(&[1]).await.unwrap()[0].as_ref().unwrap().version;
                    assert!(version >= seen, "{version} after {seen}");
                    seen = version;
                    tokio::task::yield_now().await;
                }
            })
        })
        .collect();
    for version in 2..=5_000 {
        writer.apply(&[event(1, version, 5)]).await[0].clone().unwrap();
    }
    for reader in readers {
        tokio::time::timeout(Duration::from_secs(20), reader).await.expect("it stays behind").unwrap();
    }
}
