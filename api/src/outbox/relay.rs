//! The outbox relay: publishes each event that has a row in `outbox` at least once, then deletes the row.
//!
//! The fast path publishes events that this process committed at most 2 s ago, without reading them back. A poll claims the
//! rows that are 3 s old or older, which the fast path did not send: events of a process that died, and events that the
//! queue did not accept at first. An event is rarely sent by both; the projector ignores the duplicate.
//!
//! Any number of processes may run a relay: on PostgreSQL a poll skips rows that another relay has claimed (`FOR UPDATE
//! SKIP LOCKED`).

use std::time::Duration;

use aws_config::SdkConfig;
use aws_sdk_sqs::config::timeout::TimeoutConfig;
use aws_sdk_sqs::types::SendMessageBatchRequestEntry;
use backon::{BackoffBuilder, ExponentialBackoff, ExponentialBuilder};
use chrono::Utc;
use entity::{order_event, outbox};
use futures::{StreamExt, stream};
use runtime::{crash_point, crash_points, one_line, queue};
use sea_orm::sea_query::{LockBehavior, LockType};
use sea_orm::{
    ColumnTrait, ConnectionTrait, DatabaseConnection, DbBackend, DbErr, EntityTrait, QueryFilter, QueryOrder,
    QuerySelect, TransactionTrait,
};
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep_until, timeout};
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};
use uuid::Uuid;

use crate::commands::database::is_one_of;

const MAX_CLAIMED_ROWS: u64 = 200;
/// Concurrent `SendMessageBatch` calls.
const CONCURRENT_SENDS: usize = 4;
/// Limits of one `SendMessageBatch` call. Every SQS-compatible server accepts 256 KiB.
/// <https://docs.aws.amazon.com/AWSSimpleQueueService/latest/APIReference/API_SendMessageBatch.html>
const MAX_BATCH_ENTRIES: usize = 10;
const MAX_BATCH_BYTES: usize = 256 * 1024;
const POLL_INTERVAL: Duration = Duration::from_secs(1);
/// Minimum age of the rows that a poll claims.
const MIN_POLL_AGE: Duration = Duration::from_secs(3);
/// Maximum age of the events that the fast path sends.
const MAX_FAST_PATH_AGE: Duration = Duration::from_secs(2);
/// Events that may wait on the fast path, some kilobytes each. When it is full, a poll sends the others.
const FAST_PATH_SIZE: usize = 2_000;
/// Limit for one attempt of a call to SQS.
const CALL_TIMEOUT: Duration = Duration::from_secs(5);
/// Limit for one pass: its calls to SQS, four at a time, each tried three times.
const PASS_TIMEOUT: Duration = Duration::from_secs(90);
/// Pauses between passes that do not reach the queue: they double, with jitter.
const BACKOFF: ExponentialBuilder = ExponentialBuilder::new()
    .with_min_delay(Duration::from_millis(100))
    .with_max_delay(Duration::from_secs(10))
    .without_max_times()
    .with_jitter();

#[derive(Clone)]
pub struct Queue {
    pub client: aws_sdk_sqs::Client,
    pub url: String,
}

impl Queue {
    pub fn new(settings: &SdkConfig, url: String) -> Queue {
        let timeouts = TimeoutConfig::builder().operation_attempt_timeout(CALL_TIMEOUT).build();
        let config = aws_sdk_sqs::config::Builder::from(settings).timeout_config(timeouts).build();
        Queue { client: aws_sdk_sqs::Client::from_conf(config), url }
    }

    /// # Errors
    /// When the queue does not exist or cannot be reached.
    pub async fn check(&self) -> anyhow::Result<()> {
        queue::attributes(&self.client, &self.url).await.map(drop)
    }
}

/// An event and its message.
#[derive(Debug)]
pub struct Outgoing {
    id: Uuid,
    message: String,
}

impl Outgoing {
    pub fn of(event: &order_event::Model) -> Outgoing {
        Outgoing { id: event.id, message: event.message() }
    }
}

pub struct Relay {
    db: DatabaseConnection,
    queue: Queue,
    fast_path: mpsc::Receiver<Outgoing>,
}

/// The result of one pass.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Pass {
    pub published: usize,
    /// Events that the queue rejected.
    pub rejected: usize,
    /// Why some events were not published. They stay in the outbox.
    pub error: Option<String>,
}

impl Pass {
    fn failed(error: String) -> Pass {
        Pass { error: Some(error), ..Pass::default() }
    }

    /// Whether the queue responded, or there was nothing to send.
    fn reached_queue(&self) -> bool {
        self.error.is_none() || self.published + self.rejected > 0
    }
}

/// The result of one `SendMessageBatch` call.
#[derive(Default)]
struct SendResult {
    accepted: Vec<Uuid>,
    rejected: usize,
    /// Why the queue rejected an event, or why the call failed.
    error: Option<String>,
}

