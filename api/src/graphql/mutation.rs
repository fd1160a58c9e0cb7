use async_graphql::{Context, Enum, ID, InputObject, Object, SimpleObject};
use entity::event::{MAX_LINES, MAX_QUANTITY};

use super::types::Order;
use super::{Traceparent, app, authorize_for, parse_id};
use crate::auth::PLACE_ORDERS;
use crate::error::Error;
use crate::orders::{Item, MAX_KEY_CHARACTERS, PlaceOrder, Rejection};
use crate::placing::Orders;

pub struct Mutation;

/// Changes. What a user can mend is answered in `userErrors`; what fails otherwise is in `errors`.
#[Object]
impl Mutation {
    /// Places an order, or reports in `userErrors` everything that is wrong with it. Needs the scope `orders:place`.
    async fn place_order(
        &self,
        ctx: &Context<'_>,
        #[graphql(desc = "The order.")] input: PlaceOrderInput,
    ) -> Result<PlaceOrderPayload, Error> {
        authorize_for(ctx, PLACE_ORDERS, [input.client_id.as_str()])?;
        let traceparent = ctx.data_opt::<Traceparent>().map(|Traceparent(context)| context.clone());
        let order = PlaceOrder { traceparent, ..input.into() };
        match ctx.data_unchecked::<Orders>().place(order).await? {
            Ok(placed) => Ok(PlaceOrderPayload {
                client_version: Some(placed.event.version),
                replayed: placed.replayed,
                order: Some(Order::new(placed.event.order, placed.event.time, app(ctx).currency)),
                user_errors: Vec::new(),
            }),
            Err(rejections) => Ok(PlaceOrderPayload {
                order: None,
                client_version: None,
                replayed: false,
                user_errors: rejections.into_iter().map(Into::into).collect(),
            }),
        }
    }
}

/// An order to place.
#[derive(InputObject)]
struct PlaceOrderInput {
    /// Who orders.
    client_id: ID,
    /// What is ordered: from 1 to 100 items.
    items: Vec<OrderItemInput>,
    /// A name of your choice for this order, from 1 to 255 characters, such as a UUID. Sent again with the same order, it
    /// answers with the order that was placed the first time instead of placing another, so that a request whose answer
    /// was lost can safely be repeated.
    idempotency_key: Option<String>,
}

/// One line of an order to place.
#[derive(InputObject)]
struct OrderItemInput {
    /// The product to order.
    product_id: ID,
    /// How many pieces: from 1 to 10000.
    quantity: i32,
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
struct PlaceOrderPayload {
    /// The order, when it stands.
    order: Option<Order>,
    /// The client's version that this order made. `client(id:, minVersion:)` with it waits until the read model has it.
    client_version: Option<i32>,
    /// Whether the order had already been placed, with the same idempotency key. Then nothing was written now.
    replayed: bool,
    /// Everything that is wrong with the order; empty when it stands.
    user_errors: Vec<UserError>,
}

/// Something in a request that its sender can mend.
#[derive(SimpleObject)]
struct UserError {
    /// What is wrong, for programs.
    code: UserErrorCode,
    /// What is wrong, for people.
    message: String,
    /// Where it is wrong: the path from the arguments, such as ["input", "items", "0", "quantity"].
    field: Option<Vec<String>>,
}

/// What can be wrong with a request.
#[derive(Clone, Copy, PartialEq, Eq, Enum)]
enum UserErrorCode {
    /// No client has this id.
    ClientNotFound,
    /// No product has this id.
    ProductNotFound,
    /// The order has no items.
    EmptyOrder,
    /// The order has more than 100 items.
    TooManyItems,
    /// A quantity is below 1 or above 10000.
    QuantityOutOfRange,
    /// The order adds up to more than this service takes in one order.
    TotalOutOfRange,
    /// The idempotency key was used before, for another order of this client.
    IdempotencyKeyReused,
    /// The idempotency key is empty, longer than 255 characters, or has control characters.
    InvalidIdempotencyKey,
}

impl From<Rejection> for UserError {
    fn from(rejection: Rejection) -> UserError {
        let of_item = |item: usize, field: &str| vec!["input".into(), "items".into(), item.to_string(), field.into()];
        let of_input = |field: &str| vec!["input".into(), field.into()];
        let (code, message, field) = match rejection {
            Rejection::ClientNotFound => {
                (UserErrorCode::ClientNotFound, "There is no such client.".into(), of_input("clientId"))
            }
            Rejection::EmptyOrder => (UserErrorCode::EmptyOrder, "The order has no items.".into(), of_input("items")),
            Rejection::TooManyItems => {
                (UserErrorCode::TooManyItems, format!("An order has at most {MAX_LINES} items."), of_input("items"))
            }
            Rejection::ProductNotFound { item } => {
                (UserErrorCode::ProductNotFound, "There is no such product.".into(), of_item(item, "productId"))
            }
            Rejection::QuantityOutOfRange { item } => (
                UserErrorCode::QuantityOutOfRange,
                format!("The quantity must be from 1 to {MAX_QUANTITY}."),
                of_item(item, "quantity"),
            ),
            Rejection::TotalOutOfRange => {
                (UserErrorCode::TotalOutOfRange, "The order's total is too large.".into(), of_input("items"))
            }
            Rejection::InvalidIdempotencyKey => (
                UserErrorCode::InvalidIdempotencyKey,
                format!("The key must have from 1 to {MAX_KEY_CHARACTERS} characters, and no control characters."),
                of_input("idempotencyKey"),
            ),
            Rejection::IdempotencyKeyReused => (
                UserErrorCode::IdempotencyKeyReused,
                "The key was used for another order of this client. Choose a new one.".into(),
                of_input("idempotencyKey"),
            ),
        };
        UserError { code, message, field: Some(field) }
    }
}
