//! Timeouts, concurrency limits and rate limits.

use std::sync::Arc;
use std::time::Duration;

use api::commands::place_order::place;
use entity::order;
use futures::future::join_all;
use iso_currency::Currency;
use reqwest::StatusCode;
use sea_orm::{EntityTrait, PaginatorTrait, QuerySelect, TransactionTrait};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use uuid::Uuid;

use crate::silent::Silent;
use crate::support::{ALL_SCOPES, Api, PROTOCOL, Socket, code, command, placed, postgres, queue, sqlite, until};

#[tokio::test]
async fn slow_requests_time_out_and_silent_sockets_are_pinged() {
    let api = Api::start(&sqlite().await).await;
    let send = async |text: &str| {
        let mut socket = TcpStream::connect(api.address.trim_start_matches("http://")).await.unwrap();
        socket.write_all(text.as_bytes()).await.unwrap();
        let mut response = String::new();
        // Until the server closes the connection.
        let _ = tokio::time::timeout(Duration::from_secs(60), socket.read_to_string(&mut response)).await.unwrap();
        response
    };
    let headers = send("GET /health/live HTTP/1.1\r\nhost:");
    let head = "POST /graphql HTTP/1.1\r\nhost: x\r\nconnection: close\r\ncontent-type: application/json";
    let begun = format!("{head}\r\ncontent-length: 50\r\n\r\n{{");
    let body = send(&begun);
    let silent = async { Socket::acknowledged(&api, &api.token(ALL_SCOPES, None)).await.pinged().await };
    let (headers, body, ()) = tokio::join!(headers, body, silent);
    assert!(headers.is_empty() || headers.starts_with("HTTP/1.1 408"), "{headers}");
    assert!(body.starts_with("HTTP/1.1 408") && body.contains("REQUEST_TIMEOUT"), "{body}");
}

#[tokio::test]
async fn a_slow_operation_times_out_but_its_order_is_still_placed() {
    let db = postgres().await;
    let api =
        Api::start_on(&db, Arc::new(Silent), queue().await, &["--read-wait", "10ms", "--operation-timeout", "300ms"])
            .await;
    let token = api.token(ALL_SCOPES, None);
    let response = api.graphql(&token, "{ client(id: 1) { id } }", json!({})).await;
    assert_eq!(code(&response), "OPERATION_TIMEOUT");

    // Another transaction locks the client for longer than that.
    let other = db.connection.begin().await.unwrap();
    entity::client::Entity::find_by_id(1).lock_exclusive().one(&other).await.unwrap();
    let place = "mutation { placeOrder(input: { clientId: 1, items: [{ productId: 1, quantity: 1 }] }) { replayed } }";
    let response = api.graphql(&token, place, json!({})).await;
    assert_eq!(code(&response), "OPERATION_TIMEOUT");
    assert!(response["errors"][0]["message"].as_str().unwrap().contains("idempotencyKey"), "{response}");
    other.rollback().await.unwrap();
    until("the order is placed", async || order::Entity::find().count(&db.connection).await.unwrap() == 1).await;
}

#[tokio::test]
async fn the_items_of_large_orders_are_paid_for() {
    let db = sqlite().await;
    let api = Api::start_with(&db, &["--rate-limit", "1", "--max-complexity", "200"]).await;
    let place_one = async |lines: usize| {
        let order = command(1, &vec![(1, 1); lines], None);
        placed(place(&db.connection, Currency::USD, &[order]).await.unwrap().outcomes.remove(0)).data.order_id
    };
    let (small, large) = (place_one(4).await, place_one(100).await);
    let ask = async |id: Uuid| {
        let query = "query ($id: ID!) { order(id: $id) { items { quantity } } }";
        api.graphql(&api.token(ALL_SCOPES, None), query, json!({ "id": id })).await
    };
    let items = |response: &Value| response["data"]["order"]["items"].as_array().map_or(0, Vec::len);
    assert_eq!(items(&ask(large).await), 100);
    let refused = ask(large).await;
    assert_eq!(code(&refused), "RATE_LIMITED", "the first one has cost more than half of the burst");
    assert!(refused["errors"][0]["extensions"]["retryAfter"].as_u64().unwrap() > 2, "{refused}");
    assert_eq!(code(&ask(small).await), "RATE_LIMITED", "it has to pay for what was read");
}

