//! Creates the topic and subscribes the queue to it.

use anyhow::{Context, anyhow, bail};
use aws_sdk_sns::Client;
use aws_sdk_sqs::types::QueueAttributeName::{Policy, QueueArn};
use runtime::one_line;
use runtime::queue::{attributes, ensure_standard};
use serde_json::json;

use super::CreatedQueue;

/// Creates a topic and subscribes a queue to it, which gets messages without an envelope. Messages that SNS cannot deliver move to the
/// dead-letter queue. An existing topic or subscription is not changed. Returns the ARN of the topic.
pub async fn subscribe(
    sns: &Client,
    sqs: &aws_sdk_sqs::Client,
    [queue, dead_letters]: &[CreatedQueue; 2],
    name: &str,
) -> anyhow::Result<String> {
    ensure_standard(name)?;
    let created = sns.create_topic().name(name).send().await;
    let created = created.map_err(|error| anyhow!("cannot create the topic {name}: {}", one_line(&error)))?;
    let topic_arn = created.topic_arn.with_context(|| format!("the topic {name} has no ARN"))?;
    // SNS does not repeat a delivery that is denied, so both must allow it before the first one.
    let queue_arn = allow(sqs, queue, &topic_arn).await?;
    let dead_letters_arn = allow(sqs, dead_letters, &topic_arn).await?;
    ensure_subscribed(sns, &topic_arn, &queue_arn, &dead_letters_arn).await?;
    Ok(topic_arn)
}

/// Lets a topic send to a queue. Returns the ARN of the queue.
async fn allow(sqs: &aws_sdk_sqs::Client, queue: &CreatedQueue, topic_arn: &str) -> anyhow::Result<String> {
    let CreatedQueue { name, url, .. } = queue;
    let attributes = attributes(sqs, url).await?;
    let queue_arn = attributes.get(&QueueArn).with_context(|| format!("the queue {name} has no ARN"))?;
    let statement = json!({
        "Effect": "Allow",
        "Principal": { "Service": "sns.amazonaws.com" },
        "Action": "sqs:SendMessage",
        "Resource": queue_arn,
        "Condition": { "ArnEquals": { "aws:SourceArn": topic_arn } },
    });
    match attributes.get(&Policy).map_or("", String::as_str) {
        "" => {
            let policy = json!({ "Version": "2012-10-17", "Statement": [statement] });
            let request = sqs.set_queue_attributes().queue_url(url).attributes(Policy, policy.to_string());
            request.send().await.map_err(|error| anyhow!("cannot set the policy of {name}: {}", one_line(&error)))?;
        }
        policy if policy.contains(&format!("\"{topic_arn}\"")) => {}
        _ => {
            bail!("the queue {name} has a policy that does not name {topic_arn}. Add this statement to it: {statement}")
        }
    }
    Ok(queue_arn.clone())
}

async fn ensure_subscribed(
    sns: &Client,
    topic_arn: &str,
    queue_arn: &str,
    dead_letters_arn: &str,
) -> anyhow::Result<()> {
    let mut subscriptions = sns.list_subscriptions_by_topic().topic_arn(topic_arn).into_paginator().items().send();
    while let Some(subscription) = subscriptions.next().await {
        let listed = |error| anyhow!("cannot list the subscriptions of {topic_arn}: {}", one_line(&error));
        if subscription.map_err(listed)?.endpoint() == Some(queue_arn) {
            return Ok(());
        }
    }
    let redrive = json!({ "deadLetterTargetArn": dead_letters_arn }).to_string();
    let request = sns.subscribe().topic_arn(topic_arn).protocol("sqs").endpoint(queue_arn);
    let request = request.attributes("RawMessageDelivery", "true").attributes("RedrivePolicy", redrive);
    let subscribed = request.send().await;
    subscribed.map_err(|error| anyhow!("cannot subscribe {queue_arn} to {topic_arn}: {}", one_line(&error)))?;
    Ok(())
}
