//! Makes the read model anew beside the live one, which goes on, and puts it in its place when it is complete. What was
//! live is kept for a while, as up to date as before, and can be put back.

use std::ops::ControlFlow;
use std::pin::pin;
use std::time::Duration;

use anyhow::{Context, bail, ensure};
use chrono::Utc;
use futures::StreamExt;
use read_model::generations::TransitionError;
use read_model::{Generations, Redis};
use runtime::{crash_point, crash_points, one_line};
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use crate::replay::{self, Replayed, Selection};
use crate::verify::sums::WrongSum;
use crate::verify::{Difference, Finding, Step, Verifier};

/// How often all clients are compared before it is given up to find none that differs.
const PASSES: u32 = 5;
/// How often projectors look for what can be removed.
const TIDIED: Duration = Duration::from_secs(10);

pub struct Rebuild {
    /// Compares, and repairs whatever differs.
    pub verifier: Verifier,
    /// How long the generation that was live is kept.
    pub keep: Duration,
}

/// How far it has got.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Progress {
    Replayed(u64),
    Compared(u64),
}

/// It was interrupted: what was done so far is gone on with by the next one.
#[derive(Debug, thiserror::Error)]
#[error("interrupted")]
pub struct Interrupted;

impl Rebuild {
    /// Fills a new generation, or goes on with one that somebody began, and makes it live once nothing in it differs from
    /// the database; returns its number.
    ///
    /// # Errors
    /// When a store fails, or something differs all the time. The live generation is as it was then.
    pub async fn run(&self, mut each: impl FnMut(Progress) -> ControlFlow<()>) -> anyhow::Result<u64> {
        let generation = self.verifier.read_model.change_generations(Generations::start).await??;
        crash_point(crash_points::REBUILD_BEFORE_REPLAY);
        // From here on each event is applied to both. What came before is in the log by now.
        self.replay(&self.verifier.read_model.pinned_to(generation), &mut each).await?;
        self.compare(generation, &mut each).await?;
        crash_point(crash_points::REBUILD_BEFORE_SWITCH);
        self.change(|generations, now, keep| generations.switch(generation, now, keep)).await?;
        Ok(generation)
    }

    /// Makes live again what was live before, once nothing in it differs from the database; returns its number.
    ///
    /// # Errors
    /// When there is none, or as [`Rebuild::run`].
    pub async fn roll_back(&self, mut each: impl FnMut(Progress) -> ControlFlow<()>) -> anyhow::Result<u64> {
        let kept = self.verifier.read_model.generations().await?.previous().ok_or(TransitionError::NoPrevious)?;
        self.compare(kept, &mut each).await?;
        self.change(|generations, now, keep| generations.roll_back(kept, now, keep)).await?;
        Ok(kept)
    }

    async fn replay(&self, building: &Redis, each: &mut impl FnMut(Progress) -> ControlFlow<()>) -> anyhow::Result<()> {
        let noted = building.rebuild_position().await?;
        let after = noted.map(|id| id.parse()).transpose().context("what a rebuild noted is damaged")?;
        let selection = Selection { after, ..Selection::default() };
        let mut steps = pin!(replay::replay(&self.verifier.db, building, self.verifier.currency, &selection));
        let mut noted = after;
        while let Some(replayed) = steps.next().await {
            let Replayed { events, last } = replayed?;
            if noted != Some(last) {
                building.save_rebuild_position(&last.to_string()).await?;
                noted = Some(last);
            }
            ensure!(each(Progress::Replayed(events)).is_continue(), Interrupted);
        }
        Ok(())
    }

    /// Compares, and repairs, until nothing differs. What is only late does not count: while projectors have much to do,
    /// there is always some of it, and the live generation lacks it as well.
    async fn compare(&self, generation: u64, each: &mut impl FnMut(Progress) -> ControlFlow<()>) -> anyhow::Result<()> {
        let verifier = Verifier { read_model: self.verifier.read_model.pinned_to(generation), ..self.verifier.clone() };
        let (mut found, mut interrupted) = (None, false);
        for _ in 0..PASSES {
            let mut compared = 0;
            found = None;
            // Whatever lacks by now of what came before that is applied while clients are compared.
            let arrived = Utc::now() - verifier.in_flight;
            let step = |Step { clients, findings, .. }: Step| {
                let is_late = |finding: &Finding| {
                    finding.repaired
                        && matches!(finding.difference, Difference::Missing { .. } | Difference::Behind { .. })
                };
                let example = findings.iter().find(|finding| !is_late(finding)).map(ToString::to_string);
                found = found.take().or(example);
                compared = clients;
                interrupted = each(Progress::Compared(clients)).is_break();
                if interrupted { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
            };
            verifier.all(0, step).await?;
            ensure!(!interrupted, Interrupted);
            // What an older release made has no sums.
            if verifier.read_model.has_reports().await? {
                let sums = |wrong: Vec<WrongSum>| {
                    found = found.take().or_else(|| wrong.first().map(ToString::to_string));
                    interrupted = each(Progress::Compared(compared)).is_break();
                    if interrupted || found.is_some() { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
                };
                verifier.sums(arrived, sums).await?;
                ensure!(!interrupted, Interrupted);
            }
            if found.is_none() {
                return Ok(());
            }
        }
        bail!("generation {generation} differs from the database again and again: {}", found.unwrap_or_default())
    }

    async fn change(
        &self,
        change: impl Fn(&mut Generations, i64, i64) -> Result<(), TransitionError>,
    ) -> anyhow::Result<()> {
        let keep = i64::try_from(self.keep.as_millis()).unwrap_or(i64::MAX);
        Ok(self.verifier.read_model.change_generations(|generations, now| change(generations, now, keep)).await??)
    }
}

/// Removes what rebuilds have left, whenever it can go, until `shutdown`.
pub async fn tidy(read_model: Redis, shutdown: CancellationToken) {
    let mut told = false;
    while timeout(TIDIED, shutdown.cancelled()).await.is_err() {
        match read_model.remove_expired_generations().await {
            Ok(removed) => {
                told = false;
                removed.iter().for_each(|generation| info!(generation, "an old generation of the read model is gone"));
            }
            Err(error) if !std::mem::replace(&mut told, true) => {
                warn!("old generations of the read model stay for now: {}", one_line(&error));
            }
            Err(_) => {}
        }
    }
}
