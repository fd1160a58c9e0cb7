//! Live clients over event streams and WebSockets, from memory and from Redis.

use std::sync::Arc;
use std::time::Duration;

use ::redis::aio::MultiplexedConnection;
use api::queries::clients::{AtVersion, Clients};
use entity::{Event, order_event};
use futures::future::join_all;
use jsonwebtoken::{EncodingKey, Header, encode};
use read_model::{Memory, Projection, ReadModel};
use sea_orm::EntityTrait;
use serde_json::{Value, json};
use test_support::events::order_placed;

use crate::support::{ALL_SCOPES, Api, Db, PLACE, SECRET, Socket, order, postgres, queue, redis, sqlite, until};

const WATCH: &str = "subscription { clientChanged(id: 7) { version orderCount total { amount } } }";

fn event(client_id: i64, version: i32) -> Event {
    order_placed(client_id, version, &[(1, 1, 100)])
}

fn client_at(version: i32) -> Value {
    json!({ "version": version, "orderCount": version, "total": { "amount": format!("{version}.00") } })
}

struct Stream(reqwest::Response, String);

impl Stream {
    async fn open(api: &Api, token: &str, query: &str) -> Stream {
        let request = api.request().bearer_auth(token).header("accept", "text/event-stream");
        let response = request.json(&json!({ "query": query })).send().await.unwrap();
        assert_eq!(response.headers()["content-type"], "text/event-stream");
        Stream(response, String::new())
    }

    /// The name and the data of the next event; `None` at the end of the stream.
    async fn next(&mut self) -> Option<(String, Value)> {
        loop {
            if let Some((event, rest)) = self.1.split_once("\n\n") {
                let field = |name: &str| {
                    let line = event.lines().find_map(|line| line.strip_prefix(name));
                    line.map(|value| value.trim_start().to_owned())
                };
                let (name, data) = (field("event:"), field("data:").unwrap_or_default());
                self.1 = rest.to_owned();
                match name {
                    Some(name) => return Some((name, serde_json::from_str(&data).unwrap_or_default())),
                    None => continue, // a comment that keeps the connection open
                }
            }
            let chunk = tokio::time::timeout(Duration::from_secs(60), self.0.chunk()).await.expect("no event arrives");
            self.1 += std::str::from_utf8(&chunk.ok()??).unwrap();
        }
    }

    async fn client(&mut self) -> Value {
        self.field("clientChanged").await
    }

    async fn field(&mut self, name: &str) -> Value {
        let (event, response) = self.next().await.expect("the stream has ended");
        assert_eq!(event, "next", "{response}");
        response["data"][name].clone()
    }
}

async fn check(read_model: Arc<dyn ReadModel>) {
    let api = Api::start_on(&sqlite().await, read_model.clone(), queue().await, &[]).await;
    let token = api.token(ALL_SCOPES, None);
    // Nothing before the first order. Then each subscriber gets the current state at once, and then every change.
    let mut early = Stream::open(&api, &token, WATCH).await;
    read_model.apply(&[event(7, 1), event(8, 1)]).await;
    assert_eq!(early.client().await, client_at(1));
    let mut socket = Socket::acknowledged(&api, &token).await;
    socket.subscribe("w", WATCH).await;
    assert_eq!(socket.receive().await["payload"]["data"]["clientChanged"], client_at(1));
    for version in 2..=5 {
        read_model.apply(&[event(7, version), event(8, version), event(7, version)]).await;
        assert_eq!(early.client().await, client_at(version));
        assert_eq!(socket.receive().await["payload"]["data"]["clientChanged"], client_at(version));
    }
    // After `complete`, this subscriber gets nothing more, and the others go on.
    socket.send(json!({ "id": "w", "type": "complete" })).await;
    socket.send(json!({ "type": "ping" })).await;
    assert_eq!(socket.receive().await["type"], "pong");
    read_model.apply(&[event(7, 6)]).await;
    assert_eq!(early.client().await, client_at(6));
    socket.send(json!({ "type": "ping" })).await;
    assert_eq!(socket.receive().await["type"], "pong");
}

#[tokio::test]
async fn changes_reach_every_subscriber() {
    check(Arc::new(Memory::default())).await;
    let (_server, redis) = redis().await;
    check(redis).await;
}

