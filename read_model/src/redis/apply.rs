//! The projection: events become calls of `apply.lua` and `apply_product.lua`, in few round trips.

use std::collections::BTreeMap;

use ::redis::{Cmd, RedisError, RedisResult, Script, Value, from_redis_value, pipe};
use chrono::Utc;
use entity::{Change, Event, ProductChanged};
use tracing::field::Empty;
use tracing::{Instrument, Span, info_span};

use super::batch::Batch;
use super::decode::product_text;
use super::generations::registry::{ATTEMPTS, WriteTarget, keep_changing};
use super::keys::{CHANGED, fencing_token_key, missing_key};
use super::scripts::{is_not_loaded, is_stale};
use super::{Redis, is_read_only};
use crate::metrics;
use crate::rules::MAX_AHEAD;
use crate::rules::sales::line_count;
use crate::{Applied, Error, Health, Projection, ProjectorStatus};

/// The most events and lines of orders that are applied in one round trip: a busy server must manage it well within
/// [`TIMEOUT`](super::connection::TIMEOUT).
const MAX_BATCH_SIZE: usize = 1_000;

#[async_trait::async_trait]
impl Projection for Redis {
    async fn apply(&self, events: &[Event]) -> Vec<Result<Applied, Error>> {
        self.apply_all(events, Versions::Any).await
    }

    async fn apply_received(&self, events: &[Event]) -> Vec<Result<Applied, Error>> {
        self.apply_all(events, Versions::Plausible).await
    }

    async fn report(&self, status: &ProjectorStatus) -> Result<(), Error> {
        self.report_projector(status).await
    }

    async fn ping(&self) -> Result<(), Error> {
        Redis::ping(self).await
    }

    async fn health(&self) -> Health {
        Redis::health(self).await
    }
}

/// The versions that are applied.
#[derive(Clone, Copy)]
enum Versions {
    Any,
    /// Those that [`check_version`](crate::rules::check_version) accepts.
    Plausible,
}

impl Redis {
    async fn apply_all(&self, events: &[Event], versions: Versions) -> Vec<Result<Applied, Error>> {
        let results = self.apply_in_parts(events, versions).await;
        if results.iter().flatten().any(|result| result.as_ref().is_err_and(is_read_only)) {
            self.shared.connection.leave();
        }
        match results {
            Ok(results) => results.into_iter().map(|result| result.map_err(Error::from)).collect(),
            // The outcome of the events is unknown, and nothing is wrong with them.
            Err(Error::Unavailable(why) | Error::Damaged(why) | Error::Refused(why)) => {
                vec![Err(Error::Unavailable(why)); events.len()]
            }
        }
    }

    async fn apply_in_parts(&self, events: &[Event], versions: Versions) -> Result<Vec<RedisResult<Applied>>, Error> {
        let mut results = Vec::with_capacity(events.len());
        let (mut first, mut size) = (0, 0);
        for (index, event) in events.iter().enumerate() {
            size += 1 + line_count(event);
            if size >= MAX_BATCH_SIZE || index + 1 == events.len() {
                results.extend(self.apply_round_trip(&events[first..=index], versions).await?);
                (first, size) = (index + 1, 0);
            }
        }
        Ok(results)
    }

    /// Applies the events of each partition as one batch. If a batch is refused because of one of its events, each of them is
    /// retried in isolation.
    async fn apply_round_trip(&self, events: &[Event], versions: Versions) -> Result<Vec<RedisResult<Applied>>, Error> {
        let mut results = vec![Ok(Applied::Before); events.len()];
        let mut by_partition: BTreeMap<i64, Batch> = BTreeMap::new();
        let (mut products, mut product_indices, mut repeats) = (Vec::new(), Vec::new(), Vec::new());
        for (index, event) in events.iter().enumerate() {
            let client = match &event.data {
                Change::Product(product) => {
                    products.push((product, event.version));
                    product_indices.push(index);
                    continue;
                }
                Change::Client(client) => client.client_id,
                Change::OrderPlaced(order) => order.client_id,
                Change::OrderCancelled(refund) | Change::OrderRefunded(refund) => refund.order.client_id,
            };
            let first = by_partition.entry(self.partition(client)).or_default().add(index, client, event);
            if first != index {
                repeats.push((index, first));
            }
        }
        for (index, result) in product_indices.into_iter().zip(self.apply_products(&products, versions).await?) {
            results[index] = result;
        }
        let (batches, too_large): (Vec<Batch>, Vec<Batch>) = by_partition.into_values().partition(Batch::fits);
        let mut isolated: Vec<(usize, i64)> = too_large.iter().flat_map(Batch::indices).collect();
        for (batch, result) in batches.iter().zip(self.apply_batches(&batches, versions).await?) {
            let blames_an_event = |error: &RedisError| matches!(error.code(), Some("MIXED" | "CORRUPT" | "AHEAD"));
            if result.as_ref().is_err_and(blames_an_event) && batch.has_several() {
                isolated.extend(batch.indices());
            } else {
                batch.indices().for_each(|(index, _)| results[index] = result.clone());
            }
        }
        isolated.sort_unstable();
        let batches: Vec<Batch> = isolated.iter().map(|(index, id)| Batch::of(*index, *id, &events[*index])).collect();
        for ((index, _), result) in isolated.into_iter().zip(self.apply_batches(&batches, versions).await?) {
            results[index] = result;
        }
        for (index, first) in repeats {
            results[index] = results[first].clone().map(|_| Applied::Before);
        }
        Ok(results)
    }

