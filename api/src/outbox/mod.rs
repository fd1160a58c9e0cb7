//! Publishes committed events: when ([`relay`]), in which calls ([`delivery`]), which of them alone ([`suspects`]), the rows
//! ([`rows`]) and the results of calls ([`publisher`]) to SQS ([`queue`]) or SNS ([`topic`]); [`log_tailing`] instead of the relay;
//! [`spans`] of traces. Elsewhere in this module "queue" also means a topic in its place.

mod delivery;
pub mod log_tailing;
mod publisher;
mod queue;
pub mod relay;
mod rows;
pub mod spans;
mod suspects;
mod topic;
