//! The instruments of the api. docs/metrics.md explains them, and a test compares it with them. The value of a label is a constant
//! of the code or the name of a trusted operation: nothing that a caller can choose.

use std::sync::LazyLock;
use std::time::Duration;

use apollo_compiler::executable::OperationType;
use async_graphql::{Response, ServerError};
use opentelemetry::metrics::{Counter, Histogram, Meter, UpDownCounter};
use opentelemetry::{KeyValue, global};
use sea_orm::DatabaseConnection;

use crate::connections::Pool;
use crate::edge::executor::OperationInfo;
use crate::edge::refusal;
use crate::outbox::relay::Publisher;

/// Upper limits of the buckets of durations, in seconds.
const SECONDS: [f64; 12] = [0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0];

static METER: LazyLock<Meter> = LazyLock::new(|| global::meter("orders"));

static OPERATIONS: LazyLock<Counter<u64>> = LazyLock::new(|| {
    let counter = METER.u64_counter("orders_operations_total");
    let meaning = "Executed GraphQL operations, with the code of their gravest error; a subscription counts with its first result";
    counter.with_description(meaning).build()
});
static OPERATION_DURATION: LazyLock<Histogram<f64>> = LazyLock::new(|| {
    let histogram = METER.f64_histogram("orders_operation_duration_seconds");
    let meaning = "Duration of queries and mutations, without the time to validate and to send";
    histogram.with_description(meaning).with_unit("s").with_boundaries(SECONDS.into()).build()
});
static REJECTED_REQUESTS: LazyLock<Counter<u64>> = LazyLock::new(|| {
    let counter = METER.u64_counter("orders_rejected_requests_total");
    counter.with_description("Requests and operations that were refused before their execution").build()
});
static LIVE_CONNECTIONS: LazyLock<UpDownCounter<i64>> = LazyLock::new(|| {
    let counter = METER.i64_up_down_counter("orders_live_connections");
    counter.with_description("Open WebSockets and event streams").build()
});
pub static GROUP_COMMIT_SIZE: LazyLock<Histogram<u64>> = LazyLock::new(|| {
    let histogram = METER.u64_histogram("orders_group_commit_size");
    let sizes = vec![1.0, 2.0, 5.0, 10.0, 20.0, 30.0, 40.0, 50.0];
    histogram
        .with_description("Orders that share a transaction; one that is retried counts once")
        .with_boundaries(sizes)
        .build()
});
pub static GROUP_COMMIT_WAIT: LazyLock<Histogram<f64>> = LazyLock::new(|| {
    let histogram = METER.f64_histogram("orders_group_commit_wait_seconds");
    let histogram = histogram.with_description("How long an order waits for its transaction to begin");
    histogram.with_unit("s").with_boundaries(SECONDS.into()).build()
});
pub static OUTBOX_PUBLISHED: LazyLock<Counter<u64>> = LazyLock::new(|| {
    let counter = METER.u64_counter("orders_outbox_published_total");
    counter.with_description("Events that the queue accepted; an event may be sent twice").build()
});
pub static OUTBOX_FAILURES: LazyLock<Counter<u64>> = LazyLock::new(|| {
    let counter = METER.u64_counter("orders_outbox_publish_failures_total");
    counter.with_description("Events that a call to the queue did not publish; each attempt counts").build()
});
pub static OUTBOX_BATCH_SIZE: LazyLock<Histogram<u64>> = LazyLock::new(|| {
    let histogram = METER.u64_histogram("orders_outbox_batch_size");
    let sizes = (1..=10).map(f64::from).collect();
    histogram.with_description("Events in one call to the queue").with_boundaries(sizes).build()
});
pub static DATABASE_TIMEOUTS: LazyLock<Counter<u64>> = LazyLock::new(|| {
    let counter = METER.u64_counter("orders_database_timeouts_total");
    let meaning = "Operations and transactions that got no connection to the command database in time";
    counter.with_description(meaning).build()
});

/// Observes the pool of connections and the outbox at each scrape. Neither needs a statement then.
pub fn observe(db: &DatabaseConnection, publisher: &Publisher) {
    let pool = {
        let db = db.clone();
        move || Pool::of(&db)
    };
    let connections = METER.u64_observable_gauge("orders_database_connections");
    let observed = pool.clone();
    let connections = connections.with_callback(move |observer| {
        let Pool { size, idle, .. } = observed();
        observer.observe(u64::from(size).saturating_sub(idle as u64), &[KeyValue::new("state", "used")]);
        observer.observe(idle as u64, &[KeyValue::new("state", "idle")]);
    });
    connections.with_description("Connections of the pool to the command database").build();

    let exhausted = METER.u64_observable_gauge("orders_database_exhausted");
    let exhausted = exhausted.with_callback(move |observer| {
        let Pool { size, idle, max } = pool();
        observer.observe((idle == 0 && size >= max).into(), &[]);
    });
    let meaning = "1 while all connections are used, so that each further statement waits for one; otherwise 0";
    exhausted.with_description(meaning).build();

    let pending = METER.u64_observable_gauge("orders_outbox_pending_events");
    let backlog = publisher.backlog.subscribe();
    let pending = pending.with_callback(move |observer| {
        if let Some(backlog) = backlog.borrow().if_recent() {
            observer.observe((backlog.pending + backlog.refused).min(10_000), &[]);
        }
    });
    let meaning = "Events that are not published yet; 10000 stands for all larger numbers";
    pending.with_description(meaning).build();

    let age = METER.u64_observable_gauge("orders_outbox_oldest_age_seconds");
    let backlog = publisher.backlog.subscribe();
    let age = age.with_callback(move |observer| {
        if let Some(backlog) = backlog.borrow().if_recent() {
            observer.observe(backlog.oldest.unwrap_or_default().as_secs(), &[]);
        }
    });
    let meaning = "Age of the oldest event that is not published, by the clock of the database; 0 below three seconds";
    age.with_description(meaning).with_unit("s").build();

    let unread = METER.u64_observable_gauge("orders_outbox_unread_log_bytes");
    let backlog = publisher.backlog.subscribe();
    let unread = unread.with_callback(move |observer| {
        if let Some(bytes) = backlog.borrow().if_recent().and_then(|backlog| backlog.unread_log) {
            observer.observe(bytes, &[]);
        }
    });
    let meaning = "Write-ahead log that its reader has not confirmed; 0 unless RELAY is off";
    unread.with_description(meaning).with_unit("By").build();
}

