//! Receives messages, applies them to the read model, deletes what was applied.
//!
//! A message that cannot be understood or applied is left alone: SQS delivers it again and in the end moves it to the
//! dead-letter queue. While the read model is unavailable, messages are held and none are received, so that an outage
//! moves nothing there.

pub mod activity;
mod apply;
pub mod health;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use anyhow::Context;
use aws_sdk_sqs::Client;
use aws_sdk_sqs::types::{DeleteMessageBatchRequestEntry, Message, MessageSystemAttributeName};
use entity::Event;
use futures::future::try_join_all;
use iso_currency::Currency;
use read_model::{Error, Projection};
use runtime::{crash_point, crash_points, one_line};
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use crate::queues::{CALL_TIMEOUT, at_most};

use self::activity::Activity;
use self::apply::Applying;

/// What one call returns at most, and how long it waits for the first message: the most that SQS allows.
/// <https://docs.aws.amazon.com/AWSSimpleQueueService/latest/APIReference/API_ReceiveMessage.html>
const RECEIVE: i32 = 10;
const LONG_POLL: Duration = Duration::from_secs(20);
/// Pollers that are there while there is little to do. Each call costs, also one that returns a message or two.
const FEW: u32 = 4;
/// How often servers look for a message during a long poll: the embedded one does every 100 ms.
const SERVER_INTERVAL: Duration = Duration::from_millis(100);
/// Pauses while the queue or the read model cannot be reached.
const RETRY: Duration = Duration::from_millis(500);

#[derive(Clone)]
pub struct Consumer {
    pub queue: Client,
    /// The same, for calls that wait.
    long_polling: Client,
    pub queue_url: String,
    pub read_model: Arc<dyn Projection>,
    applying: Arc<Applying>,
    /// The one that amounts are counted in.
    pub currency: Currency,
    /// How many pollers hold messages that the read model is not there for. Meanwhile no other receives any: each
    /// delivery of a held message to the next poller would bring it nearer to the dead-letter queue.
    holding: Arc<AtomicUsize>,
    /// Whether nobody has said yet that no messages are received.
    receiving: Arc<AtomicBool>,
    /// Told when a call has returned all that one can: another poller will find some, too.
    backlog: Arc<Notify>,
    /// How many pollers have got all that a call can return twice in a row, and none with less since.
    busy: Arc<AtomicUsize>,
    /// What the pollers have done lately.
    pub activity: Arc<Activity>,
}

/// What became of the messages of one call.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Batch {
    pub applied: usize,
    /// Left for the dead-letter queue.
    pub refused: usize,
}

impl Consumer {
    pub fn new(queue: Client, queue_url: String, read_model: Arc<dyn Projection>, currency: Currency) -> Consumer {
        let waits = queue.config().to_builder().timeout_config(at_most(LONG_POLL + CALL_TIMEOUT));
        Consumer {
            long_polling: Client::from_conf(waits.build()),
            queue,
            queue_url,
            applying: Arc::new(Applying::new(read_model.clone())),
            read_model,
            currency,
            holding: Arc::default(),
            receiving: Arc::new(true.into()),
            backlog: Arc::default(),
            busy: Arc::default(),
            activity: Arc::default(),
        }
    }

    /// Runs pollers until `shutdown`, few or so many as there are messages for, and lets each finish what it holds.
    pub async fn run(self, pollers: u32, shutdown: CancellationToken) -> anyhow::Result<()> {
        let few = pollers.min(FEW);
        let pollers = (0..pollers).map(|n| {
            // Spread over the interval in which a server looks for messages, so that they do not all ask in step.
            let delay = (n < few).then(|| SERVER_INTERVAL * n / few);
            tokio::spawn(self.clone().poll(delay, shutdown.clone()))
        });
        try_join_all(pollers).await.context("a poller failed")?;
        Ok(())
    }

