//! The dead-letter queue: messages that were received too often and not deleted.

use std::collections::{HashMap, HashSet};
use std::time::{Duration, SystemTime};

use aws_sdk_sqs::Client;
use aws_sdk_sqs::error::ProvideErrorMetadata;
use aws_sdk_sqs::types::{
    ChangeMessageVisibilityBatchRequestEntry, DeleteMessageBatchRequestEntry, Message, MessageSystemAttributeName,
    QueueAttributeName, SendMessageBatchRequestEntry,
};
use serde::Deserialize;

use super::attributes;
use crate::one_line;

/// The largest number of messages that one SQS call takes.
const MAX_ENTRIES: usize = 10;
/// The largest size of one call in bytes.
const MAX_CALL_BYTES: usize = 256 * 1024;

/// Why dead letters cannot be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    #[error("the queue has no dead-letter queue")]
    Missing,
    /// SQS does not always say whether a queue is missing or access is denied.
    #[error("the dead-letter queue does not exist, or this program may not use it: {0}")]
    Denied(String),
    #[error("{0}")]
    Unavailable(String),
}

impl Error {
    /// `action` is what could not be done, such as "cannot read the dead-letter queue".
    pub(super) fn of(action: &str, error: &(impl ProvideErrorMetadata + std::error::Error)) -> Error {
        let code = error.code().unwrap_or_default();
        let reason = format!("{action}: {}", one_line(error));
        let is_denied =
            ["AccessDenied", "NonExistentQueue", "QueueDoesNotExist"].iter().any(|part| code.contains(part));
        if is_denied { Error::Denied(reason) } else { Error::Unavailable(reason) }
    }
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DeadLetter {
    /// The message id of SQS.
    pub id: String,
    pub sent_at: Option<SystemTime>,
    /// Deliveries so far, including those from the dead-letter queue.
    pub receives: u32,
    pub body: String,
    handle: String,
}

impl From<Message> for DeadLetter {
    fn from(message: Message) -> DeadLetter {
        let attribute = |name| message.attributes().and_then(|all| all.get(&name)).and_then(|value| value.parse().ok());
        let sent_at = attribute(MessageSystemAttributeName::SentTimestamp);
        let receives = attribute(MessageSystemAttributeName::ApproximateReceiveCount);
        DeadLetter {
            sent_at: sent_at.map(|ms: u64| SystemTime::UNIX_EPOCH + Duration::from_millis(ms)),
            receives: receives.and_then(|count| count.try_into().ok()).unwrap_or(0),
            id: message.message_id.unwrap_or_default(),
            body: message.body.unwrap_or_default(),
            handle: message.receipt_handle.unwrap_or_default(),
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    /// Send back to the queue.
    Redrive,
    /// Delete.
    Discard,
}

/// The URL of the dead-letter queue of a queue with these attributes.
pub async fn url(client: &Client, attributes: &HashMap<QueueAttributeName, String>) -> Result<String, Error> {
    #[derive(Deserialize)]
    #[serde(rename_all = "camelCase")]
    struct RedrivePolicy {
        dead_letter_target_arn: String,
    }
    let policy = attributes.get(&QueueAttributeName::RedrivePolicy).ok_or(Error::Missing)?;
    let policy: RedrivePolicy = serde_json::from_str(policy).map_err(|_| Error::Missing)?;
    // arn:aws:sqs:REGION:ACCOUNT:NAME
    let mut parts = policy.dead_letter_target_arn.rsplit(':');
    let (name, account) = (parts.next().unwrap_or_default(), parts.next().unwrap_or_default());
    let request = client.get_queue_url().queue_name(name).queue_owner_aws_account_id(account);
    let response = request.send().await.map_err(|error| Error::of("cannot find the dead-letter queue", &error))?;
    response.queue_url.ok_or(Error::Missing)
}

/// Receives dead letters, which hides them from other receivers. [`DeadLetters::close`] ends this.
pub struct DeadLetters {
    client: Client,
    queue_url: String,
    url: String,
    /// How long a letter stays hidden if this is never closed, in seconds.
    hide_s: i32,
    /// How long to wait for another letter, in seconds. If none comes there are no more.
    wait_s: i32,
    /// The receipt handles of the letters that are hidden, by message id.
    hidden: HashMap<String, String>,
}

impl DeadLetters {
    pub fn new(client: Client, queue_url: String, url: String, hide_s: i32, wait_s: i32) -> DeadLetters {
        DeadLetters { client, queue_url, url, hide_s, wait_s, hidden: HashMap::new() }
    }

    /// The next letters, at most ten, without those received before; `None` when there are no more.
    pub async fn receive(&mut self) -> Result<Option<Vec<DeadLetter>>, Error> {
        let request = self
            .client
            .receive_message()
            .queue_url(&self.url)
            .max_number_of_messages(MAX_ENTRIES as i32)
            .wait_time_seconds(self.wait_s)
            .visibility_timeout(self.hide_s)
            .message_system_attribute_names(MessageSystemAttributeName::All);
        let response = request.send().await.map_err(|error| Error::of("cannot read the dead-letter queue", &error))?;
        let messages = response.messages.unwrap_or_default();
        if messages.is_empty() {
            return Ok(None);
        }
        let letters = messages.into_iter().map(DeadLetter::from);
        Ok(Some(
            letters.filter(|letter| self.hidden.insert(letter.id.clone(), letter.handle.clone()).is_none()).collect(),
        ))
    }

    /// Sends received letters back to the queue, or deletes them.
    ///
    /// # Errors
    /// When the queue fails, possibly after some letters. Repeating is safe: an event that is sent twice is applied once.
    pub async fn take(&mut self, action: Action, letters: &[&DeadLetter]) -> Result<(), Error> {
        for letters in letters.chunks(MAX_ENTRIES) {
            if action == Action::Redrive {
                self.send(letters).await?;
            }
            self.delete(letters).await?;
        }
        Ok(())
    }

    /// Makes the letters that remain visible to other receivers again. Returns how many others are hidden, because somebody else is
    /// reading them.
    pub async fn close(&mut self) -> Result<u32, Error> {
        self.release().await?;
        let attributes = attributes(&self.client, &self.url).await;
        let attributes = attributes.map_err(|error| Error::Unavailable(error.to_string()))?;
        let hidden = attributes.get(&QueueAttributeName::ApproximateNumberOfMessagesNotVisible);
        Ok(hidden.and_then(|hidden| hidden.parse().ok()).unwrap_or(0))
    }

    /// Like [`DeadLetters::close`], but does not count others.
    pub async fn release(&mut self) -> Result<(), Error> {
        let handles: Vec<String> = std::mem::take(&mut self.hidden).into_values().collect();
        for batch in handles.chunks(MAX_ENTRIES) {
            let entries = batch.iter().enumerate().map(|(index, handle)| {
                let entry = ChangeMessageVisibilityBatchRequestEntry::builder();
                let entry = entry.id(index.to_string()).receipt_handle(handle).visibility_timeout(0);
                entry.build().expect("an id and a handle are given")
            });
            let request = self.client.change_message_visibility_batch().queue_url(&self.url);
            let response = request.set_entries(Some(entries.collect())).send().await;
            response.map_err(|error| Error::of("cannot make the dead letters visible again", &error))?;
        }
        Ok(())
    }

    async fn send(&self, letters: &[&DeadLetter]) -> Result<(), Error> {
        // One by one if they are large.
        let total: usize = letters.iter().map(|letter| letter.body.len()).sum();
        let size = if total > MAX_CALL_BYTES { 1 } else { MAX_ENTRIES };
        for batch in letters.chunks(size) {
            let entries = batch.iter().enumerate().map(|(index, letter)| {
                let entry = SendMessageBatchRequestEntry::builder().id(index.to_string()).message_body(&letter.body);
                entry.build().expect("an id and a body are given")
            });
            let request = self.client.send_message_batch().queue_url(&self.queue_url);
            let response = request.set_entries(Some(entries.collect())).send().await;
            let response = response.map_err(|error| Error::of("cannot send to the queue", &error))?;
            if let Some(failed) = response.failed().first() {
                let reason = failed.message().unwrap_or(failed.code());
                return Err(Error::Unavailable(format!("the queue refused a message: {reason}")));
            }
        }
        Ok(())
    }

    async fn delete(&mut self, letters: &[&DeadLetter]) -> Result<(), Error> {
        let entries = letters.iter().enumerate().map(|(index, letter)| {
            let entry = DeleteMessageBatchRequestEntry::builder().id(index.to_string()).receipt_handle(&letter.handle);
            entry.build().expect("an id and a handle are given")
        });
        let request = self.client.delete_message_batch().queue_url(&self.url);
        let response = request.set_entries(Some(entries.collect())).send().await;
        let response = response.map_err(|error| Error::of("cannot delete from the dead-letter queue", &error))?;
        if let Some(failed) = response.failed().first() {
            let reason = failed.message().unwrap_or(failed.code());
            return Err(Error::Unavailable(format!("a dead letter could not be deleted: {reason}")));
        }
        let deleted: HashSet<&String> = letters.iter().map(|letter| &letter.id).collect();
        self.hidden.retain(|id, _| !deleted.contains(id));
        Ok(())
    }
}
