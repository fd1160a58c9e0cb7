//! Dead letters: messages that were received five times and not applied. Each is judged: what it is, and whether the read model
//! still needs it.

use std::collections::HashMap;
use std::fmt;

use anyhow::{Context, anyhow, ensure};
use aws_sdk_sqs::Client;
use aws_sdk_sqs::types::{
    ChangeMessageVisibilityBatchRequestEntry, DeleteMessageBatchRequestEntry, Message, MessageSystemAttributeName,
    QueueAttributeName, SendMessageBatchRequestEntry,
};
use chrono::{DateTime, SecondsFormat, Utc};
use entity::{Event, Subject};
use iso_currency::Currency;
use read_model::rules::check_version;
use read_model::{Error, Queries, Redis};
use runtime::one_line;
use serde::Serialize;

/// The largest number of messages that one SQS call takes.
const MAX_ENTRIES: i32 = 10;
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
    handle: String,
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

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Verdict {
    /// Not an event of this service: it can only be discarded.
    Foreign,
    /// Applied since, so it can be discarded.
    Superseded,
    /// Missing in the read model: redrive it, or repair the read model from the log.
    Needed,
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.write_str(match self {
            Verdict::Foreign => "foreign",
            Verdict::Superseded => "superseded",
            Verdict::Needed => "needed",
        })
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    /// Send back to the queue.
    Redrive,
    /// Delete.
    Discard,
}

impl Action {
    /// Whether the action is right for all letters with this verdict.
    fn suits(self, verdict: Verdict) -> bool {
        match self {
            Action::Redrive => verdict != Verdict::Foreign,
            Action::Discard => verdict != Verdict::Needed,
        }
    }
}

pub struct DeadLetters {
    pub queue: Client,
    pub queue_url: String,
    pub dead_letters_url: String,
    pub read_model: Redis,
    pub currency: Currency,
    /// The receipt handles of the letters that are hidden, by message id.
    hidden: HashMap<String, String>,
}

/// Returns the URL of the dead-letter queue of a queue with these attributes.
pub async fn dead_letters_url(
    queue: &Client,
    attributes: &HashMap<QueueAttributeName, String>,
) -> anyhow::Result<String> {
    let policy = attributes.get(&QueueAttributeName::RedrivePolicy).context("the queue has no dead-letter queue")?;
    let policy: serde_json::Value = serde_json::from_str(policy).context("the queue's redrive policy is not JSON")?;
    // arn:aws:sqs:REGION:ACCOUNT:NAME
    let arn = policy["deadLetterTargetArn"].as_str().context("the redrive policy names no dead-letter queue")?;
    let mut parts = arn.rsplit(':');
    let (name, account) = (parts.next().unwrap_or_default(), parts.next().unwrap_or_default());
    let request = queue.get_queue_url().queue_name(name).queue_owner_aws_account_id(account);
    let response = request.send().await.map_err(|error| anyhow!("cannot find {arn}: {}", one_line(&error)))?;
    response.queue_url.with_context(|| format!("{arn} has no URL"))
}

