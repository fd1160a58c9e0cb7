//! The background sweep.

use crate::support::*;
use chrono::{DateTime, SubsecRound, Utc};
use entity::Subject::Client;
use entity::order_event;
use iso_currency::Currency;
use projector::rebuild::Rebuild;
use projector::sweep::Sweep;
use projector::verify::{FirstMissed, Repair, Verifier};
use read_model::{Projection, Queries, Redis};
use runtime::database;
use sea_orm::{ConnectionTrait, DatabaseConnection, EntityTrait, TransactionTrait};
use std::ops::ControlFlow;
use std::sync::Arc;
use std::time::Duration;
use test_support::fill::fill;
use test_support::log::Log;
use test_support::services::sql;
use tokio_util::sync::CancellationToken;
use tracing::Level;
use uuid::Uuid;

const DAY: Duration = Duration::from_secs(86_400);

#[tokio::test]
async fn the_sweep_repairs_what_redis_lost() {
    let (_server, url, mut verifier) = verifier(Repair::FromLog).await;
    verifier.in_flight = Duration::from_millis(100);
    let rows: Vec<_> = (1..=3).flat_map(|client| (1..=4).map(move |version| row(client, version))).collect();
    place(&verifier.db, &rows, Outbox::Published).await;
    verifier.read_model.apply(&events(&rows)).await;
    let mut sweep = Sweep::new(verifier, Duration::from_millis(1), DAY, Arc::default());
    assert_eq!(sweep.run_once().await.unwrap(), []);

    command(&url, &["FLUSHALL"]).await;
    let shutdown = CancellationToken::new();
    let running = tokio::spawn(sweep.run(shutdown.clone()));
    let read_model = Redis::connect(&url, 16, Currency::USD).await.unwrap();
    until(async || {
        let clients = read_model.clients(&[1, 2, 3]).await.unwrap();
        clients.iter().all(|client| client.as_ref().is_some_and(|client| client.total == 4 * 150_000))
    })
    .await;
    shutdown.cancel();
    running.await.unwrap();
}

#[tokio::test]
async fn the_progress_says_when_something_was_compared_and_what_was_found() {
    let (_server, url, verifier) = verifier(Repair::FromLog).await;
    let rows = [row(1, 1), row(2, 1)];
    place(&verifier.db, &rows, Outbox::Published).await;
    verifier.read_model.apply(&events(&rows)).await;
    let read_model = verifier.read_model.clone();
    let mut sweep = Sweep::new(verifier, Duration::ZERO, Duration::ZERO, Arc::default());
    let progress = async || read_model.status().await.unwrap().sweep.unwrap();
    assert_eq!(sweep.run_once().await.unwrap(), []);
    let before = progress().await;
    assert!(before.compared_at.is_some() && before.last_difference.is_none(), "{before:?}");
    command(&url, &["DEL", "orders:{p1}:g1:client:1"]).await;
    until(async || !sweep.run_once().await.unwrap().is_empty()).await;
    let after = progress().await;
    assert_eq!((after.differences, after.repaired), (1, 1), "{after:?}");
    assert!(after.compared_at > before.compared_at && after.last_difference == after.compared_at, "{after:?}");
    until(async || sweep.run_once().await.unwrap().is_empty() && progress().await.differences == 0).await;
    assert_eq!(progress().await.last_difference, after.last_difference, "the next round forgets only the numbers");
}

#[tokio::test]
async fn recent_changes_are_compared_again_until_they_are_complete() {
    let (_server, _, mut verifier) = verifier(Repair::Off).await;
    let id = |seconds_ago: i64| {
        Uuid::from_u128(
            ((Utc::now().timestamp_millis() - seconds_ago * 1_000) as u128) << 80 | u128::from(rand::random::<u64>()),
        )
    };
    let old = order_event::Model { id: id(3_600), ..row(1, 1) };
    let lately = order_event::Model { id: id(100), ..row(2, 1) };
    let delayed = order_event::Model { id: id(100), ..row(3, 1) };
    place(&verifier.db, &[old, lately], Outbox::Published).await;
    place(&verifier.db, &[delayed], Outbox::Pending).await;
    let mut changed = verifier.changed_between(id(200), id(60)).await.unwrap();
    changed.sort();
    assert_eq!(changed, [Client(2), Client(3)]);
    let mut first_missed = FirstMissed::default();
    assert_eq!(verifier.subjects(&changed, &mut first_missed).await.unwrap().len(), 1);
    assert_eq!(first_missed.missed_for(Duration::ZERO), [Client(3)], "it is in the outbox");
    // Published long after it happened, and lost then.
    verifier.db.execute_unprepared("DELETE FROM outbox").await.unwrap();
    verifier.repair = Repair::FromLog;
    assert_eq!(verifier.subjects(&[Client(3)], &mut first_missed).await.unwrap().len(), 1);
}

