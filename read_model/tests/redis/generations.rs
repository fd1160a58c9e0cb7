//! Generations and fencing on a real server.

use chrono::Utc;
use entity::Event;
use futures::{FutureExt, StreamExt};
use iso_currency::Currency;
use read_model::generations::{FORMAT, Generation, GenerationState, TransitionError};
use read_model::reports::latest_orders;
use read_model::{Applied, ConnectError, Cursor, Error, Generations, Memory, Projection, Queries, ReadModel, Redis};

use crate::support::{all_of, command, dated, event, server};

async fn stored(redis: &Redis, generation: u64, id: i64) -> Option<i32> {
    redis.pinned_to(generation).clients(&[id]).await.unwrap().remove(0).map(|client| client.version)
}

/// Another process, which has not noticed the new generation yet, applies events to it as soon as it exists.
#[tokio::test]
async fn a_new_generation_receives_every_event_until_it_is_removed() {
    let server = server().await;
    let redis = Redis::connect(&server.url, 16, Currency::USD).await.unwrap();
    let other = Redis::connect(&server.url, 16, Currency::USD).await.unwrap();
    assert_eq!(other.apply(&[event(1, 1, 5), event(2, 1, 5)]).await, [Ok(Applied::Now), Ok(Applied::Now)]);

    let second = redis.change_generations(Generations::start).await.unwrap().unwrap();
    assert_eq!(
        redis.change_generations(Generations::start).await.unwrap(),
        Ok(second),
        "another process has started it"
    );
    let log = [event(1, 2, 5), event(1, 1, 5), event(2, 1, 5)];
    assert_eq!(other.apply(&log[..1]).await, [Ok(Applied::Now)]);
    assert_eq!((stored(&redis, 1, 1).await, stored(&redis, second, 1).await), (Some(2), Some(0)));
    let building = other.pinned_to(second);
    let mut changes = other.changes().await.unwrap();
    assert_eq!(building.apply(&log).await, [Ok(Applied::Before), Ok(Applied::Now), Ok(Applied::Now)]);
    assert_eq!(stored(&redis, second, 1).await, Some(2));
    assert_eq!(building.scan(&Cursor::default()).await.unwrap().1.len(), 2);
    // Damage in a generation that is being built stops no event.
    command(&server, &["SET", &format!("orders:{{p3}}:g{second}:client:3"), "damaged"]).await;
    assert_eq!(other.apply(&[event(3, 1, 5)]).await, [Ok(Applied::Now)]);
    assert!(matches!(building.apply(&[event(3, 1, 5)]).await[..], [Err(Error::Damaged(_))]));

    // After the switch every process reads the new generation within a second. The previous one still receives events, and can be
    // rolled back to.
    redis.change_generations(|generations, now| generations.switch(second, now, 60_000)).await.unwrap().unwrap();
    assert_eq!(other.generations().await.unwrap().live(), second);
    assert_eq!(other.apply(&[event(1, 3, 5)]).await, [Ok(Applied::Now)]);
    assert_eq!((stored(&redis, 1, 1).await, stored(&redis, second, 1).await), (Some(3), Some(3)));
    redis.change_generations(|generations, now| generations.roll_back(1, now, 0)).await.unwrap().unwrap();
    assert_eq!(redis.generations().await.unwrap().previous(), Some(second));
    let mut ids = Vec::new();
    while let Some(Some(id)) = changes.next().now_or_never() {
        ids.push(id);
    }
    assert_eq!(ids, [3, 1], "events of a rebuild are not published as changes");
    // Another process may read it for some seconds after it was live.
    redis.change_generations(|generations, now| generations.expire(now + 5_000)).await.unwrap();
    assert_eq!(other.apply(&[event(1, 4, 5)]).await, [Ok(Applied::Now)]);
    assert_eq!(stored(&redis, second, 1).await, Some(4));

    // A removed generation receives no events. Its keys are deleted when nobody reads them any more.
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
    assert!(fourth > third, "a rebuild of another format cannot be continued");
    assert_eq!(redis.change_generations(Generations::abort).await.unwrap(), Ok(fourth));
    let switched = redis.change_generations(|generations, now| generations.switch(fourth, now, 0)).await.unwrap();
    assert_eq!(switched, Err(TransitionError::Gone(fourth)));
}

