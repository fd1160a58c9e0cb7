//! Fills a new generation of the read model while the live one stays in use, and makes the new generation live when it is
//! complete. The replaced generation is kept for a while and still receives events, so that a rollback can make it live again.

use std::ops::ControlFlow;
use std::pin::pin;
use std::time::Duration;

use anyhow::{Context, bail, ensure};
use futures::StreamExt;
use read_model::generations::TransitionError;
use read_model::{Generations, Redis};
use runtime::{crash_point, crash_points, one_line};
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};
use uuid::Uuid;

use crate::replay::{self, Replayed};
use crate::verify::sums::SumsProgress;
use crate::verify::{Difference, Finding, Progress, Verifier};

/// How often all clients are compared before the rebuild fails because some still differ.
const MAX_COMPARISONS: u32 = 5;
/// How often projectors look for generations that can be removed.
const CLEANUP_INTERVAL: Duration = Duration::from_secs(10);

pub struct Rebuild {
    /// Compares the new generation, and repairs whatever differs.
    pub verifier: Verifier,
    /// How long the replaced generation is kept.
    pub keep: Duration,
}

/// Progress of a rebuild.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Phase {
    /// So many events are replayed.
    Replayed(u64),
    /// So many clients are compared.
    Compared(u64),
}

/// The rebuild was interrupted. The next one continues it.
#[derive(Debug, thiserror::Error)]
#[error("interrupted")]
pub struct Interrupted;

/// Differences remain although what can be repaired was.
#[derive(Debug, thiserror::Error)]
#[error("generation {generation} still differs from the database after {MAX_COMPARISONS} comparisons: {example}")]
struct StillDiffers {
    generation: u64,
    example: String,
}

impl Rebuild {
    /// Fills a new generation, or continues one, and makes it live once it does not differ from the database. Returns its
    /// number. A continued one that still differs is abandoned for a new one: since the interruption it may have counted events that
    /// the database does not have, which a rebuild that still runs would find, too.
    ///
    /// # Errors
    /// When a store fails, or differences remain. The live generation stays as it is.
    pub async fn start(&self, mut each: impl FnMut(Phase) -> ControlFlow<()>) -> anyhow::Result<u64> {
        let read_model = &self.verifier.read_model;
        let begin = |generations: &mut Generations, now| {
            let known = generations.building();
            generations.start(now).map(|generation| (generation, known == Some(generation)))
        };
        let (mut generation, is_continued) = read_model.change_generations(begin).await??;
        match self.fill(generation, &mut each).await {
            Err(error) if is_continued && error.is::<StillDiffers>() => {
                warn!("{error}: it was interrupted before; building a new one");
                abandon(read_model, generation, Generations::abort).await?;
                generation = read_model.change_generations(Generations::start).await??;
                self.fill(generation, &mut each).await?;
            }
            filled => filled?,
        }
        crash_point(crash_points::REBUILD_BEFORE_SWITCH);
        self.change(|generations, now, keep| generations.switch(generation, now, keep)).await?;
        Ok(generation)
    }

    /// From now on each event is applied to this generation, too. All earlier events are in the log.
    async fn fill(&self, generation: u64, each: &mut impl FnMut(Phase) -> ControlFlow<()>) -> anyhow::Result<()> {
        crash_point(crash_points::REBUILD_BEFORE_REPLAY);
        self.replay(&self.verifier.read_model.pinned_to(generation), each).await?;
        self.compare(generation, each).await
    }

    /// Makes the previous generation live again, once it does not differ from the database.
    ///
    /// # Errors
    /// When this is not the previous generation, or as [`Rebuild::start`].
    pub async fn roll_back(
        &self,
        generation: u64,
        mut each: impl FnMut(Phase) -> ControlFlow<()>,
    ) -> anyhow::Result<()> {
        let previous = self.verifier.read_model.generations().await?.previous().ok_or(TransitionError::NoPrevious)?;
        ensure!(previous == generation, "the previous generation is now {previous}, not {generation}");
        self.compare(generation, &mut each).await?;
        self.change(|generations, now, keep| generations.roll_back(generation, now, keep)).await
    }

