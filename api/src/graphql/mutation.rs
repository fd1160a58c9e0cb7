use async_graphql::{Context, Enum, ID, InputObject, Object, SimpleObject};
use entity::event::{MAX_LINES, MAX_QUANTITY};
use entity::{client, product};
use iso_currency::Currency;

use super::types::{Decimal, Order, Product};
use super::{app, authorize_for, authorize_for_all, parse_id, traceparent};
use crate::commands::master_data::{Fault, MasterData};
use crate::commands::place_order::batcher::Orders;
use crate::commands::place_order::{Item, MAX_KEY_CHARACTERS, PlaceOrder, Rejection};
use crate::edge::auth::{PLACE_ORDERS, WRITE_CLIENTS, WRITE_PRODUCTS};
use crate::graphql::error::Error;

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
        let order = PlaceOrder { traceparent: traceparent(ctx), ..input.into() };
        match ctx.data_unchecked::<Orders>().place(order).await? {
            Ok(placed) => Ok(PlaceOrderPayload {
                client_version: Some(placed.event.version),
                replayed: placed.replayed,
                order: Some(Order::new(placed.event.data, placed.event.time, app(ctx).currency)),
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

    /// Registers a client, which is there with a total of zero then. Needs the scope `clients:write`.
    async fn register_client(
        &self,
        ctx: &Context<'_>,
        #[graphql(desc = "The client.")] input: RegisterClientInput,
    ) -> Result<ClientPayload, Error> {
        authorize_for_all(ctx, WRITE_CLIENTS)?;
        let RegisterClientInput { name, email } = input;
        Ok(master_data(ctx).register_client(&name, &email, traceparent(ctx)).await?.into())
    }

    /// Changes what a client is called and where it gets mail. Needs the scope `clients:write`; a token for one client
    /// changes that client.
    async fn update_client(
        &self,
        ctx: &Context<'_>,
        #[graphql(desc = "What changes.")] input: UpdateClientInput,
    ) -> Result<ClientPayload, Error> {
        authorize_for(ctx, WRITE_CLIENTS, [input.id.as_str()])?;
        let UpdateClientInput { id, name, email } = input;
        let updated =
            master_data(ctx).update_client(parse_id(&id), name.as_deref(), email.as_deref(), traceparent(ctx));
        Ok(updated.await?.into())
    }

    /// Creates a product, which can be ordered at once. Sent again after a lost answer it creates another: look first. Needs
    /// the scope `products:write`.
    async fn create_product(
        &self,
        ctx: &Context<'_>,
        #[graphql(desc = "The product.")] input: CreateProductInput,
    ) -> Result<ProductPayload, Error> {
        authorize_for_all(ctx, WRITE_PRODUCTS)?;
        let CreateProductInput { name, price } = input;
        let currency = app(ctx).currency;
        let created = master_data(ctx).create_product(&name, price.minor(currency), traceparent(ctx)).await?;
        Ok(ProductPayload::new(created, currency))
    }

    /// Changes what a product costs from now on: orders keep the price that they were placed at. Needs the scope
    /// `products:write`.
    async fn change_price(
        &self,
        ctx: &Context<'_>,
        #[graphql(desc = "What changes.")] input: ChangePriceInput,
    ) -> Result<ProductPayload, Error> {
        authorize_for_all(ctx, WRITE_PRODUCTS)?;
        let ChangePriceInput { product_id, price } = input;
        let currency = app(ctx).currency;
        let changed = master_data(ctx).change_price(parse_id(&product_id), price.minor(currency), traceparent(ctx));
        Ok(ProductPayload::new(changed.await?, currency))
    }
}

fn master_data<'a>(ctx: &Context<'a>) -> &'a MasterData {
    ctx.data_unchecked::<MasterData>()
}

/// A client to register.
#[derive(InputObject)]
struct RegisterClientInput {
    /// What it is called: from 1 to 200 characters.
    name: String,
    /// Its e-mail address, at most 200 characters, which no other client has. Kept in small letters.
    email: String,
}

