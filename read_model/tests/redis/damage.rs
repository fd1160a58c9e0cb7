//! Damaged keys.

use std::collections::BTreeMap;
use std::time::Duration;

use chrono::{DateTime, SubsecRound, Utc};
use entity::Event;
use iso_currency::Currency;
use read_model::{Applied, Error, Generations, Memory, Projection, Queries, Ranking, ReadModel, Redis, Resolution};

use test_support::log::Log;
use tracing::Level;

use crate::support::{all_of, command, dated, event, server};

#[tokio::test]
async fn a_damaged_client_is_reported_and_affects_no_other_client() {
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
async fn a_refused_event_leaves_nothing_behind() {
    let server = server().await;
    let redis = Redis::connect(&server.url, 16, Currency::USD).await.unwrap();
    let (memory, now) = (Memory::default(), Utc::now().trunc_subsecs(3));
    let first = Event { version: 1, time: now - Duration::from_millis(1), ..dated(1, 7, now) };
    let second = Event { version: 2, time: now, ..dated(1, 9, now) };
    for model in [&redis as &dyn ReadModel, &memory] {
        assert_eq!(model.apply(std::slice::from_ref(&first)).await, [Ok(Applied::Now)]);
    }
    let before = all_of(&memory, now).await;
    assert!(all_of(&redis, now).await == before);

    let (recent, aside) = ("orders:{p1}:g1:recent:1", "orders:{p1}:aside");
    command(&server, &["RENAME", recent, aside]).await;
    command(&server, &["LPUSH", recent, "damaged"]).await;
    let result = redis.apply(std::slice::from_ref(&second)).await.remove(0);
    assert!(matches!(&result, Err(Error::Damaged(why)) if why.contains("recent:1")), "{result:?}");
    command(&server, &["DEL", recent]).await;
    command(&server, &["RENAME", aside, recent]).await;
    assert!(all_of(&redis, now).await == before);

    let (client, total) = ("orders:{p1}:g1:client:1", first.order().unwrap().total.to_string());
    for damaged in ["9223372036854775807", "92233720368547758070", "1.5", "-1", ""] {
        command(&server, &["HSET", client, "total", damaged]).await;
        assert!(matches!(redis.apply(std::slice::from_ref(&second)).await[..], [Err(Error::Damaged(_))]), "{damaged}");
    }
    command(&server, &["HSET", client, "total", &total]).await;
    for damaged in ["1.5", "-1", ""] {
        command(&server, &["HSET", client, "refunded", damaged]).await;
        let result = redis.apply(std::slice::from_ref(&second)).await.remove(0);
        assert!(matches!(&result, Err(Error::Damaged(why)) if why.contains("refunded")), "{damaged}: {result:?}");
    }
    command(&server, &["HDEL", client, "refunded"]).await;
    assert!(all_of(&redis, now).await == before);
    for model in [&redis as &dyn ReadModel, &memory] {
        assert_eq!(model.apply(std::slice::from_ref(&second)).await, [Ok(Applied::Now)]);
    }
    assert!(all_of(&redis, now).await == all_of(&memory, now).await);
}

/// Reads each shared key of a partition.
async fn shared_reads(model: &dyn ReadModel, names: &[String]) -> Vec<Result<String, Error>> {
    let mut reads = Vec::new();
    for name in names {
        reads.push(match name.split_once(':').unwrap() {
            ("rank", "total") => model.ranked_clients(Ranking::Total, None, 9).await.map(|read| format!("{read:?}")),
            ("rank", _) => model.ranked_clients(Ranking::LastPurchase, None, 9).await.map(|read| format!("{read:?}")),
            ("products", _) => {
                let sales = model.product_sales(std::slice::from_ref(name)).await;
                sales.map(|sales| format!("{:?}", sales.into_iter().collect::<BTreeMap<_, _>>()))
            }
            _ => model.buckets(std::slice::from_ref(name)).await.map(|read| format!("{read:?}")),
        });
    }
    reads
}

/// The ways to damage a shared key, as commands without the key.
fn ways_to_damage(name: &str, now: DateTime<Utc>) -> Vec<Vec<String>> {
    let words = |command: &str| command.split(' ').map(str::to_owned).collect::<Vec<_>>();
    let bucket = match name.split_once(':').unwrap() {
        ("days", _) => Resolution::Day.at(now).1,
        ("half_hours", _) => Resolution::HalfHour.at(now).1,
        ("moments", _) => Resolution::TenSeconds.at(now).1,
        ("products", _) => {
            let largest = i64::MAX;
            let fields = (1..=5).flat_map(|product| {
                [
                    format!("HSET {product}:units {largest}"),
                    format!("HSET {product}:revenue {largest}"),
                    format!("HSET {product}:units 1.5"),
                ]
            });
            return fields.map(|command| words(&command)).collect();
        }
        _ => return vec![words("LPUSH x")],
    };
    let overflow = |offset| format!("BITFIELD SET i64 #{} {}", 2 * bucket + offset, i64::MAX);
    vec![words("LPUSH x"), words(&overflow(0)), words(&overflow(1))]
}

/// Events arrive in one batch or one by one. A new generation fixes the damage.
#[tokio::test]
async fn a_damaged_shared_key_is_quarantined_and_all_else_stays_exact() {
    let server = server().await;
    let redis = Redis::connect(&server.url, 16, Currency::USD).await.unwrap();
    let now = Utc::now().trunc_subsecs(3);
    let on = |client, version, number| Event { version, time: now, ..dated(client, number, now) };
    let log = [on(1, 1, 7), on(1, 2, 9), on(17, 1, 9), on(33, 1, 10), on(1, 3, 10)];
    let sold: Vec<i64> =
        log[1..].iter().flat_map(|event| &event.order().unwrap().lines).map(|line| line.product_id).collect();
    let pages = ["days:%Y", "half_hours:%Y-%m", "moments:%Y-%m-%dT%H", "products:%Y-%m-%d", "products:%Y-%m"];
    let names: Vec<String> = (["rank:total", "rank:last"].map(str::to_owned).into_iter())
        .chain(pages.map(|format| now.format(format).to_string()))
        .collect();
    let mut cases = 0;
    for (index, name) in names.iter().enumerate() {
        for (way, mut damage) in ways_to_damage(name, now).into_iter().enumerate() {
            // The damage is noticed only when the product is sold again.
            if name.starts_with("products:")
                && !sold.iter().any(|product| damage[1].starts_with(&format!("{product}:")))
            {
                continue;
            }
            cases += 1;
            command(&server, &["FLUSHALL"]).await;
            let memory = Memory::default();
            for model in [&redis as &dyn ReadModel, &memory] {
                assert_eq!(model.apply(&log[..1]).await, [Ok(Applied::Now)]);
            }
            let key = format!("orders:{{p1}}:g1:{name}");
            if damage[0] == "LPUSH" {
                command(&server, &["DEL", &key]).await;
            }
            damage.insert(1, key.clone());
            command(&server, &damage.iter().map(String::as_str).collect::<Vec<_>>()).await;
            memory.apply(&log[1..]).await;
            let size = if way == 0 { 4 } else { 1 };
            for events in log[1..].chunks(size) {
                let results = redis.apply(events).await;
                assert!(results.iter().all(|result| *result == Ok(Applied::Now)), "{damage:?}: {results:?}");
                assert!(redis.apply(events).await.iter().all(|result| *result == Ok(Applied::Before)));
            }
            let quarantine = command(&server, &["SMEMBERS", "orders:{p1}:g1:quarantine"]).await;
            assert_eq!(::redis::from_redis_value::<Vec<String>>(quarantine).unwrap(), [name.as_str()], "{damage:?}");

            let ids = [1, 17, 33];
            assert_eq!(redis.clients(&ids).await, memory.clients(&ids).await);
            assert_eq!(redis.recent_orders(&ids, 9).await, memory.recent_orders(&ids, 9).await);
            let (mut stored, mut exact) = (shared_reads(&redis, &names).await, shared_reads(&memory, &names).await);
            let failed = stored.remove(index);
            let _ = exact.remove(index);
            assert!(matches!(failed, Err(Error::Damaged(_))), "{damage:?}: {failed:?}");
            assert_eq!(stored, exact, "{damage:?}");
            // The key stays quarantined after it is deleted, because its new value would miss events.
            command(&server, &["DEL", &key]).await;
            assert!(shared_reads(&redis, &names).await[index].is_err(), "{damage:?}");

            let rebuilt = redis.change_generations(Generations::start).await.unwrap().unwrap();
            assert!(redis.pinned_to(rebuilt).apply(&log).await.iter().all(|result| *result == Ok(Applied::Now)));
            redis.change_generations(|generations, now| generations.switch(rebuilt, now, 0)).await.unwrap().unwrap();
            assert_eq!(shared_reads(&redis, &names).await, shared_reads(&memory, &names).await);
        }
    }
    assert!(cases >= 20, "{cases}");
}

#[tokio::test]
async fn events_are_refused_as_a_whole_while_the_quarantine_is_damaged() {
    let server = server().await;
    let redis = Redis::connect(&server.url, 1, Currency::USD).await.unwrap();
    let (memory, now, quarantine) = (Memory::default(), Utc::now(), "orders:{p0}:g1:quarantine");
    let log: Vec<Event> = (1..=3).map(|client| dated(client, 1, now)).collect();
    command(&server, &["SET", quarantine, "damaged"]).await;
    for size in [log.len(), 1] {
        for events in log.chunks(size) {
            for result in redis.apply(events).await {
                assert!(matches!(&result, Err(Error::Damaged(why)) if why.contains(quarantine)), "{result:?}");
            }
        }
    }
    let keys: Vec<String> = ::redis::from_redis_value(command(&server, &["KEYS", "orders:{p0}:g1:*"]).await).unwrap();
    assert_eq!(keys, [quarantine], "nothing was written");
    command(&server, &["DEL", quarantine]).await;
    for model in [&redis as &dyn ReadModel, &memory] {
        assert!(model.apply(&log).await.iter().all(|result| *result == Ok(Applied::Now)));
    }
    assert!(all_of(&redis, now).await == all_of(&memory, now).await);
}

#[tokio::test]
async fn a_quarantined_key_is_logged_once_even_if_another_generation_refuses_the_batch() {
    let server = server().await;
    let redis = Redis::connect(&server.url, 16, Currency::USD).await.unwrap();
    let building = redis.change_generations(Generations::start).await.unwrap().unwrap();
    command(&server, &["SET", "orders:{p1}:g1:rank:total", "damaged"]).await;
    command(&server, &["SET", &format!("orders:{{p1}}:g{building}:client:1"), "damaged"]).await;
    let log = Log::start(Level::ERROR);
    let batch = [event(1, 1, 5), event(17, 1, 5)];
    // The live generation accepts the batch. The other one refuses it, and then only the event of its damaged client.
    assert_eq!(redis.apply(&batch).await, [Ok(Applied::Before), Ok(Applied::Now)]);
    assert_eq!(redis.apply(&batch).await, [Ok(Applied::Before), Ok(Applied::Before)]);
    let logged = log.lines();
    assert!(matches!(&logged[..], [line] if line.contains("orders:{p1}:g1:rank:total")), "{logged:?}");
}
