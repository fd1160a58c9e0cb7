//! Decides which events share a call. No event waits longer than [`PATIENCE`] for the call of another.

use std::pin::pin;
use std::slice;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use futures::{StreamExt, stream};
use runtime::logging::LogContext;
use runtime::{crash_point, crash_points, one_line};
use sea_orm::{ConnectionTrait, DatabaseConnection, DbErr};
use tokio::sync::{Notify, Semaphore};
use tokio::time::{Instant, sleep_until, timeout};
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};
use uuid::Uuid;

use super::publisher::{CALL_TIMEOUT, Outgoing, Publisher, Sent, batches};
use super::rows;
use super::suspects::{Change, PATIENCE, Suspects};

/// Concurrent calls of the fast path, without those that are slow. Few, so that events share calls under load.
const CONCURRENT_SENDS: usize = 4;
/// After this time a call of the fast path is slow, and another one may begin.
const SLOW_CALL: Duration = Duration::from_millis(200);
/// Concurrent calls of a poll.
const CONCURRENT_CLAIMED: usize = 8;
/// Failed calls of a poll, after which it makes no more if the queue performed none: few calls show whether the queue is down.
const MAX_FAILED_CALLS: usize = 4;
/// Limit for a further attempt to send an event alone: other events do not wait for it.
const FURTHER_ATTEMPT: Duration = Duration::from_secs(5);
/// Shortest interval between two decisions about suspects.
const TICK: Duration = Duration::from_millis(20);

pub struct Delivery {
    pub db: DatabaseConnection,
    pub publisher: Publisher,
    suspects: Mutex<Suspects>,
    /// Notified after each call.
    ended: Notify,
    sends: Arc<Semaphore>,
}

impl Delivery {
    pub fn new(db: DatabaseConnection, publisher: Publisher) -> Arc<Delivery> {
        let sends = Arc::new(Semaphore::new(CONCURRENT_SENDS));
        Arc::new(Delivery { db, publisher, suspects: Mutex::default(), ended: Notify::new(), sends })
    }

