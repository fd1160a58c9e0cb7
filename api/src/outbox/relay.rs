//! The outbox relay: publishes each event that has a row in `outbox` at least once, then deletes the row.
//!
//! The fast path publishes the events that this process has just committed, without reading them back. A poll finds the
//! unclaimed rest: events of a process that died, and events that the queue did not accept at first.
//!
//! Any number of processes may run a relay: on PostgreSQL each poll claims rows that no other relay has claimed (`FOR
//! UPDATE SKIP LOCKED`).

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

/// Rows per claim.
const CLAIM: u64 = 200;
/// Concurrent `SendMessageBatch` calls.
const CONCURRENT_SENDS: usize = 4;
/// Limits of one `SendMessageBatch` call. Every SQS-compatible server accepts 256 KiB.
/// <https://docs.aws.amazon.com/AWSSimpleQueueService/latest/APIReference/API_SendMessageBatch.html>
const MAX_BATCH_ENTRIES: usize = 10;
const MAX_BATCH_BYTES: usize = 256 * 1024;
const POLL_INTERVAL: Duration = Duration::from_secs(1);
/// The least age of events that a poll claims: the fast path sends younger ones.
const UNCLAIMED_AGE: Duration = Duration::from_secs(3);
/// The greatest age of events on the fast path. A poll sends older ones, so that no event is sent by both.
const FAST_PATH_AGE: Duration = Duration::from_secs(2);
/// Events that may wait on the fast path, some kilobytes each. A poll sends the rest.
const FAST_PATH_SIZE: usize = 2_000;
/// Limit for one attempt of a call to SQS.
const CALL_TIMEOUT: Duration = Duration::from_secs(5);
/// Limit for one pass: its calls to SQS, four at a time, each tried three times.
const PASS_TIMEOUT: Duration = Duration::from_secs(90);
/// Pauses between passes that publish nothing: they double, with jitter.
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
    /// Why some claimed events were not published. They stay in the outbox.
    pub problem: Option<String>,
}

impl Pass {
    fn failed(problem: String) -> Pass {
        Pass { problem: Some(problem), ..Pass::default() }
    }

    /// Whether the queue responded, or nothing was to be sent.
    fn reached_queue(&self) -> bool {
        self.problem.is_none() || self.published + self.rejected > 0
    }
}

/// The result of one call.
#[derive(Default)]
struct Sent {
    accepted: Vec<Uuid>,
    rejected: usize,
    /// Why the queue rejected an event, or why the call failed.
    problem: Option<String>,
}

impl Relay {
    /// A relay, and the sender of its fast path.
    pub fn new(db: DatabaseConnection, queue: Queue) -> (Relay, mpsc::Sender<Outgoing>) {
        let (sender, fast_path) = mpsc::channel(FAST_PATH_SIZE);
        (Relay { db, queue, fast_path }, sender)
    }