#[tokio::test]
async fn a_refund_of_a_large_order_is_paid_for_by_its_items() {
    let db = sqlite().await;
    let api = Api::start_with(&db, &["--rate-limit", "1", "--max-complexity", "200"]).await;
    let order = command(1, &[(1, 1); 100], None);
    let id = placed(place(&db.connection, Currency::USD, &[order]).await.unwrap().outcomes.remove(0)).data.order_id;
    let refund = async || {
        let query = "mutation ($id: ID!) { refundOrder(input: { orderId: $id, amount: \"0.01\", reason: \"x\" }) { replayed } }";
        let response = api.graphql(&api.token(ALL_SCOPES, None), query, json!({ "id": id })).await;
        (response["data"]["refundOrder"]["replayed"].clone(), code(&response).to_owned())
    };
    for _ in 0..2 {
        assert_eq!(refund().await, (json!(false), "none".into()), "a change that is made does not fail");
    }
    assert_eq!(refund().await, (Value::Null, "RATE_LIMITED".into()));
}

/// The page costs more than the caller can pay at once.
#[tokio::test]
async fn a_page_of_large_orders_waits_until_the_caller_can_pay() {
    let db = sqlite().await;
    let api = Api::start_with(&db, &["--rate-limit", "200", "--max-complexity", "200"]).await;
    for _ in 0..3 {
        let order = command(1, &[(1, 1); 100], None);
        placed(place(&db.connection, Currency::USD, &[order]).await.unwrap().outcomes.remove(0));
    }
    let query = "{ orders(first: 3) { nodes { items { quantity } } } }";
    let page = api.graphql(&api.token(ALL_SCOPES, None), query, json!({})).await;
    assert_eq!(page["data"]["orders"]["nodes"][2]["items"].as_array().map_or(0, Vec::len), 100, "{page}");
}

#[tokio::test]
async fn too_many_concurrent_operations_get_server_busy() {
    let db = sqlite().await;
    let flags = ["--max-concurrent-operations", "2", "--operation-timeout", "1s"];
    let api = Api::start_on(&db, Arc::new(Silent), queue().await, &flags).await;
    let token = api.token(ALL_SCOPES, None);
    let ask = async || {
        let request = api.request().bearer_auth(&token).json(&json!({ "query": "{ client(id: 1) { id } }" }));
        let response = request.send().await.unwrap();
        let (status, retry) = (response.status(), response.headers().get("retry-after").cloned());
        (status, retry.is_some(), code(&response.json().await.unwrap()).to_owned())
    };
    let mut responses = join_all((0..5).map(|_| ask())).await;
    responses.sort_by_key(|(status, ..)| *status);
    let timeout = (StatusCode::OK, false, "OPERATION_TIMEOUT".into());
    let busy = (StatusCode::SERVICE_UNAVAILABLE, true, "SERVER_BUSY".into());
    assert_eq!(responses, [timeout.clone(), timeout.clone(), busy.clone(), busy.clone(), busy]);
    assert_eq!(ask().await, timeout, "the quota is free again");

    // One caller cannot use the whole quota.
    let flags = ["--max-operations-per-caller", "1", "--operation-timeout", "1s"];
    let api = Api::start_on(&db, Arc::new(Silent), queue().await, &flags).await;
    let token = api.token(ALL_SCOPES, None);
    let waits = async || api.graphql(&token, "{ client(id: 1) { id } }", json!({})).await;
    let of_other = api.tokens.mint("other", "", None, Duration::from_secs(60)).unwrap();
    let (one, two, other) = tokio::join!(waits(), waits(), api.graphql(&of_other, "{ __typename }", json!({})));
    let mut codes = [code(&one), code(&two)];
    codes.sort();
    assert_eq!((codes, code(&other)), (["OPERATION_TIMEOUT", "SERVER_BUSY"], "none"));
}

