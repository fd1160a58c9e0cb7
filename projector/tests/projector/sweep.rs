//! The background sweep.

use crate::support::*;
use chrono::Utc;
use entity::Subject::Client;
use entity::order_event;
use iso_currency::Currency;
use projector::sweep::Sweep;
use projector::verify::{FirstMissed, Repair};
use read_model::{Projection, Queries, Redis};
use sea_orm::ConnectionTrait;
use std::sync::Arc;
use std::time::Duration;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

#[tokio::test]
async fn the_sweep_repairs_what_redis_lost() {
    let (_server, url, mut verifier) = verifier(Repair::FromLog).await;
    verifier.in_flight = Duration::from_millis(100);
    let rows: Vec<_> = (1..=3).flat_map(|client| (1..=4).map(move |version| row(client, version))).collect();
    place(&verifier.db, &rows, Outbox::Published).await;
    verifier.read_model.apply(&events(&rows)).await;
    let mut sweep = Sweep::new(verifier, Duration::from_millis(1), Arc::default());
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
