//! Connections of the pool after faults of the database.

mod postgres;
mod sqlite;
