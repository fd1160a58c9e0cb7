//! Messages and close codes of `graphql-transport-ws`.

use async_graphql::{Response, ServerError};
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

pub const NAME: &str = "graphql-transport-ws";

/// A close code of the protocol or of RFC 6455, and its reason.
pub struct CloseReason(pub u16, pub &'static str);

/// The codes of RFC 6455, section 7.4.1, for a close frame of the client without a code, and for a connection that ended without one.
pub const NO_CODE: u16 = 1005;
pub const ABNORMAL: u16 = 1006;

pub const GOING_AWAY: CloseReason = CloseReason(1001, "Service is shutting down");
pub const TOO_SLOW: CloseReason = CloseReason(1008, "Message too slow");
pub const TOO_BIG: CloseReason = CloseReason(1009, "Message too big");
pub const TRY_AGAIN_LATER: CloseReason = CloseReason(1013, "Too many connections");
pub const TOO_MANY_LARGE_MESSAGES: CloseReason = CloseReason(1013, "Too many large messages");
pub const INVALID_MESSAGE: CloseReason = CloseReason(4400, "Invalid message");
pub const UNAUTHORIZED: CloseReason = CloseReason(4401, "Unauthorized");
/// Clients reconnect after this code and can then send another token.
pub const FORBIDDEN: CloseReason = CloseReason(4403, "Forbidden");
pub const SUBPROTOCOL_NOT_ACCEPTABLE: CloseReason = CloseReason(4406, "Subprotocol not acceptable");
pub const INIT_TIMEOUT: CloseReason = CloseReason(4408, "Connection initialisation timeout");
pub const SUBSCRIBER_EXISTS: CloseReason = CloseReason(4409, "Subscriber already exists");
pub const TOO_MANY_INITS: CloseReason = CloseReason(4429, "Too many initialisation requests");

/// A message of the client. Its id and payload are parsed later, because a fault in one operation must not end the others.
#[derive(Deserialize)]
pub struct ClientMessage<'a> {
    #[serde(rename = "type")]
    pub kind: MessageKind,
    #[serde(borrow)]
    id: Option<&'a RawValue>,
    #[serde(borrow)]
    pub payload: Option<&'a RawValue>,
}

#[derive(Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum MessageKind {
    ConnectionInit,
    Ping,
    Pong,
    Subscribe,
    Complete,
}

impl ClientMessage<'_> {
    /// `None` if the text is no message.
    pub fn parse(text: &str) -> Option<ClientMessage<'_>> {
        let text = text.trim_start_matches('\u{feff}');
        // Serde also accepts an array for a struct.
        let is_object = text.trim_ascii_start().starts_with('{');
        is_object.then(|| serde_json::from_str(text).ok()).flatten()
    }

    /// `None` if there is none. The error is the JSON of a string that is no Unicode: half of a surrogate pair is escaped in it.
    ///
    /// # Errors
    /// When the id is no string, or one that is no Unicode.
    pub fn id(&self) -> Result<Option<String>, &RawValue> {
        self.id.map_or(Ok(None), |raw| serde_json::from_str(raw.get()).map_err(|_| raw))
    }

    /// The payload in JSON.
    pub fn payload(&self) -> &str {
        self.payload.map_or("null", RawValue::get)
    }
}

/// Serialised directly, not through a map, so that the fields of results keep their order.
#[derive(Serialize)]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum ServerMessage<'a> {
    ConnectionAck,
    Pong,
    Next {
        id: &'a str,
        payload: &'a Response,
    },
    Error {
        id: &'a str,
        payload: &'a [ServerError],
    },
    /// To an operation whose id is no Unicode.
    #[serde(rename = "error")]
    UnreadableId {
        id: &'a RawValue,
        payload: &'a [ServerError],
    },
    Complete {
        id: &'a str,
    },
}
