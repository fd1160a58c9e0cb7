//! The sums of orders and of refunds, as statements.

use sea_orm::entity::prelude::*;
use sea_orm::sea_query::ExprTrait;
use sea_orm::{FromQueryResult, QuerySelect, SelectModel, Selector};

use crate::{order, order_refund};

/// The sums of orders of a client. Amounts are in minor units.
#[derive(Clone, Debug, PartialEq, Eq, FromQueryResult)]
pub struct SumsOfOrders {
    pub client_id: i64,
    pub orders: i64,
    pub total: i64,
    /// The number of cancelled ones.
    pub cancelled: i64,
    /// All of their refunds and cancellations.
    pub refunded: i64,
    pub last_purchase: Option<DateTimeUtc>,
}

/// The sum of refunds and cancellations.
#[derive(Clone, Debug, Default, PartialEq, Eq, FromQueryResult)]
pub struct SumOfRefunds {
    /// The number of cancellations.
    pub cancelled: i64,
    /// Minor units.
    pub refunded: i64,
}

/// The sums of the orders that meet a condition: a row for each of their clients.
pub fn sums_of_orders(condition: Expr) -> Selector<SelectModel<SumsOfOrders>> {
    use order::Column;
    order::Entity::find()
        .select_only()
        .column(Column::ClientId)
        .column_as(Column::Id.count(), "orders")
        .column_as(Column::Total.sum().cast_as("bigint"), "total")
        .column_as(Column::CancelledAt.count(), "cancelled")
        .column_as(Column::Refunded.sum().cast_as("bigint"), "refunded")
        .column_as(Column::PlacedAt.max(), "last_purchase")
        .filter(condition)
        .group_by(Column::ClientId)
        .into_model()
}

/// The sum of the refunds and cancellations that meet a condition: one row.
pub fn sum_of_refunds(condition: Expr) -> Selector<SelectModel<SumOfRefunds>> {
    order_refund::Entity::find()
        .select_only()
        .column_as(Expr::cust("CAST(COALESCE(SUM(CASE WHEN cancels THEN 1 ELSE 0 END), 0) AS bigint)"), "cancelled")
        .column_as(Expr::cust("CAST(COALESCE(SUM(amount), 0) AS bigint)"), "refunded")
        .filter(condition)
        .into_model()
}
