//! Orders: one by its id, and lists of orders.

use std::sync::Arc;

use async_graphql::{Context, ID};
use chrono::Datelike;
use entity::order;
use read_model::reports::start_of_day;

use super::ORDERS;
use crate::commands::idempotency::is_valid_key;
use crate::edge::auth::{PLACE_ORDERS, READ_ORDERS};
use crate::graphql::app;
use crate::graphql::arguments::{date_range, page_size, parse_id, parse_order_cursor, parse_order_id, parse_time_zone};
use crate::graphql::authorize::{authorize, authorize_for, only_client};
use crate::graphql::database::database;
use crate::graphql::error::Error;
use crate::graphql::scalars::Date;
use crate::graphql::types::order::{OrderRequest, OrderRequestStatus, OrderStatus, current_order};
use crate::graphql::types::order_list::OrderConnection;
use crate::graphql::user_error::user_errors;
use crate::intake::{self, RequestState};
use crate::orders::lists::{self, Filter};

/// The first and the last day of a list, and their time zone.
type Days<'a> = (Option<Date>, Option<Date>, &'a str);

/// The times of orders from the first to the last day, both included.
fn times((from, to, time_zone): Days<'_>) -> Result<Filter, Error> {
    let zone = parse_time_zone(time_zone)?;
    if let (Some(from), Some(to)) = (from, to) {
        date_range(from, to)?;
    }
    // SQLite compares times as texts, which fails for years of five digits. No order is that late.
    let next_day = to.and_then(|Date(last)| last.succ_opt()).filter(|day| day.year() <= 9_999);
    Ok(Filter {
        from: from.map(|Date(day)| start_of_day(day, zone)),
        before: next_day.map(|day| start_of_day(day, zone)),
        ..Filter::default()
    })
}

pub async fn page(
    ctx: &Context<'_>,
    client: Option<ID>,
    status: Option<OrderStatus>,
    days: Days<'_>,
    first: Option<i32>,
    after: Option<String>,
) -> Result<OrderConnection, Error> {
    let (identity, app) = (authorize(ctx, READ_ORDERS)?, app(ctx));
    let (times, first) = (times(days)?, page_size(first, ORDERS)?);
    let client = match (&identity.client, client) {
        (Some(only), Some(client)) if *only != *client => return Err(Error::LimitedTo(only.clone())),
        (Some(_), _) => only_client(identity),
        // No order is of client 0.
        (None, client) => client.map(|client| parse_id(&client).unwrap_or(0)),
    };
    let after = after.map(|cursor| parse_order_cursor(&cursor)).transpose()?;
    let filter = Filter { client, status: status.map(OrderStatus::into), ..times };
    let page = lists::page(&*database(ctx).await, filter, after, first).await?;
    Ok(OrderConnection::new(page, app.currency))
}

/// An order that the caller may read.
pub async fn by_id(ctx: &Context<'_>, id: &ID) -> Result<Option<Arc<order::Model>>, Error> {
    let only_client = only_client(authorize(ctx, READ_ORDERS)?);
    match parse_order_id(id) {
        Some(id) => Ok(app(ctx).orders_by_id.read(id, only_client).await??),
        None => Ok(None),
    }
}

pub async fn request(ctx: &Context<'_>, id: ID) -> Result<Option<OrderRequest>, Error> {
    let (client, key) = id.split_once(':').unwrap_or_default();
    authorize_for(ctx, PLACE_ORDERS, [client])?;
    let (Some(client), true) = (parse_id(client), is_valid_key(key)) else { return Ok(None) };
    let app = app(ctx);
    let state = intake::state(&*database(ctx).await, app.currency, client, key).await?;
    Ok(Some(match state {
        RequestState::Pending => OrderRequest::pending(id),
        RequestState::Placed(event) => {
            let (status, order) = (OrderRequestStatus::Placed, Some(current_order(app, event).await?));
            OrderRequest { status, order, ..OrderRequest::pending(id) }
        }
        RequestState::Rejected(rejections) => {
            let user_errors = user_errors(rejections, "clientId", app.currency);
            OrderRequest { status: OrderRequestStatus::Rejected, user_errors, ..OrderRequest::pending(id) }
        }
    }))
}
