//! Messages on a WebSocket of their own.

use futures::{SinkExt, StreamExt};
use serde_json::Value;
use tokio_tungstenite::connect_async;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::client::IntoClientRequest;

use crate::check_errors;
use crate::service::Service;

const MAX_MESSAGES: usize = 32;
/// Codes that the service may close a WebSocket with: too big, and those of the protocol.
const TOO_BIG: u16 = 1009;
const OF_PROTOCOL: std::ops::Range<u16> = 4400..4500;
/// The payload of the last ping. Its pong comes when the service has read all messages.
const LAST: &[u8] = b"last";

/// Sends each line as a message, and reads until the service has read them all. Returns the number of messages.
pub async fn send(service: &Service, lines: &[u8]) -> u32 {
    let mut request = format!("ws://{}/graphql", service.address).into_client_request().unwrap();
    request.headers_mut().insert("authorization", service.authorization.parse().unwrap());
    request.headers_mut().insert("sec-websocket-protocol", "graphql-transport-ws".parse().unwrap());
    let (socket, _) = connect_async(request).await.unwrap();
    let (mut sender, mut receiver) = socket.split();
    let lines: Vec<_> = lines.split(|byte| *byte == b'\n').take(MAX_MESSAGES).collect();
    let messages = lines.iter().map(|line| match std::str::from_utf8(line) {
        Ok(text) => Message::text(text),
        Err(_) => Message::binary(line.to_vec()),
    });
    let send = async {
        for message in messages.chain([Message::Ping(LAST.into())]) {
            // The service may have closed the connection.
            let _ = sender.send(message).await;
        }
    };
    let receive = async {
        while let Some(Ok(message)) = receiver.next().await {
            match message {
                Message::Text(text) => check(&text),
                Message::Close(Some(frame)) => {
                    let code = u16::from(frame.code);
                    assert!(code == TOO_BIG || OF_PROTOCOL.contains(&code), "closed with {code}: {}", frame.reason);
                }
                Message::Pong(payload) if payload == LAST => break,
                _ => {}
            }
        }
    };
    tokio::join!(send, receive);
    lines.len() as u32 + 1
}

fn check(message: &str) {
    let message: Value = serde_json::from_str(message).expect("a message is not JSON");
    let errors = match message["type"].as_str().expect("a message has no type") {
        "error" => &message["payload"],
        _ => &message["payload"]["errors"],
    };
    check_errors(errors.as_array().into_iter().flatten());
}
