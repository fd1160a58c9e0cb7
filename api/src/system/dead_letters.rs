//! Dead letters: a page of them, and sending them back or deleting them.
//!
//! To read a message of SQS is to receive it. Letters are hidden from other receivers meanwhile, and made visible again right after.
//! The dead-letter queue has no dead-letter queue of its own, so receiving never moves or deletes them.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use chrono::{DateTime, Utc};
use entity::Subject;
use entity::event::envelope;
use futures::future::join_all;
use iso_currency::Currency;
use read_model::{Judgement, Queries, Verdict, judge};
use runtime::queue::dead_letters::{self as letters, Action, DeadLetters};
use runtime::single_flight::SingleFlight;
use serde::Deserialize;
use tokio::time::{Instant, timeout};
use tracing::{info, warn};

use super::{Error, MAX_AGE, System, in_time, silent_queue};

/// Letters of the largest page.
pub const MAX_LETTERS: usize = 50;
/// Letters that one command takes, at most.
pub const MAX_TAKEN: usize = 100;
/// Letters that one call returns, at most.
const RECEIVED: usize = 10;
/// Seconds for which letters stay hidden if this process ends before it makes them visible again.
const HIDDEN: i32 = 30;
/// Seconds to wait for another letter: a shorter call asks only some of the servers of SQS.
const WAIT: i32 = 1;
/// How long a command takes further letters.
const TAKE_FOR: Duration = Duration::from_secs(2);

/// A letter without its content.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Letter {
    /// The message id of SQS.
    pub id: String,
    pub sent_at: Option<DateTime<Utc>>,
    pub receives: u32,
    /// `None` while the read model is unavailable.
    pub verdict: Option<Verdict>,
    pub why: String,
    /// `None` if it is not a valid event, as the fields below.
    pub r#type: Option<String>,
    pub subject: Option<Subject>,
    pub version: Option<i32>,
    pub time: Option<DateTime<Utc>>,
}

/// The pages that were read last, by the number of commands before: nobody gets a page from before the last command.
pub struct LetterPages {
    pages: SingleFlight<u64, Arc<Vec<Letter>>, Error>,
    commands: Arc<AtomicU64>,
}

impl Default for LetterPages {
    fn default() -> LetterPages {
        LetterPages { pages: SingleFlight::new(1), commands: Arc::default() }
    }
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Command {
    /// Sends letters back to the queue.
    Redrive(Vec<String>),
    /// Sends all back, except those that are not events of this service.
    RedriveAll,
    /// Deletes letters.
    Discard(Vec<String>),
}

/// The result of a command.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Taken {
    /// The ids of the letters that were sent back or deleted.
    pub taken: Vec<String>,
    /// How many were left because they are not events of this service.
    pub skipped: usize,
    /// The ids that were not found.
    pub missing: Vec<String>,
    /// Whether there may be more.
    pub has_more: bool,
}

impl System {
    /// Some letters, oldest first, at most [`MAX_LETTERS`].
    ///
    /// # Errors
    /// When the queue fails, has no dead-letter queue, or its letters must not be read.
    pub async fn dead_letters(&self) -> Result<Arc<Vec<Letter>>, Error> {
        let count = usize::try_from(self.depth().await?.dead_letters?).unwrap_or(usize::MAX);
        let (mut hidden, read_model, currency) =
            (self.letters_to_hide().await?, self.read_model.clone(), self.currency);
        let read = async move {
            let received = in_time(silent_queue, receive(&mut hidden, count)).await;
            release(&mut hidden).await;
            let mut letters = received?;
            letters.sort_by(|one, other| (one.sent_at, &one.id).cmp(&(other.sent_at, &other.id)));
            letters.truncate(MAX_LETTERS);
            let judged = letters.into_iter().map(|letter| Letter::judge(letter, &*read_model, currency));
            Ok(Arc::new(join_all(judged).await))
        };
        // The letters become visible again also if this waits no longer.
        in_time(silent_queue, self.letters.pages.get(self.letters.commands.load(Ordering::SeqCst), MAX_AGE, read)).await
    }

    /// Takes letters out of the dead-letter queue, all of them at most [`MAX_TAKEN`] at a time. It ends after some seconds, and continues
    /// if its caller is gone.
    ///
    /// # Errors
    /// When the queue fails, possibly after some letters: repeating is safe. To redrive all also needs the read model.
    pub async fn take_dead_letters(&self, command: Command) -> Result<Taken, Error> {
        let (mut hidden, read_model, currency) =
            (self.letters_to_hide().await?, self.read_model.clone(), self.currency);
        let commands = self.letters.commands.clone();
        let run = async move {
            let (action, taken) = match command {
                Command::Redrive(ids) => ("redriven", take(&mut hidden, Action::Redrive, ids).await),
                Command::RedriveAll => ("redriven", redrive_all(&mut hidden, &*read_model, currency).await),
                Command::Discard(ids) => ("discarded", take(&mut hidden, Action::Discard, ids).await),
            };
            release(&mut hidden).await;
            commands.fetch_add(1, Ordering::SeqCst);
            if let Ok(Taken { taken, .. }) = &taken {
                info!(letters = taken.len(), "dead letters were {action}");
            }
            taken
        };
        tokio::spawn(run).await.expect("a command does not panic")
    }

