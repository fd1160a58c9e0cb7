//! Creates the queue and its dead-letter queue.

use anyhow::{Context, anyhow, bail};
use aws_sdk_sqs::Client;
use aws_sdk_sqs::types::QueueAttributeName::{
    self, MessageRetentionPeriod, QueueArn, RedrivePolicy, SqsManagedSseEnabled, VisibilityTimeout,
};
use runtime::one_line;
use runtime::queue::ensure_standard;
use serde_json::json;
use tracing::warn;

/// Deliveries after which a message moves to the dead-letter queue.
const MAX_RECEIVES: u32 = 5;
/// Seconds for which a delivery hides the message from other receivers.
const VISIBILITY_TIMEOUT: u32 = 30;
/// Seconds for which the queues keep a message: 14 days, the largest value that SQS allows.
const RETENTION: u32 = 14 * 24 * 60 * 60;

#[derive(Debug)]
pub struct CreatedQueue {
    pub name: String,
    pub url: String,
    /// False if it existed before.
    pub created: bool,
}

/// Creates the queue NAME and the dead-letter queue NAME-dead-letters. Existing queues are not changed.
pub async fn create(client: &Client, name: &str) -> anyhow::Result<[CreatedQueue; 2]> {
    ensure_standard(name)?;
    let common = [(VisibilityTimeout, VISIBILITY_TIMEOUT.to_string()), (MessageRetentionPeriod, RETENTION.to_string())];
    let common = common.into_iter().chain([(SqsManagedSseEnabled, "true".to_owned())]);

    let dead_letters = ensure(client, format!("{name}-dead-letters"), common.clone()).await?;
    let attributes = runtime::queue::attributes(client, &dead_letters.url).await?;
    let arn = attributes.get(&QueueArn).context("the dead-letter queue has no ARN")?;

    // The count is a string, as in the examples of AWS.
    let policy = json!({ "deadLetterTargetArn": arn, "maxReceiveCount": MAX_RECEIVES.to_string() });
    let queue = ensure(client, name.to_owned(), common.chain([(RedrivePolicy, policy.to_string())])).await?;
    Ok([queue, dead_letters])
}

async fn ensure(
    client: &Client,
    name: String,
    attributes: impl Iterator<Item = (QueueAttributeName, String)>,
) -> anyhow::Result<CreatedQueue> {
    match client.get_queue_url().queue_name(&name).send().await {
        Ok(found) => {
            let url = found.queue_url.with_context(|| format!("the queue {name} has no URL"))?;
            return Ok(CreatedQueue { name, url, created: false });
        }
        Err(error) if error.as_service_error().is_some_and(|error| error.is_queue_does_not_exist()) => {}
        Err(error) => bail!("cannot look up the queue {name}: {}", one_line(&error)),
    }
    let create = client.create_queue().queue_name(&name).set_attributes(Some(attributes.collect()));
    let created =
        create.send().await.map_err(|error| anyhow!("cannot create the queue {name}: {}", one_line(&error)))?;
    let url = created.queue_url.with_context(|| format!("the queue {name} has no URL"))?;
    Ok(CreatedQueue { name, url, created: true })
}

/// Fails if the queue does not exist or is a FIFO queue. Warns if it has no dead-letter queue.
pub async fn check(client: &Client, url: &str) -> anyhow::Result<()> {
    if !runtime::queue::attributes(client, url).await?.contains_key(&RedrivePolicy) {
        warn!("the queue has no dead-letter queue: invalid messages are delivered again until they expire");
    }
    Ok(())
}
