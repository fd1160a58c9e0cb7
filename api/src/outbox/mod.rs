//! Publishes committed events to the queue: the loop ([`relay`]), the rows ([`rows`]) and the calls to SQS ([`publisher`]).

mod publisher;
pub mod relay;
mod rows;
