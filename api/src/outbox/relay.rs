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
use super::rows::{self, Claim, MAX_CLAIMED_ROWS, Scan};

const POLL_INTERVAL: Duration = Duration::from_secs(1);
/// Minimum age of the rows that a poll claims.
const MIN_POLL_AGE: Duration = Duration::from_secs(3);
/// How often a poll looks for pending events that are not recent, such as those of an api whose clock is slow.
const FULL_SCAN_INTERVAL: Duration = Duration::from_secs(60);
/// Maximum age of the events that the fast path sends.
const MAX_FAST_PATH_AGE: Duration = Duration::from_secs(2);
/// Events that may wait on the fast path, some kilobytes each. When it is full, a poll sends the others.
const FAST_PATH_SIZE: usize = 2_000;
/// Limit for a claim, after which its transaction is rolled back. Sending ends earlier by itself, so that a slow queue does not
/// roll back what SQS has accepted.
const DATABASE_TIMEOUT: Duration = Duration::from_secs(90);
/// Wait of an event after which it is logged, and the interval between such log lines.
const LONG_WAIT: Duration = Duration::from_secs(60);
/// Pauses between polls that fail: they double, with jitter.
const BACKOFF: ExponentialBuilder = ExponentialBuilder::new()
    .with_min_delay(Duration::from_millis(100))
    .with_max_delay(Duration::from_secs(10))
    .without_max_times()
    .with_jitter();

pub struct Relay {
    db: DatabaseConnection,
    queue: Queue,
    fast_path: mpsc::Receiver<Outgoing>,
    /// When a poll next reads all pending events.
    next_full_scan: Instant,
    /// The last event of a full claim whose events mostly stayed pending. The next poll starts after it: the queue may take newer
    /// events.
    skipped_until: Option<Uuid>,
    /// Whether the queue has just accepted an event that it refused before: it may accept the others, too.
    accepts_refused: bool,
    /// When the log last reported that events wait.
    last_warning: Option<Instant>,
}

/// The result of one pass.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Pass {
    pub published: usize,
    /// Events to which the queue objects.
    pub refused: usize,
    /// Why other events are still pending.
    pub error: Option<String>,
    /// Whether the queue or the database failed as a whole.
    pub has_failed: bool,
    /// The last event of a full claim: there are probably more after it.
    pub full_until: Option<Uuid>,
}

impl Pass {
    fn of(sent: &Sent) -> Pass {
        let (published, refused) = (sent.accepted.len(), sent.refused.len());
        let has_failed = sent.error.is_some() && refused == 0 && !sent.has_response;
        Pass { published, refused, error: sent.error.clone(), has_failed, full_until: None }
    }

    fn failed(error: String) -> Pass {
        Pass { error: Some(error), has_failed: true, ..Pass::default() }
    }

    /// How many events are no longer pending.
    fn done(&self) -> usize {
        self.published + self.refused
    }
}

impl Relay {
    /// A relay, and the sender of its fast path.
    pub fn new(db: DatabaseConnection, queue: Queue) -> (Relay, mpsc::Sender<Outgoing>) {
        let (sender, fast_path) = mpsc::channel(FAST_PATH_SIZE);
        let relay = Relay {
            db,
            queue,
            fast_path,
            next_full_scan: Instant::now(),
            skipped_until: None,
            accepts_refused: false,
            last_warning: None,
        };
        (relay, sender)
    }

    /// Publishes events until `shutdown`, and then the events that are still in the outbox.
    ///
    /// A failed poll is repeated after a pause, and does not stop the fast path: perhaps the only events of the poll are some that
    /// the queue cannot take. A failure of the fast path stops it until a poll succeeds.
    pub async fn run(mut self, shutdown: CancellationToken) {
        let (mut next_poll, mut is_fast_path_stopped) = (Instant::now(), false);
        let mut backoff: Option<ExponentialBackoff> = None;
        let mut last_error = None;
        while !shutdown.is_cancelled() {
            let events = tokio::select! {
                committed = self.next_committed(next_poll, is_fast_path_stopped) => committed,
                () = shutdown.cancelled() => break,
            };
            let is_poll = events.is_empty();
            let published = match is_poll {
                true => self.poll(backoff.is_some()).await,
                false => in_time(self.publish(&self.db, events, MAX_BATCH_ENTRIES, false)).await,
            };
            let pass = published.unwrap_or_else(|error| Pass::failed(one_line(&error)));
            if let (true, Some(error)) = (pass.has_failed, &pass.error) {
                is_fast_path_stopped |= !is_poll;
                let pause = backoff.get_or_insert_with(|| BACKOFF.build()).next().unwrap_or(POLL_INTERVAL);
                next_poll = Instant::now() + pause;
                warn!(retry_in_ms = pause.as_millis(), "cannot publish events; they stay in the outbox: {error}");
                continue;
            }
            if !is_poll {
                continue;
            }
            is_fast_path_stopped = false;
            if backoff.take().is_some() && pass.published > 0 {
                info!("publishing events again");
            }
            let has_more = self.accepts_refused || pass.full_until.is_some() && pass.done() > 0;
            next_poll = Instant::now() + if has_more { Duration::ZERO } else { POLL_INTERVAL };
            if let Some(error) = pass.error.as_ref().filter(|_| pass.error != last_error) {
                warn!("some events are not published; they stay in the outbox: {error}");
            }
            last_error = pass.error;
        }
        self.drain().await;
    }

