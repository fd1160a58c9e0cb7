//! Publishes committed events: when ([`relay`]), in which calls ([`delivery`]), which of them alone ([`suspects`]), the rows
//! ([`rows`]) and the results of calls ([`publisher`]) to SQS ([`queue`]) or SNS ([`topic`]); [`spans`] of traces.

mod delivery;
mod publisher;
mod queue;
pub mod relay;
mod rows;
pub mod spans;
mod suspects;
mod topic;