impl DeadLetters {
    /// Finds the dead-letter queue of a queue.
    pub async fn of(queue: Client, queue_url: String, read_model: Redis, currency: Currency) -> anyhow::Result<Self> {
        let attributes = runtime::queue::attributes(&queue, &queue_url).await?;
        let dead_letters_url = dead_letters_url(&queue, &attributes).await?;
        Ok(DeadLetters { queue, queue_url, dead_letters_url, read_model, currency, hidden: HashMap::new() })
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
                true => action.suits(letter.verdict),
                false => ids.contains(&letter.id),
            });
            if !dry_run {
                self.take(action, &chosen).await?;
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

    async fn take(&mut self, action: Action, letters: &[DeadLetter]) -> anyhow::Result<()> {
        if action == Action::Redrive {
            self.send(letters).await?;
        }
        self.delete(letters).await?;
        for letter in letters {
            self.hidden.remove(&letter.id);
        }
        Ok(())
    }

    /// Makes the letters that remain visible to other receivers again. Returns how many others are hidden, because another
    /// command is reading them.
    pub async fn close(&mut self) -> anyhow::Result<u32> {
        let handles: Vec<String> = std::mem::take(&mut self.hidden).into_values().collect();
        for batch in handles.chunks(MAX_ENTRIES as usize) {
            let entries = batch.iter().enumerate().map(|(index, handle)| {
                let entry = ChangeMessageVisibilityBatchRequestEntry::builder();
                let entry = entry.id(index.to_string()).receipt_handle(handle).visibility_timeout(0);
                entry.build().expect("an id and a handle are given")
            });
            let request = self.queue.change_message_visibility_batch().queue_url(&self.dead_letters_url);
            let response = request.set_entries(Some(entries.collect())).send().await;
            response.map_err(|error| anyhow!("cannot make the dead letters visible again: {}", one_line(&error)))?;
        }
        let attributes = runtime::queue::attributes(&self.queue, &self.dead_letters_url).await?;
        let hidden = attributes.get(&QueueAttributeName::ApproximateNumberOfMessagesNotVisible);
        Ok(hidden.and_then(|hidden| hidden.parse().ok()).unwrap_or(0))
    }

    /// The next letters, without those received before; `None` when there are no more.
    async fn receive(&mut self) -> anyhow::Result<Option<Vec<DeadLetter>>> {
        let request = self
            .queue
            .receive_message()
            .queue_url(&self.dead_letters_url)
            .max_number_of_messages(MAX_ENTRIES)
            .wait_time_seconds(WAIT)
            .visibility_timeout(HIDDEN)
            .message_system_attribute_names(MessageSystemAttributeName::All);
        let response =
            request.send().await.map_err(|error| anyhow!("cannot read the dead-letter queue: {}", one_line(&error)))?;
        let messages = response.messages.unwrap_or_default();
        if messages.is_empty() {
            return Ok(None);
        }
        let mut letters = Vec::new();
        for message in &messages {
            let letter = self.judge(message).await?;
            if self.hidden.insert(letter.id.clone(), letter.handle.clone()).is_none() {
                letters.push(letter);
            }
        }
        Ok(Some(letters))
    }

    async fn judge(&self, message: &Message) -> anyhow::Result<DeadLetter> {
        let attribute = |name| message.attributes().and_then(|all| all.get(&name)).and_then(|value| value.parse().ok());
        let sent_at: Option<i64> = attribute(MessageSystemAttributeName::SentTimestamp);
        let sent_at = sent_at.and_then(DateTime::<Utc>::from_timestamp_millis);
        let receives: Option<i64> = attribute(MessageSystemAttributeName::ApproximateReceiveCount);
        let body = message.body().unwrap_or_default().to_owned();
        let (verdict, why, event) = match Event::parse(&body, self.currency.code(), Utc::now()) {
            Err(error) => (Verdict::Foreign, error.to_string(), None),
            Ok(event) => {
                let (verdict, why) = match self.has_applied(&event).await {
                    Ok(true) => (Verdict::Superseded, "it has been applied since".into()),
                    Ok(false) => (Verdict::Needed, "it can be applied now".into()),
                    Err(error @ Error::Damaged(_)) => (Verdict::Needed, error.to_string()),
                    Err(error @ Error::Refused(_)) => (Verdict::Foreign, error.to_string()),
                    Err(error @ Error::Unavailable(_)) => return Err(error.into()),
                };
                (verdict, why, Some(event))
            }
        };
        Ok(DeadLetter {
            id: message.message_id().unwrap_or_default().to_owned(),
            sent_at: sent_at.map(|time| time.to_rfc3339_opts(SecondsFormat::Millis, true)),
            receives: receives.and_then(|count| count.try_into().ok()).unwrap_or(0),
            verdict,
            why,
            subject: event.as_ref().map(Event::subject),
            version: event.as_ref().map(|event| event.version),
            body,
            handle: message.receipt_handle().unwrap_or_default().to_owned(),
        })
    }

    /// Whether the event has been applied.
    ///
    /// # Errors
    /// Also if it would be refused.
    async fn has_applied(&self, event: &Event) -> Result<bool, Error> {
        let (has_applied, reached) = match event.subject() {
            Subject::Client(id) => {
                let client = self.read_model.projected_clients(&[id]).await?.pop().unwrap_or(Ok(None))?;
                client.map_or((false, 0), |client| (client.has(event.version), client.client.version))
            }
            Subject::Product(id) => {
                let version =
                    self.read_model.products(&[id]).await?.pop().flatten().map_or(0, |product| product.version);
                (version >= event.version, version)
            }
        };
        if !has_applied {
            check_version(event, reached)?;
        }
        Ok(has_applied)
    }

    async fn send(&self, letters: &[DeadLetter]) -> anyhow::Result<()> {
        // One by one if they are large, because one call takes 256 KiB.
        let total: usize = letters.iter().map(|letter| letter.body.len()).sum();
        let size = if total > 256 * 1024 { 1 } else { MAX_ENTRIES as usize };
        for batch in letters.chunks(size) {
            let entries = batch.iter().enumerate().map(|(index, letter)| {
                let entry = SendMessageBatchRequestEntry::builder().id(index.to_string()).message_body(&letter.body);
                entry.build().expect("an id and a body are given")
            });
            let request = self.queue.send_message_batch().queue_url(&self.queue_url);
            let response = request.set_entries(Some(entries.collect())).send().await;
            let response = response.map_err(|error| anyhow!("cannot send to the queue: {}", one_line(&error)))?;
            ensure!(response.failed().is_empty(), "the queue refused a message: {:?}", response.failed()[0].message());
        }
        Ok(())
    }

    async fn delete(&self, letters: &[DeadLetter]) -> anyhow::Result<()> {
        if letters.is_empty() {
            return Ok(());
        }
        let entries = letters.iter().enumerate().map(|(index, letter)| {
            let entry = DeleteMessageBatchRequestEntry::builder().id(index.to_string()).receipt_handle(&letter.handle);
            entry.build().expect("an id and a handle are given")
        });
        let request = self.queue.delete_message_batch().queue_url(&self.dead_letters_url);
        let response = request.set_entries(Some(entries.collect())).send().await;
        let response =
            response.map_err(|error| anyhow!("cannot delete from the dead-letter queue: {}", one_line(&error)))?;
        ensure!(
            response.failed().is_empty(),
            "a dead letter could not be deleted: {:?}",
            response.failed()[0].message()
        );
        Ok(())
    }
}