    /// Polls after a delay; without one only while there is a backlog.
    async fn poll(self, delay: Option<Duration>, shutdown: CancellationToken) {
        tokio::time::sleep(delay.unwrap_or_default()).await;
        let (mut helps, mut was_full, mut busy) = (delay.is_some(), false, None);
        while !shutdown.is_cancelled() {
            if !helps {
                tokio::select! {
                    () = self.backlog.notified() => {}
                    () = shutdown.cancelled() => return,
                }
            }
            let received = tokio::select! {
                received = self.receive_if_held_by_none() => received,
                () = shutdown.cancelled() => return,
            };
            let is_full = received.as_ref().is_ok_and(|messages| messages.len() == RECEIVE as usize);
            if is_full {
                self.backlog.notify_one();
            }
            helps = delay.is_some() || is_full;
            // Once may be what came while nobody asked.
            busy = (was_full && is_full).then(|| busy.take().unwrap_or_else(|| Counted::one_of(&self.busy)));
            was_full = is_full;
            // While what half of them have received is applied, the others receive and delete.
            let enough = if busy.is_some() { self.busy.load(Ordering::SeqCst) * RECEIVE as usize / 2 } else { 0 };
            match received {
                Ok(messages) => {
                    self.process(messages, enough, &shutdown).await;
                }
                Err(problem) => {
                    self.interrupted(&problem);
                    let _ = tokio::time::timeout(RETRY, shutdown.cancelled()).await;
                }
            }
        }
    }

    async fn receive_if_held_by_none(&self) -> Result<Vec<Message>, String> {
        if self.holding.load(Ordering::SeqCst) > 0 {
            return Err("other messages wait for the read model".into());
        }
        // It may be another process that holds what would be delivered here next.
        self.read_model.ping().await.map_err(|error| error.to_string())?;
        let messages = self.receive(LONG_POLL).await?;
        self.activity.received(messages.is_empty());
        if !self.receiving.swap(true, Ordering::SeqCst) {
            info!("receiving messages again");
        }
        Ok(messages)
    }

    /// Whether it receives messages: not while a store is away.
    pub(crate) fn is_receiving(&self) -> bool {
        self.receiving.load(Ordering::SeqCst)
    }

    /// Says so once, whichever poller notices first.
    fn interrupted(&self, problem: &dyn std::fmt::Display) {
        if self.receiving.swap(false, Ordering::SeqCst) {
            warn!("not receiving messages for now: {problem}");
        }
    }

    /// Receives what there is, without waiting long, and processes it.
    pub async fn run_once(&self) -> Result<Batch, String> {
        let messages = self.receive(Duration::ZERO).await?;
        Ok(self.process(messages, 0, &CancellationToken::new()).await)
    }

    async fn receive(&self, wait: Duration) -> Result<Vec<Message>, String> {
        let answer = self
            .long_polling
            .receive_message()
            .queue_url(&self.queue_url)
            .max_number_of_messages(RECEIVE)
            .wait_time_seconds(wait.as_secs() as i32)
            .message_system_attribute_names(MessageSystemAttributeName::ApproximateReceiveCount)
            .send()
            .await
            .map_err(|error| one_line(&error))?;
        Ok(answer.messages.unwrap_or_default())
    }

    /// Applies messages and deletes those that were; holds them while the read model is unavailable.
    async fn process(&self, messages: Vec<Message>, enough: usize, shutdown: &CancellationToken) -> Batch {
        crash_point(crash_points::PROJECTOR_BEFORE_APPLY);
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

        let mut held = None;
        let results = loop {
            let Some((same, results)) = self.applying.apply(events, enough).await else { return batch };
            events = same;
            let Some(error) = results.iter().find_map(|result| match result {
                Err(error @ Error::Unavailable(_)) => Some(error),
                _ => None,
            }) else {
                break results;
            };
            held.get_or_insert_with(|| Counted::one_of(&self.holding));
            self.interrupted(error);
            if tokio::time::timeout(RETRY, shutdown.cancelled()).await.is_ok() {
                // What was applied counts as applied before when SQS delivers it to another projector.
                return batch;
            }
        };
        drop(held);
        self.activity.applied(events.iter().map(|event| event.time).min());

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
        crash_point(crash_points::PROJECTOR_BEFORE_DELETE);
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
            Err(error) => warn!("messages could not be deleted and will come again: {}", one_line(&error)),
        }
    }
}

/// Counts as one, until dropped.
struct Counted(Arc<AtomicUsize>);

impl Counted {
    fn one_of(count: &Arc<AtomicUsize>) -> Counted {
        count.fetch_add(1, Ordering::SeqCst);
        Counted(count.clone())
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::SeqCst);
    }
}

/// Logs once, at the first delivery of a message, that it is left for the dead-letter queue.
fn refuse(message: &Message, why: &dyn std::fmt::Display) {
    let received = message.attributes().and_then(|all| all.get(&MessageSystemAttributeName::ApproximateReceiveCount));
    if received.is_none_or(|count| count == "1") {
        warn!(message_id = message.message_id(), "left for the dead-letter queue: {why}");
    }
}
