//! The subprotocol graphql-transport-ws.

use std::sync::Arc;
use std::time::Duration;

use jsonwebtoken::{EncodingKey, Header, encode};
use read_model::{Memory, Projection};
use serde_json::{Value, json};
use test_support::events::order_placed;
use test_support::log::Log;
use tracing::Level;

use crate::silent::Silent;
use crate::support::{ALL_SCOPES, Api, PROTOCOL, SECRET, Socket, queue, sqlite, until};

const TYPENAME: &str = "{ __typename }";

#[tokio::test]
async fn queries_and_mutations_get_a_result_and_complete() {
    let api = Api::start(&sqlite().await).await;
    let mut socket = Socket::acknowledged(&api, &api.token(ALL_SCOPES, None)).await;
    socket.subscribe("q", "{ product(id: 1) { name } }").await;
    let payload = json!({ "data": { "product": { "name": "Computer" } } });
    assert_eq!(socket.receive().await, json!({ "id": "q", "type": "next", "payload": payload }));
    assert_eq!(socket.receive().await, json!({ "id": "q", "type": "complete" }));
    let place =
        "mutation { placeOrder(input: { clientId: 1, items: [{ productId: 1, quantity: 1 }] }) { clientVersion } }";
    socket.subscribe("q", place).await;
    assert_eq!(socket.receive().await["payload"]["data"]["placeOrder"]["clientVersion"], json!(2));
    assert_eq!(socket.receive().await["type"], "complete");

    // An operation that is rejected gets an error and ends no other operation.
    for (query, code) in [
        ("{ nothing }", "GRAPHQL_VALIDATION_FAILED"),
        ("{", "GRAPHQL_PARSE_FAILED"),
        ("query ($n: Int!) { products(first: $n) { nodes { id } } }", "BAD_USER_INPUT"),
        ("{ products(first: 900) { nodes { id name } } }", "MAX_COMPLEXITY_LIMIT"),
    ] {
        socket.subscribe("e", query).await;
        let message = socket.receive().await;
        assert_eq!((&message["type"], &message["id"]), (&json!("error"), &json!("e")), "{message}");
        assert_eq!(message["payload"][0]["extensions"]["code"], json!(code));
    }
    socket.subscribe("o", "{ b: __typename a: product(id: 1) { name id } }").await;
    let text = r#"{"type":"next","id":"o","payload":{"data":{"b":"Query","a":{"name":"Computer","id":"1"}}}}"#;
    assert_eq!(socket.receive_text().await, text, "fields keep their order");
    assert_eq!(socket.receive().await["type"], "complete");
    socket.send(json!({ "type": "ping", "payload": { "a": 1 } })).await;
    assert_eq!(socket.receive().await, json!({ "type": "pong" }));
    socket.send(json!({ "type": "pong" })).await;
    socket.send(json!({ "id": "unknown", "type": "complete" })).await;
    socket.subscribe("q", TYPENAME).await;
    assert_eq!(socket.receive().await["payload"]["data"]["__typename"], json!("Query"));
}

#[tokio::test]
async fn an_operation_that_its_client_completes_before_its_result_is_logged_as_cancelled() {
    let db = sqlite().await;
    let api = Api::start_on(&db, Arc::new(Silent), queue().await, &["--rate-limit", "0"]).await;
    let mut socket = Socket::acknowledged(&api, &api.token(ALL_SCOPES, None)).await;
    let log = Log::start(Level::INFO);
    let outcomes = || -> Vec<String> {
        let of_operations = log.lines().into_iter().filter(|line| line.contains("kind=\"query\""));
        of_operations.filter_map(|line| Some(line.split_once("outcome=")?.1.split(' ').next()?.to_owned())).collect()
    };
    let mut id = 0;
    // An operation that is completed during its validation has no line.
    while outcomes().is_empty() {
        id += 1;
        socket.subscribe(&id.to_string(), "{ client(id: 1) { id } }").await;
        socket.send(json!({ "type": "ping" })).await;
        assert_eq!(socket.receive().await, json!({ "type": "pong" }));
        socket.send(json!({ "id": id.to_string(), "type": "complete" })).await;
    }
    assert_eq!(outcomes()[0], "\"cancelled\"");
}

