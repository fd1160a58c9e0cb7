//! From the queue into the read model.
//!
//! - [`consumer`]: receive, apply, delete
//! - [`replay`]: the event log of the command database, applied once more
//! - [`queues`]: creating the queue and its dead-letter queue
//! - [`health`]: `/health/live` and `/health/ready`

pub mod consumer;
pub mod health;
pub mod queues;
pub mod replay;
