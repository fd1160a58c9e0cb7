use std::sync::Arc;

use async_graphql::{ComplexObject, Context, Enum, ID, InputObject, SimpleObject};
use entity::event::MAX_LINES;
use entity::{Event, Line, OrderPlaced, order};
use iso_currency::Currency;
use uuid::Uuid;

use super::client::Client;
use super::history::{EVENTS_OF_ORDER, HistoryEntry, history_of_order};
use super::money::Money;
use crate::commands::Origin;
use crate::commands::idempotency::MAX_KEY_CHARACTERS;
use crate::commands::place_order::{Item, PlaceOrder};
use crate::edge::auth::{READ_CLIENTS, READ_SALES};
use crate::edge::rate_limits::Meter;
use crate::graphql::{App, app};
use crate::graphql::arguments::parse_id;
use crate::graphql::authorize::authorize_for;
use crate::graphql::cost_directives::{cost, list_size, max_size, names};
use crate::graphql::error::Error;
use crate::graphql::scalars::{DateTime, Decimal, int};
use crate::graphql::user_error::UserError;
use crate::orders::{self, StoredOrder};

/// The items of an order that its cost includes. Few orders have more.
const PAID_ITEMS: usize = 4;

/// The most problems with one order: two with each item, and one each with the client, the key and the total.
const MAX_PROBLEMS: i32 = 2 * MAX_LINES as i32 + 3;

/// The most problems with a change of an order: one each with the order or the amount, the version, the reason and the
/// key.
const MAX_REFUND_PROBLEMS: i32 = 4;

/// An order without its items, as it was placed. It has no status: a later cancellation or refund does not change it. `order(id:)`
/// and `orders` return an order with its status.
#[derive(SimpleObject)]
#[graphql(complex)]
pub struct OrderSummary {
    /// The id of the order, a UUID.
    id: ID,
    /// The id of the client that placed the order.
    client_id: ID,
    /// The time of the order.
    placed_at: DateTime,
    /// The sum of the items.
    total: Money,
    /// The number of items.
    item_count: i32,
    /// The client, if it has been read already.
    #[graphql(skip)]
    known_client: Option<Client>,
}

impl OrderSummary {
    pub fn new(order: read_model::OrderSummary, known_client: Option<Client>, currency: Currency) -> OrderSummary {
        OrderSummary {
            id: order.order_id.to_string().into(),
            client_id: order.client_id.into(),
            placed_at: DateTime(order.time),
            total: Money::new(order.total, currency),
            item_count: int(order.lines.into()),
            known_client,
        }
    }
}

#[ComplexObject]
impl OrderSummary {
    /// The client that placed the order, in its current state. Requires the scope `sales:read`.
    async fn client(&self, ctx: &Context<'_>) -> Option<Result<Client, Error>> {
        match &self.known_client {
            Some(client) => Some(authorize_for(ctx, READ_SALES, [self.client_id.as_str()]).map(|()| client.clone())),
            None => client(ctx, READ_SALES, &self.client_id).await.transpose(),
        }
    }
}

/// The client of an order. Those of a list of orders are read together.
async fn client(ctx: &Context<'_>, scope: &'static str, id: &ID) -> Result<Option<Client>, Error> {
    authorize_for(ctx, scope, [id.as_str()])?;
    let (Some(id), app) = (parse_id(id), app(ctx)) else { return Ok(None) };
    let client = app.clients.by_id(id).await??;
    Ok(client.map(|client| Client::new(client, app.currency)))
}

/// An order.
#[derive(SimpleObject)]
#[graphql(complex)]
pub struct Order {
    /// The id of the order, a UUID.
    pub id: ID,
    /// The id of the client that placed the order.
    pub client_id: ID,
    /// The time of the order.
    placed_at: DateTime,
    /// Whether the order is cancelled or refunded.
    status: OrderStatus,
    /// The sum of the items.
    total: Money,
    /// The refunded part of the total: the sum of the refunds and of the cancellation.
    refunded: Money,
    /// `total` minus `refunded`.
    net: Money,
    /// The time of the cancellation. Null if the order is not cancelled.
    cancelled_at: Option<DateTime>,
    /// The reason of the cancellation. Null if the order is not cancelled, or if its client is forgotten.
    cancel_reason: Option<String>,
    #[graphql(skip)]
    key: OrderKey,
    /// Its lines, if they have been read already.
    #[graphql(skip)]
    known_lines: Option<Vec<Line>>,
}

/// An order and its client.
pub struct OrderKey {
    pub id: Uuid,
    pub client: i64,
}

/// The state of an order.
#[derive(Clone, Copy, PartialEq, Eq, Enum)]
#[graphql(remote = "orders::Status")]
pub enum OrderStatus {
    /// It is not cancelled, and nothing is refunded.
    Placed,
    /// It is cancelled, so all of it is refunded. It cannot change any more.
    Cancelled,
    /// A part is refunded.
    PartiallyRefunded,
    /// All is refunded, in one or several parts.
    Refunded,
}

