//! One open WebSocket: its operations, its deadlines and its end.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use async_graphql::ServerError;
use axum::extract::ws::{CloseFrame, Message, WebSocket};
use futures::StreamExt;
use futures::future::{AbortHandle, Abortable};
use futures::stream::{BoxStream, SelectAll};
use runtime::http::stream::Received;
use runtime::logging::LogContext;
use serde_json::value::RawValue;
use serde_json::{Map, Value};
use tokio::time::{Instant, Interval, MissedTickBehavior, interval, sleep_until, timeout};

use super::max_message_size;
use super::operation::{Progress, run};
use super::protocol::{self, ClientMessage, CloseReason, MessageKind, ServerMessage};
use crate::edge::access_log::{OperationLog, closed_websocket, refused_on_websocket};
use crate::edge::body::{BODY_DEADLINE, BYTES_PER_POINT};
use crate::edge::caller::{Caller, parse_bearer};
use crate::edge::executor::{VALIDATION_COST, token_expiry};
use crate::edge::quota::Permit;
use crate::edge::refusal::Refusal;
use crate::edge::request::Parameters;
use crate::edge::{Edge, refusal};
use crate::metrics::{self, LiveConnection};

/// Time for a client to send `connection_init`.
const INIT_TIMEOUT: Duration = Duration::from_secs(5);
/// Interval between pings. A client that sends nothing for two intervals is gone.
const PING_INTERVAL: Duration = Duration::from_secs(10);
/// Maximum time to send a frame.
const SEND_TIMEOUT: Duration = Duration::from_secs(10);
/// Time for a client to send the rest of a large message, as for the body of a request.
const MESSAGE_TIMEOUT: Duration = BODY_DEADLINE;
/// Maximum time for the closing handshake.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(2);
/// Shortest pause before a caller without quota is charged again.
const MIN_PAUSE: Duration = Duration::from_millis(100);
/// Messages up to this size need no reserved memory, in bytes.
const SMALL_MESSAGE: usize = 8 * 1024;
/// Longest id of an operation, in bytes.
const MAX_ID: usize = 128;

/// Why a connection ends.
enum Disconnect {
    /// The server closes it.
    Close(CloseReason),
    /// The client closed it with this code.
    Closed(u16),
    /// It failed, or the client is gone.
    Lost,
}

impl From<CloseReason> for Disconnect {
    fn from(reason: CloseReason) -> Disconnect {
        Disconnect::Close(reason)
    }
}

/// The quotas that an open WebSocket uses.
pub struct Permits {
    pub connection: Permit,
    /// Until `connection_init` is accepted.
    pub uninitialised: Permit,
}

pub struct Connection {
    edge: Arc<Edge>,
    socket: WebSocket,
    caller: Caller,
    /// Of the request that opened the WebSocket. Each operation has its own.
    context: LogContext,
    opened: Instant,
    /// How many operations were started, or refused because of their parameters.
    operation_count: usize,
    permit: Permit,
    /// Dropped when `connection_init` is accepted.
    uninitialised: Option<Permit>,
    /// All bytes, also of frames that are not a whole message.
    received: Received,
    /// Received bytes that are not charged, because they are too few.
    uncharged: usize,
    /// The cost of the last messages, and when to try again to charge it. The next message is not read before.
    unpaid: Option<(usize, Instant)>,
    operations: HashMap<String, ActiveOperation>,
    /// Progress by operation id.
    progress: SelectAll<BoxStream<'static, (String, Progress)>>,
    last_message: Instant,
    /// Until when the rest of a large message must arrive.
    message_deadline: Option<Instant>,
    /// For the buffers of the socket, if it has had a large message in either direction.
    memory: Option<Permit>,
    /// Whether the client has not answered the last ping yet. The pong is free.
    awaits_pong: bool,
}

struct ActiveOperation {
    /// `None` while it is validated.
    log: Option<OperationLog>,
    abort: AbortHandle,
}

impl Connection {
    pub fn new(
        edge: Arc<Edge>,
        socket: WebSocket,
        received: Received,
        caller: Caller,
        context: LogContext,
        permits: Permits,
    ) -> Self {
        Connection {
            edge,
            socket,
            caller,
            context,
            opened: Instant::now(),
            operation_count: 0,
            permit: permits.connection,
            uninitialised: Some(permits.uninitialised),
            received,
            uncharged: 0,
            unpaid: None,
            operations: HashMap::new(),
            progress: SelectAll::new(),
            last_message: Instant::now(),
            message_deadline: None,
            memory: None,
            awaits_pong: false,
        }
    }

