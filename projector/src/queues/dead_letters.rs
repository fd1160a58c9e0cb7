//! Dead letters: messages that were received five times and not applied. Each is judged: what it is, and whether the read model
//! still needs it.

use std::fmt;

use aws_sdk_sqs::Client;
use chrono::{DateTime, SecondsFormat, Utc};
use entity::Subject;
use iso_currency::Currency;
use read_model::{Judgement, Redis, judge};
use runtime::queue::dead_letters::{self, DeadLetter as Letter};
use serde::Serialize;

pub use read_model::Verdict;
pub use runtime::queue::dead_letters::Action;

/// Seconds for which received letters are hidden from other receivers. [`DeadLetters::close`] ends this early.
const HIDDEN: i32 = 300;
/// Seconds to wait for another letter. If none comes there are no more.
const WAIT: i32 = 2;

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct DeadLetter {
    /// The message id of SQS.
    pub id: String,
    pub sent_at: Option<String>,
    /// Deliveries so far, including those from the dead-letter queue.
    pub receives: u32,
    pub verdict: Verdict,
    /// Why it was not applied, as far as that is known now.
    pub why: String,
    #[serde(flatten)]
    pub subject: Option<Subject>,
    pub version: Option<i32>,
    pub body: String,
    #[serde(skip)]
    letter: Letter,
}

impl fmt::Display for DeadLetter {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        let event = match (self.subject, self.version) {
            (Some(subject), Some(version)) => format!("{subject} version {version}: "),
            _ => String::new(),
        };
        let (sent_at, why) = (self.sent_at.as_deref().unwrap_or("unknown"), &self.why);
        write!(f, "{:<20} {}: {event}{why} (sent {sent_at})", self.id, self.verdict)
    }
}

/// Whether the action is right for all letters with this verdict.
fn suits(action: Action, verdict: Verdict) -> bool {
    match action {
        Action::Redrive => verdict != Verdict::Foreign,
        Action::Discard => verdict != Verdict::Needed,
    }
}

pub struct DeadLetters {
    letters: dead_letters::DeadLetters,
    read_model: Redis,
    currency: Currency,
}

impl DeadLetters {
    /// Finds the dead-letter queue of a queue.
    pub async fn of(queue: Client, queue_url: String, read_model: Redis, currency: Currency) -> anyhow::Result<Self> {
        let attributes = runtime::queue::attributes(&queue, &queue_url).await?;
        let url = dead_letters::url(&queue, &attributes).await?;
        let letters = dead_letters::DeadLetters::new(queue, queue_url, url, HIDDEN, WAIT);
        Ok(DeadLetters { letters, read_model, currency })
    }

    /// Calls `each` for every dead letter.
    pub async fn list(&mut self, mut each: impl FnMut(&DeadLetter)) -> anyhow::Result<()> {
        while let Some(letters) = self.receive().await? {
            letters.iter().for_each(&mut each);
        }
        Ok(())
    }

    /// Redrives or discards the letters with these ids. Without ids it takes all, but does not discard needed ones nor redrive
    /// foreign ones. Calls `each` for every letter with whether it was taken. Returns the ids that were not found. A dry run changes
    /// nothing.
    ///
    /// # Errors
    /// When the queue fails, possibly after some letters. Repeating is safe: an event that is sent twice is applied once.
    pub async fn act(
        &mut self,
        action: Action,
        mut ids: Vec<String>,
        dry_run: bool,
        mut each: impl FnMut(&DeadLetter, bool),
    ) -> anyhow::Result<Vec<String>> {
        let all = ids.is_empty();
        while let Some(letters) = self.receive().await? {
            let (chosen, kept): (Vec<_>, Vec<_>) = letters.into_iter().partition(|letter| match all {
                true => suits(action, letter.verdict),
                false => ids.contains(&letter.id),
            });
            if !dry_run {
                let chosen: Vec<&Letter> = chosen.iter().map(|letter| &letter.letter).collect();
                self.letters.take(action, &chosen).await?;
            }
            for letter in &chosen {
                ids.retain(|id| *id != letter.id);
                each(letter, true);
            }
            if all {
                kept.iter().for_each(|letter| each(letter, false));
            } else if ids.is_empty() {
                break;
            }
        }
        Ok(ids)
    }

    /// Makes the letters that remain visible to other receivers again. Returns how many others are hidden, because another
    /// command is reading them.
    pub async fn close(&mut self) -> anyhow::Result<u32> {
        Ok(self.letters.close().await?)
    }

    /// The next letters, without those received before; `None` when there are no more.
    async fn receive(&mut self) -> anyhow::Result<Option<Vec<DeadLetter>>> {
        let Some(received) = self.letters.receive().await? else { return Ok(None) };
        let mut letters = Vec::new();
        for letter in received {
            letters.push(self.judge(letter).await?);
        }
        Ok(Some(letters))
    }

    async fn judge(&self, letter: Letter) -> anyhow::Result<DeadLetter> {
        let Judgement { verdict, why, event } = judge(&self.read_model, &letter.body, self.currency).await?;
        let sent_at = letter.sent_at.map(DateTime::<Utc>::from);
        Ok(DeadLetter {
            id: letter.id.clone(),
            sent_at: sent_at.map(|time| time.to_rfc3339_opts(SecondsFormat::Millis, true)),
            receives: letter.receives,
            verdict,
            why,
            subject: event.as_ref().map(entity::Event::subject),
            version: event.map(|event| event.version),
            body: letter.body.clone(),
            letter,
        })
    }
}
