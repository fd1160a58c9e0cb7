//! The outbox relay: publishes each event that has a row in `outbox` at least once, then deletes the row.
//!
//! The fast path publishes events that this process created at most 2 s ago, without reading them back. A poll claims the
//! rows that are 3 s old or older, which the fast path did not send: events of a process that died, and events that the
//! queue did not accept at first. An event is rarely sent by both; the projector ignores the duplicate.
//!
//! An event that the queue refuses moves to the table `refused_events`, where it delays no other event, and is sent again after
//! pauses that double. The events of a call that fails for another reason stay pending, and each is sent alone.
//!
//! With [`Publication::LogReader`], transactions write their events to the log and not to `outbox`, and the relay sends nothing. Its polls
//! hand over to the log what else is in the outbox: events of a migration, or of an api with another setting.
//!
//! Any number of processes may run a relay: on PostgreSQL a poll skips rows that another relay has claimed (`FOR UPDATE
//! SKIP LOCKED`).

use std::sync::Arc;
use std::time::Duration;

use backon::{BackoffBuilder, ExponentialBackoff};
use futures::future::join_all;
use futures::{StreamExt, stream};
use runtime::{crash_point, crash_points, one_line};
use sea_orm::{ConnectionTrait, DatabaseConnection, DbBackend, DbErr, TransactionTrait};
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep, sleep_until, timeout};
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};
use uuid::Uuid;

use super::delivery::Delivery;
use super::log_tailing::{self, Publication};
pub use super::publisher::{Backlog, Outgoing, Publisher};
use super::publisher::{Sent, batches};
pub use super::queue::Queue;
use super::rows::{self, Claim, MAX_CLAIMED_ROWS, Scan};
use super::suspects::BACKOFF;

const POLL_INTERVAL: Duration = Duration::from_secs(1);
/// Minimum age of the rows that a poll claims.
const MIN_POLL_AGE: Duration = Duration::from_secs(3);
/// How often a poll looks for pending events that are not recent, although the polls before saw each event while it was.
const FULL_SCAN_INTERVAL: Duration = Duration::from_secs(60);
/// Maximum age of the events that the fast path sends.
const MAX_FAST_PATH_AGE: Duration = Duration::from_secs(2);
/// Events that may wait on the fast path, some kilobytes each. When it is full, a poll sends the others.
const FAST_PATH_SIZE: usize = 2_000;
/// Interval between events that the fast path sends during an outage, one at a time.
const PROBE_INTERVAL: Duration = Duration::from_millis(500);
/// Limit for a call that sends refused events again, and the number of such calls at once: together they take little time.
const RETRY_TIMEOUT: Duration = Duration::from_secs(2);
const CONCURRENT_RETRIES: usize = 20;
/// Limit for a claim, after which its transaction is rolled back. Sending ends earlier by itself, so that a slow queue does not
/// roll back what SQS has accepted.
const DATABASE_TIMEOUT: Duration = Duration::from_secs(90);
/// Time for publishing the rest before the relay stops.
const DRAIN_TIMEOUT: Duration = Duration::from_secs(5);
/// Wait of an event after which it is logged, and the interval between such log lines.
const LONG_WAIT: Duration = Duration::from_secs(60);
pub struct Relay {
    delivery: Arc<Delivery>,
    publication: Publication,
    fast_path: mpsc::Receiver<Outgoing>,
    /// When a poll next reads all pending events.
    next_full_scan: Instant,
    /// Whether the queue has just accepted an event that it refused before: it may accept the others, too.
    accepts_refused: bool,
    /// When the log last reported that events wait, or reach no reader.
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
    /// Whether there are probably more events.
    pub is_full: bool,
}

impl Pass {
    fn of(sent: &[Sent]) -> Pass {
        Pass {
            published: sent.iter().map(|sent| sent.accepted.len()).sum(),
            refused: sent.iter().map(|sent| sent.refused.len()).sum(),
            error: sent.iter().find_map(|sent| sent.error.clone()),
            is_full: false,
        }
    }

    fn and(self, other: Pass) -> Pass {
        Pass {
            published: self.published + other.published,
            refused: self.refused + other.refused,
            error: self.error.or(other.error),
            is_full: self.is_full || other.is_full,
        }
    }
}

impl Relay {
    /// A relay, and the sender of its fast path.
    pub fn new(db: DatabaseConnection, publisher: impl Into<Publisher>) -> (Relay, mpsc::Sender<Outgoing>) {
        let (sender, fast_path) = mpsc::channel(FAST_PATH_SIZE);
        let relay = Relay {
            delivery: Delivery::new(db, publisher.into()),
            publication: Publication::Relay,
            fast_path,
            next_full_scan: Instant::now(),
            accepts_refused: false,
            last_warning: None,
        };
        (relay, sender)
    }

    #[must_use]
    pub fn with_publication(self, publication: Publication) -> Relay {
        Relay { publication, ..self }
    }

