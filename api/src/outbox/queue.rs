//! The calls to SQS.

use std::collections::HashMap;

use aws_config::SdkConfig;
use aws_sdk_sqs::types::{
    BatchResultErrorEntry, MessageSystemAttributeNameForSends, MessageSystemAttributeValue,
    SendMessageBatchRequestEntry,
};
use runtime::queue;

use super::publisher::{FailedEntry, Failure, Outgoing, Response, with_limits};
use super::spans;

/// An SQS queue.
#[derive(Clone)]
pub struct Queue {
    pub client: aws_sdk_sqs::Client,
    pub url: String,
}

impl Queue {
    pub fn new(settings: &SdkConfig, url: String) -> Queue {
        Queue { client: aws_sdk_sqs::Client::new(&with_limits(settings)), url }
    }

    pub(super) fn name(&self) -> &str {
        queue::name(&self.url)
    }

    /// # Errors
    /// When the queue does not exist, cannot be reached or is a FIFO queue.
    pub async fn check(&self) -> anyhow::Result<()> {
        queue::attributes(&self.client, &self.url).await.map(drop)
    }

    pub(super) async fn send(&self, batch: &[Outgoing], is_traced: bool) -> Result<Response, Failure> {
        let entries = batch.iter().map(|event| entry(event, is_traced)).collect();
        let request = self.client.send_message_batch().queue_url(&self.url).set_entries(Some(entries));
        let response = request.send().await.map_err(|error| {
            Failure::of(&error, |error, code| {
                error.is_batch_request_too_long() || ["InvalidMessageContents", "InvalidParameterValue"].contains(&code)
            })
        })?;
        Ok(Response {
            accepted: response.successful.into_iter().map(|entry| entry.id).collect(),
            failed: response.failed.into_iter().map(FailedEntry::from).collect(),
        })
    }
}

fn entry(event: &Outgoing, is_traced: bool) -> SendMessageBatchRequestEntry {
    let entry = SendMessageBatchRequestEntry::builder().id(event.id).message_body(event.message.clone());
    let header = event.traceparent.as_deref().filter(|_| is_traced).and_then(spans::aws_trace_header);
    let header = header.map(|header| {
        let value = MessageSystemAttributeValue::builder().data_type("String").string_value(header);
        (MessageSystemAttributeNameForSends::AwsTraceHeader, value.build().expect("a type is given"))
    });
    let entry = entry.set_message_system_attributes(header.map(|header| HashMap::from([header])));
    entry.build().expect("an id and a body are given")
}

impl From<BatchResultErrorEntry> for FailedEntry {
    fn from(entry: BatchResultErrorEntry) -> FailedEntry {
        FailedEntry { id: entry.id, code: entry.code, message: entry.message, sender_fault: entry.sender_fault }
    }
}
