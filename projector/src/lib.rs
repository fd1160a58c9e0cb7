//! From the queue into the read model.
//!
//! - [`consume`]: receive, apply, delete; [`consume::health`]: `/health/live` and `/health/ready`
//! - [`replay`]: the event log of the command database, applied once more
//! - [`verify`]: the read model, compared with the command database and repaired; [`sweep`]: the same without being asked
//! - [`rebuild`]: another read model, made beside the live one and put in its place
//! - [`queues`]: creating the queue and its dead-letter queue, and what was not applied

pub mod consume;
pub mod queues;
pub mod rebuild;
pub mod replay;
pub mod sweep;
pub mod verify;
