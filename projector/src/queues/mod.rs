//! The queue and its dead-letter queue.

mod create;
pub mod dead_letters;

use std::time::Duration;

use aws_config::SdkConfig;
use aws_sdk_sqs::Client;
use aws_sdk_sqs::config::StalledStreamProtectionConfig;
use aws_sdk_sqs::config::timeout::TimeoutConfig;

pub use create::{Queue, check, create};

/// How long one attempt of a call may take, besides the waiting that it asks for.
pub(crate) const CALL_TIMEOUT: Duration = Duration::from_secs(5);

/// A client for SQS whose calls end, also when the other side falls silent.
pub fn client(settings: &SdkConfig) -> Client {
    // A long poll is silent for longer than the SDK lets a stream be.
    let config = aws_sdk_sqs::config::Builder::from(settings)
        .stalled_stream_protection(StalledStreamProtectionConfig::disabled())
        .timeout_config(at_most(CALL_TIMEOUT));
    Client::from_conf(config.build())
}

pub(crate) fn at_most(attempt: Duration) -> TimeoutConfig {
    TimeoutConfig::builder().operation_attempt_timeout(attempt).build()
}