impl Order {
    pub fn new(order: &order::Model, currency: Currency) -> Order {
        Order {
            id: order.id.to_string().into(),
            client_id: order.client_id.into(),
            placed_at: DateTime(order.placed_at),
            status: orders::Status::of(order).into(),
            total: Money::new(order.total, currency),
            refunded: Money::new(order.refunded, currency),
            net: Money::new(order.total - order.refunded, currency),
            cancelled_at: order.cancelled_at.map(DateTime),
            cancel_reason: order.cancel_reason.clone(),
            key: OrderKey { id: order.id, client: order.client_id },
            known_lines: None,
        }
    }

    fn with_lines(order: &order::Model, lines: Vec<Line>, currency: Currency) -> Order {
        Order { known_lines: Some(lines), ..Order::new(order, currency) }
    }

    pub fn of(order: StoredOrder, currency: Currency) -> Order {
        let (order, lines) = order.into_parts();
        Order::with_lines(&order, lines, currency)
    }
}

/// An order that was placed earlier, as it is now: it may have been cancelled since.
pub async fn current_order(app: &App, placed: Event<OrderPlaced>) -> Result<Order, Error> {
    let (mut order, lines) = StoredOrder::new(placed).into_parts();
    if let Some(current) = app.orders_by_id.read(order.id, None).await?? {
        order = Arc::unwrap_or_clone(current);
    }
    Ok(Order::with_lines(&order, lines, app.currency))
}

#[ComplexObject]
impl Order {
    /// The items, in the order of the request. Each after the fourth costs 1 more, when it has been read.
    #[graphql(
        directive = cost::apply("2".into()),
        directive = list_size::apply(Some(PAID_ITEMS as i32), None, None, None),
        directive = max_size::apply(None, Some(MAX_LINES as i32))
    )]
    async fn items(&self, ctx: &Context<'_>) -> Result<Vec<OrderItem>, Error> {
        let (app, OrderKey { id, client }) = (app(ctx), &self.key);
        let lines = match &self.known_lines {
            // The lines of the input are paid for. A change that is made must not fail.
            Some(lines) => lines.clone(),
            None => {
                let lines = app.order_lines.read(*id, *client).await??;
                ctx.data_unchecked::<Meter>().charge_later(lines.len().saturating_sub(PAID_ITEMS)).await?;
                lines
            }
        };
        Ok(lines.into_iter().map(|line| OrderItem::new(line, app.currency)).collect())
    }

    /// The client that placed the order, in its current state. Null if queries do not have it yet. Requires the scope
    /// `clients:read`: without it, only this field is null, with an error.
    async fn client(&self, ctx: &Context<'_>) -> Option<Result<Client, Error>> {
        client(ctx, READ_CLIENTS, &self.client_id).await.transpose()
    }

    /// What has happened to the order, newest first: its cancellation, its refunds, and its placing. Requires the scope `orders:read`.
    #[graphql(
        directive = cost::apply("10".into()),
        directive = list_size::apply(None, names(&["first"]), None, Some(false))
    )]
    async fn history(
        &self,
        ctx: &Context<'_>,
        #[graphql(desc = "At most so many events, from 1 to 100.", default_with = "Some(EVENTS_OF_ORDER)")]
        first: Option<i32>,
    ) -> Option<Result<Vec<HistoryEntry>, Error>> {
        Some(history_of_order(ctx, &self.key, first).await)
    }
}

/// An item of an order.
#[derive(SimpleObject)]
pub struct OrderItem {
    /// The id of the product.
    product_id: ID,
    /// The name of the product at the time of the order.
    name: String,
    /// The price of one unit at the time of the order.
    unit_price: Money,
    /// The number of units.
    quantity: i32,
    /// The unit price times the quantity.
    line_total: Money,
}

impl OrderItem {
    fn new(line: Line, currency: Currency) -> OrderItem {
        OrderItem {
            product_id: line.product_id.into(),
            unit_price: Money::new(line.unit_price, currency),
            line_total: Money::new(line.total().unwrap_or(i64::MAX), currency),
            quantity: line.quantity,
            name: line.name,
        }
    }
}

/// An order to place.
#[derive(InputObject)]
pub struct PlaceOrderInput {
    /// The id of the client that places the order.
    pub client_id: ID,
    /// The items: from 1 to 100.
    items: Vec<OrderItemInput>,
    /// A random key for this order, such as a UUID, so that nobody can guess it: from 1 to 255 characters. A repeated request with
    /// the same key and the same order returns the order that was placed first instead of placing another. So a request whose
    /// response was lost can be repeated safely.
    pub idempotency_key: Option<String>,
}

