//! One caller that stays within its limits does not harm the others.

use std::pin::pin;
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures::future::join_all;
use read_model::{Memory, Projection};
use reqwest::StatusCode;
use sea_orm::{ConnectionTrait, TransactionTrait};
use serde_json::{Value, json};
use test_support::events::order_placed;
use test_support::services::sql;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpSocket, TcpStream};
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::timeout;

use crate::panicking::Panicking;
use crate::support::{ALL_SCOPES, Api, Db, Socket, code, postgres, queue, sqlite, until};

fn token_of(api: &Api, subject: &str) -> String {
    api.tokens.mint(subject, ALL_SCOPES, None, Duration::from_secs(60)).unwrap()
}

/// The status and the error code of the response to a query.
async fn ask(api: &Api, token: &str, query: &str) -> (StatusCode, String) {
    let response = api.request().bearer_auth(token).json(&json!({ "query": query })).send().await.unwrap();
    (response.status(), code(&response.json().await.unwrap()).to_owned())
}

const BUSY: (StatusCode, &str) = (StatusCode::SERVICE_UNAVAILABLE, "SERVER_BUSY");

#[tokio::test]
async fn unread_responses_of_a_caller_have_bounded_memory() {
    // Enough for five of these queries: those that are refused are not paid.
    let flags = ["--max-complexity", "60000", "--max-aliases", "900", "--rate-limit", "1"];
    let flags = [&flags[..], &["--max-response-bytes", "16000000", "--max-response-memory", "40000000"]].concat();
    let api = Api::start_with(&sqlite().await, &flags).await;
    let query = large_query();
    let (greedy, other) = (token_of(&api, "greedy"), token_of(&api, "other"));
    let body = json!({ "query": query }).to_string();
    let (sender, mut received) = mpsc::channel(20);
    let mut readers = JoinSet::new();
    for _ in 0..20 {
        let (mut stream, sender) = (send(&api, &greedy, &body).await, sender.clone());
        readers.spawn(async move {
            sender.send(status(&mut stream).await).await.unwrap();
            read_slowly(stream).await;
        });
    }
    // Two of 12 MB are produced. With these, the caller has more than is left for all others.
    let mut statuses = Vec::new();
    while statuses.len() < 20 {
        statuses.push(received.recv().await.unwrap());
    }
    statuses.sort_unstable();
    assert_eq!(statuses, [&["200"; 2][..], &["503"; 18]].concat());
    assert_eq!(ask(&api, &greedy, "{ __typename }").await, (BUSY.0, BUSY.1.into()));
    assert_eq!(ask(&api, &other, "{ products { nodes { id } } }").await, (StatusCode::OK, "none".into()));
    drop(readers);
    until("the memory is free again", async || ask(&api, &greedy, "{ __typename }").await.0 == StatusCode::OK).await;
}

#[tokio::test]
async fn responses_of_one_caller_wait_for_memory() {
    let api = Api::start_with(&sqlite().await, &["--rate-limit", "0"]).await;
    let token = token_of(&api, "a");
    // Room is made for the largest page, although these are empty: 32 times that is more than a caller gets.
    let query = "{ orders(first: 20) { nodes { id items { name quantity } } } }";
    let answers = join_all((0..32).map(|_| ask(&api, &token, query))).await;
    assert_eq!(answers, vec![(StatusCode::OK, "none".to_owned()); 32]);
}

