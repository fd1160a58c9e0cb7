//! The api on real stores: PostgreSQL and SQLite, an SQS over HTTP, HTTP requests over a socket.

mod contract;
mod dashboards;
mod edge;
mod live;
mod master_data;
mod orders;
mod outbox;
mod relay;
mod sample;
mod support;
mod tokens;
mod websocket;
