use async_graphql::{Context, ID, Object};
use entity::{client, product};

use super::arguments::{parse_id, parse_order_id};
use super::authorize::{authorize, authorize_for, authorize_for_all, only_client};
use super::cost_directives::cost;
use super::database::commands;
use super::error::Error;
use super::types::client::{ClientPayload, ForgetClientInput, RegisterClientInput, UpdateClientInput};
use super::types::order::{
    CancelOrderInput, Order, OrderPayload, OrderRequest, PlaceOrderInput, PlaceOrderMode, PlaceOrderPayload,
    RefundOrderInput, current_order,
};
use super::types::product::{CreateProductInput, Product, ProductPayload, UpdateProductInput};
use super::types::system::{DeadLettersPayload, DiscardDeadLettersInput, RedriveDeadLettersInput};
use super::user_error::user_errors;
use super::{app, origin};
use crate::commands::Rejection;
use crate::commands::idempotency::Done;
use crate::commands::place_order::Outcome;
use crate::commands::products::{NewProduct, ProductUpdate};
use crate::commands::refunds::{RefundKind, RefundOrder, RefundedOrder};
use crate::edge::auth::{
    CANCEL_ORDERS, FORGET_CLIENTS, PLACE_ORDERS, READ_CLIENTS, READ_PRODUCTS, REFUND_ORDERS, WRITE_CLIENTS,
    WRITE_PRODUCTS, WRITE_SYSTEM,
};
use crate::orders::StoredOrder;
use crate::system::dead_letters::Command;

pub struct Mutation;

/// Changes. Problems that the user can fix are listed in `userErrors`. Other failures are in `errors`; such a field is null,
/// and other fields of the request keep their results. A request with a malformed argument is refused before anything is
/// executed.
#[Object]
impl Mutation {
    /// Places an order. Requires the scope `orders:place`.
    #[graphql(directive = cost::apply("20".into()))]
    async fn place_order(
        &self,
        ctx: &Context<'_>,
        #[graphql(desc = "The order.")] input: PlaceOrderInput,
        #[graphql(desc = "Whether it may be placed later, by default IMMEDIATE.")] mode: Option<PlaceOrderMode>,
    ) -> Option<Result<PlaceOrderPayload, Error>> {
        Some(place_order(ctx, input, mode.unwrap_or_default()).await)
    }

    /// Cancels an order: refunds all that is left of it. If the order is cancelled already, it is returned with `replayed: true`,
    /// so a request can be repeated safely. A token for one client can cancel orders of that client. Requires the scope
    /// `orders:cancel`.
    #[graphql(directive = cost::apply("20".into()))]
    async fn cancel_order(
        &self,
        ctx: &Context<'_>,
        #[graphql(desc = "The order.")] input: CancelOrderInput,
    ) -> Option<Result<OrderPayload, Error>> {
        let kind = RefundKind::Cancellation { window: app(ctx).cancel_window };
        let CancelOrderInput { order_id, reason, idempotency_key } = input;
        Some(refund_order(ctx, CANCEL_ORDERS, &order_id, kind, reason, idempotency_key).await)
    }

    /// Refunds a part of an order, or all of it. The amount is divided among the items in proportion to what is left of them. There is
    /// no time limit, so tokens of clients should not have the scope that this requires: `orders:refund`. A token for one client can
    /// only refund orders of that client.
    #[graphql(directive = cost::apply("20".into()))]
    async fn refund_order(
        &self,
        ctx: &Context<'_>,
        #[graphql(desc = "The part of the order.")] input: RefundOrderInput,
    ) -> Option<Result<OrderPayload, Error>> {
        let kind = RefundKind::Part(input.amount.to_minor(app(ctx).currency));
        let RefundOrderInput { order_id, reason, idempotency_key, .. } = input;
        Some(refund_order(ctx, REFUND_ORDERS, &order_id, kind, reason, idempotency_key).await)
    }

    /// Registers a client. Requires the scope `clients:write`.
    #[graphql(directive = cost::apply("20".into()))]
    async fn register_client(
        &self,
        ctx: &Context<'_>,
        #[graphql(desc = "The client.")] input: RegisterClientInput,
    ) -> Option<Result<ClientPayload, Error>> {
        Some(register_client(ctx, input).await)
    }

    /// Changes the name or the e-mail address of a client. Requires the scope `clients:write`. A token for one client can
    /// change that client.
    #[graphql(directive = cost::apply("20".into()))]
    async fn update_client(
        &self,
        ctx: &Context<'_>,
        #[graphql(desc = "The changes.")] input: UpdateClientInput,
    ) -> Option<Result<ClientPayload, Error>> {
        Some(update_client(ctx, input).await)
    }

    /// Erases the name and the e-mail address of a client everywhere, for ever: they are replaced in its row and in its history. Its
    /// orders and sums stay, and new orders and changes are refused. The address is free for another client. Requires the scope
    /// `clients:forget`. A token for one client can forget that client.
    #[graphql(directive = cost::apply("50".into()))]
    async fn forget_client(
        &self,
        ctx: &Context<'_>,
        #[graphql(desc = "The client.")] input: ForgetClientInput,
    ) -> Option<Result<ClientPayload, Error>> {
        Some(forget_client(ctx, input).await)
    }

