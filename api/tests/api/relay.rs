//! The outbox relay delivers each event at least once, even if the queue fails.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use api::commands::place_order::place;
use api::outbox::relay::{Pass, Queue, Relay};
use aws_sdk_sqs::types::QueueAttributeName;
use entity::event::ORDER_PLACED;
use entity::{order_event, outbox, refused_event};
use futures::future::join_all;
use iso_currency::Currency;
use read_model::Memory;
use sea_orm::{
    ColumnTrait, DatabaseConnection, EntityTrait, PaginatorTrait, QueryFilter, QueryOrder, QuerySelect,
    TransactionTrait,
};
use serde_json::{Value, json};
use test_support::sqs::{Handling, intercepted, is_call};
use tokio_util::sync::CancellationToken;
use winterbaume_core::{MockRequest, MockResponse, MockService};

use crate::support::{ALL_SCOPES, Api, Db, command, postgres, queue, queue_on, sqlite, until};

/// An SQS that rejects every third entry, and every fourth call.
async fn unreliable_queue() -> Queue {
    let (entries, calls) = (AtomicUsize::new(0), AtomicUsize::new(0));
    let aws = intercepted(move |sqs, request| {
        if !is_call(&request, "SendMessageBatch") {
            return sqs.handle(request);
        }
        if calls.fetch_add(1, Ordering::SeqCst) % 4 == 1 {
            let error = r#"{"__type":"com.amazonaws.sqs#OverLimit","message":"no"}"#;
            return Box::pin(async move { MockResponse::json(400, error) });
        }
        reject(sqs, request, false, |_| entries.fetch_add(1, Ordering::SeqCst) % 3 == 2)
    });
    queue_on(aws.await).await
}

/// Passes a `SendMessageBatch` call on to the SQS without the entries whose ids are rejected.
pub fn reject(
    sqs: &impl MockService,
    mut request: MockRequest,
    sender_fault: bool,
    is_rejected: impl Fn(&Value) -> bool,
) -> Handling<'_> {
    let mut body: Value = serde_json::from_slice(&request.body).unwrap();
    let mut rejected = Vec::new();
    body["Entries"].as_array_mut().unwrap().retain(|entry| {
        let reject = is_rejected(&entry["Id"]);
        if reject {
            rejected.push(json!({ "Id": entry["Id"], "Code": "InternalError", "SenderFault": sender_fault }));
        }
        !reject
    });
    let is_empty = body["Entries"].as_array().unwrap().is_empty();
    request.body = body.to_string().into();
    Box::pin(async move {
        if is_empty {
            return MockResponse::json(200, json!({ "Successful": [], "Failed": rejected }).to_string());
        }
        let mut response = sqs.handle(request).await;
        let mut body: Value = serde_json::from_slice(&response.body).unwrap();
        body["Failed"] = json!(rejected);
        response.body = body.to_string().into();
        response
    })
}

pub async fn place_orders(db: &DatabaseConnection, orders: usize) {
    let commands: Vec<_> = (0..orders).map(|n| command(n as i64 % 3 + 1, &[(1, 1)], None)).collect();
    place(db, Currency::USD, &commands).await.unwrap();
}

fn relay(db: &Db, queue: &Queue) -> Relay {
    Relay::new(db.connection.clone(), queue.clone()).0
}

/// How often each event arrived.
pub async fn arrived(queue: &Queue) -> BTreeMap<String, usize> {
    let mut ids = BTreeMap::new();
    loop {
        let received = queue.client.receive_message().queue_url(&queue.url).max_number_of_messages(10).send().await;
        let messages = received.unwrap().messages.unwrap_or_default();
        if messages.is_empty() {
            return ids;
        }
        for message in messages {
            let event: Value = serde_json::from_str(message.body().unwrap()).unwrap();
            *ids.entry(event["id"].as_str().unwrap().to_owned()).or_default() += 1;
        }
    }
}

pub async fn event_ids(db: &DatabaseConnection) -> BTreeSet<String> {
    let placed = order_event::Entity::find().filter(order_event::Column::Type.eq(ORDER_PLACED));
    placed.all(db).await.unwrap().into_iter().map(|event| event.id.to_string()).collect()
}

async fn unpublished(db: &DatabaseConnection) -> u64 {
    outbox::Entity::find().count(db).await.unwrap() + refused_event::Entity::find().count(db).await.unwrap()
}

