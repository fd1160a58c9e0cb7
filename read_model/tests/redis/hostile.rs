//! Events whose sender is not trusted.

use std::time::Duration;

use chrono::Utc;
use entity::Event;
use iso_currency::Currency;
use read_model::rules::MAX_AHEAD;
use read_model::{Applied, Error, Generations, Memory, Projection, ReadModel, Redis};

use crate::support::{Server, all_of, command, event, priced, server};

async fn slowest_command(server: &Server) -> Duration {
    let log: Vec<Vec<::redis::Value>> =
        ::redis::from_redis_value(command(server, &["SLOWLOG", "GET", "-1"]).await).unwrap();
    let micros = log.into_iter().map(|entry| ::redis::from_redis_value::<u64>(entry[2].clone()).unwrap());
    Duration::from_micros(micros.max().unwrap_or(0))
}

#[tokio::test]
async fn a_version_far_ahead_is_refused_and_changes_nothing() {
    let server = server().await;
    let redis = Redis::connect(&server.url, 16, Currency::USD).await.unwrap();
    let (memory, now) = (Memory::default(), Utc::now());
    let is_refused = |result: &Result<Applied, Error>| matches!(result, Err(Error::Refused(_)));
    let mut reasons = Vec::new();
    for model in [&redis as &dyn ReadModel, &memory] {
        let first = [event(1, 1, 5), priced(1, 1)];
        assert_eq!(model.apply_received(&first).await, [Ok(Applied::Now), Ok(Applied::Now)]);
        let before = format!("{:?}", all_of(model, now).await);
        let forged = [event(1, i32::MAX, 5), event(1, MAX_AHEAD + 2, 5), priced(1, MAX_AHEAD + 2), priced(2, i32::MAX)];
        let results = model.apply_received(&forged).await;
        assert!(results.iter().all(is_refused), "{results:?}");
        reasons.push(results);
        assert_eq!(format!("{:?}", all_of(model, now).await), before);

        // The others of a batch are applied, also those that are as far ahead as allowed.
        let batch = [event(1, 2, 5), event(1, MAX_AHEAD + 1, 5), event(17, 1, 5), event(17, i32::MAX, 5), priced(1, 2)];
        let results = model.apply_received(&batch).await;
        assert!(is_refused(&results[3]), "{results:?}");
        assert!(results.iter().filter(|result| **result == Ok(Applied::Now)).count() == 4, "{results:?}");
        // An event of the log is genuine.
        assert_eq!(model.apply(&[event(17, i32::MAX, 5)]).await, [Ok(Applied::Now)]);
    }
    assert_eq!(reasons[0], reasons[1]);
    let Err(reason) = &reasons[0][2] else { panic!() };
    assert_eq!(reason.to_string(), "version 5002 is more than 5000 above version 1 of product 1");
}

/// It does not know the older events of a client yet.
#[tokio::test]
async fn a_generation_that_is_being_built_refuses_no_version() {
    let server = server().await;
    let redis = Redis::connect(&server.url, 16, Currency::USD).await.unwrap();
    assert_eq!(redis.apply(&[event(1, 1, 5), event(1, 50_000, 5), priced(1, 50_000)]).await, vec![Ok(Applied::Now); 3]);
    command(&server, &["HSET", "orders:{p1}:g1:client:1", "version", "50000"]).await;
    let building = redis.change_generations(Generations::start).await.unwrap().unwrap();
    let received = [event(1, 50_001, 5), priced(1, 50_001)];
    assert_eq!(redis.apply_received(&received).await, [Ok(Applied::Now), Ok(Applied::Now)]);
    assert_eq!(redis.pinned_to(building).apply(&received).await, [Ok(Applied::Before), Ok(Applied::Before)]);
}

/// Redis serves nobody else while it runs a script. The limit is 10 ms on a machine that runs the script of plain writes in 13 ms.
#[tokio::test]
async fn the_longest_gap_is_closed_faster_than_as_many_plain_writes() {
    let server = server().await;
    let redis = Redis::connect(&server.url, 16, Currency::USD).await.unwrap();
    command(&server, &["CONFIG", "SET", "slowlog-log-slower-than", "0"]).await;
    let writes = format!("for v = 1, {MAX_AHEAD} do redis.call('HSET', KEYS[1], v, v) end");
    let mut least = f64::MAX;
    for client in 1..=5 {
        let ahead: Vec<Event> = (2..=MAX_AHEAD).map(|version| event(client, version, 5)).collect();
        assert!(redis.apply_received(&ahead).await.iter().all(|result| *result == Ok(Applied::Now)));
        command(&server, &["SLOWLOG", "RESET"]).await;
        assert_eq!(redis.apply_received(&[event(client, 1, 5)]).await, [Ok(Applied::Now)]);
        let gap = slowest_command(&server).await;
        assert_eq!(
            redis.projected_clients(&[client]).await.unwrap()[0].as_ref().unwrap().as_ref().unwrap().client.version,
            MAX_AHEAD
        );
        command(&server, &["SLOWLOG", "RESET"]).await;
        command(&server, &["EVAL", &writes, "1", &format!("plain:{client}")]).await;
        let plain = slowest_command(&server).await;
        println!("closing a gap of {MAX_AHEAD} versions takes {gap:?}, and as many plain writes {plain:?}");
        least = least.min(gap.as_secs_f64() / plain.as_secs_f64());
    }
    assert!(least < 0.75, "it took {least} of the time of as many plain writes");
}
