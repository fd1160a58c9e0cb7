//! The meaning of an event. These are pure functions and the specification of the read model: [`Memory`](crate::Memory) runs them,
//! `apply.lua` repeats them for Redis, and a property test compares the two.
//!
//! An event of a client changes the client ([`client`]). An order also adds to sums and to the client's recent orders ([`sales`]).
//! A product has the attributes of its newest event.

pub mod client;
pub mod sales;