#[tokio::test]
async fn each_subject_and_each_address_has_its_own_rate_limit() {
    let db = sqlite().await;
    let flags = ["--rate-limit", "1", "--max-complexity", "100", "--trusted-proxies", "2"];
    let api = Api::start_with(&db, &flags).await;
    let ask = async |token: &str, query: &str, forwarded: &str| {
        let request = api.anonymous_request().header("x-forwarded-for", forwarded);
        let mut request = request.json(&json!({ "query": query }));
        if !token.is_empty() {
            request = request.bearer_auth(token);
        }
        let response = request.send().await.unwrap();
        let retry = response.headers().get("retry-after").map(|after| after.to_str().unwrap().parse::<u64>().unwrap());
        (response.status().as_u16(), retry, code(&response.json().await.unwrap()).to_owned())
    };
    let of = |subject: &str| api.tokens.mint(subject, ALL_SCOPES, None, Duration::from_secs(60)).unwrap();
    let (one, other) = (of("one"), of("other"));
    let expensive = "{ products(first: 20) { nodes { id name } } }"; // costs 61 of 100, and 10 for its preparation
    assert_eq!(ask(&one, expensive, "").await, (200, None, "none".into()));
    let (status, retry, code) = ask(&one, expensive, "").await;
    assert_eq!((status, &*code), (429, "RATE_LIMITED"));
    assert!((20..=33).contains(&retry.unwrap()), "{retry:?}");
    assert_eq!(ask(&one, "{ __typename }", "").await.0, 200, "a cheap operation is still allowed");
    assert_eq!(ask(&other, expensive, "").await.0, 200, "other subjects are not limited");

    // Without a token: by the address that the outermost of two trusted proxies saw. Anybody can write the entries left of it.
    for n in 0..10 {
        assert_eq!(ask("", "{ nothing }", &format!("{n}.{n}.{n}.{n}, 192.0.2.1:{n}, 10.0.0.1")).await.0, 401, "{n}");
    }
    assert_eq!(ask("", "{ nothing }", "192.0.2.1, 10.0.0.1").await.0, 429, "errors are charged as well");
    assert_eq!(ask("", "{ nothing }", "192.0.2.2, 10.0.0.1").await.0, 401);
    for n in 0..10 {
        assert_eq!(
            ask("x", "{ __typename }", &format!("[2001:db8::{n}], 10.0.0.1")).await.0,
            401,
            "guesses of tokens are charged"
        );
    }
    assert_eq!(
        ask("x", "{ __typename }", "2001:db8::99, 10.0.0.1").await.0,
        429,
        "a /64 network counts as one address"
    );
    let unused = of("unused");
    assert_eq!(ask(&one, "{ __typename }", "2001:db8::99, 10.0.0.1").await.0, 200, "a cached token is accepted");
    assert_eq!(ask(&unused, "{ __typename }", "2001:db8::99, 10.0.0.1").await.0, 429, "no other token is verified");
    assert_eq!(ask(&unused, "{ __typename }", "2001:db8:1::1, 10.0.0.1").await.0, 200);
    let open = async || Socket::open(&api, &[PROTOCOL, ("x-forwarded-for", "192.0.2.9, 10.0.0.1")]).await.err();
    for _ in 0..10 {
        assert_eq!(open().await, None);
    }
    assert_eq!(open().await, Some(429), "opening a socket is charged");

    let unlimited = Api::start_with(&db, &["--rate-limit", "0"]).await;
    for _ in 0..200 {
        assert_eq!(
            crate::support::code(&unlimited.graphql(&one, "{ nothing }", json!({})).await),
            "GRAPHQL_VALIDATION_FAILED"
        );
    }
}

#[tokio::test]
async fn malformed_requests_are_charged_to_their_sender_by_size() {
    let flags = ["--rate-limit", "1", "--max-complexity", "100", "--trusted-proxies", "1"];
    let api = Api::start_with(&sqlite().await, &flags).await;
    // Each address has a token of its own, except the first.
    let of = |address: &str| {
        let request = api.anonymous_request().header("x-forwarded-for", address);
        let token = api.tokens.mint(address, ALL_SCOPES, None, Duration::from_secs(60)).unwrap();
        if address == "192.0.2.1" { request } else { request.bearer_auth(token) }
    };
    let statuses = async |address: &str, body: String, content_type: &str| {
        let mut statuses = Vec::new();
        for _ in 0..12 {
            let request = of(address).header("content-type", content_type);
            statuses.push(request.body(body.clone()).send().await.unwrap().status().as_u16());
        }
        statuses
    };
    let small = statuses("192.0.2.1", "{".into(), "application/json").await;
    assert_eq!((small[..10].to_vec(), small[11]), (vec![400; 10], 429), "each costs 10 of 100");
    assert_eq!(statuses("192.0.2.2", "{".into(), "text/plain").await[11], 429);
    let large = statuses("192.0.2.3", "[".repeat(60_000), "application/json").await;
    assert_eq!((large[0], large[2]), (400, 429), "60 KB cost 58 more");
    let well_formed = async || {
        let body = json!({ "query": "{ __typename }", "extensions": { "padding": "x".repeat(60_000) } });
        of("192.0.2.5").json(&body).send().await.unwrap().status()
    };
    assert_eq!([well_formed().await, well_formed().await], [200, 429], "also if they are well-formed");
    for (address, parameters) in
        [("192.0.2.9", "&a".repeat(7_000)), ("192.0.2.10", format!("&variables={{\"a\":\"{}\"}}", "0".repeat(14_000)))]
    {
        let token = api.tokens.mint(address, ALL_SCOPES, None, Duration::from_secs(60)).unwrap();
        let url = format!("/graphql?query={{__typename}}{parameters}");
        let request = api.get(&url).header("x-forwarded-for", address).bearer_auth(token);
        let ask = async || request.try_clone().unwrap().send().await.unwrap().status();
        assert_eq!(ask().await, 200);
        let more: Vec<_> = futures::future::join_all((0..8).map(|_| ask())).await;
        assert!(more.iter().any(|status| *status == 429), "a URL is charged by its bytes: {more:?}");
    }
    let put = reqwest::Method::PUT;
    let cheap = [
        ("192.0.2.6", 406, api.request().header("accept", "image/png")),
        ("192.0.2.7", 405, api.http.request(put, format!("{}/graphql", api.address))),
        ("192.0.2.8", 400, api.get("/graphql").header("upgrade", "websocket")),
    ];
    for (address, status, request) in cheap {
        let request = request.header("x-forwarded-for", address);
        let ask = async || request.try_clone().unwrap().send().await.unwrap().status();
        assert_eq!(ask().await, status);
        until("each costs 1 of 100", async || ask().await == 429).await;
    }
    let by_get = async || api.get("/graphql?variables=x").header("x-forwarded-for", "192.0.2.4").send().await.unwrap();
    let mut last = by_get().await.status();
    for _ in 0..11 {
        last = by_get().await.status();
    }
    assert_eq!(last, 429);
}

