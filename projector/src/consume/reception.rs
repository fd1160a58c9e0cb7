//! Whether messages are received. They are not while a store is unavailable. All pollers notice that, and each outage is logged once.

use std::fmt::Display;
use std::sync::atomic::{AtomicUsize, Ordering};

use tracing::{info, warn};

/// The number of changes so far: even while messages are received, odd while they are not.
#[derive(Default)]
pub struct Reception(AtomicUsize);

/// The state when a call began.
#[derive(Clone, Copy)]
pub struct Began(usize);

impl Reception {
    pub fn is_paused(&self) -> bool {
        self.0.load(Ordering::SeqCst) % 2 == 1
    }

    pub fn begin(&self) -> Began {
        Began(self.0.load(Ordering::SeqCst))
    }

    /// A call has failed.
    pub fn pause(&self, began: Began, reason: &dyn Display) {
        if began.0.is_multiple_of(2) && self.changes(began) {
            warn!("paused: {reason}");
        }
    }

    /// A call has succeeded.
    pub fn resume(&self, began: Began) {
        if !began.0.is_multiple_of(2) && self.changes(began) {
            info!("resumed: receiving messages again");
        }
    }

    /// Changes the state, unless it has changed since the call began: the result of a call from before an outage, such as a long poll,
    /// does not show that the outage is over.
    fn changes(&self, Began(began): Began) -> bool {
        self.0.compare_exchange(began, began + 1, Ordering::SeqCst, Ordering::SeqCst).is_ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_call_from_before_an_outage_does_not_end_it() {
        let reception = Reception::default();
        let (first, long_poll, slow) = (reception.begin(), reception.begin(), reception.begin());
        reception.resume(first);
        assert!(!reception.is_paused());
        reception.pause(first, &"the first call fails");
        reception.resume(long_poll);
        assert!(reception.is_paused(), "the long poll began before the outage");
        reception.pause(reception.begin(), &"the next call fails");
        reception.resume(reception.begin());
        assert!(!reception.is_paused());
        reception.pause(slow, &"a call that began before the outage fails after it");
        assert!(!reception.is_paused());
        reception.pause(reception.begin(), &"another outage");
        assert!(reception.is_paused());
    }
}
