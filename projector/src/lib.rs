//! Applies events from the queue to the read model, and keeps the read model right.
//!
//! - [`consume`]: receives messages, applies their events, deletes the messages; [`consume::health`]: health endpoints
//! - [`replay`]: applies the event log; [`rebuild`]: makes a new generation of the read model from it
//! - [`verify`]: compares the read model with the command database and repairs it; [`sweep`]: does that in the background,
//!   started by [`background`]
//! - [`metrics`]: what operators can measure; [`clock`]: the time of the database
//! - [`queues`]: creates the queue and its dead-letter queue, and handles dead letters

pub mod background;
pub mod clock;
pub mod consume;
pub mod metrics;
pub mod queues;
pub mod rebuild;
pub mod replay;
pub mod sweep;
pub mod verify;
