//! The state of the service, as operators see it, and dead letters.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use api::outbox::relay::{Publisher, Queue};
use aws_config::SdkConfig;
use aws_sdk_sqs::types::QueueAttributeName;
use entity::{Event, order_event};
use futures::future::join_all;
use read_model::Memory;
use sea_orm::EntityTrait;
use serde_json::{Value, json};
use test_support::sqs::{embedded, intercepted, is_call};
use winterbaume_core::{MockResponse, MockService};

use crate::support::{ALL_SCOPES, Api, PLACE, code, order, project_products, queue, redis, sqlite, until};

/// A queue with a dead-letter queue, and the URL of that one.
async fn queues(aws: SdkConfig) -> (Queue, String) {
    let sqs = aws_sdk_sqs::Client::new(&aws);
    let dead_letters = sqs.create_queue().queue_name("orders-dead-letters").send().await.unwrap().queue_url.unwrap();
    let arn = attribute(&sqs, &dead_letters, QueueAttributeName::QueueArn).await;
    let policy = json!({ "deadLetterTargetArn": arn, "maxReceiveCount": "5" }).to_string();
    let created = sqs.create_queue().queue_name("orders").attributes(QueueAttributeName::RedrivePolicy, policy);
    (Queue::new(&aws, created.send().await.unwrap().queue_url.unwrap()), dead_letters)
}

async fn attribute(sqs: &aws_sdk_sqs::Client, url: &str, name: QueueAttributeName) -> String {
    let request = sqs.get_queue_attributes().queue_url(url).attribute_names(QueueAttributeName::All);
    request.send().await.unwrap().attributes.unwrap()[&name].clone()
}

async fn bury(queue: &Queue, dead_letters: &str, body: &str) -> String {
    let request = queue.client.send_message().queue_url(dead_letters).message_body(body);
    request.send().await.unwrap().message_id.unwrap()
}

async fn system(api: &Api, fields: &str) -> Value {
    api.graphql(&api.token(ALL_SCOPES, None), &format!("{{ system {{ {fields} }} }}"), json!({})).await
}

const LETTERS: &str = "deadLetters(first: 50) { count problem nodes {
    id sentAt receives verdict reason type clientId productId version time } }";

/// The events of the log, oldest first.
async fn log(db: &sea_orm::DatabaseConnection) -> Vec<order_event::Model> {
    let mut rows = order_event::Entity::find().all(db).await.unwrap();
    rows.sort_by_key(|row| row.id);
    rows
}

#[tokio::test]
async fn operators_see_the_state_of_each_part() {
    let db = sqlite().await;
    let (_server, redis) = redis().await;
    project_products(&db, &*redis).await;
    let events = async || {
        let rows = log(&db.connection).await.into_iter();
        rows.map(|row| Event::from_row(row, "USD").unwrap()).collect::<Vec<_>>()
    };
    applies(&*redis, &events().await).await;
    let (queue, _) = queues(embedded().await).await;
    let api = Api::start_on(&db, redis.clone(), queue, &[]).await;

    let fields = "apiVersion stores { name reachable problems } projection { newestEventAt lagSeconds }
        outbox { pending refused oldestAgeSeconds } queue { visible inFlight } deadLetters { count problem }
        readModel { generation format latestFormat rebuild { generation } previous { generation } } sweep { compared: comparedAt }";
    until("the outbox was measured", async || code(&system(&api, "outbox { pending }").await) == "none").await;
    let state = system(&api, fields).await;
    let newest = log(&db.connection).await.last().unwrap().occurred_at;
    let store = |name| json!({ "name": name, "reachable": true, "problems": [] });
    let expected = json!({
        "apiVersion": env!("CARGO_PKG_VERSION"),
        "stores": [store("DATABASE"), store("QUEUE"), store("READ_MODEL")],
        "projection": { "newestEventAt": newest.to_rfc3339_opts(chrono::SecondsFormat::Millis, true), "lagSeconds": 0 },
        "outbox": { "pending": 0, "refused": 0, "oldestAgeSeconds": 0 },
        "queue": { "visible": 0, "inFlight": 0 },
        "deadLetters": { "count": 0, "problem": null },
        "readModel": { "generation": 1, "format": 5, "latestFormat": 5, "rebuild": null, "previous": null },
        "sweep": null,
    });
    assert_eq!(state["data"]["system"], expected, "{state}");

    // Nobody applies the next order.
    assert_eq!(code(&api.graphql(&api.token(ALL_SCOPES, None), PLACE, order("1", &[("1", 1)], None)).await), "none");
    let lag =
        async || system(&api, "projection { lagSeconds }").await["data"]["system"]["projection"]["lagSeconds"].as_i64();
    until("queries are behind", async || lag().await >= Some(1)).await;
    let visible = async || system(&api, "queue { visible }").await["data"]["system"]["queue"]["visible"].as_i64();
    until("its event is in the queue", async || visible().await == Some(1)).await;
    applies(&*redis, &events().await).await;
    until("queries are not behind", async || lag().await == Some(0)).await;
}