impl Relay {
    /// A relay, and the sender of its fast path.
    pub fn new(db: DatabaseConnection, queue: Queue) -> (Relay, mpsc::Sender<Outgoing>) {
        let (sender, fast_path) = mpsc::channel(FAST_PATH_SIZE);
        (Relay { db, queue, fast_path }, sender)
    }

    /// Publishes events until `shutdown`, and then the events that are still in the outbox.
    pub async fn run(mut self, shutdown: CancellationToken) {
        let (mut next_poll, mut is_reachable) = (Instant::now(), true);
        let mut backoff: Option<ExponentialBackoff> = None;
        let mut last_error = None;
        while !shutdown.is_cancelled() {
            let mut events = Vec::new();
            if is_reachable {
                tokio::select! {
                    committed = self.next_committed(next_poll) => events = committed,
                    () = shutdown.cancelled() => break,
                }
            }
            let is_poll = events.is_empty();
            let pass = self.pass(events, is_reachable).await;
            is_reachable = pass.reached_queue();
            if is_poll && pass.published < MAX_CLAIMED_ROWS as usize {
                next_poll = Instant::now() + POLL_INTERVAL;
            }
            if let (false, Some(error)) = (is_reachable, &pass.error) {
                let pause = backoff.get_or_insert_with(|| BACKOFF.build()).next().unwrap_or(POLL_INTERVAL);
                warn!(retry_in_ms = pause.as_millis(), "cannot publish events; they stay in the outbox: {error}");
                let _ = timeout(pause, shutdown.cancelled()).await;
                // Polls read these events from the outbox.
                while self.fast_path.try_recv().is_ok() {}
                continue;
            }
            if pass.published > 0 && backoff.take().is_some() {
                info!("publishing events again");
            }
            if is_poll {
                // An event that the queue always rejects is logged once, not at each poll.
                if let Some(error) = pass.error.as_ref().filter(|_| pass.error != last_error) {
                    warn!("some events are not published; they stay in the outbox: {error}");
                }
                last_error = pass.error;
            }
        }
        self.drain().await;
    }

    /// Waits for events on the fast path. Returns none when a poll is due.
    async fn next_committed(&mut self, next_poll: Instant) -> Vec<Outgoing> {
        let mut events = Vec::new();
        loop {
            tokio::select! {
                biased;
                () = sleep_until(next_poll) => return events,
                received = self.fast_path.recv_many(&mut events, MAX_CLAIMED_ROWS as usize) => {
                    drop_stale(&mut events);
                    if received == 0 {
                        sleep_until(next_poll).await; // every sender is gone
                    } else if !events.is_empty() {
                        return events;
                    }
                }
            }
        }
    }

    /// Publishes these events. If there are none, polls.
    async fn pass(&self, events: Vec<Outgoing>, is_reachable: bool) -> Pass {
        let published = async {
            if !events.is_empty() {
                return self.publish(&self.db, events).await;
            }
            // One call is enough to find out whether the queue is back.
            let limit = if is_reachable { MAX_CLAIMED_ROWS } else { MAX_BATCH_ENTRIES as u64 };
            self.publish_claimed(limit, MIN_POLL_AGE).await
        };
        match timeout(PASS_TIMEOUT, published).await {
            Ok(Ok(pass)) => pass,
            Ok(Err(error)) => Pass::failed(one_line(&error)),
            Err(_) => Pass::failed(format!("no response within {PASS_TIMEOUT:?}")),
        }
    }

    /// Publishes the events that wait on the fast path and in the outbox, until the queue accepts none. Leaves the events
    /// that other processes commit meanwhile.
    async fn drain(&mut self) {
        let started = Instant::now();
        let mut events = Vec::new();
        while let Ok(event) = self.fast_path.try_recv() {
            events.push(event);
        }
        drop_stale(&mut events);
        let _ = self.publish(&self.db, events).await;
        while self.publish_claimed(MAX_CLAIMED_ROWS, started.elapsed()).await.is_ok_and(|pass| pass.published > 0) {}
    }

    /// Claims, publishes and deletes at most [`MAX_CLAIMED_ROWS`] rows of any age, oldest first.
    pub async fn run_once(&self) -> Result<Pass, DbErr> {
        self.publish_claimed(MAX_CLAIMED_ROWS, Duration::ZERO).await
    }

    /// Claims, publishes and deletes at most `limit` rows that are at least this old.
    async fn publish_claimed(&self, limit: u64, min_age: Duration) -> Result<Pass, DbErr> {
        if self.db.get_database_backend() == DbBackend::Sqlite {
            // One process owns the file, so a claim needs no lock.
            let claimed = claim_rows(&self.db, limit, min_age).await?;
            return self.publish(&self.db, claimed).await;
        }
        let transaction = self.db.begin().await?;
        let claimed = claim_rows(&transaction, limit, min_age).await?;
        let pass = self.publish(&transaction, claimed).await?;
        transaction.commit().await?;
        Ok(pass)
    }

