//! The state of the service, for operators. Each part is read at most once a second for all callers, and within a time limit: a store
//! that does not respond costs only its own part.
//!
//! - [`projection`]: how far the read model is behind the log
//! - [`dead_letters`]: what is in the dead-letter queue, and sending it back

pub mod dead_letters;
pub mod projection;

use std::sync::Arc;
use std::time::Duration;

use iso_currency::Currency;
use read_model::{Queries, Status};
use runtime::one_line;
use runtime::queue::dead_letters as letters;
use runtime::queue::depth::{Depth, Queues};
use runtime::single_flight::SingleFlight;
use sea_orm::{DatabaseConnection, DbErr};
use tokio::time::timeout;
use uuid::Uuid;

use self::dead_letters::LetterPages;
use self::projection::Projection;
use crate::outbox::relay::{Backlog, Publisher};

/// Age up to which a part is returned again.
const MAX_AGE: Duration = Duration::from_secs(1);
/// How long a part waits for its store. An operation waits longer, so that the other parts are returned.
const TIMEOUT: Duration = Duration::from_secs(2);

/// Why a part cannot be read or changed.
#[derive(Clone, Debug, thiserror::Error)]
pub enum Error {
    #[error("{0}")]
    Database(#[from] DbErr),
    #[error(transparent)]
    ReadModel(#[from] read_model::Error),
    #[error("the queue is unavailable: {0}")]
    Queue(String),
    #[error(transparent)]
    DeadLetters(letters::Error),
    /// Events are sent to a topic, and the queue of the projector is unknown.
    #[error("QUEUE_URL is not set")]
    NoQueue,
    /// The database did not respond, or the outbox was not measured lately.
    #[error("the database does not respond")]
    SilentDatabase,
}

impl From<letters::Error> for Error {
    fn from(error: letters::Error) -> Error {
        match error {
            letters::Error::Unavailable(reason) => Error::Queue(reason),
            error => Error::DeadLetters(error),
        }
    }
}

pub struct System {
    db: DatabaseConnection,
    read_model: Arc<dyn Queries>,
    currency: Currency,
    pub publisher: Publisher,
    queues: Option<Arc<Queues>>,
    depth: SingleFlight<(), Depth, Error>,
    projection: SingleFlight<(), Projection, Error>,
    status: SingleFlight<(), Arc<Status>, Error>,
    replayed: SingleFlight<Uuid, Option<u8>, Error>,
    letters: LetterPages,
}

impl System {
    pub fn new(
        db: DatabaseConnection,
        read_model: Arc<dyn Queries>,
        currency: Currency,
        publisher: Publisher,
    ) -> System {
        let queues = publisher.queue.clone().map(|queue| Arc::new(Queues::new(queue.client, queue.url)));
        System {
            db,
            read_model,
            currency,
            publisher,
            queues,
            depth: SingleFlight::new(1),
            projection: SingleFlight::new(1),
            status: SingleFlight::new(1),
            replayed: SingleFlight::new(1),
            letters: LetterPages::default(),
        }
    }

    /// The events that are not published, as the relay of this process found them.
    ///
    /// # Errors
    /// When the database has not responded to the relay for some seconds.
    pub fn backlog(&self) -> Result<Backlog, Error> {
        self.publisher.backlog.borrow().if_recent().ok_or(Error::SilentDatabase)
    }

    /// Whether the queue of the projector is known. Otherwise nobody can read its depth and its dead letters.
    pub fn has_queue(&self) -> bool {
        self.queues.is_some()
    }

    fn queues(&self) -> Result<&Arc<Queues>, Error> {
        self.queues.as_ref().ok_or(Error::NoQueue)
    }

    /// How many messages are in the queue and in the dead-letter queue.
    ///
    /// # Errors
    /// When the queue is unknown or cannot be reached.
    pub async fn depth(&self) -> Result<Depth, Error> {
        let queues = self.queues()?.clone();
        let read = async move { queues.depth().await.map_err(|error| Error::Queue(one_line(error.as_ref()))) };
        self.depth.get((), MAX_AGE, in_time(silent_queue, read)).await
    }

    /// How far the read model is behind the log.
    ///
    /// # Errors
    /// When the database or the read model fails.
    pub async fn projection(&self) -> Result<Projection, Error> {
        let (db, read_model) = (self.db.clone(), self.read_model.clone());
        let read = async move { Projection::read(&db, &*read_model).await };
        self.projection.get((), MAX_AGE, read).await
    }

    /// The generations of the read model, and the last sweep.
    ///
    /// # Errors
    /// When the read model fails.
    pub async fn status(&self) -> Result<Arc<Status>, Error> {
        let read_model = self.read_model.clone();
        let read = async move { Ok(Arc::new(read_model.status().await?)) };
        self.status.get((), MAX_AGE, in_time(silent_read_model, read)).await
    }

    /// The part of the log up to this event, in percent of the time that the log covers. `None` if the log is empty.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn percent_until(&self, event: Uuid) -> Result<Option<u8>, Error> {
        let db = self.db.clone();
        let read = async move { projection::percent_until(&db, event).await };
        self.replayed.get(event, MAX_AGE, in_time(|| Error::SilentDatabase, read)).await
    }
}

/// Waits for a store, but not longer than [`TIMEOUT`].
async fn in_time<T>(late: impl FnOnce() -> Error, read: impl Future<Output = Result<T, Error>>) -> Result<T, Error> {
    timeout(TIMEOUT, read).await.unwrap_or_else(|_| Err(late()))
}

fn silent_queue() -> Error {
    Error::Queue("it does not respond".into())
}

fn silent_read_model() -> Error {
    read_model::Error::Unavailable("it does not respond".into()).into()
}