    async fn letters_to_hide(&self) -> Result<DeadLetters, Error> {
        let queues = self.queues()?;
        let url = in_time(silent_queue, async { Ok(queues.dead_letters_url().await?.to_owned()) }).await?;
        Ok(DeadLetters::new(queues.client.clone(), queues.url.clone(), url, HIDDEN, WAIT))
    }
}

/// Receives letters, at most about [`MAX_LETTERS`]. `count` is an estimate, which may be too low: the embedded queue leaves out letters that
/// were received before.
async fn receive(hidden: &mut DeadLetters, count: usize) -> Result<Vec<letters::DeadLetter>, Error> {
    let mut letters = Vec::new();
    while letters.len() < MAX_LETTERS {
        let Some(received) = hidden.receive().await? else { break };
        let is_full = received.len() == RECEIVED;
        letters.extend(received);
        if !is_full && letters.len() >= count {
            break;
        }
    }
    Ok(letters)
}

/// Makes letters visible again. Otherwise they are after [`HIDDEN`] seconds.
async fn release(hidden: &mut DeadLetters) {
    let released = in_time(silent_queue, async { Ok(hidden.release().await?) }).await;
    if let Err(error) = released {
        warn!("dead letters stay hidden for {HIDDEN} s: {error}");
    }
}

async fn take(hidden: &mut DeadLetters, action: Action, mut missing: Vec<String>) -> Result<Taken, Error> {
    let (began, mut taken, mut has_more) = (Instant::now(), Vec::new(), true);
    while has_more && !missing.is_empty() && began.elapsed() < TAKE_FOR {
        let Some(received) = hidden.receive().await? else {
            has_more = false;
            break;
        };
        let chosen: Vec<&letters::DeadLetter> = received.iter().filter(|letter| missing.contains(&letter.id)).collect();
        hidden.take(action, &chosen).await?;
        missing.retain(|id| chosen.iter().all(|letter| letter.id != *id));
        taken.extend(chosen.into_iter().map(|letter| letter.id.clone()));
    }
    Ok(Taken { taken, skipped: 0, has_more: has_more && !missing.is_empty(), missing })
}

async fn redrive_all(hidden: &mut DeadLetters, read_model: &dyn Queries, currency: Currency) -> Result<Taken, Error> {
    let (began, mut result) = (Instant::now(), Taken { has_more: true, ..Taken::default() });
    while result.taken.len() + RECEIVED <= MAX_TAKEN && began.elapsed() < TAKE_FOR {
        let Some(received) = hidden.receive().await? else {
            result.has_more = false;
            break;
        };
        let mut chosen = Vec::new();
        for letter in &received {
            match judge(read_model, &letter.body, currency).await?.verdict {
                Verdict::Foreign => result.skipped += 1,
                Verdict::Superseded | Verdict::Needed => chosen.push(letter),
            }
        }
        hidden.take(Action::Redrive, &chosen).await?;
        result.taken.extend(chosen.into_iter().map(|letter| letter.id.clone()));
    }
    // Otherwise a caller that repeats the command while there are more would never end.
    result.has_more &= !result.taken.is_empty();
    Ok(result)
}

impl Letter {
    async fn judge(letter: letters::DeadLetter, read_model: &dyn Queries, currency: Currency) -> Letter {
        let judged = timeout(MAX_AGE, judge(read_model, &letter.body, currency)).await;
        let (verdict, why, event) = match judged {
            Ok(Ok(Judgement { verdict, why, event })) => (Some(verdict), why, event),
            _ => (None, "unknown while the read model is unavailable".into(), None),
        };
        Letter {
            id: letter.id,
            sent_at: letter.sent_at.map(DateTime::from),
            receives: letter.receives,
            verdict,
            why,
            r#type: event.as_ref().and_then(|_| type_of(&letter.body)),
            subject: event.as_ref().map(entity::Event::subject),
            version: event.as_ref().map(|event| event.version),
            time: event.map(|event| event.time),
        }
    }
}

/// The type of an event by its message.
fn type_of(message: &str) -> Option<String> {
    #[derive(Deserialize)]
    struct Typed {
        r#type: String,
    }
    serde_json::from_str::<Typed>(&envelope::open(message)).ok().map(|typed| typed.r#type)
}