/// How many rows of clients and orders were read by index.
async fn rows_read(db: &DatabaseConnection) -> i64 {
    let read =
        "SELECT sum(idx_tup_fetch)::bigint AS rows FROM pg_stat_user_tables WHERE relname IN ('clients', 'orders')";
    db.query_one_raw(sql(read)).await.unwrap().unwrap().try_get("", "rows").unwrap()
}

#[tokio::test]
async fn a_page_that_takes_too_long_is_skipped_and_an_idle_sweep_reads_little() {
    const CLIENTS: i64 = 3_000;
    let postgres = test_support::postgres::database().await;
    let connect = |limit| database::connect(&postgres.url, 8, Some(Duration::from_millis(limit)));
    let (db, (_server, read_model, url)) = (connect(60_000).await.unwrap(), redis().await);
    migration::up(&db).await.unwrap();
    fill(&db, CLIENTS, CLIENTS).await;
    let log = order_event::Entity::find().all(&db).await.unwrap();
    for result in read_model.apply(&events(&log)).await {
        result.unwrap();
    }
    for lost in [["DEL", "orders:{p1}:g1:client:17"], ["DEL", "orders:{p14}:g1:client:2990"]] {
        command(&url, &lost).await;
    }
    // The orders of one client cannot be read in time.
    for statement in [
        "ALTER TABLE orders RENAME TO stored_orders",
        "CREATE VIEW orders AS SELECT * FROM stored_orders WHERE client_id <> 1000 OR pg_sleep(9) IS NOT NULL",
    ] {
        db.execute_unprepared(statement).await.unwrap();
    }
    let slow = connect(500).await.unwrap();
    let verifier = Verifier::new(slow, read_model.clone(), Currency::USD, Duration::ZERO, Repair::FromLog);
    let mut sweep = Sweep::new(verifier, Duration::ZERO, Duration::ZERO, Arc::default());
    until(async || {
        let _ = sweep.run_once().await; // the page fails until it is small
        let clients = read_model.clients(&[17, 2_990]).await.unwrap();
        clients.iter().all(Option::is_some)
    })
    .await;
    for statement in ["DROP VIEW orders", "ALTER TABLE stored_orders RENAME TO orders"] {
        db.execute_unprepared(statement).await.unwrap();
    }

    // Another projector takes over when the first one ends. It continues the round, and reads little when that is complete.
    let shutdown = CancellationToken::new();
    shutdown.cancel();
    sweep.run(shutdown).await;
    let other = connect(60_000).await.unwrap();
    let verifier = Verifier::new(other, read_model.clone(), Currency::USD, Duration::ZERO, Repair::FromLog);
    let mut sweep = Sweep::new(verifier.clone(), Duration::ZERO, Duration::ZERO, Arc::default());
    until(async || {
        sweep.run_once().await.unwrap();
        read_model.sweep_progress().await.unwrap().unwrap().is_finished
    })
    .await;
    command(&url, &["DEL", "orders:{p1}:g1:client:17"]).await;
    let mut waiting = Sweep::new(verifier.clone(), Duration::ZERO, Duration::ZERO, Arc::default());
    for _ in 0..3 {
        assert_eq!(waiting.run_once().await.unwrap(), [], "only one projector sweeps");
    }
    until(async || !sweep.run_once().await.unwrap().is_empty()).await;
    until(async || sweep.run_once().await.unwrap().is_empty()).await;
    let shutdown = CancellationToken::new();
    shutdown.cancel();
    sweep.run(shutdown.clone()).await;
    let mut ending = Sweep::new(verifier.clone(), Duration::ZERO, DAY, Arc::default());
    until(async || {
        assert_eq!(ending.run_once().await.unwrap(), []);
        let progress = read_model.sweep_progress().await.unwrap().unwrap();
        progress.last == 3_000 && progress.has_compared_sums
    })
    .await;
    ending.run(shutdown).await;
    verifier.db.close().await.unwrap(); // then its statistics are complete

    let (before, compared) = (rows_read(&db).await, connect(60_000).await.unwrap());
    let verifier = Verifier::new(compared.clone(), read_model, Currency::USD, Duration::ZERO, Repair::FromLog);
    let mut idle = Sweep::new(verifier, Duration::ZERO, DAY, Arc::default());
    for _ in 0..20 {
        assert_eq!(idle.run_once().await.unwrap(), []);
    }
    compared.close().await.unwrap();
    let read = rows_read(&db).await - before;
    assert!(read < 20 * 200, "{read} rows");
}

