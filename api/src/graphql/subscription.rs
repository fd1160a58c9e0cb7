use std::sync::Arc;

use async_graphql::{Context, ID, Subscription};
use futures::{Stream, StreamExt};

use super::types::client::Client;
use super::types::sales::SalesSnapshot;
use super::{app, authorize_for, authorize_for_all, parse_id};
use crate::edge::auth::{READ_CLIENTS, READ_SALES};
use crate::graphql::error::Error;
use crate::queries::live::Live;
use crate::queries::sales_snapshots::Snapshots;

pub struct Subscription;

/// What changes, as it changes. A stream ends when its token expires.
#[Subscription]
impl Subscription {
    /// A client now, and again after each change; nothing comes while it has no orders yet. Whoever reads slowly gets the
    /// newest state alone. Needs the scope `clients:read`.
    async fn client_changed(
        &self,
        ctx: &Context<'_>,
        #[graphql(desc = "The client's id.")] id: ID,
    ) -> Result<impl Stream<Item = Result<Client, Error>> + use<>, Error> {
        authorize_for(ctx, READ_CLIENTS, [id.as_str()])?;
        let currency = app(ctx).currency;
        let clients = ctx.data_unchecked::<Arc<Live>>().watch(parse_id(&id));
        Ok(clients.map(move |client| Ok(Client::new(client?, currency))))
    }

    /// What is sold, now and again after each change, at most four times a second. Whoever reads slowly gets the newest
    /// state alone. Needs the scope `sales:read`.
    async fn sales_changed(
        &self,
        ctx: &Context<'_>,
    ) -> Result<impl Stream<Item = Result<SalesSnapshot, Error>> + use<>, Error> {
        authorize_for_all(ctx, READ_SALES)?;
        let currency = app(ctx).currency;
        let snapshots = ctx.data_unchecked::<Arc<Snapshots>>().watch();
        Ok(snapshots.map(move |snapshot| Ok(SalesSnapshot::new(snapshot?, currency))))
    }
}
