//! What every operation goes through, whichever transport brings it: its document is found, its variables are coerced,
//! its cost is charged, and it is executed within its time. What goes wrong leaves with a code.

use std::net::IpAddr;
use std::num::NonZeroU32;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use apollo_compiler::executable::OperationType;
use apollo_compiler::request::coerce_variable_values;
use apollo_compiler::response::JsonMap;
use async_graphql::{Pos, Request, Response, ServerError, Variables};
use futures::StreamExt;
use futures::stream::{self, BoxStream};
use governor::clock::{Clock, DefaultClock};
use governor::{DefaultKeyedRateLimiter, Quota};
use tokio::sync::Semaphore;
use tokio::time::timeout;

use crate::auth::{EXPLORE, Identity};
use crate::documents::{Documents, Named};
use crate::error::{mask, refused};
use crate::graphql::{OrderSchema, Traceparent};
use crate::limits::{self, LimitSettings};

/// What a request is charged that is not executed: about what it takes to find that out.
const REFUSED_COST: u32 = 10;

/// An operation as it is asked for, by <https://graphql.github.io/graphql-over-http/draft/#sec-Request-Parameters>.
#[derive(Debug, Default)]
pub struct Parameters {
    pub query: Option<String>,
    pub operation_name: Option<String>,
    pub variables: JsonMap,
    /// The id or hash of a document that the service has, or gets with `query`.
    pub document_id: Option<String>,
}

/// Who asks.
#[derive(Clone, Debug)]
pub struct Caller {
    pub identity: Option<Identity>,
    pub address: IpAddr,
    pub traceparent: Option<String>,
}

impl Caller {
    /// When its token expires.
    pub fn expires(&self) -> Option<SystemTime> {
        self.identity.as_ref().map(|identity| identity.expires)
    }
}

/// An operation that may be executed, once.
pub struct Prepared {
    request: Request,
    pub operation: Operation,
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

/// Why an operation is not executed.
#[derive(Debug)]
pub enum Refused {
    /// The request is at fault.
    Request(Vec<ServerError>),
    /// Its sender asks for too much; after this time there is room again.
    RateLimited(Duration),
    /// Everyone together asks for too much.
    Busy,
}

impl Refused {
    pub fn errors(self) -> Vec<ServerError> {
        match self {
            Refused::Request(errors) => errors,
            Refused::RateLimited(wait) => {
                let message = format!("You ask for more than your share. Try again in {} s.", whole_seconds(wait));
                vec![refused("RATE_LIMITED", message, None)]
            }
            Refused::Busy => vec![refused("SERVER_BUSY", "The service is at its limit. Try again in a moment.", None)],
        }
    }
}

/// At least one.
pub fn whole_seconds(wait: Duration) -> u64 {
    wait.as_secs() + 1
}

pub struct Executor {
    schema: OrderSchema,
    documents: Documents,
    limits: LimitSettings,
    rate: Option<Rate>,
    running: Semaphore,
}

impl Executor {
    pub fn new(schema: OrderSchema, documents: Documents, limits: LimitSettings) -> Executor {
        let rate = NonZeroU32::new(limits.rate_limit).map(|rate| Rate::new(rate, limits.max_complexity));
        let running = Semaphore::new(limits.max_concurrent_operations);
        Executor { schema, documents, limits, rate, running }
    }

    /// Finds out whether an operation may be executed, and charges it.
    pub fn prepare(&self, parameters: Parameters, caller: &Caller) -> Result<Prepared, Refused> {
        match self.check(parameters, caller) {
            Ok(prepared) => {
                self.charge(caller, prepared.operation.cost.try_into().unwrap_or(u32::MAX))?;
                Ok(prepared)
            }
            Err(errors) => {
                self.charge(caller, REFUSED_COST)?;
                Err(Refused::Request(errors))
            }
        }
    }

    /// Charges a request whose token proves nothing.
    pub fn charge_stranger(&self, address: IpAddr) -> Result<(), Refused> {
        self.charge(&Caller { identity: None, address, traceparent: None }, REFUSED_COST)
    }

    fn charge(&self, caller: &Caller, cost: u32) -> Result<(), Refused> {
        self.rate.as_ref().map_or(Ok(()), |rate| rate.charge(caller, cost).map_err(Refused::RateLimited))
    }

