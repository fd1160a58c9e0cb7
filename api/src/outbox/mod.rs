//! Publishes committed events to the queue: when ([`relay`]), in which calls ([`delivery`]), which of them alone ([`suspects`]), the
//! rows ([`rows`]) and the calls to SQS ([`publisher`]); [`log_tailing`] instead of the relay; [`spans`] of traces.

mod delivery;
pub mod log_tailing;
mod publisher;
pub mod relay;
mod rows;
pub mod spans;
mod suspects;

pub(crate) use suspects::BACKOFF;