#[tokio::test]
async fn each_protocol_violation_has_its_close_code() {
    let api = Api::start(&sqlite().await).await;
    let token = api.token(ALL_SCOPES, None);
    let subscribe = json!({ "id": "1", "type": "subscribe", "payload": { "query": TYPENAME } });
    let init = |payload: Value| json!({ "type": "connection_init", "payload": payload });
    let bearer = |token: &str| init(json!({ "authorization": format!("Bearer {token}") }));
    let change = json!({ "id": "1", "type": "subscribe", "payload": { "query": "subscription { clientChanged(id: 1) { id } }" } });
    let cases: [(u16, Vec<Value>); 16] = [
        (4401, vec![subscribe.clone()]),
        (4403, vec![init(Value::Null)]),
        (4403, vec![bearer("x")]),
        (4403, vec![bearer("")]),
        (4403, vec![init(json!({ "Authorization": 7 }))]),
        (4403, vec![init(json!({ "Authorization": token }))]), // not a bearer token
        (4429, vec![bearer(&token), bearer(&token)]),
        (4409, vec![bearer(&token), change.clone(), change]),
        (4400, vec![json!({ "type": "unknown" })]),
        (4400, vec![json!({})]),
        (4400, vec![json!([])]),
        (4400, vec![json!(["connection_init", null, { "authorization": format!("Bearer {token}") }])]),
        (4400, vec![bearer(&token), json!(["subscribe", "1", { "query": TYPENAME }])]),
        (4400, vec![init(json!("x"))]),
        (4400, vec![bearer(&token), json!({ "id": "", "type": "subscribe", "payload": { "query": TYPENAME } })]),
        (4400, vec![bearer(&token), json!({ "type": "subscribe", "payload": { "query": TYPENAME } })]),
    ];
    for (code, messages) in cases {
        let mut socket = Socket::open(&api, &[PROTOCOL]).await.unwrap();
        for message in &messages {
            socket.send(message.clone()).await;
        }
        assert_eq!(socket.closed().await, code, "{messages:?}");
    }
    let mut socket = Socket::open(&api, &[PROTOCOL]).await.unwrap();
    socket.send_text("not JSON").await;
    assert_eq!(socket.closed().await, 4400);
    let mut socket = Socket::open(&api, &[PROTOCOL]).await.unwrap();
    socket.send(init(json!({ "padding": "x".repeat(66_000) }))).await;
    assert_eq!(socket.closed().await, 1009);
    assert_eq!(Socket::open(&api, &[]).await.unwrap().closed().await, 4406);
    assert_eq!(Socket::open(&api, &[PROTOCOL]).await.unwrap().closed().await, 4408, "it never sent connection_init");
}

