//! An event that makes its call to the queue fail delays no other event, whenever it arrives.

use std::collections::{BTreeMap, BTreeSet};
use std::future::pending;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use api::commands::place_order::place;
use api::outbox::relay::Queue;
use entity::outbox;
use futures::future::join_all;
use iso_currency::Currency;
use sea_orm::{DatabaseConnection, EntityTrait};
use serde_json::Value;
use test_support::sqs::{intercepted, is_call};
use tokio::time::{sleep, timeout};
use uuid::Uuid;
use winterbaume_core::{MockRequest, MockResponse, MockService};

use crate::refused::RunningRelay;
use crate::relay::{arrived, event_ids, place_orders};
use crate::support::{Db, command, postgres, queue_on, sqlite, until};

#[derive(Clone, Copy, Debug)]
enum Fault {
    Status(u16),
    Hangs,
}

/// Orders with this number of units make their calls fail.
const BAD_QUANTITY: i32 = 77;

/// A queue that fails each call with such an order, while `is_failing`.
async fn queue_with(fault: Fault, is_failing: Arc<AtomicBool>) -> Queue {
    let is_bad = |request: &MockRequest| {
        let body: Value = serde_json::from_slice(&request.body).unwrap();
        let messages = body["Entries"].as_array().unwrap().iter().filter_map(|entry| entry["MessageBody"].as_str());
        messages.into_iter().any(|message| message.contains(&format!("\"quantity\":{BAD_QUANTITY}")))
    };
    let aws = intercepted(move |sqs, request| {
        if !is_call(&request, "SendMessageBatch") || !is_failing.load(Ordering::SeqCst) || !is_bad(&request) {
            return sqs.handle(request);
        }
        match fault {
            Fault::Status(status) => Box::pin(async move { MockResponse::json(status, "{}") }),
            Fault::Hangs => Box::pin(pending()),
        }
    });
    queue_on(aws.await).await
}

async fn outbox_ids(db: &DatabaseConnection) -> BTreeSet<Uuid> {
    outbox::Entity::find().all(db).await.unwrap().into_iter().map(|row| row.event_id).collect()
}

/// Places orders for some seconds. Returns how long each good event was pending at most, and the number of bad ones.
async fn place_good_and_bad(db: &DatabaseConnection, relays: &[RunningRelay]) -> (Vec<Duration>, usize) {
    let (mut committed, mut delays, mut bad) = (BTreeMap::<Uuid, Instant>::new(), Vec::new(), BTreeSet::new());
    let mut known = BTreeSet::new();
    for number in 0..100_usize {
        // Several bad events follow each other, and all relays get some.
        let is_bad = number % 3 == 0 || number % 20 < 4;
        let order = command(number as i64 % 3 + 1, &[(1, if is_bad { BAD_QUANTITY } else { 1 })], None);
        let placed = place(db, Currency::USD, &[order]).await.unwrap();
        let now = Instant::now();
        for event in placed.outgoing {
            known.insert(event.id());
            match is_bad {
                true => _ = bad.insert(event.id()),
                false => _ = committed.insert(event.id(), now),
            }
            // As if the process had died after some commits: only a poll finds these events.
            if number % 10 != 9 {
                relays[number % relays.len()].fast_path.send(event).await.unwrap();
            } else {
                committed.remove(&event.id());
            }
        }
        sleep(Duration::from_millis(50)).await;
        settle(db, &mut committed, &mut delays).await;
    }
    until("every good event is published", async || {
        settle(db, &mut committed, &mut delays).await;
        outbox_ids(db).await.is_subset(&bad)
    })
    .await;
    assert_eq!(outbox_ids(db).await, bad);
    (delays, known.len())
}

async fn settle(db: &DatabaseConnection, committed: &mut BTreeMap<Uuid, Instant>, delays: &mut Vec<Duration>) {
    let pending = outbox_ids(db).await;
    committed.retain(|id, at| {
        let is_pending = pending.contains(id);
        if !is_pending {
            delays.push(at.elapsed());
        }
        is_pending
    });
}

async fn check(db: Db, fault: Fault, relays: usize) {
    let is_failing = Arc::new(AtomicBool::new(true));
    let queue = queue_with(fault, is_failing.clone()).await;
    let relays: Vec<_> = (0..relays).map(|_| RunningRelay::start(&db, &queue)).collect();
    let (mut delays, events) = place_good_and_bad(&db.connection, &relays).await;
    delays.sort_unstable();
    let slow = delays.iter().filter(|delay| **delay > Duration::from_secs(3)).count();
    assert_eq!(slow, 0, "{fault:?}: {:?}", &delays[delays.len() - 5..]);
    is_failing.store(false, Ordering::SeqCst);
    until("the bad events are published", async || outbox_ids(&db.connection).await.is_empty()).await;
    join_all(relays.into_iter().map(RunningRelay::stop)).await;
    let arrived = arrived(&queue).await;
    assert!(arrived.len() == events && arrived.keys().eq(event_ids(&db.connection).await.iter()), "{fault:?}");
}

#[tokio::test]
async fn events_whose_calls_fail_at_any_time_delay_no_other() {
    tokio::join!(
        check(sqlite().await, Fault::Status(500), 1),
        check(postgres().await, Fault::Status(500), 2),
        check(postgres().await, Fault::Status(403), 2),
    );
}

#[tokio::test]
async fn events_whose_calls_hang_delay_no_other() {
    tokio::join!(check(sqlite().await, Fault::Hangs, 1), check(postgres().await, Fault::Hangs, 2));
}

/// Also if each call takes longer than other events wait for it.
#[tokio::test]
async fn what_a_slow_queue_accepts_is_recorded() {
    let db = postgres().await;
    let aws = intercepted(|sqs, request| {
        if !is_call(&request, "SendMessageBatch") {
            return sqs.handle(request);
        }
        Box::pin(async move {
            sleep(Duration::from_secs(2)).await;
            sqs.handle(request).await
        })
    });
    let queue = queue_on(aws.await).await;
    place_orders(&db.connection, 100).await;
    let relay = RunningRelay::start(&db, &queue);
    until("all are published", async || outbox_ids(&db.connection).await.is_empty()).await;
    relay.stop().await;
    assert!(arrived(&queue).await.keys().eq(event_ids(&db.connection).await.iter()));
}

#[tokio::test]
async fn a_relay_stops_within_seconds_while_calls_hang() {
    let db = sqlite().await;
    let queue = queue_with(Fault::Hangs, Arc::new(AtomicBool::new(true))).await;
    let relay = RunningRelay::start(&db, &queue);
    let orders: Vec<_> = (0..30).map(|_| command(1, &[(1, BAD_QUANTITY)], None)).collect();
    for event in place(&db.connection, Currency::USD, &orders).await.unwrap().outgoing {
        relay.fast_path.send(event).await.unwrap();
    }
    sleep(Duration::from_millis(500)).await;
    timeout(Duration::from_secs(8), relay.stop()).await.expect("it waits for the calls");
    assert_eq!(outbox_ids(&db.connection).await.len(), 30);
}
