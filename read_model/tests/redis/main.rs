//! The read model in Redis on a real `redis-server`, compared with the read model in memory.

mod apply;
mod client_cache;
mod damage;
mod equivalence;
mod failover;
mod generation_states;
mod generations;
mod hostile;
mod outages;
mod refusals;
mod status;
mod support;
mod tls;