    pub async fn serve(mut self) {
        let _counted = LiveConnection::open("websocket");
        let context = self.context.clone();
        let disconnect = context.clone().scope(self.run()).await;
        // Dropping the operations logs them now, before the closing handshake.
        self.operations.clear();
        let (code, closed_by) = match &disconnect {
            Disconnect::Close(CloseReason(code, _)) => (*code, "server"),
            Disconnect::Closed(code) => (*code, "client"),
            Disconnect::Lost => (protocol::ABNORMAL, "nobody"),
        };
        closed_websocket(&context, code, closed_by, self.operation_count, self.opened.into_std());
        let _ = timeout(CLOSE_TIMEOUT, async {
            if let Disconnect::Close(CloseReason(code, reason)) = disconnect {
                let close = Message::Close(Some(CloseFrame { code, reason: reason.into() }));
                let _ = self.socket.send(close).await;
            }
            // The handshake is complete when nothing more can be read. Reading also replies to a close frame of the client.
            // Little of it: nothing is charged any more.
            while let Some(Ok(_)) = self.socket.recv().await {}
        })
        .await;
    }

    /// Runs until the connection ends.
    async fn run(&mut self) -> Disconnect {
        if self.socket.protocol().is_none() {
            return protocol::SUBPROTOCOL_NOT_ACCEPTABLE.into();
        }
        let init_deadline = Instant::now() + INIT_TIMEOUT;
        let mut ping = interval(PING_INTERVAL);
        ping.set_missed_tick_behavior(MissedTickBehavior::Delay);
        ping.reset();
        loop {
            if let Err(disconnect) = self.process_next(init_deadline, &mut ping).await {
                return disconnect;
            }
        }
    }

    /// Waits for the next message, result or deadline, and processes it.
    async fn process_next(&mut self, init_deadline: Instant, ping: &mut Interval) -> Result<(), Disconnect> {
        let only_subscriptions = self.has_only_subscriptions();
        let (pay_at, message_deadline) = (self.unpaid.map(|(_, at)| at), self.message_deadline);
        tokio::select! {
            message = self.socket.recv(), if pay_at.is_none() => match message {
                Some(Ok(message)) => {
                    self.last_message = Instant::now();
                    if !matches!(message, Message::Ping(_) | Message::Pong(_)) {
                        self.message_deadline = None;
                    }
                    let is_free = matches!(message, Message::Pong(_)) && std::mem::take(&mut self.awaits_pong);
                    self.charge(usize::from(!is_free));
                    self.on_message(message).await
                }
                Some(Err(_)) | None => Err(Disconnect::Lost),
            },
            () = self.received.full(), if pay_at.is_none() => self.on_part(),
            () = sleep_until(message_deadline.unwrap_or(init_deadline)), if message_deadline.is_some() => {
                Err(protocol::TOO_SLOW.into())
            }
            () = sleep_until(pay_at.unwrap_or(init_deadline)), if pay_at.is_some() => {
                self.last_message = Instant::now();
                self.charge(0);
                Ok(())
            }
            Some((id, progress)) = self.progress.next() => self.on_progress(id, progress).await,
            () = token_expiry(self.caller.expires()) => Err(protocol::FORBIDDEN.into()),
            () = sleep_until(init_deadline), if self.uninitialised.is_some() => Err(protocol::INIT_TIMEOUT.into()),
            // Queries and mutations finish first.
            () = self.edge.shutdown.cancelled(), if only_subscriptions => Err(protocol::GOING_AWAY.into()),
            _ = ping.tick() => {
                if pay_at.is_none() && self.last_message.elapsed() > 2 * PING_INTERVAL {
                    return Err(Disconnect::Lost);
                }
                self.awaits_pong = true;
                self.send_frame(Message::Ping(Default::default())).await
            }
        }
    }

    fn has_only_subscriptions(&self) -> bool {
        let mut logs = self.operations.values().map(|operation| operation.log.as_ref());
        logs.all(|log| log.is_some_and(|log| log.info.is_subscription()))
    }

    /// A part of a large message has arrived, or frames that never become one.
    fn on_part(&mut self) -> Result<(), Disconnect> {
        self.last_message = Instant::now();
        self.message_deadline.get_or_insert(self.last_message + MESSAGE_TIMEOUT);
        self.hold_memory(max_message_size(&self.edge.limits))?;
        self.charge(0);
        Ok(())
    }