#[tokio::test]
async fn subscriptions_require_the_same_scope_and_client_as_queries() {
    let api = Api::start(&sqlite().await).await;
    let first = async |token: &str, query: &str| {
        let (name, response) = Stream::open(&api, token, query).await.next().await.unwrap();
        (name, response["errors"][0]["extensions"]["code"].as_str().unwrap_or("none").to_owned())
    };
    let next = |code: &str| ("next".to_owned(), code.to_owned());
    assert_eq!(first(&api.token("products:read", None), WATCH).await, next("FORBIDDEN"));
    assert_eq!(first(&api.token(ALL_SCOPES, Some("8")), WATCH).await, next("FORBIDDEN"));
    let of_order = "subscription { orderChanged(id: \"7\") { status } }";
    assert_eq!(first(&api.token("clients:read", None), of_order).await, next("FORBIDDEN"));
    assert_eq!(
        first(&api.token(ALL_SCOPES, None), "subscription { nothing }").await,
        next("GRAPHQL_VALIDATION_FAILED")
    );
    assert_eq!(first(&api.token(ALL_SCOPES, None), "{ __typename }").await, next("none"));
    // Without a stream to response with.
    let response = api.graphql(&api.token(ALL_SCOPES, None), WATCH, json!({})).await;
    assert_eq!((crate::support::code(&response), response.get("data")), ("BAD_REQUEST", None));
    let mut wrong = Stream::open(&api, &api.token(ALL_SCOPES, Some("8")), WATCH).await;
    assert_eq!(wrong.next().await.unwrap().0, "next");
    assert_eq!(wrong.next().await, Some(("complete".into(), Value::Null)));
    assert_eq!(wrong.next().await, None);
    // It has no field to execute.
    let skipped = "subscription { salesChanged @skip(if: true) { ordersToday } }";
    let mut skipped = Stream::open(&api, &api.token(ALL_SCOPES, None), skipped).await;
    assert_eq!(skipped.next().await.unwrap().0, "next");
    assert_eq!(skipped.next().await, Some(("complete".into(), Value::Null)));
}

/// Applies all events, as the projector does.
async fn project(db: &Db, api: &Api) {
    for row in order_event::Entity::find().all(&db.connection).await.unwrap() {
        api.read_model.apply(&[Event::from_row(row, "USD").unwrap()]).await.remove(0).unwrap();
    }
}

#[tokio::test]
async fn an_order_is_watched_until_it_is_cancelled() {
    for db in [sqlite().await, postgres().await] {
        let api = Api::start(&db).await;
        let token = api.token(ALL_SCOPES, None);
        let place = async || {
            let placed = api.graphql(&token, PLACE, order("1", &[("1", 1)], None)).await;
            placed["data"]["placeOrder"]["order"]["id"].as_str().unwrap().to_owned()
        };
        let (id, other) = (place().await, place().await);
        let change = async |mutation: String| {
            let response = api.graphql(&token, &mutation, json!({})).await;
            assert!(response.to_string().contains("\"userErrors\":[]"), "{response}");
            project(&db, &api).await;
        };
        let watch = |id: &str| {
            format!("subscription {{ orderChanged(id: \"{id}\") {{ status net {{ amount }} cancelReason }} }}")
        };
        let state = |status: &str, net: &str, reason: Value| json!({ "status": status, "net": { "amount": net }, "cancelReason": reason });
        // Before the read model has the client.
        let mut stream = Stream::open(&api, &api.token("orders:read", Some("1")), &watch(&id)).await;
        assert_eq!(stream.field("orderChanged").await, state("PLACED", "1500.00", Value::Null));
        // Nothing for orders of others and for those that do not exist.
        let mut socket = Socket::acknowledged(&api, &api.token(ALL_SCOPES, Some("2"))).await;
        for none in [&*id, "00000000-0000-0000-0000-000000000007", "x"] {
            socket.subscribe(none, &watch(none)).await;
        }
        // A change of another order is none of this one.
        let cancel = |id: &str| {
            format!(
                "mutation {{ cancelOrder(input: {{ orderId: \"{id}\", reason: \"late\" }}) {{ userErrors {{ code }} }} }}"
            )
        };
        change(cancel(&other)).await;
        let refund = "refundOrder(input: { orderId: \"ID\", amount: \"0.50\", reason: \"x\" })".replace("ID", &id);
        change(format!("mutation {{ {refund} {{ userErrors {{ code }} }} }}")).await;
        assert_eq!(stream.field("orderChanged").await, state("PARTIALLY_REFUNDED", "1499.50", Value::Null));
        change(cancel(&id)).await;
        assert_eq!(stream.field("orderChanged").await, state("CANCELLED", "0.00", json!("late")));
        socket.send(json!({ "type": "ping" })).await;
        assert_eq!(socket.receive().await["type"], "pong");
    }
}

#[tokio::test]
async fn a_slow_subscriber_gets_only_the_newest_state() {
    let memory = Arc::new(Memory::default());
    let (live, updates) = api::queries::live::live(memory.clone());
    let shutdown = tokio_util::sync::CancellationToken::new();
    let running = tokio::spawn(updates.run(shutdown.clone()));
    let mut changes = Box::pin(live.watch(7));
    memory.apply(&[event(7, 1)]).await;
    assert_eq!(futures::StreamExt::next(&mut changes).await.unwrap().unwrap().version, 1);
    let events: Vec<Event> = (2..=5_000).map(|version| event(7, version)).collect();
    memory.apply(&events).await; // more than any buffer holds
    let mut versions = Vec::new();
    while versions.last() != Some(&5_000) {
        versions.push(futures::StreamExt::next(&mut changes).await.unwrap().unwrap().version);
    }
    assert!(versions.len() < 10 && versions.is_sorted(), "{versions:?}");
    shutdown.cancel();
    running.await.unwrap();
}

