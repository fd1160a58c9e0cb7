//! The SQS queue and its dead-letter queue, and the SNS topic.

mod create;
pub mod dead_letters;
mod topic;

use std::time::Duration;

use aws_config::SdkConfig;
use aws_sdk_sqs::Client;
use aws_sdk_sqs::config::StalledStreamProtectionConfig;
use aws_sdk_sqs::config::timeout::TimeoutConfig;

pub use create::{CreatedQueue, check, create};
pub use topic::subscribe;

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

/// An SNS client whose calls end, too.
pub fn sns_client(settings: &SdkConfig) -> aws_sdk_sns::Client {
    aws_sdk_sns::Client::new(&settings.to_builder().timeout_config(timeout_config(CALL_TIMEOUT)).build())
}

pub(crate) fn timeout_config(attempt: Duration) -> TimeoutConfig {
    TimeoutConfig::builder().operation_attempt_timeout(attempt).build()
}
