//! Access to SQS and SNS. Region, credentials and endpoint are the AWS SDK's own settings.
//!
//! - [`depth`]: how many messages are in the queues
//! - [`dead_letters`]: receives, redrives and discards dead letters

pub mod dead_letters;
pub mod depth;

use std::collections::HashMap;

use anyhow::{bail, ensure};
use aws_config::{BehaviorVersion, SdkConfig};
use aws_sdk_sqs::Client;
use aws_sdk_sqs::types::QueueAttributeName;
use tracing::field::Empty;
use tracing::{Span, info_span};

use crate::one_line;

/// Variables of the AWS SDK, which panics if they are empty, and explains none that is malformed.
const VARIABLES: [&str; 5] =
    ["AWS_ENDPOINT_URL", "AWS_ENDPOINT_URL_SNS", "AWS_ENDPOINT_URL_SQS", "AWS_REGION", "AWS_DEFAULT_REGION"];

/// Loads the settings of the AWS SDK from its environment.
pub async fn aws_settings() -> anyhow::Result<SdkConfig> {
    for name in VARIABLES {
        let Some(value) = std::env::var_os(name) else { continue };
        let value = value.to_string_lossy();
        ensure!(!value.is_empty(), "{name} is empty: give it a value or remove it");
        ensure!(value.trim() == value, "{name} begins or ends with white space: remove it");
        let is_url = value.starts_with("http://") || value.starts_with("https://");
        ensure!(is_url || !name.contains("URL"), "{name} must begin with http:// or https://");
    }
    let settings = aws_config::load_defaults(BehaviorVersion::latest()).await;
    ensure!(settings.region().is_some(), "no AWS region is configured: set AWS_REGION");
    let endpoint = settings.endpoint_url().unwrap_or("https://");
    let has_scheme = endpoint.starts_with("http://") || endpoint.starts_with("https://");
    ensure!(has_scheme, "AWS_ENDPOINT_URL must begin with http:// or https://");
    Ok(settings)
}

/// Fails if a queue or topic is FIFO by its name, which ends in `.fifo` on SQS and SNS. They refuse messages without a group, and the
/// service needs no order.
pub fn ensure_standard(name: &str) -> anyhow::Result<()> {
    ensure!(
        !name.ends_with(".fifo"),
        "{name} is a FIFO queue or topic, but this service needs a standard queue or topic"
    );
    Ok(())
}

/// The name of the queue with this URL.
pub fn name(url: &str) -> &str {
    url.rsplit('/').next().unwrap_or(url)
}

/// The name of the topic with this ARN.
pub fn topic_name(arn: &str) -> &str {
    arn.rsplit(':').next().unwrap_or(arn)
}

/// Returns the attributes of the queue.
///
/// # Errors
/// When the queue is a FIFO queue, does not exist or cannot be reached. Each error is one line and says how to fix it.
pub async fn attributes(client: &Client, url: &str) -> anyhow::Result<HashMap<QueueAttributeName, String>> {
    ensure_standard(url)?;
    let request = client.get_queue_attributes().queue_url(url).attribute_names(QueueAttributeName::All);
    match request.send().await {
        Ok(response) => {
            let attributes = response.attributes.unwrap_or_default();
            // Other servers also make FIFO queues of other names.
            let is_fifo = attributes.get(&QueueAttributeName::FifoQueue).is_some_and(|value| value == "true");
            ensure!(!is_fifo, "{url} is a FIFO queue (FifoQueue=true), but this service needs a standard queue");
            Ok(attributes)
        }
        Err(error) if error.as_service_error().is_some_and(|error| error.is_queue_does_not_exist()) => {
            bail!("QUEUE_URL: the queue {url} does not exist; `projector queues create` creates it")
        }
        Err(error) => {
            bail!("cannot reach the queue {url} (QUEUE_URL, AWS_ENDPOINT_URL): {}", one_line(&error))
        }
    }
}

/// The span of a call with several messages, such as `send`, by the
/// [semantic conventions for messaging](https://opentelemetry.io/docs/specs/semconv/messaging/messaging-spans/).
/// `system` is `aws_sqs` or `aws.sns`.
pub fn span(operation: &'static str, system: &'static str, destination: &str, messages: usize) -> Span {
    info_span!(
        "messages",
        otel.name = %format_args!("{operation} orders"),
        otel.kind = "client",
        messaging.system = system,
        messaging.operation.name = operation,
        messaging.operation.type = operation,
        messaging.destination.name = destination,
        messaging.batch.message_count = messages,
        otel.status_code = Empty,
        error.type = Empty,
    )
}
