//! The instruments of the projector. docs/metrics.md explains them, and a test compares it with them. The value of a label is a
//! constant of the code.

use std::sync::{Arc, LazyLock};

use entity::{Change, Event};
use opentelemetry::metrics::{Counter, Gauge, Histogram, Meter};
use opentelemetry::{KeyValue, global};
use read_model::{Applied, Error, ProjectorState};
use runtime::queue::depth::{Depth, Queues};
use runtime::telemetry::metrics::{Sample, is_on};

use crate::clock;
use crate::consume::Consumer;

static METER: LazyLock<Meter> = LazyLock::new(|| global::meter("orders"));

static LAG: LazyLock<Histogram<f64>> = LazyLock::new(|| {
    let histogram = METER.f64_histogram("orders_projection_lag_seconds");
    let meaning = "From the time of an event until the read model has it, on the clock of the database; a projector without one \
                   takes its own clock for the end";
    let seconds = vec![0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 300.0, 1_800.0, 7_200.0];
    histogram.with_description(meaning).with_unit("s").with_boundaries(seconds).build()
});
static EVENTS: LazyLock<Counter<u64>> = LazyLock::new(|| {
    let counter = METER.u64_counter("orders_projection_events_total");
    let meaning = "Received events: applied now, applied before (a duplicate), or refused at this delivery; a message that is \
                   no valid event is unknown";
    counter.with_description(meaning).build()
});
static BATCH_SIZE: LazyLock<Histogram<u64>> = LazyLock::new(|| {
    let histogram = METER.u64_histogram("orders_projection_batch_size");
    let sizes = vec![1.0, 2.0, 5.0, 10.0, 20.0, 50.0, 100.0, 200.0, 500.0];
    histogram.with_description("Events that are applied to the read model together").with_boundaries(sizes).build()
});
pub static SWEEP_DIFFERENCES: LazyLock<Counter<u64>> = LazyLock::new(|| {
    let counter = METER.u64_counter("orders_sweep_differences_total");
    let meaning = "Differences between the read model and the database that the sweep found, repaired or not";
    counter.with_description(meaning).build()
});
pub static SWEEP_LAST_SUCCESS: LazyLock<Gauge<f64>> = LazyLock::new(|| {
    let gauge = METER.f64_gauge("orders_sweep_last_success_timestamp_seconds");
    let meaning = "When this projector last compared recent changes with the database, or else when it started, in Unix \
                   time; only one projector sweeps";
    gauge.with_description(meaning).with_unit("s").build()
});

/// Counts events and their lag, right after they were applied.
pub fn record_applied(events: &[Event], results: &[Result<Applied, Error>]) {
    BATCH_SIZE.record(events.len() as u64, &[]);
    let now = clock::now();
    for (event, result) in events.iter().zip(results) {
        let result = match result {
            Ok(Applied::Now) => {
                LAG.record((now - event.time).as_seconds_f64().max(0.0), &[]);
                "now"
            }
            Ok(Applied::Before) => "before",
            Err(Error::Unavailable(_)) => continue, // they are applied again
            Err(Error::Damaged(_) | Error::Refused(_)) => "refused",
        };
        count(1, type_of(event), result);
    }
}

/// Counts a message that is not a valid event. Its type may be any text.
pub fn count_invalid() {
    count(1, "unknown", "refused");
}

fn count(events: u64, r#type: &'static str, result: &'static str) {
    EVENTS.add(events, &[KeyValue::new("type", r#type), KeyValue::new("result", result)]);
}

const TYPES: [&str; 5] = ["OrderPlaced", "OrderCancelled", "OrderRefunded", "Client", "Product"];

fn type_of(event: &Event) -> &'static str {
    let index = match event.data {
        Change::OrderPlaced(_) => 0,
        Change::OrderCancelled(_) => 1,
        Change::OrderRefunded(_) => 2,
        Change::Client(_) => 3,
        Change::Product(_) => 4,
    };
    TYPES[index]
}

/// Counts zero events of each kind: a series that began with its first event would not increase, and events would seem to be stalled.
fn begin_counting() {
    for r#type in TYPES {
        for result in ["now", "before", "refused"] {
            count(0, r#type, result);
        }
    }
    count(0, "unknown", "refused");
}

/// Observes the state of a consumer at each scrape, and its queues in the background.
pub fn observe(consumer: &Consumer) {
    if !is_on() {
        return;
    }
    begin_counting();
    let gauge = METER.u64_observable_gauge("orders_projector_state");
    let observed = consumer.clone();
    let gauge = gauge.with_callback(move |observer| {
        let (present, _) = observed.condition();
        for (condition, name) in [
            (ProjectorState::Current, "current"),
            (ProjectorState::Lagging, "lagging"),
            (ProjectorState::Waiting, "waiting"),
            (ProjectorState::Frozen, "frozen"),
        ] {
            observer.observe((condition == present).into(), &[KeyValue::new("state", name)]);
        }
    });
    let meaning = "1 for the state of the projector, as /health/ready reports it, and 0 for the others";
    gauge.with_description(meaning).build();

    let queues = Arc::new(Queues::new(consumer.queue.clone(), consumer.queue_url.clone()));
    let depth = Sample::keep("the queues", move || {
        let queues = queues.clone();
        async move { queues.depth().await }
    });
    let meaning = "Messages that wait in the queue, as SQS estimates";
    observe_depth(&depth, "orders_queue_visible_messages", meaning, |depth| Some(depth.visible));
    let meaning = "Messages that were received and are not deleted yet, as SQS estimates";
    observe_depth(&depth, "orders_queue_in_flight_messages", meaning, |depth| Some(depth.in_flight));
    let meaning = "Messages in the dead-letter queue, as SQS estimates";
    observe_depth(&depth, "orders_queue_dead_letters", meaning, |depth| depth.dead_letters.ok());
}

fn observe_depth(depth: &Sample<Depth>, name: &'static str, meaning: &'static str, number: fn(Depth) -> Option<u64>) {
    let depth = depth.clone();
    let gauge = METER.u64_observable_gauge(name).with_callback(move |observer| {
        if let Some(number) = depth.get().and_then(number) {
            observer.observe(number, &[]);
        }
    });
    gauge.with_description(meaning).build();
}