/// Redis loses all data, loses the data of one partition, returns with old data, or is used by a newer release.
#[tokio::test]
async fn lost_generations_are_reconciled() {
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
        panic!("the shared settings were not stored again")
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
        "a partition had a larger fencing token"
    );
    // `orders:meta` and a partition return to an older state: a process with a newer token fences the partitions again.
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
    assert_eq!(stored(&redis, 1, 1).await, Some(3), "queries still work");
}

/// A release of format 4 refuses the events of cancellations. So whatever such a generation has of them is complete.
#[tokio::test]
async fn a_generation_of_format_4_receives_cancellations_and_is_read_like_the_next_one() {
    let server = server().await;
    let redis = Redis::connect(&server.url, 16, Currency::USD).await.unwrap();
    let (memory, now) = (Memory::default(), Utc::now());
    let format_4 = Generation { state: GenerationState::Live, format: 4 };
    redis.change_generations(|generations, _| generations.generations.insert(1, format_4)).await.unwrap();
    let log: Vec<Event> = (1..=12).map(|version| dated(1, version, now)).collect();
    for model in [&redis as &dyn ReadModel, &memory] {
        assert!(model.apply(&log).await.iter().all(|result| *result == Ok(Applied::Now)));
    }
    assert!(all_of(&redis, now).await == all_of(&memory, now).await);
    // From the start of a rebuild on, releases of format 4 write nothing.
    let rebuilt = redis.change_generations(Generations::start).await.unwrap().unwrap();
    assert_eq!(redis.generations().await.unwrap().format(), FORMAT);
    assert!(redis.pinned_to(rebuilt).apply(&log).await.iter().all(|result| *result == Ok(Applied::Now)));
    redis.change_generations(|generations, now| generations.switch(rebuilt, now, 0)).await.unwrap().unwrap();
    assert!(all_of(&redis, now).await == all_of(&memory, now).await);
}

#[tokio::test]
async fn a_generation_of_format_2_is_read_and_receives_events_and_its_orders_go_with_it() {
    let server = server().await;
    let redis = Redis::connect(&server.url, 16, Currency::USD).await.unwrap();
    assert_eq!(redis.apply(&[event(1, 1, 5)]).await, [Ok(Applied::Now)]);
    let format_2 = Generation { state: GenerationState::Live, format: 2 };
    redis.change_generations(|generations, _| generations.generations.insert(1, format_2)).await.unwrap();
    let order = "orders:{p1}:g1:order:018bcfe5-6801-7000-8000-000000000001";
    command(&server, &["SET", order, "{}"]).await;

    assert_eq!(redis.apply(&[event(1, 2, 5), event(1, 1, 5)]).await, [Ok(Applied::Now), Ok(Applied::Before)]);
    assert_eq!(latest_orders(&redis, 9).await.unwrap().len(), 2);
    assert!(redis.has_reports().await.unwrap());
    assert_eq!(
        command(&server, &["KEYS", "*:order:*"]).await,
        ::redis::Value::Array(vec![::redis::Value::BulkString(order.into())])
    );

    let second = redis.change_generations(Generations::start).await.unwrap().unwrap();
    redis.change_generations(|generations, now| generations.switch(second, now, 0)).await.unwrap().unwrap();
    let long_ago = Generation { state: GenerationState::Removed { since: 0 }, ..format_2 };
    redis.change_generations(|generations, _| generations.generations.insert(1, long_ago)).await.unwrap();
    assert_eq!(redis.remove_expired_generations().await.unwrap(), [1]);
    assert_eq!(command(&server, &["EXISTS", order]).await, ::redis::Value::Int(0));
    assert_eq!(redis.generations().await.unwrap().generations[&second].format, FORMAT);
}
