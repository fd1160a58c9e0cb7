//! The path of every operation, whatever its transport: find the document, coerce the variables, charge the cost, execute
//! within the time limit. Every error has a code.

use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::task::Poll;
use std::time::{Instant, SystemTime};

use apollo_compiler::executable::OperationType;
use apollo_compiler::response::JsonMap;
use async_graphql::{Request, Response, ServerError};
use futures::stream::{self, BoxStream};
use futures::{FutureExt, Stream, StreamExt};
use scopeguard::{ScopeGuard, guard};
use tokio::time::timeout;
use tracing::{Instrument, Span};

use super::auth::EXPLORE;
use super::caller::Caller;
use super::deliveries::Deliveries;
use super::documents::cost::{Estimate, estimate};
use super::documents::limits::LimitSettings;
use super::documents::selected::select;
use super::documents::validation::Document;
use super::documents::variables::{self, Coerced};
use super::documents::{Access, DocumentRef, Documents, Found};
use super::quota::{AfterWait, ConcurrencyQuota, Permit, QuotaKey};
use super::rate_limits::{Meter, RateLimits};
use super::refusal::{self, Refusal, mask};
use super::request::Parameters;
use super::traces;
use crate::connections::ConnectionQuotas;
use crate::graphql::OrderSchema;
use crate::metrics;

/// The cost of a small new document, of validating a token, and of refusing a request.
pub const VALIDATION_COST: usize = 10;
/// Values of the variables that cost 1 before they are coerced.
const VALUES_PER_POINT: usize = 32;
/// Operations that may wait for room for their responses, in total and per caller. The number is small, because each of them checks again
/// whenever memory is freed.
const MAX_WAITING_FOR_MEMORY: usize = 128;
const MAX_WAITING_FOR_MEMORY_PER_CALLER: usize = 32;

/// An operation that was charged and can be executed once.
pub struct PreparedOperation {
    request: Request,
    pub info: OperationInfo,
    key: QuotaKey,
    /// For the response, or for one result of a subscription.
    memory: Permit,
    span: Span,
}

/// An operation as it is known before its execution. The log contains its name, kind and cost.
#[derive(Clone, Debug)]
pub struct OperationInfo {
    pub name: Option<String>,
    pub kind: OperationType,
    pub cost: usize,
    /// Whether its document is from a manifest, so that no caller has chosen its name.
    pub is_trusted: bool,
    /// The largest size of the response, and that of the variables.
    bytes: usize,
    /// Whether a field may wait for the read model.
    waits: bool,
    /// Whether the operation has a root field that does not wait.
    works: bool,
}

impl OperationInfo {
    pub fn is_subscription(&self) -> bool {
        self.kind == OperationType::Subscription
    }
}

/// The result of a query or a mutation. It counts for its caller until it is dropped, so it is kept until it has been sent.
pub struct Executed {
    pub response: Response,
    pub memory: Permit,
}

pub struct Executor {
    schema: OrderSchema,
    documents: Documents,
    limits: LimitSettings,
    rate_limits: Arc<RateLimits>,
    /// Queries and mutations that are being executed.
    active: Arc<ConcurrencyQuota>,
    /// Queries that may wait for the read model. If all their root fields wait, they do not count as active until one has waited.
    waiting: Arc<ConcurrencyQuota>,
    /// Operations that wait for room for their response.
    waiting_for_memory: Arc<ConcurrencyQuota>,
    subscriptions: Arc<ConcurrencyQuota>,
    /// Bytes of responses that are being produced or sent.
    memory: Arc<ConcurrencyQuota>,
    /// Connections to the command database.
    connections: ConnectionQuotas,
}

impl Executor {
    pub fn new(
        schema: OrderSchema,
        documents: Documents,
        limits: LimitSettings,
        connections: ConnectionQuotas,
    ) -> Executor {
        Executor {
            schema,
            documents,
            rate_limits: Arc::new(RateLimits::new(&limits)),
            active: ConcurrencyQuota::new(limits.max_concurrent_operations, limits.max_operations_per_caller),
            waiting: ConcurrencyQuota::new(limits.max_waiting_operations, limits.max_waiting_per_caller),
            waiting_for_memory: ConcurrencyQuota::new(MAX_WAITING_FOR_MEMORY, MAX_WAITING_FOR_MEMORY_PER_CALLER),
            subscriptions: ConcurrencyQuota::new(limits.max_subscriptions, limits.max_subscriptions_per_caller),
            memory: ConcurrencyQuota::lasting(
                limits.max_response_memory.max(limits.max_response_bytes),
                limits.max_response_bytes,
            ),
            connections,
            limits,
        }
    }

