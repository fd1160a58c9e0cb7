//! HTTP as it arrives on a connection.

use std::time::{Duration, Instant};

use futures::StreamExt;
use futures::stream::FuturesUnordered;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::support::{Api, sqlite};

/// Sends bytes on a connection of their own, and returns everything that the server sends until it closes the connection.
async fn send(api: &Api, bytes: &[u8]) -> String {
    let mut socket = TcpStream::connect(api.address.trim_start_matches("http://")).await.unwrap();
    socket.write_all(bytes).await.unwrap();
    let mut response = Vec::new();
    let _ = tokio::time::timeout(Duration::from_secs(60), socket.read_to_end(&mut response)).await.unwrap();
    String::from_utf8_lossy(&response).into_owned()
}

/// With prior knowledge, as `curl --http2-prior-knowledge` or a proxy that is configured for HTTP/2.
#[tokio::test]
async fn an_http2_connection_is_closed() {
    let api = Api::start(&sqlite().await).await;
    let empty_settings = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0";
    assert_eq!(send(&api, empty_settings).await, "");
}

/// Java's HttpClient offers HTTP/2 with each first request.
#[tokio::test]
async fn an_offer_to_upgrade_to_http2_is_ignored() {
    let api = Api::start(&sqlite().await).await;
    let token = api.token("", None);
    let offer = "Host: x\r\nConnection: Upgrade, HTTP2-Settings, close\r\nUpgrade: h2c\r\nHTTP2-Settings: AAEAAEAAAAIAAAABAAMAAABkAAQBAAAAAAUAAEAA\r\n";
    let offer = format!("Authorization: Bearer {token}\r\n{offer}");
    let body = "{\"query\":\"{ __typename }\"}";
    let post = format!("Content-Type: application/json\r\nContent-Length: {}\r\n\r\n{body}", body.len());
    for request in [
        format!("GET /graphql?query=%7B__typename%7D HTTP/1.1\r\n{offer}\r\n"),
        format!("POST /graphql HTTP/1.1\r\n{offer}{post}"),
    ] {
        let response = send(&api, request.as_bytes()).await;
        assert!(
            response.starts_with("HTTP/1.1 200") && response.ends_with("{\"data\":{\"__typename\":\"Query\"}}"),
            "{response}"
        );
    }
}

#[tokio::test]
async fn a_request_needs_exactly_one_host() {
    let api = Api::start(&sqlite().await).await;
    for (hosts, version, status) in [
        ("Host: a\r\n", "1.1", "200"),
        ("Host: a\r\nHost: b\r\n", "1.1", "400"),
        ("Host: a\r\nhost: a\r\n", "1.1", "400"),
        ("", "1.1", "400"),
        ("", "1.0", "200"),
        ("Host: a\r\nHost: b\r\n", "1.0", "400"),
    ] {
        let response =
            send(&api, format!("GET /health/live HTTP/{version}\r\n{hosts}Connection: close\r\n\r\n").as_bytes()).await;
        assert_eq!(response.get(9..12), Some(status), "{hosts:?} {version}: {response}");
    }
}

#[tokio::test]
async fn an_encoded_body_is_not_implemented() {
    let api = Api::start(&sqlite().await).await;
    let token = api.token("", None);
    let body = "1c\r\n{\"query\": \"{ __typename }\" }\r\n0\r\n\r\n";
    for (coding, status) in [
        ("Transfer-Encoding: chunked\r\n", "200"),
        ("Transfer-Encoding: Chunked\r\n", "200"),
        ("Transfer-Encoding: gzip, chunked\r\n", "501"),
        ("Transfer-Encoding: gzip\r\nTransfer-Encoding: chunked\r\n", "501"),
        ("Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n", "501"),
        ("Transfer-Encoding: identity, chunked\r\n", "501"),
        ("Transfer-Encoding: chunked, gzip\r\n", "400"),
        ("Transfer-Encoding: gzip\r\n", "400"),
    ] {
        let head = "POST /graphql HTTP/1.1\r\nHost: a\r\nConnection: close\r\nContent-Type: application/json";
        let request = format!("{head}\r\nAuthorization: Bearer {token}\r\n{coding}\r\n{body}");
        let response = send(&api, request.as_bytes()).await;
        assert_eq!(response.get(9..12), Some(status), "{coding}: {response}");
    }
}

