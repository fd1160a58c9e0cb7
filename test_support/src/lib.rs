//! What the tests of several crates share.
//!
//! - [`process`]: programs under test, started and stopped, and what they print
//! - [`services`]: stores, apis and projectors as processes
//! - [`user`]: a user of an api
//! - [`load`]: users who place orders all the time
//! - [`gate`] and [`queue_proxy`]: stores that fail
//! - [`until`]: waiting for a condition

pub mod gate;
pub mod load;
pub mod process;
pub mod queue_proxy;
pub mod services;
mod until;
pub mod user;

pub use until::until;