#[tokio::test]
async fn a_trusted_subject_has_a_rate_limit_of_its_own() {
    let db = sqlite().await;
    let flags = ["--rate-limit", "1", "--max-complexity", "100", "--rate-limit-subjects", "importer=1000, a=b =0"];
    let api = Api::start_with(&db, &flags).await;
    let successes = async |subject: &str| {
        let token = api.tokens.mint(subject, ALL_SCOPES, None, Duration::from_secs(60)).unwrap();
        let expensive = "{ products(first: 20) { nodes { id name } } }"; // costs 61
        let responses = join_all((0..50).map(|_| api.graphql(&token, expensive, json!({})))).await;
        responses.iter().filter(|response| crate::support::code(response) == "none").count()
    };
    assert_eq!(successes("another").await, 1);
    assert!((16..50).contains(&successes("importer").await));
    assert_eq!(successes("a=b").await, 50);
}

/// Also if its bytes cost nothing, because it is named by its hash.
#[tokio::test]
async fn a_caller_that_cannot_pay_for_the_preparation_of_a_document_causes_no_work() {
    let flags = ["--rate-limit", "1", "--max-complexity", "1000"];
    let api = Api::start_with(&sqlite().await, &flags).await;
    let of = |subject: &str| api.tokens.mint(subject, ALL_SCOPES, None, Duration::from_secs(60)).unwrap();
    // 1,900 tokens, of which 50 cost 1. The operation costs more than the maximum.
    let ids = "\"1\" ".repeat(1_900);
    let document = format!("query ($ids: [ID!]! = [{ids}]) {{ clientsByIds(ids: $ids) {{ id }} }}");
    let hash = format!("{:x}", Sha256::digest(&document));
    let ask = async |token: &str, body: serde_json::Value| {
        let response = api.anonymous_request().bearer_auth(token).json(&body).send().await.unwrap();
        code(&response.json().await.unwrap()).to_owned()
    };
    let (first, second) = (of("first"), of("second"));
    assert_eq!(ask(&first, json!({ "query": document })).await, "MAX_COMPLEXITY_LIMIT");
    let mut refused = 0;
    while ask(&second, json!({ "documentId": hash })).await == "MAX_COMPLEXITY_LIMIT" {
        refused += 1;
    }
    assert!((19..=22).contains(&refused), "each costs 38 and 10 of 1000: {refused}");
}

#[tokio::test]
async fn the_values_of_variables_are_paid_before_they_are_read() {
    let api = Api::start_with(&sqlite().await, &["--rate-limit", "1", "--max-complexity", "1000"]).await;
    let query = "query ($ids: [ID!]!) { clientsByIds(ids: $ids) { id } }";
    let ask = async |ids: usize| {
        let body = json!({ "query": query, "variables": { "ids": vec![1; ids] } });
        code(&api.request().json(&body).send().await.unwrap().json().await.unwrap()).to_owned()
    };
    // 6,400 values cost 200 of 1,000, their bytes 12, and the refusal 10.
    let mut refused = 0;
    while ask(6_400).await == "MAX_COMPLEXITY_LIMIT" {
        refused += 1;
    }
    assert!((4..=5).contains(&refused), "{refused}");
}