    /// Publishes events until `shutdown`, and then the events that are still in the outbox. The fast path, polls and suspects do not
    /// wait for each other.
    pub async fn run(mut self, shutdown: CancellationToken) {
        // Borrowed apart from the rest, which the polls change.
        let (_, nobody) = mpsc::channel(1);
        let mut fast_path = std::mem::replace(&mut self.fast_path, nobody);
        let delivery = self.delivery.clone();
        tokio::join!(
            run_fast_path(&delivery, &mut fast_path, &shutdown),
            self.run_polls(&shutdown),
            delivery.run(&shutdown),
        );
        self.fast_path = fast_path;
        if timeout(DRAIN_TIMEOUT, self.drain()).await.is_err() {
            warn!("the queue is slow: some events stay in the outbox");
        }
    }

    /// A failed poll is repeated after a pause.
    async fn run_polls(&mut self, shutdown: &CancellationToken) {
        let mut next_poll = Instant::now();
        let mut backoff: Option<ExponentialBackoff> = None;
        let mut last_error = None;
        loop {
            tokio::select! {
                () = sleep_until(next_poll) => {}
                () = shutdown.cancelled() => return,
            }
            let pass = match self.poll().await {
                Ok(pass) => pass,
                Err(error) => {
                    let pause = backoff.get_or_insert_with(|| BACKOFF.build()).next().unwrap_or(POLL_INTERVAL);
                    next_poll = Instant::now() + pause;
                    let (error, retry_in_ms) = (one_line(&error), pause.as_millis());
                    warn!(retry_in_ms, "cannot publish events; they stay in the outbox: {error}");
                    continue;
                }
            };
            if backoff.take().is_some() {
                info!("publishing events again");
            }
            let has_more = self.accepts_refused || pass.is_full;
            next_poll = Instant::now() + if has_more { Duration::ZERO } else { POLL_INTERVAL };
            if let Some(error) = pass.error.as_ref().filter(|_| pass.error != last_error) {
                warn!("some events are not published; they stay in the outbox: {error}");
            }
            last_error = pass.error;
        }
    }

    /// Publishes pending events, and then refused events. During an outage it only measures the backlog.
    async fn poll(&mut self) -> Result<Pass, DbErr> {
        // Set again below: otherwise polls would follow each other without a pause.
        let accepts_refused = std::mem::take(&mut self.accepts_refused);
        let scan = self.next_scan();
        let (backlog, is_old) = in_time(rows::backlog(&self.delivery.db, scan)).await?;
        if is_old {
            self.next_full_scan = Instant::now();
        }
        let unread_log = self.unread_log().await?;
        self.report(Backlog { unread_log, ..backlog });
        if backlog == Backlog::default() || self.delivery.suspects().is_down() {
            return Ok(Pass::default());
        }
        let suspects = self.delivery.suspects().ids();
        let mut pass = self.publish_claimed(Claim::Pending(MIN_POLL_AGE, scan, suspects)).await?;
        if backlog.refused > 0 && !self.delivery.suspects().is_down() {
            let is_early = accepts_refused || self.publication == Publication::LogReader;
            let claim = if is_early { Claim::RefusedEarly } else { Claim::Refused };
            let retried = self.publish_claimed(claim).await?;
            self.accepts_refused = retried.published > 0;
            pass.error = pass.error.or(retried.error);
        }
        Ok(pass)
    }

    async fn unread_log(&mut self) -> Result<Option<u64>, DbErr> {
        if self.publication == Publication::Relay {
            return Ok(Some(0));
        }
        let unread = in_time(log_tailing::unread(&self.delivery.db)).await?;
        if unread.is_none() && !self.has_just_warned() {
            self.last_warning = Some(Instant::now());
            warn!("no logical replication slot is left: events reach no reader of the log until one is created");
        }
        Ok(unread)
    }

    fn has_just_warned(&self) -> bool {
        self.last_warning.is_some_and(|reported| reported.elapsed() < LONG_WAIT)
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
        let measured_at = Some(Instant::now());
        self.delivery.publisher.backlog.send_replace(Backlog { oldest, measured_at, ..backlog });
        let was_reported = self.has_just_warned();
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
        self.delivery.send_soon(events).await;
        self.delivery.no_call().await;
        loop {
            let suspects = self.delivery.suspects().ids();
            match self.publish_at_once(Claim::Pending(started.elapsed(), Scan::All, suspects)).await {
                Ok(pass) if pass.published + pass.refused > 0 => {}
                _ => return,
            }
        }
    }

    /// Claims, publishes and deletes at most [`MAX_CLAIMED_ROWS`] rows of any age, oldest first, and then as many of those that
    /// the queue has refused.
    pub async fn run_once(&self) -> Result<Pass, DbErr> {
        self.delivery.suspects().clear();
        let pending = self.publish_at_once(Claim::Pending(Duration::ZERO, Scan::All, [].into())).await?;
        let refused = self.publish_claimed(Claim::RefusedEarly).await?;
        Ok(Pass { is_full: false, ..pending.and(refused) })
    }

