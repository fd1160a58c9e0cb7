//! The whole system as its users run it: processes, configured by environment variables, on real stores.

mod bench;
mod chaos;
mod cluster;
mod outages;
mod process;
mod readme;
mod services;
mod standalone;
mod start;
