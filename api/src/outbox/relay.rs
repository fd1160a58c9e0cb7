//! The outbox relay: publishes each event that has a row in `outbox` at least once, then deletes the row.
//!
//! The fast path publishes events that this process created at most 2 s ago, without reading them back. A poll claims the
//! rows that are 3 s old or older, which the fast path did not send: events of a process that died, and events that the
//! queue did not accept at first. An event is rarely sent by both; the projector ignores the duplicate.
//!
//! An event that the queue refuses moves to the table `refused_events`, where it delays no other event, and is sent again after
//! pauses that double.
//!
//! Any number of processes may run a relay: on PostgreSQL a poll skips rows that another relay has claimed (`FOR UPDATE
//! SKIP LOCKED`).

use std::time::Duration;

use backon::{BackoffBuilder, ExponentialBackoff, ExponentialBuilder};
use runtime::{crash_point, crash_points, one_line};
use sea_orm::{ConnectionTrait, DatabaseConnection, DbBackend, DbErr, TransactionTrait};
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep_until, timeout};
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};
use uuid::Uuid;

use super::publisher::{Backlog, MAX_BATCH_ENTRIES, Sent};
pub use super::publisher::{Outgoing, Queue};
use super::rows::{self, Claim, MAX_CLAIMED_ROWS};

const POLL_INTERVAL: Duration = Duration::from_secs(1);
/// Minimum age of the rows that a poll claims.
const MIN_POLL_AGE: Duration = Duration::from_secs(3);
/// Maximum age of the events that the fast path sends.
const MAX_FAST_PATH_AGE: Duration = Duration::from_secs(2);
/// Events that may wait on the fast path, some kilobytes each. When it is full, a poll sends the others.
const FAST_PATH_SIZE: usize = 2_000;
/// Limit for one pass. What SQS has accepted by then is sent again, because the claim is rolled back.
const PASS_TIMEOUT: Duration = Duration::from_secs(90);
/// How long an event may wait before the log says so, and how often it does.
const LONG_WAIT: Duration = Duration::from_secs(60);
/// Pauses between passes that do not reach the queue: they double, with jitter.
const BACKOFF: ExponentialBuilder = ExponentialBuilder::new()
    .with_min_delay(Duration::from_millis(100))
    .with_max_delay(Duration::from_secs(10))
    .without_max_times()
    .with_jitter();

pub struct Relay {
    db: DatabaseConnection,
    queue: Queue,
    fast_path: mpsc::Receiver<Outgoing>,
    /// Whether a probe has just shown that the queue works.
    is_known_to_work: bool,
    /// Whether the queue refused every event of the last pass.
    refuses_all: bool,
    /// Whether the next poll sends all refused events, also those that are not due: the queue has just accepted one of them,
    /// or an event after a pass in which it refused all.
    retry_refused_now: bool,
    /// When the log last reported that events wait.
    last_warning: Option<Instant>,
}

/// The result of one pass.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Pass {
    pub published: usize,
    /// Events that the queue refused.
    pub rejected: usize,
    /// Why some events were not published.
    pub error: Option<String>,
}

impl Pass {
    fn of(sent: &Sent) -> Pass {
        let refusal = sent.refused.first().map(|(id, reason)| format!("the queue refused event {id}: {reason}"));
        let error = sent.error.clone().or(refusal);
        Pass { published: sent.accepted.len(), rejected: sent.refused.len(), error }
    }

    fn failed(error: String) -> Pass {
        Pass { error: Some(error), ..Pass::default() }
    }

    /// Whether the queue responded, or there was nothing to send.
    fn reached_queue(&self) -> bool {
        self.error.is_none() || self.published + self.rejected > 0
    }

    /// Whether there are probably more pending events.
    fn is_full(&self) -> bool {
        self.published + self.rejected >= MAX_CLAIMED_ROWS as usize
    }
}

