//! Events that the queue refuses delay no others, and are published when the queue accepts them.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use api::commands::place_order::place;
use api::outbox::relay::{Backlog, Outgoing, Publisher, Queue, Relay};
use chrono::Utc;
use entity::{order_event, outbox, refused_event};
use iso_currency::Currency;
use read_model::Memory;
use sea_orm::{
    ActiveModelTrait, DatabaseConnection, EntityTrait, IntoActiveModel, PaginatorTrait, QueryOrder, QuerySelect,
};
use serde_json::{Value, json};
use test_support::sqs::{intercepted, is_call};
use tokio::sync::{mpsc, watch};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use uuid::{Timestamp, Uuid};
use winterbaume_core::{MockResponse, MockService};

use crate::relay::{arrived, event_ids, place_orders, reject};
use crate::support::{Api, Db, command, postgres, queue, queue_on, sqlite, until};

#[derive(Clone, Copy, Debug)]
enum Refusal {
    /// The queue accepts the other events of a call.
    OfEntries,
    /// The queue fails calls with such an event.
    OfCalls,
    /// The queue accepts the other events of a call, and says that the event is not the reason.
    ForNow,
    /// The queue fails calls with such an event, and says that the call is not the reason.
    ByServerErrors,
}

/// Which events the queue refuses, and how often it has refused each.
#[derive(Clone, Default)]
struct Refused {
    ids: Arc<Mutex<BTreeSet<String>>>,
    refusals: Arc<Mutex<BTreeMap<String, usize>>>,
}

impl Refused {
    fn set(&self, ids: BTreeSet<String>) {
        *self.ids.lock().unwrap() = ids;
    }

    fn check(&self, id: &Value) -> bool {
        let id = id.as_str().unwrap();
        let is_refused = self.ids.lock().unwrap().contains(id);
        if is_refused {
            *self.refusals.lock().unwrap().entry(id.to_owned()).or_default() += 1;
        }
        is_refused
    }

    fn refusals(&self) -> BTreeMap<String, usize> {
        self.refusals.lock().unwrap().clone()
    }
}

