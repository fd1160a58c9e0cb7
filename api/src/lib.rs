//! The api: GraphQL over HTTP, commands to the database, queries from the read model, the outbox relay.
//!
//! - [`edge`]: from bytes to one validated, authorised and paid operation, and back to bytes
//! - [`graphql`]: the schema and its resolvers
//! - [`commands`]: writes to the command database
//! - [`outbox`]: publishes committed events to the queue
//! - [`queries`]: reads from the read model
//! - [`config`]: the settings
//! - [`service`]: puts the parts together, serves, shuts down

pub mod commands;
pub mod config;
pub mod edge;
pub mod graphql;
pub mod outbox;
pub mod queries;
pub mod service;

pub use service::Service;
