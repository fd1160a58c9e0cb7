use async_graphql::{Object, SimpleObject};
use entity::order;
use iso_currency::Currency;
use uuid::Uuid;

use super::order::Order;
use super::page::PageInfo;
use crate::orders::lists::OrderPage;

/// The cursors are ids of orders.
pub struct OrderConnection {
    page: OrderPage,
    currency: Currency,
}

impl OrderConnection {
    pub fn new(page: OrderPage, currency: Currency) -> OrderConnection {
        OrderConnection { page, currency }
    }

    fn order(&self, order: &order::Model) -> Order {
        Order::new(order, self.currency)
    }
}

fn cursor(order: Uuid) -> String {
    order.to_string()
}

/// A page of orders, newest first.
#[Object]
impl OrderConnection {
    /// The orders of the page, each with its cursor.
    async fn edges(&self) -> Vec<OrderEdge> {
        let orders = self.page.orders.iter();
        orders.map(|order| OrderEdge { node: self.order(order), cursor: cursor(order.id) }).collect()
    }

    /// The orders of the page.
    async fn nodes(&self) -> Vec<Order> {
        self.page.orders.iter().map(|order| self.order(order)).collect()
    }

    /// The position of the page in the list.
    async fn page_info(&self) -> PageInfo {
        let OrderPage { orders, has_previous_page, has_next_page, end } = &self.page;
        PageInfo {
            has_previous_page: *has_previous_page,
            has_next_page: *has_next_page,
            start_cursor: orders.first().map(|order| cursor(order.id)),
            end_cursor: end.map(cursor),
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
