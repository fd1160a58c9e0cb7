//! The instruments of the read model in Redis. docs/metrics.md explains them, and a test compares it with them.

use std::sync::{Arc, LazyLock};
use std::time::Instant;

use opentelemetry::metrics::{Counter, Histogram, Meter};
use opentelemetry::{KeyValue, global};

use crate::redis::client_cache::ClientCache;

static METER: LazyLock<Meter> = LazyLock::new(|| global::meter("orders"));

static SCRIPT_DURATION: LazyLock<Histogram<f64>> = LazyLock::new(|| {
    let histogram = METER.f64_histogram("orders_redis_script_duration_seconds");
    let meaning = "Duration of calls of a Lua script, with the round trip; several calls in one round trip count once";
    let seconds = vec![0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0];
    histogram.with_description(meaning).with_unit("s").with_boundaries(seconds).build()
});
static CACHE_READS: LazyLock<Counter<u64>> = LazyLock::new(|| {
    let counter = METER.u64_counter("orders_client_cache_reads_total");
    counter.with_description("Clients that were read through the client-side cache").build()
});

/// Measures a round trip that calls a script.
pub async fn measured<T>(script: &'static str, call: impl Future<Output = T>) -> T {
    let began = Instant::now();
    let result = call.await;
    SCRIPT_DURATION.record(began.elapsed().as_secs_f64(), &[KeyValue::new("script", script)]);
    result
}

pub fn count_cache_reads(hits: usize, misses: usize) {
    for (result, clients) in [("hit", hits), ("miss", misses)] {
        if clients > 0 {
            CACHE_READS.add(clients as u64, &[KeyValue::new("result", result)]);
        }
    }
}

/// Observes the cache at each scrape, once anybody reads from it.
pub fn observe(cache: &Arc<ClientCache>) {
    let cache = Arc::downgrade(cache);
    let tracking = METER.u64_observable_gauge("orders_client_cache_tracking");
    let tracking = tracking.with_callback(move |observer| {
        if let Some(cache) = cache.upgrade().filter(|cache| cache.is_used()) {
            observer.observe(cache.is_tracking().into(), &[]);
        }
    });
    let meaning = "1 while Redis reports changes of cached clients; while it is 0 every read goes to Redis";
    tracking.with_description(meaning).build();
}
