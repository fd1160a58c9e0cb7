//! The SQS queue and its dead-letter queue.

mod create;
pub mod dead_letters;

use std::time::Duration;

use aws_config::SdkConfig;
use aws_sdk_sqs::Client;
use aws_sdk_sqs::config::StalledStreamProtectionConfig;
use aws_sdk_sqs::config::timeout::TimeoutConfig;

pub use create::{CreatedQueue, check, create};

/// Time limit of one attempt of a call, not counting the wait of a long poll.
pub(crate) const CALL_TIMEOUT: Duration = Duration::from_secs(5);

/// An SQS client whose calls end even if the other side stops responding.
pub fn client(settings: &SdkConfig) -> Client {
    // A long poll is silent for longer than the SDK allows by default.
    let config = aws_sdk_sqs::config::Builder::from(settings)
        .stalled_stream_protection(StalledStreamProtectionConfig::disabled())
        .timeout_config(timeout_config(CALL_TIMEOUT));
    Client::from_conf(config.build())
}

pub(crate) fn timeout_config(attempt: Duration) -> TimeoutConfig {
    TimeoutConfig::builder().operation_attempt_timeout(attempt).build()
}