    /// Stores its progress in the new generation, so that a rebuild that was interrupted does not begin again.
    async fn replay(&self, building: &Redis, each: &mut impl FnMut(Phase) -> ControlFlow<()>) -> anyhow::Result<()> {
        let stored = building.rebuild_position().await?;
        let mut after: Option<Uuid> =
            stored.map(|id| id.parse()).transpose().context("the stored progress of the rebuild is damaged")?;
        let mut steps = pin!(replay::replay(&self.verifier.db, building, self.verifier.currency, after));
        while let Some(replayed) = steps.next().await {
            let Replayed { events, last } = replayed?;
            if after != Some(last) {
                building.save_rebuild_position(&last.to_string()).await?;
                after = Some(last);
            }
            ensure!(each(Phase::Replayed(events)).is_continue(), Interrupted);
        }
        Ok(())
    }

    /// Compares and repairs until nothing differs.
    async fn compare(&self, generation: u64, each: &mut impl FnMut(Phase) -> ControlFlow<()>) -> anyhow::Result<()> {
        let verifier = Verifier { read_model: self.verifier.read_model.pinned_to(generation), ..self.verifier.clone() };
        for comparison in 1.. {
            match compare_once(&verifier, each).await? {
                None => return Ok(()),
                Some(example) if comparison == MAX_COMPARISONS => bail!(StillDiffers { generation, example }),
                Some(_) => {}
            }
        }
        Ok(())
    }

    async fn change(
        &self,
        change: impl Fn(&mut Generations, i64, i64) -> Result<(), TransitionError>,
    ) -> anyhow::Result<()> {
        let keep = i64::try_from(self.keep.as_millis()).unwrap_or(i64::MAX);
        Ok(self.verifier.read_model.change_generations(|generations, now| change(generations, now, keep)).await??)
    }
}

/// A change that chooses a generation, and returns its number.
pub type Abandon = fn(&mut Generations, i64) -> Result<u64, TransitionError>;

/// Abandons the generation that an operator has confirmed.
///
/// # Errors
/// When the change now chooses another generation. Then nothing changes.
pub async fn abandon(read_model: &Redis, generation: u64, abandon: Abandon) -> anyhow::Result<()> {
    let change = |generations: &mut Generations, now| {
        let mut changed = generations.clone();
        let chosen = abandon(&mut changed, now)?;
        if chosen == generation {
            *generations = changed;
        }
        Ok::<_, TransitionError>(chosen)
    };
    let chosen = read_model.change_generations(change).await??;
    ensure!(chosen == generation, "nothing was changed: it is now generation {chosen}, not {generation}");
    Ok(())
}

/// Compares everything once, and returns an example of what differs.
async fn compare_once(
    verifier: &Verifier,
    each: &mut impl FnMut(Phase) -> ControlFlow<()>,
) -> anyhow::Result<Option<String>> {
    let (mut example, mut compared, mut interrupted) = (None, 0, false);
    let clients = |Progress { clients, findings, .. }: Progress| {
        let difference = findings.iter().find(|finding| !was_late(finding)).map(ToString::to_string);
        example = example.take().or(difference);
        compared = clients;
        let flow = each(Phase::Compared(clients));
        interrupted = flow.is_break();
        flow
    };
    verifier.all(0, clients).await?;
    ensure!(!interrupted, Interrupted);
    // Generations of older releases have no sums.
    if verifier.read_model.has_reports().await? {
        let sums = |SumsProgress { wrong, .. }: SumsProgress| {
            example = example.take().or_else(|| wrong.first().map(ToString::to_string));
            interrupted = each(Phase::Compared(compared)).is_break();
            if interrupted || example.is_some() { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
        };
        verifier.sums(None, sums).await?;
        ensure!(!interrupted, Interrupted);
    }
    Ok(example)
}

/// Whether only late events were missing, which have been applied since. During a backlog there are always some, and the live
/// generation misses them, too.
fn was_late(finding: &Finding) -> bool {
    finding.repaired && matches!(finding.difference, Difference::Missing { .. } | Difference::Behind { .. })
}

/// Removes abandoned and expired generations until `shutdown`.
pub async fn clean_up(read_model: Redis, shutdown: CancellationToken) {
    let mut failing = false;
    while timeout(CLEANUP_INTERVAL, shutdown.cancelled()).await.is_err() {
        match read_model.remove_expired_generations().await {
            Ok(removed) => {
                failing = false;
                removed.iter().for_each(|generation| info!(generation, "removed an old generation of the read model"));
            }
            Err(error) if !std::mem::replace(&mut failing, true) => {
                warn!("cannot remove old generations of the read model now: {}", one_line(&error));
            }
            Err(_) => {}
        }
    }
}
