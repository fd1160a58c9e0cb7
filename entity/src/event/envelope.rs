//! Envelopes: AWS wraps events that it passes on.

use std::borrow::Cow;

use serde::Deserialize;
use serde::de::IgnoredAny;
use serde_json::value::RawValue;

/// Envelopes in each other, such as a notification in an SQS record in an event of EventBridge.
const MAX_ENVELOPES: usize = 3;

#[derive(Deserialize)]
struct Envelope<'a> {
    /// Only events have it.
    specversion: Option<IgnoredAny>,
    /// Of a subscription without raw message delivery: <https://docs.aws.amazon.com/sns/latest/dg/sns-message-and-json-formats.html>
    #[serde(borrow, rename = "Message")]
    message: Option<&'a RawValue>,
    /// Of an event bus: <https://docs.aws.amazon.com/eventbridge/latest/ref/overiew-event-structure.html>
    #[serde(borrow)]
    detail: Option<&'a RawValue>,
    /// Of a pipe that reads from SQS: <https://docs.aws.amazon.com/eventbridge/latest/userguide/eb-pipes-sqs.html>
    #[serde(borrow)]
    body: Option<&'a RawValue>,
}

/// The event in a message: the message itself, unless it is in an envelope of SNS, EventBridge or EventBridge Pipes.
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
    // The api writes this attribute first, so most messages are not read twice.
    if message.starts_with(r#"{"specversion""#) {
        return None;
    }
    let envelope: Envelope = serde_json::from_str(message).ok()?;
    if envelope.specversion.is_some() {
        return None;
    }
    let content = envelope.message.or(envelope.detail).or(envelope.body)?.get();
    // Either as a text or as an object.
    serde_json::from_str(content).ok().or_else(|| Some(content.to_owned()))
}
