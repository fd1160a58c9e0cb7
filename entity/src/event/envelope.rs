//! AWS puts events that it passes on into envelopes.

use std::borrow::Cow;

use serde::Deserialize;
use serde::de::IgnoredAny;
use serde_json::Value as Json;

/// How many envelopes can be inside each other: EventBridge may pass on an SQS record that holds a notification of SNS.
const MAX_ENVELOPES: usize = 3;

#[derive(Deserialize)]
struct Envelope {
    /// Only events have it.
    specversion: Option<IgnoredAny>,
    /// The name in
    /// - a notification of SNS without raw message delivery: `Message`
    ///   (<https://docs.aws.amazon.com/sns/latest/dg/sns-message-and-json-formats.html>)
    /// - an event of EventBridge: `detail`
    ///   (<https://docs.aws.amazon.com/eventbridge/latest/ref/overiew-event-structure.html>)
    /// - an SQS record of EventBridge Pipes: `body`
    ///   (<https://docs.aws.amazon.com/eventbridge/latest/userguide/eb-pipes-sqs.html>)
    #[serde(rename = "Message", alias = "detail", alias = "body")]
    content: Json,
}

/// Returns the event in a message: the message itself, unless it is an envelope of SNS, EventBridge or EventBridge Pipes.
pub fn open(message: &str) -> Cow<'_, str> {
    let mut content = Cow::Borrowed(message);
    for _ in 0..MAX_ENVELOPES {
        match open_one(&content) {
            Some(inner) => content = Cow::Owned(inner),
            None => break,
        }
    }
    content
}

fn open_one(message: &str) -> Option<String> {
    // The api writes this attribute first, so most messages are parsed only once.
    if message.starts_with(r#"{"specversion""#) {
        return None;
    }
    match serde_json::from_str(message).ok()? {
        Envelope { specversion: Some(_), .. } => None,
        Envelope { content: Json::String(text), .. } => Some(text),
        Envelope { content, .. } => Some(content.to_string()),
    }
}