    /// Publishes claimed events. Suspects are sent alone at once.
    async fn publish_at_once(&self, claim: Claim) -> Result<Pass, DbErr> {
        let mut pass = self.publish_claimed(claim).await?;
        loop {
            let due = self.delivery.suspects().begin_due();
            if due.is_empty() {
                return Ok(pass);
            }
            let events = rows::pending(&self.delivery.db, due).await?;
            let sent = join_all(events.into_iter().map(|event| self.delivery.attempt(event))).await;
            self.delivery.remove(&self.delivery.db, &sent).await?;
            pass = pass.and(Pass::of(&sent));
        }
    }

    async fn publish_claimed(&self, claim: Claim) -> Result<Pass, DbErr> {
        let db = &self.delivery.db;
        in_time(async {
            if db.get_database_backend() == DbBackend::Sqlite {
                // One process owns the file, so a claim needs no lock.
                return self.claim_and_publish(db, claim).await;
            }
            let transaction = db.begin().await?;
            let pass = self.claim_and_publish(&transaction, claim).await?;
            transaction.commit().await?;
            Ok(pass)
        })
        .await
    }

    async fn claim_and_publish(&self, db: &impl ConnectionTrait, claim: Claim) -> Result<Pass, DbErr> {
        let (is_pending, is_early) = (matches!(claim, Claim::Pending(..)), matches!(claim, Claim::RefusedEarly));
        let events = rows::claim(db, claim).await?;
        let is_full = events.len() >= MAX_CLAIMED_ROWS as usize;
        if self.publication == Publication::LogReader {
            rows::hand_over(db, &events).await?;
            return Ok(Pass { published: events.len(), is_full, ..Pass::default() });
        }
        let events = events.iter().map(Outgoing::of).collect();
        if !is_pending {
            return self.retry(db, events, is_early).await;
        }
        let sent = self.delivery.send(events).await;
        self.delivery.remove(db, &sent).await?;
        Ok(Pass { is_full, ..Pass::of(&sent) })
    }

    /// Sends refused events again, each alone unless the queue has just accepted some.
    async fn retry(&self, db: &impl ConnectionTrait, events: Vec<Outgoing>, is_early: bool) -> Result<Pass, DbErr> {
        if events.is_empty() {
            return Ok(Pass::default());
        }
        let ids: Vec<Uuid> = events.iter().map(|event| event.id).collect();
        let send = async |calls: Vec<Vec<Outgoing>>| -> Vec<Sent> {
            let call = async |batch: Vec<Outgoing>| self.delivery.publisher.send(&batch, RETRY_TIMEOUT).await;
            let calls = stream::iter(calls).map(call);
            calls.buffer_unordered(CONCURRENT_RETRIES).collect().await
        };
        let alone = |events: Vec<Outgoing>| events.into_iter().map(|event| vec![event]).collect::<Vec<_>>();
        let mut sent = Vec::new();
        let mut rest = events;
        if is_early {
            sent = send(batches(rest.clone())).await;
            rest.retain(|event| sent.iter().any(|sent| sent.has_objection && sent.pending.contains(&event.id)));
        }
        sent.extend(send(alone(rest)).await);
        crash_point(crash_points::RELAY_BEFORE_DELETE);
        if sent.iter().any(|sent| sent.has_response) {
            self.delivery.suspects().respond();
        }
        let pass = Pass::of(&sent);
        if pass.published > 0 {
            info!(events = pass.published, "published events that were refused before");
        }
        rows::retried(db, ids, sent.into_iter().flat_map(|sent| sent.accepted).collect()).await?;
        Ok(pass)
    }
}

/// Publishes the events that this process commits. During an outage they are sent one at a time, the newest first, until one
/// shows that the queue works.
async fn run_fast_path(
    delivery: &Arc<Delivery>,
    fast_path: &mut mpsc::Receiver<Outgoing>,
    shutdown: &CancellationToken,
) {
    let mut events = Vec::new();
    loop {
        let limit = MAX_CLAIMED_ROWS as usize;
        tokio::select! {
            received = fast_path.recv_many(&mut events, limit), if events.len() < limit => {
                if received == 0 {
                    return shutdown.cancelled().await; // every sender is gone
                }
            }
            () = sleep(PROBE_INTERVAL), if !events.is_empty() => {}
            () = shutdown.cancelled() => return,
        }
        drop_stale(&mut events);
        let newest = events.pop_if(|_| delivery.suspects().is_down());
        if let Some(newest) = newest {
            delivery.probe(newest).await;
        }
        if !delivery.suspects().is_down() {
            delivery.send_soon(std::mem::take(&mut events)).await;
        }
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