/// Applies events, as the projector does.
async fn applies(read_model: &dyn read_model::Projection, events: &[Event]) {
    assert!(read_model.apply(events).await.iter().all(Result::is_ok));
}

#[tokio::test]
async fn a_rebuild_is_shown_with_its_progress() {
    let db = sqlite().await;
    let (_server, redis) = redis().await;
    let api = Api::start_on(&db, redis.clone(), queue().await, &[]).await;
    let building = redis.change_generations(read_model::Generations::start).await.unwrap().unwrap();
    let rebuild = "readModel { generation rebuild { generation replayedUntil replayedPercent } }";
    let expected = json!({ "generation": 2, "replayedUntil": null, "replayedPercent": 0 });
    until("it has begun", async || system(&api, rebuild).await["data"]["system"]["readModel"]["rebuild"] == expected)
        .await;
    let last = log(&db.connection).await.pop().unwrap();
    redis.pinned_to(building).save_rebuild_position(&last.id.to_string()).await.unwrap();
    until("it has replayed the log", async || {
        system(&api, rebuild).await["data"]["system"]["readModel"]["rebuild"]["replayedPercent"] == 100
    })
    .await;
    redis.change_generations(|generations, now| generations.switch(building, now, 60_000)).await.unwrap().unwrap();
    let after = "readModel { generation rebuild { generation } previous { generation keptUntil } }";
    until("it is live", async || system(&api, after).await["data"]["system"]["readModel"]["generation"] == 2).await;
    let state = system(&api, after).await["data"]["system"]["readModel"].clone();
    assert_eq!((&state["rebuild"], &state["previous"]["generation"]), (&Value::Null, &json!(1)), "{state}");
    assert!(state["previous"]["keptUntil"].is_string(), "{state}");
}