/// The reads of clients that a server has counted.
async fn reads(connection: &mut MultiplexedConnection) -> u32 {
    let info: String = ::redis::cmd("INFO").arg("commandstats").query_async(connection).await.unwrap();
    let line = info.lines().find(|line| line.starts_with("cmdstat_hmget:"));
    line.map_or(0, |line| line.split(['=', ',']).nth(1).unwrap().parse().unwrap())
}

#[tokio::test]
async fn many_waits_for_a_version_cause_few_reads() {
    let (server, redis) = redis().await;
    let (live, updates) = api::queries::live::live(redis.clone());
    let running = tokio::spawn(updates.run(Default::default()));
    let clients = Clients::new(redis.clone(), live);
    let mut connection = server.connect().await;
    let before = reads(&mut connection).await;
    let results = join_all((1..=500).map(|id| clients.at_version(id, 1, Duration::from_secs(1)))).await;
    assert!(results.into_iter().all(|result| result == Ok(AtVersion::Behind(0))));
    let read = reads(&mut connection).await - before;
    assert!(read <= 500 * 5, "{read} reads in a second");

    let waits = join_all((1..=500).map(|id| clients.at_version(id, 1, Duration::from_secs(60))));
    let project = async { redis.apply(&(1..=500).map(|id| event(id, 1)).collect::<Vec<_>>()).await };
    let (results, _) = tokio::join!(waits, project);
    assert!(results.into_iter().all(|result| matches!(result, Ok(AtVersion::Reached(_)))));
    running.abort();
}

#[tokio::test]
async fn redis_is_read_once_for_all_subscribers_and_an_outage_leaves_no_stale_state() {
    let (mut server, redis) = redis().await;
    let api = Api::start_on(&sqlite().await, redis.clone(), queue().await, &[]).await;
    let token = api.token(ALL_SCOPES, None);
    redis.apply(&[event(7, 1)]).await;
    let mut streams = join_all((0..50).map(|_| Stream::open(&api, &token, WATCH))).await;
    for stream in &mut streams {
        assert_eq!(stream.client().await, client_at(1));
    }
    let mut connection = server.connect().await;
    let mut listeners = ::redis::cmd("PUBSUB");
    listeners.arg("NUMSUB").arg("orders:changed");
    let (_, count): (String, i64) = listeners.query_async(&mut connection).await.unwrap();
    assert_eq!(count, 1);

    // One change is read once for all subscribers.
    let before = reads(&mut connection).await;
    redis.apply(&[event(7, 2)]).await;
    for stream in &mut streams {
        assert_eq!(stream.client().await, client_at(2));
    }
    let read = reads(&mut connection).await - before; // one of them by `apply`
    assert!((2..=3).contains(&read), "{read} reads");

    // The server restarts empty. While it is filled again, changes are not announced.
    server.stop();
    for watched in ["9", "7"] {
        until("a new subscriber gets an error at once", async || {
            let mut stream = Stream::open(&api, &token, &WATCH.replace('7', watched)).await;
            let (_, response) = stream.next().await.unwrap();
            crate::support::code(&response) == "READ_MODEL_UNAVAILABLE"
        })
        .await;
    }
    server.restart().await;
    until("the read model is connected again", async || redis.ping().await.is_ok()).await;
    redis.apply(&[event(7, 1), event(7, 2), event(7, 3)]).await;
    for stream in &mut streams {
        let mut last = stream.client().await;
        while last != client_at(3) {
            last = stream.client().await;
        }
    }
    redis.apply(&[event(7, 4)]).await;
    assert_eq!(streams[0].client().await, client_at(4), "changes are announced as before");
}

#[tokio::test]
async fn an_event_stream_ends_silently_when_its_token_expires_or_the_service_stops() {
    let memory = Arc::new(Memory::default());
    let api = Api::start_on(&sqlite().await, memory.clone(), queue().await, &[]).await;
    memory.apply(&[event(7, 1)]).await;
    let claims = json!({ "sub": "x", "scope": ALL_SCOPES, "exp": jsonwebtoken::get_current_timestamp() - 7 });
    let expiring = encode(&Header::default(), &claims, &EncodingKey::from_secret(SECRET.as_bytes())).unwrap();
    let mut expiring = Stream::open(&api, &expiring, WATCH).await;
    let mut lasting = Stream::open(&api, &api.token(ALL_SCOPES, None), WATCH).await;
    assert_eq!((expiring.client().await, lasting.client().await), (client_at(1), client_at(1)));
    assert_eq!(expiring.next().await, None, "a `complete` would keep clients from connecting again");
    memory.apply(&[event(7, 2)]).await;
    assert_eq!(lasting.client().await, client_at(2));
    drop(api);
    assert_eq!(lasting.next().await, None);
}
