//! The points at which a test can kill a process, as `kill -9` would.
//!
//! A test arms a point with `FAILPOINTS="NAME=5%return"` in the environment of a program that was built with the feature
//! `failpoints`. Without the feature [`crash_point`] does nothing.

pub const ORDER_BEFORE_COMMIT: &str = "order-before-commit";
pub const ORDER_AFTER_COMMIT: &str = "order-after-commit";
pub const CHANGE_BEFORE_COMMIT: &str = "change-before-commit";
pub const CHANGE_AFTER_COMMIT: &str = "change-after-commit";
pub const RELAY_MID_BATCHES: &str = "relay-mid-batches";
pub const RELAY_BEFORE_DELETE: &str = "relay-before-delete";
pub const PROJECTOR_BEFORE_APPLY: &str = "projector-before-apply";
pub const PROJECTOR_BEFORE_DELETE: &str = "projector-before-delete";
pub const REPLAY_MID_LOG: &str = "replay-mid-log";
pub const REPAIR_PRODUCT: &str = "repair-product";
pub const REPAIR_MID_LOG: &str = "repair-mid-log";
pub const REPAIR_BEFORE_REPLACE: &str = "repair-before-replace";
pub const REBUILD_BEFORE_REPLAY: &str = "rebuild-before-replay";
pub const REBUILD_BEFORE_SWITCH: &str = "rebuild-before-switch";

/// Kills the process if a test has armed this point.
#[inline]
pub fn crash_point(_name: &'static str) {
    #[cfg(feature = "failpoints")]
    fail::fail_point!(_name, |_| {
        eprintln!("crashed at {_name}");
        std::process::abort()
    });
}
