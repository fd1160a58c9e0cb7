//! Creating the queues.

use crate::support::*;
use aws_sdk_sqs::types::QueueAttributeName;
use projector::queues;

#[tokio::test]
async fn queues_are_created_once_with_the_settings_that_matter() {
    let queue = sqs().await;
    let created = queues::create(&queue, "orders").await.unwrap();
    assert!(created.iter().all(|queue| queue.created), "{created:?}");
    assert_eq!([&*created[0].name, &*created[1].name], ["orders", "orders-dead-letters"]);
    let again = queues::create(&queue, "orders").await.unwrap();
    assert!(again.iter().all(|queue| !queue.created), "{again:?}");

    for created in &again {
        let request = queue.get_queue_attributes().queue_url(&created.url).attribute_names(QueueAttributeName::All);
        let attributes = request.send().await.unwrap().attributes.unwrap();
        assert_eq!(attributes[&QueueAttributeName::VisibilityTimeout], "30");
        assert_eq!(attributes[&QueueAttributeName::MessageRetentionPeriod], "1209600");
        assert_eq!(attributes[&QueueAttributeName::SqsManagedSseEnabled], "true");
    }
    let request = queue.get_queue_attributes().queue_url(&again[0].url).attribute_names(QueueAttributeName::All);
    let policy = request.send().await.unwrap().attributes.unwrap()[&QueueAttributeName::RedrivePolicy].clone();
    assert!(policy.contains("orders-dead-letters") && policy.contains("\"5\""), "{policy}");

    queues::check(&queue, &again[0].url).await.unwrap();
    let error = queues::check(&queue, "https://sqs.us-east-1.amazonaws.com/1/none").await.unwrap_err().to_string();
    assert!(error.contains("`projector queues create`"), "{error}");
}

#[tokio::test]
async fn a_fifo_queue_is_refused() {
    let queue = sqs().await;
    let fifo = queue.create_queue().queue_name("orders.fifo").attributes(QueueAttributeName::FifoQueue, "true");
    let url = fifo.send().await.unwrap().queue_url.unwrap();
    for error in [queues::check(&queue, &url).await.err(), queues::create(&queue, "other.fifo").await.err()] {
        let error = error.expect("it is refused").to_string();
        assert!(error.contains("standard queue") && !error.contains('\n'), "{error}");
    }
}
