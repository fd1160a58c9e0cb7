//! The lag of a projector.

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};

use iso_currency::Currency;
use projector::consume::Consumer;
use projector::queues;
use read_model::Memory;
use serde_json::{Value, json};
use test_support::sqs::{intercepted, is_call};
use winterbaume_core::MockService;

use crate::health::{ready, serve};
use crate::support::{row, send};

/// The clocks of the processes that write and read an event may differ.
#[tokio::test]
async fn the_lag_is_the_time_that_messages_waited_in_the_queue() {
    let waited = Arc::<AtomicI64>::default();
    let waiting = waited.clone();
    let aws = intercepted(move |sqs, request| {
        if !is_call(&request, "ReceiveMessage") {
            return sqs.handle(request);
        }
        let waiting = waiting.clone();
        Box::pin(async move {
            let mut response = sqs.handle(request).await;
            let mut body: Value = serde_json::from_slice(&response.body).unwrap();
            for message in body["Messages"].as_array_mut().into_iter().flatten() {
                let attributes = &mut message["Attributes"];
                let received = attributes["ApproximateFirstReceiveTimestamp"].as_str().unwrap().parse::<i64>().unwrap();
                let sent = received - waiting.load(Ordering::SeqCst) * 1_000;
                attributes["SentTimestamp"] = json!(sent.to_string());
            }
            response.body = body.to_string().into();
            response
        })
    });
    let queue = aws_sdk_sqs::Client::new(&aws.await);
    let [orders, _] = queues::create(&queue, "orders").await.unwrap();
    let consumer = Consumer::new(queue, orders.url, Arc::new(Memory::default()), Currency::USD);
    let url = serve(consumer.clone()).await;
    for (version, seconds, state) in [(1, 0, "current"), (2, 20, "lagging"), (3, 1, "current")] {
        waited.store(seconds, Ordering::SeqCst);
        send(&consumer, &row(1, version).message()).await; // an event of the year 2023
        assert_eq!(consumer.run_once().await.unwrap().applied, 1);
        let (status, body) = ready(&url).await;
        assert_eq!((status, &body["state"], &body["lagSeconds"]), (200, &json!(state), &json!(seconds)));
    }
}
