//! One open WebSocket: its operations, its deadlines and its end.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use async_graphql::{Response, ServerError};
use axum::extract::ws::{CloseFrame, Message, WebSocket};
use futures::future::{AbortHandle, Abortable};
use futures::stream::{BoxStream, SelectAll};
use futures::{StreamExt, stream};
use serde_json::Value;
use tokio::time::{MissedTickBehavior, interval, sleep_until, timeout};
use tower_http::request_id::RequestId;
use tracing::info;

use super::protocol::{self, ClientMessage, CloseReason, ServerMessage};
use crate::edge::access_log::OperationLog;
use crate::edge::caller::{Caller, parse_bearer};
use crate::edge::executor::token_expiry;
use crate::edge::quota::Permit;
use crate::edge::request::Parameters;
use crate::edge::{Edge, refusal, request_id};

/// Time for a client to send `connection_init`.
const INIT_TIMEOUT: Duration = Duration::from_secs(5);
/// Interval between pings. A client that sends nothing for two intervals is gone.
const PING_INTERVAL: Duration = Duration::from_secs(10);
/// Time for a client to read a message.
const SEND_TIMEOUT: Duration = Duration::from_secs(10);
/// Time for a client to answer the closing handshake.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(2);
/// Longest id of an operation, in bytes.
const MAX_ID: usize = 128;

/// Why a connection ends.
enum End {
    Close(CloseReason),
    Disconnected,
}

impl From<CloseReason> for End {
    fn from(reason: CloseReason) -> End {
        End::Close(reason)
    }
}

pub struct Connection {
    edge: Arc<Edge>,
    socket: WebSocket,
    caller: Caller,
    /// The id of the request that opened the WebSocket.
    request_id: RequestId,
    permit: Permit,
    /// Whether `connection_init` was accepted.
    initialised: bool,
    operations: HashMap<String, ActiveOperation>,
    /// Results by operation id; `None` after the last.
    results: SelectAll<BoxStream<'static, (String, Option<Response>)>>,
    last_message: Instant,
}

struct ActiveOperation {
    log: OperationLog,
    abort: AbortHandle,
}

impl Connection {
    pub fn new(edge: Arc<Edge>, socket: WebSocket, caller: Caller, request_id: RequestId, permit: Permit) -> Self {
        Connection {
            edge,
            socket,
            caller,
            request_id,
            permit,
            initialised: false,
            operations: HashMap::new(),
            results: SelectAll::new(),
            last_message: Instant::now(),
        }
    }

    pub async fn serve(mut self) {
        let end = self.run().await;
        self.operations.clear();
        let _ = timeout(CLOSE_TIMEOUT, async {
            if let Err(End::Close(CloseReason(code, reason))) = end {
                let close = Message::Close(Some(CloseFrame { code, reason: reason.into() }));
                let _ = self.socket.send(close).await;
            }
            // Reading to the end also answers a close frame of the client.
            while let Some(Ok(_)) = self.socket.recv().await {}
        })
        .await;
    }

    /// Runs until the connection ends.
    async fn run(&mut self) -> Result<(), End> {
        if self.socket.protocol().is_none() {
            return Err(protocol::SUBPROTOCOL_NOT_ACCEPTABLE.into());
        }
        let shutdown = self.edge.shutdown.clone();
        let init_deadline = tokio::time::Instant::now() + INIT_TIMEOUT;
        let mut ping = interval(PING_INTERVAL);
        ping.set_missed_tick_behavior(MissedTickBehavior::Delay);
        ping.reset();
        loop {
            let only_subscriptions = self.operations.values().all(|operation| operation.log.info.is_subscription());
            tokio::select! {
                message = self.socket.recv() => match message {
                    Some(Ok(message)) => {
                        self.last_message = Instant::now();
                        self.on_message(message).await?;
                    }
                    Some(Err(_)) | None => return Err(End::Disconnected),
                },
                Some((id, result)) = self.results.next() => self.on_result(id, result).await?,
                () = token_expiry(self.caller.expires()) => return Err(protocol::FORBIDDEN.into()),
                () = sleep_until(init_deadline), if !self.initialised => return Err(protocol::INIT_TIMEOUT.into()),
                // Queries and mutations finish first.
                () = shutdown.cancelled(), if only_subscriptions => return Err(protocol::GOING_AWAY.into()),
                _ = ping.tick() => {
                    if self.last_message.elapsed() > 2 * PING_INTERVAL {
                        return Err(End::Disconnected);
                    }
                    self.send_frame(Message::Ping(Default::default())).await?;
                }
            }
        }
    }

