//! The lines of the log: which of them belong together, what they say about operations and connections, and that none is lost at the end.

use std::collections::BTreeSet;
use std::io::Read;
use std::process::Stdio;
use std::sync::{Arc, Mutex};

use futures::{SinkExt, StreamExt};
use runtime::crash_points::PROJECTOR_BEFORE_APPLY;
use serde_json::{Value, json};
use test_support::otlp::Collector;
use test_support::process::{Process, command, free_address, memory_mebibytes, signal};
use test_support::queue_proxy::{Mode, QueueProxy};
use test_support::services::Stores;
use test_support::until;
use test_support::user::{ALL_SCOPES, SECRET, User, status};
use tokio_tungstenite::connect_async;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::client::IntoClientRequest;
use tokio_tungstenite::tungstenite::protocol::CloseFrame;

use crate::standalone::start;

const JSON: (&str, &str) = ("LOG_FORMAT", "json");
const PLACE: &str =
    "mutation Place { placeOrder(input: { clientId: 1, items: [{ productId: 1, quantity: 1 }] }) { clientVersion } }";

/// Waits for a line of the log in JSON that has these fields.
async fn line(process: &Process, fields: &[(&str, &Value)]) -> Value {
    let mut found = None;
    until(&format!("a line has {fields:?}"), async || {
        let lines = process.lines().into_iter().filter_map(|line| serde_json::from_str::<Value>(&line).ok());
        found = lines.into_iter().find(|line| fields.iter().all(|(name, value)| line[name] == **value));
        found.is_some()
    })
    .await;
    found.unwrap()
}

async fn post(user: &User, request_id: &str, traceparent: Option<&str>, query: &str) -> Value {
    let request = user.http.post(format!("http://{}/graphql", user.address)).bearer_auth(&user.token);
    let request = request.header("x-request-id", request_id).json(&json!({ "query": query }));
    let request = traceparent.into_iter().fold(request, |request, value| request.header("traceparent", value));
    request.send().await.unwrap().json().await.unwrap()
}

