use async_graphql::{Context, Object};

use super::cost_directives::cost;
use super::types::client::{ClientPayload, RegisterClientInput, UpdateClientInput};
use super::types::order::{Order, PlaceOrderInput, PlaceOrderPayload};
use super::types::product::{ChangePriceInput, CreateProductInput, ProductPayload};
use super::{app, authorize_for, authorize_for_all, parse_id, traceparent};
use crate::commands::master_data::MasterData;
use crate::commands::place_order::PlaceOrder;
use crate::commands::place_order::batcher::Orders;
use crate::edge::auth::{PLACE_ORDERS, WRITE_CLIENTS, WRITE_PRODUCTS};
use crate::graphql::error::Error;

pub struct Mutation;

/// Changes. What a user can mend is answered in `userErrors`; what fails otherwise is in `errors`.
#[Object]
impl Mutation {
    /// Places an order, or reports in `userErrors` everything that is wrong with it. Needs the scope `orders:place`.
    #[graphql(directive = cost::apply("10".into()))]
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
    #[graphql(directive = cost::apply("10".into()))]
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
    #[graphql(directive = cost::apply("10".into()))]
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
    #[graphql(directive = cost::apply("10".into()))]
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
    #[graphql(directive = cost::apply("10".into()))]
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
