//! Writes to the command database. Nothing here knows GraphQL or the read model.

pub mod database;
pub mod master_data;
pub mod place_order;
