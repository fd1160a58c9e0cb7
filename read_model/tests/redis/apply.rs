//! Applying events: repeats, exact sums, expiry and batches.

use chrono::{DurationRound, TimeDelta, Utc};
use entity::Event;
use iso_currency::Currency;
use rand::SeedableRng;
use rand::prelude::SliceRandom;
use rand::rngs::StdRng;
use read_model::{Applied, Error, Memory, Projection, Queries, RankPosition, Ranking, ReadModel, Redis, Sum};

use crate::support::{Server, all_of, cancelled, client_of, command, dated, event, order_of, server};

/// A message that was a dead letter for a month, and the log replayed in any order.
#[tokio::test]
async fn an_event_repeated_after_ten_thousand_others_changes_nothing() {
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
    // Surplus recent orders are removed now and then: at most 66 remain, plus those of one batch.
    for client in [8, 9] {
        let versions: Vec<Event> =
            (1..=300).step_by(client as usize - 7).map(|version| event(client, version, 5)).collect();
        for batch in versions.chunks(3) {
            assert!(redis.apply(batch).await.iter().all(|result| *result == Ok(Applied::Now)));
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
        // The same for refunds.
        let refunded = |version| cancelled(huge(version), &huge(1), |_| i64::MAX / 2);
        let applied = model.apply(&[refunded(4), refunded(5), refunded(6)]).await;
        assert_eq!(applied[..2], [Ok(Applied::Now), Ok(Applied::Now)]);
        assert!(matches!(&applied[2], Err(Error::Damaged(_))), "{applied:?}");
        let client = model.clients(&[1]).await.unwrap().remove(0).unwrap();
        assert_eq!(client.cancelled, Sum { count: 2, revenue: i64::MAX / 2 * 2 });
        let ranked = model.ranked_clients(Ranking::Total, None, 1).await.unwrap();
        assert_eq!(ranked, [RankPosition { rank: 0, id: 1 }]);
    }
}

#[tokio::test]
async fn temporary_keys_expire() {
    let server = server().await;
    let redis = Redis::connect(&server.url, 16, Currency::USD).await.unwrap();
    let now = Utc::now();
    let first = Event { time: now, ..event(1, 1, 5) };
    redis.apply(&[first]).await[0].clone().unwrap();
    let days_left = async |name: String| match command(&server, &["PTTL", &format!("orders:{{p1}}:g1:{name}")]).await {
        ::redis::Value::Int(milliseconds) => milliseconds as f64 / 86_400_000.0,
        other => panic!("{other:?}"),
    };
    let half_hours = days_left(now.format("half_hours:%Y-%m").to_string()).await;
    assert!((730.9..763.0).contains(&half_hours), "{half_hours} days");
    let moments = days_left(now.format("moments:%Y-%m-%dT%H").to_string()).await * 24.0;
    assert!((1.9..=3.0).contains(&moments), "{moments} hours");
    // An earlier order of the hour does not change it.
    let earlier = Event { time: now.duration_trunc(TimeDelta::hours(1)).unwrap(), ..event(1, 2, 5) };
    redis.apply(&[earlier]).await[0].clone().unwrap();
    let still = days_left(now.format("moments:%Y-%m-%dT%H").to_string()).await * 24.0;
    assert!(moments - still < 0.01, "{still} hours, {moments} before");
    for forever in [now.format("days:%Y").to_string(), now.format("products:%Y-%m-%d").to_string()] {
        assert!(days_left(forever.clone()).await < 0.0, "{forever}");
    }
}

/// Events of a partition are applied in one step if possible.
#[tokio::test]
async fn a_batch_gives_each_event_the_result_it_has_in_isolation() {
    let server = server().await;
    let redis = Redis::connect(&server.url, 1, Currency::USD).await.unwrap();
    let (memory, now) = (Memory::default(), Utc::now());
    let before = dated(1, 1, now);
    let events: Vec<Event> =
        (1..=5).flat_map(|client| (1..=3).map(move |version| dated(client, version, now))).collect();
    for model in [&redis as &dyn ReadModel, &memory] {
        assert_eq!(model.apply(std::slice::from_ref(&before)).await, [Ok(Applied::Now)]);
    }
    // One client of the batch is damaged.
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

/// Fills the sales of the first partitions on a day, and returns how many calls read them.
async fn calls_that_read(server: &Server, partitions: u16, products: i64) -> u32 {
    let redis = Redis::connect(&server.url, partitions, Currency::USD).await.unwrap();
    redis.apply(&[event(1, 1, 5)]).await[0].clone().unwrap();
    let fill = "for product = ARGV[1] + 1, math.min(ARGV[1] + 5000, ARGV[2]) do
        redis.call('HSET', KEYS[1], product .. ':units', product, product .. ':revenue', 2 * product)
    end";
    for partition in 0..partitions {
        let key = format!("orders:{{p{partition}}}:g1:products:2026-11-24");
        for before in (0..products).step_by(5_000) {
            command(server, &["EVAL", fill, "1", &key, &before.to_string(), &products.to_string()]).await;
        }
    }
    command(server, &["CONFIG", "RESETSTAT"]).await;
    let sales = redis.product_sales(&["products:2026-11-24".into()]).await.unwrap();
    assert_eq!(sales.len() as i64, products);
    for (product, sold) in sales {
        let partitions = i64::from(partitions);
        assert_eq!(sold, Sum { count: partitions * product, revenue: 2 * partitions * product });
    }
    let text: String = ::redis::from_redis_value(command(server, &["INFO", "commandstats"]).await).unwrap();
    let calls =
        text.lines().find_map(|line| line.strip_prefix("cmdstat_evalsha:calls=")?.split(',').next()?.parse().ok());
    calls.unwrap()
}

/// Redis serves nobody else while it runs a command, or the commands of a pipeline.
#[tokio::test]
async fn the_sales_of_a_hundred_thousand_products_are_read_in_parts() {
    let few_partitions = server().await;
    let calls = calls_that_read(&few_partitions, 2, 100_000).await;
    assert!(calls > 300, "{calls}");
    // The more partitions a pipeline reads, the less it reads of each.
    let many_partitions = server().await;
    let calls = calls_that_read(&many_partitions, 16, 1_000).await;
    assert!(calls > 16 * 5, "{calls}");
}
