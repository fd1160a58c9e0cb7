//! Publishes committed events to the queue: when ([`relay`]), in which calls ([`delivery`]), which of them alone ([`suspects`]), the
//! rows ([`rows`]) and the calls to SQS ([`publisher`]); [`spans`] of traces.

mod delivery;
mod publisher;
pub mod relay;
mod rows;
pub mod spans;
mod suspects;
