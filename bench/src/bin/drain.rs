//! Receives and deletes all messages of `QUEUE_URL`, with as many pollers as a projector, until a call returns none. Prints
//! their number: the fastest that a projector could be.
#![expect(clippy::disallowed_methods, reason = "a benchmark helper has no settings to document")]

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use aws_sdk_sqs::types::DeleteMessageBatchRequestEntry;
use projector::queues;
use runtime::queue::aws_settings;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

const POLLERS: usize = 32;

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let url = std::env::var("QUEUE_URL")?;
    let (queue, drained) = (queues::client(&aws_settings().await?), Arc::<AtomicUsize>::default());
    let pollers = (0..POLLERS).map(|_| {
        let (queue, url, drained) = (queue.clone(), url.clone(), drained.clone());
        tokio::spawn(async move {
            loop {
                let received = queue.receive_message().queue_url(&url).max_number_of_messages(10).send().await?;
                let messages = received.messages.unwrap_or_default();
                if messages.is_empty() {
                    return anyhow::Ok(());
                }
                drained.fetch_add(messages.len(), Ordering::Relaxed);
                let entries = messages.into_iter().enumerate().map(|(index, message)| {
                    let handle = message.receipt_handle.unwrap_or_default();
                    DeleteMessageBatchRequestEntry::builder().id(index.to_string()).receipt_handle(handle).build()
                });
                let entries = entries.collect::<Result<Vec<_>, _>>()?;
                queue.delete_message_batch().queue_url(&url).set_entries(Some(entries)).send().await?;
            }
        })
    });
    for poller in pollers.collect::<Vec<_>>() {
        poller.await??;
    }
    println!("{}", drained.load(Ordering::Relaxed));
    Ok(())
}
