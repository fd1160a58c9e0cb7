//! The whole system as its users run it: processes, configured by environment variables, on real stores.

mod across_processes;
mod balancer;
mod bench;
mod changes;
mod chaos;
mod cluster;
mod dead_letters;
mod disk_full;
mod log_tailing;
mod logs;
mod lost_keys;
mod metrics;
mod operator;
mod rebuild;
mod redis_loss;
mod replacement;
mod settings;
mod standalone;
mod start;
mod stores_down;
mod sweep;
mod tls;
mod token;
mod topic;
mod traces;
mod upgrade;
