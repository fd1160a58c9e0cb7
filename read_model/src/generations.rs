//! Generations: complete sets of the read model's keys, one of which is live. To make the read model anew, another is
//! built beside it, made live when it is complete, and the old one is kept for a while, as up to date as before.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// What a generation's keys hold. Raise it when a projection is added or its meaning changes: the read model must then be
/// made anew with `projector rebuild`, and releases that know only less do not touch what it makes.
pub const FORMAT: u32 = 1;

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "state", rename_all = "lowercase")]
pub enum State {
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
    pub state: State,
    /// The [`FORMAT`] of the release that built it.
    pub format: u32,
}

/// All generations by their numbers. One is live; one may be building or kept besides, and any number removed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Generations {
    /// Rises with each change. A generation's number is the epoch that it began in, so none is used twice.
    pub epoch: u64,
    pub generations: BTreeMap<u64, Generation>,
}

/// Why a generation cannot be made what it should be.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NotPossible {
    #[error("no generation is being built")]
    NotBuilding,
    #[error("no generation is kept from before")]
    NotKept,
    #[error("generation {0} was given up meanwhile, or Redis lost it")]
    Gone(u64),
}

impl Generations {
    /// Those of an empty store.
    pub fn first() -> Generations {
        Generations { epoch: 1, generations: BTreeMap::from([(1, Generation { state: State::Live, format: FORMAT })]) }
    }

    /// The one that queries read.
    pub fn live(&self) -> u64 {
        self.find(|state| *state == State::Live).unwrap_or(1)
    }

    /// Those that each event is applied to: the live one first.
    pub fn applied(&self) -> impl Iterator<Item = u64> {
        let live = self.live();
        let others = self
            .generations
            .iter()
            .filter(move |(number, generation)| **number != live && !matches!(generation.state, State::Removed { .. }));
        std::iter::once(live).chain(others.map(|(number, _)| *number))
    }

    /// The largest format of those that events are applied to.
    pub fn format(&self) -> u32 {
        self.applied().filter_map(|number| self.generations.get(&number)).map(|one| one.format).max().unwrap_or(FORMAT)
    }

    pub fn building(&self) -> Option<u64> {
        self.find(|state| *state == State::Building)
    }

    pub fn kept(&self) -> Option<u64> {
        self.find(|state| matches!(state, State::Kept { .. }))
    }

    /// Begins one in this new epoch, unless one is being built already, and gives up the one that is kept; returns its
    /// number.
    pub fn begin(&mut self, now: i64) -> u64 {
        if let Some(building) = self.building() {
            return building;
        }
        if let Some(kept) = self.kept() {
            self.set(kept, State::Removed { since: now });
        }
        self.generations.insert(self.epoch, Generation { state: State::Building, format: FORMAT });
        self.epoch
    }

    /// Makes live what was built, and keeps what was live.
    pub fn switch(&mut self, building: u64, until: i64) -> Result<(), NotPossible> {
        if self.live() == building {
            return Ok(()); // somebody else has done it
        }
        if self.building() != Some(building) {
            return Err(NotPossible::Gone(building));
        }
        self.exchange(building, until);
        Ok(())
    }

    /// Makes this one live again, and keeps what was live.
    pub fn roll_back(&mut self, kept: u64, until: i64) -> Result<(), NotPossible> {
        if self.kept() != Some(kept) {
            return Err(NotPossible::Gone(kept));
        }
        self.exchange(kept, until);
        Ok(())
    }

    /// Gives up what is being built; returns its number.
    pub fn abort(&mut self, now: i64) -> Result<u64, NotPossible> {
        let building = self.building().ok_or(NotPossible::NotBuilding)?;
        self.set(building, State::Removed { since: now });
        Ok(building)
    }

    /// Gives up what has been kept for long enough.
    pub fn expire(&mut self, now: i64) {
        if let Some(kept) = self.find(|state| matches!(state, State::Kept { until } if *until <= now)) {
            self.set(kept, State::Removed { since: now });
        }
    }

    /// Forgets one whose keys are gone.
    pub fn forget(&mut self, removed: u64) {
        if self.generations.get(&removed).is_some_and(|one| matches!(one.state, State::Removed { .. })) {
            self.generations.remove(&removed);
        }
    }

    /// Those whose keys can go, because everybody has known for `after` milliseconds that they are given up.
    pub fn to_remove(&self, now: i64, after: i64) -> impl Iterator<Item = u64> {
        let is_due = move |state: &State| matches!(state, State::Removed { since } if since + after <= now);
        self.generations.iter().filter(move |(_, one)| is_due(&one.state)).map(|(number, _)| *number)
    }

    fn exchange(&mut self, next: u64, until: i64) {
        self.set(self.live(), State::Kept { until });
        self.set(next, State::Live);
    }

    fn set(&mut self, number: u64, state: State) {
        if let Some(generation) = self.generations.get_mut(&number) {
            generation.state = state;
        }
    }

    fn find(&self, is_it: impl Fn(&State) -> bool) -> Option<u64> {
        self.generations.iter().find(|(_, generation)| is_it(&generation.state)).map(|(number, _)| *number)
    }
}
