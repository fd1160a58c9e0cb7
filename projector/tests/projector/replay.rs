//! Replaying the event log.

use crate::support::*;
use entity::{Event, order_event};
use futures::{StreamExt, TryStreamExt};
use iso_currency::Currency;
use projector::replay;
use read_model::{Applied, Error, Memory, Projection, Queries};
use sea_orm::{ActiveModelTrait, DatabaseConnection, EntityTrait, IntoActiveModel};
use std::sync::atomic::{AtomicUsize, Ordering};
use uuid::Uuid;

#[tokio::test]
async fn a_replay_can_be_continued() {
    let db = database().await;
    // A page ends with a hundred thousand lines.
    let mut rows: Vec<_> = (1..=1_000).map(|version| row_of(1, version, 100)).collect();
    rows.extend((1_001..=2_000).map(|version| row(1, version)).chain([row(2, 1)]));
    for rows in rows.chunks(500) {
        let rows = rows.iter().map(|row| row.clone().into_active_model().reset_all());
        order_event::Entity::insert_many(rows).exec_without_returning(&db).await.unwrap();
    }
    let replayed = async |memory: &Memory, after: Option<Uuid>, steps: usize| {
        let steps = replay::replay(&db, memory, Currency::USD, after).take(steps).try_collect::<Vec<_>>();
        *steps.await.unwrap().last().unwrap()
    };
    let memory = Memory::default();
    let first = replayed(&memory, None, 1).await;
    let rest = replayed(&memory, Some(first.last), 9).await;
    assert_eq!((first.events, first.events + rest.events), (1_000, 2_001));
    let clients = memory.clients(&[1, 2]).await.unwrap();
    assert_eq!(clients.into_iter().map(|client| client.unwrap().version).collect::<Vec<_>>(), [2_000, 1]);

    // All events before one that cannot be read are applied and reported.
    let unreadable = order_event::Model { r#type: "orders.Unheard.v1".into(), ..row(2, 2) };
    unreadable.into_active_model().reset_all().insert(&db).await.unwrap();
    let memory = Memory::default();
    let change_of = replay::replay(&db, &memory, Currency::USD, None).collect::<Vec<_>>().await;
    let (error, before) = change_of.split_last().unwrap();
    assert!(error.as_ref().unwrap_err().to_string().contains("is invalid"), "{error:?}");
    let last = before.last().unwrap().as_ref().unwrap();
    assert_eq!((last.events, last.last), (2_001, rows.iter().map(|row| row.id).max().unwrap()));
    assert_eq!(memory.clients(&[2]).await.unwrap()[0].as_ref().unwrap().version, 1);
}

/// A read model that is unavailable for the first calls.
struct UnavailableAtFirst(Memory, AtomicUsize);

#[async_trait::async_trait]
impl Projection for UnavailableAtFirst {
    async fn apply(&self, events: &[Event]) -> Vec<Result<Applied, Error>> {
        if self.1.fetch_add(1, Ordering::SeqCst) < 2 {
            let unavailable = || Err(Error::Unavailable("timed out".into()));
            return events.iter().map(|_| unavailable()).collect();
        }
        self.0.apply(events).await
    }

    async fn ping(&self) -> Result<(), Error> {
        Ok(())
    }
}

#[tokio::test]
async fn a_replay_outlives_a_short_outage_of_the_read_model() {
    let db = database().await;
    for version in 1..=3 {
        row(1, version).into_active_model().reset_all().insert(&db).await.unwrap();
    }
    let read_model = UnavailableAtFirst(Memory::default(), AtomicUsize::new(0));
    assert_eq!(replay_all(&db, &read_model, Currency::USD).await.unwrap(), 3);
    assert_eq!(read_model.0.clients(&[1]).await.unwrap()[0].as_ref().unwrap().version, 3);
}

async fn replay_all(db: &DatabaseConnection, read_model: &dyn Projection, currency: Currency) -> anyhow::Result<u64> {
    let pages = replay::replay(db, read_model, currency, None);
    pages.try_fold(0, async |_, replayed| Ok(replayed.events)).await
}

#[tokio::test]
async fn replay_fills_an_empty_read_model_and_changes_nothing_in_a_full_one() {
    let db = database().await;
    let rows = (1..=1_500).map(|version| row(1, version)).chain([row(2, 1)]);
    let rows: Vec<_> = rows.map(|row| row.into_active_model().reset_all()).collect();
    for rows in rows.chunks(500) {
        order_event::Entity::insert_many(rows.to_vec()).exec_without_returning(&db).await.unwrap();
    }
    let memory = Memory::default();
    for _ in 0..2 {
        assert_eq!(replay_all(&db, &memory, Currency::USD).await.unwrap(), 1_501);
        let client = memory.clients(&[1]).await.unwrap().remove(0).unwrap();
        assert_eq!((client.order_count, client.version, client.total), (1_500, 1_500, 1_500 * 150_000));
    }
    assert!(replay_all(&db, &Memory::default(), Currency::EUR).await.is_err());
}
