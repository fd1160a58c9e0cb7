//! The states of generations and their transitions. No I/O: see `registry`.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// The format of a generation's keys. Raise it when a projection is added or its meaning changes: then `projector rebuild` is needed,
/// and older releases do not write to the new generation.
///
/// Events are applied to every generation by the rules of the writing release, also to generations of an older format. A new
/// format may add keys, and stop writing keys that expire.
///
/// Format 3 has no whole orders; in format 2, they expire. Format 4 has sums by half an hour for two years; older formats have
/// sums by hour, which expire. It also stores recent orders in a shorter form; both are read.
///
/// Format 5 has the sums of cancellations and refunds, in fields and keys of their own. They are read in every format: a release before
/// format 5 refuses a cancellation or a refund, so all that a generation of an older format includes was applied by these rules.
pub const FORMAT: u32 = 5;
/// The first format with more than clients: recent orders, rankings, and sums over time and products.
pub const REPORTS_FORMAT: u32 = 2;
/// The first format with sums by half an hour.
pub const HALF_HOURS_FORMAT: u32 = 4;
/// How long a generation that was live is kept at least (ms): some readers have not noticed the change yet.
const STILL_READ: i64 = 10_000;

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "state", rename_all = "lowercase")]
pub enum GenerationState {
    /// Queries read this generation.
    Live,
    /// A rebuild fills it.
    Building,
    /// It was live, and can become live again until this time (ms since 1970).
    Kept { until: i64 },
    /// Removed at this time (ms since 1970): no event is applied to it, and its keys will be deleted.
    Removed { since: i64 },
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Generation {
    #[serde(flatten)]
    pub state: GenerationState,
    /// The [`FORMAT`] of the release that built it.
    pub format: u32,
}

/// All generations by number. Exactly one is live.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Generations {
    /// The fencing token: it rises with each change. No token is used twice, even after a store has lost it, because it is at least the
    /// time of the change in ms since 1970.
    #[serde(alias = "epoch")]
    pub fencing_token: u64,
    /// The largest number ever used.
    last: u64,
    pub generations: BTreeMap<u64, Generation>,
}

/// Why a change is not possible.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TransitionError {
    #[error("no generation is being built")]
    NotBuilding,
    #[error("there is no previous generation")]
    NoPrevious,
    #[error("generation {0} does not exist any more: it was removed, or Redis lost it")]
    Gone(u64),
    #[error("a newer release made the live generation, in format {0}")]
    Newer(u32),
}

impl Generations {
    /// The generations of an empty store: one, which is live.
    pub fn first(now: i64) -> Generations {
        let first = Generation { state: GenerationState::Live, format: FORMAT };
        Generations {
            fencing_token: u64::try_from(now).unwrap_or(0),
            last: 1,
            generations: BTreeMap::from([(1, first)]),
        }
    }

    /// The generation that queries read.
    pub fn live(&self) -> u64 {
        self.find(|state| *state == GenerationState::Live).unwrap_or(1)
    }

    /// The generations that events are applied to, the live one first.
    pub fn written(&self) -> impl Iterator<Item = u64> {
        let live = self.live();
        let others = self.generations.iter().filter(move |(number, generation)| {
            **number != live && !matches!(generation.state, GenerationState::Removed { .. })
        });
        std::iter::once(live).chain(others.map(|(number, _)| *number))
    }

    /// The largest format of the generations that events are applied to.
    pub fn format(&self) -> u32 {
        self.written().filter_map(|number| self.generations.get(&number)).map(|one| one.format).max().unwrap_or(FORMAT)
    }

    /// The generation that a rebuild fills.
    pub fn building(&self) -> Option<u64> {
        self.find(|state| *state == GenerationState::Building)
    }

    /// The generation that was live before, which a rollback makes live again: the one that is kept for longest.
    pub fn previous(&self) -> Option<u64> {
        let until = |generation: &Generation| match generation.state {
            GenerationState::Kept { until } => Some(until),
            _ => None,
        };
        let kept = self.generations.iter().filter_map(|(number, generation)| Some((until(generation)?, *number)));
        kept.max().map(|(_, number)| number)
    }

    /// Starts a rebuild, or continues one of this format. Returns the number of its generation.
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

    /// Makes a rebuilt generation live, and keeps the live one for `keep` ms. An earlier kept one is discarded.
    pub fn switch(&mut self, building: u64, now: i64, keep: i64) -> Result<(), TransitionError> {
        if self.live() == building {
            return Ok(()); // another process has done it
        }
        if self.building() != Some(building) {
            return Err(TransitionError::Gone(building));
        }
        let _ = self.discard(now);
        self.exchange(building, now, keep);
        Ok(())
    }

    /// Makes the previous generation live again, and keeps the live one for `keep` ms.
    pub fn roll_back(&mut self, kept: u64, now: i64, keep: i64) -> Result<(), TransitionError> {
        if self.previous() != Some(kept) {
            return Err(TransitionError::Gone(kept));
        }
        self.exchange(kept, now, keep);
        Ok(())
    }

    /// Removes the generation that a rebuild fills. Returns its number.
    pub fn abort(&mut self, now: i64) -> Result<u64, TransitionError> {
        let building = self.building().ok_or(TransitionError::NotBuilding)?;
        self.set(building, GenerationState::Removed { since: now });
        Ok(building)
    }

    /// Keeps the previous generation only for as long as readers may need it. Returns its number.
    pub fn discard(&mut self, now: i64) -> Result<u64, TransitionError> {
        let kept = self.previous().ok_or(TransitionError::NoPrevious)?;
        for generation in self.generations.values_mut() {
            if let GenerationState::Kept { until } = &mut generation.state {
                *until = now.saturating_add(STILL_READ).min(*until);
            }
        }
        Ok(kept)
    }

    /// Removes the generations that were kept for long enough.
    pub fn expire(&mut self, now: i64) {
        while let Some(kept) = self.find(|state| matches!(state, GenerationState::Kept { until } if *until <= now)) {
            self.set(kept, GenerationState::Removed { since: now });
        }
    }

    /// Forgets a removed generation after its keys were deleted.
    pub fn forget(&mut self, removed: u64) {
        if self.is_removed(removed) {
            self.generations.remove(&removed);
        }
    }

    pub fn is_removed(&self, number: u64) -> bool {
        self.generations.get(&number).is_some_and(|one| matches!(one.state, GenerationState::Removed { .. }))
    }

    /// Returns the generations that were removed at least `after` ms ago, so that no write to them is still on its way.
    pub fn removable(&self, now: i64, after: i64) -> Vec<u64> {
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
