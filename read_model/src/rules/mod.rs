//! The meaning of an event. These are pure functions and the specification of the read model: [`Memory`](crate::Memory) runs them,
//! `apply.lua` repeats them for Redis, and a property test compares the two.
//!
//! An event of a client changes the client ([`client`]). An order also adds to the client's recent orders
//! ([`recent_orders`]) and to sums, and a cancellation or a refund to the other side of the sums ([`sales`]), by [`periods`].
//! A product has the attributes of its newest event.

pub mod client;
pub mod periods;
pub mod recent_orders;
pub mod sales;

use entity::Event;

use crate::Error;

/// How far the version of an event from the queue may be above the watermark of its client, or above the version of its product.
/// While an event is missing, so many later ones can be applied; the sweep applies a missing event within minutes. When it
/// arrives, one script makes up for all of them, in which time Redis serves nobody else.
pub const MAX_AHEAD: i32 = 5_000;

/// Checks the version of an event whose sender is not trusted: a version far ahead would fix the name of its client or product for
/// good. `reached` is the watermark of the client, or the version of the product.
///
/// # Errors
/// [`Error::Refused`] if the version is too far ahead.
pub fn check_version(event: &Event, reached: i32) -> Result<(), Error> {
    let (version, subject) = (event.version, event.subject());
    if version.saturating_sub(MAX_AHEAD) <= reached {
        return Ok(());
    }
    Err(Error::Refused(format!("version {version} is more than {MAX_AHEAD} above version {reached} of {subject}")))
}
