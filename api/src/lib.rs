//! The api: a GraphQL service that takes commands, answers queries, and publishes events from its outbox.
//!
//! - [`edge`]: HTTP; from bytes to one valid, authorised and paid operation, and from its result to bytes
//! - [`graphql`]: the schema and its resolvers
//! - [`commands`]: writes to the command database
//! - [`outbox`]: publishes committed events to the queue
//! - [`orders`]: reads of order rows
//! - [`queries`]: reads from the read model
//! - [`config`]: the settings
//! - [`service`]: assembles the parts, serves, and drains

pub mod commands;
pub mod config;
pub mod edge;
pub mod graphql;
pub mod orders;
pub mod outbox;
pub mod queries;
pub mod service;

pub use service::{Backend, Service};
