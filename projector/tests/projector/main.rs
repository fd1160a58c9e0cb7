//! The projector on SQS, Redis and a database.

mod consume;
mod dead_letters;
mod growth;
mod health;
mod hostile;
mod lag;
mod lost_keys;
mod queues;
mod rebuild;
mod refunds;
mod replay;
mod stopping;
mod sums;
mod support;
mod sweep;
mod verify;
