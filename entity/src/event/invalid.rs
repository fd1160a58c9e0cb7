//! Messages that are refused.

/// Bytes of a message that its error repeats.
const MAX_QUOTED: usize = 200;

/// Why a message is not a valid event of this service. Whatever is repeated from the message is short and printable.
#[derive(Debug, thiserror::Error)]
pub enum InvalidEvent {
    #[error("not a CloudEvent in JSON: {0}")]
    Syntax(String),
    #[error("unknown event type \"{0}\"")]
    UnknownType(String),
    #[error("its amounts are in {event}, but CURRENCY is {here}")]
    Currency { event: String, here: String },
    #[error("{0}")]
    Contradiction(&'static str),
}

impl InvalidEvent {
    /// The reason without the texts that it repeats from the message, which may be personal data.
    pub fn without_content(&self) -> String {
        let reason = self.to_string();
        let is_name = |text: &str| text.chars().all(|character| character.is_ascii_alphanumeric() || character == '.');
        match (self, reason.split_once('"')) {
            (InvalidEvent::UnknownType(name), _) if is_name(name) => reason,
            (_, Some((before, content))) => {
                let after = content.rsplit_once('"').map_or("", |(_, after)| after);
                format!("{before}\"…\"{after}")
            }
            _ => reason,
        }
    }
}

impl From<serde_json::Error> for InvalidEvent {
    fn from(error: serde_json::Error) -> InvalidEvent {
        InvalidEvent::Syntax(printable(&error.to_string()))
    }
}

/// Escapes control characters, also those that change the direction of text, and shortens: a message must not forge a line of the
/// log.
pub(super) fn printable(text: &str) -> String {
    let mut printable = String::new();
    for character in text.chars() {
        match character {
            _ if printable.len() >= MAX_QUOTED => {
                printable.push('…');
                break;
            }
            '"' | '\'' | '\\' => printable.push(character),
            _ => printable.extend(character.escape_debug()),
        }
    }
    printable
}
