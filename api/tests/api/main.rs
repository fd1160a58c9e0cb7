//! The api on real stores: PostgreSQL and SQLite, an SQS over HTTP, HTTP requests over a socket.

mod authorization;
mod client_lists;
mod connections;
mod documents;
mod failover;
mod http;
mod input;
mod limits;
mod live;
mod master_data;
mod orders;
mod outages;
mod outbox;
mod place_order;
mod quotas;
mod refused;
mod relay;
mod reports;
mod sales;
mod sample;
mod sample_data;
mod schema;
mod silent;
mod support;
mod tokens;
mod websocket;
