//! Generations: complete sets of the read model's keys, one of which is live. A rebuild fills a new generation beside the live one
//! and makes it live when it is complete. The previous one is kept up to date for a while, so that a rebuild can be rolled back.
//!
//! `state` says which generations there can be and what may happen to them, without any I/O. `registry` stores that in Redis and
//! makes every process notice a change.

pub(super) mod registry;
mod state;

pub use state::{FORMAT, Generation, GenerationState, Generations, REPORTS_FORMAT, TransitionError};