    /// Reserves memory for a message of this many bytes, unless the connection holds enough.
    fn hold_memory(&mut self, size: usize) -> Result<(), Disconnect> {
        if size > self.memory.as_ref().map_or(SMALL_MESSAGE, Permit::units) {
            let permit = self.edge.socket_memory.acquire_units(self.caller.quota_key(), size);
            self.memory = Some(permit.map_err(|_| protocol::TOO_MANY_LARGE_MESSAGES)?);
        }
        Ok(())
    }

    async fn on_message(&mut self, message: Message) -> Result<(), Disconnect> {
        let text = match message {
            Message::Text(text) => text,
            Message::Binary(_) => return Err(protocol::INVALID_MESSAGE.into()),
            Message::Ping(_) | Message::Pong(_) => return Ok(()),
            Message::Close(frame) => {
                return Err(Disconnect::Closed(frame.map_or(protocol::NO_CODE, |frame| frame.code)));
            }
        };
        if text.len() > self.edge.limits.max_body_bytes {
            return Err(protocol::TOO_BIG.into());
        }
        let message = ClientMessage::parse(&text).ok_or(protocol::INVALID_MESSAGE)?;
        let id = match message.id() {
            Ok(id) => id,
            Err(raw) => return self.on_unreadable_id(&message.kind, raw).await,
        };
        match (&message.kind, &id) {
            (MessageKind::ConnectionInit, _) => self.on_connection_init(message.payload()).await,
            (MessageKind::Ping, _) => self.send(ServerMessage::Pong).await,
            (MessageKind::Pong, _) => Ok(()),
            (MessageKind::Subscribe, Some(id)) => match self.on_subscribe(id, message.payload())? {
                Ok(()) => Ok(()),
                Err(errors) => {
                    metrics::count_rejected(&errors);
                    self.send(ServerMessage::Error { id, payload: &errors }).await
                }
            },
            (MessageKind::Complete, Some(id)) => {
                if let Some(operation) = self.operations.remove(id) {
                    operation.abort.abort();
                }
                Ok(())
            }
            (MessageKind::Subscribe | MessageKind::Complete, None) => Err(protocol::INVALID_MESSAGE.into()),
        }
    }

    /// No operation can have this id. That does not end the others.
    async fn on_unreadable_id(&mut self, kind: &MessageKind, id: &RawValue) -> Result<(), Disconnect> {
        if self.uninitialised.is_some() || !id.get().starts_with('"') || id.get().len() > MAX_ID {
            return Err(protocol::INVALID_MESSAGE.into());
        }
        if !matches!(kind, MessageKind::Subscribe) {
            return Ok(());
        }
        self.charge(VALIDATION_COST);
        let payload = Refusal::bad_request("The `id` is not valid Unicode.").errors();
        refused_on_websocket(&self.operation_context(), &payload);
        metrics::count_rejected(&payload);
        self.send(ServerMessage::UnreadableId { id, payload: &payload }).await
    }

    /// Charges this cost and the received bytes to the caller. While its quota is used up, nothing is read from the socket: the
    /// client has to wait, and everything else on the connection goes on.
    fn charge(&mut self, cost: usize) {
        self.uncharged += self.received.take();
        let cost = cost + self.uncharged / BYTES_PER_POINT + self.unpaid.map_or(0, |(cost, _)| cost);
        self.uncharged %= BYTES_PER_POINT;
        self.unpaid = match self.edge.executor.charge(&self.caller.quota_key(), cost) {
            Err(Refusal::RateLimited(wait)) => Some((cost, Instant::now() + wait.max(MIN_PAUSE))),
            Ok(()) | Err(_) => None,
        };
    }

    async fn on_connection_init(&mut self, payload: &str) -> Result<(), Disconnect> {
        if self.uninitialised.is_none() {
            return Err(protocol::TOO_MANY_INITS.into());
        }
        let payload: Option<Map<String, Value>> =
            serde_json::from_str(payload).map_err(|_| protocol::INVALID_MESSAGE)?;
        let payload = payload.unwrap_or_default();
        // Browsers cannot set the header of the request, so the token may be in the payload.
        if let Some((_, token)) = payload.iter().find(|(name, _)| name.eq_ignore_ascii_case("authorization")) {
            let credentials =
                token.as_str().and_then(parse_bearer).ok_or("`Authorization` is not `Bearer` and a token");
            self.caller.identity = self.edge.authenticate(credentials, self.caller.address).await.ok();
            if let Some(identity) = &self.caller.identity {
                self.context.set_subject(&identity.subject);
            }
            self.permit.move_to(self.caller.quota_key()).map_err(|_| protocol::TRY_AGAIN_LATER)?;
        }
        // Anonymous callers are rejected.
        if self.caller.identity.is_none() {
            return Err(protocol::FORBIDDEN.into());
        }
        self.uninitialised = None;
        self.send(ServerMessage::ConnectionAck).await
    }

