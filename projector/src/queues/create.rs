//! The queue and its dead-letter queue.

use anyhow::{Context, anyhow, bail};
use aws_sdk_sqs::Client;
use aws_sdk_sqs::types::QueueAttributeName::{
    self, MessageRetentionPeriod, QueueArn, RedrivePolicy, SqsManagedSseEnabled, VisibilityTimeout,
};
use runtime::one_line;
use serde_json::json;
use tracing::warn;

/// A message goes to the dead-letter queue after so many deliveries…
const MAX_RECEIVES: u32 = 5;
/// …each of which hides it from others for so long (seconds).
const VISIBILITY_TIMEOUT: u32 = 30;
/// How long queues keep messages (seconds): 14 days, the most there is.
const RETENTION: u32 = 14 * 24 * 60 * 60;

/// A queue that is there now.
#[derive(Debug)]
pub struct Queue {
    pub name: String,
    pub url: String,
    /// Whether it was created just now.
    pub created: bool,
}

/// Creates the dead-letter queue NAME-dead-letters and the queue NAME, where they do not exist. A queue that exists is
/// left as it is.
pub async fn create(client: &Client, name: &str) -> anyhow::Result<[Queue; 2]> {
    let common = [(VisibilityTimeout, VISIBILITY_TIMEOUT.to_string()), (MessageRetentionPeriod, RETENTION.to_string())];
    let common = common.into_iter().chain([(SqsManagedSseEnabled, "true".to_owned())]);

    let dead_letters = ensure(client, format!("{name}-dead-letters"), common.clone()).await?;
    let attributes = runtime::queue::attributes(client, &dead_letters.url).await?;
    let arn = attributes.get(&QueueArn).context("the dead-letter queue has no ARN")?;

    // The count as a string, as AWS has it in its examples.
    let policy = json!({ "deadLetterTargetArn": arn, "maxReceiveCount": MAX_RECEIVES.to_string() });
    let queue = ensure(client, name.to_owned(), common.chain([(RedrivePolicy, policy.to_string())])).await?;
    Ok([queue, dead_letters])
}

async fn ensure(
    client: &Client,
    name: String,
    attributes: impl Iterator<Item = (QueueAttributeName, String)>,
) -> anyhow::Result<Queue> {
    match client.get_queue_url().queue_name(&name).send().await {
        Ok(answer) => {
            let url = answer.queue_url.with_context(|| format!("the queue {name} has no URL"))?;
            return Ok(Queue { name, url, created: false });
        }
        Err(error) if error.as_service_error().is_some_and(|error| error.is_queue_does_not_exist()) => {}
        Err(error) => bail!("cannot look for the queue {name}: {}", one_line(&error)),
    }
    let create = client.create_queue().queue_name(&name).set_attributes(Some(attributes.collect()));
    let answer =
        create.send().await.map_err(|error| anyhow!("cannot create the queue {name}: {}", one_line(&error)))?;
    let url = answer.queue_url.with_context(|| format!("the queue {name} has no URL"))?;
    Ok(Queue { name, url, created: true })
}

/// Whether the queue is there; warns when nothing would ever take refused messages out of it.
pub async fn check(client: &Client, url: &str) -> anyhow::Result<()> {
    if !runtime::queue::attributes(client, url).await?.contains_key(&RedrivePolicy) {
        warn!("the queue has no dead-letter queue: messages that are refused come again until they expire");
    }
    Ok(())
}