    /// Waits for events on the fast path, unless it is stopped. Returns none when a poll is due.
    async fn next_committed(&mut self, next_poll: Instant, is_stopped: bool) -> Vec<Outgoing> {
        let mut events = Vec::new();
        loop {
            // Neither comes first: while polls follow each other, the fast path goes on.
            tokio::select! {
                () = sleep_until(next_poll) => return events,
                received = self.fast_path.recv_many(&mut events, MAX_CLAIMED_ROWS as usize), if !is_stopped => {
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

    /// Publishes pending events, and then refused events. After a failure it first tests the queue with few calls.
    async fn poll(&mut self, has_failed: bool) -> Result<Pass, DbErr> {
        // Set again below: otherwise polls would follow each other without a pause.
        let accepts_refused = std::mem::take(&mut self.accepts_refused);
        let scan = self.next_scan();
        let (backlog, is_old) = in_time(rows::backlog(&self.db, scan)).await?;
        if is_old {
            self.next_full_scan = Instant::now();
        }
        self.report(backlog);
        if backlog == Backlog::default() {
            return Ok(Pass::default());
        }
        if has_failed {
            let probe = self.publish_claimed(Claim::Probe, false).await?;
            if probe.published == 0 {
                return Ok(probe);
            }
        }
        // After a failure, this is reached only if the probe was published.
        let probe_succeeded = has_failed;
        let start = self.skipped_until.take().map_or(scan, Scan::After);
        let mut pass = self.publish_claimed(Claim::Pending(MIN_POLL_AGE, start), probe_succeeded).await?;
        self.skipped_until = pass.full_until.filter(|_| pass.done() < MAX_CLAIMED_ROWS as usize / 2);
        if backlog.refused > 0 && !pass.has_failed {
            let claim = if accepts_refused { Claim::RefusedEarly } else { Claim::Refused };
            let retried = self.publish_claimed(claim, probe_succeeded).await?;
            self.accepts_refused = retried.published > 0;
            pass.error = pass.error.or(retried.error);
        }
        Ok(pass)
    }

    fn next_scan(&mut self) -> Scan {
        if Instant::now() < self.next_full_scan {
            return Scan::Recent;
        }
        self.next_full_scan = Instant::now() + FULL_SCAN_INTERVAL;
        Scan::All
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
        let _ = in_time(self.publish(&self.db, events, MAX_BATCH_ENTRIES, false)).await;
        let has_progress = |pass: Pass| pass.done() > 0;
        let claim = || Claim::Pending(started.elapsed(), Scan::All);
        while self.publish_claimed(claim(), false).await.is_ok_and(has_progress) {}
    }

    /// Claims, publishes and deletes at most [`MAX_CLAIMED_ROWS`] rows of any age, oldest first, and then as many of those that
    /// the queue has refused.
    pub async fn run_once(&self) -> Result<Pass, DbErr> {
        let pending = self.publish_claimed(Claim::Pending(Duration::ZERO, Scan::All), false).await?;
        let refused = self.publish_claimed(Claim::RefusedEarly, false).await?;
        Ok(Pass {
            published: pending.published + refused.published,
            refused: pending.refused + refused.refused,
            error: pending.error.or(refused.error),
            ..Pass::default()
        })
    }

    async fn publish_claimed(&self, claim: Claim, probe_succeeded: bool) -> Result<Pass, DbErr> {
        in_time(async {
            if self.db.get_database_backend() == DbBackend::Sqlite {
                // One process owns the file, so a claim needs no lock.
                return self.claim_and_publish(&self.db, claim, probe_succeeded).await;
            }
            let transaction = self.db.begin().await?;
            let pass = self.claim_and_publish(&transaction, claim, probe_succeeded).await?;
            transaction.commit().await?;
            Ok(pass)
        })
        .await
    }

    async fn claim_and_publish(
        &self,
        db: &impl ConnectionTrait,
        claim: Claim,
        probe_succeeded: bool,
    ) -> Result<Pass, DbErr> {
        let events = rows::claim(db, claim).await?;
        let is_full = events.len() >= MAX_CLAIMED_ROWS as usize;
        let full_until = events.last().map(|event| event.id).filter(|_| is_full);
        let pass = match claim.of_refused() {
            true => self.retry(db, events, claim.batch_entries(), probe_succeeded).await?,
            false => self.publish(db, events, claim.batch_entries(), probe_succeeded).await?,
        };
        Ok(Pass { full_until, ..pass })
    }

    /// Publishes events whose rows are in the outbox.
    async fn publish(
        &self,
        db: &impl ConnectionTrait,
        events: Vec<Outgoing>,
        batch_entries: usize,
        probe_succeeded: bool,
    ) -> Result<Pass, DbErr> {
        let sent = self.queue.send(events, batch_entries, probe_succeeded).await;
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
        probe_succeeded: bool,
    ) -> Result<Pass, DbErr> {
        if events.is_empty() {
            return Ok(Pass::default());
        }
        let ids: Vec<Uuid> = events.iter().map(|event| event.id).collect();
        let sent = self.queue.send(events, batch_entries, probe_succeeded).await;
        crash_point(crash_points::RELAY_BEFORE_DELETE);
        let pass = Pass::of(&sent);
        if pass.published > 0 {
            info!(events = pass.published, "published events that the queue had refused");
        }
        rows::retried(db, ids, sent.accepted).await?;
        Ok(pass)
    }
}

/// Limits the time of database statements, and of calls to the queue between them, which end earlier by themselves.
async fn in_time<T>(work: impl Future<Output = Result<T, DbErr>>) -> Result<T, DbErr> {
    let no_response = || DbErr::Custom(format!("the database gave no response within {DATABASE_TIMEOUT:?}"));
    timeout(DATABASE_TIMEOUT, work).await.unwrap_or_else(|_| Err(no_response()))
}

/// Drops the events that a poll sends.
fn drop_stale(events: &mut Vec<Outgoing>) {
    events.retain(|event| event.created.elapsed() <= MAX_FAST_PATH_AGE);
}
