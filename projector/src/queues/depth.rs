//! How many messages are in the queue and in its dead-letter queue, as SQS estimates.

use std::collections::HashMap;

use aws_sdk_sqs::Client;
use aws_sdk_sqs::types::QueueAttributeName::{
    self, ApproximateNumberOfMessages, ApproximateNumberOfMessagesNotVisible,
};
use runtime::queue::attributes;
use tokio::sync::OnceCell;

use super::dead_letters::dead_letters_url;

type Attributes = HashMap<QueueAttributeName, String>;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Depth {
    pub visible: u64,
    pub in_flight: u64,
    /// `None` if there is no dead-letter queue, or it cannot be read.
    pub dead_letters: Option<u64>,
}

pub struct Queues {
    client: Client,
    url: String,
    /// Does not change while a process runs.
    dead_letters_url: OnceCell<String>,
}

impl Queues {
    pub fn new(client: Client, url: String) -> Queues {
        Queues { client, url, dead_letters_url: OnceCell::new() }
    }

    pub async fn depth(&self) -> anyhow::Result<Depth> {
        let queue = attributes(&self.client, &self.url).await?;
        let (visible, in_flight) = numbers(&queue);
        // A queue without dead letters still has a depth. The start of the process has reported it.
        let dead_letters = self.dead_letters(&queue).await.ok();
        Ok(Depth { visible, in_flight, dead_letters })
    }

    /// Those that an operator command is reading are in flight.
    async fn dead_letters(&self, queue: &Attributes) -> anyhow::Result<u64> {
        let find = || dead_letters_url(&self.client, queue);
        let dead_letters = attributes(&self.client, self.dead_letters_url.get_or_try_init(find).await?).await?;
        let (visible, in_flight) = numbers(&dead_letters);
        Ok(visible + in_flight)
    }
}

/// How many messages are visible, and how many are in flight.
fn numbers(attributes: &Attributes) -> (u64, u64) {
    let number = |name| attributes.get(&name).and_then(|number: &String| number.parse().ok()).unwrap_or(0);
    (number(ApproximateNumberOfMessages), number(ApproximateNumberOfMessagesNotVisible))
}
