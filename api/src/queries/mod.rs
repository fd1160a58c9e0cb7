//! Reads of the read model. Nothing here knows SeaORM or GraphQL.
//!
//! - [`clients`]: by id, at a version, and pages of a ranking; [`clients_by_id`]: those of orders; [`recent_orders`]: their newest orders
//! - [`catalogue`]: products by id, and pages of all products
//! - [`reports`]: sales over time and top products, each read once for many dashboards; [`product_sums`]: their sums
//! - [`live`]: clients as they change; [`sales_snapshots`]: current sales as they change

pub mod catalogue;
pub mod clients;
mod clients_by_id;
pub mod live;
mod product_sums;
mod recent_orders;
pub mod reports;
pub mod sales_snapshots;
