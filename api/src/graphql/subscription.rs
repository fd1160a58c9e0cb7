use std::sync::Arc;

use async_graphql::{Context, ID, Subscription};
use entity::order;
use futures::future::{Either, ready};
use futures::{Stream, StreamExt, stream};

use super::app;
use super::arguments::parse_id;
use super::authorize::{authorize_for, authorize_for_all};
use super::error::Error;
use super::query::orders;
use super::types::client::Client;
use super::types::order::Order;
use super::types::sales::SalesSnapshot;
use crate::edge::auth::{READ_CLIENTS, READ_SALES};
use crate::edge::deliveries::Deliveries;
use crate::orders::by_id::OrdersById;

pub struct Subscription;

/// Changes as they happen. A subscription ends when the token expires. Each result costs as much as a query with the same
/// fields: a caller that has spent its rate limit skips states, and gets the newest one later.
#[Subscription]
impl Subscription {
    /// The current state of a client, and its state after each change. Nothing is sent while queries do not have the client.
    /// A slow consumer only receives the newest state. Requires the scope `clients:read`.
    async fn client_changed(
        &self,
        ctx: &Context<'_>,
        #[graphql(desc = "The id of the client.")] id: ID,
    ) -> Result<impl Stream<Item = Result<Client, Error>> + use<>, Error> {
        authorize_for(ctx, READ_CLIENTS, [id.as_str()])?;
        let app = app(ctx);
        let Some(id) = parse_id(&id) else { return Ok(Either::Left(stream::pending())) };
        let currency = app.currency;
        let states = deliveries(ctx).paid(app.live_clients.watch(id));
        Ok(Either::Right(states.map(move |client| Ok(Client::new(client?, currency)))))
    }

    /// The current state of an order, and its state after each change. It is for a page that waits for its order. Each change of the
    /// client costs as much as a query with the same fields, because the order is read again. Nothing is sent if there is no such
    /// order, or a token for one client asks for an order of another. Requires the scope `orders:read`.
    async fn order_changed(
        &self,
        ctx: &Context<'_>,
        #[graphql(desc = "The id of the order.")] id: ID,
    ) -> Result<impl Stream<Item = Result<Order, Error>> + use<>, Error> {
        let Some(order) = orders::by_id(ctx, &id).await? else { return Ok(Either::Left(stream::pending())) };
        let app = app(ctx);
        let currency = app.currency;
        let changes = deliveries(ctx).paid(app.live_clients.watch(order.client_id));
        let states = order_states(app.orders_by_id.clone(), order, changes);
        Ok(Either::Right(states.map(move |order| order.map(|order| Order::new(&order, currency)))))
    }

    /// The current sales, and the sales after each change, at most four times a second. A slow consumer only receives the
    /// newest state. Requires the scope `sales:read`.
    async fn sales_changed(
        &self,
        ctx: &Context<'_>,
    ) -> Result<impl Stream<Item = Result<SalesSnapshot, Error>> + use<>, Error> {
        authorize_for_all(ctx, READ_SALES)?;
        let app = app(ctx);
        let currency = app.currency;
        let states = deliveries(ctx).paid(app.sales_snapshots.watch());
        Ok(states.map(move |snapshot| Ok(SalesSnapshot::new(snapshot?, currency))))
    }
}

fn deliveries(ctx: &Context<'_>) -> Deliveries {
    ctx.data_unchecked::<Deliveries>().clone()
}

/// An order now, and after each change of its client that has changed the order. An error is the last item. Many may watch one order, so
/// they share the rows that they keep.
fn order_states(
    orders: Arc<OrdersById>,
    order: Arc<order::Model>,
    changes: impl Stream<Item = Result<read_model::Client, read_model::Error>> + Send,
) -> impl Stream<Item = Result<Arc<order::Model>, Error>> + Send {
    let id = order.id;
    let now = stream::iter([Ok(Some(order))]);
    let later = changes.then(move |change| {
        let orders = orders.clone();
        async move {
            change?;
            Ok(orders.read(id, None).await??)
        }
    });
    let mut last = None;
    let changed = now.chain(later).filter_map(move |state: Result<_, Error>| {
        let state = state.transpose().filter(|state| state.as_ref().ok() != last.as_ref());
        if let Some(Ok(order)) = &state {
            last = Some(order.clone());
        }
        ready(state)
    });
    changed.scan(false, |has_failed, state| {
        let has_ended = std::mem::replace(has_failed, state.is_err());
        ready((!has_ended).then_some(state))
    })
}