#[tokio::test]
async fn an_id_that_is_no_unicode_does_not_end_other_operations() {
    let api = Api::start(&sqlite().await).await;
    let mut socket = Socket::acknowledged(&api, &api.token(ALL_SCOPES, None)).await;
    socket.send_text(r#"{ "id": "a\ud800", "type": "subscribe", "payload": { "query": "{ __typename }" } }"#).await;
    let error = socket.receive_text().await;
    assert!(error.contains(r#""id":"a\ud800""#) && error.contains("BAD_REQUEST"), "{error}");
    socket.send_text(r#"{ "id": "a\ud800", "type": "complete" }"#).await;
    socket.subscribe("1", TYPENAME).await;
    assert_eq!(socket.receive().await["id"], "1");
    socket.send(json!({ "id": 1, "type": "subscribe", "payload": { "query": TYPENAME } })).await;
    assert_eq!(socket.closed().await, 4400, "a number is no id");
}

#[tokio::test]
async fn a_socket_is_accepted_by_origin_and_token() {
    let db = sqlite().await;
    let api = Api::start_with(&db, &["--cors-origins", "https://shop.example.com"]).await;
    let own = api.address.clone();
    let open =
        async |headers: &[(&'static str, &str)]| Socket::open(&api, &[&[PROTOCOL], headers].concat()).await.err();
    assert_eq!(open(&[]).await, None);
    assert_eq!(open(&[("origin", "https://shop.example.com")]).await, None);
    assert_eq!(open(&[("origin", &own)]).await, None);
    assert_eq!(open(&[("origin", "https://evil.example.com")]).await, Some(403));
    assert_eq!(open(&[("origin", "null")]).await, Some(403));
    assert_eq!(open(&[("authorization", "Bearer x")]).await, Some(401));
    let forwarded = [("origin", "https://shop.test"), ("x-forwarded-host", "shop.test")];
    assert_eq!(open(&forwarded).await, Some(403), "no proxy is trusted");
    let behind_proxy = Api::start_with(&db, &["--trusted-proxies", "1"]).await;
    let open = async |headers: &[(&'static str, &str)]| {
        Socket::open(&behind_proxy, &[&[PROTOCOL], headers].concat()).await.err()
    };
    assert_eq!(open(&forwarded).await, None);
    assert_eq!(open(&[("origin", "https://evil.test"), ("x-forwarded-host", "shop.test")]).await, Some(403));

    // The token may be in a header of the request.
    let bearer = format!("Bearer {}", api.token(ALL_SCOPES, None));
    let mut socket = Socket::open(&api, &[PROTOCOL, ("authorization", &bearer)]).await.unwrap();
    socket.send(json!({ "type": "connection_init" })).await;
    assert_eq!(socket.receive().await["type"], "connection_ack");
    socket.subscribe("1", "{ product(id: 1) { name } }").await;
    assert_eq!(socket.receive().await["payload"]["data"]["product"]["name"], "Computer");
}

#[tokio::test]
async fn streams_and_sockets_are_limited() {
    let flags = ["--max-streams", "2", "--max-live-connections", "4", "--max-live-connections-per-caller", "2"];
    let flags = [&flags[..], &["--rate-limit", "1", "--max-complexity", "100"]].concat();
    let api = Api::start_with(&sqlite().await, &flags).await;
    let of = |subject: &str| api.tokens.mint(subject, ALL_SCOPES, None, Duration::from_secs(60)).unwrap();
    let mut socket = Socket::acknowledged(&api, &of("one")).await;
    for id in ["1", "2", "3"] {
        socket.subscribe(id, "subscription { clientChanged(id: 1) { id } }").await;
    }
    let rejected = socket.receive().await;
    assert_eq!((&rejected["id"], &rejected["type"]), (&json!("3"), &json!("error")));
    assert_eq!(rejected["payload"][0]["extensions"]["code"], "MAX_STREAMS_LIMIT");
    socket.send(json!({ "id": "1", "type": "complete" })).await;
    socket.subscribe("3", TYPENAME).await;
    assert_eq!(socket.receive().await["type"], "next", "there is room again");
    assert_eq!(socket.receive().await["type"], "complete");

    // The same rate limit as over HTTP.
    let mut hungry = Socket::acknowledged(&api, &of("two")).await;
    let mut codes = Vec::new();
    for _ in 0..10 {
        hungry.subscribe("m", "{ nothing }").await;
        codes.push(hungry.receive().await["payload"][0]["extensions"]["code"].as_str().unwrap().to_owned());
    }
    assert_eq!(
        codes[8..],
        ["GRAPHQL_VALIDATION_FAILED", "RATE_LIMITED"],
        "each message costs 1, and 10 for its document"
    );

    // Two connections for each caller, and four in all. An event stream counts as well.
    let second = Socket::acknowledged(&api, &of("two")).await;
    let mut third = Socket::open(&api, &[PROTOCOL]).await.unwrap();
    let payload = json!({ "Authorization": format!("Bearer {}", of("two")) });
    third.send(json!({ "type": "connection_init", "payload": payload })).await;
    assert_eq!(third.closed().await, 1013);
    drop(third);
    let stream = async || {
        let request = api.request().bearer_auth(of("three")).header("accept", "text/event-stream");
        let query = "subscription { clientChanged(id: 1) { id } }";
        request.json(&json!({ "query": query })).send().await.unwrap()
    };
    let mut streams = Vec::new();
    until("there is room for one", async || {
        streams.push(stream().await);
        streams.last().unwrap().status() == 200
    })
    .await;
    assert_eq!(Socket::open(&api, &[PROTOCOL]).await.err(), Some(503));
    assert_eq!(stream().await.status(), 503);
    drop((socket, hungry, second, streams));
    until("there is room again", async || Socket::open(&api, &[PROTOCOL]).await.is_ok()).await;
}

#[tokio::test]
async fn a_socket_closes_when_its_token_expires_or_the_service_stops() {
    let db = sqlite().await;
    let api = Api::start_on(&db, Arc::new(Memory::default()), queue().await, &[]).await;
    // Ten seconds of clock difference are allowed: this token is valid for three more seconds.
    let claims = json!({ "sub": "x", "scope": ALL_SCOPES, "exp": jsonwebtoken::get_current_timestamp() - 7 });
    let expiring = encode(&Header::default(), &claims, &EncodingKey::from_secret(SECRET.as_bytes())).unwrap();
    let mut socket = Socket::acknowledged(&api, &expiring).await;
    socket.subscribe("1", "subscription { clientChanged(id: 1) { id } }").await;
    assert_eq!(socket.closed().await, 4403);

    let mut socket = Socket::acknowledged(&api, &api.token(ALL_SCOPES, None)).await;
    socket.subscribe("1", "subscription { clientChanged(id: 1) { id } }").await;
    socket.send(json!({ "type": "ping" })).await;
    socket.receive().await;
    drop(api); // stops it
    assert_eq!(socket.closed().await, 1001);
}

#[tokio::test]
async fn a_running_query_finishes_and_no_new_operation_starts_while_the_service_stops() {
    let flags = ["--read-wait", "3s", "--drain-delay", "0s"];
    let api = Api::start_with(&sqlite().await, &flags).await;
    let mut socket = Socket::acknowledged(&api, &api.token(ALL_SCOPES, None)).await;
    socket.subscribe("slow", "{ client(id: 1, minVersion: 99) { id } }").await;
    api.stop();
    let refusal = loop {
        socket.subscribe("new", TYPENAME).await;
        let message = socket.receive().await;
        assert_eq!(message["id"], "new", "{message}");
        if message["type"] == "error" {
            break message;
        }
        assert_eq!(socket.receive().await["type"], "complete");
    };
    assert_eq!(refusal["payload"][0]["extensions"]["code"], "SERVER_BUSY");
    let result = socket.receive().await;
    assert_eq!((&result["id"], &result["type"]), (&json!("slow"), &json!("next")));
    assert_eq!(socket.receive().await, json!({ "id": "slow", "type": "complete" }));
    assert_eq!(socket.closed().await, 1001);
}

#[tokio::test]
async fn a_fault_in_one_operation_ends_no_other() {
    let memory = Arc::new(Memory::default());
    let api = Api::start_on(&sqlite().await, memory.clone(), queue().await, &[]).await;
    let mut socket = Socket::acknowledged(&api, &api.token(ALL_SCOPES, None)).await;
    socket.subscribe("live", "subscription { clientChanged(id: 7) { version } }").await;
    for payload in [
        r#"{ "query": 7 }"#,
        r#"["{ __typename }"]"#,
        r#"{ "query": "{ __typename }", "variables": [] }"#,
        r#"{ "query": "{ product(id: \"\ud800\") { name } }" }"#,
        r#"{ "query": "query ($id: ID!) { product(id: $id) { name } }", "variables": { "id": "\udc00" } }"#,
        r#"{ "query": "{ __typename }", "query": "{ __typename }" }"#,
        r#"{ "extensions": { "persistedQuery": { "version": 2 } } }"#,
        "{}",
        "7",
        "null",
    ] {
        socket.send_text(&format!(r#"{{ "id": "e", "type": "subscribe", "payload": {payload} }}"#)).await;
        let message = socket.receive().await;
        assert_eq!((&message["type"], &message["id"]), (&json!("error"), &json!("e")), "{payload}: {message}");
        assert_eq!(message["payload"][0]["extensions"]["code"], "BAD_REQUEST", "{payload}");
    }
    socket.send_text(r#"{ "id": "e", "type": "subscribe" }"#).await;
    assert_eq!(socket.receive().await["type"], "error");
    let marked = format!("\u{feff}{}", json!({ "id": "b", "type": "subscribe", "payload": { "query": TYPENAME } }));
    socket.send_text(&marked).await;
    assert_eq!(socket.receive().await["type"], "next", "a byte order mark is ignored");
    assert_eq!(socket.receive().await["type"], "complete");
    memory.apply(&[order_placed(7, 1, &[(1, 1, 100)])]).await;
    assert_eq!(socket.receive().await["payload"]["data"]["clientChanged"]["version"], 1, "the subscription goes on");
}

/// How many of these pings the server answers within this time.
async fn pongs_within(socket: &mut Socket, pings: usize, ping: &str, time: Duration) -> usize {
    for _ in 0..pings {
        socket.send_text(ping).await;
    }
    let mut pongs = 0;
    let _ = tokio::time::timeout(time, async {
        loop {
            assert_eq!(socket.receive().await["type"], "pong");
            pongs += 1;
        }
    })
    .await;
    pongs
}

#[tokio::test]
async fn messages_and_their_bytes_are_charged() {
    let flags = ["--rate-limit", "20", "--max-complexity", "100"];
    let api = Api::start_with(&sqlite().await, &flags).await;
    let of = |subject: &str| api.tokens.mint(subject, ALL_SCOPES, None, Duration::from_secs(60)).unwrap();
    let second = Duration::from_secs(1);
    // Before `connection_init` the address pays.
    let mut anonymous = Socket::open(&api, &[PROTOCOL]).await.unwrap();
    let pongs = pongs_within(&mut anonymous, 300, r#"{"type":"ping"}"#, second).await;
    assert!((80..200).contains(&pongs), "{pongs} of 300 pings are answered: 100 at once, then 20 a second");
    assert_eq!(Socket::open(&api, &[PROTOCOL]).await.err(), Some(429));

    until("the address has quota again", async || Socket::open(&api, &[PROTOCOL]).await.is_ok()).await;
    let api = Api::start_with(&sqlite().await, &flags).await;
    let mut large = Socket::acknowledged(&api, &of("large")).await;
    let ping = json!({ "type": "ping", "payload": "x".repeat(40_000) }).to_string();
    let pongs = pongs_within(&mut large, 10, &ping, second).await;
    assert!((2..6).contains(&pongs), "{pongs} of 10 pings of 40 KB are answered");
    // Reading goes on when the caller has quota again.
    assert_eq!(large.receive().await["type"], "pong");
    let mut other = Socket::acknowledged(&api, &of("other")).await;
    other.subscribe("1", TYPENAME).await;
    assert_eq!(other.receive().await["type"], "next", "other callers are not affected");
}

#[tokio::test]
async fn frames_that_never_become_a_message_are_charged() {
    let api = Api::start_with(&sqlite().await, &["--rate-limit", "1", "--max-complexity", "100"]).await;
    let of = |subject: &str| api.tokens.mint(subject, ALL_SCOPES, None, Duration::from_secs(60)).unwrap();
    let mut socket = Socket::acknowledged(&api, &of("a")).await;
    // A text that goes on and on without a character more (RFC 6455, section 5.4).
    socket.send_bytes(&[0x01, 0x81, 0, 0, 0, 0, b'{']).await;
    let empty = [0x00, 0x80, 0, 0, 0, 0].repeat(50_000);
    let flood = tokio::spawn(async move {
        loop {
            socket.send_bytes(&empty).await;
        }
    });
    let ask = async |subject: &str| {
        let request = api.request().bearer_auth(of(subject)).json(&json!({ "query": TYPENAME }));
        request.send().await.unwrap().status()
    };
    until("the caller has spent its quota", async || ask("a").await == 429).await;
    assert_eq!(ask("b").await, 200);
    flood.abort();
}

#[tokio::test]
async fn a_message_must_arrive_within_ten_seconds() {
    let api = Api::start(&sqlite().await).await;
    let mut socket = Socket::acknowledged(&api, &api.token(ALL_SCOPES, None)).await;
    // The first 20 KB of a frame of 60 KB.
    let head = [&[0x81, 0x80 | 126][..], &60_000u16.to_be_bytes(), &[0; 4]].concat();
    socket.send_bytes(&[&head[..], &[b' '; 20_000]].concat()).await;
    assert_eq!(socket.closed().await, 1008);
}

#[tokio::test]
async fn sockets_without_init_have_a_pool_of_their_own() {
    let flags = ["--max-live-connections", "100", "--max-live-connections-per-caller", "20"];
    let api = Api::start_with(&sqlite().await, &flags).await;
    let mut waiting = Vec::new();
    while let Ok(socket) = Socket::open(&api, &[PROTOCOL]).await {
        waiting.push(socket);
    }
    assert_eq!(waiting.len(), 2, "a tenth of the connections of one caller");
    let bearer = format!("Bearer {}", api.token(ALL_SCOPES, None));
    waiting[0].send(json!({ "type": "connection_init", "payload": { "Authorization": bearer } })).await;
    assert_eq!(waiting[0].receive().await["type"], "connection_ack");
    assert!(Socket::open(&api, &[PROTOCOL]).await.is_ok(), "an initialised socket does not count");
}
