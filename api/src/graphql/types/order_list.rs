use async_graphql::{Object, SimpleObject};
use entity::{Event, OrderPlaced};
use iso_currency::Currency;

use super::order::Order;
use super::page::PageInfo;
use crate::orders::lists::OrderPage;

pub struct OrderConnection {
    page: OrderPage,
    currency: Currency,
    cursor: fn(&Event<OrderPlaced>) -> String,
}

impl OrderConnection {
    /// A page of the orders of all clients. Its cursors are ids of orders.
    pub fn of_all(page: OrderPage, currency: Currency) -> OrderConnection {
        OrderConnection { page, currency, cursor: |order| order.data.order_id.to_string() }
    }

    /// A page of the orders of one client. Its cursors are versions of the client.
    pub fn of_client(page: OrderPage, currency: Currency) -> OrderConnection {
        OrderConnection { page, currency, cursor: |order| order.version.to_string() }
    }

    fn order(&self, order: &Event<OrderPlaced>) -> Order {
        Order::new(order.data.clone(), order.time, self.currency)
    }
}

/// A page of orders, newest first.
#[Object]
impl OrderConnection {
    /// The orders of the page, each with its cursor.
    async fn edges(&self) -> Vec<OrderEdge> {
        let orders = self.page.orders.iter();
        orders.map(|order| OrderEdge { node: self.order(order), cursor: (self.cursor)(order) }).collect()
    }

    /// The orders of the page.
    async fn nodes(&self) -> Vec<Order> {
        self.page.orders.iter().map(|order| self.order(order)).collect()
    }

    /// The position of the page in the list.
    async fn page_info(&self) -> PageInfo {
        let OrderPage { orders, has_previous_page, has_next_page } = &self.page;
        PageInfo {
            has_previous_page: *has_previous_page,
            has_next_page: *has_next_page,
            start_cursor: orders.first().map(self.cursor),
            end_cursor: orders.last().map(self.cursor),
        }
    }
}

/// An order and its cursor.
#[derive(SimpleObject)]
pub struct OrderEdge {
    /// The order.
    node: Order,
    /// The cursor for `after` of the same list.
    cursor: String,
}
