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

/// Rows claimed at once.
const CLAIM: u64 = 200;
/// `SendMessageBatch` calls under way at once.
const CONCURRENT_SENDS: usize = 4;
/// What one `SendMessageBatch` takes; 256 KiB is the limit that every SQS-compatible server knows.
/// <https://docs.aws.amazon.com/AWSSimpleQueueService/latest/APIReference/API_SendMessageBatch.html>
const BATCH_ENTRIES: usize = 10;
const BATCH_BYTES: usize = 256 * 1024;
/// How often to look into the outbox, and how old what is found there is at least: what is younger is being sent.
const SWEEP: Duration = Duration::from_secs(1);
const LEFT_BEHIND: Duration = Duration::from_secs(3);
/// What was handed over and has waited longer is left for that: nothing is to be sent by both.
const FRESH: Duration = Duration::from_secs(2);
/// Events that were handed over and wait, at most, some kilobytes each. Others are found by looking.
const HANDED_OVER: usize = 2_000;
/// How long one attempt of a call to SQS may take.
const CALL_TIMEOUT: Duration = Duration::from_secs(5);
/// How long a pass may take: its calls to SQS, four at a time, each tried three times.
const PASS: Duration = Duration::from_secs(90);
const MAX_BACKOFF: Duration = Duration::from_secs(10);

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

    /// Whether the queue is there.
    pub async fn check(&self) -> anyhow::Result<()> {
        queue::attributes(&self.client, &self.url).await.map(drop)
    }
}

/// An event as it is published.
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
    handed_over: mpsc::Receiver<Outgoing>,
}

/// What one pass did.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Pass {
    pub published: usize,
    /// What the queue was asked for and refused.
    pub refused: usize,
    /// Why some of what was claimed was not published: it stays in the outbox.
    pub problem: Option<String>,
}

/// What became of one call.
#[derive(Default)]
struct Sent {
    accepted: Vec<Uuid>,
    refused: usize,
    /// What the queue said of one that it refused, or of the whole call.
    problem: Option<String>,
}

impl Relay {
    /// A relay, and where to hand over what was committed.
    pub fn new(db: DatabaseConnection, queue: Queue) -> (Relay, mpsc::Sender<Outgoing>) {
        let (sender, handed_over) = mpsc::channel(HANDED_OVER);
        (Relay { db, queue, handed_over }, sender)
    }

    /// Publishes until `shutdown`, then what is left.
    pub async fn run(mut self, shutdown: CancellationToken) {
        let mut backoff = Backoff::default();
        let (mut healthy, mut is_there) = (true, true);
        let mut look = Instant::now();
        while !shutdown.is_cancelled() {
            let mut events = Vec::new();
            if is_there && Instant::now() < look {
                tokio::select! {
                    received = self.handed_over.recv_many(&mut events, CLAIM as usize) => {
                        drop_stale(&mut events);
                        if received == 0 {
                            sleep_until(look).await; // nobody can hand over any more
                        }
                        if events.is_empty() {
                            continue;
                        }
                    }
                    () = sleep_until(look) => {}
                    () = shutdown.cancelled() => break,
                }
            }
            let looks = events.is_empty();
            let failed = |problem| Pass { problem: Some(problem), ..Pass::default() };
            let published = async {
                if !events.is_empty() {
                    return self.publish(&self.db, events).await;
                }
                // While the queue is away one call is enough to see whether it is back.
                let claim = if is_there { CLAIM } else { BATCH_ENTRIES as u64 };
                self.publish_claimed(claim, LEFT_BEHIND).await
            };
            let pass = match timeout(PASS, published).await {
                Ok(Ok(pass)) => pass,
                Ok(Err(error)) => failed(one_line(&error)),
                Err(_) => failed(format!("no answer within {PASS:?}")),
            };
            let Pass { published, refused, problem } = pass;
            is_there = problem.is_none() || published + refused > 0;
            if looks && published < CLAIM as usize {
                look = Instant::now() + SWEEP;
            }
            // Where some were accepted the queue is there, and the others have their turn with the next pass.
            if let (0, Some(problem)) = (published, problem) {
                let pause = backoff.next();
                warn!(retry_in_ms = pause.as_millis(), "cannot publish events, which wait in the outbox: {problem}");
                healthy = false;
                let _ = timeout(pause, shutdown.cancelled()).await;
                // It is all in the outbox.
                while !is_there && self.handed_over.try_recv().is_ok() {}
                look = Instant::now();
                continue;
            }
            if !healthy && published > 0 {
                info!("publishing events again");
                (healthy, backoff) = (true, Backoff::default());
            }
        }
        let mut events = Vec::new();
        while let Ok(event) = self.handed_over.try_recv() {
            events.push(event);
        }
        drop_stale(&mut events);
        let _ = self.publish(&self.db, events).await;
        while self.publish_claimed(CLAIM, LEFT_BEHIND).await.is_ok_and(|pass| pass.published > 0) {}
    }

    /// Claims, sends and marks at most [`CLAIM`] events, oldest first.
    pub async fn run_once(&self) -> Result<Pass, DbErr> {
        self.publish_claimed(CLAIM, Duration::ZERO).await
    }

    /// Those that have this age at least.
    async fn publish_claimed(&self, claim: u64, age: Duration) -> Result<Pass, DbErr> {
        if self.db.get_database_backend() == DbBackend::Sqlite {
            // One process owns the file; there is nothing to claim, and no lock to hold while the queue answers.
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
        let refused = sent.iter().map(|sent| sent.refused).sum();
        let problem = sent.into_iter().find_map(|sent| sent.problem);
        let pass = Pass { published: published.len(), refused, problem };
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
            Ok(answer) => {
                let problem = answer.failed().first().map(|entry| {
                    format!(
                        "the queue refused event {}: {} {}",
                        entry.id(),
                        entry.code(),
                        entry.message().unwrap_or("")
                    )
                });
                let accepted = answer.successful().iter().filter_map(|entry| entry.id().parse().ok()).collect();
                Sent { accepted, refused: answer.failed().len(), problem }
            }
            Err(error) => Sent { problem: Some(one_line(&error)), ..Sent::default() },
        }
    }
}

fn drop_stale(events: &mut Vec<Outgoing>) {
    let fresh = order_event::least_id_at(Utc::now() - FRESH);
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

/// Packs messages, in order, into as few batches as SQS takes.
fn batches(events: Vec<Outgoing>) -> Vec<Vec<Outgoing>> {
    let mut batches: Vec<Vec<Outgoing>> = Vec::new();
    let mut bytes = 0;
    for event in events {
        match batches.last_mut() {
            Some(batch) if batch.len() < BATCH_ENTRIES && bytes + event.message.len() <= BATCH_BYTES => {
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

/// Doubling pauses with full jitter.
#[derive(Default)]
struct Backoff {
    failures: u32,
}

impl Backoff {
    fn next(&mut self) -> Duration {
        let ceiling = Duration::from_millis(100 << self.failures.min(10)).min(MAX_BACKOFF);
        self.failures += 1;
        // Any spread will do; a version 7 UUID ends in random bits.
        ceiling.mul_f64(f64::from(Uuid::now_v7().as_bytes()[15]) / 255.0).max(Duration::from_millis(50))
    }
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
        assert_eq!(sizes(&[BATCH_BYTES / 2, BATCH_BYTES / 2]), [2]);
        assert_eq!(sizes(&[BATCH_BYTES / 2, BATCH_BYTES / 2 + 1, 1]), [1, 2]);
        assert_eq!(sizes(&[BATCH_BYTES, 1, BATCH_BYTES]), [1, 1, 1]);
    }
}
