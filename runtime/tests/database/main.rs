//! Connections of the pool after faults of the database.

mod sqlite;