    /// Forgets who has not asked for a while.
    pub fn forget_idle_callers(&self) {
        if let Some(rate) = &self.rate {
            rate.limiter.retain_recent();
        }
    }

    fn check(&self, parameters: Parameters, caller: &Caller) -> Result<Prepared, Vec<ServerError>> {
        let Parameters { query, operation_name, variables, document_id } = parameters;
        let identity = caller.identity.as_ref();
        let may_explore = identity.is_some_and(|identity| identity.scopes.iter().any(|scope| scope == EXPLORE));
        let document =
            self.documents.find(Named { text: query.as_deref(), id: document_id.as_deref() }, may_explore)?;
        let operation = document.operation(operation_name.as_deref()).map_err(|error| vec![error])?;
        let variables = coerce_variable_values(self.documents.schema(), operation, &variables).map_err(|error| {
            let position = error.location().and_then(|location| location.line_column(&document.checked.sources));
            let position = position.map(|at| Pos { line: at.line, column: at.column });
            vec![refused("BAD_USER_INPUT", format!("Variables: {}.", error.message()), position)]
        })?;
        let cost = limits::cost(&document.checked, operation, &variables);
        self.limits.check_cost(cost).map_err(|error| vec![error])?;

        let operation =
            Operation { name: operation.name.as_ref().map(ToString::to_string), kind: operation.operation_type, cost };
        let mut request = Request::new("").variables(to_variables(&variables));
        request.operation_name = operation_name;
        request.set_parsed_query(document.parsed.clone());
        if let Some(identity) = identity {
            request = request.data(identity.clone());
        }
        if let Some(context) = &caller.traceparent {
            request = request.data(Traceparent(context.clone()));
        }
        Ok(Prepared { request, operation })
    }

    /// Executes a query or a mutation.
    pub async fn execute(&self, prepared: Prepared) -> Result<Response, Refused> {
        let Ok(_running) = self.running.try_acquire() else { return Err(Refused::Busy) };
        let is_mutation = prepared.operation.kind == OperationType::Mutation;
        Ok(match timeout(self.limits.operation_timeout, self.schema.execute(prepared.request)).await {
            Ok(response) => mask(response),
            Err(_) => {
                let advice = match is_mutation {
                    true => "It may have been done all the same: repeat an order only with the same `idempotencyKey`.",
                    false => "Try again.",
                };
                let waited = self.limits.operation_timeout;
                let message = format!("The operation took longer than {waited:?}. {advice}");
                Response::from_errors(vec![refused("OPERATION_TIMEOUT", message, None)])
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

fn to_variables(variables: &JsonMap) -> Variables {
    // Every JSON value is a GraphQL value.
    async_graphql::to_value(variables).map(Variables::from_value).unwrap_or_default()
}

/// How much each caller may ask for in a second.
struct Rate {
    limiter: DefaultKeyedRateLimiter<Key>,
    clock: DefaultClock,
    burst: NonZeroU32,
}

#[derive(Clone, PartialEq, Eq, Hash)]
enum Key {
    Subject(String),
    Address(IpAddr),
}

impl Rate {
    /// A caller who has been idle may ask for what a second allows, or for the dearest operation, at once.
    fn new(rate: NonZeroU32, max_complexity: usize) -> Rate {
        let dearest = u32::try_from(max_complexity).unwrap_or(u32::MAX).max(REFUSED_COST);
        let burst = rate.max(NonZeroU32::new(dearest).unwrap_or(rate));
        let limiter = DefaultKeyedRateLimiter::keyed(Quota::per_second(rate).allow_burst(burst));
        Rate { limiter, clock: DefaultClock::default(), burst }
    }

    fn charge(&self, caller: &Caller, cost: u32) -> Result<(), Duration> {
        let key = match &caller.identity {
            Some(identity) => Key::Subject(identity.subject.clone()),
            None => Key::Address(network(caller.address)),
        };
        let cost = NonZeroU32::new(cost).unwrap_or(NonZeroU32::MIN).min(self.burst);
        match self.limiter.check_key_n(&key, cost) {
            Ok(Ok(())) | Err(_) => Ok(()),
            Ok(Err(not_until)) => Err(not_until.wait_time_from(self.clock.now())),
        }
    }
}

/// Whoever has an IPv6 address has all of its /64.
fn network(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(address) => {
            let network = u128::from(address) >> 64 << 64;
            IpAddr::V6(network.into())
        }
        address => address,
    }
}
