//! The GraphQL schema. Resolvers parse, call one function, and map the result.

mod authorize;
pub mod cost_directives;
pub mod error;
mod mutation;
mod query;
mod reports;
mod scalars;
mod subscription;
mod types;
mod user_error;

use std::sync::Arc;
use std::time::Duration;

use async_graphql::{Context, Schema, ValidationMode};
use iso_currency::Currency;
use read_model::Queries;
use sea_orm::DatabaseConnection;

use crate::commands::master_data::MasterData;
use crate::commands::place_order::batcher::Orders;
use crate::graphql::error::Error;
use crate::queries::live::Live;
use crate::queries::sales_snapshots::Snapshots;

use self::authorize::{authorize, authorize_for, authorize_for_all};
use self::reports::Reports;
use self::types::client::Client;

pub use mutation::Mutation;
pub use query::Query;
pub use subscription::Subscription;

const MAX_PAGE: usize = 100;

pub type OrderSchema = Schema<Query, Mutation, Subscription>;

/// What resolvers work with.
#[derive(Clone)]
pub struct App {
    pub db: DatabaseConnection,
    pub read_model: Arc<dyn Queries>,
    pub currency: Currency,
    /// How long `client(minVersion:)` waits.
    pub read_wait: Duration,
}

impl App {
    pub async fn is_database_reachable(&self) -> bool {
        self.db.ping().await.is_ok()
    }

    pub async fn is_read_model_reachable(&self) -> bool {
        self.read_model.ping().await.is_ok()
    }
}

/// The request's [W3C trace context](https://www.w3.org/TR/trace-context/#traceparent-header).
pub struct Traceparent(pub String);

fn traceparent(ctx: &Context<'_>) -> Option<String> {
    ctx.data_opt::<Traceparent>().map(|Traceparent(context)| context.clone())
}

/// What the resolvers of a service share.
pub struct Shared {
    pub app: App,
    pub orders: Orders,
    pub master_data: MasterData,
    pub live: Arc<Live>,
    pub snapshots: Arc<Snapshots>,
}

/// The schema, for documents that [`Documents`](crate::edge::documents::Documents) has validated and that are within the limits
/// there. Without what they share it can be printed but not executed.
pub fn schema(shared: Option<Shared>) -> OrderSchema {
    let builder = Schema::build(Query, Mutation, Subscription);
    // What is left out: rules that hold already, and a bound of recursion below ours.
    let builder = builder.validation_mode(ValidationMode::Fast).limit_recursive_depth(usize::MAX);
    match shared {
        Some(Shared { app, orders, master_data, live, snapshots }) => {
            let reports = Reports::new(app.clone());
            builder.data(app).data(orders).data(master_data).data(live).data(snapshots).data(reports).finish()
        }
        None => builder.finish(),
    }
}

fn app<'a>(ctx: &Context<'a>) -> &'a App {
    ctx.data_unchecked::<App>()
}

/// Clients as of a moment ago, `None` where nothing was projected.
async fn cached_clients(ctx: &Context<'_>, ids: &[i64]) -> Result<Vec<Option<Client>>, Error> {
    let app = app(ctx);
    let clients = app.read_model.cached_clients(ids).await?;
    Ok(clients.into_iter().map(|client| Some(Client::new(client?, app.currency))).collect())
}

/// `first` of a list: from 1 to 100.
fn page_size(first: i32) -> Result<usize, Error> {
    let size = usize::try_from(first).ok().filter(|size| (1..=MAX_PAGE).contains(size));
    size.ok_or_else(|| Error::BadUserInput(format!("`first` is {first}: it must be from 1 to {MAX_PAGE}.")))
}

/// Ids are decimal numbers from 1, without sign or leading zeros. Anything else names nothing that exists: 0.
fn parse_id(id: &str) -> i64 {
    id.parse().ok().filter(|number: &i64| *number > 0 && number.to_string() == id).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_has_one_spelling() {
        assert_eq!(parse_id("1"), 1);
        assert_eq!(parse_id("9223372036854775807"), i64::MAX);
        for id in ["", "0", "-1", "+1", "01", " 1", "1 ", "1.0", "1e3", "٣", "9223372036854775808", "x"] {
            assert_eq!(parse_id(id), 0, "{id:?}");
        }
    }

    #[test]
    fn the_printed_schema_is_the_committed_one() {
        let committed = include_str!("../../../schema.graphql");
        assert!(
            schema(None).sdl() == committed,
            "schema.graphql is not what the code says; write it anew with `cargo run -p api -- schema > schema.graphql`"
        );
    }
}
