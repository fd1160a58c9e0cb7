//! The calls to SNS.

use anyhow::{bail, ensure};
use aws_config::SdkConfig;
use aws_sdk_sns::types::{BatchResultErrorEntry, PublishBatchRequestEntry};
use runtime::one_line;
use runtime::queue::{ensure_standard, topic_name};

use super::publisher::{FailedEntry, Failure, Outgoing, Response, with_limits};

/// An SNS topic.
#[derive(Clone)]
pub struct Topic {
    client: aws_sdk_sns::Client,
    arn: String,
}

impl Topic {
    pub fn new(settings: &SdkConfig, arn: String) -> Topic {
        Topic { client: aws_sdk_sns::Client::new(&with_limits(settings)), arn }
    }

    pub(super) fn name(&self) -> &str {
        topic_name(&self.arn)
    }

    /// # Errors
    /// When the topic does not exist, cannot be reached or is FIFO.
    pub(super) async fn check(&self) -> anyhow::Result<()> {
        let arn = &self.arn;
        let is_topic = matches!(arn.split(':').collect::<Vec<_>>()[..], ["arn", _, "sns", _, _, _]);
        ensure!(is_topic, "TOPIC_ARN: {arn} is not an ARN such as arn:aws:sns:us-east-1:123456789012:orders");
        ensure_standard(arn)?;
        match self.client.get_topic_attributes().topic_arn(arn).send().await {
            Ok(_) => Ok(()),
            Err(error) if error.as_service_error().is_some_and(|error| error.is_not_found_exception()) => {
                bail!("TOPIC_ARN: the topic {arn} does not exist; `projector queues create --topic` creates it")
            }
            Err(error) => {
                bail!("cannot reach the topic {arn} (TOPIC_ARN, AWS_REGION, AWS_ENDPOINT_URL): {}", one_line(&error))
            }
        }
    }

    pub(super) async fn publish(&self, batch: &[Outgoing]) -> Result<Response, Failure> {
        let entry = |event: &Outgoing| {
            let entry = PublishBatchRequestEntry::builder().id(event.id).message(event.message.clone());
            entry.build().expect("an id and a message are given")
        };
        let entries = batch.iter().map(entry).collect();
        let request = self.client.publish_batch().topic_arn(&self.arn);
        let response = request.set_publish_batch_request_entries(Some(entries)).send().await.map_err(|error| {
            Failure::of(&error, |error, _| {
                error.is_batch_request_too_long_exception()
                    || error.is_invalid_parameter_exception()
                    || error.is_invalid_parameter_value_exception()
            })
        })?;
        let accepted = response.successful.unwrap_or_default().into_iter().filter_map(|entry| entry.id);
        Ok(Response {
            accepted: accepted.collect(),
            failed: response.failed.unwrap_or_default().into_iter().map(FailedEntry::from).collect(),
        })
    }
}

impl From<BatchResultErrorEntry> for FailedEntry {
    fn from(entry: BatchResultErrorEntry) -> FailedEntry {
        FailedEntry { id: entry.id, code: entry.code, message: entry.message, sender_fault: entry.sender_fault }
    }
}