async fn refusing_queue(refused: &Refused, refusal: Refusal) -> Queue {
    let refused = refused.clone();
    let aws = intercepted(move |sqs, request| {
        if !is_call(&request, "SendMessageBatch") {
            return sqs.handle(request);
        }
        match refusal {
            Refusal::OfEntries => reject(sqs, request, true, |id| refused.check(id)),
            Refusal::ForNow => reject(sqs, request, false, |id| refused.check(id)),
            Refusal::OfCalls | Refusal::ByServerErrors => {
                let status = if matches!(refusal, Refusal::OfCalls) { 400 } else { 500 };
                let body: Value = serde_json::from_slice(&request.body).unwrap();
                let entries = body["Entries"].as_array().unwrap().iter();
                match entries.filter(|entry| refused.check(&entry["Id"])).count() {
                    0 => sqs.handle(request),
                    _ => Box::pin(async move { MockResponse::json(status, r#"{"__type":"Strange","message":"no"}"#) }),
                }
            }
        }
    });
    queue_on(aws.await).await
}

pub struct RunningRelay {
    db: DatabaseConnection,
    pub fast_path: mpsc::Sender<Outgoing>,
    backlog: watch::Receiver<Backlog>,
    shutdown: CancellationToken,
    running: JoinHandle<()>,
}

impl RunningRelay {
    pub fn start(db: &Db, destination: &(impl Clone + Into<Publisher>)) -> RunningRelay {
        let publisher = destination.clone().into();
        let backlog = publisher.backlog.subscribe();
        let (relay, fast_path) = Relay::new(db.connection.clone(), publisher);
        let shutdown = CancellationToken::new();
        let running = tokio::spawn(relay.run(shutdown.clone()));
        RunningRelay { db: db.connection.clone(), fast_path, backlog, shutdown, running }
    }

    /// Places an order, and returns how long it takes until only `others` are pending.
    async fn publish_one(&self, others: u64) -> Duration {
        let placed = place(&self.db, Currency::USD, &[command(2, &[(1, 1)], None)]).await.unwrap();
        let committed = Instant::now();
        for event in placed.outgoing {
            self.fast_path.send(event).await.unwrap();
        }
        until("the event is published", async || pending(&self.db).await == others).await;
        committed.elapsed()
    }

    pub async fn stop(self) {
        self.shutdown.cancel();
        self.running.await.unwrap();
    }
}

async fn pending(db: &DatabaseConnection) -> u64 {
    outbox::Entity::find().count(db).await.unwrap()
}

async fn refused_events(db: &DatabaseConnection) -> usize {
    refused_event::Entity::find().count(db).await.unwrap() as usize
}

async fn check_that_refused_events_delay_no_other(db: Db, events: usize, refusal: Refusal) {
    place_orders(&db.connection, events).await;
    let refused = Refused::default();
    refused.set(event_ids(&db.connection).await);
    let queue = refusing_queue(&refused, refusal).await;
    let relay = RunningRelay::start(&db, &queue);
    let mut published = 0;
    if matches!(refusal, Refusal::OfCalls) {
        // Only another event shows that the queue works.
        place_orders(&db.connection, 1).await;
        published += 1;
    }
    until("the refused events are out of the way", async || pending(&db.connection).await == 0).await;
    assert_eq!(refused_events(&db.connection).await, events);
    let took = relay.publish_one(0).await;
    assert!(took < Duration::from_secs(1), "{refusal:?}: {took:?}");
    // As if their process had died.
    place_orders(&db.connection, 30).await;
    until("a poll publishes events", async || pending(&db.connection).await == 0).await;
    relay.stop().await;

    let restarted = RunningRelay::start(&db, &queue);
    let took = restarted.publish_one(0).await;
    assert!(took < Duration::from_secs(1), "{refusal:?} after a restart: {took:?}");
    restarted.stop().await;
    published += 32;
    let arrived = arrived(&queue).await;
    assert!(arrived.len() == published && arrived.values().all(|times| *times == 1), "{arrived:?}");
    assert_eq!(refused_events(&db.connection).await, events);
}

#[tokio::test]
async fn any_number_of_refused_events_delays_no_other() {
    let several_claims = 450;
    tokio::join!(
        check_that_refused_events_delay_no_other(sqlite().await, several_claims, Refusal::OfEntries),
        check_that_refused_events_delay_no_other(postgres().await, several_claims, Refusal::OfEntries),
        check_that_refused_events_delay_no_other(sqlite().await, 3, Refusal::OfCalls),
        check_that_refused_events_delay_no_other(postgres().await, 3, Refusal::OfCalls),
    );
}

/// Also if the queue fails because of it, or for a reason of its own.
#[tokio::test]
async fn events_that_stay_pending_delay_no_other() {
    let check = async |db: Db, events: u64, refusal: Refusal| {
        place_orders(&db.connection, events as usize).await;
        let refused = Refused::default();
        refused.set(event_ids(&db.connection).await);
        let queue = refusing_queue(&refused, refusal).await;
        let relay = RunningRelay::start(&db, &queue);
        until("a poll has sent events twice", async || refused.refusals().values().any(|times| *times >= 2)).await;
        let took = relay.publish_one(events).await;
        assert!(took < Duration::from_secs(1), "{refusal:?}: {took:?}");
        // As if their process had died.
        place_orders(&db.connection, 30).await;
        until("a poll publishes events", async || pending(&db.connection).await == events).await;
        assert_eq!(refused_events(&db.connection).await, 0, "{refusal:?}");
        refused.set(BTreeSet::new());
        until("all are published", async || pending(&db.connection).await == 0).await;
        relay.stop().await;
        assert_eq!(arrived(&queue).await.len() as u64, events + 31);
    };
    let more_than_a_claim = 230;
    tokio::join!(
        check(sqlite().await, 1, Refusal::ForNow),
        check(sqlite().await, 1, Refusal::ByServerErrors),
        check(postgres().await, more_than_a_claim, Refusal::ForNow),
        check(postgres().await, more_than_a_claim, Refusal::ByServerErrors),
    );
}

/// A call takes up to seconds, during which other events wait.
#[tokio::test]
async fn a_refused_event_is_sent_again_with_one_call() {
    let db = sqlite().await;
    place_orders(&db.connection, 1).await;
    let refused = Refused::default();
    refused.set(event_ids(&db.connection).await);
    let queue = refusing_queue(&refused, Refusal::OfCalls).await;
    let relay = RunningRelay::start(&db, &queue);
    place_orders(&db.connection, 1).await;
    until("the event is refused", async || refused_events(&db.connection).await == 1).await;
    let before = refused.refusals();
    let retry_at = async || refused_event::Entity::find().one(&db.connection).await.unwrap().unwrap().retry_at;
    let first = retry_at().await;
    until("it is sent again", async || retry_at().await != first).await;
    let [before, after] = [before, refused.refusals()].map(|refusals| refusals.values().sum::<usize>());
    assert_eq!(after - before, 1);
    relay.stop().await;
}

#[tokio::test]
async fn a_queue_that_refused_everything_for_a_while_gets_all_events_when_it_accepts_them() {
    for (db, relays) in [(sqlite().await, 1), (postgres().await, 2)] {
        let events = 250;
        place_orders(&db.connection, events).await;
        let refused = Refused::default();
        refused.set(event_ids(&db.connection).await);
        let queue = refusing_queue(&refused, Refusal::OfEntries).await;
        let relays: Vec<_> = (0..relays).map(|_| RunningRelay::start(&db, &queue)).collect();
        until("an event was refused four times", async || refused.refusals().values().any(|times| *times == 4)).await;
        assert!(refused.refusals().values().all(|times| *times <= 5), "the pauses grow");
        let backlog = *relays[0].backlog.borrow();
        assert!(backlog.refused == events as u64 && backlog.oldest.is_some(), "{backlog:?}");

        refused.set(BTreeSet::new());
        let accepts = Instant::now();
        until("all are published", async || refused_events(&db.connection).await == 0).await;
        assert!(accepts.elapsed() < Duration::from_secs(5), "{:?}", accepts.elapsed());
        for relay in relays {
            relay.stop().await;
        }
        assert_eq!(arrived(&queue).await.len(), events);
    }
}

#[tokio::test]
async fn health_reports_the_oldest_unpublished_event_and_the_refused_ones() {
    for (refusal, refused_events) in [(Refusal::OfEntries, json!(2)), (Refusal::OfCalls, Value::Null)] {
        let db = sqlite().await;
        place_orders(&db.connection, 2).await;
        let refused = Refused::default();
        refused.set(event_ids(&db.connection).await);
        let queue = refusing_queue(&refused, refusal).await;
        let api = Api::start_on(&db, Arc::new(Memory::default()), queue, &[]).await;
        let ready = async || {
            let response = api.get("/health/ready").send().await.unwrap();
            assert_eq!(response.status(), 200, "orders are accepted");
            response.json::<Value>().await.unwrap()
        };
        until("the age grows", async || ready().await["oldestUnpublishedSeconds"].as_u64() >= Some(5)).await;
        assert_eq!(ready().await["refusedEvents"], refused_events, "{refusal:?}");
        refused.set(BTreeSet::new());
        let nothing = |body: Value| body["oldestUnpublishedSeconds"].is_null() && body["refusedEvents"].is_null();
        until("nothing is left to report", async || nothing(ready().await)).await;
    }
}

/// The relay has read all events when one arrives that was written by an api whose clock is fast or slow.
#[tokio::test]
async fn a_poll_finds_an_event_with_a_wrong_time_within_seconds() {
    let check = async |db: Db, id_time: i64| {
        let connection = &db.connection;
        let queue = queue().await;
        let relay = RunningRelay::start(&db, &queue);
        place_orders(connection, 1).await;
        until("the relay works", async || pending(connection).await == 0).await;
        let newest = order_event::Entity::find().order_by_desc(order_event::Column::Id).limit(1).one(connection);
        let event = newest.await.unwrap().unwrap();
        order_event::Entity::delete_by_id(event.id).exec(connection).await.unwrap();
        let id = Uuid::new_v7(Timestamp::from_unix(uuid::NoContext, id_time as u64, 0));
        let event = order_event::Model { id, ..event };
        event.into_active_model().reset_all().insert(connection).await.unwrap();
        outbox::Model { event_id: id }.into_active_model().reset_all().insert(connection).await.unwrap();
        let (inserted, mut is_reported) = (Instant::now(), false);
        until("the event is published", async || {
            is_reported |= relay.backlog.borrow().oldest.is_some();
            pending(connection).await == 0
        })
        .await;
        assert!(inserted.elapsed() < Duration::from_secs(10), "{:?}", inserted.elapsed());
        assert!(is_reported, "health does not count it");
        relay.stop().await;
    };
    let now = Utc::now().timestamp();
    tokio::join!(
        check(sqlite().await, now + 600),
        check(sqlite().await, now - 600),
        check(postgres().await, now + 600),
        check(postgres().await, now - 600),
    );
}
