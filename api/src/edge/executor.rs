//! What every operation goes through, whichever transport brings it: its document is found, its variables are coerced,
//! its cost is charged, and it is executed within its time. What goes wrong leaves with a code.

use std::num::NonZeroU32;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::SystemTime;

use apollo_compiler::executable::OperationType;
use apollo_compiler::request::coerce_variable_values;
use apollo_compiler::response::JsonMap;
use async_graphql::{Pos, Request, Response, ServerError, Variables};
use futures::stream::{self, BoxStream};
use futures::{FutureExt, StreamExt};
use tokio::sync::Semaphore;
use tokio::time::timeout;

use crate::edge::auth::EXPLORE;
use crate::edge::documents::limits::{self, LimitSettings};
use crate::edge::documents::validation::Document;
use crate::edge::documents::{DocumentRef, Documents};
use crate::edge::quota::{Caller, Key, Rate, Shares};
use crate::edge::refusal::{self, Refusal, mask};
use crate::graphql::{OrderSchema, Traceparent};

/// What is charged for a document that is not known yet, for a request that cannot be executed, and for a token that
/// proves nothing: about what it takes to find that out.
pub const NEW_COST: usize = 10;

/// An operation as it is asked for, by <https://graphql.github.io/graphql-over-http/draft/#sec-Request-Parameters>.
#[derive(Debug)]
pub struct Parameters {
    pub query: Option<String>,
    pub operation_name: Option<String>,
    pub variables: JsonMap,
    /// The id or hash of a document that the service has, or gets with `query`.
    pub document_id: Option<String>,
}

/// An operation that may be executed, once.
pub struct Prepared {
    request: Request,
    pub operation: Operation,
    /// Whose share it takes.
    key: Key,
}

/// What the log tells of an operation.
#[derive(Clone, Debug)]
pub struct Operation {
    pub name: Option<String>,
    pub kind: OperationType,
    pub cost: usize,
}

impl Operation {
    pub fn is_subscription(&self) -> bool {
        self.kind == OperationType::Subscription
    }
}

pub struct Executor {
    schema: OrderSchema,
    documents: Documents,
    limits: LimitSettings,
    rate: Option<Rate>,
    /// Operations that may still begin.
    free: Semaphore,
    /// Operations under way.
    running: Arc<Shares>,
}

impl Executor {
    pub fn new(schema: OrderSchema, documents: Documents, limits: LimitSettings) -> Executor {
        let rate = NonZeroU32::new(limits.rate_limit).map(|rate| Rate::new(rate, limits.max_complexity));
        let free = Semaphore::new(limits.max_concurrent_operations);
        let running = Shares::new(limits.max_operations_per_caller);
        Executor { schema, documents, limits, rate, free, running }
    }

    /// Finds out whether an operation may be executed, and charges it.
    pub fn prepare(&self, parameters: Parameters, caller: &Caller) -> Result<Prepared, Refusal> {
        let Parameters { query, operation_name, variables, document_id } = parameters;
        let key = caller.key();
        let may_explore = caller.identity.as_ref().is_some_and(|identity| identity.may(EXPLORE));
        let document = DocumentRef { text: query.as_deref(), id: document_id.as_deref() };
        // What is new is parsed and validated. That is paid for first: whoever has nothing left costs nothing.
        let mut paid = false;
        let prepared = self
            .documents
            .find(document, may_explore, || {
                paid = true;
                self.charge(&key, NEW_COST)
            })
            .and_then(|document| Ok(self.fill_in(&document, operation_name, &variables, caller)?));
        match prepared {
            Ok((request, operation)) => {
                self.charge(&key, operation.cost)?;
                Ok(Prepared { request, operation, key })
            }
            Err(refused) => {
                if !paid {
                    self.charge(&key, NEW_COST)?;
                }
                Err(refused)
            }
        }
    }

    /// Charges a caller, where there is a limit.
    pub fn charge(&self, key: &Key, cost: usize) -> Result<(), Refusal> {
        self.rate.as_ref().map_or(Ok(()), |rate| rate.charge(key, cost).map_err(Refusal::RateLimited))
    }

    /// Forgets who has not asked for a while.
    pub fn forget_idle_callers(&self) {
        if let Some(rate) = &self.rate {
            rate.forget_idle();
        }
    }

    /// Makes a request of one operation of a document, and the variables sent.
    fn fill_in(
        &self,
        document: &Document,
        operation_name: Option<String>,
        variables: &JsonMap,
        caller: &Caller,
    ) -> Result<(Request, Operation), ServerError> {
        let operation = document.operation(operation_name.as_deref())?;
        let variables = coerce_variable_values(self.documents.schema(), operation, variables).map_err(|error| {
            let position = error.location().and_then(|location| location.line_column(&document.validated.sources));
            let position = position.map(|at| Pos { line: at.line, column: at.column });
            refusal::error("BAD_USER_INPUT", format!("Variables: {}.", error.message()), position)
        })?;
        let cost = limits::cost(&document.validated, operation, &variables);
        self.limits.check_cost(cost)?;

        let name = operation.name.as_ref().map(ToString::to_string);
        let operation = Operation { name, kind: operation.operation_type, cost };
        let variables = async_graphql::to_value(&*variables)
            .map_err(|error| refusal::error("BAD_USER_INPUT", error.to_string(), None))?;
        let mut request = Request::new("").variables(Variables::from_value(variables));
        request.operation_name = operation_name;
        request.set_parsed_query(document.executable.clone());
        if let Some(identity) = &caller.identity {
            request = request.data(identity.clone());
        }
        if let Some(context) = &caller.traceparent {
            request = request.data(Traceparent(context.clone()));
        }
        Ok((request, operation))
    }

    /// Executes a query or a mutation.
    pub async fn execute(&self, prepared: Prepared) -> Result<Response, Refusal> {
        let Prepared { request, operation, key } = prepared;
        let Some(_running) = self.running.take(key) else { return Err(Refusal::Busy) };
        let Ok(_free) = self.free.try_acquire() else { return Err(Refusal::Busy) };
        let answer = AssertUnwindSafe(self.schema.execute(request)).catch_unwind();
        Ok(match timeout(self.limits.operation_timeout, answer).await {
            Ok(Ok(response)) => mask(response),
            // Told by the panic hook already.
            Ok(Err(_)) => mask(Response::from_errors(vec![ServerError::new("a resolver panicked", None)])),
            Err(_) => {
                let advice = match operation.kind {
                    OperationType::Mutation => {
                        "It may have been done all the same: repeat an order only with the same `idempotencyKey`."
                    }
                    _ => "Try again.",
                };
                let waited = self.limits.operation_timeout;
                let message = format!("The operation took longer than {waited:?}. {advice}");
                Response::from_errors(vec![refusal::error("OPERATION_TIMEOUT", message, None)])
            }
        })
    }

    /// Executes an operation of any kind: what it answers, one after another.
    pub fn stream(self: &Arc<Self>, prepared: Prepared) -> BoxStream<'static, Response> {
        if prepared.operation.is_subscription() {
            return self.schema.execute_stream(prepared.request).map(mask).boxed();
        }
        let executor = self.clone();
        let answer = async move {
            let answer = executor.execute(prepared).await;
            answer.unwrap_or_else(|refused| Response::from_errors(refused.errors()))
        };
        stream::once(answer).boxed()
    }
}

/// Ends when a token expires; never without one.
pub async fn expiry(time: Option<SystemTime>) {
    match time {
        Some(time) => tokio::time::sleep(time.duration_since(SystemTime::now()).unwrap_or_default()).await,
        None => std::future::pending().await,
    }
}