    /// Validates an operation and charges its cost to the caller.
    pub async fn prepare(&self, parameters: Parameters, caller: &Caller) -> Result<PreparedOperation, Refusal> {
        let prepared = AssertUnwindSafe(self.validate(parameters, caller)).catch_unwind().await;
        // The panic hook has logged the cause.
        prepared.unwrap_or_else(|_| Err(Refusal::internal(&"the preparation of an operation panicked")))
    }

    async fn validate(&self, parameters: Parameters, caller: &Caller) -> Result<PreparedOperation, Refusal> {
        let Parameters { query, operation_name, variables, document_id } = parameters;
        let meter = Meter::new(self.rate_limits.clone(), caller.quota_key());
        let access = match &caller.identity {
            None => Access::Anonymous,
            Some(identity) if identity.may(EXPLORE) => Access::Explorer,
            Some(_) => Access::Identified,
        };
        let charge_refused = |refusal| meter.charge(VALIDATION_COST).map_or_else(Err, |()| Err(refusal));
        let document = DocumentRef { text: query.as_deref(), id: document_id.as_deref() };
        // A part is paid in advance, so that a caller without quota cannot cause work.
        let values_cost = variables::count(&variables) / VALUES_PER_POINT;
        meter.charge(values_cost)?;
        let (document, prepaid) = match self.documents.find(document, access) {
            Ok(Found::Valid(document)) => {
                meter.charge(document.weight)?;
                let weight = document.weight;
                (document, Some(weight))
            }
            Ok(Found::New(new)) => (self.documents.validate(new, &meter).await?, None),
            Err(refusal) => return charge_refused(refusal),
        };
        // The validation of a new document has cost as much as any refused request.
        let refused = |refusal| if prepaid.is_some() { charge_refused(refusal) } else { Err(refusal) };
        match self.build_request(&document, operation_name, variables, caller) {
            Ok((request, info)) => {
                // Before the rest of the charge, which an operation without room does not pay.
                let memory = match self.reserve(&meter.key, info.bytes).await {
                    Ok(memory) => memory,
                    Err(refusal) => return refused(refusal),
                };
                meter.charge(info.cost.saturating_sub(prepaid.unwrap_or(0) + values_cost))?;
                let deliveries = Deliveries::new(meter.clone(), info.cost);
                let request = request.data(deliveries).data(meter.clone()).data(self.connections.of(&meter.key));
                let span = traces::operation(info.kind, info.name.as_deref());
                Ok(PreparedOperation { request, info, key: meter.key, memory, span })
            }
            Err(error) => refused(error.into()),
        }
    }

    /// Reserves memory for a response. Waits a moment for responses that are about to be sent: most are far smaller than the largest
    /// size of the response.
    async fn reserve(&self, key: &QuotaKey, bytes: usize) -> Result<Permit, Refusal> {
        if let Ok(memory) = self.memory.acquire_units(key.clone(), bytes) {
            return Ok(memory);
        }
        let _waiting = self.waiting_for_memory.acquire(key.clone())?;
        self.memory.wait_for_units(key.clone(), bytes).await
    }

    /// Charges a cost to a caller if a rate limit is configured.
    pub fn charge(&self, key: &QuotaKey, cost: usize) -> Result<(), Refusal> {
        self.rate_limits.charge(key, cost)
    }

    /// [`RateLimits::check_blocked`]
    pub fn check_blocked(&self, address: &QuotaKey) -> Result<(), Refusal> {
        self.rate_limits.check_blocked(address)
    }

    /// [`RateLimits::charge_wrong_token`]
    pub fn charge_wrong_token(&self, address: &QuotaKey) -> Result<(), Refusal> {
        self.rate_limits.charge_wrong_token(address, VALIDATION_COST)
    }

    pub fn remove_idle_callers(&self) {
        self.rate_limits.remove_idle();
        self.connections.remove_idle();
    }

    /// Selects the operation, coerces its variables and computes its cost.
    fn build_request(
        &self,
        document: &Document,
        operation_name: Option<String>,
        given: JsonMap,
        caller: &Caller,
    ) -> Result<(Request, OperationInfo), ServerError> {
        let operation = document.operation(operation_name.as_deref())?;
        let schema = self.documents.schema();
        let Coerced { json, variables } =
            variables::coerce(schema, &document.validated, operation, given).map_err(|error| {
                let position = error.location.and_then(|location| document.position(location));
                refusal::error("BAD_USER_INPUT", format!("Variables: {}", error.message), position)
            })?;
        let response = estimate(schema, &document.validated, operation, Some(&json));
        let Estimate { cost, bytes, waits, works } = response.with_variables(variables::size(&variables));
        self.limits.check_cost(cost)?;
        self.limits.check_response(bytes)?;

        let mut executable = select(&document.executable, operation_name.as_deref());
        if variables.len() < operation.variables.len() {
            variables::omit_absent(&mut executable, &variables);
        }

        let name = operation.name.as_ref().map(ToString::to_string);
        let (kind, is_trusted) = (operation.operation_type, document.is_trusted);
        let info = OperationInfo { name, kind, cost, is_trusted, bytes, waits, works };
        let mut request = Request::new("").variables(variables);
        request.operation_name = operation_name;
        request.set_parsed_query(executable);
        if let Some(identity) = &caller.identity {
            request = request.data(identity.clone());
        }
        Ok((request, info))
    }

