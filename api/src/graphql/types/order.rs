use async_graphql::{ComplexObject, Context, ID, InputObject, SimpleObject};
use chrono::Utc;
use entity::{Line, OrderPlaced};
use iso_currency::Currency;
use read_model::OrderSummary;

use super::client::Client;
use super::money::Money;
use crate::commands::place_order::{Item, PlaceOrder};
use crate::graphql::error::Error;
use crate::graphql::scalars::{DateTime, int};
use crate::graphql::user_error::UserError;
use crate::graphql::{cached_clients, parse_id};

/// An order as lists show it.
#[derive(SimpleObject)]
#[graphql(complex)]
pub struct ClientOrder {
    /// The order's id, a UUID.
    id: ID,
    /// The client who placed it.
    client_id: ID,
    /// When it was placed.
    placed_at: DateTime,
    /// What its items add up to.
    total: Money,
    /// How many lines it has.
    item_count: i32,
    /// Who placed it, where that is known already.
    #[graphql(skip)]
    placed_by: Option<Client>,
}

impl ClientOrder {
    pub fn new(purchase: OrderSummary, placed_by: Option<Client>, currency: Currency) -> ClientOrder {
        ClientOrder {
            placed_by,
            id: purchase.order_id.to_string().into(),
            client_id: purchase.client_id.into(),
            placed_at: DateTime(purchase.time),
            total: Money::new(purchase.total, currency),
            item_count: int(purchase.lines.into()),
        }
    }
}

#[ComplexObject]
impl ClientOrder {
    /// The client who placed it, as it is now.
    async fn client(&self, ctx: &Context<'_>) -> Option<Result<Client, Error>> {
        if let Some(client) = &self.placed_by {
            return Some(Ok(client.clone()));
        }
        cached_clients(ctx, &[parse_id(&self.client_id)]).await.map(|mut clients| clients.pop().flatten()).transpose()
    }
}

/// An order as it was placed.
#[derive(SimpleObject)]
pub struct Order {
    /// The order's id, a UUID.
    id: ID,
    /// The client who placed it.
    client_id: ID,
    /// When it was placed.
    placed_at: DateTime,
    /// What its items add up to.
    total: Money,
    /// Its items, in the order they were given.
    items: Vec<OrderItem>,
}

impl Order {
    pub fn new(order: OrderPlaced, time: chrono::DateTime<Utc>, currency: Currency) -> Order {
        Order {
            id: order.order_id.to_string().into(),
            client_id: order.client_id.into(),
            placed_at: DateTime(time),
            total: Money::new(order.total, currency),
            items: order.lines.into_iter().map(|line| OrderItem::new(line, currency)).collect(),
        }
    }
}

/// One line of an order.
#[derive(SimpleObject)]
pub struct OrderItem {
    /// The product ordered.
    product_id: ID,
    /// The product's name when it was ordered.
    name: String,
    /// The price of one piece when it was ordered.
    unit_price: Money,
    /// How many pieces.
    quantity: i32,
    /// Unit price times quantity.
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
    /// Who orders.
    pub client_id: ID,
    /// What is ordered: from 1 to 100 items.
    pub items: Vec<OrderItemInput>,
    /// A name of your choice for this order, from 1 to 255 characters, such as a UUID. Sent again with the same order, it
    /// answers with the order that was placed the first time instead of placing another, so that a request whose answer
    /// was lost can safely be repeated.
    pub idempotency_key: Option<String>,
}

/// One line of an order to place.
#[derive(InputObject)]
pub struct OrderItemInput {
    /// The product to order.
    pub product_id: ID,
    /// How many pieces: from 1 to 10000.
    pub quantity: i32,
}

impl From<PlaceOrderInput> for PlaceOrder {
    fn from(input: PlaceOrderInput) -> PlaceOrder {
        let item = |item: OrderItemInput| Item { product_id: parse_id(&item.product_id), quantity: item.quantity };
        PlaceOrder {
            client_id: parse_id(&input.client_id),
            items: input.items.into_iter().map(item).collect(),
            idempotency_key: input.idempotency_key,
            traceparent: None,
        }
    }
}

/// What became of an order: either `order` is there, or `userErrors` says why not.
#[derive(SimpleObject)]
pub struct PlaceOrderPayload {
    /// The order, when it stands.
    pub order: Option<Order>,
    /// The client's version that this order made. `client(id:, minVersion:)` with it waits until the read model has it.
    pub client_version: Option<i32>,
    /// Whether the order had already been placed, with the same idempotency key. Then nothing was written now.
    pub replayed: bool,
    /// Everything that is wrong with the order; empty when it stands.
    pub user_errors: Vec<UserError>,
}
