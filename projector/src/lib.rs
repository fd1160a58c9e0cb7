//! From the queue into the read model.
//!
//! - [`consumer`]: receive, apply, delete; [`applying`]: what comes at the same time together
//! - [`replay`]: the event log of the command database, applied once more
//! - [`verify`]: the read model, compared with the command database and repaired; [`sweep`]: the same without being asked
//! - [`sums`]: what was sold in all, compared as well
//! - [`rebuild`]: another read model, made beside the live one and put in its place
//! - [`dead_letters`]: what was not applied
//! - [`queues`]: creating the queue and its dead-letter queue
//! - [`progress`]: how far a long command has got
//! - [`health`]: `/health/live` and `/health/ready`

pub mod applying;
pub mod consumer;
pub mod dead_letters;
pub mod health;
pub mod progress;
pub mod queues;
pub mod rebuild;
pub mod replay;
pub mod sums;
pub mod sweep;
pub mod verify;
