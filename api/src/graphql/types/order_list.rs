use async_graphql::SimpleObject;
use entity::{Event, OrderPlaced};
use iso_currency::Currency;

use super::order::Order;
use super::page::PageInfo;
use crate::orders::lists::OrderPage;

/// A page of orders, newest first.
#[derive(SimpleObject)]
pub struct OrderConnection {
    /// The orders of the page, each with its cursor.
    edges: Vec<OrderEdge>,
    /// The orders of the page.
    nodes: Vec<Order>,
    /// The position of the page in the list.
    page_info: PageInfo,
}

/// An order and its cursor.
#[derive(SimpleObject)]
pub struct OrderEdge {
    /// The order.
    node: Order,
    /// The cursor for `after` of the same list.
    cursor: String,
}

impl OrderConnection {
    /// A page of the orders of all clients. Its cursors are ids of orders.
    pub fn of_all(page: OrderPage, currency: Currency) -> OrderConnection {
        OrderConnection::new(page, currency, |order| order.data.order_id.to_string())
    }

    /// A page of the orders of one client. Its cursors are versions of the client.
    pub fn of_client(page: OrderPage, currency: Currency) -> OrderConnection {
        OrderConnection::new(page, currency, |order| order.version.to_string())
    }

    fn new(page: OrderPage, currency: Currency, cursor: fn(&Event<OrderPlaced>) -> String) -> OrderConnection {
        let OrderPage { orders, has_previous_page, has_next_page } = page;
        let page_info = PageInfo {
            has_previous_page,
            has_next_page,
            start_cursor: orders.first().map(cursor),
            end_cursor: orders.last().map(cursor),
        };
        let edge = |order: Event<OrderPlaced>| {
            let cursor = cursor(&order);
            OrderEdge { node: Order::new(order.data, order.time, currency), cursor }
        };
        let edges: Vec<OrderEdge> = orders.into_iter().map(edge).collect();
        OrderConnection { nodes: edges.iter().map(|edge| edge.node.clone()).collect(), edges, page_info }
    }
}
