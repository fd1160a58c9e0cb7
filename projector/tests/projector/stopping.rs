//! A projector that stops.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use aws_sdk_sqs::Client as Sqs;
use iso_currency::Currency;
use projector::consume::Consumer;
use projector::queues;
use read_model::{Memory, Projection};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use winterbaume_core::{MockAws, MockRequest, MockResponse, MockService};
use winterbaume_sqs::SqsService;

use crate::consume::{Switchable, total};
use crate::support::{row, send, until, waiting};

/// An SQS that finishes each call even if the caller is gone, as the real one does.
struct Independent(Arc<SqsService>);

impl MockService for Independent {
    fn service_name(&self) -> &str {
        self.0.service_name()
    }

    fn url_patterns(&self) -> Vec<&str> {
        self.0.url_patterns()
    }

    fn handle(&self, request: MockRequest) -> Pin<Box<dyn Future<Output = MockResponse> + Send + '_>> {
        let sqs = self.0.clone();
        let call = tokio::spawn(async move { sqs.handle(request).await });
        Box::pin(async { call.await.unwrap() })
    }
}

async fn consumer_of_independent_queue(read_model: Arc<dyn Projection>) -> Consumer {
    let service = Independent(Arc::new(SqsService::new()));
    let queue = Sqs::new(&MockAws::builder().with_service(service).build().sdk_config("us-east-1").await);
    let [orders, _] = queues::create(&queue, "orders").await.unwrap();
    Consumer::new(queue, orders.url, read_model, Currency::USD)
}

/// By a clock that runs as fast as there is nothing to do.
#[tokio::test(start_paused = true)]
async fn a_projector_that_stops_leaves_no_message_invisible() {
    let memory = Arc::new(Memory::default());
    let consumer = consumer_of_independent_queue(memory.clone()).await;
    let shutdown = CancellationToken::new();
    let running = tokio::spawn(consumer.clone().run(4, shutdown.clone()));
    send(&consumer, &row(1, 1).message()).await;
    until(async || total(&*memory, 1).await == 150_000).await;

    let stopped = Instant::now();
    shutdown.cancel();
    tokio::time::sleep(Duration::from_secs(1)).await;
    for version in 2..=60 {
        send(&consumer, &row(1, version).message()).await;
    }
    running.await.unwrap().unwrap();
    assert!(stopped.elapsed() < Duration::from_secs(8), "{:?}", stopped.elapsed());
    tokio::time::sleep(Duration::from_secs(20)).await;
    let (visible, held) = waiting(&consumer.queue, &consumer.queue_url).await;
    assert_eq!(held, 0, "messages that nobody processes");
    assert_eq!(total(&*memory, 1).await, (60 - i64::from(visible)) * 150_000);
}

#[tokio::test(start_paused = true)]
async fn a_projector_that_stops_returns_the_messages_that_it_cannot_apply() {
    let read_model = Arc::new(Switchable(Memory::default(), AtomicBool::new(false)));
    let consumer = consumer_of_independent_queue(read_model.clone()).await;
    let shutdown = CancellationToken::new();
    let running = tokio::spawn(consumer.clone().run(1, shutdown.clone()));
    tokio::time::sleep(Duration::from_millis(500)).await;
    read_model.1.store(true, Ordering::SeqCst);
    send(&consumer, &row(1, 1).message()).await;
    until(async || waiting(&consumer.queue, &consumer.queue_url).await == (0, 1)).await;
    shutdown.cancel();
    running.await.unwrap().unwrap();
    let received = consumer.queue.receive_message().queue_url(&consumer.queue_url).send().await.unwrap();
    assert_eq!(received.messages().len(), 1, "another projector gets it at once");
}

/// Standalone does not wait for the calls of its embedded queue.
#[tokio::test]
async fn pollers_end_when_the_consumer_is_dropped() {
    let (consumer, _) = crate::support::consumer(Arc::new(Memory::default())).await;
    let running = tokio::spawn(consumer.clone().run(4, CancellationToken::new()));
    until(async || Arc::strong_count(&consumer.activity) >= 5).await;
    running.abort();
    until(async || Arc::strong_count(&consumer.activity) == 1).await;
}