#[tokio::test]
async fn an_event_stays_in_the_outbox_until_the_queue_accepts_it() {
    for db in [sqlite().await, postgres().await] {
        let queue = unreliable_queue().await;
        let relay = relay(&db, &queue);
        place_orders(&db.connection, 57).await;

        let first = relay.run_once().await.unwrap();
        assert!(first.published > 0 && first.error.is_some(), "{first:?}");
        assert_eq!(unpublished(&db.connection).await, 57 - first.published as u64);
        let mut passes = 1;
        while relay.run_once().await.unwrap() != Pass::default() {
            passes += 1;
            assert!(passes < 50, "the outbox never gets empty");
        }
        let arrived = arrived(&queue).await;
        assert!(arrived.keys().eq(event_ids(&db.connection).await.iter()), "{arrived:?}");
        assert!(arrived.values().all(|times| *times == 1), "an accepted event was sent again: {arrived:?}");
    }
}

#[tokio::test]
async fn several_relays_share_the_work() {
    let db = postgres().await;
    let queue = queue().await;
    place_orders(&db.connection, 900).await;
    let relays: Vec<Relay> = (0..4).map(|_| relay(&db, &queue)).collect();
    join_all(relays.iter().map(|relay| async { while relay.run_once().await.unwrap() != Pass::default() {} })).await;
    assert_eq!(unpublished(&db.connection).await, 0);
    let arrived = arrived(&queue).await;
    assert!(arrived.keys().eq(event_ids(&db.connection).await.iter()));
    assert!(arrived.values().all(|times| *times == 1), "two relays sent the same event");
}

#[tokio::test]
async fn rows_claimed_by_another_relay_are_skipped() {
    let db = postgres().await;
    let queue = queue().await;
    place_orders(&db.connection, 5).await;
    let other = db.connection.begin().await.unwrap();
    let oldest = outbox::Entity::find().order_by_asc(outbox::Column::EventId).limit(2).lock_exclusive();
    oldest.all(&other).await.unwrap();

    let pass = tokio::time::timeout(Duration::from_secs(10), relay(&db, &queue).run_once()).await;
    assert_eq!(pass.expect("it waits for the other relay").unwrap(), Pass { published: 3, ..Pass::default() });
    other.rollback().await.unwrap();
    assert_eq!(
        relay(&db, &queue).run_once().await.unwrap().published,
        2,
        "rows that the other relay released are not lost"
    );
}

