//! The five faults of the AWS sample: in each test the algorithm of the sample fails and ours does not.

use std::collections::HashMap;

use api::commands::place_order::place;
use api::outbox::relay::{Pass, Relay};
use entity::{Event, order, order_event};
use futures::future::join_all;
use iso_currency::Currency;
use read_model::{Memory, Projection, ReadModel};
use sea_orm::{ConnectionTrait, EntityTrait, PaginatorTrait};
use uuid::Uuid;

use crate::support::{Db, command, placed, queue, sqlite};

const MINUTE: u64 = 60;

/// The state of the sample's consumer: the messages it has seen, until when it remembers them, and the total.
#[derive(Default)]
struct Sample {
    seen: HashMap<Uuid, u64>,
    total: i64,
}

impl Sample {
    /// `SET NX EX 300`: whether the message is new.
    fn mark_as_seen(&mut self, event: &Event, now: u64) -> bool {
        let is_new = self.seen.get(&event.id).is_none_or(|until| *until <= now);
        if is_new {
            self.seen.insert(event.id, now + 5 * MINUTE);
        }
        is_new
    }

    fn receive(&mut self, event: &Event, now: u64) {
        if self.mark_as_seen(event, now) {
            self.total += event.order().unwrap().total;
        }
    }
}

async fn ordered(db: &Db, orders: usize) -> Vec<Event> {
    let commands: Vec<_> = (0..orders).map(|_| command(1, &[(1, 1)], None)).collect();
    let outcomes = place(&db.connection, Currency::USD, &commands).await.unwrap().outcomes;
    outcomes.into_iter().map(|outcome| placed(outcome).into()).collect()
}

async fn total(read_model: &dyn ReadModel) -> i64 {
    read_model.clients(&[1]).await.unwrap().remove(0).map_or(0, |client| client.total)
}

#[tokio::test]
async fn a_rolled_back_order_leaves_no_event_and_a_committed_one_leaves_one() {
    // The sample sends its message inside the transaction: a rollback does not take it back.
    let (mut sent, mut rows) = (Vec::new(), Vec::new());
    rows.push("order");
    sent.push("event");
    rows.clear(); // ROLLBACK
    assert_eq!((sent.len(), rows.len()), (1, 0), "a ghost");

    let db = sqlite().await;
    let (relay, _) = Relay::new(db.connection.clone(), queue().await);
    db.connection.execute_unprepared("ALTER TABLE order_items RENAME TO elsewhere").await.unwrap();
    place(&db.connection, Currency::USD, &[command(1, &[(1, 1)], None)]).await.unwrap_err();
    assert_eq!(order::Entity::find().count(&db.connection).await.unwrap(), 0);
    assert_eq!(relay.run_once().await.unwrap(), Pass::default(), "no ghost");
    // A message sent after the commit would be lost in a crash between the two. Here any relay finds the event.
    db.connection.execute_unprepared("ALTER TABLE elsewhere RENAME TO order_items").await.unwrap();
    ordered(&db, 1).await;
    assert_eq!(relay.run_once().await.unwrap().published, 1);
}

#[tokio::test]
async fn a_crash_between_seeing_and_applying_loses_nothing() {
    let events = ordered(&sqlite().await, 1).await;
    let mut sample = Sample::default();
    assert!(sample.mark_as_seen(&events[0], 0)); // and crashes; the message is delivered again after 30 seconds
    sample.receive(&events[0], 30);
    assert_eq!(sample.total, 0, "lost");

    // Here it is one atomic step.
    let memory = Memory::default();
    memory.apply(&events).await;
    memory.apply(&events).await;
    assert_eq!(total(&memory).await, events[0].order().unwrap().total);
}

#[tokio::test]
async fn a_message_repeated_after_a_month_counts_once() {
    let events = ordered(&sqlite().await, 100).await;
    let mut sample = Sample::default();
    sample.receive(&events[0], 0);
    sample.receive(&events[0], 6 * MINUTE);
    assert_eq!(sample.total, 2 * events[0].order().unwrap().total, "doubled");

    let memory = Memory::default();
    memory.apply(&events).await;
    let before = total(&memory).await;
    memory.apply(&events[..1]).await;
    assert_eq!(total(&memory).await, before);
}

#[tokio::test]
async fn two_concurrent_updates_both_count() {
    let events = ordered(&sqlite().await, 50).await;
    let mut stored = 0;
    let (one, other) = (stored, stored); // both read …
    stored = one + events[0].order().unwrap().total;
    assert_eq!(stored, events[0].order().unwrap().total);
    stored = other + events[1].order().unwrap().total; // … and both write
    assert_eq!(stored, events[1].order().unwrap().total, "one is lost");

    let memory = Memory::default();
    join_all(events.iter().map(|event| memory.apply(std::slice::from_ref(event)))).await;
    assert_eq!(total(&memory).await, events.iter().map(|event| event.order().unwrap().total).sum::<i64>());
}

#[tokio::test]
async fn a_lost_read_model_can_be_replayed() {
    let db = sqlite().await;
    let events = ordered(&db, 3).await;
    // The sample's events are in its queue alone, until they are consumed.
    let mut messages = events.clone();
    let mut sample = Sample::default();
    for event in messages.drain(..) {
        sample.receive(&event, 0);
    }
    let lost = Sample::default();
    assert!(messages.is_empty() && lost.total < sample.total, "there is nothing to replay");

    let replayed = Memory::default();
    for row in order_event::Entity::find().all(&db.connection).await.unwrap() {
        replayed.apply(&[Event::from_row(row, "USD").unwrap()]).await;
    }
    assert_eq!(total(&replayed).await, events.iter().map(|event| event.order().unwrap().total).sum::<i64>());
}
