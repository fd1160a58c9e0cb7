//! Generations: complete sets of the read model's keys. Queries read the live one. A rebuild fills a new generation beside it
//! and makes it live when it is complete. The previous one is kept up to date for a while, so that a rebuild can be rolled back.
//!
//! `state` defines the states of generations and their transitions, without I/O. `registry` stores them in Redis and makes every
//! process notice a change.

pub(super) mod registry;
mod state;

pub use state::{FORMAT, Generation, GenerationState, Generations, HALF_HOURS_FORMAT, REPORTS_FORMAT, TransitionError};
