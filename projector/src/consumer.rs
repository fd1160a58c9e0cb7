//! Receives messages, applies them to the read model, deletes what was applied.
//!
//! A message that cannot be understood or applied is left alone: SQS delivers it again and in the end moves it to the
//! dead-letter queue. While the read model is unavailable, messages are held and none are received, so that an outage
//! moves nothing there.

use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use aws_config::SdkConfig;
use aws_sdk_sqs::Client;
use aws_sdk_sqs::config::timeout::TimeoutConfig;
use aws_sdk_sqs::error::DisplayErrorContext;
use aws_sdk_sqs::types::{DeleteMessageBatchRequestEntry, Message, MessageSystemAttributeName};
use entity::Event;
use futures::future::try_join_all;
use iso_currency::Currency;
use read_model::{Error, ReadModel};
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

/// What one call returns at most, and how long it waits for the first message: the most that SQS allows.
/// <https://docs.aws.amazon.com/AWSSimpleQueueService/latest/APIReference/API_ReceiveMessage.html>
const RECEIVE: i32 = 10;
const LONG_POLL: Duration = Duration::from_secs(20);
/// How often servers look for a message during a long poll: the embedded one does every 100 ms.
const SERVER_INTERVAL: Duration = Duration::from_millis(100);
/// Pauses while the queue or the read model cannot be reached.
const RETRY: Duration = Duration::from_millis(500);

/// A client for SQS whose calls end, also when the other side falls silent.
pub fn client(settings: &SdkConfig) -> Client {
    let timeouts = TimeoutConfig::builder().operation_attempt_timeout(LONG_POLL + Duration::from_secs(5)).build();
    Client::from_conf(aws_sdk_sqs::config::Builder::from(settings).timeout_config(timeouts).build())
}

#[derive(Clone)]
pub struct Consumer {
    pub queue: Client,
    pub queue_url: String,
    pub read_model: Arc<dyn ReadModel>,
    /// The one that amounts are counted in.
    pub currency: Currency,
}

/// What became of the messages of one call.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Batch {
    pub applied: usize,
    /// Left for the dead-letter queue.
    pub refused: usize,
}

impl Consumer {
    /// Runs so many pollers until `shutdown`, and lets each finish what it holds.
    pub async fn run(self, pollers: u32, shutdown: CancellationToken) -> anyhow::Result<()> {
        let pollers = (0..pollers).map(|n| {
            // Spread over the interval in which a server looks for messages, so that they do not all ask in step.
            let delay = SERVER_INTERVAL * n / pollers;
            tokio::spawn(self.clone().poll(delay, shutdown.clone()))
        });
        try_join_all(pollers).await.context("a poller failed")?;
        Ok(())
    }

    async fn poll(self, delay: Duration, shutdown: CancellationToken) {
        tokio::time::sleep(delay).await;
        let mut healthy = true;
        while !shutdown.is_cancelled() {
            let received = tokio::select! {
                received = self.receive(LONG_POLL) => received,
                () = shutdown.cancelled() => return,
            };
            match received {
                Ok(messages) => {
                    if !healthy {
                        info!("receiving messages again");
                        healthy = true;
                    }
                    self.process(messages, &shutdown).await;
                }
                Err(error) => {
                    if healthy {
                        warn!("cannot receive messages, trying on: {error}");
                        healthy = false;
                    }
                    let _ = tokio::time::timeout(RETRY, shutdown.cancelled()).await;
                }
            }
        }
    }

    /// Receives what there is, without waiting long, and processes it.
    pub async fn run_once(&self) -> Result<Batch, String> {
        let messages = self.receive(Duration::ZERO).await?;
        Ok(self.process(messages, &CancellationToken::new()).await)
    }

    async fn receive(&self, wait: Duration) -> Result<Vec<Message>, String> {
        let answer = self
            .queue
            .receive_message()
            .queue_url(&self.queue_url)
            .max_number_of_messages(RECEIVE)
            .wait_time_seconds(wait.as_secs() as i32)
            .message_system_attribute_names(MessageSystemAttributeName::ApproximateReceiveCount)
            .send()
            .await
            .map_err(|error| DisplayErrorContext(&error).to_string())?;
        Ok(answer.messages.unwrap_or_default())
    }

    /// Applies messages and deletes those that were; holds them while the read model is unavailable.
    async fn process(&self, messages: Vec<Message>, shutdown: &CancellationToken) -> Batch {
        let mut batch = Batch::default();
        let (mut events, mut of_events) = (Vec::new(), Vec::new());
        for message in messages {
            match Event::parse(message.body().unwrap_or_default(), self.currency.code()) {
                Ok(event) => {
                    events.push(event);
                    of_events.push(message);
                }
                Err(error) => {
                    batch.refused += 1;
                    refuse(&message, &error);
                }
            }
        }

        let mut healthy = true;
        let results = loop {
            let results = self.read_model.apply(&events).await;
            let Some(error) = results.iter().find_map(|result| match result {
                Err(error @ Error::Unavailable(_)) => Some(error),
                _ => None,
            }) else {
                break results;
            };
            if healthy {
                warn!(held = events.len(), "not receiving until it is back: {error}");
                healthy = false;
            }
            if tokio::time::timeout(RETRY, shutdown.cancelled()).await.is_ok() {
                // What was applied counts as applied before when SQS delivers it to another projector.
                return batch;
            }
        };
        if !healthy {
            info!("the read model is back");
        }

        let mut done = Vec::new();
        for (message, result) in of_events.into_iter().zip(results) {
            match result {
                Ok(_) => done.push(message),
                Err(error) => {
                    batch.refused += 1;
                    refuse(&message, &error);
                }
            }
        }
        batch.applied = done.len();
        self.delete(done).await;
        batch
    }

    /// A message that could not be deleted comes again, and is recognised as applied before.
    async fn delete(&self, messages: Vec<Message>) {
        if messages.is_empty() {
            return;
        }
        let entries = messages.into_iter().enumerate().map(|(index, message)| {
            let handle = message.receipt_handle.unwrap_or_default();
            let entry = DeleteMessageBatchRequestEntry::builder().id(index.to_string()).receipt_handle(handle);
            entry.build().expect("an id and a handle are given")
        });
        let request = self.queue.delete_message_batch().queue_url(&self.queue_url);
        match request.set_entries(Some(entries.collect())).send().await {
            Ok(answer) => {
                for failed in answer.failed() {
                    warn!(code = failed.code(), "a message could not be deleted and will come again");
                }
            }
            Err(error) => warn!("messages could not be deleted and will come again: {}", DisplayErrorContext(&error)),
        }
    }
}

/// Logs once, at the first delivery of a message, that it is left for the dead-letter queue.
fn refuse(message: &Message, why: &dyn std::fmt::Display) {
    let received = message.attributes().and_then(|all| all.get(&MessageSystemAttributeName::ApproximateReceiveCount));
    if received.is_none_or(|count| count == "1") {
        warn!(message_id = message.message_id(), "left for the dead-letter queue: {why}");
    }
}