#[tokio::test]
async fn the_sweep_reports_wrong_sums_until_a_rebuild_has_corrected_them() {
    let (_server, url, verifier) = verifier(Repair::RemoveOrphans).await;
    let now = Utc::now().trunc_subsecs(3);
    let rows: Vec<_> = (1..=3).map(|client| order_event::Model { occurred_at: now, ..row(client, 1) }).collect();
    place(&verifier.db, &rows, Outbox::Published).await;
    verifier.read_model.apply(&events(&rows)).await;
    command(&url, &["DEL", &now.format("orders:{p2}:g1:days:%Y").to_string()]).await;
    let mut sweep = Sweep::new(verifier.clone(), Duration::ZERO, DAY, Arc::default());
    assert_eq!(sweep.run_once().await.unwrap(), []);
    assert_eq!(verifier.read_model.wrong_sums().await.unwrap(), 1);
    until(async || verifier.read_model.health().await.wrong_sums == 1).await;

    let rebuild = Rebuild { verifier: verifier.clone(), keep: Duration::ZERO };
    rebuild.start(|_| ControlFlow::Continue(())).await.unwrap();
    until(async || verifier.read_model.health().await.wrong_sums == 0).await;
    assert_eq!(sweep.run_once().await.unwrap(), []);
    assert_eq!(wrong_sums(&verifier).await, Vec::<String>::new());
}

#[tokio::test]
async fn wrong_sums_of_a_generation_are_not_those_of_the_next_one() {
    let (_server, url, mut verifier) = verifier(Repair::RemoveOrphans).await;
    let now = Utc::now().trunc_subsecs(3);
    let rows: Vec<_> = (1..=2).map(|client| order_event::Model { occurred_at: now, ..row(client, 1) }).collect();
    place(&verifier.db, &rows, Outbox::Published).await;
    verifier.read_model.apply(&events(&rows)).await;
    // A sum that is too large is wrong at once. Another one may still become right, so the comparison waits.
    let products = now.format("orders:{p1}:g1:products:%Y-%m-%d").to_string();
    command(&url, &["HINCRBY", &products, "2:units", "7"]).await;
    command(&url, &["DEL", &now.format("orders:{p2}:g1:days:%Y").to_string()]).await;
    let rebuild = Rebuild { verifier: verifier.clone(), keep: DAY };
    verifier.in_flight = Duration::from_secs(3);
    let rebuilt = async {
        tokio::time::sleep(Duration::from_secs(1)).await;
        rebuild.start(|_| ControlFlow::Continue(())).await.unwrap()
    };
    let (wrong, generation) = tokio::join!(verifier.count_wrong_sums(), rebuilt);
    assert!(wrong.unwrap() >= 2);
    let stored = async |generation| verifier.read_model.pinned_to(generation).wrong_sums().await.unwrap();
    assert!(stored(1).await >= 2);
    assert_eq!(stored(generation).await, 0);
}

