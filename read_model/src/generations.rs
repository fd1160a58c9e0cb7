//! Generations: complete sets of the read model's keys, one of which is live. To make the read model anew, another is
//! built beside it, made live when it is complete, and the old one is kept for a while, as up to date as before.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// What a generation's keys hold. Raise it when a projection is added or its meaning changes: the read model must then be
/// made anew with `projector rebuild`, and releases that know only less do not touch what it makes.
///
/// Events are applied to all generations by the newest rules that a release knows, also to those of a lesser format: it may
/// only add to what there was.
///
/// 2 added all but the clients themselves: their lists, rankings, and sums over time and products. The catalogue came later,
/// and needed no other: it fills with the events of products, which no release without it has.
pub const FORMAT: u32 = 2;
/// How long one that was live is kept at least (ms): some readers do not know yet that it is not.
const STILL_READ: i64 = 10_000;

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "state", rename_all = "lowercase")]
pub enum GenerationState {
    /// Queries read it.
    Live,
    /// It is being filled.
    Building,
    /// It was live, and can be again until this time (ms since 1970).
    Kept { until: i64 },
    /// Given up at this time (ms since 1970): nothing is applied to it any more, and its keys are to go.
    Removed { since: i64 },
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Generation {
    #[serde(flatten)]
    pub state: GenerationState,
    /// The [`FORMAT`] of the release that built it.
    pub format: u32,
}

/// All generations by their numbers. One is live; others may be building, kept and removed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Generations {
    /// Rises with each change, and is never used twice, also not by a store that has lost it: ms since 1970, or more.
    #[serde(alias = "epoch")]
    pub fencing_token: u64,
    /// The largest number that was ever given.
    last: u64,
    pub generations: BTreeMap<u64, Generation>,
}

/// Why a generation cannot be made what it should be.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TransitionError {
    #[error("no generation is being built")]
    NotBuilding,
    #[error("no generation is kept from before")]
    NoPrevious,
    #[error("generation {0} was given up meanwhile, or Redis lost it")]
    Gone(u64),
    #[error("what is live was made by a newer release, in format {0}")]
    Newer(u32),
}

impl Generations {
    /// Those of an empty store.
    pub fn first(now: i64) -> Generations {
        let first = Generation { state: GenerationState::Live, format: FORMAT };
        Generations {
            fencing_token: u64::try_from(now).unwrap_or(0),
            last: 1,
            generations: BTreeMap::from([(1, first)]),
        }
    }

    /// The one that queries read.
    pub fn live(&self) -> u64 {
        self.find(|state| *state == GenerationState::Live).unwrap_or(1)
    }

    /// Those that each event is applied to: the live one first.
    pub fn applied(&self) -> impl Iterator<Item = u64> {
        let live = self.live();
        let others = self.generations.iter().filter(move |(number, generation)| {
            **number != live && !matches!(generation.state, GenerationState::Removed { .. })
        });
        std::iter::once(live).chain(others.map(|(number, _)| *number))
    }

    /// The largest format of those that events are applied to.
    pub fn format(&self) -> u32 {
        self.applied().filter_map(|number| self.generations.get(&number)).map(|one| one.format).max().unwrap_or(FORMAT)
    }

    pub fn building(&self) -> Option<u64> {
        self.find(|state| *state == GenerationState::Building)
    }

    /// The one that is kept for longest: it was live last.
    pub fn previous(&self) -> Option<u64> {
        let until = |generation: &Generation| match generation.state {
            GenerationState::Kept { until } => Some(until),
            _ => None,
        };
        let kept = self.generations.iter().filter_map(|(number, generation)| Some((until(generation)?, *number)));
        kept.max().map(|(_, number)| number)
    }

    /// Begins one, unless one of this format is being built already; returns its number.
    pub fn start(&mut self, now: i64) -> Result<u64, TransitionError> {
        let format = |number: &u64| self.generations.get(number).map_or(FORMAT, |generation| generation.format);
        let live = format(&self.live());
        if live > FORMAT {
            return Err(TransitionError::Newer(live));
        }
        if let Some(building) = self.building() {
            if format(&building) == FORMAT {
                return Ok(building);
            }
            self.set(building, GenerationState::Removed { since: now });
        }
        self.last += 1;
        self.generations.insert(self.last, Generation { state: GenerationState::Building, format: FORMAT });
        Ok(self.last)
    }

    /// Makes live what was built, and keeps what was live so long (ms). What was kept before is to go.
    pub fn switch(&mut self, building: u64, now: i64, keep: i64) -> Result<(), TransitionError> {
        if self.live() == building {
            return Ok(()); // somebody else has done it
        }
        if self.building() != Some(building) {
            return Err(TransitionError::Gone(building));
        }
        let _ = self.discard(now);
        self.exchange(building, now, keep);
        Ok(())
    }

    /// Makes this one live again, and keeps what was live.
    pub fn roll_back(&mut self, kept: u64, now: i64, keep: i64) -> Result<(), TransitionError> {
        if self.previous() != Some(kept) {
            return Err(TransitionError::Gone(kept));
        }
        self.exchange(kept, now, keep);
        Ok(())
    }

    /// Gives up what is being built; returns its number.
    pub fn abort(&mut self, now: i64) -> Result<u64, TransitionError> {
        let building = self.building().ok_or(TransitionError::NotBuilding)?;
        self.set(building, GenerationState::Removed { since: now });
        Ok(building)
    }

    /// Keeps what is kept no longer than readers may need it; returns its number.
    pub fn discard(&mut self, now: i64) -> Result<u64, TransitionError> {
        let kept = self.previous().ok_or(TransitionError::NoPrevious)?;
        for generation in self.generations.values_mut() {
            if let GenerationState::Kept { until } = &mut generation.state {
                *until = now.saturating_add(STILL_READ).min(*until);
            }
        }
        Ok(kept)
    }

    /// Gives up what has been kept for long enough.
    pub fn expire(&mut self, now: i64) {
        while let Some(kept) = self.find(|state| matches!(state, GenerationState::Kept { until } if *until <= now)) {
            self.set(kept, GenerationState::Removed { since: now });
        }
    }

    /// Forgets one whose keys are gone.
    pub fn forget(&mut self, removed: u64) {
        if self.is_removed(removed) {
            self.generations.remove(&removed);
        }
    }

    pub fn is_removed(&self, number: u64) -> bool {
        self.generations.get(&number).is_some_and(|one| matches!(one.state, GenerationState::Removed { .. }))
    }

    /// Those that were given up so long ago (ms) that nobody is about to write to them any more.
    pub fn to_remove(&self, now: i64, after: i64) -> Vec<u64> {
        let is_due =
            |state: &GenerationState| matches!(state, GenerationState::Removed { since } if since + after <= now);
        self.generations.iter().filter(|(_, one)| is_due(&one.state)).map(|(number, _)| *number).collect()
    }

    fn exchange(&mut self, next: u64, now: i64, keep: i64) {
        self.set(self.live(), GenerationState::Kept { until: now.saturating_add(keep.max(STILL_READ)) });
        self.set(next, GenerationState::Live);
    }

    fn set(&mut self, number: u64, state: GenerationState) {
        if let Some(generation) = self.generations.get_mut(&number) {
            generation.state = state;
        }
    }

    fn find(&self, is_it: impl Fn(&GenerationState) -> bool) -> Option<u64> {
        self.generations.iter().find(|(_, generation)| is_it(&generation.state)).map(|(number, _)| *number)
    }
}