/// An SQS that rejects batches while `is_down`, and counts them in `calls`.
async fn queue_that_can_be_down(is_down: Arc<AtomicBool>, calls: Arc<AtomicUsize>) -> Queue {
    let aws = intercepted(move |sqs, request| {
        if is_call(&request, "SendMessageBatch") {
            calls.fetch_add(1, Ordering::SeqCst);
            if is_down.load(Ordering::SeqCst) {
                return Box::pin(async { MockResponse::json(400, r#"{"__type":"OverLimit","message":"down"}"#) });
            }
        }
        sqs.handle(request)
    });
    queue_on(aws.await).await
}

/// There is no burst of calls, neither during an outage nor after it.
#[tokio::test]
async fn relays_back_off_while_the_queue_is_down() {
    let (is_down, calls) = (Arc::new(AtomicBool::new(true)), Arc::<AtomicUsize>::default());
    let db = postgres().await;
    let queue = queue_that_can_be_down(is_down.clone(), calls.clone()).await;
    place_orders(&db.connection, 1_000).await;
    let shutdown = CancellationToken::new();
    let relays: Vec<_> = (0..4).map(|_| tokio::spawn(relay(&db, &queue).run(shutdown.clone()))).collect();
    until("the outage is noticed", async || calls.load(Ordering::SeqCst) >= 4).await;
    tokio::time::sleep(Duration::from_secs(1)).await;
    // Each relay first makes about 8 calls and sends 5 events alone. Then it sends one after each pause, and pauses double.
    let during = calls.load(Ordering::SeqCst);
    assert!((4..=4 * (20 + 10)).contains(&during), "{during} calls while it was down");

    is_down.store(false, Ordering::SeqCst);
    until("all is published", async || unpublished(&db.connection).await == 0).await;
    let after = calls.load(Ordering::SeqCst) - during;
    assert!(after <= 100 + 4 * 20, "{after} calls for a hundred batches");
    shutdown.cancel();
    for relay in relays {
        relay.await.unwrap();
    }
    let arrived = arrived(&queue).await;
    assert!(arrived.keys().eq(event_ids(&db.connection).await.iter()));
    // No relay keeps a row locked for an event that it sends alone, so another relay may send it, too.
    let again = arrived.values().filter(|times| **times > 1).count();
    assert!(again <= 4 * 20, "{again} events were sent again");
}

#[tokio::test]
async fn an_event_that_is_always_rejected_does_not_delay_others() {
    let db = sqlite().await;
    place_orders(&db.connection, 1).await;
    let rejected = event_ids(&db.connection).await.pop_first().unwrap();
    let rejections = Arc::<AtomicUsize>::default();
    let counter = rejections.clone();
    let aws = intercepted(move |sqs, request| {
        if !is_call(&request, "SendMessageBatch") {
            return sqs.handle(request);
        }
        reject(sqs, request, false, |id| {
            let is_rejected = *id == *rejected;
            counter.fetch_add(usize::from(is_rejected), Ordering::SeqCst);
            is_rejected
        })
    });
    let (relay, fast_path) = Relay::new(db.connection.clone(), queue_on(aws.await).await);
    let shutdown = CancellationToken::new();
    let relay = tokio::spawn(relay.run(shutdown.clone()));
    until("a poll has sent the event twice", async || rejections.load(Ordering::SeqCst) >= 2).await;

    let placed = place(&db.connection, Currency::USD, &[command(2, &[(1, 1)], None)]).await.unwrap();
    let committed = Instant::now();
    for event in placed.outgoing {
        fast_path.send(event).await.unwrap();
    }
    until("the other event is published", async || unpublished(&db.connection).await == 1).await;
    assert!(committed.elapsed() < Duration::from_secs(2), "only the poll finds it: {:?}", committed.elapsed());
    shutdown.cancel();
    relay.await.unwrap();
}

#[tokio::test]
async fn a_relay_publishes_young_events_before_it_stops() {
    for db in [sqlite().await, postgres().await] {
        place_orders(&db.connection, 300).await;
        tokio::time::sleep(Duration::from_millis(5)).await; // event ids have the precision of a millisecond
        let shutdown = CancellationToken::new();
        shutdown.cancel();
        relay(&db, &queue().await).run(shutdown).await;
        assert_eq!(unpublished(&db.connection).await, 0);
    }
}

#[tokio::test]
async fn an_event_is_published_right_after_its_order() {
    let db = sqlite().await;
    let queue = queue().await;
    let api = Api::start_on(&db, Arc::new(Memory::default()), queue.clone(), &[]).await;
    let token = api.token(ALL_SCOPES, None);
    let mut delays = Vec::new();
    for _ in 0..9 {
        let order = "mutation { placeOrder(input: { clientId: \"1\", items: [{ productId: \"1\", quantity: 1 }] }) { replayed } }";
        api.graphql(&token, order, json!({})).await;
        let responded = Instant::now();
        while unpublished(&db.connection).await > 0 {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        delays.push(responded.elapsed());
    }
    delays.sort();
    assert!(delays[4] < Duration::from_millis(300), "only the poll published it, seconds later: {delays:?}");
}

#[tokio::test]
async fn a_fifo_queue_is_refused() {
    let mut queue = queue().await;
    let fifo = queue.client.create_queue().queue_name("orders.fifo").attributes(QueueAttributeName::FifoQueue, "true");
    queue.url = fifo.send().await.unwrap().queue_url.unwrap();
    let error = queue.check().await.unwrap_err().to_string();
    assert!(error.contains("standard queue") && !error.contains('\n'), "{error}");
}

/// Not every server demands that its name ends in `.fifo`.
#[tokio::test]
async fn a_queue_with_the_attributes_of_a_fifo_queue_is_refused() {
    let aws = intercepted(|sqs, request| match is_call(&request, "GetQueueAttributes") {
        true => Box::pin(async { MockResponse::json(200, r#"{"Attributes":{"FifoQueue":"true"}}"#) }),
        false => sqs.handle(request),
    });
    let error = queue_on(aws.await).await.check().await.unwrap_err().to_string();
    assert!(error.contains("standard queue") && !error.contains('\n'), "{error}");
}

#[tokio::test]
async fn a_missing_queue_is_reported_with_what_to_do() {
    let mut queue = queue().await;
    queue.check().await.unwrap();
    queue.url = queue.url.replace("orders", "nowhere");
    let error = queue.check().await.unwrap_err().to_string();
    assert!(error.contains("nowhere does not exist; `projector queues create`"), "{error}");

    let db = sqlite().await;
    place_orders(&db.connection, 3).await;
    let pass = relay(&db, &queue).run_once().await.unwrap();
    assert!(pass.published == 0 && pass.error.is_some(), "{pass:?}");
    assert_eq!(unpublished(&db.connection).await, 3);
}
