use async_graphql::{Context, Object};
use entity::product;
use iso_currency::Currency;

use super::arguments::parse_id;
use super::authorize::{authorize_for, authorize_for_all};
use super::cost_directives::cost;
use super::error::Error;
use super::types::client::{ClientPayload, RegisterClientInput, UpdateClientInput};
use super::types::order::{Order, PlaceOrderInput, PlaceOrderPayload};
use super::types::product::{CreateProductInput, Product, ProductPayload, UpdateProductInput};
use super::user_error::user_errors;
use super::{app, traceparent};
use crate::commands::Rejection;
use crate::commands::place_order::Outcome;
use crate::commands::products::{NewProduct, ProductUpdate};
use crate::edge::auth::{PLACE_ORDERS, WRITE_CLIENTS, WRITE_PRODUCTS};

pub struct Mutation;

/// Changes. Problems that the user can fix are listed in `userErrors`. Other failures are in `errors`; such a field is null,
/// and other fields of the request keep their results. A request with a malformed argument is refused before anything is
/// executed.
#[Object]
impl Mutation {
    /// Places an order. Requires the scope `orders:place`.
    #[graphql(directive = cost::apply("10".into()))]
    async fn place_order(
        &self,
        ctx: &Context<'_>,
        #[graphql(desc = "The order.")] input: PlaceOrderInput,
    ) -> Option<Result<PlaceOrderPayload, Error>> {
        Some(place_order(ctx, input).await)
    }

    /// Registers a client. Requires the scope `clients:write`.
    #[graphql(directive = cost::apply("10".into()))]
    async fn register_client(
        &self,
        ctx: &Context<'_>,
        #[graphql(desc = "The client.")] input: RegisterClientInput,
    ) -> Option<Result<ClientPayload, Error>> {
        Some(register_client(ctx, input).await)
    }

    /// Changes the name or the e-mail address of a client. Requires the scope `clients:write`. A token for one client can
    /// change that client.
    #[graphql(directive = cost::apply("10".into()))]
    async fn update_client(
        &self,
        ctx: &Context<'_>,
        #[graphql(desc = "The changes.")] input: UpdateClientInput,
    ) -> Option<Result<ClientPayload, Error>> {
        Some(update_client(ctx, input).await)
    }

    /// Creates a product. Without a SKU it is not idempotent: a repeated request creates a second product. Requires the scope
    /// `products:write`.
    #[graphql(directive = cost::apply("10".into()))]
    async fn create_product(
        &self,
        ctx: &Context<'_>,
        #[graphql(desc = "The product.")] input: CreateProductInput,
    ) -> Option<Result<ProductPayload, Error>> {
        Some(create_product(ctx, input).await)
    }

    /// Changes the name, the price or the SKU of a product, withdraws it, or offers it again. Existing orders keep their names and
    /// prices. Requires the scope `products:write`.
    #[graphql(directive = cost::apply("10".into()))]
    async fn update_product(
        &self,
        ctx: &Context<'_>,
        #[graphql(desc = "The changes.")] input: UpdateProductInput,
    ) -> Option<Result<ProductPayload, Error>> {
        Some(update_product(ctx, input).await)
    }
}

async fn place_order(ctx: &Context<'_>, input: PlaceOrderInput) -> Result<PlaceOrderPayload, Error> {
    authorize_for(ctx, PLACE_ORDERS, [input.client_id.as_str()])?;
    let app = app(ctx);
    let outcome = app.orders.place(input.into_command(traceparent(ctx))).await?;
    let replayed = matches!(outcome, Outcome::Replayed(_));
    Ok(match outcome {
        Outcome::Placed(event) | Outcome::Replayed(event) => PlaceOrderPayload {
            client_version: Some(event.version),
            replayed,
            order: Some(Order::new(event.data, event.time, app.currency)),
            user_errors: Vec::new(),
        },
        Outcome::Rejected(rejections) => PlaceOrderPayload {
            order: None,
            client_version: None,
            replayed,
            user_errors: user_errors(rejections, "clientId"),
        },
    })
}

async fn register_client(ctx: &Context<'_>, input: RegisterClientInput) -> Result<ClientPayload, Error> {
    authorize_for_all(ctx, WRITE_CLIENTS)?;
    let app = app(ctx);
    let RegisterClientInput { name, email } = input;
    Ok(match app.commands.register_client(&name, &email, traceparent(ctx)).await? {
        Ok(row) => ClientPayload::registered(row, app.currency),
        Err(rejections) => ClientPayload::rejected(user_errors(rejections, "id")),
    })
}

async fn update_client(ctx: &Context<'_>, input: UpdateClientInput) -> Result<ClientPayload, Error> {
    authorize_for(ctx, WRITE_CLIENTS, [input.id.as_str()])?;
    let app = app(ctx);
    let UpdateClientInput { id, name, email } = input;
    let updated = app.commands.update_client(parse_id(&id), name.as_deref(), email.as_deref(), traceparent(ctx));
    Ok(match updated.await? {
        Ok(row) => {
            let projected = app.clients.by_ids(&[row.id]).await;
            let projected = projected.map(|mut clients| clients.pop().flatten()).map_err(Error::from);
            ClientPayload::updated(row, projected, app.currency)
        }
        Err(rejections) => ClientPayload::rejected(user_errors(rejections, "id")),
    })
}

async fn create_product(ctx: &Context<'_>, input: CreateProductInput) -> Result<ProductPayload, Error> {
    authorize_for_all(ctx, WRITE_PRODUCTS)?;
    let (CreateProductInput { name, price, sku, available }, app) = (input, app(ctx));
    let new = NewProduct { name, price: price.to_minor(app.currency), available: available.unwrap_or(true), sku };
    let created = app.commands.create_product(new, traceparent(ctx)).await?;
    Ok(product_payload(created, app.currency))
}

async fn update_product(ctx: &Context<'_>, input: UpdateProductInput) -> Result<ProductPayload, Error> {
    authorize_for_all(ctx, WRITE_PRODUCTS)?;
    let (UpdateProductInput { id, name, price, available, sku }, app) = (input, app(ctx));
    let update = ProductUpdate { name, price: price.map(|price| price.to_minor(app.currency)), available, sku };
    let updated = app.commands.update_product(parse_id(&id), update, traceparent(ctx)).await?;
    Ok(product_payload(updated, app.currency))
}

fn product_payload(changed: Result<product::Model, Vec<Rejection>>, currency: Currency) -> ProductPayload {
    match changed {
        Ok(row) => ProductPayload { product: Some(Product::of_row(row, currency)), user_errors: Vec::new() },
        Err(rejections) => ProductPayload { product: None, user_errors: user_errors(rejections, "id") },
    }
}
