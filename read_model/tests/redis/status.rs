//! What operators see of the read model.

use std::sync::Arc;

use chrono::{DateTime, Utc};
use entity::Subject;
use iso_currency::Currency;
use read_model::{Memory, ProjectorState, ProjectorStatus, ReadModel, Redis, SweepProgress};
use uuid::Uuid;

use crate::support::{command, event, priced, server};

fn projector(id: u128, state: ProjectorState) -> ProjectorStatus {
    let started = DateTime::<Utc>::from_timestamp(id as i64, 0).unwrap();
    ProjectorStatus { id: Uuid::from_u128(id), version: "1.2.3".into(), started, state, lag_s: id as u64 }
}

#[tokio::test]
async fn projectors_and_applied_versions_are_the_same_in_redis_and_in_memory() {
    let server = server().await;
    let redis = Redis::connect(&server.url, 16, Currency::USD).await.unwrap();
    let models: [Arc<dyn ReadModel>; 2] = [Arc::new(redis), Arc::new(Memory::default())];
    for model in models {
        for projector in [projector(2, ProjectorState::Lagging), projector(1, ProjectorState::Current)] {
            model.report(&projector).await.unwrap();
        }
        model.report(&projector(2, ProjectorState::Frozen)).await.unwrap();
        let expected = [projector(1, ProjectorState::Current), projector(2, ProjectorState::Frozen)];
        assert_eq!(model.status().await.unwrap().projectors, expected, "each with its last report");

        assert!(model.apply(&[event(7, 1, 5), event(7, 3, 5), priced(7, 2)]).await.iter().all(Result::is_ok));
        let client = model.applied_versions(Subject::Client(7)).await.unwrap();
        assert_eq!([0, 1, 2, 3, 4].map(|version| client.has(version)), [true, true, false, true, false]);
        let product = model.applied_versions(Subject::Product(7)).await.unwrap();
        assert_eq!([2, 3].map(|version| product.has(version)), [true, false]);
        assert_eq!(model.applied_versions(Subject::Client(8)).await.unwrap().watermark, 0);
    }
}

#[tokio::test]
async fn a_report_is_removed_when_its_projector_is_silent() {
    let server = server().await;
    let redis = Redis::connect(&server.url, 16, Currency::USD).await.unwrap();
    let model: &dyn ReadModel = &redis;
    let old = "1700000000000 {\"id\":\"00000000-0000-0000-0000-000000000009\"}";
    command(&server, &["HSET", "orders:projectors", "old", old, "strange", "x"]).await;
    assert_eq!(model.status().await.unwrap().projectors, []);
    model.report(&projector(1, ProjectorState::Waiting)).await.unwrap();
    let fields = command(&server, &["HLEN", "orders:projectors"]).await;
    assert_eq!(fields, ::redis::Value::Int(1), "a report removes those that are too old");
    let ::redis::Value::Int(left) = command(&server, &["PTTL", "orders:projectors"]).await else { panic!("no expiry") };
    assert!((1..=10_000).contains(&left), "{left}");
}

#[tokio::test]
async fn the_progress_of_a_sweep_of_an_older_release_is_read() {
    let server = server().await;
    let redis = Redis::connect(&server.url, 16, Currency::USD).await.unwrap();
    let model: &dyn ReadModel = &redis;
    assert_eq!(model.status().await.unwrap().sweep, None);
    let older = r#"{"began":"2026-01-31T10:00:00Z","last":7,"is_finished":true,"has_compared_sums":true}"#;
    command(&server, &["HSET", "orders:meta", "g1:swept", older]).await;
    let sweep = model.status().await.unwrap().sweep.unwrap();
    assert_eq!((sweep.last, sweep.is_finished, sweep.compared_at, sweep.differences), (7, true, None, 0));
    let next = SweepProgress { last_difference: Some(sweep.began), differences: 3, ..sweep };
    let round = SweepProgress::new(Some(&next));
    assert_eq!((round.last_difference, round.differences, round.is_finished), (next.last_difference, 0, false));
}