#[tokio::test]
async fn a_part_whose_store_is_unreachable_is_null_and_the_others_remain() {
    let db = sqlite().await;
    let (mut server, redis) = redis().await;
    let is_down = Arc::new(AtomicUsize::new(0));
    let down = is_down.clone();
    let aws = intercepted(move |sqs, request| match down.load(Ordering::SeqCst) {
        0 => sqs.handle(request),
        _ => Box::pin(async { MockResponse::json(500, r#"{"__type":"InternalFailure","message":"down"}"#) }),
    });
    let (queue, _) = queues(aws.await).await;
    let api = Api::start_on(&db, redis, queue, &[]).await;
    until("the outbox was measured", async || code(&system(&api, "outbox { pending }").await) == "none").await;
    let fields = "stores { name reachable } outbox { pending } queue { visible } deadLetters { count nodes { id } }
        readModel { generation } projection { lagSeconds }";
    let codes = |state: &Value| {
        let errors = state["errors"].as_array().cloned().unwrap_or_default();
        let mut codes: Vec<(String, String)> = errors
            .iter()
            .map(|error| {
                (error["path"][1].as_str().unwrap().into(), error["extensions"]["code"].as_str().unwrap().into())
            })
            .collect();
        codes.sort();
        codes
    };
    let expected = |parts: &[&str], code: &str| -> Vec<(String, String)> {
        parts.iter().map(|part| ((*part).to_owned(), code.to_owned())).collect()
    };

    server.stop();
    let lost = expected(&["projection", "readModel"], "READ_MODEL_UNAVAILABLE");
    until("Redis is unreachable", async || codes(&system(&api, fields).await) == lost).await;
    until("it is a store that is unreachable", async || {
        let state = system(&api, fields).await["data"]["system"].clone();
        assert!(
            state["readModel"].is_null() && state["queue"]["visible"] == 0 && state["outbox"]["pending"] == 0,
            "{state}"
        );
        state["stores"][2] == json!({ "name": "READ_MODEL", "reachable": false })
    })
    .await;
    server.restart().await;
    until("Redis is back", async || codes(&system(&api, fields).await).is_empty()).await;

    is_down.store(1, Ordering::SeqCst);
    let lost = expected(&["deadLetters", "queue"], "QUEUE_UNAVAILABLE");
    until("the queue is unreachable", async || codes(&system(&api, fields).await) == lost).await;
    is_down.store(0, Ordering::SeqCst);
    until("the queue is back", async || codes(&system(&api, fields).await).is_empty()).await;

    db.connection.clone().close().await.unwrap();
    until("the database is unreachable", async || {
        let codes = codes(&system(&api, fields).await);
        codes.contains(&("projection".into(), "COMMAND_STORE_UNAVAILABLE".into()))
            && codes.iter().all(|(part, _)| part != "queue")
    })
    .await;
}

#[tokio::test]
async fn dead_letters_are_shown_with_their_reasons_and_without_their_content() {
    let db = sqlite().await;
    let (server, redis) = redis().await;
    let rows = log(&db.connection).await;
    let events: Vec<Event> = rows.iter().map(|row| Event::from_row(row.clone(), "USD").unwrap()).collect();
    let of_client = |id: i64| rows.iter().find(|row| row.client_id == Some(id)).unwrap();
    let (superseded, damaged) = (of_client(1), of_client(3));
    let needed = rows.iter().find(|row| row.product_id == Some(2)).unwrap();
    redis_apply(&redis, &events, &[superseded.id]).await;
    let _: String = server.command(&["SET", "orders:{p3}:g1:client:3", "damaged"]).await;
    let (queue, dead_letters) = queues(embedded().await).await;
    let mut ids = Vec::new();
    let foreign = superseded.message().replace("\"clientId\":1", "\"clientId\":\"Bob\"");
    assert_ne!(foreign, superseded.message());
    for body in [&superseded.message(), &needed.message(), &damaged.message(), "not an event", &foreign] {
        ids.push(bury(&queue, &dead_letters, body).await);
    }
    let sqs = queue.client.clone();
    let api = Api::start_on(&db, redis, queue, &[]).await;
    let mut state = Value::Null;
    for _ in 0..3 {
        // To show them moves or hides none.
        until("all are shown", async || {
            state = system(&api, LETTERS).await;
            state["data"]["system"]["deadLetters"]["nodes"].as_array().is_some_and(|letters| letters.len() == 5)
        })
        .await;
        let hidden = attribute(&sqs, &dead_letters, QueueAttributeName::ApproximateNumberOfMessagesNotVisible).await;
        assert_eq!(hidden, "0");
    }
    let text = state.to_string();
    assert!(!text.contains("Bob") && !text.contains("example.com") && !text.contains("anemailprovider"), "{text}");
    assert_eq!(state["data"]["system"]["deadLetters"]["count"], 5);
    let letters = state["data"]["system"]["deadLetters"]["nodes"].as_array().unwrap();
    let letter = |id: &str| letters.iter().find(|letter| letter["id"] == *id).unwrap();
    let verdict = |id: &str| letter(id)["verdict"].as_str().unwrap().to_owned();
    let verdicts: Vec<String> = ids.iter().map(|id| verdict(id)).collect();
    assert_eq!(verdicts, ["SUPERSEDED", "NEEDED", "NEEDED", "FOREIGN", "FOREIGN"]);
    let reason = |id: &str| letter(id)["reason"].as_str().unwrap().to_owned();
    assert!(reason(&ids[2]).contains("WRONGTYPE") && reason(&ids[3]).contains("not a CloudEvent"), "{letters:?}");
    let shown = letter(&ids[2]);
    assert_eq!((&shown["clientId"], &shown["productId"], &shown["version"]), (&json!("3"), &Value::Null, &json!(1)));
    assert_eq!(shown["type"], "CLIENT_REGISTERED");
    assert!(
        shown["time"].is_string() && shown["sentAt"].is_string() && shown["receives"].as_i64() > Some(0),
        "{shown}"
    );
    assert_eq!(letter(&ids[1])["productId"], "2");
    assert!(letter(&ids[3])["type"].is_null());

    let page = system(&api, "deadLetters(first: 2) { count nodes { id } }").await;
    assert_eq!(page["data"]["system"]["deadLetters"]["nodes"].as_array().unwrap().len(), 2, "{page}");
    assert_eq!(code(&system(&api, "deadLetters(first: 51) { count }").await), "BAD_USER_INPUT");
}

/// Applies the events with these ids.
async fn redis_apply(redis: &read_model::Redis, events: &[Event], ids: &[uuid::Uuid]) {
    let events: Vec<Event> = events.iter().filter(|event| ids.contains(&event.id)).cloned().collect();
    applies(redis, &events).await;
}

#[tokio::test]
async fn without_a_right_to_dead_letters_the_field_says_so() {
    for (denied, count) in [("GetQueueUrl", Value::Null), ("ReceiveMessage", json!(1))] {
        let (db, memory) = (sqlite().await, Arc::new(Memory::default()));
        let aws = intercepted(move |sqs, request| match is_call(&request, denied) {
            true => Box::pin(async { MockResponse::json(403, r#"{"__type":"AccessDeniedException","message":"no"}"#) }),
            false => sqs.handle(request),
        });
        let (queue, dead_letters) = queues(aws.await).await;
        bury(&queue, &dead_letters, "not an event").await;
        let api = Api::start_on(&db, memory, queue, &[]).await;
        let state = system(&api, "deadLetters { count problem nodes { id } } queue { visible }").await;
        let expected = json!({ "count": count, "problem": "NOT_ALLOWED", "nodes": null });
        assert_eq!((&state["data"]["system"]["deadLetters"], code(&state)), (&expected, "none"), "{denied}: {state}");
        assert_eq!(state["data"]["system"]["queue"]["visible"], 0);
        let redrive = "mutation { redriveDeadLetters(input: {}) { ids } }";
        let redriven = api.graphql(&api.token(ALL_SCOPES, None), redrive, json!({})).await;
        assert_eq!(code(&redriven), "DEAD_LETTERS_UNAVAILABLE", "{denied}: {redriven}");
    }
    let api = Api::start(&sqlite().await).await;
    let state = system(&api, "deadLetters { count problem nodes { id } }").await;
    assert_eq!(state["data"]["system"]["deadLetters"], json!({ "count": null, "problem": "MISSING", "nodes": null }));
}

#[tokio::test]
async fn an_api_that_knows_only_a_topic_shows_no_queue() {
    let (db, memory) = (sqlite().await, Arc::new(Memory::default()));
    let topic = "arn:aws:sns:us-east-1:123456789012:orders".to_owned();
    let publisher = Publisher::new(&embedded().await, Some(topic), None).unwrap();
    let api = Api::start_on(&db, memory, publisher, &[]).await;
    let state = system(&api, "queue { visible } deadLetters { count } readModel { generation }").await;
    let expected = json!({ "queue": null, "deadLetters": null, "readModel": { "generation": 1 } });
    assert_eq!((&state["data"]["system"], code(&state)), (&expected, "none"), "{state}");
    let redrive = "mutation { redriveDeadLetters(input: {}) { ids } }";
    let redriven = api.graphql(&api.token(ALL_SCOPES, None), redrive, json!({})).await;
    assert_eq!(code(&redriven), "DEAD_LETTERS_UNAVAILABLE", "{redriven}");
}

#[tokio::test]
async fn dead_letters_are_redriven_and_discarded() {
    let db = sqlite().await;
    let memory = Arc::new(Memory::default());
    let rows = log(&db.connection).await;
    let (queue, dead_letters) = queues(embedded().await).await;
    let mut ids = Vec::new();
    for row in &rows {
        ids.push(bury(&queue, &dead_letters, &row.message()).await);
    }
    let foreign = bury(&queue, &dead_letters, "not an event").await;
    let api = Api::start_on(&db, memory, queue, &[]).await;
    let act = async |mutation: &str| {
        let mutation = format!("mutation {{ result: {mutation} {{ ids skipped missingIds hasMore }} }}");
        api.graphql(&api.token(ALL_SCOPES, None), &mutation, json!({})).await
    };
    let shown = async || {
        let state = system(&api, LETTERS).await;
        let letters = state["data"]["system"]["deadLetters"]["nodes"].as_array().unwrap().clone();
        letters.iter().map(|letter| letter["id"].as_str().unwrap().to_owned()).collect::<Vec<_>>()
    };
    until("all are shown", async || shown().await.len() == rows.len() + 1).await;
    let one = act(&format!("redriveDeadLetters(input: {{ ids: [\"{}\", \"no-such-id\"] }})", ids[0])).await;
    let expected = json!({ "ids": [ids[0]], "skipped": 0, "missingIds": ["no-such-id"], "hasMore": false });
    assert_eq!(one["data"]["result"], expected, "{one}");
    assert!(!shown().await.contains(&ids[0]), "nobody sees a page from before the command");
    let all = act("redriveDeadLetters(input: {})").await["data"]["result"].clone();
    assert_eq!((all["ids"].as_array().unwrap().len(), &all["skipped"]), (rows.len() - 1, &json!(1)), "{all}");
    assert_eq!((&all["missingIds"], &all["hasMore"]), (&json!([]), &json!(false)), "{all}");
    let visible = async || system(&api, "queue { visible }").await["data"]["system"]["queue"]["visible"].as_u64();
    until("they are in the queue", async || visible().await == Some(rows.len() as u64)).await;
    until("only the foreign one is left", async || shown().await == [&*foreign]).await;
    let discarded = act(&format!("discardDeadLetters(input: {{ ids: [\"{foreign}\"] }})")).await;
    assert_eq!(discarded["data"]["result"]["ids"], json!([foreign]), "{discarded}");
    until("none is left", async || shown().await.is_empty()).await;
    for ids in ["[]", "[\"\"]", &format!("[\"{}\"]", "x".repeat(101)), &format!("[{}]", "\"x\" ".repeat(51))] {
        assert_eq!(
            code(&act(&format!("discardDeadLetters(input: {{ ids: {ids} }})")).await),
            "BAD_USER_INPUT",
            "{ids}"
        );
    }
}

#[tokio::test]
async fn all_callers_share_what_is_read_within_a_second() {
    let (db, memory) = (sqlite().await, Arc::new(Memory::default()));
    let calls = Arc::new(AtomicUsize::new(0));
    let counted = calls.clone();
    let aws = intercepted(move |sqs, request| {
        counted.fetch_add(1, Ordering::SeqCst);
        sqs.handle(request)
    });
    let (queue, dead_letters) = queues(aws.await).await;
    bury(&queue, &dead_letters, "not an event").await;
    let api = Api::start_on(&db, memory, queue, &["--rate-limit", "0"]).await;
    let began = std::time::Instant::now();
    let before = calls.load(Ordering::SeqCst);
    let fields = format!("queue {{ visible }} {LETTERS}");
    for _ in 0..5 {
        let states = join_all((0..50).map(|_| system(&api, &fields))).await;
        assert!(states.iter().all(|state| code(state) == "none"), "{states:?}");
    }
    let (seconds, calls) = (1 + began.elapsed().as_secs() as usize, calls.load(Ordering::SeqCst) - before);
    assert!(calls <= 12 * seconds, "{calls} calls for 250 operations within {seconds} s");
}

#[tokio::test]
async fn the_state_of_the_service_is_for_operators_only() {
    let api = Api::start(&sqlite().await).await;
    let query = "{ system { apiVersion } }";
    let redrive = "mutation { redriveDeadLetters(input: {}) { ids } }";
    let discard = "mutation { discardDeadLetters(input: { ids: [\"x\"] }) { ids } }";
    for (scope, operation) in [("system:read", query), ("system:write", redrive), ("system:write", discard)] {
        let others: Vec<&str> = ALL_SCOPES.split(' ').filter(|other| *other != scope).collect();
        let refused = api.graphql(&api.token(&others.join(" "), None), operation, json!({})).await;
        assert_eq!(refused["errors"][0]["extensions"], json!({ "code": "FORBIDDEN", "requiredScope": scope }));
        let of_client = api.graphql(&api.token(ALL_SCOPES, Some("1")), operation, json!({})).await;
        assert_eq!(of_client["errors"][0]["extensions"], json!({ "code": "FORBIDDEN" }), "{of_client}");
        let allowed = api.graphql(&api.token(scope, None), operation, json!({})).await;
        assert_ne!(code(&allowed), "FORBIDDEN", "{allowed}");
    }
}
