//! Code that all programs of the service share.
//!
//! - [`settings`]: environment variables and flags
//! - [`logging`]: log lines; [`telemetry`]: traces and metrics
//! - [`database`], [`queue`]: connecting to stores
//! - [`http`]: the HTTP server
//! - [`batcher`], [`single_flight`]: calls that share work
//! - [`shutdown_signal`], [`Exit`], [`one_line`]: the end of a program, and errors
//! - [`print_line`], [`print_advice`], [`printable`]: the output of commands
//! - [`crash_points`]: where tests can kill a program

pub mod batcher;
pub mod crash_points;
pub mod database;
mod errors;
pub mod http;
mod log_fields;
pub mod logging;
mod output;
pub mod queue;
pub mod settings;
mod shutdown;
pub mod single_flight;
pub mod telemetry;

pub use crash_points::crash_point;
pub use errors::{Exit, one_line};
pub use output::{print_advice, print_line, printable};
pub use shutdown::shutdown_signal;
