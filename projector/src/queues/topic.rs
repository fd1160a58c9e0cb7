//! Creates the topic and subscribes the queue to it.

use anyhow::{Context, anyhow, bail};
use aws_sdk_sns::Client;
use aws_sdk_sqs::types::QueueAttributeName::{Policy, QueueArn};
use runtime::one_line;
use runtime::queue::{attributes, ensure_standard};
use serde_json::json;

use super::CreatedQueue;

#[derive(Debug)]
pub struct CreatedTopic {
    pub arn: String,
    /// False if it existed before.
    pub created: bool,
    /// False if the queue was subscribed before.
    pub subscribed: bool,
}

/// Creates a topic in the account and region of a queue, and subscribes the queue to it. The queue gets messages without an envelope. Those
/// that SNS cannot deliver get to the dead-letter queue. An existing topic or subscription is not changed.
pub async fn subscribe(
    sns: &Client,
    sqs: &aws_sdk_sqs::Client,
    [queue, dead_letters]: &[CreatedQueue; 2],
    name: &str,
) -> anyhow::Result<CreatedTopic> {
    ensure_standard(name)?;
    let queue_arn = arn(sqs, queue).await?;
    // arn:aws:sqs:REGION:ACCOUNT:NAME
    let mut parts: Vec<&str> = queue_arn.split(':').collect();
    let [_, _, service, _, _, last] = &mut parts[..] else { bail!("{queue_arn} is not the ARN of a queue") };
    (*service, *last) = ("sns", name);
    let topic_arn = parts.join(":");

    let created = ensure(sns, &topic_arn, name).await?;
    // SNS does not repeat a delivery that is denied, so both must allow it before the first one.
    let dead_letters_arn = arn(sqs, dead_letters).await?;
    for (queue, arn) in [(queue, &queue_arn), (dead_letters, &dead_letters_arn)] {
        allow(sqs, &queue.url, arn, &topic_arn).await?;
    }
    let subscribed = ensure_subscribed(sns, &topic_arn, &queue_arn, &dead_letters_arn).await?;
    Ok(CreatedTopic { arn: topic_arn, created, subscribed })
}

async fn arn(sqs: &aws_sdk_sqs::Client, queue: &CreatedQueue) -> anyhow::Result<String> {
    attributes(sqs, &queue.url).await?.remove(&QueueArn).with_context(|| format!("the queue {} has no ARN", queue.name))
}

async fn ensure(sns: &Client, arn: &str, name: &str) -> anyhow::Result<bool> {
    match sns.get_topic_attributes().topic_arn(arn).send().await {
        Ok(_) => return Ok(false),
        Err(error) if error.as_service_error().is_some_and(|error| error.is_not_found_exception()) => {}
        Err(error) => bail!("cannot look up the topic {arn}: {}", one_line(&error)),
    }
    let created = sns.create_topic().name(name).send().await;
    created.map_err(|error| anyhow!("cannot create the topic {name}: {}", one_line(&error)))?;
    Ok(true)
}

/// Lets a topic send to a queue.
async fn allow(sqs: &aws_sdk_sqs::Client, url: &str, queue_arn: &str, topic_arn: &str) -> anyhow::Result<()> {
    let statement = json!({
        "Effect": "Allow",
        "Principal": { "Service": "sns.amazonaws.com" },
        "Action": "sqs:SendMessage",
        "Resource": queue_arn,
        "Condition": { "ArnEquals": { "aws:SourceArn": topic_arn } },
    });
    match attributes(sqs, url).await?.get(&Policy) {
        Some(policy) if policy.contains(topic_arn) => return Ok(()),
        Some(policy) if !policy.is_empty() => {
            bail!("the queue {url} has a policy that does not name {topic_arn}: add this statement to it: {statement}")
        }
        _ => {}
    }
    let policy = json!({ "Version": "2012-10-17", "Statement": [statement] });
    let request = sqs.set_queue_attributes().queue_url(url).attributes(Policy, policy.to_string());
    request.send().await.map_err(|error| anyhow!("cannot set the policy of {url}: {}", one_line(&error)))?;
    Ok(())
}

async fn ensure_subscribed(
    sns: &Client,
    topic_arn: &str,
    queue_arn: &str,
    dead_letters_arn: &str,
) -> anyhow::Result<bool> {
    let mut pages = sns.list_subscriptions_by_topic().topic_arn(topic_arn).into_paginator().items().send();
    while let Some(subscription) = pages.next().await {
        let subscription = subscription
            .map_err(|error| anyhow!("cannot list the subscriptions of {topic_arn}: {}", one_line(&error)))?;
        if subscription.endpoint() == Some(queue_arn) {
            return Ok(false);
        }
    }
    let request = sns.subscribe().topic_arn(topic_arn).protocol("sqs").endpoint(queue_arn);
    let request = request.attributes("RawMessageDelivery", "true");
    let request = request.attributes("RedrivePolicy", json!({ "deadLetterTargetArn": dead_letters_arn }).to_string());
    request
        .send()
        .await
        .map_err(|error| anyhow!("cannot subscribe {queue_arn} to {topic_arn}: {}", one_line(&error)))?;
    Ok(true)
}
