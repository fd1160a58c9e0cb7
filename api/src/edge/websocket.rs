//! GraphQL over WebSocket, subprotocol `graphql-transport-ws`:
//! <https://github.com/enisdenjo/graphql-ws/blob/master/PROTOCOL.md>.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use async_graphql::{Response as Answer, ServerError};
use axum::extract::ws::{CloseFrame, Message, WebSocket, WebSocketUpgrade};
use axum::http::HeaderMap;
use axum::http::header::{HOST, ORIGIN};
use axum::response::Response;
use futures::future::{AbortHandle, Abortable};
use futures::stream::{BoxStream, SelectAll};
use futures::{StreamExt, stream};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use tokio::time::{MissedTickBehavior, interval, sleep_until, timeout};
use tracing::info;

use super::access_log::{RequestId, Underway};
use super::response::{self, MediaType, Outcome};
use super::{Edge, LiveConnection, bearer, parameters};
use crate::edge::executor::{NEW_COST, expiry};
use crate::edge::quota::{Caller, Key};
use crate::edge::refusal;

const PROTOCOL: &str = "graphql-transport-ws";
/// How long a client may take to introduce itself.
const INIT_TIMEOUT: Duration = Duration::from_secs(5);
/// How often the client is asked whether it is still there. One that has been silent for two of these is gone.
const PING: Duration = Duration::from_secs(10);
/// How long a client may take to read what it is sent.
const SEND_TIMEOUT: Duration = Duration::from_secs(10);
/// How long a client may take to agree that the socket is closed.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(2);
/// Longest id of an operation, in bytes.
const MAX_ID: usize = 128;
/// Most sockets are idle: their buffers are small, and grow when they must.
const BUFFER: usize = 1024;

