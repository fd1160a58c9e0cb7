//! The object, input and enum types of the schema, by subject.

pub mod client;
pub mod client_list;
pub mod client_report;
pub mod history;
pub mod money;
pub mod order;
pub mod order_list;
pub mod page;
pub mod product;
pub mod sales;
pub mod system;