    pub fn suspects(&self) -> MutexGuard<'_, Suspects> {
        self.suspects.lock().expect("no holder of the lock panics")
    }

    /// Sends events that nothing is known about, and returns as soon as each call has begun.
    pub async fn send_soon(self: &Arc<Delivery>, events: Vec<Outgoing>) {
        for batch in batches(events) {
            let permit = self.sends.clone().acquire_owned().await;
            let delivery = self.clone();
            tokio::spawn(async move {
                let mut call = pin!(delivery.share_call(batch));
                let sent = match timeout(SLOW_CALL, &mut call).await {
                    Ok(sent) => sent,
                    Err(_) => {
                        drop(permit);
                        call.await
                    }
                };
                delivery.remove_logged(sent.unwrap_or_default()).await;
            });
        }
    }

    /// Waits until each call of [`Delivery::send_soon`] has ended or is slow.
    pub async fn no_call(&self) {
        let _ = self.sends.acquire_many(CONCURRENT_SENDS as u32).await;
    }

    /// Sends events that a poll has claimed, and returns the results of the calls that are not late.
    pub async fn send(self: &Arc<Delivery>, events: Vec<Outgoing>) -> Vec<Sent> {
        let calls = stream::iter(batches(events)).map(|batch| self.share_call(batch));
        let mut calls = calls.buffer_unordered(CONCURRENT_CLAIMED);
        let (mut sent, mut failed) = (Vec::new(), 0);
        while let Some(call) = calls.next().await {
            failed += usize::from(call.as_ref().is_none_or(|call| !call.has_response));
            sent.extend(call);
            if failed >= MAX_FAILED_CALLS && !self.suspects().has_responded() {
                break;
            }
        }
        sent
    }

    /// Makes one call. A late call returns `None`: it continues, and its events are sent alone meanwhile.
    async fn share_call(self: &Arc<Delivery>, batch: Vec<Outgoing>) -> Option<Sent> {
        // The only event of a call is sent alone already.
        let limit = if batch.len() == 1 { PATIENCE } else { CALL_TIMEOUT };
        self.suspects().begin(&batch.iter().map(|event| event.id).collect::<Vec<_>>());
        let delivery = self.clone();
        let mut call = tokio::spawn(async move { delivery.call(&batch, limit).await });
        if let Ok(sent) = timeout(PATIENCE + TICK, &mut call).await {
            return sent.ok();
        }
        self.ended.notify_one();
        let delivery = self.clone();
        tokio::spawn(async move {
            let sent = call.await.unwrap_or_default();
            delivery.remove_logged(sent).await;
        });
        None
    }

    /// Makes a call that has begun.
    async fn call(&self, batch: &[Outgoing], limit: Duration) -> Sent {
        let ids: Vec<Uuid> = batch.iter().map(|event| event.id).collect();
        let mut sent = self.publisher.send(batch, limit).await;
        let change = self.suspects().end(&ids, &mut sent);
        self.ended.notify_one();
        let error = sent.error.as_deref().unwrap_or_default();
        match change {
            Some(Change::Down) => warn!("cannot publish events; they stay in the outbox: {error}"),
            Some(Change::Up) => info!("publishing events again"),
            None => {}
        }
        for (event_id, reason) in &sent.refused {
            let event = batch.iter().find(|event| event.id == *event_id);
            let log = || warn!(%event_id, "an event was refused; it is sent again later: {reason}");
            LogContext::run_for_event(event.and_then(|event| event.traceparent.as_deref()), log);
        }
        sent
    }

    /// Removes the rows of events that are no longer pending.
    pub async fn remove(&self, db: &impl ConnectionTrait, sent: &[Sent]) -> Result<(), DbErr> {
        crash_point(crash_points::RELAY_BEFORE_DELETE);
        let accepted: Vec<Uuid> = sent.iter().flat_map(|sent| &sent.accepted).copied().collect();
        rows::delete(db, accepted).await?;
        for sent in sent {
            rows::refuse(db, &sent.refused).await?;
        }
        Ok(())
    }

    async fn remove_logged(&self, sent: Sent) {
        if let Err(error) = self.remove(&self.db, &[sent]).await {
            warn!("cannot delete published events from the outbox; they are sent again: {}", one_line(&error));
        }
    }

    /// Sends suspects alone when their attempts are due, until `shutdown`. During an outage, one event at a time finds out whether the
    /// queue works again.
    pub async fn run(self: &Arc<Delivery>, shutdown: &CancellationToken) {
        while !shutdown.is_cancelled() {
            let mut due = self.suspects().begin_due();
            if self.suspects().is_probe_due() {
                due.extend(self.begin_probe().await);
            }
            self.send_alone(due).await;
            let earliest = Instant::now() + TICK;
            let next = self.suspects().next_attempt();
            tokio::select! {
                () = self.ended.notified() => {}
                () = sleep_until(next.unwrap_or(earliest).max(earliest)), if next.is_some() => {}
                () = shutdown.cancelled() => return,
            }
        }
    }

    /// Chooses an event to probe the queue with: the newest one, because an older one may be the reason why calls fail.
    async fn begin_probe(&self) -> Option<Uuid> {
        let known = self.suspects().ids();
        let newest = rows::newest(&self.db, known).await.ok().flatten();
        let mut suspects = self.suspects();
        let probe = newest.or_else(|| suspects.probe())?;
        suspects.begin(&[probe]);
        Some(probe)
    }

    /// Starts an attempt for each event, in tasks of their own.
    async fn send_alone(self: &Arc<Delivery>, ids: Vec<Uuid>) {
        if ids.is_empty() {
            return;
        }
        // Another relay may have published some.
        let events = match rows::pending(&self.db, ids.clone()).await {
            Ok(events) => events,
            Err(_) => return self.suspects().postpone(&ids),
        };
        let published = ids.iter().filter(|id| events.iter().all(|event| event.id != **id));
        self.suspects().forget(published);
        for event in events {
            let delivery = self.clone();
            tokio::spawn(async move {
                let sent = delivery.attempt(event).await;
                delivery.remove_logged(sent).await;
            });
        }
    }

    /// Sends a new event alone.
    pub async fn probe(&self, event: Outgoing) {
        self.suspects().begin(&[event.id]);
        let sent = self.attempt(event).await;
        self.remove_logged(sent).await;
    }

    /// Sends an event alone, for which a call has begun.
    pub async fn attempt(&self, event: Outgoing) -> Sent {
        let is_first = !self.suspects().has_failed_alone(event.id);
        let sent = self.call(slice::from_ref(&event), if is_first { PATIENCE } else { FURTHER_ATTEMPT }).await;
        if let (true, Some(error), false) = (is_first, &sent.error, self.suspects().is_down()) {
            let log = || warn!(event_id = %event.id, "an event cannot be published; it stays in the outbox: {error}");
            LogContext::run_for_event(event.traceparent.as_deref(), log);
        }
        sent
    }
}
