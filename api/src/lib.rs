//! The api: a GraphQL service that executes commands and queries, and publishes events from its outbox.
//!
//! - [`edge`]: HTTP; parses and validates requests, checks tokens and rate limits, encodes responses
//! - [`graphql`]: the schema and its resolvers
//! - [`commands`]: writes to the command database
//! - [`connections`]: how many connections to the command database each caller may use
//! - [`intake`]: orders that are accepted while the database is away
//! - [`outbox`]: publishes committed events to the queue
//! - [`orders`]: reads of order rows
//! - [`history`]: reads of the event log
//! - [`queries`]: reads from the read model
//! - [`search`]: finds clients in PostgreSQL
//! - [`system`]: the state of the service, for operators
//! - [`throttle`]: slows down long reads
//! - [`config`]: the settings
//! - [`metrics`]: what operators can measure
//! - [`service`]: assembles the parts, serves, and drains

pub mod commands;
pub mod config;
pub mod connections;
pub mod edge;
pub mod graphql;
pub mod history;
pub mod intake;
pub mod metrics;
pub mod orders;
pub mod outbox;
pub mod queries;
pub mod search;
pub mod service;
pub mod system;
mod throttle;

pub use service::{Backend, Service};