    async fn on_message(&mut self, message: Message) -> Result<(), End> {
        let text = match message {
            Message::Text(text) => text,
            Message::Binary(_) => return Err(protocol::INVALID_MESSAGE.into()),
            Message::Ping(_) | Message::Pong(_) => return Ok(()),
            Message::Close(_) => return Err(End::Disconnected),
        };
        if text.len() > self.edge.limits.max_body_bytes {
            return Err(protocol::TOO_BIG.into());
        }
        match serde_json::from_str(&text).map_err(|_| protocol::INVALID_MESSAGE)? {
            ClientMessage::ConnectionInit { payload } => self.on_connection_init(payload).await,
            ClientMessage::Ping => self.send(ServerMessage::Pong).await,
            ClientMessage::Pong => Ok(()),
            ClientMessage::Subscribe { id, payload } => match self.on_subscribe(&id, payload)? {
                Ok(()) => Ok(()),
                Err(errors) => self.send(ServerMessage::Error { id: &id, payload: &errors }).await,
            },
            ClientMessage::Complete { id } => {
                if let Some(operation) = self.operations.remove(&id) {
                    operation.abort.abort();
                }
                Ok(())
            }
        }
    }

    async fn on_connection_init(&mut self, payload: Value) -> Result<(), End> {
        if self.initialised {
            return Err(protocol::TOO_MANY_INITS.into());
        }
        let payload = match payload {
            Value::Null => Default::default(),
            Value::Object(payload) => payload,
            _ => return Err(protocol::INVALID_MESSAGE.into()),
        };
        // Browsers cannot set the header of the request, so the token may be in the payload.
        if let Some((_, token)) = payload.iter().find(|(name, _)| name.eq_ignore_ascii_case("authorization")) {
            self.caller.identity = match token.as_str().and_then(parse_bearer) {
                Some(bearer) => self.edge.authenticator.authenticate(bearer.token()).await.ok(),
                None => None,
            };
            self.permit.move_to(self.caller.quota_key()).map_err(|_| protocol::TRY_AGAIN_LATER)?;
        }
        // An anonymous caller has nothing to subscribe to.
        if self.caller.identity.is_none() {
            return Err(protocol::FORBIDDEN.into());
        }
        self.initialised = true;
        self.send(ServerMessage::ConnectionAck).await
    }

    /// Starts an operation. The inner error refuses it, the outer error ends the connection.
    fn on_subscribe(&mut self, id: &str, payload: Value) -> Result<Result<(), Vec<ServerError>>, End> {
        if !self.initialised {
            return Err(protocol::UNAUTHORIZED.into());
        }
        if id.is_empty() || id.len() > MAX_ID {
            return Err(protocol::INVALID_MESSAGE.into());
        }
        if self.operations.contains_key(id) {
            return Err(protocol::SUBSCRIBER_EXISTS.into());
        }
        let parameters = Parameters::from_value(payload).map_err(|_| protocol::INVALID_MESSAGE)?;
        let max = self.edge.limits.max_streams;
        if self.operations.len() >= max {
            let message = format!("This connection has {max} active operations. Complete one first.");
            return Ok(Err(vec![refusal::error("MAX_STREAMS_LIMIT", message, None)]));
        }
        let prepared = match self.edge.executor.prepare(parameters, &self.caller) {
            Ok(prepared) => prepared,
            Err(refusal) => {
                let errors = refusal.errors();
                let code = errors.first().and_then(refusal::code);
                info!(code, transport = "websocket", request_id = request_id::as_str(&self.request_id), "refused");
                return Ok(Err(errors));
            }
        };
        let log = OperationLog::new(prepared.info.clone(), self.request_id.clone(), "websocket");
        let (abort, registration) = AbortHandle::new_pair();
        let operation_id = id.to_owned();
        let results = self.edge.executor.stream(prepared).map(Some).chain(stream::iter([None]));
        let results = results.map(move |result| (operation_id.clone(), result));
        self.results.push(Abortable::new(results, registration).boxed());
        self.operations.insert(id.to_owned(), ActiveOperation { log, abort });
        Ok(Ok(()))
    }

    async fn on_result(&mut self, id: String, result: Option<Response>) -> Result<(), End> {
        match result {
            Some(result) => self.send(ServerMessage::Next { id: &id, payload: &result }).await,
            None => {
                self.operations.remove(&id);
                self.send(ServerMessage::Complete { id: &id }).await
            }
        }
    }

    async fn send(&mut self, message: ServerMessage<'_>) -> Result<(), End> {
        // Serialisation cannot fail: all parts are valid JSON.
        let text = serde_json::to_string(&message).map_err(|_| End::Disconnected)?;
        self.send_frame(Message::Text(text.into())).await
    }

    async fn send_frame(&mut self, message: Message) -> Result<(), End> {
        match timeout(SEND_TIMEOUT, self.socket.send(message)).await {
            Ok(Ok(())) => Ok(()),
            _ => Err(End::Disconnected),
        }
    }
}
