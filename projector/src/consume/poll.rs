//! Pollers: a few while the queue is nearly empty, more while there is a backlog.

use std::sync::atomic::Ordering;
use std::time::Duration;

use anyhow::Context;
use aws_sdk_sqs::Client;
use aws_sdk_sqs::types::{Message, MessageSystemAttributeName};
use runtime::one_line;
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;

use super::reception::Began;
use super::{Consumer, CountGuard, Processed};
use crate::metrics;
use crate::queues::{CALL_TIMEOUT, timeout_config};

/// Messages that one call returns at most: the largest value that SQS allows.
/// <https://docs.aws.amazon.com/AWSSimpleQueueService/latest/APIReference/API_ReceiveMessage.html>
const RECEIVE_BATCH: usize = 10;
/// How long a call waits for the first message. A shutdown waits as long, so it is less than the 10 seconds after which
/// container runtimes kill a process. SQS allows 20 seconds, which would need a quarter of the calls.
const LONG_POLL: Duration = Duration::from_secs(5);
/// Pollers without a backlog. Each call costs money, also one that returns no message.
const IDLE_POLLERS: u32 = 4;
/// How often servers look for a message during a long poll: the embedded one every 100 ms.
const SERVER_INTERVAL: Duration = Duration::from_millis(100);
/// Pause before the next attempt while the queue or the read model is unavailable.
pub(super) const RETRY_PAUSE: Duration = Duration::from_millis(500);

pub(super) fn long_polling(queue: &Client) -> Client {
    Client::from_conf(queue.config().to_builder().timeout_config(timeout_config(LONG_POLL + CALL_TIMEOUT)).build())
}

impl Consumer {
    /// Runs up to `pollers` pollers until `shutdown`. Each waits for its receive call and finishes the messages that it gets. They end at
    /// once if this is dropped.
    pub async fn run(self, pollers: u32, shutdown: CancellationToken) -> anyhow::Result<()> {
        metrics::observe(&self);
        let idle_pollers = pollers.min(IDLE_POLLERS);
        let mut running = JoinSet::new();
        running.spawn(self.clone().report(shutdown.clone()));
        for n in 0..pollers {
            // Spread over the interval in which a server looks for messages, so that they do not all call at the same time.
            let delay = (n < idle_pollers).then(|| SERVER_INTERVAL * n / idle_pollers);
            running.spawn(self.clone().poll(delay, shutdown.clone()));
        }
        while let Some(ended) = running.join_next().await {
            ended.context("a poller failed")?;
        }
        Ok(())
    }

    /// Polls after a delay, or only during a backlog if there is no delay.
    async fn poll(self, delay: Option<Duration>, shutdown: CancellationToken) {
        sleep(delay.unwrap_or_default()).await;
        let (mut joins, mut was_full, mut busy) = (delay.is_some(), false, None);
        while !shutdown.is_cancelled() {
            if !joins {
                tokio::select! {
                    () = self.backlog.notified() => {}
                    () = shutdown.cancelled() => return,
                }
            }
            let began = self.reception.begin();
            // The queue may give messages to a call whose caller is gone. They would be invisible for 30 seconds.
            let received = tokio::select! {
                received = self.receive_unless_paused(began) => received,
                () = after(&shutdown, LONG_POLL + CALL_TIMEOUT) => return,
            };
            let is_full = received.as_ref().is_ok_and(|messages| messages.len() == RECEIVE_BATCH);
            if is_full {
                self.backlog.notify_one();
            }
            joins = delay.is_some() || is_full;
            // One full batch may have come while nobody polled.
            busy = (was_full && is_full).then(|| busy.take().unwrap_or_else(|| CountGuard::new(&self.busy)));
            was_full = is_full;
            // While the events of half of the busy pollers are applied, the other half receives and deletes.
            let min_batch = if busy.is_some() { self.busy.load(Ordering::SeqCst) * RECEIVE_BATCH / 2 } else { 0 };
            match received {
                Ok(messages) => {
                    self.process(messages, min_batch, &shutdown).await;
                }
                Err(problem) => {
                    self.reception.pause(began, &problem);
                    let _ = timeout(RETRY_PAUSE, shutdown.cancelled()).await;
                }
            }
        }
    }

    async fn receive_unless_paused(&self, began: Began) -> Result<Vec<Message>, String> {
        let waits_for_redis = || self.waiting_for_redis.load(Ordering::SeqCst) > 0;
        if waits_for_redis() {
            return Err("Redis is unavailable: it has not applied the received events yet".into());
        }
        // Messages that another process holds would be redelivered here.
        self.read_model.ping().await.map_err(|error| error.to_string())?;
        let messages = self.receive(LONG_POLL).await?;
        self.activity.received(messages.is_empty());
        // Other pollers may still wait with messages.
        if !waits_for_redis() {
            self.reception.resume(began);
        }
        Ok(messages)
    }

    /// Receives messages without waiting for them, and processes them.
    pub async fn run_once(&self) -> Result<Processed, String> {
        let messages = self.receive(Duration::ZERO).await?;
        Ok(self.process(messages, 0, &CancellationToken::new()).await)
    }

    async fn receive(&self, wait: Duration) -> Result<Vec<Message>, String> {
        let received = self
            .long_polling
            .receive_message()
            .queue_url(&self.queue_url)
            .max_number_of_messages(RECEIVE_BATCH as i32)
            .wait_time_seconds(wait.as_secs() as i32)
            .message_system_attribute_names(MessageSystemAttributeName::ApproximateReceiveCount)
            .message_system_attribute_names(MessageSystemAttributeName::SentTimestamp)
            .message_system_attribute_names(MessageSystemAttributeName::ApproximateFirstReceiveTimestamp)
            .send()
            .await
            .map_err(|error| one_line(&error))?;
        Ok(received.messages.unwrap_or_default())
    }
}

/// Completes some time after the shutdown began.
async fn after(shutdown: &CancellationToken, time: Duration) {
    shutdown.cancelled().await;
    sleep(time).await;
}