    async fn publish(&self, db: &impl ConnectionTrait, events: Vec<Outgoing>) -> Result<Pass, DbErr> {
        let sends = batches(events).into_iter().map(|batch| self.send(batch));
        let results: Vec<SendResult> = stream::iter(sends).buffer_unordered(CONCURRENT_SENDS).collect().await;
        crash_point(crash_points::RELAY_BEFORE_DELETE);
        let published: Vec<Uuid> = results.iter().flat_map(|result| result.accepted.iter().copied()).collect();
        let rejected = results.iter().map(|result| result.rejected).sum();
        let error = results.into_iter().find_map(|result| result.error);
        let pass = Pass { published: published.len(), rejected, error };
        if !published.is_empty() {
            let accepted = is_one_of(db, outbox::Column::EventId, published);
            outbox::Entity::delete_many().filter(accepted).exec(db).await?;
        }
        Ok(pass)
    }

    async fn send(&self, batch: Vec<Outgoing>) -> SendResult {
        let entries = batch.into_iter().map(|Outgoing { id, message }| {
            let entry = SendMessageBatchRequestEntry::builder().id(id.to_string()).message_body(message);
            entry.build().expect("an id and a body are given")
        });
        crash_point(crash_points::RELAY_MID_BATCHES);
        let request = self.queue.client.send_message_batch().queue_url(&self.queue.url);
        match request.set_entries(Some(entries.collect())).send().await {
            Ok(response) => {
                let error = response.failed().first().map(|entry| {
                    format!(
                        "the queue rejected event {}: {} {}",
                        entry.id(),
                        entry.code(),
                        entry.message().unwrap_or("")
                    )
                });
                let accepted = response.successful().iter().filter_map(|entry| entry.id().parse().ok()).collect();
                SendResult { accepted, rejected: response.failed().len(), error }
            }
            Err(error) => SendResult { error: Some(one_line(&error)), ..SendResult::default() },
        }
    }
}

/// Drops the events that a poll sends.
fn drop_stale(events: &mut Vec<Outgoing>) {
    let least = order_event::least_id_at(Utc::now() - MAX_FAST_PATH_AGE);
    events.retain(|event| event.id >= least);
}

/// Claims the oldest rows of the outbox that no other relay has claimed, and reads their events. Only rows of the outbox are
/// locked: a lock on a row of `order_events` would write to that table.
async fn claim_rows(db: &impl ConnectionTrait, limit: u64, min_age: Duration) -> Result<Vec<Outgoing>, DbErr> {
    let mut pending = outbox::Entity::find();
    if !min_age.is_zero() {
        pending = pending.filter(outbox::Column::EventId.lt(order_event::least_id_at(Utc::now() - min_age)));
    }
    let pending = pending.order_by_asc(outbox::Column::EventId).limit(limit);
    let claimed = pending.lock_with_behavior(LockType::Update, LockBehavior::SkipLocked).all(db).await?;
    if claimed.is_empty() {
        return Ok(Vec::new());
    }
    // A separate statement, because PostgreSQL could plan a join as a scan of the whole table `order_events`.
    let ids = claimed.into_iter().map(|row| row.event_id);
    let events = order_event::Entity::find().filter(is_one_of(db, order_event::Column::Id, ids));
    Ok(events.order_by_asc(order_event::Column::Id).all(db).await?.iter().map(Outgoing::of).collect())
}

/// Divides messages into batches within the limits of SQS, and keeps their order.
fn batches(events: Vec<Outgoing>) -> Vec<Vec<Outgoing>> {
    let mut batches: Vec<Vec<Outgoing>> = Vec::new();
    let mut bytes = 0;
    for event in events {
        match batches.last_mut() {
            Some(batch) if batch.len() < MAX_BATCH_ENTRIES && bytes + event.message.len() <= MAX_BATCH_BYTES => {
                bytes += event.message.len();
                batch.push(event);
            }
            _ => {
                bytes = event.message.len();
                batches.push(vec![event]);
            }
        }
    }
    batches
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sizes(messages: &[usize]) -> Vec<usize> {
        let messages = messages.iter().map(|bytes| Outgoing { id: Uuid::nil(), message: "x".repeat(*bytes) });
        batches(messages.collect()).iter().map(Vec::len).collect()
    }

    #[test]
    fn a_batch_has_at_most_ten_messages_and_256_kib() {
        assert_eq!(sizes(&[]), [0; 0]);
        assert_eq!(sizes(&[1; 10]), [10]);
        assert_eq!(sizes(&[1; 21]), [10, 10, 1]);
        assert_eq!(sizes(&[MAX_BATCH_BYTES / 2, MAX_BATCH_BYTES / 2]), [2]);
        assert_eq!(sizes(&[MAX_BATCH_BYTES / 2, MAX_BATCH_BYTES / 2 + 1, 1]), [1, 2]);
        assert_eq!(sizes(&[MAX_BATCH_BYTES, 1, MAX_BATCH_BYTES]), [1, 1, 1]);
    }
}