impl Relay {
    /// A relay, and the sender of its fast path.
    pub fn new(db: DatabaseConnection, queue: Queue) -> (Relay, mpsc::Sender<Outgoing>) {
        let (sender, fast_path) = mpsc::channel(FAST_PATH_SIZE);
        (
            Relay {
                db,
                queue,
                fast_path,
                is_known_to_work: false,
                refuses_all: false,
                retry_refused_now: false,
                last_warning: None,
            },
            sender,
        )
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
            if pass.published + pass.rejected > 0 {
                let refused_all = std::mem::replace(&mut self.refuses_all, pass.published == 0);
                self.retry_refused_now |= refused_all && pass.published > 0;
            }
            if is_poll && !pass.is_full() && !self.retry_refused_now {
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
            if is_poll && pass.rejected == 0 {
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
            // Neither comes first: while polls follow each other, the fast path goes on.
            tokio::select! {
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
    async fn pass(&mut self, events: Vec<Outgoing>, is_reachable: bool) -> Pass {
        let published = async {
            match events.is_empty() {
                true => self.poll(is_reachable).await,
                false => self.publish(&self.db, events, MAX_BATCH_ENTRIES).await,
            }
        };
        match timeout(PASS_TIMEOUT, published).await {
            Ok(Ok(pass)) => pass,
            Ok(Err(error)) => Pass::failed(one_line(&error)),
            Err(_) => Pass::failed(format!("no response within {PASS_TIMEOUT:?}")),
        }
    }

    /// Publishes pending events, and then refused events.
    async fn poll(&mut self, is_reachable: bool) -> Result<Pass, DbErr> {
        // Set again below: otherwise polls would follow each other without a pause.
        let also_early = std::mem::take(&mut self.retry_refused_now);
        let backlog = rows::backlog(&self.db).await?;
        self.report(backlog);
        if backlog == Backlog::default() {
            return Ok(Pass::default());
        }
        // Few calls are enough to find out whether the queue is back.
        let claim = if is_reachable { Claim::Pending(MIN_POLL_AGE) } else { Claim::Probe };
        let pass = self.publish_claimed(claim).await?;
        self.is_known_to_work = !is_reachable && pass.published > 0;
        self.retry_refused_now = backlog.refused > 0 && pass.reached_queue() && {
            let claim = if also_early { Claim::RefusedEarly } else { Claim::Refused };
            self.publish_claimed(claim).await?.published > 0
        };
        Ok(pass)
    }

    fn report(&mut self, backlog: Backlog) {
        let oldest = backlog.oldest.filter(|age| *age >= MIN_POLL_AGE);
        self.queue.backlog.send_replace(Backlog { oldest, ..backlog });
        let was_reported = self.last_warning.is_some_and(|reported| reported.elapsed() < LONG_WAIT);
        if let Some(age) = oldest.filter(|age| *age >= LONG_WAIT && !was_reported) {
            self.last_warning = Some(Instant::now());
            warn!(
                oldest_unpublished_s = age.as_secs(),
                refused_events = backlog.refused,
                "events wait to be published"
            );
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
        let _ = self.publish(&self.db, events, MAX_BATCH_ENTRIES).await;
        let has_progress = |pass: Pass| pass.published + pass.rejected > 0;
        while self.publish_claimed(Claim::Pending(started.elapsed())).await.is_ok_and(has_progress) {}
    }

    /// Claims, publishes and deletes at most [`MAX_CLAIMED_ROWS`] rows of any age, oldest first, and then as many of those that
    /// the queue has refused.
    pub async fn run_once(&self) -> Result<Pass, DbErr> {
        let pending = self.publish_claimed(Claim::Pending(Duration::ZERO)).await?;
        let refused = self.publish_claimed(Claim::RefusedEarly).await?;
        Ok(Pass {
            published: pending.published + refused.published,
            rejected: pending.rejected + refused.rejected,
            error: pending.error.or(refused.error),
        })
    }

    async fn publish_claimed(&self, claim: Claim) -> Result<Pass, DbErr> {
        if self.db.get_database_backend() == DbBackend::Sqlite {
            // One process owns the file, so a claim needs no lock.
            return self.claim_and_publish(&self.db, claim).await;
        }
        let transaction = self.db.begin().await?;
        let pass = self.claim_and_publish(&transaction, claim).await?;
        transaction.commit().await?;
        Ok(pass)
    }

    async fn claim_and_publish(&self, db: &impl ConnectionTrait, claim: Claim) -> Result<Pass, DbErr> {
        let events = rows::claim(db, claim).await?;
        match claim.of_refused() {
            true => self.retry(db, events, claim.batch_entries()).await,
            false => self.publish(db, events, claim.batch_entries()).await,
        }
    }

    /// Publishes events whose rows are in the outbox.
    async fn publish(
        &self,
        db: &impl ConnectionTrait,
        events: Vec<Outgoing>,
        batch_entries: usize,
    ) -> Result<Pass, DbErr> {
        let sent = self.queue.send(events, batch_entries, self.is_known_to_work).await;
        crash_point(crash_points::RELAY_BEFORE_DELETE);
        let pass = Pass::of(&sent);
        for (event_id, reason) in &sent.refused {
            warn!(%event_id, "the queue refused an event; it is sent again later: {reason}");
        }
        rows::delete(db, sent.accepted).await?;
        rows::refuse(db, &sent.refused).await?;
        Ok(pass)
    }

    /// Sends refused events again.
    async fn retry(
        &self,
        db: &impl ConnectionTrait,
        events: Vec<Outgoing>,
        batch_entries: usize,
    ) -> Result<Pass, DbErr> {
        if events.is_empty() {
            return Ok(Pass::default());
        }
        let ids: Vec<Uuid> = events.iter().map(|event| event.id).collect();
        let sent = self.queue.send(events, batch_entries, self.is_known_to_work).await;
        crash_point(crash_points::RELAY_BEFORE_DELETE);
        let pass = Pass::of(&sent);
        if pass.published > 0 {
            info!(events = pass.published, "published events that the queue had refused");
        }
        rows::retried(db, ids, sent.accepted).await?;
        Ok(pass)
    }
}

/// Drops the events that a poll sends.
fn drop_stale(events: &mut Vec<Outgoing>) {
    events.retain(|event| event.created.elapsed() <= MAX_FAST_PATH_AGE);
}
