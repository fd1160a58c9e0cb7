//! How many messages are in the queue and in its dead-letter queue, as SQS estimates.

use std::collections::HashMap;

use aws_sdk_sqs::Client;
use aws_sdk_sqs::types::QueueAttributeName::{
    self, ApproximateNumberOfMessages, ApproximateNumberOfMessagesNotVisible,
};
use tokio::sync::OnceCell;

use super::attributes;
use super::dead_letters::{self, Error};

type Attributes = HashMap<QueueAttributeName, String>;

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Depth {
    pub visible: u64,
    pub in_flight: u64,
    /// Those that somebody is reading count, too.
    pub dead_letters: Result<u64, Error>,
}

pub struct Queues {
    pub client: Client,
    pub url: String,
    /// Does not change while a process runs.
    dead_letters_url: OnceCell<String>,
}

impl Queues {
    pub fn new(client: Client, url: String) -> Queues {
        Queues { client, url, dead_letters_url: OnceCell::new() }
    }

    /// # Errors
    /// When the queue cannot be reached.
    pub async fn depth(&self) -> anyhow::Result<Depth> {
        let queue = attributes(&self.client, &self.url).await?;
        let (visible, in_flight) = numbers(&queue);
        // A queue without dead letters still has a depth.
        Ok(Depth { visible, in_flight, dead_letters: self.dead_letters(&queue).await })
    }

    /// The URL of the dead-letter queue.
    ///
    /// # Errors
    /// Also when the queue cannot be reached.
    pub async fn dead_letters_url(&self) -> Result<&str, Error> {
        let find = async || {
            let queue = attributes(&self.client, &self.url).await;
            dead_letters::url(&self.client, &queue.map_err(|error| Error::Unavailable(error.to_string()))?).await
        };
        self.dead_letters_url.get_or_try_init(find).await.map(String::as_str)
    }

    async fn dead_letters(&self, queue: &Attributes) -> Result<u64, Error> {
        let find = || dead_letters::url(&self.client, queue);
        let url = self.dead_letters_url.get_or_try_init(find).await?;
        let request = self.client.get_queue_attributes().queue_url(url).attribute_names(QueueAttributeName::All);
        let response = request.send().await.map_err(|error| Error::of("cannot count the dead letters", &error))?;
        let (visible, in_flight) = numbers(&response.attributes.unwrap_or_default());
        Ok(visible + in_flight)
    }
}

/// How many messages are visible, and how many are in flight.
fn numbers(attributes: &Attributes) -> (u64, u64) {
    let number = |name| attributes.get(&name).and_then(|number: &String| number.parse().ok()).unwrap_or(0);
    (number(ApproximateNumberOfMessages), number(ApproximateNumberOfMessagesNotVisible))
}