#[tokio::test]
async fn a_sweep_keeps_its_lease_during_a_long_comparison_and_stops_when_it_is_lost() {
    const LEASE: &str = "orders:sweeper";
    let (server, _, verifier) = verifier(Repair::Off).await;
    let blocked = verifier.db.begin().await.unwrap(); // it has the only connection
    let mut sweep = Sweep::new(verifier, Duration::ZERO, DAY, Arc::default());
    let running = tokio::spawn(async move { sweep.run_once().await.unwrap() });
    let time_left = async || server.command::<i64>(&["PTTL", LEASE]).await;
    until(async || time_left().await > 0).await;
    let mut shortest = time_left().await;
    until(async || {
        let now = time_left().await;
        shortest = shortest.min(now);
        now > shortest + 2_000
    })
    .await;
    let () = server.command(&["SET", LEASE, "another sweep", "PX", "60000"]).await;
    assert_eq!(running.await.unwrap(), []);
    assert_eq!(server.command::<String>(&["GET", LEASE]).await, "another sweep");
    blocked.rollback().await.unwrap();
}

#[tokio::test]
async fn a_key_that_is_no_lease_does_not_stop_the_sweep() {
    let (_server, url, verifier) = verifier(Repair::Off).await;
    let mut sweep = Sweep::new(verifier.clone(), Duration::ZERO, DAY, Arc::default());
    for key in [&["SET", "orders:sweeper", "nobody"][..], &["RPUSH", "orders:sweeper", "nobody"]] {
        command(&url, &["DEL", "orders:sweeper"]).await;
        command(&url, key).await;
        sweep.run_once().await.unwrap();
        assert!(!verifier.read_model.lease_sweep("another sweep", DAY).await.unwrap(), "{key:?}: the sweep has it");
    }
}

/// Redis loses a client with its recent orders while another order of the same time is missing. Nothing shows which orders the sums
/// include.
#[tokio::test]
async fn the_sweep_reports_the_orders_of_a_lost_client_that_may_be_missing_from_sums() {
    let (_server, url, verifier) = verifier(Repair::FromLog).await;
    let now = Utc::now().trunc_subsecs(3);
    let rows: Vec<_> = (1..=2).map(|version| order_event::Model { occurred_at: now, ..row(1, version) }).collect();
    place(&verifier.db, &rows[..1], Outbox::Published).await;
    verifier.read_model.apply(&events(&rows[..1])).await;
    let log = Log::start(Level::ERROR);
    let mut sweep = Sweep::new(verifier.clone(), Duration::ZERO, DAY, Arc::default());
    until(async || {
        assert_eq!(sweep.run_once().await.unwrap(), []);
        verifier.read_model.sweep_progress().await.unwrap().unwrap().has_compared_sums
    })
    .await;

    place(&verifier.db, &rows[1..], Outbox::Published).await;
    command(&url, &["DEL", "orders:{p1}:g1:client:1", "orders:{p1}:g1:recent:1"]).await;
    until(async || {
        sweep.run_once().await.unwrap();
        verifier.read_model.wrong_sums().await.unwrap() > 0
    })
    .await;
    let remedy = "the sums may not include these events of a repaired client: run `projector rebuild start`";
    assert!(log.lines().iter().any(|line| line.contains(remedy)), "{:?}", log.lines());
}

#[tokio::test]
async fn a_page_that_fails_hides_no_other_finding() {
    let (_server, _, verifier) = verifier(Repair::FromLog).await;
    let old = Uuid::from_u128((Utc::now().timestamp_millis() as u128 - 3_600_000) << 80);
    let unreadable = order_event::Model { id: old, occurred_at: DateTime::UNIX_EPOCH, ..row(2, 1) };
    let rows = [row(1, 1), unreadable];
    place(&verifier.db, &rows, Outbox::Published).await;
    // Adding up the orders of client 2 fails, and so does each page with that client.
    for statement in [
        "ALTER TABLE orders RENAME TO stored_orders",
        "CREATE VIEW orders AS SELECT id, client_id, version, placed_at, cancelled_at, refunded, \
         CASE client_id WHEN 2 THEN abs(-9223372036854775807 - 1) ELSE total END AS total FROM stored_orders",
    ] {
        verifier.db.execute_unprepared(statement).await.unwrap();
    }
    let log = Log::start(Level::WARN);
    let mut sweep = Sweep::new(verifier.clone(), Duration::ZERO, Duration::ZERO, Arc::default());
    let error = sweep.run_once().await.unwrap_err();
    assert!(error.to_string().contains("integer overflow"), "{error}");
    assert!(verifier.read_model.clients(&[1]).await.unwrap()[0].is_some(), "it was repaired");
    assert!(log.lines().iter().any(|line| line.contains("the read model differs")), "{:?}", log.lines());
}
