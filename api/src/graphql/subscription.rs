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

pub struct Subscription;

/// Changes as they happen. A subscription ends when the token expires.
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
        Ok(Either::Right(app.live_clients.watch(id).map(move |client| Ok(Client::new(client?, currency)))))
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
        Ok(app.sales_snapshots.watch().map(move |snapshot| Ok(SalesSnapshot::new(snapshot?, currency))))
    }
}
