//! The clients that ordered in a range of days.

use std::sync::Arc;

use async_graphql::{Context, Enum, Object, SimpleObject};
use iso_currency::Currency;

use super::client::Client;
use super::money::Money;
use crate::graphql::app;
use crate::graphql::arguments::page_size;
use crate::graphql::cost_directives::{list_size, names};
use crate::graphql::error::Error;
use crate::graphql::scalars::int;
use crate::orders::client_reports;

/// The default size of a ranking.
const TOP_CLIENTS: i32 = 10;

pub struct ClientReport(pub Arc<client_reports::ClientReport>);

/// The clients that ordered in a range of days. It counts the orders that were placed in the range. Other than in `sales`,
/// cancellations and refunds count for their order, whenever they are made.
#[Object]
impl ClientReport {
    /// The number of clients that placed an order in the range, also a cancelled one: `newClientCount` and `returningClientCount`
    /// together.
    async fn client_count(&self) -> i32 {
        int(self.0.clients)
    }

    /// The number of these clients whose very first order is in the range.
    async fn new_client_count(&self) -> i32 {
        int(self.0.new_clients)
    }

    /// The number of these clients that had ordered before the range.
    async fn returning_client_count(&self) -> i32 {
        int(self.0.clients - self.0.new_clients)
    }

    /// The clients that bought most in the range.
    #[graphql(directive = list_size::apply(None, names(&["first"]), None, Some(false)))]
    async fn top_clients(
        &self,
        ctx: &Context<'_>,
        #[graphql(desc = "The number of clients, from 1 to 100.", default_with = "Some(TOP_CLIENTS)")] first: Option<
            i32,
        >,
        #[graphql(desc = "The sort order.", default_with = "Some(ClientSalesSort::default())")] sort_by: Option<
            ClientSalesSort,
        >,
    ) -> Option<Result<Vec<ClientSales>, Error>> {
        Some(self.top(ctx, first, sort_by.unwrap_or_default()).await)
    }
}

impl ClientReport {
    async fn top(
        &self,
        ctx: &Context<'_>,
        first: Option<i32>,
        sort_by: ClientSalesSort,
    ) -> Result<Vec<ClientSales>, Error> {
        let (app, first) = (app(ctx), page_size(first, TOP_CLIENTS)?);
        let ranking = match sort_by {
            ClientSalesSort::NetDesc => &self.0.by_net,
            ClientSalesSort::OrderCountDesc => &self.0.by_orders,
        };
        let top = &ranking[..first.min(ranking.len())];
        let ids: Vec<i64> = top.iter().map(|sales| sales.client).collect();
        let clients = app.clients.by_ids(&ids).await?;
        // The read model may not have a client yet that has just placed its first order.
        let sales = top.iter().zip(clients).filter_map(|(sales, client)| Some((sales, client?)));
        Ok(sales.map(|(sales, client)| ClientSales::new(*sales, client, app.currency)).collect())
    }
}

/// The orders that a client placed in a range of days. Cancellations and refunds count for their order, whenever they are made.
#[derive(SimpleObject)]
pub struct ClientSales {
    /// The client, with the totals of all its orders.
    client: Client,
    /// The number of orders that the client placed in the range.
    order_count: i32,
    /// The number of these orders that are cancelled.
    cancelled_count: i32,
    /// The sum of these orders as they were placed.
    gross: Money,
    /// The sum of the cancellations and refunds of these orders.
    cancelled: Money,
    /// `gross` minus `cancelled`.
    net: Money,
}

impl ClientSales {
    fn new(
        client_reports::ClientSales { sales, .. }: client_reports::ClientSales,
        client: read_model::Client,
        currency: Currency,
    ) -> ClientSales {
        ClientSales {
            client: Client::new(client, currency),
            order_count: int(sales.gross.count),
            cancelled_count: int(sales.cancelled.count),
            gross: Money::new(sales.gross.revenue, currency),
            cancelled: Money::new(sales.cancelled.revenue, currency),
            net: Money::new(sales.net().revenue, currency),
        }
    }
}

/// The sort order of clients by their orders in a range.
#[derive(Clone, Copy, Default, PartialEq, Eq, Enum)]
pub enum ClientSalesSort {
    /// The highest `net` first.
    #[default]
    NetDesc,
    /// The most orders first.
    OrderCountDesc,
}
