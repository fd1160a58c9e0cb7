//! The path of every operation, whatever its transport: find the document, coerce the variables, charge the cost, execute
//! within the time limit. Every error has a code.

use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::SystemTime;

use apollo_compiler::executable::OperationType;
use apollo_compiler::response::JsonMap;
use async_graphql::{Request, Response, ServerError};
use futures::stream::{self, BoxStream};
use futures::{FutureExt, StreamExt};
use tokio::time::timeout;

use super::auth::EXPLORE;
use super::caller::Caller;
use super::documents::cost::cost;
use super::documents::limits::LimitSettings;
use super::documents::validation::Document;
use super::documents::variables::{self, Coerced};
use super::documents::{DocumentRef, Documents};
use super::quota::{ConcurrencyQuota, QuotaKey, RateLimits};
use super::refusal::{self, Refusal, mask};
use super::request::Parameters;
use crate::graphql::{OrderSchema, Traceparent};

/// The cost of validating a document or a token, and of refusing a request.
pub const VALIDATION_COST: usize = 10;

/// An operation that was charged and can be executed once.
pub struct PreparedOperation {
    request: Request,
    pub info: OperationInfo,
    key: QuotaKey,
}

/// The part of an operation that the log contains.
#[derive(Clone, Debug)]
pub struct OperationInfo {
    pub name: Option<String>,
    pub kind: OperationType,
    pub cost: usize,
}

impl OperationInfo {
    pub fn is_subscription(&self) -> bool {
        self.kind == OperationType::Subscription
    }
}

pub struct Executor {
    schema: OrderSchema,
    documents: Documents,
    limits: LimitSettings,
    rate_limits: RateLimits,
    /// Queries and mutations that are being executed.
    active: Arc<ConcurrencyQuota>,
}

impl Executor {
    pub fn new(schema: OrderSchema, documents: Documents, limits: LimitSettings) -> Executor {
        let rate_limits = RateLimits::new(&limits);
        let active = ConcurrencyQuota::new(limits.max_concurrent_operations, limits.max_operations_per_caller);
        Executor { schema, documents, limits, rate_limits, active }
    }

    /// Validates an operation and charges its cost to the caller.
    pub fn prepare(&self, parameters: Parameters, caller: &Caller) -> Result<PreparedOperation, Refusal> {
        let Parameters { query, operation_name, variables, document_id } = parameters;
        let key = caller.quota_key();
        let may_explore = caller.identity.as_ref().is_some_and(|identity| identity.may(EXPLORE));
        let document = DocumentRef { text: query.as_deref(), id: document_id.as_deref() };
        // Validation is paid in advance, so that a caller without quota cannot cause work.
        let mut paid = false;
        let prepared = self
            .documents
            .find(document, may_explore, || {
                paid = true;
                self.charge(&key, VALIDATION_COST)
            })
            .and_then(|document| Ok(self.build_request(&document, operation_name, variables, caller)?));
        match prepared {
            Ok((request, info)) => {
                self.charge(&key, info.cost)?;
                Ok(PreparedOperation { request, info, key })
            }
            Err(refusal) => {
                if !paid {
                    self.charge(&key, VALIDATION_COST)?;
                }
                Err(refusal)
            }
        }
    }

    /// Charges a cost to a caller if a rate limit is configured.
    pub fn charge(&self, key: &QuotaKey, cost: usize) -> Result<(), Refusal> {
        self.rate_limits.charge(key, cost)
    }

    pub fn remove_idle_callers(&self) {
        self.rate_limits.remove_idle();
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
        let cost = cost(&document.validated, operation, &json);
        self.limits.check_cost(cost)?;

        let mut executable = document.executable.clone();
        if variables.len() < operation.variables.len() {
            variables::omit_absent(&mut executable, &variables);
        }

        let name = operation.name.as_ref().map(ToString::to_string);
        let info = OperationInfo { name, kind: operation.operation_type, cost };
        let mut request = Request::new("").variables(variables);
        request.operation_name = operation_name;
        request.set_parsed_query(executable);
        if let Some(identity) = &caller.identity {
            request = request.data(identity.clone());
        }
        if let Some(context) = &caller.traceparent {
            request = request.data(Traceparent(context.clone()));
        }
        Ok((request, info))
    }

    /// Executes a query or a mutation.
    ///
    /// # Errors
    /// [`Refusal::Busy`]
    pub async fn execute(&self, prepared: PreparedOperation) -> Result<Response, Refusal> {
        let PreparedOperation { request, info, key } = prepared;
        let _permit = self.active.acquire(key)?;
        let result = AssertUnwindSafe(self.schema.execute(request)).catch_unwind();
        Ok(match timeout(self.limits.operation_timeout, result).await {
            Ok(Ok(response)) => mask(response),
            // The panic hook has logged the cause.
            Ok(Err(_)) => mask(Response::from_errors(vec![ServerError::new("a resolver panicked", None)])),
            Err(_) => Response::from_errors(vec![self.timed_out(info.kind)]),
        })
    }

    fn timed_out(&self, kind: OperationType) -> ServerError {
        let advice = match kind {
            OperationType::Mutation => {
                "It may still have succeeded: repeat an order only with the same `idempotencyKey`."
            }
            _ => "Try again.",
        };
        let message = format!("The operation took longer than {:?}. {advice}", self.limits.operation_timeout);
        refusal::error("OPERATION_TIMEOUT", message, None)
    }

    /// Executes an operation of any kind and returns its results.
    pub fn stream(self: &Arc<Self>, prepared: PreparedOperation) -> BoxStream<'static, Response> {
        if prepared.info.is_subscription() {
            return self.schema.execute_stream(prepared.request).map(mask).boxed();
        }
        let executor = self.clone();
        let result = async move {
            let result = executor.execute(prepared).await;
            result.unwrap_or_else(|refusal| Response::from_errors(refusal.errors()))
        };
        stream::once(result).boxed()
    }
}

/// Completes when a token expires; never without a token.
pub async fn token_expiry(expires: Option<SystemTime>) {
    match expires {
        Some(time) => tokio::time::sleep(time.duration_since(SystemTime::now()).unwrap_or_default()).await,
        None => std::future::pending().await,
    }
}
