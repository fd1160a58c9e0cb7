//! One invocation applies the messages of an event and reports which of them failed. Lambda deletes the others. SQS delivers the
//! failed ones again after their visibility timeout, and moves them to the dead-letter queue after their last delivery.
//!
//! <https://docs.aws.amazon.com/lambda/latest/dg/services-sqs-errorhandling.html#services-sqs-batchfailurereporting>

use std::collections::{HashMap, HashSet};
use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use aws_sdk_sqs::types::{Message, MessageSystemAttributeName};
use iso_currency::Currency;
use projector::consume::{Delivery, EventBatcher, outage};
use read_model::Projection;
use runtime::logging;
use serde::{Deserialize, Serialize};
use tokio::time::{Instant, sleep};
use tracing::warn;

/// How long an invocation tries again while Redis is unavailable. A connection that was lost while Lambda had frozen the process is
/// noticed after three commands without a response, of a second each.
const RETRY_FOR: Duration = Duration::from_secs(4);
const RETRY_PAUSE: Duration = Duration::from_millis(100);

/// The part of the event that is used.
#[derive(Debug, Deserialize)]
pub struct SqsEvent {
    #[serde(rename = "Records")]
    records: Vec<Record>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Record {
    message_id: String,
    body: String,
    attributes: HashMap<String, String>,
    /// `arn:aws:sqs:REGION:ACCOUNT:NAME`
    #[serde(rename = "eventSourceARN")]
    queue_arn: String,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct SqsBatchResponse {
    batch_item_failures: Vec<BatchItemFailure>,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct BatchItemFailure {
    item_identifier: String,
}

pub struct Function {
    read_model: Arc<dyn Projection>,
    currency: Currency,
}

impl Function {
    pub fn new(read_model: Arc<dyn Projection>, currency: Currency) -> Function {
        Function { read_model, currency }
    }

    /// Applies the messages of an event. The response has the ids of those that were not applied.
    pub async fn invoke(&self, event: SqsEvent) -> Result<SqsBatchResponse, Infallible> {
        let ids: Vec<String> = event.records.iter().map(|record| record.message_id.clone()).collect();
        let applied = self.apply(event.records).await;
        let applied: HashSet<&str> = applied.iter().filter_map(Message::message_id).collect();
        let failed = ids.into_iter().filter(|id| !applied.contains(&**id));
        let batch_item_failures = failed.map(|item_identifier| BatchItemFailure { item_identifier }).collect();
        // After the response Lambda may freeze the process, with the thread that writes the log.
        logging::flush();
        Ok(SqsBatchResponse { batch_item_failures })
    }

    /// Applies messages and returns those that were applied.
    async fn apply(&self, records: Vec<Record>) -> Vec<Message> {
        let began = Instant::now();
        let arn = records.first().map(|record| record.queue_arn.clone()).unwrap_or_default();
        let queue = arn.rsplit(':').next().unwrap_or_default();
        let mut delivery = Delivery::parse(records.into_iter().map(Message::from).collect(), queue, self.currency);
        // One for each invocation: after a panic a batcher applies nothing more, and Lambda keeps the process.
        let batcher = EventBatcher::new(self.read_model.clone());
        loop {
            let results = delivery.apply(&batcher, 0).await;
            match outage(&results) {
                Some(_) if began.elapsed() < RETRY_FOR => sleep(RETRY_PAUSE).await,
                Some(error) => {
                    warn!("Redis is unavailable, so that messages are delivered again later: {error}");
                    return delivery.finish(results);
                }
                None => return delivery.finish(results),
            }
        }
    }
}

impl From<Record> for Message {
    fn from(record: Record) -> Message {
        let attributes = record.attributes.into_iter();
        let attributes = attributes.map(|(name, value)| (MessageSystemAttributeName::from(&*name), value));
        let message = Message::builder().message_id(record.message_id).body(record.body);
        message.set_attributes(Some(attributes.collect())).build()
    }
}
