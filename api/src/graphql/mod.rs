//! The GraphQL schema. A resolver checks the token, parses its arguments, calls one function and maps the result.
//!
//! - [`query`], [`mutation`], [`subscription`]: the root types
//! - [`types`], [`scalars`]: all other types, by subject
//! - [`federation`]: more root fields of queries, for a gateway
//! - [`authorize`], [`arguments`]: checks at the start of a resolver
//! - [`database`]: how a resolver gets the command database
//! - [`store_health`]: whether they can be executed
//! - [`error`], [`user_error`]: failures, and problems that the user can fix

mod arguments;
mod authorize;
pub mod cost_directives;
mod database;
pub mod error;
pub mod federation;
mod mutation;
mod query;
pub mod scalars;
mod store_health;
mod subscription;
mod types;
mod user_error;

use std::sync::Arc;
use std::time::Duration;

use async_graphql::{Context, ObjectType, Request, Response, Schema, ValidationMode};
use futures::{Stream, StreamExt};
use iso_currency::Currency;
use read_model::Queries;
use runtime::logging::LogContext;
use runtime::telemetry::traces;
use sea_orm::DatabaseConnection;
use tracing::Span;

use crate::commands::place_order::batcher::OrderQueue;
use crate::commands::{Commands, Origin};
use crate::edge::auth::Identity;
use crate::intake::Intake;
use crate::orders::by_id::OrdersById;
use crate::orders::client_reports::ClientReports;
use crate::orders::lines::OrderLines;
use crate::orders::of_clients::OrdersOfClients;
use crate::queries::catalogue::Catalogue;
use crate::queries::clients::Clients;
use crate::queries::live::LiveClients;
use crate::queries::reports::Reports;
use crate::queries::sales_snapshots::SalesSnapshots;
use crate::system::System;

use federation::SubgraphQuery;
pub use mutation::Mutation;
pub use query::Query;
pub use store_health::{Checks, StoreHealth};
pub use subscription::Subscription;

/// The schema, with or without the root fields of a subgraph.
pub enum OrderSchema {
    Complete(Schema<Query, Mutation, Subscription>),
    Subgraph(Schema<SubgraphQuery, Mutation, Subscription>),
}

/// Everything that resolvers use.
#[derive(Clone)]
pub struct App {
    pub currency: Currency,
    /// The longest wait of `client(minVersion:)`.
    pub read_wait: Duration,
    /// How long after it was placed an order can be cancelled.
    pub cancel_window: Option<Duration>,
    pub db: DatabaseConnection,
    pub orders: OrderQueue,
    /// If orders are accepted while the database is away.
    pub intake: Option<Intake>,
    pub orders_by_id: Arc<OrdersById>,
    pub orders_of_clients: Arc<OrdersOfClients>,
    pub order_lines: Arc<OrderLines>,
    pub client_reports: Arc<ClientReports>,
    pub commands: Commands,
    pub read_model: Arc<dyn Queries>,
    pub catalogue: Arc<Catalogue>,
    pub clients: Arc<Clients>,
    pub reports: Arc<Reports>,
    pub live_clients: Arc<LiveClients>,
    pub sales_snapshots: Arc<SalesSnapshots>,
    pub system: Arc<System>,
    pub checks: Arc<Checks>,
}

/// The schema. It expects documents that [`Documents`](crate::edge::documents::Documents) has validated. Without an `App` it
/// can be printed but not executed.
pub fn schema(app: Option<App>) -> OrderSchema {
    OrderSchema::Complete(build(Query, app))
}

/// The same as a subgraph of a federated schema.
pub fn subgraph(app: Option<App>) -> OrderSchema {
    OrderSchema::Subgraph(build(SubgraphQuery, app))
}

fn build<Q: ObjectType + 'static>(query: Q, app: Option<App>) -> Schema<Q, Mutation, Subscription> {
    let builder = Schema::build(query, Mutation, Subscription);
    // `Documents` has already checked these rules, and a stricter depth.
    let builder = builder.validation_mode(ValidationMode::Fast).limit_recursive_depth(usize::MAX);
    match app {
        Some(app) => builder.data(app).finish(),
        None => builder.finish(),
    }
}

impl OrderSchema {
    /// The schema in the schema definition language.
    pub fn sdl(&self) -> String {
        match self {
            OrderSchema::Complete(schema) => schema.sdl(),
            OrderSchema::Subgraph(schema) => schema.sdl(),
        }
    }

    pub async fn execute(&self, request: Request) -> Response {
        match self {
            OrderSchema::Complete(schema) => schema.execute(request).await,
            OrderSchema::Subgraph(schema) => schema.execute(request).await,
        }
    }

    pub fn execute_stream(&self, request: Request) -> impl Stream<Item = Response> + Send + use<> {
        match self {
            OrderSchema::Complete(schema) => schema.execute_stream(request).left_stream(),
            OrderSchema::Subgraph(schema) => schema.execute_stream(request).right_stream(),
        }
    }
}

fn app<'a>(ctx: &Context<'a>) -> &'a App {
    ctx.data_unchecked::<App>()
}

/// The origin of the commands of a request.
fn origin(ctx: &Context<'_>) -> Origin {
    let identity = ctx.data_opt::<Arc<Identity>>();
    let span = traces::traceparent(&Span::current());
    Origin {
        traceparent: Some(span.unwrap_or_else(|| LogContext::current().traceparent().to_owned())),
        actor: identity.map(|identity| identity.subject.to_string()),
        actor_is_client: identity.is_some_and(|identity| identity.client.is_some()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_committed_schema_is_up_to_date() {
        let committed = include_str!("../../../schema.graphql");
        assert!(
            schema(None).sdl() == committed,
            "schema.graphql is out of date. Run: cargo run -p api -- schema > schema.graphql"
        );
    }
}