/// Counts a query or a mutation that was executed, and measures it.
pub fn record_executed(info: &OperationInfo, response: &Response, duration: Duration) {
    count_executed(info.kind, response);
    let name: opentelemetry::Value =
        info.name.as_ref().filter(|_| info.is_trusted).map_or("other".into(), |name| name.clone().into());
    OPERATION_DURATION.record(duration.as_secs_f64(), &[KeyValue::new("operation", name)]);
}

/// Counts an operation by its result, or by the first one of a subscription.
pub fn count_executed(kind: OperationType, response: &Response) {
    count(kind, refusal::outcome(&response.errors).name(), code(&response.errors));
}

/// Counts an operation whose caller has disconnected before its end.
pub fn count_cancelled(kind: OperationType) {
    count(kind, "cancelled", "none");
}

fn count(kind: OperationType, outcome: &'static str, code: &'static str) {
    let labels = [KeyValue::new("kind", kind.name()), KeyValue::new("outcome", outcome), KeyValue::new("code", code)];
    OPERATIONS.add(1, &labels);
}

/// Counts a request or an operation that is refused with these errors.
pub fn count_rejected(errors: &[ServerError]) {
    let outcome = refusal::outcome(errors).name();
    REJECTED_REQUESTS.add(1, &[KeyValue::new("outcome", outcome), KeyValue::new("code", code(errors))]);
}

/// The code of the gravest error.
fn code(errors: &[ServerError]) -> &'static str {
    let Some(gravest) = refusal::gravest(errors) else { return "none" };
    let code = refusal::code(gravest);
    CODES.iter().find(|known| code == Some(**known)).copied().unwrap_or("other")
}

/// Counts as an open connection until it is dropped.
pub struct LiveConnection(&'static str);

impl LiveConnection {
    pub fn open(protocol: &'static str) -> LiveConnection {
        LIVE_CONNECTIONS.add(1, &[KeyValue::new("protocol", protocol)]);
        LiveConnection(protocol)
    }
}

impl Drop for LiveConnection {
    fn drop(&mut self) {
        LIVE_CONNECTIONS.add(-1, &[KeyValue::new("protocol", self.0)]);
    }
}

/// The codes of all errors.
const CODES: [&str; 33] = [
    "BAD_REQUEST",
    "BAD_USER_INPUT",
    "COMMAND_STORE_UNAVAILABLE",
    "DEAD_LETTERS_UNAVAILABLE",
    "FORBIDDEN",
    "GRAPHQL_PARSE_FAILED",
    "GRAPHQL_VALIDATION_FAILED",
    "INTERNAL_SERVER_ERROR",
    "INTROSPECTION_DISABLED",
    "MAX_ALIASES_LIMIT",
    "MAX_BODY_LIMIT",
    "MAX_COMPLEXITY_LIMIT",
    "MAX_DEPTH_LIMIT",
    "MAX_DIRECTIVES_LIMIT",
    "MAX_NAME_LENGTH_LIMIT",
    "MAX_NESTING_LIMIT",
    "MAX_RESPONSE_LIMIT",
    "MAX_ROOT_FIELDS_LIMIT",
    "MAX_SELECTIONS_LIMIT",
    "MAX_STREAMS_LIMIT",
    "MAX_TOKENS_LIMIT",
    "OPERATION_RESOLUTION_FAILURE",
    "OPERATION_TIMEOUT",
    "PERSISTED_QUERY_NOT_FOUND",
    "PERSISTED_QUERY_NOT_SUPPORTED",
    "QUERY_NOT_IN_SAFELIST",
    "QUEUE_UNAVAILABLE",
    "RATE_LIMITED",
    "READ_MODEL_BEHIND",
    "READ_MODEL_UNAVAILABLE",
    "REQUEST_TIMEOUT",
    "SERVER_BUSY",
    "UNAUTHENTICATED",
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_code_of_an_operation_is_that_of_its_gravest_error_and_an_unknown_code_adds_no_label() {
        let error = |code: &str| refusal::error(code, "", None);
        assert_eq!(code(&[]), "none");
        assert_eq!(code(&[error("FORBIDDEN"), error("BAD_USER_INPUT")]), "FORBIDDEN");
        assert_eq!(code(&[error("FORBIDDEN"), error("SERVER_BUSY")]), "SERVER_BUSY");
        assert_eq!(code(&[error("7f3a")]), "other");
        assert_eq!(code(&[ServerError::new("", None)]), "other");
    }
}