    /// Executes a query or a mutation.
    ///
    /// # Errors
    /// [`Refusal::Busy`] or [`Refusal::OverQuota`]
    pub async fn execute(&self, prepared: PreparedOperation) -> Result<Executed, Refusal> {
        let PreparedOperation { request, info, key, memory, span } = prepared;
        let _waiting = info.waits.then(|| self.waiting.acquire(key.clone())).transpose()?;
        let _active = info.works.then(|| self.active.acquire(key.clone())).transpose()?;
        let request = match info.works {
            true => request,
            false => request.data(AfterWait::new(self.active.clone(), key)),
        };
        let began = Instant::now();
        let cancelled = guard(info.kind, metrics::count_cancelled);
        let result = AssertUnwindSafe(self.schema.execute(request).instrument(span.clone())).catch_unwind();
        let response = match timeout(self.limits.operation_timeout, result).await {
            Ok(Ok(response)) => mask(response),
            Ok(Err(_)) => panicked(),
            Err(_) => Response::from_errors(vec![self.timed_out(info.kind)]),
        };
        ScopeGuard::into_inner(cancelled);
        traces::record_errors(&span, &response.errors);
        metrics::record_executed(&info, &response, began.elapsed());
        Ok(Executed { response, memory })
    }

    fn timed_out(&self, kind: OperationType) -> ServerError {
        let advice = match kind {
            OperationType::Mutation => "It may still have succeeded: repeat it only with the same `idempotencyKey`.",
            _ => "Try again.",
        };
        let message = format!("The operation took longer than {:?}. {advice}", self.limits.operation_timeout);
        refusal::error("OPERATION_TIMEOUT", message, None)
    }

    /// Executes an operation of any kind and returns its results.
    ///
    /// # Errors
    /// [`Refusal::Busy`] or [`Refusal::OverQuota`]
    pub fn stream(self: &Arc<Self>, prepared: PreparedOperation) -> Result<BoxStream<'static, Response>, Refusal> {
        if prepared.info.is_subscription() {
            let permit = self.subscriptions.acquire(prepared.key)?;
            // A subscription has the memory for one result until it ends: each of its results may remain unread.
            let held = (permit, prepared.memory);
            let results = without_panics(self.schema.execute_stream(prepared.request));
            let mut is_first = true;
            return Ok(results
                .map(move |result| {
                    let _ = &held; // dropped with the stream
                    let result = mask(result);
                    if std::mem::take(&mut is_first) {
                        metrics::count_executed(OperationType::Subscription, &result);
                    }
                    result
                })
                .boxed());
        }
        let executor = self.clone();
        let result = async move {
            match executor.execute(prepared).await {
                Ok(Executed { response, memory }) => (response, Some(memory)),
                Err(refusal) => {
                    let errors = refusal.errors();
                    metrics::count_rejected(&errors);
                    (Response::from_errors(errors), None)
                }
            }
        };
        // The memory is free when the consumer asks for more: then it has sent the result.
        Ok(stream::once(result)
            .flat_map(|(response, memory)| {
                let mut results = vec![response].into_iter();
                stream::poll_fn(move |_| {
                    let _ = &memory;
                    Poll::Ready(results.next())
                })
            })
            .boxed())
    }
}

/// A panic becomes the last result.
fn without_panics(results: impl Stream<Item = Response> + Send) -> impl Stream<Item = Response> + Send {
    AssertUnwindSafe(results).catch_unwind().map(|result| result.unwrap_or_else(|_| panicked()))
}

/// The panic hook has logged the cause.
fn panicked() -> Response {
    mask(Response::from_errors(vec![ServerError::new("a resolver panicked", None)]))
}

/// Completes when a token expires; never without a token.
pub async fn token_expiry(expires: Option<SystemTime>) {
    match expires {
        Some(time) => tokio::time::sleep(time.duration_since(SystemTime::now()).unwrap_or_default()).await,
        None => std::future::pending().await,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_panic_of_a_subscription_is_its_last_result() {
        let states = stream::iter(1..).map(|state| match state {
            2 => panic!("by the test"),
            _ => Response::default(),
        });
        let results: Vec<Response> = without_panics(states).collect().await;
        let [first, last] = &results[..] else { panic!("two results expected") };
        assert!(first.errors.is_empty());
        assert_eq!(refusal::code(&last.errors[0]), Some("INTERNAL_SERVER_ERROR"));
        assert!(!last.errors[0].message.contains("test"));
    }
}
