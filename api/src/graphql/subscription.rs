use async_graphql::{Context, ID, Subscription};
use futures::future::Either;
use futures::{Stream, StreamExt, stream};

use super::app;
use super::arguments::parse_id;
use super::authorize::{authorize_for, authorize_for_all};
use super::error::Error;
use super::types::client::Client;
use super::types::sales::SalesSnapshot;
use crate::edge::auth::{READ_CLIENTS, READ_SALES};
use crate::edge::deliveries::Deliveries;

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
