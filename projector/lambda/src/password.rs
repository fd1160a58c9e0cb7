//! The password for Redis. Lambda cannot fill a variable from a secret, and everybody who may read the configuration of a function sees
//! its variables.

use std::time::Duration;

use anyhow::{Context, anyhow};
use aws_sdk_secretsmanager::Client;
use aws_sdk_secretsmanager::config::Builder;
use aws_sdk_secretsmanager::config::timeout::TimeoutConfig;
use runtime::one_line;
use runtime::queue::aws_settings;

/// Limit for the call with its retries. Lambda ends a cold start after ten seconds.
const TIMEOUT: Duration = Duration::from_secs(5);

/// Reads the text of a secret.
pub async fn read(secret: &str) -> anyhow::Result<String> {
    let timeout = TimeoutConfig::builder().operation_timeout(TIMEOUT).build();
    let client = Client::from_conf(Builder::from(&aws_settings().await?).timeout_config(timeout).build());
    let read = client.get_secret_value().secret_id(secret).send().await;
    let failed = |error| anyhow!("cannot read the secret {secret} (REDIS_PASSWORD_SECRET): {}", one_line(&error));
    let text = read.map_err(failed)?.secret_string;
    text.with_context(|| format!("the secret {secret} (REDIS_PASSWORD_SECRET) has no text"))
}