#[tokio::test]
async fn unfinished_bodies_of_a_caller_have_bounded_memory() {
    let api = Api::start(&sqlite().await).await;
    let begin = async || {
        let mut stream = TcpStream::connect(api.address.trim_start_matches("http://")).await.unwrap();
        let head = "POST /graphql HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\ncontent-length: 65000";
        stream.write_all(format!("{head}\r\n\r\n{{").as_bytes()).await.unwrap();
        stream
    };
    let (sender, mut statuses) = mpsc::channel(200);
    let mut unfinished = JoinSet::new();
    for _ in 0..200 {
        let (mut stream, sender) = (begin().await, sender.clone());
        unfinished.spawn(async move { sender.send(status(&mut stream).await).await });
    }
    // With 58, the caller has more than an eighth of what is left of 32 MiB.
    for _ in 0..142 {
        assert_eq!(statuses.recv().await.unwrap(), "503");
    }
    let large = || json!({ "query": "{ __typename }", "extensions": { "padding": "x".repeat(60_000) } });
    assert_eq!(api.anonymous_request().json(&large()).send().await.unwrap().status(), BUSY.0);
    assert_eq!(api.request().json(&large()).send().await.unwrap().status(), StatusCode::OK, "another caller");
    // A client that sends the rest of its body finds the response afterwards.
    let mut slow = begin().await;
    for _ in 0..64 {
        slow.write_all(&[b' '; 1_000]).await.unwrap();
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
    slow.write_all(&[b' '; 999]).await.unwrap();
    assert_eq!(status(&mut slow).await, "503");
    drop(unfinished);
    until("there is memory again", async || {
        api.anonymous_request().json(&large()).send().await.unwrap().status() == StatusCode::UNAUTHORIZED
    })
    .await;
}

#[tokio::test]
async fn large_messages_to_websockets_of_one_caller_have_bounded_memory() {
    let api = Api::start_with(&sqlite().await, &["--rate-limit", "0"]).await;
    let greedy = token_of(&api, "a");
    // A text of 60,000 bytes, masked with zeros.
    let mut frame = vec![0x81, 0xFE, 0xEA, 0x60, 0, 0, 0, 0];
    frame.extend([b' '; 20_000]);
    let (sender, mut codes) = mpsc::channel(80);
    let mut unfinished = JoinSet::new();
    for _ in 0..80 {
        let (mut socket, sender) = (Socket::acknowledged(&api, &greedy).await, sender.clone());
        socket.send_bytes(&frame).await;
        unfinished.spawn(async move { sender.send(socket.closed().await).await });
    }
    // Each counts 128 KiB. With 57, the caller has more than an eighth of what is left of 64 MiB.
    for _ in 0..23 {
        assert_eq!(codes.recv().await.unwrap(), 1013);
    }
    let send_large = async |token: &str| {
        let mut socket = Socket::acknowledged(&api, token).await;
        socket.send(json!({ "type": "ping", "payload": { "padding": "x".repeat(60_000) } })).await;
        socket
    };
    assert_eq!(send_large(&greedy).await.closed().await, 1013);
    let mut other = send_large(&token_of(&api, "b")).await;
    assert_eq!(other.receive().await, json!({ "type": "pong" }));
    drop(unfinished);
    until("there is memory again", async || {
        let mut socket = send_large(&greedy).await;
        socket.subscribe("q", "{ __typename }").await;
        !matches!(socket.closed_or_text().await, Err(1013))
    })
    .await;
}

#[tokio::test]
async fn large_messages_from_websockets_of_one_caller_have_bounded_memory() {
    let flags = ["--rate-limit", "0", "--max-complexity", "60000", "--max-aliases", "900"];
    let api = Api::start_with(&sqlite().await, &flags).await;
    let (greedy, other) = (token_of(&api, "a"), token_of(&api, "b"));
    // A small message, whose response has 0.7 MB.
    let points: String = (0..60).map(|n| format!("{}{n}: orderCount ", "a".repeat(97))).collect();
    let query = format!("{{ sales(from: \"2020-01-01\", to: \"2020-04-08\") {{ points {{ {points} }} }} }}");
    let read = async |token: &str| {
        let mut socket = Socket::acknowledged(&api, token).await;
        socket.subscribe("q", &query).await;
        assert_eq!(socket.receive().await["type"], "next", "each response arrives");
        let end = socket.closed_or_text().await;
        (socket, end.err())
    };
    // The caller gets at most about 7 MB.
    let mut sockets = Vec::new();
    while sockets.len() < 20 {
        sockets.push(read(&greedy).await);
    }
    assert!(sockets[..5].iter().all(|(_, code)| code.is_none()));
    assert_eq!(sockets[19].1, Some(1013));
    assert_eq!(read(&other).await.1, None);
    drop(sockets);
    until("there is memory again", async || read(&greedy).await.1.is_none()).await;
}

/// A query whose response has about 12 MB, more than the buffers of the operating system.
fn large_query() -> String {
    let points: String = (0..100).map(|n| format!("{}{n}: orderCount ", "a".repeat(97))).collect();
    format!("{{ sales(from: \"2020-01-01\", to: \"2022-09-26\") {{ points {{ {points} }} }} }}")
}

#[tokio::test]
async fn a_response_that_is_not_read_gives_its_memory_back() {
    let flags = ["--max-complexity", "60000", "--max-aliases", "900"];
    let flags = [&flags[..], &["--max-response-bytes", "16000000", "--max-response-memory", "16000000"]].concat();
    let api = Api::start_with(&sqlite().await, &flags).await;
    let mut unread = send(&api, &token_of(&api, "a"), &json!({ "query": large_query() }).to_string()).await;
    assert_eq!(status(&mut unread).await, "200");
    let other = token_of(&api, "b");
    assert_eq!(ask(&api, &other, &large_query()).await, (BUSY.0, BUSY.1.into()));
    until("the client is disconnected", async || {
        ask(&api, &other, &large_query()).await == (StatusCode::OK, "none".into())
    })
    .await;
}

/// Sends a request and reads nothing.
async fn send(api: &Api, token: &str, body: &str) -> TcpStream {
    let socket = TcpSocket::new_v4().unwrap();
    socket.set_recv_buffer_size(4_096).unwrap();
    let address = api.address.trim_start_matches("http://").parse().unwrap();
    let mut stream = socket.connect(address).await.unwrap();
    let head = format!(
        "POST /graphql HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\nauthorization: Bearer {token}\r\n\
         content-length: {}\r\n\r\n",
        body.len()
    );
    stream.write_all((head + body).as_bytes()).await.unwrap();
    stream
}

/// Reads on, just fast enough that the server goes on sending.
async fn read_slowly(mut stream: TcpStream) {
    let (mut buffer, mut ticks) = ([0; 4_096], tokio::time::interval(Duration::from_millis(20)));
    while stream.read(&mut buffer).await.is_ok_and(|bytes| bytes > 0) {
        ticks.tick().await;
    }
}

/// Reads the status and not the rest.
async fn status(stream: &mut TcpStream) -> String {
    let mut head = [0; 12];
    timeout(Duration::from_secs(60), stream.read_exact(&mut head)).await.unwrap().unwrap();
    String::from_utf8_lossy(&head[9..]).into_owned()
}

#[tokio::test]
async fn queries_that_wait_do_not_shut_out_others() {
    let flags = ["--read-wait", "20s", "--operation-timeout", "30s", "--max-concurrent-operations", "8"];
    let api = Arc::new(Api::start_with(&sqlite().await, &flags).await);
    let wait = "{ client(id: 1, minVersion: 99) { id } }";
    let (sender, mut codes) = mpsc::channel(1_000);
    let mut tasks = JoinSet::new();
    for subject in ["a", "b", "c", "d"] {
        for _ in 0..140 {
            let (api, token, sender) = (api.clone(), token_of(&api, subject), sender.clone());
            tasks.spawn(async move { sender.send(ask(&api, &token, wait).await).await });
        }
    }
    // Each has 128 waits. More are refused.
    for _ in 0..4 * 12 {
        assert_eq!(codes.recv().await, Some((BUSY.0, BUSY.1.into())));
    }
    let other = token_of(&api, "other");
    for _ in 0..100 {
        assert_eq!(ask(&api, &other, "{ client(id: 1) { id } }").await, (StatusCode::OK, "none".into()));
    }
    let waits = timeout(Duration::from_millis(200), ask(&api, &other, wait)).await;
    assert!(waits.is_err(), "another caller can wait as well: {waits:?}");
    let mixed = "{ client(id: 1, minVersion: 99) { id } products { nodes { id } } }";
    assert_eq!(ask(&api, &token_of(&api, "a"), mixed).await, (BUSY.0, BUSY.1.into()), "it counts as a wait, too");
    let ended = codes.try_recv();
    assert!(ended.is_err(), "the others still wait: {ended:?}");
}

#[tokio::test]
async fn a_query_counts_as_active_after_its_wait() {
    let api = Api::start_with(
        &sqlite().await,
        &["--max-concurrent-operations", "1", "--read-wait", "20s", "--operation-timeout", "30s"],
    )
    .await;
    api.read_model.apply(&[order_placed(7, 1, &[(1, 1, 100)])]).await;
    let (waits, at_once) = (token_of(&api, "a"), token_of(&api, "b"));
    let reached = "{ client(id: 7, minVersion: 1) { id } }";
    assert_eq!(ask(&api, &at_once, reached).await, (StatusCode::OK, "none".into()));
    // It works and waits, so the only permit is taken.
    let mixed = "{ client(id: 7, minVersion: 99) { id } products(first: 1) { nodes { id } } }";
    let waiting = tokio::spawn({
        let (request, body) = (api.request().bearer_auth(&waits), json!({ "query": mixed }));
        async move { request.json(&body).send().await }
    });
    until("the other query is active", async || {
        ask(&api, &at_once, reached).await == (StatusCode::OK, "SERVER_BUSY".into())
    })
    .await;
    waiting.abort();
    until("there is room again", async || ask(&api, &at_once, reached).await.1 == "none").await;
}

#[tokio::test]
async fn the_statements_of_a_caller_leave_connections_to_others() {
    let db = postgres().await;
    let api = Api::start_with(&db, &["--rate-limit", "0", "--operation-timeout", "60s"]).await;
    let (greedy, other) = (token_of(&api, "greedy"), token_of(&api, "other"));
    let locked = db.connection.begin().await.unwrap();
    locked.execute_unprepared("LOCK TABLE clients IN ACCESS EXCLUSIVE MODE").await.unwrap();
    let waiting = async || {
        let waiting = "SELECT count(*) AS number FROM pg_locks WHERE NOT granted AND relation = 'clients'::regclass
                       AND database = (SELECT oid FROM pg_database WHERE datname = current_database())";
        locked.query_one_raw(sql(waiting)).await.unwrap().unwrap().try_get::<i64>("", "number").unwrap()
    };
    let find: String = (0..20).map(|n| format!("a{n}: clientByEmail(email: \"a{n}@example.com\") {{ id }} ")).collect();
    let find = format!("{{ {find} }}");
    let register = r#"mutation { registerClient(input: { name: "A", email: "a@example.com" }) { replayed } }"#;
    let mut attack = pin!(join_all((0..40).map(|n| ask(&api, &greedy, if n % 2 == 0 { &find } else { register }))));
    let of_another = async {
        until("the caller uses its connections", async || waiting().await >= 4).await;
        for query in ["{ orders(first: 1) { nodes { id } } }", "{ client(id: 1, atVersion: 1) { id } }"] {
            assert_eq!(ask(&api, &other, query).await, (StatusCode::OK, "none".into()), "{query}");
        }
        assert!(waiting().await <= 4, "a quarter of 16 connections");
    };
    tokio::select! {
        biased;
        answers = &mut attack => panic!("the table is still locked: {answers:?}"),
        () = of_another => {}
    }
    locked.rollback().await.unwrap();
    attack.await;
    assert_eq!(ask(&api, &greedy, &find).await, (StatusCode::OK, "none".into()));
}

#[tokio::test]
async fn without_a_token_no_document_is_parsed() {
    let api = Api::start(&sqlite().await).await;
    let query = "{ products { nodes { id } } }";
    assert_eq!(code(&api.graphql(&token_of(&api, "a"), query, json!({})).await), "none");
    for query in [query, "{ __typename }", "{ nothing }", "{"] {
        let response = api.anonymous_request().json(&json!({ "query": query })).send().await.unwrap();
        assert_eq!(response.status(), StatusCode::UNAUTHORIZED, "{query}");
        assert_eq!(code(&response.json().await.unwrap()), "UNAUTHENTICATED", "{query}");
    }
}

#[tokio::test]
async fn new_documents_are_paid_for_by_their_size() {
    let flags = ["--rate-limit", "1", "--max-complexity", "1000"];
    let api = Api::start_with(&sqlite().await, &flags).await;
    let token = token_of(&api, "a");
    let document = |n: usize| format!("query Q{n} {{ product(id: 1) {{ {} }} }}", "id ".repeat(950));
    let mut codes = Vec::new();
    for n in 0..10 {
        codes.push(ask(&api, &token, &document(n)).await.1);
    }
    assert!(codes[0] == "none" || codes[0] == "RATE_LIMITED", "{codes:?}");
    assert!(codes[1..].iter().all(|code| code == "RATE_LIMITED"), "{codes:?}");
}

async fn start_with_sales(db: &Db, flags: &[&str]) -> (Api, Arc<Memory>) {
    let memory = Arc::new(Memory::default());
    (Api::start_on(db, memory.clone(), queue().await, flags).await, memory)
}

#[tokio::test]
async fn each_result_of_a_subscription_is_charged() {
    let (api, memory) = start_with_sales(&sqlite().await, &["--rate-limit", "100", "--max-complexity", "400"]).await;
    let mut socket = Socket::acknowledged(&api, &token_of(&api, "a")).await;
    // Each result costs 20, so there are five a second after the first twenty.
    let fields: String = (0..19).map(|n| format!("a{n}: ordersToday ")).collect();
    for id in 0..10 {
        socket.subscribe(&id.to_string(), &format!("subscription {{ salesChanged {{ {fields} }} }}")).await;
    }
    let began = Instant::now();
    let (mut results, mut last, orders) = (0, 0, 12);
    let mut version = 0;
    let mut applied = began;
    let mut finished = [false; 10];
    while !finished.iter().all(|finished| *finished) {
        if version < orders && applied.elapsed() > Duration::from_millis(300) {
            version += 1;
            memory.apply(&[order_placed(7, version, &[(1, 1, 100)])]).await;
            applied = Instant::now();
        }
        let Ok(message) = timeout(Duration::from_millis(100), socket.receive()).await else { continue };
        assert_eq!(message["type"], "next", "{message}");
        results += 1;
        last = message["payload"]["data"]["salesChanged"]["a0"].as_i64().unwrap();
        finished[message["id"].as_str().unwrap().parse::<usize>().unwrap()] = last == i64::from(orders);
    }
    assert_eq!(last, i64::from(orders), "each subscription gets the newest state in the end");
    // The rate and the burst; the first results are paid by the subscriptions.
    let paid = 100.0 * began.elapsed().as_secs_f64() + 400.0;
    assert!(f64::from(results - 10) * 20.0 <= paid, "{results} results in {:?}", began.elapsed());
}

#[tokio::test]
async fn a_subscription_reserves_the_memory_of_a_result() {
    let flags = ["--max-response-bytes", "10000", "--max-response-memory", "20000"];
    let (api, _) = start_with_sales(&sqlite().await, &flags).await;
    let (token, query) =
        (token_of(&api, "a"), "subscription { salesChanged { latestOrders { id clientId placedAt } } }");
    let mut socket = Socket::acknowledged(&api, &token).await;
    let mut results = Vec::new();
    for n in 0..50 {
        socket.subscribe(&n.to_string(), query).await;
        results.push(socket.receive().await["type"].clone());
    }
    let started = results.iter().filter(|kind| **kind == "next").count();
    assert!((1..40).contains(&started), "{started} subscriptions of one caller");
    assert_eq!(ask(&api, &token_of(&api, "b"), "{ products(first: 1) { nodes { id } } }").await.0, StatusCode::OK);
    socket.send(json!({ "id": "0", "type": "complete" })).await;
    let stream = async || {
        let request = api.request().bearer_auth(&token).header("accept", "text/event-stream");
        request.json(&json!({ "query": query })).send().await.unwrap().status()
    };
    until("there is memory again", async || stream().await == StatusCode::OK).await;
}

#[tokio::test]
async fn an_operation_reserves_the_memory_of_its_variables() {
    // Enough for three texts of 60,000 characters, and for as much as one operation may have.
    let flags = ["--max-response-bytes", "200000", "--max-response-memory", "400000"];
    let (api, _) = start_with_sales(&sqlite().await, &flags).await;
    let mut socket = Socket::acknowledged(&api, &token_of(&api, "a")).await;
    let mut watch = async |id: String, order: &str| {
        let query = "subscription ($id: ID!) { orderChanged(id: $id) { id } }";
        let payload = json!({ "query": query, "variables": { "id": order } });
        socket.send(json!({ "id": id, "type": "subscribe", "payload": payload })).await;
    };
    // None of these orders exists, so nothing is sent.
    for n in 0..20 {
        watch(format!("short {n}"), "x").await;
    }
    for n in 0..4 {
        watch(format!("long {n}"), &"x".repeat(60_000)).await;
    }
    let refused = socket.receive().await;
    assert!(refused["id"].as_str().unwrap().starts_with("long"), "{refused}");
    assert_eq!(refused["payload"][0]["extensions"]["code"], "SERVER_BUSY");
    socket.send(json!({ "type": "ping" })).await;
    assert_eq!(socket.receive().await["type"], "pong", "no other is refused");
}

#[tokio::test]
async fn the_subscriptions_of_a_caller_are_limited() {
    let (api, _) = start_with_sales(&sqlite().await, &["--max-subscriptions-per-caller", "2"]).await;
    let token = token_of(&api, "a");
    let watch = "subscription { clientChanged(id: 1) { id } }";
    let (mut one, mut other) = (Socket::acknowledged(&api, &token).await, Socket::acknowledged(&api, &token).await);
    one.subscribe("1", watch).await;
    one.subscribe("2", watch).await;
    one.subscribe("3", watch).await;
    let refused = one.receive().await;
    assert_eq!((&refused["id"], &refused["payload"][0]["extensions"]["code"]), (&json!("3"), &json!("SERVER_BUSY")));
    other.subscribe("4", watch).await;
    assert_eq!(other.receive().await["payload"][0]["extensions"]["code"], "SERVER_BUSY", "in all connections");
    let stream = async |token: &str| {
        let request = api.request().bearer_auth(token).header("accept", "text/event-stream");
        request.json(&json!({ "query": watch })).send().await.unwrap().status()
    };
    assert_eq!(stream(&token).await, StatusCode::SERVICE_UNAVAILABLE);
    assert_eq!(stream(&token_of(&api, "b")).await, StatusCode::OK);
    one.send(json!({ "id": "1", "type": "complete" })).await;
    until("there is room again", async || stream(&token).await == StatusCode::OK).await;
}

#[tokio::test]
async fn a_panic_ends_only_its_own_subscription() {
    let model = Arc::new(Panicking::default());
    let api = Api::start_on(&sqlite().await, model.clone(), queue().await, &[]).await;
    model.apply(&[order_placed(7, 1, &[(1, 1, 100)])]).await;
    let mut socket = Socket::acknowledged(&api, &token_of(&api, "a")).await;
    socket.subscribe("good", "subscription { clientChanged(id: 7) { version } }").await;
    let version = |message: Value| message["payload"]["data"]["clientChanged"]["version"].clone();
    assert_eq!(version(socket.receive().await), 1);
    socket.subscribe("bad", "subscription { clientChanged(id: 7) { recentOrders { id } } }").await;
    let result = socket.receive().await;
    assert_eq!(result["id"], "bad");
    assert!(result["payload"]["errors"][0]["extensions"]["code"].is_string(), "{result}");
    assert!(!result.to_string().contains("of a test"), "the cause is only logged: {result}");
    socket.send(json!({ "id": "bad", "type": "complete" })).await;
    model.apply(&[order_placed(7, 2, &[(1, 1, 100)])]).await;
    let mut next = socket.receive().await;
    while next["id"] == "bad" {
        next = socket.receive().await;
    }
    assert_eq!(version(next), 2, "the other subscription goes on");
}