/// What changes of a client. What is left out stays.
#[derive(InputObject)]
struct UpdateClientInput {
    /// The client.
    id: ID,
    /// What it is called: from 1 to 200 characters.
    name: Option<String>,
    /// Its e-mail address, at most 200 characters, which no other client has. Kept in small letters.
    email: Option<String>,
}

/// What became of a client that was to be registered or changed: either `client` is there, or `userErrors` says why not.
#[derive(SimpleObject)]
struct ClientPayload {
    /// The client from now on.
    client: Option<ClientDetails>,
    /// The client's version that this made. `client(id:, minVersion:)` with it waits until the read model has it.
    client_version: Option<i32>,
    /// Everything that is wrong; empty when it was done.
    user_errors: Vec<UserError>,
}

/// What a client is, without what its orders add up to.
#[derive(SimpleObject)]
struct ClientDetails {
    /// The client's id.
    id: ID,
    /// The client's name.
    name: String,
    /// The client's e-mail address.
    email: String,
}

impl From<Result<client::Model, Vec<Fault>>> for ClientPayload {
    fn from(changed: Result<client::Model, Vec<Fault>>) -> ClientPayload {
        match changed {
            Ok(client::Model { id, name, email, version }) => ClientPayload {
                client: Some(ClientDetails { id: id.into(), name, email }),
                client_version: Some(version),
                user_errors: Vec::new(),
            },
            Err(faults) => {
                let not_found = (UserErrorCode::ClientNotFound, "There is no such client.", "id");
                let user_errors = faults.into_iter().map(|fault| fault_of(fault, not_found)).collect();
                ClientPayload { client: None, client_version: None, user_errors }
            }
        }
    }
}

/// A product to create.
#[derive(InputObject)]
struct CreateProductInput {
    /// What it is called: from 1 to 200 characters.
    name: String,
    /// The price of one piece, in whole currency units: "1500.00" is fifteen hundred dollars where the currency is USD.
    price: Decimal,
}

/// What a product costs from now on.
#[derive(InputObject)]
struct ChangePriceInput {
    /// The product.
    product_id: ID,
    /// The price of one piece, in whole currency units.
    price: Decimal,
}

/// What became of a product that was to be created or changed: either `product` is there, or `userErrors` says why not.
#[derive(SimpleObject)]
struct ProductPayload {
    /// The product from now on.
    product: Option<Product>,
    /// Everything that is wrong; empty when it was done.
    user_errors: Vec<UserError>,
}

impl ProductPayload {
    fn new(changed: Result<product::Model, Vec<Fault>>, currency: Currency) -> ProductPayload {
        match changed {
            Ok(row) => ProductPayload { product: Some(Product::new(row, currency)), user_errors: Vec::new() },
            Err(faults) => {
                let not_found = (UserErrorCode::ProductNotFound, "There is no such product.", "productId");
                let user_errors = faults.into_iter().map(|fault| fault_of(fault, not_found)).collect();
                ProductPayload { product: None, user_errors }
            }
        }
    }
}

fn fault_of(fault: Fault, not_found: (UserErrorCode, &'static str, &'static str)) -> UserError {
    let (code, message, field) = match fault {
        Fault::NotFound => not_found,
        Fault::InvalidName => (
            UserErrorCode::InvalidName,
            "The name must have from 1 to 200 characters, and no control characters.",
            "name",
        ),
        Fault::InvalidEmail => (UserErrorCode::InvalidEmail, "This is not an e-mail address.", "email"),
        Fault::EmailTaken => (UserErrorCode::EmailTaken, "Another client has this e-mail address.", "email"),
        Fault::PriceOutOfRange => (
            UserErrorCode::PriceOutOfRange,
            "The price is too large, or has more digits after the point than the currency.",
            "price",
        ),
    };
    UserError { code, message: message.into(), field: Some(vec!["input".into(), field.into()]) }
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
    /// The name is empty, longer than 200 characters, or has control characters.
    InvalidName,
    /// What is to be an e-mail address is none.
    InvalidEmail,
    /// Another client has this e-mail address.
    EmailTaken,
    /// The price is too large, or has more digits after the point than the currency.
    PriceOutOfRange,
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