#[tokio::test]
async fn a_body_is_charged_by_its_bytes_and_parts_even_if_it_is_refused() {
    let flags = ["--rate-limit", "1", "--max-complexity", "100", "--trusted-proxies", "1"];
    let api = Api::start_with(&sqlite().await, &flags).await;
    let send_twice = async |address: &str, chunk: &str, count: usize| {
        let head = "POST /graphql HTTP/1.1\r\nHost: a\r\nConnection: close\r\nContent-Type: application/json";
        let chunks = format!("{:x}\r\n{chunk}\r\n", chunk.len()).repeat(count);
        let request =
            format!("{head}\r\nX-Forwarded-For: {address}\r\nTransfer-Encoding: chunked\r\n\r\n{chunks}0\r\n\r\n");
        let statuses = [send(&api, request.as_bytes()).await, send(&api, request.as_bytes()).await];
        statuses.map(|response| response.get(9..12).unwrap_or_default().to_owned())
    };
    assert_eq!(send_twice("192.0.2.1", "x", 30).await, ["400", "400"]);
    assert_eq!(send_twice("192.0.2.2", &"x".repeat(32), 1_000).await, ["400", "429"]);
    for _ in 0..4 {
        send_twice("192.0.2.3", "x", 100).await;
    }
    assert_eq!(send_twice("192.0.2.3", "x", 100).await, ["429", "429"], "too many small parts: each costs 10 of 100");
    assert_eq!(send_twice("192.0.2.5", "x", 3_000).await, ["413", "413"], "too many small parts");
    assert_eq!(send_twice("192.0.2.4", &"x".repeat(1_000), 70).await, ["413", "429"], "too large");
}

#[tokio::test]
async fn an_idle_connection_is_closed() {
    let api = Api::start_with(&sqlite().await, &["--idle-timeout", "1s"]).await;
    let began = Instant::now();
    let response = send(&api, b"GET /health/live HTTP/1.1\r\nHost: a\r\n\r\n").await;
    assert!(response.starts_with("HTTP/1.1 200"), "{response}");
    assert!((1..9).contains(&began.elapsed().as_secs()), "{:?}", began.elapsed());
}

/// Each has got a response before, so that nothing but the time of the headers closes it.
#[tokio::test]
async fn headers_that_never_end_hold_few_connections_and_others_are_served() {
    let api = Api::start_with(&sqlite().await, &["--max-connections", "10", "--max-live-connections", "1"]).await;
    let hold = async || {
        let mut socket = TcpStream::connect(api.address.trim_start_matches("http://")).await.unwrap();
        socket.write_all(b"GET /health/live HTTP/1.1\r\nHost: a\r\n\r\n").await.unwrap();
        socket.read_exact(&mut [0; 12]).await.unwrap();
        socket.write_all(b"GET / HTTP/1.1\r\nX: ").await.unwrap();
        let _ = socket.read_to_end(&mut Vec::new()).await;
    };
    let mut held: FuturesUnordered<_> = (0..4).map(|_| hold()).collect();
    let closed = async {
        for _ in 0..3 {
            held.next().await.unwrap();
        }
    };
    tokio::time::timeout(Duration::from_secs(60), closed).await.expect("all but one are closed early");
    let whole = b"GET /health/live HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n";
    assert!(send(&api, whole).await.starts_with("HTTP/1.1 200"));
}

#[tokio::test]
async fn large_headers_are_refused() {
    let api = Api::start(&sqlite().await).await;
    let request = format!("GET /health/live HTTP/1.1\r\nHost: a\r\nX: {}\r\n\r\n", "x".repeat(200_000));
    let response = send(&api, request.as_bytes()).await;
    assert!(response.is_empty() || response.starts_with("HTTP/1.1 431"), "{response}");
}

#[tokio::test]
async fn files_of_pages_are_charged_to_their_address_and_compressed() {
    let flags = ["--rate-limit", "1", "--max-complexity", "100", "--trusted-proxies", "1"];
    let api = Api::start_with(&sqlite().await, &flags).await;
    let get = async |address: &str, encoding: &str| {
        let request = api.get("/graphiql/").header("x-forwarded-for", address).header("accept-encoding", encoding);
        request.send().await.unwrap()
    };
    let compressed = get("192.0.2.1", "br, gzip;q=0.5").await;
    if compressed.headers().contains_key("content-encoding") {
        assert_eq!(compressed.headers()["vary"], "accept-encoding");
        assert!(compressed.bytes().await.unwrap().starts_with(&[0x1f, 0x8b]));
    }
    let plain = get("192.0.2.1", "gzip;q=0").await;
    assert!(!plain.headers().contains_key("content-encoding"));
    assert!(plain.text().await.unwrap().contains("<html"));
    let mut status = 200;
    for _ in 0..10 {
        status = get("192.0.2.1", "identity").await.status().as_u16();
    }
    assert_eq!(status, 429);
    assert_eq!(get("192.0.2.2", "identity").await.status(), 200, "other addresses are not limited");
}
