//! The outbox relay: publishes the rows of `order_events` that are not marked as published, at least once each.
//!
//! Any number of processes may run it: on PostgreSQL each claims rows that no other has (`FOR UPDATE SKIP LOCKED`).

use std::sync::Arc;
use std::time::Duration;

use aws_config::SdkConfig;
use aws_sdk_sqs::config::timeout::TimeoutConfig;
use aws_sdk_sqs::types::SendMessageBatchRequestEntry;
use chrono::Utc;
use entity::order_event::{self, Column};
use futures::{StreamExt, stream};
use process::{crash_point, one_line, queue};
use sea_orm::sea_query::{Expr, LockBehavior, LockType};
use sea_orm::{
    ColumnTrait, ConnectionTrait, DatabaseConnection, DbBackend, DbErr, EntityTrait, QueryFilter, QueryOrder,
    QuerySelect, TransactionTrait,
};
use tokio::sync::Notify;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};
use uuid::Uuid;

/// Rows claimed at once.
const CLAIM: u64 = 200;
/// `SendMessageBatch` calls under way at once.
const CONCURRENT_SENDS: usize = 4;
/// What one `SendMessageBatch` takes; 256 KiB is the limit that every SQS-compatible server knows.
/// <https://docs.aws.amazon.com/AWSSimpleQueueService/latest/APIReference/API_SendMessageBatch.html>
const BATCH_ENTRIES: usize = 10;
const BATCH_BYTES: usize = 256 * 1024;
/// How often to look without being woken: for rows that another process left behind.
const SWEEP: Duration = Duration::from_secs(1);
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

pub struct Relay {
    pub db: DatabaseConnection,
    pub queue: Queue,
    /// Notified after each commit that may have written events.
    pub wake: Arc<Notify>,
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
    /// Publishes until `shutdown`, then what is left.
    pub async fn run(self, shutdown: CancellationToken) {
        let mut backoff = Backoff::default();
        let (mut healthy, mut is_there) = (true, true);
        while !shutdown.is_cancelled() {
            // While the queue is away one call is enough to see whether it is back.
            let claim = if is_there { CLAIM } else { BATCH_ENTRIES as u64 };
            let failed = |problem| Pass { problem: Some(problem), ..Pass::default() };
            let pass = match timeout(PASS, self.publish_some(claim)).await {
                Ok(Ok(pass)) => pass,
                Ok(Err(error)) => failed(one_line(&error)),
                Err(_) => failed(format!("no answer within {PASS:?}")),
            };
            let Pass { published, refused, problem } = pass;
            is_there = problem.is_none() || published + refused > 0;
            // Where some were accepted the queue is there, and the others have their turn with the next pass.
            if let (0, Some(problem)) = (published, problem) {
                let pause = backoff.next();
                warn!(retry_in_ms = pause.as_millis(), "cannot publish events, which wait in the outbox: {problem}");
                healthy = false;
                let _ = timeout(pause, shutdown.cancelled()).await;
                continue;
            }
            if !healthy {
                info!("publishing events again");
                (healthy, backoff) = (true, Backoff::default());
            }
            if published == 0 {
                tokio::select! {
                    () = self.wake.notified() => {}
                    () = tokio::time::sleep(SWEEP) => {}
                    () = shutdown.cancelled() => {}
                }
            }
        }
        while self.run_once().await.is_ok_and(|pass| pass.published > 0) {}
    }

    /// Claims, sends and marks at most [`CLAIM`] events, oldest first.
    pub async fn run_once(&self) -> Result<Pass, DbErr> {
        self.publish_some(CLAIM).await
    }

    async fn publish_some(&self, claim: u64) -> Result<Pass, DbErr> {
        if self.db.get_database_backend() == DbBackend::Sqlite {
            // One process owns the file; there is nothing to claim, and no lock to hold while the queue answers.
            return self.publish(&self.db, claim).await;
        }
        let transaction = self.db.begin().await?;
        let pass = self.publish(&transaction, claim).await?;
        transaction.commit().await?;
        Ok(pass)
    }

    async fn publish(&self, db: &impl ConnectionTrait, claim: u64) -> Result<Pass, DbErr> {
        let claimed = order_event::Entity::find()
            .filter(Column::PublishedAt.is_null())
            .order_by_asc(Column::Id)
            .limit(claim)
            .lock_with_behavior(LockType::Update, LockBehavior::SkipLocked)
            .all(db)
            .await?;
        let messages = claimed.iter().map(|event| (event.id, event.message()));
        let sends = batches(messages).into_iter().map(|batch| self.send(batch));
        let sent: Vec<Sent> = stream::iter(sends).buffer_unordered(CONCURRENT_SENDS).collect().await;
        crash_point("relay-before-marking");
        let published: Vec<Uuid> = sent.iter().flat_map(|sent| sent.accepted.iter().copied()).collect();
        let refused = sent.iter().map(|sent| sent.refused).sum();
        let problem = sent.into_iter().find_map(|sent| sent.problem);
        let pass = Pass { published: published.len(), refused, problem };
        if !published.is_empty() {
            order_event::Entity::update_many()
                .col_expr(Column::PublishedAt, Expr::val(Utc::now()))
                .filter(Column::Id.is_in(published))
                .exec(db)
                .await?;
        }
        Ok(pass)
    }

    async fn send(&self, batch: Vec<(Uuid, String)>) -> Sent {
        let entries = batch.into_iter().map(|(id, message)| {
            let entry = SendMessageBatchRequestEntry::builder().id(id.to_string()).message_body(message);
            entry.build().expect("an id and a body are given")
        });
        crash_point("relay-mid-batches");
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

/// Packs messages, in order, into as few batches as SQS takes.
fn batches(messages: impl IntoIterator<Item = (Uuid, String)>) -> Vec<Vec<(Uuid, String)>> {
    let mut batches: Vec<Vec<(Uuid, String)>> = Vec::new();
    let mut bytes = 0;
    for (id, message) in messages {
        match batches.last_mut() {
            Some(batch) if batch.len() < BATCH_ENTRIES && bytes + message.len() <= BATCH_BYTES => {
                bytes += message.len();
                batch.push((id, message));
            }
            _ => {
                bytes = message.len();
                batches.push(vec![(id, message)]);
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
        let messages = messages.iter().map(|bytes| (Uuid::nil(), "x".repeat(*bytes)));
        batches(messages).iter().map(Vec::len).collect()
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