    /// Applies each batch as one atomic step.
    async fn apply_batches(
        &self,
        batches: &[Batch<'_>],
        versions: Versions,
    ) -> Result<Vec<RedisResult<Applied>>, Error> {
        let now = Utc::now();
        let call = |batch: &Batch, target: &WriteTarget| {
            let mut call = self.write(&self.shared.scripts.apply, self.partition(batch.client()), target, versions);
            batch.write(call.arg(self.channel()), now);
            call
        };
        self.call("apply", |target| batches.iter().map(|batch| call(batch, target)).collect()).await
    }

    async fn apply_products(
        &self,
        products: &[(&ProductChanged, i32)],
        versions: Versions,
    ) -> Result<Vec<RedisResult<Applied>>, Error> {
        let call = |(product, version): &(&ProductChanged, i32), target: &WriteTarget| {
            let partition = self.partition(product.product_id);
            let mut call = self.write(&self.shared.scripts.apply_product, partition, target, versions);
            call.arg(product.product_id).arg(version).arg(product_text(product));
            call
        };
        self.call("apply_product", |target| products.iter().map(|product| call(product, target)).collect()).await
    }

    /// Returns a call of a script that writes to a partition, without its last arguments.
    fn write(&self, script: &Script, partition: i64, target: &WriteTarget, versions: Versions) -> Cmd {
        let mut call = ::redis::cmd("EVALSHA");
        call.arg(script.get_hash()).arg(2).arg(fencing_token_key(partition)).arg(missing_key(partition));
        call.arg(target.fencing_token).arg(&target.generations);
        match versions {
            Versions::Any => call.arg(""),
            Versions::Plausible => call.arg(MAX_AHEAD),
        };
        call
    }

    /// Makes calls of a script in one round trip. Calls that fail because a script is not loaded or the fencing token is stale are
    /// repeated with all others: what has been applied is then only reported as applied before.
    async fn call(
        &self,
        script: &'static str,
        calls: impl Fn(&WriteTarget) -> Vec<Cmd>,
    ) -> Result<Vec<RedisResult<Applied>>, Error> {
        for _ in 0..ATTEMPTS {
            let mut pipeline = pipe();
            for call in calls(&self.write_target()?) {
                pipeline.add_command(call);
            }
            if pipeline.is_empty() {
                return Ok(Vec::new());
            }
            let span = call_span(script, pipeline.len());
            let mut connection = self.connection();
            let results = pipeline.ignore_errors().query_async(&mut connection).instrument(span.clone());
            let results: RedisResult<Vec<RedisResult<Value>>> = metrics::measured(script, results).await;
            let results = results.inspect_err(|error| record_error(&span, error))?;
            // Before a repetition, which does not return the quarantined keys again.
            let results: Vec<_> = results.into_iter().map(|result| applied(result?)).collect();
            let mut errors = results.iter().filter_map(|result| result.as_ref().err());
            if errors.clone().any(is_not_loaded) {
                self.shared.scripts.load(&mut self.connection()).await?;
            } else if errors.clone().any(is_stale) {
                self.reconcile().await?;
            } else {
                errors.next().into_iter().for_each(|error| record_error(&span, error));
                return Ok(results);
            }
        }
        Err(keep_changing())
    }

    /// The channel for changes. Nobody watches a generation that is being built.
    pub(super) fn channel(&self) -> &'static str {
        if self.pinned_to.is_some() { "" } else { CHANGED }
    }
}

/// The span of a round trip, within that of the caller. There is none if the caller has none, because its trace is not recorded.
fn call_span(script: &'static str, calls: usize) -> Span {
    if Span::current().is_disabled() {
        return Span::none();
    }
    info_span!(
        "EVALSHA",
        otel.kind = "client",
        db.system.name = "redis",
        db.operation.name = "EVALSHA",
        db.stored_procedure.name = script,
        db.operation.batch.size = calls,
        otel.status_code = Empty,
        error.type = Empty,
    )
}

fn record_error(span: &Span, error: &RedisError) {
    span.record("otel.status_code", "ERROR").record("error.type", error.code().unwrap_or("_OTHER"));
}

/// Reads the result of a script: the number of generations that changed, or an error, and then the keys that it has quarantined.
fn applied(result: Value) -> RedisResult<Applied> {
    let results = if let Value::Array(results) = result { results } else { vec![result] };
    let mut results = results.into_iter();
    let generations = results.next().unwrap_or(Value::Nil).extract_error();
    for key in results {
        let key: String = from_redis_value(key)?;
        tracing::error!(key, "quarantined a damaged key: reading it fails until `projector rebuild` has replaced it");
    }
    let generations: u32 = from_redis_value(generations?)?;
    Ok(if generations == 0 { Applied::Before } else { Applied::Now })
}
