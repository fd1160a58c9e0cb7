//! Reads of the read model.

pub mod live;
pub mod sales_snapshots;
