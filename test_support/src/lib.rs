//! Servers, doubles and helpers that the tests of several crates share.
//!
//! Servers, started and stopped with the values that hold them:
//! - [`postgres`]: a database on one shared server, or a server of one test
//! - [`pgbouncer`]: a pooler in front of a database
//! - [`redis`]: a Redis server or a Cluster
//! - [`redis_cluster`]: a Cluster whose shards can be killed, with or without TLS
//! - [`certificates`]: certificates of a private authority
//! - [`sns`]: topics in front of SQS
//! - [`sqs`]: an embedded SQS, also one that fails on demand
//! - [`otlp`]: an OpenTelemetry collector
//! - [`process`]: any program, and what it prints
//! - [`services`]: the stores, apis and projectors, each a process
//!
//! Faults:
//! - [`gate`]: a TCP proxy that can refuse connections or swallow all bytes
//! - [`queue_proxy`]: a proxy in front of SQS that can fail in many ways
//!
//! Clients and data:
//! - [`dump`]: everything that a store holds, as text
//! - [`events`]: builders of events
//! - [`fill`]: a store with any number of clients and orders
//! - [`user`]: a user of an api
//! - [`subscription`]: a subscription over an event stream
//! - [`load`]: users who place orders all the time
//! - [`log`]: what a test logs
//! - [`log_reader`]: a reader of the write-ahead log of PostgreSQL
//! - [`metrics`]: what Prometheus reads from a process
//! - [`until`]: waiting for a condition

pub mod certificates;
pub mod dump;
pub mod events;
pub mod fill;
pub mod gate;
pub mod load;
pub mod log;
pub mod log_reader;
pub mod metrics;
pub mod otlp;
pub mod pgbouncer;
pub mod postgres;
pub mod process;
pub mod queue_proxy;
pub mod redis;
pub mod redis_cluster;
pub mod services;
pub mod sns;
pub mod sqs;
pub mod subscription;
mod until;
pub mod user;

pub use until::until;
