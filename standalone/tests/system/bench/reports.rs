//! Reports for dashboards.

use std::time::Duration;

use chrono::{Datelike, Days, NaiveDate, Utc};
use read_model::rules::periods::{products_of_day, products_of_month};
use read_model::{Resolution, Side};
use redis::aio::MultiplexedConnection;
use sea_orm::ConnectionTrait;
use serde_json::{Value, json};

use super::Bench;
use super::harness::TURN;

/// A million clients, three years of days and ten thousand products, read over 16 connections.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "a measurement: `make bench` runs it on a release build"]
async fn reports() {
    const CLIENTS: i64 = 1_000_000;
    const DAYS: u64 = 3 * 365;
    const PRODUCTS: i64 = 10_000;
    /// On a day, a partition has sold one in so many products, and taken back one in twenty of these.
    const SOLD: i64 = 100;
    /// Pages of clients, read in turn.
    const PAGES: usize = 50;
    let bench = Bench::start().await;
    let mut redis = bench.redis().await;
    let now = Utc::now();
    let memory = async |redis: &mut MultiplexedConnection| {
        let info: String = redis::cmd("INFO").arg("memory").query_async(redis).await.unwrap();
        let used = info.lines().find_map(|line| line.strip_prefix("used_memory:")).unwrap();
        used.trim().parse::<f64>().unwrap()
    };
    let empty = memory(&mut redis).await;
    // Filled by scripts: sending millions of commands would take minutes.
    let add_clients = "for id = tonumber(ARGV[1]), tonumber(ARGV[2]) do
            local partition, total = 'orders:{p' .. id % 16 .. '}:g1:', id * 7919 % 1000003 * 100
            local time = string.format('%d', ARGV[3] - id * 1000)
            redis.call('HSET', partition .. 'client:' .. id, 'name', 'Client ' .. id, 'email', id .. '@example.com',
                'total', total, 'orders', 3, 'last_purchase', time, 'version', 3, 'newest', 3)
            redis.call('ZADD', partition .. 'rank:total', total, id)
            redis.call('ZADD', partition .. 'rank:last', time, id)
        end";
    for first in (1..=CLIENTS).step_by(2_000) {
        let mut fill = redis::cmd("EVAL");
        fill.arg(add_clients).arg(0).arg(first).arg(first + 1_999).arg(now.timestamp_millis());
        let () = fill.query_async(&mut redis).await.unwrap();
    }
    let clients = memory(&mut redis).await;
    let days: Vec<NaiveDate> = (0..DAYS).map(|ago| now.date_naive() - Days::new(ago)).collect();
    let add_day = "local partition, day, bucket, hours, hour, first, count, step = unpack(ARGV)
        local function set(page, bucket)
            redis.call('BITFIELD', partition .. page, 'SET', 'i64', '#' .. 2 * bucket, ARGV[11], 'SET', 'i64', '#' .. 2 * bucket + 1, ARGV[12])
        end
        set(day, bucket)
        for after = 0, 23 do set(hours, hour + after) end
        for nth = 0, count / step - 1 do
            local product = (first + nth * step) % count + 1
            for period = 9, 10 do
                redis.call('HSET', partition .. ARGV[period], product .. ':units', 3, product .. ':revenue', 4500)
            end
        end";
    for partition in 0..16 {
        for day in &days {
            let time = day.and_time(Default::default()).and_utc();
            for (side, step, sum) in [(Side::Gross, SOLD, [12_345, 12]), (Side::Cancelled, 20 * SOLD, [345, 1])] {
                let mut fill = redis::cmd("EVAL");
                fill.arg(add_day).arg(0).arg(format!("orders:{{p{partition}}}:g1:"));
                for (page, bucket) in [Resolution::Day.at(time), Resolution::HalfHour.at(time)] {
                    fill.arg(side.name(page)).arg(bucket);
                }
                fill.arg(i64::from(day.num_days_from_ce()) * 31 + partition).arg(PRODUCTS).arg(step);
                fill.arg(side.name(products_of_day(*day))).arg(side.name(products_of_month(*day))).arg(&sum);
                let () = fill.query_async(&mut redis).await.unwrap();
            }
        }
    }
    let products = format!(
        "INSERT INTO products (name, price) SELECT 'Product ' || n, 1500 FROM generate_series(4, {PRODUCTS}) n"
    );
    bench.db.execute_unprepared(&products).await.unwrap();
    let sums = memory(&mut redis).await;
    println!("\n### A million clients, three years, ten thousand products\n");
    println!("{:<42} {:>8.0} bytes", "Redis: a client and its ranks", (clients - empty) / CLIENTS as f64);
    println!("{:<42} {:>8.0} MiB", "Redis: all sums of three years", (sums - clients) / 1024.0 / 1024.0);
    println!("\n| {:<44} | {:>7} | {:>8} | {:>8} |", "", "1/s", "p50 ms", "p99 ms");
    println!("|{:-<46}|{:->8}:|{:->9}:|{:->9}:|", "", "", "", "");
    let server = bench.own("this service", "client");
    let from = |ago: usize| days[ago].to_string();
    let mut pages: Vec<String> = Vec::new();
    let mut cursor = Value::Null;
    for _ in 0..PAGES {
        pages.push(format!("{{ clients(first: 100, after: {cursor}) {{ nodes {{ id name total {{ amount }} }} }} }}"));
        let query = format!("{{ clients(first: 100, after: {cursor}) {{ pageInfo {{ endCursor }} }} }}");
        cursor = bench.user().graphql(&query).await["data"]["clients"]["pageInfo"]["endCursor"].clone();
    }
    let points = "{ net { amount } points { start orderCount cancelledCount net { amount } } }";
    let sold = "{ units revenue { amount } product { name } }";
    for (name, queries) in [
        ("clients(first: 20)", vec!["{ clients { nodes { id name total { amount } } } }".to_owned()]),
        ("clients(first: 100, after:)", pages[1..2].to_vec()),
        ("clients(first: 100), other pages in turn", pages.clone()),
        ("sales, 30 days", vec![format!("{{ sales(from: \"{}\", to: \"{}\") {points} }}", from(29), from(0))]),
        ("sales, 1 000 days", vec![format!("{{ sales(from: \"{}\", to: \"{}\") {points} }}", from(999), from(0))]),
        (
            "sales, 36 months",
            vec![format!("{{ sales(from: \"{}\", to: \"{}\", granularity: MONTH) {points} }}", from(1_094), from(0))],
        ),
        (
            "sales, 40 days by the hour",
            vec![format!("{{ sales(from: \"{}\", to: \"{}\", granularity: HOUR) {points} }}", from(39), from(0))],
        ),
        ("topProducts, today", vec![format!("{{ topProducts(from: \"{}\", to: \"{}\") {sold} }}", from(0), from(0))]),
        (
            "topProducts, 30 days",
            vec![format!("{{ topProducts(from: \"{}\", to: \"{}\") {sold} }}", from(29), from(0))],
        ),
        (
            "topProducts, three years",
            vec![format!("{{ topProducts(from: \"{}\", to: \"{}\") {sold} }}", from(1_094), from(0))],
        ),
    ] {
        let response = bench.user().graphql(&queries[0]).await;
        assert_eq!(response["errors"], Value::Null, "{name}");
        let requests: Vec<Value> = queries.iter().map(|query| json!({ "query": query })).collect();
        let sample = server.repeat(TURN, 16, Duration::ZERO, &requests);
        println!("| {name:<44} | {:>7.0} | {:>8.2} | {:>8.2} |", sample.rate, sample.p50, sample.p99);
    }
}
