//! What operators see of the read model.

use std::collections::BTreeSet;
use std::time::Duration;

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::Generations;

#[derive(Clone, Debug)]
pub struct Status {
    pub generations: Generations,
    /// The last event of the log that a rebuild has replayed into the generation that is being built.
    pub replayed: Option<Uuid>,
    /// `None` if nothing has ever compared the live generation with the database.
    pub sweep: Option<SweepProgress>,
    /// How many sums of the live generation differed from the database when they were last compared.
    pub wrong_sums: u64,
    /// The projectors that have reported lately, the one that has started first at the start.
    pub projectors: Vec<ProjectorStatus>,
}

/// What a projector reports about itself, every few seconds.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProjectorStatus {
    /// Identifies the process.
    pub id: Uuid,
    pub version: String,
    pub started: DateTime<Utc>,
    pub state: ProjectorState,
    /// How long the oldest message of the last batch waited until it was applied, or 0 if the queue has been empty since.
    pub lag_s: u64,
}

/// As the health check of a projector reports it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ProjectorState {
    Current,
    /// There is a backlog.
    Lagging,
    /// A store is unavailable.
    Waiting,
    /// The pollers have stopped without a known reason.
    Frozen,
}

/// How long a report of a projector counts.
pub(crate) const REPORTED_WITHIN: Duration = Duration::from_secs(10);

/// Sorts projectors by their start.
pub(crate) fn in_order(mut projectors: Vec<ProjectorStatus>) -> Vec<ProjectorStatus> {
    projectors.sort_by_key(|projector| (projector.started, projector.id));
    projectors
}

/// The progress of the sweep of a generation, which compares every client and every product once in a round.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SweepProgress {
    /// When the round began.
    pub began: DateTime<Utc>,
    /// All clients up to this id have been compared.
    pub last: i64,
    /// After all clients: all products up to this id have been compared.
    #[serde(default)]
    pub last_product: i64,
    pub is_finished: bool,
    pub has_compared_sums: bool,
    /// When recent changes were last compared.
    #[serde(default)]
    pub compared_at: Option<DateTime<Utc>>,
    /// Clients and products that were found to differ since the round began.
    #[serde(default)]
    pub differences: u64,
    /// How many of them were repaired.
    #[serde(default)]
    pub repaired: u64,
    /// When one was last found, in this round or an earlier one.
    #[serde(default)]
    pub last_difference: Option<DateTime<Utc>>,
}

impl SweepProgress {
    /// A new round, after the one before it.
    pub fn new(before: Option<&SweepProgress>) -> SweepProgress {
        SweepProgress {
            began: Utc::now(),
            last: 0,
            last_product: 0,
            is_finished: false,
            has_compared_sums: false,
            compared_at: before.and_then(|before| before.compared_at),
            differences: 0,
            repaired: 0,
            last_difference: before.and_then(|before| before.last_difference),
        }
    }
}

/// The versions of a client or a product that are applied.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct AppliedVersions {
    /// All up to this one.
    pub watermark: i32,
    /// Those above it, while there is a gap.
    pub ahead: BTreeSet<i32>,
}

impl AppliedVersions {
    pub fn has(&self, version: i32) -> bool {
        version <= self.watermark || self.ahead.contains(&version)
    }
}