    /// Creates a product. Without a SKU and an idempotency key, a repeated request creates a second product. Requires the scope
    /// `products:write`.
    #[graphql(directive = cost::apply("20".into()))]
    async fn create_product(
        &self,
        ctx: &Context<'_>,
        #[graphql(desc = "The product.")] input: CreateProductInput,
    ) -> Option<Result<ProductPayload, Error>> {
        Some(create_product(ctx, input).await)
    }

    /// Changes the name, the price or the SKU of a product, withdraws it, or offers it again. Existing orders keep their names and
    /// prices. Requires the scope `products:write`.
    #[graphql(directive = cost::apply("20".into()))]
    async fn update_product(
        &self,
        ctx: &Context<'_>,
        #[graphql(desc = "The changes.")] input: UpdateProductInput,
    ) -> Option<Result<ProductPayload, Error>> {
        Some(update_product(ctx, input).await)
    }

    /// Sends dead letters back to the queue, so that they are applied. Correct the reason before, or they come back. It can be repeated
    /// safely: an event is applied once. Requires the scope `system:write`, not with a token for one client.
    #[graphql(directive = cost::apply("100".into()))]
    async fn redrive_dead_letters(
        &self,
        ctx: &Context<'_>,
        #[graphql(desc = "The dead letters.")] input: RedriveDeadLettersInput,
    ) -> Option<Result<DeadLettersPayload, Error>> {
        Some(take_dead_letters(ctx, || input.into_command()).await)
    }

    /// Deletes dead letters. The event of a letter whose verdict is NEEDED is then missing in the read model until the sweep repairs it.
    /// Requires the scope `system:write`, not with a token for one client.
    #[graphql(directive = cost::apply("100".into()))]
    async fn discard_dead_letters(
        &self,
        ctx: &Context<'_>,
        #[graphql(desc = "The dead letters.")] input: DiscardDeadLettersInput,
    ) -> Option<Result<DeadLettersPayload, Error>> {
        Some(take_dead_letters(ctx, || input.into_command()).await)
    }
}

async fn place_order(
    ctx: &Context<'_>,
    input: PlaceOrderInput,
    mode: PlaceOrderMode,
) -> Result<PlaceOrderPayload, Error> {
    authorize_for(ctx, PLACE_ORDERS, [input.client_id.as_str()])?;
    let app = app(ctx);
    let request_id = (mode == PlaceOrderMode::Deferred).then(|| request_id(&input)).transpose()?;
    let command = input.into_command(origin(ctx));
    let outcome = match (request_id, &app.intake) {
        (None, _) => app.orders.place(command).await?,
        (Some(_), None) => return Err(Error::BadUserInput("This service does not accept `mode: DEFERRED`.".into())),
        (Some(id), Some(intake)) => {
            let is_database_up = app.store_health().await.database;
            match intake.place_or_accept(&app.orders, is_database_up, command).await? {
                Some(outcome) => outcome,
                None => {
                    let request = Some(OrderRequest::pending(id));
                    return Ok(PlaceOrderPayload { request, ..PlaceOrderPayload::default() });
                }
            }
        }
    };
    let (event, replayed) = match outcome {
        Outcome::Placed(event) => (event, false),
        Outcome::Replayed(event) => (event, true),
        Outcome::Rejected(rejections) => {
            let user_errors = user_errors(rejections, "clientId", app.currency);
            return Ok(PlaceOrderPayload { user_errors, ..PlaceOrderPayload::default() });
        }
    };
    let client_version = Some(event.version);
    let order = match replayed {
        true => current_order(app, event).await?,
        false => Order::of(StoredOrder::new(event), app.currency),
    };
    Ok(PlaceOrderPayload { order: Some(order), client_version, replayed, ..PlaceOrderPayload::default() })
}

/// The client and the key of an order.
fn request_id(input: &PlaceOrderInput) -> Result<ID, Error> {
    let needs_key = || Error::BadUserInput("`mode: DEFERRED` needs an `idempotencyKey`.".into());
    let key = input.idempotency_key.as_ref().ok_or_else(needs_key)?;
    Ok(format!("{}:{key}", *input.client_id).into())
}

async fn refund_order(
    ctx: &Context<'_>,
    scope: &'static str,
    id: &ID,
    kind: RefundKind,
    reason: String,
    idempotency_key: Option<String>,
) -> Result<OrderPayload, Error> {
    let only_client = only_client(authorize(ctx, scope)?);
    let (app, order_id, origin) = (app(ctx), parse_order_id(id), origin(ctx));
    let command = RefundOrder { order_id, only_client, kind, reason, idempotency_key, origin };
    Ok(match commands(ctx).refund_order(&command).await? {
        Ok(Done { row: RefundedOrder { order, client_version }, replayed }) => {
            let order = Some(Order::of(order, app.currency));
            OrderPayload { order, client_version: Some(client_version), replayed, user_errors: Vec::new() }
        }
        Err(rejections) => {
            let user_errors = user_errors(rejections, "clientId", app.currency);
            OrderPayload { order: None, client_version: None, replayed: false, user_errors }
        }
    })
}