#[tokio::test]
async fn one_trace_id_leads_from_a_request_to_its_event() {
    let (process, user) = start(&[JSON, ("RUST_LOG", "info,projector=debug")]);
    let given = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";
    let mut ids = Vec::new();
    for (request_id, traceparent) in [("with", Some(given)), ("without", None), ("invalid", Some("00-4BF9-1-01"))] {
        assert_eq!(post(&user, request_id, traceparent, PLACE).await["errors"], Value::Null);
        let operation = line(&process, &[("message", &"operation".into()), ("request_id", &request_id.into())]).await;
        let trace_id = operation["trace_id"].as_str().unwrap().to_owned();
        assert!(trace_id.len() == 32 && trace_id.bytes().all(|digit| digit.is_ascii_hexdigit()), "{operation}");
        assert_eq!((&operation["outcome"], &operation["codes"]), (&json!("ok"), &Value::Null), "{operation}");
        let hash = operation["subject_hash"].as_str().unwrap();
        assert!(hash.len() == 16 && !operation.to_string().contains("developer"), "{operation}");
        let applied = line(&process, &[("message", &"applied".into()), ("trace_id", &operation["trace_id"])]).await;
        assert_eq!(
            (&applied["target"], &applied["request_id"]),
            (&json!("projector::consume::delivery"), &Value::Null)
        );
        ids.push(trace_id);
    }
    assert_eq!(ids[0], given[3..35]);
    ids.sort();
    ids.dedup();
    assert_eq!(ids.len(), 3, "each request without a trace gets its own");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_line_has_the_ids_of_the_span_in_which_it_was_written() {
    let collector = Collector::start().await;
    let traced = [("OTEL_EXPORTER_OTLP_ENDPOINT", &*collector.endpoint), ("OTEL_TRACES_SAMPLER", "always_on")];
    let (process, user) = start(&[&[JSON, ("RUST_LOG", "info,projector=debug")], &traced[..]].concat());
    post(&user, "traced", None, PLACE).await;
    let operation = line(&process, &[("message", &"operation".into()), ("request_id", &"traced".into())]).await;
    let applied = line(&process, &[("message", &"applied".into()), ("trace_id", &operation["trace_id"])]).await;
    assert!(tokio::task::block_in_place(|| process.terminate()).success());
    for (line, name) in [(operation, "POST /graphql"), (applied, "process orders")] {
        let spans = collector.named(name);
        let span = spans.iter().find(|span| line["span_id"] == *span.id);
        assert_eq!(span.map(|span| &*span.trace), line["trace_id"].as_str(), "{line}: {spans:#?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn lines_of_the_relay_about_an_event_have_the_trace_id_of_its_request() {
    let mut stores = tokio::task::spawn_blocking(Stores::prepared).await.unwrap();
    let (proxy, url) = QueueProxy::start(stores.get("AWS_ENDPOINT_URL").to_owned(), 1).await;
    stores.set("AWS_ENDPOINT_URL", &url);
    stores.set("LOG_FORMAT", "json");
    let api = Process::start("api", &[], &stores.variables());
    let ready = line(&api, &[("message", &"ready".into())]).await;
    let user = User::new(ready["address"].as_str().unwrap(), &stores.token(ALL_SCOPES, "1h"));
    proxy.set(Mode::Refuses);
    post(&user, "refused", None, PLACE).await;
    let operation = line(&api, &[("message", &"operation".into()), ("request_id", &"refused".into())]).await;
    let message = "an event was refused; it is sent again later: InternalError";
    let refused = line(&api, &[("message", &message.into()), ("trace_id", &operation["trace_id"])]).await;
    assert!(refused["event_id"].is_string(), "{refused}");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_operation_that_fails_is_logged_as_such_and_so_is_its_cause() {
    let mut stores = tokio::task::spawn_blocking(Stores::prepared).await.unwrap();
    stores.set("LOG_FORMAT", "json");
    let api = Process::start("api", &[], &stores.variables());
    let ready = line(&api, &[("message", &"ready".into())]).await;
    let user = User::new(ready["address"].as_str().unwrap(), &stores.token(ALL_SCOPES, "1h"));
    stores.redis.stop();
    let query = "query Failing { products { nodes { id } } }";
    let response = post(&user, "failing", None, query).await;
    assert_eq!(response["errors"][0]["extensions"]["code"], "READ_MODEL_UNAVAILABLE", "{response}");

    let id = json!("failing");
    let operation = line(&api, &[("message", &"operation".into()), ("request_id", &id)]).await;
    assert_eq!((&operation["outcome"], &operation["status"]), (&json!("failed"), &json!(200)), "{operation}");
    assert_eq!(operation["codes"], "READ_MODEL_UNAVAILABLE", "{operation}");
    let cause = line(&api, &[("level", &"WARN".into()), ("request_id", &id)]).await;
    assert_eq!(cause["trace_id"], operation["trace_id"], "{cause}");

    post(&user, "refused", None, "query Refused { nothing }").await;
    let refused = line(&api, &[("message", &"request".into()), ("request_id", &"refused".into())]).await;
    assert_eq!(refused["codes"], "GRAPHQL_VALIDATION_FAILED");
    assert_eq!(refused["subject_hash"], operation["subject_hash"], "{refused}");
}

#[tokio::test]
async fn a_closed_websocket_is_logged_with_its_code_and_its_operations_have_traces_of_their_own() {
    let (process, user) = start(&[JSON]);
    for (n, (end, closed_by, code)) in
        [("client", "client", 4321), ("silent", "client", 1005), ("server", "server", 4400)].into_iter().enumerate()
    {
        let mut request = format!("ws://{}/graphql", user.address).into_client_request().unwrap();
        request.headers_mut().insert("sec-websocket-protocol", "graphql-transport-ws".parse().unwrap());
        request.headers_mut().insert("x-request-id", end.parse().unwrap());
        let (mut socket, _) = connect_async(request).await.unwrap();
        let token = format!("Bearer {}", user.token);
        let init = json!({ "type": "connection_init", "payload": { "authorization": token } });
        socket.send(Message::text(init.to_string())).await.unwrap();
        socket.next().await.unwrap().unwrap();
        for operation in 0..n {
            let payload = json!({ "query": "query Own { __typename }" });
            let subscribe = json!({ "type": "subscribe", "id": operation.to_string(), "payload": payload });
            socket.send(Message::text(subscribe.to_string())).await.unwrap();
            socket.next().await.unwrap().unwrap();
            socket.next().await.unwrap().unwrap();
        }
        match end {
            "client" => socket.close(Some(CloseFrame { code: code.into(), reason: "".into() })).await.unwrap(),
            "silent" => socket.close(None).await.unwrap(),
            _ => socket.send(Message::text("no JSON")).await.unwrap(),
        }
        let closed = line(&process, &[("message", &"closed".into()), ("request_id", &end.into())]).await;
        let described = (&closed["close_code"], &closed["closed_by"], &closed["operations"]);
        assert_eq!(described, (&code.into(), &closed_by.into(), &n.into()), "{closed}");
        assert!(closed["subject_hash"].is_string() && closed["duration_ms"].is_number(), "{closed}");
    }
    let lines = process.lines();
    let own = lines.iter().filter_map(|line| serde_json::from_str::<Value>(line).ok());
    let own: Vec<Value> = own.filter(|line| line["operation"] == "Own").collect();
    let traces: BTreeSet<&str> = own.iter().filter_map(|line| line["trace_id"].as_str()).collect();
    assert_eq!((own.len(), traces.len()), (3, 3), "{own:#?}");
    assert!(own.iter().all(|line| line["subject_hash"].is_string() && line["outcome"] == "ok"), "{own:#?}");
}

#[tokio::test]
async fn the_last_lines_are_written_at_the_end() {
    const REQUESTS: usize = 200;
    let (process, user) = start(&[JSON]);
    for n in 0..REQUESTS {
        post(&user, &format!("request-{n}"), None, "query Counted { __typename }").await;
    }
    let output = process.output();
    assert!(process.terminate().success());
    let lines = output.all();
    assert_eq!(lines.iter().filter(|line| line.contains("Counted")).count(), REQUESTS);
    assert!(lines.iter().any(|line| line.contains("shutting down")));

    let armed = format!("{PROJECTOR_BEFORE_APPLY}=panic");
    let (process, user) = start(&[JSON, ("FAILPOINTS", &armed)]);
    post(&user, "panicking", None, PLACE).await;
    let output = process.output();
    assert_eq!(process.wait().code(), Some(1));
    let lines = output.all();
    assert!(lines.iter().any(|line| line.contains("\"message\":\"panicked at ")), "{lines:#?}");
    assert!(lines.last().unwrap().starts_with("error: a poller failed"), "{lines:#?}");
}

/// Nobody reads the log, so standard error takes nothing after 64 KiB.
#[tokio::test]
async fn a_log_that_nobody_reads_stops_no_request_and_what_is_dropped_is_reported() {
    let address = free_address();
    let variables = [("LISTEN_ADDR", &*address), ("JWT_SECRET", SECRET), ("RUST_LOG", "debug")];
    let mut standalone = command("standalone", &[], &variables);
    let mut child = standalone.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
    let health = format!("http://{address}/health/ready");
    until("it is ready", async || reqwest::get(&health).await.is_ok_and(|ready| ready.status() == 200)).await;
    let memory = || memory_mebibytes(child.id(), "VmRSS");
    let before = memory();
    // At this level the log has the whole path: 6 MB of lines.
    let path = format!("/{}", "x".repeat(16_000));
    for _ in 0..400 {
        assert_eq!(status(&address, &path).await, 404);
    }
    assert!(memory() < before + 64.0, "{} MiB, {before} MiB before", memory());

    let (mut standard_error, log) = (child.stderr.take().unwrap(), Arc::new(Mutex::new(Vec::new())));
    let read = log.clone();
    std::thread::spawn(move || {
        let mut bytes = [0; 65_536];
        while let Ok(count @ 1..) = standard_error.read(&mut bytes) {
            read.lock().unwrap().extend_from_slice(&bytes[..count]);
        }
    });
    let has = async |text: &str| String::from_utf8_lossy(&log.lock().unwrap()).contains(text);
    until("the number of dropped lines is logged", async || has("did not take them dropped=").await).await;
    signal(child.id() as i32, "TERM");
    until("the last lines are written", async || has("shutting down").await).await;
    child.wait().unwrap();
}
