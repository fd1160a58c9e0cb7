//! Publishes committed events to the queue.

pub mod relay;
