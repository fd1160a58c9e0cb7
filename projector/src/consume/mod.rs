//! Receives messages, applies their events to the read model, and deletes the messages.
//!
//! A message that is invalid or cannot be applied stays in the queue. SQS redelivers it, and finally moves it to the dead-letter
//! queue. While the read model is unavailable, pollers hold their messages and receive no others, so that an outage moves nothing
//! to the dead-letter queue.

pub mod activity;
mod apply;
mod delivery;
pub mod health;
mod poll;
mod process;
mod reception;
mod report;
mod spans;

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use aws_sdk_sqs::Client;
use iso_currency::Currency;
use read_model::{Projection, ProjectorState};
use tokio::sync::Notify;

use self::activity::Activity;
use self::reception::Reception;

pub use apply::EventBatcher;
pub use delivery::{Delivery, outage};
pub use process::Processed;

#[derive(Clone)]
pub struct Consumer {
    pub queue: Client,
    /// The same queue, with a timeout for long polls.
    long_polling: Client,
    pub queue_url: String,
    pub read_model: Arc<dyn Projection>,
    batcher: Arc<EventBatcher>,
    /// The currency of all amounts. Events in another one are invalid.
    pub currency: Currency,
    /// Number of pollers that hold messages because Redis is unavailable. While there are any, no poller receives: each
    /// redelivery of a held message would bring it closer to the dead-letter queue.
    waiting_for_redis: Arc<AtomicUsize>,
    reception: Arc<Reception>,
    /// Notified when a receive call returns a full batch, so that another poller joins.
    backlog: Arc<Notify>,
    /// How many pollers have received two full batches in a row.
    busy: Arc<AtomicUsize>,
    pub activity: Arc<Activity>,
}

impl Consumer {
    pub fn new(queue: Client, queue_url: String, read_model: Arc<dyn Projection>, currency: Currency) -> Consumer {
        Consumer {
            long_polling: poll::long_polling(&queue),
            queue,
            queue_url,
            batcher: Arc::new(EventBatcher::new(read_model.clone())),
            read_model,
            currency,
            waiting_for_redis: Arc::default(),
            reception: Arc::default(),
            backlog: Arc::default(),
            busy: Arc::default(),
            activity: Arc::default(),
        }
    }
}

impl Consumer {
    /// The condition of the pollers, and the lag.
    pub(crate) fn condition(&self) -> (ProjectorState, Duration) {
        let (condition, lag) = self.activity.condition();
        (if self.reception.is_paused() { ProjectorState::Waiting } else { condition }, lag)
    }
}

/// Adds one to a count until it is dropped.
struct CountGuard(Arc<AtomicUsize>);

impl CountGuard {
    fn new(count: &Arc<AtomicUsize>) -> CountGuard {
        count.fetch_add(1, Ordering::SeqCst);
        CountGuard(count.clone())
    }
}

impl Drop for CountGuard {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::SeqCst);
    }
}