/// An item of an order to place.
#[derive(InputObject)]
pub struct OrderItemInput {
    /// The id of the product.
    #[graphql(directive = cost::apply("1".into()))]
    product_id: ID,
    /// The number of units: from 1 to 10000.
    quantity: i32,
}

impl PlaceOrderInput {
    pub fn into_command(self, origin: Origin) -> PlaceOrder {
        let item = |item: OrderItemInput| Item { product_id: parse_id(&item.product_id), quantity: item.quantity };
        PlaceOrder {
            client_id: parse_id(&self.client_id),
            items: self.items.into_iter().map(item).collect(),
            idempotency_key: self.idempotency_key,
            origin,
        }
    }
}

/// When an order is placed.
#[derive(Clone, Copy, Default, PartialEq, Eq, Enum)]
pub enum PlaceOrderMode {
    /// Now, or the request fails.
    #[default]
    Immediate,
    /// Now if possible. While the database is unavailable or has too much to do, the order is accepted and placed later, with the prices of
    /// that time. It needs an `idempotencyKey`.
    Deferred,
}

/// An order that was accepted with `mode: DEFERRED` and is placed later.
#[derive(SimpleObject)]
pub struct OrderRequest {
    /// The id for `orderRequest`.
    #[graphql(directive = max_size::apply(Some(REQUEST_ID_BYTES), None))]
    pub id: ID,
    /// Whether the order is placed.
    pub status: OrderRequestStatus,
    /// The order. Null unless it is placed.
    pub order: Option<Order>,
    /// Why it was rejected. Empty unless it was.
    #[graphql(directive = max_size::apply(None, Some(MAX_PROBLEMS)))]
    pub user_errors: Vec<UserError>,
}

/// The state of an order that was accepted.
#[derive(Clone, Copy, PartialEq, Eq, Enum)]
pub enum OrderRequestStatus {
    /// It has no result yet.
    Pending,
    /// It is placed.
    Placed,
    /// It was rejected, as `userErrors` says.
    Rejected,
}

/// The longest id of a request: a client and a key, with quotation marks.
const REQUEST_ID_BYTES: i32 = 20 + 4 * MAX_KEY_CHARACTERS as i32 + 2;

impl OrderRequest {
    /// A request without a result.
    pub fn pending(id: ID) -> OrderRequest {
        OrderRequest { id, status: OrderRequestStatus::Pending, order: None, user_errors: Vec::new() }
    }
}

/// The result of placing an order.
#[derive(Default, SimpleObject)]
pub struct PlaceOrderPayload {
    /// The order. With `replayed` it is the order as it is now, and may be cancelled. Null if `userErrors` is not empty, or if there is a
    /// `request`.
    pub order: Option<Order>,
    /// The order that is accepted and placed later. Null unless `mode` is DEFERRED and it could not be placed at once.
    pub request: Option<OrderRequest>,
    /// The version of the client after this order. With it, `client(id:, minVersion:)` waits until queries include the
    /// order.
    pub client_version: Option<i32>,
    /// Whether an earlier request with the same idempotency key had placed the order. This request wrote nothing then.
    pub replayed: bool,
    /// All problems that the user can fix. Empty if the order was placed.
    #[graphql(directive = max_size::apply(None, Some(MAX_PROBLEMS)))]
    pub user_errors: Vec<UserError>,
}

/// An order to cancel.
#[derive(InputObject)]
pub struct CancelOrderInput {
    /// The id of the order.
    pub order_id: ID,
    /// Why it is cancelled: from 1 to 200 characters.
    pub reason: String,
    /// A random key for this request, such as a UUID, so that nobody can guess it: from 1 to 255 characters. Without it, a repeated
    /// request is safe as well.
    pub idempotency_key: Option<String>,
}

/// A part of an order to refund.
#[derive(InputObject)]
pub struct RefundOrderInput {
    /// The id of the order.
    pub order_id: ID,
    /// The amount, in the currency of the order.
    pub amount: Decimal,
    /// Why it is refunded: from 1 to 200 characters.
    pub reason: String,
    /// A random key for this refund, such as a UUID, so that nobody can guess it: from 1 to 255 characters. A repeated request for
    /// an order of the same client with the same key, order, amount and reason refunds nothing.
    pub idempotency_key: Option<String>,
}

/// The result of a change of an order.
#[derive(SimpleObject)]
pub struct OrderPayload {
    /// The order after the change. With `replayed` it is the order as it is now, with later changes. Null if `userErrors` is not
    /// empty.
    pub order: Option<Order>,
    /// The version of the client after the change, with `replayed` after the first request. With it, `client(id:, minVersion:)` waits
    /// until queries include the change.
    pub client_version: Option<i32>,
    /// Whether an earlier request had made the change. Then this request changed nothing.
    pub replayed: bool,
    /// All problems that the user can fix. Empty if the change was made.
    #[graphql(directive = max_size::apply(None, Some(MAX_REFUND_PROBLEMS)))]
    pub user_errors: Vec<UserError>,
}