    /// The context of a new operation: part of the trace of the client that opened the connection, or else of a new trace.
    fn operation_context(&self) -> LogContext {
        let context = LogContext::of_request(self.context.request_id(), self.caller.traceparent.as_deref());
        if let Some(identity) = &self.caller.identity {
            context.set_subject(&identity.subject);
        }
        context
    }

    /// Begins an operation or refuses it. The outer error ends the connection.
    fn on_subscribe(&mut self, id: &str, payload: &str) -> Result<Result<(), Vec<ServerError>>, Disconnect> {
        if self.uninitialised.is_some() {
            return Err(protocol::UNAUTHORIZED.into());
        }
        if id.is_empty() || id.len() > MAX_ID {
            return Err(protocol::INVALID_MESSAGE.into());
        }
        if self.operations.contains_key(id) {
            return Err(protocol::SUBSCRIBER_EXISTS.into());
        }
        // Running queries and mutations finish during a shutdown, but no operation starts any more.
        if self.edge.shutdown.is_cancelled() {
            if self.has_only_subscriptions() {
                return Err(protocol::GOING_AWAY.into());
            }
            let message = "The service is shutting down. Reconnect and send the operation again.";
            return Ok(Err(vec![refusal::error("SERVER_BUSY", message, None)]));
        }
        let max = self.edge.limits.max_streams;
        if self.operations.len() >= max {
            let message = format!("This connection has {max} active operations. Complete one first.");
            return Ok(Err(vec![refusal::error("MAX_STREAMS_LIMIT", message, None)]));
        }
        self.operation_count += 1;
        let context = self.operation_context();
        let parameters = match Parameters::from_json(payload.as_bytes()) {
            Ok(parameters) => parameters,
            Err(fault) => {
                self.charge(VALIDATION_COST);
                let errors = Refusal::bad_request(fault).errors();
                refused_on_websocket(&context, &errors);
                return Ok(Err(errors));
            }
        };
        let (abort, registration) = AbortHandle::new_pair();
        let operation_id = id.to_owned();
        let progress = run(self.edge.executor.clone(), parameters, self.caller.clone()).boxed();
        let progress = context.stream(progress).map(move |progress| (operation_id.clone(), progress));
        self.progress.push(Abortable::new(progress, registration).boxed());
        self.operations.insert(id.to_owned(), ActiveOperation { log: None, abort });
        Ok(Ok(()))
    }

    async fn on_progress(&mut self, id: String, progress: Progress) -> Result<(), Disconnect> {
        match progress {
            Progress::Started(log) => {
                if let Some(operation) = self.operations.get_mut(&id) {
                    operation.log = Some(log);
                }
                Ok(())
            }
            Progress::Result(result) => {
                if let Some(log) = self.operations.get_mut(&id).and_then(|operation| operation.log.as_mut()) {
                    log.add(&result);
                }
                self.send(ServerMessage::Next { id: &id, payload: &result }).await
            }
            Progress::Refused(errors) => {
                self.operations.remove(&id);
                metrics::count_rejected(&errors);
                self.send(ServerMessage::Error { id: &id, payload: &errors }).await
            }
            Progress::Completed => {
                self.operations.remove(&id);
                self.send(ServerMessage::Complete { id: &id }).await
            }
        }
    }

    async fn send(&mut self, message: ServerMessage<'_>) -> Result<(), Disconnect> {
        // Serialisation cannot fail: all parts are valid JSON.
        let text = serde_json::to_string(&message).map_err(|_| Disconnect::Lost)?;
        // Without memory the result is still sent, because the operation was executed. Then the connection is closed.
        let held = self.hold_memory(text.len());
        self.send_frame(Message::Text(text.into())).await?;
        held
    }

    async fn send_frame(&mut self, message: Message) -> Result<(), Disconnect> {
        match timeout(SEND_TIMEOUT, self.socket.send(message)).await {
            Ok(Ok(())) => Ok(()),
            _ => Err(Disconnect::Lost),
        }
    }
}
