//! Damaged keys.

use chrono::{Datelike, SubsecRound, Utc};
use entity::Event;
use iso_currency::Currency;
use read_model::{Applied, Error, Memory, Projection, Queries, ReadModel, Redis};
use std::time::Duration;

use crate::support::{all_of, command, event, server};

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

/// Whatever of it is damaged, and however late that is noticed.
#[tokio::test]
async fn a_refused_event_leaves_nothing_behind() {
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
