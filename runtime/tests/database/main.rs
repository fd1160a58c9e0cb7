//! Connections of the pool after faults of the database.

mod credentials;
mod pooler;
mod postgres;
mod sqlite;