    /// Publishes until `shutdown`, then the rest.
    pub async fn run(mut self, shutdown: CancellationToken) {
        let (mut next_poll, mut is_reachable) = (Instant::now(), true);
        // While nothing can be published.
        let mut pauses: Option<ExponentialBackoff> = None;
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
            if is_poll && pass.published < CLAIM as usize {
                next_poll = Instant::now() + POLL_INTERVAL;
            }
            // When the queue accepted some events, the next pass tries the others.
            if let (0, Some(problem)) = (pass.published, pass.problem) {
                let pause = pauses.get_or_insert_with(|| BACKOFF.build()).next().unwrap_or(POLL_INTERVAL);
                warn!(retry_in_ms = pause.as_millis(), "cannot publish events, which wait in the outbox: {problem}");
                let _ = timeout(pause, shutdown.cancelled()).await;
                // The next poll finds the events of the fast path too.
                while !is_reachable && self.fast_path.try_recv().is_ok() {}
                next_poll = Instant::now();
            } else if pass.published > 0 && pauses.take().is_some() {
                info!("publishing events again");
            }
        }
        self.drain().await;
    }

    /// The next events on the fast path, or none when a poll is due.
    async fn next_committed(&mut self, next_poll: Instant) -> Vec<Outgoing> {
        let mut events = Vec::new();
        loop {
            tokio::select! {
                biased;
                () = sleep_until(next_poll) => return events,
                received = self.fast_path.recv_many(&mut events, CLAIM as usize) => {
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

    /// Publishes these events, or else what a poll claims.
    async fn pass(&self, events: Vec<Outgoing>, is_reachable: bool) -> Pass {
        let published = async {
            if !events.is_empty() {
                return self.publish(&self.db, events).await;
            }
            // One call is enough to find out whether the queue is back.
            let claim = if is_reachable { CLAIM } else { MAX_BATCH_ENTRIES as u64 };
            self.publish_claimed(claim, UNCLAIMED_AGE).await
        };
        match timeout(PASS_TIMEOUT, published).await {
            Ok(Ok(pass)) => pass,
            Ok(Err(error)) => Pass::failed(one_line(&error)),
            Err(_) => Pass::failed(format!("no response within {PASS_TIMEOUT:?}")),
        }
    }

    /// Publishes the rest of the fast path and of the outbox, as far as the queue accepts it.
    async fn drain(&mut self) {
        let mut events = Vec::new();
        while let Ok(event) = self.fast_path.try_recv() {
            events.push(event);
        }
        drop_stale(&mut events);
        let _ = self.publish(&self.db, events).await;
        while self.publish_claimed(CLAIM, UNCLAIMED_AGE).await.is_ok_and(|pass| pass.published > 0) {}
    }

    /// Claims, sends and removes at most [`CLAIM`] events, oldest first.
    pub async fn run_once(&self) -> Result<Pass, DbErr> {
        self.publish_claimed(CLAIM, Duration::ZERO).await
    }

    /// The same for events of this age or older.
    async fn publish_claimed(&self, claim: u64, age: Duration) -> Result<Pass, DbErr> {
        if self.db.get_database_backend() == DbBackend::Sqlite {
            // One process owns the file, so a claim needs no lock.
            let claimed = claimed(&self.db, claim, age).await?;
            return self.publish(&self.db, claimed).await;
        }
        let transaction = self.db.begin().await?;
        let claimed = claimed(&transaction, claim, age).await?;
        let pass = self.publish(&transaction, claimed).await?;
        transaction.commit().await?;
        Ok(pass)
    }

    async fn publish(&self, db: &impl ConnectionTrait, events: Vec<Outgoing>) -> Result<Pass, DbErr> {
        let sends = batches(events).into_iter().map(|batch| self.send(batch));
        let sent: Vec<Sent> = stream::iter(sends).buffer_unordered(CONCURRENT_SENDS).collect().await;
        crash_point(crash_points::RELAY_BEFORE_MARKING);
        let published: Vec<Uuid> = sent.iter().flat_map(|sent| sent.accepted.iter().copied()).collect();
        let rejected = sent.iter().map(|sent| sent.rejected).sum();
        let problem = sent.into_iter().find_map(|sent| sent.problem);
        let pass = Pass { published: published.len(), rejected, problem };
        if !published.is_empty() {
            let accepted = is_one_of(db, outbox::Column::EventId, published);
            outbox::Entity::delete_many().filter(accepted).exec(db).await?;
        }
        Ok(pass)
    }

    async fn send(&self, batch: Vec<Outgoing>) -> Sent {
        let entries = batch.into_iter().map(|Outgoing { id, message }| {
            let entry = SendMessageBatchRequestEntry::builder().id(id.to_string()).message_body(message);
            entry.build().expect("an id and a body are given")
        });
        crash_point(crash_points::RELAY_MID_BATCHES);
        let request = self.queue.client.send_message_batch().queue_url(&self.queue.url);
        match request.set_entries(Some(entries.collect())).send().await {
            Ok(response) => {
                let problem = response.failed().first().map(|entry| {
                    format!(
                        "the queue rejected event {}: {} {}",
                        entry.id(),
                        entry.code(),
                        entry.message().unwrap_or("")
                    )
                });
                let accepted = response.successful().iter().filter_map(|entry| entry.id().parse().ok()).collect();
                Sent { accepted, rejected: response.failed().len(), problem }
            }
            Err(error) => Sent { problem: Some(one_line(&error)), ..Sent::default() },
        }
    }
}

fn drop_stale(events: &mut Vec<Outgoing>) {
    let fresh = order_event::least_id_at(Utc::now() - FAST_PATH_AGE);
    events.retain(|event| event.id >= fresh);
}

/// The oldest events of the outbox that no other relay has claimed. A claim locks rows of the outbox only: locking rows of
/// the log would write to the log.
async fn claimed(db: &impl ConnectionTrait, claim: u64, age: Duration) -> Result<Vec<Outgoing>, DbErr> {
    let mut pending = outbox::Entity::find();
    if !age.is_zero() {
        pending = pending.filter(outbox::Column::EventId.lt(order_event::least_id_at(Utc::now() - age)));
    }
    let pending = pending.order_by_asc(outbox::Column::EventId).limit(claim);
    let claimed = pending.lock_with_behavior(LockType::Update, LockBehavior::SkipLocked).all(db).await?;
    if claimed.is_empty() {
        return Ok(Vec::new());
    }
    // A statement of its own: a join could be planned as a scan of the whole log.
    let ids = claimed.into_iter().map(|row| row.event_id);
    let events = order_event::Entity::find().filter(is_one_of(db, order_event::Column::Id, ids));
    Ok(events.order_by_asc(order_event::Column::Id).all(db).await?.iter().map(Outgoing::of).collect())
}

/// Divides messages, in their sequence, into batches within the limits of SQS.
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