async fn register_client(ctx: &Context<'_>, input: RegisterClientInput) -> Result<ClientPayload, Error> {
    authorize_for_all(ctx, WRITE_CLIENTS)?;
    let app = app(ctx);
    let RegisterClientInput { name, email, idempotency_key } = input;
    let registered = commands(ctx).register_client(&name, &email, idempotency_key.as_deref(), origin(ctx)).await?;
    Ok(match registered {
        Ok(Done { row, replayed: false }) => {
            let projected = authorize(ctx, READ_CLIENTS).map(|_| None); // it has no orders
            ClientPayload::new(row, false, projected, app.currency)
        }
        Ok(done) => changed_client(ctx, done).await,
        Err(rejections) => ClientPayload::rejected(user_errors(rejections, "id", app.currency)),
    })
}

async fn update_client(ctx: &Context<'_>, input: UpdateClientInput) -> Result<ClientPayload, Error> {
    authorize_for(ctx, WRITE_CLIENTS, [input.id.as_str()])?;
    let app = app(ctx);
    let UpdateClientInput { id, name, email, idempotency_key } = input;
    let (id, key) = (parse_id(&id), idempotency_key.as_deref());
    let updated = commands(ctx).update_client(id, name.as_deref(), email.as_deref(), key, origin(ctx)).await?;
    Ok(match updated {
        Ok(done) => changed_client(ctx, done).await,
        Err(rejections) => ClientPayload::rejected(user_errors(rejections, "id", app.currency)),
    })
}

async fn forget_client(ctx: &Context<'_>, input: ForgetClientInput) -> Result<ClientPayload, Error> {
    authorize_for(ctx, FORGET_CLIENTS, [input.id.as_str()])?;
    let app = app(ctx);
    let forgotten =
        commands(ctx).forget_client(parse_id(&input.id), input.idempotency_key.as_deref(), origin(ctx)).await?;
    Ok(match forgotten {
        Ok(done) => changed_client(ctx, done).await,
        Err(rejections) => ClientPayload::rejected(user_errors(rejections, "id", app.currency)),
    })
}

async fn changed_client(ctx: &Context<'_>, Done { row, replayed }: Done<client::Model>) -> ClientPayload {
    let projected = projected_client(ctx, row.id).await;
    ClientPayload::new(row, replayed, projected, app(ctx).currency)
}

async fn projected_client(ctx: &Context<'_>, id: i64) -> Result<Option<read_model::Client>, Error> {
    authorize(ctx, READ_CLIENTS)?;
    Ok(app(ctx).clients.by_ids(&[id]).await?.pop().flatten())
}

async fn create_product(ctx: &Context<'_>, input: CreateProductInput) -> Result<ProductPayload, Error> {
    authorize_for_all(ctx, WRITE_PRODUCTS)?;
    let (CreateProductInput { name, price, sku, available, idempotency_key }, app) = (input, app(ctx));
    let new = NewProduct { name, price: price.to_minor(app.currency), available: available.unwrap_or(true), sku };
    let created = commands(ctx).create_product(new, idempotency_key.as_deref(), origin(ctx)).await?;
    Ok(product_payload(ctx, created))
}

async fn update_product(ctx: &Context<'_>, input: UpdateProductInput) -> Result<ProductPayload, Error> {
    authorize_for_all(ctx, WRITE_PRODUCTS)?;
    let (UpdateProductInput { id, name, price, available, sku, idempotency_key }, app) = (input, app(ctx));
    let update = ProductUpdate { name, price: price.map(|price| price.to_minor(app.currency)), available, sku };
    let key = idempotency_key.as_deref();
    let updated = commands(ctx).update_product(parse_id(&id), update, key, origin(ctx)).await?;
    Ok(product_payload(ctx, updated))
}

async fn take_dead_letters(
    ctx: &Context<'_>,
    command: impl FnOnce() -> Result<Command, Error>,
) -> Result<DeadLettersPayload, Error> {
    authorize_for_all(ctx, WRITE_SYSTEM)?;
    Ok(DeadLettersPayload::of(app(ctx).system.take_dead_letters(command()?).await?))
}

fn product_payload(ctx: &Context<'_>, changed: Result<Done<product::Model>, Vec<Rejection>>) -> ProductPayload {
    let currency = app(ctx).currency;
    match changed {
        Ok(Done { row, replayed }) => ProductPayload {
            product_id: Some(row.id.into()),
            product: Some(authorize(ctx, READ_PRODUCTS).map(|_| Product::of_row(row, currency))),
            replayed,
            user_errors: Vec::new(),
        },
        Err(rejections) => {
            let user_errors = user_errors(rejections, "id", currency);
            ProductPayload { product_id: None, product: None, replayed: false, user_errors }
        }
    }
}
