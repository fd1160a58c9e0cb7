//! Connections of the pool after faults of the database.

mod pooler;
mod postgres;
mod sqlite;