/// Why a socket is closed: a code of the protocol, or of RFC 6455.
struct Closing(u16, &'static str);

const GOING_AWAY: Closing = Closing(1001, "The service stops");
const TRY_AGAIN_LATER: Closing = Closing(1013, "Too many connections");
const TOO_BIG: Closing = Closing(1009, "Message too big");
const INVALID_MESSAGE: Closing = Closing(4400, "Invalid message");
const UNAUTHORIZED: Closing = Closing(4401, "Unauthorized");
/// Clients connect again after this one, maybe with another token.
const FORBIDDEN: Closing = Closing(4403, "Forbidden");
const OTHER_PROTOCOL: Closing = Closing(4406, "Subprotocol not acceptable");
const NO_INIT: Closing = Closing(4408, "Connection initialisation timeout");
const SUBSCRIBER_EXISTS: Closing = Closing(4409, "Subscriber already exists");
const SECOND_INIT: Closing = Closing(4429, "Too many initialisation requests");

#[derive(Deserialize)]
#[serde(tag = "type", rename_all = "snake_case")]
enum FromClient {
    ConnectionInit {
        #[serde(default)]
        payload: Value,
    },
    Ping,
    Pong,
    Subscribe {
        id: String,
        payload: Value,
    },
    Complete {
        id: String,
    },
}

/// Its fields keep their order: those of answers are as they were asked for.
#[derive(Serialize)]
#[serde(tag = "type", rename_all = "snake_case")]
enum FromServer<'a> {
    ConnectionAck,
    Pong,
    Next { id: &'a str, payload: &'a Answer },
    Error { id: &'a str, payload: &'a [ServerError] },
    Complete { id: &'a str },
}

pub async fn open(
    edge: Arc<Edge>,
    headers: HeaderMap,
    peer: SocketAddr,
    id: RequestId,
    upgrade: WebSocketUpgrade,
) -> Response {
    let media_type = MediaType::Json;
    if !is_own_or_allowed(&edge, &headers) {
        let message = "Pages of this origin may not call this service.";
        return response::error(media_type, Outcome::Forbidden, "FORBIDDEN", message);
    }
    let caller = match edge.caller(&headers, peer, media_type).await {
        Ok(caller) => caller,
        Err(response) => return response,
    };
    // Whose it is may only be known later: the opening is charged to where it comes from.
    let charged = edge.executor.charge(&Key::of_address(caller.address), NEW_COST);
    let open = match charged.and_then(|()| edge.live_connection(&caller)) {
        Ok(open) => open,
        Err(refused) => return response::not_executed(media_type, refused),
    };
    let max = edge.limits.max_body_bytes;
    let upgrade = upgrade.protocols([PROTOCOL]).read_buffer_size(BUFFER).write_buffer_size(BUFFER);
    // What is too big but not absurd gets a proper close code.
    upgrade.max_message_size(max.saturating_mul(4)).max_frame_size(max.saturating_mul(4)).on_upgrade(
        async move |socket| {
            let sockets = edge.sockets.clone();
            let connection = Connection {
                edge,
                socket,
                caller,
                id,
                open,
                introduced: false,
                running: HashMap::new(),
                answers: SelectAll::new(),
                heard: Instant::now(),
            };
            sockets.track_future(connection.serve()).await;
        },
    )
}

/// Browsers let any page open a WebSocket, and tell whose page it is.
fn is_own_or_allowed(edge: &Edge, headers: &HeaderMap) -> bool {
    let Some(origin) = headers.get(ORIGIN) else { return true };
    let own = headers.get(HOST).and_then(|host| host.to_str().ok());
    let from = origin.to_str().ok().and_then(|origin| origin.split_once("://")).map(|(_, host)| host);
    edge.settings.allows_any_origin() || edge.settings.cors_origins.contains(origin) || (own.is_some() && own == from)
}

struct Connection {
    edge: Arc<Edge>,
    socket: WebSocket,
    caller: Caller,
    /// Of the request that opened it.
    id: RequestId,
    open: LiveConnection,
    /// Whether the client may ask for operations.
    introduced: bool,
    running: HashMap<String, Running>,
    /// What operations answer; `None` after the last.
    answers: SelectAll<BoxStream<'static, (String, Option<Answer>)>>,
    /// When the client last sent anything.
    heard: Instant,
}

struct Running {
    underway: Underway,
    abort: AbortHandle,
}

impl Connection {
    async fn serve(mut self) {
        let closing = self.talk().await;
        self.running.clear();
        let _ = timeout(CLOSE_TIMEOUT, async {
            // Whoever hung up or fell silent need not be told why.
            if let Err(Some(Closing(code, reason))) = closing {
                let close = Message::Close(Some(CloseFrame { code, reason: reason.into() }));
                let _ = self.socket.send(close).await;
            }
            // Reading to the end is what sends the answer to the client's own close.
            while let Some(Ok(_)) = self.socket.recv().await {}
        })
        .await;
    }

    /// Until the socket is to be closed, or is gone.
    async fn talk(&mut self) -> Result<(), Option<Closing>> {
        if self.socket.protocol().is_none() {
            return Err(Some(OTHER_PROTOCOL));
        }
        let shutdown = self.edge.shutdown.clone();
        let init_deadline = tokio::time::Instant::now() + INIT_TIMEOUT;
        let mut ping = interval(PING);
        ping.set_missed_tick_behavior(MissedTickBehavior::Delay);
        ping.reset();
        loop {
            let is_idle = self.running.values().all(|running| running.underway.operation.is_subscription());
            tokio::select! {
                message = self.socket.recv() => match message {
                    Some(Ok(message)) => {
                        self.heard = Instant::now();
                        self.hear(message).await?;
                    }
                    Some(Err(_)) | None => return Err(None),
                },
                Some((id, answer)) = self.answers.next() => self.tell(id, answer).await?,
                () = expiry(self.caller.expires()) => return Err(Some(FORBIDDEN)),
                () = sleep_until(init_deadline), if !self.introduced => return Err(Some(NO_INIT)),
                // What was asked for is answered first.
                () = shutdown.cancelled(), if is_idle => return Err(Some(GOING_AWAY)),
                _ = ping.tick() => {
                    if self.heard.elapsed() > 2 * PING {
                        return Err(None);
                    }
                    self.send(Message::Ping(Default::default())).await?;
                }
            }
        }
    }

    async fn hear(&mut self, message: Message) -> Result<(), Option<Closing>> {
        let text = match message {
            Message::Text(text) => text,
            Message::Binary(_) => return Err(Some(INVALID_MESSAGE)),
            Message::Ping(_) | Message::Pong(_) => return Ok(()),
            Message::Close(_) => return Err(None),
        };
        if text.len() > self.edge.limits.max_body_bytes {
            return Err(Some(TOO_BIG));
        }
        match serde_json::from_str(&text).map_err(|_| Some(INVALID_MESSAGE))? {
            FromClient::ConnectionInit { payload } => self.introduce(payload).await,
            FromClient::Ping => self.say(FromServer::Pong).await,
            FromClient::Pong => Ok(()),
            FromClient::Subscribe { id, payload } => match self.subscribe(&id, payload)? {
                Ok(()) => Ok(()),
                Err(errors) => self.say(FromServer::Error { id: &id, payload: &errors }).await,
            },
            FromClient::Complete { id } => {
                if let Some(running) = self.running.remove(&id) {
                    running.abort.abort();
                }
                Ok(())
            }
        }
    }

    async fn introduce(&mut self, payload: Value) -> Result<(), Option<Closing>> {
        if self.introduced {
            return Err(Some(SECOND_INIT));
        }
        let payload = match payload {
            Value::Null => Default::default(),
            Value::Object(payload) => payload,
            _ => return Err(Some(INVALID_MESSAGE)),
        };
        // It may have come with the request as well: browsers cannot send it there.
        if let Some((_, token)) = payload.iter().find(|(name, _)| name.eq_ignore_ascii_case("authorization")) {
            let identity = match token.as_str().and_then(bearer) {
                Some(token) => self.edge.authenticator.authenticate(token).await.ok(),
                None => None,
            };
            self.caller.identity = identity;
            self.open.share = self.edge.connections.take(self.caller.key()).ok_or(Some(TRY_AGAIN_LATER))?;
        }
        // Nobody has anything to watch.
        if self.caller.identity.is_none() {
            return Err(Some(FORBIDDEN));
        }
        self.introduced = true;
        self.say(FromServer::ConnectionAck).await
    }

    /// Begins an operation; or tells what is wrong with it.
    fn subscribe(&mut self, id: &str, payload: Value) -> Result<Result<(), Vec<ServerError>>, Option<Closing>> {
        if !self.introduced {
            return Err(Some(UNAUTHORIZED));
        }
        if id.is_empty() || id.len() > MAX_ID {
            return Err(Some(INVALID_MESSAGE));
        }
        if self.running.contains_key(id) {
            return Err(Some(SUBSCRIBER_EXISTS));
        }
        let parameters = parameters::from_value(payload).map_err(|_| Some(INVALID_MESSAGE))?;
        let max = self.edge.limits.max_streams;
        if self.running.len() >= max {
            let message = format!("There are {max} operations under way on this connection. Complete one first.");
            return Ok(Err(vec![refusal::error("MAX_STREAMS_LIMIT", message, None)]));
        }
        let prepared = match self.edge.executor.prepare(parameters, &self.caller) {
            Ok(prepared) => prepared,
            Err(refusal) => {
                let errors = refusal.errors();
                let code = errors.first().and_then(refusal::code);
                info!(code, transport = "websocket", request_id = self.id.0, "refused");
                return Ok(Err(errors));
            }
        };
        let underway = Underway::new(prepared.operation.clone(), self.id.clone(), "websocket");
        let (abort, registration) = AbortHandle::new_pair();
        let of = id.to_owned();
        let answers = self.edge.executor.stream(prepared).map(Some).chain(stream::iter([None]));
        self.answers.push(Abortable::new(answers.map(move |answer| (of.clone(), answer)), registration).boxed());
        self.running.insert(id.to_owned(), Running { underway, abort });
        Ok(Ok(()))
    }

    async fn tell(&mut self, id: String, answer: Option<Answer>) -> Result<(), Option<Closing>> {
        match answer {
            Some(answer) => self.say(FromServer::Next { id: &id, payload: &answer }).await,
            None => {
                self.running.remove(&id);
                self.say(FromServer::Complete { id: &id }).await
            }
        }
    }

    async fn say(&mut self, message: FromServer<'_>) -> Result<(), Option<Closing>> {
        // Every part of it is JSON.
        let text = serde_json::to_string(&message).map_err(|_| None)?;
        self.send(Message::Text(text.into())).await
    }

    async fn send(&mut self, message: Message) -> Result<(), Option<Closing>> {
        match timeout(SEND_TIMEOUT, self.socket.send(message)).await {
            Ok(Ok(())) => Ok(()),
            _ => Err(None),
        }
    }
}
